//! Losses: one number out.

use rayon::prelude::*;
use sparseland_matrix::simd::LANES;
use sparseland_matrix::{Buffer, Real, View, ViewMut};

use super::{largest, product};
use crate::{Backward, Forward, Op, ParamId, Parameters, Pool, Tape, Var};

/// Rows whose logits stand in memory at a time in the fused loss.
const ROWS: usize = 256;

sparseland_matrix::vectorised! {
    /// `x = e^(x - top)`, and the sum.
    fn exponentials<R: Real>(x: &mut [R], top: R) -> R {
        let mut sums = [R::ZERO; LANES];
        let chunks = x.chunks_exact_mut(LANES);
        for chunk in chunks {
            for (s, v) in sums.iter_mut().zip(chunk) {
                *v = (*v - top).exp();
                *s += *v;
            }
        }
        let done = x.len() / LANES * LANES;
        let mut rest = R::ZERO;
        for v in &mut x[done..] {
            *v = (*v - top).exp();
            rest += *v;
        }
        sums.into_iter().sum::<R>() + rest
    }
    fn multiply<R: Real>(factor: R, x: &mut [R]) {
        for v in x.iter_mut() {
            *v *= factor;
        }
    }
}

/// Turns a row of logits into `scale * (softmax - onehot)` and gives `-ln softmax[target]`; a target of
/// [`IGNORED`] gives nothing.
fn cross_entropy_row<R: Real>(row: &mut [R], target: u32, scale: R) -> f64 {
    if target == IGNORED {
        row.fill(R::ZERO);
        return 0.0;
    }
    let target = target as usize;
    let (top, wanted) = (largest(row), row[target]);
    let total = exponentials(row, top);
    multiply(scale / total, row);
    row[target] -= scale;
    (top - wanted).to_f64() + total.to_f64().ln()
}

/// The target of a row that does not count.
pub const IGNORED: u32 = u32::MAX;

fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORED).count().max(1)
}

/// Mean cross entropy of logits.
struct CrossEntropy<R: Real> {
    targets: Vec<u32>,
    classes: usize,
    /// The gradient of the logits.
    kept: Option<Buffer<R>>,
}

impl<R: Real> Op<R> for CrossEntropy<R> {
    fn name(&self) -> &'static str {
        "cross entropy"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let mut work = on.pool.take(on.inputs[0].len());
        work.copy_from_slice(on.inputs[0]);
        let scale = 1.0 / counted(&self.targets) as f64;
        let rows = work.par_chunks_mut(self.classes).zip(&self.targets);
        let losses: Vec<f64> =
            rows.map(|(row, &target)| cross_entropy_row(row, target, R::real(scale))).collect();
        on.output[0] = R::real(losses.iter().sum::<f64>() * scale);
        self.kept = Some(work);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let (kept, scale) = (self.kept.as_ref().expect("forward ran"), on.gradient[0]);
            super::pieces(kept, dx.add(), |k, dx| super::add_scaled(scale, k, dx));
        }
    }

    fn release(&mut self, pool: &mut Pool<R>) {
        if let Some(kept) = self.kept.take() {
            pool.give(kept);
        }
    }
}

/// Mean cross entropy of `X Wᵀ`, whose logits never stand in memory whole. Recording, the gradients are made on the
/// way forward, while each piece of logits is there.
struct LinearCrossEntropy<R: Real> {
    parameters: [ParamId; 1],
    targets: Vec<u32>,
    inner: usize,
    classes: usize,
    /// Gradients of `X` and of `W`.
    kept: Option<(Buffer<R>, Buffer<R>)>,
}

impl<R: Real> Op<R> for LinearCrossEntropy<R> {
    fn name(&self) -> &'static str {
        "linear cross entropy"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (x, w) = (on.inputs[0], on.parameters.value(self.parameters[0]));
        let w = View::new(w, self.classes, self.inner);
        let scale = 1.0 / counted(&self.targets) as f64;
        let mut kept = on.recording.then(|| (on.pool.take(x.len()), on.pool.take(self.classes * self.inner)));
        let rows = ROWS.min(self.targets.len());
        let mut logits = on.pool.take(rows * self.classes);
        let mut loss = 0.0;
        for (piece, (x, targets)) in x.chunks(ROWS * self.inner).zip(self.targets.chunks(ROWS)).enumerate() {
            let rows = targets.len();
            let logits = &mut logits[..rows * self.classes];
            let view = View::new(x, rows, self.inner);
            product(on.precision, view, w.t(), R::ZERO, ViewMut::new(logits, rows, self.classes));
            let losses: Vec<f64> = logits
                .par_chunks_mut(self.classes)
                .zip(targets)
                .map(|(row, &target)| cross_entropy_row(row, target, R::real(scale)))
                .collect();
            loss += losses.iter().sum::<f64>();
            if let Some((dx, dw)) = &mut kept {
                let at = piece * ROWS * self.inner;
                let d = View::new(logits, rows, self.classes);
                let dx = ViewMut::new(&mut dx[at..at + rows * self.inner], rows, self.inner);
                product(on.precision, d, w, R::ZERO, dx);
                let beta = if piece == 0 { R::ZERO } else { R::ONE };
                product(on.precision, d.t(), view, beta, ViewMut::new(dw, self.classes, self.inner));
            }
        }
        on.pool.give(logits);
        on.output[0] = R::real(loss * scale);
        self.kept = kept;
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (kept_x, kept_w) = self.kept.as_ref().expect("recorded");
        let scale = on.gradient[0];
        if let Some(dx) = &mut on.gradients[0] {
            super::pieces(kept_x, dx.add(), |k, dx| super::add_scaled(scale, k, dx));
        }
        let dw = on.parameters.value_and_gradient(self.parameters[0]).1;
        super::pieces(kept_w, dw, |k, dw| super::add_scaled(scale, k, dw));
    }

    fn release(&mut self, pool: &mut Pool<R>) {
        if let Some((x, w)) = self.kept.take() {
            pool.give(x);
            pool.give(w);
        }
    }
}

