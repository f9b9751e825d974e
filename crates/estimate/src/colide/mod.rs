//! Linear directed acyclic graphs from observations, with the noise scale estimated along (CoLiDE).
//!
//! Paper: S. S. Saboksayr, G. Mateos, M. Tepper, "CoLiDE: Concomitant Linear DAG Estimation", ICLR 2024,
//! arXiv 2310.02895. The acyclicity function is DAGMA's (Bello, Aragam and Ravikumar 2022, arXiv 2209.08037).
//!
//! # Problem
//! `X` is `n x d`, columns centred, `C = X^T X / n`. The model is `x = W^T x + z`: `w[i, j] != 0` means `i -> j`. For
//! stages `k = 1..T`, each started where the last one ended, with falling `mu_k` and domain parameters `s_k`:
//!
//! ```text
//! minimise over W (d x d):   mu_k (S(W) + lambda ||W||_1) + h(W, s_k)
//! h(W, s) = d log s - log det(s I - W o W),       finite where s I - W o W is an M-matrix, zero for DAGs
//! equal variance:     S = min over sigma >= sigma_0 of   tr((I - W)^T C (I - W)) / (2 sigma) + d sigma / 2
//! unequal variance:   S = min over sigma_j >= sigma_0j of  sum_j [(I - W)^T C (I - W)]_jj / (2 sigma_j) + sigma_j / 2
//! least squares:      S = tr((I - W)^T C (I - W)) / 2                                     (this is DAGMA)
//! ```
//!
//! Scales have closed forms: the root of the mean residual variance, or of each one. Then `|w_ij| <= threshold` is
//! set to zero, and while a cycle is left, the smallest remaining weight.
//!
//! # Cost
//! One inverse and one product per step, `2 d^3` multiply-adds; `12 d^2` values of memory. The paper's optimiser takes
//! up to 130,000 steps (30,000 to 60,000 before its tolerance stops it), [`Optimizer::fast`] about a tenth.
//!
//! # Departures
//! - The domain is tested by the signs of the pivots, which give the log determinant too, instead of by the signs of
//!   the entries of the inverse: for `s I - W o W` the two are equivalent, up to rounding.
//! - The scales have their floor `sigma_0` (1/100 of their start), which the published code leaves out; a node that
//!   others determine exactly would divide by zero without it.
//! - `W` may be held at a zero diagonal ([`Colide::self_loops`]); the published code, and the default, let it move.
//! - Edges can be forbidden and required; several thresholds can be applied to one fit.
//! - [`Optimizer::fast`] is ours.
//!
//! # What it does not do
//! Scaling all of `X` by `c` acts like dividing `lambda` and multiplying `mu_1` by `c`: the score softens the
//! dependence on the scale, it does not remove it ([`Normalize::Global`] does). On data whose columns were standardised
//! one by one, the order of the variances is lost, and with it most of what continuous methods use:
//! [`ColideFit::varsortability`] near 0.5 says so. Do not use it for non-linear or categorical data, or to claim causes
//! where hidden common causes are likely.
//!
//! # Example
//! ```
//! use sparseland_core::Context;
//! use sparseland_estimate::colide::{Colide, Optimizer, Sem, graph_score};
//!
//! let context = Context::new(7, 1)?;
//! let sample = Sem::equal_variance(8, 10, 1000).sample(&mut context.rng(0))?;
//! let method = Colide { optimizer: Optimizer::fast(), ..Colide::equal_variance() };
//! let fit = method.fit(&sample.x, &context)?;
//! assert!(graph_score(&sample.w, &fit.w_dag)?.shd <= 3);
//! assert_eq!(fit.order.len(), 8); // a causal order of the nodes
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adam;
mod dag;
mod data;
mod error;
pub mod experiment;
mod metrics;
mod objective;
mod quasi_newton;
mod sem;
mod sort_n_regress;
#[cfg(test)]
mod tests;

pub use dag::{threshold_to_dag, topological_order, varsortability};
pub use error::ColideError;
pub use metrics::{
    GraphScore, cpdag, graph_score, relative_noise_error, shd_of_classes, structural_intervention_distance,
};
pub use sem::{GraphKind, Noise, Sem, SemSample, Variances, simulate};
pub use sort_n_regress::{refit, sort_n_regress};

