//! Ali, Mohammad, Makhov, Shopkhoev, Zhussip, Lefkimmiatis, "ROCKET: Rapid Optimization via
//! Calibration-guided Knapsack Enhanced Truncation for Efficient Model Compression", 2026,
//! arXiv 2602.11008; official code mts-ai/ROCKET.
//!
//! Every linear layer `W: d1 x d2` becomes a dense dictionary times sparse coefficients,
//! `W ~ D S` (`D: d1 x k`, `S: k x d2` with `s` non-zeros per column), in one closed-form shot that
//! minimises the output error `||L (W - D S)||_F` on calibration data (`LᵀL = sum x xᵀ`); a
//! multiple-choice knapsack spreads a global budget over the layers (see [`crate::allocation`]).
//!
//! The factorisation ([`factorize`]):
//! 1. `X = L W = U C` with orthonormal `U` (its left singular vectors), `C = diag(s) Vᵀ`.
//! 2. Keep per column the entries of `C_k` with the largest `|C_ij| l_i^lambda`,
//!    `l_i = ||L⁻¹ u_i||`; a share of the budget goes to the globally largest `|C_ij| l_i` left out.
//! 3. Refit the dictionary by ridge least squares, `D' = C Sᵀ (S Sᵀ + eps I)⁻¹`; `D = L⁻¹ U D'`.
//! 4. Optionally refine both factors by Adam on the fixed support.
//!
//! Cost per layer: `O(d1² d2)` once, then `O(d2 k (d1 + k))` per size tried; everything happens in the
//! `r = min(d1, d2)` dimensional eigenbasis, where both errors follow from `r x k` products without
//! forming `D S`.
//!
//! Where we differ from the paper or its code:
//! - profiling uses the same routine as the final compression (the official profiler uses another);
//! - the true "leave dense" option takes part in the allocation;
//! - costs are exact integers, so the budget is never exceeded;
//! - the default objective is `err² x parameters`: the paper's plain sum of errors needs its cap to
//!   be saved from crushing a few layers (both are available);
//! - refinement is off by default and runs in the eigenbasis.
//!
//! When not to use it: below about 10 % removed, where the factors of near-square layers store more
//! than they save; and where the matrix unit only runs dense products (large batches), since its gain is
//! in bytes and in products with few vectors.

pub mod factorize;
mod refine;

use sparseland_linalg::{Mat, matmul_transposed_left, svd};
use sparseland_matrix::{Layout, Matrix, ValueType};

use super::svd::marginal;
use crate::CompressError;
use crate::problem::{
    Candidate, Errors, FactorShape, Factors, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer,
    foreign_layout,
};

/// The parameters of the factorisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rocket {
    /// Weight of the whitening norms in the selection, in `[0, 1]` (official code: 0.5; ours: 0, which
    /// has the smaller output error on every kind of weight tried and the same bits per byte).
    pub importance: f64,
    /// Share of all entries chosen globally instead of per column (official code: 0.005; ours: 0.05).
    pub refill: f64,
    /// Ridge of the dictionary refit relative to `tr(S Sᵀ) / k` (official code: 1e-3; ours: 1e-6, since
    /// the trailing atoms carry far less than the mean energy and a large ridge shrinks them away).
    pub ridge: f64,
    /// Steps of Adam on the fixed support (official sample configuration: 100; ours: 0).
    pub refine_steps: usize,
    /// Candidate ratios `k / s` (paper: 1.0, 1.1, ..., 3.0), rising.
    pub rho_grid: Vec<f64>,
}

impl Default for Rocket {
    fn default() -> Self {
        Self {
            importance: 0.0,
            refill: 0.05,
            ridge: 1e-6,
            refine_steps: 0,
            rho_grid: (10..=30).map(|i| f64::from(i) / 10.0).collect(),
        }
    }
}

/// A layer in the eigenbasis of its whitened weight; `r = min(d1, d2)`.
pub(crate) struct Basis {
    /// `C' = Cᵀ: d2 x r`.
    pub(crate) coefficients: Mat<f64>,
    /// `A = L⁻¹ U: d1 x r`.
    atoms: Mat<f64>,
    /// `AᵀA: r x r`.
    atoms_gram: Mat<f64>,
    /// `l_i = ||A e_i||`.
    lengths: Vec<f64>,
    /// The singular values of the whitened weight.
    pub(crate) energies: Vec<f64>,
    /// `||C||²`.
    output_energy: f64,
    /// `||W||²`.
    weight_energy: f64,
}

struct Prepared<'a> {
    rocket: &'a Rocket,
    basis: Basis,
    values: ValueType,
}

