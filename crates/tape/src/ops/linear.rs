//! Products of matrices.

use rayon::prelude::*;
use sparseland_matrix::{Real, View, ViewMut};

use super::{add_column_sums, add_to, product, rows_per_piece};
use crate::{Backward, Forward, Op, ParamId, Parameters, Tape, Var};

/// `Y = X Wᵀ + b`.
struct Linear {
    parameters: Vec<ParamId>,
    rows: usize,
    inner: usize,
    cols: usize,
}

/// Adds `bias` to every row.
pub(super) fn add_bias<R: Real>(bias: &[R], y: &mut [R]) {
    let piece = rows_per_piece(bias.len()) * bias.len();
    y.par_chunks_mut(piece)
        .for_each(|rows| rows.chunks_exact_mut(bias.len()).for_each(|row| add_to(bias, row)));
}

impl<R: Real> Op<R> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let x = View::new(on.inputs[0], self.rows, self.inner);
        let w = View::new(on.parameters.value(self.parameters[0]), self.cols, self.inner);
        product(on.precision, x, w.t(), R::ZERO, ViewMut::new(on.output, self.rows, self.cols));
        if let Some(&bias) = self.parameters.get(1) {
            add_bias(on.parameters.value(bias), on.output);
        }
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let dy = View::new(on.gradient, self.rows, self.cols);
        let (w, dw) = on.parameters.value_and_gradient(self.parameters[0]);
        if let Some(dx) = &mut on.gradients[0] {
            let (dx, beta) = dx.scaled();
            let w = View::new(w, self.cols, self.inner);
            product(on.precision, dy, w, beta, ViewMut::new(dx, self.rows, self.inner));
        }
        let x = View::new(on.inputs[0], self.rows, self.inner);
        product(on.precision, dy.t(), x, R::ONE, ViewMut::new(dw, self.cols, self.inner));
        if let Some(&bias) = self.parameters.get(1) {
            add_column_sums(on.gradient, self.cols, on.parameters.value_and_gradient(bias).1);
        }
    }
}

/// `Y = X + b` for every row.
struct Bias {
    parameters: [ParamId; 1],
    cols: usize,
}

impl<R: Real> Op<R> for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        on.output.copy_from_slice(on.inputs[0]);
        add_bias(on.parameters.value(self.parameters[0]), on.output);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            dx.accumulate(on.gradient);
        }
        add_column_sums(on.gradient, self.cols, on.parameters.value_and_gradient(self.parameters[0]).1);
    }
}

/// `C = A B` of two values.
struct MatMul {
    shape: (usize, usize, usize),
}

impl<R: Real> Op<R> for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (m, k, n) = self.shape;
        let (a, b) = (View::new(on.inputs[0], m, k), View::new(on.inputs[1], k, n));
        product(on.precision, a, b, R::ZERO, ViewMut::new(on.output, m, n));
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (m, k, n) = self.shape;
        let (a, b, dc) =
            (View::new(on.inputs[0], m, k), View::new(on.inputs[1], k, n), View::new(on.gradient, m, n));
        if let Some(da) = &mut on.gradients[0] {
            let (da, beta) = da.scaled();
            product(on.precision, dc, b.t(), beta, ViewMut::new(da, m, k));
        }
        if let Some(db) = &mut on.gradients[1] {
            let (db, beta) = db.scaled();
            product(on.precision, a.t(), dc, beta, ViewMut::new(db, k, n));
        }
    }
}

impl<R: Real> Tape<R> {
    /// `X Wᵀ + b`: `x` is `rows x in`, the parameter `weight` `out x in`, `bias` has `out` numbers.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
    ) -> Var {
        let (rows, inner) = self.shape(x);
        let cols = parameters.value(weight).len() / inner;
        assert_eq!(parameters.get(weight).shape, [cols, inner], "the weight does not fit its input");
        assert!(bias.is_none_or(|b| parameters.value(b).len() == cols), "the bias does not fit the weight");
        let op = Linear { parameters: std::iter::once(weight).chain(bias).collect(), rows, inner, cols };
        self.push(parameters, op, &[x], rows, cols)
    }

    /// `x + bias` for every row.
    ///
    /// # Panics
    /// If the bias has not one number per column.
    pub fn bias(&mut self, parameters: &Parameters<R>, x: Var, bias: ParamId) -> Var {
        let (rows, cols) = self.shape(x);
        assert_eq!(parameters.value(bias).len(), cols, "the bias does not fit");
        self.push(parameters, Bias { parameters: [bias], cols }, &[x], rows, cols)
    }

    /// `A B`.
    ///
    /// # Panics
    /// If the inner dimensions differ.
    pub fn matmul(&mut self, parameters: &Parameters<R>, a: Var, b: Var) -> Var {
        let ((m, k), (k2, n)) = (self.shape(a), self.shape(b));
        assert_eq!(k, k2, "inner dimensions differ");
        self.push(parameters, MatMul { shape: (m, k, n) }, &[a, b], m, n)
    }
}
