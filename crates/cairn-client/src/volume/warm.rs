//! `cairn warm`: bringing a range of a file into the disk cache, asked for by an extended attribute.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{Errno, Ino, LeaseMode};

use super::{Mount, WARM_ATTRIBUTE};
use crate::cache::disk::DiskCache;
use crate::cache::fetch::Want;
use crate::error::FsResult;
use crate::stats::add;

/// Blocks that are fetched together: few enough to wait in the disk cache's queue.
const RUN: usize = 64;
/// How long the disk may take for one run.
const DISK_LIMIT: Duration = Duration::from_secs(30);
/// Times that what was evicted or skipped meanwhile is fetched again.
const ROUNDS: usize = 3;

/// The range in an attribute's name, if it is one of these.
pub(super) fn range_asked_for(name: &[u8]) -> Option<Range<u64>> {
    let numbers = name.strip_prefix(WARM_ATTRIBUTE.as_bytes())?.strip_prefix(b":")?;
    let (offset, length) = std::str::from_utf8(numbers).ok()?.split_once(':')?;
    let (offset, length): (u64, u64) = (offset.parse().ok()?, length.parse().ok()?);
    Some(offset..offset.checked_add(length)?)
}

impl Mount {
    /// Brings the range into the disk cache and says how much of it is there, of how much, and what the cache holds.
    pub(super) async fn warm(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> FsResult<Bytes> {
        let Some(disk) = self.blocks.disk() else { return Ok(Bytes::from_static(b"none")) };
        let wants = loop {
            self.acquire(ino, LeaseMode::Shared).await?;
            // Another mount may have taken the lease back already; getting it again is limited in time.
            if let Some(wants) = self.blobs_of(ino, range.clone()).await? {
                break wants;
            }
        };
        let bytes = |wants: &[Want]| wants.iter().map(|want| u64::from(want.to - want.from)).sum::<u64>();
        let all = bytes(&wants);
        let mut missing = wants;
        for _ in 0..ROUNDS {
            missing.retain(|want| disk.find(*want).is_none());
            for run in missing.chunks(RUN) {
                self.warm_run(run).await?;
            }
            if !self.with_disk(|disk| disk.wait_until_written(DISK_LIMIT)).await {
                break;
            }
        }
        missing.retain(|want| disk.find(*want).is_none());
        let warm = all - bytes(&missing);
        add(&self.counters.bytes_warmed, warm);
        Ok(format!("{warm}/{all}/{}", disk.limit()).into())
    }

    async fn warm_run(self: &Arc<Self>, run: &[Want]) -> FsResult<()> {
        let bytes = run.iter().map(|want| (want.to - want.from) as usize).sum();
        if !self.with_disk(move |disk| disk.wait_for_room(bytes, DISK_LIMIT)).await {
            return Err(Errno::ETIMEDOUT.into());
        }
        let Some(disk) = self.blocks.disk() else { return Ok(()) };
        let mut absent = Vec::new();
        for want in run {
            match self.blocks.cache().part(want.key()) {
                Some(part) if part.slice(want.from, want.to).is_some() => disk.offer(want.key(), part),
                _ => absent.push(*want),
            }
        }
        // What comes from the server is offered to the disk cache as it arrives.
        for fetch in self.blocks.fetch(&self.fetch_context(), &absent) {
            fetch.wait().await?;
        }
        Ok(())
    }

    /// Runs what waits for the disk on a thread that may.
    async fn with_disk(self: &Arc<Self>, wait: impl Fn(&DiskCache) -> bool + Send + 'static) -> bool {
        let shared = Arc::clone(self);
        let waited = self.runtime.spawn_blocking(move || shared.blocks.disk().is_some_and(wait)).await;
        waited.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_which_range() {
        assert_eq!(range_asked_for(b"cairn.warm:10:5"), Some(10..15));
        for other in ["cairn.warm", "cairn.warm:", "cairn.warm:1", "cairn.warm:x:1", "user.cairn.warm:1:1"] {
            assert_eq!(range_asked_for(other.as_bytes()), None);
        }
        assert_eq!(range_asked_for(b"cairn.warm:18446744073709551615:1"), None);
    }
}
