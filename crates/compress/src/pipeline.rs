//! The main job: profile every layer, choose under a budget, compress block by block, write.
//!
//! Two streams of the calibration text pass through the network. The first sees the original blocks
//! and measures what each option of each layer would cost; the second sees the blocks as they will be
//! used: block `b` is compressed on inputs that the already compressed blocks before it produce.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, CheckpointOptions, CheckpointWriter, TensorSource, TensorSpec};
use sparseland_matrix::{Layout, LinearMap, Matrix, ValueType};
use sparseland_nn::structure::{Structure, StructuredLayer, part_spec};
use sparseland_nn::{Block, LinearSite, LoadOptions, ModelConfig};

use crate::CompressError;
use crate::allocation::{Allocation, Budget, LayerProfile, Plan, allocate, outlier_ratio};
use crate::calibrate::{BlockStatistics, Calibration, Stream};
use crate::fingerprint::Fnv;
use crate::problem::{Errors, LayerMethod, LayerProblem, Limit, Needs, cost, inputs_first};
use crate::sensitivity::Prober;
use crate::work::Work;

pub use crate::work::folder as work_folder;

/// Everything that decides the result of a compression.
pub struct Job<'a> {
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// Its configuration.
    pub config: &'a ModelConfig,
    /// The calibration text; may be empty for methods that need none.
    pub calibration: Calibration,
    /// How a layer is compressed.
    pub method: &'a dyn LayerMethod,
    /// A description of the method's parameters, part of the run's fingerprint.
    pub parameters: String,
    /// Type of the stored values; `None` keeps each layer's own.
    pub values: Option<ValueType>,
    /// The budget.
    pub budget: Budget,
    /// Layers, by full name, that stay dense and count in no budget.
    pub ignored: BTreeSet<String>,
}

/// What became of one layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The layer's full name.
    pub name: String,
    /// Its structure.
    pub layout: Layout,
    /// Errors of the stored matrix against the original on this run's calibration inputs.
    pub errors: Errors,
    /// Warning-worthy condition number of the whitener, where one was used.
    pub condition: Option<f64>,
}

/// A compressed checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Compressed {
    /// One record per targeted layer, in the network's order.
    pub layers: Vec<LayerRecord>,
    /// Bytes of the weight files.
    pub file_bytes: u64,
}

/// The removed fractions that every layer is profiled on: the target alone where every layer removes it,
/// a fine grid around it for the small shifts of OWL, else ROCKET's grid (0.05, 0.10, ..., 0.70) with the
/// target, so that uniform is one of the plans, reaching beyond high targets.
pub fn removal_grid(remove: f64, allocation: Allocation) -> Vec<f64> {
    let mut grid: Vec<f64> = match allocation {
        Allocation::Uniform => Vec::new(),
        Allocation::Owl => {
            (-10..=10).map(|i| remove + f64::from(i) * 0.01).filter(|g| (0.005..0.995).contains(g)).collect()
        }
        _ => {
            let top = (remove + 0.25).clamp(0.70, 0.95);
            (1..20).map(|i| f64::from(i) / 20.0).filter(|&g| g <= top + 1e-9).collect()
        }
    };
    if remove > 0.0 && grid.iter().all(|g| (g - remove).abs() > 1e-9) {
        grid.push(remove);
        grid.sort_by(f64::total_cmp);
    }
    grid
}

/// Layers with more weights than this are prepared one at a time: a decomposition holds several copies of
/// the layer in f64, and the products inside use all threads anyway.
const LARGE_LAYER: usize = 1 << 20;

impl<'a> Job<'a> {
    /// A line that says what this run is, and the fingerprint of everything that decides its result.
    fn describe(&self, replay: Option<&Plan>) -> (String, String) {
        let calibrated = if self.calibrated() { self.calibration.fingerprint() } else { "-".into() };
        let description = format!(
            "{} {} on {}, values {}, {:?}, calibration {calibrated}{}{}",
            self.method.slug(),
            self.parameters,
            self.checkpoint.dir().display(),
            self.values.map_or("as stored", ValueType::name),
            self.budget,
            if replay.is_some() { ", replayed plan" } else { "" },
            self.ignored.iter().map(|name| format!(", {name} left dense")).collect::<String>(),
        );
        let mut hash = Fnv::new();
        hash.add(description.as_bytes());
        hash.add(serde_json::to_string(self.checkpoint.config()).expect("JSON serialises").as_bytes());
        hash.add(&self.checkpoint.file_bytes().to_le_bytes());
        if let Some(plan) = replay {
            hash.add(&serde_json::to_vec(plan).expect("a plan serialises"));
        }
        (description, hash.finish())
    }

