//! Whole steps: determinism, memory, optimisers.

use rand::SeedableRng;
use rand_pcg::Pcg64;
use sparseland_matrix::Precision;
use sparseland_tape::optimiser::{AdamW, Muon, Optimiser, Sgd, StateBits, clip_gradients};
use sparseland_tape::{Activation, AttentionShape, ParamId, Parameters, Tape};

struct Small {
    parameters: Parameters<f32>,
    ids: Vec<ParamId>,
}

const SHAPE: AttentionShape =
    AttentionShape { length: 40, heads: 4, key_heads: 2, width: 8, rope_theta: Some(1e4) };

fn small() -> Small {
    let mut rng = Pcg64::seed_from_u64(1);
    let mut parameters = Parameters::new();
    let mut ids = vec![parameters.add_normal("embedding", &[50, 32], 0.5, &mut rng)];
    for (name, rows, cols) in
        [("q", 32, 32), ("k", 16, 32), ("v", 16, 32), ("o", 32, 32), ("up", 300, 32), ("down", 32, 300)]
    {
        ids.push(parameters.add_normal(name, &[rows, cols], 0.2, &mut rng));
    }
    ids.push(parameters.add_constant("norm", &[32], 1.0));
    Small { parameters, ids }
}

fn loss(tape: &mut Tape<f32>, s: &Small, step: u32) -> sparseland_tape::Var {
    let (p, ids) = (&s.parameters, &s.ids);
    let tokens: Vec<u32> = (0..4 * 40).map(|i| (i * 7 + step) % 50).collect();
    let targets: Vec<u32> = (0..4 * 40).map(|i| ((i + 1) * 7 + step) % 50).collect();
    let x = tape.embedding(p, ids[0], &tokens);
    let n = tape.rms_norm(p, x, ids[7], 1e-5);
    let [q, k, v] = [1, 2, 3].map(|i| tape.linear(p, n, ids[i], None));
    let a = tape.attention(p, q, k, v, SHAPE);
    let a = tape.linear(p, a, ids[4], None);
    let x = tape.add(p, x, a);
    let h = tape.linear(p, x, ids[5], None);
    let h = tape.activation(p, h, Activation::Silu);
    let h = tape.dropout(p, h, 0.1, u64::from(step));
    let h = tape.linear(p, h, ids[6], None);
    let x = tape.add(p, x, h);
    tape.linear_cross_entropy(p, x, ids[0], &targets)
}

fn train(threads: usize, steps: u32, optimiser: &mut dyn Optimiser<f32>) -> (Vec<f32>, Small, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut s = small();
    let mut tape = Tape::new();
    let (mut losses, mut allocated) = (Vec::new(), 0);
    for step in 0..steps {
        let before = tape.allocated();
        pool.install(|| {
            s.parameters.zero_gradients();
            let out = loss(&mut tape, &s, step);
            losses.push(tape.value(out)[0]);
            tape.backward(out, &mut s.parameters);
            tape.clear();
            clip_gradients(&mut s.parameters, 1.0);
            optimiser.step(&mut s.parameters, 3e-3);
        });
        if step > 0 {
            allocated += tape.allocated() - before;
        }
    }
    (losses, s, allocated)
}

fn values(s: &Small) -> Vec<Vec<f32>> {
    s.parameters.iter().map(|p| p.value.to_vec()).collect()
}

#[test]
fn same_bytes_on_any_number_of_threads_and_no_allocation_after_the_first_step() {
    let (losses, one, allocated) = train(1, 30, &mut AdamW::new(0.1, StateBits::Full));
    assert_eq!(allocated, 0);
    assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
    for threads in [2, 3] {
        let (_, other, _) = train(threads, 30, &mut AdamW::new(0.1, StateBits::Full));
        assert_eq!(values(&one), values(&other), "{threads} threads");
    }
}

#[test]
fn every_optimiser_learns_and_resumes_to_the_bit() {
    type Make = fn() -> Box<dyn Optimiser<f32>>;
    let make: [Make; 4] = [
        || Box::new(AdamW::new(0.1, StateBits::Full)),
        || Box::new(AdamW::new(0.1, StateBits::Eight)),
        || Box::new(Sgd::new(0.9, true, 1e-4)),
        || Box::new(Muon::new(|p| p.name != "embedding", 0.0, 1.0)),
    ];
    for (which, make) in make.iter().enumerate() {
        let mut whole = make();
        let (losses, s, _) = train(2, 12, whole.as_mut());
        assert!(losses[11] < losses[0], "optimiser {which}: {losses:?}");
        // A saved state taken back makes the same next step.
        let mut copy = make();
        copy.restore(&s.parameters, &whole.state()).unwrap();
        let (mut a, mut b) = (s.parameters.clone(), s.parameters.clone());
        whole.step(&mut a, 1e-3);
        copy.step(&mut b, 1e-3);
        for (a, b) in a.iter().zip(b.iter()) {
            assert_eq!(a.value, b.value, "optimiser {which}");
        }
        assert_eq!(whole.bytes(), copy.bytes());
        let error = make().restore(&s.parameters, &[]).unwrap_err();
        assert!(!error.name.is_empty());
    }
}

