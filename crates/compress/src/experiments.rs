//! What the acceptance experiments of this crate share: planted weights, language models, rows of a record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use rand_pcg::Pcg64;
use serde::Deserialize;
use sparseland_core::{Context, Experiment};
use sparseland_data::Checkpoint;
use sparseland_linalg::{Mat, matmul, qr, svd};
use sparseland_matrix::ValueType;
use sparseland_nn::{Convention, Decoder, ModelConfig, Tokenizer, score};

use crate::CompressError;
use crate::allocation::{Allocation, Budget, ErrorSpace, Objective};
use crate::calibrate::Calibration;
use crate::pipeline::Job;
use crate::problem::{Accounting, LayerMethod, LayerProblem, Limit, Needs};
use crate::statistics::InputStatistics;

/// Where an experiment finds real data and may write.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The folder of data sets and models.
    pub data: PathBuf,
    /// A folder for temporary checkpoints.
    pub scratch: PathBuf,
}

/// A language model of an experiment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageModel {
    /// Its name in the record.
    pub name: String,
    /// Its directory below the data folder.
    pub dir: PathBuf,
    /// Its text: documents, of which the last are for evaluation.
    pub text: PathBuf,
    /// The share of documents for evaluation, or of each document's end where there are few.
    pub held_out_fraction: f64,
    /// Evaluation stops after about this many bytes.
    pub evaluation_bytes: usize,
    /// Sequences of calibration text.
    pub calibration_samples: usize,
    /// Tokens per sequence.
    pub calibration_length: usize,
    /// Removed fractions.
    pub remove: Vec<f64>,
}

/// A language model ready to be compressed and scored.
pub(crate) struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: ModelConfig,
    pub(crate) calibration: Calibration,
    tokenizer: Tokenizer,
    evaluation: Vec<String>,
}

/// Documents of fewer bytes than this are evaluated whole or not at all; longer ones give their ends.
const LONG: usize = 100_000;

impl LanguageModel {
    /// Reads model and text; `None` if the data folder has no such model.
    pub(crate) fn open(&self, folders: &Folders, context: &Context) -> Result<Option<Opened>, CompressError> {
        let dir = folders.data.join(&self.dir);
        if !dir.is_dir() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(dir)?;
        let config = ModelConfig::from_checkpoint(&checkpoint)?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let documents = sparseland_data::read_documents(folders.data.join(&self.text))?;
        let cut = ((1.0 - self.held_out_fraction) * documents.len() as f64) as usize;
        let long = documents.iter().all(|d| d.len() > LONG);
        let (mut calibration, mut evaluation) = (String::new(), Vec::new());
        for (i, document) in documents.iter().enumerate() {
            let at = if long {
                let at = ((1.0 - self.held_out_fraction) * document.len() as f64) as usize;
                (at..).find(|&at| document.is_char_boundary(at)).unwrap_or(document.len())
            } else if i < cut {
                document.len()
            } else {
                0
            };
            if at > 0 {
                // Enough of each for the calibration windows; all of a book would only take time to encode.
                let end = (0..=at.min(LONG)).rev().find(|&e| document.is_char_boundary(e)).unwrap_or(0);
                calibration += &document[..end];
                calibration += "\n";
            }
            let share = if long { self.evaluation_bytes / documents.len() } else { self.evaluation_bytes };
            let end = (at..=(at + share).min(document.len())).rev().find(|&e| document.is_char_boundary(e));
            let taken: usize = evaluation.iter().map(String::len).sum();
            if at < document.len() && taken < self.evaluation_bytes {
                evaluation.push(document[at..end.unwrap_or(at)].to_owned());
            }
        }
        let tokens = tokenizer.encode(&calibration, true)?.ids;
        let length = self.calibration_length.min(config.max_position_embeddings);
        let calibration = Calibration::sample(&tokens, self.calibration_samples, length, context)?;
        Ok(Some(Opened { checkpoint, config, calibration, tokenizer, evaluation }))
    }
}

impl Opened {
    /// Bits per byte of the evaluation text.
    pub(crate) fn bits(&self, decoder: &Decoder, context: &Context) -> Result<f64, CompressError> {
        let length = 256.min(self.config.max_position_embeddings);
        let convention = Convention::Rolling { length };
        let found = score(decoder, &self.tokenizer, &self.evaluation, convention, context)?;
        Ok(found.bits_per_byte().unwrap_or(f64::NAN))
    }

    /// Bits per byte of the model as it is.
    pub(crate) fn dense_bits(&self, context: &Context) -> Result<f64, CompressError> {
        self.bits(&Decoder::load(&self.checkpoint, context)?, context)
    }

    /// Bits per byte once a method has removed the same fraction of every layer, through the whole pipeline.
    pub(crate) fn compressed_bits(
        &self,
        method: &dyn LayerMethod,
        remove: f64,
        folders: &Folders,
        context: &Context,
    ) -> Result<f64, CompressError> {
        let budget = Budget {
            remove,
            accounting: Accounting::Params,
            allocation: Allocation::Uniform,
            objective: Objective::SquaredParams,
            error_space: ErrorSpace::Output,
        };
        let job = Job {
            checkpoint: &self.checkpoint,
            config: &self.config,
            calibration: self.calibration.clone(),
            method,
            parameters: String::new(),
            values: None,
            ignored: Default::default(),
            budget,
        };
        let out = folders.scratch.join(format!("sparseland-{}-{}", method.slug(), std::process::id()));
        let built = (|| {
            let run = job.start(&out, None)?;
            let plan = run.plan(run.profile(context)?, budget, context)?;
            run.build(&plan, "plan", &out, context)?;
            run.finish()?;
            self.bits(&Decoder::load(&Checkpoint::open(&out)?, context)?, context)
        })();
        // Temporary files that will not go do not change the result.
        let _ = std::fs::remove_dir_all(&out);
        built
    }
}

