//! Plain low rank, `W = B A`, trained from scratch: the baseline of every low-rank method.

use rand::Rng;
use serde::{Deserialize, Serialize};
use sparseland_matrix::{Dense, Matrix, Product, Real, ValueType};
use sparseland_tape::weight::to_f32;
use sparseland_tape::{ParamId, Parameters, Parametrisation, Tape, Var};

/// The parameters of the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowRank {
    /// The rank.
    pub rank: usize,
}

impl LowRank {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rank == 0 { Err("`rank` is 0".into()) } else { Ok(()) }
    }

    /// A fresh weight `out x in` whose entries have about the deviation `deviation`.
    ///
    /// # Errors
    /// If the rank does not save anything.
    pub fn weight<R: Real>(
        &self,
        parameters: &mut Parameters<R>,
        name: &str,
        shape: (usize, usize),
        deviation: f64,
        rng: &mut impl Rng,
    ) -> Result<LowRankWeight, String> {
        let rank = self.rank;
        check_rank(name, rank, 0, shape)?;
        // Entries of B A have variance rank * var(A) * var(B).
        let each = (deviation / (rank as f64).sqrt()).sqrt();
        let a = parameters.add_normal(format!("{name}.right"), &[rank, shape.1], each, rng);
        let b = parameters.add_normal(format!("{name}.left"), &[shape.0, rank], each, rng);
        Ok(LowRankWeight { a, b, shape, scale: 1.0 })
    }
}

/// Refuses a rank that stores more than the dense matrix.
pub(crate) fn check_rank(
    name: &str,
    rank: usize,
    nonzeros: usize,
    (rows, cols): (usize, usize),
) -> Result<(), String> {
    let most = (rows * cols).saturating_sub(nonzeros + 1) / (rows + cols);
    if rank > most {
        return Err(format!(
            "rank {rank} with {nonzeros} sparse entries stores more than the dense {rows} x {cols} matrix {name}; \
             use a rank of at most {most} or train it dense"
        ));
    }
    Ok(())
}

/// `W = scale B A`.
#[derive(Debug, Clone)]
pub struct LowRankWeight {
    /// `A: rank x in`.
    pub a: ParamId,
    /// `B: out x rank`.
    pub b: ParamId,
    /// `(out, in)`.
    pub shape: (usize, usize),
    /// A fixed factor.
    pub scale: f64,
}

impl<R: Real> Parametrisation<R> for LowRankWeight {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn parameters(&self) -> Vec<ParamId> {
        vec![self.a, self.b]
    }

    fn apply(&self, tape: &mut Tape<R>, parameters: &Parameters<R>, x: Var) -> Var {
        let mut inner = tape.linear(parameters, x, self.a, None);
        if self.scale != 1.0 {
            inner = tape.scale(parameters, inner, R::real(self.scale));
        }
        tape.linear(parameters, inner, self.b, None)
    }

    fn export(&self, parameters: &Parameters<R>, values: ValueType) -> Matrix {
        let rank = parameters.get(self.a).shape[0];
        let scale = self.scale as f32;
        let b: Vec<f32> = to_f32(parameters.value(self.b)).into_iter().map(|v| scale * v).collect();
        Product::new(
            Dense::from_f32(self.shape.0, rank, &b, values),
            Dense::from_f32(rank, self.shape.1, &to_f32(parameters.value(self.a)), values),
        )
        .into()
    }
}
