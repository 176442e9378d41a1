//! One flush: frozen content becomes blobs, blobs go to the chunk server, and one journaled change for each file makes
//! them its content. Only then does the frozen content go.
//!
//! A file is flushed by one task at a time ([`Claim`]), in rounds. The bytes of several rounds are on their way at once; a
//! round is made the content of its files when the round before it was, so what the server has of a stream is always a
//! beginning of it. While a program goes on writing, its flush goes on with what it has filled, unless somebody waits for
//! the end. Content that the server refuses is saved elsewhere and reported
//! to whoever has the file open; when the server is away, it stays and is tried again.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_types::{AttrChange, Errno, LeaseMode, MetaOp, OpReply, Timestamp, WrittenExtent};

use super::FLUSH_SOON;
use super::recovery::Lost;
use super::upload::{Part, Round, bytes_of};
use crate::error::{Error, ErrorKind, FsResult};
use crate::node::{FileState, Life, Node, NodeState};
use crate::overlay::{Freeze, FrozenChunk};
use crate::stats::add;
use crate::volume::Shared;
use crate::volume::space::lost_write_errno;

/// Most bytes, about, of one round.
const ROUND_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that the rounds of a flush may have on their way, about: 400 MB/s for a sixth of a second.
const UNDER_WAY_BYTES: u64 = 64 * 1024 * 1024;
/// Most chunks of one round.
const ROUND_CHUNKS: usize = 4096;
/// Most extents of one change.
const OP_EXTENTS: usize = 8192;
/// Flushes in a row that may fail although the server is there, until the content is given up.
const FAILURES_MAX: u32 = 3;

/// The right to flush a file; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    node: Arc<Node>,
    /// Everything that was buffered when the claim was made is covered by it.
    complete: bool,
    /// What is filled meanwhile is flushed, too.
    follows: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(file) = self.node.lock().file_mut() {
            file.end_flush();
        }
        self.node.changed.notify_waiters();
    }
}

impl Claim {
    /// The same for a flush that nobody waits for.
    pub(crate) fn following(self) -> Self {
        let mut claim = self;
        claim.follows = true;
        claim
    }

    /// Bytes that are buffered of the file.
    pub(crate) fn buffered(&self) -> u64 {
        self.node.lock().file().map_or(0, |file| file.overlay().bytes())
    }

    /// What is frozen of the file and not in hand, as much as one round takes; `claim` is this claim's place among those
    /// of the flush.
    pub(crate) fn part(&self, claim: usize) -> Option<Part> {
        let mut state = self.node.lock();
        let epoch = state.lease().epoch();
        let file = state.file_mut()?;
        let mut chunks = file.overlay_mut().take_batch(ROUND_BYTES);
        let goes_on = self.follows && file.may_follow_writer();
        if chunks.is_empty() && goes_on && file.overlay().dirty_bytes() >= FLUSH_SOON {
            file.overlay_mut().freeze(Freeze::FullChunks);
            chunks = file.overlay_mut().take_batch(ROUND_BYTES);
        }
        let node = Arc::clone(&self.node);
        (!chunks.is_empty()).then_some(Part { claim, node, epoch, chunks, extents: Vec::new(), outcome: Ok(()) })
    }
}

/// A claim's place in a flush.
struct Member {
    claim: Option<Claim>,
    /// Its parts that are on their way.
    under_way: usize,
    /// A part of it failed: nothing more is sent.
    failed: bool,
    outcome: FsResult<()>,
}

/// Freezes what `which` says (unless an earlier flush has left something frozen) and claims the file, if there is
/// anything to flush and nobody else is at it.
pub(crate) fn claim(node: &Arc<Node>, which: Freeze) -> Option<Claim> {
    claim_locked(node, &mut node.lock(), which)
}

/// As [`claim`], with the node's state locked.
pub(crate) fn claim_locked(node: &Arc<Node>, state: &mut NodeState, which: Freeze) -> Option<Claim> {
    let file = state.file_mut()?;
    if file.is_flushing() {
        return None;
    }
    let complete = !file.overlay().has_frozen() && which == Freeze::All;
    file.overlay_mut().freeze(which);
    if !file.overlay().has_frozen() {
        return None;
    }
    file.begin_flush();
    Some(Claim { node: Arc::clone(node), complete, follows: false })
}

