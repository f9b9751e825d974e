//! DSnoT: the plain loop row by row, and what no refinement may break.

use proptest::prelude::*;
use rand::Rng;
use sparseland_compress::CompressError;
use sparseland_compress::methods::dsnot::{
    Channels, Config, Dsnot, Row, Skip, Start, Unit, means, refine_mask,
};
use sparseland_compress::methods::magnitude::Magnitude;
use sparseland_compress::methods::mask::{Keep, Mask, Pattern, Scope, Selection};
use sparseland_compress::methods::sparsegpt::SparseGpt;
use sparseland_compress::methods::wanda::{Wanda, norms, scores};
use sparseland_linalg::Mat;

use crate::*;

/// One row by scanning all weights in every cycle.
fn twin(
    w: &[f64],
    keep: &mut [bool],
    pattern: Pattern,
    mean: &[f64],
    variance: &[f64],
    norm: &[f64],
    config: &Config,
) -> Row {
    let start = keep.to_vec();
    let mean_variance = variance.iter().sum::<f64>() / variance.len() as f64;
    let c = |j: usize| w[j] * mean[j];
    let rank = |j: usize| c(j).abs() / variance[j].max(1e-12 * mean_variance).powf(config.var_power);
    let score = |j: usize| w[j].abs() * norm[j];
    let before: f64 = (0..w.len()).filter(|&j| !start[j]).map(c).sum();
    let (mut error, mut grown, mut gone, mut states) =
        (before, vec![], vec![], vec![(before, keep.to_vec())]);
    let mut passed = vec![];
    while error.abs() > config.threshold && states.len() <= config.cycles(w.len()) {
        let up = error > 0.0;
        let mut g = None;
        for j in 0..w.len() {
            let fits =
                !start[j] && !grown.contains(&j) && !passed.contains(&j) && c(j) != 0.0 && (c(j) > 0.0) == up;
            if fits && g.is_none_or(|g| rank(j) > rank(g)) {
                g = Some(j);
            }
        }
        let Some(g) = g else { break };
        let mut p = None;
        for j in 0..w.len() {
            let fits = start[j]
                && !gone.contains(&j)
                && match pattern {
                    Pattern::Unstructured => c(j) != 0.0 && (c(j) < 0.0) == up,
                    Pattern::NofM { m, .. } => j / m == g / m,
                };
            if fits && p.is_none_or(|p| score(j) < score(p)) {
                p = Some(j);
            }
        }
        let Some(p) = p else {
            if pattern == Pattern::Unstructured {
                break;
            }
            passed.push(g);
            continue;
        };
        error += c(p) - c(g);
        grown.push(g);
        gone.push(p);
        keep[g] = true;
        keep[p] = false;
        states.push((error, keep.to_vec()));
        if (config.sign_stop || pattern != Pattern::Unstructured) && (error > 0.0) != up {
            break;
        }
    }
    let mut best = 0;
    for (i, state) in states.iter().enumerate() {
        if state.0.abs() < states[best].0.abs() {
            best = i;
        }
    }
    keep.copy_from_slice(&states[best].1);
    Row { before, after: states[best].0, swaps: best }
}

struct Case {
    w: Mat<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    norm: Vec<f64>,
    mask: Mask,
}

fn case(rows: usize, cols: usize, keep: Keep, rng: &mut Pcg64) -> Case {
    let mut w = gaussian(rng, rows, cols);
    // Zero weights, dead means, constant inputs.
    for _ in 0..rows * cols / 20 {
        w.data[rng.random_range(0..rows * cols)] = 0.0;
    }
    let mut draw = |zero: f64, scale: f64, shift: f64| -> Vec<f64> {
        let mut one = || if rng.random::<f64>() < zero { 0.0 } else { scale * rng.random::<f64>() + shift };
        (0..cols).map(|_| one()).collect()
    };
    let (mean, variance, norm) = (draw(0.1, 2.0, -0.7), draw(0.1, 3.0, 0.1), draw(0.0, 2.0, 0.2));
    let mask = Mask::select(&scores(&w, &norm), keep);
    Case { w, mean, variance, norm, mask }
}

impl Case {
    fn channels(&self) -> Channels<'_> {
        Channels { mean: &self.mean, variance: &self.variance, norm: &self.norm, gram: None }
    }
}

