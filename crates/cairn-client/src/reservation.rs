//! Space under the volume's quota that the server has set aside for this session.
//!
//! Buffered changes draw from it, so that a full volume fails the `write` or the `create` and never the flush. Every byte
//! here is in one of two places: free (in [`SpaceReservation`]) or drawn (counted by the file that will use it, `FileState::reserved`);
//! every node is free, or drawn by a buffered change that makes it.

use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{Allocation, Attr};

use crate::lock_order;
use crate::node::NodeState;

/// What is asked for beyond the immediate need: bytes, and nodes.
pub(crate) const GENEROUS: u64 = 64 * 1024 * 1024;
pub(crate) const GENEROUS_NODES: u64 = 8192;
/// Free space goes back after this long without use.
const IDLE: Duration = Duration::from_secs(10);

/// An amount of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub bytes: u64,
    pub nodes: u64,
}

#[derive(Debug)]
struct State {
    free: Amount,
    drawn: Amount,
    /// Needs of writers that are waiting for space, in bytes: what is free is kept for them.
    wanted: u64,
    used_at: Instant,
}

#[derive(Debug)]
pub(crate) struct SpaceReservation {
    state: Mutex<State, lock_order::SpaceReservation>,
    /// How the server counts content. It stays so while the session lives.
    allocation: Allocation,
}

impl SpaceReservation {
    pub(crate) fn new(allocation: Allocation) -> Self {
        let state =
            Mutex::new(State { free: Amount::default(), drawn: Amount::default(), wanted: 0, used_at: Instant::now() });
        SpaceReservation { state, allocation }
    }

    /// Takes `bytes` of free space. If there is too little, takes nothing and tells how much is missing.
    pub(crate) fn draw(&self, bytes: u64) -> Result<(), u64> {
        let mut state = self.state.lock();
        state.used_at = Instant::now();
        match state.free.bytes.checked_sub(bytes) {
            Some(left) => {
                state.free.bytes = left;
                state.drawn.bytes += bytes;
                Ok(())
            }
            None => Err(bytes - state.free.bytes),
        }
    }

    /// Takes space for one node, if there is any.
    pub(crate) fn draw_node(&self) -> bool {
        let mut state = self.state.lock();
        state.used_at = Instant::now();
        let Some(left) = state.free.nodes.checked_sub(1) else { return false };
        state.free.nodes = left;
        state.drawn.nodes += 1;
        true
    }

    /// A node that space was drawn for has been made at the server (`consumed`), or will not be made.
    pub(crate) fn release_node(&self, consumed: bool) {
        let mut state = self.state.lock();
        state.drawn.nodes = state.drawn.nodes.saturating_sub(1);
        state.free.nodes += u64::from(!consumed);
    }

    /// The server has set aside more.
    pub(crate) fn add(&self, more: Amount) {
        let mut state = self.state.lock();
        state.used_at = Instant::now();
        state.free.bytes += more.bytes;
        state.free.nodes += more.nodes;
    }

    /// `drawn` bytes are drawn no longer; the server has used up `consumed` of them, the rest is free again.
    pub(crate) fn release(&self, drawn: u64, consumed: u64) {
        let mut state = self.state.lock();
        state.drawn.bytes = state.drawn.bytes.saturating_sub(drawn);
        state.free.bytes += drawn.saturating_sub(consumed);
    }

    /// Bytes that the buffered content of a file will add to what quota counts, once another `growth` bytes are allocated.
    pub(crate) fn needed_by(&self, state: &NodeState, growth: u64) -> u64 {
        let (Some(base), Some(view)) = (state.attr(), state.view()) else { return 0 };
        let mut full = view;
        full.allocated += growth;
        full.charged(self.allocation).saturating_sub(base.charged(self.allocation))
    }

    /// Gives back space that a file's buffered content no longer needs; `consumed` bytes of it were used by the server.
    pub(crate) fn return_unneeded(&self, state: &mut NodeState, consumed: u64) {
        let needed = self.needed_by(state, 0);
        let Some(file) = state.file_mut() else { return };
        if needed <= file.reserved() {
            self.release(file.reserved() - needed, consumed);
            file.set_reserved(needed);
        }
    }

    /// What quota counts for these attributes.
    pub(crate) fn charged(&self, attr: Option<&Attr>) -> u64 {
        attr.map_or(0, |attr| attr.charged(self.allocation))
    }

    /// What buffered changes will use.
    pub(crate) fn drawn(&self) -> Amount {
        self.state.lock().drawn
    }

    /// Keeps free space for a write that will need `bytes` in all, until the guard is dropped. Otherwise space could go
    /// back and forth for ever: the server asks everybody to give back what is free before it refuses a request.
    pub(crate) fn want(&self, bytes: u64) -> Wanted<'_> {
        self.state.lock().wanted += bytes;
        Wanted { space: self, bytes }
    }

    /// Takes all free space out that no writer waits for, to be given back to the server.
    pub(crate) fn take_free(&self) -> Amount {
        let mut state = self.state.lock();
        let spare = state.free.bytes.saturating_sub(state.wanted);
        state.free.bytes -= spare;
        Amount { bytes: spare, nodes: std::mem::take(&mut state.free.nodes) }
    }

    /// As [`SpaceReservation::take_free`], but only if nothing was drawn for a while.
    pub(crate) fn take_idle(&self) -> Amount {
        let mut state = self.state.lock();
        if state.used_at.elapsed() < IDLE || state.wanted > 0 {
            Amount::default()
        } else {
            std::mem::take(&mut state.free)
        }
    }

    /// The server has lost (or ended) the reservation: nothing is free any more. Gives back what is still drawn.
    pub(crate) fn lost(&self) -> Amount {
        let mut state = self.state.lock();
        state.free = Amount::default();
        state.drawn
    }
}

/// See [`SpaceReservation::want`].
pub(crate) struct Wanted<'space> {
    space: &'space SpaceReservation,
    bytes: u64,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.space.state.lock().wanted -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation() -> SpaceReservation {
        SpaceReservation::new(Allocation::default())
    }

    fn bytes(bytes: u64) -> Amount {
        Amount { bytes, nodes: 0 }
    }

    #[test]
    fn bytes_are_free_or_drawn_or_consumed() {
        let space = reservation();
        assert_eq!(space.draw(10), Err(10));
        space.add(bytes(100));
        assert_eq!(space.draw(30), Ok(()));
        assert_eq!(space.draw(80), Err(10));
        assert_eq!(space.drawn(), bytes(30));
        space.release(30, 20);
        assert_eq!(space.drawn(), bytes(0));
        assert_eq!(space.take_free(), bytes(80));
        assert_eq!(space.draw(1), Err(1));
    }

    #[test]
    fn a_node_is_free_or_drawn_or_made() {
        let space = reservation();
        assert!(!space.draw_node());
        space.add(Amount { bytes: 0, nodes: 2 });
        assert!(space.draw_node() && space.draw_node() && !space.draw_node());
        space.release_node(true);
        space.release_node(false);
        assert_eq!((space.drawn().nodes, space.take_free().nodes), (0, 1));
    }

    #[test]
    fn what_a_writer_waits_for_is_not_given_back() {
        let space = reservation();
        space.add(bytes(10));
        let wanted = space.want(8);
        assert_eq!(space.take_free(), bytes(2));
        assert_eq!(space.draw(8), Ok(()));
        drop(wanted);
        space.release(8, 0);
        assert_eq!(space.take_free(), bytes(8));
    }
}
