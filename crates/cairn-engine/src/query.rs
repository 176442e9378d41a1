//! Questions about the tree, answered from the last commit together with leases for what the answer tells.
//!
//! The lease comes first and the snapshot after it: whatever is changed later must recall the lease, and what was changed
//! before is either in the snapshot or keeps the node pinned until it is.

use std::sync::Arc;

use cairn_meta::{SeekTarget, Snapshot};
use cairn_types::{Attr, Errno, ExtentList, FsResult, Ino, Name, SessionId};
use cairn_wire::message::{Answer, Failure, Grant, ListEntry, QueryAnswer};
use cairn_wire::{Query, QueryReply};

use crate::leases::Want;
use crate::{Inner, Reply};

/// Most entries of one answer: with the longest names and all attributes they fit a message.
const LIST_MAX: usize = 4096;
/// Listings of more entries are read by a thread that may wait for the disk.
const LIST_INLINE: usize = 128;
/// Most chunks of one answer.
const CHUNKS_MAX: u32 = 4096;
/// How often a lookup starts again because the name led elsewhere meanwhile.
const LOOKUPS_MAX: usize = 16;

/// Nodes of a listing that one thread reads: several wait for the disk together.
const NODES_EACH: usize = 256;

type NodeRead = (Attr, Option<ExtentList>);
type Answered = Result<(QueryAnswer, Vec<Grant>), Failure>;

impl Inner {
    pub(crate) async fn query(self: &Arc<Self>, session: SessionId, query: Query) -> Reply {
        let (answer, grants) = match query {
            Query::Lookup { parent, name } => self.lookup(session, parent, &name).await?,
            Query::Attr { ino } => {
                self.read(session, ino, Want::Read, |now| now.attr(ino).map(QueryAnswer::Attr)).await?
            }
            Query::Acquire { ino, mode } => {
                self.read(session, ino, Want::AtLeast(mode), |now| now.attr(ino).map(QueryAnswer::Attr)).await?
            }
            Query::List { directory, after, limit, attributes } => {
                self.list(session, directory, after, limit, attributes).await?
            }
            Query::ReadLink { ino } => {
                self.read(session, ino, Want::Read, |now| now.readlink(ino).map(QueryAnswer::Bytes)).await?
            }
            Query::Extents { ino, first_chunk, count } => {
                let count = count.min(CHUNKS_MAX);
                let read = |now: &Snapshot| now.extents(ino, first_chunk, count).map(QueryAnswer::Extents);
                self.read(session, ino, Want::Read, read).await?
            }
            Query::Seek { ino, offset, hole } => {
                let target = if hole { SeekTarget::Hole } else { SeekTarget::Data };
                let read = |now: &Snapshot| now.seek(ino, offset, target).map(QueryAnswer::Offset);
                self.read(session, ino, Want::Read, read).await?
            }
            Query::GetXattr { ino, name } => {
                self.read(session, ino, Want::Read, |now| now.get_xattr(ino, &name).map(QueryAnswer::Bytes)).await?
            }
            Query::ListXattr { ino } => {
                self.read(session, ino, Want::Read, |now| now.list_xattr(ino).map(QueryAnswer::Names)).await?
            }
            Query::Parent { directory } => {
                let read = |now: &Snapshot| now.parent(directory).map(QueryAnswer::Parent);
                self.read(session, directory, Want::Read, read).await?
            }
            Query::Usage => (QueryAnswer::Usage(self.usage()), Vec::new()),
        };
        self.trim_leases(session);
        Ok((Answer::Query(QueryReply { answer, grants }), Vec::new()))
    }

    /// Reads something of one node under a lease.
    async fn read(
        &self,
        session: SessionId,
        ino: Ino,
        want: Want,
        read: impl Fn(&Snapshot) -> FsResult<QueryAnswer>,
    ) -> Answered {
        let granted = self.acquire(session, ino, want).await?;
        match read(&self.snapshot()?) {
            Ok(answer) => Ok((answer, granted.map(|(grant, _)| grant).into_iter().collect())),
            Err(errno) => {
                self.withdraw(session, granted);
                Err(errno.into())
            }
        }
    }

    /// Takes back a grant that goes with no answer.
    fn withdraw(&self, session: SessionId, granted: Option<(Grant, bool)>) {
        if let Some((grant, true)) = granted {
            self.leases.with(|table| table.withdraw(session, grant));
        }
    }

