//! Products with one vector: how x is prepared, how the work is split, which kernel runs.
//!
//! A matrix times one vector is a matter of memory bandwidth, so layouts are sequential streams,
//! one or two per thread, in groups of [`GROUP`] rows. Every row is summed by one thread in one
//! order: results do not depend on the number of threads.

#![allow(unsafe_code)] // calls the kernels of an instruction set that was found

use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::{gemv_avx2, gemv_avx512, gemv_int8};
use super::{gemv_scalar, gemv_transposed};
use crate::values::with_values;
use crate::{Bitmask, Buffer, Csr, Dense, NofM, ValueType, Values};

/// Rows that share a group: their data are interleaved, or their products share loads of x.
pub(crate) const GROUP: usize = 4;

/// How far ahead of the loads lines are fetched into the cache, in bytes.
pub(super) const PREFETCH: usize = 8192;

/// Fewer bytes than this do not keep one more thread busy for the time it takes to wake it.
const BYTES_PER_THREAD: usize = 512 << 10;

/// The instruction sets with kernels of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Simd {
    /// Plain Rust.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F/BW/VL/DQ/VBMI/VBMI2/VNNI: Ice Lake, Zen 4 and later.
    Avx512,
}

impl Simd {
    /// The best that this machine runs.
    pub(crate) fn detect() -> Self {
        if Self::Avx512.is_available() {
            Self::Avx512
        } else if Self::Avx2.is_available() {
            Self::Avx2
        } else {
            Self::Scalar
        }
    }

    /// Whether this machine runs it. The standard library caches what it finds.
    pub(crate) fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("popcnt")
                    && is_x86_feature_detected!("bmi2")
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Scalar
        }
    }
}

/// Where the kernels of an N:M pattern find the inputs of 16 values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// In two vectors of x.
    Pair,
    /// In four.
    Four,
    /// Anywhere: they are gathered.
    Wide,
}

/// The shape of the packed form of an N:M matrix; see [`NofM`].
#[derive(Clone, Copy)]
pub(crate) struct NofMShape<'a> {
    pub(crate) n: usize,
    pub(crate) m: usize,
    pub(crate) bits: usize,
    /// Units of 16 values a row.
    pub(crate) units: usize,
    /// Whether values of a unit stand row by row: int8 of patterns that are permuted.
    pub(crate) by_row: bool,
    /// First column of the N:M group of each value of a row.
    pub(crate) bases: &'a [u32],
}

