//! The tape: values in the order of their making, and the way back.

use std::collections::HashMap;

use sparseland_matrix::{Buffer, Precision, Real};

use crate::{ParamId, Parameters};

/// A value on the tape: a matrix of `rows x cols`. Valid until the tape is cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(usize);

/// Buffers of past steps, by length. A step that repeats the shapes of an earlier one allocates nothing.
#[derive(Debug)]
pub struct Pool<R: Real> {
    spare: HashMap<usize, Vec<Buffer<R>>>,
    /// Numbers handed out by allocation, for tests and reports.
    allocated: usize,
}

impl<R: Real> Pool<R> {
    /// A buffer with arbitrary contents.
    pub fn take(&mut self, len: usize) -> Buffer<R> {
        self.spare.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| {
            self.allocated += len;
            Buffer::zeros(len)
        })
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, len: usize) -> Buffer<R> {
        let mut buffer = self.take(len);
        buffer.fill(R::ZERO);
        buffer
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Buffer<R>) {
        if !buffer.is_empty() {
            self.spare.entry(buffer.len()).or_default().push(buffer);
        }
    }
}

/// What an operation sees on its way forward.
pub struct Forward<'a, R: Real> {
    /// The values of the inputs, in order.
    pub inputs: &'a [&'a [R]],
    /// To be filled; its contents are arbitrary.
    pub output: &'a mut [R],
    /// The model's parameters.
    pub parameters: &'a Parameters<R>,
    /// Buffers to work in or to keep until the way back.
    pub pool: &'a mut Pool<R>,
    /// Whether there will be a way back: what only it needs can be left out otherwise.
    pub recording: bool,
    /// How the factors of dense products are taken.
    pub precision: Precision,
}

/// The gradient of one input, to which an operation adds its part.
pub struct Gradient<R: Real> {
    buffer: Buffer<R>,
    fresh: bool,
}

impl<R: Real> Gradient<R> {
    /// The gradient so far, to add to; zeros at first.
    pub fn add(&mut self) -> &mut [R] {
        if std::mem::take(&mut self.fresh) {
            self.buffer.fill(R::ZERO);
        }
        &mut self.buffer
    }

    /// Adds the numbers of a slice: a plain copy for the first part.
    pub fn accumulate(&mut self, part: &[R]) {
        if std::mem::take(&mut self.fresh) {
            crate::ops::pieces(part, &mut self.buffer, |part, out| out.copy_from_slice(part));
        } else {
            crate::ops::pieces(part, &mut self.buffer, crate::ops::add_to);
        }
    }

    /// The buffer, and what its contents must be multiplied by before the operation's part is added: 0 if it
    /// holds arbitrary numbers, 1 otherwise. The `beta` of a matrix product.
    pub fn scaled(&mut self) -> (&mut [R], R) {
        let beta = if std::mem::take(&mut self.fresh) { R::ZERO } else { R::ONE };
        (&mut self.buffer, beta)
    }
}

/// What an operation sees on its way back.
pub struct Backward<'a, R: Real> {
    /// The values of the inputs, in order.
    pub inputs: &'a [&'a [R]],
    /// The value that the operation made.
    pub output: &'a [R],
    /// The derivative of the loss by the output.
    pub gradient: &'a [R],
    /// The gradients of the inputs; `None` where nothing below needs one.
    pub gradients: &'a mut [Option<Gradient<R>>],
    /// The model's parameters: their gradients are added to.
    pub parameters: &'a mut Parameters<R>,
    /// Buffers to work in.
    pub pool: &'a mut Pool<R>,
    /// How the factors of dense products are taken.
    pub precision: Precision,
}

/// A differentiable operation. Operations made outside this crate are like those made inside.
pub trait Op<R: Real>: Send {
    /// A short name, for messages.
    fn name(&self) -> &'static str;

