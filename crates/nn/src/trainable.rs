//! A decoder that trains: the network of [`crate::Decoder`] on a tape.

use std::path::Path;

use rand::Rng;
use serde_json::{Map, Value};
use sparseland_data::{Checkpoint, CheckpointOptions, CheckpointWriter, TensorSpec, WrittenCheckpoint};
use sparseland_matrix::{Dense, Layout, LinearMap, Matrix, Real, ValueType};
use sparseland_tape::weight::{DenseWeight, WeightError, from_f32, to_f32};
use sparseland_tape::{AttentionShape, ParamId, Parameters, Parametrisation, Tape, Var};

use crate::config::{Activation, Architecture, RopeScaling};
use crate::decoder::EMBEDDING;
use crate::linear::{load_vector, load_weight};
use crate::structure::{HEAD, Structure, StructuredLayer, part_spec};
use crate::{LinearSite, LoadOptions, ModelConfig, NnError};

/// A linear layer of a [`TrainableDecoder`].
pub struct TrainableLinear<R: Real> {
    /// Its full name in a checkpoint, without `.weight`.
    pub name: String,
    /// The weight.
    pub weight: Box<dyn Parametrisation<R>>,
    /// The bias, if there is one.
    pub bias: Option<ParamId>,
    /// The method that a structured weight is credited to in a checkpoint.
    pub method: String,
}

struct TrainableBlock<R: Real> {
    /// In the order of [`LinearSite::ALL`].
    linears: Vec<TrainableLinear<R>>,
    attention_norm: ParamId,
    mlp_norm: ParamId,
    head_norms: Option<(ParamId, ParamId)>,
}

/// A Llama, Mistral, Qwen2 or Qwen3 decoder on a tape.
///
/// Plain rotary positions and full attention only; a model with scaled rotary positions or windows is refused,
/// since its gradients would be those of another function.
pub struct TrainableDecoder<R: Real> {
    /// All that is trained.
    pub parameters: Parameters<R>,
    config: ModelConfig,
    json: Map<String, Value>,
    embedding: ParamId,
    blocks: Vec<TrainableBlock<R>>,
    norm: ParamId,
    /// `None`: the embedding is the head.
    head: Option<ParamId>,
}

fn check(config: &ModelConfig) -> Result<(), NnError> {
    let refuse = |what: &str| Err(NnError::Config(format!("training does not support {what}")));
    if config.rope_scaling != RopeScaling::Default {
        return refuse("scaled rotary positions");
    }
    if config.windows.iter().flatten().any(|&w| w < config.max_position_embeddings) {
        return refuse("attention windows shorter than the context");
    }
    if config.activation != Activation::Silu {
        return refuse("gates other than SiLU");
    }
    Ok(())
}

