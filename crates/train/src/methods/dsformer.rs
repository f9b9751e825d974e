//! Chand, Prabhu, Kumar, "DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization",
//! 2023, arXiv 2312.13211. The method's straight-through factorizer was published without code; what follows is our
//! reading of it.
//!
//! A weight is cut into blocks of `b` inputs (64, a head's width); block `i` is a small dense basis times sparse
//! coefficients, `W_i ~ S_i D_i` with `D_i: k x b` and exactly `s` of `k` coefficients per output and block. So
//! `y = S (D x)`: a block-diagonal dense product, then an `s`-of-`k` sparse one, whose groups are the blocks. Both
//! factors train on the task's loss: the forward pass uses the `s` largest magnitudes of every group of a dense
//! latent `Z`, the gradient of the coefficients reaches all of `Z` (straight through), and entries that are left
//! out shrink. The supports so revise themselves; they are frozen for the last steps.
//!
//! The latent is SR-STE's master with `N = s` and `M = k`, and its code does the work here.
//!
//! Cost per step beside a dense layer's `2 in out`: `in k + out (in / b) k` multiply-adds in each direction; the
//! optimiser's state has `(out (in / b) + in) k` entries. The dense weight is never formed.
//!
//! When not to use it: where nothing may be trained (see the post-hoc factorisation, or ROCKET, which shares one
//! basis over all inputs and is the better approximation of given weights).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparseland_matrix::{BlockDiagonal, Matrix, Pattern, Product, Real, ValueType};
use sparseland_tape::weight::{WeightError, from_f32, to_f32};
use sparseland_tape::{ParamId, Parameters, Parametrisation, Tape, Var};

use super::sr_ste::{DecayOn, SrSte, SrSteWeight, Tail};

/// The parameters of the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dsformer {
    /// Inputs of a block; the nearest divisor of a layer's inputs is taken.
    #[serde(default = "default_block")]
    pub block: usize,
    /// Atoms of a block's basis.
    #[serde(default = "default_atoms")]
    pub atoms: usize,
    /// Coefficients per output and block.
    #[serde(default = "default_nonzeros")]
    pub nonzeros: usize,
    /// Decay of coefficients that are left out.
    #[serde(default = "default_shrink")]
    pub shrink: f64,
    /// Step from which supports stay; 0 fixes those of the start.
    #[serde(default)]
    pub freeze_from: Option<u64>,
}

fn default_block() -> usize {
    64
}

fn default_atoms() -> usize {
    32
}

fn default_nonzeros() -> usize {
    15
}

fn default_shrink() -> f64 {
    2e-4
}

impl Default for Dsformer {
    fn default() -> Self {
        Self {
            block: default_block(),
            atoms: default_atoms(),
            nonzeros: default_nonzeros(),
            shrink: default_shrink(),
            freeze_from: None,
        }
    }
}

/// Where training starts: factors of `blocks` blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The latent, `out x (blocks k)`: its `s` largest of every `k` are the coefficients.
    pub latent: Vec<f32>,
    /// The bases one under another, `(blocks k) x b`.
    pub bases: Vec<f32>,
}

