use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::datafit::{Datafit, Gamma, Huber, Logistic, Poisson, SquaredHinge};
use crate::design::{Centred, Dense, Design, Scaling};
use crate::penalty::{Bridge, ElasticNet, Exponent, GroupPenalty, LogSum, Mcp, Penalty, Scad};

/// Correlated columns with a few true coefficients and noise.
fn data(n: usize, p: usize, rho: f64, seed: u64) -> (Dense<f64>, Vec<f64>) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut normal = move || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    let mut values: Vec<f64> = (0..n * p).map(|_| normal()).collect();
    for k in n..n * p {
        values[k] = rho * values[k - n] + (1.0 - rho * rho).sqrt() * values[k];
    }
    let x = Dense::from_columns(n, p, values).unwrap();
    let w: Vec<f64> = (0..p).map(|j| if j % 7 == 3 { 1.5 - 0.2 * (j % 5) as f64 } else { 0.0 }).collect();
    let mut y = x.times(&w);
    y.iter_mut().for_each(|y| *y += 0.5 * normal());
    (x, y)
}

fn problem<'a>(x: &'a dyn Design, y: &[f64]) -> Quadratic<'a> {
    let centred = Centred::new(x, None, Scaling { centre: true, scale: false });
    Quadratic::new(centred, y.to_vec(), y.len() as f64)
}

fn top(problem: &Quadratic<'_>) -> f64 {
    problem.correlations().iter().fold(0.0, |m, c| m.max(c.abs()))
}

/// Greatest distance to stationarity, from gradients of all features.
fn violation(problem: &Quadratic<'_>, penalty: &dyn Penalty) -> f64 {
    let gradient = problem.gradients();
    let curvature = |j: usize| problem.design().squared_norms()[j] / problem.residual().len() as f64;
    let distance = |j: usize| penalty.violation(j, problem.coefficients()[j], gradient[j], curvature(j));
    (0..gradient.len()).map(distance).fold(0.0, f64::max)
}

/// Plain cyclic coordinate descent, run for long: the reference.
fn plain(problem: &Quadratic<'_>, penalty: &dyn Penalty, sweeps: usize) -> Vec<f64> {
    let p = problem.coefficients().len();
    let n = problem.residual().len();
    let mut columns = vec![vec![0.0; n]; p];
    columns.iter_mut().enumerate().for_each(|(j, c)| problem.design().fill(j, c));
    let mut residual = problem.residual().to_vec();
    let mut w = vec![0.0; p];
    for _ in 0..sweeps {
        for j in 0..p {
            let curvature = columns[j].iter().map(|x| x * x).sum::<f64>() / n as f64;
            let product: f64 = columns[j].iter().zip(&residual).map(|(x, r)| x * r).sum();
            let new = penalty.prox(j, w[j] + product / n as f64 / curvature, 1.0 / curvature);
            for (r, x) in residual.iter_mut().zip(&columns[j]) {
                *r -= (new - w[j]) * x;
            }
            w[j] = new;
        }
    }
    w
}

fn close(a: &[f64], b: &[f64], tol: f64) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(a.len() == b.len() && worst <= tol, "differ by {worst}");
}

#[test]
fn convex_solutions_are_those_of_plain_coordinate_descent() {
    let (x, y) = data(40, 70, 0.7, 1);
    for (l1_ratio, positive) in [(1.0, false), (0.6, false), (1.0, true), (0.3, true)] {
        for part in [0.7, 0.2, 0.05] {
            let mut problem = problem(&x, &y);
            let weights: Vec<f64> = (0..70).map(|j| [1.0, 0.5, 2.0][j % 3]).collect();
            let alpha = part * top(&problem);
            let penalty = ElasticNet { alpha, l1_ratio, weights: Some(weights), positive };
            let reference = plain(&problem, &penalty, 20_000);
            let report = problem.solve(&penalty, &Options { tol: 1e-13, ..Options::default() });
            assert!(report.converged, "{report:?}");
            close(problem.coefficients(), &reference, 1e-6);
            assert!(violation(&problem, &penalty) < 1e-6 * alpha.max(1.0));
        }
    }
}

