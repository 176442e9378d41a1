//! Trees and archives into a volume and out of it, through the client library, with no kernel in between.
//!
//! Everything that can be read is a [`Source`] of [`item::Item`]s (a folder, a volume, a tar, a zip); everything that
//! can be written is a `Sink`. `pump` connects one with the other. What is copied is hashed on the way, and
//! [`verify`] reads the copy again and compares.
//!
//! Invariants:
//!
//! - A file's modification time is set after its last byte. So a file of the right size and time is whole, and a copy that was
//!   interrupted goes on where it stopped when it is started again.
//! - No name from an archive leads out of the place it is unpacked to.
//! - Memory is bounded: so many items are under way, and of a large file so many pieces. Only the hashes that wait for
//!   verification grow, with the number of files.

pub mod archive;
mod content;
pub mod item;
pub mod local;
mod lock_order;
mod pump;
mod tar_archive;
pub mod volume;
mod zip_archive;

use std::path::{Path, PathBuf};

pub use archive::Format;
pub use content::{Digest, hash};
use item::Item;
pub use pump::{Copied, Progress, pump, verify};

/// Why a transfer ended. What is beneath (the sentence of the operating system or of the volume's server) is the source.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("cannot {action} {path}", path = path.display())]
    Local { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {action} {path} in the volume", path = shown(path).display())]
    Volume { action: &'static str, path: PathBuf, source: cairn_client::Error },
    #[error("{path} is damaged or not a supported archive: {reason}", path = path.display())]
    Archive { path: PathBuf, reason: String },
    #[error("{path}: an archive of this kind cannot hold {what}; use tar", path = shown(path).display())]
    Unsuited { path: PathBuf, what: &'static str },
    #[error("the copy of {path} differs from the source; run the same command again to copy it once more", path = shown(path).display())]
    Differs { path: PathBuf },
    /// Somebody else failed first, or wished it.
    #[error("interrupted; run the same command again to resume")]
    Stopped,
}

/// The root itself has an empty path.
fn shown(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("/") } else { path }
}

/// Something that can be read, item by item.
pub trait Source {
    /// Calls `take` for every item: a folder before what is in it, a file before further names of it.
    ///
    /// # Errors
    /// What cannot be read, or what `take` returned.
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError>;

    /// Bytes of all files together, where that is known ahead.
    fn total_bytes(&self) -> Option<u64> {
        None
    }
}

/// Something that can be written to, by several threads.
pub trait Sink: Sync {
    /// Makes a folder, unless it is there.
    fn directory(&self, item: Item) -> Result<(), TransferError>;
    /// Makes what is not a folder, or leaves it alone if it is there already. The digest of a file's content.
    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError>;
    /// Whether items must come in the source's order, folders and further names included; then one thread writes.
    fn is_ordered(&self) -> bool {
        false
    }
    /// After the last item: until everything is on stable storage.
    fn finish(&self) -> Result<(), TransferError>;
}

/// Adds to an error of the operating system what was being done to which file.
pub(crate) trait During<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, TransferError>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, TransferError> {
        self.map_err(|error| TransferError::Local { action, path: path.to_owned(), source: error.into() })
    }
}
