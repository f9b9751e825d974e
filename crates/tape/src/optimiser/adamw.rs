//! Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with full or 8-bit state.

use rayon::prelude::*;
use sparseland_matrix::Real;

use super::{Optimiser, StateError, find, numbers};
use crate::Parameters;

/// Numbers that share the scale of an 8-bit state, as in bitsandbytes.
const BLOCK: usize = 2048;

/// How the moments are kept between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateBits {
    /// In the parameters' own type.
    #[default]
    Full,
    /// In 8 bits with a scale per 2048 numbers.
    Eight,
}

/// Moments of one parameter.
#[derive(Debug, Clone)]
enum Moments<R> {
    Full { first: Vec<R>, second: Vec<R> },
    Eight(Vec<Block>),
}

/// Up to [`BLOCK`] moments in 8 bits. The first moment is kept as its signed square root, the second as its fourth
/// root, relative to the block's largest: a second moment that rounds to zero would make a step explode, and the
/// fourth root keeps ten decades apart.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    scales: [f32; 2],
    first: Vec<i8>,
    second: Vec<u8>,
}

impl Block {
    fn new(len: usize) -> Self {
        Self { scales: [0.0; 2], first: vec![0; len], second: vec![0; len] }
    }

    fn read<R: Real>(&self, first: &mut [R], second: &mut [R]) {
        for (out, &code) in first.iter_mut().zip(&self.first) {
            let root = f64::from(code) / 127.0;
            *out = R::real(root * root.abs() * f64::from(self.scales[0]));
        }
        for (out, &code) in second.iter_mut().zip(&self.second) {
            *out = R::real((f64::from(code) / 255.0).powi(4) * f64::from(self.scales[1]));
        }
    }

    fn write<R: Real>(&mut self, first: &[R], second: &[R]) {
        let largest = |x: &[R]| x.iter().fold(0.0f32, |a, v| a.max(v.to_f64().abs() as f32));
        self.scales = [largest(first), largest(second)];
        let share = |v: R, scale: f32| if scale > 0.0 { v.to_f64() / f64::from(scale) } else { 0.0 };
        for (code, &v) in self.first.iter_mut().zip(first) {
            let x = share(v, self.scales[0]);
            *code = (x.abs().sqrt().copysign(x) * 127.0).round() as i8;
        }
        for (code, &v) in self.second.iter_mut().zip(second) {
            // Rounded up: too small a second moment makes too large a step.
            *code = (share(v, self.scales[1]).max(0.0).sqrt().sqrt() * 255.0).ceil() as u8;
        }
    }
}

/// `w -= rate (m / (sqrt(v) + epsilon) + decay w)` with bias-corrected moments.
#[derive(Debug, Clone)]
pub struct AdamW<R> {
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of parameters that decay.
    pub decay: f64,
    bits: StateBits,
    steps: u64,
    moments: Vec<Option<Moments<R>>>,
}

struct Update<R> {
    betas: (R, R),
    epsilon: R,
    rate: R,
    /// Inverse of the second moment's bias correction.
    unbias: R,
    keep: R,
}

sparseland_matrix::vectorised! {
    fn update<R: Real>(u: &Update<R>, w: &mut [R], g: &[R], first: &mut [R], second: &mut [R]) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(first).zip(second) {
            *m = u.betas.0 * *m + (R::ONE - u.betas.0) * *g;
            *v = u.betas.1 * *v + (R::ONE - u.betas.1) * *g * *g;
            *w = u.keep * *w - u.rate * *m / ((*v * u.unbias).sqrt() + u.epsilon);
        }
    }
}

impl<R: Real> AdamW<R> {
    /// `betas = (0.9, 0.999)`, `epsilon = 1e-8`.
    pub fn new(decay: f64, bits: StateBits) -> Self {
        Self { betas: (0.9, 0.999), epsilon: 1e-8, decay, bits, steps: 0, moments: Vec::new() }
    }

    fn prepare(&mut self, parameters: &Parameters<R>) {
        if !self.moments.is_empty() {
            return;
        }
        let blocks = |len: usize| (0..len).step_by(BLOCK).map(|i| Block::new(BLOCK.min(len - i))).collect();
        let moments = |p: &crate::Parameter<R>| {
            let len = p.value.len();
            p.trains.then(|| match self.bits {
                StateBits::Full => Moments::Full { first: vec![R::ZERO; len], second: vec![R::ZERO; len] },
                StateBits::Eight => Moments::Eight(blocks(len)),
            })
        };
        self.moments = parameters.iter().map(moments).collect();
    }
}

