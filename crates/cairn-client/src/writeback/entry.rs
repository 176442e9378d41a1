//! Entries of the journal and the queue in which they wait. It sends nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{MetaOp, OpReply};
use tokio::sync::{Notify, oneshot};

use super::claim::FlushClaim;
use crate::error::FsResult;
use crate::lock_order;
use crate::node::Node;
use crate::session::{JOURNAL_OPS_MAX, JOURNAL_WEIGHT_MAX};

/// Entries beyond which they are sent without delay.
const SEND_SOON: usize = 512;
/// Entries beyond which whoever wants to make another waits.
const FULL: usize = 16 * 1024;

/// What is on its way.
pub(super) enum Entry {
    /// A change that was made here first. If it makes a node, space was reserved for that.
    Change {
        op: MetaOp,
        /// Nodes that it has changed here; counted there until it is answered.
        nodes: Vec<Arc<Node>>,
        /// Content that must be at the server before it.
        content: Option<FlushClaim>,
    },
    /// A change that is the server's to make, and whoever waits for the answer.
    Awaited { op: MetaOp, reply: oneshot::Sender<FsResult<OpReply>> },
    /// No change: little content, and whoever waits until it, and all before it, is on stable storage. Told that, or why
    /// the content could not be sent.
    Sync { content: Option<FlushClaim>, durable: oneshot::Sender<FsResult<()>> },
}

/// An entry in its place.
pub(super) struct Queued {
    /// Of the session whose leases cover it.
    pub generation: u64,
    pub entry: Entry,
}

impl Entry {
    pub(super) fn op(&self) -> Option<&MetaOp> {
        match self {
            Entry::Change { op, .. } | Entry::Awaited { op, .. } => Some(op),
            Entry::Sync { .. } => None,
        }
    }

    pub(super) fn content(&self) -> Option<&FlushClaim> {
        match self {
            Entry::Change { content, .. } | Entry::Sync { content, .. } => content.as_ref(),
            Entry::Awaited { .. } => None,
        }
    }

    pub(super) fn is_sync(&self) -> bool {
        matches!(self, Entry::Sync { .. })
    }

    /// Somebody waits for it.
    fn is_awaited(&self) -> bool {
        !matches!(self, Entry::Change { .. })
    }

    /// Bytes in a message, about.
    fn weight(&self) -> usize {
        self.op().map_or(0, MetaOp::message_bytes)
    }
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Queued>,
    /// When the first of them is due.
    due: Option<Instant>,
    hurry: bool,
    /// Entries so far.
    entered: u64,
    /// Entries that were answered; they are in order.
    answered: u64,
}

pub(super) struct Queue {
    delay: Duration,
    waiting: Mutex<Waiting, lock_order::JournalQueue>,
    /// Told when something is due.
    pub(super) wake: Notify,
    /// Told when entries were answered.
    pub(super) progress: Notify,
}

impl Queue {
    pub(super) fn new(delay: Duration) -> Self {
        Queue { delay, waiting: Mutex::default(), wake: Notify::new(), progress: Notify::new() }
    }

    /// Enters a change. Called with the nodes locked that it concerns.
    pub(super) fn enter(&self, entry: Queued) {
        let mut queue = self.waiting.lock();
        queue.entered += 1;
        let hurry = entry.entry.is_awaited();
        queue.entries.push_back(entry);
        queue.hurry |= hurry;
        let first = queue.due.is_none();
        if first {
            queue.due = Some(Instant::now() + self.delay);
        }
        if hurry || first || queue.entries.len() == SEND_SOON {
            self.wake.notify_one();
        }
    }

    /// Entries that are not answered.
    pub(super) fn len(&self) -> u64 {
        let queue = self.waiting.lock();
        queue.entered - queue.answered
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= FULL as u64
    }

    /// What is entered is due now.
    pub(super) fn hurry(&self) {
        self.waiting.lock().hurry = true;
        self.wake.notify_one();
    }

