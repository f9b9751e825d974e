//! How the batched products read the rows of a pattern with values given from outside.

#![allow(unsafe_code)] // the contract of `Rows` is stated by `unsafe impl`

use super::batch::Rows;
use super::batch::simd::Isa;
use crate::Pattern;

/// A pattern and its values, one per entry.
pub(crate) struct PatternRows<'a> {
    pub(crate) pattern: &'a Pattern,
    pub(crate) values: &'a [f32],
}

// SAFETY: columns are below `cols` and rise: checked when the pattern was made.
unsafe impl Rows for PatternRows<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.pattern.rows(), self.pattern.cols())
    }
    fn entries(&self) -> usize {
        self.values.len()
    }
    fn vector_items(&self) -> usize {
        0
    }
    fn transposed_vector_items(&self) -> usize {
        0
    }
    fn unpack(&self, _: Isa, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let range = self.pattern.range(row);
        columns.extend_from_slice(&self.pattern.indices[range.clone()]);
        values.extend_from_slice(&self.values[range]);
    }
    fn unpack_wide(&self, row: usize, columns: &mut Vec<u32>, values: &mut Vec<f32>) {
        let range = self.pattern.range(row);
        columns.extend(self.pattern.indices[range.clone()].iter().map(|&c| u32::from(c)));
        values.extend_from_slice(&self.values[range]);
    }
}
