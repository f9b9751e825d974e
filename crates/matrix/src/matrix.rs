//! The one matrix type of the project and the questions every matrix answers.

use crate::kernels::gemv;
use crate::{Bitmask, BlockDiagonal, Csc, Csr, Dense, Layout, NofM, Product, Sum, Transposed};

/// A linear map `R^cols -> R^rows`: shape, cost and products.
///
/// All slices are dense f32, row-major. Products overwrite their output.
///
/// # Panics
/// Every product panics if a slice has the wrong length: shapes are checked where data enters
/// (reading a checkpoint), not in every kernel call.
pub trait LinearMap {
    /// The structure: shape, kind and value types.
    fn layout(&self) -> Layout;

    /// The number of rows (outputs).
    fn rows(&self) -> usize;

    /// The number of columns (inputs).
    fn cols(&self) -> usize;

    /// `y = W x` with `x: cols`, `y: rows`.
    fn apply(&self, x: &[f32], y: &mut [f32]);

    /// `Y = X Wᵀ` with `X: batch x cols`, `Y: batch x rows`.
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        let (rows, cols) = (self.rows(), self.cols());
        assert_eq!((x.len(), y.len()), (batch * cols, batch * rows), "wrong length");
        for b in 0..batch {
            self.apply(&x[b * cols..(b + 1) * cols], &mut y[b * rows..(b + 1) * rows]);
        }
    }

    /// `y = Wᵀ x` with `x: rows`, `y: cols`.
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]);

    /// `Y = X W` with `X: batch x rows`, `Y: batch x cols`: the transposed product of a batch.
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        let (rows, cols) = (self.rows(), self.cols());
        assert_eq!((x.len(), y.len()), (batch * rows, batch * cols), "wrong length");
        for b in 0..batch {
            self.apply_transposed(&x[b * rows..(b + 1) * rows], &mut y[b * cols..(b + 1) * cols]);
        }
    }

    /// The dense f32 entries, row-major.
    fn to_dense(&self) -> Vec<f32>;

    /// The bytes that the matrix takes in a file: values, indices, masks, codes and scales.
    fn stored_bytes(&self) -> u64 {
        self.layout().stored_bytes()
    }

    /// Multiply-adds of one product with a vector.
    fn macs(&self) -> u64 {
        self.layout().parameters()
    }
}

/// A matrix of any structure. Conversions from every kind are `From`.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Every entry stored.
    Dense(Dense),
    /// Compressed rows with 16-bit column indices: best above about 85 % zeros.
    Csr(Csr),
    /// Compressed columns: a [`Csr`] of the transpose.
    Csc(Csc),
    /// One bit per entry and the non-zero values: best between about 30 and 85 % zeros.
    Bitmask(Bitmask),
    /// Exactly N values in every M consecutive columns.
    NofM(NofM),
    /// Dense blocks along the diagonal.
    BlockDiagonal(BlockDiagonal),
    /// `left * right`: low rank where both are dense, dictionary x sparse coefficients where
    /// `left` is sparse.
    Product(Box<Product>),
    /// A sum, such as low rank + sparse.
    Sum(Sum),
    /// Stored as its transpose.
    Transposed(Box<Transposed>),
}

/// Calls the same method on whatever kind the matrix is.
macro_rules! each_kind {
    ($self:expr, $m:ident => $body:expr) => {
        match $self {
            Matrix::Dense($m) => $body,
            Matrix::Csr($m) => $body,
            Matrix::Csc($m) => $body,
            Matrix::Bitmask($m) => $body,
            Matrix::NofM($m) => $body,
            Matrix::BlockDiagonal($m) => $body,
            Matrix::Product($m) => $body,
            Matrix::Sum($m) => $body,
            Matrix::Transposed($m) => $body,
        }
    };
}

impl LinearMap for Matrix {
    fn layout(&self) -> Layout {
        each_kind!(self, m => m.layout())
    }
    fn rows(&self) -> usize {
        each_kind!(self, m => m.rows())
    }
    fn cols(&self) -> usize {
        each_kind!(self, m => m.cols())
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        each_kind!(self, m => m.apply(x, y));
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        each_kind!(self, m => m.apply_batch(x, batch, y));
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        each_kind!(self, m => m.apply_transposed(x, y));
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        each_kind!(self, m => m.apply_transposed_batch(x, batch, y));
    }
    fn to_dense(&self) -> Vec<f32> {
        each_kind!(self, m => m.to_dense())
    }
}

/// `y = W x` for several matrices with the same x, as in the query, key and value projections of
/// a layer: one parallel region instead of several. Results equal those of [`LinearMap::apply`].
///
/// # Panics
/// As [`LinearMap::apply`].
pub fn apply_many(products: &mut [(&Matrix, &mut [f32])], x: &[f32]) {
    let mut together = Vec::with_capacity(products.len());
    for (w, y) in products.iter_mut() {
        let y = &mut **y;
        match w {
            Matrix::Dense(w) => together.push((gemv::Rows::Dense(w), y)),
            Matrix::Csr(w) => together.push((gemv::Rows::Csr(w), y)),
            Matrix::Bitmask(w) => together.push((gemv::Rows::Bitmask(w), y)),
            Matrix::NofM(w) => together.push((gemv::Rows::NofM(w), y)),
            other => other.apply(x, y),
        }
    }
    gemv::apply_many(&mut together, x);
}

macro_rules! from_kind {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Matrix {
            fn from(m: $kind) -> Self {
                Matrix::$kind(m)
            }
        }
    )*};
}
from_kind!(Dense, Csr, Csc, Bitmask, NofM, BlockDiagonal, Sum);

impl From<Product> for Matrix {
    fn from(m: Product) -> Self {
        Matrix::Product(Box::new(m))
    }
}

impl From<Transposed> for Matrix {
    fn from(m: Transposed) -> Self {
        Matrix::Transposed(Box::new(m))
    }
}
