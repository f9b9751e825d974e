//! Dense products of f32 matrices that are rounded to bf16 on the way and summed in f32.
//!
//! A *panel* is 32 lines of a factor (rows of A, columns of B) over a slab of k, in bf16. A *step* of it holds
//! 32 numbers of k of every line as 512 words, two neighbours in k a word: lines 0 to 15, then 16 to 31. Rows of A
//! stand line by line (16 words of pairs), columns of B pair by pair (16 words of columns): what the tile unit
//! loads with one instruction, and what a dot product of pairs reads with one broadcast and one line.
//!
//! Slabs of both factors are packed in parallel into scratch; then blocks of C are computed in parallel.
//! Within a block k is cut into parts that stay in the first-level cache; C takes their sums one by one. The
//! order of every sum depends on the shapes alone.

#![allow(unsafe_code)] // disjoint parts of shared buffers

use rayon::prelude::*;

use super::gemv::Scratch;
use crate::gemm::{Threads, View, ViewMut, gemm};

/// Lines in a panel.
pub(crate) const LINES: usize = 32;
/// Numbers of k in a step.
pub(crate) const STEP_K: usize = 32;
/// Words in a step of a panel.
pub(crate) const STEP: usize = LINES * STEP_K / 2;
/// The longest slab of k that is packed at once: a block's columns of it stay in the second-level cache.
const SLAB_K: usize = 1024;
/// The most rows and columns that are packed at once, which bounds the scratch: 4 MiB for each factor.
const SLAB: usize = 2048;
/// Steps whose sums are added to C at once: two panels of them stay in the first-level cache.
const PART: usize = 16;
/// Rows of C in a block, which one task computes.
const BLOCK_ROWS: usize = 64;
/// Columns of C in a block where there are enough blocks for all threads.
const BLOCK_COLS: usize = 256;
/// Lines that one task packs.
const PACKED_LINES: usize = 64;
/// The same where k is the outer stride: what is read of a row of memory is longer, and pages are fewer.
const PACKED_LINES_ACROSS: usize = 128;
/// Multiply-adds below which a product stays on the calling thread.
const SMALL: usize = 1 << 19;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The tile unit (AMX), packing with AVX-512 BF16.
    Tiles,
    /// Dot products of pairs (AVX-512 BF16).
    Pairs,
    /// f32 products of rounded copies.
    Plain,
}

impl Unit {
    /// The best of this machine.
    pub(crate) fn detect() -> Self {
        if Self::Tiles.is_available() {
            Self::Tiles
        } else if Self::Pairs.is_available() {
            Self::Pairs
        } else {
            Self::Plain
        }
    }

    /// Whether this machine has it.
    pub(crate) fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles => super::gemm_bf16_avx512::is_available() && super::amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => super::gemm_bf16_avx512::is_available(),
            Self::Plain => true,
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// The nearest bf16, ties to even; NaN stays NaN, and subnormal numbers become zero, as the instructions
/// have it.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let magnitude = bits & 0x7FFF_FFFF;
    let quiet = if magnitude > 0x7F80_0000 { bits | 0x0040_0000 } else { nearest };
    let kept = if magnitude < 0x0080_0000 { bits & 0x8000_0000 } else { quiet };
    f32::from_bits(kept & 0xFFFF_0000)
}

crate::vectorised! {
    fn round_all(from: &[f32], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = rounded(from);
        }
    }
}

/// Runs `body` for every number below `count`.
fn each(threads: Threads, count: usize, body: impl Fn(usize) + Sync + Send) {
    match threads {
        Threads::Pool if count > 1 => (0..count).into_par_iter().with_max_len(1).for_each(body),
        _ => (0..count).for_each(body),
    }
}

/// `c = alpha * a * b + beta * c` with `a` and `b` rounded. Shapes fit.
pub(crate) fn multiply(
    unit: Unit,
    threads: Threads,
    alpha: f32,
    a: View<'_, f32>,
    b: View<'_, f32>,
    beta: f32,
    mut c: ViewMut<'_, f32>,
) {
    assert!(unit.is_available(), "this machine does not have {unit:?}");
    let ((m, n), k) = (c.shape, a.shape.1);
    let threads = if m * n * k < SMALL { Threads::One } else { threads };
    match unit {
        _ if m == 0 || n == 0 => {}
        Unit::Plain => {
            let (mut a_copy, mut b_copy) = (Scratch::new(m * k), Scratch::new(k * n));
            let a = plain(threads, a, &mut a_copy);
            let b = plain(threads, b, &mut b_copy);
            gemm(threads, alpha, a, b, beta, c);
        }
        _ if k == 0 => {
            for row in c.data.chunks_mut(c.strides.0.max(1)).take(m) {
                row[..n].iter_mut().for_each(|c| *c = if beta == 0.0 { 0.0 } else { beta * *c });
            }
        }
        #[cfg(target_arch = "x86_64")]
        _ => packed::multiply(unit, threads, alpha, a, b, beta, &mut c),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("not available"),
    }
}

