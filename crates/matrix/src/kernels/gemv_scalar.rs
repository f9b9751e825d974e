//! Products with one vector, plain Rust: the twins of the SIMD kernels and the path of other machines.

use super::gemv::{GROUP, NofMShape};
use crate::Element;

/// Eight sums, so that the compiler may use vectors.
fn dot<T: Element>(w: &[T], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (w8, x8) = (w.chunks_exact(8), x.chunks_exact(8));
    let tail: f32 = w8.remainder().iter().zip(x8.remainder()).map(|(w, x)| w.widen() * x).sum();
    for (w, x) in w8.zip(x8) {
        for i in 0..8 {
            sums[i] += w[i].widen() * x[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `y = W x`, dense rows.
pub(super) fn dense<T: Element>(w: &[T], x: &[f32], cols: usize, y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = dot(&w[r * cols..(r + 1) * cols], &x[..cols]);
    }
}

/// `y = W x`, groups of a bitmask.
pub(super) fn bitmask<T: Element>(masks: &[u64], values: &[T], x: &[f32], y: &mut [f32]) {
    let blocks = x.len() / 64;
    let mut next = 0;
    for (g, y) in y.chunks_mut(GROUP).enumerate() {
        let masks = &masks[g * GROUP * blocks..(g + 1) * GROUP * blocks];
        let mut sums = [0.0f32; GROUP];
        for (masks, x) in masks.chunks_exact(GROUP).zip(x.chunks_exact(64)) {
            for r in 0..GROUP {
                let mut mask = masks[r];
                while mask != 0 {
                    sums[r] += values[next].widen() * x[mask.trailing_zeros() as usize];
                    next += 1;
                    mask &= mask - 1;
                }
            }
        }
        y.copy_from_slice(&sums[..y.len()]);
    }
}

/// `y = W x`, groups of an N:M matrix.
pub(super) fn n_of_m<T: Element>(
    shape: &NofMShape<'_>,
    codes: &[u32],
    values: &[T],
    x: &[f32],
    y: &mut [f32],
) {
    let (words, span) = (shape.code_words(), shape.units * 64);
    for (g, y) in y.chunks_mut(GROUP).enumerate() {
        let (codes, values) = (&codes[g * words..(g + 1) * words], &values[g * span..(g + 1) * span]);
        for (r, y) in y.iter_mut().enumerate() {
            *y = (0..16 * shape.units)
                .map(|i| values[shape.position::<T>(r, i)].widen() * x[shape.column(codes, r, i)])
                .sum();
        }
    }
}

/// `y = W x`, compressed rows.
pub(super) fn csr<T: Element>(offsets: &[u32], indices: &[u16], values: &[T], x: &[f32], y: &mut [f32]) {
    for (bounds, y) in offsets.windows(2).zip(y) {
        let row = bounds[0] as usize..bounds[1] as usize;
        *y = indices[row.clone()].iter().zip(&values[row]).map(|(&c, w)| w.widen() * x[c as usize]).sum();
    }
}
