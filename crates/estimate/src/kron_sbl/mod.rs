//! Sparse vectors with Kronecker-structured support, by sparse Bayesian learning.
//!
//! Paper: Y. He, G. Joseph, "Bayesian Algorithms for Kronecker-structured Sparse Vector Recovery With Application to
//! IRS-MIMO Channel Estimation", IEEE Transactions on Signal Processing 2024, arXiv 2307.14719.
//!
//! # Problem
//! `y = (A_1 (x) A_2 (x) ... (x) A_I) x + n`, with `A_i: M_i x N_i` known (real or complex), `y` of length `prod M_i` and
//! noise of variance `s2` per entry. Indices run with the first factor slowest. `x` is sparse, and its support is a
//! product of supports, one per factor. With the prior `x ~ N(0, diag(gamma))`, `gamma = g_1 (x) ... (x) g_I`, the
//! evidence is maximised:
//!
//! ```text
//! minimise over g_1, ..., g_I >= 0:   y^H (s2 I + H Gamma H^H)^-1 y + log det(s2 I + H Gamma H^H)
//! ```
//!
//! by expectation-maximisation. With `L_k` the posterior second moment of `x_k`, the M-step lowers
//! `sum_k log gamma_k + L_k / gamma_k`:
//!
//! | method | M-step |
//! |---|---|
//! | [`Method::Svd`] | rank-one approximations of `L`, one mode split off after the other |
//! | [`Method::Alternating`] | each `g_i` in turn is a weighted mean of `L`, until `gamma` stands still |
//! | [`Method::OneSweep`] | one sweep, no normalisation: the earlier Kronecker method (KSBL) |
//! | [`Method::Classic`] | `gamma = L`, no structure; needs the dense dictionary |
//! | [`Method::PatternCoupled`] | `gamma` from `C_i g_i` with neighbours coupled, for supports in blocks |
//!
//! Atoms whose `g` falls far below the largest of its factor are dropped as the iteration goes.
//!
//! # Cost
//! Per iteration `sum M_i^2 (M_i + N_i)` and a chain of products of at most `prod N_i * max M_i`; memory `prod N_i`. The
//! classic method takes `M^2 N` with `M = prod M_i`, `N = prod N_i`, and `M N` of memory.
//!
//! # Departures
//! - The mean is `Gamma H^H (s2 I + H Gamma H^H)^-1 y` instead of `Sigma H^H y / s2`: no cancellation for small `s2`.
//! - Inner iterations stop on the relative change of `gamma`, and `gamma` starts at [`Start::Moment`], so that scaling
//!   `y` by `c` and `s2` by `c^2` scales `x` by `c`. The published code stops on the absolute change and starts at 1.
//! - Any number of factors, of any sizes. The published floor of coupled variances and its absolute pruning threshold are
//!   taken relative to the factor's scale.
//! - Alternation prunes at 1e-2 with learnt noise too (published code: 5e-3, where it is slow and ends worse).
//! - [`KronSbl::refine`] is ours.
//! - The terms of the noise update come from the eigenvalues, in `O(M)`.
//!
//! # Which method
//! The cost has many local minima, and the start decides which one is found. The SVD method from the default start was the
//! most accurate and the fastest in most of our experiments, the link over a reflecting surface included; for the coupled
//! and alternating methods [`Start::One`] is better at high signal-to-noise ratios.
//!
//! # When not to use it
//! For supports without product structure (use [`Method::Classic`] or a lasso), for dictionaries whose neighbouring
//! atoms nearly coincide (a warning says so), and where `x` is not sparse.
//!
//! # Example
//! ```
//! use sparseland_core::Context;
//! use sparseland_estimate::kron_sbl::{KronSbl, Method, Noise, nmse, synthetic};
//!
//! let context = Context::new(1, 1)?;
//! let problem = synthetic(&[(6, 8), (6, 8), (6, 8)], 2, 25.0, false, &mut context.rng(0));
//! let method = KronSbl { noise: Noise::Known(problem.s2), ..KronSbl::new(Method::Svd) };
//! let fit = method.fit(&problem.factors, &problem.y, &context)?;
//! assert!(nmse(&problem.x, &fit.x) < 0.01);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod classic;
mod error;
pub mod experiment;
mod irs;
mod mstep;
mod posterior;
mod tensor;
#[cfg(test)]
mod tests;

