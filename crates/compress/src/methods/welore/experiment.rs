//! The acceptance experiments of WeLore that need no fine-tuning.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::{Mat, matmul, svd_values};
use sparseland_matrix::{Dense, Layout, LinearMap, ValueType};
use sparseland_nn::structure::Structure;
use sparseland_nn::{Decoder, LinearSite};

use super::{Class, LRC_CUT, Normalise, Spectra, Spectrum, Target, low_rank_layers, truncated};
use crate::CompressError;
use crate::experiments::{Folders, LanguageModel, Opened, Record, Row, fresh, gaussian};
use crate::pipeline::Job;

/// What `experiments/welore.toml` holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the random spectra.
    pub seeds: Vec<u64>,
    /// Shares of ranks to drop on language models.
    pub ranks: Vec<f64>,
    /// The smallest relative difference of bits per byte that counts as a gap in the control.
    pub control_gap: f64,
    /// Language models.
    pub model: Vec<LanguageModel>,
}

/// All experiments for which there are data; `report` receives each as soon as it is done.
///
/// # Errors
/// Whatever a run returns.
pub fn run(
    config: &Config,
    folders: &Folders,
    context: &Context,
    report: &mut (dyn FnMut(&Experiment) + Send),
) -> Result<Vec<Experiment>, CompressError> {
    let mut record = Record::new(report);
    context.install(|| {
        accuracy(config, &mut record)?;
        planted(config, &mut record)
    })?;
    for model in &config.model {
        let Some(opened) = model.open(folders, context)? else { continue };
        let spectra = Spectra::analyze(&opened.checkpoint, &opened.config, None, context)?;
        shares(config, &model.name, &opened, &spectra, context, &mut record)?;
        stored(&model.name, &opened, &spectra, folders, context, &mut record)?;
    }
    Ok(record.rows)
}

fn spectrum(name: String, values: Vec<f64>) -> Spectrum {
    let p = values.len();
    Spectrum { name, dense: Layout::Dense { rows: p, cols: p, values: ValueType::F32 }, values }
}

/// How far the achieved share of ranks is from the asked one, in singular values.
fn accuracy(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let mut worst = Vec::new();
    let mut monotone = true;
    for &seed in &config.seeds {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut far = 0.0f64;
        for _ in 0..100 {
            let layers = (0..7).map(|i| {
                let decay = rng.random_range(0.1..2.0);
                let mut values: Vec<f64> = (0..rng.random_range(16..96))
                    .map(|t| (1.0 + f64::from(t)).powf(-decay) * (1.0 + 0.1 * rng.random::<f64>()))
                    .collect();
                values.sort_by(|a, b| b.total_cmp(a));
                spectrum(format!("{i}"), values)
            });
            let spectra = Spectra { layers: layers.collect() };
            let all: usize = spectra.layers.iter().map(|l| l.values.len()).sum();
            let mut last = 0.0;
            for percent in 1..8 {
                let share = f64::from(percent) / 10.0;
                let found = spectra.threshold(Target::Ranks(share), Normalise::MinMax)?;
                far = far.max((found.ranks - share).abs() * all as f64);
                monotone &= found.value >= last;
                last = found.value;
            }
        }
        worst.push(far);
    }
    record.add(Row {
        name: "distance from the asked share of ranks, worst".into(),
        data: "100 random sets of 7 spectra per seed, 10 to 70 %",
        metric: "singular values; thresholds must rise with the share",
        claimed: "at most 1".into(),
        measured: &worst,
        baseline: 1.0,
        passed: monotone && worst.iter().all(|&w| w <= 1.0),
        seeds: &config.seeds,
    });
    Ok(())
}

