//! Blocks whose graph is a forest, and exact updates on them.

use super::BcdError;
use super::sparse::Sparse;

/// Union-find with path halving.
struct Trees {
    parent: Vec<u32>,
}

impl Trees {
    fn new(n: usize) -> Self {
        Trees { parent: (0..n as u32).collect() }
    }
    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] as usize != i {
            self.parent[i] = self.parent[self.parent[i] as usize];
            i = self.parent[i] as usize;
        }
        i
    }
    /// Joins `i` with the chosen neighbours if no two of them are in one tree.
    fn admit(
        &mut self,
        a: &Sparse,
        i: usize,
        chosen: impl Fn(usize) -> bool,
        roots: &mut Vec<usize>,
    ) -> bool {
        roots.clear();
        for (k, v) in a.column(i) {
            if k != i && v != 0.0 && chosen(k) {
                let root = self.root(k);
                if roots.contains(&root) {
                    return false;
                }
                roots.push(root);
            }
        }
        for &r in roots.iter() {
            self.parent[r] = i as u32;
        }
        true
    }
}

/// A maximal forest: scans `order` and adds each node that closes no cycle. `O(edges)` up to the union-find.
pub fn greedy_forest(a: &Sparse, order: &[usize]) -> Vec<usize> {
    let mut trees = Trees::new(a.cols());
    let mut chosen = vec![false; a.cols()];
    let mut roots = Vec::new();
    let mut block = Vec::new();
    for &i in order {
        if trees.admit(a, i, |k| chosen[k], &mut roots) {
            chosen[i] = true;
            block.push(i);
        }
    }
    block
}

/// Forests that together hold every node once: each node, in `order`, goes to the first forest that takes it.
pub fn forest_partition(a: &Sparse, order: &[usize]) -> Vec<Vec<usize>> {
    let mut owner = vec![usize::MAX; a.cols()];
    let mut forests: Vec<(Trees, Vec<usize>)> = Vec::new();
    let mut roots = Vec::new();
    for &i in order {
        let mut k = 0;
        loop {
            if k == forests.len() {
                forests.push((Trees::new(a.cols()), Vec::new()));
            }
            if forests[k].0.admit(a, i, |j| owner[j] == k, &mut roots) {
                owner[i] = k;
                forests[k].1.push(i);
                break;
            }
            k += 1;
        }
    }
    forests.into_iter().map(|f| f.1).collect()
}

/// Independent sets that together hold every node once: each node, in `order`, takes the admissible colour that has the
/// fewest nodes, or a new one.
pub fn colouring(a: &Sparse, order: &[usize]) -> Vec<Vec<usize>> {
    let mut colour = vec![usize::MAX; a.cols()];
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for &i in order {
        let mut free = vec![true; sets.len()];
        for (k, v) in a.column(i) {
            if k != i && v != 0.0 && colour[k] != usize::MAX {
                free[colour[k]] = false;
            }
        }
        let best = (0..sets.len()).filter(|&c| free[c]).min_by_key(|&c| sets[c].len());
        let best = best.unwrap_or_else(|| {
            sets.push(Vec::new());
            sets.len() - 1
        });
        colour[i] = best;
        sets[best].push(i);
    }
    sets
}

/// Workspace of exact updates: `O(d)` once, then `O(|block| + edges)` each.
#[derive(Debug, Clone)]
pub(super) struct TreeSolver {
    /// Position in the block, or `u32::MAX`.
    place: Vec<u32>,
}

impl TreeSolver {
    pub(super) fn new(d: usize) -> Self {
        TreeSolver { place: vec![u32::MAX; d] }
    }

    /// The step `s` with `A_bb s = -g_b`, by elimination from the leaves to the roots and back; `None` when the block is
    /// no forest.
    pub(super) fn step(
        &mut self,
        a: &Sparse,
        block: &[usize],
        gradient: &[f64],
    ) -> Result<Option<Vec<f64>>, BcdError> {
        for (p, &j) in block.iter().enumerate() {
            self.place[j] = p as u32;
        }
        let result = self.solve(a, block, gradient);
        for &j in block {
            self.place[j] = u32::MAX;
        }
        result
    }

    fn solve(&self, a: &Sparse, block: &[usize], gradient: &[f64]) -> Result<Option<Vec<f64>>, BcdError> {
        let b = block.len();
        const NONE: u32 = u32::MAX;
        // Depth-first from every root; parents come before children in `order`.
        let (mut parent, mut weight) = (vec![NONE; b], vec![0.0; b]);
        let mut diagonal = vec![0.0; b];
        let mut seen = vec![false; b];
        let (mut order, mut stack) = (Vec::with_capacity(b), Vec::new());
        for start in 0..b {
            if seen[start] {
                continue;
            }
            seen[start] = true;
            stack.push(start as u32);
            while let Some(p) = stack.pop() {
                order.push(p);
                let j = block[p as usize];
                for (k, v) in a.column(j) {
                    let q = self.place[k];
                    if q == NONE || v == 0.0 {
                        continue;
                    }
                    if k == j {
                        diagonal[p as usize] = v;
                    } else if q != parent[p as usize] {
                        if seen[q as usize] {
                            return Ok(None);
                        }
                        seen[q as usize] = true;
                        parent[q as usize] = p;
                        weight[q as usize] = v;
                        stack.push(q);
                    }
                }
            }
        }
        let mut right: Vec<f64> = gradient.iter().map(|g| -g).collect();
        for &p in order.iter().rev() {
            let p = p as usize;
            if diagonal[p] <= 0.0 {
                return Err(BcdError::NotConvex { coordinate: block[p] });
            }
            if parent[p] != NONE {
                let (up, ratio) = (parent[p] as usize, weight[p] / diagonal[p]);
                diagonal[up] -= ratio * weight[p];
                right[up] -= ratio * right[p];
            }
        }
        for &p in &order {
            let p = p as usize;
            if parent[p] != NONE {
                right[p] -= weight[p] * right[parent[p] as usize];
            }
            right[p] /= diagonal[p];
        }
        Ok(Some(right))
    }
}
