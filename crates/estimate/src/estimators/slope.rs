//! SLOPE: the sorted L1 norm.

use sparseland_matrix::vector;
use sparseland_optim::cd::StopReason;
use sparseland_optim::design::{Centred, Design, Scaling};
use sparseland_optim::penalty::{slope_prox, slope_value};

use super::normal::upper_quantile;
use super::{
    Alpha, EstimateError, Fitted, Loss, Rows, SparseCoef, check_design, check_sample_weight, check_target,
    ensure, restore,
};
use crate::path::{Path, PathEstimator, PathOptions};

/// Steps between looks at the duality gap.
const LOOK: usize = 10;
/// Growth of the curvature when a step shows it too small.
const STEEPER: f64 = 1.3;

/// The sequence `λ_1 >= λ_2 >= ...`.
#[derive(Clone, Debug, PartialEq)]
enum Sequence {
    Quantiles { q: f64 },
    Linear { last: f64 },
    Given(Vec<f64>),
}

/// `(1 / 2n) ||y - X w - b||² + alpha sum_i λ_i |w|_(i)`, sizes in falling order (Bogdan, van den Berg,
/// Sabatti, Su and Candès, "SLOPE: adaptive variable selection via convex optimization", Annals of Applied
/// Statistics 2015).
///
/// The largest coefficients are penalised most. By default `λ_i = z(q i / 2p) / z(q / 2p)` with `q` = 0.1,
/// the normal quantiles of the Benjamini-Hochberg procedure: on orthogonal designs this controls the
/// share of false discoveries at `q`. [`Slope::oscar`] makes `λ` fall linearly, so that coefficients of
/// correlated features become equal. `λ_1` is 1 in both, so that `alpha` compares with that of
/// [`Lasso`](super::Lasso); equal `λ` are the lasso.
///
/// Accelerated proximal gradient (Beck and Teboulle, SIAM J. Imaging Sci. 2009) with the gradient restart
/// of O'Donoghue and Candès (FoCM 2015). With a duality gap.
///
/// Cost: two passes over X and a sort for every step, some hundreds of steps.
///
/// **When not to use it.** Where the lasso will do: it is ten to a hundred times faster. Strongly
/// correlated columns make thousands of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Slope {
    alpha: Alpha,
    sequence: Sequence,
    fit_intercept: bool,
    standardize: bool,
    tol: f64,
    max_iter: usize,
}

impl Slope {
    /// SLOPE of strength `alpha` with the quantiles of `q = 0.1`.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha: Alpha::Value(alpha),
            sequence: Sequence::Quantiles { q: 0.1 },
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

    /// Normal quantiles for a share `q` of false discoveries, in `(0, 1)`.
    pub fn quantiles(mut self, q: f64) -> Self {
        self.sequence = Sequence::Quantiles { q };
        self
    }

    /// `λ` that falls linearly from 1 to `last`, in `[0, 1]` (Bondell and Reich, Biometrics 2008).
    pub fn oscar(mut self, last: f64) -> Self {
        self.sequence = Sequence::Linear { last };
        self
    }

    /// One `λ` per feature, not rising, not negative, the first above 0.
    pub fn lambdas(mut self, lambdas: Vec<f64>) -> Self {
        self.sequence = Sequence::Given(lambdas);
        self
    }

    /// Whether to fit an intercept, which is never penalised. Default true.
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

    /// Most steps. Default 100000.
    pub fn max_iter(mut self, max_iter: usize) -> Self {
        self.max_iter = max_iter;
        self
    }

    /// Fits to X (`n x p`) and y (`n`).
    ///
    /// # Errors
    /// [`EstimateError`] names the entry or parameter at fault.
    pub fn fit(&self, x: &dyn Design, y: &[f64]) -> Result<Fitted, EstimateError> {
        Ok(self.run(x, y, None, &PathOptions::default(), Some(self.alpha))?.fits.swap_remove(0))
    }

    /// Fits with a weight `>= 0` per row: weight 2 means the same as two equal rows.
    ///
    /// # Errors
    /// As [`Slope::fit`].
    pub fn fit_weighted(
        &self,
        x: &dyn Design,
        y: &[f64],
        sample_weight: &[f64],
    ) -> Result<Fitted, EstimateError> {
        let options = PathOptions::default();
        Ok(self.run(x, y, Some(sample_weight), &options, Some(self.alpha))?.fits.swap_remove(0))
    }