#[test]
fn the_gap_bounds_the_distance_to_the_optimum() {
    let (x, y) = data(50, 120, 0.8, 2);
    let mut exact = problem(&x, &y);
    let penalty = ElasticNet { l1_ratio: 0.9, ..ElasticNet::l1(0.05 * top(&exact)) };
    let best = exact.solve(&penalty, &Options { tol: 1e-14, ..Options::default() }).objective;
    for tol in [1e-1, 1e-3, 1e-6] {
        let mut rough = problem(&x, &y);
        let report = rough.solve(&penalty, &Options { tol, ..Options::default() });
        let gap = report.gap.unwrap();
        assert!(gap <= tol * rough.null_loss());
        assert!(report.objective - best <= gap + 1e-12, "{} above by {}", gap, report.objective - best);
    }
}

#[test]
fn screened_features_are_zero_in_the_exact_solution() {
    let (x, y) = data(40, 100, 0.6, 3);
    for part in [0.8, 0.4, 0.1] {
        let mut problem = problem(&x, &y);
        let penalty = ElasticNet { l1_ratio: 0.8, ..ElasticNet::l1(part * top(&problem)) };
        let reference = plain(&problem, &penalty, 20_000);
        let report = problem.solve(&penalty, &Options::default());
        // What was discarded is not in the working set, and the reference agrees that it is zero.
        let discarded = problem.last_screened().to_vec();
        assert_eq!(discarded.len(), report.screened);
        assert!(!discarded.is_empty(), "nothing to test at {part}");
        assert!(discarded.iter().all(|&j| reference[j as usize].abs() < 1e-12));
    }
}

#[test]
fn the_residual_form_agrees_with_the_gram_form() {
    let (x, y) = data(40, 60, 0.5, 4);
    let mut gram = problem(&x, &y);
    let alpha = 0.1 * top(&gram);
    let penalties: [Box<dyn Penalty>; 2] = [
        Box::new(ElasticNet { l1_ratio: 0.9, ..ElasticNet::l1(alpha) }),
        Box::new(ElasticNet {
            weights: Some(vec![0.0; 5].into_iter().chain(vec![1.0; 55]).collect()),
            ..ElasticNet::l1(alpha)
        }),
    ];
    for penalty in &penalties {
        let options = Options { tol: 1e-12, ..Options::default() };
        gram.solve(penalty.as_ref(), &options);
        let mut residual = problem(&x, &y);
        let report = residual.solve(penalty.as_ref(), &Options { gram_limit: 0, ..options });
        assert!(report.converged);
        close(gram.coefficients(), residual.coefficients(), 1e-6);
    }
}

#[test]
fn concave_penalties_reach_stationary_points() {
    let (x, y) = data(60, 90, 0.5, 5);
    for part in [0.5, 0.2, 0.1] {
        let mut mcp = problem(&x, &y);
        let alpha = part * top(&mcp);
        let penalties: [Box<dyn Penalty>; 5] = [
            Box::new(Mcp { alpha, gamma: 3.0, weights: None }),
            Box::new(Scad { alpha, shape: 3.7, weights: None }),
            Box::new(LogSum { alpha, epsilon: 0.5, weights: None }),
            Box::new(Bridge { alpha, exponent: Exponent::Half, weights: None }),
            Box::new(Bridge { alpha, exponent: Exponent::TwoThirds, weights: None }),
        ];
        for penalty in &penalties {
            mcp.set_coefficients(&vec![0.0; 90]);
            let scale = top(&mcp);
            let report = mcp.solve(penalty.as_ref(), &Options { tol: 1e-9, ..Options::default() });
            assert!(report.converged && report.gap.is_none());
            assert!(violation(&mcp, penalty.as_ref()) <= 1e-8 * scale);
        }
    }
}

#[test]
fn dependent_columns_are_no_obstacle() {
    let (x, y) = data(30, 20, 0.3, 6);
    // Every column twice, one of them constant in addition.
    let twice: Vec<f64> = (0..40).flat_map(|j| x.column(j % 20).to_vec()).chain(vec![3.0; 30]).collect();
    let twice = Dense::from_columns(30, 41, twice).unwrap();
    let mut once = problem(&x, &y);
    let mut doubled = problem(&twice, &y);
    for part in [0.5, 0.01] {
        let penalty = ElasticNet::l1(part * top(&once));
        let options = Options { tol: 1e-12, ..Options::default() };
        let a = once.solve(&penalty, &options);
        let b = doubled.solve(&penalty, &options);
        assert!(b.converged && (a.objective - b.objective).abs() < 1e-10);
        let sums: Vec<f64> =
            (0..20).map(|j| doubled.coefficients()[j] + doubled.coefficients()[20 + j]).collect();
        close(&sums, once.coefficients(), 1e-5);
        assert_eq!(doubled.coefficients()[40], 0.0);
    }
}

