//! The table of all nodes that something is known of, and the stamps of those that it no longer holds.
//!
//! A grant that is not newer than the last recall or return of its node is void ([`crate::node`]). That must hold for a
//! node that was let go of, too, while an answer may be under way: its stamp is noted here, in bounded memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use cairn_locks::{Mutex, MutexGuard};
use cairn_types::{Ino, LeaseMode};

use crate::lock_order;
use crate::node::{Node, NodeState};

const SHARDS: usize = 64;
/// Stamps of absent nodes that a shard notes one by one, twice.
const FLOORS_MAX: usize = 4096;

#[derive(Default)]
struct Shard {
    nodes: HashMap<Ino, Arc<Node>>,
    /// Stamps of recalls and returns of nodes that are not listed: this period's and the last one's.
    floors: HashMap<Ino, u64>,
    old_floors: HashMap<Ino, u64>,
    /// The highest of those that were too many to be noted. It holds for every node that is not listed: a grant that is not above
    /// it is asked for again.
    floor: u64,
}

impl Shard {
    fn floor_of(&self, ino: Ino) -> u64 {
        let noted = self.floors.get(&ino).or_else(|| self.old_floors.get(&ino)).copied().unwrap_or(0);
        noted.max(self.floor)
    }

    fn note_floor(&mut self, ino: Ino, stamp: u64) {
        let floor = self.floors.entry(ino).or_insert(0);
        *floor = (*floor).max(stamp);
        if self.floors.len() >= FLOORS_MAX {
            let oldest = std::mem::replace(&mut self.old_floors, std::mem::take(&mut self.floors));
            self.floor = oldest.into_values().fold(self.floor, u64::max);
        }
    }
}

/// All nodes that something is known of.
pub(crate) struct Table {
    shards: Vec<Mutex<Shard, lock_order::NodeTable>>,
    count: AtomicUsize,
    /// Advances once a second or so; only compared.
    tick: AtomicU32,
}

impl Table {
    pub(crate) fn new() -> Self {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            tick: AtomicU32::new(0),
        }
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, Shard> {
        let hash = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        self.shards[hash as usize % SHARDS].lock()
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        let node = self.shard(ino).nodes.get(&ino).cloned()?;
        node.touch(self.tick.load(Ordering::Relaxed));
        Some(node)
    }

    pub(crate) fn get_or_insert(&self, ino: Ino) -> Arc<Node> {
        let tick = self.tick.load(Ordering::Relaxed);
        let mut shard = self.shard(ino);
        if let Some(node) = shard.nodes.get(&ino) {
            node.touch(tick);
            return Arc::clone(node);
        }
        let floor = shard.floor_of(ino);
        let node = Arc::new(Node::new(ino, floor, tick));
        shard.nodes.insert(ino, Arc::clone(&node));
        self.count.fetch_add(1, Ordering::Relaxed);
        node
    }

    /// The node, or (if it is not listed) a note that grants up to `stamp` are void.
    pub(crate) fn get_or_void(&self, ino: Ino, stamp: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino);
        if let Some(node) = shard.nodes.get(&ino) {
            return Some(Arc::clone(node));
        }
        shard.note_floor(ino, stamp);
        None
    }

    /// Takes a node out if `leave` (called with its state locked) agrees and nobody else holds it. Gives back the stamp
    /// and mode of the lease that it had.
    fn remove_if(&self, ino: Ino, leave: impl FnOnce(&NodeState) -> bool) -> Option<(u64, LeaseMode)> {
        let mut shard = self.shard(ino);
        let node = shard.nodes.get(&ino)?;
        // A task that holds the node may be about to write to it.
        if Arc::strong_count(node) > 1 {
            return None;
        }
        let (stamp, mode, floor) = {
            let state = node.lock();
            if !leave(&state) {
                return None;
            }
            (state.lease().granted(), state.lease().mode(), state.lease().floor())
        };
        shard.nodes.remove(&ino);
        shard.note_floor(ino, floor);
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some((stamp, mode))
    }

    /// Takes out a node that is idle.
    pub(crate) fn evict(&self, ino: Ino) -> Option<(u64, LeaseMode)> {
        self.remove_if(ino, NodeState::is_idle)
    }

    /// Nodes that were not used for the longest time and seem idle, at most `most` of them.
    pub(crate) fn oldest(&self, most: usize) -> Vec<Arc<Node>> {
        let now = self.tick.load(Ordering::Relaxed);
        let mut ages: Vec<(u32, Arc<Node>)> = Vec::new();
        for shard in &self.shards {
            for node in shard.lock().nodes.values() {
                let age = node.age(now);
                if node.ino != Ino::ROOT && node.lock().is_idle() {
                    ages.push((age, Arc::clone(node)));
                }
            }
        }
        let cut = ages.len().saturating_sub(most);
        if cut > 0 {
            ages.select_nth_unstable_by_key(cut, |(age, _)| *age);
        }
        ages.drain(cut..).map(|(_, node)| node).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.shards.iter().flat_map(|shard| shard.lock().nodes.values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Moves the clock by which nodes grow old.
    pub(crate) fn advance(&self) {
        self.tick.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets stamps of absent nodes that were noted before the last call; called every minute or so, far longer than
    /// any answer is under way.
    pub(crate) fn rotate_floors(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.old_floors = std::mem::take(&mut shard.floors);
        }
    }

    /// The server's counter of stamps has begun again: nothing that was noted means anything.
    pub(crate) fn reset_stamps(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.floors.clear();
            shard.old_floors.clear();
            shard.floor = 0;
            for node in shard.nodes.values() {
                node.lock().reset_stamps();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::grant;
    use super::*;

    #[test]
    fn stamps_of_any_number_of_absent_nodes_take_bounded_memory_and_stay_in_force() {
        let table = Table::new();
        let many = (4 * SHARDS * FLOORS_MAX) as u64;
        for ino in 2..many {
            assert!(table.get_or_void(Ino(ino), ino).is_none());
        }
        for shard in &table.shards {
            let shard = shard.lock();
            assert!(shard.floors.len() <= FLOORS_MAX && shard.old_floors.len() <= FLOORS_MAX);
        }
        for ino in (2..many).step_by(1001) {
            assert!(table.get_or_insert(Ino(ino)).lock().lease().floor() >= ino);
        }
        table.reset_stamps();
        assert_eq!(table.get_or_insert(Ino(many + 1)).lock().lease().floor(), 0);
    }

    #[test]
    fn a_grant_that_a_recall_has_overtaken_is_void() {
        let table = Table::new();
        assert!(table.get_or_void(Ino(5), 10).is_none());
        let node = table.get_or_insert(Ino(5));
        assert!(!node.lock().grant(grant(9)));
        assert!(!node.lock().grant(grant(10)));
        assert!(node.lock().grant(grant(11)));
    }

    #[test]
    fn an_evicted_node_voids_the_grants_it_had() {
        let table = Table::new();
        table.get_or_insert(Ino(5)).lock().grant(grant(7));
        assert_eq!(table.evict(Ino(5)), Some((7, LeaseMode::Exclusive)));
        assert_eq!(table.len(), 0);
        assert!(!table.get_or_insert(Ino(5)).lock().grant(grant(7)));
        assert!(table.get_or_insert(Ino(5)).lock().grant(grant(8)));
    }

    #[test]
    fn a_node_in_use_is_not_evicted() {
        let table = Table::new();
        let node = table.get_or_insert(Ino(5));
        assert_eq!(table.evict(Ino(5)), None);
        node.lock().open(false);
        drop(node);
        assert_eq!(table.evict(Ino(5)), None);
    }
}
