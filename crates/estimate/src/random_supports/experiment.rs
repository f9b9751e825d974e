//! The acceptance experiments of sparse regression on random supports. The bars are ours: the paper has no numbers.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::StandardNormal;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::{Mat, eigh, gram, lstsq};
use sparseland_optim::design::{Dense, Design};

use super::{Anchors, RandomSupportError, RandomSupportRegressor};
use crate::cv::{Folds, cross_validate};
use crate::estimators::{EstimateError, Lasso};
use crate::path::PathOptions;

/// What `experiments/random-supports.toml` holds.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the tables of errors.
    pub seeds: Vec<u64>,
    /// Seeds of the search for the number of rows.
    pub sample_seeds: Vec<u64>,
    /// Columns of that search.
    pub sample_columns: usize,
    /// Draws on real data.
    pub real_draws: u64,
}

/// Rows for measuring errors.
const FRESH: usize = 1000;
/// Standard deviation of the noise.
const NOISE: f64 = 0.3;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn half_range(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    0.5 * (high - low)
}

/// All experiments; `mnist` is the file of training images, without which real data are left out.
///
/// # Errors
/// [`RandomSupportError::File`] for unreadable data, and whatever a fit returns.
pub fn run(
    config: &Config,
    mnist: Option<&Path>,
    context: &Context,
    report: &mut dyn FnMut(&Experiment),
) -> Result<Vec<Experiment>, RandomSupportError> {
    let mut out = Vec::new();
    let mut add = |found: Vec<Experiment>| {
        found.iter().for_each(&mut *report);
        out.extend(found);
    };
    add(conditioning(config, context)?);
    add(easy(config, context)?);
    context.check_cancelled()?;
    add(rows_needed(config, context)?);
    if let Some(path) = mnist {
        context.check_cancelled()?;
        add(real(config, path, context)?);
    }
    Ok(out)
}

/// A simulated problem: rows to fit and fresh ones, with the signal on the fresh ones.
struct Problem {
    x: Dense<f64>,
    y: Vec<f64>,
    fresh: Dense<f64>,
    signal: Vec<f64>,
    support: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Rows {
    /// `F L / sqrt(r) + tau G`.
    LowRank(usize, f64),
    /// AR(1) columns.
    Autoregressive(f64),
}

/// Columns of all rows, and the loadings `L` by column.
fn draw_design(n: usize, d: usize, rows: Rows, rng: &mut impl Rng) -> (Dense<f64>, Vec<Vec<f64>>) {
    let (rank, tau, rho) = match rows {
        Rows::LowRank(rank, tau) => (rank, tau, 0.0),
        Rows::Autoregressive(rho) => (0, 1.0, rho),
    };
    let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| rng.sample(StandardNormal)).collect() };
    let f: Vec<Vec<f64>> = (0..rank).map(|_| draw(n)).collect();
    let loadings: Vec<Vec<f64>> = (0..d).map(|_| draw(rank)).collect();
    let mut values = Vec::with_capacity(n * d);
    let mut last = draw(n);
    for l in &loadings {
        let own = draw(n);
        let fresh = (1.0f64 - rho * rho).sqrt();
        last = last.iter().zip(&own).map(|(l, o)| rho * l + fresh * o).collect();
        values.extend((0..n).map(|i| {
            let common: f64 = f.iter().zip(l).map(|(f, l)| f[i] * l).sum();
            common / (rank.max(1) as f64).sqrt() + tau * last[i]
        }));
    }
    (Dense::from_columns(n, d, values).expect("n x d values"), loadings)
}

/// A problem whose signal has mean square 1: coefficients in the null space of the loadings (`hard`), or any.
fn problem(n: usize, d: usize, k: usize, rows: Rows, hard: bool, rng: &mut impl Rng) -> Problem {
    let (all, loadings) = draw_design(n + FRESH, d, rows, rng);
    let mut columns: Vec<usize> = (0..d).collect();
    columns.shuffle(rng);
    let support = columns[..k].to_vec();
    let mut w: Vec<f64> = (0..k).map(|_| rng.sample(StandardNormal)).collect();
    if hard {
        // Less its part along the rows of L_T.
        let rank = loadings[0].len();
        let l = Mat::from_fn(k, rank, |a, r| loadings[support[a]][r]);
        let along = lstsq(&l, &Mat::from_fn(k, 1, |a, _| w[a])).map(|c| c.data).unwrap_or_default();
        for (a, w) in w.iter_mut().enumerate() {
            *w -= along.iter().zip(l.row(a)).map(|(c, l)| c * l).sum::<f64>();
        }
    }
    let mut dense = vec![0.0; d];
    support.iter().zip(&w).for_each(|(j, w)| dense[*j] = *w);
    finish(&all, n, &dense, support, rng)
}

