//! Whether the process of a mount on this machine is still there.
//!
//! A session whose process is gone cannot come back, and nobody has to wait for it. Only what the kernel said about the
//! peer of a Unix socket counts; of anybody else it is assumed that he may come back.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerProcess {
    number: Pid,
    /// In ticks since the machine was started, if that could be found out: tells the process from a later one with its
    /// number.
    started: Option<u64>,
}

/// What the kernel says of a process that has not been buried.
struct Life {
    ended: bool,
    started: u64,
}

fn look_up(process: Pid) -> Option<Life> {
    let line = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The second field, the program's name, is in parentheses and may hold anything. The third is the state: one that
    // has ended stays as a zombie until its parent takes note. The 22nd is the time of its start.
    let (_, fields) = line.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let ended = matches!(fields.next(), Some("Z" | "X"));
    Some(Life { ended, started: fields.nth(18)?.parse().ok()? })
}

impl PeerProcess {
    /// The process at the other end of a Unix socket, from the name of the peer (`unix user 0 process 17`), as it was
    /// when it was noted that it had `started` then.
    pub(crate) fn noted(peer: &str, started: Option<u64>) -> Option<Self> {
        let (_, number) = peer.strip_prefix("unix ")?.rsplit_once("process ")?;
        Some(PeerProcess { number: Pid::from_raw(number.parse().ok()?)?, started })
    }

    /// As [`PeerProcess::noted`] of a peer that is there now.
    pub(crate) fn present(peer: &str) -> Option<Self> {
        let process = PeerProcess::noted(peer, None)?;
        Some(PeerProcess { started: look_up(process.number).map(|life| life.started), ..process })
    }

    pub(crate) fn started(&self) -> Option<u64> {
        self.started
    }

    /// Whether it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        if test_kill_process(self.number) == Err(Errno::SRCH) {
            return true;
        }
        let Some(life) = look_up(self.number) else { return false };
        life.ended || self.started.is_some_and(|started| started != life.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_an_earlier_one_of_its_number_is_not() {
        let peer = format!("unix user 0 process {}", std::process::id());
        let process = PeerProcess::present(&peer).expect("a process");
        assert!(process.started.is_some());
        assert!(!process.is_gone());
        assert!(!PeerProcess::noted(&peer, None).expect("a process").is_gone());
        let earlier = PeerProcess::noted(&peer, process.started.map(|started| started - 1)).expect("a process");
        assert!(earlier.is_gone());
    }

    #[test]
    fn a_process_that_has_ended_is_gone_even_before_its_parent_knows() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let process = PeerProcess::present(&format!("unix user 0 process {}", child.id())).expect("a process");
        assert!(!process.is_gone());
        child.kill().expect("killed");
        while !process.is_gone() {
            std::thread::yield_now();
        }
        child.wait().expect("ended");
        assert!(process.is_gone());
    }

    #[test]
    fn strangers_have_no_process_here() {
        for peer in ["tcp 127.0.0.1:4000", "unix user 0 process ?", "unix user 0 process 0", ""] {
            assert_eq!(PeerProcess::present(peer), None);
        }
    }
}
