//! Concave penalties that are steepest at zero.

use super::separable::{best, strength};
use super::{Penalty, soft_threshold};

/// The exponent of a [`Bridge`] penalty: those with a prox in closed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exponent {
    /// `|w|^(1/2)`.
    Half,
    /// `|w|^(2/3)`.
    TwoThirds,
}

impl Exponent {
    /// `1/2` or `2/3`.
    pub fn value(self) -> f64 {
        match self {
            Self::Half => 0.5,
            Self::TwoThirds => 2.0 / 3.0,
        }
    }

    /// The greatest `|z|` whose prox of `t |w|^q` (step 1) is zero, and the inverse: the least `t` for a
    /// given `|z|`.
    fn entry(self, t: f64) -> f64 {
        match self {
            Self::Half => 1.5 * (t * t).cbrt(),
            Self::TwoThirds => 2.0 / 3.0 * (24.0 * t * t * t).sqrt().sqrt(),
        }
    }

    fn entry_inverse(self, z: f64) -> f64 {
        match self {
            Self::Half => (z / 1.5).powi(3).sqrt(),
            Self::TwoThirds => ((1.5 * z).powi(4) / 24.0).cbrt(),
        }
    }

    /// The minimiser of `(w - z)² / 2 + t w^q` beyond the entry, for `z > 0`, `t > 0`.
    fn beyond(self, z: f64, t: f64) -> f64 {
        match self {
            Self::Half => {
                let angle = (0.25 * t * (z / 3.0).powf(-1.5)).min(1.0).acos();
                2.0 / 3.0 * z * (1.0 + (2.0 / 3.0 * (std::f64::consts::PI - angle)).cos())
            }
            Self::TwoThirds => {
                let t = 2.0 * t;
                let angle = (27.0 / 16.0 * z * z * t.powf(-1.5)).max(1.0).acosh();
                let a = 2.0 / 3f64.sqrt() * t.sqrt().sqrt() * (angle / 3.0).cosh().sqrt();
                ((a + (2.0 * z / a - a * a).max(0.0).sqrt()) / 2.0).powi(3)
            }
        }
    }
}

/// `alpha ω_j |w|^q` with `q` 1/2 or 2/3.
///
/// The closed forms are those of Xu, Chang, Xu and Zhang, "L1/2 regularization: a thresholding
/// representation theory and a fast solver" (IEEE TNNLS 2012) and Cao, Sun and Xu, "Fast image
/// deconvolution using closed-form thresholding formulas of Lq (q = 1/2, 2/3) regularization" (JVCIR
/// 2013). The slope at 0 is infinite: every point with `w_j = 0` is stationary in `w_j`, which says
/// nothing, so that solvers look at [`Penalty::violation`], how far the prox moves. For
/// [`Quadratic`](crate::cd::Quadratic); other solvers, which ask for stationarity alone, stay at 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// Strength.
    pub alpha: f64,
    /// The power of `|w|`.
    pub exponent: Exponent,
    /// A factor of `alpha` per coefficient, `None` for ones.
    pub weights: Option<Vec<f64>>,
}

impl Bridge {
    /// The least `alpha` (for weight 1) at which a coefficient of curvature `curvature` stays zero against
    /// a gradient.
    pub fn critical_alpha(&self, gradient: f64, curvature: f64) -> f64 {
        if curvature > 0.0 {
            curvature * self.exponent.entry_inverse(gradient.abs() / curvature)
        } else {
            0.0
        }
    }
}

impl Penalty for Bridge {
    fn value(&self, j: usize, w: f64) -> f64 {
        if w == 0.0 {
            0.0
        } else {
            strength(self.alpha, &self.weights, j) * w.abs().powf(self.exponent.value())
        }
    }

    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        let t = step * strength(self.alpha, &self.weights, j);
        if t == 0.0 {
            z
        } else if z.abs() <= self.exponent.entry(t) {
            0.0
        } else {
            self.exponent.beyond(z.abs(), t).copysign(z)
        }
    }

    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        let a = strength(self.alpha, &self.weights, j);
        match self.derivatives(j, w) {
            _ if w == 0.0 => {
                if a > 0.0 {
                    0.0
                } else {
                    gradient.abs()
                }
            }
            Some((first, _)) if a.is_finite() => (gradient + first).abs(),
            _ => f64::INFINITY,
        }
    }

    fn threshold(&self, j: usize) -> f64 {
        if strength(self.alpha, &self.weights, j) > 0.0 { f64::INFINITY } else { 0.0 }
    }

    fn entry(&self, j: usize, curvature: f64) -> f64 {
        let a = strength(self.alpha, &self.weights, j);
        if a.is_infinite() || curvature <= 0.0 {
            return if a > 0.0 { f64::INFINITY } else { 0.0 };
        }
        curvature * self.exponent.entry(a / curvature)
    }

    fn violation(&self, j: usize, w: f64, gradient: f64, curvature: f64) -> f64 {
        curvature * (w - self.prox(j, w - gradient / curvature, 1.0 / curvature)).abs()
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        let (a, q, size) = (strength(self.alpha, &self.weights, j), self.exponent.value(), w.abs());
        if a == 0.0 {
            return Some((0.0, 0.0));
        }
        let first = a * q * size.powf(q - 1.0);
        (size > 0.0).then(|| (first.copysign(w), first * (q - 1.0) / size))
    }

    fn is_convex(&self) -> bool {
        false
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        // Factors are those of entries, which grow more slowly than the strength.
        let factor = factor.powf(2.0 - self.exponent.value());
        Some(Box::new(Self { alpha: self.alpha * factor, ..self.clone() }))
    }
}

