//! Recipes: what to train, on what, and how. Unknown keys are refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sparseland_matrix::Precision;
use sparseland_tape::optimiser::{AdamW, Decay, Muon, Optimiser, Schedule, Sgd, StateBits};

use crate::TrainError;
use crate::methods::dsformer::Dsformer;
use crate::methods::low_rank::LowRank;
use crate::methods::sltrain::SlTrain;
use crate::methods::sr_ste::SrSte;

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of weights, order and masks.
    #[serde(default)]
    pub seed: u64,
    /// For language models: the keys of a `config.json`.
    #[serde(default)]
    pub model: Option<Map<String, Value>>,
    /// For classifiers: the network.
    #[serde(default)]
    pub net: Option<NetRecipe>,
    /// What to train on.
    pub data: DataRecipe,
    /// How.
    pub training: TrainingRecipe,
    /// The structure of the linear weights.
    #[serde(default)]
    pub method: MethodRecipe,
}

/// The network of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "kebab-case")]
pub enum NetRecipe {
    /// Fully connected with ReLU between the layers.
    Mlp {
        /// Widths of the hidden layers.
        hidden: Vec<usize>,
    },
    /// 3x3 convolutions, each followed by ReLU and 2x2 max pooling, then a hidden layer.
    Conv {
        /// Channels of the convolutions.
        channels: Vec<usize>,
        /// Width of the hidden layer.
        hidden: usize,
    },
}

/// What to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// For language models: text files (`.txt`, `.jsonl`, compressed or not).
    #[serde(default)]
    pub text: Vec<PathBuf>,
    /// How often each training text is repeated in a pass, in their order; once each if empty.
    #[serde(default)]
    pub repeat: Vec<usize>,
    /// A line between documents of a text file, such as `* * *`; without, a file is one document.
    #[serde(default)]
    pub separator: Option<String>,
    /// Whether typographic quotes and dashes become ASCII and hard-wrapped lines paragraphs.
    #[serde(default)]
    pub plain: bool,
    /// Text held out for validation; without, the tail of every training text is.
    #[serde(default)]
    pub validation_text: Vec<PathBuf>,
    /// Share held out where there is no validation text or file.
    #[serde(default = "default_held_out")]
    pub held_out: f64,
    /// A checkpoint directory whose tokenizer is used; without, bytes are the tokens.
    #[serde(default)]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a training sequence.
    #[serde(default = "default_sequence")]
    pub sequence: usize,
    /// For classifiers: a directory with `train-images…`, `train-labels…`, `t10k-images…`, `t10k-labels…` (IDX,
    /// compressed or not), or a CSV of features whose last column is the class.
    #[serde(default)]
    pub images: Option<PathBuf>,
    /// A CSV of the same form to validate on.
    #[serde(default)]
    pub validation_images: Option<PathBuf>,
    /// At most this many training items, the first ones; for quick experiments.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_held_out() -> f64 {
    0.05
}

fn default_sequence() -> usize {
    256
}

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimiserKind {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// The same with 8-bit state.
    Adamw8bit,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Orthogonalised momentum for hidden matrices, AdamW for the rest.
    Muon,
}

/// How the products of dense layers take their factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Products {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16 and summed in f32. Weights, gradients, optimiser state and validation stay in f32. It pays on
    /// processors with AMX or AVX-512 BF16; `sparseland doctor` says.
    Bf16,
}

impl From<Products> for Precision {
    fn from(products: Products) -> Self {
        match products {
            Products::F32 => Self::Full,
            Products::Bf16 => Self::Bf16,
        }
    }
}

/// Form of the learning rate's decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayKind {
    /// Half a cosine.
    #[default]
    Cosine,
    /// A straight line.
    Linear,
    /// None.
    Constant,
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecipe {
    /// Optimiser steps.
    pub steps: u64,
    /// Sequences or items per step.
    pub batch: usize,
    /// Parts that a step's batch is run in, to save memory.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The optimiser.
    #[serde(default)]
    pub optimiser: OptimiserKind,
    /// How the products of dense layers take their factors.
    #[serde(default)]
    pub products: Products,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps of warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Form of the decay.
    #[serde(default)]
    pub schedule: DecayKind,
    /// Share of the learning rate that is left at the end.
    #[serde(default = "default_floor")]
    pub floor: f64,
    /// Weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Momentum of SGD and Muon; the first beta of AdamW.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// Second beta of AdamW.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// Largest norm of the gradient; 0 for no limit.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// Steps between validations; 0 validates at the end only.
    #[serde(default)]
    pub validate_every: u64,
    /// Steps between saved states; 0 saves only when stopped.
    #[serde(default)]
    pub save_every: u64,
    /// Validations without improvement after which training stops; 0 never.
    #[serde(default)]
    pub patience: u64,
}

