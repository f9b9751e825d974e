//! Dense blocks along the diagonal, all of one shape.

use crate::kernels::gemv::Scratch;
use crate::{Dense, Layout, LinearMap, ValueType, Values};

/// A `rows x cols` matrix of `B` dense blocks along its diagonal: output block `b` sees input block `b` only.
///
/// The small dictionaries of DSFormer, one per 64 inputs, are such a factor.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockDiagonal {
    /// All of one shape; at least one.
    blocks: Vec<Dense>,
}

impl BlockDiagonal {
    /// Stores the blocks' rows one after another: `data` is `rows x (cols / blocks)`.
    ///
    /// # Panics
    /// If `blocks` does not divide `rows` and `cols`, or `data` has another length.
    pub fn from_f32(rows: usize, cols: usize, blocks: usize, data: &[f32], values: ValueType) -> Self {
        assert!(
            blocks > 0 && rows.is_multiple_of(blocks) && cols.is_multiple_of(blocks),
            "{blocks} blocks in {rows} x {cols}"
        );
        let (height, width) = (rows / blocks, cols / blocks);
        assert_eq!(data.len(), rows * width, "a block-diagonal matrix needs {} numbers", rows * width);
        let block = |b: usize| {
            let piece = &data[b * height * width..(b + 1) * height * width];
            Dense::from_f32(height, width, piece, values)
        };
        Self { blocks: (0..blocks).map(block).collect() }
    }

    /// From the values as they stand in a file, `rows x (cols / blocks)`; the shapes fit.
    pub(crate) fn from_stored(stacked: &Dense, blocks: usize) -> Self {
        let height = stacked.rows / blocks;
        let block = |b: usize| {
            let values = stacked.values.slice(
                b * height * stacked.cols..(b + 1) * height * stacked.cols,
                b * height..(b + 1) * height,
            );
            Dense { rows: height, cols: stacked.cols, values }
        };
        Self { blocks: (0..blocks).map(block).collect() }
    }

    /// The values as they stand in a file.
    pub(crate) fn stacked(&self) -> Dense {
        let (height, width) = self.block_shape();
        let values = Values::concat(self.blocks.iter().map(|b| &b.values));
        Dense { rows: height * self.blocks.len(), cols: width, values }
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Rows and columns of a block.
    pub fn block_shape(&self) -> (usize, usize) {
        (self.blocks[0].rows, self.blocks[0].cols)
    }

    /// `apply(block, its piece of x, its piece of y)` for pieces of the given lengths.
    fn each(
        &self,
        x: &[f32],
        y: &mut [f32],
        (from, to): (usize, usize),
        apply: impl Fn(&Dense, &[f32], &mut [f32]),
    ) {
        assert_eq!((x.len(), y.len()), (from * self.blocks.len(), to * self.blocks.len()), "wrong length");
        for (b, block) in self.blocks.iter().enumerate() {
            apply(block, &x[b * from..(b + 1) * from], &mut y[b * to..(b + 1) * to]);
        }
    }

    /// The same for a batch, whose pieces are brought together and apart again.
    fn each_batch(
        &self,
        x: &[f32],
        batch: usize,
        y: &mut [f32],
        (from, to): (usize, usize),
        apply: impl Fn(&Dense, &[f32], &mut [f32]),
    ) {
        let count = self.blocks.len();
        assert_eq!((x.len(), y.len()), (batch * from * count, batch * to * count), "wrong length");
        let (mut inputs, mut outputs) = (Scratch::new(batch * from), Scratch::new(batch * to));
        for (b, block) in self.blocks.iter().enumerate() {
            for i in 0..batch {
                let start = (i * count + b) * from;
                inputs[i * from..(i + 1) * from].copy_from_slice(&x[start..start + from]);
            }
            apply(block, &inputs, &mut outputs);
            for i in 0..batch {
                let start = (i * count + b) * to;
                y[start..start + to].copy_from_slice(&outputs[i * to..(i + 1) * to]);
            }
        }
    }
}

impl LinearMap for BlockDiagonal {
    fn layout(&self) -> Layout {
        let (rows, cols) = (self.rows(), self.cols());
        Layout::BlockDiagonal {
            rows,
            cols,
            blocks: self.blocks.len(),
            values: self.blocks[0].values.value_type(),
        }
    }
    fn rows(&self) -> usize {
        self.blocks.len() * self.blocks[0].rows
    }
    fn cols(&self) -> usize {
        self.blocks.len() * self.blocks[0].cols
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        let (height, width) = self.block_shape();
        self.each(x, y, (width, height), |block, x, y| block.apply(x, y));
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        let (height, width) = self.block_shape();
        self.each_batch(x, batch, y, (width, height), |block, x, y| block.apply_batch(x, batch, y));
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        self.each(x, y, self.block_shape(), |block, x, y| block.apply_transposed(x, y));
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        let shape = self.block_shape();
        self.each_batch(x, batch, y, shape, |block, x, y| block.apply_transposed_batch(x, batch, y));
    }
    fn to_dense(&self) -> Vec<f32> {
        let (height, width) = self.block_shape();
        let cols = self.cols();
        let mut out = vec![0.0; self.rows() * cols];
        for (b, block) in self.blocks.iter().enumerate() {
            for r in 0..height {
                let start = (b * height + r) * cols + b * width;
                block.row_into(r, &mut out[start..start + width]);
            }
        }
        out
    }
}
