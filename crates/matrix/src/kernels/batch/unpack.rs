//! Unpacking rows of the interleaved forms to columns and f32 values, with AVX-512.
//!
//! [`Bitmask::unpack_row`] and [`NofM::unpack_row`] are the scalar twins.

#![allow(unsafe_code)] // std::arch; stores run over the end of a row into reserved space

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use half::{bf16, f16};

use super::super::gemv::{GROUP, NofMShape};
use super::simd::prefetch;
use crate::values::with_values;
use crate::{Bitmask, Element, NofM};

/// Whether this machine has what the kernels below need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi2")
}

/// Numbers that are loaded sixteen at a time.
trait Wide: Element {
    /// Those of 16 consecutive numbers whose bit is set, zero elsewhere.
    ///
    /// # Safety
    /// The numbers whose bit is set must be readable; AVX-512 F/BW/VL must be there.
    unsafe fn load(p: *const Self, mask: __mmask16) -> __m512;
    /// Number `part` of each of 16 words that hold several.
    ///
    /// # Safety
    /// AVX-512 F/BW/VL must be there.
    unsafe fn part(words: __m512i, part: usize) -> __m512;
}

macro_rules! wide {
    ($type:ty, |$p:ident, $mask:ident| $load:expr, |$words:ident, $part:ident| $split:expr) => {
        impl Wide for $type {
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            unsafe fn load($p: *const Self, $mask: __mmask16) -> __m512 {
                // SAFETY: only numbers whose bit is set are read.
                unsafe { $load }
            }
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            unsafe fn part($words: __m512i, $part: usize) -> __m512 {
                $split
            }
        }
    };
}
wide!(f32, |p, mask| _mm512_maskz_loadu_ps(mask, p), |words, _part| _mm512_castsi512_ps(words));
wide!(
    bf16,
    |p, mask| {
        let v = _mm256_maskz_loadu_epi16(mask, p.cast());
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
    },
    |words, part| {
        let shift = _mm_cvtsi32_si128(16 - 16 * part as i32);
        let high = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_sll_epi32(words, shift), high))
    }
);
wide!(f16, |p, mask| _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())), |words, part| {
    let words = _mm512_srl_epi32(words, _mm_cvtsi32_si128(16 * part as i32));
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
});
wide!(
    i8,
    |p, mask| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, p))),
    |words, part| {
        let words = _mm512_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * part as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(words))
    }
);

/// A part of the next group's stream to fetch while `row` is unpacked: each row reads its own
/// lines only, at distances that no hardware prefetcher likes.
fn quarter<T>(stream: &[T], row: usize) -> &[T] {
    let (r, len) = (row % GROUP, stream.len());
    &stream[len * r / GROUP..len * (r + 1) / GROUP]
}

/// Appends the columns and values of `row`.
///
/// # Panics
/// If [`available`] is not true, or there are more than 65 536 columns.
pub(super) fn bitmask(w: &Bitmask, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
    assert!(available() && w.cols <= 1 << 16, "not for this machine or matrix");
    let g = row / GROUP;
    let masks = w.masks_of(g..g + 1);
    let bits = |r: usize| masks.chunks_exact(GROUP).map(|m| m[r].count_ones() as usize).sum::<usize>();
    let count = bits(row % GROUP);
    // The last block of a row stores up to 64 numbers from where its own start.
    columns.reserve(count + 64);
    values.reserve(count + 64);
    // A usual block takes this many vectors; more are the exception.
    let usual = (count * 64 / w.cols.max(1) + 8).div_ceil(16).clamp(1, 4);
    with_values!(&w.values, |v, scales| {
        if let Some(&end) = w.starts.get(g + 2) {
            prefetch(quarter(&v[w.starts[g + 1] as usize..end as usize], row));
            prefetch(quarter(w.masks_of(g + 1..g + 2), row));
        }
        let v = &v[w.starts[g] as usize..w.starts[g + 1] as usize];
        let scale = scales.map_or(1.0, |s| s[row]);
        // SAFETY: the features are there; space was reserved, and `count` numbers of each are
        // written; the values of the group are as many as its bits.
        unsafe {
            let (to, out) = (columns.as_mut_ptr().add(columns.len()), values.as_mut_ptr().add(values.len()));
            bitmask_row(masks, row % GROUP, v, scale, usual, to, out);
        }
    });
    // SAFETY: see above.
    unsafe {
        columns.set_len(columns.len() + count);
        values.set_len(values.len() + count);
    }
}

