//! N:M matrices: exactly N stored values in every M consecutive columns of a row.

use crate::{Buffer, Layout, LinearMap, MatrixError, ValueType, Values, kernels};

/// Bits of one code: the position of a value inside its group.
pub(crate) fn code_bits(m: usize) -> usize {
    (usize::BITS - (m - 1).leading_zeros()) as usize
}

/// Bytes of the codes of one row.
pub(crate) fn code_bytes_per_row(cols: usize, n: usize, m: usize) -> usize {
    (cols.div_ceil(m) * n * code_bits(m)).div_ceil(8)
}

/// A matrix with exactly `n` stored values in every `m` consecutive columns of a row (rows are
/// never straddled; the last group may be narrower). Groups with fewer non-zeros store zeros.
///
/// Files hold the canonical form: per row the values of its groups one after another, and their
/// positions inside the group as `ceil(log2 m)`-bit codes, packed from the low bits of each byte
/// up, each row starting on a byte.
#[derive(Debug, Clone, PartialEq)]
pub struct NofM {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) n: usize,
    pub(crate) m: usize,
    /// `rows x code_bytes_per_row` bytes.
    pub(crate) codes: Buffer<u8>,
    /// `rows x ceil(cols / m) * n` values.
    pub(crate) values: Values,
}

impl NofM {
    /// Stores row-major `data`, which must have at most `n` non-zeros in every group of `m`.
    ///
    /// # Errors
    /// [`MatrixError::Pattern`] naming the first group with more, or an impossible N:M
    /// (`1 <= n < m <= 256` is required).
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` numbers.
    pub fn from_dense(
        rows: usize,
        cols: usize,
        data: &[f32],
        (n, m): (usize, usize),
        values: ValueType,
    ) -> Result<Self, MatrixError> {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} numbers", rows * cols);
        if n == 0 || n >= m || m > 256 {
            return Err(MatrixError::Pattern(format!("{n}:{m} is not a pattern; 1 <= n < m <= 256 is")));
        }
        let groups = cols.div_ceil(m);
        let (bits, stride) = (code_bits(m), code_bytes_per_row(cols, n, m));
        let mut codes = Buffer::<u8>::zeros(rows * stride);
        let mut kept = Vec::with_capacity(rows * groups * n);
        for r in 0..rows {
            for g in 0..groups {
                let group = &data[r * cols + g * m..r * cols + ((g + 1) * m).min(cols)];
                let mut positions: Vec<usize> = (0..group.len()).filter(|&i| group[i] != 0.0).collect();
                if positions.len() > n {
                    return Err(MatrixError::Pattern(format!(
                        "row {r} has {} non-zeros in columns {}..{}, more than {n}:{m} allows",
                        positions.len(),
                        g * m,
                        g * m + group.len()
                    )));
                }
                // Fill up with distinct zero positions; a narrow last group may repeat position 0.
                let spare = (0..group.len()).filter(|&i| group[i] == 0.0);
                let missing = n - positions.len();
                positions.extend(spare.take(missing));
                positions.sort_unstable();
                for slot in 0..n {
                    let position = positions.get(slot).copied();
                    kept.push(position.map_or(0.0, |p| group[p]));
                    let bit = (g * n + slot) * bits;
                    let code = position.unwrap_or(0) << (bit % 8);
                    let byte = r * stride + bit / 8;
                    codes[byte] |= code as u8;
                    if bit % 8 + bits > 8 {
                        codes[byte + 1] |= (code >> 8) as u8;
                    }
                }
            }
        }
        let offsets: Vec<usize> = (0..=rows).map(|r| r * groups * n).collect();
        Ok(Self { rows, cols, n, m, codes, values: Values::encode(values, &kept, &offsets) })
    }

    /// The pattern `(n, m)`.
    pub fn pattern(&self) -> (usize, usize) {
        (self.n, self.m)
    }

    /// The stored entries of row `row`: column and value (zeros that fill a group included).
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let (bits, stride) = (code_bits(self.m), code_bytes_per_row(self.cols, self.n, self.m));
        let per_row = self.cols.div_ceil(self.m) * self.n;
        let codes = &self.codes[row * stride..(row + 1) * stride];
        (0..per_row).map(move |i| {
            let bit = i * bits;
            let low = codes[bit / 8] as usize >> (bit % 8);
            let high = codes.get(bit / 8 + 1).map_or(0, |&b| (b as usize) << (8 - bit % 8));
            let position = (low | high) & ((1 << bits) - 1);
            (i / self.n * self.m + position, self.values.get(row, row * per_row + i))
        })
    }

    /// Appends the columns and values (scale applied) of `row`, of a matrix with at most 65 536
    /// columns, in the order of [`Self::row`].
    #[allow(dead_code)]
    pub(crate) fn unpack_row(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u16);
            values.push(w);
        }
    }
}

impl LinearMap for NofM {
    fn layout(&self) -> Layout {
        Layout::NofM {
            rows: self.rows,
            cols: self.cols,
            values: self.values.value_type(),
            n: self.n,
            m: self.m,
        }
    }
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!((x.len(), y.len()), (self.cols, self.rows), "wrong length");
        kernels::nofm_gemv(self, x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!((x.len(), y.len()), (self.rows, self.cols), "wrong length");
        y.fill(0.0);
        for (r, &x) in x.iter().enumerate() {
            for (c, w) in self.row(r) {
                y[c] += w * x;
            }
        }
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for r in 0..self.rows {
            for (c, w) in self.row(r) {
                // += : a narrow last group may name position 0 again with a zero value.
                out[r * self.cols + c] += w;
            }
        }
        out
    }
}
