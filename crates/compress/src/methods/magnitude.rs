//! Magnitude pruning: the smallest weights go (Han, Pool, Tran, Dally, "Learning both Weights and Connections
//! for Efficient Neural Networks", 2015, arXiv 1506.02626), here without the retraining.
//!
//! Score of weight `(i, j)`: `|W_ij|`. The default scope is the layer, one threshold for the whole tensor, as
//! in the public code of Wanda's authors; theirs compares with `<=` and drops more than asked where weights tie,
//! here the count is exact. Cost `O(out in)`; no calibration text.
//!
//! `marginal` is the largest dropped `|W_ij|`, in the unit of the weights: `--allocation threshold` then prunes
//! all layers below one magnitude.
//!
//! When not to use it: where calibration text is at hand. [`super::wanda`] costs as little and knows the inputs;
//! the two agree only where all input channels are equally strong.

use sparseland_linalg::Mat;

use super::mask::{MaskedLayer, Pruned, Pruner, Scope, Selection, outputs_first};
use crate::CompressError;
use crate::allocation::Budget;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};

/// Magnitude pruning.
#[derive(Debug, Clone, Copy)]
pub struct Magnitude {
    /// Pattern and scope.
    pub selection: Selection,
}

impl Default for Magnitude {
    fn default() -> Self {
        Self { selection: Selection::unstructured(Scope::Layer) }
    }
}

/// `|W_ij|`.
pub fn scores(weights: &Mat<f64>) -> Mat<f64> {
    Mat { rows: weights.rows, cols: weights.cols, data: weights.data.iter().map(|w| w.abs()).collect() }
}

pub(crate) fn pruner(weights: Mat<f64>) -> Pruner {
    Box::new(move |keep| Ok(Pruned::by_scores(weights.clone(), &scores(&weights), keep)))
}

impl LayerMethod for Magnitude {
    fn slug(&self) -> &'static str {
        "magnitude"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn check(&self, budget: &Budget) -> Result<(), CompressError> {
        self.selection.check(budget)
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let weights = outputs_first(self.slug(), &problem)?;
        let prune = pruner(weights);
        Ok(Box::new(MaskedLayer { slug: self.slug(), problem, selection: self.selection, prune }))
    }
}
