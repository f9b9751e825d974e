//! Causal attention over a key/value cache, with grouped heads and an optional window.
//!
//! Queries are taken in blocks of tokens, those of all query heads that share a key head together, so
//! memory is `O(block x keys)` per thread, not `O(tokens²)`. A block's scores and its weighted sum are
//! dense products. A single token, as in decoding, takes plain loops and no new memory.

use rayon::prelude::*;
use sparseland_matrix::{Dense, LinearMap, ValueType};

use crate::ModelConfig;
use crate::math::{dot, softmax, weighted_rows};

/// Query rows per block, over all heads that share keys: large enough for the products to be efficient,
/// small enough that little is computed and then masked.
const ROWS: usize = 128;

/// The fewest tokens per block.
const FEWEST: usize = 16;

/// Multiply-adds of one token from which its heads are worth several threads.
const PARALLEL: usize = 1 << 16;

/// Keys and values of one block's earlier tokens, head by head.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    /// `kv heads x capacity x head_dim`.
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    width: usize,
    capacity: usize,
    len: usize,
}

impl LayerCache {
    /// An empty cache.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let (heads, width) = (config.num_key_value_heads, config.head_dim);
        Self { keys: Vec::new(), values: Vec::new(), heads, width, capacity: 0, len: 0 }
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Forgets all tokens, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `capacity` tokens.
    pub(crate) fn reserve(&mut self, capacity: usize) {
        if capacity <= self.capacity {
            return;
        }
        let grow = |old: &[f32]| {
            let mut new = vec![0.0; self.heads * capacity * self.width];
            for h in 0..self.heads {
                let from = &old[h * self.capacity * self.width..][..self.len * self.width];
                new[h * capacity * self.width..][..from.len()].copy_from_slice(from);
            }
            new
        };
        self.keys = grow(&self.keys);
        self.values = grow(&self.values);
        self.capacity = capacity;
    }

    /// Appends `tokens` rows of keys and values.
    pub(crate) fn push(&mut self, config: &ModelConfig, keys: &[f32], values: &[f32], tokens: usize) {
        if self.len + tokens > self.capacity {
            self.reserve((self.len + tokens).max(2 * self.capacity));
        }
        let row = config.key_width();
        for t in 0..tokens {
            for h in 0..self.heads {
                let to = (h * self.capacity + self.len + t) * self.width;
                let from = t * row + h * self.width;
                self.keys[to..to + self.width].copy_from_slice(&keys[from..from + self.width]);
                self.values[to..to + self.width].copy_from_slice(&values[from..from + self.width]);
            }
        }
        self.len += tokens;
    }

    /// Keys and values `from..to` of one head, each `tokens x width`.
    fn head(&self, h: usize, from: usize, to: usize) -> (&[f32], &[f32]) {
        let base = h * self.capacity;
        let range = (base + from) * self.width..(base + to) * self.width;
        (&self.keys[range.clone()], &self.values[range])
    }
}

/// `out[t, h] = softmax(q[t, h] Kᵀ / sqrt(d)) V` over the keys that token `t` sees; the last `tokens`
/// entries of the cache belong to the queries.
pub(crate) fn attend(
    config: &ModelConfig,
    window: Option<usize>,
    cache: &LayerCache,
    queries: &[f32],
    tokens: usize,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    // The first key that the token at `position` sees.
    let earliest = |position: usize| window.map_or(0, |w| (position + 1).saturating_sub(w));
    if tokens == 1 {
        attend_one(config, cache, earliest(cache.len() - 1), queries, scores, out);
        return;
    }
    let (d, heads) = (config.head_dim, config.num_attention_heads);
    let group = heads / config.num_key_value_heads;
    let scale = 1.0 / (d as f32).sqrt();
    let first = cache.len() - tokens;
    let rows = (ROWS / group).max(FEWEST).min(tokens);
    let blocks = tokens.div_ceil(rows);
    // Rows are ordered by token, then by head within the group.
    let block = |item: usize| {
        let (shared, b) = (item / blocks, item % blocks);
        let (start, end) = (b * rows, ((b + 1) * rows).min(tokens));
        let count = (end - start) * group;
        let from = earliest(first + start);
        let (keys, values) = cache.head(shared, from, first + end);
        let n = first + end - from;
        let mut q = Vec::with_capacity(count * d);
        for t in start..end {
            let group_queries = &queries[(t * heads + shared * group) * d..][..group * d];
            q.extend(group_queries.iter().map(|v| v * scale));
        }
        let mut scores = vec![0.0; count * n];
        Dense::from_f32(n, d, keys, ValueType::F32).apply_batch(&q, count, &mut scores);
        for (r, row) in scores.chunks_exact_mut(n).enumerate() {
            let position = first + start + r / group;
            let (low, high) = (earliest(position) - from, position + 1 - from);
            row[..low].fill(0.0);
            row[high..].fill(0.0);
            softmax(&mut row[low..high]);
        }
        // The memory of the queries takes the result.
        Dense::from_f32(n, d, values, ValueType::F32).apply_transposed_batch(&scores, count, &mut q);
        q
    };
    let items = config.num_key_value_heads * blocks;
    let results: Vec<_> = (0..items).into_par_iter().with_max_len(1).map(block).collect();
    for (item, result) in results.iter().enumerate() {
        let (shared, start) = (item / blocks, item % blocks * rows);
        for (t, row) in result.chunks_exact(group * d).enumerate() {
            out[((start + t) * heads + shared * group) * d..][..group * d].copy_from_slice(row);
        }
    }
}

