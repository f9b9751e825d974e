//! The acceptance experiments of error-constrained clustering.

use std::time::Instant;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use sparseland_core::{Context, Experiment};
use sparseland_linalg::{Mat, matmul};
use sparseland_matrix::{Dense, LinearMap, ValueType};
use sparseland_nn::{Decoder, LinearSite};

use super::{
    Bound, Clusters, Order, Scan, Settings, cluster_blocks, exact_error, joint_error_bound, k_means, random,
};
use crate::CompressError;
use crate::experiments::{Folders, LanguageModel, Opened, Record, Row, family, mean};
use crate::problem::inputs_first;

/// What `experiments/concat-svd.toml` holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The method.
    pub slug: String,
    /// The paper's claim in one sentence.
    pub paper_claim: String,
    /// Seeds of the planted blocks and of the groupings compared with.
    pub seeds: Vec<u64>,
    /// Random groups of the sandwich.
    pub groups: usize,
    /// Random block sets that are clustered to look for broken promises.
    pub promises: usize,
    /// Rank on images.
    pub image_rank: usize,
    /// Errors allowed on images.
    pub image_errors: Vec<f64>,
    /// Blocks of the timing.
    pub timed_blocks: usize,
    /// Share of the smallest side that is the rank on network weights.
    pub weight_rank: f64,
    /// Error allowed on network weights.
    pub weight_error: f64,
    /// Language models.
    pub model: Vec<LanguageModel>,
}

/// A set of images: its name and one block each.
pub type Images = (String, Vec<Mat<f64>>);

const BOUNDS: [(&str, Bound); 3] = [
    ("Weyl", Bound::Weyl),
    ("residual", Bound::Residual),
    ("incremental", Bound::Incremental { oversample: 5 }),
];

/// Squared errors that differ by less are equal.
const ROUNDING: f64 = 1e-11;

/// All experiments for which there are data; `report` receives each as soon as it is done.
///
/// # Errors
/// Whatever a run returns.
pub fn run(
    config: &Config,
    images: &[Images],
    folders: &Folders,
    context: &Context,
    report: &mut (dyn FnMut(&Experiment) + Send),
) -> Result<Vec<Experiment>, CompressError> {
    let mut record = Record::new(report);
    context.install(|| -> Result<(), CompressError> {
        sandwich(config, &mut record)?;
        promises(config, &mut record)?;
        planted(config, &mut record)?;
        timing(config, &mut record)?;
        images.iter().try_for_each(|set| guarantee(config, set, &mut record))
    })?;
    for model in &config.model {
        if let Some(opened) = model.open(folders, context)? {
            weights(config, &model.name, &opened, context, &mut record)?;
        }
    }
    Ok(record.rows)
}

/// The three bounds above the true error, groups of a shared subspace.
fn sandwich(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let mut sums = [0.0; 4];
    let mut broken = 0;
    for group in 0..config.groups {
        let mut rng = Pcg64::seed_from_u64(group as u64);
        let count = rng.random_range(2..10);
        let blocks = family(&mut rng, (48, 6), 8, count, [0.0, 0.05, 0.3][group % 3])?;
        let truth = exact_error(&blocks, 8)?;
        let mut bounds = [0.0; 3];
        for (value, (_, bound)) in bounds.iter_mut().zip(BOUNDS) {
            *value = joint_error_bound(&blocks, 8, bound)?;
        }
        let [weyl, residual, tracked] = bounds.map(|b| b * b);
        let ordered = truth * truth <= tracked + ROUNDING
            && truth * truth <= residual + ROUNDING
            && residual <= weyl + ROUNDING;
        broken += usize::from(!ordered);
        sums[0] += truth;
        sums.iter_mut().skip(1).zip(bounds).for_each(|(s, b)| *s += b);
    }
    let [truth, weyl, residual, tracked] = sums.map(|s| s / config.groups as f64);
    record.add(Row {
        name: format!("mean bound: residual {residual:.4}, Weyl {weyl:.4}, incremental"),
        data: &format!("{} groups of a subspace of dimension 8 in 48, noise 0, 0.05, 0.3", config.groups),
        metric: "relative error, lower is better; baseline: the true error",
        claimed: "true <= incremental, residual <= Weyl always; incremental within 5 % on average".into(),
        measured: &[tracked],
        baseline: truth,
        passed: broken == 0 && tracked <= 1.05 * truth,
        seeds: &[],
    });
    Ok(())
}

