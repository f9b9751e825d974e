//! Inner products and updates of single vectors: the inner loops of coordinate descent.
//!
//! `x` is a stored column, f32 or f64; `y` is always f64 and so are all sums: f32 halves the memory
//! that a column takes and costs no accuracy beyond its own rounding.
//!
//! | function | computes | forms |
//! |---|---|---|
//! | [`dot`] | `xᵀ y` | AVX-512, AVX2, scalar |
//! | [`dot_many`] | four `xᵀ y` that share the loads of `y` | AVX-512, AVX2, scalar |
//! | [`axpy`] | `y += a x` | AVX-512, AVX2, scalar |
//! | [`sparse_dot`], [`sparse_axpy`] | the same for the stored entries of a sparse column | scalar |
//!
//! The form is chosen at run time; one machine always gives the same bits, two machines may differ in
//! the last ones. Gathers are not faster than single loads on the processors we measured, so sparse
//! columns have one form.

#![allow(unsafe_code)] // std::arch loops: bounds are stated per function

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `f32` or `f64`: what a column may be stored in. Sealed.
pub trait Real:
    sealed::Sealed + Lanes + Copy + Default + PartialEq + Send + Sync + std::fmt::Debug + 'static
{
    /// The same number as f64; exact.
    fn to_f64(self) -> f64;
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
}

#[cfg(target_arch = "x86_64")]
use x86::Lanes;

/// Nothing to load in lanes on other processors.
#[cfg(not(target_arch = "x86_64"))]
pub trait Lanes {}
#[cfg(not(target_arch = "x86_64"))]
impl<T> Lanes for T {}

/// The instruction sets with forms of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Form {
    /// The best that this machine runs. The standard library caches what it finds.
    #[inline]
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }
}

/// `xᵀ y`.
///
/// # Panics
/// When the lengths differ.
#[inline]
pub fn dot<T: Real>(x: &[T], y: &[f64]) -> f64 {
    dot_with(Form::detect(), x, y)
}

#[inline]
fn dot_with<T: Real>(form: Form, x: &[T], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "a product of vectors of different lengths");
    match form {
        Form::Scalar => scalar::dot(x, y),
        // SAFETY: the lengths are equal, and this form is only chosen where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Form::Avx2 => unsafe { x86::dot2([x], y)[0] },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Avx512 => unsafe { x86::dot512(x, y) },
    }
}

/// The products of four columns with the same `y`.
///
/// # Panics
/// When a length differs.
#[inline]
pub fn dot_many<T: Real>(x: [&[T]; 4], y: &[f64]) -> [f64; 4] {
    dot_many_with(Form::detect(), x, y)
}

#[inline]
fn dot_many_with<T: Real>(form: Form, x: [&[T]; 4], y: &[f64]) -> [f64; 4] {
    for column in x {
        assert_eq!(column.len(), y.len(), "a product of vectors of different lengths");
    }
    match form {
        Form::Scalar => x.map(|column| scalar::dot(column, y)),
        // SAFETY: the lengths are equal, and this form is only chosen where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Form::Avx2 => unsafe { x86::dot2(x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Avx512 => unsafe {
            // Neighbours in memory are probably followed by the next four.
            let next = |c: usize| x[c].as_ptr().wrapping_add(y.len());
            if (0..3).all(|c| next(c) == x[c + 1].as_ptr()) {
                x86::dot512_four::<T, true>(x, y)
            } else {
                x86::dot512_four::<T, false>(x, y)
            }
        },
    }
}

/// `y += a x`.
///
/// # Panics
/// When the lengths differ.
#[inline]
pub fn axpy<T: Real>(a: f64, x: &[T], y: &mut [f64]) {
    axpy_with(Form::detect(), a, x, y);
}

#[inline]
fn axpy_with<T: Real>(form: Form, a: f64, x: &[T], y: &mut [f64]) {
    assert_eq!(x.len(), y.len(), "a sum of vectors of different lengths");
    match form {
        Form::Scalar => scalar::axpy(a, x, y),
        // SAFETY: the lengths are equal, and this form is only chosen where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Form::Avx2 => unsafe { x86::axpy2(a, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Form::Avx512 => unsafe { x86::axpy512(a, x, y) },
    }
}

/// `sum_k values[k] y[rows[k]]`.
///
/// # Panics
/// When the lengths differ or a row lies outside `y`.
#[inline]
pub fn sparse_dot<T: Real>(rows: &[u32], values: &[T], y: &[f64]) -> f64 {
    assert_eq!(rows.len(), values.len(), "a row for every value");
    let (row_chunks, value_chunks) = (rows.chunks_exact(4), values.chunks_exact(4));
    let tail = row_chunks.remainder().iter().zip(value_chunks.remainder());
    let tail: f64 = tail.map(|(&r, v)| v.to_f64() * y[r as usize]).sum();
    let mut sums = [0.0; 4];
    for (r, v) in row_chunks.zip(value_chunks) {
        for lane in 0..4 {
            sums[lane] += v[lane].to_f64() * y[r[lane] as usize];
        }
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3]) + tail
}

