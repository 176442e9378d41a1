//! Appending: batches of blobs go to the end of a pack in one write.
//!
//! A store writes to several packs at a time, one *slot* for each. A batch takes the first slot that is free, so that
//! parallel batches never wait for each other's bytes (the kernel allows one writer to a file anyway), while a lone
//! writer fills one pack and keeps what was written together together. Whoever has a slot owns the end of its pack: a
//! pack never has a gap, and a write that fails is taken back by cutting the file.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_locks::{Mutex, MutexGuard};
use cairn_types::checksum::verify_blocks;
use cairn_types::{BlobId, BlobPlace, Ino, PackId};

use crate::error::ChunkError;
use crate::format::{
    PACK_HEADER_LEN, PAYLOAD_MAX, PackHeader, RECORD_ALIGN, RecordHeader, encode_pack_header, encode_record_prefix,
    parse_pack_header, record_len,
};
use crate::lock_order;
use crate::place::record_place;
use crate::store::{Pack, PackStore};
use crate::sys;

/// Payloads up to this many bytes are copied next to their headers; longer ones are written from where they are.
/// Copying 16 KiB costs about 1.5 µs, less than the kernel takes for two more pieces of a vectored write.
const COPY_MAX: usize = 16 * 1024;

/// A blob to append.
#[derive(Clone, Debug)]
pub struct NewBlob {
    pub id: BlobId,
    /// File and chunk that it is written for.
    pub ino: Ino,
    pub chunk: u32,
    /// 1 byte to 64 MiB.
    pub payload: Bytes,
    /// What [`block_checksums`](cairn_types::checksum::block_checksums) made of the payload at its maker.
    pub checksums: Vec<u32>,
    /// What [`blob_hash`](cairn_types::checksum::blob_hash) made of it there.
    pub hash: [u8; 32],
}

impl NewBlob {
    pub(crate) fn verify(&self) -> Result<(), ChunkError> {
        if self.payload.is_empty() || self.payload.len() > PAYLOAD_MAX as usize {
            return Err(ChunkError::BadLength { blob: self.id, length: self.payload.len() });
        }
        verify_blocks(&self.payload, &self.checksums)
            .map_err(|block| ChunkError::DamagedOnArrival { blob: self.id, block })
    }

    fn stored_len(&self) -> u64 {
        u64::from(record_len(self.payload.len() as u32))
    }
}

/// The packs that are appended to.
#[derive(Debug)]
pub(crate) struct Writers {
    slots: Vec<Mutex<Option<Writer>, lock_order::WriterSlot>>,
    /// Which slot to wait for when all are taken.
    turn: AtomicUsize,
    /// Packs with room from before the store was opened, which no slot has taken yet.
    reusable: Mutex<Vec<Arc<Pack>>, lock_order::ReusablePacks>,
}

/// The end of one pack.
#[derive(Debug)]
struct Writer {
    pack: Arc<Pack>,
    file: Arc<File>,
    salt: u64,
}

impl Writers {
    pub(crate) fn new(slots: usize) -> Self {
        let slots = (0..slots.max(1)).map(|_| Mutex::new(None)).collect();
        Writers { slots, turn: AtomicUsize::new(0), reusable: Mutex::default() }
    }

    /// Lets `pack`, which is not sealed, be appended to.
    pub(crate) fn offer(&self, pack: Arc<Pack>) {
        self.reusable.lock().push(pack);
    }

    /// Sees to it that nothing is appended to `pack` any more, waiting for a write that is under way.
    pub(crate) fn withdraw(&self, pack: PackId) {
        self.reusable.lock().retain(|reusable| reusable.id != pack);
        for slot in &self.slots {
            let mut writer = slot.lock();
            if writer.as_ref().is_some_and(|writer| writer.pack.id == pack) {
                *writer = None;
            }
        }
    }

