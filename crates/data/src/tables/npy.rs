//! NumPy arrays: numpy.lib.format, versions 1 to 3.

use std::io::Read;
use std::path::Path;

use super::{Numbers, wrong};
use crate::{DataError, Result};

/// How every `.npy` file begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read; NumPy itself refuses more than 10,000 characters.
const LONGEST_HEADER: usize = 1 << 16;
/// Bytes of an array that are read at a time.
const BLOCK: usize = 1 << 18;
/// Types of numbers without their byte order, and their sizes in bytes.
const KINDS: [(&str, usize); 12] = [
    ("b1", 1),
    ("i1", 1),
    ("u1", 1),
    ("i2", 2),
    ("u2", 2),
    ("f2", 2),
    ("i4", 4),
    ("u4", 4),
    ("f4", 4),
    ("i8", 8),
    ("u8", 8),
    ("f8", 8),
];

/// What the header of a `.npy` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// The type as NumPy writes it, such as `<f8`.
    pub descr: String,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// The shape.
    pub shape: Vec<usize>,
    /// Where the numbers begin, in bytes from the start.
    pub begin: u64,
}

/// An array of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The shape.
    pub shape: Vec<usize>,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// The numbers in their order in the file.
    pub values: Vec<f64>,
}

impl NpyHeader {
    /// Reads the header and leaves the reader at the first number.
    ///
    /// # Errors
    /// [`DataError::Table`] when it is no such header.
    pub fn read(reader: &mut impl Read, path: &Path) -> Result<Self> {
        Self::read_of(reader, path, "")
    }

    fn read_of(reader: &mut dyn Read, path: &Path, place: &str) -> Result<Self> {
        let fault = |problem: String| wrong(path, place, problem);
        let ends = |_| fault("ends within its header; copy or write it again".into());
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(ends)?;
        if !start.starts_with(MAGIC) {
            return Err(fault("no .npy array; save it with numpy.save or numpy.savez".into()));
        }
        let width = match start[6] {
            1 => 2,
            2 | 3 => 4,
            other => return Err(fault(format!("version {other} of .npy; versions 1 to 3 are read"))),
        };
        let mut length = [0; 4];
        reader.read_exact(&mut length[..width]).map_err(ends)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST_HEADER {
            let text = format!("the header claims {length} bytes, at most {LONGEST_HEADER} are possible");
            return Err(fault(text + "; the file is damaged"));
        }
        let mut header = vec![0; length];
        reader.read_exact(&mut header).map_err(ends)?;
        let header = String::from_utf8_lossy(&header);
        let parsed = parse(&header).ok_or_else(|| {
            fault(format!(
                "the header {:?} is not NumPy's",
                header.trim().chars().take(120).collect::<String>()
            ))
        })?;
        Ok(Self { begin: (8 + width + length) as u64, ..parsed })
    }

    /// Bytes of one number.
    ///
    /// # Errors
    /// The type and what to do about it, where it is no number.
    pub fn item_bytes(&self) -> std::result::Result<usize, String> {
        let known = KINDS.iter().find(|(kind, _)| *kind == self.kind());
        known.map(|(_, bytes)| *bytes).ok_or_else(|| match self.descr.contains(['O', '[', '(']) {
            true => format!("holds {}; records and pickled objects are not read", self.descr),
            false => format!("holds {:?}; convert it with .astype('<f8')", self.descr),
        })
    }

    /// Number of entries, `None` where it does not fit the address space.
    pub fn entries(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
    }

    fn kind(&self) -> &str {
        self.descr.trim_start_matches(['<', '>', '|', '='])
    }