/// Scales the signal, adds noise and cuts the rows in two.
fn finish(all: &Dense<f64>, n: usize, w: &[f64], support: Vec<usize>, rng: &mut impl Rng) -> Problem {
    let mut signal = all.times(w);
    let size = (signal.iter().map(|s| s * s).sum::<f64>() / signal.len() as f64).sqrt();
    signal.iter_mut().for_each(|s| *s /= size);
    let y = signal[..n].iter().map(|s| s + NOISE * rng.sample::<f64, _>(StandardNormal)).collect();
    let rows = |from: usize, to: usize| {
        let values = (0..all.cols()).flat_map(|j| all.column(j)[from..to].iter().copied()).collect();
        Dense::from_columns(to - from, all.cols(), values).expect("as many rows of every column")
    };
    Problem { x: rows(0, n), fresh: rows(n, all.rows()), y, signal: signal.split_off(n), support }
}

impl Problem {
    fn error(&self, predicted: &[f64]) -> f64 {
        mean(&predicted.iter().zip(&self.signal).map(|(a, b)| (a - b) * (a - b)).collect::<Vec<_>>())
    }

    /// Five-fold cross-validated lasso of standardised columns.
    fn lasso(&self, context: &Context) -> Result<f64, RandomSupportError> {
        let folds = Folds::shuffled(self.y.len(), 5, 1)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build();
        let failed = |_| EstimateError::Parameter { name: "threads", value: 0.0, domain: "as many as start" };
        let options = PathOptions { eps: Some(1e-2), n_alphas: 60, ..PathOptions::default() };
        let lasso = Lasso::new(0.0).standardize(true);
        let found = cross_validate(&lasso, &self.x, &self.y, None, &folds, &options, &pool.map_err(failed)?)?;
        Ok(self.error(&found.best_fit().decision_function(&self.fresh)?))
    }

    fn anchored(
        &self,
        anchors: Anchors,
        k: Option<usize>,
        context: &Context,
    ) -> Result<f64, RandomSupportError> {
        let method = RandomSupportRegressor { anchors, k, ..RandomSupportRegressor::default() };
        Ok(self.error(&method.fit(&self.x, &self.y, context)?.predict(&self.fresh)))
    }

    /// Least squares on the true support.
    fn oracle(&self) -> f64 {
        let pick = |x: &Dense<f64>| {
            Mat::from_fn(x.rows(), self.support.len() + 1, |i, k| {
                self.support.get(k).map_or(1.0, |j| x.column(*j)[i])
            })
        };
        let target = Mat::from_fn(self.y.len(), 1, |i, _| self.y[i]);
        let w = lstsq(&pick(&self.x), &target).map(|w| w.data).unwrap_or_default();
        let fresh = pick(&self.fresh);
        self.error(
            &(0..fresh.rows)
                .map(|i| fresh.row(i).iter().zip(&w).map(|(a, b)| a * b).sum())
                .collect::<Vec<f64>>(),
        )
    }
}

fn experiment(
    name: String,
    data: &str,
    claimed: &str,
    values: &[f64],
    baseline: f64,
    passed: bool,
) -> Experiment {
    Experiment {
        name,
        data: data.into(),
        metric: "mean squared prediction error, lower is better".into(),
        claimed: claimed.into(),
        measured: mean(values),
        spread: half_range(values),
        baseline,
        passed,
        seeds: Vec::new(),
        seconds: 0.0,
    }
}

