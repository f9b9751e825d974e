//! The inner loops of the batched products, written once over a vector type and compiled for
//! AVX-512, AVX2 with FMA, and plain Rust.
//!
//! All of them read the batch from a *panel*: X transposed, `cols x width` with `width = A * LANES`
//! batch items side by side, so that one weight meets `A` vectors of the panel row of its column.

#![allow(unsafe_code)] // std::arch and pointer loops: bounds are the callers' contract, stated per function

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

mod decode;
mod tiles;

pub(crate) use decode::{Bound, code_columns, positions, prefetch, transpose};
pub(crate) use tiles::{DOT_ITEMS, DOT_ROWS, Dots, GroupTile, ScatterTile, SparseTile};

use crate::Element;
#[cfg(target_arch = "x86_64")]
use decode::{below_avx512, widen_f16_avx512};
use decode::{below_portable, find_ends, widen, widen_f16_portable};
use tiles::{Stored, dots, group, scatter_tile, sparse_tile};

/// The widest panel, in vectors.
pub(crate) const MAX_VECTORS: usize = 8;

/// Rows that the register-blocked kernels take at once.
pub(crate) const GROUP: usize = 6;

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
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            _ => 8,
        }
    }

    /// Vectors that [`group`] kernels take at once: with [`GROUP`] rows they fill the registers.
    pub(crate) fn group_vectors(self) -> usize {
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

/// The kernels of one instruction set. The tables are indexed by `vectors - 1`, `rows - 1`,
/// `items - 1`.
pub(crate) struct Kernels {
    /// By vectors.
    pub(crate) sparse: [unsafe fn(&SparseTile); MAX_VECTORS],
    /// By vectors.
    pub(crate) scatter: [unsafe fn(&ScatterTile); MAX_VECTORS],
    /// By rows, then by vectors; columns given.
    pub(crate) shared: [[unsafe fn(&GroupTile); 4]; GROUP],
    /// By rows, then by vectors; all columns.
    pub(crate) dense: [[unsafe fn(&GroupTile); 4]; GROUP],
    /// bf16 to f32.
    pub(crate) widen_bf16: unsafe fn(&[bf16], &mut [f32]),
    /// f16 to f32.
    pub(crate) widen_f16: unsafe fn(&[f16], &mut [f32]),
    /// int8 to f32 with a scale.
    pub(crate) widen_i8: unsafe fn(&[i8], f32, &mut [f32]),
    /// See [`Bound`].
    pub(crate) ends: unsafe fn(Bound<'_>),
    pub(crate) dots_f32: Dots<f32>,
    pub(crate) dots_bf16: Dots<bf16>,
    pub(crate) dots_f16: Dots<f16>,
    pub(crate) dots_i8: Dots<i8>,
}

macro_rules! kernels {
    ($table:ident, $module:ident, $simd:ident, $below:ident, $f16:ident $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            // SAFETY of all: the contracts of the functions called, and the target feature.
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn sparse<const A: usize>(t: &SparseTile) {
                // SAFETY: see above.
                unsafe { sparse_tile::<$simd, A>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn scatter<const A: usize>(t: &ScatterTile) {
                // SAFETY: see above.
                unsafe { scatter_tile::<$simd, A>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn rows<const G: usize, const A: usize, const INDEXED: bool>(t: &GroupTile) {
                // SAFETY: see above.
                unsafe { group::<$simd, G, A, INDEXED>(t) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn bf16(src: &[bf16], dst: &mut [f32]) {
                widen(src, 1.0, dst);
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn i8(src: &[i8], scale: f32, dst: &mut [f32]) {
                widen(src, scale, dst);
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn f16(src: &[f16], dst: &mut [f32]) {
                #[allow(unused_unsafe)] // safe without a target feature
                // SAFETY: see above.
                unsafe { $f16(src, dst) }
            }
            $(#[target_feature(enable = $feature)])?
            pub(crate) unsafe fn bound(b: Bound<'_>) {
                find_ends(b, $below);
            }
            $(#[target_feature(enable = $feature)])?
            #[allow(private_bounds)] // Stored is as private as this module
            pub(crate) unsafe fn few<T: Stored, const R: usize, const B: usize>(
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
    pub(crate) fn kernels(self) -> &'static Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &AVX2,
            Self::Scalar => &SCALAR,
        }
    }
}
