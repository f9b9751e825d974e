//! Multinomial logistic regression: proximal Newton with the whole second derivative.

use super::blocks::Blocks;
use super::quadratic::{Quadratic, take_largest};
use super::{Options, Report, StopReason};
use crate::design::{Centred, Dense, Design, Scaling};
use crate::penalty::{ElasticNet, GroupPenalty};

/// Least probability in the second derivative; gradients are exact. Keeps the model's response, which is
/// divided by the root of it, within sixteen digits.
const RARE: f64 = 1e-6;
/// Newton steps on a working set before all features are looked at again.
const STEPS: usize = 6;
/// First working set.
const FIRST: usize = 10;
/// Rounds that may pass without the violation being halved.
const STALLED: usize = 20;
/// The model is solved to this part of the violation at hand, and at most to `INNER`.
const FORCING: f64 = 1e-2;
const INNER: f64 = 1e-13;
/// Relative promise of a step below which it is taken on trust.
const SETTLED: f64 = 1e-10;

/// How the coefficients of a feature, one per class, are penalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// `sum_k |W_jk|`: every class has features of its own.
    Entries,
    /// `||W_j||_2`: a feature serves all classes or none.
    Norm,
}

/// `alpha sum_j ω_j pen(W_j)` over the rows of `W`.
#[derive(Clone, Debug, PartialEq)]
pub struct RowPenalty {
    /// Strength.
    pub alpha: f64,
    /// What is measured of a row.
    pub kind: RowKind,
    /// `ω`, `None` for ones: 0 leaves a feature unpenalised, infinity excludes it.
    pub weights: Option<Vec<f64>>,
}

impl RowPenalty {
    fn weight(&self, j: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |w| w[j])
    }

    /// The penalty of row `j` as that of a group.
    fn row(&self, j: usize) -> GroupPenalty {
        let tau = if self.kind == RowKind::Entries { 1.0 } else { 0.0 };
        let weight = self.weight(j);
        if weight.is_infinite() {
            return GroupPenalty { alpha: self.alpha, tau, weights: vec![weight] };
        }
        GroupPenalty { alpha: self.alpha * weight, tau, weights: vec![1.0] }
    }

    /// The least `alpha` at which row `j` is zero for a gradient; 0 for an unpenalised or excluded one.
    pub fn critical_alpha(&self, j: usize, gradient: &[f64]) -> f64 {
        let weight = self.weight(j);
        if weight == 0.0 || weight.is_infinite() {
            return 0.0;
        }
        self.row(j).critical_alpha(0, gradient) / weight
    }
}

/// `sum_i v_i (log sum_k exp(m_ik) - m_{i, y_i}) / sum_i v_i + pen(W)`, `m = Z W + b` for classes
/// `y_i` in `0..K`, weights `v` or ones.
///
/// A step minimises the second-order model, whose matrix per row is `diag(p) - p pᵀ`, over the working set
/// and the intercepts. That matrix is `A Aᵀ` with `A = diag(√p) - p √pᵀ`, so that the model is least
/// squares with `n K` rows, which [`Quadratic`] (entries) and [`Blocks`] (rows) solve; the design of those
/// rows is never formed. A line search follows. The state stays between calls of [`Softmax::solve`].
///
/// Cost: a pass over the design and `K` products per column for every round, `O(n k² K²)` for every step
/// with `k` features at work.
#[derive(Debug)]
pub struct Softmax<'a> {
    design: &'a dyn Design,
    labels: &'a [usize],
    weights: Option<&'a [f64]>,
    fit_intercept: bool,
    means: Vec<f64>,
    inverse_scales: Vec<f64>,
    normaliser: f64,
    /// Class by class, of the scaled columns.
    coef: Vec<Vec<f64>>,
    /// Of the centred columns.
    intercept: Vec<f64>,
    predictor: Vec<Vec<f64>>,
    null_gradient: Vec<Vec<f64>>,
}

