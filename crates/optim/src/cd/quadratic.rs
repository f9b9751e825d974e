//! Penalised least squares: the outer loop over working sets.

use sparseland_matrix::vector;

use super::factor::Factor;
use super::gram::Gram;
use super::{Options, Report, StopReason};
use crate::design::Centred;
use crate::penalty::Penalty;

/// First working set of a cold start.
const FIRST: usize = 10;
/// Ratio of the strengths that a cold start passes through. Small working sets on the way down are
/// nearly free of features that leave again, so that this is faster than growing one set.
const DESCENT: f64 = 1.6;
/// Gradients below this part of their threshold when last seen are not looked at on the way down.
const FAR: f64 = 0.4;
/// Accuracy on the way down.
const ROUGH: f64 = 1e-2;
/// Strong features that may join a small support at once; two fifths of a large one may.
const STRONG: usize = 20;
/// Part of the outer violation to which the inner problem is solved at least.
const INNER: f64 = 0.1;

/// `||y - Z w||² / (2 N) + sum_j pen_j(w_j)` for one design and many penalties.
///
/// The solution, its residual, gradients and the Gram matrix stay between calls of
/// [`Quadratic::solve`]: a second penalty starts where the first ended.
#[derive(Debug)]
pub struct Quadratic<'a> {
    pub(super) design: Centred<'a>,
    pub(super) target: Vec<f64>,
    pub(super) normaliser: f64,
    /// `z_jᵀ y / N`.
    pub(super) correlations: Vec<f64>,
    pub(super) coef: Vec<f64>,
    pub(super) residual: Vec<f64>,
    pub(super) gram: Gram,
    pub(super) factor: Factor,
    /// `-z_jᵀ r / N` when feature j was last looked at.
    gradient: Vec<f64>,
    /// Distance the residual had moved in all by then, from look to look.
    stamps: Vec<f64>,
    moved: f64,
    /// The residual at the last look.
    checked: Vec<f64>,
    /// Features that the last solve discarded, for tests.
    #[cfg(test)]
    discarded: Vec<u32>,
    norms: Vec<f64>,
    /// `||z_j||² / N`.
    curvatures: Vec<f64>,
}

/// What a look at all features found.
struct Check {
    /// Features outside the working set that are not stationary, with their priority.
    violators: Vec<(f64, u32)>,
    kkt: f64,
    gap: Option<f64>,
    objective: f64,
}

/// One penalty's view of the features.
#[derive(Default)]
struct View {
    thresholds: Vec<f64>,
    /// Features that are not certain to be zero in the solution.
    alive: Vec<u32>,
    in_work: Vec<bool>,
    /// Whether a duality gap can be computed.
    has_gap: bool,
    /// Whether this is a step on the way, after which a full look follows anyway.
    rough: bool,
}

impl View {
    /// The gradient that matters on the working set: its least positive threshold, at most `scale`.
    fn level(&self, work: &[u32], scale: f64) -> f64 {
        let thresholds = work.iter().map(|&j| self.thresholds[j as usize]);
        thresholds.filter(|t| *t > 0.0).fold(scale, f64::min)
    }
}

impl<'a> Quadratic<'a> {
    /// The problem of `target` (length `n`) on `design`, at `w = 0`. With centring, the target is
    /// centred here. Cost: one product with every column.
    ///
    /// # Panics
    /// When the target has another length than the design has rows.
    pub fn new(design: Centred<'a>, mut target: Vec<f64>, normaliser: f64) -> Self {
        assert_eq!(target.len(), design.rows(), "one target per row");
        design.centre(&mut target);
        let p = design.cols();
        let all: Vec<u32> = (0..p as u32).collect();
        let mut correlations = vec![0.0; p];
        design.dots(&all, &target, &mut correlations);
        correlations.iter_mut().for_each(|c| *c /= normaliser);
        let gradient = correlations.iter().map(|c| -c).collect();
        let norms = design.squared_norms().iter().map(|s| s.sqrt()).collect();
        let curvatures = design.squared_norms().iter().map(|s| s / normaliser).collect();
        Self {
            residual: target.clone(),
            checked: target.clone(),
            #[cfg(test)]
            discarded: vec![],
            target,
            normaliser,
            correlations,
            coef: vec![0.0; p],
            gram: Gram::new(p),
            factor: Factor::default(),
            gradient,
            stamps: vec![0.0; p],
            moved: 0.0,
            norms,
            curvatures,
            design,
        }
    }

