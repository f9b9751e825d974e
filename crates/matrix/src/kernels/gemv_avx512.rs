//! Products with one vector, AVX-512.
//!
//! Every kernel walks 64 columns of four rows at a time. A *line* is 64 bytes of stored values; its
//! [`Lane::widen_line`] gives `LANES / 16` vectors of f32. bf16 and int8 widen every second (fourth)
//! number into one vector, which takes one instruction each, and x is arranged to match
//! ([`super::gemv::arrange`]).

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

use std::arch::x86_64::*;
use std::ops::Range;

use half::{bf16, f16};

use super::gemv::{GROUP, NofMShape, PREFETCH, Source};
use crate::Element;

/// A stored type as this instruction set reads it.
pub(super) trait Lane: Element {
    /// Numbers in a line.
    const LANES: usize = 64 / size_of::<Self>();

    /// The first `LANES / 16` vectors hold the numbers of a line as f32.
    unsafe fn widen_line(line: __m512i) -> [__m512; 4];

    /// Moves the first numbers of `line` to the lanes whose bit is set, zero elsewhere.
    unsafe fn expand(mask: u64, line: __m512i) -> __m512i;

    /// The first `min(16, left)` numbers from `p` on, in order.
    unsafe fn load_few(p: *const Self, mask: u16) -> __m512;
}

macro_rules! features {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2")]
        $vis unsafe fn $($rest)*
    };
}

impl Lane for f32 {
    features! {
        unsafe fn widen_line(line: __m512i) -> [__m512; 4] {
            let zero = _mm512_setzero_ps();
            [_mm512_castsi512_ps(line), zero, zero, zero]
        }
    }
    features! {
        unsafe fn expand(mask: u64, line: __m512i) -> __m512i {
            _mm512_maskz_expand_epi32(mask as u16, line)
        }
    }
    features! {
        unsafe fn load_few(p: *const Self, mask: u16) -> __m512 {
            // SAFETY: masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(mask, p) }
        }
    }
}

impl Lane for bf16 {
    features! {
        unsafe fn widen_line(line: __m512i) -> [__m512; 4] {
            let zero = _mm512_setzero_ps();
            let even = _mm512_slli_epi32::<16>(line);
            let odd = _mm512_and_si512(line, _mm512_set1_epi32(0xFFFF_0000u32 as i32));
            [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd), zero, zero]
        }
    }
    features! {
        unsafe fn expand(mask: u64, line: __m512i) -> __m512i {
            _mm512_maskz_expand_epi16(mask as u32, line)
        }
    }
    features! {
        unsafe fn load_few(p: *const Self, mask: u16) -> __m512 {
            // SAFETY: masked lanes are not read.
            let half = unsafe { _mm256_maskz_loadu_epi16(mask, p.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
}

impl Lane for f16 {
    features! {
        unsafe fn widen_line(line: __m512i) -> [__m512; 4] {
            let zero = _mm512_setzero_ps();
            let low = _mm512_cvtph_ps(_mm512_castsi512_si256(line));
            let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(line));
            [low, high, zero, zero]
        }
    }
    features! {
        unsafe fn expand(mask: u64, line: __m512i) -> __m512i {
            _mm512_maskz_expand_epi16(mask as u32, line)
        }
    }
    features! {
        unsafe fn load_few(p: *const Self, mask: u16) -> __m512 {
            // SAFETY: masked lanes are not read.
            _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, p.cast()) })
        }
    }
}

impl Lane for i8 {
    // A byte moved to the top of a 32-bit integer converts without sign extension, 2^24 too large.
    features! {
        unsafe fn widen_line(line: __m512i) -> [__m512; 4] {
            // Byte 1 (2) of every four to the top, zeros below.
            let second = _mm512_set4_epi32(0x0D80_8080, 0x0980_8080, 0x0580_8080, 0x0180_8080);
            let third = _mm512_set4_epi32(0x0E80_8080, 0x0A80_8080, 0x0680_8080, 0x0280_8080);
            let ints = [
                _mm512_slli_epi32::<24>(line),
                _mm512_shuffle_epi8(line, second),
                _mm512_shuffle_epi8(line, third),
                _mm512_and_si512(line, _mm512_set1_epi32(0xFF00_0000u32 as i32)),
            ];
            ints.map(|i| _mm512_cvtepi32_ps(i))
        }
    }
    features! {
        unsafe fn expand(mask: u64, line: __m512i) -> __m512i {
            _mm512_maskz_expand_epi8(mask, line)
        }
    }
    features! {
        unsafe fn load_few(p: *const Self, mask: u16) -> __m512 {
            // SAFETY: masked lanes are not read.
            let bytes = unsafe { _mm_maskz_loadu_epi8(mask, p.cast()) };
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }
    }
}

