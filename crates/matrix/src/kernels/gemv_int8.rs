//! Products of int8 weights with one vector in integers, AVX-512 VNNI and VBMI.
//!
//! Widening int8 to f32 costs more than reading it, so x is turned into integers instead: 31-bit
//! fixed point with one scale (a power of two) for every [`BLOCK`] columns, cut into four digits
//! of 8 bits. One instruction multiplies 64 weights with one digit of their inputs and sums fours.
//! Sums are exact within a block. Rounding x errs by at most `2^-31 max|x|` of the block a term,
//! which is below the rounding of f32 sums unless inputs of a block differ by more than 10^3; a
//! block with an input that is not finite makes its rows NaN.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

use std::arch::x86_64::*;

use super::gemv::{GROUP, NofMShape, PREFETCH};
use super::gemv_avx512::{TILE_ROWS, WHOLE, next_span, tiles};

/// Columns with one scale: digit sums stay below 2^24 and convert to f32 exactly.
const BLOCK: usize = 1024;
/// Floats of scratch for the correction and scale of a block.
const EXTRA: usize = 80;

macro_rules! features {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2")]
        $vis unsafe fn $($rest)*
    };
}

/// Floats of scratch that hold the digits of `columns` inputs, a multiple of 64.
pub(super) fn scratch_len(columns: usize) -> usize {
    columns + columns.div_ceil(BLOCK) * EXTRA
}

/// The inputs in digits: per 64 columns four lines, the lowest digit first.
struct Digits<'a> {
    lines: &'a [i8],
    /// Per block, four lines of i32 where the sums of its digits start, and a line of its scale.
    extra: &'a [f32],
}

impl<'a> Digits<'a> {
    fn new(scratch: &'a [f32]) -> Self {
        let mut columns = scratch.len() / (BLOCK + EXTRA) * BLOCK;
        columns += (scratch.len() % (BLOCK + EXTRA)).saturating_sub(EXTRA);
        let (lines, extra) = scratch.split_at(columns);
        Self { lines: bytemuck::cast_slice(lines), extra }
    }

    /// The number of lines of 64 columns.
    fn steps(&self) -> usize {
        self.lines.len() / 256
    }
}

features! {
    /// Turns `x` into digits; `scratch` holds [`scratch_len`] floats. `signed` digits lie in
    /// -128..=127, to be multiplied by weights plus 128; others in 0..=255, the highest one plus 128.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn prepare(x: &[f32], signed: bool, scratch: &mut [f32]) {
        let columns = Digits::new(scratch).steps() * 64;
        let (lines, extra) = scratch.split_at_mut(columns);
        let lines: &mut [i8] = bytemuck::cast_slice_mut(lines);
        for (b, (lines, extra)) in lines.chunks_mut(4 * BLOCK).zip(extra.chunks_exact_mut(EXTRA)).enumerate() {
            let x = &x[(b * BLOCK).min(x.len())..((b + 1) * BLOCK).min(x.len())];
            let mask = |i: usize| match x.len().saturating_sub(i) {
                left @ 0..16 => (1u16 << left) - 1,
                _ => u16::MAX,
            };
            // SAFETY: loads beyond x are masked; every 64 columns have 256 bytes of lines, and a
            // block 80 floats of extra.
            unsafe {
                let mut top = _mm512_setzero_si512();
                for i in (0..x.len()).step_by(16) {
                    let v = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask(i), x.as_ptr().wrapping_add(i)));
                    top = _mm512_max_epu32(top, _mm512_and_si512(v, _mm512_set1_epi32(i32::MAX)));
                }
                // |x| < 2^(exponent - 126), to become at most 2^30.
                let exponent = _mm512_reduce_max_epu32(top) >> 23;
                let clamped = exponent.max(30);
                let scale = if exponent == 255 { f32::NAN } else { f32::from_bits((clamped - 29) << 23) };
                let factor = _mm512_set1_ps(f32::from_bits((283 - clamped.min(254)) << 23));
                let mut starts = [_mm512_setzero_si512(); 4];
                for i in (0..lines.len() / 4).step_by(16) {
                    let v = _mm512_maskz_loadu_ps(mask(i), x.as_ptr().wrapping_add(i));
                    let mut v = _mm512_cvtps_epi32(_mm512_mul_ps(v, factor));
                    for k in 0..4 {
                        let mut digits = _mm512_cvtepi32_epi8(v);
                        if signed {
                            v = _mm512_add_epi32(v, _mm512_set1_epi32(128));
                        } else if k == 3 {
                            digits = _mm_xor_si128(digits, _mm_set1_epi8(-128));
                        }
                        v = _mm512_srai_epi32::<8>(v);
                        _mm_storeu_si128(lines.as_mut_ptr().add(i / 64 * 256 + 64 * k + i % 64).cast(), digits);
                    }
                }
                if signed {
                    for line in lines.chunks_exact(256) {
                        for k in 0..4 {
                            let line = _mm512_loadu_si512(line.as_ptr().add(64 * k).cast());
                            starts[k] = _mm512_dpbusd_epi32(starts[k], _mm512_set1_epi8(-128), line);
                        }
                    }
                }
                for k in 0..4 {
                    let start = _mm512_sub_epi32(_mm512_setzero_si512(), starts[k]);
                    _mm512_storeu_si512(extra.as_mut_ptr().add(16 * k).cast(), start);
                }
                extra[64..].fill(scale);
            }
        }
    }
}

