//! Decompositions against mathematics: reconstruction, orthogonality, optimality, known spectra, bad input.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use sparseland_linalg::*;

fn gaussian<T: Scalar>(rows: usize, cols: usize, seed: u64) -> Mat<T> {
    let mut rng = Pcg64::seed_from_u64(seed);
    Mat::from_fn(rows, cols, |_, _| {
        let v: f64 = StandardNormal.sample(&mut rng);
        T::from_f64(v)
    })
}

/// `m x n` with the given singular values and random singular vectors.
fn with_spectrum(m: usize, n: usize, s: &[f64], seed: u64) -> Mat<f64> {
    let u = qr(&gaussian::<f64>(m, s.len(), seed)).unwrap().q;
    let mut v = qr(&gaussian::<f64>(n, s.len(), seed + 1)).unwrap().q;
    v.scale_columns(s);
    matmul_transposed_right(&u, &v).unwrap()
}

fn tail_energy(s: &[f64], k: usize) -> f64 {
    s[k.min(s.len())..].iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn assert_svd<T: Scalar>(a: &Mat<T>, d: &Svd<T>, tolerance: f64) {
    let scale = a.frobenius_norm().max(1e-30);
    let error = d.reconstruct().distance(a).unwrap() / scale;
    assert!(error < tolerance, "{:?}: reconstruction {error}", a.shape());
    assert!(orthogonality_error(&d.u) < tolerance, "U: {}", orthogonality_error(&d.u));
    assert!(orthogonality_error(&d.vt.transposed()) < tolerance, "V");
    assert!(d.s.is_sorted_by(|a, b| a >= b));
}

const SHAPES: [(usize, usize); 9] =
    [(1, 1), (1, 17), (17, 1), (5, 3), (33, 64), (130, 129), (200, 70), (70, 200), (260, 140)];

#[test]
fn svd_reconstructs_with_orthonormal_factors_on_every_route() {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        let a = gaussian::<f64>(m, n, i as u64);
        assert_svd(&a, &svd(&a).unwrap(), 1e-12);
        let a: Mat<f32> = a.cast();
        assert_svd(&a, &svd(&a).unwrap(), 1e-5);
    }
}

#[test]
fn f32_and_f64_agree_on_singular_and_eigen_values() {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        let a = gaussian::<f64>(m, n, 100 + i as u64);
        let exact = svd_values(&a).unwrap();
        for values in [svd(&a.cast::<f32>()).unwrap().s, svd_values(&a.cast::<f32>()).unwrap()] {
            for (x, y) in exact.iter().zip(&values) {
                assert!((x - f64::from(*y)).abs() < 1e-5 * exact[0], "{m} x {n}: {x} {y}");
            }
        }
        let g = gram(&a);
        let exact = eigh_values(&g).unwrap();
        let single = eigh(&g.cast::<f32>()).unwrap().values;
        for (x, y) in exact.iter().zip(&single) {
            assert!((x - f64::from(*y)).abs() < 1e-5 * exact[0], "{n}: {x} {y}");
        }
    }
}

#[test]
fn truncation_is_eckart_young_optimal() {
    let s: Vec<f64> = (0..90).map(|i| 0.93f64.powi(i)).collect();
    for (m, n) in [(150, 90), (90, 150), (91, 90)] {
        let a = with_spectrum(m, n, &s, 7);
        for k in [0, 1, 10, 60, 90, 1000] {
            let d = svd_truncated(&a, k).unwrap();
            assert_eq!(d.s.len(), k.min(90));
            let error = d.reconstruct().distance(&a).unwrap();
            assert!((error - tail_energy(&s, k)).abs() < 1e-9, "{m} x {n}, k = {k}: {error}");
            for (x, y) in d.s.iter().zip(&s) {
                assert!((x - y).abs() < 1e-10 * y, "{x} {y}");
            }
            // Any perturbed factor of the same rank does no better.
            if k == 10 {
                let mut rng = Pcg64::seed_from_u64(3);
                let mut other = d.clone();
                other.u.data.iter_mut().for_each(|v| *v += 1e-3 * rng.random_range(-1.0..1.0));
                assert!(other.reconstruct().distance(&a).unwrap() > error);
            }
        }
    }
}

