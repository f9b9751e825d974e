//! Rotary position embeddings: `(x_i, x_{i + d/2})` turns by `position * f_i`.

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines for a range of positions.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    /// Half the head's width.
    half: usize,
    /// `positions x half`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The length that dynamic scaling was made for.
    made_for: usize,
}

impl Rotary {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self { half: 0, cos: Vec::new(), sin: Vec::new(), made_for: 0 }
    }

    /// Makes sure that positions below `length` are tabulated, as they are in a sequence of `length`.
    pub(crate) fn prepare(&mut self, config: &ModelConfig, length: usize) {
        let have = self.cos.len() / self.half.max(1);
        let stretched = match config.rope_scaling {
            // Dynamic scaling depends on the length once it exceeds the original context.
            RopeScaling::Dynamic { original, .. } => length.max(original) != self.made_for.max(original),
            _ => false,
        };
        if length <= have && !stretched {
            return;
        }
        let (frequencies, scale) = frequencies(config, length);
        self.half = frequencies.len();
        self.made_for = length;
        // Some room, so that decoding does not tabulate anew at every token.
        let positions = if stretched { length } else { length.next_power_of_two().max(64) };
        self.cos = Vec::with_capacity(positions * self.half);
        self.sin = Vec::with_capacity(positions * self.half);
        for position in 0..positions {
            for &f in &frequencies {
                // The reference multiplies in f32.
                let angle = position as f32 * f;
                self.cos.push(angle.cos() * scale);
                self.sin.push(angle.sin() * scale);
            }
        }
    }

    /// Turns every head of one row.
    pub(crate) fn turn(&self, row: &mut [f32], position: usize) {
        let cos = &self.cos[position * self.half..(position + 1) * self.half];
        let sin = &self.sin[position * self.half..(position + 1) * self.half];
        for head in row.chunks_exact_mut(2 * self.half) {
            let (low, high) = head.split_at_mut(self.half);
            for i in 0..self.half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

/// The frequencies `f_i` for a sequence of `length`, and the scale of queries and keys.
fn frequencies(config: &ModelConfig, length: usize) -> (Vec<f32>, f32) {
    let d = config.head_dim as f64;
    let plain = |theta: f64| -> Vec<f64> {
        (0..config.head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / d)).collect()
    };
    let theta = config.rope_theta;
    let narrow = |f: Vec<f64>| f.into_iter().map(|f| f as f32).collect::<Vec<f32>>();
    match config.rope_scaling {
        RopeScaling::Default => (narrow(plain(theta)), 1.0),
        RopeScaling::Linear { factor } => {
            (narrow(plain(theta).into_iter().map(|f| f / factor).collect()), 1.0)
        }
        RopeScaling::Dynamic { factor, original } => {
            let ratio = length.max(original) as f64 / original as f64;
            let stretched = theta * (factor * ratio - (factor - 1.0)).powf(d / (d - 2.0));
            (narrow(plain(stretched)), 1.0)
        }
        RopeScaling::Llama3 { factor, low, high, original } => {
            let scale = |f: f64| {
                let wavelength = 2.0 * std::f64::consts::PI / f;
                let original = original as f64;
                if wavelength > original / low {
                    f / factor
                } else if wavelength < original / high {
                    f
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (narrow(plain(theta).into_iter().map(scale).collect()), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention, original, truncate } => {
            // The dimension whose frequency makes `rotations` turns over the original context.
            let dimension = |rotations: f64| {
                d * (original as f64 / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(d - 1.0));
            if low == high {
                high += 0.001;
            }
            let blend = |(i, f): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * ramp + f * (1.0 - ramp)
            };
            (narrow(plain(theta).into_iter().enumerate().map(blend).collect()), attention as f32)
        }
    }
}
