use super::*;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use sparseland_linalg::{matmul, solve_spd};

fn context() -> Context {
    Context::new(3, 1).unwrap()
}

fn rng(seed: u64) -> Pcg64 {
    Pcg64::seed_from_u64(seed)
}

fn with(method: Method, s2: f64) -> KronSbl {
    KronSbl { noise: Noise::Known(s2), ..KronSbl::new(method) }
}

fn methods(factors: usize) -> Vec<Method> {
    vec![
        Method::Svd,
        Method::Alternating,
        Method::OneSweep,
        Method::Classic,
        Method::PatternCoupled { beta: (0..factors).map(|k| if k == 1 { 0.0 } else { 0.5 }).collect() },
    ]
}

fn close(a: &[Complex64], b: &[Complex64], tolerance: f64) -> bool {
    let size = a.iter().map(|v| v.norm()).fold(0.0, f64::max);
    a.iter().zip(b).all(|(a, b)| (a - b).norm() <= tolerance * size)
}

/// Mean, variances and cost from the dense formulas, complex numbers as pairs of reals.
fn dense(p: &KronProblem, gamma: &[f64], s2: f64) -> (Vec<Complex64>, Vec<f64>, f64) {
    let (m, n) = (p.y.len(), p.x.len());
    let mut columns = vec![vec![Complex64::ZERO; n]; m];
    for j in 0..n {
        let mut unit = vec![Complex64::ZERO; n];
        unit[j] = Complex64::ONE;
        let views: Vec<_> = p.factors.iter().map(|f| (f.data.as_slice(), f.rows, f.cols)).collect();
        for (i, v) in kron_apply(&views, &unit).into_iter().enumerate() {
            columns[i][j] = v;
        }
    }
    let h = Mat::from_fn(2 * m, 2 * n, |i, j| {
        let v = columns[i % m][j % n];
        match (i < m, j < n) {
            (true, true) | (false, false) => v.re,
            (true, false) => -v.im,
            (false, true) => v.im,
        }
    });
    let g = Mat::from_diagonal(&(0..2 * n).map(|j| gamma[j % n]).collect::<Vec<_>>());
    let gh = matmul(&g, &h.transposed()).unwrap();
    let mut c = matmul(&h, &gh).unwrap();
    (0..2 * m).for_each(|i| c.data[i * 2 * m + i] += s2);
    let y = Mat::from_fn(2 * m, 1, |i, _| if i < m { p.y[i].re } else { p.y[i - m].im });
    let solved = solve_spd(&c, &y).unwrap();
    let mean = matmul(&gh, &solved).unwrap();
    let mean = (0..n).map(|j| Complex64::new(mean.data[j], mean.data[n + j])).collect();
    let inner = solve_spd(&c, &h).unwrap();
    let variance = (0..n)
        .map(|j| {
            gamma[j] - gamma[j] * gamma[j] * (0..2 * m).map(|i| h.at(i, j) * inner.at(i, j)).sum::<f64>()
        })
        .collect();
    let fit: f64 = y.data.iter().zip(&solved.data).map(|(a, b)| a * b).sum();
    let log_det: f64 = sparseland_linalg::eigh_values(&c).unwrap().iter().map(|v| v.ln()).sum();
    (mean, variance, fit + 0.5 * log_det)
}

