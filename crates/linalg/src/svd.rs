//! Singular value decomposition `A = U diag(s) V^T`, thin: `A: m x n`, `U: m x p`, `V^T: p x n`, `p = min(m, n)`.
//!
//! Two routes:
//! - *direct*: bidiagonalisation, then divide and conquer; backward stable in the matrix's own precision; tall and wide
//!   matrices (ratio above 11/6) are reduced by QR first. About `4 m p^2 + 8 p^3` multiply-adds.
//! - *Gram*: `G = A^T A` (or `A A^T`) in f64, its eigenvectors `V`, then `U s = A V` in f64. Cheaper, since a
//!   tridiagonal problem of half the work replaces the bidiagonal one, but a value `s_i` is known only to about
//!   `eps64 (s_1 / s_i)^2` relative. It is used where that is below the asked precision (see the constants), which is
//!   checked on the computed spectrum; otherwise the direct route runs.
//!
//! The rank-k truncation is optimal (Eckart-Young): `||A - A_k||_F^2 = sum_{i>k} s_i^2`.

use crate::backend::{Kernels, View};
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar, transpose_into};
use crate::operator::multiply;

/// A thin singular value decomposition.
#[derive(Debug, Clone)]
pub struct Svd<T> {
    /// `m x k`, orthonormal columns.
    pub u: Mat<T>,
    /// `k` singular values, descending.
    pub s: Vec<T>,
    /// `k x n`, orthonormal rows.
    pub vt: Mat<T>,
}

impl<T: Scalar> Svd<T> {
    /// Keeps the leading `k` triplets (all of them when there are fewer).
    pub fn truncate(mut self, k: usize) -> Self {
        if k < self.s.len() {
            self.u = self.u.leading_columns(k);
            self.s.truncate(k);
            self.vt.data.truncate(k * self.vt.cols);
            self.vt.rows = k;
        }
        self
    }

    /// `U diag(s) V^T`.
    pub fn reconstruct(&self) -> Mat<T> {
        let mut us = self.u.clone();
        us.scale_columns(&self.s);
        multiply(&us, false, &self.vt, false)
    }

    /// The balanced factors `(U sqrt(s), sqrt(s) V^T)` whose product is the decomposed matrix.
    pub fn balanced_factors(&self) -> (Mat<T>, Mat<T>) {
        let root: Vec<T> = self.s.iter().map(|s| T::from_f64(s.to_f64().sqrt())).collect();
        let (mut left, mut right) = (self.u.clone(), self.vt.clone());
        left.scale_columns(&root);
        right.scale_rows(&root);
        (left, right)
    }
}

/// Smallest `lambda_k / lambda_1` of the Gram matrix for which the Gram route serves: `s_k / s_1 = 1e-4`, so values and
/// orthogonality are right to `eps64 * 1e8`, about eight digits in the last triplet and more before.
const GRAM_FLOOR: f64 = 1e-8;
/// An f32 matrix must be this much longer than wide: its own bidiagonalisation in f32 is as fast as an eigenproblem in
/// f64.
const GRAM_RATIO_F32: f64 = 1.5;
/// Below this order the direct route is as fast.
const GRAM_MIN_ORDER: usize = 64;

/// The thin SVD of `a`, all `min(m, n)` triplets.
///
/// ```
/// use sparseland_linalg::{Mat, svd};
/// let a = Mat::from_fn(5, 3, |i, j| ((i * 3 + j) as f64).sin());
/// let d = svd(&a)?;
/// assert!(d.reconstruct().distance(&a)? < 1e-14);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::NonFinite`], [`LinalgError::NoConvergence`].
pub fn svd<T: Scalar>(a: &Mat<T>) -> Result<Svd<T>, LinalgError> {
    a.check_finite("svd")?;
    if T::EPSILON > 1e-10 {
        // The f32 bidiagonalisation lost digits, and failed on values near the ends of the range.
        let d = svd(&a.cast::<f64>())?;
        let s = d.s.into_iter().map(T::from_f64).collect();
        return Ok(Svd { u: d.u.cast(), s, vt: d.vt.cast() });
    }
    let (m, n) = a.shape();
    let k = m.min(n);
    let raw = T::svd(&a.data, m, n, true).ok_or(no_convergence("svd", k))?;
    let mut u = Mat::zeros(m, k);
    transpose_into(&raw.ut, k, m, &mut u.data);
    Ok(Svd { u, s: raw.s, vt: Mat { rows: k, cols: n, data: raw.vt } })
}

