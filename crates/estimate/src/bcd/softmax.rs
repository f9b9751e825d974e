//! Multinomial logistic regression with a kept gradient.

use sparseland_linalg::Mat;

use super::BcdError;
use super::problem::{BlockProblem, REFRESH};
use super::sparse::Sparse;

/// Multinomial logistic regression, `sum_i log sum_k e^(z_ik) - z_i,label`, `Z = A X`, plus `(l2 / 2) ||X||^2`; variable
/// `f * classes + k` is the weight of feature `f` for class `k`.
#[derive(Debug, Clone)]
pub struct Softmax {
    a: Sparse,
    rows: Sparse,
    labels: Vec<usize>,
    classes: usize,
    l2: f64,
    lipschitz: Vec<f64>,
    x: Vec<f64>,
    z: Vec<f64>,
    p: Vec<f64>,
    gradient: Vec<f64>,
    track: bool,
    moves: usize,
}

impl Softmax {
    /// A model at `X = 0`.
    ///
    /// # Errors
    /// [`BcdError::Shape`] for labels that do not fit, [`BcdError::Parameter`].
    pub fn new(a: Sparse, labels: Vec<usize>, classes: usize, l2: f64) -> Result<Self, BcdError> {
        if labels.len() != a.rows() || a.cols() == 0 || labels.is_empty() {
            return Err(BcdError::Shape {
                what: "labels",
                expected: format!("{} entries, for a matrix with rows and columns", a.rows()),
                got: format!("{}", labels.len()),
            });
        }
        super::error::ensure(classes >= 2, "classes", "at least 2", classes)?;
        super::error::ensure(l2 >= 0.0 && l2.is_finite(), "l2", "at least 0", l2)?;
        if let Some(l) = labels.iter().find(|l| **l >= classes) {
            return Err(BcdError::Parameter {
                name: "labels",
                expected: "below the number of classes",
                got: l.to_string(),
            });
        }
        let (n, d) = (a.rows(), a.cols() * classes);
        let lipschitz = (0..d).map(|j| 0.25 * a.dot(j / classes, j / classes) + l2).collect();
        let mut model = Softmax {
            rows: a.transposed(),
            a,
            labels,
            classes,
            l2,
            lipschitz,
            x: vec![0.0; d],
            z: vec![0.0; n * classes],
            p: vec![0.0; n * classes],
            gradient: vec![0.0; d],
            track: false,
            moves: 0,
        };
        model.reset(&vec![0.0; d], false);
        Ok(model)
    }

    /// Probabilities of row `i`, the label's reduced by one: the slopes.
    fn slopes(&self, i: usize) -> Vec<f64> {
        let z = &self.z[i * self.classes..(i + 1) * self.classes];
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut p: Vec<f64> = z.iter().map(|v| (v - top).exp()).collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|v| *v /= sum);
        p[self.labels[i]] -= 1.0;
        p
    }

    fn refresh(&mut self) {
        let c = self.classes;
        for j in 0..self.x.len() {
            self.gradient[j] = self.l2 * self.x[j]
                + self.a.column(j / c).map(|(i, v)| v * self.p[i * c + j % c]).sum::<f64>();
        }
    }

    fn loss(&self, z: &[f64]) -> f64 {
        z.chunks_exact(self.classes)
            .zip(&self.labels)
            .map(|(z, &l)| {
                let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln() - z[l]
            })
            .sum()
    }
}

