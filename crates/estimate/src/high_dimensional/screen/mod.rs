//! Screening: which of very many columns carry information about a target.
//!
//! Every column `x_j` gets one number against the target `y`:
//!
//! | [`Measure`] | both continuous | one discrete | per column of 1000 rows |
//! |---|---|---|---|
//! | [`Measure::Kde`] | Gaussian kernel density of normal scores, bandwidth matrix `h² Σ` | one density per class | 0.3 ms |
//! | [`Measure::FftKde`] | the paper's: radial Epanechnikov kernel, FFT on a square grid | one density per class | 1 ms |
//! | [`Measure::Binning`] | equal-width bins by penalised likelihood | levels against bins | 70 us |
//! | [`Measure::Pearson`] | absolute correlation | the same, levels as numbers | few us |
//!
//! Mutual information is `sum f log(f / (f_x f_y))` in nats: 0 for independent variables, whatever their relation it is
//! large when one tells about the other.
//!
//! # Where [`Measure::Kde`] differs from the paper
//! 1. *Normal scores.* Information does not change under monotone maps of either variable, so both are replaced by the
//!    normal quantiles of their ranks. One grid and one bandwidth then fit every column, outliers have no leverage, and
//!    columns of the same ties are comparable.
//! 2. *A bandwidth matrix proportional to the covariance*, `H = h² Σ` with `h = n^(-1/6)`: the smoothed density keeps
//!    the correlation of the data, and the information of a bivariate Gaussian is `-log(1 - r²) / 2` for any `h`. With
//!    one bandwidth per axis, correlation .9 at `n = 5000` loses a quarter of its information. In the rotated
//!    coordinates `(x ± y) / sqrt(2 ± 2r)` the kernel is round and the smoothing separable, so that no transform is
//!    needed: direct sums are three times faster than the FFT.
//!
//! [`Measure::FftKde`] follows the paper and its documentation, not its code, which ignores the computed bandwidths,
//! applies the multiplier twice and leaves the density unnormalised; [`Bandwidth::Scaled`] with 1 repeats the
//! bandwidth that the code really uses.

mod binning;
mod density;
mod fft;
mod files;
mod ranks;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;
use sparseland_core::{Context, Event};
use sparseland_optim::design::Dense;

use super::error::{HighDimensionalError, ensure};
use binning::{Buffers, Labels, Logs, bins, table_information};
use density::{Grids, axis_1d, cell_entropy, density_1d, entropy_2d};
pub use files::{Csv, Npy};
use ranks::{normal_scores, quantiles};

/// Fewest complete rows for a kernel density.
const LEAST_ROWS: usize = 10;
/// Members that a class needs before its density counts: fewer have no shape.
const LEAST_MEMBERS: usize = 3;
/// Bytes of columns that are in memory at a time.
const BLOCK_BYTES: usize = 16 << 20;

/// How dependence is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// Mutual information by kernel densities of normal scores.
    Kde {
        /// Factor of Silverman's bandwidth (which is Scott's in two dimensions): `n^(-1/6)`, with classes
        /// `(3n/4)^(-1/5)` of the spread inside them. 1 is right for the amount of information; wider kernels have less
        /// noise and rank better.
        bandwidth: f64,
    },
    /// Mutual information by the paper's kernel density.
    FftKde {
        /// Bandwidths.
        bandwidth: Bandwidth,
        /// Cells per axis, the paper's 300; even, with small prime factors for speed.
        grid: usize,
    },
    /// Mutual information of the table of equal-width bins.
    Binning {
        /// Whether to subtract the expected information of chance, `(k - k_x - k_y + 1) / 2n` with `k` occupied cells,
        /// `k_x` rows and `k_y` columns (Miller 1955). The paper does not; its bins then carry .05 nats of chance.
        corrected: bool,
    },
    /// Absolute correlation, for comparison: blind to relations without a linear part.
    Pearson,
}

