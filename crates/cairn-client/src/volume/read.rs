//! `read`: buffered writes over extents over cached blocks over the server's blobs; and reading ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_runtime::spawn_inline;
use cairn_types::{BlobId, Errno, Ino, LeaseMode, Source};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Mount;
use super::core::unfitting;
use super::write::by_chunk;
use crate::api::Handle;
use crate::cache::fetch::{FetchContext, Want};
use crate::cache::{BLOCK, Part};
use crate::error::FsResult;
use crate::extents::{ExtentMap, Known};
use crate::node::transfers::Transfer;
use crate::node::{Node, NodeState};
use crate::overlay::Piece;
use crate::stats::add;

/// Times that a read begins again because what it was based on has changed.
const ATTEMPTS: u32 = 100;
/// Times that a read begins again because blobs are gone, which only a rewrite at the server explains.
const GONE_ATTEMPTS: u32 = 5;

static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// Where bytes of a read come from, in order.
#[derive(Debug)]
pub(super) enum Origin {
    Data(Bytes),
    Zeros(u64),
    /// Bytes of a blob, inside one block.
    Blob(Want),
}

pub(super) enum Plan {
    Ready {
        parts: Vec<Origin>,
        epoch: u64,
        size: u64,
    },
    /// The lease is missing.
    Lease,
    /// The file is recalled: nothing is answered until it has been given back.
    Recall,
    /// The extents of this chunk are missing.
    Extents(u32),
}

fn push_zeros(parts: &mut Vec<Origin>, length: u64) {
    if length == 0 {
        return;
    }
    if let Some(Origin::Zeros(before)) = parts.last_mut() {
        *before += length;
    } else {
        parts.push(Origin::Zeros(length));
    }
}

fn push_blob(parts: &mut Vec<Origin>, blob: BlobId, offset: u32, length: u32) {
    let mut cursor = offset;
    let end = offset.saturating_add(length);
    while cursor < end {
        let stop = end.min((cursor / BLOCK + 1).saturating_mul(BLOCK));
        parts.push(Origin::Blob(Want { blob, from: cursor, to: stop }));
        cursor = stop;
    }
}

/// The bytes of `from..to` of a chunk that no buffered write covers.
fn push_below(parts: &mut Vec<Origin>, extents: &ExtentMap, chunk: u32, from: u32, to: u32) -> Result<(), u32> {
    match extents.get(chunk) {
        Known::No => return Err(chunk),
        Known::Hole => push_zeros(parts, u64::from(to - from)),
        Known::Extents(list) => {
            let mut cursor = from;
            for extent in list.slice(from, to) {
                push_zeros(parts, u64::from(extent.offset - cursor));
                match extent.source {
                    Source::Zeros => push_zeros(parts, u64::from(extent.length)),
                    Source::Blob { blob, offset } => push_blob(parts, blob, offset, extent.length),
                }
                cursor = extent.end();
            }
            push_zeros(parts, u64::from(to - cursor));
        }
    }
    Ok(())
}

impl Mount {
    pub(super) fn plan(&self, state: &NodeState, offset: u64, length: u64) -> FsResult<Plan> {
        if state.transfers().are_held() {
            return Ok(Plan::Recall);
        }
        if !self.nodes.usable(state, LeaseMode::Shared) {
            return Ok(Plan::Lease);
        }
        let Some(attr) = state.view() else { return Ok(Plan::Lease) };
        let Some(file) = state.file() else {
            return Err((if attr.is_dir() { Errno::EISDIR } else { Errno::EINVAL }).into());
        };
        let length = length.min(attr.size.saturating_sub(offset));
        let mut parts = Vec::with_capacity(4);
        for (chunk, from, to) in by_chunk(self.chunk_size, offset, length) {
            let pieces =
                if file.is_clean() { vec![Piece::Below { from, to }] } else { file.overlay().pieces(chunk, from, to) };
            for piece in pieces {
                match piece {
                    Piece::Data(data) => parts.push(Origin::Data(data)),
                    Piece::Below { from, to } => {
                        if let Err(chunk) = push_below(&mut parts, file.extents(), chunk, from, to) {
                            return Ok(Plan::Extents(chunk));
                        }
                    }
                }
            }
        }
        Ok(Plan::Ready { parts, epoch: state.lease().epoch(), size: attr.size })
    }

