//! Linear mixed models with Tsallis (q-Gaussian) errors: robust against whole clusters that are off.
//!
//! Third manuscript of the thesis; its text and code were not at hand, so that this follows the abstract. Maximising
//! Tsallis entropy under a fixed location and scatter gives the q-Gaussian, for `1 < q < 1 + 2 / n_i` a multivariate
//! t with `nu = 2 / (q - 1) - n_i` degrees of freedom. Clusters `i` of `n_i` rows are independent:
//!
//! ```text
//! y_i ~ t_nu(X_i beta, V_i),   V_i = Z_i D Z_iᵀ + s² I,   r_i = y_i - X_i beta,   delta_i = r_iᵀ V_i^-1 r_i
//! minimise   (1/N) sum_i [ log|V_i| / 2 + (nu + n_i) / 2 log(1 + delta_i / nu) + const ] + pen(beta)
//! ```
//!
//! A cluster enters the gradient with the weight `(nu + n_i) / (nu + delta_i)`: one that is off counts little. (One
//! q-Gaussian over all rows would give every row the same weight and leave beta as it is in the Gaussian model.)
//!
//! Steps alternate: beta by [`ProxCg`], then (D, s²) by EM for the t distribution (Lange, Little and Taylor, JASA
//! 1989), which keeps D positive semi-definite without a parametrisation, until the objective settles. Everything goes
//! through the Cholesky factor of `D` and matrices of the size of `D`, so that singular `D` needs no special case.
//! Cost per evaluation: `O(N (p + r))` for `r` random effects.
//!
//! **When not to use it.** Outliers that are single rows of otherwise good clusters: they weigh down their whole cluster
//! and Huber regression is the better tool. Fewer than some twenty clusters tell little about `D`.

use sparseland_core::Context;
use sparseland_linalg::Mat;
use sparseland_optim::penalty::{ElasticNet, Mcp, Penalty, Scad};

use super::error::{HighDimensionalError, ensure};
use super::prox_cg::ProxCg;

/// How heavy the tails are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tail {
    /// The Gaussian model.
    Gaussian,
    /// This many degrees of freedom for every cluster.
    Nu(f64),
    /// This q for every cluster: larger clusters get fewer degrees of freedom.
    Q(f64),
    /// The best of 3, 4, 6, 10 and 30 degrees of freedom by the likelihood.
    Profile,
}

/// The penalty of the fixed effects; column 0 and those of weight 0 are free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FixedPenalty {
    /// None.
    None,
    /// The lasso's, of this strength.
    L1(f64),
    /// The smoothly clipped absolute deviation with shape 3.7.
    Scad(f64),
    /// The minimax concave penalty with gamma 3.
    Mcp(f64),
}

/// Grouped rows.
#[derive(Debug, Clone)]
pub struct Grouped<'a> {
    /// Fixed effects, `N x p`; put a column of ones first.
    pub x: &'a Mat<f64>,
    /// Random effects, `N x r`; a column of ones gives every cluster a level of its own.
    pub z: &'a Mat<f64>,
    /// The target, `N`.
    pub y: &'a [f64],
    /// The cluster of every row, any numbers.
    pub cluster: &'a [usize],
}

/// The q-Gaussian linear mixed model.
#[derive(Debug, Clone, PartialEq)]
pub struct QGaussianMixed {
    /// Tails. Default four degrees of freedom.
    pub tail: Tail,
    /// Penalty of the fixed effects but the first. Default none.
    pub penalty: FixedPenalty,
    /// Rounds stop when the objective changes by less than this part of itself. Default 1e-9: EM takes small steps.
    pub tol: f64,
    /// Most rounds. Default 500.
    pub max_rounds: usize,
}

impl Default for QGaussianMixed {
    fn default() -> Self {
        Self { tail: Tail::Nu(4.0), penalty: FixedPenalty::None, tol: 1e-9, max_rounds: 500 }
    }
}

/// A fitted mixed model.
#[derive(Debug, Clone)]
pub struct MixedFit {
    /// Fixed effects.
    pub beta: Vec<f64>,
    /// Scatter of the random effects, `r x r`; a variance without which the likelihood is no worse is 0.
    pub d: Mat<f64>,
    /// Scatter of single rows.
    pub s2: f64,
    /// Degrees of freedom (of the smallest cluster, for a fixed q); infinite for the Gaussian model.
    pub nu: f64,
    /// Weight of every cluster, in the order of their first rows: near 0 for one that is off.
    pub weights: Vec<f64>,
    /// The objective after every round.
    pub trace: Vec<f64>,
    /// Rounds made.
    pub rounds: usize,
    /// Whether the objective settled.
    pub converged: bool,
}

