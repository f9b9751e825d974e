//! What can be wrong with an instance.

/// Why an instance has no solution, or is not an instance at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KnapsackError {
    /// A group offers nothing to choose from.
    #[error("knapsack group {group} has no options; give each group at least one")]
    EmptyGroup {
        /// Index of the first such group.
        group: usize,
    },
    /// An option's error is NaN, infinite or negative.
    #[error(
        "knapsack group {group}, option {option}: error {value} is not a finite number >= 0; \
         drop the option or repair its error"
    )]
    InvalidError {
        /// Index of the group.
        group: usize,
        /// Index of the option in its group.
        option: usize,
        /// The value found.
        value: f64,
    },
    /// Even the cheapest choice exceeds the budget.
    #[error(
        "budget {budget} is below the cheapest choice, which costs {min} (the dearest costs {max}); \
         raise the budget or add cheaper options"
    )]
    Infeasible {
        /// The budget asked for.
        budget: u64,
        /// Cost of the cheapest option of every group.
        min: u64,
        /// Cost of the dearest option of every group, at most `u64::MAX`.
        max: u64,
    },
    /// Sums leave the range of their type.
    #[error("the sum of {quantity} over the knapsack groups overflows; use a larger unit")]
    Overflow {
        /// `"costs"` or `"errors"`.
        quantity: &'static str,
    },
}
