//! The acceptance experiments of block coordinate descent.

use std::collections::HashMap;
use std::time::Instant;

use sparseland_core::{Context, Experiment};

use super::{
    Bcd, BcdError, BcdFit, BlockProblem, LinearModel, Loss, Ordering, Partition, Penalty, Selection, Sparse,
    TreeScore, Update, knn_graph, label_propagation, lattice, least_squares_data,
};

/// What `experiments/bcd.toml` holds.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the least-squares comparison.
    pub seeds: Vec<u64>,
    /// Rows of the random design.
    pub rows: usize,
    /// Columns of the random design.
    pub columns: usize,
    /// Iterations of the comparison.
    pub iterations: usize,
    /// Weight of the l1 norm in the non-negative problem.
    pub lambda: f64,
    /// Sides of the lattices of the timing.
    pub sides: Vec<usize>,
}

/// All experiments for which there are data; `report` receives each as soon as it is done.
///
/// # Errors
/// Whatever a run returns.
pub fn run(
    config: &Config,
    sentences: Option<&[(bool, String)]>,
    context: &Context,
    report: &mut dyn FnMut(&Experiment),
) -> Result<Vec<Experiment>, BcdError> {
    let mut out = Vec::new();
    let mut add = |list: Vec<Experiment>, began: Instant| {
        for mut e in list {
            e.seconds = began.elapsed().as_secs_f64();
            report(&e);
            out.push(e);
        }
    };
    let began = Instant::now();
    add(rules(config, context)?, began);
    let began = Instant::now();
    add(active_set(config, context)?, began);
    let began = Instant::now();
    add(trees(config, context)?, began);
    if let Some(sentences) = sentences {
        let began = Instant::now();
        add(text(sentences, context)?, began);
    }
    Ok(out)
}

fn experiment(
    name: String,
    data: &str,
    metric: &str,
    claimed: &str,
    measured: f64,
    baseline: f64,
    passed: bool,
) -> Experiment {
    Experiment {
        name,
        data: data.into(),
        metric: metric.into(),
        claimed: claimed.into(),
        measured,
        spread: 0.0,
        baseline,
        passed,
        seeds: Vec::new(),
        seconds: 0.0,
    }
}

/// Rules against each other on least squares: the objective after a fixed number of iterations (its minimum is 0).
fn rules(config: &Config, context: &Context) -> Result<Vec<Experiment>, BcdError> {
    let sorted = Partition::Fixed(Ordering::Sort);
    let vb = Partition::Variable;
    let runs = [
        ("GS", vb, Selection::Gs, Update::Lipschitz),
        ("GSD", vb, Selection::Gsd, Update::Lipschitz),
        ("random", vb, Selection::Random, Update::Lipschitz),
        ("cyclic", vb, Selection::Cyclic, Update::Lipschitz),
        ("fixed GS", sorted, Selection::Gs, Update::Lipschitz),
        ("fixed GSL", sorted, Selection::Gsl, Update::Lipschitz),
        ("GS", vb, Selection::Gs, Update::Matrix),
        ("GSD", vb, Selection::Gsd, Update::Matrix),
        ("GSQ-IHT", vb, Selection::GsqIht, Update::Matrix),
        ("GSQ one by one", vb, Selection::GsqGreedy, Update::Matrix),
    ];
    let mut ends = vec![Vec::new(); runs.len()];
    let mut milliseconds = vec![0.0; runs.len()];
    for &seed in &config.seeds {
        let (a, b) = least_squares_data(config.rows, config.columns, &mut context.rng(seed))?;
        let mut problem = LinearModel::new(a, b, Loss::LeastSquares, 0.0)?;
        for (k, (_, partition, selection, update)) in runs.iter().enumerate() {
            let solver = Bcd {
                partition: *partition,
                selection: *selection,
                update: *update,
                max_iter: config.iterations,
                tolerance: 0.0,
                check_every: config.iterations,
                ..Bcd::default()
            };
            let fit = solver.solve(&mut problem, &vec![0.0; config.columns], context)?;
            milliseconds[k] += 1e3 * fit.trace.last().map_or(0.0, |t| t.seconds)
                / (config.iterations * config.seeds.len()) as f64;
            ends[k].push(fit.objective.max(1e-300).log10());
        }
    }
    let mean = |k: usize| ends[k].iter().sum::<f64>() / ends[k].len() as f64;
    let data = format!("random design {} x {}, b = 5", config.rows, config.columns);
    let compare = |name: &str, a: usize, b: usize, strict: bool| {
        let wins = ends[a]
            .iter()
            .zip(&ends[b])
            .filter(|(a, b)| if strict { a < b } else { **a <= **b + 0.05 })
            .count();
        let mut e = experiment(
            format!("{name}: {:.2} against {:.2}, better on {wins} of {}", mean(a), mean(b), ends[a].len()),
            &data,
            "log10 of the objective after the iterations",
            "better on four of five seeds",
            mean(a),
            mean(b),
            5 * wins >= 4 * ends[a].len(),
        );
        e.seeds.clone_from(&config.seeds);
        e
    };
    let mut out = vec![
        compare("1/L_b: GSD against GS", 1, 0, true),
        compare("1/L_b: GS against random", 0, 2, true),
        compare("1/L_b: GS against cyclic", 0, 3, true),
        compare("1/L_b: GSL against GS, fixed blocks", 5, 4, true),
        compare("1/L_b: GS, variable against fixed blocks", 0, 4, false),
        compare("H_b: GSD against GS", 7, 6, true),
        compare("H_b: GSQ-IHT against GSD", 8, 7, false),
        compare("H_b: GSQ one by one against GSD", 9, 7, true),
    ];
    out.push(experiment(
        format!(
            "milliseconds per iteration, GSD: {:.3} (1/L_b), {:.3} (H_b)",
            milliseconds[1], milliseconds[7]
        ),
        &data,
        "milliseconds, lower is better",
        "at most 1",
        milliseconds[1],
        1.0,
        milliseconds[1] <= 1.0,
    ));
    Ok(out)
}

