//! Leading singular triplets of a large operator by block Golub-Kahan-Lanczos with thick restarts (Baglama and Reichel,
//! "Augmented implicitly restarted Lanczos bidiagonalization methods", 2005; the block form is ours).
//!
//! Bases `Q` (right) and `P` (left) grow by blocks of `b` vectors:
//! `A Q_j = P C + P_j R`, `A^T P_j = Q D + Q_{j+1} S`, always fully reorthogonalised (twice). `H = P^T A Q` has the Ritz
//! triplets `H = X diag(s) Y^T`; the residual of triplet `i` is `||A^T u_i - s_i v_i|| = ||S x_i[last block]||`. When the
//! basis is full, the leading Ritz vectors and the residual block start the next cycle.
//!
//! Cost per cycle of `d` basis vectors: `2 d` operator products in blocks, `d^2 (m + n)` for the orthogonalisation and
//! an SVD of order `d`; memory `d (m + n)` f64 with `d` about `2 k + 32`. Only the operator works in `T`: the bases are
//! f64, so f32 rounding does not pile up over the cycles. A rank-deficient or zero operator is no special
//! case: a vanishing direction is replaced by a fresh one with coefficient zero. (faer's `partial_svd`
//! re-orthogonalises until `|r| < f ||v||`, which an exactly zero `v` never meets; hence our own.)

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

use crate::backend::{Kernels, View};
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar, dot, subtract};
use crate::operator::{Operator, multiply};
use crate::randomized::checked_apply;
use crate::svd::{Svd, svd};

/// Vectors added at a time: enough for a product to reuse each loaded element of a dense operator.
const BLOCK: usize = 8;
/// Cycles before giving up.
const MAX_RESTARTS: usize = 300;
/// Residual, relative to the largest value, at which a triplet counts as exact, in units of epsilon.
const TOLERANCE: f64 = 64.0;
/// Length below which a new direction counts as rounding, relative to the largest product, in units of epsilon.
const ZERO: f64 = 16.0;
/// Seed of the start block: results do not depend on any outside state.
const SEED: u64 = 0x5eed_0f5e_9a17_3d01;

const OPERATION: &str = "svd_partial";

/// The leading `k` triplets of `a` to working precision (residual below 64 epsilon times the largest value).
///
/// Small operators, and requests for more than a quarter of the spectrum, are written out as a matrix and decomposed
/// directly. The start is fixed, so the result is the same in every run with the same number of threads.
///
/// # Errors
/// [`LinalgError::NoConvergence`], and those of [`crate::svd_randomized`].
pub fn svd_partial<T: Scalar>(a: &dyn Operator<T>, k: usize) -> Result<Svd<T>, LinalgError> {
    let (m, n) = (a.rows(), a.cols());
    let k = k.min(m).min(n);
    if k == 0 {
        return Ok(Svd { u: Mat::zeros(m, 0), s: Vec::new(), vt: Mat::zeros(0, n) });
    }
    // A multiple of the block, at least one block more than the kept vectors.
    let dim = (2 * k + 4 * BLOCK).next_multiple_of(BLOCK);
    if 2 * dim > m.min(n) {
        let dense = if n <= m {
            checked_apply(OPERATION, a, &Mat::identity(n), false)?
        } else {
            checked_apply(OPERATION, a, &Mat::identity(m), true)?.transposed()
        };
        return Ok(svd(&dense)?.truncate(k));
    }
    Lanczos::new(m, n, dim, T::EPSILON).run(a, k)
}

struct Lanczos {
    /// Left basis, vectors as rows: `used x m`.
    left: Mat<f64>,
    /// Right basis, vectors as rows: `(used + BLOCK) x n`; the last block is not processed yet.
    right: Mat<f64>,
    /// `P^T A Q`, `dim x dim`, filled up to `left.rows`.
    projected: Mat<f64>,
    /// Largest product seen: the scale of what counts as zero.
    scale: f64,
    /// Machine epsilon of the operator's type.
    epsilon: f64,
    dim: usize,
    rng: Pcg64,
}

impl Lanczos {
    fn new(m: usize, n: usize, dim: usize, epsilon: f64) -> Self {
        Lanczos {
            left: Mat::zeros(0, m),
            right: Mat::zeros(0, n),
            projected: Mat::zeros(dim, dim),
            scale: 0.0,
            epsilon,
            dim,
            rng: Pcg64::seed_from_u64(SEED),
        }
    }

