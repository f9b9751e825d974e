//! What the batched products share: scratch that is kept between them, X packed as panels, and the output.

#![allow(unsafe_code)] // calls the kernels of `simd` and shares the output between threads

use std::sync::Mutex;

use rayon::prelude::*;

use super::simd::{Isa, transpose};
use crate::Buffer;

/// Bytes of scratch that are kept for the next product.
pub(super) const KEPT: usize = 64 << 20;

/// What is kept: fresh memory costs a page fault for every 4 KiB, which large panels would pay at each product.
static SPARE: Mutex<Vec<Buffer<f32>>> = Mutex::new(Vec::new());

/// Floats at a 64-byte boundary, handed on to the next product when dropped.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) data: Option<Buffer<f32>>,
    pub(super) len: usize,
}

impl Scratch {
    pub(super) fn new(len: usize) -> Self {
        let mut scratch = Self::default();
        scratch.grow(len);
        scratch
    }

    /// Makes room for `len` floats; the contents are unspecified.
    pub(super) fn grow(&mut self, len: usize) {
        self.len = len;
        if self.data.as_ref().is_some_and(|data| data.len() >= len) {
            return;
        }
        self.give_back();
        let mut spare = SPARE.lock().unwrap_or_else(|e| e.into_inner());
        let fits = |&i: &usize| spare[i].len() >= len;
        let best = (0..spare.len()).filter(fits).min_by_key(|&i| spare[i].len());
        self.data = best.map(|i| spare.swap_remove(i));
        drop(spare);
        self.data.get_or_insert_with(|| Buffer::zeros(len.next_multiple_of(1024)));
    }

    pub(super) fn give_back(&mut self) {
        let Some(data) = self.data.take() else { return };
        let mut spare = SPARE.lock().unwrap_or_else(|e| e.into_inner());
        let kept: usize = spare.iter().map(|b| b.len()).sum();
        if 4 * (kept + data.len()) <= KEPT {
            spare.push(data);
        }
    }

    pub(super) fn slice(&mut self) -> &mut [f32] {
        self.data.as_mut().map_or(&mut [], |data| &mut data[..self.len])
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        self.data.as_ref().map_or(&[], |data| &data[..self.len])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Scratch that threads borrow, so that each is made once per thread, not once per block.
pub(super) struct Pool<T>(Mutex<Vec<T>>);

impl<T: Default> Pool<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn with(&self, f: impl FnOnce(&mut T)) {
        let spare = self.0.lock().expect("no panic while locked").pop();
        let mut scratch = spare.unwrap_or_default();
        f(&mut scratch);
        self.0.lock().expect("no panic while locked").push(scratch);
    }
}

/// Runs `f` for `0..count` on the threads of the current pool.
pub(super) fn each<T: Default + Send>(count: usize, f: impl Fn(usize, &mut T) + Sync) {
    let pool = Pool::<T>::new();
    (0..count).into_par_iter().with_max_len(1).for_each(|i| pool.with(|scratch| f(i, scratch)));
}

/// The output, shared by threads that write different parts.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    /// Floats from one batch item to the next.
    pub(super) stride: usize,
    pub(super) add: bool,
}

impl Output {
    /// Where the output of `item` for `row` stands.
    ///
    /// # Safety
    /// Both must be inside the output.
    pub(super) unsafe fn at(self, item: usize, row: usize) -> *mut f32 {
        // SAFETY: inside the output.
        unsafe { self.start.add(item * self.stride + row) }
    }
}

// SAFETY: every block writes its own columns of the output.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// A part of X, transposed: tiles of `cols x width`.
pub(super) struct Panel {
    pub(super) data: Scratch,
    pub(super) items: usize,
    pub(super) cols: usize,
    pub(super) vectors: usize,
    pub(super) width: usize,
}

impl Panel {
    /// Packs `x: items x (columns of stride)`.
    pub(super) fn pack(
        isa: Isa,
        x: &[f32],
        stride: usize,
        items: usize,
        cols: usize,
        most_vectors: usize,
    ) -> Self {
        let lanes = isa.lanes();
        let tiles = items.div_ceil(lanes * most_vectors);
        let vectors = items.div_ceil(tiles).div_ceil(lanes);
        let width = vectors * lanes;
        let mut data = Scratch::new(tiles * cols * width);
        assert!(items == 0 || x.len() >= (items - 1) * stride + cols, "wrong length");
        data.slice().par_chunks_mut(cols * width).enumerate().for_each(|(tile, data)| {
            let first = tile * width;
            let here = width.min(items - first);
            data.par_chunks_mut(256 * width).enumerate().for_each(|(chunk, data)| {
                let column = chunk * 256;
                let shape = (here, data.len() / width);
                // SAFETY: items `first..first + here` and columns `column..` of this chunk lie in x,
                // whose length was checked; data holds `shape.1 x width` floats.
                unsafe {
                    let from = x.as_ptr().add(first * stride + column);
                    transpose(isa, from, stride, shape, data.as_mut_ptr(), width, false);
                }
            });
        });
        Self { data, items, cols, vectors, width }
    }

    /// The tiles: first item, items in use, data.
    pub(super) fn tiles(&self) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let tiles = self.data.as_slice().chunks(self.cols * self.width);
        tiles.enumerate().map(|(i, data)| {
            let first = i * self.width;
            (first, self.width.min(self.items - first), data)
        })
    }
}
