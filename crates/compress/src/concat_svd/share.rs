//! A model whose layers share factors: clusters of its weights, one basis each, stored once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sparseland_core::{Context, Event};
use sparseland_data::{Checkpoint, WrittenCheckpoint};
use sparseland_linalg::Mat;
use sparseland_matrix::{Dense, Layout, LinearMap, Matrix, Product, ValueType};
use sparseland_nn::structure::{Structure, StructuredLayer, part_spec};
use sparseland_nn::{Block, LinearSite, LoadOptions, ModelConfig};

use super::clusters::{Clusters, Scan, Settings, cluster_blocks};
use crate::CompressError;
use crate::problem::inputs_first;
use crate::replaced;

/// Which factor the layers of a group share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The right one, `rank x inputs`: layers with as many inputs lie side by side.
    #[default]
    Inputs,
    /// The left one, `outputs x rank`: layers with as many outputs.
    Outputs,
}

/// What may be shared, and how far.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharing {
    /// The share of the layers' parameters to remove, in `[0, 1)`.
    pub remove: f64,
    /// The largest relative error of a group's weights.
    pub epsilon: f64,
    /// The layers of every block that take part.
    pub sites: Vec<LinearSite>,
    /// The factor that is shared.
    pub side: Side,
}

/// A group of layers of a written checkpoint.
#[derive(Debug, Clone)]
pub struct SharedGroup {
    /// Its layers' full names.
    pub layers: Vec<String>,
    /// The rank of the shared basis.
    pub rank: usize,
    /// The relative error of its weights, before they are rounded to the stored type.
    pub error: f64,
}

/// What sharing came to.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The groups that share a factor; the other layers stay dense.
    pub groups: Vec<SharedGroup>,
    /// Parameters of the layers that took part, before.
    pub dense_parameters: u64,
    /// And after, every shared factor counted once.
    pub parameters: u64,
    /// The files.
    pub written: WrittenCheckpoint,
}

/// A layer that takes part.
struct Member {
    name: String,
    /// Side by side with the others of its family: as many rows.
    block: Mat<f64>,
    values: ValueType,
}

