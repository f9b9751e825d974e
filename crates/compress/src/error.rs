//! What can go wrong in a compression.

use sparseland_core::Cancelled;
use sparseland_linalg::LinalgError;
use sparseland_matrix::MatrixError;
use sparseland_optim::knapsack::KnapsackError;

/// What can go wrong in a compression.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// A budget that no choice of options meets.
    #[error(
        "cannot remove {asked:.1} % of the {accounting} of the targeted layers: between {min:.1} and \
         {max:.1} % is possible; choose --remove in that range"
    )]
    Infeasible {
        /// Percentage asked for.
        asked: f64,
        /// `parameters` or `bytes`.
        accounting: &'static str,
        /// Smallest percentage.
        min: f64,
        /// Largest percentage.
        max: f64,
    },
    /// A fraction outside `[0, 1)`.
    #[error("cannot remove the fraction {0}; give a number from 0 up to, not including, 1")]
    Fraction(f64),
    /// A method that needs calibration data was prepared without.
    #[error("this method needs calibration text; give one with --calibration FILE")]
    NoCalibration,
    /// A parameter or an input that a method cannot work with.
    #[error("{0}")]
    Setting(String),
    /// An allocation whose scores the method or the run does not provide.
    #[error("this method has no scores for --allocation {0}; choose knapsack, uniform or tail-energy")]
    NoScore(&'static str),
    /// A pattern that does not exist.
    #[error("{0} is not a pattern; give unstructured or N:M with 1 <= N < M <= 256, such as 2:4")]
    Pattern(String),
    /// A budget that contradicts a fixed pattern.
    #[error(
        "--remove {asked} contradicts the pattern {pattern}, which removes {removes} of every layer; give \
         --remove {removes}"
    )]
    PatternBudget {
        /// The pattern.
        pattern: String,
        /// Fraction asked for.
        asked: f64,
        /// Fraction that the pattern removes.
        removes: f64,
    },
    /// A layer that calibration never reached.
    #[error("no calibration token reaches this layer; give a longer text with --calibration FILE")]
    Unreached,
    /// A mask that cannot be refined.
    #[error("the mask cannot be refined: {0}")]
    Mask(String),
    /// The calibration text is too short.
    #[error(
        "the calibration text has {tokens} tokens; at least {needed} are needed: give a longer text or \
         lower --calibration-length"
    )]
    ShortCalibration {
        /// Tokens found.
        tokens: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// Too many non-finite activations.
    #[error(
        "{dropped} of {tokens} calibration tokens give non-finite activations in block {block}; the \
         checkpoint or its data type is broken there"
    )]
    NonFinite {
        /// Tokens dropped.
        dropped: u64,
        /// All tokens.
        tokens: u64,
        /// The block.
        block: usize,
    },
    /// A plan does not fit the model.
    #[error("the plan does not fit this model: {0}; make a new one without --plan")]
    Plan(String),
    /// An earlier run with other settings left its work in the output directory.
    #[error(
        "{dir} holds the unfinished work of another run ({what}); finish that run with its own settings, \
         or remove {dir} and start again"
    )]
    ForeignWork {
        /// The directory of the unfinished work.
        dir: String,
        /// What differs.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer's decomposition failed.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer.
        layer: String,
        /// Why.
        source: Box<CompressError>,
    },
    /// A decomposition failed.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// The allocation failed.
    #[error(transparent)]
    Knapsack(#[from] KnapsackError),
    /// A stored matrix is damaged.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// The checkpoint could not be read or written.
    #[error(transparent)]
    Data(#[from] sparseland_data::DataError),
    /// The model could not be built or run.
    #[error(transparent)]
    Model(#[from] sparseland_nn::NnError),
    /// The run was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl CompressError {
    /// Adds the layer's name.
    pub(crate) fn in_layer(self, layer: &str) -> Self {
        match self {
            Self::Cancelled(_) | Self::Layer { .. } => self,
            other => Self::Layer { layer: layer.to_owned(), source: Box::new(other) },
        }
    }
}
