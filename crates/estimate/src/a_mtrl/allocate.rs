//! Whole samples in proportion to shares.

use super::AmtrlError;

/// Bounds of an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floor {
    /// Every task gives at least so many.
    pub each: usize,
    /// A task gives at most so many; no limit without.
    pub supply: Option<Vec<usize>>,
}

/// Splits `total` samples: the floor to everyone, the rest in proportion to the shares (evenly where all are zero),
/// by largest remainders. What a task's supply does not cover goes to the others in the same proportion. The sum is
/// `total` exactly.
///
/// # Errors
/// [`AmtrlError::Budget`] if the floor is above the budget or the supplies are below it.
pub fn allocate(shares: &[f64], total: usize, floor: &Floor) -> Result<Vec<usize>, AmtrlError> {
    let tasks = shares.len();
    let supply = |task: usize| floor.supply.as_ref().map_or(usize::MAX, |s| s[task]);
    let mut given: Vec<usize> = (0..tasks).map(|task| floor.each.min(supply(task))).collect();
    let needed: usize = given.iter().sum();
    let most = (0..tasks).fold(0usize, |sum, task| sum.saturating_add(supply(task)));
    if total < needed || total > most {
        return Err(AmtrlError::Budget { total, needed });
    }
    let mut left = total - needed;
    while left > 0 {
        let open: Vec<usize> = (0..tasks).filter(|&task| given[task] < supply(task)).collect();
        let weight = |task: usize| if shares[task] > 0.0 { shares[task] } else { 0.0 };
        let sum: f64 = open.iter().map(|&task| weight(task)).sum();
        let ideal = |task: usize| match sum > 0.0 {
            true => left as f64 * weight(task) / sum,
            false => left as f64 / open.len() as f64,
        };
        let mut parts: Vec<(usize, usize, f64)> =
            open.iter().map(|&task| (task, ideal(task).floor() as usize, ideal(task).fract())).collect();
        let short = left.saturating_sub(parts.iter().map(|p| p.1).sum());
        parts.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        for (i, (task, whole, _)) in parts.into_iter().enumerate() {
            let wanted = whole + usize::from(i < short);
            let taken = wanted.min(supply(task) - given[task]).min(left);
            given[task] += taken;
            left -= taken;
        }
    }
    Ok(given)
}
