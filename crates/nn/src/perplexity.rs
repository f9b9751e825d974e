//! How well a decoder predicts a text, under three conventions that must never share a table.
//!
//! | convention | tokens predicted | used by |
//! |---|---|---|
//! | windows | all but the first of every window; the remainder is dropped | GPTQ, SparseGPT, Wanda, SVD-LLM |
//! | rolling | every token exactly once, the first one from a begin (or end) token | lm-eval `wikitext` |
//! | documents | all but the first of every document, cut to one window | small story models |

use rayon::prelude::*;
use sparseland_core::{Context, Event};
use sparseland_eval::lm::LanguageModelScore;

use crate::block::Workspace;
use crate::config::RopeScaling;
use crate::math::log_sum_exp;
use crate::{Decoder, Encoding, ModelConfig, NnError, Tokenizer};

/// Which tokens are predicted from which context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Documents joined by an empty line, cut into windows of `length` tokens.
    Windows {
        /// Tokens per window, at least 2.
        length: usize,
    },
    /// Each document on its own, every token once, in windows of `length` that begin with the token
    /// before them.
    Rolling {
        /// Tokens per window, at least 1.
        length: usize,
    },
    /// Each document on its own, cut to its first tokens.
    Documents {
        /// Tokens kept, at least 2.
        max_length: usize,
    },
}

/// Rows of logits held at a time.
const ROWS: usize = 64;

impl Convention {
    /// The most tokens that a forward pass reads.
    fn length(self) -> usize {
        match self {
            Self::Windows { length } | Self::Rolling { length } | Self::Documents { max_length: length } => {
                length
            }
        }
    }

    /// The fewest tokens that can be scored, of the text or of one document.
    fn needed(self) -> usize {
        match self {
            Self::Windows { length } => length,
            Self::Rolling { .. } => 1,
            Self::Documents { .. } => 2,
        }
    }

    /// Refuses windows that hold nothing to predict or that the model was not made for.
    fn check(self, config: &ModelConfig) -> Result<(), NnError> {
        let (length, context) = (self.length(), config.max_position_embeddings);
        let fewest = if matches!(self, Self::Rolling { .. }) { 1 } else { 2 };
        if length < fewest {
            return Err(NnError::Setting(format!(
                "windows of {length} tokens predict nothing; take {fewest} or more"
            )));
        }
        if length > context && !matches!(config.rope_scaling, RopeScaling::Dynamic { .. }) {
            return Err(NnError::Setting(format!(
                "windows of {length} tokens exceed the model's context of {context}; take shorter ones"
            )));
        }
        Ok(())
    }
}

/// Scores a text: `nll`, predicted tokens and the bytes of text that they cover, under
/// [`Convention::Rolling`] also words. Documents too short to predict a token are left out.
///
/// # Errors
/// [`NnError::ShortText`] if nothing can be predicted; [`NnError::Setting`] for an impossible window;
/// [`NnError::Config`] for rolling windows without a token to begin with; [`NnError::Cancelled`].
pub fn score(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    documents: &[String],
    convention: Convention,
    context: &Context,
) -> Result<LanguageModelScore, NnError> {
    convention.check(decoder.config())?;
    let mut windows = Vec::new();
    // The longest text seen, for the message where all are too short.
    let mut tokens = 0;
    let mut encode = |text: &str, special| {
        let encoding = tokenizer.encode(text, special)?;
        tokens = encoding.ids.len().max(tokens);
        Ok::<_, NnError>(encoding)
    };
    match convention {
        Convention::Windows { length } => {
            let encoding = encode(&documents.join("\n\n"), true)?;
            let starts = (0..encoding.ids.len() / length).map(|i| i * length);
            windows.extend(starts.map(|start| plain_window(&encoding, start, start + length)));
        }
        Convention::Documents { max_length } => {
            for document in documents {
                let encoding = encode(document, true)?;
                let end = encoding.ids.len().min(max_length);
                if end >= convention.needed() {
                    windows.push(plain_window(&encoding, 0, end));
                }
            }
        }
        Convention::Rolling { length } => {
            let prefix = tokenizer.bos().or(tokenizer.eos().first().copied()).ok_or_else(|| {
                NnError::Config(
                    "rolling scores begin with `bos_token_id` or `eos_token_id`; neither is there".into(),
                )
            })?;
            for document in documents {
                windows.extend(rolling_windows(&encode(document, false)?, prefix, length, document));
            }
        }
    }
    if windows.is_empty() {
        return Err(NnError::ShortText { tokens, needed: convention.needed() });
    }
    let mut total = LanguageModelScore::default();
    let mut workspace = Workspace::new(decoder.config());
    context.report(Event::Stage { name: "scoring", total: windows.len() });
    for (done, window) in windows.iter().enumerate() {
        context.check_cancelled()?;
        let nll = context.install(|| window_nll(decoder, window, &mut workspace))?;
        let score = LanguageModelScore::new(window.targets.len() as u64, window.bytes, nll);
        total.merge(&LanguageModelScore { words: window.words, ..score });
        context.report(Event::Step { done: done + 1, message: "" });
    }
    Ok(total)
}

/// A forward pass: its inputs, and the targets of the last of them.
#[derive(Debug, PartialEq)]
struct Window {
    inputs: Vec<u32>,
    targets: Vec<u32>,
    /// Bytes of text that the targets cover.
    bytes: u64,
    /// Words of the text, where counted: all with a document's first window.
    words: Option<u64>,
}

