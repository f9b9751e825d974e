//! `config.json` of a decoder, in the spellings of transformers 4 and 5.

use serde_json::{Map, Value};
use sparseland_data::{Checkpoint, TensorSource};
use sparseland_matrix::ValueType;

use crate::NnError;

/// The decoder families that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen2: biases on query, key and value.
    Qwen2,
    /// Qwen3: norms on queries and keys.
    Qwen3,
}

/// The `model_type`s that run.
const SUPPORTED: [(&str, Architecture); 4] = [
    ("llama", Architecture::Llama),
    ("mistral", Architecture::Mistral),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
];

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
}

/// How rotary angles are scaled for long contexts, as transformers computes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by the factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The base grows with the sequence beyond the original context (NTK-aware).
    Dynamic {
        /// The factor.
        factor: f64,
        /// The context before scaling.
        original: usize,
    },
    /// Llama 3.1: low frequencies divided, high kept, those between blended.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original / low` are divided by the factor.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The context before scaling.
        original: usize,
    },
    /// YaRN: a ramp between divided and kept frequencies, and scaled attention.
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations at which frequencies are kept.
        beta_fast: f64,
        /// Rotations at which frequencies are divided.
        beta_slow: f64,
        /// Scale of queries and keys.
        attention: f64,
        /// The context before scaling.
        original: usize,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Context.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on query, key and value, and on the attention's output.
    pub attention_bias: (bool, bool),
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// The gate's activation.
    pub activation: Activation,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub rope_scaling: RopeScaling,
    /// For every block the number of last tokens it sees; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// The weights' usual type.
    pub dtype: ValueType,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// A number larger than any model's, so that shapes cannot overflow.
const LIMIT: usize = 1 << 24;

/// Reads keys of one JSON object.
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>, NnError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().map(|v| v as usize).filter(|&v| v > 0 && v <= LIMIT);
        size.map(Some)
            .ok_or_else(|| NnError::Config(format!("`{key}` is {value}, not a size from 1 to {LIMIT}")))
    }

    fn required(&self, key: &str) -> Result<usize, NnError> {
        self.size(key)?.ok_or_else(|| NnError::Config(format!("`{key}` is missing")))
    }

    fn real(&self, key: &str) -> Result<Option<f64>, NnError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let real = value.as_f64().filter(|v| v.is_finite());
        real.map(Some).ok_or_else(|| NnError::Config(format!("`{key}` is {value}, not a number")))
    }

    fn positive(&self, key: &str, default: f64) -> Result<f64, NnError> {
        let value = self.real(key)?.unwrap_or(default);
        if value > 0.0 {
            Ok(value)
        } else {
            Err(NnError::Config(format!("`{key}` is {value}, not positive")))
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, NnError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| NnError::Config(format!("`{key}` is {value}, not true or false")))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl ModelConfig {
    /// Reads the configuration of a checkpoint.
    ///
    /// # Errors
    /// [`NnError::Config`] for an unknown model type, a missing key or an impossible value.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, NnError> {
        let mut config = Self::from_json(checkpoint.config())?;
        if checkpoint.config().get("tie_word_embeddings").is_none_or(Value::is_null) {
            config.tie_word_embeddings = !checkpoint.contains("lm_head.weight");
        }
        if checkpoint.has_file("generation_config.json")
            && let Ok(Value::Object(generation)) =
                serde_json::from_slice::<Value>(&checkpoint.read_file("generation_config.json")?)
        {
            let eos = tokens(generation.get("eos_token_id"));
            if !eos.is_empty() {
                config.eos = eos;
            }
        }
        Ok(config)
    }

    /// Reads the configuration itself.
    ///
    /// # Errors
    /// As [`Self::from_checkpoint`].
    pub fn from_json(json: &Map<String, Value>) -> Result<Self, NnError> {
        let keys = Keys(json);
        let model_type = keys.text("model_type").unwrap_or("");
        let architecture = SUPPORTED.iter().find(|(name, _)| *name == model_type).map(|(_, a)| *a);
        let Some(architecture) = architecture else {
            let names: Vec<_> = SUPPORTED.iter().map(|(name, _)| *name).collect();
            return Err(NnError::Config(format!(
                "`model_type` is {model_type:?}; decoders of type {} can be run",
                names.join(", ")
            )));
        };
        let hidden_size = keys.required("hidden_size")?;
        let heads = keys.required("num_attention_heads")?;
        let num_key_value_heads = keys.size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(num_key_value_heads) {
            return Err(NnError::Config(format!(
                "{heads} heads do not share {num_key_value_heads} key/value heads"
            )));
        }
        let default_head = match architecture {
            Architecture::Qwen3 => 128,
            _ if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            _ => {
                return Err(NnError::Config(format!(
                    "`hidden_size` {hidden_size} is no multiple of {heads} heads"
                )));
            }
        };
        let head_dim = keys.size("head_dim")?.unwrap_or(default_head);
        if !head_dim.is_multiple_of(2) {
            return Err(NnError::Config(format!(
                "`head_dim` is {head_dim}; rotary embeddings need an even one"
            )));
        }
        let layers = keys.required("num_hidden_layers")?;
        let max_position_embeddings = keys.size("max_position_embeddings")?.unwrap_or(2048);
        let (rope_theta, rope_scaling) = rope(&keys, max_position_embeddings)?;
        let bias = keys.flag("attention_bias", false)?;
        let attention_bias = match architecture {
            Architecture::Qwen2 => (true, false),
            Architecture::Mistral => (false, false),
            _ => (bias, bias),
        };
        Ok(Self {
            architecture,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads,
            head_dim,
            vocab_size: keys.required("vocab_size")?,
            max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps", 1e-6)? as f32,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            attention_bias,
            mlp_bias: architecture == Architecture::Llama && keys.flag("mlp_bias", false)?,
            activation: match keys.text("hidden_act").unwrap_or("silu") {
                "silu" | "swish" => Activation::Silu,
                "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
                other => {
                    return Err(NnError::Config(format!("`hidden_act` {other:?} is not known; silu is")));
                }
            },
            rope_theta,
            rope_scaling,
            windows: windows(&keys, architecture, layers)?,
            dtype: match keys.text("dtype").or_else(|| keys.text("torch_dtype")) {
                Some("bfloat16") => ValueType::Bf16,
                Some("float16") => ValueType::F16,
                _ => ValueType::F32,
            },
            bos: tokens(keys.get("bos_token_id")).first().copied(),
            eos: tokens(keys.get("eos_token_id")),
        })
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// One token or a list of tokens.
fn tokens(value: Option<&Value>) -> Vec<u32> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).map(|t| t as u32).collect(),
        Some(value) => value.as_u64().map(|t| t as u32).into_iter().collect(),
        None => Vec::new(),
    }
}