impl Shared {
    /// Sends everything that was written to the file before this call, and waits until it is applied.
    ///
    /// # Errors
    /// Content was lost (every open handle is told, too), or the server is away and it will be tried again.
    pub(crate) async fn flush_node(self: &Arc<Self>, node: &Arc<Node>) -> FsResult<()> {
        loop {
            let changed = node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if node.lock().file().is_none_or(FileState::is_flushed) {
                return Ok(());
            }
            let Some(claim) = claim(node, Freeze::All) else {
                if node.await_flush() {
                    // It may be on its way with a rename that nobody else waits for.
                    self.journal.hurry();
                    tokio::select! {
                        () = changed => {}
                        error = self.session.gave_up() => return Err(error),
                    }
                }
                continue;
            };
            let complete = claim.complete;
            let shared = Arc::clone(self);
            // A task of its own: a caller that gives up must not leave a flush half done.
            let flush = self.runtime.spawn(async move { shared.flush_claimed(vec![claim]).await });
            let flushed = tokio::select! {
                biased;
                flushed = flush => flushed,
                error = self.session.gave_up() => return Err(error),
            };
            match flushed {
                Ok(outcomes) => outcomes.into_iter().collect::<FsResult<()>>()?,
                Err(_) => return Err(Errno::EIO.into()),
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// As [`Shared::flush_node`] for every file, and access times, too.
    pub(crate) async fn flush_all(self: &Arc<Self>) -> FsResult<()> {
        self.flush_access_times().await;
        let mut dirty = self.table.all();
        dirty.retain(|node| node.lock().file().is_some_and(|file| !file.is_flushed()));
        let claims: Vec<Claim> = dirty.iter().filter_map(|node| claim(node, Freeze::All)).collect();
        let shared = Arc::clone(self);
        let flush = self.runtime.spawn(async move { shared.flush_claimed(claims).await });
        let flushed = tokio::select! {
            biased;
            flushed = flush => flushed,
            error = self.session.gave_up() => return Err(error),
        };
        let mut outcome = match flushed {
            Ok(outcomes) => outcomes.into_iter().collect::<FsResult<()>>(),
            Err(_) => Err(Errno::EIO.into()),
        };
        // Files that somebody else was flushing.
        for node in dirty {
            outcome = outcome.and(self.flush_node(&node).await);
        }
        outcome
    }

    /// Flushes files that were claimed, round by round. One outcome for each.
    pub(crate) async fn flush_claimed(self: Arc<Self>, claims: Vec<Claim>) -> Vec<FsResult<()>> {
        add(&self.counters.flushes, 1);
        let mut members: Vec<Member> = claims
            .into_iter()
            .map(|claim| Member { claim: Some(claim), under_way: 0, failed: false, outcome: Ok(()) })
            .collect();
        let alone = members.len() == 1;
        let mut rounds: VecDeque<Round> = VecDeque::new();
        loop {
            let filled = self.writeback.filled.notified();
            tokio::pin!(filled);
            filled.as_mut().enable();
            while rounds.iter().map(|round| bytes_of(&round.parts)).sum::<u64>() < UNDER_WAY_BYTES {
                let parts = self.next_parts(&mut members);
                if parts.is_empty() {
                    break;
                }
                rounds.push_back(self.begin_round(parts).await);
            }
            let Some(first) = rounds.front_mut() else { break };
            tokio::select! {
                biased;
                () = first.arrived() => {}
                () = filled, if alone => continue,
            }
            // What has arrived besides goes by the same message.
            let mut parts = Vec::new();
            while rounds.front_mut().is_some_and(Round::has_arrived) {
                parts.extend(rounds.pop_front().into_iter().flat_map(|round| round.parts));
            }
            for part in &mut parts {
                if members.get(part.claim).is_some_and(|member| member.failed) {
                    // The content is gone, or is sent again later together with what comes before it.
                    part.outcome = Err(Errno::EIO.into());
                }
            }
            self.journal_round(&mut parts).await;
            for part in parts {
                let Some(member) = members.get_mut(part.claim) else { continue };
                member.under_way -= 1;
                if let Err(error) = part.outcome
                    && !std::mem::replace(&mut member.failed, true)
                {
                    member.outcome = self.flush_failed(&part.node, error);
                }
            }
        }
        members.into_iter().map(|member| member.outcome).collect()
    }

    /// What the next round takes. Lets go of claims that have nothing more to send.
    fn next_parts(&self, members: &mut [Member]) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut bytes, mut pieces) = (0, 0);
        for (index, member) in members.iter_mut().enumerate() {
            let Some(claim) = &member.claim else { continue };
            if bytes >= ROUND_BYTES || pieces >= ROUND_CHUNKS {
                break;
            }
            let part = if member.failed { None } else { claim.part(index) };
            match part {
                Some(part) => {
                    member.under_way += 1;
                    pieces += part.chunks.len();
                    bytes += bytes_of(std::slice::from_ref(&part));
                    parts.push(part);
                }
                None if member.under_way == 0 => self.release_claim(&mut member.claim),
                None => {}
            }
        }
        parts
    }

    /// Ends the work on a file: its waiters go on, and what was written meanwhile is due in its turn.
    pub(crate) fn release_claim(&self, place: &mut Option<Claim>) {
        if let Some(claim) = place.take() {
            let node = Arc::clone(&claim.node);
            drop(claim);
            self.requeue(&node);
        }
    }

    /// Makes blobs that have arrived the content of their files.
    async fn journal_round(self: &Arc<Self>, round: &mut [Part]) {
        let mut ops = Vec::new();
        let mut counts = Vec::with_capacity(round.len());
        for part in round.iter_mut() {
            let before = ops.len();
            ops.extend(self.content_ops(part));
            counts.push(ops.len() - before);
        }
        if ops.is_empty() {
            return;
        }
        let mut results = self.journal_content(ops).await.into_iter();
        for (part, count) in round.iter_mut().zip(counts) {
            if count == 0 {
                continue;
            }
            let replies: FsResult<Vec<OpReply>> =
                results.by_ref().take(count).collect::<Vec<_>>().into_iter().collect();
            match replies {
                Ok(replies) => self.applied(part, &replies),
                Err(errno) => part.outcome = Err(errno),
            }
        }
    }

    /// The changes that make a part's blobs the content of its file. The part fails if it is no longer this session's
    /// to write.
    pub(crate) fn content_ops(&self, part: &mut Part) -> Vec<MetaOp> {
        if part.outcome.is_err() {
            return Vec::new();
        }
        let state = part.node.lock();
        match (state.file(), state.attr()) {
            (Some(file), Some(attr)) if state.lease().epoch() == part.epoch => {
                let (mtime, time) = file.times_over(attr);
                let ino = part.node.ino;
                let size = self.end_of(&part.chunks);
                let write =
                    |extents: &[WrittenExtent]| MetaOp::Write { ino, extents: extents.to_vec(), size, mtime, time };
                part.extents.chunks(OP_EXTENTS).map(write).collect()
            }
            _ => {
                part.outcome = Err(Error::FENCED);
                Vec::new()
            }
        }
    }

    /// File offset behind the last byte of these chunks.
    fn end_of(&self, chunks: &[FrozenChunk]) -> u64 {
        chunks
            .iter()
            .filter_map(|chunk| {
                let last = chunk.segments.last()?;
                let start = u64::from(chunk.chunk) * u64::from(self.chunk_size);
                Some(start + u64::from(last.offset) + last.data.len() as u64)
            })
            .max()
            .unwrap_or(0)
    }

    /// The server has made `part` its own.
    pub(crate) fn applied(&self, part: &Part, replies: &[OpReply]) {
        let mut state = part.node.lock();
        if state.lease().epoch() != part.epoch {
            return;
        }
        let charged = |state: &NodeState| state.attr().map_or(0, |attr| attr.charged(self.allocation));
        let charged_before = charged(&state);
        let said = replies.iter().flat_map(|reply| &reply.attrs).filter(|attr| attr.ino == part.node.ino);
        let chunks = part.chunks.iter().map(|chunk| chunk.chunk);
        let Some((before, after)) = state.content_applied(said, &part.extents, chunks, self.chunk_size) else { return };
        self.writeback.adjust(before, after);
        let consumed = charged(&state).saturating_sub(charged_before);
        self.redraw(&mut state, consumed);
    }

    /// Whether a flush that failed so is tried again.
    pub(crate) fn is_passing(&self, node: &Node, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::TryAgain
            | ErrorKind::TimedOut
            | ErrorKind::Unreachable
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Closed => true,
            ErrorKind::Failed | ErrorKind::Damaged => {
                let mut state = node.lock();
                state.file_mut().is_some_and(|file| file.note_flush_failure() < FAILURES_MAX)
            }
            ErrorKind::NotFound | ErrorKind::Refused | ErrorKind::NoSpace | ErrorKind::Fenced => false,
        }
    }

