//! Mask methods against brute force, plain-loop twins and closed forms.

mod refine;
mod select;
mod sparsegpt;

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::methods::mask::Mask;
use sparseland_compress::problem::{LayerMethod, LayerProblem, Needs};
use sparseland_compress::statistics::InputStatistics;
use sparseland_linalg::{Mat, matmul};
use sparseland_matrix::{Layout, LinearMap, Matrix, ValueType};

fn rng(seed: u64) -> Pcg64 {
    Pcg64::seed_from_u64(seed)
}

/// Sums of uniforms: close enough to normal. Rounded to f32, so that storing changes nothing.
fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| {
        let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
        f64::from((sum - 6.0) as f32)
    })
}

/// Correlated inputs with means, `tokens x channels`.
fn inputs(rng: &mut Pcg64, tokens: usize, channels: usize) -> Mat<f64> {
    let mix = gaussian(rng, channels, channels);
    let mut x = matmul(&gaussian(rng, tokens, channels), &mix).unwrap();
    let mean: Vec<f64> = (0..channels).map(|_| 2.0 * rng.random::<f64>()).collect();
    for t in 0..tokens {
        x.row_mut(t).iter_mut().zip(&mean).for_each(|(v, m)| *v += m);
    }
    x
}

fn statistics(x: &Mat<f64>) -> Arc<InputStatistics> {
    Arc::new(InputStatistics::of(x, Needs::Gram).unwrap())
}

/// A layer of weights `out x in`.
fn problem(weights: &Mat<f64>, inputs: &Arc<InputStatistics>) -> LayerProblem {
    LayerProblem {
        name: "model.layers.0.mlp.up_proj".into(),
        weight: weights.transposed(),
        inputs: Some(Arc::clone(inputs)),
        original: None,
        values: ValueType::F32,
    }
}

fn bitmask(weights: &Mat<f64>, nonzeros: usize) -> Layout {
    Layout::Bitmask { rows: weights.rows, cols: weights.cols, values: ValueType::F32, nonzeros }
}

fn n_of_m(weights: &Mat<f64>, (n, m): (usize, usize)) -> Layout {
    Layout::NofM { rows: weights.rows, cols: weights.cols, values: ValueType::F32, n, m }
}

fn build(method: &dyn LayerMethod, weights: &Mat<f64>, x: &Arc<InputStatistics>, layout: &Layout) -> Matrix {
    method.prepare(problem(weights, x)).unwrap().build(layout).unwrap()
}

/// The entries, `out x in`.
fn dense(matrix: &Matrix) -> Mat<f64> {
    let data = matrix.to_dense().iter().map(|&v| f64::from(v)).collect();
    Mat { rows: matrix.rows(), cols: matrix.cols(), data }
}

fn mask_of(entries: &Mat<f64>) -> Mask {
    Mask::from_fn(entries.rows, entries.cols, |r, c| entries.at(r, c) != 0.0)
}

/// Runs something on so many threads.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
