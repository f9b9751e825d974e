//! The factorisation methods, one file or folder per paper.

pub mod asvd;
pub mod cospadi;
pub mod dsformer;
pub mod fwsvd;
pub mod r_sparse;
pub mod rocket;
pub mod svd;
pub mod svd_llm;
pub mod welore;
