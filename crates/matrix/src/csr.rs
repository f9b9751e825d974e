//! Compressed rows and compressed columns with 16-bit indices.

use crate::{Buffer, Layout, LinearMap, ValueType, Values, kernels};

/// Compressed sparse rows: for every row the column indices (16 bits) in rising order and the
/// values. At most 65 536 columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) offsets: Buffer<u32>,
    pub(crate) indices: Buffer<u16>,
    pub(crate) values: Values,
}

impl Csr {
    /// The non-zeros of row-major `data`.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers, or there are more than 65 536 columns.
    pub fn from_dense(rows: usize, cols: usize, data: &[f32], values: ValueType) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        assert!(cols <= 1 << 16, "16-bit indices cannot name {cols} columns; use a bitmask");
        let (mut offsets, mut indices, mut kept) = (vec![0usize], Vec::new(), Vec::new());
        for r in 0..rows {
            for c in 0..cols {
                if data[r * cols + c] != 0.0 {
                    indices.push(c as u16);
                    kept.push(data[r * cols + c]);
                }
            }
            offsets.push(kept.len());
        }
        Self {
            rows,
            cols,
            values: Values::encode(values, &kept, &offsets),
            offsets: offsets.iter().map(|&o| o as u32).collect(),
            indices: Buffer::from_slice(&indices),
        }
    }

    /// The number of stored entries.
    pub fn nonzeros(&self) -> usize {
        self.indices.len()
    }

    /// The entries of row `row`: column and value.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let range = self.offsets[row] as usize..self.offsets[row + 1] as usize;
        range.map(move |i| (self.indices[i] as usize, self.values.get(row, i)))
    }
}

impl LinearMap for Csr {
    fn layout(&self) -> Layout {
        Layout::Csr {
            rows: self.rows,
            cols: self.cols,
            values: self.values.value_type(),
            nonzeros: self.nonzeros(),
        }
    }
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply(kernels::gemv::Rows::Csr(self), x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply_transposed(kernels::gemv::Rows::Csr(self), x, y);
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for r in 0..self.rows {
            for (c, w) in self.row(r) {
                out[r * self.cols + c] = w;
            }
        }
        out
    }
}

/// Compressed sparse columns: the [`Csr`] of the transpose. At most 65 536 rows; int8 scales are
/// per column.
#[derive(Debug, Clone, PartialEq)]
pub struct Csc {
    pub(crate) transpose: Csr,
}

impl Csc {
    /// The non-zeros of row-major `data`.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers, or there are more than 65 536 rows.
    pub fn from_dense(rows: usize, cols: usize, data: &[f32], values: ValueType) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        let transposed: Vec<f32> =
            (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect();
        Self { transpose: Csr::from_dense(cols, rows, &transposed, values) }
    }

    /// The matrix whose rows are this one's columns.
    pub fn transpose(&self) -> &Csr {
        &self.transpose
    }
}

// The transpose swaps the two.
#[allow(clippy::misnamed_getters)]
impl LinearMap for Csc {
    fn layout(&self) -> Layout {
        Layout::Csc {
            rows: self.transpose.cols,
            cols: self.transpose.rows,
            values: self.transpose.values.value_type(),
            nonzeros: self.transpose.nonzeros(),
        }
    }
    fn rows(&self) -> usize {
        self.transpose.cols
    }
    fn cols(&self) -> usize {
        self.transpose.rows
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.transpose.apply_transposed(x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        self.transpose.apply_transposed_batch(x, batch, y);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        self.transpose.apply_batch(x, batch, y);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        self.transpose.apply(x, y);
    }
    fn to_dense(&self) -> Vec<f32> {
        let (rows, cols) = (self.rows(), self.cols());
        let mut out = vec![0.0; rows * cols];
        for c in 0..cols {
            for (r, w) in self.transpose.row(c) {
                out[r * cols + c] = w;
            }
        }
        out
    }
}
