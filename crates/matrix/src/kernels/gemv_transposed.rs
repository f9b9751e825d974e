//! `y = Wᵀ x`: every row of W, times its number of x, is added to y.
//!
//! Rows are cut into a few parts by the size of the matrix alone; every part has its own sums, and
//! those are added in order: results do not depend on the number of threads.

#![allow(unsafe_code)] // std::arch loops: bounds are stated per function

use super::gemv::{GROUP, Rows, Scratch, Simd, fork, rearrange, split};
use crate::Element;
use crate::values::with_values;

/// Bytes of a part: large against the sums that it adds.
const BYTES_PER_PART: usize = 1 << 20;
/// The most parts, and so the most threads that can help.
const MOST_PARTS: usize = 16;

/// `y = Wᵀ x` with the kernels of a given instruction set.
pub(super) fn apply_with(simd: Simd, w: Rows<'_>, x: &[f32], y: &mut [f32]) {
    assert!(simd.is_available(), "this machine does not run {simd:?}");
    let (rows, cols) = w.shape();
    assert_eq!((x.len(), y.len()), (rows, cols), "wrong length");
    let parts = (w.bytes() / BYTES_PER_PART).min(rows / 64).clamp(1, MOST_PARTS);
    let width = cols.next_multiple_of(64);
    let mut sums = Scratch::new(parts * width);
    sums.fill(0.0);
    let mut work: Vec<(usize, &mut [f32])> = sums.chunks_mut(width.max(1)).enumerate().collect();
    let wide = simd == Simd::Avx512 && matches!(w, Rows::Dense(_) | Rows::Bitmask(_));
    fork(&mut work, &|(i, sums)| {
        let (start, end) = (w.boundary(rows, *i, parts), w.boundary(rows, *i + 1, parts));
        match w {
            #[cfg(target_arch = "x86_64")]
            _ if wide => vectors::add_rows(w, start..end, x, sums),
            _ => add_rows(w, start..end, x, &mut sums[..cols]),
        }
    });
    let Some((first, rest)) = sums.split_at_mut_checked(width).filter(|(f, _)| !f.is_empty()) else {
        return;
    };
    for part in rest.chunks(width) {
        first.iter_mut().zip(part).for_each(|(a, b)| *a += b);
    }
    match if wide { split(w.values().value_type()) } else { 1 } {
        1 => y.copy_from_slice(&first[..cols]),
        split => rearrange(split, first, y),
    }
}

/// Adds rows one after another.
fn add_rows(w: Rows<'_>, rows: std::ops::Range<usize>, x: &[f32], sums: &mut [f32]) {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for r in rows {
        match w {
            Rows::Dense(w) => with_values!(&w.values, |v, scales| {
                let x = x[r] * scales.map_or(1.0, |s| s[r]);
                add_dense(&v[r * w.cols..(r + 1) * w.cols], x, sums);
            }),
            Rows::Csr(w) => with_values!(&w.values, |v, scales| {
                let row = w.offsets[r] as usize..w.offsets[r + 1] as usize;
                let x = x[r] * scales.map_or(1.0, |s| s[r]);
                for (&c, v) in w.indices[row.clone()].iter().zip(&v[row]) {
                    sums[c as usize] += v.widen() * x;
                }
            }),
            Rows::Bitmask(w) if w.cols > 1 << 16 => w.row(r).for_each(|(c, v)| sums[c] += v * x[r]),
            Rows::NofM(w) if w.cols > 1 << 16 => w.row(r).for_each(|(c, v)| sums[c] += v * x[r]),
            Rows::Bitmask(_) | Rows::NofM(_) => {
                columns.clear();
                values.clear();
                match w {
                    Rows::Bitmask(w) => w.unpack_row(r, &mut columns, &mut values),
                    Rows::NofM(w) => w.unpack_row(r, &mut columns, &mut values),
                    _ => {}
                }
                for (&c, v) in columns.iter().zip(&values) {
                    sums[c as usize] += v * x[r];
                }
            }
        }
    }
}

