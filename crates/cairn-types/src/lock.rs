//! Advisory locks: `flock` and the byte-range locks of POSIX (`fcntl`, traditional and open-file-description).

use serde::{Deserialize, Serialize};

use crate::id::Ino;

/// The two families never conflict with each other, as on a local Linux file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockFamily {
    Flock,
    Posix,
}

/// What is asked for or held; `Unlock` gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockKind {
    Shared,
    Exclusive,
    Unlock,
}

/// The kernel's number for a lock owner (a process's file table, or an open file description), unique in one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockOwner(pub u64);

/// A range of bytes; `end` is inclusive, `u64::MAX` (or what the kernel sends for it) means to the end of any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    pub fn overlaps(self, other: ByteRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// One lock, asked for or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLock {
    pub ino: Ino,
    pub family: LockFamily,
    pub kind: LockKind,
    pub range: ByteRange,
    pub owner: LockOwner,
    /// Process that asked, for `F_GETLK`; 0 when unknown (another host).
    pub pid: u32,
}
