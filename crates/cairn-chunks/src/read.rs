//! Reading blobs, whole or in part.
//!
//! A read is widened to whole check blocks and comes with their checksums. The record's header, which covers the
//! checksums, is verified here, so that a wrong or damaged place is found; the data itself is verified by whoever
//! needs it, which for a client is its own side of the network.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use cairn_types::BlobId;
use cairn_types::checksum::{blob_hash, verify_blocks};
use cairn_types::limits::CHECK_BLOCK;

use crate::error::{ChunkError, Problem, ProblemKind};
use crate::format::{
    FormatError, PACK_HEADER_LEN, RecordHeader, parse_checksums, parse_pack_header, parse_record_header, prefix_len,
};
use crate::place::{BlobPlace, PackId};
use crate::store::PackStore;
use crate::sys;

/// Data that begins at most this many bytes into the payload is read together with the header: the bytes that nobody
/// asked for cost less than a second system call.
const READ_THROUGH: u32 = CHECK_BLOCK;

/// Part of a blob, unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBlob {
    /// Bytes of the blob from `data_offset` on: the range that was asked for, widened to whole check blocks.
    pub data: Bytes,
    /// One for each block of `data`.
    pub checksums: Vec<u32>,
    /// Where `data` begins in the blob, in bytes; a multiple of [`CHECK_BLOCK`].
    pub data_offset: u32,
}

impl ReadBlob {
    fn first_block(&self) -> usize {
        (self.data_offset / CHECK_BLOCK) as usize
    }
}

/// Where part of a blob lies in the file of its pack, for somebody who reads it without this store
/// ([`PackStore::open_pack_file`]). What is read there may have been freed since: it is good if it matches the checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedBlob {
    /// Of the part's first byte in the file.
    pub position: u64,
    /// In bytes: the range that was asked for, widened to whole check blocks.
    pub length: u32,
    /// Where the part begins in the blob; a multiple of [`CHECK_BLOCK`].
    pub data_offset: u32,
    /// One for each block.
    pub checksums: Vec<u32>,
}