    pub(crate) fn flush_failed(self: &Arc<Self>, node: &Arc<Node>, error: Error) -> FsResult<()> {
        add(&self.counters.flush_failures, 1);
        if self.is_passing(node, &error) {
            self.retry_later(node);
            return Err(error);
        }
        let lost = self.take_lost(node);
        if let Some(lost) = lost {
            tracing::error!(ino = %node.ino, ?error, "buffered data could not be written to the volume");
            let errno = lost_write_errno(error.errno());
            node.lock().fail_writes(errno);
            self.save_in_background(vec![lost]);
            return Err(errno.into());
        }
        Ok(())
    }

    /// Takes out what is buffered of a file; `None` if there is nothing, or nobody could miss it.
    pub(crate) fn take_lost(&self, node: &Node) -> Option<Lost> {
        let mut state = node.lock();
        let unreachable = state.life() == Life::Gone;
        let name = state.place().map(|place| place.name.clone());
        let file = state.file_mut()?;
        let before = file.overlay().bytes();
        let pieces = file.take_buffered();
        file.extents_mut().clear();
        self.writeback.adjust(before, 0);
        self.redraw(&mut state, 0);
        if pieces.is_empty() || unreachable { None } else { Some(Lost { ino: node.ino, name, pieces }) }
    }

