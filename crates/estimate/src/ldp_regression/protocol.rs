//! What client and server agree on, and what a user sends.

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::LdpError;
use super::error::ensure;
use super::mechanisms::{add_gaussian, add_laplace, ball_norm, ball_with_norm, gaussian_scale};

/// Constants that bound a record. They must not depend on the data: there is no default.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bounds {
    /// Records are shrunk to this l2 norm (`r`). The paper: of order `sqrt(d log n)`; ours: `1.2 sigma_x sqrt(d)`.
    pub l2: f64,
    /// Features are clipped to plus or minus this (`tau1`), where a method clips coordinates.
    pub coordinate: f64,
    /// Responses are clipped to plus or minus this (`tau2`).
    pub response: f64,
}

/// How moments are randomised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MomentNoise {
    /// Gaussian noise, calibrated exactly; needs `delta > 0`.
    Gaussian,
    /// Laplace noise on every coordinate; `delta` is not used.
    Laplace,
    /// The l2-ball mechanism; `delta` is not used.
    Ball,
}

/// Which clipped features are multiplied with the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrossClip {
    /// The record shrunk in l2 norm: less noise where `r < tau1 sqrt(d)` (ours, the default).
    L2,
    /// Coordinates clipped one by one (paper).
    Coordinate,
}

/// The bound on a gradient message.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Radius {
    /// `sqrt(d) tau1 (sqrt(k) tau1 + tau2)`, which no gradient at a `k`-sparse point of norm 1 exceeds (paper).
    Paper {
        /// Non-zeros kept between rounds.
        k: usize,
    },
    /// Gradients are shrunk to this norm (the default of [`Radius::score_clip`]).
    Score(f64),
}

impl Radius {
    /// `0.11 sqrt(d ln n)`, the value that a later study found good.
    pub fn score_clip(d: usize, n: usize) -> Self {
        Radius::Score(0.11 * (d as f64 * (n as f64).ln()).sqrt())
    }
}

/// What a user's message holds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// Both moments, half of the budget each (non-interactive).
    Moments {
        /// How they are randomised.
        noise: MomentNoise,
        /// Which features meet the response.
        cross: CrossClip,
    },
    /// The cross moment alone, with the whole budget: the server has public features.
    Cross {
        /// How it is randomised.
        noise: MomentNoise,
        /// Which features meet the response.
        cross: CrossClip,
    },
    /// The gradient at the server's current point, by the ball mechanism (interactive).
    Gradient {
        /// Its bound.
        radius: Radius,
    },
}

/// The agreement between users and server.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Protocol {
    /// Number of features `d`.
    pub dimension: usize,
    /// Every message is `(epsilon, delta)`-locally private.
    pub epsilon: f64,
    /// See `epsilon`; 0 for the pure mechanisms.
    pub delta: f64,
    /// Bounds on a record.
    pub bounds: Bounds,
    /// What is sent.
    pub query: Query,
    /// Messages are rounded to multiples of this, which hides the low bits of floating-point noise; 0 sends them as they
    /// are. Rounding after the noise costs no privacy. Take a power of two some 2^-20 of the noise.
    pub grid: f64,
}

/// What a user sends.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// The user.
    pub user: u64,
    /// The randomised values.
    pub content: Content,
}

/// The randomised values of a message.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// `x x^T` (upper triangle, row after row, `d (d + 1) / 2` values) and `x y`.
    Moments {
        /// The second moment.
        covariance: Vec<f64>,
        /// The cross moment.
        cross: Vec<f64>,
    },
    /// `x y`.
    Cross(Vec<f64>),
    /// A gradient, for the round in which it was taken.
    Gradient {
        /// The round, from 0.
        round: usize,
        /// The values.
        gradient: Vec<f64>,
    },
}

/// Scales of the noise per value of a message.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct NoiseScales {
    /// Standard deviation on the second moment; 0 where it is not sent.
    pub covariance: f64,
    /// Standard deviation on the cross moment or gradient.
    pub cross: f64,
}

/// One mechanism with its constants worked out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Randomiser {
    Gaussian(f64),
    Laplace(f64),
    Ball { rho: f64, epsilon: f64, norm: f64 },
}

