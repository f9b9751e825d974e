//! Three methods for more features than rows: screening, concave penalties and robust mixed models.
//!
//! Kai Yang, "Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data" (thesis, McGill
//! University, 2025). Its parts, and where they are:
//!
//! - [`accelerated`]: SCAD and MCP by accelerated gradients (arXiv 2009.10629);
//! - [`mixed`]: Tsallis mixed-effects models, fitted by [`prox_cg`], proximal conjugate gradients;
//! - [`screen`]: mutual-information screening (fastHDMI, arXiv 2410.10082).

pub mod accelerated;
mod error;
pub mod experiment;
pub mod mixed;
pub mod prox_cg;
pub mod screen;
#[cfg(test)]
mod tests;

pub use error::HighDimensionalError;