impl Dsformer {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.nonzeros == 0 || self.nonzeros >= self.atoms || self.atoms > 256 {
            return Err(format!(
                "{} of {} coefficients is no pattern; 1 <= nonzeros < atoms <= 256 is",
                self.nonzeros, self.atoms
            ));
        }
        if self.block == 0 {
            return Err("`block` is 0".into());
        }
        Ok(())
    }

    /// The width of the blocks of a layer: the divisor of `inputs` that is nearest to the one asked for.
    pub fn block_of(&self, inputs: usize) -> usize {
        let divisors = (1..=inputs).filter(|d| inputs.is_multiple_of(*d));
        divisors.min_by_key(|d| d.abs_diff(self.block)).unwrap_or(1)
    }

    /// Random factors whose product has entries of the given deviation.
    pub fn random_start(
        &self,
        (outputs, inputs): (usize, usize),
        deviation: f64,
        rng: &mut impl rand::Rng,
    ) -> Start {
        let block = self.block_of(inputs);
        let (blocks, k) = (inputs / block, self.atoms);
        let mut uniform = |count: usize, bound: f64| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-bound..bound) as f32).collect()
        };
        // Unit atoms; coefficients so that the sum of `s` of them has the deviation.
        let bases = uniform(blocks * k * block, (3.0 / block as f64).sqrt());
        let bound = deviation * (3.0 * block as f64 / self.nonzeros as f64).sqrt();
        Start { latent: uniform(outputs * blocks * k, bound), bases }
    }

    /// A weight `out x in` that starts from given factors.
    ///
    /// # Errors
    /// If the factors do not fit the layer.
    pub fn weight<R: Real>(
        &self,
        parameters: &mut Parameters<R>,
        name: &str,
        (rows, cols): (usize, usize),
        start: &Start,
    ) -> Result<DsformerWeight, String> {
        let block = self.block_of(cols);
        let (blocks, k) = (cols / block, self.atoms);
        if start.latent.len() != rows * blocks * k || start.bases.len() != blocks * k * block {
            return Err(format!("{name}: the factors are not those of {blocks} blocks of {k} atoms"));
        }
        let latent =
            parameters.add(format!("{name}.latent"), &[rows, blocks * k], &from_f32::<R>(&start.latent));
        let places: Vec<(usize, usize)> =
            (0..blocks * k).flat_map(|r| (0..block).map(move |c| (r, r / k * block + c))).collect();
        let pattern = Pattern::new(blocks * k, cols, &places).map_err(|e| format!("{name}: {e}"))?;
        let bases =
            parameters.add(format!("{name}.bases"), &[start.bases.len()], &from_f32::<R>(&start.bases));
        let choice = SrSte {
            n: self.nonzeros,
            m: k,
            lambda: self.shrink,
            decay_on: Some(DecayOn::Weight),
            tail: Tail::Error,
            refresh_every: 1,
        };
        let coefficients = choice.weight(parameters, latent, true);
        let freeze_from = self.freeze_from.unwrap_or(u64::MAX);
        Ok(DsformerWeight { coefficients, pattern: Arc::new(pattern), bases, blocks, freeze_from })
    }
}

/// `S D` with `S` chosen from a latent.
pub struct DsformerWeight {
    coefficients: SrSteWeight,
    pattern: Arc<Pattern>,
    bases: ParamId,
    blocks: usize,
    freeze_from: u64,
}

impl DsformerWeight {
    /// Whether each coefficient takes part, `out x (blocks k)`.
    pub fn support(&self) -> &[bool] {
        self.coefficients.mask()
    }
}

impl<R: Real> Parametrisation<R> for DsformerWeight {
    fn shape(&self) -> (usize, usize) {
        (Parametrisation::<R>::shape(&self.coefficients).0, self.pattern.cols())
    }

    fn parameters(&self) -> Vec<ParamId> {
        let mut all = Parametrisation::<R>::parameters(&self.coefficients);
        all.push(self.bases);
        all
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        let inner = tape.sparse_linear(parameters, x, &self.pattern, self.bases);
        self.coefficients.apply(tape, parameters, inner)
    }

    fn refresh(&mut self, step: u64, parameters: &Parameters<R>) -> Result<(), WeightError> {
        if step >= self.freeze_from.max(1) {
            self.coefficients.freeze();
        }
        self.coefficients.refresh(step, parameters)
    }

    fn reach(&self, parameters: &mut Parameters<R>) {
        self.coefficients.reach(parameters);
    }

