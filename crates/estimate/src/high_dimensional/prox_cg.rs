//! Proximal nonlinear conjugate gradients for `f(x) + sum_j pen_j(x_j)`, `f` smooth.
//!
//! ```text
//! d_k = -grad f(x_k) + beta_k d_(k-1),   x_(k+1) = prox_(t pen)(x_k + t d_k),   d_k := (x_(k+1) - x_k) / t afterwards
//! ```
//!
//! A step starts at the Barzilai-Borwein length and is halved until `F` falls below the greatest of its last five
//! values. The text and code of the thesis were not at hand: this is our derivation. One thing had to differ from a
//! plain transfer of conjugate gradients: near a solution `grad f` does not vanish where coordinates are penalised, so
//! that formulas for `beta` with `grad f` lose their meaning. Here they use the least subgradient of `F`, and the
//! direction that is kept is the displacement that the prox let happen; on the coordinates that are not zero this is
//! nonlinear conjugate gradients (Polak-Ribiere, capped by Dai-Yuan) of the penalised function itself.
//!
//! Cost: one value and gradient of `f` per trial step, most of which are accepted; memory of a few vectors.

use sparseland_optim::penalty::Penalty;

/// Values that an accepted one may not exceed all of.
const MEMORY: usize = 5;
/// Sufficient decrease.
const DECREASE: f64 = 1e-4;
/// Steps after which the direction is the gradient again.
const RESTART: usize = 50;
/// A direction must make at least this angle, as a cosine, with the level set.
const DESCENT: f64 = 0.1;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProxCg {
    /// Stop when no coordinate's distance to stationarity is above this.
    pub tol: f64,
    /// Most evaluations of `f`.
    pub max_evaluations: usize,
    /// Whether directions are conjugated; without, these are Barzilai-Borwein proximal gradients.
    pub conjugate: bool,
}

impl Default for ProxCg {
    fn default() -> Self {
        Self { tol: 1e-6, max_evaluations: 2000, conjugate: true }
    }
}

/// Where a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The point.
    pub x: Vec<f64>,
    /// `f(x) + sum_j pen_j(x_j)`.
    pub objective: f64,
    /// Evaluations of `f` with its gradient, rejected steps included.
    pub evaluations: usize,
    /// Greatest distance to stationarity.
    pub kkt: f64,
    /// Whether that is within the tolerance.
    pub converged: bool,
}

