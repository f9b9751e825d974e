//! The one error type of this crate: every message says what was wrong, where, and what to try.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::DType;

/// The result of every fallible call of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// What can go wrong when a file is read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to open, read, write or rename.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The verb: `open`, `read`, `write`, `rename`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The path is a directory, a device or a pipe where a regular file is needed.
    #[error("{} is not a regular file ({found}); give the path of a file", path.display())]
    NotARegularFile {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },

    // Safetensors headers.
    /// The file is too short to hold even the header length.
    #[error("{}: {got} bytes are too few for a safetensors file (8 + header); download or write it again", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        got: u64,
    },
    /// The header length is over the format's limit or over the file's end.
    #[error(
        "{}: the header claims {length} bytes, at most {limit} are possible here; not a safetensors file, or damaged",
        path.display()
    )]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The claimed length.
        length: u64,
        /// The largest length that this file could have.
        limit: u64,
    },
    /// The header is not UTF-8.
    #[error("{}: the header is not UTF-8 at byte {offset} of the file; not a safetensors file, or damaged", path.display())]
    HeaderNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte, counted from the start of the file.
        offset: u64,
    },
    /// The header is not the JSON that the format asks for.
    #[error("{}: bad safetensors header: {reason}; the file is damaged or was written by a broken tool", path.display())]
    HeaderJson {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the position.
        reason: String,
    },
    /// An element type that this crate does not know.
    #[error(
        "{}: tensor {} has the unknown dtype {}; known are {}",
        path.display(), Shown(tensor), Shown(dtype), DType::names_list()
    )]
    UnknownDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The dtype as written.
        dtype: String,
    },
    /// A name stands twice in one header.
    #[error("{}: {} stands twice in the header; write the file again with unique names", path.display(), Shown(tensor))]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// The number of bytes of a shape does not fit the address space.
    #[error("{}: tensor {} of shape {} is too large to address", path.display(), Shown(tensor), ShownShape(shape))]
    ShapeOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape.
        shape: Vec<u64>,
    },
    /// Offsets and shape disagree.
    #[error(
        "{}: tensor {} ({dtype} {}) needs {expected} bytes, its offsets {begin}..{end} do not give them",
        path.display(), Shown(tensor), ShownShape(shape)
    )]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes that dtype and shape ask for.
        expected: u64,
        /// First byte, counted from the start of the data section.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("{}: tensors {} and {} overlap at data byte {at}; the file is damaged", path.display(), Shown(first), Shown(second))]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
        /// Where the second begins.
        at: u64,
    },
    /// Bytes of the data section belong to no tensor.
    #[error("{}: data bytes {from}..{to} belong to no tensor; the file is damaged", path.display())]
    Hole {
        /// The file.
        path: PathBuf,
        /// First byte of the hole.
        from: u64,
        /// One past its last byte.
        to: u64,
    },
    /// The file ends before its tensors do.
    #[error("{}: the file has {got} bytes, its header asks for {expected}; it is cut off: download or copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// The file goes on after its last tensor.
    #[error("{}: the file has {got} bytes, its header accounts for {expected}; the rest belongs to no tensor", path.display())]
    TrailingData {
        /// The file.
        path: PathBuf,
        /// Bytes that the header accounts for.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },

    // Reading tensors.
    /// No tensor of this name.
    #[error("{}: no tensor named {}{}", path.display(), Shown(tensor), suggestion(similar))]
    MissingTensor {
        /// The file or checkpoint directory.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// The closest name that exists, if one is close.
        similar: Option<String>,
    },
    /// The tensor has another element type than the call can give.
    #[error("{}: tensor {} is {got}, expected {expected}", path.display(), Shown(tensor))]
    WrongDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the call can give.
        expected: &'static str,
        /// What the file holds.
        got: DType,
    },
    /// The tensor has another shape than the model asks for.
    #[error("{}: tensor {} has shape {got:?}, expected {expected:?}; do config.json and weights belong together?", path.display(), Shown(tensor))]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// A value that is not a finite number.
    #[error("{}: tensor {} holds {value} at index {index}; the weights are damaged or training diverged", path.display(), Shown(tensor))]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Flat row-major index of the first bad value.
        index: usize,
        /// The value: NaN or an infinity.
        value: f32,
    },
    /// Rows or bytes outside the tensor.
    #[error("{}: {what} {begin}..{end} of tensor {} asked for, it has {available}", path.display(), Shown(tensor))]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// `rows` or `bytes`.
        what: &'static str,
        /// Begin of the range.
        begin: usize,
        /// End of the range.
        end: usize,
        /// How many there are.
        available: usize,
    },
    /// A buffer of the wrong length.
    #[error("{}: tensor {} takes {expected} {unit}, the buffer has {got}", path.display(), Shown(tensor))]
    BufferLength {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// `bytes` or `values`.
        unit: &'static str,
        /// Length needed.
        expected: usize,
        /// Length given.
        got: usize,
    },

    // Checkpoint directories.
    /// A JSON file beside the weights does not parse.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    JsonFile {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser or the format missed.
        reason: String,
    },
    /// A file that every checkpoint has is not there.
    #[error("{}: no {file}; {help}", dir.display())]
    MissingFile {
        /// The directory.
        dir: PathBuf,
        /// The file's name.
        file: String,
        /// What to do.
        help: String,
    },
    /// The directory holds weights in a format that this crate does not read.
    #[error("{}: only {found} here, and only safetensors are read; {help}", dir.display())]
    ForeignWeights {
        /// The directory.
        dir: PathBuf,
        /// The file found.
        found: String,
        /// How to convert.
        help: &'static str,
    },
    /// The index names a shard that is not there.
    #[error("{}: shard {} is missing ({tensors} tensors of the index live there); download it into the same directory", dir.display(), Shown(shard))]
    MissingShard {
        /// The directory.
        dir: PathBuf,
        /// The shard's file name.
        shard: String,
        /// Tensors that the index places there.
        tensors: usize,
    },
    /// The index places a tensor in a shard that does not hold it.
    #[error("{}: the index places tensor {} here, but the shard lacks it; index and shards are of different versions: download both again", shard.display(), Shown(tensor))]
    ShardLacksTensor {
        /// The shard.
        shard: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two shards hold the same tensor.
    #[error("tensor {} is in two shards, {} and {}; remove the stale one", Shown(tensor), first.display(), second.display())]
    TensorInTwoShards {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A name that would leave the checkpoint's directory.
    #[error("{}: {} is not a plain file name; shards and side files must lie in the directory itself", place.display(), Shown(name))]
    UnsafePath {
        /// The file that holds the name, or the directory.
        place: PathBuf,
        /// The name.
        name: String,
    },

    // Writing.
    /// A tensor that was not announced when the writer was created.
    #[error("{}: tensor {} was not announced to the writer", path.display(), Shown(tensor))]
    Unannounced {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor written twice.
    #[error("{}: tensor {} was written already", path.display(), Shown(tensor))]
    WrittenTwice {
        /// The file being written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// `finish` came before all tensors.
    #[error("{}: {missing} announced tensors were never written, the first is {}", path.display(), Shown(tensor))]
    Unwritten {
        /// The file being written.
        path: PathBuf,
        /// The first missing tensor.
        tensor: String,
        /// How many are missing.
        missing: usize,
    },

    // Texts.
    /// Nothing to read.
    #[error("{}: the file holds no text", path.display())]
    EmptyText {
        /// The file.
        path: PathBuf,
    },
    /// The text is not UTF-8.
    #[error("{}: not UTF-8 at byte {offset}{}; give UTF-8 text (.txt) or JSON lines (.jsonl), also as .gz or .zst", path.display(), if *compressed { " of the decompressed text" } else { "" })]
    TextNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte.
        offset: u64,
        /// Whether the offset counts decompressed bytes.
        compressed: bool,
    },
    /// A line of a JSON-lines file is not usable.
    #[error("{}:{line}: {reason}", path.display())]
    TextLine {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The compressed stream is damaged.
    #[error("{}: {format} stream is damaged: {reason}; download or compress it again", path.display())]
    Decompress {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// More text than this reader takes into memory.
    #[error("{}: more than {limit} bytes of text; split the file", path.display())]
    TextTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },

    // Tables.
    /// A table of numbers that cannot be read.
    #[error("{}{}{place}: {problem}", path.display(), if place.is_empty() { "" } else { ", " })]
    Table {
        /// The file.
        path: PathBuf,
        /// Line and column, or array and index; empty for the whole file.
        place: String,
        /// What is wrong.
        problem: String,
    },

    // Names of models.
    /// The argument is neither a directory nor a model name.
    #[error("{}: {reason}", Shown(name))]
    ModelName {
        /// The argument.
        name: String,
        /// Why it is refused and what to give.
        reason: String,
    },
    /// Tensors of a sparse layer that contradict each other.
    #[error("{}: tensor {} {what}; the file is damaged, write it again", path.display(), Shown(tensor))]
    SparseLayer {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// A model that is not on this machine.
    #[error("model {} is not on this machine (looked {looked}); {help}", Shown(name))]
    ModelNotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        looked: String,
        /// How to get it.
        help: String,
    },
    /// The download from the hub failed.
    #[error(
        "cannot download {file} of {}: {reason}; check the network and the name, or download elsewhere with `hf download {name}` and copy the directory here",
        Shown(name)
    )]
    Download {
        /// The model.
        name: String,
        /// The file, or `the file list`.
        file: String,
        /// The client's words.
        reason: String,
    },
}

impl DataError {
    /// Shorthand for `map_err` on I/O calls.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// What to try after an error of the operating system.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space there or write elsewhere",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory on a writable file system",
        io::ErrorKind::PermissionDenied => "; check the owner and mode of the path",
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::NotADirectory => "; a part of the path is a file",
        io::ErrorKind::UnexpectedEof => "; the file changed or was cut off while it was read",
        _ => "",
    }
}

fn suggestion(similar: &Option<String>) -> String {
    similar.as_ref().map(|name| format!("; did you mean {}?", Shown(name))).unwrap_or_default()
}

/// A name out of a file, safe to print: quoted, control characters escaped, long ones cut.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}...", &self.0[..cut]),
        }
    }
}

/// A shape out of a file: long ones cut.
struct ShownShape<'a>(&'a [u64]);

impl fmt::Display for ShownShape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 12;
        if self.0.len() <= LONGEST {
            write!(f, "{:?}", self.0)
        } else {
            write!(f, "{:?} and {} more", &self.0[..LONGEST], self.0.len() - LONGEST)
        }
    }
}
