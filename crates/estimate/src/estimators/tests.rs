//! What single estimators promise, checked as mathematics; `battery` asks all of them alike.

use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use sparseland_linalg::Mat;
use sparseland_optim::design::{Dense, Design, Sparse};
use sparseland_optim::penalty::Exponent;

use super::*;
use crate::path::{PathEnd, PathEstimator, PathOptions};

pub(super) const N: usize = 40;
pub(super) const P: usize = 25;

/// Row-major correlated data on a grid of zeros, so that a sparse copy has something to leave out.
pub(super) fn data(seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut x = vec![0.0f64; N * P];
    for i in 0..N {
        for j in 0..P {
            let before = if j > 0 { x[i * P + j - 1] } else { 0.0 };
            let fresh: f64 = rng.sample(StandardNormal);
            x[i * P + j] = if rng.random::<f64>() < 0.3 { 0.0 } else { 0.5 * before + fresh + 0.4 };
        }
    }
    let y = (0..N)
        .map(|i| {
            let row = &x[i * P..(i + 1) * P];
            let noise: f64 = rng.sample(StandardNormal);
            3.0 + 2.0 * row[2] - 1.5 * row[7] + row[8] + 0.5 * row[20] + 0.5 * noise
        })
        .collect();
    (x, y)
}

pub(super) fn dense(x: &[f64]) -> Dense<f64> {
    Dense::from_rows(x.len() / P, P, x).unwrap()
}

pub(super) fn sparse(x: &[f64]) -> Sparse<f64> {
    let (mut offsets, mut columns, mut values) = (vec![0], vec![], vec![]);
    for row in x.chunks(P) {
        for (j, &v) in row.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            columns.push(j as u32);
            values.push(v);
        }
        offsets.push(values.len());
    }
    Sparse::from_csr(P, &offsets, &columns, &values).unwrap()
}

pub(super) fn classes(y: &[f64]) -> Vec<f64> {
    y.iter().map(|v| f64::from(u8::from(*v > 3.5))).collect()
}

pub(super) fn counts(y: &[f64]) -> Vec<f64> {
    y.iter().map(|v| (0.3 * v).exp().round()).collect()
}

pub(super) fn fives() -> Vec<Vec<u32>> {
    GroupLasso::consecutive(P, 5)
}

pub(super) fn grid(n_alphas: usize, eps: f64) -> PathOptions {
    PathOptions { n_alphas, eps: Some(eps), early_stop: false, ..PathOptions::default() }
}

pub(super) fn at(alphas: &[f64]) -> PathOptions {
    PathOptions { alphas: Some(alphas.to_vec()), ..PathOptions::default() }
}

