//! Zhang, Zhao, Lin, Sun, Yao, Han, Tanner, Liu, Ji, "Dynamic Sparse No Training: Training-Free Fine-tuning for
//! Sparse LLMs", ICLR 2024, arXiv 2310.08915; official code zyxxmu/DSnoT.
//!
//! Takes a mask made by another method and swaps a few weights per output row, so that the expected output
//! `sum_j W_ij m_j` (`m_j` the mean of input `j`) comes closer to the dense one. No gradients; no weight changes
//! its value; every row keeps its count. With contributions `c_ij = W_ij m_j` and the row error
//! `e_i = sum of c_ij over what is dropped`, until `|e_i|` is within the threshold or the cycles are used up:
//! 1. grow: of the dropped weights whose `c_ij` has the sign of `e_i`, the one with the largest
//!    `|c_ij| / v_j^p` (`v_j` the variance of input `j`);
//! 2. prune: of the originally kept weights whose `c_ij` has the other sign, the one with the smallest Wanda score
//!    `|W_ij| n_j`;
//! 3. `e_i <- e_i + c_pruned - c_grown`.
//!
//! N:M masks: grow as above, then prune the kept weight with the smallest starting score in the same group,
//! whatever its sign; a row also ends when its error changes sign.
//!
//! Cost: `O(out in)`, about that of a Wanda mask (partial selection of at most `cycles` candidates per row, no
//! sorts); memory `O(in)` per thread. The guard adds one product, `O(out in²)`.
//!
//! Where we differ from the paper or its code:
//! - `cycles` is `min(50, ceil(0.012 in))`: on LLaMA the paper's 50 touch 1.2 % of a row, on a row of 96 they
//!   would replace half of what is kept and do real damage; `cycle-share 1` is the paper;
//! - a row ends with the swaps up to its smallest `|e_i|`: the last swap may overshoot, so that the official row
//!   can end worse than it began, ours cannot;
//! - the optional guard passes over swaps that would make the part of the row's squared output error that varies from
//!   token to token grow: the row error looks at the mean alone and pays for it with the rest;
//! - the official mean is summed over tokens and divided by sequences, so that its threshold 0.1 is in units of a
//!   whole sequence, and rows hardly ever reach it: they use up their cycles. [`Unit`] says which; per token is the
//!   default here, since on a trained model of 10 M weights the official unit made every starting mask worse;
//! - zero contributions are no candidates, an empty list ends the row, a variance of 0 counts as
//!   `1e-12` of the mean variance;
//! - from SparseGPT: a real SparseGPT result (mask and updated weights), whose row error counts the updates too
//!   (the official code never accumulates `H`);
//! - nothing is skipped by default (the official command line leaves the MLP at its starting mask);
//! - layers that fewer than [`FEWEST_TOKENS`] tokens reach keep their starting mask.
//!
//! When not to use it: on networks whose inputs have weak means (mean over deviation below about 0.5, small
//! networks), where there is little to gain: on a language model of 10 M weights it helped magnitude at 60 % removed
//! (1.606 to 1.602 bits per byte) and hurt both magnitude and Wanda at 70 %; and after SparseGPT, which has spent the same slack already.

pub mod experiment;
mod refine;

use std::str::FromStr;

use sparseland_linalg::{Mat, matmul};

pub use refine::{Channels, Refinement, Row, refine_mask};

use super::magnitude::{self, Magnitude};
use super::mask::{Keep, MaskedLayer, Pattern, Pruned, Pruner, Selection, outputs_first};
use super::sparsegpt::{Inverse, SparseGpt};
use super::wanda::{self, Wanda};
use crate::CompressError;
use crate::allocation::Budget;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};
use crate::statistics::InputStatistics;

/// Fewer tokens say nothing about means: the starting mask stays.
pub const FEWEST_TOKENS: u64 = 100;

/// The method that makes the starting mask.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// Magnitude.
    Magnitude(Magnitude),
    /// Wanda.
    Wanda(Wanda),
    /// SparseGPT, with its updated weights.
    SparseGpt(SparseGpt),
}

impl Start {
    fn selection(&self) -> Selection {
        match self {
            Self::Magnitude(m) => m.selection,
            Self::Wanda(w) => w.selection,
            Self::SparseGpt(s) => s.selection,
        }
    }
}

/// The unit of input means, and so of row errors and the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Mean over tokens.
    PerToken,
    /// Sum over the tokens of a sequence, averaged over sequences: the official unit, which reproduces the paper's
    /// threshold where sequences are as long as there (2048).
    PerSequence,
}

impl FromStr for Unit {
    type Err = CompressError;

    fn from_str(text: &str) -> Result<Self, CompressError> {
        match text {
            "token" => Ok(Self::PerToken),
            "sequence" => Ok(Self::PerSequence),
            other => {
                Err(CompressError::Mask(format!("no unit is called {other}, there are token and sequence")))
            }
        }
    }
}

/// Layers that keep their starting mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// None.
    Nothing,
    /// The MLP's, as the official command line does.
    Mlp,
    /// The attention's.
    Attention,
}

impl FromStr for Skip {
    type Err = CompressError;

    fn from_str(text: &str) -> Result<Self, CompressError> {
        match text {
            "nothing" => Ok(Self::Nothing),
            "mlp" => Ok(Self::Mlp),
            "attention" => Ok(Self::Attention),
            other => Err(CompressError::Mask(format!("no layers are called {other}"))),
        }
    }
}

