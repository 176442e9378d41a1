//! How a volume is used here: what it may take of memory and disks, and what it leaves alone.

use std::path::PathBuf;
use std::time::Duration;

use cairn_runtime::MemoryBudget;

use crate::cache::disk::DiskCacheOptions;
use crate::prefetch::policy::streams::WINDOW_MAX;

/// How a volume is used here.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// What this process may use, together with whatever else takes shares of it.
    pub memory: MemoryBudget,
    /// Most bytes of file content that are cached in memory; as far as the process's memory has room for them.
    pub cache_bytes: u64,
    /// A cache on a local disk behind the one in memory.
    pub disk_cache: Option<DiskCacheOptions>,
    /// Most bytes that are written here and not yet at the server; writers wait beyond it. As far as the process's memory has
    /// room for them.
    pub dirty_bytes: u64,
    /// Largest read-ahead of one open file, in bytes.
    pub read_ahead_bytes: u64,
    /// Nodes that are remembered without being in use.
    pub nodes: usize,
    /// How long a change of content may stay here before it is sent.
    pub flush_delay: Duration,
    /// Every change fails with `EROFS`.
    pub read_only: bool,
    /// Access times are never changed.
    pub noatime: bool,
    /// Leave access times of directories alone.
    pub nodiratime: bool,
    /// Where data is saved that can no longer be written to the volume; a folder for each volume is made in it.
    pub recovery_dir: PathBuf,
}

impl VolumeOptions {
    /// The usual ones, in a process with so much memory.
    pub fn new(memory: MemoryBudget) -> Self {
        let limit = memory.limit();
        let state = std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        VolumeOptions {
            memory,
            cache_bytes: (limit / 8).min(1 << 30),
            disk_cache: None,
            dirty_bytes: (limit / 8).min(256 << 20),
            read_ahead_bytes: WINDOW_MAX,
            nodes: 150_000,
            flush_delay: Duration::from_secs(1),
            read_only: false,
            noatime: false,
            nodiratime: false,
            recovery_dir: state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("cairn/recovery"),
        }
    }
}