/// Degrees of freedom that [`Tail::Profile`] tries.
const PROFILE: [f64; 5] = [3.0, 4.0, 6.0, 10.0, 30.0];
/// EM steps per round.
const EM_STEPS: usize = 5;

/// What a cluster needs again and again.
struct Cluster {
    rows: Vec<usize>,
    /// `Zᵀ Z`, `r x r`.
    gram: Mat<f64>,
}

/// Lower Cholesky factor of a positive semi-definite matrix: a pivot at rounding level makes a zero column.
fn semidefinite_cholesky(a: &Mat<f64>) -> Mat<f64> {
    let n = a.rows;
    let scale = (0..n).map(|i| a.at(i, i)).fold(0.0, f64::max);
    let mut l = Mat::zeros(n, n);
    for j in 0..n {
        let pivot = a.at(j, j) - (0..j).map(|k| l.at(j, k) * l.at(j, k)).sum::<f64>();
        if pivot <= 1e-14 * scale {
            continue;
        }
        let root = pivot.sqrt();
        l.data[j * n + j] = root;
        for i in j + 1..n {
            let rest = a.at(i, j) - (0..j).map(|k| l.at(i, k) * l.at(j, k)).sum::<f64>();
            l.data[i * n + j] = rest / root;
        }
    }
    l
}

/// `Omega = L (I + Lᵀ G L / s2)^-1 Lᵀ`, the posterior scatter of a cluster's effects, and `log|V_i| - n_i log s2`.
fn posterior(l: &Mat<f64>, gram: &Mat<f64>, s2: f64) -> (Mat<f64>, f64) {
    let r = l.rows;
    let at = |f: &dyn Fn(usize) -> f64| (0..r).map(f).sum::<f64>();
    let gl = Mat::from_fn(r, r, |i, j| at(&|k| gram.at(i, k) * l.at(k, j)));
    let m = Mat::from_fn(r, r, |i, j| f64::from(u8::from(i == j)) + at(&|k| l.at(k, i) * gl.at(k, j)) / s2);
    // I plus a semi-definite matrix: every pivot is at least 1.
    let c = semidefinite_cholesky(&m);
    let logdet = 2.0 * (0..r).map(|i| c.at(i, i).ln()).sum::<f64>();
    // Rows of half: C^-1 Lᵀ.
    let mut half = l.transposed();
    for i in 0..r {
        for j in 0..r {
            let rest = half.at(i, j) - (0..i).map(|k| c.at(i, k) * half.at(k, j)).sum::<f64>();
            half.data[i * r + j] = rest / c.at(i, i);
        }
    }
    (Mat::from_fn(r, r, |i, j| at(&|k| half.at(k, i) * half.at(k, j))), logdet)
}

impl QGaussianMixed {
    /// Fits the model.
    ///
    /// # Errors
    /// [`HighDimensionalError`] names the parameter, the shape or the entry at fault; cancellation is one of them.
    pub fn fit(&self, data: &Grouped<'_>, context: &Context) -> Result<MixedFit, HighDimensionalError> {
        let clusters = self.check(data)?;
        let Tail::Profile = self.tail else {
            return self.fit_tail(data, &clusters, self.tail, context);
        };
        let mut best: Option<MixedFit> = None;
        for nu in PROFILE {
            let fit = self.fit_tail(data, &clusters, Tail::Nu(nu), context)?;
            if best.as_ref().is_none_or(|b| fit.trace.last() < b.trace.last()) {
                best = Some(fit);
            }
        }
        Ok(best.expect("five values are tried"))
    }

