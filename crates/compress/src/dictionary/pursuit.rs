//! Greedy sparse coding of many samples over one dictionary.
//!
//! Orthogonal matching pursuit picks the atom with the largest correlation with the residual, refits all
//! coefficients, and goes on. Written on the Gram matrix `G = D Dᵀ` it is a Cholesky factorisation of `G` whose
//! pivots the sample chooses: step `t` makes one row of the factor,
//! `b_t = (G_j - sum_{i < t} b_ij b_i) / p`, `p² = G_jj - sum_i b_ij²`, and the correlations with the residual are
//! updated by `a -= (a_j / p) b_t`. No system is solved before the end. Picked atoms move to the front, so that
//! step `t` touches the `k - t` others only: `k s² / 2 - s³ / 3` multiply-adds per sample, and `k d` for the start.

use rayon::prelude::*;
use sparseland_linalg::{Mat, matmul_transposed_right};

use super::dot;
use crate::CompressError;

/// Which atom a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pursuit {
    /// The largest correlation with the residual: orthogonal matching pursuit.
    Matching,
    /// The largest drop of the residual once the atom is orthogonalised against those taken: orthogonal least
    /// squares (optimised matching pursuit). Costs `k` more multiply-adds per step, and is never worse in a single
    /// step.
    #[default]
    LeastSquares,
}

/// A squared pivot of a unit atom below this: the atom depends on those taken.
const DEPENDENT: f64 = 1e-10;

/// A sample whose squared residual is below this share of its squared norm is done (1e-7 of its norm).
const DONE: f64 = 1e-14;

/// Samples per task: enough to share the workspace, few enough to balance the threads.
const CHUNK: usize = 16;

/// Codes of at most `nonzeros` atoms per sample: `data: n x d`, `atoms: k x d` (rows of norm one, or zero rows,
/// which are never taken), result `n x k`. A sample stops early once its residual is below 1e-7 of its norm, and a
/// sample of zeros gets no atom. The result does not depend on the number of threads.
///
/// # Errors
/// If the lengths differ or a value is not finite.
pub fn code_samples(
    data: &Mat<f64>,
    atoms: &Mat<f64>,
    nonzeros: usize,
    pursuit: Pursuit,
) -> Result<Mat<f64>, CompressError> {
    data.check_finite("sparse coding")?;
    atoms.check_finite("sparse coding")?;
    let k = atoms.rows;
    let gram = matmul_transposed_right(atoms, atoms)?;
    let mut codes = matmul_transposed_right(data, atoms)?;
    if k == 0 {
        return Ok(codes);
    }
    let norms: Vec<f64> = (0..data.rows).map(|j| dot(data.row(j), data.row(j))).collect();
    codes.data.par_chunks_mut(CHUNK * k).zip(norms.par_chunks(CHUNK)).for_each_init(
        || Workspace::new(k, nonzeros.min(k)),
        |work, (codes, norms)| {
            for (code, &norm) in codes.chunks_exact_mut(k).zip(norms) {
                work.code(&gram, code, norm, pursuit);
            }
        },
    );
    Ok(codes)
}

/// Buffers for one sample.
struct Workspace {
    /// `order[..t]` were taken, the rest are candidates; positions below are positions in this order.
    order: Vec<usize>,
    /// Correlations with the residual.
    correlations: Vec<f64>,
    /// Squared norms of the atoms less what those taken explain.
    pivots: Vec<f64>,
    /// Rows of the Cholesky factor, `most x k`.
    factor: Vec<f64>,
    /// Coefficients on the orthogonalised atoms, then on the atoms.
    coefficients: Vec<f64>,
    /// The new row.
    row: Vec<f64>,
    most: usize,
}

impl Workspace {
    fn new(k: usize, most: usize) -> Self {
        Self {
            order: (0..k).collect(),
            correlations: vec![0.0; k],
            pivots: vec![0.0; k],
            factor: vec![0.0; most * k],
            coefficients: vec![0.0; most],
            row: vec![0.0; k],
            most,
        }
    }

