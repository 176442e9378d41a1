//! Inodes and directory entries.
//!
//! An inode row carries, besides the attributes, what nearly every reader of them wants next: a directory's parent, a
//! link's target, and the extents of the first chunk while these are few. A small file is then whole in one row.

use bytes::Bytes;
use cairn_types::{Attr, AttrFlags, ExtentList, FileKind, Ino, Timestamp};

use super::codec::{Decode, Encode, header, open_header, zigzag};
use super::extents::{append_extents, take_extents};

/// Times are counted from late 2023, so that those of today take four bytes and not five.
const EPOCH: i64 = 1_700_000_000;

/// A node, with what is stored beside its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InodeRecord {
    pub(crate) attr: Attr,
    /// Of a directory: the directory that holds it (the root: itself).
    pub(crate) parent: Option<Ino>,
    /// Of a symbolic link.
    pub(crate) target: Bytes,
    /// Extents of chunk 0, if they are few; otherwise empty, and they have a row of their own.
    pub(crate) first_chunk: ExtentList,
    /// A nameless file that was made so (`O_TMPFILE`) and may be given a name.
    pub(crate) linkable: bool,
}

impl InodeRecord {
    /// Longest encoded extent list that is kept in the inode row, in bytes. Three or four extents: more, and pages
    /// of inodes would hold fewer of those that are asked for most.
    pub(crate) const INLINE_EXTENTS_MAX: usize = 40;

    pub(crate) fn new(attr: Attr) -> Self {
        InodeRecord { attr, parent: None, target: Bytes::new(), first_chunk: ExtentList::default(), linkable: false }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let attr = &self.attr;
        let mut value = Vec::with_capacity(64 + self.target.len());
        value.push(header(attr.kind as u8 | u8::from(self.linkable) << 3));
        value.push(attr.flags.0);
        value.varint(u64::from(attr.mode));
        value.varint(u64::from(attr.nlink));
        value.varint(u64::from(attr.uid));
        value.varint(u64::from(attr.gid));
        value.varint(attr.version);
        value.varint(attr.size);
        // Mostly equal: the wrapped difference of the two takes one byte.
        value.signed(attr.allocated.wrapping_sub(attr.size) as i64);
        append_times(&mut value, attr);
        match attr.kind {
            FileKind::Regular => append_extents(&mut value, &self.first_chunk),
            FileKind::Directory => value.varint(self.parent.unwrap_or(Ino::ROOT).0),
            FileKind::Symlink => value.bytes(&self.target),
            FileKind::CharDevice | FileKind::BlockDevice => value.varint(u64::from(attr.rdev)),
            FileKind::Fifo | FileKind::Socket => {}
        }
        value
    }

    pub(crate) fn decode(ino: Ino, value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        let low = open_header(decode.byte()?)?;
        let kind = FileKind::from_repr(low & 7)?;
        let flags = AttrFlags(decode.byte()?);
        let mode = decode.varint32().filter(|mode| *mode <= 0o7777)?;
        let nlink = decode.varint32()?;
        let uid = decode.varint32()?;
        let gid = decode.varint32()?;
        let version = decode.varint()?;
        let size = decode.varint()?;
        let allocated = size.wrapping_add(decode.signed()? as u64);
        let [btime, mtime, ctime, atime] = take_times(&mut decode)?;
        let mut record = InodeRecord::new(Attr {
            ino,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            size,
            allocated,
            atime,
            mtime,
            ctime,
            btime,
            version,
            flags,
        });
        record.linkable = low & 8 != 0;
        match kind {
            FileKind::Regular => record.first_chunk = take_extents(&mut decode)?,
            FileKind::Directory => record.parent = Some(Ino(decode.varint()?)),
            FileKind::Symlink => record.target = Bytes::copy_from_slice(decode.bytes()?),
            FileKind::CharDevice | FileKind::BlockDevice => record.attr.rdev = decode.varint32()?,
            FileKind::Fifo | FileKind::Socket => {}
        }
        decode.finish(record)
    }
}

/// How a time is written: as another one, as a difference in nanoseconds, or in full.
const SAME: u8 = 0;
const DIFFERENCE: u8 = 1;
const FULL: u8 = 2;

/// Birth in full, modification relative to it, change relative to that, access relative to birth: in a file's usual
/// life (made, written once, read) most of these are equal or close.
fn append_times(value: &mut Vec<u8>, attr: &Attr) {
    let pairs = [(attr.mtime, attr.btime), (attr.ctime, attr.mtime), (attr.atime, attr.btime)];
    let mut shapes = 0;
    for (index, (time, base)) in pairs.into_iter().enumerate() {
        let shape = match difference(time, base) {
            Some(0) => SAME,
            // A difference that takes more bytes than a full time is not worth it.
            Some(nanos) if zigzag(nanos) < 1 << 56 => DIFFERENCE,
            _ => FULL,
        };
        shapes |= shape << (2 * index);
    }
    value.push(shapes);
    append_time(value, attr.btime);
    for (index, (time, base)) in pairs.into_iter().enumerate() {
        match shapes >> (2 * index) & 3 {
            SAME => {}
            DIFFERENCE => value.signed(difference(time, base).unwrap_or(0)),
            _ => append_time(value, time),
        }
    }
}