pub use error::KronSblError;
pub use irs::{IrsChannel, IrsLink};
pub use tensor::ComplexMat;

use error::ensure;
use num_complex::Complex64;
use posterior::{Mode, Posterior, posterior};
use rand::Rng;
use rand::seq::index::sample;
use rand_distr::{Distribution, StandardNormal};
use sparseland_core::{Context, Event};
use sparseland_linalg::Mat;
use tensor::{kron_apply, kron_vector};

/// How the prior is updated.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Rank-one approximations (SVD-KroSBL).
    Svd,
    /// Alternating minimisation (AM-KroSBL).
    Alternating,
    /// One sweep without normalisation (KSBL).
    OneSweep,
    /// No structure (cSBL).
    Classic,
    /// Neighbours coupled with weight `beta` (PC-KroSBL).
    PatternCoupled {
        /// One weight per factor; 0 leaves a factor uncoupled. The paper takes 0.8 or 0.5.
        beta: Vec<f64>,
    },
}

/// The noise variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Noise {
    /// Known. Values below `1e-12` of the mean square of `y` are raised to it, with a warning.
    Known(f64),
    /// Learnt, starting from a tenth of the mean square of `y` (published code).
    Learn,
}

/// The prior variances at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// All equal, so that the prior predicts the size of `y`: `||y||^2 / ||H||_F^2` (ours).
    Moment,
    /// All 1 (published code).
    One,
}

/// The settings.
#[derive(Debug, Clone, PartialEq)]
pub struct KronSbl {
    /// How the prior is updated.
    pub method: Method,
    /// The noise variance. Default: learnt.
    pub noise: Noise,
    /// The prior at the start.
    pub start: Start,
    /// Atoms are dropped when their variance falls below this fraction of the largest of their factor; one number per
    /// factor, or one for all. Empty takes the published values: 1e-3 (SVD, classic), 1e-2 (alternating, one sweep),
    /// 1e-2 for coupled factors and 1e-1 for the others. Alternation depends on it: at 1e-3 it is far from standing still
    /// after 150 iterations.
    pub prune: Vec<f64>,
    /// The iteration stops when `gamma` changes by less than this fraction. Default 1e-4 (published code).
    pub tolerance: f64,
    /// Most iterations. Default 150 (paper).
    pub max_iter: usize,
    /// Relative change of `gamma` that ends an alternating M-step. Default 1e-5 (published code, there absolute).
    pub inner_tolerance: f64,
    /// Most sweeps of an alternating M-step. Default 100 (ours).
    pub inner_sweeps: usize,
    /// Whether the SVD method, once it stands still, goes on with alternating M-steps: rank-one approximations are not the
    /// exact M-step, and the alternation lowers the cost further. Default false (paper).
    pub refine: bool,
    /// Largest dense dictionary of the classic method, in MiB. Default 2048 (ours).
    pub memory_cap: usize,
}

impl KronSbl {
    /// A method with the published settings.
    pub fn new(method: Method) -> Self {
        KronSbl {
            method,
            noise: Noise::Learn,
            start: Start::Moment,
            prune: Vec::new(),
            tolerance: 1e-4,
            max_iter: 150,
            inner_tolerance: 1e-5,
            inner_sweeps: 100,
            refine: false,
            memory_cap: 2048,
        }
    }
}

