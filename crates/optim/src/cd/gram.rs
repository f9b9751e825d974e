//! The Gram matrix of the features that were ever in a working set.

use crate::design::Centred;

/// New columns that are multiplied together with every block.
const NEW_BLOCK: usize = 8;
/// Columns of a block: few enough for the first cache at a thousand rows.
const OLD_BLOCK: usize = 4;

/// `G[a][b] = z_aᵀ z_b / N` for features in the order in which they came, rows of equal stride.
#[derive(Debug)]
pub(super) struct Gram {
    features: Vec<u32>,
    slots: Vec<u32>,
    stride: usize,
    values: Vec<f64>,
}

impl Gram {
    pub(super) fn new(cols: usize) -> Self {
        Self { features: vec![], slots: vec![u32::MAX; cols], stride: 0, values: vec![] }
    }

    pub(super) fn len(&self) -> usize {
        self.features.len()
    }

    pub(super) fn features(&self) -> &[u32] {
        &self.features
    }

    pub(super) fn slot(&self, feature: u32) -> Option<usize> {
        let slot = self.slots[feature as usize];
        (slot != u32::MAX).then_some(slot as usize)
    }

    pub(super) fn row(&self, slot: usize) -> &[f64] {
        &self.values[slot * self.stride..slot * self.stride + self.features.len()]
    }

    pub(super) fn at(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.stride + b]
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        for &j in &self.features {
            self.slots[j as usize] = u32::MAX;
        }
        self.features.clear();
    }

    /// Number of features of `wanted` that are not here yet.
    pub(super) fn missing(&self, wanted: &[u32]) -> usize {
        wanted.iter().filter(|&&j| self.slots[j as usize] == u32::MAX).count()
    }

    /// Adds what is missing. Cost: one product of columns per new entry.
    pub(super) fn insert(&mut self, design: &Centred<'_>, normaliser: f64, wanted: &[u32]) {
        let old = self.features.len();
        for &j in wanted {
            if self.slots[j as usize] == u32::MAX {
                self.slots[j as usize] = self.features.len() as u32;
                self.features.push(j);
            }
        }
        let new = self.features.len();
        if new == old {
            return;
        }
        if new > self.stride {
            let stride = new.next_multiple_of(8).max(self.stride + self.stride / 2).max(64);
            let mut values = vec![0.0; stride * stride];
            for a in 0..old {
                values[a * stride..a * stride + old]
                    .copy_from_slice(&self.values[a * self.stride..a * self.stride + old]);
            }
            (self.stride, self.values) = (stride, values);
        }
        // Blocks of new columns times blocks of all: what is loaded is used several times.
        let n = design.rows();
        let mut columns = vec![0.0; n * NEW_BLOCK];
        for first in (old..new).step_by(NEW_BLOCK) {
            let last = (first + NEW_BLOCK).min(new);
            for a in first..last {
                let column = &mut columns[(a - first) * n..(a - first + 1) * n];
                design.fill(self.features[a] as usize, column);
                column.iter_mut().for_each(|v| *v /= normaliser);
            }
            for start in (0..last).step_by(OLD_BLOCK) {
                for a in first.max(start)..last {
                    let end = (start + OLD_BLOCK).min(a + 1);
                    let row = &mut self.values[a * self.stride + start..a * self.stride + end];
                    let column = &columns[(a - first) * n..(a - first + 1) * n];
                    design.dots(&self.features[start..end], column, row);
                }
            }
        }
        for a in old..new {
            for b in 0..a {
                self.values[b * self.stride + a] = self.values[a * self.stride + b];
            }
        }
    }
}
