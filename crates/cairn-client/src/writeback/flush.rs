//! One flush: frozen content becomes blobs, blobs go to the chunk server, and one journaled change for each file makes
//! them its content. Only then does the frozen content go.
//!
//! A file is flushed by one task at a time ([`FlushClaim`]), in rounds. The bytes of several rounds are on their way at once; a
//! round is made the content of its files when the round before it was, so what the server has of a stream is always a
//! beginning of it. While a program goes on writing, its flush goes on with what it has filled, unless somebody waits for
//! the end. Content that the server refuses is saved elsewhere and reported
//! to whoever has the file open; when the server is away, it stays and is tried again.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_types::{AttrChange, Errno, LeaseMode, MetaOp, OpReply, Timestamp};

use super::WriteBack;
use super::claim::{FlushClaim, ROUND_BYTES};
use super::upload::{Part, Round, bytes_of};
use crate::error::FsResult;
use crate::node::{FileState, Life, Node};
use crate::overlay::Freeze;
use crate::stats::add;

/// Bytes that the rounds of a flush may have on their way, about: 400 MB/s for a sixth of a second.
const UNDER_WAY_BYTES: u64 = 64 * 1024 * 1024;
/// Most chunks of one round.
const ROUND_CHUNKS: usize = 4096;

/// A claim's place in a flush.
struct Member {
    claim: Option<FlushClaim>,
    /// Its parts that are on their way.
    under_way: usize,
    /// A part of it failed: nothing more is sent.
    failed: bool,
    outcome: FsResult<()>,
}

impl WriteBack {
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
            let Some(claim) = FlushClaim::new(node, Freeze::All) else {
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

    /// As [`WriteBack::flush_node`] for every file, and access times, too.
    pub(crate) async fn flush_all(self: &Arc<Self>) -> FsResult<()> {
        self.flush_access_times().await;
        let mut dirty = self.nodes.table.all();
        dirty.retain(|node| node.lock().file().is_some_and(|file| !file.is_flushed()));
        let claims: Vec<FlushClaim> = dirty.iter().filter_map(|node| FlushClaim::new(node, Freeze::All)).collect();
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
    pub(crate) async fn flush_claimed(self: Arc<Self>, claims: Vec<FlushClaim>) -> Vec<FsResult<()>> {
        add(&self.counters.flushes, 1);
        let mut members: Vec<Member> = claims
            .into_iter()
            .map(|claim| Member { claim: Some(claim), under_way: 0, failed: false, outcome: Ok(()) })
            .collect();
        let alone = members.len() == 1;
        let mut rounds: VecDeque<Round> = VecDeque::new();
        loop {
            let filled = self.buffer.files.filled.notified();
            tokio::pin!(filled);
            filled.as_mut().enable();
            while rounds.iter().map(|round| bytes_of(&round.parts)).sum::<u64>() < UNDER_WAY_BYTES {
                let parts = self.next_parts(&mut members);
                if parts.is_empty() {
                    break;
                }
                rounds.push_back(self.uploads.begin_round(parts).await);
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
                    member.outcome = self.buffer.flush_failed(&part.node, error);
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
                None if member.under_way == 0 => self.buffer.release_claim(&mut member.claim),
                None => {}
            }
        }
        parts
    }

    /// Makes blobs that have arrived the content of their files.
    async fn journal_round(self: &Arc<Self>, round: &mut [Part]) {
        let mut ops = Vec::new();
        let mut counts = Vec::with_capacity(round.len());
        for part in round.iter_mut() {
            let before = ops.len();
            let of_part = self.buffer.content_ops(part);
            if part.node.lock().lease().mode() == LeaseMode::Exclusive {
                ops.extend(of_part);
            } else {
                self.call_for(part, of_part).await;
            }
            counts.push(ops.len() - before);
        }
        if ops.is_empty() {
            return;
        }
        let mut results = self.journal.send(ops).await.into_iter();
        for (part, count) in round.iter_mut().zip(counts) {
            if count == 0 {
                continue;
            }
            let replies: FsResult<Vec<OpReply>> =
                results.by_ref().take(count).collect::<Vec<_>>().into_iter().collect();
            match replies {
                Ok(replies) => self.buffer.applied(part, &replies),
                Err(errno) => part.outcome = Err(errno),
            }
        }
    }

    /// Makes content a file's that no exclusive lease covers: it came from pages that were changed by a mapping under a lease
    /// for reading, which is being given back. The server makes it wait for others who read the file.
    async fn call_for(&self, part: &mut Part, ops: Vec<MetaOp>) {
        if ops.is_empty() {
            return;
        }
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            match self.session.call(op).await {
                Ok((reply, grants)) => {
                    self.nodes.absorb(&grants, &[]);
                    replies.push(reply);
                }
                Err(error) => {
                    part.outcome = Err(error);
                    return;
                }
            }
        }
        self.buffer.applied(part, &replies);
    }

    /// Tells the server of access times. What cannot be told is forgotten: nobody waits for it.
    pub(crate) async fn flush_access_times(&self) {
        let inos = std::mem::take(&mut *self.access_times.lock());
        let nodes: Vec<_> = inos.into_iter().filter_map(|ino| self.nodes.table.get(ino)).collect();
        for group in nodes.chunks(512) {
            self.send_access_times(group).await;
        }
    }

    /// As [`WriteBack::flush_access_times`], of these nodes.
    pub(crate) async fn send_access_times(&self, nodes: &[Arc<Node>]) {
        // An explicit access time (`utimens`) waits here, so that it is not overwritten by an older one.
        let _gate = self.access_times_under_way.lock().await;
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
        let results = self.journal.send(ops).await;
        for ((node, atime), result) in sent.into_iter().zip(results) {
            let mut state = node.lock();
            if let Ok(reply) = result {
                for attr in reply.attrs.iter().filter(|attr| attr.ino == node.ino) {
                    state.learn_attr(attr, false, self.nodes.chunk_size());
                }
            }
            if state.access_time() == Some(atime) {
                state.clear_access_time();
            }
        }
    }
}
