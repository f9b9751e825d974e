//! The M-step: factors `g_i >= 0` that lower `sum_k log gamma_k + L_k / gamma_k` for `gamma = g_1 (x) g_2 (x) ...`.

use sparseland_linalg::{Mat, eigh, solve_spd};

use super::KronSblError;
use super::tensor::{contract, kron_vector};

/// Smallest prior variance relative to the largest of its factor: keeps reciprocals finite.
const SMALLEST: f64 = 1e-30;

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn floor(g: &mut [f64]) {
    let largest = g.iter().copied().fold(0.0, f64::max);
    g.iter_mut().for_each(|v| *v = v.max(largest * SMALLEST).max(f64::MIN_POSITIVE));
}

/// Every factor but the last gets unit norm; the last one carries the scale.
pub(super) fn normalise(factors: &mut [Vec<f64>]) {
    let mut scale = 1.0;
    let last = factors.len() - 1;
    for g in &mut factors[..last] {
        let size = norm(g);
        if size > 0.0 {
            g.iter_mut().for_each(|v| *v /= size);
            scale *= size;
        }
    }
    factors[last].iter_mut().for_each(|v| *v *= scale);
}

/// `||gamma - gamma'|| / ||gamma'||` of two Kronecker products.
pub(super) fn relative_change(new: &[Vec<f64>], old: &[Vec<f64>]) -> f64 {
    let (new, old) = (kron_vector(new), kron_vector(old));
    let difference: f64 = new.iter().zip(&old).map(|(a, b)| (a - b) * (a - b)).sum();
    difference.sqrt() / norm(&old).max(f64::MIN_POSITIVE)
}

/// The weighted mean of `L` over all modes but `mode`: the minimiser over `g_mode` with the others fixed.
fn mean_over_others(moment: &[f64], factors: &[Vec<f64>], mode: usize) -> Vec<f64> {
    let inverse: Vec<Vec<f64>> = factors.iter().map(|g| g.iter().map(|v| 1.0 / v).collect()).collect();
    let others: usize =
        factors.iter().enumerate().filter(|(k, _)| *k != mode).map(|(_, g)| g.len()).product();
    let mut out = contract(moment, &inverse, mode);
    out.iter_mut().for_each(|v| *v /= others as f64);
    out
}

/// Alternating minimisation: sweeps over the factors until `gamma` changes by less than `tolerance`, at most `sweeps`.
/// Without `normalised` the factors keep whatever norms the updates give them.
pub(super) fn alternate(
    moment: &[f64],
    factors: &mut [Vec<f64>],
    tolerance: f64,
    sweeps: usize,
    normalised: bool,
) {
    for _ in 0..sweeps {
        let old = factors.to_vec();
        for mode in 0..factors.len() {
            factors[mode] = mean_over_others(moment, factors, mode);
            floor(&mut factors[mode]);
        }
        if normalised {
            normalise(factors);
        }
        if factors.len() == 1 || (sweeps > 1 && relative_change(factors, &old) <= tolerance) {
            break;
        }
    }
}

/// Rank-one approximations, one mode split off after the other. Of a non-negative matrix the leading singular vectors can
/// be taken non-negative (Perron), so `abs` only fixes the sign.
pub(super) fn rank_one(moment: &[f64], sizes: &[usize]) -> Result<Vec<Vec<f64>>, KronSblError> {
    let mut out = Vec::with_capacity(sizes.len());
    let mut rest = moment.to_vec();
    for &rows in &sizes[..sizes.len() - 1] {
        let cols = rest.len() / rows;
        // The Gram matrix of the rows, scaled so that squares cannot underflow.
        let scale = rest.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let row = |i: usize| &rest[i * cols..(i + 1) * cols];
        let gram = Mat::from_fn(rows, rows, |i, j| {
            row(i).iter().zip(row(j)).map(|(a, b)| (a / scale) * (b / scale)).sum::<f64>()
        });
        let leading: Vec<f64> = eigh(&gram)?.vectors.column(0).iter().map(|v| v.abs()).collect();
        let mut next = vec![0.0; cols];
        for (i, u) in leading.iter().enumerate() {
            next.iter_mut().zip(row(i)).for_each(|(n, v)| *n += u * v);
        }
        out.push(leading);
        rest = next;
    }
    out.push(rest);
    for g in &mut out {
        floor(g);
    }
    Ok(out)
}

