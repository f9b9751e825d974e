//! Decoders over structured weights: Hugging Face checkpoints, tokenizers, generation, perplexity.
//!
//! [`Decoder`] runs Llama, Mistral, Qwen2 and Qwen3 checkpoints in f32 arithmetic over weights of any
//! stored type; every linear layer holds a [`sparseland_matrix::Matrix`] of any structure, as the
//! `sparseland` section of `config.json` says ([`structure`]).
//!
//! [`TrainableDecoder`] is the same network on a tape, each weight under a
//! [`Parametrisation`](sparseland_tape::Parametrisation) of its own.
//!
//! [`Block`]s load one at a time and show the inputs of their linear layers to an observer, so that
//! calibration streams through a model that is never wholly in memory.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod attention;
mod block;
mod config;
mod decoder;
mod error;
mod generate;
mod inputs;
mod linear;
mod math;
mod perplexity;
mod rope;
pub mod structure;
mod tokenizer;
mod trainable;

pub use block::{Block, Observer, Workspace};
pub use config::{Activation, Architecture, ModelConfig, RopeScaling};
pub use decoder::{Decoder, KvCache, embed};
pub use error::NnError;
pub use generate::{Generation, Sampler, Stop, generate};
pub use inputs::{InputRule, InputSelection};
pub use linear::{Linear, LinearInput, LinearSite, LoadOptions};
pub use perplexity::{Convention, score, states_nll};
pub use tokenizer::{Encoding, Streaming, Tokenizer};
pub use trainable::{TrainableDecoder, TrainableLinear};
