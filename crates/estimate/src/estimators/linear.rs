//! What linear models of one target with separable penalties have in common.

use sparseland_optim::cd::{Glm, Options, Quadratic, Report, StopReason};
use sparseland_optim::design::{Design, Scaling};
use sparseland_optim::penalty::{self, Exponent, Penalty};

use super::{
    Alpha, EstimateError, Fitted, Loss, Rows, SparseCoef, check_design, check_sample_weight, check_target,
    check_weights, concomitant, ensure, restore,
};
use crate::path::{Path, PathEstimator, PathOptions};

/// The form of a penalty, without its strength.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    ElasticNet {
        l1_ratio: f64,
    },
    /// The L1 norm beside the root of the loss.
    Sqrt,
    Mcp {
        gamma: f64,
    },
    Scad {
        shape: f64,
    },
    Bridge {
        exponent: Exponent,
    },
    LogSum {
        epsilon: f64,
    },
}

/// What all estimators of this module are made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Linear {
    pub(super) alpha: Alpha,
    pub(super) form: Form,
    pub(super) loss: Loss,
    pub(super) weights: Option<Vec<f64>>,
    pub(super) positive: bool,
    pub(super) fit_intercept: bool,
    pub(super) standardize: bool,
    pub(super) tol: f64,
    pub(super) max_iter: usize,
}

impl Linear {
    pub(super) fn new(alpha: Alpha, form: Form, loss: Loss) -> Self {
        Self {
            alpha,
            form,
            loss,
            weights: None,
            positive: false,
            fit_intercept: true,
            standardize: matches!(form, Form::Mcp { .. } | Form::Scad { .. } | Form::Bridge { .. }),
            tol: 1e-6,
            max_iter: 100_000,
        }
    }

    fn penalty(&self, alpha: f64) -> Box<dyn Penalty> {
        let (weights, positive) = (self.weights.clone(), self.positive);
        let symmetric: Box<dyn Penalty> = match self.form {
            Form::ElasticNet { l1_ratio } => {
                return Box::new(penalty::ElasticNet { alpha, l1_ratio, weights, positive });
            }
            Form::Sqrt => return Box::new(penalty::ElasticNet { alpha, l1_ratio: 1.0, weights, positive }),
            Form::Mcp { gamma } => Box::new(penalty::Mcp { alpha, gamma, weights }),
            Form::Scad { shape } => Box::new(penalty::Scad { alpha, shape, weights }),
            Form::Bridge { exponent } => Box::new(penalty::Bridge { alpha, exponent, weights }),
            Form::LogSum { epsilon } => Box::new(penalty::LogSum { alpha, epsilon, weights }),
        };
        if positive { Box::new(penalty::Positive(symmetric)) } else { symmetric }
    }

