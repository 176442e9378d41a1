//! The journal: changes that were made here first, under exclusive leases, on their way to the server.
//!
//! Whoever makes a change enters it while the nodes that it concerns are locked, so that the order of entries is the
//! order in which programs saw them happen. One task sends them, many in one message, and sends the next message when the
//! last one is answered: then what the server has applied is always a beginning of what was entered, whatever is lost
//! and whoever restarts. Entries leave about [`VolumeOptions::flush_delay`](crate::volume::VolumeOptions) after the first
//! of them, sooner when there are many, at once when somebody waits.
//!
//! Content goes by the same way: its bytes are sent beforehand, and the change that makes them a file's content is an entry
//! like any other. A file with buffered content that is renamed or linked brings it along ([`Entry::content`]), so that
//! after a crash its new name never leads to less than what was written before. An `fsync` of little content is an entry
//! without a change: its bytes, what is ahead of it, and the request to flush all that leave together, without a pause.
//!
//! A change that the server refuses although a lease covered it (the lease was lost with the session) is undone by
//! forgetting what is known here of its nodes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cairn_types::{Errno, LeaseMode, MetaOp, OpReply};
use cairn_wire::BLOBS_IN_ORDER_MAX;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::flush::{Claim, claim_locked};
use crate::error::{Error, ErrorKind, FsResult};
use crate::node::{Life, Node, NodeState};
use crate::overlay::Freeze;
use crate::session::{JOURNAL_OPS_MAX, JOURNAL_WEIGHT_MAX};
use crate::stats::add;
use crate::volume::Shared;

/// Entries beyond which they are sent without delay.
const SEND_SOON: usize = 512;
/// Entries beyond which whoever wants to make another waits.
const FULL: usize = 16 * 1024;
/// A change on its way.
pub(crate) struct Entry {
    /// `None`: nothing but its content, and what waits for stable storage.
    pub op: Option<MetaOp>,
    /// Nodes that it has changed here; counted there until it is answered.
    pub nodes: Vec<Arc<Node>>,
    /// It makes a node, for which room was drawn.
    pub makes_node: bool,
    /// Content that must be at the server before it.
    pub content: Option<Claim>,
    /// Of the session whose leases cover it.
    pub generation: u64,
    /// Whoever waits for the answer.
    pub reply: Option<oneshot::Sender<FsResult<OpReply>>>,
    /// Whoever waits until it, and all before it, is on stable storage; told that, or why its content could not be sent.
    pub durable: Option<oneshot::Sender<FsResult<()>>>,
}

impl Entry {
    fn weight(&self) -> usize {
        self.op.as_ref().map_or(0, MetaOp::message_bytes)
    }
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// When the first of them is due.
    due: Option<Instant>,
    hurry: bool,
    /// Entries so far.
    entered: u64,
    /// Entries that were answered; they are in order.
    answered: u64,
}

pub(crate) struct Journal {
    delay: Duration,
    queue: Mutex<Queue>,
    /// Told when something is due.
    wake: Notify,
    /// Told when entries were answered.
    progress: Notify,
}

impl Journal {
    pub(crate) fn new(delay: Duration) -> Self {
        Journal { delay, queue: Mutex::default(), wake: Notify::new(), progress: Notify::new() }
    }

