//! First and second moments of blocks of rows: everything that the meta-learners need to know of the data.

use rayon::prelude::*;
use sparseland_linalg::{Mat, gram};

/// Rows whose products are taken at a time.
const BLOCK: usize = 4096;

/// `n`, column sums and products of the rows of some block.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub(super) n: f64,
    pub(super) sum: Vec<f64>,
    pub(super) product: Mat<f64>,
}

impl Moments {
    pub(super) fn zero(columns: usize) -> Self {
        Self { n: 0.0, sum: vec![0.0; columns], product: Mat::zeros(columns, columns) }
    }

    /// Moments of the given rows of `table` around `shift`.
    pub(super) fn of(table: &Mat<f64>, rows: &[u32], shift: &[f64]) -> Self {
        let parts: Vec<Self> = rows
            .par_chunks(BLOCK)
            .map(|rows| {
                let mut block = Mat::zeros(rows.len(), table.cols);
                for (k, &i) in rows.iter().enumerate() {
                    let from = table.row(i as usize);
                    for (out, (v, s)) in block.row_mut(k).iter_mut().zip(from.iter().zip(shift)) {
                        *out = v - s;
                    }
                }
                let mut sum = vec![0.0; table.cols];
                for row in block.data.chunks_exact(table.cols) {
                    sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
                }
                Self { n: rows.len() as f64, sum, product: gram(&block) }
            })
            .collect();
        // In order, so that the number of threads does not matter.
        parts.iter().fold(Self::zero(table.cols), |all, part| all.plus(part))
    }

    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.n += other.n;
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.product.data.iter_mut().zip(&other.product.data).for_each(|(a, b)| *a += b);
        self
    }

    pub(super) fn mean(&self, j: usize) -> f64 {
        self.sum[j] / self.n
    }

    /// `sum (a - c_a)(b - c_b)` over the rows, for any centres.
    pub(super) fn about(&self, a: usize, b: usize, centre: [f64; 2]) -> f64 {
        self.product.at(a, b) - centre[0] * self.sum[b] - centre[1] * self.sum[a]
            + self.n * centre[0] * centre[1]
    }

    /// Population covariance.
    pub(super) fn covariance(&self, a: usize, b: usize) -> f64 {
        self.about(a, b, [self.mean(a), self.mean(b)]) / self.n
    }

    /// Mean of `(a - b)²`.
    pub(super) fn distance(&self, a: usize, b: usize) -> f64 {
        let sum = self.product.at(a, a) + self.product.at(b, b) - 2.0 * self.product.at(a, b);
        (sum / self.n).max(0.0)
    }
}
