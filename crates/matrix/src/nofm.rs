//! N:M matrices: exactly N stored values in every M consecutive columns of a row.

use bytemuck::Pod;

use crate::kernels::{
    self,
    gemv::{GROUP, NofMShape, Source, split},
};
use crate::values::{Permute, with_values};
use crate::{Buffer, Element, Layout, LinearMap, MatrixError, ValueType, Values};

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
///
/// In memory rows stand in groups of four and the values of a row in *units* of 16, both padded
/// with zeros. A group is one stream of values, the four rows interleaved unit by unit, and one
/// of codes, where each of 16 lanes packs the codes of its values into 32-bit words.
#[derive(Debug, Clone, PartialEq)]
pub struct NofM {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) n: usize,
    pub(crate) m: usize,
    pub(crate) codes: Buffer<u32>,
    pub(crate) values: Values,
    /// First column of the N:M group of each value of a row (the same for all); `cols` for padding.
    bases: Buffer<u32>,
}

fn put_code(codes: &mut [u8], bits: usize, i: usize, code: usize) {
    let (byte, shift) = (i * bits / 8, i * bits % 8);
    codes[byte] |= (code << shift) as u8;
    if shift + bits > 8 {
        codes[byte + 1] |= (code << shift >> 8) as u8;
    }
}

/// Where value `i` of row `r` of a group stands in the group. Kernels widen the `share` numbers
/// that share 32 bits in different instructions, so those belong to different rows.
fn position(share: usize, r: usize, i: usize) -> usize {
    i / 16 * 64 + r / share * 16 * share + i % 16 * share + r % share
}

impl<'a> NofMShape<'a> {
    fn new((n, m): (usize, usize), values: ValueType, bases: &'a [u32]) -> Self {
        let mut shape = Self { n, m, bits: code_bits(m), units: bases.len() / 16, by_row: false, bases };
        shape.by_row = values == ValueType::I8 && shape.bits <= 4 && shape.source() != Source::Wide;
        shape
    }

    /// How many values share 32 bits in different rows.
    pub(crate) fn share(&self, values: ValueType) -> usize {
        if self.by_row { 1 } else { split(values) }
    }

    /// Where value `i` of row `r` of a group stands in the group.
    pub(crate) fn position<T: Element>(&self, r: usize, i: usize) -> usize {
        position(self.share(T::TYPE), r, i)
    }

    /// The column of value `i` of row `r` of a group.
    pub(crate) fn column(&self, codes: &[u32], r: usize, i: usize) -> usize {
        (self.bases[i] + self.code(codes, r, i)) as usize
    }

    fn code(&self, codes: &[u32], r: usize, i: usize) -> u32 {
        let (word, shift) = self.code_slot(r, i);
        codes[word] >> shift & ((1 << self.bits) - 1)
    }

    /// The word and the bit of the code of value `i` of row `r` of a group. Row by row, each half
    /// unit of a row has its 64 bits in a line and shares them with the same half of other units.
    pub(crate) fn code_slot(&self, r: usize, i: usize) -> (usize, usize) {
        let unit = i / 16;
        if self.by_row {
            let per_line = self.units_per_line();
            let bit = unit % per_line * (64 / per_line) + i % 8 * self.bits;
            return (unit / per_line * 16 + (2 * r + i % 16 / 8) * 2 + bit / 32, bit % 32);
        }
        let (field, fields) = (unit * GROUP + r, 32 / self.bits);
        (field / fields * 16 + i % 16, field % fields * self.bits)
    }
}

/// Brings values between row after row and the order of [`NofM`].
struct Interleave {
    rows: usize,
    per_row: usize,
    share: usize,
    pack: bool,
}

