//! Normalisation of rows and of channels.

use rayon::prelude::*;
use sparseland_matrix::simd::LANES;
use sparseland_matrix::{Buffer, Real};

use super::{add_to, dot, rows_per_piece, sum};
use crate::{Backward, Forward, Op, ParamId, Parameters, Pool, Tape, Var};

sparseland_matrix::vectorised! {
    /// `sum x y z`.
    fn dot3<R: Real>(x: &[R], y: &[R], z: &[R]) -> R {
        let mut sums = [R::ZERO; LANES];
        let (x, y, z) = (x.chunks_exact(LANES), y.chunks_exact(LANES), z.chunks_exact(LANES));
        let rest = x.remainder().iter().zip(y.remainder()).zip(z.remainder());
        let rest = rest.map(|((x, y), z)| *x * *y * *z).sum::<R>();
        for ((x, y), z) in x.zip(y).zip(z) {
            for (((s, x), y), z) in sums.iter_mut().zip(x).zip(y).zip(z) {
                *s += *x * *y * *z;
            }
        }
        sums.into_iter().sum::<R>() + rest
    }
    /// `y = (x - mean) * scale * w`.
    fn normalise<R: Real>(x: &[R], w: &[R], mean: R, scale: R, y: &mut [R]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = (*x - mean) * scale * *w;
        }
    }
    /// `dx += scale * (w * dy - a - (x - mean) * b)`.
    fn normalise_back<R: Real>(x: &[R], w: &[R], dy: &[R], mean: R, scale: R, a: R, b: R, dx: &mut [R], beta: R) {
        for (((d, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
            let old = if beta == R::ZERO { R::ZERO } else { *d };
            *d = old + scale * (*w * *dy - a - (*x - mean) * b);
        }
    }
    /// `dw += dy * (x - mean) * scale`.
    fn weight_back<R: Real>(x: &[R], dy: &[R], mean: R, scale: R, dw: &mut [R]) {
        for ((d, x), dy) in dw.iter_mut().zip(x).zip(dy) {
            *d += *dy * (*x - mean) * scale;
        }
    }
}

/// `y = (x - mean) / sqrt(var + eps) * w + b` per row; the RMS norm leaves the mean and `b` out.
struct RowNorm<R: Real> {
    parameters: Vec<ParamId>,
    epsilon: R,
    /// Whether the mean is subtracted.
    centred: bool,
    cols: usize,
    /// Mean and inverse deviation of every row.
    rows: Option<Buffer<R>>,
}

impl<R: Real> Op<R> for RowNorm<R> {
    fn name(&self) -> &'static str {
        if self.centred { "layer norm" } else { "rms norm" }
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (cols, eps, centred) = (self.cols, self.epsilon, self.centred);
        let w = on.parameters.value(self.parameters[0]);
        let b = self.parameters.get(1).map(|&b| on.parameters.value(b));
        let rows = on.output.len() / cols;
        let mut kept = on.pool.take(2 * rows);
        let piece = rows_per_piece(cols);
        let inputs = on.inputs[0].par_chunks(piece * cols).zip(kept.par_chunks_mut(2 * piece));
        on.output.par_chunks_mut(piece * cols).zip(inputs).for_each(|(y, (x, kept))| {
            let rows = y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(kept.chunks_exact_mut(2));
            for ((y, x), kept) in rows {
                let n = R::real(cols as f64);
                let mean = if centred { sum(x) / n } else { R::ZERO };
                // The centred row stands in `y` for a moment: no cancellation in the variance.
                y.iter_mut().zip(x).for_each(|(y, x)| *y = *x - mean);
                let scale = R::ONE / (dot(y, y) / n + eps).sqrt();
                kept.copy_from_slice(&[mean, scale]);
                normalise(x, w, mean, scale, y);
                if let Some(b) = b {
                    add_to(b, y);
                }
            }
        });
        self.rows = Some(kept);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (cols, centred) = (self.cols, self.centred);
        let kept = self.rows.as_ref().expect("forward ran");
        let (x, dy) = (on.inputs[0], on.gradient);
        let piece = rows_per_piece(cols);
        {
            let w = on.parameters.value(self.parameters[0]);
            if let Some(dx) = &mut on.gradients[0] {
                let (dx, beta) = dx.scaled();
                let inputs = x.par_chunks(piece * cols).zip(dy.par_chunks(piece * cols));
                dx.par_chunks_mut(piece * cols).zip(inputs).zip(kept.par_chunks(2 * piece)).for_each(
                    |((dx, (x, dy)), kept)| {
                        let rows = dx.chunks_exact_mut(cols).zip(x.chunks_exact(cols));
                        for (((dx, x), dy), kept) in rows.zip(dy.chunks_exact(cols)).zip(kept.chunks_exact(2))
                        {
                            let (mean, scale) = (kept[0], kept[1]);
                            let n = R::real(cols as f64);
                            let inner = dot(w, dy);
                            let along = dot3(w, dy, x) - mean * inner;
                            let a = if centred { inner / n } else { R::ZERO };
                            normalise_back(x, w, dy, mean, scale, a, along * scale * scale / n, dx, beta);
                        }
                    },
                );
            }
        }
        let parts: Vec<(Vec<R>, Vec<R>)> = x
            .par_chunks(piece * cols)
            .zip(dy.par_chunks(piece * cols))
            .zip(kept.par_chunks(2 * piece))
            .map(|((x, dy), kept)| {
                let (mut dw, mut db) = (vec![R::ZERO; cols], vec![R::ZERO; if centred { cols } else { 0 }]);
                let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(kept.chunks_exact(2));
                for ((x, dy), kept) in rows {
                    weight_back(x, dy, kept[0], kept[1], &mut dw);
                    add_to(dy, &mut db);
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

    fn release(&mut self, pool: &mut Pool<R>) {
        if let Some(rows) = self.rows.take() {
            pool.give(rows);
        }
    }
}

/// Running mean and variance of a batch norm's channels, for evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics<R: Real> {
    /// Mean per channel.
    pub mean: Vec<R>,
    /// Unbiased variance per channel.
    pub variance: Vec<R>,
}

impl<R: Real> BatchStatistics<R> {
    /// Mean 0 and variance 1 for every channel.
    pub fn new(channels: usize) -> Self {
        Self { mean: vec![R::ZERO; channels], variance: vec![R::ONE; channels] }
    }
}

/// Batch norm over rows of `channels x pixels`.
struct BatchNorm<R: Real> {
    parameters: Vec<ParamId>,
    channels: usize,
    pixels: usize,
    /// Mean and inverse deviation of every channel.
    used: Vec<(R, R)>,
    /// Whether the statistics are those of the batch, on which the input then acts.
    of_batch: bool,
}

impl<R: Real> BatchNorm<R> {
    fn spread(&self, image: usize, channel: usize) -> std::ops::Range<usize> {
        let start = (image * self.channels + channel) * self.pixels;
        start..start + self.pixels
    }
}

impl<R: Real> Op<R> for BatchNorm<R> {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let (w, b) = (on.parameters.value(self.parameters[0]), on.parameters.value(self.parameters[1]));
        let x = on.inputs[0];
        on.output.par_chunks_mut(self.channels * self.pixels).enumerate().for_each(|(image, y)| {
            for (channel, y) in y.chunks_exact_mut(self.pixels).enumerate() {
                let (mean, scale) = self.used[channel];
                let (a, shift) = (scale * w[channel], b[channel]);
                for (y, x) in y.iter_mut().zip(&x[self.spread(image, channel)]) {
                    *y = (*x - mean) * a + shift;
                }
            }
        });
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let (x, dy) = (on.inputs[0], on.gradient);
        let images = x.len() / (self.channels * self.pixels);
        let n = R::real((images * self.pixels) as f64);
        // Per channel: sum of dy, and of dy times the normalised input.
        let sums: Vec<(R, R)> = (0..self.channels)
            .into_par_iter()
            .map(|channel| {
                let (mean, scale) = self.used[channel];
                let (mut plain, mut along) = (R::ZERO, R::ZERO);
                for image in 0..images {
                    let at = self.spread(image, channel);
                    let s = sum(&dy[at.clone()]);
                    plain += s;
                    along += (dot(&dy[at.clone()], &x[at]) - mean * s) * scale;
                }
                (plain, along)
            })
            .collect();
        if let Some(dx) = &mut on.gradients[0] {
            let w = on.parameters.value(self.parameters[0]);
            dx.add().par_chunks_mut(self.channels * self.pixels).enumerate().for_each(|(image, dx)| {
                for (channel, dx) in dx.chunks_exact_mut(self.pixels).enumerate() {
                    let (mean, scale) = self.used[channel];
                    let a = scale * w[channel];
                    let (plain, along) = if self.of_batch { sums[channel] } else { (R::ZERO, R::ZERO) };
                    let (plain, along) = (plain / n, along * scale / n);
                    let at = self.spread(image, channel);
                    for ((d, x), g) in dx.iter_mut().zip(&x[at.clone()]).zip(&dy[at]) {
                        *d += a * (*g - plain - (*x - mean) * along);
                    }
                }
            });
        }
        for (channel, (plain, along)) in sums.into_iter().enumerate() {
            on.parameters.value_and_gradient(self.parameters[0]).1[channel] += along;
            on.parameters.value_and_gradient(self.parameters[1]).1[channel] += plain;
        }
    }
}

impl<R: Real> Tape<R> {
    /// `x / sqrt(mean(x²) + epsilon) * weight` for every row; a weight shorter than a row norms each run of its length
    /// (the heads of a row, say).
    ///
    /// # Panics
    /// If a row is no whole number of runs.
    pub fn rms_norm(&mut self, parameters: &Parameters<R>, x: Var, weight: ParamId, epsilon: R) -> Var {
        let (rows, width) = self.shape(x);
        let cols = parameters.value(weight).len();
        assert!(width.is_multiple_of(cols), "the norm's weight does not fit");
        let op = RowNorm { parameters: vec![weight], epsilon, centred: false, cols, rows: None };
        self.push(parameters, op, &[x], rows, width)
    }

    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias` for every row.
    ///
    /// # Panics
    /// If weight or bias have not one number per column.
    pub fn layer_norm(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        weight: ParamId,
        bias: ParamId,
        epsilon: R,
    ) -> Var {
        let (rows, cols) = self.shape(x);
        assert!([weight, bias].iter().all(|&p| parameters.value(p).len() == cols), "the norm does not fit");
        let op = RowNorm { parameters: vec![weight, bias], epsilon, centred: true, cols, rows: None };
        self.push(parameters, op, &[x], rows, cols)
    }

    /// Batch norm of rows that hold `channels x pixels`. In training, with the batch's own statistics, towards which
    /// the running ones move by `momentum`; else with the running ones.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn batch_norm(
        &mut self,
        parameters: &Parameters<R>,
        x: Var,
        (weight, bias): (ParamId, ParamId),
        running: &mut BatchStatistics<R>,
        momentum: Option<R>,
        epsilon: R,
    ) -> Var {
        let (rows, cols) = self.shape(x);
        let channels = parameters.value(weight).len();
        assert!(cols.is_multiple_of(channels) && running.mean.len() == channels, "the norm does not fit");
        let pixels = cols / channels;
        let mut op = BatchNorm {
            parameters: vec![weight, bias],
            channels,
            pixels,
            used: vec![],
            of_batch: momentum.is_some(),
        };
        let deviation = |variance: R| R::ONE / (variance + epsilon).sqrt();
        op.used = match momentum {
            None => running.mean.iter().zip(&running.variance).map(|(m, v)| (*m, deviation(*v))).collect(),
            Some(momentum) => {
                let n = R::real((rows * pixels) as f64);
                let x = self.value(x);
                let moments: Vec<(R, R)> = (0..channels)
                    .into_par_iter()
                    .map(|channel| {
                        let of = |image: usize| &x[op.spread(image, channel)];
                        let mean = (0..rows).map(|image| sum(of(image))).sum::<R>() / n;
                        let square = |v: &R| (*v - mean) * (*v - mean);
                        let spread =
                            (0..rows).map(|image| of(image).iter().map(square).sum::<R>()).sum::<R>();
                        (mean, spread / n)
                    })
                    .collect();
                let unbias = n / (n - R::ONE).larger(R::ONE);
                for (channel, (mean, variance)) in moments.iter().enumerate() {
                    let keep = R::ONE - momentum;
                    running.mean[channel] = keep * running.mean[channel] + momentum * *mean;
                    running.variance[channel] =
                        keep * running.variance[channel] + momentum * *variance * unbias;
                }
                moments.into_iter().map(|(mean, variance)| (mean, deviation(variance))).collect()
            }
        };
        self.push(parameters, op, &[x], rows, cols)
    }
}
