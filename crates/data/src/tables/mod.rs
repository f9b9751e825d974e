//! Tables of numbers: CSV, NumPy, LIBSVM, Matrix Market and Parquet files behind one type.
//!
//! | format | recognised by | target in the file |
//! |---|---|---|
//! | CSV with a header | whatever is none of the others | a column |
//! | NumPy array, `.npy` | content | |
//! | NumPy archive, `.npz` | content | array `y` or `target` |
//! | scipy.sparse's `save_npz`: CSR, CSC, COO | the arrays inside | array `y` or `target`, if it was added |
//! | LIBSVM, svmlight | `.svm`, `.svmlight`, `.libsvm`, or lines such as `1 3:0.5` | the labels |
//! | Matrix Market, `.mtx` | content | |
//! | Parquet (feature `parquet`) | content | a column |
//!
//! Text formats may be compressed by gzip. Sparse files stay sparse: [`Numbers::Sparse`]. All numbers come as f64, so
//! that whole numbers above 2^53 are rounded.
//!
//! Cost: one pass over the file, and the memory of the file (text formats) plus that of the numbers.
//!
//! When not to use it: for tables larger than memory; [`NpyHeader`] lets a caller read an array piece by piece.

mod csv;
mod libsvm;
mod matrix_market;
mod npy;
mod npz;
mod numbers;
#[cfg(feature = "parquet")]
mod parquet;

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

pub use npy::{Array, NpyHeader};
pub use npz::Npz;
pub use numbers::Numbers;

use crate::safetensors::open_regular;
use crate::{DataError, Result};

