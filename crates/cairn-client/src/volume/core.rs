//! What operations have in common: asking, changing, holding leases, and how long the kernel may rely on an answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_types::{Attr, Errno, Ino, LeaseMode, MetaOp, OpReply};
use cairn_wire::message::{Grant, ListEntry, QueryAnswer};
use cairn_wire::{Query, QueryReply};

use super::Shared;
use crate::api::{AttrReply, Entry};
use crate::error::{Error, FsResult};
use crate::node::{Life, Node, NodeState};
use crate::stats::add;

/// How long an operation tries to get a lease that others keep taking away.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(30);
/// How long a request waits for a recall of its node to be answered; the recall itself is bounded, too.
const RECALL_LIMIT: Duration = Duration::from_secs(60);

/// The server's answer is not of the kind that the question has.
pub(crate) fn unfitting<T>(answer: &QueryAnswer) -> FsResult<T> {
    tracing::error!(?answer, "the server's answer does not fit the question");
    Err(Errno::EIO.into())
}

/// For questions and changes that name a node by its number: one that is not there was replaced or removed by another
/// mount since the kernel looked it up. The kernel looks again, which it does not for `ENOENT`.
pub(crate) fn stale(error: Error) -> Error {
    if error == Errno::ENOENT { Errno::ESTALE.into() } else { error }
}

impl Shared {
    /// A timer that may be made on any thread.
    pub(crate) fn sleep(&self, time: Duration) -> tokio::time::Sleep {
        let _context = self.runtime.enter();
        tokio::time::sleep(time)
    }

