//! Sending buffered content to the server: when (here), how ([`flush`]), as blobs ([`pack`], [`upload`]), in one order with all
//! other buffered changes ([`journal`]); and what happens to content that can no longer be sent ([`recovery`]).
//!
//! A file is flushed about [`VolumeOptions::flush_delay`](crate::volume::VolumeOptions) after a change, sooner when much
//! of it is buffered, when memory runs short, and when somebody waits for it (`fsync`, a recall). When one file is due, those
//! that would be due soon go with it: files made one after the other share requests.

pub(crate) mod flush;
pub(crate) mod journal;
mod pack;
mod recovery;
mod send;
mod upload;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_runtime::MemoryShare;
use cairn_types::{Errno, Ino};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::error::FsResult;
use crate::node::{FileState, Node};
use crate::overlay::Freeze;
use crate::volume::Shared;

/// Dirty bytes of one file beyond which it is flushed without delay.
pub(crate) const FLUSH_SOON: u64 = 4 * 1024 * 1024;
/// Most files that are flushed together.
const GROUP_FILES: usize = 2048;
/// Most bytes, about, that are flushed together.
const GROUP_BYTES: u64 = 64 * 1024 * 1024;
/// Requests with blobs that are under way at once.
const UPLOADS: usize = 8;
/// How long a writer waits for memory; the server gives errors sooner than this.
const SPACE_LIMIT: Duration = Duration::from_secs(120);
/// How long a file waits after a flush that failed for the time being.
const RETRY: Duration = Duration::from_secs(1);

/// What is buffered in all, and which files are due when.
pub(crate) struct WriteBack {
    /// Bytes beyond which writers wait.
    budget: MemoryShare,
    delay: Duration,
    dirty: AtomicU64,
    queue: Mutex<VecDeque<(Instant, Ino)>>,
    /// Told when the queue has a new head or is to be emptied at once.
    wake: Notify,
    /// Told when less is buffered.
    space: Notify,
    /// Told when a file that is being flushed has filled more chunks.
    pub filled: Notify,
    /// Everything in the queue is due, whatever its time.
    hurry: AtomicBool,
    stopped: AtomicBool,
    pub uploads: Semaphore,
    /// Held while access times are on their way.
    pub access_times: tokio::sync::Mutex<()>,
}

impl WriteBack {
    pub(crate) fn new(budget: MemoryShare, delay: Duration) -> Self {
        WriteBack {
            budget,
            delay,
            dirty: AtomicU64::new(0),
            queue: Mutex::default(),
            wake: Notify::new(),
            space: Notify::new(),
            filled: Notify::new(),
            hurry: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            uploads: Semaphore::new(UPLOADS),
            access_times: tokio::sync::Mutex::new(()),
        }
    }

    /// Bytes that are buffered.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Writers must wait.
    pub(crate) fn is_full(&self) -> bool {
        self.dirty() >= self.budget.bytes()
    }

    /// A file's buffered bytes went from `before` to `after`.
    pub(crate) fn adjust(&self, before: u64, after: u64) {
        if after >= before {
            let total = self.dirty.fetch_add(after - before, Ordering::Relaxed) + (after - before);
            if total > self.budget.bytes() / 2 && after > before && !self.hurry.swap(true, Ordering::Relaxed) {
                self.wake.notify_one();
            }
        } else {
            self.dirty.fetch_sub(before - after, Ordering::Relaxed);
            self.space.notify_waiters();
        }
    }

    /// A file has changed and is due after the usual time.
    pub(crate) fn enqueue(&self, node: &Node) {
        self.enqueue_in(node.ino, self.delay);
    }