impl<R: Real> Optimiser<R> for AdamW<R> {
    fn step(&mut self, parameters: &mut Parameters<R>, rate: f64) {
        self.prepare(parameters);
        self.steps += 1;
        let correct = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        for (p, moments) in parameters.iter_mut().zip(&mut self.moments) {
            let Some(moments) = moments else { continue };
            let decay = if p.decays { self.decay } else { 0.0 };
            let u = Update {
                betas: (R::real(self.betas.0), R::real(self.betas.1)),
                epsilon: R::real(self.epsilon),
                rate: R::real(rate / correct(self.betas.0)),
                unbias: R::real(1.0 / correct(self.betas.1)),
                keep: R::real(1.0 - rate * decay),
            };
            let items = p.value.par_chunks_mut(BLOCK).zip(p.gradient.par_chunks(BLOCK));
            match moments {
                Moments::Full { first, second } => items
                    .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
                    .for_each(|((w, g), (m, v))| update(&u, w, g, m, v)),
                Moments::Eight(blocks) => items.zip(blocks).for_each(|((w, g), block)| {
                    let (mut m, mut v) = ([R::ZERO; BLOCK], [R::ZERO; BLOCK]);
                    let (m, v) = (&mut m[..w.len()], &mut v[..w.len()]);
                    block.read(m, v);
                    update(&u, w, g, m, v);
                    block.write(m, v);
                }),
            }
        }
    }

    fn bytes(&self) -> u64 {
        let of = |m: &Moments<R>| match m {
            Moments::Full { first, second } => size_of_val(&first[..]) + size_of_val(&second[..]),
            Moments::Eight(blocks) => blocks.iter().map(|b| 8 + b.first.len() + b.second.len()).sum(),
        };
        self.moments.iter().flatten().map(|m| of(m) as u64).sum()
    }

    fn state(&self) -> Vec<(String, Vec<u8>)> {
        let mut blobs = vec![("adamw.steps".to_owned(), self.steps.to_le_bytes().to_vec())];
        for (i, moments) in self.moments.iter().enumerate() {
            match moments {
                None => {}
                Some(Moments::Full { first, second }) => {
                    blobs.push((format!("adamw.{i}.first"), bytemuck::cast_slice(first).to_vec()));
                    blobs.push((format!("adamw.{i}.second"), bytemuck::cast_slice(second).to_vec()));
                }
                Some(Moments::Eight(blocks)) => {
                    let mut blob = Vec::new();
                    for b in blocks {
                        blob.extend_from_slice(bytemuck::cast_slice(&b.scales));
                        blob.extend_from_slice(bytemuck::cast_slice(&b.first));
                        blob.extend_from_slice(&b.second);
                    }
                    blobs.push((format!("adamw.{i}.eight"), blob));
                }
            }
        }
        blobs
    }

    fn restore(&mut self, parameters: &Parameters<R>, blobs: &[(String, Vec<u8>)]) -> Result<(), StateError> {
        self.prepare(parameters);
        let steps = find(blobs, "adamw.steps", 8)?;
        self.steps = u64::from_le_bytes(steps.try_into().expect("eight bytes"));
        if self.steps == 0 {
            return Ok(());
        }
        for (i, moments) in self.moments.iter_mut().enumerate() {
            match moments {
                None => {}
                Some(Moments::Full { first, second }) => {
                    let bytes = size_of_val(&first[..]);
                    *first = numbers(find(blobs, &format!("adamw.{i}.first"), bytes)?);
                    *second = numbers(find(blobs, &format!("adamw.{i}.second"), bytes)?);
                }
                Some(Moments::Eight(blocks)) => {
                    let bytes = blocks.iter().map(|b| 8 + 2 * b.first.len()).sum();
                    let mut blob = find(blobs, &format!("adamw.{i}.eight"), bytes)?;
                    for b in blocks {
                        let (scales, rest) = blob.split_at(8);
                        let (first, rest) = rest.split_at(b.first.len());
                        let (second, rest) = rest.split_at(b.second.len());
                        b.scales.copy_from_slice(&numbers::<f32>(scales));
                        b.first.copy_from_slice(bytemuck::cast_slice(first));
                        b.second.copy_from_slice(second);
                        blob = rest;
                    }
                }
            }
        }
        Ok(())
    }
}
