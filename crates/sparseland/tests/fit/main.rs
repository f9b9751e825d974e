//! `fit`, `predict` and `screen` as a user runs them: closed forms, and the same numbers from every format.

mod closed_forms;
mod formats;
mod losses;
mod systems;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn sparseland(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("sparseland").unwrap();
    command.args(arguments).args(["--threads", "1", "--quiet"]).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = sparseland(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 2 and one line; returns the line.
fn refused(arguments: &[&str]) -> String {
    let output = sparseland(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.at(name)
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// A report's coefficient of a feature, 0 where it is not listed.
fn coefficient(report: &Value, feature: &str) -> f64 {
    let listed = report["coefficients"].as_array().unwrap();
    listed.iter().find(|pair| pair[0] == feature).map_or(0.0, |pair| number(&pair[1]))
}

/// The coefficients of a saved model of one target, zeros included.
fn saved(path: &Path) -> Vec<f64> {
    let model: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let coef = &model["fitted"]["linear"]["coef"];
    let mut out = vec![0.0; coef["len"].as_u64().unwrap() as usize];
    for (j, value) in numbers(&coef["indices"]).iter().zip(numbers(&coef["values"])) {
        out[*j as usize] = value;
    }
    out
}

/// The rows of a table with a header `names`.
fn csv(names: &str, rows: &[Vec<f64>]) -> String {
    let line = |row: &Vec<f64>| row.iter().map(f64::to_string).collect::<Vec<_>>().join(",") + "\n";
    format!("{names}\n") + &rows.iter().map(line).collect::<String>()
}

/// 40 rows of five features with some zeros, a target and classes.
fn table() -> (Vec<Vec<f64>>, Vec<f64>, Vec<f64>) {
    let value = |i: usize, j: usize| {
        let v = ((i * (2 * j + 3) * 7919 + j * 101) % 997) as f64 / 498.5 - 1.0;
        if (i + 2 * j).is_multiple_of(4) { 0.0 } else { v }
    };
    let x: Vec<Vec<f64>> = (0..40).map(|i| (0..5).map(|j| value(i, j)).collect()).collect();
    let y: Vec<f64> =
        x.iter().enumerate().map(|(i, r)| 3.0 * r[0] - 2.0 * r[2] + 0.3 * value(i, 9)).collect();
    let classes = y.iter().map(|y| f64::from(u8::from(*y > 0.1))).collect();
    (x, y, classes)
}

fn npy(shape: &[usize], fortran: bool, values: impl Iterator<Item = f64>) -> Vec<u8> {
    let sizes: String = shape.iter().map(|d| format!("{d},")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '<f8', 'fortran_order': {order}, 'shape': ({sizes}), }}");
    header.push_str(&" ".repeat(117 - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    values.for_each(|v| bytes.extend(v.to_le_bytes()));
    bytes
}

fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        writer.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
}
