use super::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_linalg::{Mat, eigh_values, solve_spd};

fn context() -> Context {
    Context::new(17, 1).unwrap()
}

fn design(n: usize, d: usize, seed: u64) -> Sparse {
    let mut rng = Pcg64::seed_from_u64(seed);
    let dense = Mat::from_fn(n, d, |_, j| {
        if rng.random::<f64>() < 0.6 { (1.0 + j as f64 % 3.0) * rng.random_range(-1.0..1.0) } else { 0.0 }
    });
    Sparse::from_dense(&dense).unwrap()
}

fn problems() -> Vec<(&'static str, Box<dyn BlockProblem>)> {
    let mut rng = Pcg64::seed_from_u64(1);
    let b: Vec<f64> = (0..25).map(|_| rng.random_range(-2.0..2.0)).collect();
    let signs = b.iter().map(|v| v.signum()).collect();
    let labels = (0..25).map(|_| rng.random_range(0..3)).collect();
    vec![
        ("least squares", Box::new(LinearModel::new(design(25, 12, 2), b, Loss::LeastSquares, 0.1).unwrap())),
        ("logistic", Box::new(LinearModel::new(design(25, 12, 3), signs, Loss::Logistic, 0.2).unwrap())),
        ("softmax", Box::new(Softmax::new(design(25, 4, 4), labels, 3, 0.1).unwrap())),
        ("lattice", Box::new(label_propagation(15, &lattice(3, 5), 1.0, 3, &context()).unwrap())),
    ]
}

