//! The side of the server: sums of messages, and estimates from them.

use sparseland_linalg::{Mat, eigh, inverse_log_det, matmul, matmul_transposed_left, solve_spd, svd};

use super::LdpError;
use super::error::ensure;
use super::protocol::{Accountant, Calibrated, Content, CrossClip, Message, Protocol, Query, shrink};

/// How the dense solution is made sparse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Soft thresholding; `None` takes the level that the noise calls for.
    Soft(Option<f64>),
    /// Keeps what exceeds the level, unchanged.
    Hard(Option<f64>),
    /// Keeps the `k` largest.
    Top(usize),
}

/// Settings of the non-interactive estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EstimateConfig {
    /// How the dense solution is made sparse. Default soft at the automatic level.
    pub threshold: Threshold,
    /// Factor of the automatic level. Default 1 (ours).
    pub level_factor: f64,
    /// Eigenvalues of the covariance are raised to this. `None`: 0.1 of its mean diagonal (ours).
    pub floor: Option<f64>,
}

impl Default for EstimateConfig {
    fn default() -> Self {
        EstimateConfig { threshold: Threshold::Soft(None), level_factor: 1.0, floor: None }
    }
}

/// What a reader of an estimate must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Flags {
    /// Eigenvalues of the covariance had to be raised: the estimate is biased.
    pub covariance_floored: bool,
    /// Fewer messages than `d^4 log d / eps^2` (the order that the theory of the non-interactive estimate asks for), or
    /// a predicted error above the size of the estimate.
    pub underpowered: bool,
}

/// An estimate with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The coefficients, length `d`.
    pub theta: Vec<f64>,
    /// The threshold that was applied; 0 for [`Threshold::Top`].
    pub lambda: f64,
    /// Warnings.
    pub flags: Flags,
    /// The l2 error that the privacy noise alone is expected to cause, before thresholding.
    pub effective_noise: f64,
    /// Messages used.
    pub messages: usize,
}

/// Sums messages of non-interactive protocols and estimates from them. Memory `d^2 / 2`, one addition per value.
#[derive(Debug)]
pub struct Server {
    calibrated: Calibrated,
    accountant: Accountant,
    pub(super) covariance: Vec<f64>,
    pub(super) cross: Vec<f64>,
    pub(super) messages: usize,
    public: Option<Mat<f64>>,
}

impl Server {
    /// A server for a [`Query::Moments`] protocol.
    ///
    /// # Errors
    /// [`LdpError::Parameter`]; [`LdpError::Shape`] for another query.
    pub fn new(protocol: Protocol) -> Result<Self, LdpError> {
        if !matches!(protocol.query, Query::Moments { .. }) {
            return Err(wrong("moments", &protocol.query));
        }
        Self::build(protocol, None)
    }

    /// A server for a [`Query::Cross`] protocol with public features `x` (`m x d`, not private).
    ///
    /// The public rows meet their own clipped copies, as the users' responses do: the estimate is then free of the
    /// clipping's bias.
    ///
    /// # Errors
    /// [`LdpError::Parameter`], [`LdpError::Shape`], [`LdpError::Linalg`] with the index of a bad value.
    pub fn with_public(protocol: Protocol, x: &Mat<f64>) -> Result<Self, LdpError> {
        let Query::Cross { cross, .. } = protocol.query else {
            return Err(wrong("cross", &protocol.query));
        };
        if x.cols != protocol.dimension || x.rows == 0 {
            return Err(LdpError::Shape {
                expected: format!("public rows of {} features", protocol.dimension),
                got: format!("{} x {}", x.rows, x.cols),
            });
        }
        x.check_finite("public features")?;
        let mut clipped = x.clone();
        for i in 0..x.rows {
            let factor = shrink(x.row(i), protocol.bounds.l2);
            let tau = protocol.bounds.coordinate;
            for v in clipped.row_mut(i) {
                *v = match cross {
                    CrossClip::L2 => *v * factor,
                    CrossClip::Coordinate => v.clamp(-tau, tau),
                };
            }
        }
        let mut s = matmul_transposed_left(&clipped, x)?;
        s.data.iter_mut().for_each(|v| *v /= x.rows as f64);
        Self::build(protocol, Some(s))
    }

