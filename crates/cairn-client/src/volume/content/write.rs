//! `write`: into the overlay, under an exclusive lease, with space for it reserved first.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{Attr, AttrChange, AttrFlags, Errno, Ino, LeaseMode, MetaOp, Timestamp};

use super::Content;
use crate::api::{Handle, WriteFlags};
use crate::emptying;
use crate::error::FsResult;
use crate::extents::by_chunk;
use crate::node::transfers::{Transfer, whole_pages};
use crate::node::{Life, Node, NodeState};
use crate::overlay::Freeze;
use crate::stats::add;
use crate::writeback::FLUSH_SOON;

/// Segments in one chunk beyond which they are sent without delay: looking through them costs time.
const SEGMENTS_MAX: usize = 4096;

/// What a write lacks.
enum Lacking {
    Lease,
    /// The file is recalled: nothing is taken until it has been given back.
    Recall,
    /// Extents of this chunk.
    Extents(u32),
    /// Bytes of the reservation: in all, and beyond what is free.
    Space {
        needed: u64,
        missing: u64,
    },
    /// Set-id bits and capabilities must go first.
    Privileges,
    /// Too much is buffered already.
    Memory,
    /// It is taken in. Before the answer the kernel must lose these ranges: it may have read them again while the write was
    /// on its way.
    Nothing {
        overtaken: Vec<Range<u64>>,
    },
}

fn has_privileges(attr: &Attr) -> bool {
    let set_gid = libc::S_ISGID | libc::S_IXGRP;
    attr.mode & libc::S_ISUID != 0 || attr.mode & set_gid == set_gid || attr.flags.contains(AttrFlags::HAS_CAPABILITY)
}

impl Content {
    pub(crate) async fn write(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        mut flags: WriteFlags,
    ) -> FsResult<u32> {
        self.remote.writable()?;
        let length = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        let node = self.remote.nodes.table.get_or_insert(ino);
        let mut wanted = None;
        // The kernel's own pages are taken in any case: a recall may be waiting for them.
        let mut transfer = (!flags.from_cache).then(|| Transfer::write(&node, offset, u64::from(length)));
        let overtaken = loop {
            // Anew each time: while this waited, what was written before it may have been lost, and then the program
            // must hear of that before anything more of it reaches the file.
            if let Some(handle) = handle {
                self.take_error(&node, handle)?;
            }
            if length == 0 {
                return Ok(0);
            }
            match self.try_write(&node, offset, &data, flags, transfer.as_mut())? {
                Lacking::Nothing { overtaken } => break overtaken,
                Lacking::Lease if flags.from_cache => {
                    // A recall that begins meanwhile waits for this page.
                    tokio::select! {
                        lease = self.remote.acquire(ino, LeaseMode::Exclusive) => drop(lease?),
                        () = self.last_moment(&node) => {}
                    }
                }
                Lacking::Lease => {
                    self.remote.acquire(ino, LeaseMode::Exclusive).await?;
                }
                Lacking::Recall => self.remote.await_recall(&node).await?,
                Lacking::Extents(chunk) if flags.from_cache => self.fetch_extents_now(&node, chunk).await?,
                Lacking::Extents(chunk) => self.fetch_extents(&node, chunk).await?,
                Lacking::Space { needed, missing } => {
                    wanted = Some(self.space.reservation.want(needed));
                    self.space.reserve_more(missing).await?;
                }
                Lacking::Memory => self.buffer.wait_for_space().await?,
                Lacking::Privileges => {
                    let change = AttrChange { kill_privileges: true, ..AttrChange::default() };
                    self.remote.call(MetaOp::SetAttr { ino, change, time: Timestamp::now() }, &[&node]).await?;
                    flags.kill_privileges = false;
                }
            }
        };
        drop(wanted);
        if !overtaken.is_empty() {
            if let Some(kernel) = self.remote.nodes.kernel() {
                emptying::empty(&self.remote.runtime, &node, kernel, overtaken).await;
            }
            if let Some(transfer) = &mut transfer {
                transfer.answered(&mut node.lock());
            }
        }
        add(&self.remote.counters.bytes_written, u64::from(length));
        if flags.sync {
            self.fsync(ino).await?;
        }
        Ok(length)
    }

