//! Densities on grids: linear binning, Gaussian smoothing and entropies.

/// How far a Gaussian kernel reaches, in bandwidths: beyond it lies 6e-5 of its mass.
pub(super) const REACH: f64 = 4.0;

sparseland_matrix::vectorised! {
    /// `sum v log v`, with `0 log 0 = 0` and negative values (rounding of a transform) counted as 0.
    ///
    /// The logarithm is `2 artanh((m - 1) / (m + 1))` of the mantissa `m` in `[0.70, 1.41]`, to 1e-13.
    pub(super) fn sum_x_log_x(values: &[f64]) -> f64 {
        const LANES: usize = sparseland_matrix::simd::LANES;
        // Bits of sqrt(1/2), so that mantissas lie around 1.
        const LOW: u64 = 0x3fe6_a09e_667f_3bcd;
        let term = |v: f64| {
            let v = if v > f64::MIN_POSITIVE { v } else { f64::MIN_POSITIVE };
            let bits = v.to_bits();
            let shifted = bits.wrapping_sub(LOW);
            // The exponent as a float, without an integer conversion that AVX2 lacks.
            let exponent = f64::from_bits(((shifted.wrapping_add(1 << 62)) >> 52) | 0x4330_0000_0000_0000)
                - (4_503_599_627_370_496.0 + 1024.0);
            let mantissa = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff).wrapping_add(LOW));
            let s = (mantissa - 1.0) / (mantissa + 1.0);
            let q = s * s;
            let series = 1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q * (1.0 / 9.0
                + q * (1.0 / 11.0 + q * (1.0 / 13.0 + q / 15.0))))));
            v * (exponent * std::f64::consts::LN_2 + 2.0 * s * series)
        };
        let mut sums = [0.0; LANES];
        let chunks = values.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] += term(chunk[lane]);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|v| term(*v)).sum::<f64>()
    }

    /// Correlates rows of `from` (`rows x width`) with a symmetric stencil: `to[r] = sum_k stencil[|k|] from[r + k]`.
    /// Rows outside count as zeros, and so do those that `empty` names.
    fn smooth_rows(from: &[f64], to: &mut [f64], width: usize, stencil: &[f64], empty: &[bool]) {
        let rows = empty.len();
        for r in 0..rows {
            let out = &mut to[r * width..(r + 1) * width];
            out.fill(0.0);
            let low = r.saturating_sub(stencil.len() - 1);
            for s in low..(r + stencil.len()).min(rows) {
                if empty[s] {
                    continue;
                }
                let weight = stencil[r.abs_diff(s)];
                for (out, v) in out.iter_mut().zip(&from[s * width..(s + 1) * width]) {
                    *out += weight * v;
                }
            }
        }
    }
}

/// Cells of one axis: where the first one lies and how far apart they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) origin: f64,
    pub(super) step: f64,
    pub(super) cells: usize,
}

impl Axis {
    /// An axis over all values with `margin` on either side and cells of `step`, wider ones if they would be more
    /// than `most`.
    pub(super) fn over(values: &[f64], margin: f64, step: f64, most: usize) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min) - margin;
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) + margin;
        // One cell more at the end: linear binning touches the right neighbour.
        let cells = ((high - low) / step).ceil() as usize + 2;
        if cells <= most {
            return Self { origin: low, step, cells };
        }
        Self { origin: low, step: (high - low) / (most - 2) as f64, cells: most }
    }

    /// The cell at or below `value` and the weight of the next one.
    #[inline]
    pub(super) fn place(&self, value: f64) -> (usize, f64) {
        let at = ((value - self.origin) / self.step).max(0.0);
        let cell = (at as usize).min(self.cells - 2);
        (cell, (at - cell as f64).clamp(0.0, 1.0))
    }

    /// Values of a Gaussian kernel at whole cells, summing to 1 over both sides.
    fn stencil(&self, bandwidth: f64) -> Vec<f64> {
        let reach = (REACH * bandwidth / self.step).ceil() as usize;
        let value = |k: usize| (-0.5 * (k as f64 * self.step / bandwidth).powi(2)).exp();
        let mut stencil: Vec<f64> = (0..=reach).map(value).collect();
        let total = 2.0 * stencil.iter().sum::<f64>() - stencil[0];
        stencil.iter_mut().for_each(|v| *v /= total);
        stencil
    }
}

/// Buffers of [`entropy_2d`], kept between columns.
#[derive(Debug, Default)]
pub(super) struct Grids {
    first: Vec<f64>,
    second: Vec<f64>,
    empty: Vec<bool>,
}

