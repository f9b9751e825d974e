//! The posterior of `x` for a Kronecker prior, without a matrix of the size of `x`.

use num_complex::Complex64;
use sparseland_linalg::{Mat, eigh, eigh_complex};

use super::KronSblError;
use super::tensor::{ComplexMat, kron_apply, kron_vector};

/// One factor of the dictionary, reduced to the atoms still in use, and its part of the prior.
#[derive(Debug, Clone)]
pub(super) struct Mode {
    /// Kept columns of the full factor.
    pub kept: Vec<usize>,
    /// Those columns, `M_i x kept`.
    pub dictionary: ComplexMat,
    /// Prior variances of the kept atoms (the factor `t_i` of `gamma`).
    pub prior: Vec<f64>,
}

/// Mean, variances and the numbers that fall out on the way.
pub(super) struct Posterior {
    /// `E x`, length `prod kept`.
    pub mean: Vec<Complex64>,
    /// Diagonal of the posterior covariance.
    pub variance: Vec<f64>,
    /// `y^H (s2 I + H Gamma H^H)^-1 y + log det(s2 I + H Gamma H^H)`.
    pub cost: f64,
    /// `||y - H mean||^2`.
    pub residual: f64,
    /// `sum_i (1 - variance_i / gamma_i)`: the effective number of parameters.
    pub effective: f64,
}

/// Eigenvalues (clamped at zero) and eigenvectors of `A diag(t) A^H`.
fn eigen(a: &ComplexMat, t: &[f64]) -> Result<(Vec<f64>, ComplexMat), KronSblError> {
    let m = a.rows;
    let product = ComplexMat::from_fn(m, m, |i, j| {
        a.row(i).iter().zip(a.row(j)).zip(t).map(|((x, y), t)| x * y.conj() * *t).sum()
    });
    let part =
        |f: fn(&Complex64) -> f64| Mat { rows: m, cols: m, data: product.data.iter().map(f).collect() };
    let (values, vectors) = if a.is_real() {
        let e = eigh(&part(|v| v.re))?;
        (e.values, ComplexMat::from(&e.vectors))
    } else {
        let e = eigh_complex(&part(|v| v.re), &part(|v| v.im))?;
        let vectors = ComplexMat::from_fn(m, m, |i, j| Complex64::new(e.real.at(i, j), e.imaginary.at(i, j)));
        (e.values, vectors)
    };
    Ok((values.into_iter().map(|v| v.max(0.0)).collect(), vectors))
}

/// With `A_i diag(t_i) A_i^H = U_i P_i U_i^H`, `V_i = diag(t_i) A_i^H U_i` and `q = 1 / (s2 + P_1 (x) P_2 (x) ...)`:
/// `mean = (V_1 (x) ...) (q . (U_1 (x) ...)^H y)`, `variance = gamma - (|V_1|^2 (x) ...) q`.
pub(super) fn posterior(modes: &[Mode], y: &[Complex64], s2: f64) -> Result<Posterior, KronSblError> {
    let mut spectra = Vec::new();
    let (mut left, mut right, mut squares) = (Vec::new(), Vec::new(), Vec::new());
    for mode in modes {
        let (values, u) = eigen(&mode.dictionary, &mode.prior)?;
        let (a, m, n) = (&mode.dictionary, mode.dictionary.rows, mode.kept.len());
        let mut v = ComplexMat::from_fn(n, m, |_, _| Complex64::ZERO);
        for k in 0..m {
            for i in 0..n {
                let conjugate = a.data[k * n + i].conj() * mode.prior[i];
                for j in 0..m {
                    v.data[i * m + j] += conjugate * u.data[k * m + j];
                }
            }
        }
        squares.push(v.data.iter().map(Complex64::norm_sqr).collect::<Vec<f64>>());
        left.push(ComplexMat::from_fn(m, m, |i, j| u.at(j, i).conj()));
        right.push(v);
        spectra.push(values);
    }
    fn views(mats: &[ComplexMat]) -> Vec<(&[Complex64], usize, usize)> {
        mats.iter().map(|m| (m.data.as_slice(), m.rows, m.cols)).collect()
    }
    let mut rotated = kron_apply(&views(&left), y);
    let spectrum = kron_vector(&spectra);
    let (mut cost, mut residual, mut effective) = (0.0, 0.0, 0.0);
    let mut q = Vec::with_capacity(spectrum.len());
    for (r, p) in rotated.iter_mut().zip(&spectrum) {
        let total = s2 + p;
        let inverse = 1.0 / total;
        cost += inverse * r.norm_sqr() + total.ln();
        residual += (s2 * inverse) * (s2 * inverse) * r.norm_sqr();
        effective += p * inverse;
        *r *= inverse;
        q.push(inverse);
    }
    let mean = kron_apply(&views(&right), &rotated);
    let squares: Vec<(&[f64], usize, usize)> =
        squares.iter().zip(&right).map(|(s, v)| (s.as_slice(), v.rows, v.cols)).collect();
    let priors: Vec<Vec<f64>> = modes.iter().map(|m| m.prior.clone()).collect();
    let variance = kron_vector(&priors)
        .iter()
        .zip(kron_apply(&squares, &q))
        // Cancellation may leave a rounding error below zero.
        .map(|(g, s)| (g - s).max(0.0))
        .collect();
    Ok(Posterior { mean, variance, cost, residual, effective })
}
