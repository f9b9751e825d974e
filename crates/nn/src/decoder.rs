//! A whole decoder: embedding, blocks, norm, head.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, DType, TensorSource};
use sparseland_matrix::{Dense, LinearMap, Matrix};

use crate::attention::LayerCache;
use crate::block::{Block, Workspace, rms_norm};
use crate::linear::{Linear, LoadOptions, load_dense, load_vector, load_weight};
use crate::structure::{HEAD, Structure};
use crate::{LinearSite, ModelConfig, NnError};

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Tokens for which a cache takes memory at once; beyond them it doubles.
const RESERVED: usize = 1024;

/// A causal language model.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    embedding: Dense,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    /// `None`: the embedding is the head.
    head: Option<Linear>,
}

/// Keys and values of a sequence under way, and the buffers of its forward passes.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    workspace: Workspace,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    logits: Vec<f32>,
    limit: usize,
}

impl KvCache {
    /// A cache for at most `tokens` tokens. Memory grows with the tokens seen.
    pub fn new(config: &ModelConfig, tokens: usize) -> Self {
        let layer = || {
            let mut layer = LayerCache::new(config);
            layer.reserve(tokens.min(RESERVED));
            layer
        };
        Self {
            layers: (0..config.num_hidden_layers).map(|_| layer()).collect(),
            workspace: Workspace::new(config),
            hidden: Vec::new(),
            normed: Vec::new(),
            logits: Vec::new(),
            limit: tokens,
        }
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::len)
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Decoder {
    /// Loads a model.
    ///
    /// # Errors
    /// If the configuration is not understood or a tensor is missing, misshapen, damaged or not
    /// finite; the message names it.
    pub fn load(checkpoint: &Checkpoint, context: &Context) -> Result<Self, NnError> {
        Self::load_with(checkpoint, &LoadOptions::default(), context)
    }

    /// Loads a model with options.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        context: &Context,
    ) -> Result<Self, NnError> {
        let config = ModelConfig::from_checkpoint(checkpoint)?;
        let structure = Structure::read(checkpoint.config())?;
        structure.check(&config)?;
        context.report(Event::Stage { name: "loading", total: config.num_hidden_layers });
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        let mut shared = BTreeMap::new();
        for index in 0..config.num_hidden_layers {
            context.check_cancelled()?;
            let mut block = Block::load_structured(checkpoint, &config, &structure, index, options)?;
            for site in LinearSite::ALL {
                structure.unite(&site.full_name(index), &mut block.linear_mut(site).weight, &mut shared);
            }
            blocks.push(block);
            context.report(Event::Step { done: index + 1, message: "" });
        }
        let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
        let head = if config.tie_word_embeddings {
            None
        } else {
            let shape = (vocabulary, hidden);
            let weight = load_weight(checkpoint, &structure, HEAD, shape, &LoadOptions::default())?;
            Some(Linear { weight, bias: None, selection: None })
        };
        Ok(Self {
            embedding: load_dense(checkpoint, EMBEDDING, vocabulary, hidden)?,
            norm: load_vector(checkpoint, "model.norm.weight", hidden)?,
            blocks,
            head,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The blocks, to replace their weights.
    pub fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    /// Bytes of all matrices as stored, embedding and head included; a factor that several layers share counts once.
    pub fn stored_bytes(&self) -> u64 {
        let linears = self.blocks.iter().flat_map(Block::linears).map(|(_, linear)| linear).chain(&self.head);
        let mut seen = BTreeSet::new();
        let bytes = |weight: &Matrix| match weight {
            Matrix::Product(product) => {
                let new = product.factors().into_iter().filter(|f| seen.insert(Arc::as_ptr(f)));
                new.map(|factor| factor.stored_bytes()).sum()
            }
            other => other.stored_bytes(),
        };
        linears.map(|linear| &linear.weight).map(bytes).sum::<u64>() + self.embedding.stored_bytes()
    }

    fn embed(&self, tokens: &[u32], out: &mut Vec<f32>) -> Result<(), NnError> {
        let width = self.config.hidden_size;
        out.resize(tokens.len() * width, 0.0);
        for (&token, row) in tokens.iter().zip(out.chunks_exact_mut(width)) {
            check_token(token, &self.config)?;
            self.embedding.row_into(token as usize, row);
        }
        Ok(())
    }

    /// `logits = head(norm(hidden))` for `rows` rows.
    pub(crate) fn head(&self, hidden: &[f32], rows: usize, normed: &mut Vec<f32>, logits: &mut Vec<f32>) {
        rms_norm(hidden, &self.norm, self.config.rms_norm_eps, normed);
        logits.resize(rows * self.config.vocab_size, 0.0);
        match &self.head {
            Some(head) => head.forward(normed, rows, logits),
            None if rows == 1 => self.embedding.apply(normed, logits),
            None => self.embedding.apply_batch(normed, rows, logits),
        }
    }

    /// Hidden states of a whole sequence before the last norm, `tokens x hidden`.
    ///
    /// # Errors
    /// [`NnError::Token`] for a token outside the vocabulary.
    pub fn hidden_states(&self, tokens: &[u32], workspace: &mut Workspace) -> Result<Vec<f32>, NnError> {
        let mut hidden = Vec::new();
        self.embed(tokens, &mut hidden)?;
        for block in &self.blocks {
            block.forward_sequence(&self.config, &mut hidden, workspace, &mut |_, _, _| {});
        }
        Ok(hidden)
    }

    /// Logits at every position of a sequence, `tokens x vocabulary`. For long texts prefer
    /// [`crate::score`], which never holds them all.
    ///
    /// # Errors
    /// [`NnError::Token`] for a token outside the vocabulary.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, NnError> {
        let hidden = self.hidden_states(tokens, &mut Workspace::new(&self.config))?;
        let (mut normed, mut logits) = (Vec::new(), Vec::new());
        self.head(&hidden, tokens.len(), &mut normed, &mut logits);
        Ok(logits)
    }

    /// Feeds the next tokens and returns the logits after the last one.
    ///
    /// # Errors
    /// [`NnError::Token`]; [`NnError::Context`] if the cache is full; [`NnError::ShortText`] without
    /// tokens. The cache stays as it was.
    pub fn prefill<'c>(&self, tokens: &[u32], cache: &'c mut KvCache) -> Result<&'c [f32], NnError> {
        let length = cache.len() + tokens.len();
        if length > cache.limit {
            return Err(NnError::Context { tokens: length, context: cache.limit });
        }
        if tokens.is_empty() {
            return Err(NnError::ShortText { tokens: 0, needed: 1 });
        }
        let KvCache { layers, workspace, hidden, normed, logits, .. } = cache;
        self.embed(tokens, hidden)?;
        workspace.rotary.prepare(&self.config, length - tokens.len(), length);
        for (block, layer) in self.blocks.iter().zip(layers) {
            block.forward(&self.config, hidden, layer, workspace, &mut |_, _, _| {});
        }
        self.head(&hidden[(tokens.len() - 1) * self.config.hidden_size..], 1, normed, logits);
        Ok(logits)
    }

