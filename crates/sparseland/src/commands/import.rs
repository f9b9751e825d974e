//! `sparseland import DIR --out DIR`: a checkpoint of compressed-tensors, SVD-LLM or ROCKET becomes one of ours.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sparseland_core::Context;
use sparseland_data::Checkpoint;
use sparseland_eval::table::human_bytes;

use super::compress::check_output;
use crate::{factor_names, interchange};

/// Turns a compressed-tensors checkpoint (sparse-bitmask, sparse-24-bitmask), or one with factors under SVD-LLM's or
/// ROCKET's names, into one that every command reads.
#[derive(Args)]
pub struct Import {
    /// The checkpoint's directory.
    model: PathBuf,
    /// Where the new checkpoint goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Fill in zeros and multiply factors out: ordinary dense weights, ready for `compress`.
    #[arg(long)]
    dense: bool,
}

impl Import {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        check_output(Some(&self.model), &self.out)?;
        let (layers, what, file_bytes) = match factor_names::style_of(&Checkpoint::open(&self.model)?) {
            Some(style) => {
                let (layers, bytes) =
                    factor_names::import(&self.model, &self.out, style, self.dense, context)?;
                (layers, format!("factored layers under {} names", style.name()), bytes)
            }
            None => {
                let done = interchange::import(&self.model, &self.out, self.dense, context)?;
                (done.layers, format!("sparse layers of {}", done.format.name()), done.file_bytes)
            }
        };
        super::print_text(&format!(
            "{layers} {what} read; {} in {}\nnext: sparseland inspect {}\n",
            human_bytes(file_bytes),
            self.out.display(),
            self.out.display(),
        ))
    }
}
