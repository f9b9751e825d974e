//! Bitmask matrices: one bit per entry and the non-zero values.

use crate::{Buffer, Layout, LinearMap, ValueType, Values, kernels};

/// A sparse matrix that stores one bit per entry and the values whose bit is set. The best layout
/// for products with one vector between about 30 and 85 % zeros.
///
/// Files hold the canonical form: per row `ceil(cols / 8)` mask bytes (column `c` is bit `c % 8`
/// of byte `c / 8`) and the values of all rows one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Bitmask {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `rows x ceil(cols / 8)` bytes.
    pub(crate) mask: Buffer<u8>,
    /// Position of each row's first value; `rows + 1` entries.
    pub(crate) offsets: Buffer<u32>,
    pub(crate) values: Values,
}

impl Bitmask {
    /// The non-zeros of row-major `data`.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers.
    pub fn from_dense(rows: usize, cols: usize, data: &[f32], values: ValueType) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        let stride = cols.div_ceil(8);
        let mut mask = Buffer::<u8>::zeros(rows * stride);
        let (mut offsets, mut kept) = (vec![0usize], Vec::new());
        for r in 0..rows {
            for c in 0..cols {
                let w = data[r * cols + c];
                if w != 0.0 {
                    mask[r * stride + c / 8] |= 1 << (c % 8);
                    kept.push(w);
                }
            }
            offsets.push(kept.len());
        }
        let offsets32 = offsets.iter().map(|&o| o as u32).collect();
        Self { rows, cols, mask, offsets: offsets32, values: Values::encode(values, &kept, &offsets) }
    }

    /// The number of stored entries.
    pub fn nonzeros(&self) -> usize {
        self.values.len()
    }

    /// The entries of row `row`: column and value.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let stride = self.cols.div_ceil(8);
        let mask = &self.mask[row * stride..(row + 1) * stride];
        let mut next = self.offsets[row] as usize;
        (0..self.cols).filter(move |&c| mask[c / 8] >> (c % 8) & 1 == 1).map(move |c| {
            next += 1;
            (c, self.values.get(row, next - 1))
        })
    }

    /// Appends the columns and values (scale applied) of `row`, of a matrix with at most 65 536
    /// columns, in the order of [`Self::row`].
    #[allow(dead_code)]
    pub(crate) fn unpack_row(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u16);
            values.push(w);
        }
    }
}

impl LinearMap for Bitmask {
    fn layout(&self) -> Layout {
        Layout::Bitmask {
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
        assert_eq!((x.len(), y.len()), (self.cols, self.rows), "wrong length");
        kernels::bitmask_gemv(self, x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!((x.len(), y.len()), (self.rows, self.cols), "wrong length");
        y.fill(0.0);
        for (r, &x) in x.iter().enumerate() {
            for (c, w) in self.row(r) {
                y[c] += w * x;
            }
        }
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
