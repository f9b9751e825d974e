//! The weight as trained against the weight as used.

use std::sync::Arc;

use sparseland_matrix::{
    BlockDiagonal, Csr, Dense, LinearMap, Matrix, NofM, Pattern, Product, Real, Sum, ValueType,
};

use crate::{ParamId, Parameters, Tape, Var};

/// Why a weight cannot be used or refreshed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// A master weight is not finite.
    #[error(
        "{name}: the weight at position {position} is not finite; lower the learning rate or clip gradients"
    )]
    NotFinite {
        /// The parameter.
        name: String,
        /// Its first bad position.
        position: usize,
    },
    /// The matrix's structure cannot be trained.
    #[error("a matrix of kind {kind} cannot be trained with its structure fixed: {reason}")]
    Structure {
        /// The kind.
        kind: &'static str,
        /// Why.
        reason: String,
    },
    /// A saved state does not fit.
    #[error("the saved state of {name} does not fit: {reason}")]
    State {
        /// The weight.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// How a weight `W: out x in` of a linear layer is used in terms of what is trained.
///
/// A trainer calls, per step: [`refresh`](Self::refresh), forward passes with [`apply`](Self::apply), the way back,
/// [`reach`](Self::reach), the optimiser, [`after_step`](Self::after_step).
pub trait Parametrisation<R: Real>: Send {
    /// `(out, in)`.
    fn shape(&self) -> (usize, usize);

    /// What is trained.
    fn parameters(&self) -> Vec<ParamId>;

    /// `X Wᵀ` with the weight as used; its way back leads to the masters.
    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var;

    /// Renews what is derived from the masters (a mask, a packed form) for the step to come.
    ///
    /// # Errors
    /// If a master is not finite.
    fn refresh(&mut self, _step: u64, _parameters: &Parameters<R>) -> Result<(), WeightError> {
        Ok(())
    }

    /// Changes the masters' gradients before the optimiser sees them: decay of pruned weights, projections.
    fn reach(&self, _parameters: &mut Parameters<R>) {}

    /// Changes the masters after the optimiser's step at learning rate `rate`.
    fn after_step(&mut self, _rate: f64, _parameters: &mut Parameters<R>) {}

    /// The weight as used, as a matrix to store and run.
    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix;

    /// Named counts since the last report (flips of a mask, say), to be summed over layers and shown beside the
    /// metrics.
    fn report(&mut self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// What cannot be derived from the masters, for checkpoints.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// If it does not fit.
    fn restore(&mut self, _state: &[u8]) -> Result<(), WeightError> {
        Ok(())
    }
}

/// Values as f32.
pub fn to_f32<R: Real>(values: &[R]) -> Vec<f32> {
    values.iter().map(|v| v.to_f64() as f32).collect()
}

/// Values from f32.
pub fn from_f32<R: Real>(values: &[f32]) -> Vec<R> {
    values.iter().map(|&v| R::real(v.into())).collect()
}

/// Every entry trained.
#[derive(Debug, Clone)]
pub struct DenseWeight {
    weight: ParamId,
    shape: (usize, usize),
}

impl DenseWeight {
    /// The parameter `weight: out x in`, used as it is.
    ///
    /// # Panics
    /// If it is no matrix.
    pub fn new<R: Real>(parameters: &Parameters<R>, weight: ParamId) -> Self {
        let shape = &parameters.get(weight).shape;
        assert_eq!(shape.len(), 2, "a dense weight is a matrix");
        Self { weight, shape: (shape[0], shape[1]) }
    }
}

impl<R: Real> Parametrisation<R> for DenseWeight {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.weight]
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        tape.linear(parameters, x, self.weight, None)
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        let (rows, cols) = self.shape;
        Dense::from_f32(rows, cols, &to_f32(parameters.value(self.weight)), values).into()
    }
}

/// Any matrix with its structure fixed: the values of its dense and sparse parts are trained.
pub enum FixedStructure {
    /// A dense part.
    Dense(DenseWeight),
    /// A sparse part: its places and its values.
    Sparse {
        /// The places.
        pattern: Arc<Pattern>,
        /// The values in their order.
        values: ParamId,
        /// The matrix whose structure is kept on export.
        like: Box<Matrix>,
    },
    /// A product: `left * right`.
    Product(Box<FixedStructure>, Box<FixedStructure>),
    /// A sum.
    Sum(Vec<FixedStructure>),
}

