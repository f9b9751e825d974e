//! Which block comes next.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use sparseland_linalg::{Mat, eigh, solve_spd};

use super::penalty::Penalty;
use super::problem::BlockProblem;
use super::tree::{colouring, forest_partition, greedy_forest};
use super::{BcdError, Ordering, Partition, Selection, TreeScore};

/// Added to `H_b`, relative to its largest diagonal entry, before it is inverted.
const RIDGE: f64 = 1e-10;
/// Steps of iterative hard thresholding.
const IHT_STEPS: usize = 10;
/// Iterative hard thresholding ends when a step is shorter than this, relative to the first.
const IHT_END: f64 = 1e-10;

/// Fixed blocks, the state of the rule, and caches.
pub(super) struct Selector {
    pub blocks: Vec<Vec<usize>>,
    usable: Vec<usize>,
    selection: Selection,
    block_size: usize,
    /// Denominators of diagonal scores.
    diagonal: Vec<f64>,
    /// One over them; zero where a variable cannot move.
    reciprocal: Vec<f64>,
    /// Workspace of the diagonal rules.
    scores: Vec<f64>,
    /// `L_b` of fixed blocks.
    pub bounds: Vec<f64>,
    inverses: Vec<Mat<f64>>,
    cumulative: Vec<f64>,
    order: Vec<usize>,
    at: usize,
    largest: f64,
}

/// The largest eigenvalue of a small symmetric matrix.
pub(super) fn largest_eigenvalue(h: &Mat<f64>) -> Result<f64, BcdError> {
    Ok(match h.rows {
        0 => 0.0,
        1 => h.data[0],
        _ => eigh(h)?.values[0],
    })
}

pub(super) fn with_ridge(h: &Mat<f64>) -> Mat<f64> {
    let mut h = h.clone();
    let n = h.rows;
    let largest = (0..n).map(|i| h.data[i * n + i]).fold(0.0, f64::max);
    (0..n).for_each(|i| h.data[i * n + i] += RIDGE * largest.max(f64::MIN_POSITIVE));
    h
}

