//! The sorted L1 norm.

/// `sum_i lambdas[i] |w|_(i)`, sizes in falling order.
pub fn slope_value(w: &[f64], lambdas: &[f64]) -> f64 {
    let mut sizes: Vec<f64> = w.iter().map(|v| v.abs()).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    sizes.iter().zip(lambdas).map(|(s, l)| s * l).sum()
}

/// Replaces `z` by the minimiser of `||w - z||² / (2 step) + sum_i lambdas[i] |w|_(i)`.
///
/// `lambdas` has the length of `z`, does not rise and is not negative. Pool-adjacent-violators on the
/// sorted sizes (Bogdan et al., "SLOPE: adaptive variable selection via convex optimization", Annals of
/// Applied Statistics 2015). `O(n log n)`.
///
/// # Panics
/// When the lengths differ.
pub fn slope_prox(z: &mut [f64], lambdas: &[f64], step: f64) {
    assert_eq!(z.len(), lambdas.len(), "one lambda per coefficient");
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| z[b].abs().total_cmp(&z[a].abs()));
    // Blocks of equal value: (sum, length).
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(z.len());
    for (&i, lambda) in order.iter().zip(lambdas) {
        blocks.push((z[i].abs() - step * lambda, 1));
        while let [.., (s1, n1), (s2, n2)] = blocks[..] {
            if s1 / n1 as f64 > s2 / n2 as f64 {
                break;
            }
            blocks.pop();
            *blocks.last_mut().expect("two blocks were there") = (s1 + s2, n1 + n2);
        }
    }
    let mut sorted = order.into_iter();
    for (sum, length) in blocks {
        let size = (sum / length as f64).max(0.0);
        for i in sorted.by_ref().take(length) {
            z[i] = size.copysign(z[i]);
        }
    }
}
