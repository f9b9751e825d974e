//! Choice of the strength by cross-validation.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sparseland_optim::design::Design;

use crate::estimators::{EstimateError, Fitted, ensure};
use crate::path::{Path, PathEstimator, PathOptions};

/// Which rows are left out together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    /// Fold of every row, below `count`.
    of_row: Vec<usize>,
    count: usize,
}

impl Folds {
    /// `k` folds of (nearly) equal size in random order.
    ///
    /// # Errors
    /// [`EstimateError::Parameter`] unless `2 <= k <= rows`.
    pub fn shuffled(rows: usize, k: usize, seed: u64) -> Result<Self, EstimateError> {
        ensure(
            k >= 2 && k <= rows,
            "number of folds",
            k as f64,
            "at least 2 and at most the number of rows",
        )?;
        let mut of_row: Vec<usize> = (0..rows).map(|i| i % k).collect();
        of_row.shuffle(&mut Pcg64Mcg::seed_from_u64(seed));
        Ok(Self { of_row, count: k })
    }

    /// `k` folds that keep rows of equal label together (several measurements of one subject): the
    /// largest groups first, each to the fold that is smallest.
    ///
    /// # Errors
    /// [`EstimateError::Parameter`] unless `k` is at least 2 and at most the number of labels.
    pub fn grouped(labels: &[usize], k: usize) -> Result<Self, EstimateError> {
        let mut sizes = std::collections::BTreeMap::new();
        labels.iter().for_each(|l| *sizes.entry(*l).or_insert(0usize) += 1);
        let domain = "at least 2 and at most the number of groups";
        ensure(k >= 2 && k <= sizes.len(), "number of folds", k as f64, domain)?;
        let mut order: Vec<(usize, usize)> = sizes.into_iter().collect();
        order.sort_by_key(|&(label, size)| (std::cmp::Reverse(size), label));
        let mut filled = vec![0usize; k];
        let mut fold_of = std::collections::BTreeMap::new();
        for (label, size) in order {
            let fold = (0..k).min_by_key(|&f| filled[f]).unwrap_or(0);
            filled[fold] += size;
            fold_of.insert(label, fold);
        }
        Ok(Self { of_row: labels.iter().map(|l| fold_of[l]).collect(), count: k })
    }

    /// Given folds, numbered from 0.
    ///
    /// # Errors
    /// [`EstimateError::Parameter`] when there are fewer than two, or one is empty.
    pub fn given(of_row: Vec<usize>) -> Result<Self, EstimateError> {
        let count = of_row.iter().max().map_or(0, |m| m.saturating_add(1));
        let domain = "at least 2 and at most the number of rows";
        ensure(count >= 2 && count <= of_row.len(), "number of folds", count as f64, domain)?;
        let mut used = vec![false; count];
        of_row.iter().for_each(|f| used[*f] = true);
        let empty = used.iter().position(|u| !u);
        ensure(empty.is_none(), "fold", empty.unwrap_or(0) as f64, "a fold that some row belongs to")?;
        Ok(Self { of_row, count })
    }

    /// Number of folds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Fold of every row.
    pub fn of_row(&self) -> &[usize] {
        &self.of_row
    }
}

/// A path with its cross-validated losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossValidated {
    /// The path on all rows.
    pub path: Path,
    /// Mean loss of left-out rows for every fit of the path, a weighted mean with sample weights.
    /// For squares it is half the mean squared error.
    pub mean: Vec<f64>,
    /// Standard error of that mean over the folds.
    pub standard_error: Vec<f64>,
    /// Mean loss of every fold, fold by fold.
    pub by_fold: Vec<Vec<f64>>,
    /// The fit of least mean loss.
    pub best: usize,
    /// The sparsest fit (largest strength) whose loss is within one standard error of the least.
    pub one_standard_error: usize,
}

impl CrossValidated {
    /// The fit of least mean loss.
    pub fn best_fit(&self) -> &Fitted {
        &self.path.fits[self.best]
    }

    /// The sparsest fit within one standard error of it.
    pub fn one_standard_error_fit(&self) -> &Fitted {
        &self.path.fits[self.one_standard_error]
    }
}

