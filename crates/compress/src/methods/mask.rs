//! What the mask methods share: scores to masks, patterns, and the structured matrix that results.
//!
//! Weights and scores stand here as in a checkpoint, `out x in`: a row is an output. A mask method gives
//! every weight a score; the lowest are dropped, within each row, within the whole layer, or within every
//! `M` consecutive inputs of a row.
//!
//! Counts are exact: ties fall by `(score, row, column)`, the smaller index is dropped first. Public
//! magnitude code compares with a threshold (`<=`) instead and removes more than asked where scores tie.
//!
//! Cost of a selection: `O(out in)` time (partial selection, no sorts), `O(in)` memory per thread for rows and
//! patterns, 16 bytes a weight for whole layers.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;
use sparseland_linalg::Mat;
use sparseland_matrix::{Bitmask, Csr, Layout, Matrix, NofM, ValueType};

use crate::CompressError;
use crate::allocation::{Allocation, Budget};
use crate::problem::{Accounting, Candidate, LayerProblem, Limit, PreparedLayer, cost, foreign_layout};

/// Where zeros may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pattern {
    /// Anywhere.
    #[default]
    Unstructured,
    /// At most `n` of every `m` consecutive inputs of a row are kept. A narrower last group keeps `n` too,
    /// since its place is stored anyway.
    NofM {
        /// Kept.
        n: usize,
        /// Group length.
        m: usize,
    },
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstructured => f.write_str("unstructured"),
            Self::NofM { n, m } => write!(f, "{n}:{m}"),
        }
    }
}

impl FromStr for Pattern {
    type Err = CompressError;

    fn from_str(text: &str) -> Result<Self, CompressError> {
        if text == "unstructured" {
            return Ok(Self::Unstructured);
        }
        let parsed = text.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        match parsed {
            Some((n, m)) if 1 <= n && n < m && m <= 256 => Ok(Self::NofM { n, m }),
            _ => Err(CompressError::Pattern(text.to_owned())),
        }
    }
}

/// Which weights compete with each other where the pattern is unstructured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of one output: every row keeps the same number.
    Row,
    /// All of the layer.
    Layer,
}

impl FromStr for Scope {
    type Err = CompressError;

    fn from_str(text: &str) -> Result<Self, CompressError> {
        match text {
            "row" => Ok(Self::Row),
            "layer" => Ok(Self::Layer),
            other => Err(CompressError::Plan(format!("no scope is called {other}, there are row and layer"))),
        }
    }
}

/// Pattern and scope: all that decides a mask besides the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// Where zeros may stand.
    pub pattern: Pattern,
    /// Which weights compete; without effect on N:M patterns.
    pub scope: Scope,
}

/// How many weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many in every row.
    PerRow(usize),
    /// So many in all.
    InAll(usize),
    /// So many (`n`) in every group of `m` consecutive columns.
    NofM {
        /// Kept.
        n: usize,
        /// Group length.
        m: usize,
    },
}

impl Selection {
    /// Unstructured, with the given scope.
    pub const fn unstructured(scope: Scope) -> Self {
        Self { pattern: Pattern::Unstructured, scope }
    }

    /// Refuses a budget that a fixed pattern cannot meet: N:M removes `1 - N/M` of a layer and nothing else.
    /// Allocations that may leave layers dense accept less.
    ///
    /// # Errors
    /// [`CompressError::PatternBudget`] with the right fraction.
    pub fn check(&self, budget: &Budget) -> Result<(), CompressError> {
        let Pattern::NofM { n, m } = self.pattern else { return Ok(()) };
        let removes = 1.0 - n as f64 / m as f64;
        let uniform = budget.allocation == Allocation::Uniform && budget.accounting == Accounting::Params;
        let wrong = budget.remove > removes + 1e-9 || uniform && budget.remove < removes - 1e-9;
        if wrong {
            let pattern = self.pattern.to_string();
            return Err(CompressError::PatternBudget { pattern, asked: budget.remove, removes });
        }
        Ok(())
    }