/// Iterations to a relative suboptimality, or one more than were made.
fn reach(fit: &BcdFit, best: f64, relative: f64) -> usize {
    let bar = best + relative * best.abs();
    fit.trace.iter().find(|t| t.objective <= bar).map_or(fit.iterations + 1, |t| t.iteration)
}

/// Non-negative l1 least squares: when the support is found, and what second-order updates do then.
fn active_set(config: &Config, context: &Context) -> Result<Vec<Experiment>, BcdError> {
    let (a, b) = least_squares_data(config.rows, config.columns, &mut context.rng(1))?;
    let mut problem = LinearModel::new(a, b, Loss::LeastSquares, 0.0)?;
    let zero = vec![0.0; config.columns];
    let solver = |update, block_size, max_iter| Bcd {
        selection: Selection::Progress,
        update,
        block_size,
        penalty: Penalty::NonNegativeL1(config.lambda),
        max_iter,
        tolerance: 1e-12,
        ..Bcd::default()
    };
    // A high-accuracy solution by one-dimensional steps, from the support that the blocks found.
    let start = solver(Update::ProjectedNewton, 100, 500).solve(&mut problem, &zero, context)?.x;
    let exact = Bcd { tolerance: 1e-13, trace_every: 0, ..solver(Update::Matrix, 1, 20_000) }.solve(
        &mut problem,
        &start,
        context,
    )?;
    let support: Vec<usize> = (0..exact.x.len()).filter(|&j| exact.x[j] > 0.0).collect();
    let mut out = Vec::new();
    for block_size in [50, 100] {
        let mut iterations = Vec::new();
        for update in [Update::Lipschitz, Update::TwoMetric, Update::ProjectedNewton] {
            let fit = solver(update, block_size, 2000).solve(&mut problem, &zero, context)?;
            let found: Vec<usize> = (0..fit.x.len()).filter(|&j| fit.x[j] > 0.0).collect();
            let end = reach(&fit, exact.objective, 1e-12);
            // The support after k iterations, by running k iterations; the number of non-zeros alone would not tell.
            let mut identified = end;
            while update != Update::Lipschitz && identified > 1 {
                let earlier =
                    solver(update, block_size, identified - 1).solve(&mut problem, &zero, context)?;
                if (0..earlier.x.len()).any(|j| (earlier.x[j] > 0.0) != support.contains(&j)) {
                    break;
                }
                identified -= 1;
            }
            iterations.push((end, found == support, identified));
        }
        let [(gradient, _, _), (metric, same_metric, at_metric), (newton, same, at)] = iterations[..] else {
            continue;
        };
        let data = format!("random design, lambda = {}, b = {block_size}", config.lambda);
        out.push(experiment(
            format!(
                "support of {} found by projected Newton at iteration {at}, by two-metric projection at {at_metric}",
                support.len()
            ),
            &data,
            "iterations",
            "equals the support of an accurate solution, after finitely many",
            at as f64,
            2000.0,
            same && same_metric,
        ));
        out.push(experiment(
            format!(
                "iterations to 1e-12: gradient {gradient}, two-metric {metric}, projected Newton {newton}"
            ),
            &data,
            "iterations",
            "both second-order updates before the gradient",
            newton as f64,
            gradient as f64,
            newton < gradient && metric < gradient,
        ));
        if block_size >= support.len() {
            out.push(experiment(
                "iterations from the support to 1e-12 (projected Newton)".into(),
                &data,
                "iterations",
                "at most 3",
                newton.saturating_sub(at) as f64,
                3.0,
                newton.saturating_sub(at) <= 3,
            ));
        }
    }
    Ok(out)
}

