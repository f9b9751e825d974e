//! Exact search around the relaxation: dynamic programming over Pareto states with bounds.

use super::polish::polish;
use super::reduce::{Item, Reduced};
use super::relaxation::{Relaxation, slope};

/// What the search found. `lower_bound` holds whether or not `proven`.
pub(super) struct Outcome {
    pub(super) picks: Vec<usize>,
    pub(super) proven: bool,
    pub(super) lower_bound: f64,
    pub(super) states: usize,
}

/// A partial choice for the groups visited so far.
#[derive(Clone, Copy)]
struct State {
    cost: i64,
    error: f64,
    /// Index of the state it extends, among those of the stage before.
    parent: u32,
    /// Option taken by the group of this stage.
    option: u32,
}

/// How the groups not yet visited look from a stage, all of them at the relaxation's choice.
#[derive(Clone, Copy)]
struct Rest {
    cost: i64,
    error: f64,
    /// Most error any of them saves per unit of extra cost.
    up: f64,
    /// Least error any of them adds per unit of cost given back; infinite if none can give back.
    down: f64,
}

impl Rest {
    /// Slack and error of the state completed by the relaxation's choice, and the bound over all its
    /// completions: by definition of the two slopes, a completion that spends `x` more and gives `y`
    /// back changes the error by at least `down y - up x`, and must have `x - y <= slack`.
    fn complete(&self, budget: i64, cost: i64, error: f64) -> (i64, f64, f64) {
        let slack = budget - cost - self.cost;
        let error = error + self.error;
        let bound = if slack >= 0 {
            error - self.up * slack as f64
        } else {
            error + self.down * slack.unsigned_abs() as f64
        };
        (slack, error, bound)
    }
}

/// Relative gap at which a search that has lost its proof by thinning stops: no error measured on
/// calibration data means anything at this scale.
const CLOSE_ENOUGH: f64 = 1e-6;

/// Sums of non-negative `f64` are trusted to this relative accuracy; smaller differences are noise.
const ROUNDING: f64 = 1e-14;

pub(super) fn search(
    problem: &Reduced,
    relaxation: &Relaxation,
    incumbent: Vec<usize>,
    most_states: usize,
) -> Outcome {
    let order = visiting_order(problem, relaxation);
    let rest = rests(problem, relaxation, &order);
    let budget = problem.budget;
    let (_, relaxed_error, root_bound) = rest[0].complete(budget, 0, 0.0);
    let mut picks = incumbent;
    let mut best = problem.error(&picks);
    // Subtracting the rounding of the sums involved keeps the bound valid.
    let root_bound = root_bound - (relaxed_error + (relaxed_error - root_bound)) * ROUNDING;

    let mut links: Vec<Vec<(u32, u32)>> = Vec::new();
    let mut states = vec![State { cost: 0, error: 0.0, parent: 0, option: 0 }];
    let mut next: Vec<State> = Vec::new();
    let mut found: Option<(usize, State)> = None;
    let mut given_up = f64::INFINITY;
    let mut visited = 0;
    for (stage, &group) in order.iter().enumerate() {
        let worth = |bound: f64, best: f64| bound < best - best * ROUNDING;
        states.retain(|state| worth(rest[stage].complete(budget, state.cost, state.error).2, best));
        let thinned = given_up < best - best * ROUNDING;
        if states.is_empty() || (thinned && root_bound.max(given_up) >= best - best * CLOSE_ENOUGH) {
            break;
        }
        links.push(states.iter().map(|state| (state.parent, state.option)).collect());
        visited += states.len();
        next.clear();
        for (option, item) in problem.items[group].iter().enumerate() {
            for (parent, state) in states.iter().enumerate() {
                let candidate = State {
                    cost: state.cost + item.cost,
                    error: state.error + item.error,
                    parent: parent as u32,
                    option: option as u32,
                };
                let (slack, error, bound) = rest[stage + 1].complete(budget, candidate.cost, candidate.error);
                if slack >= 0 && error < best {
                    best = error;
                    found = Some((stage, candidate));
                }
                if worth(bound, best) {
                    next.push(candidate);
                }
            }
        }
        keep_undominated(&mut next);
        given_up = given_up.min(thin(&mut next, most_states, budget, &rest[stage + 1]));
        std::mem::swap(&mut states, &mut next);
    }

    if let Some((stage, state)) = found {
        picks = trace(relaxation, &order, &links, stage, state);
    }
    let proven = given_up >= best - best * ROUNDING;
    if !proven {
        polish(problem, &mut picks);
    }
    let lower_bound = root_bound.max(given_up.min(best) * (1.0 - ROUNDING));
    Outcome { picks, proven, lower_bound, states: visited }
}

