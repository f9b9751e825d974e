//! Penalties of single coefficients.

use super::{Penalty, soft_threshold};

/// `alpha` times the weight of coefficient `j`; an infinite weight excludes at any `alpha`.
#[inline]
pub(super) fn strength(alpha: f64, weights: &Option<Vec<f64>>, j: usize) -> f64 {
    match weights {
        None => alpha,
        Some(weights) if weights[j].is_infinite() => f64::INFINITY,
        Some(weights) => alpha * weights[j],
    }
}

/// `alpha w_j (l1_ratio |w| + (1 - l1_ratio) w² / 2)`; scikit-learn's elastic net with a weight per
/// coefficient. With `l1_ratio = 1` it is the weighted L1 norm.
#[derive(Clone, Debug, PartialEq)]
pub struct ElasticNet {
    /// Strength.
    pub alpha: f64,
    /// Share of the L1 norm, in `[0, 1]`.
    pub l1_ratio: f64,
    /// A factor per coefficient, `None` for ones.
    pub weights: Option<Vec<f64>>,
    /// Whether coefficients must not be negative.
    pub positive: bool,
}

impl ElasticNet {
    /// `alpha |w|` for every coefficient.
    pub fn l1(alpha: f64) -> Self {
        Self { alpha, l1_ratio: 1.0, weights: None, positive: false }
    }

    /// L1 strength and curvature of coefficient `j`.
    #[inline]
    fn parts(&self, j: usize) -> (f64, f64) {
        let a = strength(self.alpha, &self.weights, j);
        if a.is_infinite() {
            return (f64::INFINITY, 0.0);
        }
        (a * self.l1_ratio, a * (1.0 - self.l1_ratio))
    }
}

impl Penalty for ElasticNet {
    fn value(&self, j: usize, w: f64) -> f64 {
        if w == 0.0 {
            return 0.0;
        }
        if self.positive && w < 0.0 {
            return f64::INFINITY;
        }
        let (l1, l2) = self.parts(j);
        l1 * w.abs() + 0.5 * l2 * w * w
    }

    #[inline]
    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        let (l1, l2) = self.parts(j);
        if l1.is_infinite() || (self.positive && z <= 0.0) {
            return 0.0;
        }
        soft_threshold(z, step * l1) / (1.0 + step * l2)
    }

    #[inline]
    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        let (l1, l2) = self.parts(j);
        if w == 0.0 {
            let beyond = if self.positive { -gradient - l1 } else { gradient.abs() - l1 };
            return beyond.max(0.0);
        }
        if l1.is_infinite() || (self.positive && w < 0.0) {
            return f64::INFINITY;
        }
        (gradient + l1 * w.signum() + l2 * w).abs()
    }

    #[inline]
    fn threshold(&self, j: usize) -> f64 {
        self.parts(j).0
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        let (l1, l2) = self.parts(j);
        Some((l1 * w.signum() + l2 * w, l2))
    }

    #[inline]
    fn convex_parts(&self, j: usize) -> Option<(f64, f64)> {
        Some(self.parts(j))
    }

    fn is_positive(&self) -> bool {
        self.positive
    }

    fn is_convex(&self) -> bool {
        true
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        Some(Box::new(Self { alpha: self.alpha * factor, ..self.clone() }))
    }
}

/// The better of some candidates for `(w - z)² / (2 step) + pen(w)`.
pub(super) fn best(z: f64, step: f64, candidates: &[f64], value: impl Fn(f64) -> f64) -> f64 {
    let cost = |w: f64| (w - z) * (w - z) / (2.0 * step) + value(w);
    let mut best = (cost(0.0), 0.0);
    for &w in candidates {
        if cost(w) < best.0 {
            best = (cost(w), w);
        }
    }
    best.1
}

/// The minimax concave penalty (Zhang, "Nearly unbiased variable selection under minimax concave
/// penalty", Annals of Statistics 2010).
#[derive(Clone, Debug, PartialEq)]
pub struct Mcp {
    /// Strength.
    pub alpha: f64,
    /// How far the penalty reaches, in units of `alpha`; the usual value is 3. Where `gamma` times the
    /// curvature of the loss is not above 1, a coordinate's problem is not convex; the prox is its
    /// global minimiser all the same.
    pub gamma: f64,
    /// A factor of `alpha` per coefficient, `None` for ones.
    pub weights: Option<Vec<f64>>,
}

impl Mcp {
    #[inline]
    fn strength(&self, j: usize) -> f64 {
        strength(self.alpha, &self.weights, j)
    }
}

impl Penalty for Mcp {
    fn value(&self, j: usize, w: f64) -> f64 {
        let (a, size) = (self.strength(j), w.abs());
        if size == 0.0 {
            0.0
        } else if a.is_infinite() {
            f64::INFINITY
        } else if size < self.gamma * a {
            a * size - size * size / (2.0 * self.gamma)
        } else {
            0.5 * self.gamma * a * a
        }
    }

