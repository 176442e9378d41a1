//! The server's data directory: who owns it, and in which format it is.
//!
//! ```text
//! DATA/lock         held with flock while a server runs; contains its process id
//! DATA/format       "cairn data 1"
//! DATA/server.redb  catalogue of volumes and keys
//! DATA/volumes/ID/  one volume each
//! DATA/cairn.sock   the Unix socket, unless it is put elsewhere
//! ```
//!
//! At most one server uses a directory at a time. A directory that holds other things, or a newer format, is never touched.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const FORMAT_PREFIX: &str = "cairn data ";
const FORMAT_VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    #[error("the data directory {path} is in use by {holder}: stop it, or choose another directory", path = .path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("{path} holds other things than a server's data: choose an empty or a new directory", path = .0.display())]
    NotOurs(PathBuf),
    #[error(
        "the data in {path} are of format {found}, and this program knows none newer than {FORMAT_VERSION}: \
         use a newer version of cairn",
        path = .path.display()
    )]
    TooNew { path: PathBuf, found: u32 },
    #[error("{path} does not say which format the data are in", path = .0.display())]
    BadFormatFile(PathBuf),
    #[error("cannot use the data directory {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// An owned data directory; the lock is held until this is dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if need be, takes its lock and checks its format.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirectoryError> {
        let failed = |source| DataDirectoryError::Io { path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // Later messages and the lock mean the same directory wherever the process moves to.
        let path = path.canonicalize().map_err(failed)?;
        let failed = |source| DataDirectoryError::Io { path: path.clone(), source };
        let format = read_format(&path)?;
        if format.is_none() && !holds_nothing_foreign(&path).map_err(failed)? {
            return Err(DataDirectoryError::NotOurs(path));
        }
        let lock = take_lock(&path)?;
        if format.is_none() {
            write_format(&path).map_err(failed)?;
        }
        warn_if_open_to_others(&path);
        Ok(DataDirectory { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the volumes are.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// The catalogue's database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("server.redb")
    }
}

/// Flushes the entries of a directory, so that a file made, renamed or removed in it stays so after a power cut.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn take_lock(directory: &Path) -> Result<File, DataDirectoryError> {
    let failed = |source| DataDirectoryError::Io { path: directory.to_path_buf(), source };
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Who holds it is a courtesy: if the file cannot be read, the lock is in use all the same.
            let holder = match file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
                Some(process) => format!("process {process}"),
                None => "another process".to_owned(),
            };
            return Err(DataDirectoryError::InUse { path: directory.to_path_buf(), holder });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

fn read_format(directory: &Path) -> Result<Option<u32>, DataDirectoryError> {
    let path = directory.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirectoryError::Io { path, source }),
    };
    let number = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim().parse::<u32>().ok());
    match number {
        Some(found) if found > FORMAT_VERSION => {
            Err(DataDirectoryError::TooNew { path: directory.to_path_buf(), found })
        }
        Some(found) if found > 0 => Ok(Some(found)),
        _ => Err(DataDirectoryError::BadFormatFile(path)),
    }
}

/// Written under another name first: a power cut leaves either no file or a whole one.
fn write_format(directory: &Path) -> io::Result<()> {
    let temporary = directory.join("format.new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join("format"))?;
    sync_directory(directory)
}

/// Whether a directory without a format file may become a data directory.
fn holds_nothing_foreign(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        // What an interrupted first start leaves, and what ext4 puts at the top of every file system.
        if !["lock", "format.new", "lost+found"].iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn warn_if_open_to_others(path: &Path) {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            tracing::warn!(path = %path.display(), "other users can enter the data directory: `chmod 700` is advised");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_private_and_can_be_opened_again() {
        let parent = tempfile::tempdir().expect("directory");
        let path = parent.path().join("a/b");
        drop(DataDirectory::open(&path).expect("made"));
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        DataDirectory::open(&path).expect("opened again");
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().expect("directory");
        let _first = DataDirectory::open(directory.path()).expect("made");
        let error = DataDirectory::open(directory.path()).expect_err("locked");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn foreign_directories_and_newer_formats_are_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("thesis.tex"), "x").expect("written");
        assert!(matches!(DataDirectory::open(directory.path()), Err(DataDirectoryError::NotOurs(_))));
        assert!(!directory.path().join("lock").exists());
        fs::write(directory.path().join("format"), "cairn data 2\n").expect("written");
        assert!(matches!(DataDirectory::open(directory.path()), Err(DataDirectoryError::TooNew { found: 2, .. })));
        fs::write(directory.path().join("format"), "cairn data x\n").expect("written");
        assert!(matches!(DataDirectory::open(directory.path()), Err(DataDirectoryError::BadFormatFile(_))));
    }
}
