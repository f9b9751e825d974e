//! Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li, "Learning N:M Fine-grained Structured Sparse Neural Networks From
//! Scratch", ICLR 2021, arXiv 2102.04010; official code NM-sparsity/NM-sparsity.
//!
//! Weights obey an N:M pattern (at most N non-zeros in every M consecutive inputs of an output) from the first step. A
//! dense master `W` is kept; the network uses `E * W`, where `E` keeps the N largest magnitudes of each group. The
//! gradient for the used weight goes straight through to all of `W`, and the entries left out decay:
//! `W -= rate (g + lambda (1 - E) W)`, so that an entry returns only if its gradient insists.
//!
//! Where we differ from the official code: groups never cross a row (the official reshape lets them straddle filters
//! whose fan-in is no multiple of M); ties keep the lower index, so masks are reproducible; biases are kept; with
//! adaptive optimisers the decay acts on the weight itself by default, since dividing it by the gradient's root mean
//! square rescales it arbitrarily.
//!
//! Cost: `O(numel M)` compares per refresh. The forward pass runs the packed N:M kernel. The gradient of the master is
//! dense: training saves no weight-gradient work and no memory; what is saved is in the exported network.
//!
//! When not to use it: to train faster (see BDWP); on layers whose fan-in is a few groups, such as depthwise
//! convolutions.

mod sad;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparseland_matrix::{Dense, Matrix, NofM, Real, ValueType};
use sparseland_tape::weight::{WeightError, to_f32};
use sparseland_tape::{Masked, ParamId, Parameters, Parametrisation, Tape, Var};

pub use sad::{MaskTrace, sad};

/// Where the decay of left-out weights acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayOn {
    /// On the gradient, before the optimiser (official; right for SGD).
    Gradient,
    /// On the weight, after the optimiser's step (right for adaptive optimisers).
    Weight,
}

/// What happens to inputs that fill no whole group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// The layer is refused.
    #[default]
    Error,
    /// They form a narrower group that keeps at most N.
    Pad,
    /// The whole layer stays dense.
    Dense,
}

/// The parameters of the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrSte {
    /// Entries kept per group.
    pub n: usize,
    /// Entries of a group.
    pub m: usize,
    /// Decay of left-out weights (official code: 2e-4). 0 is the plain straight-through estimator.
    #[serde(default = "default_lambda")]
    pub lambda: f64,
    /// Where the decay acts; by default on the weight with AdamW and Muon, on the gradient with SGD.
    #[serde(default)]
    pub decay_on: Option<DecayOn>,
    /// What happens to inputs that fill no whole group.
    #[serde(default)]
    pub tail: Tail,
    /// Steps between two choices of the mask.
    #[serde(default = "one")]
    pub refresh_every: u64,
}

fn default_lambda() -> f64 {
    2e-4
}

fn one() -> u64 {
    1
}

impl SrSte {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.n == 0 || self.m > 256 || self.n > self.m {
            return Err(format!("{}:{} is no N:M pattern; 1 <= N <= M <= 256 is", self.n, self.m));
        }
        if !self.lambda.is_finite() {
            return Err(format!("`lambda` is {}", self.lambda));
        }
        if self.refresh_every == 0 {
            return Err("`refresh_every` is 0".into());
        }
        Ok(())
    }

    /// Whether a layer of `cols` inputs becomes sparse.
    ///
    /// # Errors
    /// If the recipe refuses its tail.
    pub fn applies(&self, name: &str, cols: usize) -> Result<bool, String> {
        if cols.is_multiple_of(self.m) {
            return Ok(true);
        }
        match self.tail {
            Tail::Pad => Ok(true),
            Tail::Dense => Ok(false),
            Tail::Error => Err(format!(
                "{name} has {cols} inputs, no multiple of M = {}; set `tail` to \"pad\" or \"dense\"",
                self.m
            )),
        }
    }

    /// The weight over a dense master `out x in` that is a parameter already.
    pub fn weight<R: Real>(
        &self,
        parameters: &Parameters<R>,
        master: ParamId,
        adaptive: bool,
    ) -> SrSteWeight {
        let shape = &parameters.get(master).shape;
        let decay_on = self.decay_on.unwrap_or(if adaptive { DecayOn::Weight } else { DecayOn::Gradient });
        let mask = vec![true; shape[0] * shape[1]];
        SrSteWeight {
            name: parameters.get(master).name.clone(),
            shape: (shape[0], shape[1]),
            method: self.clone(),
            decay_on,
            master,
            used: Arc::new(Masked { mask, packed: None }),
            trace: MaskTrace::default(),
        }
    }
}

/// The Euclidean projection's support: whether each entry is among the `n` largest magnitudes of its group of `m` in a
/// row. Ties keep the lower index; a group of zeros keeps its first `n`.
pub fn largest_of_groups<R: Real>(weights: &[R], cols: usize, n: usize, m: usize, mask: &mut [bool]) {
    for (row, mask) in weights.chunks(cols).zip(mask.chunks_mut(cols)) {
        for (group, mask) in row.chunks(m).zip(mask.chunks_mut(m)) {
            for (i, w) in group.iter().enumerate() {
                let w = w.abs();
                // How many entries rank before this one.
                let before = group.iter().enumerate().filter(|&(j, v)| {
                    let v = v.abs();
                    v > w || (v == w && j < i)
                });
                mask[i] = before.take(n).count() < n;
            }
        }
    }
}