features! {
    /// Brings the line at `p` and those around it into the cache a little before they are read.
    unsafe fn ahead<T>(p: *const T) {
        // To the second level: the first holds x. A prefetch never faults, so the address may lie outside.
        _mm_prefetch::<_MM_HINT_T1>(p.cast::<i8>().wrapping_add(PREFETCH));
    }
}

features! {
    /// Loads a line into a register. Left alone, the compiler folds the load into an expansion
    /// from memory, which takes twice as long (Zen 4).
    unsafe fn load_line<T>(p: *const T) -> __m512i {
        // SAFETY: the line is readable by contract; the empty assembly keeps it in a register.
        unsafe {
            let mut line = _mm512_loadu_si512(p.cast());
            std::arch::asm!("/* {0} */", inout(zmm_reg) line, options(pure, nomem, nostack, preserves_flags));
            line
        }
    }
}

features! {
    /// `x[indices[i]]` for 16 indices. Scalar loads into lanes take 60 % of the time of a gather
    /// (Zen 4), but only where the indices are in memory.
    ///
    /// # Safety
    /// 16 indices must be readable, and below the length of x.
    unsafe fn gather16(x: *const f32, indices: *const u16) -> __m512 {
        // SAFETY: by contract.
        let quarter = |q: usize| unsafe {
            let at = |l: usize| x.add(*indices.add(4 * q + l) as usize);
            let v = _mm_load_ss(at(0));
            let v = _mm_insert_ps::<0x10>(v, _mm_load_ss(at(1)));
            let v = _mm_insert_ps::<0x20>(v, _mm_load_ss(at(2)));
            _mm_insert_ps::<0x30>(v, _mm_load_ss(at(3)))
        };
        let low = _mm256_set_m128(quarter(1), quarter(0));
        let high = _mm256_set_m128(quarter(3), quarter(2));
        _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
    }
}

features! {
    unsafe fn total(sums: [__m512; 4]) -> f32 {
        let [a, b, c, d] = sums;
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
    }
}

features! {
    /// Adds columns `columns` (from a multiple of 64) of a row of `cols` numbers.
    ///
    /// # Safety
    /// `w` points to `cols` numbers and `x` to as many rounded up to 64, arranged. `next` is what is
    /// walked after these columns: it is fetched meanwhile.
    unsafe fn dense_span<T: Lane>(
        w: *const T, cols: usize, x: *const f32, columns: Range<usize>, next: *const T, sums: &mut [__m512; 4],
    ) {
        let vectors = T::LANES / 16;
        let mut column = columns.start;
        let ahead = (next as isize).wrapping_sub(w.wrapping_add(column) as isize);
        // SAFETY: whole blocks of 64 columns lie inside; the end of the row is loaded under a mask.
        unsafe {
            while column + 64 <= columns.end {
                for l in 0..4 / vectors {
                    let at = w.add(column + l * T::LANES);
                    _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_offset(ahead));
                    let v = T::widen_line(_mm512_loadu_si512(at.cast()));
                    for k in 0..vectors {
                        let i = l * vectors + k;
                        sums[i] = _mm512_fmadd_ps(v[k], _mm512_loadu_ps(x.add(column + 16 * i)), sums[i]);
                    }
                }
                column += 64;
            }
            if column < columns.end {
                for l in 0..4 / vectors {
                    let left = (cols - column).saturating_sub(l * T::LANES) * size_of::<T>();
                    let mask = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
                    let at = w.wrapping_add(column + l * T::LANES);
                    let v = T::widen_line(_mm512_maskz_loadu_epi8(mask, at.cast()));
                    for k in 0..vectors {
                        let i = l * vectors + k;
                        sums[i] = _mm512_fmadd_ps(v[k], _mm512_loadu_ps(x.add(column + 16 * i)), sums[i]);
                    }
                }
            }
        }
    }
}