fn add_dense<T: Element>(w: &[T], x: f32, sums: &mut [f32]) {
    for (s, w) in sums.iter_mut().zip(w) {
        *s += w.widen() * x;
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    //! AVX-512, four rows at a time; sums are arranged as the kernels widen.
    use std::arch::x86_64::*;

    use super::super::gemv_avx512::Lane;
    use super::*;

    /// Adds rows `rows`, the first a multiple of [`GROUP`].
    pub(super) fn add_rows(w: Rows<'_>, rows: std::ops::Range<usize>, x: &[f32], sums: &mut [f32]) {
        with_values!(w.values(), |values, scales| {
            let mut next = match w {
                Rows::Bitmask(w) => w.starts[rows.start / GROUP] as usize,
                _ => 0,
            };
            for first in rows.clone().step_by(GROUP) {
                let count = GROUP.min(rows.end - first);
                let mut inputs = [0.0; GROUP];
                for r in 0..count {
                    inputs[r] = x[first + r] * scales.map_or(1.0, |s| s[first + r] / 16_777_216.0);
                }
                // SAFETY: only called where AVX-512 is there; a bitmask has a value per bit.
                unsafe {
                    match w {
                        Rows::Dense(w) if count == GROUP => {
                            let values = &values[first * w.cols..(first + GROUP) * w.cols];
                            dense::<_, GROUP>(values, w.cols, inputs, sums);
                        }
                        Rows::Dense(w) => {
                            for r in 0..count {
                                let values = &values[(first + r) * w.cols..(first + r + 1) * w.cols];
                                dense::<_, 1>(values, w.cols, [inputs[r]], sums);
                            }
                        }
                        Rows::Bitmask(w) => {
                            let g = first / GROUP;
                            next += bitmask(w.masks_of(g..g + 1), &values[next..], inputs, sums);
                        }
                        _ => unreachable!("other kinds have no vector form"),
                    }
                }
            }
        });
    }

    /// # Safety
    /// The instruction set must be there.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2"
    )]
    unsafe fn dense<T: Lane, const R: usize>(w: &[T], cols: usize, x: [f32; R], sums: &mut [f32]) {
        assert!(w.len() == R * cols && sums.len() == cols.next_multiple_of(64), "wrong length");
        let vectors = T::LANES / 16;
        let mut column = 0;
        for sums in sums.chunks_exact_mut(16 * vectors) {
            let left = cols.saturating_sub(column) * size_of::<T>();
            // SAFETY: numbers beyond the row are masked; a chunk of sums has `vectors` vectors.
            unsafe {
                let mut s: [__m512; 4] = [_mm512_setzero_ps(); 4];
                for k in 0..vectors {
                    s[k] = _mm512_loadu_ps(sums.as_ptr().add(16 * k));
                }
                for r in 0..R {
                    let at = w.as_ptr().wrapping_add(r * cols + column).cast::<i8>();
                    let line = if left >= 64 {
                        _mm512_loadu_si512(at.cast())
                    } else {
                        _mm512_maskz_loadu_epi8((1 << left) - 1, at)
                    };
                    let v = T::widen_line(line);
                    for k in 0..vectors {
                        s[k] = _mm512_fmadd_ps(v[k], _mm512_set1_ps(x[r]), s[k]);
                    }
                }
                for k in 0..vectors {
                    _mm512_storeu_ps(sums.as_mut_ptr().add(16 * k), s[k]);
                }
            }
            column += 16 * vectors;
        }
    }

    /// Adds a group of rows; gives the number of values it had.
    ///
    /// # Safety
    /// The instruction set must be there, with a value per bit and a readable line after the last.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2"
    )]
    unsafe fn bitmask<T: Lane>(masks: &[u64], values: &[T], x: [f32; GROUP], sums: &mut [f32]) -> usize {
        assert!(masks.len() * 64 == sums.len() * GROUP, "wrong length");
        let vectors = T::LANES / 16;
        let mut next = 0;
        for (masks, sums) in masks.chunks_exact(GROUP).zip(sums.chunks_exact_mut(64)) {
            // SAFETY: by contract; a chunk of sums has four vectors.
            unsafe {
                let mut s: [__m512; 4] = std::array::from_fn(|k| _mm512_loadu_ps(sums.as_ptr().add(16 * k)));
                for r in 0..GROUP {
                    for l in 0..4 / vectors {
                        let mask = masks[r] >> (l * T::LANES) & (u64::MAX >> (64 - T::LANES));
                        let line = _mm512_loadu_si512(values.as_ptr().add(next).cast());
                        let v = T::widen_line(T::expand(mask, line));
                        for k in 0..vectors {
                            let i = l * vectors + k;
                            s[i] = _mm512_fmadd_ps(v[k], _mm512_set1_ps(x[r]), s[i]);
                        }
                        next += mask.count_ones() as usize;
                    }
                }
                for k in 0..4 {
                    _mm512_storeu_ps(sums.as_mut_ptr().add(16 * k), s[k]);
                }
            }
        }
        next
    }
}