use error::ensure;
use objective::Objective;
use sparseland_core::{Context, Event};
use sparseland_linalg::Mat;

/// The score that is minimised together with the acyclicity function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// CoLiDE-EV: one noise scale for all nodes.
    EqualVariance,
    /// CoLiDE-NV: one noise scale per node.
    UnequalVariance,
    /// DAGMA: least squares, scales fixed at 1.
    LeastSquares,
}

/// The stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Number of stages. Default 4 (paper).
    pub stages: usize,
    /// Weight of the score in the first stage. Default 1 (paper).
    pub mu: f64,
    /// Factor of that weight from one stage to the next. Default 0.1 (paper).
    pub mu_factor: f64,
    /// Domain parameters, the last one repeated when there are more stages. Default 1.0, 0.9, 0.8, 0.7 (paper).
    pub s: Vec<f64>,
    /// Most steps of every stage but the last. Default 20,000 (paper).
    pub warm_iter: usize,
    /// Most steps of the last stage. Default 70,000 (paper).
    pub max_iter: usize,
}

impl Default for Path {
    fn default() -> Self {
        Path {
            stages: 4,
            mu: 1.0,
            mu_factor: 0.1,
            s: vec![1.0, 0.9, 0.8, 0.7],
            warm_iter: 20_000,
            max_iter: 70_000,
        }
    }
}

/// The paper's optimiser.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    /// Learning rate. Default 3e-4 (paper).
    pub learning_rate: f64,
    /// Decay of the mean. Default 0.99 (paper).
    pub beta1: f64,
    /// Decay of the mean square. Default 0.999 (paper).
    pub beta2: f64,
    /// Added to the root of the mean square. Default 1e-8 (paper).
    pub epsilon: f64,
    /// Steps between two looks at the objective. Default 1000 (paper).
    pub check_every: usize,
    /// A stage ends when the objective changes by less than this fraction between two looks. Default 1e-6 (paper).
    pub tolerance: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            learning_rate: 3e-4,
            beta1: 0.99,
            beta2: 0.999,
            epsilon: 1e-8,
            check_every: 1000,
            tolerance: 1e-6,
        }
    }
}

/// The orthant-wise quasi-Newton polish of the last stage.
#[derive(Debug, Clone, PartialEq)]
pub struct QuasiNewton {
    /// Pairs of steps kept. Default 10 (ours).
    pub memory: usize,
    /// The largest change of one weight in one step. Default 0.1 (ours): the polish then stays in the valley in which it
    /// starts.
    pub largest_step: f64,
    /// It ends when ten steps together change the objective by less than this fraction. Default 1e-8 (ours).
    pub tolerance: f64,
    /// Most steps. Default 2000 (ours).
    pub max_iter: usize,
}

impl Default for QuasiNewton {
    fn default() -> Self {
        QuasiNewton { memory: 10, largest_step: 0.1, tolerance: 1e-8, max_iter: 2000 }
    }
}

/// How a stage is minimised.
#[derive(Debug, Clone, PartialEq)]
pub enum Optimizer {
    /// As in the paper.
    Adam(Adam),
    /// Adam, and quasi-Newton steps at the end of the last stage: they can only lower the objective.
    Polished(Adam, QuasiNewton),
}

impl Optimizer {
    /// Ours: Adam at ten times the paper's rate with looks ten times as frequent, which takes a tenth of the steps, then
    /// the quasi-Newton polish. It ends at most as high as the paper's optimiser where both reach the same valley; on
    /// dense graphs the larger steps sometimes lead to another one, better or worse.
    pub fn fast() -> Self {
        let adam = Adam { learning_rate: 3e-3, check_every: 100, ..Adam::default() };
        Optimizer::Polished(adam, QuasiNewton::default())
    }

    fn adam(&self) -> &Adam {
        match self {
            Optimizer::Adam(adam) | Optimizer::Polished(adam, _) => adam,
        }
    }
}

