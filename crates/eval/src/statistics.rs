//! Summaries of repeated runs.
//!
//! Each function gives `None` where the figure does not exist (no values, or too few), and NaN if a
//! value is NaN: a failed run must not vanish in a summary.
//!
//! # Example
//! ```
//! use sparseland_eval::statistics::{Summary, summarize};
//!
//! let seconds = [1.02, 0.98, 1.00, 1.04, 0.96];
//! let Summary { median, mean, confidence, .. } = summarize(&seconds).unwrap();
//! assert!((median - 1.0).abs() < 1e-12 && (mean - 1.0).abs() < 1e-12);
//! // 95 % interval: 2.776 * 0.0316 / sqrt(5)
//! assert!((confidence.unwrap() - 0.0393).abs() < 1e-4);
//! ```

use serde::{Deserialize, Serialize};

/// The figures that a report shows for repeated runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Middle value; the mean of the two middle ones for an even count.
    pub median: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Half-width of the 95 % interval for the mean, see [`confidence`]; `None` for one value.
    pub confidence: Option<f64>,
}

impl Summary {
    /// `(max - min) / 2`: the spread to write behind a median of few runs.
    pub fn half_range(&self) -> f64 {
        (self.max - self.min) / 2.0
    }
}

/// All figures at once; `None` without values.
pub fn summarize(values: &[f64]) -> Option<Summary> {
    let (min, max) = range(values)?;
    Some(Summary {
        count: values.len(),
        median: median(values)?,
        mean: mean(values)?,
        min,
        max,
        confidence: confidence(values),
    })
}

/// The middle value in order of size, the mean of the two middle ones for an even count.
pub fn median(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| value.is_nan()) {
        return Some(f64::NAN);
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { sorted[sorted.len() / 2 - 1].midpoint(upper) })
}

/// Arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Geometric mean `exp(mean(ln x))`, the mean for ratios such as speed-ups. NaN if a value is negative.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    mean(&values.iter().map(|value| value.ln()).collect::<Vec<_>>()).map(f64::exp)
}

/// Smallest and largest value.
pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let first = *values.first()?;
    if values.iter().any(|value| value.is_nan()) {
        return Some((f64::NAN, f64::NAN));
    }
    Some(values.iter().fold((first, first), |(min, max), &value| (min.min(value), max.max(value))))
}

/// `(max - min) / 2`.
pub fn half_range(values: &[f64]) -> Option<f64> {
    range(values).map(|(min, max)| (max - min) / 2.0)
}

/// Sample standard deviation (divisor `n - 1`) around the mean; `None` for fewer than 2 values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Half-width of the 95 % confidence interval for the mean, `t(n - 1) * s / sqrt(n)` with the 97.5 %
/// quantile of Student's distribution; `None` for fewer than 2 values. It assumes independent,
/// roughly normal values: with 3 seeds it is wide (`t = 4.3`), and rightly so.
pub fn confidence(values: &[f64]) -> Option<f64> {
    let deviation = standard_deviation(values)?;
    Some(student_quantile(values.len() - 1) * deviation / (values.len() as f64).sqrt())
}

/// The 97.5 % quantiles of Student's t-distribution for 1 to 8 degrees of freedom.
const QUANTILES: [f64; 8] = [
    12.706_204_736,
    4.302_652_730,
    3.182_446_305,
    2.776_445_105,
    2.570_581_836,
    2.446_911_851,
    2.364_624_252,
    2.306_004_135,
];

/// 97.5 % quantile of Student's t-distribution with `degrees >= 1` degrees of freedom: a table, then
/// the Cornish-Fisher expansion in `1 / degrees` (Abramowitz and Stegun 26.7.5), right to 2e-5.
fn student_quantile(degrees: usize) -> f64 {
    if let Some(&quantile) = degrees.checked_sub(1).and_then(|index| QUANTILES.get(index)) {
        return quantile;
    }
    let n = degrees as f64;
    let z = 1.959_963_984_540_054_f64; // the same quantile of the normal distribution
    let (z3, z5, z7, z9) = (z.powi(3), z.powi(5), z.powi(7), z.powi(9));
    z + (z3 + z) / (4.0 * n)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3))
        + (79.0 * z9 + 776.0 * z7 + 1482.0 * z5 - 1920.0 * z3 - 945.0 * z) / (92_160.0 * n.powi(4))
}

