//! How far an estimated graph is from the true one.
//!
//! | metric | counts | cost |
//! |---|---|---|
//! | SHD | missing, extra and reversed edges | `d^2` |
//! | TPR, FDR | edges found, edges wrong | `d^2` |
//! | SHD-C | pairs of nodes whose edge differs between the two equivalence classes (CPDAGs) | `d^4` at worst |
//! | SID | pairs whose intervention effect the estimate gets wrong | `d^2 (d + edges)` |

use sparseland_linalg::Mat;

use super::ColideError;
use super::dag::topological_order;

/// Edge counts of an estimate against the truth.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct GraphScore {
    /// Structural Hamming distance: extra + missing edges of the skeleton + reversed edges.
    pub shd: usize,
    /// True positive rate: edges with the right direction / true edges.
    pub tpr: f64,
    /// False discovery rate: (reversed + extra edges) / estimated edges.
    pub fdr: f64,
    /// Estimated edges.
    pub edges: usize,
    /// True edges.
    pub true_edges: usize,
    /// Reversed edges.
    pub reversed: usize,
    /// Estimated edges between nodes that the truth does not join.
    pub extra: usize,
    /// True edges between nodes that the estimate does not join.
    pub missing: usize,
}

fn check(truth: &Mat<f64>, estimate: &Mat<f64>) -> Result<(), ColideError> {
    if truth.rows != truth.cols || truth.shape() != estimate.shape() {
        return Err(ColideError::Shape {
            what: "the estimated graph",
            expected: format!("{0} x {0}, as the truth", truth.rows),
            got: format!("{} x {} against {} x {}", estimate.rows, estimate.cols, truth.rows, truth.cols),
        });
    }
    Ok(())
}

/// Counts the edges that agree; an entry that is not zero is an edge `row -> column`.
///
/// # Errors
/// [`ColideError::Shape`] when the two are not square of one order.
pub fn graph_score(truth: &Mat<f64>, estimate: &Mat<f64>) -> Result<GraphScore, ColideError> {
    check(truth, estimate)?;
    let d = truth.rows;
    let (mut found, mut reversed, mut false_edges) = (0, 0, 0);
    let (mut edges, mut true_edges, mut extra, mut missing) = (0, 0, 0, 0);
    for i in 0..d {
        for j in (0..d).filter(|&j| j != i) {
            let (t, e) = (truth.at(i, j) != 0.0, estimate.at(i, j) != 0.0);
            let backward = truth.at(j, i) != 0.0;
            edges += usize::from(e);
            true_edges += usize::from(t);
            found += usize::from(e && t);
            reversed += usize::from(e && !t && backward);
            false_edges += usize::from(e && !t && !backward);
            if i < j {
                let (joined, guessed) = (t || backward, e || estimate.at(j, i) != 0.0);
                extra += usize::from(guessed && !joined);
                missing += usize::from(joined && !guessed);
            }
        }
    }
    Ok(GraphScore {
        shd: extra + missing + reversed,
        tpr: found as f64 / true_edges.max(1) as f64,
        fdr: (reversed + false_edges) as f64 / edges.max(1) as f64,
        edges,
        true_edges,
        reversed,
        extra,
        missing,
    })
}

/// `||estimate - truth||_2 / ||truth||_2` for noise scales (standard deviations), one per node.
pub fn relative_noise_error(truth: &[f64], estimate: &[f64]) -> f64 {
    let difference: f64 = truth.iter().zip(estimate).map(|(t, e)| (t - e) * (t - e)).sum();
    (difference / truth.iter().map(|t| t * t).sum::<f64>()).sqrt()
}

/// The equivalence class of a DAG: `true` at `(i, j)` and `(j, i)` for an undirected edge, at `(i, j)` alone for `i -> j`.
///
/// Skeleton and v-structures, closed under Meek's rules 1 to 3 (1995); rule 4 is only needed with background knowledge.
///
/// # Errors
/// [`ColideError::Cyclic`], [`ColideError::Shape`].
pub fn cpdag(dag: &Mat<f64>) -> Result<Vec<bool>, ColideError> {
    check(dag, dag)?;
    if topological_order(dag).is_none() {
        return Err(ColideError::Cyclic { which: "given" });
    }
    let d = dag.rows;
    let edge = |i: usize, j: usize| dag.at(i, j) != 0.0;
    let joined = |i: usize, j: usize| edge(i, j) || edge(j, i);
    let mut out: Vec<bool> = (0..d * d).map(|k| joined(k / d, k % d)).collect();
    for k in 0..d {
        let parents: Vec<usize> = (0..d).filter(|&i| edge(i, k)).collect();
        for (at, &i) in parents.iter().enumerate() {
            for &j in &parents[at + 1..] {
                if !joined(i, j) {
                    out[k * d + i] = false;
                    out[k * d + j] = false;
                }
            }
        }
    }
    let undirected = |out: &[bool], i: usize, j: usize| out[i * d + j] && out[j * d + i];
    let directed = |out: &[bool], i: usize, j: usize| out[i * d + j] && !out[j * d + i];
    let mut changed = true;
    while changed {
        changed = false;
        for i in 0..d {
            for j in 0..d {
                if i == j || !undirected(&out, i, j) {
                    continue;
                }
                // 1: k -> i - j, k and j not joined. 2: i -> k -> j. 3: i - k -> j and i - l -> j, k and l not joined.
                let first = (0..d).any(|k| directed(&out, k, i) && k != j && !joined(k, j));
                let second = || (0..d).any(|k| directed(&out, i, k) && directed(&out, k, j));
                let third = || {
                    let middle: Vec<usize> =
                        (0..d).filter(|&k| undirected(&out, i, k) && directed(&out, k, j)).collect();
                    middle.iter().any(|&k| middle.iter().any(|&l| k != l && !joined(k, l)))
                };
                if first || second() || third() {
                    out[j * d + i] = false;
                    changed = true;
                }
            }
        }
    }
    Ok(out)
}

