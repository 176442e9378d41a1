//! Fetching blocks: what is missing is read from the disk cache or asked for in few large requests, and never twice at
//! the same time.
//!
//! A fetch runs in a task of its own, so that a reader that gives up does not harm another that waits for the same block.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_runtime::{MemoryShare, spawn_inline};
use cairn_types::limits::CHECK_BLOCK;
use cairn_types::{BlobId, Errno};
use cairn_wire::message::{BlobPart, BlobRange};
use tokio::sync::Notify;

use super::disk::{DiskCache, Found};
use super::{BLOCK, BlockCache, BlockKey, Part};
use crate::error::FsResult;
use crate::lock_order;
use crate::session::Session;
use crate::stats::{Counters, add};

/// Most bytes of one range, and of all ranges of one request.
const RANGE_MAX: u32 = 1024 * 1024;
const REQUEST_MAX: u32 = 2 * 1024 * 1024;
/// Most ranges of one request.
const RANGES_MAX: usize = 512;
/// Most blocks that one thread reads from the disk cache: with one system call where they lie together.
const DISK_RUN: usize = 8;

/// Bytes `from..to` of a blob, inside one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub blob: BlobId,
    pub from: u32,
    pub to: u32,
}

impl Want {
    fn lies_in(&self, range: &BlobRange) -> bool {
        self.blob == range.blob && self.from >= range.offset && self.to <= range.offset + range.length
    }

    pub(crate) fn key(&self) -> BlockKey {
        BlockKey { blob: self.blob, index: self.from / BLOCK }
    }
}

/// A block on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    want: Want,
    outcome: OnceLock<FsResult<Part>>,
    done: Notify,
}

impl Fetch {
    /// Waits for the block. `ENOENT`: the blob is gone, the extents that led to it are out of date.
    pub(crate) async fn wait(&self) -> FsResult<Part> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            done.await;
        }
    }

    fn finish(&self, outcome: FsResult<Part>) {
        if self.outcome.set(outcome).is_ok() {
            self.done.notify_waiters();
        }
    }
}

type UnderWay = Arc<Mutex<HashMap<BlockKey, Arc<Fetch>>, lock_order::Fetches>>;

/// The blocks of one request; those without an outcome when it is dropped have failed.
struct Request {
    under_way: UnderWay,
    fetches: Vec<Arc<Fetch>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        for fetch in &self.fetches {
            fetch.finish(Err(Errno::EIO.into()));
            let key = fetch.want.key();
            if under_way.get(&key).is_some_and(|other| Arc::ptr_eq(other, fetch)) {
                under_way.remove(&key);
            }
        }
    }
}

/// The caches and what is being fetched into them.
#[derive(Debug)]
pub(crate) struct Blocks {
    cache: BlockCache,
    disk: OnceLock<DiskCache>,
    under_way: UnderWay,
}

/// From where and how blocks are fetched.
#[derive(Clone)]
pub(crate) struct FetchContext {
    pub session: Session,
    pub counters: Arc<Counters>,
    pub runtime: tokio::runtime::Handle,
}

impl Blocks {
    /// `budget`: of the memory cache.
    pub(crate) fn new(budget: MemoryShare) -> Self {
        Blocks { cache: BlockCache::new(budget), disk: OnceLock::new(), under_way: UnderWay::default() }
    }

    /// Bytes that the memory cache may hold now.
    pub(crate) fn budget(&self) -> u64 {
        self.cache.budget()
    }

    /// Puts a disk cache behind the memory cache, once.
    pub(crate) fn attach_disk(&self, disk: DiskCache) {
        if self.disk.set(disk).is_err() {
            tracing::warn!("a mount has one disk cache; a second one is ignored");
        }
    }

