use super::objective::Objective;
use super::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use std::path::PathBuf;

const SCORES: [Score; 3] = [Score::EqualVariance, Score::UnequalVariance, Score::LeastSquares];

fn context() -> Context {
    Context::new(11, 1).unwrap()
}

fn fast(score: Score) -> Colide {
    Colide { optimizer: Optimizer::fast(), ..Colide::with(score) }
}

/// A short run of the paper's optimiser, for laws that hold step by step.
fn short(score: Score) -> Colide {
    Colide { path: Path { warm_iter: 150, max_iter: 150, ..Path::default() }, ..Colide::with(score) }
}

/// A random point inside the domain of every `s >= 0.7`.
fn point(d: usize, rng: &mut Pcg64) -> Mat<f64> {
    let size = (0.5 / d as f64).sqrt();
    Mat::from_fn(d, d, |_, _| rng.random_range(-size..size))
}

fn sample(d: usize, edges: usize, n: usize, seed: u64) -> SemSample {
    Sem::equal_variance(d, edges, n).sample(&mut Pcg64::seed_from_u64(seed)).unwrap()
}

fn weights_distance(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn gradients_equal_finite_differences() {
    let mut rng = Pcg64::seed_from_u64(1);
    for score in SCORES {
        for d in [2, 5, 9] {
            let c = data::covariance(&sample(d, d / 2, 60, d as u64).x).unwrap();
            let (floor, lambda, free) = (vec![1e-3; d], vec![0.0; d * d], vec![true; d * d]);
            let mut objective = Objective::new(&c, score, &floor, &lambda, &free);
            let w = point(d, &mut rng);
            let (mu, s) = (0.7, 0.9);
            objective.value(&w, s).unwrap();
            let mut gradient = vec![0.0; d * d];
            objective.gradient(&w, mu, &mut gradient);
            let mut curvature = vec![0.0; d * d];
            objective.curvature(&w, mu, &mut curvature);
            let mut at = |k: usize, step: f64| {
                let mut moved = w.clone();
                moved.data[k] += step;
                objective.value(&moved, s).unwrap().objective(mu)
            };
            for k in 0..d * d {
                let slope = (at(k, 1e-5) - at(k, -1e-5)) / 2e-5;
                assert!((slope - gradient[k]).abs() < 1e-6 * (1.0 + slope.abs()), "{score:?} {d} {k}");
                if score == Score::LeastSquares {
                    let bend = (at(k, 1e-3) - 2.0 * at(k, 0.0) + at(k, -1e-3)) / 1e-6;
                    assert!((bend - curvature[k]).abs() < 1e-4 * (1.0 + bend.abs()), "{d} {k}");
                }
            }
        }
    }
}

#[test]
fn scales_are_the_best_ones() {
    let mut rng = Pcg64::seed_from_u64(2);
    let d = 4;
    let c = data::covariance(&sample(d, 3, 50, 2).x).unwrap();
    let (floor, lambda, free) = (vec![1e-3; d], vec![0.0; d * d], vec![true; d * d]);
    for score in [Score::EqualVariance, Score::UnequalVariance] {
        let mut objective = Objective::new(&c, score, &floor, &lambda, &free);
        let w = point(d, &mut rng);
        objective.rescale(&w);
        let best = objective.score(&w).0;
        let (sigma, residual) = (objective.sigma.clone(), objective.residual.clone());
        for step in 1..400 {
            let factor = step as f64 / 100.0;
            let value: f64 =
                residual.iter().zip(&sigma).map(|(r, s)| 0.5 * (r / (s * factor) + s * factor)).sum();
            assert!(value >= best - 1e-12);
        }
    }
}

#[test]
fn acyclicity_is_zero_for_dags_and_positive_for_cycles() {
    let d = 6;
    let c = Mat::identity(d);
    let (floor, lambda, free) = (vec![1e-3; d], vec![0.0; d * d], vec![true; d * d]);
    let mut objective = Objective::new(&c, Score::LeastSquares, &floor, &lambda, &free);
    let mut rng = Pcg64::seed_from_u64(3);
    for seed in 0..20 {
        // Any size of weight is inside the domain as long as the graph is acyclic.
        let mut w = sample(d, 8, 1, seed).w;
        for s in [0.7, 1.0, 3.0] {
            assert!(objective.enter(&w, s).unwrap().abs() < 1e-12);
        }
        let cyclic = point(d, &mut rng);
        assert!(objective.enter(&cyclic, 1.0).unwrap() > 0.0);
        // A two-cycle of product 4 against s^2 = 1 is outside.
        w.data.fill(0.0);
        w.data[1] = 2.0;
        w.data[d] = 1.0;
        assert!(objective.enter(&w, 1.0).is_none() && objective.enter(&w, 2.1).is_some());
    }
}

#[test]
fn scaling_the_data_is_scaling_lambda_and_mu() {
    let x = sample(6, 7, 80, 4).x;
    let c = 3.0;
    let mut scaled = x.clone();
    scaled.data.iter_mut().for_each(|v| *v *= c);
    for score in [Score::EqualVariance, Score::UnequalVariance, Score::LeastSquares] {
        // Least squares grows with the square.
        let power = if score == Score::LeastSquares { c * c } else { c };
        let plain = Colide { lambda: Some(0.05 / power), ..short(score) };
        let plain = Colide { path: Path { mu: power, ..plain.path.clone() }, ..plain };
        let a = short(score).fit(&scaled, &context()).unwrap();
        let b = plain.fit(&x, &context()).unwrap();
        assert!(weights_distance(&a.w_raw, &b.w_raw) < 1e-9, "{score:?}");
        if score != Score::LeastSquares {
            for (a, b) in a.sigma.iter().zip(&b.sigma) {
                assert!((a - c * b).abs() < 1e-9 * a);
            }
        }
        let free = Colide { normalize: Normalize::Global, ..short(score) };
        let (a, b) = (free.fit(&scaled, &context()).unwrap(), free.fit(&x, &context()).unwrap());
        assert!(weights_distance(&a.w_raw, &b.w_raw) < 1e-9);
    }
}

#[test]
fn relabelling_the_nodes_relabels_the_graph() {
    let mut rng = Pcg64::seed_from_u64(5);
    let (d, x) = (7, sample(7, 8, 100, 5).x);
    let mut place: Vec<usize> = (0..d).collect();
    place.shuffle(&mut rng);
    let moved = Mat::from_fn(x.rows, d, |i, j| x.at(i, place[j]));
    for score in SCORES {
        let (a, b) =
            (short(score).fit(&x, &context()).unwrap(), short(score).fit(&moved, &context()).unwrap());
        let back = Mat::from_fn(d, d, |i, j| a.w_raw.at(place[i], place[j]));
        assert!(weights_distance(&back, &b.w_raw) < 1e-9);
    }
}

#[test]
fn easy_graphs_are_found_and_always_acyclic() {
    let mut total = 0;
    for seed in 0..4 {
        let truth = sample(10, 12, 1000, seed);
        for score in SCORES {
            let fit = fast(score).fit(&truth.x, &context()).unwrap();
            assert!(topological_order(&fit.w_dag).is_some());
            for (at, &i) in fit.order.iter().enumerate() {
                assert!(fit.order[..=at].iter().all(|&j| fit.w_dag.at(i, j) == 0.0));
            }
            total += graph_score(&truth.w, &fit.w_dag).unwrap().shd;
            assert!(fit.stages.iter().all(|s| s.h >= -1e-9));
            for threshold in [0.0, 0.1, 0.5] {
                assert!(topological_order(&fit.dag_at(threshold).unwrap()).is_some());
            }
        }
        let sorted = sort_n_regress(&truth.x).unwrap();
        assert!(topological_order(&sorted).is_some());
        assert!(graph_score(&truth.w, &sorted).unwrap().shd <= 6);
    }
    // Twelve fits of 12 edges each.
    assert!(total <= 30, "SHD {total} over all");
}

#[test]
fn the_polish_ends_no_higher_than_the_paper_where_the_valley_is_the_same() {
    let x = sample(8, 8, 500, 6).x;
    for score in [Score::EqualVariance, Score::UnequalVariance] {
        let paper = Colide::with(score).fit(&x, &context()).unwrap();
        let ours = fast(score).fit(&x, &context()).unwrap();
        let end = |fit: &ColideFit| fit.stages.last().unwrap().objective;
        assert!(weights_distance(&paper.w_raw, &ours.w_raw) < 0.05);
        assert!(end(&ours) <= end(&paper) * (1.0 + 1e-6));
        let steps = |fit: &ColideFit| fit.stages.iter().map(|s| s.iterations).sum::<usize>();
        assert!(3 * steps(&ours) < steps(&paper), "{} against {}", steps(&ours), steps(&paper));
    }
}

#[test]
fn a_huge_penalty_and_independent_noise_give_empty_graphs() {
    let x = sample(6, 0, 1000, 7).x;
    let mut rng = Pcg64::seed_from_u64(7);
    for score in SCORES {
        let fit = fast(score).fit(&x, &context()).unwrap();
        assert!(fit.w_dag.data.iter().all(|&v| v == 0.0));
        assert!(fit.warnings.iter().any(|w| matches!(w, ColideWarning::EmptyGraph { .. })));
        let strict = Colide { lambda: Some(1e3), self_loops: false, ..fast(score) };
        let fit = strict.fit(&sample(6, 8, 200, rng.random()).x, &context()).unwrap();
        assert!(fit.w_raw.data.iter().all(|&v| v == 0.0), "{score:?}");
    }
}

#[test]
fn forbidden_edges_stay_out_and_required_ones_stay_in() {
    let truth = sample(8, 10, 500, 8);
    let first = (0..64).find(|&k| truth.w.data[k] != 0.0).map(|k| (k / 8, k % 8)).unwrap();
    let absent = (0..64)
        .map(|k| (k / 8, k % 8))
        .find(|&(i, j)| i != j && truth.w.at(i, j) == 0.0 && truth.w.at(j, i) == 0.0)
        .unwrap();
    let method = Colide { forbidden: vec![first], required: vec![absent], ..fast(Score::EqualVariance) };
    let fit = method.fit(&truth.x, &context()).unwrap();
    assert_eq!(fit.w_raw.at(first.0, first.1), 0.0);
    assert!(fit.w_dag.at(absent.0, absent.1) != 0.0 && fit.w_raw.at(absent.1, absent.0) == 0.0);
    let cycle = Colide { required: vec![(0, 1), (1, 2), (2, 0)], ..fast(Score::EqualVariance) };
    assert!(matches!(cycle.fit(&truth.x, &context()), Err(ColideError::RequiredEdges { .. })));
    let both = Colide { required: vec![(0, 1)], forbidden: vec![(0, 1)], ..fast(Score::EqualVariance) };
    assert!(matches!(both.fit(&truth.x, &context()), Err(ColideError::RequiredEdges { .. })));
}

#[test]
fn thresholds_remove_what_the_one_by_one_rule_removes() {
    let mut rng = Pcg64::seed_from_u64(9);
    for _ in 0..40 {
        let d = 7;
        let w = Mat::from_fn(d, d, |i, j| {
            if i != j && rng.random::<f64>() < 0.4 { rng.random_range(-1.0..1.0) } else { 0.0 }
        });
        let mut slow = w.clone();
        slow.data.iter_mut().filter(|v: &&mut f64| v.abs() <= 0.1).for_each(|v| *v = 0.0);
        while topological_order(&slow).is_none() {
            let smallest = (0..d * d)
                .filter(|&k| slow.data[k] != 0.0)
                .min_by(|&a, &b| slow.data[a].abs().total_cmp(&slow.data[b].abs()))
                .unwrap();
            slow.data[smallest] = 0.0;
        }
        assert_eq!(threshold_to_dag(&w, 0.1, &[]).unwrap(), slow);
    }
}

#[test]
fn awkward_data_give_answers_or_named_errors() {
    let truth = sample(5, 6, 60, 10);
    let mut x = truth.x.clone();
    // A constant column and a duplicate.
    for i in 0..x.rows {
        x.data[i * 5 + 2] = 0.1;
        x.data[i * 5 + 4] = x.data[i * 5];
    }
    for score in SCORES {
        let fit = fast(score).fit(&x, &context()).unwrap();
        assert!(fit.w_raw.data.iter().chain(&fit.sigma).all(|v| v.is_finite()), "{score:?}");
        assert!((0..5).all(|k| fit.w_raw.at(2, k) == 0.0 && fit.w_raw.at(k, 2) == 0.0));
        assert!(fit.warnings.contains(&ColideWarning::ConstantColumns(vec![2])));
        // Fewer samples than nodes.
        let few = Mat::from_vec(3, 5, truth.x.data[..15].to_vec()).unwrap();
        let fit = fast(score).fit(&few, &context()).unwrap();
        assert!(fit.warnings.iter().any(|w| matches!(w, ColideWarning::FewSamples { .. })));
        assert!(fit.w_raw.data.iter().all(|v| v.is_finite()));
    }
    let mut bad = truth.x.clone();
    bad.data[7] = f64::NAN;
    let named = Colide::equal_variance().fit(&bad, &context());
    assert_eq!(named.unwrap_err(), ColideError::NonFinite { what: "the data", row: 1, column: 2 });
    let negative = Colide { lambda: Some(0.0), ..Colide::equal_variance() };
    assert!(matches!(negative.fit(&truth.x, &context()), Err(ColideError::Parameter { name: "lambda", .. })));
    let one = Colide::equal_variance().fit(&Mat::from_fn(9, 1, |i, _| i as f64), &context()).unwrap();
    assert_eq!((one.w_dag.data.as_slice(), one.order.as_slice()), ([0.0].as_slice(), [0].as_slice()));
    // A start outside the domain raises s until it is inside.
    let mut start = Mat::zeros(5, 5);
    start.data[1] = 1.5;
    start.data[5] = 1.5;
    let warm = Colide { w_init: Some(start), ..short(Score::EqualVariance) };
    let fit = warm.fit(&truth.x, &context()).unwrap();
    assert!(fit.stages[0].restarts > 0 && fit.stages[0].s > 1.0);
    let cancelled = context();
    cancelled.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(Colide::dagma().fit(&truth.x, &cancelled), Err(ColideError::Cancelled(_))));
}

