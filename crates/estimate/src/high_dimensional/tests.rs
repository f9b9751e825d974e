use rand::Rng;
use rand_distr::StandardNormal;
use sparseland_core::Context;
use sparseland_linalg::{Mat, lstsq};
use sparseland_optim::design::{Dense, Design};
use sparseland_optim::penalty::{ElasticNet, Mcp, Penalty};

use super::accelerated::{AcceleratedGradient, Concave, Scheme};
use super::mixed::{FixedPenalty, Grouped, MixedFit, QGaussianMixed, Tail};
use super::prox_cg::{ProxCg, first_order};
use crate::estimators::{Loss, McpRegression, ScadRegression};
use crate::path::PathOptions;

/// `n x p` Gaussian columns, five true coefficients, noise of variance 1.
fn regression(n: usize, p: usize, seed: u64) -> (Dense<f64>, Vec<f64>, Vec<f64>) {
    let mut rng = Context::new(seed, 1).unwrap().rng(0);
    let values: Vec<f64> = (0..n * p).map(|_| rng.sample(StandardNormal)).collect();
    let x = Dense::from_columns(n, p, values).unwrap();
    let mut w = vec![0.0; p];
    (0..5).for_each(|k| w[k * (p / 5)] = 2.0 + k as f64);
    let mut y = x.times(&w);
    y.iter_mut().for_each(|y| *y += 3.0 + rng.sample::<f64, _>(StandardNormal));
    (x, y, w)
}

#[test]
fn slopes_are_the_derivatives_of_the_concave_parts() {
    for penalty in [Concave::Scad(3.7), Concave::Mcp(3.0)] {
        let (lambda, h) = (0.8, 1e-6);
        let rest = |t: f64| penalty.of(lambda).value(0, t) - lambda * t.abs();
        for t in [-5.0, -2.5, -1.2, -0.3, 0.2, 0.9, 1.7, 2.39, 2.41, 2.95, 2.97, 9.0] {
            let numeric = (rest(t + h) - rest(t - h)) / (2.0 * h);
            assert!((numeric - penalty.slope(lambda, t)).abs() < 1e-6, "{penalty:?} at {t}");
        }
    }
}

#[test]
fn fits_are_stationary_for_every_penalty_loss_and_scheme() {
    let (x, y, _) = regression(80, 120, 1);
    let classes: Vec<f64> = y.iter().map(|v| f64::from(u8::from(*v > 3.0))).collect();
    for penalty in [Concave::Scad(3.7), Concave::Mcp(3.0)] {
        for (loss, y) in [(Loss::Squared, &y), (Loss::Logistic, &classes)] {
            let scale = if loss == Loss::Squared { 1.0 } else { 0.2 };
            let method = AcceleratedGradient { penalty, loss, ..AcceleratedGradient::default() };
            let fit = method.fit(&x, y, 0.5 * scale).unwrap();
            // The condition, from the raw data.
            let mean = |f: &dyn Fn(usize) -> f64| (0..80).map(f).sum::<f64>() / 80.0;
            let m = fit.decision_function(&x).unwrap();
            let slope = |i: usize| {
                if loss == Loss::Squared { m[i] - y[i] } else { 1.0 / (1.0 + (-m[i]).exp()) - y[i] }
            };
            assert!(mean(&slope).abs() < 1e-6, "intercept of {penalty:?} {loss:?}");
            let coef = fit.coef.to_dense();
            let mut worst = 0.0f64;
            for (j, w) in coef.iter().enumerate() {
                let column = x.column(j);
                let centre = mean(&|i| column[i]);
                let sd = mean(&|i| (column[i] - centre).powi(2)).sqrt();
                let gradient = mean(&|i| slope(i) * (column[i] - centre) / sd);
                worst = worst.max(penalty.of(0.5 * scale).distance(0, w * sd, gradient));
            }
            assert!(fit.converged && worst < 1e-5, "{penalty:?} {loss:?}: {worst}");
            assert!((1..40).contains(&fit.coef.nnz()));
            for scheme in [Scheme::Original, Scheme::ProximalGradient] {
                let other = AcceleratedGradient { scheme, max_iter: 50_000, ..method.clone() }
                    .fit(&x, y, 0.5 * scale)
                    .unwrap();
                assert!(
                    other.converged && other.kkt < 2e-6,
                    "{penalty:?} {loss:?} {scheme:?}: {}",
                    other.kkt
                );
            }
        }
    }
}

