//! Decompositions and Gram matrices at the shapes of real layers. Threads: `RAYON_NUM_THREADS`, else all cores.
//! One shape: `cargo bench -p sparseland-linalg -- svd/1024x1024`.

#![allow(missing_docs)] // criterion_group! writes an undocumented function

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::ThreadPool;
use sparseland_linalg::*;

fn gaussian<T: Scalar>(rows: usize, cols: usize) -> Mat<T> {
    let mut rng = Pcg64::seed_from_u64(1);
    Mat::from_fn(rows, cols, |_, _| {
        let v: f64 = StandardNormal.sample(&mut rng);
        T::from_f64(v)
    })
}

fn timed<R: Send>(c: &mut Criterion, group: &str, id: String, pool: &ThreadPool, run: impl Fn() -> R + Sync) {
    let mut group = c.benchmark_group(group);
    group.sample_size(10).warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_secs(1));
    group.bench_function(BenchmarkId::from_parameter(id), |b| {
        b.iter(|| pool.install(|| black_box(run())));
    });
    group.finish();
}

fn both<T: Scalar>(c: &mut Criterion, pool: &ThreadPool, name: &str) {
    for (m, n) in [(1024, 1024), (4096, 1024), (320, 864), (192, 512), (288, 288)] {
        let a = gaussian::<T>(m, n);
        timed(c, "svd", format!("{m}x{n}/{name}"), pool, || svd(&a).unwrap());
        let k = m.min(n) / 4;
        timed(c, "svd_truncated", format!("{m}x{n}/k{k}/{name}"), pool, || svd_truncated(&a, k).unwrap());
    }
    let a = gaussian::<T>(1024, 1024);
    timed(c, "svd_values", format!("1024x1024/{name}"), pool, || svd_values(&a).unwrap());
    timed(c, "matmul", format!("1024/{name}"), pool, || matmul(&a, &a).unwrap());
    for d in [288, 512, 1024] {
        let g = gram(&gaussian::<T>(2 * d, d));
        timed(c, "eigh", format!("{d}/{name}"), pool, || eigh(&g).unwrap());
        timed(c, "eigh_values", format!("{d}/{name}"), pool, || eigh_values(&g).unwrap());
    }
    let (g, b) = (gram(&gaussian::<T>(1024, 512)), gaussian::<T>(512, 512));
    timed(c, "solve_spd", format!("512x512/{name}"), pool, || solve_spd(&g, &b).unwrap());
    let a = gaussian::<T>(4096, 256);
    timed(c, "qr", format!("4096x256/{name}"), pool, || qr(&a).unwrap());
    let a = gaussian::<T>(2048, 2048);
    timed(c, "svd_randomized", format!("2048/k64+16q2/{name}"), pool, || {
        svd_randomized(&a, 64, 16, 2, &mut Pcg64::seed_from_u64(1)).unwrap()
    });
    timed(c, "svd_partial", format!("2048/k64/{name}"), pool, || svd_partial(&a, 64).unwrap());
}

fn decompositions(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().build().expect("a thread pool");
    both::<f32>(c, &pool, "f32");
    both::<f64>(c, &pool, "f64");
    let g = gram(&gaussian::<f64>(4096, 2048));
    timed(c, "cholesky_robust", "2048".into(), &pool, || cholesky_robust(&g).unwrap());
    let deficient = gram(&gaussian::<f64>(512, 1024));
    timed(c, "cholesky_robust", "1024/rank512".into(), &pool, || cholesky_robust(&deficient).unwrap());
    let w = cholesky_robust(&gram(&gaussian::<f64>(2048, 1024))).unwrap();
    let b = gaussian::<f64>(1024, 1024);
    timed(c, "whitener_apply", "1024x1024".into(), &pool, || w.apply(&b).unwrap());
    timed(c, "whitener_solve", "1024x1024".into(), &pool, || w.solve(&b).unwrap());
    for d in [288, 512, 2048] {
        let x = gaussian::<f32>(4096, d);
        timed(c, "gram_accumulate", format!("4096x{d}"), &pool, || {
            let mut g = Mat::zeros(d, d);
            gram_accumulate(&mut g, &x.data, 4096, d).unwrap();
            g
        });
    }
}

criterion_group!(benches, decompositions);
criterion_main!(benches);