features! {
    /// `y = W x` for dense rows, one after another: one stream is read faster than four.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn dense<T: Lane>(w: &[T], x: &[f32], cols: usize, y: &mut [f32]) {
        assert!(w.len() == y.len() * cols && x.len() >= cols.next_multiple_of(64), "wrong length");
        let tile = if cols <= WHOLE { WHOLE } else { 4096 };
        for (i, y) in y.chunks_mut(TILE_ROWS).enumerate() {
            let mut sums = [[_mm512_setzero_ps(); 4]; TILE_ROWS];
            for tile in tiles(cols, tile) {
                for r in 0..y.len() {
                    // SAFETY: the row lies in w, as was checked.
                    unsafe {
                        let row = w.as_ptr().add((i * TILE_ROWS + r) * cols);
                        let first = (i * TILE_ROWS, y.len());
                        let next = w.as_ptr().wrapping_add(next_span(cols, size_of::<T>(), &tile, first, r));
                        dense_span(row, cols, x.as_ptr(), tile.clone(), next, &mut sums[r]);
                    }
                }
            }
            for r in 0..y.len() {
                // SAFETY: this instruction set is there.
                y[r] = unsafe { total(sums[r]) };
            }
        }
    }
}

/// Rows that walk a tile of x before the next one.
pub(super) const TILE_ROWS: usize = 8;

/// Rows up to this many columns are walked in one piece.
pub(super) const WHOLE: usize = 6144;

/// Pieces of a row of at most `tile` columns, whose part of x stays in the first-level cache.
pub(super) fn tiles(cols: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..cols).step_by(tile).map(move |start| start..(start + tile).min(cols))
}

/// What to fetch while `tile` of row `r` of a block of rows (its first row, their number) is
/// walked, as a position in W: what is walked next.
pub(super) fn next_span(
    cols: usize,
    size: usize,
    tile: &Range<usize>,
    (first, rows): (usize, usize),
    r: usize,
) -> usize {
    match (r + 1 < rows, tile.end < cols) {
        _ if tile.len() == cols => (first + r) * cols + PREFETCH / size,
        (true, _) => (first + r + 1) * cols + tile.start,
        (false, true) => first * cols + tile.end,
        (false, false) => (first + rows) * cols,
    }
}

features! {
    /// `y = W x` for groups of a bitmask, `values` starting with those of the first.
    ///
    /// # Safety
    /// The instruction set must be there, the masks must have no more bits than there are values,
    /// and a line past the last value must be readable.
    pub(super) unsafe fn bitmask<T: Lane>(masks: &[u64], values: &[T], x: &[f32], y: &mut [f32]) {
        let blocks = x.len() / 64;
        assert!(masks.len() == y.len().div_ceil(GROUP) * GROUP * blocks);
        let vectors = T::LANES / 16;
        let mut next = values.as_ptr();
        if blocks == 0 {
            return y.fill(0.0);
        }
        for (y, masks) in y.chunks_mut(GROUP).zip(masks.chunks(GROUP * blocks)) {
            let mut sums = [[_mm512_setzero_ps(); 4]; GROUP];
            for (masks, x) in masks.chunks_exact(GROUP).zip(x.chunks_exact(64)) {
                // SAFETY: `next` moves on by one value per bit and a line past the last is readable.
                unsafe {
                    let x: [__m512; 4] = std::array::from_fn(|i| _mm512_loadu_ps(x.as_ptr().add(16 * i)));
                    ahead(masks.as_ptr());
                    for r in 0..GROUP {
                        for l in 0..4 / vectors {
                            let mask = masks[r] >> (l * T::LANES) & (u64::MAX >> (64 - T::LANES));
                            ahead(next);
                            let v = T::widen_line(T::expand(mask, load_line(next)));
                            for k in 0..vectors {
                                let i = l * vectors + k;
                                sums[r][i] = _mm512_fmadd_ps(v[k], x[i], sums[r][i]);
                            }
                            next = next.add(mask.count_ones() as usize);
                        }
                    }
                }
            }
            for r in 0..y.len() {
                // SAFETY: this instruction set is there.
                y[r] = unsafe { total(sums[r]) };
            }
        }
    }
}

