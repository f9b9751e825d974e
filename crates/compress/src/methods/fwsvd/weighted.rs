//! Weighted low-rank approximation of a matrix: with weights per row and column, or their correlations, by one
//! decomposition, with a weight per entry by alternating least squares.

use rayon::prelude::*;
use sparseland_linalg::{Mat, Svd, Whitener, matmul, solve_spd, svd};
use sparseland_matrix::{Layout, Matrix};

use crate::CompressError;
use crate::methods::svd::{marginal, rank_of, tail};
use crate::problem::{Candidate, FactorShape, Factors, LayerProblem, Limit, PreparedLayer};

/// The decomposition of `R M Cᵀ`, from which every rank of `min ||R (M - M~) Cᵀ||` is a slice.
#[derive(Debug, Clone)]
pub struct WeightedSvd {
    /// Singular values of `R M Cᵀ = U diag(s) Vᵀ`.
    s: Vec<f64>,
    /// `R⁻¹ U`.
    u: Mat<f64>,
    /// `C⁻¹ V`.
    v: Mat<f64>,
}

impl WeightedSvd {
    /// Of `m` with positive weights per row and column, `min sum_ij r_i² c_j² (M_ij - M~_ij)²`. Cost
    /// `O(rows cols min(rows, cols))`.
    ///
    /// # Errors
    /// If a weight is not positive and finite, their number is wrong, or the decomposition fails.
    pub fn new(m: &Mat<f64>, rows: Vec<f64>, cols: Vec<f64>) -> Result<Self, CompressError> {
        for (what, weights, wanted) in [("row", &rows, m.rows), ("column", &cols, m.cols)] {
            if weights.len() != wanted {
                let found = weights.len();
                return Err(CompressError::Setting(format!("{found} {what} weights for {wanted} {what}s")));
            }
            if let Some(i) = weights.iter().position(|w| !(w.is_finite() && *w > 0.0)) {
                return Err(CompressError::Setting(format!(
                    "{what} weight {i} is {}; weights must be positive and finite",
                    weights[i]
                )));
            }
        }
        let mut scaled = m.clone();
        scaled.scale_rows(&rows);
        scaled.scale_columns(&cols);
        let Svd { s, mut u, vt } = svd(&scaled)?;
        let mut v = vt.transposed();
        u.scale_rows(&inverse(&rows));
        v.scale_rows(&inverse(&cols));
        Ok(Self { s, u, v })
    }

    /// Of `m` with correlated weights: `min tr((M - M~)ᵀ A (M - M~) B)` for the matrices `A = RᵀR` of the rows and
    /// `B = CᵀC` of the columns. Cost `O(rows cols (rows + cols))`.
    ///
    /// # Errors
    /// If the shapes differ or the decomposition fails.
    pub fn correlated(m: &Mat<f64>, rows: &Whitener, cols: &Whitener) -> Result<Self, CompressError> {
        let turned = cols.apply(&rows.apply(m)?.transposed())?;
        let Svd { s, u, vt } = svd(&turned.transposed())?;
        Ok(Self { s, u: rows.solve(&u)?, v: cols.solve(&vt.transposed())? })
    }

    /// The singular values of the weighted matrix.
    pub fn values(&self) -> &[f64] {
        &self.s
    }

    /// The weighted error of rank `k`, relative to that of zero.
    pub fn error(&self, k: usize) -> f64 {
        tail(&self.s, k)
    }

    /// The best factors of rank `k`, in checkpoint orientation for `m` with inputs first; magnitudes are split
    /// evenly.
    pub fn factors(&self, k: usize) -> Factors {
        let k = k.min(self.s.len());
        let part = |m: &Mat<f64>| Mat::from_fn(m.rows, k, |i, t| m.at(i, t) * self.s[t].sqrt());
        Factors { left: part(&self.v), right: part(&self.u).transposed(), sparse: false }
    }

    /// The best approximation of rank `k`.
    pub fn approximation(&self, k: usize) -> Mat<f64> {
        let Factors { left, right, .. } = self.factors(k);
        matmul(&left, &right).expect("the factors fit").transposed()
    }
}

fn inverse(weights: &[f64]) -> Vec<f64> {
    weights.iter().map(|w| 1.0 / w).collect()
}

/// Ridge of the small systems relative to their mean diagonal: rows without weight stay finite.
const RIDGE: f64 = 1e-10;

