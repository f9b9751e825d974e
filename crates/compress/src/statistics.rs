//! What calibration text sends into a layer: moments per input channel, the Gram matrix, the whitener.

use std::sync::{Arc, OnceLock};

use sparseland_linalg::{GramAccumulator, Mat, Whitener, cholesky_robust, matmul};

use crate::CompressError;
use crate::problem::{Needs, norm};

/// Statistics of the inputs of one layer (or of several that read the same inputs).
#[derive(Debug)]
pub struct InputStatistics {
    /// Tokens seen.
    pub tokens: u64,
    /// Sequences seen.
    pub sequences: u64,
    /// Mean of every channel.
    pub mean: Vec<f64>,
    /// Mean absolute value of every channel.
    pub mean_abs: Vec<f64>,
    /// Sum of squares of every channel.
    pub squares: Vec<f64>,
    gram: Option<Mat<f64>>,
    whitener: OnceLock<Whitener>,
}

impl InputStatistics {
    /// Of a batch of inputs, one per row.
    ///
    /// # Errors
    /// If the batch is empty or not finite.
    pub fn of(inputs: &Mat<f64>, needs: Needs) -> Result<Self, CompressError> {
        let mut collector = Collector::new(inputs.cols);
        let rows: Vec<f32> = inputs.data.iter().map(|&v| v as f32).collect();
        collector.add(&rows)?;
        collector.finish(needs)
    }

    /// Of a Gram matrix alone, as if from one sequence of `tokens` inputs with mean 0.
    pub fn from_gram(gram: Mat<f64>, tokens: u64) -> Self {
        let d = gram.rows;
        let squares = (0..d).map(|i| gram.at(i, i)).collect();
        let (mean, mean_abs) = (vec![0.0; d], vec![0.0; d]);
        Self { tokens, sequences: 1, mean, mean_abs, squares, gram: Some(gram), whitener: OnceLock::new() }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.squares.len()
    }

    /// Biased variance of every channel.
    pub fn variance(&self) -> Vec<f64> {
        let n = self.tokens.max(1) as f64;
        self.squares.iter().zip(&self.mean).map(|(s, m)| (s / n - m * m).max(0.0)).collect()
    }

    /// `sum x xᵀ`.
    ///
    /// # Errors
    /// If the method asked for the whitener only.
    pub fn gram(&self) -> Result<&Mat<f64>, CompressError> {
        self.gram.as_ref().ok_or(CompressError::NoCalibration)
    }

    /// `L` with `LᵀL = sum x xᵀ`, jittered where that is singular.
    ///
    /// # Errors
    /// If the Gram matrix is not finite.
    pub fn whitener(&self) -> Result<&Whitener, CompressError> {
        if let Some(whitener) = self.whitener.get() {
            return Ok(whitener);
        }
        let whitener = cholesky_robust(self.gram()?)?;
        Ok(self.whitener.get_or_init(|| whitener))
    }

    /// The condition number of the whitener, where one was made.
    pub fn condition(&self) -> Option<f64> {
        self.whitener.get().map(Whitener::condition)
    }

    /// `||X A||_F` over the calibration inputs `X`, for `A: channels x anything`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn output_norm(&self, a: &Mat<f64>) -> Result<f64, CompressError> {
        if let Some(gram) = &self.gram {
            let product = matmul(gram, a)?;
            let inner: f64 = product.data.iter().zip(&a.data).map(|(p, v)| p * v).sum();
            return Ok(inner.max(0.0).sqrt());
        }
        Ok(norm(&self.whitener()?.apply(a)?))
    }
}

/// What the original network sends into a layer whose inputs in use come from compressed layers before it.
#[derive(Debug)]
pub struct OriginalInputs {
    /// Statistics of the original inputs `x`.
    pub statistics: Arc<InputStatistics>,
    /// `sum x x'ᵀ`, `x'` the input in use for the same token: `channels x channels`.
    pub cross: Mat<f64>,
}

/// Adds up the statistics sequence by sequence.
pub(crate) struct Collector {
    gram: GramAccumulator,
    sum: Vec<f64>,
    sum_abs: Vec<f64>,
    squares: Vec<f64>,
    tokens: u64,
    sequences: u64,
}

impl Collector {
    pub(crate) fn new(channels: usize) -> Self {
        let zeros = || vec![0.0; channels];
        Self {
            gram: GramAccumulator::new(channels),
            sum: zeros(),
            sum_abs: zeros(),
            squares: zeros(),
            tokens: 0,
            sequences: 0,
        }
    }

    /// Adds the inputs of one sequence, one row per token. Rows that are not finite are left out and counted.
    pub(crate) fn add(&mut self, x: &[f32]) -> Result<(), CompressError> {
        self.gram.add(x)?;
        for row in x.chunks_exact(self.sum.len()).filter(|row| row.iter().all(|v| v.is_finite())) {
            self.tokens += 1;
            for (i, &v) in row.iter().enumerate() {
                let v = f64::from(v);
                self.sum[i] += v;
                self.sum_abs[i] += v.abs();
                self.squares[i] += v * v;
            }
        }
        self.sequences += 1;
        Ok(())
    }

    /// Rows left out.
    pub(crate) fn dropped(&self) -> u64 {
        self.gram.dropped() as u64
    }

    /// The statistics, with the whitener instead of the Gram matrix if that is all the method needs.
    pub(crate) fn finish(self, needs: Needs) -> Result<InputStatistics, CompressError> {
        let n = self.tokens.max(1) as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|s| s / n).collect();
        let mut statistics = InputStatistics {
            tokens: self.tokens,
            sequences: self.sequences,
            mean: mean(self.sum),
            mean_abs: mean(self.sum_abs),
            squares: self.squares,
            gram: Some(self.gram.finish()),
            whitener: OnceLock::new(),
        };
        if needs == Needs::Whitener {
            statistics.whitener()?;
            statistics.gram = None;
        }
        Ok(statistics)
    }
}
