//! SLTrain: bits per byte against low rank and dense, each at its own best learning rate; memory and time.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use sparseland_core::{Context, Event, Experiment, Reproduction};
use sparseland_eval::statistics::standard_deviation;
use sparseland_train::methods::low_rank::LowRank;
use sparseland_train::methods::sltrain::SlTrain;
use sparseland_train::{LanguageModel, MethodRecipe, Outcome, Recipe, Task, Trainer};

use super::{mean, measured};
use crate::commands::train::resolve_paths;

/// The committed experiment.
pub const CONFIG: &str = include_str!("../../../../../experiments/sltrain.toml");

/// What to run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    slug: String,
    paper_claim: String,
    seeds: Vec<u64>,
    learning_rates: Vec<f64>,
    tuning_steps: u64,
    rank: usize,
    deltas: Vec<f64>,
    alpha: f64,
    lm: Recipe,
}

/// What a method reached.
struct Arm {
    name: String,
    rate: f64,
    bits: Vec<f64>,
    parameters: usize,
    optimiser_bytes: u64,
    seconds_per_step: f64,
    seconds: f64,
}

const DATA: &str = "gutenberg-novels bytes, 2 layers of width 128";

/// Runs all arms.
pub fn run(mut config: Config, context: &Context) -> Result<Reproduction> {
    resolve_paths(&mut config.lm, std::path::Path::new("."))
        .context("the experiment needs real data: set SPARSELAND_DATA")?;
    let rank = config.rank;
    let mut methods = vec![
        ("dense".to_owned(), MethodRecipe::Dense),
        (format!("low rank {rank}"), MethodRecipe::LowRank(LowRank { rank })),
    ];
    for &delta in &config.deltas {
        let method = SlTrain { rank, delta, alpha: config.alpha };
        methods.push((format!("SLTrain {rank} + {:.0} %", 100.0 * delta), MethodRecipe::Sltrain(method)));
    }
    let arms: Vec<Arm> = methods
        .into_iter()
        .map(|(name, method)| arm(&config, name, method, context))
        .collect::<Result<_>>()?;
    let [dense, low, sparse @ ..] = &arms[..] else { unreachable!("two arms at least") };
    let mut experiments = Vec::new();
    let gap = mean(&low.bits) - mean(&dense.bits);
    experiments.push(compare("low rank against dense", "worse than dense", low, dense, gap > 0.0, &config));
    for arm in sparse {
        let better = mean(&arm.bits) < mean(&low.bits);
        experiments.push(compare(
            &format!("{} against low rank", arm.name),
            "better than low rank",
            arm,
            low,
            better,
            &config,
        ));
        let closed: Vec<f64> =
            arm.bits.iter().zip(&low.bits).zip(&dense.bits).map(|((s, l), d)| (l - s) / (l - d)).collect();
        let error = standard_deviation(&closed).unwrap_or(0.0) / (closed.len() as f64).sqrt();
        experiments.push(Experiment {
            name: format!("{}: share of the gap closed (standard error {error:.2})", arm.name),
            data: DATA.into(),
            metric: "share, higher is better".into(),
            claimed: "at least 0.3 at 10 % density".into(),
            passed: mean(&closed) >= 0.3,
            ..measured(&closed, 0.0, &config.seeds, Instant::now())
        });
        for (name, value, whole) in [
            ("parameters", arm.parameters as f64, dense.parameters as f64),
            ("optimiser bytes", arm.optimiser_bytes as f64, dense.optimiser_bytes as f64),
        ] {
            experiments.push(Experiment {
                name: format!("{}: {name} relative to dense", arm.name),
                data: DATA.into(),
                metric: "ratio, lower is better".into(),
                claimed: "below 1 (paper: 0.48 at 1 B parameters)".into(),
                passed: value < whole,
                ..measured(&[value / whole], 1.0, &config.seeds, Instant::now())
            });
        }
        experiments.push(Experiment {
            name: format!("{}: seconds per step relative to dense", arm.name),
            data: DATA.into(),
            metric: "ratio, lower is better".into(),
            claimed: "below 1 (the authors' code is slower than dense)".into(),
            passed: arm.seconds_per_step < dense.seconds_per_step,
            ..measured(&[arm.seconds_per_step / dense.seconds_per_step], 1.0, &config.seeds, Instant::now())
        });
    }
    let rates: Vec<String> = arms.iter().map(|a| format!("{} {:.0e}", a.name, a.rate)).collect();
    Ok(Reproduction {
        slug: config.slug,
        paper_claim: config.paper_claim,
        verdict: Reproduction::judge(&experiments),
        experiments,
        notes: vec![
            format!("Learning rates chosen on seed 0 over {} steps: {}.", config.tuning_steps, rates.join(", ")),
            "The paper trains 60 M to 7 B parameters on 1 B tokens and more; this is a hundredth of its smallest.".into(),
        ],
    })
}

fn compare(
    name: &str,
    claimed: &str,
    arm: &Arm,
    baseline: &Arm,
    passed: bool,
    config: &Config,
) -> Experiment {
    Experiment {
        name: name.into(),
        data: DATA.into(),
        metric: "bits per byte, lower is better".into(),
        claimed: claimed.into(),
        passed,
        seconds: arm.seconds,
        ..measured(&arm.bits, mean(&baseline.bits), &config.seeds, Instant::now())
    }
}

/// Chooses a method's learning rate, then trains with every seed.
fn arm(config: &Config, name: String, method: MethodRecipe, context: &Context) -> Result<Arm> {
    let began = Instant::now();
    let train = |seed: u64, rate: f64, steps: u64| -> Result<(f64, usize, Outcome)> {
        let mut recipe = Recipe { seed, method: method.clone(), ..config.lm.clone() };
        recipe.training.learning_rate = rate;
        recipe.training.warmup = recipe.training.warmup.min(steps / 10);
        recipe.training.steps = steps;
        let mut task = LanguageModel::new(&recipe)?;
        let outcome = Trainer::new(&recipe, None).run(&mut task, context)?;
        let bits = outcome.last("bits_per_byte").context("there is no validation text")?;
        Ok((bits, task.parameters().count(), outcome))
    };
    let mut best = (f64::INFINITY, 0.0);
    for &rate in &config.learning_rates {
        // A rate at which training breaks is not the best one.
        let bits = train(config.seeds[0], rate, config.tuning_steps).map_or(f64::INFINITY, |r| r.0);
        if bits < best.0 {
            best = (bits, rate);
        }
    }
    let runs: Vec<(f64, usize, Outcome)> = config
        .seeds
        .iter()
        .map(|&seed| train(seed, best.1, config.lm.training.steps))
        .collect::<Result<_>>()?;
    let bits: Vec<f64> = runs.iter().map(|r| r.0).collect();
    context.report(Event::Line(&format!("{name}: {:.4} bits per byte at rate {:.0e}", mean(&bits), best.1)));
    let steps: Vec<f64> = runs.iter().map(|r| r.2.step_seconds / r.2.steps as f64).collect();
    Ok(Arm {
        name,
        rate: best.1,
        bits,
        parameters: runs[0].1,
        optimiser_bytes: runs[0].2.optimiser_bytes,
        seconds_per_step: mean(&steps),
        seconds: began.elapsed().as_secs_f64(),
    })
}
