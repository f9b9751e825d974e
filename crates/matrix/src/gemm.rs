//! Dense products of strided views: what training multiplies with.
#![allow(unsafe_code)] // raw pointers of the `gemm` crate

use crate::Real;
use crate::kernels::gemm_bf16::{Unit, multiply};

/// A strided matrix to read: entry `(i, j)` stands at `i * strides.0 + j * strides.1`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, R> {
    pub(crate) data: &'a [R],
    pub(crate) shape: (usize, usize),
    pub(crate) strides: (usize, usize),
}

/// A strided matrix to write.
#[derive(Debug)]
pub struct ViewMut<'a, R> {
    pub(crate) data: &'a mut [R],
    pub(crate) shape: (usize, usize),
    pub(crate) strides: (usize, usize),
}

/// The position after the last entry.
fn extent(shape: (usize, usize), strides: (usize, usize)) -> usize {
    if shape.0 == 0 || shape.1 == 0 {
        return 0;
    }
    (shape.0 - 1) * strides.0 + (shape.1 - 1) * strides.1 + 1
}

impl<'a, R> View<'a, R> {
    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` is shorter than `rows * cols`.
    pub fn new(data: &'a [R], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `stride` entries apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn strided(data: &'a [R], rows: usize, cols: usize, stride: usize) -> Self {
        let (shape, strides) = ((rows, cols), (stride, 1));
        assert!(extent(shape, strides) <= data.len(), "view of {shape:?} exceeds {} numbers", data.len());
        Self { data, shape, strides }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            shape: (self.shape.1, self.shape.0),
            strides: (self.strides.1, self.strides.0),
            data: self.data,
        }
    }
}

impl<'a, R> ViewMut<'a, R> {
    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` is shorter than `rows * cols`.
    pub fn new(data: &'a mut [R], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `stride >= cols` entries apart.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
    pub fn strided(data: &'a mut [R], rows: usize, cols: usize, stride: usize) -> Self {
        let (shape, strides) = ((rows, cols), (stride, 1));
        assert!(extent(shape, strides) <= data.len(), "view of {shape:?} exceeds {} numbers", data.len());
        assert!(rows <= 1 || stride >= cols, "rows of a view that is written overlap");
        Self { data, shape, strides }
    }
}

/// How many threads a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Only the calling one: for products inside parallel loops.
    One,
    /// The rayon pool in which the call is made.
    Pool,
}

/// `c = alpha * a * b + beta * c`; with `beta = 0` whatever stood in `c` is not read.
///
/// Each entry is summed in an order that depends on the shapes alone.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm<R: Real>(threads: Threads, alpha: R, a: View<'_, R>, b: View<'_, R>, beta: R, c: ViewMut<'_, R>) {
    let ((m, k), (k2, n)) = (a.shape, b.shape);
    assert!(k == k2 && c.shape == (m, n), "shapes {:?} {:?} {:?} do not fit", a.shape, b.shape, c.shape);
    let parallelism = match threads {
        Threads::One => ::gemm::Parallelism::None,
        Threads::Pool => ::gemm::Parallelism::Rayon(rayon::current_num_threads()),
    };
    let signed = |(r, c): (usize, usize)| (r as isize, c as isize);
    let ((ars, acs), (brs, bcs), (crs, ccs)) = (signed(a.strides), signed(b.strides), signed(c.strides));
    // SAFETY: every view lies inside its slice, checked when it was made; entries of `c` do not overlap, and
    // `c` is borrowed mutably, so it overlaps neither `a` nor `b`.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            ccs,
            crs,
            beta != R::ZERO,
            a.data.as_ptr(),
            acs,
            ars,
            b.data.as_ptr(),
            bcs,
            brs,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// As [`gemm()`], with `a` and `b` rounded to bf16 on the way: `c = alpha * bf16(a) * bf16(b) + beta * c`, summed in
