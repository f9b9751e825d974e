//! `compressed-tensors` checkpoints in and out.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use sparseland_core::{Context, Event};
use sparseland_data::compressed_tensors::{SparseFormat, SparseTensor, layer_of, sparse_layers};
use sparseland_data::{Checkpoint, CheckpointOptions, CheckpointWriter, DType, TensorSource, TensorSpec};
use sparseland_matrix::{Bitmask, Dense, Layout, LinearMap, Matrix, NofM, ValueType};
use sparseland_nn::LinearSite;
use sparseland_nn::structure::{Structure, StructuredLayer, part_spec, read_matrix};

/// The method that an imported layer names in `config.json`.
const IMPORTED: &str = "compressed-tensors";

/// Writes a checkpoint of mask methods as a `compressed-tensors` checkpoint: `sparse-24-bitmask` where every
/// structured layer is 2:4, `sparse-bitmask` otherwise. Returns the bytes of its weight files.
pub fn export(from: &Path, to: &Path, context: &Context) -> Result<u64> {
    let checkpoint = Checkpoint::open(from)?;
    let structure = Structure::read(checkpoint.config())?;
    ensure!(
        !structure.layers.is_empty(),
        "{} has no structured layers; there is nothing to store sparse",
        from.display()
    );
    let is_24 = |layout: &Layout| matches!(layout, Layout::NofM { n: 2, m: 4, cols, .. } if cols % 4 == 0);
    let all_24 = structure.layers.values().all(|layer| is_24(&layer.layout));
    let format = if all_24 { SparseFormat::Bitmask24 } else { SparseFormat::Bitmask };
    let sparse = |name: &str, layout: &Layout| -> Result<SparseTensor> {
        let kind = layout.kind();
        let values = match layout {
            Layout::Bitmask { values, .. } | Layout::Csr { values, .. } | Layout::NofM { values, .. } => {
                *values
            }
            _ => bail!("layer {name} is {kind}; compressed-tensors holds masks only, use --export dense"),
        };
        let matrix = read_matrix(&checkpoint, name, layout)?;
        let (dtype, bytes) = bytes_of(&matrix, values);
        SparseTensor::from_dense(format, dtype, (matrix.rows(), matrix.cols()), &bytes)
            .map_err(|e| anyhow!("layer {name}: {e}"))
    };
    let part_of = |tensor: &str| {
        structure.layers.keys().find(|layer| {
            tensor.strip_prefix(layer.as_str()).is_some_and(|rest| rest.starts_with('.') && rest != ".bias")
        })
    };
    let mut specs: Vec<TensorSpec> = Vec::new();
    let (mut ignore, mut zeros, mut all) = (Vec::new(), 0u64, 0u64);
    for name in checkpoint.names().into_iter().filter(|name| part_of(name).is_none()) {
        let info = checkpoint.info(name)?;
        all += info.elements() as u64;
        specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
        let linear = name.strip_suffix(".weight").filter(|_| info.shape.len() == 2);
        ignore.extend(linear.filter(|layer| !layer.contains("embed")).map(str::to_owned));
    }
    for (name, layer) in &structure.layers {
        let tensor = sparse(name, &layer.layout)?;
        let (rows, cols) = tensor.shape();
        all += (rows * cols) as u64;
        zeros += (rows * cols - tensor.stored()) as u64;
        specs.extend(tensor.specs(name));
    }
    let mut writer = CheckpointWriter::create(to, &specs, &CheckpointOptions::default())?;
    for name in checkpoint.names().into_iter().filter(|name| part_of(name).is_none()) {
        writer.copy(&checkpoint, name)?;
    }
    context.report(Event::Stage { name: "exporting", total: structure.layers.len() });
    for (done, (name, layer)) in structure.layers.iter().enumerate() {
        sparse(name, &layer.layout)?.write(name, &mut writer)?;
        context.report(Event::Step { done: done + 1, message: "" });
    }
    writer.add_files_of(&checkpoint)?;
    let mut config = checkpoint.config().clone();
    Structure::default().write(&mut config);
    format.write(&mut config, &ignore, zeros as f64 / all.max(1) as f64);
    Ok(writer.finish(&config)?.file_bytes)
}

/// What an import did.
pub struct Imported {
    /// Its format.
    pub format: SparseFormat,
    /// Sparse layers read.
    pub layers: usize,
    /// Bytes of the new weight files.
    pub file_bytes: u64,
}

