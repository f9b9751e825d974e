//! Products with a weight of which a mask leaves entries out, with straight-through gradients.

use std::sync::Arc;

use sparseland_matrix::{LinearMap, Matrix, Real, View, ViewMut};

use super::product;
use crate::{Backward, Forward, Op, ParamId, Parameters, Tape, Var};

/// A mask over a dense master, and the same weight packed, if there is a kernel for it.
#[derive(Debug, Clone)]
pub struct Masked {
    /// Whether each entry takes part, row-major.
    pub mask: Vec<bool>,
    /// The masked weight as a sparse matrix; without it the products are dense.
    pub packed: Option<Matrix>,
}

/// `Y = X (E * W)ᵀ`, whose gradient for `W` is that for `E * W`, all of it.
struct MaskedLinear {
    parameters: [ParamId; 1],
    weight: Arc<Masked>,
    rows: usize,
    inner: usize,
    cols: usize,
}

impl MaskedLinear {
    fn dense<R: Real>(&self, master: &[R], out: &mut [R]) {
        let items = out.iter_mut().zip(master).zip(&self.weight.mask);
        items.for_each(|((o, w), &used)| *o = if used { *w } else { R::ZERO });
    }
}

impl<R: Real> Op<R> for MaskedLinear {
    fn name(&self) -> &'static str {
        "masked linear"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        if let (Some(packed), Some(x)) = (&self.weight.packed, R::as_f32(on.inputs[0])) {
            let y = R::as_f32_mut(on.output).expect("as the input");
            return packed.apply_batch(x, self.rows, y);
        }
        let mut used = on.pool.take(self.inner * self.cols);
        self.dense(on.parameters.value(self.parameters[0]), &mut used);
        let (x, w) =
            (View::new(on.inputs[0], self.rows, self.inner), View::new(&used, self.cols, self.inner));
        product(on.precision, x, w.t(), R::ZERO, ViewMut::new(on.output, self.rows, self.cols));
        on.pool.give(used);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let dy = View::new(on.gradient, self.rows, self.cols);
        let (master, slopes) = on.parameters.value_and_gradient(self.parameters[0]);
        if let Some(dx) = &mut on.gradients[0] {
            // The transposed product gains nothing from N:M along rows: a dense one.
            let mut used = on.pool.take(self.inner * self.cols);
            self.dense(master, &mut used);
            let (dx, beta) = dx.scaled();
            let w = View::new(&used, self.cols, self.inner);
            product(on.precision, dy, w, beta, ViewMut::new(dx, self.rows, self.inner));
            on.pool.give(used);
        }
        let x = View::new(on.inputs[0], self.rows, self.inner);
        product(on.precision, dy.t(), x, R::ONE, ViewMut::new(slopes, self.cols, self.inner));
    }
}

impl<R: Real> Tape<R> {
    /// `X (E * W)ᵀ` for the parameter `master: out x in` and a mask `E`; the gradient reaches every entry of the
    /// master as if it were used (straight through).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn masked_linear(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        master: ParamId,
        weight: &Arc<Masked>,
    ) -> Var {
        let (rows, inner) = self.shape(x);
        let cols = weight.mask.len() / inner;
        assert_eq!(parameters.get(master).shape, [cols, inner], "the weight does not fit its input");
        let op = MaskedLinear { parameters: [master], weight: Arc::clone(weight), rows, inner, cols };
        self.push(parameters, op, &[x], rows, cols)
    }
}