/// The structural Hamming distance between the equivalence classes of two DAGs: pairs of nodes whose edge differs.
///
/// # Errors
/// [`ColideError::Cyclic`], [`ColideError::Shape`].
pub fn shd_of_classes(truth: &Mat<f64>, estimate: &Mat<f64>) -> Result<usize, ColideError> {
    check(truth, estimate)?;
    let d = truth.rows;
    let (a, b) = (cpdag(truth)?, cpdag(estimate)?);
    let mut count = 0;
    for i in 0..d {
        for j in i + 1..d {
            let (up, down) = (i * d + j, j * d + i);
            count += usize::from((a[up], a[down]) != (b[up], b[down]));
        }
    }
    Ok(count)
}

/// The structural intervention distance (Peters and Bühlmann 2015): ordered pairs `(i, j)` for which adjusting for the
/// parents of `i` in the estimate does not give the effect of an intervention at `i` on `j` in the truth.
///
/// # Errors
/// [`ColideError::Cyclic`], [`ColideError::Shape`].
pub fn structural_intervention_distance(truth: &Mat<f64>, estimate: &Mat<f64>) -> Result<usize, ColideError> {
    check(truth, estimate)?;
    let d = truth.rows;
    let order = topological_order(truth).ok_or(ColideError::Cyclic { which: "true" })?;
    topological_order(estimate).ok_or(ColideError::Cyclic { which: "estimated" })?;
    let children: Vec<Vec<usize>> =
        (0..d).map(|i| (0..d).filter(|&j| truth.at(i, j) != 0.0).collect()).collect();
    let parents: Vec<Vec<usize>> =
        (0..d).map(|j| (0..d).filter(|&i| truth.at(i, j) != 0.0).collect()).collect();
    // descends[i][j]: j is i or a descendant of it.
    let mut descends = vec![vec![false; d]; d];
    for &i in order.iter().rev() {
        descends[i][i] = true;
        for &c in &children[i] {
            for j in 0..d {
                descends[i][j] |= descends[c][j];
            }
        }
    }
    let mut wrong = 0;
    for i in 0..d {
        let given: Vec<bool> = (0..d).map(|k| estimate.at(k, i) != 0.0).collect();
        // Ancestors of the adjustment set, itself included: colliders there let paths through.
        let open: Vec<bool> = (0..d).map(|k| (0..d).any(|z| given[z] && descends[k][z])).collect();
        for j in (0..d).filter(|&j| j != i) {
            if given[j] {
                // The estimate says that i has no effect on j.
                wrong += usize::from(descends[i][j]);
                continue;
            }
            // A member of the set below a node on a causal path (i aside) spoils the adjustment.
            let causal = |k: usize| k != i && descends[i][k] && descends[k][j];
            let spoilt = (0..d).any(|k| causal(k) && (0..d).any(|z| given[z] && descends[k][z]));
            if spoilt || reaches(i, j, &children, &parents, &given, &open, &causal) {
                wrong += 1;
            }
        }
    }
    Ok(wrong)
}

/// Whether an open path joins `i` and `j` given the set, in the graph without the first edges of causal paths.
fn reaches(
    i: usize,
    j: usize,
    children: &[Vec<usize>],
    parents: &[Vec<usize>],
    given: &[bool],
    open: &[bool],
    causal: &dyn Fn(usize) -> bool,
) -> bool {
    let d = children.len();
    // States: reached from a child (moving up) or from a parent (moving down).
    let (mut seen_up, mut seen_down) = (vec![false; d], vec![false; d]);
    let mut stack = Vec::new();
    stack.extend(parents[i].iter().map(|&k| (k, true)));
    stack.extend(children[i].iter().filter(|&&k| !causal(k)).map(|&k| (k, false)));
    while let Some((k, up)) = stack.pop() {
        let seen = if up { &mut seen_up } else { &mut seen_down };
        if std::mem::replace(&mut seen[k], true) || k == i {
            continue;
        }
        if k == j {
            return true;
        }
        // The edges out of i that start causal paths are gone from both ends; going up to i is a dead end anyway.
        if up && !given[k] {
            stack.extend(parents[k].iter().map(|&p| (p, true)));
            stack.extend(children[k].iter().map(|&c| (c, false)));
        }
        if !up {
            if !given[k] {
                stack.extend(children[k].iter().map(|&c| (c, false)));
            }
            if open[k] {
                stack.extend(parents[k].iter().map(|&p| (p, true)));
            }
        }
    }
    false
}