/// What is done to the scale of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Nothing (paper).
    None,
    /// All of `X` is divided by `sqrt(tr C / d)`: the edges then do not depend on the unit of `X`, and the order of the
    /// variances stays.
    Global,
}

/// The settings; `equal_variance`, `unequal_variance` and `dagma` give the usual ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Colide {
    /// The score.
    pub score: Score,
    /// Weight of the l1 norm. Default 0.05 (paper). `None` takes `0.914 sqrt(log d / n)`, which is 0.05 at `d = 20` and
    /// `n = 1000` (ours).
    pub lambda: Option<f64>,
    /// The stages.
    pub path: Path,
    /// How a stage is minimised. Default Adam (paper).
    pub optimizer: Optimizer,
    /// Weights up to this size are dropped from the graph. Default 0.3 (paper).
    pub threshold: f64,
    /// Floor of the scales, relative to their start (the smallest, or each, column deviation). Default 0.01 (paper).
    pub sigma_floor: f64,
    /// What is done to the scale of the data. Default none (paper).
    pub normalize: Normalize,
    /// Whether `w[i, i]` may leave zero while the optimiser runs (published code: yes; default yes).
    pub self_loops: bool,
    /// Edges `(from, to)` that must not appear.
    pub forbidden: Vec<(usize, usize)>,
    /// Edges `(from, to)` that are not penalised, never dropped, and whose reverse is forbidden.
    pub required: Vec<(usize, usize)>,
    /// Where to start, `d x d`; zero when absent.
    pub w_init: Option<Mat<f64>>,
}

/// `c` in `lambda = c sqrt(log d / n)`, so that `d = 20`, `n = 1000` give the paper's 0.05.
const LAMBDA_FACTOR: f64 = 0.9135;
/// Restarts of one stage before giving up: `s` has then grown by 4.
const MOST_RESTARTS: usize = 40;

impl Colide {
    fn with(score: Score) -> Self {
        Colide {
            score,
            lambda: Some(0.05),
            path: Path::default(),
            optimizer: Optimizer::Adam(Adam::default()),
            threshold: 0.3,
            sigma_floor: 0.01,
            normalize: Normalize::None,
            self_loops: true,
            forbidden: Vec::new(),
            required: Vec::new(),
            w_init: None,
        }
    }

    /// CoLiDE-EV with the paper's settings.
    pub fn equal_variance() -> Self {
        Self::with(Score::EqualVariance)
    }

    /// CoLiDE-NV with the paper's settings.
    pub fn unequal_variance() -> Self {
        Self::with(Score::UnequalVariance)
    }

    /// DAGMA on the same engine and path.
    pub fn dagma() -> Self {
        Self::with(Score::LeastSquares)
    }
}

/// How one stage went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StageReport {
    /// Weight of the score.
    pub mu: f64,
    /// The domain parameter in the end; larger than asked for after restarts.
    pub s: f64,
    /// Times the stage was begun anew because it left the domain.
    pub restarts: usize,
    /// Steps taken.
    pub iterations: usize,
    /// Whether the tolerance was reached before the last step.
    pub converged: bool,
    /// The objective in the end.
    pub objective: f64,
    /// The acyclicity function in the end.
    pub h: f64,
    /// (step, objective) at every look.
    pub trace: Vec<(usize, f64)>,
}

/// Something a reader of the result should know.
#[derive(Debug, Clone, PartialEq, serde::Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum ColideWarning {
    /// Columns without variance; their nodes are isolated.
    #[error("columns {0:?} are constant: their nodes are isolated")]
    ConstantColumns(Vec<usize>),
    /// Fewer samples than nodes.
    #[error(
        "{samples} samples for {nodes} nodes: the covariance is singular and many graphs fit equally well"
    )]
    FewSamples {
        /// Rows.
        samples: usize,
        /// Columns.
        nodes: usize,
    },
    /// The threshold removed everything.
    #[error("no weight exceeds the threshold {threshold} (the largest is {largest}): the graph is empty")]
    EmptyGraph {
        /// The threshold.
        threshold: f64,
        /// The largest weight.
        largest: f64,
    },
    /// A stage used all of its steps.
    #[error("stage {0} stopped at its last step before its tolerance was reached")]
    NotConverged(usize),
}