/// Columns of a Hadamard matrix: orthogonal, and orthogonal to the intercept from the second one on.
fn hadamard() -> (Dense<f64>, Vec<f64>) {
    let sign = |i: usize, j: usize| if (i & (j + 1)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let x = Mat::from_fn(16, 8, sign);
    let y = (0..16).map(|i| 5.0 + 2.0 * sign(i, 0) - 0.7 * sign(i, 1) + 0.2 * sign(i, 2)).collect();
    (Dense::from(&x), y)
}

#[test]
fn orthogonal_designs_have_closed_forms() {
    let (x, y) = hadamard();
    // x_jᵀ y / n is 2, -0.7, 0.2 and 0, the curvature is 1.
    let check = |fitted: Fitted, expected: [f64; 3]| {
        let w = fitted.coef.to_dense();
        for j in 0..3 {
            assert!((w[j] - expected[j]).abs() < 1e-9, "{w:?} {expected:?}");
        }
        assert!((fitted.intercept - 5.0).abs() < 1e-9 && w[3..].iter().all(|w| *w == 0.0));
    };
    check(Lasso::new(0.3).tol(1e-12).fit(&x, &y).unwrap(), [1.7, -0.4, 0.0]);
    check(Lasso::new(0.3).tol(1e-12).positive(true).fit(&x, &y).unwrap(), [1.7, 0.0, 0.0]);
    let net = ElasticNet::new(0.4).l1_ratio(0.5).tol(1e-12);
    check(net.fit(&x, &y).unwrap(), [1.8 / 1.2, -0.5 / 1.2, 0.0]);
    // Beyond gamma alpha = 0.9 unshrunk, below it (z - alpha) / (1 - 1 / gamma).
    check(McpRegression::new(0.3).tol(1e-12).fit(&x, &y).unwrap(), [2.0, -0.4 * 1.5, 0.0]);
    // Between 2 alpha and 3.7 alpha: ((a - 1) z - a alpha) / (a - 2).
    let middle = (2.7 * 0.7 - 3.7 * 0.3) / 1.7;
    check(ScadRegression::new(0.3).tol(1e-12).fit(&x, &y).unwrap(), [2.0, -middle, 0.0]);
    // Of 2, -0.7 and 0.2 the lasso leaves alpha sigma each: 3 (alpha sigma)² = sigma² only for alpha = 1 / sqrt(3).
    // Below that, sigma is at its floor.
    let floor = 0.01 * 4.53f64.sqrt();
    let shrunk = 0.3 * floor;
    let sqrt = SqrtLasso::new(0.3).tol(1e-12);
    check(sqrt.fit(&x, &y).unwrap(), [2.0 - shrunk, -0.7 + shrunk, 0.2 - shrunk]);
    // With alpha = 0.6 the third is out: 0.04 + 2 (0.6 sigma)² = sigma².
    let shrunk = 0.6 * (0.04f64 / (1.0 - 2.0 * 0.36)).sqrt();
    let fitted = SqrtLasso::new(0.6).tol(1e-12).fit(&x, &y).unwrap();
    assert!((fitted.noise_level() - shrunk / 0.6).abs() < 1e-9);
    check(fitted, [2.0 - shrunk, -0.7 + shrunk, 0.0]);
    // Roots of w - z + 0.3 / (2 sqrt w) = 0 and w - z + 0.2 / cbrt w = 0, by Newton's method.
    let root = |z: f64, slope: &dyn Fn(f64) -> f64| {
        let mut w = z;
        (0..200).for_each(|_| w = z - slope(w));
        w
    };
    let half = |w: f64| 0.15 / w.sqrt();
    check(
        BridgeRegression::new(0.3).tol(1e-12).fit(&x, &y).unwrap(),
        [root(2.0, &half), -root(0.7, &half), 0.0],
    );
    let thirds = |w: f64| 0.2 / w.cbrt();
    let bridge = BridgeRegression::new(0.3).exponent(Exponent::TwoThirds).tol(1e-12);
    check(bridge.fit(&x, &y).unwrap(), [root(2.0, &thirds), -root(0.7, &thirds), 0.0]);
    let log = |w: f64| 0.3 / (w + 1.0);
    check(
        LogSumRegression::new(0.3).tol(1e-12).fit(&x, &y).unwrap(),
        [root(2.0, &log), -root(0.7, &log), 0.0],
    );
    // Sizes stay in order: each is shrunk by its own lambda.
    let lambdas = vec![1.0, 0.8, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5];
    let slope = Slope::new(0.3).lambdas(lambdas).tol(1e-13);
    check(slope.fit(&x, &y).unwrap(), [1.7, -0.7 + 0.24, 0.2 - 0.18]);
    let groups = vec![vec![0, 3], vec![1, 2], vec![4, 5], vec![6, 7]];
    let norm = 0.53f64.sqrt();
    let group = GroupLasso::new(0.3, groups).tol(1e-12).fit(&x, &y).unwrap();
    check(group, [1.7, -0.7 * (1.0 - 0.3 / norm), 0.2 * (1.0 - 0.3 / norm)]);
}

#[test]
fn infinite_weights_exclude_and_zero_weights_are_free() {
    let (x, y) = data(7);
    let x = dense(&x);
    let mut weights = vec![1.0; P];
    (weights[2], weights[7], weights[8]) = (f64::INFINITY, 0.0, 0.5);
    for alpha in [5.0, 0.2] {
        let fitted = Lasso::new(alpha).tol(1e-10).weights(weights.clone()).fit(&x, &y).unwrap();
        let w = fitted.coef.to_dense();
        assert_eq!(w[2], 0.0);
        assert!(fitted.converged && w[7] != 0.0);
        let m = fitted.decision_function(&x).unwrap();
        let residual: Vec<f64> = y.iter().zip(&m).map(|(y, m)| y - m).collect();
        // Unpenalised: orthogonal to the residual; penalised and active: at its threshold.
        assert!((x.dot(7, &residual) / N as f64).abs() < 1e-7);
        assert!(residual.iter().sum::<f64>().abs() < 1e-9);
        if w[8] != 0.0 {
            assert!(((x.dot(8, &residual) / N as f64).abs() - 0.5 * alpha).abs() < 1e-7);
        }
    }
    // The grid starts where only the unpenalised feature is in.
    let path = Lasso::new(0.0).weights(weights).path(&x, &y, None, &grid(5, 0.5)).unwrap();
    assert_eq!(path.fits[0].coef.indices, [7]);
    assert!(path.fits[1].coef.nnz() > 1);
    let logistic =
        SparseLogisticRegression::new(0.0).weights((0..P).map(|j| f64::from(u8::from(j != 4))).collect());
    let path = logistic.path(&x, &classes(&y), None, &grid(5, 0.5)).unwrap();
    assert_eq!(path.fits[0].coef.indices, [4]);
    assert!(path.fits[1].coef.nnz() > 1);
}

#[test]
fn fractions_are_parts_of_the_least_strength_that_gives_zeros() {
    let (x, y) = data(9);
    let half = Lasso::at_fraction(0.5).fit(&dense(&x), &y).unwrap();
    let top = Lasso::new(0.0).path(&dense(&x), &y, None, &grid(1, 0.5)).unwrap().fits[0].alpha;
    assert!((half.alpha - 0.5 * top).abs() < 1e-12);
}

#[test]
fn degenerate_shapes_and_targets_are_fitted() {
    let one_row = Dense::from_rows(1, 3, &[1.0, 2.0, 3.0]).unwrap();
    let one_column = Dense::from_columns(4, 1, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let fitted = Lasso::new(0.1).fit(&one_row, &[2.0]).unwrap();
    assert_eq!((fitted.coef.nnz(), fitted.intercept), (0, 2.0));
    let without = Lasso::new(0.1).fit_intercept(false).fit(&one_row, &[2.0]).unwrap();
    assert!((without.predict(&one_row).unwrap()[0] - (2.0 - 0.1 / 3.0)).abs() < 1e-4);
    let line = Lasso::new(0.0).fit(&one_column, &[3.0, 5.0, 7.0, 9.0]).unwrap();
    assert!((line.coef.values[0] - 2.0).abs() < 1e-9 && (line.intercept - 1.0).abs() < 1e-9);
    // Integers stored as f32, and a target of tiny scale: the tolerance is relative.
    let tiny: Vec<f64> = [3.0, 5.0, 7.0, 9.0].iter().map(|v| v * 1e-20).collect();
    let fitted = Lasso::at_fraction(0.01).fit(&one_column, &tiny).unwrap();
    assert!((fitted.coef.values[0] / 2e-20 - 0.99).abs() < 1e-6);
}

#[test]
fn faults_are_named() {
    let (mut x, y) = data(11);
    x[3 * P + 4] = f64::NAN;
    let message = |e: Result<Fitted, EstimateError>| e.unwrap_err().to_string();
    assert!(message(Lasso::new(1.0).fit(&dense(&x), &y)).starts_with("X[3, 4] is NaN"));
    x[3 * P + 4] = f64::INFINITY;
    assert!(message(Lasso::new(1.0).fit(&sparse(&x), &y)).starts_with("X[3, 4] is inf"));
    x[3 * P + 4] = 0.0;
    let x = dense(&x);
    let mut bad = y.clone();
    bad[5] = f64::NAN;
    assert!(message(Lasso::new(1.0).fit(&x, &bad)).starts_with("y[5] is NaN"));
    assert!(message(Lasso::new(1.0).fit(&x, &y[1..])).contains("y has 39 entries where 40"));
    let two = vec![2.0; N];
    assert!(message(SparseLogisticRegression::new(1.0).fit(&x, &two)).contains("it must be 0 or 1"));
    let negative = vec![-1.0; N];
    assert!(message(PoissonRegression::new(1.0).fit(&x, &negative)).starts_with("y[0] is -1"));
    assert!(message(Lasso::new(1.0).fit_weighted(&x, &y, &negative)).starts_with("sample_weight[0]"));
    assert!(message(Lasso::new(1.0).fit_weighted(&x, &y, &[0.0; N])).contains("all sample weights are 0"));
    assert!(message(Lasso::new(-1.0).fit(&x, &y)).starts_with("alpha is -1"));
    assert!(message(ElasticNet::new(1.0).l1_ratio(1.5).fit(&x, &y)).starts_with("l1_ratio is 1.5"));
    assert!(message(McpRegression::new(1.0).gamma(0.5).fit(&x, &y)).starts_with("gamma is 0.5"));
    assert!(message(ScadRegression::new(1.0).shape(2.0).fit(&x, &y)).starts_with("shape is 2"));
    assert!(message(Lasso::new(1.0).weights(vec![-1.0; P]).fit(&x, &y)).starts_with("weights[0]"));
    assert!(message(GroupLasso::new(1.0, vec![vec![0], vec![0]]).fit(&x, &y)).contains("feature 0 is in 2"));
    let empty = Dense::<f64>::from_columns(N, 0, vec![]).unwrap();
    assert!(message(Lasso::new(1.0).fit(&empty, &y)).contains("X is 40 x 0"));
    assert!(matches!(
        ElasticNet::new(1.0).l1_ratio(0.0).path(&x, &y, None, &grid(5, 0.1)),
        Err(EstimateError::NoGrid)
    ));
    assert!(matches!(
        Lasso::new(1.0).path(&x, &y, None, &at(&[1.0, 2.0])),
        Err(EstimateError::Parameter { name: "alphas", .. })
    ));
}

#[test]
fn ridge_alone_is_solved() {
    let (x, y) = data(12);
    let x = dense(&x);
    let fitted = ElasticNet::new(0.3).l1_ratio(0.0).tol(1e-10).fit(&x, &y).unwrap();
    assert!(fitted.converged && fitted.coef.nnz() == P);
    let m = fitted.predict(&x).unwrap();
    let residual: Vec<f64> = y.iter().zip(&m).map(|(y, m)| y - m).collect();
    for (j, w) in fitted.coef.iter() {
        assert!((x.dot(j, &residual) / N as f64 - 0.3 * w).abs() < 1e-7);
    }
}

#[test]
fn models_come_back_from_files_to_the_bit() {
    let (x, y) = data(13);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.json");
    let fitted = Lasso::at_fraction(0.2).fit(&dense(&x), &y).unwrap();
    fitted.save(&file).unwrap();
    assert_eq!(Fitted::load(&file).unwrap(), fitted);
    let tasks = MultiTaskLasso::at_fraction(0.2).fit(&dense(&x), &Mat::from_vec(N, 1, y).unwrap()).unwrap();
    tasks.save(&file).unwrap();
    assert_eq!(FittedTasks::load(&file).unwrap(), tasks);
    assert!(Fitted::load(&file).unwrap_err().to_string().contains("does not hold a fitted model"));
    assert!(matches!(Fitted::load(&folder.path().join("none")), Err(EstimateError::File { .. })));
}

#[test]
fn one_task_is_the_lasso_and_equal_tasks_share_it() {
    let (x, y) = data(14);
    let x = dense(&x);
    let lasso = Lasso::at_fraction(0.1).tol(1e-13).fit(&x, &y).unwrap();
    let one = MultiTaskLasso::new(lasso.alpha).tol(1e-13);
    let one = one.fit(&x, &Mat::from_vec(N, 1, y.clone()).unwrap()).unwrap();
    let both = MultiTaskLasso::new(lasso.alpha * 2f64.sqrt()).tol(1e-13);
    let both = both.fit(&x, &Mat::from_fn(N, 2, |i, _| y[i])).unwrap();
    for tasks in [&one, &both] {
        for (coef, intercept) in tasks.coef.iter().zip(&tasks.intercept) {
            let (a, b) = (coef.to_dense(), lasso.coef.to_dense());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
            assert!((intercept - lasso.intercept).abs() < 1e-4);
        }
    }
    let predicted = both.predict(&x).unwrap();
    assert!((predicted.at(3, 1) - lasso.predict(&x).unwrap()[3]).abs() < 1e-4);
}

#[test]
fn paths_end_for_the_reason_they_say() {
    let (x, y) = data(15);
    let x = dense(&x);
    let lasso = Lasso::new(0.0);
    let few = PathOptions { dfmax: Some(3), ..PathOptions::default() };
    let path = lasso.path(&x, &y, None, &few).unwrap();
    assert_eq!(path.end, PathEnd::TooMany);
    assert!(path.df().iter().all(|df| *df <= 3) && path.fits.len() > 2);
    let noiseless: Vec<f64> = (0..N).map(|i| 2.0 * x.column(3)[i] - 1.0).collect();
    assert_eq!(lasso.path(&x, &noiseless, None, &PathOptions::default()).unwrap().end, PathEnd::Saturated);
    let deep = PathOptions { eps: Some(1e-7), ..PathOptions::default() };
    let ended = lasso.path(&x, &y, None, &deep).unwrap();
    assert_eq!(ended.end, PathEnd::NoGrowth);
    let whole = lasso.path(&x, &y, None, &PathOptions { early_stop: false, ..deep }).unwrap();
    assert_eq!((whole.end, whole.fits.len()), (PathEnd::Complete, 100));
    assert!(ended.fits.len() < 100 && ended.fits.iter().zip(&whole.fits).all(|(a, b)| a == b));
}

#[test]
fn scores_are_those_of_their_definitions() {
    let (x, y) = data(16);
    let x = dense(&x);
    let fitted = Lasso::at_fraction(0.1).fit(&x, &y).unwrap();
    // With an intercept, R² on the training rows is the explained share of the loss.
    assert!((fitted.score(&x, &y).unwrap() - fitted.explained).abs() < 1e-9);
    let target = classes(&y);
    let logistic = SparseLogisticRegression::at_fraction(0.1).fit(&x, &target).unwrap();
    let probabilities = logistic.predict_proba(&x).unwrap();
    let right = probabilities.iter().zip(&target).filter(|(p, t)| (**p > 0.5) == (**t == 1.0)).count();
    assert_eq!(logistic.score(&x, &target).unwrap(), right as f64 / N as f64);
    // The intercept makes the mean probability that of the classes.
    let mean = |v: &[f64]| v.iter().sum::<f64>() / N as f64;
    assert!((mean(&probabilities) - mean(&target)).abs() < 1e-8);
    let counts = counts(&y);
    let poisson = PoissonRegression::at_fraction(0.1).fit(&x, &counts).unwrap();
    assert!((mean(&poisson.predict(&x).unwrap()) - mean(&counts)).abs() < 1e-6 * mean(&counts));
    assert!(poisson.score(&x, &counts).unwrap() > 0.5);
}

#[test]
fn outliers_hardly_move_a_huber_fit() {
    let (x, mut y) = data(17);
    let x = dense(&x);
    let clean = HuberRegression::new(0.05).fit(&x, &y).unwrap();
    y[4] += 1e4;
    let dirty = HuberRegression::new(0.05).fit(&x, &y).unwrap();
    let (a, b) = (clean.coef.to_dense(), dirty.coef.to_dense());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 0.3), "{a:?} {b:?}");
}

