//! The inner loops of the batched products, written once over a vector type and compiled for
//! AVX-512, AVX2 with FMA, and plain Rust.
//!
//! All of them read the batch from a *panel*: X transposed, `cols x width` with `width = A * LANES`
//! batch items side by side, so that one weight meets `A` vectors of the panel row of its column.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::Element;

/// The widest panel, in vectors.
pub(super) const MAX_VECTORS: usize = 8;

/// Rows that the register-blocked kernels take at once.
pub(super) const GROUP: usize = 6;

/// The instruction sets with kernels of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 F/BW/VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA, F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust.
    Scalar,
}

impl Isa {
    /// The best that this machine runs.
    pub(crate) fn detect() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Self::available().last().expect("scalar is always there"))
    }

    /// All that this machine runs, worst first.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt")
            {
                all.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                {
                    all.push(Self::Avx512);
                }
            }
        }
        all
    }

    /// Floats in a vector.
    pub(super) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            _ => 8,
        }
    }

    /// Vectors that [`group`] kernels take at once: with [`GROUP`] rows they fill the registers.
    pub(super) fn group_vectors(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 4,
            _ => 2,
        }
    }
}

/// A vector of floats.
trait Simd: Copy {
    type V: Copy;
    const LANES: usize;
    /// # Safety
    /// As the target features of the implementing type.
    unsafe fn splat(x: f32) -> Self::V;
    /// # Safety
    /// `p` must be readable for `LANES` floats.
    unsafe fn load(p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load_bf16(p: *const bf16) -> Self::V;
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load_i8(p: *const i8) -> Self::V;
    /// # Safety
    /// `p` must be writable for `LANES` floats.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `a * b + c`.
    /// # Safety
    /// As the target features of the implementing type.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// # Safety
    /// As the target features of the implementing type.
    unsafe fn prefetch(p: *const f32);
    /// # Safety
    /// As the target features of the implementing type.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
}

#[derive(Clone, Copy)]
struct Scalar;

impl Simd for Scalar {
    type V = [f32; 8];
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: readable by contract; an array of floats has the alignment of a float.
        unsafe { p.cast::<[f32; 8]>().read() }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::V {
        // SAFETY: readable by contract.
        unsafe { p.cast::<[bf16; 8]>().read() }.map(Element::widen)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::V {
        // SAFETY: readable by contract.
        unsafe { p.cast::<[f16; 8]>().read() }.map(Element::widen)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::V {
        // SAFETY: readable by contract.
        unsafe { p.cast::<[i8; 8]>().read() }.map(Element::widen)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: writable by contract.
        unsafe { p.cast::<[f32; 8]>().write(v) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
}

macro_rules! x86_simd {
    ($name:ident, $vector:ty, $lanes:literal, $set1:ident, $load:ident, $store:ident, $fma:ident, $add:ident,
     |$p:ident| $bf16:expr, $f16:expr, $i8:expr) => {
        #[cfg(target_arch = "x86_64")]
        #[derive(Clone, Copy)]
        struct $name;

        #[cfg(target_arch = "x86_64")]
        impl Simd for $name {
            type V = $vector;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self::V {
                // SAFETY: the caller has the target feature.
                unsafe { $set1(x) }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self::V {
                // SAFETY: readable by contract; the caller has the target feature.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn load_bf16($p: *const bf16) -> Self::V {
                // SAFETY: as load.
                unsafe { $bf16 }
            }
            #[inline(always)]
            unsafe fn load_f16($p: *const f16) -> Self::V {
                // SAFETY: as load.
                unsafe { $f16 }
            }
            #[inline(always)]
            unsafe fn load_i8($p: *const i8) -> Self::V {
                // SAFETY: as load.
                unsafe { $i8 }
            }
            #[inline(always)]
            unsafe fn store(p: *mut f32, v: Self::V) {
                // SAFETY: writable by contract; the caller has the target feature.
                unsafe { $store(p, v) }
            }
            #[inline(always)]
            unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                // SAFETY: the caller has the target feature.
                unsafe { $fma(a, b, c) }
            }
            #[inline(always)]
            unsafe fn prefetch(p: *const f32) {
                // SAFETY: a prefetch may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
            }
            #[inline(always)]
            unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                // SAFETY: the caller has the target feature.
                unsafe { $add(a, b) }
            }
        }
    };
}
x86_simd!(
    Zmm,
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    |p| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))),
    _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
);
x86_simd!(
    Ymm,
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    |p| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))),
    _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
);