    fn check(&self, data: &Grouped<'_>) -> Result<Vec<Cluster>, HighDimensionalError> {
        let n = data.y.len();
        let shape = |what, got| {
            if got == n { Ok(()) } else { Err(HighDimensionalError::Shape { what, expected: n, got }) }
        };
        shape("rows of X", data.x.rows)?;
        shape("rows of Z", data.z.rows)?;
        shape("clusters of rows", data.cluster.len())?;
        ensure(data.x.cols > 0 && data.z.cols > 0, "columns of X and Z", "at least 1", 0)?;
        data.x.check_finite("fixed effects")?;
        data.z.check_finite("random effects")?;
        if let Some(row) = data.y.iter().position(|v| !v.is_finite()) {
            return Err(HighDimensionalError::NonFinite { what: "y".into(), row, value: data.y[row] });
        }
        ensure(self.tol > 0.0, "tol", "above 0", self.tol)?;
        let strength = match self.penalty {
            FixedPenalty::None => 0.0,
            FixedPenalty::L1(a) | FixedPenalty::Scad(a) | FixedPenalty::Mcp(a) => a,
        };
        ensure(strength >= 0.0 && strength.is_finite(), "penalty", "finite and at least 0", strength)?;
        let mut order: Vec<usize> = Vec::new();
        let mut place = std::collections::HashMap::new();
        let mut rows: Vec<Vec<usize>> = Vec::new();
        for (i, &c) in data.cluster.iter().enumerate() {
            let at = *place.entry(c).or_insert_with(|| {
                order.push(c);
                rows.push(vec![]);
                rows.len() - 1
            });
            rows[at].push(i);
        }
        ensure(rows.len() > 1, "number of clusters", "at least 2", rows.len())?;
        let largest = rows.iter().map(Vec::len).max().unwrap_or(1);
        match self.tail {
            Tail::Nu(nu) => ensure(nu > 0.0 && nu.is_finite(), "nu", "above 0", nu)?,
            Tail::Q(q) => {
                let bound = 1.0 + 2.0 / largest as f64;
                let got = format!("{q}; the largest cluster has {largest} rows, so q stays below {bound:.4}");
                ensure(q > 1.0 && q < bound, "q", "above 1 and below 1 + 2 / rows; or give nu", got)?;
            }
            Tail::Gaussian | Tail::Profile => {}
        }
        let r = data.z.cols;
        let gram = |rows: &[usize]| {
            Mat::from_fn(r, r, |a, b| rows.iter().map(|&i| data.z.at(i, a) * data.z.at(i, b)).sum())
        };
        Ok(rows.into_iter().map(|rows| Cluster { gram: gram(&rows), rows }).collect())
    }

    fn fit_tail(
        &self,
        data: &Grouped<'_>,
        clusters: &[Cluster],
        tail: Tail,
        context: &Context,
    ) -> Result<MixedFit, HighDimensionalError> {
        let (n, p, r) = (data.y.len() as f64, data.x.cols, data.z.cols);
        let penalty = self.penalty_of(p);
        let mean = data.y.iter().sum::<f64>() / n;
        let spread = data.y.iter().map(|y| (y - mean) * (y - mean)).sum::<f64>() / n;
        let mut state = State {
            data,
            clusters,
            tail,
            beta: vec![0.0; p],
            d: Mat::zeros(r, r),
            s2: 0.5 * spread.max(f64::MIN_POSITIVE),
            posteriors: vec![],
        };
        // Half of the spread for the effects, on the scale of each.
        for a in 0..r {
            let square = clusters.iter().map(|c| c.gram.at(a, a)).sum::<f64>() / n;
            state.d.data[a * r + a] = if square > 0.0 { state.s2 / square } else { 0.0 };
        }
        state.refresh();
        let (mut trace, mut converged) = (Vec::new(), false);
        while trace.len() < self.max_rounds && !converged {
            context.check_cancelled()?;
            let curvature = state.curvature();
            let gradient_scale = {
                let mut gradient = vec![0.0; p];
                state.value(&vec![0.0; p], Some(&mut gradient));
                gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()))
            };
            let solver = ProxCg { tol: 1e-9 * gradient_scale, max_evaluations: 500, ..ProxCg::default() };
            let start = state.beta.clone();
            let found =
                solver.minimise(&mut |b, g| state.value(b, Some(g)), penalty.as_ref(), curvature, start);
            state.beta = found.x;
            for _ in 0..EM_STEPS {
                state.em();
            }
            let objective = state.value(&state.beta, None)
                + state.beta.iter().enumerate().map(|(j, b)| penalty.value(j, *b)).sum::<f64>();
            if !objective.is_finite() {
                let iterations = trace.len() + 1;
                return Err(HighDimensionalError::Diverged { operation: "mixed model", iterations });
            }
            converged = trace
                .last()
                .is_some_and(|l: &f64| (l - objective).abs() <= self.tol * objective.abs().max(1.0));
            trace.push(objective);
        }
        // EM only creeps towards the boundary: a variance without which the likelihood is no worse is 0.
        let mut least = state.value(&state.beta, None);
        for a in 0..r {
            let before = state.d.clone();
            for b in 0..r {
                state.d.data[a * r + b] = 0.0;
                state.d.data[b * r + a] = 0.0;
            }
            state.refresh();
            let without = state.value(&state.beta, None);
            if without <= least + self.tol * least.abs().max(1.0) {
                least = without;
            } else {
                state.d = before;
                state.refresh();
            }
        }
        let residual = state.residual(&state.beta);
        let weights = (0..clusters.len()).map(|i| state.cluster_value(i, &residual).1).collect();
        let smallest = clusters.iter().map(|c| c.rows.len()).min().unwrap_or(1);
        Ok(MixedFit {
            nu: nu_of(tail, smallest),
            weights,
            rounds: trace.len(),
            trace,
            converged,
            beta: state.beta,
            d: state.d,
            s2: state.s2,
        })
    }

    /// The penalty, with the first coefficient free.
    fn penalty_of(&self, p: usize) -> Box<dyn Penalty> {
        let mut weights = vec![1.0; p];
        weights[0] = 0.0;
        let weights = Some(weights);
        match self.penalty {
            FixedPenalty::None => Box::new(ElasticNet { weights, ..ElasticNet::l1(0.0) }),
            FixedPenalty::L1(alpha) => Box::new(ElasticNet { weights, ..ElasticNet::l1(alpha) }),
            FixedPenalty::Scad(alpha) => Box::new(Scad { alpha, shape: 3.7, weights }),
            FixedPenalty::Mcp(alpha) => Box::new(Mcp { alpha, gamma: 3.0, weights }),
        }
    }
}