/// Half of the rows have x = 1, the others -1: the fitted mean of each half is known in closed form.
#[test]
fn two_groups_have_closed_forms_for_every_loss() {
    let x = Dense::from_columns(40, 1, (0..40).map(|i| if i < 20 { 1.0 } else { -1.0 }).collect()).unwrap();
    let mean = |y: &[f64]| (y[..20].iter().sum::<f64>() / 20.0, y[20..].iter().sum::<f64>() / 20.0);
    let binary: Vec<f64> =
        (0..40).map(|i| f64::from(u8::from(if i < 20 { i % 4 > 0 } else { i % 4 == 0 }))).collect();
    let counts: Vec<f64> =
        (0..40).map(|i| if i < 20 { (i % 5) as f64 + 2.0 } else { (i % 3) as f64 }).collect();
    let amounts: Vec<f64> = counts.iter().map(|c| c + 0.5).collect();
    let alpha = 0.1;
    let check = |fitted: Fitted, high: f64, low: f64| {
        let margin = fitted.decision_function(&x).unwrap();
        assert!(
            (margin[0] - high).abs() < 1e-6 && (margin[39] - low).abs() < 1e-6,
            "{margin:?} {high} {low}"
        );
    };
    // The slope of the loss at the two margins is -alpha and alpha.
    let (high, low) = mean(&binary);
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let logistic = SparseLogisticRegression::new(alpha).tol(1e-12).fit(&x, &binary).unwrap();
    check(logistic, logit(high - alpha), logit(low + alpha));
    let svc = LinearSvc::new(alpha).tol(1e-12).fit(&x, &binary).unwrap();
    check(svc, 2.0 * high - 1.0 - 0.5 * alpha, 2.0 * low - 1.0 + 0.5 * alpha);
    let (high, low) = mean(&counts);
    let poisson = PoissonRegression::new(alpha).tol(1e-12).fit(&x, &counts).unwrap();
    check(poisson, (high - alpha).ln(), (low + alpha).ln());
    let (high, low) = mean(&amounts);
    let gamma = GammaRegression::new(alpha).tol(1e-12).fit(&x, &amounts).unwrap();
    check(gamma, (high / (1.0 + alpha)).ln(), (low / (1.0 - alpha)).ln());
    let huber = HuberRegression::new(alpha).delta(1e3).tol(1e-12).fit(&x, &amounts).unwrap();
    check(huber, high - alpha, low + alpha);
}

