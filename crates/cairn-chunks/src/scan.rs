//! Reading a pack from front to back without knowing what is in it.
//!
//! A scan goes from record to record by their lengths. Where no valid record begins (a hole, damage, a write that a
//! power cut lost) it looks for the next one at every multiple of 8 bytes, jumping over holes, and reports what lies
//! between as a gap. Only headers are read unless a payload is asked for.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::checksum::verify_blocks;
use cairn_types::{BlobPlace, PackId};

use crate::blob_store::StoredBlob;
use crate::error::ChunkError;
use crate::format::{
    FormatError, PACK_HEADER_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RECORD_MAGIC, RecordHeader, parse_checksums,
    parse_pack_header, parse_record_header, prefix_len,
};
use crate::place::record_place;
use crate::store::PackStore;
use crate::sys;

/// Bytes that are read at a time: some hundred small records.
const WINDOW: usize = 256 * 1024;

/// What a scan finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanItem {
    /// A record with a valid header.
    Record(ScannedRecord),
    /// Bytes `start..end` of the file hold no record that can be recognised: freed space, or damage.
    Gap { start: u64, end: u64 },
}

/// A record with a valid header. Its blob may be dead: a pack does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRecord {
    pub header: RecordHeader,
    pub place: BlobPlace,
    /// One for each block of the payload.
    pub checksums: Vec<u32>,
}

impl From<&ScannedRecord> for StoredBlob {
    fn from(record: &ScannedRecord) -> Self {
        let RecordHeader { blob, ino, chunk, .. } = record.header;
        StoredBlob { blob, ino, chunk, place: record.place }
    }
}

/// A scan under way: an iterator over what is in the pack, in the order of offsets. Ends after an error.
#[derive(Debug)]
pub struct Scan {
    pack: PackId,
    file: Arc<File>,
    /// Salt of the pack; unknown until the first record if the header of the file is damaged.
    salt: Option<u64>,
    position: u64,
    end: u64,
    window_start: u64,
    window: Vec<u8>,
}

impl PackStore {
    /// Scans a pack up to its present end.
    pub fn scan(&self, pack: PackId) -> Result<Scan, ChunkError> {
        let pack = self.pack(pack)?;
        let path = self.files.path(pack.id);
        let file = self.files.get(pack.id).map_err(ChunkError::io("cannot open", &path))?;
        let bytes = sys::read_at(&file, 0, PACK_HEADER_LEN as usize).map_err(ChunkError::io("cannot read", &path))?;
        let salt = match parse_pack_header(&bytes) {
            Ok(header) => Some(header.salt),
            Err(FormatError::NewerVersion(version)) => return Err(ChunkError::NewerVersion { file: path, version }),
            Err(_) => None,
        };
        Ok(Scan::new(pack.id, file, salt, PACK_HEADER_LEN, pack.length()))
    }
}

impl Scan {
    pub(crate) fn new(pack: PackId, file: Arc<File>, salt: Option<u64>, start: u64, end: u64) -> Self {
        let position = start.next_multiple_of(RECORD_ALIGN);
        Scan { pack, file, salt, position, end, window_start: 0, window: Vec::new() }
    }

    /// The payload of a record that this scan found, unverified; shorter if the file has been cut meanwhile.
    pub fn payload(&mut self, record: &ScannedRecord) -> io::Result<Bytes> {
        let start = record.place.offset + prefix_len(record.header.payload_len) as u64;
        let length = record.header.payload_len as usize;
        if length <= WINDOW {
            return self.peek(start, length).map(Bytes::copy_from_slice);
        }
        sys::read_at(&self.file, start, length).map(Bytes::from)
    }

    /// The payload if it matches its checksums, else the index of the first block that does not.
    pub fn verified_payload(&mut self, record: &ScannedRecord) -> io::Result<Result<Bytes, usize>> {
        let payload = self.payload(record)?;
        Ok(verify_blocks(&payload, &record.checksums).map(|()| payload))
    }

