//! Shamrai, "Concatenated Matrix SVD: Compression Bounds, Incremental Approximation, and Error-Constrained Clustering",
//! 2026, arXiv 2601.11626; official code mshamrai/concatenated-matrix-svd.
//!
//! Given blocks `A_i: m x n_i` with the same number of rows, finds groups that one truncated SVD of rank `r` compresses
//! side by side, `[A_1 ... A_K] ~ U [C_1 ... C_K]` with a shared basis `U: m x r` and coefficients `C_i: r x n_i`, while the
//! relative error of every group stays below a given `epsilon`.
//!
//! The error is `e(M)² = 1 - E_r(M) / ||M||²`, `E_r` the energy of the `r` leading singular values and `||M||²` the sum of
//! the blocks' energies. Each [`Bound`] tracks a number `L <= E_r(M)` while blocks are added, hence an upper bound on the
//! error without decomposing the group:
//!
//! | bound | `L` | cost per added block |
//! |---|---|---|
//! | Weyl | the energy of the seed: adding columns lowers no singular value | `O(1)` |
//! | residual | the `r` largest of the seed's squared singular values and those of each block's part outside the basis so far | `O(m q n)`, `q` growing to `m` |
//! | incremental | the `r` leading eigenvalues of a tracked `Q diag(l) Qᵀ <= M Mᵀ` of rank `r + oversample` | `O(m (r + p) n + (r + p + n)³)` |
//!
//! All three are certificates: truncating the tracked matrix of the incremental one only removes a positive semidefinite
//! part, so that its eigenvalues never exceed the true ones (the paper calls it an estimate).
//!
//! [`cluster_blocks`] grows one group after another: a seed of the largest blocks (as many as fit into `r` columns, which
//! are reproduced exactly), then the others from the least energy or the least residual on, while the bound allows.
//!
//! Where we differ from the official code:
//! - the Weyl bound takes the seed's leading `r` values, which matters when a block has more than `r` columns;
//! - [`Scan::All`] goes on after a block that does not fit; a rejected block leaves no trace;
//! - labels are positions, so that equal blocks are told apart; tolerances are relative to the blocks;
//! - errors are compared as squares, since `sqrt(1 - x)` turns 1e-16 into 1e-8;
//! - groups come with their exact errors (from the tail of the singular values), basis and coefficients.
//!
//! When not to use it: where blocks share no subspace; nothing is then merged, and nothing saved. For a network's weights
//! the error bound is on the weights, not on what the network computes.

mod bounds;
mod clusters;
pub mod experiment;
mod groupings;
mod share;

pub use bounds::{Bound, joint_error_bound};
pub use clusters::{Cluster, Clusters, Order, Scan, Settings, cluster_blocks, exact_error};
pub use groupings::{k_means, random};
pub use share::{Shared, SharedGroup, Sharing, Side, share};
