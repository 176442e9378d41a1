//! What is buffered in all, and which files are due when.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_runtime::MemoryShare;
use cairn_types::{Errno, Ino};
use tokio::sync::Notify;

use crate::error::FsResult;
use crate::lock_order;
use crate::node::Node;

/// Most files that are flushed together.
const GROUP_FILES: usize = 2048;

/// Files with buffered content.
pub(crate) struct DirtyFiles {
    /// Bytes beyond which writers wait.
    budget: MemoryShare,
    delay: Duration,
    dirty: AtomicU64,
    queue: Mutex<VecDeque<(Instant, Ino)>, lock_order::DirtyFiles>,
    /// Told when the queue has a new head or is to be emptied at once.
    pub(super) wake: Notify,
    /// Told when less is buffered.
    space: Notify,
    /// Told when a file that is being flushed has filled more chunks.
    pub filled: Notify,
    /// Everything in the queue is due, whatever its time.
    hurry: AtomicBool,
    stopped: AtomicBool,
}

impl DirtyFiles {
    pub(crate) fn new(budget: MemoryShare, delay: Duration) -> Self {
        DirtyFiles {
            budget,
            delay,
            dirty: AtomicU64::new(0),
            queue: Mutex::default(),
            wake: Notify::new(),
            space: Notify::new(),
            filled: Notify::new(),
            hurry: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
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

    pub(super) fn enqueue_in(&self, ino: Ino, delay: Duration) {
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
    pub(super) fn take_due(&self) -> Result<Vec<Ino>, Option<Duration>> {
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

    /// Waits until writers may go on.
    pub(super) async fn wait_for_space(&self, limit: impl Future<Output = ()>) -> FsResult<()> {
        tokio::pin!(limit);
        loop {
            let space = self.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            if !self.is_full() {
                return Ok(());
            }
            self.hurry.store(true, Ordering::Relaxed);
            self.wake.notify_one();
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
        let writeback = DirtyFiles::new(share(100), Duration::from_secs(100));
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
        let writeback = DirtyFiles::new(share(100), Duration::from_secs(100));
        for (ino, seconds) in [(1, 0), (2, 20), (3, 40), (4, 80)] {
            writeback.enqueue_in(Ino(ino), Duration::from_secs(seconds));
        }
        assert_eq!(writeback.take_due(), Ok(vec![Ino(1), Ino(2), Ino(3)]));
        assert!(matches!(writeback.take_due(), Err(Some(_))));
    }
}
