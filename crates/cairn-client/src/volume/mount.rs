//! The parts of a mount, put together, and what spans them: opening the disk cache, and the end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_runtime::MemoryShare;
use cairn_types::{Errno, LeaseMode};
use cairn_wire::message::LeaseReturn;
use tokio::runtime::Handle as Runtime;

use super::attributes::Attributes;
use super::content::{AccessTimes, Content};
use super::locks::Locks;
use super::names::Names;
use super::remote::Remote;
use super::space::Space;
use super::upkeep::Upkeep;
use super::warm::Warm;
use super::{CloseError, Report, VolumeOptions};
use crate::cache::disk::{DiskCache, DiskCacheError, DiskCacheOptions};
use crate::cache::fetch::Blocks;
use crate::held_locks::HeldLocks;
use crate::node_cache::{Kernel, NodeCache};
use crate::prefetch::Prefetch;
use crate::recall::{Events, Recall, RecallParts};
use crate::reservation::SpaceReservation;
use crate::session::Session;
use crate::stats::Counters;
use crate::timer::sleep;
use crate::writeback::{Journal, JournalParts, Recovery, Uploads, WriteBack, WriteBuffer};

/// What all clones of a [`Volume`](super::Volume) share. It does no operation itself.
pub(super) struct Mount {
    pub(super) remote: Arc<Remote>,
    pub(super) space: Arc<Space>,
    pub(super) locks: Arc<Locks>,
    pub(super) content: Arc<Content>,
    pub(super) attributes: Attributes,
    pub(super) names: Names,
    pub(super) warm: Arc<Warm>,
    pub(super) prefetch: Arc<Prefetch>,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) blocks: Arc<Blocks>,
    pub(super) buffer: Arc<WriteBuffer>,
    pub(super) kernel: Kernel,
    pub(super) report: OnceLock<Report>,
    recall: Arc<Recall>,
}

impl Mount {
    /// Puts the parts together, from the lowest up. `cache` and `buffer`: memory for content that was read and written.
    pub(super) fn new(
        session: &Session,
        options: &VolumeOptions,
        cache: MemoryShare,
        buffer: MemoryShare,
        runtime: Runtime,
    ) -> Mount {
        let volume = session.volume();
        let counters: Arc<Counters> = Arc::default();
        let kernel = Kernel::default();
        let held_locks: Arc<HeldLocks> = Arc::default();
        let nodes = Arc::new(NodeCache::new(session.clone(), Arc::clone(&kernel)));
        let reservation = Arc::new(SpaceReservation::new(volume.allocation));
        let recovery = Recovery::new(options.recovery_dir.join(volume.id.as_str()), runtime.clone());
        let uploads = Arc::new(Uploads::new(session.clone(), Arc::clone(&counters), runtime.clone()));
        let buffer = Arc::new(WriteBuffer::new(
            (buffer, options.flush_delay),
            Arc::clone(&nodes),
            Arc::clone(&reservation),
            recovery,
            Arc::clone(&counters),
            runtime.clone(),
        ));
        let journal = Arc::new(Journal::new(JournalParts {
            delay: options.flush_delay,
            nodes: Arc::clone(&nodes),
            buffer: Arc::clone(&buffer),
            uploads: Arc::clone(&uploads),
            space: Arc::clone(&reservation),
            kernel: Arc::clone(&kernel),
            session: session.clone(),
            counters: Arc::clone(&counters),
            runtime: runtime.clone(),
        }));
        let writeback = Arc::new(WriteBack::new(
            Arc::clone(&buffer),
            Arc::clone(&journal),
            uploads,
            Arc::clone(&nodes),
            session.clone(),
            Arc::clone(&counters),
            runtime.clone(),
        ));
        let recall = Arc::new(Recall::new(RecallParts {
            nodes: Arc::clone(&nodes),
            writeback: Arc::clone(&writeback),
            journal: Arc::clone(&journal),
            buffer: Arc::clone(&buffer),
            space: Arc::clone(&reservation),
            locks: Arc::clone(&held_locks),
            kernel: Arc::clone(&kernel),
            session: session.clone(),
            counters: Arc::clone(&counters),
            runtime: runtime.clone(),
        }));
        let blocks = Arc::new(Blocks::new(cache));
        let remote =
            Arc::new(Remote::new(session.clone(), Arc::clone(&nodes), journal, counters, runtime, options.read_only));
        let prefetch = Arc::new(Prefetch::new(options.read_ahead_bytes, nodes, Arc::clone(&blocks), remote.fetching()));
        let space = Arc::new(Space::new(reservation, Arc::clone(&remote)));
        let locks = Arc::new(Locks::new(held_locks, Arc::clone(&remote)));
        let access_times =
            AccessTimes { never: options.noatime || options.read_only, not_of_directories: options.nodiratime };
        let content = Arc::new(Content::new(
            Arc::clone(&remote),
            Arc::clone(&space),
            Arc::clone(&locks),
            Arc::clone(&blocks),
            Arc::clone(&buffer),
            Arc::clone(&writeback),
            access_times,
        ));
        let attributes = Attributes::new(Arc::clone(&remote), Arc::clone(&content), Arc::clone(&writeback));
        let names = Names::new(Arc::clone(&remote), Arc::clone(&content), Arc::clone(&space), Arc::clone(&writeback));
        let warm = Arc::new(Warm::new(Arc::clone(&blocks), Arc::clone(&remote), Arc::clone(&content)));
        let upkeep = Arc::new(Upkeep::new(
            options.nodes,
            Arc::clone(&remote),
            Arc::clone(&space),
            writeback,
            Arc::clone(&recall),
            Arc::clone(&kernel),
        ));
        Mount {
            remote,
            space,
            locks,
            content,
            attributes,
            names,
            warm,
            prefetch,
            upkeep,
            blocks,
            buffer,
            kernel,
            report: OnceLock::new(),
            recall,
        }
    }

