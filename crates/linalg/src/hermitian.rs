//! Eigendecomposition of complex Hermitian matrices, given as a real and an imaginary part.
//!
//! `A = R + i J` with `R` symmetric and `J` skew acts on `C^n` as the symmetric matrix `[[R, -J], [J, R]]` acts on
//! `R^2n`. Every eigenvalue appears twice there, with the vectors of `z` and `i z`; Gram-Schmidt over the complex numbers
//! keeps one of each pair. Cost: a symmetric eigendecomposition of order `2 n` and `2 n^3` complex multiply-adds; meant
//! for small orders.

use crate::eigen::{Eigh, eigh};
use crate::error::LinalgError;
use crate::mat::Mat;

/// Eigenvalues and eigenvectors of a Hermitian matrix.
#[derive(Debug, Clone)]
pub struct EighComplex {
    /// `n` eigenvalues, descending.
    pub values: Vec<f64>,
    /// Real parts of the unit eigenvectors, `n x n`; column `j` belongs to `values[j]`.
    pub real: Mat<f64>,
    /// Imaginary parts.
    pub imaginary: Mat<f64>,
}

/// Eigenvalues (descending) and eigenvectors of `real + i imaginary`, of which the upper triangle is read.
///
/// ```
/// use sparseland_linalg::{Mat, eigh_complex};
/// // [[2, i], [-i, 2]] has the eigenvalues 3 and 1.
/// let real = Mat::from_vec(2, 2, vec![2.0, 0.0, 0.0, 2.0])?;
/// let imaginary = Mat::from_vec(2, 2, vec![0.0, 1.0, -1.0, 0.0])?;
/// let e = eigh_complex(&real, &imaginary)?;
/// assert!((e.values[0] - 3.0).abs() < 1e-14 && (e.values[1] - 1.0).abs() < 1e-14);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::Shape`] when the parts are not square of one order, [`LinalgError::NonFinite`],
/// [`LinalgError::NoConvergence`].
pub fn eigh_complex(real: &Mat<f64>, imaginary: &Mat<f64>) -> Result<EighComplex, LinalgError> {
    const OPERATION: &str = "eigh_complex";
    let n = real.rows;
    if real.cols != n || imaginary.shape() != (n, n) {
        return Err(LinalgError::shape(
            OPERATION,
            "two square matrices of one order",
            format!("{n} x {} and {} x {}", real.cols, imaginary.rows, imaginary.cols),
        ));
    }
    real.check_finite(OPERATION)?;
    imaginary.check_finite(OPERATION)?;
    let skew = |i: usize, j: usize| match i.cmp(&j) {
        std::cmp::Ordering::Less => imaginary.at(i, j),
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Greater => -imaginary.at(j, i),
    };
    let double = Mat::from_fn(2 * n, 2 * n, |i, j| match (i < n, j < n) {
        (true, true) | (false, false) => {
            let (i, j) = (i % n, j % n);
            real.at(i.min(j), i.max(j))
        }
        (true, false) => -skew(i, j - n),
        (false, true) => skew(i - n, j),
    });
    let Eigh { values: doubled, vectors } = eigh(&double)?;
    let mut values = Vec::with_capacity(n);
    // Vectors as rows, real then imaginary part.
    let mut kept: Vec<Vec<f64>> = Vec::with_capacity(n);
    // Within an eigenspace of k complex dimensions, the 2 k residuals have mean square at least (k - kept) / k: a pass
    // with a falling bar always ends with all n vectors.
    let mut taken = vec![false; 2 * n];
    let mut bar = 0.5;
    while kept.len() < n && bar > 1e-6 {
        for column in 0..2 * n {
            if kept.len() == n || taken[column] {
                continue;
            }
            let mut z: Vec<f64> = (0..2 * n).map(|i| vectors.data[i * 2 * n + column]).collect();
            // Twice is enough for orthogonality to rounding.
            for _ in 0..2 {
                for other in &kept {
                    let (mut re, mut im) = (0.0, 0.0);
                    for i in 0..n {
                        re += other[i] * z[i] + other[n + i] * z[n + i];
                        im += other[i] * z[n + i] - other[n + i] * z[i];
                    }
                    for i in 0..n {
                        let (a, b) = (other[i], other[n + i]);
                        z[i] -= re * a - im * b;
                        z[n + i] -= re * b + im * a;
                    }
                }
            }
            let norm = z.iter().map(|v| v * v).sum::<f64>().sqrt();
            if norm > bar {
                z.iter_mut().for_each(|v| *v /= norm);
                kept.push(z);
                values.push(doubled[column]);
                taken[column] = true;
            }
        }
        bar *= 0.25;
    }
    if kept.len() < n {
        return Err(LinalgError::NoConvergence { operation: OPERATION, converged: kept.len(), requested: n });
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    Ok(EighComplex {
        values: order.iter().map(|&k| values[k]).collect(),
        real: Mat::from_fn(n, n, |i, j| kept[order[j]][i]),
        imaginary: Mat::from_fn(n, n, |i, j| kept[order[j]][n + i]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::products::{matmul, matmul_transposed_right};
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    /// `V diag(w) V^H` and `V^H V` against `A` and the identity.
    fn errors(real: &Mat<f64>, imaginary: &Mat<f64>) -> (f64, f64) {
        let n = real.rows;
        let e = eigh_complex(real, imaginary).unwrap();
        let (mut sr, mut si) = (e.real.clone(), e.imaginary.clone());
        sr.scale_columns(&e.values);
        si.scale_columns(&e.values);
        let part = |a: &Mat<f64>, b: &Mat<f64>| matmul_transposed_right(a, b).unwrap();
        let (rr, ii) = (part(&sr, &e.real), part(&si, &e.imaginary));
        let (ir, ri) = (part(&si, &e.real), part(&sr, &e.imaginary));
        let back = Mat::from_fn(n, n, |i, j| rr.at(i, j) + ii.at(i, j)).distance(real).unwrap()
            + Mat::from_fn(n, n, |i, j| ir.at(i, j) - ri.at(i, j)).distance(imaginary).unwrap();
        let (tr, ti) = (e.real.transposed(), e.imaginary.transposed());
        let p = |a: &Mat<f64>, b: &Mat<f64>| matmul(a, b).unwrap();
        let (a, b) = (p(&tr, &e.real), p(&ti, &e.imaginary));
        let (c, d) = (p(&tr, &e.imaginary), p(&ti, &e.real));
        let unit = Mat::from_fn(n, n, |i, j| a.at(i, j) + b.at(i, j)).distance(&Mat::identity(n)).unwrap()
            + Mat::from_fn(n, n, |i, j| c.at(i, j) - d.at(i, j)).frobenius_norm();
        (back, unit)
    }

    #[test]
    fn vectors_are_unitary_and_rebuild_the_matrix() {
        let mut rng = Pcg64::seed_from_u64(1);
        for n in [0usize, 1, 2, 5, 16, 31] {
            for rank in [n, n.div_ceil(2), 0] {
                // B B^H, of full or deficient rank: the null space is one large eigenspace.
                let br = Mat::from_fn(n, rank, |_, _| rng.random_range(-1.0..1.0));
                let bi = Mat::from_fn(n, rank, |_, _| rng.random_range(-1.0..1.0));
                let p = |a: &Mat<f64>, b: &Mat<f64>| matmul_transposed_right(a, b).unwrap();
                let (rr, ii, ir, ri) = (p(&br, &br), p(&bi, &bi), p(&bi, &br), p(&br, &bi));
                let real = Mat::from_fn(n, n, |i, j| rr.at(i, j) + ii.at(i, j));
                let imaginary = Mat::from_fn(n, n, |i, j| ir.at(i, j) - ri.at(i, j));
                let (back, unit) = errors(&real, &imaginary);
                let scale = 1.0 + real.frobenius_norm();
                assert!(back < 1e-12 * scale && unit < 1e-12 * scale, "{n} rank {rank}: {back} {unit}");
            }
        }
        let (back, unit) = errors(&Mat::identity(9), &Mat::zeros(9, 9));
        assert!(back < 1e-13 && unit < 1e-13);
        assert!(eigh_complex(&Mat::zeros(2, 2), &Mat::zeros(3, 3)).is_err());
    }
}
