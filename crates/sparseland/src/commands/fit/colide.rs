//! `fit colide`: a directed acyclic graph of the columns.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_data::tables::Table as Data;
use sparseland_estimate::colide::{self, ColideFit, GraphScore, Normalize, Optimizer, graph_score};
use sparseland_eval::table::{Column, Table};
use sparseland_linalg::Mat;

use crate::commands::predict::{Graph, Predictor, Saved};
use crate::commands::table;

#[derive(Args)]
pub(super) struct Colide {
    /// The table, all of whose columns are nodes, in any format of `fit`.
    data: PathBuf,
    /// Columns to leave out.
    #[arg(long, value_name = "COLUMN")]
    drop: Vec<String>,
    /// One noise scale for all nodes (CoLiDE-EV).
    #[arg(long, conflicts_with = "nonequal_variance")]
    equal_variance: bool,
    /// One noise scale per node (CoLiDE-NV): the default.
    #[arg(long)]
    nonequal_variance: bool,
    /// Strength of the penalty; `auto` takes 0.914 sqrt(log(nodes) / rows).
    #[arg(long, default_value = "0.05", allow_hyphen_values = true, value_name = "NUMBER|auto")]
    lambda: String,
    /// Weights up to this size are no edges.
    #[arg(long, default_value_t = 0.3)]
    threshold: f64,
    /// Divide all columns by one number, so that edges do not depend on the unit.
    #[arg(long)]
    normalize: bool,
    /// How the objective is minimised.
    #[arg(long, value_enum, default_value = "paper")]
    optimizer: Steps,
    /// Count errors against a known graph: a table of edges whose first two columns are cause and effect.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Write the graph here, as JSON, for `predict` (every node from its parents).
    #[arg(long, value_name = "JSON")]
    out: Option<PathBuf>,
    /// Write the graph here for Graphviz.
    #[arg(long, value_name = "DOT")]
    dot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Steps {
    /// Adam as in the paper.
    Paper,
    /// Adam at ten times the rate and a polish: a tenth of the time, on dense graphs sometimes another valley.
    Fast,
}

#[derive(Serialize)]
struct Edge {
    from: String,
    to: String,
    weight: f64,
}

#[derive(Serialize)]
struct Report {
    model: &'static str,
    data: String,
    rows: usize,
    nodes: usize,
    score: colide::Score,
    lambda: f64,
    threshold: f64,
    edges: Vec<Edge>,
    noise: Vec<(String, f64)>,
    order: Vec<String>,
    varsortability: f64,
    converged: bool,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_truth: Option<GraphScore>,
}

impl Colide {
    /// Runs the command.
    pub(super) fn run(&self, context: &Context) -> Result<()> {
        let data = table::open(&self.data, context)?;
        let dropped: Vec<usize> = self.drop.iter().map(|name| data.find(name)).collect::<Result<_, _>>()?;
        let kept: Vec<usize> = (0..data.cols()).filter(|j| !dropped.contains(j)).collect();
        let names: Vec<String> = kept.iter().map(|&j| data.name(j)).collect();
        let x = table::matrix(&data.numbers(&kept)?);
        context.report(Event::Line(&format!("{} rows, {} nodes", x.rows, x.cols)));
        let truth = self.truth.as_deref().map(|path| read_edges(path, &names)).transpose()?;
        let method = self.method()?;
        let fit = method.fit(&x, context)?;
        let warnings: Vec<String> = fit.warnings.iter().map(ToString::to_string).collect();
        warnings.iter().for_each(|warning| context.report(Event::Warning(warning)));
        let against_truth = truth.map(|w| graph_score(&w, &fit.w_dag)).transpose()?;
        let edges = edges(&fit);
        if let Some(path) = &self.dot {
            sparseland_data::write_atomically(path, dot(&edges, &names).as_bytes())?;
        }
        if let Some(path) = &self.out {
            let n = x.rows as f64;
            let graph = Graph {
                edges: edges.clone(),
                means: (0..x.cols).map(|j| x.column(j).iter().sum::<f64>() / n).collect(),
                noise: fit.sigma.clone(),
                order: fit.order.clone(),
                lambda: fit.lambda,
                threshold: self.threshold,
            };
            Saved::new("colide", names.clone(), names.clone(), vec![], Predictor::Graph(graph))
                .write(path)?;
        }
        let name = |j: usize| names[j].clone();
        let report = Report {
            model: "colide",
            data: self.data.display().to_string(),
            rows: x.rows,
            nodes: x.cols,
            score: method.score,
            lambda: fit.lambda,
            threshold: self.threshold,
            edges: edges.iter().map(|&(i, j, weight)| Edge { from: name(i), to: name(j), weight }).collect(),
            noise: names.iter().cloned().zip(fit.sigma.iter().copied()).collect(),
            order: fit.order.iter().map(|&j| name(j)).collect(),
            varsortability: fit.varsortability,
            converged: fit.stages.iter().all(|stage| stage.converged),
            warnings,
            against_truth,
        };
        match self.json {
            true => crate::commands::print_json(&report),
            false => crate::commands::print_text(&to_text(&report)),
        }
    }

