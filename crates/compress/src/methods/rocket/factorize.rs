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
    let mut left_out: Vec<(f32, u32)> = Vec::new();
    let mut order: Vec<usize> = Vec::with_capacity(k);
    for j in 0..d2 {
        let c = row(j);
        order.clear();
        order.extend(0..k);
        let score = |i: usize| c[i].abs() * weights[i];
        if keep < k {
            order.select_nth_unstable_by(keep, |&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        }
        for &i in &order[..keep] {
            selected.row_mut(j)[i] = c[i];
        }
        if refill > 0 {
            let candidates = order[keep..].iter().filter(|&&i| c[i] != 0.0);
            left_out.extend(candidates.map(|&i| ((score(i) * weights[i]) as f32, (j * k + i) as u32)));
        }
    }
    let refill = refill.min(left_out.len());
    if refill > 0 {
        if refill < left_out.len() {
            left_out.select_nth_unstable_by(refill, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        for &(_, flat) in &left_out[..refill] {
            let (j, i) = (flat as usize / k, flat as usize % k);
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

    /// Both relative errors, from `r x k` products alone:
    /// `||C - D'S||² = ||C||² - 2 <D', C Sᵀ> + <D' S Sᵀ, D'>`, and the same with `AᵀA` in between for
    /// `||A (C - D'S)||² = ||W - D S||²`.
    pub(crate) fn errors(&self, basis: &Basis) -> Result<Errors, CompressError> {
        // S Sᵀ D'ᵀ, which the normal equations give without a product.
        let fitted = match self.ridge {
            Some(eps) => {
                let mut fitted = self.cross.clone();
                fitted.data.iter_mut().zip(&self.dictionary.data).for_each(|(f, d)| *f -= eps * d);
                fitted
            }
            None => matmul(&self.gram, &self.dictionary)?,
        };
        let seen = matmul(&self.dictionary, &basis.atoms_gram)?;
        let sum = |d: &Mat<f64>| {
            let terms = d.data.iter().zip(&fitted.data).zip(&self.cross.data);
            terms.map(|((d, f), c)| d * (f - 2.0 * c)).sum::<f64>()
        };
        let error =
            |energy: f64, d: &Mat<f64>| -> f64 { ratio((energy + sum(d)).max(0.0).sqrt(), energy.sqrt()) };
        Ok(Errors {
            weight: error(basis.weight_energy, &seen),
            output: error(basis.output_energy, &self.dictionary),
        })
    }

    /// The factors of the weight: `Dᵀ = D'ᵀ Aᵀ`.
    pub(crate) fn into_factors(self, basis: &Basis, shape: FactorShape) -> Result<Factors, CompressError> {
        let right = matmul_transposed_right(&self.dictionary, &basis.atoms)?;
        Ok(Factors { left: self.coefficients, right, sparse: shape.s < shape.k })
    }
}
