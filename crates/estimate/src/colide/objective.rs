//! The score with its closed-form scale, the acyclicity function, and the gradient of both.

use sparseland_linalg::{Mat, UnpivotedInverse, matmul_accumulate};

use super::Score;

/// Value of the objective and its parts at one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    /// The score without the l1 term, at its best scale.
    pub score: f64,
    /// `sum lambda_ij |w_ij|`.
    pub penalty: f64,
    /// The acyclicity function `h(W, s)`.
    pub h: f64,
}

impl Value {
    pub(super) fn objective(&self, mu: f64) -> f64 {
        mu * (self.score + self.penalty) + self.h
    }
}

/// `mu (S(W, sigma(W)) + sum lambda_ij |w_ij|) + h(W, s)` for one covariance, with its workspace.
pub(super) struct Objective<'a> {
    covariance: &'a Mat<f64>,
    score: Score,
    /// Floors of the scales, one per node; the first one serves all nodes where the variance is shared.
    floor: &'a [f64],
    /// Weight of `|w_ij|`, row-major.
    pub lambda: &'a [f64],
    /// Whether `w_ij` may move, row-major.
    pub free: &'a [bool],
    inverter: UnpivotedInverse,
    domain: Vec<f64>,
    /// `(s I - W o W)^-1`, kept from the last [`Objective::enter`].
    inverse: Vec<f64>,
    /// `C (I - W)`, kept from the last [`Objective::rescale`].
    product: Mat<f64>,
    /// Diagonal of `(I - W)^T C (I - W)`, kept with `product`.
    pub residual: Vec<f64>,
    /// Scales, kept with `product`.
    pub sigma: Vec<f64>,
}

impl<'a> Objective<'a> {
    pub(super) fn new(
        covariance: &'a Mat<f64>,
        score: Score,
        floor: &'a [f64],
        lambda: &'a [f64],
        free: &'a [bool],
    ) -> Self {
        let d = covariance.rows;
        Objective {
            covariance,
            score,
            floor,
            lambda,
            free,
            inverter: UnpivotedInverse::new(d),
            domain: vec![0.0; d * d],
            inverse: vec![0.0; d * d],
            product: Mat::zeros(d, d),
            residual: vec![0.0; d],
            sigma: vec![1.0; d],
        }
    }

    pub(super) fn order(&self) -> usize {
        self.covariance.rows
    }

    /// Inverts `s I - W o W`; `h(W, s)`, or `None` outside the domain, where `W` is not even a point of the problem.
    pub(super) fn enter(&mut self, w: &Mat<f64>, s: f64) -> Option<f64> {
        let d = self.order();
        for (m, v) in self.domain.iter_mut().zip(&w.data) {
            *m = -v * v;
        }
        for i in 0..d {
            self.domain[i * d + i] += s;
        }
        let log_det = self.inverter.invert(&self.domain, &mut self.inverse).ok()?;
        Some(d as f64 * s.ln() - log_det)
    }

    /// Computes the residual variances of `W` and the scales that minimise the score.
    pub(super) fn rescale(&mut self, w: &Mat<f64>) {
        let d = self.order();
        self.product.data.copy_from_slice(&self.covariance.data);
        // Same order everywhere: the sizes fit.
        let _ = matmul_accumulate(&mut self.product, -1.0, self.covariance, w);
        for (r, &p) in self.residual.iter_mut().zip((0..d).map(|j| &self.product.data[j * d + j])) {
            *r = p;
        }
        for (w_row, p_row) in w.data.chunks_exact(d).zip(self.product.data.chunks_exact(d)) {
            for ((r, w), p) in self.residual.iter_mut().zip(w_row).zip(p_row) {
                *r -= w * p;
            }
        }
        for r in &mut self.residual {
            *r = r.max(0.0);
        }
        match self.score {
            Score::EqualVariance => {
                let total: f64 = self.residual.iter().sum();
                self.sigma.fill((total / d as f64).sqrt().max(self.floor[0]));
            }
            Score::UnequalVariance => {
                for ((s, r), floor) in self.sigma.iter_mut().zip(&self.residual).zip(self.floor) {
                    *s = r.sqrt().max(*floor);
                }
            }
            Score::LeastSquares => self.sigma.fill(1.0),
        }
    }

    /// The score at the scales of the last [`Objective::rescale`], and the l1 term.
    pub(super) fn score(&self, w: &Mat<f64>) -> (f64, f64) {
        let fit: f64 = self.residual.iter().zip(&self.sigma).map(|(r, s)| r / s).sum();
        let scale: f64 = match self.score {
            Score::LeastSquares => 0.0,
            _ => self.sigma.iter().sum(),
        };
        let penalty = w.data.iter().zip(self.lambda).map(|(w, l)| w.abs() * l).sum();
        (0.5 * (fit + scale), penalty)
    }

    /// Everything at `w`, leaving inverse, product and scales in place for [`Objective::gradient`].
    pub(super) fn value(&mut self, w: &Mat<f64>, s: f64) -> Option<Value> {
        let h = self.enter(w, s)?;
        self.rescale(w);
        let (score, penalty) = self.score(w);
        Some(Value { score, penalty, h })
    }

    /// Gradient of the smooth part `mu S + h` at the point of the last [`Objective::enter`] and
    /// [`Objective::rescale`], zero where `w` may not move. The scales are at their minimum, so they contribute nothing.
    pub(super) fn gradient(&self, w: &Mat<f64>, mu: f64, gradient: &mut [f64]) {
        let d = self.order();
        for i in 0..d {
            let row = i * d..(i + 1) * d;
            let (w, p, free) =
                (&w.data[row.clone()], &self.product.data[row.clone()], &self.free[row.clone()]);
            for (j, g) in gradient[row].iter_mut().enumerate() {
                let value = 2.0 * w[j] * self.inverse[j * d + i] - mu * p[j] / self.sigma[j];
                *g = if free[j] { value } else { 0.0 };
            }
        }
    }

    /// The diagonal of the Hessian of `mu S + h` at fixed scales, at the point of the last gradient:
    /// `mu c_ii / sigma_j + 2 m_ji + 4 w_ij^2 m_ji^2` with `M = (s I - W o W)^-1`.
    pub(super) fn curvature(&self, w: &Mat<f64>, mu: f64, curvature: &mut [f64]) {
        let d = self.order();
        for i in 0..d {
            let variance = self.covariance.data[i * d + i];
            for j in 0..d {
                let (v, m) = (w.data[i * d + j], self.inverse[j * d + i].max(0.0));
                curvature[i * d + j] = mu * variance / self.sigma[j] + 2.0 * m + 4.0 * v * v * m * m;
            }
        }
    }
}