/// `min sum_ij F_ij (M - A B)_ij²` over rank `k`, by alternating least squares: every row of `A` and every column of
/// `B` in turn solves a `k x k` system. Starts from the best approximation for the row sums of `F` and returns the
/// approximation after the round that was best; a local minimum, since the problem has no closed form.
/// `O(k² rows cols)` per round.
///
/// # Errors
/// If the shapes differ, a weight is negative or not finite, or a solve fails.
pub fn elementwise(
    m: &Mat<f64>,
    fisher: &Mat<f64>,
    k: usize,
    rounds: usize,
) -> Result<Mat<f64>, CompressError> {
    if m.shape() != fisher.shape() {
        return Err(CompressError::Setting(format!(
            "{} x {} weights per entry for a {} x {} matrix",
            fisher.rows, fisher.cols, m.rows, m.cols
        )));
    }
    if let Some(i) = fisher.data.iter().position(|f| !(f.is_finite() && *f >= 0.0)) {
        let (row, col) = (i / m.cols, i % m.cols);
        return Err(CompressError::Setting(format!(
            "the weight of entry ({row}, {col}) is {}",
            fisher.data[i]
        )));
    }
    let sums: Vec<f64> = (0..m.rows).map(|i| fisher.row(i).iter().sum()).collect();
    let start = WeightedSvd::new(m, super::scales(&sums), vec![1.0; m.cols])?;
    let Factors { left, right, .. } = start.factors(k);
    let (mut a, mut b) = (right.transposed(), left); // rows x k and cols x k
    let loss = |a: &Mat<f64>, b: &Mat<f64>| -> Result<(f64, Mat<f64>), CompressError> {
        let fitted = matmul(a, &b.transposed())?;
        let terms = fisher.data.iter().zip(&m.data).zip(&fitted.data);
        Ok((terms.map(|((f, m), x)| f * (m - x) * (m - x)).sum(), fitted))
    };
    let mut best = loss(&a, &b)?;
    let (turned, weights) = (m.transposed(), fisher.transposed());
    for _ in 0..rounds {
        a = solve_rows(m, fisher, &b, &a)?;
        b = solve_rows(&turned, &weights, &a, &b)?;
        let now = loss(&a, &b)?;
        if now.0 < best.0 {
            best = now;
        }
    }
    Ok(best.1)
}

/// For every row `i` the weighted least squares of `m_i` on the columns of `basis: cols x k`; rows without weight
/// stay as they are.
fn solve_rows(
    m: &Mat<f64>,
    weights: &Mat<f64>,
    basis: &Mat<f64>,
    old: &Mat<f64>,
) -> Result<Mat<f64>, CompressError> {
    let k = basis.cols;
    let solve = |i: usize| -> Result<Vec<f64>, CompressError> {
        let (mut system, mut right) = (Mat::zeros(k, k), Mat::zeros(k, 1));
        for (c, (&w, &v)) in weights.row(i).iter().zip(m.row(i)).enumerate() {
            let row = basis.row(c);
            for p in 0..k {
                right.data[p] += w * v * row[p];
                crate::dictionary::add_scaled(w * row[p], row, system.row_mut(p));
            }
        }
        let trace: f64 = (0..k).map(|p| system.at(p, p)).sum();
        if trace == 0.0 {
            return Ok(old.row(i).to_vec());
        }
        (0..k).for_each(|p| system.data[p * k + p] += RIDGE * trace / k as f64);
        Ok(solve_spd(&system, &right)?.data)
    };
    let rows: Vec<Vec<f64>> = (0..m.rows).into_par_iter().map(solve).collect::<Result<_, _>>()?;
    Ok(Mat { rows: m.rows, cols: k, data: rows.concat() })
}

/// A layer whose ranks are slices of one weighted decomposition.
pub(crate) struct Prepared {
    pub(crate) slug: &'static str,
    pub(crate) weighted: WeightedSvd,
    pub(crate) problem: LayerProblem,
}

impl PreparedLayer for Prepared {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let sides = self.problem.sides();
        let Some(shape) = FactorShape::fitting(sides, 1.0, limit) else { return Ok(None) };
        Ok(Some(Candidate {
            layout: shape.layout(sides.0, sides.1, limit.values),
            errors: self.problem.errors(&self.weighted.approximation(shape.k))?,
            marginal: marginal(self.weighted.values(), shape.k),
        }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let k = rank_of(self.slug, layout)?;
        Ok(self.weighted.factors(k).into_matrix(self.problem.values))
    }
}
