use proptest::prelude::*;
use rand::Rng;
use rand_distr::StandardNormal;
use sparseland_core::Context;
use sparseland_linalg::{Mat, lstsq, solve_spd};
use sparseland_optim::design::Dense;

use super::baselines::{combine, hill_climb, nnls, rmse};
use super::*;
use crate::estimators;

fn context() -> Context {
    Context::new(0, 2).unwrap()
}

/// `k` models that see the truth with noises of their own, the last `copies` being near copies of the first ones.
fn models(n: usize, k: usize, copies: usize, seed: u64) -> (Mat<f64>, Vec<f64>) {
    let mut rng = context().rng(seed);
    let mut draw = || rng.sample::<f64, _>(StandardNormal);
    let truth: Vec<f64> = (0..n).map(|_| 3.0 + 2.0 * draw()).collect();
    let mut p = Mat::zeros(n, k);
    for i in 0..n {
        for j in 0..k {
            p.data[i * k + j] = if j < k - copies {
                truth[i] + (0.5 + 0.1 * j as f64) * draw()
            } else {
                p.at(i, j - (k - copies)) + 0.02 * draw()
            };
        }
    }
    let y = truth.iter().map(|t| t + 0.5 * draw()).collect();
    (p, y)
}

#[test]
fn out_of_fold_predictions_never_depend_on_their_own_target() {
    let (p, y) = models(60, 8, 3, 1);
    // Thresholds at which the choice of models hangs on single targets.
    let learners = vec![Learner::Ridge, Learner::Lasso];
    let stack = Stack { folds: 4, tau_corr: 0.9, tau_mse: 0.1, learners, ..Stack::default() };
    let before = stack.fit(&p, &y, &context()).unwrap().out_of_fold;
    let mut leaks = 0;
    for row in [0, 7, 23, 41, 59] {
        let mut changed = y.clone();
        changed[row] += 50.0;
        let after = stack.fit(&p, &changed, &context()).unwrap().out_of_fold;
        assert_eq!(before[row].to_bits(), after[row].to_bits(), "row {row}");
        assert!(before != after, "other rows have learnt from it");
        // The published way: ranks and weights have seen the target.
        let leaky = Stack { nested: false, ..stack.clone() };
        let (a, b) = (leaky.fit(&p, &y, &context()).unwrap(), leaky.fit(&p, &changed, &context()).unwrap());
        leaks += usize::from(a.out_of_fold[row] != b.out_of_fold[row]);
    }
    assert!(leaks > 0, "the test must be able to see a leak");
}

/// Polynomials of one column of x by least squares, one model per degree.
fn polynomials<'a>(x: &'a [f64], y: &'a [f64]) -> Vec<Box<BaseModel<'a>>> {
    (1..6)
        .map(|degree| {
            let model = move |train: &[u32], held: &[u32]| {
                let row = |i: u32, d: usize| x[i as usize].powi(d as i32);
                let table = |rows: &[u32]| Mat::from_fn(rows.len(), degree + 1, |i, d| row(rows[i], d));
                let target = Mat::from_fn(train.len(), 1, |i, _| y[train[i] as usize]);
                let coef = lstsq(&table(train), &target)?.data;
                let held = table(held);
                Ok((0..held.rows).map(|i| held.row(i).iter().zip(&coef).map(|(a, b)| a * b).sum()).collect())
            };
            Box::new(model) as Box<BaseModel<'a>>
        })
        .collect()
}

#[test]
fn the_whole_chain_never_sees_a_target_and_finds_nothing_in_noise() {
    let mut rng = context().rng(5);
    let x: Vec<f64> = (0..120).map(|_| rng.random_range(-1.0..1.0)).collect();
    let noise: Vec<f64> = (0..120).map(|_| rng.sample(StandardNormal)).collect();
    let folds = Folds::shuffled(120, 5, 0).unwrap();
    let stack = Stack { folds: 3, learners: vec![Learner::Ridge, Learner::Lasso], ..Stack::default() };
    let run = |y: &[f64]| {
        let owned = polynomials(&x, y);
        let models: Vec<&BaseModel<'_>> = owned.iter().map(AsRef::as_ref).collect();
        end_to_end(&models, y, &folds, 4, &stack, &context()).unwrap()
    };
    let before = run(&noise);
    // Nothing but the mean is left: predicting noise with anything else costs more than it gives.
    assert!(score(&before, &noise).r2 < 0.03, "{:?}", score(&before, &noise));
    for row in [3, 77] {
        let mut changed = noise.clone();
        changed[row] -= 30.0;
        let after = run(&changed);
        assert_eq!(before[row].to_bits(), after[row].to_bits());
        assert!(before != after);
    }
    // And with something to find, it is found.
    let y: Vec<f64> = x.iter().zip(&noise).map(|(x, e)| (3.0 * x).sin() + 0.2 * e).collect();
    assert!(score(&run(&y), &y).r2 > 0.85);
}

