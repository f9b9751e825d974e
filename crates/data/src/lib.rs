//! File formats in and out: safetensors checkpoints in Hugging Face layout, texts.
