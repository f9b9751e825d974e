//! `sparseland compress`: the main job. Compresses a model, measures it before and after, and shows
//! what the uniform allocation would have given.

mod report;
mod select_inputs;
mod share_factors;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use sparseland_compress::CompressError;
use sparseland_compress::allocation::{Allocation, Budget, ErrorSpace, Objective, Plan};
use sparseland_compress::calibrate::Calibration;
use sparseland_compress::pipeline::{Compressed, Job, Run};
use sparseland_compress::problem::{Accounting, FactorShape};
use sparseland_core::{Context, Event, Method};
use sparseland_data::{Checkpoint, TensorSource};
use sparseland_matrix::ValueType;
use sparseland_nn::{ModelConfig, Tokenizer};

pub use report::Report;

use crate::factor_names::{self, Style};
use crate::layer_method::{self, Around, Settings};
use crate::model::{self, Measured};
use crate::recipe::{self, Recipe};
use crate::{bundled, interchange, machine};

/// Compresses a model without retraining and measures the result.
#[derive(Args, Clone)]
pub struct Compress {
    /// Directory of a Hugging Face checkpoint, or a hub name; the bundled model if absent.
    pub model: Option<PathBuf>,
    /// The method; `sparseland methods` lists them.
    #[arg(long, default_value = "rocket", value_name = "NAME")]
    pub method: String,
    /// A parameter of the method (`sparseland methods NAME` lists them); may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Take method, fraction and layers from a pruning recipe of llm-compressor (YAML).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "set", "remove", "allocation"])]
    pub recipe: Option<PathBuf>,
    /// Leave a linear layer dense: its full name, or `re:` and a regular expression; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub ignore: Vec<String>,
    /// How the budget is spread over the layers.
    #[arg(long, value_enum, default_value = "knapsack")]
    pub allocation: AllocationName,
    /// Fraction of the targeted linear layers to remove, in [0, 1).
    #[arg(long, default_value_t = 0.3, value_name = "FRACTION")]
    pub remove: f64,
    /// What the fraction counts: stored values, or bytes with masks, indices and scales.
    #[arg(long, value_enum, default_value = "params")]
    pub budget: AccountingName,
    /// Text for calibration (.txt or .jsonl, plain, .gz or .zst); bundled stories if absent.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Sequences of calibration text.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub calibration_samples: usize,
    /// Tokens per sequence.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub calibration_length: usize,
    /// Text for measuring quality; the bundled evaluation stories if absent.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Type of the stored factors; the layer's own if absent.
    #[arg(long, value_enum)]
    pub values: Option<ValuesName>,
    /// Where the new checkpoint goes.
    #[arg(long, default_value = "sparseland-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Also write the checkpoint in a form that other programs read.
    #[arg(long, value_enum)]
    pub export: Option<ExportName>,
    /// Replay the layer choices of a plan file (sparseland_plan.json of an earlier run).
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// What the knapsack minimises.
    #[arg(long, value_enum, default_value = "squared-params")]
    pub objective: ObjectiveName,
    /// Which error the knapsack looks at.
    #[arg(long, value_enum, default_value = "weight")]
    pub error_space: ErrorSpaceName,
    /// Skip the model that uniform allocation would have given.
    #[arg(long)]
    pub no_uniform: bool,
    /// Skip all measurements of quality and speed: only compress.
    #[arg(long)]
    pub no_eval: bool,
    /// Say what would be done and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Calibration and evaluation documents given by another command.
    #[arg(skip)]
    pub documents: Option<(Vec<String>, Vec<String>)>,
    /// Which layers are compressed, as a recipe names them; all linear ones if empty.
    #[arg(skip)]
    pub targets: Vec<String>,
    /// Measure quality but not speed.
    #[arg(skip)]
    pub quality_only: bool,
}

impl Default for Compress {
    /// The command without any argument.
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            compress: Compress,
        }
        <Alone as clap::Parser>::parse_from(["compress"]).compress
    }
}

