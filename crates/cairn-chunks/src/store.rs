//! The store itself: which packs exist, and what each operation shares with the others.
//!
//! Lock order, outermost first: a writer slot, the reusable packs, the table of packs, one pack's state, the flush state.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cairn_locks::{Mutex, RwLock};
use cairn_types::{BlobPlace, PackId};

use crate::append::Writers;
use crate::dead::{DeadRanges, OFFSET_MAX};
use crate::error::{ChunkError, Problem, ProblemKind};
use crate::files::PackFiles;
use crate::format::{PACK_HEADER_LEN, PAYLOAD_MAX};
use crate::lock_order;
use crate::read::Headers;
use crate::recover::{self, Recovery};
use crate::sync::Flusher;

/// How a store is laid out and what it may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length at which a pack is full, in bytes; a pack holds more only if a single record does. At most 16 GiB.
    pub pack_limit: u64,
    /// Packs that are appended to at the same time: so many appends can run in parallel.
    pub writers: usize,
    /// Descriptors kept open for reading.
    pub open_files: usize,
}

impl Default for Options {
    /// Packs of 256 MiB, as many writers as cores (at most four), 256 descriptors.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Options { pack_limit: 256 * 1024 * 1024, writers: cores.min(4), open_files: 256 }
    }
}

/// A directory of packs, owned by this process alone. Shared between threads by reference.
#[derive(Debug)]
pub struct PackStore {
    pub(crate) files: PackFiles,
    pub(crate) pack_limit: u64,
    pub(crate) packs: RwLock<BTreeMap<PackId, Arc<Pack>>, lock_order::Packs>,
    pub(crate) writers: Writers,
    pub(crate) flusher: Flusher,
    pub(crate) headers: Headers,
    next_pack: AtomicU32,
}

/// One pack, as the store sees it.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) id: PackId,
    /// End of the last whole record, in bytes.
    pub(crate) length: AtomicU64,
    pub(crate) state: Mutex<PackState, lock_order::PackStates>,
}

#[derive(Debug, Default)]
pub(crate) struct PackState {
    /// No record is ever appended again.
    pub(crate) sealed: bool,
    pub(crate) deleted: bool,
    pub(crate) dead: DeadRanges,
}

impl Pack {
    pub(crate) fn new(id: PackId, length: u64, sealed: bool) -> Self {
        let state = PackState { sealed, ..PackState::default() };
        Pack { id, length: AtomicU64::new(length), state: Mutex::new(state) }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Whether the place was given back. Space is reused (as zeros) only after this has become true, so a reader that
    /// asks after it has read knows whether its bytes can be trusted.
    pub(crate) fn is_gone(&self, place: &BlobPlace) -> bool {
        let state = self.state.lock();
        state.deleted || state.dead.touches(place.offset, place.end())
    }
}

impl PackStore {
    /// Opens the packs in `directory`, which is made if it is missing, and looks for blobs that were appended after
    /// the last durable commit of the metadata. `known` is what the metadata knows of each pack: how many of its
    /// bytes [`PackStore::sync`] had made durable. Packs that it does not name are scanned from the start.
    ///
    /// A half-written or damaged tail behind the durable length is cut off; damage before it is never touched.
    ///
    /// # Errors
    /// [`ChunkError::NewerVersion`] for packs of a newer program, [`ChunkError::Io`]. Damage is not an error here but
    /// a [`Problem`] of the [`Recovery`].
    pub fn open(
        directory: impl Into<PathBuf>,
        options: &Options,
        known: impl IntoIterator<Item = (PackId, u64)>,
    ) -> Result<(PackStore, Recovery), ChunkError> {
        let files = PackFiles::new(directory.into(), options.open_files);
        let pack_limit = options.pack_limit.clamp(PACK_HEADER_LEN + 1, (OFFSET_MAX / 2).min(16 << 30));
        let found = recover::recover(&files, known.into_iter().collect())?;

        let store = PackStore {
            files,
            pack_limit,
            writers: Writers::new(options.writers),
            flusher: Flusher::default(),
            headers: Headers::default(),
            next_pack: AtomicU32::new(found.next_pack),
            packs: RwLock::default(),
        };
        for pack in found.packs {
            let reusable = pack.usable && pack.length < pack_limit;
            let shared = Arc::new(Pack::new(pack.id, pack.length, !reusable));
            if let Some(file) = pack.unflushed {
                store.flusher.add(pack.id, &file, 0, pack.length);
            }
            if reusable {
                store.writers.offer(Arc::clone(&shared));
            }
            store.packs.write().insert(pack.id, shared);
        }
        if found.directory_changed {
            store.flusher.add_directory();
        }
        Ok((store, found.recovery))
    }

    /// The pack's file, opened anew and for reading only, for somebody who reads it without this store.
    pub fn open_pack_file(&self, pack: PackId) -> Result<File, ChunkError> {
        let path = self.files.path(self.pack(pack)?.id);
        File::open(&path).map_err(ChunkError::io("cannot open", &path))
    }

    /// All packs, in the order of their numbers.
    pub fn pack_ids(&self) -> Vec<PackId> {
        self.packs.read().keys().copied().collect()
    }

    pub(crate) fn pack(&self, pack: PackId) -> Result<Arc<Pack>, ChunkError> {
        self.packs.read().get(&pack).cloned().ok_or(ChunkError::NoSuchPack(pack))
    }

    /// A number that no pack has had since the store was opened, nor any that exists or is known.
    pub(crate) fn next_pack_id(&self) -> Result<PackId, ChunkError> {
        self.next_pack
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| number.checked_add(1))
            .map(PackId)
            .map_err(|_| ChunkError::OutOfPackNumbers)
    }

    pub(crate) fn problem(&self, place: &BlobPlace, blob: cairn_types::BlobId, kind: ProblemKind) -> Problem {
        Problem { file: self.files.path(place.pack), pack: place.pack, offset: place.offset, blob: Some(blob), kind }
    }
}

// A record that starts below the limit must end where dead ranges can still be counted.
const _: () = assert!((16 << 30) + 2 * (PAYLOAD_MAX as u64) < OFFSET_MAX);
