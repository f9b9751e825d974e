//! Products with many vectors at once: `Y = X Wᵀ` and `Y = X W`, `X` and `Y` row-major.
//!
//! One loop serves every kind. X is packed once, transposed, into *panels*: `cols x width` with up
//! to 128 batch items side by side. A block of rows of W is unpacked to 16-bit columns and f32
//! values, and its columns are walked in tiles whose piece of the panel fits the L1 cache. For
//! every stored weight a kernel broadcasts it and multiplies the panel row of its column into the
//! sums of its row ([`SparseTile`]); rows that share their columns, and dense rows, go through a
//! register-blocked kernel of six rows ([`GroupTile`]). Sums leave the block through a transposing
//! copy.
//!
//! A transposed product unpacks W in large pieces. A large batch has them sorted by column, so that
//! the same kernels run; a smaller one adds every weight's multiple of its panel row to sums in
//! cache ([`ScatterTile`]), which stores more but sorts nothing.
//!
//! Work is split by rows of the output. Every output is summed by one thread in an order that
//! depends on shapes and the batch only: results do not depend on the number of threads.

#![allow(unsafe_code)] // states the contract of `Rows`

mod block;
mod dense;
mod panel;
mod rows;
pub(crate) mod simd;
mod sparse;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unpack;

pub(crate) use dense::{dense_batch, dense_batch_transposed};
pub(crate) use sparse::{sparse_batch, sparse_batch_transposed};

use simd::Isa;

use crate::{Csc, Dense, LinearMap, Matrix, Product, Sum, ValueType};

/// Batch items that are packed at once: bounds the scratch of large batches.
const MOST_ITEMS: usize = 1024;
/// Bytes of a panel tile: the smallest usual L1 cache.
const TILE_BYTES: usize = 32 << 10;
/// A tile of rows that share their columns is this many times larger: it is read less often.
const SHARED_TILES: usize = 4;
/// Below one entry in eight a tile is this many times larger and half as wide: a row has so few
/// entries in a tile that loading and storing its sums would show, and the L2 cache serves the rest.
const VERY_SPARSE_TILES: usize = 2;
/// Entries of an unpacked block of rows. They stream through the cache, so that large blocks only
/// cost memory, and every panel tile that is fetched serves more rows.
const BLOCK_ENTRIES: usize = 240 << 10;
/// Floats of the piece of a panel that the dense kernel takes at once: 64 KiB, which stream from
/// the L2 cache fast enough.
const DENSE_TILE: usize = 16 << 10;
/// Rows of a dense block: a multiple of [`GROUP`].
const DENSE_ROWS: usize = 48;
/// Up to this batch a dense f32 product is vectorised over columns.
const FEW_ITEMS: usize = 8;
/// As above for narrower types, which other products widen first.
const FEW_NARROW_ITEMS: usize = 16;
/// Batch from which a transposed sparse product sorts the entries by column: with fewer items that
/// costs more than the slower kernel for unsorted ones.
const SORT_ITEMS: usize = 128;
/// Entries that a transposed sparse product unpacks at once: 24 MiB.
const SORT_ENTRIES: usize = 4 << 20;
/// A sparse matrix whose rows can be unpacked.
///
/// # Safety
/// Unpacked columns are below the number of columns and rise, but for the order inside groups.
pub(crate) unsafe trait Rows: Sync {
    /// `(rows, cols)`.
    fn shape(&self) -> (usize, usize);
    /// The number of stored entries.
    fn entries(&self) -> usize;
    /// Up to this batch, products with one vector after another are faster (measured at 4080 x 4096).
    fn vector_items(&self) -> usize;
    /// As above for transposed products.
    fn transposed_vector_items(&self) -> usize;
    /// Columns between multiples of this number may be unpacked in any order.
    fn group(&self) -> usize {
        1
    }
    /// Appends the columns and values of `row`, of a matrix with at most 65 536 columns. Columns
    /// rise, but for the order inside a [group](Self::group).
    fn unpack(&self, isa: Isa, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>);
    /// Appends the whole columns and values of `row`.
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>);
}

/// `Y = X Wᵀ` (or `Y +=`) for a sparse W.
pub(crate) fn sparse<W: Rows + LinearMap>(w: &W, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    let shape = (LinearMap::cols(w), LinearMap::rows(w));
    if batch <= w.vector_items() {
        return one_by_one(x, batch, y, add, shape, |x, y| w.apply(x, y));
    }
    sparse_batch(Isa::detect(), w, x, batch, y, add);
}

/// `Y = X W` (or `Y +=`) for a sparse W.
pub(crate) fn sparse_transposed<W: Rows + LinearMap>(
    w: &W,
    x: &[f32],
    batch: usize,
    y: &mut [f32],
    add: bool,
) {
    let shape = (LinearMap::rows(w), LinearMap::cols(w));
    if batch <= w.transposed_vector_items() {
        return one_by_one(x, batch, y, add, shape, |x, y| w.apply_transposed(x, y));
    }
    sparse_batch_transposed(Isa::detect(), w, x, batch, y, add);
}

