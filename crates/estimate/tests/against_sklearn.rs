//! Agreement with scikit-learn 1.9, celer 0.7 and skglm 0.5 on one small problem.
//!
//! Constants are objectives, mean loss plus penalty as the estimators here define them, computed from the
//! coefficients that those libraries returned at tolerances of 1e-12 and below on the data of [`Problem::new`].
//! Where they sum the loss, their `C` was set to `1 / (n alpha)`.

use sparseland_estimate::estimators::{
    BridgeRegression, CoxRegression, ElasticNet, Fitted, GammaRegression, GroupLasso, HuberRegression, Lasso,
    LinearSvc, LogSumRegression, McpRegression, MultiTaskLasso, MultinomialRegression, PoissonRegression,
    ScadRegression, Slope, SparseLogisticRegression, SqrtLasso,
};
use sparseland_linalg::Mat;
use sparseland_optim::design::Dense;
use sparseland_optim::penalty::Exponent;

const N: usize = 60;
const P: usize = 30;

/// 60 rows of 30 features from Knuth's linear congruential generator (64 bits, seed 42), whose upper 53 bits
/// make numbers in [-1, 1): row by row `x_ij = u + 0.5 x_i,j-1`; then
/// `y = 1 + 2 x_2 - 1.5 x_7 + x_8 + 0.5 x_20 + 0.5 u`.
struct Problem {
    x: Dense<f64>,
    y: Vec<f64>,
}

impl Problem {
    fn new() -> Self {
        let mut state = 42u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
        };
        let mut x = vec![0.0; N * P];
        for k in 0..N * P {
            x[k] = draw() + if k % P > 0 { 0.5 * x[k - 1] } else { 0.0 };
        }
        let y =
            x.chunks(P).map(|r| 1.0 + 2.0 * r[2] - 1.5 * r[7] + r[8] + 0.5 * r[20] + 0.5 * draw()).collect();
        Self { x: Dense::from_rows(N, P, &x).expect("N P values"), y }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        self.y.iter().map(|y| f(*y)).collect()
    }
}

fn agree(name: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-8 * theirs.abs(), "{name}: {ours} here, {theirs} there");
}

#[test]
fn the_data_are_those_that_the_peers_saw() {
    let problem = Problem::new();
    let sum: f64 = (0..P).flat_map(|j| problem.x.column(j)).sum();
    assert!((sum - 1.491899265643946).abs() < 1e-11);
    assert!((problem.y.iter().sum::<f64>() - 63.1486793778665).abs() < 1e-11);
}

#[test]
fn squared_losses_agree_with_scikit_learn_and_celer() {
    let Problem { x, y } = Problem::new();
    agree("Lasso", Lasso::new(0.05).tol(1e-12).fit(&x, &y).unwrap().objective, 0.2644358534654544);
    let net = ElasticNet::new(0.05).l1_ratio(0.5).tol(1e-12).fit(&x, &y).unwrap();
    agree("ElasticNet", net.objective, 0.23033921461019713);
    let targets = Mat::from_fn(N, 2, |i, t| if t == 0 { y[i] } else { (0.5 * y[i]).tanh() });
    let tasks = MultiTaskLasso::new(0.05).tol(1e-12).fit(&x, &targets).unwrap();
    agree("MultiTaskLasso", tasks.objective, 0.2857289462857742);
    let group = GroupLasso::new(0.05, GroupLasso::consecutive(P, 5)).tol(1e-12).fit(&x, &y).unwrap();
    agree("celer's GroupLasso", group.objective, 0.2309407120326135);
}

