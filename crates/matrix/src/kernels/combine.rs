//! Weighted sums of a few rows of a dense matrix: the product with a vector that has few non-zeros.
//!
//! Only the chosen rows are read. Eight of them share each pass over the outputs, whose piece stays in the
//! first cache; threads split the outputs, so that every output is summed by one thread in one order.

use rayon::prelude::*;

use crate::values::{Element, with_values};
use crate::{Dense, Values};

/// Outputs of a piece: 8 KiB of f32.
const PIECE: usize = 2048;

/// Rows that share a pass.
const TOGETHER: usize = 8;

/// Fewer bytes than this do not keep one more thread busy for the time it takes to wake it.
const BYTES_PER_THREAD: usize = 512 << 10;

crate::vectorised! {
    /// `y = sum_i factor_i rows[row_i][start..]`.
    fn combine<E: Element>(rows: &[E], cols: usize, picks: &[(u32, f32)], start: usize, y: &mut [f32]) {
        y.fill(0.0);
        let len = y.len();
        let row = |pick: &(u32, f32)| &rows[pick.0 as usize * cols + start..][..len];
        let mut groups = picks.chunks_exact(TOGETHER);
        for group in &mut groups {
            let r: [&[E]; TOGETHER] = std::array::from_fn(|i| row(&group[i]));
            let f: [f32; TOGETHER] = std::array::from_fn(|i| group[i].1);
            for (o, y) in y.iter_mut().enumerate() {
                let low = (f[0] * r[0][o].widen() + f[1] * r[1][o].widen()) + (f[2] * r[2][o].widen() + f[3] * r[3][o].widen());
                let high = (f[4] * r[4][o].widen() + f[5] * r[5][o].widen()) + (f[6] * r[6][o].widen() + f[7] * r[7][o].widen());
                *y += low + high;
            }
        }
        for pick in groups.remainder() {
            for (y, v) in y.iter_mut().zip(row(pick)) {
                *y += pick.1 * v.widen();
            }
        }
    }
}

/// `y = sum_i factor_i W[row_i]`.
pub(crate) fn rows(w: &Dense, picks: &[(u32, f32)], y: &mut [f32]) {
    let scaled: Vec<(u32, f32)>;
    let picks = match &w.values {
        Values::I8 { scales, .. } => {
            scaled = picks.iter().map(|&(row, factor)| (row, factor * scales[row as usize])).collect();
            &scaled[..]
        }
        _ => picks,
    };
    let bytes = picks.len() * w.cols * w.values.value_type().bytes();
    with_values!(&w.values, |v, _s| {
        if bytes < 2 * BYTES_PER_THREAD || rayon::current_num_threads() == 1 {
            for (i, y) in y.chunks_mut(PIECE).enumerate() {
                combine(v, w.cols, picks, i * PIECE, y);
            }
        } else {
            let piece = PIECE.min(w.cols.div_ceil(rayon::current_num_threads()).next_multiple_of(64));
            y.par_chunks_mut(piece).enumerate().for_each(|(i, y)| combine(v, w.cols, picks, i * piece, y));
        }
    });
}
