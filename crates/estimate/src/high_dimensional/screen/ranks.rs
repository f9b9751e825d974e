//! Normal scores: values replaced by the normal quantiles of their ranks.

/// `Φ⁻¹((i + 1/2) / n)` for `i = 0 .. n`, by Acklam's rational approximation with one step of Halley's method.
pub(super) fn quantiles(n: usize) -> Vec<f64> {
    (0..n).map(|i| normal_quantile((i as f64 + 0.5) / n as f64)).collect()
}

fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let polynomial = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = p.min(1.0 - p);
    let mut x = if tail < 0.02425 {
        let q = (-2.0 * tail.ln()).sqrt();
        polynomial(&C, q) / (polynomial(&D, q) * q + 1.0)
    } else {
        let q = tail - 0.5;
        let r = q * q;
        polynomial(&A, r) * q / (polynomial(&B, r) * r + 1.0)
    };
    // x is negative: the error function of its absolute value is accurate.
    let error = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2) - tail;
    let step = error * (2.0 * std::f64::consts::PI).sqrt() * (0.5 * x * x).exp();
    x -= step / (1.0 + 0.5 * x * step);
    if p < 0.5 { x } else { -x }
}

/// Writes the normal scores of `values`, scaled to mean 0 and variance 1; equal values share the mean of their scores.
/// Values must be finite and not all equal. Cost: a sort.
pub(super) fn normal_scores(
    values: &[f64],
    quantiles: &[f64],
    order: &mut Vec<(u64, u32)>,
    out: &mut Vec<f64>,
) {
    order.clear();
    // Bits that sort as the numbers do: an order of magnitude faster than comparing floats through an index.
    order.extend(values.iter().enumerate().map(|(i, v)| {
        let bits = (v + 0.0).to_bits();
        (if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }, i as u32)
    }));
    order.sort_unstable();
    out.clear();
    out.resize(values.len(), 0.0);
    let mut first = 0;
    let mut square = 0.0;
    while first < order.len() {
        let key = order[first].0;
        let mut next = first + 1;
        while next < order.len() && order[next].0 == key {
            next += 1;
        }
        let score = quantiles[first..next].iter().sum::<f64>() / (next - first) as f64;
        square += score * score * (next - first) as f64;
        order[first..next].iter().for_each(|&(_, i)| out[i as usize] = score);
        first = next;
    }
    let scale = (values.len() as f64 / square).sqrt();
    out.iter_mut().for_each(|v| *v *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_invert_the_normal_distribution() {
        for p in [1e-9, 1e-4, 0.01, 0.0242, 0.0243, 0.2, 0.5, 0.77, 0.9999] {
            let back = 0.5 * libm::erfc(-normal_quantile(p) / std::f64::consts::SQRT_2);
            assert!((back - p).abs() < 1e-14 * p.max(1e-2), "{p} {back}");
        }
    }

    #[test]
    fn scores_follow_ranks_share_ties_and_have_unit_variance() {
        let values = [3.0, -1.0, 0.0, -0.0, 1e9, -1e300];
        let mut out = vec![];
        normal_scores(&values, &quantiles(6), &mut vec![], &mut out);
        assert_eq!(out[2], out[3]);
        assert!(out[5] < out[1] && out[1] < out[2] && out[2] < out[0] && out[0] < out[4]);
        assert!((out.iter().map(|v| v * v).sum::<f64>() - 6.0).abs() < 1e-12);
        assert!(out.iter().sum::<f64>().abs() < 1e-12);
    }
}
