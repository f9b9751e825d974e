//! Linear models of one target with separable penalties.

use sparseland_optim::cd::{Glm, Options, Quadratic, Report, StopReason};
use sparseland_optim::design::{Centred, Design, Scaling};
use sparseland_optim::penalty::{self, Penalty};

use super::{
    Alpha, EstimateError, Fitted, Loss, SparseCoef, check_design, check_sample_weight, check_target,
    check_weights, ensure, scale_rows,
};
use crate::path::{Path, PathEstimator, PathOptions};

/// The form of a penalty, without its strength.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    ElasticNet { l1_ratio: f64, positive: bool },
    Mcp { gamma: f64 },
    Scad { shape: f64 },
}

/// What all estimators of this module are made of.
#[derive(Clone, Debug, PartialEq)]
struct Linear {
    alpha: Alpha,
    form: Form,
    loss: Loss,
    weights: Option<Vec<f64>>,
    fit_intercept: bool,
    standardize: bool,
    tol: f64,
    max_iter: usize,
}

impl Linear {
    fn new(alpha: Alpha, form: Form, loss: Loss) -> Self {
        Self {
            alpha,
            form,
            loss,
            weights: None,
            fit_intercept: true,
            standardize: matches!(form, Form::Mcp { .. } | Form::Scad { .. }),
            tol: 1e-6,
            max_iter: 100_000,
        }
    }

    fn penalty(&self, alpha: f64) -> Box<dyn Penalty> {
        let weights = self.weights.clone();
        match self.form {
            Form::ElasticNet { l1_ratio, positive } => {
                Box::new(penalty::ElasticNet { alpha, l1_ratio, weights, positive })
            }
            Form::Mcp { gamma } => Box::new(penalty::Mcp { alpha, gamma, weights }),
            Form::Scad { shape } => Box::new(penalty::Scad { alpha, shape, weights }),
        }
    }

    fn check(&self, x: &dyn Design) -> Result<(), EstimateError> {
        self.alpha.check()?;
        check_weights(x.cols(), self.weights.as_deref())?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        match self.form {
            Form::ElasticNet { l1_ratio, .. } => {
                ensure((0.0..=1.0).contains(&l1_ratio), "l1_ratio", l1_ratio, "between 0 and 1")?;
            }
            Form::Mcp { gamma } => ensure(gamma > 1.0 && gamma.is_finite(), "gamma", gamma, "above 1")?,
            Form::Scad { shape } => ensure(shape > 2.0 && shape.is_finite(), "shape", shape, "above 2")?,
        }
        match self.loss {
            Loss::Huber { delta } => ensure(delta > 0.0 && delta.is_finite(), "delta", delta, "above 0"),
            _ => Ok(()),
        }
    }

