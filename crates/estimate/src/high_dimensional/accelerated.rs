//! SCAD and MCP by the accelerated gradient method.
//!
//! Yang, Asgharian and Bhatnagar, "Accelerated Gradient Methods for Sparse Statistical Learning with Nonconvex
//! Penalties" (Statistics and Computing 2023, arXiv 2009.10629), after Ghadimi and Lan (Mathematical Programming 2016).
//!
//! ```text
//! minimise over w and b   F(w) = (1 / 2n) ||y - b - Z w||²  (or the mean log loss)  +  sum_j pen(w_j)
//! ```
//!
//! for columns `z_j` of unit standard deviation. The penalty is split into `lambda |w|`, which has a prox, and a smooth
//! concave rest, which joins the loss; `L` is the larger of the two curvatures. An iteration is two products with `Z`
//! and costs `O(n p)`, on a path only for the features that the strong rule leaves.
//!
//! Where we differ: the squared loss eliminates the intercept by centring instead of iterating on it; the curvature of
//! the log loss is `lambda_max / 4n` (the published code takes four times that); iterations stop when the
//! gradient mapping `||md - ag|| / b`, a bound of the violation of stationarity that costs nothing, is small, not when
//! steps are; a restart also puts the fast sequence back on the slow one; a path checks all features after the strong
//! rule. Published code drops nothing on a path, is off by one strength, and in its later package has the sign of the
//! concave gradient wrong.
//!
//! **When not to use it.** On one machine the working-set solvers behind
//! [`ScadRegression`](crate::estimators::ScadRegression) reach the same points many times faster; this method needs
//! nothing but products with `Z`, which is what accelerators are good at.

use sparseland_optim::cd::StopReason;
use sparseland_optim::datafit::{Datafit, Logistic};
use sparseland_optim::design::{Centred, Design, Scaling};
use sparseland_optim::penalty::{Mcp, Penalty, Scad, soft_threshold};

use super::error::{HighDimensionalError, ensure};
use crate::estimators::{EstimateError, Fitted, Loss, SparseCoef, check_design, check_target};
use crate::path::{Path, PathOptions};

/// A concave penalty without its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Concave {
    /// Smoothly clipped absolute deviation with the paper's `a`, above 2; usually 3.7.
    Scad(f64),
    /// Minimax concave penalty with `gamma` above 1; 3 in ncvreg and skglm.
    Mcp(f64),
}

impl Concave {
    /// The penalty of strength `lambda`.
    pub fn of(self, lambda: f64) -> Box<dyn Penalty> {
        match self {
            Self::Scad(shape) => Box::new(Scad { alpha: lambda, shape, weights: None }),
            Self::Mcp(gamma) => Box::new(Mcp { alpha: lambda, gamma, weights: None }),
        }
    }

    /// Greatest curvature of the concave part.
    fn curvature(self) -> f64 {
        match self {
            Self::Scad(shape) => 1.0 / (shape - 1.0),
            Self::Mcp(gamma) => 1.0 / gamma,
        }
    }

    /// Derivative of the penalty minus `lambda |t|`.
    pub(super) fn slope(self, lambda: f64, t: f64) -> f64 {
        match self {
            Self::Scad(shape) => {
                let beyond = (t.abs().min(shape * lambda) - lambda).max(0.0);
                -beyond.copysign(t) / (shape - 1.0)
            }
            Self::Mcp(gamma) => -(t / gamma).clamp(-lambda, lambda),
        }
    }
}

/// The sequences of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The paper's: `alpha_k = 2 / (1 + sqrt(1 + 4 / alpha_(k-1)²))`, step `0.99 / L`.
    Proposed,
    /// Ghadimi and Lan's: `alpha_k = 2 / (k + 1)`, step `1 / 2L`.
    Original,
    /// Plain proximal gradient, step `1 / L`.
    ProximalGradient,
}

/// The accelerated gradient estimator.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceleratedGradient {
    /// The penalty. Default SCAD with 3.7.
    pub penalty: Concave,
    /// Squared (default) or logistic.
    pub loss: Loss,
    /// Sequences. Default the paper's.
    pub scheme: Scheme,
    /// Whether to restart when steps get shorter. Default true; the paper's tables are without.
    pub restart: bool,
    /// Stop when the gradient mapping is this part of the largest gradient at zero. Default 1e-6 (published code: steps
    /// below 1e-2).
    pub tol: f64,
    /// Most iterations per strength. Default 5000 (published code: 500).
    pub max_iter: usize,
}

impl Default for AcceleratedGradient {
    fn default() -> Self {
        Self {
            penalty: Concave::Scad(3.7),
            loss: Loss::Squared,
            scheme: Scheme::Proposed,
            restart: true,
            tol: 1e-6,
            max_iter: 5000,
        }
    }
}