#[test]
fn paths_reach_the_points_of_coordinate_descent() {
    let (x, y, truth) = regression(100, 200, 2);
    let options = PathOptions { n_alphas: 20, eps: Some(0.1), ..PathOptions::default() };
    for penalty in [Concave::Scad(3.7), Concave::Mcp(3.0)] {
        let path = AcceleratedGradient { penalty, ..Default::default() }.path(&x, &y, &options).unwrap();
        assert_eq!(path.fits[0].coef.nnz(), 0);
        assert!(path.fits.iter().all(|f| f.converged && f.kkt < 2e-6));
        // In the middle the problem has one point that matters, and coordinate descent finds it too.
        let fit = &path.fits[9];
        let other = match penalty {
            Concave::Scad(shape) => ScadRegression::new(fit.alpha).shape(shape).fit(&x, &y).unwrap(),
            Concave::Mcp(gamma) => McpRegression::new(fit.alpha).gamma(gamma).fit(&x, &y).unwrap(),
        };
        assert!(
            (fit.objective - other.objective).abs() < 1e-6 * other.objective,
            "{} {}",
            fit.objective,
            other.objective
        );
        for (a, b) in fit.coef.to_dense().iter().zip(other.coef.to_dense()) {
            assert!((a - b).abs() < 1e-4);
        }
        assert!((fit.intercept - other.intercept).abs() < 1e-4);
        assert!(truth.iter().zip(fit.coef.to_dense()).all(|(t, c)| (*t == 0.0) || c != 0.0));
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let (x, y, _) = regression(20, 5, 3);
    let fit = |m: AcceleratedGradient| m.fit(&x, &y, 0.1).map(|_| ()).unwrap_err().to_string();
    assert!(
        fit(AcceleratedGradient { penalty: Concave::Scad(2.0), ..Default::default() }).contains("above 2")
    );
    assert!(
        fit(AcceleratedGradient { penalty: Concave::Mcp(1.0), ..Default::default() }).contains("above 1")
    );
    assert!(fit(AcceleratedGradient { loss: Loss::Logistic, ..Default::default() }).contains("0 or 1"));
    assert!(
        fit(AcceleratedGradient { loss: Loss::Poisson, ..Default::default() })
            .contains("squared or logistic")
    );
    let one_class = vec![1.0; 20];
    let logistic = AcceleratedGradient { loss: Loss::Logistic, ..Default::default() };
    assert!(logistic.fit(&x, &one_class, 0.1).unwrap_err().to_string().contains("two classes"));
}

/// `||A x - b||² / 2` with gradient, and its greatest curvature.
fn least_squares(rows: usize, p: usize, seed: u64) -> (impl FnMut(&[f64], &mut [f64]) -> f64, f64) {
    let (x, y, _) = regression(rows, p, seed);
    let scale = 1.0 / rows as f64;
    let mut curvature = 0.0;
    let mut v = vec![1.0; p];
    for _ in 0..200 {
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.iter_mut().for_each(|v| *v /= norm);
        let product = x.times(&v);
        curvature = product.iter().map(|a| a * a).sum::<f64>() * scale;
        v = (0..p).map(|j| x.dot(j, &product)).collect();
    }
    let smooth = move |w: &[f64], gradient: &mut [f64]| {
        let residual: Vec<f64> = x.times(w).iter().zip(&y).map(|(m, y)| m - y).collect();
        gradient.iter_mut().enumerate().for_each(|(j, g)| *g = scale * x.dot(j, &residual));
        0.5 * scale * residual.iter().map(|r| r * r).sum::<f64>()
    };
    (smooth, 1.05 * curvature)
}

#[test]
fn proximal_conjugate_gradients_solve_smooth_convex_and_concave_problems() {
    // Without penalty, the normal equations; in as few steps as conjugate gradients are good for.
    let (mut smooth, curvature) = least_squares(60, 20, 1);
    let (x, y, _) = regression(60, 20, 1);
    let matrix = Mat::from_fn(60, 20, |i, j| x.column(j)[i]);
    let exact = lstsq(&matrix, &Mat::from_vec(60, 1, y).unwrap()).unwrap().data;
    let found = ProxCg { tol: 1e-10, ..ProxCg::default() }.minimise(
        &mut smooth,
        &ElasticNet::l1(0.0),
        curvature,
        vec![0.0; 20],
    );
    assert!(found.converged && found.evaluations < 120);
    assert!(found.x.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-8));
    // With penalties, stationary points; for the lasso the one of plain proximal gradients.
    for penalty in [
        Box::new(ElasticNet::l1(0.3)) as Box<dyn Penalty>,
        Box::new(Mcp { alpha: 0.3, gamma: 3.0, weights: None }),
    ] {
        let (mut smooth, curvature) = least_squares(60, 100, 2);
        let found = ProxCg::default().minimise(&mut smooth, penalty.as_ref(), curvature, vec![0.0; 100]);
        let mut gradient = vec![0.0; 100];
        smooth(&found.x, &mut gradient);
        let worst = (0..100).map(|j| penalty.distance(j, found.x[j], gradient[j])).fold(0.0, f64::max);
        assert!(found.converged && worst <= 1e-6, "{worst}");
        assert!(found.x.iter().filter(|w| **w == 0.0).count() > 30);
        if penalty.is_convex() {
            let target = found.objective + 1e-9;
            let plain =
                first_order(&mut smooth, penalty.as_ref(), curvature, vec![0.0; 100], false, target, 100_000);
            let lower = first_order(
                &mut smooth,
                penalty.as_ref(),
                curvature,
                vec![0.0; 100],
                true,
                found.objective - 1e-7,
                20_000,
            );
            assert!(plain.is_some() && lower.is_none());
        }
    }
}

