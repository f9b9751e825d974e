//! The matrix of a regression, seen column by column.
//!
//! A [`Design`] is `n x p`: rows are observations, columns are features. Coordinate descent asks it for
//! products of single columns with a vector of length `n`, always f64, whatever the stored type.
//!
//! | type | storage | bytes |
//! |---|---|---|
//! | [`Dense`] | f32 or f64, column after column | `4 n p` or `8 n p` |
//! | [`Sparse`] | CSC: f32 or f64 values with u32 row numbers | 8 or 12 per stored entry |
//!
//! [`Centred`] looks at a design as if its columns had been centred and scaled; nothing is copied, and
//! a sparse design stays sparse.

mod centred;
mod dense;
mod sparse;
#[cfg(test)]
mod tests;

pub use centred::{Centred, Scaling};
pub use dense::Dense;
pub use sparse::Sparse;

/// Columns of an `n x p` matrix.
pub trait Design: Send + Sync + std::fmt::Debug {
    /// Number of observations, `n`.
    fn rows(&self) -> usize;

    /// Number of features, `p`.
    fn cols(&self) -> usize;

    /// Stored entries in all, `n p` for a dense design.
    fn stored(&self) -> usize;

    /// `x_jᵀ v` for `v` of length `n`. Cost: the stored entries of column `j`.
    fn dot(&self, j: usize, v: &[f64]) -> f64;

    /// `out += a x_j`. Cost: the stored entries of column `j`.
    fn axpy(&self, j: usize, a: f64, out: &mut [f64]);

    /// `out[k] = x_{columns[k]}ᵀ v`: as [`Design::dot`], with fewer loads of `v`.
    fn dots(&self, columns: &[u32], v: &[f64], out: &mut [f64]);

    /// `sum_i (x_ij - shift u_i)²`, without cancellation; `unit` is `u`, `None` stands for ones.
    fn squared_distance(&self, j: usize, shift: f64, unit: Option<&[f64]>) -> f64;

    /// A copy of some rows (`None`: all) of some columns (`None`: all), row `i` of the *old* matrix
    /// times `row_scale[i]`. Row numbers must rise strictly.
    fn select(
        &self,
        rows: Option<&[u32]>,
        columns: Option<&[u32]>,
        row_scale: Option<&[f64]>,
    ) -> Box<dyn Design>;

    /// The first entry that is NaN or infinite, `(row, column, value)`, searched column by column.
    fn first_non_finite(&self) -> Option<(usize, usize, f64)>;

    /// `X w` for a vector of length `p`.
    fn times(&self, w: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.rows()];
        for (j, &w) in w.iter().enumerate() {
            if w != 0.0 {
                self.axpy(j, w, &mut out);
            }
        }
        out
    }
}

/// Why a matrix is no design.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesignError {
    /// The number of values does not fit the shape.
    #[error("a {rows} x {cols} design takes {expected} values, got {got}; check the shape and the order")]
    Length {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Values that would fit.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// Offsets of a sparse design that do not fit its entries.
    #[error(
        "offset {position} of the sparse design is wrong: offsets start at 0, never fall, are {cols} + 1 in \
         number and end at the number of entries, {entries}"
    )]
    Offsets {
        /// The first offset at fault.
        position: usize,
        /// Columns (rows, for row-wise input).
        cols: usize,
        /// Stored entries.
        entries: usize,
    },
    /// A row number outside the matrix or not above the one before it in its column.
    #[error(
        "entry {entry} of the sparse design, in column {column}, has row {row}: rows rise strictly within a \
         column and stay below {rows}; sort the entries and add up duplicates"
    )]
    Row {
        /// Position among the stored entries.
        entry: usize,
        /// Its column.
        column: usize,
        /// The row found.
        row: u32,
        /// Rows of the matrix.
        rows: usize,
    },
}