#[test]
fn both_posteriors_equal_the_dense_formulas() {
    for complex in [false, true] {
        for shapes in [&[(3, 4), (2, 4), (3, 4)][..], &[(5, 4), (2, 3)], &[(4, 6)]] {
            let p = synthetic(shapes, 2, 10.0, complex, &mut rng(1));
            let priors: Vec<Vec<f64>> =
                shapes.iter().map(|s| (0..s.1).map(|k| 0.2 + ((k * 7 + s.0) % 5) as f64).collect()).collect();
            let gamma = kron_vector(&priors);
            let (mean, variance, cost) = dense(&p, &gamma, 0.3);
            let modes: Vec<Mode> = p
                .factors
                .iter()
                .zip(&priors)
                .map(|(f, g)| Mode { kept: (0..f.cols).collect(), dictionary: f.clone(), prior: g.clone() })
                .collect();
            let ours = posterior(&modes, &p.y, 0.3).unwrap();
            let classic = classic::Dense::new(&p.factors, complex).posterior(&gamma, &p.y, 0.3).unwrap();
            let views: Vec<_> = p.factors.iter().map(|f| (f.data.as_slice(), f.rows, f.cols)).collect();
            let fitted = kron_apply(&views, &mean);
            let residual: f64 = p.y.iter().zip(&fitted).map(|(a, b)| (a - b).norm_sqr()).sum();
            let effective: f64 = variance.iter().zip(&gamma).map(|(v, g)| 1.0 - v / g).sum();
            for found in [&ours, &classic] {
                assert!(close(&mean, &found.mean, 1e-9));
                assert!(variance.iter().zip(&found.variance).all(|(a, b)| (a - b).abs() < 1e-9 * a.abs()));
                assert!((found.cost - cost).abs() < 1e-9 * cost.abs());
                assert!((found.residual - residual).abs() < 1e-9 * residual);
                assert!((found.effective - effective).abs() < 1e-9 * effective);
            }
        }
    }
}

#[test]
fn without_pruning_the_cost_never_rises() {
    for seed in 0..4 {
        let p = synthetic(&[(4, 6), (4, 6), (5, 6)], 2, 15.0, seed % 2 == 1, &mut rng(seed));
        for method in [Method::Alternating, Method::Classic] {
            let solver = KronSbl { prune: vec![0.0], max_iter: 40, ..with(method, p.s2) };
            let fit = solver.fit(&p.factors, &p.y, &context()).unwrap();
            for w in fit.trace.windows(2) {
                assert!(w[1] <= w[0] + 1e-9 * w[0].abs(), "{} after {}", w[1], w[0]);
            }
            assert!(fit.gammas.iter().flatten().all(|g| *g >= 0.0));
        }
    }
}

#[test]
fn one_factor_is_the_classic_method() {
    let p = synthetic(&[(12, 20)], 3, 20.0, true, &mut rng(5));
    let run = |method| {
        let solver = KronSbl { prune: vec![1e-3], ..with(method, p.s2) };
        solver.fit(&p.factors, &p.y, &context()).unwrap()
    };
    let (a, b) = (run(Method::Alternating), run(Method::Classic));
    assert!(close(&a.x, &b.x, 1e-7) && a.support == b.support);
}

#[test]
fn scaling_the_data_scales_the_result() {
    let p = synthetic(&[(5, 7), (4, 6), (4, 5)], 2, 20.0, true, &mut rng(6));
    let c = 1e-3;
    let y: Vec<Complex64> = p.y.iter().map(|v| v * c).collect();
    for method in methods(3) {
        for noise in [Noise::Known(p.s2), Noise::Learn] {
            let scaled = match noise {
                Noise::Known(s2) => Noise::Known(s2 * c * c),
                Noise::Learn => Noise::Learn,
            };
            let run = |noise, y: &[Complex64]| {
                let solver = KronSbl { noise, max_iter: 25, ..KronSbl::new(method.clone()) };
                solver.fit(&p.factors, y, &context()).unwrap()
            };
            let (a, b) = (run(noise, &p.y), run(scaled, &y));
            let expected: Vec<Complex64> = a.x.iter().map(|v| v * c).collect();
            assert!(close(&expected, &b.x, 1e-6), "{method:?}");
            assert!((b.s2 - a.s2 * c * c).abs() < 1e-6 * b.s2);
        }
    }
}

#[test]
fn exchanging_factors_exchanges_the_result() {
    let p = synthetic(&[(5, 6), (4, 7)], 2, 20.0, false, &mut rng(7));
    let swap = |x: &[Complex64], a: usize, b: usize| -> Vec<Complex64> {
        (0..a * b).map(|k| x[(k % a) * b + k / a]).collect()
    };
    let factors = vec![p.factors[1].clone(), p.factors[0].clone()];
    let y = swap(&p.y, 5, 4);
    for method in [Method::Svd, Method::Alternating, Method::Classic] {
        // The alternation starts with another factor: only its limit is the same.
        let solver = KronSbl { inner_tolerance: 1e-12, inner_sweeps: 2000, ..with(method.clone(), p.s2) };
        let a = solver.fit(&p.factors, &p.y, &context()).unwrap();
        let b = solver.fit(&factors, &y, &context()).unwrap();
        assert!(close(&swap(&a.x, 6, 7), &b.x, 1e-5), "{method:?}");
    }
}

