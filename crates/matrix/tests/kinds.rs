//! Every kind against plain loops, and through its stored form, on random shapes.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use sparseland_matrix::{
    Bitmask, BlockDiagonal, Csc, Csr, Dense, Layout, LinearMap, Matrix, NofM, Product, Sum, Transposed,
    ValueType,
};

const TYPES: [ValueType; 4] = [ValueType::F32, ValueType::Bf16, ValueType::F16, ValueType::I8];

fn random(rng: &mut impl Rng, len: usize, density: f64) -> Vec<f32> {
    (0..len).map(|_| if rng.random_bool(density) { rng.random_range(-1.0f32..1.0) } else { 0.0 }).collect()
}

/// Keeps at most `n` non-zeros in every `m` columns.
fn thin(data: &mut [f32], cols: usize, n: usize, m: usize) {
    for row in data.chunks_mut(cols.max(1)) {
        for group in row.chunks_mut(m) {
            let mut left = n;
            for w in group {
                if *w != 0.0 {
                    if left == 0 { *w = 0.0 } else { left -= 1 }
                }
            }
        }
    }
}

fn build(kind: usize, rows: usize, cols: usize, values: ValueType, density: f64, seed: u64) -> Matrix {
    let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
    let mut data = random(&mut rng, rows * cols, density);
    match kind {
        0 => Dense::from_f32(rows, cols, &data, values).into(),
        1 => Csr::from_dense(rows, cols, &data, values).into(),
        2 => Csc::from_dense(rows, cols, &data, values).into(),
        3 => Bitmask::from_dense(rows, cols, &data, values).into(),
        4..=7 => {
            let (n, m) = [(2, 4), (1, 4), (2, 16), (3, 5)][kind - 4];
            thin(&mut data, cols, n, m);
            NofM::from_dense(rows, cols, &data, (n, m), values).unwrap().into()
        }
        8 => {
            let k = 1 + seed as usize % 9;
            let left = build(3, rows, k, values, density, seed ^ 1);
            Product::new(left, Dense::from_f32(k, cols, &random(&mut rng, k * cols, 1.0), values)).into()
        }
        9 => Transposed::new(build(seed as usize % 9, cols, rows, values, density, seed ^ 3)).into(),
        10 if rows > 0 && cols > 0 => {
            let blocks = (1..=rows)
                .rev()
                .find(|b| rows.is_multiple_of(*b) && cols.is_multiple_of(*b) && *b <= 8)
                .unwrap_or(1);
            BlockDiagonal::from_f32(rows, cols, blocks, &data[..rows * (cols / blocks)], values).into()
        }
        _ => {
            let k = 1 + seed as usize % 5;
            let a = Dense::from_f32(rows, k, &random(&mut rng, rows * k, 1.0), values);
            let b = Dense::from_f32(k, cols, &random(&mut rng, k * cols, 1.0), values);
            Sum::new(vec![Product::new(a, b).into(), build(1, rows, cols, values, density, seed ^ 2)]).into()
        }
    }
}

