use rand::Rng;
use rand_distr::StandardNormal;
use sparseland_linalg::Mat;

use super::*;

fn context() -> Context {
    Context::new(4, 2).unwrap()
}

/// Gaussian columns plus `low` common directions; `tau` of the column is its own.
fn design(n: usize, d: usize, low: usize, tau: f64, seed: u64) -> Dense<f64> {
    let mut rng = context().rng(seed);
    let mut draw = |count: usize| -> Vec<f64> { (0..count).map(|_| rng.sample(StandardNormal)).collect() };
    let (f, l, own) = (draw(n * low), draw(low * d), draw(n * d));
    let value = |i: usize, j: usize| {
        (0..low).map(|r| f[i * low + r] * l[r * d + j]).sum::<f64>() / (low.max(1) as f64).sqrt()
            + tau * own[j * n + i]
    };
    let values = (0..d).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| value(i, j)).collect();
    Dense::from_columns(n, d, values).unwrap()
}

fn target(x: &Dense<f64>, support: &[usize], noise: f64, seed: u64) -> Vec<f64> {
    let mut rng = context().rng(seed);
    let mut w = vec![0.0; x.cols()];
    support.iter().for_each(|j| w[*j] = rng.random_range(1.0..2.0));
    let mut y = x.times(&w);
    y.iter_mut().for_each(|y| *y += 2.0 + noise * rng.sample::<f64, _>(StandardNormal));
    y
}

#[test]
fn projected_columns_are_orthogonal_to_the_anchors_and_anchors_are_free() {
    let x = design(40, 30, 3, 1e-3, 1);
    let part = Normalised::new(&x, &target(&x, &[1, 8, 20], 0.1, 2));
    let anchors = [4, 8, 11, 25];
    let anchored = AnchoredDesign::on_columns(&part.x, &anchors);
    for j in 0..30 {
        for a in anchors {
            assert!(anchored.residual.dot(j, part.x.column(a)).abs() < 1e-8 * 40.0, "{j} {a}");
        }
        let norm = anchored.residual.dot(j, anchored.residual.column(j));
        assert!((norm - if anchors.contains(&j) { 0.0 } else { 40.0 }).abs() < 1e-9);
    }
    let lasso = Lasso::at_fraction(0.3).fit_intercept(false);
    let fit = lasso.fit(&anchored.residual, &anchored.reduce(&part.y)).unwrap();
    let w = anchored.coefficients(&part.x, &part.y, &fit.coef.to_dense());
    let residual: Vec<f64> = part.y.iter().zip(part.x.times(&w)).map(|(y, m)| y - m).collect();
    for a in anchors {
        assert!(part.x.dot(a, &residual).abs() < 1e-6, "anchor {a} is penalised");
    }
    // The others are stationary for the weighted lasso in the columns as they are.
    for j in (0..30).filter(|j| !anchors.contains(j)) {
        let gradient = part.x.dot(j, &residual) / 40.0;
        let price = fit.alpha * anchored.shrink[j];
        assert!(gradient.abs() <= price * (1.0 + 1e-3) + 1e-9, "{j}");
        if w[j] != 0.0 {
            assert!((gradient - price * w[j].signum()).abs() < 2e-3 * price + 1e-9, "{j}");
        }
    }
}

