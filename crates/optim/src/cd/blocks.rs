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
/// Ratio of the strengths that a cold start passes through, and the accuracy there.
const DESCENT: f64 = 1.6;
const ROUGH: f64 = 1e-2;
/// Most features whose Gram matrix is kept.
const GRAM_LIMIT: usize = 4096;
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

    /// Starts the next solve from `coef`, task by task.
    ///
    /// # Panics
    /// When the shape is not that of the problem.
    pub fn set_coefficients(&mut self, coef: &[Vec<f64>]) {
        assert_eq!(coef.len(), self.coef.len(), "one vector per task");
        for (old, new) in self.coef.iter_mut().zip(coef) {
            old.copy_from_slice(new);
        }
        self.refresh(&[]);
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
        if penalty.alpha > 0.0 && self.coef.iter().flatten().all(|w| *w == 0.0) {
            // A cold start comes down from the strength at which all is zero: working sets stay small.
            let steps = (self.alpha_max(penalty) / penalty.alpha).ln() / DESCENT.ln();
            for step in (1..steps.clamp(0.0, 64.0) as i32 + 1).rev() {
                let alpha = penalty.alpha * DESCENT.powi(step);
                let rough = Options { tol: ROUGH, max_rounds: 2, ..options.clone() };
                self.minimise(&GroupPenalty { alpha, ..penalty.clone() }, &rough);
            }
        }
        self.minimise(penalty, options)
    }

    fn minimise(&mut self, penalty: &GroupPenalty, options: &Options) -> Report {
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
        // With more features than rows, a column of residuals is shorter than one of gradients.
        if wanted.len() > self.design.rows() || wanted.len() + self.gram.len() > GRAM_LIMIT {
            return self.inner_residual(work, penalty, tol, most);
        }
        self.gram.insert(&self.design, self.normaliser, &wanted);
        let features = self.gram.features().to_vec();
        let gather = |of: &[Vec<f64>], sign: f64| -> Vec<Vec<f64>> {
            of.iter().map(|task| features.iter().map(|&j| sign * task[j as usize]).collect()).collect()
        };
        let mut local = Local { coef: gather(&self.coef, 1.0), gradient: gather(&self.correlations, -1.0) };
        self.add_products(&mut local);
        let mut blocks = Vec::with_capacity(work.len());
        for &g in work {
            let members = &self.groups[g as usize];
            let slots: Vec<usize> = members.iter().filter_map(|&j| self.gram.slot(j)).collect();
            let gram = slots.iter().flat_map(|&a| slots.iter().map(move |&b| (a, b)));
            let gram = gram.map(|(a, b)| self.gram.at(a, b)).collect();
            blocks.push((slots, Block::new(g as usize, gram)));
        }
        let mut history = Anderson::default();
        let mut sweeps = 0;
        while sweeps < most {
            sweeps += 1;
            let mut worst = 0.0f64;
            for (slots, block) in &blocks {
                worst = worst.max(self.visit(slots, block, penalty, &mut local));
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

    /// The same on the residuals, which are up to date at the start.
    fn inner_residual(&mut self, work: &[u32], penalty: &GroupPenalty, tol: f64, most: usize) -> usize {
        let (n, tasks) = (self.normaliser, self.targets.len());
        let mut column = vec![0.0; self.design.rows()];
        let mut blocks = Vec::with_capacity(work.len());
        for &g in work {
            let members = &self.groups[g as usize];
            let mut gram = vec![0.0; members.len() * members.len()];
            for (&j, row) in members.iter().zip(gram.chunks_mut(members.len().max(1))) {
                self.design.fill(j as usize, &mut column);
                self.design.dots(members, &column, row);
                row.iter_mut().for_each(|v| *v /= n);
            }
            blocks.push(Block::new(g as usize, gram));
        }
        let objective = |problem: &Self| {
            let value = |&g: &u32| penalty.value(g as usize, &problem.block(&problem.coef, g as usize));
            problem.loss() + work.iter().map(value).sum::<f64>()
        };
        let mut history = Anderson::default();
        let mut products = vec![];
        let mut sweeps = 0;
        while sweeps < most {
            sweeps += 1;
            let mut worst = 0.0f64;
            // The true residuals are self.residuals + shift u, see `Quadratic`.
            let mut shifts = vec![0.0; tasks];
            for block in &blocks {
                let members = &self.groups[block.group];
                let mut start = vec![0.0; members.len() * tasks];
                products.resize(members.len(), 0.0);
                for task in 0..tasks {
                    self.design.dots(members, &self.residuals[task], &mut products);
                    for (a, &j) in members.iter().enumerate() {
                        let j = j as usize;
                        let lift = n * self.design.means()[j] * self.design.inverse_scales()[j];
                        start[a * tasks + task] = -(products[a] + shifts[task] * lift) / n;
                    }
                }
                let old = self.block(&self.coef, block.group);
                let Some((new, moved)) = block.improve(&old, &start, tasks, penalty) else { continue };
                worst = worst.max(moved);
                for (a, &j) in members.iter().enumerate() {
                    for task in 0..tasks {
                        let at = a * tasks + task;
                        if new[at] != old[at] {
                            self.coef[task][j as usize] = new[at];
                            let residual = &mut self.residuals[task];
                            self.design.axpy(j as usize, old[at] - new[at], residual, &mut shifts[task]);
                        }
                    }
                }
            }
            for (residual, shift) in self.residuals.iter_mut().zip(&shifts) {
                self.design.add_unit(*shift, residual);
            }
            if worst <= tol {
                break;
            }
            let iterate: Vec<f64> = work.iter().flat_map(|&g| self.block(&self.coef, g as usize)).collect();
            if let Some(guess) = history.push(&iterate) {
                let before = objective(self);
                self.place(work, &guess);
                if objective(self) >= before {
                    self.place(work, &iterate);
                }
            }
        }
        sweeps
    }

    /// Sets the coefficients of the groups listed, as [`Blocks::block`] orders them, and the residuals.
    fn place(&mut self, work: &[u32], values: &[f64]) {
        let mut values = values.iter();
        for &g in work {
            for &j in &self.groups[g as usize] {
                for (task, &value) in self.coef.iter_mut().zip(values.by_ref()) {
                    task[j as usize] = value;
                }
            }
        }
        self.refresh(&[]);
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
        blocks: &[(Vec<usize>, Block)],
        penalty: &GroupPenalty,
    ) -> f64 {
        let mut out = 0.0;
        for (task, (coef, gradient)) in local.coef.iter().zip(&local.gradient).enumerate() {
            for (slot, (&w, q)) in coef.iter().zip(gradient).enumerate() {
                out += 0.5 * w * (q - self.correlations[task][features[slot] as usize]);
            }
        }
        for (slots, block) in blocks {
            let w: Vec<f64> = slots.iter().flat_map(|&s| local.coef.iter().map(move |t| t[s])).collect();
            out += penalty.value(block.group, &w);
        }
        out
    }

    /// Improves one block; its greatest change in units of the gradient.
    fn visit(&self, slots: &[usize], block: &Block, penalty: &GroupPenalty, local: &mut Local) -> f64 {
        let tasks = local.coef.len();
        let old: Vec<f64> = slots.iter().flat_map(|&s| local.coef.iter().map(move |t| t[s])).collect();
        let start: Vec<f64> = slots.iter().flat_map(|&s| local.gradient.iter().map(move |t| t[s])).collect();
        let Some((new, moved)) = block.improve(&old, &start, tasks, penalty) else { return 0.0 };
        for (a, &slot) in slots.iter().enumerate() {
            for task in 0..tasks {
                let change = new[a * tasks + task] - old[a * tasks + task];
                if change != 0.0 {
                    local.coef[task][slot] = new[a * tasks + task];
                    vector::axpy(change, self.gram.row(slot), &mut local.gradient[task]);
                }
            }
        }
        moved
    }
}

/// A group at work.
struct Block {
    group: usize,
    /// `Z_gᵀ Z_g / N`, row by row.
    gram: Vec<f64>,
    /// An upper bound of its greatest eigenvalue.
    curvature: f64,
}

impl Block {
    fn new(group: usize, gram: Vec<f64>) -> Self {
        let size = gram.len().isqrt();
        let trace: f64 = (0..size).map(|a| gram[a * size + a]).sum();
        let rows = gram.chunks(size.max(1)).map(|row| row.iter().map(|v| v.abs()).sum::<f64>());
        let curvature = trace.min(rows.fold(0.0, f64::max));
        Self { group, gram, curvature }
    }

    /// A few prox steps from `old`, where the gradient is `start`: the new coefficients, and how far the
    /// first step went in units of the gradient. `None` where nothing moves.
    fn improve(
        &self,
        old: &[f64],
        start: &[f64],
        tasks: usize,
        penalty: &GroupPenalty,
    ) -> Option<(Vec<f64>, f64)> {
        if old.iter().all(|w| *w == 0.0) && penalty.distance(self.group, old, start) == 0.0 {
            return None;
        }
        let size = old.len() / tasks;
        let mut w = old.to_vec();
        let mut gradient = start.to_vec();
        let mut first = 0.0;
        let steps = if size == 1 { 1 } else { STEPS };
        for step in 0..steps {
            let pairs = w.iter().zip(&gradient);
            let mut z: Vec<f64> = pairs.map(|(w, q)| w - q / self.curvature).collect();
            penalty.prox(self.group, &mut z, 1.0 / self.curvature);
            let square: f64 = z.iter().zip(&w).map(|(a, b)| (a - b) * (a - b)).sum();
            let moved = square.sqrt() * self.curvature;
            w = z;
            if step == 0 {
                first = moved;
            }
            if moved <= 0.1 * first || step + 1 == steps {
                break;
            }
            for a in 0..size {
                for task in 0..tasks {
                    let change = (0..size)
                        .map(|b| self.gram[a * size + b] * (w[b * tasks + task] - old[b * tasks + task]));
                    gradient[a * tasks + task] = start[a * tasks + task] + change.sum::<f64>();
                }
            }
        }
        Some((w, first))
    }
}
