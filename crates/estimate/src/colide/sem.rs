//! Random linear structural equation models and their samples.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Exp1, Gumbel, StandardNormal};
use sparseland_linalg::Mat;

use super::ColideError;
use super::dag::topological_order;
use super::error::ensure;

/// How the edges are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphKind {
    /// Every pair is joined with the same probability, directed along a random order.
    ErdosRenyi,
    /// Preferential attachment (Barabasi-Albert): each node joins `edges / nodes` earlier ones, and edges point from
    /// later nodes to earlier ones, as in the paper's code.
    ScaleFree,
}

/// The distribution of the noise; all are scaled to the wanted variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// Gaussian, mean 0.
    Gaussian,
    /// Exponential, mean equal to its standard deviation.
    Exponential,
    /// Laplace, mean 0.
    Laplace,
    /// Gumbel, location 0.
    Gumbel,
    /// Uniform, mean 0.
    Uniform,
}

/// Variances of the noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variances {
    /// The same for every node.
    Equal(f64),
    /// Drawn uniformly from an interval for every node; the paper's is 0.5 to 10.
    Uniform(f64, f64),
}

/// A recipe for a random model `x = W^T x + z`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sem {
    /// Number of nodes `d`.
    pub nodes: usize,
    /// Expected number of edges.
    pub edges: usize,
    /// How the edges are drawn.
    pub graph: GraphKind,
    /// Weights are uniform in `[low, high]`, with a random sign. The paper: 0.5 to 2 for equal variances, 0.25 to 1
    /// else.
    pub weights: (f64, f64),
    /// The distribution of `z`.
    pub noise: Noise,
    /// The variances of `z`.
    pub variances: Variances,
    /// Number of rows to draw.
    pub samples: usize,
}

/// A drawn model and its samples.
#[derive(Debug, Clone)]
pub struct SemSample {
    /// `n x d`, not centred.
    pub x: Mat<f64>,
    /// `d x d`; `w[i, j]` is the weight of `i -> j`.
    pub w: Mat<f64>,
    /// Standard deviations of the noise, one per node.
    pub sigma: Vec<f64>,
}

impl Sem {
    /// The paper's equal-variance setting: weights 0.5 to 2, Gaussian noise of variance 1.
    pub fn equal_variance(nodes: usize, edges: usize, samples: usize) -> Self {
        Sem {
            nodes,
            edges,
            graph: GraphKind::ErdosRenyi,
            weights: (0.5, 2.0),
            noise: Noise::Gaussian,
            variances: Variances::Equal(1.0),
            samples,
        }
    }

    /// The paper's heteroscedastic setting: weights 0.25 to 1, Gaussian noise of variances 0.5 to 10.
    pub fn unequal_variance(nodes: usize, edges: usize, samples: usize) -> Self {
        Sem {
            weights: (0.25, 1.0),
            variances: Variances::Uniform(0.5, 10.0),
            ..Self::equal_variance(nodes, edges, samples)
        }
    }

