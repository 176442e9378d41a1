//! Archives: which kinds there are, opening and making them.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cairn_locks::Mutex;

use crate::content::Digest;
use crate::item::Item;
use crate::lock_order;
use crate::pump::Progress;
use crate::{During, Sink, Source, TransferError, tar_archive, zip_archive};

/// Bytes that are read and written at once.
const BUFFER: usize = 1 << 20;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Kinds of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Tar,
    TarGz,
    TarZst,
    Zip,
}

impl Format {
    /// By the end of a file's name; `None` if it is none of an archive.
    pub fn of(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let ends = [
            (".tar", Format::Tar),
            (".tar.gz", Format::TarGz),
            (".tgz", Format::TarGz),
            (".tar.zst", Format::TarZst),
            (".tzst", Format::TarZst),
            (".zip", Format::Zip),
        ];
        ends.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, format)| format)
    }
}

pub(crate) fn damaged(path: &Path, reason: impl ToString) -> TransferError {
    TransferError::Archive { path: path.to_owned(), reason: reason.to_string() }
}

/// An archive on this machine.
pub struct Archive {
    path: PathBuf,
    format: Format,
}

impl Archive {
    pub fn new(path: PathBuf, format: Format) -> Archive {
        Archive { path, format }
    }

    /// The tar inside.
    fn unpacked(&self) -> Result<Box<dyn Read>, TransferError> {
        let file = BufReader::with_capacity(BUFFER, File::open(&self.path).during("open", &self.path)?);
        Ok(match self.format {
            Format::TarGz => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Format::TarZst => {
                Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(|error| damaged(&self.path, error))?)
            }
            Format::Tar | Format::Zip => Box::new(file),
        })
    }
}

impl Source for Archive {
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError> {
        match self.format {
            Format::Zip => zip_archive::each(&self.path, take),
            _ => tar_archive::each(&self.path, self.unpacked()?, take),
        }
    }

    fn total_bytes(&self) -> Option<u64> {
        match self.format {
            Format::Zip => zip_archive::total_bytes(&self.path),
            Format::Tar => fs::metadata(&self.path).ok().map(|told| told.len()),
            Format::TarGz | Format::TarZst => None,
        }
    }
}

/// What writes the entries of one kind of archive.
pub(crate) trait Packer: Send {
    fn add(&mut self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError>;
    /// Writes what ends the archive and gives the file back.
    fn end(self: Box<Self>) -> Result<File, TransferError>;
}

/// An archive that is being made: in a file beside it, which takes its name when it is complete.
pub struct ArchiveSink {
    path: PathBuf,
    unfinished: PathBuf,
    packer: Mutex<Option<Box<dyn Packer>>, lock_order::OpenArchive>,
}

impl ArchiveSink {
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: PathBuf, format: Format) -> Result<ArchiveSink, TransferError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let unfinished = path.with_file_name(name);
        let file = BufWriter::with_capacity(BUFFER, File::create(&unfinished).during("create", &unfinished)?);
        let packer: Box<dyn Packer> = match format {
            Format::Tar => Box::new(tar_archive::Tar::new(&path, Plain(file))),
            Format::TarGz => {
                let packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
                Box::new(tar_archive::Tar::new(&path, packed))
            }
            Format::TarZst => {
                let mut packed = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL).during("create", &unfinished)?;
                // Without one, a reader does not notice bits that have flipped.
                packed.include_checksum(true).during("create", &unfinished)?;
                Box::new(tar_archive::Tar::new(&path, packed))
            }
            Format::Zip => Box::new(zip_archive::Zip::new(&path, file)),
        };
        Ok(ArchiveSink { path, unfinished, packer: Mutex::new(Some(packer)) })
    }

    fn add(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        match self.packer.lock().as_mut() {
            Some(packer) => packer.add(item, progress),
            None => Err(TransferError::Stopped),
        }
    }
}

impl Sink for ArchiveSink {
    fn directory(&self, item: Item) -> Result<(), TransferError> {
        self.add(item, &Progress::default()).map(|_| ())
    }

    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        self.add(item, progress)
    }

    /// Programs that unpack set a folder's time when they leave it: what is in it must follow it at once.
    fn is_ordered(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), TransferError> {
        let Some(packer) = self.packer.lock().take() else { return Ok(()) };
        packer.end()?.sync_all().during("sync", &self.unfinished)?;
        fs::rename(&self.unfinished, &self.path).during("name", &self.path)
    }
}

impl Drop for ArchiveSink {
    fn drop(&mut self) {
        if self.packer.lock().take().is_some() {
            // An archive that is not whole is of no use; whoever dropped it has an error to tell already.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// A compressor, or none, over the file of an archive.
pub(crate) trait Packed: Write + Send {
    /// Writes what ends the stream.
    fn end(self) -> std::io::Result<File>;
}

/// No compression.
pub(crate) struct Plain(pub(crate) BufWriter<File>);

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Packed for Plain {
    fn end(self) -> std::io::Result<File> {
        self.0.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

impl Packed for flate2::write::GzEncoder<BufWriter<File>> {
    fn end(self) -> std::io::Result<File> {
        Plain(self.finish()?).end()
    }
}

impl Packed for zstd::stream::write::Encoder<'static, BufWriter<File>> {
    fn end(self) -> std::io::Result<File> {
        Plain(self.finish()?).end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names() {
        for (name, format) in [
            ("a.tar", Some(Format::Tar)),
            ("b.TGZ", Some(Format::TarGz)),
            ("c.tar.zst", Some(Format::TarZst)),
            ("d.zip", Some(Format::Zip)),
            ("tar", None),
            ("e.gz", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
