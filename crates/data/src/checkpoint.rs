//! A checkpoint directory in Hugging Face layout: `config.json`, weights in one file or in shards, side files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::{Map, Value};

use crate::atomic::PARTIAL_MARK;
use crate::header::pairs;
use crate::safetensors::open_regular;
use crate::{DataError, Result, TensorFile, TensorInfo, TensorSource};

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The longest JSON file beside the weights that is read, in bytes; the largest real ones have a few MB.
const MAX_JSON_BYTES: u64 = 100_000_000;

/// Side files that belong to a model whatever its weights are: these are copied along.
const SIDE_EXTENSIONS: [&str; 6] = ["json", "txt", "model", "jinja", "tiktoken", "py"];
const SIDE_PREFIXES: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// An opened checkpoint. Tensors are read through [`TensorSource`], whichever shard holds them.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Map<String, Value>,
    shards: Vec<TensorFile>,
    shard_of: HashMap<String, usize>,
    side_files: BTreeMap<String, SideFile>,
}

#[derive(Debug)]
enum SideFile {
    Disk(PathBuf),
    Embedded(&'static [u8]),
}

impl Checkpoint {
    /// Opens a directory: reads `config.json`, the index if there is one, and every shard's header.
    ///
    /// `model.safetensors` is taken if it is there, else `model.safetensors.index.json`, as Transformers does.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let metadata = std::fs::metadata(dir).map_err(DataError::io("open", dir))?;
        if !metadata.is_dir() {
            return Err(DataError::MissingFile {
                dir: dir.into(),
                file: "directory of this name (it is a file)".into(),
                help: "give the directory that holds config.json and the weights".into(),
            });
        }
        let listing = list(dir)?;
        if !listing.contains_key(CONFIG_FILE) {
            return Err(missing_config(dir, &listing));
        }
        let config_path = dir.join(CONFIG_FILE);
        let config: Map<String, Value> = read_json(&config_path)?;

        let mut checkpoint = Self {
            dir: dir.into(),
            config,
            shards: Vec::new(),
            shard_of: HashMap::new(),
            side_files: BTreeMap::new(),
        };
        if listing.contains_key(WEIGHTS_FILE) {
            checkpoint.add_shard(TensorFile::open(dir.join(WEIGHTS_FILE))?)?;
        } else if listing.contains_key(INDEX_FILE) {
            checkpoint.open_shards()?;
        } else {
            return Err(missing_weights(dir, &listing));
        }
        checkpoint.side_files = listing
            .into_iter()
            .filter(|(name, _)| is_side_file(name))
            .map(|(name, path)| (name, SideFile::Disk(path)))
            .collect();
        Ok(checkpoint)
    }

    /// A checkpoint compiled into the program: the content of `config.json`, of `model.safetensors`, and named side
    /// files. Nothing is copied.
    pub fn embedded(
        config: &'static [u8],
        weights: &'static [u8],
        side_files: &[(&str, &'static [u8])],
    ) -> Result<Self> {
        let dir = PathBuf::from("<embedded>");
        let config = parse_json(config, &dir.join(CONFIG_FILE))?;
        let side_files =
            side_files.iter().map(|&(name, bytes)| (name.into(), SideFile::Embedded(bytes))).collect();
        let mut checkpoint = Self { dir, config, shards: Vec::new(), shard_of: HashMap::new(), side_files };
        checkpoint.add_shard(TensorFile::from_static(weights)?)?;
        Ok(checkpoint)
    }

    /// The directory (`<embedded>` if there is none).
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The content of `config.json`, keys in the file's order.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The weight files, in the order of their first mention.
    pub fn shards(&self) -> &[TensorFile] {
        &self.shards
    }

    /// Bytes of all weight files, headers included.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(TensorFile::file_bytes).sum()
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.shards.iter().map(TensorFile::data_bytes).sum()
    }

    /// Names of the files beside config and weights that belong to the model: tokenizer, generation settings,
    /// templates, licence. Sorted.
    pub fn side_files(&self) -> impl Iterator<Item = &str> {
        self.side_files.keys().map(String::as_str)
    }

    /// Whether there is a side file of this name.
    pub fn has_file(&self, name: &str) -> bool {
        self.side_files.contains_key(name)
    }

    /// The content of a side file.
    pub fn read_file(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        match self.side_files.get(name) {
            Some(SideFile::Embedded(bytes)) => Ok(Cow::Borrowed(bytes)),
            Some(SideFile::Disk(path)) => Ok(Cow::Owned(read_limited(path)?)),
            None => Err(DataError::MissingFile {
                dir: self.dir.clone(),
                file: name.into(),
                help: "copy it from the model's repository into this directory".into(),
            }),
        }
    }

    fn open_shards(&mut self) -> Result<()> {
        let index_path = self.dir.join(INDEX_FILE);
        let index: Index = read_json(&index_path)?;
        // Shards in the order of first mention, each with the tensors placed there.
        let mut shards: Vec<(String, Vec<String>)> = Vec::new();
        let mut position: HashMap<String, usize> = HashMap::new();
        for (tensor, shard) in index.weight_map.0 {
            let at = *position.entry(shard.clone()).or_insert_with(|| {
                shards.push((shard, Vec::new()));
                shards.len() - 1
            });
            shards[at].1.push(tensor);
        }
        for (shard, tensors) in shards {
            if !is_plain_name(&shard) {
                return Err(DataError::UnsafePath { place: index_path, name: shard });
            }
            let path = self.dir.join(&shard);
            if !path.exists() {
                return Err(DataError::MissingShard { dir: self.dir.clone(), shard, tensors: tensors.len() });
            }
            let file = TensorFile::open(&path)?;
            if let Some(tensor) = tensors.into_iter().find(|tensor| !file.contains(tensor)) {
                return Err(DataError::ShardLacksTensor { shard: path, tensor });
            }
            self.add_shard(file)?;
        }
        Ok(())
    }

    fn add_shard(&mut self, file: TensorFile) -> Result<()> {
        for (tensor, _) in file.tensors() {
            if let Some(other) = self.shard_of.insert(tensor.to_owned(), self.shards.len()) {
                return Err(DataError::TensorInTwoShards {
                    tensor: tensor.to_owned(),
                    first: self.shards[other].path().into(),
                    second: file.path().into(),
                });
            }
        }
        self.shards.push(file);
        Ok(())
    }

    fn shard(&self, name: &str) -> Option<&TensorFile> {
        self.shard_of.get(name).map(|&shard| &self.shards[shard])
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Vec<&str> {
        self.shards.iter().flat_map(TensorFile::tensors).map(|(name, _)| name).collect()
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.shard(name)?.find(name)
    }

    fn path_of(&self, name: &str) -> &Path {
        self.shard(name).map_or(&self.dir, TensorFile::path)
    }

    fn read_at(&self, name: &str, offset: usize, out: &mut [u8]) -> Result<()> {
        match self.shard(name) {
            Some(file) => file.read_at(name, offset, out),
            None => self.info(name).map(|_| ()), // the error with the suggestion
        }
    }
}

/// Whether a directory holds a `config.json` beside safetensors weights or their index; reads nothing.
pub fn is_checkpoint(dir: impl AsRef<Path>) -> bool {
    let dir = dir.as_ref();
    dir.join(CONFIG_FILE).is_file() && (dir.join(WEIGHTS_FILE).is_file() || dir.join(INDEX_FILE).is_file())
}

/// A name without any directory part, safe to join to a directory.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let no_separator = !name.contains(['/', '\\', ':', '\0']);
    no_separator && !matches!(name, "" | "." | "..")
}

pub(crate) fn is_side_file(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let hidden = name.starts_with('.');
    let belongs = SIDE_EXTENSIONS.contains(&extension) || SIDE_PREFIXES.iter().any(|p| name.starts_with(p));
    // Indices of weight files in any format end in .index.json.
    belongs && !hidden && name != CONFIG_FILE && !name.ends_with(".index.json")
}

/// Regular files (or links to them, or dangling links) of a directory, by name; names that are not UTF-8 are left out.
fn list(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(DataError::io("list", dir))? {
        let path = entry.map_err(DataError::io("list", dir))?.path();
        if path.is_dir() {
            continue;
        }
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            files.insert(name.to_owned(), path);
        }
    }
    Ok(files)
}

