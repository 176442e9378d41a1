//! Space under the quota: what is set aside for changes that are buffered here, and `statfs`.
//!
//! What is set aside and drawn is counted in [`SpaceReservation`]; here more of it is got from the server.

use std::sync::Arc;

use cairn_types::Errno;
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::remote::{Remote, unfitting};
use crate::api::VolumeUsage;
use crate::error::FsResult;
use crate::reservation::{Amount, GENEROUS, GENEROUS_NODES, SpaceReservation};

/// What is set aside, and how more of it is had.
pub(super) struct Space {
    pub(super) reservation: Arc<SpaceReservation>,
    remote: Arc<Remote>,
}

impl Space {
    pub(super) fn new(reservation: Arc<SpaceReservation>, remote: Arc<Remote>) -> Self {
        Space { reservation, remote }
    }

    /// Gets at least `missing` more bytes of space from the server.
    pub(super) async fn reserve_more(&self, missing: u64) -> FsResult<()> {
        let limit = self.remote.session.volume().bytes_limit;
        let generous = GENEROUS.min(limit / 16);
        let reserve = || self.remote.session.reserve(missing, missing.saturating_add(generous), 0, 0);
        let (bytes, nodes) = match reserve().await {
            // Files that were removed here may still take space at the server.
            Err(error) if error == Errno::EDQUOT && self.remote.journal.len() > 0 => {
                self.remote.journal.flush().await?;
                reserve().await?
            }
            outcome => outcome?,
        };
        self.reservation.add(Amount { bytes, nodes });
        Ok(())
    }

    /// Reserves space for a node that is made here. `false` if the server has none to set aside: it decides by itself then.
    pub(super) async fn reserve_node(&self) -> FsResult<bool> {
        while !self.reservation.draw_node() {
            match self.remote.session.reserve(0, 0, 1, GENEROUS_NODES).await {
                Ok((bytes, nodes)) => self.reservation.add(Amount { bytes, nodes }),
                Err(error) if error == Errno::EDQUOT => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    pub(super) async fn stat_fs(&self) -> FsResult<VolumeUsage> {
        // What was made and removed here counts, too.
        self.remote.journal.flush().await?;
        let reply = self.remote.query(Query::Usage, &[]).await?;
        let QueryAnswer::Usage(usage) = reply.answer else { return unfitting(&reply.answer) };
        let used = usage.bytes_used.saturating_add(self.reservation.drawn().bytes);
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