/// The expected output of every row that a mask loses.
fn row_errors(w: &Mat<f64>, mask: &Mask, mean: &[f64]) -> Vec<f64> {
    let lost = |r: usize| (0..w.cols).filter(move |&c| !mask.keeps(r, c)).map(move |c| w.at(r, c) * mean[c]);
    (0..w.rows).map(|r| lost(r).sum()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn rows_are_those_of_the_plain_loop_and_keep_every_promise(
        rows in 1usize..8, cols in 2usize..140, share in 0.05f64..0.95, nm in 0usize..3, cycle_share in 0.0f64..0.6,
        var_power in 0.0f64..2.0, threshold in 0.0f64..0.5, sign_stop: bool, seed: u64,
    ) {
        let mut rng = rng(seed);
        let (pattern, keep) = match nm {
            0 => (Pattern::Unstructured, Keep::PerRow(1 + (share * cols as f64) as usize)),
            1 => (Pattern::NofM { n: 2, m: 4 }, Keep::NofM { n: 2, m: 4 }),
            _ => (Pattern::NofM { n: 1, m: 8 }, Keep::NofM { n: 1, m: 8 }),
        };
        let case = case(rows, cols, keep, &mut rng);
        let config =
            Config { cycle_share, var_power, threshold, sign_stop, ..Config::default() };
        let found = refine_mask(&case.w, &case.w, &case.mask, pattern, &case.channels(), &config).unwrap();
        for r in 0..rows {
            let mut keep: Vec<bool> = (0..cols).map(|c| case.mask.keeps(r, c)).collect();
            let row = twin(case.w.row(r), &mut keep, pattern, &case.mean, &case.variance, &case.norm, &config);
            prop_assert_eq!(found.rows[r].swaps, row.swaps);
            prop_assert!((found.rows[r].after - row.after).abs() < 1e-9);
            for c in 0..cols {
                prop_assert_eq!(found.mask.keeps(r, c), keep[c], "row {} column {}", r, c);
            }
            prop_assert_eq!(found.mask.count_in(r), case.mask.count_in(r));
            prop_assert!(row.swaps <= config.cycles(cols));
        }
        let errors = [&case.mask, &found.mask].map(|mask| row_errors(&case.w, mask, &case.mean));
        for r in 0..rows {
            prop_assert!((errors[0][r] - found.rows[r].before).abs() < 1e-9);
            prop_assert!((errors[1][r] - found.rows[r].after).abs() < 1e-9);
            prop_assert!(found.rows[r].after.abs() <= found.rows[r].before.abs());
        }
        if let Pattern::NofM { n, m } = pattern {
            for (r, first) in (0..rows).flat_map(|r| (0..cols).step_by(m).map(move |f| (r, f))) {
                let kept = (first..(first + m).min(cols)).filter(|&c| found.mask.keeps(r, c)).count();
                prop_assert!(kept <= n);
            }
        }
        let on = |threads| {
            on_threads(threads, || refine_mask(&case.w, &case.w, &case.mask, pattern, &case.channels(), &config))
        };
        prop_assert_eq!(&on(1).unwrap(), &found);
        prop_assert_eq!(&on(3).unwrap(), &found);
        let none = Config { max_cycles: 0, ..config };
        let same = refine_mask(&case.w, &case.w, &case.mask, pattern, &case.channels(), &none).unwrap();
        prop_assert_eq!(same.mask, case.mask);
    }

    #[test]
    fn the_guard_holds_every_rows_output_error(
        rows in 1usize..6, cols in 8usize..60, allowed in 0.0f64..0.2, nm: bool, seed: u64,
    ) {
        let mut rng = rng(seed);
        let (w, x) = (gaussian(&mut rng, rows, cols), inputs(&mut rng, 150, cols));
        let statistics = statistics(&x);
        let norm = norms(&statistics).unwrap();
        let (pattern, keep) = if nm {
            (Pattern::NofM { n: 2, m: 4 }, Keep::NofM { n: 2, m: 4 })
        } else {
            (Pattern::Unstructured, Keep::PerRow(cols / 2))
        };
        let mask = Mask::select(&scores(&w, &norm), keep);
        let config = Config { cycle_share: 1.0, guard: Some(allowed), threshold: 0.0, ..Config::default() };
        let (mean, variance) = (means(&statistics, Unit::PerToken), statistics.variance());
        let channels = Channels {
            mean: &mean, variance: &variance, norm: &norm, gram: Some(statistics.gram().unwrap()),
        };
        let found = refine_mask(&w, &w, &mask, pattern, &channels, &config).unwrap();
        // The output error of every row, by running the inputs through what is lost.
        let squared = |mask: &Mask, r: usize| -> f64 {
            let lost: Vec<f64> = (0..cols).map(|c| if mask.keeps(r, c) { 0.0 } else { w.at(r, c) }).collect();
            (0..x.rows).map(|t| x.row(t).iter().zip(&lost).map(|(x, w)| x * w).sum::<f64>().powi(2)).sum()
        };
        for r in 0..rows {
            let (before, after) = (squared(&mask, r), squared(&found.mask, r));
            // Inputs are collected in f32.
            prop_assert!(after <= before * (1.0 + allowed + 1e-4), "{before} {after}");
            prop_assert!(found.rows[r].after.abs() <= found.rows[r].before.abs());
        }
    }
}

#[test]
fn nothing_dropped_changes_nothing_and_nothing_kept_is_refused() {
    let mut rng = rng(20);
    let mut case = case(3, 20, Keep::PerRow(20), &mut rng);
    let refine = |case: &Case| {
        let config = Config::default();
        refine_mask(&case.w, &case.w, &case.mask, Pattern::Unstructured, &case.channels(), &config)
    };
    assert_eq!(refine(&case).unwrap().mask, case.mask);
    case.mask = Mask::from_fn(3, 20, |_, _| false);
    assert!(matches!(refine(&case), Err(CompressError::Mask(_))));
    case.mask = Mask::from_fn(3, 19, |_, _| true);
    assert!(refine(&case).unwrap_err().to_string().contains("3 x 19"));
    case.mask = Mask::from_fn(3, 20, |_, _| true);
    case.mean[4] = f64::NAN;
    assert!(refine(&case).unwrap_err().to_string().contains("input 4"));
}

#[test]
fn kept_weights_keep_their_bits_from_every_start() {
    let mut rng = rng(21);
    let (w, x) = (gaussian(&mut rng, 24, 128), statistics(&inputs(&mut rng, 400, 128)));
    let loose = Config { threshold: 0.0, cycle_share: 0.1, ..Config::default() };
    for pattern in [Pattern::Unstructured, Pattern::NofM { n: 2, m: 4 }] {
        let selection = Selection { pattern, scope: Scope::Row };
        let layout = match pattern {
            Pattern::NofM { n, m } => n_of_m(&w, (n, m)),
            Pattern::Unstructured => bitmask(&w, 24 * 51),
        };
        let sparsegpt = SparseGpt { selection, ..SparseGpt::default() };
        for start in [
            Start::Magnitude(Magnitude { selection }),
            Start::Wanda(Wanda { selection }),
            Start::SparseGpt(sparsegpt),
        ] {
            let refined = Dsnot { start, config: loose, ..Dsnot::default() };
            let plain = Dsnot { config: Config { max_cycles: 0, ..loose }, ..refined };
            let (after, before) =
                (dense(&build(&refined, &w, &x, &layout)), dense(&build(&plain, &w, &x, &layout)));
            assert_ne!(mask_of(&after), mask_of(&before), "{start:?}");
            for (&a, &b) in after.data.iter().zip(&before.data) {
                assert!(a == 0.0 || b == 0.0 || a == b);
            }
            // The expected outputs come closer to the dense ones, updated weights counted.
            let mean = means(&x, Unit::PerSequence);
            let error = |found: &Mat<f64>| -> Vec<f64> {
                let of = |r: usize| (0..128).map(|c| (w.at(r, c) - found.at(r, c)) * mean[c]).sum::<f64>();
                (0..24).map(|r| of(r).abs()).collect()
            };
            for (a, b) in error(&after).iter().zip(&error(&before)) {
                // Updated weights are stored in f32.
                assert!(*a <= b + 1e-2, "{start:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn inputs_without_mean_leave_the_mask_alone() {
    let mut rng = rng(22);
    let half = gaussian(&mut rng, 200, 64);
    let x = Mat::from_fn(400, 64, |t, c| if t < 200 { half.at(t, c) } else { -half.at(t - 200, c) });
    let (w, x) = (gaussian(&mut rng, 32, 64), statistics(&x));
    let layout = bitmask(&w, 32 * 26);
    let full = Config { cycle_share: 1.0, ..Config::default() };
    let refined = Dsnot { config: full, ..Dsnot::default() };
    assert_eq!(build(&refined, &w, &x, &layout), build(&Wanda::default(), &w, &x, &layout));
}

#[test]
fn skipped_and_barely_reached_layers_keep_their_start() {
    let mut rng = rng(23);
    let (w, long) = (gaussian(&mut rng, 16, 64), inputs(&mut rng, 400, 64));
    let short = statistics(&Mat { rows: 99, cols: 64, data: long.data[..99 * 64].to_vec() });
    let long = statistics(&long);
    let layout = bitmask(&w, 16 * 26);
    let refined = Dsnot { config: Config { threshold: 0.0, ..Config::default() }, ..Dsnot::default() };
    let start = |x| build(&Wanda::default(), &w, x, &layout);
    assert_ne!(build(&refined, &w, &long, &layout), start(&long));
    assert_eq!(build(&refined, &w, &short, &layout), start(&short));
    // The layer of these tests is an MLP's.
    assert_eq!(build(&Dsnot { skip: Skip::Mlp, ..refined }, &w, &long, &layout), start(&long));
    assert_ne!(build(&Dsnot { skip: Skip::Attention, ..refined }, &w, &long, &layout), start(&long));
}

#[test]
fn cycles_are_relative_to_the_row() {
    let cycles = |inputs| Config::default().cycles(inputs);
    assert_eq!([96, 320, 4096, 16384].map(cycles), [2, 4, 50, 50]);
}
