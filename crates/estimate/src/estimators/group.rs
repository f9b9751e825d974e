//! The group lasso and the sparse group lasso.

use sparseland_optim::cd::{Blocks, Options, Report, StopReason};
use sparseland_optim::design::{Centred, Design, Scaling};
use sparseland_optim::penalty::GroupPenalty;

use super::{
    Alpha, EstimateError, Fitted, Loss, SparseCoef, check_design, check_sample_weight, check_target,
    check_weights, ensure, scale_rows,
};
use crate::path::{Path, PathEstimator, PathOptions};

/// `(1 / 2n) ||y - X w - b||² + alpha (tau ||w||_1 + (1 - tau) sum_g ω_g ||w_g||_2)`: whole groups of
/// features are zero, and with `tau > 0` also single features within the others (Yuan and Lin, JRSS B
/// 2006; Simon et al., JCGS 2013).
///
/// The weights `ω_g` are 1 by default; [`GroupLasso::weights_by_size`] makes them the roots of the group
/// sizes.
///
/// Cost: a few passes over X, block coordinate descent on the Gram matrix of the groups at work (`8 k²`
/// bytes for `k` features). With a duality gap.
///
/// **When not to use it.** With overlapping groups, which it refuses; with groups of one feature use
/// [`Lasso`](super::Lasso), which is much faster.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLasso {
    alpha: Alpha,
    groups: Vec<Vec<u32>>,
    weights: Vec<f64>,
    tau: f64,
    fit_intercept: bool,
    standardize: bool,
    tol: f64,
    max_iter: usize,
}

impl GroupLasso {
    /// The group lasso of strength `alpha`; `groups` lists the features of every group.
    pub fn new(alpha: f64, groups: Vec<Vec<u32>>) -> Self {
        Self {
            alpha: Alpha::Value(alpha),
            weights: vec![1.0; groups.len()],
            groups,
            tau: 0.0,
            fit_intercept: true,
            standardize: false,
            tol: 1e-6,
            max_iter: 100_000,
        }
    }

    /// The same with a strength that is a part of the least one that gives zeros.
    pub fn at_fraction(alpha_frac: f64, groups: Vec<Vec<u32>>) -> Self {
        Self { alpha: Alpha::Fraction(alpha_frac), ..Self::new(0.0, groups) }
    }

    /// `cols / size` groups of neighbouring features, the last one smaller if `size` does not divide.
    pub fn consecutive(cols: usize, size: usize) -> Vec<Vec<u32>> {
        let all: Vec<u32> = (0..cols as u32).collect();
        all.chunks(size.max(1)).map(<[u32]>::to_vec).collect()
    }

    /// A weight per group: 0 leaves it unpenalised (with `tau = 0`), infinity excludes it.
    pub fn weights(mut self, weights: Vec<f64>) -> Self {
        self.weights = weights;
        self
    }

    /// Weights `sqrt(|g|)`, which make large groups no likelier to enter by chance.
    pub fn weights_by_size(mut self) -> Self {
        self.weights = self.groups.iter().map(|g| (g.len() as f64).sqrt()).collect();
        self
    }

    /// Share of the L1 norm, in `[0, 1]`. Default 0.
    pub fn tau(mut self, tau: f64) -> Self {
        self.tau = tau;
        self
    }

    /// Whether to fit an intercept. Default true.
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

    /// Fits to X (`n x p`) and y (`n`).
    ///
    /// # Errors
    /// [`EstimateError`] names the entry, group or parameter at fault.
    pub fn fit(&self, x: &dyn Design, y: &[f64]) -> Result<Fitted, EstimateError> {
        self.fit_with(x, y, None)
    }

    /// Fits with a weight `>= 0` per row.
    ///
    /// # Errors
    /// As [`GroupLasso::fit`].
    pub fn fit_weighted(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: &[f64],
    ) -> Result<Fitted, EstimateError> {
        self.fit_with(x, y, Some(sample_weight))
    }

    fn fit_with(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
    ) -> Result<Fitted, EstimateError> {
        let alpha = match self.alpha {
            Alpha::Value(alpha) => alpha,
            Alpha::Fraction(_) => {
                let one = PathOptions { n_alphas: 1, ..PathOptions::default() };
                self.alpha.resolve(self.path(x, y, sample_weight, &one)?.fits[0].alpha)?
            }
        };
        let options = PathOptions { alphas: Some(vec![alpha]), ..PathOptions::default() };
        Ok(self.path(x, y, sample_weight, &options)?.fits.swap_remove(0))
    }

    fn check(&self, x: &dyn Design) -> Result<(), EstimateError> {
        self.alpha.check()?;
        ensure((0.0..=1.0).contains(&self.tau), "tau", self.tau, "between 0 and 1")?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        check_weights(self.groups.len(), Some(&self.weights))?;
        let mut count = vec![0usize; x.cols()];
        for &j in self.groups.iter().flatten() {
            match count.get_mut(j as usize) {
                Some(count) => *count += 1,
                None => return Err(EstimateError::Features { expected: j as usize + 1, got: x.cols() }),
            }
        }
        match count.iter().position(|c| *c != 1) {
            Some(feature) => Err(EstimateError::Groups { feature, count: count[feature] }),
            None => Ok(()),
        }
    }

    fn penalty(&self, alpha: f64) -> GroupPenalty {
        GroupPenalty { alpha, tau: self.tau, weights: self.weights.clone() }
    }
}

impl PathEstimator for GroupLasso {
    fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Path, EstimateError> {
        check_design(x)?;
        check_sample_weight(x, sample_weight)?;
        check_target(x, y, f64::is_finite, "a finite number")?;
        self.check(x)?;
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
        let mut problem = Blocks::new(centred, vec![target], normaliser, self.groups.clone());
        let null = problem.null_loss();
        let free = self.tau == 0.0 && self.weights.contains(&0.0);
        let settings = Options { tol: self.tol, max_sweeps: self.max_iter, ..Options::default() };
        if free {
            // Unpenalised groups first: the grid starts where they alone are fitted.
            let weights = self.weights.iter().map(|w| if *w == 0.0 { 0.0 } else { f64::INFINITY }).collect();
            problem.solve(&GroupPenalty { alpha: 1.0, tau: 0.0, weights }, &settings);
            problem.refresh_all();
        }
        let alpha_max = problem.alpha_max(&self.penalty(1.0));
        let steepest = problem.steepest();
        let alphas = options.grid(alpha_max, x.rows(), x.cols())?;
        Ok(options.run(&alphas, x.rows(), |alpha, _| {
            let report = if alpha >= alpha_max && !free {
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
            } else {
                problem.solve(&self.penalty(alpha), &settings)
            };
            let (means, scales) = (problem.design().means(), problem.design().inverse_scales());
            let coef: Vec<f64> = problem.coefficients()[0].iter().zip(scales).map(|(w, s)| w * s).collect();
            let offset: f64 = coef.iter().zip(means).map(|(w, m)| w * m).sum();
            let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
            let loss = problem.loss();
            Fitted {
                coef: SparseCoef::from_dense(&coef),
                intercept: if self.fit_intercept { mean - offset } else { 0.0 },
                alpha,
                n_iter: report.sweeps,
                gap: report.gap.map(|gap| part(gap, null)),
                kkt: part(report.kkt, steepest),
                objective: report.objective,
                mean_loss: loss,
                explained: part(null - loss, null),
                converged: report.converged,
                stop_reason: report.stop,
                loss: Loss::Squared,
            }
        }))
    }

    fn loss(&self) -> Loss {
        Loss::Squared
    }
}
