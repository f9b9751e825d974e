//! Budgets hold in exact integers, the knapsack is never worse than uniform, infeasible budgets are
//! refused with the feasible range.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::CompressError;
use sparseland_compress::allocation::{Allocation, Budget, ErrorSpace, LayerProfile, Objective, allocate};
use sparseland_compress::pipeline::removal_grid;
use sparseland_compress::problem::{Accounting, Candidate, Errors, FactorShape, Limit, cost};
use sparseland_core::Context;
use sparseland_matrix::{Layout, ValueType};

/// Layers of random sizes whose errors rise with what is removed, some faster than others.
fn layers(rng: &mut Pcg64, count: usize, remove: f64, accounting: Accounting) -> Vec<LayerProfile> {
    (0..count)
        .map(|i| {
            let (inputs, outputs) = (rng.random_range(6..400), rng.random_range(6..400));
            let values = [ValueType::Bf16, ValueType::F32, ValueType::I8][rng.random_range(0..3)];
            let dense = Layout::Dense { rows: outputs, cols: inputs, values };
            let mut profile = LayerProfile::new(format!("layer{i}"), &dense);
            let steepness = rng.random_range(0.5..3.0);
            for removed in removal_grid(remove, Allocation::Knapsack) {
                let limit = Limit {
                    cost: ((1.0 - removed) * cost(&dense, accounting) as f64) as u64,
                    accounting,
                    values,
                };
                if let Some(shape) =
                    FactorShape::fitting((inputs, outputs), rng.random_range(1.0..3.0), limit)
                {
                    let error = removed.powf(steepness) * rng.random_range(0.9..1.1);
                    let errors = Errors { weight: error, output: error * 0.5 };
                    let layout = shape.layout(inputs, outputs, values);
                    profile.push(removed, Candidate { layout, errors, marginal: Some(error) });
                }
            }
            profile
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn thresholds_keep_the_budget_and_separate_what_is_kept_from_what_is_not(
        count in 1usize..12, remove in 0.0f64..0.6, owl: bool, seed: u64,
    ) {
        let context = Context::new(0, 1).unwrap();
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut layers = layers(&mut rng, count, remove, Accounting::Params);
        for layer in &mut layers {
            layer.outliers = Some(rng.random_range(0.0..0.1));
        }
        let allocation = if owl { Allocation::Owl } else { Allocation::TailEnergy };
        let budget = Budget {
            remove,
            accounting: Accounting::Params,
            allocation,
            objective: Objective::SquaredParams,
            error_space: ErrorSpace::Output,
        };
        let Ok(plan) = allocate("svd", ValueType::F32, layers.clone(), budget, &context) else {
            return Ok(());
        };
        prop_assert!(plan.cost <= plan.allowed);
        if !owl {
            // No layer took a step that costs more error than a step which another layer was spared.
            let taken = (0..count).map(|i| plan.choice(i).errors.output).fold(0.0, f64::max);
            for (layer, &pick) in layers.iter().zip(&plan.picks) {
                let cheaper = layer.options.iter().filter(|o| o.params < layer.options[pick].params);
                let next = cheaper.max_by_key(|o| o.params);
                let worst = layer.options[..].iter().filter(|o| next.is_some_and(|n| o.params >= n.params));
                let reached = worst.map(|o| o.errors.output).fold(0.0, f64::max);
                prop_assert!(next.is_none() || reached >= taken - 1e-12);
            }
        }
    }

    #[test]
    fn budgets_are_never_exceeded_and_the_knapsack_is_never_worse(
        count in 1usize..12, remove in 0.0f64..0.8, bytes: bool, paper: bool, output: bool, seed: u64,
    ) {
        let context = Context::new(0, 1).unwrap();
        let accounting = if bytes { Accounting::Bytes } else { Accounting::Params };
        let layers = layers(&mut Pcg64::seed_from_u64(seed), count, remove, accounting);
        let whole = |l: &LayerProfile| if bytes { l.options[0].bytes } else { l.options[0].params };
        let total: u64 = layers.iter().map(whole).sum();
        let budget = Budget {
            remove,
            accounting,
            allocation: Allocation::Knapsack,
            objective: if paper { Objective::Paper } else { Objective::SquaredParams },
            error_space: if output { ErrorSpace::Output } else { ErrorSpace::Weight },
        };
        match allocate("rocket", ValueType::F32, layers.clone(), budget, &context) {
            Ok(plan) => {
                let spent: u64 = (0..count)
                    .map(|i| if bytes { plan.choice(i).bytes } else { plan.choice(i).params })
                    .sum();
                prop_assert_eq!(spent, plan.cost);
                prop_assert!(plan.cost as f64 <= (1.0 - remove) * total as f64 + 1e-6);
                prop_assert!(plan.removed(accounting) >= remove - 1e-9);
                if !paper {
                    prop_assert!(plan.lower_bound <= plan.objective * (1.0 + 1e-9) + 1e-12);
                    if let Some(uniform) = plan.uniform_objective {
                        prop_assert!(plan.objective <= uniform * (1.0 + 1e-9));
                    }
                }
                let text = serde_json::to_string(&plan).unwrap();
                prop_assert_eq!(serde_json::from_str::<sparseland_compress::allocation::Plan>(&text).unwrap(), plan);
            }
            Err(CompressError::Infeasible { asked, max, .. }) => {
                prop_assert!(asked > max, "{asked} {max}");
                // What the message calls possible is possible, a hair inside the bound.
                let inside = Budget { remove: (max / 100.0 - 1e-9).max(0.0), ..budget };
                prop_assert!(allocate("rocket", ValueType::F32, layers, inside, &context).is_ok());
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn nothing_removed_leaves_every_layer_dense() {
    let context = Context::new(0, 1).unwrap();
    for allocation in [Allocation::Uniform, Allocation::Knapsack] {
        let budget = Budget {
            remove: 0.0,
            accounting: Accounting::Bytes,
            allocation,
            objective: Objective::SquaredParams,
            error_space: ErrorSpace::Weight,
        };
        let layers = layers(&mut Pcg64::seed_from_u64(1), 9, 0.0, Accounting::Bytes);
        let plan = allocate("svd", ValueType::F32, layers, budget, &context).unwrap();
        assert!((0..9).all(|i| plan.choice(i).layout.is_none()));
    }
}

#[test]
fn impossible_fractions_are_refused() {
    let context = Context::new(0, 1).unwrap();
    for remove in [1.0, -0.1, f64::NAN, 7.0] {
        let budget = Budget {
            remove,
            accounting: Accounting::Params,
            allocation: Allocation::Uniform,
            objective: Objective::SquaredParams,
            error_space: ErrorSpace::Weight,
        };
        let result = allocate("svd", ValueType::F32, Vec::new(), budget, &context);
        assert!(matches!(result, Err(CompressError::Fraction(_))));
    }
}

#[test]
fn a_threshold_needs_scores() {
    let context = Context::new(0, 1).unwrap();
    for allocation in [Allocation::Sensitivity, Allocation::Owl] {
        let budget = Budget {
            remove: 0.3,
            accounting: Accounting::Params,
            allocation,
            objective: Objective::SquaredParams,
            error_space: ErrorSpace::Weight,
        };
        let layers = layers(&mut Pcg64::seed_from_u64(1), 3, 0.3, Accounting::Params);
        let result = allocate("svd", ValueType::F32, layers, budget, &context);
        assert!(matches!(result, Err(CompressError::NoScore(_))));
    }
}
