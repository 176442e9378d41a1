//! Open files and directories: what belongs to one `open`, not to the node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_locks::Mutex;
use cairn_types::Ino;

use super::directory::Listing;
use crate::api::Handle;
use crate::lock_order;
use crate::prefetch::policy::streams::ReadAhead;

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub ino: Ino,
    pub read_ahead: Mutex<ReadAhead, lock_order::Streams>,
    /// Number of the last write error that this handle was told of (or that was there before it).
    pub error_seen: Mutex<u64, lock_order::ErrorSeen>,
}

/// An open directory. The listing is behind an asynchronous lock because reading it may ask the server.
#[derive(Debug)]
pub(crate) struct DirectoryHandle {
    pub ino: Ino,
    pub listing: tokio::sync::Mutex<Listing>,
}

#[derive(Debug, Default)]
pub(crate) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<FileHandle>>, lock_order::OpenFiles>,
    directories: Mutex<HashMap<u64, Arc<DirectoryHandle>>, lock_order::OpenDirectories>,
}

impl Handles {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn open_file(&self, ino: Ino, read_ahead: ReadAhead, error_seen: u64) -> Handle {
        let number = self.number();
        let file = FileHandle { ino, read_ahead: Mutex::new(read_ahead), error_seen: Mutex::new(error_seen) };
        self.files.lock().insert(number, Arc::new(file));
        Handle(number)
    }

    pub(crate) fn file(&self, handle: Handle) -> Option<Arc<FileHandle>> {
        self.files.lock().get(&handle.0).cloned()
    }

    pub(crate) fn close_file(&self, handle: Handle) -> Option<Arc<FileHandle>> {
        self.files.lock().remove(&handle.0)
    }

    pub(crate) fn open_directory(&self, ino: Ino) -> Handle {
        let number = self.number();
        let listing = tokio::sync::Mutex::default();
        self.directories.lock().insert(number, Arc::new(DirectoryHandle { ino, listing }));
        Handle(number)
    }

    pub(crate) fn directory(&self, handle: Handle) -> Option<Arc<DirectoryHandle>> {
        self.directories.lock().get(&handle.0).cloned()
    }

    pub(crate) fn close_directory(&self, handle: Handle) {
        self.directories.lock().remove(&handle.0);
    }
}
