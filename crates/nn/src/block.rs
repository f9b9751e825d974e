//! One decoder block: attention and a gated MLP around a residual stream.

use sparseland_data::Checkpoint;

use crate::attention::{LayerCache, attend};
use crate::config::{Activation, Architecture};
use crate::linear::load_vector;
use crate::rope::Rotary;
use crate::structure::Structure;
use crate::{Linear, LinearInput, LinearSite, LoadOptions, ModelConfig, NnError};

/// Receives the input rows of a group of linear layers: which input, `tokens x width`, tokens.
pub type Observer<'a> = dyn FnMut(LinearInput, &[f32], usize) + 'a;

/// A decoder block.
#[derive(Debug, Clone)]
pub struct Block {
    index: usize,
    /// In the order of [`LinearSite::ALL`].
    linears: Vec<Linear>,
    attention_norm: Vec<f32>,
    mlp_norm: Vec<f32>,
    /// Norms of each head's queries and keys (Qwen3).
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
}

/// Buffers that forward passes reuse.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) rotary: Rotary,
    cache: LayerCache,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: Vec<f32>,
    output: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Workspace {
    /// Empty buffers for a model.
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            rotary: Rotary::new(),
            cache: LayerCache::new(config),
            normed: Vec::new(),
            queries: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            heads: Vec::new(),
            output: Vec::new(),
            gate: Vec::new(),
            up: Vec::new(),
        }
    }
}

impl Block {
    /// Reads block `index` of a checkpoint; nothing else of the model is read.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen, damaged or not finite.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        index: usize,
        options: &LoadOptions,
    ) -> Result<Self, NnError> {
        let structure = Structure::read(checkpoint.config())?;
        Self::load_structured(checkpoint, config, &structure, index, options)
    }

    pub(crate) fn load_structured(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        structure: &Structure,
        index: usize,
        options: &LoadOptions,
    ) -> Result<Self, NnError> {
        let load = |site: LinearSite| site.load(checkpoint, config, structure, index, options);
        let norm = |name: &str, width| {
            load_vector(checkpoint, &format!("model.layers.{index}.{name}.weight"), width)
        };
        let head_norms = match config.architecture {
            Architecture::Qwen3 => {
                Some((norm("self_attn.q_norm", config.head_dim)?, norm("self_attn.k_norm", config.head_dim)?))
            }
            _ => None,
        };
        Ok(Self {
            index,
            linears: LinearSite::ALL.into_iter().map(load).collect::<Result<_, _>>()?,
            attention_norm: norm("input_layernorm", config.hidden_size)?,
            mlp_norm: norm("post_attention_layernorm", config.hidden_size)?,
            head_norms,
        })
    }

    /// The linear layer at a site.
    pub fn linear(&self, site: LinearSite) -> &Linear {
        &self.linears[site as usize]
    }

    /// The linear layer at a site, to replace its weight.
    pub fn linear_mut(&mut self, site: LinearSite) -> &mut Linear {
        &mut self.linears[site as usize]
    }

    /// Runs one whole sequence (`tokens x hidden`) through the block in place, showing the inputs of
    /// its linear layers to `observer`.
    pub fn forward_sequence(
        &self,
        config: &ModelConfig,
        hidden: &mut [f32],
        workspace: &mut Workspace,
        observer: &mut Observer<'_>,
    ) {
        let mut cache = std::mem::replace(&mut workspace.cache, LayerCache::new(config));
        cache.clear();
        workspace.rotary.prepare(config, hidden.len() / config.hidden_size);
        self.forward(config, hidden, &mut cache, workspace, observer);
        workspace.cache = cache;
    }

    /// Runs the next tokens of a sequence through the block in place; `cache` holds the earlier ones.
    pub(crate) fn forward(
        &self,
        config: &ModelConfig,
        hidden: &mut [f32],
        cache: &mut LayerCache,
        workspace: &mut Workspace,
        observer: &mut Observer<'_>,
    ) {
        let tokens = hidden.len() / config.hidden_size;
        let w = workspace;
        let linear = |site: LinearSite, x: &[f32], y: &mut Vec<f32>| {
            y.resize(tokens * site.shape(config).0, 0.0);
            self.linear(site).forward(x, tokens, y);
        };

        rms_norm(hidden, &self.attention_norm, config.rms_norm_eps, &mut w.normed);
        observer(LinearInput::Attention, &w.normed, tokens);
        linear(LinearSite::Q, &w.normed, &mut w.queries);
        linear(LinearSite::K, &w.normed, &mut w.keys);
        linear(LinearSite::V, &w.normed, &mut w.values);
        if let Some((queries, keys)) = &self.head_norms {
            rms_norm_in_place(&mut w.queries, queries, config.rms_norm_eps);
            rms_norm_in_place(&mut w.keys, keys, config.rms_norm_eps);
        }
        for t in 0..tokens {
            let position = cache.len() + t;
            w.rotary.turn(&mut w.queries[t * config.query_width()..(t + 1) * config.query_width()], position);
            w.rotary.turn(&mut w.keys[t * config.key_width()..(t + 1) * config.key_width()], position);
        }
        cache.push(config, &w.keys, &w.values, tokens);
        w.heads.resize(tokens * config.query_width(), 0.0);
        attend(config, config.windows[self.index], cache, &w.queries, tokens, &mut w.heads);
        observer(LinearInput::AttentionOutput, &w.heads, tokens);
        linear(LinearSite::O, &w.heads, &mut w.output);
        add(hidden, &w.output);

        rms_norm(hidden, &self.mlp_norm, config.rms_norm_eps, &mut w.normed);
        observer(LinearInput::Mlp, &w.normed, tokens);
        linear(LinearSite::Gate, &w.normed, &mut w.gate);
        linear(LinearSite::Up, &w.normed, &mut w.up);
        for (gate, up) in w.gate.iter_mut().zip(&w.up) {
            *gate = activate(config.activation, *gate) * up;
        }
        observer(LinearInput::MlpActivation, &w.gate, tokens);
        linear(LinearSite::Down, &w.gate, &mut w.output);
        add(hidden, &w.output);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn activate(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// `out = x / rms(x) * weight` for every row of `x`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    out.copy_from_slice(x);
    rms_norm_in_place(out, weight, eps);
}

fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(weight.len()) {
        // Eight partial sums: vectorises, and is more accurate than one.
        let mut sums = [0.0f32; 8];
        for chunk in row.chunks(8) {
            for (s, v) in sums.iter_mut().zip(chunk) {
                *s += v * v;
            }
        }
        let mean = sums.iter().sum::<f32>() / weight.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        row.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * scale * w);
    }
}
