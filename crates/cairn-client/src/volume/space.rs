//! Space for buffered writes, and `statfs`.

use std::sync::Arc;

use cairn_types::Errno;
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Mount;
use super::core::unfitting;
use crate::api::VolumeUsage;
use crate::error::FsResult;
use crate::reservation::{Amount, GENEROUS, GENEROUS_NODES};

impl Mount {
    /// Gets at least `missing` more bytes of space from the server.
    pub(crate) async fn reserve_more(&self, missing: u64) -> FsResult<()> {
        let limit = self.session.volume().bytes_limit;
        let generous = GENEROUS.min(limit / 16);
        let reserve = || self.session.reserve(missing, missing.saturating_add(generous), 0, 0);
        let (bytes, nodes) = match reserve().await {
            // Files that were removed here may still take space at the server.
            Err(error) if error == Errno::EDQUOT && self.journal.len() > 0 => {
                self.journal.flush().await?;
                reserve().await?
            }
            outcome => outcome?,
        };
        self.space.add(Amount { bytes, nodes });
        Ok(())
    }

    /// Reserves space for a node that is made here. `false` if the server has none to set aside: it decides by itself then.
    pub(crate) async fn reserve_node(&self) -> FsResult<bool> {
        while !self.space.draw_node() {
            match self.session.reserve(0, 0, 1, GENEROUS_NODES).await {
                Ok((bytes, nodes)) => self.space.add(Amount { bytes, nodes }),
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
        self.journal.flush().await?;
        let reply = self.query(Query::Usage, &[]).await?;
        let QueryAnswer::Usage(usage) = reply.answer else { return unfitting(&reply.answer) };
        let used = usage.bytes_used.saturating_add(self.space.drawn().bytes);
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
