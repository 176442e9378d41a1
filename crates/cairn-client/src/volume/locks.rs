//! Advisory locks: the server decides; what is held is noted for a restart of the server, and to know whether the end of a
//! descriptor has any to drop.
//!
//! Invariant: a lock that is being given back is not in the notes, and one that is in them was granted.

use std::sync::Arc;

use cairn_types::{FileLock, Ino, LockFamily, LockKind, LockOwner};

use super::remote::Remote;
use crate::error::FsResult;
use crate::held_locks::HeldLocks;

/// Operations on advisory locks.
pub(super) struct Locks {
    held: Arc<HeldLocks>,
    remote: Arc<Remote>,
}

impl Locks {
    pub(super) fn new(held: Arc<HeldLocks>, remote: Arc<Remote>) -> Self {
        Locks { held, remote }
    }

    pub(super) async fn test(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        self.remote.journal.flush_changes_of(&[&self.remote.nodes.table.get_or_insert(lock.ino)]).await?;
        self.remote.session.test_lock(lock).await
    }

    pub(super) async fn set(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        if lock.kind == LockKind::Unlock {
            // Noted first: a lock that is being given back must not be taken back after a restart.
            self.held.note(lock);
        }
        if lock.kind != LockKind::Unlock {
            // The file may not be at the server yet.
            self.remote.journal.flush_changes_of(&[&self.remote.nodes.table.get_or_insert(lock.ino)]).await?;
        }
        self.remote.session.set_lock(lock, wait).await?;
        if lock.kind != LockKind::Unlock {
            self.held.note(lock);
        }
        Ok(())
    }

    /// A process has closed a descriptor of the file, and so drops all its POSIX locks of it.
    pub(super) async fn closed_by(&self, ino: Ino, owner: LockOwner) -> FsResult<()> {
        if self.held.drop_owner(ino, owner, LockFamily::Posix) {
            self.remote.session.unlock(ino, owner, Some(LockFamily::Posix)).await?;
        }
        Ok(())
    }

    /// An open file that was locked as a whole (`flock`) is there no more.
    pub(super) async fn released_by(&self, ino: Ino, owner: LockOwner) {
        self.held.drop_owner(ino, owner, LockFamily::Flock);
        if let Err(errno) = self.remote.session.unlock(ino, owner, Some(LockFamily::Flock)).await {
            tracing::warn!(%ino, ?errno, "a lock could not be given back");
        }
    }
}
