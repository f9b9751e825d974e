//! Fitted models.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sparseland_optim::cd::StopReason;
use sparseland_optim::datafit::{Datafit, Gamma, Huber, Logistic, Poisson, SquaredHinge};
use sparseland_optim::design::Design;

use super::EstimateError;

/// The non-zero entries of a vector of length `len`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseCoef {
    /// Length of the vector.
    pub len: usize,
    /// Positions of the non-zero entries, rising.
    pub indices: Vec<u32>,
    /// Their values.
    pub values: Vec<f64>,
}

impl SparseCoef {
    /// The non-zero entries of `dense`.
    pub fn from_dense(dense: &[f64]) -> Self {
        let found = dense.iter().enumerate().filter(|(_, w)| **w != 0.0);
        let (indices, values) = found.map(|(j, w)| (j as u32, *w)).unzip();
        Self { len: dense.len(), indices, values }
    }

    /// The whole vector.
    pub fn to_dense(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.len];
        self.iter().for_each(|(j, w)| out[j] = w);
        out
    }

    /// Pairs of position and value.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.indices.iter().map(|j| *j as usize).zip(self.values.iter().copied())
    }

    /// Number of non-zero entries.
    pub fn nnz(&self) -> usize {
        self.indices.len()
    }
}

/// The loss of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// `(y - m)² / 2`.
    #[default]
    Squared,
    /// [`Logistic`] for targets 0 and 1.
    Logistic,
    /// [`Huber`].
    Huber {
        /// Where the square ends.
        delta: f64,
    },
    /// [`Poisson`] for counts.
    Poisson,
    /// [`Gamma`] for positive amounts.
    Gamma,
    /// [`SquaredHinge`] for targets 0 and 1.
    SquaredHinge,
}

impl Loss {
    /// Loss of one observation.
    pub fn value(&self, y: f64, m: f64) -> f64 {
        match self.datafit() {
            None => 0.5 * (y - m) * (y - m),
            Some(datafit) => datafit.value(y, m),
        }
    }

    /// The loss as a datafit; `None` for squares, which have a solver of their own.
    pub(crate) fn datafit(&self) -> Option<Box<dyn Datafit>> {
        match *self {
            Loss::Squared => None,
            Loss::Logistic => Some(Box::new(Logistic)),
            Loss::Huber { delta } => Some(Box::new(Huber { delta })),
            Loss::Poisson => Some(Box::new(Poisson)),
            Loss::Gamma => Some(Box::new(Gamma)),
            Loss::SquaredHinge => Some(Box::new(SquaredHinge)),
        }
    }
}

/// A fitted linear model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Coefficients on the scale of X.
    pub coef: SparseCoef,
    /// Intercept, 0 without one.
    pub intercept: f64,
    /// The strength it was fitted at (for best subset: the size of the subset).
    pub alpha: f64,
    /// Sweeps or Newton steps made.
    pub n_iter: usize,
    /// Duality gap relative to the objective of the model without coefficients, where the problem has
    /// one.
    pub gap: Option<f64>,
    /// Greatest distance to stationarity, relative to the greatest gradient of the model without
    /// coefficients.
    pub kkt: f64,
    /// Value of the penalised objective, mean loss plus penalty.
    pub objective: f64,
    /// Mean loss.
    pub mean_loss: f64,
    /// Share of the loss of the model without coefficients that is explained.
    pub explained: f64,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// Why the solver stopped.
    pub stop_reason: StopReason,
    /// The loss that was minimised.
    pub loss: Loss,
}

impl Fitted {
    /// `X w + b` for every row of X. Cost: the stored entries of the columns in use.
    ///
    /// # Errors
    /// [`EstimateError::Features`] when X has another number of columns.
    pub fn decision_function(&self, x: &dyn Design) -> Result<Vec<f64>, EstimateError> {
        if x.cols() != self.coef.len {
            return Err(EstimateError::Features { expected: self.coef.len, got: x.cols() });
        }
        let mut out = vec![self.intercept; x.rows()];
        self.coef.iter().for_each(|(j, w)| x.axpy(j, w, &mut out));
        Ok(out)
    }