    pub(crate) fn disk(&self) -> Option<&DiskCache> {
        self.disk.get()
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// Begins to fetch what is not under way yet. One [`Fetch`] for each want, in their order.
    pub(crate) fn fetch(self: &Arc<Self>, context: &FetchContext, wants: &[Want]) -> Vec<Arc<Fetch>> {
        let mut fetches = Vec::with_capacity(wants.len());
        let mut fresh = Vec::new();
        {
            let mut under_way = self.under_way.lock();
            for want in wants {
                // Whole check blocks are verified and sent anyway.
                let want = Want { from: want.from / CHECK_BLOCK * CHECK_BLOCK, ..*want };
                if let Some(other) = under_way.get(&want.key())
                    && other.want.from <= want.from
                    && other.want.to >= want.to
                {
                    fetches.push(Arc::clone(other));
                    continue;
                }
                let fetch = Arc::new(Fetch { want, outcome: OnceLock::new(), done: Notify::new() });
                under_way.insert(want.key(), Arc::clone(&fetch));
                fresh.push(Arc::clone(&fetch));
                fetches.push(fetch);
            }
        }
        if let Some(disk) = self.disk() {
            let mut near = Vec::new();
            fresh.retain(|fetch| match disk.find(fetch.want) {
                Some(found) => {
                    near.push((Arc::clone(fetch), found));
                    false
                }
                None => true,
            });
            while !near.is_empty() {
                let rest = near.split_off(near.len().min(DISK_RUN));
                self.fetch_from_disk(context, std::mem::replace(&mut near, rest));
            }
        }
        self.fetch_from_server(context, fresh);
        fetches
    }

    fn request(&self, fetches: Vec<Arc<Fetch>>) -> Request {
        Request { under_way: Arc::clone(&self.under_way), fetches }
    }

    fn fetch_from_disk(self: &Arc<Self>, context: &FetchContext, members: Vec<(Arc<Fetch>, Found)>) {
        let (fetches, found): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let mut request = self.request(fetches);
        let (blocks, context) = (Arc::clone(self), context.clone());
        context.runtime.clone().spawn_blocking(move || {
            let Some(disk) = blocks.disk() else { return };
            let mut damaged = Vec::new();
            for (fetch, part) in request.fetches.iter().zip(disk.read(&found)) {
                match part {
                    Some(part) => {
                        blocks.cache.insert(fetch.want.key(), part.clone());
                        fetch.finish(Ok(part));
                    }
                    None => damaged.push(Arc::clone(fetch)),
                }
            }
            request.fetches.retain(|fetch| fetch.outcome.get().is_some());
            blocks.fetch_from_server(&context, damaged);
        });
    }

    fn fetch_from_server(self: &Arc<Self>, context: &FetchContext, fetches: Vec<Arc<Fetch>>) {
        for (ranges, fetches) in group(fetches) {
            add(&context.counters.block_misses, fetches.len() as u64);
            let request = self.request(fetches);
            let (blocks, context) = (Arc::clone(self), context.clone());
            spawn_inline(&context.runtime.clone(), async move {
                match context.session.read_blobs(ranges.clone()).await {
                    Ok(parts) => {
                        let bytes = parts.iter().map(|(_, data)| data.len() as u64).sum();
                        add(&context.counters.bytes_fetched, bytes);
                        blocks.deliver(&request, &ranges, &parts);
                    }
                    Err(error) if ranges.len() == 1 => {
                        request.fetches.iter().for_each(|fetch| fetch.finish(Err(error.clone())));
                    }
                    Err(_) => blocks.fetch_one_by_one(&context, &request, &ranges).await,
                }
            });
        }
    }

    /// A blob that is damaged or gone has failed a request for many: the others must not suffer from it.
    async fn fetch_one_by_one(&self, context: &FetchContext, request: &Request, ranges: &[BlobRange]) {
        for range in ranges {
            match context.session.read_blobs(vec![*range]).await {
                Ok(parts) => self.deliver(request, std::slice::from_ref(range), &parts),
                Err(error) => {
                    let failed = request.fetches.iter().filter(|fetch| fetch.want.lies_in(range));
                    failed.for_each(|fetch| fetch.finish(Err(error.clone())));
                }
            }
        }
    }

    fn deliver(&self, request: &Request, ranges: &[BlobRange], parts: &[(BlobPart, Bytes)]) {
        for (range, (part, data)) in ranges.iter().zip(parts) {
            for fetch in &request.fetches {
                let want = fetch.want;
                if !want.lies_in(range) {
                    continue;
                }
                let outcome = cut(want, part.offset, data).ok_or(Errno::EIO.into());
                if let Ok(part) = &outcome {
                    self.cache.insert(want.key(), part.clone());
                }
                fetch.finish(outcome.clone());
                if let (Some(disk), Ok(part)) = (self.disk(), outcome) {
                    disk.offer(want.key(), part);
                }
            }
        }
    }
}

/// What `data`, which begins at `offset` of the blob, has of the block of `want`; `None` if it lacks part of it.
fn cut(want: Want, offset: u32, data: &Bytes) -> Option<Part> {
    let block = want.from / BLOCK * BLOCK;
    let start = block.max(offset);
    let end = block.saturating_add(BLOCK).min(offset.saturating_add(data.len() as u32));
    if start > want.from || end < want.to {
        return None;
    }
    let slice = data.get((start - offset) as usize..(end - offset) as usize)?;
    Some(Part { offset: start, data: Bytes::copy_from_slice(slice) })
}

/// Joins neighbouring blocks into ranges, and ranges into requests.
fn group(mut fetches: Vec<Arc<Fetch>>) -> Vec<(Vec<BlobRange>, Vec<Arc<Fetch>>)> {
    fetches.sort_by_key(|fetch| (fetch.want.blob, fetch.want.from));
    let mut requests: Vec<(Vec<BlobRange>, Vec<Arc<Fetch>>)> = Vec::new();
    let mut request_bytes = 0;
    for fetch in fetches {
        let want = fetch.want;
        let length = want.to - want.from;
        if let Some((ranges, members)) = requests.last_mut() {
            if let Some(last) = ranges.last_mut()
                && last.blob == want.blob
                && last.offset + last.length == want.from
                && last.length + length <= RANGE_MAX
                && request_bytes + length <= REQUEST_MAX
            {
                last.length += length;
                request_bytes += length;
                members.push(fetch);
                continue;
            }
            if request_bytes + length <= REQUEST_MAX && ranges.len() < RANGES_MAX {
                ranges.push(BlobRange { blob: want.blob, offset: want.from, length });
                request_bytes += length;
                members.push(fetch);
                continue;
            }
        }
        request_bytes = length;
        requests.push((vec![BlobRange { blob: want.blob, offset: want.from, length }], vec![fetch]));
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(blob: u64, from: u32, to: u32) -> Arc<Fetch> {
        Arc::new(Fetch { want: Want { blob: BlobId(blob), from, to }, outcome: OnceLock::new(), done: Notify::new() })
    }

    #[test]
    fn neighbouring_blocks_become_one_range() {
        let requests = group(vec![fetch(1, BLOCK, 2 * BLOCK), fetch(2, 0, 100), fetch(1, 0, BLOCK)]);
        assert_eq!(requests.len(), 1);
        let ranges: Vec<_> = requests[0].0.iter().map(|range| (range.blob.0, range.offset, range.length)).collect();
        assert_eq!(ranges, [(1, 0, 2 * BLOCK), (2, 0, 100)]);
    }

    #[test]
    fn a_request_is_bounded() {
        let requests = group((0..64).map(|index| fetch(1, index * BLOCK, (index + 1) * BLOCK)).collect());
        for (ranges, _) in &requests {
            assert!(ranges.iter().map(|range| range.length).sum::<u32>() <= REQUEST_MAX);
            assert!(ranges.iter().all(|range| range.length <= RANGE_MAX));
        }
        assert_eq!(requests.iter().map(|(_, fetches)| fetches.len()).sum::<usize>(), 64);
    }

    #[test]
    fn a_response_that_lacks_bytes_is_not_taken() {
        let want = Want { blob: BlobId(1), from: BLOCK, to: BLOCK + 10 };
        assert!(cut(want, BLOCK, &Bytes::from(vec![0; 9])).is_none());
        assert!(cut(want, BLOCK + 1, &Bytes::from(vec![0; 20])).is_none());
        let part = cut(want, BLOCK - 5, &Bytes::from(vec![0; 30])).expect("enough");
        assert_eq!((part.offset, part.data.len()), (BLOCK, 25));
    }
}
