//! Short circuit: on the server's own host, bytes of blobs are read from the server's pack files, not sent by it.
//!
//! The server tells where a range lies and what its checksums are, and hands over the pack's descriptor once, by a
//! connection of its own (`SCM_RIGHTS`). What is read there is verified like anything that was sent. Packs change under
//! the reader: holes are punched, packs are rewritten and deleted (cut to nothing). What does not match, or is not all there, is
//! therefore no damage: it is asked of the server, which alone can tell. Whatever goes wrong here, the caller goes on
//! without.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::checksum;
use cairn_wire::handshake::WelcomeDetail;
use cairn_wire::message::{Answer, BlobPart, BlobPlacement, BlobRange};
use cairn_wire::{FrameKind, Purpose, Request, Response};
use lru::LruCache;

use super::super::Inner;
use super::{covers, pool};
use crate::address::ServerAddress;
use crate::connect::{Descriptors, Reader, Writer, connect_with_descriptors};
use crate::lock_order;

/// The version of the protocol that brought this.
const SINCE_VERSION: u32 = 3;
/// Most descriptors of packs that are kept.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Ranges that are smaller than this on average are left to the server: for small files the question where they lie costs what
/// their copying does (`docs/performance.md`).
const RANGE_MIN: u64 = 64 * 1024;
/// How long nothing is tried again after the connection for descriptors could not be had, or broke.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest time that a descriptor is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Requests that are read at once: enough to keep a disk busy, few enough that the memory of the threads which read stays
/// small.
const READS_MAX: usize = 2;
/// Parts of one pack that lie so near to each other are read at once: reading what is between costs less than another call.
const GAP_MAX: u64 = 16 * 1024;
/// Most bytes that are read at once.
const RUN_MAX: u64 = 2 * 1024 * 1024;

pub(in crate::session) struct Packs {
    link: tokio::sync::Mutex<Option<PackLink>>,
    files: Mutex<LruCache<u32, Arc<File>>, lock_order::OpenPacks>,
    /// Why nothing is tried, and until when.
    resting: Mutex<Option<(Instant, String)>, lock_order::PacksRest>,
    reads: tokio::sync::Semaphore,
}

impl Default for Packs {
    fn default() -> Self {
        Packs {
            link: tokio::sync::Mutex::default(),
            files: Mutex::new(LruCache::new(FILES_MAX)),
            resting: Mutex::default(),
            reads: tokio::sync::Semaphore::new(READS_MAX),
        }
    }
}

/// The connection that descriptors come by.
struct PackLink {
    reader: Reader,
    writer: Writer,
    descriptors: Descriptors,
    /// [`Inner::generation`] of the session it belongs to.
    generation: u64,
}

/// Whether blobs are read from packs, in words for people.
pub(in crate::session) fn state(inner: &Inner) -> String {
    match why_not(inner) {
        None => "on".to_owned(),
        Some(reason) => format!("off: {reason}"),
    }
}

fn why_not(inner: &Inner) -> Option<String> {
    if !inner.options.short_circuit {
        return Some("switched off by --no-short-circuit".to_owned());
    }
    if !matches!(inner.options.connect.address, ServerAddress::Unix(_)) {
        return Some("the server is not reached by its Unix socket".to_owned());
    }
    if inner.protocol.load(Ordering::Relaxed) < SINCE_VERSION {
        return Some("the server is of an older version".to_owned());
    }
    let mut resting = inner.packs.resting.lock();
    if resting.as_ref().is_some_and(|(until, _)| *until <= Instant::now()) {
        *resting = None;
    }
    resting.as_ref().map(|(_, reason)| format!("for a while, because {reason}"))
}

impl Packs {
    fn rest(&self, reason: String) {
        tracing::debug!(reason, "packs are not read from here for a while");
        *self.resting.lock() = Some((Instant::now() + PAUSE, reason));
    }

    fn forget<'packs>(&self, packs: impl Iterator<Item = &'packs u32>) {
        let mut files = self.files.lock();
        for pack in packs {
            files.pop(pack);
        }
    }
}

