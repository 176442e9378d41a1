//! What an operator asks about a volume: how much of what has happened since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// Name and value of each.
            pub(crate) fn list(&self) -> Vec<(String, u64)> {
                vec![$((stringify!($name).to_owned(), self.$name.get()),)*]
            }
        }
    };
}

counters!(
    commits,
    commits_durable,
    commits_logged,
    changes_applied,
    changes_refused,
    changes_repeated,
    changes_replayed,
    recalls_sent,
    recalls_answered,
    recalls_timed_out,
    leases_trimmed,
    sessions_begun,
    sessions_resumed,
    sessions_fenced,
    sessions_ended,
    blobs_received,
    blob_bytes_received,
    blobs_sent,
    blob_bytes_sent,
    blobs_located,
    blob_bytes_located,
    blobs_damaged,
    blobs_freed,
    blob_bytes_freed,
    packs_deleted,
    packs_compacted,
    bytes_compacted,
    chunks_defragmented,
    locks_waited,
);
