//! `sparseland inspect DIR`: what is in this checkpoint, layer by layer.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sparseland_data::TensorSource;
use sparseland_eval::table::{Column, Table, human_bytes};
use sparseland_matrix::Layout;
use sparseland_nn::structure::Structure;

use crate::model;

/// Shows what is in a checkpoint, layer by layer: kind, shape, values, bytes.
#[derive(Args)]
pub struct Inspect {
    /// The checkpoint's directory; the bundled model if absent.
    model: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    architecture: String,
    tensors: usize,
    stored_bytes: u64,
    file_bytes: u64,
    parameters: u64,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    kind: &'static str,
    method: Option<String>,
    shape: Vec<usize>,
    values: String,
    parameters: u64,
    stored_bytes: u64,
    /// Bytes of a dense matrix of the same shape and value type, where the layer is structured.
    dense_bytes: Option<u64>,
    layout: Option<Layout>,
    /// Layers that store a factor of this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shared_with: Vec<String>,
}

impl Inspect {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let structure = Structure::read(checkpoint.config())?;
        let mut layers: Vec<Layer> = Vec::new();
        let mut tensors = 0;
        let structured = |tensor: &str| {
            // Parts of a structured layer are named `LAYER.something`.
            let mut prefix = tensor;
            while let Some((parent, _)) = prefix.rsplit_once('.') {
                if structure.layers.contains_key(parent) {
                    return Some(parent.to_owned());
                }
                prefix = parent;
            }
            None
        };
        for tensor in checkpoint.names() {
            tensors += 1;
            let info = checkpoint.info(tensor)?;
            match structured(tensor) {
                Some(layer) if !tensor.ends_with(".bias") => {
                    if layers.iter().all(|l| l.name != layer) {
                        layers.push(describe(layer, &structure));
                    }
                }
                _ => layers.push(Layer {
                    name: tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned(),
                    kind: "dense",
                    method: None,
                    shape: info.shape.clone(),
                    values: format!("{:?}", info.dtype).to_lowercase(),
                    parameters: info.elements() as u64,
                    stored_bytes: info.len as u64,
                    dense_bytes: None,
                    layout: None,
                    shared_with: Vec::new(),
                }),
            }
        }
        let architecture =
            checkpoint.config().get("model_type").and_then(|v| v.as_str()).unwrap_or("unknown");
        let report = Report {
            model: name,
            architecture: architecture.to_owned(),
            tensors,
            stored_bytes: checkpoint.data_bytes(),
            file_bytes: checkpoint.file_bytes(),
            parameters: layers.iter().map(|l| l.parameters).sum(),
            layers,
        };
        if self.json { super::print_json(&report) } else { super::print_text(&report.to_text()) }
    }
}

fn describe(name: String, structure: &Structure) -> Layer {
    let entry = &structure.layers[&name];
    let layout = &entry.layout;
    // What another layer stores for both is counted there.
    let (shared_with, bytes, parameters) = structure.shared_of(&name);
    let shared_with = shared_with.into_iter().map(str::to_owned).collect();
    let values = leaf_values(layout);
    let dense = Layout::Dense { rows: layout.rows(), cols: layout.cols(), values };
    Layer {
        name,
        kind: layout.kind(),
        method: Some(entry.method.clone()),
        shape: vec![layout.rows(), layout.cols()],
        values: values.name().to_owned(),
        parameters: layout.parameters() - parameters,
        stored_bytes: layout.stored_bytes() - bytes,
        dense_bytes: Some(dense.stored_bytes()),
        layout: Some(layout.clone()),
        shared_with,
    }
}

/// The value type of the first leaf.
fn leaf_values(layout: &Layout) -> sparseland_matrix::ValueType {
    match layout {
        Layout::Dense { values, .. }
        | Layout::Csr { values, .. }
        | Layout::Csc { values, .. }
        | Layout::Bitmask { values, .. }
        | Layout::NofM { values, .. }
        | Layout::BlockDiagonal { values, .. } => *values,
        Layout::Transposed { inner } => leaf_values(inner),
        Layout::Product { left, .. } => leaf_values(left),
        Layout::Sum { terms } => leaf_values(&terms[0]),
    }
}

/// `k = 96, 48 per output` for a factorisation.
fn detail(layout: &Layout) -> String {
    match layout {
        Layout::Product { left, right } => {
            let per_output = left.parameters() as f64 / left.rows().max(1) as f64;
            match **left {
                Layout::Dense { .. } => format!("rank {}", right.rows()),
                _ => format!("{} atoms, {per_output:.1} coefficients per output", right.rows()),
            }
        }
        Layout::NofM { n, m, .. } => format!("{n}:{m}"),
        Layout::Dense { .. } => String::new(),
        other => {
            let all = (other.rows() * other.cols()).max(1) as f64;
            format!("{:.1} % zeros", 100.0 * (1.0 - other.parameters() as f64 / all))
        }
    }
}

impl Report {
    fn to_text(&self) -> String {
        let mut table = Table::new([
            Column::text("layer"),
            Column::text("kind"),
            Column::right("shape"),
            Column::text("values"),
            Column::right("bytes"),
            Column::right("of dense"),
            Column::text("structure"),
        ]);
        for l in &self.layers {
            let shape: Vec<String> = l.shape.iter().map(usize::to_string).collect();
            let of_dense = l.dense_bytes.map_or(String::new(), |d| {
                format!("{:.1} %", 100.0 * l.stored_bytes as f64 / d.max(1) as f64)
            });
            let mut structure = l.layout.as_ref().map_or(String::new(), detail);
            for layer in &l.shared_with {
                structure += &format!(", a factor of {layer}");
            }
            table.row([
                l.name.as_str().into(),
                l.kind.into(),
                shape.join(" x ").into(),
                l.values.as_str().into(),
                l.stored_bytes.to_string().into(),
                of_dense.into(),
                structure.into(),
            ]);
        }
        format!(
            "{} ({}): {} parameters stored, {} in {} tensors, files {}\n{table}",
            self.model,
            self.architecture,
            self.parameters,
            human_bytes(self.stored_bytes),
            self.tensors,
            human_bytes(self.file_bytes),
        )
    }
}
