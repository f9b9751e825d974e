//! The acceptance experiments of stacking.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::StandardNormal;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::Mat;
use sparseland_optim::design::{Dense, Design};

use super::baselines::{by_performance, combine, hill_climb, least_squares, nnls, rmse, simple_mean};
use super::{BaseModel, FittedStack, Learner, Stack, StackError, end_to_end, out_of_fold, score};
use crate::cv::Folds;
use crate::estimators::{ElasticNet, EstimateError, Fitted, HuberRegression, Lasso, McpRegression};

/// What `experiments/stacking.toml` holds.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of simulated predictions.
    pub seeds: Vec<u64>,
    /// Rows of the large table of predictions.
    pub rows: usize,
    /// Models of the large table.
    pub models: usize,
    /// Rows of the housing data that are trained on; the rest is the test.
    pub housing_rows: usize,
    /// Rows of the diabetes data that are trained on.
    pub diabetes_rows: usize,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn experiment(
    name: String,
    data: &str,
    claimed: &str,
    measured: f64,
    baseline: f64,
    passed: bool,
) -> Experiment {
    Experiment {
        name,
        data: data.into(),
        metric: "RMSE, lower is better".into(),
        claimed: claimed.into(),
        measured,
        spread: 0.0,
        baseline,
        passed,
        seeds: vec![0],
        seconds: 0.0,
    }
}

/// All experiments; `data` is the folder of real data, without which those are left out.
///
/// # Errors
/// [`StackError::File`] for unreadable data, and whatever a fit returns.
pub fn run(
    config: &Config,
    data: Option<&Path>,
    context: &Context,
    report: &mut dyn FnMut(&Experiment),
) -> Result<Vec<Experiment>, StackError> {
    // Every fit would announce its folds.
    let quiet =
        Context::new(context.seed(), context.threads()).expect("a second pool starts as the first did");
    let mut out = Vec::new();
    let mut add = |found: Vec<Experiment>| {
        found.iter().for_each(&mut *report);
        out.extend(found);
    };
    if let Some(folder) = data {
        let housing = read_csv(&folder.join("california-housing/california_housing.csv.gz"))?;
        add(real("California housing", housing, config.housing_rows, &[1.0, 2.0, 4.0], &quiet)?);
        context.check_cancelled()?;
        let diabetes = read_csv(&folder.join("diabetes/diabetes.csv"))?;
        add(real("diabetes", diabetes, config.diabetes_rows, &[3.0, 6.0], &quiet)?);
    }
    for part in [conditioning, small_samples, speed, noise] {
        context.check_cancelled()?;
        add(part(config, &quiet)?);
    }
    Ok(out)
}

fn file_error(path: &Path, problem: impl ToString) -> StackError {
    StackError::File { path: path.display().to_string(), problem: problem.to_string() }
}

/// Numbers of a CSV file (gzip or plain; a header is skipped): all columns but the last, and the last.
fn read_csv(path: &Path) -> Result<(Mat<f64>, Vec<f64>), StackError> {
    let raw = std::fs::read(path).map_err(|e| file_error(path, e))?;
    let mut text = String::new();
    if raw.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(&raw[..])
            .read_to_string(&mut text)
            .map_err(|e| file_error(path, e))?;
    } else {
        text = String::from_utf8(raw).map_err(|e| file_error(path, e))?;
    }
    let (mut values, mut cols, mut rows) = (Vec::new(), 0, 0);
    for (number, line) in text.lines().enumerate() {
        let fields: Result<Vec<f64>, _> =
            line.split(',').map(|f| f.trim().trim_matches('"').parse()).collect();
        match fields {
            Ok(fields) => {
                (cols, rows) = (fields.len(), rows + 1);
                values.extend(fields);
            }
            Err(_) if number == 0 => {}
            Err(e) => return Err(file_error(path, format!("line {}: {e}", number + 1))),
        }
    }
    let table = Mat::from_vec(rows, cols, values).map_err(|e| file_error(path, e))?;
    let y = table.column(cols - 1);
    Ok((Mat::from_fn(rows, cols - 1, |i, j| table.at(i, j)), y))
}