    /// Replaces the correlations in `code` by the code of a sample with the squared norm `energy`.
    fn code(&mut self, gram: &Mat<f64>, code: &mut [f64], energy: f64, pursuit: Pursuit) {
        let k = code.len();
        self.correlations.copy_from_slice(code);
        code.fill(0.0);
        for i in 0..k {
            self.order[i] = i;
            self.pivots[i] = gram.at(i, i);
        }
        let (mut taken, mut left, mut residual) = (0, k, energy);
        while taken < self.most && taken < left && residual > DONE * energy {
            let Some(best) = self.best(taken, left, pursuit) else { break };
            self.swap(taken, taken, best, k);
            let j = self.order[taken];
            // The pivot anew from the factor: the running value has lost digits where it is small.
            let explained: f64 = (0..taken).map(|i| self.factor[i * k + taken].powi(2)).sum();
            let pivot = gram.at(j, j) - explained;
            if pivot <= DEPENDENT {
                left -= 1;
                self.swap(taken, taken, left, k);
                continue;
            }
            let pivot = pivot.sqrt();
            self.extend(gram.row(j), taken, left, pivot);
            let coefficient = self.correlations[taken] / pivot;
            self.coefficients[taken] = coefficient;
            let row = &self.factor[taken * k..(taken + 1) * k];
            let range = taken + 1..left;
            step(
                coefficient,
                &row[range.clone()],
                &mut self.correlations[range.clone()],
                &mut self.pivots[range],
            );
            residual -= coefficient * coefficient;
            taken += 1;
        }
        // From orthogonalised atoms to atoms: Lᵀ x = c with L_it = factor[t][i].
        for t in (0..taken).rev() {
            let row = &self.factor[t * k..t * k + taken];
            let (head, tail) = self.coefficients[..taken].split_at_mut(t + 1);
            head[t] = (head[t] - dot(&row[t + 1..], tail)) / row[t];
            code[self.order[t]] = head[t];
        }
    }

    /// The position of the best candidate; the first of equals.
    fn best(&self, taken: usize, left: usize, pursuit: Pursuit) -> Option<usize> {
        let (a, p) = (&self.correlations[taken..left], &self.pivots[taken..left]);
        let (position, score) = match pursuit {
            Pursuit::Matching => largest(a),
            Pursuit::LeastSquares => largest_drop(a, p, DEPENDENT),
        };
        (score > 0.0).then_some(taken + position)
    }

    /// Exchanges two positions in everything that is indexed by them.
    fn swap(&mut self, taken: usize, a: usize, b: usize, k: usize) {
        if a != b {
            self.order.swap(a, b);
            self.correlations.swap(a, b);
            self.pivots.swap(a, b);
            (0..taken).for_each(|i| self.factor.swap(i * k + a, i * k + b));
        }
    }

    /// Makes row `taken` of the factor for the atom that stands there: `(G_j - sum_i b_i[j] b_i) / pivot`.
    fn extend(&mut self, gram: &[f64], taken: usize, left: usize, pivot: f64) {
        let k = gram.len();
        let range = taken + 1..left;
        let row = &mut self.row[range.clone()];
        for (r, &o) in row.iter_mut().zip(&self.order[range.clone()]) {
            *r = gram[o];
        }
        let (done, new) = self.factor.split_at_mut(taken * k);
        subtract_rows(done, k, taken, left, row);
        new[taken] = pivot;
        let scale = 1.0 / pivot;
        new[range].iter_mut().zip(row.iter()).for_each(|(n, r)| *n = r * scale);
    }
}

sparseland_matrix::vectorised! {
    /// `row -= sum_i rows_i[at] rows_i[at + 1..left]` over all rows of width `k`, four at a time.
    fn subtract_rows(rows: &[f64], k: usize, at: usize, left: usize, row: &mut [f64]) {
        let mut fours = rows.chunks_exact(4 * k);
        for four in &mut fours {
            let (a, rest) = four.split_at(k);
            let (b, rest) = rest.split_at(k);
            let (c, d) = rest.split_at(k);
            let (fa, fb, fc, fd) = (a[at], b[at], c[at], d[at]);
            let (a, b) = (&a[at + 1..left], &b[at + 1..left]);
            let (c, d) = (&c[at + 1..left], &d[at + 1..left]);
            for ((((r, a), b), c), d) in row.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *r -= (fa * a + fb * b) + (fc * c + fd * d);
            }
        }
        for one in fours.remainder().chunks_exact(k) {
            let f = one[at];
            for (r, v) in row.iter_mut().zip(&one[at + 1..left]) {
                *r -= f * v;
            }
        }
    }

    /// `correlations -= coefficient row`, `pivots -= row²`.
    fn step(coefficient: f64, row: &[f64], correlations: &mut [f64], pivots: &mut [f64]) {
        for ((a, p), r) in correlations.iter_mut().zip(pivots).zip(row) {
            *a -= coefficient * r;
            *p -= r * r;
        }
    }

    /// Position and size of the entry of largest magnitude.
    fn largest(a: &[f64]) -> (usize, f64) {
        let mut top = 0.0f64;
        for &v in a {
            top = if v.abs() > top { v.abs() } else { top };
        }
        (a.iter().position(|v| v.abs() == top).unwrap_or(0), top)
    }

    /// Position and value of the largest `a² / p` over the entries with `p > floor`.
    fn largest_drop(a: &[f64], p: &[f64], floor: f64) -> (usize, f64) {
        let mut top = 0.0f64;
        for (&a, &p) in a.iter().zip(p) {
            let v = if p > floor { a * a / p } else { 0.0 };
            top = if v > top { v } else { top };
        }
        let same = |(a, p): (&f64, &f64)| *p > floor && a * a / p == top;
        (a.iter().zip(p).position(same).unwrap_or(0), top)
    }
}
