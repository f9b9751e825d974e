//! Packing to bf16 and a 32 x 32 block of a product of bf16 panels, AVX-512 BF16.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

use std::arch::x86_64::*;

use super::gemm_bf16::{LINES, Lines, Order, STEP, STEP_K};

macro_rules! features {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
        $vis unsafe fn $($rest)*
    };
}

/// Whether this machine has the instructions. The standard library caches what it finds.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bf16")
}

/// Numbers of k by which the packing reads ahead where they are neighbours: 32 streams are too many for the
/// prefetching of the processor.
const AHEAD: usize = 2 * STEP_K;

/// 0, 16, 1, 17 and so on.
const INTERLEAVED: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

/// The lowest `n` of 16 lanes.
fn lanes(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

features! {
    /// 16 pairs of bf16, the first of each in the low half.
    unsafe fn pairs(first: __m512, second: __m512) -> __m512i {
        // The conversion puts its last operand into the low 16 words; word `i` of it goes to word `2 i`.
        // SAFETY: 512 plain bits in all three.
        unsafe {
            let order = std::mem::transmute::<[u16; 32], __m512i>(INTERLEAVED);
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_permutexvar_epi16(order, halves)
        }
    }
}

features! {
    /// Brings the line at `p` into the cache.
    unsafe fn ahead(p: *const f32) {
        // A prefetch never faults, so the address may lie outside.
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
}

features! {
    /// Transposes 16 x 16 words.
    unsafe fn transpose(rows: &mut [__m512i; 16]) {
        // Words, then pairs of words, then quarters, change places across rows 1, 2, 4 and 8 apart.
        for i in (0..16).step_by(2) {
            let (x, y) = (rows[i], rows[i + 1]);
            (rows[i], rows[i + 1]) = (_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
        }
        let mut quads = [_mm512_setzero_si512(); 16];
        for i in (0..16).step_by(4) {
            quads[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 2]);
            quads[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 2]);
            quads[i + 2] = _mm512_unpacklo_epi64(rows[i + 1], rows[i + 3]);
            quads[i + 3] = _mm512_unpackhi_epi64(rows[i + 1], rows[i + 3]);
        }
        // quads[4 g + c] holds, in quarter q, column 4 q + c of rows 4 g..4 g + 4.
        for c in 0..4 {
            let even01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[c], quads[4 + c]);
            let odd01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[c], quads[4 + c]);
            let even23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[8 + c], quads[12 + c]);
            let odd23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[8 + c], quads[12 + c]);
            rows[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even01, even23);
            rows[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd01, odd23);
            rows[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even01, even23);
            rows[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd01, odd23);
        }
    }
}

features! {
    /// Packs up to 32 lines, `first` the first of them, over `k` numbers into whole steps, zeros beyond.
    ///
    /// # Safety
    /// The entries of `source` named by `first..first + count` and `ks` must be readable;
    /// `ks.len().div_ceil(STEP_K) * STEP` words writable at `out`, which is 64-byte aligned.
    pub(super) unsafe fn pack(
        source: Lines, order: Order, first: usize, count: usize, ks: std::ops::Range<usize>, out: *mut u32
    ) {
        for (step, k) in ks.clone().step_by(STEP_K).enumerate() {
            let left = ks.end - k;
            for half in 0..2 {
                let count = count.saturating_sub(16 * half).min(16);
                let from = source.data.wrapping_add((first + 16 * half) * source.line + k * source.k);
                let mut rows = [_mm512_setzero_si512(); 16];
                // SAFETY: lanes and lines beyond the view are not read.
                unsafe {
                    if source.k == 1 {
                        let (low, high) = (lanes(left), lanes(left.saturating_sub(16)));
                        for (line, row) in rows.iter_mut().enumerate().take(count) {
                            let p = from.add(line * source.line);
                            ahead(p.wrapping_add(AHEAD));
                            ahead(p.wrapping_add(AHEAD + 16));
                            let low = _mm512_maskz_loadu_ps(low, p);
                            let high = _mm512_maskz_loadu_ps(high, p.wrapping_add(16));
                            *row = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                        }
                    } else {
                        let mask = lanes(count);
                        for (pair, row) in rows.iter_mut().enumerate().take(left.div_ceil(2)) {
                            let p = from.add(2 * pair * source.k);
                            let second = if 2 * pair + 1 < left { mask } else { 0 };
                            let next = _mm512_maskz_loadu_ps(second, p.wrapping_add(source.k));
                            *row = pairs(_mm512_maskz_loadu_ps(mask, p), next);
                        }
                    }
                    if (source.k == 1) != (order == Order::LinesOfPairs) {
                        transpose(&mut rows);
                    }
                    let to = out.add(step * STEP + half * STEP / 2);
                    for (i, row) in rows.into_iter().enumerate() {
                        _mm512_store_si512(to.add(16 * i).cast(), row);
                    }
                }
            }
        }
    }
}

