//! Generation: greedy or sampled continuation of a prompt.

use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_core::Context;

use crate::tokenizer::Streaming;
use crate::{Decoder, KvCache, NnError, Tokenizer};

/// Candidates sorted first in search of those that reach `top_p`; where they do not, eight times as many.
const FIRST_SORTED: usize = 64;

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
            return Err(NnError::Setting(format!(
                "temperature {} is not a number from 0 up",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(NnError::Setting(format!("top-p {} is not in (0, 1]", self.top_p)));
        }
        Ok(())
    }

    /// The candidates with their probabilities, which sum to 1; likeliest first where `top_k` or
    /// `top_p` cut some off.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        // Ties go to the smaller token, so that results repeat.
        let likelier = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        let tokens = 0..logits.len() as u32;
        let Some(best) = tokens.clone().min_by(likelier) else { return Vec::new() };
        if self.temperature == 0.0 {
            return vec![(best, 1.0)];
        }
        let mut order: Vec<u32> = tokens.collect();
        // Sorts the likeliest `count` to the front; sorting a whole vocabulary would take longer than
        // a small model's forward pass.
        let sort_front = |order: &mut [u32], count: usize| {
            if count < order.len() {
                order.select_nth_unstable_by(count, likelier);
            }
            order[..count].sort_unstable_by(likelier);
        };
        if (1..order.len()).contains(&self.top_k) {
            sort_front(&mut order, self.top_k);
            order.truncate(self.top_k);
        }
        let top = f64::from(logits[best as usize]);
        let weight = |t: u32| ((f64::from(logits[t as usize]) - top) / f64::from(self.temperature)).exp();
        if self.top_p < 1.0 {
            let enough = f64::from(self.top_p) * order.iter().map(|&t| weight(t)).sum::<f64>();
            let mut sorted = FIRST_SORTED.min(order.len());
            let kept = loop {
                sort_front(&mut order, sorted);
                let mut reached = 0.0;
                let last = order[..sorted].iter().position(|&t| {
                    reached += weight(t);
                    reached >= enough
                });
                match last {
                    Some(last) => break last + 1,
                    None if sorted == order.len() => break sorted,
                    None => sorted = (sorted * 8).min(order.len()),
                }
            };
            order.truncate(kept);
        }
        let mut candidates: Vec<(u32, f64)> = order.into_iter().map(|t| (t, weight(t))).collect();
        let total: f64 = candidates.iter().map(|c| c.1).sum();
        candidates.iter_mut().for_each(|c| c.1 /= total);
        candidates
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
        // Rounding left a sliver: it belongs to the last candidate that is possible at all.
        candidates.iter().rev().find(|c| c.1 > 0.0).map_or(0, |c| c.0)
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
/// An empty prompt stands for the token that begins (or else ends) a text. Times include the choice of
/// tokens and what `piece` does.
///
/// # Errors
/// If the prompt is longer than the context, a setting is impossible, the model's output is not a
/// number, or the run is cancelled.
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
    if ids.is_empty() {
        return Err(NnError::ShortText { tokens: 0, needed: 1 });
    }
    if ids.len() > limit {
        return Err(NnError::Context { tokens: ids.len(), context: limit });
    }
    context.install(|| {
        let mut cache = KvCache::new(decoder.config(), limit.min(ids.len().saturating_add(tokens)));
        let mut rng = Pcg64::seed_from_u64(sampler.seed);
        let mut streaming = Streaming::after(&ids);
        let mut choose = |logits: &[f32], position: usize| match logits.iter().find(|v| !v.is_finite()) {
            None => Ok(sampler.draw(logits, &mut rng)),
            Some(&value) => Err(NnError::NotFinite { position, value }),
        };
        let began = Instant::now();
        let mut next = choose(decoder.prefill(&ids, &mut cache)?, ids.len())?;
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
            next = choose(decoder.forward_one(next, &mut cache)?, ids.len() + new.len())?;
        }
        let text = streaming.finish(tokenizer)?;
        if !text.is_empty() {
            piece(&text);
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

    fn at(temperature: f32, top_k: usize, top_p: f32) -> Sampler {
        Sampler { temperature, top_k, top_p, seed: 0 }
    }

    #[test]
    fn candidates_follow_the_definitions() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln(), 0.0];
        assert_eq!(Sampler::default().candidates(&logits), [(2, 1.0)]);
        let close = |sampler: Sampler, expected: &[(u32, f64)]| {
            let mut got = sampler.candidates(&logits);
            got.sort_by_key(|c| c.0);
            assert_eq!(got.len(), expected.len(), "{sampler:?}");
            for ((t, p), (u, q)) in got.iter().zip(expected) {
                assert!(t == u && (p - q).abs() < 1e-6, "{sampler:?}: {got:?}");
            }
        };
        let ninths = [(0, 1.0 / 9.0), (1, 2.0 / 9.0), (2, 5.0 / 9.0), (3, 1.0 / 9.0)];
        close(at(1.0, 0, 1.0), &ninths);
        close(at(1.0, 9, 1.0), &ninths);
        // Half the temperature squares the weights.
        close(at(0.5, 0, 1.0), &[(0, 1.0 / 31.0), (1, 4.0 / 31.0), (2, 25.0 / 31.0), (3, 1.0 / 31.0)]);
        close(at(1.0, 2, 1.0), &[(1, 2.0 / 7.0), (2, 5.0 / 7.0)]);
        // Of equals the smaller token.
        close(at(1.0, 3, 1.0), &[(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0 / 8.0)]);
        // The first token alone reaches 0.5, two reach 0.6; after top-k 2 the first has 5/7.
        close(at(1.0, 0, 0.5), &[(2, 1.0)]);
        close(at(1.0, 0, 0.6), &[(1, 2.0 / 7.0), (2, 5.0 / 7.0)]);
        close(at(1.0, 2, 0.7), &[(2, 1.0)]);
        close(at(1.0, 2, 0.72), &[(1, 2.0 / 7.0), (2, 5.0 / 7.0)]);
    }

    #[test]
    fn candidates_of_a_large_vocabulary_equal_those_of_a_full_sort() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 4999) as f32 / 1000.0).collect();
        for (top_k, top_p) in [(0, 0.05), (0, 0.5), (0, 0.99), (0, 0.999_999_9), (700, 0.9), (40, 1.0)] {
            let mut order: Vec<u32> = (0..5000).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            order.truncate(if top_k == 0 { 5000 } else { top_k });
            let weights: Vec<f64> = order.iter().map(|&t| f64::from(logits[t as usize]).exp()).collect();
            let (mut kept, mut reached, total) = (0, 0.0, weights.iter().sum::<f64>());
            while kept < order.len() && reached < f64::from(top_p) * total {
                reached += weights[kept];
                kept += 1;
            }
            let got: Vec<u32> = at(1.0, top_k, top_p).candidates(&logits).iter().map(|c| c.0).collect();
            // Sums in another order may differ by one candidate at the edge.
            assert!(got.len().abs_diff(kept) <= 1, "{top_k} {top_p}: {} for {kept}", got.len());
            let both = got.len().min(kept);
            assert_eq!(got[..both], order[..both], "{top_k} {top_p}");
        }
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
