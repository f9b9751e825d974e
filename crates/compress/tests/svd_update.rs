//! SVD-LLM's second step and the variant that follows the original network, against normal equations and the optimum
//! found another way; through the pipeline on a tiny model.

mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use sparseland_compress::allocation::{Allocation, Budget, ErrorSpace, Objective};
use sparseland_compress::calibrate::Calibration;
use sparseland_compress::methods::svd_llm::{SvdLlm, Update, best_left};
use sparseland_compress::pipeline::{Job, LayerRecord};
use sparseland_compress::problem::{Accounting, FactorShape, LayerMethod, LayerProblem, Needs, inputs_first};
use sparseland_compress::statistics::{InputStatistics, OriginalInputs};
use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_linalg::{Mat, lstsq, matmul, matmul_transposed_left, svd_values};
use sparseland_matrix::ValueType;
use sparseland_nn::{Block, LinearSite, LoadOptions, ModelConfig};
use weights::{gaussian, weight};

/// Original inputs and the inputs in use: the same mixture, disturbed.
fn pair(rng: &mut Pcg64, d: usize, disturbance: f64) -> (Mat<f64>, Mat<f64>) {
    let mix = gaussian(rng, d, d);
    let spread = Mat::from_fn(d, d, |i, j| mix.at(i, j) / (1.0 + i as f64));
    let original = matmul(&gaussian(rng, 6 * d, d), &spread).unwrap();
    let noise = gaussian(rng, 6 * d, d);
    let used = Mat::from_fn(6 * d, d, |i, j| original.at(i, j) + disturbance * noise.at(i, j));
    // Statistics are taken from f32 rows: the same numbers everywhere.
    let round = |m: Mat<f64>| Mat::from_fn(m.rows, m.cols, |i, j| f64::from(m.at(i, j) as f32));
    (round(original), round(used))
}

fn of(inputs: &Mat<f64>) -> Arc<InputStatistics> {
    Arc::new(InputStatistics::of(inputs, Needs::Gram).unwrap())
}

/// The approximation `d1 x d2` of rank `k`; `with` the original inputs beside or not.
fn build(update: Update, w: &Mat<f64>, (original, used): (&Mat<f64>, &Mat<f64>), k: usize) -> Mat<f64> {
    let cross = matmul_transposed_left(original, used).unwrap();
    let problem = LayerProblem {
        name: "layer".into(),
        weight: w.clone(),
        inputs: Some(of(used)),
        original: Some(Arc::new(OriginalInputs { statistics: of(original), cross })),
        values: ValueType::F32,
    };
    let layout = FactorShape { k, s: k }.layout(w.rows, w.cols, ValueType::F32);
    inputs_first(&SvdLlm { update }.prepare(problem).unwrap().build(&layout).unwrap())
}

