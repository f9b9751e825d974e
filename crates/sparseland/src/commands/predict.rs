//! `sparseland predict`: a model that `fit --out` wrote, applied to a table.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sparseland_core::Context;
use sparseland_estimate::estimators::{Fitted, FittedClasses, FittedCox, FittedTasks, Loss};
use sparseland_estimate::stacking::{self, FittedStack};
use sparseland_linalg::Mat;

use super::table::{self, Dataset};

/// A fitted model with all that another table needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// The name of the model in `fit`.
    model: String,
    /// The features' names in their order.
    features: Vec<String>,
    /// The targets' names.
    targets: Vec<String>,
    /// Names of the classes, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    classes: Vec<String>,
    fitted: Predictor,
}

/// The current [`Saved::version`].
const VERSION: u32 = 2;

/// What computes predictions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// One target.
    Linear(Fitted),
    /// Several targets.
    Tasks(FittedTasks),
    /// Several classes.
    Classes(FittedClasses),
    /// Log hazards of times and events.
    Cox(FittedCox),
    /// Predictions of many models to one.
    Stack(FittedStack),
    /// Every node from its parents.
    Graph(Graph),
}

/// A linear directed acyclic graph.
#[derive(Debug, Serialize, Deserialize)]
pub struct Graph {
    /// `(from, to, weight)`, numbers of nodes.
    pub edges: Vec<(usize, usize, f64)>,
    /// Mean of every node.
    pub means: Vec<f64>,
    /// Standard deviation of every node's noise.
    pub noise: Vec<f64>,
    /// Nodes in an order that the edges follow.
    pub order: Vec<usize>,
    /// The strength of the penalty.
    pub lambda: f64,
    /// Weights up to this size were dropped.
    pub threshold: f64,
}

/// Predicts the targets of a table's rows by a fitted model.
#[derive(Args)]
pub struct Predict {
    /// The model, as `fit --out` wrote it.
    model: PathBuf,
    /// The table, in any format of `fit`: with the model's features by name or number, or as many columns without
    /// names.
    data: PathBuf,
    /// A file that holds the target, for a score; else the target's column, where the table has it.
    #[arg(long, value_name = "FILE")]
    target_file: Option<PathBuf>,
    /// Write the predictions here, as CSV, instead of printing them.
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    rows: usize,
    target: String,
    /// R² (of several targets: their mean), accuracy, explained deviance or concordance, where the table has the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// R² of every target, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scores: Vec<(String, f64)>,
    predictions: Predictions,
    /// Probability of the second class, or of every class where there are more than two.
    #[serde(skip_serializing_if = "Option::is_none")]
    probabilities: Option<Probabilities>,
}

/// Row by row.
#[derive(Serialize)]
#[serde(untagged)]
enum Probabilities {
    One(Vec<f64>),
    Several(Vec<Vec<f64>>),
}

/// Row by row.
#[derive(Serialize)]
#[serde(untagged)]
enum Predictions {
    One(Vec<String>),
    Several(Vec<Vec<f64>>),
}

impl Saved {
    /// A model of the current version.
    pub fn new(
        model: &str,
        features: Vec<String>,
        targets: Vec<String>,
        classes: Vec<String>,
        fitted: Predictor,
    ) -> Self {
        Self { version: VERSION, model: model.into(), features, targets, classes, fitted }
    }

    /// Writes it as JSON, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(sparseland_data::write_atomically(path, &serde_json::to_vec_pretty(self)?)?)
    }

    fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let place = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {place}"))?;
        let no_model = || format!("{place} is no model of `fit --out`");
        let Version { version } = serde_json::from_slice(&bytes).with_context(no_model)?;
        ensure!(
            version == VERSION,
            "{place} has version {version}, this program reads {VERSION}; fit it again"
        );
        serde_json::from_slice(&bytes).with_context(no_model)
    }
}

