//! Sums, means and softmax.

use rayon::prelude::*;
use sparseland_matrix::Real;

use super::rows_per_piece;
use crate::{Backward, Forward, Op, Parameters, Tape, Var};

/// `factor` times the sum of all numbers.
struct Total<R>(R);

impl<R: Real> Op<R> for Total<R> {
    fn name(&self) -> &'static str {
        "total"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let total: f64 = on.inputs[0].iter().map(|v| v.to_f64()).sum();
        on.output[0] = R::real(total) * self.0;
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let g = on.gradient[0] * self.0;
            dx.add().iter_mut().for_each(|d| *d += g);
        }
    }
}

/// Softmax of every row.
struct Softmax {
    cols: usize,
}

impl<R: Real> Op<R> for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let piece = rows_per_piece(self.cols) * self.cols;
        on.output.par_chunks_mut(piece).zip(on.inputs[0].par_chunks(piece)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(self.cols).zip(x.chunks_exact(self.cols)) {
                let top = x.iter().fold(R::LOWEST, |a, b| b.larger(a));
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (*x - top).exp());
                let total = y.iter().copied().sum::<R>();
                y.iter_mut().for_each(|y| *y /= total);
            }
        });
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let rows = dx.add().chunks_exact_mut(self.cols).zip(on.output.chunks_exact(self.cols));
            for ((dx, y), dy) in rows.zip(on.gradient.chunks_exact(self.cols)) {
                let inner = y.iter().zip(dy).map(|(y, g)| *y * *g).sum::<R>();
                dx.iter_mut().zip(y).zip(dy).for_each(|((d, y), g)| *d += *y * (*g - inner));
            }
        }
    }
}

impl<R: Real> Tape<R> {
    /// The sum of all numbers.
    pub fn sum(&mut self, parameters: &Parameters<R>, x: Var) -> Var {
        self.push(parameters, Total(R::ONE), &[x], 1, 1)
    }

    /// The mean of all numbers.
    pub fn mean(&mut self, parameters: &Parameters<R>, x: Var) -> Var {
        let count = self.value(x).len().max(1);
        self.push(parameters, Total(R::real(1.0 / count as f64)), &[x], 1, 1)
    }

    /// `e^x / sum e^x` for every row.
    pub fn softmax(&mut self, parameters: &Parameters<R>, x: Var) -> Var {
        let (rows, cols) = self.shape(x);
        self.push(parameters, Softmax { cols }, &[x], rows, cols)
    }
}
