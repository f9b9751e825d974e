//! Block coordinate descent with every choice of blocks, of their order, and of the update.
//!
//! Paper: J. Nutini, I. Laradji, M. Schmidt, "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules,
//! Message-Passing, Active-Set Complexity, and Superlinear Convergence", 2017, arXiv 1712.08859, JMLR 2022.
//!
//! # Problem
//! ```text
//! minimise over x in R^d:   F(x) = f(x) + sum_j pen(x_j)
//! ```
//! with `f` smooth and convex ([`BlockProblem`]: least squares, logistic, multinomial, sparse quadratic) and a separable
//! [`Penalty`]. One iteration moves a block `b` of variables. `L_j` bounds the second derivative of one variable, `H_b`
//! the Hessian of a block, and `L_b` is the largest eigenvalue of `H_b`.
//!
//! | choice | options |
//! |---|---|
//! | blocks, [`Partition`] | fixed (given order, sorted or mixed by `L_j` or by row sums), colours, forests, or formed anew each time |
//! | next, [`Selection`] | random, cyclic, by `L`; greedy: GS, GSL, GSD, GSQ, GSQ by iterative hard thresholding or one by one, progress, greedy forests |
//! | move, [`Update`] | `1 / L_b`, the same with `L_b` searched, `H_b`, Newton with line search, two-metric projection, projected Newton, exact along trees |
//!
//! With a penalty the greedy rules see `L_j (x_j - prox(x_j - g_j / L_j))` in place of the gradient.
//!
//! # Cost
//! A move of block `b` in a linear model costs its entries, and for greedy rules those of the rows it touches: the
//! gradient is kept up to date and never computed anew (except every 500 moves, against rounding). A greedy choice is a
//! partial sort, `O(d)`. Matrix updates add `|b|^3 / 3`; tree updates are `O(|b| + edges)`.
//!
//! # Departures from the published code
//! - Scores are the true bounds on progress (sums of squares); the code's sum of absolute values is
//!   [`Selection::GsAbsolute`].
//! - Blocks need not divide `d`. A ridge in the loss enters `H_b` as a multiple of the identity.
//! - Forests grow with union-find instead of a quadratic search, and iterative hard thresholding
//!   works on `sqrt(L_j) x_j`, starts at the GSD block, and never does worse than it.
//! - Runs end on the optimality conditions, not only on a known optimum.
//!
//! # When not to use it
//! For dense problems with few variables a direct solve is faster. For lasso paths working-set solvers do less. Greedy
//! rules lose on problems where every variable touches every row: keeping the gradient then costs as much as computing it.
//!
//! # Example
//! ```
//! use sparseland_core::Context;
//! use sparseland_estimate::bcd::*;
//! use sparseland_linalg::Mat;
//!
//! let context = Context::new(1, 1)?;
//! let a = Mat::from_fn(30, 10, |i, j| ((i * 10 + j * 7 + i * j) as f64).sin());
//! let b: Vec<f64> = (0..30).map(|i| 2.0 * a.at(i, 3) - a.at(i, 8)).collect();
//! let mut problem = LinearModel::new(Sparse::from_dense(&a)?, b, Loss::LeastSquares, 0.0)?;
//! let solver = Bcd { selection: Selection::Gsd, update: Update::Matrix, block_size: 4, ..Bcd::default() };
//! let fit = solver.solve(&mut problem, &[0.0; 10], &context)?;
//! assert_eq!(fit.stop, StopReason::Optimal);
//! assert!((fit.x[3] - 2.0).abs() < 1e-4 && (fit.x[8] + 1.0).abs() < 1e-4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod data;
mod error;
pub mod experiment;
mod penalty;
mod problem;
mod select;
mod softmax;
mod sparse;
#[cfg(test)]
mod tests;
mod tree;
mod update;

pub use data::{knn_graph, label_propagation, lattice, least_squares_data, multinomial_data};
pub use error::BcdError;
pub use penalty::Penalty;
pub use problem::{BlockProblem, LinearModel, Loss, Quadratic};
pub use softmax::Softmax;
pub use sparse::Sparse;
pub use tree::{colouring, forest_partition, greedy_forest};

use std::time::Instant;

use error::ensure;
use select::{Selector, effective_gradient};
use sparseland_core::{Context, Event};
use update::Updater;

/// The order that cuts variables into fixed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ordering {
    /// As they come.
    Given,
    /// By falling `L_j`: large ones together (the paper's recommendation).
    Sort,
    /// Large and small `L_j` mixed.
    Average,
    /// By falling row sums of `|H|`.
    SortRows,
    /// Large and small row sums mixed.
    AverageRows,
}

