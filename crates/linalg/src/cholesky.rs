//! Robust Cholesky factorisation of a Gram matrix: the whitener.
//!
//! `L` is upper triangular with `L^T L = G + jitter I`, `G: d x d` symmetric and (up to rounding) positive
//! semidefinite. For activations `X` with `G = X^T X`, `||X (W - V)||_F = ||L (W - V)||_F`, so the error on the
//! calibration data of any replacement `V` of a weight `W` is measured by `d` rows instead of thousands.
//!
//! Jitter is the least shift that keeps the smallest eigenvalue at [`JITTER_FLOOR`] times the mean eigenvalue
//! `trace(G) / d`; the rule is scale-free. Cost `d^3 / 6` multiply-adds; a Gram matrix of deficient rank also needs its
//! eigenvalues (`2/3 d^3`) and a second factorisation.

use crate::backend::{Kernels, Triangle};
use crate::eigen::eigh_values;
use crate::error::LinalgError;
use crate::mat::{Mat, dot, subtract};

/// Smallest allowed eigenvalue, relative to the mean one. f32 activations carry relative errors of 6e-8, so directions
/// with less than about (3e-5)^2 of the mean energy hold nothing but noise; and `L^-1` then grows by at most 3e4 over
/// the mean scale, far inside f64.
pub const JITTER_FLOOR: f64 = 1e-9;

/// An upper triangular `L` with `L^T L = G + jitter I`, and its products and solves. Sizes: `d x d`.
#[derive(Debug, Clone)]
pub struct Whitener {
    factor: Mat<f64>,
    jitter: f64,
    condition: f64,
}

/// Factorises the symmetric matrix `gram` (upper triangle read) as `L^T L = G + jitter I`.
///
/// A plain factorisation is tried first; jitter is added only when it fails or when the estimated smallest eigenvalue
/// is below the floor. An all-zero matrix (no data) gives `L = I` and `jitter = 1`: whitening then changes nothing.
///
/// ```
/// use sparseland_linalg::{Mat, cholesky_robust};
/// // Rank one: three equal activations.
/// let w = cholesky_robust(&Mat::from_fn(3, 3, |_, _| 2.0))?;
/// assert!(w.jitter() > 0.0 && w.condition() < 1e11);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::Shape`] when `gram` is not square, [`LinalgError::NonFinite`] with the first bad index,
/// [`LinalgError::NotPositiveDefinite`] when no reasonable jitter helps.
pub fn cholesky_robust(gram: &Mat<f64>) -> Result<Whitener, LinalgError> {
    const OPERATION: &str = "cholesky_robust";
    if gram.rows != gram.cols {
        return Err(LinalgError::shape(
            OPERATION,
            "a square matrix",
            format!("{} x {}", gram.rows, gram.cols),
        ));
    }
    gram.check_finite(OPERATION)?;
    let d = gram.rows;
    let largest_entry = gram.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if largest_entry == 0.0 {
        return Ok(Whitener { factor: Mat::identity(d), jitter: 1.0, condition: 1.0 });
    }
    // The mean eigenvalue; the largest entry stands in where an indefinite input has no positive trace.
    let trace: f64 = (0..d).map(|i| gram.data[i * d + i]).sum();
    let scale = if trace > 0.0 { trace / d as f64 } else { largest_entry };
    let floor = JITTER_FLOOR * scale;

    let mut pivot = 0;
    match factorise(gram, 0.0) {
        Ok(factor) => {
            let (largest, smallest) = extreme_eigenvalues(&factor);
            if smallest >= floor {
                return Ok(Whitener { factor, jitter: 0.0, condition: (largest / smallest).max(1.0) });
            }
        }
        Err(bad) => pivot = bad,
    }
    let smallest = eigh_values(gram)?[d - 1];
    let mut jitter = (floor - smallest).max(floor * 1e-3);
    // Rounding of the eigenvalue is about d * eps * ||G||; a few growing steps cover it.
    for _ in 0..8 {
        match factorise(gram, jitter) {
            Ok(factor) => {
                let (largest, smallest) = extreme_eigenvalues(&factor);
                let condition = (largest / smallest).max(1.0);
                return Ok(Whitener { factor, jitter, condition });
            }
            Err(bad) => pivot = bad,
        }
        jitter *= 10.0;
    }
    Err(LinalgError::NotPositiveDefinite { operation: OPERATION, pivot })
}

/// Upper triangular `L` with `L^T L = G + jitter I`, zeros below, or the index of the bad pivot.
fn factorise(gram: &Mat<f64>, jitter: f64) -> Result<Mat<f64>, usize> {
    let d = gram.rows;
    let mut factor = gram.clone();
    for i in 0..d {
        factor.data[i * d + i] += jitter;
    }
    f64::cholesky(&mut factor.data, d)?;
    for i in 1..d {
        factor.data[i * d..i * d + i].fill(0.0);
    }
    if factor.check_finite("cholesky_robust").is_err() {
        return Err(d - 1);
    }
    Ok(factor)
}

