//! Rows of a table: embeddings, gathering and scattering.

use rayon::prelude::*;
use sparseland_matrix::Real;

use super::add_to;
use crate::{Backward, Forward, Op, ParamId, Parameters, Tape, Var};

/// Positions by the table row they name, so that threads add to rows of their own.
fn by_row(ids: &[u32], rows: usize) -> Vec<(u32, u32)> {
    let mut order: Vec<(u32, u32)> = ids.iter().enumerate().map(|(i, &id)| (id, i as u32)).collect();
    debug_assert!(ids.iter().all(|&id| (id as usize) < rows));
    order.sort_unstable();
    order
}

/// `table[id] += dy[i]` for every `(id, i)`; positions of one row are added in order.
fn scatter_add<R: Real>(order: &[(u32, u32)], dy: &[R], cols: usize, table: &mut [R]) {
    // Blocks of table rows belong to one thread each.
    const ROWS: usize = 256;
    table.par_chunks_mut(ROWS * cols).enumerate().for_each(|(block, table)| {
        let first = (block * ROWS) as u32;
        let start = order.partition_point(|&(id, _)| id < first);
        for &(id, i) in order[start..].iter().take_while(|&&(id, _)| id < first + ROWS as u32) {
            let (at, i) = ((id - first) as usize * cols, i as usize * cols);
            add_to(&dy[i..i + cols], &mut table[at..at + cols]);
        }
    });
}

struct Embedding {
    parameters: [ParamId; 1],
    ids: Vec<u32>,
    cols: usize,
}

impl<R: Real> Op<R> for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        let table = on.parameters.value(self.parameters[0]);
        for (y, &id) in on.output.chunks_exact_mut(self.cols).zip(&self.ids) {
            y.copy_from_slice(&table[id as usize * self.cols..(id as usize + 1) * self.cols]);
        }
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        let table = on.parameters.value_and_gradient(self.parameters[0]).1;
        scatter_add(&by_row(&self.ids, table.len() / self.cols), on.gradient, self.cols, table);
    }
}

/// `y[i] = x[ids[i]]`.
struct Gather {
    ids: Vec<u32>,
    cols: usize,
}

impl<R: Real> Op<R> for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        for (y, &id) in on.output.chunks_exact_mut(self.cols).zip(&self.ids) {
            y.copy_from_slice(&on.inputs[0][id as usize * self.cols..(id as usize + 1) * self.cols]);
        }
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            let dx = dx.add();
            scatter_add(&by_row(&self.ids, dx.len() / self.cols), on.gradient, self.cols, dx);
        }
    }
}

/// `y[ids[i]] += x[i]`.
struct Scatter {
    ids: Vec<u32>,
    cols: usize,
}

impl<R: Real> Op<R> for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn forward(&mut self, on: Forward<'_, R>) {
        on.output.fill(R::ZERO);
        let order = by_row(&self.ids, on.output.len() / self.cols);
        scatter_add(&order, on.inputs[0], self.cols, on.output);
    }

    fn backward(&mut self, on: Backward<'_, R>) {
        if let Some(dx) = &mut on.gradients[0] {
            for (dx, &id) in dx.add().chunks_exact_mut(self.cols).zip(&self.ids) {
                add_to(&on.gradient[id as usize * self.cols..(id as usize + 1) * self.cols], dx);
            }
        }
    }
}

impl<R: Real> Tape<R> {
    /// The rows `ids` of the parameter `table: vocabulary x width`.
    ///
    /// # Panics
    /// If an id is not below the vocabulary.
    pub fn embedding(&mut self, parameters: &Parameters<R>, table: ParamId, ids: &[u32]) -> Var {
        let shape = &parameters.get(table).shape;
        let (vocabulary, cols) = (shape[0], shape[1]);
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "an id is not below {vocabulary}");
        let op = Embedding { parameters: [table], ids: ids.to_vec(), cols };
        self.push(parameters, op, &[], ids.len(), cols)
    }

    /// The rows `ids` of a value.
    ///
    /// # Panics
    /// If an id is not below the number of rows.
    pub fn gather(&mut self, parameters: &Parameters<R>, x: Var, ids: &[u32]) -> Var {
        let (rows, cols) = self.shape(x);
        assert!(ids.iter().all(|&id| (id as usize) < rows), "an id is not below {rows}");
        self.push(parameters, Gather { ids: ids.to_vec(), cols }, &[x], ids.len(), cols)
    }

    /// `rows` rows, of which row `ids[i]` is the sum of the rows `i` of `x`.
    ///
    /// # Panics
    /// If there is not one id per row of `x`, or one is not below `rows`.
    pub fn scatter(&mut self, parameters: &Parameters<R>, x: Var, ids: &[u32], rows: usize) -> Var {
        let (count, cols) = self.shape(x);
        assert!(count == ids.len() && ids.iter().all(|&id| (id as usize) < rows), "ids do not fit");
        self.push(parameters, Scatter { ids: ids.to_vec(), cols }, &[x], rows, cols)
    }
}
