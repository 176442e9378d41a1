//! File bytes: storing blobs, reading them, looking into reports of damage.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_chunks::{ChunkError, NewBlob, Wait};
use cairn_meta::{Snapshot, StoreError};
use cairn_types::{BlobId, BlobPlace, Errno, PackId, SessionId};
use cairn_wire::message::{Answer, BlobHeader, BlobPart, BlobPlacement, BlobRange, Failure};

use crate::{Inner, Reply};

/// Requests for more bytes than this are served by a thread that may wait for the disk; smaller ones at once, because
/// handing them over costs more than they do, and because clients count on it.
const INLINE_MAX: usize = cairn_wire::BLOBS_IN_ORDER_MAX;
/// As many ranges are located at once at most; more by a thread that may wait for the disk.
const LOCATE_INLINE_MAX: usize = 16;
/// Bytes that are written but not flushed beyond which a flush is begun in the background, so that the next durable
/// commit need not wait for all of them.
const FLUSH_AHEAD: u64 = 32 * 1024 * 1024;

fn failure(errno: Errno, message: &str) -> Failure {
    Failure { errno, message: message.to_owned() }
}

impl Inner {
    pub(crate) async fn put_blobs(
        self: &Arc<Self>,
        session: SessionId,
        headers: Vec<BlobHeader>,
        bulk: Bytes,
    ) -> Reply {
        if let Some(trouble) = self.committer.trouble() {
            return Err(Failure { errno: Errno::EIO, message: trouble });
        }
        if !self.disk.claim(bulk.len() as u64) {
            return Err(failure(Errno::ENOSPC, "the server's disk is full"));
        }
        let blobs = cut(headers, &bulk)?;
        let inner = Arc::clone(self);
        let store = move || inner.store_blobs(session, blobs);
        if bulk.len() <= INLINE_MAX {
            return store();
        }
        tokio::task::spawn_blocking(store).await.unwrap_or_else(|_| Err(Errno::EIO.into()))
    }

    fn store_blobs(self: &Arc<Self>, session: SessionId, mut blobs: Vec<NewBlob>) -> Reply {
        let snapshot = self.snapshot()?;
        // One that was sent again after a lost answer is there already.
        blobs.retain(|blob| !self.has_blob(&snapshot, blob.id));
        let append = self.blobs.begin_append();
        let places = match self.blob_store.append(&blobs) {
            Ok(places) => places,
            Err(error) => {
                self.blobs.finish_append(append, None, &[]);
                tracing::warn!(%session, %error, "blobs could not be stored");
                return Err(Failure { errno: error.errno(), message: error.to_string() });
            }
        };
        let placed: Vec<(BlobId, BlobPlace)> = blobs.iter().map(|blob| blob.id).zip(places).collect();
        self.blobs.finish_append(append, Some(session), &placed);
        let bytes: u64 = blobs.iter().map(|blob| blob.payload.len() as u64).sum();
        self.counters.blobs_received.add(blobs.len() as u64);
        self.counters.blob_bytes_received.add(bytes);
        self.flush_ahead(bytes);
        if !self.sessions.get(session).is_some_and(|session| session.stage() != crate::sessions::Stage::Ended) {
            // Ended meanwhile: whoever swept its blobs has missed these.
            let blobs: Vec<BlobId> = placed.iter().map(|(blob, _)| *blob).collect();
            self.maintenance.discard_blobs(blobs);
            return Err(Errno::ESTALE.into());
        }
        Ok((Answer::Done, Vec::new()))
    }

    fn has_blob(&self, snapshot: &Snapshot, blob: BlobId) -> bool {
        self.blobs.place(blob).is_some() || matches!(snapshot.blob_record(blob), Ok(Some(_)))
    }

    /// Begins a flush if much has been written since the last.
    fn flush_ahead(self: &Arc<Self>, written: u64) {
        if self.unflushed.fetch_add(written, Ordering::Relaxed) + written < FLUSH_AHEAD {
            return;
        }
        self.unflushed.store(0, Ordering::Relaxed);
        self.maintenance.flush_soon();
    }

