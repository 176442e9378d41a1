//! Copies of content that can no longer be written to the volume: after the session was fenced, or when the server
//! refuses it. One sparse file for each, in `<recovery>/<volume>/<seconds since 1970>/<ino>-<name>`.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_types::{Ino, Name, Timestamp};
use tokio::runtime::Handle as Runtime;

use crate::private;

/// Content that has lost its place.
#[derive(Debug)]
pub(crate) struct Lost {
    pub ino: Ino,
    pub name: Option<Name>,
    /// File offsets and bytes, in the order to write them.
    pub pieces: Vec<(u64, Bytes)>,
}

/// Where copies of one volume go.
pub(crate) struct Recovery {
    folder: PathBuf,
    runtime: Runtime,
}

impl Recovery {
    /// `folder`: of this volume.
    pub(crate) fn new(folder: PathBuf, runtime: Runtime) -> Self {
        Recovery { folder, runtime }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Saves copies without anybody waiting for it.
    pub(crate) fn save_in_background(&self, lost: Vec<Lost>) {
        if !lost.is_empty() {
            let folder = self.folder.clone();
            self.runtime.spawn_blocking(move || save(&folder, &lost));
        }
    }

    /// Saves copies.
    pub(super) async fn save(&self, lost: Vec<Lost>) {
        let folder = self.folder.clone();
        if !lost.is_empty() && self.runtime.spawn_blocking(move || save(&folder, &lost)).await.is_err() {
            tracing::error!("recovery copies could not be made");
        }
    }
}

fn save(folder: &Path, lost: &[Lost]) {
    let folder = folder.join(Timestamp::now().secs.to_string());
    if let Err(error) = private::folder(&folder) {
        tracing::error!(path = %folder.display(), %error, "the folder for data that could not be written cannot be made");
    }
    for file in lost {
        let name = file.name.as_ref().map_or_else(|| "unnamed".to_owned(), |name| printable(name.as_bytes()));
        let path = folder.join(format!("{}-{name}", file.ino));
        match write(&path, file) {
            Ok(()) => {
                tracing::warn!(ino = %file.ino, path = %path.display(), "data that could not be written was saved");
            }
            Err(error) => {
                tracing::error!(ino = %file.ino, path = %path.display(), %error, "data that could not be written is lost");
            }
        }
    }
}

/// A name that is safe in any file system and short enough to have the number before it.
fn printable(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name)
        .chars()
        .map(|letter| if letter.is_control() || letter == '/' { '_' } else { letter })
        .collect();
    text.chars().take(50).collect()
}

fn write(path: &Path, lost: &Lost) -> io::Result<()> {
    let file = private::file().truncate(false).open(path)?;
    for (offset, data) in &lost.pieces {
        file.write_all_at(data, *offset)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_in_their_places() {
        let folder = tempfile::tempdir().expect("folder");
        let lost = Lost {
            ino: Ino(12),
            name: Name::new(b"a b\n").ok(),
            pieces: vec![
                (3, Bytes::from_static(b"xyz")),
                (0, Bytes::from_static(b"ab")),
                (4, Bytes::from_static(b"-")),
            ],
        };
        save(folder.path(), &[lost]);
        let stamp = fs::read_dir(folder.path()).expect("listing").next().expect("one").expect("entry");
        assert_eq!(stamp.metadata().expect("attributes").permissions().mode() & 0o777, 0o700);
        let copy = stamp.path().join("12-a b_");
        assert_eq!(copy.metadata().expect("attributes").permissions().mode() & 0o777, 0o600);
        let bytes = fs::read(copy).expect("copy");
        assert_eq!(bytes, b"ab\0x-z");
    }
}
