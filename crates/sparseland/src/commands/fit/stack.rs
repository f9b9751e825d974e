//! `fit stack`: predictions of many models into one.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::stacking::baselines::{combine, hill_climb, least_squares, rmse, simple_mean};
use sparseland_estimate::stacking::{FittedStack, Joint, Learner, Score, Stack, score};
use sparseland_eval::table::{Column, Table};
use sparseland_linalg::Mat;

use crate::commands::predict::{Predictor, Saved};
use crate::commands::table::{self, Source};

/// Most picks of hill climbing.
const PICKS: usize = 200;

#[derive(Args)]
pub(super) struct Stacking {
    #[command(flatten)]
    source: Source,
    /// Share of the rows that is held out and scored; the model that is written is fitted to all rows.
    #[arg(long, default_value_t = 0.2)]
    held_out: f64,
    /// Correlation from which models are redundant.
    #[arg(long, default_value_t = 0.95)]
    tau_corr: f64,
    /// Mean squared difference, as a part of the target's variance, up to which they are.
    #[arg(long, default_value_t = 0.01)]
    tau_mse: f64,
    /// Least variance of a model, as a part of the target's.
    #[arg(long, default_value_t = 0.01)]
    tau_var: f64,
    /// Models are redundant if both of the first two hold, or one.
    #[arg(long, value_enum, default_value = "and")]
    joint: Both,
    /// Outer folds.
    #[arg(long, default_value_t = 10, value_name = "K")]
    folds: usize,
    /// Inner folds, for the strengths of the meta-learners.
    #[arg(long, default_value_t = 3, value_name = "K")]
    inner_folds: usize,
    /// As published: thresholds in units of the target, models ranked and learners weighed on the rows they are scored on.
    #[arg(long)]
    published: bool,
    /// Write the fitted model here, as JSON, for `predict`.
    #[arg(long, value_name = "JSON")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Both {
    And,
    Or,
}

/// A row of the ablation.
#[derive(Serialize)]
struct Variant {
    name: &'static str,
    /// Models whose predictions are needed.
    models: usize,
    /// Root mean squared error of out-of-fold predictions of the rows that were fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_fold: Option<f64>,
    /// Root mean squared error of held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    model: &'static str,
    data: String,
    target: String,
    rows: usize,
    held_out_rows: usize,
    models: usize,
    /// Models that the written fit needs.
    kept: Vec<String>,
    condition_before: f64,
    condition_after: f64,
    /// Learners of that fit, their strength and weight.
    learners: Vec<(Learner, f64, f64)>,
    ablation: Vec<Variant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<Score>,
    out_of_fold: Score,
}

impl Stacking {
    fn stack(&self, context: &Context) -> Stack {
        Stack {
            tau_corr: self.tau_corr,
            tau_mse: self.tau_mse,
            tau_var: self.tau_var,
            relative: !self.published,
            nested: !self.published,
            joint: if self.joint == Both::And { Joint::And } else { Joint::Or },
            folds: self.folds,
            inner_folds: self.inner_folds,
            seed: context.seed(),
            ..Stack::default()
        }
    }

    /// Runs the command.
    pub(super) fn run(&self, context: &Context) -> Result<()> {
        ensure!((0.0..1.0).contains(&self.held_out), "--held-out {} is no share below 1", self.held_out);
        let data = self.source.read(context)?;
        ensure!(data.sample_weight.is_none(), "stack takes no --sample-weight");
        let y = data.target()?.numbers()?;
        let (target, names) = (data.target()?.name.clone(), data.names.clone());
        let p = table::matrix(&data.x);
        context.report(Event::Line(&format!("{} rows, {} models, target {target}", p.rows, p.cols)));
        let (train, held) = self.split(y.len(), context);
        let rows = |rows: &[usize]| Mat::from_fn(rows.len(), p.cols, |i, k| p.at(rows[i], k));
        let of = |rows: &[usize]| rows.iter().map(|&i| y[i]).collect::<Vec<f64>>();
        let parts = Parts { p: rows(&train), y: of(&train), test: rows(&held), truth: of(&held) };
        let (ablation, held_out) = self.ablation(&parts, context)?;
        let fitted = self.stack(context).fit(&p, &y, context)?;
        let kept = fitted.kept().iter().map(|&k| names[k].clone()).collect();
        let learners = fitted.learners.iter().zip(&fitted.weights).map(|(l, w)| (l.learner, l.alpha, *w));
        let report = Report {
            model: "stack",
            data: self.source.data.display().to_string(),
            target: target.clone(),
            rows: y.len(),
            held_out_rows: held.len(),
            models: p.cols,
            kept,
            condition_before: fitted.redundancy.condition_before,
            condition_after: fitted.redundancy.condition_after,
            learners: learners.collect(),
            ablation,
            held_out,
            out_of_fold: fitted.score,
        };
        if let Some(path) = &self.out {
            Saved::new("stack", names, vec![target], vec![], Predictor::Stack(fitted)).write(path)?;
        }
        match self.json {
            true => crate::commands::print_json(&report),
            false => crate::commands::print_text(&to_text(&report)),
        }
    }

