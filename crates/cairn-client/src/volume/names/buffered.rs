//! Changes of names that are made here first: under exclusive leases nobody else can see or make a change, so its outcome is
//! known here, and the server hears of it by the journal.
//!
//! Every function answers "not here" (`None`, `false`) where a lease, a name or a rule is missing that it would take to know
//! the outcome; the caller then asks the server. Nodes are locked in the order of their numbers, a node that is just being
//! made last; the journal is entered while they are.

use std::sync::Arc;
use std::time::Duration;

use cairn_locks::MutexGuard;
use cairn_types::{Attr, AttrFlags, FileKind, Ino, Maker, MetaOp, Name, NewNode, RenameMode, Timestamp, limits};

use super::Names;
use crate::api::{Caller, Entry};
use crate::error::FsResult;
use crate::node::directory::{Cached, Link};
use crate::node::{FileState, Life, Node, NodeState, Place};
use crate::writeback::Bringing;

/// Buffered content up to this many bytes goes along with a rename; more is sent before it.
const BROUGHT_MAX: u64 = 1024 * 1024;

/// Several nodes, each locked once.
struct Locked<'node> {
    guards: Vec<(&'node Arc<Node>, MutexGuard<'node, NodeState>)>,
}

impl<'node> Locked<'node> {
    fn new(nodes: &[&'node Arc<Node>]) -> Self {
        let mut nodes = nodes.to_vec();
        nodes.sort_by_key(|node| node.ino);
        nodes.dedup_by_key(|node| node.ino);
        Locked { guards: nodes.into_iter().map(|node| (node, node.lock())).collect() }
    }

    /// `None` for a node that was not locked, which would be a fault of the caller.
    fn get(&mut self, node: &Arc<Node>) -> Option<&mut NodeState> {
        self.guards.iter_mut().find(|(locked, _)| locked.ino == node.ino).map(|(_, state)| &mut **state)
    }

    fn all(&self, holds: impl Fn(&NodeState) -> bool) -> bool {
        self.guards.iter().all(|(_, state)| holds(state))
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.guards.iter().map(|(node, _)| Arc::clone(node)).collect()
    }

    /// One of them, for its content to go along with the change.
    fn bringing(&mut self, node: &Arc<Node>) -> Option<Bringing<'_>> {
        let (node, state) = self.guards.iter_mut().find(|(locked, _)| locked.ino == node.ino)?;
        Some(Bringing { node, state })
    }

    /// Counts a change of all of them.
    fn begin_change(&mut self) {
        for (_, state) in &mut self.guards {
            state.begin_change();
        }
    }
}

/// What is known of a name in a directory whose lease covers it.
fn known(directory: &NodeState, name: &Name) -> Cached {
    directory.directory().map_or(Cached::Unknown, |cache| cache.get(name))
}

fn leads_to(directory: &NodeState, name: &Name, node: &Node) -> bool {
    matches!(known(directory, name), Cached::Present(link) if link.ino == node.ino)
}

/// A directory in which `name` is known to be free.
fn has_free(directory: &NodeState, name: &Name) -> bool {
    directory.attr().is_some_and(Attr::is_dir) && known(directory, name) == Cached::Absent
}

fn change_name(directory: &mut NodeState, name: &Name, link: Option<Link>) {
    if let Some(cache) = directory.directory_mut() {
        cache.change_here(name.clone(), link);
    }
}

/// Little content, of which no flush is under way.
fn can_be_brought(file: &FileState) -> bool {
    file.is_quiet() && file.overlay().bytes() <= BROUGHT_MAX
}

/// Whether nothing is lost with the last name of a file that others may have open.
fn may_go(state: &NodeState) -> bool {
    state.lease().is_since_birth() || state.file().is_none_or(FileState::is_flushed)
}

impl Names {
    fn can_make(&self, directory: &NodeState, name: &Name) -> bool {
        self.remote.may_change_here(directory)
            && has_free(directory, name)
            && directory.attr().is_some_and(|attr| !attr.flags.contains(AttrFlags::HAS_ACL))
    }

