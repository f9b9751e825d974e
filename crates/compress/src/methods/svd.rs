//! Plain truncated SVD: the baseline that knows nothing of the data.
//!
//! `min ||W - W~||_F` over rank `r`: by Eckart and Young the leading `r` singular triplets, split
//! `U sqrt(s)`, `sqrt(s) Vᵀ`. Cost `O(d1 d2 min(d1, d2))` once per layer; any rank afterwards is a
//! slice.
//!
//! When not to use it: always prefer [`super::svd_llm`] where calibration text is at hand; the
//! weight-space optimum spends rank on input directions that the network never sees.

use sparseland_linalg::{Mat, Svd, svd};

use crate::CompressError;
use crate::problem::{Errors, FactorShape, Factorizer, Factors, LayerProblem, Limit, PreparedLayer, ratio};

/// Plain SVD.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainSvd;

struct Prepared {
    svd: Svd<f64>,
    problem: LayerProblem,
}

impl Factorizer for PlainSvd {
    fn slug(&self) -> &'static str {
        "svd"
    }

    fn needs_calibration(&self) -> bool {
        false
    }

    fn prepare(&self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer>, CompressError> {
        let svd = svd(&problem.weight)?;
        Ok(Box::new(Prepared { svd, problem }))
    }
}

impl PreparedLayer for Prepared {
    fn best_shape(
        &self,
        limit: Limit,
        _: Option<FactorShape>,
    ) -> Result<Option<(FactorShape, Errors)>, CompressError> {
        let shape = (self.problem.weight.rows, self.problem.weight.cols);
        let Some(shape) = FactorShape::fitting(shape, 1.0, limit) else {
            return Ok(None);
        };
        let errors = match &self.problem.whitener {
            None => {
                let error = tail(&self.svd.s, shape.k);
                Errors { weight: error, output: error }
            }
            Some(_) => {
                let factors = self.factors(shape)?;
                let product = sparseland_linalg::matmul(&factors.left, &factors.right)?;
                self.problem.errors(&product.transposed())?
            }
        };
        Ok(Some((shape, errors)))
    }

    fn factors(&self, shape: FactorShape) -> Result<Factors, CompressError> {
        split(&self.svd, shape.k, Ok)
    }
}

/// Relative energy of the singular values from `k` on.
pub(crate) fn tail(s: &[f64], k: usize) -> f64 {
    let energy = |s: &[f64]| s.iter().map(|v| v * v).sum::<f64>().sqrt();
    ratio(energy(&s[k.min(s.len())..]), energy(s))
}

/// `W ~ unwhiten(U sqrt(s)) sqrt(s) Vᵀ` cut to rank `k`, in checkpoint orientation.
pub(crate) fn split(
    svd: &Svd<f64>,
    k: usize,
    unwhiten: impl Fn(Mat<f64>) -> Result<Mat<f64>, CompressError>,
) -> Result<Factors, CompressError> {
    let (d1, d2) = (svd.u.rows, svd.vt.cols);
    let roots: Vec<f64> = svd.s[..k].iter().map(|s| s.sqrt()).collect();
    let dictionary = unwhiten(Mat::from_fn(d1, k, |i, a| svd.u.at(i, a) * roots[a]))?;
    let left = Mat::from_fn(d2, k, |j, a| svd.vt.at(a, j) * roots[a]);
    Ok(Factors { left, right: dictionary.transposed(), sparse: false })
}