/// `Y = X Wᵀ` (or `Y +=`) for a dense W.
pub(crate) fn dense(w: &Dense, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    if batch <= 1 {
        return one_by_one(x, batch, y, add, (w.cols, w.rows), |x, y| w.apply(x, y));
    }
    dense_batch(Isa::detect(), w, x, batch, y, add);
}

/// `Y = X W` (or `Y +=`) for a dense W.
pub(crate) fn dense_transposed(w: &Dense, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    let vectors = match w.values.value_type() {
        ValueType::F32 => 2,
        ValueType::Bf16 | ValueType::F16 => 4,
        ValueType::I8 => 6,
    };
    if batch <= vectors {
        return one_by_one(x, batch, y, add, (w.rows, w.cols), |x, y| w.apply_transposed(x, y));
    }
    dense_batch_transposed(Isa::detect(), w, x, batch, y, add);
}

/// A batch as products with one vector after another, `shape` being their lengths.
fn one_by_one(
    x: &[f32],
    batch: usize,
    y: &mut [f32],
    add: bool,
    shape: (usize, usize),
    apply: impl Fn(&[f32], &mut [f32]),
) {
    assert_eq!((x.len(), y.len()), (batch * shape.0, batch * shape.1), "wrong length");
    let mut sums = vec![0.0; if add { shape.1 } else { 0 }];
    for b in 0..batch {
        let (x, y) = (&x[b * shape.0..(b + 1) * shape.0], &mut y[b * shape.1..(b + 1) * shape.1]);
        if add {
            apply(x, &mut sums);
            y.iter_mut().zip(&sums).for_each(|(y, s)| *y += s);
        } else {
            apply(x, y);
        }
    }
}

/// The product of a batch with a matrix of any kind, or with its transpose; adds to `y` or
/// overwrites it.
fn any(w: &Matrix, x: &[f32], batch: usize, y: &mut [f32], add: bool, transposed: bool) {
    match (w, transposed) {
        (Matrix::Dense(w), false) => dense(w, x, batch, y, add),
        (Matrix::Dense(w), true) => dense_transposed(w, x, batch, y, add),
        (Matrix::Bitmask(w), false) => sparse(w, x, batch, y, add),
        (Matrix::Bitmask(w), true) => sparse_transposed(w, x, batch, y, add),
        (Matrix::NofM(w), false) => sparse(w, x, batch, y, add),
        (Matrix::NofM(w), true) => sparse_transposed(w, x, batch, y, add),
        (Matrix::Csr(w), false) | (Matrix::Csc(Csc { transpose: w }), true) => sparse(w, x, batch, y, add),
        (Matrix::Csr(w), true) | (Matrix::Csc(Csc { transpose: w }), false) => {
            sparse_transposed(w, x, batch, y, add);
        }
        (Matrix::BlockDiagonal(w), _) => {
            let width = if transposed { w.cols() } else { w.rows() };
            adding(batch * width, y, add, |y| match transposed {
                true => w.apply_transposed_batch(x, batch, y),
                false => w.apply_batch(x, batch, y),
            });
        }
        (Matrix::Transposed(w), _) => any(w.inner(), x, batch, y, add, !transposed),
        (Matrix::Product(w), _) => product(w, x, batch, y, add, transposed),
        (Matrix::Sum(w), _) => sum(w, x, batch, y, add, transposed),
    }
}

/// Runs a product that overwrites its output, and adds the result to `y` if asked.
fn adding(len: usize, y: &mut [f32], add: bool, apply: impl FnOnce(&mut [f32])) {
    if !add {
        return apply(y);
    }
    let mut sums = vec![0.0; len];
    apply(&mut sums);
    y.iter_mut().zip(&sums).for_each(|(y, s)| *y += s);
}

/// See [`any`].
pub(crate) fn product(w: &Product, x: &[f32], batch: usize, y: &mut [f32], add: bool, transposed: bool) {
    let (first, second) = if transposed { (w.left(), w.right()) } else { (w.right(), w.left()) };
    let mut inner = vec![0.0; batch * w.right().rows()];
    any(first, x, batch, &mut inner, false, transposed);
    any(second, &inner, batch, y, add, transposed);
}

/// See [`any`]: every term adds to the output of the ones before.
pub(crate) fn sum(w: &Sum, x: &[f32], batch: usize, y: &mut [f32], add: bool, transposed: bool) {
    for (i, term) in w.terms().iter().enumerate() {
        any(term, x, batch, y, add || i > 0, transposed);
    }
}

fn zero_unless(add: bool, y: &mut [f32]) {
    if !add {
        y.fill(0.0);
    }
}
