//! The only module that calls faer. Everything here works on slices and sizes, is instantiated once for f32 and once
//! for f64, and is reached through the sealed trait [`Kernels`], so that downstream crates never compile faer code.
//!
//! A row-major `m x n` slice is, without a copy, a column-major `n x m` matrix. faer prefers columns, so the
//! decompositions are taken of the transpose where that saves a copy.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::lu::partial_pivoting as lu;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::linalg::{householder, matmul::matmul, triangular_solve};
use faer::traits::RealField;
use faer::{Accum, Conj, MatMut, MatRef, Par, Spec};

/// Below this many multiply-adds a product or solve runs on the calling thread: starting the pool costs more.
const PRODUCT_THRESHOLD: usize = 1 << 18;
/// Below this order a decomposition runs on the calling thread.
const DECOMPOSITION_THRESHOLD: usize = 96;

/// Threads for `work` multiply-adds: the current rayon pool, or none.
fn parallelism(work: usize, threshold: usize) -> Par {
    let threads = rayon::current_num_threads();
    if threads <= 1 || work < threshold { Par::Seq } else { Par::rayon(threads) }
}

/// A row-major operand, possibly read transposed.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    /// Row-major values, `rows * cols` of them.
    pub data: &'a [T],
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Whether the operation sees the transpose.
    pub transposed: bool,
}

impl<'a, T> View<'a, T> {
    fn faer(self) -> MatRef<'a, T> {
        let plain = MatRef::from_row_major_slice(self.data, self.rows, self.cols);
        if self.transposed { plain.transpose() } else { plain }
    }
}

/// What a triangular operation reads of its matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Triangle {
    /// The upper triangle `R`.
    Upper,
    /// The transpose of the upper triangle, `R` transposed (a lower triangle).
    UpperTransposed,
}

/// Singular values and vectors as faer leaves them.
pub struct RawSvd<T> {
    /// `min(m, n)` values, descending.
    pub s: Vec<T>,
    /// `k x m` row-major: the left vectors are rows. Empty when not asked for.
    pub ut: Vec<T>,
    /// `k x n` row-major: the right vectors are rows. Empty when not asked for.
    pub vt: Vec<T>,
}

/// The operations that depend on faer, one set per scalar. All slices are row-major.
pub trait Kernels: Copy + Send + Sync + PartialOrd + Default + std::fmt::Debug + 'static {
    /// Machine epsilon.
    const EPSILON: f64;
    /// Converts, rounding for f32.
    fn from_f64(value: f64) -> Self;
    /// Converts exactly.
    fn to_f64(self) -> f64;
    /// Neither NaN nor infinite.
    fn finite(self) -> bool;
    /// `a * b`.
    fn mul(a: Self, b: Self) -> Self;
    /// `out = alpha * a b`, or `out += alpha * a b`.
    fn gemm(out: &mut [Self], accumulate: bool, a: View<'_, Self>, b: View<'_, Self>, alpha: Self);
    /// Lower triangle of `out (d x d) += x^T x`, where `x` is seen as `rows x d`.
    fn gram_lower(out: &mut [Self], x: View<'_, Self>);
    /// `out = op(R) b`, `R: d x d` upper triangular, `b: d x n`.
    fn triangle_product(out: &mut [Self], r: &[Self], d: usize, op: Triangle, b: &[Self], n: usize);
    /// `b = op(R)^-1 b`.
    fn triangle_solve(r: &[Self], d: usize, op: Triangle, b: &mut [Self], n: usize);
    /// Thin SVD of the `m x n` matrix `a`; `None` when the iteration failed.
    fn svd(a: &[Self], m: usize, n: usize, vectors: bool) -> Option<RawSvd<Self>>;
    /// Eigenvalues, ascending, and eigenvectors as rows (empty when not asked for) of the symmetric `a`, of which the
    /// upper triangle is read.
    fn eigh(a: &[Self], n: usize, vectors: bool) -> Option<(Vec<Self>, Vec<Self>)>;
    /// Thin QR of `at^T`: `at` holds the `m x n` matrix as `n x m` row-major (its columns are rows). Returns `q^T`
    /// (`k x m`) and `r` (`k x n`, upper), `k = min(m, n)`.
    fn qr(at: Vec<Self>, m: usize, n: usize) -> (Vec<Self>, Vec<Self>);
    /// Upper triangle of `a` becomes `R` with `R^T R = a`; the rest is left alone. `Err` holds the bad pivot.
    fn cholesky(a: &mut [Self], n: usize) -> Result<(), usize>;
    /// `b = a^-1 b` with partial pivoting; `a` is destroyed. `false` when a pivot is zero.
    fn lu_solve(a: &mut [Self], n: usize, b: &mut [Self], columns: usize) -> bool {
        Self::lu_solve_permuted(a, n, b, columns).is_some()
    }
    /// As `lu_solve`; the pivots stay on the diagonal of `a`, and the row permutation is returned.
    fn lu_solve_permuted(a: &mut [Self], n: usize, b: &mut [Self], columns: usize) -> Option<Vec<usize>>;
}

