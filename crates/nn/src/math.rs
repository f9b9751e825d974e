//! The small loops of a decoder, written so that they vectorise without processor-specific code.

use sparseland_matrix::Real;

/// Lanes of the partial sums: several vectors wide, so that additions do not wait for each other.
const LANES: usize = 16;

/// See [`Real::exp`]: no call, so loops over it vectorise.
pub(crate) fn exp(x: f32) -> f32 {
    Real::exp(x)
}

/// `sum x_i y_i`, as several partial sums.
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (x, y) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f32 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in x.zip(y) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sum_of(sums) + rest
}

/// `out = sum_j weights_j rows_j` for rows of `out`'s length.
pub(crate) fn weighted_rows(weights: &[f32], rows: &[f32], out: &mut [f32]) {
    let width = out.len();
    out.fill(0.0);
    // Four rows at a time: `out` is read and written a quarter as often.
    let (weights, rows) = (weights.chunks_exact(4), rows.chunks_exact(4 * width));
    let last = (weights.remainder(), rows.remainder());
    for (w, rows) in weights.zip(rows) {
        let (a, rest) = rows.split_at(width);
        let (b, rest) = rest.split_at(width);
        let (c, d) = rest.split_at(width);
        for ((((o, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *o += (w[0] * a + w[1] * b) + (w[2] * c + w[3] * d);
        }
    }
    for (w, row) in last.0.iter().zip(last.1.chunks_exact(width)) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += w * v);
    }
}

/// `e^x / sum e^x` in place; an empty slice stays empty.
pub(crate) fn softmax(row: &mut [f32]) {
    let top = max(row);
    row.iter_mut().for_each(|v| *v = exp(*v - top));
    let mut sums = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += v);
    }
    let inverse = 1.0 / (sum_of(sums) + rest);
    row.iter_mut().for_each(|v| *v *= inverse);
}

/// `ln sum e^x`, summed in f64 over short runs.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let top = max(row);
    let mut total = 0.0;
    for run in row.chunks(256) {
        let mut sums = [0.0f32; LANES];
        let chunks = run.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().map(|&v| exp(v - top)).sum();
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += exp(v - top));
        }
        total += f64::from(sum_of(sums) + rest);
    }
    f64::from(top) + total.ln()
}

/// The largest number, NaN if there is one among the first ones compared; -infinity of nothing.
fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut tops = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    for chunk in chunks {
        tops.iter_mut().zip(chunk).for_each(|(t, &v)| *t = larger(*t, v));
    }
    tops.into_iter().fold(rest, larger)
}

/// The partial sums added pairwise.
fn sum_of(sums: [f32; LANES]) -> f32 {
    let mut sums = sums;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// `x * x` summed.
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    dot(x, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8_730..=8_830 {
            for shift in [0.0, 0.003_1, 0.007_7] {
                let x = (i as f32 / 100.0 + shift).min(88.3);
                let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
                assert!(error < 2e-7, "{x}: {error:e}");
            }
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1.3e-38 && exp(f32::NEG_INFINITY) >= 0.0);
        assert!(exp(1e30).is_finite() && exp(f32::INFINITY) > 2e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_of_any_length_equal_plain_ones() {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 17.0;
        for n in [0, 1, 3, 15, 16, 17, 40, 255, 256, 700] {
            let (x, y): (Vec<f32>, Vec<f32>) =
                ((0..n).map(value).collect(), (0..n).map(|i| value(i + 7)).collect());
            let plain: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&x, &y)) - plain).abs() < 1e-3, "{n}");
            if n == 0 {
                continue;
            }
            let total: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
            assert!((log_sum_exp(&x) - total.ln()).abs() < 1e-6, "{n}");
            let mut p = x.clone();
            softmax(&mut p);
            for (p, x) in p.iter().zip(&x) {
                assert!((f64::from(*p) - f64::from(*x).exp() / total).abs() < 1e-6, "{n}");
            }
            let (width, mut out) = (5, vec![9.0; 5]);
            let rows: Vec<f32> = (0..n * width).map(value).collect();
            weighted_rows(&x, &rows, &mut out);
            for (i, o) in out.iter().enumerate() {
                let plain: f64 = (0..n).map(|j| f64::from(x[j] * rows[j * width + i])).sum();
                assert!((f64::from(*o) - plain).abs() < 1e-3, "{n}");
            }
        }
    }

    #[test]
    fn broken_numbers_stay_visible() {
        for n in [1, 20] {
            for at in [0, n - 1] {
                let mut x = vec![0.5; n];
                x[at] = f32::NAN;
                assert!(log_sum_exp(&x).is_nan(), "{n} {at}");
                softmax(&mut x);
                assert!(x.iter().any(|v| v.is_nan()), "{n} {at}");
            }
        }
    }
}