/// Collects rows and reports each as soon as it is there.
pub(crate) struct Record<'a> {
    pub(crate) rows: Vec<Experiment>,
    report: &'a mut (dyn FnMut(&Experiment) + Send),
    began: Instant,
}

/// One row before its time is taken.
pub(crate) struct Row<'a> {
    pub(crate) name: String,
    pub(crate) data: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) claimed: String,
    /// One value per seed.
    pub(crate) measured: &'a [f64],
    pub(crate) baseline: f64,
    pub(crate) passed: bool,
    pub(crate) seeds: &'a [u64],
}

impl<'a> Record<'a> {
    pub(crate) fn new(report: &'a mut (dyn FnMut(&Experiment) + Send)) -> Self {
        Self { rows: Vec::new(), report, began: Instant::now() }
    }

    /// Adds a row; its time is what has passed since the one before.
    pub(crate) fn add(&mut self, row: Row<'_>) {
        let values = row.measured;
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let experiment = Experiment {
            name: row.name,
            data: row.data.into(),
            metric: row.metric.into(),
            claimed: row.claimed,
            measured: mean(values),
            spread: if values.len() > 1 { (high - low) / 2.0 } else { 0.0 },
            baseline: row.baseline,
            passed: row.passed,
            seeds: row.seeds.to_vec(),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.began = Instant::now();
        (self.report)(&experiment);
        self.rows.push(experiment);
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The kinds of planted weights.
pub(crate) const KINDS: [&str; 3] = ["random weights", "power-law spectra", "unions of subspaces"];

/// Independent entries that are nearly normal: sums of twelve uniforms.
pub(crate) fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

/// A weight `d1 x d2` of one of the [`KINDS`].
pub(crate) fn weight(kind: usize, d1: usize, d2: usize, rng: &mut Pcg64) -> Result<Mat<f64>, CompressError> {
    let noise = gaussian(rng, d1, d2);
    Ok(match kind {
        0 => noise,
        1 => {
            let mut f = svd(&noise)?;
            f.s.iter_mut().enumerate().for_each(|(t, s)| *s = (1.0 + t as f64).powf(-0.8));
            f.reconstruct()
        }
        _ => {
            let bases: Vec<_> = (0..6).map(|_| gaussian(rng, d1, 8)).collect();
            let coefficients = gaussian(rng, 8, d2);
            Mat::from_fn(d1, d2, |i, j| {
                let base = &bases[j % bases.len()];
                (0..8).map(|t| base.at(i, t) * coefficients.at(t, j)).sum::<f64>() + 0.05 * noise.at(i, j)
            })
        }
    })
}

/// The statistics of inputs whose directions have very different energies.
pub(crate) fn anisotropic(d1: usize, rng: &mut Pcg64) -> Result<Arc<InputStatistics>, CompressError> {
    let mix = gaussian(rng, d1, d1);
    let spread = Mat::from_fn(d1, d1, |i, j| mix.at(i, j) / (1.0 + i as f64).sqrt());
    let inputs = matmul(&gaussian(rng, 4 * d1, d1), &spread)?;
    Ok(Arc::new(InputStatistics::of(&inputs, Needs::Gram)?))
}

pub(crate) fn problem(weight: &Mat<f64>, inputs: &Arc<InputStatistics>) -> LayerProblem {
    let (weight, inputs) = (weight.clone(), Some(inputs.clone()));
    LayerProblem { name: "planted".into(), weight, inputs, original: None, values: ValueType::F32 }
}

/// At most this share of a layer's parameters.
pub(crate) fn limit(weight: &Mat<f64>, removed: f64) -> Limit {
    let cost = ((1.0 - removed) * (weight.rows * weight.cols) as f64 + 1e-6) as u64;
    Limit { cost, accounting: Accounting::Params, values: ValueType::F32 }
}

/// `count` blocks `rows x cols` of one subspace of dimension `dim`, plus noise relative to their entries.
pub(crate) fn family(
    rng: &mut Pcg64,
    (rows, cols): (usize, usize),
    dim: usize,
    count: usize,
    noise: f64,
) -> Result<Vec<Mat<f64>>, CompressError> {
    let basis = qr(&gaussian(rng, rows, dim))?.q;
    let scale = (dim as f64 / rows as f64).sqrt();
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let mut block = matmul(&basis, &gaussian(rng, dim, cols))?;
        let other = gaussian(rng, rows, cols);
        block.data.iter_mut().zip(&other.data).for_each(|(b, o)| *b += noise * scale * o);
        blocks.push(block);
    }
    Ok(blocks)
}

/// A scratch folder's child that does not exist yet.
pub(crate) fn fresh(folders: &Folders, name: &str) -> PathBuf {
    let path: &Path = &folders.scratch;
    path.join(format!("sparseland-{name}-{}", std::process::id()))
}
