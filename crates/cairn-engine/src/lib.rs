//! One volume's engine: sessions, leases, locks, quota, changes in one order, file bytes, and what it takes to lose none of
//! it.
//!
//! ```text
//! requests ─► dispatch ─┬─► query ──────► leases, snapshot          (any thread)
//!                       ├─► changes ────► committer ─► metadata      (one writer)
//!                       ├─► blobs ──────► blob store                 (any thread)
//!                       └─► locks, reservations, sessions
//! background: maintenance (space), restart (grace), ending (sessions that are over)
//! ```
//!
//! What it keeps lies in a [`Storage`]: a key-value store for metadata, a blob store for the bytes of files, neither of
//! which need be local. Opening takes the volume over ([`cairn_meta::Ownership`]): whoever had it open changes nothing any
//! more, and stops serving when it finds out.
//!
//! It knows nothing of sockets: it gets decoded requests of a session, and tells sessions what they must know through the
//! [`PushSender`] of their control connection.
//!
//! The order of locks is in `lock_order`; none is held while anything waits.

mod blobs;
mod changes;
mod check;
mod committer;
mod compaction;
mod counters;
mod defragment;
mod disk;
mod dispatch;
mod ending;
mod leases;
mod lock_order;
mod lock_requests;
mod locks;
mod maintenance;
mod open;
mod open_files;
mod peer_process;
mod pending;
mod push;
mod query;
mod quota;
mod recall;
mod recent;
mod reservations;
mod restart;
mod sessions;
mod storage;
#[cfg(test)]
mod tests;
mod usage;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cairn_chunks::{BlobStore, ChunkError};
use cairn_locks::{Mutex, RwLock};
use cairn_meta::{CommitOutcome, Reached, Snapshot, StoreError, VolumeStore};
use cairn_types::{BlobPlace, Errno, PackId, Profile, SessionId, VolumeId};
use cairn_wire::admin::{CheckOptions, CheckProgress, SessionStatus, VolumeInfo};
use cairn_wire::handshake::{ClientInfo, Resume, SessionSecret, SessionWelcome};
use cairn_wire::message::{Answer, Failure, Usage};
use cairn_wire::{Refusal, Request, Response};

pub use push::{PushReceiver, PushSender, push_channel};
pub use sessions::AttachmentId;
pub use storage::Storage;

use committer::{Committer, Kind, Worker};
use counters::Counters;
use disk::Disk;
use lock_requests::Locks;
use maintenance::Maintenance;
use open_files::OpenFiles;
use pending::PendingBlobs;
use recall::Leases;
use reservations::Reservations;
use restart::Restart;
use sessions::Sessions;

/// What a request is answered with: the answer and its bulk, or why not.
type Reply = Result<(Answer, Vec<Bytes>), Failure>;

/// How a volume is run.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// A session that is silent for longer may be fenced.
    pub lease_ttl: Duration,
    /// How long sessions from before a start may take to come back; normal work begins earlier if all are there. `None`:
    /// as long as a lease lives.
    pub grace: Option<Duration>,
    /// A session that is silent for so long is ended even if nobody needs what it holds. `None`: ten times as long as a
    /// lease lives.
    pub abandoned_after: Option<Duration>,
    /// Longest time that a change stays undurable by itself.
    pub durable_interval: Duration,
    /// Memory for cached metadata, in bytes.
    pub metadata_cache: usize,
    pub packs: cairn_chunks::Options,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            lease_ttl: Duration::from_secs(15),
            grace: None,
            abandoned_after: None,
            durable_interval: Duration::from_secs(1),
            metadata_cache: 128 * 1024 * 1024,
            packs: cairn_chunks::Options::default(),
        }
    }
}

impl VolumeOptions {
    fn grace(&self) -> Duration {
        self.grace.unwrap_or(self.lease_ttl)
    }

    fn abandoned_after(&self) -> Duration {
        self.abandoned_after.unwrap_or(self.lease_ttl * 10)
    }
}

