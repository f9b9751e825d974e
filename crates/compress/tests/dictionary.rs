//! Sparse coding and dictionary learning against plain loops, brute force and closed forms.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_compress::dictionary::{Learner, Pursuit, Update, code_samples};
use sparseland_linalg::{Mat, lstsq, matmul, qr, svd};

fn gaussian(rng: &mut Pcg64, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
}

fn unit_rows(mut a: Mat<f64>) -> Mat<f64> {
    for i in 0..a.rows {
        let norm = a.row(i).iter().map(|v| v * v).sum::<f64>().sqrt();
        a.row_mut(i).iter_mut().for_each(|v| *v /= norm);
    }
    a
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Least squares of `x` on the chosen atoms: coefficients and residual.
fn refit(x: &[f64], atoms: &Mat<f64>, chosen: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let a = Mat::from_fn(x.len(), chosen.len(), |c, i| atoms.at(chosen[i], c));
    let found = lstsq(&a, &Mat { rows: x.len(), cols: 1, data: x.to_vec() }).unwrap();
    let fitted = matmul(&a, &found).unwrap();
    (found.data, x.iter().zip(&fitted.data).map(|(x, f)| x - f).collect())
}

/// The textbook: correlate with the residual (or try every atom), refit everything, repeat.
fn plain(x: &[f64], atoms: &Mat<f64>, nonzeros: usize, pursuit: Pursuit) -> Vec<f64> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut residual = x.to_vec();
    for _ in 0..nonzeros {
        let free = (0..atoms.rows).filter(|i| !chosen.contains(i));
        let score = |&i: &usize| match pursuit {
            Pursuit::Matching => dot(atoms.row(i), &residual).abs(),
            Pursuit::LeastSquares => {
                let with: Vec<usize> = chosen.iter().copied().chain([i]).collect();
                let left = refit(x, atoms, &with).1;
                -dot(&left, &left)
            }
        };
        let best = free.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        chosen.push(best);
        residual = refit(x, atoms, &chosen).1;
    }
    let mut code = vec![0.0; atoms.rows];
    for (i, v) in chosen.iter().zip(refit(x, atoms, &chosen).0) {
        code[*i] = v;
    }
    code
}

fn learner(data: &Mat<f64>, k: usize, s: usize, rng: &mut Pcg64) -> Learner {
    Learner::new(data.clone(), gaussian(rng, k, data.cols), s, Pursuit::Matching).unwrap()
}

