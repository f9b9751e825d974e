//! Factored checkpoints under the names that SVD-LLM's and ROCKET's codes use, in and out.
//!
//! Both keep a Hugging Face directory in which the weight of a linear layer is two dense matrices, and compute
//! `y = left (right x) + b`:
//!
//! | style | `left`, outputs x rank | `right`, rank x inputs |
//! |---|---|---|
//! | SVD-LLM | `...q_u_proj.weight` | `...q_v_proj.weight` |
//! | ROCKET | `...q_proj_v.weight` | `...q_proj_u.weight` |
//!
//! A bias goes with `left`. ROCKET's sparse coefficients stand there with their zeros. The names alone do not make a
//! directory that transformers opens: both codes bring their own model class, and ROCKET's wants its rates in
//! `config.json`.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, CheckpointOptions, CheckpointWriter, DType, TensorSource, TensorSpec};
use sparseland_matrix::{Bitmask, Csr, Dense, Layout, LinearMap, Matrix, Product, ValueType};
use sparseland_nn::structure::{Structure, StructuredLayer, part_spec};
use sparseland_nn::{LinearSite, ModelConfig};

/// Whose names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// SVD-LLM's.
    SvdLlm,
    /// ROCKET's.
    Rocket,
}

/// Coefficients with fewer values than this share are stored sparse when they come in.
const SPARSE: f64 = 0.75;

impl Style {
    /// The method that such a layer names in `config.json`, and the folder of an export.
    pub fn name(self) -> &'static str {
        match self {
            Self::SvdLlm => "svd-llm",
            Self::Rocket => "rocket",
        }
    }

    /// The names of the two factors of a layer `...X_proj`, without `.weight`: left, right.
    fn factors(self, layer: &str) -> [String; 2] {
        match self {
            Self::SvdLlm => {
                let stem = layer.strip_suffix("_proj").unwrap_or(layer);
                [format!("{stem}_u_proj"), format!("{stem}_v_proj")]
            }
            Self::Rocket => [format!("{layer}_v"), format!("{layer}_u")],
        }
    }
}

/// Writes a checkpoint of factored layers under the other program's names. Returns the bytes of its weight files.
pub fn export(from: &Path, to: &Path, style: Style, context: &Context) -> Result<u64> {
    let checkpoint = Checkpoint::open(from)?;
    let structure = Structure::read(checkpoint.config())?;
    ensure!(
        !structure.layers.is_empty(),
        "{} has no structured layers; there are no factors to name",
        from.display()
    );
    let factors = |name: &str| -> Result<[(String, Matrix); 2]> {
        let matrix = structure.read_layer(&checkpoint, name)?.context("a structured layer has a matrix")?;
        let Matrix::Product(product) = &matrix else {
            let kind = matrix.layout().kind();
            bail!("layer {name} is {kind}; {} names hold two factors, use --export dense", style.name());
        };
        let [left, right] = product.factors().map(|factor| {
            // Integers become floats: nothing else has a place for scales.
            let values = match float_type(&factor.layout()) {
                ValueType::I8 => ValueType::F32,
                other => other,
            };
            Matrix::from(Dense::from_f32(factor.rows(), factor.cols(), &factor.to_dense(), values))
        });
        let [a, b] = style.factors(name);
        Ok([(a, left), (b, right)])
    };
    // A tensor of a structured layer: its part, or its bias under the new name.
    let renamed = |tensor: &str| -> Option<Option<String>> {
        let layer = structure
            .layers
            .keys()
            .find(|l| tensor.strip_prefix(l.as_str()).is_some_and(|r| r.starts_with('.')))?;
        Some((tensor[layer.len()..] == *".bias").then(|| format!("{}.bias", style.factors(layer)[0])))
    };
    let mut specs: Vec<TensorSpec> = Vec::new();
    let mut kept: Vec<(&str, String)> = Vec::new();
    for name in checkpoint.names() {
        let to = match renamed(name) {
            None => name.to_owned(),
            Some(Some(bias)) => bias,
            Some(None) => continue,
        };
        let info = checkpoint.info(name)?;
        specs.push(TensorSpec::new(to.as_str(), info.dtype, info.shape.clone()));
        kept.push((name, to));
    }
    for name in structure.layers.keys() {
        specs.extend(factors(name)?.iter().flat_map(|(n, m)| m.parts(n)).map(|p| part_spec(&p)));
    }
    let mut writer = CheckpointWriter::create(to, &specs, &CheckpointOptions::default())?;
    for (name, to) in &kept {
        writer.write(to, &checkpoint.read(name)?)?;
    }
    context.report(Event::Stage { name: "exporting", total: structure.layers.len() });
    for (done, name) in structure.layers.keys().enumerate() {
        for part in factors(name)?.iter().flat_map(|(n, m)| m.parts(n)) {
            writer.write(&part.name, &part.bytes)?;
        }
        context.report(Event::Step { done: done + 1, message: "" });
    }
    writer.add_files_of(&checkpoint)?;
    let mut config = checkpoint.config().clone();
    Structure::default().write(&mut config);
    Ok(writer.finish(&config)?.file_bytes)
}

/// The style of a checkpoint whose layers stand as two factors; `None` if none does.
pub fn style_of(checkpoint: &Checkpoint) -> Option<Style> {
    let count = checkpoint.config().get("num_hidden_layers").and_then(|n| n.as_u64()).unwrap_or(0) as usize;
    let has = |style: Style| {
        (0..count).flat_map(layers_of).any(|layer| {
            style.factors(&layer).iter().all(|name| checkpoint.find(&format!("{name}.weight")).is_some())
        })
    };
    [Style::SvdLlm, Style::Rocket].into_iter().find(|&style| has(style))
}

