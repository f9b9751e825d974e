//! From stored forms to columns and f32 values, and transposing copies.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

use super::Isa;
use crate::Element;

/// Where the entries of many rows that lie below a column end.
pub(crate) struct Bound<'a> {
    /// The columns of all rows, rising within each row.
    pub(crate) columns: &'a [u16],
    /// Per row: the first entry to look at.
    pub(crate) starts: &'a [u32],
    /// Per row: the end of its entries; one longer, `limits[r + 1]` is the end of row `r`.
    pub(crate) limits: &'a [u32],
    /// Entries below this column count.
    pub(crate) column: u16,
    /// Per row: the end.
    pub(crate) ends: &'a mut [u32],
}

#[inline(always)]
pub(crate) fn find_ends(b: Bound<'_>, below_chunk: impl Fn(&[u16; 32], u16) -> u32) {
    let column = b.column;
    for r in 0..b.ends.len() {
        let (mut start, limit) = (b.starts[r] as usize, b.limits[r + 1] as usize);
        // Counting whole chunks is faster than searching: a tile holds few of them.
        loop {
            let Some(chunk) = b.columns[start..limit].first_chunk::<32>() else {
                start += b.columns[start..limit].iter().take_while(|&&c| c < column).count();
                break;
            };
            let below = below_chunk(chunk, column);
            start += below as usize;
            if below < 32 {
                break;
            }
        }
        b.ends[r] = start as u32;
    }
}

