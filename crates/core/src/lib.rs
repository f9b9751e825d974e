//! What every run shares: the run context (seed, threads, progress, cancellation),
//! method cards and parameters for the registry, and run records.
//!
//! Libraries of this workspace never print, start threads or read the environment;
//! they receive a [`Context`] and report through it.

mod card;
mod context;
mod record;

pub use card::{Allocation, Method, MethodCard, Need, Parameter, ParameterKind, Pattern, Status, When};
pub use context::{Cancelled, Context, ContextError, Event, Progress, Silent};
pub use record::{Experiment, Reproduction, Verdict};