/// Greedy forests against colours and fixed forests, and the time of a tree update.
fn trees(config: &Config, context: &Context) -> Result<Vec<Experiment>, BcdError> {
    let mut out = Vec::new();
    let forest = Selection::GreedyTree(TreeScore::Gradient);
    let knn = knn_graph(2000, 5, &mut context.rng(2));
    for (name, nodes, edges, weight) in
        [("lattice 50 x 50", 2500, lattice(50, 50), 1e5), ("5 nearest neighbours", 2000, knn, 1.0)]
    {
        let mut problem = label_propagation(nodes, &edges, weight, 100, context)?;
        let d = problem.dimension();
        let solver = |partition, selection, max_iter| Bcd {
            partition,
            selection,
            update: Update::Tree,
            max_iter,
            tolerance: 1e-13,
            ..Bcd::default()
        };
        let zero = vec![0.0; d];
        let best = solver(Partition::Variable, forest, 20_000).solve(&mut problem, &zero, context)?.objective;
        let mut iterations = Vec::new();
        for (partition, selection) in [
            (Partition::Variable, forest),
            (Partition::Trees, Selection::Gs),
            (Partition::RedBlack, Selection::Gs),
        ] {
            let fit = solver(partition, selection, 20_000).solve(&mut problem, &zero, context)?;
            iterations.push(reach(&fit, best, 1e-6));
        }
        out.push(experiment(
            format!(
                "greedy forests {}, fixed forests {}, colours {}",
                iterations[0], iterations[1], iterations[2]
            ),
            name,
            "iterations to a relative 1e-6",
            "greedy forests before colours",
            iterations[0] as f64,
            iterations[2] as f64,
            iterations[0] < iterations[2],
        ));
    }
    let mut per_node = Vec::new();
    let mut small = f64::NAN;
    for &side in &config.sides {
        let mut problem = label_propagation(side * side, &lattice(side, side), 1e5, side, context)?;
        let graph = problem.graph().ok_or(BcdError::Unsupported("a lattice has a graph"))?.clone();
        let order: Vec<usize> = (0..problem.dimension()).collect();
        let block = super::greedy_forest(&graph, &order);
        let mut solver = super::tree::TreeSolver::new(problem.dimension());
        let mut g = Vec::new();
        let rounds = 40_000_000 / (20 * side * side).max(1) / 20 + 3;
        let mut fastest = f64::INFINITY;
        for _ in 0..rounds.min(200) {
            let began = Instant::now();
            problem.gradient_block(&block, &mut g);
            if let Some(step) = solver.step(&graph, &block, &g)? {
                problem.shift(&block, &step);
            }
            fastest = fastest.min(began.elapsed().as_secs_f64());
        }
        per_node.push(1e9 * fastest / block.len() as f64);
        if small.is_nan() {
            small = 1e3 * fastest * 1200.0 / block.len() as f64;
        }
    }
    let (low, high) = per_node.iter().fold((f64::INFINITY, 0.0f64), |(l, h), &v| (l.min(v), h.max(v)));
    out.push(experiment(
        format!("nanoseconds per node over sides {:?}: {per_node:.0?}", config.sides),
        "lattices",
        "largest over smallest",
        "at most 2",
        high / low,
        2.0,
        high <= 2.0 * low,
    ));
    out.push(experiment(
        "milliseconds of a tree update of 1200 nodes".into(),
        "lattice 50 x 50",
        "milliseconds",
        "at most 0.2",
        small,
        0.2,
        small <= 0.2,
    ));
    Ok(out)
}