/// Columns of unit variance; the raw ones, with their squares and products, and random Fourier features of some widths.
fn feature_maps(x: &Mat<f64>, widths: &[f64], rng: &mut impl Rng) -> Vec<Dense<f64>> {
    let (n, d) = x.shape();
    let z: Vec<Vec<f64>> = (0..d)
        .map(|j| {
            let c = x.column(j);
            let m = mean(&c);
            let sd = mean(&c.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>()).sqrt();
            // Single blocks with hundreds of people a house: beyond five deviations only the order matters.
            c.iter().map(|v| ((v - m) / sd).clamp(-5.0, 5.0)).collect()
        })
        .collect();
    let pack = |columns: Vec<Vec<f64>>| {
        Dense::from_columns(n, columns.len(), columns.concat()).expect("n values each")
    };
    let mut products = z.clone();
    for a in 0..d {
        for b in 0..=a {
            products.push((0..n).map(|i| z[a][i] * z[b][i]).collect());
        }
    }
    let mut maps = vec![pack(z.clone()), pack(products)];
    for width in widths {
        let columns = (0..100).map(|_| {
            let direction: Vec<f64> = (0..d).map(|_| rng.sample::<f64, _>(StandardNormal) / width).collect();
            let phase = rng.random_range(0.0..std::f64::consts::TAU);
            (0..n).map(|i| (phase + (0..d).map(|j| direction[j] * z[j][i]).sum::<f64>()).cos()).collect()
        });
        maps.push(pack(columns.collect()));
    }
    maps
}

type Fit = fn(&dyn Design, &[f64]) -> Result<Fitted, EstimateError>;

/// Seven linear models of every map.
fn base_models<'a>(maps: &'a [Dense<f64>], y: &'a [f64]) -> Vec<Box<BaseModel<'a>>> {
    let mut out: Vec<Box<BaseModel<'a>>> = Vec::new();
    for map in maps {
        let fits: [Fit; 7] = [
            |x, y| Lasso::at_fraction(0.05).fit(x, y),
            |x, y| Lasso::at_fraction(0.01).fit(x, y),
            |x, y| Lasso::at_fraction(0.002).fit(x, y),
            |x, y| ElasticNet::at_fraction(0.01).l1_ratio(0.3).fit(x, y),
            |x, y| ElasticNet::at_fraction(0.002).l1_ratio(0.3).fit(x, y),
            |x, y| McpRegression::at_fraction(0.03).fit(x, y),
            |x, y| HuberRegression::at_fraction(0.005).fit(x, y),
        ];
        for fit in fits {
            out.push(Box::new(move |train: &[u32], held: &[u32]| {
                let target: Vec<f64> = train.iter().map(|i| y[*i as usize]).collect();
                let fitted = fit(map.select(Some(train), None, None).as_ref(), &target)?;
                Ok(fitted.predict(map.select(Some(held), None, None).as_ref())?)
            }));
        }
    }
    out
}

