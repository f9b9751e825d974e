//! A sparse matrix by columns, in f64.

use sparseland_linalg::Mat;

use super::BcdError;

/// Compressed sparse columns: column `j` holds `indices[starts[j]..starts[j + 1]]`, rows ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparse {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f64>,
}

impl Sparse {
    /// From `(row, column, value)`; entries of one place are added, zeros dropped.
    ///
    /// # Errors
    /// [`BcdError::Shape`] for an index outside, [`BcdError::NonFinite`].
    pub fn from_triplets(
        rows: usize,
        cols: usize,
        triplets: &[(usize, usize, f64)],
    ) -> Result<Self, BcdError> {
        let mut sorted = triplets.to_vec();
        for &(i, j, v) in triplets {
            if i >= rows || j >= cols || u32::try_from(i).is_err() {
                return Err(BcdError::Shape {
                    what: "the matrix",
                    expected: format!("indices below {rows} x {cols}"),
                    got: format!("({i}, {j})"),
                });
            }
            if !v.is_finite() {
                return Err(BcdError::NonFinite { what: "the matrix", row: i, column: j });
            }
        }
        sorted.sort_by_key(|&(i, j, _)| (j, i));
        let mut out =
            Sparse { rows, cols, starts: vec![0; cols + 1], indices: Vec::new(), values: Vec::new() };
        let mut last = None;
        for (i, j, v) in sorted {
            if last == Some((i, j)) {
                *out.values.last_mut().expect("an entry of this place exists") += v;
                continue;
            }
            last = Some((i, j));
            out.indices.push(i as u32);
            out.values.push(v);
            out.starts[j + 1] += 1;
        }
        for j in 0..cols {
            out.starts[j + 1] += out.starts[j];
        }
        Ok(out)
    }

    /// The non-zeros of a dense matrix.
    ///
    /// # Errors
    /// [`BcdError::NonFinite`].
    pub fn from_dense(a: &Mat<f64>) -> Result<Self, BcdError> {
        let mut triplets = Vec::new();
        for i in 0..a.rows {
            for (j, &v) in a.row(i).iter().enumerate() {
                if v != 0.0 {
                    triplets.push((i, j, v));
                }
            }
        }
        Self::from_triplets(a.rows, a.cols, &triplets)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Stored entries.
    pub fn entries(&self) -> usize {
        self.values.len()
    }

    /// Row indices and values of column `j`.
    ///
    /// # Panics
    /// When `j >= cols`.
    pub fn column(&self, j: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let range = self.starts[j]..self.starts[j + 1];
        self.indices[range.clone()].iter().zip(&self.values[range]).map(|(&i, &v)| (i as usize, v))
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        let mut starts = vec![0; self.rows + 1];
        self.indices.iter().for_each(|&i| starts[i as usize + 1] += 1);
        for i in 0..self.rows {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let (mut indices, mut values) = (vec![0; self.entries()], vec![0.0; self.entries()]);
        for j in 0..self.cols {
            for (i, v) in self.column(j) {
                indices[next[i]] = j as u32;
                values[next[i]] = v;
                next[i] += 1;
            }
        }
        Sparse { rows: self.cols, cols: self.rows, starts, indices, values }
    }

    /// The product of two columns.
    pub(super) fn dot(&self, a: usize, b: usize) -> f64 {
        let (ra, rb) = (self.starts[a]..self.starts[a + 1], self.starts[b]..self.starts[b + 1]);
        let (ia, ib) = (&self.indices[ra.clone()], &self.indices[rb.clone()]);
        let (va, vb) = (&self.values[ra], &self.values[rb]);
        let (mut i, mut j, mut sum) = (0, 0, 0.0);
        while i < ia.len() && j < ib.len() {
            match ia[i].cmp(&ib[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => {
                    sum += va[i] * vb[j];
                    i += 1;
                    j += 1;
                }
            }
        }
        sum
    }

    /// `A x`.
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.rows];
        for (j, &v) in x.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            self.column(j).for_each(|(i, a)| out[i] += a * v);
        }
        out
    }
}
