//! Names: looking them up, and making, linking, moving and removing nodes: here first where leases allow it
//! ([`super::buffered`]), otherwise by a call that the server answers.

use std::sync::Arc;
use std::time::Duration;

use cairn_types::{
    Attr, Errno, FileKind, Ino, LeaseMode, MetaOp, Name, NewNode, OpReply, RenameMode, Timestamp, limits,
};
use cairn_wire::Query;
use cairn_wire::message::{Grant, QueryAnswer};

use super::Mount;
use super::core::unfitting;
use crate::api::{Caller, Entry, Lookup, Opened};
use crate::error::FsResult;
use crate::node::Node;
use crate::node::directory::{Cached, DirectoryCache, Link};
use crate::stats::add;
use crate::timer::sleep;

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

/// Times that a name is looked up again because the lease on the file it leads to was lost before its answer came.
const LOOKUP_ATTEMPTS: u32 = 20;

/// Times that a file is made again whose name comes and goes.
const CREATE_ATTEMPTS: u32 = 10;

/// Whom a name leads to, and for how long that holds.
enum Resolved {
    Present(Attr, Duration),
    Absent(Duration),
}

impl Mount {
    pub(crate) async fn lookup(self: &Arc<Self>, parent: Ino, name: Name) -> FsResult<Lookup> {
        let mut attempts = 0u32;
        loop {
            let (attr, entry_ttl) = match self.resolve(parent, &name).await? {
                Resolved::Absent(entry_ttl) => return Ok(Lookup::Absent { entry_ttl }),
                Resolved::Present(attr, entry_ttl) => (attr, entry_ttl),
            };
            let node = self.nodes.table.get_or_insert(attr.ino);
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
                    return Ok(Lookup::Found(self.nodes.entry(&attr, entry_ttl)));
                }
            }
            attempts += 1;
            self.await_recall(&node).await?;
            sleep(&self.runtime, Duration::from_millis(u64::from(attempts))).await;
        }
    }

    /// What the directory's cache says, if its lease covers an answer.
    fn cached(&self, directory: &Node, name: &Name) -> (Cached, Duration) {
        let mut state = directory.lock();
        if !state.covers(LeaseMode::Shared) || !self.session.leases_valid() {
            return (Cached::Unknown, Duration::ZERO);
        }
        let cached = state.directory().map_or(Cached::Unknown, |directory| directory.get(name));
        if cached != Cached::Unknown
            && let Some(directory) = state.directory_mut()
        {
            directory.note_hit();
        }
        (cached, self.nodes.entry_time_to_live(&state))
    }

    async fn resolve(self: &Arc<Self>, parent: Ino, name: &Name) -> FsResult<Resolved> {
        let directory = self.nodes.table.get_or_insert(parent);
        if directory.lock().gone().is_some() {
            return Err(Errno::ENOENT.into());
        }
        self.learn_small_directory(&directory, name).await?;
        match self.cached(&directory, name) {
            (Cached::Absent, entry_ttl) => {
                add(&self.counters.answered_locally, 1);
                return Ok(Resolved::Absent(entry_ttl));
            }
            (Cached::Present(link), entry_ttl) => {
                if let Some(node) = self.nodes.table.get(link.ino) {
                    let state = node.lock();
                    if self.nodes.usable(&state, LeaseMode::Shared)
                        && let Some(attr) = state.view()
                    {
                        add(&self.counters.answered_locally, 1);
                        return Ok(Resolved::Present(attr, entry_ttl));
                    }
                }
            }
            (Cached::Unknown, _) => {}
        }
        // A name that was changed here is known here, unless it was forgotten since.
        if directory.lock().directory().is_some_and(|cache| cache.is_pending(name)) {
            self.journal.flush_changes_of(&[&directory]).await?;
        }
        self.await_recall(&directory).await?;
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
            let ttl = self.nodes.entry_time_to_live(&state);
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
            Some(attr) => {
                Resolved::Present(self.nodes.told(&self.nodes.table.get_or_insert(attr.ino), &attr).attr, entry_ttl)
            }
            None => Resolved::Absent(entry_ttl),
        })
    }

    /// Asks the server who is called `name`, and with `ahead` for up to so many names from it on. Leases and attributes
    /// that come along are taken over.
    async fn ask_for_name(
        self: &Arc<Self>,
        directory: &Arc<Node>,
        parent: Ino,
        name: &Name,
        ahead: u32,
    ) -> FsResult<(Vec<Grant>, Option<Attr>, Vec<(Name, Link)>)> {
        if ahead > 0
            && let Some(after) = name_before(name)
        {
            let query = Query::List { directory: parent, after: Some(after), limit: ahead, attributes: true };
            let reply = self.query_ahead(query, &[directory]).await?;
            let QueryAnswer::List { mut entries, complete } = reply.answer else { return unfitting(&reply.answer) };
            self.nodes.absorb_listed(parent, &reply.grants, &mut entries);
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
        let reply = self.query_ahead(lookup, &[directory]).await?;
        let QueryAnswer::Entry(found) = reply.answer else { return unfitting(&reply.answer) };
        let Some((attr, content)) = found else {
            self.nodes.absorb(&reply.grants, &[]);
            return Ok((reply.grants, None, Vec::new()));
        };
        self.nodes.absorb(&reply.grants, &[attr]);
        if let Some(content) = content {
            self.nodes.table.get_or_insert(attr.ino).lock().learn_small_content(&attr, content);
        }
        Ok((reply.grants, Some(attr), Vec::new()))
    }

    /// The node that is called `name`, if any, and if asking is not refused.
    async fn target(self: &Arc<Self>, parent: Ino, name: &Name) -> FsResult<Option<(Arc<Node>, Attr)>> {
        Ok(match self.resolve(parent, name).await? {
            Resolved::Present(attr, _) => Some((self.nodes.table.get_or_insert(attr.ino), attr)),
            Resolved::Absent(_) => None,
        })
    }

    /// Takes note that a change of this session made `name` lead to `link`. `outcome` is the change's.
    fn entry_changed(&self, outcome: &FsResult<OpReply>, parent: Ino, name: &Name, link: Option<Link>) {
        let directory = self.nodes.table.get_or_insert(parent);
        let mut state = directory.lock();
        let covered = state.covers(LeaseMode::Shared);
        let Some(cache) = state.directory_mut() else { return };
        match outcome {
            Ok(reply) if covered => {
                let version = reply.attrs.iter().find(|attr| attr.ino == parent).map_or(u64::MAX, |attr| attr.version);
                cache.change(version, name.clone(), link);
            }
            Err(error) if !error.may_have_happened() => {
                // The server knows better than the cache which names are there.
                if matches!(error.errno(), Errno::EEXIST | Errno::ENOENT) {
                    cache.forget_name(name);
                }
            }
            _ => cache.forget_name(name),
        }
    }

    /// The entry of a node that was just made or linked.
    fn new_entry(&self, reply: &OpReply, parent: Ino, ino: Ino, name: &Name) -> FsResult<Entry> {
        let Some(attr) = reply.attrs.iter().find(|attr| attr.ino == ino) else { return Err(Errno::EIO.into()) };
        let entry_ttl = {
            let directory = self.nodes.table.get_or_insert(parent);
            let state = directory.lock();
            let known = state.directory().is_some_and(|cache| matches!(cache.get(name), Cached::Present(_)));
            if known { self.nodes.entry_time_to_live(&state) } else { Duration::ZERO }
        };
        self.nodes.table.get_or_insert(ino).lock().set_place(parent, name.clone());
        Ok(self.nodes.entry(attr, entry_ttl))
    }

    async fn make(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: &Name,
        node: NewNode,
        mode: u32,
    ) -> FsResult<Entry> {
        self.writable()?;
        if let Some(entry) = self.make_here(caller, parent, name, &node, mode).await? {
            return Ok(entry);
        }
        let directory = self.nodes.table.get_or_insert(parent);
        let ino = self.session.new_ino().await?;
        let op = MetaOp::Create {
            parent,
            name: name.clone(),
            ino,
            node,
            mode: mode & 0o7777,
            umask: caller.umask,
            uid: caller.uid,
            gid: caller.gid,
            time: Timestamp::now(),
        };
        let outcome = self.call(op, &[&directory]).await;
        let link = outcome.as_ref().ok().and_then(|reply| {
            reply.attrs.iter().find(|attr| attr.ino == ino).map(|attr| Link { ino, kind: attr.kind })
        });
        self.entry_changed(&outcome, parent, name, link);
        let reply = outcome?;
        self.nodes.table.get_or_insert(ino).lock().note_created();
        self.new_entry(&reply, parent, ino, name)
    }

    pub(crate) async fn make_node(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u32,
    ) -> FsResult<Entry> {
        self.make(caller, parent, &name, node, mode).await
    }

    pub(crate) async fn create(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        let mut attempts = 0;
        let entry = loop {
            match self.make(caller, parent, &name, NewNode::Regular, mode).await {
                // Another mount was faster. Without O_EXCL the program wants that file: the kernel looks again, follows
                // what it finds there and checks permissions.
                Err(error) if error == Errno::EEXIST && open_flags & libc::O_EXCL == 0 => {
                    attempts += 1;
                    if attempts > CREATE_ATTEMPTS || matches!(self.resolve(parent, &name).await?, Resolved::Present(..))
                    {
                        return Err(Errno::ESTALE.into());
                    }
                }
                outcome => break outcome?,
            }
        };
        let opened = self.open_made(entry.attr.ino, open_flags).await?;
        Ok((entry, opened))
    }

    pub(crate) async fn make_unnamed(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        self.writable()?;
        let directory = self.nodes.table.get_or_insert(parent);
        let ino = self.session.new_ino().await?;
        let op = MetaOp::CreateUnnamed {
            parent,
            ino,
            mode: mode & 0o7777,
            umask: caller.umask,
            uid: caller.uid,
            gid: caller.gid,
            time: Timestamp::now(),
        };
        let reply = self.call(op, &[&directory]).await?;
        let Some(attr) = reply.attrs.iter().find(|attr| attr.ino == ino) else { return Err(Errno::EIO.into()) };
        {
            let node = self.nodes.table.get_or_insert(ino);
            let mut state = node.lock();
            state.note_created();
            state.lose_last_name(true);
        }
        let entry = self.nodes.entry(attr, Duration::ZERO);
        let opened = self.open_made(ino, open_flags).await?;
        Ok((entry, opened))
    }

    pub(crate) async fn link(self: &Arc<Self>, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        self.writable()?;
        let node = self.nodes.table.get_or_insert(ino);
        let directory = self.nodes.table.get_or_insert(new_parent);
        if let Some(entry) = self.link_here(&node, &directory, &new_name).await? {
            return Ok(entry);
        }
        // A file that appears under a name must not appear without its content.
        self.writeback.flush_node(&node).await?;
        let op = MetaOp::Link { ino, parent: new_parent, name: new_name.clone(), time: Timestamp::now() };
        let outcome = self.call(op, &[&node, &directory]).await;
        let link = outcome.as_ref().ok().and_then(|reply| {
            reply.attrs.iter().find(|attr| attr.ino == ino).map(|attr| Link { ino, kind: attr.kind })
        });
        self.entry_changed(&outcome, new_parent, &new_name, link);
        let reply = outcome?;
        node.lock().regain_name();
        self.new_entry(&reply, new_parent, ino, &new_name)
    }

    pub(crate) async fn unlink(self: &Arc<Self>, parent: Ino, name: Name) -> FsResult<()> {
        self.writable()?;
        let directory = self.nodes.table.get_or_insert(parent);
        let (target, attr) = self.target(parent, &name).await?.ok_or(Errno::ENOENT)?;
        if self.unlink_here(&directory, &name, &target).await? {
            return Ok(());
        }
        let keep = target.lock().is_open();
        let time = Timestamp::now();
        let op = MetaOp::Unlink { parent, name: name.clone(), keep, time };
        let outcome = self.call(op, &[&directory, &target]).await;
        self.entry_changed(&outcome, parent, &name, None);
        self.note_removed(&outcome?, keep, Some(Attr { ctime: time, ..attr }));
        Ok(())
    }

    pub(crate) async fn rmdir(self: &Arc<Self>, parent: Ino, name: Name) -> FsResult<()> {
        self.writable()?;
        let directory = self.nodes.table.get_or_insert(parent);
        let (target, attr) = self.target(parent, &name).await?.ok_or(Errno::ENOENT)?;
        if self.rmdir_here(&directory, &name, &target).await? {
            return Ok(());
        }
        let time = Timestamp::now();
        let op = MetaOp::Rmdir { parent, name: name.clone(), time };
        let outcome = self.call(op, &[&directory, &target]).await;
        self.entry_changed(&outcome, parent, &name, None);
        self.note_removed(&outcome?, false, Some(Attr { ctime: time, size: 0, ..attr }));
        Ok(())
    }

    pub(crate) async fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> FsResult<()> {
        self.writable()?;
        let directory = self.nodes.table.get_or_insert(parent);
        let new_directory = self.nodes.table.get_or_insert(new_parent);
        let (source, _) = self.target(parent, &name).await?.ok_or(Errno::ENOENT)?;
        let (target, target_attr) = self.target(new_parent, &new_name).await?.unzip();
        if mode != RenameMode::Exchange
            && self
                .rename_here([&directory, &new_directory], [&name, &new_name], &source, target.as_ref(), mode)
                .await?
        {
            return Ok(());
        }
        // After a crash the new name must not lead to a file that is emptier than what it replaced.
        self.writeback.flush_node(&source).await?;
        if mode == RenameMode::Exchange
            && let Some(target) = &target
        {
            self.writeback.flush_node(target).await?;
        }
        let replaced = target.as_ref().filter(|_| mode != RenameMode::Exchange);
        // A program may have come to it by its name, and open it only now: the name never leads to nothing.
        let keep = replaced.is_some_and(|node| {
            let state = node.lock();
            state.is_reachable() && state.attr().is_some_and(|attr| !attr.is_dir())
        });
        let kind_of = |node: &Arc<Node>| node.lock().attr().map(|attr| Link { ino: node.ino, kind: attr.kind });
        let (source_link, target_link) = (kind_of(&source), target.as_ref().and_then(kind_of));
        let time = Timestamp::now();
        let op =
            MetaOp::Rename { parent, name: name.clone(), new_parent, new_name: new_name.clone(), mode, keep, time };
        let mut nodes = vec![&directory, &new_directory, &source];
        nodes.extend(&target);
        let outcome = self.call(op, &nodes).await;
        self.note_renamed(&outcome, (parent, &name, source_link), (new_parent, &new_name, target_link), mode);
        self.note_removed(&outcome?, keep, target_attr.map(|attr| Attr { ctime: time, ..attr }));
        source.lock().set_place(new_parent, new_name);
        Ok(())
    }

    fn note_renamed(
        &self,
        outcome: &FsResult<OpReply>,
        (parent, name, source): (Ino, &Name, Option<Link>),
        (new_parent, new_name, target): (Ino, &Name, Option<Link>),
        mode: RenameMode,
    ) {
        let subject = outcome.as_ref().ok().and_then(|reply| reply.subject);
        let as_expected =
            outcome.is_err() || (source.is_some() && subject.is_none_or(|ino| Some(ino) == source.map(|s| s.ino)));
        let same = source.is_some() && source.map(|link| link.ino) == target.map(|link| link.ino);
        if !as_expected || same || (mode == RenameMode::Exchange && target.is_none()) {
            // Another mount changed a name in between, or both lead to one node: ask again.
            for (directory, name) in [(parent, name), (new_parent, new_name)] {
                if let Some(cache) = self.nodes.table.get_or_insert(directory).lock().directory_mut() {
                    cache.forget_name(name);
                }
            }
            return;
        }
        let left_behind = if mode == RenameMode::Exchange { target } else { None };
        self.entry_changed(outcome, parent, name, left_behind);
        self.entry_changed(outcome, new_parent, new_name, source);
    }

    /// Takes note of a node whose last name went with a change. `keep`: its content was asked to stay. `last`: what its
    /// attributes are now, if it is the node that was expected to go.
    fn note_removed(self: &Arc<Self>, reply: &OpReply, keep: bool, last: Option<Attr>) {
        let Some(ino) = reply.removed else { return };
        let node = self.nodes.table.get_or_insert(ino);
        let release = {
            let mut state = node.lock();
            state.lose_last_name(keep);
            !(if keep { state.is_reachable() } else { state.is_open() })
        };
        if release {
            // What the server keeps without having been asked to, another mount has open.
            let open_elsewhere = reply.attrs.iter().any(|attr| attr.ino == ino);
            self.drop_orphan(&node, open_elsewhere);
            if let Some(last) = last.filter(|last| last.ino == ino) {
                node.lock().set_last_attr(last);
            }
        }
    }
}