    /// The layout with the most kept weights within the limit; `None` if nothing fits.
    ///
    /// The paper's `floor(in p)` dropped per row leaves up to one weight per row more than a budget of
    /// `(1 - p) in out` allows; here the budget holds, so `floor((1 - p) in)` are kept.
    pub(crate) fn fitting(&self, (rows, cols): (usize, usize), limit: Limit) -> Option<Layout> {
        let values = limit.values;
        let fits = |layout: &Layout| cost(layout, limit.accounting) <= limit.cost;
        if let Pattern::NofM { n, m } = self.pattern {
            return Some(Layout::NofM { rows, cols, values, n, m }).filter(fits);
        }
        let step = if self.scope == Scope::Row { rows } else { 1 };
        let most = (rows * cols).checked_div(step)?;
        // The largest count that fits: costs rise with the count.
        let (mut low, mut high) = (0, most + 1);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if fits(&Layout::sparse(rows, cols, values, middle * step)) {
                low = middle
            } else {
                high = middle
            }
        }
        (low > 0).then(|| Layout::sparse(rows, cols, values, low * step)).filter(fits)
    }

    /// What a layout that [`fitting`](Self::fitting) gave keeps.
    fn keep(&self, slug: &str, layout: &Layout) -> Result<Keep, CompressError> {
        match (layout, self.pattern) {
            (&Layout::NofM { n, m, .. }, Pattern::NofM { n: ours, m: group }) if (n, m) == (ours, group) => {
                Ok(Keep::NofM { n, m })
            }
            (
                &(Layout::Bitmask { rows, cols, nonzeros, .. } | Layout::Csr { rows, cols, nonzeros, .. }),
                Pattern::Unstructured,
            ) if nonzeros <= rows * cols => match self.scope {
                Scope::Layer => Ok(Keep::InAll(nonzeros)),
                Scope::Row if rows > 0 && nonzeros.is_multiple_of(rows) => Ok(Keep::PerRow(nonzeros / rows)),
                Scope::Row => Err(foreign_layout(slug, layout)),
            },
            _ => Err(foreign_layout(slug, layout)),
        }
    }
}

/// Which entries of an `out x in` matrix are kept: a bit per entry, rows padded to 64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    rows: usize,
    cols: usize,
    words: Vec<u64>,
}

impl Mask {
    /// Everything is kept where `keep(row, column)` says so.
    pub fn from_fn(rows: usize, cols: usize, keep: impl Fn(usize, usize) -> bool) -> Self {
        let mut mask = Self { rows, cols, words: vec![0; rows * cols.div_ceil(64)] };
        for r in 0..rows {
            for c in (0..cols).filter(|&c| keep(r, c)) {
                set(mask.row_mut(r), c, true);
            }
        }
        mask
    }

    /// The mask that keeps the largest scores of an `out x in` matrix, in parallel over rows. A count above
    /// what there is keeps all.
    pub fn select(scores: &Mat<f64>, keep: Keep) -> Self {
        let (rows, cols) = scores.shape();
        let stride = cols.div_ceil(64);
        let mut mask = Self::from_fn(rows, cols, |_, _| false);
        if stride == 0 {
            return mask;
        }
        mask.words.par_chunks_mut(stride).for_each(|row| fill(row, cols));
        match keep {
            Keep::InAll(count) => {
                let dropped = (rows * cols).saturating_sub(count);
                let mut order: Vec<(f64, usize)> = scores.data.iter().copied().zip(0..).collect();
                for &mut (_, at) in lowest(&mut order, dropped) {
                    set(mask.row_mut(at / cols), at % cols, false);
                }
            }
            Keep::PerRow(count) => {
                mask.words.par_chunks_mut(stride).enumerate().for_each_init(Vec::new, |order, (r, row)| {
                    drop_lowest(row, scores.row(r), 0..cols, cols.saturating_sub(count), order);
                });
            }
            Keep::NofM { n, m } => {
                mask.words.par_chunks_mut(stride).enumerate().for_each_init(Vec::new, |order, (r, row)| {
                    for first in (0..cols).step_by(m) {
                        let group = first..(first + m).min(cols);
                        let dropped = group.len().saturating_sub(n);
                        drop_lowest(row, scores.row(r), group, dropped, order);
                    }
                });
            }
        }
        mask
    }

    /// Rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether entry `(row, column)` is kept.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        kept(self.row(row), column)
    }

    /// The bits of a row: column `c` is bit `c % 64` of word `c / 64`.
    pub fn row(&self, row: usize) -> &[u64] {
        let stride = self.cols.div_ceil(64);
        &self.words[row * stride..(row + 1) * stride]
    }

    fn row_mut(&mut self, row: usize) -> &mut [u64] {
        let stride = self.cols.div_ceil(64);
        &mut self.words[row * stride..(row + 1) * stride]
    }

    /// The rows, to be changed in parallel.
    pub(crate) fn par_rows_mut(&mut self) -> rayon::slice::ChunksMut<'_, u64> {
        let stride = self.cols.div_ceil(64).max(1);
        self.words.par_chunks_mut(stride)
    }

    /// Overwrites the columns from `first` on with those of another mask of as many rows.
    pub(crate) fn paste(&mut self, first: usize, other: &Self) {
        let cols = other.cols;
        for r in 0..self.rows {
            let from = other.row(r);
            let row = self.row_mut(r);
            (0..cols).for_each(|c| set(row, first + c, kept(from, c)));
        }
    }

    /// The number of kept entries.
    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The number of kept entries of a row.
    pub fn count_in(&self, row: usize) -> usize {
        self.row(row).iter().map(|w| w.count_ones() as usize).sum()
    }
}

/// Whether a row keeps a column.
pub(crate) fn kept(row: &[u64], column: usize) -> bool {
    row[column / 64] >> (column % 64) & 1 == 1
}

/// Keeps or drops a column of a row.
pub(crate) fn set(row: &mut [u64], column: usize, keep: bool) {
    let bit = 1 << (column % 64);
    if keep { row[column / 64] |= bit } else { row[column / 64] &= !bit }
}

