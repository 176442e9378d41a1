//! Fetching before it is asked for. A server is far away: a program that waits for each answer before it asks the next
//! question is slow however fast the link is. What programs do is watched here, and what they will probably ask next is
//! brought into the caches, where the operations find it. Nothing here is ever waited for, and a failure is only logged.
//!
//! # What is seen, what is decided, what bounds it
//!
//! | policy | what is seen | what is decided | what bounds it |
//! | --- | --- | --- | --- |
//! | [`policy::streams`], one for each open file | reads, and reads that had to wait | the range to fetch of each sequential stream; a window doubles while its reader waits | [`WINDOW_MAX`](policy::streams::WINDOW_MAX) and the mount's option; four times what the stream has read, so that random reads fetch next to nothing; half of the memory cache for all windows of a mount |
//! | [`policy::series`], one for the mount | lookups of large files with a number in their name; a stream that reaches the end of one | the beginning of the file with the next number | 16 MiB, and an eighth of the memory cache |
//! | [`policy::names`], one for each directory | lookups that were and were not answered from here | with the name that is asked for, how many of those that follow it; or all of a small directory | 1000 names; halved when less than a quarter was used |
//! | [`policy::contents`], one for each directory | small files that are read from the start, cached or not | how many of the files that follow by name to fetch | 256 files and 1 MiB at once; halved when more than 8192 files and three quarters of all were for nothing |
//! | [`policy::tree`], one for the mount | directories that are listed from the start; small files that are read | how many of the directories that come next to list, and whether to fetch their small files | 32 directories; none when more than 256 and half of all were for nothing |
//!
//! The policies are in [`policy`]: they decide *how much*, and are arithmetic alone. [`Prefetch`] finds out *which* files and
//! directories that means, from what is known under leases ([`contents`], [`tree`]), and fetches. The mount tells it what
//! programs do ([`Prefetch::read`], [`Prefetch::looked_up`], [`Prefetch::listing_begins`], [`Prefetch::listed`]), so that the
//! operations need not know of it: an open file has its streams' policy with it, and a read that had to wait tells that to the
//! policy. Names along with a lookup are the other exception: they come with the answer to the question itself, so the lookup
//! asks the policy of its directory.
//!
//! # Invariants
//!
//! - Only content whose extents are known under a lease is fetched, and it lands in the block cache, which is keyed by
//!   immutable blobs: what is fetched ahead may be useless, never wrong.
//! - The locks of [`Prefetch`] and of open files' streams are the innermost: nothing is locked or waited for under them.
//! - It asks the server nothing itself but for blocks; other questions go through [`Ask`], which the mount implements.

mod contents;
pub(crate) mod policy;
mod tree;

use std::ops::Range;
use std::sync::Arc;

use cairn_locks::Mutex;
use cairn_runtime::spawn_inline;
use cairn_types::{Attr, FileKind, Ino, Name};

use self::policy::series::Series;
use self::policy::streams::ReadAhead;
use self::policy::tree::TreeWalk;
use crate::cache::BLOCK;
use crate::cache::fetch::{Blocks, FetchContext, Want};
use crate::error::FsResult;
use crate::lock_order;
use crate::node::Node;
use crate::node_cache::NodeCache;
use crate::read_plan::Origin;
use crate::stats::add;

/// Files up to this size, in bytes, count as small.
const SMALL: u64 = BLOCK as u64;
/// What is fetched of the next file of a series, in bytes, unless the memory cache is small.
const BEGINNING: u64 = 16 * 1024 * 1024;

/// Questions that are asked by operations of the mount.
pub(crate) trait Ask: Send + Sync + 'static {
    /// The blobs that `range` of a file consists of, clipped at the end of the file; `None` without its lease.
    fn blobs_of(
        self: &Arc<Self>,
        ino: Ino,
        range: Range<u64>,
    ) -> impl Future<Output = FsResult<Option<Vec<Want>>>> + Send;

    /// Makes all names of a directory known, and what they lead to.
    fn list(self: &Arc<Self>, directory: &Arc<Node>) -> impl Future<Output = FsResult<()>> + Send;

    /// Whom a name leads to.
    fn find(self: &Arc<Self>, parent: Ino, name: Name) -> impl Future<Output = FsResult<Option<Attr>>> + Send;

    /// Gets a lease under which a file can be read.
    fn lease(self: &Arc<Self>, ino: Ino) -> impl Future<Output = FsResult<()>> + Send;
}

