//! Locks of open file descriptions (`F_OFD_SETLK`) that must end when their file is closed for good.
//!
//! The kernel tells the end of a process's locks (`FLUSH` with their owner) and of `flock` locks (`RELEASE` with a
//! flag), but says nothing when a description with OFD locks goes. They look like a process's locks; what gives them
//! away is the handle through which they were taken. So owners are remembered by handle: `FLUSH` strikes its owner out,
//! and owners that are left when the handle is released are OFD owners, whose locks end then.

use std::collections::HashMap;

use cairn_client::api::Handle;
use cairn_locks::Mutex;
use cairn_types::{ByteRange, FileLock, Ino, LockFamily, LockKind, LockOwner};

use crate::lock_order;

/// Owners of POSIX and OFD locks on files that are open.
#[derive(Debug, Default)]
pub(crate) struct LockOwners {
    by_node: Mutex<HashMap<Ino, Vec<(Handle, LockOwner)>>, lock_order::LockOwners>,
}

impl LockOwners {
    /// A lock is asked for through `handle`. Noted before it is had, so that none can be forgotten.
    pub(crate) fn asked(&self, handle: Handle, lock: &FileLock) {
        if lock.family == LockFamily::Posix && lock.kind != LockKind::Unlock {
            let mut by_node = self.by_node.lock();
            let owners = by_node.entry(lock.ino).or_default();
            if !owners.contains(&(handle, lock.owner)) {
                owners.push((handle, lock.owner));
            }
        }
    }

    /// A process closes a descriptor: whatever locks it had on the file are gone, through whichever handle.
    pub(crate) fn flushed(&self, ino: Ino, owner: LockOwner) {
        self.strike_out(ino, |entry| entry.1 == owner);
    }

    /// A handle is released: what must be unlocked for it.
    pub(crate) fn released(&self, ino: Ino, handle: Handle) -> Vec<FileLock> {
        let struck = self.strike_out(ino, |entry| entry.0 == handle);
        let range = ByteRange { start: 0, end: u64::MAX };
        let (family, kind) = (LockFamily::Posix, LockKind::Unlock);
        struck.into_iter().map(|(_, owner)| FileLock { ino, family, kind, range, owner, pid: 0 }).collect()
    }

    fn strike_out(
        &self,
        ino: Ino,
        mut which: impl FnMut(&mut (Handle, LockOwner)) -> bool,
    ) -> Vec<(Handle, LockOwner)> {
        let mut by_node = self.by_node.lock();
        let Some(owners) = by_node.get_mut(&ino) else { return Vec::new() };
        let struck = owners.extract_if(.., |entry| which(entry)).collect();
        if owners.is_empty() {
            by_node.remove(&ino);
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_no_flush_strikes_out_end_with_their_handle() {
        let owners = LockOwners::default();
        let range = ByteRange { start: 3, end: 4 };
        let (ino, family, kind) = (Ino(1), LockFamily::Posix, LockKind::Shared);
        let lock = |owner| FileLock { ino, family, kind, range, owner: LockOwner(owner), pid: 1 };
        let (process, description) = (lock(10), lock(20));
        owners.asked(Handle(1), &process);
        owners.asked(Handle(1), &description);
        owners.asked(Handle(1), &description);
        owners.flushed(Ino(1), process.owner);
        // The process has locked again, through another handle, before the first is released.
        owners.asked(Handle(2), &process);
        let ended = owners.released(Ino(1), Handle(1));
        assert_eq!(ended.iter().map(|lock| lock.owner).collect::<Vec<_>>(), [description.owner]);
        assert_eq!(ended[0].kind, LockKind::Unlock);
        owners.flushed(Ino(1), process.owner);
        assert!(owners.released(Ino(1), Handle(2)).is_empty());
        assert!(owners.by_node.lock().is_empty());
        owners.asked(Handle(1), &FileLock { family: LockFamily::Flock, ..process });
        assert!(owners.by_node.lock().is_empty());
    }
}
