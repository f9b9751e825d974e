//! Simulations of many users at once. For research only: the noise comes from a fast generator, and the sum of Gaussian
//! messages is drawn as one Gaussian.

use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use sparseland_core::Context;
use sparseland_linalg::Mat;

use super::protocol::{MomentNoise, Protocol, Query};
use super::server::{EstimateConfig, InteractiveConfig, InteractiveServer, Server};
use super::{Estimate, LdpError};

/// Records by index, so that any number of threads sees the same users.
pub trait Users: Sync {
    /// Number of users.
    fn count(&self) -> usize;
    /// Number of features.
    fn dimension(&self) -> usize;
    /// Writes the features of a user and returns the response.
    fn record(&self, user: usize, x: &mut [f64]) -> f64;
}

/// The rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `n x d`.
    pub x: &'a Mat<f64>,
    /// `n` responses.
    pub y: &'a [f64],
}

impl Users for Rows<'_> {
    fn count(&self) -> usize {
        self.x.rows
    }
    fn dimension(&self) -> usize {
        self.x.cols
    }
    fn record(&self, user: usize, x: &mut [f64]) -> f64 {
        x.copy_from_slice(self.x.row(user));
        self.y[user]
    }
}

/// Distribution of the features of [`LinearUsers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Independent, -1 or 1.
    Signs,
    /// Independent standard normal.
    Normal,
}

/// Users of a linear model `y = x theta + noise`, made up as they are asked for.
#[derive(Debug, Clone)]
pub struct LinearUsers {
    /// The coefficients.
    pub theta: Vec<f64>,
    /// Distribution of the features.
    pub features: Features,
    /// Standard deviation of the normal noise.
    pub noise: f64,
    /// Number of users.
    pub count: usize,
    /// Seed of the records.
    pub seed: u64,
}

fn stream(seed: u64, index: u64) -> Pcg64 {
    Pcg64::new(
        u128::from(seed) << 64 | u128::from(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        u128::from(index) << 1 | 1,
    )
}

impl LinearUsers {
    /// `k` coordinates, the first ones, with normal values scaled to norm 1.
    pub fn unit(d: usize, k: usize, features: Features, noise: f64, count: usize, seed: u64) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed ^ 0x5eed);
        let mut theta = vec![0.0; d];
        theta[..k].iter_mut().for_each(|t| *t = StandardNormal.sample(&mut rng));
        let norm = theta.iter().map(|t: &f64| t * t).sum::<f64>().sqrt();
        theta.iter_mut().for_each(|t| *t /= norm);
        LinearUsers { theta, features, noise, count, seed }
    }
}

impl Users for LinearUsers {
    fn count(&self) -> usize {
        self.count
    }
    fn dimension(&self) -> usize {
        self.theta.len()
    }
    fn record(&self, user: usize, x: &mut [f64]) -> f64 {
        let mut rng = stream(self.seed, user as u64);
        match self.features {
            Features::Normal => x.iter_mut().for_each(|v| *v = StandardNormal.sample(&mut rng)),
            Features::Signs => {
                for chunk in x.chunks_mut(64) {
                    let mut bits: u64 = rng.random();
                    for v in chunk {
                        *v = if bits & 1 == 1 { 1.0 } else { -1.0 };
                        bits >>= 1;
                    }
                }
            }
        }
        let z: f64 = StandardNormal.sample(&mut rng);
        x.iter().zip(&self.theta).map(|(x, t)| x * t).sum::<f64>() + self.noise * z
    }
}

/// The estimate of a simulation, with what only a simulation can know.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// The server's estimate.
    pub estimate: Estimate,
    /// Fraction of users whose record was clipped. Above one half the bounds are too tight.
    pub clipped: f64,
}

impl Simulation {
    /// Whether more than half of the records were clipped.
    pub fn bounds_too_tight(&self) -> bool {
        self.clipped > 0.5
    }
}

/// Users per task: sums are added task by task, so that the number of threads changes nothing.
const TASK: usize = 8192;

/// Sums over users `from..to`, in parallel: `work` adds one user to the sums and says whether it was clipped.
fn sums(
    from: usize,
    to: usize,
    size: usize,
    context: &Context,
    work: impl Fn(usize, &mut [f64], &mut Pcg64) -> bool + Sync,
) -> Result<(Vec<f64>, usize), LdpError> {
    let tasks: Vec<usize> = (from..to).step_by(TASK).collect();
    let (mut total, mut clipped) = (vec![0.0; size], 0);
    // A bounded number of partial sums is alive at a time.
    for group in tasks.chunks(64) {
        context.check_cancelled()?;
        let parts: Vec<(Vec<f64>, usize)> = context.install(|| {
            group
                .par_iter()
                .map(|&start| {
                    let mut sum = vec![0.0; size];
                    let mut rng = stream(context.seed() ^ 0x0a11_ce50, start as u64);
                    let mut clipped = 0;
                    for user in start..(start + TASK).min(to) {
                        clipped += usize::from(work(user, &mut sum, &mut rng));
                    }
                    (sum, clipped)
                })
                .collect()
        });
        for (part, count) in parts {
            total.iter_mut().zip(&part).for_each(|(t, p)| *t += p);
            clipped += count;
        }
    }
    Ok((total, clipped))
}

