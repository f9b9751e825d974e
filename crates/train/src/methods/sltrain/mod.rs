//! Han, Li, Huang, Hong, Takeda, Jawanpuria, Mishra, "SLTrain: a sparse plus low-rank approach for parameter and
//! memory efficient pretraining", NeurIPS 2024, arXiv 2406.02214; official code andyjm3/SLTrain.
//!
//! Every linear weight is `W = (alpha / r) B A + S` with `A: r x in`, `B: out x r` and `S` sparse on a random support
//! that never changes; only `A`, `B` and the non-zeros of `S` exist, in memory, in the gradient and in the optimiser.
//!
//! Where we differ from the official code: it builds `W` densely in every forward and backward pass and gathers the
//! gradient of `S` from a dense one. Here `y = (alpha / r) (x Aᵀ) Bᵀ + x Sᵀ` with sparse products, and the gradient of
//! the non-zeros is sampled (one dot product each): `2 T (r (in + out) + nnz)` multiply-adds forwards, and no dense
//! matrix anywhere. The maths is the same, to rounding.
//!
//! When not to use it: where a rank that keeps quality makes `r (in + out)` approach `in * out`, and with so few tokens
//! per step that rebuilding a small `W` is cheaper.

use std::sync::Arc;

use rand::Rng;
use rand::seq::index;
use serde::{Deserialize, Serialize};
use sparseland_matrix::{Matrix, Pattern, Real, Sum, ValueType};
use sparseland_tape::weight::to_f32;
use sparseland_tape::{ParamId, Parameters, Parametrisation, Tape, Var};

use super::low_rank::{LowRankWeight, check_rank};

/// The parameters of the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlTrain {
    /// Rank of the low-rank part.
    pub rank: usize,
    /// Share of the entries that the sparse part has (paper: 0.03; 0.05 at 7 B parameters).
    #[serde(default = "default_delta")]
    pub delta: f64,
    /// The low-rank part is scaled by `alpha / rank` (paper: 32 at 60 M parameters, 16 to 350 M, 8 above).
    #[serde(default = "default_alpha")]
    pub alpha: f64,
}

fn default_delta() -> f64 {
    0.03
}

fn default_alpha() -> f64 {
    32.0
}

impl SlTrain {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("`rank` is 0".into());
        }
        if !(self.delta > 0.0 && self.delta < 1.0) {
            return Err(format!("`delta` is {}, not between 0 and 1", self.delta));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(format!("`alpha` is {}, not positive", self.alpha));
        }
        Ok(())
    }

    /// A fresh weight `out x in`, initialised as in the paper: `A` and the non-zeros uniform in `±1/sqrt(in)`, `B`
    /// zero. So it starts as its sparse part alone.
    ///
    /// # Errors
    /// If nothing is saved, or the density leaves no entry.
    pub fn weight<R: Real>(
        &self,
        parameters: &mut Parameters<R>,
        name: &str,
        (rows, cols): (usize, usize),
        rng: &mut impl Rng,
    ) -> Result<SlTrainWeight, String> {
        let count = (self.delta * (rows * cols) as f64).floor() as usize;
        if count == 0 {
            let least = 1.0 / (rows * cols) as f64;
            return Err(format!(
                "a density of {} leaves no entry of {name}; use at least {least:.2e}",
                self.delta
            ));
        }
        check_rank(name, self.rank, count, (rows, cols))?;
        let mut flat = index::sample(rng, rows * cols, count).into_vec();
        flat.sort_unstable();
        let entries: Vec<(usize, usize)> = flat.into_iter().map(|i| (i / cols, i % cols)).collect();
        let pattern = Pattern::new(rows, cols, &entries).map_err(|e| format!("{name}: {e}"))?;
        let bound = 1.0 / (cols as f64).sqrt();
        let a = parameters.add_uniform(format!("{name}.low.right"), &[self.rank, cols], bound, rng);
        let b = parameters.add_constant(format!("{name}.low.left"), &[rows, self.rank], R::ZERO);
        let values = parameters.add_uniform(format!("{name}.sparse.values"), &[count], bound, rng);
        parameters.get_mut(values).decays = true;
        let low = LowRankWeight { a, b, shape: (rows, cols), scale: self.alpha / self.rank as f64 };
        Ok(SlTrainWeight { low, pattern: Arc::new(pattern), values })
    }
}

/// `W = scale B A + S`.
#[derive(Debug, Clone)]
pub struct SlTrainWeight {
    low: LowRankWeight,
    pattern: Arc<Pattern>,
    values: ParamId,
}

impl SlTrainWeight {
    /// The places of the sparse part.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }
}

impl<R: Real> Parametrisation<R> for SlTrainWeight {
    fn shape(&self) -> (usize, usize) {
        self.low.shape
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.low.a, self.low.b, self.values]
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        let low = self.low.apply(tape, parameters, x);
        tape.add_sparse_linear(parameters, x, low, &self.pattern, self.values)
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        let sparse = self.pattern.matrix(&to_f32(parameters.value(self.values)), values);
        Sum::new(vec![self.low.export(parameters, values), sparse.into()]).into()
    }
}