/// Defines a command-line name list that maps onto a library type.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident => $target:ty { $($(#[$vdoc:meta])* $variant:ident => $value:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub enum $name { $($(#[$vdoc])* $variant),* }
        impl From<$name> for $target {
            fn from(name: $name) -> Self {
                match name { $($name::$variant => $value),* }
            }
        }
    };
}
names!(
    /// Allocations.
    AllocationName => Allocation {
        /// An exact multiple-choice knapsack.
        Knapsack => Allocation::Knapsack,
        /// The same fraction for every layer.
        Uniform => Allocation::Uniform,
        /// One global threshold on the method's own scores (WeLore).
        Threshold => Allocation::Threshold,
        /// The same relative output error in every layer.
        TailEnergy => Allocation::TailEnergy,
        /// Blocks with more outliers keep more (OWL).
        Owl => Allocation::Owl,
        /// One threshold on what each layer alone adds to the calibration loss (ASVD).
        Sensitivity => Allocation::Sensitivity,
    }
);
names!(
    /// Accountings.
    AccountingName => Accounting {
        /// Stored values, as the papers count.
        Params => Accounting::Params,
        /// Bytes in the file.
        Bytes => Accounting::Bytes,
    }
);
names!(
    /// Value types.
    ValuesName => ValueType {
        /// 32-bit floats.
        F32 => ValueType::F32,
        /// bfloat16.
        Bf16 => ValueType::Bf16,
        /// Half precision.
        F16 => ValueType::F16,
        /// 8-bit integers with row scales.
        Int8 => ValueType::I8,
    }
);
names!(
    /// Objectives of the knapsack.
    ObjectiveName => Objective {
        /// Squared relative errors weighted by parameters.
        SquaredParams => Objective::SquaredParams,
        /// The paper's sum of errors under its cap.
        Paper => Objective::Paper,
    }
);
names!(
    /// Error spaces.
    ErrorSpaceName => ErrorSpace {
        /// Relative error of the weights.
        Weight => ErrorSpace::Weight,
        /// Relative error of the outputs on the calibration text.
        Output => ErrorSpace::Output,
    }
);

/// Export forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportName {
    /// Dense weights, in OUT/dense.
    Dense,
    /// A compressed-tensors checkpoint (masks only), in OUT/compressed-tensors.
    CompressedTensors,
    /// Two dense factors per layer under SVD-LLM's names, in OUT/svd-llm.
    SvdLlm,
    /// Two dense factors per layer under ROCKET's names, in OUT/rocket.
    Rocket,
}

impl Compress {
    /// Runs the command.
    pub fn run(mut self, context: &Context) -> Result<()> {
        if let Some(path) = &self.recipe {
            let recipe = Recipe::read(path)?;
            self.method = recipe.method.to_owned();
            self.set = recipe.set;
            self.remove = recipe.remove;
            self.allocation = if recipe.owl { AllocationName::Owl } else { AllocationName::Uniform };
            self.targets = recipe.targets;
            self.ignore.extend(recipe.ignore);
        }
        let json = self.json;
        match self.method.as_str() {
            select_inputs::SLUG => return self.select_inputs(context),
            share_factors::SLUG => return self.share_factors(context),
            _ => {}
        }
        if self.dry_run {
            return self.describe(&model::open(self.model.as_deref())?.0);
        }
        let report = self.compress(context)?;
        if json { super::print_json(&report) } else { super::print_text(&report.to_text()) }
    }