    #[inline]
    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        let a = self.strength(j);
        if a.is_infinite() {
            return 0.0;
        }
        if self.gamma > step {
            if z.abs() >= self.gamma * a {
                z
            } else {
                soft_threshold(z, step * a) / (1.0 - step / self.gamma)
            }
        } else {
            // Concave below gamma a: the minimiser is 0, the kink, or z itself beyond it.
            let kink = self.gamma * a;
            let inside = if z.abs() >= kink { z } else { kink.copysign(z) };
            best(z, step, &[inside], |w| self.value(j, w))
        }
    }

    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        if w == 0.0 {
            return (gradient.abs() - self.strength(j)).max(0.0);
        }
        if self.strength(j).is_infinite() {
            return f64::INFINITY;
        }
        (gradient + self.derivatives(j, w).map_or(0.0, |d| d.0)).abs()
    }

    #[inline]
    fn threshold(&self, j: usize) -> f64 {
        self.strength(j)
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        let a = self.strength(j);
        if w.abs() < self.gamma * a {
            Some((a * w.signum() - w / self.gamma, -1.0 / self.gamma))
        } else {
            Some((0.0, 0.0))
        }
    }

    fn is_convex(&self) -> bool {
        false
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        Some(Box::new(Self { alpha: self.alpha * factor, ..self.clone() }))
    }
}

/// The smoothly clipped absolute deviation (Fan and Li, "Variable selection via nonconcave penalized
/// likelihood and its oracle properties", JASA 2001).
#[derive(Clone, Debug, PartialEq)]
pub struct Scad {
    /// Strength.
    pub alpha: f64,
    /// The paper's `a`, above 2; its value is 3.7.
    pub shape: f64,
    /// A factor of `alpha` per coefficient, `None` for ones.
    pub weights: Option<Vec<f64>>,
}

impl Scad {
    #[inline]
    fn strength(&self, j: usize) -> f64 {
        strength(self.alpha, &self.weights, j)
    }
}

impl Penalty for Scad {
    fn value(&self, j: usize, w: f64) -> f64 {
        let (a, size, shape) = (self.strength(j), w.abs(), self.shape);
        if size == 0.0 {
            0.0
        } else if a.is_infinite() {
            f64::INFINITY
        } else if size <= a {
            a * size
        } else if size <= shape * a {
            (2.0 * shape * a * size - size * size - a * a) / (2.0 * (shape - 1.0))
        } else {
            0.5 * a * a * (shape + 1.0)
        }
    }

    fn prox(&self, j: usize, z: f64, step: f64) -> f64 {
        let (a, size, shape) = (self.strength(j), z.abs(), self.shape);
        if a.is_infinite() {
            return 0.0;
        }
        if shape - 1.0 > step {
            return if size <= a * (1.0 + step) {
                soft_threshold(z, step * a)
            } else if size <= shape * a {
                soft_threshold(z, step * a * shape / (shape - 1.0)) / (1.0 - step / (shape - 1.0))
            } else {
                z
            };
        }
        // Concave in the middle: only the outer pieces and the kinks can be best.
        let low = soft_threshold(z, step * a).clamp(-a, a);
        let high = if size >= shape * a { z } else { (shape * a).copysign(z) };
        best(z, step, &[low, high], |w| self.value(j, w))
    }

    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64 {
        if w == 0.0 {
            return (gradient.abs() - self.strength(j)).max(0.0);
        }
        if self.strength(j).is_infinite() {
            return f64::INFINITY;
        }
        (gradient + self.derivatives(j, w).map_or(0.0, |d| d.0)).abs()
    }

    #[inline]
    fn threshold(&self, j: usize) -> f64 {
        self.strength(j)
    }

    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)> {
        let (a, size, shape) = (self.strength(j), w.abs(), self.shape);
        Some(if size <= a {
            (a * w.signum(), 0.0)
        } else if size <= shape * a {
            ((shape * a - size) / (shape - 1.0) * w.signum(), -1.0 / (shape - 1.0))
        } else {
            (0.0, 0.0)
        })
    }

    fn is_convex(&self) -> bool {
        false
    }

    fn strengthened(&self, factor: f64) -> Option<Box<dyn Penalty>> {
        Some(Box::new(Self { alpha: self.alpha * factor, ..self.clone() }))
    }
}

/// `low <= w <= high`, with `low <= 0 <= high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxConstraint {
    /// Least value, at most 0.
    pub low: f64,
    /// Greatest value, at least 0.
    pub high: f64,
}

impl Penalty for BoxConstraint {
    fn value(&self, _: usize, w: f64) -> f64 {
        if (self.low..=self.high).contains(&w) { 0.0 } else { f64::INFINITY }
    }

    fn prox(&self, _: usize, z: f64, _: f64) -> f64 {
        z.max(self.low).min(self.high)
    }

    fn distance(&self, _: usize, w: f64, gradient: f64) -> f64 {
        if w < self.low || w > self.high {
            f64::INFINITY
        } else if self.low == self.high {
            0.0
        } else if w == self.low {
            // The normal cone points down: only a pull upwards is a violation.
            (-gradient).max(0.0)
        } else if w == self.high {
            gradient.max(0.0)
        } else {
            gradient.abs()
        }
    }

    fn threshold(&self, _: usize) -> f64 {
        if self.low == self.high { f64::INFINITY } else { 0.0 }
    }

    fn derivatives(&self, _: usize, w: f64) -> Option<(f64, f64)> {
        (w > self.low && w < self.high).then_some((0.0, 0.0))
    }

    fn is_convex(&self) -> bool {
        true
    }
}
