//! Giving leases back: on recall, when the session was fenced, after a restart of the server.
//!
//! A recall of a file first holds its reads and writes and empties the kernel's cache around them ([`crate::node::transfers`]);
//! other requests are still answered under the lease, among them the writes by which the kernel brings dirty pages. Then
//! the node is *sealed*: nothing is answered from here, what is buffered is flushed, everything is dropped, and the server
//! is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{Errno, Ino, LeaseMode};
use cairn_wire::message::{Grant, LeaseReturn};
use tokio::runtime::Handle as Runtime;

use crate::api::KernelCache;
use crate::emptying::{self, INVALIDATION_GRACE, INVALIDATION_LIMIT};
use crate::held_locks::HeldLocks;
use crate::lock_order;
use crate::node::transfers::WHOLE;
use crate::node::{Node, RecallAnswer};
use crate::node_cache::{Kernel, NodeCache};
use crate::reservation::SpaceReservation;
use crate::session::{Held, Session, SessionEvents};
use crate::stats::{Counters, add};
use crate::timer::sleep;
use crate::writeback::{Journal, WriteBack, WriteBuffer};

/// Pause while the kernel takes in an answer.
const TAKING_IN: Duration = Duration::from_millis(1);
/// Pause before a flush for a recall is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the session tells this mount.
pub(crate) struct Events {
    recall: Weak<Recall>,
}

impl Events {
    pub(crate) fn new(recall: &Arc<Recall>) -> Self {
        Events { recall: Arc::downgrade(recall) }
    }
}

impl SessionEvents for Events {
    fn recalled(&self, ino: Ino, leave: LeaseMode, stamp: u64) {
        if let Some(recall) = self.recall.upgrade() {
            recall.recalled(ino, leave, stamp);
        }
    }

    fn give_back_room(&self) {
        if let Some(recall) = self.recall.upgrade() {
            let free = recall.space.take_free();
            recall.session.give_back(free.bytes, free.nodes);
        }
    }

    fn reclaiming(&self) -> Held {
        let Some(recall) = self.recall.upgrade() else { return Held::default() };
        let mut held = Held { locks: recall.locks.all(), ..Held::default() };
        recall.nodes.table.reset_stamps();
        for node in recall.nodes.table.all() {
            let mut state = node.lock();
            state.void_recall();
            let mode = state.lease().mode();
            if mode > LeaseMode::None {
                held.leases.push((node.ino, mode));
            }
            if state.is_open() || state.is_declared_open() {
                held.open.push(node.ino);
                // The server is told of its end as well.
                state.declare_open();
            }
            drop(state);
            node.changed.notify_waiters();
        }
        held
    }

    fn reclaimed(&self, grants: &[Grant]) {
        if let Some(recall) = self.recall.upgrade() {
            recall.reclaimed(grants);
        }
    }

    fn fenced(&self) {
        if let Some(recall) = self.recall.upgrade() {
            recall.fenced();
        }
    }

    fn expired(&self) {
        tracing::warn!(
            "no contact with the server for as long as leases last; nothing is answered from caches until it is back"
        );
    }
}

/// Gives leases back. It knows what is buffered and how it is sent, and no operation.
pub(crate) struct Recall {
    nodes: Arc<NodeCache>,
    writeback: Arc<WriteBack>,
    journal: Arc<Journal>,
    buffer: Arc<WriteBuffer>,
    space: Arc<SpaceReservation>,
    locks: Arc<HeldLocks>,
    kernel: Kernel,
    session: Session,
    counters: Arc<Counters>,
    runtime: Runtime,
    /// Files that were declared open at the server because an open was expected.
    expected_opens: Mutex<Vec<Ino>, lock_order::ExpectedOpens>,
    /// The mount is ending.
    closing: AtomicBool,
}

/// What a [`Recall`] stands on.
pub(crate) struct RecallParts {
    pub nodes: Arc<NodeCache>,
    pub writeback: Arc<WriteBack>,
    pub journal: Arc<Journal>,
    pub buffer: Arc<WriteBuffer>,
    pub space: Arc<SpaceReservation>,
    pub locks: Arc<HeldLocks>,
    pub kernel: Kernel,
    pub session: Session,
    pub counters: Arc<Counters>,
    pub runtime: Runtime,
}

