//! One volume's metadata: made, opened, read through snapshots, changed through one batch at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_locks::RwLock;
use cairn_types::{Attr, AttrFlags, FileKind, Ino, Timestamp};

use crate::batch::Batch;
use crate::error::StoreError;
use crate::kv::{Changes, Durability, KeyValueStore, Reached};
use crate::layout;
use crate::lock_order;
use crate::ownership::Ownership;
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
    pub(crate) state: Arc<State>,
}

/// What the store, its snapshots and its batch have in common.
pub(crate) struct State {
    // Before the rows, so that their last reader is gone when they are closed.
    current: RwLock<Snapshot, lock_order::CurrentSnapshot>,
    pub(crate) numbering: RwLock<Numbering, lock_order::Numbering>,
    pub(crate) batch_open: AtomicBool,
    rows: Box<dyn KeyValueStore>,
    ownership: Ownership,
}

impl VolumeStore {
    /// Makes a volume in an empty store, durably.
    pub fn create(rows: Box<dyn KeyValueStore>, config: VolumeConfig) -> Result<Self, StoreError> {
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
        let ownership = Ownership::maker();
        rows.commit(ownership.condition(), &changes, Durability::Durable)?;
        Self::with_owner(rows, ownership, volume)
    }

    /// Opens the volume in `rows` and takes it over from whoever has it open, who can change nothing from then on.
    ///
    /// # Errors
    /// [`StoreError::Superseded`] if somebody else opens it at this moment; [`StoreError::NewerFormat`],
    /// [`StoreError::Damaged`], and what reading and writing fail with.
    pub fn open(rows: Box<dyn KeyValueStore>) -> Result<Self, StoreError> {
        let reader = rows.reader()?;
        let row = reader.get(layout::VOLUME)?.ok_or_else(|| StoreError::Damaged("no volume row".to_owned()))?;
        let volume = VolumeRecord::decode(&row)?;
        let last = Ownership::last(&*reader)?;
        drop(reader);
        let ownership = last.next();
        let mut changes = Changes::from([ownership.row()]);
        let renewed = volume.encode();
        if renewed != row {
            // Of an older format. Programs that know only that one must not open it any more.
            changes.insert(layout::VOLUME.to_vec(), Some(renewed));
        }
        rows.commit(last.condition(), &changes, Durability::Durable)?;
        Self::with_owner(rows, ownership, volume)
    }

    fn with_owner(
        rows: Box<dyn KeyValueStore>,
        ownership: Ownership,
        volume: VolumeRecord,
    ) -> Result<Self, StoreError> {
        let reader = rows.reader()?;
        let numbering = Numbering {
            ino: volume.ino_ceiling,
            blob: volume.blob_ceiling,
            session: volume.session_ceiling,
            order: volume.order_ceiling,
        };
        Ok(VolumeStore {
            state: Arc::new(State {
                current: RwLock::new(Snapshot { reader, volume: Arc::new(volume) }),
                numbering: RwLock::new(numbering),
                batch_open: AtomicBool::new(false),
                rows,
                ownership,
            }),
        })
    }

    /// The state of the last commit.
    pub fn snapshot(&self) -> Snapshot {
        self.state.current.read().clone()
    }

    /// Starts a set of changes. [`StoreError::BatchOpen`] while another one is open.
    pub fn begin(&self) -> Result<Batch, StoreError> {
        if self.state.batch_open.swap(true, Ordering::Acquire) {
            return Err(StoreError::BatchOpen);
        }
        Ok(Batch::new(Arc::clone(&self.state)))
    }

    /// In whose name it is changed.
    pub fn ownership(&self) -> &Ownership {
        &self.state.ownership
    }

    /// Whether nobody has opened the volume since. What a batch finds out when it is committed, for whoever is about to
    /// change something else.
    pub fn is_owned(&self) -> Result<bool, StoreError> {
        Ok(Ownership::last(&*self.state.rows.reader()?)? == self.state.ownership)
    }

    /// Bytes that the metadata take.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        self.state.rows.stored_bytes()
    }
}

impl State {
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.current.read().clone()
    }

    /// Commits in the owner's name and lets readers see it.
    pub(crate) fn commit(
        &self,
        changes: &Changes,
        volume: VolumeRecord,
        durability: Durability<'_>,
    ) -> Result<Reached, StoreError> {
        let reached = self.rows.commit(self.ownership.condition(), changes, durability)?;
        if !changes.is_empty() || durability == Durability::Durable {
            self.show(volume)?;
        }
        Ok(reached)
    }

    fn show(&self, volume: VolumeRecord) -> Result<(), StoreError> {
        let reader = self.rows.reader()?;
        let previous = std::mem::replace(&mut *self.current.write(), Snapshot { reader, volume: Arc::new(volume) });
        // Outside the lock: the store may have work to do when its last reader goes.
        drop(previous);
        Ok(())
    }
}