    fn take_slot(&self) -> MutexGuard<'_, Option<Writer>> {
        if let Some(free) = self.slots.iter().find_map(Mutex::try_lock) {
            return free;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.slots[turn].lock()
    }
}

impl PackStore {
    /// Appends blobs, together and in this order. When it returns they can be read; a later [`PackStore::sync`] makes
    /// them durable. All or nothing: after an error none of them is stored.
    ///
    /// # Errors
    /// [`ChunkError::DamagedOnArrival`] or [`ChunkError::BadLength`] for a blob that is refused, [`ChunkError::Full`],
    /// [`ChunkError::Poisoned`] after a failed flush, [`ChunkError::Io`].
    pub fn append(&self, batch: &[NewBlob]) -> Result<Vec<BlobPlace>, ChunkError> {
        self.flusher.check()?;
        batch.iter().try_for_each(NewBlob::verify)?;
        let mut places = Vec::with_capacity(batch.len());
        if batch.is_empty() {
            return Ok(places);
        }
        let mut slot = self.writers.take_slot();
        let mut rest = batch;
        while let Some(first) = rest.first() {
            let written = self.writer_with_room(&mut slot, first.stored_len()).and_then(|writer| {
                let (now, later) = rest.split_at(count_that_fits(rest, writer.pack.length(), self.pack_limit));
                rest = later;
                self.write(writer, now)
            });
            match written {
                Ok(written) => places.extend(written),
                Err(error) => {
                    // A pack whose end may hold part of a record takes no more: see `write`.
                    if let Some(writer) = slot.take_if(|writer| writer.pack.state.lock().sealed) {
                        tracing::warn!(pack = %writer.pack.id, "a failed write could not be taken back; pack sealed");
                    }
                    drop(slot);
                    // What went to packs that were full before the error has been written: nobody will hear of it.
                    if let Err(second) = self.free(&places) {
                        tracing::warn!(%second, "cannot take back the first blobs of a batch that failed");
                    }
                    return Err(error);
                }
            }
        }
        Ok(places)
    }

    /// Writes records to the end of a pack, or leaves it as it was.
    fn write(&self, writer: &Writer, blobs: &[NewBlob]) -> Result<Vec<BlobPlace>, ChunkError> {
        let start = writer.pack.length();
        let mut end = start;
        let mut places = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let place = record_place(writer.pack.id, end, blob.payload.len() as u32);
            end = place.end();
            places.push(place);
        }
        let encoded = EncodedRecords::new(writer.salt, blobs);
        if let Err(error) = sys::write_all_at(&writer.file, &encoded.pieces(), start) {
            if writer.file.set_len(start).is_err() {
                writer.pack.state.lock().sealed = true;
            }
            return Err(ChunkError::writing(&self.files.path(writer.pack.id))(error));
        }
        writer.pack.length.store(end, Ordering::Release);
        self.flusher.add(writer.pack.id, &writer.file, start, end);
        Ok(places)
    }

    /// The slot's writer, if it has room for `needed` bytes, else one that has.
    fn writer_with_room<'slot>(
        &self,
        slot: &'slot mut Option<Writer>,
        needed: u64,
    ) -> Result<&'slot Writer, ChunkError> {
        let limit = self.pack_limit;
        if let Some(full) = slot.take_if(|writer| !has_room(writer.pack.length(), needed, limit)) {
            self.retire(&full.pack)?;
        }
        match slot {
            Some(writer) => Ok(writer),
            None => Ok(slot.insert(self.next_writer(needed)?)),
        }
    }

    /// Goes on with a pack from before the store was opened, or begins a new one.
    fn next_writer(&self, needed: u64) -> Result<Writer, ChunkError> {
        // The lock is let go before the pack is looked at.
        let reusable = || self.writers.reusable.lock().pop();
        while let Some(pack) = reusable() {
            if has_room(pack.length(), needed, self.pack_limit)
                && let Some(writer) = self.reopen(&pack)
            {
                return Ok(writer);
            }
            self.retire(&pack)?;
        }
        self.create_pack()
    }

    fn reopen(&self, pack: &Arc<Pack>) -> Option<Writer> {
        let file = self.files.get(pack.id).ok()?;
        let bytes = sys::read_at(&file, 0, PACK_HEADER_LEN as usize).ok()?;
        let salt = parse_pack_header(&bytes).ok()?.salt;
        Some(Writer { pack: Arc::clone(pack), file, salt })
    }

    fn create_pack(&self) -> Result<Writer, ChunkError> {
        let id = self.next_pack_id()?;
        let path = self.files.path(id);
        let file = self.files.create(id).map_err(ChunkError::writing(&path))?;
        // The keys of a new `RandomState` are drawn by the operating system: nobody can guess the hash of anything.
        let header = PackHeader { salt: RandomState::new().hash_one(id), pack: id };
        if let Err(error) = sys::write_all_at(&file, &[&encode_pack_header(&header)], 0) {
            if let Err(second) = self.files.remove(id) {
                tracing::warn!(%second, file = %path.display(), "cannot remove a pack that could not be begun");
            }
            return Err(ChunkError::writing(&path)(error));
        }
        let pack = Arc::new(Pack::new(id, PACK_HEADER_LEN, false));
        self.packs.write().insert(id, Arc::clone(&pack));
        self.flusher.add_directory();
        self.flusher.add(id, &file, 0, PACK_HEADER_LEN);
        Ok(Writer { pack, file, salt: header.salt })
    }
}

