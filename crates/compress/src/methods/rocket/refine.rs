//! Optional refinement: Adam on both factors with the support fixed (official code: 100 steps).

use sparseland_linalg::{Mat, matmul, matmul_transposed_right};

use super::Basis;
use super::factorize::Fit;
use crate::CompressError;

const LEARNING_RATE: f64 = 1e-3;
const BETA: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

struct Moments {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Moments {
    fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }

    fn step(&mut self, values: &mut [f64], gradient: &[f64], step: i32, live: impl Fn(f64) -> bool) {
        let correct = (1.0 - BETA.0.powi(step), 1.0 - BETA.1.powi(step));
        for (i, value) in values.iter_mut().enumerate() {
            if live(*value) {
                let g = gradient[i];
                self.first[i] = BETA.0 * self.first[i] + (1.0 - BETA.0) * g;
                self.second[i] = BETA.1 * self.second[i] + (1.0 - BETA.1) * g * g;
                let scale = (self.second[i] / correct.1).sqrt() + EPSILON;
                *value -= LEARNING_RATE * self.first[i] / correct.0 / scale;
            }
        }
    }
}

/// Minimises `||C - D'S||² / ||C||²` and returns whichever of the closed form and the refined factors
/// has the smaller relative error in weight space, as the official code does.
///
/// The loss equals the paper's, whose factors differ by a rotation of the dictionary; Adam is not
/// rotation invariant, so its path differs from the official code's.
pub(crate) fn adam(basis: &Basis, start: Fit, steps: usize) -> Result<Fit, CompressError> {
    let mut fit = start.clone();
    let scale = 2.0 / basis.output_energy.max(f64::MIN_POSITIVE);
    let mut for_dictionary = Moments::new(fit.dictionary.data.len());
    let mut for_coefficients = Moments::new(fit.coefficients.data.len());
    let scaled = |a: Mat<f64>, b: &Mat<f64>| -> Vec<f64> {
        a.data.iter().zip(&b.data).map(|(a, b)| scale * (a - b)).collect()
    };
    for step in 1..=steps as i32 {
        // Gradients: S (SᵀD'ᵀ - Cᵀ) for D'ᵀ and (SᵀD'ᵀ - Cᵀ) D' for Sᵀ.
        let by_dictionary = scaled(matmul(&fit.gram, &fit.dictionary)?, &fit.cross);
        let inner = matmul_transposed_right(&fit.dictionary, &fit.dictionary)?;
        let target = matmul_transposed_right(&basis.coefficients, &fit.dictionary)?;
        let by_coefficients = scaled(matmul(&fit.coefficients, &inner)?, &target);
        for_dictionary.step(&mut fit.dictionary.data, &by_dictionary, step, |_| true);
        // A coefficient that reaches exactly 0 has left the support and stays there.
        for_coefficients.step(&mut fit.coefficients.data, &by_coefficients, step, |v| v != 0.0);
        fit = Fit::new(basis, fit.coefficients, fit.dictionary)?;
    }
    let better = fit.errors(basis)?.weight < start.errors(basis)?.weight;
    Ok(if better { fit } else { start })
}
