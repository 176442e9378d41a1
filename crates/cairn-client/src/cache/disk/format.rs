//! The files of a disk cache. Names and bytes alone; nothing here keeps state.
//!
//! ```text
//! DIR/LOCK                      held while a mount uses DIR; says which
//! DIR/VOLUME/00000012.data      contents of blocks, one after the other
//! DIR/VOLUME/00000012.map       header, then one record for each block
//!
//! header   "CRNCACH1"  bytes of a block u32  zero u32
//! record   blob u64  offset in the blob u32  length u32  position in .data u32  crc32c of the content u32
//!          zero u32  crc32c of the 28 bytes before u32                                    (little-endian, 32 bytes)
//! ```
//!
//! A record is written after its content, without waiting for the disk: after a crash either may be missing or
//! damaged, which the two checksums tell.

use std::path::{Path, PathBuf};

use cairn_types::BlobId;

use crate::cache::{BLOCK, BlockKey};

pub(super) const HEADER: usize = 16;
pub(super) const RECORD: usize = 32;
const MAGIC: &[u8; 8] = b"CRNCACH1";

/// Number of a segment: a pair of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentId(pub u32);

impl SegmentId {
    pub(super) fn data_path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{:08}.data", self.0))
    }

    pub(super) fn map_path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{:08}.map", self.0))
    }

    /// The segment whose data file has this name.
    pub(super) fn of_data_file(path: &Path) -> Option<SegmentId> {
        if path.extension()? != "data" {
            return None;
        }
        path.file_stem()?.to_str()?.parse().ok().map(SegmentId)
    }
}

/// Where a part of a blob lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub blob: BlobId,
    /// In the blob, in bytes; the part ends inside the same block.
    pub start: u32,
    pub length: u32,
    /// In the data file.
    pub position: u32,
    pub crc: u32,
}

impl Record {
    pub(super) fn key(&self) -> BlockKey {
        BlockKey { blob: self.blob, index: self.start / BLOCK }
    }

    fn is_sensible(&self) -> bool {
        let end_in_block = u64::from(self.start % BLOCK) + u64::from(self.length);
        self.length > 0 && end_in_block <= u64::from(BLOCK) && self.position.checked_add(self.length).is_some()
    }

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.blob.0.to_le_bytes());
        for (index, field) in [self.start, self.length, self.position, self.crc].into_iter().enumerate() {
            bytes[8 + 4 * index..12 + 4 * index].copy_from_slice(&field.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if crc32c::crc32c(&bytes[..28]) != field(28) {
            return None;
        }
        let blob = BlobId(u64::from(field(0)) | (u64::from(field(4)) << 32));
        let record = Record { blob, start: field(8), length: field(12), position: field(16), crc: field(20) };
        record.is_sensible().then_some(record)
    }
}

pub(super) fn header() -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&BLOCK.to_le_bytes());
    bytes
}

/// The records of a map up to the first that is damaged; `None` if it is of another format.
pub(super) fn decode_map(bytes: &[u8]) -> Option<Vec<Record>> {
    let header = header();
    let records = bytes.strip_prefix(header.as_slice())?;
    Some(records.chunks_exact(RECORD).map_while(Record::decode).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let fields = (any::<u64>(), 0u32..1000, 1u32..=BLOCK, 0u32..1 << 30, any::<u32>());
        fields.prop_map(|(blob, index, length, position, crc)| Record {
            blob: BlobId(blob),
            start: index * BLOCK + (BLOCK - length),
            length,
            position,
            crc,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_up_to_the_first_damage(
            records in prop::collection::vec(record(), 1..20), torn in 0usize..RECORD, flip in any::<prop::sample::Index>(),
        ) {
            let mut map = header().to_vec();
            for record in &records {
                map.extend(record.encode());
            }
            prop_assert_eq!(decode_map(&map), Some(records.clone()));
            let cut = map.len() - torn;
            let whole = (cut - HEADER) / RECORD;
            prop_assert_eq!(decode_map(&map[..cut]), Some(records[..whole].to_vec()));
            let at = HEADER + flip.index(map.len() - HEADER);
            map[at] ^= 1;
            prop_assert_eq!(decode_map(&map), Some(records[..(at - HEADER) / RECORD].to_vec()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut map = header().to_vec();
            map.extend(&bytes);
            let _ = decode_map(&map);
            prop_assert!(decode_map(&bytes).is_none() || bytes.starts_with(MAGIC));
        }
    }
}
