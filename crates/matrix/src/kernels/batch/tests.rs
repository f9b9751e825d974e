//! Every instruction set and every path of the batched products against plain loops.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::simd::{Isa, code_columns, positions, transpose};
use super::{Rows, dense_batch, dense_batch_transposed, sparse_batch, sparse_batch_transposed};
use crate::{Bitmask, Csc, Csr, Dense, LinearMap, Matrix, NofM, ValueType};

const TYPES: [ValueType; 4] = [ValueType::F32, ValueType::Bf16, ValueType::F16, ValueType::I8];

fn multiply(isa: Isa, w: &Matrix, x: &[f32], batch: usize, y: &mut [f32], add: bool, transposed: bool) {
    let sparse = |w: &dyn Rows, y: &mut [f32], transposed: bool| {
        if transposed {
            sparse_batch_transposed(isa, w, x, batch, y, add);
        } else {
            sparse_batch(isa, w, x, batch, y, add);
        }
    };
    match w {
        Matrix::Dense(w) if transposed => dense_batch_transposed(isa, w, x, batch, y, add),
        Matrix::Dense(w) => dense_batch(isa, w, x, batch, y, add),
        Matrix::Bitmask(w) => sparse(w, y, transposed),
        Matrix::NofM(w) => sparse(w, y, transposed),
        Matrix::Csr(w) => sparse(w, y, transposed),
        Matrix::Csc(w) => sparse(w.transpose(), y, !transposed),
        _ => unreachable!("not built here"),
    }
}

/// Random data in which every run of `share` rows has one pattern, at most `n` of `m`.
fn data(
    rng: &mut impl Rng,
    rows: usize,
    cols: usize,
    density: f64,
    share: usize,
    (n, m): (usize, usize),
) -> Vec<f32> {
    let mut data = vec![0.0; rows * cols];
    let mut keep = vec![false; cols];
    for r in 0..rows {
        if r % share == 0 {
            for group in keep.chunks_mut(m) {
                let mut left = n;
                for k in group {
                    *k = left > 0 && rng.random_bool(density);
                    left -= usize::from(*k);
                }
            }
        }
        for c in 0..cols {
            if keep[c] {
                data[r * cols + c] = rng.random_range(0.5f32..1.0) * if rng.random() { 1.0 } else { -1.0 };
            }
        }
    }
    data
}

fn check(
    w: &Matrix,
    batch: usize,
    add: bool,
    transposed: bool,
    shift: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let (rows, cols) = (w.rows(), w.cols());
    let dense = w.to_dense();
    let (from, to) = if transposed { (rows, cols) } else { (cols, rows) };
    let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
    // `shift` moves the slices off any alignment.
    let x: Vec<f32> = (0..shift + batch * from).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    let x = &x[shift..];
    for isa in Isa::available() {
        let mut y = vec![0.5; shift + batch * to];
        if !add {
            y[shift..].fill(f32::NAN);
        }
        multiply(isa, w, x, batch, &mut y[shift..], add, transposed);
        for b in 0..batch {
            for o in 0..to {
                let (mut want, mut scale) = (if add { 0.5 } else { 0.0 }, 1.0);
                for i in 0..from {
                    let entry = if transposed { dense[i * cols + o] } else { dense[o * cols + i] };
                    let term = f64::from(entry) * f64::from(x[b * from + i]);
                    want += term;
                    scale += term.abs();
                }
                let got = f64::from(y[shift + b * to + o]);
                prop_assert!(
                    (got - want).abs() <= 2e-6 * scale,
                    "{isa:?} item {b} output {o}: {got} against {want}"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 600 }))]

    #[test]
    fn every_instruction_set_equals_plain_loops(
        kind in 0usize..8, rows in 0usize..60, cols in 0usize..300, batch in 0usize..40, wide in any::<bool>(),
        values in 0usize..4, density in 0.0f64..=1.0, share in 1usize..9, add: bool, transposed: bool,
        shift in 0usize..3, seed: u64,
    ) {
        let batch = if wide { batch * 7 } else { batch };
        let pattern = [(2, 4), (1, 4), (2, 16), (3, 5)].get(kind.wrapping_sub(4)).copied().unwrap_or((64, 64));
        let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
        let data = data(&mut rng, rows, cols, density, share, pattern);
        let values = TYPES[values];
        let w: Matrix = match kind {
            0 => Dense::from_f32(rows, cols, &data, values).into(),
            1 => Csr::from_dense(rows, cols, &data, values).into(),
            2 => Csc::from_dense(rows, cols, &data, values).into(),
            3 => Bitmask::from_dense(rows, cols, &data, values).into(),
            _ => NofM::from_dense(rows, cols, &data, pattern, values).unwrap().into(),
        };
        check(&w, batch, add, transposed, shift, !seed)?;
    }

    #[test]
    fn positions_and_codes_equal_bit_loops(
        mask in proptest::collection::vec(any::<u8>(), 0..70), n in 1usize..40, m in 1usize..=256, groups in 0usize..40,
    ) {
        let want: Vec<u16> = (0..8 * mask.len()).filter(|i| mask[i / 8] >> (i % 8) & 1 == 1).map(|i| i as u16).collect();
        let (n, m) = (n.min(m), m.max(2));
        let bits = crate::nofm::code_bits(m);
        let count = (mask.len() * 8 / bits / n).min(groups) * n;
        let code = |i: usize| (0..bits).map(|b| (mask[(i * bits + b) / 8] as usize >> ((i * bits + b) % 8) & 1) << b).sum::<usize>();
        let columns: Vec<u16> = (0..count).map(|i| (i / n * m + code(i)) as u16).collect();
        for isa in Isa::available() {
            let mut out = vec![0; want.len() + 32];
            prop_assert_eq!(positions(isa, &mask, &mut out), want.len());
            prop_assert_eq!(&out[..want.len()], &want[..]);
            let mut out = vec![0; count + 32];
            code_columns(isa, &mask, bits, (n, m), &mut out);
            prop_assert_eq!(&out[..count], &columns[..]);
        }
    }

    #[test]
    fn transposition_equals_plain_loops(rows in 0usize..40, cols in 0usize..40, add: bool) {
        let src: Vec<f32> = (0..rows * (cols + 3)).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let mut dst = vec![1.0; cols * (rows + 5)];
            // SAFETY: both hold all entries named.
            #[allow(unsafe_code)]
            unsafe {
                transpose(isa, src.as_ptr(), cols + 3, (rows, cols), dst.as_mut_ptr(), rows + 5, add);
            }
            for c in 0..cols {
                for r in 0..rows + 5 {
                    let want = if r >= rows { 1.0 } else { src[r * (cols + 3) + c] + if add { 1.0 } else { 0.0 } };
                    prop_assert_eq!(dst[c * (rows + 5) + r], want);
                }
            }
        }
    }
}

