//! Layers that read only their important inputs (R-Sparse, Zhang et al., 2025, arXiv 2504.19449).
//!
//! For every token the inputs whose importance `|x_j| ||W_:j||` exceeds a fixed threshold are multiplied
//! exactly; the rest passes through a small low-rank path, or is dropped:
//! `y = W (m o x) + U V ((1 - m) o x) + b`. The weight stands column by column, so that the columns of inputs
//! which are skipped are never read.

use serde::{Deserialize, Serialize};
use sparseland_data::TensorSource;
use sparseland_matrix::{Layout, LinearMap, Matrix};

use crate::NnError;
use crate::structure::read_matrix;

/// How a layer selects its inputs, as `config.json` says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRule {
    /// Inputs of a greater importance are kept.
    pub threshold: f32,
    /// Whether importances are weighed by the norms of the weight's columns, which stand in the file.
    pub norms: bool,
    /// The path of the inputs that are not kept; without one they are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_rank: Option<Layout>,
    /// Whether prompts and scored texts are treated like decoded tokens; else they are multiplied in full.
    pub all_tokens: bool,
}

/// Selects the inputs of one layer.
#[derive(Debug, Clone)]
pub struct InputSelection {
    /// The rule.
    pub rule: InputRule,
    /// Norms of the weight's columns, where the rule asks for them.
    pub norms: Option<Vec<f32>>,
    /// The path of the inputs that are not kept.
    pub low_rank: Option<Matrix>,
}

/// Names of the tensors beside a layer.
pub(crate) fn names(layer: &str) -> (String, String) {
    (format!("{layer}.inputs.norms"), format!("{layer}.inputs.low_rank"))
}

impl InputSelection {
    /// Reads the tensors of a rule.
    ///
    /// # Errors
    /// If one is missing, misshapen or not finite.
    pub(crate) fn read(
        source: &(impl TensorSource + ?Sized),
        layer: &str,
        rule: &InputRule,
        (outputs, inputs): (usize, usize),
    ) -> Result<Self, NnError> {
        let (norms_name, low_rank_name) = names(layer);
        let norms = match rule.norms {
            true => {
                source.expect_shape(&norms_name, &[inputs])?;
                Some(source.read_f32_finite(&norms_name)?)
            }
            false => None,
        };
        let low_rank = match &rule.low_rank {
            Some(layout) if (layout.rows(), layout.cols()) == (outputs, inputs) => {
                Some(read_matrix(source, &low_rank_name, layout)?)
            }
            Some(layout) => {
                let (rows, cols) = (layout.rows(), layout.cols());
                return Err(NnError::Config(format!(
                    "the low-rank path of {layer} is {rows} x {cols}, the layer {outputs} x {inputs}"
                )));
            }
            None => None,
        };
        Ok(Self { rule: rule.clone(), norms, low_rank })
    }

    /// Parts `x` in place: what is not kept is set to zero and stands in the result instead, which is empty
    /// where nothing reads it. NaN is kept.
    fn part(&self, x: &mut [f32]) -> Vec<f32> {
        let mut rest = vec![0.0; if self.low_rank.is_some() { x.len() } else { 0 }];
        let width = self.norms.as_ref().map_or(x.len().max(1), Vec::len);
        for (i, value) in x.iter_mut().enumerate() {
            let norm = self.norms.as_ref().map_or(1.0, |n| n[i % width]);
            if value.abs() * norm <= self.rule.threshold {
                let value = std::mem::take(value);
                if let Some(slot) = rest.get_mut(i) {
                    *slot = value;
                }
            }
        }
        rest
    }

    /// `Y = W (M o X) + U V ((1 - M) o X)` for `batch` rows.
    pub(crate) fn forward(&self, weight: &Matrix, x: &[f32], batch: usize, y: &mut [f32]) {
        let mut kept = x.to_vec();
        let rest = self.part(&mut kept);
        let apply = |w: &Matrix, x: &[f32], y: &mut [f32]| match batch {
            1 => w.apply(x, y),
            _ => w.apply_batch(x, batch, y),
        };
        apply(weight, &kept, y);
        if let Some(low_rank) = &self.low_rank {
            let mut correction = vec![0.0; y.len()];
            apply(low_rank, &rest, &mut correction);
            y.iter_mut().zip(&correction).for_each(|(y, c)| *y += c);
        }
    }

    /// The share of inputs that `x` (rows of inputs) keeps.
    pub fn kept_share(&self, x: &[f32]) -> f64 {
        let width = self.norms.as_ref().map_or(x.len().max(1), Vec::len);
        let norm = |i: usize| self.norms.as_ref().map_or(1.0, |n| n[i % width]);
        let kept = x.iter().enumerate().filter(|(i, v)| v.abs() * norm(*i) > self.rule.threshold).count();
        kept as f64 / x.len().max(1) as f64
    }
}
