//! Fitting a shared representation to the moments of many tasks.

use rayon::prelude::*;
use sparseland_linalg::{Mat, matmul, matmul_transposed_left, qr, solve_spd, svd};

use super::AmtrlError;

/// Alternations, at most.
const SWEEPS: usize = 25;

/// An alternation that lowers the loss by less than this, relatively, is the last.
const TOLERANCE: f64 = 1e-8;

/// Steps of conjugate gradients per alternation, at most.
const STEPS: usize = 60;

/// `XᵀX`, `Xᵀy`, `yᵀy` of one task: all that fits need of its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    samples: usize,
    gram: Mat<f64>,
    cross: Vec<f64>,
    square: f64,
}

impl Moments {
    /// Of no sample of `d` inputs.
    pub fn new(d: usize) -> Self {
        Self { samples: 0, gram: Mat::zeros(d, d), cross: vec![0.0; d], square: 0.0 }
    }

    /// Of samples, one per row.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn of(x: &Mat<f64>, y: &[f64]) -> Result<Self, AmtrlError> {
        let mut moments = Self::new(x.cols);
        moments.add(x, y)?;
        Ok(moments)
    }

    /// Adds samples, one per row.
    ///
    /// # Errors
    /// [`AmtrlError::Shape`]; [`AmtrlError::NonFinite`] with the row.
    pub fn add(&mut self, x: &Mat<f64>, y: &[f64]) -> Result<(), AmtrlError> {
        if x.cols != self.inputs() {
            return Err(AmtrlError::Shape { what: "inputs", expected: self.inputs(), got: x.cols });
        }
        if x.rows != y.len() {
            return Err(AmtrlError::Shape { what: "targets", expected: x.rows, got: y.len() });
        }
        for (row, target) in y.iter().enumerate() {
            let bad = x.row(row).iter().chain([target]).find(|v| !v.is_finite());
            if let Some(&value) = bad {
                return Err(AmtrlError::NonFinite { row, value });
            }
        }
        let gram = matmul_transposed_left(x, x)?;
        self.gram.data.iter_mut().zip(&gram.data).for_each(|(s, v)| *s += v);
        for (row, target) in y.iter().enumerate() {
            self.cross.iter_mut().zip(x.row(row)).for_each(|(s, v)| *s += v * target);
            self.square += target * target;
        }
        self.samples += y.len();
        Ok(())
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.cross.len()
    }

    /// `BᵀGB`.
    pub(super) fn projected(&self, basis: &Mat<f64>) -> Result<Mat<f64>, AmtrlError> {
        Ok(matmul_transposed_left(basis, &matmul(&self.gram, basis)?)?)
    }

    /// `||y - X B w||²`.
    pub(super) fn loss(&self, basis: &Mat<f64>, head: &[f64]) -> Result<f64, AmtrlError> {
        let theta = times(basis, head);
        let along: f64 = self.cross.iter().zip(&theta).map(|(h, t)| h * t).sum();
        let quadratic: f64 = times(&self.gram, &theta).iter().zip(&theta).map(|(g, t)| g * t).sum();
        Ok(self.square - 2.0 * along + quadratic)
    }

    /// `(G + ridge)⁻¹ h` with a ridge of a thousandth of the mean diagonal.
    fn ridge(&self) -> Result<Vec<f64>, AmtrlError> {
        let d = self.inputs();
        let mut damped = self.gram.clone();
        let mean = (0..d).map(|i| damped.at(i, i)).sum::<f64>() / d.max(1) as f64;
        (0..d).for_each(|i| damped.data[i * d + i] += (1e-3 * mean).max(f64::MIN_POSITIVE));
        let h = Mat { rows: d, cols: 1, data: self.cross.clone() };
        Ok(if mean > 0.0 { solve_spd(&damped, &h)?.data } else { vec![0.0; d] })
    }
}

/// A shared representation and the heads on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// `d x k`, columns orthonormal.
    pub basis: Mat<f64>,
    /// `k x M`.
    pub heads: Mat<f64>,
    /// The sum of squared residuals after every alternation.
    pub history: Vec<f64>,
}

