//! `sparseland fit`: sparse models of tables.

mod colide;
mod groups;
mod models;
mod plot;
mod regression;
mod several;
mod stability;
mod stack;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use sparseland_core::Context;
use sparseland_estimate::cv::Folds;
use sparseland_estimate::path::PathOptions;

use super::table::Source;

/// Fits a sparse model to a table.
#[derive(Args)]
pub struct Fit {
    #[command(subcommand)]
    model: Model,
}

#[derive(Subcommand)]
#[command(subcommand_value_name = "MODEL", subcommand_help_heading = "Models")]
enum Model {
    #[command(flatten)]
    Single(models::Single),
    #[command(flatten)]
    Several(several::Several),
    /// A directed acyclic graph of all columns, with the scale of their noise.
    Colide(colide::Colide),
    /// Predictions of many models (one column each) stacked into one.
    Stack(stack::Stacking),
}

/// Options of all models of a target.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    source: Source,
    /// Folds of cross-validation; 0 chooses by --select alone.
    #[arg(long, default_value_t = 5, value_name = "K")]
    cv: usize,
    /// Which fit of the path is kept.
    #[arg(long, value_enum, default_value = "min")]
    select: Select,
    /// Strengths on the path (n_alphas).
    #[arg(long, visible_alias = "n-alphas", default_value_t = 100, value_name = "N")]
    alphas: usize,
    /// Last strength of the path as a part of the first; 1e-3, or 1e-2 with more features than rows, if absent.
    #[arg(long)]
    eps: Option<f64>,
    /// One strength instead of a path.
    #[arg(long, conflicts_with_all = ["cv", "select", "alphas", "eps"])]
    alpha: Option<f64>,
    /// Instead of a fit: which features do halves of the rows choose in at least this share of cases?
    #[arg(
        long,
        num_args = 0..=1,
        default_missing_value = "0.75",
        require_equals = true,
        value_name = "SHARE",
        conflicts_with_all = ["cv", "select", "alpha", "out", "plot"]
    )]
    stability: Option<f64>,
    /// Most features that a half may choose; sqrt(columns / 2) if absent.
    #[arg(long, value_name = "Q", requires = "stability")]
    stability_features: Option<usize>,
    /// Pairs of halves.
    #[arg(long, default_value_t = 50, requires = "stability", value_name = "B")]
    pairs: usize,
    /// Fit no intercept (fit_intercept=False).
    #[arg(long)]
    no_intercept: bool,
    /// Whether the penalty acts on columns of unit standard deviation; coefficients are those of the columns as they
    /// are. By default for mcp and scad alone.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    standardize: Option<bool>,
    /// Relative accuracy of the solver.
    #[arg(long, default_value_t = 1e-6)]
    tol: f64,
    /// Most sweeps of the solver.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    max_iter: usize,
    /// Write the fitted model here, as JSON, for `predict`.
    #[arg(long, value_name = "JSON")]
    out: Option<PathBuf>,
    /// Draw the path of coefficients here and, below it, the losses of cross-validation.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
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

impl Common {
    fn path_options(&self) -> PathOptions {
        PathOptions {
            n_alphas: self.alphas,
            eps: self.eps,
            alphas: self.alpha.map(|alpha| vec![alpha]),
            ..PathOptions::default()
        }
    }

    /// The folds, where the strength is chosen by cross-validation.
    fn folds(&self, rows: usize, context: &Context) -> Result<Option<Folds>> {
        if self.alpha.is_some() || !matches!(self.select, Select::Min | Select::OneStandardError) {
            return Ok(None);
        }
        let name = self.select.to_possible_value();
        let name = name.as_ref().map_or("min", |value| value.get_name());
        ensure!(self.cv >= 2, "--select {name} needs at least 2 folds; or choose --select bic");
        Ok(Some(Folds::shuffled(rows, self.cv, context.seed())?))
    }
}

impl Fit {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        match &self.model {
            Model::Colide(colide) => colide.run(context),
            Model::Stack(stack) => stack.run(context),
            Model::Single(model) => regression::run(model, context),
            Model::Several(model) => model.run(context),
        }
    }
}
