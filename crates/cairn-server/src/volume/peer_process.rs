//! Whether the process of a mount on this machine is still there.
//!
//! After a restart, a session whose process is gone cannot come back, and nobody has to wait for it. Only what the kernel
//! said about the peer of a Unix socket counts; of anybody else it is assumed that he may come back.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The process at the other end of a Unix socket, from the name of the peer (`unix user 0 process 17`).
fn process_of(peer: &str) -> Option<Pid> {
    let (_, number) = peer.strip_prefix("unix ")?.rsplit_once("process ")?;
    Pid::from_raw(number.parse().ok()?)
}

/// When the peer's process was started, in ticks since the machine was: tells it from a later one with its number.
pub(super) fn start_of(peer: &str) -> Option<u64> {
    let process = process_of(peer)?;
    let line = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The second field, the program's name, is in parentheses and may hold anything; the 22nd is the time.
    let (_, fields) = line.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Whether the process that was the peer, and was `started` then, is no more.
pub(super) fn is_gone(peer: &str, started: Option<u64>) -> bool {
    let Some(process) = process_of(peer) else { return false };
    if test_kill_process(process) == Err(Errno::SRCH) {
        return true;
    }
    matches!((started, start_of(peer)), (Some(before), Some(now)) if before != now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_an_earlier_one_of_its_number_is_not() {
        let peer = format!("unix user 0 process {}", std::process::id());
        let started = start_of(&peer);
        assert!(started.is_some());
        assert!(!is_gone(&peer, started));
        assert!(is_gone(&peer, started.map(|started| started + 1)));
    }

    #[test]
    fn a_process_that_has_ended_is_gone_and_a_stranger_may_come_back() {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let peer = format!("unix user 0 process {}", child.id());
        child.wait().expect("ended");
        assert!(is_gone(&peer, None));
        assert!(!is_gone("tcp 127.0.0.1:4000", None));
        assert!(!is_gone("unix user 0 process ?", None));
    }
}