    /// Enters a change. Called with the nodes locked that it concerns.
    pub(crate) fn enter(&self, entry: Entry) {
        let mut queue = self.queue.lock();
        queue.entered += 1;
        let hurry = entry.reply.is_some() || entry.durable.is_some();
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
    pub(crate) fn len(&self) -> u64 {
        let queue = self.queue.lock();
        queue.entered - queue.answered
    }

    fn is_full(&self) -> bool {
        self.len() >= FULL as u64
    }

    /// What is entered is due now.
    pub(crate) fn hurry(&self) {
        self.queue.lock().hurry = true;
        self.wake.notify_one();
    }

    /// Takes what fits one message, if it is due, or the time until it is (`None` if there is nothing).
    fn take(&self) -> Result<Vec<Entry>, Option<Duration>> {
        let mut queue = self.queue.lock();
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
            weight += next.weight();
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

    fn note_answered(&self, count: usize) {
        self.queue.lock().answered += count as u64;
        self.progress.notify_waiters();
    }
}

impl Shared {
    /// Task: sends entries for as long as the mount lives.
    pub(crate) async fn run_journal(self: Arc<Self>) {
        while !self.writeback.is_stopped() {
            let wake = self.journal.wake.notified();
            match self.journal.take() {
                Ok(batch) => {
                    let count = batch.len();
                    self.send_batch(batch).await;
                    self.journal.note_answered(count);
                }
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

    pub(super) fn entry_answered(self: &Arc<Self>, entry: Entry, outcome: FsResult<OpReply>) {
        if entry.makes_node {
            self.room.settle_node(true);
        }
        // Content is taken over by whoever sent it.
        if !entry.nodes.is_empty() {
            match &outcome {
                Ok(reply) => self.absorb(&[], &reply.attrs),
                Err(error) => self.forget_refused(&entry, error),
            }
        }
        let names = entry.op.as_ref().map_or([None, None], MetaOp::names);
        for node in &entry.nodes {
            let mut state = node.lock();
            state.end_change(self.chunk_size);
            if let Some(cache) = state.directory_mut() {
                for (_, name) in names.iter().flatten().filter(|(directory, _)| *directory == node.ino) {
                    cache.change_answered(name);
                }
            }
            drop(state);
            node.changed.notify_waiters();
        }
        if let Some(claim) = entry.content {
            self.release_claim(&mut Some(claim));
        }
        if let Some(reply) = entry.reply {
            // Who no longer waits has given up.
            let _ = reply.send(outcome);
        }
    }

    /// What was made here ahead of the server did not happen there.
    fn forget_refused(self: &Arc<Self>, entry: &Entry, error: &Error) {
        add(&self.counters.journal_refused, 1);
        let Some(op) = &entry.op else { return };
        let what = match op.names() {
            [Some((_, name)), _] => name.to_string(),
            _ => format!("{op:?}").chars().take(40).collect(),
        };
        if error.kind() != ErrorKind::Closed {
            tracing::error!(name = what, ?error, "a buffered change could not be made at the server and is lost");
        }
        let made = op.made_node();
        for node in &entry.nodes {
            let lost = if made == Some(node.ino) { self.take_lost(node) } else { None };
            node.lock().undo_change(made == Some(node.ino));
            self.save_in_background(lost.into_iter().collect());
            if let Some(kernel) = self.kernel.get() {
                kernel.expire_entries();
                kernel.invalidate_attr(node.ino);
            }
        }
    }

    /// Waits until whoever makes changes may go on.
    pub(crate) async fn wait_for_journal_space(&self) -> FsResult<()> {
        if !self.journal.is_full() {
            return Ok(());
        }
        self.journal.hurry();
        self.wait_for_journal(|journal| !journal.is_full()).await
    }

    /// Waits until every change that was made here so far is at the server.
    ///
    /// # Errors
    /// `EIO` if the server stays away, `ETIMEDOUT` if it does not answer: the changes are still on their way.
    pub(crate) async fn flush_journal(&self) -> FsResult<()> {
        let target = {
            let queue = self.journal.queue.lock();
            if queue.answered == queue.entered {
                return Ok(());
            }
            queue.entered
        };
        self.journal.hurry();
        self.wait_for_journal(|journal| journal.queue.lock().answered >= target).await
    }

    async fn wait_for_journal(&self, reached: impl Fn(&Journal) -> bool) -> FsResult<()> {
        let limit = self.sleep(self.session.answer_limit());
        let gave_up = self.session.gave_up();
        tokio::pin!(limit, gave_up);
        loop {
            let progress = self.journal.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if reached(&self.journal) {
                return Ok(());
            }
            tokio::select! {
                () = progress => {}
                error = &mut gave_up => return Err(error),
                () = &mut limit => return Err(Errno::ETIMEDOUT.into()),
            }
        }
    }

    /// Waits until what was changed of these nodes is at the server, if it is to be asked about them.
    pub(crate) async fn settle(&self, nodes: &[&Arc<Node>]) -> FsResult<()> {
        if nodes.iter().any(|node| node.lock().is_ahead()) { self.flush_journal().await } else { Ok(()) }
    }

    /// Sends what is buffered of a file, if that is little, behind everything that was entered before, and waits until all
    /// of it is on stable storage. `None`: that is not how this file is to be synced, or there is nothing to send.
    ///
    /// # Errors
    /// As [`Shared::flush_node`], [`Shared::flush_journal`] and [`Session::sync`](crate::session::Session::sync).
    pub(crate) async fn sync_little(self: &Arc<Self>, node: &Arc<Node>) -> Option<FsResult<()>> {
        let (durable, outcome) = oneshot::channel();
        {
            let mut guard = node.lock();
            let state = &mut *guard;
            let mut content = None;
            if let Some(file) = state.file() {
                let little = file.overlay().bytes() <= BLOBS_IN_ORDER_MAX as u64;
                if !file.is_quiet() || !little {
                    return None;
                }
                if !file.is_clean() {
                    content = Some(claim_locked(node, state, Freeze::All)?);
                }
            }
            if content.is_none() && self.journal.len() == 0 {
                return None;
            }
            let generation = self.session.generation();
            let durable = Some(durable);
            let entry =
                Entry { op: None, nodes: Vec::new(), makes_node: false, content, generation, reply: None, durable };
            self.journal.enter(entry);
        }
        let limit = self.sleep(self.session.answer_limit());
        Some(tokio::select! {
            biased;
            outcome = outcome => outcome.unwrap_or(Err(Errno::EIO.into())),
            error = self.session.gave_up() => Err(error),
            () = limit => Err(Errno::ETIMEDOUT.into()),
        })
    }

    /// Sends content changes behind everything that was entered before, and waits for their answers.
    pub(crate) async fn journal_content(&self, ops: Vec<MetaOp>) -> Vec<FsResult<OpReply>> {
        let generation = self.session.generation();
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            let (sender, receiver) = oneshot::channel();
            replies.push(receiver);
            self.journal.enter(Entry {
                op: Some(op),
                nodes: Vec::new(),
                makes_node: false,
                content: None,
                generation,
                reply: Some(sender),
                durable: None,
            });
        }
        let mut results = Vec::with_capacity(replies.len());
        for reply in replies {
            results.push(reply.await.unwrap_or(Err(Errno::ESHUTDOWN.into())));
        }
        results
    }

    /// The session is over: what was entered under its leases and not sent will not be.
    pub(crate) fn drop_journal(self: &Arc<Self>) {
        let entries = {
            let mut queue = self.journal.queue.lock();
            queue.due = None;
            std::mem::take(&mut queue.entries)
        };
        let count = entries.len();
        for mut entry in entries {
            if let Some(claim) = entry.content.take() {
                self.release_claim(&mut Some(claim));
            }
            self.entry_answered(entry, Err(Error::FENCED));
        }
        self.journal.note_answered(count);
    }
}

impl Shared {
    /// Whether what is said here of a node may be changed ahead of the server.
    pub(crate) fn may_change_here(&self, state: &NodeState) -> bool {
        self.usable(state, LeaseMode::Exclusive)
            && !state.is_recalled()
            && state.life() == Life::Named
            && !self.closing.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::Ino;

    use super::*;

    fn entry(number: u64) -> Entry {
        let op = Some(MetaOp::ReleaseOrphan { ino: Ino(number) });
        Entry { op, nodes: Vec::new(), makes_node: false, content: None, generation: 0, reply: None, durable: None }
    }

    fn numbers(batch: &[Entry]) -> Vec<u64> {
        let number = |entry: &Entry| match entry.op {
            Some(MetaOp::ReleaseOrphan { ino }) => ino.0,
            _ => 0,
        };
        batch.iter().map(number).collect()
    }

    #[test]
    fn entries_leave_in_order_in_messages_that_fit() {
        let journal = Journal::new(Duration::from_secs(100));
        assert!(matches!(journal.take(), Err(None)));
        (0..5000).for_each(|number| journal.enter(entry(number)));
        let mut seen = Vec::new();
        while let Ok(batch) = journal.take() {
            assert!(!batch.is_empty() && batch.len() <= JOURNAL_OPS_MAX);
            assert!(batch.iter().map(Entry::weight).sum::<usize>() <= JOURNAL_WEIGHT_MAX);
            seen.extend(numbers(&batch));
            journal.hurry();
        }
        assert_eq!(seen, (0..5000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_few_entries_wait_for_company_unless_somebody_waits_for_them() {
        let journal = Journal::new(Duration::from_secs(100));
        journal.enter(entry(1));
        assert!(matches!(journal.take(), Err(Some(_))));
        journal.hurry();
        assert_eq!(journal.take().map(|batch| numbers(&batch)).ok(), Some(vec![1]));
        assert_eq!(journal.len(), 1, "not answered yet");
        journal.note_answered(1);
        assert_eq!(journal.len(), 0);
        let (reply, _answer) = oneshot::channel();
        journal.enter(entry(2));
        journal.enter(Entry { reply: Some(reply), ..entry(3) });
        assert_eq!(journal.take().map(|batch| numbers(&batch)).ok(), Some(vec![2, 3]));
        let soon = Journal::new(Duration::ZERO);
        soon.enter(entry(4));
        assert!(soon.take().is_ok());
    }
}