fn random_point(d: usize, rng: &mut Pcg64) -> Vec<f64> {
    (0..d).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[test]
fn derivatives_equal_finite_differences_and_moves_keep_them() {
    let mut rng = Pcg64::seed_from_u64(5);
    for (name, mut problem) in problems() {
        let d = problem.dimension();
        let x = random_point(d, &mut rng);
        for track in [false, true] {
            problem.reset(&x, track);
            for round in 0..6 {
                // The last round passes the point where a kept gradient is refreshed.
                let moves = if round == 5 { 600 } else { 1 };
                for _ in 0..moves {
                    let mut block: Vec<usize> = (0..d).collect();
                    block.shuffle(&mut rng);
                    block.truncate(3);
                    let step: Vec<f64> = (0..3).map(|_| rng.random_range(-0.1..0.1)).collect();
                    let expected = problem.value_after(&block, &step);
                    problem.shift(&block, &step);
                    let value = problem.value();
                    assert!((value - expected).abs() < 1e-10 * (1.0 + value.abs()), "{name}");
                }
                let (now, value) = (problem.point().to_vec(), problem.value());
                let mut fresh = vec![0.0; d];
                for j in 0..d {
                    let slope =
                        (problem.value_after(&[j], &[1e-5]) - problem.value_after(&[j], &[-1e-5])) / 2e-5;
                    fresh[j] = slope;
                }
                let mut block_gradient = Vec::new();
                let all: Vec<usize> = (0..d).collect();
                problem.gradient_block(&all, &mut block_gradient);
                let full = problem.gradient().to_vec();
                for j in 0..d {
                    let size = 1.0 + fresh[j].abs() + value.abs();
                    assert!((full[j] - fresh[j]).abs() < 1e-6 * size, "{name} {j}: {} {}", full[j], fresh[j]);
                    assert!((full[j] - block_gradient[j]).abs() < 1e-9 * size, "{name}");
                }
                assert_eq!(problem.point(), now);
            }
        }
        // Hessians by differences of gradients; bounds above them.
        let all: Vec<usize> = (0..d).collect();
        problem.reset(&x, true);
        let h = problem.hessian_block(&all);
        let bound = problem.bound_block(&all);
        for j in 0..d {
            let mut up = Vec::new();
            let mut down = Vec::new();
            problem.shift(&[j], &[1e-5]);
            problem.gradient_block(&all, &mut up);
            problem.shift(&[j], &[-2e-5]);
            problem.gradient_block(&all, &mut down);
            problem.shift(&[j], &[1e-5]);
            for i in 0..d {
                let bend = (up[i] - down[i]) / 2e-5;
                assert!((bend - h.at(i, j)).abs() < 1e-5 * (1.0 + bend.abs()), "{name} {i} {j}");
            }
            let column = problem.bound_times(&[j], &[2.0]);
            assert!((0..d).all(|i| (column[i] - 2.0 * bound.at(i, j)).abs() < 1e-10), "{name}");
            assert!(h.at(j, j) <= problem.lipschitz()[j] * (1.0 + 1e-12), "{name}");
        }
        let difference = Mat::from_fn(d, d, |i, j| bound.at(i, j) - h.at(i, j));
        assert!(eigh_values(&difference).unwrap()[d - 1] > -1e-9, "{name}: the bound is one");
        // Small blocks have tighter bounds, which must hold too.
        for block in [vec![0, 1], vec![1, 4, 7], vec![2]] {
            let (h, b) = (problem.hessian_block(&block), problem.bound_block(&block));
            let n = block.len();
            let difference = Mat::from_fn(n, n, |i, j| b.at(i, j) - h.at(i, j));
            assert!(eigh_values(&difference).unwrap()[n - 1] > -1e-9, "{name} {block:?}");
        }
        let sums = problem.row_sums();
        for i in 0..d {
            let exact: f64 = bound.row(i).iter().map(|v| v.abs()).sum();
            assert!(sums[i] >= exact - 1e-9 * exact, "{name}: D - H is diagonally dominant");
        }
    }
}

const PARTITIONS: [Partition; 8] = [
    Partition::Variable,
    Partition::Fixed(Ordering::Given),
    Partition::Fixed(Ordering::Sort),
    Partition::Fixed(Ordering::Average),
    Partition::Fixed(Ordering::SortRows),
    Partition::Fixed(Ordering::AverageRows),
    Partition::RedBlack,
    Partition::Trees,
];
const SELECTIONS: [Selection; 15] = [
    Selection::Random,
    Selection::Cyclic,
    Selection::Lipschitz,
    Selection::Gs,
    Selection::GsAbsolute,
    Selection::Gsl,
    Selection::Gsd,
    Selection::GsdRows,
    Selection::Gsq,
    Selection::GsqIht,
    Selection::GsqGreedy,
    Selection::Progress,
    Selection::GreedyTree(TreeScore::Gradient),
    Selection::GreedyTree(TreeScore::Scaled),
    Selection::GreedyTree(TreeScore::Random),
];
const UPDATES: [Update; 7] = [
    Update::Lipschitz,
    Update::LipschitzSearch,
    Update::Matrix,
    Update::LineSearch,
    Update::TwoMetric,
    Update::ProjectedNewton,
    Update::Tree,
];

/// Every combination either says why it is none, or lowers the objective in every iteration and ends at the minimum.
#[test]
fn every_combination_descends_to_one_minimum() {
    for (name, mut problem) in problems() {
        let d = problem.dimension();
        for penalty in [Penalty::None, Penalty::NonNegativeL1(0.3), Penalty::L1(0.3), Penalty::Box(-0.2, 0.3)]
        {
            let (mut best, mut worst, mut runs) = (f64::INFINITY, f64::NEG_INFINITY, 0);
            for partition in PARTITIONS {
                for selection in SELECTIONS {
                    for update in UPDATES {
                        let solver = Bcd {
                            partition,
                            selection,
                            update,
                            block_size: 5,
                            penalty,
                            max_iter: 20_000,
                            tolerance: 1e-6,
                            target: None,
                            check_every: 5,
                            trace_every: 1,
                        };
                        let fit = match solver.solve(problem.as_mut(), &vec![0.1; d], &context()) {
                            Ok(fit) => fit,
                            Err(BcdError::Unsupported(_)) => continue,
                            Err(e) => panic!("{name} {solver:?}: {e}"),
                        };
                        runs += 1;
                        assert_eq!(fit.stop, StopReason::Optimal, "{name} {solver:?}");
                        for w in fit.trace.windows(2) {
                            let slack = 1e-11 * (1.0 + w[0].objective.abs());
                            assert!(w[1].objective <= w[0].objective + slack, "{name} {solver:?}");
                        }
                        if matches!(partition, Partition::Variable)
                            && !matches!(selection, Selection::GreedyTree(_))
                        {
                            assert!(fit.trace.iter().all(|t| t.block == 5 || (selection == Selection::Cyclic && t.block == 2)));
                        }
                        best = best.min(fit.objective);
                        worst = worst.max(fit.objective);
                    }
                }
            }
            assert!(worst - best < 1e-8 * (1.0 + best.abs()), "{name} {penalty:?}: {best} to {worst}");
            assert!(runs >= 100, "{name} {penalty:?}: {runs} runs");
        }
    }
}

#[test]
fn fixed_blocks_hold_every_variable_once() {
    let mut rng = Pcg64::seed_from_u64(6);
    for (name, problem) in problems() {
        for partition in &PARTITIONS[1..] {
            let Ok(selector) =
                select::Selector::new(problem.as_ref(), *partition, Selection::Gs, 5, &mut rng)
            else {
                assert!(
                    problem.graph().is_none() && matches!(partition, Partition::RedBlack | Partition::Trees)
                );
                continue;
            };
            let mut all: Vec<usize> = selector.blocks.concat();
            all.sort_unstable();
            assert_eq!(all, (0..problem.dimension()).collect::<Vec<_>>(), "{name} {partition:?}");
        }
    }
}

#[test]
fn one_block_of_everything_solves_least_squares_at_once() {
    let (_, mut problem) = problems().remove(0);
    let solver = Bcd { block_size: 100, check_every: 1, tolerance: 1e-10, ..Bcd::default() };
    let fit = solver.solve(problem.as_mut(), &[0.0; 12], &context()).unwrap();
    assert_eq!((fit.iterations, fit.stop, fit.block_size_reduced), (1, StopReason::Optimal, true));
}

#[test]
fn forests_colours_and_tree_steps_are_exact() {
    let mut rng = Pcg64::seed_from_u64(7);
    for trial in 0..10 {
        let edges = if trial % 2 == 0 { lattice(6, 7) } else { knn_graph(42, 3, &mut rng) };
        let problem = label_propagation(42, &edges, 2.0, 4, &context()).unwrap();
        let a = problem.graph().unwrap();
        let d = a.cols();
        let mut order: Vec<usize> = (0..d).collect();
        order.shuffle(&mut rng);
        let inside = |block: &[usize]| {
            block
                .iter()
                .map(|&j| a.column(j).filter(|(i, v)| *i < j && *v != 0.0 && block.contains(i)).count())
                .sum::<usize>()
        };
        let components = |block: &[usize]| {
            let mut root: Vec<usize> = (0..d).collect();
            for &j in block {
                for (i, _) in a.column(j).filter(|(i, _)| block.contains(i)) {
                    let (from, to) = (root[i], root[j]);
                    root.iter_mut().filter(|r| **r == from).for_each(|r| *r = to);
                }
            }
            let mut roots: Vec<usize> = block.iter().map(|&j| root[j]).collect();
            roots.sort_unstable();
            roots.dedup();
            roots.len()
        };
        for forest in forest_partition(a, &order).iter().chain([&greedy_forest(a, &order)]) {
            assert_eq!(inside(forest), forest.len() - components(forest), "edges = nodes - components");
            let gradient: Vec<f64> = forest.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
            let step = tree::TreeSolver::new(d).step(a, forest, &gradient).unwrap().unwrap();
            let h = problem.bound_block(forest);
            let right = Mat::from_fn(forest.len(), 1, |i, _| -gradient[i]);
            let exact = solve_spd(&h, &right).unwrap().data;
            let size = exact.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            assert!(exact.iter().zip(&step).all(|(a, b)| (a - b).abs() < 1e-9 * size));
        }
        for set in colouring(a, &order) {
            assert_eq!(inside(&set), 0);
        }
        // A cycle is no forest.
        if trial % 2 == 0 {
            let all: Vec<usize> = (0..d).collect();
            assert_eq!(tree::TreeSolver::new(d).step(a, &all, &vec![1.0; d]).unwrap(), None);
        }
    }
}

#[test]
fn a_large_penalty_stops_before_the_first_iteration() {
    let a = design(30, 20, 8);
    let b: Vec<f64> = (0..30).map(|i| (i as f64).cos()).collect();
    let mut problem = LinearModel::new(a, b, Loss::LeastSquares, 0.0).unwrap();
    problem.reset(&[0.0; 20], true);
    let largest = problem.gradient().iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for (lambda, zero) in [(1.001 * largest, true), (0.9 * largest, false)] {
        let solver = Bcd { penalty: Penalty::L1(lambda), selection: Selection::Progress, ..Bcd::default() };
        let fit = solver.solve(&mut problem, &[0.0; 20], &context()).unwrap();
        assert_eq!(fit.iterations == 0, zero);
        assert_eq!(fit.x.iter().all(|v| *v == 0.0), zero);
        assert_eq!(fit.stop, StopReason::Optimal);
    }
}

#[test]
fn greedy_rules_descend_faster_than_blind_ones() {
    let mut better = 0;
    for seed in 0..5 {
        let mut rng = Pcg64::seed_from_u64(seed);
        let (a, b) = least_squares_data(100, 300, &mut rng).unwrap();
        let mut problem = LinearModel::new(a, b, Loss::LeastSquares, 0.0).unwrap();
        let mut end = |selection| {
            let solver = Bcd { selection, update: Update::Lipschitz, max_iter: 200, ..Bcd::default() };
            solver.solve(&mut problem, &[0.0; 300], &context()).unwrap().objective
        };
        let (gsd, gs, random) = (end(Selection::Gsd), end(Selection::Gs), end(Selection::Random));
        better += usize::from(gsd < random && gs < random);
    }
    assert!(better >= 4);
}

#[test]
fn awkward_input_gives_answers_or_named_errors() {
    // A zero column stays where the penalty wants it.
    let mut dense = Mat::from_fn(10, 4, |i, j| ((i * 4 + j) as f64).sin());
    (0..10).for_each(|i| dense.data[i * 4 + 1] = 0.0);
    // Duplicates make every block with both singular.
    (0..10).for_each(|i| dense.data[i * 4 + 3] = dense.data[i * 4]);
    let b: Vec<f64> = (0..10).map(|i| i as f64).collect();
    let mut problem =
        LinearModel::new(Sparse::from_dense(&dense).unwrap(), b.clone(), Loss::LeastSquares, 0.0).unwrap();
    for (penalty, expected) in [(Penalty::None, 0.7), (Penalty::L1(0.1), 0.0), (Penalty::Box(0.0, 0.5), 0.5)]
    {
        for update in [Update::Matrix, Update::Lipschitz, Update::ProjectedNewton] {
            let solver = Bcd { penalty, update, block_size: 4, ..Bcd::default() };
            let fit = solver.solve(&mut problem, &[0.7; 4], &context()).unwrap();
            assert_eq!(fit.x[1], expected);
            assert!(
                fit.x.iter().all(|v| v.is_finite()) && fit.stop == StopReason::Optimal,
                "{penalty:?} {update:?}"
            );
        }
    }
    assert!(matches!(
        Bcd::default().solve(&mut problem, &[0.0, f64::NAN, 0.0, 0.0], &context()),
        Err(BcdError::NonFinite { what: "x0", row: 1, .. })
    ));
    assert!(matches!(Bcd::default().solve(&mut problem, &[0.0; 3], &context()), Err(BcdError::Shape { .. })));
    let none = Bcd { block_size: 0, ..Bcd::default() };
    assert!(matches!(none.solve(&mut problem, &[0.0; 4], &context()), Err(BcdError::Parameter { .. })));
    dense.data[6] = f64::NAN;
    assert_eq!(
        Sparse::from_dense(&dense).unwrap_err(),
        BcdError::NonFinite { what: "the matrix", row: 1, column: 2 }
    );
    let plain = Sparse::from_triplets(2, 2, &[(0, 0, 1.0), (0, 1, 1.0), (1, 1, 1.0)]).unwrap();
    assert!(matches!(Quadratic::new(plain, vec![0.0; 2]), Err(BcdError::Asymmetric { .. })));
    assert!(LinearModel::new(design(4, 2, 1), vec![0.5; 4], Loss::Logistic, 0.0).is_err());
    // Indefinite: -3 and 5 are its eigenvalues.
    let bad = [(0, 0, 1.0), (1, 1, 1.0), (0, 1, 4.0), (1, 0, 4.0)];
    for update in [Update::Matrix, Update::Tree] {
        let mut saddle = Quadratic::new(Sparse::from_triplets(2, 2, &bad).unwrap(), vec![1.0, -1.0]).unwrap();
        let selection =
            if update == Update::Tree { Selection::GreedyTree(TreeScore::Gradient) } else { Selection::Gs };
        let solver = Bcd { update, selection, ..Bcd::default() };
        assert!(matches!(solver.solve(&mut saddle, &[0.0; 2], &context()), Err(BcdError::NotConvex { .. })));
    }
    let mut one = LinearModel::new(
        Sparse::from_triplets(1, 1, &[(0, 0, 2.0)]).unwrap(),
        vec![4.0],
        Loss::LeastSquares,
        0.0,
    )
    .unwrap();
    let fit = Bcd::default().solve(&mut one, &[0.0], &context()).unwrap();
    assert_eq!(fit.x, [2.0]);
    let zero = Sparse::from_triplets(2, 2, &[]).unwrap();
    let mut empty = LinearModel::new(zero, vec![1.0, 2.0], Loss::LeastSquares, 0.0).unwrap();
    assert_eq!(Bcd::default().solve(&mut empty, &[1.0, 2.0], &context()).unwrap().iterations, 0);
    let cancelled = context();
    cancelled.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let (_, mut problem) = problems().remove(1);
    let slow = Bcd { update: Update::Lipschitz, tolerance: 0.0, ..Bcd::default() };
    assert!(matches!(slow.solve(problem.as_mut(), &[0.0; 12], &cancelled), Err(BcdError::Cancelled(_))));
}

#[test]
fn proximal_maps_minimise() {
    for penalty in [
        Penalty::None,
        Penalty::L1(0.4),
        Penalty::NonNegative,
        Penalty::NonNegativeL1(0.4),
        Penalty::Box(-0.5, 0.2),
    ] {
        for v in [-1.3, -0.3, 0.0, 0.1, 2.0] {
            let cost = |u: f64| 0.5 * (u - v) * (u - v) + 0.7 * penalty.value(u);
            let best = cost(penalty.prox(v, 0.7));
            assert!((-300..300).all(|k| cost(k as f64 / 100.0) >= best - 1e-12), "{penalty:?} {v}");
        }
    }
}

/// Sentences with their sentiment from the shared data, or `None` with a line that says what is skipped.
fn sentences() -> Option<Vec<(bool, String)>> {
    use std::io::Read;
    let root = std::env::var_os("SPARSELAND_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        std::path::PathBuf::from,
    );
    let path = root.join("sst2/train.tsv.zst");
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("skipped: the sentences need SPARSELAND_DATA; {} is no file", path.display());
        return None;
    };
    let mut text = String::new();
    zstd::decoding::StreamingDecoder::new(file).unwrap().read_to_string(&mut text).unwrap();
    let header: Vec<&str> = text.lines().next()?.split('\t').collect();
    let label = header.iter().position(|h| *h == "label").unwrap();
    Some(
        text.lines()
            .skip(1)
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                (fields[label] == "1", fields[1 - label].to_string())
            })
            .collect(),
    )
}