impl Randomiser {
    fn new(noise: MomentNoise, size: usize, l1: f64, l2: f64, epsilon: f64, delta: f64) -> Self {
        match noise {
            MomentNoise::Gaussian => Randomiser::Gaussian(l2 * gaussian_scale(epsilon, delta)),
            MomentNoise::Laplace => Randomiser::Laplace(l1 / epsilon),
            // Two vectors of norm rho are at most 2 rho apart; here rho is given by half the diameter.
            MomentNoise::Ball => {
                let rho = 0.5 * l2;
                Randomiser::Ball { rho, epsilon, norm: ball_norm(size, rho, epsilon) }
            }
        }
    }

    pub(super) fn apply(&self, values: &mut [f64], rng: &mut impl rand::Rng) {
        match *self {
            Randomiser::Gaussian(scale) => add_gaussian(values, scale, rng),
            Randomiser::Laplace(scale) => add_laplace(values, scale, rng),
            Randomiser::Ball { rho, epsilon, norm } => ball_with_norm(values, rho, epsilon, norm, rng),
        }
    }

    /// Standard deviation of one value (for the ball mechanism: of a value of a zero vector).
    fn deviation(&self, size: usize) -> f64 {
        match *self {
            Randomiser::Gaussian(scale) => scale,
            Randomiser::Laplace(scale) => scale * std::f64::consts::SQRT_2,
            Randomiser::Ball { norm, .. } => norm / (size as f64).sqrt(),
        }
    }
}

/// A protocol with its mechanisms calibrated.
#[derive(Debug, Clone)]
pub(super) struct Calibrated {
    pub protocol: Protocol,
    pub covariance: Option<Randomiser>,
    pub cross: Randomiser,
}

impl Protocol {
    /// Checks the numbers and calibrates the mechanisms.
    pub(super) fn calibrate(&self) -> Result<Calibrated, LdpError> {
        let positive = |v: f64| v > 0.0 && v.is_finite();
        ensure(self.dimension > 0, "dimension", "at least 1", self.dimension)?;
        ensure(positive(self.epsilon), "epsilon", "a positive number", self.epsilon)?;
        ensure((0.0..1.0).contains(&self.delta), "delta", "in [0, 1)", self.delta)?;
        ensure(positive(self.bounds.l2), "bounds.l2", "a positive number", self.bounds.l2)?;
        ensure(
            positive(self.bounds.coordinate),
            "bounds.coordinate",
            "a positive number",
            self.bounds.coordinate,
        )?;
        ensure(positive(self.bounds.response), "bounds.response", "a positive number", self.bounds.response)?;
        ensure(self.grid >= 0.0 && self.grid.is_finite(), "grid", "at least 0", self.grid)?;
        let d = self.dimension as f64;
        let Bounds { l2: r, coordinate: tau1, response: tau2 } = self.bounds;
        // (l1, l2) distance of two cross moments.
        let cross_distance = |clip: CrossClip| match clip {
            CrossClip::L2 => (2.0 * d.sqrt() * r * tau2, 2.0 * r * tau2),
            CrossClip::Coordinate => (2.0 * d * tau1 * tau2, 2.0 * d.sqrt() * tau1 * tau2),
        };
        let gaussian = |noise: MomentNoise| {
            ensure(
                noise != MomentNoise::Gaussian || self.delta > 0.0,
                "delta",
                "positive for Gaussian noise (or take Laplace or the ball mechanism)",
                self.delta,
            )
        };
        let (covariance, cross) = match self.query {
            Query::Moments { noise, cross } => {
                gaussian(noise)?;
                let (epsilon, delta) = (0.5 * self.epsilon, 0.5 * self.delta);
                let size = self.dimension * (self.dimension + 1) / 2;
                // Upper triangle of a a^T: l1 norm at most (|a|_1^2 + |a|_2^2) / 2 <= (d + 1) r^2 / 2; l2 distance at most
                // that of the full matrices, sqrt(2) r^2; the ball mechanism needs the norm itself, r^2.
                let l2 = match noise {
                    MomentNoise::Ball => 2.0 * r * r,
                    _ => std::f64::consts::SQRT_2 * r * r,
                };
                let covariance = Randomiser::new(noise, size, (d + 1.0) * r * r, l2, epsilon, delta);
                let (l1, l2) = cross_distance(cross);
                (Some(covariance), Randomiser::new(noise, self.dimension, l1, l2, epsilon, delta))
            }
            Query::Cross { noise, cross } => {
                gaussian(noise)?;
                let (l1, l2) = cross_distance(cross);
                (None, Randomiser::new(noise, self.dimension, l1, l2, self.epsilon, self.delta))
            }
            Query::Gradient { radius } => {
                let rho = match radius {
                    Radius::Paper { k } => {
                        ensure(k > 0 && k <= self.dimension, "k", "between 1 and the dimension", k)?;
                        d.sqrt() * tau1 * ((k as f64).sqrt() * tau1 + tau2)
                    }
                    Radius::Score(r) => {
                        ensure(positive(r), "radius", "a positive number", r)?;
                        r
                    }
                };
                let norm = ball_norm(self.dimension, rho, self.epsilon);
                (None, Randomiser::Ball { rho, epsilon: self.epsilon, norm })
            }
        };
        Ok(Calibrated { protocol: *self, covariance, cross })
    }

