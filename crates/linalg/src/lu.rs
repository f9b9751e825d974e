//! Inverses together with their log determinants, from one elimination.
//!
//! - [`inverse_log_det`]: any square matrix, LU with partial pivoting, `n^3` multiply-adds for the inverse.
//! - [`UnpivotedInverse`]: matrices whose leading minors are positive, which are the symmetric positive definite ones
//!   and the M-matrices. Gauss-Jordan without row exchanges, in place, in blocks: `n^3` multiply-adds and no allocation
//!   per call below order [`UnpivotedInverse::BLOCKED_FROM`]. The first pivot that is not positive is reported, and
//!   for a matrix without positive off-diagonal entries that decides whether it is an M-matrix: such a matrix has a
//!   non-negative inverse exactly when all pivots are positive (Berman and Plemmons, *Nonnegative Matrices in the
//!   Mathematical Sciences*, 1994, chapter 6).
//!
//! Both M-matrices and positive definite matrices need no pivoting for stability: elements do not grow.

use crate::backend::{Kernels, View};
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar};

/// An inverse and the determinant it came with.
#[derive(Debug, Clone)]
pub struct InverseLogDet<T> {
    /// `A^-1`, `n x n`.
    pub inverse: Mat<T>,
    /// `log |det A|`, summed in f64.
    pub log_abs_det: f64,
    /// The sign of the determinant, 1 or -1.
    pub sign: f64,
}

/// `A^-1` and `log |det A|` of a square matrix, by LU with partial pivoting.
///
/// ```
/// use sparseland_linalg::{Mat, inverse_log_det};
/// let a = Mat::from_vec(2, 2, vec![0.0, 2.0, 4.0, 0.0])?;
/// let found = inverse_log_det(&a)?;
/// assert_eq!(found.inverse.data, vec![0.0, 0.25, 0.5, 0.0]);
/// assert!((found.log_abs_det - 8f64.ln()).abs() < 1e-15 && found.sign == -1.0);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::Shape`] when `a` is not square, [`LinalgError::NonFinite`], [`LinalgError::Singular`].
pub fn inverse_log_det<T: Scalar>(a: &Mat<T>) -> Result<InverseLogDet<T>, LinalgError> {
    const OPERATION: &str = "inverse_log_det";
    if a.rows != a.cols {
        return Err(LinalgError::shape(OPERATION, "a square matrix", format!("{} x {}", a.rows, a.cols)));
    }
    a.check_finite(OPERATION)?;
    let n = a.rows;
    let mut factor = a.data.clone();
    let mut inverse = Mat::identity(n);
    let permutation = T::lu_solve_permuted(&mut factor, n, &mut inverse.data, n)
        .ok_or(LinalgError::Singular { operation: OPERATION })?;
    if inverse.check_finite(OPERATION).is_err() {
        return Err(LinalgError::Singular { operation: OPERATION });
    }
    let mut sign = permutation_sign(&permutation);
    let mut log_abs_det = 0.0;
    for i in 0..n {
        let pivot = factor[i * n + i].to_f64();
        log_abs_det += pivot.abs().ln();
        sign *= pivot.signum();
    }
    Ok(InverseLogDet { inverse, log_abs_det, sign })
}

/// 1 for an even permutation, -1 for an odd one.
fn permutation_sign(permutation: &[usize]) -> f64 {
    let mut seen = vec![false; permutation.len()];
    let mut sign = 1.0;
    for start in 0..permutation.len() {
        let (mut at, mut length) = (start, 0);
        while !seen[at] {
            seen[at] = true;
            at = permutation[at];
            length += 1;
        }
        if length > 0 && length % 2 == 0 {
            sign = -sign;
        }
    }
    sign
}

/// Values per vector operation: two AVX2 registers of f64. Rows are padded to a multiple.
const LANES: usize = 8;

fn padded(n: usize) -> usize {
    n.div_ceil(LANES) * LANES
}