#[test]
fn a_rank_deficient_f32_matrix_takes_the_direct_route_and_stays_orthonormal() {
    let a: Mat<f32> = with_spectrum(120, 100, &[3.0, 2.0, 1.0], 5).cast();
    let d = svd(&a).unwrap();
    assert_svd(&a, &d, 2e-5);
    assert_eq!(d.s.len(), 100);
    assert!(f64::from(d.s[3]) < 1e-5);
}

#[test]
fn huge_and_tiny_f32_values_survive() {
    for scale in [1e30f32, 1e-30] {
        let mut a = gaussian::<f32>(80, 70, 1);
        a.data.iter_mut().for_each(|v| *v *= scale);
        assert_svd(&a, &svd(&a).unwrap(), 2e-5);
    }
}

#[test]
fn eigenvalues_of_known_matrices() {
    // The second difference matrix: 2 - 2 cos(pi i / (n + 1)).
    for n in [1usize, 2, 3, 50, 127, 128, 200] {
        let a = Mat::from_fn(n, n, |i, j| match i.abs_diff(j) {
            0 => 2.0f64,
            1 => -1.0,
            _ => 0.0,
        });
        let e = eigh(&a).unwrap();
        for (i, v) in e.values.iter().enumerate() {
            let exact = 2.0 - 2.0 * (std::f64::consts::PI * (n - i) as f64 / (n + 1) as f64).cos();
            assert!((v - exact).abs() < 1e-12, "n = {n}: {v} {exact}");
        }
        assert!(orthogonality_error(&e.vectors) < 1e-12);
        let mut scaled = e.vectors.clone();
        scaled.scale_columns(&e.values);
        let back = matmul_transposed_right(&scaled, &e.vectors).unwrap();
        assert!(back.distance(&a).unwrap() < 1e-11);
    }
    let e = eigh(&Mat::<f64>::zeros(0, 0)).unwrap();
    assert!(e.values.is_empty());
    assert_eq!(eigh_values(&Mat::from_diagonal(&[1.0f32, -5.0, 3.0])).unwrap(), [3.0, 1.0, -5.0]);
}

#[test]
fn only_the_upper_triangle_is_read() {
    let g = gram(&gaussian::<f64>(30, 20, 1));
    let mut upper = g.clone();
    for i in 0..20 {
        for j in 0..i {
            upper.data[i * 20 + j] = 77.0;
        }
    }
    assert_eq!(eigh_values(&g).unwrap(), eigh_values(&upper).unwrap());
    assert_eq!(cholesky_robust(&g).unwrap().factor(), cholesky_robust(&upper).unwrap().factor());
}

fn assert_whitens(g: &Mat<f64>, w: &Whitener, tolerance: f64) {
    let d = g.rows;
    let mut shifted = g.clone();
    for i in 0..d {
        shifted.data[i * d + i] += w.jitter();
    }
    let back = matmul_transposed_left(w.factor(), w.factor()).unwrap();
    assert!(back.distance(&shifted).unwrap() <= 1e-13 * d as f64 * shifted.frobenius_norm());
    // L^-T (G + jitter I) L^-1 = I; the right factor by transposition, since the middle is symmetric.
    let half = w.solve_transposed(&shifted).unwrap();
    let whole = w.solve_transposed(&half.transposed()).unwrap();
    let error = whole.distance(&Mat::identity(d)).unwrap();
    assert!(error < tolerance, "whitening error {error}");
    for i in 0..d {
        assert!(w.factor().row(i)[..i].iter().all(|&v| v == 0.0));
    }
}

#[test]
fn whitening_gives_the_identity_and_no_jitter_on_a_good_gram() {
    for d in [1, 2, 17, 130] {
        let g = gram(&gaussian::<f64>(4 * d + 3, d, d as u64));
        let w = cholesky_robust(&g).unwrap();
        assert_eq!(w.jitter(), 0.0);
        assert_whitens(&g, &w, 1e-10);
        let values = eigh_values(&g).unwrap();
        let exact = values[0] / values[d - 1];
        assert!(w.condition() <= exact * 1.001 && w.condition() > exact / 10.0, "{} {exact}", w.condition());
    }
}

