//! Numbers in rows and columns, dense or sparse.

/// A matrix of f64.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// All entries, column after column.
    Dense {
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
        /// `rows * cols` values.
        values: Vec<f64>,
    },
    /// Compressed sparse columns.
    Sparse {
        /// Number of rows.
        rows: usize,
        /// Column `j` has the entries `offsets[j]..offsets[j + 1]`.
        offsets: Vec<usize>,
        /// The row of every entry, rising strictly within a column.
        row_of: Vec<u32>,
        /// The values.
        values: Vec<f64>,
    },
}

/// The most rows or columns of a sparse file: a guard against absurd numbers, which would have us allocate offsets.
pub(super) const MOST: usize = 1 << 27;

impl Numbers {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { rows, .. } | Self::Sparse { rows, .. } => *rows,
        }
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        match self {
            Self::Dense { cols, .. } => *cols,
            Self::Sparse { offsets, .. } => offsets.len() - 1,
        }
    }

    /// A copy of column `j`, with its zeros.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn column(&self, j: usize) -> Vec<f64> {
        match self {
            Self::Dense { rows, values, .. } => values[j * rows..(j + 1) * rows].to_vec(),
            Self::Sparse { rows, offsets, row_of, values } => {
                let mut out = vec![0.0; *rows];
                let entries = offsets[j]..offsets[j + 1];
                entries.for_each(|k| out[row_of[k] as usize] = values[k]);
                out
            }
        }
    }

    /// A copy of some columns.
    ///
    /// # Panics
    /// If there is no such column.
    #[must_use]
    pub fn keep(&self, columns: &[usize]) -> Self {
        if columns.len() == self.cols() && columns.iter().enumerate().all(|(at, j)| at == *j) {
            return self.clone();
        }
        match self {
            Self::Dense { rows, values, .. } => {
                let kept = columns.iter().flat_map(|j| &values[j * rows..(j + 1) * rows]);
                Self::Dense { rows: *rows, cols: columns.len(), values: kept.copied().collect() }
            }
            Self::Sparse { rows, offsets, row_of, values } => {
                let (mut new_offsets, mut new_rows, mut new_values) = (vec![0], vec![], vec![]);
                for &j in columns {
                    new_rows.extend_from_slice(&row_of[offsets[j]..offsets[j + 1]]);
                    new_values.extend_from_slice(&values[offsets[j]..offsets[j + 1]]);
                    new_offsets.push(new_rows.len());
                }
                Self::Sparse { rows: *rows, offsets: new_offsets, row_of: new_rows, values: new_values }
            }
        }
    }

    /// With columns of zeros behind the last, up to `cols` in all.
    #[must_use]
    pub fn widened(mut self, cols: usize) -> Self {
        match &mut self {
            Self::Dense { rows, cols: old, values } => {
                *old = cols.max(*old);
                values.resize(*rows * *old, 0.0);
            }
            Self::Sparse { offsets, values, .. } => {
                let length = offsets.len().max(cols + 1);
                offsets.resize(length, values.len());
            }
        }
        self
    }

    /// The first entry, column by column, that is NaN or infinite: `(row, column, value)`.
    pub fn first_non_finite(&self) -> Option<(usize, usize, f64)> {
        let values = match self {
            Self::Dense { values, .. } | Self::Sparse { values, .. } => values,
        };
        let at = values.iter().position(|v| !v.is_finite())?;
        Some(match self {
            Self::Dense { rows, .. } => (at % rows, at / rows, values[at]),
            Self::Sparse { offsets, row_of, .. } => {
                (row_of[at] as usize, offsets.partition_point(|o| *o <= at) - 1, values[at])
            }
        })
    }

    /// A sparse matrix of entries in any order; entries of one place are added up. Cost: `O(entries + rows + cols)`.
    ///
    /// Rows and columns of all entries must lie inside the matrix.
    pub(super) fn from_entries(
        rows: usize,
        cols: usize,
        row_of: &[u32],
        column_of: &[u32],
        given: &[f64],
    ) -> Self {
        // By rows first, then by columns, each a stable counting sort: rows rise within columns.
        let by_row = sorted_by(rows, row_of, 0..given.len() as u32);
        let by_column = sorted_by(cols, column_of, by_row.into_iter());
        let mut out =
            (vec![0usize; cols + 1], Vec::with_capacity(given.len()), Vec::with_capacity(given.len()));
        let mut last = None;
        for k in by_column {
            let k = k as usize;
            let place = (row_of[k], column_of[k]);
            if last == Some(place) {
                if let Some(value) = out.2.last_mut() {
                    *value += given[k];
                }
                continue;
            }
            last = Some(place);
            out.0[column_of[k] as usize + 1] += 1;
            out.1.push(row_of[k]);
            out.2.push(given[k]);
        }
        for j in 0..cols {
            out.0[j + 1] += out.0[j];
        }
        Self::Sparse { rows, offsets: out.0, row_of: out.1, values: out.2 }
    }
}

/// Positions in the order of their keys, equal keys in the order in which they came.
fn sorted_by(count: usize, key: &[u32], positions: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut next = vec![0usize; count + 1];
    key.iter().for_each(|k| next[*k as usize + 1] += 1);
    for k in 0..count {
        next[k + 1] += next[k];
    }
    let mut out = vec![0; key.len()];
    for position in positions {
        let slot = &mut next[key[position as usize] as usize];
        out[*slot] = position;
        *slot += 1;
    }
    out
}
