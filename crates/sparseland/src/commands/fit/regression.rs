//! Models of one target: a path, its choice, and the report.

use anyhow::Result;
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::cv::{Validated, cross_validate};
use sparseland_estimate::path::Criterion;
use sparseland_eval::table::{Column, Table};

use super::models::{Kind, Single};
use super::{Common, Select, plot, stability};
use crate::commands::predict::{Predictor, Saved};

#[derive(Serialize)]
struct Report {
    model: String,
    data: String,
    target: String,
    rows: usize,
    features: usize,
    alpha: f64,
    nonzeros: usize,
    intercept: f64,
    coefficients: Vec<(String, f64)>,
    explained: f64,
    converged: bool,
    kkt: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cv_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cv_standard_error: Option<f64>,
    alphas: Vec<f64>,
    df: Vec<usize>,
}

/// Fits, writes what was asked for and prints the report.
pub(super) fn run(model: &Single, context: &Context) -> Result<()> {
    let (name, kind, common) = model.parts();
    let data = common.source.read(context)?;
    let estimator = model.estimator(&data.names)?;
    let target = data.target()?;
    let (classes, y) = match kind {
        Kind::TwoClasses => target.classes(2)?,
        Kind::Numbers => (vec![], target.numbers()?),
    };
    let (names, target) = (data.names.clone(), target.name.clone());
    let weight = data.sample_weight.clone();
    let x = data.design()?;
    let rows = y.len();
    context.report(Event::Line(&format!("{rows} rows, {} features, target {target}", names.len())));
    if let Some(threshold) = common.stability {
        let rows = (x.as_ref(), &y[..], weight.as_deref());
        return stability::run(name, common, threshold, estimator.as_ref(), rows, &names, context);
    }
    let options = common.path_options();
    let folds = common.folds(rows, context)?;
    let (path, chosen, losses) = if let Some(folds) = &folds {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build()?;
        let found =
            cross_validate(estimator.as_ref(), x.as_ref(), &y, weight.as_deref(), folds, &options, &pool)?;
        let chosen = if common.select == Select::Min { found.best } else { found.one_standard_error };
        let losses = Validated {
            mean: found.mean,
            standard_error: found.standard_error,
            best: found.best,
            one_standard_error: found.one_standard_error,
        };
        (found.path, chosen, Some(losses))
    } else {
        let path = estimator.path(x.as_ref(), &y, weight.as_deref(), &options)?;
        let chosen = match common.alpha {
            // The path of best subsets ends with the size asked for.
            Some(_) => path.fits.len() - 1,
            None => least(&path.criterion(criterion(common.select))),
        };
        (path, chosen, None)
    };
    let fitted = &path.fits[chosen];
    if let Some(file) = &common.out {
        let fitted = Predictor::Linear(fitted.clone());
        Saved::new(name, names.clone(), vec![target.clone()], classes, fitted).write(file)?;
    }
    if let Some(file) = &common.plot {
        let dense: Vec<Vec<f64>> = path.fits.iter().map(|f| f.coef.to_dense()).collect();
        let svg = plot::figure(&path.alphas(), &dense, &names, losses.as_ref());
        sparseland_data::write_atomically(file, svg.as_bytes())?;
    }
    let mut coefficients: Vec<(String, f64)> =
        fitted.coef.iter().map(|(j, value)| (names[j].clone(), value)).collect();
    coefficients.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    let report = Report {
        model: name.into(),
        data: common.source.data.display().to_string(),
        target,
        rows,
        features: names.len(),
        alpha: fitted.alpha,
        nonzeros: fitted.coef.nnz(),
        intercept: fitted.intercept,
        coefficients,
        explained: fitted.explained,
        converged: fitted.converged,
        kkt: fitted.kkt,
        gap: fitted.gap,
        cv_loss: losses.as_ref().map(|l| l.mean[chosen]),
        cv_standard_error: losses.as_ref().map(|l| l.standard_error[chosen]),
        alphas: path.alphas(),
        df: path.df(),
    };
    match common.json {
        true => crate::commands::print_json(&report),
        false => crate::commands::print_text(&to_text(&report, common)),
    }
}

fn criterion(select: Select) -> Criterion {
    match select {
        Select::Aic => Criterion::Aic,
        Select::Ebic => Criterion::Ebic { gamma: 0.5 },
        _ => Criterion::Bic,
    }
}

/// The first of the least values.
fn least(values: &[f64]) -> usize {
    (0..values.len()).min_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

fn to_text(report: &Report, common: &Common) -> String {
    let mut table = Table::new([Column::text("feature"), Column::number("coefficient", 6)]);
    for (name, value) in &report.coefficients {
        table.row([name.as_str().into(), (*value).into()]);
    }
    table.row(["intercept".into(), report.intercept.into()]);
    let strength = match report.model.as_str() {
        "best-subset" => String::new(),
        _ => format!(" at alpha = {:.6}", report.alpha),
    };
    let mut text = format!(
        "{table}\n{} of {} features{strength}, {:.1} % of the deviance explained\n",
        report.nonzeros,
        report.features,
        100.0 * report.explained
    );
    if let (Some(loss), Some(error)) = (report.cv_loss, report.cv_standard_error) {
        text += &format!("loss on held-out rows {loss:.6} +- {error:.6} ({} folds)\n", common.cv);
    }
    if !report.converged {
        text += &format!("not converged: optimality violated by {:.1e}; raise --max-iter\n", report.kkt);
    }
    text
}
