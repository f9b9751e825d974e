//! `sparseland bench kernels`: products with one vector on cold memory, or with a batch, against our own
//! dense kernels of the same run.

use anyhow::Result;
use clap::Args;
use sparseland_eval::table::{Column, Table};
use sparseland_matrix::ValueType;
use sparseland_matrix::bench::{self, Options, gemv};

/// Measures matrix x vector kernels on cold memory, or matrix x batch kernels.
#[derive(Args)]
pub struct Kernels {
    /// Rows and columns of the matrices.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    size: usize,
    /// Timed products of each kernel; the median counts.
    #[arg(long, default_value_t = 20, value_name = "N")]
    repetitions: usize,
    /// MiB read between two uses of the same matrix.
    #[arg(long, default_value_t = 1536, value_name = "MIB")]
    rotation: usize,
    /// Measure products with this many vectors at once instead of one (comma-separated).
    #[arg(long, value_delimiter = ',', value_name = "N")]
    batch: Vec<usize>,
    /// Threads (comma-separated).
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "N")]
    on_threads: Vec<usize>,
    /// Only kernels whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Kernels {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        if self.batch.is_empty() { self.vector() } else { self.batched() }
    }

    fn vector(self) -> Result<()> {
        let rows = gemv(&Options {
            shapes: vec![(self.size, self.size)],
            threads: self.on_threads,
            rotation: self.rotation << 20,
            repetitions: self.repetitions,
            filter: self.filter,
        });
        if self.json {
            return super::super::print_json(&rows);
        }
        let mut table = Table::new([
            Column::text("kernel"),
            Column::text("values"),
            Column::number("zeros", 2),
            Column::right("threads"),
            Column::number("median ms", 3),
            Column::number("GB/s", 1),
            Column::number("times as fast as dense", 2),
            Column::number("byte limit", 2),
        ]);
        for r in &rows {
            let ratio = match r.values {
                ValueType::Bf16 => r.ratio_vs_dense_bf16,
                ValueType::I8 => r.ratio_vs_dense_int8,
                _ => r.ratio_vs_dense_f32,
            };
            table.row([
                r.kernel.into(),
                r.values.name().into(),
                r.sparsity.into(),
                r.threads.to_string().into(),
                (1e3 * r.median_seconds).into(),
                r.gb_per_second.into(),
                ratio.into(),
                r.byte_ratio_limit.into(),
            ]);
        }
        super::super::print_text(&format!("{table}\"as fast as dense\": against dense of the same values\n"))
    }

    fn batched(self) -> Result<()> {
        let rows = bench::batch::batch(&bench::batch::Options {
            shapes: vec![(self.size, self.size)],
            batches: self.batch,
            threads: self.on_threads,
            repetitions: self.repetitions,
            filter: self.filter,
            ..Default::default()
        });
        if self.json {
            return super::super::print_json(&rows);
        }
        let mut table = Table::new([
            Column::text("kernel"),
            Column::text("values"),
            Column::number("zeros", 2),
            Column::right("batch"),
            Column::right("threads"),
            Column::number("median ms", 3),
            Column::number("effective GFLOP/s", 1),
            Column::number("times as fast as dense f32", 2),
        ]);
        for r in &rows {
            table.row([
                r.kernel.into(),
                r.values.name().into(),
                r.sparsity.into(),
                r.batch.to_string().into(),
                r.threads.to_string().into(),
                (1e3 * r.median_seconds).into(),
                r.gflops_effective.into(),
                r.ratio_vs_dense_f32.into(),
            ]);
        }
        super::super::print_text(&table.to_string())
    }
}
