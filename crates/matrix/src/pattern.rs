//! A fixed sparse pattern whose values live elsewhere: what sparse weights are while they train.

use rayon::prelude::*;

use crate::kernels::batch::simd::Isa;
use crate::kernels::batch::{sparse_batch, sparse_batch_transposed};
use crate::kernels::pattern::PatternRows;
use crate::simd::LANES;
use crate::{Buffer, Csr, Real, ValueType, Values};

/// Batch items whose columns [`Pattern::sample_products`] multiplies at a time.
const TILE: usize = 256;

/// Rows that one thread handles at a time.
const ROWS: usize = 32;

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// 16-bit indices cannot name the columns.
    #[error("a sparse pattern of {cols} columns is not supported: at most 65536")]
    TooWide {
        /// The number of columns.
        cols: usize,
    },
    /// An entry lies outside or stands twice.
    #[error("entry {entry} of the pattern (row {row}, column {col}) {reason}")]
    Entry {
        /// The position in the list.
        entry: usize,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The places of the non-zeros of a `rows x cols` matrix, row by row. Values are given to each product in the same
/// order.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    rows: usize,
    cols: usize,
    pub(crate) offsets: Buffer<u32>,
    pub(crate) indices: Buffer<u16>,
}

impl Pattern {
    /// The pattern of the given places in any order.
    ///
    /// # Errors
    /// If there are more than 65 536 columns, or an entry lies outside or stands twice.
    pub fn new(rows: usize, cols: usize, entries: &[(usize, usize)]) -> Result<Self, PatternError> {
        if cols > 1 << 16 {
            return Err(PatternError::TooWide { cols });
        }
        let mut order: Vec<(usize, usize, usize)> =
            entries.iter().enumerate().map(|(i, &(r, c))| (r, c, i)).collect();
        order.sort_unstable();
        let wrong = |&(row, col, entry): &(usize, usize, usize), reason| {
            Err(PatternError::Entry { entry, row, col, reason })
        };
        if let Some(outside) = order.iter().find(|&&(r, c, _)| r >= rows || c >= cols) {
            return wrong(outside, "lies outside the matrix");
        }
        if let Some(pair) = order.windows(2).find(|w| (w[0].0, w[0].1) == (w[1].0, w[1].1)) {
            return wrong(&pair[1], "stands twice");
        }
        let mut offsets = vec![0u32; rows + 1];
        order.iter().for_each(|&(r, ..)| offsets[r + 1] += 1);
        (0..rows).for_each(|r| offsets[r + 1] += offsets[r]);
        let indices: Vec<u16> = order.iter().map(|&(_, c, _)| c as u16).collect();
        Ok(Self { rows, cols, offsets: Buffer::from_slice(&offsets), indices: Buffer::from_slice(&indices) })
    }

    /// The pattern of a matrix in compressed rows.
    pub fn of(matrix: &Csr) -> Self {
        Self {
            rows: matrix.rows,
            cols: matrix.cols,
            offsets: matrix.offsets.clone(),
            indices: matrix.indices.clone(),
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of entries.
    pub fn nonzeros(&self) -> usize {
        self.indices.len()
    }

    /// The columns of a row's entries, rising.
    pub fn row(&self, row: usize) -> &[u16] {
        &self.indices[self.range(row)]
    }

    /// Where the entries of a row stand among all.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// All places, in order.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.rows).flat_map(move |r| self.row(r).iter().map(move |&c| (r, usize::from(c))))
    }

    /// The bytes of the indices in memory.
    pub fn bytes(&self) -> u64 {
        (self.offsets.bytes().len() + self.indices.bytes().len()) as u64
    }

    /// The matrix with these values.
    ///
    /// # Panics
    /// If there is not one value per entry.
    pub fn matrix(&self, values: &[f32], kind: ValueType) -> Csr {
        assert_eq!(values.len(), self.nonzeros(), "one value per entry");
        let offsets: Vec<usize> = self.offsets.iter().map(|&o| o as usize).collect();
        Csr {
            rows: self.rows,
            cols: self.cols,
            offsets: self.offsets.clone(),
            indices: self.indices.clone(),
            values: Values::encode(kind, values, &offsets),
        }
    }

    /// `Y = X Sᵀ`, or `Y +=` if `add`: `X: batch x cols`, `Y: batch x rows`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn multiply<R: Real>(&self, values: &[R], x: &[R], batch: usize, y: &mut [R], add: bool) {
        assert_eq!(values.len(), self.nonzeros(), "one value per entry");
        assert_eq!((x.len(), y.len()), (batch * self.cols, batch * self.rows), "wrong length");
        if let (Some(values), Some(x)) = (R::as_f32(values), R::as_f32(x)) {
            let y = R::as_f32_mut(y).expect("as the inputs");
            return sparse_batch(Isa::detect(), &PatternRows { pattern: self, values }, x, batch, y, add);
        }
        y.par_chunks_mut(self.rows.max(1)).zip(x.par_chunks(self.cols.max(1))).for_each(|(y, x)| {
            for (r, y) in y.iter_mut().enumerate() {
                let range = self.range(r);
                let sum = range.map(|k| values[k] * x[usize::from(self.indices[k])]).sum::<R>();
                *y = if add { *y + sum } else { sum };
            }
        });
    }