#[test]
fn warm_starts_do_not_change_the_solution() {
    let (x, y) = data(50, 150, 0.8, 7);
    let mut path = problem(&x, &y);
    let alpha_max = top(&path);
    for i in 1..30 {
        let alpha = alpha_max * 0.01f64.powf(f64::from(i) / 29.0);
        let ratio = 100f64.powf(1.0 / 29.0);
        let options = Options { tol: 1e-12, strong_ratio: Some(ratio), ..Options::default() };
        let report = path.solve(&ElasticNet::l1(alpha), &options);
        assert!(report.converged && report.gap.unwrap() <= 1e-12 * path.null_loss());
        if i % 7 == 0 {
            let mut single = problem(&x, &y);
            single.solve(&ElasticNet::l1(alpha), &Options { tol: 1e-12, ..Options::default() });
            close(path.coefficients(), single.coefficients(), 1e-6);
        }
    }
}

#[test]
fn without_penalty_it_is_least_squares() {
    let (x, y) = data(30, 6, 0.4, 8);
    let mut problem = problem(&x, &y);
    let report = problem.solve(&ElasticNet::l1(0.0), &Options::default());
    assert!(report.converged);
    assert!(problem.gradients().iter().all(|g| g.abs() < 1e-10));
    let (coef, loss) = problem.least_squares(&[0, 1, 2, 3, 4, 5]);
    close(&coef, problem.coefficients(), 1e-9);
    assert!((loss - problem.loss()).abs() < 1e-10);
}

#[test]
fn blocks_of_single_features_are_the_lasso() {
    // With fewer rows than features at work, blocks are solved on the residual.
    for n in [40, 15] {
        single_features(n);
    }
}

fn single_features(n: usize) {
    let (x, y) = data(n, 60, 0.6, 9);
    let mut lasso = problem(&x, &y);
    let alpha = 0.02 * top(&lasso);
    let options = Options { tol: 1e-13, ..Options::default() };
    lasso.solve(&ElasticNet::l1(alpha), &options);
    let centred = Centred::new(&x, None, Scaling { centre: true, scale: false });
    let groups = (0..60).map(|j| vec![j]).collect();
    let mut blocks = Blocks::new(centred, vec![y], n as f64, groups);
    let report = blocks.solve(&GroupPenalty { alpha, tau: 0.3, weights: vec![1.0; 60] }, &options);
    assert!(report.converged);
    close(lasso.coefficients(), &blocks.coefficients()[0], 1e-6);
}

#[test]
fn groups_and_tasks_are_stationary_with_a_valid_gap() {
    let (x, y) = data(50, 60, 0.6, 10);
    let second: Vec<f64> = x.column(10).iter().zip(&y).map(|(a, b)| 0.3 * b - a).collect();
    let groups: Vec<Vec<u32>> = (0..20).map(|g| vec![3 * g, 3 * g + 1, 3 * g + 2]).collect();
    for tau in [0.0, 0.4] {
        for targets in [vec![y.clone()], vec![y.clone(), second.clone()]] {
            let centred = Centred::new(&x, None, Scaling { centre: true, scale: false });
            let mut weights = vec![1.0; 20];
            (weights[1], weights[2]) = (f64::INFINITY, 0.5);
            let mut blocks = Blocks::new(centred, targets.clone(), 50.0, groups.clone());
            let one = GroupPenalty { alpha: 1.0, tau, weights };
            let top = blocks.alpha_max(&one);
            let zero =
                blocks.solve(&GroupPenalty { alpha: 1.0001 * top, ..one.clone() }, &Options::default());
            assert!(zero.converged && blocks.coefficients().concat().iter().all(|w| *w == 0.0));
            let penalty = GroupPenalty { alpha: 0.1 * top, ..one };
            let rough = blocks.solve(&penalty, &Options { tol: 1e-4, ..Options::default() });
            let fine = blocks.solve(&penalty, &Options { tol: 1e-13, ..Options::default() });
            assert!(fine.converged && rough.objective - fine.objective <= rough.gap.unwrap() + 1e-12);
            assert!(fine.kkt < 1e-6, "{fine:?}");
            let used =
                |g: usize| (3 * g..3 * g + 3).any(|j| blocks.coefficients().iter().any(|t| t[j] != 0.0));
            assert!(!used(1) && (0..20).any(used));
        }
    }
}

