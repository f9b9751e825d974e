//! Temporary stand-in.
#![allow(missing_docs)]
use faer::{Mat as F, MatRef, Par, Side, linalg::solvers::Solve};
#[derive(Debug, thiserror::Error)]
pub enum LinalgError { #[error("{0}")] Bad(String) }
#[derive(Debug, Clone, PartialEq)]
pub struct Mat<T> { rows: usize, cols: usize, data: Vec<T> }
impl<T: Copy + Default> Mat<T> {
    pub fn zeros(rows: usize, cols: usize) -> Self { Self { rows, cols, data: vec![T::default(); rows * cols] } }
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> T) -> Self {
        let mut data = Vec::with_capacity(rows * cols);
        for i in 0..rows { for j in 0..cols { data.push(f(i, j)); } }
        Self { rows, cols, data }
    }
    pub fn rows(&self) -> usize { self.rows }
    pub fn cols(&self) -> usize { self.cols }
    pub fn as_slice(&self) -> &[T] { &self.data }
    pub fn as_mut_slice(&mut self) -> &mut [T] { &mut self.data }
    pub fn row(&self, i: usize) -> &[T] { &self.data[i * self.cols..(i + 1) * self.cols] }
    pub fn row_mut(&mut self, i: usize) -> &mut [T] { &mut self.data[i * self.cols..(i + 1) * self.cols] }
    pub fn transpose(&self) -> Self { Self::from_fn(self.cols, self.rows, |i, j| self.data[j * self.cols + i]) }
}
impl<T> std::ops::Index<(usize, usize)> for Mat<T> { type Output = T; fn index(&self, (i, j): (usize, usize)) -> &T { &self.data[i * self.cols + j] } }
impl<T> std::ops::IndexMut<(usize, usize)> for Mat<T> { fn index_mut(&mut self, (i, j): (usize, usize)) -> &mut T { &mut self.data[i * self.cols + j] } }
fn r(a: &Mat<f64>) -> MatRef<'_, f64> { MatRef::from_row_major_slice(&a.data, a.rows, a.cols) }
fn b(a: MatRef<'_, f64>) -> Mat<f64> { Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)]) }
fn mm(a: MatRef<'_, f64>, c: MatRef<'_, f64>) -> Result<Mat<f64>, LinalgError> {
    let mut out = Mat::zeros(a.nrows(), c.ncols());
    let o = faer::MatMut::from_row_major_slice_mut(&mut out.data, a.nrows(), c.ncols());
    faer::linalg::matmul::matmul(o, faer::Accum::Replace, a, c, 1.0, Par::Seq);
    Ok(out)
}
pub fn matmul(a: &Mat<f64>, c: &Mat<f64>) -> Result<Mat<f64>, LinalgError> { mm(r(a), r(c)) }
pub fn matmul_transposed_left(a: &Mat<f64>, c: &Mat<f64>) -> Result<Mat<f64>, LinalgError> { mm(r(a).transpose(), r(c)) }
pub fn matmul_transposed_right(a: &Mat<f64>, c: &Mat<f64>) -> Result<Mat<f64>, LinalgError> { mm(r(a), r(c).transpose()) }
pub fn solve_spd(a: &Mat<f64>, c: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
    let l = r(a).llt(Side::Lower).map_err(|e| LinalgError::Bad(format!("{e:?}")))?;
    Ok(b(l.solve(r(c)).as_ref()))
}
#[derive(Debug, Clone)]
pub struct Svd<T> { pub u: Mat<T>, pub s: Vec<T>, pub vt: Mat<T> }
pub fn svd(a: &Mat<f64>) -> Result<Svd<f64>, LinalgError> {
    let s = r(a).thin_svd().map_err(|e| LinalgError::Bad(format!("{e:?}")))?;
    let n = a.rows.min(a.cols);
    Ok(Svd { u: b(s.U()), s: (0..n).map(|i| s.S()[i]).collect(), vt: b(s.V().transpose()) })
}
#[derive(Debug, Clone)]
pub struct Whitener { l: Mat<f64>, condition: f64 }
impl Whitener {
    pub fn apply(&self, w: &Mat<f64>) -> Result<Mat<f64>, LinalgError> { matmul(&self.l, w) }
    pub fn solve(&self, w: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
        let mut out: F<f64> = r(w).to_owned();
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(r(&self.l), out.as_mut(), Par::Seq);
        Ok(b(out.as_ref()))
    }
    pub fn condition(&self) -> f64 { self.condition }
}
pub fn cholesky_robust(g: &Mat<f64>) -> Result<Whitener, LinalgError> {
    let d = g.rows;
    let trace: f64 = (0..d).map(|i| g[(i, i)]).sum::<f64>() / d as f64;
    let mut jitter = 0.0;
    loop {
        let m = Mat::from_fn(d, d, |i, j| g[(i, j)] + if i == j { jitter } else { 0.0 });
        if let Ok(l) = r(&m).llt(Side::Lower) {
            let l = b(l.L().transpose());
            let dm = (0..d).map(|i| l[(i, i)]).fold((f64::INFINITY, 0.0f64), |a, v| (a.0.min(v), a.1.max(v)));
            if dm.0 > 1e-6 * dm.1 { return Ok(Whitener { l, condition: (dm.1 / dm.0).powi(2) }); }
        }
        jitter = if jitter == 0.0 { 1e-9 * trace.max(1e-30) } else { jitter * 10.0 };
    }
}
pub fn gram_accumulate(gram: &mut Mat<f64>, x: &[f32], rows: usize, cols: usize) -> usize {
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let m = MatRef::from_row_major_slice(&x, rows, cols);
    let o = faer::MatMut::from_row_major_slice_mut(&mut gram.data, cols, cols);
    faer::linalg::matmul::matmul(o, faer::Accum::Add, m.transpose(), m, 1.0, Par::Seq);
    0
}
