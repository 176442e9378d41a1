//! Private parts of the way of a read, as the micro-benchmarks in `benches/` see them. Not for programs.

use bytes::Bytes;
use cairn_runtime::{MemoryBudget, MemoryUse};
use cairn_types::{BlobId, Extent, Source};

use crate::cache::{BLOCK, BlockCache, BlockKey, Part};
use crate::extents::{ExtentMap, Known};
use crate::overlay::Overlay;

/// A memory cache that holds the first block of some blobs.
#[derive(Debug)]
pub struct CachedBlocks(BlockCache);

impl CachedBlocks {
    pub fn new(blobs: u64) -> Self {
        // Shards are filled unevenly: there is room for twice as many.
        let bytes = 2 * (blobs + 16) * u64::from(BLOCK);
        let cache = BlockCache::new(MemoryBudget::with_limit(4 * bytes).take(MemoryUse::ContentCache, bytes));
        for blob in 0..blobs {
            let data = Bytes::from(vec![blob as u8; BLOCK as usize]);
            cache.insert(BlockKey { blob: BlobId(blob), index: 0 }, Part { offset: 0, data });
        }
        CachedBlocks(cache)
    }

    pub fn get(&self, blob: u64, from: u32, to: u32) -> Option<Bytes> {
        self.0.get(BlobId(blob), from, to)
    }
}

/// A file whose extents are all known.
#[derive(Debug)]
pub struct KnownExtents(ExtentMap);

impl KnownExtents {
    /// `each` extents of 16 KiB in every chunk.
    pub fn new(chunks: u32, each: u32) -> Self {
        let mut map = ExtentMap::default();
        map.set_empty();
        for chunk in 0..chunks {
            for number in 0..each {
                let source = Source::Blob { blob: BlobId(u64::from(chunk * each + number)), offset: 0 };
                map.write(chunk, Extent { offset: number * 16_384, length: 16_384, source });
            }
        }
        KnownExtents(map)
    }

    /// Number of extents in `from..to` of a chunk.
    pub fn within(&self, chunk: u32, from: u32, to: u32) -> usize {
        match self.0.get(chunk) {
            Known::Extents(list) => list.slice(from, to).count(),
            Known::No | Known::Hole => 0,
        }
    }
}

/// What is written to the first chunk of a file and not sent yet.
#[derive(Debug)]
pub struct Written(Overlay);

impl Written {
    pub fn new(chunk_size: u32) -> Self {
        Written(Overlay::new(chunk_size))
    }

    pub fn write(&mut self, offset: u32, data: &[u8]) {
        self.0.write(0, offset, data, 0);
    }

    /// Number of pieces of which `from..to` consists.
    pub fn pieces(&self, from: u32, to: u32) -> usize {
        self.0.pieces(0, from, to).len()
    }
}
