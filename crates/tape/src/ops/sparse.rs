//! Products with sparse weights: forwards, to the input, and to the values alone.

use std::sync::Arc;

use sparseland_matrix::{Pattern, Real};

use crate::{Backward, Forward, Op, ParamId, Parameters, Tape, Var};

/// `Y = X Sᵀ`, plus the second input if there is one.
struct SparseLinear {
    parameters: [ParamId; 1],
    pattern: Arc<Pattern>,
    rows: usize,
}

impl<R: Real> Op<R> for SparseLinear {
    fn name(&self) -> &'static str {
        "sparse linear"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let values = on.parameters.value(self.parameters[0]);
        let base = on.inputs.get(1);
        if let Some(base) = base {
            on.output.copy_from_slice(base);
        }
        self.pattern.multiply(values, on.inputs[0], self.rows, on.output, base.is_some());
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (values, slopes) = on.parameters.value_and_gradient(self.parameters[0]);
        if let Some(dx) = &mut on.gradients[0] {
            let (dx, beta) = dx.scaled();
            self.pattern.multiply_transposed(values, on.gradient, self.rows, dx, beta != R::ZERO);
        }
        if let Some(Some(base)) = on.gradients.get_mut(1) {
            base.accumulate(on.gradient);
        }
        let mut scratch = on.pool.take(self.pattern.scratch());
        self.pattern.sample_products(on.gradient, on.inputs[0], self.rows, slopes, &mut scratch);
        on.pool.give(scratch);
    }
}

impl<R: Real> Tape<R> {
    /// `X Sᵀ` for a sparse `S: out x in` whose non-zeros are the parameter `values`. The gradient is made only for
    /// them; no dense matrix stands anywhere.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn sparse_linear(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        pattern: &Arc<Pattern>,
        values: ParamId,
    ) -> Var {
        self.sparse(parameters, &[x], pattern, values)
    }

    /// `base + X Sᵀ`: as [`sparse_linear`](Self::sparse_linear), added to a value.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add_sparse_linear(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        base: Var,
        pattern: &Arc<Pattern>,
        values: ParamId,
    ) -> Var {
        assert_eq!(self.shape(base), (self.shape(x).0, pattern.rows()), "the base does not fit the product");
        self.sparse(parameters, &[x, base], pattern, values)
    }

    fn sparse(
        &mut self,
        parameters: &Parameters<R>,
        inputs: &[Var],
        pattern: &Arc<Pattern>,
        values: ParamId,
    ) -> Var {
        let (rows, inner) = self.shape(inputs[0]);
        assert_eq!(pattern.cols(), inner, "the weight does not fit its input");
        assert_eq!(parameters.value(values).len(), pattern.nonzeros(), "one value per entry");
        let op = SparseLinear { parameters: [values], pattern: Arc::clone(pattern), rows };
        self.push(parameters, op, inputs, rows, pattern.rows())
    }
}