#[test]
fn rank_deficient_grams_get_a_scale_free_jitter() {
    // Hilbert matrix: numerically singular from order 13 on.
    let hilbert = Mat::from_fn(40, 40, |i, j| 1.0 / (i + j + 1) as f64);
    let few_rows = gram(&gaussian::<f64>(20, 60, 2));
    let ones = Mat::from_fn(30, 30, |_, _| 1.0);
    for g in [hilbert, few_rows, ones] {
        let d = g.rows;
        let base = cholesky_robust(&g).unwrap();
        assert!(base.jitter() > 0.0 && base.condition().is_finite());
        let mean = (0..d).map(|i| g.at(i, i)).sum::<f64>() / d as f64;
        assert!(base.jitter() < 3.0 * JITTER_FLOOR * mean, "{} of {mean}", base.jitter());
        assert_whitens(&g, &base, 1e-3);
        let x = gaussian::<f64>(d, 3, 4);
        assert!(base.solve(&base.apply(&x).unwrap()).unwrap().distance(&x).unwrap() < 1e-6);
        for factor in [1e-12, 1e12] {
            let mut scaled = g.clone();
            scaled.data.iter_mut().for_each(|v| *v *= factor);
            let w = cholesky_robust(&scaled).unwrap();
            let ratio = w.jitter() / factor / base.jitter();
            assert!((ratio - 1.0).abs() < 1e-3, "jitter ratio {ratio}");
        }
    }
}

#[test]
fn indefinite_and_zero_and_bad_grams() {
    let w = cholesky_robust(&Mat::from_diagonal(&[1.0, -0.5, 2.0])).unwrap();
    assert!((w.jitter() - 0.5).abs() < 1e-6);
    let w = cholesky_robust(&Mat::zeros(4, 4)).unwrap();
    assert_eq!((w.factor(), w.jitter(), w.condition()), (&Mat::identity(4), 1.0, 1.0));
    assert_eq!(cholesky_robust(&Mat::zeros(0, 0)).unwrap().dim(), 0);
    let mut g = Mat::identity(3);
    g.data[5] = f64::NAN;
    assert_eq!(
        cholesky_robust(&g).unwrap_err(),
        LinalgError::NonFinite { operation: "cholesky_robust", row: 1, col: 2 }
    );
    assert!(matches!(cholesky_robust(&Mat::zeros(2, 3)), Err(LinalgError::Shape { .. })));
    // All zero but one negative entry: no positive trace to scale by.
    let w = cholesky_robust(&Mat::from_diagonal(&[-1.0, 0.0])).unwrap();
    assert!(w.factor().data.iter().all(|v| v.is_finite()));
    assert!(matches!(w.apply(&Mat::zeros(3, 1)), Err(LinalgError::Shape { .. })));
}

#[test]
fn whitener_products_match_plain_ones() {
    for (d, n) in [(1, 1), (7, 5), (33, 64), (140, 90), (3, 0)] {
        let w = cholesky_robust(&gram(&gaussian::<f64>(2 * d + 5, d, 1))).unwrap();
        let x = gaussian::<f64>(d, n, 2);
        let close = |a: Mat<f64>, b: Mat<f64>| assert!(a.distance(&b).unwrap() < 1e-9);
        close(w.apply(&x).unwrap(), matmul(w.factor(), &x).unwrap());
        close(w.apply_transposed(&x).unwrap(), matmul_transposed_left(w.factor(), &x).unwrap());
        close(w.solve(&w.apply(&x).unwrap()).unwrap(), x.clone());
        close(w.solve_transposed(&w.apply_transposed(&x).unwrap()).unwrap(), x.clone());
        let g = matmul_transposed_left(w.factor(), w.factor()).unwrap();
        close(matmul(&g, &w.solve_gram(&x).unwrap()).unwrap(), x);
    }
}

