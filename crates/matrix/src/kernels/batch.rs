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

#![allow(unsafe_code)] // calls the kernels of `batch_simd` and shares the output between threads

use std::sync::Mutex;

use rayon::prelude::*;

use super::batch_simd::{
    Bound, DOT_ITEMS, DOT_ROWS, Dots, GROUP, GroupTile, Isa, Kernels, MAX_VECTORS, ScatterTile, SparseTile,
};
use super::batch_simd::{prefetch, transpose};
use crate::values::with_values;
use crate::{Buffer, Csc, Dense, Element, LinearMap, Matrix, Product, Sum, ValueType, Values};

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

/// Bytes of scratch that are kept for the next product.
const KEPT: usize = 64 << 20;

/// What is kept: fresh memory costs a page fault for every 4 KiB, which large panels would pay at each product.
static SPARE: Mutex<Vec<Buffer<f32>>> = Mutex::new(Vec::new());

/// Floats at a 64-byte boundary, handed on to the next product when dropped.
#[derive(Default)]
struct Scratch {
    data: Option<Buffer<f32>>,
    len: usize,
}

impl Scratch {
    fn new(len: usize) -> Self {
        let mut scratch = Self::default();
        scratch.grow(len);
        scratch
    }

    /// Makes room for `len` floats; the contents are unspecified.
    fn grow(&mut self, len: usize) {
        self.len = len;
        if self.data.as_ref().is_some_and(|data| data.len() >= len) {
            return;
        }
        self.give_back();
        let mut spare = SPARE.lock().unwrap_or_else(|e| e.into_inner());
        let fits = |&i: &usize| spare[i].len() >= len;
        let best = (0..spare.len()).filter(fits).min_by_key(|&i| spare[i].len());
        self.data = best.map(|i| spare.swap_remove(i));
        drop(spare);
        self.data.get_or_insert_with(|| Buffer::zeros(len.next_multiple_of(1024)));
    }

    fn give_back(&mut self) {
        let Some(data) = self.data.take() else { return };
        let mut spare = SPARE.lock().unwrap_or_else(|e| e.into_inner());
        let kept: usize = spare.iter().map(|b| b.len()).sum();
        if 4 * (kept + data.len()) <= KEPT {
            spare.push(data);
        }
    }

    fn slice(&mut self) -> &mut [f32] {
        self.data.as_mut().map_or(&mut [], |data| &mut data[..self.len])
    }

    fn as_slice(&self) -> &[f32] {
        self.data.as_ref().map_or(&[], |data| &data[..self.len])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Scratch that threads borrow, so that each is made once per thread, not once per block.
struct Pool<T>(Mutex<Vec<T>>);

impl<T: Default> Pool<T> {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn with(&self, f: impl FnOnce(&mut T)) {
        let spare = self.0.lock().expect("no panic while locked").pop();
        let mut scratch = spare.unwrap_or_default();
        f(&mut scratch);
        self.0.lock().expect("no panic while locked").push(scratch);
    }
}

/// Runs `f` for `0..count` on the threads of the current pool.
fn each<T: Default + Send>(count: usize, f: impl Fn(usize, &mut T) + Sync) {
    let pool = Pool::<T>::new();
    (0..count).into_par_iter().with_max_len(1).for_each(|i| pool.with(|scratch| f(i, scratch)));
}

/// The output, shared by threads that write different parts.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    /// Floats from one batch item to the next.
    stride: usize,
    add: bool,
}

impl Output {
    /// Where the output of `item` for `row` stands.
    ///
    /// # Safety
    /// Both must be inside the output.
    unsafe fn at(self, item: usize, row: usize) -> *mut f32 {
        // SAFETY: inside the output.
        unsafe { self.start.add(item * self.stride + row) }
    }
}

// SAFETY: every block writes its own columns of the output.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// A part of X, transposed: tiles of `cols x width`.
struct Panel {
    data: Scratch,
    items: usize,
    cols: usize,
    vectors: usize,
    width: usize,
}

impl Panel {
    /// Packs `x: items x (columns of stride)`.
    fn pack(isa: Isa, x: &[f32], stride: usize, items: usize, cols: usize, most_vectors: usize) -> Self {
        let lanes = isa.lanes();
        let tiles = items.div_ceil(lanes * most_vectors);
        let vectors = items.div_ceil(tiles).div_ceil(lanes);
        let width = vectors * lanes;
        let mut data = Scratch::new(tiles * cols * width);
        assert!(items == 0 || x.len() >= (items - 1) * stride + cols, "wrong length");
        data.slice().par_chunks_mut(cols * width).enumerate().for_each(|(tile, data)| {
            let first = tile * width;
            let here = width.min(items - first);
            data.par_chunks_mut(256 * width).enumerate().for_each(|(chunk, data)| {
                let column = chunk * 256;
                let shape = (here, data.len() / width);
                // SAFETY: items `first..first + here` and columns `column..` of this chunk lie in x,
                // whose length was checked; data holds `shape.1 x width` floats.
                unsafe {
                    let from = x.as_ptr().add(first * stride + column);
                    transpose(isa, from, stride, shape, data.as_mut_ptr(), width, false);
                }
            });
        });
        Self { data, items, cols, vectors, width }
    }

