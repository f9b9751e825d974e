//! Spreading one global budget over the layers: uniformly, by an exact multiple-choice knapsack over each
//! layer's options (ROCKET, sections D and E), or by one global threshold on a score of every option:
//!
//! | allocation | score | source |
//! |---|---|---|
//! | `threshold` | the method's own: normalised singular value, mask score | WeLore |
//! | `tail-energy` | relative output error | whitened tails, as in SVD-LLM's successors |
//! | `owl` | removed fraction, shifted by the block's share of outliers | Yin et al., arXiv 2310.05175 |
//! | `sensitivity` | what the calibration loss gains by this layer alone | ASVD, arXiv 2312.05821 |
//!
//! Every plan carries a certificate: the knapsack's lower bound on the objective under the same
//! budget, and the objective that the uniform allocation reaches.

use serde::{Deserialize, Serialize};
use sparseland_core::Context;
use sparseland_linalg::Mat;
use sparseland_matrix::{Layout, ValueType};
use sparseland_optim::knapsack::{Choice, Knapsack, KnapsackError};

use crate::CompressError;
use crate::problem::{Accounting, Candidate, Errors};
use crate::statistics::InputStatistics;

/// One way to store a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerOption {
    /// The grid point: the fraction of the layer that the option was asked to remove.
    pub removed: f64,
    /// The structure; `None` leaves the layer as it is.
    pub layout: Option<Layout>,
    /// Stored values.
    pub params: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Relative errors.
    pub errors: Errors,
    /// The method's own score of the best that was dropped ([`Candidate::marginal`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marginal: Option<f64>,
    /// What the calibration loss gains when this layer alone is stored so, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
}

impl LayerOption {
    fn cost(&self, accounting: Accounting) -> u64 {
        match accounting {
            Accounting::Params => self.params,
            Accounting::Bytes => self.bytes,
        }
    }
}

/// A layer with its options; the first leaves it dense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// The layer's full name.
    pub name: String,
    /// `d1`.
    pub inputs: usize,
    /// `d2`.
    pub outputs: usize,
    /// The layer stays dense by the caller's wish; it counts in no budget.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
    /// Share of the weights whose effect `|W_ij| ||x_j||` is beyond [`OUTLIER`] times the layer's mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<f64>,
    /// The options.
    pub options: Vec<LayerOption>,
}

impl LayerProfile {
    /// A profile with the dense option only.
    pub fn new(name: String, dense: &Layout) -> Self {
        let dense_option = LayerOption {
            removed: 0.0,
            layout: None,
            params: dense.parameters(),
            bytes: dense.stored_bytes(),
            errors: Errors::NONE,
            marginal: None,
            sensitivity: None,
        };
        Self {
            name,
            inputs: dense.cols(),
            outputs: dense.rows(),
            ignored: false,
            outliers: None,
            options: vec![dense_option],
        }
    }

    /// Adds an option unless it stores as much as the dense layer or is there already; says whether it did.
    pub fn push(&mut self, removed: f64, Candidate { layout, errors, marginal }: Candidate) -> bool {
        let (params, bytes) = (layout.parameters(), layout.stored_bytes());
        let dense = &self.options[0];
        let known = self.options.iter().any(|o| o.layout.as_ref() == Some(&layout));
        let useful = params < dense.params && bytes < dense.bytes && !known;
        if useful {
            let layout = Some(layout);
            let option = LayerOption { removed, layout, params, bytes, errors, marginal, sensitivity: None };
            self.options.push(option);
        }
        useful
    }

    /// The part of the name that the layers of one block share.
    fn block(&self) -> &str {
        self.name.match_indices('.').nth(2).map_or(&self.name, |(at, _)| &self.name[..at])
    }

    /// What an option costs the budget.
    fn cost(&self, option: usize, accounting: Accounting) -> u64 {
        if self.ignored { 0 } else { self.options[option].cost(accounting) }
    }

    fn dense_cost(&self, accounting: Accounting) -> u64 {
        self.cost(0, accounting)
    }
}

/// How the budget is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// Every layer gives the same fraction.
    Uniform,
    /// The knapsack decides.
    Knapsack,
    /// One global threshold on the method's own scores: normalised singular values (WeLore), mask scores.
    Threshold,
    /// The same relative output error in every layer.
    TailEnergy,
    /// Blocks with more outliers keep more (OWL).
    Owl,
    /// One global threshold on what the calibration loss gains by each layer alone (ASVD).
    Sensitivity,
}

