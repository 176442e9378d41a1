//! What waits to be written to the disk cache: bounded in bytes, so that a slow disk costs neither readers' time nor
//! memory.

use std::collections::VecDeque;
use std::time::Duration;

use cairn_locks::{Condvar, Mutex};

use crate::cache::{BlockKey, Part};
use crate::lock_order;

/// Most bytes that wait.
const BYTES_MAX: usize = 32 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State, lock_order::DiskCacheQueue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(BlockKey, Part)>,
    bytes: usize,
    /// An item was taken and is being written.
    busy: bool,
    closed: bool,
}

impl Queue {
    /// Appends unless there is no room; never waits. Whether it was taken.
    pub(super) fn offer(&self, key: BlockKey, part: Part) -> bool {
        let mut state = self.state.lock();
        if state.closed || state.bytes + part.data.len() > BYTES_MAX {
            return false;
        }
        state.bytes += part.data.len();
        state.items.push_back((key, part));
        self.changed.notify_all();
        true
    }

    /// Waits until there is room for `bytes` or `limit` is over. Whether there is.
    pub(super) fn wait_for_room(&self, bytes: usize, limit: Duration) -> bool {
        let mut state = self.state.lock();
        let full = |state: &mut State| !state.closed && state.bytes + bytes > BYTES_MAX;
        !self.changed.wait_while_for(&mut state, full, limit)
    }

    /// Waits until everything is written or `limit` is over. Whether it is.
    pub(super) fn wait_until_idle(&self, limit: Duration) -> bool {
        let mut state = self.state.lock();
        let at_work = |state: &mut State| !state.closed && (state.busy || !state.items.is_empty());
        !self.changed.wait_while_for(&mut state, at_work, limit)
    }

    /// The next item; waits for one. `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<(BlockKey, Part)> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.busy) {
            self.changed.notify_all();
        }
        loop {
            if let Some((key, part)) = state.items.pop_front() {
                state.bytes -= part.data.len();
                state.busy = true;
                self.changed.notify_all();
                return Some((key, part));
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Nothing more is taken in; what waits is still handed out.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_types::BlobId;

    use super::*;

    #[test]
    fn it_is_bounded_and_says_when_there_is_room() {
        let queue = Queue::default();
        let key = BlockKey { blob: BlobId(1), index: 0 };
        let part = Part { offset: 0, data: Bytes::from(vec![0; BYTES_MAX / 2]) };
        assert!(queue.offer(key, part.clone()) && queue.offer(key, part.clone()));
        assert!(!queue.offer(key, part.clone()));
        assert!(!queue.wait_for_room(1, Duration::from_millis(1)));
        assert!(queue.take().is_some());
        assert!(queue.wait_for_room(1, Duration::from_millis(1)));
        assert!(queue.take().is_some());
        assert!(!queue.wait_until_idle(Duration::from_millis(1)), "the last one is still being written");
        queue.close();
        assert!(queue.take().is_none());
        assert!(!queue.offer(key, part));
    }
}
