//! What can go wrong while minimising.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

/// Why a problem could not be posed or solved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BcdError {
    /// A parameter lies outside its range.
    #[error("bcd: parameter {name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// Arrays do not fit.
    #[error("bcd: {what} must have {expected}, got {got}")]
    Shape {
        /// Which array.
        what: &'static str,
        /// What is needed.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The first NaN or infinity of an array.
    #[error("bcd: {what} at row {row}, column {column} is not finite; repair the data first")]
    NonFinite {
        /// Which array.
        what: &'static str,
        /// Row of the first bad value.
        row: usize,
        /// Column of the first bad value.
        column: usize,
    },
    /// A matrix that must be symmetric is not.
    #[error("bcd: entry ({row}, {column}) has no equal partner; use (A + A^T) / 2")]
    Asymmetric {
        /// Row.
        row: usize,
        /// Column.
        column: usize,
    },
    /// The objective curves downward: it has no minimum.
    #[error("bcd: negative curvature at coordinate {coordinate}; the quadratic is not convex, add a ridge")]
    NotConvex {
        /// A coordinate of the block where it was met.
        coordinate: usize,
    },
    /// The chosen rules do not go together.
    #[error("bcd: {0}")]
    Unsupported(&'static str),
    /// A decomposition failed.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// The run was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// An error when `ok` is false.
pub(super) fn ensure(
    ok: bool,
    name: &'static str,
    expected: &'static str,
    got: impl ToString,
) -> Result<(), BcdError> {
    if ok { Ok(()) } else { Err(BcdError::Parameter { name, expected, got: got.to_string() }) }
}