impl Recall {
    pub(crate) fn new(parts: RecallParts) -> Self {
        let RecallParts { nodes, writeback, journal, buffer, space, locks, kernel, session, counters, runtime } = parts;
        Recall {
            nodes,
            writeback,
            journal,
            buffer,
            space,
            locks,
            kernel,
            session,
            counters,
            runtime,
            expected_opens: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    fn recalled(self: &Arc<Self>, ino: Ino, leave: LeaseMode, stamp: u64) {
        add(&self.counters.recalls, 1);
        let Some(node) = self.nodes.table.get_or_void(ino, stamp) else {
            self.session.return_leases(vec![LeaseReturn { ino, stamp, keep: LeaseMode::None, open: false }]);
            return;
        };
        let first = node.lock().begin_recall(leave, stamp);
        node.changed.notify_waiters();
        if first {
            let recall = Arc::clone(self);
            self.runtime.spawn(async move { recall.answer_recall(&node).await });
        }
    }

    /// The mount is ending: the kernel may be gone.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    async fn answer_recall(self: &Arc<Self>, node: &Arc<Node>) {
        loop {
            let Some(leave) = node.lock().pending_recall().map(|recall| recall.leave) else { return };
            if leave == LeaseMode::None {
                self.withdraw(node).await;
            } else {
                self.collect_mapped(node).await;
                // Whoever writes from here on asks for the lease again, after this recall.
                node.lock().downgrade(leave);
            }
            if !self.flush_until_clean(node).await {
                return;
            }
            let mut state = node.lock();
            let (stamp, keep) = match state.answer_recall(leave) {
                RecallAnswer::Void => return,
                RecallAnswer::LessLeft => continue,
                RecallAnswer::Given { stamp, keep } => (stamp, keep),
            };
            let open = state.is_wanted();
            if open {
                state.declare_open();
                if !state.is_open() {
                    self.expected_opens.lock().push(node.ino);
                }
            }
            // Still under the node's lock: whoever asks for the lease next must ask after this has left.
            self.session.return_leases(vec![LeaseReturn { ino: node.ino, stamp, keep, open }]);
            drop(state);
            node.changed.notify_waiters();
            return;
        }
    }

    /// Empties the kernel's caches of a node and seals it.
    async fn withdraw(self: &Arc<Self>, node: &Arc<Node>) {
        let kernel = self.kernel.get().cloned();
        let is_file = {
            let mut state = node.lock();
            if !state.is_recalled() {
                return;
            }
            let is_file = state.is_file();
            if !is_file || kernel.is_none() {
                state.seal();
            }
            if let Some(directory) = state.directory_mut() {
                directory.clear();
            }
            is_file
        };
        let Some(kernel) = kernel else { return };
        if is_file {
            self.empty_kernel(node, &kernel).await;
        } else if node.lock().directory().is_some() {
            kernel.expire_entries();
        }
        self.drop_attributes(node, &kernel).await;
    }

    /// Drops the kernel's attributes of a node. Where it has been told of the node and does not know it yet, it is still
    /// taking in the answer, and what it keeps of that would outlive the lease: this lasts until it knows the node, or has
    /// forgotten it again.
    async fn drop_attributes(&self, node: &Arc<Node>, kernel: &Arc<dyn KernelCache>) {
        let begun = Instant::now();
        // A kernel that has unmounted knows nothing any more, and forgets nothing.
        while !kernel.invalidate_attr(node.ino) && node.lock().is_referred_to() && !self.closing.load(Ordering::Relaxed)
        {
            let limit = if node.waiting() > 0 { INVALIDATION_GRACE } else { INVALIDATION_LIMIT };
            if begun.elapsed() > limit {
                tracing::debug!(ino = %node.ino, "the kernel does not know a node that it was told of");
                return;
            }
            sleep(&self.runtime, TAKING_IN).await;
        }
    }

    /// Holds reads and writes of a file and empties the kernel's cache of it.
    async fn empty_kernel(&self, node: &Arc<Node>, kernel: &Arc<dyn KernelCache>) {
        let has_pages = {
            let mut state = node.lock();
            if !state.is_recalled() {
                return;
            }
            state.transfers_mut().hold();
            if !state.has_pages() {
                state.seal();
            }
            state.has_pages()
        };
        if has_pages {
            emptying::empty(&self.runtime, node, kernel, vec![WHOLE]).await;
        }
        node.lock().seal_emptied();
    }

    /// Before others may read: has the kernel write the pages of a file that programs may have changed through a mapping. It
    /// tells of no such change by itself, and makes the next only once it has read the page again, which is held until then.
    async fn collect_mapped(&self, node: &Arc<Node>) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        {
            let mut state = node.lock();
            if !state.is_recalled() || !state.may_be_mapped() || !state.has_pages() {
                return;
            }
            state.transfers_mut().hold();
        }
        emptying::empty(&self.runtime, node, &kernel, vec![WHOLE]).await;
        node.lock().note_emptied();
    }

