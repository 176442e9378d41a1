//! Blobs in memory, for tests: each append makes one immutable object, as a store of objects over a network would. A crash
//! can be asked for, and as many openers as one likes have the objects in common.
//!
//! It offers no capability: there are no files to read, nothing of an object can be rewritten, and nothing travels with
//! the metadata.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_locks::Mutex;
use cairn_types::checksum::{blob_hash, verify_blocks};
use cairn_types::limits::CHECK_BLOCK;
use cairn_types::{BlobId, BlobPlace, PackId};

use crate::append::NewBlob;
use crate::blob_store::{BlobStore, BlobStoreOpener, Capacity, StoredBlob, StoredBlobs, Wait};
use crate::error::{ChunkError, Problem, ProblemKind};
use crate::lock_order;
use crate::read::{ReadBlob, widened};
use crate::reclaim::Freed;
use crate::recover::Recovery;

#[derive(Debug, Default)]
struct Object {
    /// By offset; `None` for one that was freed.
    blobs: BTreeMap<u64, Option<NewBlob>>,
    length: u64,
    durable: bool,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<PackId, Object>,
    /// Number of the last object that was made.
    last: u32,
}

/// Objects in a map. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryBlobs(Arc<Mutex<State, lock_order::MemoryBlobs>>);

impl MemoryBlobs {
    /// Forgets what no sync has covered, as a machine does that loses power.
    pub fn crash(&self) {
        self.0.lock().objects.retain(|_, object| object.durable);
    }

    /// What `look` makes of the blob at `place`.
    fn with<T>(
        &self,
        blob: BlobId,
        place: &BlobPlace,
        look: impl FnOnce(&NewBlob) -> Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        let state = self.0.lock();
        let gone = || ChunkError::Gone { blob, pack: place.pack };
        match state.objects.get(&place.pack).ok_or_else(gone)?.blobs.get(&place.offset) {
            Some(Some(stored)) if stored.id == blob => look(stored),
            Some(Some(other)) => Err(damaged(blob, place, ProblemKind::OtherRecord { found: other.id })),
            Some(None) => Err(gone()),
            None => Err(ChunkError::ImpossiblePlace(*place)),
        }
    }
}

fn damaged(blob: BlobId, place: &BlobPlace, kind: ProblemKind) -> ChunkError {
    let file = PathBuf::from(format!("object {}", place.pack));
    ChunkError::Damaged(Problem { file, pack: place.pack, offset: place.offset, blob: Some(blob), kind })
}

impl Object {
    fn stored(&self, pack: PackId) -> Vec<StoredBlob> {
        let place = |offset: u64, length: u32| BlobPlace { pack, offset, payload_len: length, stored_len: length };
        let alive = self.blobs.iter().filter_map(|(offset, blob)| Some((*offset, blob.as_ref()?)));
        let stored = alive.map(|(offset, blob)| StoredBlob {
            blob: blob.id,
            ino: blob.ino,
            chunk: blob.chunk,
            place: place(offset, blob.payload.len() as u32),
        });
        stored.collect()
    }
}

impl BlobStore for MemoryBlobs {
    fn append(&self, blobs: &[NewBlob]) -> Result<Vec<BlobPlace>, ChunkError> {
        blobs.iter().try_for_each(NewBlob::verify)?;
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut state = self.0.lock();
        state.last = state.last.checked_add(1).ok_or(ChunkError::OutOfPackNumbers)?;
        let pack = PackId(state.last);
        let mut object = Object::default();
        for blob in blobs {
            object.blobs.insert(object.length, Some(blob.clone()));
            object.length += blob.payload.len() as u64;
        }
        let places = object.stored(pack).into_iter().map(|stored| stored.place).collect();
        state.objects.insert(pack, object);
        Ok(places)
    }

    fn read(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>, _wait: Wait) -> Result<ReadBlob, ChunkError> {
        self.with(blob, place, |stored| {
            if range.start > range.end || range.end as usize > stored.payload.len() {
                return Err(ChunkError::OutOfRange { blob, start: range.start, end: range.end });
            }
            let data = widened(&range, stored.payload.len() as u32);
            let blocks = (data.start / CHECK_BLOCK) as usize..data.end.div_ceil(CHECK_BLOCK) as usize;
            Ok(ReadBlob {
                data: stored.payload.slice(data.start as usize..data.end as usize),
                checksums: stored.checksums.get(blocks).unwrap_or_default().to_vec(),
                data_offset: data.start,
            })
        })
    }

