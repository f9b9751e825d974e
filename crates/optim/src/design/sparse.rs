//! Compressed sparse columns.

use sparseland_matrix::vector::{self, Real};

use super::{Design, DesignError};

/// A sparse design: CSC with u32 row numbers, values f32 or f64.
#[derive(Clone, Debug)]
pub struct Sparse<T> {
    rows: usize,
    offsets: Vec<usize>,
    row_of: Vec<u32>,
    values: Vec<T>,
}

/// Offsets must start at 0, never fall and end at the number of entries.
fn check_offsets(parts: usize, offsets: &[usize], entries: usize) -> Result<(), DesignError> {
    let wrong = |position| Err(DesignError::Offsets { position, cols: parts, entries });
    if offsets.len() != parts + 1 {
        return wrong(offsets.len().min(parts));
    }
    if offsets[0] != 0 {
        return wrong(0);
    }
    match offsets.windows(2).position(|pair| pair[1] < pair[0] || pair[1] > entries) {
        Some(at) => wrong(at + 1),
        None if offsets[parts] != entries => wrong(parts),
        None => Ok(()),
    }
}

impl<T: Real> Sparse<T> {
    /// A design of `rows` rows whose column `j` has the entries `offsets[j]..offsets[j + 1]`.
    ///
    /// # Errors
    /// [`DesignError`] names the first offset or entry at fault: rows must rise strictly within a column.
    pub fn from_csc(
        rows: usize,
        offsets: Vec<usize>,
        row_of: Vec<u32>,
        values: Vec<T>,
    ) -> Result<Self, DesignError> {
        let cols = offsets.len().saturating_sub(1);
        if row_of.len() != values.len() {
            return Err(DesignError::Length { rows, cols, expected: row_of.len(), got: values.len() });
        }
        check_offsets(cols, &offsets, values.len())?;
        for (column, pair) in offsets.windows(2).enumerate() {
            let mut least = 0u64;
            for entry in pair[0]..pair[1] {
                let row = row_of[entry];
                if u64::from(row) < least || row as usize >= rows {
                    return Err(DesignError::Row { entry, column, row, rows });
                }
                least = u64::from(row) + 1;
            }
        }
        Ok(Self { rows, offsets, row_of, values })
    }

    /// The same matrix given row by row (CSR): one conversion, `O(entries + cols)`.
    ///
    /// # Errors
    /// As [`Sparse::from_csc`]; duplicates and columns outside the matrix are found after the conversion
    /// and are named by their place in the rows.
    pub fn from_csr(
        cols: usize,
        offsets: &[usize],
        column_of: &[u32],
        values: &[T],
    ) -> Result<Self, DesignError> {
        let rows = offsets.len().saturating_sub(1);
        if column_of.len() != values.len() {
            return Err(DesignError::Length { rows, cols, expected: column_of.len(), got: values.len() });
        }
        check_offsets(rows, offsets, values.len())?;
        let mut next = vec![0usize; cols + 1];
        for (entry, &column) in column_of.iter().enumerate() {
            if column as usize >= cols {
                let row = offsets.partition_point(|&o| o <= entry).saturating_sub(1) as u32;
                return Err(DesignError::Row { entry, column: column as usize, row, rows });
            }
            next[column as usize + 1] += 1;
        }
        for j in 0..cols {
            next[j + 1] += next[j];
        }
        let starts = next.clone();
        let mut row_of = vec![0; values.len()];
        let mut sorted = vec![T::default(); values.len()];
        for row in 0..rows {
            for entry in offsets[row]..offsets[row + 1] {
                let slot = &mut next[column_of[entry] as usize];
                row_of[*slot] = row as u32;
                sorted[*slot] = values[entry];
                *slot += 1;
            }
        }
        Self::from_csc(rows, starts, row_of, sorted)
    }

    /// Row numbers and values of column `j`.
    pub fn column(&self, j: usize) -> (&[u32], &[T]) {
        let range = self.offsets[j]..self.offsets[j + 1];
        (&self.row_of[range.clone()], &self.values[range])
    }
}

impl<T: Real> Design for Sparse<T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.offsets.len() - 1
    }

    fn stored(&self) -> usize {
        self.values.len()
    }

    fn dot(&self, j: usize, v: &[f64]) -> f64 {
        let (rows, values) = self.column(j);
        vector::sparse_dot(rows, values, v)
    }

    fn axpy(&self, j: usize, a: f64, out: &mut [f64]) {
        let (rows, values) = self.column(j);
        vector::sparse_axpy(a, rows, values, out);
    }

    fn dots(&self, columns: &[u32], v: &[f64], out: &mut [f64]) {
        for (&j, out) in columns.iter().zip(out) {
            *out = self.dot(j as usize, v);
        }
    }

    fn squared_distance(&self, j: usize, shift: f64, unit: Option<&[f64]>) -> f64 {
        let square = |a: f64| a * a;
        let (rows, values) = self.column(j);
        let entries = rows.iter().zip(values);
        if shift == 0.0 {
            return values.iter().map(|v| square(v.to_f64())).sum();
        }
        let weight = |i: u32| unit.map_or(1.0, |u| u[i as usize]);
        let stored: f64 = entries.map(|(&i, v)| square(v.to_f64() - shift * weight(i))).sum();
        let total = unit.map_or(self.rows as f64, |u| u.iter().map(|v| square(*v)).sum());
        let covered: f64 = rows.iter().map(|&i| square(weight(i))).sum();
        stored + square(shift) * (total - covered).max(0.0)
    }

    fn select(
        &self,
        rows: Option<&[u32]>,
        columns: Option<&[u32]>,
        row_scale: Option<&[f64]>,
    ) -> Box<dyn Design> {
        let height = rows.map_or(self.rows, <[u32]>::len);
        let width = columns.map_or(self.cols(), <[u32]>::len);
        let new_row: Option<Vec<u32>> = rows.map(|rows| {
            let mut new = vec![u32::MAX; self.rows];
            rows.iter().enumerate().for_each(|(k, &i)| new[i as usize] = k as u32);
            new
        });
        let mut out =
            Self { rows: height, offsets: Vec::with_capacity(width + 1), row_of: vec![], values: vec![] };
        out.offsets.push(0);
        for k in 0..width {
            let (rows, values) = self.column(columns.map_or(k, |c| c[k] as usize));
            for (&i, &v) in rows.iter().zip(values) {
                let to = new_row.as_ref().map_or(i, |new| new[i as usize]);
                if to != u32::MAX {
                    out.row_of.push(to);
                    out.values.push(match row_scale {
                        None => v,
                        Some(scale) => T::from_f64(v.to_f64() * scale[i as usize]),
                    });
                }
            }
            out.offsets.push(out.values.len());
        }
        Box::new(out)
    }

    fn first_non_finite(&self) -> Option<(usize, usize, f64)> {
        let at = self.values.iter().position(|v| !v.to_f64().is_finite())?;
        let column = self.offsets.partition_point(|&o| o <= at) - 1;
        Some((self.row_of[at] as usize, column, self.values[at].to_f64()))
    }
}
