//! Parquet: flat columns of numbers, booleans and text, uncompressed or packed by Snappy or gzip.

use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::{Numbers, wrong};
use crate::Result;
use crate::safetensors::open_regular;

/// A file in memory.
#[derive(Debug)]
pub(super) struct Parquet {
    path: PathBuf,
    pub(super) header: Vec<String>,
    rows: usize,
    columns: Vec<Column>,
}

#[derive(Debug)]
enum Column {
    /// Missing values are NaN.
    Numbers(Vec<f64>),
    /// Missing values are empty.
    Text(Vec<String>),
    /// A type that is neither.
    Other(String),
}

impl Parquet {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let damaged =
            |e: parquet::errors::ParquetError| wrong(path, "", format!("no readable Parquet file: {e}"));
        let (file, _) = open_regular(path)?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let fields = reader.metadata().file_metadata().schema().get_fields().to_vec();
        let header: Vec<String> = fields.iter().map(|f| f.name().to_owned()).collect();
        if header.is_empty() {
            return Err(wrong(path, "", "no columns"));
        }
        // The first value that is there decides the type of its column.
        let mut columns: Vec<Column> = header.iter().map(|_| Column::Numbers(vec![])).collect();
        let mut rows = 0;
        for row in reader.get_row_iter(None).map_err(damaged)? {
            let row = row.map_err(damaged)?;
            for ((_, field), column) in row.into_columns().into_iter().zip(&mut columns) {
                column.push(field, rows);
            }
            rows += 1;
        }
        Ok(Self { path: path.into(), header, rows, columns })
    }

    pub(super) fn numbers(&self, columns: &[usize]) -> Result<Numbers> {
        let mut values = Vec::with_capacity(columns.len() * self.rows);
        for &j in columns {
            let what = match &self.columns[j] {
                Column::Numbers(numbers) => {
                    values.extend_from_slice(numbers);
                    continue;
                }
                Column::Text(cells) => format!("{:?} is no number", cells.first().map_or("", String::as_str)),
                Column::Other(kind) => format!("{kind} is no number"),
            };
            return Err(wrong(&self.path, format!("column {:?}", self.header[j]), what));
        }
        Ok(Numbers::Dense { rows: self.rows, cols: columns.len(), values })
    }

    pub(super) fn cells(&self, column: usize) -> Result<Vec<String>> {
        match &self.columns[column] {
            Column::Numbers(numbers) => Ok(numbers.iter().map(f64::to_string).collect()),
            Column::Text(cells) => Ok(cells.clone()),
            Column::Other(kind) => {
                let place = format!("column {:?}", self.header[column]);
                Err(wrong(&self.path, place, format!("{kind} is neither a number nor text")))
            }
        }
    }
}

impl Column {
    fn push(&mut self, field: Field, rows: usize) {
        let number = match &field {
            Field::Null => Some(f64::NAN),
            Field::Bool(v) => Some(f64::from(u8::from(*v))),
            Field::Byte(v) => Some(f64::from(*v)),
            Field::Short(v) => Some(f64::from(*v)),
            Field::Int(v) => Some(f64::from(*v)),
            Field::Long(v) => Some(*v as f64),
            Field::UByte(v) => Some(f64::from(*v)),
            Field::UShort(v) => Some(f64::from(*v)),
            Field::UInt(v) => Some(f64::from(*v)),
            Field::ULong(v) => Some(*v as f64),
            Field::Float16(v) => Some(f64::from(*v)),
            Field::Float(v) => Some(f64::from(*v)),
            Field::Double(v) => Some(*v),
            _ => None,
        };
        match (self, number, field) {
            (Self::Numbers(numbers), Some(v), _) => numbers.push(v),
            (Self::Text(cells), _, Field::Str(text)) => cells.push(text),
            (Self::Text(cells), _, Field::Null) => cells.push(String::new()),
            (column @ Self::Numbers(_), None, Field::Str(text)) => {
                // Only missing values came before.
                let mut cells = vec![String::new(); rows];
                cells.push(text);
                *column = Self::Text(cells);
            }
            (Self::Other(_), ..) => {}
            (column, _, field) => *column = Self::Other(format!("{field}")),
        }
    }
}
