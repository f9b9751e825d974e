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

mod bitmask;
mod buffer;
mod csr;
mod dense;
mod kernels;
mod layout;
mod matrix;
mod nofm;
mod product;
mod storage;
mod values;

pub use bitmask::Bitmask;
pub use buffer::Buffer;
pub use csr::{Csc, Csr};
pub use dense::Dense;
pub use layout::Layout;
pub use matrix::{LinearMap, Matrix};
pub use nofm::NofM;
pub use product::{Product, Sum};
pub use storage::{MatrixError, Part, PartType};
pub use values::{Element, ValueType, Values};