    /// Sends everything that is buffered of a node. `false` if the recall is no longer wanted.
    async fn flush_until_clean(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        self.writeback.send_access_times(std::slice::from_ref(node)).await;
        loop {
            if !node.lock().is_recalled() {
                return false;
            }
            let flushed = self.writeback.flush_node(node).await.and(self.journal.flush_changes_of(&[node]).await);
            {
                let mut state = node.lock();
                state.clear_access_time();
                if state.is_sent() {
                    return true;
                }
            }
            if flushed.is_err() {
                sleep(&self.runtime, RETRY).await;
            }
        }
    }

    /// The session has ended: what was held is void, and what is buffered can no longer be written.
    fn fenced(self: &Arc<Self>) {
        tracing::error!("the server has ended this session because it did not answer in time");
        self.space.lost();
        self.locks.clear();
        self.nodes.table.reset_stamps();
        self.journal.abandon();
        let mut lost = Vec::new();
        let mut emptied = Vec::new();
        for node in self.nodes.table.all() {
            let copy = self.buffer.take_lost(&node);
            let mut state = node.lock();
            if copy.is_some() {
                state.fail_writes(Errno::EIO);
            }
            lost.extend(copy);
            if state.is_referred_to() {
                emptied.push((node.ino, state.has_pages()));
            }
            state.end_session();
            drop(state);
            node.changed.notify_waiters();
        }
        self.space.take_free();
        self.buffer.recovery().save_in_background(lost);
        self.empty_kernel_in_background(emptied);
    }

    /// The server was restarted and has taken this session back: only `grants` stand, less what was recalled since.
    fn reclaimed(self: &Arc<Self>, grants: &[Grant]) {
        let stand: std::collections::HashMap<Ino, Grant> = grants.iter().map(|grant| (grant.ino, *grant)).collect();
        let mut lost = Vec::new();
        let mut emptied = Vec::new();
        for node in self.nodes.table.all() {
            let gone = node.lock().reclaim(stand.get(&node.ino).copied());
            if gone {
                let copy = self.buffer.take_lost(&node);
                let mut state = node.lock();
                if copy.is_some() {
                    state.fail_writes(Errno::EIO);
                }
                lost.extend(copy);
                emptied.push((node.ino, state.has_pages()));
                state.lose_lease();
            }
            node.changed.notify_waiters();
        }
        self.buffer.recovery().save_in_background(lost);
        self.empty_kernel_in_background(emptied);
        let drawn = self.space.lost();
        let recall = Arc::clone(self);
        self.runtime.spawn(async move {
            // What buffered writes count on is reserved anew; it stays drawn, so none of it becomes free.
            let crate::reservation::Amount { bytes, nodes } = drawn;
            if (bytes > 0 || nodes > 0)
                && let Err(errno) = recall.session.reserve(bytes, bytes, nodes, nodes).await
            {
                tracing::warn!(?errno, bytes, nodes, "space for buffered writes could not be reserved again");
            }
        });
    }

    /// Empties the kernel's caches of nodes whose leases are lost; with their pages, where it may have some.
    fn empty_kernel_in_background(&self, nodes: Vec<(Ino, bool)>) {
        let Some(kernel) = self.kernel.get().cloned() else { return };
        kernel.expire_entries();
        self.runtime.spawn_blocking(move || {
            for (ino, pages) in nodes {
                if pages {
                    kernel.invalidate_data(ino);
                } else {
                    kernel.invalidate_attr(ino);
                }
            }
        });
    }

    /// Lets go of files that were declared open because an open was expected, and then was not made.
    pub(crate) fn close_unopened(&self) {
        let mut closed = Vec::new();
        // A recall locks the list while it has a node locked, so no node is locked here while the list is.
        let mut expected = std::mem::take(&mut *self.expected_opens.lock());
        expected.retain(|ino| {
            let Some(node) = self.nodes.table.get(*ino) else { return false };
            let mut state = node.lock();
            if state.is_wanted() && !state.is_open() {
                return true;
            }
            // One that is open now is closed with its last handle.
            if !state.is_open() && state.take_declared_open() {
                closed.push(*ino);
            }
            false
        });
        self.expected_opens.lock().append(&mut expected);
        if !closed.is_empty() {
            self.session.close_files(closed);
        }
    }
}
