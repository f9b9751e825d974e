//! Products with one vector, cold: `cargo bench -p sparseland-matrix --bench gemv [-- FILTER]`.
//!
//! Shape, repetitions and rotation (MiB) may be given: `-- --shape 4096x11008 --repetitions 50`.

use sparseland_matrix::bench::{Options, gemv};

fn main() {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows each option");
        match argument.as_str() {
            "--bench" => {}
            "--shape" => {
                let shape = value();
                let (rows, cols) = shape.split_once('x').expect("ROWSxCOLS");
                options.shapes = vec![(rows.parse().expect("rows"), cols.parse().expect("cols"))];
            }
            "--repetitions" => options.repetitions = value().parse().expect("a number"),
            "--rotation" => options.rotation = value().parse::<usize>().expect("MiB") << 20,
            filter => options.filter = Some(filter.to_owned()),
        }
    }
    println!("features in use: {}", sparseland_matrix::features().join(" "));
    println!(
        "{:>4} {:>12} {:12} {:5} {:>6} {:>10} {:>10} {:>7} {:>8} {:>8} {:>8} {:>7}",
        "thr",
        "shape",
        "kernel",
        "type",
        "zeros",
        "median ms",
        "best ms",
        "GB/s",
        "x f32",
        "x bf16",
        "x int8",
        "limit"
    );
    for row in gemv(&options) {
        println!(
            "{:>4} {:>12} {:12} {:5} {:>5.1}% {:>10.3} {:>10.3} {:>7.1} {:>8.2} {:>8.2} {:>8.2} {:>7.2}",
            row.threads,
            format!("{}x{}", row.rows, row.cols),
            row.kernel,
            row.values.name(),
            100.0 * row.sparsity,
            1e3 * row.median_seconds,
            1e3 * row.best_seconds,
            row.gb_per_second,
            row.ratio_vs_dense_f32,
            row.ratio_vs_dense_bf16,
            row.ratio_vs_dense_int8,
            row.byte_ratio_limit
        );
    }
}
