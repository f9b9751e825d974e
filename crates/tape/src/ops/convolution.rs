//! Two-dimensional convolution and pooling over rows of `channels x height x width`.

use rayon::prelude::*;
use sparseland_matrix::{Real, Threads, View, ViewMut, gemm};

use super::add_to;
use crate::{Backward, Forward, Op, ParamId, Parameters, Tape, Var};

/// The shape of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub channels: usize,
    /// Height of the input.
    pub height: usize,
    /// Width of the input.
    pub width: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Pixels between two outputs.
    pub stride: usize,
    /// Zeros around the input on each side.
    pub padding: usize,
}

impl ConvShape {
    /// `(height, width)` of the output.
    pub fn output(&self) -> (usize, usize) {
        let side = |n: usize| (n + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1;
        (side(self.height), side(self.width))
    }

    /// Weights per output channel: the columns of the unfolded input.
    pub fn fan_in(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    fn input_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Output columns whose input column lies inside, for the kernel's column `j`.
    fn inside(&self, j: usize, width: usize) -> std::ops::Range<usize> {
        let first = self.padding.saturating_sub(j).div_ceil(self.stride);
        let last = (self.width + self.padding).saturating_sub(j).div_ceil(self.stride);
        first.min(width)..last.min(width)
    }

    /// For every row of the unfolded input and every row of the output: the range of the unfolded row, and the
    /// first input position that goes there, if any.
    fn unfold(&self, mut visit: impl FnMut(std::ops::Range<usize>, usize)) {
        let (height, width) = self.output();
        for c in 0..self.channels {
            for i in 0..self.kernel {
                for j in 0..self.kernel {
                    let row = (c * self.kernel + i) * self.kernel + j;
                    let inside = self.inside(j, width);
                    for y in 0..height {
                        let from = y * self.stride + i;
                        if from < self.padding || from - self.padding >= self.height || inside.is_empty() {
                            continue;
                        }
                        let start = (row * height + y) * width;
                        let x = inside.start * self.stride + j - self.padding;
                        let source = (c * self.height + from - self.padding) * self.width + x;
                        visit(start + inside.start..start + inside.end, source);
                    }
                }
            }
        }
    }

    /// `unfolded: fan_in x pixels` from one image.
    fn image_to_columns<R: Real>(&self, x: &[R], unfolded: &mut [R]) {
        unfolded.fill(R::ZERO);
        let stride = self.stride;
        self.unfold(|range, source| {
            let out = &mut unfolded[range];
            if stride == 1 {
                out.copy_from_slice(&x[source..source + out.len()]);
            } else {
                out.iter_mut().zip(x[source..].iter().step_by(stride)).for_each(|(o, x)| *o = *x);
            }
        });
    }

    /// Adds the columns to the pixels they came from.
    fn columns_to_image<R: Real>(&self, unfolded: &[R], x: &mut [R]) {
        let stride = self.stride;
        self.unfold(|range, source| {
            let columns = &unfolded[range];
            if stride == 1 {
                add_to(columns, &mut x[source..source + columns.len()]);
            } else {
                x[source..].iter_mut().step_by(stride).zip(columns).for_each(|(x, c)| *x += *c);
            }
        });
    }
}

/// `Y_image = W unfold(X_image) + b`.
struct Convolution {
    parameters: Vec<ParamId>,
    shape: ConvShape,
    out: usize,
}

impl<R: Real> Op<R> for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (height, width) = self.shape.output();
        let (pixels, fan_in) = (height * width, self.shape.fan_in());
        let w = View::new(on.parameters.value(self.parameters[0]), self.out, fan_in);
        let bias = self.parameters.get(1).map(|&b| on.parameters.value(b));
        let images =
            on.output.par_chunks_mut(self.out * pixels).zip(on.inputs[0].par_chunks(self.shape.input_len()));
        images.for_each_init(
            || vec![R::ZERO; fan_in * pixels],
            |unfolded, (y, x)| {
                self.shape.image_to_columns(x, unfolded);
                let mut beta = R::ZERO;
                if let Some(bias) = bias {
                    y.chunks_exact_mut(pixels).zip(bias).for_each(|(y, b)| y.fill(*b));
                    beta = R::ONE;
                }
                let columns = View::new(unfolded, fan_in, pixels);
                gemm(Threads::One, R::ONE, w, columns, beta, ViewMut::new(y, self.out, pixels));
            },
        );
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        /// Images whose weight gradients are summed by one thread: fixed, so that sums do not depend on threads.
        const IMAGES: usize = 8;
        let (height, width) = self.shape.output();
        let (pixels, fan_in, len) = (height * width, self.shape.fan_in(), self.shape.input_len());
        let w = on.parameters.value(self.parameters[0]);
        let images = on.inputs[0].len() / len;
        let mut unwanted = on.gradients[0].is_none().then(|| vec![R::ZERO; images]);
        let (dx, each) = match (&mut on.gradients[0], &mut unwanted) {
            (Some(dx), _) => (dx.add(), len),
            (None, Some(nothing)) => (&mut nothing[..], 1),
            (None, None) => unreachable!("made above"),
        };
        let parts: Vec<(Vec<R>, Vec<R>)> = dx
            .par_chunks_mut(IMAGES * each)
            .zip(on.inputs[0].par_chunks(IMAGES * len))
            .zip(on.gradient.par_chunks(IMAGES * self.out * pixels))
            .map(|((dx, x), dy)| {
                let mut unfolded = vec![R::ZERO; fan_in * pixels];
                let (mut dw, mut db) = (vec![R::ZERO; self.out * fan_in], vec![R::ZERO; self.out]);
                let images = dx.chunks_exact_mut(each).zip(x.chunks_exact(len));
                for ((dx, x), dy) in images.zip(dy.chunks_exact(self.out * pixels)) {
                    self.shape.image_to_columns(x, &mut unfolded);
                    let g = View::new(dy, self.out, pixels);
                    let columns = View::new(&unfolded, fan_in, pixels);
                    gemm(
                        Threads::One,
                        R::ONE,
                        g,
                        columns.t(),
                        R::ONE,
                        ViewMut::new(&mut dw, self.out, fan_in),
                    );
                    for (d, g) in db.iter_mut().zip(dy.chunks_exact(pixels)) {
                        *d += g.iter().copied().sum::<R>();
                    }
                    if each == len {
                        let w = View::new(w, self.out, fan_in);
                        let columns = ViewMut::new(&mut unfolded, fan_in, pixels);
                        gemm(Threads::One, R::ONE, w.t(), g, R::ZERO, columns);
                        self.shape.columns_to_image(&unfolded, dx);
                    }
                }
                (dw, db)
            })
            .collect();
        for (dw, db) in &parts {
            add_to(dw, on.parameters.value_and_gradient(self.parameters[0]).1);
            if let Some(&bias) = self.parameters.get(1) {
                add_to(db, on.parameters.value_and_gradient(bias).1);
            }
        }
    }
}