fn rope(keys: &Keys<'_>, context: usize) -> Result<(f64, RopeScaling), NnError> {
    let empty = Map::new();
    let object = |key: &str| keys.get(key).and_then(Value::as_object);
    let parameters = object("rope_parameters").or_else(|| object("rope_scaling")).unwrap_or(&empty);
    let inner = Keys(parameters);
    let theta = match inner.real("rope_theta")? {
        Some(theta) => theta,
        None => keys.positive("rope_theta", 10_000.0)?,
    };
    let factor = || inner.positive("factor", 1.0);
    let original = match inner.size("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => keys.size("original_max_position_embeddings")?,
    };
    let scaling = match inner.text("rope_type").or_else(|| inner.text("type")).unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "dynamic" => RopeScaling::Dynamic { factor: factor()?, original: original.unwrap_or(context) },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low: inner.positive("low_freq_factor", 1.0)?,
            high: inner.positive("high_freq_factor", 4.0)?,
            original: original.unwrap_or(context),
        },
        "yarn" => {
            let original = original.unwrap_or(context);
            let factor = match inner.real("factor")? {
                Some(factor) => factor,
                None => context as f64 / original as f64,
            };
            let get = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let attention =
                match (inner.real("attention_factor")?, inner.real("mscale")?, inner.real("mscale_all_dim")?)
                {
                    (Some(attention), ..) => attention,
                    (None, Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => get(scale) / get(all),
                    _ => get(1.0),
                };
            RopeScaling::Yarn {
                factor,
                beta_fast: inner.positive("beta_fast", 32.0)?,
                beta_slow: inner.positive("beta_slow", 1.0)?,
                attention,
                original,
                truncate: inner.flag("truncate", true)?,
            }
        }
        other => {
            return Err(NnError::Config(format!(
                "rotary scaling {other:?} is not known; default, linear, dynamic, llama3 and yarn are"
            )));
        }
    };
    Ok((theta, scaling))
}

fn windows(
    keys: &Keys<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, NnError> {
    let window = match architecture {
        Architecture::Llama => None,
        Architecture::Mistral => keys.size("sliding_window")?,
        Architecture::Qwen2 | Architecture::Qwen3 if keys.flag("use_sliding_window", false)? => {
            keys.size("sliding_window")?
        }
        Architecture::Qwen2 | Architecture::Qwen3 => None,
    };
    if let Some(types) = keys.get("layer_types").and_then(Value::as_array)
        && architecture != Architecture::Mistral
    {
        if types.len() != layers {
            return Err(NnError::Config(format!(
                "`layer_types` has {} entries for {layers} blocks",
                types.len()
            )));
        }
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(window),
                _ => Err(NnError::Config(format!("`layer_types` entry {kind} is not known"))),
            })
            .collect();
    }
    // The older form: Qwen windows only from block `max_window_layers` on.
    let first = match architecture {
        Architecture::Mistral => 0,
        _ => keys.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize,
    };
    Ok((0..layers).map(|i| if i >= first { window } else { None }).collect())
}