#[test]
fn only_the_span_of_the_anchors_matters() {
    let x = design(30, 12, 2, 0.5, 3);
    let mut mixed: Vec<Vec<f64>> = (0..12).map(|j| x.column(j).to_vec()).collect();
    let (a, b) = (mixed[2].clone(), mixed[5].clone());
    mixed[2] = a.iter().zip(&b).map(|(a, b)| 2.0 * a - b).collect();
    mixed[5] = a.iter().zip(&b).map(|(a, b)| a + 3.0 * b).collect();
    let mixed = Dense::from_columns(30, 12, mixed.concat()).unwrap();
    let y = target(&x, &[2, 7], 0.1, 4);
    let fitted = |x: &Dense<f64>| {
        let part = Normalised::new(x, &y);
        let anchored = AnchoredDesign::on_columns(&part.x, &[2, 5]);
        let fit = Lasso::at_fraction(0.2).fit_intercept(false).tol(1e-12);
        let v = fit.fit(&anchored.residual, &anchored.reduce(&part.y)).unwrap().coef.to_dense();
        part.x.times(&anchored.coefficients(&part.x, &part.y, &v))
    };
    assert!(fitted(&x).iter().zip(fitted(&mixed)).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn no_anchors_are_the_lasso_and_dependent_ones_are_dropped() {
    let x = design(50, 20, 0, 1.0, 5);
    let y = target(&x, &[3, 9], 0.3, 6);
    let part = Normalised::new(&x, &y);
    let none = AnchoredDesign::on_columns(&part.x, &[]);
    let plain = Lasso::new(0.1).standardize(true).tol(1e-12).fit(&x, &y).unwrap();
    let fit =
        Lasso::new(0.1).fit_intercept(false).tol(1e-12).fit(&none.residual, &none.reduce(&part.y)).unwrap();
    let (coef, intercept) = part.restore(&none.coefficients(&part.x, &part.y, &fit.coef.to_dense()));
    assert!(coef.iter().zip(plain.coef.to_dense()).all(|(a, b)| (a - b).abs() < 1e-8));
    assert!((intercept - plain.intercept).abs() < 1e-8);
    // Three columns in a plane, and a column within the span of the anchors.
    let mut columns: Vec<Vec<f64>> = (0..5).map(|j| part.x.column(j).to_vec()).collect();
    columns[2] = columns[0].iter().zip(&columns[1]).map(|(a, b)| 0.6 * a + 0.8 * b).collect();
    columns[3] = columns[0].iter().zip(&columns[1]).map(|(a, b)| a - b).collect();
    let dependent = Dense::from_columns(50, 5, columns.concat()).unwrap();
    let anchored = AnchoredDesign::on_columns(&dependent, &[0, 1, 2]);
    assert_eq!((anchored.dependent, anchored.basis.len()), (1, 2));
    assert_eq!(anchored.shrink[3], 0.0);
    assert!(anchored.shrink[4] > 0.5);
}

#[test]
fn combinations_and_principal_directions_are_what_they_say() {
    let x = Normalised::new(&design(25, 10, 2, 0.3, 7), &[0.0; 25]).x;
    for anchored in [AnchoredDesign::on_columns(&x, &[1, 4, 6]), AnchoredDesign::on_principal(&x, 3).unwrap()]
    {
        assert_eq!(anchored.basis.len(), 3);
        for (q, parts) in anchored.basis.iter().zip(&anchored.combination) {
            let mut back = vec![0.0; 25];
            parts.iter().for_each(|&(j, f)| x.axpy(j, f, &mut back));
            assert!(back.iter().zip(q).all(|(a, b)| (a - b).abs() < 1e-10));
        }
    }
    // The leading direction explains more of the columns than any column does.
    let explained = |a: &AnchoredDesign| a.shrink.iter().map(|s| 1.0 - s * s).sum::<f64>();
    let principal = explained(&AnchoredDesign::on_principal(&x, 1).unwrap());
    for j in 0..10 {
        assert!(principal >= explained(&AnchoredDesign::on_columns(&x, &[j])) - 1e-9 || j > 9);
    }
}

#[test]
fn badly_conditioned_signals_are_found_where_the_lasso_fails() {
    // Columns share three directions; the signal avoids them, so that its coefficients are huge and cancel.
    let (n, d, tau) = (120, 150, 1e-3);
    let x = design(n + 300, d, 3, tau, 8);
    let support = [5, 30, 61, 90, 111, 140];
    let matrix = Mat::from_fn(n + 300, 6, |i, k| x.column(support[k])[i]);
    let small = sparseland_linalg::eigh(&sparseland_linalg::gram(&matrix)).unwrap();
    let mut w = vec![0.0; d];
    (0..6).for_each(|k| w[support[k]] = small.vectors.at(k, 5));
    let m = x.times(&w);
    let size = (m.iter().map(|v| v * v).sum::<f64>() / m.len() as f64).sqrt();
    let signal: Vec<f64> = m.iter().map(|v| v / size).collect();
    let mut rng = context().rng(9);
    let y: Vec<f64> = signal.iter().map(|s| s + 0.3 * rng.sample::<f64, _>(StandardNormal)).collect();
    let train: Vec<u32> = (0..n as u32).collect();
    let train_x = x.select(Some(&train), None, None);
    let error = |method: RandomSupportRegressor| {
        let fit = method.fit(train_x.as_ref(), &y[..n], &context()).unwrap();
        let p = fit.predict(&x);
        (p[n..].iter().zip(&signal[n..]).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / 300.0, fit)
    };
    let (lasso, _) = error(RandomSupportRegressor { anchors: Anchors::Random(0), ..Default::default() });
    let (ours, fit) = error(RandomSupportRegressor::default());
    let (pca, _) = error(RandomSupportRegressor { anchors: Anchors::Pca(3), ..Default::default() });
    assert!(fit.m > 0 && ours < 0.35 * lasso && pca < 0.35 * lasso, "{ours} {pca} {lasso}");
    assert_eq!(fit, error(RandomSupportRegressor::default()).1);
    // Columns in other units are the same problem.
    let scaled: Vec<f64> =
        (0..d).flat_map(|j| x.column(j)[..n].iter().map(move |v| v * (1.0 + j as f64))).collect();
    let scaled = Dense::from_columns(n, d, scaled).unwrap();
    let other = RandomSupportRegressor::default().fit(&scaled, &y[..n], &context()).unwrap();
    assert_eq!(other.m, fit.m);
    let (a, b) = (fit.predict(train_x.as_ref()), other.predict(&scaled));
    assert!(
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3),
        "the lasso stops at 1e-7, and that is amplified by 1 / tau"
    );
}

#[test]
fn without_noise_the_error_goes_to_zero_with_the_strength() {
    let x = design(60, 40, 3, 0.1, 10);
    let y = target(&x, &[2, 17, 33], 0.0, 11);
    let part = Normalised::new(&x, &y);
    let anchored = AnchoredDesign::on_columns(&part.x, &[0, 5, 9, 20]);
    let error = |fraction: f64| {
        let fit = Lasso::at_fraction(fraction).fit_intercept(false).tol(1e-12);
        let v = fit.fit(&anchored.residual, &anchored.reduce(&part.y)).unwrap().coef.to_dense();
        let m = part.x.times(&anchored.coefficients(&part.x, &part.y, &v));
        m.iter().zip(&part.y).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / 60.0
    };
    let (one, two) = (error(1e-1), error(1e-3));
    assert!(two < 1e-3 * one && two > 0.0, "{one} {two}");
}

#[test]
fn bad_input_is_named() {
    let x = design(30, 8, 0, 1.0, 12);
    let y = target(&x, &[1], 0.1, 13);
    let said = |method: RandomSupportRegressor, x: &Dense<f64>, y: &[f64]| {
        method.fit(x, y, &context()).map(|_| ()).unwrap_err().to_string()
    };
    let with = |anchors| RandomSupportRegressor { anchors, ..Default::default() };
    let wide = design(24, 40, 0, 1.0, 1);
    assert!(said(with(Anchors::Random(20)), &wide, &y[..24]).contains("anchors"));
    assert!(said(RandomSupportRegressor::default(), &design(19, 8, 0, 1.0, 1), &y[..19]).contains("20"));
    let mut bad = y.clone();
    bad[4] = f64::NAN;
    assert!(said(RandomSupportRegressor::default(), &x, &bad).contains("y[4]"));
    let constant = RandomSupportRegressor::default().fit(&x, &[2.0; 30], &context()).unwrap();
    assert!(constant.coef.iter().all(|w| w.abs() < 1e-9) && (constant.intercept - 2.0).abs() < 1e-9);
    let mut columns: Vec<Vec<f64>> = (0..8).map(|j| x.column(j).to_vec()).collect();
    columns[3] = vec![7.0; 30];
    let x = Dense::from_columns(30, 8, columns.concat()).unwrap();
    assert_eq!(RandomSupportRegressor::default().fit(&x, &y, &context()).unwrap().coef[3], 0.0);
}
