//! Calibration: which sequences of text, and how they stream through the network block by block.
//!
//! Memory holds one block, its Gram matrices and the hidden states of the sequences (which move to a
//! file when large): never the whole model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;
use sparseland_core::{Context, Event};
use sparseland_data::Checkpoint;
use sparseland_linalg::{Mat, matmul_transposed_left};
use sparseland_nn::{Block, LinearInput, ModelConfig, Workspace, embed};

use crate::CompressError;
use crate::hidden::HiddenStates;
use crate::problem::Needs;
use crate::statistics::{Collector, InputStatistics, OriginalInputs};

/// The fewest tokens that calibration accepts.
const FEWEST_TOKENS: usize = 64;

/// A larger share of dropped tokens is an error.
const DROPPED_LIMIT: f64 = 0.01;

/// Token sequences for calibration.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The sequences.
    pub sequences: Vec<Vec<u32>>,
}

impl Calibration {
    /// Draws up to `samples` sequences of `length` tokens from the token stream of a text: windows
    /// that do not overlap, in random order, the last one possibly shorter.
    ///
    /// # Errors
    /// [`CompressError::ShortCalibration`] for fewer than 64 tokens.
    pub fn sample(
        tokens: &[u32],
        samples: usize,
        length: usize,
        context: &Context,
    ) -> Result<Self, CompressError> {
        if tokens.len() < FEWEST_TOKENS {
            return Err(CompressError::ShortCalibration { tokens: tokens.len(), needed: FEWEST_TOKENS });
        }
        let mut rng = context.rng(1);
        // A random phase, so that seeds differ even where every window is used.
        let windows = tokens.len() / length;
        let phase =
            if windows > samples { rng.random_range(0..tokens.len() - windows * length + 1) } else { 0 };
        let mut sequences: Vec<Vec<u32>> = tokens[phase..].chunks(length).map(<[u32]>::to_vec).collect();
        if sequences.len() > 1 {
            sequences.retain(|s| s.len() >= FEWEST_TOKENS.min(length));
        }
        sequences.shuffle(&mut rng);
        sequences.truncate(samples);
        Ok(Self { sequences })
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// A fingerprint of the tokens (FNV-1a), recorded in the plan and the report.
    pub fn fingerprint(&self) -> String {
        let mut hash = crate::fingerprint::Fnv::new();
        for sequence in &self.sequences {
            hash.add(&(sequence.len() as u64).to_le_bytes());
            sequence.iter().for_each(|t| hash.add(&t.to_le_bytes()));
        }
        hash.finish()
    }
}

/// The statistics of one block, one entry per group of layers that share an input.
pub type BlockStatistics = BTreeMap<LinearInput, Arc<InputStatistics>>;

/// The calibration sequences on their way through the network.
pub(crate) struct Stream<'a> {
    config: &'a ModelConfig,
    sequences: &'a [Vec<u32>],
    hidden: HiddenStates,
    workspace: Workspace,
    current: Vec<f32>,
    needs: Needs,
}

impl<'a> Stream<'a> {
    /// Embeds the sequences.
    pub(crate) fn start(
        checkpoint: &Checkpoint,
        config: &'a ModelConfig,
        calibration: &'a Calibration,
        needs: Needs,
        scratch: &Path,
    ) -> Result<Self, CompressError> {
        let sequences = &calibration.sequences;
        let lengths = sequences.iter().map(|s| s.len() * config.hidden_size);
        let mut hidden = HiddenStates::new(lengths, scratch)?;
        for (i, states) in embed(checkpoint, config, sequences)?.enumerate() {
            hidden.write(i, &states?)?;
        }
        Ok(Self { config, sequences, hidden, workspace: Workspace::new(config), current: Vec::new(), needs })
    }

    /// Number of sequences.
    pub(crate) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// The tokens of a sequence and its hidden states where the stream stands.
    pub(crate) fn states(&mut self, index: usize) -> Result<(&'a [u32], Vec<f32>), CompressError> {
        let mut states = Vec::new();
        self.hidden.read(index, &mut states)?;
        Ok((&self.sequences[index], states))
    }

    /// About `rows` inputs of every group of layers, taken from the sequences in turn; the hidden states stay.
    pub(crate) fn sample_inputs(
        &mut self,
        block: &Block,
        rows: usize,
    ) -> Result<BTreeMap<LinearInput, Arc<Vec<f32>>>, CompressError> {
        let mut samples: BTreeMap<LinearInput, Vec<f32>> = BTreeMap::new();
        // Every sequence gives its share, spread over its length.
        let share = rows.div_ceil(self.hidden.len().max(1));
        for i in 0..self.hidden.len() {
            self.hidden.read(i, &mut self.current)?;
            block.forward_sequence(
                self.config,
                &mut self.current,
                &mut self.workspace,
                &mut |input, x, tokens| {
                    let width = x.len() / tokens.max(1);
                    let stride = (tokens / share).max(1);
                    let rows = x.chunks_exact(width.max(1)).step_by(stride).flatten();
                    samples.entry(input).or_default().extend(rows);
                },
            );
        }
        Ok(samples.into_iter().map(|(input, rows)| (input, Arc::new(rows))).collect())
    }