/// Why a volume cannot be made, opened, changed or closed in order.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("metadata: {0}")]
    Metadata(#[from] StoreError),
    #[error("packs: {0}")]
    Packs(#[from] ChunkError),
    #[error("a thread of the volume cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The sentence says what is wrong.
    #[error("{0}")]
    Refused(String),
}

impl From<Failure> for VolumeError {
    fn from(failure: Failure) -> Self {
        VolumeError::Refused(failure.message)
    }
}

/// A volume that is open, in this process alone. Dropping it lets everything be written in the background; whoever wants
/// to know when that is done calls [`Volume::close`].
pub struct Volume {
    inner: Arc<Inner>,
}

/// What all parts of the engine share.
struct Inner {
    weak: Weak<Inner>,
    id: VolumeId,
    options: VolumeOptions,
    /// `None` once the volume is closed.
    store: RwLock<Option<VolumeStore>, lock_order::Store>,
    blob_store: Arc<dyn BlobStore>,
    committer: Committer,
    worker: Mutex<Worker, lock_order::CommitWorker>,
    leases: Leases,
    sessions: Sessions,
    open_files: OpenFiles,
    locks: Locks,
    blobs: PendingBlobs,
    reservations: Reservations,
    restart: Restart,
    maintenance: Maintenance,
    counters: Counters,
    disk: Disk,
    /// Bytes on disk of all packs, as last counted.
    stored: usage::StoredBytes,
    /// Last change that was on stable storage when the volume was opened, and now.
    order_at_start: u64,
    durable_order: AtomicU64,
    /// Places of blobs that the next durable commit makes useless.
    dead_when_durable: Mutex<Vec<BlobPlace>, lock_order::DeadWhenDurable>,
    /// Reads of blobs that are under way.
    readers: AtomicUsize,
    /// Bytes written to packs since the last flush that was begun for their sake.
    unflushed: AtomicU64,
    /// Something was deleted whose extents may have to be dropped in the background.
    deleted: AtomicBool,
    /// What was found damaged when the volume was opened; empty if nothing.
    damage: String,
    closing: AtomicBool,
}

impl Inner {
    fn store(&self) -> Option<VolumeStore> {
        self.store.read().clone()
    }

    /// The state of the last commit. `ESHUTDOWN` once the volume is closed.
    fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.store
            .read()
            .as_ref()
            .map(VolumeStore::snapshot)
            .ok_or_else(|| Failure { errno: Errno::ESHUTDOWN, message: "the volume is closed".to_owned() })
    }

    /// Everything up to this order is on stable storage.
    fn durable_order(&self) -> u64 {
        self.durable_order.load(Ordering::Acquire)
    }

    /// Called by the committer after each commit.
    fn committed(&self, outcome: CommitOutcome) {
        self.counters.commits.add(1);
        self.maintenance.note_fragmented(outcome.fragmented);
        let mut dead = self.dead_when_durable.lock();
        dead.extend(outcome.freed.into_iter().map(|(_, place)| place));
        if outcome.reached >= Reached::Attached {
            self.counters.commits_durable.add(1);
            self.durable_order.fetch_max(outcome.order, Ordering::AcqRel);
        }
        if outcome.reached == Reached::Durable {
            let dead = std::mem::take(&mut *dead);
            self.maintenance.free(dead);
        }
    }
}

impl Volume {
    /// Makes an empty volume in storage that is empty, durably but for the entries of a local directory itself.
    pub fn create(storage: &Storage, info: VolumeInfo) -> Result<(), VolumeError> {
        open::create(storage, info)
    }

    /// Opens the volume in `storage`, and takes it over from whoever has it open there. Returns when it is ready for sessions; those from before have their time of
    /// grace from then on.
    pub async fn open(storage: &Storage, options: &VolumeOptions) -> Result<Volume, VolumeError> {
        open::open(storage, options).await
    }

    /// As it was made, with its present name and limits.
    pub fn info(&self) -> VolumeInfo {
        usage::info(&self.inner)
    }

    pub fn usage(&self) -> Usage {
        self.inner.usage()
    }

    /// Empty if all is well; otherwise a sentence.
    pub fn trouble(&self) -> String {
        self.inner.committer.trouble().unwrap_or_else(|| self.inner.damage.clone())
    }