/// Entropy in nats of the Gaussian kernel density of the points `(p_i, q_i)`, each axis with the same bandwidth.
///
/// Cost: `O(n + cells² reach)`; the grid has at most `most` cells an axis, five to a bandwidth where that is enough.
pub(super) fn entropy_2d(p: &[f64], q: &[f64], bandwidth: f64, most: usize, grids: &mut Grids) -> f64 {
    let axes = [p, q].map(|v| Axis::over(v, REACH * bandwidth, bandwidth / PER_BANDWIDTH, most));
    let [rows, cols] = axes.map(|a| a.cells);
    grids.first.clear();
    grids.first.resize(rows * cols, 0.0);
    grids.second.clear();
    grids.second.resize(rows * cols, 0.0);
    grids.empty.clear();
    grids.empty.resize(rows, true);
    let weight = 1.0 / p.len() as f64;
    for (&p, &q) in p.iter().zip(q) {
        let ((i, a), (j, b)) = (axes[0].place(p), axes[1].place(q));
        let at = i * cols + j;
        grids.first[at] += weight * (1.0 - a) * (1.0 - b);
        grids.first[at + 1] += weight * (1.0 - a) * b;
        grids.first[at + cols] += weight * a * (1.0 - b);
        grids.first[at + cols + 1] += weight * a * b;
        grids.empty[i] = false;
        grids.empty[i + 1] = false;
    }
    smooth_rows(&grids.first, &mut grids.second, cols, &axes[0].stencil(bandwidth), &grids.empty);
    transpose(&grids.second, &mut grids.first, rows, cols);
    grids.empty.clear();
    grids.empty.resize(cols, false);
    smooth_rows(&grids.first, &mut grids.second, rows, &axes[1].stencil(bandwidth), &grids.empty);
    cell_entropy(&grids.second) + (axes[0].step * axes[1].step).ln()
}

/// Cells to a bandwidth: linear binning then widens the kernel by `1 / (6 · 25)` of its variance, 0.7 %.
const PER_BANDWIDTH: f64 = 5.0;

/// Masses of the Gaussian kernel density of some values on an axis, each value of weight `weight`.
pub(super) fn density_1d(
    values: impl Iterator<Item = f64>,
    weight: f64,
    bandwidth: f64,
    axis: Axis,
) -> Vec<f64> {
    let mut binned = vec![0.0; axis.cells];
    for value in values {
        let (i, a) = axis.place(value);
        binned[i] += weight * (1.0 - a);
        binned[i + 1] += weight * a;
    }
    let stencil = axis.stencil(bandwidth);
    let mut out = vec![0.0; axis.cells];
    for (i, &mass) in binned.iter().enumerate().filter(|(_, m)| **m > 0.0) {
        let low = i.saturating_sub(stencil.len() - 1);
        for (j, out) in out.iter_mut().enumerate().take(i + stencil.len()).skip(low) {
            *out += mass * stencil[i.abs_diff(j)];
        }
    }
    out
}

/// The axis for one-dimensional densities of these values.
pub(super) fn axis_1d(values: &[f64], bandwidth: f64, most: usize) -> Axis {
    Axis::over(values, REACH * bandwidth, bandwidth / PER_BANDWIDTH, most)
}

/// `-sum m log m` of masses after scaling them to sum to 1.
pub(super) fn cell_entropy(masses: &[f64]) -> f64 {
    let total: f64 = masses.iter().map(|m| m.max(0.0)).sum();
    total.ln() - sum_x_log_x(masses) / total
}

/// `to = fromᵀ` in tiles.
pub(super) fn transpose<T: Copy>(from: &[T], to: &mut [T], rows: usize, cols: usize) {
    const TILE: usize = 16;
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for c in c0..(c0 + TILE).min(cols) {
                for r in r0..(r0 + TILE).min(rows) {
                    to[c * rows + r] = from[r * cols + c];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_the_library() {
        let mut values =
            vec![0.0, -1e-9, 1e-300, 1e-30, 1e-5, 0.3, 0.5, 0.707, 0.7072, 0.999, 1.0, 1.5, 2.0, 7e10];
        values.extend((1..400).map(|i| f64::from(i) * 0.013));
        for v in &values {
            let expected = if *v > 0.0 { v * v.ln() } else { 0.0 };
            assert!((sum_x_log_x(&[*v]) - expected).abs() <= 2e-13 * expected.abs().max(*v) + 1e-300, "{v}");
        }
        let plain: f64 = values.iter().filter(|v| **v > 0.0).map(|v| v * v.ln()).sum();
        assert!((sum_x_log_x(&values) - plain).abs() < 1e-12 * plain.abs());
    }

    #[test]
    fn entropies_of_few_points_are_those_of_the_kernel_sums() {
        let (p, q) = ([0.0, 0.3, -1.1, 0.25], [1.0, -0.4, 0.2, 0.9]);
        let h = 0.5;
        // A plain sum on a fine grid of its own.
        let kernel = |t: f64| (-0.5 * t * t / (h * h)).exp() / (h * (2.0 * std::f64::consts::PI).sqrt());
        let (step, mut plane, mut line) = (0.02, 0.0, 0.0);
        let at = |k: i32| f64::from(k) * step;
        for i in -250..250 {
            let f: f64 = p.iter().map(|p| kernel(at(i) - p)).sum::<f64>() / 4.0;
            line -= if f > 0.0 { f * f.ln() * step } else { 0.0 };
            for j in -250..250 {
                let f: f64 =
                    p.iter().zip(&q).map(|(p, q)| kernel(at(i) - p) * kernel(at(j) - q)).sum::<f64>() / 4.0;
                plane -= if f > 1e-300 { f * f.ln() * step * step } else { 0.0 };
            }
        }
        let found = entropy_2d(&p, &q, h, 300, &mut Grids::default());
        assert!((found - plane).abs() < 0.01, "{found} {plane}");
        let axis = axis_1d(&p, h, 300);
        let found = cell_entropy(&density_1d(p.into_iter(), 0.25, h, axis)) + axis.step.ln();
        assert!((found - line).abs() < 0.005, "{found} {line}");
    }
}