#[test]
fn two_classes_are_logistic_regression() {
    let (x, y) = data(20);
    let x = dense(&x);
    let (target, labels): (Vec<f64>, Vec<usize>) = classes(&y).into_iter().map(|c| (c, c as usize)).unzip();
    let weights: Vec<f64> = (0..N).map(|i| 1.0 + (i % 3) as f64).collect();
    let logistic = SparseLogisticRegression::at_fraction(0.2).tol(1e-12);
    let logistic = logistic.fit_weighted(&x, &target, &weights).unwrap();
    // Two classes split a coefficient w into -u and w - u: |u| + |w - u| = |w|, of norm |w| / sqrt(2).
    for (model, alpha) in [
        (MultinomialRegression::new(logistic.alpha), 1.0),
        (MultinomialRegression::new(logistic.alpha * 2f64.sqrt()).grouped(), 1.0),
    ] {
        let fitted = model.tol(1e-12).fit_weighted(&x, &labels, &weights).unwrap();
        assert!((fitted.objective - logistic.objective).abs() < 1e-10 * alpha);
        let (a, b) = (fitted.coef[0].to_dense(), fitted.coef[1].to_dense());
        for ((a, b), w) in a.iter().zip(&b).zip(logistic.coef.to_dense()) {
            assert!((b - a - w).abs() < 1e-5);
        }
        let margin = fitted.intercept[1] - fitted.intercept[0];
        assert!((margin - logistic.intercept).abs() < 1e-5);
        let probabilities = fitted.predict_proba(&x).unwrap();
        for (i, p) in logistic.predict_proba(&x).unwrap().iter().enumerate() {
            assert!((probabilities.at(i, 1) - p).abs() < 1e-5);
            assert!((probabilities.at(i, 0) + p - 1.0).abs() < 1e-5);
        }
        assert_eq!(fitted.score(&x, &labels).unwrap(), logistic.score(&x, &target).unwrap());
    }
}