/// The prototype's table: the error should not depend on the condition number.
fn conditioning(config: &Config, context: &Context) -> Result<Vec<Experiment>, RandomSupportError> {
    let mut out = Vec::new();
    let mut by_tau = Vec::new();
    for tau in [0.05, 0.01, 0.001] {
        let began = Instant::now();
        let (mut auto, mut fixed, mut pca, mut lasso, mut oracle) = (vec![], vec![], vec![], vec![], vec![]);
        for &seed in &config.seeds {
            let p = problem(150, 400, 8, Rows::LowRank(3, tau), true, &mut context.rng(seed));
            auto.push(p.anchored(Anchors::Auto, None, context)?);
            fixed.push(p.anchored(Anchors::Random(6), None, context)?);
            pca.push(p.anchored(Anchors::Pca(3), None, context)?);
            lasso.push(p.lasso(context)?);
            oracle.push(p.oracle());
        }
        by_tau.push(mean(&auto));
        if tau != 0.001 {
            let bar = if tau == 0.01 { 0.35 } else { 1.0 };
            let mut e = experiment(
                format!(
                    "cancelling signals, tau {tau} (6 anchors {:.3}, PCA-3 {:.3}, oracle {:.4})",
                    mean(&fixed),
                    mean(&pca),
                    mean(&oracle)
                ),
                "F L / sqrt(3) + tau G, 150 x 400, k = 8",
                if tau == 0.01 { "at most .35 of the lasso's" } else { "at most the lasso's" },
                &auto,
                mean(&lasso),
                mean(&auto) <= bar * mean(&lasso),
            );
            (e.seeds, e.seconds) = (config.seeds.clone(), began.elapsed().as_secs_f64());
            out.push(e);
        }
    }
    let ratio = by_tau[2] / by_tau[0];
    let mut e = experiment(
        "error at tau .001 over that at .05".into(),
        "the same designs",
        "between .8 and 1.25",
        &[ratio],
        1.0,
        (0.8..=1.25).contains(&ratio),
    );
    (e.metric, e.seeds) = ("ratio, 1 is independence of the condition number".into(), config.seeds.clone());
    out.push(e);
    Ok(out)
}

/// What the method costs where the lasso is good.
fn easy(config: &Config, context: &Context) -> Result<Vec<Experiment>, RandomSupportError> {
    let mut out = Vec::new();
    for (name, rows) in [("iid", Rows::Autoregressive(0.0)), ("AR(.5)", Rows::Autoregressive(0.5))] {
        let began = Instant::now();
        let (mut auto, mut lasso) = (Vec::new(), Vec::new());
        for &seed in &config.seeds {
            let p = problem(150, 400, 8, rows, false, &mut context.rng(100 + seed));
            auto.push(p.anchored(Anchors::Auto, None, context)?);
            lasso.push(p.lasso(context)?);
        }
        let passed = mean(&auto) <= 1.15 * mean(&lasso);
        let mut e = experiment(
            format!("easy designs, {name}"),
            "150 x 400, k = 8",
            "at most 1.15 of the cross-validated lasso's",
            &auto,
            mean(&lasso),
            passed,
        );
        (e.seeds, e.seconds) = (config.seeds.clone(), began.elapsed().as_secs_f64());
        out.push(e);
    }
    Ok(out)
}

/// The smallest number of rows of a geometric grid at which the mean error is at most .1.
fn rows_needed(config: &Config, context: &Context) -> Result<Vec<Experiment>, RandomSupportError> {
    const GRID: [usize; 9] = [40, 57, 80, 113, 160, 226, 320, 452, 640];
    let began = Instant::now();
    let needed = |d: usize, anchored: bool| -> Result<f64, RandomSupportError> {
        for n in GRID {
            let mut errors = Vec::new();
            for &seed in &config.sample_seeds {
                let p = problem(n, d, 5, Rows::LowRank(4, 0.01), true, &mut context.rng(200 + seed));
                errors.push(if anchored {
                    p.anchored(Anchors::Auto, Some(5), context)?
                } else {
                    p.lasso(context)?
                });
            }
            context.check_cancelled()?;
            if mean(&errors) <= 0.1 {
                return Ok(n as f64);
            }
        }
        Ok(f64::INFINITY)
    };
    let d = config.sample_columns;
    let (ours, lasso) = (needed(d, true)?, needed(d, false)?);
    let (few, many) = (needed(d / 4, true)?, needed(2 * d, true)?);
    let lasso_text = if lasso.is_finite() { format!("{lasso}") } else { format!("more than {}", GRID[8]) };
    let finite = lasso.min(GRID[8] as f64);
    let mut out = vec![
        experiment(
            format!("rows for an error of .1 (lasso {lasso_text})"),
            &format!("d = {d}, k = 5, r = 4, tau .01"),
            "at most half of the lasso's",
            &[ours],
            finite,
            2.0 * ours <= finite,
        ),
        experiment(
            format!("growth from d = {} to {} ({few} to {many} rows)", d / 4, 2 * d),
            "k = 5, r = 4, tau .01",
            "factor at most 1.6",
            &[many / few],
            1.6,
            many / few <= 1.6,
        ),
    ];
    for e in &mut out {
        (e.metric, e.seeds) = ("rows, or their ratio, lower is better".into(), config.sample_seeds.clone());
        e.seconds = began.elapsed().as_secs_f64() / 2.0;
    }
    Ok(out)
}