#[test]
fn the_gram_matrix_is_accurate_to_f64_and_leaves_bad_rows_out() {
    let (rows, d) = (1000, 37);
    let mut x = gaussian::<f32>(rows, d, 9);
    // A large common offset makes f32 sums lose digits.
    x.data.iter_mut().for_each(|v| *v += 100.0);
    let mut clean: Vec<usize> = (0..rows).collect();
    for (row, bad) in [(0, f32::NAN), (500, f32::INFINITY), (999, f32::NEG_INFINITY)] {
        x.row_mut(row)[row % d] = bad;
        clean.retain(|&r| r != row);
    }
    let mut g = Mat::zeros(d, d);
    assert_eq!(gram_accumulate(&mut g, &x.data, rows, d).unwrap(), 3);
    for i in 0..d {
        for j in 0..d {
            let exact: f64 = clean.iter().map(|&r| f64::from(x.at(r, i)) * f64::from(x.at(r, j))).sum();
            assert!((g.at(i, j) - exact).abs() < 1e-13 * exact.abs().max(1.0) * 10.0);
            assert_eq!(g.at(i, j), g.at(j, i));
        }
    }
    // A second call adds to the first; batches and one call agree to rounding.
    let mut acc = GramAccumulator::new(d);
    for _ in 0..2 {
        for batch in x.data.chunks(d * 77) {
            acc.add(batch).unwrap();
        }
    }
    assert_eq!((acc.rows(), acc.dropped()), (2 * (rows - 3), 6));
    assert_eq!(gram_accumulate(&mut g, &x.data, rows, d).unwrap(), 3);
    let batched = acc.finish();
    assert!(batched.distance(&g).unwrap() < 1e-13 * g.frobenius_norm());
    assert!(GramAccumulator::new(3).add(&[1.0; 4]).is_err());
    assert!(GramAccumulator::new(0).add(&[1.0; 4]).is_err());
    assert_eq!(GramAccumulator::new(3).add(&[]).unwrap(), 0);
}

#[test]
fn qr_and_least_squares() {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        let a = gaussian::<f64>(m, n, 40 + i as u64);
        let Qr { q, r } = qr(&a).unwrap();
        assert!(orthogonality_error(&q) < 1e-12);
        assert!(matmul(&q, &r).unwrap().distance(&a).unwrap() < 1e-11);
        for i in 0..r.rows {
            assert!(r.row(i)[..i.min(n)].iter().all(|&v| v == 0.0));
        }
        let b = gaussian::<f64>(m, 3, 80);
        let x = lstsq(&a, &b).unwrap();
        // Normal equations: A^T (A x - b) = 0.
        let mut residual = matmul(&a, &x).unwrap();
        residual.data.iter_mut().zip(&b.data).for_each(|(r, b)| *r -= b);
        let gradient = matmul_transposed_left(&a, &residual).unwrap();
        assert!(gradient.frobenius_norm() < 1e-9, "{m} x {n}: {}", gradient.frobenius_norm());
    }
    // Dependent columns: the least-norm solution spreads evenly.
    let a = Mat::from_fn(5, 2, |i, _| i as f64 + 1.0);
    let b = Mat::from_fn(5, 1, |i, _| 2.0 * (i as f64 + 1.0));
    let x = lstsq(&a, &b).unwrap();
    assert!((x.data[0] - 1.0).abs() < 1e-12 && (x.data[1] - 1.0).abs() < 1e-12);
    assert_eq!(lstsq(&Mat::<f64>::zeros(4, 2), &Mat::zeros(4, 1)).unwrap().data, [0.0, 0.0]);
}

#[test]
fn symmetric_systems() {
    for n in [1, 5, 100, 150] {
        let a = gram(&gaussian::<f64>(2 * n + 1, n, 3));
        let x = gaussian::<f64>(n, 4, 5);
        let b = matmul(&a, &x).unwrap();
        assert!(solve_spd(&a, &b).unwrap().distance(&x).unwrap() < 1e-8);
    }
    // Indefinite: Cholesky fails, LU solves.
    let a = Mat::from_vec(2, 2, vec![0.0, 1.0, 1.0, 0.0]).unwrap();
    let b = Mat::from_vec(2, 1, vec![3.0, 4.0]).unwrap();
    assert_eq!(solve_spd(&a, &b).unwrap().data, [4.0, 3.0]);
    assert_eq!(
        solve_spd(&Mat::<f64>::zeros(2, 2), &b).unwrap_err(),
        LinalgError::Singular { operation: "solve_spd" }
    );
}

