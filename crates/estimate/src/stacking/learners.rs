//! Stage 3: ridge, lasso and elastic net with strengths by inner cross-validation, from moments alone.

use serde::{Deserialize, Serialize};
use sparseland_linalg::{Mat, eigh};
use sparseland_optim::cd::{Options, Quadratic};
use sparseland_optim::design::{Centred, Dense, Scaling};
use sparseland_optim::penalty::ElasticNet;

use super::StackError;
use super::moments::Moments;

/// A meta-learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Learner {
    /// `||y - Xw||² + a ||w||²`, 50 strengths from 1e-3 to 1e5 (scikit-learn's scale, no `1/n`).
    Ridge,
    /// `||y - Xw||² / 2n + a ||w||_1`, 30 strengths from 1e-5 to 10.
    Lasso,
    /// The elastic net, the lasso's strengths by seven mixtures.
    ElasticNet,
}

/// The paper's mixtures of the elastic net.
const MIXTURES: [f64; 7] = [0.1, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0];
/// Accuracy of the coordinate descent.
const TOL: f64 = 1e-8;
/// Most sweeps per strength, as scikit-learn's `max_iter`: dependent columns end here, at a point as good as any.
const MAX_SWEEPS: usize = 2_000;
/// Size below which a coefficient counts as zero (the published code's).
const ZERO: f64 = 1e-10;

/// A fitted meta-learner: `y = intercept + sum_j coef_j x_j`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Which one.
    pub learner: Learner,
    /// Coefficients of the retained predictions and the six summaries.
    pub coef: Vec<f64>,
    /// Intercept.
    pub intercept: f64,
    /// The strength chosen.
    pub alpha: f64,
    /// The mixture chosen, 0 for ridge.
    pub l1_ratio: f64,
    /// Root mean squared error of the inner folds at that choice.
    pub inner_rmse: f64,
    /// Share of coefficients that are zero.
    pub sparsity: f64,
}

/// Geometric grid, falling.
fn grid(low: i32, high: i32, count: usize) -> Vec<f64> {
    let (low, high) = (f64::from(low), f64::from(high));
    let at = |k: usize| high - (high - low) * k as f64 / (count - 1) as f64;
    (0..count).map(|k| 10.0f64.powf(at(k))).collect()
}

impl Learner {
    fn alphas(self) -> Vec<f64> {
        if self == Self::Ridge { grid(-3, 5, 50) } else { grid(-5, 1, 30) }
    }

    fn mixtures(self) -> &'static [f64] {
        match self {
            Self::Ridge => &[0.0],
            Self::Lasso => &[1.0],
            Self::ElasticNet => &MIXTURES,
        }
    }
}

/// The normal equations of scaled columns centred on the rows they come from, as a small square design:
/// `root = diag(s) Qᵀ`, `rootᵀ root` being the matrix of products.
struct Reduced {
    n: f64,
    values: Vec<f64>,
    vectors: Mat<f64>,
    /// `Qᵀ c` for the products `c` with the target.
    rotated: Vec<f64>,
}

impl Reduced {
    /// Columns are divided by `scale` (0: left out).
    fn new(moments: &Moments, scale: &[f64]) -> Result<Self, StackError> {
        let m = scale.len();
        let inverse: Vec<f64> = scale.iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
        let product = |a: usize, b: usize| moments.about(a, b, [moments.mean(a), moments.mean(b)]);
        let matrix = Mat::from_fn(m, m, |a, b| product(a.min(b), a.max(b)) * inverse[a] * inverse[b]);
        let decomposition = eigh(&matrix)?;
        let cross: Vec<f64> = (0..m).map(|a| product(a, m) * inverse[a]).collect();
        let rotated =
            (0..m).map(|k| (0..m).map(|a| decomposition.vectors.at(a, k) * cross[a]).sum()).collect();
        // Directions at rounding level are no data: the mean of the predictions depends on them exactly.
        let floor = decomposition.values.first().map_or(0.0, |v| v * m as f64 * 1e-14);
        let values = decomposition.values.iter().map(|v| if *v > floor { *v } else { 0.0 }).collect();
        Ok(Self { n: moments.n, values, vectors: decomposition.vectors, rotated })
    }

