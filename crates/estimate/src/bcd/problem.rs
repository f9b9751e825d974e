//! Smooth functions with the state that block updates need.

use sparseland_linalg::Mat;

use super::BcdError;
use super::sparse::Sparse;

/// A smooth convex function of `d` variables at a current point, with gradients kept up to date as blocks move.
pub trait BlockProblem {
    /// Number of variables `d`.
    fn dimension(&self) -> usize;
    /// Bounds on the second derivative of each variable.
    fn lipschitz(&self) -> &[f64];
    /// `sum_i |H_ij|` for the bound matrix `H`: with these on its diagonal a matrix that is still an upper bound.
    fn row_sums(&self) -> Vec<f64>;
    /// Moves to `x`. With `track`, the whole gradient is kept up to date from now on.
    fn reset(&mut self, x: &[f64], track: bool);
    /// The current point.
    fn point(&self) -> &[f64];
    /// The value at the current point.
    fn value(&self) -> f64;
    /// The whole gradient: kept (`track`), or computed here.
    fn gradient(&mut self) -> &[f64];
    /// The gradient of some variables.
    fn gradient_block(&mut self, block: &[usize], out: &mut Vec<f64>);
    /// A matrix that bounds the Hessian of a block at every point.
    fn bound_block(&self, block: &[usize]) -> Mat<f64>;
    /// The Hessian of a block at the current point.
    fn hessian_block(&self, block: &[usize]) -> Mat<f64>;
    /// `H v` for the bound matrix and a vector with few non-zeros.
    fn bound_times(&self, block: &[usize], values: &[f64]) -> Vec<f64>;
    /// `x_block += step`.
    fn shift(&mut self, block: &[usize], step: &[f64]);
    /// The value after such a move, which is not made.
    fn value_after(&mut self, block: &[usize], step: &[f64]) -> f64;
    /// The matrix of a quadratic, for exact updates along trees.
    fn graph(&self) -> Option<&Sparse> {
        None
    }
    /// Whether the bound matrix is the Hessian.
    fn is_quadratic(&self) -> bool {
        false
    }
}

/// Moves after which a kept gradient is computed anew, so that rounding does not pile up.
pub(super) const REFRESH: usize = 500;

/// The loss of a linear model, summed over rows (not averaged).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// `(z - b)^2 / 2`.
    LeastSquares,
    /// `log(1 + e^(-b z))`, `b` -1 or 1.
    Logistic,
}

impl Loss {
    fn value(self, z: f64, b: f64) -> f64 {
        match self {
            Loss::LeastSquares => 0.5 * (z - b) * (z - b),
            Loss::Logistic => {
                let m = -b * z;
                m.max(0.0) + (-m.abs()).exp().ln_1p()
            }
        }
    }
    fn slope(self, z: f64, b: f64) -> f64 {
        match self {
            Loss::LeastSquares => z - b,
            Loss::Logistic => -b / (1.0 + (b * z).exp()),
        }
    }
    fn bend(self, z: f64, b: f64) -> f64 {
        match self {
            Loss::LeastSquares => 1.0,
            Loss::Logistic => {
                let p = 1.0 / (1.0 + (b * z).exp());
                p * (1.0 - p)
            }
        }
    }
    fn largest_bend(self) -> f64 {
        match self {
            Loss::LeastSquares => 1.0,
            Loss::Logistic => 0.25,
        }
    }
}

/// `sum_i loss(<a_i, x>, b_i) + (l2 / 2) ||x||^2`, `A: n x d` sparse.
///
/// A move of a block costs its entries; with a kept gradient also the entries of the rows that it touches.
#[derive(Debug, Clone)]
pub struct LinearModel {
    a: Sparse,
    rows: Sparse,
    b: Vec<f64>,
    loss: Loss,
    l2: f64,
    lipschitz: Vec<f64>,
    x: Vec<f64>,
    z: Vec<f64>,
    slopes: Vec<f64>,
    gradient: Vec<f64>,
    track: bool,
    moves: usize,
    touched: Vec<usize>,
    stamp: Vec<u32>,
    clock: u32,
}