    pub(crate) async fn read(
        self: &Arc<Self>,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> FsResult<Vec<Bytes>> {
        let node = self.nodes.table.get_or_insert(ino);
        let mut transfer = Transfer::read(&node, offset, u64::from(length));
        let mut gone = 0;
        let mut noted = false;
        for _ in 0..ATTEMPTS {
            let plan = self.plan(&node.lock(), offset, u64::from(length))?;
            let (parts, epoch, size) = match plan {
                Plan::Ready { parts, epoch, size } => (parts, epoch, size),
                Plan::Lease => {
                    self.acquire(ino, LeaseMode::Shared).await?;
                    continue;
                }
                Plan::Recall => {
                    self.await_recall(&node).await?;
                    continue;
                }
                Plan::Extents(chunk) => {
                    self.fetch_extents(&node, chunk).await?;
                    continue;
                }
            };
            if !std::mem::replace(&mut noted, true) {
                self.read_ahead(&node, handle, offset, u64::from(length), size);
                if offset == 0 {
                    self.fetch_neighbours(&node, size, &parts);
                }
            }
            let mut waited = false;
            let collected = self.collect(parts, &mut waited).await;
            if waited && let Some(handle) = self.handles.file(handle) {
                handle.state.lock().read_ahead.waited(offset);
            }
            let pieces = match collected {
                Ok(pieces) => pieces,
                Err(error) if error == Errno::ENOENT => {
                    gone += 1;
                    if gone > GONE_ATTEMPTS {
                        tracing::error!(%ino, offset, "blobs of a file are gone although its extents name them");
                        return Err(Errno::EIO.into());
                    }
                    if let Some(file) = node.lock().file_mut() {
                        file.extents_mut().clear();
                    }
                    continue;
                }
                Err(errno) => {
                    let place = node.lock().place().cloned();
                    let name = place.map(|place| place.name);
                    tracing::error!(%ino, ?name, offset, length, ?errno, "a file cannot be read here");
                    return Err(errno);
                }
            };
            {
                let mut state = node.lock();
                if state.lease().epoch() != epoch || state.lease().is_sealed() || state.transfers().are_held() {
                    continue;
                }
                transfer.answered(&mut state);
            }
            self.note_access(&node);
            add(&self.counters.bytes_read, pieces.iter().map(|piece| piece.len() as u64).sum());
            return Ok(pieces);
        }
        Err(Errno::EIO.into())
    }

    /// Blocks of a plan that are not here.
    pub(super) fn missing(&self, parts: &[Origin]) -> Vec<Want> {
        let cache = self.blocks.cache();
        let blobs = parts.iter().filter_map(|part| match part {
            Origin::Blob(want) => Some(*want),
            _ => None,
        });
        blobs.filter(|want| cache.get(want.blob, want.from, want.to).is_none()).collect()
    }

    /// Turns a plan into bytes, fetching what is not cached; `waited` tells whether that was needed. `ENOENT` if a blob is
    /// gone.
    async fn collect(&self, parts: Vec<Origin>, waited: &mut bool) -> FsResult<Vec<Bytes>> {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(parts.len());
        let mut missing: Vec<(usize, Want)> = Vec::new();
        for part in parts {
            match part {
                Origin::Data(data) => pieces.push(data),
                Origin::Zeros(length) => push_zero_pieces(&mut pieces, length),
                Origin::Blob(want) => {
                    if let Some(data) = self.blocks.cache().get(want.blob, want.from, want.to) {
                        add(&self.counters.block_hits, 1);
                        pieces.push(data);
                    } else {
                        missing.push((pieces.len(), want));
                        pieces.push(Bytes::new());
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(pieces);
        }
        *waited = true;
        let wants: Vec<Want> = missing.iter().map(|(_, want)| *want).collect();
        let fetches = self.blocks.fetch(&self.fetch_context(), &wants);
        for ((index, want), fetch) in missing.into_iter().zip(fetches) {
            let part: Part = fetch.wait().await?;
            let data = part.slice(want.from, want.to).ok_or(Errno::EIO)?;
            if let Some(piece) = pieces.get_mut(index) {
                *piece = data;
            }
        }
        Ok(pieces)
    }

    pub(super) fn fetch_context(&self) -> FetchContext {
        FetchContext {
            session: self.session.clone(),
            counters: Arc::clone(&self.counters),
            runtime: self.runtime.clone(),
        }
    }

    /// Asks for the extents around `chunk`, under the lease that is held.
    pub(crate) async fn fetch_extents(&self, node: &Arc<Node>, chunk: u32) -> FsResult<()> {
        self.await_recall(node).await?;
        let (first_chunk, count) = ExtentMap::window_of(chunk);
        let Some((epoch, covered)) = ({
            let state = node.lock();
            state.file().map(|file| (file.extents().epoch(), self.nodes.usable(&state, LeaseMode::Shared)))
        }) else {
            return Err(Errno::EINVAL.into());
        };
        if !covered {
            // The caller begins again, with the lease.
            return Ok(());
        }
        let reply = self.query(Query::Extents { ino: node.ino, first_chunk, count }, &[node]).await?;
        let QueryAnswer::Extents(extents) = reply.answer else { return unfitting(&reply.answer) };
        self.nodes.absorb(&reply.grants, &[]);
        if let Some(file) = node.lock().file_mut() {
            file.extents_mut().fill(epoch, first_chunk, extents);
        }
        Ok(())
    }

    /// Notes a read of an open file and fetches in advance what will be read next.
    fn read_ahead(self: &Arc<Self>, node: &Arc<Node>, handle: Handle, offset: u64, length: u64, size: u64) {
        let Some(handle) = self.handles.file(handle) else { return };
        if handle.ino != node.ino {
            return;
        }
        let most = self.options.read_ahead_bytes.min(self.blocks.budget() / 4);
        // What is fetched ahead must still be there when it is read.
        let budget = self.blocks.budget() / 2;
        let (range, ends) = {
            let ahead = &mut handle.state.lock().read_ahead;
            (ahead.note(offset, length, size, most, budget), ahead.take_end(size))
        };
        if range.is_none() && !ends {
            return;
        }
        let (shared, ino) = (Arc::clone(self), node.ino);
        spawn_inline(&self.runtime, async move {
            if let Some(range) = range
                && let Err(errno) = shared.prefetch(ino, range).await
            {
                tracing::debug!(%ino, ?errno, "reading ahead failed");
            }
            if ends {
                shared.begin_next_of_series(ino).await;
            }
        });
    }

    /// The blobs that `range` of a file consists of, clipped at the end of the file; `None` without its lease.
    pub(super) async fn blobs_of(&self, ino: Ino, range: Range<u64>) -> FsResult<Option<Vec<Want>>> {
        let node = self.nodes.table.get_or_insert(ino);
        for _ in 0..ATTEMPTS {
            let plan = self.plan(&node.lock(), range.start, range.end - range.start)?;
            match plan {
                Plan::Ready { parts, .. } => {
                    let blobs = parts.into_iter().filter_map(|part| match part {
                        Origin::Blob(want) => Some(want),
                        _ => None,
                    });
                    return Ok(Some(blobs.collect()));
                }
                Plan::Lease | Plan::Recall => return Ok(None),
                Plan::Extents(chunk) => self.fetch_extents(&node, chunk).await?,
            }
        }
        Err(Errno::EIO.into())
    }

    /// Fetches what will be read soon, unless the file's lease is gone meanwhile.
    pub(super) async fn prefetch(&self, ino: Ino, range: Range<u64>) -> FsResult<()> {
        let Some(mut wants) = self.blobs_of(ino, range).await? else { return Ok(()) };
        let cache = self.blocks.cache();
        wants.retain(|want| cache.get(want.blob, want.from, want.to).is_none());
        add(&self.counters.bytes_read_ahead, wants.iter().map(|want| u64::from(want.to - want.from)).sum());
        self.blocks.fetch(&self.fetch_context(), &wants);
        Ok(())
    }
}

fn push_zero_pieces(pieces: &mut Vec<Bytes>, length: u64) {
    let mut left = length;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        pieces.push(Bytes::from_static(&ZEROS[..part as usize]));
        left -= part;
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::{Extent, ExtentList};

    use super::*;

    #[test]
    fn what_lies_below_is_holes_and_blocks_in_order() {
        let list = ExtentList::from_extents(
            vec![
                Extent { offset: 10, length: 5, source: Source::Zeros },
                Extent { offset: 20, length: BLOCK, source: Source::Blob { blob: BlobId(3), offset: 100 } },
            ],
            4 << 20,
        )
        .expect("valid");
        let mut map = ExtentMap::default();
        map.fill(map.epoch(), 0, vec![(0, list)]);
        let mut parts = Vec::new();
        push_below(&mut parts, &map, 0, 0, 20 + BLOCK + 7).expect("known");
        let Some(((first, second), rest)) = parts
            .split_first()
            .and_then(|(first, rest)| rest.split_first().map(|(second, rest)| ((first, second), rest)))
        else {
            panic!("too few parts")
        };
        assert!(matches!(first, Origin::Zeros(20)));
        assert!(matches!(second, Origin::Blob(want) if (want.from, want.to) == (100, BLOCK)));
        assert!(matches!(rest[0], Origin::Blob(want) if (want.from, want.to) == (BLOCK, BLOCK + 100)));
        assert!(matches!(rest[1], Origin::Zeros(7)));
        assert_eq!(push_below(&mut parts, &map, 999, 0, 1), Err(999));
    }
}