/// Probabilities of the classes of every row, class by class, and the sum of the losses.
fn probabilities(
    predictor: &[Vec<f64>],
    labels: &[usize],
    weight: impl Fn(usize) -> f64,
) -> (Vec<Vec<f64>>, f64) {
    let mut out: Vec<Vec<f64>> = predictor.to_vec();
    let mut loss = 0.0;
    for (i, &label) in labels.iter().enumerate() {
        let top = predictor.iter().map(|m| m[i]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = predictor.iter().map(|m| (m[i] - top).exp()).sum();
        out.iter_mut().for_each(|p| p[i] = (p[i] - top).exp() / sum);
        loss += weight(i) * (sum.ln() + top - predictor[label][i]);
    }
    (out, loss)
}

impl<'a> Softmax<'a> {
    /// The problem at `W = 0` with the best intercepts. With `standardize`, penalties act on coefficients
    /// of columns of unit standard deviation. With intercepts, every class needs a row of positive weight.
    ///
    /// # Panics
    /// When lengths differ from the number of rows, or a label is not below `classes`.
    pub fn new(
        design: &'a dyn Design,
        labels: &'a [usize],
        classes: usize,
        weights: Option<&'a [f64]>,
        fit_intercept: bool,
        standardize: bool,
    ) -> Self {
        let (n, p) = (design.rows(), design.cols());
        assert_eq!(labels.len(), n, "one label per row");
        assert!(weights.is_none_or(|w| w.len() == n), "one weight per row");
        assert!(labels.iter().all(|k| *k < classes), "labels below the number of classes");
        let scaling = Scaling { centre: fit_intercept, scale: standardize };
        let parts = |view: Centred<'_>| (view.means().to_vec(), view.inverse_scales().to_vec());
        let (means, inverse_scales) = match weights {
            None => parts(Centred::new(design, None, scaling)),
            Some(weights) => {
                let unit: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
                let scaled = design.select(None, None, Some(&unit));
                parts(Centred::new(scaled.as_ref(), Some(unit), scaling))
            }
        };
        let mut out = Self {
            design,
            labels,
            weights,
            fit_intercept,
            means,
            inverse_scales,
            normaliser: weights.map_or(n as f64, |w| w.iter().sum()),
            coef: vec![vec![0.0; p]; classes],
            intercept: vec![0.0; classes],
            predictor: vec![],
            null_gradient: vec![],
        };
        if fit_intercept {
            let mut share = vec![0.0; classes];
            labels.iter().enumerate().for_each(|(i, &k)| share[k] += out.weight(i) / out.normaliser);
            let logs: Vec<f64> = share.iter().map(|s| s.ln()).collect();
            let mean = logs.iter().sum::<f64>() / classes as f64;
            out.intercept = logs.iter().map(|l| l - mean).collect();
        }
        out.predictor = out.predictors(&out.coef, &out.intercept);
        out.null_gradient = out.gradients(&(0..p as u32).collect::<Vec<_>>());
        out
    }

    fn weight(&self, i: usize) -> f64 {
        self.weights.map_or(1.0, |w| w[i])
    }

    /// Coefficients on the scale of the design, class by class.
    pub fn unscaled(&self) -> Vec<Vec<f64>> {
        let scaled = |w: &Vec<f64>| w.iter().zip(&self.inverse_scales).map(|(w, s)| w * s).collect();
        self.coef.iter().map(scaled).collect()
    }

    /// The intercept of every class; their mean is 0, which is a choice: a common constant changes nothing.
    pub fn intercepts(&self) -> Vec<f64> {
        if !self.fit_intercept {
            return vec![0.0; self.intercept.len()];
        }
        let offset = |w: Vec<f64>| w.iter().zip(&self.means).map(|(w, m)| w * m).sum::<f64>();
        let pairs = self.intercept.iter().zip(self.unscaled());
        let raw: Vec<f64> = pairs.map(|(b, w)| b - offset(w)).collect();
        let mean = raw.iter().sum::<f64>() / raw.len() as f64;
        raw.iter().map(|b| b - mean).collect()
    }

    /// Norm (or greatest entry, for [`RowKind::Entries`]) of the steepest row of the gradient at `W = 0`.
    pub fn steepest(&self, kind: RowKind) -> f64 {
        let one = RowPenalty { alpha: 1.0, kind, weights: None };
        let size = |j: usize| one.critical_alpha(j, &column(&self.null_gradient, j));
        (0..self.design.cols()).map(size).fold(0.0, f64::max)
    }

    /// The least `alpha` at which all penalised rows are zero, if they are zero now.
    pub fn alpha_max(&self, penalty: &RowPenalty) -> f64 {
        let gradient = self.gradients(&(0..self.design.cols() as u32).collect::<Vec<_>>());
        let critical = |j: usize| penalty.critical_alpha(j, &column(&gradient, j));
        (0..self.design.cols()).map(critical).fold(0.0, f64::max)
    }

    /// The mean loss.
    pub fn loss(&self) -> f64 {
        probabilities(&self.predictor, self.labels, |i| self.weight(i)).1 / self.normaliser
    }

    fn predictors(&self, coef: &[Vec<f64>], intercept: &[f64]) -> Vec<Vec<f64>> {
        let one = |(w, b): (&Vec<f64>, &f64)| {
            let mut out = vec![0.0; self.design.rows()];
            let mut shift = *b;
            for (j, w) in w.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let w = w * self.inverse_scales[j];
                self.design.axpy(j, w, &mut out);
                shift -= w * self.means[j];
            }
            out.iter_mut().for_each(|m| *m += shift);
            out
        };
        coef.iter().zip(intercept).map(one).collect()
    }

    /// `v (p - e_y) / N` for every class and row.
    fn slopes(&self) -> Vec<Vec<f64>> {
        let (mut out, _) = probabilities(&self.predictor, self.labels, |_| 0.0);
        for (i, &label) in self.labels.iter().enumerate() {
            out[label][i] -= 1.0;
            let weight = self.weight(i) / self.normaliser;
            out.iter_mut().for_each(|p| p[i] *= weight);
        }
        out
    }

    /// Gradient in the coefficients of the features listed, class by class.
    fn gradients(&self, features: &[u32]) -> Vec<Vec<f64>> {
        let one = |slope: Vec<f64>| {
            let mut out = vec![0.0; features.len()];
            self.design.dots(features, &slope, &mut out);
            let sum: f64 = slope.iter().sum();
            for (g, &j) in out.iter_mut().zip(features) {
                *g = (*g - self.means[j as usize] * sum) * self.inverse_scales[j as usize];
            }
            out
        };
        self.slopes().into_iter().map(one).collect()
    }

    fn objective(&self, penalty: &RowPenalty, coef: &[Vec<f64>], predictor: &[Vec<f64>]) -> f64 {
        let loss = probabilities(predictor, self.labels, |i| self.weight(i)).1 / self.normaliser;
        loss + self.value(penalty, coef)
    }

    fn value(&self, penalty: &RowPenalty, coef: &[Vec<f64>]) -> f64 {
        let used = |j: &usize| coef.iter().any(|w| w[*j] != 0.0);
        let value = |j: usize| penalty.row(j).value(0, &column(coef, j));
        (0..self.design.cols()).filter(used).map(value).sum()
    }

    /// Minimises from the current coefficients on.
    pub fn solve(&mut self, penalty: &RowPenalty, options: &Options) -> Report {
        let p = self.design.cols();
        let movable =
            |j: &u32| self.inverse_scales[*j as usize] > 0.0 && penalty.weight(*j as usize).is_finite();
        let alive: Vec<u32> = (0..p as u32).filter(movable).collect();
        let mut in_work = vec![true; p];
        alive.iter().for_each(|&j| in_work[j as usize] = false);
        (0..p).filter(|&j| in_work[j]).for_each(|j| self.coef.iter_mut().for_each(|w| w[j] = 0.0));
        let mut work: Vec<u32> = Vec::new();
        for &j in &alive {
            let used = self.coef.iter().any(|w| w[j as usize] != 0.0);
            if used || penalty.alpha * penalty.weight(j as usize) == 0.0 {
                in_work[j as usize] = true;
                work.push(j);
            }
        }
        let scale = self.steepest(penalty.kind);
        let (mut rounds, mut steps) = (0, 0);
        let (mut stuck, mut stalled, mut last_kkt) = (false, 0, f64::INFINITY);
        self.predictor = self.predictors(&self.coef, &self.intercept);
        loop {
            let (mut kkt, distances) = self.distances(&alive, penalty);
            let mut violators: Vec<(f64, u32)> = Vec::new();
            for (&j, distance) in alive.iter().zip(distances) {
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
            let used = |j: &&u32| self.coef.iter().any(|w| w[**j as usize] != 0.0);
            let support = work.iter().filter(used).count();
            take_largest(&mut violators, support.max(FIRST), &mut work, &mut in_work);
            let mut inside = kkt;
            for _ in 0..STEPS {
                steps += 1;
                stuck = !self.newton(&work, penalty, inside);
                let (intercept, distances) = self.distances(&work, penalty);
                inside = distances.into_iter().fold(intercept, f64::max);
                if stuck || inside <= (0.1 * kkt).max(0.5 * options.tol * scale) {
                    break;
                }
            }
        }
    }

    /// Distances to stationarity of the intercepts together, and of the features listed.
    fn distances(&self, features: &[u32], penalty: &RowPenalty) -> (f64, Vec<f64>) {
        let intercept = if self.fit_intercept {
            self.slopes().iter().map(|s| s.iter().sum::<f64>().abs()).fold(0.0, f64::max)
        } else {
            0.0
        };
        let gradient = self.gradients(features);
        let distance = |(at, &j): (usize, &u32)| {
            penalty.row(j as usize).distance(0, &column(&self.coef, j as usize), &column(&gradient, at))
        };
        (intercept, features.iter().enumerate().map(distance).collect())
    }

    /// A step over the features in `work` and the intercepts, where the violation is `kkt`. Whether the
    /// objective fell.
    fn newton(&mut self, work: &[u32], penalty: &RowPenalty, kkt: f64) -> bool {
        let (classes, n) = (self.coef.len(), self.design.rows());
        let (exact, _) = probabilities(&self.predictor, self.labels, |_| 0.0);
        let rounded = |p: &f64| (p + RARE) / (1.0 + RARE * classes as f64);
        let share: Vec<Vec<f64>> = exact.iter().map(|p| p.iter().map(rounded).collect()).collect();
        let view = RowsOfClasses {
            design: self.design,
            work,
            means: &self.means,
            inverse_scales: &self.inverse_scales,
            with_ones: self.fit_intercept,
            roots: (share.iter())
                .map(|p| p.iter().enumerate().map(|(i, p)| (self.weight(i) * p).sqrt()).collect())
                .collect(),
            share,
        };
        // Aᵀ m - A⁺ gradient: the least squares target whose normal equations are those of the model.
        let mut target = vec![0.0; n * classes];
        for i in 0..n {
            let mean: f64 = (0..classes).map(|k| view.share[k][i] * self.predictor[k][i]).sum();
            for k in 0..classes {
                let slope = exact[k][i] - f64::from(u8::from(self.labels[i] == k));
                target[k * n + i] =
                    view.roots[k][i] * (self.predictor[k][i] - mean - slope / view.share[k][i]);
            }
        }
        let blocks = work.len() + usize::from(self.fit_intercept);
        let weight = |b: usize| work.get(b).map_or(0.0, |&j| penalty.weight(j as usize));
        let centred = Centred::new(&view, None, Scaling::default());
        let old: Vec<f64> = (work.iter())
            .flat_map(|&j| column(&self.coef, j as usize))
            .chain(self.intercept.iter().copied().filter(|_| self.fit_intercept))
            .collect();
        let mut options = Options { max_rounds: 50, max_sweeps: 2000, ..Options::default() };
        let accuracy = |steepest: f64| (FORCING * kkt / steepest.max(f64::MIN_POSITIVE)).clamp(INNER, 1e-2);
        let new: Vec<f64> = match penalty.kind {
            RowKind::Entries => {
                let weights = Some((0..blocks * classes).map(|c| weight(c / classes)).collect());
                let mut problem = Quadratic::new(centred, target, self.normaliser);
                problem.set_coefficients(&old);
                options.tol = accuracy(problem.correlations().iter().fold(0.0, |m, c| m.max(c.abs())));
                problem.solve(&ElasticNet { weights, ..ElasticNet::l1(penalty.alpha) }, &options);
                problem.coefficients().to_vec()
            }
            RowKind::Norm => {
                let member = |b: usize| (0..classes).map(|k| (b * classes + k) as u32).collect();
                let groups = (0..blocks).map(member).collect();
                let mut problem = Blocks::new(centred, vec![target], self.normaliser, groups);
                problem.set_coefficients(std::slice::from_ref(&old));
                options.tol = accuracy(problem.steepest());
                let weights = (0..blocks).map(weight).collect();
                problem.solve(&GroupPenalty { alpha: penalty.alpha, tau: 0.0, weights }, &options);
                problem.coefficients()[0].clone()
            }
        };
        let (mut goal, mut intercept) = (self.coef.clone(), self.intercept.clone());
        for (b, row) in new.chunks(classes).enumerate() {
            match work.get(b) {
                Some(&j) => goal.iter_mut().zip(row).for_each(|(w, v)| w[j as usize] = *v),
                None => intercept = row.to_vec(),
            }
        }
        self.line_search(&goal, &intercept, penalty)
    }

    /// Goes towards the goal until the objective has fallen enough.
    fn line_search(&mut self, goal: &[Vec<f64>], intercept: &[f64], penalty: &RowPenalty) -> bool {
        let predictor = self.predictors(goal, intercept);
        let before = self.objective(penalty, &self.coef, &self.predictor);
        let mut promise = self.value(penalty, goal) - self.value(penalty, &self.coef);
        for (slope, (new, old)) in self.slopes().iter().zip(predictor.iter().zip(&self.predictor)) {
            promise +=
                slope.iter().zip(new.iter().zip(old)).map(|(s, (new, old))| s * (new - old)).sum::<f64>();
        }
        let between = |old: &[Vec<f64>], new: &[Vec<f64>], t: f64| -> Vec<Vec<f64>> {
            let mix = |(o, n): (&f64, &f64)| if t == 1.0 { *n } else { o + t * (n - o) };
            old.iter().zip(new).map(|(o, n)| o.iter().zip(n).map(mix).collect()).collect()
        };
        let mut t = 1.0;
        for _ in 0..40 {
            let coef = between(&self.coef, goal, t);
            let there = between(&self.predictor, &predictor, t);
            let after = self.objective(penalty, &coef, &there);
            let settled = t == 1.0
                && promise.abs() <= SETTLED * before.abs()
                && after <= before + 64.0 * f64::EPSILON * before.abs();
            if settled || after < before && after <= before + 1e-4 * t * promise.min(0.0) {
                for (old, new) in self.intercept.iter_mut().zip(intercept) {
                    *old += t * (new - *old);
                }
                (self.coef, self.predictor) = (coef, there);
                return true;
            }
            t *= 0.5;
        }
        false
    }
}

/// Entry `j` of every class.
fn column(of: &[Vec<f64>], j: usize) -> Vec<f64> {
    of.iter().map(|values| values[j]).collect()
}

/// The design of a step's least squares: row `c n + i`, column `f K + k` for feature `f` at work and class
/// `k` is `z_if √(v_i p_ic) ([c = k] - p_ik)`. The last block of columns has `z = 1` for the intercepts.
#[derive(Debug)]
struct RowsOfClasses<'a> {
    design: &'a dyn Design,
    work: &'a [u32],
    means: &'a [f64],
    inverse_scales: &'a [f64],
    with_ones: bool,
    /// `√(v_i p_ic)`, class by class.
    roots: Vec<Vec<f64>>,
    share: Vec<Vec<f64>>,
}

