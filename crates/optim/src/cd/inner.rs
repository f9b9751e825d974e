//! Penalised least squares on a working set.

use sparseland_matrix::vector;

use super::anderson::Anderson;
use super::quadratic::Quadratic;
use super::{Options, anderson};
use crate::penalty::Penalty;

/// A Newton step that lowers the objective by less than this part of the objective at zero, because of
/// rounding, still counts when no coefficient changed its sign.
const ROUNDING: f64 = 1e-15;

/// Rate of convergence of sweeps that is assumed before it is known.
const FIRST_RATE: f64 = 0.7;

/// The state of a problem in terms of its Gram matrix: `q = G w - c`, the gradient of the loss.
struct Local {
    coef: Vec<f64>,
    gradient: Vec<f64>,
}

/// How fast sweeps converge.
struct Pace {
    rate: f64,
    last: f64,
}

impl Pace {
    fn note(&mut self, worst: f64) {
        if self.last.is_finite() {
            // The mean with the past steadies what single sweeps say.
            self.rate = (0.5 * (self.rate + worst / self.last)).clamp(0.01, 0.9999);
        }
        self.last = worst;
    }

    /// Sweeps that are still needed to come down to `tol` at this rate.
    fn sweeps_to(&self, tol: f64) -> f64 {
        (tol / self.last).ln() / self.rate.ln()
    }
}

/// What came of a Newton step.
enum Newton {
    Taken,
    /// Sweeps would be done earlier.
    TooDear,
    Failed,
}