#[test]
fn eight_bit_state_takes_a_quarter_and_follows_the_full_one() {
    let (mut full, mut eight) = (AdamW::new(0.0, StateBits::Full), AdamW::new(0.0, StateBits::Eight));
    let (a, _, _) = train(1, 40, &mut full);
    let (b, _, _) = train(1, 40, &mut eight);
    assert!(eight.bytes() as f64 <= 0.27 * full.bytes() as f64, "{} {}", eight.bytes(), full.bytes());
    // Within a hundredth of the way down.
    assert!((a[39] - b[39]).abs() < 0.01 * (a[0] - a[39]), "{} {} {}", a[0], a[39], b[39]);
}

#[test]
fn adamw_takes_the_steps_of_its_formula() {
    let mut p = Parameters::<f64>::new();
    let w = p.add("w", &[1, 1], &[2.0]);
    let mut adam = AdamW::new(0.5, StateBits::Full);
    let (mut m, mut v, mut x) = (0.0, 0.0, 2.0f64);
    for t in 1..=5 {
        let g = 0.3 * f64::from(t) - 0.7;
        p.get_mut(w).gradient[0] = g;
        adam.step(&mut p, 0.1);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        x -= 0.1 * (0.5 * x + m / (1.0 - 0.9f64.powi(t)) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8));
        assert!((p.value(w)[0] - x).abs() < 1e-12);
    }
}

#[test]
fn clipping_scales_to_the_limit_and_bad_numbers_are_named() {
    let mut p = Parameters::<f32>::new();
    let (a, b) = (p.add("a", &[2], &[1.0, 2.0]), p.add("b", &[1], &[3.0]));
    p.get_mut(a).gradient.copy_from_slice(&[3.0, 0.0]);
    p.get_mut(b).gradient.copy_from_slice(&[4.0]);
    assert_eq!(clip_gradients(&mut p, 10.0), 5.0);
    assert_eq!(p.gradient(b), [4.0]);
    assert_eq!(clip_gradients(&mut p, 1.0), 5.0);
    assert!((p.gradient_norm() - 1.0).abs() < 1e-6);
    assert_eq!(p.first_not_finite(), None);
    p.get_mut(b).gradient[0] = f32::NAN;
    assert_eq!(p.first_not_finite(), Some(("b", 0, true)));
}

#[test]
fn rounded_products_round_their_factors_and_nothing_else() {
    let run = |precision: Precision, x: &[f32], w: &[f32]| {
        let mut p = Parameters::<f32>::new();
        let (rows, cols, inner) = (3, 5, 40);
        let weight = p.add("w", &[cols, inner], &w[..cols * inner]);
        let mut tape = Tape::new();
        tape.set_precision(precision);
        let input = tape.input(rows, inner, &x[..rows * inner]);
        let y = tape.linear(&p, input, weight, None);
        let made = tape.value(y).to_vec();
        let sum = tape.sum(&p, y);
        tape.backward(sum, &mut p);
        let masters = p.value(weight).to_vec();
        (made, p.gradient(weight).to_vec(), masters)
    };
    // Small integers: bf16 holds the factors, f32 the sums.
    let integers = |by: usize| (0..200).map(|i| ((i * by) % 17) as f32 - 8.0).collect::<Vec<_>>();
    let (x, w) = (integers(5), integers(7));
    assert_eq!(run(Precision::Full, &x, &w), run(Precision::Bf16, &x, &w));
    // Thirds become 171 / 512, sums of their products are exact, and the weights stay thirds.
    let thirds = vec![1.0f32 / 3.0; 200];
    let (made, gradient, masters) = run(Precision::Bf16, &thirds, &thirds);
    let rounded = 171.0 / 512.0;
    assert!(made.iter().all(|&y| y == 40.0 * rounded * rounded), "{}", made[0]);
    assert!(gradient.iter().all(|&g| g == 3.0 * rounded), "{}", gradient[0]);
    assert_eq!(masters, thirds[..masters.len()]);
}