impl RowsOfClasses<'_> {
    /// Feature at work (`None`: ones) and class of a column.
    fn place(&self, column: usize) -> (Option<usize>, usize) {
        let classes = self.roots.len();
        (self.work.get(column / classes).map(|j| *j as usize), column % classes)
    }

    /// `out[i] = √(v_i p_ik) v_ik - p_ik sum_c √(v_i p_ic) v_ic`, whose product with `z` is that of the
    /// column; `sums` holds the sums.
    fn fold(&self, k: usize, v: &[f64], sums: &[f64]) -> Vec<f64> {
        let n = self.design.rows();
        let (root, share, part) = (&self.roots[k], &self.share[k], &v[k * n..(k + 1) * n]);
        (0..n).map(|i| root[i] * part[i] - share[i] * sums[i]).collect()
    }

    fn sums(&self, v: &[f64]) -> Vec<f64> {
        let n = self.design.rows();
        let mut sums = vec![0.0; n];
        for (root, part) in self.roots.iter().zip(v.chunks(n)) {
            sums.iter_mut().zip(root.iter().zip(part)).for_each(|(s, (r, v))| *s += r * v);
        }
        sums
    }
}

impl Design for RowsOfClasses<'_> {
    fn rows(&self) -> usize {
        self.design.rows() * self.roots.len()
    }

    fn cols(&self) -> usize {
        (self.work.len() + usize::from(self.with_ones)) * self.roots.len()
    }

    fn stored(&self) -> usize {
        self.rows() * self.cols()
    }

    fn dot(&self, j: usize, v: &[f64]) -> f64 {
        let mut out = [0.0];
        self.dots(&[j as u32], v, &mut out);
        out[0]
    }

    fn axpy(&self, j: usize, a: f64, out: &mut [f64]) {
        let n = self.design.rows();
        let (feature, k) = self.place(j);
        let mut z = vec![0.0; n];
        match feature {
            None => z.fill(a),
            Some(j) => {
                let a = a * self.inverse_scales[j];
                self.design.axpy(j, a, &mut z);
                z.iter_mut().for_each(|z| *z -= a * self.means[j]);
            }
        }
        for (c, (root, part)) in self.roots.iter().zip(out.chunks_mut(n)).enumerate() {
            let own = f64::from(u8::from(c == k));
            for i in 0..n {
                part[i] += z[i] * root[i] * (own - self.share[k][i]);
            }
        }
    }

    fn dots(&self, columns: &[u32], v: &[f64], out: &mut [f64]) {
        let sums = self.sums(v);
        for k in 0..self.roots.len() {
            let mut folded: Option<(Vec<f64>, f64)> = None;
            for (out, &column) in out.iter_mut().zip(columns) {
                let (feature, class) = self.place(column as usize);
                if class == k {
                    let (u, sum) = folded.get_or_insert_with(|| {
                        let u = self.fold(k, v, &sums);
                        let sum = u.iter().sum();
                        (u, sum)
                    });
                    *out = match feature {
                        None => *sum,
                        Some(j) => (self.design.dot(j, u) - self.means[j] * *sum) * self.inverse_scales[j],
                    };
                }
            }
        }
    }

    fn squared_distance(&self, j: usize, shift: f64, unit: Option<&[f64]>) -> f64 {
        let mut column = vec![0.0; self.rows()];
        self.axpy(j, 1.0, &mut column);
        let off = |(i, x): (usize, &f64)| x - shift * unit.map_or(1.0, |u| u[i]);
        column.iter().enumerate().map(off).map(|d| d * d).sum()
    }

    fn select(
        &self,
        rows: Option<&[u32]>,
        columns: Option<&[u32]>,
        scale: Option<&[f64]>,
    ) -> Box<dyn Design> {
        let mut values = Vec::new();
        for k in 0..columns.map_or(self.cols(), <[u32]>::len) {
            let mut column = vec![0.0; self.rows()];
            self.axpy(columns.map_or(k, |c| c[k] as usize), 1.0, &mut column);
            values.extend(column);
        }
        let width = values.len() / self.rows().max(1);
        let whole = Dense::from_columns(self.rows(), width, values).expect("columns of equal length");
        whole.select(rows, None, scale)
    }

    fn first_non_finite(&self) -> Option<(usize, usize, f64)> {
        self.select(None, None, None).first_non_finite()
    }
}