#[test]
fn generalised_losses_are_stationary() {
    let (x, y) = data(80, 60, 0.5, 11);
    let classes: Vec<f64> = y.iter().map(|v| f64::from(u8::from(*v > 0.5))).collect();
    let counts: Vec<f64> = y.iter().map(|v| (0.3 * v).exp().round().min(20.0)).collect();
    let mut outliers = y.clone();
    outliers[3] += 100.0;
    let weights: Vec<f64> = (0..80).map(|i| [1.0, 0.0, 2.5][i % 3]).collect();
    let amounts: Vec<f64> = y.iter().map(|v| (0.3 * v).exp()).collect();
    let losses: [(&dyn Datafit, &[f64]); 5] = [
        (&Logistic, &classes),
        (&Poisson, &counts),
        (&Huber { delta: 1.0 }, &outliers),
        (&Gamma, &amounts),
        (&SquaredHinge, &classes),
    ];
    for (datafit, target) in losses {
        for (intercept, weights) in [(true, None), (false, Some(&weights[..])), (true, Some(&weights[..]))] {
            let mut glm = Glm::new(&x, target, weights, datafit, intercept, false);
            let top = glm.null_gradient().iter().fold(0.0f64, |m, g| m.max(g.abs()));
            for part in [1.001, 0.3, 0.05] {
                let penalties: [Box<dyn Penalty>; 2] = [
                    Box::new(ElasticNet { l1_ratio: 0.95, ..ElasticNet::l1(part * top / 0.95) }),
                    Box::new(Mcp { alpha: part * top, gamma: 8.0, weights: None }),
                ];
                for penalty in &penalties[..if part > 0.2 { 2 } else { 1 }] {
                    let report = glm.solve(penalty.as_ref(), &Options { tol: 1e-8, ..Options::default() });
                    assert!(report.converged, "{datafit:?} {part} {report:?}");
                    // Models of concave penalties have no unique solution; steps end in rounding earlier.
                    let slack = if penalty.is_convex() { 2e-8 } else { 1e-6 };
                    // Gradients from scratch.
                    let mut m = x.times(glm.coefficients());
                    m.iter_mut().for_each(|m| *m += glm.intercept());
                    let v = |i: usize| weights.map_or(1.0, |w| w[i]);
                    let total: f64 = (0..80).map(v).sum();
                    let slope: Vec<f64> =
                        (0..80).map(|i| v(i) * datafit.derivatives(target[i], m[i]).0 / total).collect();
                    for j in 0..60 {
                        let distance = penalty.distance(j, glm.coefficients()[j], x.dot(j, &slope));
                        assert!(distance <= slack * top, "{datafit:?} feature {j}: {distance}, {report:?}");
                    }
                    if intercept {
                        assert!(slope.iter().sum::<f64>().abs() < 1e-8 * top.max(1.0));
                    }
                    assert_eq!(part > 1.0, glm.coefficients().iter().all(|w| *w == 0.0));
                }
            }
        }
    }
}

#[test]
fn losses_have_the_derivatives_they_say() {
    let losses: [(&dyn Datafit, f64); 7] = [
        (&Logistic, 1.0),
        (&Logistic, 0.0),
        (&Poisson, 3.0),
        (&Huber { delta: 1.0 }, 0.4),
        (&Gamma, 2.5),
        (&SquaredHinge, 1.0),
        (&SquaredHinge, 0.0),
    ];
    for (datafit, y) in losses {
        for m in [-2.3, -0.2, 0.1, 1.7] {
            let h = 1e-4;
            let (up, here, down) = (datafit.value(y, m + h), datafit.value(y, m), datafit.value(y, m - h));
            let (first, second) = datafit.derivatives(y, m);
            assert!((first - (up - down) / (2.0 * h)).abs() < 1e-6, "{datafit:?} at {m}");
            assert!((second - (up - 2.0 * here + down) / (h * h)).abs() < 1e-5, "{datafit:?} at {m}");
        }
        // Two targets of weighted mean mu: there the slope is zero.
        let (low, high) = if datafit.accepts(0.0) { (0.0, 1.0) } else { (0.5, 3.0) };
        let best = datafit.constant(0.4 * high + 0.6 * low);
        assert!(best.is_none_or(|m| {
            (0.4 * datafit.derivatives(high, m).0 + 0.6 * datafit.derivatives(low, m).0).abs() < 1e-12
        }));
    }
    assert!(Logistic.value(1.0, -800.0).is_finite() && Logistic.derivatives(0.0, 800.0).1 == 0.0);
}
