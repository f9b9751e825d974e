//! Learning rates over the steps of a run.

/// How the rate falls after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decay {
    /// It stays.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine.
    #[default]
    Cosine,
}

/// A warm-up in a straight line from 0, then a decay to `floor` times the peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The largest rate.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// The share of the peak that is left at the end.
    pub floor: f64,
    /// The form of the decay.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let done = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.floor + (1.0 - self.floor) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_to_the_peak_and_fall_to_the_floor() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let s = Schedule { peak: 2.0, warmup: 10, total: 110, floor: 0.1, decay };
            assert_eq!(s.rate(0), 0.2);
            assert_eq!(s.rate(9), 2.0);
            assert_eq!(s.rate(10), 2.0);
            assert!((s.rate(60) - 1.1).abs() < 1e-12, "{decay:?}");
            assert!((s.rate(110) - 0.2).abs() < 1e-12 && (s.rate(1000) - 0.2).abs() < 1e-12);
        }
        let s = Schedule { peak: 1.0, warmup: 0, total: 5, floor: 0.0, decay: Decay::Constant };
        assert!((0..9).all(|step| s.rate(step) == 1.0));
    }
}
