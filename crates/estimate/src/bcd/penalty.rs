//! Separable terms `g_j(x_j)`, the same for every variable.

/// A separable penalty or constraint.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// Nothing.
    None,
    /// `lambda |x|`.
    L1(f64),
    /// `x >= 0`.
    NonNegative,
    /// `lambda x` on `x >= 0`.
    NonNegativeL1(f64),
    /// `low <= x <= high`.
    Box(f64, f64),
}

impl Penalty {
    /// The value at `x`; infinite outside of the constraint (beyond rounding).
    pub fn value(self, x: f64) -> f64 {
        match self {
            Penalty::None => 0.0,
            Penalty::L1(l) => l * x.abs(),
            Penalty::NonNegative => {
                if x >= 0.0 {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            Penalty::NonNegativeL1(l) => {
                if x >= 0.0 {
                    l * x
                } else {
                    f64::INFINITY
                }
            }
            Penalty::Box(low, high) => {
                // Steps are added to x, which may miss a bound by a rounding error.
                let slack = 4.0 * f64::EPSILON * (low.abs().min(high.abs()) + x.abs());
                if x >= low - slack && x <= high + slack { 0.0 } else { f64::INFINITY }
            }
        }
    }

    /// `argmin over u of (u - v)^2 / 2 + step g(u)`.
    pub fn prox(self, v: f64, step: f64) -> f64 {
        match self {
            Penalty::None => v,
            Penalty::L1(l) => v.signum() * (v.abs() - step * l).max(0.0),
            Penalty::NonNegative => v.max(0.0),
            Penalty::NonNegativeL1(l) => (v - step * l).max(0.0),
            Penalty::Box(low, high) => v.clamp(low, high),
        }
    }

    /// The slope at `x` and the interval around it on which the penalty is linear; `None` at a kink or bound.
    pub(super) fn piece(self, x: f64) -> Option<(f64, f64, f64)> {
        let (up, down) = ((0.0, f64::INFINITY), (f64::NEG_INFINITY, 0.0));
        match self {
            Penalty::None => Some((0.0, f64::NEG_INFINITY, f64::INFINITY)),
            Penalty::L1(l) if x > 0.0 => Some((l, up.0, up.1)),
            Penalty::L1(l) if x < 0.0 => Some((-l, down.0, down.1)),
            Penalty::NonNegative if x > 0.0 => Some((0.0, up.0, up.1)),
            Penalty::NonNegativeL1(l) if x > 0.0 => Some((l, up.0, up.1)),
            Penalty::Box(low, high) if x > low && x < high => Some((0.0, low, high)),
            _ => None,
        }
    }

    /// The value of a variable on which the smooth part does not depend, starting from `x`.
    pub(super) fn idle(self, x: f64) -> f64 {
        match self {
            Penalty::L1(l) | Penalty::NonNegativeL1(l) if l > 0.0 => 0.0,
            _ => self.prox(x, 0.0),
        }
    }

    pub(super) fn is_none(self) -> bool {
        self == Penalty::None
    }

    pub(super) fn is_valid(self) -> bool {
        match self {
            Penalty::L1(l) | Penalty::NonNegativeL1(l) => l >= 0.0 && l.is_finite(),
            Penalty::Box(low, high) => low <= high,
            _ => true,
        }
    }
}
