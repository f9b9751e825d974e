//! Healing: bits per byte after compression, after fine-tuning the kept values, and of dense models of that size.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_data::{Checkpoint, DType, TensorSource};
use sparseland_nn::structure::Structure;
use sparseland_train::methods::heal::{self, Trains};
use sparseland_train::{DataRecipe, LanguageModel, MethodRecipe, Recipe, Task, Trainer, TrainingRecipe};

use super::measured;
use crate::commands::compress::Compress;
use crate::commands::train::resolve_paths;
use crate::{bundled, model};

/// The committed experiment.
pub const CONFIG: &str = include_str!("../../../../../experiments/healing.toml");

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    slug: String,
    paper_claim: String,
    seed: u64,
    remove: Vec<f64>,
    calibration_samples: usize,
    calibration_length: usize,
    data: DataRecipe,
    healing: TrainingRecipe,
    scratch: TrainingRecipe,
    dense: Vec<DenseOfSize>,
}

/// A dense model with as many values in its linear layers as compression leaves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DenseOfSize {
    remove: f64,
    intermediate_size: usize,
    /// Steps of its runs.
    steps: Vec<u64>,
}

/// A directory of this run that is removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("sparseland-healing-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs all removals.
pub fn run(config: Config, context: &Context) -> Result<Reproduction> {
    let mut recipe = Recipe {
        seed: config.seed,
        model: None,
        net: None,
        data: config.data.clone(),
        training: config.healing.clone(),
        method: MethodRecipe::Dense,
    };
    resolve_paths(&mut recipe, Path::new("."))
        .context("the experiment needs real data: set SPARSELAND_DATA")?;
    let scratch = Scratch::new()?;
    for (name, text, list) in [
        ("calibration.txt", bundled::CALIBRATION, &mut recipe.data.text),
        ("evaluation.txt", bundled::EVALUATION, &mut recipe.data.validation_text),
    ] {
        let path = scratch.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        list.push(path);
    }
    let mut experiments = Vec::new();
    for &remove in &config.remove {
        experiments.extend(one(&config, remove, &recipe, &scratch.0, context)?);
    }
    Ok(Reproduction {
        slug: config.slug,
        paper_claim: config.paper_claim,
        verdict: Reproduction::judge(&experiments),
        experiments,
        notes: vec![format!(
            "A step has {} x {} tokens; the bundled model itself was trained for 3000 of them.",
            config.healing.batch, config.data.sequence
        )],
    })
}

fn one(
    config: &Config,
    remove: f64,
    recipe: &Recipe,
    scratch: &Path,
    context: &Context,
) -> Result<Vec<Experiment>> {
    let began = Instant::now();
    let evaluation = bundled::stories(bundled::EVALUATION);
    let bits = |checkpoint: &Checkpoint| -> Result<f64> {
        Ok(model::quality(checkpoint, &evaluation, "measuring", context)?.bits_per_byte)
    };
    let small = scratch.join(format!("small-{remove}"));
    let command = Compress {
        remove,
        calibration_samples: config.calibration_samples,
        calibration_length: config.calibration_length,
        out: small.clone(),
        no_uniform: true,
        no_eval: true,
        json: true,
        ..Compress::default()
    };
    command.compress(context)?;
    let mut recipe = recipe.clone();
    recipe.data.tokenizer = Some(small.clone());
    let healing = &recipe;
    let original = bits(&bundled::checkpoint()?)?;
    let small = Checkpoint::open(&small)?;
    let compressed = bits(&small)?;
    context.report(Event::Line(&format!("{remove}: {original:.4} -> {compressed:.4} bits per byte")));

    let healed_dir = scratch.join(format!("healed-{remove}"));
    let trained = heal::model(&small, Trains::Structured)?;
    let values = trained.config().dtype;
    let mut task = LanguageModel::of_model(trained, &small, healing)?;
    Trainer::new(healing, None).run(&mut task, context)?;
    task.save(&healed_dir, values, Vec::new())?;
    let healed_checkpoint = Checkpoint::open(&healed_dir)?;
    let healed = bits(&healed_checkpoint)?;
    context.report(Event::Line(&format!("{remove}: healed to {healed:.4} bits per byte")));

    let row = |name: &str, claimed: &str, value: f64, baseline: f64, passed: bool| Experiment {
        name: format!("{name}, {:.0} % removed", 100.0 * remove),
        data: "bundled model, unseen stories".into(),
        metric: "bits per byte, lower is better".into(),
        claimed: claimed.into(),
        passed,
        ..measured(&[value], baseline, &[config.seed], began)
    };
    let mut rows = vec![
        row("compressed by ROCKET", "above dense", compressed, original, compressed > original),
        row("healed", "below compressed", healed, compressed, healed < compressed),
    ];
    let back = (compressed - healed) / (compressed - original);
    rows.push(Experiment {
        metric: "share of the loss, higher is better".into(),
        ..row("healing gives back", "at least half", back, 0.0, back >= 0.5)
    });
    let changed = changed_structure(&small, &healed_checkpoint)?;
    rows.push(Experiment {
        metric: "tensors of masks and indices that changed".into(),
        ..row("structure after healing", "0", changed as f64, 0.0, changed == 0)
    });
    if let Some(size) = config.dense.iter().find(|d| (d.remove - remove).abs() < 1e-9) {
        for &steps in &size.steps {
            let (value, parameters) = from_scratch(config, size, steps, healing, scratch, &bits, context)?;
            context.report(Event::Line(&format!("{remove}: {steps} steps from scratch give {value:.4}")));
            rows.push(row(
                &format!("dense of {parameters} values from scratch in {steps} steps"),
                "above healed",
                value,
                healed,
                value > healed,
            ));
        }
    }
    Ok(rows)
}

/// Bits per byte and linear parameters of a dense model trained from scratch.
fn from_scratch(
    config: &Config,
    size: &DenseOfSize,
    steps: u64,
    healing: &Recipe,
    scratch: &Path,
    bits: &dyn Fn(&Checkpoint) -> Result<f64>,
    context: &Context,
) -> Result<(f64, usize)> {
    let mut json = bundled::checkpoint()?.config().clone();
    json.insert("intermediate_size".into(), Value::from(size.intermediate_size));
    let warmup = config.scratch.warmup.min(steps / 10);
    let training = TrainingRecipe { steps, warmup, ..config.scratch.clone() };
    let recipe = Recipe { model: Some(json), training, ..healing.clone() };
    let mut task = LanguageModel::new(&recipe)?;
    let values = task.model().config().dtype;
    let parameters = task
        .parameters()
        .iter()
        .filter(|p| p.decays && !p.name.contains("embed_tokens"))
        .map(|p| p.value.len())
        .sum();
    Trainer::new(&recipe, None).run(&mut task, context)?;
    let dir = scratch.join(format!("dense-{}-{steps}", size.intermediate_size));
    task.save(&dir, values, Vec::new())?;
    Ok((bits(&Checkpoint::open(&dir)?)?, parameters))
}

/// How many parts of the structure differ: layouts, and tensors that hold no weights.
fn changed_structure(before: &Checkpoint, after: &Checkpoint) -> Result<usize> {
    let layouts = Structure::read(before.config())? != Structure::read(after.config())?;
    let mut changed = usize::from(layouts);
    for name in before.names() {
        let dtype = before.info(name)?.dtype;
        let weights = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        changed += usize::from(!weights && before.read(name)? != after.read(name)?);
    }
    Ok(changed)
}