/// A learnt graph.
#[derive(Debug, Clone)]
pub struct ColideFit {
    /// Weights before thresholding, `d x d`.
    pub w_raw: Mat<f64>,
    /// Weights of the graph, `d x d`, acyclic.
    pub w_dag: Mat<f64>,
    /// Standard deviation of the noise, one per node (all equal for [`Score::EqualVariance`], all 1 for
    /// [`Score::LeastSquares`]); in the unit of the data.
    pub sigma: Vec<f64>,
    /// The nodes in an order that the graph's edges follow.
    pub order: Vec<usize>,
    /// The l1 weight that was used.
    pub lambda: f64,
    /// How the stages went.
    pub stages: Vec<StageReport>,
    /// How well the variances of the data follow the order of the learnt graph; see [`varsortability`].
    pub varsortability: f64,
    /// What a reader should know.
    pub warnings: Vec<ColideWarning>,
    required: Vec<usize>,
}

impl ColideFit {
    /// The graph at another threshold.
    ///
    /// # Errors
    /// None that the fit has not excluded already.
    pub fn dag_at(&self, threshold: f64) -> Result<Mat<f64>, ColideError> {
        threshold_to_dag(&self.w_raw, threshold, &self.required)
    }
}

impl Colide {
    /// Learns a graph from `x` (`n x d`, one row per sample), which need not be centred.
    ///
    /// # Errors
    /// [`ColideError::Parameter`], [`ColideError::Shape`], [`ColideError::NonFinite`] with row and column,
    /// [`ColideError::RequiredEdges`], [`ColideError::Domain`], [`ColideError::Cancelled`].
    pub fn fit(&self, x: &Mat<f64>, context: &Context) -> Result<ColideFit, ColideError> {
        let c = context.install(|| data::covariance(x))?;
        self.fit_covariance(&c, x.rows, context)
    }

    /// Learns a graph from the covariance `c` (`d x d`, symmetric) of `n` centred samples.
    ///
    /// # Errors
    /// As [`Colide::fit`].
    pub fn fit_covariance(
        &self,
        c: &Mat<f64>,
        samples: usize,
        context: &Context,
    ) -> Result<ColideFit, ColideError> {
        context.install(|| self.run(c, samples, context))
    }

