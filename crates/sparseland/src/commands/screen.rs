//! `sparseland screen`: which columns of a wide table tell about one of them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_data::tables::{Format, Numbers};
use sparseland_estimate::high_dimensional::HighDimensionalError;
use sparseland_estimate::high_dimensional::screen::{
    ColumnSource, Csv, Measure, Missing, Npy, Screen as Run, linfoot,
};
use sparseland_eval::table::{Column, Table};

use super::table::{self, Target};

/// Ranks the columns of a table by what they tell about a target.
///
/// CSV and .npy stay on disk: columns are read in blocks of 16 MiB, so that they may be larger than memory.
#[derive(Args)]
pub struct Screen {
    /// The table, in any format of `fit`. CSV (not gzip) and .npy stay on disk, others must fit in memory.
    data: PathBuf,
    /// The column to tell about (its name, or its number from 0), or a file that holds the target; else the target that
    /// the file keeps apart (y, labels).
    #[arg(long, value_name = "COLUMN|FILE")]
    target: Option<String>,
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
        let mut apart = None;
        let mut first = 0;
        let mut source: Box<dyn ColumnSource> = match Format::of(&self.data)? {
            Format::Npy if self.data.extension().is_none_or(|e| e != "gz") => {
                Box::new(Npy::open(&self.data)?)
            }
            Format::Csv => Box::new(Csv::open(&self.data)?),
            _ => {
                let table = table::open(&self.data, context)?;
                (apart, first) = (table::apart(&table)?, table.name(0).parse().unwrap_or(0));
                let names = table.names().map(<[String]>::to_vec);
                Box::new(Held { names, columns: table.into_numbers()? })
            }
        };
        let (rows, cols) = (source.rows(), source.cols());
        ensure!(rows > 0 && cols > 0, "{} is {rows} x {cols}: there is nothing to read", self.data.display());
        let names = source.names().map(<[String]>::to_vec);
        let name = |j: usize| names.as_ref().map_or_else(|| (j + first).to_string(), |n| n[j].clone());
        let column = self.target.as_ref().and_then(|target| {
            let named = names.as_ref().and_then(|n| n.iter().position(|n| n == target));
            let number = || target.parse::<usize>().ok()?.checked_sub(first).filter(|j| *j < cols);
            named.or_else(number)
        });
        let (y, target_name) = match (column, &self.target) {
            (Some(column), _) => {
                let mut y = vec![0.0; rows];
                source.read(column..column + 1, &mut y)?;
                (y, name(column))
            }
            (None, Some(file)) if Path::new(file).is_file() => one(table::target_file(Path::new(file))?)?,
            (None, None) if apart.is_some() => one(apart.unwrap_or_default())?,
            (None, target) => bail!(
                "{} has no column {:?}; give a name of its header, a number from {first} to {}, or a file",
                self.data.display(),
                target.as_deref().unwrap_or_default(),
                (cols + first).saturating_sub(1)
            ),
        };
        ensure!(y.len() == rows, "{} values of the target for {rows} rows", y.len());
        context.report(Event::Line(&format!("{rows} rows, {cols} columns, target {target_name}")));
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
            .with_context(|| format!("{} against {target_name:?}", self.data.display()))?;
        // The target knows itself best.
        let top = scores.top(self.top.saturating_add(1)).into_iter();
        let top = top.filter(|j| Some(*j) != column).take(self.top);
        let information = self.method != Method::Pearson;
        let found = |j: usize| {
            let score = scores.values[j];
            let correlation = if information { linfoot(score) } else { score };
            Found { column: name(j), index: j, score, correlation }
        };
        let report = Report {
            data: self.data.display().to_string(),
            target: target_name,
            method: self.method.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
            rows,
            columns: cols - usize::from(column.is_some()),
            screened: scores.screened - usize::from(column.is_some_and(|j| scores.screened > j)),
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

/// A table in memory.
struct Held {
    names: Option<Vec<String>>,
    columns: Numbers,
}

impl ColumnSource for Held {
    fn rows(&self) -> usize {
        self.columns.rows()
    }
    fn cols(&self) -> usize {
        self.columns.cols()
    }
    fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }
    fn read(&mut self, columns: Range<usize>, out: &mut [f64]) -> Result<(), HighDimensionalError> {
        for (j, out) in columns.zip(out.chunks_exact_mut(self.columns.rows())) {
            out.copy_from_slice(&self.columns.column(j));
        }
        Ok(())
    }
}

/// The only target of a file, and its name.
fn one(mut targets: Vec<Target>) -> Result<(Vec<f64>, String)> {
    ensure!(targets.len() == 1, "{} targets; screening takes one", targets.len());
    let target = targets.remove(0);
    Ok((target.numbers()?, target.name))
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