impl LayerMethod for Rocket {
    fn slug(&self) -> &'static str {
        "rocket"
    }

    fn needs(&self) -> Needs {
        Needs::Whitener
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        Ok(Box::new(Prepared { rocket: self, basis: Basis::new(&problem)?, values: problem.values }))
    }
}

impl Basis {
    pub(crate) fn new(problem: &LayerProblem) -> Result<Self, CompressError> {
        let whitener = problem.whitener()?;
        let svd = svd(&whitener.apply(&problem.weight)?)?;
        let atoms = whitener.solve(&svd.u)?;
        let coefficients = Mat::from_fn(svd.vt.cols, svd.s.len(), |j, i| svd.vt.at(i, j) * svd.s[i]);
        let atoms_gram = matmul_transposed_left(&atoms, &atoms)?;
        let lengths = (0..atoms_gram.rows).map(|i| atoms_gram.at(i, i).max(0.0).sqrt()).collect();
        let energy = |a: &Mat<f64>| a.data.iter().map(|v| v * v).sum();
        Ok(Self {
            output_energy: energy(&coefficients),
            weight_energy: energy(&problem.weight),
            energies: svd.s,
            coefficients,
            atoms,
            atoms_gram,
            lengths,
        })
    }

    /// `||L W||²`.
    pub(crate) fn output_energy(&self) -> f64 {
        self.output_energy
    }

    pub(crate) fn sides(&self) -> (usize, usize) {
        (self.atoms.rows, self.coefficients.rows)
    }
}

impl PreparedLayer for Prepared<'_> {
    fn candidate(&self, limit: Limit, near: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let (inputs, outputs) = self.basis.sides();
        let found = self.search(limit, near.and_then(FactorShape::of))?;
        Ok(found.map(|(shape, errors)| Candidate {
            layout: shape.layout(inputs, outputs, limit.values),
            errors,
            marginal: marginal(&self.basis.energies, shape.k),
        }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let shape = FactorShape::of(layout).ok_or_else(|| foreign_layout("rocket", layout))?;
        Ok(self.factors(shape)?.into_matrix(self.values))
    }
}

impl Prepared<'_> {
    /// Searches the grid of `rho`, ranked by the output error, which the factorisation minimises. The error
    /// is a smooth function of `rho` with one valley (checked against the full grid in the tests): every
    /// fourth ratio first, then ever closer neighbours of the best. The best ratio of a limit close by
    /// replaces the first round.
    fn search(
        &self,
        limit: Limit,
        near: Option<FactorShape>,
    ) -> Result<Option<(FactorShape, Errors)>, CompressError> {
        let grid = &self.rocket.rho_grid;
        let mut tried = vec![false; grid.len()];
        let mut best: Option<(usize, FactorShape, factorize::Fit, f64)> = None;
        let mut stride = if near.is_some() { 2 } else { 4 };
        let mut candidates: Vec<usize> = match near {
            Some(FactorShape { k, s }) => {
                let rho = k as f64 / s as f64;
                let distance = |i: &usize| (grid[*i] - rho).abs();
                (0..grid.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).into_iter().collect()
            }
            None => (0..grid.len()).step_by(stride).chain(grid.len().checked_sub(1)).collect(),
        };
        loop {
            let before = best.as_ref().map(|(index, ..)| *index);
            for index in candidates {
                if index >= grid.len() || std::mem::replace(&mut tried[index], true) {
                    continue;
                }
                if let Some(shape) = FactorShape::fitting(self.basis.sides(), grid[index], limit) {
                    let fit = factorize::fit(&self.basis, shape, self.rocket)?;
                    let error = fit.output_error(&self.basis)?;
                    if best.as_ref().is_none_or(|(.., smallest)| error < *smallest) {
                        best = Some((index, shape, fit, error));
                    }
                }
            }
            let Some(&(index, ..)) = best.as_ref() else {
                // The neighbour's ratio may be out of reach where another is not.
                return if near.is_some() { self.search(limit, None) } else { Ok(None) };
            };
            if before == Some(index) {
                if stride == 1 {
                    break;
                }
                stride /= 2;
            } else if before.is_none() && near.is_none() {
                stride /= 2;
            }
            candidates = [index.checked_sub(stride), Some(index + stride)].into_iter().flatten().collect();
        }
        best.map(|(_, shape, fit, _)| Ok((shape, fit.errors(&self.basis)?))).transpose()
    }

    fn factors(&self, shape: FactorShape) -> Result<Factors, CompressError> {
        let mut fit = factorize::fit(&self.basis, shape, self.rocket)?;
        if self.rocket.refine_steps > 0 {
            fit = refine::adam(&self.basis, fit, self.rocket.refine_steps)?;
        }
        fit.into_factors(&self.basis, shape)
    }
}
