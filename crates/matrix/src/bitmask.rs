//! Bitmask matrices: one bit per entry and the non-zero values.

use bytemuck::Pod;

use crate::kernels::{self, gemv::GROUP};
use crate::values::{Permute, with_values};
use crate::{Buffer, Element, Layout, LinearMap, ValueType, Values};

/// A sparse matrix that stores one bit per entry and the values whose bit is set. The best layout
/// for products with one vector between about 30 and 85 % zeros.
///
/// Files hold the canonical form: per row `ceil(cols / 8)` mask bytes (column `c` is bit `c % 8`
/// of byte `c / 8`) and the values of all rows one after another.
///
/// In memory rows stand in groups of four, padded with empty rows, and columns in blocks of 64: a
/// group is, block by block, four 64-bit masks in one stream and the values of the four rows in
/// another. A product walks both streams from front to back.
#[derive(Debug, Clone, PartialEq)]
pub struct Bitmask {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) nonzeros: usize,
    /// `ceil(rows / 4) x ceil(cols / 64) x 4`: bit `c` of a mask is column `c` of its block.
    pub(crate) masks: Buffer<u64>,
    /// Position of each group's first value, and their number.
    pub(crate) starts: Buffer<u32>,
    /// The values and a line of zeros, so that kernels may load a line anywhere.
    pub(crate) values: Values,
}

/// The bytes of one row's mask as 64-bit words.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(8).map(|b| {
        let mut word = [0; 8];
        word[..b.len()].copy_from_slice(b);
        u64::from_le_bytes(word)
    })
}

/// Brings values between row after row and the order of [`Bitmask`].
struct Interleave<'a> {
    masks: &'a [u64],
    offsets: &'a [usize],
    blocks: usize,
    /// Into the packed order, or out of it.
    pack: bool,
}

impl Permute for Interleave<'_> {
    fn permute<T: Pod>(&self, from: &[T]) -> Buffer<T> {
        let nonzeros = self.offsets[self.offsets.len() - 1];
        let pad = if self.pack { 64 / size_of::<T>() } else { 0 };
        let mut out = Buffer::<T>::zeros(nonzeros + pad);
        let mut packed = 0;
        for (g, masks) in self.masks.chunks(GROUP * self.blocks.max(1)).enumerate() {
            let first: [usize; GROUP] =
                std::array::from_fn(|r| self.offsets[(g * GROUP + r).min(self.offsets.len() - 1)]);
            let mut next = first;
            for masks in masks.chunks_exact(GROUP) {
                for r in 0..GROUP {
                    let count = masks[r].count_ones() as usize;
                    let (a, b) = (next[r]..next[r] + count, packed..packed + count);
                    if self.pack {
                        out[b].copy_from_slice(&from[a]);
                    } else {
                        out[a].copy_from_slice(&from[b]);
                    }
                    next[r] += count;
                    packed += count;
                }
            }
        }
        out
    }
}

