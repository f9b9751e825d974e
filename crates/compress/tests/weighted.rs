//! Weighted SVD (ASVD, FWSVD) against closed forms; Fisher information against finite differences.

mod weights;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::methods::asvd::Asvd;
use sparseland_compress::methods::fwsvd::{Axis, Fisher, Fwsvd, LayerFisher, WeightedSvd, elementwise};
use sparseland_compress::methods::svd::PlainSvd;
use sparseland_compress::problem::{FactorShape, LayerMethod, inputs_first};
use sparseland_linalg::{Mat, cholesky_robust, gram, matmul, svd};
use sparseland_matrix::ValueType;
use weights::{anisotropic, gaussian, limit, problem, weight};

fn weighted_error(m: &Mat<f64>, other: &Mat<f64>, f: impl Fn(usize, usize) -> f64) -> f64 {
    let term = |i: usize, j: usize| f(i, j) * (m.at(i, j) - other.at(i, j)).powi(2);
    (0..m.rows).flat_map(|i| (0..m.cols).map(move |j| (i, j))).map(|(i, j)| term(i, j)).sum::<f64>().sqrt()
}

fn fisher(inputs: Vec<f64>, outputs: Vec<f64>) -> Fisher {
    Fisher::new(BTreeMap::from([("layer".to_owned(), LayerFisher { inputs, outputs, correlations: None })]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_weighted_error_is_the_tail_of_the_scaled_matrix(
        d1 in 1usize..20, d2 in 1usize..20, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let m = gaussian(&mut rng, d1, d2);
        let mut draw = |n: usize| (0..n).map(|_| 10f64.powf(4.0 * rng.random::<f64>() - 2.0)).collect::<Vec<_>>();
        let (rows, cols) = (draw(d1), draw(d2));
        let found = WeightedSvd::new(&m, rows.clone(), cols.clone()).unwrap();
        let whole = weighted_error(&m, &Mat::zeros(d1, d2), |i, j| (rows[i] * cols[j]).powi(2));
        let mut last = f64::INFINITY;
        for k in 0..=d1.min(d2) {
            let error = weighted_error(&m, &found.approximation(k), |i, j| (rows[i] * cols[j]).powi(2));
            prop_assert!((error / whole - found.error(k)).abs() < 1e-7, "{} {}", error / whole, found.error(k));
            prop_assert!(found.error(k) <= last);
            last = found.error(k);
        }
        let full = found.approximation(d1.min(d2));
        prop_assert!(full.distance(&m).unwrap() < 1e-9 * (1.0 + m.frobenius_norm()) * 1e4);
    }

    #[test]
    fn correlated_weights_reach_the_tail_and_diagonal_ones_are_a_case(
        d1 in 2usize..14, d2 in 2usize..14, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let m = gaussian(&mut rng, d1, d2);
        let (x, y) = (gaussian(&mut rng, 3 * d1, d1), gaussian(&mut rng, 3 * d2, d2));
        let (a, b) = (gram(&x), gram(&y));
        let found =
            WeightedSvd::correlated(&m, &cholesky_robust(&a).unwrap(), &cholesky_robust(&b).unwrap()).unwrap();
        // tr(Eᵀ A E B) = ||X E Yᵀ||², and no matrix of rank k does better than the tail of X M Yᵀ.
        let loss = |e: &Mat<f64>| {
            matmul(&matmul(&x, e).unwrap(), &y.transposed()).unwrap().frobenius_norm()
        };
        let values = svd(&matmul(&matmul(&x, &m).unwrap(), &y.transposed()).unwrap()).unwrap().s;
        for k in 0..d1.min(d2) {
            let approximation = found.approximation(k);
            let e = Mat::from_fn(d1, d2, |i, j| m.at(i, j) - approximation.at(i, j));
            let optimum = values[k..].iter().map(|s| s * s).sum::<f64>().sqrt();
            prop_assert!((loss(&e) - optimum).abs() < 1e-6 * loss(&m), "{k}: {} {optimum}", loss(&e));
        }
        let roots: Vec<f64> = (0..d1).map(|i| a.at(i, i).sqrt()).collect();
        let diagonal = Mat::from_diagonal(&roots.iter().map(|r| r * r).collect::<Vec<_>>());
        let one = cholesky_robust(&Mat::identity(d2)).unwrap();
        let case = WeightedSvd::correlated(&m, &cholesky_robust(&diagonal).unwrap(), &one).unwrap();
        let plain = WeightedSvd::new(&m, roots, vec![1.0; d2]).unwrap();
        let (p, q) = (case.approximation(1), plain.approximation(1));
        prop_assert!(p.distance(&q).unwrap() < 1e-5 * m.frobenius_norm());
    }

    #[test]
    fn uniform_weights_give_plain_svd_and_their_scale_does_not_matter(
        d1 in 2usize..20, d2 in 2usize..20, scale in 1e-6f64..1e6, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let (w, l) = (gaussian(&mut rng, d1, d2), anisotropic(d1, &mut rng));
        let k = 1 + d1.min(d2) / 3;
        let layout = FactorShape { k, s: k }.layout(d1, d2, ValueType::F32);
        let build = |method: &dyn LayerMethod| {
            inputs_first(&method.prepare(problem(&w, &l)).unwrap().build(&layout).unwrap())
        };
        let plain = build(&PlainSvd);
        let spread: Vec<f64> = (0..d1).map(|i| 1.0 + i as f64).collect();
        for axis in [Axis::Input, Axis::Output, Axis::Both] {
            let of = |inputs: Vec<f64>| build(&Fwsvd { fisher: fisher(inputs, vec![scale; d2]), axis });
            prop_assert!(plain.distance(&of(vec![scale; d1])).unwrap() < 1e-5 * (1.0 + plain.frobenius_norm()));
            let scaled = of(spread.iter().map(|v| scale * v).collect());
            prop_assert!(scaled.distance(&of(spread.clone())).unwrap() < 1e-5 * (1.0 + plain.frobenius_norm()));
        }
    }
}

#[test]
fn weighting_wins_where_it_counts_and_loses_in_plain_error() {
    let mut rng = Pcg64::seed_from_u64(1);
    let w = gaussian(&mut rng, 64, 64);
    let f: Vec<f64> = (0..64).map(|_| 10f64.powf(4.0 * rng.random::<f64>())).collect();
    let ours = WeightedSvd::new(&w, f.iter().map(|f| f.sqrt()).collect(), vec![1.0; 64]).unwrap();
    let plain = WeightedSvd::new(&w, vec![1.0; 64], vec![1.0; 64]).unwrap();
    for k in 1..64 {
        let (a, b) = (ours.approximation(k), plain.approximation(k));
        assert!(weighted_error(&w, &a, |i, _| f[i]) < weighted_error(&w, &b, |i, _| f[i]), "rank {k}");
        assert!(weighted_error(&w, &b, |_, _| 1.0) < weighted_error(&w, &a, |_, _| 1.0), "rank {k}");
    }
}

#[test]
fn entry_weights_of_rank_one_are_solved_by_scaling_and_others_better_by_iterating() {
    let mut rng = Pcg64::seed_from_u64(2);
    let m = gaussian(&mut rng, 12, 15);
    let mut draw = |n: usize| (0..n).map(|_| 0.1 + rng.random::<f64>()).collect::<Vec<f64>>();
    let (r, c) = (draw(12), draw(15));
    // Rank one: the two-sided closed form is optimal, iterating must arrive there.
    let rank_one = Mat::from_fn(12, 15, |i, j| (r[i] * c[j]).powi(2));
    let exact = WeightedSvd::new(&m, r.clone(), c.clone()).unwrap().approximation(3);
    let found = elementwise(&m, &rank_one, 3, 400).unwrap();
    let of = |x: &Mat<f64>, f: &Mat<f64>| weighted_error(&m, x, |i, j| f.at(i, j));
    assert!(of(&found, &rank_one) >= of(&exact, &rank_one) - 1e-9);
    assert!(of(&found, &rank_one) < 1.001 * of(&exact, &rank_one));
    // Any weights: never worse than the start, which shares a weight along rows.
    let mut rng = Pcg64::seed_from_u64(3);
    let any = Mat::from_fn(12, 15, |_, _| 10f64.powf(3.0 * rng.random::<f64>()));
    let (start, better) = (elementwise(&m, &any, 3, 0).unwrap(), elementwise(&m, &any, 3, 20).unwrap());
    assert!(of(&better, &any) < 0.9 * of(&start, &any));
    // A row without weight stays finite.
    let mut silent = any;
    silent.row_mut(4).fill(0.0);
    assert!(elementwise(&m, &silent, 3, 5).unwrap().data.iter().all(|v| v.is_finite()));
    assert!(elementwise(&m, &Mat::zeros(3, 3), 3, 5).is_err());
}

#[test]
fn layers_without_information_fall_back_to_plain_svd_and_bad_information_is_named() {
    let mut rng = Pcg64::seed_from_u64(4);
    let (w, l) = (gaussian(&mut rng, 8, 6), anisotropic(8, &mut rng));
    let prepare = |f: Fisher| {
        let method = Fwsvd { fisher: f, axis: Axis::Input };
        let prepared = method.prepare(problem(&w, &l)).map_err(|e| e.to_string())?;
        Ok::<_, String>(prepared.candidate(limit(&w, 0.5), None).unwrap().unwrap().errors)
    };
    let plain = PlainSvd.prepare(problem(&w, &l)).unwrap().candidate(limit(&w, 0.5), None).unwrap().unwrap();
    let silent = prepare(fisher(vec![0.0; 8], vec![0.0; 6])).unwrap();
    assert!((silent.weight - plain.errors.weight).abs() < 1e-6);
    // One silent input: finite factors.
    let mut inputs = vec![1.0; 8];
    inputs[3] = 0.0;
    assert!(prepare(fisher(inputs, vec![1.0; 6])).unwrap().output.is_finite());
    assert!(prepare(fisher(vec![1.0; 7], vec![1.0; 6])).unwrap_err().contains("7 inputs"));
    assert!(prepare(fisher(vec![f64::NAN; 8], vec![1.0; 6])).unwrap_err().contains("NaN at input 0"));
    assert!(prepare(Fisher::default()).unwrap_err().contains("no Fisher information for layer"));
}

#[test]
fn asvd_without_power_is_plain_svd_and_with_it_favours_large_inputs() {
    let mut rng = Pcg64::seed_from_u64(5);
    let w = weight(0, 30, 40, &mut rng);
    // Uncorrelated inputs of very different sizes: the case that ASVD is made for.
    let x = gaussian(&mut rng, 400, 30);
    let x = Mat::from_fn(400, 30, |t, i| x.at(t, i) * 10f64.powf(i as f64 / 10.0));
    let l = std::sync::Arc::new(
        sparseland_compress::statistics::InputStatistics::of(&x, sparseland_compress::problem::Needs::Gram)
            .unwrap(),
    );
    let errors = |method: &dyn LayerMethod| {
        method.prepare(problem(&w, &l)).unwrap().candidate(limit(&w, 0.4), None).unwrap().unwrap().errors
    };
    let (plain, off, half, full) = (
        errors(&PlainSvd),
        errors(&Asvd { alpha: 0.0 }),
        errors(&Asvd::default()),
        errors(&Asvd { alpha: 1.0 }),
    );
    assert!((plain.output - off.output).abs() < 1e-6 && (plain.weight - off.weight).abs() < 1e-6);
    assert!(full.output < half.output && half.output < plain.output, "{full:?} {half:?} {plain:?}");
    let s = svd(&w).unwrap().s;
    assert!(s.len() == 30 && plain.weight < half.weight);
}