    /// Few bytes are read at once, unless that would make many wait for the disk one after the other: while one reader waits for it,
    /// what is not in memory is left to threads that may wait.
    pub(crate) async fn read_blobs(self: &Arc<Self>, ranges: Vec<BlobRange>) -> Reply {
        let bytes: usize = ranges.iter().map(|range| range.length as usize).sum();
        if bytes <= INLINE_MAX {
            if self.readers.load(Ordering::Relaxed) == 0 {
                return self.read_ranges(&ranges, Wait::Storage);
            }
            match self.read_ranges(&ranges, Wait::Never) {
                Err(failure) if failure.errno == Errno::EAGAIN => {}
                reply => return reply,
            }
        }
        let inner = Arc::clone(self);
        let read = move || inner.read_ranges(&ranges, Wait::Storage);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(Errno::EIO.into()))
    }

    fn read_ranges(&self, ranges: &[BlobRange], wait: Wait) -> Reply {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let read = self.each_range(ranges, |blob, place, range| self.blob_store.read(blob, place, range, wait));
        self.readers.fetch_sub(1, Ordering::Relaxed);
        let mut parts = Vec::with_capacity(ranges.len());
        let mut bulk = Vec::with_capacity(ranges.len());
        for (_, read) in read? {
            self.counters.blob_bytes_sent.add(read.data.len() as u64);
            let length = read.data.len() as u32;
            parts.push(BlobPart { offset: read.data_offset, length, checksums: read.checksums });
            bulk.push(read.data);
        }
        self.counters.blobs_sent.add(ranges.len() as u64);
        Ok((Answer::Blobs(parts), bulk))
    }

    /// Tells where ranges lie, for a client that has descriptors of packs.
    pub(crate) async fn locate_blobs(self: &Arc<Self>, ranges: Vec<BlobRange>) -> Reply {
        if ranges.len() <= LOCATE_INLINE_MAX {
            return self.locate_ranges(&ranges);
        }
        let inner = Arc::clone(self);
        let locate = move || inner.locate_ranges(&ranges);
        tokio::task::spawn_blocking(locate).await.unwrap_or_else(|_| Err(Errno::EIO.into()))
    }

    fn locate_ranges(&self, ranges: &[BlobRange]) -> Reply {
        let Some(files) = self.blob_store.short_circuit() else { return Err(Errno::EOPNOTSUPP.into()) };
        let located = self.each_range(ranges, |blob, place, range| files.locate(blob, place, range))?;
        let places = located.into_iter().map(|(pack, located)| {
            self.counters.blob_bytes_located.add(u64::from(located.length));
            let part = BlobPart { offset: located.data_offset, length: located.length, checksums: located.checksums };
            BlobPlacement { pack: pack.0, position: located.position, part }
        });
        let places = places.collect();
        self.counters.blobs_located.add(ranges.len() as u64);
        Ok((Answer::Places(places), Vec::new()))
    }

    /// A pack's file, for reading only.
    pub(crate) fn open_pack(&self, pack: PackId) -> Result<File, Failure> {
        let Some(files) = self.blob_store.short_circuit() else { return Err(Errno::EOPNOTSUPP.into()) };
        files.open_pack_file(pack).map_err(|error| {
            // A pack that a client asks for was there when it was told the place of a blob.
            let errno = if matches!(error, ChunkError::NoSuchPack(_)) { Errno::ENOENT } else { error.errno() };
            failure(errno, &error.to_string())
        })
    }

    /// Does something with the place of each range's blob. Answers the packs, too.
    fn each_range<T>(
        &self,
        ranges: &[BlobRange],
        read: impl Fn(BlobId, &BlobPlace, Range<u32>) -> Result<T, ChunkError>,
    ) -> Result<Vec<(PackId, T)>, Failure> {
        let mut outcomes = Vec::with_capacity(ranges.len());
        let mut snapshot = self.snapshot()?;
        for range in ranges {
            let wanted = range.offset..range.offset.saturating_add(range.length);
            let one = |snapshot: &Snapshot| {
                let place = self.place_of(snapshot, range.blob)?.ok_or(ReadError::NoSuchBlob)?;
                read(range.blob, &place, wanted.clone()).map(|outcome| (place.pack, outcome)).map_err(ReadError::from)
            };
            let outcome = match one(&snapshot) {
                Err(ReadError::NoSuchBlob) => {
                    // It may have been moved since the snapshot was taken.
                    snapshot = self.snapshot()?;
                    one(&snapshot)
                }
                outcome => outcome,
            };
            outcomes.push(outcome.map_err(|error| self.read_failure(range.blob, &error))?);
        }
        Ok(outcomes)
    }

    fn place_of(&self, snapshot: &Snapshot, blob: BlobId) -> Result<Option<BlobPlace>, StoreError> {
        // Pending first: a blob that is referenced between the two is in the next snapshot.
        match self.blobs.place(blob) {
            Some(place) => Ok(Some(place)),
            None => Ok(snapshot.blob_record(blob)?.map(|record| record.place)),
        }
    }

    fn read_failure(&self, blob: BlobId, error: &ReadError) -> Failure {
        match error {
            ReadError::NoSuchBlob => {
                Failure { errno: Errno::ENOENT, message: format!("blob {blob} is no longer there") }
            }
            ReadError::Blob(ChunkError::NotInMemory { .. }) => Errno::EAGAIN.into(),
            ReadError::Blob(ChunkError::OutOfRange { .. }) => {
                Failure { errno: Errno::EINVAL, message: error.to_string() }
            }
            ReadError::Blob(_) | ReadError::Metadata(_) => {
                self.counters.blobs_damaged.add(1);
                tracing::error!(volume = %self.id, %blob, %error, "stored bytes cannot be read");
                Failure { errno: Errno::EIO, message: error.to_string() }
            }
        }
    }

    /// A client has received bytes that do not match: finds out whether they are damaged here.
    pub(crate) async fn look_into_damage(self: &Arc<Self>, session: SessionId, blob: BlobId, offset: u32) -> Reply {
        let inner = Arc::clone(self);
        let look = move || {
            let snapshot = inner.snapshot()?;
            let stored = snapshot.blob_record(blob).ok().flatten().map(|record| record.place);
            let Some(place) = inner.blobs.place(blob).or(stored) else { return Ok(()) };
            match inner.blob_store.verify(blob, &place) {
                Ok(()) => {
                    tracing::warn!(volume = %inner.id, %session, %blob, offset,
                        "a client received damaged bytes that are intact here: they were damaged on their way");
                }
                Err(ChunkError::Gone { .. }) => {}
                Err(error) => {
                    inner.counters.blobs_damaged.add(1);
                    tracing::error!(volume = %inner.id, %session, %blob, %error, "stored bytes are damaged");
                }
            }
            Ok(())
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(outcome) => outcome.map(|()| (Answer::Done, Vec::new())),
            Err(_) => Err(Errno::EIO.into()),
        }
    }
}