impl Allocation {
    /// The name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Knapsack => "knapsack",
            Self::Threshold => "threshold",
            Self::TailEnergy => "tail-energy",
            Self::Owl => "owl",
            Self::Sensitivity => "sensitivity",
        }
    }
}

/// OWL's `M`: how many times the mean makes an outlier.
pub const OUTLIER: f64 = 5.0;

/// OWL's `lambda`: half the width of the range of removed fractions.
pub const OWL_RANGE: f64 = 0.08;

/// Share of the weights whose effect `|W_ij| ||x_j||` is beyond [`OUTLIER`] times the layer's mean; `weight`
/// is `d1 x d2`, inputs first.
pub fn outlier_ratio(weight: &Mat<f64>, inputs: &InputStatistics) -> f64 {
    let effect = |i: usize, w: f64| w.abs() * inputs.squares[i].sqrt();
    let all = || (0..weight.rows).flat_map(|i| weight.row(i).iter().map(move |&w| effect(i, w)));
    let count = (weight.rows * weight.cols).max(1) as f64;
    let bar = OUTLIER * all().sum::<f64>() / count;
    all().filter(|&e| e > bar).count() as f64 / count
}

/// What the knapsack minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Sum of squared relative errors times the layer's dense parameters: our default, robust without
    /// any cap.
    SquaredParams,
    /// Sum of relative errors with the cap of the paper's step D: the faithful mode.
    Paper,
}

/// Which error the objective looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorSpace {
    /// `||W - W~|| / ||W||`, the paper's.
    Weight,
    /// The output error on the calibration data.
    Output,
}

/// Everything that decides an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The fraction of all targeted layers to remove, in `[0, 1)`.
    pub remove: f64,
    /// What is counted.
    pub accounting: Accounting,
    /// How it is spread.
    pub allocation: Allocation,
    /// What the knapsack minimises.
    pub objective: Objective,
    /// Which error it looks at.
    pub error_space: ErrorSpace,
}

impl Budget {
    fn error(&self, profile: &LayerProfile, option: &LayerOption) -> f64 {
        let error = match self.error_space {
            ErrorSpace::Weight => option.errors.weight,
            ErrorSpace::Output => option.errors.output,
        };
        match self.objective {
            Objective::SquaredParams => error * error * profile.options[0].params as f64,
            Objective::Paper => error,
        }
    }
}

/// One option per layer within the budget. Written beside the compressed model and replayable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this file's form.
    pub version: u32,
    /// The factorisation method.
    pub method: String,
    /// Type of the stored values.
    pub values: ValueType,
    /// What was asked.
    pub budget: Budget,
    /// Cost of all targeted layers when dense.
    pub total: u64,
    /// The most that the plan may cost.
    pub allowed: u64,
    /// What it costs.
    pub cost: u64,
    /// The objective it reaches.
    pub objective: f64,
    /// No plan within the budget has a smaller objective than this.
    pub lower_bound: f64,
    /// The objective of the uniform allocation under the same budget, where it is feasible.
    pub uniform_objective: Option<f64>,
    /// Index of the chosen option of every layer.
    pub picks: Vec<usize>,
    /// The layers with all their options.
    pub layers: Vec<LayerProfile>,
}

/// The current [`Plan::version`].
pub const PLAN_VERSION: u32 = 2;

impl Plan {
    /// The chosen option of layer `index`.
    pub fn choice(&self, index: usize) -> &LayerOption {
        &self.layers[index].options[self.picks[index]]
    }

    /// The fraction removed, by parameters or bytes.
    pub fn removed(&self, accounting: Accounting) -> f64 {
        let total: u64 = self.layers.iter().map(|l| l.dense_cost(accounting)).sum();
        let kept: u64 = (0..self.layers.len()).map(|i| self.layers[i].cost(self.picks[i], accounting)).sum();
        if total == 0 { 0.0 } else { 1.0 - kept as f64 / total as f64 }
    }
}