/// Hands the smooth part of beta's problem at fixed scatter, and a bound of its curvature, to `work`: for comparing
/// solvers on it.
pub(super) fn with_scatter<T>(
    model: &QGaussianMixed,
    data: &Grouped<'_>,
    d: Mat<f64>,
    s2: f64,
    work: impl FnOnce(&mut dyn FnMut(&[f64], &mut [f64]) -> f64, f64) -> T,
) -> Result<T, HighDimensionalError> {
    let clusters = model.check(data)?;
    let beta = vec![0.0; data.x.cols];
    let mut state = State { data, clusters: &clusters, tail: model.tail, beta, d, s2, posteriors: vec![] };
    state.refresh();
    let curvature = state.curvature();
    Ok(work(&mut |b, g| state.value(b, Some(g)), curvature))
}

/// Degrees of freedom of a cluster of `n` rows.
fn nu_of(tail: Tail, n: usize) -> f64 {
    match tail {
        Tail::Gaussian | Tail::Profile => f64::INFINITY,
        Tail::Nu(nu) => nu,
        Tail::Q(q) => 2.0 / (q - 1.0) - n as f64,
    }
}

/// Parameters of a fit in progress.
struct State<'a> {
    data: &'a Grouped<'a>,
    clusters: &'a [Cluster],
    tail: Tail,
    beta: Vec<f64>,
    d: Mat<f64>,
    s2: f64,
    /// `Omega_i` and `log|V_i|` for the current `(D, s2)`.
    posteriors: Vec<(Mat<f64>, f64)>,
}

