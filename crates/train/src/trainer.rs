//! The loop: batches, steps, validation, saved states.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sparseland_core::{Context, Event};
use sparseland_data::{DType, TensorFile, TensorSource, TensorSpec, TensorWriter};
use sparseland_matrix::Precision;
use sparseland_tape::optimiser::{Optimiser, clip_gradients};
use sparseland_tape::{Parameters, Parametrisation, Tape, Var};

use crate::{Recipe, TrainError};

/// Names of layers and their weights.
pub type Weights<'a> = Vec<(&'a str, &'a mut (dyn Parametrisation<f32> + 'static))>;

/// What is trained: a model with its data.
pub trait Task: Send {
    /// The model's parameters.
    fn parameters(&mut self) -> &mut Parameters<f32>;

    /// Every structured weight, with the name of its layer, and the parameters they work on.
    fn weights(&mut self) -> (Weights<'_>, &mut Parameters<f32>);

    /// The mean loss of part `part` of `parts` of a step's batch.
    fn loss(&mut self, tape: &mut Tape<f32>, step: u64, part: usize, parts: usize) -> Var;

    /// Named metrics on the validation data; the first one decides, and less is better.
    ///
    /// # Errors
    /// If the run is cancelled.
    fn validate(&mut self, tape: &mut Tape<f32>, context: &Context)
    -> Result<Vec<(String, f64)>, TrainError>;

    /// What of the task changes in training besides parameters and weights.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// If it does not fit.
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// One validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// Mean training loss since the last point.
    pub loss: f64,
    /// Learning rate of the last step.
    pub rate: f64,
    /// Metrics by name.
    pub metrics: BTreeMap<String, f64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Steps done.
    pub steps: u64,
    /// Whether patience ran out.
    pub stopped_early: bool,
    /// All validations.
    pub curve: Vec<Point>,
    /// Training losses of single steps, thinned to at most 1000.
    pub losses: Vec<(u64, f64)>,
    /// Seconds in steps, without validation.
    pub step_seconds: f64,
    /// Bytes of the optimiser's state.
    pub optimiser_bytes: u64,
}

impl Outcome {
    /// A metric of the last validation.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.curve.last()?.metrics.get(name).copied()
    }
}

/// What a saved state holds besides tensors.
#[derive(Serialize, Deserialize)]
struct Saved {
    recipe: String,
    step: u64,
    curve: Vec<Point>,
    losses: Vec<(u64, f64)>,
    loss_sum: f64,
    loss_count: u64,
    best: Option<f64>,
    since_best: u64,
    step_seconds: f64,
}

/// Runs a task by a recipe.
pub struct Trainer<'a> {
    recipe: &'a Recipe,
    /// Where states are saved; `None` saves nothing.
    state: Option<PathBuf>,
    optimiser: Box<dyn Optimiser<f32>>,
    saved: Saved,
}

/// The name of a saved state in a run's directory.
const STATE: &str = "training-state.safetensors";

impl<'a> Trainer<'a> {
    /// A run that starts at step 0 and saves its states in `dir`.
    pub fn new(recipe: &'a Recipe, dir: Option<&Path>) -> Self {
        let saved = Saved {
            recipe: serde_json::to_string(recipe).expect("a recipe serialises"),
            step: 0,
            curve: Vec::new(),
            losses: Vec::new(),
            loss_sum: 0.0,
            loss_count: 0,
            best: None,
            since_best: 0,
            step_seconds: 0.0,
        };
        Self { recipe, state: dir.map(|d| d.join(STATE)), optimiser: recipe.optimiser(), saved }
    }

    /// Whether there is a saved state to resume from.
    pub fn can_resume(&self) -> bool {
        self.state.as_ref().is_some_and(|p| p.exists())
    }

    /// Steps done so far.
    pub fn step(&self) -> u64 {
        self.saved.step
    }

