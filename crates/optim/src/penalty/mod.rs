//! Penalties: value, prox, and distance to the subdifferential.
//!
//! | penalty | formula for one coefficient `w` (`a` = alpha times its weight) |
//! |---|---|
//! | [`ElasticNet`] | `a (l1_ratio abs(w) + (1 - l1_ratio) w² / 2)`, optionally `w >= 0` |
//! | [`Mcp`] | `a abs(w) - w² / (2 gamma)` up to `gamma a`, then the constant `gamma a² / 2` |
//! | [`Scad`] | `a abs(w)`, then a quadratic from `a` to `shape a`, then the constant `(shape + 1) a² / 2` |
//! | [`Bridge`] | `a abs(w)^q`, `q` 1/2 or 2/3 |
//! | [`LogSum`] | `a log(1 + abs(w) / epsilon)` |
//! | [`Positive`] | any of them, and `w >= 0` |
//! | [`BoxConstraint`] | 0 within `[low, high]`, infinite outside |
//! | [`GroupPenalty`] | `a (tau sum abs(w_i) + (1 - tau) ω_g norm(w_g))` for a whole group |
//! | [`slope_prox`] | `sum_i λ_i abs(w)_(i)` over the sorted sizes (SLOPE), prox only |
//!
//! A weight of 0 leaves a coefficient unpenalised, an infinite one excludes it.

mod bridge;
mod group;
mod separable;
mod slope;
#[cfg(test)]
mod tests;

pub use bridge::{Bridge, Exponent, LogSum, Positive};
pub(crate) use group::norm;
pub use group::{GroupPenalty, block_soft_threshold};
pub use separable::{BoxConstraint, ElasticNet, Mcp, Scad};
pub use slope::{slope_prox, slope_value};

/// A penalty `sum_j pen_j(w_j)` of single coefficients.
pub trait Penalty: Sync {
    /// `pen_j(w)`, infinite where `w` is not allowed.
    fn value(&self, j: usize, w: f64) -> f64;

    /// A global minimiser of `(w - z)² / (2 step) + pen_j(w)`.
    fn prox(&self, j: usize, z: f64, step: f64) -> f64;

    /// Distance of `-gradient` to the subdifferential of `pen_j` at `w`: 0 at a stationary point.
    fn distance(&self, j: usize, w: f64, gradient: f64) -> f64;

    /// The largest `t` for which 0 is stationary whenever `|gradient| <= t`: 0 for an unpenalised
    /// coefficient, infinite for an excluded one.
    fn threshold(&self, j: usize) -> f64;

    /// The largest `t` for which a solver leaves 0 alone whenever `|gradient| <= t`, where the loss has this
    /// curvature: [`Penalty::threshold`], except for penalties of infinite slope at 0.
    fn entry(&self, j: usize, _curvature: f64) -> f64 {
        self.threshold(j)
    }

    /// Writes [`Penalty::entry`] of every coefficient.
    fn entries(&self, curvatures: &[f64], out: &mut [f64]) {
        let pairs = out.iter_mut().zip(curvatures);
        pairs.enumerate().for_each(|(j, (t, curvature))| *t = self.entry(j, *curvature));
    }

    /// How far a solver is from done with a coefficient, in units of the gradient:
    /// [`Penalty::distance`], except for penalties of infinite slope at 0, where it is how far a prox step
    /// moves.
    fn violation(&self, j: usize, w: f64, gradient: f64, _curvature: f64) -> f64 {
        self.distance(j, w, gradient)
    }

    /// First and second derivative of `pen_j` where it is smooth, at `w != 0`; `None` where it is not.
    fn derivatives(&self, j: usize, w: f64) -> Option<(f64, f64)>;

    /// `(l, m)` when `pen_j(w) = l |w| + m w² / 2`, which is what the duality gap is computed for.
    fn convex_parts(&self, _j: usize) -> Option<(f64, f64)> {
        None
    }

    /// Whether coefficients must not be negative.
    fn is_positive(&self) -> bool {
        false
    }

    /// Whether every `pen_j` is convex.
    fn is_convex(&self) -> bool;

    /// The same penalty so strong that its entries are `factor` times what they are, for cold starts that
    /// come down from a strength at which everything is zero; `None` where there is no such thing.
    fn strengthened(&self, _factor: f64) -> Option<Box<dyn Penalty>> {
        None
    }
}

/// `sign(z) max(|z| - t, 0)`.
#[inline]
pub fn soft_threshold(z: f64, t: f64) -> f64 {
    if z > t {
        z - t
    } else if z < -t {
        z + t
    } else {
        0.0
    }
}
