//! A Cholesky factor that follows the support.

use sparseland_matrix::vector;

use super::gram::Gram;

/// The part of a pivot that must be left for its column to count as independent of those before it.
/// The square of it is the relative size of the smallest singular value we still divide by.
const INDEPENDENT: f64 = 1e-12;

/// `L Lᵀ = G_SS + diag(curvature)` for an ordered support `S`, row by row.
///
/// Columns that depend on those before them, or make the matrix indefinite, are left out. Rows before
/// the first change are kept from one call to the next; long-standing members come first, so that
/// changes happen near the end.
#[derive(Debug, Default)]
pub(super) struct Factor {
    order: Vec<usize>,
    curvature: Vec<f64>,
    stride: usize,
    rows: Vec<f64>,
}

impl Factor {
    /// Slots that take part, in order.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.curvature.clear();
    }

    /// Multiply-adds that [`Factor::update`] and [`Factor::solve`] would take.
    pub(super) fn cost(&self, size: usize, curvature: &[Option<f64>]) -> f64 {
        let same = |(&slot, &old): (&usize, &f64)| curvature[slot] == Some(old);
        let keep = self.order.iter().zip(&self.curvature).take_while(|&pair| same(pair)).count();
        let (keep, size) = (keep as f64, size as f64);
        (size.powi(3) - keep.powi(3)).max(0.0) / 6.0 + size * size
    }

    /// Brings the factor to the support `S` (slots with curvatures, `None` for slots outside).
    pub(super) fn update(&mut self, gram: &Gram, support: &[usize], curvature: &[Option<f64>]) {
        let same = |(&slot, &old): (&usize, &f64)| curvature[slot] == Some(old);
        let keep = self.order.iter().zip(&self.curvature).take_while(|&pair| same(pair)).count();
        let mut used = vec![false; curvature.len()];
        self.order[..keep].iter().for_each(|&s| used[s] = true);
        let mut pending = Vec::with_capacity(support.len() - keep.min(support.len()));
        for &slot in &self.order[keep..] {
            if curvature[slot].is_some() {
                used[slot] = true;
                pending.push(slot);
            }
        }
        pending.extend(support.iter().copied().filter(|&s| !used[s]));
        self.order.truncate(keep);
        self.curvature.truncate(keep);
        let capacity = keep + pending.len();
        if capacity > self.stride {
            let stride = (capacity + capacity / 2).max(32);
            let mut rows = vec![0.0; stride * stride];
            for i in 0..keep {
                rows[i * stride..i * stride + i + 1]
                    .copy_from_slice(&self.rows[i * self.stride..i * self.stride + i + 1]);
            }
            (self.stride, self.rows) = (stride, rows);
        }
        for slot in pending {
            if let Some(curvature) = curvature[slot] {
                self.append(gram, slot, curvature);
            }
        }
    }

    fn append(&mut self, gram: &Gram, slot: usize, curvature: f64) {
        let (size, stride) = (self.order.len(), self.stride);
        let (done, rest) = self.rows.split_at_mut(size * stride);
        let row = &mut rest[..size + 1];
        let products = gram.row(slot);
        for (value, &other) in row.iter_mut().zip(&self.order) {
            *value = products[other];
        }
        // Forward substitution, four columns at a time: the products share the loads of the new row.
        let mut i = 0;
        while i < size {
            let block = (size - i).min(4);
            let (solved, open) = row.split_at_mut(i);
            if block == 4 && i > 0 {
                let x = [0, 1, 2, 3].map(|b| &done[(i + b) * stride..(i + b) * stride + i]);
                let sums = vector::dot_many(x, solved);
                open.iter_mut().zip(sums).for_each(|(o, s)| *o -= s);
            } else {
                for b in 0..block {
                    let start = (i + b) * stride;
                    open[b] -= vector::dot(&done[start..start + i], solved);
                }
            }
            for b in 0..block {
                let start = (i + b) * stride + i;
                for c in 0..b {
                    open[b] -= done[start + c] * open[c];
                }
                open[b] /= done[start + b];
            }
            i += block;
        }
        let diagonal = products[slot] + curvature;
        let pivot = diagonal - vector::dot(&row[..size], &row[..size]);
        if pivot > INDEPENDENT * products[slot] {
            row[size] = pivot.sqrt();
            self.order.push(slot);
            self.curvature.push(curvature);
        }
    }

    /// Solves in place for a right side in the order of [`Factor::order`].
    pub(super) fn solve(&self, b: &mut [f64]) {
        let stride = self.stride;
        for i in 0..self.order.len() {
            let row = &self.rows[i * stride..i * stride + i + 1];
            b[i] = (b[i] - vector::dot(&row[..i], &b[..i])) / row[i];
        }
        for i in (0..self.order.len()).rev() {
            let row = &self.rows[i * stride..i * stride + i + 1];
            b[i] /= row[i];
            let value = b[i];
            vector::axpy(-value, &row[..i], &mut b[..i]);
        }
    }
}
