//! CSV with a header: cells are kept as they are and parsed when a column is asked for.

use csv::{Position, ReaderBuilder, StringRecord, Trim};

use super::{Numbers, Wrong};

/// A file in memory.
#[derive(Debug)]
pub(super) struct Csv {
    pub(super) header: Vec<String>,
    bytes: Vec<u8>,
}

impl Csv {
    pub(super) fn new(mut bytes: Vec<u8>) -> Result<Self, Wrong> {
        if bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3); // byte order mark of Windows editors
        }
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(&bytes[..]);
        let header = reader.headers().map_err(|e| (String::new(), format!("no readable header: {e}")))?;
        let header: Vec<String> = header.iter().map(str::to_owned).collect();
        if header.is_empty() {
            return Err((String::new(), "is empty; a table has a header and rows".into()));
        }
        Ok(Self { header, bytes })
    }

    /// Visits every row with its line.
    fn rows(&self, mut row: impl FnMut(&StringRecord, u64) -> Result<(), Wrong>) -> Result<(), Wrong> {
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(&self.bytes[..]);
        let mut record = StringRecord::new();
        loop {
            match reader.read_record(&mut record) {
                Ok(true) => row(&record, record.position().map_or(0, Position::line))?,
                Ok(false) => return Ok(()),
                Err(e) => {
                    let line = e.position().map_or_else(String::new, |p| format!("line {}", p.line()));
                    return Err((line, told(&e, self.header.len())));
                }
            }
        }
    }

    pub(super) fn cells(&self, column: usize) -> Result<Vec<String>, Wrong> {
        let mut out = Vec::new();
        self.rows(|record, _| {
            out.push(record.get(column).unwrap_or_default().to_owned());
            Ok(())
        })?;
        Ok(out)
    }

    pub(super) fn numbers(&self, columns: &[usize]) -> Result<Numbers, Wrong> {
        let mut parsed = vec![Vec::new(); columns.len()];
        let mut rows = 0;
        self.rows(|record, line| {
            for (values, &column) in parsed.iter_mut().zip(columns) {
                let cell = record.get(column).unwrap_or_default();
                match cell.parse::<f64>() {
                    Ok(value) if value.is_finite() => values.push(value),
                    _ => {
                        let place = format!("line {line}, column {:?}", self.header[column]);
                        return Err((place, format!("{cell:?} is no finite number")));
                    }
                }
            }
            rows += 1;
            Ok(())
        })?;
        Ok(Numbers::Dense { rows, cols: columns.len(), values: parsed.concat() })
    }
}

/// What is wrong with a line, less its place.
fn told(error: &csv::Error, columns: usize) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { len, .. } => format!("{len} cells, the header has {columns}"),
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".into(),
        _ => error.to_string(),
    }
}
