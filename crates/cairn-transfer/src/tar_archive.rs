//! tar: owners, modes, times to the nanosecond, extended attributes (as pax records, `SCHILY.xattr.`, the way GNU tar and
//! bsdtar write them), symbolic and hard links, devices. Holes come out of a sparse archive as holes; they are written
//! as zeros.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_types::Timestamp;
use tar::{EntryType, Header};

use crate::archive::{Packed, Packer, damaged};
use crate::content::{Digest, Hasher, Piped, Whole};
use crate::item::{Content, Item, Kind, Meta, PIECE, clean};
use crate::pump::Progress;
use crate::{During, TransferError};

const XATTR: &str = "SCHILY.xattr.";

/// Reads an archive from its beginning to its end.
pub(crate) fn each(
    path: &Path,
    inside: Box<dyn Read>,
    take: &mut dyn FnMut(Item) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let broken = |error: std::io::Error| damaged(path, error);
    let mut archive = tar::Archive::new(inside);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = inner_path(path, &entry.path().map_err(broken)?)?;
        let meta = meta_of(&mut entry).map_err(broken)?;
        let size = entry.size();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let target = || link.clone().ok_or_else(|| damaged(path, format!("{} is a link to nothing", name.display())));
        let device = || {
            let number = |found: std::io::Result<Option<u32>>| found.map(Option::unwrap_or_default).map_err(broken);
            let (major, minor) = (number(entry.header().device_major())?, number(entry.header().device_minor())?);
            Ok::<u32, TransferError>(rustix::fs::makedev(major, minor) as u32)
        };
        let kind = match kind {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(target()?),
            EntryType::Link => Kind::HardLink(inner_path(path, Path::new(std::ffi::OsStr::from_bytes(&target()?)))?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => Kind::CharDevice(device()?),
            EntryType::Block => Kind::BlockDevice(device()?),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let skip_zeros = kind == EntryType::GNUSparse;
                read_file(path, &mut entry, Item { path: name, meta, kind: Kind::Fifo }, (size, skip_zeros), take)?;
                continue;
            }
            other => return Err(damaged(path, format!("{} is of type {:?}", name.display(), other))),
        };
        take(Item { path: name, meta, kind })?;
    }
    // What it was packed with has its checksum behind the tar's own end.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(broken)?;
    Ok(())
}

pub(crate) fn inner_path(archive: &Path, path: &Path) -> Result<PathBuf, TransferError> {
    clean(path).ok_or_else(|| damaged(archive, format!("{} leads out of the archive", path.display())))
}

/// Hands a file on whole if it is small, and else piece by piece while others write it.
pub(crate) fn read_file(
    archive: &Path,
    from: &mut dyn Read,
    item: Item,
    (size, skip_zeros): (u64, bool),
    take: &mut dyn FnMut(Item) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    if size <= PIECE as u64 && !skip_zeros {
        let mut bytes = Vec::with_capacity(size as usize);
        from.read_to_end(&mut bytes).map_err(|error| damaged(archive, error))?;
        if bytes.len() as u64 != size {
            return Err(damaged(archive, format!("{} ends too early", item.path.display())));
        }
        return take(Item { kind: Kind::Regular { size, content: Box::new(Whole::new(bytes)) }, ..item });
    }
    let name = item.path.clone();
    let (send, content) = Piped::new(if skip_zeros { 0 } else { size });
    take(Item { kind: Kind::Regular { size, content: Box::new(content) }, ..item })?;
    let mut at = 0;
    while at < size {
        let length = (size - at).min(PIECE as u64) as usize;
        let mut piece = vec![0; length];
        from.read_exact(&mut piece)
            .map_err(|error| damaged(archive, format!("{} ends too early: {error}", name.display())))?;
        if !(skip_zeros && piece.iter().all(|byte| *byte == 0)) {
            send.send((at, Bytes::from(piece))).map_err(|_| TransferError::Stopped)?;
        }
        at += length as u64;
    }
    Ok(())
}

