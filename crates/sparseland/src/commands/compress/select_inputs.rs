//! `sparseland compress --method r-sparse`: a checkpoint whose layers read only their important inputs.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use sparseland_compress::methods::r_sparse::{self, Alphas, Freedom, RSparse, SidePath};
use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_eval::table::{Column, Table, human_bytes, human_seconds};
use sparseland_nn::{ModelConfig, Tokenizer};

use super::{Compress, check_output};
use crate::layer_method::{self, Settings};
use crate::{machine, model};

/// The method's name.
pub(super) const SLUG: &str = "r-sparse";

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    method: &'static str,
    requested_removed: f64,
    /// No weight is removed: what is saved is the reading of columns.
    achieved_removed_params: f64,
    file_bytes_before: u64,
    file_bytes_after: u64,
    bits_per_byte_before: Option<f64>,
    /// With every token sparse, as decoded ones are; equal to `before` with `tokens=decoded`.
    bits_per_byte_after: Option<f64>,
    decode_tokens_per_second_before: Option<f64>,
    decode_tokens_per_second_after: Option<f64>,
    peak_rss_bytes: u64,
    threads: usize,
    seed: u64,
    compression_seconds: f64,
    seconds: f64,
    /// `alpha` of every layer, or one for all.
    alphas: Vec<f64>,
    out: String,
}

impl Compress {
    /// Writes the checkpoint and measures it.
    pub(super) fn select_inputs(&self, context: &Context) -> Result<()> {
        let began = Instant::now();
        check_output(self.model.as_deref(), &self.out)?;
        ensure!(self.export.is_none(), "r-sparse leaves the weights as they are: there is nothing to export");
        let settings = Settings::new(layer_method::find(SLUG)?, &self.set)?;
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let config = ModelConfig::from_checkpoint(&checkpoint)?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let calibration = self.calibration(&tokenizer, &config, context)?;
        let text = self.evaluation_text()?;
        let before = self.measure(&checkpoint, &text, "measuring the original", context)?;
        let choice = |name: &str| settings.get::<String>(name);
        let method = RSparse {
            sparsity: self.remove,
            norms: choice("score")? == "norms",
            all_tokens: choice("tokens")? == "all",
            path: if choice("path")? == "weight" { SidePath::Weight } else { SidePath::Rest },
            ..RSparse::default()
        };
        let started = Instant::now();
        let alphas = match choice("search")?.as_str() {
            "no" => Alphas::Uniform(settings.get("alpha")?),
            freedom => {
                let freedom = match freedom {
                    "layers" => Freedom::Layers,
                    "kinds" => Freedom::Kinds,
                    _ => Freedom::Common,
                };
                std::fs::create_dir_all(&self.out)?;
                r_sparse::search(&checkpoint, &calibration, (&method, freedom), &self.out, context)?
            }
        };
        let written =
            r_sparse::write((&checkpoint, &config), &calibration, (&method, &alphas), &self.out, context)?;
        let compression_seconds = started.elapsed().as_secs_f64();
        let after =
            self.measure(&Checkpoint::open(&self.out)?, &text, "measuring the sparse model", context)?;
        let quality = |m: &Option<model::Measured>| m.as_ref().map(|m| m.bits_per_byte);
        let speed = |m: &Option<model::Measured>| m.as_ref().and_then(|m| m.decode_tokens_per_second);
        let report = Report {
            model: name,
            method: SLUG,
            requested_removed: self.remove,
            achieved_removed_params: 0.0,
            file_bytes_before: checkpoint.file_bytes(),
            file_bytes_after: written.file_bytes,
            bits_per_byte_before: quality(&before),
            bits_per_byte_after: quality(&after),
            decode_tokens_per_second_before: speed(&before),
            decode_tokens_per_second_after: speed(&after),
            peak_rss_bytes: machine::peak_rss_bytes(),
            threads: context.threads(),
            seed: context.seed(),
            compression_seconds,
            seconds: began.elapsed().as_secs_f64(),
            alphas: match alphas {
                Alphas::Uniform(alpha) => vec![alpha],
                Alphas::PerLayer(all) => all,
            },
            out: self.out.display().to_string(),
        };
        if self.json {
            return crate::commands::print_json(&report);
        }
        crate::commands::print_text(&to_text(&report))
    }
}

/// Bytes, quality and speed before and after, what was measured of them.
pub(super) fn before_and_after(
    bytes: (u64, u64),
    bits: (Option<f64>, Option<f64>),
    speeds: (Option<f64>, Option<f64>),
) -> Table {
    let mut table = Table::new([
        Column::text(""),
        Column::right("before"),
        Column::right("after"),
        Column::right("change"),
    ]);
    let change = |a: f64, b: f64| format!("{:+.1} %", 100.0 * (b / a - 1.0));
    let (a, b) = bytes;
    table.row([
        "bytes on disk".into(),
        human_bytes(a).into(),
        human_bytes(b).into(),
        change(a as f64, b as f64).into(),
    ]);
    if let (Some(a), Some(b)) = bits {
        let (from, to) = (format!("{a:.4}"), format!("{b:.4}"));
        table.row(["bits per byte".into(), from.into(), to.into(), change(a, b).into()]);
    }
    if let (Some(a), Some(b)) = speeds {
        let (from, to) = (format!("{a:.0}"), format!("{b:.0}"));
        table.row(["decode tokens per second".into(), from.into(), to.into(), change(a, b).into()]);
    }
    table
}

fn to_text(report: &Report) -> String {
    let table = before_and_after(
        (report.file_bytes_before, report.file_bytes_after),
        (report.bits_per_byte_before, report.bits_per_byte_after),
        (report.decode_tokens_per_second_before, report.decode_tokens_per_second_after),
    );
    let mean = report.alphas.iter().sum::<f64>() / report.alphas.len().max(1) as f64;
    format!(
        "\n{table}\n{:.0} % of the multiply-adds skipped token by token, mean alpha {mean:.3}\n\
         {} in all, peak memory {}, {} threads\nnext: sparseland generate {} --prompt \"The boat\"\n",
        100.0 * report.requested_removed,
        human_seconds(report.seconds),
        human_bytes(report.peak_rss_bytes),
        report.threads,
        report.out,
    )
}