impl Selector {
    pub(super) fn new(
        problem: &dyn BlockProblem,
        partition: Partition,
        selection: Selection,
        block_size: usize,
        rng: &mut Pcg64,
    ) -> Result<Self, BcdError> {
        let l = problem.lipschitz();
        let usable: Vec<usize> = (0..l.len()).filter(|&j| l[j] > 0.0).collect();
        let by = |score: &[f64]| {
            let mut order = usable.clone();
            order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
            order
        };
        let graph = || {
            problem
                .graph()
                .ok_or(BcdError::Unsupported("trees and colours need a problem with a sparse graph"))
        };
        let chunks = |order: Vec<usize>| order.chunks(block_size).map(<[usize]>::to_vec).collect::<Vec<_>>();
        // Large and small in turn: every block gets some of both.
        let alternate = |order: Vec<usize>| {
            let count = order.len().div_ceil(block_size);
            let mut blocks = vec![Vec::new(); count];
            for (k, j) in order.into_iter().enumerate() {
                let (row, column) = (k / count, k % count);
                blocks[if row % 2 == 0 { column } else { count - 1 - column }].push(j);
            }
            blocks
        };
        let blocks = match partition {
            Partition::Variable => Vec::new(),
            Partition::Fixed(Ordering::Given) => chunks(usable.clone()),
            Partition::Fixed(Ordering::Sort) => chunks(by(l)),
            Partition::Fixed(Ordering::Average) => alternate(by(l)),
            Partition::Fixed(Ordering::SortRows) => chunks(by(&problem.row_sums())),
            Partition::Fixed(Ordering::AverageRows) => alternate(by(&problem.row_sums())),
            Partition::RedBlack => colouring(graph()?, &by(l)),
            Partition::Trees => forest_partition(graph()?, &by(l)),
        };
        let fixed = partition != Partition::Variable;
        match selection {
            Selection::Gsl if !fixed => {
                return Err(BcdError::Unsupported("GSL needs fixed blocks; take GSD with variable ones"));
            }
            Selection::Gsq if !fixed => {
                return Err(BcdError::Unsupported("GSQ needs fixed blocks; take GSQ-IHT with variable ones"));
            }
            Selection::GsqIht | Selection::GsqGreedy | Selection::GreedyTree(_) if fixed => {
                return Err(BcdError::Unsupported(
                    "this rule forms its own blocks; take a variable partition",
                ));
            }
            Selection::GreedyTree(_) => drop(graph()?),
            _ => {}
        }
        let diagonal = match selection {
            Selection::GsdRows => problem.row_sums(),
            _ => l.to_vec(),
        };
        let mut out = Selector {
            blocks,
            usable,
            selection,
            block_size,
            reciprocal: diagonal.iter().map(|&v| if v > 0.0 { 1.0 / v } else { 0.0 }).collect(),
            scores: vec![0.0; diagonal.len()],
            diagonal,
            bounds: Vec::new(),
            inverses: Vec::new(),
            cumulative: Vec::new(),
            order: Vec::new(),
            at: 0,
            largest: 0.0,
        };
        // Trees and colours can be as large as the problem: their bounds are only computed on demand.
        if matches!(partition, Partition::Fixed(_)) {
            for block in &out.blocks {
                let h = problem.bound_block(block);
                out.bounds.push(largest_eigenvalue(&h)?);
                if selection == Selection::Gsq {
                    out.inverses.push(solve_spd(&with_ridge(&h), &Mat::identity(block.len()))?);
                }
            }
        } else if fixed && matches!(selection, Selection::Gsl | Selection::Gsq | Selection::Lipschitz) {
            return Err(BcdError::Unsupported("colours and trees go with random, cyclic, GS and GSD rules"));
        }
        if selection == Selection::Lipschitz {
            let weights: Vec<f64> =
                if fixed { out.bounds.clone() } else { out.usable.iter().map(|&j| l[j]).collect() };
            let mut sum = 0.0;
            out.cumulative = weights
                .iter()
                .map(|w| {
                    sum += w;
                    sum
                })
                .collect();
        }
        if selection == Selection::GsqIht {
            out.largest = power_iteration(problem, &out.usable, rng);
        }
        Ok(out)
    }

    /// Whether the rule looks at the whole gradient.
    pub(super) fn needs_gradient(&self) -> bool {
        !matches!(self.selection, Selection::Random | Selection::Cyclic | Selection::Lipschitz)
    }

    /// Whether blocks are the variables with the largest diagonal scores.
    fn is_plain(&self) -> bool {
        use Selection::{Gs, GsAbsolute, Gsd, GsdRows, Progress};
        self.blocks.is_empty() && matches!(self.selection, Gs | GsAbsolute | Gsd | GsdRows | Progress)
    }

