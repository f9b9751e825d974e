//! Tables on disk whose columns are read in blocks: NumPy arrays and CSV.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use sparseland_data::tables::NpyHeader;

use super::ColumnSource;
use crate::high_dimensional::HighDimensionalError;

/// A file or bytes in memory.
trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

fn problem(path: &str, problem: impl ToString) -> HighDimensionalError {
    HighDimensionalError::File { path: path.to_owned(), problem: problem.to_string() }
}

/// A two-dimensional `.npy` file of numbers, row-major or column-major (`fortran_order`).
///
/// Column-major files are read in one run; of row-major ones, a piece of every row.
#[derive(Debug)]
pub struct Npy {
    path: String,
    file: File,
    rows: usize,
    cols: usize,
    bytes: usize,
    header: NpyHeader,
    buffer: Vec<u8>,
    values: Vec<f64>,
}

impl Npy {
    /// Reads the header.
    ///
    /// # Errors
    /// [`HighDimensionalError::File`] when it is no such array, or the file does not hold what the header says.
    pub fn open(path: &Path) -> Result<Self, HighDimensionalError> {
        let name = path.display().to_string();
        let wrong = |text: String| problem(&name, text);
        let mut file = File::open(path).map_err(|e| problem(&name, e))?;
        let header = NpyHeader::read(&mut file, path).map_err(HighDimensionalError::Data)?;
        let bytes = header.item_bytes().map_err(wrong)?;
        let &[rows, cols] = header.shape.as_slice() else {
            let shape = &header.shape;
            return Err(wrong(format!("has shape {shape:?}; a table has two dimensions, rows and columns")));
        };
        let size = file.metadata().map_err(|e| problem(&name, e))?.len();
        let expected = header.entries().and_then(|n| n.checked_mul(bytes));
        if expected.and_then(|n| (n as u64).checked_add(header.begin)) != Some(size) {
            return Err(wrong(format!(
                "has {size} bytes, which do not fit {rows} x {cols} values of {bytes} bytes"
            )));
        }
        if rows == 0 || cols == 0 {
            return Err(wrong(format!("is {rows} x {cols}: there is nothing to read")));
        }
        Ok(Self { path: name, file, rows, cols, bytes, header, buffer: vec![], values: vec![] })
    }

    fn fetch(&mut self, first: usize, count: usize) -> Result<(), HighDimensionalError> {
        self.buffer.resize(count * self.bytes, 0);
        let at = self.header.begin + (first as u64) * self.bytes as u64;
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut self.buffer));
        read.map_err(|e| problem(&self.path, e))?;
        self.values.clear();
        self.header.decode(&mut self.buffer, &mut self.values);
        Ok(())
    }
}

impl ColumnSource for Npy {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn names(&self) -> Option<&[String]> {
        None
    }
    fn read(&mut self, columns: Range<usize>, out: &mut [f64]) -> Result<(), HighDimensionalError> {
        let (first, count) = (columns.start, columns.len());
        if self.header.fortran_order {
            self.fetch(first * self.rows, count * self.rows)?;
            out.copy_from_slice(&self.values);
            return Ok(());
        }
        for i in 0..self.rows {
            self.fetch(i * self.cols + first, count)?;
            for (k, v) in self.values.iter().enumerate() {
                out[k * self.rows + i] = *v;
            }
        }
        Ok(())
    }
}

/// A CSV file with a header and numbers below it; empty fields, `NA` and `NaN` are NaN. Plain files stay on disk: one
/// pass finds the rows, and further blocks go on where the last one ended in every row. Gzip files are unpacked into
/// memory.
pub struct Csv {
    path: String,
    reader: BufReader<Box<dyn ReadSeek>>,
    names: Vec<String>,
    starts: Vec<u64>,
    /// Where the field `next` of every row begins.
    at: Vec<u64>,
    next: usize,
}

impl std::fmt::Debug for Csv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csv")
            .field("path", &self.path)
            .field("cols", &self.names.len())
            .finish_non_exhaustive()
    }
}

