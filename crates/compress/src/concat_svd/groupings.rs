//! Groupings that know nothing of errors, to compare with.

use rand::Rng;
use rand::seq::index;
use rayon::prelude::*;
use sparseland_linalg::Mat;

use crate::CompressError;
use crate::dictionary::{add_scaled, dot};

/// Blocks dealt to `groups` groups at random, sizes within one of each other.
pub fn random(blocks: usize, groups: usize, rng: &mut impl Rng) -> Vec<Vec<usize>> {
    let mut out = vec![Vec::new(); groups.clamp(1, blocks.max(1))];
    let count = out.len();
    for (place, i) in index::sample(rng, blocks, blocks).into_iter().enumerate() {
        out[place % count].push(i);
    }
    out
}

/// Blocks of one size grouped by k-means on their entries (Lloyd's iterations from random blocks; empty groups are left
/// out).
///
/// # Errors
/// If the blocks differ in size.
pub fn k_means(
    blocks: &[Mat<f64>],
    groups: usize,
    iterations: usize,
    rng: &mut impl Rng,
) -> Result<Vec<Vec<usize>>, CompressError> {
    if let Some(i) = blocks.iter().position(|b| b.shape() != blocks[0].shape()) {
        return Err(CompressError::Setting(format!(
            "block {i} is {} x {}, the first {} x {}; k-means needs one size",
            blocks[i].rows, blocks[i].cols, blocks[0].rows, blocks[0].cols
        )));
    }
    let groups = groups.clamp(1, blocks.len().max(1));
    let mut centres: Vec<Vec<f64>> = index::sample(rng, blocks.len(), groups.min(blocks.len()))
        .iter()
        .map(|i| blocks[i].data.clone())
        .collect();
    let mut labels = vec![usize::MAX; blocks.len()];
    for _ in 0..iterations {
        let norms: Vec<f64> = centres.iter().map(|c| dot(c, c)).collect();
        let nearest = |block: &Mat<f64>| {
            let distance = |&c: &usize| norms[c] - 2.0 * dot(&centres[c], &block.data);
            (0..centres.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
        };
        let found: Vec<usize> = blocks.par_iter().map(nearest).collect();
        if found == labels {
            break;
        }
        labels = found;
        let mut counts = vec![0usize; centres.len()];
        let mut sums: Vec<Vec<f64>> = centres.iter().map(|c| vec![0.0; c.len()]).collect();
        for (block, &label) in blocks.iter().zip(&labels) {
            add_scaled(1.0, &block.data, &mut sums[label]);
            counts[label] += 1;
        }
        for ((centre, sum), &count) in centres.iter_mut().zip(sums).zip(&counts) {
            if count > 0 {
                *centre = sum.into_iter().map(|v| v / count as f64).collect();
            }
        }
    }
    let mut out = vec![Vec::new(); centres.len()];
    labels.iter().enumerate().for_each(|(i, &label)| out[label].push(i));
    out.retain(|group| !group.is_empty());
    Ok(out)
}