/// R² of predictions in the columns of `m`.
fn r2(m: &Mat<f64>, truth: &[Vec<f64>]) -> Vec<f64> {
    truth.iter().enumerate().map(|(t, y)| stacking::score(&m.column(t), y).r2).collect()
}

impl Graph {
    /// Every node's mean given its parents: `m_j + sum_i w_ij (x_i - m_i)`.
    fn predict(&self, x: &Mat<f64>) -> Result<Mat<f64>> {
        let d = self.means.len();
        let inside = |(i, j, _): &(usize, usize, f64)| *i < d && *j < d;
        ensure!(
            x.cols == d && self.edges.iter().all(inside),
            "the graph has {d} nodes, the table {}",
            x.cols
        );
        let mut out = Mat::from_fn(x.rows, d, |_, j| self.means[j]);
        for &(from, to, weight) in &self.edges {
            (0..x.rows).for_each(|i| out.row_mut(i)[to] += weight * (x.at(i, from) - self.means[from]));
        }
        Ok(out)
    }
}

impl Predict {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let saved = Saved::read(&self.model)?;
        let file = self.target_file.as_deref();
        // The targets of a graph are its features.
        let targets = if matches!(saved.fitted, Predictor::Graph(_)) { &[][..] } else { &saved.targets[..] };
        let data = Dataset::like(&self.data, &saved.features, targets, file, context)?;
        let report = saved.apply(data)?;
        if let Some(out) = &self.out {
            sparseland_data::write_atomically(out, csv(&report, &saved).as_bytes())?;
        }
        if self.json {
            return super::print_json(&report);
        }
        let score = report.score.map_or_else(String::new, |s| format!(", score {s:.4}"));
        match &self.out {
            Some(out) => {
                super::print_text(&format!("{} predictions in {}{score}\n", report.rows, out.display()))
            }
            None => super::print_text(&csv(&report, &saved)),
        }
    }
}

impl Saved {
    fn apply(&self, data: Dataset) -> Result<Report> {
        let rows = data.x.rows();
        let of_one = |values: Vec<f64>, score| Report {
            rows,
            target: self.targets.join(","),
            score,
            scores: vec![],
            predictions: Predictions::One(values.iter().map(|v| self.named(*v)).collect()),
            probabilities: None,
        };
        let truth: Option<Vec<Vec<f64>>> = match &data.targets[..] {
            [] => None,
            targets if !self.classes.is_empty() => {
                // A class that the fit has not seen is predicted wrongly in any case.
                let number = |label: &String| self.class(label).map_or(-1.0, |class| class as f64);
                Some(targets.iter().map(|t| t.labels().iter().map(number).collect()).collect())
            }
            [time, event] if matches!(self.fitted, Predictor::Cox(_)) => {
                let events = event.truths()?.into_iter().map(|e| f64::from(u8::from(e)));
                Some(vec![time.numbers()?, events.collect()])
            }
            targets => Some(targets.iter().map(|t| t.numbers()).collect::<Result<_>>()?),
        };
        if let Some(truth) = truth.as_ref().filter(|_| !matches!(self.fitted, Predictor::Graph(_))) {
            let (expected, got) = (self.targets.len(), truth.len());
            ensure!(got == expected, "the model has {expected} targets, the table {got}");
        }
        let first = truth.as_ref().map(|t| &t[0]);
        Ok(match &self.fitted {
            Predictor::Linear(fitted) => {
                let x = data.design()?;
                let score = first.map(|y| fitted.score(x.as_ref(), y)).transpose()?;
                let report = of_one(fitted.predict(x.as_ref())?, score);
                match fitted.loss {
                    Loss::Logistic => {
                        let second = Probabilities::One(fitted.predict_proba(x.as_ref())?);
                        Report { probabilities: Some(second), ..report }
                    }
                    _ => report,
                }
            }
            Predictor::Classes(fitted) => {
                let x = data.design()?;
                let values: Vec<f64> = fitted.predict(x.as_ref())?.into_iter().map(|k| k as f64).collect();
                let right = |y: &Vec<f64>| values.iter().zip(y).filter(|(a, b)| a == b).count() as f64;
                let score = first.map(|y| right(y) / rows as f64);
                let p = fitted.predict_proba(x.as_ref())?;
                let all = Probabilities::Several((0..rows).map(|i| p.row(i).to_vec()).collect());
                Report { probabilities: Some(all), ..of_one(values, score) }
            }
            Predictor::Cox(fitted) => {
                let x = data.design()?;
                let score = match truth.as_deref() {
                    Some([time, events]) => {
                        let events: Vec<bool> = events.iter().map(|e| *e > 0.0).collect();
                        fitted.score(x.as_ref(), time, &events)?
                    }
                    _ => None,
                };
                let name = format!("log hazard of {}", self.targets.join(","));
                Report { target: name, ..of_one(fitted.predict(x.as_ref())?, score) }
            }
            Predictor::Stack(fitted) => {
                let values = fitted.predict(&table::matrix(&data.x))?;
                let score = first.map(|y| stacking::score(&values, y).r2);
                of_one(values, score)
            }
            Predictor::Tasks(fitted) => self.of_several(&fitted.predict(data.design()?.as_ref())?, truth),
            Predictor::Graph(graph) => {
                let x = table::matrix(&data.x);
                let truth = (0..x.cols).map(|j| x.column(j)).collect();
                self.of_several(&graph.predict(&x)?, Some(truth))
            }
        })
    }