/// `||X W - X' M||_F`.
fn distance((x, w): (&Mat<f64>, &Mat<f64>), (other, m): (&Mat<f64>, &Mat<f64>)) -> f64 {
    matmul(x, w).unwrap().distance(&matmul(other, m).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_left_factor_solves_the_normal_equations(d1 in 3usize..16, d2 in 1usize..16, seed: u64) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let (w, k) = (weight(0, d1, d2, &mut rng), 1 + d1 / 3);
        let (_, used) = pair(&mut rng, d1, 0.2);
        let right = gaussian(&mut rng, k, d1);
        let left = best_left(&w, &of(&used), &right).unwrap();
        // The residual X (W - (left right)ᵀ) is orthogonal to the columns of X rightᵀ.
        let approximation = matmul(&left, &right).unwrap().transposed();
        let residual = Mat::from_fn(d1, d2, |i, j| w.at(i, j) - approximation.at(i, j));
        let seen = matmul(&used, &right.transposed()).unwrap();
        let outputs = matmul(&used, &residual).unwrap();
        let inner = matmul_transposed_left(&seen, &outputs).unwrap().frobenius_norm();
        let scale = seen.frobenius_norm() * matmul(&used, &w).unwrap().frobenius_norm();
        prop_assert!(inner < 1e-6 * scale, "{inner} of {scale}");
    }

    #[test]
    fn every_update_is_best_at_what_it_minimises(
        kind in 0usize..3, d1 in 4usize..16, d2 in 4usize..16, disturbance in 0.02f64..0.5, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let w = weight(kind, d1, d2, &mut rng);
        let (original, used) = pair(&mut rng, d1, disturbance);
        let k = 1 + d1.min(d2) / 3;
        let both = (&original, &used);
        let [none, left, towards] =
            [Update::None, Update::Left, Update::Original].map(|update| build(update, &w, both, k));
        // Without the second step, the right factor of the original inputs keeps its own left factor.
        let unchanged = build(Update::None, &w, (&original, &original), k);
        let slack = 1.0 + 1e-5;
        // On the inputs in use: both factors free, then the left one, then none.
        let own = |m: &Mat<f64>| distance((&used, &w), (&used, m));
        prop_assert!(own(&none) <= slack * own(&left), "{} {}", own(&none), own(&left));
        prop_assert!(own(&left) <= slack * own(&unchanged), "{} {}", own(&left), own(&unchanged));
        // Against the original outputs: the optimum is what the projection leaves, and the tail of what it reaches.
        let target = matmul(&original, &w).unwrap();
        let reached = matmul(&used, &lstsq(&used, &target).unwrap()).unwrap();
        let tail: f64 = svd_values(&reached).unwrap()[k..].iter().map(|s| s * s).sum();
        let optimum = (target.distance(&reached).unwrap().powi(2) + tail).sqrt();
        let theirs = |m: &Mat<f64>| distance((&original, &w), (&used, m));
        prop_assert!((theirs(&towards) - optimum).abs() < 1e-4 * target.frobenius_norm());
        prop_assert!(theirs(&towards) <= slack * theirs(&none).min(theirs(&left)));
    }

    #[test]
    fn equal_inputs_leave_nothing_to_update(d1 in 3usize..14, d2 in 3usize..14, seed: u64) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let w = weight(1, d1, d2, &mut rng);
        let (original, _) = pair(&mut rng, d1, 0.0);
        let both = (&original, &original);
        let outputs = matmul(&original, &w).unwrap().frobenius_norm();
        let none = build(Update::None, &w, both, 2);
        for update in [Update::Left, Update::Original] {
            let apart = distance((&original, &none), (&original, &build(update, &w, both, 2)));
            prop_assert!(apart < 1e-5 * outputs, "{update:?}: {apart} of {outputs}");
        }
    }
}

#[test]
fn only_blocks_behind_a_compressed_one_are_updated() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama-bias");
    let checkpoint = Checkpoint::open(dir).unwrap();
    let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let budget = Budget {
        remove: 0.5,
        accounting: Accounting::Params,
        allocation: Allocation::Uniform,
        objective: Objective::SquaredParams,
        error_space: ErrorSpace::Output,
    };
    let sequences = (0..24).map(|s| (0..24).map(|i| (i * (7 + s) + 3 * s) % 64).collect()).collect();
    let calibration = Calibration { sequences };
    let run = |update: Update, threads: usize| -> (Vec<LayerRecord>, Vec<Block>) {
        let context = Context::new(0, threads).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let job = Job {
            checkpoint: &checkpoint,
            config: &config,
            calibration: calibration.clone(),
            method: &SvdLlm { update },
            parameters: String::new(),
            values: Some(ValueType::F32),
            ignored: Default::default(),
            budget,
        };
        let run = job.start(&out, None).unwrap();
        let plan = run.plan(run.profile(&context).unwrap(), budget, &context).unwrap();
        let built = run.build(&plan, "plan", &out, &context).unwrap();
        run.finish().unwrap();
        let written = Checkpoint::open(&out).unwrap();
        let load = |i| Block::load(&written, &config, i, &LoadOptions::default()).unwrap();
        (built.layers, (0..config.num_hidden_layers).map(load).collect())
    };
    let weights = |blocks: &[Block], i: usize, site| inputs_first(&blocks[i].linear(site).weight);
    let (records, plain) = run(Update::None, 2);
    for update in [Update::Left, Update::Original] {
        let (updated_records, updated) = run(update, 1);
        for (i, site) in LinearSite::ALL.into_iter().enumerate() {
            let (a, b) = (weights(&plain, 0, site), weights(&updated, 0, site));
            assert!(a.distance(&b).unwrap() < 1e-3 * a.frobenius_norm(), "{update:?} {site:?}");
            let (a, b) = (weights(&plain, 1, site), weights(&updated, 1, site));
            assert!(a.distance(&b).unwrap() > 1e-2 * a.frobenius_norm(), "{update:?} {site:?}");
            // Recorded is the error on the inputs in use, where whitening by them is best.
            let (none, other) = (
                &records[LinearSite::ALL.len() + i].errors,
                &updated_records[LinearSite::ALL.len() + i].errors,
            );
            assert!(none.output <= other.output * (1.0 + 1e-3), "{} {}", none.output, other.output);
        }
    }
}
