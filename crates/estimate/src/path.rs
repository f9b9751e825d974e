//! Fits along a falling grid of strengths.
//!
//! A path costs little more than its last fit: every fit starts from the one before, on the features
//! that the strong rule names, and a full check follows.

use serde::{Deserialize, Serialize};
use sparseland_optim::design::Design;

use crate::estimators::{EstimateError, Fitted, Loss};

/// Which strengths to fit, and when to end early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathOptions {
    /// Number of strengths, default 100.
    pub n_alphas: usize,
    /// Last strength as a part of the first; `None`: 1e-3, or 1e-2 where there are more features than
    /// rows (glmnet's choice).
    pub eps: Option<f64>,
    /// The strengths themselves, falling; `None` for a geometric grid that starts at the least strength
    /// that gives zeros.
    pub alphas: Option<Vec<f64>>,
    /// End before more than this number of coefficients is non-zero.
    pub dfmax: Option<usize>,
    /// End once 99.9 % of the loss are explained, or a step explains less than 1e-5 of it more (glmnet's
    /// rules). Default true; given strengths are all fitted.
    pub early_stop: bool,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self { n_alphas: 100, eps: None, alphas: None, dfmax: None, early_stop: true }
    }
}

/// Explained share of the loss beyond which a path ends.
const SATURATED: f64 = 0.999;
/// Least relative growth of the explained share for a path to go on.
const GROWTH: f64 = 1e-5;
/// Fits before a small growth counts.
const WARM_UP: usize = 5;

/// Why a path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathEnd {
    /// All strengths were fitted.
    Complete,
    /// The loss is explained.
    Saturated,
    /// A step explained hardly more.
    NoGrowth,
    /// The next fit would have had more than `dfmax` coefficients.
    TooMany,
}

/// Fits for falling strengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// One fit per strength, in order.
    pub fits: Vec<Fitted>,
    /// Why it ended.
    pub end: PathEnd,
    /// Rows of the design.
    pub rows: usize,
}

/// How to trade fit against size, for [`Path::select`]. All assume that the rows are independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Criterion {
    /// `2 df`: prediction.
    Aic,
    /// `log(n) df`: the true model, for few features.
    Bic,
    /// `(log(n) + 2 gamma log(p)) df` (Chen and Chen, Biometrika 2008): the true model among many
    /// features; `gamma = 1` is the strictest.
    Ebic {
        /// Between 0 (BIC) and 1.
        gamma: f64,
    },
    /// `log(p) log(log(n)) df` (Zhu et al., PNAS 2020, the criterion of the abess paper).
    Gic,
}

impl Path {
    /// The strengths fitted.
    pub fn alphas(&self) -> Vec<f64> {
        self.fits.iter().map(|f| f.alpha).collect()
    }

    /// Number of non-zero coefficients of every fit.
    pub fn df(&self) -> Vec<usize> {
        self.fits.iter().map(|f| f.coef.nnz()).collect()
    }

    /// The criterion of every fit: `n log(2 loss)` (squared and Huber) or `2 n loss` (otherwise) plus the
    /// price of the coefficients.
    pub fn criterion(&self, criterion: Criterion) -> Vec<f64> {
        let n = self.rows as f64;
        let value = |fit: &Fitted| {
            let p = fit.coef.len as f64;
            let price = match criterion {
                Criterion::Aic => 2.0,
                Criterion::Bic => n.ln(),
                Criterion::Ebic { gamma } => n.ln() + 2.0 * gamma * p.ln(),
                Criterion::Gic => p.ln() * n.ln().max(1.0).ln().max(0.0),
            };
            let misfit = match fit.loss {
                Loss::Squared | Loss::Huber { .. } => n * (2.0 * fit.mean_loss).max(f64::MIN_POSITIVE).ln(),
                Loss::Logistic | Loss::Poisson | Loss::Gamma | Loss::SquaredHinge => 2.0 * n * fit.mean_loss,
            };
            misfit + price * fit.coef.nnz() as f64
        };
        self.fits.iter().map(value).collect()
    }

    /// The fit of least criterion.
    ///
    /// # Panics
    /// Never: a path has at least one fit.
    pub fn select(&self, criterion: Criterion) -> &Fitted {
        let values = self.criterion(criterion);
        let best = (0..values.len()).min_by(|&a, &b| values[a].total_cmp(&values[b]));
        &self.fits[best.expect("a path has at least one fit")]
    }
}

/// An estimator that can be fitted along a path.
pub trait PathEstimator: Sync {
    /// Fits for falling strengths.
    ///
    /// # Errors
    /// [`EstimateError`] names what is wrong with the data or the parameters.
    fn path(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: Option<&[f64]>,
        options: &PathOptions,
    ) -> Result<Path, EstimateError>;

    /// The loss that it minimises, and that cross-validation measures.
    fn loss(&self) -> Loss;
}

impl PathOptions {
    /// The strengths to fit, for a problem whose coefficients vanish at `alpha_max`.
    pub(crate) fn grid(&self, alpha_max: f64, rows: usize, cols: usize) -> Result<Vec<f64>, EstimateError> {
        use crate::estimators::ensure;
        if let Some(alphas) = &self.alphas {
            let domain = "finite and >= 0";
            for &alpha in alphas {
                ensure(alpha.is_finite() && alpha >= 0.0, "alphas", alpha, domain)?;
            }
            ensure(!alphas.is_empty(), "number of alphas", 0.0, "at least 1")?;
            let rising = alphas.windows(2).find(|pair| pair[1] > pair[0]);
            ensure(rising.is_none(), "alphas", rising.map_or(0.0, |pair| pair[1]), "in falling order")?;
            return Ok(alphas.clone());
        }
        let eps = self.eps.unwrap_or(if rows < cols { 1e-2 } else { 1e-3 });
        ensure(eps > 0.0 && eps < 1.0, "eps", eps, "between 0 and 1")?;
        ensure(self.n_alphas > 0, "n_alphas", 0.0, "at least 1")?;
        if !alpha_max.is_finite() {
            return Err(EstimateError::NoGrid);
        }
        if self.n_alphas == 1 || alpha_max == 0.0 {
            return Ok(vec![alpha_max]);
        }
        let last = (self.n_alphas - 1) as f64;
        Ok((0..self.n_alphas).map(|i| alpha_max * eps.powf(i as f64 / last)).collect())
    }

    /// Runs `fit` for every strength (with the one before) until a rule ends the path.
    pub(crate) fn run(
        &self,
        alphas: &[f64],
        rows: usize,
        mut fit: impl FnMut(f64, Option<f64>) -> Fitted,
    ) -> Path {
        let mut path = Path { fits: Vec::with_capacity(alphas.len()), end: PathEnd::Complete, rows };
        let early = self.early_stop && self.alphas.is_none();
        let mut before = None;
        for &alpha in alphas {
            let fitted = fit(alpha, before);
            before = Some(alpha);
            if self.dfmax.is_some_and(|most| fitted.coef.nnz() > most) && !path.fits.is_empty() {
                path.end = PathEnd::TooMany;
                break;
            }
            let last = path.fits.last().map_or(0.0, |f| f.explained);
            let explained = fitted.explained;
            path.fits.push(fitted);
            if early && explained > SATURATED {
                path.end = PathEnd::Saturated;
                break;
            }
            if early && path.fits.len() > WARM_UP && explained - last < GROWTH * explained {
                path.end = PathEnd::NoGrowth;
                break;
            }
        }
        path
    }
}