/// Turns a `compressed-tensors` checkpoint of a sparse format into one of ours, whose linear layers are bitmask
/// or 2:4 matrices; with `dense`, into one of ordinary weights. Other layers (embeddings) always become dense.
pub fn import(from: &Path, to: &Path, dense: bool, context: &Context) -> Result<Imported> {
    let checkpoint = Checkpoint::open(from)?;
    let place = || from.display().to_string();
    let format = SparseFormat::read(checkpoint.config()).map_err(|e| anyhow!("{}: {e}", place()))?;
    let format = format.with_context(|| {
        format!("{} is no sparse compressed-tensors checkpoint; use it directly", place())
    })?;
    let layers = sparse_layers(&checkpoint);
    ensure!(!layers.is_empty(), "{} names a sparse format but stores no sparse layer", place());
    let count = checkpoint.config().get("num_hidden_layers").and_then(|n| n.as_u64()).unwrap_or(0) as usize;
    let is_linear =
        |name: &str| (0..count).any(|i| LinearSite::ALL.iter().any(|site| site.full_name(i) == name));
    let matrix = |name: &str| -> Result<Matrix> {
        let tensor = SparseTensor::read(&checkpoint, name, format)?;
        let (rows, cols) = tensor.shape();
        let (values, data) = floats_of(&tensor);
        ensure!(
            data.iter().all(|v| v.is_finite()),
            "layer {name} holds NaN or infinity; write the file again"
        );
        Ok(match format {
            _ if dense || !is_linear(name) => Dense::from_f32(rows, cols, &data, values).into(),
            SparseFormat::Bitmask24 => NofM::from_dense(rows, cols, &data, (2, 4), values)?.into(),
            SparseFormat::Bitmask => Bitmask::from_dense(rows, cols, &data, values).into(),
        })
    };
    let mut structure = Structure::default();
    let mut specs: Vec<TensorSpec> = Vec::new();
    let others = || checkpoint.names().into_iter().filter(|name| layer_of(name, &layers).is_none());
    for name in others() {
        let info = checkpoint.info(name)?;
        specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
    }
    for name in &layers {
        let matrix = matrix(name)?;
        specs.extend(matrix.parts(name).iter().map(part_spec));
        if !matches!(matrix, Matrix::Dense(_)) {
            let layer = StructuredLayer { method: IMPORTED.into(), layout: matrix.layout(), inputs: None };
            structure.layers.insert(name.clone(), layer);
        }
    }
    let mut writer = CheckpointWriter::create(to, &specs, &CheckpointOptions::default())?;
    for name in others() {
        writer.copy(&checkpoint, name)?;
    }
    context.report(Event::Stage { name: "importing", total: layers.len() });
    for (done, name) in layers.iter().enumerate() {
        for part in matrix(name)?.parts(name) {
            writer.write(&part.name, &part.bytes)?;
        }
        context.report(Event::Step { done: done + 1, message: "" });
    }
    writer.add_files_of(&checkpoint)?;
    let mut config = checkpoint.config().clone();
    SparseFormat::erase(&mut config);
    structure.write(&mut config);
    let file_bytes = writer.finish(&config)?.file_bytes;
    Ok(Imported { format, layers: layers.len(), file_bytes })
}

/// Says what to do with a checkpoint that has to be imported first.
pub fn check_input(checkpoint: &Checkpoint) -> Result<()> {
    if let Ok(Some(format)) = SparseFormat::read(checkpoint.config()) {
        let dir = checkpoint.dir().display();
        bail!("{dir} is stored as {}; turn it with `sparseland import {dir} --out DIR` first", format.name());
    }
    Ok(())
}

/// The dense entries in their stored type; int8 becomes f32.
fn bytes_of(matrix: &Matrix, values: ValueType) -> (DType, Vec<u8>) {
    let data = matrix.to_dense();
    match values {
        ValueType::Bf16 => {
            (DType::BF16, data.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect())
        }
        ValueType::F16 => {
            (DType::F16, data.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect())
        }
        ValueType::F32 | ValueType::I8 => (DType::F32, data.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}

fn floats_of(tensor: &SparseTensor) -> (ValueType, Vec<f32>) {
    let bytes = tensor.to_dense();
    match tensor.dtype() {
        DType::BF16 => {
            let value = |b: &[u8]| half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
            (ValueType::Bf16, bytes.chunks_exact(2).map(value).collect())
        }
        DType::F16 => {
            let value = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
            (ValueType::F16, bytes.chunks_exact(2).map(value).collect())
        }
        _ => {
            let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            (ValueType::F32, bytes.chunks_exact(4).map(value).collect())
        }
    }
}
