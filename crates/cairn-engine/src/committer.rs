//! One writer changes a volume's metadata: it takes everything that waits, applies it, commits once, and answers all.
//!
//! The writer is whoever holds the [`Worker`]: a thread of its own for everything that waits for a disk, and the
//! task that brings a change while nobody else writes ([`Inner::submit_here`]), which spares it two changes of thread.
//!
//! Work comes as [`Job`]s: closures over a [`Round`]. A round ends with a commit that others can read at once and that a
//! crash of the machine or of the server may undo; about a second after the first change, or when somebody waits for
//! it, a round ends with a durable one instead (file bytes first, then the metadata that point at them). Where it is a program
//! that waits, and for little, that is first a record in the log that holds both; the rest follows within the second.
//! Nobody is answered before the commit of his round.
//!
//! A failure of the store or of a flush stops all writing for good: what is on the disk after it cannot be known.
//! Reading goes on. If another server has opened the volume, every commit is refused, and nothing is served any more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_chunks::ChunkError;
use cairn_locks::{Condvar, Mutex};
use cairn_meta::{ApplyError, Batch, CommitOutcome, Durability, Reached, StoreError, VolumeStore};
use cairn_types::{Errno, FsResult, SessionId};
use cairn_wire::Push;
use cairn_wire::message::Failure;
use tokio::sync::oneshot;

use crate::Inner;
use crate::lock_order;
use crate::quota::{Fill, Quota, Space};
use crate::recent::Recent;

/// Most jobs of one round: bounds how long the first one waits for the last.
const JOBS_MAX: usize = 1024;
/// Most jobs of a round that is done where a change came in: its connection waits meanwhile.
const JOBS_HERE_MAX: usize = 64;
/// Longest time that a round goes on applying before it commits.
const ROUND_MAX: Duration = Duration::from_millis(20);
/// Most bytes of packs that go to the log, so that a program which waits for them need not wait for the packs.
const LOGGED_MAX: u64 = 256 * 1024;
/// Longest time between two pushes of the durable order while others make commits durable all the time.
const PUSH_INTERVAL: Duration = Duration::from_millis(200);

/// What the committer alone knows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) quota: Quota,
    pub(crate) recent: HashMap<SessionId, Recent>,
}

/// A batch that is being filled.
pub(crate) struct Round<'a> {
    pub(crate) batch: &'a mut Batch,
    pub(crate) ledger: &'a mut Ledger,
    /// The disk has too little room left for anything that grows.
    pub(crate) disk_full: bool,
    /// Set when the batch can only be thrown away.
    failure: Option<StoreError>,
}

impl Round<'_> {
    pub(crate) fn fill(&self) -> Fill {
        let volume = self.batch.volume();
        let limit = Space { bytes: volume.config.bytes_limit, inodes: volume.config.inodes_limit };
        Fill { limit, used: Space { bytes: volume.bytes_used, inodes: volume.inodes_used } }
    }

    /// Sorts out what a program is told (`Ok(Err)`) from what ends the round.
    pub(crate) fn answer<T>(&mut self, outcome: Result<T, ApplyError>) -> FsResult<T> {
        match outcome {
            Ok(value) => Ok(value),
            Err(ApplyError::Refused(errno)) => Err(errno),
            Err(ApplyError::Store(error)) => {
                self.failure.get_or_insert(error);
                Err(Errno::EIO)
            }
        }
    }

    /// As [`Round::answer`] for what cannot be refused.
    pub(crate) fn must<T>(&mut self, outcome: Result<T, StoreError>) -> FsResult<T> {
        self.answer(outcome.map_err(ApplyError::Store))
    }
}

type Finish = Box<dyn FnOnce(Result<(), &Failure>) + Send>;
type Run = Box<dyn FnOnce(&mut Round<'_>) -> Finish + Send>;

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits until sessions from before the start had time to come back.
    Normal,
    /// As `Normal`, and answered when its round is on stable storage, if only in the log.
    Flush,
    /// Is done at once.
    Early,
    /// As `Early`, and answered when its round is on stable storage for good.
    Durable,
    /// As `Durable`, in a round of its own.
    Alone,
}

impl Kind {
    /// How safe its round is at least when it is answered.
    fn needs(self) -> Reached {
        match self {
            Kind::Normal | Kind::Early => Reached::Buffered,
            Kind::Flush => Reached::Attached,
            Kind::Durable | Kind::Alone => Reached::Durable,
        }
    }
}