/// f32. Each product of two numbers then errs by up to 2^-8 of itself, and several times as many of them fit into
/// a second.
///
/// Rounding is to nearest, ties to even; NaN stays NaN, infinities stay, and numbers beyond the largest bf16
/// (3.39e38) become infinite. Subnormal inputs count as zero, and a sum that is subnormal may become zero. It runs
/// on the tile unit where the machine has one ([`bf16_products`]), else on dot products of pairs (AVX-512 BF16), else
/// as an f32 product of rounded copies. Inputs are rounded alike in all three, but the order of sums differs: bits
/// are the same for any number of threads, not from one kind of machine to another.
///
/// The calling thread keeps scratch for the next call: at most 8 MiB, or 4 bytes for each number of `a` and `b`
/// where there is no unit for bf16.
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use sparseland_matrix::{Threads, View, ViewMut, gemm_bf16};
///
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.001, 1.0]); // 1.001 rounds to 1
/// let mut c = [f32::NAN; 4];
/// gemm_bf16(Threads::One, 1.0, View::new(&a, 2, 2), View::new(&b, 2, 2), 0.0, ViewMut::new(&mut c, 2, 2));
/// assert_eq!(c, [3.0, 2.0, 7.0, 4.0]);
/// ```
pub fn gemm_bf16(
    threads: Threads,
    alpha: f32,
    a: View<'_, f32>,
    b: View<'_, f32>,
    beta: f32,
    c: ViewMut<'_, f32>,
) {
    let ((m, k), (k2, n)) = (a.shape, b.shape);
    assert!(k == k2 && c.shape == (m, n), "shapes {:?} {:?} {:?} do not fit", a.shape, b.shape, c.shape);
    multiply(Unit::detect(), threads, alpha, a, b, beta, c);
}

/// How the factors of a product are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As they are.
    #[default]
    Full,
    /// Rounded to bf16, the products summed in f32; f64 is not rounded.
    Bf16,
}

/// [`gemm()`] or [`gemm_bf16()`].
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm_in<R: Real>(
    precision: Precision,
    threads: Threads,
    alpha: R,
    a: View<'_, R>,
    b: View<'_, R>,
    beta: R,
    c: ViewMut<'_, R>,
) {
    fn in_f32<R: Real>(v: View<'_, R>) -> Option<View<'_, f32>> {
        Some(View { data: R::as_f32(v.data)?, shape: v.shape, strides: v.strides })
    }
    let (Precision::Bf16, Some(a), Some(b)) = (precision, in_f32(a), in_f32(b)) else {
        return gemm(threads, alpha, a, b, beta, c);
    };
    let data = R::as_f32_mut(c.data).expect("as the factors");
    let c = ViewMut { data, shape: c.shape, strides: c.strides };
    let (alpha, beta) = (alpha.to_f64() as f32, beta.to_f64() as f32);
    gemm_bf16(threads, alpha, a, b, beta, c);
}

/// Whether [`gemm_bf16()`] runs on the tile unit of this machine. The first call asks the system to let this process
/// use it.
pub fn bf16_products() -> bool {
    Unit::detect() == Unit::Tiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u32) -> Vec<f64> {
        (0..n as u32).map(|i| f64::from((i * 7919 + seed * 104_729) % 2003) / 1001.0 - 1.0).collect()
    }

    proptest! {
        #[test]
        fn products_of_strided_and_transposed_views_equal_plain_sums(
            m in 0usize..40, n in 0usize..40, k in 0usize..70, gap in 0usize..3, ta: bool, tb: bool, seed in 0u32..50
        ) {
            let (a, b) = (numbers((m + 1) * (k + gap + m + 1) + k * (m + gap + 1), seed), numbers((k + 1) * (n + gap + 1) + n * (k + gap + 1), seed + 1));
            let start = numbers(m * (n + gap) + n, seed + 2);
            let mut c = start.clone();
            let (va, ea): (_, Box<dyn Fn(usize, usize) -> f64>) = if ta {
                (View::strided(&a, k, m, m + gap).t(), Box::new(|i, j| a[j * (m + gap) + i]))
            } else {
                (View::strided(&a, m, k, k + gap), Box::new(|i, j| a[i * (k + gap) + j]))
            };
            let (vb, eb): (_, Box<dyn Fn(usize, usize) -> f64>) = if tb {
                (View::strided(&b, n, k, k + gap).t(), Box::new(|i, j| b[j * (k + gap) + i]))
            } else {
                (View::strided(&b, k, n, n + gap), Box::new(|i, j| b[i * (n + gap) + j]))
            };
            gemm(Threads::One, 0.5, va, vb, 2.0, ViewMut::strided(&mut c, m, n, n + gap));
            for i in 0..m {
                for j in 0..n {
                    let at = i * (n + gap) + j;
                    let want = 2.0 * start[at] + 0.5 * (0..k).map(|l| ea(i, l) * eb(l, j)).sum::<f64>();
                    prop_assert!((c[at] - want).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit_and_beta_zero_forgets_nan() {
        let (m, n, k) = (300, 200, 520);
        let cast = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let (a, b) = (cast(numbers(m * k, 1)), cast(numbers(k * n, 2)));
        let run = |threads| {
            let mut c = vec![f32::NAN; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let c = ViewMut::new(&mut c, m, n);
                gemm(Threads::Pool, 1.0, View::new(&a, m, k), View::new(&b, k, n), 0.0, c);
            });
            c
        };
        let one = run(1);
        assert!(one.iter().all(|v| v.is_finite()));
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}