/// `(value - reference) / |reference|`; `None` if the reference is 0.
pub fn relative_difference(value: f64, reference: f64) -> Option<f64> {
    (reference != 0.0).then(|| (value - reference) / reference.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_agree_with_the_closed_forms_and_published_values() {
        // Closed forms: 1 degree tan(pi (p - 1/2)); 2 degrees a sqrt(2 / (1 - a^2)), a = 2p - 1;
        // 4 degrees 2 sqrt(q - 1), q = cos(acos(sqrt b) / 3) / sqrt b, b = 4p(1 - p).
        let p: f64 = 0.975;
        let one = (std::f64::consts::PI * (p - 0.5)).tan();
        let a = 2.0 * p - 1.0;
        let two = a * (2.0 / (1.0 - a * a)).sqrt();
        let root = (4.0 * p * (1.0 - p)).sqrt();
        let four = 2.0 * ((root.acos() / 3.0).cos() / root - 1.0).sqrt();
        // The usual printed table.
        let published = [(3, 3.182446), (5, 2.570582), (8, 2.306004), (9, 2.262157), (10, 2.228139)];
        let more = [(15, 2.131450), (20, 2.085963), (30, 2.042272), (60, 2.000298), (120, 1.979930)];
        let exact = [(1, one), (2, two), (4, four)];
        for (degrees, expected) in exact.into_iter().chain(published).chain(more) {
            let got = student_quantile(degrees);
            assert!((got - expected).abs() < 2e-5, "{degrees} degrees: {got}, expected {expected}");
        }
        assert!((1..2000).all(|degrees| student_quantile(degrees) > student_quantile(degrees + 1)));
    }

    #[test]
    fn too_few_values_have_no_figures() {
        assert_eq!(summarize(&[]), None);
        assert_eq!((median(&[]), mean(&[]), range(&[]), geometric_mean(&[])), (None, None, None, None));
        let one = summarize(&[3.0]).unwrap();
        assert_eq!((one.median, one.mean, one.half_range(), one.confidence), (3.0, 3.0, 0.0, None));
    }

    #[test]
    fn a_nan_shows_in_every_figure() {
        let summary = summarize(&[1.0, f64::NAN, 2.0]).unwrap();
        let figures = [summary.median, summary.mean, summary.min, summary.max, summary.confidence.unwrap()];
        assert!(figures.iter().all(|figure| figure.is_nan()), "{summary:?}");
    }

    #[test]
    fn small_cases_by_hand() {
        assert_eq!(median(&[5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[5.0, 1.0, 3.0, 4.0]), Some(3.5));
        assert_eq!(half_range(&[5.0, 1.0, 3.0]), Some(2.0));
        assert_eq!(
            standard_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]),
            Some((32.0_f64 / 7.0).sqrt())
        );
        assert!((geometric_mean(&[1.0, 4.0, 16.0]).unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[0.0, 4.0]), Some(0.0));
        assert_eq!(relative_difference(90.0, 100.0), Some(-0.1));
        assert_eq!(relative_difference(-90.0, -100.0), Some(0.1));
        assert_eq!(relative_difference(1.0, 0.0), None);
    }

    proptest! {
        #[test]
        fn figures_shift_and_scale_with_the_values(
            values in prop::collection::vec(-100.0..100.0_f64, 2..40), shift in -50.0..50.0_f64,
            factor in 0.1..10.0_f64,
        ) {
            let before = summarize(&values).unwrap();
            let moved: Vec<f64> = values.iter().map(|value| value * factor + shift).collect();
            let after = summarize(&moved).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
            prop_assert!(close(after.median, before.median * factor + shift));
            prop_assert!(close(after.mean, before.mean * factor + shift));
            prop_assert!(close(after.half_range(), before.half_range() * factor));
            prop_assert!(close(after.confidence.unwrap(), before.confidence.unwrap() * factor));
            prop_assert!(before.min <= before.median && before.median <= before.max);
        }

        #[test]
        fn as_many_values_lie_below_the_median_as_above(values in prop::collection::vec(-9.0..9.0_f64, 1..40)) {
            let median = median(&values).unwrap();
            let below = values.iter().filter(|&&value| value < median).count();
            let above = values.iter().filter(|&&value| value > median).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
        }
    }
}
