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

/// The class names that `architectures` gives where `model_type` is missing.
const CLASSES: [(&str, &str); 4] = [
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "mistral"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
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

/// More blocks than any model has: their number sizes tables before a tensor is read.
const LAYER_LIMIT: usize = 1 << 12;

/// The window of Mistral and Qwen configurations that do not mention one.
const DEFAULT_WINDOW: usize = 4096;

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
        self.real(key)?.map_or(Ok(default), |value| positive(key, value))
    }

    /// A positive number that has no default.
    fn required_positive(&self, key: &str) -> Result<f64, NnError> {
        let value =
            self.real(key)?.ok_or_else(|| NnError::Config(format!("rotary scaling lacks `{key}`")))?;
        positive(key, value)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, NnError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| NnError::Config(format!("`{key}` is {value}, not true or false")))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }
}

fn positive(key: &str, value: f64) -> Result<f64, NnError> {
    if value > 0.0 { Ok(value) } else { Err(NnError::Config(format!("`{key}` is {value}, not positive"))) }
}

impl ModelConfig {
    /// Reads the configuration of a checkpoint: `config.json`, and of `generation_config.json` the tokens
    /// that begin and end a text.
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
            let keys = Keys(&generation);
            let eos = tokens(keys.get("eos_token_id"));
            if !eos.is_empty() {
                config.eos = eos;
            }
            config.bos = config.bos.or(tokens(keys.get("bos_token_id")).first().copied());
        }
        Ok(config)
    }

    /// Reads the configuration itself.
    ///
    /// # Errors
    /// As [`Self::from_checkpoint`].
    pub fn from_json(json: &Map<String, Value>) -> Result<Self, NnError> {
        let keys = Keys(json);
        let class = keys.get("architectures").and_then(|list| list.get(0)?.as_str()).unwrap_or("");
        let of_class = CLASSES.iter().find(|(name, _)| *name == class).map(|(_, model_type)| *model_type);
        let model_type = keys.text("model_type").or(of_class).unwrap_or("");
        let architecture = SUPPORTED.iter().find(|(name, _)| *name == model_type).map(|(_, a)| *a);
        let Some(architecture) = architecture else {
            let names: Vec<_> = SUPPORTED.iter().map(|(name, _)| *name).collect();
            return Err(NnError::Config(format!(
                "`model_type` is {model_type:?}; decoders of type {} can be run",
                names.join(", ")
            )));
        };
        if let Some(method) = keys.get("quantization_config") {
            let method = method.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
            return Err(NnError::Config(format!(
                "`quantization_config` asks for the method {method:?}, which is not read; use the original bf16, f16 or \
                 f32 weights"
            )));
        }
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
        if layers > LAYER_LIMIT {
            return Err(NnError::Config(format!(
                "`num_hidden_layers` is {layers}; {LAYER_LIMIT} is the most"
            )));
        }
        let max_position_embeddings =
            keys.size("max_position_embeddings")?.unwrap_or(default_context(architecture));
        let (rope_theta, rope_scaling) = rope(&keys, max_position_embeddings)?;
        if head_dim == 2 && matches!(rope_scaling, RopeScaling::Dynamic { .. }) {
            return Err(NnError::Config("dynamic rotary scaling needs a `head_dim` above 2".into()));
        }
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
                    return Err(NnError::Config(format!(
                        "`hidden_act` is {other:?}; silu, swish, gelu_pytorch_tanh and gelu_new can be run"
                    )));
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

/// The context of configurations that do not mention one.
fn default_context(architecture: Architecture) -> usize {
    match architecture {
        Architecture::Llama => 2048,
        Architecture::Mistral => 4096 * 32,
        Architecture::Qwen2 | Architecture::Qwen3 => 32768,
    }
}

/// One token or a list of tokens; numbers that are no tokens are left out.
fn tokens(value: Option<&Value>) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(token).collect(),
        Some(value) => token(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Base and scaling of the rotary frequencies.
fn rope(keys: &Keys<'_>, context: usize) -> Result<(f64, RopeScaling), NnError> {
    let empty = Map::new();
    let object = |key: &str| keys.get(key).and_then(Value::as_object).filter(|map| !map.is_empty());
    // In this order: transformers 5 lets the older key win where both stand.
    let parameters = object("rope_scaling").or_else(|| object("rope_parameters")).unwrap_or(&empty);
    let inner = Keys(parameters);
    if let Some((key, _)) = parameters.iter().find(|(_, value)| value.is_object()) {
        return Err(NnError::Config(format!(
            "rotary parameters per kind of layer (`{key}`) are not supported"
        )));
    }
    for keys in [&inner, keys] {
        if keys.real("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(NnError::Config("a `partial_rotary_factor` other than 1 is not supported".into()));
        }
    }
    let theta = inner.positive("rope_theta", keys.positive("rope_theta", 10_000.0)?)?;
    let original = match keys.size("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => inner.size("original_max_position_embeddings")?,
    };
    let original = original.unwrap_or(context);
    let scaling = match inner.text("rope_type").or_else(|| inner.text("type")).unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: inner.required_positive("factor")? },
        // Whatever the original context may be, this kind counts from the model's.
        "dynamic" => RopeScaling::Dynamic { factor: inner.required_positive("factor")?, original: context },
        "llama3" => {
            let low = inner.required_positive("low_freq_factor")?;
            let high = inner.required_positive("high_freq_factor")?;
            if low == high {
                return Err(NnError::Config(format!(
                    "`low_freq_factor` and `high_freq_factor` are both {low}"
                )));
            }
            RopeScaling::Llama3 { factor: inner.required_positive("factor")?, low, high, original }
        }
        "yarn" => yarn(&inner, theta, original, context)?,
        other => {
            return Err(NnError::Config(format!(
                "rotary scaling {other:?} is not known; default, linear, dynamic, llama3 and yarn are"
            )));
        }
    };
    Ok((theta, scaling))
}

