//! Channels of a multi-antenna link over an intelligent reflecting surface, and their measurements.
//!
//! A mobile station (`antennas_ms`) sends pilots over a surface of `elements` phase shifters to a base station
//! (`antennas_bs`). With the surface in pattern `p`, the channel is `H_p = H_BS diag(p) H_MS` (`bs x ms`), and what the
//! base station receives, stacked over patterns, pilots and antennas, is `y = (A_1 (x) A_2 (x) A_3) x + n`:
//!
//! - `A_1` (`patterns x grid`): the pattern against the difference of the two angles at the surface, of which only `grid`
//!   values differ;
//! - `A_2` (`pilots x grid`): the pilots against the angle of departure at the mobile station;
//! - `A_3` (`bs x grid`): the angle of arrival at the base station.

use std::f64::consts::PI;

use num_complex::Complex64;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use sparseland_linalg::{LinalgError, Mat, eigh_complex};

use super::tensor::{ComplexMat, kron_apply};

/// The sizes of a link; the defaults are the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IrsLink {
    /// Antennas of the mobile station. Default 6.
    pub antennas_ms: usize,
    /// Antennas of the base station. Default 16.
    pub antennas_bs: usize,
    /// Elements of the surface. Default 256.
    pub elements: usize,
    /// Angles per dictionary. Default 18.
    pub grid: usize,
    /// Contiguous angles of arrival (the angular spread). Default 3.
    pub spread: usize,
    /// Pilot vectors. Default 3.
    pub pilots: usize,
    /// Patterns of the surface. Default 6.
    pub patterns: usize,
}

impl Default for IrsLink {
    fn default() -> Self {
        IrsLink {
            antennas_ms: 6,
            antennas_bs: 16,
            elements: 256,
            grid: 18,
            spread: 3,
            pilots: 3,
            patterns: 6,
        }
    }
}

/// One drawn channel with its noiseless measurements.
#[derive(Debug, Clone)]
pub struct IrsChannel {
    /// The three factors of the dictionary.
    pub factors: Vec<ComplexMat>,
    /// The sparse vector, `grid^3`.
    pub x: Vec<Complex64>,
    /// `(A_1 (x) A_2 (x) A_3) x`, `patterns * pilots * antennas_bs`.
    pub signal: Vec<Complex64>,
    /// `conj(A_MS)`, `antennas_ms x grid`: in place of the second factor it gives channels instead of measurements.
    steering_ms: ComplexMat,
    link: IrsLink,
}

/// Column `i`: `sqrt(1 / D) exp(j pi (2 i / grid - 1) (0..D))`.
fn dictionary(antennas: usize, grid: usize) -> ComplexMat {
    let scale = (1.0 / antennas as f64).sqrt();
    ComplexMat::from_fn(antennas, grid, |k, i| {
        Complex64::from_polar(scale, PI * (2.0 * i as f64 / grid as f64 - 1.0) * k as f64)
    })
}

/// A circular complex normal number of variance one.
pub(super) fn normal(rng: &mut impl Rng) -> Complex64 {
    let mut part = || {
        let v: f64 = StandardNormal.sample(rng);
        v * 0.5f64.sqrt()
    };
    Complex64::new(part(), part())
}

impl IrsLink {
    /// Draws angles, gains, pilots and patterns.
    pub fn sample(&self, rng: &mut impl Rng) -> IrsChannel {
        let n = self.grid;
        let spread = self.spread as f64;
        let (ms, bs) = (dictionary(self.antennas_ms, n), dictionary(self.antennas_bs, n));
        let sign = |rng: &mut dyn rand::RngCore| if rng.random::<bool>() { 1.0 } else { -1.0 };
        let pilot_scale = (0.5 / self.antennas_ms as f64).sqrt();
        let pilots = ComplexMat::from_fn(self.antennas_ms, self.pilots, |_, _| {
            Complex64::new(sign(rng) * pilot_scale, sign(rng) * pilot_scale)
        });
        let pattern_scale = (1.0 / self.elements as f64).sqrt();
        let patterns =
            ComplexMat::from_fn(self.elements, self.patterns, |_, _| (sign(rng) * pattern_scale).into());
        // The difference of two surface angles: conj of the first column's product with all others.
        let difference = |m: usize, j: usize| {
            Complex64::from_polar(1.0 / self.elements as f64, -2.0 * PI * (j * m) as f64 / n as f64)
        };
        let first = ComplexMat::from_fn(self.patterns, n, |p, j| {
            (0..self.elements).map(|m| patterns.at(m, p) * difference(m, j)).sum()
        });
        let steering_ms = ComplexMat::from_fn(self.antennas_ms, n, |k, i| ms.at(k, i).conj());
        let second = ComplexMat::from_fn(self.pilots, n, |t, i| {
            (0..self.antennas_ms).map(|k| pilots.at(k, t) * steering_ms.at(k, i)).sum()
        });

        let departure_ms = rng.random_range(0..n);
        let departure_surface = rng.random_range(0..n);
        let contiguous = |rng: &mut dyn rand::RngCore| rng.random_range(0..=n - self.spread);
        let (arrival_surface, arrival_bs) = (contiguous(rng), contiguous(rng));
        let gain_ms: Vec<Complex64> = (0..self.spread).map(|_| normal(rng)).collect();
        let gain_bs: Vec<Complex64> = (0..self.spread).map(|_| normal(rng)).collect();
        let size = |antennas: usize| ((antennas * self.elements) as f64 / spread).sqrt();
        let scale = size(self.antennas_ms) * size(self.antennas_bs);
        let mut x = vec![Complex64::ZERO; n * n * n];
        for (l, &g) in gain_ms.iter().enumerate() {
            let j = (departure_surface + n - (arrival_surface + l)) % n;
            for (r, &h) in gain_bs.iter().enumerate() {
                x[(j * n + departure_ms) * n + arrival_bs + r] += g * h * scale;
            }
        }
        let factors = vec![first, second, bs];
        let signal = apply(&factors, &x);
        IrsChannel { factors, x, signal, steering_ms, link: *self }
    }
}