/// Base models on real data; everything is scored on rows that nothing was fitted on.
fn real(
    name: &str,
    (x, y): (Mat<f64>, Vec<f64>),
    train_rows: usize,
    widths: &[f64],
    context: &Context,
) -> Result<Vec<Experiment>, StackError> {
    let began = Instant::now();
    let mut rng = context.rng(11);
    let maps = feature_maps(&x, widths, &mut rng);
    let owned = base_models(&maps, &y);
    let models: Vec<&BaseModel<'_>> = owned.iter().map(AsRef::as_ref).collect();
    let mut rows: Vec<u32> = (0..y.len() as u32).collect();
    rows.shuffle(&mut rng);
    let (train, test) = rows.split_at_mut(train_rows.min(y.len() - 1));
    train.sort_unstable();
    test.sort_unstable();
    let p = out_of_fold(&models, train, &Folds::shuffled(train.len(), 10, 3)?, context)?;
    let columns: Result<Vec<Vec<f64>>, StackError> = models.iter().map(|m| m(train, test)).collect();
    let columns = columns?;
    let p_test = Mat::from_fn(test.len(), models.len(), |i, k| columns[k][i]);
    let of = |rows: &[u32]| rows.iter().map(|i| y[*i as usize]).collect::<Vec<f64>>();
    let (target, truth) = (of(train), of(test));

    let stack_began = Instant::now();
    let fitted = Stack::default().fit(&p, &target, context)?;
    let stack_seconds = stack_began.elapsed().as_secs_f64();
    let ours = rmse(&fitted.predict(&p_test)?, &truth);
    let single: Vec<f64> = (0..p.cols).map(|k| rmse(&p.column(k), &target)).collect();
    let best = (0..p.cols).min_by(|a, b| single[*a].total_cmp(&single[*b])).unwrap_or(0);
    let best = rmse(&p_test.column(best), &truth);
    let average = rmse(&simple_mean(&p_test), &truth);
    let weighted = rmse(&combine(&p_test, &by_performance(&p, &target), 0.0), &truth);
    let climb_began = Instant::now();
    let climbed = hill_climb(&p, &target, 200);
    let climb_seconds = climb_began.elapsed().as_secs_f64();
    let climb = rmse(&combine(&p_test, &climbed, 0.0), &truth);
    let (w, b) = nnls(&p, &target)?;
    let positive = rmse(&combine(&p_test, &w, b), &truth);
    let (w, b) = least_squares(&p, &target)?;
    let plain = rmse(&combine(&p_test, &w, b), &truth);
    let data = format!("{name}, {} models, {} rows, {} test rows", p.cols, train.len(), test.len());
    let kept = fitted.kept().len();
    let mut out = vec![
        experiment(
            format!("stack of {kept} models against the simple average (by performance {weighted:.4})"),
            &data,
            "at most the average's",
            ours,
            average,
            ours <= average,
        ),
        experiment(
            "stack against the best single model".into(),
            &data,
            "at most the best's",
            ours,
            best,
            ours <= best,
        ),
        experiment(
            format!("stack against hill climbing (non-negative {positive:.4}, least squares {plain:.4})"),
            &data,
            "at most 0.5 % above",
            ours,
            climb,
            ours <= 1.005 * climb,
        ),
        Experiment {
            metric: "seconds, lower is better".into(),
            ..experiment(
                "time of the stack against hill climbing on products of residuals".into(),
                &data,
                "a quarter of it",
                stack_seconds,
                climb_seconds,
                4.0 * stack_seconds <= climb_seconds,
            )
        },
        experiment(
            format!(
                "out-of-fold score, nested; condition {:.3e} -> {:.3e}",
                fitted.redundancy.condition_before, fitted.redundancy.condition_after
            ),
            &data,
            "within 5 % of the test's",
            fitted.score.rmse,
            ours,
            (fitted.score.rmse / ours - 1.0).abs() <= 0.05,
        ),
    ];
    // Ablation: what each stage is worth.
    let ablations: [(&str, Stack); 5] = [
        ("without stage 1", Stack { project: false, ..Stack::default() }),
        ("without stage 2", Stack { augment: false, ..Stack::default() }),
        ("ridge alone", Stack { learners: vec![Learner::Ridge], ..Stack::default() }),
        ("lasso alone", Stack { learners: vec![Learner::Lasso], ..Stack::default() }),
        ("the published thresholds", Stack { relative: false, nested: false, ..Stack::default() }),
    ];
    for (what, stack) in ablations {
        let fit: FittedStack = stack.fit(&p, &target, context)?;
        let found = rmse(&fit.predict(&p_test)?, &truth);
        let name =
            format!("ablation: {what} ({} models, out of fold {:.4})", fit.kept().len(), fit.score.rmse);
        out.push(experiment(name, &data, "the whole within 0.5 % of it", ours, found, ours <= 1.005 * found));
    }
    let seconds = began.elapsed().as_secs_f64() / out.len() as f64;
    out.iter_mut().for_each(|e| e.seconds = seconds);
    Ok(out)
}

/// `k` models that see the truth with noises of their own, then `copies` of them.
fn simulated(n: usize, k: usize, copies: usize, rng: &mut impl Rng) -> (Mat<f64>, Vec<f64>) {
    let mut draw = || rng.sample::<f64, _>(StandardNormal);
    let mut p = Mat::zeros(n, k + copies);
    let mut y = vec![0.0; n];
    for i in 0..n {
        let truth = draw();
        // A part that all models miss together.
        let shared = 0.3 * draw();
        for j in 0..k {
            p.row_mut(i)[j] = truth + shared + (0.3 + 0.5 * j as f64 / k as f64) * draw();
        }
        for j in 0..copies {
            p.row_mut(i)[k + j] = p.at(i, j % k) + 0.05 * draw();
        }
        y[i] = truth + 0.3 * draw();
    }
    (p, y)
}

