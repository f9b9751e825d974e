//! Compression of trained networks: calibration, factorisation, allocation, plans.
//!
//! | part | file |
//! |---|---|
//! | which text, streamed block by block in bounded memory | [`calibrate`] |
//! | how a layer is factorised, one method per paper | [`methods`] |
//! | how the budget is spread over the layers | [`allocation`] |
//! | the whole job, resumable, and the new checkpoint | [`pipeline`] |
//!
//! The parts are orthogonal: any method works with any allocation and either accounting.

pub mod allocation;
pub mod calibrate;
mod error;
mod fingerprint;
mod hidden;
pub mod methods;
pub mod pipeline;
pub mod problem;
mod sensitivity;
pub mod statistics;
mod work;

pub use error::CompressError;
