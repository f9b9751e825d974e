//! Hsu, Hua, Chang, Lou, Shen, Jin, "Language model compression with weighted low-rank factorization", ICLR 2022,
//! arXiv 2207.00112; no official code.
//!
//! Truncated SVD of every linear layer `W: d1 x d2` (inputs first), its rows weighted by how much the loss minds their
//! errors. With the empirical Fisher information `F_ij = mean_d (dL(d) / dW_ij)²`, one gradient per example `d`, the
//! problem `min sum_ij F_ij (W - W~)_ij²` has no closed form; with one weight per input, `f_i = sum_j F_ij`, it has:
//!
//! ```text
//! diag(sqrt f) W = U s Vᵀ,   W~ = diag(sqrt f)⁻¹ U_r s_r V_rᵀ
//! ```
//!
//! | axis | weights | exact if |
//! |---|---|---|
//! | `input` | `f_i = sum_j F_ij` (the paper) | `F` depends on the input only |
//! | `output` | `g_j = sum_i F_ij` | `F` depends on the output only |
//! | `both` | `f_i g_j / sum F` (ours) | `F` has rank one, as for independent inputs and gradients |
//!
//! `both` is no clear gain over `input`: on the acceptance experiment's language models it was better in 3 cells of 7.
//!
//! Cost: one backward pass per example ([`Fisher`]), then one SVD per layer, `O(d1 d2 min(d1, d2))`. Memory beside the
//! network and its gradients: `d1 + d2` numbers per layer; squares are summed as soon as an example is done.
//!
//! Where we differ from the public implementations:
//! - gradients of single examples are squared, as the definition says, not those of batches;
//! - weights are floored relative to their mean ([`FLOOR`]), not at a fixed number, so that the scale of the loss does
//!   not matter;
//! - a layer without any Fisher information is treated as by plain SVD;
//! - the loss is that of the language model itself: the negative log-likelihood of each calibration sequence.
//!
//! [`elementwise`] solves the problem with one weight per entry, for matrices whose full `F` is at hand.
//!
//! When not to use it: for the perplexity of a language model, where the output error on calibration text
//! ([`super::svd_llm`], ROCKET) is the better guide; for a network whose task has labels, that is what it was made
//! for.

pub mod experiment;
mod fisher;
mod weighted;

pub use fisher::{Fisher, LayerFisher};
pub use weighted::{WeightedSvd, elementwise};

pub(crate) use weighted::Prepared;

use crate::CompressError;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};

/// The smallest weight relative to the mean: the inverse of a weight is applied, and an input without any information
/// must not turn into infinity.
pub const FLOOR: f64 = 1e-6;

/// Which entries share a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Axis {
    /// Those of an input (the paper).
    #[default]
    Input,
    /// Those of an output.
    Output,
    /// A weight per input times a weight per output.
    Both,
}

/// Fisher-weighted SVD.
#[derive(Debug, Clone)]
pub struct Fwsvd {
    /// What the loss minds, per layer.
    pub fisher: Fisher,
    /// Which entries share a weight.
    pub axis: Axis,
}

impl LayerMethod for Fwsvd {
    fn slug(&self) -> &'static str {
        "fwsvd"
    }

    /// The weights need no inputs; output errors are reported for comparison with other methods.
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let (d1, d2) = problem.sides();
        let layer = self.fisher.layer(&problem.name, d1, d2)?;
        let rows = if self.axis == Axis::Output { vec![1.0; d1] } else { scales(&layer.inputs) };
        let cols = if self.axis == Axis::Input { vec![1.0; d2] } else { scales(&layer.outputs) };
        let weighted = WeightedSvd::new(&problem.weight, rows, cols)?;
        Ok(Box::new(Prepared { slug: "fwsvd", weighted, problem }))
    }
}

/// Square roots of floored weights, relative to their mean; ones where there is no information.
pub(crate) fn scales(weights: &[f64]) -> Vec<f64> {
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    if mean <= 0.0 {
        return vec![1.0; weights.len()];
    }
    weights.iter().map(|w| (w / mean).max(FLOOR).sqrt()).collect()
}
