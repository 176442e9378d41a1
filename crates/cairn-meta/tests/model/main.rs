//! Random operations on a volume and on a plain tree in memory: the same answers, the same tree, nothing for `fsck`.
//!
//! Content is compared in units of 8 KiB, eight to a chunk: each unit of a file is a hole, zeros, or a unit of a blob.

#[path = "../common/mod.rs"]
mod common;
mod tree;

use std::collections::BTreeMap;

use cairn_meta::{ApplyContext, Durability};
use cairn_types::{
    AllocateMode, AttrChange, Errno, FileKind, FsResult, Ino, MetaOp, NewNode, RenameMode, Source, XattrMode,
};
use common::{CHUNK, Volume, name};
use proptest::prelude::*;
use tree::{Body, Model, Unit};

const UNIT: u32 = 8 * 1024;

/// An operation on nodes and names by their places in lists, so that most of them hit something.
#[derive(Clone, Debug)]
enum Step {
    Create { parent: usize, name: usize, kind: u8 },
    CreateUnnamed { parent: usize },
    Link { node: usize, parent: usize, name: usize },
    Unlink { parent: usize, name: usize, keep: bool },
    Rmdir { parent: usize, name: usize },
    Rename { from: (usize, usize), to: (usize, usize), mode: RenameMode, keep: bool },
    Truncate { node: usize, units: u64 },
    Write { node: usize, offset: u64, units: u32, sources: bool, bounded: bool },
    Allocate { node: usize, mode: AllocateMode, offset: u64, units: u64 },
    Copy { source: (usize, u64), target: (usize, u64), units: u64 },
    Release { node: usize },
    SetXattr { node: usize, name: usize, mode: XattrMode },
    RemoveXattr { node: usize, name: usize },
    Reap,
    Commit { durable: bool },
}

const NAMES: [&str; 5] = ["a", "b", "c", "longer name", "z"];

fn step() -> impl Strategy<Value = Step> {
    use AllocateMode::{Punch, Reserve, Zero};
    let node = || 0usize..12;
    let name = || 0usize..NAMES.len();
    // Often in the first chunk, and small: so that its extents outgrow the node's row.
    let offset = || prop_oneof![0u64..8, 0u64..40];
    let units = || prop_oneof![1u32..3, 1u32..20];
    let rename_mode = prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)];
    let allocate_mode = prop_oneof![
        any::<bool>().prop_map(|keep_size| Reserve { keep_size }),
        any::<bool>().prop_map(|keep_size| Zero { keep_size }),
        Just(Punch),
    ];
    let xattr_mode = prop_oneof![Just(XattrMode::CreateOrReplace), Just(XattrMode::Create), Just(XattrMode::Replace)];
    prop_oneof![
        6 => (node(), name(), 0u8..4).prop_map(|(parent, name, kind)| Step::Create { parent, name, kind }),
        1 => node().prop_map(|parent| Step::CreateUnnamed { parent }),
        2 => (node(), node(), name()).prop_map(|(node, parent, name)| Step::Link { node, parent, name }),
        3 => (node(), name(), any::<bool>()).prop_map(|(parent, name, keep)| Step::Unlink { parent, name, keep }),
        1 => (node(), name()).prop_map(|(parent, name)| Step::Rmdir { parent, name }),
        5 => ((node(), name()), (node(), name()), rename_mode, any::<bool>())
            .prop_map(|(from, to, mode, keep)| Step::Rename { from, to, mode, keep }),
        2 => (node(), offset()).prop_map(|(node, units)| Step::Truncate { node, units }),
        8 => (node(), offset(), units(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(node, offset, units, sources, bounded)| Step::Write { node, offset, units, sources, bounded }),
        3 => (node(), allocate_mode, offset(), 0u64..20)
            .prop_map(|(node, mode, offset, units)| Step::Allocate { node, mode, offset, units }),
        3 => ((node(), offset()), (node(), offset()), 0u64..30)
            .prop_map(|(source, target, units)| Step::Copy { source, target, units }),
        1 => node().prop_map(|node| Step::Release { node }),
        1 => (node(), 0usize..2, xattr_mode).prop_map(|(node, name, mode)| Step::SetXattr { node, name, mode }),
        1 => (node(), 0usize..2).prop_map(|(node, name)| Step::RemoveXattr { node, name }),
        1 => Just(Step::Reap),
        1 => any::<bool>().prop_map(|durable| Step::Commit { durable }),
    ]
}

