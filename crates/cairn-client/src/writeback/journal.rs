//! The journal: changes that were made here first, under exclusive leases, on their way to the server.
//!
//! Whoever makes a change enters it while the nodes that it concerns are locked, so that the order of entries is the
//! order in which programs saw them happen. One task sends them, many in one message, and sends the next message when the
//! last one is answered: then what the server has applied is always a beginning of what was entered, whatever is lost
//! and whoever restarts. Entries leave about [`VolumeOptions::flush_delay`](crate::volume::VolumeOptions) after the first
//! of them, sooner when there are many, at once when somebody waits.
//!
//! Content goes by the same way: its bytes are sent beforehand, and the change that makes them a file's content is an entry
//! like any other. A file with buffered content that is renamed or linked brings it along ([`Bringing`]), so that
//! after a crash its new name never leads to less than what was written before. An `fsync` of little content is an entry
//! without a change: its bytes, what is ahead of it, and the request to flush all that leave together, without a pause.
//!
//! A change that the server refuses although a lease covered it (the lease was lost with the session) is undone by
//! forgetting what is known here of its nodes.

use std::sync::Arc;
use std::time::Duration;

use cairn_types::{Errno, LeaseMode, MetaOp, OpReply};
use cairn_wire::BLOBS_IN_ORDER_MAX;
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

use super::buffer::WriteBuffer;
use super::claim::claim_locked;
use super::entry::{Entry, Queue, Queued};
use super::upload::Uploads;
use crate::error::{Error, ErrorKind, FsResult};
use crate::node::{Node, NodeState};
use crate::node_cache::{Kernel, NodeCache};
use crate::overlay::Freeze;
use crate::reservation::SpaceReservation;
use crate::session::Session;
use crate::stats::{Counters, add};
use crate::timer::sleep;

/// What goes along with a change of a file's names: its buffered content.
pub(crate) struct Bringing<'state> {
    pub node: &'state Arc<Node>,
    pub state: &'state mut NodeState,
}

/// Sends changes that were made here. It knows nodes, their buffered content and the session, nothing above.
pub(crate) struct Journal {
    queue: Queue,
    pub(super) nodes: Arc<NodeCache>,
    pub(super) buffer: Arc<WriteBuffer>,
    pub(super) uploads: Arc<Uploads>,
    space: Arc<SpaceReservation>,
    kernel: Kernel,
    pub(super) session: Session,
    pub(super) counters: Arc<Counters>,
    pub(super) runtime: Runtime,
}

/// What a [`Journal`] is made of.
pub(crate) struct JournalParts {
    /// How long an entry may wait for others.
    pub delay: Duration,
    pub nodes: Arc<NodeCache>,
    pub buffer: Arc<WriteBuffer>,
    pub uploads: Arc<Uploads>,
    pub space: Arc<SpaceReservation>,
    pub kernel: Kernel,
    pub session: Session,
    pub counters: Arc<Counters>,
    pub runtime: Runtime,
}

impl Journal {
    pub(crate) fn new(parts: JournalParts) -> Self {
        let JournalParts { delay, nodes, buffer, uploads, space, kernel, session, counters, runtime } = parts;
        Journal { queue: Queue::new(delay), nodes, buffer, uploads, space, kernel, session, counters, runtime }
    }

    /// Enters a change that was made here first. Called with the nodes locked that it concerns, so that a claim of the
    /// content that it brings along must not be dropped there: it is made here, on its way into the queue.
    pub(crate) fn enter(&self, op: MetaOp, nodes: Vec<Arc<Node>>, generation: u64, bringing: Option<Bringing<'_>>) {
        add(&self.counters.changed_here, 1);
        let content = bringing.and_then(|file| claim_locked(file.node, file.state, Freeze::All));
        self.queue.enter(Queued { generation, entry: Entry::Change { op, nodes, content } });
    }

    /// Enters that the server need not keep a file without a name for this session any more. Behind the change that took
    /// its name, which may still be waiting here.
    pub(crate) fn release_orphan(&self, node: &Arc<Node>, state: &mut NodeState) {
        state.begin_change();
        let generation = self.session.generation();
        self.enter(MetaOp::ReleaseOrphan { ino: node.ino }, vec![Arc::clone(node)], generation, None);
    }

    /// Entries that are not answered.
    pub(crate) fn len(&self) -> u64 {
        self.queue.len()
    }

    /// What is entered is due now.
    pub(crate) fn hurry(&self) {
        self.queue.hurry();
    }

    /// Task: sends entries for as long as the mount lives.
    pub(crate) async fn run(self: Arc<Self>) {
        while !self.buffer.files.is_stopped() {
            let wake = self.queue.wake.notified();
            match self.queue.take() {
                Ok(batch) => {
                    let count = batch.len();
                    self.send_batch(batch).await;
                    self.queue.note_answered(count);
                }
                Err(wait) => {
                    let wait = wait.unwrap_or(Duration::from_secs(60));
                    tokio::select! {
                        () = wake => {}
                        () = sleep(&self.runtime, wait) => {}
                    }
                }
            }
        }
    }

    /// The server has answered for a change that was made here first.
    pub(super) fn change_answered(&self, op: &MetaOp, nodes: &[Arc<Node>], outcome: &FsResult<OpReply>) {
        if op.made_node().is_some() {
            self.space.release_node(true);
        }
        match outcome {
            Ok(reply) => self.nodes.absorb(&[], &reply.attrs),
            // What a session kept ends with it.
            Err(error) if matches!(op, MetaOp::ReleaseOrphan { .. }) => {
                tracing::debug!(?op, ?error, "a removed file went otherwise");
            }
            Err(error) => self.forget_refused(op, nodes, error),
        }
        let names = op.names();
        for node in nodes {
            let mut state = node.lock();
            state.end_change(self.nodes.chunk_size());
            if let Some(cache) = state.directory_mut() {
                for (_, name) in names.iter().flatten().filter(|(directory, _)| *directory == node.ino) {
                    cache.change_answered(name);
                }
            }
            drop(state);
            node.changed.notify_waiters();
        }
    }

