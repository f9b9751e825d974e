//! Sparse linear regression under local differential privacy: every user sends one randomised message.
//!
//! Paper: L. Zhu, M. Ding, V. Aggarwal, J. Xu, D. Wang, "Improved Analysis of Sparse Linear Regression in Local
//! Differential Privacy Model", ICLR 2024, arXiv 2310.07367. The ball mechanism is that of Duchi, Jordan and Wainwright
//! 2018; the calibration of Gaussian noise that of Balle and Wang 2018.
//!
//! # Problem
//! User `i` holds `x_i` (length `d`) and `y_i = <x_i, theta*> + noise`, `theta*` with few non-zeros. The message `m` of a
//! user satisfies `P[m in S | (x, y)] <= e^epsilon P[m in S | (x', y')] + delta` for all records and events. The server
//! estimates `theta*`:
//!
//! | protocol | message | estimate | l2 error, up to logarithms |
//! |---|---|---|---|
//! | [`Query::Moments`] (non-interactive) | `x x^T` and `x y`, noisy | `threshold(S^-1 b)` | `d sqrt(k) / (sqrt(n) eps)` |
//! | [`Query::Cross`] with public features | `x y`, noisy | `threshold(S^-1 b)`, `S` from the public rows | `sqrt(d k) / (sqrt(n) eps)` |
//! | [`Query::Gradient`] (interactive) | `x (<x, theta_t> - y)` by the ball mechanism | `T` rounds of thresholded gradient steps | `k sqrt(d) / (sqrt(n) eps)` |
//! | none: [`thresholded_least_squares`] | the data themselves | `threshold((X^T X)^-1 X^T y)` | |
//!
//! Records are clipped to [`Bounds`] that the caller gives: bounds taken from the data would themselves leak.
//!
//! # Cost
//! Client: `O(d^2)` noise draws for moments, `O(d)` else. Server: one addition per value of a message, `O(d^3)` at the
//! end; memory `d^2 / 2`.
//!
//! # How sure we are, and where we differ
//! The paper's own code is not public. Constants follow from the abstract, the public reviews, two re-implementations by
//! others, and standard mechanisms; do not read them as the paper's.
//! - The budget of a moments message is split in half. Gaussian noise is calibrated exactly, not by the classical formula.
//! - The cross moment uses the record shrunk in l2 norm by default ([`CrossClip`]); the paper clips coordinates.
//! - Public rows meet their own clipped copies, `S = mean(clip(x) x^T)`, which cancels the bias of clipping.
//! - The interactive default shrinks gradients ([`Radius::score_clip`]) and thresholds softly; the paper's radius carries
//!   another `sqrt(k)` and is offered as [`Radius::Paper`] with [`Update::Hard`].
//!
//! # When not to use it
//! With fewer than about `d^4 / eps^2` users the non-interactive error often exceeds `||theta*||`: [`Flags::underpowered`]
//! says so, and the zero vector would do better. If one trusted party may see the data, central privacy needs far less
//! noise. Floating-point noise leaks its low bits in theory (Mironov 2012): set [`Protocol::grid`].
//!
//! # Example
//! ```
//! use sparseland_estimate::ldp_regression::*;
//!
//! let protocol = Protocol {
//!     dimension: 2,
//!     epsilon: 4.0,
//!     delta: 1e-5,
//!     bounds: Bounds { l2: 1.5, coordinate: 1.0, response: 1.5 },
//!     query: Query::Moments { noise: MomentNoise::Gaussian, cross: CrossClip::L2 },
//!     grid: 0.0,
//! };
//! let mut client = Client::new(protocol, Randomness::InsecureSeed(1))?; // Randomness::System outside of examples
//! let mut server = Server::new(protocol)?;
//! for user in 0..20_000u64 {
//!     let x = [if user % 2 == 0 { 1.0 } else { -1.0 }, if user % 3 == 0 { 1.0 } else { -1.0 }];
//!     server.ingest(&client.encode(user, &x, x[0], None)?)?;
//! }
//! let found = server.estimate(&EstimateConfig { threshold: Threshold::Top(1), ..EstimateConfig::default() })?;
//! assert!((found.theta[0] - 1.0).abs() < 0.2 && found.theta[1] == 0.0);
//! assert!(client.encode(7, &[1.0, 1.0], 0.0, None).is_err()); // user 7 has sent already
//! # Ok::<(), LdpError>(())
//! ```

mod error;
pub mod experiment;
mod mechanisms;
mod protocol;
mod server;
mod simulate;
#[cfg(test)]
mod tests;

pub use error::LdpError;
pub use mechanisms::{ball, ball_norm, gaussian_delta, gaussian_scale};
pub use protocol::{
    Accountant, Bounds, Client, Content, CrossClip, Message, MomentNoise, NoiseScales, Protocol, Query,
    Radius, Randomness,
};
pub use server::{
    Ball, Estimate, EstimateConfig, Flags, InteractiveConfig, InteractiveServer, Server, Threshold, Update,
    thresholded_least_squares,
};
pub use simulate::{Features, LinearUsers, Rows, Simulation, Users, simulate, simulate_interactive};
