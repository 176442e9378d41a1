//! `read`: bytes from where the plan of a read ([`crate::read_plan`]) says that they are. Whoever asked for the read is told of
//! the plan before anything is fetched for it, and may have more fetched.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{Errno, Ino, LeaseMode};
use cairn_wire::Query;
use cairn_wire::message::QueryAnswer;

use super::Content;
use super::handles::FileHandle;
use crate::api::Handle;
use crate::cache::Part;
use crate::cache::fetch::Want;
use crate::error::FsResult;
use crate::extents::ExtentMap;
use crate::node::Node;
use crate::node::transfers::Transfer;
use crate::read_plan::{self, Origin, Plan, blobs_in};
use crate::stats::add;
use crate::volume::remote::unfitting;

/// Times that a read begins again because what it was based on has changed.
const ATTEMPTS: u32 = 100;
/// Times that a read begins again because blobs are gone, which only a rewrite at the server explains.
const GONE_ATTEMPTS: u32 = 5;

static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// A read of which it is known where its bytes come from, and that is about to get them.
pub(crate) struct Planned<'read> {
    pub node: &'read Arc<Node>,
    /// The open file, if there is one of the handle.
    pub file: Option<&'read FileHandle>,
    /// Of the file, in bytes.
    pub size: u64,
    pub parts: &'read [Origin],
}

impl Content {
    /// `on_plan` is called once, as soon as the read is planned for the first time.
    pub(crate) async fn read(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        length: u32,
        on_plan: impl FnOnce(Planned<'_>) + Send,
    ) -> FsResult<Vec<Bytes>> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        let mut transfer = Transfer::read(&node, offset, u64::from(length));
        let file = self.files.get(handle).filter(|file| file.ino == ino);
        let mut gone = 0;
        let mut on_plan = Some(on_plan);
        for _ in 0..ATTEMPTS {
            let (plan, overtakings) = {
                let state = node.lock();
                let plan = read_plan::plan(&self.remote.nodes, &state, offset, u64::from(length))?;
                (plan, state.transfers().overtakings())
            };
            let (parts, epoch, size) = match plan {
                Plan::Ready { parts, epoch, size } => (parts, epoch, size),
                Plan::Lease => {
                    self.remote.acquire(ino, LeaseMode::Shared).await?;
                    continue;
                }
                Plan::Recall => {
                    self.remote.await_recall(&node).await?;
                    continue;
                }
                Plan::Extents(chunk) => {
                    self.fetch_extents(&node, chunk).await?;
                    continue;
                }
            };
            if let Some(on_plan) = on_plan.take() {
                on_plan(Planned { node: &node, file: file.as_deref(), size, parts: &parts });
            }
            let mut waited = false;
            let collected = self.collect(parts, &mut waited).await;
            if waited && let Some(file) = &file {
                file.read_ahead.lock().waited(offset);
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
                if state.lease().epoch() != epoch
                    || state.lease().is_sealed()
                    || state.transfers().are_held()
                    || state.transfers().overtakings() != overtakings
                {
                    continue;
                }
                transfer.answered(&mut state);
            }
            self.note_access(&node);
            add(&self.remote.counters.bytes_read, pieces.iter().map(|piece| piece.len() as u64).sum());
            return Ok(pieces);
        }
        Err(Errno::EIO.into())
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
                        add(&self.remote.counters.block_hits, 1);
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
        let fetches = self.blocks.fetch(&self.fetching, &wants);
        for ((index, want), fetch) in missing.into_iter().zip(fetches) {
            let part: Part = fetch.wait().await?;
            let data = part.slice(want.from, want.to).ok_or(Errno::EIO)?;
            if let Some(piece) = pieces.get_mut(index) {
                *piece = data;
            }
        }
        Ok(pieces)
    }

    /// Asks for the extents around `chunk`, under the lease that is held.
    pub(crate) async fn fetch_extents(&self, node: &Arc<Node>, chunk: u32) -> FsResult<()> {
        self.remote.await_recall(node).await?;
        self.fetch_extents_now(node, chunk).await
    }

    /// As [`Content::fetch_extents`], for what a recall waits for.
    pub(super) async fn fetch_extents_now(&self, node: &Arc<Node>, chunk: u32) -> FsResult<()> {
        let (first_chunk, count) = ExtentMap::window_of(chunk);
        let Some((epoch, covered)) = ({
            let state = node.lock();
            state.file().map(|file| (file.extents().epoch(), self.remote.nodes.usable(&state, LeaseMode::Shared)))
        }) else {
            return Err(Errno::EINVAL.into());
        };
        if !covered {
            // The caller begins again, with the lease.
            return Ok(());
        }
        let reply = self.remote.query(Query::Extents { ino: node.ino, first_chunk, count }, &[node]).await?;
        let QueryAnswer::Extents(extents) = reply.answer else { return unfitting(&reply.answer) };
        self.remote.nodes.absorb(&reply.grants, &[]);
        if let Some(file) = node.lock().file_mut() {
            file.extents_mut().fill(epoch, first_chunk, extents);
        }
        Ok(())
    }

    /// The blobs that `range` of a file consists of, clipped at the end of the file; `None` without its lease.
    pub(crate) async fn blobs_of(&self, ino: Ino, range: Range<u64>) -> FsResult<Option<Vec<Want>>> {
        let node = self.remote.nodes.table.get_or_insert(ino);
        for _ in 0..ATTEMPTS {
            let plan = read_plan::plan(&self.remote.nodes, &node.lock(), range.start, range.end - range.start)?;
            match plan {
                Plan::Ready { parts, .. } => return Ok(Some(blobs_in(&parts).collect())),
                Plan::Lease | Plan::Recall => return Ok(None),
                Plan::Extents(chunk) => self.fetch_extents(&node, chunk).await?,
            }
        }
        Err(Errno::EIO.into())
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
