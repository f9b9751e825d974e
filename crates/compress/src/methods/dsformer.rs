//! Chand, Prabhu, Kumar, "DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization",
//! 2023, arXiv 2312.13211: the task-unaware start. No code of the method was published; block shape, pattern and
//! solver follow the first author's public K-SVD library.
//!
//! A weight is cut into blocks of `b` inputs; block `i` becomes a basis of `k` atoms of length `b`, shared by all
//! outputs, and exactly `s` of `k` coefficients per output and block: `W_i ~ S_i D_i`. As a product
//! `y = S (D x)` with a block-diagonal `D` and an `s`-of-`k` pattern `S`, whose indices take `ceil(log2 k)` bits.
//! Training both factors on a task, supports included, is the method's other half (`train`'s `dsformer`).
//!
//! Each block is learned by K-SVD with batch orthogonal matching pursuit, a few rounds. Differences from the
//! library: atoms start as rows of the weight (uniform random ones are nearly parallel), and, by default, the error
//! is weighed by the block's own part of the calibration Gram matrix.
//!
//! Cost per layer: `rounds` times `out (in / b)` codings of `O(k s²)`.
//!
//! When not to use it: without training after it; ROCKET's one dictionary over all inputs is the better
//! approximation of given weights at equal bytes.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use sparseland_linalg::{Mat, cholesky_robust, matmul, matmul_transposed_right};
use sparseland_matrix::{BlockDiagonal, Layout, Matrix, NofM, Product, ValueType};

use crate::CompressError;
use crate::dictionary::{Learner, Pursuit, Update};
use crate::problem::{
    Candidate, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer, cost, foreign_layout, inputs_first,
};
use crate::statistics::InputStatistics;

/// What an unused coefficient starts from in training: this share of the atom's correlation with what the used ones
/// leave over.
const LEFT_OVER: f64 = 0.1;

/// The parameters of the factorisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Dsformer {
    /// Inputs of a block; the nearest divisor of a layer's inputs is taken.
    pub block: usize,
    /// Atoms of a block's basis, at most 256.
    pub atoms: usize,
    /// Rounds of coding and atom updates.
    pub rounds: usize,
    /// Whether calibration inputs weigh the error.
    pub whiten: bool,
    /// Seed of the starting atoms.
    pub seed: u64,
}

impl Default for Dsformer {
    fn default() -> Self {
        Self { block: 64, atoms: 32, rounds: 4, whiten: true, seed: 0 }
    }
}

/// The factors of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockFactors {
    /// `out x (blocks k)`: exactly `s` of every `k` are meant to be used; others are zero.
    pub codes: Mat<f64>,
    /// The bases one under another, `(blocks k) x b`.
    pub bases: Mat<f64>,
    /// What training may start unused coefficients from, zero where one is used: `out x (blocks k)`.
    pub left_over: Mat<f64>,
}

impl Dsformer {
    /// The width of the blocks of a layer: the divisor of `inputs` that is nearest to the one asked for.
    pub fn block_of(&self, inputs: usize) -> usize {
        let divisors = (1..=inputs).filter(|d| inputs.is_multiple_of(*d));
        divisors.min_by_key(|d| d.abs_diff(self.block)).unwrap_or(1)
    }

    /// The layout with `s` coefficients per output and block.
    pub fn layout(&self, (inputs, outputs): (usize, usize), s: usize, values: ValueType) -> Layout {
        let blocks = inputs / self.block_of(inputs);
        let (k, inner) = (self.atoms, blocks * self.atoms);
        let left = Layout::NofM { rows: outputs, cols: inner, values, n: s, m: k };
        let right = Layout::BlockDiagonal { rows: inner, cols: inputs, blocks, values };
        Layout::Product { left: Box::new(left), right: Box::new(right) }
    }

    /// The most coefficients per output and block within a limit; `None` if not even one fits.
    pub fn fitting(&self, sides: (usize, usize), limit: Limit) -> Option<usize> {
        let fits = |s: &usize| cost(&self.layout(sides, *s, limit.values), limit.accounting) <= limit.cost;
        (1..self.atoms).rev().find(fits)
    }

