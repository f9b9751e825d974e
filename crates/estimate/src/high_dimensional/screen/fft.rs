//! The paper's estimator: a radial Epanechnikov kernel, smoothed by FFT on a square grid.

use std::sync::Arc;

use realfft::num_complex::Complex64;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::Fft;

use super::density::{Axis, cell_entropy, transpose};

/// Reach of the two-dimensional Epanechnikov kernel whose variance along each axis is 1.
const REACH: f64 = 2.449_489_742_783_178;
/// Cells to a bandwidth where the grid has room for as many.
const PER_BANDWIDTH: f64 = 10.0;

/// Transforms of a `grid x grid` plane and its buffers, kept between columns.
pub(super) struct Smoother {
    grid: usize,
    forward: Arc<dyn RealToComplex<f64>>,
    backward: Arc<dyn ComplexToReal<f64>>,
    columns: Arc<dyn Fft<f64>>,
    columns_back: Arc<dyn Fft<f64>>,
    plane: Vec<f64>,
    spectrum: Vec<Complex64>,
    turned: Vec<Complex64>,
    scratch: Vec<Complex64>,
    kernel: Vec<f64>,
    /// Cells to a bandwidth on either axis, for which `kernel` was made.
    kernel_of: [f64; 2],
}

impl Smoother {
    pub(super) fn new(grid: usize) -> Self {
        let mut real = RealFftPlanner::new();
        let (forward, backward) = (real.plan_fft_forward(grid), real.plan_fft_inverse(grid));
        let mut complex = rustfft::FftPlanner::new();
        let (columns, columns_back) = (complex.plan_fft_forward(grid), complex.plan_fft_inverse(grid));
        let half = grid * (grid / 2 + 1);
        let scratch = [
            forward.get_scratch_len(),
            backward.get_scratch_len(),
            columns.get_inplace_scratch_len(),
            columns_back.get_inplace_scratch_len(),
        ];
        Self {
            grid,
            forward,
            backward,
            columns,
            columns_back,
            plane: vec![0.0; grid * grid],
            spectrum: vec![Complex64::ZERO; half],
            turned: vec![Complex64::ZERO; half],
            scratch: vec![Complex64::ZERO; scratch.into_iter().max().unwrap_or(0)],
            kernel: vec![],
            kernel_of: [0.0; 2],
        }
    }

    /// The spectrum of `plane` into `turned`, frequency of the second axis first.
    fn transform(&mut self) {
        let (n, half) = (self.grid, self.grid / 2 + 1);
        for (row, out) in self.plane.chunks_exact_mut(n).zip(self.spectrum.chunks_exact_mut(half)) {
            if row.iter().all(|v| *v == 0.0) {
                out.fill(Complex64::ZERO);
                continue;
            }
            let done = self.forward.process_with_scratch(row, out, &mut self.scratch);
            done.expect("buffers have the lengths of the plan");
        }
        transpose(&self.spectrum, &mut self.turned, n, half);
        self.columns.process_with_scratch(&mut self.turned, &mut self.scratch);
    }

