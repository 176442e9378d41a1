//! Files and folders that hold users' content beside the volume, where the volume's own permissions do not reach: for
//! nobody but their owner, whatever the umask.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// Makes `path` and what is missing above it. One that exists is closed to others.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    parents(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(FOLDER))
}

/// The same, but leaves the permissions of what exists alone: the folder may be used for other things, too.
pub(crate) fn parents(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

/// To open a file for reading and writing, and to make it if it is not there.
pub(crate) fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(FILE);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn others_see_neither_what_is_made_nor_what_was_open_to_them() {
        let scratch = tempfile::tempdir().expect("scratch");
        let shared = scratch.path().join("shared");
        std::fs::create_dir(&shared).expect("made");
        std::fs::set_permissions(&shared, Permissions::from_mode(0o755)).expect("opened");
        let within = shared.join("above/folder");
        folder(&within).expect("made");
        assert_eq!([mode(&shared), mode(&shared.join("above")), mode(&within)], [0o755, 0o700, 0o700]);
        std::fs::set_permissions(&within, Permissions::from_mode(0o755)).expect("opened");
        folder(&within).expect("there");
        assert_eq!(mode(&within), 0o700);
        let path = within.join("file");
        file().truncate(true).open(&path).expect("made");
        assert_eq!(mode(&path), 0o600);
    }
}
