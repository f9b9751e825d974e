//! A matrix stored as its transpose.

use crate::{Layout, LinearMap, Matrix};

/// One input in so many must be zero for a product to look for zeros.
const SPARSE: usize = 8;

/// `W`, stored as the matrix `Wᵀ`.
///
/// A dense matrix stored so has its columns contiguous, for products that skip inputs
/// ([`Dense::combine_rows`](crate::Dense::combine_rows)); a factorisation stored so has its blocks along the
/// outputs instead of the inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Transposed {
    inner: Matrix,
}

impl Transposed {
    /// The transpose of `inner`.
    pub fn new(inner: impl Into<Matrix>) -> Self {
        Self { inner: inner.into() }
    }

    /// What is stored.
    pub fn inner(&self) -> &Matrix {
        &self.inner
    }
}

impl LinearMap for Transposed {
    fn layout(&self) -> Layout {
        Layout::Transposed { inner: Box::new(self.inner.layout()) }
    }
    fn rows(&self) -> usize {
        self.inner.cols()
    }
    fn cols(&self) -> usize {
        self.inner.rows()
    }
    /// Columns of inputs that are zero are not read where the columns are contiguous and it pays.
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        if let Matrix::Dense(columns) = &self.inner {
            let nonzero = x.iter().filter(|v| **v != 0.0).count();
            if x.len() - nonzero >= x.len() / SPARSE {
                let picks: Vec<(u32, f32)> =
                    x.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, &v)| (i as u32, v)).collect();
                return columns.combine_rows(&picks, y);
            }
        }
        self.inner.apply_transposed(x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        self.inner.apply_transposed_batch(x, batch, y);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        self.inner.apply(x, y);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        self.inner.apply_batch(x, batch, y);
    }
    fn to_dense(&self) -> Vec<f32> {
        let (rows, cols) = (self.rows(), self.cols());
        let inner = self.inner.to_dense();
        let mut out = vec![0.0; inner.len()];
        for (c, column) in inner.chunks_exact(rows.max(1)).enumerate() {
            for (r, &v) in column.iter().enumerate() {
                out[r * cols + c] = v;
            }
        }
        out
    }
}