/// A table that was opened: its columns are turned into numbers when they are asked for.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    form: Form,
    target: Option<Array>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Form {
    /// Named columns of text.
    Csv(csv::Csv),
    /// Named columns of any type.
    #[cfg(feature = "parquet")]
    Parquet(parquet::Parquet),
    /// Columns that are numbered from `first`; `array` names them in errors.
    Matrix { x: Numbers, first: usize, array: &'static str },
}

/// The error of a place in a table's file.
fn wrong(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> DataError {
    DataError::Table { path: path.into(), place: place.into(), problem: problem.into() }
}

/// An error of a place that is found before anybody looks at the file's name: `(place, problem)`.
type Wrong = (String, String);

impl Table {
    /// Opens a table of any [`Format`].
    ///
    /// # Errors
    /// [`DataError::Table`] names the file and the line or the array at fault; [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let told = |(place, problem): Wrong| wrong(path, place, problem);
        let matrix = |x, first| Form::Matrix { x, first, array: "" };
        Ok(match Format::of(path)? {
            Format::Npy => Self::matrix(path, npy::read_array(&mut unpacked(path)?, path, "")?, "")?,
            Format::Npz => Self::archive(path)?,
            Format::Parquet => Self::parquet(path)?,
            Format::MatrixMarket => {
                let x = matrix_market::read(&text(path)?).map_err(told)?;
                Self::of(path, matrix(x, 0), None, vec![])
            }
            Format::Libsvm => {
                let read = libsvm::read(&text(path)?).map_err(told)?;
                Self::of(path, matrix(read.x, 1), Some(read.labels), read.notes)
            }
            Format::Csv => {
                let csv = csv::Csv::new(text(path)?).map_err(told)?;
                Self::of(path, Form::Csv(csv), None, vec![])
            }
        })
    }

    fn archive(path: &Path) -> Result<Self> {
        let mut archive = Npz::open(path)?;
        let target = match archive.first_of(&["y", "target"]) {
            Some(name) => Some(archive.array(name)?),
            None => None,
        };
        if let Some(x) = archive.sparse()? {
            return Ok(Self::of(path, Form::Matrix { x, first: 0, array: "data" }, target, vec![]));
        }
        match (archive.first_of(&["X", "x", "data"]), target) {
            (Some(name), target) => Ok(Self { target, ..Self::matrix(path, archive.array(name)?, name)? }),
            // A file of targets.
            (None, Some(target)) => Self::matrix(path, target, "y"),
            (None, None) => {
                let held = archive.names().join(", ");
                Err(wrong(path, "", format!("no array X, x, data, y or target; it holds {held}")))
            }
        }
    }

    #[cfg(feature = "parquet")]
    fn parquet(path: &Path) -> Result<Self> {
        let form = Form::Parquet(parquet::Parquet::open(path)?);
        Ok(Self::of(path, form, None, vec![]))
    }

    #[cfg(not(feature = "parquet"))]
    fn parquet(path: &Path) -> Result<Self> {
        let problem = "a Parquet file; build with the feature `parquet`, or write the table as CSV or .npz";
        Err(wrong(path, "", problem))
    }

    fn matrix(path: &Path, array: Array, name: &'static str) -> Result<Self> {
        let place = if name.is_empty() { String::new() } else { format!("array {name}") };
        let x = array.into_table().map_err(|problem| wrong(path, place, problem))?;
        Ok(Self::of(path, Form::Matrix { x, first: 0, array: name }, None, vec![]))
    }

    fn of(path: &Path, form: Form, target: Option<Array>, notes: Vec<String>) -> Self {
        Self { path: path.into(), form, target, notes }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was ignored in the file, in whole sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The target that the format keeps apart from the columns: labels of LIBSVM, `y` of an archive.
    pub fn target(&self) -> Option<&Array> {
        self.target.as_ref()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        match &self.form {
            Form::Csv(csv) => csv.header.len(),
            #[cfg(feature = "parquet")]
            Form::Parquet(parquet) => parquet.header.len(),
            Form::Matrix { x, .. } => x.cols(),
        }
    }

    /// The names of the columns, where the format has names.
    pub fn names(&self) -> Option<&[String]> {
        match &self.form {
            Form::Csv(csv) => Some(&csv.header),
            #[cfg(feature = "parquet")]
            Form::Parquet(parquet) => Some(&parquet.header),
            Form::Matrix { .. } => None,
        }
    }

    /// The name of a column; its number (from 0, in LIBSVM files from 1) where the format has no names.
    pub fn name(&self, column: usize) -> String {
        match (&self.form, self.names()) {
            (Form::Matrix { first, .. }, _) => (column + first).to_string(),
            (_, names) => names.map_or_else(String::new, |names| names[column].clone()),
        }
    }

    /// The column of a name or, where the format has no names, of a number.
    ///
    /// # Errors
    /// [`DataError::Table`] lists the names, or the range of numbers.
    pub fn find(&self, name: &str) -> Result<usize> {
        let (found, known) = match (&self.form, self.names()) {
            (Form::Matrix { x, first, .. }, _) => {
                let number = name.parse::<usize>().ok().and_then(|n| n.checked_sub(*first));
                let last = (x.cols() + first).saturating_sub(1);
                (number.filter(|j| *j < x.cols()), format!("its columns are {first} to {last}"))
            }
            (_, names) => {
                let names = names.unwrap_or_default();
                (names.iter().position(|n| n == name), format!("it has {}", listed(names)))
            }
        };
        found.ok_or_else(|| wrong(&self.path, "", format!("has no column {name:?}; {known}")))
    }

    /// Adds columns of zeros, up to `cols`, to a LIBSVM file, which leaves out zeros at the end; others stay as they are.
    pub fn widen(&mut self, cols: usize) {
        if let Form::Matrix { x, first: 1, .. } = &mut self.form {
            let narrow = std::mem::replace(x, Numbers::Dense { rows: 0, cols: 0, values: vec![] });
            *x = narrow.widened(cols.min(numbers::MOST));
        }
    }

    /// Some columns as finite numbers.
    ///
    /// # Errors
    /// [`DataError::Table`] names the line and column, or the array and index, of the first cell that is none.
    pub fn numbers(&self, columns: &[usize]) -> Result<Numbers> {
        let numbers = match &self.form {
            Form::Csv(csv) => csv.numbers(columns).map_err(|(place, text)| wrong(&self.path, place, text))?,
            #[cfg(feature = "parquet")]
            Form::Parquet(parquet) => parquet.numbers(columns)?,
            Form::Matrix { x, .. } => x.keep(columns),
        };
        match (numbers.first_non_finite(), &self.form) {
            (None, _) => Ok(numbers),
            (Some((row, at, value)), Form::Matrix { array, first, .. }) => {
                let place = format!("{array}[{row}, {}]", columns[at] + first);
                Err(wrong(&self.path, place, format!("{value} is no finite number")))
            }
            (Some((row, at, value)), _) => {
                let place = format!("row {}, column {:?}", row + 1, self.name(columns[at]));
                Err(wrong(&self.path, place, format!("{value} is no finite number")))
            }
        }
    }

    /// All columns, NaN and infinities and missing values (as NaN) included.
    ///
    /// # Errors
    /// [`DataError::Table`] for cells that are no numbers at all.
    pub fn into_numbers(self) -> Result<Numbers> {
        match self.form {
            Form::Matrix { x, .. } => Ok(x),
            Form::Csv(_) => self.numbers(&(0..self.cols()).collect::<Vec<_>>()),
            #[cfg(feature = "parquet")]
            Form::Parquet(parquet) => parquet.numbers(&(0..parquet.header.len()).collect::<Vec<_>>()),
        }
    }

    /// A column as text: the cells of a CSV file as they are, numbers in their shortest form.
    ///
    /// # Errors
    /// [`DataError::Table`] for a line that cannot be read.
    pub fn cells(&self, column: usize) -> Result<Vec<String>> {
        match &self.form {
            Form::Csv(csv) => csv.cells(column).map_err(|(place, text)| wrong(&self.path, place, text)),
            #[cfg(feature = "parquet")]
            Form::Parquet(parquet) => parquet.cells(column),
            Form::Matrix { x, .. } => Ok(x.column(column).iter().map(f64::to_string).collect()),
        }
    }
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text with a header, cells between commas.
    Csv,
    /// A NumPy array.
    Npy,
    /// A NumPy archive.
    Npz,
    /// LIBSVM or svmlight.
    Libsvm,
    /// Matrix Market.
    MatrixMarket,
    /// Parquet.
    Parquet,
}

impl Format {
    /// The format of a file, from its beginning and, for text without a mark of its own, its name.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::NotARegularFile`].
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        const ENOUGH: u64 = 1 << 16;
        let path = path.as_ref();
        let mut begin = Vec::new();
        // What is wrong with a compressed stream is told by whoever reads it.
        let _ = unpacked(path)?.take(ENOUGH).read_to_end(&mut begin);
        let extension = extension(path);
        Ok(match &begin[..] {
            b if b.starts_with(npy::MAGIC) => Self::Npy,
            b if b.starts_with(b"PK\x03\x04") || b.starts_with(b"PK\x05\x06") => Self::Npz,
            b if b.starts_with(b"PAR1") => Self::Parquet,
            b if matrix_market::is_one(b) => Self::MatrixMarket,
            _ if ["svm", "svmlight", "libsvm"].contains(&extension.as_str()) => Self::Libsvm,
            b if extension != "csv" && libsvm::looks_like_one(b) => Self::Libsvm,
            _ => Self::Csv,
        })
    }
}

/// The last part of a name, less `.gz`, in lower case.
fn extension(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_owned())
}

/// The bytes of a file, unpacked where they are gzip.
fn unpacked(path: &Path) -> Result<Box<dyn Read>> {
    let mut reader = BufReader::new(open_regular(path)?.0);
    let zipped = reader.fill_buf().map_err(DataError::io("read", path))?.starts_with(&[0x1f, 0x8b]);
    Ok(if zipped { Box::new(flate2::bufread::MultiGzDecoder::new(reader)) } else { Box::new(reader) })
}

/// The content of a text file, unpacked where it is gzip.
fn text(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = unpacked(path)?.read_to_end(&mut bytes);
    read.map_err(|e| match e.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            DataError::Decompress { path: path.into(), format: "gzip", reason: e.to_string() }
        }
        _ => DataError::io("read", path)(e),
    })?;
    Ok(bytes)
}

/// Names in a row, the first dozen of many.
fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    let shown = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}