#[test]
fn without_noise_the_vector_is_found_exactly() {
    for seed in 0..3 {
        let p = synthetic(&[(8, 10), (8, 10), (8, 10)], 2, f64::INFINITY, seed == 1, &mut rng(seed));
        for method in [Method::Svd, Method::Alternating] {
            let fit = with(method.clone(), 1e-10).fit(&p.factors, &p.y, &context()).unwrap();
            let error = nmse(&p.x, &fit.x);
            assert!(error < 1e-8, "{method:?} seed {seed}: {error}");
            assert!(support_rate(&p.x, &fit.x) > 0.99);
        }
    }
}

#[test]
fn the_noise_is_learnt() {
    for seed in 0..3 {
        let p = synthetic(&[(8, 10), (8, 10), (8, 10)], 2, 20.0, seed == 2, &mut rng(10 + seed));
        for method in [Method::Svd, Method::Alternating] {
            let fit = KronSbl::new(method.clone()).fit(&p.factors, &p.y, &context()).unwrap();
            assert!((fit.s2 / p.s2 - 1.0).abs() < 0.2, "{method:?} {} {}", fit.s2, p.s2);
            assert!(nmse(&p.x, &fit.x) < 0.02);
        }
    }
}

#[test]
fn refining_lowers_the_cost() {
    for seed in 0..3 {
        let p = synthetic(&[(6, 10), (7, 10), (8, 10)], 3, 20.0, false, &mut rng(20 + seed));
        let plain = with(Method::Svd, p.s2);
        let a = plain.fit(&p.factors, &p.y, &context()).unwrap();
        let b = KronSbl { refine: true, ..plain }.fit(&p.factors, &p.y, &context()).unwrap();
        assert!(b.trace.last().unwrap() <= &(a.trace.last().unwrap() + 1e-9));
    }
}

#[test]
fn rank_one_moments_are_split_exactly() {
    let factors: Vec<Vec<f64>> = vec![vec![1.0, 2.0, 0.5], vec![3.0, 0.1], vec![0.7, 0.2, 0.9, 4.0]];
    let moment = kron_vector(&factors);
    let split = mstep::rank_one(&moment, &[3, 2, 4]).unwrap();
    let back = kron_vector(&split);
    assert!(moment.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12));
    let mut alternated = vec![vec![1.0; 3], vec![1.0; 2], vec![1.0; 4]];
    mstep::alternate(&moment, &mut alternated, 1e-12, 100, true);
    let back = kron_vector(&alternated);
    assert!(moment.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-10));
}

#[test]
fn non_negative_least_squares_meets_its_conditions() {
    let mut rng = rng(8);
    for n in [1, 2, 5, 9] {
        let a = Mat::from_fn(n + 2, n, |_, _| rng.random_range(-1.0..1.0));
        let b: Vec<f64> = (0..n + 2).map(|_| rng.random_range(-1.0..1.0)).collect();
        let x = mstep::nnls(&a, &b).unwrap();
        for j in 0..n {
            let slope: f64 = (0..n + 2)
                .map(|i| a.at(i, j) * (b[i] - (0..n).map(|k| a.at(i, k) * x[k]).sum::<f64>()))
                .sum();
            assert!(x[j] >= 0.0 && slope < 1e-9 && (x[j] == 0.0 || slope.abs() < 1e-9));
        }
    }
}

#[test]
fn coupled_priors_find_blocks() {
    let link = IrsLink { elements: 32, ..IrsLink::default() };
    let mut rng = rng(9);
    let channel = link.sample(&mut rng);
    assert_eq!((channel.signal.len(), channel.x.len()), (288, 5832));
    // The factors of the dictionary agree with the physics: one column of channels per pattern and pilot.
    let exact = channel.channels(&channel.x);
    assert_eq!((exact.len(), exact[0].rows, exact[0].cols), (6, 16, 6));
    assert_eq!(channel.nmse(&channel.x), 0.0);
    let power = channel.signal.iter().map(Complex64::norm_sqr).sum::<f64>() / 288.0;
    let s2 = 0.001 * power;
    let y: Vec<Complex64> = channel.signal.iter().map(|v| v + irs::normal(&mut rng) * s2.sqrt()).collect();
    let coupled = with(Method::PatternCoupled { beta: vec![0.8, 0.0, 0.8] }, s2);
    let fit = coupled.fit(&channel.factors, &y, &context()).unwrap();
    assert!(channel.nmse(&fit.x) < 0.2);
    assert!(channel.symbol_error_rate(&fit.x, s2, 200, &mut rng).unwrap() < 0.05);
}