    /// Scales of the noise that the protocol adds.
    ///
    /// # Errors
    /// [`LdpError::Parameter`].
    pub fn noise_scales(&self) -> Result<NoiseScales, LdpError> {
        Ok(self.calibrate()?.scales())
    }
}

/// The factor that shrinks `x` to norm `r`.
pub(super) fn shrink(x: &[f64], r: f64) -> f64 {
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > r { r / norm } else { 1.0 }
}

impl Calibrated {
    pub(super) fn scales(&self) -> NoiseScales {
        let d = self.protocol.dimension;
        NoiseScales {
            covariance: self.covariance.map_or(0.0, |c| c.deviation(d * (d + 1) / 2)),
            cross: self.cross.deviation(d),
        }
    }

    /// The clipped features that meet the response, times the clipped response; whether anything was clipped.
    pub(super) fn cross_moment(&self, clip: CrossClip, x: &[f64], y: f64, out: &mut [f64]) -> bool {
        let b = self.protocol.bounds;
        let clipped = y.clamp(-b.response, b.response);
        let mut changed = clipped != y;
        match clip {
            CrossClip::L2 => {
                let factor = shrink(x, b.l2);
                changed |= factor < 1.0;
                out.iter_mut().zip(x).for_each(|(o, x)| *o = factor * x * clipped);
            }
            CrossClip::Coordinate => {
                for (o, &x) in out.iter_mut().zip(x) {
                    let inside = x.clamp(-b.coordinate, b.coordinate);
                    changed |= inside != x;
                    *o = inside * clipped;
                }
            }
        }
        changed
    }

    /// Upper triangle of the shrunk record's outer product, added to `out`.
    pub(super) fn add_second_moment(&self, x: &[f64], out: &mut [f64]) {
        let factor = shrink(x, self.protocol.bounds.l2);
        let square = factor * factor;
        let mut rest = out;
        for (i, &a) in x.iter().enumerate() {
            let (row, next) = rest.split_at_mut(x.len() - i);
            row.iter_mut().zip(&x[i..]).for_each(|(o, b)| *o += square * a * b);
            rest = next;
        }
    }

    /// The gradient of `(x theta - y)^2 / 2` from clipped values, within the radius; whether anything was clipped.
    pub(super) fn gradient(&self, x: &[f64], y: f64, theta: &[f64], out: &mut [f64]) -> bool {
        let b = self.protocol.bounds;
        let y_inside = y.clamp(-b.response, b.response);
        let mut changed = y_inside != y;
        let mut residual = -y_inside;
        for ((o, &x), t) in out.iter_mut().zip(x).zip(theta) {
            let inside = x.clamp(-b.coordinate, b.coordinate);
            changed |= inside != x;
            residual += inside * t;
            *o = inside;
        }
        let Randomiser::Ball { rho, .. } = self.cross else { return changed };
        out.iter_mut().for_each(|o| *o *= residual);
        // With the paper's radius this does nothing for admissible theta.
        let factor = shrink(out, rho);
        if factor < 1.0 {
            changed = true;
            out.iter_mut().for_each(|o| *o *= factor);
        }
        changed
    }
}

/// Keeps track of who has spent the budget.
#[derive(Debug, Clone, Default)]
pub struct Accountant {
    spent: HashSet<u64>,
}

