//! The linear relaxation and its rounding.

use super::reduce::{Item, Reduced};

/// One step along a group's convex hull.
struct Increment {
    slope: f64,
    group: usize,
    /// Option stepped to.
    to: usize,
    /// Cost of the step.
    cost: i64,
}

/// The relaxation's integral part.
pub(super) struct Relaxation {
    /// The option of each group before the step that does not fit: a feasible choice.
    pub(super) picks: Vec<usize>,
    /// Steps from the one that does not fit on, steepest first.
    rest: Vec<Increment>,
}

/// Error saved per unit of cost between two options.
pub(super) fn slope(cheap: Item, dear: Item) -> f64 {
    (cheap.error - dear.error) / (dear.cost - cheap.cost) as f64
}

impl Relaxation {
    pub(super) fn new(problem: &Reduced) -> Self {
        let mut steps = Vec::new();
        for (group, items) in problem.items.iter().enumerate() {
            let hull = lower_hull(items);
            steps.extend(hull.windows(2).map(|pair| Increment {
                slope: slope(items[pair[0]], items[pair[1]]),
                group,
                to: pair[1],
                cost: items[pair[1]].cost - items[pair[0]].cost,
            }));
        }
        // Slopes fall strictly along a hull, so the order respects each group's sequence.
        steps.sort_by(|a, b| b.slope.total_cmp(&a.slope).then(a.group.cmp(&b.group)).then(a.to.cmp(&b.to)));
        let mut picks = vec![0; problem.items.len()];
        let mut slack = problem.budget;
        let split = steps.iter().position(|step| {
            let fits = step.cost <= slack;
            if fits {
                slack -= step.cost;
                picks[step.group] = step.to;
            }
            !fits
        });
        let rest = steps.split_off(split.unwrap_or(steps.len()));
        Self { picks, rest }
    }

    /// A feasible choice: the integral part plus every later step that still fits. A group whose
    /// step did not fit may still jump to a later point of its hull.
    pub(super) fn rounded(&self, problem: &Reduced) -> Vec<usize> {
        let mut picks = self.picks.clone();
        let mut slack = problem.budget - problem.cost(&picks);
        for step in &self.rest {
            let items = &problem.items[step.group];
            let cost = items[step.to].cost - items[picks[step.group]].cost;
            if cost <= slack {
                slack -= cost;
                picks[step.group] = step.to;
            }
        }
        picks
    }
}

/// Indices of the options on the lower-left convex hull; the slope falls strictly along it.
fn lower_hull(items: &[Item]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::with_capacity(items.len());
    for index in 0..items.len() {
        while let [.., before, last] = hull[..] {
            if slope(items[before], items[last]) > slope(items[last], items[index]) {
                break;
            }
            hull.pop();
        }
        hull.push(index);
    }
    hull
}