/// Why a range of a blob cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// It was freed, or moved since it was looked up.
    #[error("no such blob")]
    NoSuchBlob,
    #[error("cannot look up a blob: {0}")]
    Metadata(#[from] StoreError),
    #[error(transparent)]
    Blob(ChunkError),
}

impl From<ChunkError> for ReadError {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Gone { .. } => ReadError::NoSuchBlob,
            error => ReadError::Blob(error),
        }
    }
}

/// Cuts the bulk into the blobs that the headers announce.
fn cut(headers: Vec<BlobHeader>, bulk: &Bytes) -> Result<Vec<NewBlob>, Failure> {
    let mut blobs = Vec::with_capacity(headers.len());
    let mut start = 0usize;
    for header in headers {
        let end = start.saturating_add(header.length as usize);
        if end > bulk.len() || header.length == 0 || header.length > cairn_wire::BLOB_MAX {
            return Err(failure(Errno::EINVAL, "the bytes of the blobs do not match their headers"));
        }
        let BlobHeader { blob: id, ino, chunk, checksums, hash, .. } = header;
        blobs.push(NewBlob { id, ino, chunk, payload: bulk.slice(start..end), checksums, hash });
        start = end;
    }
    if start < bulk.len() {
        return Err(failure(Errno::EINVAL, "there are more bytes than the headers announce"));
    }
    Ok(blobs)
}