/// Birth, modification, change, access.
fn take_times(decode: &mut Decode<'_>) -> Option<[Timestamp; 4]> {
    let shapes = decode.byte()?;
    let btime = take_time(decode)?;
    let mut next = |index: u32, base: Timestamp| match shapes >> (2 * index) & 3 {
        SAME => Some(base),
        DIFFERENCE => shifted(base, decode.signed()?),
        FULL => take_time(decode),
        _ => None,
    };
    let mtime = next(0, btime)?;
    let ctime = next(1, mtime)?;
    let atime = next(2, btime)?;
    Some([btime, mtime, ctime, atime])
}

fn append_time(value: &mut Vec<u8>, time: Timestamp) {
    value.signed(time.secs.wrapping_sub(EPOCH));
    value.varint(u64::from(time.nanos));
}

fn take_time(decode: &mut Decode<'_>) -> Option<Timestamp> {
    let secs = decode.signed()?.wrapping_add(EPOCH);
    let nanos = decode.varint32().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Timestamp { secs, nanos })
}

/// `time - base` in nanoseconds, if that fits.
fn difference(time: Timestamp, base: Timestamp) -> Option<i64> {
    let secs = time.secs.checked_sub(base.secs)?;
    secs.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanos) - i64::from(base.nanos))
}

fn shifted(base: Timestamp, nanos: i64) -> Option<Timestamp> {
    let sum = i64::from(base.nanos).checked_add(nanos)?;
    let secs = base.secs.checked_add(sum.div_euclid(1_000_000_000))?;
    Some(Timestamp { secs, nanos: sum.rem_euclid(1_000_000_000) as u32 })
}

/// Whom a name leads to. The kind spares a listing the look-up of each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRecord {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
}

impl EntryRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut value = Vec::with_capacity(6);
        value.push(header(self.kind as u8));
        value.varint(self.ino.0);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        let kind = FileKind::from_repr(open_header(decode.byte()?)?)?;
        let ino = Ino(decode.varint()?);
        decode.finish(EntryRecord { ino, kind })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::extents::tests::extent_list;
    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        let secs = prop_oneof![Just(EPOCH), any::<i64>(), EPOCH..EPOCH + 1000];
        (secs, 0u32..1_000_000_000).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
    }

    fn record() -> impl Strategy<Value = InodeRecord> {
        let times = (time(), time(), time(), time(), 0u8..4);
        let numbers = (0u32..=0o7777, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
        let sizes = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u8>(), any::<bool>());
        let body = (extent_list(), prop::collection::vec(any::<u8>(), 0..300), any::<u64>());
        (0u8..7, numbers, sizes, times, body).prop_map(
            |(
                kind,
                (mode, nlink, uid, gid, rdev),
                (size, allocated, version, flags, linkable),
                (a, m, c, b, same),
                body,
            )| {
                let kind = FileKind::from_repr(kind).expect("below 7");
                let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
                let (mtime, ctime, atime) = match same {
                    0 => (b, b, b),
                    1 => (m, m, b),
                    _ => (m, c, a),
                };
                let mut record = InodeRecord::new(Attr {
                    ino: Ino(7),
                    kind,
                    mode,
                    nlink,
                    uid,
                    gid,
                    rdev: if device { rdev } else { 0 },
                    size,
                    allocated,
                    atime,
                    mtime,
                    ctime,
                    btime: b,
                    version,
                    flags: AttrFlags(flags),
                });
                record.linkable = linkable;
                match kind {
                    FileKind::Regular => record.first_chunk = body.0,
                    FileKind::Directory => record.parent = Some(Ino(body.2)),
                    FileKind::Symlink => record.target = body.1.into(),
                    _ => {}
                }
                record
            },
        )
    }

    proptest! {
        #[test]
        fn inodes_come_back(record in record()) {
            prop_assert_eq!(InodeRecord::decode(Ino(7), &record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(mut bytes: Vec<u8>, kind in 0u8..16) {
            if let Some(first) = bytes.first_mut() {
                *first = header(kind);
            }
            if let Some(record) = InodeRecord::decode(Ino(7), &bytes) {
                prop_assert_eq!(InodeRecord::decode(Ino(7), &record.encode()), Some(record));
            }
            if let Some(entry) = EntryRecord::decode(&bytes) {
                prop_assert_eq!(EntryRecord::decode(&entry.encode()), Some(entry));
            }
        }
    }
}