/// # Safety
/// `columns` and `out` must have room for 64 more than the bits of row `r`; `values` are as many
/// as the bits of all rows; the features must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt,bmi2")]
unsafe fn bitmask_row<T: Wide>(
    masks: &[u64],
    r: usize,
    values: &[T],
    scale: f32,
    usual: usize,
    mut columns: *mut u16,
    mut out: *mut f32,
) {
    let scale = _mm512_set1_ps(scale);
    let lanes: [u16; 32] = std::array::from_fn(|i| i as u16);
    // SAFETY: an array of 64 bytes; the others by contract, since each store starts at a number
    // of the row and loads are masked to its numbers.
    unsafe {
        let (mut low, step) = (_mm512_loadu_epi16(lanes.as_ptr().cast()), _mm512_set1_epi16(32));
        let mut next = values.as_ptr();
        for masks in masks.chunks_exact(GROUP) {
            let mask = masks[r];
            let counts: [usize; GROUP] = std::array::from_fn(|i| masks[i].count_ones() as usize);
            let before: usize = (0..GROUP).map(|i| if i < r { counts[i] } else { 0 }).sum();
            let from = next.wrapping_add(before);
            let mut i = 0;
            while i < 16 * usual || i < counts[r] {
                let present = _bzhi_u32(0xFFFF, counts[r].saturating_sub(i) as u32) as __mmask16;
                let v = T::load(from.wrapping_add(i), present);
                _mm512_storeu_ps(out.wrapping_add(i), _mm512_mul_ps(v, scale));
                i += 16;
            }
            let high = _mm512_add_epi16(low, step);
            _mm512_storeu_epi16(columns.cast(), _mm512_maskz_compress_epi16(mask as u32, low));
            let columns_high = columns.wrapping_add((mask as u32).count_ones() as usize);
            let mask_high = (mask >> 32) as u32;
            _mm512_storeu_epi16(columns_high.cast(), _mm512_maskz_compress_epi16(mask_high, high));
            low = _mm512_add_epi16(high, step);
            columns = columns.wrapping_add(counts[r]);
            out = out.wrapping_add(counts[r]);
            next = next.wrapping_add(counts.iter().sum());
        }
    }
}

/// Appends the columns and values of `row`.
///
/// # Panics
/// If [`available`] is not true, or there are more than 65 536 columns.
pub(super) fn nofm(w: &NofM, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
    assert!(available() && w.cols <= 1 << 16, "not for this machine or matrix");
    let (shape, r, g) = (w.shape(), row % GROUP, row / GROUP);
    let share = shape.share(w.values.value_type());
    if share != 1 && share * w.values.value_type().bytes() != 4 {
        return w.unpack_row(row, columns, values);
    }
    let (units, words) = (shape.units, shape.code_words());
    let count = w.cols.div_ceil(w.m) * w.n;
    let codes = &w.codes[g * words..(g + 1) * words];
    assert!(shape.bases.len() >= 16 * units, "too few bases");
    columns.reserve(16 * units);
    values.reserve(16 * units);
    let (to, out) = (columns.spare_capacity_mut(), values.spare_capacity_mut());
    // SAFETY: the features are there.
    unsafe { nofm_columns(&shape, codes, r, &mut to[..16 * units]) };
    with_values!(&w.values, |v, scales| {
        if v.len() >= (g + 2) * units * 64 {
            prefetch(quarter(&v[(g + 1) * units * 64..(g + 2) * units * 64], row));
            prefetch(quarter(&w.codes[(g + 1) * words..(g + 2) * words], row));
        }
        let v = &v[g * units * 64..(g + 1) * units * 64];
        let scale = scales.map_or(1.0, |s| s[row]);
        // SAFETY: the features are there; `out` has room for `16 * units`.
        unsafe { nofm_values(v, r, share, scale, &mut out[..16 * units]) };
    });
    // SAFETY: `16 * units` of both were written, and `count` is not more.
    unsafe {
        columns.set_len(columns.len() + count);
        values.set_len(values.len() + count);
    }
}

