//! Penalised least squares over blocks of coefficients: groups of features, tasks, or both.

use sparseland_matrix::vector;

use super::anderson::Anderson;
use super::gram::Gram;
use super::quadratic::take_largest;
use super::{Options, Report, StopReason};
use crate::design::Centred;
use crate::penalty::GroupPenalty;

/// Prox steps on a block per visit: cheap against the update of everybody else's gradient.
const STEPS: usize = 4;
/// First working set, in blocks.
const FIRST: usize = 10;

/// `||Y - Z W||² / (2 N) + sum_g pen_g(W_g)` for `T` targets (`n x T`) and `W` of `p x T`.
///
/// A block is a group of features with all their `T` coefficients; with single features as groups this
/// is the multi-task lasso, with `T = 1` the group lasso. The state stays between calls of
/// [`Blocks::solve`].
#[derive(Debug)]
pub struct Blocks<'a> {
    design: Centred<'a>,
    targets: Vec<Vec<f64>>,
    normaliser: f64,
    groups: Vec<Vec<u32>>,
    /// Task by task.
    coef: Vec<Vec<f64>>,
    residuals: Vec<Vec<f64>>,
    correlations: Vec<Vec<f64>>,
    gradient: Vec<Vec<f64>>,
    gram: Gram,
}

/// Coefficients and gradients of the features in the Gram matrix, task by task.
struct Local {
    coef: Vec<Vec<f64>>,
    gradient: Vec<Vec<f64>>,
}

impl<'a> Blocks<'a> {
    /// The problem at `W = 0`. `groups` lists the features of every group; each feature belongs to one
    /// group at most, and features of no group stay at zero. With centring, the targets are centred here.
    ///
    /// # Panics
    /// When a target has another length than the design has rows.
    pub fn new(
        design: Centred<'a>,
        mut targets: Vec<Vec<f64>>,
        normaliser: f64,
        groups: Vec<Vec<u32>>,
    ) -> Self {
        let p = design.cols();
        let all: Vec<u32> = (0..p as u32).collect();
        let mut correlations = Vec::with_capacity(targets.len());
        for target in &mut targets {
            assert_eq!(target.len(), design.rows(), "one target per row");
            design.centre(target);
            let mut products = vec![0.0; p];
            design.dots(&all, target, &mut products);
            products.iter_mut().for_each(|c| *c /= normaliser);
            correlations.push(products);
        }
        // Constant columns take no part.
        let moves = |j: &u32| design.squared_norms()[*j as usize] > 0.0;
        let groups = groups.into_iter().map(|g| g.into_iter().filter(moves).collect()).collect();
        Self {
            residuals: targets.clone(),
            coef: vec![vec![0.0; p]; targets.len()],
            gradient: correlations.iter().map(|c| c.iter().map(|v| -v).collect()).collect(),
            gram: Gram::new(p),
            design,
            targets,
            normaliser,
            groups,
            correlations,
        }
    }

    /// Coefficients of the columns `z_j`, task by task.
    pub fn coefficients(&self) -> &[Vec<f64>] {
        &self.coef
    }