    pub(super) async fn make_here(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        new: &NewNode,
        mode: u32,
    ) -> FsResult<Option<Entry>> {
        let directory = self.remote.nodes.table.get_or_insert(parent);
        if !self.can_make(&directory.lock(), name)
            || matches!(new, NewNode::Symlink(target) if target.is_empty() || target.len() > limits::SYMLINK_MAX)
        {
            return Ok(None);
        }
        self.remote.journal.wait_for_space().await?;
        if !self.space.reserve_node().await? {
            return Ok(None);
        }
        let generation = self.remote.session.generation();
        let ino = match self.remote.session.new_ino().await {
            Ok(ino) => ino,
            Err(errno) => {
                self.space.reservation.release_node(false);
                return Err(errno);
            }
        };
        let made = self.remote.nodes.table.get_or_insert(ino);
        let maker = Maker { mode, umask: caller.umask, uid: caller.uid, gid: caller.gid, time: Timestamp::now() };
        let (attr, entry_ttl) = {
            let mut state = directory.lock();
            let Some(parent_attr) = state.attr().filter(|_| self.can_make(&state, name)) else {
                self.space.reservation.release_node(false);
                return Ok(None);
            };
            let attr = parent_attr.born_here(ino, new, &maker, false);
            state.begin_change();
            state.alter_attr(|parent| parent.add_entry(attr.kind, maker.time));
            change_name(&mut state, name, Some(Link { ino, kind: attr.kind }));
            made.lock_new().create_local(attr, Place { parent, name: name.clone() }, self.remote.nodes.chunk_size());
            let op = MetaOp::Create {
                parent,
                name: name.clone(),
                ino,
                node: new.clone(),
                mode: mode & 0o7777,
                umask: caller.umask,
                uid: caller.uid,
                gid: caller.gid,
                time: maker.time,
            };
            self.remote.journal.enter(op, vec![Arc::clone(&directory), Arc::clone(&made)], generation, None);
            (attr, self.remote.nodes.entry_time_to_live(&state))
        };
        Ok(Some(self.remote.nodes.entry(&attr, entry_ttl)))
    }

    pub(super) async fn unlink_here(&self, directory: &Arc<Node>, name: &Name, target: &Arc<Node>) -> FsResult<bool> {
        self.remote.journal.wait_for_space().await?;
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let last = {
            let mut locked = Locked::new(&[directory, target]);
            if !locked.all(|state| self.remote.may_change_here(state)) {
                return Ok(false);
            }
            let Some(state) = locked.get(target) else { return Ok(false) };
            let unlinkable = |attr: &&Attr| !attr.is_dir() && (attr.nlink > 1 || may_go(state));
            let Some(kind) = state.attr().filter(unlinkable).map(|attr| attr.kind) else { return Ok(false) };
            let keep = state.is_open();
            if !locked.get(directory).is_some_and(|parent| parent.attr().is_some() && leads_to(parent, name, target)) {
                return Ok(false);
            }
            locked.begin_change();
            if let Some(parent) = locked.get(directory) {
                parent.alter_attr(|attr| attr.remove_entry(kind, time));
                change_name(parent, name, None);
            }
            let last = locked.get(target).is_some_and(|state| unlink(state, keep, time));
            let op = MetaOp::Unlink { parent: directory.ino, name: name.clone(), keep, time };
            self.remote.journal.enter(op, locked.nodes(), generation, None);
            last
        };
        if last {
            self.let_go(target);
        }
        Ok(true)
    }

    /// Lets go of a node whose last name has just gone, unless it is open or was kept because it is about to be.
    fn let_go(&self, node: &Arc<Node>) {
        let gone = {
            let state = node.lock();
            !state.is_open() && (state.life() == Life::Gone || state.is_kept_for_nobody())
        };
        if gone {
            self.content.drop_orphan(node, false);
        }
    }