features! {
    /// `y = W x` for groups of an N:M matrix with codes of `B` bits.
    ///
    /// # Safety
    /// The instruction set must be there; columns named by codes must lie in x.
    unsafe fn n_of_m_bits<T: Lane, const B: usize, const S: u8>(
        shape: &NofMShape, codes: &[u32], values: &[T], x: &[f32], y: &mut [f32],
    ) {
        let (units, per_group) = (shape.units, shape.code_words());
        let groups = y.len().div_ceil(GROUP);
        assert!(codes.len() == groups * per_group && values.len() == groups * units * 64);
        assert!(x.len() >= units * shape.span() && shape.bases.len() == 16 * units);
        let fields = 32 / B;
        let block = block_units(B);
        let vectors = T::LANES / 16;
        let mask = _mm512_set1_epi32((1 << B) - 1);
        // SAFETY: bases hold 16 numbers per unit.
        let first_base = if units == 0 { mask } else { unsafe { _mm512_loadu_si512(shape.bases.as_ptr().cast()) } };
        for (g, y) in y.chunks_mut(GROUP).enumerate() {
            let mut sums = [_mm512_setzero_ps(); GROUP];
            // SAFETY: lengths were checked above.
            unsafe {
                let mut codes = codes.as_ptr().add(g * per_group);
                let mut values = values.as_ptr().add(g * units * 64);
                let mut unit = 0;
                while unit < units {
                    let here = block.min(units - unit);
                    ahead(codes);
                    // Unrolled: words and shifts are constants.
                    for u in 0..block {
                        if u == here {
                            break;
                        }
                        let xs: [__m512; 4] = match S {
                            PERM2 => {
                                let x = x.as_ptr().add((unit + u) * 32);
                                let (a, b) = (_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16)));
                                [a, b, a, b]
                            }
                            PERM4 => {
                                let x = x.as_ptr().add((unit + u) * 64);
                                std::array::from_fn(|i| _mm512_loadu_ps(x.add(16 * i)))
                            }
                            _ => [_mm512_setzero_ps(); 4],
                        };
                        let base = match S {
                            GATHER => _mm512_loadu_si512(shape.bases.as_ptr().add((unit + u) * 16).cast()),
                            _ => first_base,
                        };
                        for l in 0..4 / vectors {
                            let at = values.add(u * 64 + l * T::LANES);
                            if size_of::<T>() < 4 {
                                ahead(at); // f32 comes slowly enough for the hardware alone
                            }
                            let v = T::widen_line(_mm512_loadu_si512(at.cast()));
                            for k in 0..vectors {
                                let r = l * vectors + k;
                                let field = 4 * u + r;
                                let word = _mm512_loadu_si512(codes.add(field / fields * 16).cast());
                                let shift = _mm512_set1_epi32((field % fields * B) as i32);
                                let code = _mm512_srlv_epi32(word, shift);
                                let chosen = if S == GATHER {
                                    let index = _mm512_add_epi32(_mm512_and_si512(code, mask), base);
                                    _mm512_i32gather_ps::<4>(index, x.as_ptr())
                                } else {
                                    // (code & mask) | base
                                    let index = _mm512_ternarylogic_epi32::<0xEA>(code, mask, base);
                                    let low = _mm512_permutex2var_ps(xs[0], index, xs[1]);
                                    if S == PERM2 {
                                        low
                                    } else {
                                        let high = _mm512_permutex2var_ps(xs[2], index, xs[3]);
                                        let upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
                                        _mm512_mask_blend_ps(upper, low, high)
                                    }
                                };
                                sums[r] = _mm512_fmadd_ps(v[k], chosen, sums[r]);
                            }
                        }
                    }
                    codes = codes.wrapping_add(4 * block / fields * 16);
                    values = values.add(here * 64);
                    unit += here;
                }
            }
            for r in 0..y.len() {
                y[r] = _mm512_reduce_add_ps(sums[r]);
            }
        }
    }
}

const PERM2: u8 = 0;
const PERM4: u8 = 1;
const GATHER: u8 = 2;

/// Units after which the codes of four rows fill whole words.
const fn block_units(bits: usize) -> usize {
    match bits {
        1 => 8,
        2 => 4,
        3 | 6 => 5,
        4 => 2,
        5 => 3,
        _ => 1,
    }
}

