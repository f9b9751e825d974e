//! Writing safetensors: one file, or a whole checkpoint directory.
//!
//! Tensors are announced first, so that the header and all offsets are known before any data, and written one by
//! one; memory holds one tensor at a time. Everything goes to temporary names and is renamed at the end, a
//! checkpoint's `config.json` last: a directory without it is not taken for a checkpoint.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::atomic::{PARTIAL_MARK, Partial, write_atomically};
use crate::checkpoint::{CONFIG_FILE, Checkpoint, INDEX_FILE, WEIGHTS_FILE, is_plain_name};
use crate::dtype::from_little_endian;
use crate::header::{Header, MAX_HEADER_BYTES, is_reserved, tensor_bytes};
use crate::source::CHUNK_BYTES;
use crate::{DType, DataError, Element, Result, TensorInfo, TensorSource};

/// A tensor announced to a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape, row-major; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, element type and shape.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }
}

/// Writes one safetensors file. Dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// The data section holds tensors of wide elements first (8 bytes, then 4, 2, 1), otherwise in the order given:
/// that keeps every tensor aligned to its element, which PyTorch's reader needs and the reference writer does.
#[derive(Debug)]
pub struct TensorWriter {
    partial: Partial,
    data_start: u64,
    places: HashMap<String, Place>,
    unwritten: usize,
    file_bytes: u64,
}

#[derive(Debug)]
struct Place {
    info: TensorInfo,
    written: bool,
}

impl TensorWriter {
    /// Opens the file under its temporary name and writes the header.
    ///
    /// `metadata` becomes the `__metadata__` map; the Python libraries want `format = "pt"` there.
    pub fn create(
        path: impl AsRef<Path>,
        tensors: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let mut layout: Vec<&TensorSpec> = tensors.iter().collect();
        layout.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.size()));

        let mut offset = 0_u64;
        let mut placed = Vec::with_capacity(layout.len());
        let mut places = HashMap::with_capacity(layout.len());
        for spec in layout {
            let TensorSpec { name, dtype, shape } = spec.clone();
            let overflow = || DataError::ShapeOverflow {
                path: path.into(),
                tensor: name.clone(),
                shape: shape.iter().map(|&n| n as u64).collect(),
            };
            let len = tensor_bytes(dtype, &shape).ok_or_else(overflow)?;
            let end = offset.checked_add(len as u64).filter(|&end| i64::try_from(end).is_ok());
            let end = end.ok_or_else(overflow)?;
            let info = TensorInfo { dtype, shape: shape.clone(), offset, len };
            let place = Place { info: info.clone(), written: false };
            if is_reserved(&name) || places.insert(name.clone(), place).is_some() {
                return Err(DataError::DuplicateTensor { path: path.into(), tensor: name });
            }
            placed.push((name, info));
            offset = end;
        }
        let header = Header::encode(&placed, metadata);
        let header_limit = MAX_HEADER_BYTES + 8;
        if header.len() as u64 > header_limit {
            return Err(DataError::HeaderLength {
                path: path.into(),
                length: header.len() as u64 - 8,
                limit: MAX_HEADER_BYTES,
            });
        }
        let partial = Partial::create(path)?;
        partial.write_all_at(&header, 0)?;
        let data_start = header.len() as u64;
        Ok(Self { partial, data_start, unwritten: places.len(), places, file_bytes: data_start + offset })
    }

    /// Writes all bytes of an announced tensor (little-endian, row-major), in any order, each tensor once.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let position = self.begin(name, "bytes", bytes.len(), 1)?;
        self.partial.write_all_at(bytes, position)?;
        self.end(name);
        Ok(())
    }

    /// Writes an announced tensor from values of its own element type.
    pub fn write_typed<T: Element>(&mut self, name: &str, values: &[T]) -> Result<()> {
        if let Some(place) = self.places.get(name)
            && place.info.dtype != T::DTYPE
        {
            return Err(DataError::WrongDType {
                path: self.partial.target().into(),
                tensor: name.into(),
                expected: T::DTYPE.name(),
                got: place.info.dtype,
            });
        }
        let position = self.begin(name, "values", values.len(), T::DTYPE.size())?;
        if cfg!(target_endian = "little") {
            self.partial.write_all_at(bytemuck::cast_slice(values), position)?;
        } else {
            let mut bytes = bytemuck::cast_slice::<T, u8>(values).to_vec();
            from_little_endian(&mut bytes, T::DTYPE.size());
            self.partial.write_all_at(&bytes, position)?;
        }
        self.end(name);
        Ok(())
    }

    /// Copies a tensor unchanged from a source, a part at a time; its dtype and shape must be the announced ones.
    pub fn copy(&mut self, source: &(impl TensorSource + ?Sized), name: &str) -> Result<()> {
        let from = source.info(name)?;
        if let Some(place) = self.places.get(name) {
            if place.info.dtype != from.dtype {
                return Err(DataError::WrongDType {
                    path: source.path_of(name).into(),
                    tensor: name.into(),
                    expected: place.info.dtype.name(),
                    got: from.dtype,
                });
            }
            source.expect_shape(name, &place.info.shape)?;
        }
        let position = self.begin(name, "bytes", from.len, 1)?;
        let mut buffer = vec![0; CHUNK_BYTES.min(from.len)];
        let mut done = 0;
        while done < from.len {
            let part = buffer.len().min(from.len - done);
            source.read_at(name, done, &mut buffer[..part])?;
            self.partial.write_all_at(&buffer[..part], position + done as u64)?;
            done += part;
        }
        self.end(name);
        Ok(())
    }

    /// Bytes of the finished file, header included.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Checks that every tensor was written, syncs and renames to the final path. Returns the file's bytes.
    pub fn finish(self) -> Result<u64> {
        self.check_complete()?;
        self.partial.commit()?;
        Ok(self.file_bytes)
    }

    fn check_complete(&self) -> Result<()> {
        if self.unwritten == 0 {
            return Ok(());
        }
        let missing = self.places.iter().filter(|(_, place)| !place.written);
        let first = missing.min_by_key(|(_, place)| place.info.offset).map(|(name, _)| name.clone());
        Err(DataError::Unwritten {
            path: self.partial.target().into(),
            tensor: first.unwrap_or_default(),
            missing: self.unwritten,
        })
    }

    /// Checks one write and returns its position in the file.
    fn begin(&self, name: &str, unit: &'static str, got: usize, unit_bytes: usize) -> Result<u64> {
        let path = || PathBuf::from(self.partial.target());
        let Some(place) = self.places.get(name) else {
            return Err(DataError::Unannounced { path: path(), tensor: name.into() });
        };
        if place.written {
            return Err(DataError::WrittenTwice { path: path(), tensor: name.into() });
        }
        let expected = place.info.len / unit_bytes;
        if got != expected {
            return Err(DataError::BufferLength { path: path(), tensor: name.into(), unit, expected, got });
        }
        Ok(self.data_start + place.info.offset)
    }

    fn end(&mut self, name: &str) {
        if let Some(place) = self.places.get_mut(name) {
            place.written = true;
            self.unwritten -= 1;
        }
    }
}

