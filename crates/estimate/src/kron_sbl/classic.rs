//! Unstructured sparse Bayesian learning on the dense dictionary: the baseline.
//!
//! Complex numbers are pairs of reals here: `[[Re H, -Im H], [Im H, Re H]]` has the posterior of `H`, twice over.

use num_complex::Complex64;
use sparseland_linalg::{Mat, cholesky_robust, gram};

use super::KronSblError;
use super::posterior::Posterior;
use super::tensor::ComplexMat;

/// The dense dictionary, by columns, and which of its columns are still in use.
pub(super) struct Dense {
    /// One row per atom: its real part, then, for complex data, its imaginary part.
    atoms: Vec<Vec<f64>>,
    complex: bool,
    rows: usize,
    pub kept: Vec<usize>,
}

impl Dense {
    pub(super) fn new(factors: &[ComplexMat], complex: bool) -> Self {
        let rows: usize = factors.iter().map(|f| f.rows).product();
        let columns: usize = factors.iter().map(|f| f.cols).product();
        let mut atoms = Vec::with_capacity(columns);
        for index in 0..columns {
            let mut atom = vec![Complex64::ONE];
            let mut stride = columns;
            for f in factors {
                stride /= f.cols;
                let j = (index / stride) % f.cols;
                atom = atom.iter().flat_map(|&a| (0..f.rows).map(move |i| a * f.at(i, j))).collect();
            }
            let mut parts: Vec<f64> = atom.iter().map(|v| v.re).collect();
            if complex {
                parts.extend(atom.iter().map(|v| v.im));
            }
            atoms.push(parts);
        }
        Dense { atoms, complex, rows, kept: (0..columns).collect() }
    }

    /// Atom `index`: its real part, then, for complex data, its imaginary part.
    pub(super) fn atom(&self, index: usize) -> &[f64] {
        &self.atoms[index]
    }

    /// The second column that belongs to an atom of complex data: that of `i h`.
    fn rotated(&self, atom: &[f64], at: usize) -> f64 {
        if at < self.rows { -atom[self.rows + at] } else { atom[at - self.rows] }
    }

    /// Mean and variances for the prior variances `gamma` of the kept atoms.
    pub(super) fn posterior(
        &self,
        gamma: &[f64],
        y: &[Complex64],
        s2: f64,
    ) -> Result<Posterior, KronSblError> {
        let (n, m) = (self.kept.len(), if self.complex { 2 * self.rows } else { self.rows });
        let copies = if self.complex { 2 } else { 1 };
        let scaled = Mat::from_fn(copies * n, m, |i, k| {
            let atom = &self.atoms[self.kept[i % n]];
            gamma[i % n].sqrt() * if i < n { atom[k] } else { self.rotated(atom, k) }
        });
        let mut covariance = gram(&scaled);
        for k in 0..m {
            covariance.data[k * m + k] += s2;
        }
        let whitener = cholesky_robust(&covariance)?;
        // Columns: the kept atoms, then y.
        let right = Mat::from_fn(m, n + 1, |k, i| {
            if i < n {
                self.atoms[self.kept[i]][k]
            } else if k < self.rows {
                y[k].re
            } else {
                y[k - self.rows].im
            }
        });
        let white = whitener.solve_transposed(&right)?;
        let mut mean = vec![Complex64::ZERO; n];
        let mut squares = vec![0.0; n];
        let mut fit = 0.0;
        for row in white.data.chunks_exact(n + 1) {
            let last = row[n];
            fit += last * last;
            for i in 0..n {
                squares[i] += row[i] * row[i];
                mean[i].re += row[i] * last;
            }
        }
        // Sigma^-1 y serves the imaginary parts and the residual y - H mean = s2 Sigma^-1 y.
        let mut y_white = Mat::zeros(m, 1);
        (0..m).for_each(|k| y_white.data[k] = white.data[k * (n + 1) + n]);
        let solved = whitener.solve(&y_white)?.data;
        if self.complex {
            for (i, v) in mean.iter_mut().enumerate() {
                let atom = &self.atoms[self.kept[i]];
                v.im = (0..m).map(|k| self.rotated(atom, k) * solved[k]).sum();
            }
        }
        let mut variance = Vec::with_capacity(n);
        let mut effective = 0.0;
        for i in 0..n {
            mean[i] *= gamma[i];
            effective += gamma[i] * squares[i];
            variance.push((gamma[i] - gamma[i] * gamma[i] * squares[i]).max(0.0));
        }
        let log_det: f64 = (0..m).map(|k| 2.0 * whitener.factor().at(k, k).ln()).sum();
        let residual = s2 * s2 * solved.iter().map(|v| v * v).sum::<f64>();
        Ok(Posterior { mean, variance, cost: fit + log_det / copies as f64, residual, effective })
    }
}
