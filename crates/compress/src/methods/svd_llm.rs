//! Wang et al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model
//! Compression", 2024, arXiv 2403.07378: whitened SVD (step 1, truncation-aware whitening).
//!
//! `min ||L (W - W~)||_F` over rank `r`, with `LᵀL = sum x xᵀ` over the calibration inputs:
//! `L W = U s Vᵀ`, `W~ = L⁻¹ U_r sqrt(s_r) · sqrt(s_r) V_rᵀ`. This is the optimal rank-`r` weight for
//! the output error on the calibration data. Cost `O(d1² d2)` for the whitening and
//! `O(d1 d2 min(d1, d2))` for the SVD, once per layer.
//!
//! What may follow the truncation ([`Update`]), with `X'` the inputs that the already compressed blocks before produce
//! and `X` those of the original network:
//!
//! | update | right factor | left factor | optimal for |
//! |---|---|---|---|
//! | `false` | whitened by `X'` | of the same SVD | `\|\|X' (W - W~)\|\|` over rank `r` |
//! | `true` | whitened by `X` | least squares on `X'`: `B = (V G' Vᵀ)⁻¹ V G' W`, `G' = X'ᵀ X'` | that over the left factor only |
//! | `original` | whitened by `X'` | of the SVD of `W* = G'⁻¹ X'ᵀ X W` | `\|\|X W - X' W~\|\|` over rank `r` |
//!
//! `true` is the paper's second step: its code whitens once by the dense network and then re-solves `U` block by
//! block on the inputs that the compressed blocks before produce. As the table says, whitening by those inputs in
//! the first place, which this crate does for every method, leaves the second step nothing to gain on its own
//! measure. `original` (ours) follows the outputs of the original network instead, so that a layer also makes up
//! for what the layers before it lost; `W*` is the regression of those outputs on the inputs in use.
//!
//! Measured on a model of 10 M parameters (novels, uniform ranks, 64 x 256 calibration tokens, bits per byte of unseen text,
//! dense 1.5193):
//!
//! | removed | `false` | `true` | `original` |
//! |---|---|---|---|
//! | 20 % | 1.5255 | 1.5256 | **1.5248** |
//! | 50 % | 1.5507 | 1.5504 | **1.5495** |
//! | 60 % | 1.5792 | **1.5784** | 1.5798 |
//!
//! No difference is above 0.1 %: the second step is off by default.
//!
//! Differences from the official code: the Gram matrix is summed in f64 and the jitter is scale free; systems have a
//! ridge of [`RIDGE`] for directions that no calibration text reaches.
//!
//! When not to use it: below about 20 % removed, where a factorisation must first win back the
//! parameters of its second factor; prefer ROCKET, which contains it as `rho = 1`.

use sparseland_linalg::{Mat, Svd, matmul, matmul_transposed_left, matmul_transposed_right, solve_spd, svd};
use sparseland_matrix::{Layout, Matrix};

use super::svd::{marginal, rank_of, tail};
use crate::CompressError;
use crate::problem::{
    Candidate, Errors, FactorShape, Factors, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer, norm,
    ratio,
};
use crate::statistics::InputStatistics;

/// What happens after the truncation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Update {
    /// Nothing.
    #[default]
    None,
    /// The paper's second step: the left factor again, on the inputs in use.
    Left,
    /// Both factors for the outputs of the original network (ours).
    Original,
}

/// Whitened SVD.
#[derive(Debug, Clone, Copy, Default)]
pub struct SvdLlm {
    /// What happens after the truncation.
    pub update: Update,
}

struct Prepared {
    svd: Svd<f64>,
    /// `sum_{t >= k} ||L⁻¹ u_t||² s_t²` is not the weight error (the terms are not orthogonal), so
    /// the Gram matrix of `L⁻¹ U diag(s)` is kept.
    unwhitened: Mat<f64>,
    problem: LayerProblem,
    /// Whether the left factor is to be solved again for the inputs in use.
    updates: bool,
}

