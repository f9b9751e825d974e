//! Convolution as a product with any weight: patches of channels-last images become rows.

use rayon::prelude::*;
use sparseland_matrix::Real;

use super::add_to;
use crate::{Backward, Forward, Op, Parameters, Tape, Var};

/// Patches of channels-last images (`height x width x channels` numbers each).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchShape {
    /// Height of the input.
    pub height: usize,
    /// Width of the input.
    pub width: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Side of a patch.
    pub side: usize,
    /// Pixels between two patches.
    pub stride: usize,
    /// Zeros around the input on each side.
    pub padding: usize,
}

impl PatchShape {
    /// `(height, width)` of the grid of patches.
    pub fn output(&self) -> (usize, usize) {
        let count = |n: usize| (n + 2 * self.padding).saturating_sub(self.side) / self.stride + 1;
        (count(self.height), count(self.width))
    }

    /// Numbers of a patch: rows, then columns, then channels.
    pub fn patch_len(&self) -> usize {
        self.side * self.side * self.channels
    }

    fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// For patch `p`: every run of numbers it shares with the image, as (start in the patch, start in the image,
    /// length).
    fn runs(&self, p: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let (_, width) = self.output();
        let (top, left) = (p / width * self.stride, p % width * self.stride);
        let first = self.padding.saturating_sub(left).min(self.side);
        let last = (self.width + self.padding).saturating_sub(left).min(self.side);
        if first >= last {
            return;
        }
        for i in 0..self.side {
            let y = top + i;
            if y < self.padding || y - self.padding >= self.height {
                continue;
            }
            let x = left + first - self.padding;
            let from = ((y - self.padding) * self.width + x) * self.channels;
            visit((i * self.side + first) * self.channels, from, (last - first) * self.channels);
        }
    }
}

struct Patches {
    shape: PatchShape,
}

impl<R: Real> Op<R> for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let s = self.shape;
        let (height, width) = s.output();
        let (image, len) = (s.image_len(), s.patch_len());
        on.output.par_chunks_mut(height * width * len).zip(on.inputs[0].par_chunks(image)).for_each(
            |(y, x)| {
                for (p, y) in y.chunks_exact_mut(len).enumerate() {
                    y.fill(R::ZERO);
                    s.runs(p, |to, from, n| y[to..to + n].copy_from_slice(&x[from..from + n]));
                }
            },
        );
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let s = self.shape;
        let (height, width) = s.output();
        let (image, len) = (s.image_len(), s.patch_len());
        if let Some(dx) = &mut on.gradients[0] {
            let images = dx.add().par_chunks_mut(image).zip(on.gradient.par_chunks(height * width * len));
            images.for_each(|(dx, dy)| {
                for (p, dy) in dy.chunks_exact(len).enumerate() {
                    s.runs(p, |to, from, n| add_to(&dy[to..to + n], &mut dx[from..from + n]));
                }
            });
        }
    }
}

/// The largest number of each window of channels-last images.
struct MaxPoolLast {
    shape: PatchShape,
    /// Where each one came from in its image.
    at: Vec<u32>,
}

impl<R: Real> Op<R> for MaxPoolLast {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let s = self.shape;
        let (height, width) = s.output();
        let (image, out) = (s.image_len(), height * width * s.channels);
        self.at.resize(on.output.len(), 0);
        let images = on.output.par_chunks_mut(out).zip(on.inputs[0].par_chunks(image));
        images.zip(self.at.par_chunks_mut(out)).for_each(|((y, x), at)| {
            let c = s.channels;
            for (p, (y, at)) in y.chunks_exact_mut(c).zip(at.chunks_exact_mut(c)).enumerate() {
                let mut fresh = true;
                s.runs(p, |_, from, n| {
                    for first in (from..from + n).step_by(c) {
                        for k in 0..c {
                            let v = x[first + k];
                            if fresh || v > y[k] || v.is_nan() {
                                (y[k], at[k]) = (v, (first + k) as u32);
                            }
                        }
                        fresh = false;
                    }
                });
            }
        });
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let s = self.shape;
        let (height, width) = s.output();
        let (image, out) = (s.image_len(), height * width * s.channels);
        if let Some(dx) = &mut on.gradients[0] {
            let images = dx.add().par_chunks_mut(image).zip(on.gradient.par_chunks(out));
            images.zip(self.at.par_chunks(out)).for_each(|((dx, dy), at)| {
                dy.iter().zip(at).for_each(|(g, &at)| dx[at as usize] += *g);
            });
        }
    }
}

impl<R: Real> Tape<R> {
    /// One row per patch of every image: the left factor of a convolution with any weight. The value may have any
    /// number of rows as long as it holds whole images; the product's rows are again channels-last images.
    ///
    /// # Panics
    /// If the value holds no whole images.
    pub fn patches(&mut self, parameters: &Parameters<R>, x: Var, shape: PatchShape) -> Var {
        let len = self.value(x).len();
        assert!(len.is_multiple_of(shape.image_len()), "{len} numbers are no whole images");
        let (height, width) = shape.output();
        let rows = len / shape.image_len() * height * width;
        self.push(parameters, Patches { shape }, &[x], rows, shape.patch_len())
    }

    /// The largest number of every window and channel of channels-last images; one row per image.
    ///
    /// # Panics
    /// If the value holds no whole images, or windows lie in the padding alone.
    pub fn max_pool_last(&mut self, parameters: &Parameters<R>, x: Var, shape: PatchShape) -> Var {
        let len = self.value(x).len();
        assert!(len.is_multiple_of(shape.image_len()), "{len} numbers are no whole images");
        assert!(shape.padding < shape.side, "windows lie in the padding alone");
        let (height, width) = shape.output();
        let op = MaxPoolLast { shape, at: Vec::new() };
        self.push(parameters, op, &[x], len / shape.image_len(), height * width * shape.channels)
    }
}