#[test]
fn the_randomised_svd_is_nearly_optimal_on_decaying_spectra() {
    for decay in [0.8f64, 0.93] {
        let s: Vec<f64> = (0..120).map(|i| decay.powi(i)).collect();
        let a = with_spectrum(200, 150, &s, 11);
        for seed in 0..5 {
            let d = svd_randomized(&a, 20, 10, 2, &mut Pcg64::seed_from_u64(seed)).unwrap();
            let error = d.reconstruct().distance(&a).unwrap();
            assert!(error < 1.01 * tail_energy(&s, 20), "{error} {}", tail_energy(&s, 20));
            assert!(orthogonality_error(&d.u) < 1e-12);
            assert!(orthogonality_error(&d.vt.transposed()) < 1e-12);
            let single =
                svd_randomized(&a.cast::<f32>(), 20, 10, 2, &mut Pcg64::seed_from_u64(seed)).unwrap();
            assert!(orthogonality_error(&single.u) < 1e-5);
            let error = single.reconstruct().cast().distance(&a).unwrap();
            assert!(error < 1.01 * tail_energy(&s, 20) + 1e-5);
        }
    }
    let a = gaussian::<f64>(30, 20, 1);
    let twice = |seed| svd_randomized(&a, 5, 3, 1, &mut Pcg64::seed_from_u64(seed)).unwrap().u;
    assert_eq!(twice(4), twice(4));
}

#[test]
fn randomised_and_partial_svd_cope_with_low_rank_and_zero() {
    for rank in [0usize, 1, 5] {
        let s = vec![2.0; rank];
        for (m, n) in [(300, 260), (40, 60), (6, 5)] {
            let rank = rank.min(m).min(n);
            let a = with_spectrum(m, n, &s[..rank], 21);
            let d = svd_randomized(&a, 8, 4, 2, &mut Pcg64::seed_from_u64(1)).unwrap();
            assert!(d.reconstruct().distance(&a).unwrap() < 1e-12);
            assert!(orthogonality_error(&d.u) < 1e-10);
            let d = svd_partial(&a, 8).unwrap();
            assert_eq!(d.s.len(), 8.min(m).min(n));
            assert!(d.reconstruct().distance(&a).unwrap() < 1e-11, "{m} x {n} rank {rank}");
            assert!(orthogonality_error(&d.u) < 1e-10);
            assert!(orthogonality_error(&d.vt.transposed()) < 1e-10);
        }
    }
}

#[test]
fn the_partial_svd_is_exact_even_without_decay() {
    // A Gaussian matrix has no gap anywhere: the hard case.
    let a = gaussian::<f64>(400, 300, 31);
    let exact = svd(&a).unwrap();
    for k in [1, 7, 20] {
        let d = svd_partial(&a, k).unwrap();
        for (x, y) in d.s.iter().zip(&exact.s) {
            assert!((x - y).abs() < 1e-11 * exact.s[0], "k = {k}: {x} {y}");
        }
        let error = d.reconstruct().distance(&a).unwrap();
        assert!((error - tail_energy(&exact.s, k)).abs() < 1e-9);
        let single = svd_partial(&a.cast::<f32>(), k).unwrap();
        for (x, y) in single.s.iter().zip(&exact.s) {
            assert!((f64::from(*x) - y).abs() < 1e-5 * exact.s[0]);
        }
        assert!(orthogonality_error(&single.u) < 1e-5);
    }
}

#[test]
fn the_partial_svd_of_a_product_never_forms_it() {
    let (w, d) = (gaussian::<f64>(300, 40, 1), gaussian::<f64>(40, 280, 2));
    let product = matmul(&w, &d).unwrap();
    let column = |v: &[f64]| Mat::from_vec(v.len(), 1, v.to_vec()).unwrap();
    let forward = |x: &[f64], y: &mut [f64]| {
        let half = matmul(&d, &column(x)).unwrap();
        y.copy_from_slice(&matmul(&w, &half).unwrap().data);
    };
    let backward = |y: &[f64], x: &mut [f64]| {
        let half = matmul_transposed_left(&w, &column(y)).unwrap();
        x.copy_from_slice(&matmul_transposed_left(&d, &half).unwrap().data);
    };
    let found = svd_partial(&FnOperator::new(300, 280, forward, backward), 10).unwrap();
    let exact = svd_values(&product).unwrap();
    for (x, y) in found.s.iter().zip(&exact) {
        assert!((x - y).abs() < 1e-10 * exact[0]);
    }
}

#[test]
fn an_operator_that_misbehaves_is_an_error() {
    let nan = |_: &[f64], y: &mut [f64]| y.fill(f64::NAN);
    let op = FnOperator::new(300, 300, nan, nan);
    assert!(matches!(svd_partial(&op, 3), Err(LinalgError::NonFinite { .. })));
    let mut rng = Pcg64::seed_from_u64(0);
    assert!(matches!(svd_randomized(&op, 3, 2, 1, &mut rng), Err(LinalgError::NonFinite { .. })));
}

