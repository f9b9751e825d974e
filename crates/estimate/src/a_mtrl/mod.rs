//! Wang, Chen, Jamieson, Du, "Improved Active Multi-Task Representation Learning via Lasso", ICML 2023,
//! arXiv 2306.02556. No code was published and the full text was not at hand: settings are derived and say so.
//!
//! Many source tasks with cheap samples, one target task with few, all linear on one unknown representation:
//! `y = xᵀ B w_m + noise`, `B: d x k`. How many samples should each source task give? The target's excess error
//! through the representation is about `sum_m nu_m² / n_m` for any `nu` with `W nu = w_target`; under
//! `sum n_m = N` the best `n_m` is proportional to `|nu_m|`, with value `||nu||_1² / N`. So `nu` should have the
//! smallest 1-norm, which also makes it sparse: at most `k` tasks need be sampled. The predecessor (arXiv
//! 2202.00911) took the smallest 2-norm and `n_m` proportional to `nu_m²`.
//!
//! Since `W` is unknown: explore every task a little, fit, estimate `nu` by a lasso, draw the rest of the budget in
//! proportion, fit again ([`Sampler`]).
//!
//! Where we differ, or had to choose:
//! - the lasso's strength is the largest on its path whose residual is at most `tau ||w_target||`; its support is
//!   then refitted by least squares;
//! - a target outside the span of the sources, and an exploration too small to tell, are noticed: heads are drawn
//!   again from their estimated distribution, and where the resulting allocations overlap by less than half the
//!   budget is mixed with uniform;
//! - allocations are exact: largest remainders, floors and supplies kept.
//!
//! Cost: moments `O(n d²)`, streaming; a fit `O(M d (d + k))` per step of conjugate gradients.
//!
//! When not to use it: where the target has enough samples of its own, or where drawing costs the same from
//! everywhere and all tasks are alike.

mod allocate;
mod erm;
pub mod experiment;
mod relevance;
#[cfg(test)]
mod tests;

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use sparseland_linalg::{LinalgError, Mat};

use crate::estimators::EstimateError;

pub use allocate::{Floor, allocate};
pub use erm::{Moments, Shared, fit_head, fit_shared};
pub use relevance::{basis_pursuit, lasso_relevance, least_norm};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AmtrlError {
    /// The representation is wider than the inputs or the tasks allow.
    #[error(
        "a representation of {k} dimensions needs at least as many inputs ({d}) and source tasks ({tasks})"
    )]
    Rank {
        /// Dimensions asked for.
        k: usize,
        /// Inputs.
        d: usize,
        /// Source tasks.
        tasks: usize,
    },
    /// The budget does not cover the floor.
    #[error(
        "a budget of {total} samples is below the {needed} that exploration takes; raise it or explore less"
    )]
    Budget {
        /// The budget.
        total: usize,
        /// The least budget.
        needed: usize,
    },
    /// Sizes that must agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// The number that fits.
        expected: usize,
        /// The number found.
        got: usize,
    },
    /// NaN or infinity in a sample.
    #[error("sample {row} of a task holds {value}; drop it")]
    NonFinite {
        /// The sample.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A decomposition failed.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// A design was refused.
    #[error(transparent)]
    Design(#[from] sparseland_optim::design::DesignError),
    /// The lasso failed.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
    /// A file could not be read.
    #[error("{0}")]
    File(String),
}

/// Source tasks that samples are drawn from.
pub trait TaskPool {
    /// Number of source tasks.
    fn tasks(&self) -> usize;
    /// Draws `n` samples of a task: inputs, one per row, and targets.
    fn draw(&mut self, task: usize, n: usize) -> (Mat<f64>, Vec<f64>);
}

/// How the budget is spread.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// The same everywhere.
    Uniform,
    /// Known heads, smallest 2-norm, in proportion to `nu²`.
    KnownL2(Mat<f64>, Vec<f64>),
    /// Known heads, smallest 1-norm, in proportion to `|nu|`.
    KnownL1(Mat<f64>, Vec<f64>),
    /// Estimated heads, smallest 2-norm.
    L2,
    /// Estimated heads, lasso.
    Lasso,
}

