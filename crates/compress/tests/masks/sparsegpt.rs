//! SparseGPT against a plain-loop twin and least squares.

use proptest::prelude::*;
use rand::Rng;
use sparseland_compress::methods::mask::{Pattern, Scope, Selection};
use sparseland_compress::methods::sparsegpt::SparseGpt;
use sparseland_compress::methods::wanda::Wanda;
use sparseland_compress::problem::{Errors, LayerMethod};
use sparseland_linalg::{Mat, lstsq, solve_spd};

use crate::*;

/// `H` with damping as the paper has it (no dead inputs), and the textbook upper factor of its inverse.
fn inverse_factor(x: &Mat<f64>, dampening: f64) -> Mat<f64> {
    let d = x.cols;
    let mut h = Mat::from_fn(d, d, |i, j| {
        2.0 / x.rows as f64 * (0..x.rows).map(|t| x.at(t, i) * x.at(t, j)).sum::<f64>()
    });
    let mean = (0..d).map(|i| h.at(i, i)).sum::<f64>() / d as f64;
    (0..d).for_each(|i| h.data[i * d + i] += dampening * mean);
    let inverse = solve_spd(&h, &Mat::identity(d)).unwrap();
    // inverse = Rᵀ R, row by row.
    let mut r = Mat::<f64>::zeros(d, d);
    for i in 0..d {
        let above = |a: usize, b: usize, r: &Mat<f64>| (0..i).map(|k| r.at(k, a) * r.at(k, b)).sum::<f64>();
        let pivot = (inverse.at(i, i) - above(i, i, &r)).sqrt();
        for j in i..d {
            r.data[i * d + j] = (inverse.at(i, j) - above(i, j, &r)) / pivot;
        }
    }
    r
}

/// Column by column, every update at once, masks by full sorts.
fn twin(w: &Mat<f64>, x: &Mat<f64>, method: &SparseGpt, dropped: usize) -> Mat<f64> {
    let (rows, cols) = w.shape();
    let r = inverse_factor(x, method.dampening);
    let (mut w, mut keep) = (w.clone(), vec![true; rows * cols]);
    let score = |w: &Mat<f64>, i: usize, j: usize| (w.at(i, j) / r.at(j, j)).powi(2);
    let mut gone = 0;
    for j in 0..cols {
        match method.selection.pattern {
            Pattern::Unstructured if j % method.block == 0 => {
                let last = (j + method.block).min(cols);
                let count = dropped * last / cols - gone;
                gone += count;
                let mut all: Vec<(f64, usize, usize)> = (0..rows)
                    .flat_map(|i| (j..last).map(move |c| (i, c)))
                    .map(|(i, c)| (score(&w, i, c), i, c))
                    .collect();
                all.sort_by(|a, b| a.partial_cmp(b).unwrap());
                all.iter().take(count).for_each(|&(_, i, c)| keep[i * cols + c] = false);
            }
            Pattern::NofM { n, m } if j % m == 0 => {
                for i in 0..rows {
                    let mut group: Vec<(f64, usize)> =
                        (j..(j + m).min(cols)).map(|c| (score(&w, i, c), c)).collect();
                    group.sort_by(|a, b| a.partial_cmp(b).unwrap());
                    let count = group.len().saturating_sub(n);
                    group.iter().take(count).for_each(|&(_, c)| keep[i * cols + c] = false);
                }
            }
            _ => {}
        }
        for i in 0..rows {
            if !keep[i * cols + j] {
                let error = w.at(i, j) / r.at(j, j);
                for c in j..cols {
                    w.data[i * cols + c] -= error * r.at(j, c);
                }
                w.data[i * cols + j] = 0.0;
            }
        }
    }
    w
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn it_is_the_plain_algorithm(
        rows in 1usize..12, cols in 3usize..60, block in 1usize..30, share in 0.1f64..0.95, nm: bool, seed: u64,
    ) {
        let mut rng = rng(seed);
        let (w, x) = (gaussian(&mut rng, rows, cols), inputs(&mut rng, 3 * cols, cols));
        let pattern = if nm { Pattern::NofM { n: 2, m: 4 } } else { Pattern::Unstructured };
        let method =
            SparseGpt { selection: Selection { pattern, scope: Scope::Layer }, block, ..SparseGpt::default() };
        let dropped = (share * (rows * cols) as f64) as usize;
        let layout = if nm { n_of_m(&w, (2, 4)) } else { bitmask(&w, rows * cols - dropped) };
        let found = dense(&build(&method, &w, &statistics(&x), &layout));
        let truth = twin(&w, &x, &method, dropped);
        prop_assert_eq!(mask_of(&found), mask_of(&truth));
        let scale = truth.data.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (a, b) in found.data.iter().zip(&truth.data) {
            // Stored in f32.
            prop_assert!((a - b).abs() < 1e-5 * scale, "{a} {b}");
        }
    }
}

