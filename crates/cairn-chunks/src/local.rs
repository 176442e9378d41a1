//! Packs in a directory of this machine, as a [`BlobStore`].

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_types::{BlobId, BlobPlace, PackId};

use crate::append::NewBlob;
use crate::blob_store::{BlobStore, BlobStoreOpener, Capacity, Compact, ShortCircuit, StoredBlob, StoredBlobs, Wait};
use crate::compact::Compaction;
use crate::error::{ChunkError, Problem};
use crate::read::{LocatedBlob, ReadBlob};
use crate::reclaim::{Freed, PackStats};
use crate::recover::Recovery;
use crate::scan::ScanItem;
use crate::store::{Options, PackStore};
use crate::tails::restore_tails;

/// A directory of packs that is not open yet.
#[derive(Clone, Debug)]
pub struct LocalPacks {
    directory: PathBuf,
    options: Options,
}

impl LocalPacks {
    /// The directory is made if it is missing.
    pub fn new(directory: impl Into<PathBuf>, options: Options) -> Self {
        LocalPacks { directory: directory.into(), options }
    }
}

impl BlobStoreOpener for LocalPacks {
    fn restore_tails(&self, tails: &[u8]) -> io::Result<()> {
        restore_tails(&self.directory, tails)
    }

    fn open(&self, known: &[(PackId, u64)]) -> Result<(Arc<dyn BlobStore>, Recovery), ChunkError> {
        let (store, recovery) = PackStore::open(&self.directory, &self.options, known.iter().copied())?;
        Ok((Arc::new(store), recovery))
    }
}

impl BlobStore for PackStore {
    fn append(&self, blobs: &[NewBlob]) -> Result<Vec<BlobPlace>, ChunkError> {
        self.append(blobs)
    }

    fn read(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>, wait: Wait) -> Result<ReadBlob, ChunkError> {
        match wait {
            Wait::Storage => self.read(blob, place, range),
            Wait::Never => self.read_from_memory(blob, place, range),
        }
    }

    fn verify(&self, blob: BlobId, place: &BlobPlace) -> Result<(), ChunkError> {
        self.verify_blob(blob, place)
    }

    fn verify_pack(&self, pack: PackId, live: &[(BlobId, BlobPlace)]) -> Result<Vec<Problem>, ChunkError> {
        self.verify_pack(pack, live.iter().copied())
    }

    fn sync(&self) -> Result<Vec<(PackId, u64)>, ChunkError> {
        self.sync()
    }

    fn take_tails(&self, most: u64) -> Option<Vec<u8>> {
        self.take_tails(most)
    }

    fn free(&self, places: &[BlobPlace]) -> Result<Freed, ChunkError> {
        self.free(places)
    }

    fn packs(&self) -> Vec<PackId> {
        self.pack_ids()
    }

    fn blobs(&self, pack: PackId) -> Result<StoredBlobs, ChunkError> {
        let path = self.files.path(pack);
        let blobs = self.scan(pack)?.filter_map(move |item| match item {
            Ok(ScanItem::Record(record)) => Some(Ok(StoredBlob::from(&record))),
            Ok(ScanItem::Gap { .. }) => None,
            Err(error) => Some(Err(ChunkError::io("cannot read", &path)(error))),
        });
        Ok(Box::new(blobs))
    }

    fn stored_bytes(&self) -> Result<u64, ChunkError> {
        self.total_stored_bytes()
    }

    fn capacity(&self) -> Option<Capacity> {
        let state = rustix::fs::statvfs(self.files.directory()).ok()?;
        let unit = state.f_frsize;
        Some(Capacity { free: state.f_bavail.saturating_mul(unit), total: state.f_blocks.saturating_mul(unit) })
    }

    fn short_circuit(&self) -> Option<&dyn ShortCircuit> {
        Some(self)
    }

    fn compaction(&self) -> Option<&dyn Compact> {
        Some(self)
    }
}

impl ShortCircuit for PackStore {
    fn locate(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<LocatedBlob, ChunkError> {
        self.locate(blob, place, range)
    }

    fn open_pack_file(&self, pack: PackId) -> Result<File, ChunkError> {
        self.open_pack_file(pack)
    }
}

impl Compact for PackStore {
    fn pack_stats(&self) -> Result<Vec<PackStats>, ChunkError> {
        self.pack_stats()
    }

    fn seal(&self, pack: PackId) -> Result<(), ChunkError> {
        self.seal(pack)
    }

    fn compact(
        &self,
        pack: PackId,
        is_live: &mut dyn FnMut(BlobId, &BlobPlace) -> bool,
    ) -> Result<Compaction, ChunkError> {
        self.compact(pack, is_live)
    }

    fn delete(&self, pack: PackId) -> Result<(), ChunkError> {
        self.delete(pack)
    }
}