#[test]
fn several_classes_are_stationary_by_gradients_from_scratch() {
    let (x, y) = data(21);
    let x = dense(&x);
    let labels: Vec<usize> = y.iter().map(|v| ((v / 1.5).floor().clamp(0.0, 3.0)) as usize).collect();
    for grouped in [false, true] {
        let model = MultinomialRegression::new(0.02).tol(1e-10);
        let model = if grouped { model.grouped() } else { model };
        let fitted = model.fit(&x, &labels).unwrap();
        assert!(fitted.converged && fitted.coef.iter().map(SparseCoef::nnz).sum::<usize>() > 4);
        let p = fitted.predict_proba(&x).unwrap();
        let loss: f64 = (0..N).map(|i| -p.at(i, labels[i]).ln()).sum::<f64>() / N as f64;
        assert!((loss - fitted.mean_loss).abs() < 1e-12);
        let slopes: Vec<Vec<f64>> = (0..4)
            .map(|k| (0..N).map(|i| (p.at(i, k) - f64::from(u8::from(labels[i] == k))) / N as f64).collect())
            .collect();
        for slope in &slopes {
            assert!(slope.iter().sum::<f64>().abs() < 1e-8);
        }
        for j in 0..P {
            let w: Vec<f64> = fitted.coef.iter().map(|c| c.to_dense()[j]).collect();
            let g: Vec<f64> = slopes.iter().map(|s| x.dot(j, s)).collect();
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            for k in 0..4 {
                if grouped && norm(&w) > 0.0 {
                    assert!((g[k] + 0.02 * w[k] / norm(&w)).abs() < 1e-7);
                } else if !grouped && w[k] != 0.0 {
                    assert!((g[k] + 0.02 * w[k].signum()).abs() < 1e-7);
                } else {
                    assert!(g[k].abs() <= 0.02 + 1e-7);
                }
            }
            assert!(!grouped || norm(&g) <= 0.02 + 1e-7);
        }
    }
    assert!(
        MultinomialRegression::new(0.1)
            .fit(&x, &vec![2; N])
            .unwrap_err()
            .to_string()
            .starts_with("class is 0")
    );
}