#[test]
fn held_out_rows_take_no_part_in_scaling() {
    let (p, y) = models(90, 6, 0, 2);
    let folds = Folds::given((0..90).map(|i| i % 3).collect()).unwrap();
    let stack = Stack::default();
    let fit = |p: &Mat<f64>| stack.fit_folds(p, &y, &folds, &context()).unwrap();
    let clean = fit(&p);
    let mut poisoned = p.clone();
    let rows: Vec<usize> = (0..90).filter(|i| i % 3 == 1).take(10).collect();
    for &i in &rows {
        poisoned.row_mut(i).iter_mut().for_each(|v| *v = *v * 1e4 + 3e5);
    }
    let dirty = fit(&poisoned);
    // Rows of that fold which were not touched are predicted by the same models.
    for i in (0..90).filter(|i| i % 3 == 1 && !rows.contains(i)) {
        assert!((clean.out_of_fold[i] - dirty.out_of_fold[i]).abs() < 1e-8, "{i}");
    }
    assert!(clean.out_of_fold.iter().zip(&dirty.out_of_fold).any(|(a, b)| (a - b).abs() > 1.0));
}

#[test]
fn learners_are_those_of_the_plain_formulas() {
    let (p, y) = models(80, 5, 0, 3);
    let base = Stack { project: false, augment: false, ..Stack::default() };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    // Standardised columns.
    let columns: Vec<Vec<f64>> = (0..5)
        .map(|j| {
            let c = p.column(j);
            let m = mean(&c);
            let sd = mean(&c.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>()).sqrt();
            c.iter().map(|v| (v - m) / sd).collect()
        })
        .collect();
    for learner in [Learner::Ridge, Learner::Lasso, Learner::ElasticNet] {
        let fitted = Stack { learners: vec![learner], ..base.clone() }.fit(&p, &y, &context()).unwrap();
        let found = &fitted.learners[0];
        let plain: Vec<f64> = if learner == Learner::Ridge {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let gram = Mat::from_fn(5, 5, |a, b| {
                dot(&columns[a], &columns[b]) + if a == b { found.alpha } else { 0.0 }
            });
            let right = Mat::from_fn(5, 1, |a, _| dot(&columns[a], &y));
            solve_spd(&gram, &right).unwrap().data
        } else {
            let x = Dense::from_columns(80, 5, columns.concat()).unwrap();
            let model = estimators::ElasticNet::new(found.alpha).l1_ratio(found.l1_ratio).tol(1e-12);
            model.fit(&x, &y).unwrap().coef.to_dense()
        };
        for (j, plain) in plain.iter().enumerate() {
            let c = p.column(j);
            let m = mean(&c);
            let sd = mean(&c.iter().map(|v| (v - m) * (v - m)).collect::<Vec<_>>()).sqrt();
            assert!(
                (found.coef[j] * sd - plain).abs() < 1e-7,
                "{learner:?} {j}: {} {plain}",
                found.coef[j] * sd
            );
        }
        let direct = combine(&p, &found.coef, found.intercept);
        assert!((mean(&direct) - mean(&y)).abs() < 1e-9, "the intercept is free");
        assert_eq!(fitted.predict(&p).unwrap().len(), 80);
        // Out-of-fold strengths: of all in the grid, the inner error is the least on an even finer check of one fold.
        assert!(found.inner_rmse > 0.0 && (0.0..=1.0).contains(&found.sparsity));
    }
}