impl<R: Real> TrainableDecoder<R> {
    /// A fresh model of the shape that `json` (a `config.json`) asks for. `linear` makes the weight of every linear
    /// layer from its name and shape `(out, in)` and the deviation that is usual for it.
    ///
    /// Embedding and head are drawn from `N(0, 0.02²)`; the usual deviation of a linear layer is `0.8 / sqrt(in)`,
    /// divided by `sqrt(2 blocks)` where it ends in the residual stream.
    ///
    /// # Errors
    /// If the configuration is not understood or asks for what training lacks, or `linear` fails.
    pub fn new<G: Rng>(
        json: Map<String, Value>,
        rng: &mut G,
        mut linear: impl FnMut(
            &mut Parameters<R>,
            &str,
            (usize, usize),
            f64,
            &mut G,
        ) -> Result<Box<dyn Parametrisation<R>>, WeightError>,
    ) -> Result<Self, NnError> {
        let config = ModelConfig::from_json(&json)?;
        check(&config)?;
        let mut parameters = Parameters::new();
        let hidden = config.hidden_size;
        let embedding = parameters.add_normal(EMBEDDING, &[config.vocab_size, hidden], 0.02, rng);
        let mut blocks = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let mut linears = Vec::new();
            for site in LinearSite::ALL {
                let (name, shape) = (site.full_name(layer), site.shape(&config));
                let last = matches!(site, LinearSite::O | LinearSite::Down);
                let depth = if last { (2.0 * config.num_hidden_layers as f64).sqrt() } else { 1.0 };
                let deviation = 0.8 / (shape.1 as f64).sqrt() / depth;
                let weight = linear(&mut parameters, &name, shape, deviation, rng).map_err(training)?;
                let bias = site.has_bias(&config);
                let bias = bias.then(|| parameters.add_constant(format!("{name}.bias"), &[shape.0], R::ZERO));
                linears.push(TrainableLinear { name, weight, bias, method: "dense".into() });
            }
            let mut norm = |name: &str, width: usize| {
                parameters.add_constant(format!("model.layers.{layer}.{name}.weight"), &[width], R::ONE)
            };
            let head_norms = (config.architecture == Architecture::Qwen3).then(|| {
                (norm("self_attn.q_norm", config.head_dim), norm("self_attn.k_norm", config.head_dim))
            });
            blocks.push(TrainableBlock {
                linears,
                attention_norm: norm("input_layernorm", hidden),
                mlp_norm: norm("post_attention_layernorm", hidden),
                head_norms,
            });
        }
        let norm = parameters.add_constant("model.norm.weight", &[hidden], R::ONE);
        let head = (!config.tie_word_embeddings).then(|| {
            parameters.add_normal(format!("{HEAD}.weight"), &[config.vocab_size, hidden], 0.02, rng)
        });
        Ok(Self { parameters, config, json, embedding, blocks, norm, head })
    }

    /// A [`new`](Self::new) model whose linear layers are dense.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn dense(json: Map<String, Value>, rng: &mut impl Rng) -> Result<Self, NnError> {
        Self::new(json, rng, |parameters, name, (rows, cols), deviation, rng| {
            let id = parameters.add_normal(format!("{name}.weight"), &[rows, cols], deviation, rng);
            Ok(Box::new(DenseWeight::new(parameters, id)))
        })
    }

    /// The model of a checkpoint. `linear` makes the weight of every linear layer from its name and the matrix that
    /// is stored.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or asks for what training lacks, or `linear` fails.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        mut linear: impl FnMut(
            &mut Parameters<R>,
            &str,
            &Matrix,
        ) -> Result<Box<dyn Parametrisation<R>>, WeightError>,
    ) -> Result<Self, NnError> {
        let config = ModelConfig::from_checkpoint(checkpoint)?;
        check(&config)?;
        let structure = Structure::read(checkpoint.config())?;
        structure.check(&config)?;
        let mut parameters = Parameters::new();
        let hidden = config.hidden_size;
        let options = LoadOptions::default();
        let table = |parameters: &mut Parameters<R>, name: &str, layer: &str| -> Result<ParamId, NnError> {
            let shape = (config.vocab_size, hidden);
            let matrix = load_weight(checkpoint, &Structure::default(), layer, shape, &options)?;
            Ok(parameters.add(name, &[shape.0, shape.1], &from_f32::<R>(&matrix.to_dense())))
        };
        let vector =
            |parameters: &mut Parameters<R>, name: String, width: usize| -> Result<ParamId, NnError> {
                let values = load_vector(checkpoint, &name, width)?;
                Ok(parameters.add(name, &[width], &from_f32::<R>(&values)))
            };
        let embedding = table(&mut parameters, EMBEDDING, "model.embed_tokens")?;
        let mut blocks = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let mut linears = Vec::new();
            for site in LinearSite::ALL {
                let (name, shape) = (site.full_name(layer), site.shape(&config));
                let matrix = load_weight(checkpoint, &structure, &name, shape, &options)?;
                let weight = linear(&mut parameters, &name, &matrix).map_err(training)?;
                let bias = match site.has_bias(&config) {
                    true => Some(vector(&mut parameters, format!("{name}.bias"), shape.0)?),
                    false => None,
                };
                let method = structure.layers.get(&name).map_or("dense", |l| l.method.as_str()).to_owned();
                linears.push(TrainableLinear { name, weight, bias, method });
            }
            let mut norm = |name: &str, width: usize| {
                vector(&mut parameters, format!("model.layers.{layer}.{name}.weight"), width)
            };
            let head_norms = match config.architecture {
                Architecture::Qwen3 => Some((
                    norm("self_attn.q_norm", config.head_dim)?,
                    norm("self_attn.k_norm", config.head_dim)?,
                )),
                _ => None,
            };
            blocks.push(TrainableBlock {
                linears,
                attention_norm: norm("input_layernorm", hidden)?,
                mlp_norm: norm("post_attention_layernorm", hidden)?,
                head_norms,
            });
        }
        let norm = vector(&mut parameters, "model.norm.weight".into(), hidden)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(table(&mut parameters, &format!("{HEAD}.weight"), HEAD)?),
        };
        Ok(Self { parameters, config, json: checkpoint.config().clone(), embedding, blocks, norm, head })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The linear layers of all blocks, in the network's order.
    pub fn linears(&self) -> impl Iterator<Item = &TrainableLinear<R>> {
        self.blocks.iter().flat_map(|b| &b.linears)
    }

    /// The linear layers, with the parameters that they work on.
    pub fn linears_mut(&mut self) -> (impl Iterator<Item = &mut TrainableLinear<R>>, &mut Parameters<R>) {
        (self.blocks.iter_mut().flat_map(|b| &mut b.linears), &mut self.parameters)
    }

    /// The parameters outside the blocks' linear weights: embedding, head, norms and biases.
    pub fn other_parameters(&self) -> Vec<ParamId> {
        let weights: std::collections::BTreeSet<ParamId> =
            self.linears().flat_map(|l| l.weight.parameters()).collect();
        self.parameters.ids().filter(|id| !weights.contains(id)).collect()
    }

    /// Hidden states after the last norm: `tokens x hidden` for whole sequences of `length` tokens.
    ///
    /// # Panics
    /// If a token is not below the vocabulary or the tokens are no whole sequences.
    pub fn hidden(&self, tape: &mut Tape<R>, tokens: &[u32], length: usize) -> Var {
        let (p, c) = (&self.parameters, &self.config);
        let shape = AttentionShape {
            length,
            heads: c.num_attention_heads,
            key_heads: c.num_key_value_heads,
            width: c.head_dim,
            rope_theta: Some(c.rope_theta),
        };
        let epsilon = R::real(c.rms_norm_eps.into());
        let mut x = tape.embedding(p, self.embedding, tokens);
        for block in &self.blocks {
            let apply = |tape: &mut Tape<R>, site: LinearSite, x: Var| {
                let linear = &block.linears[site as usize];
                let y = linear.weight.apply(tape, p, x);
                linear.bias.map_or(y, |bias| tape.bias(p, y, bias))
            };
            let normed = tape.rms_norm(p, x, block.attention_norm, epsilon);
            let [mut q, mut k, v] =
                [LinearSite::Q, LinearSite::K, LinearSite::V].map(|site| apply(tape, site, normed));
            if let Some((queries, keys)) = block.head_norms {
                q = tape.rms_norm(p, q, queries, epsilon);
                k = tape.rms_norm(p, k, keys, epsilon);
            }
            let heads = tape.attention(p, q, k, v, shape);
            let y = apply(tape, LinearSite::O, heads);
            x = tape.add(p, x, y);
            let normed = tape.rms_norm(p, x, block.mlp_norm, epsilon);
            let [gate, up] = [LinearSite::Gate, LinearSite::Up].map(|site| apply(tape, site, normed));
            let gated = tape.swiglu(p, gate, up);
            let y = apply(tape, LinearSite::Down, gated);
            x = tape.add(p, x, y);
        }
        tape.rms_norm(p, x, self.norm, epsilon)
    }

    /// Mean cross entropy in nats of `targets` (the next token of every position, or
    /// [`IGNORED`](sparseland_tape::IGNORED)) for whole sequences of `length` tokens.
    ///
    /// # Panics
    /// As [`hidden`](Self::hidden).
    pub fn loss(&self, tape: &mut Tape<R>, tokens: &[u32], targets: &[u32], length: usize) -> Var {
        let hidden = self.hidden(tape, tokens, length);
        tape.linear_cross_entropy(&self.parameters, hidden, self.head.unwrap_or(self.embedding), targets)
    }

    /// Writes a checkpoint in Hugging Face layout, weights in `values`; structured layers are named in
    /// `config.json`. `files` go beside it (a tokenizer, a record).
    ///
    /// # Errors
    /// If writing fails; nothing half-written remains visible.
    pub fn save(
        &self,
        dir: &Path,
        values: ValueType,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<WrittenCheckpoint, NnError> {
        let mut structure = Structure::default();
        let mut tensors: Vec<(TensorSpec, Vec<u8>)> = Vec::new();
        let mut dense = |name: &str, shape: &[usize], data: Vec<f32>| {
            let (rows, cols) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let matrix = Matrix::from(Dense::from_f32(rows, cols, &data, values));
            let part = matrix.parts(name).into_iter().next().expect("a float matrix has one part");
            let spec = TensorSpec::new(name, part_spec(&part).dtype, shape);
            tensors.push((spec, part.bytes));
        };
        for id in self.other_parameters() {
            let p = self.parameters.get(id);
            dense(&p.name, &p.shape, to_f32(&p.value));
        }
        for linear in self.linears() {
            let matrix = linear.weight.export(&self.parameters, values);
            let layout = matrix.layout();
            if matches!(layout, Layout::Dense { .. }) {
                dense(&format!("{}.weight", linear.name), &[matrix.rows(), matrix.cols()], matrix.to_dense());
            } else {
                let layer = StructuredLayer { method: linear.method.clone(), layout, inputs: None };
                structure.layers.insert(linear.name.clone(), layer);
            }
        }
        for linear in self.linears().filter(|l| structure.layers.contains_key(&l.name)) {
            let matrix = linear.weight.export(&self.parameters, values);
            for part in matrix.parts(&linear.name) {
                tensors.push((part_spec(&part), part.bytes));
            }
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut writer = CheckpointWriter::create(dir, &specs, &CheckpointOptions::default())?;
        for (spec, bytes) in &tensors {
            writer.write(&spec.name, bytes)?;
        }
        for (name, bytes) in files {
            writer.add_file(&name, bytes)?;
        }
        let mut config = self.json.clone();
        let dtype = match values {
            ValueType::Bf16 => "bfloat16",
            ValueType::F16 => "float16",
            ValueType::F32 | ValueType::I8 => "float32",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), Value::from(dtype));
        structure.write(&mut config);
        Ok(writer.finish(&config)?)
    }
}

fn training(error: WeightError) -> NnError {
    NnError::Setting(error.to_string())
}
