//! One linear layer as the papers see it, what a budget counts, and what every method must answer.
//!
//! Papers write `Y = X W` with `W: d1 x d2`, inputs first; a checkpoint stores `out x in`. Here
//! `d1 = in`, `d2 = out`, and a factorisation `W ~ D S` (`D: d1 x k`, `S: k x d2`) becomes the
//! [`Product`] `Sᵀ Dᵀ` of an `out x k` and a `k x in` matrix.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparseland_linalg::{Mat, Whitener};
use sparseland_matrix::{Bitmask, Csr, Dense, Layout, LinearMap, Matrix, Product, ValueType};

use crate::CompressError;
use crate::allocation::Budget;
use crate::statistics::{InputStatistics, OriginalInputs};

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accounting {
    /// Stored values, as the papers count: indices and masks are free.
    Params,
    /// Bytes in the file: values, masks, indices and scales.
    Bytes,
}

/// The size of a factorisation: `k` atoms (the rank), `s` coefficients per output on average.
/// `s == k` means dense coefficients: plain low rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactorShape {
    /// Atoms of the dictionary; the inner dimension.
    pub k: usize,
    /// Mean number of coefficients per output, at most `k`.
    pub s: usize,
}

impl FactorShape {
    /// The layout of the factors of an `inputs x outputs` weight.
    pub fn layout(self, inputs: usize, outputs: usize, values: ValueType) -> Layout {
        let left = if self.s == self.k {
            Layout::Dense { rows: outputs, cols: self.k, values }
        } else {
            Layout::sparse(outputs, self.k, values, self.s * outputs)
        };
        let right = Layout::Dense { rows: self.k, cols: inputs, values };
        Layout::Product { left: Box::new(left), right: Box::new(right) }
    }

    /// The size of factors of this layout; `None` for other structures.
    pub fn of(layout: &Layout) -> Option<Self> {
        let Layout::Product { left, right } = layout else { return None };
        let Layout::Dense { rows: k, .. } = **right else { return None };
        match **left {
            Layout::Dense { .. } => Some(Self { k, s: k }),
            Layout::Bitmask { rows, nonzeros, .. } | Layout::Csr { rows, nonzeros, .. } if rows > 0 => {
                Some(Self { k, s: nonzeros / rows })
            }
            _ => None,
        }
    }

    /// The largest shape with `k / s = rho` whose cost is within the limit; `None` if not even one
    /// atom fits or the rank would exceed the smaller side.
    ///
    /// Counting parameters this is ROCKET's `k = floor((1 - removed) d1 d2 / (d1 + d2 / rho))`.
    pub fn fitting(sides: (usize, usize), rho: f64, limit: Limit) -> Option<Self> {
        Self::fitting_any_rank(sides, rho, limit).filter(|shape| shape.k <= sides.0.min(sides.1))
    }

    /// As [`fitting`](Self::fitting), but a dictionary may have more atoms than the layer has inputs.
    pub fn fitting_any_rank((inputs, outputs): (usize, usize), rho: f64, limit: Limit) -> Option<Self> {
        let (d1, d2) = (inputs as f64, outputs as f64);
        let per_atom = match limit.accounting {
            Accounting::Params => d1 + d2 / rho,
            Accounting::Bytes => {
                let mask = if rho > 1.0 { d2 / 8.0 } else { 0.0 };
                (d1 + d2 / rho) * limit.values.bytes() as f64 + mask + limit.values.scale_bytes(1) as f64
            }
        };
        // + 1: the estimate may round down below what the exact count admits.
        let mut k = (limit.cost as f64 / per_atom).floor() as usize + 1;
        loop {
            let s = if rho > 1.0 { (k as f64 / rho).floor() as usize } else { k };
            if k == 0 || s == 0 {
                return None;
            }
            let shape = Self { k, s };
            if cost(&shape.layout(inputs, outputs, limit.values), limit.accounting) <= limit.cost {
                return Some(shape);
            }
            k -= 1;
        }
    }
}

/// The most that one layer may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The greatest cost.
    pub cost: u64,
    /// What is counted.
    pub accounting: Accounting,
    /// Type of the stored values.
    pub values: ValueType,
}

