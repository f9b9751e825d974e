//! Estimators made of others by weights of the features: refits on the support, adaptive weights.
//!
//! Both are [`PathEstimator`]s themselves, so that cross-validation, information criteria and
//! [`stability`](crate::stability) selection take them, and repeat all of their steps within a fold.

use sparseland_optim::design::{Design, Scaling};

use crate::estimators::{EstimateError, Fitted, Loss, Rows, SparseCoef, ensure};
use crate::path::{Criterion, Path, PathEnd, PathEstimator, PathOptions};

/// An estimator whose penalty has a factor per feature.
pub trait Reweighted: PathEstimator + Sized {
    /// The same estimator with other factors.
    fn with_weights(&self, weights: Vec<f64>) -> Self;

    /// Its factors, `None` for ones.
    fn feature_weights(&self) -> Option<&[f64]>;

    /// Whether columns are centred, and on which scale they are penalised.
    fn scaling(&self) -> Scaling;
}

/// The relaxed path: every fit of a path beside one without penalty on its support,
/// `blend w + (1 - blend) w_refit` (Meinshausen, "Relaxed lasso", CSDA 2007, in the form of Hastie,
/// Tibshirani and Tibshirani, "Best subset, forward stepwise or lasso?", Statistical Science 2020, and of
/// glmnet's `relax`, whose `gamma` is `blend`).
///
/// With `blend = 0`, the default, least squares (maximum likelihood) after selection. A fit's `objective`
/// is its mean loss; it has no gap.
///
/// Cost: one fit without penalty for every support on the path.
///
/// **When not to use it.** With little signal, where shrinkage is what helps; with more features on the
/// support than rows, where the refit is exact and useless: set `dfmax`. Classes that a support separates
/// have no maximum likelihood.
#[derive(Clone, Debug, PartialEq)]
pub struct Relaxed<E> {
    estimator: E,
    blend: f64,
}

impl<E: Reweighted> Relaxed<E> {
    /// Refits of the estimator's path.
    pub fn new(estimator: E) -> Self {
        Self { estimator, blend: 0.0 }
    }

    /// Part of the penalised fit, in `[0, 1]`.
    pub fn blend(mut self, blend: f64) -> Self {
        self.blend = blend;
        self
    }

    /// The fit without penalty on the support of `fit`.
    fn refit(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        fit: &Fitted,
    ) -> Result<Fitted, EstimateError> {
        let mut weights = vec![f64::INFINITY; x.cols()];
        fit.coef.indices.iter().for_each(|j| weights[*j as usize] = 0.0);
        let free = PathOptions { alphas: Some(vec![0.0]), ..PathOptions::default() };
        Ok(self.estimator.with_weights(weights).path(x, y, sample_weight, &free)?.fits.swap_remove(0))
    }

    fn blended(&self, fit: &Fitted, refit: &Fitted) -> (Vec<f64>, f64) {
        let mix = |a: f64, b: f64| self.blend * a + (1.0 - self.blend) * b;
        let pairs = fit.coef.to_dense().into_iter().zip(refit.coef.to_dense());
        (pairs.map(|(a, b)| mix(a, b)).collect(), mix(fit.intercept, refit.intercept))
    }
}

impl<E: Reweighted> PathEstimator for Relaxed<E> {
    fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Path, EstimateError> {
        ensure((0.0..=1.0).contains(&self.blend), "blend", self.blend, "between 0 and 1")?;
        let mut path = self.estimator.path(x, y, sample_weight, options)?;
        let loss = self.loss();
        let mut last: Option<(Vec<u32>, Fitted)> = None;
        for fit in &mut path.fits {
            if fit.coef.nnz() == 0 {
                fit.objective = fit.mean_loss;
                continue;
            }
            let refit = match last.take() {
                Some((support, refit)) if support == fit.coef.indices => refit,
                _ => self.refit(x, y, sample_weight, fit)?,
            };
            let (coef, intercept) = self.blended(fit, &refit);
            let null = fit.mean_loss / (1.0 - fit.explained);
            let support = std::mem::take(&mut fit.coef.indices);
            fit.coef = SparseCoef::from_dense(&coef);
            fit.intercept = intercept;
            let margin = fit.decision_function(x)?;
            let weight = |i: usize| sample_weight.map_or(1.0, |w| w[i]);
            let total: f64 = (0..y.len()).map(weight).sum();
            let sum: f64 = (0..y.len()).map(|i| weight(i) * loss.value(y[i], margin[i])).sum();
            fit.mean_loss = sum / total;
            fit.objective = fit.mean_loss;
            fit.explained = if null.is_finite() { 1.0 - fit.mean_loss / null } else { fit.explained };
            fit.gap = None;
            fit.kkt = fit.kkt.max(refit.kkt);
            fit.n_iter += refit.n_iter;
            fit.converged &= refit.converged;
            last = Some((support, refit));
        }
        Ok(path)
    }