/// Something a reader of the result should know.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KronSblWarning {
    /// The given noise variance was too small.
    #[error("noise variance {given} was raised to {used}, 1e-12 of the mean square of y")]
    NoiseRaised {
        /// What was given.
        given: f64,
        /// What was used.
        used: f64,
    },
    /// Two atoms of a factor nearly coincide.
    #[error(
        "factor {factor}: two atoms have coherence {coherence:.4}; their coefficients cannot be told apart"
    )]
    Coherence {
        /// Index of the factor.
        factor: usize,
        /// The largest coherence found.
        coherence: f64,
    },
    /// All measurements are zero.
    #[error("all measurements are zero: so is the result")]
    ZeroMeasurements,
    /// The iteration used all of its steps.
    #[error("stopped after {0} iterations before the tolerance was reached")]
    NotConverged(usize),
}

/// A recovered vector.
#[derive(Debug, Clone)]
pub struct KronSblFit {
    /// The posterior mean, length `prod N_i`; zero at dropped atoms.
    pub x: Vec<Complex64>,
    /// Kept atoms of every factor. The classic method has one list, of indices into `x`.
    pub support: Vec<Vec<usize>>,
    /// Prior variances of the kept atoms, one list per factor (one in all for the classic method).
    pub gammas: Vec<Vec<f64>>,
    /// The noise variance.
    pub s2: f64,
    /// The cost at the start of every iteration.
    pub trace: Vec<f64>,
    /// Iterations done.
    pub iterations: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// What a reader should know.
    pub warnings: Vec<KronSblWarning>,
}

impl KronSblFit {
    /// The real parts of `x`, for real data.
    pub fn real(&self) -> Vec<f64> {
        self.x.iter().map(|v| v.re).collect()
    }

    /// Indices with `|x_k| > 1e-3 max |x|`, the paper's support.
    pub fn significant(&self) -> Vec<usize> {
        significant(&self.x)
    }
}

/// Prior variances relative to the mean square of `y` below which `s2` is not taken seriously.
const LEAST_NOISE: f64 = 1e-12;
/// Two atoms closer than this are reported.
const COHERENT: f64 = 0.99;

/// What the iteration works on.
enum State {
    Kron(Vec<Mode>),
    Dense(classic::Dense, Vec<f64>),
}

impl KronSbl {
    /// Recovers `x` from real factors and measurements.
    ///
    /// # Errors
    /// As [`KronSbl::fit`].
    pub fn fit_real(
        &self,
        factors: &[Mat<f64>],
        y: &[f64],
        context: &Context,
    ) -> Result<KronSblFit, KronSblError> {
        let factors: Vec<ComplexMat> = factors.iter().map(ComplexMat::from).collect();
        let y: Vec<Complex64> = y.iter().map(|&v| v.into()).collect();
        self.fit(&factors, &y, context)
    }

    /// Recovers `x` from `y = (A_1 (x) A_2 (x) ...) x + n`.
    ///
    /// # Errors
    /// [`KronSblError::Parameter`], [`KronSblError::Measurements`], [`KronSblError::NonFinite`] with row and column,
    /// [`KronSblError::Memory`], [`KronSblError::Cancelled`].
    pub fn fit(
        &self,
        factors: &[ComplexMat],
        y: &[Complex64],
        context: &Context,
    ) -> Result<KronSblFit, KronSblError> {
        context.install(|| self.run(factors, y, context))
    }

