//! A design as if it had been centred and scaled.

use super::Design;

/// What to do to the columns before they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scaling {
    /// Remove the part of every column along the unit vector (its mean, when that is the vector of ones):
    /// this is what an unpenalised intercept does.
    pub centre: bool,
    /// Divide every column by its standard deviation (ddof 0); uncentred columns by their root mean
    /// square.
    pub scale: bool,
}

/// Columns `z_j = (x_j - m_j u) / s_j` of a design `x`, computed on the fly.
///
/// `u` is the vector of ones, or the square roots of the weights of the rows when those are already
/// multiplied into `x`. With centring, all `z_j` are orthogonal to `u`; products with a vector that is
/// orthogonal to `u` too (a residual of a centred regression) need no correction, so a sparse design
/// costs what its stored entries cost.
///
/// A constant column has `z_j = 0`, and its coefficient is 0.
#[derive(Debug)]
pub struct Centred<'a> {
    design: &'a dyn Design,
    unit: Option<Vec<f64>>,
    means: Vec<f64>,
    inverse_scales: Vec<f64>,
    squared_norms: Vec<f64>,
    centre: bool,
}

impl<'a> Centred<'a> {
    /// Columns whose spread is below this part of their size are constant: what is left is rounding.
    pub const CONSTANT: f64 = 1e-14;

    /// Looks at `design` with `unit = u` (`None`: ones) and `normaliser = ||u||²`. Cost: two passes.
    pub fn new(design: &'a dyn Design, unit: Option<Vec<f64>>, scaling: Scaling) -> Self {
        let p = design.cols();
        let n = design.rows();
        let ones;
        let u: &[f64] = match &unit {
            Some(unit) => unit,
            None => {
                ones = vec![1.0; n];
                &ones
            }
        };
        let normaliser: f64 = u.iter().map(|v| v * v).sum();
        let mut means = vec![0.0; p];
        if scaling.centre && normaliser > 0.0 {
            let all: Vec<u32> = (0..p as u32).collect();
            design.dots(&all, u, &mut means);
            means.iter_mut().for_each(|m| *m /= normaliser);
        }
        let (squared_norms, inverse_scales) =
            Self::spread(design, &means, unit.as_deref(), normaliser, |square| {
                if scaling.scale { (normaliser / square).sqrt() } else { 1.0 }
            });
        Self { design, unit, means, inverse_scales, squared_norms, centre: scaling.centre }
    }

    /// As [`Centred::new`] with centring if `centre` is set, every column divided by a given scale.
    pub fn with_scales(
        design: &'a dyn Design,
        unit: Option<Vec<f64>>,
        centre: bool,
        inverse_scales: &[f64],
    ) -> Self {
        let mut out = Self::new(design, unit, Scaling { centre, scale: false });
        for j in 0..design.cols() {
            out.inverse_scales[j] *= inverse_scales[j];
            out.squared_norms[j] *= inverse_scales[j] * inverse_scales[j];
        }
        out
    }

    /// Squared norms of the centred columns after scaling, and the scales.
    fn spread(
        design: &dyn Design,
        means: &[f64],
        unit: Option<&[f64]>,
        normaliser: f64,
        inverse_scale: impl Fn(f64) -> f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let (n, p) = (design.rows(), design.cols());
        let mut squared_norms = vec![0.0; p];
        let mut inverse_scales = vec![1.0; p];
        for j in 0..p {
            let square = design.squared_distance(j, means[j], unit);
            let size = square + means[j] * means[j] * normaliser;
            if square <= size * Self::CONSTANT * Self::CONSTANT * n as f64 {
                // Constant: the column takes no part.
                (squared_norms[j], inverse_scales[j]) = (0.0, 0.0);
                continue;
            }
            inverse_scales[j] = inverse_scale(square);
            squared_norms[j] = square * inverse_scales[j] * inverse_scales[j];
        }
        (squared_norms, inverse_scales)
    }

    /// The design beneath.
    pub fn design(&self) -> &'a dyn Design {
        self.design
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.design.rows()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.design.cols()
    }

    /// Whether the columns are centred.
    pub fn is_centred(&self) -> bool {
        self.centre
    }

    /// `m_j`, zero without centring.
    pub fn means(&self) -> &[f64] {
        &self.means
    }

    /// `1 / s_j`; 0 for a constant column, 1 without scaling.
    pub fn inverse_scales(&self) -> &[f64] {
        &self.inverse_scales
    }

    /// `||z_j||²` for every column.
    pub fn squared_norms(&self) -> &[f64] {
        &self.squared_norms
    }

    /// `v - u (uᵀ v) / ||u||²` in place, with the factor `(uᵀ v) / ||u||²`; nothing and 0 without
    /// centring.
    pub fn centre(&self, v: &mut [f64]) -> f64 {
        if !self.centre {
            return 0.0;
        }
        match &self.unit {
            None => {
                let mean = v.iter().sum::<f64>() / (v.len() as f64).max(1.0);
                v.iter_mut().for_each(|x| *x -= mean);
                mean
            }
            Some(unit) => {
                let square: f64 = unit.iter().map(|u| u * u).sum();
                let product: f64 = unit.iter().zip(v.iter()).map(|(u, x)| u * x).sum();
                let mean = if square > 0.0 { product / square } else { 0.0 };
                v.iter_mut().zip(unit).for_each(|(x, u)| *x -= mean * u);
                mean
            }
        }
    }

    /// `z_jᵀ v` for the columns listed. With centring `v` must be orthogonal to `u`.
    pub fn dots(&self, columns: &[u32], v: &[f64], out: &mut [f64]) {
        self.design.dots(columns, v, out);
        for (out, &j) in out.iter_mut().zip(columns) {
            *out *= self.inverse_scales[j as usize];
        }
    }

    /// `z_jᵀ v`. With centring `v` must be orthogonal to `u`.
    pub fn dot(&self, j: usize, v: &[f64]) -> f64 {
        self.design.dot(j, v) * self.inverse_scales[j]
    }

    /// `out += a z_j`, and the part along `u` collected in `shift`: the true sum is `out + shift u`.
    pub fn axpy(&self, j: usize, a: f64, out: &mut [f64], shift: &mut f64) {
        let a = a * self.inverse_scales[j];
        self.design.axpy(j, a, out);
        *shift -= a * self.means[j];
    }

    /// `out += shift u`.
    pub fn add_unit(&self, shift: f64, out: &mut [f64]) {
        if shift == 0.0 {
            return;
        }
        match &self.unit {
            None => out.iter_mut().for_each(|o| *o += shift),
            Some(unit) => out.iter_mut().zip(unit).for_each(|(o, u)| *o += shift * u),
        }
    }

    /// Writes `z_j` into `out`.
    pub fn fill(&self, j: usize, out: &mut [f64]) {
        out.fill(0.0);
        let mut shift = 0.0;
        self.axpy(j, 1.0, out, &mut shift);
        self.add_unit(shift, out);
    }

    /// `out += sum_j w_j z_j` over the pairs given.
    pub fn accumulate(&self, pairs: impl Iterator<Item = (usize, f64)>, out: &mut [f64]) {
        let mut shift = 0.0;
        for (j, w) in pairs {
            self.axpy(j, w, out, &mut shift);
        }
        self.add_unit(shift, out);
    }
}
