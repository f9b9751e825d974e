//! Penalties of groups of coefficients.

use super::soft_threshold;

/// `alpha (tau ||w||_1 + (1 - tau) sum_g ω_g ||w_g||_2)` over groups of coefficients.
///
/// With `tau = 0` the group lasso (Yuan and Lin, JRSS B 2006), with `tau` between 0 and 1 the sparse
/// group lasso (Simon et al., JCGS 2013). A group of weight 0 with `tau = 0` is unpenalised.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPenalty {
    /// Strength.
    pub alpha: f64,
    /// Share of the L1 norm, in `[0, 1]`.
    pub tau: f64,
    /// `ω_g`, a weight per group.
    pub weights: Vec<f64>,
}

impl GroupPenalty {
    /// Thresholds of single coefficients and of the norm of group `g`.
    pub(crate) fn parts(&self, g: usize) -> (f64, f64) {
        let group = self.weights[g];
        if group.is_infinite() {
            return (0.0, f64::INFINITY);
        }
        (self.alpha * self.tau, self.alpha * (1.0 - self.tau) * group)
    }

    /// The penalty of group `g`.
    pub fn value(&self, g: usize, w: &[f64]) -> f64 {
        let (l1, l2) = self.parts(g);
        let norm = norm(w);
        if norm == 0.0 { 0.0 } else { l1 * w.iter().map(|v| v.abs()).sum::<f64>() + l2 * norm }
    }

    /// Replaces `z` by the minimiser of `||w - z||² / (2 step) + pen_g(w)`: thresholds single numbers,
    /// then the norm.
    pub fn prox(&self, g: usize, z: &mut [f64], step: f64) {
        let (l1, l2) = self.parts(g);
        z.iter_mut().for_each(|v| *v = soft_threshold(*v, step * l1));
        block_soft_threshold(z, step * l2);
    }

    /// Distance of `-gradient` to the subdifferential at `w`.
    pub fn distance(&self, g: usize, w: &[f64], gradient: &[f64]) -> f64 {
        let (l1, l2) = self.parts(g);
        let size = norm(w);
        if size == 0.0 {
            let inner = gradient.iter().map(|v| soft_threshold(*v, l1).powi(2)).sum::<f64>().sqrt();
            return (inner - l2).max(0.0);
        }
        if l2.is_infinite() {
            return f64::INFINITY;
        }
        let part = |(&w, &d): (&f64, &f64)| {
            if w == 0.0 { soft_threshold(d, l1) } else { d + l1 * w.signum() + l2 * w / size }
        };
        w.iter().zip(gradient).map(part).map(|v| v * v).sum::<f64>().sqrt()
    }

    /// The strength relative to which a gradient of group `g` matters: the least `alpha` at which the
    /// group is zero for the gradient given, everything else fixed. Infinite weights give 0.
    pub fn critical_alpha(&self, g: usize, gradient: &[f64]) -> f64 {
        let group = self.weights[g];
        if group.is_infinite() {
            return 0.0;
        }
        let top = gradient.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        if self.tau == 0.0 {
            return if group > 0.0 { norm(gradient) / group } else { 0.0 };
        }
        if self.tau == 1.0 || group == 0.0 {
            return top / self.tau;
        }
        // ||S(gradient, a tau)|| - a (1 - tau) ω falls with a: bisection.
        let excess = |a: f64| {
            let inner: f64 = gradient.iter().map(|v| soft_threshold(*v, a * self.tau).powi(2)).sum();
            inner.sqrt() - a * (1.0 - self.tau) * group
        };
        let (mut low, mut high) = (0.0, top / self.tau);
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if excess(middle) > 0.0 { low = middle } else { high = middle }
        }
        high
    }
}

pub(crate) fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// `z max(1 - t / ||z||, 0)` in place.
pub fn block_soft_threshold(z: &mut [f64], t: f64) {
    let size = norm(z);
    let factor = if size > t { 1.0 - t / size } else { 0.0 };
    z.iter_mut().for_each(|v| *v *= factor);
}