    /// Coefficients of the columns `z_j`.
    pub fn coefficients(&self) -> &[f64] {
        &self.coef
    }

    /// `y - Z w`, centred as `y` is.
    pub fn residual(&self) -> &[f64] {
        &self.residual
    }

    /// The design it was made with.
    pub fn design(&self) -> &Centred<'a> {
        &self.design
    }

    /// `z_jᵀ y / N`: minus the gradient at zero.
    pub fn correlations(&self) -> &[f64] {
        &self.correlations
    }

    /// `||y||² / (2 N)`, the objective at zero.
    pub fn null_loss(&self) -> f64 {
        vector::dot(&self.target, &self.target) / (2.0 * self.normaliser)
    }

    /// `||y - Z w||² / (2 N)`.
    pub fn loss(&self) -> f64 {
        vector::dot(&self.residual, &self.residual) / (2.0 * self.normaliser)
    }

    #[cfg(test)]
    pub(super) fn last_screened(&self) -> &[u32] {
        &self.discarded
    }

    /// Starts the next solve from `coef`.
    ///
    /// # Panics
    /// When the length is not the number of columns.
    pub fn set_coefficients(&mut self, coef: &[f64]) {
        assert_eq!(coef.len(), self.coef.len(), "one coefficient per column");
        self.coef.copy_from_slice(coef);
        for (w, norm) in self.coef.iter_mut().zip(&self.norms) {
            if *norm == 0.0 {
                *w = 0.0;
            }
        }
        self.refresh_residual();
    }

    /// `-z_jᵀ r / N` for every column. Cost: one product with every column.
    pub fn gradients(&self) -> Vec<f64> {
        let all: Vec<u32> = (0..self.coef.len() as u32).collect();
        let mut out = vec![0.0; all.len()];
        self.design.dots(&all, &self.residual, &mut out);
        out.iter_mut().for_each(|g| *g /= -self.normaliser);
        out
    }

    /// Unpenalised least squares on some features, all others zero: their coefficients and the loss. A
    /// feature that depends on those before it gets 0. The coefficients of the problem stay as they are.
    ///
    /// Cost with `k` features: `k³ / 6` multiply-adds, and products of columns for features that are new
    /// to the Gram matrix.
    pub fn least_squares(&mut self, features: &[u32]) -> (Vec<f64>, f64) {
        self.gram.insert(&self.design, self.normaliser, features);
        let slots: Vec<usize> = features.iter().filter_map(|&j| self.gram.slot(j)).collect();
        let mut curvature = vec![None; self.gram.len()];
        slots.iter().for_each(|&s| curvature[s] = Some(0.0));
        self.factor.update(&self.gram, &slots, &curvature);
        let correlation = |slot: usize| self.correlations[self.gram.features()[slot] as usize];
        let mut solution: Vec<f64> = self.factor.order().iter().map(|&s| correlation(s)).collect();
        self.factor.solve(&mut solution);
        let mut by_slot = vec![0.0; self.gram.len()];
        let mut explained = 0.0;
        for (&slot, &w) in self.factor.order().iter().zip(&solution) {
            by_slot[slot] = w;
            explained += 0.5 * w * correlation(slot);
        }
        (slots.iter().map(|&s| by_slot[s]).collect(), (self.null_loss() - explained).max(0.0))
    }

    /// Minimises from the current coefficients on.
    pub fn solve(&mut self, penalty: &dyn Penalty, options: &Options) -> Report {
        let cold = options.strong_ratio.is_none() && self.coef.iter().all(|w| *w == 0.0);
        let (steps, ratio) = if cold { self.descent(penalty) } else { (0, 1.0) };
        for step in (1..=steps).rev() {
            let Some(stronger) = penalty.strengthened(ratio.powi(step)) else { break };
            self.approach(stronger.as_ref(), ratio, options);
        }
        let warm = Options { strong_ratio: Some(ratio), ..options.clone() };
        self.minimise(penalty, if steps > 0 { &warm } else { options })
    }

    /// Number and ratio of the strengths between the least that gives zeros and this one.
    fn descent(&self, penalty: &dyn Penalty) -> (i32, f64) {
        let excess = |j: usize| {
            let threshold = penalty.entry(j, self.curvatures[j]);
            if threshold > 0.0 { self.correlations[j].abs() / threshold } else { 0.0 }
        };
        let top = (0..self.coef.len()).map(excess).fold(1.0, f64::max);
        let steps = (top.ln() / DESCENT.ln()).ceil().clamp(1.0, 64.0);
        (steps as i32 - 1, top.powf(1.0 / steps))
    }

    /// One rough step of a descent: solves on the support and the strong features, then brings all
    /// gradients up to date.
    fn approach(&mut self, penalty: &dyn Penalty, ratio: f64, options: &Options) {
        let rough = Options { strong_ratio: Some(ratio), tol: ROUGH, max_rounds: 0, ..options.clone() };
        self.minimise(penalty, &rough);
    }

    fn minimise(&mut self, penalty: &dyn Penalty, options: &Options) -> Report {
        let p = self.coef.len();
        let mut view = View { thresholds: vec![0.0; p], ..View::default() };
        penalty.entries(&self.curvatures, &mut view.thresholds);
        view.in_work = vec![false; p];
        view.has_gap = true;
        view.rough = options.max_rounds == 0;
        let mut work: Vec<u32> = Vec::new();
        let mut scale = 0.0f64;
        for j in 0..p {
            let (threshold, w) = (view.thresholds[j], self.coef[j]);
            if self.norms[j] == 0.0 || (threshold.is_infinite() && w == 0.0) {
                continue;
            }
            scale = scale.max(self.correlations[j].abs());
            view.alive.push(j as u32);
            view.has_gap &= threshold > 0.0 && penalty.convex_parts(j).is_some();
            if w != 0.0 || threshold == 0.0 {
                view.in_work[j] = true;
                work.push(j as u32);
            }
        }
        let considered = view.alive.len();
        #[cfg(test)]
        let considered_features = view.alive.clone();
        let mut sweeps = 0;
        let mut last_kkt = f64::INFINITY;
        let mut precision = options.tol;
        let mut rounds = 0;
        if let Some(ratio) = options.strong_ratio {
            // The gradients at hand may be old; this only chooses where to begin.
            let excess = |j: u32| {
                self.gradient[j as usize].abs() - view.thresholds[j as usize] * (2.0 - ratio).max(0.1)
            };
            let outside = view.alive.iter().filter(|&&j| !view.in_work[j as usize]);
            let mut strong: Vec<(f64, u32)> =
                outside.map(|&j| (excess(j), j)).filter(|found| found.0 > 0.0).collect();
            let most = (2 * work.len() / 5).max(STRONG);
            take_largest(&mut strong, most, &mut work, &mut view.in_work);
        }
        if !work.is_empty() {
            let tol = precision * view.level(&work, scale);
            sweeps += self.inner(&work, penalty, tol, options);
            self.refresh_residual();
        }
        loop {
            let check = self.check(penalty, &mut view, &work);
            let done = match check.gap {
                Some(gap) => (gap <= options.tol * self.null_loss()).then_some(StopReason::Gap),
                None => (check.kkt <= options.tol * scale).then_some(StopReason::Stationary),
            };
            // Rounding alone leaves this much.
            let floor = 64.0 * f64::EPSILON * scale;
            let stop = done
                .or((check.kkt <= floor).then_some(StopReason::Precision))
                .or((rounds >= options.max_rounds || sweeps >= options.max_sweeps)
                    .then_some(StopReason::Limit));
            if let Some(stop) = stop {
                #[cfg(test)]
                {
                    let dead = |j: &u32| considered_features.contains(j) && !view.alive.contains(j);
                    self.discarded = (0..p as u32).filter(dead).collect();
                }
                return Report {
                    sweeps,
                    rounds,
                    gap: check.gap,
                    kkt: check.kkt,
                    objective: check.objective,
                    working: work.len(),
                    screened: considered - view.alive.len(),
                    converged: stop != StopReason::Limit,
                    stop,
                };
            }
            rounds += 1;
            let support = work.iter().filter(|&&j| self.coef[j as usize] != 0.0).count();
            let mut violators = check.violators;
            let outside = !violators.is_empty();
            take_largest(&mut violators, (3 * support / 5).max(FIRST), &mut work, &mut view.in_work);
            if !outside || check.kkt > 0.5 * last_kkt {
                // The working set is right but not solved well enough.
                precision *= 0.1;
            }
            last_kkt = check.kkt;
            let rough = if outside { INNER * check.kkt } else { 0.0 };
            let tol = (precision * view.level(&work, scale)).max(rough).max(0.1 * floor);
            sweeps += self.inner(&work, penalty, tol, options);
            self.refresh_residual();
        }
    }

    /// Residual of the current coefficients, from scratch.
    pub(super) fn refresh_residual(&mut self) {
        let mut residual = self.target.clone();
        let pairs = self.coef.iter().enumerate().filter(|(_, w)| **w != 0.0).map(|(j, w)| (j, -w));
        self.design.accumulate(pairs, &mut residual);
        self.residual = residual;
    }

    /// Looks at every feature that may violate its condition.
    fn check(&mut self, penalty: &dyn Penalty, view: &mut View, work: &[u32]) -> Check {
        let n = self.normaliser;
        let pairs = self.residual.iter().zip(&self.checked);
        self.moved += pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        self.checked.copy_from_slice(&self.residual);
        let moved = self.moved;
        // Gradients of all others are certain to be within their thresholds.
        let open = |j: usize| {
            if view.rough && self.gradient[j].abs() < FAR * view.thresholds[j] {
                return view.in_work[j];
            }
            let bound = self.gradient[j].abs() + self.norms[j] * (moved - self.stamps[j]) / n;
            bound > view.thresholds[j] || view.in_work[j]
        };
        let candidates: Vec<u32> = view.alive.iter().copied().filter(|&j| open(j as usize)).collect();
        let stale: Vec<u32> =
            candidates.iter().copied().filter(|&j| self.stamps[j as usize] < moved).collect();
        let mut products = vec![0.0; stale.len()];
        self.design.dots(&stale, &self.residual, &mut products);
        for (&j, product) in stale.iter().zip(&products) {
            self.gradient[j as usize] = -product / n;
            self.stamps[j as usize] = moved;
        }
        let mut check = Check { violators: vec![], kkt: 0.0, gap: None, objective: self.loss() };
        // Scale that makes the dual point feasible.
        let mut scale = 1.0f64;
        for &feature in &candidates {
            let j = feature as usize;
            let (w, gradient) = (self.coef[j], self.gradient[j]);
            let distance = penalty.violation(j, w, gradient, self.curvatures[j]);
            check.kkt = check.kkt.max(distance);
            if distance > 0.0 && !view.in_work[j] {
                check.violators.push((distance / self.norms[j], feature));
            }
            if view.has_gap && (distance > 0.0 || w != 0.0) {
                let (l1, l2) = penalty.convex_parts(j).unwrap_or_default();
                let push = -gradient - l2 * w;
                let push = if penalty.is_positive() { push } else { push.abs() };
                scale = scale.max(push / l1);
            }
        }
        let mut ridge_square = 0.0;
        for &j in work {
            let w = self.coef[j as usize];
            if w != 0.0 {
                check.objective += penalty.value(j as usize, w);
                ridge_square += penalty.convex_parts(j as usize).map_or(0.0, |parts| parts.1) * w * w;
            }
        }
        if view.has_gap && !view.rough {
            let product = vector::dot(&self.target, &self.residual) / n;
            let square = 2.0 * self.loss() + ridge_square;
            let dual = product / scale - square / (2.0 * scale * scale);
            let gap = (check.objective - dual).max(0.0);
            check.gap = Some(gap);
            // The gap-safe sphere; ridge columns lengthen every feature.
            let radius = (2.0 * gap / n).sqrt();
            view.alive.retain(|&j| {
                let j = j as usize;
                let bound = self.gradient[j].abs() + self.norms[j] * (moved - self.stamps[j]) / n;
                if view.in_work[j] || bound / scale + self.norms[j] * radius >= view.thresholds[j] {
                    return true;
                }
                let (l1, l2) = penalty.convex_parts(j).unwrap_or_default();
                bound / scale + (self.norms[j] * self.norms[j] + n * l2).sqrt() * radius >= l1
            });
        }
        check
    }
}

/// Moves the `most` entries of highest priority to the working set.
pub(super) fn take_largest(found: &mut [(f64, u32)], most: usize, work: &mut Vec<u32>, in_work: &mut [bool]) {
    let taken = if found.len() > most {
        found.select_nth_unstable_by(most - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        &found[..most]
    } else {
        &found[..]
    };
    let mut features: Vec<u32> = taken.iter().map(|f| f.1).collect();
    features.sort_unstable();
    for j in features {
        in_work[j as usize] = true;
        work.push(j);
    }
}
