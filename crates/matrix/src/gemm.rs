//! Dense products of strided views: what training multiplies with.
#![allow(unsafe_code)] // raw pointers of the `gemm` crate

use crate::Real;

/// A strided matrix to read: entry `(i, j)` stands at `i * strides.0 + j * strides.1`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, R> {
    data: &'a [R],
    shape: (usize, usize),
    strides: (usize, usize),
}

/// A strided matrix to write.
#[derive(Debug)]
pub struct ViewMut<'a, R> {
    data: &'a mut [R],
    shape: (usize, usize),
    strides: (usize, usize),
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
