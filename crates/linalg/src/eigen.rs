//! Symmetric eigendecomposition `A = V diag(w) V^T`.
//!
//! Householder tridiagonalisation followed by divide and conquer (QR iteration below order 128): about `4/3 n^3`
//! multiply-adds for the values and `2 n^3` more for the vectors; memory `3 n^2` values. Half of the tridiagonalisation
//! is bound by memory bandwidth, so a second thread helps less than in a product.

use crate::error::LinalgError;
use crate::mat::{Mat, Scalar};

/// Eigenvalues and eigenvectors of a symmetric matrix.
#[derive(Debug, Clone)]
pub struct Eigh<T> {
    /// `n` eigenvalues, descending.
    pub values: Vec<T>,
    /// `n x n`; column `j` is the unit eigenvector of `values[j]`.
    pub vectors: Mat<T>,
}

fn check<T: Scalar>(operation: &'static str, a: &Mat<T>) -> Result<(), LinalgError> {
    if a.rows != a.cols {
        return Err(LinalgError::shape(operation, "a square matrix", format!("{} x {}", a.rows, a.cols)));
    }
    a.check_finite(operation)
}

/// Eigenvalues (descending) and eigenvectors (columns) of the symmetric matrix `a`, of which only the upper triangle
/// is read.
///
/// ```
/// use sparseland_linalg::{Mat, eigh};
/// let e = eigh(&Mat::from_vec(2, 2, vec![2.0f64, 1.0, 1.0, 2.0])?)?;
/// assert!((e.values[0] - 3.0).abs() < 1e-14 && (e.values[1] - 1.0).abs() < 1e-14);
/// # Ok::<(), sparseland_linalg::LinalgError>(())
/// ```
///
/// # Errors
/// [`LinalgError::Shape`] when `a` is not square, [`LinalgError::NonFinite`], [`LinalgError::NoConvergence`].
pub fn eigh<T: Scalar>(a: &Mat<T>) -> Result<Eigh<T>, LinalgError> {
    check("eigh", a)?;
    if T::EPSILON > 1e-10 {
        // In f64, as the singular values are: f32 results are then exact to rounding.
        let d = eigh(&a.cast::<f64>())?;
        return Ok(Eigh {
            values: d.values.into_iter().map(T::from_f64).collect(),
            vectors: d.vectors.cast(),
        });
    }
    let n = a.rows;
    let (mut values, vt) = T::eigh(&a.data, n, true).ok_or(LinalgError::NoConvergence {
        operation: "eigh",
        converged: 0,
        requested: n,
    })?;
    values.reverse();
    // Rows of vt are eigenvectors in ascending order: reverse the rows while transposing.
    let mut vectors = Mat { rows: n, cols: n, data: vt };
    for i in 0..n / 2 {
        let (top, bottom) = vectors.data.split_at_mut((n - 1 - i) * n);
        top[i * n..(i + 1) * n].swap_with_slice(&mut bottom[..n]);
    }
    Ok(Eigh { values, vectors: vectors.transposed() })
}

/// Eigenvalues (descending) of the symmetric matrix `a`, of which only the upper triangle is read.
///
/// # Errors
/// As [`eigh`].
pub fn eigh_values<T: Scalar>(a: &Mat<T>) -> Result<Vec<T>, LinalgError> {
    check("eigh_values", a)?;
    if T::EPSILON > 1e-10 {
        return Ok(eigh_values(&a.cast::<f64>())?.into_iter().map(T::from_f64).collect());
    }
    let (mut values, _) = T::eigh(&a.data, a.rows, false).ok_or(LinalgError::NoConvergence {
        operation: "eigh_values",
        converged: 0,
        requested: a.rows,
    })?;
    values.reverse();
    Ok(values)
}