impl Measure {
    /// [`Measure::Kde`] with twice Silverman's bandwidth: of the factors from 1 to 3 the best for ranking linear and
    /// squared effects on continuous and binary outcomes alike, at `n = 1000`.
    pub const KDE: Self = Self::Kde { bandwidth: 2.0 };
    /// [`Measure::Binning`] with correction.
    pub const BINNING: Self = Self::Binning { corrected: true };
    /// [`Measure::FftKde`] with the paper's grid and documented bandwidth.
    pub const FFT_KDE: Self = Self::FftKde { bandwidth: Bandwidth::Silverman, grid: 300 };
}

/// Bandwidths of [`Measure::FftKde`], per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bandwidth {
    /// `min(sd, IQR / 1.349) n^(-1/6)`: Silverman's rule, which is Scott's in two dimensions.
    Silverman,
    /// This many interquartile ranges. The published code uses 1 whatever it is asked for.
    Scaled(f64),
}

/// What happens to NaN in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error that names the place.
    Error,
    /// The pair is left out for this column; its score comes from the rows that are left.
    DropPair,
}

/// A screening run.
///
/// **When not to use it.** Features that matter only together (an exclusive or) have no information one by one. With
/// effects that are known to be linear, [`Measure::Pearson`] is a hundred times faster and slightly better.
#[derive(Debug, Clone, PartialEq)]
pub struct Screen {
    /// The measure. Default [`Measure::KDE`].
    pub measure: Measure,
    /// A variable of at most this many distinct values is discrete. Default 3, the paper's: genotypes, answers.
    pub max_levels: usize,
    /// NaN in a column. Default [`Missing::Error`]. NaN in the target is always an error.
    pub missing: Missing,
}

impl Default for Screen {
    fn default() -> Self {
        Self { measure: Measure::KDE, max_levels: 3, missing: Missing::Error }
    }
}

/// A table that hands out columns.
pub trait ColumnSource: Send {
    /// Rows of the table.
    fn rows(&self) -> usize;
    /// Columns of the table.
    fn cols(&self) -> usize;
    /// Names of the columns, where there are names.
    fn names(&self) -> Option<&[String]>;
    /// Writes some columns one after another, `rows` values each.
    ///
    /// # Errors
    /// [`HighDimensionalError::File`] with the place of what cannot be read.
    fn read(&mut self, columns: Range<usize>, out: &mut [f64]) -> Result<(), HighDimensionalError>;
}

impl<T: sparseland_matrix::vector::Real> ColumnSource for Dense<T>
where
    Self: sparseland_optim::design::Design,
{
    fn rows(&self) -> usize {
        sparseland_optim::design::Design::rows(self)
    }
    fn cols(&self) -> usize {
        sparseland_optim::design::Design::cols(self)
    }
    fn names(&self) -> Option<&[String]> {
        None
    }
    fn read(&mut self, columns: Range<usize>, out: &mut [f64]) -> Result<(), HighDimensionalError> {
        let values = columns.flat_map(|j| self.column(j));
        out.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_f64());
        Ok(())
    }
}

/// The scores of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// One score per column, NaN for columns that were not reached.
    pub values: Vec<f64>,
    /// Columns that were reached: all of them unless the run was cancelled.
    pub screened: usize,
    /// Columns of one value, whose score is 0.
    pub constant: usize,
    /// Columns with fewer than ten complete rows, whose score is 0.
    pub too_few: usize,
}

impl Scores {
    /// The columns of the `count` highest scores, best first; equal scores in the order of the table.
    pub fn top(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).filter(|j| !self.values[*j].is_nan()).collect();
        order.sort_by(|&a, &b| self.values[b].total_cmp(&self.values[a]).then(a.cmp(&b)));
        order.truncate(count);
        order
    }
}

/// Mutual information of a bivariate Gaussian of this correlation, `-log(1 - r²) / 2`.
pub fn gaussian_information(correlation: f64) -> f64 {
    -0.5 * (-correlation * correlation).ln_1p()
}

/// Linfoot's correlation `sqrt(1 - exp(-2 I))`: information on the scale of a correlation (Information and Control 1957).
pub fn linfoot(information: f64) -> f64 {
    (-(-2.0 * information.max(0.0)).exp_m1()).sqrt()
}