fn missing_config(dir: &Path, listing: &BTreeMap<String, PathBuf>) -> DataError {
    if let Some(error) = foreign_weights(dir, listing) {
        return error;
    }
    let help = if listing.keys().any(|name| name.ends_with(".safetensors")) {
        "weights are here, so the download or the run that wrote them was not complete: get config.json from the \
         model's repository, or run again"
    } else if listing.keys().any(|name| name.contains(PARTIAL_MARK)) {
        "a run that wrote this directory was stopped before its end: run it again, or delete the directory"
    } else if listing.is_empty() {
        "the directory is empty: give a directory with config.json and model.safetensors"
    } else {
        "this is not a model directory in Hugging Face layout: give one with config.json and model.safetensors"
    };
    DataError::MissingFile { dir: dir.into(), file: CONFIG_FILE.into(), help: help.into() }
}

fn missing_weights(dir: &Path, listing: &BTreeMap<String, PathBuf>) -> DataError {
    if let Some(error) = foreign_weights(dir, listing) {
        return error;
    }
    let other = listing.keys().find(|name| name.ends_with(".safetensors"));
    let help = match other {
        Some(name) => {
            format!("{name} is here: rename it to {WEIGHTS_FILE}, or add the index if it is a shard")
        }
        None => "download the weights into this directory".into(),
    };
    DataError::MissingFile { dir: dir.into(), file: format!("{WEIGHTS_FILE} or {INDEX_FILE}"), help }
}

/// The error for a directory whose only weights are of another format.
fn foreign_weights(dir: &Path, listing: &BTreeMap<String, PathBuf>) -> Option<DataError> {
    const TO_SAFETENSORS: &str = "convert them with Transformers: \
        AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT), or take the repository's safetensors revision";
    const FROM_GGUF: &str =
        "take the original model's repository, GGUF files are derived from it and quantised";
    if listing.keys().any(|name| name.ends_with(".safetensors") || name == INDEX_FILE) {
        return None;
    }
    listing.keys().find_map(|name| {
        let extension = Path::new(name).extension()?.to_str()?;
        let help = match extension {
            "gguf" | "ggml" => FROM_GGUF,
            "bin" | "pt" | "pth" | "ckpt" | "h5" | "msgpack" | "onnx" | "npz" => TO_SAFETENSORS,
            _ => return None,
        };
        Some(DataError::ForeignWeights { dir: dir.into(), found: name.clone(), help })
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor and shard, in the file's order.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        pairs(deserializer, |_| PhantomData::<String>).map(Self)
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let (_, len) = open_regular(path)?;
    if len > MAX_JSON_BYTES {
        return Err(DataError::TextTooLarge { path: path.into(), limit: MAX_JSON_BYTES });
    }
    std::fs::read(path).map_err(DataError::io("read", path))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    parse_json(&read_limited(path)?, path)
}

fn parse_json<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| DataError::JsonFile {
        path: path.into(),
        line: error.line(),
        column: error.column(),
        reason: error.to_string(),
    })
}