    fn enqueue_in(&self, ino: Ino, delay: Duration) {
        let mut queue = self.queue.lock();
        let due = Instant::now() + delay;
        // Times nearly always grow; where one does not, its file waits for the one before it.
        queue.push_back((due, ino));
        if queue.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// A file is due now.
    pub(crate) fn hurry(&self, node: &Node) {
        self.queue.lock().push_front((Instant::now(), node.ino));
        self.wake.notify_one();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// No more background flushes.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Files that are due, with those that are due within half of the delay; or the time until the next one is (`None` if the
    /// queue is empty).
    fn take_due(&self) -> Result<Vec<Ino>, Option<Duration>> {
        let hurry = self.hurry.swap(false, Ordering::Relaxed);
        let now = Instant::now();
        let mut queue = self.queue.lock();
        let mut due = Vec::new();
        let limit = match queue.front() {
            Some((time, _)) if *time <= now => now + self.delay / 2,
            _ => now,
        };
        while due.len() < GROUP_FILES {
            match queue.front() {
                Some((time, _)) if hurry || *time <= limit => due.extend(queue.pop_front().map(|(_, ino)| ino)),
                _ => break,
            }
        }
        if due.is_empty() { Err(queue.front().map(|(time, _)| time.saturating_duration_since(now))) } else { Ok(due) }
    }
}

impl Shared {
    /// Flushes what is due, for as long as the mount lives.
    pub(crate) async fn run_writeback(self: Arc<Self>) {
        while !self.writeback.is_stopped() {
            let wake = self.writeback.wake.notified();
            match self.writeback.take_due() {
                Ok(due) => self.flush_due(due),
                Err(wait) => {
                    let wait = wait.unwrap_or(Duration::from_secs(60));
                    tokio::select! {
                        () = wake => {}
                        () = self.sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn flush_due(self: &Arc<Self>, due: Vec<Ino>) {
        let mut group = Vec::new();
        let mut bytes = 0;
        for ino in due {
            let Some(node) = self.table.get(ino) else { continue };
            let size = {
                let mut state = node.lock();
                let Some(file) = state.file_mut() else { continue };
                file.unlist();
                if file.is_clean() {
                    continue;
                }
                if !file.is_quiet() {
                    file.enlist();
                    drop(state);
                    self.writeback.enqueue_in(ino, Duration::from_millis(100));
                    continue;
                }
                file.overlay().bytes()
            };
            bytes += size;
            group.push(node);
            if bytes >= GROUP_BYTES {
                self.spawn_flush(std::mem::take(&mut group), Freeze::All);
                bytes = 0;
            }
        }
        if !group.is_empty() {
            self.spawn_flush(group, Freeze::All);
        }
    }

    fn spawn_flush(self: &Arc<Self>, nodes: Vec<Arc<Node>>, which: Freeze) {
        let mut claimed = Vec::with_capacity(nodes.len());
        for node in nodes {
            match flush::claim(&node, which) {
                Some(claim) => claimed.push(claim.following()),
                None => self.requeue(&node),
            }
        }
        if !claimed.is_empty() {
            let shared = Arc::clone(self);
            self.runtime.spawn(async move { shared.flush_claimed(claimed).await });
        }
    }

    /// Flushes a file without anybody waiting for it.
    pub(crate) fn flush_in_background(self: &Arc<Self>, node: &Arc<Node>, which: Freeze) {
        self.spawn_flush(vec![Arc::clone(node)], which);
    }

    /// Sees to it that a file which has something to flush is in the queue.
    pub(crate) fn requeue(&self, node: &Node) {
        let queue = node.lock().file_mut().is_some_and(|file| !file.is_clean() && file.enlist());
        if queue {
            self.writeback.enqueue(node);
        }
    }

    /// A flush failed for the time being: it is tried again.
    pub(crate) fn retry_later(&self, node: &Node) {
        let queue = node.lock().file_mut().is_some_and(FileState::enlist);
        if queue {
            self.writeback.enqueue_in(node.ino, RETRY);
        }
    }

    /// Waits until writers may go on.
    pub(crate) async fn wait_for_space(&self) -> FsResult<()> {
        let limit = self.sleep(SPACE_LIMIT);
        tokio::pin!(limit);
        loop {
            let space = self.writeback.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            if !self.writeback.is_full() {
                return Ok(());
            }
            self.writeback.hurry.store(true, Ordering::Relaxed);
            self.writeback.wake.notify_one();
            tokio::select! {
                () = space => {}
                () = &mut limit => return Err(Errno::EIO.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_runtime::{MemoryBudget, MemoryUse};

    use super::*;

    fn share(bytes: u64) -> MemoryShare {
        MemoryBudget::with_limit(8 * bytes).take(MemoryUse::WriteBuffer, bytes)
    }

    #[test]
    fn files_are_due_in_time_or_in_a_hurry() {
        let writeback = WriteBack::new(share(100), Duration::from_secs(100));
        assert_eq!(writeback.take_due(), Err(None));
        writeback.enqueue_in(Ino(7), Duration::from_secs(100));
        assert!(matches!(writeback.take_due(), Err(Some(_))));
        writeback.adjust(0, 60);
        assert_eq!(writeback.take_due(), Ok(vec![Ino(7)]));
        writeback.adjust(0, 50);
        assert!(writeback.is_full());
        writeback.adjust(110, 20);
        assert!(!writeback.is_full());
    }

    #[test]
    fn files_that_are_due_soon_go_with_one_that_is_due() {
        let writeback = WriteBack::new(share(100), Duration::from_secs(100));
        for (ino, seconds) in [(1, 0), (2, 20), (3, 40), (4, 80)] {
            writeback.enqueue_in(Ino(ino), Duration::from_secs(seconds));
        }
        assert_eq!(writeback.take_due(), Ok(vec![Ino(1), Ino(2), Ino(3)]));
        assert!(matches!(writeback.take_due(), Err(Some(_))));
    }
}