/// Inverts many matrices of one order without pivoting; holds the workspace.
///
/// ```
/// use sparseland_linalg::UnpivotedInverse;
/// let mut work = UnpivotedInverse::new(2);
/// let mut inverse = [0.0; 4];
/// let log_det = work.invert(&[2.0, -1.0, -1.0, 2.0], &mut inverse).unwrap();
/// assert!((log_det - 3f64.ln()).abs() < 1e-15 && (inverse[1] - 1.0 / 3.0).abs() < 1e-15);
/// // Not an M-matrix: the second pivot is 1 - 4.
/// assert_eq!(work.invert(&[1.0, -2.0, -2.0, 1.0], &mut inverse), Err(1));
/// ```
#[derive(Debug, Clone)]
pub struct UnpivotedInverse {
    n: usize,
    /// The matrix while it is worked on, `n` rows of `stride` values.
    work: Vec<f64>,
    /// The pivot row, or the scaled rows of a block (`BLOCK x n`).
    rows: Vec<f64>,
    /// The columns of a block (`n x BLOCK`), large orders only.
    columns: Vec<f64>,
    /// A diagonal block and its inverse, large orders only.
    diagonal: Vec<f64>,
}

impl UnpivotedInverse {
    /// From this order on the work is done in blocks by matrix products, on all threads of the current pool.
    pub const BLOCKED_FROM: usize = 64;
    const BLOCK: usize = 32;

    /// A workspace for matrices of order `n`; about `8 n^2` bytes.
    pub fn new(n: usize) -> Self {
        if n < Self::BLOCKED_FROM {
            let stride = padded(n);
            return UnpivotedInverse {
                n,
                work: vec![0.0; n * stride],
                rows: vec![0.0; stride],
                columns: Vec::new(),
                diagonal: Vec::new(),
            };
        }
        UnpivotedInverse {
            n,
            work: vec![0.0; padded(Self::BLOCK) * Self::BLOCK],
            rows: vec![0.0; 2 * Self::BLOCK * n],
            columns: vec![0.0; n * Self::BLOCK],
            diagonal: vec![0.0; Self::BLOCK * Self::BLOCK],
        }
    }

    /// The order.
    pub fn order(&self) -> usize {
        self.n
    }

    /// Writes `A^-1` of the row-major `a` (`n x n`) into `inverse` and returns `log det A`; `Err` holds the index of the
    /// first pivot that is not a positive number (NaN included), and `inverse` is then undefined.
    ///
    /// # Panics
    /// When a slice does not hold `n * n` values.
    pub fn invert(&mut self, a: &[f64], inverse: &mut [f64]) -> Result<f64, usize> {
        let n = self.n;
        assert_eq!((a.len(), inverse.len()), (n * n, n * n), "two matrices of order {n}");
        if n < Self::BLOCKED_FROM {
            return small_inverse(&mut self.work, &mut self.rows, a, inverse, n);
        }
        inverse.copy_from_slice(a);
        let mut log_det = 0.0;
        for from in (0..n).step_by(Self::BLOCK) {
            let size = Self::BLOCK.min(n - from);
            let block = from..from + size;
            // The columns of the block, zero inside the block, so that the product below leaves its rows alone.
            let columns = &mut self.columns[..n * size];
            for (i, (row, kept)) in
                inverse.chunks_exact_mut(n).zip(columns.chunks_exact_mut(size)).enumerate()
            {
                if block.contains(&i) {
                    self.diagonal[(i - from) * size..(i - from + 1) * size]
                        .copy_from_slice(&row[block.clone()]);
                    kept.fill(0.0);
                } else {
                    kept.copy_from_slice(&row[block.clone()]);
                    row[block.clone()].fill(0.0);
                }
            }
            let stride = padded(size);
            let (pivot_row, scaled) = self.rows.split_at_mut(Self::BLOCK * n);
            let pivots = pivot_row[..size * size].len();
            let mut pivot = [0.0; Self::BLOCK];
            let diagonal = &mut self.diagonal[..pivots];
            let block_inverse = &mut pivot_row[..pivots];
            log_det += small_inverse(
                &mut self.work[..size * stride],
                &mut pivot[..stride],
                diagonal,
                block_inverse,
                size,
            )
            .map_err(|at| from + at)?;
            // scaled = inverse(block) * rows of the block, with the identity in the block's own columns.
            let scaled = &mut scaled[..size * n];
            let rows = &mut inverse[from * n..(from + size) * n];
            for (i, row) in rows.chunks_exact_mut(n).enumerate() {
                row[block.clone()].fill(0.0);
                row[from + i] = 1.0;
            }
            let left = View { data: &*block_inverse, rows: size, cols: size, transposed: false };
            f64::gemm(scaled, false, left, View { data: rows, rows: size, cols: n, transposed: false }, 1.0);
            rows.copy_from_slice(scaled);
            let left = View { data: &*columns, rows: n, cols: size, transposed: false };
            f64::gemm(
                inverse,
                true,
                left,
                View { data: scaled, rows: size, cols: n, transposed: false },
                -1.0,
            );
        }
        Ok(log_det)
    }
}

