//! How much room the server's disk has left.
//!
//! The metadata engine cannot go on after a write that failed for want of room. So that it never comes to that, changes
//! that need more room are refused while there is still some left; deleting goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long a figure is used again.
const FRESH: Duration = Duration::from_millis(200);
/// Room that must stay free: a fiftieth of the disk, within these bounds (bytes).
const RESERVE_MIN: u64 = 4 * 1024 * 1024;
const RESERVE_MAX: u64 = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
struct Figures {
    free: u64,
    total: u64,
    taken: Instant,
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    last: Mutex<Option<Figures>>,
}

impl Disk {
    pub(super) fn new(directory: &Path) -> Self {
        Disk { directory: directory.to_owned(), last: Mutex::default() }
    }

    fn figures(&self) -> Option<Figures> {
        if let Some(figures) = self.last.lock().filter(|figures| figures.taken.elapsed() < FRESH) {
            return Some(figures);
        }
        let state = rustix::fs::statvfs(&self.directory).ok()?;
        let unit = state.f_frsize;
        let free = state.f_bavail.saturating_mul(unit);
        let figures = Figures { free, total: state.f_blocks.saturating_mul(unit), taken: Instant::now() };
        *self.last.lock() = Some(figures);
        Some(figures)
    }

    /// Bytes that are free; 0 if that cannot be found out.
    pub(super) fn free(&self) -> u64 {
        self.figures().map_or(0, |figures| figures.free)
    }

    /// Nothing that needs more room should be begun.
    pub(super) fn is_full(&self) -> bool {
        self.figures().is_some_and(|figures| figures.free < (figures.total / 50).clamp(RESERVE_MIN, RESERVE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_directory_has_figures_and_a_missing_one_is_not_full() {
        let directory = tempfile::tempdir().expect("directory");
        let disk = Disk::new(directory.path());
        assert!(disk.free() > 0);
        let missing = Disk::new(&directory.path().join("missing"));
        assert_eq!((missing.free(), missing.is_full()), (0, false));
    }
}
