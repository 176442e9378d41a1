//! How far a run is, for somebody who watches it from another thread, and the wish to end it.

use std::sync::Arc;
#[allow(clippy::disallowed_types, reason = "its one lock, in a crate that stands on none of the others")]
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::BenchError;

/// A run as others see it. Clones are the same run. Counting a step is one atomic addition, so that watching costs
/// the measurement nothing.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    #[allow(clippy::disallowed_types, reason = "as above")]
    label: Mutex<String>,
    done: AtomicU64,
    total: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// What is going on, steps done, steps in all (0: unknown).
    pub fn now(&self) -> (String, u64, u64) {
        let label = self.0.label.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (label, self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }

    /// Lets the run end with [`BenchError::Interrupted`] at its next step; it cleans up behind itself.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, label: String, total: u64) {
        *self.0.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn step(&self, amount: u64) -> Result<(), BenchError> {
        self.0.done.fetch_add(amount, Ordering::Relaxed);
        if self.0.stop.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
    }
}
