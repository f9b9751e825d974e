//! The `sparseland` section of `config.json`, which names every structured layer, and reading such
//! layers from a checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparseland_data::{DType, TensorSource, TensorSpec};
use sparseland_matrix::{Layout, Matrix, MatrixError, Part, PartType};

use crate::NnError;

/// The key in `config.json`.
const KEY: &str = "sparseland";

/// The version this program writes and reads.
const VERSION: u32 = 1;

/// Which layers are structured, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Structure {
    /// Version of this section's form.
    pub version: u32,
    /// By full layer name, `model.layers.0.self_attn.q_proj`.
    pub layers: BTreeMap<String, StructuredLayer>,
}

/// One structured layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StructuredLayer {
    /// The method that made it.
    pub method: String,
    /// Its structure.
    pub layout: Layout,
}

impl Default for Structure {
    fn default() -> Self {
        Self { version: VERSION, layers: BTreeMap::new() }
    }
}

impl Structure {
    /// Reads the section; a configuration without one has no structured layers.
    ///
    /// # Errors
    /// If the section is malformed or of another version.
    pub fn read(config: &Map<String, Value>) -> Result<Self, NnError> {
        let Some(section) = config.get(KEY) else { return Ok(Self::default()) };
        if let Some(version) = section.get("version").and_then(Value::as_u64)
            && version != u64::from(VERSION)
        {
            return Err(NnError::Config(format!(
                "`{KEY}` has version {version}; this program reads {VERSION}"
            )));
        }
        serde_json::from_value(section.clone()).map_err(|e| NnError::Config(format!("`{KEY}`: {e}")))
    }

    /// Writes the section; without structured layers it is left out.
    pub fn write(&self, config: &mut Map<String, Value>) {
        config.shift_remove(KEY);
        if !self.layers.is_empty() {
            let section = serde_json::to_value(self).expect("plain data serialises");
            config.insert(KEY.to_owned(), section);
        }
    }
}

/// The tensor that a part becomes in a file.
pub fn part_spec(part: &Part) -> TensorSpec {
    let dtype = match part.kind {
        PartType::F32 => DType::F32,
        PartType::Bf16 => DType::BF16,
        PartType::F16 => DType::F16,
        PartType::I8 => DType::I8,
        PartType::U8 => DType::U8,
        PartType::U16 => DType::U16,
        PartType::U32 => DType::U32,
    };
    TensorSpec::new(part.name.as_str(), dtype, part.shape.clone())
}

/// Reads the matrix of layer `name` from its parts.
///
/// # Errors
/// If a part is missing, of another type or shape, damaged, or holds NaN or infinity.
pub fn read_matrix(
    source: &(impl TensorSource + ?Sized),
    name: &str,
    layout: &Layout,
) -> Result<Matrix, NnError> {
    let mut read = |part: &str| -> Result<Option<Part>, MatrixError> {
        let Some(info) = source.find(part) else { return Ok(None) };
        let kind = match info.dtype {
            DType::F32 => PartType::F32,
            DType::BF16 => PartType::Bf16,
            DType::F16 => PartType::F16,
            DType::I8 => PartType::I8,
            DType::U8 => PartType::U8,
            DType::U16 => PartType::U16,
            DType::U32 => PartType::U32,
            other => {
                return Err(MatrixError::Read(format!(
                    "tensor `{part}` has type {other:?}, which no layer uses"
                )));
            }
        };
        let shape = info.shape.clone();
        let wrap = |e: sparseland_data::DataError| MatrixError::Read(e.to_string());
        if matches!(kind, PartType::F32 | PartType::Bf16 | PartType::F16) {
            check_finite(source, part).map_err(wrap)?;
        }
        Ok(Some(Part { name: part.to_owned(), kind, shape, bytes: source.read(part).map_err(wrap)? }))
    };
    Ok(Matrix::from_parts(name, layout, &mut read)?)
}

/// Refuses NaN and infinity, naming the tensor and the first bad index.
fn check_finite(source: &(impl TensorSource + ?Sized), name: &str) -> Result<(), sparseland_data::DataError> {
    source.read_f32_finite(name).map(|_| ())
}