/// Word counts (rows scaled to norm one) and labels -1 or 1.
///
/// # Errors
/// [`BcdError::Shape`] without sentences.
pub fn bag_of_words(sentences: &[(bool, String)]) -> Result<(Sparse, Vec<f64>), BcdError> {
    let mut words: HashMap<&str, usize> = HashMap::new();
    let mut triplets = Vec::new();
    for (i, (_, sentence)) in sentences.iter().enumerate() {
        let mut counts: HashMap<usize, f64> = HashMap::new();
        for word in sentence.split_whitespace() {
            let next = words.len();
            *counts.entry(*words.entry(word).or_insert(next)).or_default() += 1.0;
        }
        let norm = counts.values().map(|v| v * v).sum::<f64>().sqrt();
        triplets.extend(counts.into_iter().map(|(j, v)| (i, j, v / norm)));
    }
    let labels = sentences.iter().map(|s| if s.0 { 1.0 } else { -1.0 }).collect();
    Ok((Sparse::from_triplets(sentences.len(), words.len(), &triplets)?, labels))
}

/// Logistic regression on text: greedy blocks against cyclic coordinate descent.
fn text(sentences: &[(bool, String)], context: &Context) -> Result<Vec<Experiment>, BcdError> {
    let (a, b) = bag_of_words(sentences)?;
    let (d, n) = (a.cols(), a.rows());
    let mut problem = LinearModel::new(a, b, Loss::Logistic, 0.1)?;
    let zero = vec![0.0; d];
    let solver = |partition, selection, block_size, max_iter| Bcd {
        partition,
        selection,
        block_size,
        max_iter,
        tolerance: 1e-9,
        check_every: 5000,
        ..Bcd::default()
    };
    let greedy = solver(Partition::Variable, Selection::Gsd, 5, 60_000);
    let accurate = Bcd { trace_every: 0, block_size: 20, tolerance: 1e-6, ..greedy.clone() };
    let best = accurate.solve(&mut problem, &zero, context)?.objective;
    let bar = best * (1.0 + 1e-4);
    let mut found = Vec::new();
    let cyclic = solver(Partition::Fixed(Ordering::Given), Selection::Cyclic, 1, 4_000_000);
    for (run, look) in [(greedy, 100), (cyclic, 1000)] {
        // First how many iterations it takes, then how long they take without looking at the objective.
        let traced = Bcd { trace_every: look, ..run.clone() };
        let mut iterations = run.max_iter;
        let mut chunk = Bcd { max_iter: 2000, ..traced };
        while chunk.max_iter < run.max_iter {
            chunk.max_iter = (4 * chunk.max_iter).min(run.max_iter);
            let fit = chunk.solve(&mut problem, &zero, context)?;
            if let Some(hit) = fit.trace.iter().find(|t| t.objective <= bar) {
                iterations = hit.iteration;
                break;
            }
        }
        let timed = Bcd {
            max_iter: iterations,
            trace_every: 0,
            tolerance: 0.0,
            check_every: usize::MAX,
            ..run.clone()
        };
        let began = Instant::now();
        timed.solve(&mut problem, &zero, context)?;
        let updates = iterations * run.block_size;
        found.push((updates as f64 / d as f64, began.elapsed().as_secs_f64()));
    }
    let data = format!("logistic regression on {n} sentences, {d} words, l2 = 0.1");
    Ok(vec![
        experiment(
            "epochs to a relative gap of 1e-4: GSD with variable blocks against cyclic".into(),
            &data,
            "coordinate updates / d",
            "fewer",
            found[0].0,
            found[1].0,
            found[0].0 < found[1].0,
        ),
        experiment(
            "seconds to the same gap".into(),
            &data,
            "seconds",
            "at most 1.5 times the cyclic",
            found[0].1,
            found[1].1,
            found[0].1 <= 1.5 * found[1].1,
        ),
    ])
}
