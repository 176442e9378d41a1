//! What is done for a mount while nobody asks: flushing, giving back room, keeping the table of nodes small.
//!
//! It answers no request, and does not keep the mount alive: it ends with it, or when it is being closed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_types::{Ino, LeaseMode};
use cairn_wire::message::LeaseReturn;

use super::remote::Remote;
use super::space::Space;
use crate::node_cache::Kernel;
use crate::recall::Recall;
use crate::stats::add;
use crate::writeback::WriteBack;

const TICK: Duration = Duration::from_secs(1);
/// How often the table of nodes is looked at: a walk brings several ten thousand a second.
const LOOKS: u32 = 10;
/// Ticks between two rounds of access times.
const ACCESS_TIMES: u64 = 5;
/// Ticks after which stamps of absent nodes may be forgotten: far longer than an answer is under way.
const FLOORS: u64 = 300;

/// What the tasks stand on that run beside the requests.
pub(super) struct Upkeep {
    /// Nodes that are remembered without being in use.
    nodes_max: usize,
    remote: Arc<Remote>,
    space: Arc<Space>,
    writeback: Arc<WriteBack>,
    recall: Arc<Recall>,
    kernel: Kernel,
}

impl Upkeep {
    pub(super) fn new(
        nodes_max: usize,
        remote: Arc<Remote>,
        space: Arc<Space>,
        writeback: Arc<WriteBack>,
        recall: Arc<Recall>,
        kernel: Kernel,
    ) -> Self {
        Upkeep { nodes_max, remote, space, writeback, recall, kernel }
    }

    /// Starts the tasks that live as long as the mount.
    pub(super) fn start(self: &Arc<Self>) {
        self.remote.runtime.spawn(Arc::clone(&self.writeback).run());
        self.remote.runtime.spawn(Arc::clone(&self.remote.journal).run());
        self.remote.runtime.spawn(tick(Arc::downgrade(self)));
    }

    /// Takes the nodes that were not used for the longest time out of the table, until it is a tenth below its limit.
    /// Blocks while the kernel empties its caches.
    fn evict(&self) {
        let most = self.remote.nodes.table.len().saturating_sub(self.nodes_max - self.nodes_max / 10);
        let victims: Vec<(Ino, bool, bool)> = self
            .remote
            .nodes
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
            let Some((stamp, mode)) = self.remote.nodes.table.evict(ino) else { continue };
            add(&self.remote.counters.evictions, 1);
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
            self.remote.session.return_leases(part.to_vec());
        }
    }
}

async fn tick(upkeep: Weak<Upkeep>) {
    for count in 1u64.. {
        for _ in 0..LOOKS {
            tokio::time::sleep(TICK / LOOKS).await;
            let Some(upkeep) = upkeep.upgrade() else { return };
            if upkeep.remote.nodes.table.len() > upkeep.nodes_max {
                let evictor = Arc::clone(&upkeep);
                if upkeep.remote.runtime.spawn_blocking(move || evictor.evict()).await.is_err() {
                    tracing::error!("nodes could not be evicted");
                }
            }
        }
        let Some(upkeep) = upkeep.upgrade() else { return };
        if upkeep.remote.is_closing() {
            return;
        }
        upkeep.remote.nodes.table.advance();
        upkeep.recall.close_unopened();
        let idle = upkeep.space.reservation.take_idle();
        upkeep.remote.session.give_back(idle.bytes, idle.nodes);
        if count % FLOORS == 0 {
            upkeep.remote.nodes.table.rotate_floors();
        }
        if count % ACCESS_TIMES == 0 {
            upkeep.writeback.flush_access_times().await;
        }
    }
}