    /// The tiles: first item, items in use, data.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let tiles = self.data.as_slice().chunks(self.cols * self.width);
        tiles.enumerate().map(|(i, data)| {
            let first = i * self.width;
            (first, self.width.min(self.items - first), data)
        })
    }
}

/// Consecutive rows of a block.
enum Run {
    /// Each with its own columns.
    Own { first: usize, rows: usize },
    /// At most [`GROUP`] that share their columns.
    Shared { first: usize, rows: usize },
}

/// Unpacked rows and the scratch to multiply them.
#[derive(Default)]
struct Block {
    columns: Vec<u16>,
    values: Vec<f32>,
    /// Where each row starts; one longer than rows.
    offsets: Vec<u32>,
    /// From 0: `tiles x rows`, where the entries of each row in each column tile start. From
    /// `first_end`: where they end. The two overlap if a row's entries lie in one piece.
    bounds: Vec<u32>,
    first_end: usize,
    runs: Vec<Run>,
    wide: Vec<u32>,
    sums: Scratch,
}

impl Block {
    fn clear(&mut self) {
        self.columns.clear();
        self.values.clear();
        self.offsets.clear();
        self.offsets.push(0);
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    fn end_row(&mut self) {
        assert_eq!(self.columns.len(), self.values.len(), "an unpacked row lost a value");
        self.offsets.push(self.columns.len() as u32);
    }

    /// Unpacks rows `rows` of `source` and finds where they cross multiples of `tile` columns.
    fn unpack(&mut self, isa: Isa, source: &dyn Rows, rows: std::ops::Range<usize>, tile: usize) {
        let cols = source.shape().1;
        self.clear();
        if cols <= 1 << 16 {
            for row in rows {
                source.unpack(isa, row, &mut self.columns, &mut self.values);
                self.end_row();
            }
            self.find_bounds(isa.kernels(), cols, tile);
            return;
        }
        self.first_end = rows.len();
        let (count, tiles) = (rows.len(), tile_count(cols, tile));
        self.bounds.clear();
        self.bounds.resize((tiles + 1) * count, 0);
        for (r, row) in rows.enumerate() {
            self.wide.clear();
            source.unpack_wide(row, &mut self.wide, &mut self.values);
            let start = self.offsets[r];
            self.sort_wide(start as usize);
            for (t, (_, end)) in tile_ranges(cols, tile).enumerate() {
                let below = self.wide.partition_point(|&c| (c as usize) < end) as u32;
                self.bounds[(t + 1) * count + r] = start + below;
            }
            self.bounds[r] = start;
            self.columns.extend(self.wide.iter().map(|&c| c as u16));
            self.end_row();
        }
    }

    /// Brings the last unpacked row into rising order: its columns must not straddle 65 536.
    fn sort_wide(&mut self, start: usize) {
        if !self.wide.is_sorted() {
            let mut pairs: Vec<_> =
                self.wide.iter().copied().zip(self.values[start..].iter().copied()).collect();
            pairs.sort_by_key(|p| p.0);
            for (i, (c, w)) in pairs.into_iter().enumerate() {
                (self.wide[i], self.values[start + i]) = (c, w);
            }
        }
    }

    /// As above for at most 65 536 columns, from the unpacked ones.
    fn find_bounds(&mut self, kernels: &Kernels, cols: usize, tile: usize) {
        assert!(cols <= 1 << 16, "16 bits do not name {cols} columns");
        let (rows, tiles) = (self.rows(), tile_count(cols, tile));
        self.bounds.resize((tiles + 1) * rows, 0);
        self.first_end = rows;
        self.bounds[..rows].copy_from_slice(&self.offsets[..rows]);
        for (t, (_, end)) in tile_ranges(cols, tile).enumerate() {
            let (before, after) = self.bounds.split_at_mut((t + 1) * rows);
            if t + 1 == tiles {
                after[..rows].copy_from_slice(&self.offsets[1..]);
                break;
            }
            let bound = Bound {
                columns: &self.columns,
                starts: &before[t * rows..],
                limits: &self.offsets,
                column: end as u16, // below 65 536: the last tile left the loop
                ends: &mut after[..rows],
            };
            // SAFETY: the kernels are those of an instruction set this machine has.
            unsafe { (kernels.ends)(bound) };
        }
    }

    /// Finds runs of rows that share their columns.
    fn find_runs(&mut self) {
        self.runs.clear();
        let (rows, offsets) = (self.rows(), &self.offsets);
        let row = |r: usize| &self.columns[offsets[r] as usize..offsets[r + 1] as usize];
        let mut first = 0;
        while first < rows {
            let mut end = first + 1;
            while end < rows && row(end) == row(first) {
                end += 1;
            }
            match self.runs.last_mut() {
                Some(Run::Own { rows, .. }) if end == first + 1 => *rows += 1,
                _ if end == first + 1 => self.runs.push(Run::Own { first, rows: 1 }),
                _ => {
                    // Equal pieces: 8 = 4 + 4, not 6 + 2.
                    let pieces = (end - first).div_ceil(GROUP);
                    for p in 0..pieces {
                        let (from, to) = ((end - first) * p / pieces, (end - first) * (p + 1) / pieces);
                        self.runs.push(Run::Shared { first: first + from, rows: to - from });
                    }
                }
            }
            first = end;
        }
    }

    /// Multiplies the rows with a panel and writes them to columns `first_row..` of the output.
    fn multiply(
        &mut self,
        isa: Isa,
        panel: &Panel,
        tile: usize,
        first_item: usize,
        first_row: usize,
        out: Output,
    ) {
        let kernels = isa.kernels();
        let (rows, width) = (self.rows(), panel.width);
        self.sums.grow(rows * width);
        let next_per_row = (tile * width).div_ceil(rows).next_multiple_of(16);
        for (first, items, data) in panel.tiles() {
            let sums = &mut self.sums.slice()[..rows * width];
            sums.fill(0.0);
            for (t, (start, end)) in tile_ranges(panel.cols, tile).enumerate() {
                let starts = &self.bounds[t * rows..][..rows];
                let ends = &self.bounds[self.first_end + t * rows..][..rows];
                // Columns are named by their low 16 bits and a tile never crosses 65 536.
                let segment = start >> 16 << 16;
                let base = &data[segment * width..(segment + (1 << 16)).min(panel.cols) * width];
                for run in &self.runs {
                    match *run {
                        Run::Own { first, rows } => {
                            let job = SparseTile {
                                rows,
                                starts: starts[first..][..rows].as_ptr(),
                                ends: ends[first..][..rows].as_ptr(),
                                columns: self.columns.as_ptr(),
                                values: self.values.as_ptr(),
                                panel: base.as_ptr(),
                                y: sums[first * width..][..rows * width].as_mut_ptr(),
                                next: data.as_ptr().wrapping_add(end * width + first * next_per_row),
                                next_per_row,
                            };
                            // SAFETY: bounds are positions in columns and values, which are as long;
                            // columns are below `cols` by the contract of `Rows`, and those of
                            // this tile are relative to `base`; sums hold `rows x width`.
                            unsafe { (kernels.sparse[panel.vectors - 1])(&job) };
                        }
                        Run::Shared { first, rows } => {
                            let (from, to) = (starts[first] as usize, ends[first] as usize);
                            let mut values = [std::ptr::null(); GROUP];
                            for g in 0..rows {
                                let from = starts[first + g] as usize;
                                values[g] = self.values[from..from + (to - starts[first] as usize)].as_ptr();
                            }
                            let mut vector = 0;
                            while vector < panel.vectors {
                                let left = panel.vectors - vector;
                                let passes = left.div_ceil(isa.group_vectors());
                                let vectors = left.div_ceil(passes);
                                let offset = vector * isa.lanes();
                                let job = GroupTile {
                                    len: to - from,
                                    columns: self.columns[from..to].as_ptr(),
                                    values,
                                    panel: base[offset..].as_ptr(),
                                    width,
                                    y: sums[first * width + offset..][..rows * width - offset].as_mut_ptr(),
                                    next: data.as_ptr().wrapping_add(end * width + first * next_per_row),
                                    next_lines: if vector == 0 { rows * next_per_row / 16 } else { 0 },
                                };
                                // SAFETY: as above; `vectors` more fit into the width.
                                unsafe { (kernels.shared[rows - 1][vectors - 1])(&job) };
                                vector += vectors;
                            }
                        }
                    }
                }
            }
            // SAFETY: no other block writes these rows; the output has `first_item + first + items`
            // items and `first_row + rows` columns.
            unsafe {
                let to = out.at(first_item + first, first_row);
                transpose(isa, sums.as_ptr(), width, (rows, items), to, out.stride, out.add);
            }
        }
    }
}

/// Column tiles: `tile` wide, cut at multiples of 65 536.
fn tile_ranges(cols: usize, tile: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        (start < cols).then(|| {
            let end = (start + tile).min((start >> 16 << 16) + (1 << 16)).min(cols);
            (std::mem::replace(&mut start, end), end)
        })
    })
}