    pub(super) fn check(&self, x: &dyn Design) -> Result<(), EstimateError> {
        self.alpha.check()?;
        check_weights(x.cols(), self.weights.as_deref())?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        match self.form {
            Form::ElasticNet { l1_ratio } => {
                ensure((0.0..=1.0).contains(&l1_ratio), "l1_ratio", l1_ratio, "between 0 and 1")?;
            }
            Form::Sqrt | Form::Bridge { .. } => {}
            Form::LogSum { epsilon } => {
                ensure(epsilon > 0.0 && epsilon.is_finite(), "epsilon", epsilon, "above 0")?;
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
        let positive = self.positive;
        Some(penalty::ElasticNet { weights: Some(excluded), positive, ..penalty::ElasticNet::l1(1.0) })
    }

    /// The least strength at which all penalised coefficients are zero, from the gradients there and the
    /// curvatures of the columns (any, except for bridges).
    fn alpha_max(&self, gradient: &[f64], curvature: impl Fn(usize) -> f64) -> f64 {
        // The strength that holds a coefficient of weight 1 at zero against a push.
        let hold = |push: f64, j: usize| match self.form {
            _ if push == 0.0 => 0.0,
            Form::ElasticNet { l1_ratio } => push / l1_ratio,
            Form::Sqrt | Form::Mcp { .. } | Form::Scad { .. } => push,
            Form::LogSum { epsilon } => push * epsilon,
            Form::Bridge { exponent } => {
                penalty::Bridge { alpha: 1.0, exponent, weights: None }.critical_alpha(push, curvature(j))
            }
        };
        let mut top: Option<f64> = None;
        for (j, g) in gradient.iter().enumerate() {
            let weight = self.weight(j);
            if weight > 0.0 && weight.is_finite() {
                let push = if self.positive { (-g).max(0.0) } else { g.abs() };
                top = Some(top.unwrap_or(0.0).max(hold(push, j) / weight));
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
        let rows = Rows::new(x, y, sample_weight);
        let scaling = Scaling { centre: self.fit_intercept, scale: self.standardize };
        let (centred, target, mean) = rows.centred(scaling);
        let mut problem = Quadratic::new(centred, target, rows.normaliser);
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
        // The root mean square of y, where the noise is estimated too.
        let root = (self.form == Form::Sqrt).then(|| (2.0 * null).sqrt());
        let norms = problem.design().squared_norms();
        let mut alpha_max = self.alpha_max(&gradient, |j| norms[j] / rows.normaliser);
        if let Some(null) = root {
            let sigma = (2.0 * problem.loss()).sqrt().max(concomitant::FLOOR * null);
            alpha_max = if sigma > 0.0 { alpha_max / sigma } else { 0.0 };
        }
        let alphas = match single {
            Some(alpha) => vec![alpha.resolve(alpha_max)?],
            None => options.grid(alpha_max, x.rows(), x.cols())?,
        };
        Ok(options.run(&alphas, x.rows(), |alpha, before| {
            let noise = root.filter(|root| *root > 0.0);
            let report = match (&unpenalised, noise) {
                (None, _) if alpha >= alpha_max => all_zero(root.unwrap_or(null)),
                // Exactly at the top rounding must not let a coefficient jump.
                (Some(free), None) if alpha >= alpha_max => problem.solve(free, &self.options(0.0, None)),
                (_, Some(null)) => {
                    let settings = self.options(alpha, None);
                    concomitant::solve(&mut problem, |t| self.penalty(t), alpha, null, &settings)
                }
                _ => problem.solve(self.penalty(alpha).as_ref(), &self.options(alpha, before)),
            };
            let (coef, intercept) = restore(problem.design(), problem.coefficients(), mean);
            let mut fitted = self.fitted(&coef, intercept, alpha, &report, problem.loss(), null, steepest);
            if let Some(null) = root {
                let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
                fitted.gap = report.gap.map(|gap| part(gap, null));
                fitted.kkt = part(report.kkt * null, steepest);
            }
            fitted
        }))
    }

    pub(super) fn glm_path(
        &self,
        mut problem: Glm<'_>,
        x: &dyn Design,
        options: &PathOptions,
        single: Option<Alpha>,
    ) -> Result<Path, EstimateError> {
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
        let alpha_max = self.alpha_max(&gradient, |_| 1.0);
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

    pub(super) fn fit(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
    ) -> Result<Fitted, EstimateError> {
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
                let (centre, scale) = (self.fit_intercept, self.standardize);
                let problem = Glm::new(x, y, sample_weight, datafit.as_ref(), centre, scale);
                self.glm_path(problem, x, options, single)
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

/// Defines an estimator: a [`Linear`] under a name of its own.
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

            /// Relative accuracy, see [`Options::tol`](sparseland_optim::cd::Options::tol). Default 1e-6.
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

        impl Reweighted for $name {
            fn with_weights(&self, weights: Vec<f64>) -> Self {
                self.clone().weights(weights)
            }

            fn feature_weights(&self) -> Option<&[f64]> {
                self.0.weights.as_deref()
            }

            fn scaling(&self) -> Scaling {
                Scaling { centre: self.0.fit_intercept, scale: self.0.standardize }
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
                self.0.form = Form::ElasticNet { l1_ratio };
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
                self.0.positive = positive;
                self
            }
        }
    };
}

pub(super) use {elastic, estimator, signed};

/// The lasso's form.
pub(super) const L1: Form = Form::ElasticNet { l1_ratio: 1.0 };
