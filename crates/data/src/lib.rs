//! File formats in and out: safetensors checkpoints in Hugging Face layout, texts, tables.
//!
//! - [`TensorFile`]: one safetensors file, checked when opened and read by position.
//! - [`Checkpoint`]: a model directory (`config.json`, one weight file or shards, tokenizer and other side files).
//! - [`TensorSource`]: how both are read.
//! - [`TensorWriter`], [`CheckpointWriter`]: writing either, streamed, whole or not at all.
//! - [`read_documents`]: texts from `.txt` and `.jsonl`, also `.gz` and `.zst`.
//! - [`tables`]: tables of numbers from CSV, NumPy, LIBSVM, Matrix Market and Parquet.
//! - [`resolve_model`]: a directory or a name such as `Qwen/Qwen3-0.6B` to a directory on this machine.
//!
//! The feature `hub` (off by default) adds `download_model`, `parquet` (off by default) tables in that format.
//!
//! Nothing here prints, reads environment variables or starts threads.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod atomic;
mod checkpoint;
pub mod compressed_tensors;
#[cfg(feature = "hub")]
mod download;
mod dtype;
mod error;
mod header;
mod hub;
mod safetensors;
mod source;
pub mod tables;
mod text;
mod writer;

pub use atomic::write_atomically;
pub use checkpoint::{Checkpoint, is_checkpoint};
#[cfg(feature = "hub")]
pub use download::{DownloadProgress, download_model};
pub use dtype::{DType, Element};
pub use error::{DataError, Result};
pub use header::{MAX_HEADER_BYTES, TensorInfo};
pub use hub::resolve_model;
pub use safetensors::TensorFile;
pub use source::{TensorSource, read_typed};
pub use text::{Documents, read_documents};
pub use writer::{CheckpointOptions, CheckpointWriter, TensorSpec, TensorWriter, WrittenCheckpoint};
