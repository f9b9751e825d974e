//! Random problems of the paper's experiments.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use sparseland_core::Context;

use super::BcdError;
use super::problem::Quadratic;
use super::sparse::Sparse;

fn normal(rng: &mut impl Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// The paper's sparse design: entries `N(0, 1) + 1`, columns scaled by `10 N(0, 1)`, kept with probability `10 ln(n) / n`
/// (at most 1); and `b = A w + N(0, 1)` with a tenth of `w` normal.
///
/// # Errors
/// [`BcdError::Shape`] for sizes of zero.
pub fn least_squares_data(n: usize, d: usize, rng: &mut impl Rng) -> Result<(Sparse, Vec<f64>), BcdError> {
    let keep = (10.0 * (n.max(2) as f64).ln() / n as f64).min(1.0);
    let mut triplets = Vec::new();
    for j in 0..d {
        let scale = 10.0 * normal(rng);
        for i in 0..n {
            if rng.random::<f64>() < keep {
                triplets.push((i, j, scale * (1.0 + normal(rng))));
            }
        }
    }
    let a = Sparse::from_triplets(n, d, &triplets)?;
    let w: Vec<f64> = (0..d).map(|_| if rng.random::<f64>() < 0.1 { normal(rng) } else { 0.0 }).collect();
    let mut b = a.times(&w);
    b.iter_mut().for_each(|v| *v += normal(rng));
    Ok((a, b))
}

/// The same design with labels: the largest of `classes` noisy scores.
///
/// # Errors
/// As [`least_squares_data`].
pub fn multinomial_data(
    n: usize,
    d: usize,
    classes: usize,
    rng: &mut impl Rng,
) -> Result<(Sparse, Vec<usize>), BcdError> {
    let (a, _) = least_squares_data(n, d, rng)?;
    let mut best = vec![(f64::NEG_INFINITY, 0); n];
    for k in 0..classes {
        let w: Vec<f64> = (0..d).map(|_| normal(rng)).collect();
        for (best, z) in best.iter_mut().zip(a.times(&w)) {
            let z = z + normal(rng);
            if z > best.0 {
                *best = (z, k);
            }
        }
    }
    Ok((a, best.into_iter().map(|b| b.1).collect()))
}

/// The edges of a `rows x columns` lattice, node `r * columns + c`.
pub fn lattice(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let mut edges = Vec::new();
    for r in 0..rows {
        for c in 0..columns {
            let node = r * columns + c;
            if c + 1 < columns {
                edges.push((node, node + 1));
            }
            if r + 1 < rows {
                edges.push((node, node + columns));
            }
        }
    }
    edges
}

/// Two half-moons of `n` points with noise 0.1, and the symmetrised graph of their `k` nearest neighbours.
pub fn knn_graph(n: usize, k: usize, rng: &mut impl Rng) -> Vec<(usize, usize)> {
    let points: Vec<(f64, f64)> = (0..n)
        .map(|i| {
            let angle = std::f64::consts::PI * rng.random::<f64>();
            let (x, y) =
                if i % 2 == 0 { (angle.cos(), angle.sin()) } else { (1.0 - angle.cos(), 0.5 - angle.sin()) };
            (x + 0.1 * normal(rng), y + 0.1 * normal(rng))
        })
        .collect();
    let mut edges = Vec::new();
    for (i, p) in points.iter().enumerate() {
        let mut near: Vec<(f64, usize)> = points
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .map(|(j, q)| ((p.0 - q.0).powi(2) + (p.1 - q.1).powi(2), j))
            .collect();
        let k = k.min(near.len());
        if k > 0 {
            near.select_nth_unstable_by(k - 1, |a, b| a.0.total_cmp(&b.0));
        }
        edges.extend(near[..k].iter().map(|&(_, j)| (i.min(j), i.max(j))));
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// Label propagation: `min sum over edges of weight (x_i - x_j)^2 / 2` with `labelled` random nodes fixed at `10 N(0, 1)`;
/// the fixed nodes are eliminated. A ridge of 1e-6 of the weight keeps parts that no label reaches determined.
///
/// # Errors
/// [`BcdError::Shape`] when no node is left.
pub fn label_propagation(
    nodes: usize,
    edges: &[(usize, usize)],
    weight: f64,
    labelled: usize,
    context: &Context,
) -> Result<Quadratic, BcdError> {
    let mut rng = context.rng(0x1abe);
    let mut label = vec![None; nodes];
    for i in rand::seq::index::sample(&mut rng, nodes, labelled.min(nodes)) {
        label[i] = Some(10.0 * normal(&mut rng));
    }
    let mut place = vec![usize::MAX; nodes];
    let mut count = 0;
    for i in 0..nodes {
        if label[i].is_none() {
            place[i] = count;
            count += 1;
        }
    }
    let mut b = vec![0.0; count];
    let mut triplets: Vec<(usize, usize, f64)> = (0..count).map(|i| (i, i, 1e-6 * weight)).collect();
    for &(i, j) in edges {
        for (i, j) in [(i, j), (j, i)] {
            if label[i].is_none() {
                triplets.push((place[i], place[i], weight));
                match label[j] {
                    Some(value) => b[place[i]] += weight * value,
                    None => triplets.push((place[i], place[j], -weight)),
                }
            }
        }
    }
    Quadratic::new(Sparse::from_triplets(count, count, &triplets)?, b)
}
