//! Fetching blocks: what is missing is asked for in few large requests, and never twice at the same time.
//!
//! A fetch runs in a task of its own, so that a reader that gives up does not harm another that waits for the same block.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cairn_types::limits::CHECK_BLOCK;
use cairn_types::{BlobId, Errno, FsResult};
use cairn_wire::message::{BlobPart, BlobRange};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{BLOCK, BlockCache, BlockKey, Part};
use crate::session::Session;
use crate::stats::{Counters, add};

/// Most bytes of one range, and of all ranges of one request.
const RANGE_MAX: u32 = 1024 * 1024;
const REQUEST_MAX: u32 = 2 * 1024 * 1024;
/// Most ranges of one request.
const RANGES_MAX: usize = 512;
/// A part below this size is copied out of the response that it came with, which would otherwise stay in memory whole.
const COPY_BELOW: usize = 64 * 1024;

/// Bytes `from..to` of a blob, inside one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub blob: BlobId,
    pub from: u32,
    pub to: u32,
}

impl Want {
    fn key(&self) -> BlockKey {
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

type UnderWay = Arc<Mutex<HashMap<BlockKey, Arc<Fetch>>>>;

/// The blocks of one request; those without an outcome when it is dropped have failed.
struct Request {
    under_way: UnderWay,
    fetches: Vec<Arc<Fetch>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock();
        for fetch in &self.fetches {
            fetch.finish(Err(Errno::EIO));
            let key = fetch.want.key();
            if under_way.get(&key).is_some_and(|other| Arc::ptr_eq(other, fetch)) {
                under_way.remove(&key);
            }
        }
    }
}

/// The memory cache and what is being fetched into it.
#[derive(Debug)]
pub(crate) struct Blocks {
    cache: BlockCache,
    under_way: UnderWay,
}

impl Blocks {
    pub(crate) fn new(budget: u64) -> Self {
        Blocks { cache: BlockCache::new(budget), under_way: UnderWay::default() }
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// Begins to fetch what is not under way yet. One [`Fetch`] for each want, in their order.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        session: &Session,
        counters: &Arc<Counters>,
        runtime: &tokio::runtime::Handle,
        wants: &[Want],
    ) -> Vec<Arc<Fetch>> {
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
        for (ranges, fetches) in group(fresh) {
            add(&counters.block_misses, fetches.len() as u64);
            let request = Request { under_way: Arc::clone(&self.under_way), fetches };
            let (blocks, session, counters) = (Arc::clone(self), session.clone(), Arc::clone(counters));
            runtime.spawn(async move {
                match session.read_blobs(ranges.clone()).await {
                    Ok(parts) => {
                        add(&counters.bytes_fetched, parts.iter().map(|(_, data)| data.len() as u64).sum());
                        blocks.deliver(&request, &ranges, &parts);
                    }
                    Err(errno) => request.fetches.iter().for_each(|fetch| fetch.finish(Err(errno))),
                }
            });
        }
        fetches
    }

    fn deliver(&self, request: &Request, ranges: &[BlobRange], parts: &[(BlobPart, Bytes)]) {
        for (range, (part, data)) in ranges.iter().zip(parts) {
            for fetch in &request.fetches {
                let want = fetch.want;
                if want.blob != range.blob || want.from < range.offset || want.to > range.offset + range.length {
                    continue;
                }
                let outcome = cut(want, part.offset, data).ok_or(Errno::EIO);
                if let Ok(part) = &outcome {
                    self.cache.insert(want.key(), part.clone());
                }
                fetch.finish(outcome);
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
    let slice = data.slice((start - offset) as usize..(end - offset) as usize);
    let data = if slice.len() < COPY_BELOW { Bytes::copy_from_slice(&slice) } else { slice };
    Some(Part { offset: start, data })
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
