//! Cox's proportional hazards model.

use serde::{Deserialize, Serialize};
use sparseland_optim::cd::{Glm, StopReason};
use sparseland_optim::cox::{Cox, concordance};
use sparseland_optim::design::Design;

use super::linear::{Form, L1, Linear};
use super::{Alpha, EstimateError, Loss, SparseCoef, check_design, check_sample_weight};
use crate::path::PathOptions;

/// Survival times with right censoring: the partial likelihood of Cox (JRSS B 1972) with the ties of
/// Breslow and the elastic-net penalty, `l1_ratio` 1 by default,
///
/// ```text
/// (1 / n) sum_{i: event} ( log sum_{l: t_l >= t_i} exp(x_l w)  -  x_i w )  +  alpha sum_j ω_j pen(w_j).
/// ```
///
/// A row has a time and whether the event happened then, or the row left observation (was censored).
/// There is no intercept. Proximal Newton with the diagonal bound of the second derivatives (Simon,
/// Friedman, Hastie and Tibshirani, "Regularization paths for Cox's proportional hazards model via
/// coordinate descent", J. Stat. Softw. 2011, have the diagonal itself). `kkt` measures the distance to
/// stationarity.
///
/// Cost: one sort; `O(n k²)` for every step with `k` features at work, a pass over X for every round. The
/// bound makes more steps than Newton's method proper, each of them cheap.
///
/// **When not to use it.** When hazards cross, so that risks are not proportional; with left truncation or
/// features that change over time, which it does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct CoxRegression(Linear);

/// A fitted proportional hazards model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedCox {
    /// Coefficients on the scale of X: logarithms of hazard ratios.
    pub coef: SparseCoef,
    /// The strength.
    pub alpha: f64,
    /// Newton steps made.
    pub n_iter: usize,
    /// Greatest distance to stationarity, relative to the greatest gradient at zero.
    pub kkt: f64,
    /// Value of the penalised objective.
    pub objective: f64,
    /// Minus the partial log likelihood, divided by the number of rows (the sum of their weights).
    pub mean_loss: f64,
    /// Share of the loss without features that is explained.
    pub explained: f64,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// Why the solver stopped.
    pub stop_reason: StopReason,
}

impl FittedCox {
    /// `X w`, the logarithm of the relative hazard of every row: the greater, the earlier the event.
    ///
    /// # Errors
    /// [`EstimateError::Features`] when X has another number of columns.
    pub fn predict(&self, x: &dyn Design) -> Result<Vec<f64>, EstimateError> {
        if x.cols() != self.coef.len {
            return Err(EstimateError::Features { expected: self.coef.len, got: x.cols() });
        }
        let mut out = vec![0.0; x.rows()];
        self.coef.iter().for_each(|(j, w)| x.axpy(j, w, &mut out));
        Ok(out)
    }

    /// Harrell's index of [`concordance`]: 0.5 is chance, 1 perfect order. `None` when no pair of rows can
    /// be ordered.
    ///
    /// # Errors
    /// As [`FittedCox::predict`]; [`EstimateError::Length`] and [`EstimateError::Value`] for times and
    /// events.
    pub fn score(&self, x: &dyn Design, time: &[f64], event: &[bool]) -> Result<Option<f64>, EstimateError> {
        check_times(x, time, event)?;
        Ok(concordance(time, event, &self.predict(x)?))
    }
}

fn check_times(x: &dyn Design, time: &[f64], event: &[bool]) -> Result<(), EstimateError> {
    if event.len() != x.rows() {
        let (expected, got) = (x.rows(), event.len());
        return Err(EstimateError::Length { what: "event", why: "rows of X", expected, got });
    }
    if time.len() != x.rows() {
        let (expected, got) = (x.rows(), time.len());
        return Err(EstimateError::Length { what: "time", why: "rows of X", expected, got });
    }
    match time.iter().position(|t| !t.is_finite()) {
        Some(row) => {
            Err(EstimateError::Value { what: "time", row, value: time[row], domain: "a finite number" })
        }
        None => Ok(()),
    }
}

