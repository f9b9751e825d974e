//! Makhov, Shopkhoev, Zhussip, Ali, Lefkimmiatis, "CoSpaDi: Compressing LLMs via Calibration-Guided Sparse
//! Dictionary Learning", 2025, arXiv 2509.22075; no public code.
//!
//! Every linear layer `W: d1 x d2` becomes a dense dictionary times column-sparse coefficients,
//! `W ~ D S` (`D: d1 x k`, `S: k x d2`, at most `s` non-zeros per column, `k / s = rho`), learned by alternating
//! sparse coding and dictionary updates on the whitened weight:
//!
//! ```text
//! min ||L (W - D S)||_F²   with   ||S_j||_0 <= s for every column j,   LᵀL = sum x xᵀ
//! ```
//!
//! The result is stored as ROCKET's: the product of a sparse and a dense matrix. Where ROCKET thins out one basis
//! of singular vectors in one shot, the atoms here are fitted to their users round after round, which costs much
//! more time and leaves a smaller error (the acceptance experiment has both).
//!
//! Cost per layer: `O(d1² d2)` once (shared with ROCKET: everything happens in the `r = min(d1, d2)` dimensional
//! eigenbasis of the whitened weight), then per round `d2 (k r + k s² / 2)` multiply-adds of coding and
//! `(power_iters + 1) 2 r s d2` of updates; memory `8 d2 (2 r + k)` bytes. See [`crate::dictionary`].
//!
//! Where we differ from the paper:
//! - atoms are picked by the drop of the residual (orthogonal least squares), not by plain correlation: as cheap with
//!   a progressive Cholesky factor, and better where it makes a difference (random starts); `pursuit` switches back;
//! - a column keeps its old code where the greedy one is worse, so that the objective never rises (`monotone`);
//! - the dictionary starts from the singular vectors by default, which beats the paper's random columns on all but
//!   unions of subspaces; `init` switches back, or to ROCKET's closed form;
//! - unused atoms take the direction of the worst column instead of staying;
//! - at `s = k` the problem is that of whitened SVD, and its closed form is used;
//! - coefficients keep all bits of their type: the paper cuts two of sixteen to pay for the mask. Count bytes
//!   to see the mask's price.
//!
//! When not to use it: where minutes matter; at a few per cent removed, where sparse factors store more than they
//! save; with few outputs per layer, where the atoms overfit.

pub mod experiment;
mod start;

use sparseland_core::{Context, Event};
use sparseland_linalg::{Mat, matmul_transposed_left};
use sparseland_matrix::{Layout, Matrix, ValueType};

pub use start::Init;

use super::rocket::factorize::{self, Fit};
use super::rocket::{Basis, Rocket};
use super::svd::marginal;
use crate::CompressError;
use crate::dictionary::{Pursuit, Update};
use crate::problem::{
    Candidate, Errors, FactorShape, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer, foreign_layout,
};
use crate::statistics::InputStatistics;

/// The parameters of the factorisation.
#[derive(Debug, Clone)]
pub struct Cospadi {
    /// Atoms per coefficient of a column, `k / s` (paper: 2, the best of `[1, 5]`).
    pub rho: f64,
    /// Rounds of coding and updating (paper: 60, flat after 50).
    pub iters: usize,
    /// Rounds while sizes are compared, before the final factorisation: errors of a plan are upper bounds.
    pub profile_iters: usize,
    /// How atoms are updated (paper: 8 power iterations).
    pub update: Update,
    /// The dictionary that the first round begins with.
    pub init: Init,
    /// How atoms are picked.
    pub pursuit: Pursuit,
    /// Keep a column's old code where the new one is worse.
    pub monotone: bool,
    /// Stop when a round lowers the objective by less than this share.
    pub tolerance: f64,
    /// For the random atoms of a start (paper: 42).
    pub seed: u64,
    /// Where the objective of every round is reported, and whether to stop is asked.
    pub context: Option<Context>,
}

impl Default for Cospadi {
    fn default() -> Self {
        Self {
            rho: 2.0,
            iters: 60,
            profile_iters: 3,
            update: Update::Power(8),
            init: Init::Svd,
            pursuit: Pursuit::LeastSquares,
            monotone: true,
            tolerance: 1e-4,
            seed: 42,
            context: None,
        }
    }
}

/// A learned factorisation.
pub struct Learned {
    pub(crate) fit: Fit,
    /// The objective `||L (W - D S)||²` after the first coding and after every round.
    pub history: Vec<f64>,
    /// Relative errors.
    pub errors: Errors,
}

struct Prepared<'a> {
    cospadi: &'a Cospadi,
    basis: Basis,
    name: String,
    values: ValueType,
}

impl LayerMethod for Cospadi {
    fn slug(&self) -> &'static str {
        "cospadi"
    }

    fn needs(&self) -> Needs {
        Needs::Whitener
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let basis = Basis::new(&problem)?;
        Ok(Box::new(Prepared { cospadi: self, basis, name: problem.name, values: problem.values }))
    }
}

