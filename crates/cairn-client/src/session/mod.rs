//! A session with a server: the connections, and what must be true of them however often they break.
//!
//! One control connection carries metadata, leases, locks and what the server says unasked; up to two data connections
//! carry blobs. This module knows how requests get there exactly once and in order, and until when leases hold. It does
//! not know what is cached or buffered: it asks through [`SessionEvents`] when that matters.
//!
//! - A request stays pending until it is answered (`pending`); frames leave in the order of their numbers
//!   (`outgoing`); what arrives is handled in the order of arrival (`incoming`).
//! - A lost connection is replaced and pending requests are sent again, with the same tokens and journal numbers, so
//!   that the server can tell (`supervisor`). After a restart of the server, leases, open files, locks and changes
//!   that were not yet durable are declared to it first (`reclaim`).
//! - A server that stays away makes requests fail after [`SessionOptions::give_up_after`]; reconnecting goes on.
//! - A fenced session is replaced by a new one. Nothing that was asked of the old one, questions aside, is asked of the new.
//!
//! A session that is no longer wanted must be closed ([`Session::close`]); otherwise it lives as long as the runtime.

mod breaker;
mod clock;
mod counters;
mod data;
mod incoming;
mod numbers;
mod outgoing;
mod pending;
mod pipeline;
mod reclaim;
mod replay;
mod supervisor;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::{
    BlobId, ByteRange, Errno, FileLock, Ino, LeaseMode, LockFamily, LockKind, LockOwner, MetaOp, OpReply,
};
use cairn_wire::admin::VolumeInfo;
use cairn_wire::handshake::ClientInfo;
use cairn_wire::message::{Answer, Applied, BlobHeader, BlobPart, BlobRange, Grant, LeaseReturn};
use cairn_wire::{Query, QueryReply, Request};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

pub use crate::connect::ConnectError;
pub use counters::SessionStatus;

use self::data::{DataPool, Packs};
use crate::address::ConnectOptions;
use crate::error::{Error, ErrorKind, FsResult};
use crate::lock_order;
use breaker::Breaker;
use clock::LeaseClock;
use counters::Counters;
use numbers::Numbers;
use outgoing::{Draft, Outgoing};
use pending::{Phase, State};
use pipeline::journal_results;
pub use pipeline::{Durable, JournalAnswer, JournalMessage};

/// Time that [`Session::close`] gives the server to answer.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most changes in one journal message.
pub const JOURNAL_OPS_MAX: usize = 2048;
/// Largest estimate of one journal message's size ([`cairn_types::MetaOp::message_bytes`]), in bytes; the codec's limit is four times this.
pub const JOURNAL_WEIGHT_MAX: usize = 1024 * 1024;

/// What this client holds, for reclaiming it after a restart of the server.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub leases: Vec<(Ino, LeaseMode)>,
    /// Files that are open here.
    pub open: Vec<Ino>,
    pub locks: Vec<FileLock>,
}

/// What a session tells the one who caches and buffers. Called from the task that reads the control connection: no
/// method may block or wait for the session; work that takes time is spawned.
pub trait SessionEvents: Send + Sync + 'static {
    /// Flush and drop what is cached of `ino` beyond `leave`; then call [`Session::return_leases`] with `stamp`.
    fn recalled(&self, ino: Ino, leave: LeaseMode, stamp: u64);
    /// Give back reserved room that is not needed.
    fn give_back_room(&self);
    /// The server has restarted and this session is about to be reclaimed: what this client holds. Recalls from before are
    /// void; those that are heard from now on are of the new server, and may come before [`SessionEvents::reclaimed`].
    fn reclaiming(&self) -> Held;
    /// The session was reclaimed: these leases stand, anything else is void.
    fn reclaimed(&self, grants: &[Grant]);
    /// The session was ended by the server: all leases, locks and reserved room are gone, and what is buffered can no
    /// longer be written. Requests made from now on belong to a new session.
    fn fenced(&self);
    /// The leases' time ran out without contact: nothing cached may be answered until [`Session::lease_time_left`]
    /// says so again.
    fn expired(&self);
}

/// How to begin a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub connect: ConnectOptions,
    /// Name or id of the volume.
    pub volume: String,
    pub info: ClientInfo,
    /// For how long requests wait for a server that cannot be reached; after that they fail until it is back.
    pub give_up_after: Duration,
    /// Read blobs from the server's pack files where it is on this host and hands over their descriptors.
    pub short_circuit: bool,
}