    /// Continues a saved run, to the bit.
    ///
    /// # Errors
    /// If the state is damaged or belongs to another recipe.
    pub fn resume(&mut self, task: &mut dyn Task) -> Result<(), TrainError> {
        let Some(path) = self.state.clone() else { return Ok(()) };
        let wrong = |reason: String| TrainError::Resume { path: path.clone(), reason };
        let file = TensorFile::open(&path)?;
        let saved = file.metadata().get("state").ok_or_else(|| wrong("it has no state".into()))?;
        let saved: Saved = serde_json::from_str(saved).map_err(|e| wrong(e.to_string()))?;
        if saved.recipe != self.saved.recipe {
            return Err(wrong("it was made by another recipe; use that one or another --out".into()));
        }
        for p in task.parameters().iter_mut() {
            let values = file.read_f32(&format!("parameter.{}", p.name))?;
            if values.len() != p.value.len() {
                return Err(wrong(format!("parameter {} has another size", p.name)));
            }
            p.value.copy_from_slice(&values);
        }
        let mut blobs = Vec::new();
        for (name, _) in file.tensors() {
            if let Some(blob) = name.strip_prefix("optimiser.") {
                blobs.push((blob.to_owned(), file.read(name)?));
            }
        }
        self.optimiser.restore(task.parameters(), &blobs)?;
        let (weights, _) = task.weights();
        for (name, weight) in weights {
            let key = format!("weight.{name}");
            if file.find(&key).is_some() {
                weight.restore(&file.read(&key)?)?;
            }
        }
        if file.find("task").is_some() {
            task.restore(&file.read("task")?).map_err(&wrong)?;
        }
        self.saved = saved;
        Ok(())
    }