    fn method(&self) -> Result<colide::Colide> {
        let base = match self.equal_variance {
            true => colide::Colide::equal_variance(),
            false => colide::Colide::unequal_variance(),
        };
        let lambda = match self.lambda.as_str() {
            "auto" => None,
            number => Some(
                number
                    .parse()
                    .with_context(|| format!("--lambda {number:?} is neither a number nor auto"))?,
            ),
        };
        Ok(colide::Colide {
            lambda,
            threshold: self.threshold,
            normalize: if self.normalize { Normalize::Global } else { Normalize::None },
            optimizer: match self.optimizer {
                Steps::Paper => base.optimizer.clone(),
                Steps::Fast => Optimizer::fast(),
            },
            ..base
        })
    }
}

/// The edges of the graph, the largest weights first.
fn edges(fit: &ColideFit) -> Vec<(usize, usize, f64)> {
    let d = fit.w_dag.rows;
    let all = (0..d).flat_map(|i| (0..d).map(move |j| (i, j)));
    let mut edges: Vec<_> =
        all.map(|(i, j)| (i, j, fit.w_dag.at(i, j))).filter(|(.., weight)| *weight != 0.0).collect();
    edges.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
    edges
}

/// A known graph from a table of edges.
fn read_edges(path: &Path, names: &[String]) -> Result<Mat<f64>> {
    let table = Data::open(path)?;
    let place = path.display();
    ensure!(table.cols() >= 2, "{place}: one column; edges have two, cause and effect");
    let mut w = Mat::zeros(names.len(), names.len());
    for (row, (from, to)) in table.cells(0)?.iter().zip(table.cells(1)?).enumerate() {
        let node = |name: &String| {
            names.iter().position(|n| n == name).with_context(|| {
                format!("{place}, row {}: {name:?} is no node; nodes are {}", row + 1, names.join(", "))
            })
        };
        w.row_mut(node(from)?)[node(&to)?] = 1.0;
    }
    Ok(w)
}

/// The graph for Graphviz; the widths of edges follow their weights.
fn dot(edges: &[(usize, usize, f64)], names: &[String]) -> String {
    let quoted = |j: usize| format!("\"{}\"", names[j].replace('\\', "\\\\").replace('"', "\\\""));
    let largest = edges.first().map_or(1.0, |edge| edge.2.abs());
    let mut text = "digraph colide {\n".to_owned();
    (0..names.len()).for_each(|j| text += &format!("  {};\n", quoted(j)));
    for &(i, j, weight) in edges {
        let width = 0.5 + 2.5 * weight.abs() / largest;
        let style = if weight < 0.0 { ", style=dashed" } else { "" };
        text += &format!(
            "  {} -> {} [label=\"{weight:.3}\", weight={:.6}, penwidth={width:.2}{style}];\n",
            quoted(i),
            quoted(j),
            weight.abs()
        );
    }
    text + "}\n"
}

fn to_text(report: &Report) -> String {
    let mut edges = Table::new([Column::text("from"), Column::text("to"), Column::number("weight", 4)]);
    for edge in &report.edges {
        edges.row([edge.from.as_str().into(), edge.to.as_str().into(), edge.weight.into()]);
    }
    let mut noise = Table::new([Column::text("node"), Column::number("noise scale", 4)]);
    for (name, sigma) in &report.noise {
        noise.row([name.as_str().into(), (*sigma).into()]);
    }
    let mut text = format!(
        "{edges}\n{noise}\n{} edges among {} nodes at lambda = {:.4}, threshold {}; varsortability {:.2}\n",
        report.edges.len(),
        report.nodes,
        report.lambda,
        report.threshold,
        report.varsortability
    );
    if let Some(score) = &report.against_truth {
        text += &format!(
            "against {} true edges: SHD {} ({} missing, {} extra, {} reversed), TPR {:.2}, FDR {:.2}\n",
            score.true_edges, score.shd, score.missing, score.extra, score.reversed, score.tpr, score.fdr
        );
    }
    text
}
