//! Optimisation building blocks.
//!
//! - [`knapsack`]: the multiple-choice knapsack (one option per group under a budget), exact, with a
//!   certificate. It decides how hard each layer of a network is compressed.

pub mod knapsack;
