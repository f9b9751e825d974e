//! What a compression did, as one object and as a closing table.

use serde::Serialize;
use sparseland_compress::allocation::Plan;
use sparseland_compress::pipeline::Compressed;
use sparseland_compress::problem::{Accounting, Errors, FactorShape};
use sparseland_data::Checkpoint;
use sparseland_eval::table::{Column, Table, human_bytes, human_seconds};
use sparseland_matrix::Layout;

use super::Compress;
use crate::model::Measured;

/// The report of one compression.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// The method's slug.
    pub method: String,
    /// How the budget was spread.
    pub allocation: String,
    /// What the budget counts.
    pub budget: Accounting,
    /// The fraction asked for.
    pub requested_removed: f64,
    /// Of the stored values of the targeted layers.
    pub achieved_removed_params: f64,
    /// Of the bytes of the targeted layers.
    pub achieved_removed_bytes: f64,
    /// Bytes of all tensors.
    pub stored_bytes_before: u64,
    /// Bytes of all tensors.
    pub stored_bytes_after: u64,
    /// Bytes of the weight files.
    pub file_bytes_before: u64,
    /// Bytes of the weight files.
    pub file_bytes_after: u64,
    /// Quality of the original.
    pub bits_per_byte_before: Option<f64>,
    /// Quality of the result.
    pub bits_per_byte_after: Option<f64>,
    /// Decode speed of the original.
    pub decode_tokens_per_second_before: Option<f64>,
    /// Decode speed of the result.
    pub decode_tokens_per_second_after: Option<f64>,
    /// Largest resident memory of this process.
    pub peak_rss_bytes: u64,
    /// Threads used.
    pub threads: usize,
    /// Seed used.
    pub seed: u64,
    /// Seconds of profiling, planning, compressing and writing.
    pub compression_seconds: f64,
    /// Seconds of the whole command, measurements included.
    pub seconds: f64,
    /// What the uniform allocation gives.
    pub uniform: Uniform,
    /// The objective of the plan.
    pub objective: f64,
    /// No plan within the budget has a smaller objective.
    pub lower_bound: f64,
    /// Every targeted layer.
    pub layers: Vec<Layer>,
    /// Where the result is.
    pub out: String,
}

/// The uniform allocation under the same budget.
#[derive(Debug, Serialize)]
pub struct Uniform {
    /// Its quality; the result's own where the allocation is uniform; absent if infeasible or skipped.
    pub bits_per_byte_after: Option<f64>,
    /// Its objective.
    pub objective: Option<f64>,
}

/// One layer of the report.
#[derive(Debug, Serialize)]
pub struct Layer {
    /// Full name.
    pub name: String,
    /// Kind of the stored matrix.
    pub kind: &'static str,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// The fraction that the chosen option was asked to remove.
    pub removed: f64,
    /// Atoms, for factorisations.
    pub k: Option<usize>,
    /// Mean coefficients per output, for factorisations.
    pub s: Option<usize>,
    /// Stored values.
    pub params: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Bytes of the dense layer.
    pub dense_bytes: u64,
    /// Errors of the stored matrix.
    pub errors: Errors,
    /// Condition number of the whitener, where one was used.
    pub condition: Option<f64>,
    /// The whole structure.
    pub layout: Layout,
}

