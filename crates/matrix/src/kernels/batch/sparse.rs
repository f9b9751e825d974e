//! Batched products with sparse matrices.

#![allow(unsafe_code)] // calls the kernels of `simd` and shares the output between threads

use rayon::prelude::*;

use super::block::{Block, tile_columns, tile_ranges};
use super::panel::{Output, Panel, Scratch, each};
use super::simd::{GROUP, Isa, MAX_VECTORS, ScatterTile, transpose};
use super::{
    BLOCK_ENTRIES, MOST_ITEMS, Rows, SHARED_TILES, SORT_ENTRIES, SORT_ITEMS, VERY_SPARSE_TILES, zero_unless,
};

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