impl SessionOptions {
    /// With a patience of sixty seconds, and short circuit where it is possible.
    pub fn new(connect: ConnectOptions, volume: impl Into<String>, info: ClientInfo) -> Self {
        let volume = volume.into();
        SessionOptions { connect, volume, info, give_up_after: Duration::from_secs(60), short_circuit: true }
    }
}

/// A session with a volume. Cheap to clone: all clones are the same session.
///
/// Methods fail with [`ErrorKind::Unreachable`] when the server cannot be reached for too long, [`ErrorKind::TimedOut`] when
/// it is there but does not answer, [`ErrorKind::OutcomeUnknown`] instead of either where a change was sent already,
/// [`ErrorKind::Fenced`] when the session was fenced meanwhile, [`ErrorKind::Closed`] after [`Session::close`]; besides, with
/// what the server answers. They may be polled on threads that do not belong to the runtime.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    options: SessionOptions,
    volume: VolumeInfo,
    /// Version of the protocol that the server of the present control connection speaks.
    protocol: AtomicU32,
    runtime: Handle,
    /// Empty after closing: whoever listens usually holds the session too.
    events: Mutex<Option<Arc<dyn SessionEvents>>, lock_order::SessionEvents>,
    /// Never wait for it while holding `state` or `errands`.
    outgoing: Arc<tokio::sync::Mutex<Outgoing>>,
    /// Taken before `state` where both are needed.
    errands: Mutex<VecDeque<Request>, lock_order::SessionErrands>,
    errand_queued: Notify,
    state: Mutex<State, lock_order::SessionState>,
    /// Follows [`State::phase`], for those who wait for a change.
    phase: watch::Sender<Phase>,
    /// Of the control connection that stands now.
    breaker: Mutex<Arc<Breaker>, lock_order::SessionBreaker>,
    clock: LeaseClock,
    /// [`SessionEvents::expired`] was called and no renewal came since.
    expiry_reported: AtomicBool,
    /// [`Session::close`] has begun: the end of the connection is no reason to make another.
    leaving: AtomicBool,
    /// Counts fencings.
    generation: AtomicU64,
    /// Since when a frame is being written to the control connection (as in `clock::Moment`); 0 if none is.
    writing_since: AtomicU64,
    /// When the last frame arrived on the control connection (as in `clock::Moment`).
    heard_at: AtomicU64,
    numbers: Numbers,
    data: DataPool,
    packs: Packs,
    counters: Counters,
}

impl Inner {
    fn events(&self) -> Option<Arc<dyn SessionEvents>> {
        self.events.lock().clone()
    }

    fn set_phase(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.phase.send_replace(phase);
    }

    fn is_closed(&self) -> bool {
        *self.phase.borrow() == Phase::Closed
    }

    async fn closed(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Closed).await;
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A timer that may be made on any thread.
    fn sleep(&self, time: Duration) -> tokio::time::Sleep {
        let _context = self.runtime.enter();
        tokio::time::sleep(time)
    }

    /// Longest time that the server may take for one answer: it may be waiting for other sessions to give back leases,
    /// each for as long as a lease lives.
    fn answer_limit(&self) -> Duration {
        self.clock.time_to_live() * 3
    }
}

/// The server's answer is not of the kind that the request has.
fn unexpected(answer: &Answer) -> Error {
    tracing::error!(?answer, "unexpected answer from the server");
    Error::from(Errno::EIO).because("the server sent an answer of another kind than was asked for")
}

impl Session {
    /// Connects and begins a session. `events` is called once, before anything can happen to the session.
    ///
    /// # Errors
    /// A sentence for the user: server unreachable, volume unknown, key refused, versions that do not fit.
    pub async fn open(
        options: SessionOptions,
        events: impl FnOnce(&Session) -> Arc<dyn SessionEvents>,
    ) -> Result<Session, ConnectError> {
        supervisor::open(options, events).await
    }

    pub fn volume(&self) -> &VolumeInfo {
        &self.inner.volume
    }

    /// Grows whenever the session was fenced: what was learnt or buffered under another number is void.
    pub fn generation(&self) -> u64 {
        self.inner.generation()
    }