/// Where blocks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Formed anew in every iteration.
    Variable,
    /// Fixed blocks of the block size; the last may be shorter.
    Fixed(Ordering),
    /// Independent sets of the graph (red and black on a lattice); any size.
    RedBlack,
    /// Forests of the graph; any size.
    Trees,
}

/// What greedy forests prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreeScore {
    /// Large `|g_j|`.
    Gradient,
    /// Large `g_j^2 / L_j`.
    Scaled,
    /// Nothing.
    Random,
}

/// Which block is next. `g` is the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Uniformly at random.
    Random,
    /// In turn; variable blocks along a random permutation per sweep.
    Cyclic,
    /// At random in proportion to `L_b` (fixed) or `L_j` (variable).
    Lipschitz,
    /// Largest `||g_b||`.
    Gs,
    /// Largest sum of `|g_j|` (published code).
    GsAbsolute,
    /// Largest `||g_b||^2 / L_b`; fixed blocks.
    Gsl,
    /// Largest sum of `g_j^2 / L_j`.
    Gsd,
    /// Largest sum of `g_j^2 / sum_i |H_ij|`.
    GsdRows,
    /// Largest `g_b^T H_b^-1 g_b`; fixed blocks.
    Gsq,
    /// The same over all blocks, approximately, by iterative hard thresholding; variable blocks.
    GsqIht,
    /// The same, one variable after the other at the exact minimum over those taken so far (ours); variable blocks.
    GsqGreedy,
    /// Largest sum of the progress of one-dimensional proximal steps: the rule for penalties.
    Progress,
    /// A forest grown from the best-scored variables; variable blocks, tree updates.
    GreedyTree(TreeScore),
}

/// How a block moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// A (proximal) gradient step of length `1 / L_b`.
    Lipschitz,
    /// The same with `L_b` doubled from an estimate until the step holds its promise; no eigenvalues.
    LipschitzSearch,
    /// The minimiser of the model with `H_b`.
    Matrix,
    /// The Newton step with a line search; no penalty.
    LineSearch,
    /// Two-metric projection; non-negative penalties.
    TwoMetric,
    /// The minimiser of the model with the Hessian and the penalty, and a line search.
    ProjectedNewton,
    /// The exact minimiser over a block whose graph is a forest; sparse quadratics without penalty.
    Tree,
}

/// The solver.
#[derive(Debug, Clone, PartialEq)]
pub struct Bcd {
    /// Where blocks come from. Default variable.
    pub partition: Partition,
    /// Which block is next. Default GSD.
    pub selection: Selection,
    /// How it moves. Default the matrix update.
    pub update: Update,
    /// Variables per block. Default 5 (paper). More than `d` counts as `d`, with a warning.
    pub block_size: usize,
    /// The separable term. Default none.
    pub penalty: Penalty,
    /// Most iterations. Default 10,000 (ours).
    pub max_iter: usize,
    /// The run ends when no variable's optimality condition is violated by more than this fraction of the largest
    /// gradient entry at the start. Default 1e-8 (ours).
    pub tolerance: f64,
    /// The run ends when the objective falls to this value.
    pub target: Option<f64>,
    /// Iterations between two looks at the optimality conditions. Default 10 (ours).
    pub check_every: usize,
    /// Iterations between two entries of the trace; 0 keeps none. Default 1.
    pub trace_every: usize,
}

