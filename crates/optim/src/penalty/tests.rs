use proptest::prelude::*;

use super::*;

/// Checks that `prox` is a global minimiser by comparing it with a fine grid, and that it is stationary.
fn check_prox(penalty: &dyn Penalty, z: f64, step: f64) -> Result<(), TestCaseError> {
    let cost = |w: f64| (w - z) * (w - z) / (2.0 * step) + penalty.value(0, w);
    let found = penalty.prox(0, z, step);
    for k in -400..=400 {
        let w = f64::from(k) / 50.0;
        prop_assert!(cost(found) <= cost(w) + 1e-9, "prox({z}, {step}) = {found}, but {w} is better");
    }
    prop_assert!(penalty.distance(0, found, (found - z) / step) < 1e-9, "not stationary at {found}");
    let curvature = 1.0 / step;
    prop_assert!(penalty.violation(0, found, (found - z) / step, curvature) < 1e-9, "not done at {found}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn separable_proxes_are_global_minimisers(
        z in -6.0..6.0f64, step in 0.1..4.0f64, alpha in 0.0..2.0f64, l1_ratio in 0.0..=1.0f64,
        gamma in 1.05..5.0f64, weight in 0.0..2.0f64, positive: bool,
    ) {
        let weights = Some(vec![weight]);
        check_prox(&ElasticNet { alpha, l1_ratio, weights: weights.clone(), positive }, z, step)?;
        check_prox(&Mcp { alpha, gamma, weights: weights.clone() }, z, step)?;
        check_prox(&Scad { alpha, shape: 1.0 + gamma, weights: weights.clone() }, z, step)?;
        for exponent in [Exponent::Half, Exponent::TwoThirds] {
            let bridge = Bridge { alpha, exponent, weights: weights.clone() };
            check_prox(&bridge, z, step)?;
            // What leaves 0 is what has passed its entry; the critical strength is where that is.
            let passed = z.abs() / step > bridge.entry(0, 1.0 / step);
            prop_assert_eq!(passed, bridge.prox(0, z, step) != 0.0);
            let critical = bridge.critical_alpha(z / step, 1.0 / step);
            for (factor, zero) in [(1.0 + 1e-9, true), (1.0 - 1e-9, false)] {
                let at = Bridge { alpha: factor * critical, exponent, weights: None };
                prop_assert_eq!(at.prox(0, z, step) == 0.0, zero);
            }
            check_prox(&Positive(Box::new(bridge)), z, step)?;
        }
        let log = LogSum { alpha, epsilon: gamma - 1.0, weights: weights.clone() };
        check_prox(&log, z, step)?;
        check_prox(&Positive(Box::new(log)), z, step)?;
        check_prox(&Positive(Box::new(Mcp { alpha, gamma, weights: weights.clone() })), z, step)?;
        check_prox(&BoxConstraint { low: -alpha, high: 0.5 * gamma }, z, step)?;
    }

    #[test]
    fn derivatives_are_those_of_the_value(w in -6.0..6.0f64, alpha in 0.1..2.0f64, gamma in 1.5..5.0f64) {
        let penalties: [Box<dyn Penalty>; 6] = [
            Box::new(ElasticNet { l1_ratio: 0.3, ..ElasticNet::l1(alpha) }),
            Box::new(Mcp { alpha, gamma, weights: None }),
            Box::new(Scad { alpha, shape: 1.0 + gamma, weights: None }),
            Box::new(LogSum { alpha, epsilon: gamma, weights: None }),
            Box::new(Bridge { alpha, exponent: Exponent::Half, weights: None }),
            Box::new(Bridge { alpha, exponent: Exponent::TwoThirds, weights: None }),
        ];
        // Kinks of the derivative, where differences mislead.
        let kinks = [0.0, alpha, gamma * alpha, (1.0 + gamma) * alpha];
        prop_assume!(w.abs() > 0.1 && kinks.iter().all(|k| (w.abs() - k).abs() > 1e-2));
        for penalty in &penalties {
            let h = 1e-3;
            let (up, here, down) = (penalty.value(0, w + h), penalty.value(0, w), penalty.value(0, w - h));
            let (first, second) = penalty.derivatives(0, w).expect("smooth away from 0");
            // Differences err by the next derivatives, which grow as powers of 1 / |w|.
            let slack = 1e-6 * (1.0 + w.abs().powi(-4));
            prop_assert!((first - (up - down) / (2.0 * h)).abs() < slack);
            prop_assert!((second - (up - 2.0 * here + down) / (h * h)).abs() < slack);
        }
    }

    #[test]
    fn group_prox_is_stationary_and_beats_its_neighbours(
        z in proptest::collection::vec(-3.0..3.0f64, 1..5), alpha in 0.0..2.0f64, tau in 0.0..=1.0f64,
        step in 0.2..2.0f64, noise in proptest::collection::vec(-0.5..0.5f64, 5),
    ) {
        let penalty = GroupPenalty { alpha, tau, weights: vec![1.3] };
        let mut w = z.clone();
        penalty.prox(0, &mut w, step);
        let gradient: Vec<f64> = w.iter().zip(&z).map(|(w, z)| (w - z) / step).collect();
        prop_assert!(penalty.distance(0, &w, &gradient) < 1e-9);
        let cost = |w: &[f64]| {
            w.iter().zip(&z).map(|(w, z)| (w - z) * (w - z)).sum::<f64>() / (2.0 * step) + penalty.value(0, w)
        };
        let near: Vec<f64> = w.iter().zip(&noise).map(|(w, e)| w + e).collect();
        prop_assert!(cost(&w) <= cost(&near) + 1e-12);
    }

    #[test]
    fn the_critical_strength_is_where_a_group_enters(
        gradient in proptest::collection::vec(-3.0..3.0f64, 2..5), tau in 0.0..=1.0f64,
    ) {
        let at = |alpha: f64| GroupPenalty { alpha, tau, weights: vec![0.8] };
        let critical = at(1.0).critical_alpha(0, &gradient);
        let zero = vec![0.0; gradient.len()];
        prop_assert!(at(critical * (1.0 + 1e-9)).distance(0, &zero, &gradient) == 0.0);
        prop_assert!(at(critical * 0.999).distance(0, &zero, &gradient) > 0.0);
    }

    #[test]
    fn slope_prox_beats_its_neighbours(
        z in proptest::collection::vec(-3.0..3.0f64, 1..6), noise in proptest::collection::vec(-0.3..0.3f64, 6),
        top in 0.1..2.0f64,
    ) {
        let lambdas: Vec<f64> = (0..z.len()).map(|i| top / (i + 1) as f64).collect();
        let step = 0.7;
        let mut w = z.clone();
        slope_prox(&mut w, &lambdas, step);
        let cost = |w: &[f64]| {
            w.iter().zip(&z).map(|(w, z)| (w - z) * (w - z)).sum::<f64>() / (2.0 * step) + slope_value(w, &lambdas)
        };
        for scale in [1.0, 0.1, 1e-3] {
            let near: Vec<f64> = w.iter().zip(&noise).map(|(w, e)| w + scale * e).collect();
            prop_assert!(cost(&w) <= cost(&near) + 1e-12);
        }
    }
}