/// `alpha ω_j log(1 + |w| / epsilon)`: between the L1 norm (large `epsilon`) and the number of non-zero
/// coefficients (Candès, Wakin and Boyd, "Enhancing sparsity by reweighted l1 minimization", JFAA 2008).
///
/// `alpha / epsilon` is the slope at zero.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSum {
    /// Strength.
    pub alpha: f64,
    /// The size from which on a coefficient is hardly shrunk, above 0.
    pub epsilon: f64,
    /// A factor of `alpha` per coefficient, `None` for ones.
    pub weights: Option<Vec<f64>>,
}

impl Penalty for LogSum {
    fn value(&self, j: usize, w: f64) -> f64 {
        let a = strength(self.alpha, &self.weights, j);
        if w == 0.0 || a == 0.0 { 0.0 } else { a * (w.abs() / self.epsilon).ln_1p() }
    }

    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        let t = step * strength(self.alpha, &self.weights, j);
        if t.is_infinite() {
            return 0.0;
        }
        // Roots of (w - z)(w + epsilon) + t = 0; the greater one is the local minimum.
        let (size, e) = (z.abs(), self.epsilon);
        let square = (size + e) * (size + e) - 4.0 * t;
        if square < 0.0 {
            return 0.0;
        }
        let root = 0.5 * (size - e + square.sqrt());
        if root <= 0.0 { 0.0 } else { best(z, step, &[root.copysign(z)], |w| self.value(j, w)) }
    }

    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        let slope = self.threshold(j);
        if w == 0.0 {
            return soft_threshold(gradient, slope).abs();
        }
        if slope.is_infinite() {
            return f64::INFINITY;
        }
        (gradient + self.derivatives(j, w).map_or(0.0, |d| d.0)).abs()
    }

    fn threshold(&self, j: usize) -> f64 {
        strength(self.alpha, &self.weights, j) / self.epsilon
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        let a = strength(self.alpha, &self.weights, j);
        let rest = self.epsilon + w.abs();
        Some(((a / rest).copysign(w), -a / (rest * rest)))
    }

    fn is_convex(&self) -> bool {
        false
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        Some(Box::new(Self { alpha: self.alpha * factor, ..self.clone() }))
    }
}

/// A symmetric penalty that rises with the size of its coefficient, with `w >= 0` on top.
pub struct Positive(pub Box<dyn Penalty>);

impl Penalty for Positive {
    fn value(&self, j: usize, w: f64) -> f64 {
        if w < 0.0 { f64::INFINITY } else { self.0.value(j, w) }
    }

    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        // The minimiser without the constraint has the sign of z.
        if z <= 0.0 { 0.0 } else { self.0.prox(j, z, step) }
    }

    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        if w < 0.0 {
            f64::INFINITY
        } else if w == 0.0 && gradient >= 0.0 {
            0.0
        } else {
            self.0.distance(j, w, gradient)
        }
    }

    fn threshold(&self, j: usize) -> f64 {
        self.0.threshold(j)
    }

    fn entry(&self, j: usize, curvature: f64) -> f64 {
        self.0.entry(j, curvature)
    }

    fn violation(&self, j: usize, w: f64, gradient: f64, curvature: f64) -> f64 {
        if w == 0.0 && gradient >= 0.0 { 0.0 } else { self.0.violation(j, w, gradient, curvature) }
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        self.0.derivatives(j, w)
    }

    fn convex_parts(&self, j: usize) -> Option<(f64, f64)> {
        self.0.convex_parts(j)
    }

    fn is_positive(&self) -> bool {
        true
    }

    fn is_convex(&self) -> bool {
        self.0.is_convex()
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        Some(Box::new(Self(self.0.strengthened(factor)?)))
    }
}