impl NofMShape<'_> {
    pub(crate) fn source(&self) -> Source {
        match 16 % self.n {
            0 if 16 / self.n * self.m == 32 => Source::Pair,
            0 if 16 / self.n * self.m == 64 => Source::Four,
            _ => Source::Wide,
        }
    }

    /// Columns of a unit, where all are alike and permuted from registers.
    pub(crate) fn span(&self) -> usize {
        match self.source() {
            Source::Pair => 32,
            Source::Four => 64,
            Source::Wide => 0,
        }
    }

    /// 32-bit words that hold the codes of a group of rows.
    pub(crate) fn code_words(&self) -> usize {
        if self.by_row {
            self.units.div_ceil(self.units_per_line()) * 16
        } else {
            (GROUP * self.units).div_ceil(32 / self.bits) * 16
        }
    }

    /// Units whose codes share a line, where values stand row by row.
    pub(crate) fn units_per_line(&self) -> usize {
        64 / (8 * self.bits).next_power_of_two()
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Buffer<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Aligned floats that are handed to the next user of this thread when dropped.
pub(crate) struct Scratch {
    buffer: Buffer<f32>,
    len: usize,
}

impl Scratch {
    /// `len` floats of unspecified contents.
    pub(crate) fn new(len: usize) -> Self {
        let spare = SPARE.with(|s| s.borrow_mut().pop());
        let buffer = match spare {
            Some(buffer) if buffer.len() >= len => buffer,
            _ => Buffer::zeros(len.next_power_of_two().max(1024)),
        };
        Self { buffer, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::zeros(0));
        // The thread may be ending; then the buffer is simply freed.
        let _ = SPARE.try_with(|s| {
            let mut spare = s.borrow_mut();
            if spare.len() < 8 {
                spare.push(buffer);
            }
        });
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

/// Numbers of one type that share a 32-bit lane: their inputs are brought apart by [`arrange`].
pub(crate) fn split(values: ValueType) -> usize {
    match values {
        ValueType::F32 | ValueType::F16 => 1,
        ValueType::Bf16 => 2,
        ValueType::I8 => 4,
    }
}

/// x as the AVX-512 kernels of a type read it, padded with zeros: in every `16 * split` columns
/// first those whose index is 0 modulo `split`, then 1 and so on.
fn arrange<const SPLIT: usize>(x: &[f32], out: &mut [f32]) {
    let whole = x.len() / (16 * SPLIT);
    let (head, tail) = out.split_at_mut(whole * 16 * SPLIT);
    for (x, out) in x.chunks_exact(16 * SPLIT).zip(head.chunks_exact_mut(16 * SPLIT)) {
        for k in 0..SPLIT {
            for j in 0..16 {
                out[16 * k + j] = x[SPLIT * j + k];
            }
        }
    }
    tail.fill(0.0);
    for (i, &x) in x[whole * 16 * SPLIT..].iter().enumerate() {
        tail[i % SPLIT * 16 + i / SPLIT] = x;
    }
}

/// The inverse of [`arrange`].
pub(super) fn rearrange(split: usize, arranged: &[f32], out: &mut [f32]) {
    for (out, from) in out.chunks_mut(16 * split).zip(arranged.chunks(16 * split)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = from[i % split * 16 + i / split];
        }
    }
}

/// A matrix that is multiplied row by row.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    Dense(&'a Dense),
    Csr(&'a Csr),
    Bitmask(&'a Bitmask),
    NofM(&'a NofM),
}

impl Rows<'_> {
    pub(super) fn values(&self) -> &Values {
        match self {
            Self::Dense(w) => &w.values,
            Self::Csr(w) => &w.values,
            Self::Bitmask(w) => &w.values,
            Self::NofM(w) => &w.values,
        }
    }

    /// Bytes that a product reads, nearly.
    pub(super) fn bytes(&self) -> usize {
        let values = self.values().len() * self.values().value_type().bytes();
        values
            + match self {
                Self::Dense(_) => 0,
                // Gathers take longer than the bytes alone.
                Self::Csr(w) => 4 * w.indices.len(),
                Self::Bitmask(w) => 8 * w.masks.len(),
                Self::NofM(w) => 4 * w.codes.len(),
            }
    }

    /// The first row of piece `i` of `pieces`: a multiple of [`GROUP`].
    pub(super) fn boundary(&self, rows: usize, i: usize, pieces: usize) -> usize {
        let by_weight = |starts: &[u32]| {
            let target = starts.last().map_or(0, |&n| n as usize) * i / pieces;
            starts.partition_point(|&s| (s as usize) < target)
        };
        let row = match self {
            _ if i == pieces => return rows,
            Self::Csr(w) => by_weight(&w.offsets),
            Self::Bitmask(w) => by_weight(&w.starts) * GROUP,
            _ => rows * i / pieces,
        };
        (row / GROUP * GROUP).min(rows)
    }

    /// x as the kernels of `simd` read it.
    fn prepare(&self, simd: Simd, x: &[f32]) -> Scratch {
        let columns = match self {
            Self::NofM(w) => (w.shape().units * w.shape().span()).max(x.len() + 1),
            _ => x.len(),
        };
        let columns = columns.next_multiple_of(64);
        #[cfg(target_arch = "x86_64")]
        if self.is_integer(simd) {
            let mut out = Scratch::new(gemv_int8::scratch_len(columns));
            // SAFETY: the instruction set was found.
            unsafe { gemv_int8::prepare(x, !matches!(self, Self::NofM(_)), &mut out) };
            return out;
        }
        let mut out = Scratch::new(columns);
        match (self, split(self.values().value_type())) {
            (Self::Dense(_), 2) if simd != Simd::Scalar => arrange::<2>(x, &mut out),
            (Self::Dense(_), 4) if simd != Simd::Scalar => arrange::<4>(x, &mut out),
            (Self::Bitmask(_), 2) if simd == Simd::Avx512 => arrange::<2>(x, &mut out),
            _ => arrange::<1>(x, &mut out),
        }
        out
    }

    /// Whether the product runs in integers.
    fn is_integer(&self, simd: Simd) -> bool {
        simd == Simd::Avx512
            && self.values().value_type() == ValueType::I8
            && match self {
                Self::Dense(_) | Self::Bitmask(_) => true,
                Self::NofM(w) => w.shape().by_row,
                Self::Csr(_) => false,
            }
    }

    /// `y = W[rows] x` with x prepared.
    fn multiply(&self, simd: Simd, rows: Range<usize>, x: &[f32], y: &mut [f32]) {
        /// Calls a kernel of the chosen instruction set; gives what its sums are too large by.
        macro_rules! kernel {
            ($name:ident, $($argument:expr),*) => {
                match simd {
                    // SAFETY: `Simd` values other than scalar are made only where the machine has
                    // them. The rest of each contract is an invariant of the matrix type: built
                    // so, and checked when read from a file.
                    #[cfg(target_arch = "x86_64")]
                    Simd::Avx512 => unsafe { gemv_avx512::$name($($argument),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Simd::Avx2 => unsafe { gemv_avx2::$name($($argument),*) },
                    _ => gemv_scalar::$name($($argument),*),
                }
            };
        }
        // The AVX-512 kernels that widen int8 give it 2^24 times too large.
        let gain = match (self, self.values().value_type()) {
            (Self::NofM(_), ValueType::I8) if simd == Simd::Avx512 && !self.is_integer(simd) => {
                1.0 / 16_777_216.0
            }
            _ => 1.0,
        };
        let groups = rows.start / GROUP..rows.end.div_ceil(GROUP);
        #[cfg(target_arch = "x86_64")]
        if let (true, Values::I8 { values, scales }) = (self.is_integer(simd), self.values()) {
            // SAFETY: the instruction set was found; invariants of the matrix types as below.
            unsafe {
                match self {
                    Self::Dense(w) => {
                        gemv_int8::dense(&values[rows.start * w.cols..rows.end * w.cols], x, w.cols, y);
                    }
                    Self::Bitmask(w) => {
                        let values = &values[w.starts[groups.start] as usize..];
                        gemv_int8::bitmask(w.masks_of(groups), values, x, y);
                    }
                    Self::NofM(w) => {
                        let (shape, words) = (w.shape(), w.shape().code_words());
                        let codes = &w.codes[groups.start * words..groups.end * words];
                        let values = &values[groups.start * shape.units * 64..groups.end * shape.units * 64];
                        gemv_int8::n_of_m(&shape, codes, values, x, y);
                    }
                    Self::Csr(_) => unreachable!("not in integers"),
                }
            }
            y.iter_mut().zip(&scales[rows]).for_each(|(y, s)| *y *= s);
            return;
        }
        with_values!(self.values(), |values, scales| {
            match self {
                Self::Dense(w) => {
                    let values = &values[rows.start * w.cols..rows.end * w.cols];
                    kernel!(dense, values, x, w.cols, y);
                }
                Self::Csr(w) => {
                    kernel!(csr, &w.offsets[rows.start..rows.end + 1], &w.indices, values, x, y);
                }
                Self::Bitmask(w) => {
                    let masks = w.masks_of(groups.clone());
                    let values = &values[w.starts[groups.start] as usize..];
                    kernel!(bitmask, masks, values, x, y);
                }
                Self::NofM(w) => {
                    let (shape, words) = (w.shape(), w.shape().code_words());
                    let codes = &w.codes[groups.start * words..groups.end * words];
                    let values = &values[groups.start * shape.units * 64..groups.end * shape.units * 64];
                    kernel!(n_of_m, &shape, codes, values, x, y);
                }
            }
            if let Some(scales) = scales {
                for (y, s) in y.iter_mut().zip(&scales[rows]) {
                    *y *= s * gain;
                }
            }
        });
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Dense(w) => (w.rows, w.cols),
            Self::Csr(w) => (w.rows, w.cols),
            Self::Bitmask(w) => (w.rows, w.cols),
            Self::NofM(w) => (w.rows, w.cols),
        }
    }
}

/// `y = W x`.
pub(crate) fn apply(w: Rows<'_>, x: &[f32], y: &mut [f32]) {
    apply_with(Simd::detect(), &mut [(w, y)], x);
}

/// Several matrices with the same input, in one parallel region.
pub(crate) fn apply_many(products: &mut [(Rows<'_>, &mut [f32])], x: &[f32]) {
    apply_with(Simd::detect(), products, x);
}

/// A matrix, x prepared, some rows and their part of y.
type Task<'a> = (Rows<'a>, &'a [f32], Range<usize>, &'a mut [f32]);

/// As [`apply_many`], with the kernels of a given instruction set.
pub(crate) fn apply_with(simd: Simd, products: &mut [(Rows<'_>, &mut [f32])], x: &[f32]) {
    assert!(simd.is_available(), "this machine does not run {simd:?}");
    for (w, y) in products.iter() {
        assert_eq!((y.len(), x.len()), w.shape(), "wrong length");
    }
    let bytes: usize = products.iter().map(|(w, _)| w.bytes()).sum();
    let pieces = match bytes / BYTES_PER_THREAD {
        0 | 1 => 1,
        most => rayon::current_num_threads().min(most),
    };
    let inputs: Vec<Scratch> = products.iter().map(|(w, _)| w.prepare(simd, x)).collect();
    if pieces == 1 {
        for ((w, y), x) in products.iter_mut().zip(&inputs) {
            w.multiply(simd, 0..y.len(), x, y);
        }
        return;
    }
    // Piece i of every matrix goes to one thread.
    let mut work: Vec<Vec<Task<'_>>> = Vec::new();
    work.resize_with(pieces, Vec::new);
    for ((w, y), x) in products.iter_mut().zip(&inputs) {
        let (rows, mut rest, mut start) = (y.len(), &mut **y, 0);
        for (i, piece) in work.iter_mut().enumerate() {
            let end = w.boundary(rows, i + 1, pieces);
            let (here, after) = rest.split_at_mut(end - start);
            piece.push((*w, &**x, start..end, here));
            (rest, start) = (after, end);
        }
    }
    fork(&mut work, &|piece| {
        for (w, x, rows, y) in piece.iter_mut() {
            w.multiply(simd, rows.clone(), x, y);
        }
    });
}

/// Runs `body` on every item, in parallel.
pub(super) fn fork<T: Send>(items: &mut [T], body: &(impl Fn(&mut T) + Sync)) {
    match items {
        [] => {}
        [one] => body(one),
        _ => {
            let (a, b) = items.split_at_mut(items.len() / 2);
            rayon::join(|| fork(a, body), || fork(b, body));
        }
    }
}

/// `y = Wᵀ x`.
pub(crate) fn apply_transposed(w: Rows<'_>, x: &[f32], y: &mut [f32]) {
    gemv_transposed::apply_with(Simd::detect(), w, x, y);
}

/// The sum of the stored bytes as 64-bit words: how fast memory can be read at all.
pub(crate) fn read(values: &Values) -> u64 {
    let simd = Simd::detect();
    let bytes: &[u8] = with_values!(values, |v, _s| bytemuck::cast_slice(v));
    let words: &[u64] = bytemuck::cast_slice(&bytes[..bytes.len() / 8 * 8]);
    let mut parts: Vec<(&[u64], u64)> =
        words.chunks(words.len().div_ceil(rayon::current_num_threads()).max(1)).map(|w| (w, 0)).collect();
    fork(&mut parts, &|(words, sum)| {
        *sum = match simd {
            // SAFETY: this instruction set was found.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { gemv_avx512::read(words) },
            _ => words.iter().fold(0, |a, &b| a.wrapping_add(b)),
        };
    });
    parts.iter().fold(0, |a, p| a.wrapping_add(p.1))
}
