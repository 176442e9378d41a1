//! Advisory locks: the server decides; what is held is noted for a restart of the server.

use std::sync::Arc;

use cairn_types::{FileLock, LockKind};

use super::Mount;
use crate::error::FsResult;

impl Mount {
    pub(crate) async fn test_lock(self: &Arc<Self>, lock: FileLock) -> FsResult<Option<FileLock>> {
        self.journal.flush_changes_of(&[&self.nodes.table.get_or_insert(lock.ino)]).await?;
        self.session.test_lock(lock).await
    }

    pub(crate) async fn set_lock(self: &Arc<Self>, lock: FileLock, wait: bool) -> FsResult<()> {
        if lock.kind == LockKind::Unlock {
            // Noted first: a lock that is being given back must not be taken back after a restart.
            self.locks.note(lock);
        }
        if lock.kind != LockKind::Unlock {
            // The file may not be at the server yet.
            self.journal.flush_changes_of(&[&self.nodes.table.get_or_insert(lock.ino)]).await?;
        }
        self.session.set_lock(lock, wait).await?;
        if lock.kind != LockKind::Unlock {
            self.locks.note(lock);
        }
        Ok(())
    }
}