impl LinearModel {
    /// A model at `x = 0`.
    ///
    /// # Errors
    /// [`BcdError::Shape`], [`BcdError::NonFinite`], [`BcdError::Parameter`] for a negative `l2` or labels other than -1
    /// and 1.
    pub fn new(a: Sparse, b: Vec<f64>, loss: Loss, l2: f64) -> Result<Self, BcdError> {
        if b.len() != a.rows() || a.cols() == 0 || a.rows() == 0 {
            return Err(BcdError::Shape {
                what: "b",
                expected: format!("{} entries, for a matrix with rows and columns", a.rows()),
                got: format!("{}", b.len()),
            });
        }
        if let Some(row) = b.iter().position(|v| !v.is_finite()) {
            return Err(BcdError::NonFinite { what: "b", row, column: 0 });
        }
        super::error::ensure(l2 >= 0.0 && l2.is_finite(), "l2", "at least 0", l2)?;
        if loss == Loss::Logistic
            && let Some(v) = b.iter().find(|v| v.abs() != 1.0)
        {
            return Err(BcdError::Parameter { name: "b", expected: "-1 or 1", got: v.to_string() });
        }
        let (n, d) = (a.rows(), a.cols());
        let bend = loss.largest_bend();
        let lipschitz = (0..d).map(|j| bend * a.dot(j, j) + l2).collect();
        let mut model = LinearModel {
            rows: a.transposed(),
            a,
            b,
            loss,
            l2,
            lipschitz,
            x: vec![0.0; d],
            z: vec![0.0; n],
            slopes: vec![0.0; n],
            gradient: vec![0.0; d],
            track: false,
            moves: 0,
            touched: Vec::new(),
            stamp: vec![0; n],
            clock: 0,
        };
        model.reset(&vec![0.0; d], false);
        Ok(model)
    }

    fn refresh(&mut self) {
        for j in 0..self.x.len() {
            self.gradient[j] =
                self.l2 * self.x[j] + self.a.column(j).map(|(i, v)| v * self.slopes[i]).sum::<f64>();
        }
    }

    /// Moves `z` along and lists the rows touched.
    fn move_rows(&mut self, block: &[usize], step: &[f64]) {
        self.touched.clear();
        self.clock = self.clock.wrapping_add(1);
        if self.clock == 0 {
            self.stamp.fill(0);
            self.clock = 1;
        }
        for (&j, &s) in block.iter().zip(step).filter(|(_, s)| **s != 0.0) {
            for (i, v) in self.a.column(j) {
                if self.stamp[i] != self.clock {
                    self.stamp[i] = self.clock;
                    self.touched.push(i);
                }
                self.z[i] += v * s;
            }
        }
    }

    fn gram_block(&self, block: &[usize], weight: impl Fn(usize) -> f64) -> Mat<f64> {
        let b = block.len();
        let mut h = Mat::zeros(b, b);
        // Scatter one column, gather the others.
        let mut full = vec![0.0; self.a.rows()];
        for (p, &j) in block.iter().enumerate() {
            self.a.column(j).for_each(|(i, v)| full[i] = v * weight(i));
            for (q, &k) in block.iter().enumerate().skip(p) {
                let sum: f64 = self.a.column(k).map(|(i, v)| v * full[i]).sum();
                h.data[p * b + q] = sum;
                h.data[q * b + p] = sum;
            }
            h.data[p * b + p] += self.l2;
            self.a.column(j).for_each(|(i, _)| full[i] = 0.0);
        }
        h
    }
}

