//! Checking an instance and removing what cannot matter.

use super::{Choice, KnapsackError};
use std::cmp::Ordering;

/// An option that survived: its cost above the group's cheapest option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) cost: i64,
    pub(super) error: f64,
    /// Index in the caller's group.
    original: usize,
}

/// The instance the other steps work on. Groups stand in an order that depends on their contents
/// only, so that results do not depend on the caller's order. Picks index into `items[group]`.
pub(super) struct Reduced {
    /// Options of each group: costs strictly rise from 0, errors strictly fall.
    pub(super) items: Vec<Vec<Item>>,
    /// The budget above the cheapest choice, at most the span of all costs.
    pub(super) budget: i64,
    /// The caller's index of each group.
    order: Vec<usize>,
}

impl Reduced {
    pub(super) fn new(groups: &[Vec<Choice>], budget: u64) -> Result<Self, KnapsackError> {
        let (mut min, mut max) = (0_u128, 0_u128);
        for (index, group) in groups.iter().enumerate() {
            let Some(cheapest) = group.iter().map(|choice| choice.cost).min() else {
                return Err(KnapsackError::EmptyGroup { group: index });
            };
            for (option, &Choice { error, .. }) in group.iter().enumerate() {
                if !(error >= 0.0 && error.is_finite()) {
                    return Err(KnapsackError::InvalidError { group: index, option, value: error });
                }
            }
            min += u128::from(cheapest);
            max += u128::from(group.iter().map(|choice| choice.cost).max().unwrap_or(cheapest));
        }
        let smallest = u64::try_from(min).map_err(|_| KnapsackError::Overflow { quantity: "costs" })?;
        let Some(room) = budget.checked_sub(smallest) else {
            let max = u64::try_from(max).unwrap_or(u64::MAX);
            return Err(KnapsackError::Infeasible { budget, min: smallest, max });
        };

        let mut reduced: Vec<(usize, Vec<Item>)> = Vec::with_capacity(groups.len());
        let (mut span, mut largest_error) = (0_i64, 0.0);
        for (index, group) in groups.iter().enumerate() {
            let items = undominated(group, room)?;
            // Costs rise and errors fall, so the ends are the extremes.
            let (first, last) = (items[0], items[items.len() - 1]);
            span = span.checked_add(last.cost).ok_or(KnapsackError::Overflow { quantity: "costs" })?;
            largest_error += first.error;
            reduced.push((index, items));
        }
        if f64::is_infinite(largest_error) {
            return Err(KnapsackError::Overflow { quantity: "errors" });
        }
        reduced.sort_by(|(a, left), (b, right)| by_content(left, right).then(a.cmp(b)));
        let (order, items) = reduced.into_iter().unzip();
        let budget = i64::try_from(room).map_or(span, |room| room.min(span));
        Ok(Self { items, budget, order })
    }

    /// Cost of a choice, above the cheapest one.
    pub(super) fn cost(&self, picks: &[usize]) -> i64 {
        self.items.iter().zip(picks).map(|(group, &pick)| group[pick].cost).sum()
    }

    /// Total error of a choice.
    pub(super) fn error(&self, picks: &[usize]) -> f64 {
        self.items.iter().zip(picks).map(|(group, &pick)| group[pick].error).sum()
    }

    /// A choice in the caller's order and indices.
    pub(super) fn original_picks(&self, picks: &[usize]) -> Vec<usize> {
        let mut original = vec![0; picks.len()];
        for ((&group, items), &pick) in self.order.iter().zip(&self.items).zip(picks) {
            original[group] = items[pick].original;
        }
        original
    }
}

/// The options of a group within `room` above the cheapest that no other option beats in cost and
/// error at once.
fn undominated(group: &[Choice], room: u64) -> Result<Vec<Item>, KnapsackError> {
    let cheapest = group.iter().map(|choice| choice.cost).min().unwrap_or(0);
    let mut sorted: Vec<usize> = (0..group.len()).collect();
    sorted.sort_by(|&a, &b| {
        let (left, right) = (group[a], group[b]);
        // Adding zero turns -0 into +0, so that the two count as equal.
        let by_error = (left.error + 0.0).total_cmp(&(right.error + 0.0));
        left.cost.cmp(&right.cost).then(by_error).then(a.cmp(&b))
    });
    let mut items: Vec<Item> = Vec::with_capacity(group.len());
    for original in sorted {
        let Choice { cost, error } = group[original];
        let cost = cost - cheapest;
        if cost > room || items.last().is_some_and(|last| error >= last.error) {
            continue;
        }
        let cost = i64::try_from(cost).map_err(|_| KnapsackError::Overflow { quantity: "costs" })?;
        items.push(Item { cost, error: error + 0.0, original });
    }
    Ok(items)
}

fn by_content(left: &[Item], right: &[Item]) -> Ordering {
    for (a, b) in left.iter().zip(right) {
        let order = a.cost.cmp(&b.cost).then(a.error.total_cmp(&b.error));
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len())
}