    /// The sequence for `p` features.
    fn sequence(&self, p: usize) -> Result<Vec<f64>, EstimateError> {
        match &self.sequence {
            Sequence::Quantiles { q } => {
                ensure(*q > 0.0 && *q < 1.0, "q", *q, "between 0 and 1")?;
                let quantile = |i: usize| upper_quantile(q * (i + 1) as f64 / (2.0 * p as f64));
                let first = quantile(0);
                Ok((0..p).map(|i| quantile(i) / first).collect())
            }
            Sequence::Linear { last } => {
                ensure((0.0..=1.0).contains(last), "last lambda", *last, "between 0 and 1")?;
                let steps = (p.max(2) - 1) as f64;
                Ok((0..p).map(|i| 1.0 - (1.0 - last) * i as f64 / steps).collect())
            }
            Sequence::Given(lambdas) => {
                if lambdas.len() != p {
                    let (what, why) = ("lambdas", "columns of X");
                    return Err(EstimateError::Length { what, why, expected: p, got: lambdas.len() });
                }
                let fits = |i: usize| {
                    let before = if i == 0 { f64::MAX } else { lambdas[i - 1] };
                    lambdas[i] >= 0.0 && lambdas[i] <= before && (i > 0 || lambdas[0] > 0.0)
                };
                match (0..p).find(|&i| !fits(i)) {
                    Some(row) => {
                        let domain = "finite, >= 0 and not above the one before; the first above 0";
                        Err(EstimateError::Value { what: "lambdas", row, value: lambdas[row], domain })
                    }
                    None => Ok(lambdas.clone()),
                }
            }
        }
    }

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
        check_target(x, y, f64::is_finite, "a finite number")?;
        self.alpha.check()?;
        ensure(self.tol > 0.0 && self.tol.is_finite(), "tol", self.tol, "above 0")?;
        ensure(self.max_iter > 0, "max_iter", 0.0, "at least 1")?;
        let lambdas = self.sequence(x.cols())?;
        let rows = Rows::new(x, y, sample_weight);
        let (design, target, mean) =
            rows.centred(Scaling { centre: self.fit_intercept, scale: self.standardize });
        let mut problem = Problem::new(&design, &target, &lambdas, rows.normaliser);
        let alpha_max = dual_norm(&problem.gradient(&target), &lambdas);
        let null = problem.null;
        let steepest = problem.gradient(&target).iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let alphas = match single {
            Some(alpha) => vec![alpha.resolve(alpha_max)?],
            None => options.grid(alpha_max, x.rows(), x.cols())?,
        };
        let part = |value: f64, of: f64| if of > 0.0 { value / of } else { 0.0 };
        Ok(options.run(&alphas, x.rows(), |alpha, _| {
            let found = if alpha >= alpha_max {
                problem.w.fill(0.0);
                Found {
                    steps: 0,
                    gap: Some(0.0),
                    kkt: 0.0,
                    objective: null,
                    loss: null,
                    stop: StopReason::AllZero,
                }
            } else {
                problem.solve(alpha, self.tol, self.max_iter)
            };
            let (coef, intercept) = restore(&design, &problem.w, mean);
            Fitted {
                coef: SparseCoef::from_dense(&coef),
                intercept,
                alpha,
                n_iter: found.steps,
                gap: found.gap.map(|gap| part(gap, null)),
                kkt: part(found.kkt, steepest),
                objective: found.objective,
                mean_loss: found.loss,
                explained: part(null - found.loss, null),
                converged: found.stop != StopReason::Limit,
                stop_reason: found.stop,
                loss: Loss::Squared,
            }
        }))
    }
}

impl PathEstimator for Slope {
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
        Loss::Squared
    }
}

/// The least strength at which a gradient leaves all coefficients at zero:
/// `max_k sum_{i <= k} |g|_(i) / sum_{i <= k} λ_i`.
fn dual_norm(gradient: &[f64], lambdas: &[f64]) -> f64 {
    let mut sizes: Vec<f64> = gradient.iter().map(|g| g.abs()).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    let (mut top, mut above, mut below) = (0.0f64, 0.0, 0.0);
    for (size, lambda) in sizes.iter().zip(lambdas) {
        (above, below) = (above + size, below + lambda);
        top = top.max(above / below);
    }
    top
}

struct Problem<'a> {
    design: &'a Centred<'a>,
    target: &'a [f64],
    lambdas: &'a [f64],
    normaliser: f64,
    null: f64,
    all: Vec<u32>,
    w: Vec<f64>,
    /// An estimate of the greatest curvature, from below.
    curvature: f64,
}

struct Found {
    steps: usize,
    gap: Option<f64>,
    kkt: f64,
    objective: f64,
    loss: f64,
    stop: StopReason,
}