fn distance(learner: &Learner, data: &Mat<f64>) -> f64 {
    let fitted = matmul(learner.codes(), learner.atoms()).unwrap();
    fitted.distance(data).unwrap().powi(2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn codes_equal_those_of_the_textbook(
        d in 4usize..16, k in 4usize..24, s in 1usize..6, least: bool, seed: u64,
    ) {
        let pursuit = if least { Pursuit::LeastSquares } else { Pursuit::Matching };
        let s = s.min(k).min(d - 1);
        let mut rng = Pcg64::seed_from_u64(seed);
        let atoms = unit_rows(gaussian(&mut rng, k, d));
        let data = gaussian(&mut rng, 19, d);
        let codes = code_samples(&data, &atoms, s, pursuit).unwrap();
        for j in 0..data.rows {
            let expected = plain(data.row(j), &atoms, s, pursuit);
            for (a, b) in codes.row(j).iter().zip(&expected) {
                prop_assert!((a - b).abs() < 1e-7 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }

    #[test]
    fn every_update_lowers_the_objective_and_keeps_the_codes_sparse(
        d in 3usize..12, k in 2usize..20, s in 1usize..5, rule in 0usize..3, seed: u64,
    ) {
        let rule = [Update::Power(3), Update::Exact, Update::Directions][rule];
        let mut rng = Pcg64::seed_from_u64(seed);
        let data = gaussian(&mut rng, 40, d);
        let mut learner = learner(&data, k, s, &mut rng);
        let mut before = learner.objective();
        let rounding = 1e-16 * before;
        for _ in 0..4 {
            learner.code(true).unwrap();
            prop_assert!(learner.objective() <= before * (1.0 + 1e-12) + rounding);
            before = learner.objective();
            learner.update(rule).unwrap();
            prop_assert!(learner.objective() <= before * (1.0 + 1e-9) + rounding, "{rule:?}");
            before = learner.objective();
            prop_assert!((distance(&learner, &data) - before).abs() < 1e-9 * (1.0 + before));
            for j in 0..data.rows {
                prop_assert!(learner.codes().row(j).iter().filter(|&&v| v != 0.0).count() <= s);
            }
            for i in 0..k {
                prop_assert!((dot(learner.atoms().row(i), learner.atoms().row(i)) - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn as_many_atoms_as_dimensions_reproduce_the_data(d in 2usize..14, least: bool, seed: u64) {
        let mut rng = Pcg64::seed_from_u64(seed);
        // Orthonormal directions mixed a little: well-conditioned, far from orthogonal.
        let q = qr(&gaussian(&mut rng, d, d)).unwrap().q;
        let noise = gaussian(&mut rng, d, d);
        let atoms = unit_rows(Mat::from_fn(d, d, |i, j| q.at(i, j) + 0.1 / d as f64 * noise.at(i, j)));
        let data = gaussian(&mut rng, 30, d);
        let pursuit = if least { Pursuit::LeastSquares } else { Pursuit::Matching };
        let codes = code_samples(&data, &atoms, d, pursuit).unwrap();
        let error = matmul(&codes, &atoms).unwrap().distance(&data).unwrap();
        prop_assert!(error < 1e-6 * data.frobenius_norm(), "{error}");
    }
}

#[test]
fn planted_sparse_codes_over_a_known_dictionary_are_found_exactly() {
    let mut rng = Pcg64::seed_from_u64(1);
    let atoms = unit_rows(gaussian(&mut rng, 32, 64));
    let mut truth = Mat::zeros(300, 32);
    for j in 0..300 {
        for i in rand::seq::index::sample(&mut rng, 32, 8) {
            truth.row_mut(j)[i] = gaussian(&mut rng, 1, 1).data[0];
        }
    }
    let data = matmul(&truth, &atoms).unwrap();
    for pursuit in [Pursuit::Matching, Pursuit::LeastSquares] {
        let codes = code_samples(&data, &atoms, 8, pursuit).unwrap();
        let same = |j: &usize| {
            codes.row(*j).iter().zip(truth.row(*j)).all(|(a, b)| (a.abs() > 1e-6) == (b.abs() > 1e-6))
        };
        let exact = (0..300).filter(same).count();
        assert!(exact >= 297, "{pursuit:?}: {exact} of 300 supports");
    }
}

/// How many planted atoms have a learned one within `|cos| > 0.99`, and the relative error.
fn recovery(seed: u64) -> (usize, f64) {
    let mut rng = Pcg64::seed_from_u64(seed);
    let (d, k, s, n) = (64, 48, 6, 2000);
    let truth = unit_rows(gaussian(&mut rng, k, d));
    let mut codes = Mat::zeros(n, k);
    for j in 0..n {
        for i in rand::seq::index::sample(&mut rng, k, s) {
            codes.row_mut(j)[i] = if rng.random() { 1.0 } else { -1.0 } * (0.5 + rng.random::<f64>());
        }
    }
    let data = matmul(&codes, &truth).unwrap();
    let columns = rand::seq::index::sample(&mut rng, n, k).into_vec();
    let start = Mat::from_fn(k, d, |i, c| data.at(columns[i], c));
    let mut learner = Learner::new(data.clone(), start, s, Pursuit::Matching).unwrap();
    learner.learn(100, Update::Power(8), true, 1e-4, &mut |_, _| Ok(())).unwrap();
    let found = learner.atoms();
    let close = |i: &usize| (0..k).any(|a| dot(found.row(a), truth.row(*i)).abs() > 0.99);
    let error = learner.objective().sqrt() / data.frobenius_norm();
    ((0..k).filter(close).count(), error)
}

#[test]
fn a_planted_dictionary_is_recovered_from_the_best_of_three_starts() {
    // The starts in turn until one arrives: plain matching pursuit from random samples, as in the paper.
    assert!((0..3).rev().map(recovery).any(|(atoms, error)| atoms * 10 >= 48 * 9 && error < 1e-2));
}

#[test]
fn an_exact_update_of_a_single_atom_reaches_the_best_rank_one() {
    let mut rng = Pcg64::seed_from_u64(4);
    let data = gaussian(&mut rng, 50, 9);
    let s = svd(&data).unwrap().s;
    let best: f64 = s[1..].iter().map(|v| v * v).sum();
    for rule in [Update::Exact, Update::Power(400), Update::Directions] {
        let mut learner = learner(&data, 1, 1, &mut rng);
        learner
            .learn(if rule == Update::Directions { 400 } else { 1 }, rule, true, 0.0, &mut |_, _| Ok(()))
            .unwrap();
        assert!(learner.objective() >= best * (1.0 - 1e-9));
        assert!((learner.objective() - best) < 1e-6 * best, "{rule:?} {} {best}", learner.objective());
    }
}

#[test]
fn degenerate_atoms_and_samples_do_no_harm() {
    let mut rng = Pcg64::seed_from_u64(3);
    let mut atoms = unit_rows(gaussian(&mut rng, 8, 5));
    let first = atoms.row(0).to_vec();
    atoms.row_mut(1).copy_from_slice(&first); // a duplicate
    atoms.row_mut(2).fill(0.0);
    let mut data = gaussian(&mut rng, 12, 5);
    data.row_mut(0).fill(0.0);
    data.row_mut(1).copy_from_slice(&first);
    for pursuit in [Pursuit::Matching, Pursuit::LeastSquares] {
        // More than fit: the fifth independent atom leaves nothing to do.
        let codes = code_samples(&data, &atoms, 8, pursuit).unwrap();
        let count = |j: usize| codes.row(j).iter().filter(|&&v| v != 0.0).count();
        assert_eq!((count(0), count(1)), (0, 1));
        assert!((0..12).all(|j| count(j) <= 5));
        assert!((0..12).all(|j| codes.at(j, 2) == 0.0 && codes.at(j, 0) * codes.at(j, 1) == 0.0));
        assert!(matmul(&codes, &atoms).unwrap().distance(&data).unwrap() < 1e-6);
    }
    // More atoms than samples, all samples alike.
    let data = Mat::from_fn(4, 5, |_, c| 1.0 + c as f64);
    let mut learner = learner(&data, 9, 2, &mut rng);
    learner.learn(5, Update::Power(4), true, 0.0, &mut |_, _| Ok(())).unwrap();
    assert!(learner.objective() < 1e-12);
    let error = code_samples(&Mat::from_fn(1, 5, |_, _| f64::NAN), &atoms, 1, Pursuit::Matching);
    assert!(error.is_err());
}

#[test]
fn unused_atoms_take_over_what_is_represented_worst() {
    let mut rng = Pcg64::seed_from_u64(6);
    // Two clusters along two axes; both starting atoms look along the first.
    let data =
        Mat::from_fn(
            40,
            4,
            |j, c| if c == usize::from(j % 2 == 1) { 1.0 + 0.1 * rng.random::<f64>() } else { 0.0 },
        );
    let start = Mat::from_fn(2, 4, |i, c| if c == 0 { 1.0 } else { 0.0 * i as f64 });
    let mut learner = Learner::new(data, start, 1, Pursuit::Matching).unwrap();
    learner.learn(3, Update::Power(4), true, 0.0, &mut |_, _| Ok(())).unwrap();
    assert!(learner.objective() < 1e-20, "{}", learner.objective());
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let mut rng = Pcg64::seed_from_u64(8);
    let data = gaussian(&mut rng, 600, 48);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut learner = learner(&data, 20, 5, &mut Pcg64::seed_from_u64(9));
            learner.learn(2, Update::Power(3), true, 0.0, &mut |_, _| Ok(())).unwrap();
            learner.into_parts()
        })
    };
    assert!(run(1) == run(3));
}
