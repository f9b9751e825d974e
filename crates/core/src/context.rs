//! The context of a run: seed, threads, progress and cancellation in one handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::SeedableRng;
use rand_pcg::Pcg64;

/// The run was cancelled by its caller; what was finished so far stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled; finished parts are kept, run the same command again to go on")]
pub struct Cancelled;

/// Why a [`Context`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The thread pool refused to start.
    #[error("cannot start a pool of {threads} threads: {source}")]
    Pool {
        /// The number of threads asked for.
        threads: usize,
        /// What the pool said.
        source: rayon::ThreadPoolBuildError,
    },
}

/// Something worth telling the person who waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A stage begins: its name and how many steps it will take (0 = unknown).
    Stage {
        /// What is being done, in a few words.
        name: &'a str,
        /// The number of steps to come; 0 where unknown.
        total: usize,
    },
    /// `done` steps of the current stage are finished.
    Step {
        /// Steps finished.
        done: usize,
        /// A short remark: the layer's name, the loss.
        message: &'a str,
    },
    /// A line that should stay on the screen (one per layer or epoch).
    Line(&'a str),
    /// Something unexpected that does not stop the run.
    Warning(&'a str),
}

/// Receives the [`Event`]s of a run. Implemented by the renderers of the command line.
pub trait Progress: Send + Sync {
    /// Handles one event. Called from the thread that does the work: must be quick.
    fn event(&self, event: Event<'_>);
}

/// A progress sink that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// Seed, thread pool, progress sink and cancellation flag of one run. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    seed: u64,
    pool: Arc<rayon::ThreadPool>,
    progress: Arc<dyn Progress>,
    cancelled: Arc<AtomicBool>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("seed", &self.seed)
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context with its own pool of `threads` threads (0 = one per available core) and no
    /// progress reports.
    ///
    /// # Errors
    /// [`ContextError::Pool`] if the threads cannot be started.
    pub fn new(seed: u64, threads: usize) -> Result<Self, ContextError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("sparseland-{i}"))
            .build()
            .map_err(|source| ContextError::Pool { threads, source })?;
        Ok(Self {
            seed,
            pool: Arc::new(pool),
            progress: Arc::new(Silent),
            cancelled: Arc::new(AtomicBool::new(false)),
        })
    }

    /// The same context, reporting to `progress`.
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// A generator for the given purpose: the same seed and `stream` always give the same numbers,
    /// different streams are independent.
    pub fn rng(&self, stream: u64) -> Pcg64 {
        // SplitMix64 finaliser: neighbouring (seed, stream) pairs give unrelated states.
        let mut z = self.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Pcg64::seed_from_u64(z ^ (z >> 31))
    }

    /// Runs `work` inside the context's thread pool: every parallel kernel called from it uses
    /// this pool and no other.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Reports an event.
    pub fn report(&self, event: Event<'_>) {
        self.progress.event(event);
    }

    /// The flag that cancels the run when set, for a signal handler.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Fails if the run was cancelled. Long loops call it once per step.
    ///
    /// # Errors
    /// [`Cancelled`] once the flag is set.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_repeat_and_differ() {
        let context = Context::new(7, 1).unwrap();
        let draw = |stream| context.rng(stream).random::<u64>();
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
        assert_ne!(draw(0), Context::new(8, 1).unwrap().rng(0).random::<u64>());
    }

    #[test]
    fn cancelling_reaches_clones() {
        let context = Context::new(0, 1).unwrap();
        let clone = context.clone();
        assert_eq!(clone.check_cancelled(), Ok(()));
        context.cancel_flag().store(true, Ordering::Relaxed);
        assert_eq!(clone.check_cancelled(), Err(Cancelled));
    }

    #[test]
    fn work_runs_in_the_own_pool() {
        let context = Context::new(0, 3).unwrap();
        assert_eq!(context.install(rayon::current_num_threads), 3);
    }
}
