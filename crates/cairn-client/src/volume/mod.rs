//! A mounted volume: [`FileSystem`] on top of a session, with caches and buffers in between.
//!
//! Operations are in one file for each kind, as methods of [`Mount`]; what they have in common (questions, changes,
//! leases) is in [`core`]. Invariants:
//!
//! - Nothing is answered from here unless a lease covers it and the leases' time has not run out.
//! - No lock is held across an await, and no table lock is taken while a node is locked.
//! - The kernel may rely on an answer for no longer than the lease lasts; losing a lease empties the kernel's caches
//!   before the server is told (`recall`).
//! - Access times follow `relatime` and are sent with the next flush, and only for nodes held exclusively: a volume that
//!   many mounts read must not have its leases recalled for the sake of access times.

mod ahead;
mod attributes;
mod buffered;
mod content;
pub(crate) mod core;
pub(crate) mod directory;
mod files;
mod handles;
mod locks;
mod names;
mod read;
pub(crate) mod space;
mod upkeep;
mod warm;
mod write;
mod xattrs;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use cairn_runtime::{MemoryBudget, MemoryShare, MemoryUse};
use cairn_types::{AllocateMode, AttrChange, FileLock, Ino, LockOwner, Name, NewNode, RenameMode, XattrMode};
use cairn_wire::admin::VolumeInfo;
use tokio::runtime::Handle as Runtime;

use self::handles::Handles;
use crate::api::{
    AttrReply, Caller, CopyTarget, DirEntry, Entry, FileSystem, Handle, KernelCache, Lookup, Opened, SeekTarget,
    VolumeUsage, WriteFlags,
};
use crate::cache::disk::{DiskCache, DiskCacheError, DiskCacheOptions};
use crate::cache::fetch::Blocks;
use crate::error::{Error, FsResult};
use crate::held_locks::HeldLocks;
use crate::node_cache::{Kernel, NodeCache};
use crate::prefetch::Prefetch;
use crate::prefetch::policy::streams::WINDOW_MAX;
use crate::recall::{Events, Recall, RecallParts};
use crate::reservation::SpaceReservation;
use crate::session::{ConnectError, Session, SessionEvents, SessionOptions};
use crate::stats::{Counters, VolumeStats};
use crate::writeback::{Journal, JournalParts, Recovery, Uploads, WriteBack, WriteBuffer};

/// How a volume is used here.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// What this process may use, together with whatever else takes shares of it.
    pub memory: MemoryBudget,
    /// Most bytes of file content that are cached in memory; as far as the process's memory has room for them.
    pub cache_bytes: u64,
    /// A cache on a local disk behind the one in memory.
    pub disk_cache: Option<DiskCacheOptions>,
    /// Most bytes that are written here and not yet at the server; writers wait beyond it. As far as the process's memory has
    /// room for them.
    pub dirty_bytes: u64,
    /// Largest read-ahead of one open file, in bytes.
    pub read_ahead_bytes: u64,
    /// Nodes that are remembered without being in use.
    pub nodes: usize,
    /// How long a change of content may stay here before it is sent.
    pub flush_delay: Duration,
    /// Every change fails with `EROFS`.
    pub read_only: bool,
    /// Access times are never changed.
    pub noatime: bool,
    /// Leave access times of directories alone.
    pub nodiratime: bool,
    /// Where data is saved that can no longer be written to the volume; a folder for each volume is made in it.
    pub recovery_dir: PathBuf,
}

impl VolumeOptions {
    /// The usual ones, in a process with so much memory.
    pub fn new(memory: MemoryBudget) -> Self {
        let limit = memory.limit();
        let state = std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        VolumeOptions {
            memory,
            cache_bytes: (limit / 8).min(1 << 30),
            disk_cache: None,
            dirty_bytes: (limit / 8).min(256 << 20),
            read_ahead_bytes: WINDOW_MAX,
            nodes: 150_000,
            flush_delay: Duration::from_secs(1),
            read_only: false,
            noatime: false,
            nodiratime: false,
            recovery_dir: state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("cairn/recovery"),
        }
    }
}

/// Extended attribute of a mount's root whose value is the mount's own report (its counters), made when it is read.
/// It is in no listing, so that programs which copy attributes do not meet it.
pub const STATS_ATTRIBUTE: &str = "cairn.stats";

/// `cairn.warm:OFFSET:LENGTH`, an extended attribute of every file that is in no listing: who reads it has the mount bring
/// that range into the disk cache. Every answer comes at once: `running` until that is done, then, once,
/// `BYTES_THERE/BYTES_IN_ALL/CACHE_LIMIT`; `none` on a mount without a disk cache. `EAGAIN` says that too many ranges are under
/// way. What is not asked about for five seconds is given up.
pub const WARM_ATTRIBUTE: &str = "cairn.warm";

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
pub struct Volume(pub(crate) Arc<Mount>);