/// A variable in the forms that a measure needs.
#[derive(Debug, Clone, Default)]
struct Variable {
    /// Normal scores, scaled values or the values themselves.
    values: Vec<f64>,
    /// Levels, or bins.
    labels: Labels,
    /// Whether `labels` are levels of the variable.
    discrete: bool,
    /// Bandwidth along this variable.
    bandwidth: f64,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Workspace {
    order: Vec<(u64, u32)>,
    levels: Vec<f64>,
    sums: Vec<f64>,
    differences: Vec<f64>,
    grids: Grids,
    buffers: Buffers,
    smoother: Option<fft::Smoother>,
    variable: Variable,
}

/// What only depends on the number of rows.
#[derive(Debug)]
struct Tables {
    quantiles: Vec<f64>,
    logs: Logs,
}

impl Tables {
    fn new(measure: Measure, n: usize) -> Self {
        let scores = matches!(measure, Measure::Kde { .. });
        Self { quantiles: if scores { quantiles(n) } else { vec![] }, logs: Logs::new(n) }
    }
}

/// Most cells on an axis of [`Measure::Kde`].
const MOST_CELLS: usize = 300;

impl Screen {
    fn check(&self) -> Result<(), HighDimensionalError> {
        let positive = |b: f64| b > 0.0 && b.is_finite();
        match self.measure {
            Measure::Kde { bandwidth } => ensure(positive(bandwidth), "bandwidth", "above 0", bandwidth),
            Measure::FftKde { bandwidth, grid } => {
                if let Bandwidth::Scaled(b) = bandwidth {
                    ensure(positive(b), "bandwidth", "above 0", b)?;
                }
                ensure((32..=4096).contains(&grid), "grid", "between 32 and 4096", grid)
            }
            Measure::Binning { .. } | Measure::Pearson => Ok(()),
        }
    }

    /// The score of one column against a target: NaN is treated as [`Screen::missing`] says.
    ///
    /// # Errors
    /// As [`Screen::scores`].
    pub fn score(&self, column: &[f64], target: &[f64]) -> Result<f64, HighDimensionalError> {
        let prepared = self.prepare(target)?;
        if column.len() != target.len() {
            let (expected, got) = (target.len(), column.len());
            return Err(HighDimensionalError::Shape { what: "rows of the column", expected, got });
        }
        let found = prepared.score(column, &mut Workspace::default());
        found.map(|s| s.value).map_err(|row| non_finite("column".into(), row, column[row]))
    }

    /// Scores of all columns against a target. At most 16 MiB of columns (and at least one) are in memory; blocks are
    /// read one after another and scored on all threads. A cancelled run returns the scores it has.
    ///
    /// # Errors
    /// [`HighDimensionalError::Target`] for a target of one value or (for kernel densities) fewer than ten rows,
    /// [`HighDimensionalError::NonFinite`] with the place of NaN or infinity, and errors of the source.
    pub fn scores(
        &self,
        source: &mut dyn ColumnSource,
        target: &[f64],
        context: &Context,
    ) -> Result<Scores, HighDimensionalError> {
        let prepared = self.prepare(target)?;
        let (rows, cols) = (source.rows(), source.cols());
        if rows != target.len() {
            return Err(HighDimensionalError::Shape {
                what: "rows of the target",
                expected: rows,
                got: target.len(),
            });
        }
        if prepared.small_classes > 0 {
            context.report(Event::Warning(&format!(
                "{} of the target's classes have fewer than {LEAST_MEMBERS} rows and are left out of densities",
                prepared.small_classes
            )));
        }
        let width = (BLOCK_BYTES / (8 * rows)).clamp(1, cols.max(1));
        let mut block = vec![0.0; width * rows];
        let mut out = Scores { values: vec![f64::NAN; cols], screened: 0, constant: 0, too_few: 0 };
        context.report(Event::Stage { name: "screening columns", total: cols });
        for first in (0..cols).step_by(width) {
            if context.check_cancelled().is_err() {
                break;
            }
            let last = (first + width).min(cols);
            let block = &mut block[..(last - first) * rows];
            source.read(first..last, block)?;
            let scored: Vec<Result<Scored, (usize, usize)>> = context.install(|| {
                block
                    .par_chunks_exact(rows)
                    .enumerate()
                    .map_init(Workspace::default, |space, (k, column)| {
                        prepared.score(column, space).map_err(|row| (k, row))
                    })
                    .collect()
            });
            for (k, scored) in scored.into_iter().enumerate() {
                let scored = scored.map_err(|(k, row)| {
                    let j = first + k;
                    let name = source
                        .names()
                        .map_or_else(|| format!("column {j}"), |n| format!("column {:?}", n[j]));
                    non_finite(name, row, block[k * rows + row])
                })?;
                out.values[first + k] = scored.value;
                out.constant += usize::from(scored.kind == Kind::Constant);
                out.too_few += usize::from(scored.kind == Kind::TooFew);
            }
            out.screened = last;
            context.report(Event::Step { done: last, message: "" });
        }
        Ok(out)
    }