/// `y[rows[k]] += a values[k]` for every `k`.
///
/// # Panics
/// When the lengths differ or a row lies outside `y`.
#[inline]
pub fn sparse_axpy<T: Real>(a: f64, rows: &[u32], values: &[T], y: &mut [f64]) {
    assert_eq!(rows.len(), values.len(), "a row for every value");
    for (&r, v) in rows.iter().zip(values) {
        y[r as usize] += a * v.to_f64();
    }
}

mod scalar {
    use super::Real;

    /// Eight sums, so that any compiler target keeps its vector units busy.
    pub(super) fn dot<T: Real>(x: &[T], y: &[f64]) -> f64 {
        let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
        let tail: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a.to_f64() * b).sum();
        let mut sums = [0.0; 8];
        for (a, b) in xs.zip(ys) {
            for lane in 0..8 {
                sums[lane] += a[lane].to_f64() * b[lane];
            }
        }
        sums.iter().sum::<f64>() + tail
    }

    pub(super) fn axpy<T: Real>(a: f64, x: &[T], y: &mut [f64]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x.to_f64();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Real;

    /// Loads of a stored type, widened to f64.
    pub trait Lanes: Sized {
        /// Eight numbers from `p` on.
        ///
        /// # Safety
        /// Eight numbers must be readable there, and the machine must have AVX-512 F and VL.
        unsafe fn load8(p: *const Self) -> __m512d;
        /// The numbers from `p` on whose bit of `mask` is set, zero elsewhere.
        ///
        /// # Safety
        /// Those numbers must be readable, and the machine must have AVX-512 F and VL.
        unsafe fn load8_masked(p: *const Self, mask: u8) -> __m512d;
        /// Four numbers from `p` on.
        ///
        /// # Safety
        /// Four numbers must be readable there, and the machine must have AVX2.
        unsafe fn load4(p: *const Self) -> __m256d;
    }

    impl Lanes for f64 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512vl")]
        unsafe fn load8(p: *const Self) -> __m512d {
            // SAFETY: the caller's contract.
            unsafe { _mm512_loadu_pd(p) }
        }
        #[inline]
        #[target_feature(enable = "avx512f,avx512vl")]
        unsafe fn load8_masked(p: *const Self, mask: u8) -> __m512d {
            // SAFETY: masked lanes are not read.
            unsafe { _mm512_maskz_loadu_pd(mask, p) }
        }
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn load4(p: *const Self) -> __m256d {
            // SAFETY: the caller's contract.
            unsafe { _mm256_loadu_pd(p) }
        }
    }

    impl Lanes for f32 {
        #[inline]
        #[target_feature(enable = "avx512f,avx512vl")]
        unsafe fn load8(p: *const Self) -> __m512d {
            // SAFETY: the caller's contract.
            _mm512_cvtps_pd(unsafe { _mm256_loadu_ps(p) })
        }
        #[inline]
        #[target_feature(enable = "avx512f,avx512vl")]
        unsafe fn load8_masked(p: *const Self, mask: u8) -> __m512d {
            // SAFETY: masked lanes are not read.
            _mm512_cvtps_pd(unsafe { _mm256_maskz_loadu_ps(mask, p) })
        }
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn load4(p: *const Self) -> __m256d {
            // SAFETY: the caller's contract.
            _mm256_cvtps_pd(unsafe { _mm_loadu_ps(p) })
        }
    }

    /// The bits of the first `left < 8` lanes.
    #[inline(always)]
    fn first(left: usize) -> u8 {
        (1u8 << left) - 1
    }

    /// # Safety
    /// Equal lengths; AVX-512 F and VL.
    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) unsafe fn dot512<T: Real>(x: &[T], y: &[f64]) -> f64 {
        let (n, px, py) = (x.len(), x.as_ptr(), y.as_ptr());
        let mut sums = [_mm512_setzero_pd(); 4];
        let mut i = 0;
        // SAFETY: every index read is below `n`, the length of both; masked lanes are not read.
        unsafe {
            while i + 32 <= n {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let at = i + 8 * lane;
                    *sum = _mm512_fmadd_pd(T::load8(px.add(at)), _mm512_loadu_pd(py.add(at)), *sum);
                }
                i += 32;
            }
            while i + 8 <= n {
                sums[0] = _mm512_fmadd_pd(T::load8(px.add(i)), _mm512_loadu_pd(py.add(i)), sums[0]);
                i += 8;
            }
            if i < n {
                let mask = first(n - i);
                let (a, b) = (T::load8_masked(px.add(i), mask), _mm512_maskz_loadu_pd(mask, py.add(i)));
                sums[1] = _mm512_fmadd_pd(a, b, sums[1]);
            }
        }
        let (even, odd) = (_mm512_add_pd(sums[0], sums[2]), _mm512_add_pd(sums[1], sums[3]));
        _mm512_reduce_add_pd(_mm512_add_pd(even, odd))
    }

    /// # Safety
    /// Equal lengths; AVX-512 F and VL.
    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) unsafe fn dot512_four<T: Real, const STREAM: bool>(x: [&[T]; 4], y: &[f64]) -> [f64; 4] {
        let (n, px, py) = (y.len(), x.map(<[T]>::as_ptr), y.as_ptr());
        let mut sums = [[_mm512_setzero_pd(); 2]; 4];
        let mut i = 0;
        // SAFETY: every index read is below `n`, the length of all; masked lanes are not read.
        unsafe {
            while i + 16 <= n {
                let (low, high) = (_mm512_loadu_pd(py.add(i)), _mm512_loadu_pd(py.add(i + 8)));
                for c in 0..4 {
                    if STREAM {
                        let next = px[c].wrapping_add(i + 4 * n);
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(8).cast());
                    }
                    sums[c][0] = _mm512_fmadd_pd(T::load8(px[c].add(i)), low, sums[c][0]);
                    sums[c][1] = _mm512_fmadd_pd(T::load8(px[c].add(i + 8)), high, sums[c][1]);
                }
                i += 16;
            }
            if i + 8 <= n {
                let low = _mm512_loadu_pd(py.add(i));
                for c in 0..4 {
                    sums[c][0] = _mm512_fmadd_pd(T::load8(px[c].add(i)), low, sums[c][0]);
                }
                i += 8;
            }
            if i < n {
                let mask = first(n - i);
                let low = _mm512_maskz_loadu_pd(mask, py.add(i));
                for c in 0..4 {
                    sums[c][1] = _mm512_fmadd_pd(T::load8_masked(px[c].add(i), mask), low, sums[c][1]);
                }
            }
        }
        sums.map(|s| _mm512_reduce_add_pd(_mm512_add_pd(s[0], s[1])))
    }

    /// # Safety
    /// Equal lengths; AVX-512 F and VL.
    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) unsafe fn axpy512<T: Real>(a: f64, x: &[T], y: &mut [f64]) {
        let (n, px, py) = (x.len(), x.as_ptr(), y.as_mut_ptr());
        let factor = _mm512_set1_pd(a);
        let mut i = 0;
        // SAFETY: every index read or written is below `n`, the length of both; masked lanes are not touched.
        unsafe {
            while i + 8 <= n {
                let sum = _mm512_fmadd_pd(factor, T::load8(px.add(i)), _mm512_loadu_pd(py.add(i)));
                _mm512_storeu_pd(py.add(i), sum);
                i += 8;
            }
            if i < n {
                let mask = first(n - i);
                let old = _mm512_maskz_loadu_pd(mask, py.add(i));
                let sum = _mm512_fmadd_pd(factor, T::load8_masked(px.add(i), mask), old);
                _mm512_mask_storeu_pd(py.add(i), mask, sum);
            }
        }
    }

    /// # Safety
    /// Equal lengths; AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn dot2<T: Real, const C: usize>(x: [&[T]; C], y: &[f64]) -> [f64; C] {
        let (n, px, py) = (y.len(), x.map(<[T]>::as_ptr), y.as_ptr());
        let mut sums = [[_mm256_setzero_pd(); 2]; C];
        let mut i = 0;
        // SAFETY: every index read is below `n`, the length of all.
        unsafe {
            while i + 8 <= n {
                let (low, high) = (_mm256_loadu_pd(py.add(i)), _mm256_loadu_pd(py.add(i + 4)));
                for c in 0..C {
                    sums[c][0] = _mm256_fmadd_pd(T::load4(px[c].add(i)), low, sums[c][0]);
                    sums[c][1] = _mm256_fmadd_pd(T::load4(px[c].add(i + 4)), high, sums[c][1]);
                }
                i += 8;
            }
        }
        let mut out = [0.0; C];
        for c in 0..C {
            let both = _mm256_add_pd(sums[c][0], sums[c][1]);
            let pair = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd::<1>(both));
            out[c] = _mm_cvtsd_f64(pair) + _mm_cvtsd_f64(_mm_unpackhi_pd(pair, pair));
            out[c] += x[c][i..].iter().zip(&y[i..]).map(|(a, b)| a.to_f64() * b).sum::<f64>();
        }
        out
    }

    /// # Safety
    /// Equal lengths; AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn axpy2<T: Real>(a: f64, x: &[T], y: &mut [f64]) {
        let (n, px, py) = (x.len(), x.as_ptr(), y.as_mut_ptr());
        let factor = _mm256_set1_pd(a);
        let mut i = 0;
        // SAFETY: every index read or written is below `n`, the length of both.
        unsafe {
            while i + 4 <= n {
                let sum = _mm256_fmadd_pd(factor, T::load4(px.add(i)), _mm256_loadu_pd(py.add(i)));
                _mm256_storeu_pd(py.add(i), sum);
                i += 4;
            }
        }
        for (y, x) in y[i..].iter_mut().zip(&x[i..]) {
            *y += a * x.to_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every form that this machine runs.
    fn forms() -> Vec<Form> {
        let mut forms = vec![Form::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                forms.push(Form::Avx2);
            }
            if Form::detect() == Form::Avx512 {
                forms.push(Form::Avx512);
            }
        }
        forms
    }

    /// Four columns and a vector of the same length, from an offset that breaks their alignment.
    fn vectors() -> impl Strategy<Value = (Vec<Vec<f64>>, usize)> {
        (0usize..150, 0usize..9).prop_flat_map(|(n, offset)| {
            let column = proptest::collection::vec(-2.0..2.0f64, n + offset);
            (proptest::collection::vec(column, 5), Just(offset))
        })
    }

    fn check<T: Real>(columns: &[Vec<f64>], offset: usize) -> Result<(), TestCaseError> {
        let stored: Vec<Vec<T>> =
            columns[..4].iter().map(|c| c.iter().map(|&v| T::from_f64(v)).collect()).collect();
        let x = [0, 1, 2, 3].map(|c| &stored[c][offset..]);
        let y = &columns[4][offset..];
        let reference = x.map(|column| column.iter().zip(y).fold(0.0, |sum, (a, b)| sum + a.to_f64() * b));
        // Sums of n products of size at most 4 in any order.
        let slack = 4.0 * f64::EPSILON * ((y.len() * y.len()) as f64 + 1.0);
        for form in forms() {
            let many = dot_many_with(form, x, y);
            for c in 0..4 {
                prop_assert!((dot_with(form, x[c], y) - reference[c]).abs() <= slack, "{form:?}");
                prop_assert!((many[c] - reference[c]).abs() <= slack, "{form:?}");
            }
            let contiguous = stored.concat();
            let n = columns[0].len();
            let neighbours = [0, 1, 2, 3].map(|c| &contiguous[c * n..(c + 1) * n]);
            let many = dot_many_with(form, neighbours, &columns[4]);
            for c in 0..4 {
                let single = dot_with(Form::Scalar, neighbours[c], &columns[4]);
                prop_assert!((many[c] - single).abs() <= 8.0 * f64::EPSILON * ((n * n) as f64 + 1.0));
            }
            let mut sum = columns[4].clone();
            axpy_with(form, -1.5, x[0], &mut sum[offset..]);
            prop_assert_eq!(&sum[..offset], &columns[4][..offset]);
            for ((s, a), b) in sum[offset..].iter().zip(x[0]).zip(y) {
                prop_assert!((s - (b - 1.5 * a.to_f64())).abs() <= 1e-14, "{form:?}");
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_form_agrees_with_the_plain_sum((columns, offset) in vectors()) {
            check::<f64>(&columns, offset)?;
            check::<f32>(&columns, offset)?;
        }

        #[test]
        fn sparse_columns_agree_with_their_dense_form((columns, _) in vectors(), keep in 1usize..7) {
            let n = columns[0].len();
            let rows: Vec<u32> = (0..n as u32).filter(|r| (*r as usize).is_multiple_of(keep)).collect();
            let values: Vec<f64> = rows.iter().map(|&r| columns[0][r as usize]).collect();
            let mut dense = vec![0.0; n];
            sparse_axpy(1.0, &rows, &values, &mut dense);
            let sum = sparse_dot(&rows, &values, &columns[1]);
            prop_assert!((sum - dot(&dense, &columns[1])).abs() <= 1e-12);
            prop_assert_eq!(dense.iter().filter(|v| **v != 0.0).count(), values.iter().filter(|v| **v != 0.0).count());
        }
    }

    #[test]
    #[should_panic(expected = "different lengths")]
    fn lengths_that_differ_are_refused() {
        dot(&[1.0f64, 2.0], &[1.0]);
    }
}
