//! Reading blobs, whole or in part.
//!
//! A read is widened to whole check blocks and comes with their checksums. The record's header, which covers the
//! checksums, is verified here, so that a wrong or damaged place is found; the data itself is verified by whoever
//! needs it, which for a client is its own side of the network. Headers of blobs that are read in parts are kept
//! ([`Headers`]), so that a read at a random place is one read of the disk.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::checksum::{blob_hash, verify_blocks};
use cairn_types::limits::CHECK_BLOCK;
use cairn_types::{BlobId, BlobPlace, PackId};
use lru::LruCache;

use crate::blob_store::Wait;
use crate::error::{ChunkError, Problem, ProblemKind};
use crate::format::{
    FormatError, PACK_HEADER_LEN, RecordHeader, parse_checksums, parse_pack_header, parse_record_header, prefix_len,
};
use crate::lock_order;
use crate::place::is_possible;
use crate::store::PackStore;
use crate::sys;

/// Data that begins at most this many bytes into the payload is read together with the header: the bytes that nobody
/// asked for cost less than a second system call.
const READ_THROUGH: u32 = CHECK_BLOCK;
/// Headers that are kept: of 32 GiB in chunks of 4 MiB, with 1 KiB of checksums each.
const HEADERS_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

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
    /// Bytes `range` of the blob, which was the range that was asked for, if every block matches its checksum; else the first
    /// block of the blob that does not.
    pub fn verified(&self, range: Range<u32>) -> Result<Bytes, usize> {
        verify_blocks(&self.data, &self.checksums).map_err(|index| self.first_block() + index)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let start = (range.start - self.data_offset) as usize;
        Ok(self.data.slice(start..start + range.len()))
    }

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
    /// Says where bytes `range` of a blob lie, reading at most its header.
    ///
    /// # Errors
    /// As for [`PackStore::read`].
    pub fn locate(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<LocatedBlob, ChunkError> {
        self.guarded(blob, place, &range, || {
            let data = widened(&range, place.payload_len);
            let head = self.head_of(blob, place, Wait::Storage)?;
            Ok(LocatedBlob {
                position: place.offset + prefix_len(place.payload_len) as u64 + u64::from(data.start),
                length: data.end - data.start,
                data_offset: data.start,
                checksums: head.checksums_of(&data),
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
        self.fetch(blob, place, range, Wait::Storage).map(|(_, read)| read)
    }

    /// As [`PackStore::read`], without waiting for the disk.
    ///
    /// # Errors
    /// [`ChunkError::NotInMemory`] where the disk would have to be waited for; else as for [`PackStore::read`].
    pub fn read_from_memory(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<ReadBlob, ChunkError> {
        self.fetch(blob, place, range, Wait::Never).map(|(_, read)| read)
    }

    /// Reads bytes `range` of a blob and verifies the blocks they lie in.
    ///
    /// # Errors
    /// As for [`PackStore::read`]; [`ChunkError::Damaged`] also if a block does not match its checksum.
    pub fn read_verified(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<Bytes, ChunkError> {
        let (_, read) = self.fetch(blob, place, range.clone(), Wait::Storage)?;
        read.verified(range)
            .map_err(|block| ChunkError::Damaged(self.problem(place, blob, ProblemKind::BadBlock { block })))
    }

    /// Checks everything about a blob's record: its header, every block, and the hash of the whole.
    ///
    /// # Errors
    /// [`ChunkError::Damaged`] says what is wrong; else as for [`PackStore::read`].
    pub fn verify_blob(&self, blob: BlobId, place: &BlobPlace) -> Result<(), ChunkError> {
        let (header, read) = self.fetch(blob, place, 0..place.payload_len, Wait::Storage)?;
        read.verified(0..place.payload_len)
            .map_err(|block| ChunkError::Damaged(self.problem(place, blob, ProblemKind::BadBlock { block })))?;
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

    fn fetch(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        range: Range<u32>,
        wait: Wait,
    ) -> Result<(RecordHeader, ReadBlob), ChunkError> {
        self.guarded(blob, place, &range, || self.fetch_record(blob, place, &range, wait))
    }

    /// Refuses what cannot be read, and what was freed before or during `read`.
    fn guarded<T>(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        range: &Range<u32>,
        read: impl FnOnce() -> Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        if !is_possible(place) {
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
        wait: Wait,
    ) -> Result<(RecordHeader, ReadBlob), ChunkError> {
        let wanted = widened(range, place.payload_len);
        let data_len = wanted.len();
        let prefix = prefix_len(place.payload_len);
        let (head, data) = if wanted.start <= READ_THROUGH {
            let record = self.read_from_pack(blob, place, 0, prefix + wanted.end as usize, wait)?;
            let data = record.slice(record.len().min(prefix + wanted.start as usize)..);
            (Arc::new(self.checked_head(blob, place, &record[..record.len().min(prefix)])?), data)
        } else {
            let start = prefix as u64 + u64::from(wanted.start);
            if wait == Wait::Storage && self.headers.get(blob, place).is_none() {
                // It fetches both at the same time.
                self.read_soon(place, start, data_len);
            }
            let head = self.head_of(blob, place, wait)?;
            (head, self.read_from_pack(blob, place, start, data_len, wait)?)
        };
        if data.len() < data_len {
            return Err(ChunkError::Damaged(self.problem(place, blob, ProblemKind::CutRecord)));
        }
        let checksums = head.checksums_of(&wanted);
        Ok((head.header, ReadBlob { data, checksums, data_offset: wanted.start }))
    }

    /// The header of a blob's record and its checksums, which are kept for the next time.
    fn head_of(&self, blob: BlobId, place: &BlobPlace, wait: Wait) -> Result<Arc<Head>, ChunkError> {
        if let Some(head) = self.headers.get(blob, place) {
            return Ok(head);
        }
        let bytes = self.read_from_pack(blob, place, 0, prefix_len(place.payload_len), wait)?;
        let head = Arc::new(self.checked_head(blob, place, &bytes)?);
        self.headers.put(blob, *place, Arc::clone(&head));
        Ok(head)
    }

    /// Tells the kernel what will be read from a record in a moment.
    fn read_soon(&self, place: &BlobPlace, offset: u64, length: usize) {
        // Whoever reads it finds out what is wrong with the file.
        if let Ok(file) = self.files.get(place.pack) {
            sys::read_soon(&file, place.offset + offset, length);
        }
    }

    /// Up to `length` bytes from `offset` of a record on: fewer only where the file ends.
    fn read_from_pack(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        offset: u64,
        length: usize,
        wait: Wait,
    ) -> Result<Bytes, ChunkError> {
        let io = |error: io::Error| ChunkError::io("cannot read", &self.files.path(place.pack))(error);
        let file = self.files.get(place.pack).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ChunkError::Damaged(self.problem(place, blob, ProblemKind::MissingFile)),
            _ => io(error),
        })?;
        let bytes = match wait {
            Wait::Storage => sys::read_at(&file, place.offset + offset, length).map_err(io)?,
            Wait::Never => sys::read_at_now(&file, place.offset + offset, length)
                .map_err(io)?
                .ok_or(ChunkError::NotInMemory { blob })?,
        };
        Ok(Bytes::from(bytes))
    }

    /// Takes in the header of this blob's record, if that is what `head` is.
    fn checked_head(&self, blob: BlobId, place: &BlobPlace, head: &[u8]) -> Result<Head, ChunkError> {
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
        Ok(Head { header, checksums: parse_checksums(head, place.payload_len) })
    }
}

/// The whole check blocks in which `range` lies; nothing for an empty range.
pub(crate) fn widened(range: &Range<u32>, payload_len: u32) -> Range<u32> {
    let start = range.start - range.start % CHECK_BLOCK;
    let end = if range.is_empty() { start } else { range.end.next_multiple_of(CHECK_BLOCK).min(payload_len) };
    start..end
}

/// The verified header of a record, with its table of checksums.
#[derive(Debug)]
struct Head {
    header: RecordHeader,
    checksums: Vec<u32>,
}

impl Head {
    /// The checksums of the blocks `data`.
    fn checksums_of(&self, data: &Range<u32>) -> Vec<u32> {
        let first = (data.start / CHECK_BLOCK) as usize;
        let count = data.len().div_ceil(CHECK_BLOCK as usize);
        self.checksums.iter().skip(first).take(count).copied().collect()
    }
}

/// Headers of the records that were read in parts last. A header never changes while its record is there, and whether that is
/// so is asked for every read.
#[derive(Debug)]
pub(crate) struct Headers(Mutex<LruCache<BlobId, (BlobPlace, Arc<Head>)>, lock_order::KeptHeaders>);

impl Default for Headers {
    fn default() -> Self {
        Headers(Mutex::new(LruCache::new(HEADERS_MAX)))
    }
}

impl Headers {
    fn get(&self, blob: BlobId, place: &BlobPlace) -> Option<Arc<Head>> {
        let mut kept = self.0.lock();
        let (at, head) = kept.get(&blob)?;
        (at == place).then(|| Arc::clone(head))
    }

    fn put(&self, blob: BlobId, place: BlobPlace, head: Arc<Head>) {
        self.0.lock().put(blob, (place, head));
    }
}
