//! Jaiswal, Yin, Zhang, Liu, Zhao, Tian, Wang, "From GaLore to WeLore: How Low-Rank Weights Non-uniformly Emerge from
//! Low-Rank Gradients", arXiv 2407.11239 (2024); ICML 2025 as "From Low Rank Gradient Subspace Stabilization to Low-Rank
//! Weights"; official code VITA-Group/WeLore.
//!
//! Data-free choice of a rank for every matrix from one global threshold. With singular values `s_1 >= ... >= s_p`,
//! `n_t = (s_t - s_p) / (s_1 - s_p)` lies in `[0, 1]`, and a matrix keeps `r = #{t: n_t >= threshold}` of them:
//! matrices whose spectra fall off early lose most. A matrix with `r < p / 2` is a *low-rank component*; fine-tuning
//! trains only the factors of these ([`low_rank_layers`] finds them in a checkpoint) and leaves the rest frozen.
//!
//! Two ways to use it:
//! - [`Welore`] as any other method: plain truncation whose score is the normalised singular value, so that
//!   `--allocation threshold` spreads the budget by the paper's rule over the sizes of the grid;
//! - [`Spectra::threshold`] finds the exact threshold for a share of ranks or of parameters, [`Spectra::split`] the table
//!   of classes, [`Spectra::plan`] a plan that the pipeline builds.
//!
//! Cost: `O(d1 d2 min(d1, d2))` per layer for the values, `O(N log N)` for the threshold over all `N` values.
//!
//! Where we differ from the paper or its code:
//! - the threshold is an order statistic of the pooled values, not the first of steps of 0.005 that comes close;
//! - the share of ranks (their "ERR") and the share of parameters are told apart: a factor pair of rank `r` stores
//!   `r (d1 + d2)` numbers, more than the dense matrix above `d1 d2 / (d1 + d2)`. Such a matrix stays dense unless
//!   asked for;
//! - a constant spectrum, where the normalisation is 0 / 0, keeps its full rank;
//! - [`Normalise::Energy`] replaces the normalisation where one outlying `s_1` makes all else look small.
//!
//! When not to use it: where calibration text is at hand and nothing will be fine-tuned, since whitened SVD and ROCKET
//! lose far less at equal size.

pub mod experiment;
mod spectra;

use sparseland_matrix::{Layout, LinearMap, Matrix};
use sparseland_nn::structure::Structure;

pub use spectra::{Class, Normalise, Spectra, Spectrum, SplitLayer, Target, Threshold};

use super::svd;
use crate::CompressError;
use crate::problem::{Candidate, FactorShape, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer};

/// The share of its ranks that a low-rank component keeps at most (paper: half).
pub const LRC_CUT: f64 = 0.5;

/// Truncation by normalised singular values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Welore {
    /// How spectra are made comparable.
    pub normalise: Normalise,
    /// A layer is factorised only if it loses more than this share of its ranks (official code: 0 for compression,
    /// 0.4999 for fine-tuning, which then has dense frozen layers and low-rank components only).
    pub min_ratio: f64,
}

impl Default for Welore {
    fn default() -> Self {
        Self { normalise: Normalise::MinMax, min_ratio: 0.0 }
    }
}

struct Prepared<'a> {
    welore: &'a Welore,
    plain: svd::Prepared,
    scores: Vec<f64>,
    sides: (usize, usize),
}

impl LayerMethod for Welore {
    fn slug(&self) -> &'static str {
        "welore"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let sides = problem.sides();
        let plain = svd::Prepared::new(problem)?;
        let scores = self.normalise.scores(&plain.svd.s);
        Ok(Box::new(Prepared { welore: self, plain, scores, sides }))
    }
}

impl PreparedLayer for Prepared<'_> {
    fn candidate(&self, limit: Limit, near: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let Some(mut found) = self.plain.candidate(limit, near)? else { return Ok(None) };
        let kept = FactorShape::of(&found.layout).map_or(0, |shape| shape.k);
        let full = self.sides.0.min(self.sides.1);
        found.marginal = self.scores.get(kept).copied();
        let dropped = 1.0 - kept as f64 / full as f64;
        Ok((dropped > self.welore.min_ratio).then_some(found))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        self.plain.build(layout)
    }
}

/// The layers of a checkpoint that are low-rank components: stored as a product of two dense factors whose rank is
/// below `cut` times the smaller side. Training only these is the paper's fine-tuning.
///
/// `structure` is read from the checkpoint's `config.json` ([`Structure::read`]), so the list needs no other file.
pub fn low_rank_layers(structure: &Structure, cut: f64) -> Vec<String> {
    let low = |layout: &Layout| {
        FactorShape::of(layout)
            .is_some_and(|f| f.s == f.k && (f.k as f64) < cut * layout.rows().min(layout.cols()) as f64)
    };
    structure.layers.iter().filter(|(_, layer)| low(&layer.layout)).map(|(name, _)| name.clone()).collect()
}

/// A matrix cut to rank `k`, stored dense: for looking at what truncation costs, apart from storage.
///
/// # Errors
/// If the decomposition fails.
pub fn truncated(weight: &Matrix, k: usize) -> Result<Matrix, CompressError> {
    let dense = sparseland_linalg::Mat::from_vec(weight.rows(), weight.cols(), weight.to_dense())?;
    let cut = sparseland_linalg::svd_truncated(&dense.cast::<f64>(), k)?.reconstruct().cast::<f32>();
    let values = sparseland_matrix::ValueType::F32;
    Ok(sparseland_matrix::Dense::from_f32(cut.rows, cut.cols, &cut.data, values).into())
}