    fn weight(&self, j: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |w| w[j])
    }

    /// The penalty that excludes what is penalised, if some features are not.
    fn only_unpenalised(&self) -> Option<penalty::ElasticNet> {
        let weights = self.weights.as_ref().filter(|w| w.contains(&0.0))?;
        let excluded = weights.iter().map(|w| if *w == 0.0 { 0.0 } else { f64::INFINITY }).collect();
        Some(penalty::ElasticNet { weights: Some(excluded), ..penalty::ElasticNet::l1(1.0) })
    }

    /// The least strength at which all penalised coefficients are zero, from the gradients there.
    fn alpha_max(&self, gradient: &[f64]) -> f64 {
        let (ratio, positive) = match self.form {
            Form::ElasticNet { l1_ratio, positive } => (l1_ratio, positive),
            Form::Mcp { .. } | Form::Scad { .. } => (1.0, false),
        };
        let mut top: Option<f64> = None;
        for (j, g) in gradient.iter().enumerate() {
            let weight = self.weight(j);
            if weight > 0.0 && weight.is_finite() {
                let push = if positive { (-g).max(0.0) } else { g.abs() };
                let needed = if push == 0.0 { 0.0 } else { push / (ratio * weight) };
                top = Some(top.unwrap_or(0.0).max(needed));
            }
        }
        top.unwrap_or(f64::INFINITY)
    }

    fn options(&self, alpha: f64, before: Option<f64>) -> Options {
        let strong_ratio = before.filter(|_| alpha > 0.0).map(|b| b / alpha);
        Options { tol: self.tol, max_sweeps: self.max_iter, strong_ratio, ..Options::default() }
    }

    fn squared_path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
        single: Option<Alpha>,
    ) -> Result<Path, EstimateError> {
        let scaled = sample_weight.map(|weight| scale_rows(x, weight));
        let (design, unit) = match &scaled {
            Some((design, unit)) => (design.as_ref(), Some(unit.clone())),
            None => (x, None),
        };
        let mut target = y.to_vec();
        if let Some(unit) = &unit {
            target.iter_mut().zip(unit).for_each(|(y, u)| *y *= u);
        }
        let normaliser = sample_weight.map_or(y.len() as f64, |w| w.iter().sum());
        let scaling = Scaling { centre: self.fit_intercept, scale: self.standardize };
        let centred = Centred::new(design, unit, scaling);
        let mean = centred.centre(&mut target);
        let mut problem = Quadratic::new(centred, target, normaliser);
        let null = problem.null_loss();
        let steepest = problem.correlations().iter().fold(0.0f64, |m, c| m.max(c.abs()));
        let unpenalised = self.only_unpenalised();
        let gradient = match &unpenalised {
            Some(penalty) => {
                problem.solve(penalty, &self.options(0.0, None));
                problem.gradients()
            }
            None => problem.correlations().iter().map(|c| -c).collect(),
        };
        let alpha_max = self.alpha_max(&gradient);
        let alphas = match single {
            Some(alpha) => vec![alpha.resolve(alpha_max)?],
            None => options.grid(alpha_max, x.rows(), x.cols())?,
        };
        Ok(options.run(&alphas, x.rows(), |alpha, before| {
            let zero = alpha >= alpha_max && unpenalised.is_none();
            let report = if zero {
                all_zero(null)
            } else {
                problem.solve(self.penalty(alpha).as_ref(), &self.options(alpha, before))
            };
            let (means, scales) = (problem.design().means(), problem.design().inverse_scales());
            let coef: Vec<f64> = problem.coefficients().iter().zip(scales).map(|(w, s)| w * s).collect();
            let offset: f64 = coef.iter().zip(means).map(|(w, m)| w * m).sum();
            let intercept = if self.fit_intercept { mean - offset } else { 0.0 };
            self.fitted(&coef, intercept, alpha, &report, problem.loss(), null, steepest)
        }))
    }

    fn datafit_path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
        single: Option<Alpha>,
        datafit: &dyn sparseland_optim::datafit::Datafit,
    ) -> Result<Path, EstimateError> {
        let mut problem = Glm::new(x, y, sample_weight, datafit, self.fit_intercept, self.standardize);
        let null = problem.loss();
        let steepest = problem.null_gradient().iter().fold(0.0f64, |m, c| m.max(c.abs()));
        let unpenalised = self.only_unpenalised();
        let gradient = match &unpenalised {
            Some(penalty) => {
                problem.solve(penalty, &self.options(0.0, None));
                let all: Vec<u32> = (0..x.cols() as u32).collect();
                problem.gradients(&all)
            }
            None => problem.null_gradient().to_vec(),
        };
        let alpha_max = self.alpha_max(&gradient);
        let alphas = match single {
            Some(alpha) => vec![alpha.resolve(alpha_max)?],
            None => options.grid(alpha_max, x.rows(), x.cols())?,
        };
        Ok(options.run(&alphas, x.rows(), |alpha, before| {
            let report = if alpha >= alpha_max && unpenalised.is_none() {
                all_zero(null)
            } else {
                problem.solve(self.penalty(alpha).as_ref(), &self.options(alpha, before))
            };
            let loss = problem.loss();
            self.fitted(&problem.unscaled(), problem.intercept(), alpha, &report, loss, null, steepest)
        }))
    }

    fn fitted(
        &self,
        coef: &[f64],
        intercept: f64,
        alpha: f64,
        report: &Report,
        loss: f64,
        null: f64,
        steepest: f64,
    ) -> Fitted {
        let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
        Fitted {
            coef: SparseCoef::from_dense(coef),
            intercept,
            alpha,
            n_iter: report.sweeps,
            gap: report.gap.map(|gap| part(gap, null)),
            kkt: part(report.kkt, steepest),
            objective: report.objective,
            mean_loss: loss,
            explained: part(null - loss, null),
            converged: report.converged,
            stop_reason: report.stop,
            loss: self.loss,
        }
    }

    fn fit(&self, x: &dyn Design, y: &[f64], sample_weight: Option<&[f64]>) -> Result<Fitted, EstimateError> {
        let options = PathOptions { early_stop: false, ..PathOptions::default() };
        Ok(self.run(x, y, sample_weight, &options, Some(self.alpha))?.fits.swap_remove(0))
    }

    /// A path, or a single fit.
    fn run(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
        single: Option<Alpha>,
    ) -> Result<Path, EstimateError> {
        check_design(x)?;
        check_sample_weight(x, sample_weight)?;
        self.check(x)?;
        match self.loss.datafit() {
            None => {
                check_target(x, y, f64::is_finite, "a finite number")?;
                self.squared_path(x, y, sample_weight, options, single)
            }
            Some(datafit) => {
                check_target(x, y, |v| datafit.accepts(v), datafit.domain())?;
                self.datafit_path(x, y, sample_weight, options, single, datafit.as_ref())
            }
        }
    }
}