/// Iterations between two restarts at the least.
const BETWEEN_RESTARTS: usize = 3;
/// Iterations and relative change of the power method.
const POWER: (usize, f64) = (200, 1e-4);

/// A regression as the iterations see it.
struct Problem<'a> {
    z: Centred<'a>,
    y: Vec<f64>,
    logistic: bool,
    mean: f64,
    all: Vec<u32>,
    predictor: Vec<f64>,
    residual: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(x: &'a dyn Design, y: &[f64], logistic: bool) -> Self {
        let z = Centred::new(x, None, Scaling { centre: true, scale: true });
        let mut y = y.to_vec();
        let mean = if logistic { 0.0 } else { z.centre(&mut y) };
        let (n, p) = (x.rows(), x.cols() as u32);
        let all = (0..p).filter(|j| z.inverse_scales()[*j as usize] > 0.0).collect();
        Self { z, y, logistic, mean, all, predictor: vec![0.0; n], residual: vec![0.0; n] }
    }

    /// Mean loss at coefficients `w` of the columns `work` (and an intercept behind them, for the log loss), with the
    /// residual left behind, centred for products with columns; the second number is the gradient of the intercept.
    fn loss(&mut self, work: &[u32], w: &[f64]) -> (f64, f64) {
        let n = self.y.len() as f64;
        self.predictor.fill(if self.logistic { w[work.len()] } else { 0.0 });
        let pairs = work.iter().map(|j| *j as usize).zip(w.iter().copied()).filter(|(_, w)| *w != 0.0);
        self.z.accumulate(pairs, &mut self.predictor);
        let mut loss = 0.0;
        for ((r, &m), &y) in self.residual.iter_mut().zip(&self.predictor).zip(&self.y) {
            if self.logistic {
                loss += Logistic.value(y, m);
                *r = Logistic.derivatives(y, m).0;
            } else {
                *r = m - y;
                loss += 0.5 * *r * *r;
            }
        }
        let shift = self.z.centre(&mut self.residual);
        (loss / n, shift)
    }

    /// Gradients of the columns `work` at the residual of the last [`Problem::loss`].
    fn gradients(&self, work: &[u32], out: &mut [f64]) {
        let n = self.y.len() as f64;
        self.z.dots(work, &self.residual, out);
        out.iter_mut().for_each(|g| *g /= n);
    }

    /// Greatest curvature of the loss, by the power method with a margin for what it has not seen.
    fn curvature(&self) -> f64 {
        let n = self.y.len();
        let mut v: Vec<f64> = (0..n).map(|i| 1.0 + (i as f64 * 0.618_033_988_75).fract()).collect();
        let mut products = vec![0.0; self.all.len()];
        let mut top = 0.0;
        for _ in 0..POWER.0 {
            self.z.centre(&mut v);
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            if norm == 0.0 {
                break;
            }
            v.iter_mut().for_each(|v| *v /= norm);
            self.z.dots(&self.all, &v, &mut products);
            v.fill(0.0);
            self.z.accumulate(self.all.iter().map(|j| *j as usize).zip(products.iter().copied()), &mut v);
            let now = products.iter().map(|p| p * p).sum::<f64>();
            let settled = (now - top).abs() <= POWER.1 * now;
            top = now;
            if settled {
                break;
            }
        }
        let of_features = top * (1.0 + 100.0 * POWER.1) / n as f64;
        if self.logistic { 0.25 * of_features.max(1.0) } else { of_features }
    }
}

/// What a run of iterations gave.
#[derive(Debug, Clone)]
struct Solved {
    w: Vec<f64>,
    iterations: usize,
    converged: bool,
}

impl AcceleratedGradient {
    /// Fits at one strength, from zero.
    ///
    /// # Errors
    /// [`HighDimensionalError`] names the entry or parameter at fault.
    pub fn fit(&self, x: &dyn Design, y: &[f64], lambda: f64) -> Result<Fitted, HighDimensionalError> {
        let options = PathOptions { alphas: Some(vec![lambda]), ..PathOptions::default() };
        Ok(self.path(x, y, &options)?.fits.swap_remove(0))
    }

