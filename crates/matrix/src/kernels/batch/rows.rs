//! How the batched products read the rows of each sparse kind.

#![allow(unsafe_code)] // the contract of `Rows` is stated by `unsafe impl`

use super::Rows;
use super::dense::widen_row;
use super::simd::Isa;
use crate::{Bitmask, Csr, NofM, ValueType};

/// Appends `count` values from position `first` on, which belong to `row`.
fn push_values(isa: Isa, of: &crate::Values, row: usize, first: usize, count: usize, values: &mut Vec<f32>) {
    let at = values.len();
    if let crate::Values::F32(v) = of {
        return values.extend_from_slice(&v[first..first + count]);
    }
    values.resize(at + count, 0.0);
    widen_row(isa, of, row, first..first + count, &mut values[at..]);
}

// SAFETY: indices are below `cols`: built so, and checked when read from a file.
unsafe impl Rows for Csr {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
    fn entries(&self) -> usize {
        self.nonzeros()
    }
    fn vector_items(&self) -> usize {
        3
    }
    fn transposed_vector_items(&self) -> usize {
        3
    }
    fn unpack(&self, isa: Isa, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let (start, end) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        columns.extend_from_slice(&self.indices[start..end]);
        push_values(isa, &self.values, row, start, end - start, values);
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
    fn vector_items(&self) -> usize {
        if self.values.value_type() == ValueType::F32 { 4 } else { 6 }
    }
    fn transposed_vector_items(&self) -> usize {
        6
    }
    fn unpack(&self, isa: Isa, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if super::unpack::available() => {
                super::unpack::bitmask(self, row, columns, values);
            }
            _ => self.unpack_row(row, columns, values),
        }
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
    fn vector_items(&self) -> usize {
        if self.values.value_type() == ValueType::F32 { 4 } else { 16 }
    }
    fn transposed_vector_items(&self) -> usize {
        1
    }
    fn group(&self) -> usize {
        self.m
    }
    fn unpack(&self, isa: Isa, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if super::unpack::available() => {
                super::unpack::nofm(self, row, columns, values);
            }
            _ => self.unpack_row(row, columns, values),
        }
    }
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>) {
        for (c, w) in self.row(row) {
            columns.push(c as u32);
            values.push(w);
        }
    }
}