    /// Fills the output.
    fn forward(&mut self, on: Forward<'_, R>);

    /// Adds to the gradients of the inputs and of the parameters.
    fn backward(&mut self, on: Backward<'_, R>);

    /// The parameters it reads: with one, the operation has a way back even if no input has.
    fn parameters(&self) -> &[ParamId] {
        &[]
    }

    /// Gives kept buffers back once the way back is done or abandoned.
    fn release(&mut self, _pool: &mut Pool<R>) {}
}

struct Node<R: Real> {
    rows: usize,
    cols: usize,
    value: Buffer<R>,
    gradient: Option<Buffer<R>>,
    inputs: Vec<usize>,
    op: Option<Box<dyn Op<R>>>,
    needs_gradient: bool,
}

/// Records operations as they run and differentiates the last value by all before it.
///
/// ```
/// use sparseland_tape::{Parameters, Tape};
/// let mut parameters = Parameters::<f64>::new();
/// let w = parameters.add("w", &[1, 2], &[3.0, -1.0]);
/// let mut tape = Tape::new();
/// let x = tape.input(1, 2, &[2.0, 5.0]);
/// let y = tape.linear(&parameters, x, w, None);
/// let loss = tape.mul(&parameters, y, y);
/// assert_eq!(tape.value(loss), [1.0]); // (3 * 2 - 5)^2
/// tape.backward(loss, &mut parameters);
/// assert_eq!(parameters.gradient(w), [4.0, 10.0]);
/// ```
pub struct Tape<R: Real> {
    nodes: Vec<Node<R>>,
    pool: Pool<R>,
    recording: bool,
    precision: Precision,
}

impl<R: Real> Default for Tape<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Real> Tape<R> {
    /// An empty tape that records.
    pub fn new() -> Self {
        let pool = Pool { spare: HashMap::new(), allocated: 0 };
        Self { nodes: Vec::new(), pool, recording: true, precision: Precision::Full }
    }

    /// Whether operations keep what their way back needs. Without, a forward pass takes less memory.
    pub fn set_recording(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// How dense layers' products take their factors, forth and back: rounded to bf16 they take less time, and their
    /// sums, all weights and all else stay as they are.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Numbers allocated so far: constant once the shapes repeat.
    pub fn allocated(&self) -> usize {
        self.pool.allocated
    }

    /// Forgets all values; their buffers serve the next ones.
    pub fn clear(&mut self) {
        for mut node in self.nodes.drain(..).rev() {
            if let Some(op) = &mut node.op {
                op.release(&mut self.pool);
            }
            self.pool.give(node.value);
            if let Some(gradient) = node.gradient {
                self.pool.give(gradient);
            }
        }
    }

    /// A constant.
    ///
    /// # Panics
    /// If `values` does not hold `rows * cols` numbers.
    pub fn input(&mut self, rows: usize, cols: usize, values: &[R]) -> Var {
        assert_eq!(values.len(), rows * cols, "a {rows} x {cols} input needs {} numbers", rows * cols);
        let mut value = self.pool.take(values.len());
        value.copy_from_slice(values);
        self.record(Node {
            rows,
            cols,
            value,
            gradient: None,
            inputs: vec![],
            op: None,
            needs_gradient: false,
        })
    }

    /// A constant whose gradient is wanted: see [`gradient`](Self::gradient).
    ///
    /// # Panics
    /// As [`input`](Self::input).
    pub fn variable(&mut self, rows: usize, cols: usize, values: &[R]) -> Var {
        let var = self.input(rows, cols, values);
        self.nodes[var.0].needs_gradient = true;
        var
    }

    fn record(&mut self, node: Node<R>) -> Var {
        self.nodes.push(node);
        Var(self.nodes.len() - 1)
    }

    /// Runs an operation whose output is `rows x cols`, and records it.
    pub fn push(
        &mut self,
        parameters: &Parameters<R>,
        mut op: impl Op<R> + 'static,
        inputs: &[Var],
        rows: usize,
        cols: usize,
    ) -> Var {
        let needs = self.recording
            && (!op.parameters().is_empty() || inputs.iter().any(|v| self.nodes[v.0].needs_gradient));
        let mut value = self.pool.take(rows * cols);
        let values: Vec<&[R]> = inputs.iter().map(|v| &*self.nodes[v.0].value).collect();
        op.forward(Forward {
            inputs: &values,
            output: &mut value,
            parameters,
            pool: &mut self.pool,
            recording: needs,
            precision: self.precision,
        });
        self.record(Node {
            rows,
            cols,
            value,
            gradient: None,
            inputs: inputs.iter().map(|v| v.0).collect(),
            op: needs.then(|| Box::new(op) as Box<dyn Op<R>>),
            needs_gradient: needs,
        })
    }

    /// `(rows, cols)` of a value.
    pub fn shape(&self, var: Var) -> (usize, usize) {
        (self.nodes[var.0].rows, self.nodes[var.0].cols)
    }

    /// The numbers of a value, row-major. Empty after a [`backward`](Self::backward) that passed it.
    pub fn value(&self, var: Var) -> &[R] {
        &self.nodes[var.0].value
    }

    /// The gradient of a [`variable`](Self::variable) after a way back.
    pub fn gradient(&self, var: Var) -> Option<&[R]> {
        self.nodes[var.0].gradient.as_deref()
    }

    /// The names of the operations whose output is not finite, for messages.
    pub fn first_not_finite(&self) -> Option<&'static str> {
        let bad = self.nodes.iter().find(|n| n.value.iter().any(|v| !v.is_finite()))?;
        Some(bad.op.as_ref().map_or("input", |op| op.name()))
    }

    /// Adds the derivatives of `loss` (one number) to the gradients of all parameters it depends on, and clears
    /// the tape but for the gradients of its variables.
    ///
    /// # Panics
    /// If `loss` is not one number or nothing was recorded.
    pub fn backward(&mut self, loss: Var, parameters: &mut Parameters<R>) {
        assert_eq!(self.shape(loss), (1, 1), "only one number can be differentiated");
        assert!(self.nodes[loss.0].needs_gradient, "the loss depends on no parameter that was recorded");
        let mut one = self.pool.take(1);
        one[0] = R::ONE;
        self.nodes[loss.0].gradient = Some(one);
        for index in (0..=loss.0).rev() {
            let Some(mut op) = self.nodes[index].op.take() else { continue };
            if let Some(gradient) = self.nodes[index].gradient.take() {
                self.step_back(index, op.as_mut(), &gradient, parameters);
                self.pool.give(gradient);
            }
            op.release(&mut self.pool);
            let value = std::mem::replace(&mut self.nodes[index].value, Buffer::zeros(0));
            self.pool.give(value);
        }
    }

    fn step_back(
        &mut self,
        index: usize,
        op: &mut dyn Op<R>,
        gradient: &[R],
        parameters: &mut Parameters<R>,
    ) {
        let inputs = std::mem::take(&mut self.nodes[index].inputs);
        // An input that stands at several places gets a buffer at each; they are summed afterwards.
        let mut gradients: Vec<Option<Gradient<R>>> = Vec::with_capacity(inputs.len());
        for &input in &inputs {
            let node = &mut self.nodes[input];
            gradients.push(node.needs_gradient.then(|| match node.gradient.take() {
                Some(buffer) => Gradient { buffer, fresh: false },
                None => Gradient { buffer: self.pool.take(node.rows * node.cols), fresh: true },
            }));
        }
        let values: Vec<&[R]> = inputs.iter().map(|&i| &*self.nodes[i].value).collect();
        op.backward(Backward {
            inputs: &values,
            output: &self.nodes[index].value,
            gradient,
            gradients: &mut gradients,
            parameters,
            pool: &mut self.pool,
            precision: self.precision,
        });
        for (input, gradient) in inputs.into_iter().zip(gradients) {
            let Some(Gradient { mut buffer, fresh }) = gradient else { continue };
            if fresh {
                buffer.fill(R::ZERO);
            }
            match &mut self.nodes[input].gradient {
                Some(sum) => {
                    sum.iter_mut().zip(buffer.iter()).for_each(|(s, b)| *s += *b);
                    self.pool.give(buffer);
                }
                slot => *slot = Some(buffer),
            }
        }
    }
}
