//! The polish of the last stage: the orthant-wise limited-memory quasi-Newton method (OWL-QN; Andrew and Gao, "Scalable
//! training of L1-regularized log-linear models", 2007) with a line search that stays inside the domain.
//!
//! Each step costs one or two evaluations (an inverse and a product each) and `4 memory d^2` for the direction. Zeros
//! are exact zeros, where the subgradient steps of Adam hover around them.

use std::collections::VecDeque;

use sparseland_core::Context;
use sparseland_linalg::Mat;

use super::adam::{Outcome, Task};
use super::objective::Objective;
use super::{ColideError, QuasiNewton};

/// Fraction of the linear decrease that a step must reach.
const ARMIJO: f64 = 1e-4;
/// Halvings before the line search gives up: 2^-40 of a step no longer changes the objective.
const HALVINGS: usize = 40;
/// The objective is compared over this many steps, so that one short step does not end the search.
const WINDOW: usize = 10;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The subgradient of least size of `f + mu sum lambda |w|`.
fn pseudo_gradient(objective: &Objective<'_>, mu: f64, w: &Mat<f64>, gradient: &[f64], out: &mut [f64]) {
    for k in 0..out.len() {
        let (g, l) = (gradient[k], mu * objective.lambda[k]);
        out[k] = if !objective.free[k] {
            0.0
        } else if w.data[k] > 0.0 {
            g + l
        } else if w.data[k] < 0.0 {
            g - l
        } else {
            // Inside [-l, l] zero is optimal.
            g - g.clamp(-l, l)
        };
    }
}

/// One stage from `start`; `None` when `start` lies outside the domain.
pub(super) fn minimise(
    objective: &mut Objective<'_>,
    settings: &QuasiNewton,
    task: Task,
    start: &Mat<f64>,
    context: &Context,
) -> Result<Option<Outcome>, ColideError> {
    let size = start.data.len();
    let (mu, s) = (task.mu, task.s);
    let mut w = start.clone();
    let Some(mut value) = objective.value(&w, s) else { return Ok(None) };
    let mut gradient = vec![0.0; size];
    objective.gradient(&w, mu, &mut gradient);
    let mut curvature = vec![1.0; size];
    objective.curvature(&w, mu, &mut curvature);
    let mut pseudo = vec![0.0; size];
    pseudo_gradient(objective, mu, &w, &gradient, &mut pseudo);
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    let mut recent = VecDeque::from([value.objective(mu)]);
    let mut checks = vec![(0, value.objective(mu))];
    let (mut candidate, mut next_gradient) = (w.clone(), gradient.clone());
    let (mut direction, mut weights) = (vec![0.0; size], vec![0.0; settings.memory]);
    let (mut iterations, mut converged) = (0, false);
    while iterations < task.max_iter {
        context.check_cancelled()?;
        iterations += 1;
        if pseudo.iter().all(|&g| g == 0.0) {
            converged = true;
            break;
        }
        // Two-loop recursion.
        for (d, g) in direction.iter_mut().zip(&pseudo) {
            *d = -g;
        }
        for (i, (step, change, inverse)) in pairs.iter().enumerate().rev() {
            weights[i] = inverse * dot(step, &direction);
            direction.iter_mut().zip(change).for_each(|(d, c)| *d -= weights[i] * c);
        }
        // The middle of the recursion: the exact diagonal of the Hessian. Entries that would close a cycle are up to a
        // thousand times steeper than the others in the last stage, which one common scale cannot mend.
        direction.iter_mut().zip(&curvature).for_each(|(d, c)| *d /= c.max(f64::MIN_POSITIVE));
        for (i, (step, change, inverse)) in pairs.iter().enumerate() {
            let beta = inverse * dot(change, &direction);
            direction.iter_mut().zip(step).for_each(|(d, s)| *d += (weights[i] - beta) * s);
        }
        // Only components that descend.
        let mut largest = 0.0f64;
        for (d, g) in direction.iter_mut().zip(&pseudo) {
            if *d * g >= 0.0 {
                *d = 0.0;
            }
            largest = largest.max(d.abs());
        }
        if largest == 0.0 {
            if pairs.is_empty() {
                converged = true;
                break;
            }
            pairs.clear();
            continue;
        }
        let mut length = (settings.largest_step / largest).min(1.0);
        let before = value.objective(mu);
        let mut moved = false;
        for _ in 0..HALVINGS {
            let mut decrease = 0.0;
            for k in 0..size {
                let old = w.data[k];
                let orthant = if old != 0.0 { old } else { -pseudo[k] };
                let new = old + length * direction[k];
                let new = if new * orthant > 0.0 { new } else { 0.0 };
                decrease += pseudo[k] * (new - old);
                candidate.data[k] = new;
            }
            if let Some(found) = objective.value(&candidate, s)
                && found.objective(mu) <= before + ARMIJO * decrease
            {
                value = found;
                moved = true;
                break;
            }
            length *= 0.5;
        }
        if !moved {
            if pairs.is_empty() {
                // Not even the steepest descent helps: the minimum to rounding.
                converged = true;
                break;
            }
            pairs.clear();
            continue;
        }
        objective.gradient(&candidate, mu, &mut next_gradient);
        objective.curvature(&candidate, mu, &mut curvature);
        let step: Vec<f64> = candidate.data.iter().zip(&w.data).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&step, &change);
        if curvature > 1e-10 * dot(&change, &change).sqrt() * dot(&step, &step).sqrt() {
            if pairs.len() == settings.memory {
                pairs.pop_front();
            }
            pairs.push_back((step, change, 1.0 / curvature));
        }
        std::mem::swap(&mut w, &mut candidate);
        std::mem::swap(&mut gradient, &mut next_gradient);
        pseudo_gradient(objective, mu, &w, &gradient, &mut pseudo);
        let now = value.objective(mu);
        if iterations % task.check_every == 0 {
            checks.push((iterations, now));
        }
        recent.push_back(now);
        if recent.len() > WINDOW {
            let old = recent.pop_front().unwrap_or(f64::INFINITY);
            if old - now <= task.tolerance * now.abs() {
                converged = true;
                break;
            }
        }
    }
    let value = objective.value(&w, s);
    if let Some(value) = value {
        checks.push((iterations, value.objective(mu)));
    }
    Ok(Some(Outcome { w, iterations, converged, value, checks }))
}
