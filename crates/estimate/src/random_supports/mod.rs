//! Sparse regression on badly conditioned designs with random supports.
//!
//! After Chandrasekaran, Meka and Stavropoulos, "Sparse Linear Regression is Easy on Random Supports" (arXiv 2511.06211,
//! 2025): `k`-sparse regression is possible in polynomial time with few rows for *any* design if the support is random.
//! The paper is theory, and its algorithm was not at hand: what follows is our derivation from the same idea and must
//! not be taken for the authors' method.
//!
//! ```text
//! minimise over w   ||y - X w||² / 2N  +  lambda sum_{j not in A} (||r_j|| / sqrt(N)) |w_j|,   r_j = (I - P_A) x_j
//! ```
//!
//! The lasso fails on a badly conditioned `X` because sparse signals with large, cancelling coefficients cost it much.
//! With a random set `A` of anchors left free, the price of a coefficient is what its column adds beyond the anchors,
//! `||r_j||`. If a few more random columns shrink these distances little, the whole price is a small multiple of the size
//! of the signal, whatever the condition number.
//!
//! Procedure: four folds choose. For `m = 0, 2k, 4k, 8k, ...` anchors (3, 6 and 12 for an unknown `k`, up
//! to a fifth of the rows) and a few random draws of each, a lasso path on the projected columns; `m` by the mean
//! error over its draws. The draws of that `m` are refitted on all rows at the strengths found, and their coefficients
//! averaged. `m = 0` is the lasso of normalised columns, so that easy designs lose little.
//!
//! Cost: per draw `O(N m d)` and a path; memory `8 N d` bytes per thread at work.
//!
//! **When not to use it.** Well-conditioned designs, where the lasso is as good and many times cheaper. Supports that
//! are not random, such as groups of neighbouring features: use a group lasso. Beyond condition numbers of 1e12 residuals
//! lose their digits.

mod anchor;
pub mod experiment;
#[cfg(test)]
mod tests;

use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use sparseland_core::{Cancelled, Context};
use sparseland_optim::design::{Centred, Dense, Design, Scaling};

pub use anchor::AnchoredDesign;

use crate::cv::Folds;
use crate::estimators::{EstimateError, Fitted, Lasso, check_design, check_target, ensure};
use crate::path::{Path, PathEstimator, PathOptions};

/// Why a regression was not fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RandomSupportError {
    /// The data or a parameter.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
    /// A data file of an experiment.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The run was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What is left unpenalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchors {
    /// Random columns, their number by validation.
    Auto,
    /// This many random columns.
    Random(usize),
    /// This many principal directions: as good where the bad conditioning is one global low rank, and one draw is enough.
    Pca(usize),
}

/// Sparse regression with random anchors.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomSupportRegressor {
    /// Size of the support, if known.
    pub k: Option<usize>,
    /// What is left unpenalised.
    pub anchors: Anchors,
    /// Draws per number of anchors. Default 5.
    pub draws: usize,
    /// Strengths per path, down to 1 % of the first. Default 40.
    pub n_alphas: usize,
    /// Folds that choose the strengths and the number of anchors. Default 4; one split alone chose badly on easy designs.
    pub folds: usize,
}

impl Default for RandomSupportRegressor {
    fn default() -> Self {
        Self { k: None, anchors: Anchors::Auto, draws: 5, n_alphas: 40, folds: 4 }
    }
}

/// A fitted regression.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomSupportFit {
    /// Coefficients for X as it is.
    pub coef: Vec<f64>,
    /// Intercept.
    pub intercept: f64,
    /// The number of anchors chosen.
    pub m: usize,
    /// Mean squared error on validation rows for every number of anchors tried.
    pub curve: Vec<(usize, f64)>,
    /// Anchors, over all draws that are averaged, that depended on others.
    pub dependent: usize,
}

impl RandomSupportFit {
    /// `X w + b`.
    pub fn predict(&self, x: &dyn Design) -> Vec<f64> {
        let mut out = x.times(&self.coef);
        out.iter_mut().for_each(|v| *v += self.intercept);
        out
    }
}

/// Fewest rows for a split.
const LEAST_ROWS: usize = 20;
/// Last strength of a path as a part of the first.
const EPS: f64 = 1e-2;

/// Centred columns of norm `sqrt(N)`, and what was done to them.
struct Normalised {
    x: Dense<f64>,
    y: Vec<f64>,
    means: Vec<f64>,
    inverse: Vec<f64>,
    level: f64,
}

