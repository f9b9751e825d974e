//! Tests of the file formats through the public interface.

mod checkpoints;
mod compressed_tensors;
mod hostile;
mod models;
#[cfg(feature = "parquet")]
mod parquet;
mod real_data;
mod roundtrip;
mod tables;
mod texts;

use std::path::Path;

use sparseland_data::{DType, TensorSpec, TensorWriter};

/// Builds the bytes of a safetensors file from a header text and a number of zero data bytes.
fn file_bytes(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

/// Writes a file of f32 tensors that count up.
fn write_counting(path: &Path, tensors: &[(&str, &[usize])]) {
    let specs: Vec<TensorSpec> =
        tensors.iter().map(|&(name, shape)| TensorSpec::new(name, DType::F32, shape)).collect();
    let mut writer = TensorWriter::create(path, &specs, &Default::default()).unwrap();
    for (name, shape) in tensors {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
        writer.write_typed(name, &values).unwrap();
    }
    writer.finish().unwrap();
}

/// Names in a directory, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
