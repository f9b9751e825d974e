//! What can go wrong when predictions are stacked.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

use crate::estimators::EstimateError;

/// Why predictions were not stacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// A parameter lies outside its range.
    #[error("stack: {name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// Two sizes that must agree do not.
    #[error("stack: {what}: expected {expected}, got {got}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// The number that fits.
        expected: usize,
        /// The number found.
        got: usize,
    },
    /// NaN or infinity among predictions or targets.
    #[error("stack: {what} of row {row} is {value}; refit that model or drop the row")]
    NonFinite {
        /// The model's column, or the target.
        what: String,
        /// The row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A base model or meta-learner refused its data.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
    /// A decomposition failed.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// A data file of an experiment could not be used.
    #[error("stack: {path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
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
) -> Result<(), StackError> {
    if ok { Ok(()) } else { Err(StackError::Parameter { name, expected, got: got.to_string() }) }
}