    /// Coefficients of the scaled columns for falling strengths.
    fn path(&self, learner: Learner, l1_ratio: f64, alphas: &[f64]) -> Vec<Vec<f64>> {
        let m = self.values.len();
        if learner == Learner::Ridge {
            let fit = |alpha: &f64| {
                let inner: Vec<f64> =
                    (0..m)
                        .map(|k| {
                            if self.values[k] > 0.0 {
                                self.rotated[k] / (self.values[k] + alpha)
                            } else {
                                0.0
                            }
                        })
                        .collect();
                (0..m).map(|a| (0..m).map(|k| self.vectors.at(a, k) * inner[k]).sum()).collect()
            };
            return alphas.iter().map(fit).collect();
        }
        let roots: Vec<f64> = self.values.iter().map(|v| v.sqrt()).collect();
        let columns =
            (0..m).flat_map(|a| (0..m).map(move |k| (a, k))).map(|(a, k)| roots[k] * self.vectors.at(a, k));
        let design = Dense::from_columns(m, m, columns.collect()).expect("m x m values");
        let target = (0..m).map(|k| if roots[k] > 0.0 { self.rotated[k] / roots[k] } else { 0.0 }).collect();
        let centred = Centred::new(&design, None, Scaling { centre: false, scale: false });
        let mut problem = Quadratic::new(centred, target, self.n);
        let options = Options { tol: TOL, max_sweeps: MAX_SWEEPS, ..Options::default() };
        let fit = |alpha: &f64| {
            problem.solve(&ElasticNet { l1_ratio, ..ElasticNet::l1(*alpha) }, &options);
            problem.coefficients().to_vec()
        };
        alphas.iter().map(fit).collect()
    }
}

/// Mean squared error of coefficients of scaled columns, centred on `train`, over the rows of `test`.
fn error(coef: &[f64], scale: &[f64], train: &Moments, test: &Moments) -> f64 {
    let m = coef.len();
    // Residual y - x w as one more linear form: its second moment around the training means.
    let active: Vec<usize> = (0..m).filter(|j| coef[*j] != 0.0).collect();
    let weight = |j: usize| if j == m { -1.0 } else { coef[j] / scale[j] };
    let indices: Vec<usize> = active.into_iter().chain([m]).collect();
    let mut sum = 0.0;
    for &a in &indices {
        for &b in &indices {
            sum += weight(a) * weight(b) * test.about(a, b, [train.mean(a), train.mean(b)]);
        }
    }
    (sum / test.n).max(0.0)
}

/// Fits from the moments of inner folds of the training rows; columns `0..m` are features, column `m` is the target,
/// all measured from `shift`.
///
/// As in the published code the columns are scaled once, on all training rows, and centred in every inner fold. Ridge
/// takes the strength of least mean root mean squared error, the others of least mean squared error, as scikit-learn's
/// classes do.
pub(super) fn fit(learner: Learner, inner: &[Moments], shift: &[f64]) -> Result<Linear, StackError> {
    let columns = inner[0].sum.len();
    let m = columns - 1;
    let all = inner.iter().fold(Moments::zero(columns), Moments::plus);
    let scale: Vec<f64> = (0..m)
        .map(|j| {
            let variance = all.covariance(j, j);
            // What is left of a constant column is rounding.
            if variance > 1e-18 * (all.product.at(j, j) / all.n + shift[j] * shift[j]) {
                variance.sqrt()
            } else {
                0.0
            }
        })
        .collect();
    let (alphas, mixtures) = (learner.alphas(), learner.mixtures());
    let mut scores = vec![0.0; alphas.len() * mixtures.len()];
    for (k, test) in inner.iter().enumerate() {
        let rest = inner.iter().enumerate().filter(|(i, _)| *i != k);
        let train = rest.fold(Moments::zero(columns), |sum, (_, part)| sum.plus(part));
        let reduced = Reduced::new(&train, &scale)?;
        for (i, &mixture) in mixtures.iter().enumerate() {
            for (j, coef) in reduced.path(learner, mixture, &alphas).iter().enumerate() {
                let mse = error(coef, &scale, &train, test);
                scores[i * alphas.len() + j] +=
                    if learner == Learner::Ridge { mse.sqrt() } else { mse } / inner.len() as f64;
            }
        }
    }
    // The strongest of equals.
    let best = (0..scores.len()).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
    let (l1_ratio, alpha) = (mixtures[best / alphas.len()], alphas[best % alphas.len()]);
    let upto = &alphas[..=best % alphas.len()];
    let coef = Reduced::new(&all, &scale)?.path(learner, l1_ratio, upto).pop().unwrap_or_default();
    let coef: Vec<f64> = coef.iter().zip(&scale).map(|(w, s)| if *s > 0.0 { w / s } else { 0.0 }).collect();
    let level = |j: usize| all.mean(j) + shift[j];
    let intercept = level(m) - coef.iter().enumerate().map(|(j, w)| w * level(j)).sum::<f64>();
    let zeros = coef.iter().filter(|w| w.abs() < ZERO).count();
    let inner_rmse = if learner == Learner::Ridge { scores[best] } else { scores[best].sqrt() };
    Ok(Linear { learner, sparsity: zeros as f64 / m as f64, coef, intercept, alpha, l1_ratio, inner_rmse })
}

impl Linear {
    pub(super) fn predict_row(&self, features: &[f64]) -> f64 {
        self.intercept + self.coef.iter().zip(features).map(|(w, x)| w * x).sum::<f64>()
    }
}