/// One column tile of consecutive rows that have patterns of their own.
pub(super) struct SparseTile {
    /// Number of rows.
    pub(super) rows: usize,
    /// Per row: where its entries of this tile start.
    pub(super) starts: *const u32,
    /// Per row: where they end.
    pub(super) ends: *const u32,
    /// Columns, relative to `panel`.
    pub(super) columns: *const u16,
    /// Values beside the columns.
    pub(super) values: *const f32,
    /// The panel row of column 0 (modulo 65 536).
    pub(super) panel: *const f32,
    /// `rows x width`, added to.
    pub(super) y: *mut f32,
    /// What the next tile reads, to be fetched into the L2 cache meanwhile.
    pub(super) next: *const f32,
    /// Floats of `next` per row.
    pub(super) next_per_row: usize,
}

/// `y[r] += sum of values[i] * panel[columns[i]]` over the entries of every row.
///
/// # Safety
/// For every row, `starts..ends` lies inside columns and values, `panel` is readable for `width`
/// floats at every column named, and `y` is writable for `rows * width` floats.
#[inline(always)]
unsafe fn sparse_tile<S: Simd, const A: usize>(t: &SparseTile) {
    let width = A * S::LANES;
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        for r in 0..t.rows {
            let (mut i, end) = (*t.starts.add(r) as usize, *t.ends.add(r) as usize);
            let y = t.y.add(r * width);
            for line in 0..t.next_per_row / 16 {
                S::prefetch(t.next.wrapping_add(r * t.next_per_row + line * 16));
            }
            if r + 3 < t.rows {
                let ahead = *t.starts.add(r + 3) as usize;
                S::prefetch(t.values.add(ahead));
                S::prefetch(t.values.add(ahead).wrapping_add(16));
                S::prefetch(t.columns.add(ahead).cast());
            }
            let mut sums: [S::V; A] = std::array::from_fn(|a| S::load(y.add(a * S::LANES)));
            if A <= 3 {
                // Few sums: the latency of an addition would show, so keep four sets.
                let mut sets = [[S::splat(0.0); A]; 4];
                while i + 4 <= end {
                    for u in 0..4 {
                        let w = S::splat(*t.values.add(i + u));
                        let x = t.panel.add(*t.columns.add(i + u) as usize * width);
                        for a in 0..A {
                            sets[u][a] = S::fma(w, S::load(x.add(a * S::LANES)), sets[u][a]);
                        }
                    }
                    i += 4;
                }
                for a in 0..A {
                    let pairs = (S::add(sets[0][a], sets[1][a]), S::add(sets[2][a], sets[3][a]));
                    sums[a] = S::add(sums[a], S::add(pairs.0, pairs.1));
                }
            }
            while i < end {
                let w = S::splat(*t.values.add(i));
                let x = t.panel.add(*t.columns.add(i) as usize * width);
                for a in 0..A {
                    sums[a] = S::fma(w, S::load(x.add(a * S::LANES)), sums[a]);
                }
                i += 1;
            }
            for a in 0..A {
                S::store(y.add(a * S::LANES), sums[a]);
            }
        }
    }
}

/// One column tile of consecutive rows, multiplied from the left.
pub(super) struct ScatterTile {
    /// Number of rows.
    pub(super) rows: usize,
    /// Per row: where its entries of this tile start.
    pub(super) starts: *const u32,
    /// Per row: where they end.
    pub(super) ends: *const u32,
    /// Columns, relative to `y`.
    pub(super) columns: *const u16,
    /// Values beside the columns.
    pub(super) values: *const f32,
    /// `rows x width`: what each row is multiplied with.
    pub(super) panel: *const f32,
    /// Sums of column 0 (modulo 65 536), `width` a column, added to. May point outside of memory
    /// as long as the columns named do not.
    pub(super) y: *mut f32,
}