fn meta_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> std::io::Result<Meta> {
    let header = entry.header();
    let time = Timestamp { secs: header.mtime()? as i64, nanos: 0 };
    let mut meta = Meta {
        mode: header.mode()? & 0o7777,
        uid: header.uid()? as u32,
        gid: header.gid()? as u32,
        atime: time,
        mtime: time,
        xattrs: Vec::new(),
    };
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
        let text = || std::str::from_utf8(value).unwrap_or_default();
        match key {
            "mtime" => meta.mtime = seconds(text()).unwrap_or(meta.mtime),
            "atime" => meta.atime = seconds(text()).unwrap_or(meta.atime),
            "uid" => meta.uid = text().parse().unwrap_or(meta.uid),
            "gid" => meta.gid = text().parse().unwrap_or(meta.gid),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    meta.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(meta)
}

/// Seconds with a fraction, as pax writes them.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (secs, nanos): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    // "-1.25" is a quarter of a second before -1.
    Some(match (whole.starts_with('-'), nanos) {
        (true, 1..) => Timestamp { secs: secs - 1, nanos: 1_000_000_000 - nanos },
        _ => Timestamp { secs, nanos },
    })
}

fn pax_time(time: Timestamp) -> String {
    match (time.secs, time.nanos) {
        (..0, 1..) => {
            let (secs, nanos) = (time.secs + 1, 1_000_000_000 - time.nanos);
            format!("-{}.{nanos:09}", secs.unsigned_abs())
        }
        (secs, nanos) => format!("{secs}.{nanos:09}"),
    }
}

fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// An archive in the making.
pub(crate) struct Tar<W: Packed> {
    path: PathBuf,
    builder: tar::Builder<W>,
}

impl<W: Packed> Tar<W> {
    pub(crate) fn new(path: &Path, to: W) -> Tar<W> {
        Tar { path: path.to_owned(), builder: tar::Builder::new(to) }
    }

    /// Writes what a header has no room for, in the record that comes before it; the header gets the beginnings of names.
    /// pax records alone: GNU tar forgets them if one of its own records for long names stands in between.
    fn extensions(&mut self, meta: &Meta, header: &mut Header, name: &[u8], link: &[u8]) -> std::io::Result<()> {
        let mut records = vec![
            ("mtime".to_owned(), pax_time(meta.mtime).into_bytes()),
            ("atime".to_owned(), pax_time(meta.atime).into_bytes()),
        ];
        let old = header.as_old_mut();
        for (key, text, field) in [("path", name, &mut old.name), ("linkpath", link, &mut old.linkname)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
            if text.len() > length {
                records.push((key.to_owned(), text.to_vec()));
            }
        }
        for (name, value) in &meta.xattrs {
            records.push((format!("{XATTR}{}", String::from_utf8_lossy(name)), value.clone()));
        }
        header.set_cksum();
        self.builder.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }

    fn add_entry(&mut self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let archive = self.path.clone();
        let mut header = Header::new_gnu();
        header.set_mode(item.meta.mode);
        header.set_uid(u64::from(item.meta.uid));
        header.set_gid(u64::from(item.meta.gid));
        header.set_mtime(item.meta.mtime.secs.max(0) as u64);
        header.set_size(0);
        let mut device = |number: u32| {
            let number = rustix::fs::Dev::from(number);
            header.set_device_major(rustix::fs::major(number))?;
            header.set_device_minor(rustix::fs::minor(number))
        };
        let kind = match &item.kind {
            Kind::Directory => EntryType::Directory,
            Kind::Regular { .. } => EntryType::Regular,
            Kind::Symlink(_) => EntryType::Symlink,
            Kind::HardLink(_) => EntryType::Link,
            Kind::Fifo => EntryType::Fifo,
            Kind::CharDevice(number) => device(*number).map(|()| EntryType::Char).during("write", &archive)?,
            Kind::BlockDevice(number) => device(*number).map(|()| EntryType::Block).during("write", &archive)?,
            // tar has no sockets; its programs leave them out, too. A socket without its server is of no use.
            Kind::Socket => return Ok(None),
        };
        header.set_entry_type(kind);
        let mut name = if item.path.as_os_str().is_empty() { b".".to_vec() } else { bytes_of(&item.path) };
        let (link, content) = match item.kind {
            Kind::Symlink(target) => (target, None),
            Kind::HardLink(first) => (bytes_of(&first), None),
            Kind::Regular { size, content } => {
                header.set_size(size);
                (Vec::new(), Some((size, content)))
            }
            Kind::Directory => {
                name.push(b'/');
                (Vec::new(), None)
            }
            _ => (Vec::new(), None),
        };
        self.extensions(&item.meta, &mut header, &name, &link).during("write", &archive)?;
        let Some((size, content)) = content else {
            self.builder.append(&header, std::io::empty()).during("write", &archive)?;
            return Ok(None);
        };
        let mut reader = Filled::new(content, size, progress);
        let appended = self.builder.append(&header, &mut reader);
        if let Some(error) = reader.failed {
            return Err(error);
        }
        appended.during("write", &archive)?;
        Ok(Some(reader.hasher.end(size)))
    }
}

