//! Randomisers: the analytic Gaussian mechanism, Laplace noise, and the l2-ball mechanism.

use std::f64::consts::PI;

use rand::Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

fn phi(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// The exact `delta` of Gaussian noise of scale `sigma` on a query of l2 sensitivity `sensitivity` at `epsilon` (Balle and
/// Wang 2018, theorem 8).
pub fn gaussian_delta(sigma: f64, sensitivity: f64, epsilon: f64) -> f64 {
    let (a, b) = (sensitivity / (2.0 * sigma), epsilon * sigma / sensitivity);
    // e^eps times a tail, which underflows together with it.
    let second = phi(-a - b);
    phi(a - b) - if second > 0.0 { (epsilon + second.ln()).exp() } else { 0.0 }
}

/// The smallest Gaussian scale that is `(epsilon, delta)`-private for l2 sensitivity 1, by bisection on the exact
/// formula; 20 to 25 % below the classical `sqrt(2 ln(1.25 / delta)) / epsilon`. Infinite for `delta = 0`.
///
/// ```
/// use sparseland_estimate::ldp_regression::gaussian_scale;
/// assert!((gaussian_scale(1.0, 5e-6) - 3.88).abs() < 0.01);
/// ```
pub fn gaussian_scale(epsilon: f64, delta: f64) -> f64 {
    if delta <= 0.0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (1e-6, 1.0);
    while gaussian_delta(high, 1.0, epsilon) > delta {
        high *= 2.0;
        if high > 1e12 {
            return f64::INFINITY;
        }
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if gaussian_delta(middle, 1.0, epsilon) > delta {
            low = middle;
        } else {
            high = middle;
        }
    }
    // The upper end satisfies the promise.
    high
}

/// Adds Gaussian noise.
pub(super) fn add_gaussian(values: &mut [f64], scale: f64, rng: &mut impl Rng) {
    for v in values {
        let z: f64 = StandardNormal.sample(rng);
        *v += scale * z;
    }
}

/// Adds Laplace noise of the given scale (standard deviation `sqrt(2) scale`).
pub(super) fn add_laplace(values: &mut [f64], scale: f64, rng: &mut impl Rng) {
    for v in values {
        let z: f64 = Exp1.sample(rng);
        *v += if rng.random::<bool>() { scale * z } else { -scale * z };
    }
}

/// The norm of every output of the ball mechanism, `rho (e^eps + 1) / (e^eps - 1) sqrt(pi) Gamma((d + 1) / 2) / Gamma(d /
/// 2)`: about `rho sqrt(2 pi d) / eps` for small `eps`.
pub fn ball_norm(d: usize, rho: f64, epsilon: f64) -> f64 {
    let d = d as f64;
    let ratio = (libm::lgamma(0.5 * (d + 1.0)) - libm::lgamma(0.5 * d)).exp();
    rho / (0.5 * epsilon).tanh() * PI.sqrt() * ratio
}

/// Replaces `g` (`||g|| <= rho`) by a random vector of norm [`ball_norm`] and mean `g`, `epsilon`-private (Duchi, Jordan
/// and Wainwright 2018). One pass over `d` normal numbers.
///
/// # Panics
/// Never; a longer `g` is treated as one of norm `rho`.
pub fn ball(g: &mut [f64], rho: f64, epsilon: f64, rng: &mut impl Rng) {
    ball_with_norm(g, rho, epsilon, ball_norm(g.len(), rho, epsilon), rng);
}

/// As [`ball`], with the norm computed once for many messages.
pub(super) fn ball_with_norm(g: &mut [f64], rho: f64, epsilon: f64, norm: f64, rng: &mut impl Rng) {
    let size = g.iter().map(|v| v * v).sum::<f64>().sqrt();
    // The side of the hemisphere: towards u with probability e^eps / (e^eps + 1), and u is g or -g.
    let forward = rng.random::<f64>() < 0.5 + 0.5 * (size / rho).min(1.0);
    let near = rng.random::<f64>() < 1.0 / (1.0 + (-epsilon).exp());
    let mut square = 0.0;
    let mut along = 0.0;
    for v in g.iter_mut() {
        let z: f64 = StandardNormal.sample(rng);
        along += *v * z;
        square += z * z;
        *v = z;
    }
    let mut scale = norm / square.sqrt();
    if size > 0.0 {
        let wanted = if forward == near { 1.0 } else { -1.0 };
        if along * wanted < 0.0 {
            scale = -scale;
        }
    }
    g.iter_mut().for_each(|v| *v *= scale);
}
