//! Counters of one mount, for `cairn stats`.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct VolumeStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> VolumeStats {
                VolumeStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl VolumeStats {
            /// Name and value of each counter.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters!(
    /// Operations answered without asking the server.
    answered_locally,
    /// Questions asked of the server.
    queries,
    /// Changes sent one by one.
    calls,
    /// Changes made here first, under exclusive leases.
    changed_here,
    /// Changes made here first, and content, sent in batches; and the batches.
    journal_entries,
    journal_batches,
    /// Changes made here first that are not at the server yet.
    journal_waiting,
    /// Changes made here first that the server refused.
    journal_refused,
    /// Bytes that programs read through this mount (not from the kernel's cache).
    bytes_read,
    /// Bytes that programs wrote.
    bytes_written,
    /// Blocks found in the memory cache.
    block_hits,
    /// Blocks that had to be fetched.
    block_misses,
    /// Bytes fetched from the server.
    bytes_fetched,
    /// Bytes fetched before they were asked for.
    bytes_read_ahead,
    /// Blocks read from the disk cache.
    disk_cache_hits,
    /// Bytes read from the disk cache.
    disk_cache_bytes_read,
    /// Bytes written to the disk cache.
    disk_cache_bytes_written,
    /// Blocks that the disk cache could not take in time.
    disk_cache_skipped,
    /// Blocks of the disk cache that were damaged and fetched again.
    disk_cache_damaged,
    /// Bytes that the disk cache takes on the disk.
    disk_cache_bytes,
    /// Bytes of files that somebody asked to have in the disk cache (`cairn warm`), and are there.
    bytes_warmed,
    /// Small files whose contents were fetched along with another's.
    files_read_ahead,
    /// Bytes sent to the server.
    bytes_flushed,
    /// Blobs sent to the server.
    blobs_flushed,
    /// Rounds of flushing.
    flushes,
    /// Flushes whose data could not be written.
    flush_failures,
    /// Leases that the server asked back.
    recalls,
    /// Leases given back to keep the table small.
    evictions,
    /// Bytes written here and not yet at the server.
    dirty_bytes,
    /// Bytes in the memory cache.
    cached_bytes,
    /// Nodes in the table.
    nodes,
    /// Bytes of room set aside by the server and used by buffered writes.
    room_drawn,
);

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