impl Normalised {
    fn new(x: &dyn Design, y: &[f64]) -> Self {
        let view = Centred::new(x, None, Scaling { centre: true, scale: true });
        let n = x.rows();
        let mut values = vec![0.0; n * x.cols()];
        values.par_chunks_exact_mut(n).enumerate().for_each(|(j, out)| view.fill(j, out));
        let mut y = y.to_vec();
        let level = view.centre(&mut y);
        let x = Dense::from_columns(n, x.cols(), values).expect("n x d values");
        Self { x, y, level, means: view.means().to_vec(), inverse: view.inverse_scales().to_vec() }
    }

    /// Coefficients and intercept for the columns as they were.
    fn restore(&self, w: &[f64]) -> (Vec<f64>, f64) {
        let coef: Vec<f64> = w.iter().zip(&self.inverse).map(|(w, s)| w * s).collect();
        let offset: f64 = coef.iter().zip(&self.means).map(|(w, m)| w * m).sum();
        (coef, self.level - offset)
    }
}

/// A fold: the other rows to fit, and its own to choose by.
struct Held {
    train: Normalised,
    x: Box<dyn Design>,
    y: Vec<f64>,
}

impl Held {
    fn new(x: &dyn Design, y: &[f64], folds: &Folds, fold: usize) -> Self {
        let rows = |inside: bool| -> Vec<u32> {
            (0..x.rows() as u32).filter(|i| (folds.of_row()[*i as usize] == fold) == inside).collect()
        };
        let (held, rest) = (rows(true), rows(false));
        let pick = |rows: &[u32]| rows.iter().map(|i| y[*i as usize]).collect::<Vec<f64>>();
        let train = Normalised::new(x.select(Some(&rest), None, None).as_ref(), &pick(&rest));
        Self { train, x: x.select(Some(&held), None, None), y: pick(&held) }
    }
}

impl RandomSupportRegressor {
    /// Fits to X (`N x d`) and y.
    ///
    /// # Errors
    /// [`RandomSupportError::Estimate`] names the entry or parameter at fault: among them fewer than 20 rows, and as many
    /// anchors as rows.
    pub fn fit(
        &self,
        x: &dyn Design,
        y: &[f64],
        context: &Context,
    ) -> Result<RandomSupportFit, RandomSupportError> {
        check_design(x)?;
        check_target(x, y, f64::is_finite, "a finite number")?;
        let n = x.rows();
        ensure(
            n >= LEAST_ROWS,
            "number of rows",
            n as f64,
            "at least 20: parts of them choose the strength",
        )?;
        ensure(self.draws > 0, "draws", 0.0, "at least 1")?;
        ensure(self.n_alphas > 1, "n_alphas", self.n_alphas as f64, "at least 2")?;
        ensure((2..=10).contains(&self.folds), "folds", self.folds as f64, "between 2 and 10")?;
        let sizes = self.sizes(n, x.cols())?;
        context.install(|| self.fit_checked(x, y, &sizes, context))
    }

    /// The numbers of anchors to try.
    fn sizes(&self, n: usize, d: usize) -> Result<Vec<usize>, EstimateError> {
        let most = (n / 5).min(d);
        match self.anchors {
            Anchors::Random(m) | Anchors::Pca(m) => {
                let domain =
                    "below the rows without a fold, which the anchors would fit exactly, and at most d";
                ensure(m < n - n.div_ceil(self.folds.max(1)) && m <= d, "anchors", m as f64, domain)?;
                Ok(vec![m])
            }
            Anchors::Auto => {
                let mut sizes = vec![0];
                for k in self.k.map_or_else(|| vec![3, 6, 12], |k| vec![k.max(1)]) {
                    let grown = [2, 4, 8].into_iter().map(|factor| factor * k).filter(|m| *m <= most);
                    sizes.extend(grown);
                }
                sizes.sort_unstable();
                sizes.dedup();
                Ok(sizes)
            }
        }
    }