    /// Mutual information in nats of the joint kernel density of `(x_i, y_i)` with bandwidths `(hx, hy)`: the sum over
    /// the grid of `f log(f / (f_x f_y))`, the marginals being the sums of `f`.
    pub(super) fn mutual_information(&mut self, x: &[f64], y: &[f64], bandwidths: [f64; 2]) -> f64 {
        let n = self.grid;
        let axes = [(x, bandwidths[0]), (y, bandwidths[1])].map(|(values, h)| {
            // The margin keeps the wrapped-around kernel off the other side.
            Axis { cells: n, ..Axis::over(values, REACH * h + h / PER_BANDWIDTH, h / PER_BANDWIDTH, n) }
        });
        let cells_of = [bandwidths[0] / axes[0].step, bandwidths[1] / axes[1].step];
        if cells_of != self.kernel_of {
            self.make_kernel(cells_of);
        }
        self.plane.fill(0.0);
        let weight = 1.0 / x.len() as f64;
        for (&x, &y) in x.iter().zip(y) {
            let ((i, a), (j, b)) = (axes[0].place(x), axes[1].place(y));
            let at = i * n + j;
            self.plane[at] += weight * (1.0 - a) * (1.0 - b);
            self.plane[at + 1] += weight * (1.0 - a) * b;
            self.plane[at + n] += weight * a * (1.0 - b);
            self.plane[at + n + 1] += weight * a * b;
        }
        self.transform();
        self.turned.iter_mut().zip(&self.kernel).for_each(|(s, k)| *s *= k);
        self.columns_back.process_with_scratch(&mut self.turned, &mut self.scratch);
        let half = n / 2 + 1;
        transpose(&self.turned, &mut self.spectrum, half, n);
        for (row, spectrum) in self.plane.chunks_exact_mut(n).zip(self.spectrum.chunks_exact_mut(half)) {
            // What is imaginary here is rounding, and the inverse of a real signal refuses it.
            spectrum[0].im = 0.0;
            if n.is_multiple_of(2) {
                spectrum[half - 1].im = 0.0;
            }
            let done = self.backward.process_with_scratch(spectrum, row, &mut self.scratch);
            done.expect("buffers have the lengths of the plan");
        }
        self.plane.iter_mut().for_each(|v| *v = v.max(0.0));
        let rows: Vec<f64> = self.plane.chunks_exact(n).map(|r| r.iter().sum()).collect();
        let mut columns = vec![0.0; n];
        for row in self.plane.chunks_exact(n) {
            columns.iter_mut().zip(row).for_each(|(c, v)| *c += v);
        }
        (cell_entropy(&rows) + cell_entropy(&columns) - cell_entropy(&self.plane)).max(0.0)
    }

    /// The spectrum of the kernel, which is real because the kernel is even.
    fn make_kernel(&mut self, cells_of: [f64; 2]) {
        let n = self.grid;
        let reach = cells_of.map(|c| ((REACH * c) as usize).min(n / 2));
        self.plane.fill(0.0);
        let mut total = 0.0;
        for i in 0..=reach[0] {
            for j in 0..=reach[1] {
                let (u, v) = (i as f64 / cells_of[0], j as f64 / cells_of[1]);
                let value = (1.0 - (u * u + v * v) / (REACH * REACH)).max(0.0);
                for i in if i == 0 { vec![0] } else { vec![i, n - i] } {
                    for j in if j == 0 { vec![0] } else { vec![j, n - j] } {
                        self.plane[i * n + j] = value;
                        total += value;
                    }
                }
            }
        }
        self.transform();
        self.kernel = self.turned.iter().map(|s| s.re / total).collect();
        self.kernel_of = cells_of;
    }
}

impl std::fmt::Debug for Smoother {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Smoother").field("grid", &self.grid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_give_the_plain_sums_of_kernels() {
        let (x, y) = ([0.0, 0.3, -1.1, 0.25, 2.0], [1.0, -0.4, 0.2, 0.9, -1.5]);
        let h = [0.5, 0.8];
        let kernel = |u: f64, v: f64| (1.0 - (u * u / (h[0] * h[0]) + v * v / (h[1] * h[1])) / 6.0).max(0.0);
        let n = 400;
        let at = |k: usize, h: f64| -5.0 * h - 2.0 + (10.0 * h + 4.0) * k as f64 / n as f64;
        let mut plane = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                let (a, b) = (at(i, h[0]), at(j, h[1]));
                plane[i * n + j] = x.iter().zip(&y).map(|(x, y)| kernel(a - x, b - y)).sum();
            }
        }
        let rows: Vec<f64> = plane.chunks(n).map(|r| r.iter().sum()).collect();
        let columns: Vec<f64> = (0..n).map(|j| (0..n).map(|i| plane[i * n + j]).sum()).collect();
        let expected = cell_entropy(&rows) + cell_entropy(&columns) - cell_entropy(&plane);
        for grid in [120, 301] {
            let mut smoother = Smoother::new(grid);
            let found = smoother.mutual_information(&x, &y, h);
            assert!((found - expected).abs() < 0.01 * expected, "{grid}: {found} {expected}");
            // The buffers are clean again, and the cached kernel is the right one.
            assert_eq!(found, smoother.mutual_information(&x, &y, h));
            let other = smoother.mutual_information(&y, &x, [h[1], h[0]]);
            assert!((found - other).abs() < 1e-9, "{found} {other}");
        }
    }
}