    fn verify(&self, blob: BlobId, place: &BlobPlace) -> Result<(), ChunkError> {
        self.with(blob, place, |stored| {
            verify_blocks(&stored.payload, &stored.checksums)
                .map_err(|block| damaged(blob, place, ProblemKind::BadBlock { block }))?;
            if blob_hash(&stored.payload) == stored.hash {
                Ok(())
            } else {
                Err(damaged(blob, place, ProblemKind::BadHash))
            }
        })
    }

    fn verify_pack(&self, pack: PackId, live: &[(BlobId, BlobPlace)]) -> Result<Vec<Problem>, ChunkError> {
        if !self.0.lock().objects.contains_key(&pack) {
            return Err(ChunkError::NoSuchPack(pack));
        }
        let mut problems = Vec::new();
        for (blob, place) in live {
            match self.verify(*blob, place) {
                Ok(()) | Err(ChunkError::Gone { .. }) => {}
                Err(ChunkError::Damaged(problem)) => problems.push(problem),
                Err(error) => return Err(error),
            }
        }
        Ok(problems)
    }

    fn sync(&self) -> Result<Vec<(PackId, u64)>, ChunkError> {
        let mut state = self.0.lock();
        let fresh = state.objects.iter_mut().filter(|(_, object)| !object.durable);
        let synced = fresh.map(|(pack, object)| {
            object.durable = true;
            (*pack, object.length)
        });
        Ok(synced.collect())
    }

    fn free(&self, places: &[BlobPlace]) -> Result<Freed, ChunkError> {
        let mut state = self.0.lock();
        let possible = |place: &&BlobPlace| match state.objects.get(&place.pack) {
            Some(object) => object.blobs.contains_key(&place.offset),
            None => true,
        };
        if let Some(place) = places.iter().find(|place| !possible(place)) {
            return Err(ChunkError::ImpossiblePlace(*place));
        }
        let mut freed = Freed::default();
        for place in places {
            let Some(object) = state.objects.get_mut(&place.pack) else { continue };
            if let Some(blob) = object.blobs.get_mut(&place.offset) {
                *blob = None;
            }
            if object.blobs.values().all(Option::is_none) {
                state.objects.remove(&place.pack);
                freed.deleted.push(place.pack);
            }
        }
        Ok(freed)
    }

    fn packs(&self) -> Vec<PackId> {
        self.0.lock().objects.keys().copied().collect()
    }

    fn blobs(&self, pack: PackId) -> Result<StoredBlobs, ChunkError> {
        let state = self.0.lock();
        let stored = state.objects.get(&pack).ok_or(ChunkError::NoSuchPack(pack))?.stored(pack);
        Ok(Box::new(stored.into_iter().map(Ok)))
    }

    fn stored_bytes(&self) -> Result<u64, ChunkError> {
        Ok(self.0.lock().objects.values().map(|object| object.length).sum())
    }

    fn capacity(&self) -> Option<Capacity> {
        None
    }
}

impl BlobStoreOpener for MemoryBlobs {
    fn restore_tails(&self, tails: &[u8]) -> io::Result<()> {
        if tails.is_empty() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn open(&self, known: &[(PackId, u64)]) -> Result<(Arc<dyn BlobStore>, Recovery), ChunkError> {
        let state = self.0.lock();
        let mut recovery = Recovery::default();
        for (pack, object) in &state.objects {
            let durable = known.iter().find(|(other, _)| other == pack).map_or(0, |(_, length)| *length);
            recovery.blobs.extend(object.stored(*pack).into_iter().filter(|stored| stored.place.offset >= durable));
        }
        for &(pack, length) in known.iter().filter(|(pack, _)| !state.objects.contains_key(pack)) {
            let file = PathBuf::from(format!("object {pack}"));
            recovery.problems.push(Problem { file, pack, offset: length, blob: None, kind: ProblemKind::MissingFile });
        }
        Ok((Arc::new(self.clone()), recovery))
    }
}