    /// Tells the server of access times. What cannot be told is forgotten: nobody waits for it.
    pub(crate) async fn flush_access_times(&self) {
        let inos = std::mem::take(&mut *self.access_times.lock());
        let nodes: Vec<_> = inos.into_iter().filter_map(|ino| self.table.get(ino)).collect();
        for group in nodes.chunks(512) {
            self.send_access_times(group).await;
        }
    }

    pub(crate) async fn send_access_times(&self, nodes: &[Arc<Node>]) {
        // An explicit access time (`utimens`) waits here, so that it is not overwritten by an older one.
        let _gate = self.writeback.access_times.lock().await;
        let mut sent: Vec<(&Arc<Node>, Timestamp)> = Vec::new();
        let mut ops = Vec::new();
        for node in nodes {
            let mut state = node.lock();
            let Some(atime) = state.access_time() else { continue };
            match state.attr() {
                Some(_) if state.lease().mode() == LeaseMode::Exclusive && state.life() == Life::Named => {
                    let change = AttrChange { read_at: Some(atime), ..AttrChange::default() };
                    ops.push(MetaOp::SetAttr { ino: node.ino, change, time: atime });
                    sent.push((node, atime));
                }
                _ => state.clear_access_time(),
            }
        }
        if ops.is_empty() {
            return;
        }
        let results = self.journal_content(ops).await;
        for ((node, atime), result) in sent.into_iter().zip(results) {
            let mut state = node.lock();
            if let Ok(reply) = result {
                for attr in reply.attrs.iter().filter(|attr| attr.ino == node.ino) {
                    state.learn_attr(attr, false, self.chunk_size);
                }
            }
            if state.access_time() == Some(atime) {
                state.clear_access_time();
            }
        }
    }
}