/// The singular values of `a`, descending.
///
/// # Errors
/// As [`svd`].
pub fn svd_values<T: Scalar>(a: &Mat<T>) -> Result<Vec<T>, LinalgError> {
    a.check_finite("svd_values")?;
    if T::EPSILON > 1e-10 {
        return Ok(svd_values(&a.cast::<f64>())?.into_iter().map(T::from_f64).collect());
    }
    let raw = T::svd(&a.data, a.rows, a.cols, false);
    Ok(raw.ok_or(no_convergence("svd_values", a.rows.min(a.cols)))?.s)
}

/// The leading `k` triplets: the best rank-k approximation. `k` above `min(m, n)` means all.
///
/// f32 results are exact to rounding. f64 results have about `eps (s_1 / s_i)^2` relative error in triplet `i`, at worst
/// eight digits (the truncation error is optimal to more, being stationary); `svd(a)?.truncate(k)` has all digits at
/// about twice the time.
///
/// # Errors
/// As [`svd`].
pub fn svd_truncated<T: Scalar>(a: &Mat<T>, k: usize) -> Result<Svd<T>, LinalgError> {
    a.check_finite("svd_truncated")?;
    let p = a.rows.min(a.cols);
    let k = k.min(p);
    let single = T::EPSILON > 1e-10;
    let elongated = a.rows.max(a.cols) as f64 >= GRAM_RATIO_F32 * p as f64;
    if p >= GRAM_MIN_ORDER
        && k > 0
        && (elongated || !single)
        && let Some(found) = gram_route(a, k)
    {
        return Ok(found);
    }
    Ok(svd(a)?.truncate(k))
}

fn no_convergence(operation: &'static str, requested: usize) -> LinalgError {
    LinalgError::NoConvergence { operation, converged: 0, requested }
}

/// The leading `k` triplets from the eigenvectors of the smaller Gram matrix in f64; `None` when `lambda_k` is below
/// `GRAM_FLOOR * lambda_1` or the eigensolver fails.
fn gram_route<T: Scalar>(a: &Mat<T>, k: usize) -> Option<Svd<T>> {
    let (m, n) = a.shape();
    let wide = n > m;
    let p = m.min(n);
    let a64 = a.cast::<f64>();
    let plain = View { data: &a64.data, rows: m, cols: n, transposed: false };
    // Lower triangle of the smaller Gram matrix; read as the upper one of its transpose.
    let mut lower = Mat::zeros(p, p);
    f64::gram_lower(&mut lower.data, View { transposed: wide, ..plain });
    let g = lower.transposed();
    let (values, vectors) = f64::eigh(&g.data, p, true)?;
    let (largest, smallest) = (values[p - 1], values[p - k]);
    // A not-a-number (overflow of the squares) fails this test and takes the direct route.
    let well_separated = largest > 0.0 && largest.is_finite() && smallest >= GRAM_FLOOR * largest;
    if !well_separated {
        return None;
    }
    // Rows p-1, p-2, ..., p-k of `vectors` are the wanted eigenvectors.
    let mut near = Vec::with_capacity(k * p);
    for i in 0..k {
        near.extend_from_slice(&vectors[(p - 1 - i) * p..(p - i) * p]);
    }
    let near = View { data: &near, rows: k, cols: p, transposed: false };
    // far = near A (k x n) for wide matrices, near A^T (k x m) for tall ones.
    let q = m.max(n);
    let mut far = vec![0.0; k * q];
    f64::gemm(&mut far, false, near, View { transposed: !wide, ..plain }, 1.0);
    let mut s = Vec::with_capacity(k);
    for row in far.chunks_exact_mut(q) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
        s.push(T::from_f64(norm));
    }
    let cast = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
    let (left, right) = if wide { (cast(near.data), cast(&far)) } else { (cast(&far), cast(near.data)) };
    let mut u = Mat::zeros(m, k);
    transpose_into(&left, k, m, &mut u.data);
    Some(Svd { u, s, vt: Mat { rows: k, cols: n, data: right } })
}
