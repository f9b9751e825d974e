//! Prune-and-grow on a bare matrix.

use rayon::prelude::*;
use sparseland_linalg::Mat;

use super::{Config, gradients};
use crate::CompressError;
use crate::methods::mask::{Mask, Pattern, kept, lowest, set};

/// A channel without variance counts as having this share of the mean variance.
const LEAST_VARIANCE: f64 = 1e-12;

/// What must be known of the input channels.
#[derive(Debug, Clone, Copy)]
pub struct Channels<'a> {
    /// Means, in the unit of the threshold.
    pub mean: &'a [f64],
    /// Variances; only their ratios matter.
    pub variance: &'a [f64],
    /// Factors of the pruning score `|W_ij| n_j`; only their ratios matter. Unstructured: the norms of the
    /// inputs. N:M: what made the starting mask (ones for magnitude, norms for Wanda).
    pub norm: &'a [f64],
    /// `sum x xᵀ` or its centred form, for the guard.
    pub gram: Option<&'a Mat<f64>>,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Expected output of the dense row minus that of the masked row, before.
    pub before: f64,
    /// And after; never larger in size.
    pub after: f64,
    /// Swaps made.
    pub swaps: usize,
}

/// A refined mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Refinement {
    /// The mask, every row with its old count.
    pub mask: Mask,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Refines the mask of `values: out x in`, which stand for `dense` (the same matrix unless a method like SparseGPT
/// has changed weights). Rows run in parallel; the result does not depend on the number of threads. No cycles, or
/// nothing dropped, return the mask unchanged.
///
/// # Errors
/// [`CompressError::Mask`] if nothing is kept or sizes differ; for weights or statistics that are not finite;
/// [`CompressError::NoCalibration`] for a guard without Gram matrix.
pub fn refine_mask(
    dense: &Mat<f64>,
    values: &Mat<f64>,
    mask: &Mask,
    pattern: Pattern,
    channels: &Channels<'_>,
    config: &Config,
) -> Result<Refinement, CompressError> {
    check(dense, values, mask, channels)?;
    let inputs = values.cols;
    let mean_variance = channels.variance.iter().sum::<f64>() / inputs.max(1) as f64;
    let least = (LEAST_VARIANCE * mean_variance).max(f64::MIN_POSITIVE);
    let growth: Vec<f64> =
        channels.variance.iter().map(|v| v.max(least).powf(config.var_power).recip()).collect();
    let guard = match config.guard {
        None => None,
        Some(share) => {
            let gram = channels.gram.ok_or(CompressError::NoCalibration)?;
            let errors = Mat::from_fn(values.rows, inputs, |r, c| {
                dense.at(r, c) - if mask.keeps(r, c) { values.at(r, c) } else { 0.0 }
            });
            let gradients = gradients(&errors, gram)?;
            Some((gram, errors, gradients, share))
        }
    };
    let shared = Shared { pattern, channels, growth: &growth, config, cycles: config.cycles(inputs) };
    let mut refined = mask.clone();
    let rows: Vec<Row> = refined
        .par_rows_mut()
        .enumerate()
        .map(|(r, bits)| {
            let guard = guard.as_ref().map(|(gram, errors, gradients, share)| {
                let gradient = gradients.row(r).to_vec();
                let start: f64 = gradient.iter().zip(errors.row(r)).map(|(g, e)| g * e).sum();
                Guard { gram, gradient, now: start, limit: start * (1.0 + share) }
            });
            shared.row(dense.row(r), values.row(r), bits, guard)
        })
        .collect();
    if rows.iter().any(|row| !row.before.is_finite()) {
        // Every weight is in the sum: a NaN or an infinity anywhere shows there. Name the first.
        dense.check_finite("dsnot")?;
        values.check_finite("dsnot")?;
    }
    Ok(Refinement { mask: refined, rows })
}

fn check(
    dense: &Mat<f64>,
    values: &Mat<f64>,
    mask: &Mask,
    channels: &Channels<'_>,
) -> Result<(), CompressError> {
    let fail = |what: String| Err(CompressError::Mask(what));
    let shape = values.shape();
    if dense.shape() != shape || (mask.rows(), mask.cols()) != shape {
        return fail(format!(
            "the weights are {} x {}, the mask {} x {}, the dense weights {} x {}",
            shape.0,
            shape.1,
            mask.rows(),
            mask.cols(),
            dense.rows,
            dense.cols
        ));
    }
    let named = [("mean", channels.mean), ("variance", channels.variance), ("norm", channels.norm)];
    for (name, of) in named {
        if of.len() != shape.1 {
            return fail(format!("there are {} values of {name} for {} inputs", of.len(), shape.1));
        }
        if let Some(at) = of.iter().position(|v| !v.is_finite()) {
            return fail(format!("the {name} of input {at} is {}", of[at]));
        }
    }
    if let Some(gram) = channels.gram
        && gram.shape() != (shape.1, shape.1)
    {
        return fail(format!("the Gram matrix is {} x {} for {} inputs", gram.rows, gram.cols, shape.1));
    }
    if shape.0 * shape.1 > 0 && mask.count() == 0 {
        return fail("it keeps nothing, so nothing can be exchanged; remove less".into());
    }
    Ok(())
}

/// The squared output error of a row while it changes: `E G Eᵀ` and `E G`.
struct Guard<'a> {
    gram: &'a Mat<f64>,
    gradient: Vec<f64>,
    now: f64,
    limit: f64,
}

