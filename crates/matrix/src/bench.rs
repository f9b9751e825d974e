//! Timings of the products, for `sparseland bench kernels` and reports.

pub mod batch;

use std::time::Instant;

use noise::Noise;

use crate::{Bitmask, Csr, Dense, LinearMap, Matrix, NofM, Product, Transposed, ValueType, kernels};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shapes, `(rows, cols)`.
    pub shapes: Vec<(usize, usize)>,
    /// Numbers of threads; every number gets a pool of its own.
    pub threads: Vec<usize>,
    /// Bytes that are read between two uses of the same matrix: beyond every cache.
    pub rotation: usize,
    /// Products of each kernel that are timed.
    pub repetitions: usize,
    /// Only kernels whose name contains this.
    pub filter: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shapes: vec![(4096, 4096)],
            threads: vec![1, 2],
            rotation: 3 << 29,
            repetitions: 20,
            filter: None,
        }
    }
}

/// One kernel on one shape with one number of threads.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// The kernel: `read` is a plain sum of memory, the limit of all others.
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
    /// Bytes that a product reads: those of the matrix in a file, less the columns that are skipped.
    pub stored_bytes: u64,
    /// Median time of a product.
    pub median_seconds: f64,
    /// The fastest product: what is left when other programs disturb the median.
    pub best_seconds: f64,
    /// Stored bytes by median time, in 10^9 bytes a second.
    pub gb_per_second: f64,
    /// Dense f32 time by this time, medians of the same run; zero if dense f32 was not measured.
    pub ratio_vs_dense_f32: f64,
    /// As above for dense bf16.
    pub ratio_vs_dense_bf16: f64,
    /// As above for dense int8.
    pub ratio_vs_dense_int8: f64,
    /// Bytes of the dense matrix of the same type by stored bytes: the ratio that reading alone allows.
    pub byte_ratio_limit: f64,
}

