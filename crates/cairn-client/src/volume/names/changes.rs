//! Making, linking, moving and removing nodes: here first where leases allow it ([`super::buffered`]), otherwise by a call that
//! the server answers.

use std::sync::Arc;
use std::time::Duration;

use cairn_types::{Attr, Errno, Ino, LeaseMode, MetaOp, Name, NewNode, OpReply, RenameMode, Timestamp};

use super::Names;
use super::lookup::Resolved;
use crate::api::{AttrReply, Caller, Entry, Opened};
use crate::error::FsResult;
use crate::node::Node;
use crate::node::directory::{Cached, Link};

/// Times that a file is made again whose name comes and goes.
const CREATE_ATTEMPTS: u32 = 10;

impl Names {
    /// Takes note that a change of this session made `name` lead to `link`. `outcome` is the change's.
    fn entry_changed(&self, outcome: &FsResult<OpReply>, parent: Ino, name: &Name, link: Option<Link>) {
        let directory = self.remote.nodes.table.get_or_insert(parent);
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
            let directory = self.remote.nodes.table.get_or_insert(parent);
            let state = directory.lock();
            let known = state.directory().is_some_and(|cache| matches!(cache.get(name), Cached::Present(_)));
            if known { self.remote.nodes.entry_time_to_live(&state) } else { Duration::ZERO }
        };
        self.remote.nodes.table.get_or_insert(ino).lock().set_place(parent, name.clone());
        Ok(self.remote.nodes.entry(attr, entry_ttl))
    }

    async fn make(&self, caller: Caller, parent: Ino, name: &Name, node: NewNode, mode: u32) -> FsResult<Entry> {
        self.remote.writable()?;
        if let Some(entry) = self.make_here(caller, parent, name, &node, mode).await? {
            return Ok(entry);
        }
        let directory = self.remote.nodes.table.get_or_insert(parent);
        let ino = self.remote.session.new_ino().await?;
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
        let outcome = self.remote.call(op, &[&directory]).await;
        let link = outcome.as_ref().ok().and_then(|reply| {
            reply.attrs.iter().find(|attr| attr.ino == ino).map(|attr| Link { ino, kind: attr.kind })
        });
        self.entry_changed(&outcome, parent, name, link);
        let reply = outcome?;
        self.remote.nodes.table.get_or_insert(ino).lock().note_created();
        self.new_entry(&reply, parent, ino, name)
    }

    pub(crate) async fn make_node(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        node: NewNode,
        mode: u32,
    ) -> FsResult<Entry> {
        self.make(caller, parent, &name, node, mode).await
    }

    pub(crate) async fn create(
        &self,
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
        let opened = match self.content.open_made(entry.attr.ino, open_flags).await {
            Ok(opened) => opened,
            Err(error) => {
                // The kernel is told nothing of it.
                self.content.forget(entry.attr.ino, 1);
                return Err(error);
            }
        };
        // As of now: opening may have waited for a recall.
        let node = self.remote.nodes.table.get_or_insert(entry.attr.ino);
        let AttrReply { attr, ttl } = self.remote.nodes.told(&node, &entry.attr);
        Ok((Entry { attr, attr_ttl: ttl, ..entry }, opened))
    }

    pub(crate) async fn make_unnamed(
        &self,
        caller: Caller,
        parent: Ino,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        self.remote.writable()?;
        let directory = self.remote.nodes.table.get_or_insert(parent);
        let ino = self.remote.session.new_ino().await?;
        let op = MetaOp::CreateUnnamed {
            parent,
            ino,
            mode: mode & 0o7777,
            umask: caller.umask,
            uid: caller.uid,
            gid: caller.gid,
            time: Timestamp::now(),
        };
        let reply = self.remote.call(op, &[&directory]).await?;
        let Some(attr) = reply.attrs.iter().find(|attr| attr.ino == ino) else { return Err(Errno::EIO.into()) };
        {
            let node = self.remote.nodes.table.get_or_insert(ino);
            let mut state = node.lock();
            state.note_created();
            state.lose_last_name(true);
        }
        let opened = self.content.open_made(ino, open_flags).await?;
        Ok((self.remote.nodes.entry(attr, Duration::ZERO), opened))
    }

    pub(crate) async fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        self.remote.writable()?;
        let node = self.remote.nodes.table.get_or_insert(ino);
        let directory = self.remote.nodes.table.get_or_insert(new_parent);
        if let Some(entry) = self.link_here(&node, &directory, &new_name).await? {
            return Ok(entry);
        }
        // A file that appears under a name must not appear without its content.
        self.writeback.flush_node(&node).await?;
        let op = MetaOp::Link { ino, parent: new_parent, name: new_name.clone(), time: Timestamp::now() };
        let outcome = self.remote.call(op, &[&node, &directory]).await;
        let link = outcome.as_ref().ok().and_then(|reply| {
            reply.attrs.iter().find(|attr| attr.ino == ino).map(|attr| Link { ino, kind: attr.kind })
        });
        self.entry_changed(&outcome, new_parent, &new_name, link);
        let reply = outcome?;
        node.lock().regain_name();
        self.new_entry(&reply, new_parent, ino, &new_name)
    }

    pub(crate) async fn unlink(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.remote.writable()?;
        let directory = self.remote.nodes.table.get_or_insert(parent);
        let (target, attr) = self.target(parent, &name).await?.ok_or(Errno::ENOENT)?;
        if self.unlink_here(&directory, &name, &target).await? {
            return Ok(());
        }
        let keep = target.lock().is_open();
        let time = Timestamp::now();
        let op = MetaOp::Unlink { parent, name: name.clone(), keep, time };
        let outcome = self.remote.call(op, &[&directory, &target]).await;
        self.entry_changed(&outcome, parent, &name, None);
        self.note_removed(&outcome?, keep, Some(Attr { ctime: time, ..attr }));
        Ok(())
    }

    pub(crate) async fn rmdir(&self, parent: Ino, name: Name) -> FsResult<()> {
        self.remote.writable()?;
        let directory = self.remote.nodes.table.get_or_insert(parent);
        let (target, attr) = self.target(parent, &name).await?.ok_or(Errno::ENOENT)?;
        if self.rmdir_here(&directory, &name, &target).await? {
            return Ok(());
        }
        let time = Timestamp::now();
        let op = MetaOp::Rmdir { parent, name: name.clone(), time };
        let outcome = self.remote.call(op, &[&directory, &target]).await;
        self.entry_changed(&outcome, parent, &name, None);
        self.note_removed(&outcome?, false, Some(Attr { ctime: time, size: 0, ..attr }));
        Ok(())
    }

    pub(crate) async fn rename(
        &self,
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    ) -> FsResult<()> {
        self.remote.writable()?;
        let directory = self.remote.nodes.table.get_or_insert(parent);
        let new_directory = self.remote.nodes.table.get_or_insert(new_parent);
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
        let outcome = self.remote.call(op, &nodes).await;
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
                if let Some(cache) = self.remote.nodes.table.get_or_insert(directory).lock().directory_mut() {
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
    fn note_removed(&self, reply: &OpReply, keep: bool, last: Option<Attr>) {
        let Some(ino) = reply.removed else { return };
        let node = self.remote.nodes.table.get_or_insert(ino);
        let release = {
            let mut state = node.lock();
            state.lose_last_name(keep);
            !(if keep { state.is_reachable() } else { state.is_open() })
        };
        if release {
            // What the server keeps without having been asked to, another mount has open.
            let open_elsewhere = reply.attrs.iter().any(|attr| attr.ino == ino);
            self.content.drop_orphan(&node, open_elsewhere);
            if let Some(last) = last.filter(|last| last.ino == ino) {
                node.lock().set_last_attr(last);
            }
        }
    }
}
