//! One file or folder per method.

pub mod dsformer;
pub mod heal;
pub mod low_rank;
pub mod sltrain;
pub mod sr_ste;
