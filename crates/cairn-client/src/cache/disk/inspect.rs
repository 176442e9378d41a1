//! Looking at a cache directory, and emptying it, without a mount.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::{self, SegmentId};
use super::store::{is_volume, remove_files};
use super::{DiskCacheError, lock};

/// What a cache directory holds of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedVolume {
    /// The volume's id.
    pub volume: String,
    /// Blocks that are recorded. Whether they are whole is found out when they are read.
    pub blocks: u64,
    /// Bytes of content.
    pub content_bytes: u64,
    /// Bytes that the files take.
    pub stored_bytes: u64,
}

/// What is in a cache directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheReport {
    /// The mount that uses it now.
    pub used_by: Option<String>,
    pub volumes: Vec<CachedVolume>,
}

/// Looks at a cache directory; a mount may be using it.
///
/// # Errors
/// It is no cache directory, or cannot be read.
pub fn inspect(directory: &Path) -> Result<CacheReport, DiskCacheError> {
    let used_by = lock::owner(directory)?;
    let failed = |source| DiskCacheError::Io { directory: directory.to_owned(), source };
    let mut volumes = Vec::new();
    for folder in volume_folders(directory).map_err(failed)? {
        let volume = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut cached = CachedVolume { volume, blocks: 0, content_bytes: 0, stored_bytes: 0 };
        for segment in segments(&folder).map_err(failed)? {
            cached.stored_bytes += segment.bytes;
            let map = std::fs::read(segment.id.map_path(&folder)).unwrap_or_default();
            let records = format::decode_map(&map).unwrap_or_default();
            cached.blocks += records.len() as u64;
            cached.content_bytes += records.iter().map(|record| u64::from(record.length)).sum::<u64>();
        }
        volumes.push(cached);
    }
    volumes.sort_by(|one, other| one.volume.cmp(&other.volume));
    Ok(CacheReport { used_by, volumes })
}

/// Removes what was used least recently until at most `keep` bytes are left. Returns how many bytes are gone.
///
/// # Errors
/// A mount uses the directory, or it is no cache directory, or cannot be changed.
pub fn evict(directory: &Path, keep: u64) -> Result<u64, DiskCacheError> {
    // Only an existing cache is opened: `take` would make one of any directory.
    lock::owner(directory)?;
    let _lock = lock::take(directory, &format!("`cairn cache evict` (pid {})", std::process::id()))?;
    let failed = |source| DiskCacheError::Io { directory: directory.to_owned(), source };
    let mut all = Vec::new();
    for folder in volume_folders(directory).map_err(failed)? {
        all.extend(segments(&folder).map_err(failed)?.into_iter().map(|segment| (folder.clone(), segment)));
    }
    all.sort_by_key(|(_, segment)| segment.used);
    let mut left: u64 = all.iter().map(|(_, segment)| segment.bytes).sum();
    let mut gone = 0;
    for (folder, segment) in all {
        if left <= keep {
            break;
        }
        remove_files(&folder, segment.id).map_err(failed)?;
        left -= segment.bytes;
        gone += segment.bytes;
    }
    for folder in volume_folders(directory).map_err(failed)? {
        // Fails, as it should, unless the folder is empty.
        let _ = std::fs::remove_dir(folder);
    }
    Ok(gone)
}

struct OnDisk {
    id: SegmentId,
    /// Of both files.
    bytes: u64,
    used: SystemTime,
}

fn volume_folders(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && is_volume(&path) {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn segments(folder: &Path) -> std::io::Result<Vec<OnDisk>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(id) = SegmentId::of_data_file(&path) else { continue };
        // A mount may evict while this looks.
        let Ok(data) = path.metadata() else { continue };
        let map = id.map_path(folder).metadata().map_or(0, |map| map.len());
        segments.push(OnDisk { id, bytes: data.len() + map, used: data.modified()? });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use cairn_types::BlobId;

    use super::super::{DiskCache, DiskCacheOptions};
    use super::*;
    use crate::cache::{BlockKey, Part};

    #[test]
    fn a_cache_is_shown_while_it_is_used_and_emptied_afterwards() {
        let scratch = tempfile::tempdir().expect("scratch");
        let directory = scratch.path().join("cache");
        assert!(matches!(inspect(scratch.path()), Err(DiskCacheError::NotACache { .. })));
        let options = DiskCacheOptions { directory: directory.clone(), limit: 1 << 30 };
        let volume = "abcdefghij".parse().expect("an id");
        let counters = Arc::default();
        let cache = DiskCache::open(&options, &volume, "the mount at /x", &counters).expect("opened");
        cache.offer(BlockKey { blob: BlobId(1), index: 0 }, Part { offset: 0, data: Bytes::from_static(b"content") });
        assert!(cache.wait_until_written(std::time::Duration::from_secs(10)));
        let report = inspect(&directory).expect("shown");
        assert_eq!(report.used_by.as_deref(), Some("the mount at /x"));
        assert_eq!((report.volumes[0].blocks, report.volumes[0].content_bytes), (1, 7));
        let second = DiskCache::open(&options, &volume, "another", &counters).expect_err("locked");
        assert!(second.to_string().contains("in use by the mount at /x"), "{second}");
        assert!(matches!(evict(&directory, 0), Err(DiskCacheError::InUse { .. })));
        cache.close();
        drop(cache);
        assert_eq!(evict(&directory, 1 << 20).expect("nothing to do"), 0);
        assert!(evict(&directory, 0).expect("emptied") > 7);
        assert_eq!(inspect(&directory).expect("shown"), CacheReport { used_by: None, volumes: vec![] });
    }
}
