//! The singular values of all layers, and one threshold over them.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, DType, TensorFile, TensorSpec, TensorWriter, read_typed};
use sparseland_linalg::svd_values;
use sparseland_matrix::{Layout, LinearMap, ValueType};
use sparseland_nn::{Block, LinearSite, LoadOptions, ModelConfig};

use crate::CompressError;
use crate::allocation::{Allocation, Budget, ErrorSpace, LayerProfile, Objective, PLAN_VERSION, Plan};
use crate::methods::svd::tail;
use crate::problem::{Accounting, Candidate, Errors, FactorShape, inputs_first};

/// How spectra are made comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// `(s_t - s_p) / (s_1 - s_p)` (the paper).
    #[default]
    MinMax,
    /// The relative norm of what is left from `s_t` on, `sqrt(sum_{u >= t} s_u² / sum s²)`.
    Energy,
}

impl Normalise {
    /// The score of every singular value (given in descending order): falling, 1 for the first. All 1 where the
    /// spectrum is constant: nothing tells the directions apart, so none goes before a threshold above 1.
    pub fn scores(self, s: &[f64]) -> Vec<f64> {
        let (Some(&first), Some(&last)) = (s.first(), s.last()) else { return Vec::new() };
        if first <= last {
            // A matrix of zeros is of any rank: one direction stays.
            let rest = if first > 0.0 { 1.0 } else { 0.0 };
            return (0..s.len()).map(|t| if t == 0 { 1.0 } else { rest }).collect();
        }
        match self {
            Self::MinMax => s.iter().map(|v| (v - last) / (first - last)).collect(),
            Self::Energy => {
                let mut left = 0.0;
                let mut scores: Vec<f64> = s
                    .iter()
                    .rev()
                    .map(|v| {
                        left += v * v;
                        left
                    })
                    .collect();
                scores.reverse();
                let all = scores[0];
                scores.iter().map(|v| (v / all).sqrt()).collect()
            }
        }
    }
}

/// One layer's singular values.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    /// The layer's full name.
    pub name: String,
    /// Its structure as stored now.
    pub dense: Layout,
    /// In descending order.
    pub values: Vec<f64>,
}

/// The singular values of all linear layers of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spectra {
    /// In the network's order.
    pub layers: Vec<Spectrum>,
}

/// What a threshold shall reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// This share of all ranks is dropped (the paper's effective rank reduction).
    Ranks(f64),
    /// This share of the parameters of all layers is removed, layers that would grow staying dense.
    Parameters(f64),
    /// The threshold itself, from 0 to 1.
    Threshold(f64),
}

/// A threshold and what it reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Singular values whose score is below it are dropped.
    pub value: f64,
    /// The share of all ranks that it drops.
    pub ranks: f64,
    /// The share of all parameters that it removes.
    pub parameters: f64,
    /// Whether the target was met as closely as single singular values allow; if not, this is the nearest that can be
    /// had.
    pub reached: bool,
}

/// What fine-tuning does with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Low-rank component: its factors are trained.
    LowRank,
    /// Stays frozen.
    Other,
}

/// One row of the table of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitLayer {
    /// The layer's full name.
    pub name: String,
    /// The smaller side, `p`.
    pub full: usize,
    /// The rank kept, `r`.
    pub rank: usize,
    /// `r < cut p`, and stored as factors.
    pub class: Class,
    /// Whether it is stored as factors.
    pub factored: bool,
    /// Dense parameters.
    pub before: u64,
    /// Parameters as stored.
    pub after: u64,
}

