//! Tails: bytes that were appended to packs and not flushed, so few that they are better stored elsewhere for a while.
//!
//! Flushing a pack that has grown takes the file system's journal, too. Where somebody waits for few bytes, the server stores them in
//! its log, and the pack is flushed later with much else. After a crash [`restore_tails`] puts them back to where
//! they were, before the store is opened.
//!
//! Encoded, little-endian, one after the other: u32 pack, u64 offset in its file, u32 length, bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::place::file_name;
use crate::store::PackStore;
use crate::sys;
use cairn_types::PackId;

/// Bytes of a pack that are neither flushed nor stored elsewhere.
pub(crate) struct Tail {
    pub(crate) pack: PackId,
    pub(crate) file: Arc<File>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl PackStore {
    /// What was appended since the last [`PackStore::sync`] and the last call of this, encoded for [`restore_tails`]: the caller
    /// now has to store it durably, or to sync. `None` if it is more than `most` bytes, or more than bytes of packs.
    pub fn take_tails(&self, most: u64) -> Option<Vec<u8>> {
        let tails = self.flusher.take_tails(most)?;
        let mut encoded = Vec::new();
        for tail in tails {
            let length = usize::try_from(tail.end - tail.start).ok()?;
            let bytes = sys::read_at(&tail.file, tail.start, length).ok().filter(|bytes| bytes.len() == length)?;
            encoded.extend_from_slice(&tail.pack.0.to_le_bytes());
            encoded.extend_from_slice(&tail.start.to_le_bytes());
            encoded.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
            encoded.extend_from_slice(&bytes);
        }
        Some(encoded)
    }
}

/// Puts tails back into the packs in `directory`, durably. A pack that is no more was deleted since, and needs none.
///
/// # Errors
/// What the disk says; `InvalidData` for what [`PackStore::take_tails`] did not make.
pub fn restore_tails(directory: &Path, mut encoded: &[u8]) -> io::Result<()> {
    while !encoded.is_empty() {
        let (pack, offset, bytes) = decode(&mut encoded).ok_or(io::ErrorKind::InvalidData)?;
        let file = match OpenOptions::new().write(true).open(directory.join(file_name(pack))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        sys::write_all_at(&file, &[bytes], offset)?;
        sys::sync_data(&file)?;
    }
    Ok(())
}

fn decode<'bytes>(encoded: &mut &'bytes [u8]) -> Option<(PackId, u64, &'bytes [u8])> {
    let (pack, rest) = encoded.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *encoded = rest;
    Some((PackId(u32::from_le_bytes(*pack)), u64::from_le_bytes(*offset), bytes))
}
