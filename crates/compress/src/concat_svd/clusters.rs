//! Greedy clustering under an error bound, and what the groups really lose.

use std::collections::VecDeque;

use rayon::prelude::*;
use sparseland_linalg::{Mat, matmul_transposed_left, svd, svd_values};

use super::bounds::{Bound, Group, stack};
use crate::CompressError;
use crate::dictionary::dot;
use crate::problem::ratio;

/// In which order blocks are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those of the smallest norm first: they add little energy.
    Norm,
    /// Those first that have least energy outside the seed's directions. For [`Bound::Weyl`], which tracks none, as
    /// `Norm`.
    Residual,
}

/// What happens after a block that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The group is done (official code).
    FirstFail,
    /// The others are still tried.
    All,
}

/// How blocks are grouped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Rank of the shared basis; more than there are rows counts as that many.
    pub rank: usize,
    /// The largest relative error of a group.
    pub epsilon: f64,
    /// How the error is bounded.
    pub bound: Bound,
    /// In which order blocks are tried.
    pub order: Order,
    /// What happens after a block that does not fit.
    pub scan: Scan,
    /// After this many seeds in a row to which nothing could be added, the rest stays alone (official code: 10).
    pub patience: usize,
}

impl Settings {
    /// The incremental bound by residual order, the official code's other values.
    pub fn new(rank: usize, epsilon: f64) -> Self {
        Self {
            rank,
            epsilon,
            bound: Bound::Incremental { oversample: 5 },
            order: Order::Residual,
            scan: Scan::FirstFail,
            patience: 10,
        }
    }
}

/// Squared errors closer than this are equal: `sqrt` makes 1e-6 of it.
const TOLERANCE: f64 = 1e-12;

/// A group of blocks with one basis.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Positions of its blocks, in the order in which they were added. A single block is kept as it is.
    pub members: Vec<usize>,
    /// The certified bound on its relative error.
    pub predicted_error: f64,
    /// Its relative error at the given rank, from its singular values; 0 for a single block.
    pub exact_error: f64,
    /// `m x r`, orthonormal columns; empty for a single block.
    pub basis: Mat<f64>,
    /// `r x n_i` for every member; empty for a single block.
    pub coefficients: Vec<Mat<f64>>,
}

/// All groups.
#[derive(Debug, Clone)]
pub struct Clusters {
    /// The groups; every block is in exactly one.
    pub groups: Vec<Cluster>,
    /// Numbers in all blocks.
    pub dense_parameters: u64,
    /// Numbers in bases and coefficients; a group that would take more than its blocks is counted as these.
    pub parameters: u64,
}

impl Clusters {
    /// Dense numbers per stored number.
    pub fn compression(&self) -> f64 {
        self.dense_parameters as f64 / self.parameters.max(1) as f64
    }

    /// The group of every block.
    pub fn labels(&self, blocks: usize) -> Vec<usize> {
        let mut labels = vec![0; blocks];
        for (label, group) in self.groups.iter().enumerate() {
            group.members.iter().for_each(|&i| labels[i] = label);
        }
        labels
    }
}

/// The blocks' transposes, checked.
pub(super) fn transposed(blocks: &[Mat<f64>]) -> Result<Vec<Mat<f64>>, CompressError> {
    let Some(first) = blocks.first() else {
        return Err(CompressError::Setting("there are no blocks to group; give at least one".into()));
    };
    for (i, block) in blocks.iter().enumerate() {
        if block.rows != first.rows {
            return Err(CompressError::Setting(format!(
                "block {i} has {} rows, the first has {}; blocks side by side need as many",
                block.rows, first.rows
            )));
        }
        if let Some(at) = block.data.iter().position(|v| !v.is_finite()) {
            let (row, col) = (at / block.cols, at % block.cols);
            return Err(CompressError::Setting(format!(
                "block {i} is not finite at row {row}, column {col}"
            )));
        }
    }
    Ok(blocks.par_iter().map(Mat::transposed).collect())
}

