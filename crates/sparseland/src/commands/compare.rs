//! `sparseland compare`: many methods on one model at several rates, one table and one picture.
//!
//! Every cell is a `sparseland compress` of its own process, so that time and peak memory are its own; finished
//! cells are kept, so that a stopped comparison goes on where it stopped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparseland_core::{Context, Event};
use sparseland_eval::plot::Plot;
use sparseland_eval::table::{Column, Table, human_bytes};

use crate::layer_method::{self, Settings};
use crate::machine::{Machine, today};
use crate::registry;

/// Compares compression methods on one model: quality, bytes, seconds, memory and decode speed.
#[derive(Args)]
pub struct Compare {
    /// Directory of a Hugging Face checkpoint, or a hub name; the bundled model if absent.
    model: Option<PathBuf>,
    /// Methods, comma-separated, each with its parameters if it needs some (`wanda:scope=layer`); `all` takes
    /// every compression method.
    #[arg(long, default_value = "all", value_delimiter = ',', value_name = "NAMES")]
    methods: Vec<String>,
    /// Fractions to remove, comma-separated.
    #[arg(long, default_value = "0.2,0.3,0.5", value_delimiter = ',', value_name = "FRACTIONS")]
    remove: Vec<f64>,
    /// How the budget is spread; uniform is shown beside.
    #[arg(long, default_value = "knapsack", value_name = "NAME")]
    allocation: String,
    /// What the fractions count: params or bytes.
    #[arg(long, default_value = "params", value_name = "WHAT")]
    budget: String,
    /// Text for calibration; bundled stories if absent.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Sequences of calibration text.
    #[arg(long, default_value_t = 64, value_name = "N")]
    calibration_samples: usize,
    /// Text for measuring quality; the bundled evaluation stories if absent.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Folder of finished cells and of the models under way.
    #[arg(long, default_value = "sparseland-compare", value_name = "DIR")]
    out: PathBuf,
    /// Also write the record here.
    #[arg(long, value_name = "JSON")]
    record: Option<PathBuf>,
    /// Draw bits per byte against bytes here; `compare.svg` in the folder if absent.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A method with its settings as written.
#[derive(Debug, Clone)]
struct Entry {
    label: String,
    slug: &'static str,
    settings: Vec<String>,
}

/// One cell of the comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cell {
    /// The method, with the settings that are not its defaults.
    method: String,
    /// How the budget was spread.
    allocation: String,
    /// The fraction asked for.
    requested_removed: f64,
    /// Why there is no result, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The fraction of the linear layers' parameters that is gone.
    achieved_removed_params: Option<f64>,
    /// Bytes of the weight files.
    file_bytes: Option<u64>,
    /// Quality.
    bits_per_byte: Option<f64>,
    /// Quality under the uniform allocation of the same budget.
    bits_per_byte_uniform: Option<f64>,
    /// Decode speed at batch 1.
    decode_tokens_per_second: Option<f64>,
    /// Decode speed of the original in the same process.
    decode_tokens_per_second_dense: Option<f64>,
    /// Seconds of profiling, planning, compressing and writing.
    compression_seconds: Option<f64>,
    /// Largest memory of the process.
    peak_rss_bytes: Option<u64>,
}

/// The whole comparison.
#[derive(Debug, Serialize)]
struct Record {
    model: String,
    calibration: String,
    text: String,
    date: String,
    machine: Machine,
    threads: usize,
    bits_per_byte_dense: Option<f64>,
    file_bytes_dense: Option<u64>,
    cells: Vec<Cell>,
}