impl<W: Packed> Packer for Tar<W> {
    fn add(&mut self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        self.add_entry(item, progress)
    }

    fn end(self: Box<Self>) -> Result<File, TransferError> {
        let path = self.path;
        self.builder.into_inner().and_then(Packed::end).during("write", &path)
    }
}

/// A content as a stream, its holes filled with zeros: exactly `size` bytes, or an error.
pub(crate) struct Filled<'a> {
    content: Box<dyn Content>,
    progress: &'a Progress,
    pub(crate) hasher: Hasher,
    pub(crate) failed: Option<TransferError>,
    piece: Bytes,
    piece_at: u64,
    at: u64,
    size: u64,
    ended: bool,
}

impl<'a> Filled<'a> {
    pub(crate) fn new(content: Box<dyn Content>, size: u64, progress: &'a Progress) -> Filled<'a> {
        let hasher = Hasher::new();
        Filled { content, progress, hasher, failed: None, piece: Bytes::new(), piece_at: 0, at: 0, size, ended: false }
    }

    fn fetch(&mut self) -> Result<(), TransferError> {
        match self.content.next()? {
            Some((offset, bytes)) => {
                self.hasher.update(offset, &bytes);
                self.progress.add_bytes(bytes.len() as u64)?;
                (self.piece_at, self.piece) = (offset, bytes);
            }
            None => self.ended = true,
        }
        Ok(())
    }
}

impl Read for Filled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.piece.is_empty()
            && !self.ended
            && let Err(error) = self.fetch()
        {
            self.failed = Some(error);
            return Err(std::io::Error::other("the content cannot be read"));
        }
        let wanted = (self.size - self.at).min(buffer.len() as u64) as usize;
        let given = if self.piece.is_empty() || self.piece_at > self.at {
            let hole = if self.piece.is_empty() { self.size - self.at } else { self.piece_at - self.at };
            let zeros = hole.min(wanted as u64) as usize;
            buffer[..zeros].fill(0);
            zeros
        } else {
            let bytes = self.piece.split_to(wanted.min(self.piece.len()));
            buffer[..bytes.len()].copy_from_slice(&bytes);
            self.piece_at += bytes.len() as u64;
            bytes.len()
        };
        self.at += given as u64;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_come_back() {
        for (secs, nanos) in [(0, 0), (1_700_000_000, 123_456_789), (-1, 250_000_000), (-5, 0), (3, 7)] {
            let time = Timestamp { secs, nanos };
            assert_eq!(seconds(&pax_time(time)), Some(time), "{}", pax_time(time));
        }
    }

    /// The last one first.
    struct Pieces(Vec<(u64, Bytes)>);

    impl Content for Pieces {
        fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError> {
            Ok(self.0.pop())
        }
    }

    #[test]
    fn holes_are_filled() {
        let pieces = vec![(6u64, Bytes::from_static(b"def")), (2, Bytes::from_static(b"abc"))];
        let mut found = Vec::new();
        let progress = Progress::default();
        Filled::new(Box::new(Pieces(pieces)), 12, &progress).read_to_end(&mut found).expect("read");
        assert_eq!(found, b"\0\0abc\0def\0\0\0");
    }
}
