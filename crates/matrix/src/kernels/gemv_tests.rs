//! Every kernel of every instruction set that this machine runs, against plain loops in f64.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::gemv::{Rows, Simd, apply_with};
use super::gemv_transposed;
use crate::{Bitmask, Csr, Dense, LinearMap, Matrix, NofM, ValueType};

const TYPES: [ValueType; 4] = [ValueType::F32, ValueType::Bf16, ValueType::F16, ValueType::I8];
const PATTERNS: [(usize, usize); 16] = [
    (2, 4),
    (1, 4),
    (1, 2),
    (4, 8),
    (2, 8),
    (8, 16),
    (4, 16),
    (16, 32),
    (2, 16),
    (1, 8),
    (3, 5),
    (3, 4),
    (5, 40),
    (7, 100),
    (1, 256),
    (200, 256),
];

fn paths() -> impl Iterator<Item = Simd> {
    [Simd::Scalar, Simd::Avx2, Simd::Avx512].into_iter().filter(|s| s.is_available())
}

fn random(rng: &mut impl Rng, len: usize, density: f64) -> Vec<f32> {
    (0..len).map(|_| if rng.random_bool(density) { rng.random_range(-1.0f32..1.0) } else { 0.0 }).collect()
}

/// Kinds 0, 1, 2: dense, rows, bitmask; from 3 on N:M patterns.
fn build(kind: usize, rows: usize, cols: usize, values: ValueType, density: f64, seed: u64) -> Matrix {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
    let mut data = random(&mut rng, rows * cols, density);
    match kind {
        0 => Dense::from_f32(rows, cols, &data, values).into(),
        1 => Csr::from_dense(rows, cols, &data, values).into(),
        2 => Bitmask::from_dense(rows, cols, &data, values).into(),
        _ => {
            let (n, m) = PATTERNS[kind - 3];
            for group in data.chunks_mut(cols.max(1)).flat_map(|row| row.chunks_mut(m)) {
                let drop = group.iter().filter(|&&w| w != 0.0).count().saturating_sub(n);
                group.iter_mut().filter(|w| **w != 0.0).take(drop).for_each(|w| *w = 0.0);
            }
            NofM::from_dense(rows, cols, &data, (n, m), values).unwrap().into()
        }
    }
}

fn rows_of(w: &Matrix) -> Rows<'_> {
    match w {
        Matrix::Dense(w) => Rows::Dense(w),
        Matrix::Csr(w) => Rows::Csr(w),
        Matrix::Bitmask(w) => Rows::Bitmask(w),
        Matrix::NofM(w) => Rows::NofM(w),
        _ => unreachable!("not built here"),
    }
}

/// `W x` in f64 and the sums of magnitudes.
fn plain(w: &[f32], rows: usize, cols: usize, x: &[f32], transposed: bool) -> Vec<(f64, f64)> {
    let mut out = vec![(0.0, 0.0); if transposed { cols } else { rows }];
    for r in 0..rows {
        for c in 0..cols {
            let (from, to) = if transposed { (r, c) } else { (c, r) };
            let term = f64::from(w[r * cols + c]) * f64::from(x[from]);
            out[to].0 += term;
            out[to].1 += term.abs();
        }
    }
    out
}

