//! Work that nobody waits for: space of what was deleted comes back, packs that are mostly dead are rewritten, chunks that
//! were cut to pieces are put together again.
//!
//! One thread for a volume does it all, in small steps, each a job of its own for the committer, so that the foreground
//! is never held up for longer than a step. It may block; it is the only one that frees places, compacts and deletes packs.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cairn_locks::{Condvar, Mutex};
use cairn_types::{BlobId, BlobPlace, Ino, PackId};

use crate::Inner;
use crate::committer::Kind;
use crate::lock_order;
use crate::{compaction, defragment};

/// Time between two looks around.
const TICK: Duration = Duration::from_millis(500);
/// Rows of deleted files that are dropped in one step.
const REAP_STEP: usize = 2048;
/// Places freed in one step.
const FREE_STEP: usize = 16 * 1024;
/// Time between two looks for packs worth rewriting.
const COMPACT_EVERY: Duration = Duration::from_secs(5);
/// A pending blob that nobody has come for in so long is dropped.
const PENDING_MAX: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Default)]
struct Errands {
    /// Places of blobs that no durable metadata refer to.
    free: Vec<BlobPlace>,
    /// Pending blobs that nobody will refer to.
    discard: Vec<BlobId>,
    /// Chunks with too many extents.
    fragmented: BTreeSet<(Ino, u32)>,
    flush: bool,
    stopping: bool,
    stopped: bool,
}

/// What the thread is to do.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    errands: Mutex<Errands, lock_order::Errands>,
    wake: Condvar,
    /// Held while packs are rewritten or checked: not both at once.
    pub(crate) packs: Mutex<(), lock_order::PackMaintenance>,
}

impl Maintenance {
    pub(crate) fn free(&self, places: Vec<BlobPlace>) {
        if !places.is_empty() {
            self.errands.lock().free.extend(places);
            self.wake.notify_one();
        }
    }

    pub(crate) fn discard_blobs(&self, blobs: Vec<BlobId>) {
        self.errands.lock().discard.extend(blobs);
        self.wake.notify_one();
    }

    pub(crate) fn note_fragmented(&self, chunks: Vec<(Ino, u32)>) {
        if !chunks.is_empty() {
            self.errands.lock().fragmented.extend(chunks);
        }
    }

    /// Begins a flush of the packs soon.
    pub(crate) fn flush_soon(&self) {
        self.errands.lock().flush = true;
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.errands.lock().stopping = true;
        self.wake.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.errands.lock().stopping
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.errands.lock().stopped
    }

    /// Waits for `time`, or until it is over (`false`).
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut errands = self.errands.lock();
        while !errands.stopping && Instant::now() < deadline {
            self.wake.wait_until(&mut errands, deadline);
        }
        !errands.stopping
    }
}

/// Tells of the thread's end, however it comes.
struct End<'a>(&'a Weak<Inner>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.maintenance.errands.lock().stopped = true;
        }
    }
}

/// The thread.
pub(crate) fn run(weak: &Weak<Inner>) {
    let _end = End(weak);
    let mut last_compaction = Instant::now();
    let mut last_sweep = Instant::now();
    while let Some(inner) = weak.upgrade() {
        {
            let mut errands = inner.maintenance.errands.lock();
            if !errands.stopping && errands.free.is_empty() && errands.discard.is_empty() && !errands.flush {
                inner.maintenance.wake.wait_for(&mut errands, TICK);
            }
            if errands.stopping {
                return;
            }
            if std::mem::take(&mut errands.flush) {
                drop(errands);
                // A failure poisons the packs and shows in the next durable commit.
                if let Err(error) = inner.blob_store.sync() {
                    tracing::error!(volume = %inner.id, %error, "flush failed");
                }
            }
        }
        inner.free_places();
        if !inner.restart.is_over() {
            continue;
        }
        inner.reap();
        if last_sweep.elapsed() > Duration::from_secs(1) {
            inner.sweep_sessions();
            inner.discard(&inner.blobs_too_old());
            last_sweep = Instant::now();
        }
        let fragmented = std::mem::take(&mut inner.maintenance.errands.lock().fragmented);
        for (ino, chunk) in fragmented {
            defragment::defragment(&inner, ino, chunk);
        }
        if last_compaction.elapsed() > COMPACT_EVERY {
            compaction::compact_one(&inner);
            last_compaction = Instant::now();
        }
    }
}

impl Inner {
    /// Gives places back that nobody needs.
    fn free_places(&self) {
        let discard = std::mem::take(&mut self.maintenance.errands.lock().discard);
        self.discard(&discard);
        loop {
            let places: Vec<BlobPlace> = {
                let mut errands = self.maintenance.errands.lock();
                let count = errands.free.len().min(FREE_STEP);
                errands.free.drain(..count).collect()
            };
            if places.is_empty() || self.maintenance.is_stopping() || !self.is_owned() {
                return;
            }
            self.counters.blobs_freed.add(places.len() as u64);
            self.counters.blob_bytes_freed.add(places.iter().map(|place| u64::from(place.stored_len)).sum());
            match self.blob_store.free(&places) {
                Ok(freed) => freed.deleted.iter().for_each(|pack| self.forget_pack(*pack)),
                Err(error) => tracing::error!(volume = %self.id, %error, "space could not be given back"),
            }
        }
    }

    /// What is freed may be another server's by now, if that has opened the volume.
    fn is_owned(&self) -> bool {
        self.store().is_some_and(|store| {
            store.is_owned().unwrap_or_else(|error| {
                tracing::error!(volume = %self.id, %error, "it cannot be found out whose the volume is");
                false
            })
        })
    }

    /// A pack's file is gone: so is its row.
    pub(crate) fn forget_pack(&self, pack: PackId) {
        self.counters.packs_deleted.add(1);
        self.blobs.forget_pack(pack);
        let dropped = self.committer.submit_blocking(Kind::Normal, move |round| {
            let dropped = round.batch.drop_pack(pack);
            round.answer(dropped)
        });
        if !matches!(dropped, Ok(Ok(true))) {
            tracing::warn!(volume = %self.id, %pack, ?dropped, "the row of a deleted pack stays");
        }
    }

    /// Drops pending blobs that nobody will refer to.
    fn discard(&self, blobs: &[BlobId]) {
        if blobs.is_empty() {
            return;
        }
        let (Some(inner), blobs) = (self.weak.upgrade(), blobs.to_vec()) else { return };
        let taken = self.committer.submit_blocking(Kind::Early, move |_| inner.blobs.take_blobs(&blobs));
        self.maintenance.free(taken.unwrap_or_default());
    }

    /// Pending blobs that nobody came for.
    fn blobs_too_old(&self) -> Vec<BlobId> {
        self.blobs.older(PENDING_MAX)
    }

    /// Drops the extents of deleted files.
    fn reap(&self) {
        use std::sync::atomic::Ordering::AcqRel;
        while self.deleted.swap(false, AcqRel) && !self.maintenance.is_stopping() {
            let more = self.committer.submit_blocking(Kind::Normal, |round| {
                let reaped = round.batch.reap(REAP_STEP);
                round.answer(reaped)
            });
            if matches!(more, Ok(Ok(true))) {
                self.deleted.store(true, std::sync::atomic::Ordering::Release);
            }
        }
    }

    pub(crate) fn start_maintenance(self: &Arc<Self>) -> std::io::Result<()> {
        let weak = Arc::downgrade(self);
        std::thread::Builder::new().name("cairn-upkeep".to_owned()).spawn(move || run(&weak)).map(|_| ())
    }
}