impl Report {
    /// Collects the facts; times are added by [`Report::timed`].
    pub(super) fn new(
        command: &Compress,
        name: &str,
        plan: &Plan,
        compressed: &Compressed,
        (before, after, uniform): (Option<Measured>, Option<Measured>, Option<Measured>),
        original: &Checkpoint,
        result: &Checkpoint,
    ) -> Self {
        let layers = compressed.layers.iter().enumerate().map(|(i, record)| {
            let (planned, option) = (&plan.layers[i], plan.choice(i));
            let shape = option.layout.as_ref().and_then(FactorShape::of);
            Layer {
                name: record.name.clone(),
                kind: record.layout.kind(),
                shape: [planned.outputs, planned.inputs],
                removed: option.removed,
                k: shape.map(|s| s.k),
                s: shape.map(|s| s.s),
                params: record.layout.parameters(),
                bytes: record.layout.stored_bytes(),
                dense_bytes: planned.options[0].bytes,
                errors: record.errors,
                condition: record.condition,
                layout: record.layout.clone(),
            }
        });
        let layers: Vec<Layer> = layers.collect();
        let removed = |before: u64, after: u64| 1.0 - after as f64 / before.max(1) as f64;
        let sum = |f: &dyn Fn(&Layer) -> u64| layers.iter().map(f).sum::<u64>();
        let dense_params: u64 = plan.layers.iter().map(|l| l.options[0].params).sum();
        let is_uniform = plan.budget.allocation == sparseland_compress::allocation::Allocation::Uniform;
        let quality = |m: &Option<Measured>| m.as_ref().map(|m| m.bits_per_byte);
        let speed = |m: &Option<Measured>| m.as_ref().and_then(|m| m.decode_tokens_per_second);
        Self {
            model: name.to_owned(),
            method: command.method.clone(),
            allocation: plan.budget.allocation.name().to_owned(),
            budget: plan.budget.accounting,
            requested_removed: plan.budget.remove,
            achieved_removed_params: removed(dense_params, sum(&|l| l.params)),
            achieved_removed_bytes: removed(sum(&|l| l.dense_bytes), sum(&|l| l.bytes)),
            stored_bytes_before: original.data_bytes(),
            stored_bytes_after: result.data_bytes(),
            file_bytes_before: original.file_bytes(),
            file_bytes_after: result.file_bytes(),
            bits_per_byte_before: quality(&before),
            bits_per_byte_after: quality(&after),
            decode_tokens_per_second_before: speed(&before),
            decode_tokens_per_second_after: speed(&after),
            peak_rss_bytes: 0,
            threads: 0,
            seed: 0,
            compression_seconds: 0.0,
            seconds: 0.0,
            uniform: Uniform {
                bits_per_byte_after: if is_uniform { quality(&after) } else { quality(&uniform) },
                objective: plan.uniform_objective,
            },
            objective: plan.objective,
            lower_bound: plan.lower_bound,
            layers,
            out: command.out.display().to_string(),
        }
    }

    /// Adds what is known only at the end.
    pub(super) fn timed(
        mut self,
        compression: f64,
        whole: f64,
        peak: u64,
        threads: usize,
        seed: u64,
    ) -> Self {
        (self.compression_seconds, self.seconds, self.peak_rss_bytes) = (compression, whole, peak);
        (self.threads, self.seed) = (threads, seed);
        self
    }

    /// The closing table.
    pub fn to_text(&self) -> String {
        let mut table = Table::new([
            Column::text(""),
            Column::right("before"),
            Column::right("after"),
            Column::right("change"),
        ]);
        let change = |before: f64, after: f64| format!("{:+.1} %", 100.0 * (after / before - 1.0));
        let mut row = |name: &str, before: String, after: String, change: String| {
            table.row([name.into(), before.into(), after.into(), change.into()]);
        };
        let (a, b) = (self.file_bytes_before, self.file_bytes_after);
        row("bytes on disk", human_bytes(a), human_bytes(b), change(a as f64, b as f64));
        let layer_bytes = |f: fn(&Layer) -> u64| self.layers.iter().map(f).sum::<u64>();
        let (a, b) = (layer_bytes(|l| l.dense_bytes), layer_bytes(|l| l.bytes));
        row("  of the linear layers", human_bytes(a), human_bytes(b), change(a as f64, b as f64));
        if let (Some(a), Some(b)) = (self.bits_per_byte_before, self.bits_per_byte_after) {
            row("bits per byte", format!("{a:.4}"), format!("{b:.4}"), change(a, b));
            if self.allocation != "uniform"
                && let Some(uniform) = self.uniform.bits_per_byte_after
            {
                row("  with uniform allocation", String::new(), format!("{uniform:.4}"), change(a, uniform));
            }
        }
        if let (Some(a), Some(b)) =
            (self.decode_tokens_per_second_before, self.decode_tokens_per_second_after)
        {
            row("decode tokens per second", format!("{a:.0}"), format!("{b:.0}"), change(a, b));
        }
        let gap = if self.objective > 0.0 {
            (100.0 * (1.0 - self.lower_bound / self.objective)).max(0.0)
        } else {
            0.0
        };
        let certificate = match self.allocation.as_str() {
            "uniform" => {
                format!("objective {:.6e}; the best plan under this budget reaches", self.objective)
                    + &format!(" no less than {:.6e}", self.lower_bound)
            }
            _ => format!("objective {:.6e}, within {gap:.3} % of the lower bound", self.objective),
        };
        format!(
            "\n{table}\n\
             {} of {} layers compressed by {}: {:.2} % of their parameters and {:.2} % of their bytes removed\n\
             {certificate}\n\
             {} in all ({} to compress), peak memory {}, {} threads\n\
             next: sparseland generate {} --prompt \"The boat\"\n",
            self.layers.iter().filter(|l| l.kind != "dense").count(),
            self.layers.len(),
            self.method,
            100.0 * self.achieved_removed_params,
            100.0 * self.achieved_removed_bytes,
            human_seconds(self.seconds),
            human_seconds(self.compression_seconds),
            human_bytes(self.peak_rss_bytes),
            self.threads,
            self.out,
        )
    }
}
