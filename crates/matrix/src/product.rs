//! Products and sums of matrices: low rank, dictionary x sparse, low rank + sparse.

use std::sync::Arc;

use crate::kernels::{self, gemv::Scratch};
use crate::{Layout, LinearMap, Matrix};

/// `left * right` with `left: rows x k`, `right: k x cols`.
///
/// Both dense: low rank. `left` sparse: sparse coefficients times a dense dictionary of `k` atoms
/// (ROCKET, CoSpaDi), whose paper form `X D S` with inputs on the left is the transpose. Factors are never changed, so
/// that several products may hold the same one in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    left: Arc<Matrix>,
    right: Arc<Matrix>,
}

impl Product {
    /// The product of two matrices.
    ///
    /// # Panics
    /// If `left` has not as many columns as `right` has rows.
    pub fn new(left: impl Into<Matrix>, right: impl Into<Matrix>) -> Self {
        Self::of_shared(Arc::new(left.into()), Arc::new(right.into()))
    }

    /// As [`new`](Self::new), of factors that other products may hold, too.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn of_shared(left: Arc<Matrix>, right: Arc<Matrix>) -> Self {
        assert_eq!(left.cols(), right.rows(), "inner dimensions differ");
        Self { left, right }
    }

    /// Left and right factor as held, to be shared or told apart.
    pub fn factors(&self) -> [&Arc<Matrix>; 2] {
        [&self.left, &self.right]
    }

    /// The factor applied last.
    pub fn left(&self) -> &Matrix {
        &self.left
    }

    /// The factor applied first.
    pub fn right(&self) -> &Matrix {
        &self.right
    }
}

impl LinearMap for Product {
    fn layout(&self) -> Layout {
        Layout::Product { left: Box::new(self.left.layout()), right: Box::new(self.right.layout()) }
    }
    fn rows(&self) -> usize {
        self.left.rows()
    }
    fn cols(&self) -> usize {
        self.right.cols()
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        let mut inner = Scratch::new(self.right.rows());
        self.right.apply(x, &mut inner);
        self.left.apply(&inner, y);
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::product(self, x, batch, y, false, false);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        let mut inner = Scratch::new(self.left.cols());
        self.left.apply_transposed(x, &mut inner);
        self.right.apply_transposed(&inner, y);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::product(self, x, batch, y, false, true);
    }
    fn to_dense(&self) -> Vec<f32> {
        // Every row of `left` is an item of a batch of right's transposed product.
        let (rows, cols) = (self.rows(), self.cols());
        let mut out = vec![0.0; rows * cols];
        self.right.apply_transposed_batch(&self.left.to_dense(), rows, &mut out);
        out
    }
}

/// A sum of matrices of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Sum {
    terms: Vec<Matrix>,
}

impl Sum {
    /// The sum of at least one term.
    ///
    /// # Panics
    /// If there is no term or the shapes differ.
    pub fn new(terms: Vec<Matrix>) -> Self {
        let shape = terms.first().map(|t| (t.rows(), t.cols())).expect("a sum needs a term");
        assert!(terms.iter().all(|t| (t.rows(), t.cols()) == shape), "terms of different shapes");
        Self { terms }
    }

    /// The terms.
    pub fn terms(&self) -> &[Matrix] {
        &self.terms
    }

    fn accumulate(&self, y: &mut [f32], apply: impl Fn(&Matrix, &mut [f32])) {
        let (first, rest) = self.terms.split_first().expect("checked on construction");
        apply(first, y);
        let mut part = Scratch::new(y.len());
        for term in rest {
            apply(term, &mut part);
            for (y, &p) in y.iter_mut().zip(part.iter()) {
                *y += p;
            }
        }
    }
}

impl LinearMap for Sum {
    fn layout(&self) -> Layout {
        Layout::Sum { terms: self.terms.iter().map(LinearMap::layout).collect() }
    }
    fn rows(&self) -> usize {
        self.terms[0].rows()
    }
    fn cols(&self) -> usize {
        self.terms[0].cols()
    }
    fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.accumulate(y, |term, y| term.apply(x, y));
    }
    fn apply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sum(self, x, batch, y, false, false);
    }
    fn apply_transposed_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        kernels::batch::sum(self, x, batch, y, false, true);
    }
    fn apply_transposed(&self, x: &[f32], y: &mut [f32]) {
        self.accumulate(y, |term, y| term.apply_transposed(x, y));
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.cols()];
        self.accumulate(&mut out, |term, out| out.copy_from_slice(&term.to_dense()));
        out
    }
}