#[test]
fn awkward_input_gives_answers_or_named_errors() {
    let p = synthetic(&[(4, 5), (3, 5)], 1, 20.0, false, &mut rng(11));
    for method in methods(2) {
        let solver = with(method, 0.0);
        let zero = vec![Complex64::ZERO; 12];
        let fit = solver.fit(&p.factors, &zero, &context()).unwrap();
        assert!(fit.x.iter().all(|v| *v == Complex64::ZERO) && fit.s2 > 0.0);
        let fit = solver.fit(&p.factors, &p.y, &context()).unwrap();
        assert!(fit.warnings.iter().any(|w| matches!(w, KronSblWarning::NoiseRaised { .. })));
        assert!(fit.x.iter().all(|v| v.re.is_finite()));
        assert!(matches!(
            solver.fit(&p.factors, &p.y[1..], &context()),
            Err(KronSblError::Measurements { expected: 12, got: 11, .. })
        ));
    }
    let mut bad = p.clone();
    bad.factors[1].data[7] = Complex64::new(0.0, f64::NAN);
    assert_eq!(
        with(Method::Svd, 0.1).fit(&bad.factors, &bad.y, &context()).unwrap_err(),
        KronSblError::NonFinite { what: "factor 1".into(), row: 1, column: 2 }
    );
    // A zero column and a duplicate.
    let mut odd = p.clone();
    for i in 0..4 {
        odd.factors[0].data[i * 5] = Complex64::ZERO;
        odd.factors[0].data[i * 5 + 1] = odd.factors[0].data[i * 5 + 2];
    }
    let fit = with(Method::Svd, p.s2).fit(&odd.factors, &p.y, &context()).unwrap();
    assert!(!fit.support[0].contains(&0));
    assert!(fit.warnings.iter().any(|w| matches!(w, KronSblWarning::Coherence { factor: 0, .. })));
    let small = KronSbl { memory_cap: 0, ..with(Method::Classic, 0.1) };
    let wide = synthetic(&[(40, 60), (40, 60)], 1, 20.0, false, &mut rng(12));
    assert!(matches!(small.fit(&wide.factors, &wide.y, &context()), Err(KronSblError::Memory { .. })));
    let cancelled = context();
    cancelled.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(
        with(Method::Svd, 0.1).fit(&p.factors, &p.y, &cancelled),
        Err(KronSblError::Cancelled(_))
    ));
    // Real input through the real entrance.
    let real: Vec<Mat<f64>> =
        p.factors.iter().map(|f| Mat::from_fn(f.rows, f.cols, |i, j| f.at(i, j).re)).collect();
    let y: Vec<f64> = p.y.iter().map(|v| v.re).collect();
    let a = with(Method::Svd, p.s2).fit_real(&real, &y, &context()).unwrap();
    let b = with(Method::Svd, p.s2).fit(&p.factors, &p.y, &context()).unwrap();
    assert_eq!(a.x, b.x);
    assert_eq!(a.real().len(), 25);
}

#[test]
#[ignore = "minutes; run: cargo test --release -p sparseland-estimate -- --ignored --nocapture kron_sbl_acceptance"]
fn kron_sbl_acceptance() {
    let config: experiment::Config =
        toml::from_str(include_str!("../../../../experiments/kron-sbl.toml")).unwrap();
    let context = Context::new(0, 1).unwrap();
    experiment::run(&config, &context, &mut |e| {
        println!(
            "{} {} [{}]: {:.3e} against {:.3e}; {} ({:.1} s)",
            if e.passed { "pass" } else { "MISS" },
            e.name,
            e.data,
            e.measured,
            e.baseline,
            e.claimed,
            e.seconds
        );
    })
    .unwrap();
}
