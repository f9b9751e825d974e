//! `sparseland train lm|classifier|heal`: trains by a recipe, and heals compressed checkpoints.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_data::Checkpoint;
use sparseland_eval::plot::Plot;
use sparseland_eval::table::{Column, Table, human_bytes, human_count, human_seconds};
use sparseland_matrix::ValueType;
use sparseland_train::methods::heal;
use sparseland_train::{
    Classifier, DataRecipe, LanguageModel, MethodRecipe, OptimiserKind, Outcome, Recipe, Task, Trainer,
    TrainingRecipe,
};

use crate::machine::{Machine, peak_rss_bytes, today};

/// Trains a model by a recipe, or heals a compressed one.
#[derive(Args)]
pub struct Train {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Trains a language model on text.
    Lm(FromRecipe),
    /// Trains a classifier of images or table rows.
    Classifier(FromRecipe),
    /// Fine-tunes the values of a compressed checkpoint; its structure stays as it is.
    Heal(Heal),
}

/// Options of a run by recipe.
#[derive(Args)]
struct FromRecipe {
    /// The recipe.
    recipe: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Output {
    /// Where the model, its record and its learning curve go; nothing is kept without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an unfinished run in --out.
    #[arg(long, requires = "out")]
    resume: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Options of healing.
#[derive(Args)]
struct Heal {
    /// The compressed checkpoint.
    model: PathBuf,
    /// Text to train on; its last 5 % is held out.
    #[arg(long, value_name = "FILE", required = true)]
    text: Vec<PathBuf>,
    /// Text to validate on instead.
    #[arg(long, value_name = "FILE")]
    validation_text: Vec<PathBuf>,
    /// A line between documents of a text file.
    #[arg(long, value_name = "LINE")]
    separator: Option<String>,
    /// Turn typographic quotes and dashes into ASCII and hard-wrapped lines into paragraphs.
    #[arg(long)]
    plain: bool,
    /// Optimiser steps.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Sequences per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 256)]
    sequence: usize,
    /// Largest learning rate.
    #[arg(long, default_value_t = 1e-4)]
    learning_rate: f64,
    /// What is fine-tuned.
    #[arg(long, value_enum, default_value = "structured")]
    train: TrainsName,
    #[command(flatten)]
    output: Output,
}

/// What healing fine-tunes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TrainsName {
    /// The values of structured layers.
    Structured,
    /// The linear layers that stayed dense.
    Dense,
    /// Everything.
    All,
}

impl From<TrainsName> for heal::Trains {
    fn from(name: TrainsName) -> Self {
        match name {
            TrainsName::Structured => Self::Structured,
            TrainsName::Dense => Self::Dense,
            TrainsName::All => Self::All,
        }
    }
}

/// What a run was and what came of it.
#[derive(Serialize)]
struct Record {
    task: &'static str,
    method: &'static str,
    date: String,
    recipe: Recipe,
    machine: Machine,
    threads: usize,
    parameters: usize,
    trained_parameters: usize,
    training_flops: f64,
    seconds: f64,
    peak_rss_bytes: u64,
    file_bytes: Option<u64>,
    outcome: Outcome,
}

impl Train {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::Lm(options) => {
                let recipe = read(&options.recipe)?;
                let mut task = LanguageModel::new(&recipe)?;
                // Saved as the recipe's `torch_dtype` says, in f32 without one.
                let values = task.model().config().dtype;
                language(&recipe, &mut task, "lm", values, options.output, context)
            }
            What::Classifier(options) => {
                let recipe = read(&options.recipe)?;
                let mut task = Classifier::new(&recipe)?;
                let items = recipe.training.batch as f64;
                run(&recipe, &mut task, "classifier", items, options.output, context, |task, dir, _| {
                    std::fs::create_dir_all(dir)?;
                    Ok(task.save(&dir.join("model.safetensors"), ValueType::F32)?)
                })
            }
            What::Heal(options) => options.run(context),
        }
    }
}