    fn build(protocol: Protocol, public: Option<Mat<f64>>) -> Result<Self, LdpError> {
        let d = protocol.dimension;
        Ok(Server {
            calibrated: protocol.calibrate()?,
            accountant: Accountant::default(),
            covariance: vec![0.0; d * (d + 1) / 2],
            cross: vec![0.0; d],
            messages: 0,
            public,
        })
    }

    /// Adds a message.
    ///
    /// # Errors
    /// [`LdpError::Shape`] for a message of another protocol, [`LdpError::NonFinite`], [`LdpError::Spent`].
    pub fn ingest(&mut self, message: &Message) -> Result<(), LdpError> {
        let d = self.calibrated.protocol.dimension;
        let (covariance, cross): (&[f64], &[f64]) = match (&message.content, &self.public) {
            (Content::Moments { covariance, cross }, None) => (covariance, cross),
            (Content::Cross(cross), Some(_)) => (&[], cross),
            _ => return Err(wrong_message(message)),
        };
        let size = if self.public.is_some() { 0 } else { d * (d + 1) / 2 };
        if covariance.len() != size || cross.len() != d {
            return Err(LdpError::Shape {
                expected: format!("{size} and {d} values"),
                got: format!("{} and {} of user {}", covariance.len(), cross.len(), message.user),
            });
        }
        finite(message.user, covariance)?;
        finite(message.user, cross)?;
        self.accountant.spend(message.user)?;
        self.covariance.iter_mut().zip(covariance).for_each(|(s, v)| *s += v);
        self.cross.iter_mut().zip(cross).for_each(|(s, v)| *s += v);
        self.messages += 1;
        Ok(())
    }

    /// The estimate from all messages so far: `threshold(S^-1 b)`. Cost `O(d^3)`.
    ///
    /// # Errors
    /// [`LdpError::Empty`], [`LdpError::Parameter`], [`LdpError::Linalg`].
    pub fn estimate(&self, config: &EstimateConfig) -> Result<Estimate, LdpError> {
        let d = self.calibrated.protocol.dimension;
        if self.messages == 0 {
            return Err(LdpError::Empty);
        }
        check_threshold(config.threshold, d)?;
        ensure(config.level_factor >= 0.0, "level_factor", "at least 0", config.level_factor)?;
        let n = self.messages as f64;
        let b = Mat::from_fn(d, 1, |i, _| self.cross[i] / n);
        let s = match &self.public {
            Some(s) => s.clone(),
            None => unpack(&self.covariance, d, n),
        };
        let mean_diagonal = (0..d).map(|i| s.at(i, i)).sum::<f64>() / d as f64;
        let floor = config.floor.unwrap_or(0.1 * mean_diagonal.abs()).max(f64::MIN_POSITIVE);
        let (theta, smallest, floored) = solve_floored(&s, &b, floor)?;
        let scales = self.calibrated.scales();
        let norm = theta.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (log_d, root_n, root_d) = ((d.max(2) as f64).ln(), n.sqrt(), (d as f64).sqrt());
        let from_covariance = scales.covariance * root_d / root_n * norm;
        let automatic =
            config.level_factor * (scales.cross * log_d.sqrt() / root_n + from_covariance) / smallest;
        let effective_noise = (scales.cross * root_d / root_n + from_covariance) / smallest;
        let (theta, lambda) = apply_threshold(theta, config.threshold, automatic);
        let epsilon = self.calibrated.protocol.epsilon;
        let needed = match self.public {
            Some(_) => 0.0,
            None => (d as f64).powi(4) * log_d / (epsilon * epsilon),
        };
        Ok(Estimate {
            theta,
            lambda,
            flags: Flags { covariance_floored: floored, underpowered: n < needed || effective_noise > norm },
            effective_noise,
            messages: self.messages,
        })
    }
}

