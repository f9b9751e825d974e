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
    /// For each token the byte of the text at which it ends, never falling; special tokens end where the
    /// token before them does.
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
        Self::from_bytes(&checkpoint.read_file("tokenizer.json")?, &config)
    }

    /// The tokenizer of a `tokenizer.json` at hand, for a model of the given configuration.
    ///
    /// # Errors
    /// If it is not understood.
    pub fn from_bytes(bytes: &[u8], config: &ModelConfig) -> Result<Self, NnError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(wrap)?;
        // Some files ask for texts to be cut or filled up to one length: never what is meant here.
        inner.with_truncation(None).map_err(wrap)?;
        inner.with_padding(None);
        Ok(Self { inner, bos: config.bos, eos: config.eos.clone() })
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
///
/// Every piece is what a token adds to the text of the tokens since the piece before the last one: some
/// decoders treat the first token of a text differently, so that the new tokens alone would not do.
#[derive(Debug, Clone, Default)]
pub struct Streaming {
    /// The tokens since the piece before the last one.
    ids: Vec<u32>,
    /// How many of them have been shown.
    shown: usize,
}

impl Streaming {
    /// Starts after tokens whose text is known, such as those of a prompt.
    pub fn after(ids: &[u32]) -> Self {
        Self { shown: ids.len(), ids: ids.to_vec() }
    }

    /// The text that `token` adds; empty while a character is incomplete.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: u32, tokenizer: &Tokenizer) -> Result<String, NnError> {
        self.ids.push(token);
        self.piece(tokenizer, false)
    }

    /// The text that is left at the end: an incomplete character, as the tokenizer shows it.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, NnError> {
        self.piece(tokenizer, true)
    }

    fn piece(&mut self, tokenizer: &Tokenizer, last: bool) -> Result<String, NnError> {
        let known = tokenizer.decode(&self.ids[..self.shown])?;
        let text = tokenizer.decode(&self.ids)?;
        // A trailing replacement character is a byte sequence still under way.
        if !last && text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let piece = match text.strip_prefix(known.as_str()) {
            Some(piece) => piece.to_owned(),
            // Broken bytes changed what has been shown: go on after as many characters.
            None => text.chars().skip(known.chars().count()).collect(),
        };
        if !piece.is_empty() {
            self.ids.drain(..self.shown);
            self.shown = self.ids.len();
        }
        Ok(piece)
    }
}
