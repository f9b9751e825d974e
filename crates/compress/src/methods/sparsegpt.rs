//! Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023,
//! arXiv 2301.00774; official code IST-DASLab/sparsegpt.
//!
//! Prunes `W: out x in` column by column and lets the columns still to come make up for what was lost, so that
//! `||(W - W~) X||_F` stays small. With `H = (1/T) sum x xᵀ + lambda I` over `T` tokens and `R` the upper factor
//! of its inverse, `RᵀR = H⁻¹`:
//! - the score of a weight, when its column is reached, is `W_ij² / R_jj²` (equation 3): what dropping it adds to
//!   the mean squared output per token if later columns adapt in the best way;
//! - blocks of `block` columns choose their mask at once, over all rows or per row; N:M groups when their first
//!   column is reached;
//! - a column's error `e = (w - q) / R_jj` moves later columns by `-e R_j,j+1..` (equation 4), inside the block at
//!   once, beyond it when the later block is reached (one matrix product per block).
//!
//! Cost per layer: `O(in³)` once, `O(in² out)` per size; memory `in² + 3 in out` in f64.
//!
//! `marginal` is the largest dropped score: mean squared output error per token.
//!
//! Where we differ from the official code:
//! - `R` comes from one factorisation: if `F` is the upper Cholesky factor of `H` with rows and columns reversed,
//!   `R` is `F⁻ᵀ` reversed, so neither the inverse nor its own factorisation is formed;
//! - block `b` collects the updates of all earlier blocks when it is reached, instead of each block updating
//!   everything to its right: the same sums in contiguous memory;
//! - counts are exact (the official threshold `<=` drops one weight more per block) and spread evenly over blocks
//!   whatever their width;
//! - dead inputs (never active) are left out of the mean diagonal and stand in `H` with that mean instead of 1,
//!   which does not depend on the scale of the activations; their weights score 0, so they are dropped first but
//!   not set to zero where nothing need be dropped. Nothing removed returns `W` exactly.
//!
//! When not to use it: when kept weights must stay as they are, or with few calibration tokens (fewer than about
//! four per input), where the update learns their noise.

use rayon::prelude::*;
use sparseland_linalg::{Mat, cholesky_robust, matmul_transposed_left};

use super::mask::{
    Keep, Mask, MaskedLayer, Pruned, Pruner, Scope, Selection, drop_lowest, kept, outputs_first,
};
use crate::CompressError;
use crate::allocation::Budget;
use crate::problem::{LayerMethod, LayerProblem, Needs, PreparedLayer};
use crate::statistics::InputStatistics;

/// SparseGPT.
#[derive(Debug, Clone, Copy)]
pub struct SparseGpt {
    /// Pattern and scope; the paper's scope is the layer, block by block.
    pub selection: Selection,
    /// Columns per block (paper: 128); raised to a whole number of groups for N:M.
    pub block: usize,
    /// What is added to the diagonal, relative to its mean (paper: 0.01).
    pub dampening: f64,
}

impl Default for SparseGpt {
    fn default() -> Self {
        Self { selection: Selection::unstructured(Scope::Layer), block: 128, dampening: 0.01 }
    }
}

/// `R`, upper triangular, with `RᵀR = H⁻¹`, and which inputs are dead.
pub(crate) struct Inverse {
    pub(crate) factor: Mat<f64>,
    dead: Vec<bool>,
}

impl Inverse {
    /// Of the inputs' Gram matrix.
    ///
    /// # Errors
    /// If no token reached the layer or the damped matrix is not positive definite.
    pub(crate) fn new(inputs: &InputStatistics, dampening: f64) -> Result<Self, CompressError> {
        let gram = inputs.gram()?;
        if inputs.tokens == 0 {
            return Err(CompressError::Unreached);
        }
        let (d, tokens) = (gram.rows, inputs.tokens as f64);
        let dead: Vec<bool> = (0..d).map(|j| gram.at(j, j) == 0.0).collect();
        let live = dead.iter().filter(|&&dead| !dead).count().max(1) as f64;
        let mean = (0..d).map(|j| gram.at(j, j)).sum::<f64>() / tokens / live;
        // Without any activity every weight is as good as any other.
        let mean = if mean > 0.0 { mean } else { 1.0 };
        let reversed = Mat::from_fn(d, d, |a, b| {
            let (i, j) = (d - 1 - a, d - 1 - b);
            let diagonal = if dead[i] { mean * (1.0 + dampening) } else { mean * dampening };
            gram.at(i, j) / tokens + if i == j { diagonal } else { 0.0 }
        });
        let inverse = cholesky_robust(&reversed)?.solve_transposed(&Mat::identity(d))?;
        Ok(Self { factor: Mat::from_fn(d, d, |i, j| inverse.at(d - 1 - i, d - 1 - j)), dead })
    }

    /// `W_ij² / R_jj²` of one weight.
    fn score(&self, j: usize, w: f64) -> f64 {
        if self.dead[j] { 0.0 } else { (w / self.factor.at(j, j)).powi(2) }
    }
}

/// One block of columns on its way: the rows' values, errors and bits.
struct Block<'a> {
    inverse: &'a Inverse,
    columns: std::ops::Range<usize>,
}