impl Heal {
    fn run(self, context: &Context) -> Result<()> {
        let Some(out) = &self.output.out else { bail!("heal needs --out, where the healed checkpoint goes") };
        let checkpoint = Checkpoint::open(&self.model)?;
        if out.canonicalize().is_ok_and(|out| self.model.canonicalize().is_ok_and(|model| out == model)) {
            bail!("--out is the checkpoint itself; choose another directory");
        }
        let recipe = Recipe {
            seed: context.seed(),
            model: None,
            net: None,
            data: DataRecipe {
                text: self.text,
                validation_text: self.validation_text,
                repeat: Vec::new(),
                separator: self.separator,
                plain: self.plain,
                held_out: 0.05,
                tokenizer: None,
                sequence: self.sequence,
                images: None,
                validation_images: None,
                limit: None,
            },
            training: TrainingRecipe {
                steps: self.steps,
                batch: self.batch,
                accumulate: 1,
                optimiser: OptimiserKind::Adamw,
                products: Default::default(),
                learning_rate: self.learning_rate,
                warmup: (self.steps / 20).max(1),
                schedule: Default::default(),
                floor: 0.05,
                weight_decay: 0.0,
                momentum: 0.9,
                beta2: 0.99,
                clip: 1.0,
                validate_every: (self.steps / 5).max(1),
                save_every: 100,
                patience: 0,
            },
            method: MethodRecipe::Dense,
        };
        let model = heal::model(&checkpoint, self.train.into())?;
        let values = model.config().dtype;
        let mut task = LanguageModel::of_model(model, &checkpoint, &recipe)?;
        language(&recipe, &mut task, "heal", values, self.output, context)
    }
}

fn read(path: &Path) -> Result<Recipe> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut recipe = Recipe::parse(&text).with_context(|| path.display().to_string())?;
    resolve_paths(&mut recipe, path.parent().unwrap_or(Path::new(".")))
        .with_context(|| path.display().to_string())?;
    Ok(recipe)
}

/// Makes a recipe's paths whole: relative ones start at `base`, and `$SPARSELAND_DATA/...` lies in the real data.
///
/// # Errors
/// If one does not exist.
pub fn resolve_paths(recipe: &mut Recipe, base: &Path) -> Result<()> {
    let data = &mut recipe.data;
    let lists = data.text.iter_mut().chain(&mut data.validation_text);
    for path in lists.chain(&mut data.tokenizer).chain(&mut data.images).chain(&mut data.validation_images) {
        *path = match path.strip_prefix("$SPARSELAND_DATA") {
            Ok(rest) => super::reproduce::data_dir().join(rest),
            Err(_) => base.join(&path),
        };
        if !path.exists() {
            bail!("{} does not exist", path.display());
        }
    }
    Ok(())
}

fn language(
    recipe: &Recipe,
    task: &mut LanguageModel,
    name: &'static str,
    values: ValueType,
    output: Output,
    context: &Context,
) -> Result<()> {
    let (training, validation) = task.tokens();
    context.report(Event::Line(&format!(
        "{} tokens to train on, {} to validate on, {} per step",
        human_count(training as u64),
        human_count(validation as u64),
        human_count((recipe.training.batch * recipe.data.sequence) as u64)
    )));
    let tokens = (recipe.training.batch * recipe.data.sequence) as f64;
    run(recipe, task, name, tokens, output, context, |task, dir, files| Ok(task.save(dir, values, files)?))
}

