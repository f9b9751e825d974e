//! R-Sparse: the order of its variants on language models, a planted layer, decode speed of a stack of large
//! layers, thresholds on unseen text.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use sparseland_compress::calibrate::Calibration;
use sparseland_compress::methods::r_sparse::{
    Alphas, Freedom, PreparedLayer, RSparse, SidePath, Split, calibrate, search,
};
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_data::Checkpoint;
use sparseland_eval::statistics::median;
use sparseland_matrix::{Dense, LinearMap, Matrix, ValueType};
use sparseland_nn::{
    Convention, Decoder, Linear, LinearSite, ModelConfig, Tokenizer, Workspace, embed, score,
};

use super::rocket::{Model, texts};
use crate::model;

/// The committed experiment.
pub const CONFIG: &str = include_str!("../../../../../experiments/r-sparse.toml");

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    slug: String,
    paper_claim: String,
    sparsities: Vec<f64>,
    alphas: Vec<f64>,
    calibration_samples: usize,
    calibration_length: usize,
    stack_width: usize,
    stack_layers: usize,
    stack_runs: usize,
    seeds: Vec<u64>,
    model: Vec<Model>,
}

/// Runs all experiments.
pub fn run(config: &Config, context: &Context) -> Result<Reproduction> {
    let root = super::data_dir();
    let (mut experiments, mut notes) = (Vec::new(), Vec::new());
    for entry in &config.model {
        let dir = entry.dir.as_ref().map(|dir| root.join(dir));
        if dir.as_ref().is_some_and(|dir| !dir.is_dir()) {
            notes.push(format!(
                "{} left out: set SPARSELAND_DATA to a folder that holds its files",
                entry.name
            ));
            continue;
        }
        let (checkpoint, _) = model::open(dir.as_deref())?;
        experiments.extend(language_model(config, entry, &checkpoint, &root, context)?);
    }
    experiments.extend(planted(config)?);
    experiments.extend(stack(config, context)?);
    for e in &experiments {
        let outcome = if e.passed { "" } else { "  MISSED" };
        context.report(Event::Line(&format!("{}: {:.4} ({}){outcome}", e.name, e.measured, e.claimed)));
    }
    notes.push(
        "which alpha is best depends on the model: wide layers of large models like 0.95 (paper), novels-10m 0.5, \
         the bundled model 1; the search follows the calibration text, which for the bundled model was part of its \
         training, so that what it finds need not hold on other text"
            .into(),
    );
    Ok(Reproduction {
        slug: config.slug.clone(),
        paper_claim: config.paper_claim.clone(),
        verdict: Reproduction::judge(&experiments),
        experiments,
        notes,
    })
}

/// One row; the caller fills in what differs.
fn row(
    name: String,
    data: &str,
    claimed: &str,
    (measured, baseline): (f64, f64),
    passed: bool,
) -> Experiment {
    Experiment {
        name,
        data: data.to_owned(),
        metric: "bits per byte, lower is better".into(),
        claimed: claimed.to_owned(),
        measured,
        spread: 0.0,
        baseline,
        passed,
        seeds: vec![0],
        seconds: 0.0,
    }
}

