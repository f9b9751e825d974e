//! `sparseland bench decode`: tokens per second of one model with its linear layers stored in every
//! structure, interleaved so that drift of the machine hits all alike.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use sparseland_compress::problem::{Accounting, FactorShape, Limit, cost};
use sparseland_core::{Context, Event};
use sparseland_eval::statistics::{half_range, median};
use sparseland_eval::table::{Column, Table, human_bytes};
use sparseland_matrix::{Bitmask, Csr, Dense, Layout, LinearMap, Matrix, NofM, Product, ValueType};
use sparseland_nn::{Decoder, LinearSite};

use crate::model;

/// Measures whole-model decode speed per structure.
#[derive(Args)]
pub struct Decode {
    /// The checkpoint's directory; the bundled model if absent.
    model: Option<PathBuf>,
    /// Fraction removed from every linear layer.
    #[arg(long, default_value_t = 0.5)]
    remove: f64,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 32)]
    prompt: usize,
    /// Tokens generated per run.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Runs; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    structure: &'static str,
    values: ValueType,
    removed: f64,
    threads: usize,
    stored_bytes: u64,
    tokens_per_second: f64,
    spread: f64,
    ratio_vs_dense_bf16: f64,
    byte_ratio_limit: f64,
}

/// The structures: name, values, whether the fraction applies.
const STRUCTURES: [(&str, ValueType); 10] = [
    ("dense", ValueType::Bf16),
    ("dense", ValueType::I8),
    ("dictionary-sparse", ValueType::Bf16),
    ("dictionary-sparse", ValueType::I8),
    ("low-rank", ValueType::Bf16),
    ("bitmask", ValueType::Bf16),
    ("bitmask", ValueType::I8),
    ("2:4", ValueType::Bf16),
    ("2:4", ValueType::I8),
    ("csr", ValueType::Bf16),
];

impl Decode {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let mut speeds: Vec<Vec<f64>> = vec![Vec::new(); STRUCTURES.len()];
        let mut bytes = vec![0; STRUCTURES.len()];
        context.report(Event::Stage { name: "decoding", total: self.runs * STRUCTURES.len() });
        // One model in memory at a time; rounds repeat the whole list.
        for round in 0..self.runs {
            for (i, &(structure, values)) in STRUCTURES.iter().enumerate() {
                context.check_cancelled()?;
                let mut decoder = Decoder::load(&checkpoint, context)?;
                self.restructure(&mut decoder, structure, values)?;
                bytes[i] = decoder.stored_bytes();
                // The first run of each visit warms caches and is not counted.
                model::decode_speed(&decoder, (self.prompt, self.tokens / 4), 1, context)?;
                speeds[i].push(model::decode_speed(&decoder, (self.prompt, self.tokens), 1, context)?);
                context.report(Event::Step { done: round * STRUCTURES.len() + i + 1, message: structure });
            }
        }
        let medians: Vec<f64> = speeds.iter().map(|s| median(s).unwrap_or(0.0)).collect();
        let rows: Vec<Row> = STRUCTURES
            .iter()
            .enumerate()
            .map(|(i, &(structure, values))| Row {
                structure,
                values,
                removed: if structure == "dense" { 0.0 } else { self.remove },
                threads: context.threads(),
                stored_bytes: bytes[i],
                tokens_per_second: medians[i],
                spread: half_range(&speeds[i]).unwrap_or(0.0),
                ratio_vs_dense_bf16: medians[i] / medians[0],
                byte_ratio_limit: bytes[0] as f64 / bytes[i] as f64,
            })
            .collect();
        if self.json {
            return super::super::print_json(&rows);
        }
        let mut table = Table::new([
            Column::text("structure"),
            Column::text("values"),
            Column::right("bytes"),
            Column::number("tokens/s", 1),
            Column::number("+-", 1),
            Column::number("x dense bf16", 2),
            Column::number("byte limit", 2),
        ]);
        for r in &rows {
            table.row([
                r.structure.into(),
                r.values.name().into(),
                human_bytes(r.stored_bytes).into(),
                r.tokens_per_second.into(),
                r.spread.into(),
                r.ratio_vs_dense_bf16.into(),
                r.byte_ratio_limit.into(),
            ]);
        }
        super::super::print_text(&format!(
            "{name}, {:.0} % removed, {} threads, median of {} runs of {} tokens; {}\n{table}",
            100.0 * self.remove,
            context.threads(),
            self.runs,
            self.tokens,
            sparseland_matrix::features().join(" "),
        ))
    }

    /// Stores every linear layer in the given structure. Speed depends on structure, not on values, so
    /// factors are random and masks random at the right density.
    fn restructure(&self, decoder: &mut Decoder, structure: &str, values: ValueType) -> Result<()> {
        let mut rng = rand_pcg::Pcg64::seed_from_u64(7);
        for block in decoder.blocks_mut() {
            for site in LinearSite::ALL {
                let weight = &mut block.linear_mut(site).weight;
                let (rows, cols) = (weight.rows(), weight.cols());
                let mut random = |rows: usize, cols: usize, density: f64| -> Vec<f32> {
                    (0..rows * cols)
                        .map(
                            |_| if rng.random_bool(density) { rng.random_range(-0.02f32..0.02) } else { 0.0 },
                        )
                        .collect()
                };
                let density = 1.0 - self.remove;
                *weight = match structure {
                    "dense" if values == ValueType::Bf16 => continue,
                    "dense" => Dense::from_f32(rows, cols, &weight.to_dense(), values).into(),
                    "bitmask" => Bitmask::from_dense(rows, cols, &random(rows, cols, density), values).into(),
                    "csr" => Csr::from_dense(rows, cols, &random(rows, cols, density), values).into(),
                    "2:4" => {
                        let mut data = random(rows, cols, 1.0);
                        for (i, group) in data.chunks_mut(4).enumerate() {
                            let skip = [i % group.len(), (i / 3 + 1 + i % group.len()) % group.len()];
                            skip.iter().for_each(|&s| group[s] = 0.0);
                            if skip[0] == skip[1] {
                                group[(skip[0] + 1) % group.len()] = 0.0;
                            }
                        }
                        NofM::from_dense(rows, cols, &data, (2, 4), values)?.into()
                    }
                    _ => {
                        let rho = if structure == "low-rank" { 1.0 } else { 2.0 };
                        let dense = Layout::Dense { rows, cols, values };
                        let whole = cost(&dense, Accounting::Params) as f64;
                        let limit =
                            Limit { cost: (density * whole) as u64, accounting: Accounting::Params, values };
                        let Some(shape) = FactorShape::fitting((cols, rows), rho, limit) else { continue };
                        let right = Dense::from_f32(shape.k, cols, &random(shape.k, cols, 1.0), values);
                        let left: Matrix = if shape.s == shape.k {
                            Dense::from_f32(rows, shape.k, &random(rows, shape.k, 1.0), values).into()
                        } else {
                            let density = shape.s as f64 / shape.k as f64;
                            Bitmask::from_dense(rows, shape.k, &random(rows, shape.k, density), values).into()
                        };
                        Product::new(left, right).into()
                    }
                };
            }
        }
        Ok(())
    }
}
