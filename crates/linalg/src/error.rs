//! The one error type of the crate.

/// Why a decomposition or a solve could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinalgError {
    /// A buffer or an operand does not have the shape that the operation needs.
    #[error("{operation}: expected {expected}, got {got}")]
    Shape {
        /// The function that was called.
        operation: &'static str,
        /// What it needs, in words or as `rows x cols`.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// A parameter lies outside its range (rank, oversampling, tolerance).
    #[error("{operation}: parameter {name} must be {expected}, got {got}")]
    Parameter {
        /// The function that was called.
        operation: &'static str,
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// The first NaN or infinity of the input, in row-major order.
    #[error("{operation}: value at row {row}, column {col} is not finite; drop or repair such rows first")]
    NonFinite {
        /// The function that was called.
        operation: &'static str,
        /// Row of the first bad value.
        row: usize,
        /// Column of the first bad value.
        col: usize,
    },
    /// A Cholesky factorisation met a pivot that is not positive.
    #[error("{operation}: the matrix is not positive definite (pivot {pivot}); add a ridge")]
    NotPositiveDefinite {
        /// The function that was called.
        operation: &'static str,
        /// Index of the first bad pivot.
        pivot: usize,
    },
    /// The system has no unique solution to working precision.
    #[error("{operation}: the matrix is singular to working precision; add a ridge or use lstsq")]
    Singular {
        /// The function that was called.
        operation: &'static str,
    },
    /// An iteration stopped before it reached its tolerance.
    #[error(
        "{operation}: {converged} of {requested} values converged; allow more restarts, a looser tolerance or fewer values"
    )]
    NoConvergence {
        /// The function that was called.
        operation: &'static str,
        /// How many values are accurate.
        converged: usize,
        /// How many were asked for.
        requested: usize,
    },
}

impl LinalgError {
    pub(crate) fn shape(
        operation: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        LinalgError::Shape { operation, expected: expected.into(), got: got.into() }
    }
}
