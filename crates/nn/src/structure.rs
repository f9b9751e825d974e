//! The `sparseland` section of `config.json`, which names every structured layer and the factors that layers share, and
//! reading such layers from a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparseland_data::{DType, TensorSource, TensorSpec};
use sparseland_matrix::{Layout, LinearMap, Matrix, MatrixError, Part, PartType, Product};

use crate::{InputRule, LinearSite, ModelConfig, NnError};

/// The key in `config.json`.
const KEY: &str = "sparseland";

/// The head's name in a checkpoint, without `.weight`.
pub(crate) const HEAD: &str = "lm_head";

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
    /// Factors that the file stores once for several layers: `LAYER.factor_b` of a layer that does not store its own
    /// names the one of the layer that does. No chains.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared: BTreeMap<String, String>,
}

/// One structured layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StructuredLayer {
    /// The method that made it.
    pub method: String,
    /// Its structure.
    pub layout: Layout,
    /// Which inputs it reads; all without a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<InputRule>,
}

impl Default for Structure {
    fn default() -> Self {
        Self { version: VERSION, layers: BTreeMap::new(), shared: BTreeMap::new() }
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

    /// Refuses layers that the model does not have: their structure would be ignored silently.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<(), NnError> {
        let known = |name: &str| {
            let Some((layer, _)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
            else {
                return name == HEAD && !config.tie_word_embeddings;
            };
            let layer = layer.parse().ok().filter(|&layer| layer < config.num_hidden_layers);
            layer.is_some_and(|layer| LinearSite::ALL.iter().any(|site| site.full_name(layer) == name))
        };
        match self.layers.keys().find(|name| !known(name)) {
            None => self.check_shared(),
            Some(name) => {
                Err(NnError::Config(format!("`{KEY}` names the layer {name}, which the model lacks")))
            }
        }
    }

    /// Refuses sharing between factors that do not exist, differ in layout or are shared themselves.
    fn check_shared(&self) -> Result<(), NnError> {
        for (own, of) in &self.shared {
            let fail = |what: &str| Err(NnError::Config(format!("`{KEY}` stores {own} as {of}, {what}")));
            let (Some(mine), Some(theirs)) = (self.factor(own), self.factor(of)) else {
                return fail("but not both are factors of a structured layer");
            };
            if mine != theirs {
                return fail("which has another shape or type");
            }
            if self.shared.contains_key(of) {
                return fail("which is not stored either");
            }
        }
        Ok(())
    }

    /// The layout of a factor by its name in the file.
    fn factor(&self, name: &str) -> Option<&Layout> {
        let (layer, _) = name.rsplit_once('.')?;
        let layout = &self.layers.get(layer)?.layout;
        factor_names(layer, layout).into_iter().flatten().find(|(n, _)| n == name).map(|(_, layout)| layout)
    }

    /// The tensor that holds a part: another layer's where the part is stored once for both.
    fn stored_name<'a>(&self, part: &'a str) -> Cow<'a, str> {
        if let Some(of) = self.shared.get(part) {
            return Cow::Owned(of.clone());
        }
        // Parts of a factor (values, scales, indices) follow it.
        match part.rsplit_once('.').and_then(|(factor, rest)| Some((self.shared.get(factor)?, rest))) {
            Some((of, rest)) => Cow::Owned(format!("{of}.{rest}")),
            None => Cow::Borrowed(part),
        }
    }

    /// Reads the matrix of a structured layer; `None` if the layer is dense.
    ///
    /// # Errors
    /// As [`read_matrix`].
    pub fn read_layer(
        &self,
        source: &(impl TensorSource + ?Sized),
        name: &str,
    ) -> Result<Option<Matrix>, NnError> {
        let Some(layer) = self.layers.get(name) else { return Ok(None) };
        read_parts(source, name, &layer.layout, &|part| self.stored_name(part)).map(Some)
    }

    /// The parts of a layer's matrix that are stored under its own name.
    pub fn own_parts(&self, name: &str, matrix: &Matrix) -> Vec<Part> {
        let mut parts = matrix.parts(name);
        parts.retain(|part| self.stored_name(&part.name) == part.name.as_str());
        parts
    }

    /// The layers that share factors of a layer with it, and the bytes and parameters that it does not store.
    pub fn shared_of(&self, name: &str) -> (Vec<&str>, u64, u64) {
        let Some(layer) = self.layers.get(name) else { return Default::default() };
        let mut found: (Vec<&str>, u64, u64) = Default::default();
        for (factor, layout) in factor_names(name, &layer.layout).into_iter().flatten() {
            if let Some(of) = self.shared.get(&factor) {
                found.0.extend(of.rsplit_once('.').map(|(layer, _)| layer));
                found.1 += layout.stored_bytes();
                found.2 += layout.parameters();
            }
        }
        found
    }

    /// Lets the layer's factors that the file stores once be one in memory, too: `seen` holds those of the layers before.
    pub(crate) fn unite(&self, name: &str, matrix: &mut Matrix, seen: &mut BTreeMap<String, Arc<Matrix>>) {
        if self.shared.is_empty() {
            return;
        }
        let Matrix::Product(product) = &*matrix else { return };
        let layout = product.layout();
        let names = factor_names(name, &layout).expect("a product has two factors");
        let [left, right] = [0, 1].map(|i| {
            let stored = self.stored_name(&names[i].0).into_owned();
            seen.entry(stored).or_insert_with(|| Arc::clone(product.factors()[i])).clone()
        });
        *matrix = Product::of_shared(left, right).into();
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

/// The factors of a layer with their layouts.
fn factor_names<'a>(layer: &str, layout: &'a Layout) -> Option<[(String, &'a Layout); 2]> {
    let Layout::Product { left, right } = layout else { return None };
    let [a, b] = layout.factor_names()?;
    Some([(format!("{layer}.{a}"), left), (format!("{layer}.{b}"), right)])
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
    read_parts(source, name, layout, &|part| Cow::Borrowed(part))
}

/// [`read_matrix`] with another name for some parts.
fn read_parts(
    source: &(impl TensorSource + ?Sized),
    name: &str,
    layout: &Layout,
    stored_name: &dyn for<'a> Fn(&'a str) -> Cow<'a, str>,
) -> Result<Matrix, NnError> {
    let mut read = |part: &str| -> Result<Option<Part>, MatrixError> {
        let stored = stored_name(part);
        let part = &*stored;
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
        let bytes = source.read(part).map_err(wrap)?;
        if !all_finite(kind, &bytes) {
            // The slow reader makes the error that names the index.
            source.read_f32_finite(part).map_err(wrap)?;
        }
        Ok(Some(Part { name: part.to_owned(), kind, shape, bytes }))
    };
    Ok(Matrix::from_parts(name, layout, &mut read)?)
}

