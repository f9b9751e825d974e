//! The closed-form factorisation at one shape: selection, refill, dictionary refit, errors.

use sparseland_linalg::{Mat, gram, matmul, matmul_transposed_left, matmul_transposed_right, solve_spd};

use super::{Basis, Rocket};
use crate::CompressError;
use crate::problem::{Errors, FactorShape, Factors, ratio};

/// Floor of the ridge, from the official code.
const RIDGE_FLOOR: f64 = 1e-6;

/// A factorisation in the eigenbasis: `C ~ D' S`.
#[derive(Debug, Clone)]
pub(crate) struct Fit {
    /// `Sᵀ: d2 x k`, zeros outside the support.
    pub(crate) coefficients: Mat<f64>,
    /// `D'ᵀ: k x r`.
    pub(crate) dictionary: Mat<f64>,
    /// `S Sᵀ: k x k`.
    pub(crate) gram: Mat<f64>,
    /// `S Cᵀ: k x r`.
    pub(crate) cross: Mat<f64>,
    /// The ridge whose normal equations the dictionary solves, if it does.
    pub(crate) ridge: Option<f64>,
}

/// Steps 2 and 3 of the method.
pub(crate) fn fit(basis: &Basis, shape: FactorShape, rocket: &Rocket) -> Result<Fit, CompressError> {
    let coefficients = select(basis, shape, rocket);
    let identity = Mat::from_fn(shape.k, basis.coefficients.cols, |i, j| f64::from(u8::from(i == j)));
    let mut fit = Fit::new(basis, coefficients, identity)?;
    // With dense coefficients nothing was left out: the leading eigenvectors are optimal, the ridge would
    // only hurt.
    if shape.s < shape.k {
        fit.refit(rocket.ridge)?;
    }
    Ok(fit)
}

/// `Sᵀ`: the chosen entries of `C_k` (transposed), at most `s * d2` of them.
///
/// Ties are broken by position, so the result is a function of its input alone.
fn select(basis: &Basis, FactorShape { k, s }: FactorShape, rocket: &Rocket) -> Mat<f64> {
    let d2 = basis.coefficients.rows;
    let row = |j: usize| &basis.coefficients.row(j)[..k];
    if s == k {
        return Mat::from_fn(d2, k, |j, i| row(j)[i]);
    }
    // The official code weighs the first selection by l^0.5 and the refill by l.
    let weights: Vec<f64> = basis.lengths[..k].iter().map(|l| l.powf(rocket.importance)).collect();
    // Each column gives up the refill's share, rounded down; the refill spends all that is left.
    let keep = ((s as f64 - rocket.refill * k as f64).floor() as usize).clamp(1, k);
    let refill = (s - keep) * d2;
    let mut selected = Mat::zeros(d2, k);
    // Scores in f32 with the complement of the position below them, in one integer: ordered by score, then
    // by position, and cheap to compare.
    let key = |score: f64, position: usize| {
        u64::from((score as f32).to_bits()) << 32 | u64::from(!(position as u32))
    };
    let position = |key: u64| !(key as u32) as usize;
    let mut left_out: Vec<u64> = Vec::new();
    let mut order: Vec<u64> = Vec::with_capacity(k);
    for j in 0..d2 {
        let c = row(j);
        order.clear();
        order.extend(c.iter().zip(&weights).enumerate().map(|(i, (c, w))| key(c.abs() * w, i)));
        if keep < k {
            order.select_nth_unstable_by(keep, |a, b| b.cmp(a));
        }
        let target = selected.row_mut(j);
        for &kept in &order[..keep] {
            target[position(kept)] = c[position(kept)];
        }
        if refill > 0 {
            let rest = order[keep..].iter().map(|&left| position(left)).filter(|&i| c[i] != 0.0);
            left_out.extend(rest.map(|i| key(c[i].abs() * weights[i] * weights[i], j * k + i)));
        }
    }
    let refill = refill.min(left_out.len());
    if refill > 0 {
        if refill < left_out.len() {
            left_out.select_nth_unstable_by(refill, |a, b| b.cmp(a));
        }
        for &refilled in &left_out[..refill] {
            let (j, i) = (position(refilled) / k, position(refilled) % k);
            selected.row_mut(j)[i] = row(j)[i];
        }
    }
    selected
}

impl Fit {
    pub(crate) fn new(
        basis: &Basis,
        coefficients: Mat<f64>,
        dictionary: Mat<f64>,
    ) -> Result<Self, CompressError> {
        let gram = gram(&coefficients);
        let cross = matmul_transposed_left(&coefficients, &basis.coefficients)?;
        Ok(Self { coefficients, dictionary, gram, cross, ridge: None })
    }

    /// `D'ᵀ = (S Sᵀ + eps I)⁻¹ S Cᵀ`.
    fn refit(&mut self, ridge: f64) -> Result<(), CompressError> {
        let mut damped = self.gram.clone();
        let k = damped.rows;
        let trace: f64 = (0..k).map(|i| damped.at(i, i)).sum();
        let eps = (ridge * trace / k as f64).max(RIDGE_FLOOR.min(ridge));
        (0..k).for_each(|i| damped.data[i * k + i] += eps);
        self.dictionary = solve_spd(&damped, &self.cross)?;
        self.ridge = Some(eps);
        Ok(())
    }

    /// The relative output error, from `k x r` products alone:
    /// `||C - D'S||² = ||C||² - 2 <D', C Sᵀ> + <D' S Sᵀ, D'>`.
    pub(crate) fn output_error(&self, basis: &Basis) -> Result<f64, CompressError> {
        Ok(self.error(&self.fitted()?, &self.dictionary, basis.output_energy))
    }

    /// Both relative errors; `||A (C - D'S)||² = ||W - D S||²` is the sum above with `AᵀA` in between.
    pub(crate) fn errors(&self, basis: &Basis) -> Result<Errors, CompressError> {
        let fitted = self.fitted()?;
        let seen = matmul(&self.dictionary, &basis.atoms_gram)?;
        Ok(Errors {
            weight: self.error(&fitted, &seen, basis.weight_energy),
            output: self.error(&fitted, &self.dictionary, basis.output_energy),
        })
    }

    /// `S Sᵀ D'ᵀ`, which the normal equations give without a product where the dictionary solves them.
    fn fitted(&self) -> Result<Mat<f64>, CompressError> {
        let Some(eps) = self.ridge else { return Ok(matmul(&self.gram, &self.dictionary)?) };
        let mut fitted = self.cross.clone();
        fitted.data.iter_mut().zip(&self.dictionary.data).for_each(|(f, d)| *f -= eps * d);
        Ok(fitted)
    }

    fn error(&self, fitted: &Mat<f64>, seen: &Mat<f64>, energy: f64) -> f64 {
        let terms = seen.data.iter().zip(&fitted.data).zip(&self.cross.data);
        let change: f64 = terms.map(|((d, f), c)| d * (f - 2.0 * c)).sum();
        ratio((energy + change).max(0.0).sqrt(), energy.sqrt())
    }

    /// The factors of the weight: `Dᵀ = D'ᵀ Aᵀ`.
    pub(crate) fn into_factors(self, basis: &Basis, shape: FactorShape) -> Result<Factors, CompressError> {
        let right = matmul_transposed_right(&self.dictionary, &basis.atoms)?;
        Ok(Factors { left: self.coefficients, right, sparse: shape.s < shape.k })
    }
}
