#![allow(missing_docs)]
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use sparseland_linalg::*;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    s.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e-6
}
fn gaussian<T: Scalar>(rows: usize, cols: usize) -> Mat<T> {
    let mut rng = Pcg64::seed_from_u64(1);
    Mat::from_fn(rows, cols, |_, _| {
        let v: f64 = StandardNormal.sample(&mut rng);
        T::from_f64(v)
    })
}
fn timed<R>(name: &str, id: String, run: impl Fn() -> R) {
    let full = format!("{name}/{id}");
    if let Some(f) = std::env::args().nth(1) {
        if !full.contains(&f) {
            return;
        }
    }
    run();
    let (mut w, mut c) = (vec![], vec![]);
    let start = std::time::Instant::now();
    while w.len() < 15 && (w.len() < 3 || start.elapsed().as_secs_f64() < 2.0) {
        let (t, k) = (std::time::Instant::now(), cpu());
        std::hint::black_box(run());
        c.push(cpu() - k);
        w.push(t.elapsed().as_secs_f64() * 1e3);
    }
    w.sort_by(f64::total_cmp);
    c.sort_by(f64::total_cmp);
    println!("{full:40} wall min {:9.2}  cpu min {:9.2} med {:9.2}", w[0], c[0], c[c.len() / 2]);
}
fn both<T: Scalar>(name: &str) {
    for (m, n) in [(1024, 1024), (4096, 1024), (320, 864), (192, 512), (288, 288)] {
        let a = gaussian::<T>(m, n);
        timed("svd", format!("{m}x{n}/{name}"), || svd(&a).unwrap());
        timed("svd_truncated", format!("{m}x{n}/k{}/{name}", m.min(n) / 4), || {
            svd_truncated(&a, m.min(n) / 4).unwrap()
        });
    }
    let a = gaussian::<T>(1024, 1024);
    timed("svd_values", format!("1024x1024/{name}"), || svd_values(&a).unwrap());
    timed("matmul", format!("1024/{name}"), || matmul(&a, &a).unwrap());
    for d in [288, 512, 1024] {
        let g = gram(&gaussian::<T>(2 * d, d));
        timed("eigh", format!("{d}/{name}"), || eigh(&g).unwrap());
        timed("eigh_values", format!("{d}/{name}"), || eigh_values(&g).unwrap());
    }
    let (g, b) = (gram(&gaussian::<T>(1024, 512)), gaussian::<T>(512, 512));
    timed("solve_spd", format!("512x512/{name}"), || solve_spd(&g, &b).unwrap());
    let a = gaussian::<T>(4096, 256);
    timed("qr", format!("4096x256/{name}"), || qr(&a).unwrap());
    let a = gaussian::<T>(2048, 2048);
    timed("svd_randomized", format!("2048/{name}"), || {
        svd_randomized(&a, 64, 16, 2, &mut Pcg64::seed_from_u64(1)).unwrap()
    });
    timed("svd_partial", format!("2048/k64/{name}"), || svd_partial(&a, 64).unwrap());
}
fn run() {
    both::<f32>("f32");
    both::<f64>("f64");
    let g = gram(&gaussian::<f64>(4096, 2048));
    timed("cholesky_robust", "2048".into(), || cholesky_robust(&g).unwrap());
    let h = gram(&gaussian::<f64>(512, 1024));
    timed("cholesky_robust", "1024/rank512".into(), || cholesky_robust(&h).unwrap());
    let w = cholesky_robust(&gram(&gaussian::<f64>(2048, 1024))).unwrap();
    let b = gaussian::<f64>(1024, 1024);
    timed("whitener_apply", "1024x1024".into(), || w.apply(&b).unwrap());
    timed("whitener_gemm", "1024x1024".into(), || matmul(w.factor(), &b).unwrap());
    timed("whitener_solve", "1024x1024".into(), || w.solve(&b).unwrap());
    for d in [288, 512, 2048] {
        let x = gaussian::<f32>(4096, d);
        timed("gram_accumulate", format!("4096x{d}"), || {
            let mut g = Mat::zeros(d, d);
            gram_accumulate(&mut g, &x.data, 4096, d).unwrap();
            g
        });
        let y = x.cast::<f64>();
        timed("gram_gemm64", format!("4096x{d}"), || matmul_transposed_left(&y, &y).unwrap());
    }
}
fn main() {
    let n = rayon::current_num_threads();
    if n == 1 { run() } else { rayon::ThreadPoolBuilder::new().build().unwrap().install(run) }
}