    /// Rows to fit and rows to score, each in their order.
    fn split(&self, rows: usize, context: &Context) -> (Vec<usize>, Vec<usize>) {
        let mut order: Vec<usize> = (0..rows).collect();
        order.shuffle(&mut Pcg64Mcg::seed_from_u64(context.seed()));
        let mut held = order.split_off(rows - (self.held_out * rows as f64).round() as usize);
        order.sort_unstable();
        held.sort_unstable();
        (order, held)
    }

    /// What each stage is worth, and the whole's score on held-out rows.
    fn ablation(&self, parts: &Parts, context: &Context) -> Result<(Vec<Variant>, Option<Score>)> {
        let whole = self.stack(context);
        let alone = |learner| Stack { learners: vec![learner], ..whole.clone() };
        let stacks = [
            ("all stages", whole.clone()),
            ("without redundancy", Stack { project: false, ..whole.clone() }),
            ("without summaries", Stack { augment: false, ..whole.clone() }),
            ("ridge alone", alone(Learner::Ridge)),
            ("lasso alone", alone(Learner::Lasso)),
            ("elastic net alone", alone(Learner::ElasticNet)),
        ];
        let (mut out, mut held_out) = (Vec::new(), None);
        for (name, stack) in stacks {
            let fit: FittedStack = stack.fit(&parts.p, &parts.y, context)?;
            let predicted = fit.predict(&parts.test)?;
            if out.is_empty() && !parts.truth.is_empty() {
                held_out = Some(score(&predicted, &parts.truth));
            }
            let (models, found) = (fit.kept().len(), Some(fit.score.rmse));
            out.push(Variant { name, models, out_of_fold: found, held_out: parts.error(&predicted) });
        }
        let k = parts.p.cols;
        let errors: Vec<f64> = (0..k).map(|j| rmse(&parts.p.column(j), &parts.y)).collect();
        let best = (0..k).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or(0);
        let climbed = hill_climb(&parts.p, &parts.y, PICKS);
        let (weights, intercept) = least_squares(&parts.p, &parts.y)?;
        let used = climbed.iter().filter(|w| **w > 0.0).count();
        for (name, models, predicted) in [
            ("best single model", 1, parts.test.column(best)),
            ("mean of all", k, simple_mean(&parts.test)),
            ("hill climbing", used, combine(&parts.test, &climbed, 0.0)),
            ("least squares", k, combine(&parts.test, &weights, intercept)),
        ] {
            out.push(Variant { name, models, out_of_fold: None, held_out: parts.error(&predicted) });
        }
        Ok((out, held_out))
    }
}

/// Rows that are fitted, and rows that are scored.
struct Parts {
    p: Mat<f64>,
    y: Vec<f64>,
    test: Mat<f64>,
    truth: Vec<f64>,
}

impl Parts {
    fn error(&self, predicted: &[f64]) -> Option<f64> {
        Some(rmse(predicted, &self.truth)).filter(|_| !self.truth.is_empty())
    }
}

fn to_text(report: &Report) -> String {
    let columns = [
        Column::text("pipeline"),
        Column::number("models", 0),
        Column::number("out of fold", 4),
        Column::number("held out", 4),
    ];
    let mut table = Table::new(columns).titled("Root mean squared error");
    for variant in &report.ablation {
        let (fold, held) = (variant.out_of_fold.into(), variant.held_out.into());
        table.row([variant.name.into(), variant.models.into(), fold, held]);
    }
    let mut text = format!("{table}\n");
    if let Some(score) = &report.held_out {
        text += &format!(
            "held out ({} of {} rows): RMSE {:.4}, MAE {:.4}, R2 {:.4}\n",
            report.held_out_rows, report.rows, score.rmse, score.mae, score.r2
        );
    }
    let score = &report.out_of_fold;
    text += &format!(
        "fitted to all rows: {} of {} models kept, condition {:.3e} -> {:.3e}, out of fold RMSE {:.4}, R2 {:.4}\n",
        report.kept.len(),
        report.models,
        report.condition_before,
        report.condition_after,
        score.rmse,
        score.r2
    );
    text
}