struct Pair {
    volume: Volume,
    model: Model,
    /// Every node that ever was, dead ones too.
    known: Vec<Ino>,
    /// What was asked of the volume, and with how much room; `None` for a round of clearing up.
    log: Vec<Option<(MetaOp, u64)>>,
}

/// Chunks that one round of clearing up may drop.
const REAP: usize = 2;

impl Pair {
    fn new() -> Self {
        Pair { volume: Volume::new(), model: Model::new(), known: vec![Ino::ROOT], log: Vec::new() }
    }

    fn ino(&self, place: usize) -> Ino {
        self.known[place % self.known.len()]
    }

    /// Files more often than not.
    fn content(&self, place: usize) -> Ino {
        let files: Vec<Ino> = self.known.iter().copied().filter(|ino| self.model.file(*ino).is_ok()).collect();
        if place > 9 || files.is_empty() { self.ino(place) } else { files[place % files.len()] }
    }

    /// Directories more often than not: an operation in a file is refused and teaches little.
    fn parent(&self, place: usize) -> Ino {
        let directories: Vec<Ino> =
            self.known.iter().copied().filter(|ino| self.model.directory(*ino).is_ok()).collect();
        if place > 9 { self.ino(place) } else { directories[place % directories.len()] }
    }

    /// Applies a step to both and compares the answers.
    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    fn step(&mut self, step: &Step) {
        let bytes = |units: u64| units * u64::from(UNIT);
        match *step {
            Step::Create { parent, name: index, kind } => {
                let (parent, text) = (self.parent(parent), NAMES[index]);
                let (node, body) = match kind {
                    0 => (NewNode::Directory, Body::Directory(BTreeMap::new(), parent)),
                    1 => (NewNode::Symlink("target".into()), Body::Link),
                    _ => (NewNode::Regular, Body::File(Vec::new(), 0)),
                };
                let op = self.volume.create_op(parent, text, node, 0o777);
                let MetaOp::Create { ino, .. } = op else { unreachable!("made by create_op") };
                let expected = self
                    .model
                    .directory(parent)
                    .and_then(|entries| if entries.contains_key(text) { Err(Errno::EEXIST) } else { Ok(()) });
                if expected.is_ok() {
                    self.model.add(ino, body);
                    self.model.attach(parent, text, ino);
                    self.known.push(ino);
                }
                self.compare(&op, expected);
            }
            Step::CreateUnnamed { parent } => {
                let (parent, ino, time) = (self.parent(parent), self.volume.new_ino(), self.volume.tick());
                let op = MetaOp::CreateUnnamed { parent, ino, mode: 0o600, umask: 0, uid: 0, gid: 0, time };
                let expected = self.model.directory(parent).map(|_| ());
                if expected.is_ok() {
                    self.model.add(ino, Body::File(Vec::new(), 0));
                    let node = self.model.nodes.get_mut(&ino).expect("just made");
                    node.linkable = true;
                    node.pins.insert(self.volume.session);
                    self.known.push(ino);
                }
                self.compare(&op, expected);
            }
            Step::Link { node, parent, name: index } => {
                let (ino, parent, text) = (self.ino(node), self.parent(parent), NAMES[index]);
                let op = self.volume.link_op(ino, parent, text);
                let expected = self.model.node(ino).and_then(|node| {
                    let entries = self.model.directory(parent)?;
                    match () {
                        () if entries.contains_key(text) => Err(Errno::EEXIST),
                        () if node.kind() == FileKind::Directory => Err(Errno::EPERM),
                        () if node.names == 0 && !node.linkable => Err(Errno::ENOENT),
                        () => Ok(()),
                    }
                });
                if expected.is_ok() {
                    self.model.attach(parent, text, ino);
                    let node = self.model.nodes.get_mut(&ino).expect("checked");
                    node.linkable = false;
                    node.pins.clear();
                }
                self.compare(&op, expected);
            }
            Step::Unlink { parent, name: index, keep } => {
                let (parent, text) = (self.parent(parent), NAMES[index]);
                let op = self.volume.unlink_op(parent, text, keep);
                let expected = self.model.directory(parent).and_then(|entries| {
                    let ino = *entries.get(text).ok_or(Errno::ENOENT)?;
                    if self.model.node(ino)?.kind() == FileKind::Directory { Err(Errno::EISDIR) } else { Ok(()) }
                });
                if expected.is_ok() {
                    let ino = self.model.detach(parent, text);
                    self.model.leave(ino, keep.then_some(self.volume.session));
                }
                self.compare(&op, expected);
            }
            Step::Rmdir { parent, name: index } => {
                let (parent, text) = (self.parent(parent), NAMES[index]);
                let op = self.volume.rmdir_op(parent, text);
                let expected = self.model.directory(parent).and_then(|entries| {
                    let ino = *entries.get(text).ok_or(Errno::ENOENT)?;
                    if self.model.directory(ino)?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
                });
                if expected.is_ok() {
                    let ino = self.model.detach(parent, text);
                    self.model.bury(ino);
                }
                self.compare(&op, expected);
            }
            Step::Rename { from, to, mode, keep } => {
                let from = (self.parent(from.0), NAMES[from.1]);
                let to = (self.parent(to.0), NAMES[to.1]);
                let op = MetaOp::Rename {
                    parent: from.0,
                    name: name(from.1),
                    new_parent: to.0,
                    new_name: name(to.1),
                    mode,
                    keep,
                    time: self.volume.tick(),
                };
                let expected = self.model.rename(from, to, mode, keep.then_some(self.volume.session));
                self.compare(&op, expected);
            }
            Step::Truncate { node, units } => {
                let ino = self.ino(node);
                let op = self.volume.set_attr_op(ino, AttrChange { size: Some(bytes(units)), ..AttrChange::default() });
                let expected = self.model.file(ino).map(|_| ());
                if expected.is_ok() {
                    let (content, size) = self.model.file_mut(ino, 0);
                    if units <= *size {
                        content.truncate(units as usize);
                    }
                    *size = units;
                }
                self.compare(&op, expected);
            }
            Step::Write { node, offset, units, sources, bounded } => {
                // Without room: what only overwrites is taken, what allocates is refused.
                self.volume.headroom_bytes = if bounded { 0 } else { u64::MAX };
                let ino = self.content(node);
                let blob = self.volume.blob(units * UNIT);
                let mut op = self.volume.write_blob_op(ino, bytes(offset), blob, units * UNIT);
                if !sources && let MetaOp::Write { extents, .. } = &mut op {
                    for written in extents {
                        written.extent.source = Source::Zeros;
                    }
                }
                let range = offset as usize..offset as usize + units as usize;
                let expected = self.model.file(ino).and_then(|(content, _)| {
                    let unit = |index: usize| content.get(index).copied().unwrap_or(Unit::Hole);
                    let allocates = range.clone().any(|index| unit(index) == Unit::Hole);
                    if bounded && allocates { Err(Errno::EDQUOT) } else { Ok(()) }
                });
                if expected.is_ok() {
                    let end = offset + u64::from(units);
                    let (content, size) = self.model.file_mut(ino, end);
                    for unit in 0..units {
                        content[offset as usize + unit as usize] =
                            if sources { Unit::Blob(blob.0, unit) } else { Unit::Zeros };
                    }
                    *size = end.max(*size);
                }
                self.compare(&op, expected);
                self.volume.headroom_bytes = u64::MAX;
            }
            Step::Allocate { node, mode, offset, units } => {
                let (ino, time) = (self.content(node), self.volume.tick());
                let (offset_bytes, length) = (bytes(offset), bytes(units));
                let op = MetaOp::Allocate { ino, mode, offset: offset_bytes, length, kill_privileges: false, time };
                let expected = self.model.file(ino).and(if units == 0 { Err(Errno::EINVAL) } else { Ok(()) });
                if expected.is_ok() {
                    let end = offset + units;
                    let (content, size) = self.model.file_mut(ino, end);
                    for unit in &mut content[offset as usize..end as usize] {
                        *unit = match mode {
                            AllocateMode::Punch => Unit::Hole,
                            AllocateMode::Zero { .. } => Unit::Zeros,
                            AllocateMode::Reserve { .. } if *unit == Unit::Hole => Unit::Zeros,
                            AllocateMode::Reserve { .. } => *unit,
                        };
                    }
                    if let AllocateMode::Reserve { keep_size: false } | AllocateMode::Zero { keep_size: false } = mode {
                        *size = end.max(*size);
                    }
                }
                self.compare(&op, expected);
            }
            Step::Copy { source, target, units } => {
                let (from, to) = (self.content(source.0), self.content(target.0));
                let op = MetaOp::CopyRange {
                    source: from,
                    source_offset: bytes(source.1),
                    target: to,
                    target_offset: bytes(target.1),
                    length: bytes(units),
                    kill_privileges: false,
                    time: self.volume.tick(),
                };
                let expected = self.model.node(from).and_then(|_| self.model.node(to)).and_then(|_| {
                    let (content, size) = self.model.file(from)?;
                    self.model.file(to)?;
                    let units = units.min(size.saturating_sub(source.1));
                    if from == to && source.1.abs_diff(target.1) < units {
                        return Err(Errno::EINVAL);
                    }
                    let unit = |index: u64| content.get(index as usize).copied().unwrap_or(Unit::Hole);
                    Ok((source.1..source.1 + units).map(unit).collect::<Vec<_>>())
                });
                let copied = expected.clone().map(|units| units.len() as u64);
                if let Ok(units) = &expected
                    && !units.is_empty()
                {
                    let end = target.1 + units.len() as u64;
                    let (content, size) = self.model.file_mut(to, end);
                    content[target.1 as usize..end as usize].copy_from_slice(units);
                    *size = end.max(*size);
                }
                let reply = self.compare(&op, expected.map(|_| ()));
                assert_eq!(reply, bytes(copied.unwrap_or(0)), "bytes copied");
            }
            Step::Release { node } => {
                let ino = self.ino(node);
                if let Some(node) = self.model.nodes.get_mut(&ino) {
                    node.pins.remove(&self.volume.session);
                    if node.names == 0 {
                        self.model.bury(ino);
                    }
                }
                self.compare(&MetaOp::ReleaseOrphan { ino }, Ok(()));
            }
            Step::SetXattr { node, name: index, mode } => {
                let (ino, text) = (self.ino(node), ["user.x", "trusted.y"][index]);
                let op = self.volume.set_xattr_op(ino, text, b"value", mode);
                let expected = self.model.node(ino).and_then(|node| {
                    let exists = node.attributes.contains(text);
                    match mode {
                        _ if node.kind() == FileKind::Symlink && index == 0 => Err(Errno::EPERM),
                        XattrMode::Create if exists => Err(Errno::EEXIST),
                        XattrMode::Replace if !exists => Err(Errno::ENODATA),
                        _ => Ok(()),
                    }
                });
                if expected.is_ok() {
                    self.model.nodes.get_mut(&ino).expect("checked").attributes.insert(text.to_owned());
                }
                self.compare(&op, expected);
            }
            Step::RemoveXattr { node, name: index } => {
                let (ino, text, time) = (self.ino(node), ["user.x", "trusted.y"][index], self.volume.tick());
                let op = MetaOp::RemoveXattr { ino, name: text.into(), time };
                let expected = self.model.node(ino).and_then(|node| match () {
                    () if node.kind() == FileKind::Symlink && index == 0 => Err(Errno::EPERM),
                    () if !node.attributes.contains(text) => Err(Errno::ENODATA),
                    () => Ok(()),
                });
                if expected.is_ok() {
                    self.model.nodes.get_mut(&ino).expect("checked").attributes.remove(text);
                }
                self.compare(&op, expected);
            }
            Step::Reap => {
                self.log.push(None);
                let mut batch = self.volume.store.begin().expect("no other");
                batch.reap(REAP).expect("memory");
                batch.commit(Durability::Buffered).expect("memory");
            }
            Step::Commit { durable } => {
                let durability = if durable { Durability::Durable } else { Durability::Buffered };
                self.volume.store.begin().expect("no other").commit(durability).expect("memory");
            }
        }
    }