/// Work for the committer.
pub(crate) struct Job {
    kind: Kind,
    run: Run,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Normal jobs while the gate is closed.
    held: VecDeque<Job>,
    gate_open: bool,
    /// Why nothing is written any more.
    trouble: Option<String>,
    stopping: bool,
    stopped: bool,
    /// The thread must look again at what it waits for.
    nudged: bool,
}

/// The way to the committer.
#[derive(Default)]
pub(crate) struct Committer {
    queue: Mutex<Queue, lock_order::CommitQueue>,
    wake: Condvar,
}

impl Committer {
    /// Queues a job at the first poll, in the order of calls, and gives its outcome once its round is committed.
    ///
    /// # Errors
    /// `EIO` with a sentence if the round could not be committed, `ESHUTDOWN` once the volume is closed.
    pub(crate) async fn submit<T: Send + 'static>(
        &self,
        kind: Kind,
        run: impl FnOnce(&mut Round<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let answer = self.queue(kind, run);
        answer.await.unwrap_or_else(|_| Err(self.reason()))
    }

    /// As [`Committer::submit`], for a thread that may block.
    pub(crate) fn submit_blocking<T: Send + 'static>(
        &self,
        kind: Kind,
        run: impl FnOnce(&mut Round<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.queue(kind, run).blocking_recv().unwrap_or_else(|_| Err(self.reason()))
    }

    /// Queues a job; the receiver may be dropped.
    pub(crate) fn queue<T: Send + 'static>(
        &self,
        kind: Kind,
        run: impl FnOnce(&mut Round<'_>) -> T + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Failure>> {
        let (receiver, queued) = self.push(kind, run);
        if queued {
            self.wake.notify_one();
        }
        receiver
    }

    /// Queues a job without waking the thread. Says too whether there is now something for it to do.
    fn push<T: Send + 'static>(
        &self,
        kind: Kind,
        run: impl FnOnce(&mut Round<'_>) -> T + Send + 'static,
    ) -> (oneshot::Receiver<Result<T, Failure>>, bool) {
        let (sender, receiver) = oneshot::channel();
        let run: Run = Box::new(move |round| {
            let value = run(round);
            Box::new(move |outcome| {
                // Whoever asked may be gone.
                let _ = sender.send(outcome.map(|()| value).map_err(Clone::clone));
            })
        });
        let mut queue = self.queue.lock();
        if queue.stopping || queue.trouble.is_some() {
            return (receiver, false);
        }
        let job = Job { kind, run };
        let held = matches!(kind, Kind::Normal | Kind::Flush) && !queue.gate_open;
        if held {
            queue.held.push_back(job);
        } else {
            queue.jobs.push_back(job);
        }
        (receiver, !held)
    }

    /// Lets the thread look again at what it waits for.
    fn nudge(&self) {
        self.queue.lock().nudged = true;
        self.wake.notify_one();
    }

    /// Why a job was not done.
    fn reason(&self) -> Failure {
        match &self.queue.lock().trouble {
            Some(trouble) => Failure { errno: Errno::EIO, message: trouble.clone() },
            None => Failure { errno: Errno::ESHUTDOWN, message: "the volume is being closed".to_owned() },
        }
    }

    /// Why nothing is written any more, if that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.queue.lock().trouble.clone()
    }

    /// Stops all writing for good. The first reason stays.
    pub(crate) fn poison(&self, trouble: String) {
        let mut queue = self.queue.lock();
        queue.trouble.get_or_insert(trouble);
        let refused = (std::mem::take(&mut queue.jobs), std::mem::take(&mut queue.held));
        // Their callers are told outside the lock.
        drop(queue);
        drop(refused);
    }

    /// Lets normal jobs pass from now on, in the order in which they came.
    pub(crate) fn open_gate(&self) {
        let mut queue = self.queue.lock();
        queue.gate_open = true;
        let held = std::mem::take(&mut queue.held);
        queue.jobs.extend(held);
        drop(queue);
        self.wake.notify_one();
    }

    /// Lets the thread end after what is queued and a last durable commit.
    pub(crate) fn stop(&self) {
        self.queue.lock().stopping = true;
        self.wake.notify_one();
    }

    /// The thread has ended.
    pub(crate) fn is_stopped(&self) -> bool {
        self.queue.lock().stopped
    }

    /// Waits for work: until there is some, until `deadline`, or until it is over. `false` when it is over.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut queue = self.queue.lock();
        while queue.jobs.is_empty() && !queue.stopping && !queue.nudged {
            match deadline {
                None => self.wake.wait(&mut queue),
                Some(deadline) => {
                    if self.wake.wait_until(&mut queue, deadline) {
                        break;
                    }
                }
            }
        }
        queue.nudged = false;
        !(queue.stopping && queue.jobs.is_empty())
    }

    /// Takes the jobs of one round, in their order.
    fn take(&self) -> Vec<Job> {
        let mut queue = self.queue.lock();
        let mut jobs = Vec::new();
        while jobs.len() < JOBS_MAX {
            let Some(next) = queue.jobs.front() else { break };
            let alone = next.kind == Kind::Alone;
            if alone && !jobs.is_empty() {
                break;
            }
            jobs.extend(queue.jobs.pop_front());
            if alone {
                break;
            }
        }
        jobs
    }

    /// Takes what waits if it is little and nothing of it waits for the disk.
    fn take_if_quick(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue.lock();
        let quick = queue.jobs.len() <= JOBS_HERE_MAX
            && queue.jobs.iter().all(|job| matches!(job.kind, Kind::Normal | Kind::Early));
        quick.then(|| queue.jobs.drain(..).collect())
    }

    /// Puts jobs back to the front that a round had no time for.
    fn put_back(&self, jobs: impl DoubleEndedIterator<Item = Job>) {
        let mut queue = self.queue.lock();
        for job in jobs.rev() {
            queue.jobs.push_front(job);
        }
    }
}

