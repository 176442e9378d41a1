//! The right to flush a file, which one task has at a time.
//!
//! Giving it back locks the file's node. So whoever has a node locked never has a claim to drop: [`FlushClaim::new`] takes
//! the lock by itself, and what is entered in the journal under the lock is claimed there, on its way into the queue.

use std::sync::Arc;

use super::FLUSH_SOON;
use super::upload::Part;
use crate::node::{Node, NodeState};
use crate::overlay::Freeze;

/// Most bytes, about, of one file in one round.
pub(super) const ROUND_BYTES: u64 = 16 * 1024 * 1024;

/// The right to flush a file; given back when dropped.
#[derive(Debug)]
pub(crate) struct FlushClaim {
    pub(super) node: Arc<Node>,
    /// Everything that was buffered when the claim was made is covered by it.
    pub(super) complete: bool,
    /// What is filled meanwhile is flushed, too.
    follows: bool,
}

impl Drop for FlushClaim {
    fn drop(&mut self) {
        if let Some(file) = self.node.lock().file_mut() {
            file.end_flush();
        }
        self.node.changed.notify_waiters();
    }
}

impl FlushClaim {
    /// Freezes what `which` says (unless an earlier flush has left something frozen) and claims the file, if there is
    /// anything to flush and nobody else is at it.
    pub(super) fn new(node: &Arc<Node>, which: Freeze) -> Option<FlushClaim> {
        claim_locked(node, &mut node.lock(), which)
    }

    /// The same for a flush that nobody waits for.
    pub(crate) fn following(self) -> Self {
        let mut claim = self;
        claim.follows = true;
        claim
    }

    /// Bytes that are buffered of the file.
    pub(crate) fn buffered(&self) -> u64 {
        self.node.lock().file().map_or(0, |file| file.overlay().bytes())
    }

    /// What is frozen of the file and not in hand, as much as one round takes; `claim` is this claim's place among those
    /// of the flush.
    pub(crate) fn part(&self, claim: usize) -> Option<Part> {
        let mut state = self.node.lock();
        let epoch = state.lease().epoch();
        let file = state.file_mut()?;
        let mut chunks = file.overlay_mut().take_batch(ROUND_BYTES);
        let goes_on = self.follows && file.may_follow_writer();
        if chunks.is_empty() && goes_on && file.overlay().dirty_bytes() >= FLUSH_SOON {
            file.overlay_mut().freeze(Freeze::FullChunks);
            chunks = file.overlay_mut().take_batch(ROUND_BYTES);
        }
        let node = Arc::clone(&self.node);
        (!chunks.is_empty()).then_some(Part { claim, node, epoch, chunks, extents: Vec::new(), outcome: Ok(()) })
    }
}

/// As [`FlushClaim::new`], with the node's state locked: for the journal alone, which puts it into its queue at once.
pub(super) fn claim_locked(node: &Arc<Node>, state: &mut NodeState, which: Freeze) -> Option<FlushClaim> {
    let file = state.file_mut()?;
    if file.is_flushing() {
        return None;
    }
    let complete = !file.overlay().has_frozen() && which == Freeze::All;
    file.overlay_mut().freeze(which);
    if !file.overlay().has_frozen() {
        return None;
    }
    file.begin_flush();
    Some(FlushClaim { node: Arc::clone(node), complete, follows: false })
}