    /// Feeds one token and returns the logits after it.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn forward_one<'c>(&self, token: u32, cache: &'c mut KvCache) -> Result<&'c [f32], NnError> {
        self.prefill(&[token], cache)
    }
}

fn check_token(token: u32, config: &ModelConfig) -> Result<(), NnError> {
    if (token as usize) < config.vocab_size {
        Ok(())
    } else {
        Err(NnError::Token { token, vocabulary: config.vocab_size })
    }
}

/// Embeds sequences by reading only the rows they need: for streaming through a model that is never
/// wholly in memory.
///
/// # Errors
/// If the embedding is missing or misshapen; each item fails for a token outside the vocabulary or a
/// value that is not finite.
pub fn embed<'a>(
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    sequences: &'a [Vec<u32>],
) -> Result<impl Iterator<Item = Result<Vec<f32>, NnError>> + 'a, NnError> {
    let info = checkpoint.expect_shape(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
    // An int8 embedding would need its scales; no writer of ours makes one.
    if !matches!(info.dtype, DType::F32 | DType::BF16 | DType::F16 | DType::F64) {
        return Err(NnError::Config(format!("{EMBEDDING} has type {:?}, not a float", info.dtype)));
    }
    Ok(sequences.iter().map(|sequence| {
        let mut states = Vec::with_capacity(sequence.len() * config.hidden_size);
        for &token in sequence {
            check_token(token, config)?;
            let row = token as usize;
            let values = checkpoint.read_rows_f32(EMBEDDING, row..row + 1)?;
            if let Some(column) = values.iter().position(|v| !v.is_finite()) {
                return Err(NnError::Config(format!("{EMBEDDING}[{row}, {column}] is {}", values[column])));
            }
            states.extend(values);
        }
        Ok(states)
    }))
}
