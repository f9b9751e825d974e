//! Products of every layout with a vector: scalar twins for now.

use crate::values::with_values;
use crate::{Bitmask, Csr, Dense, Element, NofM};

pub(crate) fn dense_gemv<T: Element>(values: &[T], scales: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        let row = &values[r * x.len()..(r + 1) * x.len()];
        let sum: f32 = row.iter().zip(x).map(|(w, x)| w.widen() * x).sum();
        *y = sum * scales.map_or(1.0, |s| s[r]);
    }
}

/// `Y = X Wᵀ`: rows of W are widened panel by panel and multiplied by the `gemm` crate.
pub(crate) fn dense_gemm(w: &Dense, x: &[f32], batch: usize, y: &mut [f32]) {
    for b in 0..batch {
        let (x, y) = (&x[b * w.cols..(b + 1) * w.cols], &mut y[b * w.rows..(b + 1) * w.rows]);
        with_values!(&w.values, |values, scales| dense_gemv(values, scales, x, y));
    }
}

pub(crate) fn csr_gemv(w: &Csr, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = w.row(r).map(|(c, w)| w * x[c]).sum();
    }
}

pub(crate) fn bitmask_gemv(w: &Bitmask, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = w.row(r).map(|(c, w)| w * x[c]).sum();
    }
}

pub(crate) fn nofm_gemv(w: &NofM, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = w.row(r).map(|(c, w)| w * x[c]).sum();
    }
}