#[test]
fn refitting_the_true_graph_finds_weights_and_scales() {
    let mut rng = Pcg64::seed_from_u64(14);
    let truth = Sem::unequal_variance(8, 12, 20_000).sample(&mut rng).unwrap();
    let (w, sigma) = refit(&truth.w, &truth.x).unwrap();
    assert!(weights_distance(&w, &truth.w) < 0.1);
    assert!(relative_noise_error(&truth.sigma, &sigma) < 0.02);
}

#[test]
fn lambda_follows_the_sample_size() {
    let x = sample(20, 0, 1000, 12).x;
    let auto = Colide {
        lambda: None,
        path: Path { stages: 1, warm_iter: 1, max_iter: 1, ..Path::default() },
        ..Colide::equal_variance()
    };
    assert!((auto.fit(&x, &context()).unwrap().lambda - 0.05).abs() < 1e-4);
}

#[test]
fn metrics_on_graphs_done_by_hand() {
    let graph = |edges: &[(usize, usize)]| {
        let mut w = Mat::zeros(4, 4);
        edges.iter().for_each(|&(i, j)| w.data[i * 4 + j] = 1.0);
        w
    };
    let truth = graph(&[(0, 1), (1, 2), (2, 3)]);
    let score = graph_score(&truth, &graph(&[(0, 1), (2, 1), (0, 3)])).unwrap();
    assert_eq!((score.shd, score.reversed, score.extra, score.missing), (3, 1, 1, 1));
    assert!((score.tpr - 1.0 / 3.0).abs() < 1e-15 && (score.fdr - 2.0 / 3.0).abs() < 1e-15);
    // All chains over the same skeleton are one class; a collider is another.
    let reversed = graph(&[(3, 2), (2, 1), (1, 0)]);
    assert_eq!(shd_of_classes(&truth, &reversed).unwrap(), 0);
    assert_eq!(shd_of_classes(&truth, &graph(&[(0, 1), (2, 1), (2, 3)])).unwrap(), 2);
    // Meek's first rule: 0 -> 2 <- 1, 2 -> 3 is all directed.
    let class = cpdag(&graph(&[(0, 2), (1, 2), (2, 3)])).unwrap();
    assert!(class[2 * 4 + 3] && !class[3 * 4 + 2]);
    // The true graph and every supergraph of it predict all interventions.
    let sid = |e: &Mat<f64>| structural_intervention_distance(&truth, e).unwrap();
    assert_eq!(sid(&truth), 0);
    assert_eq!(sid(&graph(&[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])), 0);
    // Without edges every one of the 6 effects is missed (adjusting for nothing is right for the forward pairs), and
    // 6 backward pairs are confounded.
    assert_eq!(sid(&graph(&[])), 6);
    assert_eq!(sid(&reversed), 12);
    assert_eq!(varsortability(&truth, &[1.0, 2.0, 3.0, 4.0]), 1.0);
    assert_eq!(varsortability(&truth, &[4.0, 3.0, 2.0, 1.0]), 0.0);
    assert_eq!(varsortability(&truth, &[1.0; 4]), 0.5);
    let cycle = graph(&[(0, 1), (1, 0)]);
    assert!(matches!(cpdag(&cycle), Err(ColideError::Cyclic { .. })));
    assert!(graph_score(&truth, &Mat::zeros(3, 3)).is_err());
}