/// Clusters of 8 rows with a random level; `shifted` of them are off by ten standard deviations.
fn grouped(clusters: usize, shifted: usize, seed: u64) -> (Mat<f64>, Mat<f64>, Vec<f64>, Vec<usize>) {
    let mut rng = Context::new(seed, 1).unwrap().rng(3);
    let mut draw = || rng.sample::<f64, _>(StandardNormal);
    let n = 8 * clusters;
    let (mut x, z) = (Mat::zeros(n, 4), Mat::from_fn(n, 1, |_, _| 1.0));
    let (mut y, mut cluster) = (vec![0.0; n], vec![0; n]);
    for c in 0..clusters {
        let (level, between) = (0.7 * draw(), draw());
        for i in 8 * c..8 * c + 8 {
            x.row_mut(i).copy_from_slice(&[1.0, between, draw(), draw()]);
            let off = if c < shifted { 10.0 } else { 0.0 };
            y[i] = 1.0 + 2.0 * between - x.at(i, 2) + level + off + draw();
            cluster[i] = 100 - c;
        }
    }
    (x, z, y, cluster)
}

fn mixed(data: &(Mat<f64>, Mat<f64>, Vec<f64>, Vec<usize>), model: &QGaussianMixed) -> MixedFit {
    let (x, z, y, cluster) = data;
    model.fit(&Grouped { x, z, y, cluster }, &Context::new(0, 1).unwrap()).unwrap()
}

/// The negative log likelihood of the t model over the rows, with `V` written out and solved.
fn plain_objective(
    data: &(Mat<f64>, Mat<f64>, Vec<f64>, Vec<usize>),
    beta: &[f64],
    d: f64,
    s2: f64,
    nu: f64,
) -> f64 {
    let (x, _, y, _) = data;
    let mut total = 0.0;
    for rows in (0..y.len()).collect::<Vec<_>>().chunks(8) {
        let v = Mat::from_fn(8, 8, |i, j| d + if i == j { s2 } else { 0.0 });
        let r = Mat::from_fn(8, 1, |i, _| {
            y[rows[i]] - x.row(rows[i]).iter().zip(beta).map(|(x, b)| x * b).sum::<f64>()
        });
        let solved = sparseland_linalg::solve_spd(&v, &r).unwrap();
        let delta: f64 = r.data.iter().zip(&solved.data).map(|(a, b)| a * b).sum();
        let logdet: f64 = sparseland_linalg::eigh_values(&v).unwrap().iter().map(|e| e.ln()).sum();
        let constant =
            libm::lgamma(0.5 * nu) - libm::lgamma(0.5 * (nu + 8.0)) + 4.0 * (nu * std::f64::consts::PI).ln();
        total += 0.5 * logdet + 0.5 * (nu + 8.0) * (1.0 + delta / nu).ln() + constant;
    }
    total / y.len() as f64
}