/// Proximal gradient descent on the partial likelihood as it is written: an independent twin.
#[test]
fn cox_regression_is_that_of_a_plain_twin() {
    let (x, y) = data(22);
    let x = dense(&x);
    let time: Vec<f64> = y.iter().map(|v| (8.0 * (-0.4 * v).exp()).ceil()).collect();
    let event: Vec<bool> = (0..N).map(|i| i % 4 != 1).collect();
    let loss_and_slope = |m: &[f64]| {
        let (mut loss, mut slope) = (0.0, vec![0.0; N]);
        for i in (0..N).filter(|&i| event[i]) {
            let at_risk: Vec<usize> = (0..N).filter(|&l| time[l] >= time[i]).collect();
            let sum: f64 = at_risk.iter().map(|&l| m[l].exp()).sum();
            loss += (sum.ln() - m[i]) / N as f64;
            slope[i] -= 1.0 / N as f64;
            at_risk.iter().for_each(|&l| slope[l] += m[l].exp() / sum / N as f64);
        }
        (loss, slope)
    };
    let alpha = 0.05;
    let mut w = vec![0.0; P];
    let curvature = 6.0;
    for _ in 0..4000 {
        let (_, slope) = loss_and_slope(&x.times(&w));
        for (j, w) in w.iter_mut().enumerate() {
            *w = sparseland_optim::penalty::soft_threshold(
                *w - x.dot(j, &slope) / curvature,
                alpha / curvature,
            );
        }
    }
    let fitted = CoxRegression::new(alpha).tol(1e-10).fit(&x, &time, &event).unwrap();
    assert!(fitted.converged && fitted.coef.nnz() > 2);
    let twin = loss_and_slope(&x.times(&w)).0 + alpha * w.iter().map(|w| w.abs()).sum::<f64>();
    assert!((fitted.objective - twin).abs() < 1e-9, "{} {twin}", fitted.objective);
    assert!(fitted.coef.to_dense().iter().zip(&w).all(|(a, b)| (a - b).abs() < 1e-4));
    // Risks order the rows well, and chance is one half.
    assert!(fitted.score(&x, &time, &event).unwrap().unwrap() > 0.8);
    let none = CoxRegression::at_fraction(1.0).fit(&x, &time, &event).unwrap();
    assert_eq!(none.score(&x, &time, &event).unwrap(), Some(0.5));
    assert_eq!(fitted.score(&x, &time, &[false; N]).unwrap(), None);
    assert!(
        CoxRegression::new(0.1)
            .fit(&x, &time, &event[1..])
            .unwrap_err()
            .to_string()
            .starts_with("event has 39")
    );
}