/// Best slope up and down of a group from its relaxed choice.
fn slopes(items: &[Item], pick: usize) -> (f64, f64) {
    let up = items[pick + 1..].iter().map(|&item| slope(items[pick], item)).fold(0.0, f64::max);
    let down = items[..pick].iter().map(|&item| slope(item, items[pick])).fold(f64::INFINITY, f64::min);
    (up, down)
}

/// Groups in the order of the search: alternately the one most eager to spend and the one most eager
/// to give back, so that both slopes of the rest move apart quickly and the bounds tighten.
fn visiting_order(problem: &Reduced, relaxation: &Relaxation) -> Vec<usize> {
    let slopes: Vec<(f64, f64)> =
        problem.items.iter().zip(&relaxation.picks).map(|(items, &pick)| slopes(items, pick)).collect();
    let mut spend: Vec<usize> = (0..slopes.len()).collect();
    let mut give: Vec<usize> = spend.clone();
    spend.sort_by(|&a, &b| slopes[b].0.total_cmp(&slopes[a].0));
    give.sort_by(|&a, &b| slopes[a].1.total_cmp(&slopes[b].1));
    let mut taken = vec![false; slopes.len()];
    let mut order = Vec::with_capacity(slopes.len());
    for group in spend.into_iter().zip(give).flat_map(|(up, down)| [up, down]) {
        if !std::mem::replace(&mut taken[group], true) {
            order.push(group);
        }
    }
    order
}

/// `rests[i]` describes the groups `order[i..]`.
fn rests(problem: &Reduced, relaxation: &Relaxation, order: &[usize]) -> Vec<Rest> {
    let mut rest = Rest { cost: 0, error: 0.0, up: 0.0, down: f64::INFINITY };
    let mut all = vec![rest];
    for &group in order.iter().rev() {
        let (items, pick) = (&problem.items[group], relaxation.picks[group]);
        let (up, down) = slopes(items, pick);
        rest = Rest {
            cost: rest.cost + items[pick].cost,
            error: rest.error + items[pick].error,
            up: rest.up.max(up),
            down: rest.down.min(down),
        };
        all.push(rest);
    }
    all.reverse();
    all
}

/// Sorts by cost and keeps the states whose error is below that of every cheaper one.
fn keep_undominated(states: &mut Vec<State>) {
    // One sorted run per option: the stable sort merges runs.
    states.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.error.total_cmp(&b.error)));
    let mut least = f64::INFINITY;
    states.retain(|state| {
        let keep = state.error < least;
        least = least.min(state.error);
        keep
    });
}

/// Leaves at most `most` states, those of the smallest bounds, in their order; the smallest bound
/// among those dropped, infinity if none was.
fn thin(states: &mut Vec<State>, most: usize, budget: i64, rest: &Rest) -> f64 {
    if states.len() <= most {
        return f64::INFINITY;
    }
    let bound = |state: &State| rest.complete(budget, state.cost, state.error).2;
    let mut bounds: Vec<(f64, usize)> =
        states.iter().enumerate().map(|(index, state)| (bound(state), index)).collect();
    let by_bound = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    let &mut pivot = bounds.select_nth_unstable_by(most, by_bound).1;
    let mut index = 0;
    states.retain(|state| {
        let keep = by_bound(&(bound(state), index), &pivot).is_lt();
        index += 1;
        keep
    });
    pivot.0
}

/// The full choice that ends in `last` at `stage`.
fn trace(
    relaxation: &Relaxation,
    order: &[usize],
    links: &[Vec<(u32, u32)>],
    stage: usize,
    last: State,
) -> Vec<usize> {
    let mut picks = relaxation.picks.clone();
    let (mut parent, mut option) = (last.parent, last.option);
    for visit in (0..=stage).rev() {
        picks[order[visit]] = option as usize;
        (parent, option) = links[visit][parent as usize];
    }
    picks
}
