//! The project's own chores: `cargo xtask validate` runs every check of a commit, in the order in
//! which they are quickest to fail.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  validate   formatting, lints, tests, doc tests, docs, each feature alone, the README's main command";

/// One check: its name, the program with its arguments, and extra environment.
struct Check {
    name: &'static str,
    command: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

const CHECKS: &[Check] = &[
    Check { name: "format", command: &["cargo", "fmt", "--all", "--", "--check"], env: &[] },
    Check {
        name: "lints",
        command: &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        env: &[],
    },
    // The README's second command; it includes the doc tests and, with SPARSELAND_DATA, the real data.
    Check { name: "tests and doc tests", command: &["cargo", "test", "--workspace"], env: &[] },
    Check {
        name: "docs",
        command: &["cargo", "doc", "--workspace", "--no-deps", "--quiet"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    Check {
        name: "the README's main command",
        command: &["cargo", "run", "--release", "--", "compress", "--out", "target/validate-out"],
        env: &[],
    },
];

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("validate") => validate(),
        _ => {
            println!("{HELP}");
            Ok(())
        }
    }
}

fn validate() -> Result<()> {
    let start = Instant::now();
    // A leftover of an earlier run would be resumed instead of compressed anew.
    let _ = std::fs::remove_dir_all("target/validate-out");
    for check in CHECKS {
        let began = Instant::now();
        println!("== {}: {}", check.name, check.command.join(" "));
        let status = Command::new(check.command[0])
            .args(&check.command[1..])
            .envs(check.env.iter().copied())
            .status()
            .with_context(|| format!("cannot start {}", check.command[0]))?;
        if !status.success() {
            bail!("{} failed ({status}); run it alone: {}", check.name, check.command.join(" "));
        }
        println!("== {} passed in {:.0} s", check.name, began.elapsed().as_secs_f64());
    }
    println!("== all checks passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
