//! Models that are no paths of one target: several targets, classes, censored times.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::cv::{Validated, validate};
use sparseland_estimate::estimators::{
    CoxRegression, FittedClasses, FittedCox, FittedTasks, MultiTaskLasso, MultinomialRegression, SparseCoef,
};
use sparseland_estimate::path::PathOptions;
use sparseland_eval::table::{Column, Table};
use sparseland_linalg::Mat;
use sparseland_optim::cox::Cox;
use sparseland_optim::design::Design;

use super::models::{Mixture, with_common};
use super::{Common, Select, plot};
use crate::commands::predict::{Predictor, Saved};
use crate::commands::table::{Dataset, Target};

#[derive(Subcommand)]
pub(super) enum Several {
    /// Several targets that share their features (scikit-learn: MultiTaskLasso, MultiTaskLassoCV).
    MultitaskLasso {
        #[command(flatten)]
        common: Common,
    },
    /// Classes of any name and number by softmax probabilities (scikit-learn: LogisticRegression).
    Multinomial {
        #[command(flatten)]
        common: Common,
        /// A feature serves all classes or none.
        #[arg(long)]
        grouped: bool,
    },
    /// Censored survival times: --target TIME,EVENT, the latter 1 where the event happened, else 0.
    Cox {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        mixture: Mixture,
    },
}

#[derive(Serialize)]
struct Report {
    model: &'static str,
    data: String,
    targets: Vec<String>,
    /// What a column of coefficients speaks for.
    columns: Vec<String>,
    rows: usize,
    features: usize,
    alpha: f64,
    nonzeros: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    intercepts: Vec<f64>,
    /// A feature's coefficients, one per column; features that serve none are left out.
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

/// What the three fits have in common.
struct Fit {
    alpha: f64,
    coef: Vec<SparseCoef>,
    intercept: Vec<f64>,
    explained: f64,
    converged: bool,
    kkt: f64,
    predictor: Predictor,
}

macro_rules! into_fit {
    ($fitted:ident, $variant:ident, $coef:expr, $intercept:expr) => {
        impl From<$fitted> for Fit {
            fn from(fit: $fitted) -> Self {
                Self {
                    alpha: fit.alpha,
                    coef: $coef(&fit),
                    intercept: $intercept(&fit),
                    explained: fit.explained,
                    converged: fit.converged,
                    kkt: fit.kkt,
                    predictor: Predictor::$variant(fit),
                }
            }
        }
    };
}
into_fit!(FittedTasks, Tasks, |f: &FittedTasks| f.coef.clone(), |f: &FittedTasks| f.intercept.clone());
into_fit!(FittedClasses, Classes, |f: &FittedClasses| f.coef.clone(), |f: &FittedClasses| f
    .intercept
    .clone());
into_fit!(FittedCox, Cox, |f: &FittedCox| vec![f.coef.clone()], |_: &FittedCox| vec![]);

/// A path, its losses and the fit that they choose.
struct Chosen {
    fits: Vec<Fit>,
    at: usize,
    losses: Option<Validated>,
}

/// Rows of a table that a fit sees.
struct Part<'a> {
    x: Box<dyn Design>,
    /// `None`: all of them.
    rows: Option<&'a [u32]>,
}

impl<'a> Part<'a> {
    fn of(x: &dyn Design, rows: Option<&'a [u32]>) -> Self {
        Self { x: x.select(rows, None, None), rows }
    }

    fn pick<T: Copy>(&self, all: &[T]) -> Vec<T> {
        self.rows.map_or_else(|| all.to_vec(), |rows| rows.iter().map(|&i| all[i as usize]).collect())
    }
}