impl Default for Bcd {
    fn default() -> Self {
        Bcd {
            partition: Partition::Variable,
            selection: Selection::Gsd,
            update: Update::Matrix,
            block_size: 5,
            penalty: Penalty::None,
            max_iter: 10_000,
            tolerance: 1e-8,
            target: None,
            check_every: 10,
            trace_every: 1,
        }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The optimality conditions hold.
    Optimal,
    /// The target was reached.
    Target,
    /// All iterations were used.
    Iterations,
}

/// One iteration.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TraceEntry {
    /// Iterations so far.
    pub iteration: usize,
    /// The objective after it.
    pub objective: f64,
    /// Variables in its block.
    pub block: usize,
    /// Non-zeros of `x`.
    pub nonzeros: usize,
    /// Wall time since the start.
    pub seconds: f64,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct BcdFit {
    /// The minimiser.
    pub x: Vec<f64>,
    /// The objective there.
    pub objective: f64,
    /// The largest violation of an optimality condition, relative to the largest gradient entry at the start.
    pub violation: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Why the run ended.
    pub stop: StopReason,
    /// The iterations, as often as asked for.
    pub trace: Vec<TraceEntry>,
    /// Whether the block size was reduced to the number of variables.
    pub block_size_reduced: bool,
}

fn violation(problem: &mut dyn BlockProblem, penalty: Penalty) -> f64 {
    let (l, x) = (problem.lipschitz().to_vec(), problem.point().to_vec());
    let g = effective_gradient(problem.gradient(), &l, &x, penalty);
    g.iter().zip(&l).filter(|(_, l)| **l > 0.0).map(|(g, _)| g.abs()).fold(0.0, f64::max)
}

impl Bcd {
    /// Minimises from `x0`, which is projected onto the constraint.
    ///
    /// # Errors
    /// [`BcdError::Parameter`], [`BcdError::Shape`], [`BcdError::NonFinite`], [`BcdError::Unsupported`] for rules that do
    /// not go together, [`BcdError::NotConvex`], [`BcdError::Cancelled`].
    pub fn solve(
        &self,
        problem: &mut dyn BlockProblem,
        x0: &[f64],
        context: &Context,
    ) -> Result<BcdFit, BcdError> {
        let d = problem.dimension();
        ensure(self.block_size > 0, "block_size", "at least 1", self.block_size)?;
        ensure(self.tolerance >= 0.0, "tolerance", "at least 0", self.tolerance)?;
        ensure(self.check_every > 0, "check_every", "at least 1", self.check_every)?;
        ensure(self.penalty.is_valid(), "penalty", "finite and consistent", format!("{:?}", self.penalty))?;
        if x0.len() != d {
            return Err(BcdError::Shape {
                what: "x0",
                expected: format!("{d} entries"),
                got: x0.len().to_string(),
            });
        }
        if let Some(row) = x0.iter().position(|v| !v.is_finite()) {
            return Err(BcdError::NonFinite { what: "x0", row, column: 0 });
        }
        let reduced = self.block_size > d;
        if reduced {
            context.report(Event::Warning("bcd: the block size exceeds the number of variables"));
        }
        let mut rng = context.rng(0xbcd);
        let mut selector =
            Selector::new(problem, self.partition, self.selection, self.block_size.min(d), &mut rng)?;
        let mut updater = Updater::new(problem, self.update, self.penalty)?;
        let start: Vec<f64> = x0
            .iter()
            .zip(problem.lipschitz())
            .map(|(&x, &l)| if l > 0.0 { self.penalty.prox(x, 0.0) } else { self.penalty.idle(x) })
            .collect();
        problem.reset(&start, selector.needs_gradient());
        let scale = problem.gradient().iter().fold(0.0f64, |m, g| m.max(g.abs())).max(f64::MIN_POSITIVE);
        let objective = |problem: &dyn BlockProblem| {
            problem.value() + problem.point().iter().map(|&x| self.penalty.value(x)).sum::<f64>()
        };
        let began = Instant::now();
        let mut trace = Vec::new();
        let (mut block, mut g) = (Vec::new(), Vec::new());
        let (mut iterations, mut stop) = (0, StopReason::Iterations);
        context.report(Event::Stage { name: "block coordinate descent", total: self.max_iter });
        if selector.is_empty() || violation(problem, self.penalty) <= self.tolerance * scale {
            stop = StopReason::Optimal;
        }
        while stop == StopReason::Iterations && iterations < self.max_iter {
            iterations += 1;
            let fixed = selector.next(problem, self.penalty, &mut rng, &mut block);
            problem.gradient_block(&block, &mut g);
            let bound = fixed.and_then(|k| selector.bounds.get(k).copied());
            let step = updater.step(problem, &block, &g, bound)?;
            problem.shift(&block, &step);
            let traced = self.trace_every > 0 && iterations % self.trace_every == 0;
            if traced || self.target.is_some() {
                let now = objective(problem);
                if traced {
                    trace.push(TraceEntry {
                        iteration: iterations,
                        objective: now,
                        block: block.len(),
                        nonzeros: problem.point().iter().filter(|v| **v != 0.0).count(),
                        seconds: began.elapsed().as_secs_f64(),
                    });
                }
                if self.target.is_some_and(|t| now <= t) {
                    stop = StopReason::Target;
                }
            }
            if iterations % self.check_every == 0 {
                context.check_cancelled()?;
                context.report(Event::Step { done: iterations, message: "" });
                if violation(problem, self.penalty) <= self.tolerance * scale {
                    stop = StopReason::Optimal;
                }
            }
        }
        Ok(BcdFit {
            x: problem.point().iter().map(|&x| self.penalty.prox(x, 0.0)).collect(),
            objective: objective(problem),
            violation: violation(problem, self.penalty) / scale,
            iterations,
            stop,
            trace,
            block_size_reduced: reduced,
        })
    }
}
