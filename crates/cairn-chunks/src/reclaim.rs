//! Giving space back: holes for dead ranges, deletion of dead packs, and what packs take.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use cairn_types::{BlobPlace, PackId};

use crate::dead::OFFSET_MAX;
use crate::error::ChunkError;
use crate::format::PACK_HEADER_LEN;
use crate::place::is_possible;
use crate::store::{Pack, PackStore};
use crate::sys;

/// What [`PackStore::free`] brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Packs that were wholly dead and are no more.
    pub deleted: Vec<PackId>,
    /// Bytes of other packs that were given back to the file system as holes.
    pub punched: u64,
}

/// What one pack takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackStats {
    pub pack: PackId,
    /// Bytes from the start of the file to the end of its last record, holes included.
    pub length: u64,
    /// Bytes of disk that the file occupies.
    pub on_disk: u64,
    /// Bytes of records freed since the store was opened.
    pub dead: u64,
    /// Whether the pack takes no more records.
    pub sealed: bool,
}

impl PackStore {
    /// Gives back the space of dead blobs. Call it only when no durable metadata refers to them any more. Whoever reads
    /// one of them from now on gets [`ChunkError::Gone`].
    ///
    /// Neighbours are joined, within `places` and with what was freed before, and whole 4 KiB units become holes. A
    /// sealed pack of which nothing is left is deleted. Freeing a place twice does no harm, nor does freeing one in a
    /// pack that is gone. Meant for many places at a time.
    ///
    /// # Errors
    /// [`ChunkError::ImpossiblePlace`], before anything was freed. [`ChunkError::Io`] if the file system fails; the
    /// places count as freed even then.
    pub fn free(&self, places: &[BlobPlace]) -> Result<Freed, ChunkError> {
        let mut places = places.to_vec();
        places.sort_unstable();
        let mut groups = Vec::new();
        for group in places.chunk_by(|left, right| left.pack == right.pack) {
            let Some(pack) = group.first().and_then(|place| self.pack(place.pack).ok()) else { continue };
            let end = pack.length().min(OFFSET_MAX);
            if let Some(place) = group.iter().find(|place| !is_possible(place) || place.end() > end) {
                return Err(ChunkError::ImpossiblePlace(*place));
            }
            groups.push((pack, group));
        }

        let mut freed = Freed::default();
        let mut failure = None;
        for (pack, group) in groups {
            match self.free_in_pack(&pack, group) {
                Ok(Some(punched)) => freed.punched += punched,
                Ok(None) => freed.deleted.push(pack.id),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(freed), Err)
    }

    /// Frees places that are sorted and lie in `pack`. Returns the bytes punched, or `None` if the pack was deleted.
    fn free_in_pack(&self, pack: &Pack, places: &[BlobPlace]) -> Result<Option<u64>, ChunkError> {
        let mut holes = Vec::new();
        let mut state = pack.state.lock();
        for run in places.chunk_by(|left, right| left.end() >= right.offset) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                holes.extend(state.dead.add(first.offset, last.end()));
            }
        }
        drop(state);
        if self.delete_if_dead(pack)? {
            return Ok(None);
        }
        if holes.is_empty() {
            return Ok(Some(0));
        }
        let path = self.files.path(pack.id);
        let file = self.files.get(pack.id).map_err(ChunkError::io("cannot open", &path))?;
        let mut punched = 0;
        for (start, end) in holes {
            if !sys::punch_hole(&file, start, end).map_err(ChunkError::io("cannot punch a hole", &path))? {
                // Space then comes back by compaction alone.
                break;
            }
            punched += end - start;
        }
        Ok(Some(punched))
    }

    /// Lets a pack take no more records, waiting for an append that is under way. If nothing in it is alive it is
    /// deleted at once. A seal lasts until the store is opened again.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchPack`]; [`ChunkError::Io`] if it could not be deleted.
    pub fn seal(&self, pack: PackId) -> Result<(), ChunkError> {
        let pack = self.pack(pack)?;
        // First, so that no sealed pack is ever written to.
        self.writers.withdraw(pack.id);
        self.retire(&pack)
    }

    /// Deletes a sealed pack with everything in it. The order is: [`PackStore::seal`], then make sure that the
    /// metadata refers to nothing in it and that no appended blob waits to be referred to, then this.
    ///
    /// # Errors
    /// [`ChunkError::NotSealed`], [`ChunkError::NoSuchPack`], [`ChunkError::Io`].
    pub fn delete(&self, pack: PackId) -> Result<(), ChunkError> {
        let pack = self.pack(pack)?;
        let mut state = pack.state.lock();
        if !state.sealed {
            return Err(ChunkError::NotSealed(pack.id));
        }
        state.deleted = true;
        drop(state);
        self.remove(&pack)
    }

    /// What every pack takes, in the order of their numbers. Asks the file system once for each.
    pub fn pack_stats(&self) -> Result<Vec<PackStats>, ChunkError> {
        let packs: Vec<Arc<Pack>> = self.packs.read().values().cloned().collect();
        packs
            .iter()
            .map(|pack| {
                let path = self.files.path(pack.id);
                let on_disk = match std::fs::metadata(&path) {
                    Ok(metadata) => metadata.blocks() * 512,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                    Err(error) => return Err(ChunkError::io("cannot stat", &path)(error)),
                };
                let state = pack.state.lock();
                let (dead, sealed) = (state.dead.total(), state.sealed);
                Ok(PackStats { pack: pack.id, length: pack.length(), on_disk, dead, sealed })
            })
            .collect()
    }

    /// Bytes of disk that all packs occupy. As dear as [`PackStore::pack_stats`].
    pub fn total_stored_bytes(&self) -> Result<u64, ChunkError> {
        Ok(self.pack_stats()?.iter().map(|stats| stats.on_disk).sum())
    }

    /// Seals a pack that no writer has.
    pub(crate) fn retire(&self, pack: &Pack) -> Result<(), ChunkError> {
        pack.state.lock().sealed = true;
        self.delete_if_dead(pack).map(|_| ())
    }

    fn delete_if_dead(&self, pack: &Pack) -> Result<bool, ChunkError> {
        let mut state = pack.state.lock();
        let records = pack.length().saturating_sub(PACK_HEADER_LEN);
        if !state.sealed || state.deleted || state.dead.total() < records {
            return Ok(state.deleted);
        }
        state.deleted = true;
        drop(state);
        self.remove(pack)?;
        Ok(true)
    }

    /// Removes a pack that has been marked as deleted.
    fn remove(&self, pack: &Pack) -> Result<(), ChunkError> {
        self.packs.write().remove(&pack.id);
        let removed = self.files.remove(pack.id);
        self.flusher.forget(pack.id);
        removed.map_err(ChunkError::io("cannot delete", &self.files.path(pack.id)))
    }
}