/// Groups blocks `m x n_i` so that every group of two or more has a certified relative error of at most `epsilon` at rank
/// `rank`. Blocks of zeros stay alone. Deterministic; the order of blocks with different norms does not matter.
///
/// # Errors
/// If there is no block, the numbers of rows differ, a value is not finite, the rank is 0 or `epsilon` is negative.
pub fn cluster_blocks(blocks: &[Mat<f64>], settings: &Settings) -> Result<Clusters, CompressError> {
    let turned = transposed(blocks)?;
    if settings.rank == 0 || settings.epsilon.is_nan() || settings.epsilon < 0.0 {
        return Err(CompressError::Setting(format!(
            "rank {} and error {}; give a rank of at least 1 and an error of at least 0",
            settings.rank, settings.epsilon
        )));
    }
    let settings = Settings { rank: settings.rank.min(blocks[0].rows), ..*settings };
    let energy: Vec<f64> = turned.iter().map(|b| dot(&b.data, &b.data)).collect();
    let (zeros, mut left): (Vec<usize>, Vec<usize>) = (0..blocks.len()).partition(|&i| energy[i] == 0.0);
    left.sort_by(|&a, &b| energy[b].total_cmp(&energy[a]).then(a.cmp(&b)));
    let mut left: VecDeque<usize> = left.into();
    let mut found: Vec<(Vec<usize>, f64)> = zeros.into_iter().map(|i| (vec![i], 0.0)).collect();
    let mut failures = 0;
    while let Some(first) = left.pop_front() {
        if failures >= settings.patience {
            found.push((vec![first], 0.0));
            continue;
        }
        let (members, error) = grow(&turned, &energy, first, &mut left, &settings)?;
        failures = if members.len() == 1 { failures + 1 } else { 0 };
        found.push((members, error));
    }
    let groups: Vec<Cluster> =
        found.into_par_iter().map(|(m, e)| finish(&turned, m, e, settings.rank)).collect::<Result<_, _>>()?;
    let rows = blocks[0].rows as u64;
    let columns = |c: &Cluster| c.members.iter().map(|&i| blocks[i].cols as u64).sum::<u64>();
    let rank = settings.rank as u64;
    let stored = |c: &Cluster| match c.members.len() {
        1 => rows * columns(c),
        _ => (rank * (rows + columns(c))).min(rows * columns(c)),
    };
    Ok(Clusters {
        dense_parameters: rows * groups.iter().map(columns).sum::<u64>(),
        parameters: groups.iter().map(stored).sum(),
        groups,
    })
}

/// One group around a seed; takes its members out of `left`.
fn grow(
    turned: &[Mat<f64>],
    energy: &[f64],
    first: usize,
    left: &mut VecDeque<usize>,
    settings: &Settings,
) -> Result<(Vec<usize>, f64), CompressError> {
    let mut members = vec![first];
    let mut rows = turned[first].clone();
    while let Some(&next) = left.front()
        && rows.rows + turned[next].rows <= settings.rank
    {
        rows = stack(&rows, &turned[next]);
        members.push(next);
        left.pop_front();
    }
    let mut group = Group::seed(&rows, settings.rank, settings.bound)?;
    let mut tried: Vec<(f64, usize)> = if settings.order == Order::Residual && settings.bound != Bound::Weyl {
        let outside = |&i: &usize| Ok((group.outside(&turned[i])?, i));
        left.par_iter().map(outside).collect::<Result<_, CompressError>>()?
    } else {
        left.iter().map(|&i| (energy[i], i)).collect()
    };
    tried.sort_by(|a, b| a.0.total_cmp(&b.0).then(energy[a.1].total_cmp(&energy[b.1])).then(a.1.cmp(&b.1)));
    let allowed = settings.epsilon * settings.epsilon + TOLERANCE;
    let mut taken = vec![false; turned.len()];
    for (_, i) in tried {
        let next = group.with(&turned[i])?;
        if next.squared_error() <= allowed {
            group = next;
            members.push(i);
            taken[i] = true;
        } else if settings.scan == Scan::FirstFail {
            break;
        }
    }
    left.retain(|&i| !taken[i]);
    let error = if members.len() == 1 { 0.0 } else { group.squared_error().sqrt() };
    Ok((members, error))
}

fn finish(
    turned: &[Mat<f64>],
    members: Vec<usize>,
    predicted_error: f64,
    rank: usize,
) -> Result<Cluster, CompressError> {
    if members.len() == 1 {
        let (basis, coefficients) = (Mat::zeros(0, 0), Vec::new());
        return Ok(Cluster { members, predicted_error, exact_error: 0.0, basis, coefficients });
    }
    let rows = members[1..].iter().fold(turned[members[0]].clone(), |rows, &i| stack(&rows, &turned[i]));
    let found = svd(&rows)?;
    let exact_error = crate::methods::svd::tail(&found.s, rank);
    let basis = found.vt.leading_rows(rank).transposed();
    let coefficients = members
        .iter()
        .map(|&i| matmul_transposed_left(&basis, &turned[i].transposed()))
        .collect::<Result<_, _>>()?;
    Ok(Cluster { members, predicted_error, exact_error, basis, coefficients })
}

/// The relative error `||M - M_r|| / ||M||` of the given blocks side by side, from the singular values.
///
/// # Errors
/// As [`cluster_blocks`].
pub fn exact_error(blocks: &[Mat<f64>], rank: usize) -> Result<f64, CompressError> {
    let turned = transposed(blocks)?;
    let rows = turned[1..].iter().fold(turned[0].clone(), |rows, block| stack(&rows, block));
    let s = svd_values(&rows)?;
    let energy = |s: &[f64]| s.iter().map(|v| v * v).sum::<f64>().sqrt();
    Ok(ratio(energy(&s[rank.min(s.len())..]), energy(&s)))
}
