//! What a volume may be like. Pure checks; every face of the server that makes or changes volumes goes through them.

use cairn_types::limits::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};

use super::CatalogueError;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest label of a data centre, in bytes.
pub const DATA_CENTER_MAX: usize = 64;
/// Largest volume, in bytes: 1 EiB, far enough below 2^64 that sums never overflow.
pub const BYTES_LIMIT_MAX: u64 = 1 << 60;
/// Most nodes of a volume; numbers of nodes are never used again, so there must be far more numbers than nodes.
pub const INODES_LIMIT_MAX: u64 = 1 << 48;

/// A volume gets one node for each of so many bytes, unless it is asked for otherwise: ext4 does with a quarter as many, and
/// trees of small files, which this is made for, average more than this.
const BYTES_PER_INODE: u64 = 4096;
/// … but at least so many: even a small volume takes a `node_modules` or a Python environment, whose files may be empty.
const INODES_LIMIT_LEAST: u64 = 1 << 20;

/// Most nodes of a volume for whose number nobody asked.
pub fn default_inodes_limit(bytes_limit: u64) -> u64 {
    (bytes_limit / BYTES_PER_INODE).max(INODES_LIMIT_LEAST)
}

pub fn check_name(name: &str) -> Result<(), CatalogueError> {
    let fits = !matches!(name, "" | "." | "..")
        && name.len() <= NAME_MAX
        && name.trim() == name
        && !name.chars().any(|letter| letter.is_control() || letter == '/');
    if fits { Ok(()) } else { Err(CatalogueError::InvalidName(name.to_owned())) }
}

pub fn check_data_center(label: &str) -> Result<(), CatalogueError> {
    let fits = label.len() <= DATA_CENTER_MAX && !label.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(CatalogueError::InvalidDataCenter) }
}

pub fn check_bytes_limit(bytes: u64) -> Result<(), CatalogueError> {
    if (1..=BYTES_LIMIT_MAX).contains(&bytes) { Ok(()) } else { Err(CatalogueError::InvalidBytesLimit(bytes)) }
}

pub fn check_inodes_limit(inodes: u64) -> Result<(), CatalogueError> {
    if (1..=INODES_LIMIT_MAX).contains(&inodes) { Ok(()) } else { Err(CatalogueError::InvalidInodesLimit(inodes)) }
}

pub fn check_chunk_size(bytes: u32) -> Result<(), CatalogueError> {
    let fits = bytes.is_power_of_two() && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&bytes);
    if fits { Ok(()) } else { Err(CatalogueError::InvalidChunkSize(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "my volume", "größe", "x".repeat(255).as_str()] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a/b", "a\nb", "a\0", "x".repeat(256).as_str()] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chunk_sizes_are_powers_of_two_within_limits() {
        for good in [64 * 1024, 4 * 1024 * 1024, 64 * 1024 * 1024] {
            assert!(check_chunk_size(good).is_ok(), "{good}");
        }
        for bad in [0, 1, 32 * 1024, 3 * 1024 * 1024, 128 * 1024 * 1024, u32::MAX] {
            assert!(check_chunk_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert!(check_bytes_limit(0).is_err() && check_bytes_limit(u64::MAX).is_err());
        assert!(check_bytes_limit(1).is_ok() && check_bytes_limit(BYTES_LIMIT_MAX).is_ok());
        assert!(check_inodes_limit(default_inodes_limit(BYTES_LIMIT_MAX)).is_ok());
        assert_eq!(default_inodes_limit(1), 1 << 20);
        assert_eq!(default_inodes_limit(100 << 30), (100 << 30) / 4096);
    }
}