impl BlockProblem for Softmax {
    fn dimension(&self) -> usize {
        self.x.len()
    }
    fn lipschitz(&self) -> &[f64] {
        &self.lipschitz
    }
    fn row_sums(&self) -> Vec<f64> {
        // |H| of one feature pair sums over classes to 0.5 (1 - 1/c) + 0.5 (c - 1) / c = 1 - 1/c.
        let (d, c) = (self.a.cols(), self.classes as f64);
        let mut sums = vec![0.0; d];
        for j in 0..d {
            let mut row = vec![0.0; d];
            for (i, v) in self.a.column(j) {
                self.rows.column(i).for_each(|(k, u)| row[k] += v * u);
            }
            sums[j] = (1.0 - 1.0 / c) * row.iter().map(|v: &f64| v.abs()).sum::<f64>() + self.l2;
        }
        (0..self.x.len()).map(|j| sums[j / self.classes]).collect()
    }
    fn reset(&mut self, x: &[f64], track: bool) {
        let c = self.classes;
        self.x.copy_from_slice(x);
        self.z.fill(0.0);
        for (j, &v) in x.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            for (i, a) in self.a.column(j / c) {
                self.z[i * c + j % c] += a * v;
            }
        }
        for i in 0..self.labels.len() {
            let p = self.slopes(i);
            self.p[i * c..(i + 1) * c].copy_from_slice(&p);
        }
        self.track = track;
        self.moves = 0;
        if track {
            self.refresh();
        }
    }
    fn point(&self) -> &[f64] {
        &self.x
    }
    fn value(&self) -> f64 {
        self.loss(&self.z) + 0.5 * self.l2 * self.x.iter().map(|v| v * v).sum::<f64>()
    }
    fn gradient(&mut self) -> &[f64] {
        if !self.track {
            self.refresh();
        }
        &self.gradient
    }
    fn gradient_block(&mut self, block: &[usize], out: &mut Vec<f64>) {
        let c = self.classes;
        out.clear();
        for &j in block {
            out.push(if self.track {
                self.gradient[j]
            } else {
                self.l2 * self.x[j]
                    + self.a.column(j / c).map(|(i, v)| v * self.p[i * c + j % c]).sum::<f64>()
            });
        }
    }
    /// Böhning's bound, with as many classes as the block holds, and one more for the rest.
    fn bound_block(&self, block: &[usize]) -> Mat<f64> {
        let c = self.classes;
        let mut present: Vec<usize> = block.iter().map(|j| j % c).collect();
        present.sort_unstable();
        present.dedup();
        let kappa = c.min(present.len() + 1) as f64;
        let b = block.len();
        let mut h = Mat::zeros(b, b);
        for p in 0..b {
            for q in p..b {
                let (j, k) = (block[p], block[q]);
                let same = f64::from(u8::from(j % c == k % c));
                let v = 0.5 * (same - 1.0 / kappa) * self.a.dot(j / c, k / c);
                h.data[p * b + q] = v;
                h.data[q * b + p] = v;
            }
            h.data[p * b + p] += self.l2;
        }
        h
    }
    fn hessian_block(&self, block: &[usize]) -> Mat<f64> {
        let (c, b) = (self.classes, block.len());
        let probability = |i: usize, k: usize| self.p[i * c + k] + f64::from(u8::from(self.labels[i] == k));
        let mut h = Mat::zeros(b, b);
        let mut full = vec![0.0; self.a.rows()];
        for (s, &j) in block.iter().enumerate() {
            self.a.column(j / c).for_each(|(i, v)| full[i] = v);
            for (t, &k) in block.iter().enumerate().skip(s) {
                let same = j % c == k % c;
                let sum: f64 = self
                    .a
                    .column(k / c)
                    .map(|(i, v)| {
                        let (p, q) = (probability(i, j % c), probability(i, k % c));
                        v * full[i] * if same { p * (1.0 - p) } else { -p * q }
                    })
                    .sum();
                h.data[s * b + t] = sum;
                h.data[t * b + s] = sum;
            }
            h.data[s * b + s] += self.l2;
            self.a.column(j / c).for_each(|(i, _)| full[i] = 0.0);
        }
        h
    }
    fn bound_times(&self, block: &[usize], values: &[f64]) -> Vec<f64> {
        let (c, n) = (self.classes, self.labels.len());
        let mut z = vec![0.0; n * c];
        let mut out = vec![0.0; self.x.len()];
        for (&j, &v) in block.iter().zip(values) {
            self.a.column(j / c).for_each(|(i, a)| z[i * c + j % c] += a * v);
            out[j] += self.l2 * v;
        }
        for i in 0..n {
            let row = &z[i * c..(i + 1) * c];
            if row.iter().all(|v| *v == 0.0) {
                continue;
            }
            let mean = row.iter().sum::<f64>() / c as f64;
            for (f, a) in self.rows.column(i) {
                for k in 0..c {
                    out[f * c + k] += 0.5 * a * (row[k] - mean);
                }
            }
        }
        out
    }
    fn shift(&mut self, block: &[usize], step: &[f64]) {
        let c = self.classes;
        let mut touched = Vec::new();
        for (&j, &s) in block.iter().zip(step).filter(|(_, s)| **s != 0.0) {
            self.x[j] += s;
            if self.track {
                self.gradient[j] += self.l2 * s;
            }
            for (i, v) in self.a.column(j / c) {
                self.z[i * c + j % c] += v * s;
                touched.push(i);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for i in touched {
            let new = self.slopes(i);
            if self.track {
                for (f, a) in self.rows.column(i) {
                    for k in 0..c {
                        self.gradient[f * c + k] += a * (new[k] - self.p[i * c + k]);
                    }
                }
            }
            self.p[i * c..(i + 1) * c].copy_from_slice(&new);
        }
        self.moves += 1;
        if self.moves.is_multiple_of(REFRESH) {
            let x = self.x.clone();
            self.reset(&x, self.track);
        }
    }
    fn value_after(&mut self, block: &[usize], step: &[f64]) -> f64 {
        let c = self.classes;
        let mut z = self.z.clone();
        let mut squares: f64 = self.x.iter().map(|v| v * v).sum();
        for (&j, &s) in block.iter().zip(step) {
            squares += (2.0 * self.x[j] + s) * s;
            self.a.column(j / c).for_each(|(i, v)| z[i * c + j % c] += v * s);
        }
        self.loss(&z) + 0.5 * self.l2 * squares
    }
}