/// Clusters the weights of a model and writes a checkpoint whose groups store their shared factor once.
///
/// Layers with as many inputs (or outputs) form a family; in each, ranks fall from the one that meets `remove` if all
/// its layers fit one group until the groups found within `epsilon` do. Cost: a few clusterings of each family
/// ([`cluster_blocks`]); holds all weights that take part in f64.
///
/// # Errors
/// [`CompressError::Fraction`]; [`CompressError::Setting`] if no rank removes that much within `epsilon`; if a block
/// cannot be read or writing fails.
pub fn share(
    (checkpoint, config): (&Checkpoint, &ModelConfig),
    sharing: &Sharing,
    values: Option<ValueType>,
    out: &Path,
    context: &Context,
) -> Result<Shared, CompressError> {
    if !(0.0..1.0).contains(&sharing.remove) {
        return Err(CompressError::Fraction(sharing.remove));
    }
    let mut families: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
    for index in 0..config.num_hidden_layers {
        let block = Block::load(checkpoint, config, index, &LoadOptions::default())?;
        for &site in &sharing.sites {
            let weight = &block.linear(site).weight;
            let own = match weight.layout() {
                Layout::Dense { values, .. } => values,
                _ => ValueType::F32,
            };
            let by_inputs = inputs_first(weight);
            let block = if sharing.side == Side::Inputs { by_inputs } else { by_inputs.transposed() };
            let member = Member { name: site.full_name(index), values: values.unwrap_or(own), block };
            families.entry(member.block.rows).or_default().push(member);
        }
    }
    let mut structure = Structure::default();
    let mut parts = replaced::Replacements::new();
    let (mut groups, mut dense_parameters, mut parameters) = (Vec::new(), 0, 0);
    context.report(Event::Stage { name: "clustering", total: families.len() });
    for (done, family) in families.into_values().enumerate() {
        let blocks: Vec<Mat<f64>> = family.iter().map(|m| m.block.clone()).collect();
        let (rank, found) = fitting(&blocks, sharing, context)?;
        dense_parameters += found.dense_parameters;
        parameters += found.parameters;
        for group in found.groups.iter().filter(|g| saves(g.members.iter().map(|&i| &blocks[i]), rank)) {
            let basis = narrow(&oriented(&group.basis, sharing.side == Side::Inputs));
            let (mut first, mut layers): (Option<(String, Arc<Matrix>)>, Vec<String>) = (None, Vec::new());
            for (&i, coefficients) in group.members.iter().zip(&group.coefficients) {
                let Member { name, values, .. } = &family[i];
                let own = oriented(coefficients, sharing.side == Side::Inputs);
                let own = Arc::new(Matrix::from(Dense::from_f32(own.rows, own.cols, &narrow(&own), *values)));
                let shared = match &first {
                    Some((_, shared)) => Arc::clone(shared),
                    None => {
                        let (rows, cols) = match sharing.side {
                            Side::Inputs => (rank, family[i].block.rows),
                            Side::Outputs => (family[i].block.rows, rank),
                        };
                        Arc::new(Dense::from_f32(rows, cols, &basis, *values).into())
                    }
                };
                let (product, place) = match sharing.side {
                    Side::Inputs => (Product::of_shared(own, Arc::clone(&shared)), 1),
                    Side::Outputs => (Product::of_shared(Arc::clone(&shared), own), 0),
                };
                let layout = product.layout();
                let factor = format!("{name}.{}", layout.factor_names().expect("a product")[place]);
                match &first {
                    None => first = Some((factor, shared)),
                    Some((of, _)) => drop(structure.shared.insert(factor, of.clone())),
                }
                let method = "concat-svd".to_owned();
                structure.layers.insert(name.clone(), StructuredLayer { method, layout, inputs: None });
                let own = structure.own_parts(name, &product.into());
                parts.insert(name.clone(), own.into_iter().map(|p| (part_spec(&p), p.bytes)).collect());
                layers.push(name.clone());
            }
            groups.push(SharedGroup { layers, rank, error: group.exact_error });
        }
        context.report(Event::Step { done: done + 1, message: "" });
    }
    let written = replaced::write(checkpoint, &structure, &parts, out)?;
    Ok(Shared { groups, dense_parameters, parameters, written })
}

/// Whether one basis and coefficients take fewer numbers than the blocks.
fn saves<'a>(mut members: impl Iterator<Item = &'a Mat<f64>>, rank: usize) -> bool {
    let Some(first) = members.next() else { return false };
    let mut more = false;
    let columns = first.cols + members.inspect(|_| more = true).map(|b| b.cols).sum::<usize>();
    more && rank * (first.rows + columns) < first.rows * columns
}

/// The largest rank at which the groups within the error meet the budget.
fn fitting(
    blocks: &[Mat<f64>],
    sharing: &Sharing,
    context: &Context,
) -> Result<(usize, Clusters), CompressError> {
    let rows = blocks[0].rows;
    let columns: usize = blocks.iter().map(|b| b.cols).sum();
    let budget = ((1.0 - sharing.remove) * (rows * columns) as f64 + 1e-6) as usize;
    let mut rank = (budget / (rows + columns)).min(rows);
    while rank > 0 {
        context.check_cancelled()?;
        let settings =
            Settings { scan: Scan::All, patience: blocks.len(), ..Settings::new(rank, sharing.epsilon) };
        let found = context.install(|| cluster_blocks(blocks, &settings))?;
        if found.parameters <= budget as u64 {
            return Ok((rank, found));
        }
        // Fewer ranks in proportion, at least one.
        let next = (rank as f64 * budget as f64 / found.parameters as f64) as usize;
        rank = next.min(rank - 1);
    }
    Err(CompressError::Setting(format!(
        "sharing does not remove {:.0} % of {} layers with {rows} rows within a relative error of {}; allow a larger \
         error or remove less",
        100.0 * sharing.remove,
        blocks.len(),
        sharing.epsilon
    )))
}

fn oriented(m: &Mat<f64>, turned: bool) -> Mat<f64> {
    if turned { m.transposed() } else { m.clone() }
}

fn narrow(m: &Mat<f64>) -> Vec<f32> {
    m.data.iter().map(|&v| v as f32).collect()
}
