//! Products with one vector, AVX2.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

use std::arch::x86_64::*;

use bytemuck::Zeroable;
use half::{bf16, f16};

use super::gemv::{GROUP, NofMShape, PREFETCH};
use crate::Element;

macro_rules! features {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c,popcnt")]
        $vis unsafe fn $($rest)*
    };
}

/// A stored type as this instruction set reads it. Lines are those of AVX-512: 64 bytes.
pub(super) trait Lane: Element {
    /// Vectors of 16 in a line.
    const VECTORS: usize = 4 / size_of::<Self>();

    /// Lanes `8 half..8 half + 8` of vector `vector` of the line at `line`, in AVX-512's order.
    unsafe fn load(line: *const Self, vector: usize, half: usize) -> __m256;

    /// Eight numbers in order.
    unsafe fn load_plain(p: *const Self) -> __m256;
}

impl Lane for f32 {
    features! {
        unsafe fn load(line: *const Self, _vector: usize, half: usize) -> __m256 {
            // SAFETY: the line is readable by contract.
            unsafe { _mm256_loadu_ps(line.add(8 * half)) }
        }
    }
    features! {
        unsafe fn load_plain(p: *const Self) -> __m256 {
            // SAFETY: readable by contract.
            unsafe { _mm256_loadu_ps(p) }
        }
    }
}

impl Lane for bf16 {
    features! {
        unsafe fn load(line: *const Self, vector: usize, half: usize) -> __m256 {
            // SAFETY: the line is readable by contract.
            let pairs = unsafe { _mm256_loadu_si256(line.add(16 * half).cast()) };
            _mm256_castsi256_ps(if vector == 0 {
                _mm256_slli_epi32::<16>(pairs)
            } else {
                _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000u32 as i32))
            })
        }
    }
    features! {
        unsafe fn load_plain(p: *const Self) -> __m256 {
            // SAFETY: readable by contract.
            let half = unsafe { _mm_loadu_si128(p.cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
        }
    }
}

impl Lane for f16 {
    features! {
        unsafe fn load(line: *const Self, vector: usize, half: usize) -> __m256 {
            // SAFETY: the line is readable by contract.
            unsafe { Self::load_plain(line.add(16 * vector + 8 * half)) }
        }
    }
    features! {
        unsafe fn load_plain(p: *const Self) -> __m256 {
            // SAFETY: readable by contract.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
        }
    }
}

impl Lane for i8 {
    const VECTORS: usize = 4;
    features! {
        unsafe fn load(line: *const Self, vector: usize, half: usize) -> __m256 {
            // SAFETY: the line is readable by contract.
            let fours = unsafe { _mm256_loadu_si256(line.add(32 * half).cast()) };
            let top = _mm256_sllv_epi32(fours, _mm256_set1_epi32(24 - 8 * vector as i32));
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
        }
    }
    features! {
        unsafe fn load_plain(p: *const Self) -> __m256 {
            // SAFETY: readable by contract.
            let bytes = unsafe { _mm_loadl_epi64(p.cast()) };
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        }
    }
}

features! {
    /// Brings the line at `p` and those around it into the cache a little before they are read.
    unsafe fn ahead<T>(p: *const T, bytes: usize) {
        // A prefetch never faults, so the address may lie outside.
        _mm_prefetch::<_MM_HINT_T0>(p.cast::<i8>().wrapping_add(bytes));
    }
}

features! {
    unsafe fn total(sums: [__m256; 2]) -> f32 {
        let sum = _mm256_add_ps(sums[0], sums[1]);
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
    }
}

features! {
    /// Adds 64 columns of `R` rows, `stride` numbers apart, to their sums.
    ///
    /// # Safety
    /// The rows' 64 numbers and those of x must be readable.
    unsafe fn dense_block<T: Lane, const R: usize>(
        w: *const T, stride: usize, x: *const f32, sums: &mut [[__m256; 2]; R],
    ) {
        for l in 0..4 / T::VECTORS {
            for k in 0..T::VECTORS {
                for h in 0..2 {
                    // SAFETY: by contract.
                    unsafe {
                        let x = _mm256_loadu_ps(x.add(16 * (l * T::VECTORS + k) + 8 * h));
                        for r in 0..R {
                            let line = w.add(r * stride + l * 16 * T::VECTORS);
                            if k == 0 && h == 0 {
                                ahead(line, PREFETCH);
                            }
                            sums[r][h] = _mm256_fmadd_ps(T::load(line, k, h), x, sums[r][h]);
                        }
                    }
                }
            }
        }
    }
}

features! {
    /// `y[r] = w[r] . x` for `R` rows of `cols` numbers each.
    ///
    /// # Safety
    /// `w` points to `R * cols` numbers and `x` to `cols` rounded up to 64, arranged.
    unsafe fn dense_rows<T: Lane, const R: usize>(w: *const T, cols: usize, x: *const f32, y: &mut [f32]) {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        let whole = cols / 64 * 64;
        // SAFETY: whole blocks of 64 columns lie inside; the rest is copied to a block of its own.
        unsafe {
            for column in (0..whole).step_by(64) {
                dense_block::<T, R>(w.add(column), cols, x.add(column), &mut sums);
            }
            if whole < cols {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let mut last = [<T as Zeroable>::zeroed(); 64];
                    std::ptr::copy_nonoverlapping(w.add(r * cols + whole), last.as_mut_ptr(), cols - whole);
                    dense_block::<T, 1>(last.as_ptr(), 0, x.add(whole), std::array::from_mut(sums));
                }
            }
        }
        for r in 0..R {
            // SAFETY: this instruction set is there.
            y[r] = unsafe { total(sums[r]) };
        }
    }
}

