//! The operations, one file per kind; each adds its constructor to [`Tape`](crate::Tape).

mod attention;
mod convolution;
mod dropout;
mod elementwise;
mod embedding;
mod linear;
mod loss;
mod masked;
mod norm;
mod patches;
mod reduce;
mod sparse;

pub use attention::AttentionShape;
pub use convolution::{ConvShape, PoolShape};
pub use elementwise::Activation;
pub use loss::IGNORED;
pub use masked::Masked;
pub use norm::BatchStatistics;
pub use patches::PatchShape;

use rayon::prelude::*;
use sparseland_matrix::simd::LANES;
use sparseland_matrix::{Precision, Real, Threads, View, ViewMut, gemm_in};

/// Numbers that one thread handles at a time in element-wise loops.
const PIECE: usize = 1 << 14;

/// Runs `f` over equal pieces of the output and of one input.
pub(crate) fn pieces<R: Real>(x: &[R], y: &mut [R], f: impl Fn(&[R], &mut [R]) + Sync) {
    if y.len() <= PIECE {
        return f(x, y);
    }
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| f(x, y));
}

/// Runs `f` over equal pieces of the output and of two inputs.
fn pieces2<R: Real>(a: &[R], b: &[R], y: &mut [R], f: impl Fn(&[R], &[R], &mut [R]) + Sync) {
    if y.len() <= PIECE {
        return f(a, b, y);
    }
    let inputs = a.par_chunks(PIECE).zip(b.par_chunks(PIECE));
    y.par_chunks_mut(PIECE).zip(inputs).for_each(|(y, (a, b))| f(a, b, y));
}

/// `c = a b + beta c`, with all threads.
fn product<R: Real>(precision: Precision, a: View<'_, R>, b: View<'_, R>, beta: R, c: ViewMut<'_, R>) {
    gemm_in(precision, Threads::Pool, R::ONE, a, b, beta, c);
}

/// Runs of rows that one thread handles at a time: about [`PIECE`] numbers, whatever the number of threads.
fn rows_per_piece(cols: usize) -> usize {
    (PIECE / cols.max(1)).max(1)
}

sparseland_matrix::vectorised! {
    /// `y += x`.
    pub(crate) fn add_to<R: Real>(x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }

    /// The sum of all numbers.
    fn sum<R: Real>(x: &[R]) -> R {
        let mut sums = [R::ZERO; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder().iter().copied().sum::<R>();
        for chunk in chunks {
            for (s, x) in sums.iter_mut().zip(chunk) {
                *s += *x;
            }
        }
        sums.into_iter().sum::<R>() + rest
    }
    /// `sum x y`.
    fn dot<R: Real>(x: &[R], y: &[R]) -> R {
        let mut sums = [R::ZERO; LANES];
        let (x, y) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let rest = x.remainder().iter().zip(y.remainder()).map(|(x, y)| *x * *y).sum::<R>();
        for (x, y) in x.zip(y) {
            for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
                *s += *x * *y;
            }
        }
        sums.into_iter().sum::<R>() + rest
    }
    /// The largest number; NaN only if there is nothing else.
    fn largest<R: Real>(x: &[R]) -> R {
        let mut tops = [R::LOWEST; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder().iter().fold(R::LOWEST, |a, b| b.larger(a));
        for chunk in chunks {
            for (t, v) in tops.iter_mut().zip(chunk) {
                *t = v.larger(*t);
            }
        }
        tops.into_iter().fold(rest, |a, b| a.larger(b))
    }
    /// `y += a x`.
    fn add_scaled<R: Real>(a: R, x: &[R], y: &mut [R]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * *x;
        }
    }
}

/// `sums[j] += sum_i x[i][j]` over the rows of `x`, in an order that depends on the shape alone.
fn add_column_sums<R: Real>(x: &[R], cols: usize, sums: &mut [R]) {
    let per_piece = rows_per_piece(cols) * cols;
    let parts: Vec<Vec<R>> = x
        .par_chunks(per_piece)
        .map(|rows| {
            let mut part = vec![R::ZERO; cols];
            rows.chunks_exact(cols).for_each(|row| add_to(row, &mut part));
            part
        })
        .collect();
    parts.iter().for_each(|part| add_to(part, sums));
}