#[test]
fn inner_errors_are_those_of_predictions() {
    // One learner, inner folds recomputed row by row.
    let (p, y) = models(40, 3, 0, 4);
    let table = Mat::from_fn(40, 4, |i, j| if j < 3 { p.at(i, j) } else { y[i] });
    let rows = |g: u32| (0..40).filter(|i| i % 2 == g).collect::<Vec<u32>>();
    let parts: Vec<Moments> = (0..2).map(|g| Moments::of(&table, &rows(g), &[1.0; 4])).collect();
    let fitted = learners::fit(Learner::Ridge, &parts, &[1.0; 4]).unwrap();
    let mut total = 0.0;
    for g in 0..2 {
        let (train, test) = (rows(1 - g), rows(g));
        let mean = |j: usize, rows: &[u32]| {
            rows.iter().map(|i| table.at(*i as usize, j)).sum::<f64>() / rows.len() as f64
        };
        let all: Vec<u32> = (0..40).collect();
        let sd = |j: usize| {
            let m = mean(j, &all);
            (all.iter().map(|i| (table.at(*i as usize, j) - m).powi(2)).sum::<f64>() / 40.0).sqrt()
        };
        let z = |i: u32, j: usize| (table.at(i as usize, j) - mean(j, &train)) / sd(j);
        let target = |i: u32| y[i as usize] - mean(3, &train);
        let gram = Mat::from_fn(3, 3, |a, b| {
            train.iter().map(|i| z(*i, a) * z(*i, b)).sum::<f64>() + if a == b { fitted.alpha } else { 0.0 }
        });
        let right = Mat::from_fn(3, 1, |a, _| train.iter().map(|i| z(*i, a) * target(*i)).sum::<f64>());
        let w = solve_spd(&gram, &right).unwrap().data;
        let square = |i: &u32| (target(*i) - (0..3).map(|j| w[j] * z(*i, j)).sum::<f64>()).powi(2);
        total += (test.iter().map(square).sum::<f64>() / test.len() as f64).sqrt() / 2.0;
    }
    assert!((fitted.inner_rmse - total).abs() < 1e-10, "{} {total}", fitted.inner_rmse);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_kept_satisfies_the_definition(
        seed in 0u64..1000, copies in 0usize..5, tau_corr in 0.5..1.0f64, tau_mse in 0.0..0.5f64, either in any::<bool>(),
    ) {
        let (p, y) = models(50, 9, copies, seed);
        let joint = if either { Joint::Or } else { Joint::And };
        let stack = Stack { tau_corr, tau_mse, joint, folds: 3, learners: vec![Learner::Ridge], ..Stack::default() };
        let fitted = stack.fit(&p, &y, &context()).unwrap();
        let found = &fitted.redundancy;
        let errors: Vec<f64> = (0..9).map(|k| rmse(&p.column(k), &y)).collect();
        let best = (0..9).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap();
        prop_assert!(found.kept.contains(&best));
        prop_assert_eq!(found.kept.len() + found.dropped.len(), 9);
        let spread = { let s = score(&vec![0.0; 50], &y); s.rmse.powi(2) - (y.iter().sum::<f64>() / 50.0).powi(2) };
        let redundant = |a: usize, b: usize| {
            let (a, b) = (p.column(a), p.column(b));
            let mean = |v: &[f64]| v.iter().sum::<f64>() / 50.0;
            let (ma, mb) = (mean(&a), mean(&b));
            let cov = |x: &[f64], y: &[f64], mx: f64, my: f64| x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>();
            let corr = cov(&a, &b, ma, mb) / (cov(&a, &a, ma, ma) * cov(&b, &b, mb, mb)).sqrt();
            let mse = rmse(&a, &b).powi(2);
            let (c, m) = (corr >= tau_corr, mse <= tau_mse * spread);
            // Pairs at the threshold may go either way.
            let edge = (corr - tau_corr).abs() < 1e-9 || (mse - tau_mse * spread).abs() < 1e-9;
            (if either { c || m } else { c && m }, edge)
        };
        for (i, &a) in found.kept.iter().enumerate() {
            for &b in &found.kept[i + 1..] {
                let (is, edge) = redundant(a, b);
                prop_assert!(!is || edge);
            }
        }
        for d in &found.dropped {
            if let Some(partner) = d.partner {
                let (is, edge) = redundant(d.model, partner);
                prop_assert!((is || edge) && found.rmse[partner] <= found.rmse[d.model]);
            }
        }
        prop_assert!(found.condition_after <= found.condition_before * (1.0 + 1e-9));
        let sum: f64 = fitted.weights.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-12);
        // Another order of the columns keeps the same models.
        let turned = Mat::from_fn(50, 9, |i, j| p.at(i, 8 - j));
        let mut kept: Vec<usize> = stack.fit(&turned, &y, &context()).unwrap().kept().iter().map(|j| 8 - j).collect();
        kept.sort_unstable();
        prop_assert_eq!(&kept, &found.kept);
    }
}

