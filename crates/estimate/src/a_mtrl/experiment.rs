//! The acceptance experiments of A-MTRL: planted tasks, the instance that separates the norms, corrupted digits.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;
use rayon::prelude::*;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::{Mat, qr};

use super::{AmtrlError, Moments, Outcome, Sampler, Strategy, TaskPool};

/// What `experiments/a-mtrl.toml` holds.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the planted tasks.
    pub seeds: Vec<u64>,
    /// Budgets of the planted tasks.
    pub budgets: Vec<usize>,
    /// Targets of the corrupted digits.
    pub digit_targets: usize,
    /// Budget of the corrupted digits.
    pub digit_budget: usize,
    /// Dimensions of their representation.
    pub digit_rank: usize,
}

/// All experiments; `digits` is a table of 8 x 8 digits, without which real data are left out.
///
/// # Errors
/// [`AmtrlError::File`] for unreadable data, and whatever a fit returns.
pub fn run(
    config: &Config,
    digits: Option<&Path>,
    context: &Context,
    report: &mut dyn FnMut(&Experiment),
) -> Result<Vec<Experiment>, AmtrlError> {
    let mut out = Vec::new();
    let mut add = |found: Vec<Experiment>| {
        found.iter().for_each(&mut *report);
        out.extend(found);
    };
    add(context.install(|| planted(config))?);
    add(context.install(|| lower_bound(config))?);
    if let Some(path) = digits {
        add(context.install(|| corrupted(config, path))?);
    }
    Ok(out)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.into_iter().collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

fn row(
    name: String,
    data: &str,
    claimed: &str,
    values: (f64, f64),
    passed: bool,
    began: Instant,
) -> Experiment {
    Experiment {
        name,
        data: data.to_owned(),
        metric: "squared error of the target, lower is better".into(),
        claimed: claimed.to_owned(),
        measured: values.0,
        spread: 0.0,
        baseline: values.1,
        passed,
        seeds: Vec::new(),
        seconds: began.elapsed().as_secs_f64(),
    }
}

/// Linear tasks on a planted representation.
struct Planted {
    basis: Mat<f64>,
    heads: Mat<f64>,
    noise: f64,
    rng: Pcg64,
}

impl Planted {
    fn sample(&mut self, head: &[f64], n: usize) -> (Mat<f64>, Vec<f64>) {
        let d = self.basis.rows;
        let rng = &mut self.rng;
        let x = Mat::from_fn(n, d, |_, _| rng.sample(StandardNormal));
        let theta = times(&self.basis, head);
        let y = (0..n).map(|i| {
            let signal: f64 = x.row(i).iter().zip(&theta).map(|(x, t)| x * t).sum();
            signal + self.noise * self.rng.sample::<f64, _>(StandardNormal)
        });
        let y = y.collect();
        (x, y)
    }

    fn head(&self, task: usize) -> Vec<f64> {
        (0..self.heads.rows).map(|t| self.heads.at(t, task)).collect()
    }
}

impl TaskPool for Planted {
    fn tasks(&self) -> usize {
        self.heads.cols
    }

    fn draw(&mut self, task: usize, n: usize) -> (Mat<f64>, Vec<f64>) {
        self.sample(&self.head(task), n)
    }
}

fn times(a: &Mat<f64>, x: &[f64]) -> Vec<f64> {
    (0..a.rows).map(|i| a.row(i).iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

/// `||B^ w^ - B w||²`.
fn error(outcome: &Outcome, basis: &Mat<f64>, head: &[f64]) -> f64 {
    let found = times(&outcome.shared.basis, &outcome.head);
    found.iter().zip(times(basis, head)).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Five strong tasks and many weak ones; the target mixes two strong ones.
fn problem(seed: u64) -> (Planted, Vec<f64>) {
    let (d, k, tasks) = (40, 5, 40);
    let mut rng = Pcg64::seed_from_u64(seed);
    let basis = qr(&Mat::from_fn(d, k, |_, _| rng.sample(StandardNormal))).expect("finite").q;
    let heads = Mat::from_fn(k, tasks, |t, m| match m < k {
        true => 2.0 * f64::from(u8::from(t == m)),
        false => 0.35 * rng.sample::<f64, _>(StandardNormal),
    });
    let target = (0..k).map(|t| 0.9 * heads.at(t, 0) + 0.7 * heads.at(t, 1)).collect();
    (Planted { basis, heads, noise: 1.0, rng }, target)
}

fn planted(config: &Config) -> Result<Vec<Experiment>, AmtrlError> {
    const DATA: &str = "planted: 40 inputs, 5 dimensions, 5 strong and 35 weak tasks, 60 target samples";
    let mut rows = Vec::new();
    for &budget in &config.budgets {
        let began = Instant::now();
        let measure = |which: usize| -> Result<Vec<(f64, f64)>, AmtrlError> {
            let one = |&seed: &u64| {
                let (mut pool, target) = problem(seed);
                let strategy = match which {
                    0 => Strategy::Uniform,
                    1 => Strategy::KnownL2(pool.heads.clone(), target.clone()),
                    2 => Strategy::KnownL1(pool.heads.clone(), target.clone()),
                    _ => Strategy::Lasso,
                };
                let (x, y) = pool.sample(&target, 60);
                let own = Moments::of(&x, &y)?;
                let outcome = Sampler::new(strategy, 5).run(&mut pool, &own, budget, seed)?;
                Ok((error(&outcome, &pool.basis, &target), outcome.stability))
            };
            config.seeds.par_iter().map(one).collect()
        };
        let of =
            |which: usize| -> Result<f64, AmtrlError> { Ok(mean(measure(which)?.into_iter().map(|v| v.0))) };
        let (uniform, two, one, lasso) = (of(0)?, of(1)?, of(2)?, of(3)?);
        let add = |name: &str, claimed: &str, value: f64, baseline: f64, passed: bool| {
            row(format!("{name}, {budget} samples"), DATA, claimed, (value, baseline), passed, began)
        };
        rows.push(add("uniform", "shown", uniform, 0.0, true));
        rows.push(add("known heads, 2-norm", "below uniform", two, uniform, two < uniform));
        rows.push(add("known heads, 1-norm", "at most the 2-norm's", one, two, one <= two));
        // A wasted exploration must not be worse than not having explored.
        rows.push(match budget {
            ..3000 => {
                add("estimated, lasso", "at most 1.1 times uniform", lasso, uniform, lasso <= 1.1 * uniform)
            }
            3000..6000 => add(
                "estimated, lasso",
                "below 0.65, by noticing that it is unsure",
                lasso,
                uniform,
                lasso < 0.65,
            ),
            _ => add("estimated, lasso", "within 10 % of the known heads'", lasso, one, lasso <= 1.1 * one),
        });
    }
    let (pool, target) = problem(0);
    let nu = super::basis_pursuit(&pool.heads, &target)?;
    let support = nu.iter().filter(|v| **v != 0.0).count();
    let mut sparse = row(
        "tasks with relevance in the 1-norm".into(),
        DATA,
        "at most the dimension, 5",
        (support as f64, 40.0),
        support <= 5,
        Instant::now(),
    );
    sparse.metric = "tasks, fewer is better".into();
    rows.push(sparse);
    Ok(rows)
}

/// Many duplicates of a weak direction: the 2-norm spreads over them.
fn lower_bound(config: &Config) -> Result<Vec<Experiment>, AmtrlError> {
    let began = Instant::now();
    let (d, k, duplicates) = (40, 5, 60);
    let measure = |one_norm: bool, budget: usize| -> Result<f64, AmtrlError> {
        let one = |&seed: &u64| {
            let mut rng = Pcg64::seed_from_u64(seed);
            let basis = qr(&Mat::from_fn(d, k, |_, _| rng.sample(StandardNormal)))?.q;
            let heads = Mat::from_fn(k, k + duplicates, |t, m| match m < k {
                true => f64::from(u8::from(t == m)),
                false => 0.2 * f64::from(u8::from(t == 0)),
            });
            let target: Vec<f64> = (0..k).map(|t| heads.at(t, 0)).collect();
            let strategy = match one_norm {
                true => Strategy::KnownL1(heads.clone(), target.clone()),
                false => Strategy::KnownL2(heads.clone(), target.clone()),
            };
            let mut pool = Planted { basis, heads, noise: 1.0, rng };
            let (x, y) = pool.sample(&target, 60);
            let own = Moments::of(&x, &y)?;
            // The other directions do not matter: a representation of one dimension.
            let outcome = Sampler::new(strategy, 1).run(&mut pool, &own, budget, seed)?;
            Ok(error(&outcome, &pool.basis, &target))
        };
        Ok(mean(config.seeds.par_iter().map(one).collect::<Result<Vec<_>, AmtrlError>>()?))
    };
    let (small, large) = (600, 1200);
    let (ours, theirs) = (measure(true, small)?, measure(false, large)?);
    Ok(vec![row(
        "1-norm with half the samples of the 2-norm".into(),
        "a direction and 60 weak duplicates of it",
        "at most its error",
        (ours, theirs),
        ours <= theirs,
        began,
    )])
}

/// Digits under corruptions: a task is one corruption and one digit against the others.
struct Digits {
    images: Vec<[f64; 64]>,
    labels: Vec<usize>,
    /// Items that source tasks may draw.
    open: Vec<usize>,
    rng: Pcg64,
}

const CORRUPTIONS: usize = 10;
const SIDE: usize = 8;

impl Digits {
    fn read(path: &Path) -> Result<Self, AmtrlError> {
        let wrong = |why: String| AmtrlError::File(format!("{}: {why}", path.display()));
        let file = std::fs::File::open(path).map_err(|e| wrong(e.to_string()))?;
        let mut text = String::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(file);
        decoder.read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let cells: Vec<f64> = line.split(',').filter_map(|c| c.trim().parse().ok()).collect();
            if cells.len() != 65 {
                continue; // a header
            }
            images.push(std::array::from_fn(|i| cells[i] / 16.0));
            labels.push(cells[64] as usize);
        }
        if images.is_empty() {
            return Err(wrong("it holds no rows of 64 pixels and a class".into()));
        }
        Ok(Self { images, labels, open: Vec::new(), rng: Pcg64::seed_from_u64(0) })
    }

    /// One image under a corruption, with a constant beside.
    fn corrupt(&mut self, image: usize, corruption: usize) -> Vec<f64> {
        let source = self.images[image];
        let at = |r: i32, c: i32| match (0..8).contains(&r) && (0..8).contains(&c) {
            true => source[r as usize * SIDE + c as usize],
            false => 0.0,
        };
        let mut out = vec![0.0; 65];
        for r in 0..8i32 {
            for c in 0..8i32 {
                out[r as usize * SIDE + c as usize] = match corruption {
                    1 => at(r, c) + 0.3 * self.rng.sample::<f64, _>(StandardNormal),
                    2 => {
                        (-1..=1)
                            .flat_map(|i| (-1..=1).map(move |j| (i, j)))
                            .map(|(i, j)| at(r + i, c + j))
                            .sum::<f64>()
                            / 9.0
                    }
                    3 => at(r, c - (r - 4) / 2),
                    4 => at(4 + (r - 4) * 4 / 5, 4 + (c - 4) * 4 / 5),
                    5 => at(r - (c - 4) / 3, c + (r - 4) / 3),
                    6 => 0.4 + 0.6 * at(r, c),
                    7 => {
                        if c == 3 {
                            1.0
                        } else {
                            at(r, c)
                        }
                    }
                    8 => at(r - 1, c + 1),
                    9 => 1.0 - at(r, c),
                    _ => at(r, c),
                };
            }
        }
        out[64] = 1.0;
        out
    }

    fn samples(&mut self, task: usize, items: &[usize]) -> (Mat<f64>, Vec<f64>) {
        let (corruption, digit) = (task / 10, task % 10);
        let rows: Vec<Vec<f64>> = items.iter().map(|&i| self.corrupt(i, corruption)).collect();
        let y = items.iter().map(|&i| if self.labels[i] == digit { 1.0 } else { -1.0 }).collect();
        (Mat::from_fn(items.len(), 65, |i, j| rows[i][j]), y)
    }
}

/// The pool without the target's own task.
struct WithoutTarget<'a> {
    digits: &'a mut Digits,
    target: usize,
}

impl TaskPool for WithoutTarget<'_> {
    fn tasks(&self) -> usize {
        10 * CORRUPTIONS - 1
    }

    fn draw(&mut self, task: usize, n: usize) -> (Mat<f64>, Vec<f64>) {
        let task = if task < self.target { task } else { task + 1 };
        let open = std::mem::take(&mut self.digits.open);
        let items: Vec<usize> = (0..n).map(|_| open[self.digits.rng.random_range(0..open.len())]).collect();
        self.digits.open = open;
        self.digits.samples(task, &items)
    }
}

fn corrupted(config: &Config, path: &Path) -> Result<Vec<Experiment>, AmtrlError> {
    const DATA: &str = "optdigits under 10 corruptions: 99 source tasks, 100 target samples";
    let began = Instant::now();
    let mut digits = Digits::read(path)?;
    let mut order: Vec<usize> = (0..digits.images.len()).collect();
    order.shuffle(&mut Pcg64::seed_from_u64(1));
    let half = order.len() / 2;
    digits.open = order[..half].to_vec();
    let held_out = order[half..].to_vec();
    let mut errors = [Vec::new(), Vec::new(), Vec::new()];
    let (mut tasks_one, mut tasks_two) = (Vec::new(), Vec::new());
    for i in 0..config.digit_targets {
        let target = (i * 37) % (10 * CORRUPTIONS);
        digits.rng = Pcg64::seed_from_u64(i as u64);
        let (few, test) = (held_out[..100].to_vec(), held_out[100..].to_vec());
        let (x, y) = digits.samples(target, &few);
        let own = Moments::of(&x, &y)?;
        let (x_test, y_test) = digits.samples(target, &test);
        for (which, strategy) in [Strategy::Uniform, Strategy::L2, Strategy::Lasso].into_iter().enumerate() {
            let mut sampler = Sampler::new(strategy, config.digit_rank);
            sampler.explore = Some(config.digit_budget / (2 * 99));
            let mut pool = WithoutTarget { digits: &mut digits, target };
            let outcome = sampler.run(&mut pool, &own, config.digit_budget, i as u64)?;
            let theta = times(&outcome.shared.basis, &outcome.head);
            let wrong = (0..x_test.rows).filter(|&r| {
                let score: f64 = x_test.row(r).iter().zip(&theta).map(|(x, t)| x * t).sum();
                score * y_test[r] <= 0.0
            });
            errors[which].push(100.0 * wrong.count() as f64 / x_test.rows as f64);
            // The effective number of tasks: the inverse of the sum of squared shares.
            let effective = |shares: Vec<f64>| {
                let sum: f64 = shares.iter().sum();
                1.0 / shares.iter().map(|s| (s / sum).powi(2)).sum::<f64>()
            };
            match which {
                1 => tasks_two.push(effective(outcome.relevance.iter().map(|v| v * v).collect())),
                2 => tasks_one.push(effective(outcome.relevance.iter().map(|v| v.abs()).collect())),
                _ => {}
            }
        }
    }
    let [uniform, two, one] = errors.map(mean);
    let mut found = vec![
        row("uniform".into(), DATA, "shown", (uniform, 0.0), true, began),
        row("2-norm, estimated".into(), DATA, "at most uniform", (two, uniform), two <= uniform, began),
        row("1-norm, lasso".into(), DATA, "at most the 2-norm's", (one, two), one <= two, began),
    ];
    found.iter_mut().for_each(|e| e.metric = "test error in percent, lower is better".into());
    let (ours, theirs) = (mean(tasks_one), mean(tasks_two));
    let mut few = row(
        "effective number of tasks, 1-norm against 2-norm".into(),
        DATA,
        "at most half",
        (ours, theirs),
        ours <= 0.5 * theirs,
        began,
    );
    few.metric = "tasks, fewer is better".into();
    found.push(few);
    Ok(found)
}
