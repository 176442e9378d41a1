//! Room under the volume's quota that the server has set aside for this session.
//!
//! Buffered writes draw from it, so that a full volume fails the `write` and never the flush. Every byte here is in one
//! of two places: free (in [`Room`]) or drawn (counted by the file that will use it, `FileState::drawn`).

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// What is asked for beyond the immediate need, in bytes.
pub(crate) const GENEROUS: u64 = 64 * 1024 * 1024;
/// Free room goes back after this long without use.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct State {
    free: u64,
    drawn: u64,
    /// Needs of writers that are waiting for room: what is free is kept for them.
    wanted: u64,
    used_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Room(Mutex<State>);

impl Room {
    pub(crate) fn new() -> Self {
        Room(Mutex::new(State { free: 0, drawn: 0, wanted: 0, used_at: Instant::now() }))
    }

    /// Takes `bytes` of free room. If there is too little, takes nothing and tells how much is missing.
    pub(crate) fn draw(&self, bytes: u64) -> Result<(), u64> {
        let mut state = self.0.lock();
        state.used_at = Instant::now();
        match state.free.checked_sub(bytes) {
            Some(left) => {
                state.free = left;
                state.drawn += bytes;
                Ok(())
            }
            None => Err(bytes - state.free),
        }
    }

    /// The server has set aside more.
    pub(crate) fn add(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.used_at = Instant::now();
        state.free += bytes;
    }

    /// `drawn` bytes are drawn no longer; the server has used up `consumed` of them, the rest is free again.
    pub(crate) fn settle(&self, drawn: u64, consumed: u64) {
        let mut state = self.0.lock();
        state.drawn = state.drawn.saturating_sub(drawn);
        state.free += drawn.saturating_sub(consumed);
    }

    /// Bytes that buffered writes will use.
    pub(crate) fn drawn(&self) -> u64 {
        self.0.lock().drawn
    }

    /// Keeps free room for a write that will need `bytes` in all, until the guard is dropped. Otherwise room could go
    /// back and forth for ever: the server asks everybody to give back what is free before it refuses a request.
    pub(crate) fn want(&self, bytes: u64) -> Wanted<'_> {
        self.0.lock().wanted += bytes;
        Wanted { room: self, bytes }
    }

    /// Takes all free room out that no writer waits for, to be given back to the server.
    pub(crate) fn take_free(&self) -> u64 {
        let mut state = self.0.lock();
        let spare = state.free.saturating_sub(state.wanted);
        state.free -= spare;
        spare
    }

    /// As [`Room::take_free`], but only if nothing was drawn for a while.
    pub(crate) fn take_idle(&self) -> u64 {
        let mut state = self.0.lock();
        if state.used_at.elapsed() < IDLE || state.wanted > 0 { 0 } else { std::mem::take(&mut state.free) }
    }

    /// The server has lost (or ended) the reservation: nothing is free any more. Gives back what is still drawn.
    pub(crate) fn lost(&self) -> u64 {
        let mut state = self.0.lock();
        state.free = 0;
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

    #[test]
    fn bytes_are_free_or_drawn_or_consumed() {
        let room = Room::new();
        assert_eq!(room.draw(10), Err(10));
        room.add(100);
        assert_eq!(room.draw(30), Ok(()));
        assert_eq!(room.draw(80), Err(10));
        assert_eq!(room.drawn(), 30);
        room.settle(30, 20);
        assert_eq!(room.drawn(), 0);
        assert_eq!(room.take_free(), 80);
        assert_eq!(room.draw(1), Err(1));
    }

    #[test]
    fn what_a_writer_waits_for_is_not_given_back() {
        let room = Room::new();
        room.add(10);
        let wanted = room.want(8);
        assert_eq!(room.take_free(), 2);
        assert_eq!(room.draw(8), Ok(()));
        drop(wanted);
        room.settle(8, 0);
        assert_eq!(room.take_free(), 8);
    }
}
