//! The inner iteration of the paper: Adam with plain subgradients, one inverse and one product per step.

use sparseland_core::Context;
use sparseland_linalg::Mat;

use super::objective::{Objective, Value};
use super::{Adam, ColideError};

/// How a stage ended.
pub(super) struct Outcome {
    pub w: Mat<f64>,
    pub iterations: usize,
    pub converged: bool,
    /// Value at `w`; `None` only when the last step left the domain.
    pub value: Option<Value>,
    /// (iteration, objective) at every check.
    pub checks: Vec<(usize, f64)>,
}

/// What a stage minimises and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    pub mu: f64,
    pub s: f64,
    pub max_iter: usize,
    pub check_every: usize,
    pub tolerance: f64,
}

/// A learning rate below this no longer moves a weight of order one.
const LEAST_RATE: f64 = 1e-16;
/// Below this domain parameter a stage that leaves the domain is begun anew instead of halving its step.
const RESTART_BELOW: f64 = 0.9;

/// One stage from `start`; `None` when it must be begun anew with a larger `s`.
pub(super) fn minimise(
    objective: &mut Objective<'_>,
    settings: &Adam,
    task: Task,
    start: &Mat<f64>,
    mut rate: f64,
    context: &Context,
) -> Result<Option<Outcome>, ColideError> {
    let size = start.data.len();
    let mut w = start.clone();
    let (mut first, mut second) = (vec![0.0; size], vec![0.0; size]);
    let (mut step, mut gradient) = (vec![0.0; size], vec![0.0; size]);
    let mut checks = Vec::new();
    let mut previous = f64::INFINITY;
    objective.rescale(&w);
    for iteration in 1..=task.max_iter {
        while objective.enter(&w, task.s).is_none() {
            if iteration == 1 || task.s <= RESTART_BELOW {
                return Ok(None);
            }
            // Back to the point before the last step, then half of it.
            for (w, step) in w.data.iter_mut().zip(&step) {
                *w += 0.5 * rate * step;
            }
            rate *= 0.5;
            if rate <= LEAST_RATE {
                return Ok(Some(Outcome { w, iterations: iteration, converged: false, value: None, checks }));
            }
            objective.rescale(&w);
        }
        objective.gradient(&w, task.mu, &mut gradient);
        let (b1, b2) = (settings.beta1, settings.beta2);
        let power = i32::try_from(iteration).unwrap_or(i32::MAX);
        let (c1, c2) = (1.0 / (1.0 - b1.powi(power)), 1.0 / (1.0 - b2.powi(power)));
        for k in 0..size {
            let sign = f64::from(i8::from(w.data[k] > 0.0) - i8::from(w.data[k] < 0.0));
            let g = gradient[k] + task.mu * objective.lambda[k] * sign;
            first[k] = b1 * first[k] + (1.0 - b1) * g;
            second[k] = b2 * second[k] + (1.0 - b2) * g * g;
            step[k] = first[k] * c1 / ((second[k] * c2).sqrt() + settings.epsilon);
            w.data[k] -= rate * step[k];
        }
        objective.rescale(&w);
        if iteration % task.check_every == 0 || iteration == task.max_iter {
            context.check_cancelled()?;
            let Some(value) = objective.value(&w, task.s) else { continue };
            let now = value.objective(task.mu);
            checks.push((iteration, now));
            let converged = ((previous - now) / previous).abs() <= task.tolerance;
            if converged || iteration == task.max_iter {
                return Ok(Some(Outcome { w, iterations: iteration, converged, value: Some(value), checks }));
            }
            previous = now;
        }
    }
    Ok(Some(Outcome { w, iterations: task.max_iter, converged: false, value: None, checks }))
}
