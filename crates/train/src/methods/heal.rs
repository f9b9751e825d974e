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

/// The model of a compressed checkpoint, of which only structured layers train.
///
/// # Errors
/// If the checkpoint cannot be read, or has no structured layer.
pub fn model(checkpoint: &Checkpoint) -> Result<TrainableDecoder<f32>, NnError> {
    let mut model = TrainableDecoder::from_checkpoint(checkpoint, |parameters, name, matrix| {
        Ok(Box::new(FixedStructure::new(parameters, name, matrix)?))
    })?;
    let structured: Vec<_> =
        model.linears().filter(|l| l.method != "dense").flat_map(|l| l.weight.parameters()).collect();
    if structured.is_empty() {
        return Err(NnError::Setting(format!(
            "{} has no structured layer to heal; compress it first, or fine-tune it with `train lm`",
            checkpoint.dir().display()
        )));
    }
    for id in model.parameters.ids().collect::<Vec<_>>() {
        model.parameters.get_mut(id).trains = structured.contains(&id);
    }
    Ok(model)
}