/// Reads ranges from packs. One part for each, verified; `None` if that is not possible now.
pub(super) async fn read(inner: &Arc<Inner>, ranges: &[BlobRange]) -> Option<Vec<(BlobPart, Bytes)>> {
    let bytes: u64 = ranges.iter().map(|range| u64::from(range.length)).sum();
    if bytes < RANGE_MIN * ranges.len() as u64 || why_not(inner).is_some() {
        return None;
    }
    let request = Request::LocateBlobs(ranges.to_vec());
    let Ok((Answer::Places(places), _)) = pool::transfer(inner, &request, &[], 0, None).await else { return None };
    let fits = places.len() == ranges.len()
        && places.iter().zip(ranges).all(|(place, range)| covers(&place.part, range) && end_of(place).is_some());
    if !fits {
        return None;
    }
    let mut files = HashMap::new();
    for place in &places {
        if let std::collections::hash_map::Entry::Vacant(entry) = files.entry(place.pack) {
            entry.insert(file(inner, place.pack).await?);
        }
    }
    let files = Arc::new(files);
    let reading = Arc::clone(&files);
    // The semaphore is never closed.
    let permit = inner.packs.reads.acquire().await.ok()?;
    let read = inner.runtime.spawn_blocking(move || read_places(places, &reading)).await.ok()?;
    drop(permit);
    let counters = &inner.counters;
    if let Some(parts) = &read {
        let bytes = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        counters.blob_bytes_from_packs.fetch_add(bytes, Ordering::Relaxed);
    } else {
        // Freed, moved or damaged since; perhaps the descriptor is of a file that is no more.
        counters.packs_left.fetch_add(1, Ordering::Relaxed);
        inner.packs.forget(files.keys());
    }
    read
}

/// A pack's file, handed over by the server if it is not here yet.
async fn file(inner: &Arc<Inner>, pack: u32) -> Option<Arc<File>> {
    if let Some(file) = inner.packs.files.lock().get(&pack) {
        return Some(Arc::clone(file));
    }
    let mut link = inner.packs.link.lock().await;
    if let Some(file) = inner.packs.files.lock().get(&pack) {
        return Some(Arc::clone(file));
    }
    let (asking, taken) = (Arc::clone(inner), link.take());
    // On the runtime: making a connection takes timers and sockets, and the caller may be on another thread.
    let asked = inner.runtime.spawn(async move { tokio::time::timeout(ANSWER_LIMIT, ask(&asking, taken, pack)).await });
    match asked.await {
        Ok(Ok(Ok((open, file)))) => {
            *link = Some(open);
            let file = file?;
            inner.packs.files.lock().put(pack, Arc::clone(&file));
            Some(file)
        }
        Ok(Ok(Err(reason))) => {
            inner.packs.rest(reason);
            None
        }
        Ok(Err(_)) => {
            inner.packs.rest("the server does not answer".to_owned());
            None
        }
        Err(_) => None,
    }
}

/// Asks for one descriptor. `None` if the server has no such pack any more.
async fn ask(inner: &Arc<Inner>, link: Option<PackLink>, pack: u32) -> Result<(PackLink, Option<Arc<File>>), String> {
    let generation = inner.generation();
    let mut link = match link.filter(|link| link.generation == generation) {
        Some(link) => link,
        None => make_link(inner, generation).await?,
    };
    if let Ok(file) = exchange(&mut link, pack).await {
        return Ok((link, file));
    }
    // The server may have been restarted since the last time.
    let mut link = make_link(inner, generation).await?;
    let file = exchange(&mut link, pack).await?;
    Ok((link, file))
}

async fn make_link(inner: &Arc<Inner>, generation: u64) -> Result<PackLink, String> {
    let resume = inner.state.lock().resume.ok_or("there is no session")?;
    let purpose = Purpose::Packs { session: resume.session, secret: resume.secret };
    let (connection, descriptors) =
        connect_with_descriptors(&inner.options.connect, purpose).await.map_err(|error| error.to_string())?;
    if !matches!(connection.welcome.detail, WelcomeDetail::Packs) {
        return Err("the server took the connection for another kind".to_owned());
    }
    Ok(PackLink { reader: connection.reader, writer: connection.writer, descriptors, generation })
}