    /// All sessions, connected or not.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.inner.session_list()
    }

    /// Whether any session may still use the volume.
    pub fn mounted(&self) -> bool {
        !self.inner.sessions.is_empty()
    }

    /// Name and value of each counter.
    pub fn counters(&self) -> Vec<(String, u64)> {
        self.inner.counters.list()
    }

    /// A control connection has come up: begins a session, or goes on with the one in `resume` (whose older connection is
    /// cut).
    pub async fn attach(
        &self,
        info: ClientInfo,
        peer: String,
        resume: Option<Resume>,
        pushes: PushSender,
    ) -> Result<(SessionWelcome, AttachmentId), Refusal> {
        self.inner.attach(info, peer, resume, pushes).await
    }

    /// Whether a data connection belongs to a session.
    pub fn check_data_connection(&self, session: SessionId, secret: SessionSecret) -> Result<(), Refusal> {
        self.inner.check_data_connection(session, secret)
    }

    /// A control connection is gone. The session may come back with another one, unless its process has ended.
    pub fn detach(&self, session: SessionId, attachment: AttachmentId) {
        if self.inner.sessions.detach(session, attachment) {
            tracing::info!(volume = %self.inner.id, %session, "mount disconnected");
            self.inner.watch_for_end(session);
        }
    }

    /// Serves a request of a session, from whichever of its connections. What must happen in the order of requests has
    /// happened, or is queued in that order, when the future was polled once.
    pub async fn handle(
        &self,
        session: SessionId,
        correlation: u64,
        request: Request,
        bulk: Bytes,
    ) -> (Response, Vec<Bytes>) {
        match self.inner.dispatch(session, correlation, request, bulk).await {
            Ok((answer, bulk)) => (Ok(answer), bulk),
            Err(failure) => (Err(failure), Vec::new()),
        }
    }

    /// A pack's file, for a client on this host that reads from it by itself.
    ///
    /// # Errors
    /// `ENOENT` for a pack that is no more, and what opening it fails with.
    pub fn open_pack(&self, pack: u32) -> Result<std::fs::File, Failure> {
        self.inner.open_pack(PackId(pack))
    }

    /// Changes the limits; what is `None` stays.
    pub async fn resize(&self, bytes_limit: Option<u64>, inodes_limit: Option<u64>) -> Result<(), VolumeError> {
        let resized = self.inner.committer.submit(Kind::Durable, move |round| {
            round.batch.resize_volume(bytes_limit, inodes_limit);
        });
        resized.await?;
        self.inner.reservations.freed();
        Ok(())
    }

    /// Gives the volume another profile, durably. `false` if that must wait until no session is left, because content would
    /// count otherwise.
    pub async fn set_profile(&self, profile: Profile) -> Result<bool, VolumeError> {
        let inner = Arc::clone(&self.inner);
        let (text, allocation) = (profile.to_string(), profile.allocation());
        let set = self.inner.committer.submit(Kind::Alone, move |round| {
            // Sessions begin in rounds, too: none can come in between.
            if allocation != round.batch.volume().config.allocation && !inner.sessions.is_empty() {
                return Ok(false);
            }
            round.batch.set_profile(text, allocation).map(|()| true)
        });
        let done = set.await??;
        self.inner.reservations.freed();
        Ok(done)
    }

    pub async fn rename(&self, name: String) -> Result<(), VolumeError> {
        let renamed = self.inner.committer.submit(Kind::Durable, move |round| round.batch.rename_volume(name));
        Ok(renamed.await?)
    }

    /// Checks every invariant, and with [`CheckOptions::data`] every byte; repairs if asked to and not mounted.
    pub async fn check(
        &self,
        options: CheckOptions,
        progress: impl Fn(CheckProgress) + Send + Sync + 'static,
    ) -> Result<CheckProgress, VolumeError> {
        let inner = Arc::clone(&self.inner);
        let check = move || check::check(&inner, &options, &progress);
        tokio::task::spawn_blocking(check).await.map_err(|_| VolumeError::Refused("the check failed".to_owned()))?
    }

    /// Writes everything to stable storage and lets go of the files. Sessions stay known: they may come back when the
    /// volume is opened again.
    pub async fn close(&self) -> Result<(), VolumeError> {
        self.inner.begin_closing();
        while !(self.inner.committer.is_stopped() && self.inner.maintenance.is_stopped()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        *self.inner.store.write() = None;
        self.inner.sessions.all().iter().for_each(|session| session.cut());
        match self.inner.committer.trouble() {
            None => Ok(()),
            Some(trouble) => Err(VolumeError::Refused(trouble)),
        }
    }
}

impl Inner {
    /// Why nothing is served any more.
    fn closing_because(&self) -> String {
        self.committer.trouble().unwrap_or_else(|| "the volume is being closed".to_owned())
    }

    fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
        self.maintenance.stop();
        self.committer.stop();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.inner.begin_closing();
    }
}