macro_rules! kernels {
    ($scalar:ty) => {
        impl Kernels for $scalar {
            const EPSILON: f64 = <$scalar>::EPSILON as f64;
            #[inline]
            fn from_f64(value: f64) -> Self {
                value as $scalar
            }
            #[inline]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline]
            fn finite(self) -> bool {
                self.is_finite()
            }
            #[inline]
            fn mul(a: Self, b: Self) -> Self {
                a * b
            }
            fn gemm(out: &mut [Self], accumulate: bool, a: View<'_, Self>, b: View<'_, Self>, alpha: Self) {
                gemm(out, accumulate, a, b, alpha);
            }
            fn gram_lower(out: &mut [Self], x: View<'_, Self>) {
                gram_lower(out, x, 1.0);
            }
            fn triangle_product(out: &mut [Self], r: &[Self], d: usize, op: Triangle, b: &[Self], n: usize) {
                triangle_product(out, r, d, op, b, n, 1.0);
            }
            fn triangle_solve(r: &[Self], d: usize, op: Triangle, b: &mut [Self], n: usize) {
                triangle_solve(r, d, op, b, n);
            }
            fn svd(a: &[Self], m: usize, n: usize, vectors: bool) -> Option<RawSvd<Self>> {
                svd_of(a, m, n, vectors)
            }
            fn eigh(a: &[Self], n: usize, vectors: bool) -> Option<(Vec<Self>, Vec<Self>)> {
                eigh_of(a, n, vectors)
            }
            fn qr(at: Vec<Self>, m: usize, n: usize) -> (Vec<Self>, Vec<Self>) {
                qr_of(at, m, n, 1.0)
            }
            fn cholesky(a: &mut [Self], n: usize) -> Result<(), usize> {
                cholesky_of(a, n)
            }
            fn lu_solve_permuted(
                a: &mut [Self],
                n: usize,
                b: &mut [Self],
                columns: usize,
            ) -> Option<Vec<usize>> {
                lu_solve_of(a, n, b, columns)
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

fn gemm<T: RealField>(out: &mut [T], accumulate: bool, a: View<'_, T>, b: View<'_, T>, alpha: T) {
    let (a, b) = (a.faer(), b.faer());
    let (m, k, n) = (a.nrows(), a.ncols(), b.ncols());
    let accum = if accumulate { Accum::Add } else { Accum::Replace };
    let out = MatMut::from_row_major_slice_mut(out, m, n);
    matmul(out, accum, a, b, alpha, parallelism(m * k * n, PRODUCT_THRESHOLD));
}

fn gram_lower<T: RealField>(out: &mut [T], x: View<'_, T>, one: T) {
    let x = x.faer();
    let (rows, d) = (x.nrows(), x.ncols());
    triangular::matmul(
        MatMut::from_row_major_slice_mut(out, d, d),
        BlockStructure::TriangularLower,
        Accum::Add,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        one,
        parallelism(rows * d * d / 2, PRODUCT_THRESHOLD),
    );
}

fn triangle_product<T: RealField>(out: &mut [T], r: &[T], d: usize, op: Triangle, b: &[T], n: usize, one: T) {
    let r = MatRef::from_row_major_slice(r, d, d);
    let (r, structure) = match op {
        Triangle::Upper => (r, BlockStructure::TriangularUpper),
        Triangle::UpperTransposed => (r.transpose(), BlockStructure::TriangularLower),
    };
    triangular::matmul(
        MatMut::from_row_major_slice_mut(out, d, n),
        BlockStructure::Rectangular,
        Accum::Replace,
        r,
        structure,
        MatRef::from_row_major_slice(b, d, n),
        BlockStructure::Rectangular,
        one,
        parallelism(d * d * n / 2, PRODUCT_THRESHOLD),
    );
}

fn triangle_solve<T: RealField>(r: &[T], d: usize, op: Triangle, b: &mut [T], n: usize) {
    let r = MatRef::from_row_major_slice(r, d, d);
    let b = MatMut::from_row_major_slice_mut(b, d, n);
    let par = parallelism(d * d * n / 2, PRODUCT_THRESHOLD);
    match op {
        Triangle::Upper => triangular_solve::solve_upper_triangular_in_place(r, b, par),
        Triangle::UpperTransposed => {
            triangular_solve::solve_lower_triangular_in_place(r.transpose(), b, par);
        }
    }
}

fn svd_of<T: RealField + Copy + Default>(a: &[T], m: usize, n: usize, vectors: bool) -> Option<RawSvd<T>> {
    let k = m.min(n);
    let mut s = vec![T::default(); k];
    if k == 0 {
        return Some(RawSvd { s, ut: Vec::new(), vt: Vec::new() });
    }
    let par = parallelism(k, DECOMPOSITION_THRESHOLD);
    let want = if vectors { ComputeSvdVectors::Thin } else { ComputeSvdVectors::No };
    let mut params: Spec<svd::SvdParams, T> = Default::default();
    if !vectors {
        params.recursion_threshold = usize::MAX;
    }
    let mut memory = MemBuffer::new(svd::svd_scratch::<T>(n, m, want, want, par, params));
    let stack = MemStack::new(&mut memory);
    // faer sees a^T = V S U^T: its left vectors are our right ones.
    let at = MatRef::from_column_major_slice(a, n, m);
    let (mut ut, mut vt) = (Vec::new(), Vec::new());
    let diagonal = faer::ColMut::from_slice_mut(&mut s).as_diagonal_mut();
    let outcome = if vectors {
        ut.resize(k * m, T::default());
        vt.resize(k * n, T::default());
        svd::svd(
            at,
            diagonal,
            Some(MatMut::from_column_major_slice_mut(&mut vt, n, k)),
            Some(MatMut::from_column_major_slice_mut(&mut ut, m, k)),
            par,
            stack,
            params,
        )
    } else {
        svd::svd(at, diagonal, None, None, par, stack, params)
    };
    outcome.ok().map(|()| RawSvd { s, ut, vt })
}

fn eigh_of<T: RealField + Copy + Default>(a: &[T], n: usize, vectors: bool) -> Option<(Vec<T>, Vec<T>)> {
    let mut s = vec![T::default(); n];
    if n == 0 {
        return Some((s, Vec::new()));
    }
    let par = parallelism(n, DECOMPOSITION_THRESHOLD);
    let want = if vectors { ComputeEigenvectors::Yes } else { ComputeEigenvectors::No };
    let mut memory = MemBuffer::new(evd::self_adjoint_evd_scratch::<T>(n, want, par, Default::default()));
    let stack = MemStack::new(&mut memory);
    // The lower triangle in column-major order is the upper one in row-major order.
    let a = MatRef::from_column_major_slice(a, n, n);
    let mut ut = vec![T::default(); if vectors { n * n } else { 0 }];
    let u = vectors.then(|| MatMut::from_column_major_slice_mut(&mut ut, n, n));
    let diagonal = faer::ColMut::from_slice_mut(&mut s).as_diagonal_mut();
    evd::self_adjoint_evd(a, diagonal, u, par, stack, Default::default()).ok()?;
    Some((s, ut))
}

fn qr_of<T: RealField + Copy + Default>(mut at: Vec<T>, m: usize, n: usize, one: T) -> (Vec<T>, Vec<T>) {
    let k = m.min(n);
    if k == 0 {
        return (Vec::new(), Vec::new());
    }
    let par = parallelism(k, DECOMPOSITION_THRESHOLD);
    let block = qr::recommended_block_size::<T>(m, n);
    let mut coefficients = vec![T::default(); block * k];
    let scratch = qr::qr_in_place_scratch::<T>(m, n, block, par, Default::default())
        .or(householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, k));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    qr::qr_in_place(
        MatMut::from_column_major_slice_mut(&mut at, m, n),
        MatMut::from_column_major_slice_mut(&mut coefficients, block, k),
        par,
        stack,
        Default::default(),
    );
    let mut r = vec![T::default(); k * n];
    for i in 0..k {
        for j in i..n {
            r[i * n + j] = at[j * m + i];
        }
    }
    let mut qt = vec![T::default(); k * m];
    for i in 0..k {
        qt[i * m + i] = one;
    }
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        MatRef::from_column_major_slice(&at, m, n).subcols(0, k),
        MatRef::from_column_major_slice(&coefficients, block, k),
        Conj::No,
        MatMut::from_column_major_slice_mut(&mut qt, m, k),
        par,
        stack,
    );
    (qt, r)
}

fn cholesky_of<T: RealField>(a: &mut [T], n: usize) -> Result<(), usize> {
    let par = parallelism(n, DECOMPOSITION_THRESHOLD);
    let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<T>(n, par, Default::default()));
    llt::cholesky_in_place(
        MatMut::from_column_major_slice_mut(a, n, n),
        Default::default(),
        par,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map(|_| ())
    .map_err(|llt::LltError::NonPositivePivot { index }| index)
}

fn lu_solve_of<T: RealField + Default>(
    a: &mut [T],
    n: usize,
    b: &mut [T],
    columns: usize,
) -> Option<Vec<usize>> {
    let par = parallelism(n, DECOMPOSITION_THRESHOLD);
    let scratch = lu::factor::lu_in_place_scratch::<usize, T>(n, n, par, Default::default())
        .or(lu::solve::solve_in_place_scratch::<usize, T>(n, columns, par));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let (mut forward, mut backward) = (vec![0usize; n], vec![0usize; n]);
    let (_, permutation) = lu::factor::lu_in_place(
        MatMut::from_row_major_slice_mut(a, n, n),
        &mut forward,
        &mut backward,
        par,
        stack,
        Default::default(),
    );
    if (0..n).any(|i| a[i * n + i] == T::default()) {
        return None;
    }
    let factors = MatRef::from_row_major_slice(a, n, n);
    lu::solve::solve_in_place_with_conj(
        factors,
        factors,
        permutation,
        Conj::No,
        MatMut::from_row_major_slice_mut(b, n, columns),
        par,
        stack,
    );
    Some(forward)
}