    fn fit_checked(
        &self,
        x: &dyn Design,
        y: &[f64],
        sizes: &[usize],
        context: &Context,
    ) -> Result<RandomSupportFit, RandomSupportError> {
        let n = x.rows();
        let mut rng = context.rng(0x5eed);
        let parts: Vec<Held> = {
            let folds = Folds::shuffled(n, self.folds, rng.random())?;
            (0..self.folds).into_par_iter().map(|fold| Held::new(x, y, &folds, fold)).collect()
        };
        // Draws are nested: more anchors are the fewer ones and others.
        let draws: Vec<Vec<usize>> = (0..self.draws)
            .map(|_| {
                let mut columns: Vec<usize> = (0..x.cols()).collect();
                columns.shuffle(&mut rng);
                columns
            })
            .collect();
        let mut curve = Vec::new();
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for &m in sizes {
            context.check_cancelled()?;
            // Every draw of no anchors, or of principal directions, is the same.
            let count = if m == 0 || matches!(self.anchors, Anchors::Pca(_)) { 1 } else { self.draws };
            // Squared errors of every strength, by draw and fold; strengths are the same parts of every first one.
            let tried: Result<Vec<Vec<f64>>, EstimateError> = (0..count * parts.len())
                .into_par_iter()
                .map(|task| self.errors(&parts[task % parts.len()], &draws[task / parts.len()], m))
                .collect();
            let (mut error, mut chosen) = (0.0, Vec::new());
            for of_folds in tried?.chunks(parts.len()) {
                let sum = |k: usize| of_folds.iter().map(|e| e[k.min(e.len() - 1)]).sum::<f64>() / n as f64;
                let sums: Vec<f64> = (0..self.n_alphas).map(sum).collect();
                let at = (0..sums.len()).min_by(|a, b| sums[*a].total_cmp(&sums[*b])).unwrap_or(0);
                error += sums[at] / count as f64;
                chosen.push(EPS.powf(at as f64 / (self.n_alphas - 1) as f64));
            }
            curve.push((m, error));
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, m, chosen));
            }
        }
        let (_, m, parts) = best.expect("at least one number of anchors is tried");
        let whole = Normalised::new(x, y);
        // With more rows noise is smaller, and so is the strength that it needs: the square root of their number.
        let fewer = (1.0 - 1.0 / self.folds as f64).sqrt();
        let fits: Result<Vec<(Vec<f64>, usize)>, EstimateError> = draws[..parts.len()]
            .par_iter()
            .zip(&parts)
            .map(|(draw, part)| {
                let anchored = self.anchored(&whole.x, draw, m)?;
                let path =
                    self.path(&anchored, &whole.y, Some(part * if *part < 1.0 { fewer } else { 1.0 }))?;
                let last = path.fits.last().map(|f| f.coef.to_dense()).unwrap_or_default();
                Ok((anchored.coefficients(&whole.x, &whole.y, &last), anchored.dependent))
            })
            .collect();
        let fits = fits?;
        let mut w = vec![0.0; x.cols()];
        for (fit, _) in &fits {
            w.iter_mut().zip(fit).for_each(|(w, f)| *w += f / fits.len() as f64);
        }
        let (coef, intercept) = whole.restore(&w);
        Ok(RandomSupportFit { coef, intercept, m, curve, dependent: fits.iter().map(|f| f.1).sum() })
    }

    /// Squared errors on held-out rows, summed, for every strength of the path.
    fn errors(&self, part: &Held, draw: &[usize], m: usize) -> Result<Vec<f64>, EstimateError> {
        let Held { train, x, y } = part;
        let anchored = self.anchored(&train.x, draw, m)?;
        let error = |fit: &Fitted| {
            let w = anchored.coefficients(&train.x, &train.y, &fit.coef.to_dense());
            let (coef, intercept) = train.restore(&w);
            let predicted = x.times(&coef);
            predicted.iter().zip(y).map(|(m, y)| (m + intercept - y) * (m + intercept - y)).sum()
        };
        Ok(self.path(&anchored, &train.y, None)?.fits.iter().map(error).collect())
    }

    fn anchored(&self, x: &Dense<f64>, draw: &[usize], m: usize) -> Result<AnchoredDesign, EstimateError> {
        match self.anchors {
            Anchors::Pca(m) if m > 0 => AnchoredDesign::on_principal(x, m),
            _ => Ok(AnchoredDesign::on_columns(x, &draw[..m.min(draw.len())])),
        }
    }

    /// The lasso path on the projected columns: the whole of it, or down to a part of its first strength.
    fn path(&self, anchored: &AnchoredDesign, y: &[f64], upto: Option<f64>) -> Result<Path, EstimateError> {
        let lasso = Lasso::new(0.0).fit_intercept(false).tol(1e-7);
        let options = match upto {
            None => PathOptions {
                n_alphas: self.n_alphas,
                eps: Some(EPS),
                early_stop: false,
                ..Default::default()
            },
            Some(part) if part >= 1.0 => PathOptions { n_alphas: 1, ..Default::default() },
            Some(part) => {
                PathOptions { n_alphas: 2, eps: Some(part), early_stop: false, ..Default::default() }
            }
        };
        lasso.path(&anchored.residual, &anchored.reduce(y), None, &options)
    }
}