    fn calibrated(&self) -> bool {
        // The text also serves allocations that look at activations.
        self.method.needs() != Needs::Nothing
            || matches!(self.budget.allocation, Allocation::Owl | Allocation::Sensitivity)
    }

    /// Opens the folder of unfinished work inside `out`.
    fn work(&self, out: &Path, replay: Option<&Plan>) -> Result<Work, CompressError> {
        let (description, fingerprint) = self.describe(replay);
        Work::open(out, &fingerprint, &description)
    }

    /// Starts (or resumes) the job in the output directory.
    ///
    /// # Errors
    /// If the directory cannot be written or holds the unfinished work of another job; if the method cannot
    /// meet such a budget.
    pub fn start(self, out: &Path, replay: Option<&Plan>) -> Result<Run<'a>, CompressError> {
        if replay.is_none() {
            self.method.check(&self.budget)?;
        }
        if let Some(plan) = replay {
            check_replay(&self, plan)?;
        }
        let work = self.work(out, replay)?;
        Ok(Run { job: self, work })
    }
}

/// Whether the plan's layers are this model's.
fn check_replay(job: &Job<'_>, plan: &Plan) -> Result<(), CompressError> {
    let fail = |what: String| Err(CompressError::Plan(what));
    if plan.version != crate::allocation::PLAN_VERSION {
        return fail(format!(
            "its version is {}, this program reads {}",
            plan.version,
            crate::allocation::PLAN_VERSION
        ));
    }
    if plan.method != job.method.slug() {
        return fail(format!("it was made for --method {}", plan.method));
    }
    if plan.picks.len() != plan.layers.len() {
        return fail("it has not one pick per layer".into());
    }
    let sites = job.config.num_hidden_layers * LinearSite::ALL.len();
    if plan.layers.len() != sites {
        return fail(format!("it has {} layers, the model {sites}", plan.layers.len()));
    }
    for (i, layer) in plan.layers.iter().enumerate() {
        let name = LinearSite::ALL[i % LinearSite::ALL.len()].full_name(i / LinearSite::ALL.len());
        if layer.name != name {
            return fail(format!("layer {i} is {}, expected {name}", layer.name));
        }
        let Some(option) = layer.options.get(plan.picks[i]) else {
            return fail(format!("{name} picks option {} of {}", plan.picks[i], layer.options.len()));
        };
        if let Some(layout) = &option.layout
            && (layout.rows(), layout.cols()) != (layer.outputs, layer.inputs)
        {
            return fail(format!("{name} is stored as {} x {}", layout.rows(), layout.cols()));
        }
    }
    Ok(())
}

/// A job under way: knows what is finished.
pub struct Run<'a> {
    job: Job<'a>,
    work: Work,
}

