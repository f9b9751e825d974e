//! From samples to the centred covariance, with the checks of the input.

use sparseland_linalg::{Mat, gram};

use super::ColideError;

/// A column whose values differ from their mean by less than this, relative to the largest, is constant to rounding.
const CONSTANT: f64 = 1e-12;

/// `C = X^T X / n` of the centred columns of `x` (`n x d`).
pub(super) fn covariance(x: &Mat<f64>) -> Result<Mat<f64>, ColideError> {
    let (n, d) = x.shape();
    if n == 0 || d == 0 {
        return Err(ColideError::Shape {
            what: "the data",
            expected: "at least one row and one column".into(),
            got: format!("{n} x {d}"),
        });
    }
    check_finite("the data", x)?;
    let mut centred = x.clone();
    for j in 0..d {
        let mean = (0..n).map(|i| x.data[i * d + j]).sum::<f64>() / n as f64;
        let mut largest = 0.0f64;
        let mut spread = 0.0f64;
        for i in 0..n {
            let v = x.data[i * d + j];
            centred.data[i * d + j] = v - mean;
            largest = largest.max(v.abs());
            spread = spread.max((v - mean).abs());
        }
        if spread <= CONSTANT * largest {
            (0..n).for_each(|i| centred.data[i * d + j] = 0.0);
        }
    }
    let mut c = gram(&centred);
    c.data.iter_mut().for_each(|v| *v /= n as f64);
    Ok(c)
}

/// An error that names the first NaN or infinity.
pub(super) fn check_finite(what: &'static str, x: &Mat<f64>) -> Result<(), ColideError> {
    match x.data.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(ColideError::NonFinite { what, row: at / x.cols, column: at % x.cols }),
    }
}
