//! What can go wrong when high-dimensional data are screened or fitted.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

use crate::estimators::EstimateError;

/// Why data were not screened, or a model not fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HighDimensionalError {
    /// A parameter lies outside its range.
    #[error("{name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// Two sizes that must agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// What was measured.
        what: &'static str,
        /// The size that fits.
        expected: usize,
        /// The size found.
        got: usize,
    },
    /// A value that no estimate can use.
    #[error("{what}, row {row} is {value}; fill it in or drop the row")]
    NonFinite {
        /// The vector or column.
        what: String,
        /// Its first row at fault, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A target that cannot be screened against.
    #[error("the target {problem}")]
    Target {
        /// What is wrong with it.
        problem: String,
    },
    /// A file that holds no table of columns.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, where, and what to try.
        problem: String,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Data(#[from] sparseland_data::DataError),
    /// A solver left the finite numbers.
    #[error("{operation} diverged after {iterations} iterations; check the scale of the columns")]
    Diverged {
        /// The solver.
        operation: &'static str,
        /// Iterations made.
        iterations: usize,
    },
    /// An estimator refused its data.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
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
) -> Result<(), HighDimensionalError> {
    if ok { Ok(()) } else { Err(HighDimensionalError::Parameter { name, expected, got: got.to_string() }) }
}