/// Estimates of the extreme eigenvalues of `L^T L`: power iteration for the largest, inverse iteration (two triangular
/// solves a step) for the smallest. The largest is a lower bound and the smallest an upper bound; `2 d^2` multiply-adds
/// per step.
fn extreme_eigenvalues(factor: &Mat<f64>) -> (f64, f64) {
    const STEPS: usize = 5;
    let d = factor.rows;
    let normalise = |x: &mut [f64]| {
        let norm = dot(x, x).sqrt();
        x.iter_mut().for_each(|v| *v /= norm);
    };
    // A fixed start without symmetry, so that it is not orthogonal to the wanted vector in practice.
    let start: Vec<f64> = (0..d).map(|i| 1.0 + ((i * 7919 + 13) % 101) as f64 / 101.0).collect();

    let mut x = start.clone();
    let mut largest = 0.0;
    for _ in 0..STEPS {
        normalise(&mut x);
        // One pass over L: y_i = L_i x, next += y_i L_i.
        let mut next = vec![0.0; d];
        largest = 0.0;
        for i in 0..d {
            let row = &factor.row(i)[i..];
            let y = dot(row, &x[i..]);
            largest += y * y;
            subtract(&mut next[i..], -y, row);
        }
        x = next;
    }
    let mut x = start;
    // Alternating signs find small eigenvalues sooner: neighbouring activations tend to agree.
    x.iter_mut().skip(1).step_by(2).for_each(|v| *v = -*v);
    let mut smallest = f64::INFINITY;
    for _ in 0..STEPS {
        normalise(&mut x);
        // x <- L^-T x, by columns of L^T, which are rows of L.
        for i in 0..d {
            let row = factor.row(i);
            x[i] /= row[i];
            let xi = x[i];
            subtract(&mut x[i + 1..], xi, &row[i + 1..]);
        }
        // For a unit x, ||L^-T x||^2 is a Rayleigh quotient of the inverse.
        smallest = 1.0 / dot(&x, &x);
        for i in (0..d).rev() {
            let row = factor.row(i);
            x[i] = (x[i] - dot(&row[i + 1..], &x[i + 1..])) / row[i];
        }
    }
    (largest, smallest)
}

impl Whitener {
    /// The identity: `apply` and `solve` change nothing.
    pub fn identity(d: usize) -> Self {
        Whitener { factor: Mat::identity(d), jitter: 0.0, condition: 1.0 }
    }

    /// The order `d`.
    pub fn dim(&self) -> usize {
        self.factor.rows
    }

    /// The upper triangular factor, zeros below the diagonal.
    pub fn factor(&self) -> &Mat<f64> {
        &self.factor
    }

    /// What was added to the diagonal of `G`; 0 when nothing was needed.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// An estimate, from below, of the condition number of `G + jitter I` (the square of that of `L`).
    pub fn condition(&self) -> f64 {
        self.condition
    }

    fn check(&self, operation: &'static str, b: &Mat<f64>) -> Result<(), LinalgError> {
        if b.rows != self.dim() {
            return Err(LinalgError::shape(
                operation,
                format!("{} rows", self.dim()),
                format!("{} x {}", b.rows, b.cols),
            ));
        }
        Ok(())
    }

    /// `L W`, for `W: d x n`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `W` has another number of rows.
    pub fn apply(&self, w: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        self.check("Whitener::apply", w)?;
        let mut out = Mat::zeros(w.rows, w.cols);
        f64::triangle_product(&mut out.data, &self.factor.data, self.dim(), Triangle::Upper, &w.data, w.cols);
        Ok(out)
    }

    /// `L^T W`, for `W: d x n`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `W` has another number of rows.
    pub fn apply_transposed(&self, w: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        self.check("Whitener::apply_transposed", w)?;
        let mut out = Mat::zeros(w.rows, w.cols);
        f64::triangle_product(
            &mut out.data,
            &self.factor.data,
            self.dim(),
            Triangle::UpperTransposed,
            &w.data,
            w.cols,
        );
        Ok(out)
    }

    /// `L^-1 B`, for `B: d x n`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `B` has another number of rows.
    pub fn solve(&self, b: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        self.check("Whitener::solve", b)?;
        let mut out = b.clone();
        f64::triangle_solve(&self.factor.data, self.dim(), Triangle::Upper, &mut out.data, b.cols);
        Ok(out)
    }

    /// `L^-T B`, for `B: d x n`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `B` has another number of rows.
    pub fn solve_transposed(&self, b: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        self.check("Whitener::solve_transposed", b)?;
        let mut out = b.clone();
        f64::triangle_solve(&self.factor.data, self.dim(), Triangle::UpperTransposed, &mut out.data, b.cols);
        Ok(out)
    }

    /// `(G + jitter I)^-1 B = L^-1 L^-T B`, for `B: d x n`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `B` has another number of rows.
    pub fn solve_gram(&self, b: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        let half = self.solve_transposed(b)?;
        self.solve(&half)
    }
}