features! {
    /// `y = W x` for groups of an N:M matrix.
    ///
    /// # Safety
    /// The instruction set must be there; columns named by codes must lie in x.
    pub(super) unsafe fn n_of_m<T: Lane>(
        shape: &NofMShape, codes: &[u32], values: &[T], x: &[f32], y: &mut [f32],
    ) {
        // SAFETY: the contract is handed on.
        unsafe {
            match (shape.bits, shape.source()) {
                (1, Source::Pair) => n_of_m_bits::<T, 1, PERM2>(shape, codes, values, x, y),
                (2, Source::Pair) => n_of_m_bits::<T, 2, PERM2>(shape, codes, values, x, y),
                (3, Source::Pair) => n_of_m_bits::<T, 3, PERM2>(shape, codes, values, x, y),
                (4, Source::Pair) => n_of_m_bits::<T, 4, PERM2>(shape, codes, values, x, y),
                (2, Source::Four) => n_of_m_bits::<T, 2, PERM4>(shape, codes, values, x, y),
                (3, Source::Four) => n_of_m_bits::<T, 3, PERM4>(shape, codes, values, x, y),
                (4, Source::Four) => n_of_m_bits::<T, 4, PERM4>(shape, codes, values, x, y),
                (1, _) => n_of_m_bits::<T, 1, GATHER>(shape, codes, values, x, y),
                (2, _) => n_of_m_bits::<T, 2, GATHER>(shape, codes, values, x, y),
                (3, _) => n_of_m_bits::<T, 3, GATHER>(shape, codes, values, x, y),
                (4, _) => n_of_m_bits::<T, 4, GATHER>(shape, codes, values, x, y),
                (5, _) => n_of_m_bits::<T, 5, GATHER>(shape, codes, values, x, y),
                (6, _) => n_of_m_bits::<T, 6, GATHER>(shape, codes, values, x, y),
                (7, _) => n_of_m_bits::<T, 7, GATHER>(shape, codes, values, x, y),
                _ => n_of_m_bits::<T, 8, GATHER>(shape, codes, values, x, y),
            }
        }
    }
}

features! {
    /// `y = W x` for compressed rows; row `r` is `offsets[r]..offsets[r + 1]` of indices and values.
    ///
    /// # Safety
    /// The instruction set must be there; indices must be below the length of x, and offsets rise
    /// within indices and values.
    pub(super) unsafe fn csr<T: Lane>(offsets: &[u32], indices: &[u16], values: &[T], x: &[f32], y: &mut [f32]) {
        for (bounds, y) in offsets.windows(2).zip(y) {
            let (mut i, end) = (bounds[0] as usize, bounds[1] as usize);
            let mut sums = [_mm512_setzero_ps(); 2];
            // SAFETY: by contract; the last numbers of a row are loaded under a mask.
            unsafe {
                while i + 16 <= end {
                    // Nearer, and to the first level, than for the other kinds: measured.
                    _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().add(i).cast::<i8>().wrapping_add(2048));
                    _mm_prefetch::<_MM_HINT_T0>(indices.as_ptr().add(i).cast::<i8>().wrapping_add(1024));
                    let chosen = gather16(x.as_ptr(), indices.as_ptr().add(i));
                    sums[0] = _mm512_fmadd_ps(T::load_few(values.as_ptr().add(i), u16::MAX), chosen, sums[0]);
                    i += 16;
                }
                while i < end {
                    let mask = if end - i >= 16 { u16::MAX } else { (1 << (end - i)) - 1 };
                    let index = _mm256_maskz_loadu_epi16(mask, indices.as_ptr().add(i).cast());
                    let index = _mm512_cvtepu16_epi32(index);
                    let zero = _mm512_setzero_ps();
                    let chosen = _mm512_mask_i32gather_ps::<4>(zero, mask, index, x.as_ptr());
                    sums[0] = _mm512_fmadd_ps(T::load_few(values.as_ptr().add(i), mask), chosen, sums[0]);
                    i += 16;
                }
                *y = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
            }
        }
    }
}

features! {
    /// The wrapping sum of `words`.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn read(words: &[u64]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        let chunks = words.chunks_exact(32);
        let rest = chunks.remainder().iter().fold(0u64, |a, &b| a.wrapping_add(b));
        for chunk in chunks {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a chunk is four lines.
                unsafe {
                    let at = chunk.as_ptr().add(8 * i);
                    ahead(at);
                    *sum = _mm512_add_epi64(*sum, _mm512_loadu_si512(at.cast()));
                }
            }
        }
        let [a, b, c, d] = sums;
        let sum = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
        (_mm512_reduce_add_epi64(sum) as u64).wrapping_add(rest)
    }
}