#[test]
fn large_shapes_cross_every_tile_and_block() {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(7);
    for (rows, cols, batch, share) in
        [(700, 1100, 33, 1), (650, 600, 300, 1), (100, 900, 1030, 6), (90, 2000, 70, 4)]
    {
        let data = data(&mut rng, rows, cols, 0.6, share, (2, 4));
        for w in [
            Matrix::from(NofM::from_dense(rows, cols, &data, (2, 4), ValueType::F32).unwrap()),
            Bitmask::from_dense(rows, cols, &data, ValueType::Bf16).into(),
            Dense::from_f32(rows, cols, &data, ValueType::I8).into(),
        ] {
            if cfg!(debug_assertions) && batch > 100 {
                continue;
            }
            for transposed in [false, true] {
                check(&w, batch, false, transposed, 1, 3).unwrap();
            }
        }
    }
}

#[test]
fn more_columns_than_sixteen_bits_name() {
    let (rows, cols) = (5, (1 << 17) + 77);
    let mut rng = rand_pcg::Pcg64::seed_from_u64(5);
    let data = data(&mut rng, rows, cols, 0.02, 1, (3, 5));
    for w in [
        Matrix::from(Bitmask::from_dense(rows, cols, &data, ValueType::F32)),
        NofM::from_dense(rows, cols, &data, (3, 5), ValueType::F32).unwrap().into(),
    ] {
        for transposed in [false, true] {
            check(&w, 9, false, transposed, 0, 11).unwrap();
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(9);
    let (rows, cols, batch) = (301, 517, 150);
    let dense = data(&mut rng, rows, cols, 0.5, 1, (64, 64));
    let x: Vec<f32> = (0..batch * rows.max(cols)).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    for w in [
        Matrix::from(Dense::from_f32(rows, cols, &dense, ValueType::F32)),
        Bitmask::from_dense(rows, cols, &dense, ValueType::F32).into(),
        Csc::from_dense(rows, cols, &dense, ValueType::F32).into(),
    ] {
        for few in [5, 37, batch] {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut y, mut z) = (vec![0.0; few * rows], vec![0.0; few * cols]);
                pool.install(|| {
                    w.apply_batch(&x[..few * cols], few, &mut y);
                    w.apply_transposed_batch(&x[..few * rows], few, &mut z);
                });
                (y, z)
            };
            assert_eq!(run(1), run(3));
        }
    }
}