    pub(super) async fn rmdir_here(&self, directory: &Arc<Node>, name: &Name, target: &Arc<Node>) -> FsResult<bool> {
        self.remote.journal.wait_for_space().await?;
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let mut locked = Locked::new(&[directory, target]);
        if !locked.all(|state| self.remote.may_change_here(state)) {
            return Ok(false);
        }
        let is_empty = |attr: &Attr| attr.is_dir() && attr.size == 0;
        if !locked.get(target).is_some_and(|state| state.attr().is_some_and(is_empty))
            || !locked.get(directory).is_some_and(|parent| parent.attr().is_some() && leads_to(parent, name, target))
        {
            return Ok(false);
        }
        locked.begin_change();
        if let Some(parent) = locked.get(directory) {
            parent.alter_attr(|attr| attr.remove_entry(FileKind::Directory, time));
            change_name(parent, name, None);
        }
        if let Some(state) = locked.get(target) {
            remove_directory(state, time);
        }
        let op = MetaOp::Rmdir { parent: directory.ino, name: name.clone(), time };
        self.remote.journal.enter(op, locked.nodes(), generation, None);
        drop(locked);
        self.let_go(target);
        Ok(true)
    }

    /// Sends content beforehand that cannot go along with a new name of its file.
    async fn send_unbringable(&self, node: &Arc<Node>) -> FsResult<()> {
        let flush = node.lock().file().is_some_and(|file| !can_be_brought(file));
        if flush { self.writeback.flush_node(node).await } else { Ok(()) }
    }

    /// Whether a file that gets a new name must bring its content along. `None` if that cannot be.
    fn must_bring(state: &NodeState) -> Option<bool> {
        match state.file() {
            Some(file) if !can_be_brought(file) => None,
            Some(file) => Some(!file.is_clean()),
            None => Some(false),
        }
    }

    pub(super) async fn rename_here(
        &self,
        [from, to]: [&Arc<Node>; 2],
        [name, new_name]: [&Name; 2],
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
        mode: RenameMode,
    ) -> FsResult<bool> {
        self.remote.journal.wait_for_space().await?;
        self.send_unbringable(source).await?;
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let mut nodes = vec![from, to, source];
        nodes.extend(target);
        let mut locked = Locked::new(&nodes);
        if !locked.all(|state| self.remote.may_change_here(state))
            || target.is_some_and(|target| target.ino == source.ino || mode == RenameMode::NoReplace)
        {
            return Ok(false);
        }
        let Some(moved) = locked.get(source).and_then(|state| state.attr().copied()) else { return Ok(false) };
        // Whether it would become its own ancestor takes the whole tree to know.
        if moved.is_dir() && from.ino != to.ino {
            return Ok(false);
        }
        let fits = |state: &NodeState| match state.attr() {
            Some(attr) if attr.is_dir() => moved.is_dir() && attr.size == 0,
            Some(attr) => !moved.is_dir() && (attr.nlink > 1 || may_go(state)),
            None => false,
        };
        let names_known = locked.get(from).is_some_and(|state| leads_to(state, name, source))
            && locked.get(to).is_some_and(|state| match target {
                Some(target) => leads_to(state, new_name, target),
                None => has_free(state, new_name),
            });
        if !names_known || !target.is_none_or(|target| locked.get(target).is_some_and(|state| fits(state))) {
            return Ok(false);
        }
        let Some(state) = locked.get(source) else { return Ok(false) };
        let Some(brings) = Self::must_bring(state) else { return Ok(false) };
        locked.begin_change();
        if let Some(state) = locked.get(source) {
            state.alter_attr(|attr| attr.ctime = time);
            state.set_place(to.ino, new_name.clone());
        }
        let mut keep = false;
        let mut replaced = None;
        let mut gone = false;
        if let Some(state) = target.and_then(|target| locked.get(target)) {
            // As for a rename at the server: a program may be on its way from the name to the open file.
            keep = state.is_reachable() && !moved.is_dir();
            replaced = state.attr().map(|attr| attr.kind);
            gone = if moved.is_dir() { remove_directory(state, time) } else { unlink(state, keep, time) };
        }
        if let Some(state) = locked.get(from) {
            state.alter_attr(|attr| attr.remove_entry(moved.kind, time));
            change_name(state, name, None);
        }
        if let Some(state) = locked.get(to) {
            state.alter_attr(|attr| {
                if let Some(kind) = replaced {
                    attr.remove_entry(kind, time);
                }
                attr.add_entry(moved.kind, time);
            });
            change_name(state, new_name, Some(Link { ino: source.ino, kind: moved.kind }));
        }
        let op = MetaOp::Rename {
            parent: from.ino,
            name: name.clone(),
            new_parent: to.ino,
            new_name: new_name.clone(),
            mode,
            keep,
            time,
        };
        let nodes = locked.nodes();
        self.remote.journal.enter(op, nodes, generation, locked.bringing(source).filter(|_| brings));
        drop(locked);
        if let Some(target) = target.filter(|_| gone) {
            self.let_go(target);
        }
        Ok(true)
    }

