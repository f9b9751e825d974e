//! The multi-task lasso: several targets that share their features.

use anyhow::{Result, ensure};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::cv::cross_validate_tasks;
use sparseland_estimate::estimators::{FittedTasks, MultiTaskLasso};
use sparseland_eval::table::{Column, Table};
use sparseland_linalg::Mat;

use super::models::with_common;
use super::plot::{self, Losses};
use super::{Common, Select};
use crate::commands::predict::{Predictor, Saved};

#[derive(Serialize)]
struct Report {
    model: &'static str,
    data: String,
    targets: Vec<String>,
    rows: usize,
    features: usize,
    alpha: f64,
    nonzeros: usize,
    intercepts: Vec<f64>,
    /// A feature's coefficients, one per target; features that serve none are left out.
    coefficients: Vec<(String, Vec<f64>)>,
    explained: f64,
    converged: bool,
    kkt: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cv_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cv_standard_error: Option<f64>,
    alphas: Vec<f64>,
}

/// Fits, writes what was asked for and prints the report.
pub(super) fn run(common: &Common, context: &Context) -> Result<()> {
    let data = common.source.read(context)?;
    ensure!(data.sample_weight.is_none(), "multitask-lasso takes no --sample-weight");
    let columns: Vec<Vec<f64>> = data.targets.iter().map(|t| t.numbers()).collect::<Result<_>>()?;
    let targets: Vec<String> = data.targets.iter().map(|t| t.name.clone()).collect();
    let rows = data.x.rows();
    let y = Mat::from_fn(rows, columns.len(), |i, t| columns[t][i]);
    let names = data.names.clone();
    let x = data.design()?;
    let line = format!("{rows} rows, {} features, targets {}", names.len(), targets.join(", "));
    context.report(Event::Line(&line));
    let estimator = with_common!(MultiTaskLasso::new(1.0), common);
    let options = common.path_options();
    let (fits, chosen, losses) = match common.folds(rows, context)? {
        Some(folds) => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build()?;
            let found = cross_validate_tasks(&estimator, x.as_ref(), &y, &folds, &options, &pool)?;
            let chosen = if common.select == Select::Min { found.best } else { found.one_standard_error };
            let losses = Losses {
                mean: found.mean,
                standard_error: found.standard_error,
                best: found.best,
                one_standard_error: found.one_standard_error,
            };
            (found.fits, chosen, Some(losses))
        }
        None => {
            ensure!(
                common.alpha.is_some(),
                "multitask-lasso chooses by cross-validation (--select min or 1se) or takes one --alpha"
            );
            (estimator.path(x.as_ref(), &y, &options)?, 0, None)
        }
    };
    let fitted = &fits[chosen];
    if let Some(file) = &common.out {
        let fitted = Predictor::Tasks(fitted.clone());
        Saved::new("multitask-lasso", names.clone(), targets.clone(), vec![], fitted).write(file)?;
    }
    let alphas: Vec<f64> = fits.iter().map(|f| f.alpha).collect();
    if let Some(file) = &common.plot {
        // One line per feature: the norm over its targets.
        let dense: Vec<Vec<f64>> = fits.iter().map(|fit| norms(fit, names.len())).collect();
        let svg = plot::figure(&alphas, &dense, &names, losses.as_ref());
        sparseland_data::write_atomically(file, svg.as_bytes())?;
    }
    let size = norms(fitted, names.len());
    let mut used: Vec<usize> = (0..names.len()).filter(|&j| size[j] > 0.0).collect();
    used.sort_by(|&a, &b| size[b].total_cmp(&size[a]));
    let dense: Vec<Vec<f64>> = fitted.coef.iter().map(|c| c.to_dense()).collect();
    let coefficients = used.iter().map(|&j| (names[j].clone(), dense.iter().map(|c| c[j]).collect()));
    let report = Report {
        model: "multitask-lasso",
        data: common.source.data.display().to_string(),
        targets,
        rows,
        features: names.len(),
        alpha: fitted.alpha,
        nonzeros: used.len(),
        intercepts: fitted.intercept.clone(),
        coefficients: coefficients.collect(),
        explained: fitted.explained,
        converged: fitted.converged,
        kkt: fitted.kkt,
        cv_loss: losses.as_ref().map(|l| l.mean[chosen]),
        cv_standard_error: losses.as_ref().map(|l| l.standard_error[chosen]),
        alphas,
    };
    match common.json {
        true => crate::commands::print_json(&report),
        false => crate::commands::print_text(&to_text(&report, common)),
    }
}

/// The norm of every feature's coefficients over the targets.
fn norms(fit: &FittedTasks, features: usize) -> Vec<f64> {
    let mut out = vec![0.0; features];
    fit.coef.iter().flat_map(|c| c.iter()).for_each(|(j, w)| out[j] += w * w);
    out.iter_mut().for_each(|v| *v = v.sqrt());
    out
}

fn to_text(report: &Report, common: &Common) -> String {
    let columns = report.targets.iter().map(|t| Column::number(t.as_str(), 6));
    let mut table = Table::new([Column::text("feature")].into_iter().chain(columns));
    let rows = report.coefficients.iter().map(|(name, values)| (name.as_str(), values));
    for (name, values) in rows.chain([("intercept", &report.intercepts)]) {
        table.row([name.into()].into_iter().chain(values.iter().map(|v| (*v).into())));
    }
    let mut text = format!(
        "{table}\n{} of {} features at alpha = {:.6}, {:.1} % of the squares explained\n",
        report.nonzeros,
        report.features,
        report.alpha,
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