fn wrong(expected: &str, query: &Query) -> LdpError {
    LdpError::Shape { expected: format!("a protocol with a {expected} query"), got: format!("{query:?}") }
}

fn wrong_message(message: &Message) -> LdpError {
    LdpError::Shape {
        expected: "a message of the server's protocol".into(),
        got: format!("another kind, from user {}", message.user),
    }
}

fn finite(user: u64, values: &[f64]) -> Result<(), LdpError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(LdpError::NonFinite { user, what: "message value", index }),
    }
}

fn check_threshold(threshold: Threshold, d: usize) -> Result<(), LdpError> {
    match threshold {
        Threshold::Top(k) => ensure(k > 0 && k <= d, "k", "between 1 and the dimension", k),
        Threshold::Soft(Some(l)) | Threshold::Hard(Some(l)) => {
            ensure(l >= 0.0 && l.is_finite(), "lambda", "at least 0", l)
        }
        _ => Ok(()),
    }
}

/// The symmetric matrix of a packed upper triangle of sums over `n`.
fn unpack(packed: &[f64], d: usize, n: f64) -> Mat<f64> {
    let mut s = Mat::zeros(d, d);
    let mut at = 0;
    for i in 0..d {
        for j in i..d {
            s.data[i * d + j] = packed[at] / n;
            s.data[j * d + i] = packed[at] / n;
            at += 1;
        }
    }
    s
}

/// `S^-1 b`, the smallest eigenvalue (singular value for a matrix that is not symmetric) used, and whether any had to be
/// raised to the floor.
fn solve_floored(s: &Mat<f64>, b: &Mat<f64>, floor: f64) -> Result<(Vec<f64>, f64, bool), LdpError> {
    let symmetric =
        (0..s.rows).all(|i| (0..i).all(|j| (s.at(i, j) - s.at(j, i)).abs() <= 1e-12 * s.at(i, i).abs()));
    if symmetric {
        let e = eigh(s)?;
        let smallest = *e.values.last().unwrap_or(&0.0);
        if smallest >= floor {
            return Ok((solve_spd(s, b)?.data, smallest, false));
        }
        let mut rotated = matmul_transposed_left(&e.vectors, b)?;
        let inverse: Vec<f64> = e.values.iter().map(|v| 1.0 / v.max(floor)).collect();
        rotated.scale_rows(&inverse);
        return Ok((matmul(&e.vectors, &rotated)?.data, floor, true));
    }
    let parts = svd(s)?;
    let smallest = *parts.s.last().unwrap_or(&0.0);
    if smallest >= floor {
        return Ok((matmul(&inverse_log_det(s)?.inverse, b)?.data, smallest, false));
    }
    let mut rotated = matmul_transposed_left(&parts.u, b)?;
    let inverse: Vec<f64> = parts.s.iter().map(|v| 1.0 / v.max(floor)).collect();
    rotated.scale_rows(&inverse);
    Ok((matmul_transposed_left(&parts.vt, &rotated)?.data, floor, true))
}

pub(super) fn soft(v: f64, level: f64) -> f64 {
    v.signum() * (v.abs() - level).max(0.0)
}

/// Zeroes all but the `k` largest entries.
pub(super) fn keep_largest(theta: &mut [f64], k: usize) {
    let mut order: Vec<usize> = (0..theta.len()).collect();
    order.sort_by(|&a, &b| theta[b].abs().total_cmp(&theta[a].abs()));
    order.iter().skip(k).for_each(|&i| theta[i] = 0.0);
}

fn apply_threshold(mut theta: Vec<f64>, threshold: Threshold, automatic: f64) -> (Vec<f64>, f64) {
    match threshold {
        Threshold::Soft(level) => {
            let level = level.unwrap_or(automatic);
            theta.iter_mut().for_each(|v| *v = soft(*v, level));
            (theta, level)
        }
        Threshold::Hard(level) => {
            let level = level.unwrap_or(automatic);
            theta.iter_mut().filter(|v| v.abs() <= level).for_each(|v| *v = 0.0);
            (theta, level)
        }
        Threshold::Top(k) => {
            keep_largest(&mut theta, k);
            (theta, 0.0)
        }
    }
}