    fn check(&self, c: &Mat<f64>, samples: usize) -> Result<(), ColideError> {
        let d = c.rows;
        if c.cols != d || d == 0 {
            return Err(ColideError::Shape {
                what: "the covariance",
                expected: "square and not empty".into(),
                got: format!("{d} x {}", c.cols),
            });
        }
        data::check_finite("the covariance", c)?;
        ensure(samples > 0, "samples", "at least 1", samples)?;
        if let Some(lambda) = self.lambda {
            ensure(lambda > 0.0 && lambda.is_finite(), "lambda", "a positive number", lambda)?;
        }
        let path = &self.path;
        ensure(path.stages > 0, "path.stages", "at least 1", path.stages)?;
        ensure(path.mu > 0.0 && path.mu.is_finite(), "path.mu", "a positive number", path.mu)?;
        ensure(path.mu_factor > 0.0 && path.mu_factor <= 1.0, "path.mu_factor", "in (0, 1]", path.mu_factor)?;
        ensure(
            !path.s.is_empty() && path.s.iter().all(|s| *s > 0.0 && s.is_finite()),
            "path.s",
            "a list of positive numbers",
            format!("{:?}", path.s),
        )?;
        ensure(path.warm_iter > 0 && path.max_iter > 0, "path.max_iter", "at least 1", path.max_iter)?;
        ensure(self.threshold >= 0.0, "threshold", "at least 0", self.threshold)?;
        ensure(
            self.sigma_floor >= 0.0 && self.sigma_floor < 1.0,
            "sigma_floor",
            "in [0, 1)",
            self.sigma_floor,
        )?;
        let a = self.optimizer.adam();
        ensure(
            a.learning_rate > 0.0 && a.learning_rate.is_finite(),
            "adam.learning_rate",
            "a positive number",
            a.learning_rate,
        )?;
        ensure((0.0..1.0).contains(&a.beta1), "adam.beta1", "in [0, 1)", a.beta1)?;
        ensure((0.0..1.0).contains(&a.beta2), "adam.beta2", "in [0, 1)", a.beta2)?;
        ensure(a.epsilon > 0.0, "adam.epsilon", "a positive number", a.epsilon)?;
        ensure(a.check_every > 0, "adam.check_every", "at least 1", a.check_every)?;
        ensure(a.tolerance >= 0.0, "adam.tolerance", "at least 0", a.tolerance)?;
        if let Optimizer::Polished(_, q) = &self.optimizer {
            ensure(q.memory > 0, "quasi_newton.memory", "at least 1", q.memory)?;
            ensure(q.largest_step > 0.0, "quasi_newton.largest_step", "positive", q.largest_step)?;
            ensure(q.tolerance >= 0.0, "quasi_newton.tolerance", "at least 0", q.tolerance)?;
        }
        for &(i, j) in self.forbidden.iter().chain(&self.required) {
            ensure(i < d && j < d && i != j, "edges", "pairs of two nodes", format!("({i}, {j})"))?;
        }
        if let Some((i, j)) = self.required.iter().find(|e| self.forbidden.contains(e)) {
            return Err(ColideError::RequiredEdges { problem: format!("({i}, {j}) is also forbidden") });
        }
        if let Some(w) = &self.w_init {
            if w.shape() != (d, d) {
                return Err(ColideError::Shape {
                    what: "w_init",
                    expected: format!("{d} x {d}"),
                    got: format!("{} x {}", w.rows, w.cols),
                });
            }
            data::check_finite("w_init", w)?;
        }
        Ok(())
    }

    fn run(&self, c: &Mat<f64>, samples: usize, context: &Context) -> Result<ColideFit, ColideError> {
        self.check(c, samples)?;
        let d = c.rows;
        let mut warnings = Vec::new();
        let variances: Vec<f64> = (0..d).map(|j| c.at(j, j)).collect();
        let constant: Vec<usize> = (0..d).filter(|&j| variances[j] <= 0.0).collect();
        let lambda =
            self.lambda.unwrap_or_else(|| LAMBDA_FACTOR * ((d.max(2) as f64).ln() / samples as f64).sqrt());
        let unit = match self.normalize {
            Normalize::Global if constant.len() < d => (variances.iter().sum::<f64>() / d as f64).sqrt(),
            _ => 1.0,
        };
        let mut scaled = c.clone();
        scaled.data.iter_mut().for_each(|v| *v /= unit * unit);

        // Which weights may move, and what they pay.
        let mut free = vec![true; d * d];
        let mut lambdas = vec![lambda; d * d];
        for i in 0..d {
            free[i * d + i] = self.self_loops;
            for &j in &constant {
                free[i * d + j] = false;
                free[j * d + i] = false;
            }
        }
        for &(i, j) in &self.forbidden {
            free[i * d + j] = false;
        }
        let mut required = Vec::new();
        let mut graph = Mat::zeros(d, d);
        for &(i, j) in &self.required {
            free[j * d + i] = false;
            lambdas[i * d + j] = 0.0;
            graph.data[i * d + j] = 1.0;
            required.push(i * d + j);
        }
        if topological_order(&graph).is_none() {
            return Err(ColideError::RequiredEdges { problem: "form a cycle".into() });
        }
        let mut w = self.w_init.clone().unwrap_or_else(|| Mat::zeros(d, d));
        w.data.iter_mut().zip(&free).filter(|(_, free)| !**free).for_each(|(w, _)| *w = 0.0);

        let deviations: Vec<f64> = (0..d).map(|j| scaled.at(j, j).max(0.0).sqrt()).collect();
        let smallest = deviations.iter().copied().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        let smallest = if smallest.is_finite() { smallest } else { 1.0 };
        // A floor of exactly zero would divide by zero on a column that others determine.
        let least = |v: f64| (self.sigma_floor * v).max(f64::EPSILON * smallest);
        let floor: Vec<f64> = match self.score {
            Score::UnequalVariance => {
                deviations.iter().map(|&v| least(if v > 0.0 { v } else { smallest })).collect()
            }
            _ => vec![least(smallest); d],
        };

        if !constant.is_empty() {
            warnings.push(ColideWarning::ConstantColumns(constant));
        }
        if samples < d {
            warnings.push(ColideWarning::FewSamples { samples, nodes: d });
        }
        let mut objective = Objective::new(&scaled, self.score, &floor, &lambdas, &free);
        let mut stages = Vec::new();
        if d > 1 {
            context.report(Event::Stage { name: "graph", total: self.path.stages });
            for stage in 0..self.path.stages {
                let (next, report) = self.stage(stage, &mut objective, &w, context)?;
                w = next;
                if !report.converged {
                    warnings.push(ColideWarning::NotConverged(stage));
                }
                let message = format!("mu {:.0e}, objective {:.6}", report.mu, report.objective);
                context.report(Event::Step { done: stage + 1, message: &message });
                stages.push(report);
            }
        }
        objective.rescale(&w);
        let sigma = match self.score {
            Score::LeastSquares => vec![1.0; d],
            _ => objective.sigma.iter().map(|s| s * unit).collect(),
        };
        let largest = w.data.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if largest <= self.threshold && d > 1 {
            warnings.push(ColideWarning::EmptyGraph { threshold: self.threshold, largest });
        }
        for warning in &warnings {
            context.report(Event::Warning(&warning.to_string()));
        }
        let w_dag = threshold_to_dag(&w, self.threshold, &required)?;
        let order = topological_order(&w_dag).ok_or(ColideError::Cyclic { which: "thresholded" })?;
        let varsortability = varsortability(&w_dag, &variances);
        Ok(ColideFit { w_raw: w, w_dag, sigma, order, lambda, stages, varsortability, warnings, required })
    }