    /// Factorises a weight `d1 x d2` (inputs first).
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn factorise(
        &self,
        weight: &Mat<f64>,
        inputs: Option<&InputStatistics>,
        nonzeros: usize,
    ) -> Result<BlockFactors, CompressError> {
        let (d1, d2) = (weight.rows, weight.cols);
        let (block, k) = (self.block_of(d1), self.atoms);
        let blocks = d1 / block;
        let mut factors = BlockFactors {
            codes: Mat::zeros(d2, blocks * k),
            bases: Mat::zeros(blocks * k, block),
            left_over: Mat::zeros(d2, blocks * k),
        };
        let mut rng = Pcg64::seed_from_u64(self.seed);
        for b in 0..blocks {
            let rows = Mat::from_fn(d2, block, |j, c| weight.at(b * block + c, j));
            let whitener = match inputs {
                Some(inputs) => {
                    let gram = inputs.gram()?;
                    let own = Mat::from_fn(block, block, |i, j| gram.at(b * block + i, b * block + j));
                    Some(cholesky_robust(&own)?)
                }
                None => None,
            };
            let data = match &whitener {
                Some(l) => l.apply(&rows.transposed())?.transposed(),
                None => rows,
            };
            let mut learner =
                Learner::new(data.clone(), start(&data, k, &mut rng), nonzeros, Pursuit::Matching)?;
            learner.learn(self.rounds, Update::Power(1), true, 0.0, &mut |_, _| Ok(()))?;
            let (codes, atoms) = learner.into_parts();
            let product = matmul(&codes, &atoms)?;
            let residual = Mat::from_fn(d2, block, |j, c| data.at(j, c) - product.at(j, c));
            let correlation = matmul_transposed_right(&residual, &atoms)?;
            let atoms = match &whitener {
                Some(l) => l.solve(&atoms.transposed())?.transposed(),
                None => atoms,
            };
            for j in 0..d2 {
                for a in 0..k {
                    factors.codes.row_mut(j)[b * k + a] = codes.at(j, a);
                    if codes.at(j, a) == 0.0 {
                        factors.left_over.row_mut(j)[b * k + a] = LEFT_OVER * correlation.at(j, a);
                    }
                }
            }
            for a in 0..k {
                factors.bases.row_mut(b * k + a).copy_from_slice(atoms.row(a));
            }
        }
        Ok(factors)
    }
}

/// Atoms to start from: rows of the data in random order, repeated with noise where there are too few.
fn start(data: &Mat<f64>, k: usize, rng: &mut Pcg64) -> Mat<f64> {
    use rand::Rng;
    let mut order: Vec<usize> = (0..data.rows).filter(|&j| data.row(j).iter().any(|v| *v != 0.0)).collect();
    order.shuffle(rng);
    let rows = order.len();
    let mut noise = || rng.random_range(-1.0..1.0);
    Mat::from_fn(k, data.cols, |a, c| match order.get(a) {
        Some(&row) => data.at(row, c),
        None if rows > 0 => data.at(order[a % rows], c) + 0.1 * noise(),
        None => noise(),
    })
}

impl BlockFactors {
    /// The structured matrix `out x in`.
    ///
    /// # Errors
    /// If a group holds more than `nonzeros` coefficients.
    pub fn into_matrix(
        self,
        nonzeros: usize,
        atoms: usize,
        values: ValueType,
    ) -> Result<Matrix, CompressError> {
        let narrow = |m: &Mat<f64>| m.data.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let (outputs, inner, block) = (self.codes.rows, self.codes.cols, self.bases.cols);
        let blocks = inner / atoms;
        let left = NofM::from_dense(outputs, inner, &narrow(&self.codes), (nonzeros, atoms), values)?;
        let right = BlockDiagonal::from_f32(inner, blocks * block, blocks, &narrow(&self.bases), values);
        Ok(Product::new(left, right).into())
    }
}

struct Prepared<'a> {
    method: &'a Dsformer,
    problem: LayerProblem,
}

impl LayerMethod for Dsformer {
    fn slug(&self) -> &'static str {
        "dsformer"
    }

    fn needs(&self) -> Needs {
        if self.whiten { Needs::Gram } else { Needs::Nothing }
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        Ok(Box::new(Prepared { method: self, problem }))
    }
}

