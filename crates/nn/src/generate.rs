//! Generation: greedy or sampled continuation of a prompt.

use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_core::Context;

use crate::tokenizer::Streaming;
use crate::{Decoder, KvCache, NnError, Tokenizer};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Choose among this many likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Choose among the likeliest tokens that together reach this probability.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampler {
    /// Refuses settings that mean nothing.
    fn check(&self) -> Result<(), NnError> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return Err(NnError::Sampler(format!(
                "temperature {} is not a number from 0 up",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(NnError::Sampler(format!("top-p {} is not in (0, 1]", self.top_p)));
        }
        Ok(())
    }

    /// The candidates with their probabilities, likeliest first; they sum to 1.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Ties go to the smaller token, so that results repeat.
        order.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        if self.temperature == 0.0 {
            return order.first().map(|&t| (t, 1.0)).into_iter().collect();
        }
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = order.first().map_or(0.0, |&t| f64::from(logits[t as usize]));
        let weight = |t: u32| ((f64::from(logits[t as usize]) - top) / f64::from(self.temperature)).exp();
        let weights: Vec<f64> = order.iter().map(|&t| weight(t)).collect();
        let total: f64 = weights.iter().sum();
        let (mut kept, mut reached) = (0, 0.0);
        while kept < weights.len() && reached < f64::from(self.top_p) * total {
            reached += weights[kept];
            kept += 1;
        }
        let kept = kept.max(1).min(order.len());
        let total: f64 = weights[..kept].iter().sum();
        order[..kept].iter().zip(&weights).map(|(&t, w)| (t, w / total)).collect()
    }

    fn draw(&self, logits: &[f32], rng: &mut Pcg64) -> u32 {
        let candidates = self.candidates(logits);
        let mut left: f64 = if candidates.len() > 1 { rng.random() } else { 0.0 };
        for &(token, p) in &candidates {
            left -= p;
            if left < 0.0 {
                return token;
            }
        }
        candidates.last().map_or(0, |c| c.0)
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model ended the text.
    End,
    /// As many tokens as asked for.
    Length,
    /// The model's context is full.
    Context,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::End => "ended by the model",
            Self::Length => "as long as asked",
            Self::Context => "the context is full",
        })
    }
}

/// What was generated.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Speed of reading the prompt.
    pub prompt_tokens_per_second: f64,
    /// Speed of generating.
    pub decode_tokens_per_second: f64,
}

/// Continues `prompt` by at most `tokens` tokens; `piece` receives the new text as it comes.
///
/// # Errors
/// If the prompt is longer than the context, a setting is impossible, or the run is cancelled.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &str,
    tokens: usize,
    sampler: &Sampler,
    context: &Context,
    piece: &mut (dyn FnMut(&str) + Send),
) -> Result<Generation, NnError> {
    sampler.check()?;
    let mut ids = tokenizer.encode(prompt, true)?.ids;
    if ids.is_empty() {
        ids.extend(tokenizer.bos().or(tokenizer.eos().first().copied()));
    }
    let limit = decoder.config().max_position_embeddings;
    if ids.is_empty() || ids.len() > limit {
        return Err(NnError::Context { tokens: ids.len(), context: limit });
    }
    context.install(|| {
        let mut cache = KvCache::new(decoder.config(), limit.min(ids.len() + tokens));
        let mut rng = Pcg64::seed_from_u64(sampler.seed);
        let mut streaming = Streaming::after(&ids, tokenizer)?;
        let began = Instant::now();
        let mut next = sampler.draw(decoder.prefill(&ids, &mut cache)?, &mut rng);
        let prompt_seconds = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let (mut new, mut stop) = (Vec::new(), Stop::Length);
        while new.len() < tokens {
            context.check_cancelled()?;
            if tokenizer.eos().contains(&next) {
                stop = Stop::End;
                break;
            }
            new.push(next);
            let text = streaming.push(next, tokenizer)?;
            if !text.is_empty() {
                piece(&text);
            }
            if new.len() == tokens {
                break;
            }
            if cache.len() == limit {
                stop = Stop::Context;
                break;
            }
            next = sampler.draw(decoder.forward_one(next, &mut cache)?, &mut rng);
        }
        let steps = new.len().saturating_sub(1);
        Ok(Generation {
            stop,
            prompt_tokens_per_second: ids.len() as f64 / prompt_seconds,
            decode_tokens_per_second: steps as f64 / began.elapsed().as_secs_f64(),
            tokens: new,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_follow_the_definitions() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln(), 0.0];
        let probabilities = |s: Sampler| s.candidates(&logits);
        assert_eq!(probabilities(Sampler::default()), [(2, 1.0)]);
        let all = probabilities(Sampler { temperature: 1.0, ..Sampler::default() });
        let expected = [(2, 5.0 / 9.0), (1, 2.0 / 9.0), (0, 1.0 / 9.0), (3, 1.0 / 9.0)];
        for ((t, p), (u, q)) in all.iter().zip(expected) {
            assert!(*t == u && (p - q).abs() < 1e-6);
        }
        let two = probabilities(Sampler { temperature: 1.0, top_k: 2, ..Sampler::default() });
        assert!(two.len() == 2 && (two[0].1 - 5.0 / 7.0).abs() < 1e-6);
        // The first token alone reaches 0.5, two reach 0.6.
        assert_eq!(probabilities(Sampler { temperature: 1.0, top_p: 0.5, ..Sampler::default() }).len(), 1);
        assert_eq!(probabilities(Sampler { temperature: 1.0, top_p: 0.6, ..Sampler::default() }).len(), 2);
    }

    #[test]
    fn draws_have_the_right_frequencies_and_repeat() {
        let logits = [0.0, 1.0, -1.0];
        let sampler = Sampler { temperature: 0.7, ..Sampler::default() };
        let draws = |seed| {
            let mut rng = Pcg64::seed_from_u64(seed);
            (0..20_000).map(|_| sampler.draw(&logits, &mut rng)).collect::<Vec<_>>()
        };
        let first = draws(1);
        assert_eq!(first, draws(1));
        for (token, p) in sampler.candidates(&logits) {
            let seen = first.iter().filter(|&&t| t == token).count() as f64 / first.len() as f64;
            // Five standard deviations.
            assert!((seen - p).abs() < 5.0 * (p * (1.0 - p) / first.len() as f64).sqrt());
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(Sampler { temperature, top_p, ..Sampler::default() }.check().is_err());
        }
    }
}