#[test]
fn one_lost_weight_is_made_up_for_by_least_squares() {
    let mut rng = rng(3);
    let (w, x) = (gaussian(&mut rng, 1, 12), inputs(&mut rng, 100, 12));
    let method = SparseGpt { dampening: 1e-12, ..SparseGpt::default() };
    let found = dense(&build(&method, &w, &statistics(&x), &bitmask(&w, 11)));
    let j = (0..12).find(|&c| found.at(0, c) == 0.0).unwrap();
    // min || X_later d - w_j x_j ||: what the later weights take over.
    let later = Mat::from_fn(100, 11 - j, |t, c| x.at(t, j + 1 + c));
    let lost = Mat::from_fn(100, 1, |t, _| w.at(0, j) * x.at(t, j));
    let takes = lstsq(&later, &lost).unwrap();
    for c in 0..12 {
        let expected = match c {
            c if c < j => w.at(0, c),
            c if c == j => 0.0,
            c => w.at(0, c) + takes.at(c - j - 1, 0),
        };
        assert!((found.at(0, c) - expected).abs() < 1e-5, "{c}: {} {expected}", found.at(0, c));
    }
}

#[test]
fn its_marginal_is_the_error_that_one_weight_costs() {
    let mut rng = rng(4);
    let (w, x) = (gaussian(&mut rng, 1, 10), inputs(&mut rng, 80, 10));
    let x = statistics(&x);
    let method = SparseGpt { dampening: 1e-12, ..SparseGpt::default() };
    let prepared = method.prepare(problem(&w, &x)).unwrap();
    let limit = sparseland_compress::problem::Limit {
        cost: 9,
        accounting: sparseland_compress::problem::Accounting::Params,
        values: sparseland_matrix::ValueType::F32,
    };
    let found = prepared.candidate(limit, None).unwrap().unwrap();
    let output = x.output_norm(&w.transposed()).unwrap() * found.errors.output;
    let per_token = output * output / x.tokens as f64;
    assert!(
        (found.marginal.unwrap() - per_token).abs() < 1e-6 * per_token,
        "{:?} {per_token}",
        found.marginal
    );
}

#[test]
fn nothing_removed_returns_the_weights_exactly() {
    let mut rng = rng(5);
    for cols in [40, 300] {
        let w = gaussian(&mut rng, 9, cols);
        // A dead input among them.
        let mut x = inputs(&mut rng, 2 * cols, cols);
        (0..x.rows).for_each(|t| x.row_mut(t)[7] = 0.0);
        let found = dense(&build(&SparseGpt::default(), &w, &statistics(&x), &bitmask(&w, 9 * cols)));
        assert_eq!(found, w);
    }
}

#[test]
fn dead_inputs_go_first() {
    let mut rng = rng(6);
    let w = gaussian(&mut rng, 8, 32);
    let mut x = inputs(&mut rng, 200, 32);
    (0..200).for_each(|t| [3, 17].into_iter().for_each(|c| x.row_mut(t)[c] = 0.0));
    for scope in [Scope::Row, Scope::Layer] {
        let method = SparseGpt { selection: Selection::unstructured(scope), ..SparseGpt::default() };
        let matrix = build(&method, &w, &statistics(&x), &bitmask(&w, 8 * 30));
        let found = dense(&matrix);
        for (r, c) in (0..8).flat_map(|r| (0..32).map(move |c| (r, c))) {
            assert_eq!(found.at(r, c) == 0.0, c == 3 || c == 17);
        }
        let Errors { output, .. } = problem(&w, &statistics(&x)).errors(&found.transposed()).unwrap();
        assert!(output < 1e-6, "{output}");
    }
}

#[test]
fn rows_can_keep_equal_counts() {
    let mut rng = rng(7);
    let (w, x) = (gaussian(&mut rng, 10, 200), statistics(&inputs(&mut rng, 500, 200)));
    let method =
        SparseGpt { selection: Selection::unstructured(Scope::Row), block: 48, ..SparseGpt::default() };
    let mask = mask_of(&dense(&build(&method, &w, &x, &bitmask(&w, 10 * 77))));
    assert!((0..10).all(|r| mask.count_in(r) == 77));
}

#[test]
fn it_beats_wanda_on_correlated_inputs_whatever_the_threads() {
    for seed in 8..11 {
        let mut rng = rng(seed);
        let (w, x) = (gaussian(&mut rng, 64, 160), statistics(&inputs(&mut rng, 1000, 160)));
        let layout = bitmask(&w, 64 * 64);
        let error = |method: &dyn LayerMethod| {
            let found = dense(&build(method, &w, &x, &layout));
            problem(&w, &x).errors(&found.transposed()).unwrap().output
        };
        let (ours, wanda) = (error(&SparseGpt::default()), error(&Wanda::default()));
        assert!(ours < wanda, "{ours} {wanda}");
        let on = |threads| on_threads(threads, || build(&SparseGpt::default(), &w, &x, &layout));
        assert_eq!(on(1), on(3));
        let _: f64 = rng.random();
    }
}