    fn check(&self, factors: &[ComplexMat], y: &[Complex64]) -> Result<Vec<f64>, KronSblError> {
        ensure(!factors.is_empty(), "factors", "at least one matrix", "none")?;
        for f in factors {
            ensure(
                f.rows > 0 && f.cols > 0 && f.data.len() == f.rows * f.cols,
                "factors",
                "matrices with rows and columns",
                format!("{} x {} with {} values", f.rows, f.cols, f.data.len()),
            )?;
        }
        let expected = factors.iter().map(|f| f.rows).product();
        if y.len() != expected {
            let shapes: Vec<String> = factors.iter().map(|f| format!("{} x {}", f.rows, f.cols)).collect();
            return Err(KronSblError::Measurements { factors: shapes.join(", "), expected, got: y.len() });
        }
        let bad = |data: &[Complex64]| data.iter().position(|v| !(v.re.is_finite() && v.im.is_finite()));
        for (k, f) in factors.iter().enumerate() {
            if let Some(at) = bad(&f.data) {
                return Err(KronSblError::NonFinite {
                    what: format!("factor {k}"),
                    row: at / f.cols,
                    column: at % f.cols,
                });
            }
        }
        if let Some(row) = bad(y) {
            return Err(KronSblError::NonFinite { what: "y".into(), row, column: 0 });
        }
        if let Noise::Known(s2) = self.noise {
            ensure(s2 >= 0.0 && s2.is_finite(), "noise", "a variance of at least 0", s2)?;
        }
        ensure(self.tolerance >= 0.0, "tolerance", "at least 0", self.tolerance)?;
        ensure(self.max_iter > 0, "max_iter", "at least 1", self.max_iter)?;
        ensure(self.inner_sweeps > 0, "inner_sweeps", "at least 1", self.inner_sweeps)?;
        if let Method::PatternCoupled { beta } = &self.method {
            ensure(
                beta.len() == factors.len() && beta.iter().all(|b| (0.0..=1.0).contains(b)),
                "beta",
                "one weight in [0, 1] per factor",
                format!("{beta:?}"),
            )?;
        }
        let prune = match (self.prune.as_slice(), &self.method) {
            ([], Method::Svd | Method::Classic) => vec![1e-3; factors.len()],
            ([], Method::Alternating | Method::OneSweep) => vec![1e-2; factors.len()],
            ([], Method::PatternCoupled { beta }) => {
                beta.iter().map(|&b| if b > 0.0 { 1e-2 } else { 1e-1 }).collect()
            }
            ([one], _) => vec![*one; factors.len()],
            (several, _) => several.to_vec(),
        };
        ensure(
            prune.len() == factors.len() && prune.iter().all(|r| (0.0..1.0).contains(r)),
            "prune",
            "fractions in [0, 1), one per factor or one for all",
            format!("{prune:?}"),
        )?;
        Ok(prune)
    }