/// Trains, saves and reports. `items` go through the network per step.
fn run<T: Task>(
    recipe: &Recipe,
    task: &mut T,
    name: &'static str,
    items: f64,
    output: Output,
    context: &Context,
    save: impl FnOnce(&mut T, &Path, Vec<(String, Vec<u8>)>) -> Result<u64>,
) -> Result<()> {
    let began = Instant::now();
    if let Some(out) = &output.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }
    let mut trainer = Trainer::new(recipe, output.out.as_deref());
    if output.resume {
        if !trainer.can_resume() {
            bail!("there is no unfinished run in --out; leave --resume out to start one");
        }
        trainer.resume(task)?;
        context.report(Event::Line(&format!("going on after step {}", trainer.step())));
    } else if trainer.can_resume() {
        bail!("there is an unfinished run in --out; add --resume to go on, or choose another directory");
    }
    let parameters = task.parameters().count();
    let trained: usize = task.parameters().iter().filter(|p| p.trains).map(|p| p.value.len()).sum();
    let matrices: usize = task
        .parameters()
        .iter()
        .filter(|p| p.decays && !p.name.contains("embed_tokens"))
        .map(|p| p.value.len())
        .sum();
    context.report(Event::Line(&format!(
        "{} parameters, {} of them trained by {}",
        human_count(parameters as u64),
        human_count(trained as u64),
        recipe.method.slug()
    )));
    let outcome = trainer.run(task, context)?;
    let mut record = Record {
        task: name,
        method: recipe.method.slug(),
        date: today(),
        recipe: recipe.clone(),
        machine: Machine::look(),
        threads: context.threads(),
        parameters,
        trained_parameters: trained,
        // Forwards, to the inputs and to the weights: each a multiply and an add.
        training_flops: 6.0 * matrices as f64 * items * outcome.steps as f64,
        seconds: began.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
        file_bytes: None,
        outcome,
    };
    if let Some(out) = &output.out {
        let effective = toml::to_string_pretty(recipe).context("the recipe cannot be written as TOML")?;
        let files = vec![
            ("training_record.json".to_owned(), serde_json::to_vec_pretty(&record)?),
            ("learning_curve.svg".to_owned(), curve(&record.outcome).into_bytes()),
            ("recipe.toml".to_owned(), effective.into_bytes()),
        ];
        for (file, bytes) in &files {
            sparseland_data::write_atomically(out.join(file), bytes)?;
        }
        record.file_bytes = Some(save(task, out, files)?);
        trainer.forget();
    }
    if output.json {
        super::print_json(&record)
    } else {
        super::print_text(&to_text(&record, output.out.as_deref()))
    }
}

fn curve(outcome: &Outcome) -> String {
    let losses = outcome.losses.iter().map(|&(step, loss)| (step as f64, loss));
    let mut plot = Plot::new("Learning curve", "step", "loss").series("training loss", losses);
    for name in ["validation_loss", "bits_per_byte"] {
        let points: Vec<(f64, f64)> =
            outcome.curve.iter().filter_map(|p| Some((p.step as f64, *p.metrics.get(name)?))).collect();
        if !points.is_empty() {
            plot = plot.series(name.replace('_', " "), points);
        }
    }
    plot.to_svg()
}

fn to_text(record: &Record, out: Option<&Path>) -> String {
    let mut table = Table::new([Column::text(""), Column::text("")]);
    let mut row = |name: &str, value: String| {
        table.row([name.into(), value.into()]);
    };
    if let Some(last) = record.outcome.curve.last() {
        row("training loss", format!("{:.4}", last.loss));
        for (name, value) in &last.metrics {
            row(&name.replace('_', " "), format!("{value:.4}"));
        }
    }
    row("parameters", human_count(record.parameters as u64));
    row("optimiser state", human_bytes(record.outcome.optimiser_bytes));
    row("peak memory", human_bytes(record.peak_rss_bytes));
    let per_step = record.outcome.step_seconds / record.outcome.steps.max(1) as f64;
    row("time per step", human_seconds(per_step));
    if let Some(bytes) = record.file_bytes {
        row("weights on disk", human_bytes(bytes));
    }
    let early = if record.outcome.stopped_early { ", stopped early" } else { "" };
    let mut text = format!(
        "\n{table}\n{} steps in {}{early}, {} threads\n",
        record.outcome.steps,
        human_seconds(record.seconds),
        record.threads
    );
    if let (Some(out), true) = (out, record.task != "classifier") {
        text += &format!("next: sparseland eval {}\n", out.display());
    }
    text
}