    fn after_step(&mut self, rate: f64, parameters: &mut Parameters<R>) {
        self.coefficients.after_step(rate, parameters);
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        let coefficients = Parametrisation::<R>::export(&self.coefficients, parameters, values);
        let bases = to_f32(parameters.value(self.bases));
        let (rows, cols) = (self.pattern.rows(), self.pattern.cols());
        Product::new(coefficients, BlockDiagonal::from_f32(rows, cols, self.blocks, &bases, values)).into()
    }

    fn report(&mut self) -> Vec<(&'static str, f64)> {
        Parametrisation::<R>::report(&mut self.coefficients)
    }

    fn state(&self) -> Vec<u8> {
        Parametrisation::<R>::state(&self.coefficients)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), WeightError> {
        Parametrisation::<R>::restore(&mut self.coefficients, state)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;
    use sparseland_matrix::LinearMap;
    use sparseland_tape::optimiser::{AdamW, Optimiser, StateBits};

    use super::*;

    fn method(block: usize, atoms: usize, nonzeros: usize) -> Dsformer {
        Dsformer { block, atoms, nonzeros, ..Dsformer::default() }
    }

    fn normal(rng: &mut Pcg64, count: usize) -> Vec<f32> {
        (0..count).map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0).collect()
    }

    /// One product `rows x out` by the tape.
    fn forward(weight: &DsformerWeight, parameters: &Parameters<f64>, x: &[f64], rows: usize) -> Vec<f64> {
        let mut tape = Tape::new();
        tape.set_recording(false);
        let x = tape.input(rows, x.len() / rows, x);
        let y = weight.apply(&mut tape, parameters, x);
        tape.value(y).to_vec()
    }

    #[test]
    fn blocks_take_the_nearest_divisor() {
        assert_eq!(method(64, 32, 8).block_of(784), 56);
        assert_eq!(method(64, 32, 8).block_of(512), 64);
        assert_eq!(method(64, 32, 8).block_of(7), 7);
    }