impl Run<'_> {
    /// Profiles every layer on the original network.
    ///
    /// # Errors
    /// If a block cannot be loaded or a decomposition fails.
    pub fn profile(&self, context: &Context) -> Result<Vec<LayerProfile>, CompressError> {
        let blocks = self.job.config.num_hidden_layers;
        context.report(Event::Stage { name: "profiling", total: blocks });
        let mut finished: Vec<_> = (0..blocks).map(|b| self.work.profile(b)).collect();
        let mut stream = None;
        let mut prober = match self.job.budget.allocation {
            Allocation::Sensitivity => Some(Prober::new(self.job.checkpoint, context)?),
            _ => None,
        };
        for index in 0..blocks {
            if finished[index..].iter().all(Option::is_some) {
                break;
            }
            let block = self.load(index)?;
            let mut statistics = BlockStatistics::new();
            if self.job.calibrated() {
                if stream.is_none() {
                    stream = Some(self.stream()?);
                }
                let stream = stream.as_mut().expect("made above");
                // A probe needs the stream before the block; without one a single pass does.
                statistics = context.install(|| match prober {
                    Some(_) => stream.observe(&block, index, context),
                    None => stream.observe_and_advance(&block, index, context),
                })?;
            }
            if finished[index].is_none() {
                let keep = prober.is_some();
                let found =
                    context.install(|| self.profile_block(&block, index, &statistics, keep, context))?;
                let (mut profiles, built): (Vec<_>, Vec<_>) = found.into_iter().unzip();
                if let (Some(prober), Some(stream)) = (&mut prober, &mut stream) {
                    context.install(|| prober.probe(stream, index, &mut profiles, built, context))?;
                }
                self.work.keep_profile(index, &profiles)?;
                finished[index] = Some(profiles);
            }
            if let (Some(_), Some(stream)) = (&prober, &mut stream) {
                context.install(|| stream.advance(&block, index, context))?;
            }
            context.report(Event::Step { done: index + 1, message: "" });
        }
        Ok(finished.into_iter().flatten().flatten().collect())
    }

    /// The profiles of a block's layers; with `keep` also the matrices of their options.
    fn profile_block(
        &self,
        block: &Block,
        index: usize,
        statistics: &BlockStatistics,
        keep: bool,
        context: &Context,
    ) -> Result<Vec<(LayerProfile, Vec<Matrix>)>, CompressError> {
        let accounting = self.job.budget.accounting;
        let grid = removal_grid(self.job.budget.remove, self.job.budget.allocation);
        let profile = |site: LinearSite| {
            let weight = &block.linear(site).weight;
            let name = site.full_name(index);
            let dense = weight.layout();
            let values = self.values_of(&dense);
            let inputs = statistics.get(&site.input()).cloned();
            let mut profile = LayerProfile::new(name.clone(), &dense);
            if self.job.ignored.contains(&name) {
                profile.ignored = true;
                return Ok((profile, Vec::new()));
            }
            let problem = LayerProblem::new(&name, weight, inputs, values);
            profile.outliers = problem.inputs.as_deref().map(|inputs| outlier_ratio(&problem.weight, inputs));
            let prepared = self.job.method.prepare(problem)?;
            let whole = cost(&dense, accounting);
            let (mut near, mut built) = (None, Vec::new());
            for &removed in &grid {
                context.check_cancelled()?;
                let cost = ((1.0 - removed) * whole as f64 + 1e-6).floor() as u64;
                let limit = Limit { cost, accounting, values };
                if let Some(candidate) = prepared.candidate(limit, near.as_ref())? {
                    let layout = candidate.layout.clone();
                    if profile.push(removed, candidate) && keep {
                        built.push(prepared.build(&layout)?);
                    }
                    near = Some(layout);
                }
            }
            Ok((profile, built))
        };
        each_site(block, |site| profile(site).map_err(|e: CompressError| e.in_layer(&site.full_name(index))))
    }

    /// Chooses one option per layer.
    ///
    /// # Errors
    /// If the budget is infeasible.
    pub fn plan(
        &self,
        profiles: Vec<LayerProfile>,
        budget: Budget,
        context: &Context,
    ) -> Result<Plan, CompressError> {
        let values = self.job.values.unwrap_or(self.job.config.dtype);
        allocate(self.job.method.slug(), values, profiles, budget, context)
    }

    /// Compresses by the plan and writes the new checkpoint to `out`. `tag` names the variant, so that
    /// several plans of one job keep their finished layers apart.
    ///
    /// # Errors
    /// If a block cannot be loaded, a decomposition fails, or writing fails; nothing half-written
    /// remains visible.
    pub fn build(
        &self,
        plan: &Plan,
        tag: &str,
        out: &Path,
        context: &Context,
    ) -> Result<Compressed, CompressError> {
        let blocks = self.job.config.num_hidden_layers;
        context.report(Event::Stage { name: "compressing", total: blocks });
        let (mut stream, mut original) = (None, None);
        let mut records = Vec::new();
        for index in 0..blocks {
            let planned = &plan.layers[index * LinearSite::ALL.len()..(index + 1) * LinearSite::ALL.len()];
            let first = index * LinearSite::ALL.len();
            let options: Vec<_> = (0..planned.len()).map(|i| plan.choice(first + i)).collect();
            let found: Vec<_> = planned
                .iter()
                .zip(&options)
                .map(|(l, o)| if o.layout.is_some() { self.work.layer(tag, &l.name) } else { None })
                .collect();
            let missing = options.iter().zip(&found).any(|(o, f)| o.layout.is_some() && f.is_none());
            let later = (index + 1..blocks).any(|b| self.unfinished(plan, tag, b));
            if !missing && !later {
                // Nothing to compute here or further on: the records are enough.
                for (i, found) in found.into_iter().enumerate() {
                    records.push(match found {
                        Some((record, _)) => record,
                        None => dense_record(
                            &planned[i],
                            self.load(index)?.linear(LinearSite::ALL[i]).weight.layout(),
                        ),
                    });
                }
                continue;
            }
            let mut block = self.load(index)?;
            let calibrated = self.job.calibrated();
            if calibrated && stream.is_none() {
                stream = Some(self.stream()?);
            }
            if self.job.method.needs_original() && original.is_none() {
                original = Some(self.stream()?);
            }
            let statistics = match stream.as_mut() {
                Some(stream) if missing => context.install(|| stream.observe(&block, index, context))?,
                _ => BlockStatistics::new(),
            };
            let beside = match (stream.as_mut(), original.as_mut()) {
                (Some(stream), Some(original)) if missing => {
                    context.install(|| stream.beside(original, &block, index, context))?
                }
                _ => BTreeMap::new(),
            };
            if let Some(original) = original.as_mut()
                && later
            {
                context.install(|| original.advance(&block, index, context))?;
            }
            let fresh = context.install(|| {
                each_site(&block, |site| -> Result<Option<(LayerRecord, Matrix)>, CompressError> {
                    context.check_cancelled()?;
                    let i = LinearSite::ALL.iter().position(|&s| s == site).expect("one of them");
                    let Some(layout) = &options[i].layout else { return Ok(None) };
                    if let Some(done) = &found[i] {
                        return Ok(Some(done.clone()));
                    }
                    let weight = &block.linear(site).weight;
                    let inputs = statistics.get(&site.input()).cloned();
                    let name = &planned[i].name;
                    let mut problem =
                        LayerProblem::new(name, weight, inputs, self.values_of(&weight.layout()));
                    problem.original = beside.get(&site.input()).cloned();
                    let (record, matrix) = self.compress(problem, layout).map_err(|e| e.in_layer(name))?;
                    self.work.keep_layer(tag, &record, &matrix)?;
                    Ok(Some((record, matrix)))
                })
            })?;
            for (i, done) in fresh.into_iter().enumerate() {
                match done {
                    Some((record, matrix)) => {
                        block.linear_mut(LinearSite::ALL[i]).weight = matrix;
                        records.push(record);
                    }
                    None => records
                        .push(dense_record(&planned[i], block.linear(LinearSite::ALL[i]).weight.layout())),
                }
            }
            if let Some(stream) = stream.as_mut()
                && later
            {
                context.install(|| stream.advance(&block, index, context))?;
            }
            context.report(Event::Step { done: index + 1, message: "" });
        }
        self.write(plan, tag, out, records)
    }

    /// Whether some layer of the block still has to be factorised.
    fn unfinished(&self, plan: &Plan, tag: &str, block: usize) -> bool {
        let first = block * LinearSite::ALL.len();
        (first..first + LinearSite::ALL.len()).any(|i| {
            plan.choice(i).layout.is_some() && !self.work.layer_path(tag, &plan.layers[i].name).exists()
        })
    }

    fn compress(
        &self,
        problem: LayerProblem,
        layout: &Layout,
    ) -> Result<(LayerRecord, Matrix), CompressError> {
        // The errors of what is stored, rounding included.
        let (name, inputs) = (problem.name.clone(), problem.inputs.clone());
        let judge = LayerProblem {
            inputs: inputs.clone(),
            weight: problem.weight.clone(),
            original: None,
            name: name.clone(),
            values: problem.values,
        };
        let matrix = self.job.method.prepare(problem)?.build(layout)?;
        let condition = inputs.as_ref().and_then(|i| i.condition());
        let errors = judge.errors(&inputs_first(&matrix))?;
        Ok((LayerRecord { name, layout: matrix.layout(), errors, condition }, matrix))
    }

    /// Copies every tensor of the original except the weights that have become structured.
    fn write(
        &self,
        plan: &Plan,
        tag: &str,
        out: &Path,
        layers: Vec<LayerRecord>,
    ) -> Result<Compressed, CompressError> {
        let mut structure = Structure::default();
        for (record, pick) in layers.iter().zip(0..) {
            if plan.choice(pick).layout.is_some() {
                let layer = StructuredLayer {
                    method: plan.method.clone(),
                    layout: record.layout.clone(),
                    inputs: None,
                };
                structure.layers.insert(record.name.clone(), layer);
            }
        }
        let checkpoint = self.job.checkpoint;
        let layer_of = |tensor: &str| {
            let name = tensor.strip_suffix(".weight")?;
            structure.layers.contains_key(name).then(|| name.to_owned())
        };
        let damaged =
            |name: &str| CompressError::Plan(format!("the finished layer {name} cannot be read back"));
        let mut specs: Vec<TensorSpec> = Vec::new();
        for name in checkpoint.names() {
            match layer_of(name) {
                Some(layer) => {
                    let (_, matrix) = self.work.layer(tag, &layer).ok_or_else(|| damaged(&layer))?;
                    specs.extend(matrix.parts(&layer).iter().map(part_spec));
                }
                None => {
                    let info = checkpoint.info(name)?;
                    specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
                }
            }
        }
        let mut writer = CheckpointWriter::create(out, &specs, &CheckpointOptions::default())?;
        for name in checkpoint.names() {
            match layer_of(name) {
                Some(layer) => {
                    let (_, matrix) = self.work.layer(tag, &layer).ok_or_else(|| damaged(&layer))?;
                    for part in matrix.parts(&layer) {
                        writer.write(&part.name, &part.bytes)?;
                    }
                }
                None => writer.copy(checkpoint, name)?,
            }
        }
        writer.add_files_of(checkpoint)?;
        writer
            .add_file("sparseland_plan.json", serde_json::to_vec_pretty(plan).expect("a plan serialises"))?;
        let mut config = checkpoint.config().clone();
        structure.write(&mut config);
        let written = writer.finish(&config)?;
        Ok(Compressed { layers, file_bytes: written.file_bytes })
    }

    /// Removes the folder of unfinished work.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finish(self) -> Result<(), CompressError> {
        self.work.remove()
    }

    fn load(&self, index: usize) -> Result<Block, CompressError> {
        Ok(Block::load(self.job.checkpoint, self.job.config, index, &LoadOptions::default())?)
    }

    fn stream(&self) -> Result<Stream<'_>, CompressError> {
        let needs = self.job.method.needs();
        Stream::start(self.job.checkpoint, self.job.config, &self.job.calibration, needs, self.work.dir())
    }

    fn values_of(&self, dense: &Layout) -> ValueType {
        let own = match dense {
            Layout::Dense { values, .. } => *values,
            _ => ValueType::F32,
        };
        self.job.values.unwrap_or(own)
    }
}

/// Does something for every linear layer of a block: side by side while they are small, else in turn.
fn each_site<T: Send>(
    block: &Block,
    job: impl Fn(LinearSite) -> Result<T, CompressError> + Sync,
) -> Result<Vec<T>, CompressError> {
    let large = LinearSite::ALL.iter().any(|&site| {
        let weight = &block.linear(site).weight;
        weight.rows() * weight.cols() > LARGE_LAYER
    });
    if large {
        LinearSite::ALL.iter().map(|&site| job(site)).collect()
    } else {
        LinearSite::ALL.par_iter().map(|&site| job(site)).collect()
    }
}

fn dense_record(profile: &LayerProfile, layout: Layout) -> LayerRecord {
    LayerRecord { name: profile.name.clone(), layout, errors: Errors::NONE, condition: None }
}
