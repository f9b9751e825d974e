//! Writing a checkpoint in which some layers' weights are replaced.

use std::collections::BTreeMap;
use std::path::Path;

use sparseland_data::{
    Checkpoint, CheckpointOptions, CheckpointWriter, TensorSource, TensorSpec, WrittenCheckpoint,
};
use sparseland_nn::structure::Structure;

use crate::CompressError;

/// The tensors that stand for the weight of a layer, by the layer's full name.
pub(crate) type Replacements = BTreeMap<String, Vec<(TensorSpec, Vec<u8>)>>;

/// Writes `checkpoint` to `out`: the weights named in `replacements` as the tensors there, everything else unchanged,
/// and `structure` into its configuration.
///
/// # Errors
/// If writing fails; nothing half-written remains visible.
pub(crate) fn write(
    checkpoint: &Checkpoint,
    structure: &Structure,
    replacements: &Replacements,
    out: &Path,
) -> Result<WrittenCheckpoint, CompressError> {
    let replaced = |tensor: &str| tensor.strip_suffix(".weight").and_then(|layer| replacements.get(layer));
    let mut specs: Vec<TensorSpec> = Vec::new();
    for name in checkpoint.names() {
        match replaced(name) {
            Some(parts) => specs.extend(parts.iter().map(|(spec, _)| spec.clone())),
            None => {
                let info = checkpoint.info(name)?;
                specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
            }
        }
    }
    let mut writer = CheckpointWriter::create(out, &specs, &CheckpointOptions::default())?;
    for name in checkpoint.names() {
        match replaced(name) {
            Some(parts) => {
                for (spec, bytes) in parts {
                    writer.write(&spec.name, bytes)?;
                }
            }
            None => writer.copy(checkpoint, name)?,
        }
    }
    writer.add_files_of(checkpoint)?;
    let mut config = checkpoint.config().clone();
    structure.write(&mut config);
    Ok(writer.finish(&config)?)
}
