use proptest::prelude::*;
use rand::Rng;

use super::*;

fn normal(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| rng.sample(StandardNormal))
}

fn product(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    sparseland_linalg::matmul(a, b).unwrap()
}

proptest! {
    #[test]
    fn allocations_are_exact_and_keep_floors_and_supplies(
        shares in prop::collection::vec(0.0f64..5.0, 1..30), each in 0usize..5, extra in 0usize..500, limit in 5usize..200,
    ) {
        let total = each * shares.len() + extra;
        let supply = vec![limit.max(each); shares.len()];
        let floor = Floor { each, supply: Some(supply.clone()) };
        match allocate(&shares, total, &floor) {
            Ok(given) => {
                prop_assert_eq!(given.iter().sum::<usize>(), total);
                prop_assert!(given.iter().zip(&supply).all(|(n, s)| *n >= each && n <= s));
            }
            Err(_) => prop_assert!(total > supply.iter().sum::<usize>()),
        }
        let free = allocate(&shares, total, &Floor { each, supply: None }).unwrap();
        let sum: f64 = shares.iter().sum();
        if sum > 0.0 {
            // Largest remainders: within one sample of the ideal.
            for (n, s) in free.iter().zip(&shares) {
                prop_assert!((*n as f64 - each as f64 - extra as f64 * s / sum).abs() <= 1.0 + 1e-9);
            }
        }
    }

    #[test]
    fn the_smallest_one_norm_is_a_vertex_and_no_larger_than_any_other_solution(
        k in 2usize..5, tasks in 5usize..12, seed: u64,
    ) {
        let mut rng = Pcg64::seed_from_u64(seed);
        let heads = normal(&mut rng, k, tasks);
        let target: Vec<f64> = (0..k).map(|_| rng.sample(StandardNormal)).collect();
        let nu = basis_pursuit(&heads, &target).unwrap();
        prop_assert!(nu.iter().filter(|v| **v != 0.0).count() <= k);
        prop_assert!(relative_residual(&heads, &nu, &target) < 1e-6);
        let norm = |v: &[f64]| v.iter().map(|v| v.abs()).sum::<f64>();
        // All vertices: every choice of k tasks.
        let mut best = f64::INFINITY;
        for mask in 0..1u32 << tasks {
            if mask.count_ones() as usize != k {
                continue;
            }
            let chosen: Vec<usize> = (0..tasks).filter(|m| mask >> m & 1 == 1).collect();
            let narrow = Mat::from_fn(k, k, |t, i| heads.at(t, chosen[i]));
            let right = Mat { rows: k, cols: 1, data: target.clone() };
            if let Ok(found) = sparseland_linalg::lstsq(&narrow, &right)
                && relative_residual(&narrow, &found.data, &target) < 1e-8
            {
                best = best.min(norm(&found.data));
            }
        }
        prop_assert!(norm(&nu) <= best * (1.0 + 1e-4), "{} against {best}", norm(&nu));
        let two = least_norm(&heads, &target).unwrap();
        prop_assert!(norm(&nu) <= norm(&two) * (1.0 + 1e-4));
        let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
        prop_assert!(square(&two) <= square(&nu) * (1.0 + 1e-9));
    }
}

#[test]
fn relevance_does_not_depend_on_the_representations_coordinates() {
    let mut rng = Pcg64::seed_from_u64(3);
    let heads = normal(&mut rng, 4, 9);
    let target: Vec<f64> = (0..4).map(|_| rng.sample(StandardNormal)).collect();
    let rotation = sparseland_linalg::qr(&normal(&mut rng, 4, 4)).unwrap().q;
    let turned = product(&rotation, &heads);
    let target_turned = product(&rotation, &Mat { rows: 4, cols: 1, data: target.clone() }).data;
    for (a, b) in [
        (least_norm(&heads, &target).unwrap(), least_norm(&turned, &target_turned).unwrap()),
        (basis_pursuit(&heads, &target).unwrap(), basis_pursuit(&turned, &target_turned).unwrap()),
    ] {
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }
}

#[test]
fn a_target_that_is_a_source_needs_that_source_alone() {
    let mut rng = Pcg64::seed_from_u64(4);
    let mut heads = normal(&mut rng, 3, 8);
    // Unit heads: no shorter way to one of them than itself.
    for m in 0..8 {
        let norm = (0..3).map(|t| heads.at(t, m).powi(2)).sum::<f64>().sqrt();
        (0..3).for_each(|t| heads.row_mut(t)[m] /= norm);
    }
    let target: Vec<f64> = (0..3).map(|t| heads.at(t, 5)).collect();
    let nu = basis_pursuit(&heads, &target).unwrap();
    assert!((nu[5] - 1.0).abs() < 1e-6 && nu.iter().map(|v| v.abs()).sum::<f64>() < 1.0 + 1e-6, "{nu:?}");
}

#[test]
fn noiseless_tasks_give_their_representation_back() {
    let mut rng = Pcg64::seed_from_u64(5);
    let (d, k, tasks) = (12, 3, 10);
    let truth = sparseland_linalg::qr(&normal(&mut rng, d, k)).unwrap().q;
    let heads = normal(&mut rng, k, tasks);
    let moments: Vec<Moments> = (0..tasks)
        .map(|m| {
            let x = normal(&mut rng, 8, d);
            let theta = Mat::from_fn(d, 1, |i, _| (0..k).map(|t| truth.at(i, t) * heads.at(t, m)).sum());
            Moments::of(&x, &product(&x, &theta).data).unwrap()
        })
        .collect();
    // Eight samples for twelve inputs: no task can be fitted alone.
    let shared = fit_shared(&moments, k).unwrap();
    assert!(shared.history.windows(2).all(|w| w[1] <= w[0] * (1.0 + 1e-9)), "{:?}", shared.history);
    let gram = product(&shared.basis.transposed(), &shared.basis);
    for m in 0..tasks {
        let loss = moments[m].loss(&shared.basis, &(0..k).map(|t| shared.heads.at(t, m)).collect::<Vec<_>>());
        assert!(loss.unwrap() < 1e-2 * moments[m].loss(&shared.basis, &vec![0.0; k]).unwrap());
    }
    assert!((0..k).all(|i| (0..k).all(|j| (gram.at(i, j) - f64::from(u8::from(i == j))).abs() < 1e-9)));
}

#[test]
fn bad_input_is_refused() {
    let x = Mat::from_fn(2, 3, |i, j| if (i, j) == (1, 2) { f64::NAN } else { 1.0 });
    assert!(Moments::of(&x, &[0.0, 0.0]).unwrap_err().to_string().contains("sample 1"));
    assert!(Moments::of(&Mat::zeros(2, 3), &[0.0]).is_err());
    assert!(fit_shared(&[Moments::new(3)], 2).unwrap_err().to_string().contains("2 dimensions"));
    assert!(allocate(&[1.0, 1.0], 3, &Floor { each: 2, supply: None }).is_err());
}
