//! Typed answers and how they lie in memory: header, one fixed structure, then bytes that are passed on uncopied.
//!
//! Also the translation of Cairn's attributes into the kernel's. No I/O: a transport is handed the slices to write.

use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::api::{AttrReply, DirEntry, Entry, Lookup, Opened, VolumeUsage};
use cairn_types::limits::{NAME_MAX, STAT_BLOCK};
use cairn_types::{Attr, ByteRange, Errno, FileLock, LockKind};
use zerocopy::IntoBytes;

use crate::abi::{self, fopen};

/// `st_blksize`, in bytes: the buffer that stdio and many tools choose. Every buffer that is flushed is a request, so
/// larger is better, but from 128 KiB on malloc maps and unmaps memory for each `FILE`; 64 KiB stays below that.
const BLOCK_SIZE_HINT: u32 = 64 * 1024;

/// Unit of `statfs`, in bytes. Usage is counted in it, so every figure is exact; `f_bsize` is the same as `f_frsize`
/// because many programs multiply `f_blocks` with the former.
const STATFS_UNIT: u32 = STAT_BLOCK as u32;

/// Most pieces of data that one `writev` takes beside the headers (`IOV_MAX` is 1024).
const PIECES_MAX: usize = 1000;

/// The longest time-out that is passed on: more would only risk an overflow in the kernel.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// An answer to the kernel.
#[derive(Debug)]
pub(crate) enum Reply {
    Error(Errno),
    /// Success without content.
    Done,
    Entry(abi::EntryOut),
    Created(abi::EntryOut, abi::OpenOut),
    Attr(abi::AttrOut),
    Statx(Box<abi::StatxOut>),
    Opened(abi::OpenOut),
    Written(abi::WriteOut),
    Statfs(abi::StatfsOut),
    XattrSize(abi::GetxattrOut),
    Lock(abi::LkOut),
    Seek(abi::LseekOut),
    Copied(abi::CopyFileRangeOut),
    Data(Bytes),
    Pieces(Vec<Bytes>),
    Records(Vec<u8>),
}

impl Reply {
    /// Builds the answer to request `unique` and hands it to `send`, in order, as few slices as there are parts.
    pub(crate) fn with_slices<R>(&self, unique: u64, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        match self {
            Reply::Error(errno) => send_parts(unique, -errno.0, &[], send),
            Reply::Done => send_parts(unique, 0, &[], send),
            Reply::Entry(entry) => send_parts(unique, 0, &[entry.as_bytes()], send),
            Reply::Created(entry, opened) => send_parts(unique, 0, &[entry.as_bytes(), opened.as_bytes()], send),
            Reply::Attr(attr) => send_parts(unique, 0, &[attr.as_bytes()], send),
            Reply::Statx(statx) => send_parts(unique, 0, &[statx.as_bytes()], send),
            Reply::Opened(opened) => send_parts(unique, 0, &[opened.as_bytes()], send),
            Reply::Written(written) => send_parts(unique, 0, &[written.as_bytes()], send),
            Reply::Statfs(figures) => send_parts(unique, 0, &[figures.as_bytes()], send),
            Reply::XattrSize(size) => send_parts(unique, 0, &[size.as_bytes()], send),
            Reply::Lock(lock) => send_parts(unique, 0, &[lock.as_bytes()], send),
            Reply::Seek(offset) => send_parts(unique, 0, &[offset.as_bytes()], send),
            Reply::Copied(count) => send_parts(unique, 0, &[count.as_bytes()], send),
            Reply::Data(data) => send_parts(unique, 0, &[data], send),
            Reply::Records(records) => send_parts(unique, 0, &[records], send),
            Reply::Pieces(pieces) if pieces.len() > PIECES_MAX => send_parts(unique, 0, &[&pieces.concat()], send),
            Reply::Pieces(pieces) => {
                let parts: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
                send_parts(unique, 0, &parts, send)
            }
        }
    }
}

fn send_parts<R>(unique: u64, error: i32, parts: &[&[u8]], send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
    let length = size_of::<abi::OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
    let header = abi::OutHeader { len: length as u32, error, unique };
    match parts {
        [] => send(&[IoSlice::new(header.as_bytes())]),
        [only] => send(&[IoSlice::new(header.as_bytes()), IoSlice::new(only)]),
        [first, second] => send(&[IoSlice::new(header.as_bytes()), IoSlice::new(first), IoSlice::new(second)]),
        many => {
            let mut slices = Vec::with_capacity(many.len() + 1);
            slices.push(IoSlice::new(header.as_bytes()));
            slices.extend(many.iter().map(|part| IoSlice::new(part)));
            send(&slices)
        }
    }
}

