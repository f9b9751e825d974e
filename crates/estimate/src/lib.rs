//! Sparse estimation: models with few non-zero coefficients, and the graphs, channels and experiments built on them.

pub mod a_mtrl;
pub mod bcd;
pub mod colide;
pub mod cv;
pub mod estimators;
pub mod high_dimensional;
pub mod kron_sbl;
pub mod ldp_regression;
pub mod path;
pub mod random_supports;
pub mod reweighted;
pub mod stability;
pub mod stacking;
pub mod subset;
