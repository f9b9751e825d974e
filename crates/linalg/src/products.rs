//! Dense products and Gram matrices.
//!
//! | function | result | multiply-adds |
//! |---|---|---|
//! | [`matmul`] | `A B` | `m k n` |
//! | [`matmul_transposed_left`] | `A^T B` | `m k n` |
//! | [`matmul_transposed_right`] | `A B^T` | `m k n` |
//! | [`GramAccumulator::add`] | `G += X^T X` (lower half only) | `rows d^2 / 2` |
//!
//! The Gram matrix takes f32 rows and sums in f64: a product of two f32 values is exact in f64, so the error of each
//! entry is that of an f64 sum, whatever the number of rows. Rows with a NaN or an infinity are left out and counted.

use crate::backend::{Kernels, View};
use crate::error::LinalgError;
use crate::mat::{Mat, Scalar, all_finite};

fn view<T: Scalar>(a: &Mat<T>, transposed: bool) -> View<'_, T> {
    View { data: &a.data, rows: a.rows, cols: a.cols, transposed }
}

fn product<T: Scalar>(
    operation: &'static str,
    a: &Mat<T>,
    a_transposed: bool,
    b: &Mat<T>,
    b_transposed: bool,
) -> Result<Mat<T>, LinalgError> {
    let (m, k) = if a_transposed { (a.cols, a.rows) } else { (a.rows, a.cols) };
    let (kb, n) = if b_transposed { (b.cols, b.rows) } else { (b.rows, b.cols) };
    if k != kb {
        return Err(LinalgError::shape(
            operation,
            format!("an inner size of {k} in the right operand"),
            format!("{} x {} times {} x {}", a.rows, a.cols, b.rows, b.cols),
        ));
    }
    let mut out = Mat::zeros(m, n);
    T::gemm(&mut out.data, false, view(a, a_transposed), view(b, b_transposed), T::from_f64(1.0));
    Ok(out)
}

/// `A B`, for `A: m x k` and `B: k x n`.
///
/// # Errors
/// [`LinalgError::Shape`] when the inner sizes differ.
pub fn matmul<T: Scalar>(a: &Mat<T>, b: &Mat<T>) -> Result<Mat<T>, LinalgError> {
    product("matmul", a, false, b, false)
}

/// `A^T B`, for `A: k x m` and `B: k x n`.
///
/// # Errors
/// [`LinalgError::Shape`] when the numbers of rows differ.
pub fn matmul_transposed_left<T: Scalar>(a: &Mat<T>, b: &Mat<T>) -> Result<Mat<T>, LinalgError> {
    product("matmul_transposed_left", a, true, b, false)
}

/// `A B^T`, for `A: m x k` and `B: n x k`.
///
/// # Errors
/// [`LinalgError::Shape`] when the numbers of columns differ.
pub fn matmul_transposed_right<T: Scalar>(a: &Mat<T>, b: &Mat<T>) -> Result<Mat<T>, LinalgError> {
    product("matmul_transposed_right", a, false, b, true)
}

/// `C += alpha A B`, in place.
///
/// # Errors
/// [`LinalgError::Shape`] when the sizes do not fit.
pub fn matmul_accumulate<T: Scalar>(
    c: &mut Mat<T>,
    alpha: T,
    a: &Mat<T>,
    b: &Mat<T>,
) -> Result<(), LinalgError> {
    if a.cols != b.rows || c.rows != a.rows || c.cols != b.cols {
        return Err(LinalgError::shape(
            "matmul_accumulate",
            format!("{} x {} += (m x k)(k x n)", c.rows, c.cols),
            format!("{} x {} times {} x {}", a.rows, a.cols, b.rows, b.cols),
        ));
    }
    T::gemm(&mut c.data, true, view(a, false), view(b, false), alpha);
    Ok(())
}

/// `A^T A` in A's own precision, both halves filled.
pub fn gram<T: Scalar>(a: &Mat<T>) -> Mat<T> {
    let mut out = Mat::zeros(a.cols, a.cols);
    T::gram_lower(&mut out.data, view(a, false));
    mirror_lower(&mut out);
    out
}

