//! Sparse dictionaries: greedy sparse coding and the updates that fit the atoms to their users.
//!
//! Data are `n` samples of length `d`, one per row (`X: n x d`); a dictionary is `k` atoms of unit norm
//! (`D: k x d`), a code at most `s` numbers per sample (`S: n x k`, zeros elsewhere):
//!
//! ```text
//! min ||X - S D||_F²   with   ||S_j||_0 <= s for every row j
//! ```
//!
//! | part | what it does | file |
//! |---|---|---|
//! | [`Pursuit`], [`code_samples`] | supports and coefficients for given atoms | `pursuit.rs` |
//! | [`Learner`], [`Update`] | alternates coding and atom updates, never getting worse | `learner.rs` |
//!
//! Aharon, Elad, Bruckstein, "K-SVD", IEEE TSP 2006; Rubinstein, Zibulevsky, Elad, "Efficient implementation of
//! the K-SVD algorithm using batch orthogonal matching pursuit", 2008; Engan, Aase, Husoy, "Method of optimal
//! directions", ICASSP 1999; Rebollo-Neira, Lowe, "Optimized orthogonal matching pursuit", 2002.
//!
//! Everything is f64: the atoms of a trained weight in whitened space are so alike that f32 correlations lose
//! their order. Codes are kept dense (`8 n k` bytes), since the factorisations built on this fill half of them.

pub(crate) use learner::normalise;

mod learner;
mod pursuit;

pub use learner::{Learner, Update};
pub use pursuit::{Pursuit, code_samples};

sparseland_matrix::vectorised! {
    /// `<x, y>`, summed in sixteen lanes.
    pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
        let mut lanes = [0.0; 16];
        let (a, b) = (x.chunks_exact(16), y.chunks_exact(16));
        let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in a.zip(b) {
            for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
                *lane += x * y;
            }
        }
        lanes.iter().sum::<f64>() + rest
    }

    /// `y += a x`.
    pub(crate) fn add_scaled(a: f64, x: &[f64], y: &mut [f64]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}
