//! The way back: slots whose answer is ready, on their way to the thread that alone may give them to the kernel.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;

use cairn_locks::Mutex;

use crate::answer::MountContext;
use crate::lock_order;
use crate::uring::slot::Slot;

/// Answered slots of one thread's ring. Never longer than the ring has slots.
#[derive(Debug)]
pub(crate) struct Returns {
    state: Mutex<State, lock_order::RingReturns>,
    /// An eventfd that the thread's ring polls: every write is one wake-up.
    bell: File,
    shared: Arc<MountContext>,
}

#[derive(Debug, Default)]
struct State {
    answered: Vec<Slot>,
    /// The thread waits for the kernel and must be woken.
    asleep: bool,
    /// The mount has ended: slots are dropped.
    closed: bool,
}

impl Returns {
    pub(crate) fn new(shared: Arc<MountContext>) -> io::Result<Self> {
        // SAFETY: the call has no memory effects, and a descriptor that it returns belongs to nobody else.
        let bell = unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
                -1 => return Err(io::Error::last_os_error()),
                number => File::from_raw_fd(number),
            }
        };
        Ok(Returns { state: Mutex::default(), bell, shared })
    }

    pub(crate) fn shared(&self) -> &Arc<MountContext> {
        &self.shared
    }

    /// The descriptor that becomes readable, again with each wake-up.
    pub(crate) fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Hands in an answered slot, from any thread.
    pub(crate) fn give_back(&self, slot: Slot) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.answered.push(slot);
        let must_ring = std::mem::take(&mut state.asleep);
        drop(state);
        // The counter would have to be near 2^64 for this to fail.
        if must_ring && let Err(error) = (&self.bell).write(&1u64.to_ne_bytes()) {
            tracing::error!(%error, "a thread of the mount could not be woken");
        }
    }

    /// Moves what is answered into `slots`. From now on until [`Returns::awake`] the bell rings for what is handed in.
    pub(crate) fn take_before_sleep(&self, slots: &mut Vec<Slot>) {
        let mut state = self.state.lock();
        slots.append(&mut state.answered);
        state.asleep = true;
    }

    /// The thread has woken up and will look by itself before it sleeps again.
    pub(crate) fn awake(&self) {
        self.state.lock().asleep = false;
    }

    /// Nothing is given to the kernel any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.answered.clear();
    }
}