    /// One stage, begun anew with a larger domain and a smaller rate as often as it leaves the domain.
    fn stage(
        &self,
        stage: usize,
        objective: &mut Objective<'_>,
        start: &Mat<f64>,
        context: &Context,
    ) -> Result<(Mat<f64>, StageReport), ColideError> {
        let path = &self.path;
        let last = stage + 1 == path.stages;
        let mut s = path.s[stage.min(path.s.len() - 1)];
        let adam = self.optimizer.adam();
        let mut rate = adam.learning_rate;
        let mu = path.mu * path.mu_factor.powi(i32::try_from(stage).unwrap_or(i32::MAX));
        for restarts in 0..=MOST_RESTARTS {
            let task = adam::Task {
                mu,
                s,
                max_iter: if last { path.max_iter } else { path.warm_iter },
                check_every: adam.check_every,
                tolerance: adam.tolerance,
            };
            let mut outcome = adam::minimise(objective, adam, task, start, rate, context)?;
            if last
                && let Optimizer::Polished(_, q) = &self.optimizer
                && let Some(rough) = &mut outcome
            {
                let task = adam::Task { max_iter: q.max_iter, tolerance: q.tolerance, ..task };
                if let Some(mut fine) = quasi_newton::minimise(objective, q, task, &rough.w, context)? {
                    fine.checks.iter_mut().for_each(|c| c.0 += rough.iterations);
                    rough.checks.append(&mut fine.checks);
                    rough.iterations += fine.iterations;
                    rough.w = fine.w;
                    rough.value = fine.value;
                }
            }
            if let Some(outcome) = outcome {
                let value = outcome.value.or_else(|| objective.value(&outcome.w, s));
                let report = StageReport {
                    mu,
                    s,
                    restarts,
                    iterations: outcome.iterations,
                    converged: outcome.converged,
                    objective: value.map_or(f64::NAN, |v| v.objective(mu)),
                    h: value.map_or(f64::NAN, |v| v.h),
                    trace: outcome.checks,
                };
                return Ok((outcome.w, report));
            }
            rate *= 0.5;
            s += 0.1;
        }
        Err(ColideError::Domain { stage, restarts: MOST_RESTARTS, s })
    }
}