    fn next_item(&mut self) -> io::Result<Option<ScanItem>> {
        let start = self.position;
        if start >= self.end {
            return Ok(None);
        }
        if let Some(record) = self.record_at(start)? {
            self.salt = Some(record.header.salt);
            self.position = record.place.end();
            return Ok(Some(ScanItem::Record(record)));
        }
        self.position = self.find_record(start + RECORD_ALIGN)?;
        Ok(Some(ScanItem::Gap { start, end: self.position }))
    }

    /// The record at `offset`, if a whole one of this pack begins there.
    fn record_at(&mut self, offset: u64) -> io::Result<Option<ScannedRecord>> {
        let salt = self.salt;
        let mut bytes = self.peek(offset, RECORD_HEADER_LEN)?;
        // Before the crc, which is the dear part: a blob full of would-be headers must not slow a scan down.
        if salt.is_some_and(|salt| bytes.get(8..16) != Some(&salt.to_le_bytes())) {
            return Ok(None);
        }
        let mut parsed = parse_record_header(bytes);
        if let Err(FormatError::Truncated { needed }) = parsed {
            bytes = self.peek(offset, needed)?;
            parsed = parse_record_header(bytes);
        }
        let Ok(header) = parsed else { return Ok(None) };
        let checksums = parse_checksums(bytes, header.payload_len);
        let place = record_place(self.pack, offset, header.payload_len);
        Ok((place.end() <= self.end).then_some(ScannedRecord { header, place, checksums }))
    }

    /// Where the first record at or after `from` begins; the end of the scan if there is none.
    fn find_record(&mut self, from: u64) -> io::Result<u64> {
        let mut cursor = from;
        while cursor < self.end {
            let Some(data) = sys::seek_data(&self.file, cursor)? else { break };
            // A hole may end anywhere, a record begins at a multiple of 8.
            cursor = cursor.max(data / RECORD_ALIGN * RECORD_ALIGN);
            let (words, _) = self.ahead(cursor)?.as_chunks::<{ RECORD_ALIGN as usize }>();
            if words.is_empty() {
                break;
            }
            let Some(index) = words.iter().position(|word| word.starts_with(&RECORD_MAGIC)) else {
                cursor += words.len() as u64 * RECORD_ALIGN;
                continue;
            };
            cursor += index as u64 * RECORD_ALIGN;
            if self.record_at(cursor)?.is_some() {
                return Ok(cursor);
            }
            cursor += RECORD_ALIGN;
        }
        Ok(self.end)
    }

    /// Bytes from `offset` on: as many as the window has, at least 8 unless the scan ends before.
    fn ahead(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.peek(offset, RECORD_ALIGN as usize)?;
        let skip = offset.saturating_sub(self.window_start) as usize;
        Ok(self.window.get(skip..).unwrap_or_default())
    }

    /// `length` bytes from `offset` on, fewer only where the scan ends; from the window as long as they lie in it.
    fn peek(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let length = (length as u64).min(self.end.saturating_sub(offset)) as usize;
        let skip = offset.checked_sub(self.window_start).and_then(|skip| usize::try_from(skip).ok());
        let inside = skip.filter(|skip| skip.checked_add(length).is_some_and(|end| end <= self.window.len()));
        let skip = if let Some(skip) = inside {
            skip
        } else {
            let ahead = (length.max(WINDOW) as u64).min(self.end.saturating_sub(offset)) as usize;
            self.window = sys::read_at(&self.file, offset, ahead)?;
            self.window_start = offset;
            0
        };
        let window = self.window.get(skip..).unwrap_or_default();
        Ok(window.get(..length).unwrap_or(window))
    }
}

impl Iterator for Scan {
    type Item = io::Result<ScanItem>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_item();
        if item.is_err() {
            self.position = self.end;
        }
        item.transpose()
    }
}