#[test]
fn sentences_become_a_sparse_problem() {
    let Some(sentences) = sentences() else { return };
    let (a, b) = experiment::bag_of_words(&sentences[..500]).unwrap();
    assert_eq!((a.rows(), b.len()), (500, 500));
    assert!(a.cols() > 1000 && b.iter().any(|v| *v > 0.0) && b.iter().any(|v| *v < 0.0));
    let d = a.cols();
    let mut problem = LinearModel::new(a, b, Loss::Logistic, 1.0).unwrap();
    let fit =
        Bcd { tolerance: 1e-4, ..Bcd::default() }.solve(&mut problem, &vec![0.0; d], &context()).unwrap();
    assert_eq!(fit.stop, StopReason::Optimal);
}

#[test]
#[ignore = "minutes; run: cargo test --release -p sparseland-estimate -- --ignored --nocapture bcd_acceptance"]
fn bcd_acceptance() {
    let config: experiment::Config =
        toml::from_str(include_str!("../../../../experiments/bcd.toml")).unwrap();
    let context = Context::new(0, 1).unwrap();
    let sentences = sentences();
    experiment::run(&config, sentences.as_deref(), &context, &mut |e| {
        println!(
            "{} {} [{}]: {:.3} against {:.3}; {} ({:.1} s)",
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
