//! Text to tokens and back, by the `tokenizer.json` of a checkpoint.

use sparseland_data::Checkpoint;

use crate::{ModelConfig, NnError};

/// The tokenizer of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
}

/// Tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token the byte of the text at which it ends; special tokens end where the token before
    /// them does.
    pub ends: Vec<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// If the checkpoint has none or it is not understood.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, NnError> {
        if !checkpoint.has_file("tokenizer.json") {
            return Err(NnError::Tokenizer(format!(
                "{} has none; copy it from the original model (slow tokenizer files alone are not read)",
                checkpoint.dir().display()
            )));
        }
        let config = ModelConfig::from_checkpoint(checkpoint)?;
        let bytes = checkpoint.read_file("tokenizer.json")?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes.as_ref()).map_err(wrap)?;
        Ok(Self { inner, bos: config.bos, eos: config.eos })
    }

    /// Token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Tokens of a text; `special` adds what the tokenizer puts around every text.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str, special: bool) -> Result<Encoding, NnError> {
        let encoding = self.inner.encode(text, special).map_err(wrap)?;
        let mut last = 0;
        let ends = encoding.get_offsets().iter().map(|&(_, end)| {
            last = end.max(last);
            last
        });
        let ends: Vec<usize> = ends.collect();
        Ok(Encoding { ids: encoding.get_ids().to_vec(), ends })
    }

    /// Text of tokens, special ones left out.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, NnError> {
        self.inner.decode(ids, true).map_err(wrap)
    }
}

fn wrap(error: tokenizers::Error) -> NnError {
    NnError::Tokenizer(error.to_string())
}

/// Turns a growing list of tokens into pieces of text that are whole characters.
#[derive(Debug, Default)]
pub(crate) struct Streaming {
    ids: Vec<u32>,
    shown: usize,
}

impl Streaming {
    /// Starts after `ids`, whose text is known.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(crate) fn after(ids: &[u32], tokenizer: &Tokenizer) -> Result<Self, NnError> {
        Ok(Self { ids: ids.to_vec(), shown: tokenizer.decode(ids)?.len() })
    }

    /// The text that `token` adds; empty while a character is incomplete.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(crate) fn push(&mut self, token: u32, tokenizer: &Tokenizer) -> Result<String, NnError> {
        self.ids.push(token);
        let text = tokenizer.decode(&self.ids)?;
        // A trailing replacement character is a byte sequence still under way.
        let whole = text.trim_end_matches('\u{fffd}').len();
        if whole <= self.shown || !text.is_char_boundary(self.shown) {
            return Ok(String::new());
        }
        let piece = text[self.shown..whole].to_owned();
        self.shown = whole;
        Ok(piece)
    }
}
