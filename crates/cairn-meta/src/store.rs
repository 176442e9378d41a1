//! One volume's metadata: made, opened, read through snapshots, changed through one batch at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_types::{Attr, AttrFlags, FileKind, Ino, Timestamp};
use parking_lot::RwLock;

use crate::batch::Batch;
use crate::engine::{Changes, Engine, RedbEngine, Restore};
use crate::error::StoreError;
use crate::layout;
use crate::record::{InodeRecord, VolumeConfig, VolumeRecord};
use crate::snapshot::Snapshot;

/// Where numbering of nodes, blobs, sessions and changes stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    pub(crate) ino: u64,
    pub(crate) blob: u64,
    pub(crate) session: u64,
    pub(crate) order: u64,
}

/// A volume that is open. Clones share it.
#[derive(Clone)]
pub struct VolumeStore {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    // Before the engine, so that its last reader is gone when the engine closes.
    current: RwLock<Snapshot>,
    pub(crate) numbering: RwLock<Numbering>,
    pub(crate) batch_open: AtomicBool,
    engine: Box<dyn Engine>,
}

impl VolumeStore {
    /// Makes a volume in a new file at `path`, durably (the caller makes its directory entry durable).
    pub fn create(path: &Path, config: VolumeConfig) -> Result<Self, StoreError> {
        let engine = RedbEngine::create(path, RedbEngine::CACHE_BYTES_DEFAULT)?;
        Self::create_in(Box::new(engine), config)
    }

    /// Opens the volume at `path`; `cache_bytes` bounds the memory for cached pages
    /// ([`RedbEngine::CACHE_BYTES_DEFAULT`]). `restore` is handed what was given to [`Batch::commit_logged`] along with changes
    /// that must be brought back, in their order, and has it on stable storage when it returns.
    pub fn open(path: &Path, cache_bytes: usize, restore: &mut Restore<'_>) -> Result<Self, StoreError> {
        Self::open_in(Box::new(RedbEngine::open(path, cache_bytes, restore)?))
    }

    /// Makes a volume in an empty engine.
    pub fn create_in(engine: Box<dyn Engine>, config: VolumeConfig) -> Result<Self, StoreError> {
        if !config.is_valid() {
            let message = format!("{} bytes cannot be a chunk size", config.chunk_size);
            return Err(StoreError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, message)));
        }
        let made = Timestamp { secs: config.created, nanos: 0 };
        let mut root = InodeRecord::new(Attr {
            ino: Ino::ROOT,
            kind: FileKind::Directory,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: made,
            mtime: made,
            ctime: made,
            btime: made,
            version: 1,
            flags: AttrFlags::default(),
        });
        root.parent = Some(Ino::ROOT);
        let first_free = Ino::ROOT.0 + 1;
        let volume = VolumeRecord {
            bytes_used: root.attr.charged(config.allocation),
            config,
            inodes_used: 1,
            ino_ceiling: first_free,
            blob_ceiling: 1,
            session_ceiling: 1,
            order_ceiling: 1,
            last_order: 0,
        };
        let changes = Changes::from([
            (layout::VOLUME.to_vec(), Some(volume.encode())),
            (layout::inode(Ino::ROOT), Some(root.encode())),
        ]);
        engine.commit(&changes, true)?;
        Self::open_in(engine)
    }

    /// Opens the volume in `engine`.
    pub fn open_in(engine: Box<dyn Engine>) -> Result<Self, StoreError> {
        let reader = engine.reader()?;
        let row = reader.get(layout::VOLUME)?.ok_or_else(|| StoreError::Damaged("no volume row".to_owned()))?;
        let volume = VolumeRecord::decode(&row)?;
        let renewed = volume.encode();
        let reader = if renewed == row {
            reader
        } else {
            // Of an older format. Programs that know only that one must not open it any more.
            drop(reader);
            engine.commit(&Changes::from([(layout::VOLUME.to_vec(), Some(renewed))]), true)?;
            engine.reader()?
        };
        let numbering = Numbering {
            ino: volume.ino_ceiling,
            blob: volume.blob_ceiling,
            session: volume.session_ceiling,
            order: volume.order_ceiling,
        };
        Ok(VolumeStore {
            shared: Arc::new(Shared {
                current: RwLock::new(Snapshot { reader, volume: Arc::new(volume) }),
                numbering: RwLock::new(numbering),
                batch_open: AtomicBool::new(false),
                engine,
            }),
        })
    }

    /// The state of the last commit.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.current.read().clone()
    }

    /// Starts a set of changes. [`StoreError::BatchOpen`] while another one is open.
    pub fn begin(&self) -> Result<Batch, StoreError> {
        if self.shared.batch_open.swap(true, Ordering::Acquire) {
            return Err(StoreError::BatchOpen);
        }
        Ok(Batch::new(Arc::clone(&self.shared)))
    }

    /// Bytes that the metadata take on disk.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        self.shared.engine.stored_bytes()
    }
}

impl Shared {
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.current.read().clone()
    }

    /// Commits and lets readers see it.
    pub(crate) fn commit(&self, changes: &Changes, volume: VolumeRecord, durable: bool) -> Result<(), StoreError> {
        self.engine.commit(changes, durable)?;
        self.show(volume)
    }

    /// As [`Shared::commit`]; see [`Engine::commit_logged`].
    pub(crate) fn commit_logged(
        &self,
        changes: &Changes,
        volume: VolumeRecord,
        attachment: &[u8],
    ) -> Result<bool, StoreError> {
        let logged = self.engine.commit_logged(changes, attachment)?;
        if !changes.is_empty() {
            self.show(volume)?;
        }
        Ok(logged)
    }

    fn show(&self, volume: VolumeRecord) -> Result<(), StoreError> {
        let reader = self.engine.reader()?;
        let previous = std::mem::replace(&mut *self.current.write(), Snapshot { reader, volume: Arc::new(volume) });
        // Outside the lock: the engine may have work to do when its last reader goes.
        drop(previous);
        Ok(())
    }
}
