//! The factorisation methods, one file or folder per paper.

pub mod asvd;
pub mod cospadi;
pub mod fwsvd;
pub mod rocket;
pub mod svd;
pub mod svd_llm;
pub mod welore;
