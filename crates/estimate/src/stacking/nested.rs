//! Base models: predictions out of fold, and the score of the whole chain.

use rayon::prelude::*;
use sparseland_core::{Context, Event};
use sparseland_linalg::Mat;

use super::{Stack, StackError};
use crate::cv::Folds;

/// A model over the rows of some data set: fits on the first rows, predicts the second.
pub type BaseModel<'a> = dyn Fn(&[u32], &[u32]) -> Result<Vec<f64>, StackError> + Sync + 'a;

/// Rows inside and outside of a fold, as rows of the whole.
fn split(rows: &[u32], folds: &Folds, fold: usize) -> (Vec<u32>, Vec<u32>) {
    let marked = rows.iter().zip(folds.of_row());
    let (held, train): (Vec<_>, Vec<_>) = marked.partition(|(_, f)| **f == fold);
    let rows = |part: Vec<(&u32, &usize)>| part.into_iter().map(|(i, _)| *i).collect();
    (rows(train), rows(held))
}

/// `P`: for every row of `rows` (in their order) and model, the prediction of the model fitted without the row's fold.
/// Models run in parallel.
///
/// # Errors
/// What a model returns, [`StackError::Shape`] if it predicts another number of rows, cancellation.
pub fn out_of_fold(
    models: &[&BaseModel<'_>],
    rows: &[u32],
    folds: &Folds,
    context: &Context,
) -> Result<Mat<f64>, StackError> {
    if folds.of_row().len() != rows.len() {
        let (expected, got) = (rows.len(), folds.of_row().len());
        return Err(StackError::Shape { what: "rows of the folds", expected, got });
    }
    let k = models.len();
    let mut out = Mat::zeros(rows.len(), k);
    context.report(Event::Stage { name: "base models, folds", total: folds.count() });
    for fold in 0..folds.count() {
        context.check_cancelled()?;
        let (train, held) = split(rows, folds, fold);
        let places: Vec<usize> = (0..rows.len()).filter(|i| folds.of_row()[*i] == fold).collect();
        for (j, column) in predict_all(models, &train, &held, context)?.into_iter().enumerate() {
            places.iter().zip(column).for_each(|(i, v)| out.data[i * k + j] = v);
        }
        context.report(Event::Step { done: fold + 1, message: "" });
    }
    Ok(out)
}

fn predict_all(
    models: &[&BaseModel<'_>],
    train: &[u32],
    held: &[u32],
    context: &Context,
) -> Result<Vec<Vec<f64>>, StackError> {
    let one = |model: &&BaseModel<'_>| {
        let predicted = model(train, held)?;
        if predicted.len() != held.len() {
            let (expected, got) = (held.len(), predicted.len());
            return Err(StackError::Shape { what: "rows that a base model predicted", expected, got });
        }
        Ok(predicted)
    };
    context.install(|| models.par_iter().map(one).collect())
}

/// Predictions of the whole chain for every row, none of which depends on the row's own target: in every outer fold the
/// base models' out-of-fold predictions are made from training rows alone, the stack is fitted to those, and base models
/// refitted on the training rows feed it the held-out ones.
///
/// This is the honest score: with base predictions made once for all rows, those of *other* rows have seen a row's
/// target, and so has the stack. Cost: `outer (inner + 1)` fits of every model.
///
/// # Errors
/// As [`out_of_fold`] and [`Stack::fit`].
pub fn end_to_end(
    models: &[&BaseModel<'_>],
    y: &[f64],
    outer: &Folds,
    inner: usize,
    stack: &Stack,
    context: &Context,
) -> Result<Vec<f64>, StackError> {
    let rows: Vec<u32> = (0..y.len() as u32).collect();
    if outer.of_row().len() != rows.len() {
        let (expected, got) = (rows.len(), outer.of_row().len());
        return Err(StackError::Shape { what: "rows of the folds", expected, got });
    }
    let mut out = vec![0.0; y.len()];
    for fold in 0..outer.count() {
        let (train, held) = split(&rows, outer, fold);
        let folds = Folds::shuffled(train.len(), inner, stack.seed)?;
        let p = out_of_fold(models, &train, &folds, context)?;
        let target: Vec<f64> = train.iter().map(|i| y[*i as usize]).collect();
        let fitted = stack.fit(&p, &target, context)?;
        let columns = predict_all(models, &train, &held, context)?;
        let test = Mat::from_fn(held.len(), models.len(), |i, j| columns[j][i]);
        for (i, v) in held.iter().zip(fitted.predict(&test)?) {
            out[*i as usize] = v;
        }
    }
    Ok(out)
}
