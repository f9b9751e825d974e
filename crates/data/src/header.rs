//! The header of a safetensors file: parsing, checking, writing.
//!
//! Layout of the file: 8 bytes little-endian header length, the header (JSON, padded with spaces), then the
//! data section. The checks are those of the reference implementation (contiguous, complete, no overlap, header
//! at most 100 MB), with the place of the fault in each error. An own parser, because the reference crate's errors
//! name neither tensor nor offsets, and because it lets a duplicate name pass.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::{DType, DataError, Result};

/// The longest header that the format allows, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length field before the header.
pub(crate) const LENGTH_BYTES: u64 = 8;

const METADATA_KEY: &str = "__metadata__";

/// What a file says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Shape, row-major; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file's data section.
    pub offset: u64,
    /// Length in bytes.
    pub len: usize,
}

impl TensorInfo {
    /// Number of elements: the product of the shape.
    pub fn elements(&self) -> usize {
        self.len / self.dtype.size()
    }
}

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    /// Names and places in the order of the data section.
    pub(crate) tensors: Vec<(String, TensorInfo)>,
    /// Position in `tensors` by name.
    pub(crate) index: HashMap<String, usize>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Bytes of the data section.
    pub(crate) data_bytes: u64,
}

impl Header {
    /// Parses and checks the header bytes; `file_bytes` is the size of the whole file.
    pub(crate) fn parse(json: &[u8], file_bytes: u64, path: &Path) -> Result<Self> {
        let text = std::str::from_utf8(json).map_err(|error| DataError::HeaderNotUtf8 {
            path: path.into(),
            offset: LENGTH_BYTES + error.valid_up_to() as u64,
        })?;
        let bad_json = |reason: String| DataError::HeaderJson { path: path.into(), reason };
        if !text.starts_with('{') {
            return Err(bad_json("it does not begin with {".into()));
        }
        let entries: Entries = serde_json::from_str(text).map_err(|error| bad_json(error.to_string()))?;

        let mut metadata = None;
        let mut tensors = Vec::with_capacity(entries.0.len());
        for (name, entry) in entries.0 {
            match entry {
                Entry::Metadata(map) => {
                    if metadata.replace(map).is_some() {
                        return Err(DataError::DuplicateTensor { path: path.into(), tensor: name });
                    }
                }
                Entry::Tensor(raw) => {
                    let info = raw.check(&name, path)?;
                    tensors.push((name, info));
                }
            }
        }
        let metadata = metadata.unwrap_or_default();
        // Empty tensors come before the tensor that begins at the same byte.
        tensors.sort_by_key(|(_, info)| (info.offset, info.len));

        let mut index = HashMap::with_capacity(tensors.len());
        for (position, (name, _)) in tensors.iter().enumerate() {
            if index.insert(name.clone(), position).is_some() {
                return Err(DataError::DuplicateTensor { path: path.into(), tensor: name.clone() });
            }
        }
        let data_bytes = check_cover(&tensors, path)?;
        let expected = (LENGTH_BYTES + json.len() as u64)
            .checked_add(data_bytes)
            .ok_or_else(|| bad_json("offsets are beyond the largest file".into()))?;
        if file_bytes < expected {
            return Err(DataError::Truncated { path: path.into(), expected, got: file_bytes });
        }
        if file_bytes > expected {
            return Err(DataError::TrailingData { path: path.into(), expected, got: file_bytes });
        }
        Ok(Self { tensors, index, metadata, data_bytes })
    }

