//! Quantiles of the normal distribution.

/// The `z` that a standard normal variable exceeds with probability `tail`, for `tail` in `(0, 1)`.
pub(crate) fn upper_quantile(tail: f64) -> f64 {
    // The tail falls strictly, and f64 ends at 39 standard deviations.
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if 0.5 * libm::erfc(middle / std::f64::consts::SQRT_2) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::upper_quantile;

    #[test]
    fn quantiles_are_those_of_tables() {
        for (tail, z) in
            [(0.5, 0.0), (0.025, 1.959963984540054), (1e-6, 4.753424308822899), (0.9, -1.2815515655446004)]
        {
            assert!((upper_quantile(tail) - z).abs() < 1e-9);
        }
    }
}
