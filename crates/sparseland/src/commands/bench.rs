//! `sparseland bench`: speed and bytes, next to our own best dense kernel of the same run.

mod decode;
mod kernels;
mod training;

use anyhow::Result;
use clap::{Args, Subcommand};
use sparseland_core::Context;

/// Measures kernels and whole models against dense.
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Kernels(kernels::Kernels),
    Decode(decode::Decode),
    Training(training::Training),
}

impl Bench {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::Kernels(command) => command.run(),
            What::Decode(command) => command.run(context),
            What::Training(command) => command.run(context),
        }
    }
}