    fn run(
        &self,
        factors: &[ComplexMat],
        y: &[Complex64],
        context: &Context,
    ) -> Result<KronSblFit, KronSblError> {
        let prune = self.check(factors, y)?;
        let columns: usize = factors.iter().map(|f| f.cols).product();
        let mean_square = y.iter().map(Complex64::norm_sqr).sum::<f64>() / y.len() as f64;
        let mut warnings = coherence_warnings(factors);
        let mut x = vec![Complex64::ZERO; columns];
        let mut s2 = match self.noise {
            Noise::Known(s2) => s2,
            Noise::Learn => 0.1 * mean_square,
        };
        if mean_square == 0.0 {
            warnings.push(KronSblWarning::ZeroMeasurements);
            return Ok(KronSblFit {
                x,
                support: vec![Vec::new(); factors.len()],
                gammas: vec![Vec::new(); factors.len()],
                s2: s2.max(f64::MIN_POSITIVE),
                trace: Vec::new(),
                iterations: 0,
                converged: true,
                warnings,
            });
        }
        let least = LEAST_NOISE * mean_square;
        if s2 < least {
            warnings.push(KronSblWarning::NoiseRaised { given: s2, used: least });
            s2 = least;
        }
        let energy: f64 =
            factors.iter().map(|f| f.data.iter().map(Complex64::norm_sqr).sum::<f64>()).product();
        let start = match self.start {
            Start::Moment if energy > 0.0 => mean_square * y.len() as f64 / energy,
            _ => 1.0,
        };
        let mut state = self.state(factors, y, start)?;
        context.report(Event::Stage { name: "recovery", total: self.max_iter });
        let mut method = &self.method;
        let (mut trace, mut converged, mut iterations) = (Vec::new(), false, 0);
        while iterations < self.max_iter && !converged {
            context.check_cancelled()?;
            iterations += 1;
            let found = state.posterior(y, s2)?;
            trace.push(found.cost);
            let moment: Vec<f64> =
                found.variance.iter().zip(&found.mean).map(|(v, m)| v + m.norm_sqr()).collect();
            let change = self.update(method, &mut state, &moment)?;
            if self.noise == Noise::Learn {
                s2 = ((found.residual + s2 * found.effective) / y.len() as f64).max(least);
            }
            converged = change <= self.tolerance;
            if converged && self.refine && *method == Method::Svd {
                method = &Method::Alternating;
                converged = false;
            }
            state.prune(factors, &prune);
            let message = format!("cost {:.4}", found.cost);
            context.report(Event::Step { done: iterations, message: &message });
        }
        if !converged {
            warnings.push(KronSblWarning::NotConverged(iterations));
        }
        let mean = state.posterior(y, s2)?.mean;
        let (support, gammas) = match state {
            State::Kron(modes) => {
                let sizes: Vec<usize> = factors.iter().map(|f| f.cols).collect();
                for (k, value) in mean.into_iter().enumerate() {
                    let (mut at, mut rest, mut stride) = (0, k, 1);
                    for (mode, size) in modes.iter().zip(&sizes).rev() {
                        at += stride * mode.kept[rest % mode.kept.len()];
                        rest /= mode.kept.len();
                        stride *= size;
                    }
                    x[at] = value;
                }
                modes.into_iter().map(|m| (m.kept, m.prior)).unzip()
            }
            State::Dense(dense, gamma) => {
                dense.kept.iter().zip(&mean).for_each(|(&k, v)| x[k] = *v);
                (vec![dense.kept], vec![gamma])
            }
        };
        Ok(KronSblFit { x, support, gammas, s2, trace, iterations, converged, warnings })
    }

    fn state(&self, factors: &[ComplexMat], y: &[Complex64], start: f64) -> Result<State, KronSblError> {
        if self.method == Method::Classic {
            let complex = !factors.iter().all(ComplexMat::is_real) || y.iter().any(|v| v.im != 0.0);
            let columns: usize = factors.iter().map(|f| f.cols).product();
            // The dictionary, its scaled copy and the right-hand sides.
            let parts: usize = if complex { 5 } else { 3 };
            let bytes = columns.saturating_mul(y.len()).saturating_mul(8 * parts);
            if bytes >> 20 > self.memory_cap {
                return Err(KronSblError::Memory {
                    rows: y.len(),
                    columns,
                    megabytes: bytes >> 20,
                    cap: self.memory_cap,
                });
            }
            return Ok(State::Dense(classic::Dense::new(factors, complex), vec![start; columns]));
        }
        let mut modes = Vec::with_capacity(factors.len());
        for f in factors {
            let used = |j: usize| (0..f.rows).any(|i| f.at(i, j) != Complex64::ZERO);
            let mut kept: Vec<usize> = (0..f.cols).filter(|&j| used(j)).collect();
            if kept.is_empty() {
                kept.push(0);
            }
            let prior = vec![1.0; kept.len()];
            modes.push(Mode { dictionary: f.columns(&kept), kept, prior });
        }
        let mut priors: Vec<Vec<f64>> = modes.iter().map(|m| m.prior.clone()).collect();
        mstep::normalise(&mut priors);
        let last = priors.len() - 1;
        priors[last].iter_mut().for_each(|v| *v *= start);
        modes.iter_mut().zip(priors).for_each(|(m, p)| m.prior = p);
        Ok(State::Kron(modes))
    }

