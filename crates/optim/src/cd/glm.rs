//! Penalised losses beyond the square: proximal Newton on working sets.

use super::quadratic::{Quadratic, take_largest};
use super::{Options, Report, StopReason};
use crate::cox::Cox;
use crate::datafit::Datafit;
use crate::design::{Centred, Design, Scaling};
use crate::penalty::Penalty;

/// Least curvature of an observation, as a part of the greatest: keeps the quadratic model bounded
/// where the loss is flat. The line search pays for what it misses.
const FLAT: f64 = 1e-4;
/// Newton steps on a working set before all features are looked at again.
const STEPS: usize = 6;
/// First working set.
const FIRST: usize = 20;
/// Relative fall of the objective that a step promises below which it is taken on trust.
const SETTLED: f64 = 1e-10;
/// Models that are tried for a concave penalty, each four times as steep as the last.
const STEEPER: i32 = 8;
/// Rounds that may pass without the violation being halved.
const STALLED: usize = 20;
/// Accuracy of the quadratic problems.
const INNER: f64 = 1e-12;

/// `sum_i v_i loss(y_i, b + x_i w) / sum_i v_i + sum_j pen_j(w_j)`, weights `v` or ones; or [`Cox`]'s
/// partial likelihood in place of the sum.
///
/// Each Newton step solves the penalised weighted least squares problem of the second-order model by
/// [`Quadratic`] (its Gram matrix has the size of the working set), with the intercept eliminated, and
/// goes along it until the objective has fallen enough. The state stays between calls of
/// [`Glm::solve`].
///
/// Cost: a pass over the design for every round, `O(n k²)` for every Newton step with `k` features at
/// work.
#[derive(Debug)]
pub struct Glm<'a> {
    design: &'a dyn Design,
    loss: Loss<'a>,
    fit_intercept: bool,
    inverse_scales: Vec<f64>,
    normaliser: f64,
    coef: Vec<f64>,
    intercept: f64,
    predictor: Vec<f64>,
    null_gradient: Vec<f64>,
}

/// What is minimised, as a function of the predictors of all rows; all times the sum of the weights.
#[derive(Debug)]
enum Loss<'a> {
    Rows { target: &'a [f64], weights: Option<&'a [f64]>, datafit: &'a dyn Datafit },
    Cox(&'a Cox),
}

impl Loss<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Rows { target, .. } => target.len(),
            Self::Cox(cox) => cox.rows(),
        }
    }

    fn weights(&self) -> Option<&[f64]> {
        match self {
            Self::Rows { weights, .. } => *weights,
            Self::Cox(cox) => Some(cox.weights()),
        }
    }

    fn weight(&self, i: usize) -> f64 {
        self.weights().map_or(1.0, |w| w[i])
    }

    fn value(&self, predictor: &[f64]) -> f64 {
        match self {
            Self::Rows { target, datafit, .. } => {
                let value = |i: usize| self.weight(i) * datafit.value(target[i], predictor[i]);
                (0..predictor.len()).map(value).sum()
            }
            Self::Cox(cox) => cox.value(predictor),
        }
    }

    /// Gradient, and the diagonal of the second derivatives or a matrix above them.
    fn derivatives(&self, predictor: &[f64]) -> Vec<(f64, f64)> {
        match self {
            Self::Rows { target, datafit, .. } => {
                let derivatives = |i: usize| {
                    let (first, second) = datafit.derivatives(target[i], predictor[i]);
                    (self.weight(i) * first, self.weight(i) * second)
                };
                (0..predictor.len()).map(derivatives).collect()
            }
            Self::Cox(cox) => cox.derivatives(predictor),
        }
    }
}

/// A penalty seen by the features of a working set.
struct Subset<'p> {
    penalty: &'p dyn Penalty,
    work: &'p [u32],
}

impl Penalty for Subset<'_> {
    fn value(&self, j: usize, w: f64) -> f64 {
        self.penalty.value(self.work[j] as usize, w)
    }
    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        self.penalty.prox(self.work[j] as usize, z, step)
    }
    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        self.penalty.distance(self.work[j] as usize, w, gradient)
    }
    fn threshold(&self, j: usize) -> f64 {
        self.penalty.threshold(self.work[j] as usize)
    }
    fn entry(&self, j: usize, curvature: f64) -> f64 {
        self.penalty.entry(self.work[j] as usize, curvature)
    }
    fn violation(&self, j: usize, w: f64, gradient: f64, curvature: f64) -> f64 {
        self.penalty.violation(self.work[j] as usize, w, gradient, curvature)
    }
    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        self.penalty.derivatives(self.work[j] as usize, w)
    }
    fn convex_parts(&self, j: usize) -> Option<(f64, f64)> {
        self.penalty.convex_parts(self.work[j] as usize)
    }
    fn is_positive(&self) -> bool {
        self.penalty.is_positive()
    }
    fn is_convex(&self) -> bool {
        self.penalty.is_convex()
    }
}