fn tile_count(cols: usize, tile: usize) -> usize {
    tile_ranges(cols, tile).count()
}

/// Columns whose panel rows fit a tile.
fn tile_columns(width: usize) -> usize {
    (TILE_BYTES / (4 * width)).max(16)
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

/// Whether most rows share their columns with a neighbour, judged by the first few.
fn shares_columns(isa: Isa, w: &dyn Rows) -> bool {
    let (rows, cols) = w.shape();
    let rows = rows.min(3 * GROUP);
    if cols > 1 << 16 || rows < 2 {
        return false;
    }
    let (mut last, mut columns, mut values, mut pairs) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for row in 0..rows {
        columns.clear();
        values.clear();
        w.unpack(isa, row, &mut columns, &mut values);
        pairs += usize::from(columns == last);
        std::mem::swap(&mut last, &mut columns);
    }
    2 * pairs >= rows
}

/// `Y = X Wᵀ` (or `Y +=`) for a sparse W.
pub(crate) fn sparse_batch(isa: Isa, w: &dyn Rows, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    let (rows, cols) = w.shape();
    assert_eq!((x.len(), y.len()), (batch * cols, batch * rows), "wrong length");
    if y.is_empty() || cols == 0 || w.entries() == 0 {
        return zero_unless(add, y);
    }
    let block_rows = (BLOCK_ENTRIES * rows / w.entries()).clamp(GROUP, 480).min(rows.div_ceil(16).max(GROUP))
        / GROUP
        * GROUP;
    // Vectors of a panel, and how much larger than usual its tiles are.
    let (most, tiles) = if shares_columns(isa, w) {
        (isa.group_vectors(), SHARED_TILES)
    } else if w.entries() < rows * cols / 8 {
        (MAX_VECTORS / 2, VERY_SPARSE_TILES)
    } else {
        (MAX_VECTORS, 1)
    };
    let out = Output { start: y.as_mut_ptr(), stride: rows, add };
    for first_item in (0..batch).step_by(MOST_ITEMS) {
        let items = MOST_ITEMS.min(batch - first_item);
        let panel = Panel::pack(isa, &x[first_item * cols..], cols, items, cols, most);
        let tile = tile_columns(panel.width) * tiles;
        each(rows.div_ceil(block_rows), |b, block: &mut Block| {
            let first = b * block_rows;
            block.unpack(isa, w, first..(first + block_rows).min(rows), tile);
            block.find_runs();
            block.multiply(isa, &panel, tile, first_item, first, out);
        });
    }
}

/// `Y = X W` (or `Y +=`) for a sparse W.
pub(crate) fn sparse_batch_transposed(
    isa: Isa,
    w: &dyn Rows,
    x: &[f32],
    batch: usize,
    y: &mut [f32],
    add: bool,
) {
    let (rows, cols) = w.shape();
    assert_eq!((x.len(), y.len()), (batch * rows, batch * cols), "wrong length");
    if y.is_empty() || rows == 0 || w.entries() == 0 {
        return zero_unless(add, y);
    }
    // Rows of W that are unpacked at once; their number fits 16 bits.
    let piece = (SORT_ENTRIES * rows / w.entries()).clamp(1, 1 << 15).min(rows);
    let out = Output { start: y.as_mut_ptr(), stride: cols, add };
    let sort = batch >= SORT_ITEMS;
    let lanes = isa.lanes();
    let tiles = batch.min(MOST_ITEMS).div_ceil(lanes * MAX_VECTORS);
    let width = batch.min(MOST_ITEMS).div_ceil(tiles).next_multiple_of(lanes);
    // Columns of W, the rows of its transpose, of a block: results do not depend on it.
    let block_cols = if sort {
        cols.div_ceil(4 * rayon::current_num_threads()).clamp(64, 480)
    } else {
        tile_columns(width)
    };
    // No group is cut, so that entries are found in the tile that their column belongs to.
    let block_cols = block_cols.next_multiple_of(w.group());
    let ranges: Vec<_> = tile_ranges(cols, block_cols).collect();
    for first_row in (0..rows).step_by(piece) {
        let count = piece.min(rows - first_row);
        let chunk = count.div_ceil(32);
        let unpacked: Vec<Block> = (0..count.div_ceil(chunk))
            .into_par_iter()
            .with_max_len(1)
            .map(|c| {
                let mut block = Block::default();
                let first = first_row + c * chunk;
                block.unpack(isa, w, first..(first + chunk).min(first_row + count), block_cols);
                block
            })
            .collect();
        let out = Output { add: add || first_row > 0, ..out };
        for first_item in (0..batch).step_by(MOST_ITEMS) {
            let items = MOST_ITEMS.min(batch - first_item);
            let from = &x[first_item * rows + first_row..];
            let panel = Panel::pack(isa, from, rows, items, count, MAX_VECTORS);
            if sort {
                let tile = tile_columns(panel.width);
                each(ranges.len(), |index, (block, next): &mut (Block, Vec<u32>)| {
                    let (start, end) = ranges[index];
                    block.gather(&unpacked, index, start, end - start, tile, next);
                    block.multiply(isa, &panel, tile, first_item, start, out);
                });
            } else {
                each(ranges.len(), |index, sums: &mut Scratch| {
                    scatter(isa, &unpacked, index, ranges[index], &panel, sums, first_item, out);
                });
            }
        }
    }
}

/// The products of columns `start..end`, tile `index` of the unpacked rows, with every tile of the
/// panel, summed in cache.
fn scatter(
    isa: Isa,
    unpacked: &[Block],
    index: usize,
    (start, end): (usize, usize),
    panel: &Panel,
    sums: &mut Scratch,
    first_item: usize,
    out: Output,
) {
    let (cols, width) = (end - start, panel.width);
    sums.grow(cols * width);
    let sums = &mut sums.slice()[..cols * width];
    for (first, items, data) in panel.tiles() {
        sums.fill(0.0);
        let mut row = 0;
        for block in unpacked {
            let rows = block.rows();
            let (starts, ends) = (&block.bounds[index * rows..], &block.bounds[(index + 1) * rows..][..rows]);
            let job = ScatterTile {
                rows,
                starts: starts.as_ptr(),
                ends: ends.as_ptr(),
                columns: block.columns.as_ptr(),
                values: block.values.as_ptr(),
                panel: data[row * width..(row + rows) * width].as_ptr(),
                // Columns are named by their low 16 bits, and a tile does not cross 65 536.
                y: sums.as_mut_ptr().wrapping_sub((start & 0xFFFF) * width),
            };
            // SAFETY: bounds are positions in columns and values, which are as long; columns
            // between them lie in `start..end`, since columns rise but inside groups, which are not
            // cut, and wide ones were sorted; the panel has a row for each row unpacked.
            unsafe { (isa.kernels().scatter[panel.vectors - 1])(&job) };
            row += rows;
        }
        // SAFETY: no other tile writes these columns of the output.
        unsafe {
            let to = out.at(first_item + first, start);
            transpose(isa, sums.as_ptr(), width, (cols, items), to, out.stride, out.add);
        }
    }
}

impl Block {
    /// The transpose of columns `start..start + cols`, tile `index` of the unpacked rows. Entries
    /// are sorted `tile` rows at a time and stay in that order: a sort through the whole height
    /// would write to as many places as columns, at distances that collide in the cache.
    fn gather(
        &mut self,
        unpacked: &[Block],
        index: usize,
        start: usize,
        cols: usize,
        tile: usize,
        next: &mut Vec<u32>,
    ) {
        // Spans lie far apart, in memory that no hardware prefetcher foresees.
        const AHEAD: usize = 8;
        let low = start as u16;
        let chunk = unpacked[0].rows();
        let count = unpacked.iter().map(Block::rows).sum::<usize>();
        let span = |row: usize| {
            let (block, r) = (&unpacked[row / chunk], row % chunk);
            let at = index * block.rows() + r;
            let span = block.bounds[at] as usize..block.bounds[at + block.rows()] as usize;
            (&block.columns[span.clone()], &block.values[span])
        };
        self.clear();
        self.offsets.resize(cols + 1, 0); // only their number counts here
        self.runs.clear();
        self.runs.push(Run::Own { first: 0, rows: cols });
        let tiles = tile_count(count, tile);
        self.first_end = tiles * cols;
        self.bounds.clear();
        self.bounds.resize(2 * tiles * cols, 0);
        let total = (0..count).map(|row| span(row).0.len()).sum();
        self.columns.resize(total, 0);
        self.values.resize(total, 0.0);
        let mut at = 0;
        for (t, (first, end)) in tile_ranges(count, tile).enumerate() {
            next.clear();
            next.resize(cols, 0);
            for row in first..end {
                if row + AHEAD < count {
                    let (columns, values) = span(row + AHEAD);
                    prefetch(columns);
                    prefetch(values);
                }
                for c in span(row).0 {
                    next[c.wrapping_sub(low) as usize] += 1;
                }
            }
            for c in 0..cols {
                self.bounds[t * cols + c] = at;
                at += std::mem::replace(&mut next[c], at);
                self.bounds[self.first_end + t * cols + c] = at;
            }
            for row in first..end {
                let (columns, values) = span(row);
                for (c, &w) in columns.iter().zip(values) {
                    let slot = &mut next[c.wrapping_sub(low) as usize];
                    self.columns[*slot as usize] = row as u16;
                    self.values[*slot as usize] = w;
                    *slot += 1;
                }
            }
        }
    }
}

/// `values[range]` of row `row` widened into `out`.
pub(super) fn widen_row(
    isa: Isa,
    values: &Values,
    row: usize,
    range: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let kernels = isa.kernels();
    // SAFETY of all: the kernels are those of an instruction set this machine has.
    match values {
        Values::F32(v) => out.copy_from_slice(&v[range]),
        // SAFETY: see above.
        Values::Bf16(v) => unsafe { (kernels.widen_bf16)(&v[range], out) },
        // SAFETY: see above.
        Values::F16(v) => unsafe { (kernels.widen_f16)(&v[range], out) },
        // SAFETY: see above.
        Values::I8 { values, scales } => unsafe { (kernels.widen_i8)(&values[range], scales[row], out) },
    }
}

/// `Y = X Wᵀ` (or `Y +=`) for a dense W.
pub(crate) fn dense_batch(isa: Isa, w: &Dense, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    let (rows, cols) = (w.rows, w.cols);
    assert_eq!((x.len(), y.len()), (batch * cols, batch * rows), "wrong length");
    if y.is_empty() || cols == 0 {
        return zero_unless(add, y);
    }
    let out = Output { start: y.as_mut_ptr(), stride: rows, add };
    let few = if w.values.value_type() == ValueType::F32 { FEW_ITEMS } else { FEW_NARROW_ITEMS };
    if batch <= few {
        return dense_few(isa, w, x, batch, out);
    }
    let block_rows = DENSE_ROWS.min(rows.div_ceil(8).next_multiple_of(GROUP));
    for first_item in (0..batch).step_by(MOST_ITEMS) {
        let items = MOST_ITEMS.min(batch - first_item);
        let panel = Panel::pack(isa, &x[first_item * cols..], cols, items, cols, isa.group_vectors());
        each(rows.div_ceil(block_rows), |b, (wide, sums): &mut (Scratch, Scratch)| {
            let first = b * block_rows;
            let count = block_rows.min(rows - first);
            dense_block(isa, w, first, count, &panel, wide, sums);
            let stride = count * panel.width;
            for ((from, items, _), sums) in panel.tiles().zip(sums.slice().chunks(stride)) {
                // SAFETY: no other block writes these rows.
                unsafe {
                    let to = out.at(first_item + from, first);
                    transpose(isa, sums.as_ptr(), panel.width, (count, items), to, out.stride, out.add);
                }
            }
        });
    }
}

/// `sums[tile][row]` of rows `first..first + count` with every tile of the panel.
fn dense_block(
    isa: Isa,
    w: &Dense,
    first: usize,
    count: usize,
    panel: &Panel,
    wide: &mut Scratch,
    sums: &mut Scratch,
) {
    let (cols, width) = (w.cols, panel.width);
    let tiles = panel.items.div_ceil(width);
    sums.grow(tiles * count * width);
    let sums = &mut sums.slice()[..tiles * count * width];
    sums.fill(0.0);
    let tile = DENSE_TILE / width;
    for start in (0..cols).step_by(tile) {
        let len = tile.min(cols - start);
        let (values, stride) = if let Values::F32(v) = &w.values {
            (&v[first * cols + start..], cols)
        } else {
            wide.grow(count * tile);
            for r in 0..count {
                let from = (first + r) * cols + start;
                let to = &mut wide.slice()[r * len..(r + 1) * len];
                widen_row(isa, &w.values, first + r, from..from + len, to);
                // The next tile of this row, where that exists.
                with_values!(&w.values, |v, _s| prefetch(&v[from + len..v.len().min(from + 2 * len)]));
            }
            (wide.as_slice(), len)
        };
        for ((_, _, data), sums) in panel.tiles().zip(sums.chunks_mut(count * width)) {
            let data = &data[start * width..(start + len) * width];
            multiply_dense(isa, (values, stride), (count, len), data, width, panel.vectors, sums);
        }
    }
}

/// `sums: rows x width += values: rows x len (of stride) * panel: len x width`.
fn multiply_dense(
    isa: Isa,
    (values, stride): (&[f32], usize),
    (rows, len): (usize, usize),
    panel: &[f32],
    width: usize,
    vectors: usize,
    sums: &mut [f32],
) {
    let kernels = isa.kernels();
    assert!(panel.len() >= len * width && sums.len() >= rows * width, "wrong length");
    let mut row = 0;
    while row < rows {
        let group = (rows - row).min(GROUP);
        let mut pointers = [std::ptr::null(); GROUP];
        for g in 0..group {
            pointers[g] = values[(row + g) * stride..][..len].as_ptr();
        }
        let job = GroupTile {
            len,
            columns: std::ptr::null(),
            values: pointers,
            panel: panel.as_ptr(),
            width,
            y: sums[row * width..].as_mut_ptr(),
            next: std::ptr::null(),
            next_lines: 0,
        };
        // SAFETY: lengths were checked; `vectors` fill the width.
        unsafe { (kernels.dense[group - 1][vectors - 1])(&job) };
        row += group;
    }
}

/// A dense product with a few items, vectorised over columns.
fn dense_few(isa: Isa, w: &Dense, x: &[f32], batch: usize, out: Output) {
    let (kernels, shape) = (isa.kernels(), (w.rows, w.cols));
    match &w.values {
        Values::F32(v) => few_rows(&kernels.dots_f32, v, &[], shape, x, batch, out),
        Values::Bf16(v) => few_rows(&kernels.dots_bf16, v, &[], shape, x, batch, out),
        Values::F16(v) => few_rows(&kernels.dots_f16, v, &[], shape, x, batch, out),
        Values::I8 { values, scales } => few_rows(&kernels.dots_i8, values, scales, shape, x, batch, out),
    }
}

fn few_rows<T: Element>(
    kernels: &Dots<T>,
    values: &[T],
    scales: &[f32],
    (rows, cols): (usize, usize),
    x: &[f32],
    batch: usize,
    out: Output,
) {
    const BLOCK: usize = 16 * DOT_ROWS;
    assert!(x.len() == batch * cols && (scales.is_empty() || scales.len() == rows), "wrong length");
    each(rows.div_ceil(BLOCK), |b, _: &mut ()| {
        let end = ((b + 1) * BLOCK).min(rows);
        let mut row = b * BLOCK;
        while row < end {
            let count = if row + DOT_ROWS <= end { DOT_ROWS } else { 1 };
            let values = &values[row * cols..(row + count) * cols];
            let scales = scales.get(row..row + count).map_or(std::ptr::null(), <[f32]>::as_ptr);
            let mut item = 0;
            while item < batch {
                let items = (batch - item).min(DOT_ITEMS);
                let kernel = kernels[usize::from(count > 1)][items - 1];
                // SAFETY: `count` rows of W and scales, `items` of x and the output, where no
                // other block writes these rows.
                unsafe {
                    let (x, to) = (x[item * cols..].as_ptr(), out.at(item, row));
                    kernel(values.as_ptr(), scales, cols, x, cols, to, out.stride, out.add);
                }
                item += items;
            }
            row += count;
        }
    });
}

/// `Y = X W` (or `Y +=`) for a dense W.
pub(crate) fn dense_batch_transposed(isa: Isa, w: &Dense, x: &[f32], batch: usize, y: &mut [f32], add: bool) {
    let (rows, cols) = (w.rows, w.cols);
    assert_eq!((x.len(), y.len()), (batch * rows, batch * cols), "wrong length");
    if y.is_empty() || rows == 0 {
        return zero_unless(add, y);
    }
    let vectors = isa.group_vectors().min(cols.div_ceil(isa.lanes()));
    let width = vectors * isa.lanes();
    let out = Output { start: y.as_mut_ptr(), stride: cols, add };
    // Here a piece of W is the panel, and the items of X are the rows.
    each(cols.div_ceil(width), |stripe, (panel, sums): &mut (Scratch, Scratch)| {
        panel.grow(DENSE_TILE);
        sums.grow(MOST_ITEMS.min(batch) * width);
        let first = stripe * width;
        let here = width.min(cols - first);
        for first_item in (0..batch).step_by(MOST_ITEMS) {
            let items = MOST_ITEMS.min(batch - first_item);
            let sums = &mut sums.slice()[..items * width];
            sums.fill(0.0);
            for start in (0..rows).step_by(DENSE_TILE / width) {
                let len = (DENSE_TILE / width).min(rows - start);
                let panel = panel.slice();
                for r in 0..len {
                    let from = (start + r) * cols + first;
                    let to = &mut panel[r * width..r * width + here];
                    widen_row(isa, &w.values, start + r, from..from + here, to);
                }
                let values = (&x[first_item * rows + start..], rows);
                multiply_dense(isa, values, (items, len), panel, width, vectors, sums);
            }
            for (i, sums) in sums.chunks(width).enumerate() {
                // SAFETY: no other stripe writes these columns.
                let to = unsafe {
                    let to = out.at(first_item + i, first);
                    std::slice::from_raw_parts_mut(to, here)
                };
                if out.add {
                    to.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
                } else {
                    to.copy_from_slice(&sums[..here]);
                }
            }
        }
    });
}
