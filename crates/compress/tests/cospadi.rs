//! CoSpaDi against its bars: whitened SVD, its closed form, invariances.

mod weights;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use sparseland_compress::dictionary::{Pursuit, Update};
use sparseland_compress::methods::cospadi::{Cospadi, Init, shared};
use sparseland_compress::methods::svd_llm::SvdLlm;
use sparseland_compress::problem::{
    Accounting, FactorShape, LayerMethod, LayerProblem, Limit, Needs, inputs_first,
};
use sparseland_compress::statistics::InputStatistics;
use sparseland_linalg::{Mat, gram};
use sparseland_matrix::{LinearMap, Matrix, ValueType};
use weights::{anisotropic, gaussian, limit, problem, weight};

#[test]
fn eight_rounds_beat_whitened_svd_by_a_fifth() {
    for seed in 0..2 {
        let mut rng = Pcg64::seed_from_u64(seed);
        let l = anisotropic(64, &mut rng);
        for kind in 0..3 {
            let w = weight(kind, 64, 96, &mut rng);
            for (removed, bar) in [(0.2, 0.8), (0.3, 0.8), (0.5, 0.85)] {
                let ours = Cospadi { profile_iters: 8, ..Cospadi::default() };
                let error = |method: &dyn LayerMethod| {
                    let prepared = method.prepare(problem(&w, &l)).unwrap();
                    prepared.candidate(limit(&w, removed), None).unwrap().unwrap().errors.output
                };
                let (a, b) = (error(&ours), error(&SvdLlm::default()));
                assert!(a <= bar * b, "kind {kind}, {removed} removed: {a} against {b}");
            }
        }
    }
}

#[test]
fn built_layers_have_the_reported_errors_and_supports_for_every_start_and_update() {
    let mut rng = Pcg64::seed_from_u64(4);
    let l = anisotropic(24, &mut rng);
    for (d2, k) in [(40, 20), (10, 8), (90, 30)] {
        let w = weight(0, 24, d2, &mut rng);
        let shape = FactorShape { k, s: k / 2 };
        for init in [Init::Columns, Init::Svd, Init::Rocket] {
            for update in [Update::Power(8), Update::Exact, Update::Directions] {
                let method = Cospadi { iters: 3, init, update, ..Cospadi::default() };
                let learned = method.learn(&problem(&w, &l), shape).unwrap();
                let built = method.prepare(problem(&w, &l)).unwrap();
                let built = built.build(&shape.layout(24, d2, ValueType::F32)).unwrap();
                let truth = problem(&w, &l).errors(&inputs_first(&built)).unwrap();
                assert!((truth.output - learned.errors.output).abs() < 1e-5, "{init:?} {update:?}");
                assert!((truth.weight - learned.errors.weight).abs() < 1e-4 * (1.0 + truth.weight));
                assert!(
                    learned.history.windows(2).all(|h| h[1] <= h[0] * (1.0 + 1e-9)),
                    "{init:?} {update:?}"
                );
                let Matrix::Product(product) = &built else { panic!("not a product") };
                let codes = product.left().to_dense();
                assert!(codes.chunks(k).all(|c| c.iter().filter(|v| **v != 0.0).count() <= shape.s));
            }
        }
    }
}

#[test]
fn dense_coefficients_equal_whitened_svd() {
    let mut rng = Pcg64::seed_from_u64(5);
    let (w, l) = (weight(1, 40, 56, &mut rng), anisotropic(40, &mut rng));
    for removed in [0.1, 0.4, 0.8] {
        let error = |method: &dyn LayerMethod| {
            let prepared = method.prepare(problem(&w, &l)).unwrap();
            prepared.candidate(limit(&w, removed), None).unwrap().unwrap().errors.output
        };
        let ours = error(&Cospadi { rho: 1.0, ..Cospadi::default() });
        assert!((ours - error(&SvdLlm::default())).abs() < 1e-6);
    }
}

#[test]
fn permuted_outputs_and_scaled_inputs_change_nothing_else() {
    let mut rng = Pcg64::seed_from_u64(6);
    let w = weight(0, 16, 24, &mut rng);
    let x = gaussian(&mut rng, 80, 16);
    let shape = FactorShape { k: 10, s: 5 };
    // A short run: rounding that a permutation brings cannot grow far.
    let method = Cospadi { iters: 2, pursuit: Pursuit::Matching, ..Cospadi::default() };
    let build = |w: &Mat<f64>, scale: f64| {
        let inputs = Mat::from_fn(80, 16, |t, i| scale * x.at(t, i));
        let l = std::sync::Arc::new(InputStatistics::of(&inputs, Needs::Gram).unwrap());
        let prepared = method.prepare(problem(w, &l)).unwrap();
        inputs_first(&prepared.build(&shape.layout(16, 24, ValueType::F32)).unwrap())
    };
    let plain = build(&w, 1.0);
    let scaled = build(&w, 4.0);
    assert!(plain.distance(&scaled).unwrap() < 1e-5 * plain.frobenius_norm());
    let turned = Mat::from_fn(16, 24, |i, j| w.at(i, (j + 7) % 24));
    let turned = build(&turned, 1.0);
    let expected = Mat::from_fn(16, 24, |i, j| plain.at(i, (j + 7) % 24));
    assert!(turned.distance(&expected).unwrap() < 1e-5 * plain.frobenius_norm());
}

#[test]
fn a_dictionary_shared_by_like_layers_beats_one_each() {
    let mut rng = Pcg64::seed_from_u64(7);
    let l = anisotropic(32, &mut rng);
    let w = weight(0, 32, 40, &mut rng);
    let noise = gaussian(&mut rng, 32, 40);
    let other = Mat::from_fn(32, 40, |i, j| w.at(i, j) + 0.05 * noise.at(i, j));
    let method = Cospadi { profile_iters: 8, ..Cospadi::default() };
    let cost =
        |share: f64| Limit { cost: share as u64, accounting: Accounting::Bytes, values: ValueType::F32 };
    let bytes = 0.7 * 4.0 * (32 * 40) as f64;
    let error = |p: LayerProblem, bytes: f64| {
        method.prepare(p).unwrap().candidate(cost(bytes), None).unwrap().unwrap().errors.output
    };
    let own = (error(problem(&w, &l), bytes).powi(2) + error(problem(&other, &l), bytes).powi(2)) / 2.0;
    let together = shared(&[problem(&w, &l), problem(&other, &l)]).unwrap();
    // The mean Gram matrix of equal ones is theirs.
    let g = together.inputs().unwrap().gram().unwrap().clone();
    assert!(g.distance(l.gram().unwrap()).unwrap() < 1e-9 * gram(&g).frobenius_norm().sqrt());
    let both = error(together, 2.0 * bytes);
    assert!(both < own.sqrt(), "{both} against {}", own.sqrt());
}

#[test]
fn layers_that_cannot_share_are_named() {
    let mut rng = Pcg64::seed_from_u64(1);
    let (a, b) = (weight(0, 8, 4, &mut rng), weight(0, 9, 4, &mut rng));
    let problems = [problem(&a, &anisotropic(8, &mut rng)), problem(&b, &anisotropic(9, &mut rng))];
    assert!(shared(&problems).err().unwrap().to_string().contains("9 inputs"));
    assert!(shared(&[]).is_err());
}
