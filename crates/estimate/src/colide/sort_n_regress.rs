//! The baseline that sorts nodes by variance and regresses each on its predecessors (Reisach, Seiler and Weichwald,
//! "Beware of the simulated DAG! Causal discovery benchmarks may be easy to game", 2021, arXiv 2102.13647).

use sparseland_linalg::{Mat, solve_spd};

use super::ColideError;
use super::data::covariance;

/// Penalties tried per node, from the one that keeps nothing down to [`PATH_END`] of it.
const PATH: usize = 60;
const PATH_END: f64 = 1e-4;
/// A relative ridge for nodes whose predecessors are collinear.
const RIDGE: f64 = 1e-10;

/// The weight matrix whose edges all point from smaller to larger variance: `d x d`, acyclic by construction.
///
/// Each node is regressed on the nodes of smaller variance by an adaptive lasso: least squares gives the weights, and
/// the penalty with the smallest BIC, `n log(RSS / n) + log(n) k`, is taken. Cost `O(d^4)` at worst.
///
/// # Errors
/// [`ColideError::NonFinite`], [`ColideError::Shape`] when there are no rows.
pub fn sort_n_regress(x: &Mat<f64>) -> Result<Mat<f64>, ColideError> {
    let c = covariance(x)?;
    let (n, d) = (x.rows as f64, x.cols);
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| c.at(a, a).total_cmp(&c.at(b, b)));
    let mut w = Mat::zeros(d, d);
    for (at, &target) in order.iter().enumerate() {
        let before: Vec<usize> = order[..at].iter().copied().filter(|&k| c.at(k, k) > 0.0).collect();
        if before.is_empty() || c.at(target, target) <= 0.0 {
            continue;
        }
        let p = before.len();
        let mean = before.iter().map(|&k| c.at(k, k)).sum::<f64>() / p as f64;
        let gram =
            Mat::from_fn(p, p, |i, j| c.at(before[i], before[j]) + if i == j { RIDGE * mean } else { 0.0 });
        let cross = Mat::from_fn(p, 1, |i, _| c.at(before[i], target));
        let least_squares = solve_spd(&gram, &cross)?;
        // Columns scaled by |b|: the lasso on them is the adaptive lasso.
        let scale: Vec<f64> = least_squares.data.iter().map(|b| b.abs()).collect();
        let gram = Mat::from_fn(p, p, |i, j| gram.at(i, j) * scale[i] * scale[j]);
        let cross: Vec<f64> = cross.data.iter().zip(&scale).map(|(c, s)| c * s).collect();
        let start = cross.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if start == 0.0 {
            continue;
        }
        let total = c.at(target, target);
        let mut coefficients = vec![0.0; p];
        let (mut best, mut best_bic) = (coefficients.clone(), n * total.ln());
        for k in 1..PATH {
            let penalty = start * PATH_END.powf(k as f64 / (PATH - 1) as f64);
            descend(&gram, &cross, penalty, &mut coefficients);
            let linear: f64 = cross.iter().zip(&coefficients).map(|(c, b)| c * b).sum();
            let quadratic: f64 = (0..p).map(|i| coefficients[i] * dot(gram.row(i), &coefficients)).sum();
            let rss = (total - 2.0 * linear + quadratic).max(f64::EPSILON * total);
            let used = coefficients.iter().filter(|b| **b != 0.0).count();
            let bic = n * rss.ln() + n.ln() * used as f64;
            if bic < best_bic {
                best_bic = bic;
                best.copy_from_slice(&coefficients);
            }
        }
        for (i, b) in best.iter().enumerate() {
            w.data[before[i] * d + target] = b * scale[i];
        }
    }
    Ok(w)
}

/// Weights and noise scales of a known graph by least squares on the parents: `(W, sigma)`.
///
/// The l1 penalty and the remaining small weights of a fit bias its scales; this does not change the edges.
///
/// # Errors
/// [`ColideError::NonFinite`], [`ColideError::Shape`] when the graph has another order than the data.
pub fn refit(dag: &Mat<f64>, x: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>), ColideError> {
    let c = covariance(x)?;
    let d = x.cols;
    if dag.shape() != (d, d) {
        return Err(ColideError::Shape {
            what: "the graph",
            expected: format!("{d} x {d}"),
            got: format!("{} x {}", dag.rows, dag.cols),
        });
    }
    let (mut w, mut sigma) = (Mat::zeros(d, d), Vec::with_capacity(d));
    for j in 0..d {
        let parents: Vec<usize> = (0..d).filter(|&i| dag.at(i, j) != 0.0 && c.at(i, i) > 0.0).collect();
        let p = parents.len();
        let mut variance = c.at(j, j);
        if p > 0 {
            let mean = parents.iter().map(|&k| c.at(k, k)).sum::<f64>() / p as f64;
            let gram = Mat::from_fn(p, p, |a, b| {
                c.at(parents[a], parents[b]) + if a == b { RIDGE * mean } else { 0.0 }
            });
            let cross = Mat::from_fn(p, 1, |a, _| c.at(parents[a], j));
            for (a, b) in solve_spd(&gram, &cross)?.data.iter().enumerate() {
                w.data[parents[a] * d + j] = *b;
                variance -= b * cross.data[a];
            }
        }
        sigma.push(variance.max(0.0).sqrt());
    }
    Ok((w, sigma))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cyclic coordinate descent on `b^T G b / 2 - c^T b + penalty ||b||_1`, from the given start.
fn descend(gram: &Mat<f64>, cross: &[f64], penalty: f64, b: &mut [f64]) {
    let p = b.len();
    for _ in 0..1000 {
        let (mut change, mut size) = (0.0f64, 0.0f64);
        for j in 0..p {
            let curvature = gram.at(j, j);
            if curvature <= 0.0 {
                continue;
            }
            let gradient = cross[j] - dot(gram.row(j), b) + curvature * b[j];
            let new = gradient.signum() * (gradient.abs() - penalty).max(0.0) / curvature;
            change = change.max((new - b[j]).abs());
            size = size.max(new.abs());
            b[j] = new;
        }
        if change <= 1e-7 * size {
            break;
        }
    }
}