    fn run<T: Scalar>(mut self, a: &dyn Operator<T>, k: usize) -> Result<Svd<T>, LinalgError> {
        let (n, dim) = (self.right.cols, self.dim);
        let start = Mat::from_fn(BLOCK, n, |_, _| StandardNormal.sample(&mut self.rng));
        let (start, _) = extend(&self.right, start, 0.0, &mut self.rng);
        append(&mut self.right, &start);
        let mut converged = 0;
        for _ in 0..MAX_RESTARTS {
            let mut coupling = Mat::zeros(BLOCK, BLOCK);
            while self.left.rows < dim {
                coupling = self.expand(a)?;
            }
            let small = svd(&self.projected)?;
            // Residual of triplet i: S x_i, where x_i are the last BLOCK entries of column i of X.
            let tail = Mat { rows: BLOCK, cols: dim, data: small.u.data[(dim - BLOCK) * dim..].to_vec() };
            let residuals = multiply(&coupling, false, &tail, false);
            let residual = |i: usize| (0..BLOCK).map(|r| residuals.at(r, i).powi(2)).sum::<f64>().sqrt();
            let limit = TOLERANCE * self.epsilon * small.s[0];
            converged = (0..k).take_while(|&i| residual(i) <= limit).count();
            // Half-way between k and the full basis, in whole blocks so that the basis fills exactly.
            let keep = if converged == k { k } else { (k + (dim - k) / 2) / BLOCK * BLOCK };
            let residual_block = self.right.data.split_off(dim * n);
            self.right.rows = dim;
            let left = multiply(&small.u.leading_columns(keep), true, &self.left, false);
            let right = multiply(&small.vt.leading_rows(keep), false, &self.right, false);
            if converged == k {
                let s = small.s[..k].iter().map(|&v| T::from_f64(v)).collect();
                return Ok(Svd { u: left.transposed().cast(), s, vt: right.cast() });
            }
            self.left = left;
            self.right = right;
            append(&mut self.right, &Mat { rows: BLOCK, cols: n, data: residual_block });
            self.projected.data.fill(0.0);
            for i in 0..keep {
                self.projected.data[i * dim + i] = small.s[i];
            }
        }
        Err(LinalgError::NoConvergence { operation: OPERATION, converged, requested: k })
    }

    /// Processes the waiting right block; returns the coupling `S` (`BLOCK x BLOCK`) to the next one.
    fn expand<T: Scalar>(&mut self, a: &dyn Operator<T>) -> Result<Mat<f64>, LinalgError> {
        let (used, n, dim) = (self.left.rows, self.right.cols, self.dim);
        let waiting = Mat { rows: BLOCK, cols: n, data: self.right.data[used * n..].to_vec() };
        let image = product(a, &waiting, false)?;
        let longest = (0..BLOCK).map(|i| dot(image.row(i), image.row(i)).sqrt()).fold(0.0, f64::max);
        self.scale = self.scale.max(longest);
        let zero = ZERO * self.epsilon * self.scale;
        let (left, coefficients) = extend(&self.left, image, zero, &mut self.rng);
        for i in 0..used + BLOCK {
            self.projected.data[i * dim + used..][..BLOCK].copy_from_slice(coefficients.row(i));
        }
        append(&mut self.left, &left);
        let image = product(a, &left, true)?;
        let (right, coefficients) = extend(&self.right, image, zero, &mut self.rng);
        append(&mut self.right, &right);
        let known = (used + BLOCK) * BLOCK;
        Ok(Mat { rows: BLOCK, cols: BLOCK, data: coefficients.data[known..].to_vec() })
    }
}

/// The operator (or its transpose) applied to vectors stored as rows.
fn product<T: Scalar>(
    a: &dyn Operator<T>,
    rows: &Mat<f64>,
    transposed: bool,
) -> Result<Mat<f64>, LinalgError> {
    Ok(checked_apply(OPERATION, a, &rows.transposed().cast(), transposed)?.transposed().cast())
}

fn append(basis: &mut Mat<f64>, rows: &Mat<f64>) {
    basis.data.extend_from_slice(&rows.data);
    basis.rows += rows.rows;
}

/// Orthonormal rows that extend `basis` so that `block = coefficients^T [basis; new]`. Coefficients are
/// `(basis.rows + b) x b`. A row whose new part is not longer than `zero` becomes a fresh random direction with
/// coefficient zero.
fn extend(basis: &Mat<f64>, mut block: Mat<f64>, zero: f64, rng: &mut Pcg64) -> (Mat<f64>, Mat<f64>) {
    let (old, b, n) = (basis.rows, block.rows, block.cols);
    let mut coefficients = Mat::zeros(old + b, b);
    if old > 0 {
        for _ in 0..2 {
            let c = multiply(basis, false, &block, true); // old x b
            let minus_c = View { data: &c.data, rows: old, cols: b, transposed: true };
            let vectors = View { data: &basis.data, rows: old, cols: n, transposed: false };
            f64::gemm(&mut block.data, true, minus_c, vectors, -1.0);
            for (sum, add) in coefficients.data.iter_mut().zip(&c.data) {
                *sum += add;
            }
        }
    }
    for j in 0..b {
        let (done, rest) = block.data.split_at_mut(j * n);
        let row = &mut rest[..n];
        for _ in 0..2 {
            for (i, other) in done.chunks_exact(n).enumerate() {
                let c = dot(other, row);
                subtract(row, c, other);
                coefficients.data[(old + i) * b + j] += c;
            }
        }
        let mut norm = dot(row, row).sqrt();
        if norm > zero {
            coefficients.data[(old + j) * b + j] = norm;
        } else {
            row.fill_with(|| StandardNormal.sample(rng));
            for _ in 0..3 {
                for other in basis.data.chunks_exact(n).chain(done.chunks_exact(n)) {
                    let c = dot(other, row);
                    subtract(row, c, other);
                }
            }
            norm = dot(row, row).sqrt();
        }
        row.iter_mut().for_each(|v| *v /= norm);
    }
    (block, coefficients)
}
