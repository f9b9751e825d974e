//! Multinomial logistic regression.

use serde::{Deserialize, Serialize};
use sparseland_linalg::Mat;
use sparseland_optim::cd::{Options, RowKind, RowPenalty, Softmax, StopReason};
use sparseland_optim::design::Design;

use super::{Alpha, EstimateError, SparseCoef, check_design, check_sample_weight, check_weights, ensure};
use crate::path::PathOptions;

/// Logistic regression of `K >= 2` classes with softmax probabilities:
///
/// ```text
/// (1 / n) sum_i ( log sum_k exp(m_ik) - m_{i, y_i} )  +  alpha sum_j ω_j pen(W_j),     m = X W + b
/// ```
///
/// with `pen(W_j) = sum_k |W_jk|` by default (each class has features of its own) or `||W_j||_2` after
/// [`MultinomialRegression::grouped`] (a feature serves all classes or none); Friedman, Hastie and
/// Tibshirani, "Regularization paths for generalized linear models via coordinate descent", J. Stat.
/// Softw. 2010; Simon, Friedman and Hastie, arXiv 1311.6529. scikit-learn's `C` is `1 / (n alpha)`.
///
/// Classes are numbered `0..K`, every one of them has its own coefficients (no class of reference): the
/// penalty makes them unique, except for unpenalised features and the intercepts, whose mean is 0.
///
/// Cost: a pass over X for every round and class, `O(n k² K²)` for every proximal Newton step with `k`
/// features at work.
///
/// **When not to use it.** For two classes:
/// [`SparseLogisticRegression`](super::SparseLogisticRegression) has half the coefficients. For hundreds of
/// classes, where the model of a step has too many columns.
#[derive(Clone, Debug, PartialEq)]
pub struct MultinomialRegression {
    alpha: Alpha,
    kind: RowKind,
    weights: Option<Vec<f64>>,
    fit_intercept: bool,
    standardize: bool,
    tol: f64,
    max_iter: usize,
}

/// A fitted model of several classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedClasses {
    /// Coefficients of every class, on the scale of X.
    pub coef: Vec<SparseCoef>,
    /// Intercept of every class; their mean is 0.
    pub intercept: Vec<f64>,
    /// The strength.
    pub alpha: f64,
    /// Newton steps made.
    pub n_iter: usize,
    /// Greatest distance of a feature to stationarity, relative to the greatest gradient at zero.
    pub kkt: f64,
    /// Value of the penalised objective.
    pub objective: f64,
    /// Mean log loss.
    pub mean_loss: f64,
    /// Share of the log loss of the best constant probabilities that is explained.
    pub explained: f64,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// Why the solver stopped.
    pub stop_reason: StopReason,
}

impl FittedClasses {
    /// `X W + b`, `n x K`.
    ///
    /// # Errors
    /// [`EstimateError::Features`] when X has another number of columns.
    pub fn decision_function(&self, x: &dyn Design) -> Result<Mat<f64>, EstimateError> {
        let mut out = Mat::zeros(x.rows(), self.coef.len());
        for (class, (coef, intercept)) in self.coef.iter().zip(&self.intercept).enumerate() {
            if x.cols() != coef.len {
                return Err(EstimateError::Features { expected: coef.len, got: x.cols() });
            }
            let mut column = vec![*intercept; x.rows()];
            coef.iter().for_each(|(j, w)| x.axpy(j, w, &mut column));
            column.iter().enumerate().for_each(|(i, m)| out.row_mut(i)[class] = *m);
        }
        Ok(out)
    }

    /// Probabilities of the classes, `n x K`.
    ///
    /// # Errors
    /// As [`FittedClasses::decision_function`].
    pub fn predict_proba(&self, x: &dyn Design) -> Result<Mat<f64>, EstimateError> {
        let mut out = self.decision_function(x)?;
        for i in 0..out.rows {
            let row = out.row_mut(i);
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|m| *m = (*m - top).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|m| *m /= sum);
        }
        Ok(out)
    }

    /// The likeliest class of every row; of equally likely ones the first.
    ///
    /// # Errors
    /// As [`FittedClasses::decision_function`].
    pub fn predict(&self, x: &dyn Design) -> Result<Vec<usize>, EstimateError> {
        let margin = self.decision_function(x)?;
        let best = |row: &[f64]| (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
        Ok((0..margin.rows).map(|i| best(&margin.data[i * margin.cols..(i + 1) * margin.cols])).collect())
    }

    /// Accuracy.
    ///
    /// # Errors
    /// As [`FittedClasses::decision_function`]; [`EstimateError::Length`] for labels of another length.
    pub fn score(&self, x: &dyn Design, y: &[usize]) -> Result<f64, EstimateError> {
        if y.len() != x.rows() {
            let (expected, got) = (x.rows(), y.len());
            return Err(EstimateError::Length { what: "y", why: "rows of X", expected, got });
        }
        Ok(self.predict(x)?.iter().zip(y).filter(|(a, b)| a == b).count() as f64 / y.len() as f64)
    }
}

