//! `fallocate`, `copy_file_range`, `SEEK_DATA` and `SEEK_HOLE`: at the server, on content that is flushed first.

use std::sync::Arc;

use cairn_types::{AllocateMode, Errno, Ino, MetaOp, Timestamp};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Mount;
use super::core::unfitting;
use crate::api::{CopyTarget, Handle, SeekTarget};
use crate::error::FsResult;

impl Mount {
    pub(crate) async fn allocate(
        self: &Arc<Self>,
        ino: Ino,
        handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<()> {
        self.writable()?;
        if length == 0 {
            return Err(Errno::EINVAL.into());
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        if end > self.file_size_max() {
            return Err(Errno::EFBIG.into());
        }
        let node = self.nodes.table.get_or_insert(ino);
        self.writeback.flush_node(&node).await?;
        self.take_error_of(&node, handle)?;
        let time = Timestamp::now();
        let op = MetaOp::Allocate { ino, mode, offset, length, kill_privileges, time };
        self.call_on_content(op, &node, None).await?;
        Ok(())
    }

    pub(crate) async fn copy_range(
        self: &Arc<Self>,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<u64> {
        self.writable()?;
        if length == 0 {
            return Ok(0);
        }
        let CopyTarget { ino: target, handle, offset: target_offset } = target;
        if target_offset.checked_add(length).is_none_or(|end| end > self.file_size_max()) {
            return Err(Errno::EFBIG.into());
        }
        let from = self.nodes.table.get_or_insert(source);
        let to = self.nodes.table.get_or_insert(target);
        self.writeback.flush_node(&from).await?;
        self.writeback.flush_node(&to).await?;
        self.take_error_of(&to, handle)?;
        let time = Timestamp::now();
        let op = MetaOp::CopyRange { source, source_offset, target, target_offset, length, kill_privileges, time };
        self.journal.flush_changes_of(&[&from]).await?;
        let _waiting = from.wait_for_server();
        let reply = self.call_on_content(op, &to, None).await?;
        Ok(reply.value)
    }

    pub(crate) async fn seek(self: &Arc<Self>, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        let node = self.nodes.table.get_or_insert(ino);
        self.writeback.flush_node(&node).await?;
        let hole = target == SeekTarget::Hole;
        let reply = self.query(Query::Seek { ino, offset, hole }, &[&node]).await?;
        self.nodes.absorb(&reply.grants, &[]);
        match reply.answer {
            QueryAnswer::Offset(offset) => Ok(offset),
            other => unfitting(&other),
        }
    }
}
