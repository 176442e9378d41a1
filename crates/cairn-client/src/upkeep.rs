//! What is done for a mount while nobody asks: flushing, giving back room, keeping the table of nodes small.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_types::{Ino, LeaseMode};
use cairn_wire::message::LeaseReturn;

use crate::stats::add;
use crate::volume::Shared;

const TICK: Duration = Duration::from_secs(1);
/// How often the table of nodes is looked at: a walk brings several ten thousand a second.
const LOOKS: u32 = 10;
/// Ticks between two rounds of access times.
const ACCESS_TIMES: u64 = 5;
/// Ticks after which stamps of absent nodes may be forgotten: far longer than an answer is under way.
const FLOORS: u64 = 300;

impl Shared {
    /// Starts the tasks that live as long as the mount.
    pub(crate) fn start_background(self: &Arc<Self>) {
        self.runtime.spawn(Arc::clone(self).run_writeback());
        self.runtime.spawn(Arc::clone(self).run_journal());
        let shared = Arc::downgrade(self);
        self.runtime.spawn(tick(shared));
    }

    /// Takes the nodes that were not used for the longest time out of the table, until it is a tenth below its limit.
    /// Blocks while the kernel empties its caches.
    fn evict(&self) {
        let most = self.table.len().saturating_sub(self.options.nodes - self.options.nodes / 10);
        let victims: Vec<(Ino, bool, bool)> = self
            .table
            .oldest(most)
            .into_iter()
            .map(|node| {
                let state = node.lock();
                (node.ino, state.has_pages(), state.directory().is_some())
            })
            .collect();
        let mut returns = Vec::new();
        let mut directories = false;
        for (ino, pages, is_directory) in victims {
            let Some((stamp, mode)) = self.table.evict(ino) else { continue };
            add(&self.counters.evictions, 1);
            if mode == LeaseMode::None {
                continue;
            }
            directories |= is_directory;
            if let Some(kernel) = self.kernel.get() {
                if pages {
                    kernel.invalidate_data(ino);
                } else {
                    kernel.invalidate_attr(ino);
                }
            }
            returns.push(LeaseReturn { ino, stamp, keep: LeaseMode::None, open: false });
        }
        if directories && let Some(kernel) = self.kernel.get() {
            kernel.expire_entries();
        }
        for part in returns.chunks(1024) {
            self.session.return_leases(part.to_vec());
        }
    }
}

impl Shared {
    /// Lets go of files that were declared open because an open was expected, and then was not made.
    fn close_unopened(&self) {
        let mut closed = Vec::new();
        // A recall locks the list while it has a node locked, so no node is locked here while the list is.
        let mut expected = std::mem::take(&mut *self.expected_opens.lock());
        expected.retain(|ino| {
            let Some(node) = self.table.get(*ino) else { return false };
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

async fn tick(shared: Weak<Shared>) {
    for count in 1u64.. {
        for _ in 0..LOOKS {
            tokio::time::sleep(TICK / LOOKS).await;
            let Some(shared) = shared.upgrade() else { return };
            if shared.table.len() > shared.options.nodes {
                let evictor = Arc::clone(&shared);
                if shared.runtime.spawn_blocking(move || evictor.evict()).await.is_err() {
                    tracing::error!("nodes could not be evicted");
                }
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        if shared.closing.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        shared.table.advance();
        shared.close_unopened();
        let idle = shared.room.take_idle();
        shared.session.give_back(idle.bytes, idle.nodes);
        if count % FLOORS == 0 {
            shared.table.rotate_floors();
        }
        if count % ACCESS_TIMES == 0 {
            shared.flush_access_times().await;
        }
    }
}