/// The cost of a layout under an accounting.
pub fn cost(layout: &Layout, accounting: Accounting) -> u64 {
    match accounting {
        Accounting::Params => layout.parameters(),
        Accounting::Bytes => layout.stored_bytes(),
    }
}

/// Relative errors of an approximation of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// `||W - W~||_F / ||W||_F`.
    pub weight: f64,
    /// `||L (W - W~)||_F / ||L W||_F`: the relative output error on the calibration data.
    pub output: f64,
}

impl Errors {
    /// No error.
    pub const NONE: Self = Self { weight: 0.0, output: 0.0 };
}

/// A linear layer to be compressed.
pub struct LayerProblem {
    /// Its full name, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// `d1 x d2`, inputs first.
    pub weight: Mat<f64>,
    /// What the calibration text sends into the layer; `None` for methods that need no data.
    pub inputs: Option<Arc<InputStatistics>>,
    /// What the original network sends into it, where [`LayerMethod::needs_original`] asks for it and the layers
    /// before may differ from the original ones.
    pub original: Option<Arc<OriginalInputs>>,
    /// Type of the values that will be stored.
    pub values: ValueType,
}

impl LayerProblem {
    /// From a stored `out x in` matrix.
    pub fn new(name: &str, weight: &Matrix, inputs: Option<Arc<InputStatistics>>, values: ValueType) -> Self {
        Self { name: name.to_owned(), weight: inputs_first(weight), inputs, original: None, values }
    }

    /// `(d1, d2)`: inputs and outputs.
    pub fn sides(&self) -> (usize, usize) {
        (self.weight.rows, self.weight.cols)
    }

    /// The statistics of the inputs.
    ///
    /// # Errors
    /// If the layer was prepared without calibration.
    pub fn inputs(&self) -> Result<&InputStatistics, CompressError> {
        self.inputs.as_deref().ok_or(CompressError::NoCalibration)
    }

    /// The whitener of the inputs.
    ///
    /// # Errors
    /// If the layer was prepared without calibration.
    pub fn whitener(&self) -> Result<&Whitener, CompressError> {
        self.inputs()?.whitener()
    }

    /// Relative errors of an approximation given as `d1 x d2`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn errors(&self, approximation: &Mat<f64>) -> Result<Errors, CompressError> {
        let difference = Mat::from_fn(self.weight.rows, self.weight.cols, |i, j| {
            self.weight.at(i, j) - approximation.at(i, j)
        });
        let weight = ratio(norm(&difference), norm(&self.weight));
        let output = match &self.inputs {
            Some(inputs) => ratio(inputs.output_norm(&difference)?, inputs.output_norm(&self.weight)?),
            None => weight,
        };
        Ok(Errors { weight, output })
    }
}

/// The entries of a stored `out x in` matrix as `d1 x d2`, inputs first.
pub fn inputs_first(weight: &Matrix) -> Mat<f64> {
    let (outputs, inputs) = (weight.rows(), weight.cols());
    let dense = weight.to_dense();
    Mat::from_fn(inputs, outputs, |i, j| f64::from(dense[j * inputs + i]))
}