/// Clusters of random block sets whose exact error exceeds what was promised.
fn promises(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let (mut broken, mut groups) = (0u32, 0u32);
    for set in 0..config.promises {
        let mut rng = Pcg64::seed_from_u64(1000 + set as u64);
        let mut blocks = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let (cols, count) = (rng.random_range(1..7), rng.random_range(1..7));
            let noise = rng.random_range(0.0..0.3);
            blocks.extend(family(&mut rng, (16, cols), 3, count, noise)?);
        }
        blocks.shuffle(&mut rng);
        let (rank, epsilon) = (rng.random_range(1..9), rng.random_range(0.0..0.6));
        for (_, bound) in BOUNDS {
            let order = if rng.random() { Order::Norm } else { Order::Residual };
            let scan = if rng.random() { Scan::All } else { Scan::FirstFail };
            let settings = Settings { bound, order, scan, ..Settings::new(rank, epsilon) };
            for group in cluster_blocks(&blocks, &settings)?.groups.iter().filter(|g| g.members.len() > 1) {
                let own: Vec<Mat<f64>> = group.members.iter().map(|&i| blocks[i].clone()).collect();
                let exact = exact_error(&own, rank)?.powi(2);
                groups += 1;
                broken += u32::from(exact > epsilon * epsilon + ROUNDING);
                broken += u32::from(exact > group.predicted_error.powi(2) + ROUNDING);
            }
        }
    }
    record.add(Row {
        name: "certified groups whose exact error exceeds the bound".into(),
        data: &format!("{} random block sets, {groups} groups, all bounds", config.promises),
        metric: "groups",
        claimed: "0".into(),
        measured: &[f64::from(broken)],
        baseline: f64::from(groups),
        passed: broken == 0 && groups > 0,
        seeds: &[],
    });
    Ok(())
}

/// Six planted subspaces.
fn planted(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let (mut purities, mut counts) = (Vec::new(), Vec::new());
    for &seed in &config.seeds {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut blocks = Vec::new();
        for label in 0..6 {
            blocks.extend(family(&mut rng, (64, 6), 6, 30, 0.01)?.into_iter().map(|b| (label, b)));
        }
        blocks.shuffle(&mut rng);
        let (labels, blocks): (Vec<usize>, Vec<Mat<f64>>) = blocks.into_iter().unzip();
        let found = cluster_blocks(&blocks, &Settings::new(6, 0.1))?;
        let common = |members: &[usize]| {
            (0..6).map(|l| members.iter().filter(|&&i| labels[i] == l).count()).max().unwrap_or(0)
        };
        let pure: usize = found.groups.iter().map(|g| common(&g.members)).sum();
        purities.push(pure as f64 / blocks.len() as f64);
        counts.push(found.groups.len() as f64);
    }
    record.add(Row {
        name: "purity of clusters of planted subspaces".into(),
        data: "6 subspaces of dimension 6 in 64, 30 blocks each, noise 1 %",
        metric: "share of blocks in the majority of their cluster; baseline: clusters",
        claimed: "at least 0.95".into(),
        measured: &purities,
        baseline: mean(&counts),
        passed: purities.iter().all(|&p| p >= 0.95),
        seeds: &config.seeds,
    });
    Ok(())
}

/// Many blocks.
fn timing(config: &Config, record: &mut Record<'_>) -> Result<(), CompressError> {
    let mut rng = Pcg64::seed_from_u64(0);
    let mut blocks = Vec::new();
    for _ in 0..20 {
        blocks.extend(family(&mut rng, (64, 20), 20, config.timed_blocks / 20, 0.01)?);
    }
    blocks.shuffle(&mut rng);
    let began = Instant::now();
    let found = cluster_blocks(&blocks, &Settings::new(20, 0.05))?;
    let seconds = began.elapsed().as_secs_f64();
    record.add(Row {
        name: format!("seconds, incremental, {} groups", found.groups.len()),
        data: &format!("{} blocks 64 x 20 of 20 subspaces, rank 20, error 0.05", blocks.len()),
        metric: "seconds with exact verification and bases; baseline: compression",
        claimed: "below 5".into(),
        measured: &[seconds],
        baseline: found.compression(),
        passed: seconds < 5.0,
        seeds: &[0],
    });
    Ok(())
}

/// The worst exact error of the groups of two and more.
fn worst(blocks: &[Mat<f64>], groups: &[Vec<usize>], rank: usize) -> Result<f64, CompressError> {
    let mut worst = 0.0f64;
    for group in groups.iter().filter(|g| g.len() > 1) {
        let own: Vec<Mat<f64>> = group.iter().map(|&i| blocks[i].clone()).collect();
        worst = worst.max(exact_error(&own, rank)?);
    }
    Ok(worst)
}

