//! Directed graphs as weight matrices: order, thresholds, sortability by variance.

use sparseland_linalg::Mat;

use super::ColideError;

/// The nodes in an order in which every edge `i -> j` (`w[i, j] != 0`) points forward, the smallest index first among
/// equals (Kahn 1962); `None` when there is a cycle. `O(d^2)`.
///
/// ```
/// use sparseland_estimate::colide::topological_order;
/// use sparseland_linalg::Mat;
/// let mut w = Mat::zeros(3, 3);
/// w.data[2 * 3] = 1.0; // 2 -> 0
/// assert_eq!(topological_order(&w), Some(vec![1, 2, 0]));
/// w.data[2] = 1.0; // 0 -> 2 closes a cycle
/// assert_eq!(topological_order(&w), None);
/// ```
pub fn topological_order(w: &Mat<f64>) -> Option<Vec<usize>> {
    let d = w.rows;
    let mut incoming = vec![0usize; d];
    for i in 0..d {
        for (j, &v) in w.row(i).iter().enumerate() {
            incoming[j] += usize::from(v != 0.0);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..d).filter(|&j| incoming[j] == 0).collect();
    let mut order = Vec::with_capacity(d);
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for (j, &v) in w.row(i).iter().enumerate() {
            if v != 0.0 {
                incoming[j] -= 1;
                if incoming[j] == 0 {
                    ready.insert(j);
                }
            }
        }
    }
    (order.len() == d).then_some(order)
}

/// `w` without the entries `|w_ij| <= threshold`, and, while a cycle is left, without its smallest remaining entries.
///
/// Entries listed in `kept` (row-major indices) are never removed; they must not form a cycle themselves. The number of
/// entries to remove is found by bisection: whether a cycle is left can only change once as entries fall away. `O(d^2
/// log d)` instead of the `O(d^4)` of removing them one by one, with the same result.
///
/// # Errors
/// [`ColideError::RequiredEdges`] when the entries in `kept` form a cycle; [`ColideError::Shape`].
pub fn threshold_to_dag(w: &Mat<f64>, threshold: f64, kept: &[usize]) -> Result<Mat<f64>, ColideError> {
    if w.rows != w.cols {
        return Err(ColideError::Shape {
            what: "the weight matrix",
            expected: "square".into(),
            got: format!("{} x {}", w.rows, w.cols),
        });
    }
    let mut fixed = vec![false; w.data.len()];
    for &k in kept {
        if let Some(flag) = fixed.get_mut(k) {
            *flag = true;
        }
    }
    let mut full = w.clone();
    for (k, v) in full.data.iter_mut().enumerate() {
        if !fixed[k] && v.abs() <= threshold {
            *v = 0.0;
        }
    }
    let mut edges: Vec<usize> = (0..full.data.len()).filter(|&k| full.data[k] != 0.0 && !fixed[k]).collect();
    edges.sort_by(|&a, &b| full.data[a].abs().total_cmp(&full.data[b].abs()));
    let without = |count: usize| {
        let mut out = full.clone();
        for &k in &edges[..count] {
            out.data[k] = 0.0;
        }
        out
    };
    let acyclic = |count: usize| topological_order(&without(count)).is_some();
    let (mut low, mut high) = (0, edges.len());
    if !acyclic(high) {
        return Err(ColideError::RequiredEdges { problem: "form a cycle".into() });
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if acyclic(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(without(low))
}

/// The fraction of directed paths of the graph along which the variance grows, ties counting half (Reisach, Seiler and
/// Weichwald, "Beware of the simulated DAG!", 2021); every (pair, length) with at least one path counts once. 1 means
/// that sorting by variance gives a causal order, 0.5 that variances say nothing. `NaN` for a graph without edges.
pub fn varsortability(w: &Mat<f64>, variances: &[f64]) -> f64 {
    let d = w.rows;
    let children: Vec<Vec<usize>> = (0..d).map(|i| (0..d).filter(|&j| w.at(i, j) != 0.0).collect()).collect();
    let (mut rising, mut paths) = (0.0, 0usize);
    for i in 0..d {
        let mut ends = vec![false; d];
        ends[i] = true;
        for _ in 1..d {
            let mut next = vec![false; d];
            for k in (0..d).filter(|&k| ends[k]) {
                for &j in &children[k] {
                    next[j] = true;
                }
            }
            for j in (0..d).filter(|&j| next[j]) {
                paths += 1;
                let (from, to) = (variances[i], variances[j]);
                rising +=
                    if (to - from).abs() <= 1e-9 * from.abs() { 0.5 } else { f64::from(u8::from(to > from)) };
            }
            if !next.contains(&true) {
                break;
            }
            ends = next;
        }
    }
    rising / paths as f64
}