    /// The M-step; the relative change of `gamma`.
    fn update(&self, method: &Method, state: &mut State, moment: &[f64]) -> Result<f64, KronSblError> {
        match state {
            State::Dense(_, gamma) => {
                let old = std::mem::replace(gamma, moment.to_vec());
                Ok(mstep::relative_change(std::slice::from_ref(gamma), &[old]))
            }
            State::Kron(modes) => {
                let old: Vec<Vec<f64>> = modes.iter().map(|m| m.prior.clone()).collect();
                let mut new = old.clone();
                match method {
                    Method::Svd => {
                        let sizes: Vec<usize> = old.iter().map(Vec::len).collect();
                        new = mstep::rank_one(moment, &sizes)?;
                    }
                    Method::OneSweep => mstep::alternate(moment, &mut new, 0.0, 1, false),
                    Method::PatternCoupled { beta } => {
                        let kept: Vec<&[usize]> = modes.iter().map(|m| m.kept.as_slice()).collect();
                        mstep::alternate_coupled(moment, &mut new, beta, &kept)?;
                    }
                    Method::Alternating | Method::Classic => {
                        mstep::alternate(moment, &mut new, self.inner_tolerance, self.inner_sweeps, true);
                    }
                }
                let change = mstep::relative_change(&new, &old);
                modes.iter_mut().zip(new).for_each(|(m, g)| m.prior = g);
                Ok(change)
            }
        }
    }
}

impl State {
    fn posterior(&self, y: &[Complex64], s2: f64) -> Result<Posterior, KronSblError> {
        match self {
            State::Kron(modes) => posterior(modes, y, s2),
            State::Dense(dense, gamma) => dense.posterior(gamma, y, s2),
        }
    }

    /// Drops atoms below a fraction of the largest; the largest always stays.
    fn prune(&mut self, factors: &[ComplexMat], fractions: &[f64]) {
        let survivors = |prior: &[f64], fraction: f64| -> Option<Vec<usize>> {
            let largest = prior.iter().copied().fold(0.0, f64::max);
            let stay: Vec<usize> = (0..prior.len()).filter(|&k| prior[k] >= fraction * largest).collect();
            (stay.len() < prior.len() && !stay.is_empty()).then_some(stay)
        };
        match self {
            State::Kron(modes) => {
                for ((mode, f), &fraction) in modes.iter_mut().zip(factors).zip(fractions) {
                    if let Some(stay) = survivors(&mode.prior, fraction) {
                        mode.kept = stay.iter().map(|&k| mode.kept[k]).collect();
                        mode.prior = stay.iter().map(|&k| mode.prior[k]).collect();
                        mode.dictionary = f.columns(&mode.kept);
                    }
                }
            }
            State::Dense(dense, gamma) => {
                if let Some(stay) = survivors(gamma, fractions[0]) {
                    dense.kept = stay.iter().map(|&k| dense.kept[k]).collect();
                    *gamma = stay.iter().map(|&k| gamma[k]).collect();
                }
            }
        }
    }
}

fn coherence_warnings(factors: &[ComplexMat]) -> Vec<KronSblWarning> {
    let mut out = Vec::new();
    for (factor, f) in factors.iter().enumerate() {
        let columns: Vec<Vec<Complex64>> =
            (0..f.cols).map(|j| (0..f.rows).map(|i| f.at(i, j)).collect()).collect();
        let norms: Vec<f64> =
            columns.iter().map(|c| c.iter().map(Complex64::norm_sqr).sum::<f64>().sqrt()).collect();
        let mut coherence = 0.0f64;
        for i in 0..f.cols {
            for j in i + 1..f.cols {
                if norms[i] > 0.0 && norms[j] > 0.0 {
                    let product: Complex64 =
                        columns[i].iter().zip(&columns[j]).map(|(a, b)| a.conj() * b).sum();
                    coherence = coherence.max(product.norm() / (norms[i] * norms[j]));
                }
            }
        }
        // With one row all atoms coincide by necessity.
        if coherence > COHERENT && f.rows > 1 {
            out.push(KronSblWarning::Coherence { factor, coherence });
        }
    }
    out
}