impl Spectra {
    /// Of all linear layers of a model; read from `cache` if that holds those of this model, else written there.
    ///
    /// # Errors
    /// If a layer cannot be loaded (the message names it) or a decomposition fails; if the cache cannot be written.
    pub fn analyze(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        cache: Option<&Path>,
        context: &Context,
    ) -> Result<Self, CompressError> {
        let key = format!("{} {}", checkpoint.dir().display(), checkpoint.file_bytes());
        if let Some(found) = cache.and_then(|path| Self::read(path, &key)) {
            return Ok(found);
        }
        let blocks = config.num_hidden_layers;
        context.report(Event::Stage { name: "spectra", total: blocks });
        let mut layers = Vec::new();
        for index in 0..blocks {
            context.check_cancelled()?;
            let block = Block::load(checkpoint, config, index, &LoadOptions::default())?;
            let of = |site: &LinearSite| {
                let (name, weight) = (site.full_name(index), &block.linear(*site).weight);
                let values = svd_values(&inputs_first(weight));
                let values = values.map_err(|e| CompressError::from(e).in_layer(&name))?;
                Ok(Spectrum { name, dense: weight.layout(), values })
            };
            let found: Vec<Spectrum> = context
                .install(|| LinearSite::ALL.par_iter().map(of).collect::<Result<_, CompressError>>())?;
            layers.extend(found);
            context.report(Event::Step { done: index + 1, message: "" });
        }
        let spectra = Self { layers };
        if let Some(path) = cache {
            spectra.save(path, &key)?;
        }
        Ok(spectra)
    }

    fn read(path: &Path, key: &str) -> Option<Self> {
        let file = TensorFile::open(path).ok()?;
        (file.metadata().get("of")? == key).then_some(())?;
        let layouts: Vec<(String, Layout)> = serde_json::from_str(file.metadata().get("layers")?).ok()?;
        let read = |(name, dense): (String, Layout)| {
            let values = read_typed(&file, &name).ok()?;
            Some(Spectrum { name, dense, values })
        };
        Some(Self { layers: layouts.into_iter().map(read).collect::<Option<_>>()? })
    }

