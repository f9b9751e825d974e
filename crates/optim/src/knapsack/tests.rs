//! The solver against brute force, against an exact table, and against its own promises.

use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Relative accuracy of sums of a few hundred non-negative `f64`.
const ACCURACY: f64 = 1e-12;

fn choice(cost: u64, error: f64) -> Choice {
    Choice { cost, error }
}

fn spread(groups: &[Vec<Choice>]) -> (u64, u64) {
    let costs = |group: &Vec<Choice>| group.iter().map(|choice| choice.cost).collect::<Vec<_>>();
    let min = groups.iter().map(|group| costs(group).into_iter().min().unwrap()).sum();
    let max = groups.iter().map(|group| costs(group).into_iter().max().unwrap()).sum();
    (min, max)
}

/// Least error within the budget by trying every combination; infinite if there is none.
fn brute_force(groups: &[Vec<Choice>], budget: u64, error: f64) -> f64 {
    let Some((first, rest)) = groups.split_first() else { return error };
    let affordable = first.iter().filter(|choice| choice.cost <= budget);
    affordable
        .map(|choice| brute_force(rest, budget - choice.cost, error + choice.error))
        .fold(f64::INFINITY, f64::min)
}

/// Least error for each budget `0..=budget`, by the textbook table over unrounded integer costs.
fn exact_table(groups: &[Vec<Choice>], budget: usize) -> Vec<f64> {
    let mut best = vec![0.0; budget + 1];
    for group in groups {
        best = (0..=budget)
            .map(|room| {
                let fits = group.iter().filter(|choice| choice.cost <= room as u64);
                fits.map(|choice| best[room - choice.cost as usize] + choice.error)
                    .fold(f64::INFINITY, f64::min)
            })
            .collect();
    }
    best
}

/// One of several kinds of instance, chosen by the random stream: ties, zeros, equal options, huge
/// costs, errors of very different size.
fn instance(random: &mut Pcg64Mcg, most_groups: usize) -> (Vec<Vec<Choice>>, u64) {
    let kind = random.random_range(0..8);
    let largest_cost = [3, 10, 1000, 100_000_000_000][random.random_range(0..4)];
    let count = random.random_range(1..=most_groups);
    let mut groups: Vec<Vec<Choice>> = Vec::new();
    for _ in 0..count {
        let options = random.random_range(1..=6);
        let mut group: Vec<Choice> = Vec::new();
        for _ in 0..options {
            let cost = random.random_range(0..=largest_cost);
            let error = match kind {
                0 => f64::from(random.random_range(0..4)),
                1 => (largest_cost - cost) as f64,
                2 => (largest_cost - cost) as f64 + random.random_range(0.0..0.1) * largest_cost as f64,
                3 => 10_f64.powi(random.random_range(-12..12)),
                4 => 0.0,
                _ => random.random(),
            };
            let repeat = !group.is_empty() && random.random_range(0..6) == 0;
            group.push(if repeat { group[0] } else { choice(cost, error) });
        }
        let repeat = !groups.is_empty() && random.random_range(0..5) == 0;
        groups.push(if repeat { groups[0].clone() } else { group });
    }
    let (min, max) = spread(&groups);
    let budget = match random.random_range(0..6) {
        0 => min,
        1 => max,
        2 => max.saturating_sub(1).max(min),
        3 => u64::MAX,
        _ => random.random_range(min..=max),
    };
    (groups, budget)
}

fn check(groups: &[Vec<Choice>], budget: u64, solution: &Solution) {
    assert_eq!(solution.picks.len(), groups.len());
    let picked = || groups.iter().zip(&solution.picks).map(|(group, &pick)| group[pick]);
    assert_eq!(solution.cost, picked().map(|choice| choice.cost).sum::<u64>());
    assert!(solution.cost <= budget, "{} > {budget}", solution.cost);
    let error: f64 = picked().map(|choice| choice.error).sum();
    assert!((solution.error - error).abs() <= ACCURACY * error);
    assert!(0.0 <= solution.lower_bound && solution.lower_bound <= solution.error);
    assert!((0.0..=1.0).contains(&solution.gap()));
}