impl Cospadi {
    /// Learns one layer at one size, `iters` rounds.
    ///
    /// # Errors
    /// If the layer has no calibration or a decomposition fails.
    pub fn learn(&self, problem: &LayerProblem, shape: FactorShape) -> Result<Learned, CompressError> {
        self.rounds(&Basis::new(problem)?, &problem.name, shape, self.iters)
    }

    fn rounds(
        &self,
        basis: &Basis,
        name: &str,
        shape: FactorShape,
        rounds: usize,
    ) -> Result<Learned, CompressError> {
        if shape.s >= shape.k {
            // Dense coefficients: the leading singular vectors are optimal.
            let fit = factorize::fit(basis, FactorShape { k: shape.k, s: shape.k }, &Rocket::default())?;
            let errors = fit.errors(basis)?;
            return Ok(Learned { fit, history: Vec::new(), errors });
        }
        let mut learner = start::learner(self, basis, shape)?;
        let mut watch = |round: usize, objective: f64| -> Result<(), CompressError> {
            if let Some(context) = &self.context {
                context.check_cancelled()?;
                if rounds == self.iters {
                    let relative = (objective / basis.output_energy().max(f64::MIN_POSITIVE)).sqrt();
                    let message = format!("{name}, round {round}: output error {relative:.5}");
                    context.report(Event::Line(&message));
                }
            }
            Ok(())
        };
        let history = learner.learn(rounds, self.update, self.monotone, self.tolerance, &mut watch)?;
        let (codes, atoms) = learner.into_parts();
        let fit = Fit::new(basis, codes, atoms)?;
        let errors = fit.errors(basis)?;
        Ok(Learned { fit, history, errors })
    }

    fn shape(&self, sides: (usize, usize), limit: Limit) -> Option<FactorShape> {
        if self.rho > 1.0 {
            FactorShape::fitting_any_rank(sides, self.rho, limit)
        } else {
            FactorShape::fitting(sides, 1.0, limit)
        }
    }
}

impl PreparedLayer for Prepared<'_> {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let (inputs, outputs) = self.basis.sides();
        let Some(shape) = self.cospadi.shape((inputs, outputs), limit) else { return Ok(None) };
        let rounds = self.cospadi.profile_iters.min(self.cospadi.iters);
        let found = self.cospadi.rounds(&self.basis, &self.name, shape, rounds)?;
        Ok(Some(Candidate {
            layout: shape.layout(inputs, outputs, limit.values),
            errors: found.errors,
            marginal: marginal(&self.basis.energies, shape.k),
        }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let shape = FactorShape::of(layout).ok_or_else(|| foreign_layout("cospadi", layout))?;
        let found = self.cospadi.rounds(&self.basis, &self.name, shape, self.cospadi.iters)?;
        Ok(found.fit.into_factors(&self.basis, shape)?.into_matrix(self.values))
    }
}

/// One problem for several layers that share their dictionary: their weights side by side (`d1 x sum d2`) on the
/// mean of their Gram matrices. Codes of layer `l` are the columns of its outputs.
///
/// The paper's approximation: with a Gram matrix per layer the dictionary would solve a Kronecker system.
///
/// # Errors
/// If the layers differ in inputs, there is none, or one has no Gram matrix.
pub fn shared(problems: &[LayerProblem]) -> Result<LayerProblem, CompressError> {
    let Some(first) = problems.first() else {
        return Err(CompressError::Setting("sharing a dictionary needs at least one layer".into()));
    };
    let inputs = first.weight.rows;
    if let Some(other) = problems.iter().find(|p| p.weight.rows != inputs) {
        return Err(CompressError::Setting(format!(
            "{} has {} inputs and {} has {inputs}; layers that share a dictionary need as many",
            other.name, other.weight.rows, first.name
        )));
    }
    let mut gram = Mat::zeros(inputs, inputs);
    let mut tokens = 0;
    for problem in problems {
        let statistics = problem.inputs()?;
        let own = match statistics.gram() {
            Ok(gram) => gram.clone(),
            Err(_) => {
                let l = statistics.whitener()?.factor();
                matmul_transposed_left(l, l)?
            }
        };
        gram.data.iter_mut().zip(&own.data).for_each(|(g, o)| *g += o / problems.len() as f64);
        tokens += statistics.tokens;
    }
    let outputs = problems.iter().map(|p| p.weight.cols).sum();
    let mut weight = Mat::zeros(inputs, outputs);
    for i in 0..inputs {
        let row = problems.iter().flat_map(|p| p.weight.row(i));
        weight.row_mut(i).iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    }
    let names: Vec<&str> = problems.iter().map(|p| p.name.as_str()).collect();
    Ok(LayerProblem {
        name: names.join(" + "),
        weight,
        inputs: Some(InputStatistics::from_gram(gram, tokens / problems.len() as u64).into()),
        original: None,
        values: first.values,
    })
}
