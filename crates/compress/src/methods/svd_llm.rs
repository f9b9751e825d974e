//! Wang et al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model
//! Compression", 2024, arXiv 2403.07378: whitened SVD (step 1, truncation-aware whitening).
//!
//! `min ||L (W - W~)||_F` over rank `r`, with `LᵀL = sum x xᵀ` over the calibration inputs:
//! `L W = U s Vᵀ`, `W~ = L⁻¹ U_r sqrt(s_r) · sqrt(s_r) V_rᵀ`. This is the optimal rank-`r` weight for
//! the output error on the calibration data. Cost `O(d1² d2)` for the whitening and
//! `O(d1 d2 min(d1, d2))` for the SVD, once per layer.
//!
//! Differences from the official code: the Gram matrix is summed in f64 and the jitter is scale
//! free. The paper's step 2 (re-solving the left factor on real inputs) is not applied.
//!
//! When not to use it: below about 20 % removed, where a factorisation must first win back the
//! parameters of its second factor; prefer ROCKET, which contains it as `rho = 1`.

use sparseland_linalg::{Mat, Svd, svd};
use sparseland_matrix::{Layout, Matrix};

use super::svd::{marginal, rank_of, split, tail};
use crate::CompressError;
use crate::problem::{
    Candidate, Errors, FactorShape, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer, norm, ratio,
};

/// Whitened SVD.
#[derive(Debug, Clone, Copy, Default)]
pub struct SvdLlm;

struct Prepared {
    svd: Svd<f64>,
    /// `sum_{t >= k} ||L⁻¹ u_t||² s_t²` is not the weight error (the terms are not orthogonal), so
    /// the Gram matrix of `L⁻¹ U diag(s)` is kept.
    unwhitened: Mat<f64>,
    problem: LayerProblem,
}

impl LayerMethod for SvdLlm {
    fn slug(&self) -> &'static str {
        "svd-llm"
    }

    fn needs(&self) -> Needs {
        Needs::Whitener
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let whitener = problem.whitener()?;
        let svd = svd(&whitener.apply(&problem.weight)?)?;
        let unwhitened = whitener.solve(&svd.u)?;
        Ok(Box::new(Prepared { svd, unwhitened, problem }))
    }
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
        let whitener = self.problem.whitener()?;
        let factors = split(&self.svd, rank_of("svd-llm", layout)?, |u| Ok(whitener.solve(&u)?))?;
        Ok(factors.into_matrix(self.problem.values))
    }
}