impl Quadratic<'_> {
    /// Minimises over the features in `work` until no coefficient moves its gradient by more than
    /// `tol`. Returns the sweeps made. The residual is not kept up to date.
    pub(super) fn inner(
        &mut self,
        work: &[u32],
        penalty: &dyn Penalty,
        tol: f64,
        options: &Options,
    ) -> usize {
        // Very sparse columns: sweeps over the residual are so cheap that the Gram matrix has to earn its
        // cost, which is that of this many sweeps.
        let per_column = self.design.design().stored() / self.coef.len().max(1);
        let mut sweeps = 0;
        if 4 * per_column < work.len() {
            let (made, done) = self.inner_residual(work, penalty, tol, (work.len() / 4).max(20));
            if done {
                return made;
            }
            sweeps = made;
        }
        if self.gram.len() + self.gram.missing(work) > options.gram_limit {
            self.gram.clear();
            self.factor.clear();
            if work.len() > options.gram_limit {
                return sweeps + self.inner_residual(work, penalty, tol, options.max_sweeps).0;
            }
        }
        self.gram.insert(&self.design, self.normaliser, work);
        sweeps + self.inner_gram(work, penalty, tol, options)
    }

    fn inner_gram(&mut self, work: &[u32], penalty: &dyn Penalty, tol: f64, options: &Options) -> usize {
        let slots: Vec<usize> = work.iter().filter_map(|&j| self.gram.slot(j)).collect();
        let features = self.gram.features();
        let mut local = Local {
            coef: features.iter().map(|&j| self.coef[j as usize]).collect(),
            gradient: features.iter().map(|&j| -self.correlations[j as usize]).collect(),
        };
        for slot in 0..local.coef.len() {
            if local.coef[slot] != 0.0 {
                vector::axpy(local.coef[slot], self.gram.row(slot), &mut local.gradient);
            }
        }
        let mut sweeps = 0;
        let (mut wait, mut patience) = (1usize, 1usize);
        let mut pace = Pace { rate: FIRST_RATE, last: f64::INFINITY };
        while sweeps < options.max_sweeps {
            sweeps += 1;
            let worst = self.sweep_gram(&slots, penalty, &mut local);
            if worst <= tol {
                break;
            }
            pace.note(worst);
            wait -= 1;
            if wait == 0 {
                // A support that still moves makes steps fail; leave it to the sweeps for a while.
                let patient = pace.sweeps_to(tol);
                match self.newton(&slots, penalty, &mut local, tol, patient) {
                    Newton::TooDear => patience = 1,
                    Newton::Taken => (patience, pace.last) = (1, f64::INFINITY),
                    Newton::Failed => patience *= 2,
                }
                wait = patience;
            }
        }
        for &slot in &slots {
            self.coef[self.gram.features()[slot] as usize] = local.coef[slot];
        }
        sweeps
    }

    /// One pass over the coordinates; the greatest change in units of the gradient.
    fn sweep_gram(&self, slots: &[usize], penalty: &dyn Penalty, local: &mut Local) -> f64 {
        let mut worst = 0.0f64;
        let features = self.gram.features();
        for &slot in slots {
            let (j, curvature) = (features[slot] as usize, self.gram.at(slot, slot));
            let (old, gradient) = (local.coef[slot], local.gradient[slot]);
            if old == 0.0 && gradient.abs() <= penalty.entry(j, curvature) {
                continue;
            }
            let new = penalty.prox(j, old - gradient / curvature, 1.0 / curvature);
            let change = new - old;
            if change != 0.0 {
                worst = worst.max(change.abs() * curvature);
                local.coef[slot] = new;
                vector::axpy(change, self.gram.row(slot), &mut local.gradient);
            }
        }
        worst
    }

    /// A Newton step on the support, if it costs less than `sweeps` sweeps.
    fn newton(
        &mut self,
        slots: &[usize],
        penalty: &dyn Penalty,
        local: &mut Local,
        tol: f64,
        sweeps: f64,
    ) -> Newton {
        let size = self.gram.len();
        let mut curvature: Vec<Option<f64>> = vec![None; size];
        let mut slope = vec![0.0; size];
        let mut support = Vec::new();
        let mut worst = 0.0f64;
        for &slot in slots {
            let w = local.coef[slot];
            let j = self.gram.features()[slot] as usize;
            if w == 0.0 && penalty.threshold(j) > 0.0 {
                continue;
            }
            if let Some((first, second)) = penalty.derivatives(j, w) {
                slope[slot] = local.gradient[slot] + first;
                worst = worst.max(slope[slot].abs());
                curvature[slot] = Some(second);
                support.push(slot);
            }
        }
        if worst <= 0.1 * tol {
            return Newton::Taken;
        }
        let products = (support.len() * size) as f64;
        if self.factor.cost(support.len(), &curvature) + products > sweeps * products {
            return Newton::TooDear;
        }
        self.factor.update(&self.gram, &support, &curvature);
        let order = self.factor.order().to_vec();
        let mut direction: Vec<f64> = order.iter().map(|&s| -slope[s]).collect();
        self.factor.solve(&mut direction);
        if direction.iter().any(|d| !d.is_finite()) {
            return Newton::Failed;
        }
        let allowed = |slot: usize, w: f64| {
            let old = local.coef[slot];
            old * w > 0.0 || (old == 0.0 && !(penalty.is_positive() && w < 0.0))
        };
        // All the way, sign changes cut off at zero.
        let mut crossed = false;
        let mut first_crossing = 1.0f64;
        let mut trial: Vec<f64> = Vec::with_capacity(order.len());
        for (&slot, d) in order.iter().zip(&direction) {
            let old = local.coef[slot];
            if allowed(slot, old + d) {
                trial.push(old + d);
            } else {
                crossed = true;
                first_crossing = first_crossing.min(-old / d);
                trial.push(0.0);
            }
        }
        let slack = if crossed { 0.0 } else { ROUNDING * self.null_loss() };
        if self.step(&order, &trial, penalty, local, slack) {
            return Newton::Taken;
        }
        if !crossed {
            return Newton::Failed;
        }
        // To the first change of sign: certain to help where the problem is convex.
        for ((w, &slot), d) in trial.iter_mut().zip(&order).zip(&direction) {
            let old = local.coef[slot];
            let at = old + first_crossing * d;
            *w = if old == 0.0 || at * old > 0.0 { at } else { 0.0 };
        }
        if self.step(&order, &trial, penalty, local, 0.0) { Newton::Taken } else { Newton::Failed }
    }

    /// Moves to the trial coefficients if that lowers the objective (or raises it by at most `slack`).
    fn step(
        &self,
        order: &[usize],
        trial: &[f64],
        penalty: &dyn Penalty,
        local: &mut Local,
        slack: f64,
    ) -> bool {
        let mut product = vec![0.0; self.gram.len()];
        let mut change = 0.0;
        for (&slot, &w) in order.iter().zip(trial) {
            let old = local.coef[slot];
            if w != old {
                let j = self.gram.features()[slot] as usize;
                vector::axpy(w - old, self.gram.row(slot), &mut product);
                change += local.gradient[slot] * (w - old) + penalty.value(j, w) - penalty.value(j, old);
            }
        }
        for (&slot, &w) in order.iter().zip(trial) {
            change += 0.5 * product[slot] * (w - local.coef[slot]);
        }
        let taken = change < 0.0 || (change.is_finite() && change <= slack);
        if taken {
            order.iter().zip(trial).for_each(|(&slot, &w)| local.coef[slot] = w);
            local.gradient.iter_mut().zip(&product).for_each(|(q, p)| *q += p);
        }
        taken
    }

    /// Sweeps over the residual, for working sets whose Gram matrix would be too large or too dear. The
    /// sweeps made, and whether they converged.
    fn inner_residual(
        &mut self,
        work: &[u32],
        penalty: &dyn Penalty,
        tol: f64,
        most: usize,
    ) -> (usize, bool) {
        let n = self.normaliser;
        let curvature: Vec<f64> = work.iter().map(|&j| self.design.squared_norms()[j as usize] / n).collect();
        let objective = |problem: &Self| {
            let value = |&j: &u32| penalty.value(j as usize, problem.coef[j as usize]);
            problem.loss() + work.iter().map(value).sum::<f64>()
        };
        let mut history = Anderson::default();
        let mut sweeps = 0;
        self.refresh_residual();
        while sweeps < most {
            sweeps += 1;
            let mut worst = 0.0f64;
            // The true residual is self.residual + shift u. It is orthogonal to u, so that its product
            // with z_j is that of x_j / s_j, and x_jᵀ u = N m_j.
            let mut shift = 0.0;
            for (&j, &curvature) in work.iter().zip(&curvature) {
                let j = j as usize;
                let lift = n * self.design.means()[j] * self.design.inverse_scales()[j];
                let gradient = -(self.design.dot(j, &self.residual) + shift * lift) / n;
                let old = self.coef[j];
                let new = penalty.prox(j, old - gradient / curvature, 1.0 / curvature);
                if new != old {
                    worst = worst.max((new - old).abs() * curvature);
                    self.coef[j] = new;
                    self.design.axpy(j, old - new, &mut self.residual, &mut shift);
                }
            }
            self.design.add_unit(shift, &mut self.residual);
            if worst <= tol {
                return (sweeps, true);
            }
            let iterate: Vec<f64> = work.iter().map(|&j| self.coef[j as usize]).collect();
            if let Some(guess) = history.push(&iterate) {
                let before = objective(self);
                self.place(work, &guess);
                if objective(self) >= before {
                    self.place(work, &iterate);
                }
            }
            if sweeps % (4 * anderson::DEPTH) == 0 {
                self.refresh_residual();
            }
        }
        (sweeps, false)
    }

    fn place(&mut self, work: &[u32], coef: &[f64]) {
        work.iter().zip(coef).for_each(|(&j, &w)| self.coef[j as usize] = w);
        self.refresh_residual();
    }
}