/// `y[columns[i]] += values[i] * panel[r]` over the entries of every row.
///
/// # Safety
/// For every row, `starts..ends` lies inside columns and values; `panel` is readable for
/// `rows * width` floats; `y` is valid for `width` floats at every column named.
#[inline(always)]
unsafe fn scatter_tile<S: Simd, const A: usize>(t: &ScatterTile) {
    const AHEAD: usize = 6;
    let width = A * S::LANES;
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        for r in 0..t.rows {
            if r + AHEAD < t.rows {
                // Spans lie far apart, in memory that no hardware prefetcher foresees.
                let ahead = *t.starts.add(r + AHEAD) as usize;
                S::prefetch(t.values.add(ahead));
                S::prefetch(t.values.add(ahead).wrapping_add(16));
                S::prefetch(t.columns.add(ahead).cast());
            }
            let x = t.panel.add(r * width);
            let xs: [S::V; A] = std::array::from_fn(|a| S::load(x.add(a * S::LANES)));
            for i in *t.starts.add(r) as usize..*t.ends.add(r) as usize {
                let w = S::splat(*t.values.add(i));
                let y = t.y.wrapping_add(*t.columns.add(i) as usize * width);
                for a in 0..A {
                    let y = y.wrapping_add(a * S::LANES);
                    S::store(y, S::fma(w, xs[a], S::load(y)));
                }
            }
        }
    }
}

/// A few rows that share their columns.
pub(super) struct GroupTile {
    /// Number of entries of a row.
    pub(super) len: usize,
    /// Their columns relative to `panel`; null: `0..len`.
    pub(super) columns: *const u16,
    /// The values of each row.
    pub(super) values: [*const f32; GROUP],
    /// The panel row of column 0.
    pub(super) panel: *const f32,
    /// Floats from one row of the panel, and of y, to the next.
    pub(super) width: usize,
    /// `G` rows, added to.
    pub(super) y: *mut f32,
    /// What the next tile reads, to be fetched into the L2 cache meanwhile.
    pub(super) next: *const f32,
    /// Cache lines of `next`.
    pub(super) next_lines: usize,
}

/// Where the entries of many rows that lie below a column end.
pub(super) struct Bound<'a> {
    /// The columns of all rows, rising within each row.
    pub(super) columns: &'a [u16],
    /// Per row: the first entry to look at.
    pub(super) starts: &'a [u32],
    /// Per row: the end of its entries; one longer, `limits[r + 1]` is the end of row `r`.
    pub(super) limits: &'a [u32],
    /// Entries below this column count.
    pub(super) column: u16,
    /// Per row: the end.
    pub(super) ends: &'a mut [u32],
}