/// What all clones of a [`Volume`] and its background tasks share.
///
/// The operations are its methods. What they stand on each has a part of its own, which knows only what is below it.
pub(crate) struct Mount {
    pub session: Session,
    pub options: VolumeOptions,
    /// Bytes.
    pub chunk_size: u32,
    pub nodes: Arc<NodeCache>,
    pub blocks: Arc<Blocks>,
    pub space: Arc<SpaceReservation>,
    pub handles: Handles,
    pub locks: Arc<HeldLocks>,
    pub warm_jobs: warm::WarmJobs,
    pub counters: Arc<Counters>,
    pub kernel: Kernel,
    pub report: OnceLock<Report>,
    pub runtime: Runtime,
    pub buffer: Arc<WriteBuffer>,
    pub journal: Arc<Journal>,
    pub writeback: Arc<WriteBack>,
    pub recall: Arc<Recall>,
    pub prefetch: Arc<Prefetch>,
    pub closing: AtomicBool,
}

impl Mount {
    /// Puts the parts together, from the lowest up. `cache` and `buffer`: memory for content that was read and written.
    fn new(
        session: &Session,
        options: VolumeOptions,
        cache: MemoryShare,
        buffer: MemoryShare,
        runtime: Runtime,
    ) -> Mount {
        let volume = session.volume();
        let counters: Arc<Counters> = Arc::default();
        let kernel = Kernel::default();
        let locks: Arc<HeldLocks> = Arc::default();
        let nodes = Arc::new(NodeCache::new(session.clone(), Arc::clone(&kernel)));
        let space = Arc::new(SpaceReservation::new(volume.allocation));
        let recovery = Recovery::new(options.recovery_dir.join(volume.id.as_str()), runtime.clone());
        let uploads = Arc::new(Uploads::new(session.clone(), Arc::clone(&counters), runtime.clone()));
        let buffer = Arc::new(WriteBuffer::new(
            (buffer, options.flush_delay),
            Arc::clone(&nodes),
            Arc::clone(&space),
            recovery,
            Arc::clone(&counters),
            runtime.clone(),
        ));
        let journal = Arc::new(Journal::new(JournalParts {
            delay: options.flush_delay,
            nodes: Arc::clone(&nodes),
            buffer: Arc::clone(&buffer),
            uploads: Arc::clone(&uploads),
            space: Arc::clone(&space),
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
            space: Arc::clone(&space),
            locks: Arc::clone(&locks),
            kernel: Arc::clone(&kernel),
            session: session.clone(),
            counters: Arc::clone(&counters),
            runtime: runtime.clone(),
        }));
        let blocks = Arc::new(Blocks::new(cache));
        let prefetch = Arc::new(Prefetch::new(
            options.read_ahead_bytes,
            Arc::clone(&nodes),
            Arc::clone(&blocks),
            session.clone(),
            Arc::clone(&counters),
            runtime.clone(),
        ));
        Mount {
            session: session.clone(),
            chunk_size: volume.chunk_size,
            nodes,
            blocks,
            space,
            handles: Handles::default(),
            locks,
            warm_jobs: warm::WarmJobs::default(),
            counters,
            kernel,
            report: OnceLock::new(),
            runtime,
            buffer,
            journal,
            writeback,
            recall,
            prefetch,
            closing: AtomicBool::new(false),
            options,
        }
    }
}

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
        let made: OnceLock<Arc<Mount>> = OnceLock::new();
        Session::open(session, |session| {
            let mount = made.get_or_init(|| Arc::new(Mount::new(session, options, cache, buffer, runtime)));
            Arc::new(Events::new(&mount.recall)) as Arc<dyn SessionEvents>
        })
        .await?;
        let Some(mount) = made.into_inner() else {
            let reason = "the session never began".to_owned();
            return Err(ConnectError::Protocol { address: String::new(), reason }.into());
        };
        if let Err(error) = mount.open_disk_cache(owner).await {
            mount.session.clone().close().await;
            return Err(error.into());
        }
        mount.start_background();
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
        self.0.session.volume()
    }

    /// The session underneath, for its own figures.
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    pub fn stats(&self) -> VolumeStats {
        let mount = &self.0;
        let counters = &mount.counters;
        counters.dirty_bytes.store(mount.buffer.files.dirty(), Ordering::Relaxed);
        counters.cached_bytes.store(mount.blocks.cache().bytes(), Ordering::Relaxed);
        counters.disk_cache_bytes.store(mount.blocks.disk().map_or(0, DiskCache::bytes), Ordering::Relaxed);
        counters.nodes.store(mount.nodes.table.len() as u64, Ordering::Relaxed);
        counters.journal_waiting.store(mount.journal.len(), Ordering::Relaxed);
        counters.room_drawn.store(mount.space.drawn().bytes, Ordering::Relaxed);
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

impl Mount {
    async fn open_disk_cache(self: &Arc<Self>, owner: String) -> Result<(), DiskCacheError> {
        let Some(options) = self.options.disk_cache.clone() else { return Ok(()) };
        let directory = options.directory.clone();
        let (volume, counters) = (self.session.volume().id.clone(), Arc::clone(&self.counters));
        // Reading its index takes a moment.
        let opened = self.runtime.spawn_blocking(move || DiskCache::open(&options, &volume, &owner, &counters)).await;
        let disk = opened.map_err(|error| DiskCacheError::Io { directory, source: error.into() })??;
        self.blocks.attach_disk(disk);
        Ok(())
    }
}

impl FileSystem for Volume {
    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        let found = self.0.lookup(parent, name.clone()).await;
        if let Ok(Lookup::Found(entry)) = &found {
            self.0.prefetch.looked_up(parent, &name, &entry.attr);
        }
        found
    }

    fn forget(&self, ino: Ino, references: u64) {
        self.0.forget(ino, references);
    }

    async fn getattr(&self, ino: Ino) -> FsResult<AttrReply> {
        self.0.getattr(ino).await
    }

    async fn setattr(&self, ino: Ino, change: AttrChange, handle: Option<Handle>) -> FsResult<AttrReply> {
        self.0.setattr(ino, change, handle).await
    }

    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        self.0.readlink(ino).await
    }

    async fn make_node(&self, caller: Caller, parent: Ino, name: Name, node: NewNode, mode: u32) -> FsResult<Entry> {
        self.0.make_node(caller, parent, name, node, mode).await
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        self.0.create(caller, parent, name, mode, open_flags).await
    }

    async fn make_unnamed(&self, caller: Caller, parent: Ino, mode: u32, open_flags: i32) -> FsResult<(Entry, Opened)> {
        self.0.make_unnamed(caller, parent, mode, open_flags).await
    }

    async fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        self.0.link(ino, new_parent, new_name).await
    }

    async fn unlink(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.0.unlink(parent, name).await
    }

    async fn rmdir(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.0.rmdir(parent, name).await
    }

    async fn rename(&self, parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode) -> FsResult<()> {
        self.0.rename(parent, name, new_parent, new_name, mode).await
    }

    async fn open(&self, ino: Ino, open_flags: i32) -> FsResult<Opened> {
        self.0.open(ino, open_flags).await
    }

    async fn read(&self, ino: Ino, handle: Handle, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        self.0.read(ino, handle, offset, length).await
    }

    async fn write(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    ) -> FsResult<u32> {
        self.0.write(ino, handle, offset, data, flags).await
    }

    async fn flush(&self, ino: Ino, handle: Handle, owner: LockOwner) -> FsResult<()> {
        self.0.flush(ino, handle, owner).await
    }

    async fn release(&self, ino: Ino, handle: Handle, flock_owner: Option<LockOwner>) {
        self.0.release(ino, handle, flock_owner).await;
    }

    async fn fsync(&self, ino: Ino, _data_only: bool) -> FsResult<()> {
        self.0.fsync(ino).await
    }

    async fn sync_all(&self) -> FsResult<()> {
        self.0.sync_all().await
    }

    async fn open_dir(&self, ino: Ino) -> FsResult<Handle> {
        self.0.open_dir(ino).await
    }

    async fn read_dir(
        &self,
        ino: Ino,
        handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
    ) -> FsResult<Vec<DirEntry>> {
        self.0.read_dir(ino, handle, cursor, max_bytes, with_attributes).await
    }

    fn release_dir(&self, handle: Handle) {
        self.0.handles.close_directory(handle);
    }

    async fn get_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        if ino == Ino::ROOT
            && name == STATS_ATTRIBUTE.as_bytes()
            && let Some(report) = self.0.report.get()
        {
            return Ok(report().into());
        }
        if let Some(range) = warm::range_asked_for(&name) {
            return self.0.ask_to_warm(ino, &range);
        }
        self.0.get_xattr(ino, name).await
    }

    async fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.0.list_xattr(ino).await
    }

    async fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        clear_set_gid: bool,
    ) -> FsResult<()> {
        self.0.set_xattr(ino, name, value, mode, clear_set_gid).await
    }

    async fn remove_xattr(&self, ino: Ino, name: Bytes) -> FsResult<()> {
        self.0.remove_xattr(ino, name).await
    }

    async fn allocate(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<()> {
        self.0.allocate(ino, handle, mode, offset, length, kill_privileges).await
    }

    async fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<u64> {
        self.0.copy_range(source, source_offset, target, length, kill_privileges).await
    }

    async fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        self.0.seek(ino, offset, target).await
    }

    async fn stat_fs(&self) -> FsResult<VolumeUsage> {
        self.0.stat_fs().await
    }

    async fn test_lock(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        self.0.test_lock(lock).await
    }

    async fn set_lock(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        self.0.set_lock(lock, wait).await
    }
}
