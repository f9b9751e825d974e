//! `sparseland eval DIR --text FILE`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparseland_core::Context;
use sparseland_nn::{Convention, Decoder, Tokenizer, score};

use crate::{bundled, model};

/// Measures how well a model predicts a text.
#[derive(Args)]
pub struct Eval {
    /// The checkpoint's directory; the bundled model if absent.
    model: Option<PathBuf>,
    /// The text (.txt or .jsonl, plain, .gz or .zst); the bundled evaluation stories if absent.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Which tokens are predicted from which context.
    #[arg(long, value_enum, default_value = "rolling")]
    convention: ConventionName,
    /// Tokens per window; at most the model's context.
    #[arg(long, default_value_t = 256, value_name = "N")]
    length: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Conventions of perplexity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConventionName {
    /// Every token is predicted exactly once, windows overlap by one token (lm-eval).
    Rolling,
    /// Windows do not overlap, the first token of each is not predicted, the remainder is dropped
    /// (GPTQ and its followers).
    Windows,
    /// Every document on its own, cut to one window.
    Documents,
}

#[derive(Serialize)]
struct Report {
    model: String,
    convention: String,
    window: usize,
    tokens: u64,
    bytes: u64,
    words: Option<u64>,
    nll_per_token: Option<f64>,
    perplexity: Option<f64>,
    word_perplexity: Option<f64>,
    bits_per_byte: Option<f64>,
    seconds: f64,
}

impl Eval {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let began = Instant::now();
        let (checkpoint, name) = model::open(self.model.as_deref())?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let text = match &self.text {
            Some(path) => sparseland_data::read_documents(path)?,
            None => bundled::stories(bundled::EVALUATION),
        };
        let decoder = Decoder::load(&checkpoint, context)?;
        let length = self.length.min(decoder.config().max_position_embeddings);
        let convention = match self.convention {
            ConventionName::Rolling => Convention::Rolling { length },
            ConventionName::Windows => Convention::Windows { length },
            ConventionName::Documents => Convention::Documents { max_length: length },
        };
        let score = score(&decoder, &tokenizer, &text, convention, context)?;
        let report = Report {
            model: name,
            convention: self.convention.to_possible_value().map_or(String::new(), |v| v.get_name().into()),
            window: length,
            tokens: score.tokens,
            bytes: score.bytes,
            words: score.words,
            nll_per_token: score.nll_per_token(),
            perplexity: score.perplexity(),
            word_perplexity: score.word_perplexity(),
            bits_per_byte: score.bits_per_byte(),
            seconds: began.elapsed().as_secs_f64(),
        };
        if self.json {
            return super::print_json(&report);
        }
        let show = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
        super::print_text(&format!(
            "{}: {} bits per byte, perplexity {} per token over {} tokens and {} bytes ({} windows of {}), {:.1} s\n",
            report.model,
            show(report.bits_per_byte),
            show(report.perplexity),
            report.tokens,
            report.bytes,
            report.convention,
            report.window,
            report.seconds,
        ))
    }
}