/// How a checkpoint is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Largest weight file in bytes before the weights are split (default 5 GB, as Hugging Face does). A single
    /// tensor above it gets a file of its own.
    pub shard_bytes: u64,
    /// `__metadata__` of every weight file (default `format = "pt"`, which Transformers requires).
    pub metadata: BTreeMap<String, String>,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self { shard_bytes: 5_000_000_000, metadata: [("format".to_owned(), "pt".to_owned())].into() }
    }
}

/// What a finished checkpoint consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCheckpoint {
    /// Paths of the weight files, in order.
    pub weight_files: Vec<PathBuf>,
    /// Bytes of the weight files together.
    pub file_bytes: u64,
}

/// Writes a checkpoint directory in Hugging Face layout.
///
/// Weights go to `model.safetensors`, or to numbered shards with an index when they exceed
/// [`CheckpointOptions::shard_bytes`]. An older checkpoint in the directory is replaced: its `config.json` goes
/// first and the new one comes last, so a killed run leaves either the old checkpoint or no checkpoint. Temporary
/// files that a killed run left are removed when a later one finishes; do not write to one directory from two runs.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    /// Whether this writer made the directory and takes it away again when it fails.
    created_dir: bool,
    shards: Vec<TensorWriter>,
    shard_of: HashMap<String, usize>,
    total_size: u64,
    files: Vec<(String, Vec<u8>)>,
}

impl CheckpointWriter {
    /// Makes the directory if needed, plans the shards and opens them under temporary names.
    pub fn create(
        dir: impl AsRef<Path>,
        tensors: &[TensorSpec],
        options: &CheckpointOptions,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let created_dir = !dir.exists();
        std::fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        let mut writer = Self {
            dir: dir.into(),
            created_dir,
            shards: Vec::new(),
            shard_of: HashMap::with_capacity(tensors.len()),
            total_size: 0,
            files: Vec::new(),
        };

        // Greedy in the given order: a shard is closed when the next tensor would exceed the limit.
        let mut shards: Vec<&[TensorSpec]> = Vec::new();
        let mut start = 0;
        let mut filled = 0_u64;
        for (position, spec) in tensors.iter().enumerate() {
            // An overflow is reported by the shard's own writer.
            let bytes = tensor_bytes(spec.dtype, &spec.shape).unwrap_or(0) as u64;
            if filled > 0 && filled.saturating_add(bytes) > options.shard_bytes {
                shards.push(&tensors[start..position]);
                start = position;
                filled = 0;
            }
            filled = filled.saturating_add(bytes);
            writer.total_size = writer.total_size.saturating_add(bytes);
        }
        shards.push(&tensors[start..]);

        for (number, shard) in shards.iter().enumerate() {
            let path = dir.join(weight_file_name(number, shards.len()));
            for spec in *shard {
                if writer.shard_of.insert(spec.name.clone(), number).is_some() {
                    return Err(DataError::DuplicateTensor { path, tensor: spec.name.clone() });
                }
            }
            writer.shards.push(TensorWriter::create(path, shard, &options.metadata)?);
        }
        Ok(writer)
    }