/// `target += factor * other`, on whole vectors.
#[inline(always)]
fn add_scaled<const FUSED: bool>(target: &mut [f64], factor: f64, other: &[f64]) {
    let (target, other) = (target.as_chunks_mut::<LANES>().0, other.as_chunks::<LANES>().0);
    for (t, o) in target.iter_mut().zip(other) {
        // By value: the compiler then knows that the two do not overlap and keeps them in vector registers.
        let (mut sum, other) = (*t, *o);
        for lane in 0..LANES {
            sum[lane] =
                if FUSED { factor.mul_add(other[lane], sum[lane]) } else { sum[lane] + factor * other[lane] };
        }
        *t = sum;
    }
}

struct GaussJordan<'a, const FUSED: bool> {
    work: &'a mut [f64],
    row: &'a mut [f64],
    n: usize,
}

impl<const FUSED: bool> pulp::NullaryFnOnce for GaussJordan<'_, FUSED> {
    type Output = Result<f64, usize>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let GaussJordan { work, row, n } = self;
        let stride = row.len();
        // The product of the pivots, its exponent split off before it can leave the range.
        let (mut product, mut log_det) = (1.0f64, 0.0);
        for k in 0..n {
            let pivot = work[k * stride + k];
            // Also true for NaN.
            if !(pivot > 0.0 && pivot.is_finite()) {
                return Err(k);
            }
            product *= pivot;
            if !(1e-100..1e100).contains(&product) {
                log_det += product.ln();
                product = 1.0;
            }
            let scale = 1.0 / pivot;
            for (kept, v) in row.iter_mut().zip(&work[k * stride..(k + 1) * stride]) {
                *kept = v * scale;
            }
            row[k] = scale;
            // Row k becomes zero plus the scaled row. In the others the entry in column k is set after the sweep over
            // the row: a scalar store just before a vector load of the same place would stall.
            for (i, target) in work.chunks_exact_mut(stride).enumerate() {
                if i == k {
                    target.copy_from_slice(row);
                } else {
                    let factor = -target[k];
                    add_scaled::<FUSED>(target, factor, row);
                    target[k] = factor * scale;
                }
            }
        }
        Ok(log_det + product.ln())
    }
}