    fn of_several(&self, values: &Mat<f64>, truth: Option<Vec<Vec<f64>>>) -> Report {
        let scores = truth.map_or_else(Vec::new, |truth| r2(values, &truth));
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        Report {
            rows: values.rows,
            target: self.targets.join(","),
            score: Some(mean).filter(|_| !scores.is_empty()),
            scores: self.targets.iter().cloned().zip(scores).collect(),
            predictions: Predictions::Several((0..values.rows).map(|i| values.row(i).to_vec()).collect()),
            probabilities: None,
        }
    }

    /// The class of a label: the same text, or the same number in another form.
    fn class(&self, label: &str) -> Option<usize> {
        let value = |text: &str| text.parse::<f64>().ok();
        let same = |class: &String| value(label).is_some_and(|v| value(class) == Some(v));
        self.classes.iter().position(|c| c == label).or_else(|| self.classes.iter().position(same))
    }

    /// A number, or the name of its class.
    fn named(&self, value: f64) -> String {
        match self.classes.is_empty() {
            true => value.to_string(),
            false => self.classes.get(value as usize).cloned().unwrap_or_default(),
        }
    }
}

fn csv(report: &Report, saved: &Saved) -> String {
    let quoted = |cell: &str| match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    };
    let numbers = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>();
    let mut header = match &report.predictions {
        Predictions::One(_) => vec![quoted(&report.target)],
        Predictions::Several(_) => saved.targets.iter().map(|t| quoted(t)).collect(),
    };
    match &report.probabilities {
        None => {}
        Some(Probabilities::One(_)) => header.push("probability".into()),
        Some(Probabilities::Several(_)) => {
            header.extend(saved.classes.iter().map(|class| quoted(&format!("probability of {class}"))));
        }
    }
    let mut text = header.join(",") + "\n";
    for row in 0..report.rows {
        let mut cells = match &report.predictions {
            Predictions::One(cells) => vec![quoted(&cells[row])],
            Predictions::Several(rows) => numbers(&rows[row]),
        };
        match &report.probabilities {
            None => {}
            Some(Probabilities::One(p)) => cells.push(p[row].to_string()),
            Some(Probabilities::Several(p)) => cells.extend(numbers(&p[row])),
        }
        text += &(cells.join(",") + "\n");
    }
    text
}