    /// `Y = X S`, or `Y +=` if `add`: `X: batch x rows`, `Y: batch x cols`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn multiply_transposed<R: Real>(&self, values: &[R], x: &[R], batch: usize, y: &mut [R], add: bool) {
        assert_eq!(values.len(), self.nonzeros(), "one value per entry");
        assert_eq!((x.len(), y.len()), (batch * self.rows, batch * self.cols), "wrong length");
        if let (Some(values), Some(x)) = (R::as_f32(values), R::as_f32(x)) {
            let y = R::as_f32_mut(y).expect("as the inputs");
            return sparse_batch_transposed(
                Isa::detect(),
                &PatternRows { pattern: self, values },
                x,
                batch,
                y,
                add,
            );
        }
        y.par_chunks_mut(self.cols.max(1)).zip(x.par_chunks(self.rows.max(1))).for_each(|(y, x)| {
            if !add {
                y.fill(R::ZERO);
            }
            for (r, x) in x.iter().enumerate() {
                self.range(r).for_each(|k| y[usize::from(self.indices[k])] += values[k] * *x);
            }
        });
    }

    /// Numbers of scratch that [`sample_products`](Self::sample_products) asks for.
    pub fn scratch(&self) -> usize {
        TILE * (self.rows + self.cols)
    }

    /// `out_k += sum_b G[b, row_k] X[b, col_k]`: the gradient of the values, made only where there are any.
    /// `G: batch x rows`, `X: batch x cols`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn sample_products<R: Real>(&self, g: &[R], x: &[R], batch: usize, out: &mut [R], scratch: &mut [R]) {
        assert_eq!(out.len(), self.nonzeros(), "one output per entry");
        assert_eq!((x.len(), g.len()), (batch * self.cols, batch * self.rows), "wrong length");
        assert_eq!(scratch.len(), self.scratch(), "wrong length of scratch");
        let (gt, xt) = scratch.split_at_mut(TILE * self.rows);
        for first in (0..batch).step_by(TILE) {
            let items = TILE.min(batch - first);
            transpose(&g[first * self.rows..(first + items) * self.rows], self.rows, gt);
            transpose(&x[first * self.cols..(first + items) * self.cols], self.cols, xt);
            let (gt, xt) = (&*gt, &*xt);
            let mut blocks = Vec::with_capacity(self.rows.div_ceil(ROWS));
            let mut rest = &mut *out;
            for start in (0..self.rows).step_by(ROWS) {
                let end = (start + ROWS).min(self.rows);
                let len = (self.offsets[end] - self.offsets[start]) as usize;
                let (block, tail) = rest.split_at_mut(len);
                blocks.push((start..end, block));
                rest = tail;
            }
            blocks.into_par_iter().for_each(|(rows, out)| {
                let base = self.offsets[rows.start] as usize;
                for row in rows {
                    let range = self.range(row);
                    let out = &mut out[range.start - base..range.end - base];
                    sample_row(&gt[row * TILE..(row + 1) * TILE], xt, &self.indices[range], out);
                }
            });
        }
    }
}

/// `to: cols x TILE` from `from: items x cols`, with zeros for the items that lack.
fn transpose<R: Real>(from: &[R], cols: usize, to: &mut [R]) {
    to.par_chunks_mut(SIDE * TILE).enumerate().for_each(|(block, to)| {
        let first = block * SIDE;
        let items = from.len() / cols;
        if items < TILE {
            to.fill(R::ZERO);
        }
        let whole = if first + SIDE <= cols { items / SIDE * SIDE } else { 0 };
        for start in (0..whole).step_by(SIDE) {
            transpose_square(&from[start * cols + first..], cols, &mut to[start..]);
        }
        for (i, row) in from.chunks_exact(cols).enumerate().skip(whole) {
            let row = &row[first..(first + SIDE).min(cols)];
            row.iter().enumerate().for_each(|(c, v)| to[c * TILE + i] = *v);
        }
    });
}

/// Side of the squares that are transposed in registers.
const SIDE: usize = 16;

crate::vectorised! {
    /// Transposes one square; rows of the result stand [`TILE`] apart.
    fn transpose_square<R: Real>(from: &[R], stride: usize, to: &mut [R]) {
        let mut square = [[R::ZERO; SIDE]; SIDE];
        for (i, row) in square.iter_mut().enumerate() {
            row.copy_from_slice(&from[i * stride..i * stride + SIDE]);
        }
        for c in 0..SIDE {
            let out = &mut to[c * TILE..c * TILE + SIDE];
            for i in 0..SIDE {
                out[i] = square[i][c];
            }
        }
    }
}