impl Csv {
    /// Reads the header and finds the rows.
    ///
    /// # Errors
    /// [`HighDimensionalError::File`] with the line at fault.
    pub fn open(path: &Path) -> Result<Self, HighDimensionalError> {
        let name = path.display().to_string();
        let mut file = File::open(path).map_err(|e| problem(&name, e))?;
        let mut magic = [0; 2];
        let zipped = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
        file.rewind().map_err(|e| problem(&name, e))?;
        let inner: Box<dyn ReadSeek> = if zipped {
            let mut bytes = Vec::new();
            let unpacked = flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes);
            unpacked.map_err(|e| problem(&name, format!("is no whole gzip file: {e}")))?;
            Box::new(Cursor::new(bytes))
        } else {
            Box::new(file)
        };
        let mut reader = BufReader::with_capacity(1 << 18, inner);
        let mut line = Vec::new();
        let mut offset = reader.read_until(b'\n', &mut line).map_err(|e| problem(&name, e))? as u64;
        let mut header =
            csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(&line[..]);
        let names: Vec<String> = match header.records().next() {
            Some(Ok(record)) => record.iter().map(str::to_owned).collect(),
            Some(Err(e)) => return Err(problem(&name, format!("has no readable header: {e}"))),
            None => return Err(problem(&name, "is empty")),
        };
        let mut starts = Vec::new();
        for number in 2.. {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(|e| problem(&name, e))?;
            if length == 0 {
                break;
            }
            let fields = line.iter().filter(|b| **b == b',').count() + 1;
            if !line.trim_ascii().is_empty() {
                if fields != names.len() {
                    let text = format!("line {number} has {fields} fields, the header has {}", names.len());
                    return Err(problem(&name, text));
                }
                starts.push(offset);
            }
            offset += length as u64;
        }
        if starts.is_empty() {
            return Err(problem(&name, "has a header but no rows"));
        }
        Ok(Self { path: name, reader, names, at: starts.clone(), starts, next: 0 })
    }

    /// Reads one field and the comma or line end behind it; returns the bytes taken.
    fn field(&mut self, field: &mut Vec<u8>) -> std::io::Result<u64> {
        field.clear();
        let mut taken = 0;
        loop {
            let bytes = self.reader.fill_buf()?;
            let end = bytes.iter().position(|b| *b == b',' || *b == b'\n');
            let upto = end.unwrap_or(bytes.len());
            field.extend_from_slice(&bytes[..upto]);
            let done = end.is_some() || bytes.is_empty();
            let used = upto + usize::from(end.is_some());
            self.reader.consume(used);
            taken += used as u64;
            if done {
                return Ok(taken);
            }
        }
    }
}

/// The number in a field; `None` if it is none.
fn number(field: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(field).ok()?.trim().trim_matches('"').trim();
    match text {
        "" | "NA" | "NaN" | "nan" | "na" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

impl ColumnSource for Csv {
    fn rows(&self) -> usize {
        self.starts.len()
    }
    fn cols(&self) -> usize {
        self.names.len()
    }
    fn names(&self) -> Option<&[String]> {
        Some(&self.names)
    }
    fn read(&mut self, columns: Range<usize>, out: &mut [f64]) -> Result<(), HighDimensionalError> {
        if columns.start < self.next {
            self.at.clone_from(&self.starts);
            self.next = 0;
        }
        let rows = self.starts.len();
        let mut field = Vec::new();
        let failed = |path: &str, e: std::io::Error| problem(path, e);
        for i in 0..rows {
            self.reader.seek(SeekFrom::Start(self.at[i])).map_err(|e| failed(&self.path, e))?;
            let mut at = self.at[i];
            for _ in self.next..columns.start {
                at += self.field(&mut field).map_err(|e| failed(&self.path, e))?;
            }
            for (k, j) in columns.clone().enumerate() {
                at += self.field(&mut field).map_err(|e| failed(&self.path, e))?;
                out[k * rows + i] = number(&field).ok_or_else(|| {
                    let (line, text) = (i + 2, String::from_utf8_lossy(&field).into_owned());
                    problem(
                        &self.path,
                        format!("line {line}, column {:?}: {text:?} is no number", self.names[j]),
                    )
                })?;
            }
            self.at[i] = at;
        }
        self.next = columns.end;
        Ok(())
    }
}
