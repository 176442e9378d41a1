//! The synchronous log: changes that somebody waits for reach stable storage here, with one write and one flush of a file that
//! never grows, long before the store's own file holds them durably.
//!
//! The file has [`LOG_BYTES`] bytes from the start, so that a flush of it flushes bytes and nothing else. Records begin at
//! multiples of [`RECORD_ALIGN`] bytes, the first one at 0; each continues the one before. All integers are little-endian.
//!
//! ```text
//! offset size
//!      0    4  magic "CLOG"
//!      4    4  length of the body, bytes
//!      8    8  run: drawn anew whenever the store is opened
//!     16    8  number of the first commit in the record
//!     24    4  count of commits
//!     28    4  crc32c of bytes 0..28 and the body
//!     32    …  body: the commits; then the attachment, which is the caller's, to the end
//!
//! commit: u32 count of rows, then for each row, in the order of keys
//!         u32 length of the key, u32 length of the value + 1 (0: the row is deleted), key, value
//! ```
//!
//! The store keeps run and number of its last commit with every commit. Records of that run that follow each other without a gap are
//! what was logged; commits with numbers beyond the stored one are applied again. A durable commit of the store makes the
//! log's content useless: the next record goes to the start. What is behind it is of smaller numbers and so ends the reading.
//!
//! Not here: which commits are logged, and what the attachment means. Decoding takes any bytes and never panics.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Changes;

/// Length of the file, in bytes: some 500 records of a small file each.
pub(super) const LOG_BYTES: u64 = 4 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"CLOG";
const HEADER: usize = 32;
/// Disks write sectors whole: no write touches one that holds an earlier record.
const RECORD_ALIGN: u64 = 512;

/// A file of records.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// Where the next record goes.
    position: u64,
}

/// What one write has stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Number of the first of `commits`.
    pub(super) first: u64,
    pub(super) commits: Vec<Changes>,
    pub(super) attachment: Vec<u8>,
}

/// Commits that are in no record yet, encoded.
#[derive(Debug, Default)]
pub(super) struct Unlogged {
    bytes: Vec<u8>,
    count: u32,
}

impl Unlogged {
    pub(super) fn push(&mut self, changes: &Changes) {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.count += 1;
        self.bytes.extend_from_slice(&number(changes.len()));
        for (key, value) in changes {
            self.bytes.extend_from_slice(&number(key.len()));
            self.bytes.extend_from_slice(&number(value.as_ref().map_or(0, |value| value.len() + 1)));
            self.bytes.extend_from_slice(key);
            self.bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no log could hold it.
    pub(super) fn is_too_long(&self) -> bool {
        self.bytes.len() as u64 > LOG_BYTES
    }

    fn record(&self, run: u64, first: u64, attachment: &[u8]) -> Vec<u8> {
        let body = self.bytes.len() + attachment.len();
        let mut record = Vec::with_capacity((HEADER + body).next_multiple_of(RECORD_ALIGN as usize));
        record.extend_from_slice(&MAGIC);
        record.extend_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(&run.to_le_bytes());
        record.extend_from_slice(&first.to_le_bytes());
        record.extend_from_slice(&self.count.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&record), &self.bytes), attachment);
        record.extend_from_slice(&sum.to_le_bytes());
        record.extend_from_slice(&self.bytes);
        record.extend_from_slice(attachment);
        record.resize(record.len().next_multiple_of(RECORD_ALIGN as usize), 0);
        record
    }
}

impl Log {
    /// Opens the log, or makes one whose name and bytes are then on stable storage.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < LOG_BYTES {
            file.write_all_at(&vec![0; LOG_BYTES as usize], 0)?;
            file.sync_all()?;
            if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(Log { file, position: 0 })
    }

    /// The records of `run`, in their order.
    pub(super) fn read(&self, run: u64) -> io::Result<Vec<Record>> {
        let mut bytes = vec![0; LOG_BYTES as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(decode(&bytes, run))
    }

    /// Stores commits, the first of which has the number `first`, and `attachment`. False if there is no room for them.
    ///
    /// # Errors
    /// What the disk says. What is stored then is unknown: the log must not be used any more.
    pub(super) fn append(&mut self, unlogged: &Unlogged, run: u64, first: u64, attachment: &[u8]) -> io::Result<bool> {
        let length = (HEADER + unlogged.bytes.len() + attachment.len()) as u64;
        if self.position + length.next_multiple_of(RECORD_ALIGN) > LOG_BYTES {
            return Ok(false);
        }
        let record = unlogged.record(run, first, attachment);
        self.file.write_all_at(&record, self.position)?;
        self.file.sync_data()?;
        self.position += record.len() as u64;
        Ok(true)
    }

    /// Nothing that is in it is needed any more.
    pub(super) fn reset(&mut self) {
        self.position = 0;
    }
}

fn decode(mut bytes: &[u8], run: u64) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    while let Some((record, rest)) = decode_record(bytes, run) {
        let follows = |last: &Record| last.first + last.commits.len() as u64 == record.first;
        if !records.last().is_none_or(follows) {
            break;
        }
        records.push(record);
        bytes = rest;
    }
    records
}