impl Bitmask {
    /// The non-zeros of row-major `data`.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers, or has 2^32 non-zeros or more.
    pub fn from_dense(rows: usize, cols: usize, data: &[f32], values: ValueType) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        let stride = cols.div_ceil(8);
        let mut mask = vec![0u8; rows * stride];
        let (mut offsets, mut kept) = (vec![0usize], Vec::new());
        for r in 0..rows {
            let row = &data[r * cols..(r + 1) * cols];
            for (byte, row) in mask[r * stride..(r + 1) * stride].iter_mut().zip(row.chunks(8)) {
                for (i, &w) in row.iter().enumerate() {
                    *byte |= u8::from(w != 0.0) << i;
                }
                kept.extend(row.iter().filter(|&&w| w != 0.0));
            }
            offsets.push(kept.len());
        }
        Self::pack(rows, cols, &mask, &Values::encode(values, &kept, &offsets))
    }

    /// From the canonical form. No bit beyond `cols` may be set; `values` are as many as bits.
    pub(crate) fn pack(rows: usize, cols: usize, mask: &[u8], values: &Values) -> Self {
        let (stride, blocks) = (cols.div_ceil(8), cols.div_ceil(64));
        let groups = rows.div_ceil(GROUP);
        let mut masks = Buffer::<u64>::zeros(groups * blocks * GROUP);
        let mut offsets = vec![0usize; rows + 1];
        for r in 0..rows {
            let mut count = 0;
            for (b, word) in words(&mask[r * stride..(r + 1) * stride]).enumerate() {
                masks[(r / GROUP * blocks + b) * GROUP + r % GROUP] = word;
                count += word.count_ones() as usize;
            }
            offsets[r + 1] = offsets[r] + count;
        }
        assert_eq!(values.len(), offsets[rows], "a bitmask needs a value per bit");
        assert!(u32::try_from(offsets[rows]).is_ok(), "more than 2^32 non-zeros");
        let starts = (0..=groups).map(|g| offsets[(g * GROUP).min(rows)] as u32).collect();
        let values = values.permuted(&Interleave { masks: &masks, offsets: &offsets, blocks, pack: true });
        Self { rows, cols, nonzeros: offsets[rows], masks, starts, values }
    }

    /// The canonical form: mask bytes and values.
    pub(crate) fn unpack(&self) -> (Vec<u8>, Values) {
        let (stride, blocks) = (self.cols.div_ceil(8), self.cols.div_ceil(64));
        let mut mask = vec![0u8; self.rows * stride];
        let mut offsets = vec![0usize; self.rows + 1];
        for r in 0..self.rows {
            offsets[r + 1] = offsets[r];
            for (b, bytes) in mask[r * stride..(r + 1) * stride].chunks_mut(8).enumerate() {
                let word = self.mask(r, b);
                bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
                offsets[r + 1] += word.count_ones() as usize;
            }
        }
        let order = Interleave { masks: &self.masks, offsets: &offsets, blocks, pack: false };
        (mask, self.values.permuted(&order))
    }

    /// The number of stored entries.
    pub fn nonzeros(&self) -> usize {
        self.nonzeros
    }

    fn blocks(&self) -> usize {
        self.cols.div_ceil(64)
    }

    /// The mask of columns `64 block..` of a row.
    fn mask(&self, row: usize, block: usize) -> u64 {
        self.masks[(row / GROUP * self.blocks() + block) * GROUP + row % GROUP]
    }

    /// The masks of some groups.
    pub(crate) fn masks_of(&self, groups: std::ops::Range<usize>) -> &[u64] {
        let group = GROUP * self.blocks();
        &self.masks[groups.start * group..groups.end * group]
    }

    /// The blocks of a row: block, mask, position of the first value.
    fn row_blocks(&self, row: usize) -> impl Iterator<Item = (usize, u64, usize)> + '_ {
        let g = row / GROUP;
        let mut next = self.starts[g] as usize;
        self.masks_of(g..g + 1).chunks_exact(GROUP).enumerate().map(move |(b, masks)| {
            let bits = |masks: &[u64]| masks.iter().map(|m| m.count_ones() as usize).sum::<usize>();
            let first = next + bits(&masks[..row % GROUP]);
            next += bits(masks);
            (b, masks[row % GROUP], first)
        })
    }

    /// The entries of row `row`: column and value.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.row_blocks(row).flat_map(move |(b, mut mask, first)| {
            (first..first + mask.count_ones() as usize).map(move |i| {
                let c = 64 * b + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                (c, self.values.get(row, i))
            })
        })
    }

    /// Appends the columns and values (scale applied) of `row`, of a matrix with at most 65 536
    /// columns, in rising order.
    pub(crate) fn unpack_row(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let bits = |masks: &[u64]| masks.iter().map(|m| m.count_ones() as usize).sum::<usize>();
        let (g, r) = (row / GROUP, row % GROUP);
        let masks = self.masks_of(g..g + 1);
        let mut bytes = Vec::with_capacity(8 * self.blocks());
        for masks in masks.chunks_exact(GROUP) {
            bytes.extend_from_slice(&masks[r].to_le_bytes());
        }
        let at = columns.len();
        columns.resize(at + self.cols + 32, 0);
        let count = kernels::positions(&bytes, &mut columns[at..]);
        columns.truncate(at + count);
        with_values!(&self.values, |v, scales| {
            let scale = scales.map_or(1.0, |s| s[row]);
            let mut next = self.starts[g] as usize;
            for masks in masks.chunks_exact(GROUP) {
                let first = next + bits(&masks[..r]);
                let here = first..first + masks[r].count_ones() as usize;
                values.extend(v[here].iter().map(|v| v.widen() * scale));
                next += bits(masks);
            }
        });
    }
}

impl LinearMap for Bitmask {
    fn layout(&self) -> Layout {
        Layout::Bitmask {
            rows: self.rows,
            cols: self.cols,
            values: self.values.value_type(),
            nonzeros: self.nonzeros(),
        }
    }
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply(kernels::gemv::Rows::Bitmask(self), x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply_transposed(kernels::gemv::Rows::Bitmask(self), x, y);
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for r in 0..self.rows {
            for (c, w) in self.row(r) {
                out[r * self.cols + c] = w;
            }
        }
        out
    }
}
