//! Timings of the batched products.

use std::time::Instant;

use super::{Noise, Source, median};
use crate::{Bitmask, Csr, Dense, LinearMap, Matrix, NofM, ValueType};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shapes, `(rows, cols)`.
    pub shapes: Vec<(usize, usize)>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Numbers of threads; every number gets a pool of its own.
    pub threads: Vec<usize>,
    /// Products of each kernel that are timed; at least 20 for figures that are quoted.
    pub repetitions: usize,
    /// The transposed product `Y = X W` instead of `Y = X Wᵀ`.
    pub transposed: bool,
    /// Only kernels whose name and type contain this (and dense f32).
    pub filter: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shapes: vec![(4080, 4096)],
            batches: vec![4, 16, 64, 256, 512],
            threads: vec![2],
            repetitions: 20,
            transposed: false,
            filter: None,
        }
    }
}

/// One kernel on one shape with one batch and one number of threads.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// The kernel.
    pub kernel: &'static str,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Stored type.
    pub values: ValueType,
    /// Share of zeros.
    pub sparsity: f64,
    /// Vectors multiplied at once.
    pub batch: usize,
    /// Threads of the pool.
    pub threads: usize,
    /// Median time of a product.
    pub median_seconds: f64,
    /// The fastest product: what is left when other programs disturb the median.
    pub best_seconds: f64,
    /// Two operations for each entry of the *dense* matrix and each vector, by the median time, in
    /// 10^9 a second: what a dense kernel would have to reach.
    pub gflops_effective: f64,
    /// Dense f32 time by this time, medians of the same run.
    pub ratio_vs_dense_f32: f64,
}

/// A kernel to measure: name, type, share of zeros, how its matrix is built.
type Candidate = (&'static str, ValueType, f64, fn(&Source, ValueType, f64) -> Matrix);

fn candidates() -> Vec<Candidate> {
    let dense = |s: &Source, values: ValueType, _| Dense::from_f32(s.rows, s.cols, &s.data, values).into();
    let bitmask = |s: &Source, values: ValueType, sparsity: f64| {
        Bitmask::from_dense(s.rows, s.cols, &s.pruned(sparsity), values).into()
    };
    let csr = |s: &Source, values: ValueType, sparsity: f64| {
        Csr::from_dense(s.rows, s.cols, &s.pruned(sparsity), values).into()
    };
    let (f32, bf16, i8) = (ValueType::F32, ValueType::Bf16, ValueType::I8);
    let mut all: Vec<Candidate> =
        vec![("dense", f32, 0.0, dense), ("dense", bf16, 0.0, dense), ("dense", i8, 0.0, dense)];
    for values in [f32, bf16] {
        all.push(("2:4", values, 0.5, |s, v, _| s.pattern((2, 4), v)));
    }
    all.push(("1:4", f32, 0.75, |s, v, _| s.pattern((1, 4), v)));
    all.push(("2:16", f32, 0.875, |s, v, _| s.pattern((2, 16), v)));
    all.push(("2:4 by 6 rows", f32, 0.5, |s, v, _| shared(s, (2, 4), v)));
    all.push(("1:4 by 6 rows", f32, 0.75, |s, v, _| shared(s, (1, 4), v)));
    for sparsity in [0.5, 0.7, 0.9] {
        all.push(("bitmask", f32, sparsity, bitmask));
    }
    all.push(("csr", f32, 0.5, csr));
    for sparsity in [0.9, 0.95] {
        all.push(("csr", f32, sparsity, csr));
    }
    all
}

/// An N:M pattern that every six rows share ("vector-wise").
fn shared(s: &Source, (n, m): (usize, usize), values: ValueType) -> Matrix {
    let mut data = s.data.clone();
    for (r, row) in data.chunks_mut(s.cols).enumerate() {
        // The same numbers for the rows of a block.
        let mut noise = Noise(5 + r as u64 / 6);
        for group in row.chunks_mut(m) {
            let mut left = group.len().saturating_sub(n);
            while left > 0 {
                let i = (noise.uniform() * group.len() as f32) as usize;
                left -= usize::from(group[i] != 0.0);
                group[i] = 0.0;
            }
        }
    }
    NofM::from_dense(s.rows, s.cols, &data, (n, m), values).expect("pruned to the pattern").into()
}

/// Times every kernel's product with a batch. Kernels take turns, so that a machine that slows
/// down slows all of them.
pub fn batch(options: &Options) -> Vec<Row> {
    let mut out = Vec::new();
    for &(rows, cols) in &options.shapes {
        let source = Source::new(rows, cols);
        let wanted = |c: &Candidate| {
            let full = format!("{} {}", c.0, c.1);
            (c.0, c.1) == ("dense", ValueType::F32)
                || options.filter.as_ref().is_none_or(|f| full.contains(f.as_str()))
        };
        let matrices: Vec<(Candidate, Matrix)> = candidates()
            .into_iter()
            .filter(wanted)
            .map(|c| {
                let matrix = c.3(&source, c.1, c.2);
                (c, matrix)
            })
            .collect();
        for &threads in &options.threads {
            let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { continue };
            for &batch in &options.batches {
                out.extend(pool.install(|| turns(options, &matrices, (rows, cols), batch, threads)));
            }
        }
    }
    out
}

fn turns(
    options: &Options,
    matrices: &[(Candidate, Matrix)],
    (rows, cols): (usize, usize),
    batch: usize,
    threads: usize,
) -> Vec<Row> {
    let (inputs, outputs) = if options.transposed { (rows, cols) } else { (cols, rows) };
    let mut noise = Noise(6);
    let x: Vec<f32> = (0..batch * inputs).map(|_| 2.0 * noise.uniform() - 1.0).collect();
    let mut y = vec![0.0; batch * outputs];
    let mut seconds = vec![Vec::new(); matrices.len()];
    for round in 0..options.repetitions + 1 {
        for ((_, matrix), seconds) in matrices.iter().zip(&mut seconds) {
            let start = Instant::now();
            if options.transposed {
                matrix.apply_transposed_batch(&x, batch, &mut y);
            } else {
                matrix.apply_batch(&x, batch, &mut y);
            }
            std::hint::black_box(&y);
            // The first round warms up.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    // Dense f32 comes first.
    let medians: Vec<f64> = seconds.iter_mut().map(|s| median(s)).collect();
    let rows = matrices.iter().zip(&medians).zip(&seconds).map(|(((candidate, _), &median), seconds)| Row {
        kernel: candidate.0,
        rows,
        cols,
        values: candidate.1,
        sparsity: candidate.2,
        batch,
        threads,
        median_seconds: median,
        best_seconds: seconds.first().copied().unwrap_or(0.0),
        gflops_effective: 2e-9 * (batch * rows * cols) as f64 / median,
        ratio_vs_dense_f32: medians[0] / median,
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_timed_for_every_batch() {
        let options =
            Options { shapes: vec![(24, 64)], batches: vec![1, 20], repetitions: 2, ..Options::default() };
        let rows = batch(&options);
        assert_eq!(rows.len(), 2 * candidates().len());
        assert!(rows.iter().all(|r| r.median_seconds > 0.0 && r.best_seconds <= r.median_seconds));
        assert!(rows.iter().filter(|r| r.kernel == "dense").any(|r| r.ratio_vs_dense_f32 == 1.0));
    }
}
