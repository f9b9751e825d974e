//! `sparseland reproduce SLUG`: runs a system's acceptance experiment from its committed TOML and prints
//! claim against measurement, misses like hits.

mod rocket;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;
use sparseland_core::{Context, Reproduction};
use sparseland_eval::table::{Column, Table, human_seconds};

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
            other => match registry::find(other) {
                Some(_) => bail!(
                    "{other} has no acceptance experiment of its own; it is a baseline of `reproduce rocket`"
                ),
                None => bail!("no method is called {other:?}; `sparseland methods` lists them"),
            },
        };
        let text = match &self.config {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => built_in.to_owned(),
        };
        let record = rocket::run(&parse(&text)?, context)?;
        if let Some(path) = &self.record {
            let json = serde_json::to_vec_pretty(&record)?;
            sparseland_data::write_atomically(path, &json)?;
        }
        if self.json { super::print_json(&record) } else { super::print_text(&to_text(&record)) }
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
