//! Single fits and paths at a relative duality gap of 1e-6, on the sizes that celer and skglm report:
//! autoregressive designs, 1 % true features, signal-to-noise ratio 3, no intercept.

#![allow(missing_docs)] // criterion_group makes public functions

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use sparseland_estimate::cv::{Folds, cross_validate};
use sparseland_estimate::estimators::{Lasso, McpRegression};
use sparseland_estimate::path::{PathEstimator, PathOptions};
use sparseland_estimate::subset::BestSubset;
use sparseland_optim::design::{Dense, Design, Sparse};

fn target(x: &dyn Design, nonzero: usize, rng: &mut Pcg64Mcg) -> Vec<f64> {
    let mut w = vec![0.0; x.cols()];
    for _ in 0..nonzero {
        w[rng.random_range(0..x.cols())] = rng.sample(StandardNormal);
    }
    let signal = x.times(&w);
    let noise: Vec<f64> = (0..x.rows()).map(|_| rng.sample(StandardNormal)).collect();
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let factor = norm(&signal) / norm(&noise) / 3.0;
    signal.iter().zip(&noise).map(|(s, e)| s + factor * e).collect()
}

fn autoregressive(n: usize, p: usize, rho: f64, seed: u64) -> (Dense<f64>, Vec<f64>) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut values: Vec<f64> = (0..n * p).map(|_| rng.sample(StandardNormal)).collect();
    for k in n..n * p {
        values[k] = rho * values[k - n] + (1.0 - rho * rho).sqrt() * values[k];
    }
    let x = Dense::from_columns(n, p, values).expect("n p values");
    let y = target(&x, p / 100, &mut rng);
    (x, y)
}

fn sparse(n: usize, p: usize, per_column: usize, seed: u64) -> (Sparse<f64>, Vec<f64>) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let (mut offsets, mut rows, mut values) = (vec![0], vec![], vec![]);
    for _ in 0..p {
        let mut column: Vec<u32> = (0..per_column).map(|_| rng.random_range(0..n as u32)).collect();
        column.sort_unstable();
        column.dedup();
        values.extend((0..column.len()).map(|_| rng.sample::<f64, _>(StandardNormal)));
        rows.extend(column);
        offsets.push(rows.len());
    }
    let x = Sparse::from_csc(n, offsets, rows, values).expect("sorted rows");
    let y = target(&x, p / 100, &mut rng);
    (x, y)
}

fn lasso(c: &mut Criterion) {
    let mut group = c.benchmark_group("lasso");
    group.sample_size(10);
    let fit = |fraction: f64| Lasso::at_fraction(fraction).fit_intercept(false);
    for (n, p, rho, fraction) in [(500, 5000, 0.6, 0.1), (500, 5000, 0.6, 0.01), (1000, 20000, 0.9, 0.05)] {
        let (x, y) = autoregressive(n, p, rho, 1);
        group.bench_function(BenchmarkId::new("dense", format!("{n}x{p}/{fraction}")), |b| {
            b.iter(|| fit(fraction).fit(&x, &y).expect("finite data"));
        });
    }
    let (x, y) = sparse(5000, 50000, 10, 3);
    group.bench_function(BenchmarkId::new("sparse", "5000x50000/0.1"), |b| {
        b.iter(|| fit(0.1).fit(&x, &y).expect("finite data"));
    });
    for (n, p) in [(200, 1000), (500, 5000)] {
        let (x, y) = autoregressive(n, p, 0.6, 1);
        let options = PathOptions { early_stop: false, eps: Some(1e-2), ..PathOptions::default() };
        group.bench_function(BenchmarkId::new("path of 100", format!("{n}x{p}")), |b| {
            b.iter(|| fit(0.0).path(&x, &y, None, &options).expect("finite data"));
        });
    }
}

fn selection(c: &mut Criterion) {
    let mut group = c.benchmark_group("selection 300x3000");
    group.sample_size(10);
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let values = (0..300 * 3000).map(|_| rng.sample(StandardNormal)).collect();
    let x: Dense<f64> = Dense::from_columns(300, 3000, values).expect("300 x 3000 values");
    let mut w = vec![0.0; 3000];
    (0..15).for_each(|k| w[k * 200] = if k % 2 == 0 { 1.0 } else { -2.0 });
    let mut y = x.times(&w);
    y.iter_mut().for_each(|y| *y += rng.sample::<f64, _>(StandardNormal));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let folds = Folds::shuffled(300, 5, 0).expect("five folds");
    let options = PathOptions { n_alphas: 50, eps: Some(0.05), ..PathOptions::default() };
    group.bench_function("mcp path, 5 folds", |b| {
        let mcp = McpRegression::new(0.0);
        b.iter(|| cross_validate(&mcp, &x, &y, None, &folds, &options, &pool).expect("finite data"));
    });
    group.bench_function("best subset, sizes to 30", |b| {
        b.iter(|| BestSubset::new().max_size(30).fit(&x, &y).expect("finite data"));
    });
}

criterion_group!(benches, lasso, selection);
criterion_main!(benches);