    fn loss(&self) -> Loss {
        self.estimator.loss()
    }
}

/// The adaptive lasso (Zou, JASA 2006) and its repetition, the multi-step adaptive lasso (Bühlmann and
/// Meier, Annals of Statistics 2008), for any estimator with weights:
///
/// ```text
/// ω_j = 1 / (|w_j| + epsilon)^gamma,     w the pilot, a fit of the same estimator
/// ```
///
/// The pilot is the fit on the estimator's own path (default grid) of least `criterion`, BIC by default.
/// `steps` repeats: the next pilot is chosen from the path with the last weights. With `epsilon = 0`, the
/// default, features that the pilot leaves out stay out; a positive one lets them back (Candès, Wakin and
/// Boyd, JFAA 2008). Sizes are those on the scale that is penalised: with `standardize`, of coefficients of
/// columns of unit standard deviation. Weights that the estimator has already are multiplied.
///
/// Large coefficients are shrunk less than by the lasso: with a pilot that keeps all true features and
/// is consistent, the support is found under weaker conditions.
///
/// Cost: `steps + 1` paths.
///
/// **When not to use it.** When the pilot misses features: it is then no better than the pilot, and
/// [`McpRegression`](crate::estimators::McpRegression), which needs none, is.
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive<E> {
    estimator: E,
    criterion: Criterion,
    gamma: f64,
    epsilon: f64,
    steps: usize,
}

impl<E: Reweighted> Adaptive<E> {
    /// One step with `gamma = 1`.
    pub fn new(estimator: E) -> Self {
        Self { estimator, criterion: Criterion::Bic, gamma: 1.0, epsilon: 0.0, steps: 1 }
    }

    /// What chooses the pilot from its path.
    pub fn criterion(mut self, criterion: Criterion) -> Self {
        self.criterion = criterion;
        self
    }

    /// The power of the sizes, above 0.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.gamma = gamma;
        self
    }

    /// What is added to the sizes, at least 0.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// How often weights are computed, at least 1.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// The factors that a pilot gives, where `inverse_scales` are those of the penalised columns.
    fn weights(&self, pilot: &Fitted, inverse_scales: &[f64]) -> Vec<f64> {
        let base = self.estimator.feature_weights();
        let factor = |(j, (w, inverse)): (usize, (f64, &f64))| {
            let base = base.map_or(1.0, |b| b[j]);
            // A constant column has no scale, and its coefficient is 0.
            let size = if *inverse > 0.0 { (w / inverse).abs() + self.epsilon } else { 0.0 };
            if base == 0.0 { 0.0 } else { base * size.powf(-self.gamma) }
        };
        pilot.coef.to_dense().into_iter().zip(inverse_scales).enumerate().map(factor).collect()
    }
}

impl<E: Reweighted> PathEstimator for Adaptive<E> {
    fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Path, EstimateError> {
        ensure(self.gamma > 0.0 && self.gamma.is_finite(), "gamma", self.gamma, "above 0")?;
        ensure(self.epsilon >= 0.0 && self.epsilon.is_finite(), "epsilon", self.epsilon, "at least 0")?;
        ensure(self.steps > 0, "steps", 0.0, "at least 1")?;
        let search = PathOptions { dfmax: options.dfmax, ..PathOptions::default() };
        let mut pilot = self.estimator.path(x, y, sample_weight, &search)?.select(self.criterion).clone();
        // The pilot's path has checked the data.
        let rows = Rows::new(x, y, sample_weight);
        let scales = rows.centred(self.estimator.scaling()).0.inverse_scales().to_vec();
        for step in 1..=self.steps {
            let weights = self.weights(&pilot, &scales);
            if weights.iter().all(|w| w.is_infinite()) {
                // Nothing to choose from: the pilot, which is the model without features, at every strength.
                let alphas = options.alphas.clone().unwrap_or_else(|| vec![pilot.alpha]);
                let at = |alpha: &f64| Fitted { alpha: *alpha, ..pilot.clone() };
                let fits = alphas.iter().map(at).collect();
                return Ok(Path { fits, end: PathEnd::Complete, rows: x.rows() });
            }
            let weighted = self.estimator.with_weights(weights);
            if step == self.steps {
                return weighted.path(x, y, sample_weight, options);
            }
            pilot = weighted.path(x, y, sample_weight, &search)?.select(self.criterion).clone();
        }
        unreachable!("steps is at least 1, and the last one returns")
    }

