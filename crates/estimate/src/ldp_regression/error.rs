//! What can go wrong between a user's record and the server's estimate.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;

/// Why nothing was sent, taken in or estimated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LdpError {
    /// A parameter lies outside its range.
    #[error("ldp: parameter {name} must be {expected}, got {got}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The allowed range, in words.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// A record or message has the wrong size or kind.
    #[error("ldp: expected {expected}, got {got}")]
    Shape {
        /// What is needed.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A record with NaN or infinity; nothing was sent.
    #[error("ldp: user {user}: {what} {index} is not finite; nothing was sent")]
    NonFinite {
        /// The user.
        user: u64,
        /// `feature` or `response`.
        what: &'static str,
        /// Index of the first bad value.
        index: usize,
    },
    /// The user's budget is spent.
    #[error("ldp: user {user} has sent a message already; a second one would break the promised epsilon")]
    Spent {
        /// The user.
        user: u64,
    },
    /// There are no messages to estimate from.
    #[error("ldp: no messages; ingest some first")]
    Empty,
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
) -> Result<(), LdpError> {
    if ok { Ok(()) } else { Err(LdpError::Parameter { name, expected, got: got.to_string() }) }
}