fn yarn(keys: &Keys<'_>, theta: f64, original: usize, context: usize) -> Result<RopeScaling, NnError> {
    if theta <= 1.0 {
        return Err(NnError::Config(format!("yarn needs a `rope_theta` above 1, not {theta}")));
    }
    let factor = keys.positive("factor", context as f64 / original as f64)?;
    let scale_of = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let given = |key: &str| Ok::<_, NnError>(keys.real(key)?.filter(|&value| value != 0.0));
    let attention = match (keys.real("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
        (Some(attention), ..) => attention,
        (None, Some(scale), Some(all)) => scale_of(scale) / scale_of(all),
        _ => scale_of(1.0),
    };
    if !attention.is_finite() || attention < 0.0 {
        return Err(NnError::Config(format!("the attention factor of yarn comes to {attention}")));
    }
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: positive("beta_fast", given("beta_fast")?.unwrap_or(32.0))?,
        beta_slow: positive("beta_slow", given("beta_slow")?.unwrap_or(1.0))?,
        attention,
        original,
        truncate: keys.flag("truncate", true)?,
    })
}

/// For every block the number of last tokens it sees.
fn windows(
    keys: &Keys<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, NnError> {
    let window = match architecture {
        Architecture::Llama => None,
        Architecture::Qwen2 | Architecture::Qwen3 if !keys.flag("use_sliding_window", false)? => None,
        // Missing is not the same as null.
        _ if !keys.0.contains_key("sliding_window") => Some(DEFAULT_WINDOW),
        _ => keys.size("sliding_window")?,
    };
    let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
    if !qwen {
        return Ok(vec![window; layers]);
    }
    if let Some(types) = keys.get("layer_types") {
        let types = types.as_array().filter(|types| types.len() == layers);
        let Some(types) = types else {
            return Err(NnError::Config(format!(
                "`layer_types` is not a list of {layers} entries, one a block"
            )));
        };
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") if window.is_some() => Ok(window),
                Some("sliding_attention") => Err(NnError::Config(
                    "`layer_types` asks for sliding attention, but no `sliding_window` is in use".into(),
                )),
                _ => Err(NnError::Config(format!("`layer_types` entry {kind} is not known"))),
            })
            .collect();
    }
    // The older form: windows only from block `max_window_layers` on.
    let first = match keys.get("max_window_layers") {
        None => 28,
        Some(value) => value.as_u64().ok_or_else(|| {
            NnError::Config(format!("`max_window_layers` is {value}, not a number of blocks"))
        })?,
    };
    Ok((0..layers).map(|i| if i as u64 >= first { window } else { None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A small configuration with some keys changed; null removes one.
    fn read(changes: Value) -> Result<ModelConfig, NnError> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3,
            "intermediate_size": 8, "vocab_size": 8, "max_position_embeddings": 64,
        });
        let config = config.as_object_mut().unwrap();
        config.extend(changes.as_object().unwrap().clone());
        ModelConfig::from_json(config)
    }

    fn refused(changes: Value, expected: &str) {
        let error = read(changes.clone()).expect_err(&changes.to_string()).to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{changes}: {error}");
    }

    #[test]
    fn windows_are_those_of_transformers() {
        let windows = |changes| read(changes).unwrap().windows;
        assert_eq!(windows(json!({ "sliding_window": 8 })), [None; 3]);
        // A missing window is 4096, a null one is none.
        assert_eq!(windows(json!({ "model_type": "mistral" })), [Some(4096); 3]);
        assert_eq!(windows(json!({ "model_type": "mistral", "sliding_window": null })), [None; 3]);
        assert_eq!(windows(json!({ "model_type": "mistral", "sliding_window": 8 })), [Some(8); 3]);
        for model_type in ["qwen2", "qwen3"] {
            let qwen = |mut changes: Value| {
                changes["model_type"] = model_type.into();
                windows(changes)
            };
            assert_eq!(qwen(json!({ "sliding_window": 8, "max_window_layers": 0 })), [None; 3]);
            let used = |first| json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": first });
            assert_eq!(qwen(used(0)), [Some(8); 3]);
            assert_eq!(qwen(used(2)), [None, None, Some(8)]);
            assert_eq!(qwen(json!({ "use_sliding_window": true })), [None; 3]);
            assert_eq!(
                qwen(json!({ "use_sliding_window": true, "max_window_layers": 1 })),
                [None, Some(4096), Some(4096)]
            );
            let mut typed = used(3);
            typed["layer_types"] = json!(["sliding_attention", "full_attention", "sliding_attention"]);
            assert_eq!(qwen(typed), [Some(8), None, Some(8)]);
        }
        let typed = |types: Value| json!({ "model_type": "qwen3", "layer_types": types });
        refused(typed(json!(["sliding_attention", "full_attention", "full_attention"])), "sliding_window");
        refused(typed(json!(["full_attention"])), "3 entries");
        refused(typed(json!("full_attention")), "3 entries");
        refused(typed(json!(["full_attention", "linear_attention", "full_attention"])), "linear_attention");
        let used = json!({ "model_type": "qwen2", "use_sliding_window": true, "max_window_layers": -1 });
        refused(used, "max_window_layers");
    }

    #[test]
    fn rotary_settings_are_read_in_both_spellings() {
        let rope = |changes| read(changes).map(|config| (config.rope_theta, config.rope_scaling));
        assert_eq!(rope(json!({})).unwrap(), (10_000.0, RopeScaling::Default));
        let linear = RopeScaling::Linear { factor: 2.5 };
        let older = json!({ "rope_theta": 5e5, "rope_scaling": { "type": "linear", "factor": 2.5 } });
        assert_eq!(rope(older).unwrap(), (5e5, linear));
        let newer = json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "linear", "factor": 2.5 } });
        assert_eq!(rope(newer).unwrap(), (5e5, linear));
        // The older key wins where both stand, and an empty one does not count.
        let both = json!({ "rope_scaling": { "type": "linear", "factor": 2.5 }, "rope_parameters": { "rope_theta": 3.0 } });
        assert_eq!(rope(both).unwrap(), (10_000.0, linear));
        let empty = json!({ "rope_scaling": {}, "rope_parameters": { "rope_theta": 3.0 } });
        assert_eq!(rope(empty).unwrap(), (3.0, RopeScaling::Default));
        // Dynamic scaling counts from the model's context, whatever else is said.
        let dynamic = json!({ "rope_scaling": { "type": "dynamic", "factor": 2, "original_max_position_embeddings": 16 } });
        assert_eq!(rope(dynamic).unwrap().1, RopeScaling::Dynamic { factor: 2.0, original: 64 });
        let yarn = |changes: Value| {
            let mut scaling = json!({ "type": "yarn", "original_max_position_embeddings": 16 });
            scaling.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            match rope(json!({ "rope_scaling": scaling })).unwrap().1 {
                RopeScaling::Yarn { factor, attention, original: 16, .. } => (factor, attention),
                other => panic!("{other:?}"),
            }
        };
        let full = 0.1 * 4f64.ln() + 1.0;
        assert_eq!(yarn(json!({})), (4.0, full));
        assert_eq!(yarn(json!({ "factor": 4 })), (4.0, full));
        assert_eq!(yarn(json!({ "factor": 1 })), (1.0, 1.0));
        assert_eq!(yarn(json!({ "attention_factor": 0.5 })), (4.0, 0.5));
        assert_eq!(yarn(json!({ "mscale": 0.5 })), (4.0, full));
        assert_eq!(yarn(json!({ "mscale": 1, "mscale_all_dim": 1 })), (4.0, 1.0));
    }

    #[test]
    fn rotary_settings_that_mean_nothing_are_refused() {
        let scaling = |scaling: Value| json!({ "rope_scaling": scaling });
        refused(json!({ "rope_theta": -1.0 }), "rope_theta");
        refused(json!({ "rope_parameters": { "rope_theta": 0.0 } }), "rope_theta");
        refused(json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }), "full_attention");
        refused(json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor");
        refused(scaling(json!({ "type": "default", "partial_rotary_factor": 0.5 })), "partial_rotary_factor");
        for kind in ["linear", "dynamic"] {
            refused(scaling(json!({ "type": kind })), "`factor`");
            refused(scaling(json!({ "type": kind, "factor": 0 })), "`factor`");
            refused(scaling(json!({ "type": kind, "factor": "2" })), "`factor`");
        }
        refused(scaling(json!({ "type": "su", "factor": 2 })), "\"su\"");
        refused(scaling(json!({ "type": "llama3", "factor": 8, "low_freq_factor": 1 })), "high_freq_factor");
        let equal = json!({ "type": "llama3", "factor": 8, "low_freq_factor": 2, "high_freq_factor": 2 });
        refused(scaling(equal), "both 2");
        refused(json!({ "rope_theta": 1.0, "rope_scaling": { "type": "yarn", "factor": 4 } }), "above 1");
        refused(scaling(json!({ "type": "yarn", "factor": -4 })), "`factor`");
        refused(scaling(json!({ "type": "yarn", "factor": 4, "attention_factor": -1 })), "attention");
        refused(json!({ "head_dim": 2, "rope_scaling": { "type": "dynamic", "factor": 2 } }), "head_dim");
    }

    #[test]
    fn families_and_tokens_are_recognised() {
        let named = json!({ "model_type": null, "architectures": ["Qwen2ForCausalLM"] });
        let config = read(named).unwrap();
        assert_eq!((config.architecture, config.attention_bias), (Architecture::Qwen2, (true, false)));
        refused(json!({ "model_type": "mixtral" }), "llama, mistral, qwen2, qwen3");
        refused(json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }), "gptq");
        refused(json!({ "num_hidden_layers": 1_000_000 }), "num_hidden_layers");
        let config = read(json!({ "bos_token_id": -1, "eos_token_id": [7, 4_294_967_303_u64, 3] })).unwrap();
        assert_eq!((config.bos, config.eos), (None, vec![7, 3]));
        assert_eq!(read(json!({ "model_type": "qwen3" })).unwrap().head_dim, 128);
        assert_eq!(read(json!({})).unwrap().num_key_value_heads, 4);
    }
}