    /// Writes all bytes of an announced tensor; see [`TensorWriter::write`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.shard(name)?.write(name, bytes)
    }

    /// Writes an announced tensor from values of its own element type.
    pub fn write_typed<T: Element>(&mut self, name: &str, values: &[T]) -> Result<()> {
        self.shard(name)?.write_typed(name, values)
    }

    /// Copies a tensor unchanged from a source; see [`TensorWriter::copy`].
    pub fn copy(&mut self, source: &(impl TensorSource + ?Sized), name: &str) -> Result<()> {
        self.shard(name)?.copy(source, name)
    }

    /// Adds a file beside the weights, `tokenizer.json` for example; a later one of the same name wins.
    pub fn add_file(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let reserved = [CONFIG_FILE, INDEX_FILE].contains(&name) || name.ends_with(".safetensors");
        if !is_plain_name(name) || reserved {
            return Err(DataError::UnsafePath { place: self.dir.clone(), name: name.into() });
        }
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.into(), bytes.into()));
        Ok(())
    }

    /// Adds all side files of another checkpoint: tokenizer, generation settings, licence, templates.
    pub fn add_files_of(&mut self, source: &Checkpoint) -> Result<()> {
        for name in source.side_files() {
            self.add_file(name, source.read_file(name)?)?;
        }
        Ok(())
    }

    /// Bytes of the finished weight files together.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(TensorWriter::file_bytes).sum()
    }

    /// Checks that every tensor was written, then puts all files in place, `config.json` (pretty, keys in the order
    /// given) last.
    pub fn finish(mut self, config: &serde_json::Map<String, Value>) -> Result<WrittenCheckpoint> {
        for shard in &self.shards {
            shard.check_complete()?;
            shard.partial.sync()?;
        }
        let file_bytes = self.file_bytes();
        let shards = std::mem::take(&mut self.shards);
        let weight_files: Vec<PathBuf> = shards.iter().map(|shard| shard.partial.target().into()).collect();
        let sharded = weight_files.len() > 1;

        remove_if_there(&self.dir.join(CONFIG_FILE))?;
        self.created_dir = false; // from here on, what is in the directory stays
        for shard in shards {
            shard.finish()?;
        }
        self.remove_stale_weights(&weight_files)?;
        if sharded {
            write_atomically(self.dir.join(INDEX_FILE), self.index_json(&weight_files).as_bytes())?;
        }
        for (name, bytes) in &self.files {
            write_atomically(self.dir.join(name), bytes)?;
        }
        write_atomically(self.dir.join(CONFIG_FILE), pretty(&json!(config)).as_bytes())?;
        Ok(WrittenCheckpoint { weight_files, file_bytes })
    }

    fn shard(&mut self, name: &str) -> Result<&mut TensorWriter> {
        match self.shard_of.get(name) {
            Some(&number) => Ok(&mut self.shards[number]),
            None => Err(DataError::Unannounced { path: self.dir.clone(), tensor: name.into() }),
        }
    }

    fn index_json(&self, weight_files: &[PathBuf]) -> String {
        let map: BTreeMap<&str, String> = self
            .shard_of
            .iter()
            .map(|(name, &number)| (name.as_str(), weight_file_name(number, weight_files.len())))
            .collect();
        pretty(&json!({ "metadata": { "total_size": self.total_size }, "weight_map": map }))
    }

    /// Removes weight files of an older checkpoint that Transformers would load instead of or beside the new ones,
    /// and the temporaries of stopped runs.
    fn remove_stale_weights(&self, keep: &[PathBuf]) -> Result<()> {
        let keep: HashSet<&Path> = keep.iter().map(PathBuf::as_path).collect();
        for entry in std::fs::read_dir(&self.dir).map_err(DataError::io("list", &self.dir))? {
            let path = entry.map_err(DataError::io("list", &self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.split_once(PARTIAL_MARK).map_or(name, |(target, _)| target);
            let is_weight = name == WEIGHTS_FILE || name == INDEX_FILE || is_shard_name(name);
            if is_weight && !keep.contains(path.as_path()) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if self.created_dir {
            self.shards.clear(); // removes the temporaries
            let _ = std::fs::remove_dir(&self.dir); // fails, as it should, if anything else is in there
        }
    }
}

fn weight_file_name(number: usize, count: usize) -> String {
    if count == 1 {
        WEIGHTS_FILE.into()
    } else {
        format!("model-{:05}-of-{count:05}.safetensors", number + 1)
    }
}

/// Whether a name is `model-NNNNN-of-NNNNN.safetensors`.
pub(crate) fn is_shard_name(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(number, count)| digits(number) && digits(count))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DataError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// JSON as Python's `json.dump(..., indent=2)` lays it out, with a final newline.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