/// Effects by brute force: the regression of `j` on `i` and the estimated parents of `i` in the population of a random
/// Gaussian model, against the total effect.
#[test]
fn intervention_distance_counts_wrong_regressions() {
    for seed in 0..12 {
        let d = 5;
        let (truth, guess) = (sample(d, 5, 1, seed), sample(d, 5, 1, 100 + seed));
        let off = Mat::from_fn(d, d, |i, j| f64::from(u8::from(i == j)) - truth.w.at(i, j));
        // x = W^T x + z: x^T = z^T (I - W)^-1, so the covariance is A^T A with A = (I - W)^-1.
        let a = sparseland_linalg::inverse_log_det(&off).unwrap().inverse;
        let c = sparseland_linalg::gram(&a);
        let mut wrong = 0;
        for i in 0..d {
            let parents: Vec<usize> = (0..d).filter(|&k| guess.w.at(k, i) != 0.0).collect();
            for j in (0..d).filter(|&j| j != i) {
                let effect = a.at(i, j);
                let found = if parents.contains(&j) {
                    0.0
                } else {
                    let set: Vec<usize> = std::iter::once(i).chain(parents.iter().copied()).collect();
                    let g = Mat::from_fn(set.len(), set.len(), |p, q| c.at(set[p], set[q]));
                    let b = Mat::from_fn(set.len(), 1, |p, _| c.at(set[p], j));
                    sparseland_linalg::solve_spd(&g, &b).unwrap().data[0]
                };
                wrong += usize::from((found - effect).abs() > 1e-9);
            }
        }
        assert_eq!(structural_intervention_distance(&truth.w, &guess.w).unwrap(), wrong, "seed {seed}");
    }
}