    fn save(&self, path: &Path, key: &str) -> Result<(), CompressError> {
        let layouts: Vec<_> = self.layers.iter().map(|l| (&l.name, &l.dense)).collect();
        let layouts = serde_json::to_string(&layouts).expect("layouts serialise");
        let metadata = [("of".to_owned(), key.to_owned()), ("layers".to_owned(), layouts)].into();
        let specs: Vec<_> = self
            .layers
            .iter()
            .map(|l| TensorSpec::new(l.name.as_str(), DType::F64, [l.values.len()]))
            .collect();
        let mut writer = TensorWriter::create(path, &specs, &metadata)?;
        for layer in &self.layers {
            writer.write_typed(&layer.name, &layer.values)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// How many singular values of every layer score at least the threshold; never none.
    pub fn ranks(&self, threshold: f64, normalise: Normalise) -> Vec<usize> {
        let kept = |s: &Spectrum| normalise.scores(&s.values).iter().filter(|&&n| n >= threshold).count();
        self.layers.iter().map(|s| kept(s).max(1)).collect()
    }

    /// The threshold for a target: the closest share of ranks that whole singular values allow, or the smallest
    /// threshold that removes the share of parameters. By [`Normalise::MinMax`] the smallest value of every layer scores
    /// 0, so that these go together.
    ///
    /// # Errors
    /// If the target lies outside `[0, 1)` (a threshold outside `[0, 1]`) or there are no layers.
    pub fn threshold(&self, target: Target, normalise: Normalise) -> Result<Threshold, CompressError> {
        let scores: Vec<Vec<f64>> = self.layers.iter().map(|s| normalise.scores(&s.values)).collect();
        // The first of each layer never goes.
        let mut pooled: Vec<f64> = scores.iter().flat_map(|s| s.iter().skip(1).copied()).collect();
        pooled.sort_by(f64::total_cmp);
        let all: usize = scores.iter().map(Vec::len).sum();
        if all == 0 {
            return Err(CompressError::Setting("a threshold needs at least one layer".into()));
        }
        let outside = |what: &str, v: f64| {
            Err(CompressError::Setting(format!("{what} is {v}; give a number from 0 to below 1")))
        };
        // Thresholds that drop ever more: 0 drops nothing, then each distinct value drops all below it, then 1.
        let mut steps: Vec<(f64, usize)> = vec![(0.0, 0)];
        for (i, &v) in pooled.iter().enumerate() {
            if i > 0 && v > pooled[i - 1] && v <= 1.0 {
                steps.push((v, i));
            }
        }
        if pooled.last().is_some_and(|&v| v < 1.0) {
            steps.push((1.0, pooled.len()));
        }
        let parameters = |threshold: f64| {
            let (mut before, mut after) = (0, 0);
            for (layer, rank) in self.layers.iter().zip(self.ranks(threshold, normalise)) {
                let [dense, factored] = sizes(&layer.dense, rank);
                before += dense;
                after += dense.min(factored);
            }
            1.0 - after as f64 / before.max(1) as f64
        };
        let (value, reached) = match target {
            Target::Threshold(v) if (0.0..=1.0).contains(&v) => (v, true),
            Target::Threshold(v) => {
                return Err(CompressError::Setting(format!(
                    "the threshold is {v}; give a number from 0 to 1"
                )));
            }
            Target::Ranks(share) if (0.0..1.0).contains(&share) => {
                let wanted = share * all as f64;
                let distance = |s: &(f64, usize)| (s.1 as f64 - wanted).abs();
                let best =
                    steps.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("not empty");
                (best.0, distance(best) < 1.0)
            }
            Target::Parameters(share) if (0.0..1.0).contains(&share) => {
                let first = steps.partition_point(|s| parameters(s.0) < share);
                let reached = first < steps.len();
                (steps[first.min(steps.len() - 1)].0, reached)
            }
            Target::Ranks(v) => return outside("the share of ranks", v),
            Target::Parameters(v) => return outside("the share of parameters", v),
        };
        let kept: usize = self.ranks(value, normalise).iter().sum();
        let ranks = 1.0 - kept as f64 / all as f64;
        Ok(Threshold { value, ranks, parameters: parameters(value), reached })
    }

    /// The table of classes for given ranks: a layer that keeps less than `cut` of its ranks is a low-rank component. With
    /// `if_smaller` (the default of everything here) a layer whose factors would store more than it does stays dense.
    pub fn split(&self, ranks: &[usize], cut: f64, if_smaller: bool) -> Vec<SplitLayer> {
        let row = |(layer, &rank): (&Spectrum, &usize)| {
            let [before, factors] = sizes(&layer.dense, rank);
            let full = layer.values.len();
            let factored = rank < full && (factors < before || !if_smaller);
            let low = factored && (rank as f64) < cut * full as f64;
            SplitLayer {
                name: layer.name.clone(),
                full,
                rank,
                class: if low { Class::LowRank } else { Class::Other },
                factored,
                before,
                after: if factored { factors } else { before },
            }
        };
        self.layers.iter().zip(ranks).map(row).collect()
    }

    /// A plan for the pipeline that stores the factored layers of a split at their ranks and leaves the others as they
    /// are. Its options hold the dense layer and the chosen size only.
    pub fn plan(&self, split: &[SplitLayer], values: Option<ValueType>) -> Plan {
        let mut layers = Vec::new();
        let mut objective = 0.0;
        for (spectrum, row) in self.layers.iter().zip(split) {
            let mut profile = LayerProfile::new(row.name.clone(), &spectrum.dense);
            if row.factored {
                let Layout::Dense { rows, cols, values: own } = spectrum.dense else { continue };
                let shape = FactorShape { k: row.rank, s: row.rank };
                let layout = shape.layout(cols, rows, values.unwrap_or(own));
                let error = tail(&spectrum.values, row.rank);
                objective += error * error * row.before as f64;
                let errors = Errors { weight: error, output: error };
                let removed = 1.0 - row.after as f64 / row.before.max(1) as f64;
                profile.push(removed, Candidate { layout, errors, marginal: None });
            }
            layers.push(profile);
        }
        let picks: Vec<usize> = layers.iter().map(|l| l.options.len() - 1).collect();
        let total: u64 = split.iter().map(|l| l.before).sum();
        let cost: u64 = split.iter().map(|l| l.after).sum();
        Plan {
            version: PLAN_VERSION,
            method: "welore".into(),
            values: values.unwrap_or(ValueType::F32),
            budget: Budget {
                remove: (1.0 - cost as f64 / total.max(1) as f64).max(0.0),
                accounting: Accounting::Params,
                allocation: Allocation::Threshold,
                objective: Objective::SquaredParams,
                error_space: ErrorSpace::Weight,
            },
            total,
            allowed: cost,
            cost,
            objective,
            // No bound was computed.
            lower_bound: 0.0,
            uniform_objective: None,
            picks,
            layers,
        }
    }
}

/// Parameters dense and as factors of a rank.
fn sizes(dense: &Layout, rank: usize) -> [u64; 2] {
    let (rows, cols) = (dense.rows() as u64, dense.cols() as u64);
    [rows * cols, rank as u64 * (rows + cols)]
}
