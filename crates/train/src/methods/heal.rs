//! Healing: light fine-tuning of a compressed checkpoint with its structure fixed. Only the values of structured layers
//! train (dictionaries, coefficients, kept entries); masks, ranks and everything dense stay as they are.
//!
//! ROCKET's authors report most of the lost quality back after a short run of this kind. The structure of the result is
//! that of the input, to the bit.
//!
//! When not to use it: on text unlike what the model was trained on, which it will learn to prefer.

use sparseland_data::Checkpoint;
use sparseland_nn::{NnError, TrainableDecoder};
use sparseland_tape::weight::FixedStructure;

/// What is fine-tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trains {
    /// The values of structured layers: healing, and WeLore's fine-tuning of low-rank layers alone.
    #[default]
    Structured,
    /// The linear layers that stayed dense.
    Dense,
    /// Everything, embeddings and norms included.
    All,
}

/// The model of a compressed checkpoint, of which only `trains` is trained.
///
/// # Errors
/// If the checkpoint cannot be read, or nothing in it trains.
pub fn model(checkpoint: &Checkpoint, trains: Trains) -> Result<TrainableDecoder<f32>, NnError> {
    let mut model = TrainableDecoder::from_checkpoint(checkpoint, |parameters, name, matrix| {
        Ok(Box::new(FixedStructure::new(parameters, name, matrix)?))
    })?;
    if trains == Trains::All {
        return Ok(model);
    }
    let wanted = |method: &str| (method == "dense") == (trains == Trains::Dense);
    let chosen: Vec<_> =
        model.linears().filter(|l| wanted(&l.method)).flat_map(|l| l.weight.parameters()).collect();
    if chosen.is_empty() {
        let what = if trains == Trains::Dense { "dense" } else { "structured" };
        return Err(NnError::Setting(format!(
            "{} has no {what} layer to train; compress it first, or fine-tune it with --train all",
            checkpoint.dir().display()
        )));
    }
    for id in model.parameters.ids().collect::<Vec<_>>() {
        model.parameters.get_mut(id).trains = chosen.contains(&id);
    }
    Ok(model)
}