    /// Asks about the tree.
    pub async fn query(&self, query: Query) -> FsResult<QueryReply> {
        match self.inner.request(Draft::Plain(Request::Query(query))).await? {
            Answer::Query(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes one change, exactly once, and waits until it is applied (not until it is durable). The change may happen
    /// even if this future is dropped.
    pub async fn call(&self, op: MetaOp) -> FsResult<(OpReply, Vec<Grant>)> {
        match self.inner.request(Draft::Call(op)).await? {
            Answer::Applied { applied, grants } => match applied.into_iter().next() {
                Some(Applied { result, .. }) => Ok((result.map_err(Error::from_server)?, grants)),
                None => Err(Error::from(Errno::EIO).because("the server's answer says nothing of the change")),
            },
            other => Err(unexpected(&other)),
        }
    }

    /// Sends changes to nodes that this session holds exclusively, as one message. They are numbered and sent in the
    /// order in which the calls of this method were first polled, whatever happens to the connection, and stay pending
    /// for as long as the session may come back. One result for each change; the grants are those of all that succeeded.
    ///
    /// Answers of several journals that are under way may reach the client in any order; after a restart of the server,
    /// what was answered is applied before what was not. Changes that depend on each other belong into one journal, or
    /// the second waits for the answer to the first.
    ///
    /// `generation`: that of the session which the leases belong to; [`ErrorKind::Fenced`] for all if it is over.
    pub async fn journal(&self, ops: Vec<MetaOp>, generation: u64) -> (Vec<FsResult<OpReply>>, Vec<Grant>) {
        let count = ops.len();
        journal_results(self.inner.request(Draft::Journal { ops, generation }).await, count)
    }

    /// Returns once requests fail because the server has stayed away for too long, or the session is closed: with what
    /// they fail.
    pub async fn gave_up(&self) -> Error {
        let mut phase = self.inner.phase.subscribe();
        loop {
            let _ = phase.wait_for(|phase| matches!(phase, Phase::GaveUp | Phase::Closed)).await;
            // None if the server came back in this very moment.
            if let Some(error) = self.inner.state.lock().refuses() {
                return error;
            }
        }
    }

    /// Longest time that the server may take for one answer.
    pub fn answer_limit(&self) -> Duration {
        self.inner.answer_limit()
    }

    /// Waits until everything that was applied before is on stable storage.
    pub async fn sync(&self) -> FsResult<()> {
        match self.inner.request(Draft::Plain(Request::Sync)).await? {
            Answer::Durable { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Stores blobs; `bytes` holds their contents in the order of `headers`. They become durable with [`Session::sync`]
    /// once a change refers to them.
    pub async fn put_blobs(&self, headers: Vec<BlobHeader>, bytes: Vec<Bytes>) -> FsResult<()> {
        data::put_blobs(&self.inner, headers, bytes).await
    }

    /// Reads ranges of blobs, verified. Each part covers its range, widened to whole check blocks.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: a blob is gone, the extents have changed. [`ErrorKind::Damaged`]: the bytes are damaged,
    /// at the server or on the way, twice; it is logged and reported to the server.
    pub async fn read_blobs(&self, ranges: Vec<BlobRange>) -> FsResult<Vec<(BlobPart, Bytes)>> {
        data::read_blobs(&self.inner, ranges).await
    }

    /// A number for a new node.
    pub async fn new_ino(&self) -> FsResult<Ino> {
        numbers::take_ino(&self.inner).await
    }

    /// The first of `count` consecutive numbers for new blobs.
    pub async fn new_blob_ids(&self, count: u32) -> FsResult<BlobId> {
        numbers::take_blobs(&self.inner, count).await
    }

    /// Reserves room: at least what is needed, if possible what is wanted. Returns bytes and nodes.
    ///
    /// # Errors
    /// `EDQUOT` if there is not even what is needed.
    pub async fn reserve(
        &self,
        bytes_needed: u64,
        bytes_wanted: u64,
        inodes_needed: u64,
        inodes_wanted: u64,
    ) -> FsResult<(u64, u64)> {
        let request = Request::Reserve { bytes_needed, bytes_wanted, inodes_needed, inodes_wanted };
        match self.inner.request(Draft::Plain(request)).await? {
            Answer::Reserved { bytes, inodes } => Ok((bytes, inodes)),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives back reserved room. Does not wait.
    pub fn give_back(&self, bytes: u64, inodes: u64) {
        if bytes > 0 || inodes > 0 {
            self.inner.run_errand(Request::GiveBack { bytes, inodes });
        }
    }

    /// Gives back leases. Does not wait; leaves before any later request.
    pub fn return_leases(&self, returns: Vec<LeaseReturn>) {
        if !returns.is_empty() {
            self.inner.run_errand(Request::ReturnLeases(returns));
        }
    }

    /// Tells that files which were declared open no longer are. Does not wait; leaves before any later request.
    pub fn close_files(&self, files: Vec<Ino>) {
        if !files.is_empty() {
            self.inner.run_errand(Request::CloseFiles(files));
        }
    }

    /// The lock that stands in the way of `lock`, if any.
    pub async fn test_lock(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        match self.inner.request(Draft::Plain(Request::TestLock(lock))).await? {
            Answer::Lock(conflict) => Ok(conflict),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes or gives back a lock; with `wait` until it can be had. Dropping the future gives up: a lock that is
    /// granted all the same is given back.
    ///
    /// # Errors
    /// `EAGAIN` if it is taken and `wait` is false; `EDEADLK` where waiting would never end.
    pub async fn set_lock(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        let inner = &self.inner;
        let mut outgoing = inner.outgoing.lock().await;
        inner.send_errands(&mut outgoing).await;
        let request = Request::SetLock { lock, wait };
        let ticket = match inner.register(&mut outgoing, Draft::Plain(request.clone())) {
            Ok(ticket) => ticket,
            Err(error) => {
                self.unlock_later(&error, request, lock.kind == LockKind::Unlock);
                return Err(error);
            }
        };
        let cancel = CancelLockOnDrop { inner, correlation: ticket.correlation, armed: wait };
        inner.write(&mut outgoing, ticket.correlation).await;
        drop(outgoing);
        let answer = ticket.wait().await;
        cancel.disarm();
        match answer? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Drops all locks of an owner on a file, of one family or both.
    pub async fn unlock(&self, ino: Ino, owner: LockOwner, family: Option<LockFamily>) -> FsResult<()> {
        let request = Request::Unlock { ino, owner, family, range: ByteRange { start: 0, end: u64::MAX } };
        match self.inner.request(Draft::Plain(request.clone())).await {
            Ok(Answer::Done) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => {
                self.unlock_later(&error, request, true);
                Err(error)
            }
        }
    }

    /// A lock is given back even if the server comes back only after its owner got an error.
    fn unlock_later(&self, error: &Error, request: Request, unlocks: bool) {
        let undelivered = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::OutcomeUnknown);
        if unlocks && undelivered && self.inner.state.lock().phase == Phase::GaveUp {
            self.inner.run_errand(request);
        }
    }

    /// For how long what leases cover may be answered from cache; `None` if not at all (no contact for too long).
    pub fn lease_time_left(&self) -> Option<Duration> {
        self.inner.clock.left()
    }

    /// Whether what leases cover may be answered from cache.
    pub fn leases_valid(&self) -> bool {
        self.inner.clock.left().is_some()
    }

    pub fn status(&self) -> SessionStatus {
        counters::status(&self.inner)
    }

    /// Ends the session at the server: whatever is still pending fails, and so does whatever is asked later. Flush and
    /// sync before.
    pub async fn close(self) {
        let inner = &self.inner;
        inner.leaving.store(true, Ordering::Release);
        if inner.state.lock().phase == Phase::Connected {
            tokio::select! {
                outcome = inner.request(Draft::Plain(Request::Goodbye)) => {
                    if let Err(errno) = outcome {
                        tracing::debug!(?errno, "the server did not take leave");
                    }
                }
                () = inner.sleep(GOODBYE_TIMEOUT) => tracing::warn!("the server did not take leave in time"),
                () = inner.closed() => {}
            }
        }
        inner.shut().await;
    }
}

/// Sends `CancelLock` unless disarmed.
struct CancelLockOnDrop<'inner> {
    inner: &'inner Inner,
    correlation: u64,
    armed: bool,
}

impl CancelLockOnDrop<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for CancelLockOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.run_errand(Request::CancelLock { correlation: self.correlation });
        }
    }
}
