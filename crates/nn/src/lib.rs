//! Decoders over structured weights: Hugging Face checkpoints, tokenizers, generation, perplexity.
