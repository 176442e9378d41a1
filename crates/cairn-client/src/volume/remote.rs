//! What operations have in common: asking, changing, holding leases, and how long the kernel may rely on an answer.
//!
//! It knows nodes, the journal and the session, and no operation: neither names nor content.
//!
//! Invariants:
//!
//! - Who asks about nodes, or has them changed, does so behind the changes that were made of them here.
//! - A node that is asked about counts as waiting for the server until the answer is there, so that a recall of it does not
//!   wait for the kernel meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_types::{Errno, Ino, LeaseMode, MetaOp, OpReply};
use cairn_wire::message::QueryAnswer;
use cairn_wire::{Query, QueryReply};
use tokio::runtime::Handle as Runtime;

use crate::api::AttrReply;
use crate::cache::fetch::FetchContext;
use crate::error::{Error, FsResult};
use crate::node::{Life, Node, NodeState};
use crate::node_cache::NodeCache;
use crate::session::Session;
use crate::stats::{Counters, add};
use crate::timer::sleep;
use crate::writeback::Journal;

/// How long an operation tries to get a lease that others keep taking away.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(30);
/// How long a request waits for a recall of its node to be answered; the recall itself is bounded, too.
const RECALL_LIMIT: Duration = Duration::from_secs(60);

/// The server's answer is not of the kind that the question has.
pub(super) fn unfitting<T>(answer: &QueryAnswer) -> FsResult<T> {
    tracing::error!(?answer, "the server's answer does not fit the question");
    Err(Errno::EIO.into())
}

/// For questions and changes that name a node by its number: one that is not there was replaced or removed by another
/// mount since the kernel looked it up. The kernel looks again, which it does not for `ENOENT`.
pub(super) fn stale(error: Error) -> Error {
    if error == Errno::ENOENT { Errno::ESTALE.into() } else { error }
}

/// The server as operations see it: through the session, behind the journal, into the nodes.
pub(super) struct Remote {
    pub(super) session: Session,
    pub(super) nodes: Arc<NodeCache>,
    pub(super) journal: Arc<Journal>,
    pub(super) counters: Arc<Counters>,
    pub(super) runtime: Runtime,
    /// Every change fails with `EROFS`.
    read_only: bool,
    closing: AtomicBool,
}

impl Remote {
    pub(super) fn new(
        session: Session,
        nodes: Arc<NodeCache>,
        journal: Arc<Journal>,
        counters: Arc<Counters>,
        runtime: Runtime,
        read_only: bool,
    ) -> Self {
        Remote { session, nodes, journal, counters, runtime, read_only, closing: AtomicBool::new(false) }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// From now on no change is made here first. Whether that was so already.
    pub(super) fn begin_closing(&self) -> bool {
        self.closing.swap(true, Ordering::SeqCst)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// From where and how blocks are fetched.
    pub(super) fn fetching(&self) -> FetchContext {
        FetchContext {
            session: self.session.clone(),
            counters: Arc::clone(&self.counters),
            runtime: self.runtime.clone(),
        }
    }

    /// Whether what is said here of a node may be changed ahead of the server.
    pub(super) fn may_change_here(&self, state: &NodeState) -> bool {
        self.nodes.usable(state, LeaseMode::Exclusive)
            && !state.is_recalled()
            && state.life() == Life::Named
            && !self.closing.load(Ordering::Relaxed)
    }

    /// Fails with `EROFS` on a mount that is read-only.
    pub(super) fn writable(&self) -> FsResult<()> {
        if self.read_only { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// Asks about `nodes`, which count as waiting meanwhile. What was changed of them here is at the server before.
    pub(super) async fn query(&self, query: Query, nodes: &[&Arc<Node>]) -> FsResult<QueryReply> {
        self.journal.flush_changes_of(nodes).await?;
        self.query_ahead(query, nodes).await
    }

    /// As [`Remote::query`], for what buffered changes of the nodes have nothing to do with.
    pub(super) async fn query_ahead(&self, query: Query, nodes: &[&Arc<Node>]) -> FsResult<QueryReply> {
        add(&self.counters.queries, 1);
        let _waiting: Vec<_> = nodes.iter().map(|node| node.wait_for_server()).collect();
        self.session.query(query).await
    }

    /// Makes a change that touches `nodes` and takes over what the answer tells.
    pub(super) async fn call(&self, op: MetaOp, nodes: &[&Arc<Node>]) -> FsResult<OpReply> {
        self.journal.flush_changes_of(nodes).await?;
        add(&self.counters.calls, 1);
        let _waiting: Vec<_> = nodes.iter().map(|node| node.wait_for_server()).collect();
        let (reply, grants) = self.session.call(op).await?;
        self.nodes.absorb(&grants, &reply.attrs);
        Ok(reply)
    }

    /// Waits until no recall of the node is being answered: what is asked meanwhile would be void.
    pub(super) async fn await_recall(&self, node: &Arc<Node>) -> FsResult<()> {
        if !node.lock().is_recalled() {
            return Ok(());
        }
        // The recall must not wait for the kernel while the kernel waits for this request.
        let _waiting = node.wait_for_server();
        let limit = sleep(&self.runtime, RECALL_LIMIT);
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
    pub(super) async fn acquire(&self, ino: Ino, mode: LeaseMode) -> FsResult<Arc<Node>> {
        let node = self.nodes.table.get_or_insert(ino);
        let begun = Instant::now();
        let mut attempts = 0u32;
        loop {
            {
                let state = node.lock();
                if state.life() == Life::Gone {
                    return Err(Errno::ESTALE.into());
                }
                if self.nodes.usable(&state, mode) {
                    drop(state);
                    return Ok(node);
                }
            }
            if begun.elapsed() > ACQUIRE_LIMIT {
                return Err(Errno::ETIMEDOUT.into());
            }
            if attempts > 0 {
                sleep(&self.runtime, Duration::from_millis(u64::from(attempts.min(20)))).await;
            }
            attempts += 1;
            self.await_recall(&node).await?;
            let reply = self.query(Query::Acquire { ino, mode }, &[&node]).await.map_err(stale)?;
            let QueryAnswer::Attr(attr) = reply.answer else { return unfitting(&reply.answer) };
            self.nodes.absorb(&reply.grants, &[attr]);
        }
    }

    /// Attributes as of now, from here or from the server.
    pub(super) async fn current_attr(&self, ino: Ino) -> FsResult<AttrReply> {
        let node = self.nodes.table.get_or_insert(ino);
        {
            let state = node.lock();
            if let Some(attr) = state.gone() {
                return Ok(AttrReply { attr, ttl: Duration::ZERO });
            }
            if self.nodes.usable(&state, LeaseMode::Shared)
                && let Some(attr) = state.view()
            {
                add(&self.counters.answered_locally, 1);
                return Ok(AttrReply { attr, ttl: self.nodes.time_to_live(&state) });
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
        self.nodes.absorb(&reply.grants, &[attr]);
        Ok(self.nodes.told(&node, &attr))
    }
}