    pub(super) async fn link_here(
        &self,
        node: &Arc<Node>,
        directory: &Arc<Node>,
        name: &Name,
    ) -> FsResult<Option<Entry>> {
        self.remote.journal.wait_for_space().await?;
        self.send_unbringable(node).await?;
        let generation = self.remote.session.generation();
        let time = Timestamp::now();
        let (attr, entry_ttl) = {
            let mut locked = Locked::new(&[node, directory]);
            if !locked.all(|state| self.remote.may_change_here(state))
                || !locked.get(directory).is_some_and(|state| has_free(state, name))
            {
                return Ok(None);
            }
            let Some(state) = locked.get(node) else { return Ok(None) };
            let linkable = |attr: &Attr| (1..limits::LINK_MAX).contains(&attr.nlink) && !attr.is_dir();
            let Some(mut attr) = state.attr().copied().filter(linkable) else { return Ok(None) };
            let Some(brings) = Self::must_bring(state) else { return Ok(None) };
            attr.nlink += 1;
            attr.ctime = time;
            locked.begin_change();
            if let Some(state) = locked.get(node) {
                state.alter_attr(|known| *known = attr);
                state.set_place(directory.ino, name.clone());
            }
            let mut entry_ttl = Duration::ZERO;
            if let Some(parent) = locked.get(directory) {
                parent.alter_attr(|attr| attr.add_entry(FileKind::Regular, time));
                change_name(parent, name, Some(Link { ino: node.ino, kind: attr.kind }));
                entry_ttl = self.remote.nodes.entry_time_to_live(parent);
            }
            let op = MetaOp::Link { ino: node.ino, parent: directory.ino, name: name.clone(), time };
            let nodes = locked.nodes();
            self.remote.journal.enter(op, nodes, generation, locked.bringing(node).filter(|_| brings));
            (attr, entry_ttl)
        };
        Ok(Some(self.remote.nodes.entry(&attr, entry_ttl)))
    }
}

/// Takes one of its names from a file. Whether it was the last; `keep`: then its content stays for who has it open.
fn unlink(state: &mut NodeState, keep: bool, time: Timestamp) -> bool {
    state.alter_attr(|attr| {
        attr.nlink = attr.nlink.saturating_sub(1);
        attr.ctime = time;
    });
    let last = state.attr().is_some_and(|attr| attr.nlink == 0);
    if last {
        state.lose_last_name(keep);
    }
    last
}

/// Takes its name from an empty directory. It has no other.
fn remove_directory(state: &mut NodeState, time: Timestamp) -> bool {
    state.alter_attr(|attr| {
        attr.nlink = 0;
        attr.ctime = time;
    });
    state.lose_last_name(false);
    true
}
