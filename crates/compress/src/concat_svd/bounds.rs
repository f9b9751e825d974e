//! Lower bounds on the energy of the leading singular values of blocks side by side.

use sparseland_linalg::{Mat, eigh, matmul, matmul_transposed_left, matmul_transposed_right, qr, svd_values};

use crate::CompressError;
use crate::dictionary::dot;

/// How the energy that a shared basis of rank `r` captures is bounded from below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The seed's energy alone.
    Weyl,
    /// The seed's singular values and those of every block's residual.
    Residual,
    /// A truncated eigendecomposition, `oversample` directions wider than the rank (official code: 5).
    Incremental {
        /// Directions tracked beyond the rank.
        oversample: usize,
    },
}

/// Directions whose part is below this share of the block are rounding.
const NEGLIGIBLE: f64 = 1e-12;

/// What is known of a group: nothing of its blocks is kept but what the bound tracks.
#[derive(Debug, Clone)]
pub(super) struct Group {
    bound: Bound,
    rank: usize,
    /// `||M||²`.
    energy: f64,
    /// `L`.
    captured: f64,
    /// Orthonormal directions, one per row: `q x m`.
    basis: Mat<f64>,
    /// Residual: squared singular values, the `rank` largest, falling. Incremental: eigenvalues of the tracked
    /// matrix, one per direction, falling.
    values: Vec<f64>,
}

impl Group {
    /// Of the seed: blocks given as their transposes (`n x m`), one below the other.
    pub(super) fn seed(rows: &Mat<f64>, rank: usize, bound: Bound) -> Result<Self, CompressError> {
        let energy = dot(&rows.data, &rows.data);
        let empty =
            Self { bound, rank, energy: 0.0, captured: 0.0, basis: Mat::zeros(0, rows.cols), values: vec![] };
        if let Bound::Incremental { .. } = bound {
            return empty.with(rows);
        }
        let mut values: Vec<f64> = svd_values(rows)?.iter().map(|s| s * s).collect();
        values.truncate(rank);
        let captured = if rows.rows <= rank { energy } else { values.iter().sum() };
        let basis = if bound == Bound::Residual { directions(rows)?.0 } else { empty.basis };
        Ok(Self { bound, rank, energy, captured, basis, values })
    }

    /// The bound on the squared relative error; 0 for nothing.
    pub(super) fn squared_error(&self) -> f64 {
        if self.energy > 0.0 { (1.0 - self.captured / self.energy).max(0.0) } else { 0.0 }
    }

    /// The energy of a block's part outside the tracked directions, for sorting: a difference of energies, 0 where it
    /// drowns in rounding.
    pub(super) fn outside(&self, rows: &Mat<f64>) -> Result<f64, CompressError> {
        let inside = matmul_transposed_right(rows, &self.basis)?;
        let whole = dot(&rows.data, &rows.data);
        let rest = whole - dot(&inside.data, &inside.data);
        Ok(if rest > NEGLIGIBLE * whole { rest } else { 0.0 })
    }

    /// The group with one more block (as its transpose).
    pub(super) fn with(&self, rows: &Mat<f64>) -> Result<Self, CompressError> {
        let mut next = match self.bound {
            Bound::Weyl => self.clone(),
            Bound::Residual => self.with_residual(rows)?,
            Bound::Incremental { oversample } => self.with_tracked(rows, self.rank + oversample)?,
        };
        next.energy = self.energy + dot(&rows.data, &rows.data);
        Ok(next)
    }

    /// Coordinates on the basis (`n x q`) and the rest, projected twice.
    fn project(&self, rows: &Mat<f64>) -> Result<(Mat<f64>, Mat<f64>), CompressError> {
        let mut along = Mat::zeros(rows.rows, self.basis.rows);
        let mut rest = rows.clone();
        if self.basis.rows == 0 {
            return Ok((along, rest));
        }
        for _ in 0..2 {
            let part = matmul_transposed_right(&rest, &self.basis)?;
            let inside = matmul(&part, &self.basis)?;
            along.data.iter_mut().zip(&part.data).for_each(|(a, p)| *a += p);
            rest.data.iter_mut().zip(&inside.data).for_each(|(r, i)| *r -= i);
        }
        Ok((along, rest))
    }