    fn loss(&self) -> Loss {
        self.estimator.loss()
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_distr::StandardNormal;
    use rand_pcg::Pcg64Mcg;
    use sparseland_optim::design::Dense;

    use super::*;
    use crate::cv::{Folds, cross_validate};
    use crate::estimators::{Lasso, LinearSvc, SparseLogisticRegression};

    const TRUTH: [(usize, f64); 4] = [(2, 3.0), (11, -2.0), (17, 1.5), (30, 1.0)];

    /// 80 x 40, neighbours correlated by 0.5.
    fn data(seed: u64) -> (Dense<f64>, Vec<f64>) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let (n, p) = (80, 40);
        let mut values: Vec<f64> = (0..n * p).map(|_| rng.sample(StandardNormal)).collect();
        for k in n..n * p {
            values[k] = 0.5 * values[k - n] + 0.75f64.sqrt() * values[k];
        }
        let x = Dense::from_columns(n, p, values).unwrap();
        let mut w = vec![0.0; p];
        TRUTH.iter().for_each(|&(j, v)| w[j] = v);
        let mut y = x.times(&w);
        y.iter_mut().for_each(|y| *y += 1.0 + 0.5 * rng.sample::<f64, _>(StandardNormal));
        (x, y)
    }

    #[test]
    fn refits_are_least_squares_on_the_support() {
        let (x, y) = data(1);
        let weights: Vec<f64> = (0..80).map(|i| 1.0 + (i % 3) as f64).collect();
        let options = PathOptions { n_alphas: 8, eps: Some(0.05), ..PathOptions::default() };
        let lasso = Lasso::new(0.0).tol(1e-12);
        let plain = lasso.path(&x, &y, Some(&weights), &options).unwrap();
        let relaxed = Relaxed::new(lasso.clone()).path(&x, &y, Some(&weights), &options).unwrap();
        let half = Relaxed::new(lasso).blend(0.5).path(&x, &y, Some(&weights), &options).unwrap();
        assert!(relaxed.fits[7].coef.nnz() > 4);
        for ((plain, relaxed), half) in plain.fits.iter().zip(&relaxed.fits).zip(&half.fits) {
            assert_eq!(plain.coef.indices, relaxed.coef.indices);
            let m = relaxed.decision_function(&x).unwrap();
            let residual: Vec<f64> = (0..80).map(|i| weights[i] * (y[i] - m[i])).collect();
            assert!(residual.iter().sum::<f64>().abs() < 1e-7);
            assert!(relaxed.coef.indices.iter().all(|&j| x.dot(j as usize, &residual).abs() < 1e-7));
            let total: f64 = weights.iter().sum();
            let loss = (0..80).map(|i| 0.5 * weights[i] * (y[i] - m[i]).powi(2)).sum::<f64>() / total;
            assert!((relaxed.mean_loss - loss).abs() < 1e-10);
            assert!(relaxed.explained >= plain.explained - 1e-12 && relaxed.explained < 1.0);
            let middle = plain.coef.to_dense().into_iter().zip(relaxed.coef.to_dense());
            for (w, (a, b)) in half.coef.to_dense().iter().zip(middle) {
                assert!((w - 0.5 * (a + b)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn refits_of_other_losses_are_stationary_without_penalty() {
        let (x, y) = data(2);
        let target: Vec<f64> =
            y.iter().enumerate().map(|(i, v)| f64::from(u8::from(*v + (i % 7) as f64 > 4.0))).collect();
        let options = PathOptions { n_alphas: 4, eps: Some(0.4), ..PathOptions::default() };
        let relaxed = Relaxed::new(SparseLogisticRegression::new(0.0).tol(1e-9));
        let path = relaxed.path(&x, &target, None, &options).unwrap();
        let last = path.fits.last().unwrap();
        assert!(last.coef.nnz() > 0 && last.converged);
        let slope: Vec<f64> =
            last.predict_proba(&x).unwrap().iter().zip(&target).map(|(p, y)| p - y).collect();
        assert!(last.coef.indices.iter().all(|&j| x.dot(j as usize, &slope).abs() < 1e-5));
        assert!(Relaxed::new(LinearSvc::new(0.0)).blend(2.0).path(&x, &target, None, &options).is_err());
    }

    #[test]
    fn adaptive_weights_are_those_of_the_pilot() {
        let (x, y) = data(3);
        let options = PathOptions::default();
        let lasso = Lasso::new(0.0).tol(1e-12);
        let pilot = lasso.path(&x, &y, None, &options).unwrap().select(Criterion::Bic).clone();
        let weights: Vec<f64> = pilot.coef.to_dense().iter().map(|w| 1.0 / (w * w)).collect();
        let by_hand = lasso.clone().weights(weights).path(&x, &y, None, &options).unwrap();
        let adaptive = Adaptive::new(lasso.clone()).gamma(2.0).path(&x, &y, None, &options).unwrap();
        assert_eq!(by_hand, adaptive);
        // It finds the support, where the pilot has more.
        let found = adaptive.select(Criterion::Bic);
        let truth: Vec<u32> = TRUTH.iter().map(|t| t.0 as u32).collect();
        assert_eq!(found.coef.indices, truth);
        assert!(pilot.coef.nnz() > 4);
        let error = |fit: &Fitted| {
            let w = fit.coef.to_dense();
            TRUTH.iter().map(|&(j, v)| (w[j] - v).powi(2)).sum::<f64>()
        };
        assert!(error(found) < error(&pilot));
        // Two steps: the pilot of the second comes from the first.
        let second: Vec<f64> = found.coef.to_dense().iter().map(|w| 1.0 / (w * w)).collect();
        let by_hand = lasso.clone().weights(second).path(&x, &y, None, &options).unwrap();
        assert_eq!(by_hand, Adaptive::new(lasso).gamma(2.0).steps(2).path(&x, &y, None, &options).unwrap());
    }

    #[test]
    fn adaptive_fits_on_standardised_columns_do_not_depend_on_units() {
        let (x, y) = data(4);
        let units: Vec<f64> = (0..40).map(|j| [0.01, 1.0, 300.0][j % 3]).collect();
        let values =
            (0..40).flat_map(|j| x.column(j).iter().map(|v| v * units[j]).collect::<Vec<_>>()).collect();
        let scaled = Dense::from_columns(80, 40, values).unwrap();
        let adaptive = Adaptive::new(Lasso::new(0.0).standardize(true).tol(1e-12)).epsilon(0.1);
        let options = PathOptions { n_alphas: 6, eps: Some(0.05), ..PathOptions::default() };
        let a = adaptive.path(&x, &y, None, &options).unwrap();
        let b = adaptive.path(&scaled, &y, None, &options).unwrap();
        for (a, b) in a.fits.iter().zip(&b.fits) {
            let pairs = a.coef.to_dense().into_iter().zip(b.coef.to_dense());
            assert!(pairs.zip(&units).all(|((a, b), u)| (a - b * u).abs() < 1e-5));
        }
    }

    #[test]
    fn both_are_cross_validated_and_survive_an_empty_pilot() {
        let (x, y) = data(5);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let folds = Folds::shuffled(80, 4, 0).unwrap();
        let options = PathOptions { n_alphas: 15, eps: Some(0.01), ..PathOptions::default() };
        let plain = cross_validate(&Lasso::new(0.0), &x, &y, None, &folds, &options, &pool).unwrap();
        let better: [&dyn PathEstimator; 2] =
            [&Relaxed::new(Lasso::new(0.0)), &Adaptive::new(Lasso::new(0.0))];
        for estimator in better {
            let found = cross_validate(estimator, &x, &y, None, &folds, &options, &pool).unwrap();
            // Fewer features at a loss that is as good.
            assert!(found.best_fit().coef.nnz() < plain.best_fit().coef.nnz());
            assert!(found.mean[found.best] < plain.mean[plain.best] + plain.standard_error[plain.best]);
            // A constant target: every pilot is empty, and every path has one fit per strength.
            let found = cross_validate(estimator, &x, &[2.0; 80], None, &folds, &options, &pool).unwrap();
            assert_eq!((found.best_fit().coef.nnz(), found.best_fit().intercept), (0, 2.0));
        }
    }
}
