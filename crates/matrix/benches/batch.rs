//! Batched products: `cargo bench -p sparseland-matrix --bench batch [-- FILTER]`.
//!
//! Shape, batch sizes, threads and repetitions may be given, and the transposed product asked for:
//! `-- --shape 4096x11008 --batches 64,256 --threads 1 --repetitions 50 --transposed`.

use sparseland_matrix::bench::batch::{Options, batch};

fn main() {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    let number = |s: &str| s.parse().expect("a number");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows each option");
        match argument.as_str() {
            "--bench" => {}
            "--shape" => {
                let shape = value();
                let (rows, cols) = shape.split_once('x').expect("ROWSxCOLS");
                options.shapes = vec![(number(rows), number(cols))];
            }
            "--batches" => options.batches = value().split(',').map(number).collect(),
            "--threads" => options.threads = value().split(',').map(number).collect(),
            "--repetitions" => options.repetitions = number(&value()),
            "--transposed" => options.transposed = true,
            filter => options.filter = Some(filter.to_owned()),
        }
    }
    println!(
        "{:>4} {:>12} {:>5} {:14} {:5} {:>6} {:>10} {:>10} {:>8} {:>8}",
        "thr", "shape", "batch", "kernel", "type", "zeros", "median ms", "best ms", "GFLOP/s", "x f32"
    );
    for row in batch(&options) {
        println!(
            "{:>4} {:>12} {:>5} {:14} {:5} {:>5.1}% {:>10.3} {:>10.3} {:>8.0} {:>8.2}",
            row.threads,
            format!("{}x{}", row.rows, row.cols),
            row.batch,
            row.kernel,
            row.values.name(),
            100.0 * row.sparsity,
            1e3 * row.median_seconds,
            1e3 * row.best_seconds,
            row.gflops_effective,
            row.ratio_vs_dense_f32
        );
    }
}
