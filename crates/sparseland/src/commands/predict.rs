//! `sparseland predict`: a model that `fit --out` wrote, applied to a table.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sparseland_estimate::estimators::Fitted;

use super::table::{self, Columns};

/// A fitted model with all that another table needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Version of this file's form.
    pub version: u32,
    /// The name of the model in `fit`.
    pub model: String,
    /// The target's name.
    pub target: String,
    /// The features' names in their order.
    pub features: Vec<String>,
    /// Names of class 0 and class 1, for logistic models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<[String; 2]>,
    /// The coefficients.
    pub fitted: Fitted,
}

/// The current [`Saved::version`].
pub const VERSION: u32 = 1;

/// Predicts the target of a table's rows by a fitted model.
#[derive(Args)]
pub struct Predict {
    /// The model, as `fit --out` wrote it.
    model: PathBuf,
    /// The table: CSV with a header that has the model's features, plain or gzip.
    data: PathBuf,
    /// Write the predictions here, as CSV, instead of printing them.
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    rows: usize,
    target: String,
    /// R², accuracy or explained deviance, where the table has the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    predictions: Vec<String>,
    /// Probability of the second class, for logistic models.
    #[serde(skip_serializing_if = "Option::is_none")]
    probabilities: Option<Vec<f64>>,
}

impl Predict {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let place = self.model.display();
        let bytes = std::fs::read(&self.model).with_context(|| format!("cannot read {place}"))?;
        let saved: Saved =
            serde_json::from_slice(&bytes).with_context(|| format!("{place} is no model of `fit --out`"))?;
        ensure!(
            saved.version == VERSION,
            "{place} has version {}, this program reads {VERSION}",
            saved.version
        );
        let columns = Columns::These { names: &saved.features, target: &saved.target };
        let table = table::read(&self.data, &columns)?;
        let values = saved.fitted.predict(&table.x)?;
        let score = match (&saved.classes, table.target.is_empty()) {
            (_, true) => None,
            (Some(classes), _) => {
                let y: Vec<f64> =
                    table.target.iter().map(|c| f64::from(u8::from(*c == classes[1]))).collect();
                Some(saved.fitted.score(&table.x, &y)?)
            }
            (None, _) => Some(saved.fitted.score(&table.x, &table.target_numbers(&self.data)?)?),
        };
        let probabilities = match saved.classes {
            Some(_) => Some(saved.fitted.predict_proba(&table.x)?),
            None => None,
        };
        let name = |v: &f64| match &saved.classes {
            Some(classes) => classes[usize::from(*v > 0.5)].clone(),
            None => v.to_string(),
        };
        let report = Report {
            rows: values.len(),
            target: saved.target.clone(),
            score,
            predictions: values.iter().map(name).collect(),
            probabilities,
        };
        if let Some(out) = &self.out {
            sparseland_data::write_atomically(out, csv(&report).as_bytes())?;
        }
        if self.json {
            return super::print_json(&report);
        }
        let score = report.score.map_or_else(String::new, |s| format!(", score {s:.4}"));
        match &self.out {
            Some(out) => {
                super::print_text(&format!("{} predictions in {}{score}\n", report.rows, out.display()))
            }
            None => super::print_text(&csv(&report)),
        }
    }
}

fn csv(report: &Report) -> String {
    let quoted = |cell: &str| match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    };
    let mut text = quoted(&report.target);
    text += if report.probabilities.is_some() { ",probability\n" } else { "\n" };
    for (row, prediction) in report.predictions.iter().enumerate() {
        text += &quoted(prediction);
        if let Some(p) = &report.probabilities {
            text += &format!(",{}", p[row]);
        }
        text.push('\n');
    }
    text
}
