//! Rotary position embeddings: `(x_i, x_{i + d/2})` turns by `position * f_i`.
//!
//! Frequencies and angles are computed in f32, in the order in which transformers computes them: at
//! far positions a more exact frequency would give other angles than the model was trained with.

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines for a range of positions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rotary {
    /// Half the head's width.
    half: usize,
    /// The position of the first row.
    first: usize,
    /// `positions x half`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The sequence length that a stretched table was made for; 0 for the table of all lengths.
    stretched: usize,
}

impl Rotary {
    /// Tabulates positions `from..length` of a sequence of `length` tokens.
    ///
    /// Only dynamic scaling makes the angles depend on the length, once it exceeds the original
    /// context. Keys cached earlier keep their angles, as in transformers; a shorter sequence later on
    /// gets the angles of its own length, where transformers keeps those of the longest seen.
    pub(crate) fn prepare(&mut self, config: &ModelConfig, from: usize, length: usize) {
        let stretched = match config.rope_scaling {
            RopeScaling::Dynamic { original, .. } if length > original => length,
            _ => 0,
        };
        let end = self.first + self.cos.len() / self.half.max(1);
        if stretched == self.stretched && self.first <= from && length <= end {
            return;
        }
        let (frequencies, scale) = frequencies(config, length);
        self.half = frequencies.len();
        self.stretched = stretched;
        // One table serves all lengths where it can; with room, so that decoding does not tabulate anew
        // at every token.
        let (first, last) =
            if stretched > 0 { (from, length) } else { (0, length.next_power_of_two().max(64)) };
        self.first = first;
        self.cos.clear();
        self.sin.clear();
        for position in first..last {
            for &f in &frequencies {
                let (sin, cos) = (position as f32 * f).sin_cos();
                self.cos.push(cos * scale);
                self.sin.push(sin * scale);
            }
        }
    }

    /// Turns every head of one row.
    pub(crate) fn turn(&self, row: &mut [f32], position: usize) {
        let range = (position - self.first) * self.half..(position - self.first + 1) * self.half;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        for head in row.chunks_exact_mut(2 * self.half) {
            let (low, high) = head.split_at_mut(self.half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b) = (*low, *high);
                *low = a * cos - b * sin;
                *high = b * cos + a * sin;
            }
        }
    }
}

/// `theta^(2i/d)` for every pair of a head.
fn periods(config: &ModelConfig, theta: f64) -> impl Iterator<Item = f32> {
    let d = config.head_dim;
    let theta = f64::from(theta as f32);
    (0..d / 2).map(move |i| theta.powf(f64::from((2 * i) as f32 / d as f32)) as f32)
}

/// The frequencies `f_i` for a sequence of `length`, and the scale of queries and keys.
fn frequencies(config: &ModelConfig, length: usize) -> (Vec<f32>, f32) {
    use std::f32::consts::TAU;
    let plain = |theta: f64| periods(config, theta).map(|p| 1.0 / p);
    let theta = config.rope_theta;
    match config.rope_scaling {
        RopeScaling::Default => (plain(theta).collect(), 1.0),
        RopeScaling::Linear { factor } => (plain(theta).map(|f| f / factor as f32).collect(), 1.0),
        RopeScaling::Dynamic { factor, original } => {
            let d = config.head_dim as f64;
            let ratio = factor * length.max(original) as f64 / original as f64 - (factor - 1.0);
            (plain(theta * ratio.powf(d / (d - 2.0))).collect(), 1.0)
        }
        RopeScaling::Llama3 { factor, low, high, original } => {
            let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
            let scale = |f: f32| {
                let wavelength = TAU / f;
                if wavelength > original / low {
                    f / factor
                } else if wavelength < original / high {
                    f
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (plain(theta).map(scale).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention, original, truncate } => {
            let d = config.head_dim as f64;
            // The dimension whose frequency makes `rotations` turns over the original context.
            let dimension = |rotations: f64| {
                d * (original as f64 / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(d - 1.0));
            if low == high {
                high += 0.001;
            }
            let blend = |(i, period): (usize, f32)| {
                let kept = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                1.0 / (factor as f32 * period) * (1.0 - kept) + 1.0 / period * kept
            };
            (periods(config, theta).enumerate().map(blend).collect(), attention as f32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: RopeScaling) -> ModelConfig {
        let json = serde_json::json!({
            "model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1,
            "intermediate_size": 8, "vocab_size": 8, "max_position_embeddings": 16,
        });
        let mut config = ModelConfig::from_json(json.as_object().unwrap()).unwrap();
        config.rope_scaling = scaling;
        config
    }

    /// Angles of a row of ones: `cos - sin` and `cos + sin` of every pair.
    fn turned(rotary: &Rotary, position: usize) -> Vec<f32> {
        let mut row = vec![1.0; 8];
        rotary.turn(&mut row, position);
        row
    }

    #[test]
    fn a_table_does_not_depend_on_what_was_asked_before() {
        for scaling in [RopeScaling::Default, RopeScaling::Dynamic { factor: 2.0, original: 16 }] {
            let config = config(scaling);
            let mut used = Rotary::default();
            for (from, length) in
                [(0, 5), (5, 6), (0, 40), (40, 41), (41, 42), (3, 42), (0, 16), (10, 17), (0, 200)]
            {
                used.prepare(&config, from, length);
                let mut fresh = Rotary::default();
                fresh.prepare(&config, from, length);
                for position in from..length {
                    assert_eq!(
                        turned(&used, position),
                        turned(&fresh, position),
                        "{scaling:?} {from}..{length}"
                    );
                }
            }
        }
    }

    #[test]
    fn dynamic_scaling_keeps_angles_within_the_context_and_slows_them_beyond() {
        let (plain, dynamic) =
            (config(RopeScaling::Default), config(RopeScaling::Dynamic { factor: 2.0, original: 16 }));
        assert_eq!(frequencies(&plain, 16), frequencies(&dynamic, 16));
        let (long, _) = frequencies(&dynamic, 32);
        // Twice the context at factor 2: the base grows by 3^(8/6).
        let expected = (10_000.0 * 3.0f64.powf(8.0 / 6.0)).powf(-0.75);
        assert!((f64::from(long[3]) / expected - 1.0).abs() < 1e-6);
        assert_eq!(long[0], 1.0);
    }
}