/// Copies the lower triangle onto the upper one, in tiles.
fn mirror_lower<T: Scalar>(g: &mut Mat<T>) {
    const TILE: usize = 32;
    let d = g.cols;
    for i0 in (0..d).step_by(TILE) {
        for j0 in (0..=i0).step_by(TILE) {
            for i in i0..(i0 + TILE).min(d) {
                for j in j0..(j0 + TILE).min(i) {
                    g.data[j * d + i] = g.data[i * d + j];
                }
            }
        }
    }
}

/// Rows converted to f64 at a time: 256 rows of 2048 columns are 4 MiB, and the product is long enough to pay for
/// reading and writing the Gram matrix once.
const GRAM_BLOCK: usize = 256;

/// Collects `G = sum_t x_t x_t^T` over batches of f32 rows, in f64.
///
/// ```
/// use sparseland_linalg::GramAccumulator;
/// let mut acc = GramAccumulator::new(2);
/// acc.add(&[1.0, 2.0, f32::NAN, 0.0, 3.0, 4.0])?; // three rows, the second is left out
/// assert_eq!((acc.rows(), acc.dropped()), (2, 1));
/// assert_eq!(acc.finish().data, vec![10.0, 14.0, 14.0, 20.0]);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
#[derive(Debug, Clone)]
pub struct GramAccumulator {
    lower: Mat<f64>,
    block: Vec<f64>,
    rows: usize,
    dropped: usize,
}

impl GramAccumulator {
    /// An empty sum over rows of `d` values.
    pub fn new(d: usize) -> Self {
        GramAccumulator { lower: Mat::zeros(d, d), block: Vec::new(), rows: 0, dropped: 0 }
    }

    /// Adds the rows of `x` (row-major, a whole number of rows); returns how many rows of this batch were left out
    /// because they hold a NaN or an infinity.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] when `x.len()` is not a multiple of `d`.
    pub fn add(&mut self, x: &[f32]) -> Result<usize, LinalgError> {
        let d = self.lower.cols;
        if (d == 0 && !x.is_empty()) || (d > 0 && !x.len().is_multiple_of(d)) {
            return Err(LinalgError::shape(
                "GramAccumulator::add",
                format!("rows of {d} values"),
                format!("{} values", x.len()),
            ));
        }
        if x.is_empty() {
            return Ok(0);
        }
        let mut dropped = 0;
        for chunk in x.chunks(GRAM_BLOCK * d) {
            self.block.clear();
            for row in chunk.chunks_exact(d) {
                if all_finite(row) {
                    self.block.extend(row.iter().map(|&v| f64::from(v)));
                } else {
                    dropped += 1;
                }
            }
            let rows = self.block.len() / d;
            if rows > 0 {
                let block = View { data: &self.block, rows, cols: d, transposed: false };
                f64::gram_lower(&mut self.lower.data, block);
                self.rows += rows;
            }
        }
        self.dropped += dropped;
        Ok(dropped)
    }

    /// Rows summed so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows left out so far.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// The symmetric `d x d` Gram matrix.
    pub fn finish(mut self) -> Mat<f64> {
        mirror_lower(&mut self.lower);
        self.lower
    }
}

/// `G += X^T X` for `x: rows x cols` f32, row-major, summed in f64; returns the number of rows left out because they
/// hold a NaN or an infinity. `gram` must be symmetric on entry (zeros, or an earlier result). For many small batches
/// [`GramAccumulator`] saves the mirroring of the halves at each call.
///
/// # Errors
/// [`LinalgError::Shape`] when the sizes do not fit.
pub fn gram_accumulate(
    gram: &mut Mat<f64>,
    x: &[f32],
    rows: usize,
    cols: usize,
) -> Result<usize, LinalgError> {
    if gram.shape() != (cols, cols) || rows.checked_mul(cols) != Some(x.len()) {
        return Err(LinalgError::shape(
            "gram_accumulate",
            format!("a {cols} x {cols} matrix and {rows} x {cols} values"),
            format!("{} x {} and {} values", gram.rows, gram.cols, x.len()),
        ));
    }
    let lower = std::mem::replace(gram, Mat::zeros(0, 0));
    let mut acc = GramAccumulator { lower, block: Vec::new(), rows: 0, dropped: 0 };
    let outcome = acc.add(x);
    *gram = acc.finish();
    outcome
}