#[inline(always)]
pub(crate) fn below_portable(chunk: &[u16; 32], column: u16) -> u32 {
    chunk.iter().map(|&c| u32::from(c < column)).sum()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn below_avx512(chunk: &[u16; 32], column: u16) -> u32 {
    // SAFETY: called from functions with AVX-512 BW only; the chunk is 64 bytes.
    unsafe {
        let chunk = _mm512_loadu_epi16(chunk.as_ptr().cast());
        _mm512_cmplt_epu16_mask(chunk, _mm512_set1_epi16(column as i16)).count_ones()
    }
}

/// Writes the positions of the set bits of `mask`, the lowest bit of its first byte being 0.
///
/// Returns their number. `out` must have room for 32 more.
pub(crate) fn positions(isa: Isa, mask: &[u8], out: &mut [u16]) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` was detected, the rest of its features was just asked for.
        Isa::Avx512 if is_x86_feature_detected!("avx512vbmi2") => unsafe { positions_avx512(mask, out) },
        _ => positions_portable(mask, 0, 0, out),
    }
}

/// Per byte, the positions of its set bits.
static BITS: [[u16; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut next) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][next] = bit as u16;
                next += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

pub(crate) fn positions_portable(mask: &[u8], first: usize, mut at: usize, out: &mut [u16]) -> usize {
    for (i, &byte) in mask.iter().enumerate() {
        // Every byte writes eight and moves on by as many as it has bits.
        let base = (8 * (first + i)) as u16;
        out[at..at + 8].copy_from_slice(&BITS[byte as usize].map(|p| p.wrapping_add(base)));
        at += byte.count_ones() as usize;
    }
    at
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
pub(crate) fn positions_avx512(mask: &[u8], out: &mut [u16]) -> usize {
    let words = mask.chunks_exact(4);
    let (mut at, rest) = (0, words.remainder());
    let lanes: [u16; 32] = std::array::from_fn(|i| i as u16);
    // SAFETY: an array of 64 bytes.
    let mut columns = unsafe { _mm512_loadu_epi16(lanes.as_ptr().cast()) };
    let step = _mm512_set1_epi16(32);
    for word in words {
        let word = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        let room = &mut out[at..at + 32];
        // SAFETY: 64 bytes of room.
        unsafe { _mm512_storeu_epi16(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi16(word, columns)) };
        at += word.count_ones() as usize;
        columns = _mm512_add_epi16(columns, step);
    }
    positions_portable(rest, mask.len() - rest.len(), at, out)
}

/// Asks for `items` to be fetched into the L2 cache.
pub(crate) fn prefetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(items)).step_by(64) {
        // SAFETY: a prefetch may name any address, and every x86-64 machine has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(items.as_ptr().cast::<i8>().wrapping_add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}

/// `dst[c * dst_stride + r] (+)= src[r * src_stride + c]` for `rows x cols` entries.
///
/// # Safety
/// Both are valid for all entries named, and do not overlap.
#[inline(always)]
pub(crate) unsafe fn transpose_scalar(
    src: *const f32,
    src_stride: usize,
    (rows, cols): (usize, usize),
    dst: *mut f32,
    dst_stride: usize,
    add: bool,
) {
    // SAFETY: inside the ranges of the contract.
    unsafe {
        for c in 0..cols {
            for r in 0..rows {
                let (from, to) = (src.add(r * src_stride + c), dst.add(c * dst_stride + r));
                *to = if add { *to + *from } else { *from };
            }
        }
    }
}

/// [`transpose_scalar`] in 8 x 8 blocks.
///
/// # Safety
/// As [`transpose_scalar`]; AVX2 must be there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn transpose_avx2(
    src: *const f32,
    src_stride: usize,
    (rows, cols): (usize, usize),
    dst: *mut f32,
    dst_stride: usize,
    add: bool,
) {
    // SAFETY: blocks are whole; the rests go to the scalar version.
    unsafe {
        let (rows8, cols8) = (rows / 8 * 8, cols / 8 * 8);
        for c in (0..cols8).step_by(8) {
            for r in (0..rows8).step_by(8) {
                let v: [__m256; 8] =
                    std::array::from_fn(|i| _mm256_loadu_ps(src.add((r + i) * src_stride + c)));
                let t: [__m256; 8] = std::array::from_fn(|i| {
                    let (a, b) = (v[i / 2 * 2], v[i / 2 * 2 + 1]);
                    if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
                });
                let u = [
                    _mm256_shuffle_ps::<0x44>(t[0], t[2]),
                    _mm256_shuffle_ps::<0xEE>(t[0], t[2]),
                    _mm256_shuffle_ps::<0x44>(t[1], t[3]),
                    _mm256_shuffle_ps::<0xEE>(t[1], t[3]),
                    _mm256_shuffle_ps::<0x44>(t[4], t[6]),
                    _mm256_shuffle_ps::<0xEE>(t[4], t[6]),
                    _mm256_shuffle_ps::<0x44>(t[5], t[7]),
                    _mm256_shuffle_ps::<0xEE>(t[5], t[7]),
                ];
                for i in 0..8 {
                    let (low, high) = (u[i % 4], u[i % 4 + 4]);
                    let row = if i < 4 {
                        _mm256_permute2f128_ps::<0x20>(low, high)
                    } else {
                        _mm256_permute2f128_ps::<0x31>(low, high)
                    };
                    let to = dst.add((c + i) * dst_stride + r);
                    let row = if add { _mm256_add_ps(_mm256_loadu_ps(to), row) } else { row };
                    _mm256_storeu_ps(to, row);
                }
            }
        }
        let rest = (rows - rows8, cols8);
        transpose_scalar(src.add(rows8 * src_stride), src_stride, rest, dst.add(rows8), dst_stride, add);
        let rest = (rows, cols - cols8);
        transpose_scalar(src.add(cols8), src_stride, rest, dst.add(cols8 * dst_stride), dst_stride, add);
    }
}

/// `dst[c * dst_stride + r] (+)= src[r * src_stride + c]` for `shape = (rows, cols)` entries.
///
/// # Safety
/// Both are valid for all entries named, and do not overlap.
pub(crate) unsafe fn transpose(
    isa: Isa,
    src: *const f32,
    src_stride: usize,
    shape: (usize, usize),
    dst: *mut f32,
    dst_stride: usize,
    add: bool,
) {
    // SAFETY: the caller's contract; `isa` was detected.
    unsafe {
        match isa {
            Isa::Scalar => transpose_scalar(src, src_stride, shape, dst, dst_stride, add),
            #[cfg(target_arch = "x86_64")]
            _ => transpose_avx2(src, src_stride, shape, dst, dst_stride, add),
        }
    }
}

#[inline(always)]
pub(crate) fn widen<T: Element>(src: &[T], scale: f32, dst: &mut [f32]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = s.widen() * scale;
    }
}

pub(crate) fn widen_f16_portable(src: &[f16], dst: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    src.convert_to_f32_slice(dst);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(crate) fn widen_f16_avx512(src: &[f16], dst: &mut [f32]) {
    let (wide, rest) = dst.as_chunks_mut::<16>();
    let (from, from_rest) = src.as_chunks::<16>();
    for (d, s) in wide.iter_mut().zip(from) {
        // SAFETY: 32 bytes to read and 64 to write.
        unsafe { _mm512_storeu_ps(d.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(s.as_ptr().cast()))) };
    }
    widen(from_rest, 1.0, rest);
}

/// Writes the columns of `out.len() - 32` codes of `bits` bits, `n` to a group of `m` columns.
pub(crate) fn code_columns(isa: Isa, codes: &[u8], bits: usize, (n, m): (usize, usize), out: &mut [u16]) {
    let count = out.len() - 32;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if n <= 32 && is_x86_feature_detected!("avx512vbmi") => {
            // SAFETY: `isa` was detected, the rest of its features was just asked for.
            unsafe { code_columns_avx512(codes, bits, (n, m), count, out) }
        }
        _ => code_columns_portable(codes, bits, (n, m), &mut out[..count]),
    }
}

pub(crate) fn code_columns_portable(codes: &[u8], bits: usize, (n, m): (usize, usize), out: &mut [u16]) {
    let mask = (1u32 << bits) - 1;
    let mut bit = 0;
    for (group, out) in out.chunks_mut(n).enumerate() {
        let base = (group * m) as u16;
        for out in out {
            let low = u32::from(codes[bit / 8]);
            let high = codes.get(bit / 8 + 1).map_or(0, |&b| u32::from(b));
            *out = base + (((low | high << 8) >> (bit % 8)) & mask) as u16;
            bit += bits;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(crate) fn code_columns_avx512(
    codes: &[u8],
    bits: usize,
    (n, m): (usize, usize),
    count: usize,
    out: &mut [u16],
) {
    // Whole groups of up to 32 codes at a time: lane i takes the two bytes that hold bits
    // `bits * i..` (at most 8, thus within 16 of a byte boundary) and shifts them down.
    let groups = 32 / n;
    let per_step = groups * n;
    let ramp: [u16; 32] = std::array::from_fn(|i| (i * bits) as u16);
    let base: [u16; 32] = std::array::from_fn(|i| (i / n * m) as u16);
    // SAFETY: arrays of 64 bytes.
    let (ramp, mut base) =
        unsafe { (_mm512_loadu_epi16(ramp.as_ptr().cast()), _mm512_loadu_epi16(base.as_ptr().cast())) };
    let mask = _mm512_set1_epi16((1 << bits) - 1);
    let advance = _mm512_set1_epi16((groups * m) as i16);
    let mut done = 0;
    while done < count {
        let first = done * bits;
        let window = &codes[first / 8..];
        let present = if window.len() < 64 { (1 << window.len()) - 1 } else { u64::MAX };
        // SAFETY: only bytes of the window are read.
        let window = unsafe { _mm512_maskz_loadu_epi8(present, window.as_ptr().cast()) };
        let position = _mm512_add_epi16(ramp, _mm512_set1_epi16((first % 8) as i16));
        let byte = _mm512_srli_epi16::<3>(position);
        // Bytes `b` and `b + 1` of the window into the low and high byte of each lane.
        let pair =
            _mm512_or_si512(byte, _mm512_slli_epi16::<8>(_mm512_add_epi16(byte, _mm512_set1_epi16(1))));
        let word = _mm512_permutexvar_epi8(pair, window);
        let shift = _mm512_and_si512(position, _mm512_set1_epi16(7));
        let code = _mm512_and_si512(_mm512_srlv_epi16(word, shift), mask);
        let room = &mut out[done..done + 32];
        // SAFETY: 64 bytes of room.
        unsafe { _mm512_storeu_epi16(room.as_mut_ptr().cast(), _mm512_add_epi16(base, code)) };
        base = _mm512_add_epi16(base, advance);
        done += per_step;
    }
}