/// Runs a non-interactive protocol over all users. `public` holds public features for a [`Query::Cross`] protocol.
///
/// Gaussian noise is added once, to the sums: the distribution of the result is that of the real protocol, at a cost of
/// `O(n d^2)` multiply-adds instead of as many noise draws.
///
/// # Errors
/// [`LdpError::Parameter`], [`LdpError::Shape`], [`LdpError::NonFinite`], [`LdpError::Cancelled`].
pub fn simulate(
    users: &impl Users,
    protocol: Protocol,
    public: Option<&Mat<f64>>,
    config: &EstimateConfig,
    context: &Context,
) -> Result<Simulation, LdpError> {
    let mut server = match public {
        Some(x) => Server::with_public(protocol, x)?,
        None => Server::new(protocol)?,
    };
    let calibrated = protocol.calibrate()?;
    let d = protocol.dimension;
    check(users, d)?;
    let (noise, cross) = match protocol.query {
        Query::Moments { noise, cross } | Query::Cross { noise, cross } => (noise, cross),
        Query::Gradient { .. } => {
            return Err(LdpError::Shape {
                expected: "a non-interactive protocol".into(),
                got: "gradients".into(),
            });
        }
    };
    let at_once = noise == MomentNoise::Gaussian;
    let size = if public.is_some() { 0 } else { d * (d + 1) / 2 };
    let bad = std::sync::atomic::AtomicU64::new(u64::MAX);
    let (total, clipped) = sums(0, users.count(), size + d, context, |user, sum, rng| {
        let (mut x, mut b) = (vec![0.0; d], vec![0.0; d]);
        let y = users.record(user, &mut x);
        if !(y.is_finite() && x.iter().all(|v| v.is_finite())) {
            bad.fetch_min(user as u64, std::sync::atomic::Ordering::Relaxed);
            return false;
        }
        let clipped = calibrated.cross_moment(cross, &x, y, &mut b);
        let (covariance, cross_sum) = sum.split_at_mut(size);
        if at_once {
            if size > 0 {
                calibrated.add_second_moment(&x, covariance);
            }
        } else {
            if let Some(randomiser) = &calibrated.covariance {
                let mut message = vec![0.0; size];
                calibrated.add_second_moment(&x, &mut message);
                randomiser.apply(&mut message, rng);
                covariance.iter_mut().zip(&message).for_each(|(s, m)| *s += m);
            }
            calibrated.cross.apply(&mut b, rng);
        }
        cross_sum.iter_mut().zip(&b).for_each(|(s, m)| *s += m);
        clipped
    })?;
    refuse_bad(bad.into_inner())?;
    let n = users.count();
    server.covariance.iter_mut().zip(&total).take(size).for_each(|(s, t)| *s = *t);
    server.cross.copy_from_slice(&total[size..]);
    server.messages = n;
    if at_once {
        let (scales, mut rng) = (calibrated.scales(), context.rng(0x9a05));
        let root = (n as f64).sqrt();
        let mut noisy = |values: &mut [f64], scale: f64| {
            for v in values {
                let z: f64 = StandardNormal.sample(&mut rng);
                *v += scale * root * z;
            }
        };
        noisy(&mut server.covariance, scales.covariance);
        noisy(&mut server.cross, scales.cross);
    }
    Ok(Simulation { estimate: server.estimate(config)?, clipped: clipped as f64 / n.max(1) as f64 })
}

/// Runs the interactive protocol over all users, every message drawn one by one.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_interactive(
    users: &impl Users,
    protocol: Protocol,
    config: InteractiveConfig,
    context: &Context,
) -> Result<Simulation, LdpError> {
    let mut server = InteractiveServer::new(protocol, config)?;
    let d = protocol.dimension;
    check(users, d)?;
    let per_round = users.count() / config.rounds;
    let mut clipped = 0;
    for round in 0..config.rounds {
        let theta = server.point().1.to_vec();
        let calibrated = server.calibrated();
        let bad = std::sync::atomic::AtomicU64::new(u64::MAX);
        let (from, to) = (round * per_round, (round + 1) * per_round);
        let (total, count) = sums(from, to, d, context, |user, sum, rng| {
            let (mut x, mut g) = ([0.0; 256], [0.0; 256]);
            let (mut long_x, mut long_g) = (Vec::new(), Vec::new());
            let (x, g) = if d <= 256 {
                (&mut x[..d], &mut g[..d])
            } else {
                long_x.resize(d, 0.0);
                long_g.resize(d, 0.0);
                (long_x.as_mut_slice(), long_g.as_mut_slice())
            };
            let y = users.record(user, x);
            if !(y.is_finite() && x.iter().all(|v| v.is_finite())) {
                bad.fetch_min(user as u64, std::sync::atomic::Ordering::Relaxed);
                return false;
            }
            let clipped = calibrated.gradient(x, y, &theta, g);
            calibrated.cross.apply(g, rng);
            sum.iter_mut().zip(g.iter()).for_each(|(s, v)| *s += v);
            clipped
        })?;
        refuse_bad(bad.into_inner())?;
        clipped += count;
        server.add(&total, to - from);
        server.finish_round()?;
    }
    Ok(Simulation {
        estimate: server.estimate()?,
        clipped: clipped as f64 / (per_round * config.rounds).max(1) as f64,
    })
}

fn check(users: &impl Users, d: usize) -> Result<(), LdpError> {
    if users.dimension() != d || users.count() == 0 {
        return Err(LdpError::Shape {
            expected: format!("users with {d} features"),
            got: format!("{} users with {}", users.count(), users.dimension()),
        });
    }
    Ok(())
}

fn refuse_bad(user: u64) -> Result<(), LdpError> {
    if user == u64::MAX {
        return Ok(());
    }
    Err(LdpError::NonFinite { user, what: "value of the record", index: 0 })
}
