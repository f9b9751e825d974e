//! The multi-task lasso.

use std::path::Path as FilePath;

use serde::{Deserialize, Serialize};
use sparseland_linalg::Mat;
use sparseland_optim::cd::{Blocks, Options, StopReason};
use sparseland_optim::design::{Centred, Design, Scaling};
use sparseland_optim::penalty::GroupPenalty;

use super::fitted::{load, save};
use super::{Alpha, EstimateError, SparseCoef, check_design, check_weights, ensure};
use crate::path::PathOptions;

/// `(1 / 2n) ||Y - X W - b||²_F + alpha sum_j ω_j ||W_j||_2` for `T` targets: every feature serves all
/// targets or none (Obozinski, Taskar and Jordan, Statistics and Computing 2010; scikit-learn's
/// `MultiTaskLasso`).
///
/// Cost: as [`GroupLasso`](super::GroupLasso), with `T` products for every pass over X.
///
/// **When not to use it.** When the targets do not share features: fit a [`Lasso`](super::Lasso) for each.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiTaskLasso {
    alpha: Alpha,
    weights: Option<Vec<f64>>,
    fit_intercept: bool,
    standardize: bool,
    tol: f64,
    max_iter: usize,
}

/// A fitted model of several targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedTasks {
    /// Coefficients of every target.
    pub coef: Vec<SparseCoef>,
    /// Intercept of every target.
    pub intercept: Vec<f64>,
    /// The strength.
    pub alpha: f64,
    /// Sweeps made.
    pub n_iter: usize,
    /// Duality gap relative to the objective at zero, where the problem has one.
    pub gap: Option<f64>,
    /// Greatest distance of a feature to stationarity, relative to the greatest gradient at zero.
    pub kkt: f64,
    /// Value of the penalised objective.
    pub objective: f64,
    /// Share of the loss that is explained.
    pub explained: f64,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// Why the solver stopped.
    pub stop_reason: StopReason,
}

impl FittedTasks {
    /// `X W + b`, `n x T`.
    ///
    /// # Errors
    /// [`EstimateError::Features`] when X has another number of columns.
    pub fn predict(&self, x: &dyn Design) -> Result<Mat<f64>, EstimateError> {
        let mut out = Mat::zeros(x.rows(), self.coef.len());
        for (task, (coef, intercept)) in self.coef.iter().zip(&self.intercept).enumerate() {
            if x.cols() != coef.len {
                return Err(EstimateError::Features { expected: coef.len, got: x.cols() });
            }
            let mut column = vec![*intercept; x.rows()];
            coef.iter().for_each(|(j, w)| x.axpy(j, w, &mut column));
            column.iter().enumerate().for_each(|(i, m)| out.row_mut(i)[task] = *m);
        }
        Ok(out)
    }

    /// Writes the model as JSON.
    ///
    /// # Errors
    /// [`EstimateError::File`].
    pub fn save(&self, path: &FilePath) -> Result<(), EstimateError> {
        save(self, path)
    }

    /// Reads a model that [`FittedTasks::save`] wrote.
    ///
    /// # Errors
    /// [`EstimateError::File`] and [`EstimateError::Format`].
    pub fn load(path: &FilePath) -> Result<Self, EstimateError> {
        load(path)
    }
}