crate::vectorised! {
    /// `out_k += <g, xt[columns_k]>`, all of length [`TILE`].
    fn sample_row<R: Real>(g: &[R], xt: &[R], columns: &[u16], out: &mut [R]) {
        for (out, &c) in out.iter_mut().zip(columns) {
            let x = &xt[usize::from(c) * TILE..(usize::from(c) + 1) * TILE];
            let mut sums = [R::ZERO; LANES];
            for (g, x) in g.chunks_exact(LANES).zip(x.chunks_exact(LANES)) {
                for ((s, g), x) in sums.iter_mut().zip(g).zip(x) {
                    *s += *g * *x;
                }
            }
            // Pairwise, so that the last additions are vectors too.
            let mut half = LANES / 2;
            while half > 0 {
                for i in 0..half {
                    sums[i] += sums[i + half];
                }
                half /= 2;
            }
            *out += sums[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinearMap;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u32) -> Vec<f64> {
        (0..n as u32).map(|i| f64::from((i * 7919 + seed * 104_729) % 2003) / 1001.0 - 1.0).collect()
    }

    fn cast(v: &[f64]) -> Vec<f32> {
        v.iter().map(|&v| v as f32).collect()
    }

    fn close<R: Real>(found: &[R], want: &[f64], tolerance: f64) -> bool {
        found.iter().zip(want).all(|(f, w)| (f.to_f64() - w).abs() <= tolerance)
    }

    proptest! {
        #[test]
        fn products_equal_those_of_the_dense_matrix(
            rows in 1usize..70, cols in 1usize..70, batch in 1usize..300, keep in 1u32..12, seed in 0u32..99, add: bool
        ) {
            let places: Vec<(usize, usize)> = (0..rows * cols)
                .filter(|&i| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7 & 15 < keep)
                .map(|i| (i / cols, i % cols))
                .collect();
            let pattern = Pattern::new(rows, cols, &places).unwrap();
            let values = numbers(pattern.nonzeros(), seed);
            let mut dense = vec![0.0; rows * cols];
            for ((r, c), v) in pattern.entries().zip(&values) {
                dense[r * cols + c] = *v;
            }
            let (x, g) = (numbers(batch * cols, seed + 1), numbers(batch * rows, seed + 2));
            let (mut y, mut z, mut d) = (vec![0.0; batch * rows], vec![0.0; batch * cols], vec![0.0; values.len()]);
            for b in 0..batch {
                for r in 0..rows {
                    for c in 0..cols {
                        y[b * rows + r] += dense[r * cols + c] * x[b * cols + c];
                        z[b * cols + c] += dense[r * cols + c] * g[b * rows + r];
                    }
                }
                for (k, (r, c)) in pattern.entries().enumerate() {
                    d[k] += g[b * rows + r] * x[b * cols + c];
                }
            }
            if add {
                y.iter_mut().chain(&mut z).for_each(|v| *v += 1.0);
            }
            let (mut found_y, mut found_z, mut found_d) = (vec![1.0; y.len()], vec![1.0; z.len()], vec![0.0; d.len()]);
            pattern.multiply(&values, &x, batch, &mut found_y, add);
            pattern.multiply_transposed(&values, &g, batch, &mut found_z, add);
            pattern.sample_products(&g, &x, batch, &mut found_d, &mut vec![0.0; pattern.scratch()]);
            prop_assert!(close(&found_y, &y, 1e-10) && close(&found_z, &z, 1e-10) && close(&found_d, &d, 1e-10));
            let (values, x, g) = (cast(&values), cast(&x), cast(&g));
            let (mut found_y, mut found_z, mut found_d) = (vec![1.0; y.len()], vec![1.0; z.len()], vec![0.0; d.len()]);
            pattern.multiply(&values, &x, batch, &mut found_y, add);
            pattern.multiply_transposed(&values, &g, batch, &mut found_z, add);
            pattern.sample_products(&g, &x, batch, &mut found_d, &mut vec![0.0; pattern.scratch()]);
            prop_assert!(close(&found_y, &y, 2e-4) && close(&found_z, &z, 2e-4) && close(&found_d, &d, 1e-3));
            let matrix = pattern.matrix(&values, ValueType::F32);
            let dense = cast(&dense);
            prop_assert_eq!(matrix.to_dense(), dense);
        }
    }

    #[test]
    fn bad_entries_are_named() {
        let error = |entries: &[(usize, usize)]| Pattern::new(3, 4, entries).unwrap_err().to_string();
        assert!(error(&[(0, 0), (3, 1)]).contains("entry 1 of the pattern (row 3, column 1) lies outside"));
        assert!(
            error(&[(2, 1), (0, 0), (2, 1)])
                .contains("entry 2 of the pattern (row 2, column 1) stands twice")
        );
        assert!(Pattern::new(1, 70_000, &[]).unwrap_err().to_string().contains("70000 columns"));
    }
}
