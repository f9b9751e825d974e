//! Training with real structure: weights that are sparse or low-rank in the forward pass, in the gradient, in the
//! optimiser's state and in the file.
//!
//! [`Recipe`] says what to train on what and how; [`LanguageModel`] and [`Classifier`] are the two tasks;
//! [`Trainer`] runs either, resumes to the bit, and stops with the place of the trouble when a number is not finite.
//! Each method of [`methods`] is a [`Parametrisation`](sparseland_tape::Parametrisation).

mod classifier;
mod corpus;
mod error;
mod images;
mod language;
pub mod methods;
mod recipe;
mod trainer;

pub use classifier::{Classifier, ItemGradients, MakeWeight};
pub use corpus::Corpus;
pub use error::TrainError;
pub use images::Images;
pub use language::{LanguageModel, byte_tokenizer};
pub use recipe::{DataRecipe, MethodRecipe, NetRecipe, OptimiserKind, Products, Recipe, TrainingRecipe};
pub use trainer::{Outcome, Point, Task, Trainer, Weights};
