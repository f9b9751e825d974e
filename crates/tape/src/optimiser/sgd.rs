//! Stochastic gradient descent with momentum.

use sparseland_matrix::Real;

use super::{Optimiser, StateError, find, numbers};
use crate::Parameters;

/// `v = momentum v + g + decay w`, `w -= rate v` (or with Nesterov's look-ahead), as in PyTorch.
#[derive(Debug, Clone)]
pub struct Sgd<R> {
    /// Share of the last velocity that is kept.
    pub momentum: f64,
    /// Whether the step looks ahead.
    pub nesterov: bool,
    /// Weight decay, through the velocity.
    pub decay: f64,
    velocity: Vec<Vec<R>>,
}

impl<R: Real> Sgd<R> {
    /// Without velocities yet.
    pub fn new(momentum: f64, nesterov: bool, decay: f64) -> Self {
        Self { momentum, nesterov, decay, velocity: Vec::new() }
    }

    fn prepare(&mut self, parameters: &Parameters<R>) {
        if self.velocity.is_empty() && self.momentum > 0.0 {
            let len = |p: &crate::Parameter<R>| if p.trains { p.value.len() } else { 0 };
            self.velocity = parameters.iter().map(|p| vec![R::ZERO; len(p)]).collect();
        }
    }
}

impl<R: Real> Optimiser<R> for Sgd<R> {
    fn step(&mut self, parameters: &mut Parameters<R>, rate: f64) {
        self.prepare(parameters);
        let (rate, momentum) = (R::real(rate), R::real(self.momentum));
        for (i, p) in parameters.iter_mut().enumerate().filter(|(_, p)| p.trains) {
            let decay = R::real(if p.decays { self.decay } else { 0.0 });
            let items = p.value.iter_mut().zip(p.gradient.iter());
            match self.velocity.get_mut(i) {
                None => items.for_each(|(w, g)| *w -= rate * (*g + decay * *w)),
                Some(velocity) => {
                    for ((w, g), v) in items.zip(velocity) {
                        let g = *g + decay * *w;
                        *v = momentum * *v + g;
                        *w -= rate * if self.nesterov { g + momentum * *v } else { *v };
                    }
                }
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.velocity.iter().map(|v| size_of_val(&v[..]) as u64).sum()
    }

    fn state(&self) -> Vec<(String, Vec<u8>)> {
        let blob = |(i, v): (usize, &Vec<R>)| (format!("sgd.{i}"), bytemuck::cast_slice(v).to_vec());
        self.velocity.iter().enumerate().map(blob).collect()
    }

    fn restore(&mut self, parameters: &Parameters<R>, blobs: &[(String, Vec<u8>)]) -> Result<(), StateError> {
        self.prepare(parameters);
        for (i, v) in self.velocity.iter_mut().enumerate() {
            *v = numbers(find(blobs, &format!("sgd.{i}"), size_of_val(&v[..]))?);
        }
        Ok(())
    }
}