impl Compare {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let entries = self.entries()?;
        for &remove in &self.remove {
            ensure!(
                (0.0..1.0).contains(&remove),
                "--remove {remove}: fractions lie from 0 up to, not including, 1"
            );
        }
        let cells_dir = self.out.join("cells");
        std::fs::create_dir_all(&cells_dir)
            .with_context(|| format!("cannot create {}", cells_dir.display()))?;
        let total = entries.len() * self.remove.len();
        context.report(Event::Stage { name: "comparing", total });
        let mut record = self.empty_record(context);
        for entry in &entries {
            for &remove in &self.remove {
                context.check_cancelled()?;
                let path = cells_dir.join(format!("{}.json", self.key(entry, remove, context)));
                let known = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
                let report = match known {
                    Some(report) => report,
                    None => {
                        let report = self.compress(entry, remove, context)?;
                        sparseland_data::write_atomically(&path, &serde_json::to_vec_pretty(&report)?)?;
                        report
                    }
                };
                record.bits_per_byte_dense =
                    record.bits_per_byte_dense.or(report["bits_per_byte_before"].as_f64());
                record.file_bytes_dense = record.file_bytes_dense.or(report["file_bytes_before"].as_u64());
                record.cells.push(self.cell(entry, remove, &report));
                context.report(Event::Step { done: record.cells.len(), message: &entry.label });
            }
        }
        let plot = self.plot.clone().unwrap_or_else(|| self.out.join("compare.svg"));
        sparseland_data::write_atomically(&plot, picture(&record).as_bytes())?;
        if let Some(path) = &self.record {
            sparseland_data::write_atomically(path, &serde_json::to_vec_pretty(&record)?)?;
        }
        if self.json { super::print_json(&record) } else { super::print_text(&to_text(&record, &plot)) }
    }

    /// The methods asked for, their settings checked.
    fn entries(&self) -> Result<Vec<Entry>> {
        let all = self.methods.iter().any(|m| m == "all");
        let names: Vec<String> = if all {
            let known =
                registry::methods().filter(|m| m.family == "compress" && layer_method::is_usable(m.slug));

            let extra = self.methods.iter().filter(|m| *m != "all").cloned();
            known.map(|m| m.slug.to_owned()).chain(extra).collect()
        } else {
            self.methods.clone()
        };
        let entry = |label: &String| {
            let mut parts = label.split(':');
            let method = layer_method::find(parts.next().unwrap_or_default())?;
            let settings: Vec<String> = parts.map(str::to_owned).collect();
            Settings::new(method, &settings)?;
            Ok(Entry { label: label.clone(), slug: method.slug, settings })
        };
        let entries = names.iter().map(entry).collect::<Result<Vec<_>>>()?;
        ensure!(!entries.is_empty(), "--methods names no method; `sparseland methods` lists them");
        Ok(entries)
    }

    /// A name for a cell that holds all that decides its result.
    fn key(&self, entry: &Entry, remove: f64, context: &Context) -> String {
        // Paths and lengths: a changed text is another cell.
        let path = |p: &Option<PathBuf>| match p {
            Some(p) => format!("{} {}", p.display(), std::fs::metadata(p).map_or(0, |m| m.len())),
            None => "bundled".to_owned(),
        };
        let all = format!(
            "{} {} {} {} {} {} {} {}",
            path(&self.model),
            entry.label,
            self.allocation,
            self.budget,
            path(&self.calibration),
            self.calibration_samples,
            path(&self.text),
            context.seed(),
        );
        // FNV-1a: a file name, not a secret.
        let hash = all
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        format!("{}-{:.0}-{hash:016x}", entry.slug, 1000.0 * remove)
    }

    /// Compresses in a process of its own; a refusal (infeasible budget, a setting that does not fit) is a
    /// result, too.
    fn compress(&self, entry: &Entry, remove: f64, context: &Context) -> Result<Value> {
        let out = self.out.join("model");
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("compress").args(&self.model);
        command.args(["--method", entry.slug, "--allocation", &self.allocation, "--budget", &self.budget]);
        command.args(["--remove", &remove.to_string(), "--json", "--quiet"]);
        command.args(["--calibration-samples", &self.calibration_samples.to_string()]);
        command.args(["--seed", &context.seed().to_string(), "--threads", &context.threads().to_string()]);
        command.arg("--out").arg(&out);
        for setting in &entry.settings {
            command.args(["--set", setting]);
        }
        for (flag, path) in [("--calibration", &self.calibration), ("--text", &self.text)] {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        let output = command.stdin(Stdio::null()).output().context("cannot start this program again")?;
        let _ = std::fs::remove_dir_all(&out);
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).context("the compression's report is not JSON");
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().last().unwrap_or_default().trim_start_matches("sparseland: ").to_owned();
        if output.status.code() != Some(2) {
            bail!("{} at {remove} was stopped: {line}", entry.label);
        }
        context.report(Event::Warning(&format!("{} at {remove}: {line}", entry.label)));
        Ok(serde_json::json!({ "error": line }))
    }

    fn cell(&self, entry: &Entry, remove: f64, report: &Value) -> Cell {
        let real = |name: &str| report[name].as_f64();
        let whole = |name: &str| report[name].as_u64();
        Cell {
            method: entry.label.clone(),
            allocation: self.allocation.clone(),
            requested_removed: remove,
            error: report["error"].as_str().map(str::to_owned),
            achieved_removed_params: real("achieved_removed_params"),
            file_bytes: whole("file_bytes_after"),
            bits_per_byte: real("bits_per_byte_after"),
            bits_per_byte_uniform: report["uniform"]["bits_per_byte_after"].as_f64(),
            decode_tokens_per_second: real("decode_tokens_per_second_after"),
            decode_tokens_per_second_dense: real("decode_tokens_per_second_before"),
            compression_seconds: real("compression_seconds"),
            peak_rss_bytes: whole("peak_rss_bytes"),
        }
    }

    fn empty_record(&self, context: &Context) -> Record {
        // The last part of a path: a record speaks of the data, not of this machine's folders.
        let name = |p: &Option<PathBuf>| match p.as_deref().and_then(Path::file_name) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "bundled".to_owned(),
        };
        Record {
            model: name(&self.model),
            calibration: format!("{} ({} sequences)", name(&self.calibration), self.calibration_samples),
            text: name(&self.text),
            date: today(),
            machine: Machine::look(),
            threads: context.threads(),
            bits_per_byte_dense: None,
            file_bytes_dense: None,
            cells: Vec::new(),
        }
    }
}

