//! Room under the volume's quota that the server has set aside for this session.
//!
//! Buffered changes draw from it, so that a full volume fails the `write` or the `create` and never the flush. Every byte
//! here is in one of two places: free (in [`Room`]) or drawn (counted by the file that will use it, `FileState::drawn`);
//! every node is free, or drawn by a buffered change that makes it.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// What is asked for beyond the immediate need: bytes, and nodes.
pub(crate) const GENEROUS: u64 = 64 * 1024 * 1024;
pub(crate) const GENEROUS_NODES: u64 = 8192;
/// Free room goes back after this long without use.
const IDLE: Duration = Duration::from_secs(10);

/// An amount of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub bytes: u64,
    pub nodes: u64,
}

#[derive(Debug)]
struct State {
    free: Amount,
    drawn: Amount,
    /// Needs of writers that are waiting for room, in bytes: what is free is kept for them.
    wanted: u64,
    used_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Room(Mutex<State>);

impl Room {
    pub(crate) fn new() -> Self {
        Room(Mutex::new(State {
            free: Amount::default(),
            drawn: Amount::default(),
            wanted: 0,
            used_at: Instant::now(),
        }))
    }

    /// Takes `bytes` of free room. If there is too little, takes nothing and tells how much is missing.
    pub(crate) fn draw(&self, bytes: u64) -> Result<(), u64> {
        let mut state = self.0.lock();
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

    /// Takes room for one node, if there is any.
    pub(crate) fn draw_node(&self) -> bool {
        let mut state = self.0.lock();
        state.used_at = Instant::now();
        let Some(left) = state.free.nodes.checked_sub(1) else { return false };
        state.free.nodes = left;
        state.drawn.nodes += 1;
        true
    }

    /// A node that room was drawn for has been made at the server (`consumed`), or will not be made.
    pub(crate) fn settle_node(&self, consumed: bool) {
        let mut state = self.0.lock();
        state.drawn.nodes = state.drawn.nodes.saturating_sub(1);
        state.free.nodes += u64::from(!consumed);
    }

    /// The server has set aside more.
    pub(crate) fn add(&self, more: Amount) {
        let mut state = self.0.lock();
        state.used_at = Instant::now();
        state.free.bytes += more.bytes;
        state.free.nodes += more.nodes;
    }

    /// `drawn` bytes are drawn no longer; the server has used up `consumed` of them, the rest is free again.
    pub(crate) fn settle(&self, drawn: u64, consumed: u64) {
        let mut state = self.0.lock();
        state.drawn.bytes = state.drawn.bytes.saturating_sub(drawn);
        state.free.bytes += drawn.saturating_sub(consumed);
    }

    /// What buffered changes will use.
    pub(crate) fn drawn(&self) -> Amount {
        self.0.lock().drawn
    }

    /// Keeps free room for a write that will need `bytes` in all, until the guard is dropped. Otherwise room could go
    /// back and forth for ever: the server asks everybody to give back what is free before it refuses a request.
    pub(crate) fn want(&self, bytes: u64) -> Wanted<'_> {
        self.0.lock().wanted += bytes;
        Wanted { room: self, bytes }
    }

    /// Takes all free room out that no writer waits for, to be given back to the server.
    pub(crate) fn take_free(&self) -> Amount {
        let mut state = self.0.lock();
        let spare = state.free.bytes.saturating_sub(state.wanted);
        state.free.bytes -= spare;
        Amount { bytes: spare, nodes: std::mem::take(&mut state.free.nodes) }
    }

    /// As [`Room::take_free`], but only if nothing was drawn for a while.
    pub(crate) fn take_idle(&self) -> Amount {
        let mut state = self.0.lock();
        if state.used_at.elapsed() < IDLE || state.wanted > 0 {
            Amount::default()
        } else {
            std::mem::take(&mut state.free)
        }
    }

    /// The server has lost (or ended) the reservation: nothing is free any more. Gives back what is still drawn.
    pub(crate) fn lost(&self) -> Amount {
        let mut state = self.0.lock();
        state.free = Amount::default();
        state.drawn
    }
}

/// See [`Room::want`].
pub(crate) struct Wanted<'room> {
    room: &'room Room,
    bytes: u64,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.room.0.lock().wanted -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: u64) -> Amount {
        Amount { bytes, nodes: 0 }
    }

    #[test]
    fn bytes_are_free_or_drawn_or_consumed() {
        let room = Room::new();
        assert_eq!(room.draw(10), Err(10));
        room.add(bytes(100));
        assert_eq!(room.draw(30), Ok(()));
        assert_eq!(room.draw(80), Err(10));
        assert_eq!(room.drawn(), bytes(30));
        room.settle(30, 20);
        assert_eq!(room.drawn(), bytes(0));
        assert_eq!(room.take_free(), bytes(80));
        assert_eq!(room.draw(1), Err(1));
    }

    #[test]
    fn a_node_is_free_or_drawn_or_made() {
        let room = Room::new();
        assert!(!room.draw_node());
        room.add(Amount { bytes: 0, nodes: 2 });
        assert!(room.draw_node() && room.draw_node() && !room.draw_node());
        room.settle_node(true);
        room.settle_node(false);
        assert_eq!((room.drawn().nodes, room.take_free().nodes), (0, 1));
    }

    #[test]
    fn what_a_writer_waits_for_is_not_given_back() {
        let room = Room::new();
        room.add(bytes(10));
        let wanted = room.want(8);
        assert_eq!(room.take_free(), bytes(2));
        assert_eq!(room.draw(8), Ok(()));
        drop(wanted);
        room.settle(8, 0);
        assert_eq!(room.take_free(), bytes(8));
    }
}
