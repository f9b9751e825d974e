//! `sparseland reproduce SLUG`: runs a system's acceptance experiment from its committed TOML and prints
//! claim against measurement, misses like hits.

mod compress;
mod dsformer;
mod dsnot;
mod estimate;
mod healing;
mod r_sparse;
mod rocket;
mod sltrain;
mod sr_ste;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;
use sparseland_core::{Context, Experiment, Reproduction};
use sparseland_eval::statistics::{self, half_range};
use sparseland_eval::table::{Column, Table, human_seconds};

use crate::machine::{Machine, today};
use crate::registry;

/// The folder of real data: `SPARSELAND_DATA`, or the one that stands beside the repository.
pub fn data_dir() -> PathBuf {
    std::env::var_os("SPARSELAND_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from)
}

/// Runs a system's acceptance experiment and prints claim against measurement.
#[derive(Args)]
pub struct Reproduce {
    /// The method.
    slug: String,
    /// Read the experiment from this file instead of the built-in one.
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Also write the record to this file.
    #[arg(long, value_name = "JSON")]
    record: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Reproduce {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let built_in = match self.slug.as_str() {
            "rocket" => rocket::CONFIG,
            "healing" => healing::CONFIG,
            "r-sparse" => r_sparse::CONFIG,
            "dsformer" => dsformer::CONFIG,
            "dsnot" => dsnot::CONFIG,
            "sr-ste" => sr_ste::CONFIG,
            "sltrain" => sltrain::CONFIG,
            other if compress::config(other).is_some() => compress::config(other).unwrap_or_default(),
            other if estimate::config(other).is_some() => estimate::config(other).unwrap_or_default(),
            other => match registry::find(other) {
                Some(_) => {
                    bail!("{other} has no acceptance experiment of its own; it is a baseline of others")
                }
                None => bail!("no method is called {other:?}; `sparseland methods` lists them"),
            },
        };
        let text = match &self.config {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => built_in.to_owned(),
        };
        let mut record = match self.slug.as_str() {
            "rocket" => rocket::run(&parse(&text)?, context)?,
            "healing" => healing::run(parse(&text)?, context)?,
            "r-sparse" => r_sparse::run(&parse(&text)?, context)?,
            "dsformer" => dsformer::run(parse(&text)?, context)?,
            "dsnot" => dsnot::run(parse(&text)?, context)?,
            "sr-ste" => sr_ste::run(parse(&text)?, context)?,
            "sltrain" => sltrain::run(parse(&text)?, context)?,
            slug if compress::config(slug).is_some() => compress::run(slug, &text, context)?,
            slug => estimate::run(slug, &text, context)?,
        };
        let machine = Machine::look();
        record.notes.push(format!(
            "{}, {} threads, {}, {}",
            today(),
            context.threads(),
            machine.cpu,
            machine.features.join(" ")
        ));
        if let Some(path) = &self.record {
            let json = serde_json::to_vec_pretty(&record)?;
            sparseland_data::write_atomically(path, &json)?;
        }
        if self.json { super::print_json(&record) } else { super::print_text(&to_text(&record)) }
    }
}

/// The mean; NaN of nothing, which passes no bar.
fn mean(values: &[f64]) -> f64 {
    statistics::mean(values).unwrap_or(f64::NAN)
}

/// An experiment with its numbers filled in: mean and half the range over the seeds.
fn measured(values: &[f64], baseline: f64, seeds: &[u64], began: Instant) -> Experiment {
    Experiment {
        name: String::new(),
        data: String::new(),
        metric: String::new(),
        claimed: String::new(),
        measured: mean(values),
        spread: half_range(values).unwrap_or(0.0),
        baseline,
        passed: false,
        seeds: seeds.to_vec(),
        seconds: began.elapsed().as_secs_f64(),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    toml::from_str(text).context("the experiment's TOML is not understood")
}

fn to_text(record: &Reproduction) -> String {
    let mut table = Table::new([
        Column::text("experiment"),
        Column::text("data"),
        Column::text("claimed"),
        Column::number("measured", 4),
        Column::number("baseline", 4),
        Column::text("passed"),
    ]);
    for e in &record.experiments {
        let passed = if e.passed { "yes" } else { "MISSED" };
        table.row([
            e.name.as_str().into(),
            e.data.as_str().into(),
            e.claimed.as_str().into(),
            e.measured.into(),
            e.baseline.into(),
            passed.into(),
        ]);
    }
    let seconds: f64 = record.experiments.iter().map(|e| e.seconds).sum();
    let mut text = format!("{}: {}\n{table}\n", record.slug, record.paper_claim);
    for note in &record.notes {
        text += &format!("note: {note}\n");
    }
    text + &format!("verdict: {:?}, {}\n", record.verdict, human_seconds(seconds)).to_lowercase()
}
