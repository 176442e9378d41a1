//! Giving leases back: on recall, when the session was fenced, after a restart of the server.
//!
//! A recall of a file first holds its reads and writes and empties the kernel's cache around them ([`crate::node::transfers`]);
//! other requests are still answered under the lease, among them the writes by which the kernel brings dirty pages. Then
//! the node is *sealed*: nothing is answered from here, what is buffered is flushed, everything is dropped, and the server
//! is told.
//!
//! The emptying may also wait for a lock that the kernel holds for another request on the same file (a truncation) which
//! itself waits for the server, perhaps behind this recall. It is then left to finish by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{Errno, Ino, LeaseMode};
use cairn_wire::message::{Grant, LeaseReturn};
use tokio::runtime::Handle as Runtime;

use crate::api::KernelCache;
use crate::held_locks::HeldLocks;
use crate::lock_order;
use crate::node::transfers::{Piece, WHOLE};
use crate::node::{Node, RecallAnswer};
use crate::node_cache::{Kernel, NodeCache};
use crate::reservation::SpaceReservation;
use crate::session::{Held, Session, SessionEvents};
use crate::stats::{Counters, add};
use crate::timer::sleep;
use crate::writeback::{Journal, WriteBack, WriteBuffer};

/// An emptying that is seen twice at the same place with this time between, where a transfer has its pages, waits for it.
const STUCK: Duration = Duration::from_millis(5);
/// How long the kernel may take to empty its caches.
const INVALIDATION_LIMIT: Duration = Duration::from_secs(5);
/// The same while another request than reads and writes on the file waits for the server.
const INVALIDATION_GRACE: Duration = Duration::from_millis(50);
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
        let expected_opens = Mutex::default();
        Recall { nodes, writeback, journal, buffer, space, locks, kernel, session, counters, runtime, expected_opens }
    }

    fn recalled(self: &Arc<Self>, ino: Ino, leave: LeaseMode, stamp: u64) {
        add(&self.counters.recalls, 1);
        let Some(node) = self.nodes.table.get_or_void(ino, stamp) else {
            self.session.return_leases(vec![LeaseReturn { ino, stamp, keep: LeaseMode::None, open: false }]);
            return;
        };
        let first = node.lock().begin_recall(leave, stamp);
        if first {
            let recall = Arc::clone(self);
            self.runtime.spawn(async move { recall.answer_recall(&node).await });
        } else {
            node.changed.notify_waiters();
        }
    }

    async fn answer_recall(self: &Arc<Self>, node: &Arc<Node>) {
        loop {
            let Some(leave) = node.lock().pending_recall().map(|recall| recall.leave) else { return };
            if leave == LeaseMode::None {
                self.withdraw(node).await;
            } else {
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
        } else {
            if node.lock().directory().is_some() {
                kernel.expire_entries();
            }
            kernel.invalidate_attr(node.ino);
        }
    }

    /// Empties the kernel's cache of a file around what reads and writes keep locked, and holds those (see
    /// [`crate::node::transfers`]). Each time that an emptying meets a page locked by a transfer which came after it began, that
    /// one is left behind and the rest is emptied by another; there are as many at most as programs have requests.
    async fn empty_kernel(self: &Arc<Self>, node: &Arc<Node>, kernel: &Arc<dyn KernelCache>) {
        let begun = Instant::now();
        let mut left = {
            let mut state = node.lock();
            if !state.is_recalled() {
                return;
            }
            state.transfers_mut().hold();
            if !state.has_pages() {
                state.seal();
            }
            if state.has_pages() { vec![Piece { range: WHOLE, may_be_locked: false }] } else { Vec::new() }
        };
        if left.is_empty() {
            kernel.invalidate_attr(node.ino);
            return;
        }
        while !left.is_empty() {
            let pieces: Arc<[Piece]> = node.lock().transfers().pieces(&left).into();
            left = self.empty_pieces(node, kernel, &pieces, begun).await;
        }
        node.lock().seal_emptied();
    }

    /// Empties `pieces`, as far as that is possible without waiting for a transfer. Answers what is left.
    async fn empty_pieces(
        &self,
        node: &Arc<Node>,
        kernel: &Arc<dyn KernelCache>,
        pieces: &Arc<[Piece]>,
        begun: Instant,
    ) -> Vec<Piece> {
        let done = Arc::new(AtomicUsize::new(0));
        let mut emptying = {
            let (kernel, ino, pieces, done) = (Arc::clone(kernel), node.ino, Arc::clone(pieces), Arc::clone(&done));
            self.runtime.spawn_blocking(move || {
                for piece in pieces.iter() {
                    kernel.invalidate_range(ino, piece.range.clone());
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let mut seen = None;
        let mut others_since: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = &mut emptying => return Vec::new(),
                () = sleep(&self.runtime, STUCK) => {}
            }
            let at = done.load(Ordering::SeqCst);
            let Some(piece) = pieces.get(at) else { continue };
            let (touched, transfers) = {
                let state = node.lock();
                (state.transfers().touch(&piece.range), state.transfers().count())
            };
            others_since =
                if node.waiting() > transfers { others_since.or_else(|| Some(Instant::now())) } else { None };
            if seen.replace(at) == Some(at) && touched {
                // Two looks, and it is still here: it waits for a page that a transfer keeps.
                let next = if piece.may_be_locked { at + 1 } else { at };
                return pieces.get(next..).unwrap_or_default().to_vec();
            }
            let blocked = others_since.is_some_and(|since| since.elapsed() > INVALIDATION_GRACE);
            if blocked || begun.elapsed() > INVALIDATION_LIMIT {
                tracing::debug!(ino = %node.ino, "the kernel empties its cache of a file while the lease goes back");
                return Vec::new();
            }
        }
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