/// The subgradient of `F` of least size; 0 exactly where a coordinate is stationary at 0.
fn least_subgradient(penalty: &dyn Penalty, x: &[f64], gradient: &[f64], out: &mut [f64]) -> f64 {
    let mut kkt = 0.0f64;
    for (j, out) in out.iter_mut().enumerate() {
        *out = match penalty.derivatives(j, x[j]) {
            Some((slope, _)) if x[j] != 0.0 => gradient[j] + slope,
            _ => penalty.distance(j, x[j], gradient[j]).copysign(gradient[j]),
        };
        kkt = kkt.max(penalty.distance(j, x[j], gradient[j]));
    }
    kkt
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl ProxCg {
    /// Minimises from `start`. `smooth` returns `f(x)` and writes its gradient; `curvature` is a guess of its greatest
    /// curvature, which only sets the first step and the bounds of steps.
    ///
    /// A point at which nothing can be improved in f64 is returned as it is, converged or not.
    pub fn minimise(
        &self,
        smooth: &mut dyn FnMut(&[f64], &mut [f64]) -> f64,
        penalty: &dyn Penalty,
        curvature: f64,
        start: Vec<f64>,
    ) -> Minimum {
        let p = start.len();
        let value = |x: &[f64]| x.iter().enumerate().map(|(j, w)| penalty.value(j, *w)).sum::<f64>();
        let mut x = start;
        let mut gradient = vec![0.0; p];
        let mut objective = smooth(&x, &mut gradient) + value(&x);
        let (mut least, mut before) = (vec![0.0; p], vec![0.0; p]);
        let mut kkt = least_subgradient(penalty, &x, &gradient, &mut least);
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut recent = vec![objective];
        let (mut step, mut evaluations, mut since) = (1.0 / curvature, 1, 0);
        let (mut next, mut next_gradient) = (vec![0.0; p], vec![0.0; p]);
        while kkt > self.tol && evaluations < self.max_evaluations {
            let ceiling = recent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut accepted = None;
            while evaluations < self.max_evaluations {
                for j in 0..p {
                    next[j] = penalty.prox(j, x[j] + step * direction[j], step);
                }
                let moved: f64 = x.iter().zip(&next).map(|(a, b)| (a - b) * (a - b)).sum();
                if moved == 0.0 {
                    break;
                }
                let found = smooth(&next, &mut next_gradient) + value(&next);
                evaluations += 1;
                if found <= ceiling - DECREASE * moved / (2.0 * step) {
                    accepted = Some(found);
                    break;
                }
                step *= 0.5;
                if step < 1e-3 / curvature {
                    break;
                }
            }
            let Some(found) = accepted else {
                if since == 0 {
                    // The gradient itself leads nowhere: rounding ends here.
                    break;
                }
                direction.iter_mut().zip(&gradient).for_each(|(d, g)| *d = -g);
                (step, since) = (1.0 / curvature, 0);
                continue;
            };
            // Displacement, and the change of the smooth gradient along it.
            for (d, (a, b)) in direction.iter_mut().zip(x.iter().zip(&next)) {
                *d = (b - a) / step;
            }
            let length = dot(&direction, &direction) * step * step;
            let change: f64 = direction
                .iter()
                .zip(next_gradient.iter().zip(&gradient))
                .map(|(d, (a, b))| d * (a - b) * step)
                .sum();
            std::mem::swap(&mut x, &mut next);
            std::mem::swap(&mut gradient, &mut next_gradient);
            objective = found;
            recent.push(objective);
            if recent.len() > MEMORY {
                recent.remove(0);
            }
            std::mem::swap(&mut least, &mut before);
            kkt = least_subgradient(penalty, &x, &gradient, &mut least);
            since += 1;
            let size = dot(&least, &least);
            let yield_: f64 = least.iter().zip(&before).map(|(a, b)| a * (a - b)).sum();
            let polak = yield_ / dot(&before, &before).max(f64::MIN_POSITIVE);
            let slope: f64 =
                direction.iter().zip(least.iter().zip(&before)).map(|(d, (a, b))| d * (a - b)).sum();
            let dai = size / slope;
            let mut beta = if self.conjugate && slope > 0.0 { polak.min(dai).max(0.0) } else { 0.0 };
            // Coordinates that the prox has set to zero leave the direction with it.
            let downhill = beta * dot(&direction, &least) - size;
            if since >= RESTART || downhill > -DESCENT * size {
                (beta, since) = (0.0, 1);
            }
            for (d, g) in direction.iter_mut().zip(&gradient) {
                *d = beta * *d - g;
            }
            step = if change > 0.0 { length / change } else { 1.0 / curvature };
            step = step.clamp(1e-3 / curvature, 1e3 / curvature);
        }
        Minimum { x, objective, evaluations, kkt, converged: kkt <= self.tol }
    }
}

/// Proximal gradients with step `1 / curvature`, and their acceleration with restart (FISTA; O'Donoghue and Candès
/// 2015), for comparison. Returns the evaluations until the objective is at most `target`, or `None`.
pub fn first_order(
    smooth: &mut dyn FnMut(&[f64], &mut [f64]) -> f64,
    penalty: &dyn Penalty,
    curvature: f64,
    start: Vec<f64>,
    accelerated: bool,
    target: f64,
    most: usize,
) -> Option<usize> {
    let p = start.len();
    let (mut x, mut probe) = (start.clone(), start);
    let mut gradient = vec![0.0; p];
    let (mut momentum, mut last) = (1.0f64, f64::INFINITY);
    // The objective at x is looked at outside the count: an observer's work, not the method's.
    let mut scratch = vec![0.0; p];
    for evaluations in 1..=most {
        smooth(&probe, &mut gradient);
        let before = x.clone();
        for j in 0..p {
            x[j] = penalty.prox(j, probe[j] - gradient[j] / curvature, 1.0 / curvature);
        }
        let objective =
            smooth(&x, &mut scratch) + x.iter().enumerate().map(|(j, w)| penalty.value(j, *w)).sum::<f64>();
        if objective <= target {
            return Some(evaluations);
        }
        probe.copy_from_slice(&x);
        if accelerated {
            if objective > last {
                momentum = 1.0;
            }
            let next = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt());
            let factor = (momentum - 1.0) / next;
            probe.iter_mut().zip(x.iter().zip(&before)).for_each(|(y, (a, b))| *y += factor * (a - b));
            momentum = next;
        }
        last = objective;
    }
    None
}