    /// Whether nothing can move.
    pub(super) fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }

    /// The next block, and its number if it is a fixed one.
    pub(super) fn next(
        &mut self,
        problem: &mut dyn BlockProblem,
        penalty: Penalty,
        rng: &mut Pcg64,
        block: &mut Vec<usize>,
    ) -> Option<usize> {
        block.clear();
        let count = self.block_size.min(self.usable.len());
        if !self.needs_gradient() {
            return self.blind(rng, block, count);
        }
        if penalty.is_none() && self.is_plain() {
            // The common case, without copies: one pass over the gradient.
            let g = problem.gradient();
            match self.selection {
                Selection::Gs | Selection::GsAbsolute => {
                    self.scores.iter_mut().zip(g).for_each(|(s, g)| *s = g.abs());
                }
                _ => {
                    for ((s, g), inverse) in self.scores.iter_mut().zip(g).zip(&self.reciprocal) {
                        *s = g * g * inverse;
                    }
                }
            }
            *block = largest(&self.scores, &self.usable, count);
            return None;
        }
        let l = problem.lipschitz().to_vec();
        let x = problem.point().to_vec();
        let raw = problem.gradient().to_vec();
        let g = effective_gradient(&raw, &l, &x, penalty);
        // A score per variable, to be summed over fixed blocks.
        let score = |j: usize| match self.selection {
            Selection::Gsd | Selection::GsdRows => g[j] * g[j] / self.diagonal[j],
            // Variables that are optimal to rounding but not at a kink come before those at rest: a block that can hold the
            // whole support then does, and a second-order update ends in a few steps.
            Selection::Progress => {
                let least = if penalty.piece(x[j]).is_some() { f64::MIN_POSITIVE } else { 0.0 };
                progress(raw[j], l[j], x[j], penalty).max(least)
            }
            Selection::GsAbsolute => g[j].abs(),
            _ => g[j] * g[j],
        };
        if !self.blocks.is_empty() {
            let total = |k: usize| match self.selection {
                Selection::Gsq => {
                    let (inverse, b) = (&self.inverses[k], &self.blocks[k]);
                    b.iter()
                        .enumerate()
                        .map(|(p, &i)| {
                            g[i] * inverse.row(p).iter().zip(b).map(|(v, &j)| v * g[j]).sum::<f64>()
                        })
                        .sum()
                }
                Selection::Gsl => self.blocks[k].iter().map(|&j| g[j] * g[j]).sum::<f64>() / self.bounds[k],
                _ => self.blocks[k].iter().map(|&j| score(j)).sum(),
            };
            let mut best = (0, f64::NEG_INFINITY);
            for k in 0..self.blocks.len() {
                let value = total(k);
                if value > best.1 {
                    best = (k, value);
                }
            }
            block.extend_from_slice(&self.blocks[best.0]);
            return Some(best.0);
        }
        match self.selection {
            Selection::GreedyTree(by) => {
                let mut order = self.usable.clone();
                match by {
                    TreeScore::Gradient => order.sort_by(|&a, &b| g[b].abs().total_cmp(&g[a].abs())),
                    TreeScore::Scaled => {
                        let score = |j: usize| g[j] * g[j] / l[j];
                        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                    }
                    TreeScore::Random => order.shuffle(rng),
                }
                if let Some(a) = problem.graph() {
                    *block = greedy_forest(a, &order);
                }
            }
            Selection::GsqIht => *block = self.iht(problem, &g, &l, count),
            Selection::GsqGreedy => *block = self.greedy(problem, &g, count),
            _ => {
                let scores: Vec<f64> =
                    (0..g.len()).map(|j| if l[j] > 0.0 { score(j) } else { -1.0 }).collect();
                *block = largest(&scores, &self.usable, count);
            }
        }
        None
    }

    fn blind(&mut self, rng: &mut Pcg64, block: &mut Vec<usize>, count: usize) -> Option<usize> {
        let fixed = !self.blocks.is_empty();
        match self.selection {
            Selection::Cyclic if fixed => {
                let k = self.at % self.blocks.len();
                self.at += 1;
                block.extend_from_slice(&self.blocks[k]);
                Some(k)
            }
            Selection::Cyclic => {
                // A random permutation per sweep; the last block of a sweep may be short.
                if self.at >= self.order.len() {
                    self.order.clone_from(&self.usable);
                    self.order.shuffle(rng);
                    self.at = 0;
                }
                let end = (self.at + count).min(self.order.len());
                block.extend_from_slice(&self.order[self.at..end]);
                self.at = end;
                None
            }
            Selection::Lipschitz => {
                let total = *self.cumulative.last().unwrap_or(&0.0);
                let draw = |rng: &mut Pcg64| {
                    let u = rng.random::<f64>() * total;
                    self.cumulative.partition_point(|&c| c <= u).min(self.cumulative.len() - 1)
                };
                if fixed {
                    let k = draw(rng);
                    block.extend_from_slice(&self.blocks[k]);
                    return Some(k);
                }
                // Without replacement; a few dominant weights must not make it endless.
                for _ in 0..50 * count {
                    let j = self.usable[draw(rng)];
                    if !block.contains(&j) {
                        block.push(j);
                    }
                    if block.len() == count {
                        break;
                    }
                }
                while block.len() < count {
                    let j = self.usable[rng.random_range(0..self.usable.len())];
                    if !block.contains(&j) {
                        block.push(j);
                    }
                }
                None
            }
            _ if fixed => {
                let k = rng.random_range(0..self.blocks.len());
                block.extend_from_slice(&self.blocks[k]);
                Some(k)
            }
            _ => {
                let chosen = rand::seq::index::sample(rng, self.usable.len(), count);
                block.extend(chosen.into_iter().map(|k| self.usable[k]));
                None
            }
        }
    }

    /// Adds the variable with the largest GSD score at the exact minimum over the block so far, `count` times: variables
    /// that repeat each other are not taken together.
    fn greedy(&self, problem: &dyn BlockProblem, g: &[f64], count: usize) -> Vec<usize> {
        let mut block: Vec<usize> = Vec::with_capacity(count);
        let mut slope = g.to_vec();
        while block.len() < count {
            // Taken variables have no slope left; the mark keeps rounding from choosing them again.
            let scores: Vec<f64> = slope.iter().zip(&self.reciprocal).map(|(s, r)| s * s * r).collect();
            let free: Vec<usize> = self.usable.iter().copied().filter(|j| !block.contains(j)).collect();
            block.extend(largest(&scores, &free, 1));
            if block.len() == count {
                break;
            }
            let right = Mat::from_fn(block.len(), 1, |p, _| -g[block[p]]);
            let Ok(d) = solve_spd(&with_ridge(&problem.bound_block(&block)), &right) else { break };
            let bent = problem.bound_times(&block, &d.data);
            slope.iter_mut().zip(g).zip(&bent).for_each(|((s, g), b)| *s = g + b);
        }
        block
    }

    /// Iterative hard thresholding on `g d + d^T H d / 2` over `d` with `count` non-zeros, in the variables
    /// `u_j = sqrt(L_j) d_j`, whose curvatures are all one: without the scaling, variables of small columns would win by
    /// their size alone. It starts at the GSD block, and that block is kept if its exact decrease is the larger one.
    fn iht(&self, problem: &dyn BlockProblem, g: &[f64], l: &[f64], count: usize) -> Vec<usize> {
        let root: Vec<f64> = l.iter().map(|l| l.sqrt()).collect();
        let scores: Vec<f64> =
            (0..g.len()).map(|j| if l[j] > 0.0 { (g[j] / root[j]).abs() } else { -1.0 }).collect();
        let first_block = largest(&scores, &self.usable, count);
        let mut block = first_block.clone();
        let mut values: Vec<f64> = block.iter().map(|&j| -g[j] / root[j]).collect();
        let step = 1.0 / self.largest.max(f64::MIN_POSITIVE);
        let first = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        for _ in 0..IHT_STEPS {
            let plain: Vec<f64> = block.iter().zip(&values).map(|(&j, v)| v / root[j]).collect();
            let bent = problem.bound_times(&block, &plain);
            let mut full = vec![0.0; g.len()];
            for &j in &self.usable {
                full[j] = -step * (g[j] + bent[j]) / root[j];
            }
            block.iter().zip(&values).for_each(|(&j, v)| full[j] += v);
            let sizes: Vec<f64> = full.iter().map(|v| v.abs()).collect();
            let next = largest(&sizes, &self.usable, count);
            let new: Vec<f64> = next.iter().map(|&j| full[j]).collect();
            let mut difference: f64 = new.iter().map(|v| v * v).sum();
            for (&j, v) in block.iter().zip(&values) {
                let after = next.iter().position(|&k| k == j).map_or(0.0, |p| new[p]);
                difference += (after - v) * (after - v) - after * after;
            }
            block = next;
            values = new;
            if difference.max(0.0).sqrt() <= IHT_END * first {
                break;
            }
        }
        // g_b^T H_b^-1 g_b, twice the decrease of the exact step.
        let decrease = |block: &[usize]| -> f64 {
            let right = Mat::from_fn(block.len(), 1, |p, _| g[block[p]]);
            let solved = solve_spd(&with_ridge(&problem.bound_block(block)), &right);
            solved.map_or(0.0, |z| z.data.iter().zip(&right.data).map(|(a, b)| a * b).sum())
        };
        if block == first_block || decrease(&block) >= decrease(&first_block) { block } else { first_block }
    }
}