/// The non-private by-product: thresholded least squares, `ST((X^T X / n)^-1 X^T y / n, lambda)`.
///
/// `lambda = None` takes `sigma sqrt(2 log d / n)` times the root of the largest diagonal entry of the inverse, with
/// `sigma` from the residuals. With fewer rows than columns, or collinear ones, eigenvalues below `floor` (default 1e-3
/// of the mean diagonal) are raised. Not for data that need privacy.
///
/// # Errors
/// [`LdpError::Shape`], [`LdpError::Parameter`], [`LdpError::Linalg`] with the index of a bad value.
pub fn thresholded_least_squares(
    x: &Mat<f64>,
    y: &[f64],
    threshold: Threshold,
    floor: Option<f64>,
) -> Result<Estimate, LdpError> {
    let (n, d) = x.shape();
    if y.len() != n || n == 0 || d == 0 {
        return Err(LdpError::Shape {
            expected: format!("{n} responses for {n} x {d} features, not empty"),
            got: format!("{}", y.len()),
        });
    }
    x.check_finite("thresholded_least_squares")?;
    check_threshold(threshold, d)?;
    let target = Mat { rows: n, cols: 1, data: y.to_vec() };
    target.check_finite("thresholded_least_squares")?;
    let mut s = sparseland_linalg::gram(x);
    s.data.iter_mut().for_each(|v| *v /= n as f64);
    let mut b = matmul_transposed_left(x, &target)?;
    b.data.iter_mut().for_each(|v| *v /= n as f64);
    let mean_diagonal = (0..d).map(|i| s.at(i, i)).sum::<f64>() / d as f64;
    let floor = floor.unwrap_or(1e-3 * mean_diagonal).max(f64::MIN_POSITIVE);
    // Well-conditioned covariances are the common case: one factorisation tells, and gives the solution.
    let direct = inverse_log_det(&s).ok().filter(|inv| n > d && inv.inverse.frobenius_norm() * floor < 1.0);
    let (theta, largest, floored) = match direct {
        Some(inv) => {
            let theta = matmul(&inv.inverse, &b)?.data;
            (theta, (0..d).map(|i| inv.inverse.at(i, i)).fold(0.0, f64::max), false)
        }
        None => {
            let (theta, smallest, floored) = solve_floored(&s, &b, floor)?;
            (theta, 1.0 / smallest, floored)
        }
    };
    let mut residual = 0.0;
    for (i, &y) in y.iter().enumerate() {
        let fit: f64 = x.row(i).iter().zip(&theta).map(|(a, t)| a * t).sum();
        residual += (y - fit) * (y - fit);
    }
    let sigma = (residual / n.saturating_sub(d).max(1) as f64).sqrt();
    let noise = sigma * (largest / n as f64).sqrt();
    let automatic = noise * (2.0 * (d.max(2) as f64).ln()).sqrt();
    let (theta, lambda) = apply_threshold(theta, threshold, automatic);
    Ok(Estimate {
        theta,
        lambda,
        flags: Flags { covariance_floored: floored, underpowered: n <= d },
        effective_noise: noise * (d as f64).sqrt(),
        messages: n,
    })
}

/// How the iterate is made sparse after a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// Keeps the `k` largest coordinates (paper: `8 k`; iterative hard thresholding).
    Hard(usize),
    /// Soft thresholding; `None` takes the level of [`InteractiveServer::automatic_level`].
    Soft(Option<f64>),
}

/// The set that holds the iterate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ball {
    /// `||theta||_2 <= R`.
    L2(f64),
    /// `||theta||_1 <= R`.
    L1(f64),
}

