//! Counters of what the kernel asked for: cheap to keep (a few relaxed additions a request), cheap to read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_client::ErrorKind;

use crate::abi::{OPCODES, opcode_name};

/// Live counters of one mount, by opcode.
#[derive(Debug)]
pub struct Statistics {
    operations: [Counters; OPCODES],
    /// By the number of their kind.
    errors: [AtomicU64; ErrorKind::ALL.len()],
}

#[derive(Debug, Default)]
struct Counters {
    count: AtomicU64,
    spawned: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
}

/// Figures of one kind of request since the mount was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationStatistics {
    /// The kernel's name, in capitals (`LOOKUP`).
    pub name: &'static str,
    /// Requests answered. Counted before the answer leaves, so whoever has the answer finds it here.
    pub count: u64,
    /// Of these, how many had to wait in a task instead of being answered at once on the queue's thread.
    pub spawned: u64,
    /// Of these, how many were answered with an errno (absent names included).
    pub errors: u64,
    /// From the end of reading the request until its answer was ready to be written, added up.
    pub total_time: Duration,
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics { operations: std::array::from_fn(|_| Counters::default()), errors: Default::default() }
    }
}

impl Statistics {
    pub(crate) fn record(&self, opcode: u32, time: Duration, spawned: bool, error: bool) {
        let Some(counters) = self.operations.get(opcode as usize) else { return };
        counters.count.fetch_add(1, Ordering::Relaxed);
        counters.nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        if spawned {
            counters.spawned.fetch_add(1, Ordering::Relaxed);
        }
        if error {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn record_error(&self, kind: ErrorKind) {
        if let Some(counter) = self.errors.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests ended with an error of each kind. Absent names that the kernel may remember are no errors here.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorKind, u64)> {
        ErrorKind::ALL.iter().zip(&self.errors).map(|(kind, counter)| (*kind, counter.load(Ordering::Relaxed)))
    }

    /// The kinds of request that occurred, in the order of their opcodes.
    pub fn snapshot(&self) -> Vec<OperationStatistics> {
        let used = self.operations.iter().enumerate().filter_map(|(opcode, counters)| {
            let count = counters.count.load(Ordering::Relaxed);
            Some(OperationStatistics {
                name: opcode_name(opcode as u32).filter(|_| count > 0)?,
                count,
                spawned: counters.spawned.load(Ordering::Relaxed),
                errors: counters.errors.load(Ordering::Relaxed),
                total_time: Duration::from_nanos(counters.nanos.load(Ordering::Relaxed)),
            })
        });
        used.collect()
    }
}