impl BlockProblem for LinearModel {
    fn dimension(&self) -> usize {
        self.x.len()
    }
    fn lipschitz(&self) -> &[f64] {
        &self.lipschitz
    }
    fn row_sums(&self) -> Vec<f64> {
        // Row by row: (A^T A)_kj = sum_i a_ik a_ij, which costs the squared length of every row once.
        let bend = self.loss.largest_bend();
        let mut sums = vec![0.0; self.x.len()];
        let mut row = vec![0.0; self.x.len()];
        for j in 0..self.x.len() {
            let mut seen = Vec::new();
            for (i, v) in self.a.column(j) {
                for (k, u) in self.rows.column(i) {
                    if row[k] == 0.0 {
                        seen.push(k);
                    }
                    row[k] += v * u;
                }
            }
            for k in seen {
                sums[j] += bend * row[k].abs();
                row[k] = 0.0;
            }
            sums[j] += self.l2;
        }
        sums
    }
    fn reset(&mut self, x: &[f64], track: bool) {
        self.x.copy_from_slice(x);
        self.z = self.a.times(x);
        for i in 0..self.z.len() {
            self.slopes[i] = self.loss.slope(self.z[i], self.b[i]);
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
        let loss: f64 = self.z.iter().zip(&self.b).map(|(&z, &b)| self.loss.value(z, b)).sum();
        let ridge =
            if self.l2 > 0.0 { 0.5 * self.l2 * self.x.iter().map(|v| v * v).sum::<f64>() } else { 0.0 };
        loss + ridge
    }
    fn gradient(&mut self) -> &[f64] {
        if !self.track {
            self.refresh();
        }
        &self.gradient
    }
    fn gradient_block(&mut self, block: &[usize], out: &mut Vec<f64>) {
        out.clear();
        for &j in block {
            out.push(if self.track {
                self.gradient[j]
            } else {
                self.l2 * self.x[j] + self.a.column(j).map(|(i, v)| v * self.slopes[i]).sum::<f64>()
            });
        }
    }
    fn bound_block(&self, block: &[usize]) -> Mat<f64> {
        let bend = self.loss.largest_bend();
        self.gram_block(block, |_| bend)
    }
    fn hessian_block(&self, block: &[usize]) -> Mat<f64> {
        self.gram_block(block, |i| self.loss.bend(self.z[i], self.b[i]))
    }
    fn bound_times(&self, block: &[usize], values: &[f64]) -> Vec<f64> {
        let mut z = vec![0.0; self.a.rows()];
        let mut out = vec![0.0; self.x.len()];
        for (&j, &v) in block.iter().zip(values) {
            self.a.column(j).for_each(|(i, a)| z[i] += a * v);
            out[j] += self.l2 * v;
        }
        let bend = self.loss.largest_bend();
        for (i, &z) in z.iter().enumerate().filter(|(_, z)| **z != 0.0) {
            self.rows.column(i).for_each(|(j, a)| out[j] += bend * a * z);
        }
        out
    }
    fn shift(&mut self, block: &[usize], step: &[f64]) {
        self.move_rows(block, step);
        for (&j, &s) in block.iter().zip(step) {
            self.x[j] += s;
            if self.track {
                self.gradient[j] += self.l2 * s;
            }
        }
        for &i in &self.touched {
            let new = self.loss.slope(self.z[i], self.b[i]);
            let change = new - self.slopes[i];
            self.slopes[i] = new;
            if self.track && change != 0.0 {
                self.rows.column(i).for_each(|(j, a)| self.gradient[j] += a * change);
            }
        }
        self.moves += 1;
        if self.moves.is_multiple_of(REFRESH) {
            let x = self.x.clone();
            self.reset(&x, self.track);
        }
    }
    fn value_after(&mut self, block: &[usize], step: &[f64]) -> f64 {
        // The sums of the slopes stay; only z moves, and exactly back.
        let before: Vec<f64> = self.z.clone();
        self.move_rows(block, step);
        let mut value = self.z.iter().zip(&self.b).map(|(&z, &b)| self.loss.value(z, b)).sum::<f64>();
        self.z = before;
        if self.l2 > 0.0 {
            let mut squares: f64 = self.x.iter().map(|v| v * v).sum();
            for (&j, &s) in block.iter().zip(step) {
                squares += (2.0 * self.x[j] + s) * s;
            }
            value += 0.5 * self.l2 * squares;
        }
        value
    }
    fn is_quadratic(&self) -> bool {
        self.loss == Loss::LeastSquares
    }
}

/// `x^T A x / 2 - b^T x` for a sparse symmetric `A`; the gradient is always kept.
#[derive(Debug, Clone)]
pub struct Quadratic {
    a: Sparse,
    b: Vec<f64>,
    lipschitz: Vec<f64>,
    x: Vec<f64>,
    gradient: Vec<f64>,
    moves: usize,
}

impl Quadratic {
    /// A quadratic at `x = 0`.
    ///
    /// # Errors
    /// [`BcdError::Shape`], [`BcdError::NonFinite`], [`BcdError::Asymmetric`], [`BcdError::NotConvex`] for a negative
    /// diagonal.
    pub fn new(a: Sparse, b: Vec<f64>) -> Result<Self, BcdError> {
        let d = a.cols();
        if a.rows() != d || b.len() != d || d == 0 {
            return Err(BcdError::Shape {
                what: "the quadratic",
                expected: "a square matrix and as many entries in b, at least one".into(),
                got: format!("{} x {d} and {}", a.rows(), b.len()),
            });
        }
        if let Some(row) = b.iter().position(|v| !v.is_finite()) {
            return Err(BcdError::NonFinite { what: "b", row, column: 0 });
        }
        let t = a.transposed();
        let mut lipschitz = vec![0.0; d];
        for j in 0..d {
            if a.column(j).count() != t.column(j).count() {
                return Err(BcdError::Asymmetric { row: j, column: j });
            }
            for ((i, v), (k, u)) in a.column(j).zip(t.column(j)) {
                if i != k || (v - u).abs() > 1e-12 * v.abs().max(u.abs()) {
                    return Err(BcdError::Asymmetric { row: i, column: j });
                }
                if i == j {
                    lipschitz[j] = v;
                }
            }
            if lipschitz[j] < 0.0 {
                return Err(BcdError::NotConvex { coordinate: j });
            }
        }
        let gradient = b.iter().map(|v| -v).collect();
        Ok(Quadratic { a, b, lipschitz, x: vec![0.0; d], gradient, moves: 0 })
    }
}

impl BlockProblem for Quadratic {
    fn dimension(&self) -> usize {
        self.x.len()
    }
    fn lipschitz(&self) -> &[f64] {
        &self.lipschitz
    }
    fn row_sums(&self) -> Vec<f64> {
        (0..self.x.len()).map(|j| self.a.column(j).map(|(_, v)| v.abs()).sum()).collect()
    }
    fn reset(&mut self, x: &[f64], _: bool) {
        self.x.copy_from_slice(x);
        self.gradient = self.a.times(x);
        self.gradient.iter_mut().zip(&self.b).for_each(|(g, b)| *g -= b);
        self.moves = 0;
    }
    fn point(&self) -> &[f64] {
        &self.x
    }
    fn value(&self) -> f64 {
        0.5 * self.x.iter().zip(&self.gradient).zip(&self.b).map(|((x, g), b)| x * (g - b)).sum::<f64>()
    }
    fn gradient(&mut self) -> &[f64] {
        &self.gradient
    }
    fn gradient_block(&mut self, block: &[usize], out: &mut Vec<f64>) {
        out.clear();
        out.extend(block.iter().map(|&j| self.gradient[j]));
    }
    fn bound_block(&self, block: &[usize]) -> Mat<f64> {
        let b = block.len();
        let mut h = Mat::zeros(b, b);
        let place: std::collections::HashMap<usize, usize> =
            block.iter().enumerate().map(|(p, &j)| (j, p)).collect();
        for (q, &j) in block.iter().enumerate() {
            for (i, v) in self.a.column(j) {
                if let Some(&p) = place.get(&i) {
                    h.data[p * b + q] = v;
                }
            }
        }
        h
    }
    fn hessian_block(&self, block: &[usize]) -> Mat<f64> {
        self.bound_block(block)
    }
    fn bound_times(&self, block: &[usize], values: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.x.len()];
        for (&j, &v) in block.iter().zip(values) {
            self.a.column(j).for_each(|(i, a)| out[i] += a * v);
        }
        out
    }
    fn shift(&mut self, block: &[usize], step: &[f64]) {
        for (&j, &s) in block.iter().zip(step).filter(|(_, s)| **s != 0.0) {
            self.x[j] += s;
            self.a.column(j).for_each(|(i, v)| self.gradient[i] += v * s);
        }
        self.moves += 1;
        if self.moves.is_multiple_of(REFRESH) {
            let x = self.x.clone();
            self.reset(&x, true);
        }
    }
    fn value_after(&mut self, block: &[usize], step: &[f64]) -> f64 {
        let bent = self.bound_times(block, step);
        let change: f64 = block.iter().zip(step).map(|(&j, s)| s * (self.gradient[j] + 0.5 * bent[j])).sum();
        self.value() + change
    }
    fn graph(&self) -> Option<&Sparse> {
        Some(&self.a)
    }
    fn is_quadratic(&self) -> bool {
        true
    }
}