#[inline(always)]
fn find_ends(b: Bound<'_>, below_chunk: impl Fn(&[u16; 32], u16) -> u32) {
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
fn below_portable(chunk: &[u16; 32], column: u16) -> u32 {
    chunk.iter().map(|&c| u32::from(c < column)).sum()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn below_avx512(chunk: &[u16; 32], column: u16) -> u32 {
    // SAFETY: called from functions with AVX-512 BW only; the chunk is 64 bytes.
    unsafe {
        let chunk = _mm512_loadu_epi16(chunk.as_ptr().cast());
        _mm512_cmplt_epu16_mask(chunk, _mm512_set1_epi16(column as i16)).count_ones()
    }
}

/// Writes the positions of the set bits of `mask`, the lowest bit of its first byte being 0.
///
/// Returns their number. `out` must have room for 32 more.
pub(super) fn positions(isa: Isa, mask: &[u8], out: &mut [u16]) -> usize {
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

fn positions_portable(mask: &[u8], first: usize, mut at: usize, out: &mut [u16]) -> usize {
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
fn positions_avx512(mask: &[u8], out: &mut [u16]) -> usize {
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

/// `y[g] += sum of values[g][i] * panel[columns[i]]`, `G` rows x `A` vectors in registers.
///
/// # Safety
/// Columns (unless null) and the first `G` values are readable for `len` entries, `panel` for `A`
/// vectors at every column named; `y` is writable for `A` vectors at each of `G` rows.
#[inline(always)]
unsafe fn group<S: Simd, const G: usize, const A: usize, const INDEXED: bool>(t: &GroupTile) {
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        let mut sums: [[S::V; A]; G] =
            std::array::from_fn(|g| std::array::from_fn(|a| S::load(t.y.add(g * t.width + a * S::LANES))));
        let values: [*const f32; G] = std::array::from_fn(|g| t.values[g]);
        let mut x = t.panel;
        for line in 0..t.next_lines {
            S::prefetch(t.next.wrapping_add(line * 16));
        }
        for i in 0..t.len {
            if INDEXED {
                x = t.panel.add(*t.columns.add(i) as usize * t.width);
            }
            let xs: [S::V; A] = std::array::from_fn(|a| S::load(x.add(a * S::LANES)));
            for g in 0..G {
                let w = S::splat(*values[g].add(i));
                for a in 0..A {
                    sums[g][a] = S::fma(w, xs[a], sums[g][a]);
                }
            }
            if !INDEXED {
                x = x.add(t.width);
            }
        }
        for g in 0..G {
            for a in 0..A {
                S::store(t.y.add(g * t.width + a * S::LANES), sums[g][a]);
            }
        }
    }
}

/// Asks for `items` to be fetched into the L2 cache.
pub(super) fn prefetch<T>(items: &[T]) {
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
unsafe fn transpose_scalar(
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
unsafe fn transpose_avx2(
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
pub(super) unsafe fn transpose(
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

/// A stored number as [`dots`] reads it.
trait Stored: Element {
    /// # Safety
    /// `p` must be readable for `S::LANES` numbers.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

macro_rules! stored {
    ($($type:ty, $load:ident);*) => {$(
        impl Stored for $type {
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const Self) -> S::V {
                // SAFETY: by contract.
                unsafe { S::$load(p) }
            }
        }
    )*};
}
stored!(f32, load; bf16, load_bf16; f16, load_f16; i8, load_i8);

/// `y[b * y_stride + r] = scales[r] * sum of w[r * k + i] * x[b * x_stride + i]` for `R` rows and `B` items: a
/// product with a few vectors at once, vectorised over columns. No scales: they are one.
///
/// # Safety
/// `w` is readable for `R * k` numbers, `scales` (unless null) for `R`, `x` for `k` floats at each of `B` items; `y` is writable
/// for `R` floats at each.
#[inline(always)]
unsafe fn dots<S: Simd, T: Stored, const R: usize, const B: usize>(
    w: *const T,
    scales: *const f32,
    k: usize,
    x: *const f32,
    x_stride: usize,
    y: *mut f32,
    y_stride: usize,
    add: bool,
) {
    // SAFETY: all pointers stay inside the ranges of the contract.
    unsafe {
        let mut sums = [[S::splat(0.0); B]; R];
        let whole = k / S::LANES * S::LANES;
        let mut i = 0;
        while i < whole {
            let xs: [S::V; B] = std::array::from_fn(|b| S::load(x.add(b * x_stride + i)));
            for r in 0..R {
                let w = T::load::<S>(w.add(r * k + i));
                for b in 0..B {
                    sums[r][b] = S::fma(w, xs[b], sums[r][b]);
                }
            }
            i += S::LANES;
        }
        for r in 0..R {
            for b in 0..B {
                let mut parts = [0.0f32; 16];
                S::store(parts.as_mut_ptr(), sums[r][b]);
                let mut half = S::LANES / 2;
                while half > 0 {
                    for l in 0..half {
                        parts[l] += parts[l + half];
                    }
                    half /= 2;
                }
                let mut sum = parts[0];
                for i in whole..k {
                    sum += (*w.add(r * k + i)).widen() * *x.add(b * x_stride + i);
                }
                if !scales.is_null() {
                    sum *= *scales.add(r);
                }
                let to = y.add(b * y_stride + r);
                *to = if add { *to + sum } else { sum };
            }
        }
    }
}

/// Items that [`dots`] takes at once.
pub(super) const DOT_ITEMS: usize = 4;
/// Rows that [`dots`] takes at once.
pub(super) const DOT_ROWS: usize = 4;

#[inline(always)]
fn widen<T: Element>(src: &[T], scale: f32, dst: &mut [f32]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = s.widen() * scale;
    }
}

fn widen_f16_portable(src: &[f16], dst: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    src.convert_to_f32_slice(dst);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_f16_avx512(src: &[f16], dst: &mut [f32]) {
    let (wide, rest) = dst.as_chunks_mut::<16>();
    let (from, from_rest) = src.as_chunks::<16>();
    for (d, s) in wide.iter_mut().zip(from) {
        // SAFETY: 32 bytes to read and 64 to write.
        unsafe { _mm512_storeu_ps(d.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(s.as_ptr().cast()))) };
    }
    widen(from_rest, 1.0, rest);
}

/// By rows (1, or all), then by items.
pub(super) type Dots<T> = [[Few<T>; DOT_ITEMS]; 2];
type Few<T> = unsafe fn(*const T, *const f32, usize, *const f32, usize, *mut f32, usize, bool);

/// Writes the columns of `out.len() - 32` codes of `bits` bits, `n` to a group of `m` columns.
pub(super) fn code_columns(isa: Isa, codes: &[u8], bits: usize, (n, m): (usize, usize), out: &mut [u16]) {
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

fn code_columns_portable(codes: &[u8], bits: usize, (n, m): (usize, usize), out: &mut [u16]) {
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
fn code_columns_avx512(codes: &[u8], bits: usize, (n, m): (usize, usize), count: usize, out: &mut [u16]) {
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

/// The kernels of one instruction set. The tables are indexed by `vectors - 1`, `rows - 1`,
/// `items - 1`.
pub(super) struct Kernels {
    /// By vectors.
    pub(super) sparse: [unsafe fn(&SparseTile); MAX_VECTORS],
    /// By vectors.
    pub(super) scatter: [unsafe fn(&ScatterTile); MAX_VECTORS],
    /// By rows, then by vectors; columns given.
    pub(super) shared: [[unsafe fn(&GroupTile); 4]; GROUP],
    /// By rows, then by vectors; all columns.
    pub(super) dense: [[unsafe fn(&GroupTile); 4]; GROUP],
    /// bf16 to f32.
    pub(super) widen_bf16: unsafe fn(&[bf16], &mut [f32]),
    /// f16 to f32.
    pub(super) widen_f16: unsafe fn(&[f16], &mut [f32]),
    /// int8 to f32 with a scale.
    pub(super) widen_i8: unsafe fn(&[i8], f32, &mut [f32]),
    /// See [`Bound`].
    pub(super) ends: unsafe fn(Bound<'_>),
    pub(super) dots_f32: Dots<f32>,
    pub(super) dots_bf16: Dots<bf16>,
    pub(super) dots_f16: Dots<f16>,
    pub(super) dots_i8: Dots<i8>,
}

macro_rules! kernels {
    ($table:ident, $module:ident, $simd:ident, $below:ident, $f16:ident $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            // SAFETY of all: the contracts of the functions called, and the target feature.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn sparse<const A: usize>(t: &SparseTile) {
                // SAFETY: see above.
                unsafe { sparse_tile::<$simd, A>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn scatter<const A: usize>(t: &ScatterTile) {
                // SAFETY: see above.
                unsafe { scatter_tile::<$simd, A>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn rows<const G: usize, const A: usize, const INDEXED: bool>(t: &GroupTile) {
                // SAFETY: see above.
                unsafe { group::<$simd, G, A, INDEXED>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn bf16(src: &[bf16], dst: &mut [f32]) {
                widen(src, 1.0, dst);
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn i8(src: &[i8], scale: f32, dst: &mut [f32]) {
                widen(src, scale, dst);
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn f16(src: &[f16], dst: &mut [f32]) {
                #[allow(unused_unsafe)] // safe without a target feature
                // SAFETY: see above.
                unsafe { $f16(src, dst) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn bound(b: Bound<'_>) {
                find_ends(b, $below);
            }
            $(#[target_feature(enable = $feature)])?
            #[allow(private_bounds)] // Stored is as private as this module
            pub(super) unsafe fn few<T: Stored, const R: usize, const B: usize>(
                w: *const T,
                scales: *const f32,
                k: usize,
                x: *const f32,
                x_stride: usize,
                y: *mut f32,
                y_stride: usize,
                add: bool,
            ) {
                // SAFETY: see above.
                unsafe { dots::<$simd, T, R, B>(w, scales, k, x, x_stride, y, y_stride, add) }
            }
        }

        static $table: Kernels = {
            use $module::{bound, few, rows, scatter, sparse};
            macro_rules! by_rows {
                ($indexed:literal) => {
                    [
                        [rows::<1, 1, $indexed>, rows::<1, 2, $indexed>, rows::<1, 3, $indexed>, rows::<1, 4, $indexed>],
                        [rows::<2, 1, $indexed>, rows::<2, 2, $indexed>, rows::<2, 3, $indexed>, rows::<2, 4, $indexed>],
                        [rows::<3, 1, $indexed>, rows::<3, 2, $indexed>, rows::<3, 3, $indexed>, rows::<3, 4, $indexed>],
                        [rows::<4, 1, $indexed>, rows::<4, 2, $indexed>, rows::<4, 3, $indexed>, rows::<4, 4, $indexed>],
                        [rows::<5, 1, $indexed>, rows::<5, 2, $indexed>, rows::<5, 3, $indexed>, rows::<5, 4, $indexed>],
                        [rows::<6, 1, $indexed>, rows::<6, 2, $indexed>, rows::<6, 3, $indexed>, rows::<6, 4, $indexed>],
                    ]
                };
            }
            macro_rules! few {
                ($type:ty) => {
                    [
                        [few::<$type, 1, 1>, few::<$type, 1, 2>, few::<$type, 1, 3>, few::<$type, 1, 4>],
                        [
                            few::<$type, DOT_ROWS, 1>,
                            few::<$type, DOT_ROWS, 2>,
                            few::<$type, DOT_ROWS, 3>,
                            few::<$type, DOT_ROWS, 4>,
                        ],
                    ]
                };
            }
            Kernels {
                sparse: [
                    sparse::<1>, sparse::<2>, sparse::<3>, sparse::<4>,
                    sparse::<5>, sparse::<6>, sparse::<7>, sparse::<8>,
                ],
                scatter: [
                    scatter::<1>, scatter::<2>, scatter::<3>, scatter::<4>,
                    scatter::<5>, scatter::<6>, scatter::<7>, scatter::<8>,
                ],
                shared: by_rows!(true),
                dense: by_rows!(false),
                widen_bf16: $module::bf16,
                widen_f16: $module::f16,
                widen_i8: $module::i8,
                ends: bound,
                dots_f32: few!(f32),
                dots_bf16: few!(bf16),
                dots_f16: few!(f16),
                dots_i8: few!(i8),
            }
        };
    };
}
kernels!(SCALAR, scalar, Scalar, below_portable, widen_f16_portable);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, avx2, Ymm, below_portable, widen_f16_portable, "avx2,fma,f16c,popcnt");
#[cfg(target_arch = "x86_64")]
kernels!(
    AVX512,
    avx512,
    Zmm,
    below_avx512,
    widen_f16_avx512,
    "avx512f,avx512bw,avx512vl,avx2,fma,f16c,popcnt"
);

impl Isa {
    pub(super) fn kernels(self) -> &'static Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &AVX2,
            Self::Scalar => &SCALAR,
        }
    }
}