    /// Of `columns` (best first), those whose score with every one kept before is at most `threshold`: near copies of a
    /// better column go. Cost: a score for every pair of kept and visited columns.
    ///
    /// # Errors
    /// As [`Screen::scores`].
    pub fn clump(
        &self,
        source: &mut dyn ColumnSource,
        columns: &[usize],
        threshold: f64,
    ) -> Result<Vec<usize>, HighDimensionalError> {
        let mut kept: Vec<(usize, Prepared, Vec<f64>)> = Vec::new();
        let mut space = Workspace::default();
        for &j in columns {
            let mut column = vec![0.0; source.rows()];
            source.read(j..j + 1, &mut column)?;
            let mut copy = false;
            for (_, prepared, _) in &kept {
                let scored = prepared.score(&column, &mut space);
                copy |= scored.map_err(|row| non_finite(format!("column {j}"), row, column[row]))?.value
                    > threshold;
            }
            // A column of one value has no information about another.
            if !copy && column.iter().any(|v| *v != column[0]) {
                kept.push((j, self.prepare(&column)?, column));
            }
        }
        Ok(kept.into_iter().map(|(j, ..)| j).collect())
    }

    fn prepare(&self, target: &[f64]) -> Result<Prepared, HighDimensionalError> {
        self.check()?;
        if let Some(row) = target.iter().position(|v| !v.is_finite()) {
            return Err(non_finite("the target".into(), row, target[row]));
        }
        if target.len() < LEAST_ROWS && !matches!(self.measure, Measure::Pearson) {
            let problem = format!("has {} rows; a density takes at least {LEAST_ROWS}", target.len());
            return Err(HighDimensionalError::Target { problem });
        }
        if target.iter().all(|v| *v == target[0]) {
            let problem =
                format!("is {} in every row; nothing can be told about it", target.first().unwrap_or(&0.0));
            return Err(HighDimensionalError::Target { problem });
        }
        let tables = Tables::new(self.measure, target.len());
        let mut space = Workspace::default();
        self.describe(target, &tables, &mut space);
        let target_variable = std::mem::take(&mut space.variable);
        let mut small_classes = 0;
        if target_variable.discrete {
            let mut counts = vec![0; target_variable.labels.levels];
            target_variable.labels.of_row.iter().for_each(|l| counts[*l as usize] += 1);
            small_classes = counts.iter().filter(|c| **c < LEAST_MEMBERS).count();
        }
        let raw = target.to_vec();
        Ok(Prepared { screen: self.clone(), raw, target: target_variable, tables, small_classes })
    }

