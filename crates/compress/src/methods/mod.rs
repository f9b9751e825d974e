//! The compression methods, one file or folder per paper.

pub mod dsnot;
pub mod magnitude;
pub mod mask;
pub mod rocket;
pub mod sparsegpt;
pub mod svd;
pub mod svd_llm;
pub mod wanda;
