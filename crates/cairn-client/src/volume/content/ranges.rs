//! `fallocate`, `copy_file_range`, `SEEK_DATA` and `SEEK_HOLE`: at the server, on content that is flushed first.

use cairn_types::{AllocateMode, Errno, Ino, MetaOp, Timestamp};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Content;
use crate::api::{CopyTarget, Handle, SeekTarget};
use crate::error::FsResult;
use crate::volume::remote::unfitting;

impl Content {
    pub(crate) async fn allocate(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<()> {
        self.remote.writable()?;
        if length == 0 {
            return Err(Errno::EINVAL.into());
        }
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        if end > self.file_size_max() {
            return Err(Errno::EFBIG.into());
        }
        let node = self.remote.nodes.table.get_or_insert(ino);
        self.settle(&node, handle).await?;
        let time = Timestamp::now();
        let op = MetaOp::Allocate { ino, mode, offset, length, kill_privileges, time };
        self.call_on_content(op, &node, None).await?;
        Ok(())
    }

    pub(crate) async fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        kill_privileges: bool,
    ) -> FsResult<u64> {
        self.remote.writable()?;
        if length == 0 {
            return Ok(0);
        }
        let CopyTarget { ino: target, handle, offset: target_offset } = target;
        if target_offset.checked_add(length).is_none_or(|end| end > self.file_size_max()) {
            return Err(Errno::EFBIG.into());
        }
        let from = self.remote.nodes.table.get_or_insert(source);
        let to = self.remote.nodes.table.get_or_insert(target);
        self.writeback.flush_node(&from).await?;
        self.settle(&to, handle).await?;
        let time = Timestamp::now();
        let op = MetaOp::CopyRange { source, source_offset, target, target_offset, length, kill_privileges, time };
        self.remote.journal.flush_changes_of(&[&from]).await?;
        let _waiting = from.wait_for_server();
        let reply = self.call_on_content(op, &to, None).await?;
        Ok(reply.value)
    }

    pub(crate) async fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        self.writeback.flush_node(&node).await?;
        let hole = target == SeekTarget::Hole;
        let reply = self.remote.query(Query::Seek { ino, offset, hole }, &[&node]).await?;
        self.remote.nodes.absorb(&reply.grants, &[]);
        match reply.answer {
            QueryAnswer::Offset(offset) => Ok(offset),
            other => unfitting(&other),
        }
    }
}
