//! `sparseland compress --method concat-svd`: a checkpoint whose layers share factors, each stored once.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use sparseland_compress::concat_svd::{Sharing, Side, share};
use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_eval::table::human_seconds;
use sparseland_nn::LinearSite;
use sparseland_nn::ModelConfig;

use super::select_inputs::before_and_after;
use super::{Compress, ExportName, check_output};
use crate::layer_method::{self, Settings};
use crate::{machine, model};

/// The method's name.
pub(super) const SLUG: &str = "concat-svd";

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    method: &'static str,
    requested_removed: f64,
    /// Of the stored values of the layers that took part, shared factors counted once.
    achieved_removed_params: f64,
    file_bytes_before: u64,
    file_bytes_after: u64,
    bits_per_byte_before: Option<f64>,
    bits_per_byte_after: Option<f64>,
    decode_tokens_per_second_before: Option<f64>,
    decode_tokens_per_second_after: Option<f64>,
    peak_rss_bytes: u64,
    threads: usize,
    compression_seconds: f64,
    seconds: f64,
    groups: Vec<Group>,
    out: String,
}

/// Layers with one factor.
#[derive(Debug, Serialize)]
struct Group {
    layers: Vec<String>,
    rank: usize,
    error: f64,
}

impl Compress {
    /// Writes the checkpoint and measures it.
    pub(super) fn share_factors(&self, context: &Context) -> Result<()> {
        let began = Instant::now();
        check_output(self.model.as_deref(), &self.out)?;
        if self.export == Some(ExportName::CompressedTensors) {
            bail!("compressed-tensors holds masks only; use --export dense, svd-llm or rocket");
        }
        ensure!(
            self.plan.is_none() && self.ignore.is_empty() && !self.dry_run,
            "--plan, --ignore and --dry-run do not work with {SLUG}; --set layers chooses what takes part"
        );
        let settings = Settings::new(layer_method::find(SLUG)?, &self.set)?;
        let choice = |name: &str| settings.get::<String>(name);
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let structured = sparseland_nn::structure::Structure::read(checkpoint.config())?.layers.len();
        ensure!(
            structured == 0,
            "{name} is already compressed ({structured} structured layers); give the dense original"
        );
        let config = ModelConfig::from_checkpoint(&checkpoint)?;
        let text = self.evaluation_text()?;
        let before = self.measure(&checkpoint, &text, "measuring the original", context)?;
        let sharing = Sharing {
            remove: self.remove,
            epsilon: settings.get("error")?,
            sites: match choice("layers")?.as_str() {
                "all" => LinearSite::ALL.to_vec(),
                "mlp" => LinearSite::ALL[4..].to_vec(),
                _ => LinearSite::ALL[..4].to_vec(),
            },
            side: if choice("side")? == "outputs" { Side::Outputs } else { Side::Inputs },
        };
        let started = Instant::now();
        std::fs::create_dir_all(&self.out)?;
        let found = share((&checkpoint, &config), &sharing, self.values.map(Into::into), &self.out, context)?;
        let compression_seconds = started.elapsed().as_secs_f64();
        let after =
            self.measure(&Checkpoint::open(&self.out)?, &text, "measuring the compressed model", context)?;
        self.export_result(context)?;
        let quality = |m: &Option<model::Measured>| m.as_ref().map(|m| m.bits_per_byte);
        let speed = |m: &Option<model::Measured>| m.as_ref().and_then(|m| m.decode_tokens_per_second);
        let group = |g: sparseland_compress::concat_svd::SharedGroup| Group {
            layers: g.layers,
            rank: g.rank,
            error: g.error,
        };
        let report = Report {
            model: name,
            method: SLUG,
            requested_removed: self.remove,
            achieved_removed_params: 1.0 - found.parameters as f64 / found.dense_parameters.max(1) as f64,
            file_bytes_before: checkpoint.file_bytes(),
            file_bytes_after: found.written.file_bytes,
            bits_per_byte_before: quality(&before),
            bits_per_byte_after: quality(&after),
            decode_tokens_per_second_before: speed(&before),
            decode_tokens_per_second_after: speed(&after),
            peak_rss_bytes: machine::peak_rss_bytes(),
            threads: context.threads(),
            compression_seconds,
            seconds: began.elapsed().as_secs_f64(),
            groups: found.groups.into_iter().map(group).collect(),
            out: self.out.display().to_string(),
        };
        if self.json {
            return crate::commands::print_json(&report);
        }
        crate::commands::print_text(&to_text(&report))
    }
}

fn to_text(report: &Report) -> String {
    let table = before_and_after(
        (report.file_bytes_before, report.file_bytes_after),
        (report.bits_per_byte_before, report.bits_per_byte_after),
        (report.decode_tokens_per_second_before, report.decode_tokens_per_second_after),
    );
    let mut text = format!("\n{table}\n");
    for group in &report.groups {
        let (first, rest) = (&group.layers[0], group.layers.len() - 1);
        text += &format!(
            "rank {}, error {:.4}: {first} and {rest} more share a factor\n",
            group.rank, group.error
        );
    }
    text + &format!(
        "{:.1} % of the layers' parameters removed ({:.1} % asked for), {} in all, {} threads\nnext: sparseland \
         inspect {}\n",
        100.0 * report.achieved_removed_params,
        100.0 * report.requested_removed,
        human_seconds(report.seconds),
        report.threads,
        report.out,
    )
}
