//! Dropout.

use sparseland_matrix::Real;

use crate::{Backward, Forward, Op, Parameters, Tape, Var};

/// Whether position `i` is kept: a hash of seed and position (SplitMix64), so no mask is stored and any thread can
/// ask.
fn kept(seed: u64, i: usize, threshold: u64) -> bool {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) >= threshold
}

struct Dropout<R: Real> {
    seed: u64,
    threshold: u64,
    scale: R,
}

impl<R: Real> Dropout<R> {
    fn apply(&self, x: &[R], y: &mut [R], add: bool) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let v = if kept(self.seed, i, self.threshold) { *x * self.scale } else { R::ZERO };
            *y = if add { *y + v } else { v };
        }
    }
}

impl<R: Real> Op<R> for Dropout<R> {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        self.apply(on.inputs[0], on.output, false);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            self.apply(on.gradient, dx.add(), true);
        }
    }
}

/// The input itself, for a rate of zero.
struct Identity;

impl<R: Real> Op<R> for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        on.output.copy_from_slice(on.inputs[0]);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            dx.accumulate(on.gradient);
        }
    }
}

impl<R: Real> Tape<R> {
    /// Sets each number to zero with probability `rate` and divides the others by `1 - rate`. The seed decides
    /// which: give every call and step its own.
    ///
    /// # Panics
    /// If `rate` is not in `[0, 1)`.
    pub fn dropout(&mut self, parameters: &Parameters<R>, x: Var, rate: f64, seed: u64) -> Var {
        assert!((0.0..1.0).contains(&rate), "a dropout rate of {rate} is not in [0, 1)");
        let (rows, cols) = self.shape(x);
        if rate == 0.0 {
            return self.push(parameters, Identity, &[x], rows, cols);
        }
        let threshold = (rate * u64::MAX as f64) as u64;
        let op = Dropout { seed, threshold, scale: R::real(1.0 / (1.0 - rate)) };
        self.push(parameters, op, &[x], rows, cols)
    }
}
