//! Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), 2023,
//! arXiv 2306.11695; official code locuslab/wanda.
//!
//! Score of weight `(i, j)` of `W: out x in`: `|W_ij| n_j`, where `n_j² = (1/S) sum_s sum_t x_stj²` is the energy
//! of input channel `j` over the tokens of a sequence, averaged over `S` calibration sequences (section 3,
//! equation 1). The lowest scores of every output row are dropped; no weight changes. Cost `O(out in)` beside the
//! moments of the inputs, which the calibration collects anyway.
//!
//! `marginal` is the largest dropped score: a weight times the root of its channel's energy per sequence, that is
//! the norm of what the weight contributes to its output over a sequence.
//!
//! Where we differ: counts are exact under ties, and the scope is a parameter. Comparing within a row is right for
//! large models and is the default; on small models comparing within the layer is often better (10 M weights: 1.658
//! against 1.668 bits per byte at 70 % removed, but 1.595 against 1.591 at 60 %). Try both.
//!
//! When not to use it: where [`super::sparsegpt`] can be afforded, above half removed; its update of the kept
//! weights makes up for more than any mask does.

use sparseland_linalg::Mat;

use super::mask::{MaskedLayer, Pruned, Pruner, Scope, Selection, outputs_first};
use crate::CompressError;
use crate::allocation::Budget;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};
use crate::statistics::InputStatistics;

/// Wanda.
#[derive(Debug, Clone, Copy)]
pub struct Wanda {
    /// Pattern and scope.
    pub selection: Selection,
}

impl Default for Wanda {
    fn default() -> Self {
        Self { selection: Selection::unstructured(Scope::Row) }
    }
}

/// `n_j`: the root of a channel's energy per sequence.
///
/// # Errors
/// If no token reached the layer.
pub fn norms(inputs: &InputStatistics) -> Result<Vec<f64>, CompressError> {
    if inputs.tokens == 0 || inputs.sequences == 0 {
        return Err(CompressError::Unreached);
    }
    Ok(inputs.squares.iter().map(|s| (s / inputs.sequences as f64).sqrt()).collect())
}

/// `|W_ij| n_j` of weights `out x in`.
///
/// # Panics
/// If there is not one norm per column.
pub fn scores(weights: &Mat<f64>, norms: &[f64]) -> Mat<f64> {
    let mut scores = super::magnitude::scores(weights);
    scores.scale_columns(norms);
    scores
}

pub(crate) fn pruner(weights: Mat<f64>, norms: Vec<f64>) -> Pruner {
    Box::new(move |keep| Ok(Pruned::by_scores(weights.clone(), &scores(&weights, &norms), keep)))
}

impl LayerMethod for Wanda {
    fn slug(&self) -> &'static str {
        "wanda"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn check(&self, budget: &Budget) -> Result<(), CompressError> {
        self.selection.check(budget)
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let weights = outputs_first(self.slug(), &problem)?;
        let prune = pruner(weights, norms(problem.inputs()?)?);
        Ok(Box::new(MaskedLayer { slug: self.slug(), problem, selection: self.selection, prune }))
    }
}