async fn exchange(link: &mut PackLink, pack: u32) -> Result<Option<Arc<File>>, String> {
    let reason = |error: cairn_wire::FrameError| error.to_string();
    link.writer.write(FrameKind::Request, 0, &Request::OpenPack { pack }, &[]).await.map_err(reason)?;
    let frame = link.reader.read().await.map_err(reason)?;
    let response: Response = frame.expect(FrameKind::Response).map_err(reason)?;
    let descriptor = link.descriptors.lock().pop_front();
    match (response, descriptor) {
        (Ok(_), Some(descriptor)) => Ok(Some(Arc::new(File::from(descriptor)))),
        (Ok(_), None) => Err("the server's answer brought no descriptor along".to_owned()),
        (Err(_), _) => Ok(None),
    }
}

/// Position behind the last byte; `None` if no file is so long.
fn end_of(place: &BlobPlacement) -> Option<u64> {
    place.position.checked_add(u64::from(place.part.length))
}

/// Reads all of it, what lies together at once. `None` if anything is missing or does not match.
fn read_places(places: Vec<BlobPlacement>, files: &HashMap<u32, Arc<File>>) -> Option<Vec<(BlobPart, Bytes)>> {
    let mut parts = Vec::with_capacity(places.len());
    let mut places = VecDeque::from(places);
    while let Some(first) = places.front() {
        let (pack, start) = (first.pack, first.position);
        let mut end = end_of(first)?;
        let mut count = 1;
        for next in places.iter().skip(1) {
            let next_end = end_of(next)?;
            let near = next.pack == pack && next.position >= end && next.position - end <= GAP_MAX;
            if !near || next_end - start > RUN_MAX {
                break;
            }
            end = next_end;
            count += 1;
        }
        let bytes = Bytes::from(read_at(files.get(&pack)?, start, usize::try_from(end - start).ok()?).ok()?);
        for place in places.drain(..count) {
            let from = usize::try_from(place.position - start).ok()?;
            let part = bytes.slice(from..from + place.part.length as usize);
            checksum::verify_blocks(&part, &place.part.checksums).ok()?;
            parts.push((place.part, part));
        }
    }
    Some(parts)
}

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        // The allocator may have given more than was asked for: what is read too much is cut off below.
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use cairn_types::checksum::block_checksums;

    use super::*;

    fn place(position: u64, data: &[u8]) -> BlobPlacement {
        let part = BlobPart { offset: 0, length: data.len() as u32, checksums: block_checksums(data) };
        BlobPlacement { pack: 1, position, part }
    }

    #[test]
    fn what_lies_together_is_read_and_what_is_no_more_is_not() {
        let mut file = tempfile::tempfile().expect("file");
        let content: Vec<u8> = (0..200_000u32).map(|byte| (byte * 7) as u8).collect();
        file.write_all(&content).expect("written");
        let places = vec![
            place(100, &content[100..5000]),
            place(5100, &content[5100..90_000]),
            place(150_000, &content[150_000..200_000]),
            place(0, &content[..50]),
        ];
        let files = HashMap::from([(1, Arc::new(file))]);
        let parts = read_places(places.clone(), &files).expect("read");
        let read: Vec<&[u8]> = parts.iter().map(|(_, bytes)| &bytes[..]).collect();
        assert_eq!(read, [&content[100..5000], &content[5100..90_000], &content[150_000..], &content[..50]]);
        files[&1].set_len(199_999).expect("cut");
        assert!(read_places(places.clone(), &files).is_none(), "cut short");
        assert!(read_places(places[..2].to_vec(), &files).is_some());
        rustix::io::pwrite(&files[&1], b"\0", 6000).expect("written");
        assert!(read_places(places[..2].to_vec(), &files).is_none(), "other bytes");
        assert!(read_places(places, &HashMap::new()).is_none(), "no file");
    }
}