/// The Frobenius norm.
pub(crate) fn norm(a: &Mat<f64>) -> f64 {
    a.data.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// `a / b`, 0 where both are 0.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

/// The factors of one layer in checkpoint orientation: `W~ᵀ = left right`.
#[derive(Debug, Clone)]
pub struct Factors {
    /// `out x k` coefficients.
    pub left: Mat<f64>,
    /// `k x in` dictionary.
    pub right: Mat<f64>,
    /// Whether `left` is stored sparse.
    pub sparse: bool,
}

impl Factors {
    /// The structured matrix with values of the given type.
    ///
    /// Magnitudes move into the dictionary: each atom is scaled so that its coefficients have unit
    /// root mean square. Products are unchanged; int8 rows of either factor then hold values of one
    /// scale.
    pub fn into_matrix(mut self, values: ValueType) -> Matrix {
        let k = self.right.rows;
        let mut squares = vec![(0.0f64, 0usize); k];
        for j in 0..self.left.rows {
            for (square, &v) in squares.iter_mut().zip(self.left.row(j)) {
                *square = (square.0 + v * v, square.1 + usize::from(v != 0.0));
            }
        }
        let scales: Vec<f64> = squares
            .iter()
            .map(|&(sum, count)| if sum > 0.0 { (sum / count as f64).sqrt() } else { 1.0 })
            .collect();
        for j in 0..self.left.rows {
            self.left.row_mut(j).iter_mut().zip(&scales).for_each(|(v, s)| *v /= s);
        }
        for i in 0..k {
            self.right.row_mut(i).iter_mut().for_each(|v| *v *= scales[i]);
        }
        let left = narrow(&self.left);
        let (rows, inner) = (self.left.rows, self.left.cols);
        let right = Dense::from_f32(k, self.right.cols, &narrow(&self.right), values);
        if !self.sparse {
            return Product::new(Dense::from_f32(rows, inner, &left, values), right).into();
        }
        let nonzeros = left.iter().filter(|&&v| v != 0.0).count();
        match Layout::sparse(rows, inner, values, nonzeros) {
            Layout::Csr { .. } => Product::new(Csr::from_dense(rows, inner, &left, values), right).into(),
            _ => Product::new(Bitmask::from_dense(rows, inner, &left, values), right).into(),
        }
    }
}

fn narrow(a: &Mat<f64>) -> Vec<f32> {
    a.data.iter().map(|&v| v as f32).collect()
}

/// What a method wants to know of a layer's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the weights suffice and no calibration text is read.
    Nothing,
    /// Moments and the Gram matrix.
    Gram,
    /// Moments and the whitener `L`, `LᵀL = sum x xᵀ`; the Gram matrix itself is not kept.
    Whitener,
}

/// One way to store a layer, with what it costs in quality.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The structure.
    pub layout: Layout,
    /// Relative errors.
    pub errors: Errors,
    /// The method's own score of the best entry or direction that was dropped (a mask's largest dropped
    /// score, the first dropped singular value in the method's normalisation): rises as more is removed.
    /// A global threshold over it is the `threshold` allocation.
    pub marginal: Option<f64>,
}

/// A compression method for single layers: prepares a layer once, then offers and builds any number of
/// sizes.
pub trait LayerMethod: Send + Sync {
    /// The name in commands and files.
    fn slug(&self) -> &'static str;

    /// What must be known of the inputs.
    fn needs(&self) -> Needs;

    /// Whether [`prepare`](Self::prepare) wants to know the inputs of the original network beside those that the
    /// compressed layers before produce: a second stream of the calibration text while layers are built.
    fn needs_original(&self) -> bool {
        false
    }

    /// Whether a budget can be met: a fixed pattern removes one fraction and no other.
    ///
    /// # Errors
    /// [`CompressError::PatternBudget`] with the right fraction.
    fn check(&self, _budget: &Budget) -> Result<(), CompressError> {
        Ok(())
    }

    /// Does the work that all sizes of a layer share.
    ///
    /// # Errors
    /// If a decomposition fails.
    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError>;
}

/// A layer ready to be compressed to any size.
pub trait PreparedLayer: Send {
    /// The best way to store the layer within the limit; `None` if nothing fits. `near` is what was
    /// chosen for a limit close by, where a search may begin.
    ///
    /// # Errors
    /// If a solve fails.
    fn candidate(&self, limit: Limit, near: Option<&Layout>) -> Result<Option<Candidate>, CompressError>;

    /// The `out x in` matrix of a layout that [`candidate`](Self::candidate) gave (for this layer, perhaps
    /// with other inputs: a plan may be replayed).
    ///
    /// # Errors
    /// [`CompressError::Plan`] for a layout that is not this method's; if a solve fails.
    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError>;
}

/// The error for a layout that a method does not make.
pub fn foreign_layout(slug: &str, layout: &Layout) -> CompressError {
    CompressError::Plan(format!(
        "{slug} does not make a {} of {} x {}",
        layout.kind(),
        layout.rows(),
        layout.cols()
    ))
}
