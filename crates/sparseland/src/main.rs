//! The `sparseland` command.

// A binary has no public interface; `pub` here means "used by other modules".
#![allow(unreachable_pub)]

mod bundled;
mod commands;
mod factor_names;
mod interchange;
mod layer_method;
mod machine;
mod model;
mod progress;
mod recipe;
mod registry;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use sparseland_core::Context;

const EXAMPLES: &str = "\
Examples:
  sparseland compress                                  the bundled model and text: the whole main job
  sparseland compress MODEL_DIR --remove 0.3 --calibration my.txt --out small/
  sparseland compare MODEL_DIR --methods rocket,svd-llm --remove 0.2,0.3,0.5
  sparseland eval small/ --text held-out.txt
  sparseland generate small/ --prompt \"The boat\" --tokens 60
  sparseland inspect small/
  sparseland train heal small/ --text my.txt --out healed/
  sparseland train lm recipe.toml --out model/
  sparseland fit lasso table.csv --target y --cv 5
  sparseland fit colide table.npy --dot graph.dot
  sparseland screen wide.npy --target 0 --top 50";

/// Sparse and low-rank structure in machine learning, for real: in the file, in memory and in the
/// products.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args)]
struct Global {
    /// Threads to use; 0 takes one per core.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Seed of everything random.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Report only warnings and results.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Compress(Box<commands::compress::Compress>),
    Compare(commands::compare::Compare),
    Eval(commands::eval::Eval),
    Generate(commands::generate::Generate),
    Inspect(commands::inspect::Inspect),
    Import(commands::import::Import),
    Train(commands::train::Train),
    Fit(Box<commands::fit::Fit>),
    Predict(commands::predict::Predict),
    Screen(commands::screen::Screen),
    Bench(commands::bench::Bench),
    Methods(commands::methods::Methods),
    Reproduce(commands::reproduce::Reproduce),
    Doctor(commands::doctor::Doctor),
    Completions(commands::completions::Completions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let renderer = Arc::new(progress::Stderr::new(cli.global.quiet));
    let result = run(cli, &renderer);
    renderer.clear();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output is gone: `sparseland inspect DIR | head` is no error.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sparseland: {}", one_line(&error));
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli, renderer: &Arc<progress::Stderr>) -> Result<()> {
    let context = Context::new(cli.global.seed, cli.global.threads)?.with_progress(renderer.clone());
    let cancel = context.cancel_flag();
    ctrlc::set_handler(move || {
        if cancel.swap(true, std::sync::atomic::Ordering::Relaxed) {
            // The second Ctrl-C does not wait for the current step.
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; again to stop at once");
    })?;
    match cli.command {
        Command::Compress(command) => command.run(&context),
        Command::Compare(command) => command.run(&context),
        Command::Eval(command) => command.run(&context),
        Command::Generate(command) => command.run(&context),
        Command::Inspect(command) => command.run(),
        Command::Import(command) => command.run(&context),
        Command::Train(command) => command.run(&context),
        Command::Fit(command) => command.run(&context),
        Command::Predict(command) => command.run(&context),
        Command::Screen(command) => command.run(&context),
        Command::Bench(command) => command.run(&context),
        Command::Methods(command) => command.run(),
        Command::Reproduce(command) => command.run(&context),
        Command::Doctor(command) => command.run(&context),
        Command::Completions(command) => command.run::<Cli>(),
    }
}

/// The error and its causes in one line; a cause that its error has told already is not told again.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
