//! Dense and structured matrices, their bytes, their products and the SIMD kernels behind them.
//!
//! A [`Matrix`] is `rows x cols` and acts on column vectors: `y = W x`. For a linear layer of a
//! network that is `out x in`, row-major, as Hugging Face checkpoints store it. Whatever its
//! structure, a matrix answers the same questions ([`LinearMap`]): its shape, its
//! [stored bytes](LinearMap::stored_bytes), its multiply-adds, and products with a vector, a
//! batch, and transposed.
//!
//! [`Layout`] is the structure without the numbers: it serialises into a checkpoint's
//! configuration and counts bytes before anything is built, so that budgets, reports and files
//! share one truth.
//!
//! Parallel products use the rayon pool they are called in and split the work by rows in a fixed
//! way: results do not depend on the number of threads.
//!
//! ```
//! use sparseland_matrix::{Bitmask, LinearMap, Matrix, ValueType};
//!
//! let weights = [0.0, 2.0, 0.0, 1.0, 0.0, -3.0];
//! let matrix = Matrix::from(Bitmask::from_dense(2, 3, &weights, ValueType::F32));
//! let mut y = [0.0; 2];
//! matrix.apply(&[1.0, 10.0, 100.0], &mut y);
//! assert_eq!(y, [20.0, -299.0]);
//! assert_eq!(matrix.stored_bytes(), 3 * 4 + 2); // three values, one byte of mask a row
//! ```

pub mod bench;
mod bitmask;
mod block_diagonal;
mod buffer;
mod csr;
mod dense;
mod gemm;
mod kernels;
mod layout;
mod matrix;
mod nofm;
mod pattern;
mod product;
mod real;
pub mod simd;
mod storage;
mod transposed;
mod values;
pub mod vector;

pub use bitmask::Bitmask;
pub use block_diagonal::BlockDiagonal;
pub use buffer::Buffer;
pub use csr::{Csc, Csr};
pub use dense::Dense;
pub use gemm::{Precision, Threads, View, ViewMut, bf16_products, gemm, gemm_bf16, gemm_in};
pub use layout::Layout;
pub use matrix::{LinearMap, Matrix, apply_many};
pub use nofm::NofM;
pub use pattern::{Pattern, PatternError};
pub use product::{Product, Sum};
pub use real::Real;
pub use storage::{MatrixError, Part, PartType};
pub use transposed::Transposed;
pub use values::{Element, ValueType, Values};

/// The CPU features that the kernels look for and find on this machine, for reports.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut found = Vec::new();
        let mut note = |name, there| {
            if there {
                found.push(name);
            }
        };
        note("avx2", is_x86_feature_detected!("avx2"));
        note("fma", is_x86_feature_detected!("fma"));
        note("f16c", is_x86_feature_detected!("f16c"));
        note("avx512f", is_x86_feature_detected!("avx512f"));
        note("avx512bw", is_x86_feature_detected!("avx512bw"));
        note("avx512vl", is_x86_feature_detected!("avx512vl"));
        note("avx512dq", is_x86_feature_detected!("avx512dq"));
        note("avx512vbmi", is_x86_feature_detected!("avx512vbmi"));
        note("avx512vbmi2", is_x86_feature_detected!("avx512vbmi2"));
        note("avx512vnni", is_x86_feature_detected!("avx512vnni"));
        note("avx512bf16", is_x86_feature_detected!("avx512bf16"));
        note("amx-bf16", bf16_products());
        found
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        vec!["scalar"]
    }
}