/// Settings of the interactive estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InteractiveConfig {
    /// Rounds; users are spread over them. The paper: `ceil(ln n)`.
    pub rounds: usize,
    /// Users expected per round, for the automatic level.
    pub users_per_round: usize,
    /// Step size: 1 for an identity covariance (paper), else 1 over its largest eigenvalue.
    pub step: f64,
    /// How the iterate is made sparse. Default soft at the automatic level (three to four times as accurate as the
    /// paper's hard one).
    pub update: Update,
    /// The set that holds the iterate. Default the l2 ball of radius 1 (paper).
    pub ball: Ball,
    /// Coordinates kept in the end; `None` keeps what the update left.
    pub keep: Option<usize>,
}

impl InteractiveConfig {
    /// The paper's number of rounds for `n` users, the soft update and the unit ball.
    pub fn new(n: usize) -> Self {
        let rounds = ((n.max(1) as f64).ln().ceil() as usize).max(1);
        InteractiveConfig {
            rounds,
            users_per_round: (n / rounds).max(1),
            step: 1.0,
            update: Update::Soft(None),
            ball: Ball::L2(1.0),
            keep: None,
        }
    }
}

/// The server of the interactive protocol: `theta <- project(sparsify(theta - step * mean of the messages))`, one batch
/// of users per round.
#[derive(Debug)]
pub struct InteractiveServer {
    calibrated: Calibrated,
    config: InteractiveConfig,
    accountant: Accountant,
    theta: Vec<f64>,
    sum: Vec<f64>,
    in_round: usize,
    messages: usize,
    round: usize,
}

impl InteractiveServer {
    /// A server at `theta = 0` for a [`Query::Gradient`] protocol.
    ///
    /// # Errors
    /// [`LdpError::Parameter`]; [`LdpError::Shape`] for another query.
    pub fn new(protocol: Protocol, config: InteractiveConfig) -> Result<Self, LdpError> {
        if !matches!(protocol.query, Query::Gradient { .. }) {
            return Err(wrong("gradient", &protocol.query));
        }
        let d = protocol.dimension;
        ensure(config.rounds > 0, "rounds", "at least 1", config.rounds)?;
        ensure(config.step > 0.0 && config.step.is_finite(), "step", "a positive number", config.step)?;
        if let Update::Hard(k) = config.update {
            ensure(k > 0 && k <= d, "update", "between 1 and the dimension", k)?;
        }
        if let Some(k) = config.keep {
            ensure(k > 0 && k <= d, "keep", "between 1 and the dimension", k)?;
        }
        let (Ball::L2(r) | Ball::L1(r)) = config.ball;
        ensure(r > 0.0 && r.is_finite(), "ball", "a positive radius", r)?;
        Ok(InteractiveServer {
            calibrated: protocol.calibrate()?,
            config,
            accountant: Accountant::default(),
            theta: vec![0.0; d],
            sum: vec![0.0; d],
            in_round: 0,
            messages: 0,
            round: 0,
        })
    }

    /// The round that is open and its point, to be sent to the users.
    pub fn point(&self) -> (usize, &[f64]) {
        (self.round, &self.theta)
    }

    /// Whether all rounds are done.
    pub fn finished(&self) -> bool {
        self.round >= self.config.rounds
    }

    /// `0.093 sqrt((d + t) t l) / (eps sqrt m)` with `t = ln(20 n)`, `l = ln(20 d T)`, for `m` users in each of `T` rounds:
    /// the level that a later study uses with [`super::Radius::score_clip`].
    pub fn automatic_level(&self) -> f64 {
        let d = self.theta.len() as f64;
        let (rounds, m) = (self.config.rounds as f64, self.config.users_per_round as f64);
        let (t, l) = ((20.0 * rounds * m).ln(), (20.0 * d * rounds).ln());
        0.093 * ((d + t) * t * l).sqrt() / (self.calibrated.protocol.epsilon * m.sqrt())
    }