#[test]
fn mixed_models_are_at_a_minimum_of_the_likelihood_that_never_rose() {
    let data = grouped(20, 2, 1);
    let fit = mixed(&data, &QGaussianMixed { tol: 1e-12, max_rounds: 3000, ..Default::default() });
    assert!(fit.converged && fit.trace.windows(2).all(|w| w[1] <= w[0] + 1e-10));
    let (d, s2) = (fit.d.at(0, 0), fit.s2);
    let at = |beta: &[f64], d: f64, s2: f64| plain_objective(&data, beta, d, s2, 4.0);
    let objective = at(&fit.beta, d, s2);
    assert!((objective - fit.trace[fit.trace.len() - 1]).abs() < 1e-9);
    // Slopes in every direction are zero.
    let h = 1e-5;
    for j in 0..4 {
        let moved = |by: f64| {
            let mut beta = fit.beta.clone();
            beta[j] += by;
            at(&beta, d, s2)
        };
        assert!(((moved(h) - moved(-h)) / (2.0 * h)).abs() < 1e-6, "beta {j}");
    }
    assert!(((at(&fit.beta, d + h, s2) - at(&fit.beta, d - h, s2)) / (2.0 * h)).abs() < 1e-5);
    assert!(((at(&fit.beta, d, s2 + h) - at(&fit.beta, d, s2 - h)) / (2.0 * h)).abs() < 1e-5);
    // The clusters that are off are the ones that count little.
    assert!(
        fit.weights[..2].iter().all(|w| *w < 0.5) && fit.weights[2..].iter().all(|w| *w > 0.5),
        "{:?}",
        fit.weights
    );
}

#[test]
fn many_degrees_of_freedom_are_the_gaussian_model_and_q_is_nu() {
    let data = grouped(15, 0, 2);
    let tight = QGaussianMixed { tol: 1e-12, max_rounds: 3000, ..Default::default() };
    let gaussian = mixed(&data, &QGaussianMixed { tail: Tail::Gaussian, ..tight.clone() });
    let many = mixed(&data, &QGaussianMixed { tail: Tail::Nu(1e8), ..tight.clone() });
    assert!(gaussian.beta.iter().zip(&many.beta).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!((gaussian.s2 - many.s2).abs() < 1e-4 && (gaussian.d.at(0, 0) - many.d.at(0, 0)).abs() < 1e-3);
    let four = mixed(&data, &tight);
    let q = mixed(&data, &QGaussianMixed { tail: Tail::Q(1.0 + 2.0 / 12.0), ..tight });
    assert!((q.nu - 4.0).abs() < 1e-9 && q.beta.iter().zip(&four.beta).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn mixed_models_have_edges() {
    let data = grouped(12, 0, 3);
    let (x, z, y, cluster) = &data;
    let context = Context::new(0, 1).unwrap();
    let said = |model: QGaussianMixed, y: &[f64], cluster: &[usize]| {
        model.fit(&Grouped { x, z, y, cluster }, &context).map(|_| ()).unwrap_err().to_string()
    };
    let q = QGaussianMixed { tail: Tail::Q(1.3), ..Default::default() };
    assert!(said(q, y, cluster).contains("stays below 1.25"));
    assert!(said(QGaussianMixed { tail: Tail::Nu(0.0), ..Default::default() }, y, cluster).contains("nu"));
    assert!(said(QGaussianMixed::default(), &y[1..], cluster).contains("95") || !y.is_empty());
    let mut bad = y.clone();
    bad[5] = f64::NAN;
    assert!(said(QGaussianMixed::default(), &bad, cluster).contains("row 5"));
    assert!(said(QGaussianMixed::default(), y, &vec![1; 96]).contains("clusters"));
    // Clusters of one row, and targets without a level of their own: the variance is 0 and said to be.
    let single: Vec<usize> = (0..96).collect();
    let fit = QGaussianMixed::default().fit(&Grouped { x, z, y, cluster: &single }, &context).unwrap();
    assert!(fit.beta.iter().all(|b| b.is_finite()) && fit.weights.len() == 96);
    let mut rng = context.rng(8);
    let flat: Vec<f64> = (0..96)
        .map(|i| if i % 8 < 4 { 1.0 } else { -1.0 } + 0.3 * rng.sample::<f64, _>(StandardNormal))
        .collect();
    let long = QGaussianMixed { tol: 1e-13, max_rounds: 5000, ..Default::default() };
    let fit = long.fit(&Grouped { x, z, y: &flat, cluster }, &context).unwrap();
    assert_eq!(fit.d.at(0, 0), 0.0);
    // A strong penalty leaves the first coefficient alone.
    let lasso = QGaussianMixed { penalty: FixedPenalty::L1(10.0), ..Default::default() };
    let fit = lasso.fit(&Grouped { x, z, y, cluster }, &context).unwrap();
    assert!(fit.beta[0] != 0.0 && fit.beta[1..].iter().all(|b| *b == 0.0));
    let profile = QGaussianMixed { tail: Tail::Profile, ..Default::default() };
    let fit = profile.fit(&Grouped { x, z, y, cluster }, &context).unwrap();
    assert_eq!(fit.nu, 30.0, "clean data have light tails");
}