/// Fits along a path and chooses by the losses of left-out rows, or at one strength.
fn choose<F: Into<Fit>>(
    common: &Common,
    context: &Context,
    x: &dyn Design,
    fit: impl Fn(&Part<'_>, &PathOptions) -> Result<Vec<F>> + Sync,
    alpha: impl Fn(&F) -> f64,
    loss: impl Fn(&F, &Part<'_>, &Part<'_>) -> Result<f64> + Sync,
) -> Result<Chosen> {
    let options = common.path_options();
    let fits = fit(&Part::of(x, None), &options)?;
    let folds = common.folds(x.rows(), context)?;
    let alphas = Some(fits.iter().map(alpha).collect());
    let fits: Vec<Fit> = fits.into_iter().map(Into::into).collect();
    let Some(folds) = folds else {
        ensure!(
            common.alpha.is_some(),
            "this model chooses by cross-validation (--select min or 1se) or takes one --alpha"
        );
        return Ok(Chosen { fits, at: 0, losses: None });
    };
    let shared = PathOptions { alphas, early_stop: false, ..options };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build()?;
    let losses = validate(&folds, &pool, |train, test| -> Result<Vec<f64>> {
        let (train, test) = (Part::of(x, Some(train)), Part::of(x, Some(test)));
        let fits = fit(&train, &shared)
            .context("a fold cannot be fitted; try fewer --cv folds or another --seed")?;
        fits.iter().map(|fit| loss(fit, &train, &test)).collect()
    })?;
    let at = if common.select == Select::Min { losses.best } else { losses.one_standard_error };
    Ok(Chosen { fits, at, losses: Some(losses) })
}

impl Several {
    fn parts(&self) -> (&'static str, &Common) {
        match self {
            Self::MultitaskLasso { common } => ("multitask-lasso", common),
            Self::Multinomial { common, .. } => ("multinomial", common),
            Self::Cox { common, .. } => ("cox", common),
        }
    }

    /// Fits, writes what was asked for and prints the report.
    pub(super) fn run(&self, context: &Context) -> Result<()> {
        let (name, common) = self.parts();
        let data = common.source.read(context)?;
        ensure!(data.sample_weight.is_none(), "{name} takes no --sample-weight");
        ensure!(common.stability.is_none(), "{name} takes no --stability");
        let (names, rows) = (data.names.clone(), data.x.rows());
        let targets: Vec<String> = data.targets.iter().map(|t| t.name.clone()).collect();
        let line = format!("{rows} rows, {} features, target {}", names.len(), targets.join(", "));
        context.report(Event::Line(&line));
        let (columns, classes, chosen) = match self {
            Self::MultitaskLasso { .. } => (targets.clone(), vec![], tasks(common, data, context)?),
            Self::Multinomial { grouped, .. } => {
                let (classes, chosen) = multinomial(common, *grouped, data, context)?;
                (classes.clone(), classes, chosen)
            }
            Self::Cox { mixture, .. } => {
                let column = "log hazard ratio".to_owned();
                (vec![column], vec![], cox(common, mixture.l1_ratio, data, context)?)
            }
        };
        let Chosen { mut fits, at, losses } = chosen;
        let alphas: Vec<f64> = fits.iter().map(|f| f.alpha).collect();
        if let Some(file) = &common.plot {
            // One line per feature: the norm over its columns.
            let dense: Vec<Vec<f64>> = fits.iter().map(|fit| norms(fit, names.len())).collect();
            let svg = plot::figure(&alphas, &dense, &names, losses.as_ref());
            sparseland_data::write_atomically(file, svg.as_bytes())?;
        }
        let fit = fits.swap_remove(at);
        let size = norms(&fit, names.len());
        let mut used: Vec<usize> = (0..names.len()).filter(|&j| size[j] > 0.0).collect();
        used.sort_by(|&a, &b| size[b].total_cmp(&size[a]));
        let dense: Vec<Vec<f64>> = fit.coef.iter().map(SparseCoef::to_dense).collect();
        let coefficients = used.iter().map(|&j| (names[j].clone(), dense.iter().map(|c| c[j]).collect()));
        let report = Report {
            model: name,
            data: common.source.data.display().to_string(),
            targets: targets.clone(),
            columns,
            rows,
            features: names.len(),
            alpha: fit.alpha,
            nonzeros: used.len(),
            intercepts: fit.intercept,
            coefficients: coefficients.collect(),
            explained: fit.explained,
            converged: fit.converged,
            kkt: fit.kkt,
            cv_loss: losses.as_ref().map(|l| l.mean[at]),
            cv_standard_error: losses.as_ref().map(|l| l.standard_error[at]),
            alphas,
        };
        if let Some(file) = &common.out {
            Saved::new(name, names, targets, classes, fit.predictor).write(file)?;
        }
        match common.json {
            true => crate::commands::print_json(&report),
            false => crate::commands::print_text(&to_text(&report, common)),
        }
    }
}

fn tasks(common: &Common, data: Dataset, context: &Context) -> Result<Chosen> {
    let columns: Vec<Vec<f64>> = data.targets.iter().map(Target::numbers).collect::<Result<_>>()?;
    let matrix = |part: &Part<'_>| {
        let columns: Vec<Vec<f64>> = columns.iter().map(|c| part.pick(c)).collect();
        Mat::from_fn(columns[0].len(), columns.len(), |i, t| columns[t][i])
    };
    let estimator = with_common!(MultiTaskLasso::new(1.0), common);
    choose(
        common,
        context,
        data.design()?.as_ref(),
        |part, options| Ok(estimator.path(part.x.as_ref(), &matrix(part), options)?),
        |fit: &FittedTasks| fit.alpha,
        |fit, _, test| {
            let (predicted, truth) = (fit.predict(test.x.as_ref())?, matrix(test));
            let squares = predicted.data.iter().zip(&truth.data).map(|(m, y)| (y - m) * (y - m));
            Ok(squares.sum::<f64>() / (2.0 * truth.rows as f64))
        },
    )
}

