//! The low-rank path of R-Sparse against the best possible one, found another way.

use std::sync::Arc;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::methods::r_sparse::{PreparedLayer, SidePath, Split};
use sparseland_linalg::{Mat, matmul, svd_values};
use sparseland_matrix::{Dense, LinearMap, ValueType};
use sparseland_nn::Linear;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_path_of_the_rest_is_nearly_optimal_for_what_is_not_kept(
        width in 12usize..32, outputs in 12usize..32, alpha in 0.3f64..0.9, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random::<f32>() - 0.5).collect() };
        let tokens = 12 * width;
        let w = draw(outputs * width);
        // Inputs of few common factors, so that the rest is correlated.
        let (factors, loads, noise) = (draw(tokens * 4), draw(4 * width), draw(tokens * width));
        let x: Vec<f32> = (0..tokens * width)
            .map(|i| {
                let (t, j) = (i / width, i % width);
                (0..4).map(|f| factors[t * 4 + f] * loads[f * width + j]).sum::<f32>() + 0.1 * noise[i]
            })
            .collect();
        let weight = Dense::from_f32(outputs, width, &w, ValueType::F32).into();
        let split = Split::new((width, outputs), 0.3, alpha);
        prop_assume!(split.rank > 0);
        let x = Arc::new(x);
        let error = |path: SidePath| -> (f64, Vec<f32>) {
            let prepared = PreparedLayer::new(&weight, Arc::clone(&x), true, Some(path)).unwrap();
            let selection = prepared.selection(split, true).unwrap();
            let (threshold, norms) = (selection.rule.threshold, selection.norms.clone().unwrap());
            let rest = x.iter().enumerate().map(|(i, &v)| if v.abs() * norms[i % width] > threshold { 0.0 } else { v });
            let rest: Vec<f32> = rest.collect();
            let linear =
                Linear { weight: prepared.weight().clone(), bias: None, selection: Some(Box::new(selection)) };
            let (mut sparse, mut dense) = (vec![0.0; tokens * outputs], vec![0.0; tokens * outputs]);
            linear.forward(&x, tokens, &mut sparse);
            weight.apply_batch(&x, tokens, &mut dense);
            let apart = dense.iter().zip(&sparse).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            (apart, rest)
        };
        let (ours, rest) = error(SidePath::Rest);
        let (paper, _) = error(SidePath::Weight);
        // What is lost is X_rest (W - path): at best the tail of X_rest W.
        let wide = |v: &[f32], rows: usize, cols: usize| {
            Mat::from_vec(rows, cols, v.iter().map(|&v| f64::from(v)).collect()).unwrap()
        };
        let target = matmul(&wide(&rest, tokens, width), &wide(&w, outputs, width).transposed()).unwrap();
        let optimum = svd_values(&target).unwrap()[split.rank..].iter().map(|s| s * s).sum::<f64>().sqrt();
        prop_assert!(ours >= optimum * (1.0 - 1e-3), "{ours} {optimum}");
        prop_assert!(ours <= 1.05 * optimum + 1e-4, "{ours} {optimum}");
        prop_assert!(optimum <= paper * (1.0 + 1e-3), "{paper} {optimum}");
    }
}