/// The last token alone.
fn attend_one(
    config: &ModelConfig,
    cache: &LayerCache,
    earliest: usize,
    queries: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (d, heads) = (config.head_dim, config.num_attention_heads);
    let (group, n) = (heads / config.num_key_value_heads, cache.len() - earliest);
    let scale = 1.0 / (d as f32).sqrt();
    scores.resize(heads * n, 0.0);
    let head = |((h, scores), out): ((usize, &mut [f32]), &mut [f32])| {
        let (keys, values) = cache.head(h / group, earliest, cache.len());
        let query = &queries[h * d..(h + 1) * d];
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
            *score = dot(query, key) * scale;
        }
        softmax(scores);
        weighted_rows(scores, values, out);
    };
    if heads * n * d < PARALLEL {
        scores.chunks_exact_mut(n).enumerate().zip(out.chunks_exact_mut(d)).for_each(head);
    } else {
        scores.par_chunks_exact_mut(n).enumerate().zip(out.par_chunks_exact_mut(d)).for_each(head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(heads: usize, shared: usize, d: usize) -> ModelConfig {
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": heads * d, "num_attention_heads": heads,
            "num_key_value_heads": shared, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 8,
        });
        ModelConfig::from_json(json.as_object().unwrap()).unwrap()
    }

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 250.0 - 2.0).collect()
    }

    /// The definition, in f64.
    fn plain(
        c: &ModelConfig,
        window: Option<usize>,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        first: usize,
    ) -> Vec<f32> {
        let (d, heads, shared) = (c.head_dim, c.num_attention_heads, c.num_key_value_heads);
        let mut out = Vec::new();
        for (t, q) in q.chunks_exact(heads * d).enumerate() {
            for h in 0..heads {
                let kv = h / (heads / shared);
                let at = |x: &[f32], j: usize, i: usize| f64::from(x[(j * shared + kv) * d + i]);
                let last = first + t;
                let seen: Vec<usize> = (0..=last).filter(|j| window.is_none_or(|w| last - j < w)).collect();
                let score = |j: usize| (0..d).map(|i| f64::from(q[h * d + i]) * at(k, j, i)).sum::<f64>();
                let weights: Vec<f64> = seen.iter().map(|&j| (score(j) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let sum: f64 = seen.iter().zip(&weights).map(|(&j, w)| w * at(v, j, i)).sum();
                    out.push((sum / total) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn every_way_to_attend_equals_the_definition() {
        // The last one reaches the parallel form of a single token.
        let cases = [(4, 2, 8, 150), (3, 3, 4, 70), (8, 1, 20, 40), (2, 1, 6, 1), (8, 2, 64, 600)];
        for (heads, shared, d, tokens) in cases {
            let c = config(heads, shared, d);
            let (q, row) = (numbers(tokens * heads * d, 1), shared * d);
            let (k, v) = (numbers(tokens * row, 2), numbers(tokens * row, 3));
            for window in [None, Some(1), Some(7), Some(33), Some(1000)] {
                let want = plain(&c, window, &q, &k, &v, 0);
                // All at once, in pieces of several sizes, one by one at the end.
                for pieces in [vec![tokens], vec![1, tokens / 3, 1, tokens]] {
                    let (mut cache, mut scores) = (LayerCache::new(&c), Vec::new());
                    let mut got = Vec::new();
                    for piece in pieces {
                        let (from, to) = (cache.len(), (cache.len() + piece).min(tokens));
                        if from == to {
                            continue;
                        }
                        cache.push(&c, &k[from * row..to * row], &v[from * row..to * row], to - from);
                        let mut out = vec![f32::NAN; (to - from) * heads * d];
                        let q = &q[from * heads * d..to * heads * d];
                        attend(&c, window, &cache, q, to - from, &mut scores, &mut out);
                        got.extend(out);
                    }
                    let close = got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5);
                    assert!(got.len() == want.len() && close, "{heads} {shared} {d} {window:?}");
                }
            }
        }
    }
}