features! {
    unsafe fn ahead(p: *const i8) {
        // A prefetch never faults, so the address may lie outside.
        _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(PREFETCH));
    }
}

features! {
    /// `sum + scale * (d0 + 2^8 d1 + 2^16 d2 + 2^24 d3)`.
    ///
    /// # Safety
    /// `extra` points to the extra floats of a block.
    unsafe fn close_block(digits: [__m512i; 4], extra: *const f32, sum: __m512) -> __m512 {
        let mut value = _mm512_cvtepi32_ps(digits[3]);
        for k in [2, 1, 0] {
            value = _mm512_fmadd_ps(value, _mm512_set1_ps(256.0), _mm512_cvtepi32_ps(digits[k]));
        }
        // SAFETY: the scale stands behind 64 floats.
        _mm512_fmadd_ps(value, unsafe { _mm512_loadu_ps(extra.add(64)) }, sum)
    }
}

features! {
    /// Where the digit sums of a block start.
    ///
    /// # Safety
    /// `extra` points to the extra floats of a block.
    unsafe fn open_block(extra: *const f32) -> [__m512i; 4] {
        // SAFETY: by contract.
        unsafe { std::array::from_fn(|k| _mm512_loadu_si512(extra.add(16 * k).cast())) }
    }
}

features! {
    /// Adds 64 weights times their digits.
    ///
    /// # Safety
    /// `digits` points to four lines.
    unsafe fn add_line(weights: __m512i, digits: *const i8, sums: &mut [__m512i; 4]) {
        let weights = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
        for k in 0..4 {
            // SAFETY: by contract.
            let digits = unsafe { _mm512_loadu_si512(digits.add(64 * k).cast()) };
            sums[k] = _mm512_dpbusd_epi32(sums[k], weights, digits);
        }
    }
}

