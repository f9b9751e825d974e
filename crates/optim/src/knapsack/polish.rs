//! Local improvement of a feasible choice with exact costs.

use super::reduce::Reduced;

/// A change of one group's pick.
#[derive(Clone, Copy)]
struct Move {
    group: usize,
    to: usize,
    cost: i64,
    error: f64,
}

/// Applies the best upgrade of one group, or the best exchange between two (one gives budget back,
/// another spends it), until none lowers the error. `O(N log N)` per round for `N` options.
pub(super) fn polish(problem: &Reduced, picks: &mut [usize]) {
    // Each round lowers the error; the limit only guards the running time.
    let rounds = 4 * picks.len() + 16;
    for _ in 0..rounds {
        let Some((first, second)) = best_change(problem, picks) else { return };
        picks[first.group] = first.to;
        if let Some(second) = second {
            picks[second.group] = second.to;
        }
    }
}

fn best_change(problem: &Reduced, picks: &[usize]) -> Option<(Move, Option<Move>)> {
    let slack = problem.budget - problem.cost(picks);
    // Changes below the rounding of the total are noise and could cycle.
    let noise = problem.error(picks) * 1e-14;
    let (mut upgrades, mut downgrades) = (Vec::new(), Vec::new());
    for (group, items) in problem.items.iter().enumerate() {
        let now = items[picks[group]];
        for (to, item) in items.iter().enumerate() {
            let change = Move { group, to, cost: item.cost - now.cost, error: item.error - now.error };
            match to.cmp(&picks[group]) {
                std::cmp::Ordering::Less => downgrades.push(change),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => upgrades.push(change),
            }
        }
    }
    upgrades.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.error.total_cmp(&b.error)));

    // prefix[i]: the best two upgrades of different groups among the i cheapest.
    let mut prefix: Vec<[Option<Move>; 2]> = Vec::with_capacity(upgrades.len() + 1);
    let mut top = [None, None];
    prefix.push(top);
    for &upgrade in &upgrades {
        insert(&mut top, upgrade);
        prefix.push(top);
    }
    let affordable = |room: i64| upgrades.partition_point(|upgrade| upgrade.cost <= room);

    let mut best = -noise;
    let mut change = None;
    if let [Some(upgrade), _] = prefix[affordable(slack)]
        && upgrade.error < best
    {
        best = upgrade.error;
        change = Some((upgrade, None));
    }
    for downgrade in downgrades {
        let partner = prefix[affordable(slack - downgrade.cost)]
            .into_iter()
            .flatten()
            .find(|upgrade| upgrade.group != downgrade.group);
        if let Some(upgrade) = partner
            && downgrade.error + upgrade.error < best
        {
            best = downgrade.error + upgrade.error;
            change = Some((downgrade, Some(upgrade)));
        }
    }
    change
}

/// Keeps the two best moves of different groups, best first.
fn insert(top: &mut [Option<Move>; 2], candidate: Move) {
    let better = |other: Option<Move>| other.is_none_or(|other| candidate.error < other.error);
    if better(top[0]) {
        if top[0].is_some_and(|first| first.group != candidate.group) {
            top[1] = top[0];
        }
        top[0] = Some(candidate);
    } else if top[0].is_some_and(|first| first.group != candidate.group) && better(top[1]) {
        top[1] = Some(candidate);
    }
}
