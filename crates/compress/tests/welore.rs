//! WeLore's thresholds and classes against counting by hand.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::methods::welore::{Class, LRC_CUT, Normalise, Spectra, Spectrum, Target, truncated};
use sparseland_linalg::{Mat, matmul, svd_values};
use sparseland_matrix::{Dense, Layout, LinearMap, Matrix, ValueType};

fn spectrum(name: &str, rows: usize, cols: usize, mut values: Vec<f64>) -> Spectrum {
    values.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(values.len(), rows.min(cols));
    Spectrum { name: name.into(), dense: Layout::Dense { rows, cols, values: ValueType::F32 }, values }
}

/// Layers of several shapes with spectra that fall off at different speeds.
fn spectra(seed: u64) -> Spectra {
    let mut rng = Pcg64::seed_from_u64(seed);
    let layer = |i: usize, rng: &mut Pcg64| {
        let (rows, cols) = (rng.random_range(2..60), rng.random_range(2..60));
        let decay = rng.random_range(0.0..2.0);
        let value =
            |t: usize, rng: &mut Pcg64| (1.0 + t as f64).powf(-decay) * (1.0 + 0.2 * rng.random::<f64>());
        let values = (0..rows.min(cols)).map(|t| value(t, rng)).collect();
        spectrum(&format!("layer {i}"), rows, cols, values)
    };
    let count = rng.random_range(1..8);
    Spectra { layers: (0..count).map(|i| layer(i, &mut rng)).collect() }
}