    /// Fills `space.variable` from finite values that are not all equal.
    fn describe(&self, values: &[f64], tables: &Tables, space: &mut Workspace) {
        let n = values.len() as f64;
        let Workspace { order, levels, buffers, variable, .. } = space;
        variable.discrete =
            !matches!(self.measure, Measure::Pearson) && find_levels(values, self.max_levels, levels);
        if variable.discrete {
            variable.labels.levels = levels.len();
            variable.labels.of_row.clear();
            let level = |v: &f64| levels.iter().position(|l| l == v).unwrap_or(0) as u32;
            variable.labels.of_row.extend(values.iter().map(level));
        }
        match self.measure {
            Measure::Kde { .. } => {
                if !variable.discrete {
                    normal_scores(values, &tables.quantiles, order, &mut variable.values);
                }
            }
            Measure::FftKde { bandwidth, .. } => {
                variable.values.clear();
                variable.values.extend_from_slice(values);
                let (centre, iqr, sd) = robust_scale(&mut variable.values, values);
                let scale = if iqr > 0.0 { iqr } else { sd };
                variable.values.iter_mut().for_each(|v| *v = (*v - centre) / scale);
                variable.bandwidth = match bandwidth {
                    Bandwidth::Scaled(b) => b,
                    Bandwidth::Silverman => {
                        let spread = if iqr > 0.0 { sd.min(iqr / 1.349) } else { sd };
                        spread / scale * n.powf(-1.0 / 6.0)
                    }
                };
            }
            Measure::Binning { .. } => {
                if !variable.discrete {
                    bins(values, &tables.logs, buffers, &mut variable.labels);
                }
            }
            Measure::Pearson => {
                let mean = values.iter().sum::<f64>() / n;
                let norm = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>().sqrt();
                variable.values.clear();
                variable.values.extend(values.iter().map(|v| (v - mean) / norm));
            }
        }
    }
}

/// A screening run that has looked at its target.
#[derive(Debug)]
struct Prepared {
    screen: Screen,
    raw: Vec<f64>,
    target: Variable,
    tables: Tables,
    small_classes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Scored,
    Constant,
    TooFew,
}

#[derive(Debug, Clone, Copy)]
struct Scored {
    value: f64,
    kind: Kind,
}

impl Prepared {
    /// The score of a column, or the row of its first value that is not allowed.
    fn score(&self, column: &[f64], space: &mut Workspace) -> Result<Scored, usize> {
        let bad = column.iter().position(|v| !v.is_finite());
        let Some(row) = bad else {
            return Ok(self.score_complete(column, space));
        };
        let infinite = column.iter().position(|v| v.is_infinite());
        if self.screen.missing == Missing::Error || infinite.is_some() {
            return Err(infinite.unwrap_or(row));
        }
        let kept = || column.iter().zip(&self.raw).filter(|(x, _)| !x.is_nan());
        let x: Vec<f64> = kept().map(|(x, _)| *x).collect();
        let y: Vec<f64> = kept().map(|(_, y)| *y).collect();
        // A target that is constant on what is left, or too short, carries nothing.
        Ok(match self.screen.prepare(&y) {
            Ok(part) if x.len() >= LEAST_ROWS => part.score_complete(&x, space),
            _ => Scored { value: 0.0, kind: Kind::TooFew },
        })
    }

    fn score_complete(&self, column: &[f64], space: &mut Workspace) -> Scored {
        if column.iter().all(|v| *v == column[0]) {
            return Scored { value: 0.0, kind: Kind::Constant };
        }
        self.screen.describe(column, &self.tables, space);
        let x = std::mem::take(&mut space.variable);
        let value = self.information(&x, space);
        space.variable = x;
        Scored { value, kind: Kind::Scored }
    }

    /// The factor of bandwidths of class densities.
    fn factor(&self) -> f64 {
        match self.screen.measure {
            Measure::Kde { bandwidth } => bandwidth,
            _ => 1.0,
        }
    }

