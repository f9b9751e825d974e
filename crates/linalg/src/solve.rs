//! QR, least squares and linear systems.
//!
//! - [`qr`]: `A = Q R`, Householder, `2 m n^2` multiply-adds (plus as many for `Q`).
//! - [`lstsq`]: `min ||A X - B||_F`; QR for a full-rank tall matrix, the SVD's minimum-norm solution otherwise.
//! - [`solve_spd`]: `A X = B` for a symmetric positive definite `A` by Cholesky (`n^3 / 6`), LU with partial pivoting
//!   when a pivot is not positive.

use crate::backend::Triangle;
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar, transpose_into};
use crate::products::{matmul, matmul_transposed_left};
use crate::svd::svd;

/// A thin QR decomposition.
#[derive(Debug, Clone)]
pub struct Qr<T> {
    /// `m x k`, orthonormal columns, `k = min(m, n)`.
    pub q: Mat<T>,
    /// `k x n`, upper triangular (trapezoidal when `m < n`).
    pub r: Mat<T>,
}

/// The thin QR decomposition of `a`.
///
/// # Errors
/// [`LinalgError::NonFinite`].
pub fn qr<T: Scalar>(a: &Mat<T>) -> Result<Qr<T>, LinalgError> {
    a.check_finite("qr")?;
    Ok(qr_unchecked(a))
}

pub(crate) fn qr_unchecked<T: Scalar>(a: &Mat<T>) -> Qr<T> {
    let (m, n) = a.shape();
    let k = m.min(n);
    let (qt, r) = T::qr(a.transposed().data, m, n);
    let mut q = Mat::zeros(m, k);
    transpose_into(&qt, k, m, &mut q.data);
    Qr { q, r: Mat { rows: k, cols: n, data: r } }
}

/// `X` (`n x c`) that minimises `||A X - B||_F`, for `A: m x n` and `B: m x c`; the one of least norm when `A` has
/// dependent columns. A value below `max(m, n) * epsilon * s_1` counts as zero.
///
/// # Errors
/// [`LinalgError::Shape`], [`LinalgError::NonFinite`], [`LinalgError::NoConvergence`].
pub fn lstsq<T: Scalar>(a: &Mat<T>, b: &Mat<T>) -> Result<Mat<T>, LinalgError> {
    if a.rows != b.rows {
        return Err(LinalgError::shape(
            "lstsq",
            format!("{} rows on the right-hand side", a.rows),
            format!("{} x {}", b.rows, b.cols),
        ));
    }
    a.check_finite("lstsq")?;
    b.check_finite("lstsq")?;
    let (m, n) = a.shape();
    let cut = m.max(n) as f64 * T::EPSILON;
    if m >= n {
        let Qr { q, r } = qr_unchecked(a);
        let diagonal: Vec<f64> = (0..n).map(|i| r.at(i, i).to_f64().abs()).collect();
        let largest = diagonal.iter().copied().fold(0.0, f64::max);
        // The diagonal of an unpivoted R only bounds the condition number, so keep a wide margin.
        if diagonal.iter().all(|&d| d > cut.sqrt() * 1e-2 * largest) {
            let mut x = matmul_transposed_left(&q, b)?;
            T::triangle_solve(&r.data, n, Triangle::Upper, &mut x.data, b.cols);
            return Ok(x);
        }
    }
    let d = svd(a)?;
    let largest = d.s.first().map_or(0.0, |s| s.to_f64());
    let inverse: Vec<T> =
        d.s.iter()
            .map(|s| {
                let s = s.to_f64();
                T::from_f64(if s > cut * largest { 1.0 / s } else { 0.0 })
            })
            .collect();
    let mut coefficients = matmul_transposed_left(&d.u, b)?;
    coefficients.scale_rows(&inverse);
    matmul_transposed_left(&d.vt, &coefficients)
}

/// `A^-1 B` for a symmetric positive definite `A` (`n x n`) and `B: n x c`.
///
/// Cholesky, reading the upper triangle of `A`; when a pivot is not positive (an indefinite or rounding-level singular
/// matrix) LU with partial pivoting on the full matrix.
///
/// # Errors
/// [`LinalgError::Shape`], [`LinalgError::NonFinite`], [`LinalgError::Singular`].
pub fn solve_spd<T: Scalar>(a: &Mat<T>, b: &Mat<T>) -> Result<Mat<T>, LinalgError> {
    if a.rows != a.cols || a.rows != b.rows {
        return Err(LinalgError::shape(
            "solve_spd",
            "a square matrix and as many rows on the right-hand side",
            format!("{} x {} and {} x {}", a.rows, a.cols, b.rows, b.cols),
        ));
    }
    a.check_finite("solve_spd")?;
    b.check_finite("solve_spd")?;
    let n = a.rows;
    let mut x = b.clone();
    let mut factor = a.data.clone();
    if T::cholesky(&mut factor, n).is_ok() {
        T::triangle_solve(&factor, n, Triangle::UpperTransposed, &mut x.data, b.cols);
        T::triangle_solve(&factor, n, Triangle::Upper, &mut x.data, b.cols);
    } else {
        factor.copy_from_slice(&a.data);
        if !T::lu_solve(&mut factor, n, &mut x.data, b.cols) {
            return Err(LinalgError::Singular { operation: "solve_spd" });
        }
    }
    if x.check_finite("solve_spd").is_err() {
        return Err(LinalgError::Singular { operation: "solve_spd" });
    }
    Ok(x)
}

/// `||A^T A - I||_max`: how far the columns of `a` are from orthonormal.
///
/// ```
/// use sparseland_linalg::{Mat, orthogonality_error, qr};
/// let a = Mat::from_fn(20, 4, |i, j| ((i * 4 + j) as f64).cos());
/// assert!(orthogonality_error(&qr(&a)?.q) < 1e-14);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
pub fn orthogonality_error<T: Scalar>(a: &Mat<T>) -> f64 {
    let a = a.cast::<f64>();
    let Ok(g) = matmul(&a.transposed(), &a) else { return f64::INFINITY };
    let mut worst = 0.0f64;
    for i in 0..g.rows {
        for j in 0..g.cols {
            worst = worst.max((g.at(i, j) - f64::from(u8::from(i == j))).abs());
        }
    }
    worst
}
