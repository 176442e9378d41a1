//! Open descriptors of packs, a bounded number of them, least recently used ones closed first.
//!
//! A caller that holds an `Arc<File>` keeps its descriptor open beyond the bound: that is at most one for each thread
//! that reads, each pack that is appended to, and each pack that waits for a flush.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_locks::Mutex;

use cairn_types::PackId;

use crate::lock_order;
use crate::place::file_name;

/// The directory of packs and the descriptors that are open in it.
#[derive(Debug)]
pub(crate) struct PackFiles {
    directory: PathBuf,
    capacity: usize,
    open: Mutex<OpenFiles, lock_order::OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<PackId, OpenFile>,
    /// Counts uses, to tell old ones from new ones.
    clock: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    last_used: u64,
}

impl PackFiles {
    pub(crate) fn new(directory: PathBuf, capacity: usize) -> Self {
        PackFiles { directory, capacity: capacity.max(1), open: Mutex::default() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn path(&self, pack: PackId) -> PathBuf {
        self.directory.join(file_name(pack))
    }

    /// The pack's file, open for reading and writing.
    pub(crate) fn get(&self, pack: PackId) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.lock().touch(pack) {
            return Ok(file);
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(pack))?);
        self.keep(pack, &file);
        Ok(file)
    }

    /// Makes the file of a new pack; it must not exist.
    pub(crate) fn create(&self, pack: PackId) -> io::Result<Arc<File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(pack))?;
        let file = Arc::new(file);
        self.keep(pack, &file);
        Ok(file)
    }

    /// Forgets the descriptor of a pack, which is closed once nobody uses it.
    pub(crate) fn close(&self, pack: PackId) {
        self.open.lock().files.remove(&pack);
    }

    /// Removes the pack's file and gives its space back, even if somebody else has it open. That it is gone already is
    /// no error.
    pub(crate) fn remove(&self, pack: PackId) -> io::Result<()> {
        self.close(pack);
        let path = self.path(pack);
        let file = OpenOptions::new().write(true).open(&path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // After the name is gone: a crash in between leaves no pack that seems to be cut.
        if let Ok(file) = file
            && let Err(error) = file.set_len(0)
        {
            tracing::warn!(%pack, %error, "the space of a deleted pack comes back when nobody has it open any more");
        }
        Ok(())
    }

    fn keep(&self, pack: PackId, file: &Arc<File>) {
        let mut open = self.open.lock();
        open.clock += 1;
        let last_used = open.clock;
        open.files.insert(pack, OpenFile { file: Arc::clone(file), last_used });
        if open.files.len() > self.capacity {
            let oldest = open.files.iter().min_by_key(|(_, file)| file.last_used).map(|(&pack, _)| pack);
            oldest.and_then(|pack| open.files.remove(&pack));
        }
    }
}

impl OpenFiles {
    fn touch(&mut self, pack: PackId) -> Option<Arc<File>> {
        self.clock += 1;
        let entry = self.files.get_mut(&pack)?;
        entry.last_used = self.clock;
        Some(Arc::clone(&entry.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_descriptor_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let files = PackFiles::new(directory.path().to_owned(), 2);
        for number in 0..2 {
            files.create(PackId(number)).unwrap();
        }
        files.get(PackId(0)).unwrap();
        files.create(PackId(2)).unwrap();
        let mut open: Vec<PackId> = files.open.lock().files.keys().copied().collect();
        open.sort_unstable();
        assert_eq!(open, [PackId(0), PackId(2)]);
        assert!(files.get(PackId(1)).is_ok());
        assert_eq!(files.create(PackId(1)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
