//! Scores of a language model on a text.
//!
//! A model gives each token `t_i` of a text a probability. From the total negative log-likelihood
//! `nll = -sum_i ln p(t_i | t_<i)` in nats follow
//!
//! ```text
//! per token          nll / tokens
//! token perplexity   exp(nll / tokens)      depends on the tokeniser
//! word perplexity    exp(nll / words)       words of the original text, as lm-eval's `wikitext` counts
//! bits per byte      nll / (bytes ln 2)     the same meaning for every tokeniser
//! ```
//!
//! Token and word perplexity differ by much (a model with 5.5 per token has 8.8 per word): never put
//! them into one column. Bits per byte compares models with different tokenisers.
//!
//! # Example
//! ```
//! use sparseland_eval::lm::LanguageModelScore;
//!
//! // Two windows of a text, each token with probability 1/4.
//! let nll = |tokens: u64| tokens as f64 * 4_f64.ln();
//! let mut score = LanguageModelScore::new(100, 400, nll(100)).with_words(80);
//! score.merge(&LanguageModelScore::new(50, 200, nll(50)).with_words(40));
//! assert!((score.perplexity().unwrap() - 4.0).abs() < 1e-12);
//! assert!((score.bits_per_byte().unwrap() - 0.5).abs() < 1e-12);
//! assert!((score.word_perplexity().unwrap() - 4_f64.powf(1.25)).abs() < 1e-12);
//! ```

use serde::{Deserialize, Serialize};

/// Total likelihood of a text and the counts to divide it by.
///
/// Every rate is `None` where its divisor is 0. A NaN or infinite `nll` stays visible in the rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageModelScore {
    /// Predicted tokens: for windows of `L` tokens, `L - 1` each.
    pub tokens: u64,
    /// Bytes of the text that the predicted tokens stand for.
    pub bytes: u64,
    /// Words of that text, if counted.
    pub words: Option<u64>,
    /// Total negative log-likelihood in nats, summed in `f64`.
    pub nll: f64,
}

impl Default for LanguageModelScore {
    /// Nothing scored yet: the neutral element of [`LanguageModelScore::merge`].
    fn default() -> Self {
        Self { tokens: 0, bytes: 0, words: Some(0), nll: 0.0 }
    }
}

impl LanguageModelScore {
    /// A score without a word count.
    pub fn new(tokens: u64, bytes: u64, nll: f64) -> Self {
        Self { tokens, bytes, words: None, nll }
    }

    /// The same score with a word count.
    pub fn with_words(self, words: u64) -> Self {
        Self { words: Some(words), ..self }
    }

    /// Adds the score of another text. The word count is lost if either side lacks it.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.words = self.words.zip(other.words).map(|(mine, theirs)| mine + theirs);
        self.nll += other.nll;
    }

    /// Mean negative log-likelihood of a token in nats, the usual training loss.
    pub fn nll_per_token(&self) -> Option<f64> {
        per(self.nll, self.tokens)
    }

    /// `exp` of the mean over tokens; infinite if that overflows.
    pub fn perplexity(&self) -> Option<f64> {
        self.nll_per_token().map(f64::exp)
    }

    /// Bits needed for each byte of text.
    pub fn bits_per_byte(&self) -> Option<f64> {
        per(self.nll, self.bytes).map(|nats| nats / std::f64::consts::LN_2)
    }

    /// `exp` of the mean over words; `None` also if words were not counted.
    pub fn word_perplexity(&self) -> Option<f64> {
        per(self.nll, self.words?).map(f64::exp)
    }
}

fn per(total: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| total / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_uniform_model_over_bytes_needs_eight_bits_each() {
        let score = LanguageModelScore::new(1000, 1000, 1000.0 * 256_f64.ln());
        assert!((score.bits_per_byte().unwrap() - 8.0).abs() < 1e-12);
        assert!((score.perplexity().unwrap() - 256.0).abs() < 1e-9);
        assert_eq!(score.word_perplexity(), None);
    }

    #[test]
    fn nothing_scored_has_no_rates() {
        let score = LanguageModelScore::default();
        let rates =
            [score.nll_per_token(), score.perplexity(), score.bits_per_byte(), score.word_perplexity()];
        assert_eq!(rates, [None; 4]);
    }

    #[test]
    fn a_broken_model_stays_visible() {
        assert!(LanguageModelScore::new(1, 1, f64::NAN).perplexity().unwrap().is_nan());
        assert_eq!(LanguageModelScore::new(1, 1, 1e4).perplexity(), Some(f64::INFINITY));
    }

    proptest! {
        #[test]
        fn merging_is_the_score_of_the_joined_text(
            parts in prop::collection::vec((1_u64..1000, 1_u64..5000, 1_u64..500, 0.0..8.0_f64), 1..20)
        ) {
            let mut merged = LanguageModelScore::default();
            for &(tokens, bytes, words, rate) in &parts {
                merged.merge(&LanguageModelScore::new(tokens, bytes, rate * tokens as f64).with_words(words));
            }
            let total = |pick: fn(&(u64, u64, u64, f64)) -> f64| parts.iter().map(pick).sum::<f64>();
            let nll = total(|part| part.3 * part.0 as f64);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs().max(1.0);
            prop_assert!(close(merged.nll_per_token().unwrap(), nll / total(|part| part.0 as f64)));
            prop_assert!(close(
                merged.bits_per_byte().unwrap(),
                nll / total(|part| part.1 as f64) / 2_f64.ln()
            ));
            let words = (nll / total(|part| part.2 as f64)).exp();
            let measured = merged.word_perplexity().unwrap();
            prop_assert!(measured == words || (measured / words - 1.0).abs() < 1e-9);
            // One part without a word count leaves the whole without.
            merged.merge(&LanguageModelScore::new(1, 1, 1.0));
            prop_assert_eq!(merged.words, None);
        }
    }
}
