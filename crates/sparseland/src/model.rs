//! What the commands share around a model: opening one, measuring its quality and speed, exporting.

use std::path::Path;

use anyhow::Result;
use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, CheckpointOptions, CheckpointWriter, DType, TensorSource, TensorSpec};
use sparseland_eval::lm::LanguageModelScore;
use sparseland_eval::statistics::median;
use sparseland_matrix::{Dense, LinearMap, Matrix, ValueType};
use sparseland_nn::structure::Structure;
use sparseland_nn::{Convention, Decoder, KvCache, ModelConfig, Tokenizer, score};

use crate::{bundled, interchange};

/// Tokens fed before, and generated during, each timed decode.
const DECODE: (usize, usize) = (32, 64);

/// Timed decodes; their median counts.
const DECODE_RUNS: usize = 5;

/// Longest window for measuring quality.
const WINDOW: usize = 256;

/// Opens the model of a path or hub name, or the bundled one.
pub fn open(model: Option<&Path>) -> Result<(Checkpoint, String)> {
    match model {
        None => Ok((bundled::checkpoint()?, bundled::NAME.to_owned())),
        Some(path) => {
            let name = path.display().to_string();
            let dir = sparseland_data::resolve_model(&name, hub_cache().as_deref())?;
            let checkpoint = Checkpoint::open(dir)?;
            interchange::check_input(&checkpoint)?;
            Ok((checkpoint, name))
        }
    }
}

/// Where Hugging Face tools keep downloads, by their own rules.
fn hub_cache() -> Option<std::path::PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    var("HF_HUB_CACHE")
        .or_else(|| var("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// Quality and speed of a model.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Bits per byte of the evaluation text.
    pub bits_per_byte: f64,
    /// Median decode speed at batch 1; absent where only quality was measured.
    pub decode_tokens_per_second: Option<f64>,
}

/// Quality and decode speed.
pub fn measure(checkpoint: &Checkpoint, text: &[String], stage: &str, context: &Context) -> Result<Measured> {
    let decoder = Decoder::load(checkpoint, context)?;
    let quality = bits_per_byte(&decoder, checkpoint, text, stage, context)?;
    let speed = decode_speed(&decoder, DECODE, DECODE_RUNS, context)?;
    Ok(Measured { bits_per_byte: quality, decode_tokens_per_second: Some(speed) })
}

/// Quality alone.
pub fn quality(checkpoint: &Checkpoint, text: &[String], stage: &str, context: &Context) -> Result<Measured> {
    let decoder = Decoder::load(checkpoint, context)?;
    let bits_per_byte = bits_per_byte(&decoder, checkpoint, text, stage, context)?;
    Ok(Measured { bits_per_byte, decode_tokens_per_second: None })
}

fn bits_per_byte(
    decoder: &Decoder,
    checkpoint: &Checkpoint,
    text: &[String],
    stage: &str,
    context: &Context,
) -> Result<f64> {
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    context.report(Event::Stage { name: stage, total: 0 });
    let length = WINDOW.min(decoder.config().max_position_embeddings);
    let score: LanguageModelScore =
        score(decoder, &tokenizer, text, Convention::Rolling { length }, context)?;
    score
        .bits_per_byte()
        .ok_or_else(|| anyhow::anyhow!("the evaluation text is empty; give one with --text FILE"))
}

/// Median decode speed in tokens per second at batch 1, greedy, over `runs` runs.
pub fn decode_speed(
    decoder: &Decoder,
    (prompt, tokens): (usize, usize),
    runs: usize,
    context: &Context,
) -> Result<f64> {
    context.install(|| {
        let vocabulary = decoder.config().vocab_size;
        // Any tokens do: speed does not depend on which.
        let prompt: Vec<u32> = (0..prompt).map(|i| ((i * 7919 + 13) % vocabulary) as u32).collect();
        let mut speeds = Vec::with_capacity(runs);
        for _ in 0..runs {
            let mut cache = KvCache::new(decoder.config(), prompt.len() + tokens);
            decoder.prefill(&prompt, &mut cache)?;
            let mut token = prompt[0];
            let began = std::time::Instant::now();
            for _ in 0..tokens {
                let logits = decoder.forward_one(token, &mut cache)?;
                let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |b| b.0);
                token = best as u32;
            }
            speeds.push(tokens as f64 / began.elapsed().as_secs_f64());
        }
        Ok(median(&speeds).unwrap_or(0.0))
    })
}

/// Writes a checkpoint whose structured layers are ordinary dense weights, which any Hugging Face
/// loader opens.
pub fn export_dense(from: &Path, to: &Path, context: &Context) -> Result<()> {
    let checkpoint = Checkpoint::open(from)?;
    let structure = Structure::read(checkpoint.config())?;
    let config = ModelConfig::from_checkpoint(&checkpoint)?;
    let part_of = |tensor: &str| {
        structure.layers.keys().find(|layer| {
            tensor.strip_prefix(layer.as_str()).is_some_and(|rest| rest.starts_with('.') && rest != ".bias")
        })
    };
    let dtype = match config.dtype {
        ValueType::Bf16 => DType::BF16,
        ValueType::F16 => DType::F16,
        ValueType::F32 | ValueType::I8 => DType::F32,
    };
    let mut specs: Vec<TensorSpec> = Vec::new();
    for name in checkpoint.names().into_iter().filter(|name| part_of(name).is_none()) {
        let info = checkpoint.info(name)?;
        specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
    }
    for (name, layer) in &structure.layers {
        let shape = vec![layer.layout.rows(), layer.layout.cols()];
        specs.push(TensorSpec::new(format!("{name}.weight"), dtype, shape));
    }
    let mut writer = CheckpointWriter::create(to, &specs, &CheckpointOptions::default())?;
    for name in checkpoint.names().into_iter().filter(|name| part_of(name).is_none()) {
        writer.copy(&checkpoint, name)?;
    }
    context.report(Event::Stage { name: "exporting", total: structure.layers.len() });
    for (done, name) in structure.layers.keys().enumerate() {
        let Some(matrix) = structure.read_layer(&checkpoint, name)? else { continue };
        let values = if config.dtype == ValueType::I8 { ValueType::F32 } else { config.dtype };
        let dense = Dense::from_f32(matrix.rows(), matrix.cols(), &matrix.to_dense(), values);
        let part = Matrix::from(dense).parts(name).remove(0);
        writer.write(&part.name, &part.bytes)?;
        context.report(Event::Step { done: done + 1, message: "" });
    }
    writer.add_files_of(&checkpoint)?;
    let mut json = checkpoint.config().clone();
    Structure::default().write(&mut json);
    writer.finish(&json)?;
    Ok(())
}
