//! What every estimator owes its users, checked as mathematics.

use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use sparseland_linalg::Mat;
use sparseland_optim::design::{Dense, Design, Sparse};

use super::*;
use crate::path::{Path, PathEnd, PathEstimator, PathOptions};

const N: usize = 40;
const P: usize = 25;

/// Row-major correlated data on a grid of zeros, so that a sparse copy has something to leave out.
fn data(seed: u64) -> (Vec<f64>, Vec<f64>) {
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

fn dense(x: &[f64]) -> Dense<f64> {
    Dense::from_rows(x.len() / P, P, x).unwrap()
}

fn sparse(x: &[f64]) -> Sparse<f64> {
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

fn classes(y: &[f64]) -> Vec<f64> {
    y.iter().map(|v| f64::from(u8::from(*v > 3.5))).collect()
}

fn counts(y: &[f64]) -> Vec<f64> {
    y.iter().map(|v| (0.3 * v).exp().round()).collect()
}

fn fives() -> Vec<Vec<u32>> {
    GroupLasso::consecutive(P, 5)
}

/// Every estimator on a target it accepts, at a tenth of its least zero strength, solved tightly.
type Case = (&'static str, Box<dyn PathEstimator>, Vec<f64>);

fn cases(y: &[f64], standardize: bool, intercept: bool) -> Vec<Case> {
    macro_rules! set {
        ($e:expr) => {
            Box::new($e.tol(1e-13).standardize(standardize).fit_intercept(intercept))
        };
    }
    vec![
        ("lasso", set!(Lasso::new(0.0)), y.to_vec()),
        ("positive", set!(Lasso::new(0.0).positive(true)), y.to_vec()),
        ("elastic net", set!(ElasticNet::new(0.0).l1_ratio(0.7)), y.to_vec()),
        ("mcp", set!(McpRegression::new(0.0)), y.to_vec()),
        ("scad", set!(ScadRegression::new(0.0)), y.to_vec()),
        ("logistic", set!(SparseLogisticRegression::new(0.0)), classes(y)),
        ("poisson", set!(PoissonRegression::new(0.0)), counts(y)),
        ("huber", set!(HuberRegression::new(0.0)), y.to_vec()),
        ("group", set!(GroupLasso::new(0.0, fives())), y.to_vec()),
        ("sparse group", set!(GroupLasso::new(0.0, fives()).tau(0.4)), y.to_vec()),
    ]
}

fn grid(n_alphas: usize, eps: f64) -> PathOptions {
    PathOptions { n_alphas, eps: Some(eps), early_stop: false, ..PathOptions::default() }
}

fn at(alphas: &[f64]) -> PathOptions {
    PathOptions { alphas: Some(alphas.to_vec()), ..PathOptions::default() }
}

fn assert_close(name: &str, a: &Fitted, b: &Fitted, tol: f64) {
    let (p, q) = (a.coef.to_dense(), b.coef.to_dense());
    let worst = p.iter().zip(&q).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert_eq!(p.len(), q.len(), "{name}");
    assert!(worst <= tol, "{name}: coefficients differ by {worst}");
    assert!((a.intercept - b.intercept).abs() <= 10.0 * tol, "{name}: {} {}", a.intercept, b.intercept);
}

fn all_converged(name: &str, path: &Path) {
    for fit in &path.fits {
        assert!(fit.converged && fit.kkt < 1e-5, "{name}: {fit:?}");
        assert!(fit.gap.is_none_or(|g| g <= 1e-10), "{name}: {fit:?}");
    }
    assert!(path.fits[0].coef.nnz() == 0 && path.fits.last().unwrap().coef.nnz() > 0, "{name}");
}

#[test]
fn sparse_and_dense_designs_agree() {
    let (x, y) = data(1);
    for (standardize, intercept) in [(true, true), (false, true), (false, false)] {
        for (name, estimator, y) in cases(&y, standardize, intercept) {
            let a = estimator.path(&dense(&x), &y, None, &grid(5, 0.05)).unwrap();
            let b = estimator.path(&sparse(&x), &y, None, &grid(5, 0.05)).unwrap();
            all_converged(name, &a);
            // Losses without a duality gap stop at the rounding of the objective.
            let tol = if estimator.loss() == Loss::Squared { 1e-10 } else { 1e-6 };
            let tol = if name.contains("group") { 1e-5 } else { tol };
            a.fits.iter().zip(&b.fits).for_each(|(a, b)| assert_close(name, a, b, tol));
        }
    }
}

#[test]
fn single_precision_agrees_to_four_digits() {
    let (x, y) = data(2);
    let single: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    let single = Dense::from_rows(N, P, &single).unwrap();
    for (name, estimator, y) in cases(&y, false, true) {
        let a = estimator.path(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let b = estimator.path(&single, &y, None, &at(&a.alphas())).unwrap();
        a.fits.iter().zip(&b.fits).skip(1).for_each(|(a, b)| assert_close(name, a, b, 1e-4));
    }
}

#[test]
fn a_weight_of_two_is_a_row_twice_and_zero_is_no_row() {
    let (x, y) = data(3);
    let weights: Vec<f64> = (0..N).map(|i| [1.0, 2.0, 0.0, 1.0][i % 4]).collect();
    let rows: Vec<usize> = (0..N).flat_map(|i| vec![i; weights[i] as usize]).collect();
    let repeated: Vec<f64> = rows.iter().flat_map(|&i| x[i * P..(i + 1) * P].to_vec()).collect();
    for (name, estimator, y) in cases(&y, true, true) {
        let twice: Vec<f64> = rows.iter().map(|&i| y[i]).collect();
        let a = estimator.path(&sparse(&x), &y, Some(&weights), &grid(4, 0.1)).unwrap();
        let b = estimator.path(&dense(&repeated), &twice, None, &grid(4, 0.1)).unwrap();
        a.fits.iter().zip(&b.fits).for_each(|(a, b)| {
            assert!((a.alpha / b.alpha - 1.0).abs() < 1e-10);
            assert_close(name, a, b, 1e-5);
        });
    }
}

#[test]
fn a_path_at_alpha_is_the_single_fit() {
    let (x, y) = data(4);
    for (name, estimator, y) in cases(&y, false, true) {
        if ["mcp", "scad"].contains(&name) {
            continue; // Several stationary points: the start decides.
        }
        let path = estimator.path(&dense(&x), &y, None, &grid(12, 0.02)).unwrap();
        for fit in [&path.fits[4], &path.fits[11]] {
            let single = estimator.path(&dense(&x), &y, None, &at(&[fit.alpha])).unwrap();
            assert_close(name, fit, &single.fits[0], 1e-5);
        }
    }
}

#[test]
fn permuted_features_permute_the_coefficients() {
    let (x, y) = data(5);
    let order: Vec<usize> = (0..P).map(|j| (j * 7 + 3) % P).collect();
    let permuted: Vec<f64> =
        x.chunks(P).flat_map(|row| order.iter().map(|&j| row[j]).collect::<Vec<_>>()).collect();
    for (name, estimator, y) in cases(&y, true, true) {
        if name.contains("group") {
            continue; // Their groups are by position.
        }
        let a = estimator.path(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let mut b = estimator.path(&dense(&permuted), &y, None, &grid(5, 0.1)).unwrap();
        for (a, b) in a.fits.iter().zip(&mut b.fits) {
            let w = b.coef.to_dense();
            let mut back = vec![0.0; P];
            order.iter().enumerate().for_each(|(k, &j)| back[j] = w[k]);
            b.coef = SparseCoef::from_dense(&back);
            assert_close(name, a, b, 1e-5);
        }
    }
}

#[test]
fn a_standardised_fit_does_not_depend_on_units() {
    let (x, y) = data(6);
    let units: Vec<f64> = (0..P).map(|j| [0.01, 1.0, 300.0][j % 3]).collect();
    let scaled: Vec<f64> = x.iter().enumerate().map(|(k, v)| v * units[k % P]).collect();
    for (name, estimator, y) in cases(&y, true, true) {
        let a = estimator.path(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let mut b = estimator.path(&sparse(&scaled), &y, None, &grid(5, 0.1)).unwrap();
        for (a, b) in a.fits.iter().zip(&mut b.fits) {
            let w: Vec<f64> = b.coef.to_dense().iter().zip(&units).map(|(w, u)| w * u).collect();
            b.coef = SparseCoef::from_dense(&w);
            assert_close(name, a, b, 1e-5);
        }
    }
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
fn positive_coefficients_are_never_negative() {
    let (x, y) = data(8);
    let x = dense(&x);
    let lasso = Lasso::new(0.0).positive(true).path(&x, &y, None, &grid(20, 0.001)).unwrap();
    let logistic = SparseLogisticRegression::new(0.0).positive(true);
    let logistic = logistic.path(&x, &classes(&y), None, &grid(10, 0.05)).unwrap();
    for fit in lasso.fits.iter().chain(&logistic.fits) {
        assert!(fit.coef.values.iter().all(|w| *w > 0.0));
    }
    assert!(lasso.fits[19].coef.nnz() > 2);
}

#[test]
fn strengths_at_the_top_give_zeros_at_once() {
    let (x, y) = data(9);
    for (name, estimator, y) in cases(&y, false, true) {
        let top = estimator.path(&dense(&x), &y, None, &grid(1, 0.5)).unwrap().fits[0].alpha;
        let path = estimator.path(&dense(&x), &y, None, &at(&[2.0 * top, top, 0.97 * top])).unwrap();
        for fit in &path.fits[..2] {
            assert_eq!((fit.coef.nnz(), fit.n_iter), (0, 0), "{name}");
            assert_eq!(fit.stop_reason, sparseland_optim::cd::StopReason::AllZero, "{name}");
        }
        assert!(path.fits[2].coef.nnz() > 0, "{name}");
    }
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
    for (name, estimator, _) in cases(&[0.0; N], false, true) {
        let (x, _) = data(10);
        for value in [0.0, 1.0] {
            if let Ok(path) = estimator.path(&dense(&x), &[value; N], None, &at(&[0.01])) {
                let prediction = path.fits[0].predict(&dense(&x)).unwrap();
                let logistic = matches!(estimator.loss(), Loss::Logistic | Loss::Poisson);
                let tol = if logistic { 1e-2 } else { 1e-12 };
                assert!(prediction.iter().all(|m| (m - value).abs() <= tol), "{name} {prediction:?}");
                assert!(path.fits[0].gap.is_none_or(|g| g == 0.0), "{name}");
            } else {
                panic!("{name} refuses a constant target");
            }
        }
    }
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
