//! `sparseland import DIR --out DIR`: a compressed-tensors checkpoint becomes one of ours.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sparseland_core::Context;
use sparseland_eval::table::human_bytes;

use super::compress::check_output;
use crate::interchange;

/// Turns a compressed-tensors checkpoint (sparse-bitmask, sparse-24-bitmask) into one that every command reads.
#[derive(Args)]
pub struct Import {
    /// The checkpoint's directory.
    model: PathBuf,
    /// Where the new checkpoint goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Fill in the zeros: ordinary dense weights, ready for `compress`.
    #[arg(long)]
    dense: bool,
}

impl Import {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        check_output(Some(&self.model), &self.out)?;
        let done = interchange::import(&self.model, &self.out, self.dense, context)?;
        super::print_text(&format!(
            "{} sparse layers of {} read; {} in {}\nnext: sparseland inspect {}\n",
            done.layers,
            done.format.name(),
            human_bytes(done.file_bytes),
            self.out.display(),
            self.out.display(),
        ))
    }
}