/// The thread's end, however it comes: nobody waits for it any longer.
struct End(Arc<Inner>);

impl Drop for End {
    fn drop(&mut self) {
        let committer = &self.0.committer;
        drop(PanicGuard(&self.0));
        let mut queue = committer.queue.lock();
        queue.stopping = true;
        queue.stopped = true;
        let leftover = (std::mem::take(&mut queue.jobs), std::mem::take(&mut queue.held));
        drop(queue);
        drop(leftover);
    }
}

/// Stops all writing if whoever writes panics: what the batch held is lost, and the ledger may be half changed.
struct PanicGuard<'a>(&'a Inner);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.committer.poison("a fault of the server has stopped writing; restart it".to_owned());
        }
    }
}

/// What the writer alone knows. Whoever holds it is the writer.
pub(crate) struct Worker {
    ledger: Ledger,
    /// When the first change was committed that is not durable yet, or only with an attachment.
    dirty_since: Option<Instant>,
    last_push: Instant,
    pushed_order: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Worker { ledger: Ledger::default(), dirty_since: None, last_push: Instant::now(), pushed_order: 0 }
    }
}

/// The committer's thread.
pub(crate) fn run(inner: Arc<Inner>) {
    let _end = End(Arc::clone(&inner));
    loop {
        let deadline = inner.worker.lock().deadline(&inner);
        if !inner.committer.wait(deadline) {
            break;
        }
        let mut worker = inner.worker.lock();
        let jobs = inner.committer.take();
        let due = worker.dirty_since.is_some_and(|since| since.elapsed() >= inner.options.durable_interval);
        if due || !jobs.is_empty() {
            worker.round(&inner, jobs, if due { Reached::Durable } else { Reached::Buffered });
        }
        worker.push_durable(&inner);
    }
    let mut worker = inner.worker.lock();
    if worker.dirty_since.is_some() {
        worker.round(&inner, Vec::new(), Reached::Durable);
    }
}

impl Inner {
    /// As [`Committer::submit`] for a change that a program waits for: its round is done on this thread if nobody else
    /// writes at the moment and nothing that waits needs the disk.
    pub(crate) async fn submit_here<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Round<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, queued) = self.committer.push(Kind::Normal, run);
        if queued && !self.round_here() {
            self.committer.wake.notify_one();
        }
        answer.await.unwrap_or_else(|_| Err(self.committer.reason()))
    }

    fn round_here(&self) -> bool {
        let Some(mut worker) = self.worker.try_lock() else { return false };
        let _guard = PanicGuard(self);
        let Some(jobs) = self.committer.take_if_quick() else { return false };
        let was_clean = worker.dirty_since.is_none();
        if !jobs.is_empty() {
            worker.round(self, jobs, Reached::Buffered);
        }
        if was_clean && worker.dirty_since.is_some() {
            // The thread has no deadline yet.
            self.committer.nudge();
        }
        true
    }
}

impl Worker {
    fn deadline(&self, inner: &Inner) -> Option<Instant> {
        let durable = self.dirty_since.map(|since| since + inner.options.durable_interval);
        let push = (self.pushed_order < inner.durable_order()).then(|| self.last_push + PUSH_INTERVAL);
        durable.into_iter().chain(push).min()
    }

