//! The advisory locks that this mount's programs hold: kept to take them back after a server restart, and to know
//! whether closing a file has any to drop. The server decides who gets a lock.

use std::collections::HashMap;

use cairn_locks::Mutex;
use cairn_types::{ByteRange, FileLock, Ino, LockFamily, LockKind, LockOwner};

use crate::lock_order;

#[derive(Debug, Default)]
pub(crate) struct HeldLocks(Mutex<HashMap<Ino, Vec<FileLock>>, lock_order::HeldFileLocks>);

impl HeldLocks {
    /// The server has granted `lock` (or taken it back, for [`LockKind::Unlock`]).
    pub(crate) fn note(&self, lock: FileLock) {
        let mut all = self.0.lock();
        let held = all.entry(lock.ino).or_default();
        let mut kept = Vec::with_capacity(held.len() + 2);
        for other in held.drain(..) {
            if other.owner != lock.owner || other.family != lock.family || !other.range.overlaps(lock.range) {
                kept.push(other);
                continue;
            }
            if other.range.start < lock.range.start {
                let range = ByteRange { start: other.range.start, end: lock.range.start - 1 };
                kept.push(FileLock { range, ..other });
            }
            if other.range.end > lock.range.end {
                let range = ByteRange { start: lock.range.end + 1, end: other.range.end };
                kept.push(FileLock { range, ..other });
            }
        }
        if lock.kind != LockKind::Unlock {
            kept.push(lock);
        }
        *held = kept;
        if held.is_empty() {
            all.remove(&lock.ino);
        }
    }

    /// Forgets an owner's locks of one family on a file. Whether there were any.
    pub(crate) fn drop_owner(&self, ino: Ino, owner: LockOwner, family: LockFamily) -> bool {
        let mut all = self.0.lock();
        let Some(held) = all.get_mut(&ino) else { return false };
        let before = held.len();
        held.retain(|lock| lock.owner != owner || lock.family != family);
        let found = held.len() < before;
        if held.is_empty() {
            all.remove(&ino);
        }
        found
    }

    pub(crate) fn all(&self) -> Vec<FileLock> {
        self.0.lock().values().flatten().copied().collect()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(kind: LockKind, start: u64, end: u64) -> FileLock {
        let range = ByteRange { start, end };
        FileLock { ino: Ino(3), family: LockFamily::Posix, kind, range, owner: LockOwner(1), pid: 9 }
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let held = HeldLocks::default();
        held.note(lock(LockKind::Exclusive, 0, u64::MAX));
        held.note(lock(LockKind::Unlock, 10, 19));
        let mut ranges: Vec<_> = held.all().iter().map(|lock| (lock.range.start, lock.range.end)).collect();
        ranges.sort_unstable();
        assert_eq!(ranges, [(0, 9), (20, u64::MAX)]);
        assert!(held.drop_owner(Ino(3), LockOwner(1), LockFamily::Posix));
        assert!(!held.drop_owner(Ino(3), LockOwner(1), LockFamily::Posix));
    }

    #[test]
    fn a_conversion_replaces_what_was_held() {
        let held = HeldLocks::default();
        held.note(lock(LockKind::Shared, 0, 9));
        held.note(lock(LockKind::Exclusive, 0, 9));
        assert_eq!(held.all(), [lock(LockKind::Exclusive, 0, 9)]);
    }
}