fn one() -> usize {
    1
}

fn default_floor() -> f64 {
    0.1
}

fn default_momentum() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_clip() -> f64 {
    1.0
}

/// The structure of the linear weights. Embedding, head, first and last layer of a classifier stay dense.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "name", rename_all = "kebab-case")]
pub enum MethodRecipe {
    /// No structure.
    #[default]
    Dense,
    /// N:M from scratch with straight-through gradients.
    SrSte(SrSte),
    /// Low rank plus a random fixed sparse part.
    Sltrain(SlTrain),
    /// Low rank alone.
    LowRank(LowRank),
    /// Small dense bases times sparse coefficients, both trained.
    Dsformer(Dsformer),
}

impl MethodRecipe {
    /// The method's slug.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::SrSte(_) => "sr-ste",
            Self::Sltrain(_) => "sltrain",
            Self::LowRank(_) => "low-rank",
            Self::Dsformer(_) => "dsformer",
        }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// If the text is no TOML, has an unknown key or lacks one, or asks for the impossible.
    pub fn parse(text: &str) -> Result<Self, TrainError> {
        let recipe: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            TrainError::Recipe(format!("line {line}: {}", e.message().replace('\n', " ")))
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), TrainError> {
        let t = &self.training;
        let ensure = |holds: bool, what: String| if holds { Ok(()) } else { Err(TrainError::Recipe(what)) };
        ensure(t.batch > 0, "`batch` is 0".into())?;
        ensure(
            t.accumulate > 0 && t.batch.is_multiple_of(t.accumulate),
            format!("a batch of {} cannot be run in {} equal parts", t.batch, t.accumulate),
        )?;
        ensure(
            t.learning_rate > 0.0 && t.learning_rate.is_finite(),
            format!("a learning rate of {} is not positive", t.learning_rate),
        )?;
        for (name, value) in [("floor", t.floor), ("momentum", t.momentum), ("beta2", t.beta2)] {
            ensure((0.0..=1.0).contains(&value), format!("`{name}` is {value}, not in 0..1"))?;
        }
        for (name, value) in [("weight_decay", t.weight_decay), ("clip", t.clip)] {
            ensure(value >= 0.0 && value.is_finite(), format!("`{name}` is {value}, not 0 or more"))?;
        }
        ensure(
            (0.0..1.0).contains(&self.data.held_out),
            format!("`held_out` is {}, not in 0..1", self.data.held_out),
        )?;
        ensure(self.data.sequence > 0, "`sequence` is 0".into())?;
        ensure(
            self.data.repeat.is_empty() || self.data.repeat.len() == self.data.text.len(),
            format!("`repeat` has {} numbers for {} texts", self.data.repeat.len(), self.data.text.len()),
        )?;
        match &self.method {
            MethodRecipe::Dense => Ok(()),
            MethodRecipe::SrSte(m) => m.check().map_err(TrainError::Recipe),
            MethodRecipe::Sltrain(m) => m.check().map_err(TrainError::Recipe),
            MethodRecipe::LowRank(m) => m.check().map_err(TrainError::Recipe),
            MethodRecipe::Dsformer(m) => m.check().map_err(TrainError::Recipe),
        }
    }

    /// The optimiser.
    pub fn optimiser(&self) -> Box<dyn Optimiser<f32>> {
        let t = &self.training;
        let adam = |bits| {
            let mut adam = AdamW::new(t.weight_decay, bits);
            adam.betas = (t.momentum, t.beta2);
            Box::new(adam)
        };
        match t.optimiser {
            OptimiserKind::Adamw => adam(StateBits::Full),
            OptimiserKind::Adamw8bit => adam(StateBits::Eight),
            OptimiserKind::Sgd => Box::new(Sgd::new(t.momentum, false, t.weight_decay)),
            OptimiserKind::Muon => {
                let hidden = |p: &sparseland_tape::Parameter<f32>| {
                    !p.name.contains("embed") && !p.name.contains("lm_head")
                };
                // AdamW likes a tenth of Muon's usual 0.02.
                let mut muon = Muon::new(hidden, t.weight_decay, 0.1);
                muon.momentum = t.momentum;
                Box::new(muon)
            }
        }
    }

    /// The learning rates.
    pub fn schedule(&self) -> Schedule {
        let t = &self.training;
        Schedule {
            peak: t.learning_rate,
            warmup: t.warmup,
            total: t.steps,
            floor: t.floor,
            decay: match t.schedule {
                DecayKind::Cosine => Decay::Cosine,
                DecayKind::Linear => Decay::Linear,
                DecayKind::Constant => Decay::Constant,
            },
        }
    }
}