#[test]
fn threads_do_not_matter_and_models_survive_a_file() {
    let (p, y) = models(5000, 7, 2, 9);
    let stack = Stack { folds: 4, ..Stack::default() };
    let one = stack.fit(&p, &y, &Context::new(0, 1).unwrap()).unwrap();
    let two = stack.fit(&p, &y, &Context::new(1, 3).unwrap()).unwrap();
    assert_eq!(one, two);
    assert!(one.weights.iter().all(|w| *w > 0.0 && *w < 1.0));
    let text = serde_json::to_string(&one).unwrap();
    assert!(text.len() < 10_000);
    let back: FittedStack = serde_json::from_str(&text).unwrap();
    assert_eq!(back.predict(&p).unwrap(), one.predict(&p).unwrap());
    // A model that was left out need not run.
    let mut partial = p.clone();
    let dropped = one.redundancy.dropped[0].model;
    (0..5000).for_each(|i| partial.data[i * 7 + dropped] = f64::NAN);
    assert_eq!(one.predict(&partial).unwrap(), one.predict(&p).unwrap());
}

#[test]
fn hill_climbing_takes_the_best_step_and_nnls_is_positive() {
    let (p, y) = models(200, 5, 0, 6);
    let weights = hill_climb(&p, &y, 3);
    // Three greedy picks by brute force.
    let mut picks: Vec<usize> = vec![];
    let error = |picks: &[usize]| {
        let mean: Vec<f64> =
            (0..200).map(|i| picks.iter().map(|k| p.at(i, *k)).sum::<f64>() / picks.len() as f64).collect();
        rmse(&mean, &y)
    };
    for _ in 0..3 {
        let with = |k: usize| [&picks[..], &[k]].concat();
        let best = (0..5).min_by(|&a, &b| error(&with(a)).total_cmp(&error(&with(b)))).unwrap();
        if !picks.is_empty() && error(&with(best)) >= error(&picks) {
            break;
        }
        picks.push(best);
    }
    for k in 0..5 {
        let share = picks.iter().filter(|p| **p == k).count() as f64 / picks.len() as f64;
        assert!((weights[k] - share).abs() < 1e-12);
    }
    let (w, b) = nnls(&p, &y).unwrap();
    assert!(w.iter().all(|w| *w >= 0.0) && rmse(&combine(&p, &w, b), &y) < error(&[0]));
}

#[test]
fn edges_are_handled_and_bad_input_is_named() {
    let (p, y) = models(40, 4, 0, 8);
    let said = |stack: Stack, p: &Mat<f64>, y: &[f64]| {
        stack.fit(p, y, &context()).map(|_| ()).unwrap_err().to_string()
    };
    let mut bad = p.clone();
    bad.data[4 * 9 + 2] = f64::NAN;
    let text = said(Stack::default(), &bad, &y);
    assert!(text.contains("model 2") && text.contains("row 9"), "{text}");
    assert!(said(Stack::default(), &p, &y[1..]).contains("rows of y"));
    assert!(said(Stack { tau_corr: 1.5, ..Stack::default() }, &p, &y).contains("tau_corr"));
    assert!(said(Stack { folds: 41, ..Stack::default() }, &p, &y).contains("folds"));
    assert!(said(Stack { learners: vec![], ..Stack::default() }, &p, &y).contains("learners"));
    let fitted = Stack::default().fit(&p, &y, &context()).unwrap();
    assert!(fitted.predict(&Mat::zeros(3, 5)).unwrap_err().to_string().contains("expected 4, got 5"));
    // One model, a constant one, only constant ones, and a perfect one.
    let one = Mat::from_vec(40, 1, p.column(0)).unwrap();
    assert!(Stack::default().fit(&one, &y, &context()).unwrap().score.rmse.is_finite());
    let with_constant = Mat::from_fn(40, 2, |i, j| if j == 0 { p.at(i, 0) } else { 3.0 });
    assert_eq!(Stack::default().fit(&with_constant, &y, &context()).unwrap().kept(), [0]);
    let constants = Mat::from_fn(40, 2, |_, j| j as f64);
    let fitted = Stack::default().fit(&constants, &y, &context()).unwrap();
    assert_eq!(fitted.kept().len(), 1);
    assert!(fitted.predict(&constants).unwrap().iter().all(|v| v.is_finite()));
    let perfect = Mat::from_fn(40, 2, |i, j| if j == 0 { y[i] } else { p.at(i, 0) });
    let fitted = Stack::default().fit(&perfect, &y, &context()).unwrap();
    assert!(fitted.score.rmse < 1e-3 && fitted.weights.iter().all(|w| w.is_finite()));
    assert_eq!(inverse_weights(&[0.0, 2.0]), [1.0, 0.0]);
}
