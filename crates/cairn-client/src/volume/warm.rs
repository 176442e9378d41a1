//! `cairn warm`: bringing ranges of files into the disk cache, asked for by an extended attribute.
//!
//! The attribute is asked for again and again: the first time begins a job, later ones tell how it is, and each answer is
//! given at once, so that no request of the kernel waits for a server or a disk. An attribute, and no socket, because it goes
//! where the file goes (into containers, too, which see neither the sockets nor the processes outside), and because whoever may
//! read the file may ask. A job that nobody asks about any more, because the command was ended, ends as well.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::{Errno, Ino, LeaseMode};
use tokio::task::AbortHandle;

use super::content::Content;
use super::remote::Remote;
use crate::cache::disk::DiskCache;
use crate::cache::fetch::{Blocks, FetchContext, Want};
use crate::error::FsResult;
use crate::lock_order;
use crate::stats::add;

/// `cairn.warm:OFFSET:LENGTH`, an extended attribute of every file that is in no listing: who reads it has the mount bring
/// that range into the disk cache. Every answer comes at once: `running` until that is done, then, once,
/// `BYTES_THERE/BYTES_IN_ALL/CACHE_LIMIT`; `none` on a mount without a disk cache. `EAGAIN` says that too many ranges are under
/// way. What is not asked about for five seconds is given up.
pub const WARM_ATTRIBUTE: &str = "cairn.warm";

/// Blocks that are fetched together: few enough to wait in the disk cache's queue.
const RUN: usize = 64;
/// How long the disk may take for one run.
const DISK_LIMIT: Duration = Duration::from_secs(30);
/// Times that what was evicted or skipped meanwhile is fetched again.
const ROUNDS: usize = 3;
/// Jobs at once; each has at most a run of blocks on its way.
const JOBS_MAX: usize = 64;
/// How long a job may take.
const JOB_LIMIT: Duration = Duration::from_secs(600);
/// For how long a job goes on, or its outcome is kept, without being asked about.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer while a job is under way.
const RUNNING: Bytes = Bytes::from_static(b"running");
/// The answer of a mount without a disk cache.
const NONE: Bytes = Bytes::from_static(b"none");

/// The jobs of a volume. They end with this.
#[derive(Debug, Default)]
struct WarmJobs(Mutex<HashMap<Place, Started>, lock_order::WarmJobs>);

/// A range of a file.
type Place = (Ino, u64, u64);

