//! Names against nodes: every name leads somewhere, every node is led to as often as it says, all hangs on the root.

use std::collections::{HashMap, HashSet};

use cairn_types::{AttrFlags, FileKind, Ino, SessionId};

use super::cursor::Cursor;
use super::{Check, Problem};
use crate::edit::xattr_flags;
use crate::error::StoreError;
use crate::layout;
use crate::record::{EntryRecord, InodeRecord, SessionRecord};
use crate::view::Rows;

const ENTRY: &str = "entry";
const INODE: &str = "inode";

/// What the names say of the nodes.
#[derive(Default)]
struct Names {
    /// For each name, the node it leads to and the kind it says (as the number that is stored); sorted.
    links: Vec<(Ino, u8)>,
    /// For each directory with entries: their number, and how many are directories; sorted.
    directories: Vec<(Ino, u64, u32)>,
    /// For each directory that has a name: the directories that hold its names.
    holders: HashMap<Ino, Vec<Ino>>,
}

/// What needs the names themselves to be told; looked up only if there is any.
#[derive(Default)]
struct Suspects {
    missing: HashSet<Ino>,
    other_kind: HashMap<Ino, FileKind>,
    not_directories: HashSet<Ino>,
    /// Directory and the one directory in which its name is to stay.
    extra_names: HashMap<Ino, Ino>,
}

impl Suspects {
    fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.other_kind.is_empty()
            && self.not_directories.is_empty()
            && self.extra_names.is_empty()
    }
}