features! {
    /// `sums = A B` for panels of 32 rows and 32 columns over `steps` steps of k: see [`super::gemm_bf16`].
    ///
    /// # Safety
    /// `steps * STEP` words must be readable at `a` and `b`.
    pub(super) unsafe fn block(a: *const u32, b: *const u32, steps: usize, sums: &mut [[f32; 32]; 32]) {
        /// Rows whose sums are held in registers.
        const ROWS: usize = 8;
        for (group, sums) in sums.chunks_exact_mut(ROWS).enumerate() {
            let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
            // SAFETY: within the panels by contract.
            unsafe {
                let mut a = a.add(group / 2 * (STEP / 2) + group % 2 * ROWS * 16);
                let mut b = b;
                for _ in 0..steps {
                    // The lines of A in the next step: B, which all rows share, comes in order.
                    (0..ROWS).for_each(|i| ahead(a.wrapping_add(STEP + 16 * i).cast()));
                    for pair in 0..16 {
                        let left: __m512bh = std::mem::transmute(_mm512_load_si512(b.add(16 * pair).cast()));
                        let right = _mm512_load_si512(b.add(STEP / 2 + 16 * pair).cast());
                        let right: __m512bh = std::mem::transmute(right);
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = _mm512_set1_epi32(*a.add(16 * i + pair).cast::<i32>());
                            let x: __m512bh = std::mem::transmute(x);
                            acc[0] = _mm512_dpbf16_ps(acc[0], x, left);
                            acc[1] = _mm512_dpbf16_ps(acc[1], x, right);
                        }
                    }
                    (a, b) = (a.add(STEP), b.add(STEP));
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                    _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
                }
            }
        }
    }
}

features! {
    /// `c = alpha sums + beta c` for the first `rows` rows and `cols` columns; `c` is not read if `beta = 0`.
    ///
    /// # Safety
    /// These entries of `c`, whose rows start `stride` apart, must be valid for reads and writes.
    pub(super) unsafe fn store(
        sums: &[[f32; 32]; 32], alpha: f32, beta: f32, c: *mut f32, stride: usize, rows: usize, cols: usize
    ) {
        let masks = [lanes(cols), lanes(cols.saturating_sub(16))];
        let (alpha, scale) = (_mm512_set1_ps(alpha), _mm512_set1_ps(beta));
        for (i, sums) in sums.iter().enumerate().take(rows.min(LINES)) {
            for (half, mask) in masks.into_iter().enumerate() {
                // SAFETY: lanes outside of C are masked.
                unsafe {
                    let p = c.add(i * stride).wrapping_add(16 * half);
                    let mut sum = _mm512_mul_ps(alpha, _mm512_loadu_ps(sums.as_ptr().add(16 * half)));
                    if beta != 0.0 {
                        sum = _mm512_fmadd_ps(scale, _mm512_maskz_loadu_ps(mask, p), sum);
                    }
                    _mm512_mask_storeu_ps(p, mask, sum);
                }
            }
        }
    }
}