impl Block<'_> {
    /// Runs through the columns of one row: `w` becomes the values, `errors` the scaled errors. Where a group
    /// length is given, the mask of each group is chosen when it is reached. Returns the largest dropped score.
    fn sweep(
        &self,
        w: &mut [f64],
        bits: &mut [u64],
        errors: &mut [f64],
        group: Option<(usize, usize)>,
    ) -> f64 {
        let (first, width) = (self.columns.start, w.len());
        let (mut scores, mut order, mut largest) = (vec![0.0; width], Vec::new(), f64::NEG_INFINITY);
        for a in 0..width {
            if let Some((n, m)) = group
                && a % m == 0
            {
                let here = a..(a + m).min(width);
                for b in here.clone() {
                    scores[b] = self.inverse.score(first + b, w[b]);
                }
                let dropped = here.len().saturating_sub(n);
                drop_lowest(bits, &scores, here.clone(), dropped, &mut order);
                let lost = here.filter(|&b| !kept(bits, b)).map(|b| scores[b]);
                largest = lost.fold(largest, f64::max);
            }
            let row = &self.inverse.factor.row(first + a)[self.columns.clone()];
            errors[a] = if kept(bits, a) { 0.0 } else { w[a] / row[a] };
            if errors[a] != 0.0 {
                let error = errors[a];
                w[a + 1..].iter_mut().zip(&row[a + 1..]).for_each(|(w, r)| *w -= error * r);
            }
        }
        largest
    }
}

/// How many of the first `columns` of `width` are dropped, so that blocks of any width share `dropped` evenly.
fn share(dropped: usize, columns: usize, width: usize) -> usize {
    (dropped as u128 * columns as u128 / width.max(1) as u128) as usize
}

impl SparseGpt {
    pub(crate) fn pruner(self, weights: Mat<f64>, inverse: Inverse) -> Pruner {
        Box::new(move |keep| self.sweep(&weights, &inverse, keep))
    }

    /// Prunes `weights: out x in`.
    fn sweep(&self, weights: &Mat<f64>, inverse: &Inverse, keep: Keep) -> Result<Pruned, CompressError> {
        let (rows, cols) = weights.shape();
        let group = if let Keep::NofM { n, m } = keep { Some((n, m)) } else { None };
        let block = self.block.max(1).next_multiple_of(group.map_or(1, |(_, m)| m));
        let mut out =
            Pruned { values: weights.clone(), mask: Mask::from_fn(rows, cols, |_, _| true), marginal: None };
        // Scaled errors of the finished columns, one row per column: `finished x out`.
        let mut errors = Mat::zeros(0, rows);
        let mut largest = f64::NEG_INFINITY;
        for first in (0..cols).step_by(block) {
            let last = (first + block).min(cols);
            let width = last - first;
            let mut w = Mat::from_fn(rows, width, |r, a| weights.at(r, first + a));
            if first > 0 {
                let factors = Mat::from_fn(first, width, |j, a| inverse.factor.at(j, first + a));
                let moved = matmul_transposed_left(&errors, &factors)?;
                w.data.iter_mut().zip(&moved.data).for_each(|(w, m)| *w -= m);
            }
            let of = |dropped: usize| share(dropped, last, cols) - share(dropped, first, cols);
            let chosen = match keep {
                Keep::NofM { .. } => Keep::PerRow(width),
                Keep::PerRow(count) => Keep::PerRow(width - of(cols.saturating_sub(count))),
                Keep::InAll(count) => Keep::InAll(rows * width - of((rows * cols).saturating_sub(count))),
            };
            let scores = Mat::from_fn(rows, width, |r, a| inverse.score(first + a, w.at(r, a)));
            let mut mask = Mask::select(&scores, chosen);
            if group.is_none() {
                let lost = super::mask::largest_dropped(&scores, &mask);
                largest = largest.max(lost.unwrap_or(f64::NEG_INFINITY));
            }
            let mut lost = Mat::zeros(rows, width);
            let sweep = Block { inverse, columns: first..last };
            let of_rows = mask
                .par_rows_mut()
                .zip(w.data.par_chunks_mut(width))
                .zip(lost.data.par_chunks_mut(width))
                .map(|((bits, w), lost)| sweep.sweep(w, bits, lost, group));
            largest = largest.max(of_rows.reduce(|| f64::NEG_INFINITY, f64::max));
            errors.data.extend_from_slice(&lost.transposed().data);
            errors.rows += width;
            for r in 0..rows {
                out.values.row_mut(r)[first..last].copy_from_slice(w.row(r));
            }
            out.mask.paste(first, &mask);
        }
        out.marginal = (largest > f64::NEG_INFINITY).then_some(largest);
        Ok(out)
    }
}

impl LayerMethod for SparseGpt {
    fn slug(&self) -> &'static str {
        "sparsegpt"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn check(&self, budget: &Budget) -> Result<(), CompressError> {
        self.selection.check(budget)
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        let weights = outputs_first(self.slug(), &problem)?;
        let inverse = Inverse::new(problem.inputs()?, self.dampening)?;
        let prune = self.pruner(weights, inverse);
        Ok(Box::new(MaskedLayer { slug: self.slug(), problem, selection: self.selection, prune }))
    }
}