    /// Runs the sequences through `block` and returns the statistics of its inputs; the hidden
    /// states stay as they were before the block.
    pub(crate) fn observe(
        &mut self,
        block: &Block,
        index: usize,
        context: &Context,
    ) -> Result<BlockStatistics, CompressError> {
        self.pass(block, index, context, true, false)
    }

    /// What `original`'s hidden states send into the layers of `block`, beside what this stream's send there; both
    /// streams stay where they are.
    pub(crate) fn beside(
        &mut self,
        original: &mut Stream<'_>,
        block: &Block,
        index: usize,
        context: &Context,
    ) -> Result<BTreeMap<LinearInput, Arc<OriginalInputs>>, CompressError> {
        let mut cross = self.cross(original, block, context)?;
        let statistics = original.observe(block, index, context)?;
        let one = |(input, statistics)| {
            Some((input, Arc::new(OriginalInputs { statistics, cross: cross.remove(&input)? })))
        };
        Ok(statistics.into_iter().filter_map(one).collect())
    }

    /// `sum x x'ᵀ` for every group of layers, `x` the inputs that `original`'s hidden states give in `block` and `x'`
    /// those of this stream's. Tokens of which either is not finite are left out.
    fn cross(
        &mut self,
        original: &mut Stream<'_>,
        block: &Block,
        context: &Context,
    ) -> Result<BTreeMap<LinearInput, Mat<f64>>, CompressError> {
        let mut sums: BTreeMap<LinearInput, Mat<f64>> = BTreeMap::new();
        for i in 0..self.hidden.len() {
            context.check_cancelled()?;
            let mut theirs: BTreeMap<LinearInput, Mat<f64>> = BTreeMap::new();
            original.hidden.read(i, &mut original.current)?;
            let widen = |x: &[f32], tokens: usize| Mat {
                rows: tokens,
                cols: x.len() / tokens.max(1),
                data: x.iter().map(|&v| f64::from(v)).collect(),
            };
            block.forward_sequence(
                self.config,
                &mut original.current,
                &mut original.workspace,
                &mut |input, x, tokens| drop(theirs.insert(input, widen(x, tokens))),
            );
            self.hidden.read(i, &mut self.current)?;
            let mut failed = None;
            block.forward_sequence(
                self.config,
                &mut self.current,
                &mut self.workspace,
                &mut |input, x, tokens| {
                    let (mut ours, Some(theirs)) = (widen(x, tokens), theirs.get_mut(&input)) else { return };
                    for t in 0..tokens {
                        if !ours.row(t).iter().chain(theirs.row(t)).all(|v| v.is_finite()) {
                            ours.row_mut(t).fill(0.0);
                            theirs.row_mut(t).fill(0.0);
                        }
                    }
                    match (matmul_transposed_left(theirs, &ours), sums.get_mut(&input)) {
                        (Ok(found), Some(sum)) => {
                            sum.data.iter_mut().zip(&found.data).for_each(|(s, v)| *s += v);
                        }
                        (Ok(found), None) => drop(sums.insert(input, found)),
                        (Err(error), _) => failed = Some(error),
                    }
                },
            );
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        Ok(sums)
    }

    /// Runs the sequences through `block` and keeps its outputs.
    pub(crate) fn advance(
        &mut self,
        block: &Block,
        index: usize,
        context: &Context,
    ) -> Result<(), CompressError> {
        self.pass(block, index, context, false, true).map(|_| ())
    }

    /// Both at once.
    pub(crate) fn observe_and_advance(
        &mut self,
        block: &Block,
        index: usize,
        context: &Context,
    ) -> Result<BlockStatistics, CompressError> {
        self.pass(block, index, context, true, true)
    }

    fn pass(
        &mut self,
        block: &Block,
        index: usize,
        context: &Context,
        observe: bool,
        keep: bool,
    ) -> Result<BlockStatistics, CompressError> {
        let mut collectors: BTreeMap<LinearInput, Collector> = BTreeMap::new();
        let (mut failed, mut seen) = (None, 0u64);
        for i in 0..self.hidden.len() {
            context.check_cancelled()?;
            self.hidden.read(i, &mut self.current)?;
            seen += self.sequences[i].len() as u64;
            block.forward_sequence(
                self.config,
                &mut self.current,
                &mut self.workspace,
                &mut |input, x, tokens| {
                    if observe {
                        let width = x.len() / tokens.max(1);
                        let collector = collectors.entry(input).or_insert_with(|| Collector::new(width));
                        if let Err(error) = collector.add(x) {
                            failed = failed.take().or(Some(error));
                        }
                    }
                },
            );
            if keep {
                self.hidden.write(i, &self.current)?;
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(worst) = collectors.values().map(Collector::dropped).max()
            && worst > 0
        {
            if worst as f64 > DROPPED_LIMIT * seen as f64 {
                return Err(CompressError::NonFinite { dropped: worst, tokens: seen, block: index });
            }
            context.report(Event::Warning(&format!(
                "{worst} of {seen} calibration tokens give non-finite activations in block {index}; left out"
            )));
        }
        let needs = self.needs;
        collectors.into_iter().map(|(input, c)| Ok((input, Arc::new(c.finish(needs)?)))).collect()
    }
}