fn file_error(path: &Path, problem: impl ToString) -> RandomSupportError {
    RandomSupportError::File { path: path.display().to_string(), problem: problem.to_string() }
}

/// Pixels of handwritten digits, random supports, coefficients along the small singular directions of their columns.
fn real(config: &Config, path: &Path, context: &Context) -> Result<Vec<Experiment>, RandomSupportError> {
    let raw = std::fs::File::open(path).map_err(|e| file_error(path, e))?;
    let mut bytes = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(raw).take(16 + 784 * 20_000).read_to_end(&mut bytes);
    read.map_err(|e| file_error(path, e))?;
    if bytes.len() < 16 + 784 * 2000 || bytes[..4] != [0, 0, 8, 3] {
        return Err(file_error(path, "is no IDX file of at least 2000 images"));
    }
    let images = (bytes.len() - 16) / 784;
    let began = Instant::now();
    let n = 200;
    let k = 8;
    // Supports that are not random are reported, without a promise.
    let mut remark = String::new();
    for clustered in [true, false] {
        let (mut ours, mut lasso, mut wins) = (Vec::new(), Vec::new(), 0);
        for draw in 0..config.real_draws {
            context.check_cancelled()?;
            let mut rng = context.rng(300 + draw);
            let rows: Vec<usize> = (0..n + FRESH).map(|_| rng.random_range(0..images)).collect();
            let column =
                |j: usize| -> Vec<f64> { rows.iter().map(|i| f64::from(bytes[16 + i * 784 + j])).collect() };
            // Pixels that are not nearly always black.
            let kept: Vec<Vec<f64>> = (0..784)
                .map(column)
                .filter(|c| c[..n].iter().filter(|v| **v > 0.0).count() > n / 10)
                .map(|c| {
                    let m = mean(&c);
                    let sd = mean(&c.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>()).sqrt();
                    c.iter().map(|v| (v - m) / sd).collect()
                })
                .collect();
            let d = kept.len();
            let all = Dense::from_columns(n + FRESH, d, kept.concat()).map_err(|e| file_error(path, e))?;
            let support: Vec<usize> = if clustered {
                // Chosen, not random: neighbours.
                let first = rng.random_range(0..d - k);
                (first..first + k).collect()
            } else {
                let mut columns: Vec<usize> = (0..d).collect();
                columns.shuffle(&mut rng);
                columns[..k].to_vec()
            };
            let part = Mat::from_fn(n + FRESH, k, |i, a| all.column(support[a])[i]);
            let directions = eigh(&gram(&part)).map_err(|e| file_error(path, e))?;
            let mut w = vec![0.0; d];
            for direction in k / 2..k {
                let factor: f64 = rng.sample(StandardNormal);
                support
                    .iter()
                    .enumerate()
                    .for_each(|(a, j)| w[*j] += factor * directions.vectors.at(a, direction));
            }
            let p = finish(&all, n, &w, support, &mut rng);
            ours.push(p.anchored(Anchors::Auto, None, context)?);
            lasso.push(p.lasso(context)?);
            wins += usize::from(ours[ours.len() - 1] < lasso[lasso.len() - 1]);
        }
        if clustered {
            remark = format!("; on runs of neighbours {wins}, {:.3} to {:.3}", mean(&ours), mean(&lasso));
            continue;
        }
        let mut e = experiment(
            format!("random pixels: better than the lasso on {wins} of {} draws{remark}", config.real_draws),
            "MNIST pixels, 200 rows, k = 8",
            "better on at least 8 in 10 draws",
            &ours,
            mean(&lasso),
            10 * wins as u64 >= 8 * config.real_draws,
        );
        (e.seeds, e.seconds) = ((0..config.real_draws).collect(), began.elapsed().as_secs_f64());
        return Ok(vec![e]);
    }
    Ok(vec![])
}