impl<'a> Glm<'a> {
    /// The problem at `w = 0` with the best intercept. With `standardize`, penalties act on
    /// coefficients of columns of unit standard deviation.
    ///
    /// # Panics
    /// When lengths differ from the number of rows.
    pub fn new(
        design: &'a dyn Design,
        target: &'a [f64],
        weights: Option<&'a [f64]>,
        datafit: &'a dyn Datafit,
        fit_intercept: bool,
        standardize: bool,
    ) -> Self {
        assert!(weights.is_none_or(|w| w.len() == target.len()), "one weight per row");
        let mut glm =
            Self::at_zero(design, Loss::Rows { target, weights, datafit }, fit_intercept, standardize);
        if fit_intercept {
            let weighted = |i: usize| target[i] * weights.map_or(1.0, |w| w[i]);
            let mean = (0..target.len()).map(weighted).sum::<f64>() / glm.normaliser;
            glm.move_intercept(datafit.constant(mean).unwrap_or(0.0));
            glm.settle_intercept();
        }
        glm.null_gradient = glm.gradients(&(0..design.cols() as u32).collect::<Vec<_>>());
        glm
    }

    /// Cox's partial likelihood on `design`, at `w = 0`. The model of a step takes the diagonal bound of
    /// the second derivatives with an intercept of its own: constants cost nothing in the likelihood, and
    /// so they must not in the bound. [`Glm::intercept`] means nothing here.
    ///
    /// # Panics
    /// When the number of times is not that of the rows.
    pub fn cox(design: &'a dyn Design, cox: &'a Cox, standardize: bool) -> Self {
        let mut glm = Self::at_zero(design, Loss::Cox(cox), true, standardize);
        glm.null_gradient = glm.gradients(&(0..design.cols() as u32).collect::<Vec<_>>());
        glm
    }

    fn at_zero(design: &'a dyn Design, loss: Loss<'a>, fit_intercept: bool, standardize: bool) -> Self {
        assert_eq!(loss.rows(), design.rows(), "one target per row");
        let scaling = Scaling { centre: fit_intercept, scale: standardize };
        let inverse_scales = match loss.weights() {
            None => Centred::new(design, None, scaling).inverse_scales().to_vec(),
            Some(weights) => {
                let unit: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
                let scaled = design.select(None, None, Some(&unit));
                Centred::new(scaled.as_ref(), Some(unit), scaling).inverse_scales().to_vec()
            }
        };
        Self {
            normaliser: loss.weights().map_or(design.rows() as f64, |w| w.iter().sum()),
            predictor: vec![0.0; design.rows()],
            coef: vec![0.0; design.cols()],
            null_gradient: vec![],
            intercept: 0.0,
            design,
            loss,
            fit_intercept,
            inverse_scales,
        }
    }

    /// Coefficients of the scaled columns.
    pub fn coefficients(&self) -> &[f64] {
        &self.coef
    }

    /// Coefficients on the scale of the design.
    pub fn unscaled(&self) -> Vec<f64> {
        self.coef.iter().zip(&self.inverse_scales).map(|(w, s)| w * s).collect()
    }

    /// The intercept, 0 without one.
    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    /// Gradient in every coefficient at `w = 0` and the best intercept.
    pub fn null_gradient(&self) -> &[f64] {
        &self.null_gradient
    }

    /// The mean loss.
    pub fn loss(&self) -> f64 {
        self.loss_at(&self.predictor)
    }

    fn loss_at(&self, predictor: &[f64]) -> f64 {
        self.loss.value(predictor) / self.normaliser
    }

    fn move_intercept(&mut self, by: f64) {
        self.intercept += by;
        self.predictor.iter_mut().for_each(|m| *m += by);
    }