/// A rounded copy of a view without gaps.
fn plain<'a>(threads: Threads, view: View<'_, f32>, copy: &'a mut [f32]) -> View<'a, f32> {
    // Rows of the storage: of the view, or of its transpose.
    let by_row = view.strides.1 == 1;
    let ((rows, cols), stride) =
        if by_row { (view.shape, view.strides.0) } else { ((view.shape.1, view.shape.0), view.strides.1) };
    let round = |(i, to): (usize, &mut [f32])| round_all(&view.data[i * stride..][..cols], to);
    if cols > 0 {
        match threads {
            Threads::One => copy.chunks_exact_mut(cols).enumerate().for_each(round),
            Threads::Pool => copy.par_chunks_exact_mut(cols).enumerate().for_each(round),
        }
    }
    let whole = View::new(&*copy, rows, cols);
    if by_row { whole } else { whole.t() }
}

/// How a step of a panel stands in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// 16 lines of 16 pairs: rows of A.
    LinesOfPairs,
    /// 16 pairs of 16 lines: columns of B.
    PairsOfLines,
}

/// A factor as the packing reads it: entry `k` of line `l` stands at `l * line + k * self.k`, and one of the
/// strides is 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) data: *const f32,
    pub(crate) line: usize,
    pub(crate) k: usize,
}

// SAFETY: it is only read, while the view that it was made of is borrowed.
unsafe impl Send for Lines {}
// SAFETY: as above.
unsafe impl Sync for Lines {}

#[cfg(target_arch = "x86_64")]
mod packed {
    use super::super::{amx, gemm_bf16_avx512 as avx512};
    use super::*;

    /// A buffer whose disjoint parts are written by several threads.
    #[derive(Clone, Copy)]
    struct Shared<T>(*mut T);

    impl<T> Shared<T> {
        /// The pointer: a method, so that closures take the whole wrapper.
        fn at(self, i: usize) -> *mut T {
            self.0.wrapping_add(i)
        }
    }

    // SAFETY: every use says which part it touches.
    unsafe impl<T> Send for Shared<T> {}
    // SAFETY: as above.
    unsafe impl<T> Sync for Shared<T> {}

    /// Sums of a block of 32 x 32.
    #[repr(align(64))]
    struct Sums([[f32; 32]; 32]);