    /// Writes the state aside and renames it.
    fn save(&self, task: &mut dyn Task) -> Result<(), TrainError> {
        let Some(path) = &self.state else { return Ok(()) };
        let mut tensors: Vec<(TensorSpec, Vec<u8>)> = Vec::new();
        let mut blob = |name: String, bytes: Vec<u8>| {
            tensors.push((TensorSpec::new(name, DType::U8, vec![bytes.len()]), bytes));
        };
        for (name, bytes) in self.optimiser.state() {
            blob(format!("optimiser.{name}"), bytes);
        }
        for (name, weight) in task.weights().0 {
            let state = weight.state();
            if !state.is_empty() {
                blob(format!("weight.{name}"), state);
            }
        }
        let state = task.state();
        if !state.is_empty() {
            blob("task".into(), state);
        }
        for p in task.parameters().iter() {
            let spec = TensorSpec::new(format!("parameter.{}", p.name), DType::F32, vec![p.value.len()]);
            tensors.push((spec, p.value.bytes().to_vec()));
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|(s, _)| s.clone()).collect();
        let metadata = [("state".to_owned(), serde_json::to_string(&self.saved).expect("plain data"))].into();
        let mut writer = TensorWriter::create(path, &specs, &metadata)?;
        for (spec, bytes) in &tensors {
            writer.write(&spec.name, bytes)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Removes the saved state: the run is finished.
    pub fn forget(&self) {
        if let Some(path) = &self.state {
            // A state that stays behind only costs room.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Trains to the end of the recipe, or until patience runs out. A cancelled run saves its state first.
    ///
    /// # Errors
    /// If a number is not finite, a state cannot be saved, or the run is cancelled.
    pub fn run(&mut self, task: &mut dyn Task, context: &Context) -> Result<Outcome, TrainError> {
        let t = &self.recipe.training;
        let schedule = self.recipe.schedule();
        context.report(Event::Stage { name: "training", total: t.steps as usize });
        let mut tape = Tape::new();
        let mut stopped_early = false;
        while self.saved.step < t.steps && !stopped_early {
            if context.check_cancelled().is_err() {
                self.save(task)?;
                context.check_cancelled()?;
            }
            let step = self.saved.step;
            let started = Instant::now();
            let rate = schedule.rate(step);
            let loss = context.install(|| self.one_step(task, &mut tape, step, rate))?;
            self.saved.step_seconds += started.elapsed().as_secs_f64();
            self.saved.step += 1;
            self.saved.loss_sum += loss;
            self.saved.loss_count += 1;
            let every = (t.steps / 1000).max(1);
            if step.is_multiple_of(every) {
                self.saved.losses.push((step, loss));
            }
            let message = format!("loss {loss:.4}, rate {rate:.2e}");
            context.report(Event::Step { done: self.saved.step as usize, message: &message });
            let last = self.saved.step == t.steps;
            if last || (t.validate_every > 0 && self.saved.step.is_multiple_of(t.validate_every)) {
                stopped_early = self.validate(task, &mut tape, rate, context)? && !last;
            }
            if !last && t.save_every > 0 && self.saved.step.is_multiple_of(t.save_every) {
                self.save(task)?;
            }
        }
        Ok(Outcome {
            steps: self.saved.step,
            stopped_early,
            curve: self.saved.curve.clone(),
            losses: self.saved.losses.clone(),
            step_seconds: self.saved.step_seconds,
            optimiser_bytes: self.optimiser.bytes(),
        })
    }

    fn one_step(
        &mut self,
        task: &mut dyn Task,
        tape: &mut Tape<f32>,
        step: u64,
        rate: f64,
    ) -> Result<f64, TrainError> {
        let t = &self.recipe.training;
        let (weights, parameters) = task.weights();
        for (_, weight) in weights {
            weight.refresh(step, parameters)?;
        }
        task.parameters().zero_gradients();
        tape.set_recording(true);
        tape.set_precision(t.products.into());
        let mut total = 0.0;
        for part in 0..t.accumulate {
            let mut loss = task.loss(tape, step, part, t.accumulate);
            if t.accumulate > 1 {
                loss = tape.scale(task.parameters(), loss, 1.0 / t.accumulate as f32);
            }
            let value = f64::from(tape.value(loss)[0]);
            if !value.is_finite() {
                let place = match task.parameters().first_not_finite() {
                    Some((name, at, _)) => format!("; {name}[{at}] is not"),
                    None => tape.first_not_finite().map_or(String::new(), |op| format!(", first in {op}")),
                };
                return Err(self.not_finite(step, "the loss", place));
            }
            total += value;
            tape.backward(loss, task.parameters());
            tape.clear();
        }
        let (weights, parameters) = task.weights();
        for (_, weight) in weights {
            weight.reach(parameters);
        }
        let limit = if t.clip > 0.0 { t.clip } else { f64::INFINITY };
        let norm = clip_gradients(task.parameters(), limit);
        if !norm.is_finite() {
            let place = task.parameters().first_not_finite();
            let place = place.map_or(String::new(), |(name, at, _)| format!(" at {name}[{at}]"));
            return Err(self.not_finite(step, "a gradient", place));
        }
        self.optimiser.step(task.parameters(), rate);
        let (weights, parameters) = task.weights();
        for (_, weight) in weights {
            weight.after_step(rate, parameters);
        }
        Ok(total)
    }

    fn not_finite(&self, step: u64, what: &'static str, place: String) -> TrainError {
        let saved = match &self.state {
            Some(path) if path.exists() => format!("the last good state is {}; ", path.display()),
            _ => String::new(),
        };
        TrainError::NotFinite { step, what, place, saved }
    }

    /// Whether patience has run out.
    fn validate(
        &mut self,
        task: &mut dyn Task,
        tape: &mut Tape<f32>,
        rate: f64,
        context: &Context,
    ) -> Result<bool, TrainError> {
        // The weights as they will be used from here on.
        let (weights, parameters) = task.weights();
        for (_, weight) in weights {
            weight.refresh(self.saved.step, parameters)?;
        }
        tape.set_recording(false);
        tape.set_precision(Precision::Full);
        let metrics = context.install(|| task.validate(tape, context))?;
        let mut metrics = metrics;
        let mut counts = BTreeMap::<&'static str, f64>::new();
        for (_, weight) in task.weights().0 {
            weight.report().into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
        }
        metrics.extend(counts.into_iter().map(|(name, count)| (name.to_owned(), count)));
        let loss = self.saved.loss_sum / self.saved.loss_count.max(1) as f64;
        (self.saved.loss_sum, self.saved.loss_count) = (0.0, 0);
        let parts: Vec<String> = metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let line = format!("step {:>6}  loss {loss:.4}  {}", self.saved.step, parts.join("  "));
        context.report(Event::Line(&line));
        let decisive = metrics.first().map_or(loss, |m| m.1);
        if self.saved.best.is_none_or(|best| decisive < best) {
            (self.saved.best, self.saved.since_best) = (Some(decisive), 0);
        } else {
            self.saved.since_best += 1;
        }
        let metrics = metrics.into_iter().collect();
        self.saved.curve.push(Point { step: self.saved.step, loss, rate, metrics });
        let patience = self.recipe.training.patience;
        Ok(patience > 0 && self.saved.since_best >= patience)
    }
}