/// A time-out as seconds and nanoseconds.
fn ttl_parts(ttl: Duration) -> (u64, u32) {
    let ttl = ttl.min(LONGEST_TTL);
    (ttl.as_secs(), ttl.subsec_nanos())
}

fn attr_out(attr: &Attr) -> abi::Attr {
    abi::Attr {
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks(),
        atime: attr.atime.secs,
        mtime: attr.mtime.secs,
        ctime: attr.ctime.secs,
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.st_mode(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE_HINT,
        flags: 0,
    }
}

/// Node numbers are never used again, so the generation stays 0.
pub(crate) fn entry_out(entry: &Entry) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = ttl_parts(entry.entry_ttl);
    let (attr_valid, attr_valid_nsec) = ttl_parts(entry.attr_ttl);
    abi::EntryOut {
        nodeid: entry.attr.ino.0,
        generation: 0,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr_out(&entry.attr),
    }
}

/// A name that is absent is told as node 0 when the kernel may remember it, else as an error.
pub(crate) fn lookup(outcome: &Lookup) -> Reply {
    match outcome {
        Lookup::Found(entry) => Reply::Entry(entry_out(entry)),
        Lookup::Absent { entry_ttl } if entry_ttl.is_zero() => Reply::Error(Errno::ENOENT),
        Lookup::Absent { entry_ttl } => {
            let (entry_valid, entry_valid_nsec) = ttl_parts(*entry_ttl);
            Reply::Entry(abi::EntryOut { entry_valid, entry_valid_nsec, ..Default::default() })
        }
    }
}

pub(crate) fn attr(reply: &AttrReply) -> Reply {
    let (attr_valid, attr_valid_nsec) = ttl_parts(reply.ttl);
    Reply::Attr(abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr_out(&reply.attr) })
}

/// Answers everything that is known, whatever was asked for: the kernel picks.
pub(crate) fn statx(reply: &AttrReply) -> Reply {
    let attr = &reply.attr;
    let (attr_valid, attr_valid_nsec) = ttl_parts(reply.ttl);
    let time = |time: cairn_types::Timestamp| abi::StatxTime { tv_sec: time.secs, tv_nsec: time.nanos, reserved: 0 };
    let stat = abi::Statx {
        mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
        blksize: BLOCK_SIZE_HINT,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.st_mode() as u16,
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks(),
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        // The two halves of the kernel's 32-bit device number.
        rdev_major: (attr.rdev & 0xf_ff00) >> 8,
        rdev_minor: (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00),
        ..Default::default()
    };
    Reply::Statx(Box::new(abi::StatxOut { attr_valid, attr_valid_nsec, stat, ..Default::default() }))
}

pub(crate) fn open_out(opened: &Opened) -> abi::OpenOut {
    let mut open_flags = 0;
    if opened.keep_cache {
        open_flags |= fopen::KEEP_CACHE;
    }
    if opened.direct_io {
        open_flags |= fopen::DIRECT_IO;
    }
    abi::OpenOut { fh: opened.handle.0, open_flags, backing_id: 0 }
}

pub(crate) fn statfs(usage: &VolumeUsage) -> Reply {
    let unit = u64::from(STATFS_UNIT);
    Reply::Statfs(abi::StatfsOut {
        blocks: usage.bytes_total / unit,
        bfree: usage.bytes_free / unit,
        bavail: usage.bytes_free / unit,
        files: usage.inodes_total,
        ffree: usage.inodes_free,
        bsize: STATFS_UNIT,
        frsize: STATFS_UNIT,
        namelen: NAME_MAX as u32,
        ..Default::default()
    })
}

/// The kernel refuses ranges beyond its own largest offset.
pub(crate) fn lock(found: Option<FileLock>) -> Reply {
    const OFFSET_MAX: u64 = i64::MAX as u64;
    let lk = match found {
        None => abi::FileLock { kind: libc::F_UNLCK as u32, ..Default::default() },
        Some(FileLock { kind, range: ByteRange { start, end }, pid, .. }) => {
            let kind = match kind {
                LockKind::Shared => libc::F_RDLCK,
                LockKind::Exclusive => libc::F_WRLCK,
                LockKind::Unlock => libc::F_UNLCK,
            };
            abi::FileLock { start: start.min(OFFSET_MAX), end: end.min(OFFSET_MAX), kind: kind as u32, pid }
        }
    };
    Reply::Lock(abi::LkOut { lk })
}

