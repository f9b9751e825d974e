//! Dense products for training, f32 and bf16: `cargo bench -p sparseland-matrix --bench gemm [-- FILTER]`.
//!
//! Shapes are those of linear layers: forward, `dY W` and `dYᵀ X`. Rows x inner x columns; a leading or trailing `t`
//! says that the left or right factor is read transposed. Threads, repetitions and one shape may be given:
//! `-- --threads 1 --repetitions 30 --shape 2048x688x256t`.

use std::time::Instant;

use sparseland_matrix::{Threads, View, ViewMut, bf16_products, features, gemm, gemm_bf16};

/// Forward products have `W` transposed, as checkpoints store it `out x in`.
const SHAPES: [&str; 14] = [
    "2048x256x256t",
    "2048x688x256t",
    "2048x256x688t",
    "2048x4096x256t",
    "2048x256x4096t",
    "512x4096x4096t",
    "2048x256x256",
    "2048x688x256",
    "2048x256x688",
    "2048x4096x256",
    "512x4096x4096",
    "t256x2048x256",
    "t688x2048x256",
    "t4096x2048x256",
];

/// Uneven numbers in -1..1.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn main() {
    let (mut threads, mut repetitions, mut shapes) = (vec![1, 2], 21, SHAPES.map(str::to_owned).to_vec());
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    let number = |s: &str| s.parse::<usize>().expect("a number");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows each option");
        match argument.as_str() {
            "--bench" => {}
            "--threads" => threads = value().split(',').map(number).collect(),
            "--repetitions" => repetitions = number(&value()).max(1),
            "--shape" => shapes = vec![value()],
            text => filter = text.to_owned(),
        }
    }
    println!("features in use: {}; tile unit: {}", features().join(" "), bf16_products());
    println!(
        "{:>4} {:>15} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "thr", "shape", "f32 ms", "best", "GFLOP/s", "bf16 ms", "best", "GFLOP/s", "x f32"
    );
    for &threads in &threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        for shape in shapes.iter().filter(|s| s.contains(&filter)) {
            let (left, right) = (shape.starts_with('t'), shape.ends_with('t'));
            let sizes: Vec<usize> = shape.trim_matches('t').split('x').map(number).collect();
            let [m, k, n] = sizes[..] else { panic!("ROWSxINNERxCOLUMNS, not {shape}") };
            let (a, b, mut c) = (numbers(m * k, 1), numbers(k * n, 2), vec![0.0; m * n]);
            let a = if left { View::new(&a, k, m).t() } else { View::new(&a, m, k) };
            let b = if right { View::new(&b, n, k).t() } else { View::new(&b, k, n) };
            // The two take turns, so that other programs disturb both alike.
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..repetitions + 2 {
                for (i, product) in [gemm::<f32>, gemm_bf16].into_iter().enumerate() {
                    let time = pool.install(|| {
                        let start = Instant::now();
                        product(Threads::Pool, 1.0, a, b, 0.0, ViewMut::new(&mut c, m, n));
                        start.elapsed().as_secs_f64()
                    });
                    if round >= 2 {
                        times[i].push(time);
                    }
                }
            }
            times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
            let [f32s, bf16s] = times.map(|t| (t[t.len() / 2], t[0]));
            let rate = |seconds: f64| 2e-9 * (m * n * k) as f64 / seconds;
            println!(
                "{threads:>4} {shape:>15} {:>9.3} {:>9.3} {:>9.0} {:>9.3} {:>9.3} {:>9.0} {:>7.2}",
                1e3 * f32s.0,
                1e3 * f32s.1,
                rate(f32s.0),
                1e3 * bf16s.0,
                1e3 * bf16s.1,
                rate(bf16s.0),
                f32s.0 / bf16s.0
            );
        }
    }
}