    /// Takes what fits one message, if it is due, or the time until it is (`None` if there is nothing).
    pub(super) fn take(&self) -> Result<Vec<Queued>, Option<Duration>> {
        let mut queue = self.waiting.lock();
        let Some(due) = queue.due else {
            queue.hurry = false;
            return Err(None);
        };
        let left = due.saturating_duration_since(Instant::now());
        if !queue.hurry && queue.entries.len() < SEND_SOON && !left.is_zero() {
            return Err(Some(left));
        }
        let mut batch = Vec::new();
        let mut weight = 0;
        while let Some(next) = queue.entries.front() {
            weight += next.entry.weight();
            if !batch.is_empty() && (batch.len() == JOURNAL_OPS_MAX || weight > JOURNAL_WEIGHT_MAX) {
                break;
            }
            batch.extend(queue.entries.pop_front());
        }
        if queue.entries.is_empty() {
            queue.due = None;
            queue.hurry = false;
        }
        Ok(batch)
    }

    pub(super) fn note_answered(&self, count: usize) {
        self.waiting.lock().answered += count as u64;
        self.progress.notify_waiters();
    }

    /// Number of the newest entry, if not all are answered.
    pub(super) fn newest(&self) -> Option<u64> {
        let queue = self.waiting.lock();
        (queue.answered < queue.entered).then_some(queue.entered)
    }

    /// Whether all entries up to number `target` are answered.
    pub(super) fn has_reached(&self, target: u64) -> bool {
        self.waiting.lock().answered >= target
    }

    /// Takes out everything that is not under way.
    pub(super) fn drain(&self) -> VecDeque<Queued> {
        let mut queue = self.waiting.lock();
        queue.due = None;
        std::mem::take(&mut queue.entries)
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::Ino;

    use super::*;

    fn entry(number: u64) -> Queued {
        let op = MetaOp::ReleaseOrphan { ino: Ino(number) };
        Queued { generation: 0, entry: Entry::Change { op, nodes: Vec::new(), content: None } }
    }

    fn numbers(batch: &[Queued]) -> Vec<u64> {
        let number = |queued: &Queued| match queued.entry.op() {
            Some(MetaOp::ReleaseOrphan { ino }) => ino.0,
            _ => 0,
        };
        batch.iter().map(number).collect()
    }

    #[test]
    fn entries_leave_in_order_in_messages_that_fit() {
        let journal = Queue::new(Duration::from_secs(100));
        assert!(matches!(journal.take(), Err(None)));
        (0..5000).for_each(|number| journal.enter(entry(number)));
        let mut seen = Vec::new();
        while let Ok(batch) = journal.take() {
            assert!(!batch.is_empty() && batch.len() <= JOURNAL_OPS_MAX);
            assert!(batch.iter().map(|queued| queued.entry.weight()).sum::<usize>() <= JOURNAL_WEIGHT_MAX);
            seen.extend(numbers(&batch));
            journal.hurry();
        }
        assert_eq!(seen, (0..5000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_few_entries_wait_for_company_unless_somebody_waits_for_them() {
        let journal = Queue::new(Duration::from_secs(100));
        journal.enter(entry(1));
        assert!(matches!(journal.take(), Err(Some(_))));
        journal.hurry();
        assert_eq!(journal.take().map(|batch| numbers(&batch)).ok(), Some(vec![1]));
        assert_eq!(journal.len(), 1, "not answered yet");
        journal.note_answered(1);
        assert_eq!(journal.len(), 0);
        let (reply, _answer) = oneshot::channel();
        journal.enter(entry(2));
        let op = MetaOp::ReleaseOrphan { ino: Ino(3) };
        journal.enter(Queued { generation: 0, entry: Entry::Awaited { op, reply } });
        assert_eq!(journal.take().map(|batch| numbers(&batch)).ok(), Some(vec![2, 3]));
        let soon = Queue::new(Duration::ZERO);
        soon.enter(entry(4));
        assert!(soon.take().is_ok());
    }
}
