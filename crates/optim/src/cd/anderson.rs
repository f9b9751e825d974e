//! Anderson extrapolation of a linear fixed-point iteration.

use sparseland_linalg::{Mat, solve_spd};
use sparseland_matrix::vector;

/// Number of differences that are combined, skglm's choice.
pub(super) const DEPTH: usize = 5;

/// The last iterates of a sequence of vectors.
#[derive(Debug, Default)]
pub(super) struct Anderson {
    iterates: Vec<Vec<f64>>,
}

impl Anderson {
    /// Takes an iterate; once `DEPTH + 1` are there, forgets them and returns the combination
    /// `sum_k c_k x_{k+1}` whose differences have the least norm, with `sum c = 1`.
    pub(super) fn push(&mut self, iterate: &[f64]) -> Option<Vec<f64>> {
        self.iterates.push(iterate.to_vec());
        if self.iterates.len() <= DEPTH {
            return None;
        }
        let differences: Vec<Vec<f64>> = self
            .iterates
            .windows(2)
            .map(|pair| pair[1].iter().zip(&pair[0]).map(|(a, b)| a - b).collect())
            .collect();
        let mut gram = Mat::from_fn(DEPTH, DEPTH, |a, b| vector::dot(&differences[a], &differences[b]));
        // The ridge keeps the system solvable when differences are parallel.
        let ridge = 1e-12 * (0..DEPTH).map(|a| gram.at(a, a)).sum::<f64>();
        (0..DEPTH).for_each(|a| gram.data[a * DEPTH + a] += ridge);
        let ones = Mat::from_fn(DEPTH, 1, |_, _| 1.0);
        let iterates = std::mem::take(&mut self.iterates);
        let weights = solve_spd(&gram, &ones).ok()?.data;
        let total: f64 = weights.iter().sum();
        if !(total.is_finite() && total.abs() > f64::MIN_POSITIVE) {
            return None;
        }
        let mut out = vec![0.0; iterate.len()];
        for (weight, x) in weights.iter().zip(&iterates[1..]) {
            vector::axpy(weight / total, x, &mut out);
        }
        out.iter().all(|v| v.is_finite()).then_some(out)
    }
}