/// Mean over all numbers of `(x - target)²`.
struct MeanSquare<R: Real> {
    target: Vec<R>,
}

impl<R: Real> Op<R> for MeanSquare<R> {
    fn name(&self) -> &'static str {
        "mean square"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let square = |(x, t): (&R, &R)| ((*x - *t) * (*x - *t)).to_f64();
        let total: f64 = on.inputs[0].iter().zip(&self.target).map(square).sum();
        on.output[0] = R::real(total / self.target.len().max(1) as f64);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let scale = on.gradient[0] * R::real(2.0 / self.target.len().max(1) as f64);
            super::pieces2(on.inputs[0], &self.target, dx.add(), |x, t, dx| {
                dx.iter_mut().zip(x).zip(t).for_each(|((d, x), t)| *d += scale * (*x - *t));
            });
        }
    }
}

/// Mean over all numbers of the logistic loss of logits against targets in `[0, 1]`.
struct BinaryCrossEntropy<R: Real> {
    target: Vec<R>,
}

impl<R: Real> Op<R> for BinaryCrossEntropy<R> {
    fn name(&self) -> &'static str {
        "binary cross entropy"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let loss = |(x, t): (&R, &R)| {
            let softplus = x.larger(R::ZERO) + (R::ONE + (-x.abs()).exp()).ln();
            (softplus - *x * *t).to_f64()
        };
        let total: f64 = on.inputs[0].iter().zip(&self.target).map(loss).sum();
        on.output[0] = R::real(total / self.target.len().max(1) as f64);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let scale = on.gradient[0] * R::real(1.0 / self.target.len().max(1) as f64);
            super::pieces2(on.inputs[0], &self.target, dx.add(), |x, t, dx| {
                dx.iter_mut().zip(x).zip(t).for_each(|((d, x), t)| *d += scale * (x.sigmoid() - *t));
            });
        }
    }
}

impl<R: Real> Tape<R> {
    /// Mean of `-ln softmax(row)[target]` over the rows of `logits` whose target is not [`IGNORED`].
    ///
    /// # Panics
    /// If there is not one target per row or one is no class.
    pub fn cross_entropy(&mut self, parameters: &Parameters<R>, logits: Var, targets: &[u32]) -> Var {
        let (rows, classes) = self.shape(logits);
        check_targets(targets, rows, classes);
        let op = CrossEntropy { targets: targets.to_vec(), classes, kept: None };
        self.push(parameters, op, &[logits], 1, 1)
    }

    /// [`cross_entropy`](Self::cross_entropy) of `x weightᵀ`, in memory for a few hundred rows of logits.
    ///
    /// # Panics
    /// If the shapes do not fit or a target is no class.
    pub fn linear_cross_entropy(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        weight: ParamId,
        targets: &[u32],
    ) -> Var {
        let (rows, inner) = self.shape(x);
        let classes = parameters.value(weight).len() / inner;
        assert_eq!(parameters.get(weight).shape, [classes, inner], "the weight does not fit its input");
        check_targets(targets, rows, classes);
        let op = LinearCrossEntropy {
            parameters: [weight],
            targets: targets.to_vec(),
            inner,
            classes,
            kept: None,
        };
        self.push(parameters, op, &[x], 1, 1)
    }

    /// Mean over all numbers of `(x - target)²`.
    ///
    /// # Panics
    /// If there is not one target per number.
    pub fn mean_square(&mut self, parameters: &Parameters<R>, x: Var, target: &[R]) -> Var {
        assert_eq!(self.value(x).len(), target.len(), "one target per number");
        self.push(parameters, MeanSquare { target: target.to_vec() }, &[x], 1, 1)
    }

    /// Mean over all numbers of `ln(1 + e^x) - x target`: the logistic loss of logits.
    ///
    /// # Panics
    /// If there is not one target per number.
    pub fn binary_cross_entropy(&mut self, parameters: &Parameters<R>, x: Var, target: &[R]) -> Var {
        assert_eq!(self.value(x).len(), target.len(), "one target per number");
        self.push(parameters, BinaryCrossEntropy { target: target.to_vec() }, &[x], 1, 1)
    }
}

fn check_targets(targets: &[u32], rows: usize, classes: usize) {
    assert_eq!(targets.len(), rows, "one target per row");
    assert!(
        targets.iter().all(|&t| t == IGNORED || (t as usize) < classes),
        "a target is not below {classes}"
    );
}