    /// Newton's method in the intercept alone, with halved steps.
    fn settle_intercept(&mut self) {
        for _ in 0..50 {
            let (mut slope, mut curvature) = (0.0, 0.0);
            for (first, second) in self.loss.derivatives(&self.predictor) {
                slope += first;
                curvature += second;
            }
            let scale = self.normaliser * f64::EPSILON * 16.0;
            if slope.abs() <= scale {
                return;
            }
            let mut step = -slope / curvature.max(FLAT * self.normaliser);
            let before = self.loss();
            let mut moved = false;
            for _ in 0..40 {
                self.move_intercept(step);
                if self.loss() < before {
                    moved = true;
                    break;
                }
                self.move_intercept(-step);
                step *= 0.5;
            }
            if !moved {
                return;
            }
        }
    }

    /// Gradient in the coefficients of the features listed. Cost: a product with each of them.
    pub fn gradients(&self, features: &[u32]) -> Vec<f64> {
        let slopes = self.loss.derivatives(&self.predictor).into_iter().map(|d| d.0 / self.normaliser);
        let slopes: Vec<f64> = slopes.collect();
        let mut out = vec![0.0; features.len()];
        self.design.dots(features, &slopes, &mut out);
        out.iter_mut().zip(features).for_each(|(g, &j)| *g *= self.inverse_scales[j as usize]);
        out
    }

    /// Minimises from the current coefficients on.
    pub fn solve(&mut self, penalty: &dyn Penalty, options: &Options) -> Report {
        let p = self.coef.len();
        let movable = |j: usize| self.inverse_scales[j] > 0.0 && penalty.threshold(j).is_finite();
        let alive: Vec<u32> = (0..p as u32).filter(|&j| movable(j as usize)).collect();
        (0..p).filter(|&j| !movable(j)).collect::<Vec<_>>().into_iter().for_each(|j| self.coef[j] = 0.0);
        let mut in_work = vec![false; p];
        let mut work: Vec<u32> = Vec::new();
        for &j in &alive {
            if self.coef[j as usize] != 0.0 || penalty.threshold(j as usize) == 0.0 {
                in_work[j as usize] = true;
                work.push(j);
            }
        }
        let scale = alive.iter().map(|&j| self.null_gradient[j as usize].abs()).fold(0.0, f64::max);
        let (mut rounds, mut steps) = (0, 0);
        let (mut stuck, mut stalled, mut last_kkt) = (false, 0, f64::INFINITY);
        self.refresh_predictor();
        loop {
            if self.fit_intercept && !matches!(self.loss, Loss::Cox(_)) {
                self.settle_intercept();
            }
            let gradient = self.gradients(&alive);
            let mut kkt = 0.0f64;
            let mut violators: Vec<(f64, u32)> = Vec::new();
            for (&j, &gradient) in alive.iter().zip(&gradient) {
                let distance = penalty.distance(j as usize, self.coef[j as usize], gradient);
                kkt = kkt.max(distance);
                if distance > 0.0 && !in_work[j as usize] {
                    violators.push((distance, j));
                }
            }
            stalled = if kkt > 0.5 * last_kkt { stalled + 1 } else { 0 };
            last_kkt = kkt;
            let stop = if kkt <= options.tol * scale {
                Some(StopReason::Stationary)
            } else if (stuck || stalled > STALLED) && violators.is_empty() {
                Some(StopReason::Precision)
            } else if rounds >= options.max_rounds || steps >= options.max_sweeps {
                Some(StopReason::Limit)
            } else {
                None
            };
            if let Some(stop) = stop {
                return Report {
                    sweeps: steps,
                    rounds,
                    gap: None,
                    kkt,
                    objective: self.objective(penalty, &self.coef, &self.predictor),
                    working: work.len(),
                    screened: 0,
                    converged: stop != StopReason::Limit,
                    stop,
                };
            }
            rounds += 1;
            let support = work.iter().filter(|&&j| self.coef[j as usize] != 0.0).count();
            take_largest(&mut violators, support.max(FIRST), &mut work, &mut in_work);
            for _ in 0..STEPS {
                steps += 1;
                stuck = !self.newton(&work, penalty);
                let gradient = self.gradients(&work);
                let pairs = work.iter().zip(&gradient);
                let distance =
                    |(&j, &g): (&u32, &f64)| penalty.distance(j as usize, self.coef[j as usize], g);
                let inside = pairs.map(distance).fold(0.0, f64::max);
                if stuck || inside <= (0.1 * kkt).max(0.5 * options.tol * scale) {
                    break;
                }
            }
        }
    }

    fn objective(&self, penalty: &dyn Penalty, coef: &[f64], predictor: &[f64]) -> f64 {
        let value = |(j, &w): (usize, &f64)| if w == 0.0 { 0.0 } else { penalty.value(j, w) };
        self.loss_at(predictor) + coef.iter().enumerate().map(value).sum::<f64>()
    }

