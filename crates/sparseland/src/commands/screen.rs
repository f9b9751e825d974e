//! `sparseland screen`: which columns of a wide table tell about one of them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_estimate::high_dimensional::screen::{
    ColumnSource, Csv, Measure, Missing, Npy, Screen as Run, linfoot,
};
use sparseland_eval::table::{Column, Table};

/// Ranks the columns of a table by what they tell about a target.
///
/// The table stays on disk: columns are read in blocks of 16 MiB, so that it may be larger than memory.
#[derive(Args)]
pub struct Screen {
    /// The table: CSV with a header (plain, or gzip of what fits in memory), or a two-dimensional .npy of f32 or f64.
    data: PathBuf,
    /// The column to tell about: its name, or its number from 0.
    #[arg(long, value_name = "COLUMN")]
    target: String,
    /// How dependence is measured.
    #[arg(long, value_enum, default_value = "mi-kde")]
    method: Method,
    /// Columns to list.
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// A column of at most this many distinct values is discrete.
    #[arg(long, default_value_t = 3, value_name = "N")]
    max_levels: usize,
    /// Leave out rows where a column is NaN or empty, instead of stopping there.
    #[arg(long)]
    drop_missing: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Mutual information by kernel densities of normal scores.
    MiKde,
    /// Mutual information by the kernel densities of fastHDMI, several times slower.
    MiFft,
    /// Mutual information by equal-width bins.
    MiBin,
    /// Absolute correlation.
    Pearson,
}

#[derive(Serialize)]
struct Report {
    data: String,
    target: String,
    method: String,
    rows: usize,
    columns: usize,
    screened: usize,
    constant: usize,
    too_few_rows: usize,
    seconds: f64,
    top: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    column: String,
    index: usize,
    /// Nats, or the absolute correlation.
    score: f64,
    /// The score on the scale of a correlation.
    correlation: f64,
}

impl Screen {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let began = Instant::now();
        let mut source: Box<dyn ColumnSource> = match self.data.extension().is_some_and(|e| e == "npy") {
            true => Box::new(Npy::open(&self.data)?),
            false => Box::new(Csv::open(&self.data)?),
        };
        let (rows, cols) = (source.rows(), source.cols());
        let names = source.names().map(<[String]>::to_vec);
        let named = names.as_ref().and_then(|n| n.iter().position(|n| *n == self.target));
        let target = match named.or_else(|| self.target.parse().ok().filter(|j| *j < cols)) {
            Some(target) => target,
            None => bail!(
                "{} has no column {:?}; give a name of its header, or a number from 0 to {}",
                self.data.display(),
                self.target,
                cols - 1
            ),
        };
        let name = |j: usize| names.as_ref().map_or_else(|| j.to_string(), |n| n[j].clone());
        let mut y = vec![0.0; rows];
        source.read(target..target + 1, &mut y)?;
        context.report(Event::Line(&format!("{rows} rows, {cols} columns, target {}", name(target))));
        let screen = Run {
            measure: match self.method {
                Method::MiKde => Measure::KDE,
                Method::MiFft => Measure::FFT_KDE,
                Method::MiBin => Measure::BINNING,
                Method::Pearson => Measure::Pearson,
            },
            max_levels: self.max_levels,
            missing: if self.drop_missing { Missing::DropPair } else { Missing::Error },
        };
        let scores = screen
            .scores(source.as_mut(), &y, context)
            .with_context(|| format!("{} against {:?}", self.data.display(), name(target)))?;
        // The target knows itself best.
        let top = scores.top(self.top.saturating_add(1)).into_iter().filter(|j| *j != target).take(self.top);
        let information = self.method != Method::Pearson;
        let found = |j: usize| {
            let score = scores.values[j];
            let correlation = if information { linfoot(score) } else { score };
            Found { column: name(j), index: j, score, correlation }
        };
        let report = Report {
            data: self.data.display().to_string(),
            target: name(target),
            method: self.method.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
            rows,
            columns: cols - 1,
            screened: scores.screened - usize::from(scores.screened > target),
            constant: scores.constant,
            too_few_rows: scores.too_few,
            seconds: began.elapsed().as_secs_f64(),
            top: top.map(found).collect(),
        };
        if report.screened < report.columns {
            context.report(Event::Warning(&format!(
                "stopped after {} of {} columns; the ranking is of those",
                report.screened, report.columns
            )));
        }
        if self.json { super::print_json(&report) } else { super::print_text(&to_text(&report, information)) }
    }
}

fn to_text(report: &Report, information: bool) -> String {
    let mut columns = vec![Column::right("rank"), Column::text("column")];
    if information {
        columns.push(Column::number("nats", 4));
    }
    columns.push(Column::number("as correlation", 3));
    let mut table = Table::new(columns);
    for (rank, found) in report.top.iter().enumerate() {
        let mut cells = vec![(rank + 1).to_string().into(), found.column.as_str().into()];
        if information {
            cells.push(found.score.into());
        }
        cells.push(found.correlation.into());
        table.row(cells);
    }
    let mut text = format!(
        "{table}\n{} columns, {} rows, {} in {:.1} s",
        report.screened, report.rows, report.method, report.seconds
    );
    for (count, what) in
        [(report.constant, "constant"), (report.too_few_rows, "with fewer than ten complete rows")]
    {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    text + "\n"
}