    /// Fits along a falling grid of strengths, warm-started, on the features that the sequential strong rule
    /// `|z_jᵀ r| / n >= 2 lambda_new - lambda_old` names, with all features checked afterwards.
    ///
    /// # Errors
    /// As [`AcceleratedGradient::fit`].
    pub fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        options: &PathOptions,
    ) -> Result<Path, HighDimensionalError> {
        let logistic = self.check(x, y)?;
        let mut problem = Problem::new(x, y, logistic);
        let all = problem.all.clone();
        let intercept = usize::from(logistic);
        let mut start = vec![0.0; x.cols() + intercept];
        if logistic {
            let mean = y.iter().sum::<f64>() / y.len() as f64;
            start[x.cols()] = Logistic.constant(mean).unwrap_or(0.0);
        }
        let null = problem.loss(&[], &start[x.cols()..]).0;
        let mut gradient = vec![0.0; all.len()];
        problem.gradients(&all, &mut gradient);
        let steepest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let alphas = options.grid(steepest, x.rows(), x.cols())?;
        let curvature = problem.curvature().max(self.penalty.curvature());
        let mut w = start;
        let mut failed = None;
        let path = options.run(&alphas, x.rows(), |lambda, before| {
            let rule = before.map_or(f64::NEG_INFINITY, |b| 2.0 * lambda - b);
            let mut inside: Vec<bool> = all
                .iter()
                .zip(&gradient)
                .map(|(&j, g)| g.abs() >= rule.min(lambda) || w[j as usize] != 0.0)
                .collect();
            let mut iterations = 0;
            let mut last = Solved { w: vec![], iterations: 0, converged: true };
            if lambda >= steepest {
                inside.fill(false);
            }
            loop {
                let work: Vec<u32> = all.iter().zip(&inside).filter(|(_, i)| **i).map(|(j, _)| *j).collect();
                if !(work.is_empty() && lambda >= steepest) {
                    let mut from: Vec<f64> = work.iter().map(|j| w[*j as usize]).collect();
                    from.extend_from_slice(&w[x.cols()..]);
                    let accuracy = self.tol * steepest.max(f64::MIN_POSITIVE);
                    match self
                        .iterate(&mut problem, &work, from, lambda, curvature, accuracy, &mut |_, _| false)
                    {
                        Ok(solved) => last = solved,
                        Err(e) => failed = Some(e),
                    }
                    iterations += last.iterations;
                    w.fill(0.0);
                    work.iter().zip(&last.w).for_each(|(j, v)| w[*j as usize] = *v);
                    w[x.cols()..].copy_from_slice(&last.w[work.len()..]);
                }
                let values: Vec<f64> =
                    all.iter().map(|j| w[*j as usize]).chain(w[x.cols()..].iter().copied()).collect();
                problem.loss(&all, &values);
                problem.gradients(&all, &mut gradient);
                let mut grown = false;
                for (inside, g) in inside.iter_mut().zip(&gradient) {
                    if !*inside && g.abs() > lambda * (1.0 + 1e-9) {
                        (*inside, grown) = (true, true);
                    }
                }
                if !grown || failed.is_some() {
                    break;
                }
            }
            let penalty = self.penalty.of(lambda);
            let values: Vec<f64> =
                all.iter().map(|j| w[*j as usize]).chain(w[x.cols()..].iter().copied()).collect();
            let loss = problem.loss(&all, &values).0;
            let kkt = all
                .iter()
                .zip(&gradient)
                .map(|(&j, g)| penalty.distance(0, w[j as usize], *g))
                .fold(0.0, f64::max);
            let (means, scales) = (problem.z.means(), problem.z.inverse_scales());
            let coef: Vec<f64> = w[..x.cols()].iter().zip(scales).map(|(w, s)| w * s).collect();
            let offset: f64 = coef.iter().zip(means).map(|(w, m)| w * m).sum();
            let level = if logistic { w[x.cols()] } else { problem.mean };
            Fitted {
                coef: SparseCoef::from_dense(&coef),
                intercept: level - offset,
                alpha: lambda,
                n_iter: iterations,
                gap: None,
                kkt: if steepest > 0.0 { kkt / steepest } else { 0.0 },
                objective: loss + w[..x.cols()].iter().map(|w| penalty.value(0, *w)).sum::<f64>(),
                mean_loss: loss,
                explained: if null > 0.0 { (null - loss) / null } else { 0.0 },
                converged: last.converged,
                stop_reason: match last.converged {
                    true if lambda >= steepest => StopReason::AllZero,
                    true => StopReason::Stationary,
                    false => StopReason::Limit,
                },
                loss: self.loss,
            }
        });
        failed.map_or(Ok(path), Err)
    }

    /// Objective after every iteration at one strength on all features, from zero: what the paper's comparison of
    /// schemes counts. `stop` ends the run when it returns true.
    ///
    /// # Errors
    /// As [`AcceleratedGradient::fit`].
    pub fn trace(
        &self,
        x: &dyn Design,
        y: &[f64],
        lambda: f64,
        stop: &mut dyn FnMut(usize, f64) -> bool,
    ) -> Result<(), HighDimensionalError> {
        let logistic = self.check(x, y)?;
        let mut problem = Problem::new(x, y, logistic);
        let all = problem.all.clone();
        let curvature = problem.curvature().max(self.penalty.curvature());
        let start = vec![0.0; all.len() + usize::from(logistic)];
        self.iterate(&mut problem, &all, start, lambda, curvature, 0.0, stop).map(|_| ())
    }

    fn check(&self, x: &dyn Design, y: &[f64]) -> Result<bool, HighDimensionalError> {
        check_design(x)?;
        match self.penalty {
            Concave::Scad(shape) => {
                ensure(shape > 2.0 && shape.is_finite(), "shape of SCAD", "above 2", shape)?
            }
            Concave::Mcp(gamma) => {
                ensure(gamma > 1.0 && gamma.is_finite(), "gamma of MCP", "above 1", gamma)?
            }
        }
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", "above 0", self.tol)?;
        ensure(self.max_iter > 0, "max_iter", "at least 1", self.max_iter)?;
        match self.loss {
            Loss::Squared => check_target(x, y, f64::is_finite, "a finite number")?,
            Loss::Logistic => {
                check_target(x, y, |v| Logistic.accepts(v), Logistic.domain())?;
                if let Some(row) = (y.iter().all(|v| *v == y[0])).then_some(0) {
                    let domain = "of two classes: every row has the same one";
                    return Err(EstimateError::Value { what: "y", row, value: y[0], domain }.into());
                }
            }
            _ => ensure(false, "loss", "squared or logistic", format!("{:?}", self.loss))?,
        }
        Ok(self.loss == Loss::Logistic)
    }

    /// Iterates on the columns `work` (an intercept behind them is not penalised) until the gradient mapping is at most
    /// `accuracy`. Returns the slow sequence, whose zeros are exact. `watch`, if it wants the objective, costs half an
    /// iteration more; it is asked only when `accuracy` is 0.
    fn iterate(
        &self,
        problem: &mut Problem<'_>,
        work: &[u32],
        start: Vec<f64>,
        lambda: f64,
        curvature: f64,
        accuracy: f64,
        watch: &mut dyn FnMut(usize, f64) -> bool,
    ) -> Result<Solved, HighDimensionalError> {
        let penalty = self.penalty.of(lambda);
        let count = work.len();
        let (mut slow, mut fast, mut middle) = (start.clone(), start.clone(), start.clone());
        let mut gradient = vec![0.0; start.len()];
        let mut before = start;
        let (mut alpha, mut since, mut last_step) = (1.0f64, 0, 0.0f64);
        let step = match self.scheme {
            Scheme::Proposed => 0.99 / curvature,
            Scheme::Original => 0.5 / curvature,
            Scheme::ProximalGradient => 1.0 / curvature,
        };
        let mut mapping = f64::INFINITY;
        for k in 1..=self.max_iter {
            let fast_step = match self.scheme {
                Scheme::Proposed => {
                    if since > 0 {
                        alpha = 2.0 / (1.0 + (1.0 + 4.0 / (alpha * alpha)).sqrt());
                    }
                    step / alpha
                }
                Scheme::Original => {
                    alpha = 2.0 / (since + 2) as f64;
                    (since + 1) as f64 * step / 2.0
                }
                Scheme::ProximalGradient => step,
            };
            since += 1;
            for ((m, s), f) in middle.iter_mut().zip(&slow).zip(&fast) {
                *m = if self.scheme == Scheme::ProximalGradient { *s } else { (1.0 - alpha) * s + alpha * f };
            }
            let (_, level) = problem.loss(work, &middle);
            problem.gradients(work, &mut gradient[..count]);
            for (g, m) in gradient[..count].iter_mut().zip(&middle) {
                *g += self.penalty.slope(lambda, *m);
            }
            gradient[count..].fill(level);
            mapping = 0.0;
            let mut finite = 0.0;
            for j in 0..middle.len() {
                let strength = if j < count { lambda } else { 0.0 };
                fast[j] = soft_threshold(fast[j] - fast_step * gradient[j], fast_step * strength);
                slow[j] = soft_threshold(middle[j] - step * gradient[j], step * strength);
                mapping = f64::max(mapping, (slow[j] - middle[j]).abs() / step);
                finite += slow[j];
            }
            if !finite.is_finite() {
                return Err(HighDimensionalError::Diverged {
                    operation: "accelerated gradient",
                    iterations: k,
                });
            }
            if accuracy == 0.0 {
                let loss = problem.loss(work, &slow).0;
                let objective = loss + slow[..count].iter().map(|w| penalty.value(0, *w)).sum::<f64>();
                if watch(k, objective) {
                    break;
                }
            } else if mapping <= accuracy {
                return Ok(Solved { w: slow, iterations: k, converged: true });
            }
            let moved = middle.iter().zip(&before).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            if self.restart && moved < last_step && since > BETWEEN_RESTARTS {
                since = 0;
                alpha = 1.0;
                fast.copy_from_slice(&slow);
            }
            last_step = moved;
            before.copy_from_slice(&middle);
        }
        Ok(Solved { w: slow, iterations: self.max_iter, converged: mapping <= accuracy })
    }
}