    fn round(&mut self, inner: &Inner, jobs: Vec<Job>, mut needed: Reached) {
        if inner.committer.trouble().is_some() {
            // Dropping a job tells its caller, who asks for the reason.
            self.dirty_since = None;
            return;
        }
        let Some(store) = inner.store() else { return };
        let mut batch = match store.begin() {
            Ok(batch) => batch,
            Err(error) => {
                self.fail(inner, &error.into());
                return;
            }
        };
        let changed = !jobs.is_empty();
        let begin = Instant::now();
        let mut finishes = Vec::with_capacity(jobs.len());
        let mut round =
            Round { batch: &mut batch, ledger: &mut self.ledger, disk_full: inner.disk.is_full(), failure: None };
        let mut jobs = jobs.into_iter();
        while round.failure.is_none() && (finishes.is_empty() || begin.elapsed() < ROUND_MAX) {
            let Some(job) = jobs.next() else { break };
            needed = needed.max(job.kind.needs());
            finishes.push((job.run)(&mut round));
        }
        let failure = round.failure.take();
        inner.committer.put_back(jobs);
        let outcome = match failure {
            Some(error) => Err(CommitError::Metadata(error)),
            None => commit(inner, &store, batch, needed),
        };
        inner.leases.with(crate::leases::Table::unpin_all);
        match outcome {
            Ok(outcome) => {
                let durable = outcome.reached == Reached::Durable;
                self.dirty_since = if durable { None } else { self.dirty_since.or(changed.then(Instant::now)) };
                inner.committed(outcome);
                for finish in finishes {
                    finish(Ok(()));
                }
            }
            Err(error) => {
                self.fail(inner, &error);
                let message = inner.committer.trouble().unwrap_or_else(|| error.to_string());
                let failure = Failure { errno: Errno::EIO, message };
                for finish in finishes {
                    finish(Err(&failure));
                }
            }
        }
    }

    /// Tells sessions what is durable, not too often.
    fn push_durable(&mut self, inner: &Inner) {
        let order = inner.durable_order();
        if order > self.pushed_order && self.last_push.elapsed() >= PUSH_INTERVAL {
            self.pushed_order = order;
            self.last_push = Instant::now();
            inner.sessions.push_to_all(&Push::Durable { order });
        }
    }

    /// Writes nothing any more. Whoever was superseded serves nothing any more either: what it would answer may be old.
    fn fail(&mut self, inner: &Inner, error: &CommitError) {
        self.dirty_since = None;
        if matches!(error, CommitError::Metadata(StoreError::Superseded)) {
            tracing::error!(volume = %inner.id, "another server has opened this volume; it is served here no longer");
            inner.committer.poison(error.to_string());
            inner.begin_closing();
            inner.sessions.all().iter().for_each(|session| session.cut());
            return;
        }
        tracing::error!(volume = %inner.id, %error, "writing to this volume has failed; it takes no more changes");
        inner
            .committer
            .poison(format!("writing has failed and was stopped: {error}; mend the disk, then restart the server"));
    }
}

/// Why a round could not be committed.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Metadata(#[from] StoreError),
    #[error(transparent)]
    Change(#[from] ApplyError),
    #[error(transparent)]
    Blobs(#[from] ChunkError),
}

fn commit(inner: &Inner, store: &VolumeStore, batch: Batch, needed: Reached) -> Result<CommitOutcome, CommitError> {
    if needed == Reached::Attached
        && let Some(tails) = inner.blob_store.take_tails(LOGGED_MAX)
    {
        let outcome = batch.commit(Durability::DurableWith(&tails))?;
        inner.blobs.committed();
        if outcome.reached >= Reached::Attached {
            inner.counters.commits_logged.add(1);
            return Ok(outcome);
        }
        // The log is full.
        let rest = store.begin()?;
        let CommitOutcome { reached, .. } = commit_durably(inner, rest)?;
        return Ok(CommitOutcome { reached, ..outcome });
    }
    if needed != Reached::Buffered || batch.must_be_durable() {
        return commit_durably(inner, batch);
    }
    let outcome = batch.commit(Durability::Buffered)?;
    inner.blobs.committed();
    Ok(outcome)
}

/// File bytes are durable before the metadata that point at them.
fn commit_durably(inner: &Inner, mut batch: Batch) -> Result<CommitOutcome, CommitError> {
    let synced = inner.blob_store.sync()?;
    for (pack, length) in inner.blobs.durable_lengths(synced) {
        batch.set_pack_durable_length(pack, length)?;
    }
    let outcome = batch.commit(Durability::Durable)?;
    inner.blobs.committed();
    Ok(outcome)
}