/// Tokens `start..end`, of which all but the first are predicted.
fn plain_window(encoding: &Encoding, start: usize, end: usize) -> Window {
    Window {
        inputs: encoding.ids[start..end - 1].to_vec(),
        targets: encoding.ids[start + 1..end].to_vec(),
        bytes: (encoding.ends[end - 1] - encoding.ends[start]) as u64,
        words: None,
    }
}

/// As lm-eval: the first window predicts its tokens from the prefix token on; each later one predicts
/// the next `length` tokens, and where fewer are left reaches back into known text.
fn rolling_windows(encoding: &Encoding, prefix: u32, length: usize, text: &str) -> Vec<Window> {
    let Encoding { ids, ends } = encoding;
    let mut windows = Vec::new();
    for from in (0..ids.len()).step_by(length) {
        let to = (from + length).min(ids.len());
        let inputs = match from {
            0 => std::iter::once(prefix).chain(ids[..to - 1].iter().copied()).collect(),
            _ => ids[to - length - 1..to - 1].to_vec(),
        };
        let before = if from == 0 { 0 } else { ends[from - 1] };
        windows.push(Window {
            inputs,
            targets: ids[from..to].to_vec(),
            bytes: (ends[to - 1] - before) as u64,
            words: Some(if from == 0 { words(text) } else { 0 }),
        });
    }
    windows
}

/// Words as lm-eval counts them, the pieces of Python's `re.split(r"\s+", text)`: empty ones at the ends
/// included.
fn words(text: &str) -> u64 {
    let blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    let mut before = false;
    let mut runs = 0;
    for c in text.chars() {
        let now = blank(c);
        runs += u64::from(now && !before);
        before = now;
    }
    runs + 1
}

/// Negative log-likelihood of the window's targets in nats.
fn window_nll(decoder: &Decoder, window: &Window, workspace: &mut Workspace) -> Result<f64, NnError> {
    let hidden = decoder.hidden_states(&window.inputs, workspace)?;
    let width = decoder.config().hidden_size;
    let tail = &hidden[(window.inputs.len() - window.targets.len()) * width..];
    states_nll(decoder, tail, &window.targets)
}

/// Negative log-likelihood in nats, summed, of `targets` given the hidden states before the last norm,
/// `targets x hidden`.
///
/// # Errors
/// [`NnError::Token`] for a target outside the vocabulary.
pub fn states_nll(decoder: &Decoder, states: &[f32], targets: &[u32]) -> Result<f64, NnError> {
    let (width, vocabulary) = (decoder.config().hidden_size, decoder.config().vocab_size);
    if let Some(&token) = targets.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(NnError::Token { token, vocabulary });
    }
    let (mut normed, mut logits) = (Vec::new(), Vec::new());
    let mut nll = 0.0;
    for (rows, targets) in states.chunks(ROWS * width).zip(targets.chunks(ROWS)) {
        decoder.head(rows, targets.len(), &mut normed, &mut logits);
        let losses = logits.par_chunks_exact(vocabulary).zip(targets);
        let losses = losses.map(|(row, &target)| log_sum_exp(row) - f64::from(row[target as usize]));
        // Collected, so that the order of the sum does not depend on the threads.
        nll += losses.collect::<Vec<f64>>().into_iter().sum::<f64>();
    }
    Ok(nll)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 10, 11, ... of 1, 2, 3, ... bytes.
    fn encoding(tokens: usize) -> Encoding {
        let ids = (0..tokens as u32).map(|i| i + 10).collect();
        let ends = (1..=tokens).map(|i| i * (i + 1) / 2).collect();
        Encoding { ids, ends }
    }

    #[test]
    fn rolling_windows_predict_every_token_once() {
        for tokens in 0..20 {
            for length in 1..8 {
                let encoding = encoding(tokens);
                let windows = rolling_windows(&encoding, 7, length, "two words");
                let targets: Vec<u32> = windows.iter().flat_map(|w| w.targets.clone()).collect();
                assert_eq!(targets, encoding.ids);
                let bytes: u64 = windows.iter().map(|w| w.bytes).sum();
                assert_eq!(bytes as usize, encoding.ends.last().copied().unwrap_or(0));
                for (i, w) in windows.iter().enumerate() {
                    assert!(w.inputs.len() == length || i == 0, "later windows are filled");
                    assert_eq!(w.words, Some(if i == 0 { 2 } else { 0 }));
                    // Every target follows its input.
                    let inputs = &w.inputs[w.inputs.len() - w.targets.len()..];
                    for (input, target) in inputs.iter().zip(&w.targets) {
                        assert_eq!(*input, if *target == 10 { 7 } else { target - 1 });
                    }
                }
            }
        }
    }

    #[test]
    fn plain_windows_predict_all_but_the_first() {
        let window = plain_window(&encoding(9), 3, 7);
        let expected =
            Window { inputs: vec![13, 14, 15], targets: vec![14, 15, 16], bytes: 5 + 6 + 7, words: None };
        assert_eq!(window, expected);
    }

    #[test]
    fn words_are_counted_as_python_splits_them() {
        let cases =
            [("", 1), ("one", 1), (" one", 2), ("one two\n\n three", 3), ("one\u{a0}two\x1f", 3), (" ", 2)];
        for (text, count) in cases {
            assert_eq!(words(text), count, "{text:?}");
        }
    }
}
