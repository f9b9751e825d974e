//! Simpler ways to combine predictions, to compare with.

use sparseland_linalg::{Mat, lstsq};
use sparseland_optim::design::Dense;

use super::StackError;
use crate::estimators::Lasso;

/// Mean of all models, row by row.
pub fn simple_mean(p: &Mat<f64>) -> Vec<f64> {
    (0..p.rows).map(|i| p.row(i).iter().sum::<f64>() / p.cols as f64).collect()
}

/// Weights proportional to `1 / RMSE`.
pub fn by_performance(p: &Mat<f64>, y: &[f64]) -> Vec<f64> {
    let rmse: Vec<f64> = (0..p.cols).map(|k| rmse(&p.column(k), y)).collect();
    super::inverse_weights(&rmse)
}

/// Greedy forward selection with replacement (Caruana et al., ICML 2004): weights in multiples of one over the number of
/// picks, which stops when no pick lowers the error or after `most`.
///
/// One matrix of products of residuals is all it looks at: `O(N K²)` once, then `O(K)` per pick and model.
pub fn hill_climb(p: &Mat<f64>, y: &[f64], most: usize) -> Vec<f64> {
    let k = p.cols;
    let residuals = Mat::from_fn(p.rows, k, |i, j| p.at(i, j) - y[i]);
    let products = sparseland_linalg::gram(&residuals);
    let mut counts = vec![0.0; k];
    // Products of the picked sum with every model, and with itself.
    let (mut with, mut own, mut picks, mut error) = (vec![0.0; k], 0.0, 0.0, f64::INFINITY);
    for _ in 0..most {
        let after = |j: usize| (own + 2.0 * with[j] + products.at(j, j)) / ((picks + 1.0) * (picks + 1.0));
        let Some(best) = (0..k).min_by(|&a, &b| after(a).total_cmp(&after(b))) else { break };
        if after(best) >= error {
            break;
        }
        error = after(best);
        own += 2.0 * with[best] + products.at(best, best);
        with.iter_mut().enumerate().for_each(|(j, w)| *w += products.at(j, best));
        counts[best] += 1.0;
        picks += 1.0;
    }
    counts.iter().map(|c| c / f64::max(picks, 1.0)).collect()
}

/// Non-negative least squares with an intercept: coefficients, then the intercept.
///
/// # Errors
/// [`StackError::Estimate`].
pub fn nnls(p: &Mat<f64>, y: &[f64]) -> Result<(Vec<f64>, f64), StackError> {
    let fit = Lasso::new(0.0).positive(true).fit(&Dense::from(p), y)?;
    Ok((fit.coef.to_dense(), fit.intercept))
}

/// Ordinary least squares with an intercept: coefficients, then the intercept.
///
/// # Errors
/// [`StackError::Linalg`].
pub fn least_squares(p: &Mat<f64>, y: &[f64]) -> Result<(Vec<f64>, f64), StackError> {
    let k = p.cols;
    let table = Mat::from_fn(p.rows, k + 1, |i, j| if j < k { p.at(i, j) } else { 1.0 });
    let mut solved = lstsq(&table, &Mat::from_vec(y.len(), 1, y.to_vec())?)?.data;
    let intercept = solved.pop().unwrap_or(0.0);
    Ok((solved, intercept))
}

/// Root mean squared error.
pub fn rmse(predicted: &[f64], y: &[f64]) -> f64 {
    let sum: f64 = predicted.iter().zip(y).map(|(a, b)| (a - b) * (a - b)).sum();
    (sum / y.len() as f64).sqrt()
}

/// `intercept + P w`.
pub fn combine(p: &Mat<f64>, weights: &[f64], intercept: f64) -> Vec<f64> {
    let row = |i: usize| p.row(i).iter().zip(weights).map(|(p, w)| p * w).sum::<f64>();
    (0..p.rows).map(|i| intercept + row(i)).collect()
}