fn all(spectra: &Spectra) -> usize {
    spectra.layers.iter().map(|l| l.values.len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_share_of_ranks_is_met_within_one_singular_value(share in 0.0f64..0.95, energy: bool, seed: u64) {
        let normalise = if energy { Normalise::Energy } else { Normalise::MinMax };
        let spectra = spectra(seed);
        let all = all(&spectra) as f64;
        let found = spectra.threshold(Target::Ranks(share), normalise).unwrap();
        // The first value of every layer cannot go.
        let most = all - spectra.layers.len() as f64;
        let wanted = (share * all).min(most);
        // By the paper's normalisation the smallest value of every layer is 0: these go together or not at all.
        let together = if energy { 0.0 } else { spectra.layers.len() as f64 };
        let slack = if wanted < together { together / 2.0 } else { 1.0 };
        prop_assert!((found.ranks * all - wanted).abs() <= slack + 1e-9, "{} {wanted}", found.ranks * all);
        prop_assert_eq!(found.reached, (found.ranks * all - share * all).abs() < 1.0);
        // Counted by hand.
        let ranks = spectra.ranks(found.value, normalise);
        let dropped: usize = spectra.layers.iter().zip(&ranks).map(|(l, r)| l.values.len() - r).sum();
        prop_assert!((dropped as f64 - found.ranks * all).abs() < 1e-9);
    }

    #[test]
    fn the_share_of_parameters_is_met_by_the_smallest_threshold(share in 0.0f64..0.9, seed: u64) {
        let spectra = spectra(seed);
        let found = spectra.threshold(Target::Parameters(share), Normalise::MinMax).unwrap();
        let split = |k: f64| spectra.split(&spectra.ranks(k, Normalise::MinMax), LRC_CUT, true);
        let removed = |k: f64| {
            let (before, after) = split(k).iter().fold((0, 0), |(b, a), l| (b + l.before, a + l.after));
            1.0 - after as f64 / before as f64
        };
        prop_assert!((removed(found.value) - found.parameters).abs() < 1e-12);
        if found.reached {
            prop_assert!(found.parameters >= share);
            // No smaller score does: every score below it removes less.
            let scores = spectra.layers.iter().flat_map(|l| Normalise::MinMax.scores(&l.values));
            let below = scores.filter(|&s| s < found.value).fold(0.0, f64::max);
            prop_assert!(found.value == 0.0 || removed(below) < share);
        } else {
            prop_assert!(removed(1.0) < share);
        }
    }

    #[test]
    fn dropping_grows_with_the_threshold_and_forgets_scale_and_order(k in 0.0f64..1.0, step in 0.0f64..0.3, seed: u64) {
        let spectra = spectra(seed);
        for normalise in [Normalise::MinMax, Normalise::Energy] {
            let ranks = spectra.ranks(k, normalise);
            let higher = spectra.ranks(k + step, normalise);
            prop_assert!(ranks.iter().zip(&higher).all(|(a, b)| b <= a));
            let mut other = spectra.clone();
            other.layers.reverse();
            // Powers of two: scaling is exact.
            other.layers.iter_mut().for_each(|l| l.values.iter_mut().for_each(|v| *v *= 1024.0));
            let mut turned = other.ranks(k, normalise);
            turned.reverse();
            prop_assert_eq!(&turned, &ranks);
            // Against the definition.
            if normalise == Normalise::MinMax {
                for (l, &r) in spectra.layers.iter().zip(&ranks) {
                    let (first, last) = (l.values[0], l.values[l.values.len() - 1]);
                    let count = l.values.iter().filter(|&&v| (v - last) / (first - last) >= k).count();
                    prop_assert_eq!(r, if first > last { count } else { l.values.len() });
                }
            }
        }
        prop_assert!(spectra.ranks(0.0, Normalise::MinMax).iter().zip(&spectra.layers).all(|(&r, l)| r == l.values.len()));
    }
}

fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

#[test]
fn planted_ranks_are_found_at_the_gap() {
    let mut rng = Pcg64::seed_from_u64(1);
    let planted = [4, 8, 16, 24, 32, 48];
    let layers = planted.iter().enumerate().map(|(i, &rank)| {
        let low = matmul(&gaussian(&mut rng, 64, rank), &gaussian(&mut rng, rank, 64)).unwrap();
        let size = low.frobenius_norm() / 64.0;
        let noise = gaussian(&mut rng, 64, 64);
        let w = Mat::from_fn(64, 64, |r, c| low.at(r, c) / size + 1e-3 * noise.at(r, c));
        spectrum(&format!("layer {i}"), 64, 64, svd_values(&w).unwrap())
    });
    let spectra = Spectra { layers: layers.collect() };
    let share = 1.0 - planted.iter().sum::<usize>() as f64 / 384.0;
    let found = spectra.threshold(Target::Ranks(share), Normalise::MinMax).unwrap();
    for (rank, found) in planted.iter().zip(spectra.ranks(found.value, Normalise::MinMax)) {
        assert!(rank.abs_diff(found) <= 2, "{rank} {found}");
    }
}

#[test]
fn classes_sizes_and_plan_agree() {
    let falling = |n: usize| (0..n).map(|t| 0.9f64.powi(t as i32)).collect::<Vec<_>>();
    let flat = |n: usize| (0..n).map(|t| 1.0 - 1e-3 * t as f64).collect::<Vec<_>>();
    let spectra = Spectra {
        layers: vec![
            spectrum("low", 40, 40, falling(40)),
            spectrum("wide", 40, 400, flat(40)),
            spectrum("flat", 40, 40, flat(40)),
        ],
    };
    // Rank 18 of a 40 x 40 matrix saves, rank 32 does not; of a 40 x 400 matrix rank 32 saves.
    let split = spectra.split(&[18, 32, 32], LRC_CUT, true);
    assert_eq!(
        split.iter().map(|l| l.class).collect::<Vec<_>>(),
        [Class::LowRank, Class::Other, Class::Other]
    );
    assert_eq!(split.iter().map(|l| l.factored).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(split.iter().map(|l| l.after).collect::<Vec<_>>(), [18 * 80, 32 * 440, 1600]);
    let growing = spectra.split(&[18, 32, 32], LRC_CUT, false);
    assert!(growing[2].factored && growing[2].after > growing[2].before);
    let plan = spectra.plan(&split, None);
    assert_eq!(plan.cost, split.iter().map(|l| l.after).sum::<u64>());
    for (i, row) in split.iter().enumerate() {
        assert_eq!(plan.choice(i).layout.is_some(), row.factored);
        assert_eq!(plan.choice(i).params, row.after);
    }
}

#[test]
fn edge_cases() {
    let spectra = Spectra {
        layers: vec![
            spectrum("orthogonal", 5, 5, vec![2.0; 5]),
            spectrum("zero", 5, 5, vec![0.0; 5]),
            spectrum("vector", 1, 9, vec![3.0]),
        ],
    };
    assert_eq!(spectra.ranks(1.0, Normalise::MinMax), [5, 1, 1]);
    assert_eq!(spectra.ranks(0.0, Normalise::Energy), [5, 5, 1]);
    let far = spectra.threshold(Target::Ranks(0.9), Normalise::MinMax).unwrap();
    assert!(!far.reached && (far.ranks * 11.0 - 4.0).abs() < 1e-9);
    for bad in [Target::Ranks(1.0), Target::Ranks(f64::NAN), Target::Parameters(-0.1), Target::Threshold(1.5)]
    {
        assert!(spectra.threshold(bad, Normalise::MinMax).is_err(), "{bad:?}");
    }
    assert!(Spectra::default().threshold(Target::Ranks(0.5), Normalise::MinMax).is_err());
}

#[test]
fn truncation_is_the_best_of_its_rank() {
    let mut rng = Pcg64::seed_from_u64(3);
    let w = gaussian(&mut rng, 12, 20);
    let stored: Matrix =
        Dense::from_f32(12, 20, &w.data.iter().map(|&v| v as f32).collect::<Vec<_>>(), ValueType::F32).into();
    let s = svd_values(&w).unwrap();
    for k in [1, 5, 11] {
        let cut = truncated(&stored, k).unwrap().to_dense();
        let error: f64 = cut.iter().zip(&w.data).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        let tail: f64 = s[k..].iter().map(|v| v * v).sum();
        assert!((error / tail - 1.0).abs() < 1e-4);
    }
}
