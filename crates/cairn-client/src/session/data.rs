//! Blobs: to the server and back, over connections of their own, so that bulk never delays metadata or recalls.
//!
//! Connections are made when first needed and kept. A transfer whose connection breaks is simply made again: storing
//! the same blob twice and reading are harmless. What is read is verified before anybody sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_types::limits::CHECK_BLOCK;
use cairn_types::{Errno, checksum};
use cairn_wire::message::{Answer, BlobHeader, BlobPart, BlobRange};
use cairn_wire::{BLOB_MAX, Request};

pub(super) use self::packs::{Packs, state as short_circuit_state};
pub(super) use self::pool::DataPool;
use super::{Inner, unexpected};
use crate::error::{Error, ErrorKind, FsResult};

mod packs;
mod pool;

/// Most bytes of blobs in one message; several messages go over both connections at once.
const BATCH_BYTES: u64 = BLOB_MAX as u64;
/// Most blobs or ranges in one message.
const BATCH_ITEMS: usize = 8192;

/// Cuts items into runs that fit a message, in order.
fn runs<T>(items: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    let mut total = 0;
    for item in items {
        let next = size(&item);
        if !run.is_empty() && (run.len() == BATCH_ITEMS || total + next > BATCH_BYTES) {
            runs.push(std::mem::take(&mut run));
            total = 0;
        }
        total += next;
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// See [`super::Session::put_blobs`].
pub(super) async fn put_blobs(inner: &Arc<Inner>, headers: Vec<BlobHeader>, bytes: Vec<Bytes>) -> FsResult<()> {
    let fits = |(header, content): (&BlobHeader, &Bytes)| header.length as usize == content.len();
    if headers.len() != bytes.len() || !headers.iter().zip(&bytes).all(fits) {
        return Err(Errno::EINVAL.into());
    }
    let generation = inner.generation();
    let mut runs = runs(headers.into_iter().zip(bytes).collect(), |(header, _)| u64::from(header.length));
    let last = runs.pop();
    let others: Vec<_> = runs
        .into_iter()
        .map(|run| {
            let inner = Arc::clone(inner);
            inner.runtime.clone().spawn(async move { put_run(&inner, run, generation).await })
        })
        .collect();
    let mut outcome = match last {
        Some(run) => put_run(inner, run, generation).await,
        None => Ok(()),
    };
    for other in others {
        let other = other.await.unwrap_or(Err(Errno::EIO.into()));
        outcome = outcome.and(other);
    }
    outcome
}

async fn put_run(inner: &Arc<Inner>, run: Vec<(BlobHeader, Bytes)>, generation: u64) -> FsResult<()> {
    let (headers, bytes): (Vec<BlobHeader>, Vec<Bytes>) = run.into_iter().unzip();
    let (count, total) = (headers.len() as u64, bytes.iter().map(|content| content.len() as u64).sum());
    match pool::transfer(inner, &Request::PutBlobs(headers), &bytes, total, Some(generation)).await? {
        (Answer::Done, _) => {
            inner.counters.blobs_written.fetch_add(count, Ordering::Relaxed);
            inner.counters.blob_bytes_written.fetch_add(total, Ordering::Relaxed);
            Ok(())
        }
        (other, _) => Err(unexpected(&other)),
    }
}

/// See [`super::Session::read_blobs`].
pub(super) async fn read_blobs(inner: &Arc<Inner>, ranges: Vec<BlobRange>) -> FsResult<Vec<(BlobPart, Bytes)>> {
    let mut runs = runs(ranges, |range| widened(range).1);
    let last = runs.pop();
    let others: Vec<_> = runs
        .into_iter()
        .map(|run| {
            let inner = Arc::clone(inner);
            inner.runtime.clone().spawn(async move { read_run(&inner, run).await })
        })
        .collect();
    let last = match last {
        Some(run) => read_run(inner, run).await,
        None => Ok(Vec::new()),
    };
    let mut parts = Vec::new();
    for other in others {
        parts.extend(other.await.unwrap_or(Err(Errno::EIO.into()))?);
    }
    parts.extend(last?);
    Ok(parts)
}

/// Start and length of a range, widened to whole check blocks.
fn widened(range: &BlobRange) -> (u32, u64) {
    let block = u64::from(CHECK_BLOCK);
    let start = range.offset - range.offset % CHECK_BLOCK;
    let end = (u64::from(range.offset) + u64::from(range.length)).div_ceil(block) * block;
    (start, end - u64::from(start))
}

async fn read_run(inner: &Arc<Inner>, ranges: Vec<BlobRange>) -> FsResult<Vec<(BlobPart, Bytes)>> {
    if let Some(parts) = packs::read(inner, &ranges).await {
        return Ok(parts);
    }
    let expected = ranges.iter().map(|range| widened(range).1).sum();
    let request = Request::ReadBlobs(ranges);
    let Request::ReadBlobs(ranges) = &request else { return Err(Errno::EIO.into()) };
    let mut asked_again = false;
    loop {
        let (parts, bulk) = match pool::transfer(inner, &request, &[], expected, None).await? {
            (Answer::Blobs(parts), bulk) => (parts, bulk),
            (other, _) => return Err(unexpected(&other)),
        };
        let parts = split_bulk(ranges, parts, bulk)?;
        let damaged = parts.iter().zip(ranges).find_map(|((part, bytes), range)| {
            let block = checksum::verify_blocks(bytes, &part.checksums).err()?;
            let offset = u64::from(part.offset) + block as u64 * u64::from(CHECK_BLOCK);
            Some((range.blob, u32::try_from(offset).unwrap_or(u32::MAX)))
        });
        let Some((blob, offset)) = damaged else {
            let read = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            inner.counters.blob_bytes_read.fetch_add(read, Ordering::Relaxed);
            return Ok(parts);
        };
        inner.counters.damaged_parts.fetch_add(1, Ordering::Relaxed);
        let volume = &inner.volume.name;
        if asked_again {
            tracing::error!(%volume, %blob, offset, "stored bytes are damaged; run `cairn fsck --data` on the volume");
            inner.run_errand(Request::ReportDamage { blob, offset });
            let reason = format!("stored bytes of blob {blob} are damaged; run `cairn fsck --data {volume}`");
            return Err(Error::new(ErrorKind::Damaged, Errno::EIO).because(reason));
        }
        tracing::warn!(%volume, %blob, offset, "received bytes are damaged; reading them again");
        asked_again = true;
    }
}

/// Whether a part has all that was asked for.
fn covers(part: &BlobPart, range: &BlobRange) -> bool {
    part.offset.is_multiple_of(CHECK_BLOCK)
        && part.offset <= range.offset
        && u64::from(part.offset) + u64::from(part.length) >= u64::from(range.offset) + u64::from(range.length)
}

/// Cuts the bulk into the parts it consists of and checks that each covers its range.
fn split_bulk(ranges: &[BlobRange], parts: Vec<BlobPart>, mut bulk: Bytes) -> FsResult<Vec<(BlobPart, Bytes)>> {
    let total: u64 = parts.iter().map(|part| u64::from(part.length)).sum();
    let fits = parts.len() == ranges.len()
        && total == bulk.len() as u64
        && parts.iter().zip(ranges).all(|(part, range)| covers(part, range));
    if !fits {
        let reason = "the server's answer does not cover the ranges that were asked for";
        tracing::error!("{reason}");
        return Err(Error::from(Errno::EIO).because(reason));
    }
    Ok(parts
        .into_iter()
        .map(|part| {
            let bytes = bulk.split_to(part.length as usize);
            (part, bytes)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use cairn_types::BlobId;

    use super::*;

    #[test]
    fn ranges_are_widened_to_check_blocks() {
        let range = |offset, length| BlobRange { blob: BlobId(1), offset, length };
        assert_eq!(widened(&range(0, 1)), (0, 16_384));
        assert_eq!(widened(&range(16_383, 2)), (0, 32_768));
        assert_eq!(widened(&range(40_000, 9152)), (32_768, 16_384));
    }

    #[test]
    fn runs_keep_the_order_and_the_limits() {
        let sizes = vec![BATCH_BYTES, 1, BATCH_BYTES - 1, 1, 2 * BATCH_BYTES, 3];
        let cut = runs(sizes.clone(), |size| *size);
        assert_eq!(cut.concat(), sizes);
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1, 1, 1]);
        assert_eq!(runs(vec![0u64; BATCH_ITEMS + 1], |size| *size).len(), 2);
    }
}
