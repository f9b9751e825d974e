//! Tables of numbers from CSV files, for `fit` and `predict`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sparseland_optim::design::Dense;

/// Features row by row, and the target where it was asked for.
pub struct Numbers {
    /// Names of the features.
    pub names: Vec<String>,
    /// The features.
    pub x: Dense<f64>,
    /// The cells of the target column.
    pub target: Vec<String>,
    /// Its name.
    pub target_name: String,
}

/// Which columns of a table are read.
pub enum Columns<'a> {
    /// All but the target (the last without a name) and those left out.
    AllBut {
        /// The target.
        target: Option<&'a str>,
        /// Columns to leave out.
        drop: &'a [String],
    },
    /// These, and the target if the table has it.
    These {
        /// Features in their order.
        names: &'a [String],
        /// The target.
        target: &'a str,
    },
}

/// Reads a CSV file with a header, plain or gzip.
///
/// # Errors
/// One line that names file, line and column of the first cell that is no finite number, or the column that is
/// missing.
pub fn read(path: &Path, columns: &Columns<'_>) -> Result<Numbers> {
    let bytes = read_file(path)?;
    let place = path.display();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&bytes[..]);
    let header: Vec<String> = reader
        .headers()
        .with_context(|| format!("{place} has no header"))?
        .iter()
        .map(str::to_owned)
        .collect();
    let find = |name: &str| {
        let at = header.iter().position(|h| h == name);
        at.with_context(|| format!("{place} has no column {name:?}; it has {}", header.join(", ")))
    };
    let (kept, target): (Vec<usize>, Option<usize>) = match columns {
        Columns::AllBut { target, drop } => {
            let target = match target {
                Some(name) => find(name)?,
                None => header.len().checked_sub(1).with_context(|| format!("{place} is empty"))?,
            };
            let dropped = drop.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
            let kept = (0..header.len()).filter(|i| *i != target && !dropped.contains(i));
            (kept.collect(), Some(target))
        }
        Columns::These { names, target } => {
            let kept = names.iter().map(|name| find(name)).collect::<Result<_>>()?;
            (kept, header.iter().position(|h| h == target))
        }
    };
    if kept.is_empty() {
        bail!("{place} has no column to predict from");
    }
    let (mut x, mut cells, mut rows) = (Vec::new(), Vec::new(), 0);
    for record in reader.records() {
        let record = record.with_context(|| format!("{place} cannot be read"))?;
        let line = record.position().map_or(0, csv::Position::line);
        for &column in &kept {
            let cell = record.get(column).unwrap_or_default();
            let value = cell.parse::<f64>().ok().filter(|v| v.is_finite());
            x.push(value.with_context(|| {
                format!("{place}, line {line}, column {:?}: {cell:?} is no finite number", header[column])
            })?);
        }
        cells.extend(target.map(|t| record.get(t).unwrap_or_default().to_owned()));
        rows += 1;
    }
    let names = kept.iter().map(|&i| header[i].clone()).collect();
    let target_name = target.map_or(String::new(), |t| header[t].clone());
    Ok(Numbers { names, x: Dense::from_rows(rows, kept.len(), &x)?, target: cells, target_name })
}

impl Numbers {
    /// The target as numbers.
    ///
    /// # Errors
    /// One line that names the first row that is no finite number.
    pub fn target_numbers(&self, path: &Path) -> Result<Vec<f64>> {
        let number = |(row, cell): (usize, &String)| {
            cell.parse::<f64>().ok().filter(|v| v.is_finite()).with_context(|| {
                let name = &self.target_name;
                format!("{}, row {}, column {name:?}: {cell:?} is no finite number", path.display(), row + 1)
            })
        };
        self.target.iter().enumerate().map(number).collect()
    }

    /// The two classes of the target in the order of their names, and which class each row has.
    ///
    /// # Errors
    /// If there are not exactly two.
    pub fn target_classes(&self, path: &Path) -> Result<([String; 2], Vec<f64>)> {
        let mut names: Vec<&String> = self.target.iter().collect();
        names.sort_unstable();
        names.dedup();
        let [first, second] = names[..] else {
            bail!(
                "{}: column {:?} has {} classes; logistic regression takes exactly 2",
                path.display(),
                self.target_name,
                names.len()
            );
        };
        let y = self.target.iter().map(|c| f64::from(u8::from(c == second))).collect();
        Ok(([first.clone(), second.clone()], y))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let raw = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return Ok(raw);
    }
    let mut out = Vec::new();
    let decoded = flate2::read::MultiGzDecoder::new(&raw[..]).read_to_end(&mut out);
    decoded.with_context(|| format!("{} is no whole gzip file", path.display()))?;
    Ok(out)
}