/// A job in the table, which takes its task with it when it leaves.
#[derive(Debug)]
struct Started {
    job: Arc<Job>,
    task: AbortHandle,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Job {
    /// When somebody last asked about it.
    asked: Mutex<Instant, lock_order::WarmAsked>,
    outcome: OnceLock<FsResult<Bytes>>,
}

impl Job {
    /// Waits until nobody has asked for a while.
    async fn forsaken(&self) {
        loop {
            let left = PATIENCE.saturating_sub(self.asked.lock().elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl WarmJobs {
    /// Tells how a job is, its outcome once; and begins it with `spawn` if there is none.
    fn ask(&self, place: Place, spawn: impl FnOnce(Arc<Job>) -> AbortHandle) -> FsResult<Bytes> {
        let mut jobs = self.0.lock();
        if let Some(Started { job, .. }) = jobs.get(&place) {
            *job.asked.lock() = Instant::now();
            let Some(outcome) = job.outcome.get().cloned() else { return Ok(RUNNING) };
            jobs.remove(&place);
            return outcome;
        }
        if jobs.len() >= JOBS_MAX {
            return Err(Errno::EAGAIN.into());
        }
        let job = Arc::new(Job { asked: Mutex::new(Instant::now()), outcome: OnceLock::new() });
        let task = spawn(Arc::clone(&job));
        jobs.insert(place, Started { job, task });
        Ok(RUNNING)
    }

    fn forget(&self, place: &Place, ended: &Arc<Job>) {
        let mut jobs = self.0.lock();
        if jobs.get(place).is_some_and(|started| Arc::ptr_eq(&started.job, ended)) {
            jobs.remove(place);
        }
    }
}

/// The range in an attribute's name, if it is one of these.
pub(super) fn range_asked_for(name: &[u8]) -> Option<Range<u64>> {
    let numbers = name.strip_prefix(WARM_ATTRIBUTE.as_bytes())?.strip_prefix(b":")?;
    let (offset, length) = std::str::from_utf8(numbers).ok()?.split_once(':')?;
    let (offset, length): (u64, u64) = (offset.parse().ok()?, length.parse().ok()?);
    Some(offset..offset.checked_add(length)?)
}

/// Warming: knows how files are read, and the disk cache.
pub(super) struct Warm {
    jobs: WarmJobs,
    blocks: Arc<Blocks>,
    remote: Arc<Remote>,
    content: Arc<Content>,
    fetching: FetchContext,
}

impl Warm {
    pub(super) fn new(blocks: Arc<Blocks>, remote: Arc<Remote>, content: Arc<Content>) -> Self {
        let fetching = remote.fetching();
        Warm { jobs: WarmJobs::default(), blocks, remote, content, fetching }
    }

    /// Ends all jobs.
    pub(super) fn stop(&self) {
        self.jobs.0.lock().clear();
    }

    /// The value of the attribute for a range, at once: see [`WARM_ATTRIBUTE`].
    ///
    /// # Errors
    /// `EAGAIN` while there are too many other jobs, `ETIMEDOUT` for one that took too long, and what reading gives.
    pub(super) fn ask(self: &Arc<Self>, ino: Ino, range: &Range<u64>) -> FsResult<Bytes> {
        let Some(disk) = self.blocks.disk() else { return Ok(NONE) };
        if range.is_empty() {
            return Ok(format!("0/0/{}", disk.limit()).into());
        }
        let place = (ino, range.start, range.end);
        self.jobs.ask(place, |job| self.remote.runtime.spawn(Arc::clone(self).run_job(place, job)).abort_handle())
    }

    async fn run_job(self: Arc<Self>, place: Place, job: Arc<Job>) {
        let (ino, start, end) = place;
        tokio::select! {
            done = tokio::time::timeout(JOB_LIMIT, self.warm(ino, start..end)) => {
                // It is set here alone.
                let _ = job.outcome.set(done.unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into())));
                job.forsaken().await;
            }
            () = job.forsaken() => tracing::debug!(%ino, "nobody waits for the disk cache any more"),
        }
        self.jobs.forget(&place, &job);
    }

    /// Brings the range into the disk cache and says how much of it is there, of how much, and what the cache holds.
    async fn warm(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> FsResult<Bytes> {
        let Some(disk) = self.blocks.disk() else { return Ok(NONE) };
        let wants = loop {
            self.remote.acquire(ino, LeaseMode::Shared).await?;
            // Another mount may have taken the lease back already; getting it again is limited in time.
            if let Some(wants) = self.content.blobs_of(ino, range.clone()).await? {
                break wants;
            }
        };
        let bytes = |wants: &[Want]| wants.iter().map(|want| u64::from(want.to - want.from)).sum::<u64>();
        let all = bytes(&wants);
        let mut missing = wants;
        for _ in 0..ROUNDS {
            missing.retain(|want| disk.find(*want).is_none());
            for run in missing.chunks(RUN) {
                self.warm_run(run).await?;
            }
            if !self.with_disk(|disk| disk.wait_until_written(DISK_LIMIT)).await {
                break;
            }
        }
        missing.retain(|want| disk.find(*want).is_none());
        let warm = all - bytes(&missing);
        add(&self.remote.counters.bytes_warmed, warm);
        Ok(format!("{warm}/{all}/{}", disk.limit()).into())
    }

    async fn warm_run(self: &Arc<Self>, run: &[Want]) -> FsResult<()> {
        let bytes = run.iter().map(|want| (want.to - want.from) as usize).sum();
        if !self.with_disk(move |disk| disk.wait_for_room(bytes, DISK_LIMIT)).await {
            return Err(Errno::ETIMEDOUT.into());
        }
        let Some(disk) = self.blocks.disk() else { return Ok(()) };
        let mut absent = Vec::new();
        for want in run {
            match self.blocks.cache().part(want.key()) {
                Some(part) if part.slice(want.from, want.to).is_some() => disk.offer(want.key(), part),
                _ => absent.push(*want),
            }
        }
        // What comes from the server is offered to the disk cache as it arrives.
        for fetch in self.blocks.fetch(&self.fetching, &absent) {
            fetch.wait().await?;
        }
        Ok(())
    }

    /// Runs what waits for the disk on a thread that may.
    async fn with_disk(self: &Arc<Self>, wait: impl Fn(&DiskCache) -> bool + Send + 'static) -> bool {
        let shared = Arc::clone(self);
        let waited = self.remote.runtime.spawn_blocking(move || shared.blocks.disk().is_some_and(wait)).await;
        waited.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_which_range() {
        assert_eq!(range_asked_for(b"cairn.warm:10:5"), Some(10..15));
        for other in ["cairn.warm", "cairn.warm:", "cairn.warm:1", "cairn.warm:x:1", "user.cairn.warm:1:1"] {
            assert_eq!(range_asked_for(other.as_bytes()), None);
        }
        assert_eq!(range_asked_for(b"cairn.warm:18446744073709551615:1"), None);
    }
}