impl Prepared<'_> {
    fn matrix(&self, nonzeros: usize) -> Result<Matrix, CompressError> {
        let inputs = if self.method.whiten { Some(self.problem.inputs()?) } else { None };
        let factors = self.method.factorise(&self.problem.weight, inputs, nonzeros)?;
        factors.into_matrix(nonzeros, self.method.atoms, self.problem.values)
    }
}

impl PreparedLayer for Prepared<'_> {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let sides = self.problem.sides();
        let Some(s) = self.method.fitting(sides, limit) else { return Ok(None) };
        let errors = self.problem.errors(&inputs_first(&self.matrix(s)?))?;
        Ok(Some(Candidate { layout: self.method.layout(sides, s, limit.values), errors, marginal: None }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let foreign = || foreign_layout("dsformer", layout);
        let Layout::Product { left, .. } = layout else { return Err(foreign()) };
        let Layout::NofM { n, m, .. } = **left else { return Err(foreign()) };
        if m != self.method.atoms || (layout.cols(), layout.rows()) != self.problem.sides() {
            return Err(foreign());
        }
        self.matrix(n)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use sparseland_matrix::LinearMap;

    use super::*;
    use crate::problem::Accounting;

    fn random(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
        let mut rng = Pcg64::seed_from_u64(seed);
        Mat::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0))
    }

    #[test]
    fn a_full_basis_is_exact_and_every_group_has_its_count() {
        let weight = random(16, 40, 1);
        let method = Dsformer { block: 8, atoms: 9, rounds: 4, whiten: false, seed: 0 };
        let factors = method.factorise(&weight, None, 8).unwrap();
        assert!(factors.codes.data.chunks(9).all(|g| g.iter().filter(|v| **v != 0.0).count() <= 8));
        let matrix = factors.into_matrix(8, 9, ValueType::F32).unwrap();
        let back = inputs_first(&matrix);
        // Nine atoms in eight dimensions, eight coefficients: least squares over a spanning set.
        assert!(weight.data.iter().zip(&back.data).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn stored_bytes_are_those_of_the_layout_and_within_the_limit() {
        let problem = LayerProblem {
            name: "layer".into(),
            weight: random(64, 48, 2),
            inputs: None,
            original: None,
            values: ValueType::Bf16,
        };
        let method = Dsformer { block: 32, atoms: 16, rounds: 2, whiten: false, seed: 0 };
        let dense = 64 * 48 * 2;
        let prepared = method.prepare(problem).unwrap();
        for removed in [0.2, 0.4, 0.55] {
            let cost = ((1.0 - removed) * f64::from(dense)) as u64;
            let limit = Limit { cost, accounting: Accounting::Bytes, values: ValueType::Bf16 };
            let found = prepared.candidate(limit, None).unwrap().unwrap();
            assert!(found.layout.stored_bytes() <= cost);
            let built = prepared.build(&found.layout).unwrap();
            assert_eq!(built.layout(), found.layout);
            assert_eq!(
                built.parts("w").iter().map(|p| p.bytes.len() as u64).sum::<u64>(),
                found.layout.stored_bytes()
            );
        }
    }

    #[test]
    fn the_calibrated_error_is_smaller_where_inputs_are_uneven() {
        let weight = random(24, 64, 3);
        let mut inputs = random(500, 24, 4);
        for (i, v) in inputs.data.iter_mut().enumerate() {
            *v *= if i % 24 % 5 == 0 { 5.0 } else { 0.3 };
        }
        let statistics = std::sync::Arc::new(InputStatistics::of(&inputs, Needs::Gram).unwrap());
        let error = |whiten: bool| {
            let method = Dsformer { block: 12, atoms: 16, rounds: 6, whiten, seed: 0 };
            let problem = LayerProblem {
                name: "layer".into(),
                weight: weight.clone(),
                inputs: Some(statistics.clone()),
                original: None,
                values: ValueType::F32,
            };
            let layout = method.layout((24, 64), 4, ValueType::F32);
            let built = method.prepare(problem).unwrap().build(&layout).unwrap();
            let difference = Mat::from_fn(24, 64, |i, j| weight.at(i, j) - inputs_first(&built).at(i, j));
            statistics.output_norm(&difference).unwrap()
        };
        assert!(error(true) < 0.9 * error(false), "{} {}", error(true), error(false));
    }
}
