//! Alternating sparse coding and dictionary updates.

use rayon::prelude::*;
use sparseland_linalg::{Mat, matmul, matmul_transposed_left, solve_spd, svd_truncated};

use super::{Pursuit, add_scaled, code_samples, dot};
use crate::CompressError;

/// How the atoms are fitted to the samples that use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Atom after atom, its direction and its coefficients by this many power iterations for the best rank one
    /// (K-SVD as CoSpaDi runs it: 8). `iterations + 1` passes over the residuals of the atom's users.
    Power(usize),
    /// Atom after atom, by a decomposition of the residuals of its users (K-SVD).
    Exact,
    /// All atoms at once by least squares, coefficients fixed (method of optimal directions).
    Directions,
}

/// Ridge of the least squares of [`Update::Directions`], relative to the mean squared coefficient energy: keeps
/// atoms that hardly anyone uses from growing beyond all bounds.
const RIDGE: f64 = 1e-10;

/// Samples per task in a pass over an atom's users. Partial sums are added in the order of the tasks, so that the
/// result does not depend on the number of threads.
const CHUNK: usize = 128;

/// Multiply-adds above which a pass over an atom's users is shared among threads.
const SHARED: usize = 1 << 16;

/// A dictionary under way: data, atoms, codes and what they leave over.
pub struct Learner {
    data: Mat<f64>,
    atoms: Mat<f64>,
    codes: Mat<f64>,
    residual: Mat<f64>,
    nonzeros: usize,
    pursuit: Pursuit,
}

impl Learner {
    /// `data: n x d`, starting atoms `k x d` (scaled to norm one here; a zero row stays), at most `nonzeros`
    /// coefficients per sample. Nothing is coded yet: the residual is the data.
    ///
    /// # Errors
    /// If the lengths differ or a value is not finite.
    pub fn new(
        data: Mat<f64>,
        mut atoms: Mat<f64>,
        nonzeros: usize,
        pursuit: Pursuit,
    ) -> Result<Self, CompressError> {
        data.check_finite("dictionary learning")?;
        atoms.check_finite("dictionary learning")?;
        if data.cols != atoms.cols {
            return Err(CompressError::Setting(format!(
                "atoms of length {} cannot code samples of length {}",
                atoms.cols, data.cols
            )));
        }
        (0..atoms.rows).for_each(|i| {
            normalise(atoms.row_mut(i));
        });
        let codes = Mat::zeros(data.rows, atoms.rows);
        Ok(Self { residual: data.clone(), data, atoms, codes, nonzeros, pursuit })
    }

    /// Starts from given codes instead of none (`n x k`, for the atoms as given to [`new`](Self::new) before
    /// scaling: codes are rescaled by the same norms).
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn with_codes(mut self, mut codes: Mat<f64>, norms: &[f64]) -> Result<Self, CompressError> {
        codes.scale_columns(norms);
        self.residual = subtract(&self.data, &matmul(&codes, &self.atoms)?);
        self.codes = codes;
        Ok(self)
    }

    /// `||X - S D||²`.
    pub fn objective(&self) -> f64 {
        self.residual.data.iter().map(|v| v * v).sum()
    }

    /// `k x d`, rows of norm one.
    pub fn atoms(&self) -> &Mat<f64> {
        &self.atoms
    }

    /// `n x k`, at most `nonzeros` per row.
    pub fn codes(&self) -> &Mat<f64> {
        &self.codes
    }

    /// Codes and atoms.
    pub fn into_parts(self) -> (Mat<f64>, Mat<f64>) {
        (self.codes, self.atoms)
    }