features! {
    /// `y = W x` for dense rows.
    ///
    /// # Safety
    /// The instruction set must be there.
    pub(super) unsafe fn dense<T: Lane>(w: &[T], x: &[f32], cols: usize, y: &mut [f32]) {
        assert!(w.len() == y.len() * cols && x.len() >= cols.next_multiple_of(64), "wrong length");
        for (i, y) in y.chunks_mut(GROUP).enumerate() {
            // SAFETY: the chunk's rows lie in w, as was checked.
            unsafe {
                let w = w.as_ptr().add(i * GROUP * cols);
                if y.len() == GROUP {
                    dense_rows::<T, GROUP>(w, cols, x.as_ptr(), y);
                } else {
                    for r in 0..y.len() {
                        dense_rows::<T, 1>(w.add(r * cols), cols, x.as_ptr(), &mut y[r..]);
                    }
                }
            }
        }
    }
}

/// Per byte of mask, for each lane: the number of set bits below, or -1 where its own is not set.
static EXPAND: [[i32; 8]; 256] = {
    let mut table = [[-1; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut below) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][bit] = below;
                below += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

features! {
    /// `y = W x` for groups of a bitmask, `values` starting with those of the first.
    ///
    /// # Safety
    /// The instruction set must be there, the masks must have no more bits than there are values,
    /// and a line past the last value must be readable.
    pub(super) unsafe fn bitmask<T: Lane>(masks: &[u64], values: &[T], x: &[f32], y: &mut [f32]) {
        let blocks = x.len() / 64;
        assert!(masks.len() == y.len().div_ceil(GROUP) * GROUP * blocks, "wrong length");
        let mut next = values.as_ptr();
        for (g, y) in y.chunks_mut(GROUP).enumerate() {
            let masks = &masks[g * GROUP * blocks..(g + 1) * GROUP * blocks];
            let mut sums = [[_mm256_setzero_ps(); 2]; GROUP];
            for (masks, x) in masks.chunks_exact(GROUP).zip(x.chunks_exact(64)) {
                for r in 0..GROUP {
                    for (b, byte) in masks[r].to_le_bytes().into_iter().enumerate() {
                        // SAFETY: `next` moves on by one value per bit and a line past the last is
                        // readable; a block of x has 64 numbers.
                        unsafe {
                            ahead(next, PREFETCH);
                            let lanes = _mm256_loadu_si256(EXPAND[byte as usize].as_ptr().cast());
                            let v = _mm256_permutevar8x32_ps(T::load_plain(next), lanes);
                            let v = _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32::<31>(lanes)), v);
                            let x = _mm256_loadu_ps(x.as_ptr().add(8 * b));
                            sums[r][b % 2] = _mm256_fmadd_ps(v, x, sums[r][b % 2]);
                            next = next.add(byte.count_ones() as usize);
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
    /// `y = W x` for groups of an N:M matrix.
    ///
    /// # Safety
    /// The instruction set must be there; columns named by codes must lie in x.
    pub(super) unsafe fn n_of_m<T: Lane>(
        shape: &NofMShape<'_>, codes: &[u32], values: &[T], x: &[f32], y: &mut [f32],
    ) {
        let (units, words) = (shape.units, shape.code_words());
        let groups = y.len().div_ceil(GROUP);
        assert!(codes.len() == groups * words && values.len() == groups * units * 64, "wrong length");
        assert!(shape.bases.len() == 16 * units, "wrong length");
        if shape.by_row {
            // SAFETY: the contract is handed on.
            return unsafe { n_of_m_by_row::<T>(shape, codes, values, x, y) };
        }
        let fields = 32 / shape.bits;
        let mask = _mm256_set1_epi32((1 << shape.bits) - 1);
        for (g, y) in y.chunks_mut(GROUP).enumerate() {
            let mut sums = [[_mm256_setzero_ps(); 2]; GROUP];
            let (mut word, mut field) = (g * words, 0);
            for unit in 0..units {
                for l in 0..4 / T::VECTORS {
                    for k in 0..T::VECTORS {
                        let r = l * T::VECTORS + k;
                        let shift = _mm256_set1_epi32((field * shape.bits) as i32);
                        for h in 0..2 {
                            // SAFETY: lengths were checked; columns lie in x by contract.
                            unsafe {
                                let line = values.as_ptr().add((g * units + unit) * 64 + l * 16 * T::VECTORS);
                                ahead(line, PREFETCH);
                                let at = codes.as_ptr().add(word + 8 * h);
                                let code = _mm256_srlv_epi32(_mm256_loadu_si256(at.cast()), shift);
                                let at = shape.bases.as_ptr().add(16 * unit + 8 * h);
                                let base = _mm256_loadu_si256(at.cast());
                                let index = _mm256_add_epi32(_mm256_and_si256(code, mask), base);
                                let x = _mm256_i32gather_ps::<4>(x.as_ptr(), index);
                                sums[r][h] = _mm256_fmadd_ps(T::load(line, k, h), x, sums[r][h]);
                            }
                        }
                        field += 1;
                        if field == fields {
                            (word, field) = (word + 16, 0);
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
    /// As [`n_of_m`], which checked the lengths, where values stand row by row.
    ///
    /// # Safety
    /// The instruction set must be there; columns named by codes must lie in x.
    unsafe fn n_of_m_by_row<T: Lane>(
        shape: &NofMShape<'_>, codes: &[u32], values: &[T], x: &[f32], y: &mut [f32],
    ) {
        let (units, words) = (shape.units, shape.code_words());
        let mask = _mm256_set1_epi32((1 << shape.bits) - 1);
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let shifts = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(shape.bits as i32));
        for (row, y) in y.iter_mut().enumerate() {
            let (g, r) = (row / GROUP, row % GROUP);
            let mut sums = [_mm256_setzero_ps(); 2];
            for unit in 0..units {
                let (word, shift) = shape.code_slot(r, 16 * unit);
                for h in 0..2 {
                    let eight = codes[g * words + word + 2 * h] >> shift;
                    // SAFETY: lengths were checked; columns lie in x by contract.
                    unsafe {
                        let at = values.as_ptr().add((g * units + unit) * 64 + 16 * r + 8 * h);
                        ahead(at, PREFETCH);
                        let code = _mm256_srlv_epi32(_mm256_set1_epi32(eight as i32), shifts);
                        let base = _mm256_loadu_si256(shape.bases.as_ptr().add(16 * unit + 8 * h).cast());
                        let index = _mm256_add_epi32(_mm256_and_si256(code, mask), base);
                        let x = _mm256_i32gather_ps::<4>(x.as_ptr(), index);
                        sums[h] = _mm256_fmadd_ps(T::load_plain(at), x, sums[h]);
                    }
                }
            }
            // SAFETY: this instruction set is there.
            *y = unsafe { total(sums) };
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
            let mut sums = [_mm256_setzero_ps(); 2];
            // SAFETY: by contract.
            unsafe {
                while i + 8 <= end {
                    ahead(values.as_ptr().add(i), PREFETCH);
                    ahead(indices.as_ptr().add(i), PREFETCH);
                    let index = _mm256_cvtepu16_epi32(_mm_loadu_si128(indices.as_ptr().add(i).cast()));
                    let x = _mm256_i32gather_ps::<4>(x.as_ptr(), index);
                    sums[i / 8 % 2] = _mm256_fmadd_ps(T::load_plain(values.as_ptr().add(i)), x, sums[i / 8 % 2]);
                    i += 8;
                }
            }
            let rest = indices[i..end].iter().zip(&values[i..end]);
            // SAFETY: this instruction set is there.
            *y = unsafe { total(sums) } + rest.map(|(&c, w)| w.widen() * x[c as usize]).sum::<f32>();
        }
    }
}
