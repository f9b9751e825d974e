//! `--stability`: features that halves of the rows choose again and again.

use anyhow::{Result, ensure};
use serde::Serialize;
use sparseland_core::Context;
use sparseland_estimate::path::PathEstimator;
use sparseland_estimate::stability::{StabilityOptions, stability_selection};
use sparseland_eval::table::{Column, Table};
use sparseland_optim::design::Design;

use super::Common;

#[derive(Serialize)]
struct Report {
    model: &'static str,
    data: String,
    threshold: f64,
    /// Pairs of halves.
    pairs: usize,
    /// Mean number of features that a half chose.
    chosen: f64,
    /// Features at or above the threshold and their probabilities, the largest first.
    selected: Vec<(String, f64)>,
    /// Bound on the expected number of noise features among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_bound: Option<f64>,
    /// The probabilities of all features that were ever chosen, the largest first.
    probabilities: Vec<(String, f64)>,
}

/// Rows of the table without JSON.
const MOST: usize = 30;

/// Resamples and prints.
pub(super) fn run(
    model: &'static str,
    common: &Common,
    threshold: f64,
    estimator: &dyn PathEstimator,
    (x, y, weight): (&dyn Design, &[f64], Option<&[f64]>),
    names: &[String],
    context: &Context,
) -> Result<()> {
    ensure!(
        threshold > 0.5 && threshold <= 1.0,
        "--stability {threshold}: a threshold is above 0.5 and at most 1"
    );
    // At a threshold of 0.75 at most one wrong feature is expected.
    let usual = ((names.len() as f64 / 2.0).sqrt() as usize).max(1);
    let options = StabilityOptions {
        features: common.stability_features.unwrap_or(usual),
        pairs: common.pairs,
        path: common.path_options(),
        seed: context.seed(),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build()?;
    let found = stability_selection(estimator, x, y, weight, &options, &pool)?;
    let mut order: Vec<usize> = (0..names.len()).filter(|&j| found.probabilities[j] > 0.0).collect();
    order.sort_by(|&a, &b| found.probabilities[b].total_cmp(&found.probabilities[a]));
    let pair = |j: &usize| (names[*j].clone(), found.probabilities[*j]);
    let report = Report {
        model,
        data: common.source.data.display().to_string(),
        threshold,
        pairs: found.pairs,
        chosen: found.chosen,
        selected: order.iter().filter(|j| found.probabilities[**j] >= threshold).map(pair).collect(),
        error_bound: found.unimodal_error_bound(threshold).or_else(|| found.error_bound(threshold)),
        probabilities: order.iter().map(pair).collect(),
    };
    match common.json {
        true => crate::commands::print_json(&report),
        false => crate::commands::print_text(&to_text(&report)),
    }
}

fn to_text(report: &Report) -> String {
    let mut table = Table::new([Column::text("feature"), Column::number("probability", 3)]);
    for (name, share) in report.probabilities.iter().take(MOST) {
        table.row([name.as_str().into(), (*share).into()]);
    }
    let mut text = format!(
        "{table}\n{} features chosen by at least {} of {} halves, which choose {:.1} each",
        report.selected.len(),
        report.threshold,
        2 * report.pairs,
        report.chosen
    );
    if let Some(bound) = report.error_bound {
        text += &format!("; at most {bound:.2} of them noise, in expectation");
    }
    text + "\n"
}
