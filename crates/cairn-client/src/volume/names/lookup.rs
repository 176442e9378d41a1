//! Whom a name leads to: from the directory's cache, or from the server, which is then asked for the names that follow along
//! with it.

use std::sync::Arc;
use std::time::Duration;

use cairn_types::{Attr, Errno, FileKind, Ino, LeaseMode, Name, limits};
use cairn_wire::Query;
use cairn_wire::message::{Grant, QueryAnswer};

use super::Names;
use crate::api::Lookup;
use crate::error::FsResult;
use crate::node::Node;
use crate::node::directory::{Cached, DirectoryCache, Link};
use crate::stats::add;
use crate::timer::sleep;
use crate::volume::remote::unfitting;

/// Times that a name is looked up again because the lease on the file it leads to was lost before its answer came.
const LOOKUP_ATTEMPTS: u32 = 20;

/// Whom a name leads to, and for how long that holds.
pub(super) enum Resolved {
    Present(Attr, Duration),
    Absent(Duration),
}

/// A name that comes just before `name` in the order of listings, so that a listing after it begins with `name`. It need
/// not exist, and a few names may lie between. `None` where none is easily made.
fn name_before(name: &Name) -> Option<Name> {
    let (last, head) = name.as_bytes().split_last()?;
    // No name holds a slash or a NUL byte.
    let lower = match last.checked_sub(1)? {
        0 => return Name::new(head).ok(),
        b'/' => b'/' - 1,
        lower => lower,
    };
    let mut bytes = head.to_vec();
    bytes.push(lower);
    bytes.resize(limits::NAME_MAX, 0xff);
    Name::new(&bytes).ok()
}

