//! zip: folders, files and symbolic links with modes and times of two seconds' precision. Owners,
//! attributes, set-id and sticky bits are lost; hard links, devices and pipes are refused, because a zip has no place for them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_types::Timestamp;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::archive::{Packed, Packer, Plain, damaged};
use crate::content::Digest;
use crate::item::{Item, Kind, Meta};
use crate::pump::Progress;
use crate::tar_archive::{Filled, inner_path, read_file};
use crate::{During, TransferError};

const BUFFER: usize = 1 << 20;
/// `S_IFMT` and `S_IFLNK`, in the modes that zips made on Unix hold.
const TYPE_BITS: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, TransferError> {
    let file = BufReader::with_capacity(BUFFER, File::open(path).during("open", path)?);
    ZipArchive::new(file).map_err(|error| damaged(path, error))
}

/// Bytes of all files together, as the directory at the end says.
pub(crate) fn total_bytes(path: &Path) -> Option<u64> {
    let mut archive = open(path).ok()?;
    let mut total = 0;
    for index in 0..archive.len() {
        total += archive.by_index_raw(index).ok()?.size();
    }
    Some(total)
}

pub(crate) fn each(path: &Path, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError> {
    let mut archive = open(path)?;
    // A zip knows no owners: what is in it belongs to whoever unpacks it.
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| damaged(path, error))?;
        let name = inner_path(path, Path::new(std::ffi::OsStr::from_bytes(entry.name_raw())))?;
        let unix = entry.unix_mode();
        let usual = if entry.is_dir() { 0o755 } else { 0o644 };
        let time = entry.last_modified().and_then(timestamp).unwrap_or_else(Timestamp::now);
        let meta =
            Meta { mode: unix.unwrap_or(usual) & 0o7777, uid, gid, atime: time, mtime: time, xattrs: Vec::new() };
        let size = entry.size();
        if entry.is_dir() {
            take(Item { path: name, meta, kind: Kind::Directory })?;
        } else if unix.is_some_and(|mode| mode & TYPE_BITS == SYMLINK) {
            let mut target = Vec::new();
            entry.read_to_end(&mut target).map_err(|error| damaged(path, error))?;
            take(Item { path: name, meta, kind: Kind::Symlink(target) })?;
        } else {
            read_file(path, &mut entry, Item { path: name, meta, kind: Kind::Fifo }, (size, false), take)?;
        }
    }
    Ok(())
}

/// Days from 1970 to a date of the Gregorian calendar (years from March on make leap days the last ones).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The reverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (year + era * 400, month, day)
}

/// A zip's time has no zone; it is taken for UTC, both ways.
fn timestamp(time: DateTime) -> Option<Timestamp> {
    let days = days(i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
    let of_day = i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    time.is_valid().then_some(Timestamp { secs: days * 86_400 + of_day, nanos: 0 })
}

/// Times before 1980 and after 2107 become the nearest that a zip can hold.
fn date_time(time: Timestamp) -> DateTime {
    let (year, month, day) = date(time.secs.div_euclid(86_400));
    let of_day = time.secs.rem_euclid(86_400);
    let parts = (month as u8, day as u8, (of_day / 3600) as u8, (of_day / 60 % 60) as u8, (of_day % 60) as u8);
    let made = DateTime::from_date_and_time(year.clamp(0, 9999) as u16, parts.0, parts.1, parts.2, parts.3, parts.4);
    made.unwrap_or_default()
}

/// An archive in the making.
pub(crate) struct Zip {
    path: PathBuf,
    writer: ZipWriter<BufWriter<File>>,
}

impl Zip {
    pub(crate) fn new(path: &Path, to: BufWriter<File>) -> Zip {
        Zip { path: path.to_owned(), writer: ZipWriter::new(to) }
    }
}

impl Packer for Zip {
    fn add(&mut self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let broken = |path: &Path, error: zip::result::ZipError| TransferError::Local {
            action: "write",
            path: path.to_owned(),
            source: error.into(),
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(date_time(item.meta.mtime))
            .unix_permissions(item.meta.mode)
            .large_file(matches!(item.kind, Kind::Regular { size, .. } if size >= u64::from(u32::MAX)));
        let Some(name) = item.path.to_str().map(str::to_owned) else {
            return Err(TransferError::Unsuited { path: item.path, what: "a name that is not UTF-8" });
        };
        let path = self.path.clone();
        match item.kind {
            Kind::Directory if name.is_empty() => {}
            Kind::Directory => {
                self.writer.add_directory(name, options).map_err(|error| broken(&path, error))?;
            }
            Kind::Symlink(target) => {
                let Ok(target) = String::from_utf8(target) else {
                    return Err(TransferError::Unsuited { path: item.path, what: "a link that is not UTF-8" });
                };
                self.writer.add_symlink(name, target, options).map_err(|error| broken(&path, error))?;
            }
            Kind::Regular { size, content } => {
                self.writer.start_file(name, options).map_err(|error| broken(&path, error))?;
                let mut reader = Filled::new(content, size, progress);
                let copied = std::io::copy(&mut reader, &mut self.writer);
                if let Some(error) = reader.failed {
                    return Err(error);
                }
                copied.during("write", &path)?;
                return Ok(Some(reader.hasher.end(size)));
            }
            Kind::HardLink(_) => {
                return Err(TransferError::Unsuited { path: item.path, what: "hard links" });
            }
            _ => return Err(TransferError::Unsuited { path: item.path, what: "pipes, sockets and devices" }),
        }
        Ok(None)
    }

    fn end(self: Box<Self>) -> Result<File, TransferError> {
        let path = self.path;
        let mut inner = self.writer.finish().map_err(std::io::Error::from).during("write", &path)?;
        inner.flush().during("write", &path)?;
        Plain(inner).end().during("write", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, expected) in [(0, (1970, 1, 1)), (951_782_400, (2000, 2, 29)), (1_709_164_800, (2024, 2, 29))] {
            assert_eq!(date(secs / 86_400), expected);
            assert_eq!(days(expected.0, expected.1, expected.2), secs / 86_400);
        }
        for day in (-200_000..200_000).step_by(97) {
            let (year, month, dom) = date(day);
            assert_eq!(days(year, month, dom), day);
        }
    }

    #[test]
    fn times_survive_to_two_seconds() {
        let time = Timestamp { secs: 1_700_000_000, nanos: 0 };
        assert_eq!(timestamp(date_time(time)), Some(time));
    }
}
