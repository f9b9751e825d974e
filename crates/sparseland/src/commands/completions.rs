//! `sparseland completions SHELL`: completions for the shell, on stdout.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Prints shell completions.
#[derive(Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    pub fn run<C: CommandFactory>(self) -> Result<()> {
        let mut text = Vec::new();
        generate(self.shell, &mut C::command(), "sparseland", &mut text);
        super::print_text(&String::from_utf8_lossy(&text))
    }
}
