//! Batched products with dense matrices.

#![allow(unsafe_code)] // calls the kernels of `simd` and shares the output between threads

use super::panel::{Output, Panel, Scratch, each};
use super::simd::{DOT_ITEMS, DOT_ROWS, Dots, GROUP, GroupTile, Isa, prefetch, transpose};
use super::{DENSE_ROWS, DENSE_TILE, FEW_ITEMS, FEW_NARROW_ITEMS, MOST_ITEMS, zero_unless};
use crate::values::with_values;
use crate::{Dense, Element, ValueType, Values};

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