impl FixedStructure {
    /// Registers the values of `matrix` as parameters named after `name`.
    ///
    /// # Errors
    /// If a sparse part has more than 65 536 columns.
    pub fn new<R: Real>(
        parameters: &mut Parameters<R>,
        name: &str,
        matrix: &Matrix,
    ) -> Result<Self, WeightError> {
        Ok(match matrix {
            Matrix::Dense(dense) => {
                let shape = [dense.rows(), dense.cols()];
                let id = parameters.add(name, &shape, &from_f32::<R>(&dense.to_dense()));
                Self::Dense(DenseWeight::new(parameters, id))
            }
            Matrix::Product(product) => {
                let left = Self::new(parameters, &format!("{name}.left"), product.left())?;
                Self::Product(
                    left.into(),
                    Self::new(parameters, &format!("{name}.right"), product.right())?.into(),
                )
            }
            Matrix::Sum(sum) => {
                let term = |(i, t)| Self::new(parameters, &format!("{name}.term{i}"), t);
                Self::Sum(sum.terms().iter().enumerate().map(term).collect::<Result<_, _>>()?)
            }
            Matrix::Transposed(_) => {
                let reason = "its factors are stored transposed".to_owned();
                return Err(WeightError::Structure { kind: "transposed", reason });
            }
            Matrix::Csr(_)
            | Matrix::Csc(_)
            | Matrix::Bitmask(_)
            | Matrix::NofM(_)
            | Matrix::BlockDiagonal(_) => {
                let (rows, cols) = (matrix.rows(), matrix.cols());
                if cols > 1 << 16 {
                    let reason = format!("it has {cols} columns, more than 65536");
                    return Err(WeightError::Structure { kind: "sparse", reason });
                }
                // Entries that are stored as zeros are not told from those left out: they stay zero.
                let csr = Csr::from_dense(rows, cols, &matrix.to_dense(), ValueType::F32);
                let kept: Vec<f32> =
                    (0..rows).flat_map(|r| csr.row(r).map(|(_, v)| v).collect::<Vec<_>>()).collect();
                let pattern = Arc::new(Pattern::of(&csr));
                let values = parameters.add(format!("{name}.values"), &[kept.len()], &from_f32::<R>(&kept));
                parameters.get_mut(values).decays = true;
                Self::Sparse { pattern, values, like: matrix.clone().into() }
            }
        })
    }
}

/// The blocks along the diagonal of a dense `rows x cols` matrix.
fn block_diagonal(
    dense: &[f32],
    (rows, cols): (usize, usize),
    (blocks, (height, width)): (usize, (usize, usize)),
    values: ValueType,
) -> BlockDiagonal {
    let row = |r: usize| &dense[r * cols + r / height * width..][..width];
    let data: Vec<f32> = (0..rows).flat_map(row).copied().collect();
    BlockDiagonal::from_f32(rows, cols, blocks, &data, values)
}

impl<R: Real> Parametrisation<R> for FixedStructure {
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Dense(dense) => Parametrisation::<R>::shape(dense),
            Self::Sparse { pattern, .. } => (pattern.rows(), pattern.cols()),
            Self::Product(left, right) => {
                (Parametrisation::<R>::shape(&**left).0, Parametrisation::<R>::shape(&**right).1)
            }
            Self::Sum(terms) => Parametrisation::<R>::shape(&terms[0]),
        }
    }

    fn parameters(&self) -> Vec<ParamId> {
        match self {
            Self::Dense(dense) => Parametrisation::<R>::parameters(dense),
            Self::Sparse { values, .. } => vec![*values],
            Self::Product(left, right) => {
                [left, right].into_iter().flat_map(|p| Parametrisation::<R>::parameters(&**p)).collect()
            }
            Self::Sum(terms) => terms.iter().flat_map(Parametrisation::<R>::parameters).collect(),
        }
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        match self {
            Self::Dense(dense) => dense.apply(tape, parameters, x),
            Self::Sparse { pattern, values, .. } => tape.sparse_linear(parameters, x, pattern, *values),
            Self::Product(left, right) => {
                let inner = right.apply(tape, parameters, x);
                left.apply(tape, parameters, inner)
            }
            Self::Sum(terms) => {
                let first = terms[0].apply(tape, parameters, x);
                terms[1..].iter().fold(first, |sum, term| {
                    let y = term.apply(tape, parameters, x);
                    tape.add(parameters, sum, y)
                })
            }
        }
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        match self {
            Self::Dense(dense) => dense.export(parameters, values),
            Self::Sparse { pattern, values: id, like } => {
                // A value that training moved to zero would leave the structure: it takes the smallest
                // positive number instead, which no product sees.
                let keep = |v: f32| if v == 0.0 { f32::MIN_POSITIVE } else { v };
                let kept: Vec<f32> = to_f32(parameters.value(*id)).into_iter().map(keep).collect();
                let csr = pattern.matrix(&kept, values);
                let (rows, cols) = (pattern.rows(), pattern.cols());
                match &**like {
                    Matrix::Csr(_) => csr.into(),
                    Matrix::Csc(_) => {
                        sparseland_matrix::Csc::from_dense(rows, cols, &csr.to_dense(), values).into()
                    }
                    Matrix::NofM(like) => {
                        let made = NofM::from_dense(rows, cols, &csr.to_dense(), like.pattern(), values);
                        made.expect("the places are those of an N:M matrix").into()
                    }
                    Matrix::BlockDiagonal(like) => {
                        let shape = (like.blocks(), like.block_shape());
                        block_diagonal(&csr.to_dense(), (rows, cols), shape, values).into()
                    }
                    _ => sparseland_matrix::Bitmask::from_dense(rows, cols, &csr.to_dense(), values).into(),
                }
            }
            Self::Product(left, right) => {
                Product::new(left.export(parameters, values), right.export(parameters, values)).into()
            }
            Self::Sum(terms) => Sum::new(terms.iter().map(|t| t.export(parameters, values)).collect()).into(),
        }
    }
}