impl MultinomialRegression {
    /// The regression of strength `alpha` with the L1 norm.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha: Alpha::Value(alpha),
            kind: RowKind::Entries,
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

    /// Penalises the norm of a feature's coefficients: it serves all classes or none.
    pub fn grouped(mut self) -> Self {
        self.kind = RowKind::Norm;
        self
    }

    /// A factor of `alpha` per feature: 0 leaves unpenalised, infinity excludes.
    pub fn weights(mut self, weights: Vec<f64>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Whether to fit intercepts, which are never penalised. Default true.
    pub fn fit_intercept(mut self, fit_intercept: bool) -> Self {
        self.fit_intercept = fit_intercept;
        self
    }

    /// Whether the penalty acts on columns of unit standard deviation. Default false.
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.standardize = standardize;
        self
    }

    /// Greatest distance to stationarity, as a part of the greatest gradient at zero. Default 1e-6.
    pub fn tol(mut self, tol: f64) -> Self {
        self.tol = tol;
        self
    }

    /// Most Newton steps. Default 100000.
    pub fn max_iter(mut self, max_iter: usize) -> Self {
        self.max_iter = max_iter;
        self
    }

    /// Fits to X (`n x p`) and labels (`n`), numbered from 0 without a gap.
    ///
    /// # Errors
    /// [`EstimateError`] names the entry, class or parameter at fault.
    pub fn fit(&self, x: &dyn Design, y: &[usize]) -> Result<FittedClasses, EstimateError> {
        Ok(self.run(x, y, None, None)?.swap_remove(0))
    }

    /// Fits with a weight `>= 0` per row: weight 2 means the same as two equal rows.
    ///
    /// # Errors
    /// As [`MultinomialRegression::fit`].
    pub fn fit_weighted(
        &self,
        x: &dyn Design,
        y: &[usize],
        sample_weight: &[f64],
    ) -> Result<FittedClasses, EstimateError> {
        Ok(self.run(x, y, Some(sample_weight), None)?.swap_remove(0))
    }

    /// Fits for falling strengths (`dfmax` and early stops do not apply).
    ///
    /// # Errors
    /// As [`MultinomialRegression::fit`].
    pub fn path(
        &self,
        x: &dyn Design,
        y: &[usize],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Vec<FittedClasses>, EstimateError> {
        self.run(x, y, sample_weight, Some(options))
    }

    /// The number of classes.
    fn check(
        &self,
        x: &dyn Design,
        y: &[usize],
        sample_weight: Option<&[f64]>,
    ) -> Result<usize, EstimateError> {
        check_design(x)?;
        check_sample_weight(x, sample_weight)?;
        check_weights(x.cols(), self.weights.as_deref())?;
        self.alpha.check()?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        if y.len() != x.rows() {
            let (expected, got) = (x.rows(), y.len());
            return Err(EstimateError::Length { what: "y", why: "rows of X", expected, got });
        }
        let domain = "below the number of rows: classes are numbered from 0 without a gap";
        if let Some(row) = y.iter().position(|k| *k >= y.len()) {
            return Err(EstimateError::Value { what: "y", row, value: y[row] as f64, domain });
        }
        let classes = y.iter().max().map_or(0, |k| k + 1);
        let mut used = vec![false; classes];
        (0..y.len()).filter(|&i| sample_weight.is_none_or(|w| w[i] > 0.0)).for_each(|i| used[y[i]] = true);
        let empty = used.iter().position(|u| !u);
        let domain =
            "a class that some row of positive weight belongs to; number classes from 0 without a gap";
        ensure(empty.is_none(), "class", empty.unwrap_or(0) as f64, domain)?;
        Ok(classes)
    }

    fn run(
        &self,
        x: &dyn Design,
        y: &[usize],
        sample_weight: Option<&[f64]>,
        options: Option<&PathOptions>,
    ) -> Result<Vec<FittedClasses>, EstimateError> {
        let classes = self.check(x, y, sample_weight)?;
        let mut problem = Softmax::new(x, y, classes, sample_weight, self.fit_intercept, self.standardize);
        let penalty = |alpha: f64| RowPenalty { alpha, kind: self.kind, weights: self.weights.clone() };
        let settings = Options { tol: self.tol, max_sweeps: self.max_iter, ..Options::default() };
        let (null, steepest) = (problem.loss(), problem.steepest(self.kind));
        if let Some(weights) = self.weights.as_ref().filter(|w| w.contains(&0.0)) {
            let only = weights.iter().map(|w| if *w == 0.0 { 0.0 } else { f64::INFINITY }).collect();
            problem.solve(&RowPenalty { alpha: 1.0, kind: self.kind, weights: Some(only) }, &settings);
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
            let loss = problem.loss();
            out.push(FittedClasses {
                coef: problem.unscaled().iter().map(|w| SparseCoef::from_dense(w)).collect(),
                intercept: problem.intercepts(),
                alpha,
                n_iter: report.sweeps,
                kkt: part(report.kkt, steepest),
                objective: report.objective,
                mean_loss: loss,
                explained: part(null - loss, null),
                converged: report.converged,
                stop_reason: report.stop,
            });
        }
        Ok(out)
    }
}
