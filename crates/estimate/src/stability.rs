//! Stability selection: which features are chosen again and again from halves of the rows.
//!
//! Meinshausen and Bühlmann, "Stability selection", JRSS B 2010; complementary pairs and their bounds after
//! Shah and Samworth, "Variable selection with error control: another look at stability selection", JRSS B
//! 2013.
//!
//! For `B` random pairs of disjoint halves, the estimator's path is followed on each half as long as it
//! has at most `q` features. A feature's probability is the share of the `2 B` halves that choose it; those
//! at or above a threshold `τ > 1/2` are selected. Call a feature *noise* if a half chooses it with
//! probability at most `q / p`, no better than chance. Then the expected number of noise features selected
//! is at most
//!
//! ```text
//! q² / ((2 τ - 1) p)                                      without assumptions
//! C(τ, B) q² / p                                          if the shares of pairs are unimodal
//! ```
//!
//! with `C = 1 / (2 (2 τ - 1 - 1 / 2B))` for `τ <= 3/4` and `4 (1 - τ + 1 / 2B) / (1 + 1 / B)` above.
//! `q` in these is the mean number of features that halves did choose.
//!
//! Cost: `2 B` paths on half of the rows, in parallel.
//!
//! **When not to use it.** With correlated features that stand for each other: the halves divide their votes
//! and none is stable. For prediction: it chooses few.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sparseland_optim::design::Design;

use crate::estimators::{EstimateError, ensure};
use crate::path::{PathEstimator, PathOptions};

/// How to resample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StabilityOptions {
    /// Pairs of halves, `B`. Default 50, as in the paper.
    pub pairs: usize,
    /// Most features that a half may choose, `q`. Default 10; for at most one wrong feature at a threshold
    /// of 0.75 about `sqrt(p / 2)`.
    pub features: usize,
    /// Strengths and rules of the paths; `dfmax` is set to `features`.
    pub path: PathOptions,
    /// Seed of the halves.
    pub seed: u64,
}

impl Default for StabilityOptions {
    fn default() -> Self {
        Self { pairs: 50, features: 10, path: PathOptions::default(), seed: 0 }
    }
}

/// How often every feature was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Share of the halves that chose the feature.
    pub probabilities: Vec<f64>,
    /// Mean number of features that a half chose.
    pub chosen: f64,
    /// Pairs of halves.
    pub pairs: usize,
}

impl Stability {
    /// Features whose probability is at least `threshold`.
    pub fn selected(&self, threshold: f64) -> Vec<u32> {
        let stable = self.probabilities.iter().enumerate().filter(|(_, share)| **share >= threshold);
        stable.map(|(j, _)| j as u32).collect()
    }

    /// The bound on the expected number of noise features selected, without assumptions; `None` for a
    /// threshold outside `(1/2, 1]`. Theorem 1 of Shah and Samworth in the form of their equation 3.
    pub fn error_bound(&self, threshold: f64) -> Option<f64> {
        let (q, p) = (self.chosen, self.probabilities.len() as f64);
        (threshold > 0.5 && threshold <= 1.0).then(|| q * q / ((2.0 * threshold - 1.0) * p))
    }

    /// The smaller bound for unimodal shares, Theorem 2 of Shah and Samworth; `None` where it does not
    /// hold: for more than `p / √3` features per half, or a threshold outside
    /// `(1/2 + min(θ², 1 / 2B + 3 θ² / 4), 1]` with `θ = q / p`.
    pub fn unimodal_error_bound(&self, threshold: f64) -> Option<f64> {
        let (q, p, pairs) = (self.chosen, self.probabilities.len() as f64, self.pairs as f64);
        let theta = q / p;
        let least = 0.5 + (theta * theta).min(0.5 / pairs + 0.75 * theta * theta);
        if theta > 1.0 / 3f64.sqrt() || threshold <= least || threshold > 1.0 {
            return None;
        }
        let factor = if threshold <= 0.75 {
            let margin = 2.0 * threshold - 1.0 - 0.5 / pairs;
            if margin <= 0.0 {
                return None;
            }
            0.5 / margin
        } else {
            4.0 * (1.0 - threshold + 0.5 / pairs) / (1.0 + 1.0 / pairs)
        };
        Some(factor * q * q / p)
    }
}