    async fn lookup(&self, session: SessionId, parent: Ino, name: &Name) -> Answered {
        for _ in 0..LOOKUPS_MAX {
            let of_parent = self.acquire(session, parent, Want::Read).await?;
            let before = self.snapshot()?;
            let found = match before.lookup(parent, name) {
                Ok(found) => found,
                Err(errno) => {
                    self.withdraw(session, of_parent);
                    return Err(errno.into());
                }
            };
            let mut grants: Vec<Grant> = of_parent.map(|(grant, _)| grant).into_iter().collect();
            let Some(attr) = found else { return Ok((QueryAnswer::Entry(None), grants)) };
            let order = before.last_order();
            drop(before);
            let of_node = self.acquire(session, attr.ino, Want::Read).await?;
            let now = self.snapshot()?;
            let again = if now.last_order() == order { Some(attr) } else { now.lookup(parent, name)? };
            if again.is_some_and(|again| again.ino == attr.ino) {
                grants.extend(of_node.map(|(grant, _)| grant));
                return Ok((QueryAnswer::Entry(Some(now.node(attr.ino)?)), grants));
            }
            self.withdraw(session, of_node);
        }
        Err(Errno::EAGAIN.into())
    }

    async fn list(
        self: &Arc<Self>,
        session: SessionId,
        directory: Ino,
        after: Option<Name>,
        limit: u32,
        attributes: bool,
    ) -> Answered {
        let limit = (limit as usize).clamp(1, LIST_MAX);
        let granted = self.acquire(session, directory, Want::Read).await?;
        let inner = Arc::clone(self);
        let read = move || inner.read_entries(session, directory, after.as_ref(), limit, attributes);
        let outcome = if limit <= LIST_INLINE {
            read()
        } else {
            tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(Errno::EIO.into()))
        };
        match outcome {
            Ok((answer, mut grants)) => {
                grants.extend(granted.map(|(grant, _)| grant));
                Ok((answer, grants))
            }
            Err(failure) => {
                self.withdraw(session, granted);
                Err(failure)
            }
        }
    }

    /// Entries of a directory; with `attributes`, those of the nodes whose lease is to be had without asking anybody.
    fn read_entries(
        &self,
        session: SessionId,
        directory: Ino,
        after: Option<&Name>,
        limit: usize,
        attributes: bool,
    ) -> Answered {
        let mut entries = self.snapshot()?.entries(directory, after, limit + 1)?;
        let complete = entries.len() <= limit;
        entries.truncate(limit);
        let mut leased: Vec<Option<Grant>> = vec![None; entries.len()];
        if attributes {
            // In pieces, so that others get at the table in between.
            for (entries, leased) in entries.chunks(256).zip(leased.chunks_mut(256)) {
                self.leases.with(|table| {
                    for ((_, ino, _), leased) in entries.iter().zip(leased) {
                        *leased = table.acquire_now(session, *ino);
                    }
                });
            }
        }
        let wanted: Vec<Option<Ino>> =
            entries.iter().zip(&leased).map(|((_, ino, _), leased)| leased.map(|_| *ino)).collect();
        let nodes = read_nodes(&self.snapshot()?, &wanted);
        let mut grants = Vec::new();
        let listed = entries.into_iter().zip(leased).zip(nodes).map(|(((name, ino, kind), leased), node)| {
            match (leased, &node) {
                (Some(grant), Some(_)) => grants.push(grant),
                (Some(grant), None) => self.leases.with(|table| table.withdraw(session, grant)),
                (None, _) => {}
            }
            let (attr, content) = node.map_or((None, None), |(attr, content)| (Some(attr), content));
            ListEntry { name, ino, kind, attr, content }
        });
        let entries = listed.collect();
        Ok((QueryAnswer::List { entries, complete }, grants))
    }
}

/// Attributes and content of nodes; `None` for those that are not wanted or cannot be read.
fn read_nodes(now: &Snapshot, wanted: &[Option<Ino>]) -> Vec<Option<NodeRead>> {
    let read = |part: &[Option<Ino>]| -> Vec<Option<NodeRead>> {
        part.iter().map(|ino| ino.and_then(|ino| now.node(ino).ok())).collect()
    };
    let (first, others) = wanted.split_at(wanted.len().min(NODES_EACH));
    std::thread::scope(|scope| {
        let others: Vec<_> = others.chunks(NODES_EACH).map(|part| (part, scope.spawn(move || read(part)))).collect();
        let mut nodes = read(first);
        for (part, other) in others {
            // A thread that panicked has read nothing.
            nodes.extend(other.join().unwrap_or_else(|_| vec![None; part.len()]));
        }
        nodes
    })
}
