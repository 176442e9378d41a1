//! A mounted volume: [`FileSystem`](crate::api::FileSystem) on top of a session, with caches and buffers in between.
//!
//! [`Mount`] puts the parts together and does what spans them. The operations belong to parts that name what they stand on,
//! from the lowest up:
//!
//! - [`remote`]: asking, changing, holding leases;
//! - [`space`], [`locks`]: room under the quota, advisory locks;
//! - [`content`]: what is in files;
//! - [`attributes`]: what is said of nodes, extended attributes among it;
//! - [`names`]: what nodes are called, and making and removing them;
//! - [`warm`]: bringing content into the disk cache;
//! - [`upkeep`]: what is done while nobody asks.
//!
//! None of them knows of fetching ahead ([`crate::prefetch`]): [`file_system`] tells it what programs do, and [`ahead`] asks
//! for it. Invariants of all of them:
//!
//! - Nothing is answered from here unless a lease covers it and the leases' time has not run out.
//! - No lock is held across an await, and no table lock is taken while a node is locked.
//! - The kernel may rely on an answer for no longer than the lease lasts; losing a lease empties the kernel's caches
//!   before the server is told (`recall`).
//! - Access times follow `relatime` and are sent with the next flush, and only for nodes held exclusively: a volume that
//!   many mounts read must not have its leases recalled for the sake of access times.

mod ahead;
mod attributes;
mod content;
mod file_system;
mod locks;
mod mount;
mod names;
mod options;
mod remote;
mod space;
mod upkeep;
mod warm;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_runtime::MemoryUse;
use cairn_wire::admin::VolumeInfo;
use tokio::runtime::Handle as Runtime;

use self::mount::Mount;
pub use self::options::VolumeOptions;
pub use self::warm::WARM_ATTRIBUTE;
use crate::api::KernelCache;
use crate::cache::disk::{DiskCache, DiskCacheError};
use crate::error::Error;
use crate::session::{ConnectError, Session, SessionEvents, SessionOptions};
use crate::stats::VolumeStats;

/// Extended attribute of a mount's root whose value is the mount's own report (its counters), made when it is read.
/// It is in no listing, so that programs which copy attributes do not meet it.
pub const STATS_ATTRIBUTE: &str = "cairn.stats";

/// Makes the value of [`STATS_ATTRIBUTE`].
pub type Report = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Why a volume cannot be used here. Each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum OpenVolumeError {
    #[error(transparent)]
    Session(#[from] ConnectError),
    #[error(transparent)]
    DiskCache(#[from] DiskCacheError),
}

/// What could not be done when a volume was closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error("files that could not be written within the time limit: {files}; what they held is saved in {recovery}")]
    NotWritten { files: usize, recovery: String },
    #[error("the last changes could not be made durable: {0}")]
    NotDurable(Error),
}

/// A mounted volume. Cheap to clone: all clones are the same mount.
#[derive(Clone)]
pub struct Volume(Arc<Mount>);

/// A [`Volume`] that does not keep it alive.
#[derive(Clone)]
pub struct WeakVolume(std::sync::Weak<Mount>);

impl WeakVolume {
    pub fn upgrade(&self) -> Option<Volume> {
        self.0.upgrade().map(Volume)
    }
}

impl Volume {
    pub fn downgrade(&self) -> WeakVolume {
        WeakVolume(Arc::downgrade(&self.0))
    }

    /// Begins a session with the volume. `runtime` runs everything that waits.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn open(
        session: SessionOptions,
        options: VolumeOptions,
        runtime: Runtime,
    ) -> Result<Volume, OpenVolumeError> {
        let cache = options.memory.take(MemoryUse::ContentCache, options.cache_bytes);
        let buffer = options.memory.take(MemoryUse::WriteBuffer, options.dirty_bytes);
        let owner = format!("{} (pid {})", session.info.kind, session.info.pid);
        let disk_cache = options.disk_cache.clone();
        let made: OnceLock<Arc<Mount>> = OnceLock::new();
        Session::open(session, |session| {
            let mount = made.get_or_init(|| Arc::new(Mount::new(session, &options, cache, buffer, runtime)));
            Arc::new(mount.events()) as Arc<dyn SessionEvents>
        })
        .await?;
        let Some(mount) = made.into_inner() else {
            let reason = "the session never began".to_owned();
            return Err(ConnectError::Protocol { address: String::new(), reason }.into());
        };
        if let Some(disk_cache) = disk_cache
            && let Err(error) = mount.open_disk_cache(disk_cache, owner).await
        {
            mount.remote.session.clone().close().await;
            return Err(error.into());
        }
        mount.upkeep.start();
        Ok(Volume(mount))
    }

    /// Names the front end's caches, which recalled leases must empty. Call it once, before the first request.
    pub fn attach_kernel(&self, kernel: Arc<dyn KernelCache>) {
        if self.0.kernel.set(kernel).is_err() {
            tracing::warn!("a second front end was attached to one mount; it is ignored");
        }
    }

    /// Says what a read of [`STATS_ATTRIBUTE`] answers. Call it once.
    pub fn answer_stats_with(&self, report: Report) {
        if self.0.report.set(report).is_err() {
            tracing::warn!("a mount has one report; a second one is ignored");
        }
    }

    /// The volume as it was made.
    pub fn info(&self) -> &VolumeInfo {
        self.0.remote.session.volume()
    }

    /// The session underneath, for its own figures.
    pub fn session(&self) -> &Session {
        &self.0.remote.session
    }

    pub fn stats(&self) -> VolumeStats {
        let mount = &self.0;
        let counters = &mount.remote.counters;
        counters.dirty_bytes.store(mount.buffer.files.dirty(), Ordering::Relaxed);
        counters.cached_bytes.store(mount.blocks.cache().bytes(), Ordering::Relaxed);
        counters.disk_cache_bytes.store(mount.blocks.disk().map_or(0, DiskCache::bytes), Ordering::Relaxed);
        counters.nodes.store(mount.remote.nodes.table.len() as u64, Ordering::Relaxed);
        counters.journal_waiting.store(mount.remote.journal.len(), Ordering::Relaxed);
        counters.room_drawn.store(mount.space.reservation.drawn().bytes, Ordering::Relaxed);
        counters.snapshot()
    }

    /// Writes everything to the server, makes it durable and ends the session. What cannot be written within
    /// `deadline` is saved in the recovery folder.
    ///
    /// # Errors
    /// What could not be done; the session has ended all the same.
    pub async fn close(&self, deadline: Duration) -> Result<(), CloseError> {
        self.0.close(deadline).await
    }
}