    /// Applies an operation whose answer is known. Answers the reply's value.
    fn compare(&mut self, op: &MetaOp, expected: FsResult<()>) -> u64 {
        let used_before = self.volume.snapshot().usage().expect("readable");
        let outcome = self.volume.try_apply(op);
        self.log.push(Some((op.clone(), self.volume.headroom_bytes)));
        assert_eq!(outcome.as_ref().map(|_| ()).map_err(|errno| *errno), expected, "{op:?}");
        let Ok(applied) = outcome else { return 0 };
        let used = self.volume.snapshot().usage().expect("readable");
        assert_eq!(used.bytes_used as i64 - used_before.bytes_used as i64, applied.charged_bytes, "{op:?}");
        assert_eq!(used.inodes_used as i64 - used_before.inodes_used as i64, applied.charged_inodes, "{op:?}");
        for attr in &applied.reply.attrs {
            assert_eq!(*attr, self.volume.attr(attr.ino));
        }
        applied.reply.value
    }

    /// Compares everything.
    fn compare_trees(&self) {
        let snapshot = self.volume.snapshot();
        let mut bytes_used = 0;
        for ino in &self.known {
            let Some(node) = self.model.nodes.get(ino) else {
                assert_eq!(snapshot.attr(*ino), Err(Errno::ENOENT));
                continue;
            };
            let attr = snapshot.attr(*ino).expect("the model has it");
            bytes_used += attr.charged(cairn_types::Allocation::NATIVE);
            assert_eq!((attr.kind, attr.nlink), (node.kind(), self.model.links(*ino)), "{ino}");
            let attributes = snapshot.list_xattr(*ino).expect("exists");
            assert!(attributes.iter().eq(node.attributes.iter().map(String::as_bytes)), "{ino}: {attributes:?}");
            match &node.body {
                Body::Directory(entries, parent) => {
                    assert_eq!((attr.size, attr.allocated), (entries.len() as u64, 0));
                    assert_eq!(snapshot.parent(*ino), Ok(*parent));
                    let listed = snapshot.entries(*ino, None, 100).expect("a directory");
                    let listed: BTreeMap<String, Ino> =
                        listed.into_iter().map(|(name, ino, _)| (name.to_string(), ino)).collect();
                    assert_eq!(&listed, entries);
                }
                Body::File(content, size) => {
                    assert_eq!(attr.size, size * u64::from(UNIT));
                    let units = self.units(*ino);
                    let trimmed = content.iter().rposition(|unit| *unit != Unit::Hole).map_or(0, |last| last + 1);
                    assert_eq!(units, content[..trimmed], "{ino}");
                    let allocated = content.iter().filter(|unit| **unit != Unit::Hole).count() as u64;
                    assert_eq!(attr.allocated, allocated * u64::from(UNIT));
                }
                Body::Link => assert_eq!(snapshot.readlink(*ino).as_deref(), Ok(&b"target"[..])),
            }
        }
        let usage = snapshot.usage().expect("readable");
        assert_eq!((usage.bytes_used, usage.inodes_used), (bytes_used, self.model.nodes.len() as u64));
        self.volume.assert_sound();
    }

