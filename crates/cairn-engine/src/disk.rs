//! How much room is left where the volume lies.
//!
//! The metadata engine cannot go on after a write that failed for want of room. So that it never comes to that, changes
//! that need more room are refused while there is still some left; deleting goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_chunks::{BlobStore, Capacity};
use cairn_locks::Mutex;

use crate::lock_order;

/// For how long a figure is used again.
const FRESH: Duration = Duration::from_millis(20);
/// Room that must stay free: a fiftieth of the disk, within these bounds (bytes).
const RESERVE_MIN: u64 = 4 * 1024 * 1024;
const RESERVE_MAX: u64 = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Without what was [claimed](Disk::claim) since.
    free: u64,
    total: u64,
    taken: Instant,
}

impl Figures {
    fn available(&self) -> u64 {
        self.free.saturating_sub((self.total / 50).clamp(RESERVE_MIN, RESERVE_MAX))
    }
}

#[derive(Debug)]
pub(crate) struct Disk {
    store: Arc<dyn BlobStore>,
    last: Mutex<Option<Figures>, lock_order::DiskFigures>,
}

impl Disk {
    pub(crate) fn new(store: Arc<dyn BlobStore>) -> Self {
        Disk { store, last: Mutex::default() }
    }

    /// Does something with figures that are not old; `None` if there are none to be had.
    fn with<T>(&self, act: impl FnOnce(&mut Figures) -> T) -> Option<T> {
        let mut last = self.last.lock();
        if let Some(figures) = last.as_mut().filter(|figures| figures.taken.elapsed() < FRESH) {
            return Some(act(figures));
        }
        let Capacity { free, total } = self.store.capacity()?;
        let figures = Figures { free, total, taken: Instant::now() };
        Some(act(last.insert(figures)))
    }

    /// Bytes that are free; 0 if that cannot be found out.
    pub(crate) fn free(&self) -> u64 {
        self.with(|figures| figures.free).unwrap_or(0)
    }

    /// Bytes that may be written; a guess at a large number if that cannot be found out.
    pub(crate) fn available(&self) -> u64 {
        self.with(|figures| figures.available()).unwrap_or(u64::MAX)
    }

    /// Whether there is room for so many bytes, which are about to be written.
    pub(crate) fn claim(&self, bytes: u64) -> bool {
        let claim = |figures: &mut Figures| {
            let fits = figures.available() >= bytes;
            if fits {
                figures.free -= bytes;
            }
            fits
        };
        self.with(claim).unwrap_or(true)
    }

    /// Nothing that needs more room should be begun.
    pub(crate) fn is_full(&self) -> bool {
        self.available() == 0
    }
}

#[cfg(test)]
mod tests {
    use cairn_chunks::{BlobStoreOpener, LocalPacks, MemoryBlobs};

    use super::*;

    #[test]
    fn a_real_directory_has_figures_and_what_has_none_is_not_full() {
        let directory = tempfile::tempdir().expect("directory");
        let packs = LocalPacks::new(directory.path(), cairn_chunks::Options::default());
        let disk = Disk::new(packs.open(&[]).expect("opened").0);
        assert!(disk.free() > 0);
        let memory = Disk::new(Arc::new(MemoryBlobs::default()));
        assert_eq!((memory.free(), memory.is_full(), memory.claim(1 << 40)), (0, false, true));
    }

    #[test]
    fn what_is_claimed_at_once_is_not_claimed_twice() {
        let figures = Figures { free: 100 << 20, total: 1 << 30, taken: Instant::now() + Duration::from_secs(3600) };
        let disk = Disk { store: Arc::new(MemoryBlobs::default()), last: Mutex::new(Some(figures)) };
        let available = disk.available();
        assert!(available < 100 << 20);
        assert!(disk.claim(available - 1000));
        assert!(!disk.claim(1001));
        assert!(disk.claim(1000));
        assert!(disk.is_full());
    }
}