    /// The left singular vectors of the seed and of all residuals are orthonormal, and along each of them `M` has at
    /// least the energy that it was found with; by Ky Fan their `r` largest are no more than `E_r(M)`.
    fn with_residual(&self, rows: &Mat<f64>) -> Result<Self, CompressError> {
        let mut next = self.clone();
        let (_, rest) = self.project(rows)?;
        let size = dot(&rows.data, &rows.data).sqrt();
        if dot(&rest.data, &rest.data).sqrt() > NEGLIGIBLE * size {
            next.values.extend(svd_values(&rest)?.iter().map(|s| s * s));
            next.values.sort_by(|a, b| b.total_cmp(a));
            next.values.truncate(self.rank);
            // Rounding must not lower what the seed has: its sum was taken without a decomposition.
            next.captured = next.values.iter().sum::<f64>().max(self.captured);
            let (new, _) = directions_beyond(&rest, size)?;
            next.basis = stack(&self.basis, &new);
        }
        Ok(next)
    }

    /// `M Mᵀ >= Q diag(l) Qᵀ`: adds the block exactly, then keeps the `most` leading eigenpairs.
    fn with_tracked(&self, rows: &Mat<f64>, most: usize) -> Result<Self, CompressError> {
        let (along, rest) = self.project(rows)?;
        let size = dot(&rows.data, &rows.data).sqrt();
        let (new, parts) = directions_beyond(&rest, size)?;
        let (q, n) = (self.basis.rows, new.rows);
        // Coordinates of the block on old and new directions, one row per column of the block.
        let coordinates =
            Mat::from_fn(rows.rows, q + n, |j, i| if i < q { along.at(j, i) } else { parts.at(i - q, j) });
        let mut small = matmul_transposed_left(&coordinates, &coordinates)?;
        for (i, value) in self.values.iter().enumerate() {
            small.data[i * (q + n) + i] += value;
        }
        let found = eigh(&small)?;
        let kept = found.values.iter().take(most).take_while(|&&v| v > 0.0).count();
        let basis = matmul_transposed_left(&found.vectors.leading_columns(kept), &stack(&self.basis, &new))?;
        let values: Vec<f64> = found.values[..kept].to_vec();
        let captured = values.iter().take(self.rank).sum();
        Ok(Self { basis, values, captured, ..self.clone() })
    }
}

/// Orthonormal directions of the rows (`q x m`) and the rows' parts along them (`q x n`), negligible ones left out.
fn directions(rows: &Mat<f64>) -> Result<(Mat<f64>, Mat<f64>), CompressError> {
    directions_beyond(rows, dot(&rows.data, &rows.data).sqrt())
}

/// [`directions`] of what is left of rows whose norm was `size`.
fn directions_beyond(rows: &Mat<f64>, size: f64) -> Result<(Mat<f64>, Mat<f64>), CompressError> {
    let found = qr(&rows.transposed())?;
    let real: Vec<usize> = (0..found.r.rows)
        .filter(|&i| dot(found.r.row(i), found.r.row(i)).sqrt() > NEGLIGIBLE * size)
        .collect();
    let basis = Mat::from_fn(real.len(), rows.cols, |i, c| found.q.at(c, real[i]));
    let parts = Mat::from_fn(real.len(), rows.rows, |i, j| found.r.at(real[i], j));
    Ok((basis, parts))
}

/// Rows of both, one below the other.
pub(super) fn stack(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    Mat { rows: a.rows + b.rows, cols: b.cols, data: a.data.iter().chain(&b.data).copied().collect() }
}

/// An upper bound on the relative error `||M - M_r|| / ||M||` of the blocks (`m x n_i`) side by side at rank `rank`, added
/// in the given order; the first block is the seed.
///
/// # Errors
/// If there is no block, the numbers of rows differ, or a value is not finite.
pub fn joint_error_bound(blocks: &[Mat<f64>], rank: usize, bound: Bound) -> Result<f64, CompressError> {
    let blocks = super::clusters::transposed(blocks)?;
    let mut group = Group::seed(&blocks[0], rank, bound)?;
    for block in &blocks[1..] {
        group = group.with(block)?;
    }
    Ok(group.squared_error().sqrt())
}
