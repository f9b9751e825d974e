//! Masks by scores: magnitude, Wanda, patterns, counts, budgets.

use std::sync::Arc;

use proptest::prelude::*;
use rand::Rng;
use sparseland_compress::CompressError;
use sparseland_compress::allocation::{Allocation, Budget, ErrorSpace, Objective};
use sparseland_compress::methods::dsnot::Dsnot;
use sparseland_compress::methods::magnitude::Magnitude;
use sparseland_compress::methods::mask::{Keep, Mask, Pattern, Scope, Selection};
use sparseland_compress::methods::sparsegpt::SparseGpt;
use sparseland_compress::methods::wanda::Wanda;
use sparseland_compress::problem::{Accounting, LayerMethod, Limit, Needs, cost};
use sparseland_compress::statistics::InputStatistics;
use sparseland_linalg::Mat;
use sparseland_matrix::{LinearMap, ValueType};

use crate::*;

/// Drops by sorting (score, row, column), group by group.
fn sorted(scores: &Mat<f64>, keep: Keep) -> Mask {
    let (rows, cols) = scores.shape();
    let mut kept = vec![true; rows * cols];
    let mut drop = |mut group: Vec<(f64, usize)>, count: usize| {
        group.sort_by(|a, b| a.partial_cmp(b).unwrap());
        group.iter().take(group.len().saturating_sub(count)).for_each(|&(_, at)| kept[at] = false);
    };
    let cell = |r: usize, c: usize| (scores.at(r, c), r * cols + c);
    match keep {
        Keep::InAll(count) => drop((0..rows * cols).map(|at| cell(at / cols, at % cols)).collect(), count),
        Keep::PerRow(count) => (0..rows).for_each(|r| drop((0..cols).map(|c| cell(r, c)).collect(), count)),
        Keep::NofM { n, m } => {
            for (r, first) in (0..rows).flat_map(|r| (0..cols).step_by(m).map(move |f| (r, f))) {
                drop((first..(first + m).min(cols)).map(|c| cell(r, c)).collect(), n);
            }
        }
    }
    Mask::from_fn(rows, cols, |r, c| kept[r * cols + c])
}

