//! Losses of a linear predictor, beyond the square.
//!
//! | loss | for target `y` and predictor `m` |
//! |---|---|
//! | [`Logistic`] | `log(1 + exp(-s m))`, `s = 1` for `y = 1`, `-1` for `y = 0` |
//! | [`Huber`] | `(m - y)² / 2` up to `delta`, then `delta (abs(m - y) - delta / 2)` |
//! | [`Poisson`] | `exp(m) - y m` |
//! | [`Gamma`] | `y exp(-m) + m` |
//! | [`SquaredHinge`] | `max(1 - s m, 0)²`, `s = 1` for `y = 1`, `-1` for `y = 0` |
//!
//! All are means over the rows, weighted if there are weights: strengths mean the same whatever `n`.

/// A convex, differentiable loss of single observations.
pub trait Datafit: Sync + std::fmt::Debug {
    /// Loss of target `y` at predictor `m`.
    fn value(&self, y: f64, m: f64) -> f64;

    /// First and second derivative in `m`.
    fn derivatives(&self, y: f64, m: f64) -> (f64, f64);

    /// The best constant predictor for targets of (weighted) mean `mean`, where it has a closed form.
    fn constant(&self, mean: f64) -> Option<f64>;

    /// Whether `y` is a possible target.
    fn accepts(&self, y: f64) -> bool;

    /// What targets must be, for error messages.
    fn domain(&self) -> &'static str;
}

/// Mean log loss of targets 0 and 1. scikit-learn and celer use the *sum*: their `C` is
/// `1 / (n alpha)` here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logistic;

impl Datafit for Logistic {
    fn value(&self, y: f64, m: f64) -> f64 {
        // log(1 + exp(m)) - y m, without overflow.
        m.max(0.0) - y * m + (-m.abs()).exp().ln_1p()
    }

    fn derivatives(&self, y: f64, m: f64) -> (f64, f64) {
        let small = (-m.abs()).exp();
        let probability = if m >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
        (probability - y, small / ((1.0 + small) * (1.0 + small)))
    }

    fn constant(&self, mean: f64) -> Option<f64> {
        let bounded = mean.clamp(1e-12, 1.0 - 1e-12);
        Some((bounded / (1.0 - bounded)).ln())
    }

    fn accepts(&self, y: f64) -> bool {
        y == 0.0 || y == 1.0
    }

    fn domain(&self) -> &'static str {
        "0 or 1"
    }
}

/// Squares near zero, absolute values beyond `delta`: bounds the pull of outliers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Huber {
    /// Where the square ends; 1.35 standard deviations of the noise are usual.
    pub delta: f64,
}

impl Datafit for Huber {
    fn value(&self, y: f64, m: f64) -> f64 {
        let size = (m - y).abs();
        if size <= self.delta { 0.5 * size * size } else { self.delta * (size - 0.5 * self.delta) }
    }

    fn derivatives(&self, y: f64, m: f64) -> (f64, f64) {
        let r = m - y;
        if r.abs() <= self.delta { (r, 1.0) } else { (self.delta * r.signum(), 0.0) }
    }

    fn constant(&self, _: f64) -> Option<f64> {
        None
    }

    fn accepts(&self, y: f64) -> bool {
        y.is_finite()
    }

    fn domain(&self) -> &'static str {
        "a finite number"
    }
}

/// Counts with the log link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Poisson;

impl Datafit for Poisson {
    fn value(&self, y: f64, m: f64) -> f64 {
        m.exp() - y * m
    }

    fn derivatives(&self, y: f64, m: f64) -> (f64, f64) {
        (m.exp() - y, m.exp())
    }

    fn constant(&self, mean: f64) -> Option<f64> {
        Some(mean.max(1e-12).ln())
    }

    fn accepts(&self, y: f64) -> bool {
        y >= 0.0 && y.is_finite()
    }

    fn domain(&self) -> &'static str {
        "a finite number >= 0"
    }
}

/// Positive amounts with the log link: half the Gamma deviance up to a term without `m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gamma;

impl Datafit for Gamma {
    fn value(&self, y: f64, m: f64) -> f64 {
        y * (-m).exp() + m
    }

    fn derivatives(&self, y: f64, m: f64) -> (f64, f64) {
        let ratio = y * (-m).exp();
        (1.0 - ratio, ratio)
    }

    fn constant(&self, mean: f64) -> Option<f64> {
        Some(mean.ln())
    }

    fn accepts(&self, y: f64) -> bool {
        y > 0.0 && y.is_finite()
    }

    fn domain(&self) -> &'static str {
        "a finite number > 0"
    }
}

/// Squared hinge of targets 0 and 1, the loss of LIBLINEAR's L1-regularised support vector machine and
/// of scikit-learn's `LinearSVC`. Those use the *sum*: their `C` is `1 / (n alpha)` here, and they
/// penalise the intercept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SquaredHinge;

impl Datafit for SquaredHinge {
    fn value(&self, y: f64, m: f64) -> f64 {
        let short = (1.0 - (2.0 * y - 1.0) * m).max(0.0);
        short * short
    }

    fn derivatives(&self, y: f64, m: f64) -> (f64, f64) {
        let sign = 2.0 * y - 1.0;
        let short = 1.0 - sign * m;
        if short > 0.0 { (-2.0 * sign * short, 2.0) } else { (0.0, 0.0) }
    }

    fn constant(&self, mean: f64) -> Option<f64> {
        Some(2.0 * mean - 1.0)
    }

    fn accepts(&self, y: f64) -> bool {
        y == 0.0 || y == 1.0
    }

    fn domain(&self) -> &'static str {
        "0 or 1"
    }
}