/// Added to the variances of coupled factors (published code).
const COUPLED_FLOOR: f64 = 1e-5;

/// Alternating minimisation where factor `i` is `C_i g_i` with `C_i = I + beta_i (neighbours)`, `beta_i = 0` for a plain
/// factor. Neighbours are atoms whose original indices, in `kept`, differ by one.
pub(super) fn alternate_coupled(
    moment: &[f64],
    factors: &mut [Vec<f64>],
    betas: &[f64],
    kept: &[&[usize]],
) -> Result<(), KronSblError> {
    const SWEEPS: usize = 10;
    const TOLERANCE: f64 = 1e-4;
    for _ in 0..SWEEPS {
        let old = factors.to_vec();
        for mode in 0..factors.len() {
            let target = mean_over_others(moment, factors, mode);
            let beta = betas[mode];
            factors[mode] = if beta == 0.0 {
                target
            } else {
                let (index, n) = (kept[mode], target.len());
                let coupling = Mat::from_fn(n, n, |i, j| match index[i].abs_diff(index[j]) {
                    0 => 1.0,
                    1 => beta,
                    _ => 0.0,
                });
                // The floor is relative to the scale of this factor, which the published code takes to be one.
                let scale = norm(&target).max(f64::MIN_POSITIVE);
                let g = nnls(&coupling, &target)?;
                (0..n)
                    .map(|i| {
                        let sum: f64 = coupling.row(i).iter().zip(&g).map(|(c, g)| c * g).sum();
                        COUPLED_FLOOR * scale + sum
                    })
                    .collect()
            };
            floor(&mut factors[mode]);
        }
        normalise(factors);
        if relative_change(factors, &old) <= TOLERANCE {
            break;
        }
    }
    Ok(())
}

/// `argmin over x >= 0 of ||A x - b||` for a small square or tall `A` (Lawson and Hanson 1974).
pub(super) fn nnls(a: &Mat<f64>, b: &[f64]) -> Result<Vec<f64>, KronSblError> {
    let n = a.cols;
    let gram = sparseland_linalg::gram(a);
    let cross: Vec<f64> = (0..n).map(|j| (0..a.rows).map(|i| a.at(i, j) * b[i]).sum()).collect();
    let scale = cross.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let tolerance = 1e-12 * scale;
    let mut x = vec![0.0; n];
    let mut passive = vec![false; n];
    // Each pass adds one index; the classical bound is 3 n passes.
    for _ in 0..3 * n {
        let slope: Vec<f64> =
            (0..n).map(|j| cross[j] - gram.row(j).iter().zip(&x).map(|(g, x)| g * x).sum::<f64>()).collect();
        let Some(best) = (0..n)
            .filter(|&j| !passive[j] && slope[j] > tolerance)
            .max_by(|&i, &j| slope[i].total_cmp(&slope[j]))
        else {
            break;
        };
        passive[best] = true;
        loop {
            let set: Vec<usize> = (0..n).filter(|&j| passive[j]).collect();
            if set.is_empty() {
                break;
            }
            let sub = Mat::from_fn(set.len(), set.len(), |i, j| gram.at(set[i], set[j]));
            let right = Mat::from_fn(set.len(), 1, |i, _| cross[set[i]]);
            let z = solve_spd(&sub, &right)?.data;
            if z.iter().all(|&v| v > 0.0) {
                x.fill(0.0);
                set.iter().zip(&z).for_each(|(&j, &v)| x[j] = v);
                break;
            }
            // As far towards z as all stay non-negative.
            let mut length = 1.0f64;
            for (&j, &v) in set.iter().zip(&z) {
                if v <= 0.0 {
                    length = length.min(x[j] / (x[j] - v));
                }
            }
            for (&j, &v) in set.iter().zip(&z) {
                x[j] += length * (v - x[j]);
                if v <= 0.0 && x[j] <= tolerance / gram.at(j, j).max(f64::MIN_POSITIVE) {
                    x[j] = 0.0;
                    passive[j] = false;
                }
            }
        }
    }
    Ok(x)
}