/// Fits the path on all rows, then without each fold at the same strengths, and measures the loss on the
/// rows left out. Folds run in parallel on `pool`; the result does not depend on its number of threads.
///
/// Cost: a copy of the design and a path for every fold.
///
/// ```
/// use sparseland_estimate::cv::{Folds, cross_validate};
/// use sparseland_estimate::estimators::Lasso;
/// use sparseland_estimate::path::PathOptions;
/// use sparseland_optim::design::Dense;
///
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
/// let x = Dense::from_rows(6, 2, &[0., 1., 1., -1., 2., 1., 3., -1., 4., 1., 5., -1.])?;
/// let y = [1.0, 3.1, 4.9, 7.0, 9.1, 10.9];
/// let folds = Folds::shuffled(6, 3, 0)?;
/// let found = cross_validate(&Lasso::new(0.0), &x, &y, None, &folds, &PathOptions::default(), &pool)?;
/// assert!((found.best_fit().coef.to_dense()[0] - 2.0).abs() < 0.1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`EstimateError`] of the data or the parameters, [`EstimateError::Length`] when the folds are not
/// those of the rows.
pub fn cross_validate(
    estimator: &dyn PathEstimator,
    x: &dyn Design,
    y: &[f64],
    sample_weight: Option<&[f64]>,
    folds: &Folds,
    options: &PathOptions,
    pool: &rayon::ThreadPool,
) -> Result<CrossValidated, EstimateError> {
    if folds.of_row.len() != x.rows() {
        let (expected, got) = (x.rows(), folds.of_row.len());
        return Err(EstimateError::Length { what: "folds", why: "rows of X", expected, got });
    }
    let path = estimator.path(x, y, sample_weight, options)?;
    let shared = PathOptions { alphas: Some(path.alphas()), dfmax: None, ..options.clone() };
    let loss = estimator.loss();
    let one = |fold: usize| -> Result<(Vec<f64>, f64), EstimateError> {
        let rows_where = |inside: bool| -> Vec<u32> {
            let rows = 0..x.rows() as u32;
            rows.filter(|&i| (folds.of_row[i as usize] == fold) == inside).collect()
        };
        let (test, train) = (rows_where(true), rows_where(false));
        let pick = |of: &[f64], rows: &[u32]| -> Vec<f64> { rows.iter().map(|&i| of[i as usize]).collect() };
        let train_x = x.select(Some(&train), None, None);
        let train_weight = sample_weight.map(|w| pick(w, &train));
        let fits = estimator.path(train_x.as_ref(), &pick(y, &train), train_weight.as_deref(), &shared)?.fits;
        // Only the columns that some fit uses.
        let mut used: Vec<u32> = fits.iter().flat_map(|f| f.coef.indices.iter().copied()).collect();
        used.sort_unstable();
        used.dedup();
        let test_x = x.select(Some(&test), Some(&used), None);
        let total: f64 = test.iter().map(|&i| sample_weight.map_or(1.0, |w| w[i as usize])).sum();
        let mut losses = Vec::with_capacity(fits.len());
        let mut margin = vec![0.0; test.len()];
        for fit in &fits {
            margin.fill(fit.intercept);
            for (j, w) in fit.coef.iter() {
                if let Ok(at) = used.binary_search(&(j as u32)) {
                    test_x.axpy(at, w, &mut margin);
                }
            }
            let weighted = |(&i, &m): (&u32, &f64)| {
                sample_weight.map_or(1.0, |w| w[i as usize]) * loss.value(y[i as usize], m)
            };
            let sum: f64 = test.iter().zip(&margin).map(weighted).sum();
            losses.push(if total > 0.0 { sum / total } else { 0.0 });
        }
        Ok((losses, total))
    };
    let done: Result<Vec<_>, EstimateError> =
        pool.install(|| (0..folds.count).into_par_iter().map(one).collect());
    let mut done = done?;
    // A fold of fewer rows may not reach the largest subsets: its last one then stands for them.
    for (losses, _) in &mut done {
        let last = losses.last().copied().unwrap_or(0.0);
        losses.resize(path.fits.len(), last);
    }
    let Validated { mean, standard_error, best, one_standard_error } = summary(&done, path.fits.len());
    let by_fold = done.into_iter().map(|d| d.0).collect();
    Ok(CrossValidated { path, mean, standard_error, by_fold, best, one_standard_error })
}