impl State<'_> {
    fn refresh(&mut self) {
        let l = semidefinite_cholesky(&self.d);
        let of = |c: &Cluster| {
            let (omega, logdet) = posterior(&l, &c.gram, self.s2);
            (omega, logdet + c.rows.len() as f64 * self.s2.ln())
        };
        self.posteriors = self.clusters.iter().map(of).collect();
    }

    fn residual(&self, beta: &[f64]) -> Vec<f64> {
        let row = |i: usize| self.data.x.row(i).iter().zip(beta).map(|(x, b)| x * b).sum::<f64>();
        (0..self.data.y.len()).map(|i| self.data.y[i] - row(i)).collect()
    }

    /// `Zᵀ r` of a cluster.
    fn projected(&self, c: &Cluster, residual: &[f64]) -> Vec<f64> {
        let r = self.data.z.cols;
        (0..r).map(|a| c.rows.iter().map(|&i| self.data.z.at(i, a) * residual[i]).sum()).collect()
    }

    /// Negative log likelihood of cluster `i`, its weight, and its effects `Omega Zᵀ r / s2`.
    fn cluster_value(&self, i: usize, residual: &[f64]) -> (f64, f64, Vec<f64>) {
        let c = &self.clusters[i];
        let (omega, logdet) = &self.posteriors[i];
        let size = c.rows.len() as f64;
        let projected = self.projected(c, residual);
        let effects: Vec<f64> = (0..omega.rows)
            .map(|a| omega.row(a).iter().zip(&projected).map(|(o, p)| o * p).sum::<f64>() / self.s2)
            .collect();
        let square: f64 = c.rows.iter().map(|&i| residual[i] * residual[i]).sum();
        let explained: f64 = effects.iter().zip(&projected).map(|(e, p)| e * p).sum();
        let delta = ((square - explained) / self.s2).max(0.0);
        let nu = nu_of(self.tail, c.rows.len());
        let pi = std::f64::consts::PI;
        if nu.is_infinite() {
            return (0.5 * (logdet + delta + size * (2.0 * pi).ln()), 1.0, effects);
        }
        let constant = libm::lgamma(0.5 * nu) - libm::lgamma(0.5 * (nu + size)) + 0.5 * size * (nu * pi).ln();
        (0.5 * (logdet + (nu + size) * (delta / nu).ln_1p()) + constant, (nu + size) / (nu + delta), effects)
    }

    /// The smooth objective at `beta`, and its gradient.
    fn value(&self, beta: &[f64], gradient: Option<&mut [f64]>) -> f64 {
        let n = self.data.y.len() as f64;
        let residual = self.residual(beta);
        // w_i V_i^-1 r_i, row by row.
        let mut pull = vec![0.0; residual.len()];
        let mut total = 0.0;
        for (k, c) in self.clusters.iter().enumerate() {
            let (value, weight, effects) = self.cluster_value(k, &residual);
            total += value;
            for &i in &c.rows {
                let fitted: f64 = self.data.z.row(i).iter().zip(&effects).map(|(z, e)| z * e).sum();
                pull[i] = weight * (residual[i] - fitted) / self.s2;
            }
        }
        if let Some(gradient) = gradient {
            gradient.fill(0.0);
            for (i, pull) in pull.iter().enumerate() {
                gradient.iter_mut().zip(self.data.x.row(i)).for_each(|(g, x)| *g -= pull * x / n);
            }
        }
        total / n
    }

    /// A bound of the curvature in beta: `max weight lambda_max(Xᵀ X) / (N s2)`, by the power method.
    fn curvature(&self) -> f64 {
        let (n, p) = (self.data.y.len(), self.data.x.cols);
        let mut v = vec![1.0; p];
        let mut top = 0.0;
        for _ in 0..30 {
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            v.iter_mut().for_each(|v| *v /= norm.max(f64::MIN_POSITIVE));
            let mut next = vec![0.0; p];
            for i in 0..n {
                let product: f64 = self.data.x.row(i).iter().zip(&v).map(|(x, v)| x * v).sum();
                next.iter_mut().zip(self.data.x.row(i)).for_each(|(a, x)| *a += product * x);
            }
            top = next.iter().zip(&v).map(|(a, b)| a * b).sum::<f64>();
            v = next;
        }
        let weight = |c: &Cluster| {
            let nu = nu_of(self.tail, c.rows.len());
            if nu.is_infinite() { 1.0 } else { (nu + c.rows.len() as f64) / nu }
        };
        let most = self.clusters.iter().map(weight).fold(1.0, f64::max);
        (1.1 * most * top / (n as f64 * self.s2)).max(f64::MIN_POSITIVE)
    }

    /// One EM step for (D, s2): the likelihood does not fall.
    fn em(&mut self) {
        let r = self.data.z.cols;
        let residual = self.residual(&self.beta);
        let mut d = Mat::zeros(r, r);
        let mut s2 = 0.0;
        for (k, c) in self.clusters.iter().enumerate() {
            let (_, weight, effects) = self.cluster_value(k, &residual);
            let omega = &self.posteriors[k].0;
            for a in 0..r {
                for b in 0..r {
                    d.data[a * r + b] += weight * effects[a] * effects[b] + omega.at(a, b);
                    s2 += omega.at(a, b) * c.gram.at(b, a);
                }
            }
            for &i in &c.rows {
                let fitted: f64 = self.data.z.row(i).iter().zip(&effects).map(|(z, e)| z * e).sum();
                s2 += weight * (residual[i] - fitted) * (residual[i] - fitted);
            }
        }
        let m = self.clusters.len() as f64;
        d.data.iter_mut().for_each(|v| *v /= m);
        self.d = d;
        // A perfect fit would drive the variance to 0 and the likelihood to infinity.
        let floor = 1e-12 * self.data.y.iter().map(|y| y * y).sum::<f64>() / residual.len() as f64;
        self.s2 = (s2 / residual.len() as f64).max(floor).max(f64::MIN_POSITIVE);
        self.refresh();
    }
}