impl MultiTaskLasso {
    /// The multi-task lasso of strength `alpha`.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha: Alpha::Value(alpha),
            weights: None,
            fit_intercept: true,
            standardize: false,
            tol: 1e-6,
            max_iter: 100_000,
        }
    }

    /// The same with a strength that is a part of the least one that gives zeros.
    pub fn at_fraction(alpha_frac: f64) -> Self {
        Self { alpha: Alpha::Fraction(alpha_frac), ..Self::new(0.0) }
    }

    /// A factor of `alpha` per feature: 0 leaves unpenalised, infinity excludes.
    pub fn weights(mut self, weights: Vec<f64>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Whether to fit intercepts. Default true.
    pub fn fit_intercept(mut self, fit_intercept: bool) -> Self {
        self.fit_intercept = fit_intercept;
        self
    }

    /// Whether the penalty acts on columns of unit standard deviation. Default false.
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.standardize = standardize;
        self
    }

    /// Relative duality gap to reach. Default 1e-6.
    pub fn tol(mut self, tol: f64) -> Self {
        self.tol = tol;
        self
    }

    /// Most sweeps of the solver. Default 100000.
    pub fn max_iter(mut self, max_iter: usize) -> Self {
        self.max_iter = max_iter;
        self
    }

    /// Fits to X (`n x p`) and Y (`n x T`).
    ///
    /// # Errors
    /// [`EstimateError`] names the entry or parameter at fault.
    pub fn fit(&self, x: &dyn Design, y: &Mat<f64>) -> Result<FittedTasks, EstimateError> {
        Ok(self.run(x, y, None)?.swap_remove(0))
    }

    /// Fits for falling strengths (`dfmax` and early stops do not apply).
    ///
    /// # Errors
    /// As [`MultiTaskLasso::fit`].
    pub fn path(
        &self,
        x: &dyn Design,
        y: &Mat<f64>,
        options: &PathOptions,
    ) -> Result<Vec<FittedTasks>, EstimateError> {
        self.run(x, y, Some(options))
    }

    fn run(
        &self,
        x: &dyn Design,
        y: &Mat<f64>,
        options: Option<&PathOptions>,
    ) -> Result<Vec<FittedTasks>, EstimateError> {
        check_design(x)?;
        self.alpha.check()?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        ensure(y.cols > 0, "number of targets", 0.0, "at least 1")?;
        check_weights(x.cols(), self.weights.as_deref())?;
        if y.rows != x.rows() {
            let (expected, got) = (x.rows(), y.rows);
            return Err(EstimateError::Length { what: "Y", why: "rows of X", expected, got });
        }
        if let Some(at) = y.data.iter().position(|v| !v.is_finite()) {
            let (what, domain) = ("Y", "a finite number");
            return Err(EstimateError::Value { what, row: at / y.cols, value: y.data[at], domain });
        }
        let scaling = Scaling { centre: self.fit_intercept, scale: self.standardize };
        let centred = Centred::new(x, None, scaling);
        let mut targets: Vec<Vec<f64>> = (0..y.cols).map(|t| y.column(t)).collect();
        let means: Vec<f64> = targets.iter_mut().map(|t| centred.centre(t)).collect();
        let single: Vec<Vec<u32>> = (0..x.cols() as u32).map(|j| vec![j]).collect();
        let mut problem = Blocks::new(centred, targets, x.rows() as f64, single);
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; x.cols()]);
        let penalty = |alpha: f64| GroupPenalty { alpha, tau: 0.0, weights: weights.clone() };
        let settings = Options { tol: self.tol, max_sweeps: self.max_iter, ..Options::default() };
        let (null, steepest) = (problem.null_loss(), problem.steepest());
        if weights.contains(&0.0) {
            let only = weights.iter().map(|w| if *w == 0.0 { 0.0 } else { f64::INFINITY }).collect();
            problem.solve(&GroupPenalty { alpha: 1.0, tau: 0.0, weights: only }, &settings);
            problem.refresh_all();
        }
        let alpha_max = problem.alpha_max(&penalty(1.0));
        let alphas = match options {
            Some(options) => options.grid(alpha_max, x.rows(), x.cols())?,
            None => vec![self.alpha.resolve(alpha_max)?],
        };
        let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
        let mut out = Vec::with_capacity(alphas.len());
        for alpha in alphas {
            let report = problem.solve(&penalty(alpha), &settings);
            let (offsets, scales) = (problem.design().means(), problem.design().inverse_scales());
            let mut coef = Vec::with_capacity(means.len());
            let mut intercept = Vec::with_capacity(means.len());
            for (w, mean) in problem.coefficients().iter().zip(&means) {
                let dense: Vec<f64> = w.iter().zip(scales).map(|(w, s)| w * s).collect();
                let offset: f64 = dense.iter().zip(offsets).map(|(w, m)| w * m).sum();
                intercept.push(if self.fit_intercept { mean - offset } else { 0.0 });
                coef.push(SparseCoef::from_dense(&dense));
            }
            out.push(FittedTasks {
                coef,
                intercept,
                alpha,
                n_iter: report.sweeps,
                gap: report.gap.map(|gap| part(gap, null)),
                kkt: part(report.kkt, steepest),
                objective: report.objective,
                explained: part(null - problem.loss(), null),
                converged: report.converged,
                stop_reason: report.stop,
            });
        }
        Ok(out)
    }
}