    /// The predicted target: `X w + b`; for logistic and hinge models the class, 0 or 1; for Poisson and
    /// Gamma models the mean, `exp(X w + b)`.
    ///
    /// # Errors
    /// As [`Fitted::decision_function`].
    pub fn predict(&self, x: &dyn Design) -> Result<Vec<f64>, EstimateError> {
        let mut out = self.decision_function(x)?;
        match self.loss {
            Loss::Logistic | Loss::SquaredHinge => {
                out.iter_mut().for_each(|m| *m = f64::from(u8::from(*m > 0.0)));
            }
            Loss::Poisson | Loss::Gamma => out.iter_mut().for_each(|m| *m = m.exp()),
            Loss::Squared | Loss::Huber { .. } => {}
        }
        Ok(out)
    }

    /// Probability of class 1 of a logistic model.
    ///
    /// # Errors
    /// As [`Fitted::decision_function`].
    pub fn predict_proba(&self, x: &dyn Design) -> Result<Vec<f64>, EstimateError> {
        let mut out = self.decision_function(x)?;
        // The derivative of the loss at target 0 is the probability.
        out.iter_mut().for_each(|m| *m = Logistic.derivatives(0.0, *m).0);
        Ok(out)
    }

    /// R² of the predictions for squared and Huber losses, accuracy for classes, and the share of the
    /// deviance explained against the best constant (D²) for Poisson and Gamma.
    ///
    /// # Errors
    /// As [`Fitted::decision_function`]; [`EstimateError::Length`] for a target of another length.
    pub fn score(&self, x: &dyn Design, y: &[f64]) -> Result<f64, EstimateError> {
        if y.len() != x.rows() {
            return Err(EstimateError::Length {
                what: "y",
                why: "rows of X",
                expected: x.rows(),
                got: y.len(),
            });
        }
        let n = y.len() as f64;
        let mean = y.iter().sum::<f64>() / n;
        // The share of the distance that the constant `level` leaves and the model does not.
        let share = |margin: &[f64], level: f64, distance: &dyn Fn(f64, f64) -> f64| {
            let rest: f64 = margin.iter().zip(y).map(|(m, y)| distance(*m, *y)).sum();
            1.0 - rest / y.iter().map(|y| distance(level, *y)).sum::<f64>()
        };
        Ok(match self.loss {
            Loss::Logistic | Loss::SquaredHinge => {
                self.predict(x)?.iter().zip(y).filter(|(a, b)| a == b).count() as f64 / n
            }
            Loss::Squared | Loss::Huber { .. } => {
                share(&self.decision_function(x)?, mean, &|m, y| (y - m) * (y - m))
            }
            Loss::Poisson => {
                let saturated = |y: f64| if y > 0.0 { y - y * y.ln() } else { 0.0 };
                share(&self.decision_function(x)?, mean.ln(), &|m, y| Poisson.value(y, m) - saturated(y))
            }
            Loss::Gamma => {
                share(&self.decision_function(x)?, mean.ln(), &|m, y| Gamma.value(y, m) - (1.0 + y.ln()))
            }
        })
    }

    /// Root mean squared residual of the rows it was fitted on, for squared losses: the `σ` of
    /// [`SqrtLasso`](super::SqrtLasso), as long as that is above its floor.
    pub fn noise_level(&self) -> f64 {
        (2.0 * self.mean_loss).sqrt()
    }

    /// Writes the model as JSON; numbers come back to the bit.
    ///
    /// # Errors
    /// [`EstimateError::File`].
    pub fn save(&self, path: &Path) -> Result<(), EstimateError> {
        save(self, path)
    }

    /// Reads a model that [`Fitted::save`] wrote.
    ///
    /// # Errors
    /// [`EstimateError::File`] and [`EstimateError::Format`].
    pub fn load(path: &Path) -> Result<Self, EstimateError> {
        load(path)
    }
}

pub(crate) fn save<T: Serialize>(model: &T, path: &Path) -> Result<(), EstimateError> {
    let name = || path.display().to_string();
    let text =
        serde_json::to_string(model).map_err(|source| EstimateError::Format { path: name(), source })?;
    std::fs::write(path, text).map_err(|source| EstimateError::File { path: name(), source })
}

pub(crate) fn load<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, EstimateError> {
    let name = || path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| EstimateError::File { path: name(), source })?;
    serde_json::from_str(&text).map_err(|source| EstimateError::Format { path: name(), source })
}