/// The shape of a pooling: square windows side by side; pixels that fill no window are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Channels.
    pub channels: usize,
    /// Height of the input.
    pub height: usize,
    /// Width of the input.
    pub width: usize,
    /// Side of a window.
    pub window: usize,
}

impl PoolShape {
    /// `(height, width)` of the output.
    pub fn output(&self) -> (usize, usize) {
        (self.height / self.window, self.width / self.window)
    }

    fn input_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn output_len(&self) -> usize {
        let (height, width) = self.output();
        self.channels * height * width
    }

    /// The input position of a window's first pixel.
    fn corner(&self, output: usize) -> usize {
        let (height, width) = self.output();
        let (channel, y, x) = (output / (height * width), output / width % height, output % width);
        (channel * self.height + y * self.window) * self.width + x * self.window
    }

    fn window(&self, corner: usize) -> impl Iterator<Item = usize> + use<> {
        let (window, width) = (self.window, self.width);
        (0..window * window).map(move |i| corner + i / window * width + i % window)
    }
}

sparseland_matrix::vectorised! {
    /// The largest of each two by two numbers of two rows, the first of several, and its position.
    fn largest_of_four<R: Real>(above: &[R], below: &[R], first: u32, y: &mut [R], at: &mut [u32]) {
        let width = above.len() as u32;
        let pairs = above.chunks_exact(2).zip(below.chunks_exact(2));
        for (j, (((a, b), y), at)) in pairs.zip(y.iter_mut()).zip(at.iter_mut()).enumerate() {
            let start = first + 2 * j as u32;
            let (mut best, mut place) = (a[0], start);
            for (v, p) in [(a[1], start + 1), (b[0], start + width), (b[1], start + width + 1)] {
                let wins = v > best || v.is_nan();
                best = if wins { v } else { best };
                place = if wins { p } else { place };
            }
            (*y, *at) = (best, place);
        }
    }
}

/// As [`largest_of_four`] for windows of any side.
fn largest_of_window<R: Real>(
    band: &[R],
    width: usize,
    window: usize,
    first: u32,
    y: &mut [R],
    at: &mut [u32],
) {
    for (j, (y, at)) in y.iter_mut().zip(at).enumerate() {
        let mut best = j * window;
        for i in 0..window * window {
            let p = i / window * width + j * window + i % window;
            if band[p] > band[best] || band[p].is_nan() {
                best = p;
            }
        }
        (*y, *at) = (band[best], first + best as u32);
    }
}