/// Images: the promise, the order of the bounds, and what groupings without a bound do.
fn guarantee(config: &Config, (name, blocks): &Images, record: &mut Record<'_>) -> Result<(), CompressError> {
    let rank = config.image_rank;
    for &epsilon in &config.image_errors {
        let clusters =
            |bound: Bound| cluster_blocks(blocks, &Settings { bound, ..Settings::new(rank, epsilon) });
        let members = |c: &Clusters| c.groups.iter().map(|g| g.members.clone()).collect::<Vec<_>>();
        let mut ratios = Vec::new();
        for (label, bound) in BOUNDS {
            let found = clusters(bound)?;
            let exact = worst(blocks, &members(&found), rank)?;
            let below = ratios.last().copied().unwrap_or(1.0);
            ratios.push(found.compression());
            record.add(Row {
                name: format!(
                    "{label}, error {epsilon}: {} groups, worst exact error {exact:.4}",
                    found.groups.len()
                ),
                data: name,
                metric: "compression, higher is better; baseline: the bound before it",
                claimed: "no error above the bound, compression at least 0.95 of the baseline".into(),
                measured: &[found.compression()],
                baseline: below,
                passed: exact * exact <= epsilon * epsilon + ROUNDING && found.compression() >= 0.95 * below,
                seeds: &[],
            });
        }
        let groups = clusters(BOUNDS[2].1)?.groups.len();
        let (mut means, mut dealt) = (Vec::new(), Vec::new());
        for &seed in &config.seeds {
            let mut rng = Pcg64::seed_from_u64(seed);
            means.push(worst(blocks, &k_means(blocks, groups, 50, &mut rng)?, rank)?);
            dealt.push(worst(blocks, &random(blocks.len(), groups, &mut rng), rank)?);
        }
        for (label, errors) in [("k-means", &means), ("random", &dealt)] {
            record.add(Row {
                name: format!("{label} into as many groups, error {epsilon}"),
                data: name,
                metric: "worst exact error of a group; baseline: the bound that ours keep",
                claimed: "above the bound".into(),
                measured: errors,
                baseline: epsilon,
                passed: errors.iter().all(|&e| e > epsilon),
                seeds: &config.seeds,
            });
        }
    }
    Ok(())
}

/// Attention weights of a trained model: groups, bytes, and what the network loses.
fn weights(
    config: &Config,
    name: &str,
    opened: &Opened,
    context: &Context,
    record: &mut Record<'_>,
) -> Result<(), CompressError> {
    const SITES: [LinearSite; 4] = [LinearSite::Q, LinearSite::K, LinearSite::V, LinearSite::O];
    let mut decoder = Decoder::load(&opened.checkpoint, context)?;
    let dense = opened.bits(&decoder, context)?;
    let of = |d: &Decoder| -> Vec<Mat<f64>> {
        d.blocks().iter().flat_map(|b| SITES.map(|site| inputs_first(&b.linear(site).weight))).collect()
    };
    let blocks = of(&decoder);
    let Some(first) = blocks.iter().find(|b| b.rows != blocks[0].rows).or(blocks.first()) else {
        return Ok(());
    };
    if first.rows != blocks[0].rows {
        // Heads wider than the network: outputs of attention have other inputs.
        return Ok(());
    }
    let rank = (config.weight_rank * first.rows as f64) as usize;
    let settings =
        Settings { scan: Scan::All, patience: blocks.len(), ..Settings::new(rank, config.weight_error) };
    let found = context.install(|| cluster_blocks(&blocks, &settings))?;
    let exact = found.groups.iter().map(|g| g.exact_error).fold(0.0, f64::max);
    for group in found.groups.iter().filter(|g| g.members.len() > 1) {
        for (&i, coefficients) in group.members.iter().zip(&group.coefficients) {
            let weight = matmul(&group.basis, coefficients)?.transposed();
            let values: Vec<f32> = weight.data.iter().map(|&v| v as f32).collect();
            let linear = decoder.blocks_mut()[i / SITES.len()].linear_mut(SITES[i % SITES.len()]);
            debug_assert_eq!((linear.weight.rows(), linear.weight.cols()), weight.shape());
            linear.weight = Dense::from_f32(weight.rows, weight.cols, &values, ValueType::F32).into();
        }
    }
    let bits = opened.bits(&decoder, context)?;
    let largest = found.groups.iter().map(|g| g.members.len()).max().unwrap_or(0);
    record.add(Row {
        name: format!(
            "attention weights at rank {rank}, error {}: {} groups of {} blocks (largest {largest}), worst error \
             {exact:.4}, {} of {} bytes as bf16",
            config.weight_error,
            found.groups.len(),
            blocks.len(),
            2 * found.parameters,
            2 * found.dense_parameters
        ),
        data: name,
        metric: "bits per byte, lower is better; baseline: dense",
        claimed: "no group above the error".into(),
        measured: &[bits],
        baseline: dense,
        passed: exact * exact <= config.weight_error.powi(2) + ROUNDING,
        seeds: &[],
    });
    Ok(())
}