/// A read of a file, in bytes, and the file's size then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileRead {
    pub offset: u64,
    pub length: u64,
    pub file_size: u64,
}

/// Watches what programs do on a mount and fetches ahead of them.
pub(crate) struct Prefetch {
    /// Largest window of a stream, in bytes.
    window_max: u64,
    tree: Mutex<TreeWalk, lock_order::TreeWalk>,
    series: Mutex<Series, lock_order::Series>,
    nodes: Arc<NodeCache>,
    blocks: Arc<Blocks>,
    fetching: FetchContext,
}

impl Prefetch {
    /// `window_max`: most bytes that one stream is read ahead.
    pub(crate) fn new(window_max: u64, nodes: Arc<NodeCache>, blocks: Arc<Blocks>, fetching: FetchContext) -> Self {
        Prefetch { window_max, tree: Mutex::default(), series: Mutex::default(), nodes, blocks, fetching }
    }

    /// A name was looked up.
    pub(crate) fn looked_up(&self, parent: Ino, name: &Name, attr: &Attr) {
        if attr.kind == FileKind::Regular {
            self.series.lock().looked_up(parent, name, attr.ino, attr.size);
        }
    }

    /// A file is read, from `parts`; `streams` are those of the open file.
    pub(crate) fn read(
        self: &Arc<Self>,
        ask: &Arc<impl Ask>,
        node: &Arc<Node>,
        streams: Option<&Mutex<ReadAhead, lock_order::Streams>>,
        seen: FileRead,
        parts: &[Origin],
    ) {
        if let Some(streams) = streams {
            self.read_ahead(ask, node.ino, streams, seen);
        }
        if seen.offset == 0 && seen.file_size <= SMALL {
            self.fetch_small_files(node, parts);
        }
    }

    fn read_ahead(
        self: &Arc<Self>,
        ask: &Arc<impl Ask>,
        ino: Ino,
        streams: &Mutex<ReadAhead, lock_order::Streams>,
        seen: FileRead,
    ) {
        let FileRead { offset, length, file_size } = seen;
        let most = self.window_max.min(self.blocks.budget() / 4);
        // What is fetched ahead must still be there when it is read.
        let budget = self.blocks.budget() / 2;
        let (range, ends) = {
            let mut streams = streams.lock();
            (streams.note(offset, length, file_size, most, budget), streams.take_end(file_size))
        };
        if range.is_none() && !ends {
            return;
        }
        let (prefetch, ask) = (Arc::clone(self), Arc::clone(ask));
        spawn_inline(&self.fetching.runtime, async move {
            if let Some(range) = range
                && let Err(error) = prefetch.fetch_range(&ask, ino, range).await
            {
                tracing::debug!(%ino, ?error, "reading ahead failed");
            }
            if ends {
                prefetch.begin_next_of_series(&ask, ino).await;
            }
        });
    }

    /// Begins to fetch a range, unless the file's lease is gone meanwhile.
    async fn fetch_range(&self, ask: &Arc<impl Ask>, ino: Ino, range: Range<u64>) -> FsResult<()> {
        let Some(mut wants) = ask.blobs_of(ino, range).await? else { return Ok(()) };
        let cache = self.blocks.cache();
        wants.retain(|want| cache.get(want.blob, want.from, want.to).is_none());
        add(&self.fetching.counters.bytes_read_ahead, wants.iter().map(|want| u64::from(want.to - want.from)).sum());
        self.blocks.fetch(&self.fetching, &wants);
        Ok(())
    }

    /// A stream is about to end at the end of `ino`: fetches the beginning of the file that comes after it, if there is one.
    async fn begin_next_of_series(&self, ask: &Arc<impl Ask>, ino: Ino) {
        let Some((parent, names)) = self.series.lock().after(ino) else { return };
        for next in names {
            let Ok(Some(attr)) = ask.find(parent, next.clone()).await else { continue };
            self.looked_up(parent, &next, &attr);
            if attr.kind == FileKind::Regular && attr.ino != ino {
                let end = BEGINNING.min(self.blocks.budget() / 8).min(attr.size);
                let begun = match ask.lease(attr.ino).await {
                    Ok(()) => self.fetch_range(ask, attr.ino, 0..end).await,
                    Err(error) => Err(error),
                };
                tracing::debug!(%ino, next = %attr.ino, ?begun, "the next file of a series is begun");
                return;
            }
        }
    }
}