/// Losses over the folds, and the fits that they choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Mean loss of left-out rows, for every fit.
    pub mean: Vec<f64>,
    /// Standard error of that mean over the folds.
    pub standard_error: Vec<f64>,
    /// The fit of least mean loss.
    pub best: usize,
    /// The sparsest fit (largest strength) whose loss is within one standard error of the least.
    pub one_standard_error: usize,
}

/// From the losses of every fold, one per fit, and the fold's weight.
fn summary(done: &[(Vec<f64>, f64)], fits: usize) -> Validated {
    let weight: f64 = done.iter().map(|d| d.1).sum();
    let (mut mean, mut standard_error) = (Vec::new(), Vec::new());
    for i in 0..fits {
        let average = done.iter().map(|(l, w)| l[i] * w).sum::<f64>() / weight;
        let spread = done.iter().map(|(l, w)| w * (l[i] - average) * (l[i] - average)).sum::<f64>() / weight;
        mean.push(average);
        standard_error.push((spread / (done.len() as f64 - 1.0)).sqrt());
    }
    let best = (0..mean.len()).min_by(|&a, &b| mean[a].total_cmp(&mean[b])).unwrap_or(0);
    let limit = mean[best] + standard_error[best];
    let one_standard_error = (0..=best).find(|&i| mean[i] <= limit).unwrap_or(best);
    Validated { mean, standard_error, best, one_standard_error }
}