fn check(w: &Matrix, simd: Simd, rng: &mut impl Rng) -> Result<(), TestCaseError> {
    let (rows, cols, dense) = (w.rows(), w.cols(), w.to_dense());
    for transposed in [false, true] {
        let (inputs, outputs) = if transposed { (rows, cols) } else { (cols, rows) };
        // One float off the start of the allocation: never aligned for vectors.
        let x = &random(rng, inputs + 1, 1.0)[1..];
        let mut y = vec![f32::NAN; outputs];
        if transposed {
            gemv_transposed::apply_with(simd, rows_of(w), x, &mut y);
        } else {
            apply_with(simd, &mut [(rows_of(w), &mut y)], x);
        }
        for (i, (want, scale)) in plain(&dense, rows, cols, x, transposed).into_iter().enumerate() {
            let error = (f64::from(y[i]) - want).abs();
            // int8 products round x to 31 bits of the largest of 1024, here 1.
            let fixed: f64 = if transposed {
                0.0
            } else {
                dense[i * cols..(i + 1) * cols].iter().map(|w| f64::from(w.abs())).sum::<f64>()
                    / 2f64.powi(31)
            };
            prop_assert!(
                error <= 2e-6 * scale + fixed + 1e-30,
                "{simd:?} {transposed} {i}: {} against {want}",
                y[i]
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn every_path_equals_plain_loops(
        kind in 0usize..3 + PATTERNS.len(), rows in 0usize..20, cols in 0usize..700, values in 0usize..4,
        density in 0.0f64..=1.0, seed: u64,
    ) {
        let w = build(kind, rows, cols, TYPES[values], density, seed);
        let mut rng = rand_pcg::Pcg64::seed_from_u64(!seed);
        for simd in paths() {
            check(&w, simd, &mut rng)?;
        }
    }
}

#[test]
fn empty_shapes_give_zeros() {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(5);
    for kind in 0..3 + PATTERNS.len() {
        for values in TYPES {
            for (rows, cols) in [(0, 0), (6, 0), (0, 70), (9, 1), (1, 65)] {
                let w = build(kind, rows, cols, values, 0.5, 1);
                for simd in paths() {
                    check(&w, simd, &mut rng).unwrap();
                }
            }
        }
    }
}

#[test]
fn wide_rows_have_several_blocks() {
    for kind in 0..3 + PATTERNS.len() {
        for values in TYPES {
            for (cols, density) in [(1024, 0.6), (2500, 0.3), (3072, 0.02), (6200, 0.5)] {
                let w = build(kind, 6, cols, values, density, 11);
                let mut rng = rand_pcg::Pcg64::seed_from_u64(5);
                for simd in paths() {
                    check(&w, simd, &mut rng).unwrap();
                }
            }
        }
    }
}

#[test]
fn int8_products_survive_odd_inputs() {
    for kind in [0, 2, 3, 4] {
        let w = build(kind, 5, 1100, ValueType::I8, 0.5, 1);
        let dense = w.to_dense();
        for simd in paths() {
            let mut y = [f32::NAN; 5];
            for x in [0.0, 1e-44, 1e-38, 3e30, -1.0] {
                let x = vec![x; 1100];
                apply_with(simd, &mut [(rows_of(&w), &mut y)], &x);
                for (y, (want, scale)) in y.iter().zip(plain(&dense, 5, 1100, &x, false)) {
                    let error = (f64::from(*y) - want).abs();
                    prop_close(error, 2e-6 * scale + 1e-36);
                }
            }
            let mut x = vec![1.0; 1100];
            x[1050] = f32::INFINITY;
            apply_with(simd, &mut [(rows_of(&w), &mut y)], &x);
            if simd == Simd::Avx512 {
                assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
            }
        }
    }
}

fn prop_close(error: f64, bound: f64) {
    assert!(error <= bound, "{error} > {bound}");
}

#[test]
fn many_products_equal_one_by_one() {
    let x = random(&mut rand_pcg::Pcg64::seed_from_u64(3), 512, 1.0);
    let all: Vec<Matrix> = (0..4).map(|kind| build(kind, 301 + kind, 512, TYPES[kind], 0.4, 2)).collect();
    let one_by_one: Vec<Vec<f32>> = all
        .iter()
        .map(|w| {
            let mut y = vec![0.0; w.rows()];
            w.apply(&x, &mut y);
            y
        })
        .collect();
    let mut together: Vec<Vec<f32>> = all.iter().map(|w| vec![0.0; w.rows()]).collect();
    let mut products: Vec<_> = all.iter().zip(together.iter_mut().map(|y| &mut y[..])).collect();
    crate::apply_many(&mut products, &x);
    assert_eq!(together, one_by_one);
}

#[test]
fn large_products_are_split_and_equal() {
    for (kind, values) in [
        (0, ValueType::F32),
        (0, ValueType::I8),
        (1, ValueType::F32),
        (2, ValueType::Bf16),
        (3, ValueType::Bf16),
    ] {
        let w = build(kind, 1027, 777, values, 0.4, 7);
        let mut rng = rand_pcg::Pcg64::seed_from_u64(3);
        let x = random(&mut rng, 777, 1.0);
        let wide = random(&mut rng, 1027, 1.0);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut y, mut z) = (vec![0.0; 1027], vec![0.0; 777]);
            pool.install(|| {
                w.apply(&x, &mut y);
                w.apply_transposed(&wide, &mut z);
            });
            (y, z)
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
        for simd in paths() {
            check(&w, simd, &mut rng).unwrap();
        }
    }
}
