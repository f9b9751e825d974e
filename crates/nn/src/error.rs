//! What can go wrong with a model.

use sparseland_core::Cancelled;
use sparseland_data::DataError;
use sparseland_matrix::MatrixError;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// `config.json` lacks a key, or the key has an impossible value.
    #[error("config.json: {0}")]
    Config(String),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A structured layer is damaged.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// The tokenizer cannot be read or used.
    #[error("tokenizer.json: {0}")]
    Tokenizer(String),
    /// A token that the model does not know.
    #[error(
        "token {token} is outside the vocabulary of {vocabulary}; tokenizer.json belongs to another model"
    )]
    Token {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// More tokens than the model's context.
    #[error(
        "{tokens} tokens exceed the model's context of {context}; shorten the prompt or ask for fewer tokens"
    )]
    Context {
        /// Tokens asked for.
        tokens: usize,
        /// The context.
        context: usize,
    },
    /// A text too short to be scored.
    #[error("the text has {tokens} tokens, at least {needed} are needed; give a longer one")]
    ShortText {
        /// Tokens found.
        tokens: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// A setting of sampling or scoring outside its range.
    #[error("{0}")]
    Setting(String),
    /// The model's output is not a number.
    #[error("the model's output for token {position} is {value}; a weight is damaged or too large")]
    NotFinite {
        /// Tokens before it.
        position: usize,
        /// NaN or infinity.
        value: f32,
    },
    /// The run was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