fn budget(remove: f64, allocation: Allocation) -> Budget {
    Budget {
        remove,
        accounting: Accounting::Params,
        allocation,
        objective: Objective::SquaredParams,
        error_space: ErrorSpace::Weight,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn selection_is_the_sort_it_replaces_ties_included(
        rows in 1usize..9, cols in 1usize..150, levels in 1u32..40, share in 0.0f64..1.0, m in 2usize..9, seed: u64,
    ) {
        let mut rng = rng(seed);
        let scores = Mat::from_fn(rows, cols, |_, _| f64::from(rng.random_range(0..levels)));
        let count = |of: usize| (share * of as f64) as usize;
        for keep in [Keep::PerRow(count(cols)), Keep::InAll(count(rows * cols)), Keep::NofM { n: m / 2, m }] {
            let found = Mask::select(&scores, keep);
            prop_assert_eq!(&found, &sorted(&scores, keep));
            match keep {
                Keep::PerRow(n) => (0..rows).for_each(|r| assert_eq!(found.count_in(r), n)),
                Keep::InAll(n) => prop_assert_eq!(found.count(), n),
                Keep::NofM { .. } => {}
            }
        }
    }

    #[test]
    fn candidates_hold_their_limit_and_report_true_errors(
        rows in 2usize..20, cols in 8usize..40, removed in 0.1f64..0.9, bytes: bool, seed: u64,
    ) {
        let mut rng = rng(seed);
        let (w, x) = (gaussian(&mut rng, rows, cols), statistics(&inputs(&mut rng, 200, cols)));
        let accounting = if bytes { Accounting::Bytes } else { Accounting::Params };
        let whole = (rows * cols * if bytes { 4 } else { 1 }) as f64;
        let limit = Limit { cost: ((1.0 - removed) * whole) as u64, accounting, values: ValueType::F32 };
        let patterned = Selection { pattern: Pattern::NofM { n: 2, m: 4 }, scope: Scope::Row };
        let methods: [&dyn LayerMethod; 6] = [
            &Magnitude::default(),
            &Wanda::default(),
            &Wanda { selection: Selection::unstructured(Scope::Layer) },
            &Wanda { selection: patterned },
            &SparseGpt::default(),
            &Dsnot::default(),
        ];
        for method in methods {
            let prepared = method.prepare(problem(&w, &x)).unwrap();
            let Some(found) = prepared.candidate(limit, None).unwrap() else { continue };
            prop_assert!(cost(&found.layout, accounting) <= limit.cost);
            let matrix = prepared.build(&found.layout).unwrap();
            prop_assert_eq!(matrix.layout(), found.layout);
            let truth = problem(&w, &x).errors(&dense(&matrix).transposed()).unwrap();
            prop_assert!((truth.output - found.errors.output).abs() < 1e-5, "{}", method.slug());
            prop_assert!((truth.weight - found.errors.weight).abs() < 1e-5, "{}", method.slug());
        }
    }
}

#[test]
fn wanda_with_equal_norms_is_magnitude_per_row() {
    let mut rng = rng(1);
    let w = gaussian(&mut rng, 12, 70);
    // Orthonormal inputs: every channel has the same energy.
    let x = Arc::new(InputStatistics::from_gram(Mat::identity(70), 70));
    let magnitude = Magnitude { selection: Selection::unstructured(Scope::Row) };
    for kept in [7, 35, 69] {
        let layout = bitmask(&w, kept * 12);
        assert_eq!(build(&Wanda::default(), &w, &x, &layout), build(&magnitude, &w, &x, &layout));
    }
}

#[test]
fn wanda_keeps_what_moves_the_output_most() {
    // One strong channel: its small weights outrank large ones elsewhere.
    let w = Mat::from_fn(3, 8, |_, c| if c == 5 { 0.1 } else { 1.0 + c as f64 });
    let x = statistics(&Mat::from_fn(50, 8, |t, c| if c == 5 { 1000.0 } else { ((t + c) % 3) as f64 }));
    let found = dense(&build(&Wanda::default(), &w, &x, &bitmask(&w, 3)));
    assert!((0..3).all(|r| found.at(r, 5) != 0.0));
}

#[test]
fn marginals_are_the_largest_dropped_scores_and_rise() {
    let mut rng = rng(2);
    let (w, x) = (gaussian(&mut rng, 16, 64), statistics(&inputs(&mut rng, 300, 64)));
    let magnitude = Magnitude::default();
    let prepared = magnitude.prepare(problem(&w, &x)).unwrap();
    let mut sorted: Vec<f64> = w.data.iter().map(|v| v.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    let methods: [&dyn LayerMethod; 3] = [&magnitude, &Wanda::default(), &SparseGpt::default()];
    for removed in [100usize, 300, 700, 900] {
        let limit = Limit {
            cost: (16 * 64 - removed) as u64,
            accounting: Accounting::Params,
            values: ValueType::F32,
        };
        let found = prepared.candidate(limit, None).unwrap().unwrap();
        assert_eq!(found.marginal, Some(sorted[removed - 1]));
    }
    for method in methods {
        let prepared = method.prepare(problem(&w, &x)).unwrap();
        let marginal = |cost| {
            let limit = Limit { cost, accounting: Accounting::Params, values: ValueType::F32 };
            prepared.candidate(limit, None).unwrap().unwrap().marginal.unwrap()
        };
        let all: Vec<f64> = [900, 600, 300, 100].into_iter().map(marginal).collect();
        assert!(all.is_sorted(), "{}: {all:?}", method.slug());
    }
}

#[test]
fn a_narrow_last_group_keeps_what_its_place_holds() {
    let w = Mat::from_fn(2, 10, |r, c| 1.0 + (r * 10 + c) as f64);
    let x = statistics(&Mat::from_fn(120, 10, |t, c| ((t * 7 + c) % 5) as f64));
    let selection = Selection { pattern: Pattern::NofM { n: 2, m: 4 }, scope: Scope::Row };
    let found = dense(&build(&Magnitude { selection }, &w, &x, &n_of_m(&w, (2, 4))));
    // 10 = 4 + 4 + 2: both of the last two stay.
    for r in 0..2 {
        let kept: Vec<usize> = (0..10).filter(|&c| found.at(r, c) != 0.0).collect();
        assert_eq!(kept, [2, 3, 6, 7, 8, 9]);
    }
}

#[test]
fn a_budget_against_the_pattern_is_refused_with_the_right_value() {
    let wanda = Wanda { selection: Selection { pattern: Pattern::NofM { n: 2, m: 8 }, scope: Scope::Row } };
    let refused = |remove, allocation| wanda.check(&budget(remove, allocation));
    assert!(refused(0.75, Allocation::Uniform).is_ok());
    assert!(refused(0.3, Allocation::Knapsack).is_ok());
    for (remove, allocation) in [(0.3, Allocation::Uniform), (0.8, Allocation::Knapsack)] {
        let error = refused(remove, allocation).unwrap_err().to_string();
        assert!(error.contains("2:8") && error.contains("--remove 0.75"), "{error}");
        assert!(!error.contains('\n'));
    }
    assert!(Wanda::default().check(&budget(0.3, Allocation::Uniform)).is_ok());
}

#[test]
fn bad_weights_and_unreached_layers_are_named() {
    let mut w = Mat::from_fn(4, 6, |_, _| 1.0);
    w.data[2 * 6 + 5] = f64::NAN;
    let x = statistics(&Mat::from_fn(120, 6, |t, c| ((t * 7 + c) % 5) as f64));
    let methods: [&dyn LayerMethod; 4] =
        [&Magnitude::default(), &Wanda::default(), &SparseGpt::default(), &Dsnot::default()];
    for method in methods {
        let Err(error) = method.prepare(problem(&w, &x)) else { panic!("NaN passed {}", method.slug()) };
        let error = error.to_string();
        assert!(error.contains(method.slug()) && error.contains('2') && error.contains('5'), "{error}");
    }
    w.data[2 * 6 + 5] = 1.0;
    let nothing = Arc::new(InputStatistics::from_gram(Mat::zeros(6, 6), 0));
    for method in &methods[1..] {
        assert!(matches!(method.prepare(problem(&w, &nothing)), Err(CompressError::Unreached)));
    }
    assert_eq!(Magnitude::default().needs(), Needs::Nothing);
}

#[test]
fn patterns_are_read_and_refused() {
    assert_eq!("unstructured".parse::<Pattern>().unwrap(), Pattern::Unstructured);
    assert_eq!("2:4".parse::<Pattern>().unwrap(), Pattern::NofM { n: 2, m: 4 });
    for bad in ["4:2", "0:4", "2:2", "2", "a:b", "1:1000", ""] {
        let error = bad.parse::<Pattern>().unwrap_err().to_string();
        assert!(error.contains("N:M"), "{error}");
    }
}

#[test]
fn layouts_of_other_methods_are_refused() {
    let w = Mat::from_fn(4, 8, |r, c| (r * 8 + c) as f64);
    let x = statistics(&Mat::from_fn(120, 8, |t, c| ((t * 7 + c) % 5) as f64));
    let wanda = Wanda::default();
    let prepared = wanda.prepare(problem(&w, &x)).unwrap();
    // 17 is not a whole number per row.
    for layout in [n_of_m(&w, (2, 4)), bitmask(&w, 17), bitmask(&w, 400)] {
        assert!(matches!(prepared.build(&layout), Err(CompressError::Plan(_))));
    }
}
