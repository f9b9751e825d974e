//! `sparseland fit`: sparse models of tables.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::cv::{Folds, cross_validate};
use sparseland_estimate::estimators::{
    ElasticNet, Fitted, HuberRegression, Lasso, McpRegression, PoissonRegression, ScadRegression,
    SparseLogisticRegression,
};
use sparseland_estimate::path::{Criterion, Path as FitPath, PathEstimator, PathOptions};
use sparseland_eval::plot::Plot;
use sparseland_eval::table::{Column, Table};
use sparseland_optim::design::Dense;

use super::predict::{self, Saved};
use super::table::{self, Columns};

/// Fits a sparse model to a table.
#[derive(Args)]
pub struct Fit {
    /// The model.
    #[arg(value_enum)]
    model: Model,
    /// The table: CSV with a header, plain or gzip.
    data: PathBuf,
    /// The column to predict; the last one if absent.
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Columns to leave out.
    #[arg(long, value_name = "COLUMN")]
    drop: Vec<String>,
    /// Folds of cross-validation; 0 chooses by --criterion alone.
    #[arg(long, default_value_t = 5, value_name = "K")]
    cv: usize,
    /// Which fit of the path is kept.
    #[arg(long, value_enum, default_value = "min")]
    select: Select,
    /// Strengths on the path.
    #[arg(long, default_value_t = 100, value_name = "N")]
    alphas: usize,
    /// One strength instead of a path.
    #[arg(long, conflicts_with_all = ["cv", "select", "alphas"])]
    alpha: Option<f64>,
    /// Share of the absolute values in an elastic net's penalty.
    #[arg(long, default_value_t = 0.5)]
    l1_ratio: f64,
    /// Write the fitted model here, as JSON, for `predict`.
    #[arg(long, value_name = "JSON")]
    out: Option<PathBuf>,
    /// Draw the path of coefficients here.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    /// Squares and absolute values.
    Lasso,
    /// Squares, absolute values and their squares.
    ElasticNet,
    /// Squares and the minimax concave penalty.
    Mcp,
    /// Squares and the smoothly clipped absolute deviation.
    Scad,
    /// Two classes of any name; coefficients speak for the second in the order of their names.
    Logistic,
    /// Counts.
    Poisson,
    /// Squares that become straight lines for outliers.
    Huber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Select {
    /// The smallest cross-validated loss.
    Min,
    /// The sparsest within one standard error of it.
    #[value(name = "1se")]
    OneStandardError,
    /// The Akaike information criterion.
    Aic,
    /// The Bayesian one.
    Bic,
    /// The extended Bayesian one, for many features.
    Ebic,
}

/// A table of numbers.
struct Data {
    names: Vec<String>,
    x: Dense<f64>,
    y: Vec<f64>,
    target: String,
    classes: Option<[String; 2]>,
}

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

impl Fit {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let data = self.read()?;
        let estimator = self.estimator();
        let options = PathOptions {
            n_alphas: self.alphas,
            alphas: self.alpha.map(|alpha| vec![alpha]),
            ..PathOptions::default()
        };
        let rows = data.y.len();
        context.report(Event::Line(&format!(
            "{rows} rows, {} features, target {}",
            data.names.len(),
            data.target
        )));
        let by_folds = self.alpha.is_none() && matches!(self.select, Select::Min | Select::OneStandardError);
        let (path, chosen, loss) = if by_folds {
            if self.cv < 2 {
                bail!("--select {:?} needs at least 2 folds; or choose --select bic", self.select);
            }
            let folds = Folds::shuffled(rows, self.cv, context.seed())?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build()?;
            let found = cross_validate(estimator.as_ref(), &data.x, &data.y, None, &folds, &options, &pool)?;
            let chosen = if self.select == Select::Min { found.best } else { found.one_standard_error };
            let loss = (found.mean[chosen], found.standard_error[chosen]);
            (found.path, chosen, Some(loss))
        } else {
            let path = estimator.path(&data.x, &data.y, None, &options)?;
            let criterion = match self.select {
                Select::Aic => Criterion::Aic,
                Select::Ebic => Criterion::Ebic { gamma: 0.5 },
                _ => Criterion::Bic,
            };
            let values = path.criterion(criterion);
            let best = (0..values.len()).min_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0);
            (path, best, None)
        };
        let fitted = &path.fits[chosen];
        if let Some(file) = &self.out {
            let saved = Saved {
                version: predict::VERSION,
                model: self.model_name(),
                target: data.target.clone(),
                features: data.names.clone(),
                classes: data.classes.clone(),
                fitted: fitted.clone(),
            };
            sparseland_data::write_atomically(file, &serde_json::to_vec_pretty(&saved)?)?;
        }
        if let Some(file) = &self.plot {
            sparseland_data::write_atomically(file, plot(&path, &data.names).as_bytes())?;
        }
        let report = self.report(&data, &path, fitted, loss);
        if self.json { super::print_json(&report) } else { super::print_text(&self.to_text(&report)) }
    }

    fn estimator(&self) -> Box<dyn PathEstimator> {
        // The path sets the strength.
        let alpha = self.alpha.unwrap_or(1.0);
        match self.model {
            Model::Lasso => Box::new(Lasso::new(alpha)),
            Model::ElasticNet => Box::new(ElasticNet::new(alpha).l1_ratio(self.l1_ratio)),
            Model::Mcp => Box::new(McpRegression::new(alpha)),
            Model::Scad => Box::new(ScadRegression::new(alpha)),
            Model::Logistic => Box::new(SparseLogisticRegression::new(alpha)),
            Model::Poisson => Box::new(PoissonRegression::new(alpha)),
            Model::Huber => Box::new(HuberRegression::new(alpha)),
        }
    }

    fn read(&self) -> Result<Data> {
        let columns = Columns::AllBut { target: self.target.as_deref(), drop: &self.drop };
        let table = table::read(&self.data, &columns)?;
        // Numbers 0 and 1 are classes of that name.
        let (classes, y) = match self.model {
            Model::Logistic => {
                let (classes, y) = table.target_classes(&self.data)?;
                (Some(classes), y)
            }
            _ => (None, table.target_numbers(&self.data)?),
        };
        Ok(Data { names: table.names, x: table.x, y, target: table.target_name, classes })
    }

    fn model_name(&self) -> String {
        self.model.to_possible_value().expect("no model is hidden").get_name().to_owned()
    }

    fn report(&self, data: &Data, path: &FitPath, fitted: &Fitted, loss: Option<(f64, f64)>) -> Report {
        let mut coefficients: Vec<(String, f64)> =
            fitted.coef.iter().map(|(j, value)| (data.names[j].clone(), value)).collect();
        coefficients.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let model = self.model_name();
        Report {
            model,
            data: self.data.display().to_string(),
            target: data.target.clone(),
            rows: data.y.len(),
            features: data.names.len(),
            alpha: fitted.alpha,
            nonzeros: fitted.coef.nnz(),
            intercept: fitted.intercept,
            coefficients,
            explained: fitted.explained,
            converged: fitted.converged,
            kkt: fitted.kkt,
            gap: fitted.gap,
            cv_loss: loss.map(|l| l.0),
            cv_standard_error: loss.map(|l| l.1),
            alphas: path.alphas(),
            df: path.df(),
        }
    }

    fn to_text(&self, report: &Report) -> String {
        let mut table = Table::new([Column::text("feature"), Column::number("coefficient", 6)]);
        for (name, value) in &report.coefficients {
            table.row([name.as_str().into(), (*value).into()]);
        }
        table.row(["intercept".into(), report.intercept.into()]);
        let mut text = format!(
            "{table}\n{} of {} features at alpha = {:.6}, {:.1} % of the deviance explained\n",
            report.nonzeros,
            report.features,
            report.alpha,
            100.0 * report.explained
        );
        if let (Some(loss), Some(error)) = (report.cv_loss, report.cv_standard_error) {
            text += &format!("loss on held-out rows {loss:.6} +- {error:.6} ({} folds)\n", self.cv);
        }
        if !report.converged {
            text += &format!("not converged: optimality violated by {:.1e}\n", report.kkt);
        }
        text
    }
}

/// Coefficients along the path, the largest dozen.
fn plot(path: &FitPath, names: &[String]) -> String {
    const MOST: usize = 12;
    let dense: Vec<Vec<f64>> = path.fits.iter().map(|f| f.coef.to_dense()).collect();
    let size = |j: usize| dense.iter().map(|c| c[j].abs()).fold(0.0, f64::max);
    let mut order: Vec<usize> = (0..names.len()).filter(|&j| size(j) > 0.0).collect();
    order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
    let alphas = path.alphas();
    order.truncate(MOST);
    let plot = Plot::new("Path of coefficients", "strength of the penalty", "coefficient").log_x();
    let series = |plot: Plot, j: usize| {
        let points = alphas.iter().zip(&dense).filter(|(a, _)| **a > 0.0).map(|(a, c)| (*a, c[j]));
        plot.series(names[j].clone(), points.collect::<Vec<_>>())
    };
    order.into_iter().fold(plot, series).to_svg()
}
