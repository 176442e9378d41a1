//! `flush`, `fsync`, `sync`, and the errors of writes that are known only when content is sent.

use cairn_types::{Ino, LockOwner};

use super::Content;
use crate::api::Handle;
use crate::error::FsResult;
use crate::node::Node;
use crate::writeback::FLUSH_SOON;

impl Content {
    /// The error of lost writes that this handle was not told of yet.
    pub(crate) fn take_error(&self, node: &Node, handle: Handle) -> FsResult<()> {
        let Some(handle) = self.files.get(handle) else { return Ok(()) };
        let errors = node.lock().write_errors();
        errors.since(&mut handle.error_seen.lock()).map_or(Ok(()), |errno| Err(errno.into()))
    }

    pub(crate) async fn flush(&self, ino: Ino, handle: Handle, owner: LockOwner) -> FsResult<()> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        let much = node.lock().file().is_some_and(|file| file.overlay().dirty_bytes() >= FLUSH_SOON);
        if much {
            self.buffer.files.hurry(&node);
        }
        self.locks.closed_by(ino, owner).await?;
        self.take_error(&node, handle)
    }

    pub(crate) async fn fsync(&self, ino: Ino) -> FsResult<()> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        let synced = if self.remote.is_read_only() { None } else { self.remote.journal.sync_little(&node).await };
        let is_synced = synced.is_some();
        let flushed = match synced {
            Some(synced) => synced,
            None => self.writeback.flush_node(&node).await,
        };
        if let Some(errno) = node.lock().take_error_for_fsync() {
            return Err(errno.into());
        }
        flushed?;
        if self.remote.is_read_only() || is_synced {
            return Ok(());
        }
        self.remote.journal.flush().await?;
        self.remote.session.sync().await
    }

    pub(crate) async fn sync_all(&self) -> FsResult<()> {
        if self.remote.is_read_only() {
            return Ok(());
        }
        self.writeback.flush_all().await?;
        self.remote.journal.flush().await?;
        self.remote.session.sync().await
    }
}
