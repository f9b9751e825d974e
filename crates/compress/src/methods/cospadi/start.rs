//! The dictionaries that the first round begins with.

use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_linalg::Mat;

use super::Cospadi;
use super::factorize;
use crate::CompressError;
use crate::dictionary::Learner;
use crate::methods::rocket::{Basis, Rocket};
use crate::problem::{FactorShape, norm};

/// The dictionary that the first round begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Random columns of the whitened weight (paper).
    Columns,
    /// The leading left singular vectors of the whitened weight.
    Svd,
    /// ROCKET's dictionary and coefficients.
    Rocket,
}

/// A learner over the whitened weight in its eigenbasis (samples are columns of the weight). Where the start has
/// fewer atoms than wanted, random columns and then random directions fill up.
pub(super) fn learner(
    cospadi: &Cospadi,
    basis: &Basis,
    shape: FactorShape,
) -> Result<Learner, CompressError> {
    let (n, d) = basis.coefficients.shape();
    let FactorShape { k, s } = shape;
    let mut rng = Pcg64::seed_from_u64(cospadi.seed);
    let data = basis.coefficients.clone();
    if cospadi.init == Init::Rocket && k <= d {
        // Without the global refill every column has exactly s coefficients.
        let fit = factorize::fit(basis, shape, &Rocket { refill: 0.0, ..Rocket::default() })?;
        let norms: Vec<f64> = (0..k).map(|i| norm(&row(&fit.dictionary, i))).collect();
        return Learner::new(data, fit.dictionary, s, cospadi.pursuit)?.with_codes(fit.coefficients, &norms);
    }
    let leading = if cospadi.init == Init::Columns { 0 } else { k.min(d) };
    let mut atoms = Mat::zeros(k, d);
    (0..leading).for_each(|i| atoms.row_mut(i)[i] = 1.0);
    let chosen = index::sample(&mut rng, n, n.min(k - leading));
    for (i, j) in (leading..).zip(chosen.iter().filter(|&j| data.row(j).iter().any(|&v| v != 0.0))) {
        atoms.row_mut(i).copy_from_slice(data.row(j));
    }
    for i in leading..k {
        if atoms.row(i).iter().all(|&v| v == 0.0) {
            // Sums of uniforms: any spread of directions will do.
            atoms.row_mut(i).fill_with(|| (0..4).map(|_| rng.random::<f64>()).sum::<f64>() - 2.0);
        }
    }
    Learner::new(data, atoms, s, cospadi.pursuit)
}

fn row(a: &Mat<f64>, i: usize) -> Mat<f64> {
    Mat { rows: 1, cols: a.cols, data: a.row(i).to_vec() }
}
