//! Checks that all estimators share.

use sparseland_optim::design::Design;

use super::EstimateError;

/// Refuses an empty design, and NaN or infinity in it.
pub(crate) fn check_design(x: &dyn Design) -> Result<(), EstimateError> {
    if x.rows() == 0 || x.cols() == 0 {
        return Err(EstimateError::Empty { rows: x.rows(), cols: x.cols() });
    }
    match x.first_non_finite() {
        Some((row, column, value)) => Err(EstimateError::NonFiniteDesign { row, column, value }),
        None => Ok(()),
    }
}

/// Refuses a target of the wrong length or with a value outside its domain.
pub(crate) fn check_target(
    x: &dyn Design,
    y: &[f64],
    accepts: impl Fn(f64) -> bool,
    domain: &'static str,
) -> Result<(), EstimateError> {
    if y.len() != x.rows() {
        return Err(EstimateError::Length { what: "y", why: "rows of X", expected: x.rows(), got: y.len() });
    }
    match y.iter().position(|&v| !accepts(v)) {
        Some(row) => Err(EstimateError::Value { what: "y", row, value: y[row], domain }),
        None => Ok(()),
    }
}

/// Refuses sample weights of the wrong length, negative or not finite, or all zero.
pub(crate) fn check_sample_weight(x: &dyn Design, weight: Option<&[f64]>) -> Result<(), EstimateError> {
    let Some(weight) = weight else { return Ok(()) };
    let what = "sample_weight";
    if weight.len() != x.rows() {
        return Err(EstimateError::Length { what, why: "rows of X", expected: x.rows(), got: weight.len() });
    }
    if let Some(row) = weight.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        let domain = "a finite number >= 0";
        return Err(EstimateError::Value { what, row, value: weight[row], domain });
    }
    if weight.iter().all(|w| *w == 0.0) {
        return Err(EstimateError::NoWeight);
    }
    Ok(())
}

/// Refuses feature weights of the wrong length, negative or NaN.
pub(crate) fn check_weights(expected: usize, weights: Option<&[f64]>) -> Result<(), EstimateError> {
    let Some(weights) = weights else { return Ok(()) };
    let what = "weights";
    if weights.len() != expected {
        let why = "features, or groups where there are groups";
        return Err(EstimateError::Length { what, why, expected, got: weights.len() });
    }
    match weights.iter().position(|w| w.is_nan() || *w < 0.0) {
        Some(row) => {
            let domain = ">= 0; 0 leaves unpenalised, infinity excludes";
            Err(EstimateError::Value { what, row, value: weights[row], domain })
        }
        None => Ok(()),
    }
}

/// A copy of the design with row `i` times `sqrt(weight[i])`, and those factors.
pub(crate) fn scale_rows(x: &dyn Design, weight: &[f64]) -> (Box<dyn Design>, Vec<f64>) {
    let unit: Vec<f64> = weight.iter().map(|w| w.sqrt()).collect();
    (x.select(None, None, Some(&unit)), unit)
}