fn layers_of(block: usize) -> impl Iterator<Item = String> {
    LinearSite::ALL.into_iter().map(move |site| site.full_name(block))
}

/// Turns a checkpoint of the given style into one of ours; with `dense`, into one of ordinary weights. Returns how many
/// layers were read and the bytes of the weight files.
pub fn import(from: &Path, to: &Path, style: Style, dense: bool, context: &Context) -> Result<(usize, u64)> {
    let checkpoint = Checkpoint::open(from)?;
    let config = ModelConfig::from_checkpoint(&checkpoint)?;
    let read = |name: &str, shape: (Option<usize>, Option<usize>)| -> Result<(Matrix, ValueType)> {
        let tensor = format!("{name}.weight");
        let info = checkpoint.info(&tensor)?;
        let [rows, cols] = info.shape[..] else {
            bail!("tensor `{tensor}` has {} dimensions, a factor has 2", info.shape.len());
        };
        for (got, wanted, what) in [(rows, shape.0, "rows"), (cols, shape.1, "columns")] {
            if let Some(wanted) = wanted {
                ensure!(got == wanted, "tensor `{tensor}` has {got} {what}, the model needs {wanted}");
            }
        }
        let values = match info.dtype {
            DType::BF16 => ValueType::Bf16,
            DType::F16 => ValueType::F16,
            _ => ValueType::F32,
        };
        let data = checkpoint.read_f32_finite(&tensor)?;
        Ok((Dense::from_f32(rows, cols, &data, values).into(), values))
    };
    let mut names: Vec<(String, LinearSite)> = Vec::new();
    for block in 0..config.num_hidden_layers {
        names.extend(LinearSite::ALL.map(|site| (site.full_name(block), site)));
    }
    names.retain(|(name, _)| {
        style.factors(name).iter().any(|f| checkpoint.find(&format!("{f}.weight")).is_some())
    });
    let matrix = |name: &str, site: LinearSite| -> Result<Matrix> {
        let (outputs, inputs) = site.shape(&config);
        let [a, b] = style.factors(name);
        let (right, _) = read(&b, (None, Some(inputs)))?;
        let (left, values) = read(&a, (Some(outputs), Some(right.rows())))?;
        let product: Matrix = Product::new(sparse_if_it_pays(left, values), right).into();
        Ok(match dense {
            true => Dense::from_f32(outputs, inputs, &product.to_dense(), values).into(),
            false => product,
        })
    };
    // Every factor's tensor is replaced; a bias gets its layer's name.
    let renamed = |tensor: &str| -> Option<Option<String>> {
        names.iter().find_map(|(layer, _)| {
            let [a, b] = style.factors(layer);
            if tensor == format!("{a}.bias") {
                return Some(Some(format!("{layer}.bias")));
            }
            (tensor == format!("{a}.weight") || tensor == format!("{b}.weight")).then_some(None)
        })
    };
    let mut structure = Structure::default();
    let (mut specs, mut kept): (Vec<TensorSpec>, Vec<(&str, String)>) = (Vec::new(), Vec::new());
    for name in checkpoint.names() {
        let to = match renamed(name) {
            None => name.to_owned(),
            Some(Some(bias)) => bias,
            Some(None) => continue,
        };
        let info = checkpoint.info(name)?;
        specs.push(TensorSpec::new(to.as_str(), info.dtype, info.shape.clone()));
        kept.push((name, to));
    }
    for (name, site) in &names {
        let matrix = matrix(name, *site)?;
        specs.extend(matrix.parts(name).iter().map(part_spec));
        if !dense {
            let layer =
                StructuredLayer { method: style.name().into(), layout: matrix.layout(), inputs: None };
            structure.layers.insert(name.clone(), layer);
        }
    }
    let mut writer = CheckpointWriter::create(to, &specs, &CheckpointOptions::default())?;
    for (name, to) in &kept {
        writer.write(to, &checkpoint.read(name)?)?;
    }
    context.report(Event::Stage { name: "importing", total: names.len() });
    for (done, (name, site)) in names.iter().enumerate() {
        for part in matrix(name, *site)?.parts(name) {
            writer.write(&part.name, &part.bytes)?;
        }
        context.report(Event::Step { done: done + 1, message: "" });
    }
    writer.add_files_of(&checkpoint)?;
    let mut json = checkpoint.config().clone();
    structure.write(&mut json);
    Ok((names.len(), writer.finish(&json)?.file_bytes))
}

/// Coefficients with many zeros as a sparse matrix.
fn sparse_if_it_pays(left: Matrix, values: ValueType) -> Matrix {
    let (rows, cols, data) = (left.rows(), left.cols(), left.to_dense());
    let nonzeros = data.iter().filter(|v| **v != 0.0).count();
    if nonzeros as f64 >= SPARSE * data.len() as f64 {
        return left;
    }
    match Layout::sparse(rows, cols, values, nonzeros) {
        Layout::Csr { .. } => Csr::from_dense(rows, cols, &data, values).into(),
        _ => Bitmask::from_dense(rows, cols, &data, values).into(),
    }
}

/// The value type of a factor.
fn float_type(layout: &Layout) -> ValueType {
    match layout {
        Layout::Dense { values, .. } | Layout::Bitmask { values, .. } | Layout::Csr { values, .. } => *values,
        _ => ValueType::F32,
    }
}