features! {
    /// `y = W x` for dense rows, x in signed digits.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn dense(w: &[i8], x: &[f32], cols: usize, y: &mut [f32]) {
        let x = Digits::new(x);
        assert!(w.len() == y.len() * cols && x.steps() == cols.div_ceil(64), "wrong length");
        // Even pieces of whole blocks: measured better here than the shorter ones of other types.
        let tile = cols.div_ceil(cols.div_ceil(WHOLE).max(1)).next_multiple_of(BLOCK).max(BLOCK);
        for (i, y) in y.chunks_mut(TILE_ROWS).enumerate() {
            let mut totals = [_mm512_setzero_ps(); TILE_ROWS];
            for tile in tiles(cols, tile) {
                for r in 0..y.len() {
                    // SAFETY: lines of x and blocks of extra cover the columns, and tiles are whole
                    // blocks; the end of a row is masked.
                    unsafe {
                        let row = w.as_ptr().add((i * TILE_ROWS + r) * cols);
                        let first = (i * TILE_ROWS, y.len());
                        let next = w.as_ptr().wrapping_add(next_span(cols, 1, &tile, first, r));
                        let distance = (next as isize).wrapping_sub(row.add(tile.start) as isize);
                        let blocks = tile.start / BLOCK..tile.end.div_ceil(BLOCK);
                        for b in blocks {
                            let extra = x.extra.as_ptr().add(b * EXTRA);
                            let mut sums = open_block(extra);
                            let end = ((b + 1) * BLOCK).min(cols);
                            let mut column = b * BLOCK;
                            while column + 64 <= end {
                                let at = row.add(column);
                                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_offset(distance));
                                let digits = x.lines.as_ptr().add(4 * column);
                                add_line(_mm512_loadu_si512(at.cast()), digits, &mut sums);
                                column += 64;
                            }
                            if column < end {
                                let line = _mm512_maskz_loadu_epi8((1 << (end - column)) - 1, row.add(column));
                                add_line(line, x.lines.as_ptr().add(4 * column), &mut sums);
                            }
                            totals[r] = close_block(sums, extra, totals[r]);
                        }
                    }
                }
            }
            for r in 0..y.len() {
                y[r] = _mm512_reduce_add_ps(totals[r]);
            }
        }
    }
}

features! {
    /// `y = W x` for groups of a bitmask, x in signed digits.
    ///
    /// # Safety
    /// The instruction set must be there, the masks must have no more bits than there are values,
    /// and a line past the last value must be readable.
    pub(super) unsafe fn bitmask(masks: &[u64], values: &[i8], x: &[f32], y: &mut [f32]) {
        let x = Digits::new(x);
        let steps = x.steps();
        assert!(masks.len() == y.len().div_ceil(GROUP) * GROUP * steps, "wrong length");
        let mut next = values.as_ptr();
        for (g, y) in y.chunks_mut(GROUP).enumerate() {
            let mut totals = [_mm512_setzero_ps(); GROUP];
            for (b, extra) in x.extra.chunks_exact(EXTRA).enumerate() {
                // SAFETY: `next` moves on by one value per bit and a line past the last is readable.
                unsafe {
                    let mut sums = [open_block(extra.as_ptr()); GROUP];
                    for step in b * (BLOCK / 64)..((b + 1) * (BLOCK / 64)).min(steps) {
                        let masks = masks.as_ptr().add((g * steps + step) * GROUP);
                        let digits = x.lines.as_ptr().add(256 * step);
                        ahead(masks.cast());
                        for r in 0..GROUP {
                            ahead(next);
                            let mask = *masks.add(r);
                            let mut line = _mm512_loadu_si512(next.cast());
                            // Keeps the compiler from expanding from memory, which is slower.
                            std::arch::asm!("/* {0} */", inout(zmm_reg) line, options(pure, nomem, nostack, preserves_flags));
                            add_line(_mm512_maskz_expand_epi8(mask, line), digits, &mut sums[r]);
                            next = next.add(mask.count_ones() as usize);
                        }
                    }
                    for r in 0..GROUP {
                        totals[r] = close_block(sums[r], extra.as_ptr(), totals[r]);
                    }
                }
            }
            for r in 0..y.len() {
                y[r] = _mm512_reduce_add_ps(totals[r]);
            }
        }
    }
}

features! {
    /// `y = W x` for groups of an N:M matrix whose values stand row by row, x in unsigned digits.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn n_of_m(shape: &NofMShape<'_>, codes: &[u32], values: &[i8], x: &[f32], y: &mut [f32]) {
        // SAFETY: the contract is handed on.
        unsafe {
            match (shape.bits, shape.span()) {
                (1, 32) => n_of_m_bits::<1, 32>(shape, codes, values, x, y),
                (2, 32) => n_of_m_bits::<2, 32>(shape, codes, values, x, y),
                (3, 32) => n_of_m_bits::<3, 32>(shape, codes, values, x, y),
                (4, 32) => n_of_m_bits::<4, 32>(shape, codes, values, x, y),
                (2, 64) => n_of_m_bits::<2, 64>(shape, codes, values, x, y),
                (3, 64) => n_of_m_bits::<3, 64>(shape, codes, values, x, y),
                (4, 64) => n_of_m_bits::<4, 64>(shape, codes, values, x, y),
                (bits, span) => unreachable!("{bits} bits over {span} columns are not stored row by row"),
            }
        }
    }
}