    fn refresh_predictor(&mut self) {
        let mut predictor = self.design.times(&self.unscaled());
        predictor.iter_mut().for_each(|m| *m += self.intercept);
        self.predictor = predictor;
    }

    /// A proximal Newton step over the features in `work`. Whether the objective fell.
    ///
    /// Where the penalty is concave, the way to the model's minimum may go up although its end is lower
    /// for the model: then the model is made steeper until it lies above the objective.
    fn newton(&mut self, work: &[u32], penalty: &dyn Penalty) -> bool {
        if penalty.is_convex() {
            return self.step(work, penalty, 1.0, 40);
        }
        (0..STEEPER).any(|k| self.step(work, penalty, 4f64.powi(k), 1))
    }

    /// The step for curvatures times `steepness`, halved at most `most - 1` times.
    fn step(&mut self, work: &[u32], penalty: &dyn Penalty, steepness: f64, most: usize) -> bool {
        let n = self.predictor.len();
        let derivatives = self.loss.derivatives(&self.predictor);
        let greatest = derivatives.iter().map(|d| d.1).fold(0.0, f64::max);
        let mut unit = vec![0.0; n];
        let mut response = vec![0.0; n];
        for i in 0..n {
            if self.loss.weight(i) > 0.0 {
                let curvature = steepness * derivatives[i].1.max(FLAT * greatest).max(f64::MIN_POSITIVE);
                unit[i] = curvature.sqrt();
                response[i] = unit[i] * (self.predictor[i] - derivatives[i].0 / curvature);
            }
        }
        let model = self.design.select(None, Some(work), Some(&unit));
        let scales: Vec<f64> = work.iter().map(|&j| self.inverse_scales[j as usize]).collect();
        let centred = Centred::with_scales(model.as_ref(), Some(unit), self.fit_intercept, &scales);
        let mean = centred.centre(&mut response.clone());
        let mut problem = Quadratic::new(centred, response, self.normaliser);
        let old: Vec<f64> = work.iter().map(|&j| self.coef[j as usize]).collect();
        problem.set_coefficients(&old);
        let options = Options { tol: INNER, max_rounds: 50, max_sweeps: 2000, ..Options::default() };
        problem.solve(&Subset { penalty, work }, &options);
        let new = problem.coefficients();
        let parts = problem.design().means().iter().zip(problem.design().inverse_scales());
        let offset: f64 = parts.zip(new).map(|((m, s), w)| m * s * w).sum();
        let intercept = if self.fit_intercept { mean - offset } else { 0.0 };

        let mut target = vec![0.0; self.coef.len()];
        work.iter().zip(new).for_each(|(&j, &w)| target[j as usize] = w * self.inverse_scales[j as usize]);
        let mut goal = self.design.times(&target);
        goal.iter_mut().for_each(|m| *m += intercept);
        let before = self.objective(penalty, &self.coef, &self.predictor);
        let linear: f64 =
            (0..n).map(|i| derivatives[i].0 * (goal[i] - self.predictor[i])).sum::<f64>() / self.normaliser;
        let value = |coef: &[f64]| -> f64 {
            work.iter().zip(coef).map(|(&j, &w)| penalty.value(j as usize, w)).sum()
        };
        // What the model promises, without its second-order part.
        let promise = linear + value(new) - value(&old);
        let mut t = 1.0;
        for _ in 0..most {
            let mut coef = self.coef.clone();
            work.iter().zip(new.iter().zip(&old)).for_each(|(&j, (new, old))| {
                coef[j as usize] = if t == 1.0 { *new } else { old + t * (new - old) };
            });
            let predictor: Vec<f64> = self
                .predictor
                .iter()
                .zip(&goal)
                .map(|(m, g)| if t == 1.0 { *g } else { m + t * (g - m) })
                .collect();
            let after = self.objective(penalty, &coef, &predictor);
            // Near the solution the objective has no digits left to judge a step by, and full steps converge.
            let settled = t == 1.0
                && promise.abs() <= SETTLED * before.abs()
                && after <= before + 64.0 * f64::EPSILON * before.abs();
            let enough = before + 1e-4 * t * if penalty.is_convex() { promise.min(0.0) } else { 0.0 };
            if settled || after < before && after <= enough {
                self.intercept += t * (intercept - self.intercept);
                self.coef = coef;
                self.predictor = predictor;
                return true;
            }
            t *= 0.5;
        }
        false
    }
}