    /// Codes every sample anew. A sample whose old code leaves less keeps it where `monotone`: a greedy code may
    /// be worse than one that the updates have already fitted.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn code(&mut self, monotone: bool) -> Result<(), CompressError> {
        let codes = code_samples(&self.data, &self.atoms, self.nonzeros, self.pursuit)?;
        let residual = subtract(&self.data, &matmul(&codes, &self.atoms)?);
        if !monotone {
            (self.codes, self.residual) = (codes, residual);
            return Ok(());
        }
        for j in 0..self.data.rows {
            let (old, new) = (self.residual.row(j), residual.row(j));
            if dot(new, new) < dot(old, old) {
                self.residual.row_mut(j).copy_from_slice(residual.row(j));
                self.codes.row_mut(j).copy_from_slice(codes.row(j));
            }
        }
        Ok(())
    }

    /// Fits the atoms to their users; the objective does not rise. Atoms without users take the direction of the
    /// samples that are represented worst, one sample each.
    ///
    /// # Errors
    /// If a decomposition fails.
    pub fn update(&mut self, rule: Update) -> Result<(), CompressError> {
        match rule {
            Update::Directions => self.directions()?,
            Update::Power(iterations) => {
                let mut pass = Pass::default();
                (0..self.atoms.rows).for_each(|atom| self.power(atom, iterations.max(1), &mut pass));
            }
            Update::Exact => (0..self.atoms.rows).try_for_each(|atom| self.exact(atom))?,
        }
        self.reseed();
        Ok(())
    }

    /// Alternates `rounds` times, beginning with a coding; stops when a round lowers the objective by less than
    /// `tolerance` relatively. `watch` sees the number of rounds done and the objective, and may stop with an error.
    /// Ends with a coding, so that the codes fit the atoms. Returns the objective after each round.
    ///
    /// # Errors
    /// If a decomposition fails, or `watch` does.
    pub fn learn(
        &mut self,
        rounds: usize,
        rule: Update,
        monotone: bool,
        tolerance: f64,
        watch: &mut dyn FnMut(usize, f64) -> Result<(), CompressError>,
    ) -> Result<Vec<f64>, CompressError> {
        self.code(monotone)?;
        let mut history = vec![self.objective()];
        watch(0, history[0])?;
        for round in 1..=rounds {
            let before = history[history.len() - 1];
            if before == 0.0 {
                break;
            }
            self.update(rule)?;
            self.code(monotone)?;
            let now = self.objective();
            history.push(now);
            watch(round, now)?;
            if before - now < tolerance * before {
                break;
            }
        }
        Ok(history)
    }

    fn users(&self, atom: usize) -> Vec<u32> {
        (0..self.codes.rows as u32).filter(|&j| self.codes.at(j as usize, atom) != 0.0).collect()
    }

    /// The best rank one of the residuals without the atom, `R_j = E_j + g_j d`, which are never formed.
    fn power(&mut self, atom: usize, iterations: usize, pass: &mut Pass) {
        let users = self.users(atom);
        if users.is_empty() {
            return;
        }
        let old = self.atoms.row(atom).to_vec();
        let weights: Vec<f64> = users.iter().map(|&j| self.codes.at(j as usize, atom)).collect();
        // u = Rᵀ g with g the coefficients as they are.
        pass.sum(&self.residual, &users, |_, i| weights[i]);
        let mut direction = pass.total.clone();
        add_scaled(dot(&weights, &weights), &old, &mut direction);
        if normalise(&mut direction) == 0.0 {
            return;
        }
        for _ in 1..iterations {
            let along = dot(&old, &direction);
            pass.sum(&self.residual, &users, |e, i| dot(e, &direction) + weights[i] * along);
            let mut next = pass.total.clone();
            add_scaled(dot(&pass.values, &weights), &old, &mut next);
            if normalise(&mut next) == 0.0 {
                break;
            }
            direction = next;
        }
        self.replace(atom, &users, &weights, &old, direction);
    }

    fn exact(&mut self, atom: usize) -> Result<(), CompressError> {
        let users = self.users(atom);
        if users.is_empty() {
            return Ok(());
        }
        let old = self.atoms.row(atom).to_vec();
        let weights: Vec<f64> = users.iter().map(|&j| self.codes.at(j as usize, atom)).collect();
        let rows = Mat::from_fn(users.len(), self.data.cols, |i, c| {
            self.residual.at(users[i] as usize, c) + weights[i] * old[c]
        });
        let found = svd_truncated(&rows, 1)?;
        if found.s[0] > 0.0 {
            self.replace(atom, &users, &weights, &old, found.vt.row(0).to_vec());
        }
        Ok(())
    }

    /// Puts the atom `new` in the place of `old` with the best coefficients for it.
    fn replace(&mut self, atom: usize, users: &[u32], weights: &[f64], old: &[f64], new: Vec<f64>) {
        let along = dot(old, &new);
        for (&j, &weight) in users.iter().zip(weights) {
            let e = self.residual.row_mut(j as usize);
            let coefficient = dot(e, &new) + weight * along;
            add_scaled(weight, old, e);
            add_scaled(-coefficient, &new, e);
            self.codes.row_mut(j as usize)[atom] = coefficient;
        }
        self.atoms.row_mut(atom).copy_from_slice(&new);
    }

    /// `D <- (SᵀS + eps I)⁻¹ Sᵀ X`, scaled to unit atoms.
    fn directions(&mut self) -> Result<(), CompressError> {
        let k = self.atoms.rows;
        let used: Vec<usize> = (0..k).filter(|&i| !self.users(i).is_empty()).collect();
        if used.is_empty() {
            return Ok(());
        }
        let codes = Mat::from_fn(self.codes.rows, used.len(), |j, i| self.codes.at(j, used[i]));
        let mut gram = matmul_transposed_left(&codes, &codes)?;
        let n = used.len();
        let trace: f64 = (0..n).map(|i| gram.at(i, i)).sum();
        (0..n).for_each(|i| gram.data[i * n + i] += RIDGE * trace / n as f64);
        let atoms = solve_spd(&gram, &matmul_transposed_left(&codes, &self.data)?)?;
        let residual = subtract(&self.data, &matmul(&codes, &atoms)?);
        let energy = |m: &Mat<f64>| m.data.iter().map(|v| v * v).sum::<f64>();
        // The ridge may lose what a converged dictionary has.
        if energy(&residual) > self.objective() {
            return Ok(());
        }
        for (i, &atom) in used.iter().enumerate() {
            self.atoms.row_mut(atom).copy_from_slice(atoms.row(i));
            let norm = normalise(self.atoms.row_mut(atom));
            (0..self.codes.rows).for_each(|j| self.codes.row_mut(j)[atom] *= norm);
        }
        self.residual = residual;
        Ok(())
    }

    fn reseed(&mut self) {
        let unused: Vec<usize> = (0..self.atoms.rows).filter(|&i| self.users(i).is_empty()).collect();
        if unused.is_empty() {
            return;
        }
        let mut worst: Vec<(f64, usize)> =
            (0..self.data.rows).map(|j| (dot(self.residual.row(j), self.residual.row(j)), j)).collect();
        worst.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (&atom, &(energy, sample)) in unused.iter().zip(&worst) {
            if energy > 0.0 {
                self.atoms.row_mut(atom).copy_from_slice(self.residual.row(sample));
                normalise(self.atoms.row_mut(atom));
            }
        }
    }
}

