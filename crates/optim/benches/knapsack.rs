//! Time to solve instances of the size of a 7 B-parameter decoder: 224 layers with 15 options.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use sparseland_optim::knapsack::{Choice, Knapsack};

/// Error curves like those of a compressed layer: `weight * size * removed^power` with some noise.
fn layers(groups: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
    let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    (0..groups)
        .map(|_| {
            let size = [16_777_216_u64, 4_194_304, 45_088_768][random.random_range(0..3)];
            let (weight, power) = (random.random_range(0.2..2.0), random.random_range(1.2..3.0));
            (0..options)
                .map(|option| {
                    let removed = option as f64 * 0.05;
                    let noise = random.random_range(0.9..1.1);
                    Choice {
                        cost: (size as f64 * (1.0 - removed)) as u64 + random.random_range(0..4096),
                        error: weight * size as f64 * f64::powf(removed, power) * noise,
                    }
                })
                .collect()
        })
        .collect()
}

/// Independent costs and errors: the usual random instances of the literature.
fn uncorrelated(groups: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
    let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    let mut choice = || Choice { cost: random.random_range(1..100_000_000), error: random.random() };
    (0..groups).map(|_| (0..options).map(|_| choice()).collect()).collect()
}

/// Errors that fall exactly with cost: only the packing of integers matters.
fn subset_sum(groups: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
    let mut instance = uncorrelated(groups, options, seed);
    for choice in instance.iter_mut().flatten() {
        choice.error = (100_000_000 - choice.cost) as f64;
    }
    instance
}

/// Errors that fall with cost up to a little noise: many near ties, the hard case.
fn correlated(groups: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
    let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    let mut instance = uncorrelated(groups, options, seed);
    for choice in instance.iter_mut().flatten() {
        choice.error = (100_000_000 - choice.cost) as f64 + random.random_range(0.0..2_000_000.0);
    }
    instance
}

fn budget(groups: &[Vec<Choice>], share: f64) -> u64 {
    let extreme = |pick: fn(std::slice::Iter<'_, Choice>) -> Option<u64>| -> u64 {
        groups.iter().filter_map(|group| pick(group.iter())).sum()
    };
    let min = extreme(|options| options.map(|choice| choice.cost).min());
    let max = extreme(|options| options.map(|choice| choice.cost).max());
    min + ((max - min) as f64 * share) as u64
}

type Generator = fn(usize, usize, u64) -> Vec<Vec<Choice>>;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("knapsack");
    group.sample_size(10);
    let families: [(&str, f64, Generator); 4] = [
        ("layers", 0.57, layers),
        ("uncorrelated", 0.05, uncorrelated),
        ("subset-sum", 0.5, subset_sum),
        ("correlated", 0.5, correlated),
    ];
    for (name, share, generate) in families {
        for (count, options) in [(32, 15), (224, 15), (1000, 30)] {
            let groups = generate(count, options, 1);
            let budget = budget(&groups, share);
            let solver = Knapsack::default();
            let start = std::time::Instant::now();
            let solution = solver.solve(&groups, budget).expect("a feasible instance");
            println!(
                "{name} {count}x{options}: {:.1} ms once, gap {:.2e}, proven {}, {} states, slack {}",
                start.elapsed().as_secs_f64() * 1e3,
                solution.gap(),
                solution.proven_optimal,
                solution.states,
                budget - solution.cost
            );
            let id = BenchmarkId::new(name, format!("{count}x{options}"));
            group.bench_function(id, |bencher| bencher.iter(|| solver.solve(&groups, budget)));
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