fn significant(x: &[Complex64]) -> Vec<usize> {
    let largest = x.iter().map(|v| v.norm()).fold(0.0, f64::max);
    (0..x.len()).filter(|&k| x[k].norm() > 1e-3 * largest).collect()
}

/// `||estimate - truth||^2 / ||truth||^2`.
pub fn nmse(truth: &[Complex64], estimate: &[Complex64]) -> f64 {
    let error: f64 = truth.iter().zip(estimate).map(|(t, e)| (t - e).norm_sqr()).sum();
    error / truth.iter().map(Complex64::norm_sqr).sum::<f64>()
}

/// `|S^ n S| / |S^ u S|` for the supports `{k: |x_k| > 1e-3 max |x|}`.
pub fn support_rate(truth: &[Complex64], estimate: &[Complex64]) -> f64 {
    let (a, b) = (significant(truth), significant(estimate));
    let common = a.iter().filter(|k| b.binary_search(k).is_ok()).count();
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

/// A random problem with its solution.
#[derive(Debug, Clone)]
pub struct KronProblem {
    /// The factors, `M_i x N_i`.
    pub factors: Vec<ComplexMat>,
    /// Measurements.
    pub y: Vec<Complex64>,
    /// The sparse vector.
    pub x: Vec<Complex64>,
    /// Support of every factor, ascending.
    pub support: Vec<Vec<usize>>,
    /// The noise variance.
    pub s2: f64,
}

/// The paper's synthetic setting: normal factors of the shapes `(M_i, N_i)` with unit columns, `sparsity` atoms per
/// factor at random, normal coefficients, noise at `snr` decibels (infinite: none, with a nominal `s2` of 1e-10).
pub fn synthetic(
    shapes: &[(usize, usize)],
    sparsity: usize,
    snr: f64,
    complex: bool,
    rng: &mut impl Rng,
) -> KronProblem {
    let draw = |rng: &mut dyn rand::RngCore| -> Complex64 {
        let mut rng = rng;
        if complex {
            irs::normal(&mut rng)
        } else {
            let v: f64 = StandardNormal.sample(&mut rng);
            v.into()
        }
    };
    let mut factors = Vec::new();
    let mut support = Vec::new();
    for &(rows, cols) in shapes {
        let mut f = ComplexMat::from_fn(rows, cols, |_, _| draw(rng));
        for j in 0..cols {
            let norm = (0..rows).map(|i| f.at(i, j).norm_sqr()).sum::<f64>().sqrt();
            (0..rows).for_each(|i| f.data[i * cols + j] /= norm);
        }
        factors.push(f);
        let mut chosen = sample(rng, cols, sparsity.min(cols)).into_vec();
        chosen.sort_unstable();
        support.push(chosen);
    }
    let flags: Vec<Vec<f64>> = support
        .iter()
        .zip(shapes)
        .map(|(s, shape)| (0..shape.1).map(|k| f64::from(u8::from(s.contains(&k)))).collect())
        .collect();
    let x: Vec<Complex64> = kron_vector(&flags)
        .into_iter()
        .map(|flag| if flag > 0.0 { draw(rng) } else { Complex64::ZERO })
        .collect();
    let views: Vec<_> = factors.iter().map(|f| (f.data.as_slice(), f.rows, f.cols)).collect();
    let mut y = kron_apply(&views, &x);
    let power = y.iter().map(Complex64::norm_sqr).sum::<f64>() / y.len() as f64;
    let s2 = if snr.is_finite() { power * 10f64.powf(-snr / 10.0) } else { 1e-10 };
    if snr.is_finite() {
        y.iter_mut().for_each(|v| *v += draw(rng) * s2.sqrt());
    }
    KronProblem { factors, y, x, support, s2 }
}