/// The active sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// How the budget is spread.
    pub strategy: Strategy,
    /// Dimensions of the representation.
    pub k: usize,
    /// Samples of every task before anything is known; `None`: `max(k + 5, N / (4 M))`.
    pub explore: Option<usize>,
    /// The lasso's residual relative to the target's head.
    pub tau: f64,
    /// Share of the budget spread uniformly where the estimate is unsure.
    pub mix: f64,
    /// Keep this many most relevant tasks only.
    pub most_tasks: Option<usize>,
}

/// What the sampler did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Relevance of every source task.
    pub relevance: Vec<f64>,
    /// Samples drawn from every source task.
    pub allocation: Vec<usize>,
    /// The representation and the source heads on all samples.
    pub shared: Shared,
    /// The target's head on that representation.
    pub head: Vec<f64>,
    /// Whether the target lies outside the span of the estimated heads: the residual of `W nu` is above half.
    pub not_transferable: bool,
    /// Mean overlap of allocations under redrawn heads; 1 where nothing was estimated.
    pub stability: f64,
}

/// Redraws of the heads for [`Outcome::stability`].
const REDRAWS: usize = 8;

/// Below this overlap the estimate counts as unsure.
const UNSURE: f64 = 0.5;

impl Sampler {
    /// With the paper's structure and our defaults.
    pub fn new(strategy: Strategy, k: usize) -> Self {
        Self { strategy, k, explore: None, tau: 0.15, mix: 0.25, most_tasks: None }
    }

    /// Spends `total` samples of the pool for a target of which `target` is known.
    ///
    /// # Errors
    /// [`AmtrlError::Rank`], [`AmtrlError::Budget`]; if a sample is not finite.
    pub fn run(
        &self,
        pool: &mut dyn TaskPool,
        target: &Moments,
        total: usize,
        seed: u64,
    ) -> Result<Outcome, AmtrlError> {
        let tasks = pool.tasks();
        let d = target.inputs();
        if self.k == 0 || self.k > d || self.k > tasks {
            return Err(AmtrlError::Rank { k: self.k, d, tasks });
        }
        let mut moments: Vec<Moments> = (0..tasks).map(|_| Moments::new(d)).collect();
        let mut draw = |moments: &mut [Moments], counts: &[usize]| -> Result<(), AmtrlError> {
            for (task, (moments, &n)) in moments.iter_mut().zip(counts).enumerate() {
                if n > 0 {
                    let (x, y) = pool.draw(task, n);
                    moments.add(&x, &y)?;
                }
            }
            Ok(())
        };
        let explore = self.explore.unwrap_or_else(|| (self.k + 5).max(total / (4 * tasks.max(1))));
        let estimated = matches!(self.strategy, Strategy::L2 | Strategy::Lasso);
        let floor = if estimated { explore } else { 0 };
        if total < floor * tasks {
            return Err(AmtrlError::Budget { total, needed: floor * tasks });
        }
        let (mut relevance, mut stability, mut residual) = (vec![1.0; tasks], 1.0, 0.0);
        let shares: Vec<f64> = match &self.strategy {
            Strategy::Uniform => vec![1.0; tasks],
            Strategy::KnownL2(heads, head) => {
                relevance = least_norm(heads, head)?;
                relevance.iter().map(|v| v * v).collect()
            }
            Strategy::KnownL1(heads, head) => {
                relevance = basis_pursuit(heads, head)?;
                relevance.iter().map(|v| v.abs()).collect()
            }
            Strategy::L2 | Strategy::Lasso => {
                draw(&mut moments, &vec![floor; tasks])?;
                let shared = fit_shared(&moments, self.k)?;
                let head = fit_head(&shared.basis, target)?;
                let (found, shares) = self.estimate(&shared.heads, &head)?;
                residual = relative_residual(&shared.heads, &found, &head);
                relevance = found;
                stability = self.stability(&shared, &moments, (target, &head), &shares, seed)?;
                let unsure = stability < UNSURE || residual > 0.5;
                let mix = if unsure { self.mix.max(1.0 - stability / UNSURE) } else { 0.0 };
                let sum: f64 = shares.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                shares.iter().map(|s| (1.0 - mix) * s / sum + mix / tasks as f64).collect()
            }
        };
        let shares = self.keep_most(shares);
        let allocation = allocate(&shares, total, &Floor { each: floor, supply: None })?;
        let rest: Vec<usize> = allocation.iter().map(|n| n - floor).collect();
        draw(&mut moments, &rest)?;
        let shared = fit_shared(&moments, self.k)?;
        let head = fit_head(&shared.basis, target)?;
        Ok(Outcome { relevance, allocation, shared, head, not_transferable: residual > 0.5, stability })
    }