/// Weighted sums of an atom's users' residuals.
#[derive(Default)]
struct Pass {
    /// One weight per user.
    values: Vec<f64>,
    /// `sum_i values_i E_i`.
    total: Vec<f64>,
    parts: Vec<f64>,
}

impl Pass {
    /// Fills `values` by `value(residual, position)` and `total`, in one pass over the residuals.
    fn sum(&mut self, residual: &Mat<f64>, users: &[u32], value: impl Fn(&[f64], usize) -> f64 + Sync) {
        let d = residual.cols;
        let chunks = users.len().div_ceil(CHUNK);
        self.values.resize(users.len(), 0.0);
        self.parts.clear();
        self.parts.resize(chunks * d, 0.0);
        let add = |chunk: usize, users: &[u32], values: &mut [f64], part: &mut [f64]| {
            for (i, (&j, v)) in users.iter().zip(values).enumerate() {
                let e = residual.row(j as usize);
                *v = value(e, chunk * CHUNK + i);
                add_scaled(*v, e, part);
            }
        };
        if users.len() * d > SHARED && chunks > 1 {
            let values = self.values.par_chunks_mut(CHUNK);
            let tasks = users.par_chunks(CHUNK).zip(values).zip(self.parts.par_chunks_mut(d));
            tasks.enumerate().for_each(|(chunk, ((users, values), part))| add(chunk, users, values, part));
        } else {
            let values = self.values.chunks_mut(CHUNK);
            let tasks = users.chunks(CHUNK).zip(values).zip(self.parts.chunks_mut(d));
            tasks.enumerate().for_each(|(chunk, ((users, values), part))| add(chunk, users, values, part));
        }
        self.total.clear();
        self.total.resize(d, 0.0);
        self.parts.chunks_exact(d).for_each(|part| add_scaled(1.0, part, &mut self.total));
    }
}

/// Scales to norm one and returns the norm; zeros stay.
pub(crate) fn normalise(x: &mut [f64]) -> f64 {
    let norm = dot(x, x).sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|v| *v /= norm);
    }
    norm
}

fn subtract(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let data = a.data.iter().zip(&b.data).map(|(a, b)| a - b).collect();
    Mat { rows: a.rows, cols: a.cols, data }
}
