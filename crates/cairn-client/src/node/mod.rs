//! What is known here of the nodes of the volume.
//!
//! [`Node`] is one of them, [`table`] holds all. A node's [`NodeState`] is behind one lock that is never held across an await;
//! it is made of values that keep their own invariants: the lease, the attributes, the content of a
//! file or the names of a directory, the transfers under way. Nothing here asks the server,
//! waits, or takes any other lock; what is to be done is decided by who holds the node.

mod attributes;
pub(crate) mod directory;
mod errors;
mod file;
mod lease;
mod life;
mod state;
pub(crate) mod table;
pub(crate) mod transfers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_locks::{Mutex, MutexGuard};
use cairn_types::Ino;
use tokio::sync::Notify;

use crate::lock_order;

pub(crate) use file::FileState;
pub(crate) use lease::RecallAnswer;
pub(crate) use life::Life;
pub(crate) use state::{NodeState, Place};

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub ino: Ino,
    state: Mutex<NodeState, lock_order::Node>,
    /// Told when a flush ends, a recall is answered, or a request begins to wait for the server.
    pub changed: Notify,
    /// Requests on this node that wait for the server.
    waiting: AtomicU32,
    /// When it was used last, in ticks of the table.
    used: AtomicU32,
}

impl Node {
    /// A node of which nothing is known but that grants up to `floor` are void.
    pub(crate) fn new(ino: Ino, floor: u64, tick: u32) -> Self {
        Node {
            ino,
            state: Mutex::new(NodeState::new(floor)),
            changed: Notify::new(),
            waiting: AtomicU32::new(0),
            used: AtomicU32::new(tick),
        }
    }

    /// Notes that it is used now.
    pub(crate) fn touch(&self, tick: u32) {
        self.used.store(tick, Ordering::Relaxed);
    }

    /// For how many ticks it was not used.
    pub(crate) fn age(&self, tick: u32) -> u32 {
        tick.wrapping_sub(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock_in_order(self.ino.0)
    }

    /// As [`Node::lock`], beside any other nodes: it is just being made, and nobody else knows of it.
    pub(crate) fn lock_new(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock_in_order(u64::MAX)
    }

    /// Counts a request that waits for the server until the guard is dropped.
    pub(crate) fn wait_for_server(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        Waiting(Arc::clone(self))
    }

    /// Whether the file is being flushed; if so, the flush ends soon however much is written meanwhile, and
    /// [`Node::changed`] tells of it.
    pub(crate) fn await_flush(&self) -> bool {
        let mut state = self.lock();
        let Some(file) = state.file_mut() else { return false };
        file.await_flush()
    }

    /// How many requests wait for the server.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst) as usize
    }
}

/// See [`Node::wait_for_server`].
pub(crate) struct Waiting(Arc<Node>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod testing {
    use cairn_types::{Attr, AttrFlags, FileKind, Ino, LeaseMode, Timestamp};
    use cairn_wire::message::Grant;

    pub(super) fn grant(stamp: u64) -> Grant {
        Grant { ino: Ino(5), mode: LeaseMode::Exclusive, stamp }
    }

    /// Attributes of a file.
    pub(super) fn attr(version: u64, size: u64) -> Attr {
        Attr {
            ino: Ino(5),
            kind: FileKind::Regular,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            allocated: size,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
            version,
            flags: AttrFlags::default(),
        }
    }
}
