//! Products of every layout with a vector: scalar twins for now.

pub(crate) mod batch;
mod batch_rows;
mod batch_simd;
#[cfg(test)]
mod batch_tests;


use crate::{Bitmask, Csr, Element, NofM};

pub(crate) fn dense_gemv<T: Element>(values: &[T], scales: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        let row = &values[r * x.len()..(r + 1) * x.len()];
        let sum: f32 = row.iter().zip(x).map(|(w, x)| w.widen() * x).sum();
        *y = sum * scales.map_or(1.0, |s| s[r]);
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
