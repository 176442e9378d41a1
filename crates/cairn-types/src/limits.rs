//! Sizes that every part agrees on. A value that is stored or sent is only ever raised with a new format version.

/// Longest file name, in bytes (POSIX `NAME_MAX` on Linux).
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (`PATH_MAX` without its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// Longest name of an extended attribute, in bytes (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 65_536;
/// Most hard links to one file (what ext4 allows; a `u16` there, a habit of programs here).
pub const LINK_MAX: u32 = 65_000;
/// Largest file, in bytes: what `off_t` holds, cut to whole chunks of the largest size.
pub const FILE_SIZE_MAX: u64 = (i64::MAX as u64) & !(CHUNK_SIZE_MAX as u64 - 1);

/// Smallest, default and largest chunk, in bytes; a chunk size is a power of two.
pub const CHUNK_SIZE_MIN: u32 = 64 * 1024;
pub const CHUNK_SIZE_DEFAULT: u32 = 4 * 1024 * 1024;
pub const CHUNK_SIZE_MAX: u32 = 64 * 1024 * 1024;

/// Granularity of blob checksums, in bytes: a ranged read is widened to whole blocks so that it can be verified.
/// 16 KiB costs 4 bytes of checksum in 16,384 and lets a random 4 KiB read touch four pages.
pub const CHECK_BLOCK: u32 = 16 * 1024;

/// Unit in which `st_blocks` counts, in bytes.
pub const STAT_BLOCK: u64 = 512;
