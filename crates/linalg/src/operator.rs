//! Linear maps known by their products only: `W D`, sparse plus low rank, an implicit Gram matrix.

use crate::backend::View;
use crate::mat::{Mat, Scalar};

/// A linear map `y = A x`, `A: rows x cols`, that can be applied to blocks of vectors from both sides.
pub trait Operator<T: Scalar>: Sync {
    /// Length of an output vector.
    fn rows(&self) -> usize;
    /// Length of an input vector.
    fn cols(&self) -> usize;
    /// `A X` for a block `X: cols x b`; must be `rows x b`.
    fn apply(&self, x: &Mat<T>) -> Mat<T>;
    /// `A^T Y` for a block `Y: rows x b`; must be `cols x b`.
    fn apply_transposed(&self, y: &Mat<T>) -> Mat<T>;
}

impl<T: Scalar> Operator<T> for Mat<T> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &Mat<T>) -> Mat<T> {
        multiply(self, false, x, false)
    }
    fn apply_transposed(&self, y: &Mat<T>) -> Mat<T> {
        multiply(self, true, y, false)
    }
}

/// Product of operands whose shapes the caller has checked.
pub(crate) fn multiply<T: Scalar>(a: &Mat<T>, at: bool, b: &Mat<T>, bt: bool) -> Mat<T> {
    let rows = if at { a.cols } else { a.rows };
    let cols = if bt { b.rows } else { b.cols };
    let mut out = Mat::zeros(rows, cols);
    T::gemm(
        &mut out.data,
        false,
        View { data: &a.data, rows: a.rows, cols: a.cols, transposed: at },
        View { data: &b.data, rows: b.rows, cols: b.cols, transposed: bt },
        T::from_f64(1.0),
    );
    out
}

/// An [`Operator`] made of two closures over single vectors.
///
/// ```
/// use sparseland_linalg::{FnOperator, svd_partial};
/// // diag(1, 2, ..., 50) without storing it.
/// let scale = |x: &[f64], y: &mut [f64]| {
///     for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
///         *y = (i + 1) as f64 * x;
///     }
/// };
/// let d = svd_partial(&FnOperator::new(50, 50, scale, scale), 3)?;
/// assert!((d.s[0] - 50.0).abs() < 1e-9 && (d.s[2] - 48.0).abs() < 1e-9);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
pub struct FnOperator<F, G> {
    rows: usize,
    cols: usize,
    apply: F,
    apply_transposed: G,
}

impl<F, G> FnOperator<F, G> {
    /// A `rows x cols` map; `apply(x, y)` writes `y = A x` (`x`: cols, `y`: rows), `apply_transposed(y, x)` writes
    /// `x = A^T y`. Both must overwrite their output.
    pub fn new(rows: usize, cols: usize, apply: F, apply_transposed: G) -> Self {
        FnOperator { rows, cols, apply, apply_transposed }
    }
}

/// Applies a function of single vectors to the columns of a block.
fn by_columns<T: Scalar>(x: &Mat<T>, rows: usize, f: impl Fn(&[T], &mut [T])) -> Mat<T> {
    let xt = x.transposed();
    let mut yt = Mat::zeros(x.cols, rows);
    for i in 0..x.cols {
        f(xt.row(i), yt.row_mut(i));
    }
    yt.transposed()
}

impl<T, F, G> Operator<T> for FnOperator<F, G>
where
    T: Scalar,
    F: Fn(&[T], &mut [T]) + Sync,
    G: Fn(&[T], &mut [T]) + Sync,
{
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &Mat<T>) -> Mat<T> {
        by_columns(x, self.rows, &self.apply)
    }
    fn apply_transposed(&self, y: &Mat<T>) -> Mat<T> {
        by_columns(y, self.cols, &self.apply_transposed)
    }
}