    /// Where the session says what concerns this mount.
    pub(super) fn events(&self) -> Events {
        Events::new(&self.recall)
    }

    pub(super) async fn open_disk_cache(&self, options: DiskCacheOptions, owner: String) -> Result<(), DiskCacheError> {
        let directory = options.directory.clone();
        let (volume, counters) = (self.remote.session.volume().id.clone(), Arc::clone(&self.remote.counters));
        // Reading its index takes a moment.
        let opening = self.remote.runtime.spawn_blocking(move || DiskCache::open(&options, &volume, &owner, &counters));
        let disk = opening.await.map_err(|error| DiskCacheError::Io { directory, source: error.into() })??;
        self.blocks.attach_disk(disk);
        Ok(())
    }

    /// The end: see [`Volume::close`](super::Volume::close).
    pub(super) async fn close(&self, deadline: Duration) -> Result<(), CloseError> {
        if self.remote.begin_closing() {
            return Ok(());
        }
        self.recall.begin_closing();
        self.warm.stop();
        let limit = sleep(&self.remote.runtime, deadline);
        let outcome = tokio::select! {
            outcome = self.content.sync_all() => outcome,
            () = limit => Err(Errno::ETIMEDOUT.into()),
        };
        let lost = self.buffer.save_unwritten().await;
        self.give_back_leases();
        let free = self.space.reservation.take_free();
        self.remote.session.give_back(free.bytes, free.nodes);
        self.buffer.files.stop();
        let blocks = Arc::clone(&self.blocks);
        // A moment for what is still to be written to the disk cache.
        let closed = self.remote.runtime.spawn_blocking(move || blocks.disk().map(DiskCache::close)).await;
        if closed.is_err() {
            tracing::error!("the disk cache could not be closed in good order");
        }
        self.remote.session.clone().close().await;
        if lost > 0 {
            let recovery = self.buffer.recovery().folder().display().to_string();
            return Err(CloseError::NotWritten { files: lost, recovery });
        }
        outcome.map_err(CloseError::NotDurable)
    }

    /// Gives back every lease, so that other mounts need not wait for the end of the session.
    fn give_back_leases(&self) {
        let mut returns = Vec::new();
        for node in self.remote.nodes.table.all() {
            if let Some(stamp) = node.lock().give_back_lease() {
                returns.push(LeaseReturn { ino: node.ino, stamp, keep: LeaseMode::None, open: false });
            }
        }
        for part in returns.chunks(1024) {
            self.remote.session.return_leases(part.to_vec());
        }
    }
}