fn against_brute_force(instances: u64, most_groups: usize, seed: u64) {
    for seed in seed..seed + instances {
        let (groups, budget) = instance(&mut Pcg64Mcg::seed_from_u64(seed), most_groups);
        let optimum = brute_force(&groups, budget, 0.0);
        for precision in [Knapsack::PRECISION, 2] {
            let solution = Knapsack::with_precision(precision).solve(&groups, budget).unwrap();
            check(&groups, budget, &solution);
            let about = || format!("seed {seed}, precision {precision}: {solution:?}, optimum {optimum}");
            assert!(solution.lower_bound <= optimum * (1.0 + ACCURACY), "{}", about());
            assert!(solution.error >= optimum * (1.0 - ACCURACY), "{}", about());
            if solution.proven_optimal {
                assert!(solution.error <= optimum * (1.0 + ACCURACY), "{}", about());
                assert_eq!(solution.lower_bound, solution.error);
            } else {
                assert_eq!(precision, 2, "{}", about());
            }
        }
    }
}

#[test]
fn equals_brute_force_on_thousands_of_small_instances() {
    against_brute_force(20_000, 5, 0);
}

#[test]
fn equals_brute_force_on_eight_groups_of_six() {
    against_brute_force(1000, 8, 1_000_000);
}

#[test]
fn equals_the_exact_table_on_many_groups_and_all_budgets() {
    let mut random = Pcg64Mcg::seed_from_u64(7);
    for correlated in [false, true] {
        let groups: Vec<Vec<Choice>> = (0..40)
            .map(|_| {
                let mut option = || {
                    let cost = random.random_range(0..50);
                    let error = if correlated { (50 - cost) as f64 } else { 0.0 };
                    choice(cost, error + random.random::<f64>())
                };
                (0..10).map(|_| option()).collect()
            })
            .collect();
        let (min, max) = spread(&groups);
        let table = exact_table(&groups, max as usize);
        let mut last = f64::INFINITY;
        for budget in (min..=max).step_by(7) {
            let solution = Knapsack::default().solve(&groups, budget).unwrap();
            check(&groups, budget, &solution);
            let optimum = table[budget as usize];
            assert!(solution.proven_optimal);
            assert!((solution.error - optimum).abs() <= ACCURACY * optimum, "{solution:?} {optimum}");
            assert!(solution.error <= last, "the optimum rose with the budget");
            last = solution.error;
        }
    }
}

/// The shape of the main job: 224 layers, 15 options whose errors grow like a power of what is removed.
fn layers(seed: u64) -> Vec<Vec<Choice>> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    (0..224)
        .map(|_| {
            let size = [16_777_216.0, 4_194_304.0, 45_088_768.0][random.random_range(0..3)];
            let (weight, power) = (random.random_range(0.2..2.0), random.random_range(0.5..3.0));
            (0..15)
                .map(|option| {
                    let removed = f64::from(option) * 0.05;
                    let cost = (size * (1.0 - removed)) as u64 + random.random_range(0..4096);
                    choice(cost, weight * size * removed.powf(power) * random.random_range(0.9..1.1))
                })
                .collect()
        })
        .collect()
}

#[test]
fn a_large_model_is_solved_within_a_thousandth_of_its_bound_even_when_thinned() {
    for seed in 0..4 {
        let groups = layers(seed);
        let (min, max) = spread(&groups);
        for share in [0.02, 0.3, 0.57, 0.9] {
            let budget = min + ((max - min) as f64 * share) as u64;
            let exact = Knapsack::default().solve(&groups, budget).unwrap();
            check(&groups, budget, &exact);
            assert!(exact.proven_optimal, "{exact:?}");
            let thinned = Knapsack::with_precision(10).solve(&groups, budget).unwrap();
            check(&groups, budget, &thinned);
            assert!(thinned.gap() < 1e-3, "gap {}", thinned.gap());
            assert!(thinned.error >= exact.error * (1.0 - ACCURACY));
            assert!(thinned.lower_bound <= exact.error * (1.0 + ACCURACY));
        }
    }
}

#[test]
fn is_never_worse_than_the_best_uniform_choice() {
    let groups = layers(11);
    for option in 0..15 {
        let budget = groups.iter().map(|group| group[option].cost).sum();
        let uniform: f64 = groups.iter().map(|group| group[option].error).sum();
        let solution = Knapsack::default().solve(&groups, budget).unwrap();
        assert!(solution.error <= uniform * (1.0 + ACCURACY));
    }
}

