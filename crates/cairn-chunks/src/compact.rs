//! Compaction: the live records of a pack that is mostly dead move to the end of another.

use cairn_types::{BlobId, BlobPlace, PackId};

use crate::append::NewBlob;
use crate::error::{ChunkError, Problem, ProblemKind};
use crate::scan::{ScanItem, ScannedRecord};
use crate::store::PackStore;

/// Records are copied in batches of about this many bytes, or of so many records: few writes, little memory.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
const BATCH_RECORDS: usize = 1024;

/// A blob that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub blob: BlobId,
    pub from: BlobPlace,
    pub to: BlobPlace,
}

/// What [`PackStore::compact`] did.
#[derive(Debug, Default)]
pub struct Compaction {
    pub moved: Vec<Move>,
    /// Live records that are damaged and stay where they are. One whose header is damaged is not seen at all: it is
    /// what the metadata counts as live in the pack when everything in `moved` has been taken off.
    pub problems: Vec<Problem>,
    /// Why the rest could not be copied; what is in `moved` has been.
    pub stopped_by: Option<ChunkError>,
}

impl PackStore {
    /// Copies the live records of a sealed pack, verified, to packs that are appended to. `is_live` is asked once for
    /// each record.
    ///
    /// The caller then lets its metadata point to the new places (where a blob has not died meanwhile), and when that
    /// is durable, frees the old places, and the new ones of blobs that have died.
    ///
    /// # Errors
    /// Before anything was copied: [`ChunkError::NotSealed`], [`ChunkError::NoSuchPack`], or what [`PackStore::scan`]
    /// fails with. Later ones are in [`Compaction::stopped_by`].
    pub fn compact(
        &self,
        pack: PackId,
        mut is_live: impl FnMut(BlobId, &BlobPlace) -> bool,
    ) -> Result<Compaction, ChunkError> {
        let source = self.pack(pack)?;
        if !source.state.lock().sealed {
            return Err(ChunkError::NotSealed(pack));
        }
        let path = self.files.path(pack);
        let mut scan = self.scan(pack)?;
        let mut compaction = Compaction::default();
        let mut batch = Batch::default();
        while let Some(item) = scan.next() {
            let copied = item.map_err(ChunkError::io("cannot read", &path)).and_then(|item| {
                let ScanItem::Record(record) = item else { return Ok(()) };
                if !is_live(record.header.blob, &record.place) {
                    return Ok(());
                }
                match scan.verified_payload(&record).map_err(ChunkError::io("cannot read", &path))? {
                    Ok(payload) => batch.push(record, payload),
                    Err(_) if source.is_gone(&record.place) => {}
                    Err(block) => {
                        let kind = ProblemKind::BadBlock { block };
                        compaction.problems.push(self.problem(&record.place, record.header.blob, kind));
                    }
                }
                if batch.is_full() { self.copy(&mut batch, &mut compaction.moved) } else { Ok(()) }
            });
            if let Err(error) = copied {
                compaction.stopped_by = Some(error);
                return Ok(compaction);
            }
        }
        compaction.stopped_by = self.copy(&mut batch, &mut compaction.moved).err();
        Ok(compaction)
    }

    fn copy(&self, batch: &mut Batch, moved: &mut Vec<Move>) -> Result<(), ChunkError> {
        let Batch { blobs, from, .. } = std::mem::take(batch);
        let places = self.append(&blobs)?;
        moved.extend(blobs.iter().zip(from).zip(places).map(|((blob, from), to)| Move { blob: blob.id, from, to }));
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    blobs: Vec<NewBlob>,
    from: Vec<BlobPlace>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, record: ScannedRecord, payload: bytes::Bytes) {
        let ScannedRecord { header, place, checksums } = record;
        self.bytes += payload.len();
        self.from.push(place);
        self.blobs.push(NewBlob {
            id: header.blob,
            ino: header.ino,
            chunk: header.chunk,
            payload,
            checksums,
            hash: header.hash,
        });
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.blobs.len() >= BATCH_RECORDS
    }
}