/// `A x`.
fn times(a: &Mat<f64>, x: &[f64]) -> Vec<f64> {
    (0..a.rows).map(|i| a.row(i).iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

/// The least-squares head of a task on a basis `d x k`.
///
/// # Errors
/// If the solve fails.
pub fn fit_head(basis: &Mat<f64>, task: &Moments) -> Result<Vec<f64>, AmtrlError> {
    let k = basis.cols;
    let mut inner = task.projected(basis)?;
    let trace: f64 = (0..k).map(|t| inner.at(t, t)).sum();
    if trace <= 0.0 {
        return Ok(vec![0.0; k]);
    }
    (0..k).for_each(|t| inner.data[t * k + t] += 1e-9 * trace / k as f64);
    let h = Mat { rows: task.inputs(), cols: 1, data: task.cross.clone() };
    Ok(solve_spd(&inner, &matmul_transposed_left(basis, &h)?)?.data)
}

/// Fits `min sum_m ||y_m - X_m B w_m||²` by alternating least squares from the leading directions of single-task ridge
/// fits; the basis by conjugate gradients on its normal equations, then made orthonormal.
///
/// # Errors
/// [`AmtrlError::Rank`]; if a solve fails.
pub fn fit_shared(tasks: &[Moments], k: usize) -> Result<Shared, AmtrlError> {
    let d = tasks.first().map_or(0, Moments::inputs);
    if k == 0 || k > d || k > tasks.len() {
        return Err(AmtrlError::Rank { k, d, tasks: tasks.len() });
    }
    let alone = tasks.par_iter().map(Moments::ridge).collect::<Result<Vec<_>, _>>()?;
    let weighted = Mat::from_fn(d, tasks.len(), |i, m| alone[m][i] * (tasks[m].samples as f64).sqrt());
    let leading = svd(&weighted)?;
    let mut basis = Mat::from_fn(d, k, |i, t| leading.u.at(i, t));
    let mut history: Vec<f64> = Vec::new();
    loop {
        let heads = tasks.par_iter().map(|task| fit_head(&basis, task)).collect::<Result<Vec<_>, _>>()?;
        let loss: f64 =
            tasks.iter().zip(&heads).map(|(task, head)| task.loss(&basis, head)).sum::<Result<f64, _>>()?;
        let last = history.last().copied();
        history.push(loss);
        let done = last.is_some_and(|last| last - loss <= TOLERANCE * last.abs());
        if done || history.len() > SWEEPS {
            let heads = Mat::from_fn(k, tasks.len(), |t, m| heads[m][t]);
            return Ok(Shared { basis, heads, history });
        }
        basis = qr(&update(tasks, &heads, basis))?.q;
    }
}

/// The best basis for given heads: conjugate gradients on `sum_m G_m B w_m w_mᵀ = sum_m h_m w_mᵀ` from where it is.
fn update(tasks: &[Moments], heads: &[Vec<f64>], mut basis: Mat<f64>) -> Mat<f64> {
    let (d, k) = basis.shape();
    let outer = |out: &mut [f64], left: &[f64], right: &[f64]| {
        for (row, l) in out.chunks_exact_mut(k).zip(left) {
            row.iter_mut().zip(right).for_each(|(o, r)| *o += l * r);
        }
    };
    let apply = |b: &Mat<f64>| -> Vec<f64> {
        let columns: Vec<Vec<f64>> =
            tasks.par_iter().zip(heads).map(|(task, head)| times(&task.gram, &times(b, head))).collect();
        let mut out = vec![0.0; d * k];
        columns.iter().zip(heads).for_each(|(column, head)| outer(&mut out, column, head));
        out
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut right = vec![0.0; d * k];
    tasks.iter().zip(heads).for_each(|(task, head)| outer(&mut right, &task.cross, head));
    let mut residual: Vec<f64> = right.iter().zip(apply(&basis)).map(|(r, a)| r - a).collect();
    let mut direction = Mat { rows: d, cols: k, data: residual.clone() };
    let (mut size, goal) = (dot(&residual, &residual), 1e-20 * dot(&right, &right));
    for _ in 0..STEPS {
        if size <= goal {
            break;
        }
        let moved = apply(&direction);
        let curvature = dot(&direction.data, &moved);
        if curvature <= 0.0 {
            break;
        }
        let step = size / curvature;
        basis.data.iter_mut().zip(&direction.data).for_each(|(b, d)| *b += step * d);
        residual.iter_mut().zip(&moved).for_each(|(r, m)| *r -= step * m);
        let next = dot(&residual, &residual);
        direction.data.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + next / size * *d);
        size = next;
    }
    basis
}