#[test]
fn noise_has_the_wanted_variance_and_graphs_the_wanted_edges() {
    let mut rng = Pcg64::seed_from_u64(13);
    for noise in [Noise::Gaussian, Noise::Exponential, Noise::Laplace, Noise::Gumbel, Noise::Uniform] {
        let x = simulate(&Mat::zeros(2, 2), &[1.0, 3.0], noise, 40_000, &mut rng).unwrap();
        let c = data::covariance(&x).unwrap();
        assert!((c.at(0, 0) - 1.0).abs() < 0.06 && (c.at(1, 1) / 9.0 - 1.0).abs() < 0.06, "{noise:?}");
    }
    let edges = |graph| -> usize {
        let sem = Sem { graph, ..Sem::unequal_variance(30, 120, 1) };
        let draw = sem.sample(&mut rng.clone()).unwrap();
        assert!(draw.w.data.iter().all(|v| *v == 0.0 || (0.25..=1.0).contains(&v.abs())));
        assert!(draw.sigma.iter().all(|s| (0.5..=10.0).contains(&(s * s))));
        draw.w.data.iter().filter(|v| **v != 0.0).count()
    };
    assert!((80..160).contains(&edges(GraphKind::ErdosRenyi)));
    assert_eq!(edges(GraphKind::ScaleFree), 4 * (30 - 4));
    assert!(Sem::equal_variance(4, 7, 1).sample(&mut rng).is_err());
}