/// Stability selection with the estimator's path. Halves run in parallel on `pool`; the result does not
/// depend on its number of threads.
///
/// ```
/// use sparseland_estimate::estimators::Lasso;
/// use sparseland_estimate::stability::{StabilityOptions, stability_selection};
/// use sparseland_optim::design::Dense;
///
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
/// // y follows the first of three columns.
/// let column = |k: usize| (0..40).map(move |i| ((i * (3 * k + 2)) as f64).sin());
/// let x = Dense::from_columns(40, 3, (0..3).flat_map(column).collect())?;
/// let y: Vec<f64> = x.column(0).iter().zip(x.column(2)).map(|(a, c)| 2.0 * a + 0.01 * c).collect();
/// let options = StabilityOptions { features: 1, ..StabilityOptions::default() };
/// let found = stability_selection(&Lasso::new(0.0), &x, &y, None, &options, &pool)?;
/// assert_eq!(found.selected(0.9), [0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`EstimateError`] of the data or the parameters; a target whose halves may lack a class or have no
/// variation is the estimator's to judge.
pub fn stability_selection(
    estimator: &dyn PathEstimator,
    x: &dyn Design,
    y: &[f64],
    sample_weight: Option<&[f64]>,
    options: &StabilityOptions,
    pool: &rayon::ThreadPool,
) -> Result<Stability, EstimateError> {
    ensure(options.pairs > 0, "pairs", 0.0, "at least 1")?;
    ensure(options.features > 0, "features", 0.0, "at least 1")?;
    ensure(x.rows() >= 4, "number of rows", x.rows() as f64, "at least 4: halves need two rows each")?;
    if y.len() != x.rows() || sample_weight.is_some_and(|w| w.len() != x.rows()) {
        let got = if y.len() == x.rows() { sample_weight.map_or(0, <[f64]>::len) } else { y.len() };
        let (what, why) = (if y.len() == x.rows() { "sample_weight" } else { "y" }, "rows of X");
        return Err(EstimateError::Length { what, why, expected: x.rows(), got });
    }
    let path = PathOptions { dfmax: Some(options.features), ..options.path.clone() };
    let choose = |task: usize| -> Result<Vec<u32>, EstimateError> {
        let mut order: Vec<u32> = (0..x.rows() as u32).collect();
        let seed = options.seed ^ (task as u64 / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        order.shuffle(&mut Pcg64Mcg::seed_from_u64(seed));
        let size = x.rows() / 2;
        let mut half = order[(task % 2) * size..(task % 2 + 1) * size].to_vec();
        half.sort_unstable();
        let pick = |of: &[f64]| -> Vec<f64> { half.iter().map(|&i| of[i as usize]).collect() };
        let part = x.select(Some(&half), None, None);
        let fits = estimator.path(part.as_ref(), &pick(y), sample_weight.map(pick).as_deref(), &path)?.fits;
        // The first fit is in the path even if it has more than dfmax features.
        let small = fits.iter().rev().find(|fit| fit.coef.nnz() <= options.features);
        Ok(small.map(|fit| fit.coef.indices.clone()).unwrap_or_default())
    };
    let halves = 2 * options.pairs;
    let done: Result<Vec<_>, EstimateError> =
        pool.install(|| (0..halves).into_par_iter().map(choose).collect());
    let mut counts = vec![0usize; x.cols()];
    for j in done?.into_iter().flatten() {
        counts[j as usize] += 1;
    }
    let chosen = counts.iter().sum::<usize>() as f64 / halves as f64;
    let probabilities = counts.iter().map(|c| *c as f64 / halves as f64).collect();
    Ok(Stability { probabilities, chosen, pairs: options.pairs })
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_distr::StandardNormal;
    use sparseland_optim::design::Dense;

    use super::*;
    use crate::estimators::{Lasso, McpRegression};
    use crate::subset::BestSubset;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// 100 x 60; `strength` on three features.
    fn data(strength: f64, seed: u64) -> (Dense<f64>, Vec<f64>) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let values = (0..100 * 60).map(|_| rng.sample(StandardNormal)).collect();
        let x = Dense::from_columns(100, 60, values).unwrap();
        let mut w = vec![0.0; 60];
        [4, 20, 41].into_iter().for_each(|j| w[j] = strength);
        let mut y = x.times(&w);
        y.iter_mut().for_each(|y| *y += rng.sample::<f64, _>(StandardNormal));
        (x, y)
    }

    #[test]
    fn strong_features_are_stable_for_every_estimator_and_number_of_threads() {
        let (x, y) = data(1.0, 1);
        let options = StabilityOptions { pairs: 20, features: 5, ..StabilityOptions::default() };
        let estimators: [&dyn PathEstimator; 3] =
            [&Lasso::new(0.0), &McpRegression::new(0.0), &BestSubset::new()];
        for estimator in estimators {
            let one = stability_selection(estimator, &x, &y, None, &options, &pool(1)).unwrap();
            let two = stability_selection(estimator, &x, &y, None, &options, &pool(2)).unwrap();
            assert_eq!(one, two);
            assert_eq!(one.selected(0.9), [4, 20, 41]);
            assert!(one.chosen <= 5.0 && one.chosen >= 3.0);
            let sum: f64 = one.probabilities.iter().sum();
            assert!((sum - one.chosen).abs() < 1e-12);
        }
    }

    #[test]
    fn noise_alone_stays_within_the_bounds_on_average() {
        let options = StabilityOptions { pairs: 25, features: 4, ..StabilityOptions::default() };
        let (mut wrong, mut bound) = (0.0, 0.0);
        for seed in 0..10 {
            let (x, y) = data(0.0, 100 + seed);
            let found = stability_selection(&Lasso::new(0.0), &x, &y, None, &options, &pool(2)).unwrap();
            wrong += found.selected(0.7).len() as f64;
            bound += found.error_bound(0.7).unwrap();
            assert!(found.unimodal_error_bound(0.7).unwrap() < found.error_bound(0.7).unwrap());
        }
        assert!(wrong <= bound, "{wrong} above {bound}");
    }

    #[test]
    fn bounds_are_those_of_the_paper() {
        let found = Stability { probabilities: vec![0.0; 100], chosen: 10.0, pairs: 50 };
        // 10² / (0.6 * 100), and C(0.8, 50) = 4 * 0.21 / 1.02.
        assert!((found.error_bound(0.8).unwrap() - 100.0 / 60.0).abs() < 1e-12);
        assert!((found.unimodal_error_bound(0.8).unwrap() - 0.84 / 1.02).abs() < 1e-12);
        assert!((found.unimodal_error_bound(0.7).unwrap() - 0.5 / 0.39).abs() < 1e-12);
        // The two pieces meet at 3/4 up to terms of 1 / B.
        let many = Stability { pairs: 1_000_000, ..found.clone() };
        let at = |t: f64| many.unimodal_error_bound(t).unwrap();
        assert!((at(0.75) - at(0.7500001)).abs() < 1e-5);
        assert_eq!((found.error_bound(0.5), found.unimodal_error_bound(0.5)), (None, None));
        let crowded = Stability { chosen: 60.0, ..found };
        assert_eq!(crowded.unimodal_error_bound(0.9), None);
    }

    #[test]
    fn faults_are_named() {
        let (x, y) = data(1.0, 3);
        let run = |options: StabilityOptions, y: &[f64]| {
            stability_selection(&Lasso::new(0.0), &x, y, None, &options, &pool(1)).unwrap_err().to_string()
        };
        let none = StabilityOptions { pairs: 0, ..StabilityOptions::default() };
        assert!(run(none, &y).starts_with("pairs is 0"));
        assert!(run(StabilityOptions::default(), &y[1..]).contains("y has 99 entries where 100"));
    }
}