#[test]
fn the_theoretical_strength_needs_no_noise_level_and_keeps_noise_out() {
    let (x, y) = data(23);
    let x = dense(&x);
    // 1.1 z / sqrt(n), z the upper quantile of 0.05 / 50.
    let alpha = SqrtLasso::theoretical_alpha(N, P, 0.95).unwrap();
    assert!((alpha - 1.1 * 3.090232306167813 / (N as f64).sqrt()).abs() < 1e-9);
    assert!(SqrtLasso::theoretical_alpha(N, P, 1.0).is_err());
    let fitted = SqrtLasso::new(alpha).standardize(true).fit(&x, &y).unwrap();
    // Its noise level is that of y in any unit, and the support is the same.
    let scaled: Vec<f64> = y.iter().map(|v| 1e3 * v).collect();
    let other = SqrtLasso::new(alpha).standardize(true).fit(&x, &scaled).unwrap();
    assert_eq!(fitted.coef.indices, other.coef.indices);
    assert!((other.noise_level() / fitted.noise_level() - 1e3).abs() < 1e-2);
    // The lasso of strength alpha sigma is the same model.
    let lasso = Lasso::new(alpha * fitted.noise_level()).standardize(true).tol(1e-12).fit(&x, &y).unwrap();
    let pairs = lasso.coef.to_dense().into_iter().zip(fitted.coef.to_dense());
    assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-3));
    let noise: Vec<f64> = (0..N).map(|i| ((i * i) as f64).sin()).collect();
    assert_eq!(SqrtLasso::new(alpha).standardize(true).fit(&x, &noise).unwrap().coef.nnz(), 0);
}

