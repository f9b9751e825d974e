//! One file per command.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod compress;
pub mod doctor;
pub mod eval;
pub mod fit;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod methods;
pub mod predict;
pub mod reproduce;
pub mod screen;
pub mod table;
pub mod train;

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// Prints one JSON value on stdout.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    print_text(&format!("{text}\n"))
}

/// Prints text on stdout; a closed pipe is an error value, not a panic.
pub fn print_text(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
