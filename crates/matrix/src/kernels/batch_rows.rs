//! How the batched products read the rows of each sparse kind.

#![allow(unsafe_code)] // the contract of `Rows` is stated by `unsafe impl`

use super::batch::{Rows, widen_row};
use super::batch_simd::{Isa, code_columns, positions};
use crate::{Bitmask, Csr, NofM};

/// Appends `count` values from position `first` on, which belong to `row`.
fn push_values(of: &crate::Values, row: usize, first: usize, count: usize, values: &mut Vec<f32>) {
    let at = values.len();
    if let crate::Values::F32(v) = of {
        return values.extend_from_slice(&v[first..first + count]);
    }
    values.resize(at + count, 0.0);
    widen_row(Isa::detect(), of, row, first..first + count, &mut values[at..]);
}

// SAFETY: indices are below `cols`: built so, and checked when read from a file.
unsafe impl Rows for Csr {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    fn entries(&self) -> usize {
        self.nonzeros()
    }
    fn unpack(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let (start, end) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        columns.extend_from_slice(&self.indices[start..end]);
        push_values(&self.values, row, start, end - start, values);
    }
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u32);
            values.push(w);
        }
    }
}

// SAFETY: no bit beyond `cols` is set: built so, and checked when read from a file.
unsafe impl Rows for Bitmask {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    fn entries(&self) -> usize {
        self.nonzeros()
    }
    fn unpack(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let (start, end) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        let stride = self.cols.div_ceil(8);
        let at = columns.len();
        columns.resize(at + end - start + 32, 0);
        let mask = &self.mask[row * stride..(row + 1) * stride];
        let count = positions(Isa::detect(), mask, &mut columns[at..]);
        columns.truncate(at + count);
        push_values(&self.values, row, start, end - start, values);
    }
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u32);
            values.push(w);
        }
    }
}

// SAFETY: columns are below `cols`: built so, and checked when read from a file.
unsafe impl Rows for NofM {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    fn entries(&self) -> usize {
        self.rows * self.cols.div_ceil(self.m) * self.n
    }
    fn unpack(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let per_row = self.cols.div_ceil(self.m) * self.n;
        let stride = crate::nofm::code_bytes_per_row(self.cols, self.n, self.m);
        let codes = &self.codes[row * stride..(row + 1) * stride];
        let at = columns.len();
        columns.resize(at + per_row + 32, 0);
        let bits = crate::nofm::code_bits(self.m);
        code_columns(Isa::detect(), codes, bits, (self.n, self.m), &mut columns[at..]);
        columns.truncate(at + per_row);
        push_values(&self.values, row, row * per_row, per_row, values);
    }
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u32);
            values.push(w);
        }
    }
}