/// Planted ranks plus noise: how far the chosen ranks are from them.
fn planted(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let ranks = [4, 8, 16, 24, 32, 48];
    let mut worst = Vec::new();
    for &seed in &config.seeds {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut layers = Vec::new();
        for &rank in &ranks {
            let low = matmul(&gaussian(&mut rng, 64, rank), &gaussian(&mut rng, rank, 64))?;
            let (size, noise) = (low.frobenius_norm() / 64.0, gaussian(&mut rng, 64, 64));
            let w = Mat::from_fn(64, 64, |i, j| low.at(i, j) / size + 1e-3 * noise.at(i, j));
            layers.push(spectrum(format!("rank {rank}"), svd_values(&w)?));
        }
        let spectra = Spectra { layers };
        let share = 1.0 - ranks.iter().sum::<usize>() as f64 / (64 * ranks.len()) as f64;
        let found = spectra.threshold(Target::Ranks(share), Normalise::MinMax)?;
        let chosen = spectra.ranks(found.value, Normalise::MinMax);
        worst.push(ranks.iter().zip(chosen).map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0) as f64);
    }
    record.add(Row {
        name: "planted ranks missed by, worst".into(),
        data: "6 matrices 64 x 64 of ranks 4 to 48, noise 1e-3",
        metric: "ranks, lower is better",
        claimed: "at most 2".into(),
        measured: &worst,
        baseline: 2.0,
        passed: worst.iter().all(|&w| w <= 2.0),
        seeds: &config.seeds,
    });
    Ok(())
}

/// Bits per byte with every layer cut to its rank, stored dense.
fn cut(opened: &Opened, start: &Decoder, ranks: &[usize], context: &Context) -> Result<f64, CompressError> {
    let mut decoder = start.clone();
    context.install(|| -> Result<(), CompressError> {
        for (b, block) in decoder.blocks_mut().iter_mut().enumerate() {
            for (i, site) in LinearSite::ALL.into_iter().enumerate() {
                let weight = &mut block.linear_mut(site).weight;
                let rank = ranks[b * LinearSite::ALL.len() + i];
                if rank < weight.rows().min(weight.cols()) {
                    *weight = truncated(weight, rank)?;
                }
            }
        }
        Ok(())
    })?;
    opened.bits(&decoder, context)
}

/// One global threshold against the same share of every matrix, on the trained model and on one whose weights were drawn
/// anew with the same norms.
fn shares(
    config: &Config,
    name: &str,
    opened: &Opened,
    spectra: &Spectra,
    context: &Context,
    record: &mut Record<'_>,
) -> Result<(), CompressError> {
    let decoder = Decoder::load(&opened.checkpoint, context)?;
    let dense = opened.bits(&decoder, context)?;
    let mut control = decoder.clone();
    let mut rng = Pcg64::seed_from_u64(context.seed());
    let mut layers = Vec::new();
    for (b, block) in control.blocks_mut().iter_mut().enumerate() {
        for site in LinearSite::ALL {
            let weight = &mut block.linear_mut(site).weight;
            let (rows, cols) = (weight.rows(), weight.cols());
            let norm = weight.to_dense().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let drawn = gaussian(&mut rng, rows, cols);
            let scale = norm / drawn.frobenius_norm();
            let values: Vec<f32> = drawn.data.iter().map(|v| (v * scale) as f32).collect();
            *weight = Dense::from_f32(rows, cols, &values, ValueType::F32).into();
            let values = svd_values(&drawn)?.iter().map(|s| s * scale).collect();
            let dense = Layout::Dense { rows, cols, values: ValueType::F32 };
            layers.push(Spectrum { name: site.full_name(b), dense, values });
        }
    }
    let random = Spectra { layers };
    let undamaged = opened.bits(&control, context)?;
    for &share in &config.ranks {
        let uniform = |s: &Spectra| -> Vec<usize> {
            let keep = |l: &Spectrum| ((1.0 - share) * l.values.len() as f64).round() as usize;
            s.layers.iter().map(|l| keep(l).max(1)).collect()
        };
        let chosen = |s: &Spectra| -> Result<Vec<usize>, CompressError> {
            let found = s.threshold(Target::Ranks(share), Normalise::MinMax)?;
            Ok(s.ranks(found.value, Normalise::MinMax))
        };
        let ours = cut(opened, &decoder, &chosen(spectra)?, context)?;
        let same = cut(opened, &decoder, &uniform(spectra), context)?;
        record.add(Row {
            name: format!("one threshold, {:.0} % of ranks", 100.0 * share),
            data: name,
            metric: "bits per byte, lower is better; baseline: the same share of every matrix",
            claimed: format!("below uniform, dense {dense:.4}"),
            measured: &[ours],
            baseline: same,
            passed: ours < same,
            seeds: &[context.seed()],
        });
        let ours = cut(opened, &control, &chosen(&random)?, context)?;
        let same = cut(opened, &control, &uniform(&random), context)?;
        let gap = (same - ours) / undamaged;
        record.add(Row {
            name: format!("control: random weights, {:.0} % of ranks", 100.0 * share),
            data: name,
            metric: "bits per byte gained over uniform, relative; baseline: the largest that counts as none",
            claimed: "no gap".into(),
            measured: &[gap],
            baseline: config.control_gap,
            passed: gap.abs() <= config.control_gap,
            seeds: &[context.seed()],
        });
    }
    Ok(())
}