/// Chooses an option for every layer.
///
/// # Errors
/// [`CompressError::Infeasible`] with the feasible range; [`CompressError::Fraction`].
pub fn allocate(
    method: &str,
    values: ValueType,
    layers: Vec<LayerProfile>,
    budget: Budget,
    context: &Context,
) -> Result<Plan, CompressError> {
    if !(0.0..1.0).contains(&budget.remove) {
        return Err(CompressError::Fraction(budget.remove));
    }
    let total: u64 = layers.iter().map(|l| l.dense_cost(budget.accounting)).sum();
    let allowed = ((1.0 - budget.remove) * total as f64 + 1e-6).floor() as u64;
    let uniform = uniform(&layers, &budget);
    let knapsack = context.install(|| knapsack(&layers, &budget, total, allowed))?;
    let score = |picks: &[usize]| -> f64 {
        layers.iter().zip(picks).map(|(l, &p)| budget.error(l, &l.options[p])).sum()
    };
    let picks = match budget.allocation {
        Allocation::Uniform => uniform.clone(),
        Allocation::Knapsack => Some(knapsack.picks),
        _ => by_threshold(&layers, &budget, allowed)?,
    };
    let Some(picks) = picks else { return Err(infeasible(&layers, &budget, total)) };
    let cost = layers.iter().zip(&picks).map(|(l, &p)| l.cost(p, budget.accounting)).sum();
    assert!(cost <= allowed, "an allocation exceeded its budget: a bug in the knapsack");
    Ok(Plan {
        version: PLAN_VERSION,
        method: method.to_owned(),
        values,
        budget,
        total,
        allowed,
        cost,
        objective: score(&picks),
        lower_bound: knapsack.lower_bound,
        uniform_objective: uniform.as_deref().map(score),
        picks,
        layers,
    })
}

/// For every layer its best option that removes the asked fraction of the layer itself.
fn uniform(layers: &[LayerProfile], budget: &Budget) -> Option<Vec<usize>> {
    let pick = |layer: &LayerProfile| {
        if layer.ignored {
            return Some(0);
        }
        let allowed = (1.0 - budget.remove) * layer.dense_cost(budget.accounting) as f64 + 1e-6;
        let fits = |o: &&(usize, &LayerOption)| o.1.cost(budget.accounting) as f64 <= allowed;
        let options: Vec<_> = layer.options.iter().enumerate().collect();
        let error = |o: &LayerOption| budget.error(layer, o);
        options.iter().filter(fits).min_by(|a, b| error(a.1).total_cmp(&error(b.1))).map(|o| o.0)
    };
    layers.iter().map(pick).collect()
}

/// The allocations by one global threshold: starting from dense layers, the step to the next smaller option
/// that scores lowest is taken until the budget is met. Scores are made rising within a layer by their
/// running maximum. `None` if even the smallest options cost too much.
fn by_threshold(
    layers: &[LayerProfile],
    budget: &Budget,
    allowed: u64,
) -> Result<Option<Vec<usize>>, CompressError> {
    let shifts = match budget.allocation {
        Allocation::Owl => owl_shifts(layers)?,
        _ => vec![0.0; layers.len()],
    };
    let score = |layer: usize, option: &LayerOption| match budget.allocation {
        Allocation::Threshold => option.marginal,
        Allocation::Sensitivity => option.sensitivity,
        Allocation::TailEnergy => Some(option.errors.output),
        _ => Some(option.removed + shifts[layer]),
    };
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let mut order: Vec<usize> = (1..layer.options.len()).collect();
        order.sort_by_key(|&o| std::cmp::Reverse(layer.options[o].cost(budget.accounting)));
        let mut highest = f64::NEG_INFINITY;
        for option in order {
            let name = budget.allocation.name();
            let score = score(index, &layer.options[option]).ok_or(CompressError::NoScore(name))?;
            highest = highest.max(score);
            steps.push((highest, index, option));
        }
    }
    // Stable: steps of one layer stay in order where their scores are equal.
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut picks = vec![0; layers.len()];
    let mut cost: u64 = layers.iter().map(|l| l.dense_cost(budget.accounting)).sum();
    for (_, layer, option) in steps {
        if cost <= allowed {
            break;
        }
        let of = |o: usize| layers[layer].options[o].cost(budget.accounting);
        cost = cost - of(picks[layer]) + of(option);
        picks[layer] = option;
    }
    Ok((cost <= allowed).then_some(picks))
}

