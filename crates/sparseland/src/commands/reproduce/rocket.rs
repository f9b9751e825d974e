//! The ladder of ROCKET: plain SVD > whitened SVD >= ROCKET uniform >= ROCKET knapsack.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Deserialize;
use sparseland_core::{Context, Event, Experiment, Reproduction};

use crate::bundled;
use crate::commands::compress::{AllocationName, Compress};

/// The committed experiment.
pub const CONFIG: &str = include_str!("../../../../../experiments/rocket.toml");

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    slug: String,
    paper_claim: String,
    remove: Vec<f64>,
    calibration_samples: usize,
    calibration_length: usize,
    model: Vec<Model>,
}

/// A model, and which text calibrates and measures it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) dir: Option<PathBuf>,
    text: Option<PathBuf>,
    held_out: Option<HeldOut>,
    held_out_fraction: Option<f64>,
    evaluation_bytes: Option<usize>,
    calibration_bytes: Option<usize>,
}

/// Which part of a text is kept for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeldOut {
    /// The end of every document.
    Tail,
    /// The last documents.
    Documents,
}

/// The rungs, worst first: name, method, allocation.
const RUNGS: [(&str, &str, AllocationName); 4] = [
    ("svd uniform", "svd", AllocationName::Uniform),
    ("svd-llm uniform", "svd-llm", AllocationName::Uniform),
    ("rocket uniform", "rocket", AllocationName::Uniform),
    ("rocket knapsack", "rocket", AllocationName::Knapsack),
];

/// Runs the ladder on every model that is at hand.
pub fn run(config: &Config, context: &Context) -> Result<Reproduction> {
    let root = super::data_dir();
    let (mut experiments, mut notes) = (Vec::new(), Vec::new());
    for model in &config.model {
        let dir = model.dir.as_ref().map(|dir| root.join(dir));
        if let Some(dir) = &dir
            && !dir.is_dir()
        {
            notes.push(format!(
                "{} left out: set SPARSELAND_DATA to a folder that holds its files",
                model.name
            ));
            context.report(Event::Warning(notes.last().expect("just pushed")));
            continue;
        }
        let (calibration, evaluation) = texts(model, &root)?;
        for &remove in &config.remove {
            let mut worse: Option<f64> = None;
            for (index, (name, method, allocation)) in RUNGS.into_iter().enumerate() {
                let began = Instant::now();
                let out = std::env::temp_dir().join(format!("sparseland-reproduce-{}", std::process::id()));
                let _ = std::fs::remove_dir_all(&out);
                let command = Compress {
                    model: dir.clone(),
                    method: method.to_owned(),
                    allocation,
                    remove,
                    calibration_samples: config.calibration_samples,
                    calibration_length: config.calibration_length,
                    out: out.clone(),
                    documents: Some((calibration.clone(), evaluation.clone())),
                    quality_only: true,
                    json: true,
                    ..Compress::default()
                };
                let result = command.compress(context);
                let _ = std::fs::remove_dir_all(&out);
                let report = result?;
                let (before, after) = (report.bits_per_byte_before, report.bits_per_byte_after);
                let (Some(before), Some(after)) = (before, after) else { continue };
                ensure!(report.achieved_removed_params >= remove - 1e-9, "the budget was exceeded");
                let passed = match (index, worse) {
                    (0, _) | (_, None) => after > before,
                    (1, Some(worse)) => after < worse,
                    (_, Some(worse)) => after <= worse,
                };
                experiments.push(Experiment {
                    name: format!("{name}, {:.0} % removed", 100.0 * remove),
                    data: model.name.clone(),
                    metric: "bits per byte, lower is better".into(),
                    claimed: match index {
                        0 => format!("above dense {before:.4}"),
                        1 => format!("below {}", RUNGS[0].0),
                        _ => format!("at most {}", RUNGS[index - 1].0),
                    },
                    measured: after,
                    spread: 0.0,
                    baseline: worse.unwrap_or(before),
                    passed,
                    seeds: vec![context.seed()],
                    seconds: began.elapsed().as_secs_f64(),
                });
                worse = Some(after);
            }
        }
    }
    let verdict = Reproduction::judge(&experiments);
    Ok(Reproduction {
        slug: config.slug.clone(),
        paper_claim: config.paper_claim.clone(),
        experiments,
        verdict,
        notes,
    })
}

pub(super) type Documents = Vec<String>;

/// Calibration and evaluation documents that do not overlap.
pub(super) fn texts(model: &Model, root: &std::path::Path) -> Result<(Documents, Documents)> {
    let Some(text) = &model.text else {
        return Ok((bundled::stories(bundled::CALIBRATION), bundled::stories(bundled::EVALUATION)));
    };
    let documents = sparseland_data::read_documents(root.join(text))?;
    let fraction = model.held_out_fraction.unwrap_or(0.1);
    ensure!(fraction > 0.0 && fraction < 1.0, "held_out_fraction must lie between 0 and 1");
    let (mut calibration, mut evaluation) = (Vec::new(), Vec::new());
    match model.held_out.unwrap_or(HeldOut::Documents) {
        HeldOut::Documents => {
            let first = ((1.0 - fraction) * documents.len() as f64) as usize;
            calibration.extend_from_slice(&documents[..first]);
            evaluation.extend_from_slice(&documents[first..]);
        }
        HeldOut::Tail => {
            for document in &documents {
                let cut = boundary(document, ((1.0 - fraction) * document.len() as f64) as usize);
                calibration.push(document[..cut].to_owned());
                evaluation.push(document[cut..].to_owned());
            }
        }
    }
    shorten(&mut calibration, model.calibration_bytes);
    shorten(&mut evaluation, model.evaluation_bytes);
    Ok((calibration, evaluation))
}

/// The last character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// Cuts every document to its share of `bytes`, keeping beginnings.
fn shorten(documents: &mut Documents, bytes: Option<usize>) {
    let total: usize = documents.iter().map(String::len).sum();
    let Some(bytes) = bytes.filter(|&b| b < total) else { return };
    for document in documents.iter_mut() {
        let share = (document.len() as f64 * bytes as f64 / total as f64) as usize;
        document.truncate(boundary(document, share));
    }
    documents.retain(|d| !d.is_empty());
}