    /// Whether a mapped page that became dirty under a lease for reading is taken in now: it must be written before that goes
    /// back. Nobody has been granted another by then, and the server lets such a change go ahead of whoever waits.
    fn is_last_moment(&self, state: &NodeState) -> bool {
        state.is_recalled() && self.remote.nodes.usable(state, LeaseMode::Shared)
    }

    async fn last_moment(&self, node: &Node) {
        loop {
            let changed = node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_last_moment(&node.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn try_write(
        &self,
        node: &Arc<Node>,
        offset: u64,
        data: &Bytes,
        flags: WriteFlags,
        transfer: Option<&mut Transfer>,
    ) -> FsResult<Lacking> {
        if !flags.from_cache && self.buffer.files.is_full() {
            return Ok(Lacking::Memory);
        }
        let mut guard = node.lock();
        let state = &mut *guard;
        if state.life() == Life::Gone {
            return Err(Errno::ESTALE.into());
        }
        if transfer.is_some() && state.transfers().are_held() {
            return Ok(Lacking::Recall);
        }
        let covered = self.remote.nodes.usable(state, LeaseMode::Exclusive);
        if !(covered || flags.from_cache && self.is_last_moment(state)) {
            return Ok(Lacking::Lease);
        }
        let Some(attr) = state.view() else { return Ok(Lacking::Lease) };
        if flags.kill_privileges && has_privileges(&attr) {
            return Ok(Lacking::Privileges);
        }
        let asked = offset;
        let offset = if flags.append { attr.size } else { offset };
        let length = data.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.file_size_max()) {
            return Err(Errno::EFBIG.into());
        }
        let Some(file) = state.file() else { return Err(Errno::EINVAL.into()) };
        let mut grown = Vec::with_capacity(2);
        for (chunk, from, to) in by_chunk(self.remote.nodes.chunk_size(), offset, length) {
            let mut growth = 0;
            for (start, stop) in file.overlay().below(chunk, from, to) {
                match file.extents().holes(chunk, start, stop) {
                    Some(holes) => growth += holes,
                    None => return Ok(Lacking::Extents(chunk)),
                }
            }
            grown.push((chunk, from, to, growth));
        }
        let growth = grown.iter().map(|(_, _, _, growth)| growth).sum();
        let needed = self.space.reservation.needed_by(state, growth);
        let Some(file) = state.file_mut() else { return Err(Errno::EINVAL.into()) };
        if needed > file.reserved() {
            let more = needed - file.reserved();
            if let Err(missing) = self.space.reservation.draw(more) {
                return Ok(Lacking::Space { needed: more, missing });
            }
            file.set_reserved(needed);
        }
        let before = file.overlay().bytes();
        let mut done = 0usize;
        let (mut crowded, mut filled) = (false, false);
        for (chunk, from, to, growth) in grown {
            let next = done + (to - from) as usize;
            file.overlay_mut().write(chunk, from, &data[done..next], growth);
            crowded |= file.overlay().segments_in(chunk) > SEGMENTS_MAX;
            filled |= to == self.remote.nodes.chunk_size();
            done = next;
        }
        file.note_written(Timestamp::now());
        self.buffer.files.adjust(before, file.overlay().bytes());
        let much =
            filled && file.overlay().dirty_bytes() >= FLUSH_SOON.max(2 * u64::from(self.remote.nodes.chunk_size()));
        let queue = file.enlist();
        let idle = !file.is_flushing();
        let mut overtaken = Vec::new();
        if let Some(transfer) = transfer {
            // An append is written past the kernel's pages, and ends where it does; other writes lie in them.
            let end = if flags.append { u64::MAX } else { offset + length };
            overtaken = state.transfers_mut().overtaken(&whole_pages(asked.min(offset)..end), flags.append);
            if overtaken.is_empty() {
                // The kernel keeps what it has passed on, as it keeps what it reads.
                transfer.answered(state);
            }
        }
        drop(guard);
        if queue {
            self.buffer.files.enqueue(node);
        }
        if filled && !idle {
            self.buffer.files.filled.notify_waiters();
        }
        if (much || crowded) && idle {
            self.writeback.flush_in_background(node, if crowded { Freeze::All } else { Freeze::FullChunks });
        }
        Ok(Lacking::Nothing { overtaken })
    }
}