/// How much more than the mean block each layer's block keeps, within a range of `2 lambda`.
fn owl_shifts(layers: &[LayerProfile]) -> Result<Vec<f64>, CompressError> {
    let mut blocks: std::collections::BTreeMap<&str, (f64, f64)> = Default::default();
    for layer in layers.iter().filter(|l| !l.ignored) {
        let ratio = layer.outliers.ok_or(CompressError::NoScore("owl"))?;
        let size = (layer.inputs * layer.outputs) as f64;
        let entry = blocks.entry(layer.block()).or_default();
        *entry = (entry.0 + ratio * size, entry.1 + size);
    }
    let ratio = |block: &str| blocks[block].0 / blocks[block].1.max(1.0);
    let ratios: Vec<f64> = blocks.keys().map(|b| ratio(b)).collect();
    let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(l, h), &r| (l.min(r), h.max(r)));
    let scaled = |r: f64| if high > low { (r - low) / (high - low) * 2.0 * OWL_RANGE } else { 0.0 };
    let mean = ratios.iter().map(|&r| scaled(r)).sum::<f64>() / ratios.len().max(1) as f64;
    let shift = |l: &LayerProfile| if l.ignored { 0.0 } else { scaled(ratio(l.block())) - mean };
    Ok(layers.iter().map(shift).collect())
}

fn knapsack(
    layers: &[LayerProfile],
    budget: &Budget,
    total: u64,
    allowed: u64,
) -> Result<sparseland_optim::knapsack::Solution, CompressError> {
    let solve = |cap: f64| {
        let (kept, groups) = capped(layers, budget, cap);
        let mut solution = Knapsack::default().solve(&groups, allowed)?;
        for (pick, kept) in solution.picks.iter_mut().zip(&kept) {
            *pick = kept[*pick];
        }
        Ok::<_, KnapsackError>(solution)
    };
    let result = match budget.objective {
        Objective::SquaredParams => solve(f64::INFINITY),
        Objective::Paper => {
            // Reference: the mean error at the asked fraction; the cap is its smallest multiple that
            // leaves a feasible choice, searched in steps of a tenth as in the paper, beyond 2 if needed.
            let at_target: Vec<f64> = layers
                .iter()
                .filter_map(|layer| {
                    let fits = layer.options.iter().filter(|o| o.removed >= budget.remove - 1e-9);
                    fits.map(|o| budget.error(layer, o)).min_by(f64::total_cmp)
                })
                .collect();
            let reference = at_target.iter().sum::<f64>() / at_target.len().max(1) as f64;
            (10..=100)
                .find_map(|alpha| solve(reference * f64::from(alpha) / 10.0).ok())
                .map_or_else(|| solve(f64::INFINITY), Ok)
        }
    };
    result.map_err(|error| match error {
        KnapsackError::Infeasible { .. } => infeasible(layers, budget, total),
        other => other.into(),
    })
}

/// The options whose error is within the cap (a layer with none keeps its best), and their original
/// indices.
fn capped(layers: &[LayerProfile], budget: &Budget, cap: f64) -> (Vec<Vec<usize>>, Vec<Vec<Choice>>) {
    let mut indices = Vec::with_capacity(layers.len());
    let mut groups = Vec::with_capacity(layers.len());
    for layer in layers {
        let error = |i: &usize| budget.error(layer, &layer.options[*i]);
        // The dense option has no error: something always remains.
        let kept: Vec<usize> = (0..layer.options.len()).filter(|i| error(i) <= cap).collect();
        let choice = |i: &usize| Choice { cost: layer.cost(*i, budget.accounting), error: error(i) };
        groups.push(kept.iter().map(choice).collect());
        indices.push(kept);
    }
    (indices, groups)
}

fn infeasible(layers: &[LayerProfile], budget: &Budget, total: u64) -> CompressError {
    let least: u64 = match budget.allocation {
        // Uniform stops where the first layer cannot follow.
        Allocation::Uniform => {
            let share = |l: &LayerProfile| {
                let least = (0..l.options.len()).map(|o| l.cost(o, budget.accounting)).min().unwrap_or(0);
                least as f64 / l.dense_cost(budget.accounting).max(1) as f64
            };
            (layers.iter().map(share).fold(0.0, f64::max) * total as f64).ceil() as u64
        }
        _ => {
            let least = |l: &LayerProfile| {
                (0..l.options.len()).map(|o| l.cost(o, budget.accounting)).min().unwrap_or(0)
            };
            layers.iter().map(least).sum()
        }
    };
    CompressError::Infeasible {
        asked: 100.0 * budget.remove,
        accounting: if budget.accounting == Accounting::Params { "parameters" } else { "bytes" },
        min: 0.0,
        max: 100.0 * (1.0 - least as f64 / total.max(1) as f64),
    }
}
