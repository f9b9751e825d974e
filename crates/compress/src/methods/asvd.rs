//! Yuan, Shang, Song, Wu, Yan, Sun, "ASVD: Activation-aware Singular Value Decomposition for Compressing Large Language
//! Models", 2023, arXiv 2312.05821; official code hahnyuan/ASVD4LLM.
//!
//! Truncated SVD of every linear layer `W: d1 x d2` (inputs first) whose rows are scaled by the size of their inputs:
//! `diag(a) W = U s Vᵀ`, `W~ = diag(a)⁻¹ U_r s_r V_rᵀ`, `a_i = (mean |x_i|)^alpha`. Optimal for the output error if the
//! inputs are uncorrelated and `a_i` is their root mean square; [`super::svd_llm`] needs neither. Cost
//! `O(d1 d2 min(d1, d2))` once per layer.
//!
//! The paper's allocation (each layer's own loss, one threshold over all) is `--allocation sensitivity`, which works with
//! any method. Weights are floored relative to their mean instead of at 1e-6.
//!
//! When not to use it: where Gram matrices fit in memory, whitened SVD is better at the same size.

use super::fwsvd::{FLOOR, Prepared, WeightedSvd};
use crate::CompressError;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};

/// Activation-aware SVD.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asvd {
    /// The power of the mean absolute input (paper: 0.5; 0 is plain SVD).
    pub alpha: f64,
}

impl Default for Asvd {
    fn default() -> Self {
        Self { alpha: 0.5 }
    }
}

impl LayerMethod for Asvd {
    fn slug(&self) -> &'static str {
        "asvd"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let sizes = &problem.inputs()?.mean_abs;
        let mean = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
        // Inputs that are never used tell nothing: all alike.
        let scale = |&size: &f64| if mean > 0.0 { (size / mean).max(FLOOR).powf(self.alpha) } else { 1.0 };
        let rows = sizes.iter().map(scale).collect();
        let weighted = WeightedSvd::new(&problem.weight, rows, vec![1.0; problem.weight.cols])?;
        Ok(Box::new(Prepared { slug: "asvd", weighted, problem }))
    }
}
