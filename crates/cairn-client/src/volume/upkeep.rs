//! What is done for a mount while nobody asks: flushing, giving back room, keeping the table of nodes small.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_types::{Ino, LeaseMode};
use cairn_wire::message::LeaseReturn;

use super::Mount;
use crate::stats::add;

const TICK: Duration = Duration::from_secs(1);
/// How often the table of nodes is looked at: a walk brings several ten thousand a second.
const LOOKS: u32 = 10;
/// Ticks between two rounds of access times.
const ACCESS_TIMES: u64 = 5;
/// Ticks after which stamps of absent nodes may be forgotten: far longer than an answer is under way.
const FLOORS: u64 = 300;

impl Mount {
    /// Starts the tasks that live as long as the mount.
    pub(crate) fn start_background(self: &Arc<Self>) {
        self.runtime.spawn(Arc::clone(&self.writeback).run());
        self.runtime.spawn(Arc::clone(&self.journal).run());
        self.runtime.spawn(tick(Arc::downgrade(self)));
    }

    /// Takes the nodes that were not used for the longest time out of the table, until it is a tenth below its limit.
    /// Blocks while the kernel empties its caches.
    fn evict(&self) {
        let most = self.nodes.table.len().saturating_sub(self.options.nodes - self.options.nodes / 10);
        let victims: Vec<(Ino, bool, bool)> = self
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
            let Some((stamp, mode)) = self.nodes.table.evict(ino) else { continue };
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

async fn tick(mount: Weak<Mount>) {
    for count in 1u64.. {
        for _ in 0..LOOKS {
            tokio::time::sleep(TICK / LOOKS).await;
            let Some(mount) = mount.upgrade() else { return };
            if mount.nodes.table.len() > mount.options.nodes {
                let evictor = Arc::clone(&mount);
                if mount.runtime.spawn_blocking(move || evictor.evict()).await.is_err() {
                    tracing::error!("nodes could not be evicted");
                }
            }
        }
        let Some(mount) = mount.upgrade() else { return };
        if mount.closing.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        mount.nodes.table.advance();
        mount.recall.close_unopened();
        let idle = mount.space.take_idle();
        mount.session.give_back(idle.bytes, idle.nodes);
        if count % FLOORS == 0 {
            mount.nodes.table.rotate_floors();
        }
        if count % ACCESS_TIMES == 0 {
            mount.writeback.flush_access_times().await;
        }
    }
}
