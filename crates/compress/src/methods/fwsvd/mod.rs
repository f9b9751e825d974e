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
//! | `kronecker` | `A (x) B`, `A = mean Gᵀ G` of inputs, `B = mean G Gᵀ` of outputs, `G` the gradient of an example (as in GFWSVD, arXiv 2505.17974) | `F` is such a product |
//!
//! Weights alone say nothing of correlations, and that is what they lose by. On a classifier (Fashion-MNIST,
//! 784-512-512-10, hidden layers compressed, not fine-tuned, mean of 5 seeds, 2000 items, dense 89.2 %):
//!
//! | share of parameters | 30 % | 20 % | 10 % | 5 % |
//! |---|---|---|---|---|
//! | plain SVD | 87.6 | 86.9 | 85.5 | 69.8 |
//! | `input` (the paper) | 86.9 | 83.1 | 62.0 | 31.9 |
//! | `kronecker` | 88.5 | 88.2 | 86.5 | 77.4 |
//!
//! What the paper's form loses there is the second hidden layer, whose inputs are rectified and all positive; in an
//! independent implementation (one seed, 20 / 10 / 5 %): plain SVD 84.4 / 80.2 / 56.4, `input` on 2000 training items 71.6 /
//! 46.2 / 21.3, on all 60 000 77.0 / 47.7 / 23.7, on held-out items 79.6 / 56.4 / 19.3, with labels drawn from the model 78.9 / 52.0 /
//! 21.6; the first layer alone 85.4 / 84.3 / 73.9, the second alone 83.1 / 58.3 / 24.8; the square root of the weights 83.5 / 72.5 /
//! 40.1. So neither the items nor the labels nor the size of the weights are at fault; full correlations of the inputs
//! alone give 87.8 / 85.6 / 69.9, of both sides 88.4 / 87.2 / 83.2. On a language model of 10 M parameters at half the
//! parameters `kronecker` gives 1.5479 bits per byte, whitened SVD 1.5507. The default stays the paper's, whose
//! memory is linear.
//!
//! `both` is no clear gain over `input`: on the acceptance experiment's language models it was better in 3 cells of 7.
//!
//! Cost: one backward pass per example ([`Fisher`]), then one SVD per layer, `O(d1 d2 min(d1, d2))`. Memory beside the
//! network and its gradients: `d1 + d2` numbers per layer (`d1² + d2²` for `kronecker`, whose sums cost
//! `O(d1 d2 (d1 + d2))` per example); squares are summed as soon as an example is done.
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

pub use fisher::{Correlations, Fisher, LayerFisher};
pub use weighted::{WeightedSvd, elementwise};

pub(crate) use weighted::Prepared;

use sparseland_linalg::{Mat, Whitener, cholesky_robust};

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
    /// The correlated weights of inputs times those of outputs.
    Kronecker,
}

impl Axis {
    /// Whether it looks at more than one number per input and output.
    pub(crate) fn correlated(self) -> bool {
        self == Self::Kronecker
    }
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
        let weighted = self.decompose(&problem.name, &problem.weight)?;
        Ok(Box::new(Prepared { slug: "fwsvd", weighted, problem }))
    }
}

impl Fwsvd {
    /// The weighted decomposition of a layer's weight, inputs first.
    ///
    /// # Errors
    /// If there is no information on the layer, it is damaged or of another size, or the decomposition fails.
    pub fn decompose(&self, name: &str, weight: &Mat<f64>) -> Result<WeightedSvd, CompressError> {
        let (d1, d2) = weight.shape();
        let layer = self.fisher.layer(name, d1, d2)?;
        if self.axis.correlated() {
            let Some(full) = &layer.correlations else {
                return Err(CompressError::Setting(format!(
                    "the Fisher information of {name} has no correlations; measure it with axis=kronecker"
                )));
            };
            return WeightedSvd::correlated(weight, &damped(&full.inputs)?, &damped(&full.outputs)?);
        }
        let rows = if self.axis == Axis::Output { vec![1.0; d1] } else { scales(&layer.inputs) };
        let cols = if self.axis == Axis::Input { vec![1.0; d2] } else { scales(&layer.outputs) };
        WeightedSvd::new(weight, rows, cols)
    }
}

/// Added to the diagonal of correlations, relative to its mean: few examples do not tell all directions.
pub const DAMPING: f64 = 1e-3;

/// `L` with `LᵀL` the damped correlations; the identity where there is no information.
fn damped(correlations: &Mat<f64>) -> Result<Whitener, CompressError> {
    let n = correlations.rows;
    let mean = (0..n).map(|i| correlations.at(i, i)).sum::<f64>() / n.max(1) as f64;
    if mean <= 0.0 {
        return Ok(Whitener::identity(n));
    }
    let damped = |i: usize, j: usize| correlations.at(i, j) / mean + if i == j { DAMPING } else { 0.0 };
    Ok(cholesky_robust(&Mat::from_fn(n, n, damped))?)
}

/// Square roots of floored weights, relative to their mean; ones where there is no information.
pub(crate) fn scales(weights: &[f64]) -> Vec<f64> {
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    if mean <= 0.0 {
        return vec![1.0; weights.len()];
    }
    weights.iter().map(|w| (w / mean).max(FLOOR).sqrt()).collect()
}