/// Losses of left-out rows along a path, for estimators that are no [`PathEstimator`]: several targets, classes, times.
///
/// `losses` fits without some rows at the strengths of the path (first the rows to fit, then those left out, both
/// rising) and gives the mean loss of the rows left out, one per fit. Folds run in parallel on `pool`; the result does
/// not depend on its number of threads.
///
/// # Errors
/// Those of `losses`; of the first fold at fault.
pub fn validate<E: Send>(
    folds: &Folds,
    pool: &rayon::ThreadPool,
    losses: impl Fn(&[u32], &[u32]) -> Result<Vec<f64>, E> + Sync,
) -> Result<Validated, E> {
    let one = |fold: usize| -> Result<(Vec<f64>, f64), E> {
        let rows = 0..folds.of_row.len() as u32;
        let (test, train): (Vec<u32>, Vec<u32>) = rows.partition(|&i| folds.of_row[i as usize] == fold);
        Ok((losses(&train, &test)?, test.len() as f64))
    };
    let done: Result<Vec<_>, E> = pool.install(|| (0..folds.count).into_par_iter().map(one).collect());
    let done = done?;
    Ok(summary(&done, done.iter().map(|d| d.0.len()).min().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_distr::StandardNormal;
    use sparseland_linalg::Mat;
    use sparseland_optim::design::Dense;

    use super::*;
    use crate::estimators::{FittedTasks, Lasso, McpRegression, MultiTaskLasso, SparseLogisticRegression};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// 60 x 80 with five true coefficients.
    fn data() -> (Dense<f64>, Vec<f64>, Vec<f64>) {
        let mut rng = Pcg64Mcg::seed_from_u64(5);
        let values = (0..60 * 80).map(|_| rng.sample(StandardNormal)).collect();
        let x = Dense::from_columns(60, 80, values).unwrap();
        let mut w = vec![0.0; 80];
        (0..5).for_each(|k| w[11 * k] = 2.0 - 3.0 * f64::from(u8::from(k % 2 == 0)));
        let mut y = x.times(&w);
        y.iter_mut().for_each(|y| *y += rng.sample::<f64, _>(StandardNormal) * 0.3);
        (x, y, w)
    }

    #[test]
    fn losses_are_those_of_fits_without_the_fold() {
        let (x, y, _) = data();
        let weights: Vec<f64> = (0..60).map(|i| 1.0 + (i % 3) as f64).collect();
        let folds = Folds::shuffled(60, 4, 1).unwrap();
        let options = PathOptions { n_alphas: 6, eps: Some(0.1), ..PathOptions::default() };
        let lasso = Lasso::new(0.0).tol(1e-10);
        let found = cross_validate(&lasso, &x, &y, Some(&weights), &folds, &options, &pool(2)).unwrap();
        for fold in 0..4 {
            let rows = |inside: bool| -> Vec<u32> {
                (0..60).filter(|&i| (folds.of_row()[i as usize] == fold) == inside).collect()
            };
            let (test, train) = (rows(true), rows(false));
            let pick = |v: &[f64], rows: &[u32]| rows.iter().map(|&i| v[i as usize]).collect::<Vec<_>>();
            let alphas = Some(found.path.alphas());
            let options = PathOptions { alphas, ..PathOptions::default() };
            let train_x = x.select(Some(&train), None, None);
            let (train_y, train_w) = (pick(&y, &train), pick(&weights, &train));
            let path = lasso.path(train_x.as_ref(), &train_y, Some(&train_w), &options).unwrap();
            for (i, fit) in path.fits.iter().enumerate() {
                let m = fit.predict(&x).unwrap();
                let loss = |&r: &u32| weights[r as usize] * 0.5 * (y[r as usize] - m[r as usize]).powi(2);
                let total: f64 = test.iter().map(|&r| weights[r as usize]).sum();
                let expected = test.iter().map(loss).sum::<f64>() / total;
                assert!((found.by_fold[fold][i] - expected).abs() < 1e-10);
            }
        }
        assert!(found.one_standard_error <= found.best);
        assert!(
            found.mean[found.one_standard_error] <= found.mean[found.best] + found.standard_error[found.best]
        );
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let (x, y, w) = data();
        let folds = Folds::shuffled(60, 5, 2).unwrap();
        let run = |threads| {
            let mcp = McpRegression::new(0.0);
            cross_validate(&mcp, &x, &y, None, &folds, &PathOptions::default(), &pool(threads)).unwrap()
        };
        let (one, two) = (run(1), run(2));
        assert_eq!(one, two);
        // The unbiased penalty finds the five, and their sizes.
        let coef = one.one_standard_error_fit().coef.to_dense();
        let error: f64 = coef.iter().zip(&w).map(|(a, b)| (a - b) * (a - b)).sum();
        assert!(error.sqrt() < 0.25, "{coef:?}");
    }

    #[test]
    fn classes_are_validated_by_their_log_loss() {
        let (x, y, _) = data();
        let y: Vec<f64> = y.iter().map(|v| f64::from(u8::from(*v > 0.0))).collect();
        let folds = Folds::shuffled(60, 3, 0).unwrap();
        let options = PathOptions { n_alphas: 8, eps: Some(0.1), ..PathOptions::default() };
        let logistic = SparseLogisticRegression::new(0.0);
        let found = cross_validate(&logistic, &x, &y, None, &folds, &options, &pool(1)).unwrap();
        // Without features the loss is about log 2; with them it is better.
        assert!((found.mean[0] - std::f64::consts::LN_2).abs() < 0.1);
        assert!(found.mean[found.best] < 0.8 * found.mean[0]);
    }

    #[test]
    fn one_task_is_the_lasso_and_two_equal_ones_lose_twice_as_much() {
        let (x, y, _) = data();
        let folds = Folds::shuffled(60, 4, 3).unwrap();
        let options =
            PathOptions { n_alphas: 8, eps: Some(0.1), early_stop: false, ..PathOptions::default() };
        let lasso =
            cross_validate(&Lasso::new(0.0).tol(1e-12), &x, &y, None, &folds, &options, &pool(1)).unwrap();
        let tasks = |y: &Mat<f64>, alphas: &[f64], threads| {
            let estimator = MultiTaskLasso::new(0.0).tol(1e-12);
            let options = PathOptions { alphas: Some(alphas.to_vec()), ..PathOptions::default() };
            let losses = |train: &[u32], test: &[u32]| {
                let pick = |rows: &[u32]| Mat::from_fn(rows.len(), y.cols, |i, t| y.at(rows[i] as usize, t));
                let part = |rows| x.select(Some(rows), None, None);
                let truth = pick(test);
                let loss = |fit: &FittedTasks| {
                    let predicted = fit.predict(part(test).as_ref()).unwrap();
                    let squares = predicted.data.iter().zip(&truth.data).map(|(m, y)| (y - m) * (y - m));
                    squares.sum::<f64>() / (2.0 * test.len() as f64)
                };
                let fits = estimator.path(part(train).as_ref(), &pick(train), &options)?;
                Ok::<_, EstimateError>(fits.iter().map(loss).collect())
            };
            validate(&folds, &pool(threads), losses).unwrap()
        };
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-7 * b.abs());
        let alphas = lasso.path.alphas();
        let one = tasks(&Mat::from_fn(60, 1, |i, _| y[i]), &alphas, 1);
        assert_eq!(one.mean.len(), 8);
        assert!(near(&one.mean, &lasso.mean) && near(&one.standard_error, &lasso.standard_error));
        assert_eq!((one.best, one.one_standard_error), (lasso.best, lasso.one_standard_error));
        // Rows of two equal coefficients have root two times the norm: the same fits at root two times the strength.
        let alphas: Vec<f64> = alphas.iter().map(|a| a * 2f64.sqrt()).collect();
        let both = Mat::from_fn(60, 2, |i, _| y[i]);
        let two = tasks(&both, &alphas, 1);
        let doubled: Vec<f64> = one.mean.iter().map(|v| 2.0 * v).collect();
        assert!(near(&two.mean, &doubled));
        assert_eq!(two, tasks(&both, &alphas, 2));
    }

    #[test]
    fn folds_that_reach_fewer_subsets_repeat_their_last() {
        use crate::subset::BestSubset;
        // Four columns, one of which is constant but for the first row: a fold without that row cannot use it.
        let column = |f: fn(f64) -> f64| (0..12).map(|i| f(f64::from(i))).collect::<Vec<_>>();
        let square = column(|i| (i - 5.5).powi(2));
        let spike = column(|i| f64::from(u8::from(i == 0.0)));
        let wave = column(|i| (2.1 * i).sin());
        let y: Vec<f64> = (0..12).map(|i| square[i] + wave[i] + 0.1 * ((i * i) as f64).cos()).collect();
        let x = Dense::from_columns(12, 4, [column(|i| i), square, spike, wave].concat()).unwrap();
        let folds = Folds::given((0..12).map(|i| i % 3).collect()).unwrap();
        let estimator = BestSubset::new().max_size(4);
        let found =
            cross_validate(&estimator, &x, &y, None, &folds, &PathOptions::default(), &pool(1)).unwrap();
        assert_eq!(found.path.fits.len(), 5);
        assert!(found.by_fold.iter().all(|losses| losses.len() == 5));
        assert_eq!(found.by_fold[0][4], found.by_fold[0][3]);
    }

    #[test]
    fn folds_are_even_keep_groups_together_and_refuse_nonsense() {
        let folds = Folds::shuffled(11, 3, 7).unwrap();
        let size = |f: usize, folds: &Folds| folds.of_row().iter().filter(|g| **g == f).count();
        assert_eq!([0, 1, 2].map(|f| size(f, &folds)), [4, 4, 3]);
        let labels = [0, 0, 0, 1, 1, 2, 2, 3, 9];
        let folds = Folds::grouped(&labels, 3).unwrap();
        for (i, a) in labels.iter().enumerate() {
            for (j, b) in labels.iter().enumerate() {
                assert!(a != b || folds.of_row()[i] == folds.of_row()[j]);
            }
        }
        assert_eq!([0, 1, 2].map(|f| size(f, &folds)), [3, 3, 3]);
        assert!(Folds::shuffled(3, 4, 0).is_err() && Folds::shuffled(3, 1, 0).is_err());
        assert!(Folds::grouped(&[1, 1], 2).is_err());
        assert!(Folds::given(vec![0, 2, 0]).is_err() && Folds::given(vec![0, 0]).is_err());
        assert_eq!(Folds::given(vec![1, 0, 1]).unwrap().count(), 2);
    }
}