#[test]
fn slope_groups_correlated_features_and_equal_lambdas_are_the_lasso() {
    let (x, y) = data(24);
    let x = dense(&x);
    let lasso = Lasso::new(0.2).tol(1e-13).fit(&x, &y).unwrap();
    let slope = Slope::new(0.2).lambdas(vec![1.0; P]).tol(1e-13).fit(&x, &y).unwrap();
    assert!(slope.converged && (slope.objective - lasso.objective).abs() < 1e-10);
    assert!(slope.coef.to_dense().iter().zip(lasso.coef.to_dense()).all(|(a, b)| (a - b).abs() < 1e-5));
    // Two copies of a column get equal coefficients, where the lasso may choose.
    let mut values: Vec<f64> = (0..P).flat_map(|j| x.column(j).to_vec()).collect();
    values.extend(x.column(2));
    let twice = Dense::from_columns(N, P + 1, values).unwrap();
    let oscar = Slope::new(0.2).oscar(0.3).tol(1e-13).fit(&twice, &y).unwrap().coef.to_dense();
    assert!(oscar[2] > 0.1 && (oscar[2] - oscar[P]).abs() < 1e-9, "{oscar:?}");
    let message = |slope: Slope| slope.fit(&x, &y).unwrap_err().to_string();
    assert!(message(Slope::new(0.1).lambdas(vec![1.0; 3])).contains("lambdas has 3 entries where 25"));
    let mut rising = vec![1.0; P];
    rising[4] = 2.0;
    assert!(message(Slope::new(0.1).lambdas(rising)).starts_with("lambdas[4] is 2"));
    assert!(message(Slope::new(0.1).quantiles(1.0)).starts_with("q is 1"));
}
