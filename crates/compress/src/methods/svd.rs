//! Plain truncated SVD: the baseline that knows nothing of the data.
//!
//! `min ||W - W~||_F` over rank `r`: by Eckart and Young the leading `r` singular triplets, split
//! `U sqrt(s)`, `sqrt(s) Vᵀ`. Cost `O(d1 d2 min(d1, d2))` once per layer; any rank afterwards is a
//! slice.
//!
//! When not to use it: always prefer [`super::svd_llm`] where calibration text is at hand; the
//! weight-space optimum spends rank on input directions that the network never sees.

use sparseland_linalg::{Mat, Svd, svd};
use sparseland_matrix::{Layout, Matrix};

use crate::CompressError;
use crate::problem::{
    Candidate, Errors, FactorShape, Factors, LayerMethod, LayerProblem, Limit, Needs, PreparedLayer,
    foreign_layout, ratio,
};

/// Plain SVD.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainSvd;

/// A layer ready to be cut to any rank.
pub(crate) struct Prepared {
    /// Of the weight.
    pub(crate) svd: Svd<f64>,
    problem: LayerProblem,
}

impl Prepared {
    pub(crate) fn new(problem: LayerProblem) -> Result<Self, CompressError> {
        let svd = svd(&problem.weight)?;
        Ok(Self { svd, problem })
    }
}

impl LayerMethod for PlainSvd {
    fn slug(&self) -> &'static str {
        "svd"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn prepare<'a>(&'a self, problem: LayerProblem) -> Result<Box<dyn PreparedLayer + 'a>, CompressError> {
        Ok(Box::new(Prepared::new(problem)?))
    }
}

impl PreparedLayer for Prepared {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let sides = self.problem.sides();
        let Some(shape) = FactorShape::fitting(sides, 1.0, limit) else {
            return Ok(None);
        };
        let layout = shape.layout(sides.0, sides.1, limit.values);
        let errors = match &self.problem.inputs {
            None => {
                let error = tail(&self.svd.s, shape.k);
                Errors { weight: error, output: error }
            }
            Some(_) => self.problem.errors(&crate::problem::inputs_first(&self.build(&layout)?))?,
        };
        Ok(Some(Candidate { layout, errors, marginal: marginal(&self.svd.s, shape.k) }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let k = rank_of("svd", layout)?;
        Ok(split(&self.svd, k, Ok)?.into_matrix(self.problem.values))
    }
}

/// The rank of a low-rank layout.
///
/// # Errors
/// [`CompressError::Plan`] for any other structure.
pub(crate) fn rank_of(slug: &str, layout: &Layout) -> Result<usize, CompressError> {
    match FactorShape::of(layout) {
        Some(FactorShape { k, s }) if k == s && k <= layout.rows().min(layout.cols()) => Ok(k),
        _ => Err(foreign_layout(slug, layout)),
    }
}

/// The first dropped singular value, scaled so that the largest is 1 and the smallest 0 (WeLore); `None`
/// where all are equal.
pub(crate) fn marginal(s: &[f64], k: usize) -> Option<f64> {
    let (first, last) = (s.first()?, s.last()?);
    let next = s.get(k)?;
    (first > last).then(|| (next - last) / (first - last))
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
