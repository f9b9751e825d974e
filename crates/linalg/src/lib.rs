//! Decompositions and solves as concrete f32 and f64 functions.
//!
//! | job | functions |
//! |---|---|
//! | products | [`matmul`], [`matmul_transposed_left`], [`matmul_transposed_right`], [`matmul_accumulate`], [`gram`] |
//! | Gram matrices of activations | [`GramAccumulator`], [`gram_accumulate`] |
//! | whitening | [`cholesky_robust`] and its [`Whitener`] |
//! | singular values | [`svd`], [`svd_values`], [`svd_truncated`] |
//! | leading singular values of large or implicit matrices | [`svd_randomized`], [`svd_partial`] over an [`Operator`] |
//! | symmetric eigenvalues | [`eigh`], [`eigh_values`]; [`eigh_complex`] for Hermitian matrices |
//! | systems | [`qr`], [`lstsq`], [`solve_spd`] |
//! | inverses with determinants | [`inverse_log_det`]; [`UnpivotedInverse`] for many of one size |
//!
//! Matrices are row-major ([`Mat`]). faer does the heavy work but appears in no signature, and its generic code is
//! compiled here only: a crate that uses this one pays nothing for it.
//!
//! **Threads.** Every function runs in the current rayon pool: call it inside `pool.install(|| ...)`. Small problems
//! stay on the calling thread. The same input gives the same bytes for the same number of threads; another number of
//! threads may change the last bits of products and of everything built on them, because sums are split elsewhere.
//!
//! **Bad input** is an error, never a panic: shapes that do not fit, NaN and infinity (with the index of the first),
//! iterations that did not converge. See [`LinalgError`].

mod backend;
mod cholesky;
mod eigen;
mod error;
mod hermitian;
mod lu;
mod mat;
mod operator;
mod partial;
mod products;
mod randomized;
mod solve;
mod svd;

pub use cholesky::{JITTER_FLOOR, Whitener, cholesky_robust};
pub use eigen::{Eigh, eigh, eigh_values};
pub use error::LinalgError;
pub use hermitian::{EighComplex, eigh_complex};
pub use lu::{InverseLogDet, UnpivotedInverse, inverse_log_det};
pub use mat::{Mat, Scalar};
pub use operator::{FnOperator, Operator};
pub use partial::svd_partial;
pub use products::{
    GramAccumulator, gram, gram_accumulate, matmul, matmul_accumulate, matmul_transposed_left,
    matmul_transposed_right,
};
pub use randomized::svd_randomized;
pub use solve::{Qr, lstsq, orthogonality_error, qr, solve_spd};
pub use svd::{Svd, svd, svd_truncated, svd_values};