/// When a row's swaps end, and how candidates are ranked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// The most swaps per row (paper: 50).
    pub max_cycles: usize,
    /// The most swaps per row as a share of its inputs, rounded up (ours: 0.012, the paper's 50 of 4096).
    pub cycle_share: f64,
    /// A row ends when its error is at most this (paper: 0.1, in the unit of the means).
    pub threshold: f64,
    /// The power of the variance in the ranking of what grows (paper: 1).
    pub var_power: f64,
    /// Whether unstructured rows end when their error changes sign (official default: no). N:M rows always do.
    pub sign_stop: bool,
    /// The most by which the swaps may let a row's squared output error (`E G Eᵀ` with the `gram` of the
    /// channels; [`Dsnot`] gives the centred one) grow, relative to its start; `None` does not look.
    pub guard: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_cycles: 50,
            cycle_share: 0.012,
            threshold: 0.1,
            var_power: 1.0,
            sign_stop: false,
            guard: None,
        }
    }
}

impl Config {
    /// The most swaps of a row with so many inputs.
    pub fn cycles(&self, inputs: usize) -> usize {
        self.max_cycles.min((self.cycle_share * inputs as f64).ceil() as usize)
    }
}

/// A starting mask and its refinement.
#[derive(Debug, Clone, Copy)]
pub struct Dsnot {
    /// What makes the starting mask; its pattern is kept.
    pub start: Start,
    /// When rows end.
    pub config: Config,
    /// The unit of the means.
    pub unit: Unit,
    /// Which layers stay at the start.
    pub skip: Skip,
}

impl Default for Dsnot {
    fn default() -> Self {
        Self {
            start: Start::Wanda(Wanda::default()),
            config: Config::default(),
            unit: Unit::PerToken,
            skip: Skip::Nothing,
        }
    }
}

/// The means of the inputs in a unit.
pub fn means(inputs: &InputStatistics, unit: Unit) -> Vec<f64> {
    let factor = match unit {
        Unit::PerToken => 1.0,
        Unit::PerSequence => inputs.tokens as f64 / inputs.sequences.max(1) as f64,
    };
    inputs.mean.iter().map(|m| m * factor).collect()
}

/// What refining a layer needs, made once.
struct Refiner {
    dense: Mat<f64>,
    start: Pruner,
    pattern: Pattern,
    mean: Vec<f64>,
    variance: Vec<f64>,
    norm: Vec<f64>,
    gram: Option<Mat<f64>>,
    config: Config,
}

impl Refiner {
    fn refine(&self, keep: Keep) -> Result<Pruned, CompressError> {
        let mut pruned = (self.start)(keep)?;
        let channels = Channels {
            mean: &self.mean,
            variance: &self.variance,
            norm: &self.norm,
            gram: self.gram.as_ref(),
        };
        let dense = &self.dense;
        pruned.mask =
            refine_mask(dense, &pruned.values, &pruned.mask, self.pattern, &channels, &self.config)?.mask;
        Ok(pruned)
    }
}

impl Dsnot {
    fn skips(&self, layer: &str) -> bool {
        match self.skip {
            Skip::Nothing => false,
            Skip::Mlp => layer.contains(".mlp."),
            Skip::Attention => layer.contains(".self_attn."),
        }
    }
}

impl LayerMethod for Dsnot {
    fn slug(&self) -> &'static str {
        "dsnot"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn check(&self, budget: &Budget) -> Result<(), CompressError> {
        self.start.selection().check(budget)
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let dense = outputs_first(self.slug(), &problem)?;
        let inputs = problem.inputs()?;
        let selection = self.start.selection();
        let structured = selection.pattern != Pattern::Unstructured;
        let mut norm = wanda::norms(inputs)?;
        let start: Pruner = match self.start {
            Start::Magnitude(_) => {
                if structured {
                    norm.fill(1.0);
                }
                magnitude::pruner(dense.clone())
            }
            Start::Wanda(_) => wanda::pruner(dense.clone(), norm.clone()),
            Start::SparseGpt(method) => {
                let inverse = Inverse::new(inputs, method.dampening)?;
                if structured {
                    // |W_ij| / R_jj orders as its square, the starting score.
                    norm = (0..inverse.factor.rows).map(|j| 1.0 / inverse.factor.at(j, j)).collect();
                }
                method.pruner(dense.clone(), inverse)
            }
        };
        let prune: Pruner = if inputs.tokens < FEWEST_TOKENS || self.skips(&problem.name) {
            start
        } else {
            let refiner = Refiner {
                dense,
                start,
                pattern: selection.pattern,
                mean: means(inputs, self.unit),
                variance: inputs.variance(),
                norm,
                gram: if self.config.guard.is_some() { Some(centred(inputs)?) } else { None },
                config: self.config,
            };
            Box::new(move |keep| refiner.refine(keep))
        };
        Ok(Box::new(MaskedLayer { slug: self.slug(), problem, selection, prune }))
    }
}

/// `sum (x - m)(x - m)ᵀ`: what varies from token to token.
///
/// # Errors
/// If the Gram matrix was not kept.
pub fn centred(inputs: &InputStatistics) -> Result<Mat<f64>, CompressError> {
    let (gram, mean, tokens) = (inputs.gram()?, &inputs.mean, inputs.tokens as f64);
    Ok(Mat::from_fn(gram.rows, gram.cols, |i, j| gram.at(i, j) - tokens * mean[i] * mean[j]))
}

/// `E G` for the guard: the gradient of every row's squared output error.
fn gradients(errors: &Mat<f64>, gram: &Mat<f64>) -> Result<Mat<f64>, CompressError> {
    Ok(matmul(errors, gram)?)
}
