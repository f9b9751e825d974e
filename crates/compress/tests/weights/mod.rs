//! Weights and inputs for tests: random, power-law spectrum, union of subspaces; anisotropic inputs.
#![allow(dead_code)] // every test binary that includes this file uses a part of it

use std::sync::Arc;

use rand::Rng;
use rand_pcg::Pcg64;
use sparseland_compress::problem::{Accounting, LayerProblem, Limit, Needs};
use sparseland_compress::statistics::InputStatistics;
use sparseland_linalg::{Mat, matmul, svd};
use sparseland_matrix::ValueType;

/// Sums of twelve uniforms: close enough to normal for a test problem.
pub(crate) fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

/// A weight of one of three kinds, inputs first.
pub(crate) fn weight(kind: usize, d1: usize, d2: usize, rng: &mut Pcg64) -> Mat<f64> {
    let noise = gaussian(rng, d1, d2);
    match kind {
        0 => noise,
        1 => {
            let f = svd(&noise).unwrap();
            let scaled = Mat::from_fn(d1, f.s.len(), |i, t| f.u.at(i, t) / (1.0 + t as f64).powf(0.8));
            matmul(&scaled, &f.vt).unwrap()
        }
        _ => {
            let bases: Vec<_> = (0..6).map(|_| gaussian(rng, d1, 8)).collect();
            let coefficients = gaussian(rng, 8, d2);
            Mat::from_fn(d1, d2, |i, j| {
                let base = &bases[j % bases.len()];
                (0..8).map(|t| base.at(i, t) * coefficients.at(t, j)).sum::<f64>() + 0.05 * noise.at(i, j)
            })
        }
    }
}

/// The statistics of inputs whose directions have very different energies.
pub(crate) fn anisotropic(d1: usize, rng: &mut Pcg64) -> Arc<InputStatistics> {
    let mix = gaussian(rng, d1, d1);
    let spread = Mat::from_fn(d1, d1, |i, j| mix.at(i, j) / (1.0 + i as f64).sqrt());
    let inputs = matmul(&gaussian(rng, 4 * d1, d1), &spread).unwrap();
    Arc::new(InputStatistics::of(&inputs, Needs::Gram).unwrap())
}

pub(crate) fn problem(w: &Mat<f64>, l: &Arc<InputStatistics>) -> LayerProblem {
    LayerProblem {
        name: "layer".into(),
        weight: w.clone(),
        inputs: Some(l.clone()),
        original: None,
        values: ValueType::F32,
    }
}

pub(crate) fn limit(w: &Mat<f64>, removed: f64) -> Limit {
    let cost = ((1.0 - removed) * (w.rows * w.cols) as f64) as u64;
    Limit { cost, accounting: Accounting::Params, values: ValueType::F32 }
}