    /// What was made here ahead of the server did not happen there.
    fn forget_refused(&self, op: &MetaOp, nodes: &[Arc<Node>], error: &Error) {
        add(&self.counters.journal_refused, 1);
        let what = match op.names() {
            [Some((_, name)), _] => name.to_string(),
            _ => format!("{op:?}").chars().take(40).collect(),
        };
        if error.kind() != ErrorKind::Closed {
            tracing::error!(name = what, ?error, "a buffered change could not be made at the server and is lost");
        }
        let made = op.made_node();
        for node in nodes {
            let lost = if made == Some(node.ino) { self.buffer.take_lost(node) } else { None };
            node.lock().undo_change(made == Some(node.ino));
            self.buffer.recovery().save_in_background(lost.into_iter().collect());
            if let Some(kernel) = self.kernel.get() {
                kernel.expire_entries();
                kernel.invalidate_attr(node.ino);
            }
        }
    }

    /// Waits until whoever makes changes may go on.
    pub(crate) async fn wait_for_space(&self) -> FsResult<()> {
        if !self.queue.is_full() {
            return Ok(());
        }
        self.queue.hurry();
        self.wait_until(|queue| !queue.is_full()).await
    }

    /// Waits until every change that was made here so far is at the server.
    ///
    /// # Errors
    /// `EIO` if the server stays away, `ETIMEDOUT` if it does not answer: the changes are still on their way.
    pub(crate) async fn flush(&self) -> FsResult<()> {
        let Some(target) = self.queue.newest() else { return Ok(()) };
        self.queue.hurry();
        self.wait_until(|queue| queue.has_reached(target)).await
    }

    async fn wait_until(&self, reached: impl Fn(&Queue) -> bool) -> FsResult<()> {
        let limit = sleep(&self.runtime, self.session.answer_limit());
        let gave_up = self.session.gave_up();
        tokio::pin!(limit, gave_up);
        loop {
            let progress = self.queue.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if reached(&self.queue) {
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
    pub(crate) async fn flush_changes_of(&self, nodes: &[&Arc<Node>]) -> FsResult<()> {
        if nodes.iter().any(|node| node.lock().is_ahead()) { self.flush().await } else { Ok(()) }
    }

    /// Sends what is buffered of a file, if that is little, behind everything that was entered before, and waits until all
    /// of it is on stable storage. `None`: that is not how this file is to be synced, or there is nothing to send.
    ///
    /// # Errors
    /// As [`WriteBack::flush_node`](super::WriteBack::flush_node), [`Journal::flush`] and [`Session::sync`](crate::session::Session::sync).
    pub(crate) async fn sync_little(&self, node: &Arc<Node>) -> Option<FsResult<()>> {
        let (durable, outcome) = oneshot::channel();
        {
            let mut guard = node.lock();
            let state = &mut *guard;
            let mut content = None;
            if let Some(file) = state.file() {
                let little = file.overlay().bytes() <= BLOBS_IN_ORDER_MAX as u64;
                let covered = file.is_clean() || state.lease().mode() == LeaseMode::Exclusive;
                if !file.is_quiet() || !little || !covered {
                    return None;
                }
                if !file.is_clean() {
                    content = Some(claim_locked(node, state, Freeze::All)?);
                }
            }
            if content.is_none() && self.queue.len() == 0 {
                return None;
            }
            let generation = self.session.generation();
            self.queue.enter(Queued { generation, entry: Entry::Sync { content, durable } });
        }
        let limit = sleep(&self.runtime, self.session.answer_limit());
        Some(tokio::select! {
            biased;
            outcome = outcome => outcome.unwrap_or(Err(Errno::EIO.into())),
            error = self.session.gave_up() => Err(error),
            () = limit => Err(Errno::ETIMEDOUT.into()),
        })
    }

    /// Sends content changes behind everything that was entered before, and waits for their answers.
    pub(crate) async fn send(&self, ops: Vec<MetaOp>) -> Vec<FsResult<OpReply>> {
        let generation = self.session.generation();
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            let (sender, receiver) = oneshot::channel();
            replies.push(receiver);
            self.queue.enter(Queued { generation, entry: Entry::Awaited { op, reply: sender } });
        }
        let mut results = Vec::with_capacity(replies.len());
        for reply in replies {
            results.push(reply.await.unwrap_or(Err(Errno::ESHUTDOWN.into())));
        }
        results
    }

    /// The session is over: what was entered under its leases and not sent will not be.
    pub(crate) fn abandon(&self) {
        let entries = self.queue.drain();
        let count = entries.len();
        for queued in entries {
            let fenced = || Err(Error::FENCED);
            match queued.entry {
                Entry::Change { op, nodes, content } => {
                    self.buffer.release_claim(&mut { content });
                    self.change_answered(&op, &nodes, &fenced());
                }
                // Who no longer waits has given up.
                Entry::Awaited { reply, .. } => drop(reply.send(fenced())),
                Entry::Sync { content, durable } => {
                    self.buffer.release_claim(&mut { content });
                    drop(durable);
                }
            }
        }
        self.queue.note_answered(count);
    }
}
