//! How a block moves.

use sparseland_linalg::{Mat, cholesky_robust, eigh};

use super::penalty::Penalty;
use super::problem::BlockProblem;
use super::select::largest_eigenvalue;
use super::tree::TreeSolver;
use super::{BcdError, Update};

/// Armijo constant of the Newton line search (published code).
const ARMIJO: f64 = 1e-10;
/// Halvings before a line search gives up.
const HALVINGS: usize = 60;
/// Below this a non-negative variable with a positive gradient counts as active (published code).
const ACTIVE: f64 = 1e-4;
/// Eigenvalues below this fraction of the largest count as zero.
const NULL: f64 = 1e-12;
/// From this size on `L_b` is bounded by row sums instead of computed.
const EIGEN_LIMIT: usize = 256;
/// Sweeps of coordinate descent on a block model.
const SWEEPS: usize = 2000;

pub(super) struct Updater {
    update: Update,
    penalty: Penalty,
    /// Estimates of the Lipschitz approximation, one per variable.
    estimates: Vec<f64>,
    tree: Option<TreeSolver>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `-H^-1 g`, the pseudo-inverse where `H` is singular.
fn newton(h: &Mat<f64>, g: &[f64], block: &[usize]) -> Result<Vec<f64>, BcdError> {
    let n = g.len();
    if n == 1 {
        return match h.data[0] {
            v if v > 0.0 => Ok(vec![-g[0] / v]),
            0.0 => Ok(vec![0.0]),
            _ => Err(BcdError::NotConvex { coordinate: block[0] }),
        };
    }
    if let Some(at) = (0..n).find(|&i| h.data[i * n + i] < 0.0) {
        return Err(BcdError::NotConvex { coordinate: block[at] });
    }
    let (scaled, root) = unit_diagonal(h);
    let mut step: Vec<f64> = g.iter().zip(&root).map(|(g, r)| -g / r).collect();
    let negative = Mat { rows: n, cols: 1, data: step.clone() };
    if let Ok(whitener) = cholesky_robust(&scaled)
        && whitener.jitter() == 0.0
    {
        let solved = whitener.solve_gram(&negative)?.data;
        return Ok(solved.iter().zip(&root).map(|(z, r)| z / r).collect());
    }
    let e = eigh(&scaled)?;
    let largest = e.values[0].abs().max(e.values[n - 1].abs());
    if e.values[n - 1] < -1e-9 * largest {
        // The variable that takes most part in the direction of negative curvature.
        let at =
            (0..n).max_by(|&a, &b| e.vectors.at(a, n - 1).abs().total_cmp(&e.vectors.at(b, n - 1).abs()));
        return Err(BcdError::NotConvex { coordinate: block[at.unwrap_or(0)] });
    }
    step.fill(0.0);
    for (k, &value) in e.values.iter().enumerate() {
        if value > NULL * largest {
            let weight = (0..n).map(|i| e.vectors.at(i, k) * negative.data[i]).sum::<f64>() / value;
            (0..n).for_each(|i| step[i] += weight * e.vectors.at(i, k));
        }
    }
    step.iter_mut().zip(&root).for_each(|(s, r)| *s /= r);
    Ok(step)
}

/// `D^-1/2 H D^-1/2` with the diagonal `D` of `H`, and the roots of `D` (1 where it is zero). Variables on very different
/// scales would look singular without it.
fn unit_diagonal(h: &Mat<f64>) -> (Mat<f64>, Vec<f64>) {
    let n = h.rows;
    let root: Vec<f64> = (0..n)
        .map(|i| {
            let v = h.data[i * n + i];
            if v > 0.0 { v.sqrt() } else { 1.0 }
        })
        .collect();
    (Mat::from_fn(n, n, |i, j| h.data[i * n + j] / (root[i] * root[j])), root)
}

/// `argmin over s of g s + s^T H s / 2 + sum pen(x + s)`, to rounding: sweeps of coordinate descent, and between them a
/// Newton step of the variables that lie on a linear piece of the penalty, cut short where the first of them would leave
/// its piece. Coordinate descent finds the pieces, the Newton steps the minimum on them.
fn block_model(h: &Mat<f64>, g: &[f64], x: &[f64], penalty: Penalty) -> Vec<f64> {
    const SWEEPS_PER_NEWTON: usize = 10;
    let n = g.len();
    let mut s = vec![0.0; n];
    let mut slope = g.to_vec();
    let apply = |s: &mut [f64], slope: &mut [f64], j: usize, change: f64| {
        s[j] += change;
        slope.iter_mut().zip(h.row(j)).for_each(|(v, h)| *v += change * h);
    };
    for sweep in 1..=SWEEPS {
        let (mut moved, mut size) = (0.0f64, 0.0f64);
        for j in 0..n {
            let l = h.data[j * n + j];
            if l <= 0.0 {
                continue;
            }
            let now = x[j] + s[j];
            let change = penalty.prox(now - slope[j] / l, 1.0 / l) - now;
            if change != 0.0 {
                apply(&mut s, &mut slope, j, change);
                moved = moved.max(change.abs() * l.sqrt());
            }
            size = size.max((x[j] + s[j]).abs() * l.sqrt());
        }
        if moved <= 1e-15 * size {
            break;
        }
        if sweep % SWEEPS_PER_NEWTON != 0 {
            continue;
        }
        let pieces: Vec<(usize, (f64, f64, f64))> = (0..n)
            .filter(|&j| h.data[j * n + j] > 0.0)
            .filter_map(|j| Some((j, penalty.piece(x[j] + s[j])?)))
            .collect();
        let m = pieces.len();
        let sub = Mat::from_fn(m, m, |a, b| h.at(pieces[a].0, pieces[b].0));
        let right = Mat::from_fn(m, 1, |a, _| -(slope[pieces[a].0] + pieces[a].1.0));
        // A singular piece is left to coordinate descent.
        let (scaled, root) = unit_diagonal(&sub);
        let Ok(whitener) = cholesky_robust(&scaled) else { continue };
        if whitener.jitter() > 0.0 {
            continue;
        }
        let mut right = right;
        right.data.iter_mut().zip(&root).for_each(|(v, r)| *v /= r);
        let Ok(mut step) = whitener.solve_gram(&right) else { continue };
        step.data.iter_mut().zip(&root).for_each(|(v, r)| *v /= r);
        let mut length = 1.0f64;
        for ((j, (_, low, high)), z) in pieces.iter().zip(&step.data) {
            let room = if *z > 0.0 { high - (x[*j] + s[*j]) } else { low - (x[*j] + s[*j]) };
            if *z != 0.0 {
                length = length.min(room / z);
            }
        }
        for ((j, (_, low, high)), z) in pieces.iter().zip(&step.data) {
            let now = x[*j] + s[*j];
            // The one that ends at its bound ends there exactly.
            let new = (now + length * z).clamp(*low, *high);
            apply(&mut s, &mut slope, *j, new - now);
        }
    }
    s
}

impl Updater {
    pub(super) fn new(
        problem: &dyn BlockProblem,
        update: Update,
        penalty: Penalty,
    ) -> Result<Self, BcdError> {
        let nonnegative = matches!(penalty, Penalty::NonNegative | Penalty::NonNegativeL1(_));
        match update {
            Update::LineSearch | Update::Tree if !penalty.is_none() => {
                return Err(BcdError::Unsupported(
                    "this update has no penalty; take a gradient, matrix or projected Newton update",
                ));
            }
            Update::TwoMetric if !nonnegative => {
                return Err(BcdError::Unsupported("two-metric projection needs a non-negative penalty"));
            }
            Update::Tree if problem.graph().is_none() => {
                return Err(BcdError::Unsupported("tree updates need a quadratic with a sparse graph"));
            }
            _ => {}
        }
        let d = problem.dimension();
        Ok(Updater {
            update,
            penalty,
            estimates: if update == Update::LipschitzSearch { vec![1.0; d] } else { Vec::new() },
            tree: (update == Update::Tree).then(|| TreeSolver::new(d)),
        })
    }

