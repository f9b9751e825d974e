//! Causal attention over a key/value cache, with grouped heads and an optional window.
//!
//! Queries are taken in blocks of rows, so memory is `O(rows x keys)` per head in flight, not
//! `O(tokens²)`. A block's scores and its weighted sum are dense products.

use rayon::prelude::*;
use sparseland_matrix::{Dense, LinearMap, ValueType};

use crate::ModelConfig;

/// Query rows per block.
const ROWS: usize = 64;

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
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let (heads, width) = (config.num_key_value_heads, config.head_dim);
        Self { keys: Vec::new(), values: Vec::new(), heads, width, capacity: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

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
    out: &mut [f32],
) {
    let (d, heads) = (config.head_dim, config.num_attention_heads);
    let group = heads / config.num_key_value_heads;
    let scale = 1.0 / (d as f32).sqrt();
    let first = cache.len() - tokens;
    // The first key that the token at `position` sees.
    let earliest = |position: usize| window.map_or(0, |w| (position + 1).saturating_sub(w));
    if tokens == 1 {
        let position = first;
        let mut scores = vec![0.0; position + 1 - earliest(position)];
        for h in 0..heads {
            let (keys, values) = cache.head(h / group, earliest(position), position + 1);
            attend_one(
                &queries[h * d..(h + 1) * d],
                keys,
                values,
                scale,
                &mut scores,
                &mut out[h * d..(h + 1) * d],
            );
        }
        return;
    }
    let blocks = tokens.div_ceil(ROWS);
    let head_block = |item: usize| -> (usize, usize, Vec<f32>) {
        let (h, b) = (item / blocks, item % blocks);
        let (start, end) = (b * ROWS, ((b + 1) * ROWS).min(tokens));
        let rows = end - start;
        let from = earliest(first + start);
        let (keys, values) = cache.head(h / group, from, first + end);
        let n = first + end - from;
        let mut q = Vec::with_capacity(rows * d);
        for t in start..end {
            q.extend(queries[t * heads * d + h * d..][..d].iter().map(|v| v * scale));
        }
        let mut scores = vec![0.0; rows * n];
        Dense::from_f32(n, d, keys, ValueType::F32).apply_batch(&q, rows, &mut scores);
        for (r, row) in scores.chunks_exact_mut(n).enumerate() {
            let position = first + start + r;
            let (low, high) = (earliest(position) - from, position + 1 - from);
            row[..low].fill(0.0);
            row[high..].fill(0.0);
            softmax(&mut row[low..high]);
        }
        let transposed: Vec<f32> = (0..d).flat_map(|i| (0..n).map(move |j| values[j * d + i])).collect();
        let mut result = vec![0.0; rows * d];
        Dense::from_f32(d, n, &transposed, ValueType::F32).apply_batch(&scores, rows, &mut result);
        (h, start, result)
    };
    let results: Vec<_> = (0..heads * blocks).into_par_iter().map(head_block).collect();
    for (h, start, result) in results {
        for (r, row) in result.chunks_exact(d).enumerate() {
            out[(start + r) * heads * d + h * d..][..d].copy_from_slice(row);
        }
    }
}

/// One query against a run of keys and values.
fn attend_one(query: &[f32], keys: &[f32], values: &[f32], scale: f32, scores: &mut [f32], out: &mut [f32]) {
    let d = query.len();
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
        let mut sums = [0.0f32; 8];
        for (q, k) in query.chunks(8).zip(key.chunks(8)) {
            for ((s, q), k) in sums.iter_mut().zip(q).zip(k) {
                *s += q * k;
            }
        }
        *score = sums.iter().sum::<f32>() * scale;
    }
    softmax(scores);
    out.fill(0.0);
    for (p, value) in scores.iter().zip(values.chunks_exact(d)) {
        for (o, v) in out.iter_mut().zip(value) {
            *o += p * v;
        }
    }
}

/// In place; an empty slice stays empty.
fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - top).exp();
        sum += *v;
    }
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|v| *v *= inverse);
}
