//! Room for buffered writes, and `statfs`.

use std::sync::Arc;

use cairn_types::Errno;
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Shared;
use super::core::unfitting;
use crate::api::VolumeUsage;
use crate::error::FsResult;
use crate::node::NodeState;
use crate::room::{Amount, GENEROUS, GENEROUS_NODES};

impl Shared {
    /// Bytes that the buffered content of a file will add to what quota counts, once another `growth` bytes are allocated.
    pub(crate) fn room_needed(&self, state: &NodeState, growth: u64) -> u64 {
        let (Some(base), Some(view)) = (state.attr(), state.view()) else { return 0 };
        let mut full = view;
        full.allocated += growth;
        full.charged(self.allocation).saturating_sub(base.charged(self.allocation))
    }

    /// Gives back room that a file's buffered content no longer needs; `consumed` bytes of it were used by the server.
    pub(crate) fn redraw(&self, state: &mut NodeState, consumed: u64) {
        let needed = self.room_needed(state, 0);
        let Some(file) = state.file_mut() else { return };
        if needed <= file.reserved() {
            self.room.settle(file.reserved() - needed, consumed);
            file.set_reserved(needed);
        }
    }

    /// Gets at least `missing` more bytes of room from the server.
    pub(crate) async fn more_room(&self, missing: u64) -> FsResult<()> {
        let limit = self.session.volume().bytes_limit;
        let generous = GENEROUS.min(limit / 16);
        let reserve = || self.session.reserve(missing, missing.saturating_add(generous), 0, 0);
        let (bytes, nodes) = match reserve().await {
            // Files that were removed here may still take room at the server.
            Err(error) if error == Errno::EDQUOT && self.journal.len() > 0 => {
                self.flush_journal().await?;
                reserve().await?
            }
            outcome => outcome?,
        };
        self.room.add(Amount { bytes, nodes });
        Ok(())
    }

    /// Draws room for a node that is made here. `false` if the server has none to set aside: it decides by itself then.
    pub(crate) async fn draw_node(&self) -> FsResult<bool> {
        while !self.room.draw_node() {
            match self.session.reserve(0, 0, 1, GENEROUS_NODES).await {
                Ok((bytes, nodes)) => self.room.add(Amount { bytes, nodes }),
                Err(error) if error == Errno::EDQUOT => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// Largest file, in bytes.
    pub(crate) fn file_size_max(&self) -> u64 {
        let chunks = u64::from(u32::MAX) * u64::from(self.chunk_size);
        chunks.min(cairn_types::limits::FILE_SIZE_MAX)
    }

    pub(crate) async fn stat_fs(self: &Arc<Self>) -> FsResult<VolumeUsage> {
        // What was made and removed here counts, too.
        self.flush_journal().await?;
        let reply = self.query(Query::Usage, &[]).await?;
        let QueryAnswer::Usage(usage) = reply.answer else { return unfitting(&reply.answer) };
        let used = usage.bytes_used.saturating_add(self.room.drawn().bytes);
        let free = usage.bytes_limit.saturating_sub(used).min(usage.disk_free);
        Ok(VolumeUsage {
            // A volume may be larger than the server's disk: what `df` counts as used must be what is used all the same.
            bytes_total: used.saturating_add(free),
            bytes_free: free,
            inodes_total: usage.inodes_limit,
            inodes_free: usage.inodes_limit.saturating_sub(usage.inodes_used),
        })
    }
}

/// The errno for a program whose buffered writes were lost because of `errno`.
pub(crate) fn lost_write_errno(errno: Errno) -> Errno {
    if matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) { errno } else { Errno::EIO }
}
