//! The compression methods, one file or folder per paper.

pub mod asvd;
pub mod cospadi;
pub mod dsformer;
pub mod dsnot;
pub mod fwsvd;
pub mod magnitude;
pub mod mask;
pub mod r_sparse;
pub mod rocket;
pub mod sparsegpt;
pub mod svd;
pub mod svd_llm;
pub mod wanda;
pub mod welore;
