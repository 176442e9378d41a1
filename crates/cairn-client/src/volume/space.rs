//! Room for buffered writes, and `statfs`.

use std::sync::Arc;

use cairn_types::{Errno, FsResult};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Shared;
use super::core::unfitting;
use crate::api::VolumeUsage;
use crate::inodes::NodeState;
use crate::room::GENEROUS;

impl Shared {
    /// Bytes that the buffered content of a file will add to what quota counts, once another `growth` bytes are allocated.
    pub(crate) fn room_needed(state: &NodeState, growth: u64) -> u64 {
        let (Some(base), Some(view)) = (state.attr, state.view()) else { return 0 };
        let mut full = view;
        full.allocated += growth;
        full.charged().saturating_sub(base.charged())
    }

    /// Gives back room that a file's buffered content no longer needs; `consumed` bytes of it were used by the server.
    pub(crate) fn redraw(&self, state: &mut NodeState, consumed: u64) {
        let needed = Self::room_needed(state, 0);
        let Some(file) = state.file_mut() else { return };
        if needed <= file.drawn {
            self.room.settle(file.drawn - needed, consumed);
            file.drawn = needed;
        }
    }

    /// Gets at least `missing` more bytes of room from the server.
    pub(crate) async fn more_room(&self, missing: u64) -> FsResult<()> {
        let limit = self.session.volume().bytes_limit;
        let generous = GENEROUS.min(limit / 16);
        let (bytes, _) = self.session.reserve(missing, missing.saturating_add(generous), 0, 0).await?;
        self.room.add(bytes);
        Ok(())
    }

    /// Largest file, in bytes.
    pub(crate) fn file_size_max(&self) -> u64 {
        let chunks = u64::from(u32::MAX) * u64::from(self.chunk_size);
        chunks.min(cairn_types::limits::FILE_SIZE_MAX)
    }

    pub(crate) async fn stat_fs(self: &Arc<Self>) -> FsResult<VolumeUsage> {
        let reply = self.query(Query::Usage, &[]).await?;
        let QueryAnswer::Usage(usage) = reply.answer else { return unfitting(&reply.answer) };
        let used = usage.bytes_used.saturating_add(self.room.drawn());
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