/// Whether little-endian floats have no NaN or infinity among them; integers never do.
fn all_finite(kind: PartType, bytes: &[u8]) -> bool {
    /// Infinity and NaN have every exponent bit set.
    const fn special(bits: u32, exponent: u32) -> bool {
        bits & exponent == exponent
    }
    let halves = |exponent| {
        bytes.chunks_exact(2).all(|b| !special(u32::from(u16::from_le_bytes([b[0], b[1]])), exponent))
    };
    match kind {
        PartType::F32 => {
            bytes.chunks_exact(4).all(|b| !special(u32::from_le_bytes([b[0], b[1], b[2], b[3]]), 0x7f80_0000))
        }
        PartType::Bf16 => halves(0x7f80),
        PartType::F16 => halves(0x7c00),
        PartType::I8 | PartType::U8 | PartType::U16 | PartType::U32 => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparseland_matrix::ValueType;

    fn section() -> (Structure, Map<String, Value>) {
        let dense = |rows, cols| Box::new(Layout::Dense { rows, cols, values: ValueType::Bf16 });
        let layout = Layout::Product { left: dense(8, 2), right: dense(2, 8) };
        let mut structure = Structure::default();
        let layer = StructuredLayer { method: "svd".into(), layout, inputs: None };
        structure.layers.insert("model.layers.1.self_attn.q_proj".into(), layer);
        let mut config = Map::new();
        config.insert("model_type".into(), "llama".into());
        structure.write(&mut config);
        (structure, config)
    }

    #[test]
    fn a_section_survives_the_file() {
        let (structure, mut config) = section();
        assert_eq!(Structure::read(&config).unwrap(), structure);
        assert_eq!(config["sparseland"]["version"], 1);
        Structure::default().write(&mut config);
        assert!(!config.contains_key("sparseland") && config.contains_key("model_type"));
        assert_eq!(Structure::read(&config).unwrap(), Structure::default());
    }

    #[test]
    fn other_versions_and_unknown_keys_are_refused() {
        type Edit = fn(&mut Value);
        let edits: [(Edit, &str); 4] = [
            (|s| s["version"] = 2.into(), "version 2"),
            (|s| s["extra"] = 1.into(), "extra"),
            (|s| s["version"] = "one".into(), "invalid type"),
            (|s| *s = Value::Null, "invalid type"),
        ];
        for (edit, expected) in edits {
            let (_, mut config) = section();
            edit(&mut config["sparseland"]);
            let error = Structure::read(&config).unwrap_err().to_string();
            assert!(error.contains("`sparseland`") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn layers_that_the_model_lacks_are_refused() {
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 2,
            "intermediate_size": 8, "vocab_size": 8, "tie_word_embeddings": true,
        });
        let mut config = ModelConfig::from_json(json.as_object().unwrap()).unwrap();
        let (mut structure, _) = section();
        structure.check(&config).unwrap();
        let layer = structure.layers["model.layers.1.self_attn.q_proj"].clone();
        for name in [
            "model.layers.2.mlp.up_proj",
            "model.layers.01.mlp.up_proj",
            "model.layers.0.mlp.gate",
            "lm_head",
        ] {
            structure.layers.clear();
            structure.layers.insert(name.into(), layer.clone());
            assert!(structure.check(&config).unwrap_err().to_string().contains(name));
        }
        config.tie_word_embeddings = false;
        structure.check(&config).unwrap();
    }

    #[test]
    fn numbers_that_are_not_finite_are_seen() {
        let bytes = |values: &[f32], kind| -> Vec<u8> {
            let half = |v: &f32| match kind {
                PartType::Bf16 => half::bf16::from_f32(*v).to_bits().to_le_bytes(),
                _ => half::f16::from_f32(*v).to_bits().to_le_bytes(),
            };
            match kind {
                PartType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                _ => values.iter().flat_map(half).collect(),
            }
        };
        for kind in [PartType::F32, PartType::Bf16, PartType::F16] {
            assert!(all_finite(kind, &bytes(&[0.0, -1.5, 60_000.0, 1e-7], kind)), "{kind:?}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(!all_finite(kind, &bytes(&[1.0, bad], kind)), "{kind:?} {bad}");
            }
        }
    }
}
