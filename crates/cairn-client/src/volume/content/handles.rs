//! Open files: what belongs to one `open`, not to the node.
//!
//! A handle's number is unique among files and directories: who passes the one where the other is meant finds nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_locks::Mutex;
use cairn_types::Ino;

use crate::api::Handle;
use crate::lock_order;
use crate::prefetch::policy::streams::ReadAhead;

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub ino: Ino,
    /// Opened for both.
    pub read_write: bool,
    pub read_ahead: Mutex<ReadAhead, lock_order::Streams>,
    /// Number of the last write error that this handle was told of (or that was there before it).
    pub error_seen: Mutex<u64, lock_order::ErrorSeen>,
}

#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    next: AtomicU64,
    /// Bytes that all open files have asked for in advance and not read yet.
    outstanding: Arc<AtomicU64>,
    files: Mutex<HashMap<u64, Arc<FileHandle>>, lock_order::OpenFiles>,
}

impl OpenFiles {
    /// A number for another handle.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn open(&self, ino: Ino, read_write: bool, error_seen: u64) -> Handle {
        let number = self.number();
        let read_ahead = ReadAhead::new(Arc::clone(&self.outstanding));
        let (read_ahead, error_seen) = (Mutex::new(read_ahead), Mutex::new(error_seen));
        let file = FileHandle { ino, read_write, read_ahead, error_seen };
        self.files.lock().insert(number, Arc::new(file));
        Handle(number)
    }

    pub(super) fn get(&self, handle: Handle) -> Option<Arc<FileHandle>> {
        self.files.lock().get(&handle.0).cloned()
    }

    pub(super) fn close(&self, handle: Handle) -> Option<Arc<FileHandle>> {
        self.files.lock().remove(&handle.0)
    }
}
