//! The disk cache: blocks of blobs in a local directory, behind the memory cache. Survives remounts.
//!
//! Blobs are immutable and their numbers are never used again, so a block's name (volume, blob, index) says what it
//! holds for ever: nothing here can be out of date, and no lease concerns it. Every block that is read is verified;
//! what is damaged is dropped and fetched again. Readers never wait for writing: what the disk cannot take in time is
//! not cached. Errors of the disk make the cache worse, never a read.
//!
//! `format` describes the files, `store` finds and evicts, `queue` bounds what waits to be written.

mod error;
mod format;
mod inspect;
mod lock;
mod queue;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::VolumeId;

pub use self::error::DiskCacheError;
pub use self::inspect::{CacheReport, CachedVolume, evict, inspect};
use self::queue::Queue;
pub(crate) use self::store::Found;
use self::store::{Store, Writer};
use super::fetch::Want;
use super::{BlockKey, Part};
use crate::lock_order;
use crate::stats::{Counters, add};

/// How long after an error of the disk nothing is written.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(30);
/// How long the end of a mount waits for what is still to be written.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Where a disk cache is and how large it may be.
#[derive(Clone, Debug)]
pub struct DiskCacheOptions {
    /// Made if it does not exist. One mount at a time uses it.
    pub directory: PathBuf,
    /// Most bytes of all that is in it.
    pub limit: u64,
}

/// A disk cache in use.
#[derive(Debug)]
pub(crate) struct DiskCache {
    store: Arc<Store>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    limit: u64,
    writer: Mutex<Option<std::thread::JoinHandle<()>>, lock_order::DiskCacheWriter>,
    _lock: lock::DirectoryLock,
}

impl DiskCache {
    /// Blocks while the index is read. `owner` is what others are told of who uses the directory.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn open(
        options: &DiskCacheOptions,
        volume: &VolumeId,
        owner: &str,
        counters: &Arc<Counters>,
    ) -> Result<Self, DiskCacheError> {
        if options.limit < store::LIMIT_MIN {
            return Err(DiskCacheError::TooSmall { least: store::LIMIT_MIN });
        }
        let directory = options.directory.clone();
        let lock = lock::take(&directory, owner)?;
        let failed = |source| DiskCacheError::Io { directory: directory.clone(), source };
        let (store, writer) = Store::open(&directory, volume.as_str(), options.limit).map_err(failed)?;
        let (store, queue) = (Arc::new(store), Arc::new(Queue::default()));
        let work = Work { store: Arc::clone(&store), queue: Arc::clone(&queue), counters: Arc::clone(counters) };
        let thread = std::thread::Builder::new().name("disk-cache".into());
        let thread = thread.spawn(move || work.run(writer)).map_err(failed)?;
        let counters = Arc::clone(counters);
        Ok(DiskCache { store, queue, counters, limit: options.limit, writer: Mutex::new(Some(thread)), _lock: lock })
    }

    /// Bytes that the cache takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Most bytes that it may take there.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the bytes of `want` are here, and where. Does not touch the disk.
    pub(crate) fn find(&self, want: Want) -> Option<Found> {
        self.store.find(want)
    }

    /// Reads and verifies what was found; may wait for the disk. `None` for what is damaged.
    pub(crate) fn read(&self, found: &[Found]) -> Vec<Option<Part>> {
        let parts = self.store.read(found);
        for part in &parts {
            match part {
                Some(part) => {
                    add(&self.counters.disk_cache_hits, 1);
                    add(&self.counters.disk_cache_bytes_read, part.data.len() as u64);
                }
                None => add(&self.counters.disk_cache_damaged, 1),
            }
        }
        parts
    }

    /// Keeps a part, soon and if the disk is fast enough. Never waits.
    pub(crate) fn offer(&self, key: BlockKey, part: Part) {
        if !self.queue.offer(key, part) {
            add(&self.counters.disk_cache_skipped, 1);
        }
    }

    /// Waits until `bytes` more can be offered without being skipped, at most `limit`. Blocks.
    pub(crate) fn wait_for_room(&self, bytes: usize, limit: Duration) -> bool {
        self.queue.wait_for_room(bytes, limit)
    }

    /// Waits until what was offered is written, at most `limit`. Blocks.
    pub(crate) fn wait_until_written(&self, limit: Duration) -> bool {
        self.queue.wait_until_idle(limit)
    }

    /// Ends writing. What waits is written if that takes no longer than a moment.
    pub(crate) fn close(&self) {
        let Some(thread) = self.writer.lock().take() else { return };
        self.queue.wait_until_idle(CLOSE_LIMIT);
        self.queue.close();
        if thread.join().is_err() {
            tracing::error!("the writer of the disk cache ended by a panic");
        }
        self.store.note_use();
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The thread that writes.
struct Work {
    store: Arc<Store>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

impl Work {
    fn run(&self, mut writer: Writer) {
        let mut pause: Option<Instant> = None;
        while let Some((key, part)) = self.queue.take() {
            if pause.is_some_and(|until| Instant::now() < until) {
                add(&self.counters.disk_cache_skipped, 1);
                continue;
            }
            match self.store.append(&mut writer, key, &part) {
                Ok(true) => add(&self.counters.disk_cache_bytes_written, part.data.len() as u64),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the disk cache cannot be written; trying again in {PAUSE_AFTER_ERROR:?}");
                    writer = Writer::default();
                    pause = Some(Instant::now() + PAUSE_AFTER_ERROR);
                }
            }
        }
    }
}
