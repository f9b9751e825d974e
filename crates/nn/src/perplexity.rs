//! How well a decoder predicts a text, under three conventions that must never share a table.
//!
//! | convention | tokens predicted | used by |
//! |---|---|---|
//! | windows | all but the first of every window; the remainder is dropped | GPTQ, SparseGPT, Wanda, SVD-LLM |
//! | rolling | every token exactly once, the first one from a begin (or end) token | lm-eval `wikitext` |
//! | documents | all but the first of every document, cut to one window | small story models |

use sparseland_core::{Context, Event};
use sparseland_eval::lm::LanguageModelScore;

use crate::block::Workspace;
use crate::{Decoder, NnError, Tokenizer};

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

/// Scores a text.
///
/// # Errors
/// [`NnError::ShortText`] if nothing can be predicted; [`NnError::Cancelled`].
pub fn score(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    documents: &[String],
    convention: Convention,
    context: &Context,
) -> Result<LanguageModelScore, NnError> {
    let windows = match convention {
        Convention::Windows { length } => {
            let text = documents.join("\n\n");
            let encoding = tokenizer.encode(&text, true)?;
            let whole = encoding.ids.len() / length.max(2) * length.max(2);
            let starts = (0..whole).step_by(length.max(2));
            starts.map(|s| plain_window(&encoding.ids, &encoding.ends, s, s + length.max(2))).collect()
        }
        Convention::Documents { max_length } => {
            let mut windows = Vec::new();
            for document in documents {
                let encoding = tokenizer.encode(document, true)?;
                let end = encoding.ids.len().min(max_length.max(2));
                if end >= 2 {
                    windows.push(plain_window(&encoding.ids, &encoding.ends, 0, end));
                }
            }
            windows
        }
        Convention::Rolling { length } => {
            let prefix = tokenizer.bos().or(tokenizer.eos().first().copied()).unwrap_or(0);
            let mut windows = Vec::new();
            for document in documents {
                let encoding = tokenizer.encode(document, false)?;
                windows.extend(rolling_windows(
                    &encoding.ids,
                    &encoding.ends,
                    prefix,
                    length.max(1),
                    document,
                ));
            }
            windows
        }
    };
    if windows.is_empty() {
        let mut tokens = 0;
        for document in documents {
            tokens += tokenizer.encode(document, true)?.ids.len();
        }
        let needed = match convention {
            Convention::Windows { length } => length,
            Convention::Rolling { .. } => 1,
            Convention::Documents { .. } => 2,
        };
        return Err(NnError::ShortText { tokens, needed });
    }
    let mut total = LanguageModelScore::new(0, 0, 0.0).with_words(0);
    let mut workspace = Workspace::new(decoder.config());
    context.report(Event::Stage { name: "scoring", total: windows.len() });
    for (done, window) in windows.iter().enumerate() {
        context.check_cancelled()?;
        let nll = context.install(|| window_nll(decoder, window, &mut workspace))?;
        total.merge(
            &LanguageModelScore::new(window.predicted as u64, window.bytes, nll).with_words(window.words),
        );
        context.report(Event::Step { done: done + 1, message: "" });
    }
    Ok(total)
}

/// A forward pass: its inputs, and the targets of the last `predicted` of them.
struct Window {
    inputs: Vec<u32>,
    targets: Vec<u32>,
    predicted: usize,
    bytes: u64,
    words: u64,
}

/// Tokens `start..end`, of which all but the first are predicted.
fn plain_window(ids: &[u32], ends: &[usize], start: usize, end: usize) -> Window {
    Window {
        inputs: ids[start..end - 1].to_vec(),
        targets: ids[start + 1..end].to_vec(),
        predicted: end - 1 - start,
        bytes: (ends[end - 1] - ends[start]) as u64,
        words: 0,
    }
}

/// As lm-eval: the first window predicts its tokens from the prefix token on; each later one is as long
/// as possible, reaching back into known text where fewer than `length` tokens are left.
fn rolling_windows(ids: &[u32], ends: &[usize], prefix: u32, length: usize, text: &str) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut from = 0;
    while from < ids.len() {
        let to = (from + length).min(ids.len());
        let predicted = to - from;
        let inputs = if from == 0 {
            std::iter::once(prefix).chain(ids[..to - 1].iter().copied()).collect()
        } else {
            ids[to.saturating_sub(length + 1)..to - 1].to_vec()
        };
        let before = if from == 0 { 0 } else { ends[from - 1] };
        windows.push(Window {
            inputs,
            targets: ids[from..to].to_vec(),
            predicted,
            bytes: (ends[to - 1] - before) as u64,
            words: 0,
        });
        from = to;
    }
    if let Some(first) = windows.first_mut() {
        first.words = words(text);
    }
    windows
}

/// Words as lm-eval counts them: the pieces between runs of white space, empty ones at the ends included.
fn words(text: &str) -> u64 {
    let starts = |(before, now): (char, char)| now.is_whitespace() && !before.is_whitespace();
    let runs = std::iter::once('x').chain(text.chars()).zip(text.chars()).filter(|&p| starts(p)).count();
    runs as u64 + 1
}

/// Negative log-likelihood of the window's targets in nats.
fn window_nll(decoder: &Decoder, window: &Window, workspace: &mut Workspace) -> Result<f64, NnError> {
    let hidden = decoder.hidden_states(&window.inputs, workspace)?;
    let (width, vocabulary) = (decoder.config().hidden_size, decoder.config().vocab_size);
    let tail = &hidden[(window.inputs.len() - window.predicted) * width..];
    let (mut normed, mut logits) = (Vec::new(), Vec::new());
    let mut nll = 0.0;
    for (rows, targets) in tail.chunks(ROWS * width).zip(window.targets.chunks(ROWS)) {
        decoder.head(rows, targets.len(), &mut normed, &mut logits);
        for (row, &target) in logits.chunks_exact(vocabulary).zip(targets) {
            nll += log_sum_exp(row) - f64::from(row[target as usize]);
        }
    }
    Ok(nll)
}

/// `ln sum exp`, summed in f64.
fn log_sum_exp(row: &[f32]) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&v| f64::from((v - top).exp())).sum();
    f64::from(top) + sum.ln()
}