#[test]
fn generalised_linear_models_agree_with_scikit_learn() {
    let problem = Problem::new();
    let x = &problem.x;
    let classes = problem.map(|y| f64::from(u8::from(y > 1.0)));
    let logistic = SparseLogisticRegression::new(0.02).tol(1e-10).fit(x, &classes).unwrap();
    agree("LogisticRegression, l1", logistic.objective, 0.352558755430373);
    // Without an intercept, which LIBLINEAR penalises; confirmed by L-BFGS-B on the split coefficients.
    let svc = LinearSvc::new(0.02).fit_intercept(false).tol(1e-10).fit(x, &classes).unwrap();
    agree("LinearSVC, l1", svc.objective, 0.22614898170164166);
    let labels: Vec<usize> =
        problem.y.iter().map(|y| usize::from(*y >= 0.0) + usize::from(*y >= 2.0)).collect();
    let multinomial = MultinomialRegression::new(0.02).tol(1e-10).fit(x, &labels).unwrap();
    agree("LogisticRegression, three classes", multinomial.objective, 0.5794476092661653);
    // scikit-learn has the ridge penalty only: l1_ratio 0.
    let counts = problem.map(|y| (0.5 * y).exp().floor());
    let poisson = PoissonRegression::new(0.1).l1_ratio(0.0).tol(1e-10).fit(x, &counts).unwrap();
    agree("PoissonRegressor", poisson.objective, -0.17877995800419463);
    let amounts = problem.map(|y| (0.5 * y).exp());
    let gamma = GammaRegression::new(0.1).l1_ratio(0.0).tol(1e-10).fit(x, &amounts).unwrap();
    agree("GammaRegressor", gamma.objective, 1.595855337104338);
}

#[test]
fn other_convex_problems_agree_with_skglm() {
    let problem = Problem::new();
    let (x, y) = (&problem.x, &problem.y);
    // scikit-learn's HuberRegressor estimates a scale too, which is another problem.
    let huber = HuberRegression::new(0.02).delta(0.5).fit_intercept(false).tol(1e-10).fit(x, y).unwrap();
    agree("Huber, L1", huber.objective, 0.34521099072216743);
    let time = problem.map(|y| (10.0 * (-0.5 * y).exp()).ceil());
    let event: Vec<bool> = (0..N).map(|i| i % 4 != 1).collect();
    let cox = CoxRegression::new(0.02).tol(1e-10).fit(x, &time, &event).unwrap();
    agree("Cox, L1", cox.objective, 1.6856821518724323);
    // skglm leaves out the root of n: its alpha is ours times that.
    for (alpha, theirs) in [(0.2, 1.1605669554762237), (0.1, 0.7425979001229863)] {
        let sqrt = SqrtLasso::new(alpha).tol(1e-12).fit(x, y).unwrap();
        agree("SqrtLasso", sqrt.objective, theirs);
    }
    let lambdas = (0..P).map(|i| 1.0 - 0.8 * i as f64 / (P - 1) as f64).collect();
    let slope = Slope::new(0.1).lambdas(lambdas).fit_intercept(false).tol(1e-12).fit(x, y).unwrap();
    agree("SLOPE", slope.objective, 0.8632934306600814);
}

/// Coordinate descent of skglm from zero, its score that of the subdifferential (of the fixed point for
/// L0.5 and L2/3, which stay at zero otherwise): local minima, so that ours may be lower.
#[test]
fn concave_penalties_reach_what_skglm_reaches_from_zero() {
    let Problem { x, y } = Problem::new();
    let theirs: [(f64, [f64; 5]); 3] = [
        (
            0.3,
            [
                0.9077725706516174,
                1.056857084332691,
                1.3521991631520551,
                1.3859682556308723,
                1.4116333282599323,
            ],
        ),
        (
            0.1,
            [
                0.4824219986757072,
                0.5367920164801993,
                0.8718091499933178,
                0.8865515545542779,
                0.9008234715803203,
            ],
        ),
        (
            0.05,
            [
                0.3610933582798062,
                0.3919775860824989,
                0.6675624143489198,
                0.6624387321618066,
                0.6753399404957801,
            ],
        ),
    ];
    macro_rules! fit {
        ($e:expr) => {
            $e.standardize(false).fit_intercept(false).tol(1e-10).fit(&x, &y).unwrap()
        };
    }
    for (alpha, theirs) in theirs {
        let ours: [(&str, Fitted); 5] = [
            ("MCP", fit!(McpRegression::new(alpha))),
            ("SCAD", fit!(ScadRegression::new(alpha))),
            ("L0.5", fit!(BridgeRegression::new(alpha))),
            ("L2/3", fit!(BridgeRegression::new(alpha).exponent(Exponent::TwoThirds))),
            ("log-sum", fit!(LogSumRegression::new(alpha).epsilon(0.5))),
        ];
        for ((name, ours), theirs) in ours.iter().zip(theirs) {
            assert!(ours.converged, "{name} at {alpha}");
            let above = ours.objective - theirs;
            assert!(above <= 1e-6, "{name} at {alpha}: {} here, {theirs} there", ours.objective);
        }
    }
}