/// `E * W` over a dense master.
pub struct SrSteWeight {
    name: String,
    shape: (usize, usize),
    method: SrSte,
    decay_on: DecayOn,
    master: ParamId,
    used: Arc<Masked>,
    trace: MaskTrace,
}

impl SrSteWeight {
    /// Whether each entry takes part, row-major.
    pub fn mask(&self) -> &[bool] {
        &self.used.mask
    }

    /// How the mask has moved.
    pub fn trace(&self) -> &MaskTrace {
        &self.trace
    }

    /// From now on the mask stays as it is; one is still chosen at step 0.
    pub(crate) fn freeze(&mut self) {
        self.method.refresh_every = u64::MAX;
    }

    fn masked<R: Real>(&self, parameters: &Parameters<R>) -> Vec<f32> {
        let mut data = to_f32(parameters.value(self.master));
        data.iter_mut().zip(&self.used.mask).for_each(|(w, &used)| {
            if !used {
                *w = 0.0;
            }
        });
        data
    }

    fn pack(&self, data: &[f32], values: ValueType) -> Matrix {
        let (rows, cols) = self.shape;
        match NofM::from_dense(rows, cols, data, (self.method.n, self.method.m), values) {
            Ok(matrix) => matrix.into(),
            // N = M: every entry is kept.
            Err(_) => Dense::from_f32(rows, cols, data, values).into(),
        }
    }
}

