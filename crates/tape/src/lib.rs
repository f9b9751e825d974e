//! Reverse-mode differentiation for networks whose weights are structured while they train.
//!
//! A [`Tape`] records coarse operations, each with its own way back ([`Op`]); user-defined ones are like the
//! built-in ones. Values are matrices (`rows x cols`, row-major); images are rows of channels times pixels.
//! [`Parameters`] hold values and gradients outside the tape, each in the shape in which it is stored: the
//! values of a sparse weight are a vector of as many numbers as there are non-zeros, and so are their gradient
//! and the state of their optimiser.
//!
//! A [`Parametrisation`] says how a weight is used in terms of what is trained: dense, low rank, a fixed sparse
//! pattern, N:M with straight-through gradients, and what users add.
//!
//! Everything is generic over f32 and f64: training runs in f32, derivatives are checked in f64.
//! Work is split in a way that depends on shapes alone: the same seed gives the same bytes whatever the number of
//! threads. Buffers are reused: after the first step nothing is allocated.

mod ops;
mod parameters;
mod tape;

pub mod check;
pub mod optimiser;
pub mod weight;

pub use ops::*;
pub use parameters::{ParamId, Parameter, Parameters};
pub use tape::{Backward, Forward, Gradient, Op, Pool, Tape, Var};
pub use weight::Parametrisation;