/// The record that `bytes` begin with, if they do and it is intact; and what follows it.
fn decode_record(bytes: &[u8], run: u64) -> Option<(Record, &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let u32_at = |at: usize| header[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let u64_at = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if header[..4] != MAGIC || u64_at(8)? != run {
        return None;
    }
    let mut body = rest.get(..u32_at(4)? as usize)?;
    if crc32c::crc32c_append(crc32c::crc32c(&header[..28]), body) != u32_at(28)? {
        return None;
    }
    let whole = (HEADER + body.len()).next_multiple_of(RECORD_ALIGN as usize);
    let mut record = Record { first: u64_at(16)?, ..Record::default() };
    for _ in 0..u32_at(24)? {
        record.commits.push(decode_commit(&mut body)?);
    }
    record.attachment = body.to_vec();
    Some((record, bytes.get(whole..)?))
}

fn decode_commit(body: &mut &[u8]) -> Option<Changes> {
    let mut changes = Changes::new();
    for _ in 0..take_u32(body)? {
        let (key, value) = (take_u32(body)? as usize, take_u32(body)? as usize);
        let key = take(body, key)?.to_vec();
        let value = match value.checked_sub(1) {
            Some(length) => Some(take(body, length)?.to_vec()),
            None => None,
        };
        changes.insert(key, value);
    }
    Some(changes)
}

fn take<'bytes>(body: &mut &'bytes [u8], length: usize) -> Option<&'bytes [u8]> {
    let (taken, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(taken)
}

fn take_u32(body: &mut &[u8]) -> Option<u32> {
    take(body, 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn changes() -> impl Strategy<Value = Changes> {
        btree_map(vec(any::<u8>(), 0..20), proptest::option::of(vec(any::<u8>(), 0..300)), 0..6)
    }

    fn encoded(commits: &[Changes]) -> Unlogged {
        let mut unlogged = Unlogged::default();
        for changes in commits {
            unlogged.push(changes);
        }
        unlogged
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_was_stored_since_the_last_reset_is_read(
            rounds in vec(vec((vec(changes(), 0..4), vec(any::<u8>(), 0..900)), 0..8), 1..4),
            torn: prop::sample::Index,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("meta.log");
            let mut log = Log::open(&path).unwrap();
            let (mut number, mut expected) = (1, Vec::new());
            for round in rounds {
                log.reset();
                // An earlier round's records are read on if nothing was written since.
                if !round.is_empty() {
                    expected.clear();
                }
                for (commits, attachment) in round {
                    let unlogged = encoded(&commits);
                    prop_assert!(log.append(&unlogged, 7, number, &attachment).unwrap());
                    let first = number;
                    number += commits.len() as u64;
                    expected.push(Record { first, commits, attachment });
                }
                // So that what is behind the last record never follows it.
                number += 1;
            }
            prop_assert_eq!(&Log::open(&path).unwrap().read(7).unwrap(), &expected);
            prop_assert_eq!(Log::open(&path).unwrap().read(8).unwrap(), []);

            // A record that was written in part is none, and ends the reading.
            if let Some(place) = (!expected.is_empty()).then(|| torn.index(expected.len())) {
                let starts = expected.iter().scan(0, |at, record| {
                    let start = *at;
                    *at += encoded(&record.commits).record(7, record.first, &record.attachment).len();
                    Some(start)
                });
                let start = starts.collect::<Vec<_>>()[place];
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[start + 9] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                prop_assert_eq!(&Log::open(&path).unwrap().read(7).unwrap(), &expected[..place]);
            }
        }

        #[test]
        fn any_bytes_are_decoded(mut bytes in vec(any::<u8>(), 0..2000), length in 0u32..100, count in 0u32..5) {
            // With a header that is right, the body is looked at.
            if bytes.len() >= HEADER + length as usize {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                bytes[24..28].copy_from_slice(&count.to_le_bytes());
                let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[HEADER..HEADER + length as usize]);
                bytes[28..32].copy_from_slice(&sum.to_le_bytes());
            }
            let run = bytes.get(8..16).map_or(0, |run| u64::from_le_bytes(run.try_into().unwrap()));
            let _ = decode(&bytes, run);
        }
    }

    #[test]
    fn a_full_log_takes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(&folder.path().join("meta.log")).unwrap();
        let mut unlogged = Unlogged::default();
        unlogged.push(&Changes::from([(vec![1], Some(vec![2; LOG_BYTES as usize / 2]))]));
        assert!(!unlogged.is_too_long());
        assert!(log.append(&unlogged, 1, 1, &[]).unwrap());
        assert!(!log.append(&unlogged, 1, 2, &[]).unwrap());
        log.reset();
        assert!(log.append(&unlogged, 1, 2, &[]).unwrap());
        assert_eq!(log.read(1).unwrap().len(), 1);
        unlogged.push(&Changes::from([(vec![1], Some(vec![2; LOG_BYTES as usize / 2]))]));
        assert!(unlogged.is_too_long());
    }
}