    fn information(&self, x: &Variable, space: &mut Workspace) -> f64 {
        let y = &self.target;
        match self.screen.measure {
            Measure::Pearson => {
                x.values.iter().zip(&y.values).map(|(a, b)| a * b).sum::<f64>().abs().min(1.0)
            }
            Measure::Binning { corrected } => {
                table_information(&x.labels, &y.labels, &self.tables.logs, corrected, &mut space.buffers)
            }
            _ if x.discrete && y.discrete => {
                table_information(&x.labels, &y.labels, &self.tables.logs, false, &mut space.buffers)
            }
            _ if x.discrete => class_information(&y.values, &x.labels, self.factor()),
            _ if y.discrete => class_information(&x.values, &y.labels, self.factor()),
            Measure::Kde { bandwidth } => kde_information(&x.values, &y.values, bandwidth, space),
            Measure::FftKde { grid, .. } => {
                let smoother = space.smoother.get_or_insert_with(|| fft::Smoother::new(grid));
                smoother.mutual_information(&x.values, &y.values, [x.bandwidth, y.bandwidth])
            }
        }
    }
}

/// Information of two variables of mean 0 and variance 1 by a Gaussian kernel with bandwidth matrix `h² Σ`.
fn kde_information(x: &[f64], y: &[f64], factor: f64, space: &mut Workspace) -> f64 {
    let n = x.len() as f64;
    let h = factor * n.powf(-1.0 / 6.0);
    // Equal ranks: information is then unbounded, and this is its value at one part in 1e12 of noise.
    let r = (x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>() / n).clamp(-1.0 + 1e-12, 1.0 - 1e-12);
    let linear = gaussian_information(r);
    if 1.0 - r.abs() < 1e-9 {
        return linear;
    }
    let (plus, minus) = ((2.0 + 2.0 * r).sqrt(), (2.0 - 2.0 * r).sqrt());
    space.sums.clear();
    space.sums.extend(x.iter().zip(y).map(|(a, b)| (a + b) / plus));
    space.differences.clear();
    space.differences.extend(x.iter().zip(y).map(|(a, b)| (a - b) / minus));
    let joint = entropy_2d(&space.sums, &space.differences, h, MOST_CELLS, &mut space.grids);
    let single = |values: &[f64]| {
        let axis = axis_1d(values, h, MOST_CELLS);
        cell_entropy(&density_1d(values.iter().copied(), 1.0 / n, h, axis)) + axis.step.ln()
    };
    (linear + single(x) + single(y) - joint).max(0.0)
}

/// Information of a continuous variable and a discrete one: the entropy of the mixture less that of its parts.
fn class_information(values: &[f64], classes: &Labels, factor: f64) -> f64 {
    let mut members: Vec<Vec<f64>> = vec![vec![]; classes.levels];
    classes.of_row.iter().zip(values).for_each(|(l, v)| members[*l as usize].push(*v));
    members.retain(|m| m.len() >= LEAST_MEMBERS);
    let total: usize = members.iter().map(Vec::len).sum();
    if members.len() < 2 {
        return 0.0;
    }
    let pooled: f64 =
        members.iter().map(|m| deviation(m).powi(2) * m.len() as f64).sum::<f64>() / total as f64;
    // One bandwidth for all classes, from the spread inside them: it then cancels in the difference as far as it can.
    let h = (factor * pooled.sqrt() * (0.75 * total as f64).powf(-0.2)).max(1e-6 * deviation(values));
    let all: Vec<f64> = members.concat();
    let axis = axis_1d(&all, h, 500);
    let mut mixture = vec![0.0; axis.cells];
    let mut inside = 0.0;
    for class in members {
        let share = class.len() as f64 / total as f64;
        let density = density_1d(class.iter().copied(), 1.0 / class.len() as f64, h, axis);
        mixture.iter_mut().zip(&density).for_each(|(m, d)| *m += share * d);
        inside += share * cell_entropy(&density);
    }
    (cell_entropy(&mixture) - inside).max(0.0)
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt()
}

/// Median, interquartile range and standard deviation; `buffer` holds the values again afterwards.
fn robust_scale(buffer: &mut [f64], values: &[f64]) -> (f64, f64, f64) {
    let n = buffer.len();
    let mut quantile = |part: f64| {
        let at = part * (n - 1) as f64;
        let (low, rest) = (at as usize, at.fract());
        let (_, value, above) = buffer.select_nth_unstable_by(low, f64::total_cmp);
        let next = above.iter().copied().fold(f64::INFINITY, f64::min);
        if rest > 0.0 { *value + rest * (next - *value) } else { *value }
    };
    let (quarter, half, rest) = (quantile(0.25), quantile(0.5), quantile(0.75));
    buffer.copy_from_slice(values);
    (half, rest - quarter, deviation(values))
}

/// Whether there are at most `most` distinct values; they are left in `levels`, in order of appearance.
fn find_levels(values: &[f64], most: usize, levels: &mut Vec<f64>) -> bool {
    levels.clear();
    for v in values {
        if !levels.contains(v) {
            if levels.len() == most {
                return false;
            }
            levels.push(*v);
        }
    }
    true
}

fn non_finite(what: String, row: usize, value: f64) -> HighDimensionalError {
    HighDimensionalError::NonFinite { what, row, value }
}
