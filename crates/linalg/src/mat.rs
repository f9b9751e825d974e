//! A row-major matrix of f32 or f64: the currency of this crate.
//!
//! Element `(i, j)` lives at `data[i * cols + j]`. The type is plain on purpose (a `Vec` and two sizes):
//! weights, Gram matrices and factors move in and out of other crates by taking `data`.

use crate::backend::Kernels;
use crate::error::LinalgError;

/// `f32` or `f64`. Sealed: the decompositions are compiled once for each, here and nowhere else.
pub trait Scalar: Kernels {}
impl Scalar for f32 {}
impl Scalar for f64 {}

/// A dense row-major matrix.
///
/// ```
/// use sparseland_linalg::Mat;
/// let a = Mat::from_vec(2, 3, vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(a.row(1), &[4.0, 5.0, 6.0]);
/// assert_eq!(a.transposed().row(2), &[3.0, 6.0]);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Mat<T> {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The values, row after row; `rows * cols` of them.
    pub data: Vec<T>,
}

impl<T: Scalar> Mat<T> {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Mat { rows, cols, data: vec![T::from_f64(0.0); rows * cols] }
    }

    /// The identity of order `n`.
    pub fn identity(n: usize) -> Self {
        let mut out = Self::zeros(n, n);
        for i in 0..n {
            out.data[i * n + i] = T::from_f64(1.0);
        }
        out
    }

    /// A matrix over `data`, whose length must be `rows * cols`.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when the length does not fit.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<T>) -> Result<Self, LinalgError> {
        if rows.checked_mul(cols) != Some(data.len()) {
            return Err(LinalgError::shape(
                "Mat::from_vec",
                format!("{rows} x {cols} values"),
                format!("{} values", data.len()),
            ));
        }
        Ok(Mat { rows, cols, data })
    }

    /// A matrix whose element `(i, j)` is `f(i, j)`, called row by row.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> T) -> Self {
        let mut data = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            data.extend((0..cols).map(|j| f(i, j)));
        }
        Mat { rows, cols, data }
    }

    /// The square matrix with `values` on its diagonal.
    pub fn from_diagonal(values: &[T]) -> Self {
        let n = values.len();
        let mut out = Self::zeros(n, n);
        for (i, &v) in values.iter().enumerate() {
            out.data[i * n + i] = v;
        }
        out
    }

    /// `(rows, cols)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Element `(i, j)`.
    ///
    /// # Panics
    /// When the index lies outside the matrix.
    pub fn at(&self, i: usize, j: usize) -> T {
        assert!(j < self.cols, "column {j} of a matrix with {} columns", self.cols);
        self.data[i * self.cols + j]
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i >= rows`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Row `i`, to be written.
    ///
    /// # Panics
    /// When `i >= rows`.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// A copy of column `j`.
    ///
    /// # Panics
    /// When `j >= cols`.
    pub fn column(&self, j: usize) -> Vec<T> {
        (0..self.rows).map(|i| self.at(i, j)).collect()
    }

    /// The transpose, copied in cache-sized tiles.
    pub fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.cols, self.rows);
        transpose_into(&self.data, self.rows, self.cols, &mut out.data);
        out
    }

    /// The same values as another scalar type (f32 to f64 is exact, f64 to f32 rounds).
    pub fn cast<U: Scalar>(&self) -> Mat<U> {
        Mat {
            rows: self.rows,
            cols: self.cols,
            data: self.data.iter().map(|v| U::from_f64(v.to_f64())).collect(),
        }
    }

    /// A copy of the first `k` columns (all of them when `k > cols`).
    pub fn leading_columns(&self, k: usize) -> Self {
        let k = k.min(self.cols);
        let mut data = Vec::with_capacity(self.rows * k);
        for i in 0..self.rows {
            data.extend_from_slice(&self.row(i)[..k]);
        }
        Mat { rows: self.rows, cols: k, data }
    }

    /// A copy of the first `k` rows (all of them when `k > rows`).
    pub fn leading_rows(&self, k: usize) -> Self {
        let k = k.min(self.rows);
        Mat { rows: k, cols: self.cols, data: self.data[..k * self.cols].to_vec() }
    }

    /// Multiplies column `j` by `factors[j]`: `A diag(factors)`.
    ///
    /// # Panics
    /// When `factors.len() != cols`.
    pub fn scale_columns(&mut self, factors: &[T]) {
        assert_eq!(factors.len(), self.cols, "one factor per column");
        if self.cols == 0 {
            return;
        }
        for row in self.data.chunks_exact_mut(self.cols) {
            for (v, &f) in row.iter_mut().zip(factors) {
                *v = T::mul(*v, f);
            }
        }
    }

    /// Multiplies row `i` by `factors[i]`: `diag(factors) A`.
    ///
    /// # Panics
    /// When `factors.len() != rows`.
    pub fn scale_rows(&mut self, factors: &[T]) {
        assert_eq!(factors.len(), self.rows, "one factor per row");
        for (i, &f) in factors.iter().enumerate() {
            for v in self.row_mut(i) {
                *v = T::mul(*v, f);
            }
        }
    }

    /// The Frobenius norm, summed in f64.
    pub fn frobenius_norm(&self) -> f64 {
        self.data.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>().sqrt()
    }

    /// `||A - B||_F`, summed in f64.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when the shapes differ.
    pub fn distance(&self, other: &Self) -> Result<f64, LinalgError> {
        if self.shape() != other.shape() {
            return Err(LinalgError::shape(
                "Mat::distance",
                format!("{} x {}", self.rows, self.cols),
                format!("{} x {}", other.rows, other.cols),
            ));
        }
        let sum: f64 = self
            .data
            .iter()
            .zip(&other.data)
            .map(|(a, b)| {
                let d = a.to_f64() - b.to_f64();
                d * d
            })
            .sum();
        Ok(sum.sqrt())
    }

    /// An error naming the first NaN or infinity, if there is one.
    ///
    /// # Errors
    /// [`LinalgError::NonFinite`].
    pub fn check_finite(&self, operation: &'static str) -> Result<(), LinalgError> {
        if all_finite(&self.data) {
            return Ok(());
        }
        let at = self.data.iter().position(|v| !v.to_f64().is_finite()).unwrap_or(0);
        Err(LinalgError::NonFinite { operation, row: at / self.cols, col: at % self.cols })
    }
}

/// Whether every value is finite; the fixed-width chunks let the loop run in vector registers.
pub(crate) fn all_finite<T: Scalar>(data: &[T]) -> bool {
    data.chunks(64).all(|chunk| chunk.iter().fold(true, |ok, v| ok & v.finite()))
}

/// `a . b`; eight running sums let the loop use vector registers, which one running sum would forbid.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `target -= factor * other`.
pub(crate) fn subtract(target: &mut [f64], factor: f64, other: &[f64]) {
    for (t, &o) in target.iter_mut().zip(other) {
        *t -= factor * o;
    }
}

/// Side of the square tiles of a transposition: two tiles of f64 fill a quarter of a 32 KiB first-level cache.
const TILE: usize = 16;

/// `out (cols x rows) = source (rows x cols) transposed`.
pub(crate) fn transpose_into<T: Copy>(source: &[T], rows: usize, cols: usize, out: &mut [T]) {
    for i0 in (0..rows).step_by(TILE) {
        let i1 = (i0 + TILE).min(rows);
        for j0 in (0..cols).step_by(TILE) {
            let j1 = (j0 + TILE).min(cols);
            for j in j0..j1 {
                for i in i0..i1 {
                    out[j * rows + i] = source[i * cols + j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_is_an_involution_on_odd_shapes() {
        for (rows, cols) in [(0, 0), (0, 3), (1, 7), (7, 1), (17, 33), (64, 5)] {
            let a = Mat::from_fn(rows, cols, |i, j| (i * 100 + j) as f32);
            let t = a.transposed();
            assert_eq!(t.shape(), (cols, rows));
            assert_eq!(t.transposed(), a);
            if rows > 0 && cols > 0 {
                assert_eq!(t.at(cols - 1, 0), a.at(0, cols - 1));
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Mat::from_vec(2, 3, vec![0.0f32; 5]).is_err());
        assert!(Mat::from_vec(usize::MAX, 3, vec![0.0f32; 5]).is_err());
    }

    #[test]
    fn the_first_bad_value_is_named() {
        let mut a = Mat::<f64>::zeros(3, 4);
        assert!(a.check_finite("test").is_ok());
        a.data[6] = f64::NAN;
        a.data[9] = f64::INFINITY;
        assert_eq!(a.check_finite("test"), Err(LinalgError::NonFinite { operation: "test", row: 1, col: 2 }));
    }

    #[test]
    fn casting_to_f64_and_back_changes_nothing() {
        let a = Mat::from_fn(5, 3, |i, j| (i as f32 + 0.1).sin() * (j as f32 - 0.3));
        assert_eq!(a.cast::<f64>().cast::<f32>(), a);
    }
}
