//! Requests that wait and may be given up: what `FUSE_INTERRUPT` acts upon.
//!
//! The kernel sends an interrupt for any signal, once for a request, and never says which signal. A wait for a lock
//! ends with any (POSIX wants that). Reading must not: programs do not expect `EINTR` from a file, so it is given up
//! only when the caller is being killed. Changes are never given up half-way; the client puts a time limit on them.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::time::Duration;

use cairn_locks::Mutex;
use tokio::sync::oneshot;

use crate::lock_order;

/// Interrupts that are remembered for requests not (yet) known. One can overtake its request by the time that two
/// threads need to change places; what is older belongs to requests that cannot be interrupted.
const EARLY_MAX: usize = 256;

/// How often an interrupted reader is looked at, to see whether it is being killed.
const KILL_CHECK: Duration = Duration::from_millis(200);

/// What an interrupt may do to a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Nothing: it changes something.
    Unconditional,
    /// End it once the calling process is being killed.
    UntilKilled,
    /// End it.
    UntilSignal,
}

/// The waiting requests of one mount, by the kernel's number.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    state: Mutex<State, lock_order::Interrupts>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, oneshot::Sender<()>>,
    early: VecDeque<u64>,
}

impl Interrupts {
    /// The kernel interrupts request `unique`.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut state = self.state.lock();
        if let Some(sender) = state.waiting.remove(&unique) {
            // A receiver that is gone has its answer already.
            let _ = sender.send(());
            return;
        }
        if state.early.len() == EARLY_MAX {
            state.early.pop_front();
        }
        state.early.push_back(unique);
    }

    /// Resolves when request `unique` of thread `pid` should be given up, which may be never.
    pub(crate) async fn given_up(&self, unique: u64, pid: u32, patience: Patience) {
        if patience == Patience::Unconditional {
            return std::future::pending().await;
        }
        let registration = self.register(unique);
        if let Some(registration) = registration {
            registration.wait().await;
        }
        while patience == Patience::UntilKilled && !is_being_killed(pid) {
            tokio::time::sleep(KILL_CHECK).await;
        }
    }

    /// `None` if the interrupt has come already.
    fn register(&self, unique: u64) -> Option<Registration<'_>> {
        let mut state = self.state.lock();
        if let Some(index) = state.early.iter().position(|&early| early == unique) {
            state.early.remove(index);
            return None;
        }
        let (sender, interrupted) = oneshot::channel();
        state.waiting.insert(unique, sender);
        Some(Registration { interrupts: self, unique, interrupted })
    }
}

/// A waiting request; forgotten when dropped.
struct Registration<'a> {
    interrupts: &'a Interrupts,
    unique: u64,
    interrupted: oneshot::Receiver<()>,
}

impl Registration<'_> {
    async fn wait(mut self) {
        // The sender is dropped only after it has sent or together with this registration.
        let _ = (&mut self.interrupted).await;
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.interrupts.state.lock().waiting.remove(&self.unique);
    }
}

/// Whether SIGKILL is pending for a thread. A thread that cannot be seen (0: outside this PID namespace) is not.
fn is_being_killed(pid: u32) -> bool {
    pid != 0 && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| kill_is_pending(&status))
}

/// Reads the masks of pending signals of the thread and of its process from `/proc/PID/status`.
fn kill_is_pending(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    masks
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn resolves(runtime: &tokio::runtime::Runtime, interrupts: &Interrupts, unique: u64, patience: Patience) -> bool {
        let limit = Duration::from_millis(20);
        let pid = std::process::id();
        runtime
            .block_on(async { tokio::time::timeout(limit, interrupts.given_up(unique, pid, patience)).await.is_ok() })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn an_interrupt_that_overtakes_its_request_is_remembered_once() {
        let interrupts = Interrupts::default();
        interrupts.interrupt(6);
        assert!(!resolves(&runtime(), &interrupts, 8, Patience::UntilSignal));
        assert!(resolves(&runtime(), &interrupts, 6, Patience::UntilSignal));
        assert!(!resolves(&runtime(), &interrupts, 6, Patience::UntilSignal));
    }

    #[test]
    fn a_signal_that_does_not_kill_ends_neither_reads_nor_changes() {
        let interrupts = Interrupts::default();
        interrupts.interrupt(2);
        interrupts.interrupt(4);
        assert!(!resolves(&runtime(), &interrupts, 2, Patience::UntilKilled));
        assert!(!resolves(&runtime(), &interrupts, 4, Patience::Unconditional));
    }

    #[test]
    fn finished_requests_leave_nothing_behind_and_stray_interrupts_little() {
        let interrupts = Interrupts::default();
        assert!(!resolves(&runtime(), &interrupts, 2, Patience::UntilSignal));
        assert!(interrupts.state.lock().waiting.is_empty());
        (0..2 * EARLY_MAX as u64).for_each(|unique| interrupts.interrupt(unique));
        assert_eq!(interrupts.state.lock().early.len(), EARLY_MAX);
    }

    #[test]
    fn a_pending_kill_is_read_from_the_status_file() {
        assert!(kill_is_pending("Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(kill_is_pending("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!kill_is_pending("SigPnd:\t0000000000000002\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000000100\n"));
    }
}