fn to_text(record: &Record, plot: &Path) -> String {
    let mut table = Table::new([
        Column::text("method"),
        Column::right("removed"),
        Column::number("bits per byte", 4),
        Column::number("uniform", 4),
        Column::right("file"),
        Column::right("seconds"),
        Column::right("memory"),
        Column::right("tokens/s"),
        Column::number("against dense", 2),
    ]);
    let mut last = None;
    for cell in &record.cells {
        if last.replace(&cell.method).is_some_and(|l| *l != cell.method) {
            table.rule();
        }
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let speed = cell.decode_tokens_per_second;
        table.row([
            cell.method.as_str().into(),
            format!("{:.0} %", 100.0 * cell.requested_removed).into(),
            cell.bits_per_byte.into(),
            cell.bits_per_byte_uniform.into(),
            or_dash(cell.file_bytes.map(human_bytes)).into(),
            or_dash(cell.compression_seconds.map(|s| format!("{s:.1}"))).into(),
            or_dash(cell.peak_rss_bytes.map(human_bytes)).into(),
            or_dash(speed.map(|s| format!("{s:.0}"))).into(),
            speed.zip(cell.decode_tokens_per_second_dense).map(|(after, before)| after / before).into(),
        ]);
    }
    let mut text = format!(
        "{}: {} bits per byte, {}\n{table}\n",
        record.model,
        record.bits_per_byte_dense.map_or_else(|| "-".to_owned(), |b| format!("{b:.4}")),
        record.file_bytes_dense.map_or_else(|| "-".to_owned(), human_bytes),
    );
    for cell in record.cells.iter().filter(|c| c.error.is_some()) {
        let percent = 100.0 * cell.requested_removed;
        text +=
            &format!("{} at {percent:.0} %: {}\n", cell.method, cell.error.as_deref().unwrap_or_default());
    }
    text + &format!("picture: {}\n", plot.display())
}

/// Bits per byte against bytes, a line for every method.
fn picture(record: &Record) -> String {
    let title = format!("{}: quality against size", record.model);
    let mut plot = Plot::new(title, "bytes of the weight file", "bits per byte").log_y();
    if let (Some(bytes), Some(bits)) = (record.file_bytes_dense, record.bits_per_byte_dense) {
        plot = plot.scatter("dense", [(bytes as f64, bits)]);
    }
    let mut names: Vec<&str> = record.cells.iter().map(|c| c.method.as_str()).collect();
    names.dedup();
    for name in names {
        let cells = record.cells.iter().filter(|c| c.method == name);
        let points: Vec<_> = cells.filter_map(|c| Some((c.file_bytes? as f64, c.bits_per_byte?))).collect();
        if !points.is_empty() {
            plot = plot.series(name, points);
        }
    }
    plot.to_svg()
}