    /// Does everything and returns the report.
    pub fn compress(&self, context: &Context) -> Result<Report> {
        let began = Instant::now();
        check_output(self.model.as_deref(), &self.out)?;
        if !(0.0..1.0).contains(&self.remove) {
            return Err(CompressError::Fraction(self.remove).into());
        }
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let config = ModelConfig::from_checkpoint(&checkpoint)?;
        let structured = sparseland_nn::structure::Structure::read(checkpoint.config())?;
        ensure!(
            structured.layers.is_empty(),
            "{name} is already compressed ({} structured layers); give the dense original",
            structured.layers.len()
        );
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let (found, settings) = self.settings()?;
        let calibration = self.calibration(&tokenizer, &config, context)?;
        let around = Around { checkpoint: &checkpoint, calibration: &calibration, out: &self.out, context };
        let method = layer_method::make(found.slug, &settings, &around)?;
        if self.plan.is_none() {
            method.check(&self.budget())?;
        }
        let text = self.evaluation_text()?;
        let replay = self.replay()?;
        if !self.json {
            self.announce(&checkpoint, &name, &calibration, context);
        }

        let before = self.measure(&checkpoint, &text, "measuring the original", context)?;
        let job = Job {
            checkpoint: &checkpoint,
            config: &config,
            calibration,
            method: method.as_ref(),
            parameters: settings.describe(),
            values: self.values.map(Into::into),
            budget: self.budget(),
            ignored: recipe::left_dense(config.num_hidden_layers, &self.targets, &self.ignore)?
                .into_iter()
                .collect(),
        };
        let run = job.start(&self.out, replay.as_ref())?;
        let started = Instant::now();
        let (plan, uniform) = match self.plans(&run, replay, context) {
            Ok(plans) => plans,
            Err(error) => {
                if let Some(CompressError::Infeasible { .. } | CompressError::Model(_)) = error.downcast_ref()
                {
                    // Nothing of this run can be resumed: another budget or another checkpoint comes next.
                    run.finish()?;
                    // Fails where the directory holds something else, as it should.
                    let _ = std::fs::remove_dir(&self.out);
                }
                return Err(error);
            }
        };
        let compressed = run.build(&plan, "plan", &self.out, context)?;
        let compression_seconds = started.elapsed().as_secs_f64();
        self.report_layers(&plan, &compressed, context);

        let result = Checkpoint::open(&self.out)?;
        let after = self.measure(&result, &text, "measuring the compressed model", context)?;
        let uniform = match uniform {
            Some(uniform) => Some(self.measure_uniform(&run, &uniform, &text, context)?),
            None => None,
        };
        run.finish()?;
        self.export_result(context)?;
        Ok(Report::new(self, &name, &plan, &compressed, (before, after, uniform), &checkpoint, &result)
            .timed(
                compression_seconds,
                began.elapsed().as_secs_f64(),
                machine::peak_rss_bytes(),
                context.threads(),
                context.seed(),
            ))
    }

    /// Writes the compressed checkpoint once more in the form asked for.
    fn export_result(&self, context: &Context) -> Result<()> {
        let factors = |style: Style| {
            factor_names::export(&self.out, &self.out.join(style.name()), style, context).map(|_| ())
        };
        match self.export {
            Some(ExportName::Dense) => model::export_dense(&self.out, &self.out.join("dense"), context),
            Some(ExportName::CompressedTensors) => {
                interchange::export(&self.out, &self.out.join("compressed-tensors"), context).map(|_| ())
            }
            Some(ExportName::SvdLlm) => factors(Style::SvdLlm),
            Some(ExportName::Rocket) => factors(Style::Rocket),
            None => Ok(()),
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            remove: self.remove,
            accounting: self.budget.into(),
            allocation: self.allocation.into(),
            objective: self.objective.into(),
            error_space: self.error_space.into(),
        }
    }

    /// The method and its parameters, checked.
    fn settings(&self) -> Result<(&'static Method, Settings)> {
        ensure!(self.calibration_samples > 0, "--calibration-samples must be at least 1");
        ensure!(self.calibration_length > 1, "--calibration-length must be at least 2");
        let method = layer_method::find(&self.method)?;
        Ok((method, Settings::new(method, &self.set)?))
    }

    fn calibration(
        &self,
        tokenizer: &Tokenizer,
        config: &ModelConfig,
        context: &Context,
    ) -> Result<Calibration> {
        let documents = match (&self.documents, &self.calibration) {
            (Some((calibration, _)), _) => calibration.clone(),
            (None, Some(path)) => sparseland_data::read_documents(path)?,
            (None, None) => bundled::stories(bundled::CALIBRATION),
        };
        let mut tokens = Vec::new();
        for document in &documents {
            tokens.extend(tokenizer.encode(document, true)?.ids);
        }
        let length = self.calibration_length.min(config.max_position_embeddings);
        let calibration = Calibration::sample(&tokens, self.calibration_samples, length, context)?;
        let widest = config.intermediate_size.max(config.hidden_size);
        if calibration.tokens() < widest {
            context.report(Event::Warning(&format!(
                "{} calibration tokens are fewer than the {widest} inputs of the widest layer; a longer text \
                 gives better factors",
                calibration.tokens()
            )));
        }
        Ok(calibration)
    }

    fn evaluation_text(&self) -> Result<Vec<String>> {
        Ok(match (&self.documents, &self.text) {
            (Some((_, evaluation)), _) => evaluation.clone(),
            (None, Some(path)) => sparseland_data::read_documents(path)?,
            (None, None) => bundled::stories(bundled::EVALUATION),
        })
    }