    /// Fails with `EROFS` on a mount that is read-only.
    pub(crate) fn writable(&self) -> FsResult<()> {
        if self.options.read_only { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// Whether what `state` holds under `mode` may be answered from here now.
    pub(crate) fn usable(&self, state: &NodeState, mode: LeaseMode) -> bool {
        state.holds(mode) && self.session.leases_valid()
    }

    /// For how long the kernel may keep what is said of a node.
    pub(crate) fn time_to_live(&self, state: &NodeState) -> Duration {
        if state.covers(LeaseMode::Shared) && !state.is_recalled() {
            self.session.lease_time_left().unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    /// As [`Shared::time_to_live`], for the names in a directory.
    pub(crate) fn entry_time_to_live(&self, directory: &NodeState) -> Duration {
        match self.kernel.get() {
            Some(kernel) if kernel.can_expire_entries() => self.time_to_live(directory),
            _ => Duration::ZERO,
        }
    }

    /// Asks about `nodes`, which count as waiting meanwhile. What was changed of them here is at the server before.
    pub(crate) async fn query(&self, query: Query, nodes: &[&Arc<Node>]) -> FsResult<QueryReply> {
        self.settle(nodes).await?;
        self.query_unsettled(query, nodes).await
    }

    /// As [`Shared::query`], for what buffered changes of the nodes have nothing to do with.
    pub(crate) async fn query_unsettled(&self, query: Query, nodes: &[&Arc<Node>]) -> FsResult<QueryReply> {
        add(&self.counters.queries, 1);
        let _waiting: Vec<_> = nodes.iter().map(|node| node.wait_for_server()).collect();
        self.session.query(query).await
    }

    /// Makes a change that touches `nodes` and takes over what the answer tells.
    pub(crate) async fn call(&self, op: MetaOp, nodes: &[&Arc<Node>]) -> FsResult<OpReply> {
        self.settle(nodes).await?;
        add(&self.counters.calls, 1);
        let _waiting: Vec<_> = nodes.iter().map(|node| node.wait_for_server()).collect();
        let (reply, grants) = self.session.call(op).await?;
        self.absorb(&grants, &reply.attrs);
        Ok(reply)
    }

    /// Takes over leases and attributes that came with one answer.
    pub(crate) fn absorb(&self, grants: &[Grant], attrs: &[Attr]) {
        // Listings bring a thousand of each.
        let told: HashMap<Ino, &Attr> = attrs.iter().map(|attr| (attr.ino, attr)).collect();
        let mut granted = HashSet::with_capacity(grants.len());
        for grant in grants {
            let node = self.table.get_or_insert(grant.ino);
            let mut state = node.lock();
            let stands = state.grant(*grant);
            if let Some(attr) = told.get(&grant.ino) {
                state.learn_attr(attr, stands, self.chunk_size);
            }
            granted.insert(grant.ino);
        }
        for attr in attrs.iter().filter(|attr| !granted.contains(&attr.ino)) {
            if let Some(node) = self.table.get(attr.ino) {
                node.lock().learn_attr(attr, false, self.chunk_size);
            }
        }
    }

    /// Takes over the nodes of a listing.
    pub(crate) fn absorb_listed(&self, directory: Ino, grants: &[Grant], entries: &mut [ListEntry]) {
        let attrs: Vec<Attr> = entries.iter().filter_map(|entry| entry.attr).collect();
        self.absorb(grants, &attrs);
        for entry in entries {
            if let (Some(attr), Some(node)) = (&entry.attr, self.table.get(entry.ino)) {
                let mut state = node.lock();
                if let Some(content) = entry.content.take() {
                    state.learn_small_content(attr, content);
                }
                state.set_first_place(directory, &entry.name);
            }
        }
    }

    /// Waits until no recall of the node is being answered: what is asked meanwhile would be void.
    pub(crate) async fn await_recall(&self, node: &Arc<Node>) -> FsResult<()> {
        if !node.lock().is_recalled() {
            return Ok(());
        }
        // The recall must not wait for the kernel while the kernel waits for this request.
        let _waiting = node.wait_for_server();
        let limit = self.sleep(RECALL_LIMIT);
        tokio::pin!(limit);
        loop {
            let changed = node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !node.lock().is_recalled() {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                () = &mut limit => return Err(Errno::ETIMEDOUT.into()),
            }
        }
    }

    /// The node, with a lease of at least `mode` at the moment of return. `ESTALE` if it is known to be gone.
    pub(crate) async fn acquire(&self, ino: Ino, mode: LeaseMode) -> FsResult<Arc<Node>> {
        let node = self.table.get_or_insert(ino);
        let begun = Instant::now();
        let mut attempts = 0u32;
        loop {
            {
                let state = node.lock();
                if state.life() == Life::Gone {
                    return Err(Errno::ESTALE.into());
                }
                if self.usable(&state, mode) {
                    drop(state);
                    return Ok(node);
                }
            }
            if begun.elapsed() > ACQUIRE_LIMIT {
                return Err(Errno::ETIMEDOUT.into());
            }
            if attempts > 0 {
                self.sleep(Duration::from_millis(u64::from(attempts.min(20)))).await;
            }
            attempts += 1;
            self.await_recall(&node).await?;
            let reply = self.query(Query::Acquire { ino, mode }, &[&node]).await.map_err(stale)?;
            let QueryAnswer::Attr(attr) = reply.answer else { return unfitting(&reply.answer) };
            self.absorb(&reply.grants, &[attr]);
        }
    }

    /// Attributes as of now, from here or from the server.
    pub(crate) async fn current_attr(&self, ino: Ino) -> FsResult<AttrReply> {
        let node = self.table.get_or_insert(ino);
        {
            let state = node.lock();
            if let Some(attr) = state.gone() {
                return Ok(AttrReply { attr, ttl: Duration::ZERO });
            }
            if self.usable(&state, LeaseMode::Shared)
                && let Some(attr) = state.view()
            {
                add(&self.counters.answered_locally, 1);
                return Ok(AttrReply { attr, ttl: self.time_to_live(&state) });
            }
        }
        self.await_recall(&node).await?;
        let reply = match self.query(Query::Attr { ino }, &[&node]).await {
            Ok(reply) => reply,
            // Another mount has removed what the kernel refers to.
            Err(error) if error == Errno::ENOENT => {
                let attr = node.lock().without_name().ok_or(Errno::ESTALE)?;
                return Ok(AttrReply { attr, ttl: Duration::ZERO });
            }
            Err(errno) => return Err(errno),
        };
        let QueryAnswer::Attr(attr) = reply.answer else { return unfitting(&reply.answer) };
        self.absorb(&reply.grants, &[attr]);
        Ok(self.told(&node, &attr))
    }

    /// What to say of a node of which the server has just said `attr`: with what is buffered here, if a lease covers it.
    pub(crate) fn told(&self, node: &Node, attr: &Attr) -> AttrReply {
        let state = node.lock();
        match state.view() {
            Some(view) if self.usable(&state, LeaseMode::Shared) => {
                AttrReply { attr: view, ttl: self.time_to_live(&state) }
            }
            _ => AttrReply { attr: *attr, ttl: Duration::ZERO },
        }
    }

    /// An entry for the kernel, which counts a reference to the node.
    pub(crate) fn entry(&self, attr: &Attr, entry_ttl: Duration) -> Entry {
        let node = self.table.get_or_insert(attr.ino);
        let reply = self.told(&node, attr);
        let mut state = node.lock();
        state.add_reference();
        state.expect_open();
        drop(state);
        Entry { attr: reply.attr, attr_ttl: reply.ttl, entry_ttl }
    }
}