/// The report of a fit that needs no solver.
fn all_zero(null: f64) -> Report {
    Report {
        sweeps: 0,
        rounds: 0,
        gap: Some(0.0),
        kkt: 0.0,
        objective: null,
        working: 0,
        screened: 0,
        converged: true,
        stop: StopReason::AllZero,
    }
}

impl PathEstimator for Linear {
    fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Path, EstimateError> {
        self.run(x, y, sample_weight, options, None)
    }

    fn loss(&self) -> Loss {
        self.loss
    }
}

macro_rules! estimator {
    ($(#[$meta:meta])* $name:ident, $form:expr, $loss:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(Linear);

        impl $name {
            /// The estimator of strength `alpha`.
            pub fn new(alpha: f64) -> Self {
                Self(Linear::new(Alpha::Value(alpha), $form, $loss))
            }

            /// The estimator whose strength is this part of the least one that gives zeros.
            pub fn at_fraction(alpha_frac: f64) -> Self {
                Self(Linear::new(Alpha::Fraction(alpha_frac), $form, $loss))
            }

            /// Whether to fit an intercept, which is never penalised. Default true.
            pub fn fit_intercept(mut self, fit_intercept: bool) -> Self {
                self.0.fit_intercept = fit_intercept;
                self
            }

            /// Whether the penalty acts on coefficients of columns of unit standard deviation (ddof 0);
            /// coefficients are returned for X as it is.
            pub fn standardize(mut self, standardize: bool) -> Self {
                self.0.standardize = standardize;
                self
            }

            /// A factor of `alpha` per feature: 0 leaves unpenalised, infinity excludes. Default: ones.
            pub fn weights(mut self, weights: Vec<f64>) -> Self {
                self.0.weights = Some(weights);
                self
            }

            /// Relative accuracy, see [`Options::tol`]. Default 1e-6.
            pub fn tol(mut self, tol: f64) -> Self {
                self.0.tol = tol;
                self
            }

            /// Most sweeps (Newton steps) of the solver. Default 100000. A fit that reaches it is returned
            /// with `converged = false`.
            pub fn max_iter(mut self, max_iter: usize) -> Self {
                self.0.max_iter = max_iter;
                self
            }

            /// Fits to X (`n x p`) and y (`n`).
            ///
            /// # Errors
            /// [`EstimateError`] names the entry or parameter at fault.
            pub fn fit(&self, x: &dyn Design, y: &[f64]) -> Result<Fitted, EstimateError> {
                self.0.fit(x, y, None)
            }

            /// Fits with a weight `>= 0` per row: weight 2 means the same as two equal rows.
            ///
            /// # Errors
            /// [`EstimateError`] names the entry or parameter at fault.
            pub fn fit_weighted(
                &self,
                x: &dyn Design,
                y: &[f64],
                sample_weight: &[f64],
            ) -> Result<Fitted, EstimateError> {
                self.0.fit(x, y, Some(sample_weight))
            }
        }

        impl PathEstimator for $name {
            fn path(
                &self,
                x: &dyn Design,
                y: &[f64],
                sample_weight: Option<&[f64]>,
                options: &PathOptions,
            ) -> Result<Path, EstimateError> {
                self.0.path(x, y, sample_weight, options)
            }

            fn loss(&self) -> Loss {
                self.0.loss
            }
        }
    };
}

/// Accessors of the elastic-net form.
macro_rules! elastic {
    ($name:ident) => {
        impl $name {
            /// Share of the L1 norm in the penalty, in `[0, 1]`.
            pub fn l1_ratio(mut self, l1_ratio: f64) -> Self {
                if let Form::ElasticNet { positive, .. } = self.0.form {
                    self.0.form = Form::ElasticNet { l1_ratio, positive };
                }
                self
            }
        }
    };
}

/// Accessor of the sign constraint.
macro_rules! signed {
    ($name:ident) => {
        impl $name {
            /// Whether coefficients must not be negative. Default false.
            pub fn positive(mut self, positive: bool) -> Self {
                if let Form::ElasticNet { l1_ratio, .. } = self.0.form {
                    self.0.form = Form::ElasticNet { l1_ratio, positive };
                }
                self
            }
        }
    };
}

const L1: Form = Form::ElasticNet { l1_ratio: 1.0, positive: false };

estimator! {
    /// The lasso: `(1 / 2n) ||y - X w - b||² + alpha sum_j ω_j |w_j|` (Tibshirani, JRSS B 1996).
    ///
    /// Cost: a few passes over X, and `O(k² n + k³)` for `k` features in the working set; a path of 100
    /// costs about as much as its hardest fits. With a duality gap.
    ///
    /// **When not to use it.** Large coefficients are shrunk by about `alpha`: for estimates rather than
    /// predictions take [`McpRegression`] or [`BestSubset`](crate::subset::BestSubset). Among strongly
    /// correlated features it picks one at will: [`ElasticNet`] keeps them together.
    Lasso, L1, Loss::Squared
}
signed!(Lasso);

estimator! {
    /// The elastic net: the lasso with `alpha (l1_ratio ||w||_1 + (1 - l1_ratio) ||w||² / 2)` (Zou and
    /// Hastie, JRSS B 2005); scikit-learn's parametrisation. `l1_ratio` is 0.5 by default.
    ///
    /// Cost as [`Lasso`]. With a duality gap, except at `l1_ratio = 0`.
    ///
    /// **When not to use it.** With few, weakly correlated true features the ridge part only adds bias.
    ElasticNet, Form::ElasticNet { l1_ratio: 0.5, positive: false }, Loss::Squared
}
elastic!(ElasticNet);
signed!(ElasticNet);

estimator! {
    /// Least squares with the minimax concave penalty (Zhang, Annals of Statistics 2010), `gamma = 3`.
    ///
    /// Coefficients beyond `gamma alpha` are not shrunk. The problem is not convex: the solution is a
    /// stationary point, reached by a descent from the strength at which all is zero. Columns are
    /// standardised by default, as in ncvreg, since `gamma` is relative to their curvature.
    ///
    /// Cost as [`Lasso`]. No duality gap: `kkt` measures the distance to stationarity.
    ///
    /// **When not to use it.** For prediction alone when many small effects matter: the lasso is easier
    /// to tune and its optimum is unique.
    McpRegression, Form::Mcp { gamma: 3.0 }, Loss::Squared
}

estimator! {
    /// Least squares with the smoothly clipped absolute deviation (Fan and Li, JASA 2001), `shape = 3.7`.
    ///
    /// Between the lasso (small coefficients) and no penalty (beyond `shape alpha`). As for
    /// [`McpRegression`], the solution is a stationary point and columns are standardised by default.
    ///
    /// **When not to use it.** As [`McpRegression`], which reaches no shrinkage earlier and is usually
    /// sparser.
    ScadRegression, Form::Scad { shape: 3.7 }, Loss::Squared
}

estimator! {
    /// Logistic regression of targets 0 and 1: mean log loss plus the elastic-net penalty, `l1_ratio` 1
    /// by default. scikit-learn's `C` is `1 / (n alpha)`.
    ///
    /// Cost: proximal Newton; `O(n k²)` for every step with `k` features at work, a pass over X for every
    /// round. `kkt` measures the distance to stationarity.
    ///
    /// **When not to use it.** With separable classes and a tiny `alpha` coefficients grow without much
    /// use: keep `alpha` away from 0.
    SparseLogisticRegression, L1, Loss::Logistic
}
elastic!(SparseLogisticRegression);
signed!(SparseLogisticRegression);

estimator! {
    /// Poisson regression of counts with the log link: mean of `exp(m) - y m` plus the elastic-net
    /// penalty, `l1_ratio` 1 by default.
    ///
    /// Cost as [`SparseLogisticRegression`].
    ///
    /// **When not to use it.** For counts whose variance is far above their mean the error bars of a
    /// Poisson model mislead; the means are still right.
    PoissonRegression, L1, Loss::Poisson
}
elastic!(PoissonRegression);
signed!(PoissonRegression);

estimator! {
    /// Huber regression: squares up to `delta` (1.35 by default, in units of y), absolute values beyond,
    /// plus the elastic-net penalty, `l1_ratio` 1 by default.
    ///
    /// Cost as [`SparseLogisticRegression`]; Newton steps ignore rows beyond `delta`, so that more of them
    /// are needed when there are many.
    ///
    /// **When not to use it.** `delta` is not scaled to the noise: standardise y first, or the loss is
    /// all squares or all absolute values. Outliers in X need other methods.
    HuberRegression, L1, Loss::Huber { delta: 1.35 }
}
elastic!(HuberRegression);
signed!(HuberRegression);

impl McpRegression {
    /// How far the penalty reaches, in units of `alpha`: above 1.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.0.form = Form::Mcp { gamma };
        self
    }
}

impl ScadRegression {
    /// The `a` of the paper: above 2.
    pub fn shape(mut self, shape: f64) -> Self {
        self.0.form = Form::Scad { shape };
        self
    }
}

impl HuberRegression {
    /// Size of a residual from which on it counts linearly.
    pub fn delta(mut self, delta: f64) -> Self {
        self.0.loss = Loss::Huber { delta };
        self
    }
}