impl Permute for Interleave {
    fn permute<T: Pod>(&self, from: &[T]) -> Buffer<T> {
        let group = self.per_row.div_ceil(16) * 64;
        let packed = self.rows.div_ceil(GROUP) * group;
        let mut out = Buffer::zeros(if self.pack { packed } else { self.rows * self.per_row });
        for r in 0..self.rows {
            let (group, row) = (r / GROUP * group, r * self.per_row);
            for unit in (0..self.per_row).step_by(16) {
                let first = group + position(self.share, r % GROUP, unit);
                for i in 0..16.min(self.per_row - unit) {
                    let (a, b) = (row + unit + i, first + i * self.share);
                    if self.pack { out[b] = from[a] } else { out[a] = from[b] }
                }
            }
        }
        out
    }
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
        let mut codes = vec![0u8; rows * stride];
        let mut kept = Vec::with_capacity(rows * groups * n);
        let mut positions = [0usize; 256];
        for r in 0..rows {
            for g in 0..groups {
                let group = &data[r * cols + g * m..r * cols + ((g + 1) * m).min(cols)];
                let nonzeros = group.iter().filter(|&&w| w != 0.0).count();
                if nonzeros > n {
                    return Err(MatrixError::Pattern(format!(
                        "row {r} has {nonzeros} non-zeros in columns {}..{}, more than {n}:{m} allows",
                        g * m,
                        g * m + group.len()
                    )));
                }
                // Fill up with distinct zero positions; a narrow last group may repeat position 0.
                let (mut count, mut spare) = (0, n - nonzeros);
                for (i, &w) in group.iter().enumerate() {
                    if w != 0.0 || spare > 0 {
                        spare -= usize::from(w == 0.0);
                        positions[count] = i;
                        count += 1;
                    }
                }
                for slot in 0..n {
                    let position = if slot < count { positions[slot] } else { 0 };
                    kept.push(if slot < count { group[position] } else { 0.0 });
                    put_code(&mut codes[r * stride..(r + 1) * stride], bits, g * n + slot, position);
                }
            }
        }
        let offsets: Vec<usize> = (0..=rows).map(|r| r * groups * n).collect();
        Ok(Self::pack((rows, cols), (n, m), &codes, &Values::encode(values, &kept, &offsets)))
    }

    /// From the canonical form. Codes may not name columns beyond `cols`.
    pub(crate) fn pack(
        (rows, cols): (usize, usize),
        (n, m): (usize, usize),
        codes: &[u8],
        values: &Values,
    ) -> Self {
        let (per_row, stride) = (cols.div_ceil(m) * n, code_bytes_per_row(cols, n, m));
        let units = per_row.div_ceil(16);
        let base = |i: usize| if i < per_row { (i / n * m) as u32 } else { cols as u32 };
        let bases: Buffer<u32> = (0..16 * units).map(base).collect();
        let shape = NofMShape::new((n, m), values.value_type(), &bases);
        let words = shape.code_words();
        let mut packed = Buffer::<u32>::zeros(rows.div_ceil(GROUP) * words);
        let mut row = vec![0u16; 16 * units + 32];
        for r in 0..rows {
            kernels::codes(&codes[r * stride..(r + 1) * stride], shape.bits, &mut row[..per_row + 32]);
            row[per_row..].fill(0);
            let packed = &mut packed[r / GROUP * words..(r / GROUP + 1) * words];
            for (unit, codes) in row.chunks_exact(16).take(units).enumerate() {
                let (word, shift) = shape.code_slot(r % GROUP, 16 * unit);
                if shape.by_row {
                    for (h, codes) in codes.chunks_exact(8).enumerate() {
                        let joined = codes.iter().rev().fold(0, |all, &c| all << shape.bits | u32::from(c));
                        packed[word + 2 * h] |= joined << shift;
                    }
                } else {
                    for (word, &code) in packed[word..word + 16].iter_mut().zip(codes) {
                        *word |= u32::from(code) << shift;
                    }
                }
            }
        }
        let order = Interleave { rows, per_row, share: shape.share(values.value_type()), pack: true };
        Self { rows, cols, n, m, codes: packed, values: values.permuted(&order), bases }
    }

    /// The first row whose canonical codes name a column that does not exist, and that column.
    pub(crate) fn first_outside(
        (rows, cols): (usize, usize),
        (n, m): (usize, usize),
        codes: &[u8],
    ) -> Option<(usize, usize)> {
        let (per_row, stride) = (cols.div_ceil(m) * n, code_bytes_per_row(cols, n, m));
        let bits = code_bits(m);
        // Every code is below the power of two, so then only the last group can name a column outside.
        let first = if m.is_power_of_two() { cols / m * n } else { 0 };
        let mut row = vec![0u16; per_row + 32];
        (0..rows).filter(|_| first < per_row).find_map(|r| {
            kernels::codes(&codes[r * stride..(r + 1) * stride], bits, &mut row);
            let column = |i: usize| i / n * m + row[i] as usize;
            (first..per_row).map(column).find(|&c| c >= cols).map(|c| (r, c))
        })
    }

    /// The canonical form: code bytes and values.
    pub(crate) fn unpack(&self) -> (Vec<u8>, Values) {
        let (per_row, stride) = (self.per_row(), code_bytes_per_row(self.cols, self.n, self.m));
        let mut codes = vec![0u8; self.rows * stride];
        for (r, codes) in codes.chunks_exact_mut(stride.max(1)).enumerate() {
            let shape = self.shape();
            let packed = self.codes_of(r / GROUP);
            let mask = (1u32 << shape.bits) - 1;
            for unit in (0..per_row).step_by(16) {
                let (word, shift) = shape.code_slot(r % GROUP, unit);
                for i in 0..16.min(per_row - unit) {
                    let code = if shape.by_row {
                        packed[word + i / 8 * 2] >> shift >> (i % 8 * shape.bits)
                    } else {
                        packed[word + i] >> shift
                    };
                    put_code(codes, shape.bits, unit + i, (code & mask) as usize);
                }
            }
        }
        let share = self.shape().share(self.values.value_type());
        let order = Interleave { rows: self.rows, per_row, share, pack: false };
        (codes, self.values.permuted(&order))
    }

    /// Values that a row stores.
    fn per_row(&self) -> usize {
        self.cols.div_ceil(self.m) * self.n
    }

    /// The shape of the packed form.
    pub(crate) fn shape(&self) -> NofMShape<'_> {
        NofMShape::new((self.n, self.m), self.values.value_type(), &self.bases)
    }

    fn codes_of(&self, group: usize) -> &[u32] {
        let words = self.shape().code_words();
        &self.codes[group * words..(group + 1) * words]
    }

    /// The pattern `(n, m)`.
    pub fn pattern(&self) -> (usize, usize) {
        (self.n, self.m)
    }

    /// The stored entries of row `row`: column and value (zeros that fill a group included).
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let (shape, codes) = (self.shape(), self.codes_of(row / GROUP));
        let share = shape.share(self.values.value_type());
        let first = row / GROUP * shape.units * 64;
        (0..self.per_row()).map(move |i| {
            let value = self.values.get(row, first + position(share, row % GROUP, i));
            (shape.column(codes, row % GROUP, i), value)
        })
    }

    /// Appends the columns and values (scale applied) of `row`, of a matrix with at most 65 536
    /// columns, in the order of [`Self::row`].
    pub(crate) fn unpack_row(&self, row: usize, columns: &mut Vec<u16>, values: &mut Vec<f32>) {
        let (shape, codes, r) = (self.shape(), self.codes_of(row / GROUP), row % GROUP);
        let (mask, per_row) = ((1u32 << shape.bits) - 1, self.per_row());
        let (from, to) = (columns.len(), values.len());
        columns.resize(from + 16 * shape.units, 0);
        values.resize(to + 16 * shape.units, 0.0);
        with_values!(&self.values, |v, scales| {
            let scale = scales.map_or(1.0, |s| s[row]);
            let share = shape.share(self.values.value_type());
            let group = &v[row / GROUP * shape.units * 64..(row / GROUP + 1) * shape.units * 64];
            let outputs = columns[from..].chunks_exact_mut(16).zip(values[to..].chunks_exact_mut(16));
            for (u, (columns, values)) in outputs.enumerate() {
                let bases = &shape.bases[16 * u..16 * u + 16];
                let (word, shift) = shape.code_slot(r, 16 * u);
                if shape.by_row {
                    for h in 0..2 {
                        let codes = codes[word + 2 * h] >> shift;
                        for i in 0..8 {
                            let code = codes >> (i * shape.bits) & mask;
                            columns[8 * h + i] = (bases[8 * h + i] + code) as u16;
                        }
                    }
                } else {
                    let codes = &codes[word..word + 16];
                    for i in 0..16 {
                        columns[i] = (bases[i] + (codes[i] >> shift & mask)) as u16;
                    }
                }
                let first = position(share, r, 16 * u);
                let v = &group[first..first + 15 * share + 1];
                for i in 0..16 {
                    values[i] = v[i * share].widen() * scale;
                }
            }
        });
        columns.truncate(from + per_row);
        values.truncate(to + per_row);
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
        kernels::gemv::apply(kernels::gemv::Rows::NofM(self), x, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse(self, x, batch, y, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sparse_transposed(self, x, batch, y, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        kernels::gemv::apply_transposed(kernels::gemv::Rows::NofM(self), x, y);
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
