//! Sparse architecture divergence: how much a mask moves.

/// The number of positions at which two masks differ.
pub fn sad(a: &[bool], b: &[bool]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

/// What a mask has done since its first choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MaskTrace {
    /// Positions changed, summed over all refreshes: the step-to-step divergence.
    pub flips: u64,
    /// Changes of positions that had changed before: what the divergence of two masks alone cannot see.
    pub flip_flops: u64,
    /// Whether each position has ever changed.
    changed: Vec<bool>,
    /// The mask of the first choice.
    first: Vec<bool>,
    /// Counts at the last report.
    reported: (u64, u64),
    kept: u64,
}

impl MaskTrace {
    pub(super) fn record(&mut self, old: &[bool], new: &[bool], fresh: bool) {
        self.kept = new.iter().filter(|k| **k).count() as u64;
        if fresh || self.first.is_empty() {
            self.first = new.to_vec();
            self.changed = vec![false; new.len()];
            return;
        }
        for ((old, new), changed) in old.iter().zip(new).zip(&mut self.changed) {
            if old != new {
                self.flips += 1;
                self.flip_flops += u64::from(*changed);
                *changed = true;
            }
        }
    }

    /// The divergence of a mask from the first one.
    pub fn from_first(&self, mask: &[bool]) -> usize {
        sad(&self.first, mask)
    }

    /// Flips and flip-flops since the last report, and kept entries.
    pub(super) fn take(&mut self) -> (f64, f64, f64) {
        let now = (self.flips, self.flip_flops);
        let before = std::mem::replace(&mut self.reported, now);
        ((now.0 - before.0) as f64, (now.1 - before.1) as f64, self.kept as f64)
    }

    /// Counters, then per position one byte of bits: mask, first mask, changed.
    pub(super) fn save(&self, mask: &[bool]) -> Vec<u8> {
        let counters = [self.flips, self.flip_flops, self.reported.0, self.reported.1, self.kept];
        let mut out: Vec<u8> = counters.iter().flat_map(|c| c.to_le_bytes()).collect();
        let bit = |bits: &[bool], i: usize| u8::from(bits.get(i).copied().unwrap_or(false));
        out.push(u8::from(!self.first.is_empty()));
        out.extend(
            (0..mask.len()).map(|i| bit(mask, i) | bit(&self.first, i) << 1 | bit(&self.changed, i) << 2),
        );
        out
    }

    pub(super) fn load(state: &[u8], len: usize) -> Result<(Self, Vec<bool>), String> {
        if state.len() != 41 + len {
            return Err(format!("{} bytes instead of {}", state.len(), 41 + len));
        }
        let counter = |i: usize| u64::from_le_bytes(state[8 * i..8 * i + 8].try_into().expect("eight bytes"));
        let bits = |shift: u8| state[41..].iter().map(|b| b >> shift & 1 == 1).collect::<Vec<bool>>();
        let started = state[40] == 1;
        let kept_if = |bits: Vec<bool>| if started { bits } else { Vec::new() };
        let trace = Self {
            flips: counter(0),
            flip_flops: counter(1),
            changed: kept_if(bits(2)),
            first: kept_if(bits(1)),
            reported: (counter(2), counter(3)),
            kept: counter(4),
        };
        Ok((trace, bits(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_a_metric() {
        let masks: Vec<Vec<bool>> =
            (0..6u32).map(|s| (0..40).map(|i| (i * 7 + s * s) % (s + 2) == 0).collect()).collect();
        for a in &masks {
            assert_eq!(sad(a, a), 0);
            for b in &masks {
                assert_eq!(sad(a, b), sad(b, a));
                assert!(masks.iter().all(|c| sad(a, c) <= sad(a, b) + sad(b, c)));
            }
        }
    }

    #[test]
    fn flips_and_flip_flops_are_told_apart_and_survive_saving() {
        let mut trace = MaskTrace::default();
        let masks = [[true, false, false], [false, true, false], [true, false, false], [true, false, true]];
        trace.record(&[true; 3], &masks[0], true);
        for pair in masks.windows(2) {
            trace.record(&pair[0], &pair[1], false);
        }
        assert_eq!((trace.flips, trace.flip_flops), (5, 2));
        assert_eq!(trace.from_first(&masks[3]), 1);
        assert_eq!(trace.take(), (5.0, 2.0, 2.0));
        assert_eq!(trace.take().0, 0.0);
        let (loaded, mask) = MaskTrace::load(&trace.save(&masks[3]), 3).unwrap();
        assert_eq!((loaded, &mask[..]), (trace.clone(), &masks[3][..]));
        assert!(MaskTrace::load(&[0; 5], 3).is_err());
        let fresh = MaskTrace::default();
        assert_eq!(MaskTrace::load(&fresh.save(&[true; 3]), 3).unwrap().0, fresh);
    }
}