impl Accountant {
    /// Records a message of `user`.
    ///
    /// # Errors
    /// [`LdpError::Spent`] for the second message of the same user.
    pub fn spend(&mut self, user: u64) -> Result<(), LdpError> {
        if self.spent.insert(user) { Ok(()) } else { Err(LdpError::Spent { user }) }
    }

    /// Users that have spent their budget.
    pub fn users(&self) -> usize {
        self.spent.len()
    }
}

/// Where the noise comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Randomness {
    /// ChaCha20 seeded by the operating system.
    System,
    /// ChaCha20 with a known seed: whoever knows it can remove the noise. For tests and simulations only.
    InsecureSeed(u64),
}

/// The side of the user: turns records into private messages.
#[derive(Debug)]
pub struct Client {
    calibrated: Calibrated,
    rng: ChaCha20Rng,
    accountant: Accountant,
}

impl Client {
    /// A client for one protocol.
    ///
    /// # Errors
    /// [`LdpError::Parameter`].
    pub fn new(protocol: Protocol, randomness: Randomness) -> Result<Self, LdpError> {
        let rng = match randomness {
            Randomness::System => ChaCha20Rng::from_os_rng(),
            Randomness::InsecureSeed(seed) => ChaCha20Rng::seed_from_u64(seed),
        };
        Ok(Client { calibrated: protocol.calibrate()?, rng, accountant: Accountant::default() })
    }

    /// The private message of one user: features `x` (`d`), response `y`, and, for gradients, the server's round and
    /// point. Cost: one noise draw per value, `O(d^2)` for moments.
    ///
    /// # Errors
    /// [`LdpError::Shape`], [`LdpError::NonFinite`] before anything is drawn, [`LdpError::Spent`] for a user's second
    /// message.
    pub fn encode(
        &mut self,
        user: u64,
        x: &[f64],
        y: f64,
        point: Option<(usize, &[f64])>,
    ) -> Result<Message, LdpError> {
        let d = self.calibrated.protocol.dimension;
        if x.len() != d {
            return Err(LdpError::Shape {
                expected: format!("{d} features"),
                got: format!("{} of user {user}", x.len()),
            });
        }
        if let Some(index) = x.iter().position(|v| !v.is_finite()) {
            return Err(LdpError::NonFinite { user, what: "feature", index });
        }
        if !y.is_finite() {
            return Err(LdpError::NonFinite { user, what: "response", index: 0 });
        }
        let gradient_point = match (self.calibrated.protocol.query, point) {
            (Query::Gradient { .. }, Some((round, theta))) if theta.len() == d => Some((round, theta)),
            (Query::Gradient { .. }, _) => {
                return Err(LdpError::Shape {
                    expected: format!("the server's round and a point of {d} values"),
                    got: "none, or one of another size".into(),
                });
            }
            _ => None,
        };
        self.accountant.spend(user)?;
        let mut values = vec![0.0; d];
        let content = match self.calibrated.protocol.query {
            Query::Moments { cross, .. } => {
                let mut covariance = vec![0.0; d * (d + 1) / 2];
                self.calibrated.add_second_moment(x, &mut covariance);
                if let Some(randomiser) = &self.calibrated.covariance {
                    randomiser.apply(&mut covariance, &mut self.rng);
                }
                self.calibrated.cross_moment(cross, x, y, &mut values);
                self.calibrated.cross.apply(&mut values, &mut self.rng);
                self.round(&mut covariance);
                self.round(&mut values);
                Content::Moments { covariance, cross: values }
            }
            Query::Cross { cross, .. } => {
                self.calibrated.cross_moment(cross, x, y, &mut values);
                self.calibrated.cross.apply(&mut values, &mut self.rng);
                self.round(&mut values);
                Content::Cross(values)
            }
            Query::Gradient { .. } => {
                let (round, theta) = gradient_point.unwrap_or((0, &[]));
                self.calibrated.gradient(x, y, theta, &mut values);
                self.calibrated.cross.apply(&mut values, &mut self.rng);
                self.round(&mut values);
                Content::Gradient { round, gradient: values }
            }
        };
        Ok(Message { user, content })
    }

    fn round(&self, values: &mut [f64]) {
        let grid = self.calibrated.protocol.grid;
        if grid > 0.0 {
            values.iter_mut().for_each(|v| *v = (*v / grid).round() * grid);
        }
    }
}