/// The largest number of each window.
struct MaxPool {
    shape: PoolShape,
    /// The position of each window's largest number, the first one of several.
    at: Vec<u32>,
}

impl<R: Real> Op<R> for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (from, to) = (self.shape.input_len(), self.shape.output_len());
        self.at.resize(on.output.len(), 0);
        let images = on.output.par_chunks_mut(to).zip(on.inputs[0].par_chunks(from));
        let shape = self.shape;
        let (height, width) = shape.output();
        images.zip(self.at.par_chunks_mut(to)).for_each(|((y, x), at)| {
            let rows = y.chunks_exact_mut(width.max(1)).zip(at.chunks_exact_mut(width.max(1)));
            for (row, (y, at)) in rows.enumerate() {
                let first = (row / height * shape.height + row % height * shape.window) * shape.width;
                let band = &x[first..first + shape.window * shape.width];
                if shape.window == 2 {
                    let (above, below) = band.split_at(shape.width);
                    largest_of_four(above, below, first as u32, y, at);
                } else {
                    largest_of_window(band, shape.width, shape.window, first as u32, y, at);
                }
            }
        });
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (from, to) = (self.shape.input_len(), self.shape.output_len());
        if let Some(dx) = &mut on.gradients[0] {
            let images = dx.add().par_chunks_mut(from).zip(on.gradient.par_chunks(to));
            images.zip(self.at.par_chunks(to)).for_each(|((dx, dy), at)| {
                dy.iter().zip(at).for_each(|(g, &at)| dx[at as usize] += *g);
            });
        }
    }
}

/// The mean of each window.
struct MeanPool {
    shape: PoolShape,
}

impl<R: Real> Op<R> for MeanPool {
    fn name(&self) -> &'static str {
        "mean pool"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (from, to) = (self.shape.input_len(), self.shape.output_len());
        let share = R::real(1.0 / (self.shape.window * self.shape.window) as f64);
        on.output.par_chunks_mut(to).zip(on.inputs[0].par_chunks(from)).for_each(|(y, x)| {
            for (o, y) in y.iter_mut().enumerate() {
                *y = share * self.shape.window(self.shape.corner(o)).map(|i| x[i]).sum::<R>();
            }
        });
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (from, to) = (self.shape.input_len(), self.shape.output_len());
        let share = R::real(1.0 / (self.shape.window * self.shape.window) as f64);
        if let Some(dx) = &mut on.gradients[0] {
            dx.add().par_chunks_mut(from).zip(on.gradient.par_chunks(to)).for_each(|(dx, dy)| {
                for (o, g) in dy.iter().enumerate() {
                    self.shape.window(self.shape.corner(o)).for_each(|i| dx[i] += share * *g);
                }
            });
        }
    }
}

impl<R: Real> Tape<R> {
    /// Convolution of rows of `channels x height x width` with the parameter `weight: out x fan_in` (input channel
    /// slowest, then kernel row, then kernel column); `bias` has `out` numbers.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn convolution(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        shape: ConvShape,
    ) -> Var {
        let (images, cols) = self.shape(x);
        assert_eq!(cols, shape.input_len(), "the input does not fit the convolution");
        assert!(shape.kernel <= shape.height.min(shape.width) + 2 * shape.padding, "the kernel is too large");
        let out = parameters.value(weight).len() / shape.fan_in();
        assert_eq!(parameters.value(weight).len(), out * shape.fan_in(), "the weight does not fit");
        let (height, width) = shape.output();
        let op = Convolution { parameters: std::iter::once(weight).chain(bias).collect(), shape, out };
        self.push(parameters, op, &[x], images, out * height * width)
    }

    /// The largest number of every window; the gradient goes to its first place.
    ///
    /// # Panics
    /// If the input does not fit the shape.
    pub fn max_pool(&mut self, parameters: &Parameters<R>, x: Var, shape: PoolShape) -> Var {
        let (images, cols) = self.shape(x);
        assert_eq!(cols, shape.input_len(), "the input does not fit the pooling");
        self.push(parameters, MaxPool { shape, at: Vec::new() }, &[x], images, shape.output_len())
    }

    /// The mean of every window; a window as large as the image gives global pooling.
    ///
    /// # Panics
    /// If the input does not fit the shape.
    pub fn mean_pool(&mut self, parameters: &Parameters<R>, x: Var, shape: PoolShape) -> Var {
        let (images, cols) = self.shape(x);
        assert_eq!(cols, shape.input_len(), "the input does not fit the pooling");
        self.push(parameters, MeanPool { shape }, &[x], images, shape.output_len())
    }
}