/// # Safety
/// The features must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn nofm_columns(shape: &NofMShape<'_>, codes: &[u32], r: usize, to: &mut [MaybeUninit<u16>]) {
    // Lanes of a half unit, should rows have their codes in lines.
    let lanes: [u32; 16] = std::array::from_fn(|i| (i % 8 * shape.bits) as u32);
    let mask = (1u32 << shape.bits) - 1;
    for (u, (to, bases)) in to.chunks_exact_mut(16).zip(shape.bases.chunks_exact(16)).enumerate() {
        let (word, shift) = shape.code_slot(r, 16 * u);
        let to = to.as_mut_ptr().cast::<u16>();
        // SAFETY: `to` and `bases` are 16 numbers long, and so are codes where read as such.
        unsafe {
            if shape.by_row {
                columns_by_row(codes[word], codes[word + 2], shift, &lanes, mask, bases, to);
            } else {
                columns_by_lane(&codes[word..word + 16], shift, mask, bases, to);
            }
        }
    }
}

/// # Safety
/// 16 codes and bases must be readable, 16 columns writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns_by_lane(codes: &[u32], shift: usize, mask: u32, bases: &[u32], to: *mut u16) {
    // SAFETY: by contract.
    unsafe {
        let codes = _mm512_loadu_epi32(codes.as_ptr().cast());
        let codes = _mm512_srl_epi32(codes, _mm_cvtsi32_si128(shift as i32));
        let codes = _mm512_and_si512(codes, _mm512_set1_epi32(mask as i32));
        let columns = _mm512_add_epi32(codes, _mm512_loadu_epi32(bases.as_ptr().cast()));
        _mm256_storeu_epi16(to.cast(), _mm512_cvtepi32_epi16(columns));
    }
}

/// # Safety
/// 16 bases must be readable, 16 columns writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns_by_row(
    low: u32,
    high: u32,
    shift: usize,
    lanes: &[u32; 16],
    mask: u32,
    bases: &[u32],
    to: *mut u16,
) {
    // SAFETY: by contract.
    unsafe {
        let codes = _mm512_mask_set1_epi32(_mm512_set1_epi32(low as i32), 0xFF00, high as i32);
        let codes = _mm512_srl_epi32(codes, _mm_cvtsi32_si128(shift as i32));
        let codes = _mm512_srlv_epi32(codes, _mm512_loadu_epi32(lanes.as_ptr().cast()));
        let codes = _mm512_and_si512(codes, _mm512_set1_epi32(mask as i32));
        let columns = _mm512_add_epi32(codes, _mm512_loadu_epi32(bases.as_ptr().cast()));
        _mm256_storeu_epi16(to.cast(), _mm512_cvtepi32_epi16(columns));
    }
}

/// # Safety
/// `values` are 64 a unit of 16 in `out`; `share` is 1 or the numbers in 32 bits; the features
/// must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn nofm_values<T: Wide>(
    values: &[T],
    r: usize,
    share: usize,
    scale: f32,
    out: &mut [MaybeUninit<f32>],
) {
    let scale = _mm512_set1_ps(scale);
    let first = r / share * 16 * share;
    for (out, unit) in out.chunks_exact_mut(16).zip(values.chunks_exact(64)) {
        let from = &unit[first..first + 16 * share];
        // SAFETY: `from` is 16 numbers, or 16 words of 32 bits; `out` is 16 numbers.
        unsafe {
            let v = if share == 1 {
                T::load(from.as_ptr(), 0xFFFF)
            } else {
                T::part(_mm512_loadu_si512(from.as_ptr().cast()), r % share)
            };
            _mm512_storeu_ps(out.as_mut_ptr().cast(), _mm512_mul_ps(v, scale));
        }
    }
}