impl Guard<'_> {
    /// Makes the swap unless the error would pass the limit.
    fn admits(&mut self, w: &[f64], grown: usize, pruned: usize) -> bool {
        let (wg, wp) = (w[grown], w[pruned]);
        let (rg, rp) = (self.gram.row(grown), self.gram.row(pruned));
        let linear = 2.0 * (wp * self.gradient[pruned] - wg * self.gradient[grown]);
        let square = wp * wp * rp[pruned] + wg * wg * rg[grown] - 2.0 * wp * wg * rp[grown];
        let next = self.now + linear + square;
        if next > self.limit {
            return false;
        }
        self.now = next;
        for ((g, p), q) in self.gradient.iter_mut().zip(rp).zip(rg) {
            *g += wp * p - wg * q;
        }
        true
    }
}

/// What all rows share.
struct Shared<'a> {
    pattern: Pattern,
    channels: &'a Channels<'a>,
    growth: &'a [f64],
    config: &'a Config,
    cycles: usize,
}

/// The candidates for one sign of the row error, best first.
struct Side {
    grow: std::vec::IntoIter<(f64, usize)>,
    prune: std::vec::IntoIter<(f64, usize)>,
}

impl Shared<'_> {
    fn row(&self, dense: &[f64], w: &[f64], bits: &mut [u64], mut guard: Option<Guard<'_>>) -> Row {
        let mean = self.channels.mean;
        let mut before = 0.0;
        for (first, &word) in (0..w.len()).step_by(64).zip(&*bits) {
            let here = first..(first + 64).min(w.len());
            let columns = dense[here.clone()].iter().zip(&w[here.clone()]).zip(&mean[here]);
            for (i, ((dense, w), mean)) in columns.enumerate() {
                before += (dense - if word >> i & 1 == 1 { *w } else { 0.0 }) * mean;
            }
        }
        let mut error = before;
        let mut swaps: Vec<(usize, usize)> = Vec::new();
        let mut best = (before, 0);
        let mut sides: [Option<Side>; 2] = [None, None];
        let mut available = bits.to_vec();
        while error.abs() > self.config.threshold && swaps.len() < self.cycles {
            let up = error > 0.0;
            let side = sides[usize::from(up)].get_or_insert_with(|| self.side(w, bits, up));
            let Some((_, grown)) = side.grow.next() else { break };
            let pruned = match self.pattern {
                Pattern::Unstructured => side.prune.next().map(|(_, j)| j),
                Pattern::NofM { m, .. } => {
                    let score = |j: usize| w[j].abs() * self.channels.norm[j];
                    let group = grown / m * m..(grown / m * m + m).min(w.len());
                    let here = group.filter(|&j| kept(&available, j));
                    here.min_by(|&a, &b| score(a).total_cmp(&score(b)))
                }
            };
            let Some(pruned) = pruned else {
                // An exhausted group: the next candidate may stand in another.
                if self.pattern == Pattern::Unstructured { break } else { continue }
            };
            if guard.as_mut().is_some_and(|guard| !guard.admits(w, grown, pruned)) {
                continue;
            }
            error += w[pruned] * mean[pruned] - w[grown] * mean[grown];
            set(&mut available, pruned, false);
            swaps.push((grown, pruned));
            if error.abs() < best.0.abs() {
                best = (error, swaps.len());
            }
            let stops = self.config.sign_stop || self.pattern != Pattern::Unstructured;
            if stops && (error > 0.0) != up {
                break;
            }
        }
        for &(grown, pruned) in &swaps[..best.1] {
            set(bits, grown, true);
            set(bits, pruned, false);
        }
        Row { before, after: best.0, swaps: best.1 }
    }

    /// The candidates of a row whose error is positive (`up`) or negative. No candidate serves both signs, so
    /// that each is used at most once.
    fn side(&self, w: &[f64], bits: &[u64], up: bool) -> Side {
        // With N:M a group is exhausted after `n` swaps, and then passes over at most its other candidates; a
        // guard may pass over any number.
        let needed = match (self.config.guard, self.pattern) {
            (Some(_), _) => usize::MAX,
            (None, Pattern::Unstructured) => self.cycles,
            (None, Pattern::NofM { n, m }) => self.cycles * (m - n),
        };
        let (mut grow, mut prune) = (Best::new(needed), Best::new(needed));
        let signed = if up { 1.0 } else { -1.0 };
        let unstructured = self.pattern == Pattern::Unstructured;
        for (first, &word) in (0..w.len()).step_by(64).zip(bits) {
            let here = first..(first + 64).min(w.len());
            let columns = w[here.clone()].iter().zip(&self.channels.mean[here]);
            for (i, (&w, &mean)) in columns.enumerate() {
                // Positive where it has the sign of the error; zeros are no candidates.
                let contribution = signed * w * mean;
                let j = first + i;
                let kept = word >> i & 1 == 1;
                // Selects, not branches: which case it is cannot be predicted, that it is no candidate can.
                let grows = !kept & (contribution > 0.0);
                grow.offer(if grows { -contribution * self.growth[j] } else { f64::INFINITY }, j);
                let goes = kept & (contribution < 0.0) & unstructured;
                prune.offer(if goes { w.abs() * self.channels.norm[j] } else { f64::INFINITY }, j);
            }
        }
        Side { grow: grow.sorted(), prune: prune.sorted() }
    }
}

/// Collects the `count` smallest pairs of a stream whose second parts rise.
struct Best {
    count: usize,
    /// Keys from here on are not among the best.
    limit: f64,
    pairs: Vec<(f64, usize)>,
}

impl Best {
    fn new(count: usize) -> Self {
        Self { count, limit: f64::INFINITY, pairs: Vec::with_capacity(count.saturating_mul(2).min(256) + 1) }
    }

    fn offer(&mut self, key: f64, index: usize) {
        if key < self.limit {
            self.pairs.push((key, index));
            if self.pairs.len() > self.count.saturating_mul(2) {
                self.cut();
                // Later pairs of the same key come after those that are here.
                self.limit = self.pairs.iter().fold(f64::NEG_INFINITY, |m, p| m.max(p.0));
            }
        }
    }

    fn cut(&mut self) {
        let count = lowest(&mut self.pairs, self.count).len();
        self.pairs.truncate(count);
    }

    fn sorted(mut self) -> std::vec::IntoIter<(f64, usize)> {
        self.cut();
        self.pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.pairs.into_iter()
    }
}