    /// The design it was made with.
    pub fn design(&self) -> &Centred<'a> {
        &self.design
    }

    /// `||Y||² / (2 N)`.
    pub fn null_loss(&self) -> f64 {
        self.targets.iter().map(|y| vector::dot(y, y)).sum::<f64>() / (2.0 * self.normaliser)
    }

    /// `||Y - Z W||² / (2 N)`.
    pub fn loss(&self) -> f64 {
        self.residuals.iter().map(|r| vector::dot(r, r)).sum::<f64>() / (2.0 * self.normaliser)
    }

    /// The norm of the steepest block of the gradient at `W = 0`.
    pub fn steepest(&self) -> f64 {
        let size = |g: usize| crate::penalty::norm(&self.block(&self.correlations, g));
        (0..self.groups.len()).map(size).fold(0.0, f64::max)
    }

    /// The least `alpha` at which all penalised groups are zero, if they are zero now.
    pub fn alpha_max(&self, penalty: &GroupPenalty) -> f64 {
        let critical = |g: usize| penalty.critical_alpha(g, &self.block(&self.gradient, g));
        (0..self.groups.len()).map(critical).fold(0.0, f64::max)
    }

    /// The numbers of block `g`, feature by feature.
    fn block(&self, of: &[Vec<f64>], g: usize) -> Vec<f64> {
        self.groups[g].iter().flat_map(|&j| of.iter().map(move |task| task[j as usize])).collect()
    }

    /// Minimises from the current coefficients on.
    pub fn solve(&mut self, penalty: &GroupPenalty, options: &Options) -> Report {
        let count = self.groups.len();
        let mut in_work = vec![false; count];
        let mut alive: Vec<u32> = Vec::new();
        let mut work: Vec<u32> = Vec::new();
        let mut has_gap = penalty.alpha > 0.0;
        let mut scale = 0.0f64;
        for g in 0..count {
            let (l1, l2) = penalty.parts(g);
            let active = self.block(&self.coef, g).iter().any(|w| *w != 0.0);
            if self.groups[g].is_empty() || (l2.is_infinite() && !active) {
                continue;
            }
            alive.push(g as u32);
            has_gap &= l1 + l2 > 0.0;
            let size = crate::penalty::norm(&self.block(&self.correlations, g));
            scale = scale.max(size);
            if active || l1 + l2 == 0.0 {
                in_work[g] = true;
                work.push(g as u32);
            }
        }
        let considered = alive.len();
        let (mut sweeps, mut rounds) = (0, 0);
        let mut precision = options.tol;
        let mut last_kkt = f64::INFINITY;
        loop {
            self.refresh(&alive);
            let mut kkt = 0.0f64;
            let mut dual_scale = 1.0f64;
            let mut violators: Vec<(f64, u32)> = Vec::new();
            let mut value = 0.0;
            for &g in &alive {
                let g = g as usize;
                let (w, gradient) = (self.block(&self.coef, g), self.block(&self.gradient, g));
                let distance = penalty.distance(g, &w, &gradient);
                kkt = kkt.max(distance);
                value += penalty.value(g, &w);
                if has_gap {
                    dual_scale = dual_scale.max(penalty.critical_alpha(g, &gradient) / penalty.alpha);
                }
                if distance > 0.0 && !in_work[g] {
                    violators.push((distance / self.trace(g).sqrt(), g as u32));
                }
            }
            let objective = self.loss() + value;
            let mut gap = None;
            if has_gap {
                let pairs = self.targets.iter().zip(&self.residuals);
                let product = pairs.map(|(y, r)| vector::dot(y, r)).sum::<f64>() / self.normaliser;
                let dual = product / dual_scale - self.loss() / (dual_scale * dual_scale);
                let found = (objective - dual).max(0.0);
                gap = Some(found);
                let radius = (2.0 * found / self.normaliser).sqrt();
                alive.retain(|&g| {
                    let g = g as usize;
                    let (l1, l2) = penalty.parts(g);
                    let reach = crate::penalty::norm(&self.block(&self.gradient, g)) / dual_scale
                        + (self.trace(g) * self.normaliser).sqrt() * radius;
                    // ||S(v, l1)|| <= max(||v|| - l1, 0): safe for the mixed penalty too.
                    in_work[g] || reach - l1 >= l2
                });
            }
            let floor = 64.0 * f64::EPSILON * scale;
            let done = match gap {
                Some(gap) => (gap <= options.tol * self.null_loss()).then_some(StopReason::Gap),
                None => (kkt <= options.tol * scale).then_some(StopReason::Stationary),
            };
            let stop = done
                .or((kkt <= floor).then_some(StopReason::Precision))
                .or((rounds >= options.max_rounds || sweeps >= options.max_sweeps)
                    .then_some(StopReason::Limit));
            if let Some(stop) = stop {
                return Report {
                    sweeps,
                    rounds,
                    gap,
                    kkt,
                    objective,
                    working: work.len(),
                    screened: considered - alive.len(),
                    converged: stop != StopReason::Limit,
                    stop,
                };
            }
            rounds += 1;
            let active = |g: &u32| self.block(&self.coef, *g as usize).iter().any(|w| *w != 0.0);
            let support = work.iter().filter(|g| active(g)).count();
            let outside = !violators.is_empty();
            take_largest(&mut violators, support.max(FIRST), &mut work, &mut in_work);
            if !outside || kkt > 0.5 * last_kkt {
                precision *= 0.1;
            }
            last_kkt = kkt;
            let rough = if outside { 0.1 * kkt } else { 0.0 };
            let tol = (precision * scale.min(penalty.alpha.max(floor))).max(rough).max(0.1 * floor);
            sweeps += self.inner(&work, penalty, tol, options.max_sweeps - sweeps);
        }
    }

    /// Brings the gradients of all groups up to date. Cost: one product with every column and target.
    pub fn refresh_all(&mut self) {
        let all: Vec<u32> = (0..self.groups.len() as u32).collect();
        self.refresh(&all);
    }

    /// `||Z_g||²_F / N`, at least the greatest eigenvalue of the block.
    fn trace(&self, g: usize) -> f64 {
        let norms = self.design.squared_norms();
        self.groups[g].iter().map(|&j| norms[j as usize]).sum::<f64>() / self.normaliser
    }

    /// Residuals, and gradients of the groups listed, from scratch.
    fn refresh(&mut self, alive: &[u32]) {
        let features: Vec<u32> =
            alive.iter().flat_map(|&g| self.groups[g as usize].iter().copied()).collect();
        let mut products = vec![0.0; features.len()];
        for (task, target) in self.targets.iter().enumerate() {
            let mut residual = target.clone();
            let coef = &self.coef[task];
            let pairs = coef.iter().enumerate().filter(|(_, w)| **w != 0.0).map(|(j, w)| (j, -w));
            self.design.accumulate(pairs, &mut residual);
            self.design.dots(&features, &residual, &mut products);
            for (&j, product) in features.iter().zip(&products) {
                self.gradient[task][j as usize] = -product / self.normaliser;
            }
            self.residuals[task] = residual;
        }
    }

    /// Block coordinate descent over the groups in `work`. Sweeps made.
    fn inner(&mut self, work: &[u32], penalty: &GroupPenalty, tol: f64, most: usize) -> usize {
        let wanted: Vec<u32> = work.iter().flat_map(|&g| self.groups[g as usize].iter().copied()).collect();
        self.gram.insert(&self.design, self.normaliser, &wanted);
        let features = self.gram.features().to_vec();
        let gather = |of: &[Vec<f64>], sign: f64| -> Vec<Vec<f64>> {
            of.iter().map(|task| features.iter().map(|&j| sign * task[j as usize]).collect()).collect()
        };
        let mut local = Local { coef: gather(&self.coef, 1.0), gradient: gather(&self.correlations, -1.0) };
        self.add_products(&mut local);
        let blocks: Vec<(usize, Vec<usize>, f64)> = work
            .iter()
            .map(|&g| {
                let slots: Vec<usize> =
                    self.groups[g as usize].iter().filter_map(|&j| self.gram.slot(j)).collect();
                let curvature = self.curvature(&slots);
                (g as usize, slots, curvature)
            })
            .collect();
        let mut history = Anderson::default();
        let mut sweeps = 0;
        while sweeps < most {
            sweeps += 1;
            let mut worst = 0.0f64;
            for (g, slots, curvature) in &blocks {
                worst = worst.max(self.visit(*g, slots, *curvature, penalty, &mut local));
            }
            if worst <= tol {
                break;
            }
            if let Some(guess) = history.push(&local.coef.concat()) {
                let mut trial = Local {
                    coef: guess.chunks(features.len()).map(<[f64]>::to_vec).collect(),
                    gradient: gather(&self.correlations, -1.0),
                };
                self.add_products(&mut trial);
                let value = |local: &Local| self.local_objective(local, &features, &blocks, penalty);
                if value(&trial) < value(&local) {
                    local = trial;
                }
            }
        }
        for (task, coef) in self.coef.iter_mut().enumerate() {
            for (slot, &j) in features.iter().enumerate() {
                coef[j as usize] = local.coef[task][slot];
            }
        }
        sweeps
    }

    /// `gradient += G coef`.
    fn add_products(&self, local: &mut Local) {
        for (coef, gradient) in local.coef.iter().zip(&mut local.gradient) {
            for (slot, &w) in coef.iter().enumerate() {
                if w != 0.0 {
                    vector::axpy(w, self.gram.row(slot), gradient);
                }
            }
        }
    }

    /// The objective up to a constant: `w (q - c) / 2 + pen`, with `q = G w - c`.
    fn local_objective(
        &self,
        local: &Local,
        features: &[u32],
        blocks: &[(usize, Vec<usize>, f64)],
        penalty: &GroupPenalty,
    ) -> f64 {
        let mut out = 0.0;
        for (task, (coef, gradient)) in local.coef.iter().zip(&local.gradient).enumerate() {
            for (slot, (&w, q)) in coef.iter().zip(gradient).enumerate() {
                out += 0.5 * w * (q - self.correlations[task][features[slot] as usize]);
            }
        }
        for (g, slots, _) in blocks {
            let w: Vec<f64> = slots.iter().flat_map(|&s| local.coef.iter().map(move |t| t[s])).collect();
            out += penalty.value(*g, &w);
        }
        out
    }

    /// An upper bound of the greatest eigenvalue of a block of the Gram matrix.
    fn curvature(&self, slots: &[usize]) -> f64 {
        let trace: f64 = slots.iter().map(|&s| self.gram.at(s, s)).sum();
        let row = |&a: &usize| slots.iter().map(|&b| self.gram.at(a, b).abs()).sum::<f64>();
        trace.min(slots.iter().map(row).fold(0.0, f64::max))
    }

    /// Improves one block; its greatest change in units of the gradient.
    fn visit(
        &self,
        g: usize,
        slots: &[usize],
        curvature: f64,
        penalty: &GroupPenalty,
        local: &mut Local,
    ) -> f64 {
        let tasks = local.coef.len();
        let old: Vec<f64> = slots.iter().flat_map(|&s| local.coef.iter().map(move |t| t[s])).collect();
        let start: Vec<f64> = slots.iter().flat_map(|&s| local.gradient.iter().map(move |t| t[s])).collect();
        if old.iter().all(|w| *w == 0.0) && penalty.distance(g, &old, &start) == 0.0 {
            return 0.0;
        }
        let mut w = old.clone();
        let mut gradient = start.clone();
        let mut first = 0.0;
        let steps = if slots.len() == 1 { 1 } else { STEPS };
        for step in 0..steps {
            let mut z: Vec<f64> = w.iter().zip(&gradient).map(|(w, q)| w - q / curvature).collect();
            penalty.prox(g, &mut z, 1.0 / curvature);
            let moved = z.iter().zip(&w).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt() * curvature;
            w = z;
            if step == 0 {
                first = moved;
            }
            if moved <= 0.1 * first || step + 1 == steps {
                break;
            }
            for (a, &slot) in slots.iter().enumerate() {
                for task in 0..tasks {
                    let change = slots.iter().enumerate().map(|(b, &other)| {
                        self.gram.at(slot, other) * (w[b * tasks + task] - old[b * tasks + task])
                    });
                    gradient[a * tasks + task] = start[a * tasks + task] + change.sum::<f64>();
                }
            }
        }
        for (a, &slot) in slots.iter().enumerate() {
            for task in 0..tasks {
                let change = w[a * tasks + task] - old[a * tasks + task];
                if change != 0.0 {
                    local.coef[task][slot] = w[a * tasks + task];
                    vector::axpy(change, self.gram.row(slot), &mut local.gradient[task]);
                }
            }
        }
        first
    }
}