    /// Relevances and the shares that follow from them.
    fn estimate(&self, heads: &Mat<f64>, head: &[f64]) -> Result<(Vec<f64>, Vec<f64>), AmtrlError> {
        Ok(if self.strategy == Strategy::L2 {
            let nu = least_norm(heads, head)?;
            let shares = nu.iter().map(|v| v * v).collect();
            (nu, shares)
        } else {
            let nu = lasso_relevance(heads, head, self.tau)?;
            let shares = nu.iter().map(|v| v.abs()).collect();
            (nu, shares)
        })
    }

    fn keep_most(&self, mut shares: Vec<f64>) -> Vec<f64> {
        if let Some(most) = self.most_tasks.filter(|&most| most < shares.len()) {
            let mut order: Vec<usize> = (0..shares.len()).collect();
            order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]).then(a.cmp(&b)));
            order[most..].iter().for_each(|&task| shares[task] = 0.0);
        }
        shares
    }

    /// Mean overlap of the shares with those of heads redrawn from their estimated distribution.
    fn stability(
        &self,
        shared: &Shared,
        moments: &[Moments],
        (target, head): (&Moments, &[f64]),
        shares: &[f64],
        seed: u64,
    ) -> Result<f64, AmtrlError> {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut overlap = 0.0;
        for _ in 0..REDRAWS {
            let mut heads = shared.heads.clone();
            for (task, moments) in moments.iter().enumerate() {
                let own: Vec<f64> = (0..self.k).map(|t| shared.heads.at(t, task)).collect();
                let drawn = redraw(&shared.basis, moments, &own, &mut rng)?;
                drawn.iter().enumerate().for_each(|(t, v)| heads.row_mut(t)[task] = *v);
            }
            let target = redraw(&shared.basis, target, head, &mut rng)?;
            let (_, again) = self.estimate(&heads, &target)?;
            let (a, b) = (shares.iter().sum::<f64>(), again.iter().sum::<f64>());
            let common = shares.iter().zip(&again).map(|(x, y)| (x / a).min(y / b));
            overlap += if a > 0.0 && b > 0.0 { common.sum::<f64>() } else { 0.0 };
        }
        Ok(overlap / REDRAWS as f64)
    }
}

/// A head drawn from the distribution of its estimate: mean `head`, covariance `s² (BᵀGB)⁻¹`.
fn redraw(
    basis: &Mat<f64>,
    moments: &Moments,
    head: &[f64],
    rng: &mut Pcg64,
) -> Result<Vec<f64>, AmtrlError> {
    let k = head.len();
    let inner = moments.projected(basis)?;
    let freedom = moments.samples().saturating_sub(k).max(1) as f64;
    let noise = (moments.loss(basis, head)? / freedom).max(0.0).sqrt();
    // L with LᵀL = BᵀGB: L⁻¹ z has covariance (LᵀL)⁻¹.
    let z = Mat::from_fn(k, 1, |_, _| StandardNormal.sample(rng));
    let step = sparseland_linalg::cholesky_robust(&inner)?.solve(&z)?;
    Ok(head.iter().zip(&step.data).map(|(h, s)| h + noise * s).collect())
}

/// `||W nu - w|| / ||w||`.
fn relative_residual(heads: &Mat<f64>, nu: &[f64], head: &[f64]) -> f64 {
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>().sqrt();
    let reached = |t: usize| heads.row(t).iter().zip(nu).map(|(w, v)| w * v).sum::<f64>();
    let whole = norm(&mut head.iter().copied());
    if whole == 0.0 { 0.0 } else { norm(&mut head.iter().enumerate().map(|(t, h)| reached(t) - h)) / whole }
}
