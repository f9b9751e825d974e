//! Checks that all estimators share.

use sparseland_optim::design::{Centred, Design, Scaling};

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

/// Rows for least squares: multiplied by the roots of their weights, if there are weights.
pub(crate) struct Rows<'a> {
    given: &'a dyn Design,
    scaled: Option<(Box<dyn Design>, Vec<f64>)>,
    target: Vec<f64>,
    /// The sum of the weights.
    pub(crate) normaliser: f64,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(x: &'a dyn Design, y: &[f64], sample_weight: Option<&[f64]>) -> Self {
        let scaled = sample_weight.map(|weight| scale_rows(x, weight));
        let mut target = y.to_vec();
        if let Some((_, unit)) = &scaled {
            target.iter_mut().zip(unit).for_each(|(y, u)| *y *= u);
        }
        let normaliser = sample_weight.map_or(y.len() as f64, |w| w.iter().sum());
        Self { given: x, scaled, target, normaliser }
    }

    /// The design, the target, and what was taken from the target to centre it.
    pub(crate) fn centred(&self, scaling: Scaling) -> (Centred<'_>, Vec<f64>, f64) {
        let centred = match &self.scaled {
            Some((design, unit)) => Centred::new(design.as_ref(), Some(unit.clone()), scaling),
            None => Centred::new(self.given, None, scaling),
        };
        let mut target = self.target.clone();
        let mean = centred.centre(&mut target);
        (centred, target, mean)
    }
}

/// Coefficients for the columns as they were, and the intercept, for a target of mean `mean`.
pub(crate) fn restore(design: &Centred<'_>, coef: &[f64], mean: f64) -> (Vec<f64>, f64) {
    let coef: Vec<f64> = coef.iter().zip(design.inverse_scales()).map(|(w, s)| w * s).collect();
    let offset: f64 = coef.iter().zip(design.means()).map(|(w, m)| w * m).sum();
    (coef, if design.is_centred() { mean - offset } else { 0.0 })
}