impl<R: Real> Parametrisation<R> for SrSteWeight {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.master]
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        if self.method.n == self.method.m {
            return tape.linear(parameters, x, self.master, None);
        }
        tape.masked_linear(parameters, x, self.master, &self.used)
    }

    fn refresh(&mut self, step: u64, parameters: &Parameters<R>) -> Result<(), WeightError> {
        let master = parameters.value(self.master);
        if let Some(position) = master.iter().position(|w| !w.is_finite()) {
            return Err(WeightError::NotFinite { name: self.name.clone(), position });
        }
        let SrSte { n, m, refresh_every, .. } = self.method;
        if n == m {
            return Ok(());
        }
        let used = match Arc::get_mut(&mut self.used) {
            Some(used) => used,
            // A tape still holds the last one.
            None => {
                self.used = Arc::new((*self.used).clone());
                Arc::get_mut(&mut self.used).expect("just made")
            }
        };
        if step.is_multiple_of(refresh_every) {
            let mut mask = vec![false; master.len()];
            largest_of_groups(master, self.shape.1, n, m, &mut mask);
            self.trace.record(&used.mask, &mask, n == 0 || step == 0);
            used.mask = mask;
        }
        let packed = R::as_f32(master).map(|_| self.pack(&self.masked(parameters), ValueType::F32));
        Arc::get_mut(&mut self.used).expect("unshared").packed = packed;
        Ok(())
    }

    fn reach(&self, parameters: &mut Parameters<R>) {
        if self.decay_on == DecayOn::Gradient && self.method.lambda != 0.0 {
            let lambda = R::real(self.method.lambda);
            let (values, slopes) = parameters.value_and_gradient(self.master);
            for ((g, w), &used) in slopes.iter_mut().zip(values).zip(&self.used.mask) {
                if !used {
                    *g += lambda * *w;
                }
            }
        }
    }

    fn after_step(&mut self, rate: f64, parameters: &mut Parameters<R>) {
        if self.decay_on == DecayOn::Weight && self.method.lambda != 0.0 {
            let keep = R::real(1.0 - rate * self.method.lambda);
            let values = parameters.value_mut(self.master);
            values.iter_mut().zip(&self.used.mask).filter(|(_, used)| !**used).for_each(|(w, _)| *w *= keep);
        }
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        self.pack(&self.masked(parameters), values)
    }

    fn report(&mut self) -> Vec<(&'static str, f64)> {
        let (flips, back, kept) = self.trace.take();
        vec![("mask flips", flips), ("flip-flops", back), ("kept weights", kept)]
    }

    fn state(&self) -> Vec<u8> {
        self.trace.save(&self.used.mask)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), WeightError> {
        let wrong = |reason: String| WeightError::State { name: self.name.clone(), reason };
        let (trace, mask) = MaskTrace::load(state, self.used.mask.len()).map_err(wrong)?;
        self.trace = trace;
        self.used = Arc::new(Masked { mask, packed: None });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn project(weights: &[f64], cols: usize, n: usize, m: usize) -> Vec<f64> {
        let mut mask = vec![false; weights.len()];
        largest_of_groups(weights, cols, n, m, &mut mask);
        weights.iter().zip(mask).map(|(w, used)| if used { *w } else { 0.0 }).collect()
    }

    proptest! {
        #[test]
        fn the_projection_is_euclidean_idempotent_and_blind_to_scale(
            rows in 1usize..4, groups in 1usize..4, tail in 0usize..4, m in 2usize..7, seed in 0u32..200, n in 1usize..6
        ) {
            let n = n.min(m);
            let cols = groups * m + tail.min(m - 1);
            let weights: Vec<f64> =
                (0..(rows * cols) as u32).map(|i| f64::from((i * 7919 + seed * 31) % 23) - 11.0).collect();
            let kept = project(&weights, cols, n, m);
            prop_assert_eq!(&project(&kept, cols, n, m), &kept);
            let scaled: Vec<f64> = weights.iter().map(|w| 3.5 * w).collect();
            let again = project(&scaled, cols, n, m);
            prop_assert!(again.iter().zip(&kept).all(|(a, k)| *a == 3.5 * k));
            for (row, kept) in weights.chunks(cols).zip(kept.chunks(cols)) {
                for (group, kept) in row.chunks(m).zip(kept.chunks(m)) {
                    // Every support of n entries is at least as far away.
                    let left = |mask: u32| -> f64 {
                        group.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 0).map(|(_, w)| w * w).sum()
                    };
                    let best = (0..1u32 << group.len())
                        .filter(|mask| mask.count_ones() as usize <= n)
                        .map(left)
                        .fold(f64::INFINITY, f64::min);
                    let found: f64 = group.iter().zip(kept).map(|(w, k)| (w - k) * (w - k)).sum();
                    prop_assert!((found - best).abs() < 1e-12);
                    prop_assert!(kept.iter().filter(|k| **k != 0.0).count() <= n);
                }
            }
        }
    }

    fn method(n: usize, m: usize, lambda: f64, decay_on: DecayOn) -> SrSte {
        SrSte { n, m, lambda, decay_on: Some(decay_on), tail: Tail::Pad, refresh_every: 1 }
    }

    #[test]
    fn left_out_weights_decay_as_the_formula_says() {
        for decay_on in [DecayOn::Gradient, DecayOn::Weight] {
            let mut p = Parameters::<f64>::new();
            let w = p.add("w", &[1, 4], &[1.0, -3.0, 2.0, 0.5]);
            let mut weight = method(2, 4, 0.1, decay_on).weight(&p, w, false);
            weight.refresh(0, &p).unwrap();
            assert_eq!(weight.mask(), [false, true, true, false]);
            p.get_mut(w).gradient.fill(1.0);
            weight.reach(&mut p);
            // A plain gradient step.
            let slopes = p.gradient(w).to_vec();
            p.value_mut(w).iter_mut().zip(&slopes).for_each(|(w, g)| *w -= 0.2 * g);
            weight.after_step(0.2, &mut p);
            let want = match decay_on {
                DecayOn::Gradient => [1.0 - 0.2 * 1.1, -3.2, 1.8, 0.5 - 0.2 * 1.05],
                DecayOn::Weight => [0.8 * 0.98, -3.2, 1.8, 0.3 * 0.98],
            };
            assert!(p.value(w).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", p.value(w));
        }
    }

    #[test]
    fn packed_products_equal_masked_ones_and_all_kept_equals_dense() {
        let mut p = Parameters::<f32>::new();
        let values: Vec<f32> = (0..6 * 16).map(|i| ((i * 37 + 3) % 41) as f32 / 20.0 - 1.0).collect();
        let w = p.add("w", &[6, 16], &values);
        let x: Vec<f32> = (0..40 * 16).map(|i| ((i * 13 + 5) % 31) as f32 / 15.0 - 1.0).collect();
        for (n, m) in [(2, 4), (1, 4), (4, 8), (1, 8), (2, 2)] {
            let mut weight = method(n, m, 0.0, DecayOn::Weight).weight(&p, w, true);
            Parametrisation::<f32>::refresh(&mut weight, 0, &p).unwrap();
            let mut tape = Tape::new();
            let v = tape.input(40, 16, &x);
            let y = weight.apply(&mut tape, &p, v);
            let used = weight.masked(&p);
            for (x, y) in x.chunks(16).zip(tape.value(y).chunks(6)) {
                for (row, y) in used.chunks(16).zip(y) {
                    let want: f32 = row.iter().zip(x).map(|(a, b)| a * b).sum();
                    assert!((want - y).abs() < 1e-5, "{n}:{m}");
                }
            }
        }
    }

    #[test]
    fn broken_masters_and_impossible_patterns_are_refused() {
        let mut p = Parameters::<f32>::new();
        let w = p.add("layer.weight", &[1, 4], &[1.0, f32::NAN, 2.0, 0.5]);
        let mut weight = method(2, 4, 0.0, DecayOn::Weight).weight(&p, w, true);
        let error = Parametrisation::<f32>::refresh(&mut weight, 3, &p).unwrap_err().to_string();
        assert!(error.contains("layer.weight") && error.contains("position 1"), "{error}");
        for (n, m) in [(0, 4), (5, 4), (1, 300)] {
            assert!(method(n, m, 0.0, DecayOn::Weight).check().is_err());
        }
        let strict = SrSte { tail: Tail::Error, ..method(2, 4, 0.0, DecayOn::Weight) };
        assert!(strict.applies("conv1", 147).unwrap_err().contains("conv1 has 147 inputs"));
    }
}