    /// Adds a message of the open round.
    ///
    /// # Errors
    /// [`LdpError::Shape`] for another kind, size or round, [`LdpError::NonFinite`], [`LdpError::Spent`].
    pub fn ingest(&mut self, message: &Message) -> Result<(), LdpError> {
        let Content::Gradient { round, gradient } = &message.content else {
            return Err(wrong_message(message));
        };
        if *round != self.round || gradient.len() != self.theta.len() || self.finished() {
            return Err(LdpError::Shape {
                expected: format!("{} values for round {}", self.theta.len(), self.round),
                got: format!("{} for round {round}, from user {}", gradient.len(), message.user),
            });
        }
        finite(message.user, gradient)?;
        self.accountant.spend(message.user)?;
        self.add(gradient, 1);
        Ok(())
    }

    pub(super) fn add(&mut self, sum: &[f64], messages: usize) {
        self.sum.iter_mut().zip(sum).for_each(|(s, v)| *s += v);
        self.in_round += messages;
        self.messages += messages;
    }

    pub(super) fn calibrated(&self) -> &Calibrated {
        &self.calibrated
    }

    /// Closes the round and moves the point.
    ///
    /// # Errors
    /// [`LdpError::Empty`] when the round has no messages.
    pub fn finish_round(&mut self) -> Result<(), LdpError> {
        if self.in_round == 0 {
            return Err(LdpError::Empty);
        }
        let step = self.config.step / self.in_round as f64;
        self.theta.iter_mut().zip(&self.sum).for_each(|(t, g)| *t -= step * g);
        match self.config.update {
            Update::Hard(k) => keep_largest(&mut self.theta, k),
            Update::Soft(level) => {
                let level = self.config.step * level.unwrap_or_else(|| self.automatic_level());
                self.theta.iter_mut().for_each(|t| *t = soft(*t, level));
            }
        }
        project(&mut self.theta, self.config.ball);
        self.sum.fill(0.0);
        self.in_round = 0;
        self.round += 1;
        Ok(())
    }

    /// The current point, with the coordinates that are to be kept.
    ///
    /// # Errors
    /// [`LdpError::Empty`] before the first round is closed.
    pub fn estimate(&self) -> Result<Estimate, LdpError> {
        if self.round == 0 {
            return Err(LdpError::Empty);
        }
        let mut theta = self.theta.clone();
        if let Some(k) = self.config.keep {
            keep_largest(&mut theta, k);
        }
        let per_round = self.messages as f64 / self.round as f64;
        let effective_noise =
            self.config.step * self.calibrated.scales().cross * (theta.len() as f64 / per_round).sqrt();
        let norm = theta.iter().map(|v| v * v).sum::<f64>().sqrt();
        let lambda = match self.config.update {
            Update::Hard(_) => 0.0,
            Update::Soft(level) => level.unwrap_or_else(|| self.automatic_level()),
        };
        Ok(Estimate {
            flags: Flags { covariance_floored: false, underpowered: norm == 0.0 || lambda > norm },
            theta,
            lambda,
            effective_noise,
            messages: self.messages,
        })
    }
}

/// The nearest point of the ball.
pub(super) fn project(theta: &mut [f64], ball: Ball) {
    match ball {
        Ball::L2(r) => {
            let factor = shrink(theta, r);
            if factor < 1.0 {
                theta.iter_mut().for_each(|t| *t *= factor);
            }
        }
        Ball::L1(r) => {
            let total: f64 = theta.iter().map(|t| t.abs()).sum();
            if total <= r {
                return;
            }
            let mut sizes: Vec<f64> = theta.iter().map(|t| t.abs()).collect();
            sizes.sort_by(|a, b| b.total_cmp(a));
            // The level at which the soft-thresholded sizes sum to r.
            let (mut sum, mut level) = (0.0, 0.0);
            for (k, v) in sizes.iter().enumerate() {
                sum += v;
                let candidate = (sum - r) / (k + 1) as f64;
                if candidate >= *v {
                    break;
                }
                level = candidate;
            }
            theta.iter_mut().for_each(|t| *t = soft(*t, level));
        }
    }
}
