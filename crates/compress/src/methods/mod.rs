//! The factorisation methods, one file or folder per paper.

pub mod r_sparse;
pub mod rocket;
pub mod svd;
pub mod svd_llm;