features! {
    /// As [`n_of_m`] for codes of `BITS` bits and units of `SPAN` columns.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn n_of_m_bits<const BITS: usize, const SPAN: usize>(
        shape: &NofMShape<'_>, codes: &[u32], values: &[i8], x: &[f32], y: &mut [f32],
    ) {
        let x = Digits::new(x);
        let (units, words) = (shape.units, shape.code_words());
        let groups = y.len().div_ceil(GROUP);
        assert!(codes.len() == groups * words && values.len() == groups * units * 64, "wrong length");
        assert!(x.steps() * 64 >= units * SPAN, "wrong length");
        // Bits of a unit in each of the eight 64-bit lanes of a code line: see `code_slot`.
        let stride = (8 * BITS).next_power_of_two();
        let per_line = 64 / stride;
        let mask = _mm512_set1_epi8((1 << BITS) - 1);
        let mut first = [0i8; 64];
        let mut shifts = [0i8; 64];
        for i in 0..64 {
            first[i] = (i % 16 / shape.n * shape.m) as i8;
            shifts[i] = (i % 8 * BITS) as i8;
        }
        // SAFETY: arrays of 64 bytes.
        let (first, shifts) = unsafe {
            (_mm512_loadu_si512(first.as_ptr().cast()), _mm512_loadu_si512(shifts.as_ptr().cast()))
        };
        // Columns of the second unit of 64 columns.
        let second = _mm512_add_epi8(first, _mm512_set1_epi8(32));
        for (g, y) in y.chunks_mut(GROUP).enumerate() {
            let mut total = _mm512_setzero_ps();
            for (b, extra) in x.extra.chunks_exact(EXTRA).enumerate() {
                // SAFETY: lengths were checked; indices of bytes are below 64 by their instruction.
                unsafe {
                    let mut sums = [_mm512_setzero_si512(); 5];
                    for unit in b * (BLOCK / SPAN)..((b + 1) * (BLOCK / SPAN)).min(units) {
                        let digits = x.lines.as_ptr().add(unit * SPAN / 64 * 256);
                        let at = values.as_ptr().add((g * units + unit) * 64);
                        ahead(at);
                        let weights = _mm512_loadu_si512(at.cast());
                        let line = codes.as_ptr().add(g * words + unit / per_line * 16);
                        if unit % per_line == 0 {
                            ahead(line.cast());
                        }
                        let offset = _mm512_set1_epi8((unit % per_line * stride) as i8);
                        let line = _mm512_loadu_si512(line.cast());
                        let code = _mm512_multishift_epi64_epi8(_mm512_add_epi8(shifts, offset), line);
                        let base = if SPAN == 32 && unit % 2 == 1 { second } else { first };
                        // (code & mask) | base
                        let index = _mm512_ternarylogic_epi64::<0xEA>(code, mask, base);
                        for k in 0..4 {
                            let table = _mm512_loadu_si512(digits.add(64 * k).cast());
                            let chosen = _mm512_permutexvar_epi8(index, table);
                            sums[k] = _mm512_dpbusd_epi32(sums[k], chosen, weights);
                        }
                        // The highest digit is 128 too large.
                        sums[4] = _mm512_dpbusd_epi32(sums[4], _mm512_set1_epi8(-128), weights);
                    }
                    let top = _mm512_sub_epi32(sums[3], sums[4]);
                    total = close_block([sums[0], sums[1], sums[2], top], extra.as_ptr(), total);
                }
            }
            let mut lanes = [0.0f32; 16];
            // SAFETY: 16 floats.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), total) };
            for (y, lanes) in y.iter_mut().zip(lanes.chunks_exact(4)) {
                *y = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
            }
        }
    }
}