/// The classes, and fits whose losses are mean log losses.
fn multinomial(
    common: &Common,
    grouped: bool,
    data: Dataset,
    context: &Context,
) -> Result<(Vec<String>, Chosen)> {
    let (classes, y) = data.target()?.classes(data.x.rows())?;
    let y: Vec<usize> = y.into_iter().map(|class| class as usize).collect();
    let estimator = with_common!(MultinomialRegression::new(1.0), common);
    let estimator = if grouped { estimator.grouped() } else { estimator };
    let chosen = choose(
        common,
        context,
        data.design()?.as_ref(),
        |part, options| {
            let y = part.pick(&y);
            let missing = (0..classes.len()).find(|class| !y.contains(class));
            match missing {
                Some(class) => bail!("no row of the class {:?} is left", classes[class]),
                None => Ok(estimator.path(part.x.as_ref(), &y, None, options)?),
            }
        },
        |fit: &FittedClasses| fit.alpha,
        |fit, _, test| {
            let (p, y) = (fit.predict_proba(test.x.as_ref())?, test.pick(&y));
            let least = f64::MIN_POSITIVE;
            Ok(y.iter().enumerate().map(|(i, &k)| -p.at(i, k).max(least).ln()).sum::<f64>() / y.len() as f64)
        },
    )?;
    Ok((classes, chosen))
}

/// Losses are partial likelihoods of all rows less those of the rows fitted (Verweij and van Houwelingen, Statistics in
/// Medicine 1993): left-out rows alone rank only each other.
fn cox(common: &Common, l1_ratio: f64, data: Dataset, context: &Context) -> Result<Chosen> {
    ensure!(!common.no_intercept, "cox has no intercept in any case; leave out --no-intercept");
    let [time, event] = &data.targets[..] else {
        bail!("cox takes --target TIME,EVENT, two columns, got {}", data.targets.len());
    };
    let (time, event) = (time.numbers()?, event.truths()?);
    let x = data.design()?;
    let estimator = CoxRegression::new(1.0).l1_ratio(l1_ratio).tol(common.tol).max_iter(common.max_iter);
    let estimator = common.standardize.iter().fold(estimator, |e, s| e.standardize(*s));
    let whole = Cox::new(&time, &event, None);
    choose(
        common,
        context,
        x.as_ref(),
        |part, options| {
            let (time, event) = (part.pick(&time), part.pick(&event));
            Ok(estimator.path(part.x.as_ref(), &time, &event, None, options)?)
        },
        |fit: &FittedCox| fit.alpha,
        |fit, train, test| {
            let fitted = Cox::new(&train.pick(&time), &train.pick(&event), None);
            let of_all = whole.value(&fit.predict(x.as_ref())?);
            let of_train = fitted.value(&fit.predict(train.x.as_ref())?);
            Ok((of_all - of_train) / test.x.rows() as f64)
        },
    )
}

/// The norm of every feature's coefficients over the columns.
fn norms(fit: &Fit, features: usize) -> Vec<f64> {
    let mut out = vec![0.0; features];
    fit.coef.iter().flat_map(SparseCoef::iter).for_each(|(j, w)| out[j] += w * w);
    out.iter_mut().for_each(|v| *v = v.sqrt());
    out
}

fn to_text(report: &Report, common: &Common) -> String {
    let columns = report.columns.iter().map(|t| Column::number(t.as_str(), 6));
    let mut table = Table::new([Column::text("feature")].into_iter().chain(columns));
    let intercepts = Some(("intercept", &report.intercepts)).filter(|(_, values)| !values.is_empty());
    let rows = report.coefficients.iter().map(|(name, values)| (name.as_str(), values));
    for (name, values) in rows.chain(intercepts) {
        table.row([name.into()].into_iter().chain(values.iter().map(|v| (*v).into())));
    }
    let mut text = format!(
        "{table}\n{} of {} features at alpha = {:.6}, {:.1} % of the deviance explained\n",
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