impl<'a> Problem<'a> {
    fn new(design: &'a Centred<'a>, target: &'a [f64], lambdas: &'a [f64], normaliser: f64) -> Self {
        let steepest = design.squared_norms().iter().fold(0.0f64, |m, s| m.max(*s));
        Self {
            null: vector::dot(target, target) / (2.0 * normaliser),
            all: (0..design.cols() as u32).collect(),
            w: vec![0.0; design.cols()],
            curvature: (steepest / normaliser).max(f64::MIN_POSITIVE),
            design,
            target,
            lambdas,
            normaliser,
        }
    }

    /// `Z w`.
    fn times(&self, w: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.target.len()];
        self.design.accumulate(w.iter().copied().enumerate().filter(|(_, w)| *w != 0.0), &mut out);
        out
    }

    /// `-Zᵀ r / N`.
    fn gradient(&self, residual: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.all.len()];
        self.design.dots(&self.all, residual, &mut out);
        out.iter_mut().for_each(|g| *g /= -self.normaliser);
        out
    }

    fn residual(&self, product: &[f64]) -> Vec<f64> {
        self.target.iter().zip(product).map(|(y, m)| y - m).collect()
    }

    fn solve(&mut self, alpha: f64, tol: f64, most: usize) -> Found {
        let mut product = self.times(&self.w);
        // The point from which a step is made, and its product.
        let (mut ahead, mut ahead_product) = (self.w.clone(), product.clone());
        let mut inertia = 1.0f64;
        let mut steps = 0;
        let scale_of_zero = dual_norm(&self.gradient(self.target), self.lambdas);
        loop {
            if steps % LOOK == 0 || steps >= most {
                let residual = self.residual(&product);
                let gradient = self.gradient(&residual);
                let square = vector::dot(&residual, &residual) / self.normaliser;
                let objective = 0.5 * square + alpha * slope_value(&self.w, self.lambdas);
                let mut there = self.step(&self.w, &gradient, alpha);
                there.iter_mut().zip(&self.w).for_each(|(a, b)| *a -= b);
                let kkt = self.curvature * there.iter().fold(0.0f64, |m, d| m.max(d.abs()));
                let gap = (alpha > 0.0).then(|| {
                    let scale = (dual_norm(&gradient, self.lambdas) / alpha).max(1.0);
                    let along = vector::dot(self.target, &residual) / self.normaliser;
                    (objective - along / scale + 0.5 * square / (scale * scale)).max(0.0)
                });
                let done = match gap {
                    Some(gap) => (gap <= tol * self.null).then_some(StopReason::Gap),
                    None => (kkt <= tol * scale_of_zero).then_some(StopReason::Stationary),
                };
                let stop = done
                    .or((kkt <= 64.0 * f64::EPSILON * scale_of_zero).then_some(StopReason::Precision))
                    .or((steps >= most).then_some(StopReason::Limit));
                if let Some(stop) = stop {
                    return Found { steps, gap, kkt, objective, loss: 0.5 * square, stop };
                }
            }
            steps += 1;
            let gradient = self.gradient(&self.residual(&ahead_product));
            let (new, new_product) = loop {
                let new = self.step(&ahead, &gradient, alpha);
                let new_product = self.times(&new);
                let square =
                    |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
                // The loss is a quadratic: its curvature along the step is known without cancellation.
                let bend = square(&new_product, &ahead_product) / self.normaliser;
                // Steps at rounding level show the rounding of the products, which no curvature would explain.
                let sizes =
                    vector::dot(&new_product, &new_product) + vector::dot(&ahead_product, &ahead_product);
                let rounding = (64.0 * f64::EPSILON).powi(2) * sizes / self.normaliser;
                if bend <= self.curvature * square(&new, &ahead) * (1.0 + 1e-9) + rounding {
                    break (new, new_product);
                }
                self.curvature *= STEEPER;
            };
            let turned: f64 = (0..new.len()).map(|j| (ahead[j] - new[j]) * (new[j] - self.w[j])).sum();
            if turned > 0.0 {
                inertia = 1.0;
            }
            let next = 0.5 * (1.0 + (1.0 + 4.0 * inertia * inertia).sqrt());
            let push = if turned > 0.0 { 0.0 } else { (inertia - 1.0) / next };
            let extrapolate = |new: &[f64], old: &[f64]| -> Vec<f64> {
                new.iter().zip(old).map(|(n, o)| n + push * (n - o)).collect()
            };
            ahead = extrapolate(&new, &self.w);
            ahead_product = extrapolate(&new_product, &product);
            inertia = next;
            (self.w, product) = (new, new_product);
        }
    }

    /// The prox step from `from` along a gradient.
    fn step(&self, from: &[f64], gradient: &[f64], alpha: f64) -> Vec<f64> {
        let mut out: Vec<f64> = from.iter().zip(gradient).map(|(w, g)| w - g / self.curvature).collect();
        slope_prox(&mut out, self.lambdas, alpha / self.curvature);
        out
    }
}