/// A pack takes a record that ends beyond the limit only as its first.
fn has_room(length: u64, needed: u64, limit: u64) -> bool {
    length <= PACK_HEADER_LEN || length + needed <= limit
}

/// How many of `blobs` go into a pack that is `length` bytes long and has room for the first.
fn count_that_fits(blobs: &[NewBlob], mut length: u64, limit: u64) -> usize {
    let more = blobs.iter().take_while(|blob| {
        let fits = has_room(length, blob.stored_len(), limit);
        length += blob.stored_len();
        fits
    });
    more.count()
}

/// Records ready to be written: headers and short payloads in one buffer, long payloads where they are.
struct EncodedRecords<'blobs> {
    buffer: Vec<u8>,
    pieces: Vec<Piece<'blobs>>,
}

enum Piece<'blobs> {
    Buffer(Range<usize>),
    Payload(&'blobs [u8]),
}

impl<'blobs> EncodedRecords<'blobs> {
    fn new(salt: u64, blobs: &'blobs [NewBlob]) -> Self {
        let mut buffer = Vec::new();
        let mut pieces = Vec::new();
        let mut piece_start = 0;
        for blob in blobs {
            let header = RecordHeader {
                salt,
                blob: blob.id,
                ino: blob.ino,
                chunk: blob.chunk,
                payload_len: blob.payload.len() as u32,
                hash: blob.hash,
            };
            let before = buffer.len();
            encode_record_prefix(&mut buffer, &header, &blob.checksums);
            let unpadded = (buffer.len() - before + blob.payload.len()) as u64;
            if blob.payload.len() <= COPY_MAX {
                buffer.extend_from_slice(&blob.payload);
            } else {
                pieces.push(Piece::Buffer(piece_start..buffer.len()));
                pieces.push(Piece::Payload(&blob.payload));
                piece_start = buffer.len();
            }
            let padding = unpadded.next_multiple_of(RECORD_ALIGN) - unpadded;
            buffer.resize(buffer.len() + padding as usize, 0);
        }
        pieces.push(Piece::Buffer(piece_start..buffer.len()));
        EncodedRecords { buffer, pieces }
    }

    fn pieces(&self) -> Vec<&[u8]> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Buffer(range) => self.buffer.get(range.clone()).unwrap_or_default(),
                Piece::Payload(payload) => payload,
            })
            .collect()
    }
}