fn apply(factors: &[ComplexMat], x: &[Complex64]) -> Vec<Complex64> {
    let views: Vec<_> = factors.iter().map(|f| (f.data.as_slice(), f.rows, f.cols)).collect();
    kron_apply(&views, x)
}

impl IrsChannel {
    /// The channels `H_p` (`bs x ms`) of all patterns for a sparse vector.
    pub fn channels(&self, x: &[Complex64]) -> Vec<ComplexMat> {
        let mut factors = self.factors.clone();
        factors[1] = self.steering_ms.clone();
        let (ms, bs) = (self.link.antennas_ms, self.link.antennas_bs);
        apply(&factors, x)
            .chunks_exact(ms * bs)
            .map(|h| ComplexMat::from_fn(bs, ms, |b, a| h[a * bs + b]))
            .collect()
    }

    /// `||H - H'||^2 / ||H||^2`, averaged over the patterns.
    pub fn nmse(&self, estimate: &[Complex64]) -> f64 {
        let (truth, guess) = (self.channels(&self.x), self.channels(estimate));
        let ratio = |(t, g): (&ComplexMat, &ComplexMat)| super::nmse(&t.data, &g.data);
        truth.iter().zip(&guess).map(ratio).sum::<f64>() / truth.len() as f64
    }

    /// Fraction of wrong QPSK symbols when precoder and combiner are the leading singular vectors of the estimated
    /// channels, `symbols` per pattern, at noise variance `s2`.
    ///
    /// # Errors
    /// [`LinalgError`] when an estimate is not finite.
    pub fn symbol_error_rate(
        &self,
        estimate: &[Complex64],
        s2: f64,
        symbols: usize,
        rng: &mut impl Rng,
    ) -> Result<f64, LinalgError> {
        let (truth, guess) = (self.channels(&self.x), self.channels(estimate));
        let mut wrong = 0;
        for (h, g) in truth.iter().zip(&guess) {
            let ms = g.cols;
            let gram =
                ComplexMat::from_fn(ms, ms, |i, j| (0..g.rows).map(|k| g.at(k, i).conj() * g.at(k, j)).sum());
            let part = |f: fn(&Complex64) -> f64| Mat {
                rows: ms,
                cols: ms,
                data: gram.data.iter().map(f).collect(),
            };
            let e = eigh_complex(&part(|v| v.re), &part(|v| v.im))?;
            let v: Vec<Complex64> =
                (0..ms).map(|i| Complex64::new(e.real.at(i, 0), e.imaginary.at(i, 0))).collect();
            let times = |m: &ComplexMat| -> Vec<Complex64> {
                (0..m.rows).map(|k| m.row(k).iter().zip(&v).map(|(a, b)| a * b).sum()).collect()
            };
            let (seen, combiner) = (times(h), times(g));
            let norm = combiner.iter().map(Complex64::norm_sqr).sum::<f64>().sqrt();
            // u^H H v for the true channel; real and positive where the estimate is exact.
            let gain: Complex64 = combiner.iter().zip(&seen).map(|(u, h)| u.conj() * h).sum::<Complex64>()
                / norm.max(f64::MIN_POSITIVE);
            for _ in 0..symbols {
                let bits = (rng.random::<bool>(), rng.random::<bool>());
                let level = |b: bool| if b { 0.5f64.sqrt() } else { -(0.5f64.sqrt()) };
                let received = gain * Complex64::new(level(bits.0), level(bits.1)) + normal(rng) * s2.sqrt();
                wrong += usize::from((received.re > 0.0) != bits.0 || (received.im > 0.0) != bits.1);
            }
        }
        Ok(wrong as f64 / (symbols * truth.len()).max(1) as f64)
    }
}
