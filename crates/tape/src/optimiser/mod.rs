//! Optimisers whose state has the shape of what they train: a sparse weight has a sparse state.

mod adamw;
mod muon;
mod schedule;
mod sgd;

pub use adamw::{AdamW, StateBits};
pub use muon::Muon;
pub use schedule::{Decay, Schedule};
pub use sgd::Sgd;

use sparseland_matrix::Real;

use crate::Parameters;

/// Moves parameters along their gradients.
pub trait Optimiser<R: Real>: Send {
    /// One step at learning rate `rate`.
    fn step(&mut self, parameters: &mut Parameters<R>, rate: f64);

    /// Bytes of the state now.
    fn bytes(&self) -> u64;

    /// The state as named blobs, for checkpoints; [`restore`](Self::restore) takes them back to the bit.
    fn state(&self) -> Vec<(String, Vec<u8>)>;

    /// Takes a saved state back.
    ///
    /// # Errors
    /// If a blob is missing or has the wrong length: which one.
    fn restore(&mut self, parameters: &Parameters<R>, blobs: &[(String, Vec<u8>)]) -> Result<(), StateError>;
}

/// A saved state that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved optimiser state lacks {name} or it has the wrong length; train with the recipe that saved it"
)]
pub struct StateError {
    /// The blob.
    pub name: String,
}

/// Scales all gradients so that their norm is at most `limit`; gives the norm before.
pub fn clip_gradients<R: Real>(parameters: &mut Parameters<R>, limit: f64) -> f64 {
    let norm = parameters.gradient_norm();
    if norm > limit {
        let factor = R::real(limit / norm);
        parameters.iter_mut().for_each(|p| p.gradient.iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

fn find<'a>(blobs: &'a [(String, Vec<u8>)], name: &str, len: usize) -> Result<&'a [u8], StateError> {
    let found = blobs.iter().find(|(n, blob)| n == name && blob.len() == len);
    found.map(|(_, blob)| &blob[..]).ok_or_else(|| StateError { name: name.to_owned() })
}

fn numbers<R: Real>(bytes: &[u8]) -> Vec<R> {
    bytes.chunks_exact(size_of::<R>()).map(bytemuck::pod_read_unaligned).collect()
}
