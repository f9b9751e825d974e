//! What can go wrong when a vector is recovered.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

/// Why no vector could be recovered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KronSblError {
    /// A parameter lies outside its range.
    #[error("kron-sbl: parameter {name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// The measurements do not fit the factors.
    #[error(
        "kron-sbl: factors {factors} give {expected} measurements, got {got}; check their order and shapes"
    )]
    Measurements {
        /// The shapes of the factors.
        factors: String,
        /// The product of their rows.
        expected: usize,
        /// The length of `y`.
        got: usize,
    },
    /// The first NaN or infinity of an input.
    #[error("kron-sbl: {what} at row {row}, column {column} is not finite; repair the measurement first")]
    NonFinite {
        /// Which input.
        what: String,
        /// Row of the first bad value.
        row: usize,
        /// Column of the first bad value.
        column: usize,
    },
    /// The unstructured method would need a dense dictionary above the cap.
    #[error(
        "kron-sbl: the unstructured method needs a dense {rows} x {columns} dictionary of {megabytes} MiB, above the \
         cap of {cap} MiB; use a Kronecker method or raise memory_cap"
    )]
    Memory {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// What it takes.
        megabytes: usize,
        /// What is allowed.
        cap: usize,
    },
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
) -> Result<(), KronSblError> {
    if ok { Ok(()) } else { Err(KronSblError::Parameter { name, expected, got: got.to_string() }) }
}