impl LayerMethod for SvdLlm {
    fn slug(&self) -> &'static str {
        "svd-llm"
    }

    fn needs(&self) -> Needs {
        if self.update == Update::None { Needs::Whitener } else { Needs::Gram }
    }

    fn needs_original(&self) -> bool {
        self.update != Update::None
    }

    fn prepare<'a>(
        &'a self,
        mut problem: LayerProblem,
    ) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let original = problem.original.clone();
        if let (Update::Original, Some(original)) = (self.update, &original) {
            problem.weight = transported(&problem.weight, problem.inputs()?, &original.cross)?;
        }
        let before = original.filter(|_| self.update == Update::Left);
        let whitener = match &before {
            Some(original) => original.statistics.whitener()?,
            None => problem.whitener()?,
        };
        let svd = svd(&whitener.apply(&problem.weight)?)?;
        let unwhitened = whitener.solve(&svd.u)?;
        let updates = before.is_some();
        Ok(Box::new(Prepared { svd, unwhitened, problem, updates }))
    }
}

/// Ridge of the systems relative to their mean diagonal: calibration text may not reach every direction.
pub const RIDGE: f64 = 1e-9;

/// A Gram matrix with its ridge.
fn ridged(mut gram: Mat<f64>) -> Mat<f64> {
    let n = gram.rows;
    let trace: f64 = (0..n).map(|i| gram.at(i, i)).sum();
    (0..n).for_each(|i| gram.data[i * n + i] += RIDGE * trace / n as f64);
    gram
}

/// The left factor `out x k` that is best beside a right factor `k x in` for the outputs of `weight: in x out` on given
/// inputs: it solves the normal equations `(right G rightᵀ) leftᵀ = right G weight`. Cost `O(in² k + in k (k + out))`.
///
/// # Errors
/// If the statistics hold no Gram matrix or the shapes differ.
pub fn best_left(
    weight: &Mat<f64>,
    inputs: &InputStatistics,
    right: &Mat<f64>,
) -> Result<Mat<f64>, CompressError> {
    let seen = matmul_transposed_right(inputs.gram()?, right)?;
    let system = ridged(matmul(right, &seen)?);
    Ok(solve_spd(&system, &matmul_transposed_left(&seen, weight)?)?.transposed())
}

/// The weight `in x out` whose outputs on the inputs in use come closest to those of `weight` on the original ones.
fn transported(
    weight: &Mat<f64>,
    inputs: &InputStatistics,
    cross: &Mat<f64>,
) -> Result<Mat<f64>, CompressError> {
    Ok(solve_spd(&ridged(inputs.gram()?.clone()), &matmul_transposed_left(cross, weight)?)?)
}

impl PreparedLayer for Prepared {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let sides = self.problem.sides();
        let Some(shape) = FactorShape::fitting(sides, 1.0, limit) else {
            return Ok(None);
        };
        // W - W~ = L⁻¹ U_tail diag(s_tail) V_tailᵀ, and V has orthonormal rows.
        let s = &self.svd.s;
        let residual = (0..sides.0)
            .flat_map(|i| (shape.k..s.len()).map(move |t| (i, t)))
            .map(|(i, t)| (self.unwhitened.at(i, t) * s[t]).powi(2))
            .sum::<f64>()
            .sqrt();
        let weight = ratio(residual, norm(&self.problem.weight));
        Ok(Some(Candidate {
            layout: shape.layout(sides.0, sides.1, limit.values),
            errors: Errors { weight, output: tail(s, shape.k) },
            marginal: marginal(s, shape.k),
        }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let k = rank_of("svd-llm", layout)?;
        let Svd { s, vt, .. } = &self.svd;
        let right = Mat::from_fn(k, self.unwhitened.rows, |t, i| self.unwhitened.at(i, t) * s[t].sqrt());
        let left = match self.updates {
            true => best_left(&self.problem.weight, self.problem.inputs()?, &right)?,
            false => Mat::from_fn(vt.cols, k, |j, t| vt.at(t, j) * s[t].sqrt()),
        };
        Ok(Factors { left, right, sparse: false }.into_matrix(self.problem.values))
    }
}