    /// Writes a header: length field, JSON in the order of `tensors`, spaces up to a multiple of 8.
    pub(crate) fn encode(tensors: &[(String, TensorInfo)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let mut map = serde_json::Map::new();
        if !metadata.is_empty() {
            map.insert(METADATA_KEY.into(), serde_json::json!(metadata));
        }
        for (name, info) in tensors {
            let end = info.offset + info.len as u64;
            let entry = serde_json::json!({
                "dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [info.offset, end],
            });
            map.insert(name.clone(), entry);
        }
        let mut json = serde_json::Value::Object(map).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        bytes
    }
}

/// Whether a name may stand for a tensor (`__metadata__` is the format's own).
pub(crate) fn is_reserved(name: &str) -> bool {
    name == METADATA_KEY
}

/// Bytes of a tensor, or `None` if they (or any partial product of the shape) do not fit `usize`.
pub(crate) fn tensor_bytes(dtype: DType, shape: &[usize]) -> Option<usize> {
    let nonzero = shape.iter().try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n.max(1)))?;
    // Slices are limited to isize::MAX bytes, so nothing larger could ever be read.
    isize::try_from(nonzero).ok()?;
    Some(if shape.contains(&0) { 0 } else { nonzero })
}

/// Checks that sorted tensors fill the data section from its start without hole or overlap; returns its length.
fn check_cover(tensors: &[(String, TensorInfo)], path: &Path) -> Result<u64> {
    let mut covered = 0;
    let mut before = "";
    for (name, info) in tensors {
        if info.offset > covered {
            return Err(DataError::Hole { path: path.into(), from: covered, to: info.offset });
        }
        if info.offset < covered {
            return Err(DataError::Overlap {
                path: path.into(),
                first: before.into(),
                second: name.clone(),
                at: info.offset,
            });
        }
        covered = info.offset + info.len as u64; // checked against the written end in `RawInfo::check`
        before = name;
    }
    Ok(covered)
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawInfo {
    fn check(self, name: &str, path: &Path) -> Result<TensorInfo> {
        let Some(dtype) = DType::from_name(&self.dtype) else {
            return Err(DataError::UnknownDType {
                path: path.into(),
                tensor: name.into(),
                dtype: self.dtype,
            });
        };
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        let sized = shape.and_then(|shape| tensor_bytes(dtype, &shape).map(|len| (shape, len)));
        let Some((shape, len)) = sized else {
            return Err(DataError::ShapeOverflow {
                path: path.into(),
                tensor: name.into(),
                shape: self.shape,
            });
        };
        let (begin, end) = self.data_offsets;
        if end.checked_sub(begin) != Some(len as u64) {
            return Err(DataError::SizeMismatch {
                path: path.into(),
                tensor: name.into(),
                dtype,
                shape: self.shape,
                expected: len as u64,
                begin,
                end,
            });
        }
        Ok(TensorInfo { dtype, shape, offset: begin, len })
    }
}

enum Entry {
    Metadata(BTreeMap<String, String>),
    Tensor(RawInfo),
}

/// The header's entries as they stand, duplicates included.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        pairs(deserializer, |key| EntrySeed { metadata: key == METADATA_KEY }).map(Self)
    }
}

struct EntrySeed {
    metadata: bool,
}

impl<'de> DeserializeSeed<'de> for EntrySeed {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        if self.metadata {
            BTreeMap::deserialize(deserializer).map(Entry::Metadata)
        } else {
            RawInfo::deserialize(deserializer).map(Entry::Tensor)
        }
    }
}

/// Reads a JSON object as pairs, keeping order and duplicates; the seed for each value is made from its key.
pub(crate) fn pairs<'de, D, S, F>(deserializer: D, seed: F) -> Result<Vec<(String, S::Value)>, D::Error>
where
    D: Deserializer<'de>,
    S: DeserializeSeed<'de>,
    F: Fn(&str) -> S,
{
    struct PairsVisitor<F>(F);
    impl<'de, S: DeserializeSeed<'de>, F: Fn(&str) -> S> Visitor<'de> for PairsVisitor<F> {
        type Value = Vec<(String, S::Value)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(key) = map.next_key::<String>()? {
                let value = map
                    .next_value_seed((self.0)(&key))
                    .map_err(|error| A::Error::custom(format_args!("{:?}: {error}", shorten(&key))))?;
                found.push((key, value));
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(PairsVisitor(seed))
}

fn shorten(key: &str) -> &str {
    key.char_indices().nth(120).map_or(key, |(cut, _)| &key[..cut])
}
