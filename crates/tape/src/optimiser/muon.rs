//! Muon: momentum whose step is orthogonalised (Jordan et al., 2024).

use sparseland_matrix::{Real, Threads, View, ViewMut, gemm};

use super::{AdamW, Optimiser, StateBits, StateError, find, numbers};
use crate::{Parameter, Parameters};

/// Coefficients of the quintic iteration, from the authors: fast, not exact; singular values end in about 0.7..1.2.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);

/// `B = momentum B + g`, `w -= rate sqrt(max(1, rows / cols)) orthogonal(g + momentum B)` for the chosen matrices,
/// and [`AdamW`] for all other parameters.
pub struct Muon<R: Real> {
    /// Share of the last momentum that is kept.
    pub momentum: f64,
    /// Decoupled weight decay of the matrices.
    pub decay: f64,
    /// Iterations of the orthogonalisation.
    pub iterations: usize,
    /// AdamW's learning rate relative to Muon's.
    pub others_rate: f64,
    chosen: fn(&Parameter<R>) -> bool,
    others: AdamW<R>,
    momenta: Vec<Vec<R>>,
}

impl<R: Real> Muon<R> {
    /// Orthogonalises the steps of the matrices that `chosen` says yes to: usually all of the hidden layers, not
    /// embedding and head.
    pub fn new(chosen: fn(&Parameter<R>) -> bool, decay: f64, others_rate: f64) -> Self {
        let others = AdamW::new(decay, StateBits::Full);
        Self { momentum: 0.95, decay, iterations: 5, others_rate, chosen, others, momenta: Vec::new() }
    }

    fn takes(&self, p: &Parameter<R>) -> bool {
        p.trains && p.shape.len() == 2 && (self.chosen)(p)
    }

    fn prepare(&mut self, parameters: &Parameters<R>) {
        if self.momenta.is_empty() {
            let len = |p: &Parameter<R>| if self.takes(p) { p.value.len() } else { 0 };
            self.momenta = parameters.iter().map(|p| vec![R::ZERO; len(p)]).collect();
        }
    }
}

/// `x` with its singular values moved towards 1, `rows x cols`.
fn orthogonalise<R: Real>(x: &mut Vec<R>, rows: usize, cols: usize, iterations: usize) {
    let norm = x.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>().sqrt() + 1e-7;
    x.iter_mut().for_each(|v| *v /= R::real(norm));
    let (a, b, c) = (R::real(QUINTIC.0), R::real(QUINTIC.1), R::real(QUINTIC.2));
    let side = rows.min(cols);
    let (mut gram, mut square, mut next) =
        (vec![R::ZERO; side * side], vec![R::ZERO; side * side], vec![R::ZERO; x.len()]);
    for _ in 0..iterations {
        let view = View::new(x, rows, cols);
        // The smaller Gram matrix: X Xᵀ or Xᵀ X.
        let (left, right) = if rows <= cols { (view, view.t()) } else { (view.t(), view) };
        gemm(Threads::Pool, R::ONE, left, right, R::ZERO, ViewMut::new(&mut gram, side, side));
        let g = View::new(&gram, side, side);
        square.copy_from_slice(&gram);
        gemm(Threads::Pool, c, g, g, b, ViewMut::new(&mut square, side, side));
        next.copy_from_slice(x);
        let s = View::new(&square, side, side);
        let out = ViewMut::new(&mut next, rows, cols);
        let view = View::new(x, rows, cols);
        if rows <= cols {
            gemm(Threads::Pool, R::ONE, s, view, a, out);
        } else {
            gemm(Threads::Pool, R::ONE, view, s, a, out);
        }
        std::mem::swap(x, &mut next);
    }
}

impl<R: Real> Optimiser<R> for Muon<R> {
    fn step(&mut self, parameters: &mut Parameters<R>, rate: f64) {
        self.prepare(parameters);
        let momentum = R::real(self.momentum);
        let mut frozen = Vec::new();
        for (i, p) in parameters.iter_mut().enumerate() {
            if !self.takes(p) {
                continue;
            }
            let (rows, cols) = (p.shape[0], p.shape[1]);
            let step = self.momenta[i].iter_mut().zip(p.gradient.iter()).map(|(b, g)| {
                *b = momentum * *b + *g;
                *g + momentum * *b
            });
            let mut step: Vec<R> = step.collect();
            orthogonalise(&mut step, rows, cols, self.iterations);
            let scale = R::real(rate * (rows as f64 / cols as f64).max(1.0).sqrt());
            let keep = R::real(1.0 - rate * if p.decays { self.decay } else { 0.0 });
            p.value.iter_mut().zip(&step).for_each(|(w, s)| *w = keep * *w - scale * *s);
            p.trains = false;
            frozen.push(i);
        }
        self.others.step(parameters, rate * self.others_rate);
        parameters.iter_mut().enumerate().for_each(|(i, p)| p.trains |= frozen.contains(&i));
    }

    fn bytes(&self) -> u64 {
        self.momenta.iter().map(|m| size_of_val(&m[..]) as u64).sum::<u64>() + self.others.bytes()
    }

    fn state(&self) -> Vec<(String, Vec<u8>)> {
        let blob = |(i, m): (usize, &Vec<R>)| (format!("muon.{i}"), bytemuck::cast_slice(m).to_vec());
        self.momenta.iter().enumerate().map(blob).chain(self.others.state()).collect()
    }

    fn restore(&mut self, parameters: &Parameters<R>, blobs: &[(String, Vec<u8>)]) -> Result<(), StateError> {
        self.prepare(parameters);
        for (i, m) in self.momenta.iter_mut().enumerate() {
            *m = numbers(find(blobs, &format!("muon.{i}"), size_of_val(&m[..]))?);
        }
        let mut others = parameters.clone();
        let takes: Vec<bool> = others.iter().map(|p| self.takes(p)).collect();
        others.iter_mut().zip(takes).for_each(|(p, takes)| p.trains &= !takes);
        self.others.restore(&others, blobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_move_close_to_one() {
        for (rows, cols) in [(7, 12), (12, 7), (9, 9)] {
            let mut x: Vec<f64> =
                (0..rows * cols).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
            orthogonalise(&mut x, rows, cols, 5);
            // The Gram matrix of the smaller side has eigenvalues in about 0.4..1.5: bounds by its trace and
            // its entries.
            let side = rows.min(cols);
            let at = |i: usize, j: usize| {
                (0..rows.max(cols))
                    .map(|k| {
                        if rows <= cols {
                            x[i * cols + k] * x[j * cols + k]
                        } else {
                            x[k * cols + i] * x[k * cols + j]
                        }
                    })
                    .sum::<f64>()
            };
            for i in 0..side {
                assert!((0.3..1.6).contains(&at(i, i)), "{}", at(i, i));
                assert!((0..i).all(|j| at(i, j).abs() < 0.5));
            }
        }
    }
}
