//! What can go wrong when a graph is learnt.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

/// Why no graph could be learnt, drawn or compared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ColideError {
    /// A parameter lies outside its range.
    #[error("colide: parameter {name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// A matrix does not have the shape that is needed.
    #[error("colide: {what} must be {expected}, got {got}")]
    Shape {
        /// Which matrix.
        what: &'static str,
        /// What is needed.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The first NaN or infinity of an input.
    #[error("colide: {what} at row {row}, column {column} is not finite; drop or repair such rows first")]
    NonFinite {
        /// Which matrix.
        what: &'static str,
        /// Row of the first bad value.
        row: usize,
        /// Column of the first bad value.
        column: usize,
    },
    /// The required edges cannot all be kept.
    #[error("colide: required edges {problem}; drop one of them")]
    RequiredEdges {
        /// What is wrong with them.
        problem: String,
    },
    /// A stage could not be started inside the domain of the acyclicity function.
    #[error(
        "colide: stage {stage} left the domain of the acyclicity function {restarts} times, last with s = {s}; \
         start from smaller weights or raise s"
    )]
    Domain {
        /// Index of the stage.
        stage: usize,
        /// How often it was tried.
        restarts: usize,
        /// The last domain parameter.
        s: f64,
    },
    /// A graph that must be acyclic is not.
    #[error("colide: the {which} graph has a directed cycle; threshold it first")]
    Cyclic {
        /// Which of the graphs.
        which: &'static str,
    },
    /// A data file of an experiment could not be used.
    #[error("colide: {path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
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
) -> Result<(), ColideError> {
    if ok { Ok(()) } else { Err(ColideError::Parameter { name, expected, got: got.to_string() }) }
}
