//! Complex matrices, and products of a tensor with one matrix per mode.

use num_complex::Complex64;
use sparseland_linalg::Mat;

/// A dense row-major complex matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct ComplexMat {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The values, row after row.
    pub data: Vec<Complex64>,
}

impl ComplexMat {
    /// The matrix with element `f(i, j)` at row `i` and column `j`.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> Complex64) -> Self {
        let mut data = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            data.extend((0..cols).map(|j| f(i, j)));
        }
        ComplexMat { rows, cols, data }
    }

    /// Element `(i, j)`.
    ///
    /// # Panics
    /// When the index lies outside the matrix.
    pub fn at(&self, i: usize, j: usize) -> Complex64 {
        assert!(j < self.cols, "column {j} of a matrix with {} columns", self.cols);
        self.data[i * self.cols + j]
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i >= rows`.
    pub fn row(&self, i: usize) -> &[Complex64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The columns listed, in that order.
    pub(super) fn columns(&self, kept: &[usize]) -> Self {
        Self::from_fn(self.rows, kept.len(), |i, j| self.at(i, kept[j]))
    }

    /// Whether every imaginary part is zero.
    pub(super) fn is_real(&self) -> bool {
        self.data.iter().all(|v| v.im == 0.0)
    }
}

impl From<&Mat<f64>> for ComplexMat {
    fn from(a: &Mat<f64>) -> Self {
        ComplexMat {
            rows: a.rows,
            cols: a.cols,
            data: a.data.iter().map(|&v| Complex64::new(v, 0.0)).collect(),
        }
    }
}

/// What a mode product needs of its numbers.
pub(super) trait Number: Copy + std::ops::Mul<Output = Self> + std::ops::AddAssign {
    const ZERO: Self;
}
impl Number for f64 {
    const ZERO: Self = 0.0;
}
impl Number for Complex64 {
    const ZERO: Self = Complex64::new(0.0, 0.0);
}

/// `(B_1 (x) B_2 (x) ...) x` for row-major `B_i: rows_i x cols_i` and `x` of length `prod cols_i`, the first factor
/// slowest; one mode after the other, the ones that shrink the tensor most first.
pub(super) fn kron_apply<T: Number>(factors: &[(&[T], usize, usize)], x: &[T]) -> Vec<T> {
    let mut sizes: Vec<usize> = factors.iter().map(|f| f.2).collect();
    let mut order: Vec<usize> = (0..factors.len()).collect();
    order.sort_by(|&a, &b| {
        let ratio = |k: usize| factors[k].1 as f64 / factors[k].2.max(1) as f64;
        ratio(a).total_cmp(&ratio(b))
    });
    let mut x = x.to_vec();
    for mode in order {
        let (b, rows, cols) = factors[mode];
        let left: usize = sizes[..mode].iter().product();
        let right: usize = sizes[mode + 1..].iter().product();
        let mut out = vec![T::ZERO; left * rows * right];
        if right == 1 {
            for (out, x) in out.chunks_exact_mut(rows.max(1)).zip(x.chunks_exact(cols.max(1))) {
                for (o, b) in out.iter_mut().zip(b.chunks_exact(cols.max(1))) {
                    for (&b, &x) in b.iter().zip(x) {
                        *o += b * x;
                    }
                }
            }
        } else {
            for l in 0..left {
                for r in 0..rows {
                    let target = &mut out[(l * rows + r) * right..][..right];
                    for k in 0..cols {
                        let factor = b[r * cols + k];
                        for (t, &v) in target.iter_mut().zip(&x[(l * cols + k) * right..][..right]) {
                            *t += factor * v;
                        }
                    }
                }
            }
        }
        sizes[mode] = rows;
        x = out;
    }
    x
}

/// `g_1 (x) g_2 (x) ...`, the first factor slowest.
pub(super) fn kron_vector(factors: &[Vec<f64>]) -> Vec<f64> {
    let mut out = vec![1.0];
    for g in factors {
        out = out.iter().flat_map(|&a| g.iter().map(move |&b| a * b)).collect();
    }
    out
}

/// `sum over all modes but one of tensor * weights`, for every index of that mode.
pub(super) fn contract(tensor: &[f64], weights: &[Vec<f64>], mode: usize) -> Vec<f64> {
    let size = |k: usize| weights[k].len();
    let left = kron_vector(&weights[..mode]);
    let right = kron_vector(&weights[mode + 1..]);
    let mut out = vec![0.0; size(mode)];
    for (l, &wl) in left.iter().enumerate() {
        for (i, o) in out.iter_mut().enumerate() {
            let row = &tensor[(l * size(mode) + i) * right.len()..][..right.len()];
            *o += wl * row.iter().zip(&right).map(|(t, w)| t * w).sum::<f64>();
        }
    }
    out
}
