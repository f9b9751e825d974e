//! Section by section what every estimator owes its users, for all of them alike.

use sparseland_linalg::Mat;
use sparseland_optim::cd::StopReason;
use sparseland_optim::design::{Dense, Design};
use sparseland_optim::penalty::Exponent;

use super::tests::{N, P, at, classes, counts, data, dense, fives, grid, sparse};
use super::*;
use crate::path::{PathEstimator, PathOptions};
use crate::reweighted::{Adaptive, Relaxed};
use crate::subset::BestSubset;

/// A fit of any estimator: coefficients and intercepts target by target.
struct Summary {
    alpha: f64,
    coef: Vec<Vec<f64>>,
    intercept: Vec<f64>,
    n_iter: usize,
    converged: bool,
    stop: StopReason,
    kkt: f64,
    gap: Option<f64>,
    objective: f64,
}

impl Summary {
    fn nnz(&self) -> usize {
        self.coef.iter().flatten().filter(|w| **w != 0.0).count()
    }
}

trait Subject {
    fn fits(
        &self,
        x: &dyn Design,
        y: &[f64],
        weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<Summary>, EstimateError>;
}

impl<E: PathEstimator> Subject for E {
    fn fits(
        &self,
        x: &dyn Design,
        y: &[f64],
        weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<Summary>, EstimateError> {
        let summary = |f: Fitted| Summary {
            alpha: f.alpha,
            coef: vec![f.coef.to_dense()],
            intercept: vec![f.intercept],
            n_iter: f.n_iter,
            converged: f.converged,
            stop: f.stop_reason,
            kkt: f.kkt,
            gap: f.gap,
            objective: f.objective,
        };
        Ok(self.path(x, y, weight, options)?.fits.into_iter().map(summary).collect())
    }
}

/// Three classes from a number.
fn label(y: &f64) -> usize {
    usize::from(*y > 2.0) + usize::from(*y > 4.5)
}

impl Subject for MultinomialRegression {
    fn fits(
        &self,
        x: &dyn Design,
        y: &[f64],
        weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<Summary>, EstimateError> {
        let labels: Vec<usize> = y.iter().map(label).collect();
        let summary = |f: FittedClasses| Summary {
            alpha: f.alpha,
            coef: f.coef.iter().map(SparseCoef::to_dense).collect(),
            intercept: f.intercept,
            n_iter: f.n_iter,
            converged: f.converged,
            stop: f.stop_reason,
            kkt: f.kkt,
            gap: None,
            objective: f.objective,
        };
        Ok(self.path(x, &labels, weight, options)?.into_iter().map(summary).collect())
    }
}

/// Times with ties and censoring from a number.
fn time(y: &f64) -> f64 {
    (-y / 2.0).exp().mul_add(8.0, 0.0).ceil()
}

fn event(y: &f64) -> bool {
    !((y.abs() * 1e3) as u64).is_multiple_of(3)
}

impl Subject for CoxRegression {
    fn fits(
        &self,
        x: &dyn Design,
        y: &[f64],
        weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<Summary>, EstimateError> {
        let times: Vec<f64> = y.iter().map(time).collect();
        let events: Vec<bool> = y.iter().map(event).collect();
        let summary = |f: FittedCox| Summary {
            alpha: f.alpha,
            coef: vec![f.coef.to_dense()],
            intercept: vec![],
            n_iter: f.n_iter,
            converged: f.converged,
            stop: f.stop_reason,
            kkt: f.kkt,
            gap: None,
            objective: f.objective,
        };
        Ok(self.path(x, &times, &events, weight, options)?.into_iter().map(summary).collect())
    }
}

impl Subject for MultiTaskLasso {
    /// The second target bends the first. There are no sample weights.
    fn fits(
        &self,
        x: &dyn Design,
        y: &[f64],
        _: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<Summary>, EstimateError> {
        let targets = Mat::from_fn(y.len(), 2, |i, t| if t == 0 { y[i] } else { (0.5 * y[i]).tanh() });
        let summary = |f: FittedTasks| Summary {
            alpha: f.alpha,
            coef: f.coef.iter().map(SparseCoef::to_dense).collect(),
            intercept: f.intercept,
            n_iter: f.n_iter,
            converged: f.converged,
            stop: f.stop_reason,
            kkt: f.kkt,
            gap: f.gap,
            objective: f.objective,
        };
        Ok(self.path(x, &targets, options)?.into_iter().map(summary).collect())
    }
}

#[derive(Clone, Default)]
struct Settings {
    standardize: bool,
    without_intercept: bool,
    weights: Option<Vec<f64>>,
}

type Make = Box<dyn Fn(&Settings) -> Box<dyn Subject>>;

/// An estimator and what it can be asked.
struct Case {
    name: &'static str,
    make: Make,
    /// A target it accepts.
    target: fn(&[f64]) -> Vec<f64>,
    /// Whether its optimum is unique and does not depend on the start.
    convex: bool,
    /// Whether the order of the features means something: groups go by position, and where coefficients jump
    /// as they enter, the first comer of correlated ones wins.
    ordered: bool,
    /// Whether features have weights.
    weights: bool,
    /// To what the coefficients of equal problems agree: losses without a duality gap stop at the rounding
    /// of the objective.
    tol: f64,
}

fn cases() -> Vec<Case> {
    macro_rules! make {
        ($e:expr, with weights) => {
            Box::new(|s: &Settings| {
                let mut e = $e.tol(1e-13).standardize(s.standardize).fit_intercept(!s.without_intercept);
                if let Some(weights) = &s.weights {
                    e = e.weights(weights.clone());
                }
                Box::new(e) as Box<dyn Subject>
            }) as Make
        };
        ($e:expr) => {
            Box::new(|s: &Settings| {
                Box::new($e.tol(1e-13).standardize(s.standardize).fit_intercept(!s.without_intercept))
                    as Box<dyn Subject>
            }) as Make
        };
    }
    let same: fn(&[f64]) -> Vec<f64> = |y| y.to_vec();
    let amounts: fn(&[f64]) -> Vec<f64> = |y| y.iter().map(|v| (0.3 * v).exp()).collect();
    let case = |name, make, target, tol| Case {
        name,
        make,
        target,
        convex: true,
        ordered: false,
        weights: true,
        tol,
    };
    let concave = |name, make| Case { convex: false, ..case(name, make, same, 1e-10) };
    let grouped = |name, make| Case { ordered: true, weights: false, ..case(name, make, same, 1e-5) };
    let cox: Make = Box::new(|s| {
        let mut e = CoxRegression::new(0.0).tol(1e-13).standardize(s.standardize);
        if let Some(weights) = &s.weights {
            e = e.weights(weights.clone());
        }
        Box::new(e)
    });
    let lasso = |s: &Settings| {
        Lasso::new(0.0).tol(1e-13).standardize(s.standardize).fit_intercept(!s.without_intercept)
    };
    vec![
        case("lasso", make!(Lasso::new(0.0), with weights), same, 1e-10),
        case("positive lasso", make!(Lasso::new(0.0).positive(true), with weights), same, 1e-10),
        case("elastic net", make!(ElasticNet::new(0.0).l1_ratio(0.7), with weights), same, 1e-10),
        case("sqrt lasso", make!(SqrtLasso::new(0.0), with weights), same, 1e-7),
        concave("mcp", make!(McpRegression::new(0.0), with weights)),
        concave("scad", make!(ScadRegression::new(0.0), with weights)),
        Case { ordered: true, ..concave("bridge 1/2", make!(BridgeRegression::new(0.0), with weights)) },
        Case {
            ordered: true,
            ..concave(
                "bridge 2/3",
                make!(BridgeRegression::new(0.0).exponent(Exponent::TwoThirds), with weights),
            )
        },
        concave("log-sum", make!(LogSumRegression::new(0.0), with weights)),
        case("logistic", make!(SparseLogisticRegression::new(0.0), with weights), classes, 1e-6),
        case("svc", make!(LinearSvc::new(0.0), with weights), classes, 1e-6),
        case("poisson", make!(PoissonRegression::new(0.0), with weights), counts, 1e-6),
        case("gamma", make!(GammaRegression::new(0.0), with weights), amounts, 1e-6),
        case("huber", make!(HuberRegression::new(0.0), with weights), same, 1e-6),
        case("cox", cox, same, 1e-6),
        case("multinomial", make!(MultinomialRegression::new(0.0), with weights), same, 1e-6),
        case(
            "grouped multinomial",
            make!(MultinomialRegression::new(0.0).grouped(), with weights),
            same,
            1e-5,
        ),
        case("multi-task", make!(MultiTaskLasso::new(0.0), with weights), same, 1e-5),
        grouped("group", make!(GroupLasso::new(0.0, fives()))),
        grouped("sparse group", make!(GroupLasso::new(0.0, fives()).tau(0.4))),
        Case { weights: false, ..case("slope", make!(Slope::new(0.0)), same, 1e-5) },
        Case {
            weights: false,
            ..concave("relaxed lasso", Box::new(move |s| Box::new(Relaxed::new(lasso(s)).blend(0.3))))
        },
        Case {
            weights: false,
            ..concave("adaptive lasso", Box::new(move |s| Box::new(Adaptive::new(lasso(s)))))
        },
    ]
}

fn assert_close(name: &str, a: &Summary, b: &Summary, tol: f64) {
    let difference = |a: &[f64], b: &[f64]| -> f64 {
        assert_eq!(a.len(), b.len(), "{name}");
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let worst = a.coef.iter().zip(&b.coef).map(|(a, b)| difference(a, b)).fold(0.0, f64::max);
    assert!(worst <= tol, "{name} at {}: coefficients differ by {worst:e}", a.alpha);
    let worst = difference(&a.intercept, &b.intercept);
    assert!(worst <= 10.0 * tol, "{name} at {}: intercepts differ by {worst:e}", a.alpha);
}

#[test]
fn sparse_and_dense_designs_agree_and_converge() {
    let (x, y) = data(1);
    for (standardize, without_intercept) in [(true, false), (false, false), (false, true)] {
        let settings = Settings { standardize, without_intercept, weights: None };
        for case in cases() {
            let (estimator, y) = ((case.make)(&settings), (case.target)(&y));
            let a = estimator.fits(&dense(&x), &y, None, &grid(5, 0.05)).unwrap();
            let b = estimator.fits(&sparse(&x), &y, None, &grid(5, 0.05)).unwrap();
            for (a, b) in a.iter().zip(&b) {
                assert!(a.converged && a.kkt < 1e-5, "{} {} {}", case.name, a.kkt, a.alpha);
                assert!(a.gap.is_none_or(|g| g <= 1e-10), "{} {:?}", case.name, a.gap);
                assert_close(case.name, a, b, case.tol);
            }
            assert!(a[0].nnz() == 0 && a[4].nnz() > 0, "{}", case.name);
        }
    }
}

#[test]
fn single_precision_agrees_to_four_digits() {
    let (x, y) = data(2);
    let single: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    let single = Dense::from_rows(N, P, &single).unwrap();
    for case in cases() {
        let (estimator, y) = ((case.make)(&Settings::default()), (case.target)(&y));
        let a = estimator.fits(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let alphas: Vec<f64> = a.iter().map(|f| f.alpha).collect();
        let b = estimator.fits(&single, &y, None, &at(&alphas)).unwrap();
        a.iter().zip(&b).skip(1).for_each(|(a, b)| assert_close(case.name, a, b, 1e-4));
    }
}

#[test]
fn a_weight_of_two_is_a_row_twice_and_zero_is_no_row() {
    let (x, y) = data(3);
    let weights: Vec<f64> = (0..N).map(|i| [1.0, 2.0, 0.0, 1.0][i % 4]).collect();
    let rows: Vec<usize> = (0..N).flat_map(|i| vec![i; weights[i] as usize]).collect();
    let repeated: Vec<f64> = rows.iter().flat_map(|&i| x[i * P..(i + 1) * P].to_vec()).collect();
    let settings = Settings { standardize: true, ..Settings::default() };
    for case in cases().into_iter().filter(|c| c.name != "multi-task" && c.name != "adaptive lasso") {
        let (estimator, y) = ((case.make)(&settings), (case.target)(&y));
        let twice: Vec<f64> = rows.iter().map(|&i| y[i]).collect();
        let a = estimator.fits(&sparse(&x), &y, Some(&weights), &grid(4, 0.1)).unwrap();
        let b = estimator.fits(&dense(&repeated), &twice, None, &grid(4, 0.1)).unwrap();
        a.iter().zip(&b).for_each(|(a, b)| {
            assert!((a.alpha / b.alpha - 1.0).abs() < 1e-9, "{}", case.name);
            assert_close(case.name, a, b, 1e-5);
        });
    }
}

#[test]
fn a_path_at_alpha_is_the_single_fit() {
    let (x, y) = data(4);
    for case in cases().into_iter().filter(|c| c.convex) {
        let (estimator, y) = ((case.make)(&Settings::default()), (case.target)(&y));
        let path = estimator.fits(&dense(&x), &y, None, &grid(12, 0.02)).unwrap();
        for fit in [&path[4], &path[11]] {
            let single = estimator.fits(&dense(&x), &y, None, &at(&[fit.alpha])).unwrap();
            assert_close(case.name, fit, &single[0], 1e-5);
        }
    }
}

#[test]
fn permuted_features_permute_the_coefficients() {
    let (x, y) = data(5);
    let order: Vec<usize> = (0..P).map(|j| (j * 7 + 3) % P).collect();
    let permuted: Vec<f64> =
        x.chunks(P).flat_map(|row| order.iter().map(|&j| row[j]).collect::<Vec<_>>()).collect();
    let settings = Settings { standardize: true, ..Settings::default() };
    for case in cases().into_iter().filter(|c| !c.ordered) {
        let (estimator, y) = ((case.make)(&settings), (case.target)(&y));
        let a = estimator.fits(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let mut b = estimator.fits(&dense(&permuted), &y, None, &grid(5, 0.1)).unwrap();
        for (a, b) in a.iter().zip(&mut b) {
            for w in &mut b.coef {
                let mut back = vec![0.0; P];
                order.iter().zip(w.iter()).for_each(|(&j, w)| back[j] = *w);
                *w = back;
            }
            assert_close(case.name, a, b, 1e-5);
        }
    }
}

#[test]
fn a_standardised_fit_does_not_depend_on_units() {
    let (x, y) = data(6);
    let units: Vec<f64> = (0..P).map(|j| [0.01, 1.0, 300.0][j % 3]).collect();
    let scaled: Vec<f64> = x.iter().enumerate().map(|(k, v)| v * units[k % P]).collect();
    let settings = Settings { standardize: true, ..Settings::default() };
    for case in cases() {
        let (estimator, y) = ((case.make)(&settings), (case.target)(&y));
        let a = estimator.fits(&dense(&x), &y, None, &grid(5, 0.1)).unwrap();
        let mut b = estimator.fits(&sparse(&scaled), &y, None, &grid(5, 0.1)).unwrap();
        for (a, b) in a.iter().zip(&mut b) {
            b.coef.iter_mut().for_each(|w| w.iter_mut().zip(&units).for_each(|(w, u)| *w *= u));
            assert_close(case.name, a, b, 1e-5);
        }
    }
}

#[test]
fn duplicated_and_dependent_columns_are_no_obstacle() {
    let (x, y) = data(18);
    // Every column twice, or a last one that is the sum of two.
    let twice: Vec<f64> = x.chunks(P).flat_map(|row| [row, row].concat()).collect();
    let twice = Dense::from_rows(N, 2 * P, &twice).unwrap();
    let sum: Vec<f64> = x.chunks(P).flat_map(|row| [row, &[row[2] + row[7]]].concat()).collect();
    let sum = Dense::from_rows(N, P + 1, &sum).unwrap();
    // Penalties under which half a coefficient costs half, so that the optimum is the same.
    let linear = [
        "lasso",
        "positive lasso",
        "sqrt lasso",
        "logistic",
        "svc",
        "poisson",
        "gamma",
        "huber",
        "cox",
        "multinomial",
        "grouped multinomial",
        "multi-task",
    ];
    for case in cases().into_iter().filter(|c| !["group", "sparse group"].contains(&c.name)) {
        let (estimator, y) = ((case.make)(&Settings::default()), (case.target)(&y));
        let once = estimator.fits(&dense(&x), &y, None, &grid(4, 0.1)).unwrap();
        let alphas: Vec<f64> = once.iter().map(|f| f.alpha).collect();
        let both = estimator.fits(&twice, &y, None, &at(&alphas)).unwrap();
        for (once, both) in once.iter().zip(&both) {
            assert!(both.converged && both.kkt < 1e-5, "{} at {}: {}", case.name, both.alpha, both.kkt);
            if linear.contains(&case.name) {
                let apart = (once.objective - both.objective).abs();
                assert!(apart <= 1e-8 * once.objective.abs(), "{}: {apart:e}", case.name);
            }
        }
        for fit in estimator.fits(&sum, &y, None, &at(&alphas)).unwrap() {
            assert!(fit.converged && fit.kkt < 1e-5, "{} at {}: {}", case.name, fit.alpha, fit.kkt);
            assert!(fit.coef.iter().flatten().all(|w| w.abs() < 50.0), "{}", case.name);
        }
    }
}

#[test]
fn infinite_weights_exclude_and_zero_weights_are_free() {
    let (x, y) = data(7);
    let x = dense(&x);
    let mut weights = vec![1.0; P];
    (weights[2], weights[7], weights[8]) = (f64::INFINITY, 0.0, 0.5);
    let settings = Settings { weights: Some(weights), ..Settings::default() };
    for case in cases().into_iter().filter(|c| c.weights) {
        let (estimator, y) = ((case.make)(&settings), (case.target)(&y));
        let path = estimator.fits(&x, &y, None, &grid(5, 0.1)).unwrap();
        // The grid starts where the unpenalised feature is in alone.
        for (k, w) in path[0].coef.iter().flat_map(|w| w.iter().enumerate()) {
            assert!(*w == 0.0 || k == 7, "{} {k}", case.name);
        }
        assert!(path[4].nnz() > path[0].nnz(), "{}", case.name);
        for fit in &path {
            let used = |j: usize| fit.coef.iter().any(|w| w[j] != 0.0);
            assert!(!used(2) && (used(7) || case.name == "positive lasso"), "{}", case.name);
            assert!(fit.converged && fit.kkt < 1e-5, "{} at {}: {}", case.name, fit.alpha, fit.kkt);
        }
        // Far above the grid only the free feature is left, with its coefficient of the first fit.
        let far = estimator.fits(&x, &y, None, &at(&[10.0 * path[0].alpha])).unwrap();
        assert_close(case.name, &far[0], &path[0], 1e-5);
    }
}

#[test]
fn positive_coefficients_are_never_negative() {
    let (x, y) = data(8);
    let x = dense(&x);
    let (classes, counts) = (classes(&y), counts(&y));
    let amounts: Vec<f64> = y.iter().map(|v| (0.3 * v).exp()).collect();
    let estimators: [(&str, &dyn PathEstimator, &[f64]); 10] = [
        ("lasso", &Lasso::new(0.0).positive(true), &y),
        ("elastic net", &ElasticNet::new(0.0).positive(true), &y),
        ("sqrt lasso", &SqrtLasso::new(0.0).positive(true), &y),
        ("mcp", &McpRegression::new(0.0).positive(true), &y),
        ("scad", &ScadRegression::new(0.0).positive(true), &y),
        ("bridge", &BridgeRegression::new(0.0).positive(true), &y),
        ("log-sum", &LogSumRegression::new(0.0).positive(true), &y),
        ("logistic", &SparseLogisticRegression::new(0.0).positive(true), &classes),
        ("poisson", &PoissonRegression::new(0.0).positive(true), &counts),
        ("gamma", &GammaRegression::new(0.0).positive(true), &amounts),
    ];
    for (name, estimator, y) in estimators {
        let path = estimator.path(&x, y, None, &grid(15, 0.01)).unwrap();
        for fit in &path.fits {
            assert!(fit.coef.values.iter().all(|w| *w > 0.0), "{name}");
            assert!(fit.converged && fit.kkt < 1e-4, "{name} at {}: {}", fit.alpha, fit.kkt);
        }
        assert!(path.fits[14].coef.nnz() > 2, "{name}");
    }
}

#[test]
fn strengths_at_the_top_give_zeros_and_less_does_not() {
    let (x, y) = data(9);
    for case in cases() {
        let (estimator, y) = ((case.make)(&Settings::default()), (case.target)(&y));
        let top = estimator.fits(&dense(&x), &y, None, &grid(1, 0.5)).unwrap()[0].alpha;
        let path = estimator.fits(&dense(&x), &y, None, &at(&[2.0 * top, top, 0.97 * top])).unwrap();
        for fit in &path[..2] {
            assert_eq!((fit.nnz(), fit.n_iter), (0, 0), "{}", case.name);
            let known = [StopReason::AllZero, StopReason::Stationary, StopReason::Gap];
            assert!(known.contains(&fit.stop), "{} {:?}", case.name, fit.stop);
        }
        assert!(path[2].nnz() > 0, "{}", case.name);
    }
}

#[test]
fn one_row_one_column_and_constant_targets_are_fitted() {
    let (x, _) = data(10);
    let one_column = Dense::from_columns(6, 1, vec![1.0, 2.0, 3.0, 4.0, 5.0, 7.0]).unwrap();
    let one_row = Dense::from_rows(1, P, &x[..P]).unwrap();
    for case in cases() {
        let estimator = (case.make)(&Settings::default());
        // 0 is no amount.
        for value in [0.0, 1.0].into_iter().filter(|v| *v > 0.0 || case.name != "gamma") {
            for fit in estimator.fits(&dense(&x), &[value; N], None, &at(&[0.01])).unwrap() {
                // Times that are all equal order nobody, and yet there is a likelihood.
                assert!(fit.converged && (fit.nnz() == 0 || case.name == "cox"), "{}", case.name);
                assert!(fit.gap.is_none_or(|g| g == 0.0), "{}", case.name);
                assert!(fit.intercept.iter().all(|b| b.is_finite()), "{}", case.name);
            }
        }
        let y = (case.target)(&[3.0, 5.0, 1.5, 9.0, 2.2, 4.0]);
        if case.name != "group" && case.name != "sparse group" {
            for fit in estimator.fits(&one_column, &y, None, &grid(3, 0.2)).unwrap() {
                assert!(fit.converged, "{}", case.name);
            }
        }
        let fits = estimator.fits(&one_row, &(case.target)(&[1.0]), None, &at(&[0.01])).unwrap();
        assert!(fits[0].nnz() == 0 && fits[0].converged, "{}", case.name);
    }
}

#[test]
fn faulty_data_is_named_by_every_estimator() {
    let (x, y) = data(11);
    let estimators = cases().into_iter().map(|c| (c.name, (c.make)(&Settings::default()), (c.target)(&y)));
    let subset: (_, Box<dyn Subject>, _) = ("subset", Box::new(BestSubset::new()), y.clone());
    for (name, estimator, y) in estimators.chain([subset]) {
        let message = |x: &dyn Design, y: &[f64], weight: Option<&[f64]>| match estimator.fits(
            x,
            y,
            weight,
            &grid(2, 0.5),
        ) {
            Ok(_) => panic!("{name} takes faulty data"),
            Err(error) => error.to_string(),
        };
        for bad in [f64::NAN, f64::INFINITY] {
            let mut broken = x.clone();
            broken[3 * P + 4] = bad;
            let start = format!("X[3, 4] is {bad}");
            assert!(message(&dense(&broken), &y, None).starts_with(&start), "{name}");
            assert!(message(&sparse(&broken), &y, None).starts_with(&start), "{name}");
        }
        let empty = Dense::<f64>::from_columns(N, 0, vec![]).unwrap();
        assert!(message(&empty, &y, None).contains("X is 40 x 0"), "{name}");
        assert!(message(&dense(&x), &y[1..], None).contains("has 39 entries where 40"), "{name}");
        if name != "multi-task" {
            let mut weights = vec![1.0; N];
            weights[6] = -1.0;
            assert!(message(&dense(&x), &y, Some(&weights)).starts_with("sample_weight[6] is -1"), "{name}");
            assert!(message(&dense(&x), &y, Some(&[0.0; N])).contains("all sample weights are 0"), "{name}");
        }
        // Classes are made from any number; times and amounts are not.
        if !name.contains("multinomial") {
            let mut bad = y.clone();
            bad[5] = f64::NAN;
            let found = message(&dense(&x), &bad, None);
            let place = ["y[5] is NaN", "Y[5] is NaN", "time[5] is NaN"];
            assert!(place.iter().any(|p| found.starts_with(p)), "{name}: {found}");
        }
    }
}

#[test]
fn best_subsets_keep_the_same_promises() {
    let (x, y) = data(19);
    let subset = BestSubset::new().max_size(6);
    let fits =
        |x: &dyn Design, y: &[f64], w: Option<&[f64]>| subset.fits(x, y, w, &PathOptions::default()).unwrap();
    let a = fits(&dense(&x), &y, None);
    let single: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    let other = [
        (fits(&sparse(&x), &y, None), 1e-10),
        (fits(&Dense::from_rows(N, P, &single).unwrap(), &y, None), 1e-4),
    ];
    for (b, tol) in &other {
        a.iter().zip(b).for_each(|(a, b)| assert_close("subset", a, b, *tol));
    }
    let weights: Vec<f64> = (0..N).map(|i| [1.0, 2.0, 0.0, 1.0][i % 4]).collect();
    let rows: Vec<usize> = (0..N).flat_map(|i| vec![i; weights[i] as usize]).collect();
    let repeated: Vec<f64> = rows.iter().flat_map(|&i| x[i * P..(i + 1) * P].to_vec()).collect();
    let twice: Vec<f64> = rows.iter().map(|&i| y[i]).collect();
    let pairs = fits(&sparse(&x), &y, Some(&weights)).into_iter().zip(fits(&dense(&repeated), &twice, None));
    pairs.for_each(|(a, b)| assert_close("subset", &a, &b, 1e-8));
}