fn close(got: &[f32], want: &[f64], scale: &[f64]) -> Result<(), TestCaseError> {
    for i in 0..want.len() {
        let bound = 2e-6 * scale[i] + 1e-30;
        prop_assert!((f64::from(got[i]) - want[i]).abs() <= bound, "{i}: {} against {}", got[i], want[i]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn products_equal_plain_loops(
        kind in 0usize..12, rows in 0usize..70, cols in 0usize..200, batch in 0usize..20,
        values in 0usize..4, density in 0.0f64..=1.0, seed: u64,
    ) {
        let w = build(kind, rows, cols, TYPES[values], density, seed);
        let dense = w.to_dense();
        let mut rng = rand_pcg::Pcg64::seed_from_u64(!seed);
        let x = random(&mut rng, batch * cols, 1.0);
        // The bound of a sum is relative to the sum of magnitudes; products of factors add theirs.
        let slack = if kind >= 8 { 16.0 } else { 1.0 };
        let (mut want, mut scale) = (vec![0.0f64; batch * rows], vec![0.0f64; batch * rows]);
        for b in 0..batch {
            for r in 0..rows {
                for c in 0..cols {
                    let term = f64::from(dense[r * cols + c]) * f64::from(x[b * cols + c]);
                    want[b * rows + r] += term;
                    scale[b * rows + r] += term.abs() * slack;
                }
                if kind >= 8 { scale[b * rows + r] += 1.0 }
                // int8 products with one vector round x to 31 bits of its largest, here below 1.
                if TYPES[values] == ValueType::I8 {
                    let magnitudes: f64 = dense[r * cols..(r + 1) * cols].iter().map(|w| f64::from(w.abs())).sum();
                    scale[b * rows + r] += magnitudes * 2f64.powi(-31) / 2e-6;
                }
            }
        }
        let mut y = vec![f32::NAN; batch * rows];
        w.apply_batch(&x, batch, &mut y);
        close(&y, &want, &scale)?;
        for b in 0..batch.min(1) {
            let mut y = vec![f32::NAN; rows];
            w.apply(&x[b * cols..(b + 1) * cols], &mut y);
            close(&y, &want[..rows], &scale)?;
        }
        let x = random(&mut rng, rows, 1.0);
        let (mut want, mut scale) = (vec![0.0f64; cols], vec![0.0f64; cols]);
        for r in 0..rows {
            for c in 0..cols {
                let term = f64::from(dense[r * cols + c]) * f64::from(x[r]);
                want[c] += term;
                scale[c] += term.abs() * slack;
            }
        }
        if kind >= 8 { scale.iter_mut().for_each(|s| *s += 1.0) }
        let mut y = vec![f32::NAN; cols];
        w.apply_transposed(&x, &mut y);
        close(&y, &want, &scale)?;
    }

    #[test]
    fn stored_form_returns_the_same_matrix(
        kind in 0usize..12, rows in 0usize..40, cols in 0usize..90, values in 0usize..4,
        density in 0.0f64..=1.0, seed: u64,
    ) {
        let w = build(kind, rows, cols, TYPES[values], density, seed);
        let layout: Layout = serde_json::from_str(&serde_json::to_string(&w.layout()).unwrap()).unwrap();
        prop_assert_eq!(&layout, &w.layout());
        let parts = w.parts("model.layer");
        prop_assert_eq!(parts.iter().map(|p| p.bytes.len() as u64).sum::<u64>(), w.stored_bytes());
        let mut read = |name: &str| Ok(parts.iter().find(|p| p.name == name).cloned());
        let back = Matrix::from_parts("model.layer", &layout, &mut read).unwrap();
        prop_assert_eq!(back.to_dense(), w.to_dense());
        prop_assert_eq!(back.parts("model.layer"), parts.clone());
        // Without any one of its parts it is refused.
        for missing in &parts {
            let mut read = |name: &str| Ok(parts.iter().find(|p| p.name == name && p.name != missing.name).cloned());
            prop_assert!(Matrix::from_parts("model.layer", &layout, &mut read).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn few_rows_combined_equal_the_product_with_a_sparse_vector(
        rows in 1usize..80, cols in 1usize..300, values in 0usize..4, chosen in 0.0f64..1.0, seed: u64,
    ) {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
        let w = Dense::from_f32(rows, cols, &random(&mut rng, rows * cols, 1.0), TYPES[values]);
        let x = random(&mut rng, rows, chosen);
        let picks: Vec<(u32, f32)> =
            x.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, &v)| (i as u32, v)).collect();
        let mut got = vec![f32::NAN; cols];
        w.combine_rows(&picks, &mut got);
        let dense = w.to_dense();
        let terms = |c: usize| (0..rows).map(move |r| (r, c));
        let term = |(r, c): (usize, usize)| f64::from(dense[r * cols + c]) * f64::from(x[r]);
        let want: Vec<f64> = (0..cols).map(|c| terms(c).map(term).sum()).collect();
        let scale: Vec<f64> = (0..cols).map(|c| terms(c).map(|t| term(t).abs()).sum()).collect();
        close(&got, &want, &scale)?;
    }
}