proptest! {
    #[test]
    fn reordering_groups_and_options_changes_no_bit_of_the_result(seed: u64, thinned: bool) {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let (mut groups, budget) = instance(&mut random, 12);
        let solver = if thinned { Knapsack::with_precision(3) } else { Knapsack::default() };
        let before = solver.solve(&groups, budget).unwrap();
        for last in (1..groups.len()).rev() {
            groups.swap(last, random.random_range(0..=last));
        }
        for group in &mut groups {
            group.reverse();
        }
        let after = solver.solve(&groups, budget).unwrap();
        prop_assert_eq!(before.cost, after.cost);
        prop_assert_eq!(before.error.to_bits(), after.error.to_bits());
        prop_assert_eq!(before.lower_bound.to_bits(), after.lower_bound.to_bits());
    }

    #[test]
    fn the_optimum_is_monotone_in_the_budget(seed: u64, more in 0_u64..2000) {
        let (groups, budget) = instance(&mut Pcg64Mcg::seed_from_u64(seed), 20);
        let poor = Knapsack::default().solve(&groups, budget).unwrap();
        let rich = Knapsack::default().solve(&groups, budget.saturating_add(more)).unwrap();
        check(&groups, budget, &poor);
        if poor.proven_optimal && rich.proven_optimal {
            prop_assert!(rich.error <= poor.error * (1.0 + ACCURACY));
        }
    }
}

#[test]
fn the_first_of_equal_options_is_picked() {
    let groups = [vec![choice(9, 1.0), choice(5, 0.0), choice(5, -0.0), choice(5, 0.0)]];
    assert_eq!(Knapsack::default().solve(&groups, 100).unwrap().picks, [1]);
}

#[test]
fn no_groups_give_the_empty_solution() {
    let solution = Knapsack::default().solve(&[], 0).unwrap();
    assert!(solution.picks.is_empty() && solution.proven_optimal);
    assert_eq!((solution.cost, solution.error, solution.gap()), (0, 0.0, 0.0));
}

#[test]
fn a_forbidding_error_on_a_tempting_option_does_not_drown_the_others() {
    // 1e30 + 1 == 1e30 in f64: the sums must not be formed by subtracting 1e30 again.
    let groups =
        [vec![choice(0, 1e30), choice(7, 1.0), choice(9, 0.0)], vec![choice(0, 3.0), choice(4, 0.5)]];
    let solution = Knapsack::default().solve(&groups, 11).unwrap();
    assert_eq!((solution.picks, solution.error), (vec![1, 1], 1.5));
}

#[test]
fn bad_instances_say_what_and_where() {
    let solve = |groups: &[Vec<Choice>], budget| Knapsack::default().solve(groups, budget).unwrap_err();
    let fine = vec![choice(10, 1.0), choice(30, 0.0)];
    assert_eq!(solve(&[fine.clone(), vec![]], 5), KnapsackError::EmptyGroup { group: 1 });
    for value in [f64::NAN, f64::INFINITY, -1e-300] {
        let error = solve(&[fine.clone(), vec![choice(0, 0.0), choice(1, value)]], 5);
        assert!(matches!(error, KnapsackError::InvalidError { group: 1, option: 1, .. }));
        assert!(error.to_string().contains("group 1, option 1"), "{error}");
    }
    let error = solve(&[fine.clone(), fine.clone()], 19);
    assert_eq!(error, KnapsackError::Infeasible { budget: 19, min: 20, max: 60 });
    let huge = vec![choice(u64::MAX, 0.0)];
    assert_eq!(solve(&[huge.clone(), huge], 5), KnapsackError::Overflow { quantity: "costs" });
    let bad = vec![choice(0, f64::MAX)];
    assert_eq!(solve(&[bad.clone(), bad], 5), KnapsackError::Overflow { quantity: "errors" });
}

#[test]
fn costs_near_the_end_of_u64_are_exact() {
    let base = u64::MAX - 10;
    let groups =
        [vec![choice(base, 1.0), choice(base + 3, 0.5), choice(base + 10, 0.0)], vec![choice(0, 1.0)]];
    let solution = Knapsack::default().solve(&groups, base + 9).unwrap();
    assert_eq!((solution.picks, solution.cost), (vec![1, 0], base + 3));
}
