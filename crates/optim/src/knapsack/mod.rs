//! The multiple-choice knapsack: one option per group, least total error within a budget.
//!
//! Groups `g = 1..n`, each with options `o` of integer cost `c[g][o]` and real error `e[g][o] >= 0`:
//!
//! ```text
//! minimise   sum_g e[g][o_g]      subject to   sum_g c[g][o_g] <= budget,   one o_g per group
//! ```
//!
//! Sources: Kellerer, Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11; Sinha and
//! Zoltners, "The multiple-choice knapsack problem", 1979 (dominance, convex hulls and the linear
//! relaxation); Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", 1995 (the
//! search that starts at the relaxation and touches few groups). ROCKET (2026, arXiv 2602.11008)
//! uses the problem to divide a compression budget between layers.
//!
//! # Steps
//! With `n` groups, `N` options in all and `K` states kept per stage:
//!
//! 1. *Reduce*: drop options that cannot fit or are dominated by a cheaper and better one.
//!    `O(N log N)`.
//! 2. *Relax*: allow fractions of options. The lower-left convex hull of a group gives increments
//!    (more cost, less error) of falling slope `l = -de/dc`; taken steepest first over all groups,
//!    until one no longer fits, they solve the relaxation. `O(N log N)`.
//! 3. *Round*: the integral part of that solution is feasible; the rest of the budget goes to the
//!    remaining increments, then to single upgrades and to exchanges between two groups while any of
//!    them helps.
//! 4. *Search*: dynamic programming over Pareto states (exact cost, error), group by group, those
//!    nearest to changing first; groups not yet reached keep their choice of step 2. With slack `s`
//!    and `u`, `d` the best slopes up and down among the groups not yet reached, no completion of a
//!    state with error `f` goes below `f - u s` (for `s >= 0`) or `f + d |s|` (for `s < 0`). A state
//!    whose bound is not below the best solution known is dropped. `O(n m K log m)` time and
//!    `O(n K)` memory at worst, for `m` options per group.
//! 5. If more than `precision` states are alive, they are thinned, and the smallest bound among the
//!    states given up becomes the lower bound of the certificate.
//!
//! # Departure from ROCKET
//! ROCKET rounds costs to cells of a grid and keeps the best error per cell, so its budget can be
//! exceeded by half a cell per layer. Here every state carries its exact integer cost: nothing is
//! rounded, the budget holds exactly, and a budget of 1e11 parameters costs no more than one of 100.
//!
//! # Example
//! ```
//! use sparseland_optim::knapsack::{Choice, Knapsack};
//!
//! // Two layers; each can be kept (dear, no error), halved, or quartered.
//! let options = |full: u64, halved: f64, quartered: f64| {
//!     vec![
//!         Choice { cost: full, error: 0.0 },
//!         Choice { cost: full / 2, error: halved },
//!         Choice { cost: full / 4, error: quartered },
//!     ]
//! };
//! let layers = [options(100, 0.1, 0.9), options(200, 0.4, 0.5)];
//! let plan = Knapsack::default().solve(&layers, 150)?;
//! assert_eq!(plan.picks, [0, 2]); // the first layer is kept, the second quartered
//! assert_eq!(plan.cost, 150);
//! assert_eq!(plan.error, 0.5);
//! assert!(plan.proven_optimal);
//! # Ok::<(), sparseland_optim::knapsack::KnapsackError>(())
//! ```

mod error;
mod polish;
mod reduce;
mod relaxation;
mod search;
#[cfg(test)]
mod tests;

pub use error::KnapsackError;

use reduce::Reduced;
use relaxation::Relaxation;

/// One option of a group.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Choice {
    /// What the option takes from the budget, in any integer unit (parameters, bytes).
    pub cost: u64,
    /// What the option adds to the objective: finite and not negative.
    pub error: f64,
}

/// A choice for every group, with its certificate.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Solution {
    /// The picked option of each group, as an index into that group's slice.
    pub picks: Vec<usize>,
    /// Exact sum of the picked costs, never above the budget.
    pub cost: u64,
    /// Sum of the picked errors.
    pub error: f64,
    /// No choice within the budget has a smaller error than this (up to the rounding of an `f64`
    /// sum). Equal to `error` when `proven_optimal`.
    pub lower_bound: f64,
    /// Whether the search was exhaustive, so that `error` is the optimum (up to the rounding of an
    /// `f64` sum).
    pub proven_optimal: bool,
    /// Number of states the search kept, over all groups: the work done.
    pub states: usize,
}

impl Solution {
    /// Distance to the lower bound relative to the error, `(error - lower_bound) / error`; 0 when the
    /// error is 0.
    pub fn gap(&self) -> f64 {
        if self.error > 0.0 { (self.error - self.lower_bound) / self.error } else { 0.0 }
    }
}

/// The solver and its one setting.
///
/// Deterministic: the same groups and budget give the same picks. Reordering the groups leaves
/// `cost`, `error` and `lower_bound` unchanged bit for bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knapsack {
    /// Most search states kept after each group, default [`Knapsack::PRECISION`]. More states prove
    /// more instances optimal; fewer bound time and memory. 0 counts as 1.
    pub precision: usize,
}

impl Default for Knapsack {
    fn default() -> Self {
        Self { precision: Self::PRECISION }
    }
}

impl Knapsack {
    /// The default of [`Knapsack::precision`], the upper end of the range that ROCKET's code uses for
    /// its grid.
    pub const PRECISION: usize = 50_000;

    /// The solver that keeps at most `precision` states after each group.
    pub fn with_precision(precision: usize) -> Self {
        Self { precision }
    }

    /// The best choice of one option per group with total cost at most `budget`.
    ///
    /// No groups give the empty solution. Among solutions of equal error any one may be returned; of
    /// several identical options the first is picked.
    ///
    /// The optimum never rises with the budget. For the returned error this holds whenever
    /// [`Solution::proven_optimal`]; a thinned search stays within its [`Solution::gap`].
    ///
    /// # Errors
    /// [`KnapsackError::EmptyGroup`] and [`KnapsackError::InvalidError`] name the group and option at
    /// fault; [`KnapsackError::Infeasible`] says which budgets would do;
    /// [`KnapsackError::Overflow`] if the costs within reach of the budget span more than
    /// `i64::MAX`, or the errors sum beyond `f64::MAX`.
    pub fn solve(&self, groups: &[Vec<Choice>], budget: u64) -> Result<Solution, KnapsackError> {
        let problem = Reduced::new(groups, budget)?;
        let relaxation = Relaxation::new(&problem);
        let mut incumbent = relaxation.rounded(&problem);
        polish::polish(&problem, &mut incumbent);
        let outcome = search::search(&problem, &relaxation, incumbent, self.precision.max(1));

        let error = problem.error(&outcome.picks);
        let lower_bound = if outcome.proven { error } else { outcome.lower_bound.clamp(0.0, error) };
        let picks = problem.original_picks(&outcome.picks);
        Ok(Solution {
            cost: picks.iter().zip(groups).map(|(&option, group)| group[option].cost).sum(),
            picks,
            error,
            lower_bound,
            proven_optimal: outcome.proven,
            states: outcome.states,
        })
    }
}