    fn replay(&self) -> Result<Option<Plan>> {
        let Some(path) = &self.plan else { return Ok(None) };
        let text = std::fs::read(path).with_context(|| format!("cannot read the plan {}", path.display()))?;
        let plan = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a plan of this program", path.display()))?;
        Ok(Some(plan))
    }

    /// The plan to build, and the uniform one to compare with.
    fn plans(&self, run: &Run<'_>, replay: Option<Plan>, context: &Context) -> Result<(Plan, Option<Plan>)> {
        if let Some(plan) = replay {
            return Ok((plan, None));
        }
        let profiles = run.profile(context)?;
        let plan = run.plan(profiles.clone(), self.budget(), context)?;
        let compare = !self.no_uniform && !self.no_eval && self.allocation != AllocationName::Uniform;
        let uniform = Budget { allocation: Allocation::Uniform, ..self.budget() };
        let uniform = if compare { run.plan(profiles, uniform, context).ok() } else { None };
        Ok((plan, uniform))
    }

    fn measure(
        &self,
        checkpoint: &Checkpoint,
        text: &[String],
        stage: &str,
        context: &Context,
    ) -> Result<Option<Measured>> {
        if self.no_eval {
            return Ok(None);
        }
        let measure = if self.quality_only { model::quality } else { model::measure };
        Ok(Some(measure(checkpoint, text, stage, context)?))
    }

    fn measure_uniform(
        &self,
        run: &Run<'_>,
        plan: &Plan,
        text: &[String],
        context: &Context,
    ) -> Result<Measured> {
        let dir = self.out.join(".uniform");
        run.build(plan, "uniform", &dir, context)?;
        let measured =
            model::quality(&Checkpoint::open(&dir)?, text, "measuring uniform allocation", context);
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        measured
    }

    fn describe(&self, checkpoint: &Checkpoint) -> Result<()> {
        let config = ModelConfig::from_checkpoint(checkpoint)?;
        let text = format!(
            "would compress {} layers of {} blocks by {} under {:?}, writing to {}\n",
            7 * config.num_hidden_layers,
            config.num_hidden_layers,
            self.method,
            self.budget(),
            self.out.display()
        );
        super::print_text(&text)
    }

    fn announce(&self, checkpoint: &Checkpoint, name: &str, calibration: &Calibration, context: &Context) {
        use sparseland_eval::table::human_bytes;
        context.report(Event::Line(&format!(
            "{name}: {} in {} tensors; removing {:.1} % of the linear layers' {} by {} with {} allocation, \
             calibrated on {} tokens, with {} threads",
            human_bytes(checkpoint.data_bytes()),
            checkpoint.names().len(),
            100.0 * self.remove,
            if self.budget == AccountingName::Params { "parameters" } else { "bytes" },
            self.method,
            Allocation::from(self.allocation).name(),
            calibration.tokens(),
            context.threads(),
        )));
    }

    fn report_layers(&self, plan: &Plan, compressed: &Compressed, context: &Context) {
        for (i, layer) in compressed.layers.iter().enumerate() {
            let option = plan.choice(i);
            let dense = &plan.layers[i].options[0];
            let size = 100.0 * option.bytes as f64 / dense.bytes.max(1) as f64;
            let what = match &option.layout {
                None => "left dense".to_owned(),
                Some(layout) => match FactorShape::of(layout) {
                    Some(s) if s.s == s.k => format!("rank {}", s.k),
                    Some(s) => format!("{} atoms, {} per output", s.k, s.s),
                    None => layout.kind().to_owned(),
                },
            };
            context.report(Event::Line(&format!(
                "{:<40} {what:<28} {size:5.1} % of its bytes, output error {:.4}",
                layer.name, layer.errors.output
            )));
        }
    }
}

/// Refuses an output directory that is a file or the input itself.
pub fn check_output(model: Option<&Path>, out: &Path) -> Result<()> {
    if out.exists() && !out.is_dir() {
        bail!("{} is a file; --out needs a directory", out.display());
    }
    if let (Some(model), Ok(out)) = (model, out.canonicalize())
        && model.canonicalize().is_ok_and(|m| m == out)
    {
        bail!("--out {} is the model itself; give another directory", out.display());
    }
    Ok(())
}