#[test]
fn products_match_the_definition_and_refuse_wrong_shapes() {
    for (m, k, n) in [(1, 1, 1), (3, 0, 2), (0, 4, 3), (17, 33, 9), (65, 130, 67)] {
        let (a, b) = (gaussian::<f64>(m, k, 1), gaussian::<f64>(k, n, 2));
        let naive = Mat::from_fn(m, n, |i, j| (0..k).map(|t| a.at(i, t) * b.at(t, j)).sum::<f64>());
        let close = |c: &Mat<f64>| assert!(c.distance(&naive).unwrap() < 1e-11);
        close(&matmul(&a, &b).unwrap());
        close(&matmul_transposed_left(&a.transposed(), &b).unwrap());
        close(&matmul_transposed_right(&a, &b.transposed()).unwrap());
        let mut c = naive.clone();
        matmul_accumulate(&mut c, -1.0, &a, &b).unwrap();
        assert!(c.frobenius_norm() < 1e-11);
    }
    let (a, b) = (Mat::<f32>::zeros(2, 3), Mat::<f32>::zeros(2, 3));
    assert!(matmul(&a, &b).is_err());
    assert!(matmul_transposed_right(&a, &Mat::zeros(4, 2)).is_err());
    assert!(matmul_accumulate(&mut Mat::zeros(1, 1), 1.0, &a, &b).is_err());
}

#[test]
fn two_threads_repeat_themselves_bit_for_bit() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let a = gaussian::<f32>(220, 180, 1);
    let run = || pool.install(|| svd(&a).unwrap());
    let (x, y) = (run(), run());
    assert_eq!((x.u, x.s, x.vt), (y.u, y.s, y.vt));
    let g = gram(&a.cast::<f64>());
    assert_eq!(pool.install(|| eigh(&g).unwrap().vectors), pool.install(|| eigh(&g).unwrap().vectors));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape_decomposes(m in 0usize..40, n in 0usize..40, k in 0usize..45, seed in any::<u64>()) {
        let a = gaussian::<f64>(m, n, seed);
        let d = svd(&a).unwrap();
        prop_assert_eq!(d.s.len(), m.min(n));
        prop_assert!(d.reconstruct().distance(&a).unwrap() < 1e-11);
        let t = svd_truncated(&a, k).unwrap();
        prop_assert_eq!(t.u.shape(), (m, k.min(m).min(n)));
        prop_assert_eq!(t.vt.shape(), (k.min(m).min(n), n));
        prop_assert!((t.reconstruct().distance(&a).unwrap() - tail_energy(&d.s, k)).abs() < 1e-10);
        let p = svd_partial(&a, k).unwrap();
        prop_assert!((p.reconstruct().distance(&a).unwrap() - tail_energy(&d.s, k)).abs() < 1e-10);
        let r = svd_randomized(&a, k, 5, 1, &mut Pcg64::seed_from_u64(seed)).unwrap();
        prop_assert!(r.reconstruct().distance(&a).unwrap() >= tail_energy(&d.s, k) - 1e-10);
        let (left, right) = t.balanced_factors();
        prop_assert!(matmul(&left, &right).unwrap().distance(&t.reconstruct()).unwrap() < 1e-11);
        let f = qr(&a).unwrap();
        prop_assert!(matmul(&f.q, &f.r).unwrap().distance(&a).unwrap() < 1e-11);
        let g = gram(&a);
        prop_assert!(g.distance(&matmul_transposed_left(&a, &a).unwrap()).unwrap() < 1e-11);
        let e = eigh(&g).unwrap();
        for (i, v) in e.values.iter().enumerate() {
            let s = d.s.get(i).copied().unwrap_or(0.0);
            prop_assert!((v - s * s).abs() < 1e-9);
        }
        let w = cholesky_robust(&g).unwrap();
        prop_assert!(w.factor().data.iter().all(|v| v.is_finite()));
        let x = lstsq(&a, &Mat::zeros(m, 2)).unwrap();
        prop_assert_eq!(x.shape(), (n, 2));
    }
}