/// A kernel to measure: name, type, share of zeros, how its matrix is built.
type Candidate = (&'static str, ValueType, f64, fn(&Source, ValueType, f64) -> Matrix);

/// Dense data that every matrix is pruned from.
struct Source {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

mod noise {
    //! A small generator, so that the library needs none as a dependency.

    /// SplitMix64.
    pub(super) struct Noise(pub(super) u64);

    impl Noise {
        /// Uniform in `[0, 1)`.
        pub(super) fn uniform(&mut self) -> f32 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
        }
    }
}

impl Source {
    fn new(rows: usize, cols: usize) -> Self {
        let mut noise = Noise(1);
        // Uniform in +-1 without zeros.
        let data = (0..rows * cols).map(|_| 2.0 * noise.uniform() - 1.0 + 1e-8).collect();
        Self { rows, cols, data }
    }

    /// The data with each number dropped with probability `sparsity`.
    fn pruned(&self, sparsity: f64) -> Vec<f32> {
        let mut noise = Noise(2);
        self.data.iter().map(|&w| if f64::from(noise.uniform()) < sparsity { 0.0 } else { w }).collect()
    }

    fn pattern(&self, (n, m): (usize, usize), values: ValueType) -> Matrix {
        let mut data = self.data.clone();
        let mut noise = Noise(3);
        for group in data.chunks_mut(self.cols).flat_map(|row| row.chunks_mut(m)) {
            let mut left = group.len().saturating_sub(n);
            while left > 0 {
                let i = (noise.uniform() * group.len() as f32) as usize;
                left -= usize::from(group[i] != 0.0);
                group[i] = 0.0;
            }
        }
        let matrix = NofM::from_dense(self.rows, self.cols, &data, (n, m), values);
        matrix.expect("pruned to the pattern").into()
    }
}

/// The kernel that skips inputs.
const INPUTS: &str = "inputs skipped";

fn dense(s: &Source, values: ValueType, _: f64) -> Matrix {
    Dense::from_f32(s.rows, s.cols, &s.data, values).into()
}

fn bitmask(s: &Source, values: ValueType, sparsity: f64) -> Matrix {
    Bitmask::from_dense(s.rows, s.cols, &s.pruned(sparsity), values).into()
}

fn csr(s: &Source, values: ValueType, sparsity: f64) -> Matrix {
    Csr::from_dense(s.rows, s.cols, &s.pruned(sparsity), values).into()
}

/// A dense dictionary of `cols / 4` atoms and sparse coefficients.
fn dictionary(s: &Source, values: ValueType, sparsity: f64) -> Matrix {
    let k = s.cols / 4;
    let left = Source { rows: s.rows, cols: k, data: s.data[..s.rows * k].to_vec() };
    let right = Source { rows: k, cols: s.cols, data: s.data[..k * s.cols].to_vec() };
    Product::new(bitmask(&left, values, sparsity), dense(&right, values, 0.0)).into()
}

const F32: ValueType = ValueType::F32;
const BF16: ValueType = ValueType::Bf16;
const F16: ValueType = ValueType::F16;
const I8: ValueType = ValueType::I8;

fn candidates() -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for values in [F32, BF16, F16, I8] {
        all.push(("dense", values, 0.0, dense));
    }
    for values in [F32, BF16, I8] {
        all.push(("2:4", values, 0.5, |s, v, _| s.pattern((2, 4), v)));
    }
    all.push(("1:4", BF16, 0.75, |s, v, _| s.pattern((1, 4), v)));
    all.push(("4:8", BF16, 0.5, |s, v, _| s.pattern((4, 8), v)));
    all.push(("2:8", BF16, 0.75, |s, v, _| s.pattern((2, 8), v)));
    all.push(("2:16", BF16, 0.875, |s, v, _| s.pattern((2, 16), v)));
    for values in [F32, BF16, I8] {
        for sparsity in [0.5, 0.7, 0.9] {
            all.push(("bitmask", values, sparsity, bitmask));
        }
    }
    for values in [F32, BF16, I8] {
        for sparsity in [0.9, 0.95] {
            all.push(("csr", values, sparsity, csr));
        }
    }
    all.push(("dictionary", BF16, 0.5, dictionary));
    // Dense by columns, with so many zeros in the input.
    for values in [F32, BF16, I8] {
        for sparsity in [0.0, 0.5, 0.7] {
            all.push((INPUTS, values, sparsity, |s, v, _| {
                Transposed::new(Dense::from_f32(s.cols, s.rows, &s.data, v)).into()
            }));
        }
    }
    all
}

/// Times every kernel's product with one vector, cold: copies of the matrices are used in turn,
/// and kernels take turns, so that a machine that slows down slows all of them.
pub fn gemv(options: &Options) -> Vec<Row> {
    options.shapes.iter().flat_map(|&(rows, cols)| gemv_shape(options, rows, cols)).collect()
}

/// What takes a turn: the matrices, or memory to read.
struct Entrant {
    kernel: &'static str,
    values: ValueType,
    sparsity: f64,
    copies: Vec<Matrix>,
    seconds: Vec<f64>,
    /// An input of its own, with zeros.
    input: Option<Vec<f32>>,
}

