//! Randomised SVD (Halko, Martinsson, Tropp, "Finding structure with randomness", 2011, arXiv 0909.4061).
//!
//! For `A: m x n`, rank `k`, oversampling `o`, power iterations `q`, `p = k + o`:
//! 1. `Y = A Omega`, `Omega: n x p` Gaussian; `Q = orth(Y)`.
//! 2. `q` times: `Q = orth(A^T Q)`, `Q = orth(A Q)`.
//! 3. SVD of `B^T = A^T Q` (`n x p`), `A ~ Q B`.
//!
//! Cost `(2 q + 2) m n p` multiply-adds plus `(2 q + 1) (m + n) p^2`; memory `(m + n) p`. Expected error in the spectral
//! norm: `(1 + 4 sqrt(2 min(m,n) / (k - 1)))^(1 / (2 q + 1)) s_{k+1}` for `o >= k`. On a slowly decaying spectrum the
//! last values come out low (about 1 % at q = 2); [`crate::svd_partial`] is exact there at a few times the cost.
//!
//! Orthonormalisation is Cholesky QR on an f64 Gram matrix (one pass for f32, two for f64), which is a few products;
//! Householder QR replaces it when the block is too ill-conditioned for that.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::backend::{Kernels, Triangle};
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar};
use crate::operator::{Operator, multiply};
use crate::solve::qr_unchecked;
use crate::svd::{Svd, svd};

/// The leading `k` triplets of `a`, approximately.
///
/// scikit-learn's `randomized_svd` uses `oversample = 10` and 4 to 7 power iterations, the paper 5 to 10 and 0 to 2;
/// 16 and 2 are good values for weight matrices. `k + oversample` is limited to `min(m, n)`. The same generator state
/// gives the same result for the same number of threads.
///
/// ```
/// use rand::SeedableRng;
/// use sparseland_linalg::{Mat, svd_randomized};
/// let a = Mat::from_fn(60, 40, |i, j| 1.0f64 / (1.0 + i as f64 + j as f64)); // fast decay
/// let d = svd_randomized(&a, 8, 8, 2, &mut rand_pcg::Pcg64::seed_from_u64(1))?;
/// assert!(d.reconstruct().distance(&a)? < 1e-6);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::NonFinite`] when the operator returns such a value, [`LinalgError::Shape`] when it returns a block of
/// the wrong size, [`LinalgError::NoConvergence`].
pub fn svd_randomized<T: Scalar>(
    a: &dyn Operator<T>,
    k: usize,
    oversample: usize,
    power_iterations: usize,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Svd<T>, LinalgError> {
    let (m, n) = (a.rows(), a.cols());
    let k = k.min(m).min(n);
    let p = k.saturating_add(oversample).min(m).min(n);
    // Gaussian test vectors, drawn as rows so that a larger `p` extends a smaller one.
    let omega = Mat::from_fn(p, n, |_, _| {
        let v: f64 = StandardNormal.sample(rng);
        T::from_f64(v)
    });
    range_and_svd(a, omega, k, power_iterations)
}

fn range_and_svd<T: Scalar>(
    a: &dyn Operator<T>,
    omega: Mat<T>,
    k: usize,
    power_iterations: usize,
) -> Result<Svd<T>, LinalgError> {
    const OPERATION: &str = "svd_randomized";
    let (m, n) = (a.rows(), a.cols());
    let p = omega.rows;
    if p == 0 {
        return Ok(Svd { u: Mat::zeros(m, 0), s: Vec::new(), vt: Mat::zeros(0, n) });
    }
    let mut q = orthonormalise(checked_apply(OPERATION, a, &omega.transposed(), false)?);
    for _ in 0..power_iterations {
        let z = orthonormalise(checked_apply(OPERATION, a, &q, true)?);
        q = orthonormalise(checked_apply(OPERATION, a, &z, false)?);
    }
    let bt = checked_apply(OPERATION, a, &q, true)?;
    let inner = svd(&bt)?.truncate(k);
    // B^T = U_b S V_b^T, so A ~ Q B = (Q V_b) S U_b^T.
    let u = multiply(&q, false, &inner.vt, true);
    Ok(Svd { u, s: inner.s, vt: inner.u.transposed() })
}

/// Applies the operator and checks what comes back.
pub(crate) fn checked_apply<T: Scalar>(
    operation: &'static str,
    a: &dyn Operator<T>,
    x: &Mat<T>,
    transposed: bool,
) -> Result<Mat<T>, LinalgError> {
    let (y, rows) = if transposed { (a.apply_transposed(x), a.cols()) } else { (a.apply(x), a.rows()) };
    if y.shape() != (rows, x.cols) || y.data.len() != rows * x.cols {
        return Err(LinalgError::shape(
            operation,
            format!("a block of {rows} x {} from the operator", x.cols),
            format!("{} x {}", y.rows, y.cols),
        ));
    }
    y.check_finite(operation)?;
    Ok(y)
}

/// Squared ratio of the extreme pivots of the Gram factor below which Cholesky QR is not trusted.
const CHOLESKY_QR_FLOOR: f64 = 1e-8;

/// An orthonormal basis of a space that contains the columns of `y` (`m x p`, `p <= m`).
fn orthonormalise<T: Scalar>(y: Mat<T>) -> Mat<T> {
    let passes = if T::EPSILON > 1e-10 { 1 } else { 2 };
    let mut yt = y.transposed().cast::<f64>();
    for _ in 0..passes {
        if !cholesky_qr_pass(&mut yt) {
            return qr_unchecked(&y).q;
        }
    }
    yt.transposed().cast()
}

/// `Y^T <- R^-T Y^T` with `R^T R = Y^T Y`; `false` (and `yt` untouched) when the block is ill-conditioned.
fn cholesky_qr_pass(yt: &mut Mat<f64>) -> bool {
    let p = yt.rows;
    let mut r = multiply(yt, false, yt, true);
    if f64::cholesky(&mut r.data, p).is_err() {
        return false;
    }
    let pivots = (0..p).map(|i| r.data[i * p + i]);
    let (low, high) = pivots.fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
    // Written so that a not-a-number fails.
    let trusted = low * low >= CHOLESKY_QR_FLOOR * high * high && high > 0.0;
    if trusted {
        f64::triangle_solve(&r.data, p, Triangle::UpperTransposed, &mut yt.data, yt.cols);
    }
    trusted
}