impl PackStore {
    /// Says where bytes `range` of a blob lie, reading its header alone.
    ///
    /// # Errors
    /// As for [`PackStore::read`].
    pub fn locate(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<LocatedBlob, ChunkError> {
        self.guarded(blob, place, &range, || {
            let prefix = prefix_len(place.payload_len);
            let head = self.read_from_pack(blob, place, 0, prefix)?;
            self.check_header(blob, place, &head)?;
            let data = widened(&range, place.payload_len);
            let checksums = checksums_of(&head, place.payload_len, &data);
            Ok(LocatedBlob {
                position: place.offset + prefix as u64 + u64::from(data.start),
                length: data.end - data.start,
                data_offset: data.start,
                checksums,
            })
        })
    }

    /// Reads bytes `range` of a blob without verifying them; see [`ReadBlob`].
    ///
    /// # Errors
    /// [`ChunkError::Gone`] if the place was freed, also while this read was under way: look the blob up again.
    /// [`ChunkError::Damaged`] if the record is not there or its header is damaged. [`ChunkError::OutOfRange`],
    /// [`ChunkError::ImpossiblePlace`] for a caller's mistake.
    pub fn read(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<ReadBlob, ChunkError> {
        self.fetch(blob, place, range).map(|(_, read)| read)
    }

    /// Reads bytes `range` of a blob and verifies the blocks they lie in.
    ///
    /// # Errors
    /// As for [`PackStore::read`]; [`ChunkError::Damaged`] also if a block does not match its checksum.
    pub fn read_verified(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<Bytes, ChunkError> {
        let (_, read) = self.fetch(blob, place, range.clone())?;
        self.verify_data(blob, place, &read)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let start = (range.start - read.data_offset) as usize;
        Ok(read.data.slice(start..start + range.len()))
    }

    /// Checks everything about a blob's record: its header, every block, and the hash of the whole.
    ///
    /// # Errors
    /// [`ChunkError::Damaged`] says what is wrong; else as for [`PackStore::read`].
    pub fn verify_blob(&self, blob: BlobId, place: &BlobPlace) -> Result<(), ChunkError> {
        let (header, read) = self.fetch(blob, place, 0..place.payload_len)?;
        self.verify_data(blob, place, &read)?;
        if blob_hash(&read.data) == header.hash {
            return Ok(());
        }
        Err(ChunkError::Damaged(self.problem(place, blob, ProblemKind::BadHash)))
    }

    /// Checks the header of a pack's file and, as [`PackStore::verify_blob`] does, every blob that the caller knows to
    /// be live in it. Fastest when `live` is in the order of offsets. Blobs that are freed meanwhile are passed over.
    ///
    /// # Errors
    /// Damage is not an error here. [`ChunkError::NoSuchPack`], [`ChunkError::Io`] as they come.
    pub fn verify_pack(
        &self,
        pack: PackId,
        live: impl IntoIterator<Item = (BlobId, BlobPlace)>,
    ) -> Result<Vec<Problem>, ChunkError> {
        let file = self.files.path(self.pack(pack)?.id);
        let mut problems = Vec::new();
        let header = match self.files.get(pack) {
            Ok(open) => {
                sys::read_at(&open, 0, PACK_HEADER_LEN as usize).map_err(ChunkError::io("cannot read", &file))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(ChunkError::io("cannot open", &file)(error)),
        };
        if parse_pack_header(&header).is_err() {
            problems.push(Problem { file, pack, offset: 0, blob: None, kind: ProblemKind::BadFileHeader });
        }
        for (blob, place) in live {
            match self.verify_blob(blob, &place) {
                Ok(()) | Err(ChunkError::Gone { .. }) => {}
                Err(ChunkError::Damaged(problem)) => problems.push(problem),
                Err(error) => return Err(error),
            }
        }
        Ok(problems)
    }

    fn verify_data(&self, blob: BlobId, place: &BlobPlace, read: &ReadBlob) -> Result<(), ChunkError> {
        verify_blocks(&read.data, &read.checksums).map_err(|index| {
            let kind = ProblemKind::BadBlock { block: read.first_block() + index };
            ChunkError::Damaged(self.problem(place, blob, kind))
        })
    }

    fn fetch(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        range: Range<u32>,
    ) -> Result<(RecordHeader, ReadBlob), ChunkError> {
        self.guarded(blob, place, &range, || self.fetch_record(blob, place, &range))
    }

    /// Refuses what cannot be read, and what was freed before or during `read`.
    fn guarded<T>(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        range: &Range<u32>,
        read: impl FnOnce() -> Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        if !place.is_possible() {
            return Err(ChunkError::ImpossiblePlace(*place));
        }
        if range.start > range.end || range.end > place.payload_len {
            return Err(ChunkError::OutOfRange { blob, start: range.start, end: range.end });
        }
        let gone = || ChunkError::Gone { blob, pack: place.pack };
        let pack = self.pack(place.pack).map_err(|_| gone())?;
        let outcome = read();
        // Only now: what was read before the place was given back is good, what was read after may be zeros.
        if pack.is_gone(place) {
            // The file may have been opened just before it was deleted; the descriptor must not keep its space.
            self.files.close(place.pack);
            return Err(gone());
        }
        outcome
    }

    fn fetch_record(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        range: &Range<u32>,
    ) -> Result<(RecordHeader, ReadBlob), ChunkError> {
        let wanted = widened(range, place.payload_len);
        let data_len = wanted.len();
        let prefix = prefix_len(place.payload_len);
        let (head, data) = if wanted.start <= READ_THROUGH {
            let head = self.read_from_pack(blob, place, 0, prefix + wanted.end as usize)?;
            let data = head.slice(head.len().min(prefix + wanted.start as usize)..);
            (head.slice(..head.len().min(prefix)), data)
        } else {
            let head = self.read_from_pack(blob, place, 0, prefix)?;
            (head, self.read_from_pack(blob, place, prefix as u64 + u64::from(wanted.start), data_len)?)
        };
        let header = self.check_header(blob, place, &head)?;
        if data.len() < data_len {
            return Err(ChunkError::Damaged(self.problem(place, blob, ProblemKind::CutRecord)));
        }
        let checksums = checksums_of(&head, header.payload_len, &wanted);
        Ok((header, ReadBlob { data, checksums, data_offset: wanted.start }))
    }

    /// Up to `length` bytes from `offset` of a record on: fewer only where the file ends.
    fn read_from_pack(&self, blob: BlobId, place: &BlobPlace, offset: u64, length: usize) -> Result<Bytes, ChunkError> {
        let io = |error: io::Error| ChunkError::io("cannot read", &self.files.path(place.pack))(error);
        let file = self.files.get(place.pack).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ChunkError::Damaged(self.problem(place, blob, ProblemKind::MissingFile)),
            _ => io(error),
        })?;
        sys::read_at(&file, place.offset + offset, length).map(Bytes::from).map_err(io)
    }

    /// Whether `head` is the header of this blob's record.
    fn check_header(&self, blob: BlobId, place: &BlobPlace, head: &[u8]) -> Result<RecordHeader, ChunkError> {
        let damaged = |kind| ChunkError::Damaged(self.problem(place, blob, kind));
        let header = parse_record_header(head).map_err(|error| match error {
            FormatError::Truncated { .. } if head.len() < prefix_len(place.payload_len) => {
                damaged(ProblemKind::CutRecord)
            }
            _ => damaged(ProblemKind::BadRecordHeader),
        })?;
        if header.blob != blob || header.payload_len != place.payload_len {
            return Err(damaged(ProblemKind::OtherRecord { found: header.blob }));
        }
        Ok(header)
    }
}

/// The whole check blocks in which `range` lies; nothing for an empty range.
fn widened(range: &Range<u32>, payload_len: u32) -> Range<u32> {
    let start = range.start - range.start % CHECK_BLOCK;
    let end = if range.is_empty() { start } else { range.end.next_multiple_of(CHECK_BLOCK).min(payload_len) };
    start..end
}

/// The checksums of the blocks `data` in a record's header.
fn checksums_of(head: &[u8], payload_len: u32, data: &Range<u32>) -> Vec<u32> {
    let first = (data.start / CHECK_BLOCK) as usize;
    let count = data.len().div_ceil(CHECK_BLOCK as usize);
    parse_checksums(head, payload_len).into_iter().skip(first).take(count).collect()
}