impl Check<'_> {
    pub(super) fn tree(&mut self) -> Result<(), StoreError> {
        let mut names = self.read_names()?;
        let mut suspects = Suspects::default();
        let parents = self.compare_nodes(&names, &mut suspects)?;
        names.links = Vec::new();
        self.find_loops(&parents);
        if !suspects.is_empty() {
            self.name_suspects(&suspects)?;
        }
        self.check_trash()
    }

    fn read_names(&mut self) -> Result<Names, StoreError> {
        let mut names = Names::default();
        let mut done = 0;
        let mut entries = Cursor::new(self.snapshot, layout::space(layout::ENTRIES), |key, value| {
            let (parent, name) = layout::parse_entry(key)?;
            cairn_types::Name::new(name).ok()?;
            Some((parent, EntryRecord::decode(value)?))
        });
        while let Some(row) = entries.take()? {
            done += 1;
            self.step("names", done, self.snapshot.volume.inodes_used);
            let (parent, entry) = match row {
                Ok(row) => row,
                Err(key) => {
                    self.found(Problem::Unreadable { what: ENTRY, key });
                    continue;
                }
            };
            let is_directory = entry.kind == FileKind::Directory;
            names.links.push((entry.ino, entry.kind as u8));
            match names.directories.last_mut() {
                Some((last, count, subdirectories)) if *last == parent => {
                    *count += 1;
                    *subdirectories += u32::from(is_directory);
                }
                _ => names.directories.push((parent, 1, u32::from(is_directory))),
            }
            if is_directory {
                names.holders.entry(entry.ino).or_default().push(parent);
            }
        }
        names.links.sort_unstable();
        Ok(names)
    }

    /// Goes over all nodes, with names, holds and attributes beside them. Answers each directory's parent.
    fn compare_nodes(&mut self, names: &Names, suspects: &mut Suspects) -> Result<HashMap<Ino, Ino>, StoreError> {
        let snapshot = self.snapshot;
        let sessions = self.read_sessions()?;
        let mut inodes = Cursor::new(snapshot, layout::space(layout::INODES), |key, value| {
            InodeRecord::decode(layout::parse_inode(key)?, value)
        });
        let mut holds = Cursor::new(snapshot, layout::space(layout::ORPHANS), |key, _| layout::parse_orphan(key));
        let mut attributes = Cursor::new(snapshot, layout::space(layout::XATTRS), |key, _| {
            layout::parse_xattr(key).map(|(ino, name)| (ino, name.to_vec()))
        });
        let (mut links, mut directories) = (names.links.as_slice(), names.directories.as_slice());
        let mut parents = HashMap::new();
        let (mut bytes, mut count) = (0u64, 0u64);
        loop {
            let inode = inodes.take_if(|_| true, |key| self.found(Problem::Unreadable { what: INODE, key }))?;
            let ino = inode.as_ref().map_or(Ino(u64::MAX), |inode| inode.attr.ino);
            // Whatever belongs to smaller numbers belongs to no node.
            while let Some((&(target, _), rest)) = links.split_first().filter(|((target, _), _)| *target < ino) {
                suspects.missing.insert(target);
                links = rest;
            }
            while let Some((&(parent, ..), rest)) = directories.split_first().filter(|((parent, ..), _)| *parent < ino)
            {
                suspects.not_directories.insert(parent);
                directories = rest;
            }
            while let Some((ino, session)) =
                holds.take_if(|(held, _)| *held < ino, |key| self.found(Problem::Unreadable { what: "orphan", key }))?
            {
                self.found(Problem::StrayHold { ino, session });
            }
            while let Some((ino, name)) = attributes
                .take_if(|(owner, _)| *owner < ino, |key| self.found(Problem::Unreadable { what: "attribute", key }))?
            {
                self.found(Problem::StrayAttribute { ino, name });
            }
            let Some(inode) = inode else { break };
            count += 1;
            bytes = bytes.saturating_add(inode.attr.charged(snapshot.volume.config.allocation));
            self.step("nodes", count, snapshot.volume.inodes_used);
            let mut named = 0u32;
            while let Some((&(_, kind), rest)) = links.split_first().filter(|((target, _), _)| *target == ino) {
                named += 1;
                if kind != inode.attr.kind as u8 {
                    suspects.other_kind.insert(ino, inode.attr.kind);
                }
                links = rest;
            }
            let mut own_names = Vec::new();
            while let Some((_, name)) = attributes.take_if(|(owner, _)| *owner == ino, |_| {})? {
                own_names.push(name);
            }
            self.check_flags(&inode, &own_names);
            let mut held = false;
            while let Some((_, session)) = holds.take_if(|(held, _)| *held == ino, |_| {})? {
                if named > 0 || inode.attr.is_dir() || !sessions.contains(&session) {
                    self.found(Problem::StrayHold { ino, session });
                } else {
                    held = true;
                }
            }
            let entries = match directories.split_first() {
                Some((&(parent, entries, subdirectories), rest)) if parent == ino => {
                    directories = rest;
                    Some((entries, subdirectories))
                }
                _ => None,
            };
            if inode.attr.is_dir() {
                let holders = names.holders.get(&ino).map_or(&[][..], Vec::as_slice);
                if let Some(parent) = self.check_directory(&inode, entries.unwrap_or_default(), holders, suspects) {
                    parents.insert(ino, parent);
                }
            } else {
                if entries.is_some() {
                    suspects.not_directories.insert(ino);
                }
                self.check_file(&inode, named, held);
            }
        }
        let volume = &snapshot.volume;
        if volume.bytes_used != bytes {
            self.found(Problem::BytesUsed { stored: volume.bytes_used, actual: bytes });
        }
        if volume.inodes_used != count {
            self.found(Problem::InodesUsed { stored: volume.inodes_used, actual: count });
        }
        Ok(parents)
    }

    /// Sessions by their keys, so that one whose row does not decode keeps its files until it is repaired.
    fn read_sessions(&mut self) -> Result<HashSet<SessionId>, StoreError> {
        let mut sessions = HashSet::new();
        let mut rows = Cursor::new(self.snapshot, layout::space(layout::SESSIONS), |key, value| {
            layout::parse_session(key).map(|session| (session, key.to_vec(), SessionRecord::decode(value).is_some()))
        });
        while let Some(row) = rows.take()? {
            match row {
                Ok((session, key, readable)) => {
                    sessions.insert(session);
                    if !readable {
                        self.found(Problem::Unreadable { what: "session", key });
                    }
                }
                Err(key) => self.found(Problem::Unreadable { what: "session", key }),
            }
        }
        Ok(sessions)
    }

    fn check_flags(&mut self, inode: &InodeRecord, names: &[Vec<u8>]) {
        let known = AttrFlags::HAS_XATTR.0 | AttrFlags::HAS_CAPABILITY.0 | AttrFlags::HAS_ACL.0;
        if inode.attr.flags.0 & known != xattr_flags(names).0 {
            self.found(Problem::AttributeFlags { ino: inode.attr.ino });
        }
    }

    fn check_file(&mut self, inode: &InodeRecord, named: u32, held: bool) {
        let (ino, stored) = (inode.attr.ino, inode.attr.nlink);
        if named == 0 && !held {
            self.found(if stored == 0 { Problem::OrphanWithoutHolder { ino } } else { Problem::Unreachable { ino } });
        } else if stored != named {
            self.found(Problem::LinkCount { ino, stored, actual: named });
        }
    }

    /// Answers the directory that it is in.
    fn check_directory(
        &mut self,
        inode: &InodeRecord,
        (entries, subdirectories): (u64, u32),
        holders: &[Ino],
        suspects: &mut Suspects,
    ) -> Option<Ino> {
        let (ino, attr) = (inode.attr.ino, &inode.attr);
        if attr.size != entries {
            self.found(Problem::DirectorySize { ino, stored: attr.size, actual: entries });
        }
        let links = subdirectories.saturating_add(2);
        if attr.nlink != links {
            self.found(Problem::LinkCount { ino, stored: attr.nlink, actual: links });
        }
        let stored = inode.parent;
        if ino == Ino::ROOT {
            if !holders.is_empty() {
                suspects.extra_names.insert(ino, Ino(0));
            }
            if stored != Some(Ino::ROOT) {
                self.found(Problem::DirectoryParent { ino, stored, actual: Ino::ROOT });
            }
            return None;
        }
        let first = holders.first().copied();
        let Some(actual) = holders.iter().copied().find(|holder| Some(*holder) == stored).or(first) else {
            self.found(Problem::Unreachable { ino });
            return None;
        };
        if holders.len() > 1 {
            suspects.extra_names.insert(ino, actual);
        }
        if stored != Some(actual) {
            self.found(Problem::DirectoryParent { ino, stored, actual });
        }
        Some(actual)
    }

    /// Directories whose parents lead back to themselves.
    fn find_loops(&mut self, parents: &HashMap<Ino, Ino>) {
        let mut settled: HashSet<Ino> = HashSet::from([Ino::ROOT]);
        for &start in parents.keys() {
            let mut way = Vec::new();
            let mut on_way = HashSet::new();
            let mut current = start;
            while !settled.contains(&current) {
                if !on_way.insert(current) {
                    self.found(Problem::Loop { ino: current });
                    break;
                }
                way.push(current);
                match parents.get(&current) {
                    Some(parent) => current = *parent,
                    None => break,
                }
            }
            settled.extend(way);
        }
    }

    /// One more pass over the names, for those that are wrong.
    fn name_suspects(&mut self, suspects: &Suspects) -> Result<(), StoreError> {
        let mut kept = HashSet::new();
        let mut entries = Cursor::new(self.snapshot, layout::space(layout::ENTRIES), |key, value| {
            let (parent, name) = layout::parse_entry(key)?;
            let entry = EntryRecord::decode(value)?;
            let suspicious = suspects.missing.contains(&entry.ino)
                || suspects.other_kind.contains_key(&entry.ino)
                || suspects.not_directories.contains(&parent)
                || suspects.extra_names.contains_key(&entry.ino);
            Some((parent, entry, suspicious.then(|| name.to_vec())))
        });
        while let Some(row) = entries.take()? {
            let Ok((parent, entry, Some(name))) = row else { continue };
            let ino = entry.ino;
            if suspects.not_directories.contains(&parent) {
                self.found(Problem::EntryWithoutDirectory { parent, name });
            } else if suspects.missing.contains(&ino) {
                self.found(Problem::DanglingEntry { parent, name, ino });
            } else if let Some(actual) = suspects.other_kind.get(&ino).filter(|actual| **actual != entry.kind) {
                self.found(Problem::EntryKind { parent, name, actual: *actual });
            } else if let Some(keeper) = suspects.extra_names.get(&ino)
                && !(parent == *keeper && kept.insert(ino))
            {
                self.found(Problem::ExtraDirectoryName { parent, name, ino });
            }
        }
        Ok(())
    }

    fn check_trash(&mut self) -> Result<(), StoreError> {
        let mut trash = Cursor::new(self.snapshot, layout::space(layout::TRASH), |key, _| layout::parse_trash(key));
        while let Some(row) = trash.take()? {
            match row {
                Ok(ino) => match self.snapshot.inode(ino) {
                    Ok(Some(_)) => self.found(Problem::LiveTrash { ino }),
                    Ok(None) => {}
                    // Told already, as a node that does not decode.
                    Err(StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                },
                Err(key) => self.found(Problem::Unreadable { what: "trash", key }),
            }
        }
        Ok(())
    }
}