    /// Appends the numbers in `bytes`, which the call may reorder, to `out`; bytes behind the last whole number are
    /// left out.
    pub fn decode(&self, bytes: &mut [u8], out: &mut Vec<f64>) {
        let Ok(width) = self.item_bytes() else { return };
        if self.descr.starts_with('>') {
            bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        macro_rules! all {
            ($($t:ty)*, $convert:expr) => {
                out.extend(bytes.chunks_exact(width).map(|b| {
                    let mut array = [0; size_of::<$($t)*>()];
                    array.copy_from_slice(b);
                    $convert(<$($t)*>::from_le_bytes(array))
                }))
            };
        }
        match self.kind() {
            "f8" => all!(f64, |v| v),
            "f4" => all!(f32, f64::from),
            "f2" => all!(half::f16, f64::from),
            "i8" => all!(i64, |v| v as f64),
            "u8" => all!(u64, |v| v as f64),
            "i4" => all!(i32, f64::from),
            "u4" => all!(u32, f64::from),
            "i2" => all!(i16, f64::from),
            "u2" => all!(u16, f64::from),
            "i1" => all!(i8, f64::from),
            _ => all!(u8, f64::from),
        }
    }
}

/// The Python dictionary of a header.
fn parse(header: &str) -> Option<NpyHeader> {
    let value = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let descr = value("descr")?;
    let descr = match descr.strip_prefix('\'') {
        Some(rest) => rest.split('\'').next()?,
        // A list of fields: shown in the error.
        None => descr.split_inclusive(']').next()?,
    };
    let order = value("fortran_order")?;
    let fortran_order = match (order.starts_with("True"), order.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return None,
    };
    let shape = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape = sizes.map(|d| d.parse().ok()).collect::<Option<Vec<usize>>>()?;
    Some(NpyHeader { descr: descr.to_owned(), fortran_order, shape, begin: 0 })
}

/// Reads a header and the bytes behind it; `place` names the array in errors.
pub(super) fn read_bytes(reader: &mut dyn Read, path: &Path, place: &str) -> Result<(NpyHeader, Vec<u8>)> {
    let header = NpyHeader::read_of(reader, path, place)?;
    let mut bytes = Vec::new();
    reader.take(BLOCK as u64).read_to_end(&mut bytes).map_err(DataError::io("read", path))?;
    Ok((header, bytes))
}

/// Reads a whole array; memory grows with what is there, not with what the header claims.
pub(super) fn read_array(reader: &mut dyn Read, path: &Path, place: &str) -> Result<Array> {
    let header = NpyHeader::read_of(reader, path, place)?;
    let fault = |problem: String| wrong(path, place, problem);
    let width = header.item_bytes().map_err(fault)?;
    let shape = &header.shape;
    let total = header.entries().and_then(|n| n.checked_mul(width));
    let total = total.ok_or_else(|| fault(format!("shape {shape:?} is too large to address")))?;
    let (mut values, mut buffer, mut done) = (Vec::new(), Vec::new(), 0);
    while done < total {
        buffer.clear();
        let wanted = BLOCK.min(total - done);
        let got = reader.take(wanted as u64).read_to_end(&mut buffer);
        let got = got.map_err(|e| fault(format!("cannot be read: {e}")))?;
        header.decode(&mut buffer, &mut values);
        done += got;
        if got < wanted {
            let text = format!("ends after {done} of the {total} bytes of shape {shape:?}");
            return Err(fault(text + "; copy or write it again"));
        }
    }
    let rest = reader.take(1).read_to_end(&mut buffer).map_err(|e| fault(format!("cannot be read: {e}")))?;
    if rest > 0 {
        return Err(fault(format!("goes on after the {total} bytes of shape {shape:?}")));
    }
    Ok(Array { shape: header.shape, fortran_order: header.fortran_order, values })
}

impl Array {
    /// A two-dimensional array as a table, a one-dimensional one as a table of one column; otherwise what is wrong.
    pub(super) fn into_table(self) -> std::result::Result<Numbers, String> {
        let (rows, cols) = match self.shape[..] {
            [rows] => (rows, 1),
            [rows, cols] => (rows, cols),
            _ => {
                return Err(format!(
                    "has shape {:?}; a table has two dimensions, rows and columns",
                    self.shape
                ));
            }
        };
        let values = match self.fortran_order {
            true => self.values,
            false => transposed(rows, cols, &self.values),
        };
        Ok(Numbers::Dense { rows, cols, values })
    }

    /// One list of values per column: one for the shapes `(n,)` and `(n, 1)`, `t` for `(n, t)`.
    ///
    /// # Errors
    /// What is wrong, for more than two dimensions.
    pub fn columns(&self) -> std::result::Result<Vec<Vec<f64>>, String> {
        let table = self.clone().into_table()?;
        Ok((0..table.cols()).map(|j| table.column(j)).collect())
    }
}

/// Column after column what was row after row.
fn transposed(rows: usize, cols: usize, values: &[f64]) -> Vec<f64> {
    // Tiles keep both sides in the cache.
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for first_row in (0..rows).step_by(TILE) {
        for first_col in (0..cols).step_by(TILE) {
            for i in first_row..(first_row + TILE).min(rows) {
                for j in first_col..(first_col + TILE).min(cols) {
                    out[j * rows + i] = values[i * cols + j];
                }
            }
        }
    }
    out
}
