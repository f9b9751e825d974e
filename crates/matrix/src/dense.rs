//! Dense row-major matrices.

use crate::{Layout, LinearMap, ValueType, Values, kernels};

/// A dense `rows x cols` matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) values: Values,
}

impl Dense {
    /// Stores row-major `data` in the given type.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers.
    pub fn from_f32(rows: usize, cols: usize, data: &[f32], values: ValueType) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        let offsets: Vec<usize> = (0..=rows).map(|r| r * cols).collect();
        Self { rows, cols, values: Values::encode(values, data, &offsets) }
    }

    /// Takes values that are stored already.
    ///
    /// # Panics
    /// If the number of values or scales does not fit the shape.
    pub fn from_values(rows: usize, cols: usize, values: Values) -> Self {
        assert_eq!(values.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        if let Values::I8 { scales, .. } = &values {
            assert_eq!(scales.len(), rows, "int8 needs one scale per row");
        }
        Self { rows, cols, values }
    }

    /// The stored values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// `y = sum_i factor_i W[row_i]` for `picks` of rows and factors: the transposed product with a vector
    /// that is zero elsewhere. Only the chosen rows are read.
    ///
    /// # Panics
    /// If `y` has not `cols` numbers or a row does not exist.
    pub fn combine_rows(&self, picks: &[(u32, f32)], y: &mut [f32]) {
        assert_eq!(y.len(), self.cols, "wrong length");
        assert!(picks.iter().all(|p| (p.0 as usize) < self.rows), "a row beyond the last");
        kernels::combine::rows(self, picks, y);
    }

    /// Row `row` widened into `out` (length `cols`).
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        self.values.decode_into(row, row * self.cols..(row + 1) * self.cols, out);
    }
}

impl LinearMap for Dense {
    fn layout(&self) -> Layout {
        Layout::Dense { rows: self.rows, cols: self.cols, values: self.values.value_type() }
    }
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply(kernels::gemv::Rows::Dense(self), x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::dense(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::dense_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply_transposed(kernels::gemv::Rows::Dense(self), x, y);
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for r in 0..self.rows {
            self.row_into(r, &mut out[r * self.cols..(r + 1) * self.cols]);
        }
        out
    }
}
