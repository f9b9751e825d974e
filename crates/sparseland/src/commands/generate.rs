//! `sparseland generate DIR --prompt TEXT`: lets a model continue a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sparseland_core::{Context, Event};
use sparseland_nn::{Decoder, Sampler, Tokenizer, generate};

use crate::model;

/// Lets a model continue a text.
#[derive(Args)]
pub struct Generate {
    /// The checkpoint's directory; the bundled model if absent.
    model: Option<PathBuf>,
    /// The beginning of the text.
    #[arg(long, default_value = "The boat")]
    prompt: String,
    /// The most tokens to add.
    #[arg(long, default_value_t = 100, value_name = "N")]
    tokens: usize,
    /// 0 always takes the likeliest token; higher values are more varied.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Choose among this many likeliest tokens; 0 takes all.
    #[arg(long, default_value_t = 0, value_name = "N")]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    text: String,
    tokens: usize,
    stop: String,
    prompt_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

impl Generate {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let decoder = Decoder::load(&checkpoint, context)?;
        let sampler = Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: context.seed(),
        };
        let live = !self.json;
        let mut text = self.prompt.clone();
        if live {
            super::print_text(&self.prompt)?;
        }
        let mut failed = Ok(());
        let outcome =
            generate(&decoder, &tokenizer, &self.prompt, self.tokens, &sampler, context, &mut |piece| {
                text.push_str(piece);
                if live && failed.is_ok() {
                    failed = super::print_text(piece).and_then(|()| Ok(std::io::stdout().flush()?));
                }
            })?;
        failed?;
        let report = Report {
            model: name,
            text,
            tokens: outcome.tokens.len(),
            stop: outcome.stop.to_string(),
            prompt_tokens_per_second: outcome.prompt_tokens_per_second,
            decode_tokens_per_second: outcome.decode_tokens_per_second,
        };
        if self.json {
            return super::print_json(&report);
        }
        super::print_text("\n")?;
        context.report(Event::Line(&format!(
            "{} tokens, {}; prompt {:.0} and decode {:.0} tokens per second",
            report.tokens, report.stop, report.prompt_tokens_per_second, report.decode_tokens_per_second
        )));
        Ok(())
    }
}
