//! One safetensors file, read by position.
//!
//! The file is opened, its header read and checked, and tensors are read when asked for. It is not mapped into
//! memory: a file cut off under a mapping kills the process with SIGBUS, while a positional read returns an error;
//! and resident memory stays at what the caller keeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::header::{Header, LENGTH_BYTES, MAX_HEADER_BYTES};
use crate::{DataError, Result, TensorInfo, TensorSource};

/// A safetensors file with a checked header. Tensors are read through [`TensorSource`].
///
/// ```
/// use sparseland_data::{DType, TensorFile, TensorSource, TensorSpec, TensorWriter};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("w.safetensors");
/// let mut writer = TensorWriter::create(&path, &[TensorSpec::new("w", DType::F32, [2, 2])], &Default::default())?;
/// writer.write_typed("w", &[1.0_f32, 2.0, 3.0, 4.0])?;
/// writer.finish()?;
///
/// let file = TensorFile::open(&path)?;
/// assert_eq!(file.info("w")?.shape, [2, 2]);
/// assert_eq!(file.read_rows_f32("w", 1..2)?, [3.0, 4.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    /// Where the data section begins.
    data_start: u64,
    file_bytes: u64,
}

#[derive(Debug)]
enum Bytes {
    Disk(PositionalFile),
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
}

impl TensorFile {
    /// Opens a file, reads its header and checks all of it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, len) = open_regular(path)?;
        Self::new(path.into(), Bytes::Disk(PositionalFile::new(file)), len)
    }

    /// Takes a file's content from memory.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Self::new("<memory>".into(), Bytes::Shared(bytes), len)
    }

    /// Takes a file's content from memory that lives as long as the program (`include_bytes!`); nothing is copied.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self> {
        Self::new("<embedded>".into(), Bytes::Static(bytes), bytes.len() as u64)
    }

    fn new(path: PathBuf, bytes: Bytes, file_bytes: u64) -> Result<Self> {
        let Some(behind_length) = file_bytes.checked_sub(LENGTH_BYTES) else {
            return Err(DataError::TooShort { path, got: file_bytes });
        };
        let mut length = [0; LENGTH_BYTES as usize];
        bytes.read_exact_at(&mut length, 0).map_err(DataError::io("read", &path))?;
        let length = u64::from_le_bytes(length);
        let limit = behind_length.min(MAX_HEADER_BYTES);
        if length > limit {
            return Err(DataError::HeaderLength { path, length, limit });
        }
        // At most MAX_HEADER_BYTES, so this fits every usize.
        let mut json = vec![0; length as usize];
        bytes.read_exact_at(&mut json, LENGTH_BYTES).map_err(DataError::io("read", &path))?;
        let header = Header::parse(&json, file_bytes, &path)?;
        Ok(Self { path, bytes, header, data_start: LENGTH_BYTES + length, file_bytes })
    }

    /// The file's path, `<memory>` or `<embedded>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and descriptions in the order of the data section.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.header.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The header's `__metadata__` map; empty if there is none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Bytes of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.header.data_bytes
    }

    /// Bytes of the whole file, header included.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

impl TensorSource for TensorFile {
    fn names(&self) -> Vec<&str> {
        self.header.tensors.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.header.index.get(name).map(|&position| &self.header.tensors[position].1)
    }

    fn path_of(&self, _name: &str) -> &Path {
        &self.path
    }

    fn read_at(&self, name: &str, offset: usize, out: &mut [u8]) -> Result<()> {
        let info = self.info(name)?;
        let end = offset.checked_add(out.len()).filter(|&end| end <= info.len);
        if end.is_none() {
            return Err(DataError::OutOfRange {
                path: self.path.clone(),
                tensor: name.into(),
                what: "bytes",
                begin: offset,
                end: offset.saturating_add(out.len()),
                available: info.len,
            });
        }
        // The header check bounds offset + len by the file's size, so the sum cannot overflow.
        let position = self.data_start + info.offset + offset as u64;
        self.bytes.read_exact_at(out, position).map_err(DataError::io("read", &self.path))
    }
}

impl Bytes {
    fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        let bytes: &[u8] = match self {
            Self::Disk(file) => return file.read_exact_at(out, position),
            Self::Shared(bytes) => bytes,
            Self::Static(bytes) => bytes,
        };
        let start = usize::try_from(position).ok();
        let range = start.and_then(|start| bytes.get(start..start.checked_add(out.len())?));
        let range = range.ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(range);
        Ok(())
    }
}

/// Opens a regular file for reading and returns its size; never blocks on a pipe.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(DataError::io("open", path))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a device or pipe" };
        return Err(DataError::NotARegularFile { path: path.into(), found });
    }
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let len = file.metadata().map_err(DataError::io("open", path))?.len();
    Ok((file, len))
}

/// A file that is read and written at given positions through `&self`.
#[derive(Debug)]
pub(crate) struct PositionalFile {
    pub(crate) file: File,
    /// Guards the seek and the transfer where the system has no positional calls.
    #[cfg(not(unix))]
    lock: std::sync::Mutex<()>,
}

impl PositionalFile {
    #[cfg(unix)]
    pub(crate) fn new(file: File) -> Self {
        Self { file }
    }

    #[cfg(unix)]
    pub(crate) fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, position)
    }

    #[cfg(unix)]
    pub(crate) fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, position)
    }

    #[cfg(not(unix))]
    pub(crate) fn new(file: File) -> Self {
        Self { file, lock: std::sync::Mutex::new(()) }
    }

    #[cfg(not(unix))]
    pub(crate) fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        use std::io::{Read, Seek};
        let _guard = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(io::SeekFrom::Start(position))?;
        file.read_exact(out)
    }

    #[cfg(not(unix))]
    pub(crate) fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        use std::io::{Seek, Write};
        let _guard = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(io::SeekFrom::Start(position))?;
        file.write_all(bytes)
    }
}
