//! Solvers of penalised regressions by coordinate descent on working sets.
//!
//! | solver | problem |
//! |---|---|
//! | [`Quadratic`] | `\|\|y - Z w\|\|² / (2 N) + sum_j pen_j(w_j)`, any [`Penalty`](crate::penalty::Penalty) |
//! | [`Blocks`] | the same loss for one target or several, a [`GroupPenalty`](crate::penalty::GroupPenalty) over groups or tasks |
//! | [`Glm`] | a [`Datafit`](crate::datafit::Datafit) or [`Cox`](crate::cox::Cox) in place of the square, by proximal Newton |
//! | [`Softmax`] | the log loss of several classes, a [`RowPenalty`] over features |
//!
//! `Z` is a [`Centred`](crate::design::Centred) design and `N` the sum of the weights of its rows.
//!
//! # Method
//! Working sets as in celer (Massias, Gramfort and Salmon, ICML 2018) and skglm (Bertrand et al.,
//! NeurIPS 2022): solve on few features, check all, add the worst. Three things differ.
//!
//! 1. *Inner problems are solved through the Gram matrix of the working set*, which grows by the
//!    features that enter and is kept along a path. A sweep costs nothing for coordinates that stay.
//! 2. *Newton steps on the support.* Between sweeps the smooth problem on the current support is solved
//!    exactly by a Cholesky factor that is updated as features come and go; coefficients that would
//!    change sign are set to zero, and the step counts only if the objective falls. With correlated
//!    columns this replaces thousands of sweeps. Inner solutions are exact, so that extrapolation of
//!    the dual point has nothing left to gain.
//! 3. *Checks skip what cannot have changed.* A residual that moved by `d` since a feature was last
//!    looked at moves its gradient by at most `||z_j|| d / N`. On top of that, features are discarded by
//!    the gap-safe sphere (Ndiaye et al., JMLR 2017) when the problem is convex.
//!
//! Working sets beyond [`Options::gram_limit`] are solved on the residual, with Anderson extrapolation
//! (Bertrand and Massias, AISTATS 2021).

mod anderson;
mod blocks;
mod factor;
mod glm;
mod gram;
mod inner;
mod quadratic;
mod softmax;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use glm::Glm;
pub use quadratic::Quadratic;
pub use softmax::{RowKind, RowPenalty, Softmax};

/// When to stop, and how much memory to use.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Relative accuracy. Convex squared losses stop when the duality gap is at most `tol` times the
    /// objective at zero; all others when no coefficient's distance to stationarity is above `tol`
    /// times the greatest gradient at zero.
    pub tol: f64,
    /// Most rounds of growing the working set.
    pub max_rounds: usize,
    /// Most sweeps over working sets, in all rounds together.
    pub max_sweeps: usize,
    /// Largest working set whose Gram matrix is kept (`8 gram_limit²` bytes).
    pub gram_limit: usize,
    /// With a warm start along a path: the last strength divided by this one, for the strong rule
    /// (Tibshirani et al., JRSS B 2012). The full check comes after it, so it is safe.
    pub strong_ratio: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { tol: 1e-6, max_rounds: 100, max_sweeps: 100_000, gram_limit: 4096, strong_ratio: None }
    }
}

/// Why a solver stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum StopReason {
    /// The duality gap is within the tolerance.
    Gap,
    /// Every coefficient is stationary within the tolerance.
    Stationary,
    /// The strength is at least the least one that gives zeros.
    AllZero,
    /// Nothing moves any more: as close as f64 gets.
    Precision,
    /// The limit on rounds or sweeps was reached.
    Limit,
}

/// What a solver did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Sweeps over working sets.
    pub sweeps: usize,
    /// Rounds of growing the working set.
    pub rounds: usize,
    /// Absolute duality gap, where one is computed.
    pub gap: Option<f64>,
    /// Greatest distance to stationarity over all coefficients, in units of the gradient.
    pub kkt: f64,
    /// Objective at the solution, on the scale of the loss above.
    pub objective: f64,
    /// Size of the last working set.
    pub working: usize,
    /// Features discarded by the gap-safe sphere.
    pub screened: usize,
    /// Whether the tolerance was reached, or f64 ends here.
    pub converged: bool,
    /// Why the solver stopped.
    pub stop: StopReason,
}