fn language_model(
    config: &Config,
    entry: &Model,
    checkpoint: &Checkpoint,
    root: &std::path::Path,
    context: &Context,
) -> Result<Vec<Experiment>> {
    let (calibration, evaluation) = texts(entry, root)?;
    let shape = ModelConfig::from_checkpoint(checkpoint)?;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let mut tokens = Vec::new();
    for document in &calibration {
        tokens.extend(tokenizer.encode(document, true)?.ids);
    }
    let calibration =
        Calibration::sample(&tokens, config.calibration_samples, config.calibration_length, context)?;
    let scratch = std::env::temp_dir().join(format!("sparseland-r-sparse-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let quality = |decoder: &Decoder| -> Result<f64> {
        let score = score(decoder, &tokenizer, &evaluation, Convention::Rolling { length: 256 }, context)?;
        Ok(score.bits_per_byte().unwrap_or(f64::NAN))
    };
    let sparse = |method: &RSparse, alphas: &Alphas| -> Result<Decoder> {
        let mut decoder = Decoder::load(checkpoint, context)?;
        calibrate(
            (checkpoint, &shape),
            &calibration,
            (method, alphas),
            &scratch,
            context,
            &mut |i, block| {
                decoder.blocks_mut()[i] = block;
                Ok(())
            },
        )?;
        Ok(decoder)
    };
    let dense = quality(&Decoder::load(checkpoint, context)?)?;
    let mut rows = Vec::new();
    let name = entry.name.as_str();
    for &sparsity in &config.sparsities {
        let method = RSparse { sparsity, ..RSparse::default() };
        let title = |what: &str| format!("{what}, {:.0} % skipped", 100.0 * sparsity);
        let magnitude =
            quality(&sparse(&RSparse { norms: false, ..method.clone() }, &Alphas::Uniform(1.0))?)?;
        rows.push(row(title("inputs by |x|"), name, "above dense", (magnitude, dense), magnitude > dense));
        let normed = quality(&sparse(&method, &Alphas::Uniform(1.0))?)?;
        let passed = normed < magnitude;
        rows.push(row(
            title("weighed by column norms"),
            name,
            "below |x| alone",
            (normed, magnitude),
            passed,
        ));
        let mut best = (1.0, normed);
        for &alpha in &config.alphas {
            let bits = quality(&sparse(&method, &Alphas::Uniform(alpha))?)?;
            let bar = alpha == 0.95 && sparsity >= 0.5;
            let claimed = if bar { "below alpha 1" } else { "shown" };
            let title = title(&format!("alpha {alpha}"));
            rows.push(row(title, name, claimed, (bits, normed), !bar || bits < normed));
            if bits < best.1 {
                best = (alpha, bits);
            }
        }
        let rest = RSparse { path: SidePath::Rest, ..method.clone() };
        let bits = quality(&sparse(&rest, &Alphas::Uniform(0.95))?)?;
        let what = title("alpha 0.95, path of the inputs not kept (ours)");
        rows.push(row(what, name, "shown", (bits, normed), true));
        let once =
            quality(&sparse(&RSparse { sequential: false, ..method.clone() }, &Alphas::Uniform(best.0))?)?;
        let what = format!("alpha {}, thresholds of the dense network", best.0);
        rows.push(row(title(&what), name, "shown: the official order", (once, best.1), true));
        if sparsity == 0.5 {
            let of = [
                (Freedom::Common, "one alpha searched"),
                (Freedom::Kinds, "alpha searched per kind of layer"),
                (Freedom::Layers, "alpha searched per layer"),
            ];
            for (freedom, what) in of {
                let alphas = search(checkpoint, &calibration, (&method, freedom), &scratch, context)?;
                let found = sparse(&method, &alphas)?;
                let bits = quality(&found)?;
                let claimed = "at most the best common alpha";
                rows.push(row(title(what), name, claimed, (bits, best.1), bits <= best.1));
                if freedom == Freedom::Layers {
                    let around = (name, sparsity);
                    rows.push(transfer((checkpoint, &found), &tokenizer, &evaluation, around, &alphas)?);
                }
            }
        }
    }
    std::fs::remove_dir_all(&scratch)?;
    Ok(rows)
}

/// The largest distance of a layer's realised share of exact inputs from its planned one, on unseen text.
fn transfer(
    (checkpoint, decoder): (&Checkpoint, &Decoder),
    tokenizer: &Tokenizer,
    evaluation: &[String],
    (name, sparsity): (&str, f64),
    alphas: &Alphas,
) -> Result<Experiment> {
    let shape = decoder.config();
    let mut workspace = Workspace::new(shape);
    let (mut kept, mut count) = (vec![0.0; shape.num_hidden_layers * LinearSite::ALL.len()], 0.0);
    for document in evaluation.iter().take(16) {
        let mut tokens = tokenizer.encode(document, true)?.ids;
        tokens.truncate(256);
        // Block by block: the states before a block are those of the blocks before it.
        let sequences = [tokens];
        let Some(states) = embed(checkpoint, shape, &sequences)?.next() else { continue };
        let mut states = states?;
        count += 1.0;
        for (b, block) in decoder.blocks().iter().enumerate() {
            block.forward_sequence(shape, &mut states, &mut workspace, &mut |input, x, _| {
                for site in LinearSite::ALL.into_iter().filter(|s| s.input() == input) {
                    if let Some(selection) = &block.linear(site).selection {
                        kept[b * LinearSite::ALL.len() + site as usize] += selection.kept_share(x);
                    }
                }
            });
        }
    }
    let planned = |layer: usize| {
        let (outputs, inputs) = LinearSite::ALL[layer % LinearSite::ALL.len()].shape(shape);
        let alpha = match alphas {
            Alphas::Uniform(alpha) => *alpha,
            Alphas::PerLayer(all) => all[layer],
        };
        Split::new((inputs, outputs), sparsity, alpha).channels as f64 / inputs as f64
    };
    let distances = kept.iter().enumerate().map(|(layer, sum)| (sum / count - planned(layer)).abs());
    let worst = 100.0 * distances.fold(0.0, f64::max);
    let mut found = row(
        "largest distance of a layer's realised share of inputs from its planned one".into(),
        name,
        "at most 3 points",
        (worst, 0.0),
        worst <= 3.0,
    );
    found.metric = "points of share, lower is better".into();
    Ok(found)
}

/// A sum of twelve uniforms less six: close enough to normal.
fn normal(rng: &mut Pcg64) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// A weight of low rank with a few heavy columns, and inputs of heavy tails (Student's t with 3 degrees).
fn planted(config: &Config) -> Result<Vec<Experiment>> {
    let began = Instant::now();
    let (width, outputs, rank, rows) = (256, 256, 20, 600);
    let mut errors: Vec<[f64; 6]> = Vec::new();
    for &seed in &config.seeds {
        let mut rng = Pcg64::seed_from_u64(seed);
        let u: Vec<f64> = (0..outputs * rank).map(|_| normal(&mut rng)).collect();
        let v: Vec<f64> = (0..rank * width).map(|_| normal(&mut rng)).collect();
        let mut data = vec![0.0f32; outputs * width];
        let heavy: Vec<bool> = (0..width).map(|_| rng.random_bool(0.3)).collect();
        for i in 0..outputs {
            for j in 0..width {
                let low: f64 = (0..rank).map(|t| u[i * rank + t] * v[t * width + j]).sum();
                let burst = if heavy[j] { 4.0 * normal(&mut rng) } else { 0.0 };
                data[i * width + j] = (low / (rank as f64).sqrt() + burst) as f32;
            }
        }
        let weight: Matrix = Dense::from_f32(outputs, width, &data, ValueType::F32).into();
        let mut inputs = || -> Vec<f32> {
            let mut student = || {
                let scale: f64 = (0..3).map(|_| normal(&mut rng).powi(2)).sum::<f64>() / 3.0;
                (normal(&mut rng) / scale.max(1e-9).sqrt()) as f32
            };
            (0..rows * width).map(|_| student()).collect()
        };
        let (calibration, test) = (inputs(), inputs());
        let mut dense = vec![0.0; rows * outputs];
        weight.apply_batch(&test, rows, &mut dense);
        let norm = |a: &[f32]| a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let calibration = Arc::new(calibration);
        let error = |alpha: f64, path: SidePath| -> Result<f64> {
            let split = Split::new((width, outputs), 0.5, alpha);
            let prepared = PreparedLayer::new(&weight, Arc::clone(&calibration), true, Some(path))?;
            let selection = Some(Box::new(prepared.selection(split, true)?));
            let linear = Linear { weight: prepared.weight().clone(), bias: None, selection };
            let mut sparse = vec![0.0; rows * outputs];
            linear.forward(&test, rows, &mut sparse);
            let difference: Vec<f32> = dense.iter().zip(&sparse).map(|(a, b)| a - b).collect();
            Ok(norm(&difference) / norm(&dense))
        };
        let (ours, paper) = (SidePath::Rest, SidePath::Weight);
        errors.push([
            error(1.0, ours)?,
            error(0.0, ours)?,
            error(0.95, ours)?,
            error(0.8, ours)?,
            error(0.95, paper)?,
            error(0.8, paper)?,
        ]);
    }
    let mean = |i: usize| errors.iter().map(|e| e[i]).sum::<f64>() / errors.len().max(1) as f64;
    let best = mean(0).min(mean(1));
    let found = |what: &str, mixed: f64| Experiment {
        metric: "relative output error, lower is better".into(),
        seeds: config.seeds.clone(),
        seconds: began.elapsed().as_secs_f64(),
        ..row(
            format!("best of alpha 0.8 and 0.95 against the better of 1 and 0{what}"),
            "planted: rank 20 and heavy columns, inputs of Student's t",
            "20 % below",
            (mixed, best),
            mixed <= 0.8 * best,
        )
    };
    Ok(vec![
        found("", mean(2).min(mean(3))),
        found(", path of the weight's singular vectors (paper)", mean(4).min(mean(5))),
    ])
}

/// Decoding through a stack of square layers, dense and with half the inputs: speed is the claim, so the stack is
/// larger than every cache and both forms take turns.
fn stack(config: &Config, context: &Context) -> Result<Vec<Experiment>> {
    let began = Instant::now();
    let width = config.stack_width;
    let mut rng = Pcg64::seed_from_u64(1);
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let sample: Arc<Vec<f32>> = Arc::new((0..64 * width).map(|_| normal(&mut rng) as f32).collect());
    let (mut dense, mut skipping, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..config.stack_layers {
        let data: Vec<f32> = (0..width * width).map(|_| noise() / (width as f32).sqrt()).collect();
        let weight: Matrix = Dense::from_f32(width, width, &data, ValueType::Bf16).into();
        let exact = Split::new((width, width), 0.5, 1.0);
        // The low-rank path's speed does not depend on its values: one decomposition serves all layers.
        let mixed = Split::new((width, width), 0.5, 0.95);
        let prepared = PreparedLayer::new(&weight, Arc::clone(&sample), true, None)?;
        let selection = prepared.selection(exact, true)?;
        skipping.push(Linear {
            weight: prepared.weight().clone(),
            bias: None,
            selection: Some(Box::new(selection.clone())),
        });
        let thin =
            |rows: usize, cols: usize| Dense::from_f32(rows, cols, &data[..rows * cols], ValueType::Bf16);
        let path = sparseland_matrix::Product::new(thin(width, mixed.rank), thin(mixed.rank, width));
        let mut with_path = prepared.selection(mixed, true)?;
        with_path.rule.low_rank = Some(path.layout());
        with_path.low_rank = Some(path.into());
        both.push(Linear {
            weight: prepared.weight().clone(),
            bias: None,
            selection: Some(Box::new(with_path)),
        });
        dense.push(Linear { weight, bias: None, selection: None });
        context.report(Event::Step { done: layer + 1, message: "building a stack of large layers" });
    }
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    context.install(|| {
        for run in 0..=config.stack_runs {
            let x = &sample[run % 64 * width..][..width];
            for (stack, times) in [&dense, &skipping, &both].into_iter().zip(&mut times) {
                let began = Instant::now();
                for layer in stack {
                    let mut y = vec![0.0; width];
                    layer.forward(x, 1, &mut y);
                    std::hint::black_box(&y);
                }
                // The first run warms up.
                if run > 0 {
                    times.push(began.elapsed().as_secs_f64());
                }
            }
        }
    });
    let [dense, skipping, both] = times.map(|t| median(&t).unwrap_or(f64::NAN));
    let data =
        format!("{} layers of {width} x {width}, bf16, {} threads", config.stack_layers, context.threads());
    let speed = |name: &str, time: f64| {
        let ratio = dense / time;
        let mut found =
            row(name.into(), &data, "at least 1.4 times as fast as dense", (ratio, 1.0), ratio >= 1.4);
        found.metric = "times as fast as dense, higher is better".into();
        found.seconds = began.elapsed().as_secs_f64();
        found
    };
    Ok(vec![
        speed("decode, half the inputs skipped", skipping),
        speed("decode, 95 % of the budget on inputs, the rest on the low-rank path", both),
    ])
}
