//! One decoder block: attention and a gated MLP around a residual stream.

use rayon::prelude::*;
use sparseland_data::Checkpoint;
use sparseland_matrix::apply_many;

use crate::attention::{LayerCache, attend};
use crate::config::{Activation, Architecture};
use crate::linear::load_vector;
use crate::math::{exp, sum_of_squares};
use crate::rope::Rotary;
use crate::structure::Structure;
use crate::{Linear, LinearInput, LinearSite, LoadOptions, ModelConfig, NnError};

/// Numbers that one thread gates at a time.
const PIECE: usize = 1 << 14;

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

/// Buffers that forward passes of one model reuse.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) rotary: Rotary,
    cache: LayerCache,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    heads: Vec<f32>,
    output: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Workspace {
    /// Empty buffers for a model.
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            rotary: Rotary::default(),
            cache: LayerCache::new(config),
            normed: Vec::new(),
            queries: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            scores: Vec::new(),
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

    /// The linear layers in the network's order.
    pub fn linears(&self) -> impl Iterator<Item = (LinearSite, &Linear)> {
        LinearSite::ALL.into_iter().zip(&self.linears)
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
    ///
    /// # Panics
    /// If `hidden` is not a whole number of rows.
    pub fn forward_sequence(
        &self,
        config: &ModelConfig,
        hidden: &mut [f32],
        workspace: &mut Workspace,
        observer: &mut Observer<'_>,
    ) {
        let mut cache = std::mem::replace(&mut workspace.cache, LayerCache::new(config));
        cache.clear();
        workspace.rotary.prepare(config, 0, hidden.len() / config.hidden_size);
        self.forward(config, hidden, &mut cache, workspace, observer);
        workspace.cache = cache;
    }

    /// Runs the next tokens of a sequence through the block in place; `cache` holds the earlier ones,
    /// and the workspace's rotary table is prepared for all of them.
    pub(crate) fn forward(
        &self,
        config: &ModelConfig,
        hidden: &mut [f32],
        cache: &mut LayerCache,
        workspace: &mut Workspace,
        observer: &mut Observer<'_>,
    ) {
        assert!(hidden.len().is_multiple_of(config.hidden_size), "hidden states are no whole rows");
        let tokens = hidden.len() / config.hidden_size;
        if tokens == 0 {
            return;
        }
        let w = workspace;
        let eps = config.rms_norm_eps;
        let size = |site: LinearSite| tokens * site.shape(config).0;

        rms_norm(hidden, &self.attention_norm, eps, &mut w.normed);
        observer(LinearInput::Attention, &w.normed, tokens);
        w.queries.resize(size(LinearSite::Q), 0.0);
        w.keys.resize(size(LinearSite::K), 0.0);
        w.values.resize(size(LinearSite::V), 0.0);
        self.project(
            [
                (LinearSite::Q, &mut w.queries[..]),
                (LinearSite::K, &mut w.keys[..]),
                (LinearSite::V, &mut w.values[..]),
            ],
            &w.normed,
            tokens,
        );
        if let Some((queries, keys)) = &self.head_norms {
            rms_norm_in_place(&mut w.queries, queries, eps);
            rms_norm_in_place(&mut w.keys, keys, eps);
        }
        let rows =
            w.queries.chunks_exact_mut(config.query_width()).zip(w.keys.chunks_exact_mut(config.key_width()));
        for (position, (queries, keys)) in (cache.len()..).zip(rows) {
            w.rotary.turn(queries, position);
            w.rotary.turn(keys, position);
        }
        cache.push(config, &w.keys, &w.values, tokens);
        w.heads.resize(size(LinearSite::Q), 0.0);
        let window = config.windows[self.index];
        attend(config, window, cache, &w.queries, tokens, &mut w.scores, &mut w.heads);
        observer(LinearInput::AttentionOutput, &w.heads, tokens);
        w.output.resize(size(LinearSite::O), 0.0);
        self.project([(LinearSite::O, &mut w.output[..])], &w.heads, tokens);
        add(hidden, &w.output);

        rms_norm(hidden, &self.mlp_norm, eps, &mut w.normed);
        observer(LinearInput::Mlp, &w.normed, tokens);
        w.gate.resize(size(LinearSite::Gate), 0.0);
        w.up.resize(size(LinearSite::Up), 0.0);
        self.project(
            [(LinearSite::Gate, &mut w.gate[..]), (LinearSite::Up, &mut w.up[..])],
            &w.normed,
            tokens,
        );
        gated(config.activation, &mut w.gate, &w.up);
        observer(LinearInput::MlpActivation, &w.gate, tokens);
        w.output.resize(size(LinearSite::Down), 0.0);
        self.project([(LinearSite::Down, &mut w.output[..])], &w.gate, tokens);
        add(hidden, &w.output);
    }

    /// Runs linear layers that share their input; one token runs them in one parallel region.
    fn project<const N: usize>(&self, sites: [(LinearSite, &mut [f32]); N], x: &[f32], tokens: usize) {
        let selective = sites.iter().any(|(site, _)| self.linear(*site).selection.is_some());
        if tokens > 1 || N == 1 || selective {
            for (site, y) in sites {
                self.linear(site).forward(x, tokens, y);
            }
            return;
        }
        let names = sites.each_ref().map(|(site, _)| *site);
        let mut products = sites.map(|(site, y)| (&self.linear(site).weight, y));
        apply_many(&mut products, x);
        for (site, (_, y)) in names.into_iter().zip(products) {
            self.linear(site).add_bias(y);
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `gate = activation(gate) * up`.
fn gated(kind: Activation, gate: &mut [f32], up: &[f32]) {
    let piece = |(gate, up): (&mut [f32], &[f32])| {
        let pairs = gate.iter_mut().zip(up);
        match kind {
            Activation::Silu => pairs.for_each(|(g, u)| *g = *g / (1.0 + exp(-*g)) * u),
            Activation::GeluTanh => pairs.for_each(|(g, u)| *g = gelu_tanh(*g) * u),
        }
    };
    if gate.len() < PIECE {
        piece((gate, up));
    } else {
        gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).for_each(piece);
    }
}

fn gelu_tanh(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// `out = x / rms(x) * weight` for every row of `x`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    out.copy_from_slice(x);
    rms_norm_in_place(out, weight, eps);
}

fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(weight.len()) {
        let scale = 1.0 / (sum_of_squares(row) / weight.len() as f32 + eps).sqrt();
        row.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * scale * w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_follow_their_definitions() {
        // Long enough for several pieces.
        let x: Vec<f32> = (0..PIECE + 1000).map(|i| (i % 401) as f32 / 10.0 - 20.0).collect();
        let up: Vec<f32> = (0..x.len()).map(|i| (i % 7) as f32 - 3.0).collect();
        type Definition = fn(f64) -> f64;
        let definitions: [(Activation, Definition); 2] = [
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::GeluTanh, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }),
        ];
        for (kind, definition) in definitions {
            let mut gate = x.clone();
            gated(kind, &mut gate, &up);
            for ((g, x), u) in gate.iter().zip(&x).zip(&up) {
                let want = definition(f64::from(*x)) * f64::from(*u);
                assert!((f64::from(*g) - want).abs() <= 2e-6 * want.abs().max(1.0), "{kind:?} {x}");
            }
        }
    }

    #[test]
    fn norms_have_unit_mean_square() {
        let mut x: Vec<f32> = (0..3 * 37).map(|i| (i % 13) as f32 - 5.0).collect();
        rms_norm_in_place(&mut x, &[2.0; 37], 1e-12);
        for row in x.chunks_exact(37) {
            let mean = row.iter().map(|v| v * v).sum::<f32>() / 37.0;
            assert!((mean - 4.0).abs() < 1e-5);
        }
    }
}