    /// As [`super::multiply`], on packed panels.
    pub(super) fn multiply(
        unit: Unit,
        threads: Threads,
        alpha: f32,
        a: View<'_, f32>,
        b: View<'_, f32>,
        beta: f32,
        c: &mut ViewMut<'_, f32>,
    ) {
        let ((m, n), k) = (c.shape, a.shape.1);
        let lines = |data: &[f32], line, k| Lines { data: data.as_ptr(), line, k };
        let a = lines(a.data, a.strides.0, a.strides.1);
        let b = lines(b.data, b.strides.1, b.strides.0);
        let (c, stride) = (Shared(c.data.as_mut_ptr()), c.strides.0);
        let words = |lines: usize| lines.min(SLAB).div_ceil(LINES) * k.min(SLAB_K).div_ceil(STEP_K) * STEP;
        let (mut a_panels, mut b_panels) = (Scratch::new(words(m)), Scratch::new(words(n)));
        let a_panels = Shared(a_panels.as_mut_ptr().cast::<u32>());
        let b_panels = Shared(b_panels.as_mut_ptr().cast::<u32>());

        let cut =
            |length: usize, slab: usize| (0..length).step_by(slab).map(move |i| i..(i + slab).min(length));
        let width = |source: Lines| if source.k == 1 { PACKED_LINES } else { PACKED_LINES_ACROSS };
        for ks in cut(k, SLAB_K) {
            let steps = ks.len().div_ceil(STEP_K);
            let beta = if ks.start == 0 { beta } else { 1.0 };
            for cols in cut(n, SLAB) {
                for rows in cut(m, SLAB) {
                    // Columns are packed once for all slabs of rows.
                    let b_tasks = if rows.start == 0 { cols.len().div_ceil(width(b)) } else { 0 };
                    let a_tasks = rows.len().div_ceil(width(a));
                    each(threads, a_tasks + b_tasks, |task| {
                        let (source, order, range, panels, task) = match task.checked_sub(b_tasks) {
                            None => (b, Order::PairsOfLines, &cols, b_panels, task),
                            Some(task) => (a, Order::LinesOfPairs, &rows, a_panels, task),
                        };
                        let first = task * width(source);
                        let count = (range.len() - first).min(width(source));
                        let out = panels.at(first / LINES * steps * STEP);
                        // SAFETY: the unit was found, and with it these instructions; the lines lie in the view
                        // and `ks` in its other side. Every task writes the panels of its own lines.
                        unsafe { pack(source, order, range.start + first, count, ks.clone(), out) };
                    });
                    // Fewer columns a block where there would be too few blocks.
                    let tall = rows.len().div_ceil(BLOCK_ROWS);
                    let wanted = 3 * if threads == Threads::Pool { rayon::current_num_threads() } else { 1 };
                    let mut width = BLOCK_COLS;
                    while width > LINES && tall * cols.len().div_ceil(width) < wanted {
                        width /= 2;
                    }
                    // Neighbouring tasks share columns, which stay in the second-level cache.
                    each(threads, tall * cols.len().div_ceil(width), |task| {
                        let (i, j) = (task % tall * BLOCK_ROWS, task / tall * width);
                        let block = Block {
                            a: a_panels.at(i / LINES * steps * STEP),
                            b: b_panels.at(j / LINES * steps * STEP),
                            steps,
                            c: c.at((rows.start + i) * stride + cols.start + j),
                            stride,
                            rows: (rows.len() - i).min(BLOCK_ROWS),
                            cols: (cols.len() - j).min(width),
                            alpha,
                            beta,
                        };
                        // SAFETY: the unit was found. The panels named hold `steps` steps of these rows and
                        // columns; blocks of C do not overlap, and C is borrowed mutably.
                        unsafe {
                            match unit {
                                Unit::Tiles => {
                                    let tiles = amx::Tiles::configure();
                                    block.compute(|a, b, steps, sums| amx::block(&tiles, a, b, steps, sums));
                                }
                                _ => block.compute(|a, b, steps, sums| avx512::block(a, b, steps, sums)),
                            }
                        }
                    });
                }
            }
        }
    }

    /// Packs `count` lines from `first` on.
    ///
    /// # Safety
    /// As [`avx512::pack`], for every panel that the lines touch.
    unsafe fn pack(
        source: Lines,
        order: Order,
        first: usize,
        count: usize,
        ks: std::ops::Range<usize>,
        out: *mut u32,
    ) {
        let steps = ks.len().div_ceil(STEP_K);
        // Where k is the outer stride, all panels take their part of a row of memory before the next one.
        let length = if source.k == 1 { ks.len() } else { STEP_K };
        for k in ks.clone().step_by(length) {
            for panel in 0..count.div_ceil(LINES) {
                let (first, count) = (first + panel * LINES, (count - panel * LINES).min(LINES));
                let out = out.wrapping_add((panel * steps + (k - ks.start) / STEP_K) * STEP);
                // SAFETY: by contract.
                unsafe { avx512::pack(source, order, first, count, k..(k + length).min(ks.end), out) };
            }
        }
    }

    /// What a task computes: `rows x cols` of C from packed panels.
    struct Block {
        a: *const u32,
        b: *const u32,
        /// Steps of the panels.
        steps: usize,
        c: *mut f32,
        stride: usize,
        rows: usize,
        cols: usize,
        alpha: f32,
        beta: f32,
    }

    impl Block {
        /// Multiplies with `sums(a, b, steps, out)`.
        ///
        /// # Safety
        /// The panels must hold the rows and columns; C must be valid for reads and writes there.
        #[inline(always)]
        unsafe fn compute(&self, sums: impl Fn(*const u32, *const u32, usize, &mut [[f32; 32]; 32])) {
            let mut out = Sums([[0.0; 32]; 32]);
            for step in (0..self.steps).step_by(PART) {
                let steps = (self.steps - step).min(PART);
                let beta = if step == 0 { self.beta } else { 1.0 };
                for j in (0..self.cols).step_by(LINES) {
                    for i in (0..self.rows).step_by(LINES) {
                        let at = |panels: *const u32, line: usize| {
                            panels.wrapping_add((line / LINES * self.steps + step) * STEP)
                        };
                        sums(at(self.a, i), at(self.b, j), steps, &mut out.0);
                        let c = self.c.wrapping_add(i * self.stride + j);
                        let (rows, cols) = ((self.rows - i).min(LINES), (self.cols - j).min(LINES));
                        // SAFETY: the block of C is ours by contract, and this part lies in it.
                        unsafe { avx512::store(&out.0, self.alpha, beta, c, self.stride, rows, cols) };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "gemm_bf16_tests.rs"]
mod tests;