/// `L_j (x_j - prox(x_j - g_j / L_j))`, zero exactly where variable `j` is optimal; the gradient itself where there is no
/// penalty.
pub(super) fn effective_gradient(g: &[f64], l: &[f64], x: &[f64], penalty: Penalty) -> Vec<f64> {
    if penalty.is_none() {
        return g.to_vec();
    }
    (0..g.len())
        .map(|j| if l[j] > 0.0 { l[j] * (x[j] - penalty.prox(x[j] - g[j] / l[j], 1.0 / l[j])) } else { 0.0 })
        .collect()
}

/// What a one-dimensional proximal step promises at least: `-(g d + L d^2 / 2 + pen(x + d) - pen(x))`.
fn progress(g: f64, l: f64, x: f64, penalty: Penalty) -> f64 {
    let d = penalty.prox(x - g / l, 1.0 / l) - x;
    -(g * d + 0.5 * l * d * d + penalty.value(x + d) - penalty.value(x))
}

/// Up to this many, the largest scores are kept in a small sorted list; beyond it, partial sorting.
const SMALL: usize = 32;

/// The `count` of `among` (ascending) with the largest scores, largest first; the smaller index first among equals.
fn largest(scores: &[f64], among: &[usize], count: usize) -> Vec<usize> {
    if count <= SMALL {
        let mut best: Vec<usize> = Vec::with_capacity(count + 1);
        let mut bar = f64::NEG_INFINITY;
        for &j in among {
            if scores[j] > bar || best.len() < count {
                let at = best.partition_point(|&k| scores[k] >= scores[j]);
                best.insert(at, j);
                best.truncate(count);
                if best.len() == count {
                    bar = best.last().map_or(f64::INFINITY, |&k| scores[k]);
                }
            }
        }
        return best;
    }
    let mut order = among.to_vec();
    let descending = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, descending);
        order.truncate(count);
    }
    order.sort_unstable_by(descending);
    order
}

/// The largest eigenvalue of the bound matrix scaled to a unit diagonal.
fn power_iteration(problem: &dyn BlockProblem, usable: &[usize], rng: &mut Pcg64) -> f64 {
    let root: Vec<f64> = usable.iter().map(|&j| problem.lipschitz()[j].sqrt()).collect();
    let mut v: Vec<f64> = usable.iter().map(|_| rng.random_range(0.5..1.5)).collect();
    let mut value = 0.0;
    for _ in 0..100 {
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let plain: Vec<f64> = v.iter().zip(&root).map(|(v, r)| v / (norm * r)).collect();
        let bent = problem.bound_times(usable, &plain);
        let next: Vec<f64> = usable.iter().zip(&root).map(|(&j, r)| bent[j] / r).collect();
        let now: f64 = v.iter().zip(&next).map(|(v, n)| v * n / norm).sum();
        v = next;
        if (now - value).abs() <= 1e-6 * now {
            value = now;
            break;
        }
        value = now;
    }
    // From below: a little room keeps the step admissible.
    1.01 * value
}
