//! The preconditioner: a few columns, or directions, are left unpenalised, and all columns are freed of them.

use rayon::prelude::*;
use sparseland_linalg::{Mat, svd_truncated};
use sparseland_optim::design::{Dense, Design};

use crate::estimators::EstimateError;

/// Part of a column's norm below which what is left of an anchor is rounding: it depends on those before it.
const DEPENDENT: f64 = 1e-10;
/// Part of a column's norm below which what is left of it lies within the anchors.
const IN_SPAN: f64 = 1e-9;

/// Columns of norm `sqrt(N)`, split into the part along an orthonormal basis and the rest.
#[derive(Debug, Clone)]
pub struct AnchoredDesign {
    /// Orthonormal basis of the anchors, one vector after another, `N` numbers each.
    pub basis: Vec<Vec<f64>>,
    /// What takes each basis vector back to columns: `basis_k = sum_j combination[k][j] x_j`, pairs of column and factor.
    pub combination: Vec<Vec<(usize, f64)>>,
    /// The columns less their part along the basis, scaled back to norm `sqrt(N)`; zeros for anchors and columns within
    /// their span.
    pub residual: Dense<f64>,
    /// Norm of that part before scaling, divided by `sqrt(N)`: the weight of the penalty in the original coordinates.
    pub shrink: Vec<f64>,
    /// Anchors that depend on others and were dropped.
    pub dependent: usize,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    sparseland_matrix::vector::dot(a, b)
}

/// `v` less its part along the basis, twice: once leaves as much as the column shrank by.
fn project_out(basis: &[Vec<f64>], v: &mut [f64]) {
    for _ in 0..2 {
        for q in basis {
            let along = dot(q, v);
            sparseland_matrix::vector::axpy(-along, q, v);
        }
    }
}

impl AnchoredDesign {
    /// Anchors on some columns of `x`, whose columns have norm `sqrt(N)` or are zero. Cost: `O(N m d)`.
    pub fn on_columns(x: &Dense<f64>, anchors: &[usize]) -> Self {
        let scale = (x.rows() as f64).sqrt();
        let (mut basis, mut combination, mut dependent) =
            (Vec::<Vec<f64>>::new(), Vec::<Vec<(usize, f64)>>::new(), 0);
        for &j in anchors {
            let mut v = x.column(j).to_vec();
            // x_j - sum_k c_k q_k, with q_k a combination of earlier columns.
            let mut of = vec![(j, 1.0)];
            for _ in 0..2 {
                for (q, parts) in basis.iter().zip(&combination) {
                    let along = dot(q, &v);
                    sparseland_matrix::vector::axpy(-along, q, &mut v);
                    for &(column, factor) in parts {
                        match of.iter_mut().find(|(c, _)| *c == column) {
                            Some((_, f)) => *f -= along * factor,
                            None => of.push((column, -along * factor)),
                        }
                    }
                }
            }
            let norm = dot(&v, &v).sqrt();
            if norm <= DEPENDENT * scale {
                dependent += 1;
                continue;
            }
            v.iter_mut().for_each(|v| *v /= norm);
            of.iter_mut().for_each(|(_, f)| *f /= norm);
            basis.push(v);
            combination.push(of);
        }
        Self::over(x, basis, combination, anchors, dependent)
    }

    /// Anchors on the `m` leading principal directions of the columns.
    ///
    /// # Errors
    /// [`EstimateError::Parameter`] when the decomposition fails.
    pub fn on_principal(x: &Dense<f64>, m: usize) -> Result<Self, EstimateError> {
        let matrix = Mat::from_fn(x.cols(), x.rows(), |j, i| x.column(j)[i]);
        let failed = |_| EstimateError::Parameter {
            name: "m",
            value: m as f64,
            domain: "such that X has m directions",
        };
        // Xᵀ = U S Vᵀ: rows of vt are directions of rows, columns of u weigh the columns of X.
        let d = svd_truncated(&matrix, m).map_err(failed)?;
        let floor = DEPENDENT * d.s.first().copied().unwrap_or(0.0);
        let rank = d.s.iter().take_while(|s| **s > floor).count();
        let basis = (0..rank).map(|k| d.vt.row(k).to_vec()).collect();
        let combination = (0..rank)
            .map(|k| (0..x.cols()).map(|j| (j, d.u.at(j, k) / d.s[k])).filter(|(_, f)| *f != 0.0).collect())
            .collect();
        Ok(Self::over(x, basis, combination, &[], m - rank))
    }

    fn over(
        x: &Dense<f64>,
        basis: Vec<Vec<f64>>,
        combination: Vec<Vec<(usize, f64)>>,
        anchors: &[usize],
        dependent: usize,
    ) -> Self {
        let (n, d) = (x.rows(), x.cols());
        let scale = (n as f64).sqrt();
        let mut values = vec![0.0; n * d];
        let shrink: Vec<f64> = values
            .par_chunks_exact_mut(n)
            .enumerate()
            .map(|(j, out)| {
                out.copy_from_slice(x.column(j));
                project_out(&basis, out);
                let left = dot(out, out).sqrt() / scale;
                if left <= IN_SPAN || anchors.contains(&j) {
                    out.fill(0.0);
                    return 0.0;
                }
                out.iter_mut().for_each(|v| *v /= left);
                left
            })
            .collect();
        let residual = Dense::from_columns(n, d, values).expect("n x d values");
        Self { basis, combination, residual, shrink, dependent }
    }

    /// `y` less its part along the anchors.
    pub fn reduce(&self, y: &[f64]) -> Vec<f64> {
        let mut out = y.to_vec();
        project_out(&self.basis, &mut out);
        out
    }

    /// Coefficients of the columns of `x` from those of [`AnchoredDesign::residual`]: the anchors take what is best.
    pub fn coefficients(&self, x: &Dense<f64>, y: &[f64], of_residual: &[f64]) -> Vec<f64> {
        let mut w: Vec<f64> =
            of_residual.iter().zip(&self.shrink).map(|(v, s)| if *s > 0.0 { v / s } else { 0.0 }).collect();
        let mut rest: Vec<f64> = y.to_vec();
        for (j, w) in w.iter().enumerate().filter(|(_, w)| **w != 0.0) {
            x.axpy(j, -w, &mut rest);
        }
        for (q, parts) in self.basis.iter().zip(&self.combination) {
            let along = dot(q, &rest);
            parts.iter().for_each(|&(j, f)| w[j] += along * f);
        }
        w
    }
}