fn fill(row: &mut [u64], cols: usize) {
    row.fill(u64::MAX);
    if !cols.is_multiple_of(64) {
        row[cols / 64] = (1 << (cols % 64)) - 1;
    }
}

/// The `count` smallest pairs, in any order.
pub(crate) fn lowest(order: &mut [(f64, usize)], count: usize) -> &mut [(f64, usize)] {
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    }
    let count = count.min(order.len());
    &mut order[..count]
}

/// Drops the lowest scores among some columns of a row.
pub(crate) fn drop_lowest(
    row: &mut [u64],
    scores: &[f64],
    columns: std::ops::Range<usize>,
    count: usize,
    order: &mut Vec<(f64, usize)>,
) {
    order.clear();
    order.extend(columns.map(|c| (scores[c], c)));
    for &mut (_, column) in lowest(order, count) {
        set(row, column, false);
    }
}

/// The largest score that a mask drops; `None` if it drops nothing.
pub(crate) fn largest_dropped(scores: &Mat<f64>, mask: &Mask) -> Option<f64> {
    let of_row = |r: usize| {
        let row = mask.row(r);
        let dropped = scores.row(r).iter().enumerate().filter(|&(c, _)| !kept(row, c));
        dropped.map(|(_, &s)| s).max_by(f64::total_cmp)
    };
    (0..mask.rows).into_par_iter().filter_map(of_row).max_by(f64::total_cmp)
}

/// A layer whose mask is chosen.
#[derive(Debug, Clone)]
pub struct Pruned {
    /// `out x in`: the value of every weight if it is kept. What is dropped keeps its last value here.
    pub values: Mat<f64>,
    /// What is kept.
    pub mask: Mask,
    /// The largest dropped score, in the method's unit.
    pub marginal: Option<f64>,
}

impl Pruned {
    /// By scores, the values as they are.
    pub(crate) fn by_scores(values: Mat<f64>, scores: &Mat<f64>, keep: Keep) -> Self {
        let mask = Mask::select(scores, keep);
        let marginal = largest_dropped(scores, &mask);
        Self { values, mask, marginal }
    }

    /// `out x in`, dropped weights 0.
    pub fn masked(&self) -> Mat<f64> {
        let mut out = self.values.clone();
        for r in 0..out.rows {
            let row = self.mask.row(r);
            out.row_mut(r).iter_mut().enumerate().filter(|&(c, _)| !kept(row, c)).for_each(|(_, v)| *v = 0.0);
        }
        out
    }

    /// The structured matrix with values of the given type. Kept weights that are zero are not stored, but
    /// in an N:M matrix.
    fn matrix(&self, pattern: Pattern, values: ValueType) -> Result<Matrix, CompressError> {
        let data: Vec<f32> = self.masked().data.iter().map(|&v| v as f32).collect();
        let (rows, cols) = self.values.shape();
        if let Pattern::NofM { n, m } = pattern {
            return Ok(NofM::from_dense(rows, cols, &data, (n, m), values)?.into());
        }
        let nonzeros = data.iter().filter(|&&v| v != 0.0).count();
        Ok(match Layout::sparse(rows, cols, values, nonzeros) {
            Layout::Csr { .. } => Csr::from_dense(rows, cols, &data, values).into(),
            _ => Bitmask::from_dense(rows, cols, &data, values).into(),
        })
    }
}

/// Makes the mask of a layer for any count.
pub(crate) type Pruner = Box<dyn Fn(Keep) -> Result<Pruned, CompressError> + Send + Sync>;

/// A layer ready to be masked.
pub(crate) struct MaskedLayer {
    pub(crate) slug: &'static str,
    pub(crate) problem: LayerProblem,
    pub(crate) selection: Selection,
    pub(crate) prune: Pruner,
}

impl PreparedLayer for MaskedLayer {
    fn candidate(&self, limit: Limit, _: Option<&Layout>) -> Result<Option<Candidate>, CompressError> {
        let (inputs, outputs) = self.problem.sides();
        let Some(layout) = self.selection.fitting((outputs, inputs), limit) else { return Ok(None) };
        let pruned = (self.prune)(self.selection.keep(self.slug, &layout)?)?;
        let errors = self.problem.errors(&pruned.masked().transposed())?;
        Ok(Some(Candidate { layout, errors, marginal: pruned.marginal }))
    }

    fn build(&self, layout: &Layout) -> Result<Matrix, CompressError> {
        let pruned = (self.prune)(self.selection.keep(self.slug, layout)?)?;
        pruned.matrix(self.selection.pattern, self.problem.values)
    }
}

/// The weights of a layer as `out x in`.
///
/// # Errors
/// For the first NaN or infinity, named by its row (output) and column (input).
pub(crate) fn outputs_first(slug: &'static str, problem: &LayerProblem) -> Result<Mat<f64>, CompressError> {
    let weights = problem.weight.transposed();
    weights.check_finite(slug)?;
    Ok(weights)
}