/// The plan for 30 % of the parameters through the pipeline: size as planned, low-rank components found in the file.
fn stored(
    name: &str,
    opened: &Opened,
    spectra: &Spectra,
    folders: &Folders,
    context: &Context,
    record: &mut Record<'_>,
) -> Result<(), CompressError> {
    let found = spectra.threshold(Target::Parameters(0.3), Normalise::MinMax)?;
    let ranks = spectra.ranks(found.value, Normalise::MinMax);
    let split = spectra.split(&ranks, LRC_CUT, true);
    let plan = spectra.plan(&split, None);
    let method = super::Welore::default();
    let job = Job {
        checkpoint: &opened.checkpoint,
        config: &opened.config,
        calibration: opened.calibration.clone(),
        method: &method,
        parameters: String::new(),
        values: None,
        ignored: Default::default(),
        budget: plan.budget,
    };
    let out = fresh(folders, "welore");
    let built = (|| -> Result<(f64, bool), CompressError> {
        let run = job.start(&out, Some(&plan))?;
        run.build(&plan, "plan", &out, context)?;
        run.finish()?;
        let written = sparseland_data::Checkpoint::open(&out)?;
        let structure = Structure::read(written.config())?;
        let planned = split.iter().filter(|l| l.class == Class::LowRank).map(|l| l.name.clone());
        let mut planned: Vec<String> = planned.collect();
        planned.sort();
        let same = low_rank_layers(&structure, LRC_CUT) == planned;
        Ok((opened.bits(&Decoder::load(&written, context)?, context)?, same))
    })();
    // Temporary files that will not go do not change the result.
    let _ = std::fs::remove_dir_all(&out);
    let (bits, same) = built?;
    // Classes by kind of projection, for the record.
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for layer in &split {
        let entry = kinds.entry(layer.name.rsplit('.').next().unwrap_or_default()).or_default();
        *entry = (entry.0 + usize::from(layer.class == Class::LowRank), entry.1 + 1);
    }
    let kinds: Vec<String> = kinds.iter().map(|(k, (low, all))| format!("{k} {low}/{all}")).collect();
    record.add(Row {
        name: format!("components found in the checkpoint: {}", kinds.join(", ")),
        data: name,
        metric: "share of parameters removed; baseline: bits per byte before any fine-tuning",
        claimed: "at least 0.3, the list equal to the plan's".into(),
        measured: &[found.parameters],
        baseline: bits,
        passed: same && found.parameters >= 0.3 - 1e-9,
        seeds: &[context.seed()],
    });
    Ok(())
}