#[test]
fn slope_with_equal_lambdas_is_the_soft_threshold() {
    let mut w = [3.0, -0.5, 1.0, -2.0];
    slope_prox(&mut w, &[0.8; 4], 1.0);
    assert_eq!(w, [2.2, -0.0, 1.0 - 0.8, -1.2]);
}

#[test]
fn infinite_weights_exclude_and_zero_weights_free() {
    let weights = Some(vec![f64::INFINITY, 0.0]);
    let penalties: [Box<dyn Penalty>; 6] = [
        Box::new(ElasticNet { weights: weights.clone(), ..ElasticNet::l1(0.0) }),
        Box::new(Mcp { alpha: 1.0, gamma: 3.0, weights: weights.clone() }),
        Box::new(Scad { alpha: 1.0, shape: 3.7, weights: weights.clone() }),
        Box::new(Bridge { alpha: 1.0, exponent: Exponent::Half, weights: weights.clone() }),
        Box::new(Bridge { alpha: 1.0, exponent: Exponent::TwoThirds, weights: weights.clone() }),
        Box::new(Positive(Box::new(LogSum { alpha: 1.0, epsilon: 0.5, weights }))),
    ];
    for penalty in &penalties {
        let entries = [0, 1].map(|j| penalty.entry(j, 1.0));
        assert_eq!(
            (penalty.prox(0, 5.0, 1.0), penalty.threshold(0), entries[0]),
            (0.0, f64::INFINITY, f64::INFINITY)
        );
        assert_eq!((penalty.prox(1, 5.0, 1.0), penalty.threshold(1), entries[1]), (5.0, 0.0, 0.0));
    }
}