impl Names {
    pub(crate) async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        let mut attempts = 0u32;
        loop {
            let (attr, entry_ttl) = match self.resolve(parent, &name).await? {
                Resolved::Absent(entry_ttl) => return Ok(Lookup::Absent { entry_ttl }),
                Resolved::Present(attr, entry_ttl) => (attr, entry_ttl),
            };
            let node = self.remote.nodes.table.get_or_insert(attr.ino);
            {
                let mut state = node.lock();
                // Under a lease, whoever replaces the file has to ask here first and is told that an open is expected.
                // If a recall has overtaken the answer, the file may be gone by then.
                if attr.kind != FileKind::Regular
                    || state.lease().mode() > LeaseMode::None
                    || attempts == LOOKUP_ATTEMPTS
                {
                    state.set_place(parent, name);
                    drop(state);
                    return Ok(Lookup::Found(self.remote.nodes.entry(&attr, entry_ttl)));
                }
            }
            attempts += 1;
            self.remote.await_recall(&node).await?;
            sleep(&self.remote.runtime, Duration::from_millis(u64::from(attempts))).await;
        }
    }

    /// What the directory's cache says, if its lease covers an answer.
    fn cached(&self, directory: &Node, name: &Name) -> (Cached, Duration) {
        let mut state = directory.lock();
        if !state.covers(LeaseMode::Shared) || !self.remote.session.leases_valid() {
            return (Cached::Unknown, Duration::ZERO);
        }
        let cached = state.directory().map_or(Cached::Unknown, |directory| directory.get(name));
        if cached != Cached::Unknown
            && let Some(directory) = state.directory_mut()
        {
            directory.note_hit();
        }
        (cached, self.remote.nodes.entry_time_to_live(&state))
    }

    pub(super) async fn resolve(&self, parent: Ino, name: &Name) -> FsResult<Resolved> {
        let directory = self.remote.nodes.table.get_or_insert(parent);
        if directory.lock().gone().is_some() {
            return Err(Errno::ENOENT.into());
        }
        self.learn_small_directory(&directory, name).await?;
        match self.cached(&directory, name) {
            (Cached::Absent, entry_ttl) => {
                add(&self.remote.counters.answered_locally, 1);
                return Ok(Resolved::Absent(entry_ttl));
            }
            (Cached::Present(link), entry_ttl) => {
                if let Some(node) = self.remote.nodes.table.get(link.ino) {
                    let state = node.lock();
                    if self.remote.nodes.usable(&state, LeaseMode::Shared)
                        && let Some(attr) = state.view()
                    {
                        add(&self.remote.counters.answered_locally, 1);
                        return Ok(Resolved::Present(attr, entry_ttl));
                    }
                }
            }
            (Cached::Unknown, _) => {}
        }
        // A name that was changed here is known here, unless it was forgotten since.
        if directory.lock().directory().is_some_and(|cache| cache.is_pending(name)) {
            self.remote.journal.flush_changes_of(&[&directory]).await?;
        }
        self.remote.await_recall(&directory).await?;
        let (asked, was_covered, ahead) = {
            let mut state = directory.lock();
            let ahead = state.directory_mut().map_or(0, DirectoryCache::note_miss);
            (state.directory().map(DirectoryCache::epoch), state.covers(LeaseMode::Shared), ahead)
        };
        let (grants, found, others) = self.ask_for_name(&directory, parent, name, ahead).await?;
        let entry_ttl = {
            let mut state = directory.lock();
            // A directory of which only names are asked has no attributes here, and is one all the same.
            state.note_directory();
            let stands = grants.iter().any(|g| g.ino == parent && state.lease().is_newer_than_recalls(g.stamp));
            let keep = state.covers(LeaseMode::Shared) && (was_covered || stands);
            let ttl = self.remote.nodes.entry_time_to_live(&state);
            match state.directory_mut() {
                Some(cache) if keep && asked.unwrap_or(0) == cache.epoch() => {
                    let link = found.map(|attr| Link { ino: attr.ino, kind: attr.kind });
                    cache.learn(cache.epoch(), name.clone(), link);
                    for (name, link) in others {
                        cache.learn(cache.epoch(), name, Some(link));
                    }
                    ttl
                }
                _ => Duration::ZERO,
            }
        };
        Ok(match found {
            Some(attr) => Resolved::Present(
                self.remote.nodes.told(&self.remote.nodes.table.get_or_insert(attr.ino), &attr).attr,
                entry_ttl,
            ),
            None => Resolved::Absent(entry_ttl),
        })
    }

    /// Asks the server who is called `name`, and with `ahead` for up to so many names from it on. Leases and attributes
    /// that come along are taken over.
    async fn ask_for_name(
        &self,
        directory: &Arc<Node>,
        parent: Ino,
        name: &Name,
        ahead: u32,
    ) -> FsResult<(Vec<Grant>, Option<Attr>, Vec<(Name, Link)>)> {
        if ahead > 0
            && let Some(after) = name_before(name)
        {
            let query = Query::List { directory: parent, after: Some(after), limit: ahead, attributes: true };
            let reply = self.remote.query_ahead(query, &[directory]).await?;
            let QueryAnswer::List { mut entries, complete } = reply.answer else { return unfitting(&reply.answer) };
            self.remote.nodes.absorb_listed(parent, &reply.grants, &mut entries);
            let reached = complete || entries.last().is_some_and(|last| last.name >= *name);
            let wanted = entries.iter().find(|entry| entry.name == *name);
            // Without attributes the node is held by somebody else, who has to be asked through the server.
            let answer = match wanted {
                Some(entry) => entry.attr.map(Some),
                None => reached.then_some(None),
            };
            if let Some(found) = answer {
                let links = entries.into_iter().map(|entry| (entry.name, Link { ino: entry.ino, kind: entry.kind }));
                return Ok((reply.grants, found, links.collect()));
            }
        }
        let lookup = Query::Lookup { parent, name: name.clone() };
        let reply = self.remote.query_ahead(lookup, &[directory]).await?;
        let QueryAnswer::Entry(found) = reply.answer else { return unfitting(&reply.answer) };
        let Some((attr, content)) = found else {
            self.remote.nodes.absorb(&reply.grants, &[]);
            return Ok((reply.grants, None, Vec::new()));
        };
        self.remote.nodes.absorb(&reply.grants, &[attr]);
        if let Some(content) = content {
            self.remote.nodes.table.get_or_insert(attr.ino).lock().learn_small_content(&attr, content);
        }
        Ok((reply.grants, Some(attr), Vec::new()))
    }

    /// The node that is called `name`, if any, and if asking is not refused.
    pub(super) async fn target(&self, parent: Ino, name: &Name) -> FsResult<Option<(Arc<Node>, Attr)>> {
        Ok(match self.resolve(parent, name).await? {
            Resolved::Present(attr, _) => Some((self.remote.nodes.table.get_or_insert(attr.ino), attr)),
            Resolved::Absent(_) => None,
        })
    }
}
