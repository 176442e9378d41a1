//! The memory cache of blob content: least recently used blocks under one budget, which may change. Behind it, the [`disk`] cache.
//!
//! Blobs are immutable, so a cached block is never stale and no lease concerns it. A block may be cached in part: a blob
//! is only fetched as far as an extent reaches into it. Fetches of the same block are shared ([`fetch`]). Every part that
//! is kept owns its bytes alone: one that shared the buffer of the response it came with would keep all of it in memory.

pub(crate) mod disk;
pub(crate) mod fetch;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_runtime::MemoryShare;
use cairn_types::BlobId;
use lru::LruCache;

use crate::lock_order;

/// Bytes of a blob that are cached and evicted together.
pub(crate) const BLOCK: u32 = 128 * 1024;

const SHARDS: usize = 16;
/// What an entry costs beside its bytes.
const OVERHEAD: u64 = 160;

/// A block of a blob: blob and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    pub blob: BlobId,
    pub index: u32,
}

/// Cached bytes of a blob, inside one block.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// In the blob, in bytes.
    pub offset: u32,
    pub data: Bytes,
}

impl Part {
    fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }

    /// Bytes `from..to` of the blob, if this part has them all.
    pub(crate) fn slice(&self, from: u32, to: u32) -> Option<Bytes> {
        if from < self.offset || to > self.end() || from > to {
            return None;
        }
        Some(self.data.slice((from - self.offset) as usize..(to - self.offset) as usize))
    }
}

#[derive(Debug)]
struct Shard {
    blocks: LruCache<BlockKey, Part>,
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct BlockCache {
    shards: Vec<Mutex<Shard, lock_order::Blocks>>,
    budget: MemoryShare,
    total: AtomicU64,
}

impl BlockCache {
    pub(crate) fn new(budget: MemoryShare) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { blocks: LruCache::unbounded(), bytes: 0 })).collect();
        BlockCache { shards, budget, total: AtomicU64::new(0) }
    }

    fn shard(&self, key: BlockKey) -> &Mutex<Shard, lock_order::Blocks> {
        let mixed = (key.blob.0 ^ (u64::from(key.index) << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    /// Bytes `from..to` of `blob`, which lie in one block.
    pub(crate) fn get(&self, blob: BlobId, from: u32, to: u32) -> Option<Bytes> {
        let key = BlockKey { blob, index: from / BLOCK };
        self.shard(key).lock().blocks.get(&key)?.slice(from, to)
    }

    /// What is cached of a block.
    pub(crate) fn part(&self, key: BlockKey) -> Option<Part> {
        self.shard(key).lock().blocks.peek(&key).cloned()
    }

    /// Keeps a part of a block, unless what is kept already covers it.
    pub(crate) fn insert(&self, key: BlockKey, part: Part) {
        let mut shard = self.shard(key).lock();
        if shard.blocks.peek(&key).is_some_and(|old| old.slice(part.offset, part.end()).is_some()) {
            return;
        }
        let size = part.data.len() as u64 + OVERHEAD;
        let mut change = size as i64;
        if let Some(old) = shard.blocks.put(key, part) {
            change -= (old.data.len() as u64 + OVERHEAD) as i64;
        }
        shard.bytes = shard.bytes.saturating_add_signed(change);
        let budget = self.budget() / SHARDS as u64;
        while shard.bytes > budget {
            let Some((_, old)) = shard.blocks.pop_lru() else { break };
            let gone = old.data.len() as u64 + OVERHEAD;
            shard.bytes = shard.bytes.saturating_sub(gone);
            change -= gone as i64;
        }
        if change >= 0 {
            self.total.fetch_add(change as u64, Ordering::Relaxed);
        } else {
            self.total.fetch_sub(change.unsigned_abs(), Ordering::Relaxed);
        }
    }

    /// Bytes that may be held now.
    pub(crate) fn budget(&self) -> u64 {
        self.budget.bytes()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use cairn_runtime::{MemoryBudget, MemoryUse};

    use super::*;

    fn share(bytes: u64) -> MemoryShare {
        MemoryBudget::with_limit(4 * bytes).take(MemoryUse::ContentCache, bytes)
    }

    fn part(offset: u32, length: usize) -> Part {
        Part { offset, data: Bytes::from(vec![offset as u8; length]) }
    }

    #[test]
    fn the_budget_is_kept_and_counted() {
        let cache = BlockCache::new(share(16 * 10_000));
        for blob in 0..1000 {
            cache.insert(BlockKey { blob: BlobId(blob), index: 0 }, part(0, 1000));
        }
        assert!(cache.bytes() <= 16 * 10_000);
        assert!(cache.bytes() > 16 * 5_000);
        let counted: u64 = cache.shards.iter().map(|shard| shard.lock().bytes).sum();
        assert_eq!(counted, cache.bytes());
    }

    #[test]
    fn a_part_answers_only_for_what_it_has() {
        let cache = BlockCache::new(share(1 << 20));
        let key = BlockKey { blob: BlobId(1), index: 0 };
        cache.insert(key, part(100, 50));
        assert!(cache.get(BlobId(1), 100, 150).is_some());
        assert!(cache.get(BlobId(1), 99, 150).is_none());
        assert!(cache.get(BlobId(1), 100, 151).is_none());
        cache.insert(key, part(0, 400));
        assert_eq!(cache.get(BlobId(1), 99, 151).map(|data| data.len()), Some(52));
        cache.insert(key, part(100, 50));
        assert_eq!(cache.get(BlobId(1), 0, 400).map(|data| data.len()), Some(400), "a smaller part does not replace");
    }
}