    /// Content of a file by unit, up to the last that is not a hole.
    fn units(&self, ino: Ino) -> Vec<Unit> {
        let mut units = Vec::new();
        for (chunk, list) in self.volume.snapshot().extents(ino, 0, u32::MAX).expect("exists") {
            for extent in list.as_slice() {
                assert_eq!((extent.offset % UNIT, extent.length % UNIT), (0, 0));
                let first = (chunk * (CHUNK / UNIT) + extent.offset / UNIT) as usize;
                units.resize(first, Unit::Hole);
                units.extend((0..extent.length / UNIT).map(|index| match extent.source {
                    Source::Zeros => Unit::Zeros,
                    Source::Blob { blob, offset } => Unit::Blob(blob.0, offset / UNIT + index),
                }));
            }
        }
        units
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn a_volume_is_a_tree(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for (index, step) in steps.iter().enumerate() {
            pair.step(step);
            if index % 8 == 0 {
                pair.compare_trees();
            }
        }
        pair.compare_trees();
        // All that was ever written can be taken away again, to the last reference.
        let session = pair.volume.session;
        let mut batch = pair.volume.store.begin().expect("no other");
        batch.release_session(session).expect("memory");
        while batch.reap(100).expect("memory") {}
        batch.commit(Durability::Durable).expect("memory");
        pair.volume.assert_sound();
    }

    #[test]
    fn a_crash_keeps_a_sound_volume(
        steps in prop::collection::vec(step(), 1..40), more in prop::collection::vec(step(), 1..40),
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        pair.volume.store.begin().expect("no other").commit(Durability::Durable).expect("memory");
        let durable = pair.volume.rows();
        for step in more.iter().filter(|step| !matches!(step, Step::Commit { .. })) {
            pair.step(step);
        }
        pair.volume.rows.crash();
        pair.volume.store = cairn_meta::VolumeStore::open(Box::new(pair.volume.rows.clone())).expect("sound");
        pair.volume.assert_sound();
        // But for the row that says who has opened it last.
        let mut rows = pair.volume.rows();
        rows.retain(|(key, _)| key != &[3]);
        prop_assert_eq!(rows, durable);
    }

    /// One batch sees its own changes, and undoes failed operations to what it had changed before.
    #[test]
    fn one_batch_or_many_make_no_difference(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        let together = Volume::new();
        let mut batch = together.store.begin().expect("no other");
        batch.allocate_inos(1 << 16);
        for entry in &pair.log {
            let Some((op, headroom_bytes)) = entry else {
                batch.reap(REAP).expect("memory");
                continue;
            };
            let context = ApplyContext {
                session: together.session,
                headroom_bytes: *headroom_bytes,
                headroom_inodes: u64::MAX,
                pending_blobs: &|blob| pair.volume.pending.borrow().get(&blob).copied(),
                open_elsewhere: &|_| Vec::new(),
            };
            drop(batch.apply(&context, op));
        }
        batch.commit(Durability::Durable).expect("memory");
        together.assert_sound();
        // All rows but the volume's, which says how many numbers were handed out.
        let rows = |volume: &Volume| volume.rows().split_off(1);
        prop_assert_eq!(rows(&together), rows(&pair.volume));
        let usage = |volume: &Volume| volume.snapshot().usage().expect("readable");
        prop_assert_eq!(usage(&together), usage(&pair.volume));
    }
}