    /// The step of a block with gradient `g`; `bound` is its `L_b` where it is known.
    pub(super) fn step(
        &mut self,
        problem: &mut dyn BlockProblem,
        block: &[usize],
        g: &[f64],
        bound: Option<f64>,
    ) -> Result<Vec<f64>, BcdError> {
        let x: Vec<f64> = block.iter().map(|&j| problem.point()[j]).collect();
        let penalty = self.penalty;
        let gradient_step = |l: f64| -> Vec<f64> {
            x.iter().zip(g).map(|(x, g)| penalty.prox(x - g / l, 1.0 / l) - x).collect()
        };
        let total = |s: &[f64]| x.iter().zip(s).map(|(x, s)| penalty.value(x + s)).sum::<f64>();
        match self.update {
            Update::Lipschitz => {
                let l = match bound {
                    Some(l) => l,
                    None => {
                        let h = problem.bound_block(block);
                        if block.len() <= EIGEN_LIMIT {
                            largest_eigenvalue(&h)?
                        } else {
                            let sum = |i: usize| h.row(i).iter().map(|v| v.abs()).sum::<f64>();
                            (0..h.rows).map(sum).fold(0.0, f64::max)
                        }
                    }
                };
                // Rounding of the eigenvalue must not make the step too long.
                Ok(gradient_step(l * (1.0 + 1e-12)))
            }
            Update::LipschitzSearch => {
                let mut l = block.iter().map(|&j| self.estimates[j]).fold(0.0, f64::max);
                let before = problem.value();
                let slack = 1e-14 * before.abs();
                let mut step = gradient_step(l);
                for _ in 0..200 {
                    let promised = before + dot(g, &step) + 0.5 * l * dot(&step, &step);
                    if problem.value_after(block, &step) <= promised + slack {
                        break;
                    }
                    l *= 2.0;
                    step = gradient_step(l);
                }
                block.iter().for_each(|&j| self.estimates[j] = l);
                Ok(step)
            }
            Update::Matrix => {
                let h = problem.bound_block(block);
                if penalty.is_none() { newton(&h, g, block) } else { Ok(block_model(&h, g, &x, penalty)) }
            }
            Update::LineSearch => {
                let step = newton(&problem.hessian_block(block), g, block)?;
                Ok(armijo(problem, block, step, g))
            }
            Update::ProjectedNewton => {
                let h = problem.hessian_block(block);
                let step = block_model(&h, g, &x, penalty);
                if problem.is_quadratic() {
                    return Ok(step);
                }
                let before = problem.value() + total(&vec![0.0; step.len()]);
                let promised = dot(g, &step) + total(&step) - total(&vec![0.0; step.len()]);
                let mut t = 1.0;
                for _ in 0..HALVINGS {
                    let scaled: Vec<f64> = step.iter().map(|s| t * s).collect();
                    let after = problem.value_after(block, &scaled) + total(&scaled);
                    if after <= before + 1e-4 * t * promised {
                        return Ok(scaled);
                    }
                    t *= 0.5;
                }
                Ok(vec![0.0; step.len()])
            }
            Update::TwoMetric => two_metric(problem, block, g, &x, penalty),
            Update::Tree => {
                let graph = problem.graph().ok_or(BcdError::Unsupported("tree updates need a graph"))?;
                let solver = self.tree.as_mut().ok_or(BcdError::Unsupported("tree updates need a graph"))?;
                solver
                    .step(graph, block, g)?
                    .ok_or(BcdError::Unsupported("the block has a cycle; take trees, colours or GreedyTree"))
            }
        }
    }
}

/// Backtracking along `step`: quadratic interpolation for the first reduction, cubic afterwards.
fn armijo(problem: &mut dyn BlockProblem, block: &[usize], step: Vec<f64>, g: &[f64]) -> Vec<f64> {
    let slope = dot(g, &step);
    if slope >= 0.0 {
        return vec![0.0; step.len()];
    }
    let before = problem.value();
    let scale = |t: f64| -> Vec<f64> { step.iter().map(|s| t * s).collect() };
    let (mut t, mut last) = (1.0f64, None::<(f64, f64)>);
    for _ in 0..HALVINGS {
        let candidate = scale(t);
        let after = problem.value_after(block, &candidate);
        if after <= before + ARMIJO * t * slope {
            return candidate;
        }
        let next = match last {
            _ if !after.is_finite() => 0.1 * t,
            None => -slope * t * t / (2.0 * (after - before - slope * t)),
            Some((t0, f0)) => {
                // The cubic through both values with the slope at zero.
                let (r1, r0) = (after - before - slope * t, f0 - before - slope * t0);
                let difference = t - t0;
                let a = (r1 / (t * t) - r0 / (t0 * t0)) / difference;
                let b = (-t0 * r1 / (t * t) + t * r0 / (t0 * t0)) / difference;
                if a.abs() < 1e-300 {
                    -slope / (2.0 * b)
                } else {
                    (-b + (b * b - 3.0 * a * slope).max(0.0).sqrt()) / (3.0 * a)
                }
            }
        };
        last = Some((t, after));
        t = if next.is_finite() { next.clamp(0.1 * t, 0.5 * t) } else { 0.5 * t };
    }
    vec![0.0; step.len()]
}

/// Two-metric projection (Gafni and Bertsekas 1984): a diagonal step for variables that rest at zero, a Newton step for
/// the others, and a line search along the projected path.
fn two_metric(
    problem: &mut dyn BlockProblem,
    block: &[usize],
    g: &[f64],
    x: &[f64],
    penalty: Penalty,
) -> Result<Vec<f64>, BcdError> {
    let slope_of_penalty = if let Penalty::NonNegativeL1(l) = penalty { l } else { 0.0 };
    let g: Vec<f64> = g.iter().map(|g| g + slope_of_penalty).collect();
    let n = block.len();
    let active: Vec<bool> = (0..n).map(|p| x[p] < ACTIVE && g[p] > 0.0).collect();
    let sum: f64 = (0..n).filter(|&p| active[p]).map(|p| problem.lipschitz()[block[p]]).sum();
    let mut direction: Vec<f64> = (0..n).map(|p| if active[p] { -g[p] / sum } else { 0.0 }).collect();
    let rest: Vec<usize> = (0..n).filter(|&p| !active[p]).collect();
    if !rest.is_empty() {
        let inner: Vec<usize> = rest.iter().map(|&p| block[p]).collect();
        let part: Vec<f64> = rest.iter().map(|&p| g[p]).collect();
        let step = newton(&problem.hessian_block(&inner), &part, &inner)?;
        rest.iter().zip(&step).for_each(|(&p, s)| direction[p] = *s);
    }
    let before = problem.value() + slope_of_penalty * x.iter().sum::<f64>();
    let mut t = 1.0;
    for _ in 0..HALVINGS {
        let step: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| (x + t * d).max(0.0) - x).collect();
        let value = problem.value_after(block, &step)
            + slope_of_penalty * x.iter().zip(&step).map(|(x, s)| x + s).sum::<f64>();
        if value <= before + ARMIJO * dot(&g, &step).min(0.0) {
            return Ok(step);
        }
        t *= 0.5;
    }
    Ok(vec![0.0; n])
}
