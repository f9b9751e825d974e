//! DSnoT and the masks it starts from: planted layers in their crate, models through the `compress` command.

use std::time::Instant;

use anyhow::Result;
use serde::Deserialize;
use sparseland_compress::methods::dsnot;
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_data::Checkpoint;

use super::rocket::{Documents, Model, texts};
use crate::commands::compress::{AllocationName, Compress};
use crate::model;

/// The committed experiment.
pub const CONFIG: &str = include_str!("../../../../../experiments/dsnot.toml");

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    slug: String,
    paper_claim: String,
    planted: dsnot::experiment::Config,
    remove: Vec<f64>,
    calibration_samples: usize,
    calibration_length: usize,
    model: Vec<Model>,
}

/// What a run of a model must be.
enum Bar {
    /// Shown for comparison: worse than the dense model.
    Shown,
    /// Better than an earlier run.
    Below(&'static str),
    /// At most 0.5 % above an earlier run.
    Within(&'static str),
    /// Worse than an earlier run.
    Above(&'static str),
}

/// Name, method, settings, bar.
const RUNS: [(&str, &str, &[&str], Bar); 7] = [
    ("magnitude per row", "magnitude", &["scope=row"], Bar::Shown),
    ("magnitude per row + DSnoT", "dsnot", &["start=magnitude"], Bar::Below("magnitude per row")),
    ("Wanda per row", "wanda", &[], Bar::Shown),
    ("Wanda per row + DSnoT", "dsnot", &[], Bar::Within("Wanda per row")),
    (
        "Wanda per row + DSnoT as published (50 cycles, unit sequence)",
        "dsnot",
        &["cycle-share=1", "unit=sequence"],
        Bar::Above("Wanda per row"),
    ),
    ("Wanda per layer", "wanda", &["scope=layer"], Bar::Below("Wanda per row")),
    ("SparseGPT", "sparsegpt", &[], Bar::Below("Wanda per layer")),
];

/// Runs a system's experiments.
pub fn run(config: Config, context: &Context) -> Result<Reproduction> {
    let mut notes = vec![
        "50 cycles are the paper's on rows of 4096 inputs and more; here they are shown to hurt".to_owned(),
        "models: uniform allocation, one-shot, block by block; bits per byte on text that neither training nor \
         calibration saw"
            .to_owned(),
    ];
    let mut report = |e: &Experiment| {
        let outcome = if e.passed { "" } else { "  MISSED" };
        context.report(Event::Line(&format!("{}: {:.4} ({}){outcome}", e.name, e.measured, e.claimed)));
    };
    let mut experiments = dsnot::experiment::run(&config.planted, context, &mut report)?;
    let root = super::data_dir();
    for model in &config.model {
        if model.dir.as_ref().is_some_and(|dir| !root.join(dir).is_dir()) {
            notes.push(format!("{} left out: set SPARSELAND_DATA to a folder with its files", model.name));
            continue;
        }
        let documents = texts(model, &root)?;
        for &remove in &config.remove {
            experiments.extend(ladder(&config, model, remove, &documents, context, &mut report)?);
        }
    }
    let (slug, paper_claim) = (config.slug, config.paper_claim);
    Ok(Reproduction { slug, paper_claim, verdict: Reproduction::judge(&experiments), experiments, notes })
}

/// All runs of one model at one removed fraction.
fn ladder(
    config: &Config,
    trained: &Model,
    remove: f64,
    documents: &(Documents, Documents),
    context: &Context,
    report: &mut dyn FnMut(&Experiment),
) -> Result<Vec<Experiment>> {
    let mut found: Vec<(&str, f64)> = Vec::new();
    let mut experiments = Vec::new();
    let dir = trained.dir.as_ref().map(|dir| super::data_dir().join(dir));
    let quality = |checkpoint: &Checkpoint| {
        model::quality(checkpoint, &documents.1, "measuring", context).map(|measured| measured.bits_per_byte)
    };
    let dense = quality(&model::open(dir.as_deref())?.0)?;
    for (name, method, settings, bar) in RUNS {
        let began = Instant::now();
        let out = std::env::temp_dir().join(format!("sparseland-reproduce-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&out);
        let command = Compress {
            model: dir.clone(),
            method: method.to_owned(),
            set: settings.iter().map(|&s| s.to_owned()).collect(),
            allocation: AllocationName::Uniform,
            remove,
            calibration_samples: config.calibration_samples,
            calibration_length: config.calibration_length,
            out: out.clone(),
            documents: Some(documents.clone()),
            no_eval: true,
            no_uniform: true,
            json: true,
            ..Compress::default()
        };
        let result = command.compress(context).and_then(|_| quality(&Checkpoint::open(&out)?));
        let _ = std::fs::remove_dir_all(&out);
        let after = result?;
        let of = |name: &str| found.iter().find(|f| f.0 == name).map_or(f64::NAN, |f| f.1);
        let (claimed, baseline, passed) = match bar {
            Bar::Shown => ("above the dense model".to_owned(), dense, after > dense),
            Bar::Below(other) => (format!("below {other}"), of(other), after < of(other)),
            Bar::Within(other) => {
                (format!("at most 0.5 % above {other}"), of(other), after <= 1.005 * of(other))
            }
            Bar::Above(other) => (format!("worse than {other}"), of(other), after > of(other)),
        };
        let experiment = Experiment {
            name: format!("{name}, {:.0} % removed", 100.0 * remove),
            data: trained.name.clone(),
            metric: "bits per byte, lower is better".into(),
            claimed,
            measured: after,
            spread: 0.0,
            baseline,
            passed,
            seeds: vec![context.seed()],
            seconds: began.elapsed().as_secs_f64(),
        };
        report(&experiment);
        experiments.push(experiment);
        found.push((name, after));
    }
    Ok(experiments)
}