/// 40 models and 30 near copies.
fn conditioning(config: &Config, context: &Context) -> Result<Vec<Experiment>, StackError> {
    let began = Instant::now();
    let (mut falls, mut changes, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for &seed in &config.seeds {
        let mut rng = context.rng(100 + seed);
        let (p, y) = simulated(4000, 40, 30, &mut rng);
        let rows = |from: usize| Mat::from_fn(2000, 70, |i, j| p.at(from + i, j));
        let (train, test) = (rows(0), rows(2000));
        let fit = |project: bool| Stack { project, ..Stack::default() }.fit(&train, &y[..2000], context);
        let (with, without) = (fit(true)?, fit(false)?);
        falls.push(1.0 - with.redundancy.condition_after / with.redundancy.condition_before);
        let error = |f: &FittedStack| -> Result<f64, StackError> { Ok(rmse(&f.predict(&test)?, &y[2000..])) };
        changes.push((error(&with)? / error(&without)? - 1.0).abs());
        kept.push(with.kept().len() as f64);
    }
    let data = "40 models and 30 copies (correlation above .99), 2000 + 2000 rows";
    let worst = changes.iter().copied().fold(0.0, f64::max);
    let seconds = began.elapsed().as_secs_f64() / 2.0;
    Ok(vec![
        Experiment {
            metric: "fall of the condition number, higher is better".into(),
            seeds: config.seeds.clone(),
            seconds,
            ..experiment(
                format!("condition number without the copies ({:.1} models kept)", mean(&kept)),
                data,
                "at least .50",
                mean(&falls),
                0.537,
                mean(&falls) >= 0.5,
            )
        },
        Experiment {
            metric: "greatest relative change of the test RMSE, lower is better".into(),
            seeds: config.seeds.clone(),
            seconds,
            ..experiment("the copies are not missed".into(), data, "below .002", worst, 0.002, worst < 0.002)
        },
    ])
}

/// Few rows for many models.
fn small_samples(config: &Config, context: &Context) -> Result<Vec<Experiment>, StackError> {
    let began = Instant::now();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for &seed in &config.seeds {
        let mut rng = context.rng(200 + seed);
        let (p, y) = simulated(2300, 60, 0, &mut rng);
        let rows = |from: usize, count: usize| Mat::from_fn(count, 60, |i, j| p.at(from + i, j));
        let (train, test) = (rows(0, 300), rows(300, 2000));
        ours.push(rmse(&Stack::default().fit(&train, &y[..300], context)?.predict(&test)?, &y[300..]));
        let (w, b) = least_squares(&train, &y[..300])?;
        plain.push(rmse(&combine(&test, &w, b), &y[300..]));
    }
    let wins = ours.iter().zip(&plain).filter(|(a, b)| a < b).count();
    Ok(vec![Experiment {
        metric: "seeds won, higher is better".into(),
        seeds: config.seeds.clone(),
        seconds: began.elapsed().as_secs_f64(),
        ..experiment(
            format!("stack {:.4} against least squares {:.4}", mean(&ours), mean(&plain)),
            "60 models, 300 rows, 2000 test rows",
            "at least 8 in 10",
            wins as f64,
            config.seeds.len() as f64,
            10 * wins >= 8 * config.seeds.len(),
        )
    }])
}

/// The whole pipeline on the paper's size.
fn speed(config: &Config, context: &Context) -> Result<Vec<Experiment>, StackError> {
    let (p, y) = simulated(config.rows, config.models - 10, 10, &mut context.rng(300));
    let began = Instant::now();
    let fitted = Stack::default().fit(&p, &y, context)?;
    let seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    fitted.predict(&p)?;
    let each = 1e6 * began.elapsed().as_secs_f64() / (p.rows * p.cols) as f64;
    let data = format!("{} rows, {} models, {} threads", p.rows, p.cols, context.threads());
    Ok(vec![
        Experiment {
            metric: "seconds, lower is better".into(),
            seconds,
            ..experiment(
                format!("whole pipeline, nested ({} models kept)", fitted.kept().len()),
                &data,
                "at most 5 (published code, not nested: 712.8)",
                seconds,
                712.8,
                seconds <= 5.0,
            )
        },
        Experiment {
            metric: "microseconds per row and model, lower is better".into(),
            ..experiment("prediction".into(), &data, "below 1", each, 1.0, each < 1.0)
        },
    ])
}

/// A target that no model can know, over the whole chain, and the score that the published way gives.
fn noise(config: &Config, context: &Context) -> Result<Vec<Experiment>, StackError> {
    let began = Instant::now();
    let (mut whole, mut published) = (Vec::new(), Vec::new());
    for &seed in &config.seeds {
        let mut rng = context.rng(400 + seed);
        let n = 150;
        let x = Mat::from_fn(n, 6, |_, _| rng.sample(StandardNormal));
        let y: Vec<f64> = (0..n).map(|_| rng.sample(StandardNormal)).collect();
        let maps = feature_maps(&x, &[2.0], &mut rng);
        let owned = base_models(&maps, &y);
        let models: Vec<&BaseModel<'_>> = owned.iter().map(AsRef::as_ref).collect();
        let stack = Stack { folds: 5, ..Stack::default() };
        let predicted = end_to_end(&models, &y, &Folds::shuffled(n, 5, seed)?, 5, &stack, context)?;
        whole.push(score(&predicted, &y).r2);
        let rows: Vec<u32> = (0..n as u32).collect();
        let p = out_of_fold(&models, &rows, &Folds::shuffled(n, 5, seed)?, context)?;
        published.push(Stack { nested: false, ..stack }.fit(&p, &y, context)?.score.r2);
    }
    Ok(vec![Experiment {
        metric: "mean explained variance, 0 is honest".into(),
        seeds: config.seeds.clone(),
        seconds: began.elapsed().as_secs_f64(),
        ..experiment(
            "a target of pure noise, base models and stack nested (baseline: the published way)".into(),
            "150 rows, 21 models",
            "at most .01",
            mean(&whole),
            mean(&published),
            mean(&whole) <= 0.01,
        )
    }])
}
