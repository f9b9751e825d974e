//! `sparseland bench kernels`: products with one vector, cold memory, against our own dense kernels.

use anyhow::Result;
use clap::Args;
use sparseland_eval::table::{Column, Table};
use sparseland_matrix::bench::{Options, gemv};

/// Measures matrix x vector kernels on cold memory.
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
    /// Only kernels whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Kernels {
    /// Runs the command, with 1 and 2 threads.
    pub fn run(self) -> Result<()> {
        let rows = gemv(&Options {
            shapes: vec![(self.size, self.size)],
            rotation: self.rotation << 20,
            repetitions: self.repetitions,
            filter: self.filter,
            ..Options::default()
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
            Column::number("byte limit", 2),
        ]);
        for r in &rows {
            table.row([
                r.kernel.into(),
                r.values.name().into(),
                r.sparsity.into(),
                r.threads.to_string().into(),
                (1e3 * r.median_seconds).into(),
                r.gb_per_second.into(),
                r.byte_ratio_limit.into(),
            ]);
        }
        super::super::print_text(&table.to_string())
    }
}
