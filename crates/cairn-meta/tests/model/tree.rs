//! A tree in memory, as simple as it can be: what a volume must look like.

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::{Errno, FileKind, FsResult, Ino, RenameMode, SessionId};

/// Where the bytes of a unit come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Hole,
    Zeros,
    /// Unit of a blob.
    Blob(u64, u32),
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(Vec<Unit>, u64),
    Directory(BTreeMap<String, Ino>, Ino),
    Link,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) names: u32,
    pub(crate) pins: BTreeSet<SessionId>,
    pub(crate) linkable: bool,
    pub(crate) attributes: BTreeSet<String>,
}

impl Node {
    pub(crate) fn kind(&self) -> FileKind {
        match self.body {
            Body::File(..) => FileKind::Regular,
            Body::Directory(..) => FileKind::Directory,
            Body::Link => FileKind::Symlink,
        }
    }
}

/// The tree, as simple as it can be.
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<Ino, Node>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Model { nodes: BTreeMap::new() };
        model.add(Ino::ROOT, Body::Directory(BTreeMap::new(), Ino::ROOT));
        model
    }

    pub(crate) fn add(&mut self, ino: Ino, body: Body) {
        let names = u32::from(ino == Ino::ROOT);
        let node = Node { body, names, pins: BTreeSet::new(), linkable: false, attributes: BTreeSet::new() };
        self.nodes.insert(ino, node);
    }

    pub(crate) fn node(&self, ino: Ino) -> FsResult<&Node> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    pub(crate) fn directory(&self, ino: Ino) -> FsResult<&BTreeMap<String, Ino>> {
        match &self.node(ino)?.body {
            Body::Directory(entries, _) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn entries(&mut self, ino: Ino) -> &mut BTreeMap<String, Ino> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::Directory(entries, _)) => entries,
            _ => panic!("{ino} was checked to be a directory"),
        }
    }

    pub(crate) fn file(&self, ino: Ino) -> FsResult<(&Vec<Unit>, u64)> {
        match &self.node(ino)?.body {
            Body::File(units, size) => Ok((units, *size)),
            Body::Directory(..) => Err(Errno::EISDIR),
            Body::Link => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn file_mut(&mut self, ino: Ino, units: u64) -> (&mut Vec<Unit>, &mut u64) {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::File(content, size)) => {
                let length = content.len().max(units as usize);
                content.resize(length, Unit::Hole);
                (content, size)
            }
            _ => panic!("{ino} was checked to be a file"),
        }
    }

    pub(crate) fn attach(&mut self, parent: Ino, text: &str, ino: Ino) {
        self.entries(parent).insert(text.to_owned(), ino);
        let node = self.nodes.get_mut(&ino).expect("attached nodes exist");
        node.names += 1;
        if let Body::Directory(_, holder) = &mut node.body {
            *holder = parent;
        }
    }

    pub(crate) fn detach(&mut self, parent: Ino, text: &str) -> Ino {
        let ino = self.entries(parent).remove(text).expect("checked to exist");
        self.nodes.get_mut(&ino).expect("it has a name").names -= 1;
        ino
    }

    pub(crate) fn bury(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.names == 0 && node.pins.is_empty()) {
            self.nodes.remove(&ino);
        }
    }

    pub(crate) fn is_within(&self, mut directory: Ino, ancestor: Ino) -> bool {
        loop {
            if directory == ancestor {
                return true;
            }
            match self.nodes.get(&directory).map(|node| &node.body) {
                Some(Body::Directory(_, parent)) if directory != Ino::ROOT => directory = *parent,
                _ => return false,
            }
        }
    }

    pub(crate) fn rename(
        &mut self,
        (parent, from): (Ino, &str),
        (new_parent, to): (Ino, &str),
        mode: RenameMode,
        holder: Option<SessionId>,
    ) -> FsResult<()> {
        self.directory(parent)?;
        self.directory(new_parent)?;
        let moved = *self.directory(parent)?.get(from).ok_or(Errno::ENOENT)?;
        let there = self.directory(new_parent)?.get(to).copied();
        let is_directory = |ino| matches!(self.nodes[&ino].body, Body::Directory(..));
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        if self.is_within(new_parent, moved) {
            return Err(Errno::EINVAL);
        }
        if let Some(there) = there {
            if self.is_within(parent, there) {
                return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if there == moved {
                return Ok(());
            }
            if mode == RenameMode::Exchange {
                self.detach(parent, from);
                self.detach(new_parent, to);
                self.attach(parent, from, there);
                self.attach(new_parent, to, moved);
                return Ok(());
            }
            match (is_directory(moved), is_directory(there)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.directory(there)?.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
            self.detach(new_parent, to);
            self.leave(there, holder);
        }
        self.detach(parent, from);
        self.attach(new_parent, to, moved);
        Ok(())
    }

    /// A node lost a name.
    pub(crate) fn leave(&mut self, ino: Ino, holder: Option<SessionId>) {
        let node = self.nodes.get_mut(&ino).expect("it had a name");
        if node.names == 0 && node.kind() != FileKind::Directory {
            node.pins.extend(holder);
        }
        self.bury(ino);
    }

    pub(crate) fn links(&self, ino: Ino) -> u32 {
        match &self.nodes[&ino].body {
            Body::Directory(entries, _) => {
                2 + entries.values().filter(|child| self.nodes[child].kind() == FileKind::Directory).count() as u32
            }
            _ => self.nodes[&ino].names,
        }
    }
}