    /// Draws a graph, weights, variances and samples.
    ///
    /// # Errors
    /// [`ColideError::Parameter`] for an impossible number of edges, an empty weight range or a negative variance.
    pub fn sample(&self, rng: &mut impl Rng) -> Result<SemSample, ColideError> {
        let d = self.nodes;
        ensure(d > 0, "nodes", "at least 1", d)?;
        let pairs = d * (d - 1) / 2;
        ensure(self.edges <= pairs, "edges", "at most d (d - 1) / 2", self.edges)?;
        let (low, high) = self.weights;
        ensure(
            low > 0.0 && low <= high && high.is_finite(),
            "weights",
            "0 < low <= high",
            format!("{low}..{high}"),
        )?;
        let (from, to) = match self.variances {
            Variances::Equal(v) => (v, v),
            Variances::Uniform(a, b) => (a, b),
        };
        ensure(
            from >= 0.0 && from <= to && to.is_finite(),
            "variances",
            "0 <= low <= high",
            format!("{from}..{to}"),
        )?;
        let mut w = match self.graph {
            GraphKind::ErdosRenyi => erdos_renyi(d, self.edges as f64 / pairs.max(1) as f64, rng),
            GraphKind::ScaleFree => {
                let each = (self.edges as f64 / d as f64).round() as usize;
                ensure(
                    each >= 1 && each < d,
                    "edges",
                    "at least d and below d^2 for scale-free",
                    self.edges,
                )?;
                scale_free(d, each, rng)
            }
        };
        for v in w.data.iter_mut().filter(|v| **v != 0.0) {
            let size = low + (high - low) * rng.random::<f64>();
            *v = if rng.random::<bool>() { size } else { -size };
        }
        let sigma: Vec<f64> = (0..d).map(|_| (from + (to - from) * rng.random::<f64>()).sqrt()).collect();
        let x = simulate(&w, &sigma, self.noise, self.samples, rng)?;
        Ok(SemSample { x, w, sigma })
    }
}

fn erdos_renyi(d: usize, probability: f64, rng: &mut impl Rng) -> Mat<f64> {
    let mut place: Vec<usize> = (0..d).collect();
    place.shuffle(rng);
    let mut w = Mat::zeros(d, d);
    for i in 0..d {
        for j in i + 1..d {
            if rng.random::<f64>() < probability {
                w.data[place[i] * d + place[j]] = 1.0;
            }
        }
    }
    w
}

fn scale_free(d: usize, each: usize, rng: &mut impl Rng) -> Mat<f64> {
    let mut w = Mat::zeros(d, d);
    // Every end of an edge once: drawing from the list is drawing in proportion to the degree.
    let mut ends: Vec<usize> = Vec::new();
    let mut targets: Vec<usize> = (0..each).collect();
    for node in each..d {
        for &t in &targets {
            w.data[node * d + t] = 1.0;
            ends.extend([node, t]);
        }
        targets.clear();
        while targets.len() < each {
            let t = ends[rng.random_range(0..ends.len())];
            if !targets.contains(&t) {
                targets.push(t);
            }
        }
    }
    w
}

/// `samples` rows of `x = W^T x + z` with noise of the given standard deviations.
///
/// # Errors
/// [`ColideError::Cyclic`] when `w` has a cycle, [`ColideError::Shape`].
pub fn simulate(
    w: &Mat<f64>,
    sigma: &[f64],
    noise: Noise,
    samples: usize,
    rng: &mut impl Rng,
) -> Result<Mat<f64>, ColideError> {
    let d = w.rows;
    if w.cols != d || sigma.len() != d {
        return Err(ColideError::Shape {
            what: "the model",
            expected: "a square matrix and one scale per node".into(),
            got: format!("{} x {} and {} scales", w.rows, w.cols, sigma.len()),
        });
    }
    let order = topological_order(w).ok_or(ColideError::Cyclic { which: "given" })?;
    let gumbel = Gumbel::new(0.0, 6f64.sqrt() / std::f64::consts::PI).expect("a positive constant scale");
    let mut x = Mat::zeros(samples, d);
    for row in x.data.chunks_exact_mut(d) {
        for &j in &order {
            let unit: f64 = match noise {
                Noise::Gaussian => StandardNormal.sample(rng),
                Noise::Exponential => Exp1.sample(rng),
                Noise::Laplace => {
                    let size: f64 = Exp1.sample(rng);
                    let size = size * 0.5f64.sqrt();
                    if rng.random::<bool>() { size } else { -size }
                }
                Noise::Gumbel => gumbel.sample(rng),
                Noise::Uniform => 3f64.sqrt() * (2.0 * rng.random::<f64>() - 1.0),
            };
            let parents: f64 = (0..d).map(|i| w.data[i * d + j] * row[i]).sum();
            row[j] = parents + sigma[j] * unit;
        }
    }
    Ok(x)
}
