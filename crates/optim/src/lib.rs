//! Optimisation building blocks.
//!
//! - [`design`]: the matrix of a regression, column by column: dense or sparse, f32 or f64, centred and
//!   scaled without a copy.
//! - [`penalty`]: L1 and its relatives, with prox and distance to stationarity.
//! - [`datafit`]: losses other than the square; [`cox`]: the partial likelihood of survival times.
//! - [`cd`]: working-set coordinate descent with Newton steps on the support.
//! - [`knapsack`]: the multiple-choice knapsack (one option per group under a budget), exact, with a
//!   certificate. It decides how hard each layer of a network is compressed.

pub mod cd;
pub mod cox;
pub mod datafit;
pub mod design;
pub mod knapsack;
pub mod penalty;
