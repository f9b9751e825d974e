//! NumPy archives: a zip file of `.npy` arrays, among them what scipy.sparse's `save_npz` writes.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::npy::{Array, read_array, read_bytes};
use super::numbers::MOST;
use super::{Numbers, wrong};
use crate::Result;
use crate::safetensors::open_regular;

/// An open archive.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl Npz {
    /// Opens an archive and reads its directory.
    ///
    /// # Errors
    /// [`DataError`](crate::DataError) when it is no zip file or two arrays share bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, _) = open_regular(path)?;
        let damaged = |e: zip::result::ZipError| wrong(path, "", format!("no whole .npz archive: {e}"));
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        let mut ranges = Vec::with_capacity(archive.len());
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(damaged)?;
            let begin = entry.header_start();
            let end = entry.data_start().unwrap_or(begin).saturating_add(entry.compressed_size());
            let name = entry.name().map_err(damaged)?.into_owned();
            ranges.push((begin, end, name));
        }
        ranges.sort();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            let text = format!("{:?} and {:?} overlap; the archive is damaged", pair[0].2, pair[1].2);
            return Err(wrong(path, "", text));
        }
        Ok(Self { path: path.into(), archive })
    }

    /// The names of the arrays.
    pub fn names(&self) -> Vec<String> {
        let names = self.archive.file_names().flatten();
        names.filter_map(|n| n.strip_suffix(".npy").map(str::to_owned)).collect()
    }

    /// The first of some names that the archive has.
    pub(super) fn first_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|n| self.archive.index_for_name(&format!("{n}.npy")).is_some())
    }

    /// An array of numbers.
    ///
    /// # Errors
    /// [`DataError::Table`](crate::DataError::Table) with the names that there are, or what is wrong with the array.
    pub fn array(&mut self, name: &str) -> Result<Array> {
        self.with(name, |reader, path, place| read_array(reader, path, place))
    }

    fn with<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut dyn std::io::Read, &Path, &str) -> Result<T>,
    ) -> Result<T> {
        let held = self.names().join(", ");
        match self.archive.by_name(&format!("{name}.npy")) {
            Ok(mut entry) => read(&mut entry, &self.path, &format!("array {name}")),
            Err(zip::result::ZipError::FileNotFound) => {
                Err(wrong(&self.path, "", format!("no array {name:?}; it holds {held}")))
            }
            Err(e) => Err(wrong(&self.path, format!("array {name}"), format!("cannot be read: {e}"))),
        }
    }

    /// A whole number that must fit an index.
    fn indices(&mut self, name: &str, below: usize) -> Result<Vec<u32>> {
        let array = self.array(name)?;
        let fits = |v: &f64| *v >= 0.0 && *v < below as f64 && v.fract() == 0.0;
        if let Some(at) = array.values.iter().position(|v| !fits(v)) {
            let text =
                format!("{} is no whole number from 0 to {}", array.values[at], below.saturating_sub(1));
            return Err(wrong(&self.path, format!("{name}[{at}]"), text));
        }
        Ok(array.values.iter().map(|v| *v as u32).collect())
    }

    /// The sparse matrix that scipy.sparse's `save_npz` wrote, if it is one.
    pub(super) fn sparse(&mut self) -> Result<Option<Numbers>> {
        if self.first_of(&["format"]).is_none() || self.first_of(&["shape"]).is_none() {
            return Ok(None);
        }
        // Text of one or four bytes a letter.
        let (_, format) = self.with("format", |reader, path, place| read_bytes(reader, path, place))?;
        let format: String = format.iter().filter(|b| **b != 0).map(|b| char::from(*b)).collect();
        let shape: Vec<usize> = self.indices("shape", MOST)?.iter().map(|d| *d as usize).collect();
        let [rows, cols] = shape[..] else {
            let text = format!("has {} numbers; a matrix has two, rows and columns", shape.len());
            return Err(wrong(&self.path, "array shape", text));
        };
        let values = self.array("data")?.values;
        let (row_of, column_of) = match format.as_str() {
            "coo" => (self.indices("row", rows)?, self.indices("col", cols)?),
            "csr" => {
                let inner = self.indices("indices", cols)?;
                (self.expanded(rows, values.len())?, inner)
            }
            "csc" => {
                let inner = self.indices("indices", rows)?;
                (inner, self.expanded(cols, values.len())?)
            }
            other => {
                let text = format!("{other:?} is not read; convert the matrix with .tocsr()");
                return Err(wrong(&self.path, "array format", text));
            }
        };
        if row_of.len() != values.len() || column_of.len() != values.len() {
            let (r, c) = (row_of.len(), column_of.len());
            let text = format!("has {} values for {r} rows and {c} columns of entries", values.len());
            return Err(wrong(&self.path, "array data", text));
        }
        Ok(Some(Numbers::from_entries(rows, cols, &row_of, &column_of, &values)))
    }

    /// The outer index of every entry, from the offsets `indptr`.
    fn expanded(&mut self, outer: usize, entries: usize) -> Result<Vec<u32>> {
        let offsets = self.indices("indptr", entries.saturating_add(1))?;
        let falls = offsets.windows(2).position(|pair| pair[1] < pair[0]).map(|at| at + 1);
        let bad = match (offsets.first(), offsets.last()) {
            _ if offsets.len() != outer + 1 => {
                Some(format!("has {} offsets for {outer} parts", offsets.len()))
            }
            (Some(first), Some(last)) if *first != 0 || *last as usize != entries => {
                Some(format!("runs from {first} to {last} for {entries} entries"))
            }
            _ => falls.map(|at| format!("falls at offset {at}")),
        };
        if let Some(problem) = bad {
            return Err(wrong(&self.path, "array indptr", problem));
        }
        let mut out = Vec::with_capacity(entries);
        for (part, pair) in offsets.windows(2).enumerate() {
            out.extend(std::iter::repeat_n(part as u32, (pair[1] - pair[0]) as usize));
        }
        Ok(out)
    }
}
