//! Bounds of joint errors against decompositions of the whole, and what clusters promise.

use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::concat_svd::{
    Bound, Order, Scan, Settings, cluster_blocks, exact_error, joint_error_bound, k_means, random,
};
use sparseland_linalg::{Mat, matmul, qr};

const BOUNDS: [Bound; 3] = [Bound::Weyl, Bound::Residual, Bound::Incremental { oversample: 5 }];

fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

/// Blocks of a shared subspace plus noise.
fn family(rng: &mut Pcg64, rows: usize, dim: usize, count: usize, cols: usize, noise: f64) -> Vec<Mat<f64>> {
    let basis = qr(&gaussian(rng, rows, dim)).unwrap().q;
    (0..count)
        .map(|_| {
            let scale = 0.2 + rng.random::<f64>();
            let mut block = matmul(&basis, &gaussian(rng, dim, cols)).unwrap();
            let other = gaussian(rng, rows, cols);
            block.data.iter_mut().zip(&other.data).for_each(|(b, o)| *b = scale * (*b + noise * o));
            block
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bounds_are_ordered_above_the_true_error(
        rows in 4usize..30, dim in 1usize..6, count in 1usize..8, cols in 1usize..8, rank in 1usize..9,
        noise in 0usize..4, scale in -8i32..8, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let noise = [0.0, 1e-6, 0.05, 0.5][noise];
        let mut blocks = family(&mut rng, rows, dim.min(rows), count, cols, noise);
        // One block of another size altogether.
        blocks[count / 2].data.iter_mut().for_each(|v| *v *= 10f64.powi(scale));
        let truth = exact_error(&blocks, rank).unwrap().powi(2);
        let [weyl, residual, tracked] =
            BOUNDS.map(|bound| joint_error_bound(&blocks, rank, bound).unwrap().powi(2));
        prop_assert!(truth <= tracked + 1e-12, "{truth} {tracked}");
        prop_assert!(truth <= residual + 1e-12 && residual <= weyl + 1e-12, "{truth} {residual} {weyl}");
        // Wide enough to hold everything: exact.
        let wide = joint_error_bound(&blocks, rank, Bound::Incremental { oversample: rows }).unwrap().powi(2);
        prop_assert!((wide - truth).abs() < 1e-10, "{wide} {truth}");
    }

    #[test]
    fn clusters_partition_the_blocks_and_keep_their_promise(
        families in 1usize..4, per in 1usize..6, cols in 1usize..6, rank in 1usize..8, bound in 0usize..3,
        residual: bool, all: bool, epsilon in 0.0f64..0.6, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut blocks: Vec<Mat<f64>> =
            (0..families).flat_map(|_| family(&mut rng, 16, 3, per, cols, 0.05)).collect();
        blocks.shuffle(&mut rng);
        let settings = Settings {
            bound: BOUNDS[bound],
            order: if residual { Order::Residual } else { Order::Norm },
            scan: if all { Scan::All } else { Scan::FirstFail },
            ..Settings::new(rank, epsilon)
        };
        let found = cluster_blocks(&blocks, &settings).unwrap();
        let mut members: Vec<usize> = found.groups.iter().flat_map(|g| g.members.clone()).collect();
        members.sort_unstable();
        prop_assert_eq!(members, (0..blocks.len()).collect::<Vec<_>>());
        for group in &found.groups {
            let own: Vec<Mat<f64>> = group.members.iter().map(|&i| blocks[i].clone()).collect();
            if own.len() == 1 {
                continue;
            }
            let truth = exact_error(&own, rank).unwrap();
            prop_assert!((truth - group.exact_error).abs() < 1e-6);
            prop_assert!(truth.powi(2) <= group.predicted_error.powi(2) + 1e-11);
            prop_assert!(truth.powi(2) <= epsilon * epsilon + 1e-11, "{truth} {epsilon}");
            // Basis and coefficients give the blocks back with that error.
            let (mut lost, mut energy) = (0.0, 0.0);
            for (block, coefficients) in own.iter().zip(&group.coefficients) {
                lost += matmul(&group.basis, coefficients).unwrap().distance(block).unwrap().powi(2);
                energy += block.frobenius_norm().powi(2);
            }
            prop_assert!((lost / energy - truth.powi(2)).abs() < 1e-9);
        }
        // Another order of the same blocks gives the same groups.
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.shuffle(&mut rng);
        let shuffled: Vec<Mat<f64>> = order.iter().map(|&i| blocks[i].clone()).collect();
        let again = cluster_blocks(&shuffled, &settings).unwrap();
        let sets = |groups: Vec<Vec<usize>>| {
            let mut groups = groups;
            groups.iter_mut().for_each(|g| g.sort_unstable());
            groups.sort();
            groups
        };
        let mapped = again.groups.iter().map(|g| g.members.iter().map(|&i| order[i]).collect()).collect();
        prop_assert_eq!(sets(mapped), sets(found.groups.into_iter().map(|g| g.members).collect()));
    }
}

#[test]
fn the_tracked_bound_is_within_a_twentieth_of_the_true_error() {
    let (mut truth, mut tracked, mut residual, mut weyl) = (0.0, 0.0, 0.0, 0.0);
    for seed in 0..200 {
        let mut rng = Pcg64::seed_from_u64(seed);
        let noise = [0.0, 0.05, 0.3][seed as usize % 3];
        let count = rng.random_range(2..10);
        let blocks = family(&mut rng, 48, 8, count, 6, noise);
        truth += exact_error(&blocks, 8).unwrap();
        let [w, r, t] = BOUNDS.map(|bound| joint_error_bound(&blocks, 8, bound).unwrap());
        (weyl, residual, tracked) = (weyl + w, residual + r, tracked + t);
    }
    assert!(tracked <= 1.05 * truth, "{tracked} {truth}");
    assert!(tracked < residual && residual <= weyl);
}

#[test]
fn planted_subspaces_are_told_apart() {
    let mut rng = Pcg64::seed_from_u64(2);
    let mut blocks: Vec<(usize, Mat<f64>)> = Vec::new();
    for label in 0..6 {
        blocks.extend(family(&mut rng, 64, 6, 30, 6, 0.01).into_iter().map(|b| (label, b)));
    }
    blocks.shuffle(&mut rng);
    let (labels, blocks): (Vec<usize>, Vec<Mat<f64>>) = blocks.into_iter().unzip();
    let found = cluster_blocks(&blocks, &Settings::new(6, 0.1)).unwrap();
    let common = |members: &[usize]| {
        (0..6).map(|l| members.iter().filter(|&&i| labels[i] == l).count()).max().unwrap_or(0)
    };
    let pure: usize = found.groups.iter().map(|g| common(&g.members)).sum();
    assert!(pure as f64 >= 0.95 * blocks.len() as f64, "{pure} of {}", blocks.len());
    assert!(found.groups.len() <= 12, "{} groups", found.groups.len());
}

#[test]
fn limits_of_the_error_and_degenerate_blocks() {
    let mut rng = Pcg64::seed_from_u64(3);
    let mut blocks = family(&mut rng, 10, 10, 5, 4, 0.0);
    for bound in BOUNDS {
        // Everything goes together when any error is allowed; nothing does at none, but copies.
        let one = cluster_blocks(&blocks, &Settings { bound, ..Settings::new(4, 1.0) }).unwrap();
        assert_eq!(one.groups.len(), 1);
        let none = cluster_blocks(&blocks, &Settings { bound, ..Settings::new(4, 0.0) }).unwrap();
        assert_eq!(none.groups.len(), 5);
    }
    blocks.push(blocks[2].clone());
    blocks.push(Mat::zeros(10, 3));
    let found = cluster_blocks(&blocks, &Settings::new(4, 0.0)).unwrap();
    let labels = found.labels(blocks.len());
    assert_eq!(labels[2], labels[5], "a copy costs nothing");
    assert_eq!(found.groups[labels[6]].members, [6], "zeros stay alone");
    assert_eq!(found.groups[labels[6]].exact_error, 0.0);
    // A rank beyond the rows keeps everything exactly.
    let all = cluster_blocks(&blocks, &Settings::new(99, 1e-3)).unwrap();
    assert!(all.groups.iter().all(|g| g.exact_error < 1e-9 && g.basis.cols <= 10));
}

#[test]
fn bad_blocks_are_named() {
    let mut rng = Pcg64::seed_from_u64(4);
    let blocks = family(&mut rng, 6, 2, 3, 2, 0.1);
    let message =
        |blocks: &[Mat<f64>], settings: &Settings| cluster_blocks(blocks, settings).unwrap_err().to_string();
    let settings = Settings::new(2, 0.1);
    assert!(message(&[], &settings).contains("no blocks"));
    let mut other = blocks.clone();
    other.push(Mat::zeros(7, 2));
    assert!(message(&other, &settings).contains("block 3 has 7 rows"));
    other[3] = Mat::from_fn(6, 2, |i, j| if (i, j) == (4, 1) { f64::NAN } else { 1.0 });
    assert!(message(&other, &settings).contains("block 3 is not finite at row 4, column 1"));
    assert!(message(&blocks, &Settings::new(0, 0.1)).contains("rank 0"));
    assert!(message(&blocks, &Settings::new(2, -0.1)).contains("error -0.1"));
}

#[test]
fn plain_groupings_are_partitions_and_k_means_finds_far_groups() {
    let mut rng = Pcg64::seed_from_u64(5);
    let blocks: Vec<Mat<f64>> = (0..40)
        .map(|i| {
            let noise = gaussian(&mut rng, 3, 2);
            Mat::from_fn(3, 2, |r, c| f64::from(i % 2) * 100.0 + noise.at(r, c))
        })
        .collect();
    let groups = k_means(&blocks, 2, 50, &mut rng).unwrap();
    assert!(groups.len() == 2 && groups.iter().all(|g| g.iter().all(|i| i % 2 == g[0] % 2)));
    let mut dealt = random(40, 7, &mut rng).concat();
    dealt.sort_unstable();
    assert_eq!(dealt, (0..40).collect::<Vec<_>>());
    assert!(k_means(&[blocks[0].clone(), Mat::zeros(2, 2)], 2, 5, &mut rng).is_err());
}