fn gemv_shape(options: &Options, rows: usize, cols: usize) -> Vec<Row> {
    let source = Source::new(rows, cols);
    let wanted = |name: &str, values: ValueType| {
        let full = format!("{name} {values}");
        name == "dense" || options.filter.as_ref().is_none_or(|f| full.contains(f.as_str()))
    };
    let mut entrants: Vec<Entrant> = candidates()
        .into_iter()
        .filter(|c| wanted(c.0, c.1))
        .map(|(kernel, values, sparsity, build)| {
            let copies = vec![build(&source, values, sparsity)];
            let mut noise = Noise(9);
            let mut entry =
                || if f64::from(noise.uniform()) < sparsity { 0.0 } else { noise.uniform() - 0.5 };
            let input = (kernel == INPUTS).then(|| (0..cols).map(|_| entry()).collect());
            Entrant { kernel, values, sparsity, copies, seconds: Vec::new(), input }
        })
        .collect();
    let bytes: u64 = entrants.iter().map(|e| e.copies[0].stored_bytes()).sum();
    let copies = options.rotation.div_ceil(bytes as usize).max(1);
    for entrant in &mut entrants {
        for _ in 1..copies {
            let copy = entrant.copies[0].clone();
            entrant.copies.push(copy);
        }
    }
    // The probe reads the copies of dense bf16.
    let probe = entrants.iter().position(|e| e.values == BF16 && e.kernel == "dense");
    let mut noise = Noise(4);
    let x: Vec<f32> = (0..cols).map(|_| 2.0 * noise.uniform() - 1.0).collect();
    let mut y = vec![0.0; rows];
    let mut out = Vec::new();
    for &threads in &options.threads {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { continue };
        let mut read = Vec::new();
        entrants.iter_mut().for_each(|e| e.seconds.clear());
        pool.install(|| {
            for round in 0..options.repetitions + copies {
                // The first turn of every copy warms up page tables and clocks.
                let timed = round >= copies;
                for entrant in &mut entrants {
                    let matrix = &entrant.copies[round % copies];
                    let x = entrant.input.as_deref().unwrap_or(&x);
                    let start = Instant::now();
                    matrix.apply(x, &mut y);
                    if timed {
                        entrant.seconds.push(start.elapsed().as_secs_f64());
                    }
                    std::hint::black_box(&y);
                }
                if let Some(Matrix::Dense(w)) = probe.map(|p| &entrants[p].copies[round % copies]) {
                    let start = Instant::now();
                    std::hint::black_box(kernels::gemv::read(&w.values));
                    if timed {
                        read.push(start.elapsed().as_secs_f64());
                    }
                }
            }
        });
        out.extend(table(&mut entrants, &mut read, (rows, cols), threads));
    }
    out
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

fn table(
    entrants: &mut [Entrant],
    read: &mut [f64],
    (rows, cols): (usize, usize),
    threads: usize,
) -> Vec<Row> {
    let medians: Vec<f64> = entrants.iter_mut().map(|e| median(&mut e.seconds)).collect();
    let dense = |values: ValueType| {
        let found = entrants.iter().position(|e| e.kernel == "dense" && e.values == values);
        found.map_or(0.0, |i| medians[i])
    };
    let bases = [dense(F32), dense(BF16), dense(I8)];
    let row = |kernel, values: ValueType, sparsity, bytes: u64, median: f64, best: f64| Row {
        kernel,
        rows,
        cols,
        values,
        sparsity,
        batch: 1,
        threads,
        stored_bytes: bytes,
        median_seconds: median,
        best_seconds: best,
        gb_per_second: bytes as f64 / median / 1e9,
        ratio_vs_dense_f32: bases[0] / median,
        ratio_vs_dense_bf16: bases[1] / median,
        ratio_vs_dense_int8: bases[2] / median,
        byte_ratio_limit: (rows * cols * values.bytes() + values.scale_bytes(rows)) as f64 / bytes as f64,
    };
    // What a product of the kernel reads.
    let read_bytes = |e: &Entrant| match e.kernel {
        INPUTS => ((1.0 - e.sparsity) * e.copies[0].stored_bytes() as f64) as u64,
        _ => e.copies[0].stored_bytes(),
    };
    let mut out = Vec::new();
    if !read.is_empty() {
        let median = median(read);
        out.push(row("read", BF16, 0.0, (rows * cols * 2) as u64, median, read[0]));
    }
    for (e, &median) in entrants.iter().zip(&medians) {
        out.push(row(e.kernel, e.values, e.sparsity, read_bytes(e), median, e.seconds[0]));
    }
    out
}
