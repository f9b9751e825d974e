//! What can go wrong in training.

use std::path::PathBuf;

use sparseland_core::Cancelled;
use sparseland_data::DataError;
use sparseland_nn::NnError;
use sparseland_tape::optimiser::StateError;
use sparseland_tape::weight::WeightError;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe asks for something impossible or unknown.
    #[error("the recipe: {0}")]
    Recipe(String),
    /// Data that cannot be trained on.
    #[error("{path}: {reason}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The loss or a gradient is not finite.
    #[error(
        "step {step}: {what} is not finite{place}; {saved}lower the learning rate, warm up longer or clip gradients"
    )]
    NotFinite {
        /// The step, from 0.
        step: u64,
        /// Loss or gradient.
        what: &'static str,
        /// Where it first appeared.
        place: String,
        /// What is left of the run.
        saved: String,
    },
    /// A saved run that belongs to another recipe, or is damaged.
    #[error("cannot resume from {path}: {reason}")]
    Resume {
        /// The saved state.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// See [`StateError`].
    #[error(transparent)]
    Optimiser(#[from] StateError),
    /// See [`WeightError`].
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The model.
    #[error(transparent)]
    Model(#[from] NnError),
    /// Reading or writing.
    #[error(transparent)]
    File(#[from] DataError),
    /// The run was cancelled; its state is saved.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