impl CoxRegression {
    /// The regression of strength `alpha`.
    pub fn new(alpha: f64) -> Self {
        Self(Linear::new(Alpha::Value(alpha), L1, Loss::Squared))
    }

    /// The same with a strength that is a part of the least one that gives zeros.
    pub fn at_fraction(alpha_frac: f64) -> Self {
        Self(Linear::new(Alpha::Fraction(alpha_frac), L1, Loss::Squared))
    }

    /// Share of the L1 norm in the penalty, in `[0, 1]`.
    pub fn l1_ratio(mut self, l1_ratio: f64) -> Self {
        self.0.form = Form::ElasticNet { l1_ratio };
        self
    }

    /// A factor of `alpha` per feature: 0 leaves unpenalised, infinity excludes. Default: ones.
    pub fn weights(mut self, weights: Vec<f64>) -> Self {
        self.0.weights = Some(weights);
        self
    }

    /// Whether the penalty acts on coefficients of columns of unit standard deviation. Default false.
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.0.standardize = standardize;
        self
    }

    /// Relative accuracy, see [`Options::tol`](sparseland_optim::cd::Options::tol). Default 1e-6.
    pub fn tol(mut self, tol: f64) -> Self {
        self.0.tol = tol;
        self
    }

    /// Most Newton steps. Default 100000.
    pub fn max_iter(mut self, max_iter: usize) -> Self {
        self.0.max_iter = max_iter;
        self
    }

    /// Fits to X (`n x p`), times and events (`n` each; true where the event happened).
    ///
    /// # Errors
    /// [`EstimateError`] names the entry or parameter at fault.
    pub fn fit(&self, x: &dyn Design, time: &[f64], event: &[bool]) -> Result<FittedCox, EstimateError> {
        let options = PathOptions { early_stop: false, ..PathOptions::default() };
        Ok(self.run(x, time, event, None, &options, Some(self.0.alpha))?.swap_remove(0))
    }

    /// Fits with a weight `>= 0` per row: weight 2 means the same as two equal rows.
    ///
    /// # Errors
    /// As [`CoxRegression::fit`].
    pub fn fit_weighted(
        &self,
        x: &dyn Design,
        time: &[f64],
        event: &[bool],
        sample_weight: &[f64],
    ) -> Result<FittedCox, EstimateError> {
        let options = PathOptions { early_stop: false, ..PathOptions::default() };
        Ok(self.run(x, time, event, Some(sample_weight), &options, Some(self.0.alpha))?.swap_remove(0))
    }

    /// Fits for falling strengths.
    ///
    /// # Errors
    /// As [`CoxRegression::fit`].
    pub fn path(
        &self,
        x: &dyn Design,
        time: &[f64],
        event: &[bool],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<FittedCox>, EstimateError> {
        self.run(x, time, event, sample_weight, options, None)
    }

    fn run(
        &self,
        x: &dyn Design,
        time: &[f64],
        event: &[bool],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
        single: Option<Alpha>,
    ) -> Result<Vec<FittedCox>, EstimateError> {
        check_design(x)?;
        check_sample_weight(x, sample_weight)?;
        check_times(x, time, event)?;
        self.0.check(x)?;
        let cox = Cox::new(time, event, sample_weight);
        let problem = Glm::cox(x, &cox, self.0.standardize);
        let path = self.0.glm_path(problem, x, options, single)?;
        let convert = |fit: super::Fitted| FittedCox {
            coef: fit.coef,
            alpha: fit.alpha,
            n_iter: fit.n_iter,
            kkt: fit.kkt,
            objective: fit.objective,
            mean_loss: fit.mean_loss,
            explained: fit.explained,
            converged: fit.converged,
            stop_reason: fit.stop_reason,
        };
        Ok(path.fits.into_iter().map(convert).collect())
    }
}