/// The shared data, or `None` with a line that says what is skipped.
fn sachs_folder() -> Option<PathBuf> {
    let root = std::env::var_os("SPARSELAND_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let folder = root.join("sachs");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: the protein data need SPARSELAND_DATA; {} is no folder", folder.display());
    None
}

#[test]
fn proteins_give_a_sparse_graph() {
    let Some(folder) = sachs_folder() else { return };
    let (x, w) = experiment::read_sachs(&folder).unwrap();
    assert_eq!((x.shape(), w.data.iter().filter(|v| **v != 0.0).count()), ((853, 11), 17));
    let fit = fast(Score::UnequalVariance).fit(&x, &context()).unwrap();
    assert!(graph_score(&w, &fit.w_dag).unwrap().shd <= 20);
}

/// Samples of the published generator are read from the folder in `SPARSELAND_COLIDE_SAMPLES`.
#[test]
#[ignore = "minutes; run: cargo test --release -p sparseland-estimate -- --ignored --nocapture colide_acceptance"]
fn colide_acceptance() {
    let config: experiment::Config =
        toml::from_str(include_str!("../../../../experiments/colide.toml")).unwrap();
    let samples = std::env::var_os("SPARSELAND_COLIDE_SAMPLES").map(PathBuf::from);
    let context = Context::new(0, 0).unwrap();
    let found = experiment::run(&config, samples.as_deref(), sachs_folder().as_deref(), &context).unwrap();
    for e in found {
        println!(
            "{} {} [{}]: {:.3} +- {:.3} against {:.3}; {} ({:.1} s)",
            if e.passed { "pass" } else { "MISS" },
            e.name,
            e.data,
            e.measured,
            e.spread,
            e.baseline,
            e.claimed,
            e.seconds
        );
    }
}