/// An attribute's value or a list of names, of which the caller wants at most `size` bytes; 0 asks for the length.
pub(crate) fn xattr(value: Bytes, size: u32) -> Reply {
    if size == 0 {
        Reply::XattrSize(abi::GetxattrOut { size: value.len() as u32, padding: 0 })
    } else if value.len() > size as usize {
        Reply::Error(Errno::ERANGE)
    } else {
        Reply::Data(value)
    }
}

/// A directory listing under construction, never longer than the kernel's buffer.
pub(crate) struct Listing {
    records: Vec<u8>,
    limit: usize,
    with_attributes: bool,
}

impl Listing {
    pub(crate) fn new(limit: u32, with_attributes: bool) -> Self {
        // The kernel asks for a page or a few; a lie must not allocate.
        Listing { records: Vec::with_capacity(limit.min(64 * 1024) as usize), limit: limit as usize, with_attributes }
    }

    /// Whether `entry` still had room. Once one had none, no later one may be tried.
    #[must_use]
    pub(crate) fn push(&mut self, entry: &DirEntry) -> bool {
        let attributes = if self.with_attributes { size_of::<abi::EntryOut>() } else { 0 };
        let length = (attributes + size_of::<abi::Dirent>() + entry.name.len()).next_multiple_of(abi::DIRENT_ALIGN);
        if self.records.len() + length > self.limit {
            return false;
        }
        let end = self.records.len() + length;
        if self.with_attributes {
            // Node 0 says: a name without attributes, which counts no reference.
            let entry_out = entry.entry.as_ref().map(entry_out).unwrap_or_default();
            self.records.extend_from_slice(entry_out.as_bytes());
        }
        let dirent = abi::Dirent {
            ino: entry.ino.0,
            off: entry.cursor,
            namelen: entry.name.len() as u32,
            kind: u32::from(entry.kind.dirent_type()),
        };
        self.records.extend_from_slice(dirent.as_bytes());
        self.records.extend_from_slice(&entry.name);
        self.records.resize(end, 0);
        true
    }

    pub(crate) fn finish(self) -> Reply {
        Reply::Records(self.records)
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::{FileKind, Ino};

    use super::*;

    fn bytes_of(reply: &Reply) -> Vec<u8> {
        reply.with_slices(7, |slices| slices.iter().flat_map(|slice| slice.iter().copied()).collect())
    }

    #[test]
    fn the_header_tells_the_length_of_all_parts() {
        let pieces: Vec<Bytes> = (0..5).map(|number| Bytes::from(vec![number; 3])).collect();
        for reply in [Reply::Pieces(pieces), Reply::Pieces(vec![Bytes::from_static(b"abc"); PIECES_MAX + 1])] {
            let bytes = bytes_of(&reply);
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
            assert_eq!(u64::from_ne_bytes(bytes[8..16].try_into().unwrap()), 7);
        }
        assert_eq!(i32::from_ne_bytes(bytes_of(&Reply::Error(Errno::EIO))[4..8].try_into().unwrap()), -libc::EIO);
    }

    #[test]
    fn a_value_that_is_too_long_for_the_caller_is_refused_and_one_that_fits_exactly_is_not() {
        let value = Bytes::from_static(b"12345");
        assert!(matches!(xattr(value.clone(), 0), Reply::XattrSize(abi::GetxattrOut { size: 5, .. })));
        assert!(matches!(xattr(value.clone(), 4), Reply::Error(Errno::ERANGE)));
        assert!(matches!(xattr(value, 5), Reply::Data(data) if data.len() == 5));
    }

    #[test]
    fn a_listing_stops_at_its_limit_on_whole_records() {
        let entry = DirEntry {
            name: Bytes::from_static(b"0123456789"),
            ino: Ino(9),
            kind: FileKind::Regular,
            cursor: 3,
            entry: None,
        };
        let mut plain = Listing::new(100, false);
        assert!(plain.push(&entry) && plain.push(&entry) && !plain.push(&entry));
        assert_eq!(plain.records.len(), 80);
        let mut with_attributes = Listing::new(168, true);
        assert!(with_attributes.push(&entry) && !with_attributes.push(&entry));
        assert_eq!(with_attributes.records.len(), 168);
    }

    #[test]
    fn absent_names_are_cached_only_with_a_time_to_live() {
        let zero = lookup(&Lookup::Absent { entry_ttl: Duration::ZERO });
        assert!(matches!(zero, Reply::Error(Errno::ENOENT)));
        let some = lookup(&Lookup::Absent { entry_ttl: Duration::from_millis(1500) });
        let expected = abi::EntryOut { entry_valid: 1, entry_valid_nsec: 500_000_000, ..Default::default() };
        assert!(matches!(some, Reply::Entry(entry) if entry == expected));
    }
}
