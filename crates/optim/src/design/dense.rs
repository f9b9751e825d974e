//! Dense columns, one after another.

use sparseland_linalg::Mat;
use sparseland_matrix::vector::{self, Real};

use super::{Design, DesignError};

/// A dense column-major design of f32 or f64; sums are f64 in either case.
#[derive(Clone, Debug)]
pub struct Dense<T> {
    rows: usize,
    cols: usize,
    values: Vec<T>,
}

/// The sum of `f` over a column, in eight sums that do not wait for each other.
fn in_lanes<T: Real>(column: &[T], f: impl Fn(&T) -> f64) -> f64 {
    let chunks = column.chunks_exact(8);
    let tail: f64 = chunks.remainder().iter().map(&f).sum();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        for lane in 0..8 {
            sums[lane] += f(&chunk[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

impl<T: Real> Dense<T> {
    /// A `rows x cols` design over values that are stored column after column.
    ///
    /// # Errors
    /// [`DesignError::Length`] when their number is not `rows * cols`.
    pub fn from_columns(rows: usize, cols: usize, values: Vec<T>) -> Result<Self, DesignError> {
        let expected = rows.saturating_mul(cols);
        if expected != values.len() {
            return Err(DesignError::Length { rows, cols, expected, got: values.len() });
        }
        Ok(Self { rows, cols, values })
    }

    /// A `rows x cols` design over values that are stored row after row: one transposition.
    ///
    /// # Errors
    /// [`DesignError::Length`] when their number is not `rows * cols`.
    pub fn from_rows(rows: usize, cols: usize, values: &[T]) -> Result<Self, DesignError> {
        let expected = rows.saturating_mul(cols);
        if expected != values.len() {
            return Err(DesignError::Length { rows, cols, expected, got: values.len() });
        }
        let mut out = vec![T::default(); expected];
        // Tiles keep both sides in the cache.
        const TILE: usize = 32;
        for first_row in (0..rows).step_by(TILE) {
            for first_col in (0..cols).step_by(TILE) {
                for i in first_row..(first_row + TILE).min(rows) {
                    for j in first_col..(first_col + TILE).min(cols) {
                        out[j * rows + i] = values[i * cols + j];
                    }
                }
            }
        }
        Ok(Self { rows, cols, values: out })
    }

    /// Column `j`, of length `rows`.
    pub fn column(&self, j: usize) -> &[T] {
        &self.values[j * self.rows..(j + 1) * self.rows]
    }
}

macro_rules! from_mat {
    ($($t:ty),*) => {$(
        impl From<&Mat<$t>> for Dense<$t> {
            /// One transposition of the row-major matrix.
            fn from(mat: &Mat<$t>) -> Self {
                Self::from_rows(mat.rows, mat.cols, &mat.data).expect("a Mat has rows * cols values")
            }
        }
    )*};
}
from_mat!(f32, f64);

impl<T: Real> Design for Dense<T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn stored(&self) -> usize {
        self.values.len()
    }

    fn dot(&self, j: usize, v: &[f64]) -> f64 {
        vector::dot(self.column(j), v)
    }

    fn axpy(&self, j: usize, a: f64, out: &mut [f64]) {
        vector::axpy(a, self.column(j), out);
    }

    fn dots(&self, columns: &[u32], v: &[f64], out: &mut [f64]) {
        let whole = columns.len() / 4 * 4;
        for (columns, out) in columns.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
            let x = [0, 1, 2, 3].map(|k| self.column(columns[k] as usize));
            out.copy_from_slice(&vector::dot_many(x, v));
        }
        for (&j, out) in columns[whole..].iter().zip(&mut out[whole..]) {
            *out = self.dot(j as usize, v);
        }
    }

    fn squared_distance(&self, j: usize, shift: f64, unit: Option<&[f64]>) -> f64 {
        let square = |a: f64| a * a;
        let column = self.column(j);
        match unit {
            None => in_lanes(column, |x| square(x.to_f64() - shift)),
            Some(unit) => column.iter().zip(unit).map(|(x, u)| square(x.to_f64() - shift * u)).sum(),
        }
    }

    fn select(
        &self,
        rows: Option<&[u32]>,
        columns: Option<&[u32]>,
        row_scale: Option<&[f64]>,
    ) -> Box<dyn Design> {
        let height = rows.map_or(self.rows, <[u32]>::len);
        let width = columns.map_or(self.cols, <[u32]>::len);
        let mut values = Vec::with_capacity(height * width);
        for k in 0..width {
            let column = self.column(columns.map_or(k, |c| c[k] as usize));
            match (rows, row_scale) {
                (None, None) => values.extend_from_slice(column),
                (None, Some(scale)) => {
                    values.extend(column.iter().zip(scale).map(|(x, s)| T::from_f64(x.to_f64() * s)));
                }
                (Some(rows), None) => values.extend(rows.iter().map(|&i| column[i as usize])),
                (Some(rows), Some(scale)) => values.extend(
                    rows.iter().map(|&i| T::from_f64(column[i as usize].to_f64() * scale[i as usize])),
                ),
            }
        }
        Box::new(Self { rows: height, cols: width, values })
    }

    fn first_non_finite(&self) -> Option<(usize, usize, f64)> {
        // x * 0 is NaN exactly for the values we look for, and the sum vectorises.
        let suspicious = |column: &[T]| in_lanes(column, |v| v.to_f64() * 0.0) != 0.0;
        (0..self.cols).find(|&j| suspicious(self.column(j))).and_then(|j| {
            let i = self.column(j).iter().position(|v| !v.to_f64().is_finite())?;
            Some((i, j, self.column(j)[i].to_f64()))
        })
    }
}