fn small_inverse(
    work: &mut [f64],
    row: &mut [f64],
    a: &[f64],
    inverse: &mut [f64],
    n: usize,
) -> Result<f64, usize> {
    if n == 0 {
        return Ok(0.0);
    }
    let stride = row.len();
    for (padded, source) in work.chunks_exact_mut(stride).zip(a.chunks_exact(n)) {
        padded[..n].copy_from_slice(source);
        padded[n..].fill(0.0);
    }
    let arch = pulp::Arch::new();
    let log_det = if matches!(arch, pulp::Arch::Scalar) {
        arch.dispatch(GaussJordan::<false> { work, row, n })
    } else {
        arch.dispatch(GaussJordan::<true> { work, row, n })
    }?;
    for (padded, target) in work.chunks_exact(stride).zip(inverse.chunks_exact_mut(n)) {
        target.copy_from_slice(&padded[..n]);
    }
    if !log_det.is_finite() || !crate::mat::all_finite(inverse) {
        return Err(n - 1);
    }
    Ok(log_det)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::products::matmul;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    /// `s I - W o W` of a random `W` inside the domain.
    fn m_matrix(n: usize, seed: u64) -> Mat<f64> {
        let mut rng = Pcg64::seed_from_u64(seed);
        let scale = 0.9 / n as f64;
        Mat::from_fn(n, n, |i, j| {
            let w: f64 = rng.random();
            f64::from(u8::from(i == j)) - scale * w * w
        })
    }

    fn off_identity(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
        matmul(a, b).unwrap().distance(&Mat::identity(a.rows)).unwrap()
    }

    #[test]
    fn both_inverses_agree_with_the_identity_and_each_other() {
        for n in [0, 1, 2, 7, 8, 20, 31, 63, 64, 65, 96, 131] {
            let a = m_matrix(n, n as u64);
            let general = inverse_log_det(&a).unwrap();
            let mut inverse = Mat::zeros(n, n);
            let log_det = UnpivotedInverse::new(n).invert(&a.data, &mut inverse.data).unwrap();
            assert!(off_identity(&a, &general.inverse) < 1e-12 * (n + 1) as f64, "order {n}");
            assert!(off_identity(&a, &inverse) < 1e-12 * (n + 1) as f64, "order {n}");
            assert!((log_det - general.log_abs_det).abs() < 1e-12 * (n + 1) as f64, "order {n}");
            assert!(inverse.data.iter().all(|&v| v >= -1e-15), "an M-matrix has a non-negative inverse");
        }
    }

    #[test]
    fn signs_and_permutations_enter_the_determinant() {
        let mut rng = Pcg64::seed_from_u64(3);
        for n in 1..9 {
            let a = Mat::from_fn(n, n, |_, _| rng.random_range(-1.0..1.0));
            // The determinant by the eigenvalues of A^T A, the sign by swapping two rows.
            let found = inverse_log_det(&a).unwrap();
            let squared: f64 =
                crate::eigh_values(&crate::gram(&a)).unwrap().iter().map(|v: &f64| v.ln()).sum();
            assert!((2.0 * found.log_abs_det - squared).abs() < 1e-6);
            if n > 1 {
                let mut swapped = a.clone();
                for j in 0..n {
                    swapped.data.swap(j, n + j);
                }
                assert_eq!(inverse_log_det(&swapped).unwrap().sign, -found.sign);
            }
        }
        assert_eq!(inverse_log_det(&Mat::<f32>::identity(4)).unwrap().sign, 1.0);
    }

    #[test]
    fn matrices_outside_the_domain_name_their_pivot() {
        let mut inverse = vec![0.0; 80 * 80];
        let mut a = Mat::identity(80);
        a.data[70 * 80 + 70] = -1.0;
        assert_eq!(UnpivotedInverse::new(80).invert(&a.data, &mut inverse), Err(70));
        a.data[70 * 80 + 70] = f64::NAN;
        assert_eq!(UnpivotedInverse::new(80).invert(&a.data, &mut inverse), Err(70));
        assert!(matches!(inverse_log_det(&Mat::<f64>::zeros(3, 3)), Err(LinalgError::Singular { .. })));
        assert!(matches!(inverse_log_det(&Mat::<f64>::zeros(3, 2)), Err(LinalgError::Shape { .. })));
    }

    #[test]
    fn extreme_determinants_do_not_overflow() {
        let n = 60;
        let a = Mat::from_diagonal(&vec![1e-30; n]);
        let mut inverse = vec![0.0; n * n];
        let log_det = UnpivotedInverse::new(n).invert(&a.data, &mut inverse).unwrap();
        assert!((log_det - n as f64 * 1e-30f64.ln()).abs() < 1e-9);
    }

    #[test]
    #[ignore = "a timing: cargo test --release -p sparseland-linalg -- --ignored --nocapture microseconds"]
    fn microseconds() {
        for n in [11usize, 20, 40, 50, 63, 64, 100, 200] {
            let a = m_matrix(n, 1);
            let mut work = UnpivotedInverse::new(n);
            let (mut inverse, mut out) = (vec![0.0; n * n], vec![0.0; n * n]);
            let rounds = 20_000_000 / (n * n * n) + 1;
            let time = |name: &str, f: &mut dyn FnMut()| {
                let began = std::time::Instant::now();
                for _ in 0..rounds {
                    f();
                }
                println!("{n:4} {name:16} {:9.2} us", began.elapsed().as_secs_f64() * 1e6 / rounds as f64);
            };
            time("inverse", &mut || {
                work.invert(&a.data, &mut inverse).unwrap();
            });
            let v = |data| View { data, rows: n, cols: n, transposed: false };
            time("gemm", &mut || f64::gemm(&mut out, false, v(&a.data), v(&inverse), 1.0));
            time("lu inverse", &mut || {
                inverse_log_det(&a).unwrap();
            });
        }
    }
}
