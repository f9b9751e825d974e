//! `sparseland methods`: what can be done, and by which paper.

use anyhow::{Result, bail};
use clap::Args;
use sparseland_core::{ParameterKind, When};
use sparseland_eval::table::{Column, Table};

use crate::registry;

/// Lists the methods, or shows one in full.
#[derive(Args)]
pub struct Methods {
    /// Show this method in full.
    slug: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Methods {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let methods: Vec<_> = match &self.slug {
            None => registry::methods().collect(),
            Some(slug) => match registry::find(slug) {
                Some(method) => vec![method],
                None => bail!("no method is called {slug:?}; `sparseland methods` lists them"),
            },
        };
        if self.json {
            super::print_json(&methods)?;
            return Ok(());
        }
        if self.slug.is_none() {
            let columns = ["method", "family", "year", "arXiv", "title"].map(Column::text);
            let mut table = Table::new(columns);
            for m in methods {
                let year = m.year.to_string();
                table.row([m.slug.into(), m.family.into(), year.into(), m.arxiv.into(), m.title.into()]);
            }
            return super::print_text(&table.to_string());
        }
        let mut text = String::new();
        for m in methods {
            text += &format!("{} ({}, {})\n  {}\n", m.slug, m.family, m.year, m.title);
            if let Some(arxiv) = m.arxiv {
                text += &format!("  arXiv {arxiv}\n");
            }
            text += &format!("  not for: {}\n", m.card.not_for);
            for p in m.parameters {
                let range = match p.kind {
                    ParameterKind::Real { min, max } => format!("{min} to {max}"),
                    ParameterKind::Integer { min, max } => format!("{min} to {max}"),
                    ParameterKind::Choice { of } => of.join(" | "),
                    ParameterKind::File => "a file".to_owned(),
                };
                let default = if p.default.is_empty() { "none" } else { p.default };
                let flag = if m.card.when == When::Fit { "--" } else { "--set " };
                text += &format!(
                    "  {flag}{}=... ({range}; default {default}, {})
",
                    p.name, p.source
                );
                text += &format!("      {}\n", p.help);
            }
        }
        super::print_text(&text)
    }
}
