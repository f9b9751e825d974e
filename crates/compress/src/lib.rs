//! Compression of trained networks: calibration, factorisation, allocation, plans.
//!
//! | part | file |
//! |---|---|
//! | which text, streamed block by block in bounded memory | [`calibrate`] |
//! | sparse coding and dictionary learning, for several methods | [`dictionary`] |
//! | how a layer is factorised, one method per paper | [`methods`] |
//! | which matrices may share a basis, under an error bound | [`concat_svd`] |
//! | how the budget is spread over the layers | [`allocation`] |
//! | the whole job, resumable, and the new checkpoint | [`pipeline`] |
//!
//! The parts are orthogonal: any method works with any allocation and either accounting.

pub mod allocation;
pub mod calibrate;
pub mod concat_svd;
pub mod dictionary;
mod error;
pub mod experiments;
mod fingerprint;
mod hidden;
pub mod methods;
pub mod pipeline;
pub mod problem;
mod replaced;
mod sensitivity;
pub mod statistics;
mod work;

pub use error::CompressError;