    #[test]
    fn the_export_is_the_forward_pass_and_every_group_has_its_count() {
        let mut rng = Pcg64::seed_from_u64(1);
        let dsformer = method(8, 6, 2);
        let mut parameters = Parameters::<f64>::new();
        let start = dsformer.random_start((10, 24), 0.1, &mut rng);
        let mut weight = dsformer.weight(&mut parameters, "w", (10, 24), &start).unwrap();
        Parametrisation::<f64>::refresh(&mut weight, 0, &parameters).unwrap();
        assert!(weight.support().chunks(6).all(|g| g.iter().filter(|used| **used).count() == 2));
        let x = normal(&mut rng, 3 * 24);
        let mut exported = vec![0.0; 3 * 10];
        Parametrisation::<f64>::export(&weight, &parameters, ValueType::F32).apply_batch(
            &x,
            3,
            &mut exported,
        );
        let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        for (a, b) in exported.iter().zip(forward(&weight, &parameters, &wide, 3)) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn gradients_are_those_of_differences_on_bases_and_chosen_coefficients() {
        let mut rng = Pcg64::seed_from_u64(2);
        let dsformer = method(5, 4, 2);
        let mut parameters = Parameters::<f64>::new();
        let start = dsformer.random_start((6, 10), 0.3, &mut rng);
        let mut weight = dsformer.weight(&mut parameters, "w", (6, 10), &start).unwrap();
        Parametrisation::<f64>::refresh(&mut weight, 0, &parameters).unwrap();
        let x: Vec<f64> = normal(&mut rng, 40).into_iter().map(f64::from).collect();
        let target: Vec<f64> = normal(&mut rng, 24).into_iter().map(f64::from).collect();
        let loss = |p: &Parameters<f64>| -> f64 {
            forward(&weight, p, &x, 4).iter().zip(&target).map(|(y, t)| (y - t) * (y - t)).sum::<f64>() / 24.0
        };
        parameters.zero_gradients();
        let mut tape = Tape::new();
        let input = tape.input(4, 10, &x);
        let y = weight.apply(&mut tape, &parameters, input);
        let mse = tape.mean_square(&parameters, y, &target);
        tape.backward(mse, &mut parameters);
        let [latent, bases] = Parametrisation::<f64>::parameters(&weight)[..] else {
            panic!("two parameters")
        };
        let checked: Vec<(ParamId, usize)> = (0..parameters.value(bases).len())
            .map(|i| (bases, i))
            .chain((0..weight.support().len()).filter(|&i| weight.support()[i]).map(|i| (latent, i)))
            .collect();
        for (id, i) in checked {
            let step = 1e-6;
            let mut moved = |by: f64| {
                parameters.value_mut(id)[i] += by;
                let value = loss(&parameters);
                parameters.value_mut(id)[i] -= by;
                value
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            let found = parameters.gradient(id)[i];
            assert!(
                (found - difference).abs() < 1e-6 * (1.0 + difference.abs()),
                "{i}: {found} {difference}"
            );
        }
        // Straight through: coefficients that are left out have the gradient of a dense S.
        let out: Vec<usize> = (0..weight.support().len()).filter(|&i| !weight.support()[i]).collect();
        assert!(out.iter().any(|&i| parameters.gradient(latent)[i].abs() > 1e-6));
    }

    #[test]
    fn supports_revise_themselves_until_they_are_frozen() {
        const STEPS: u64 = 800;
        // A planted layer: known bases, coefficients elsewhere than the start believes.
        let (rows, cols) = (24, 32);
        let planted = method(16, 8, 1);
        let train = |freeze: Option<u64>| -> (f64, f64) {
            let mut rng = Pcg64::seed_from_u64(5);
            let dsformer = Dsformer { freeze_from: freeze, ..planted.clone() };
            let mut parameters = Parameters::<f64>::new();
            let truth = planted.random_start((rows, cols), 0.3, &mut rng);
            let mut start = planted.random_start((rows, cols), 0.3, &mut rng);
            start.bases.clone_from(&truth.bases);
            let mut teacher = planted.weight(&mut parameters, "t", (rows, cols), &truth).unwrap();
            Parametrisation::<f64>::refresh(&mut teacher, 0, &parameters).unwrap();
            let mut weight = dsformer.weight(&mut parameters, "w", (rows, cols), &start).unwrap();
            for id in Parametrisation::<f64>::parameters(&teacher) {
                parameters.get_mut(id).trains = false;
            }
            let bases = Parametrisation::<f64>::parameters(&weight)[1];
            parameters.get_mut(bases).trains = false;
            let mut adam = AdamW::new(0.0, StateBits::Full);
            let mut last = f64::INFINITY;
            for step in 0..STEPS {
                let x: Vec<f64> = normal(&mut rng, 16 * cols).into_iter().map(f64::from).collect();
                let target = forward(&teacher, &parameters, &x, 16);
                Parametrisation::<f64>::refresh(&mut weight, step, &parameters).unwrap();
                parameters.zero_gradients();
                let mut tape = Tape::new();
                let input = tape.input(16, cols, &x);
                let y = weight.apply(&mut tape, &parameters, input);
                let mse = tape.mean_square(&parameters, y, &target);
                last = tape.value(mse)[0] / target.iter().map(|t| t * t).sum::<f64>() * target.len() as f64;
                tape.backward(mse, &mut parameters);
                let rate = 0.03 * (1.0 - step as f64 / STEPS as f64);
                adam.step(&mut parameters, rate);
                weight.after_step(rate, &mut parameters);
            }
            let pairs = teacher.support().iter().zip(weight.support());
            let hits = pairs.filter(|(t, w)| **t && **w).count() as f64;
            (last, hits / teacher.support().iter().filter(|t| **t).count() as f64)
        };
        let ((free, found), (fixed, kept)) = (train(None), train(Some(0)));
        assert!(found >= 0.95, "{found} of the supports found");
        assert!(fixed > 10.0 * free, "{fixed} against {free}");
        assert!(kept < 0.5, "the frozen supports moved: {kept}");
    }
}
