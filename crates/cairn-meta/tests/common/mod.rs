//! A volume in memory with a clock, a session and blobs at hand.
#![allow(dead_code, unreachable_pub, reason = "shared by several tests, of which each uses its own part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use cairn_meta::kv::{KeyValueStore, MemoryStore};
use cairn_meta::{
    Applied, ApplyContext, ApplyError, CommitOutcome, Durability, Snapshot, VolumeConfig, VolumeStore, check,
};
use cairn_types::{
    Attr, AttrChange, BlobId, BlobPlace, Errno, Extent, Ino, MetaOp, Name, NewNode, OpReply, PackId, RenameMode,
    SessionId, Source, Timestamp, VolumeId, WrittenExtent, XattrMode,
};

pub const CHUNK: u32 = 64 * 1024;

pub fn config() -> VolumeConfig {
    VolumeConfig {
        id: VolumeId::from_entropy(1),
        name: "test".to_owned(),
        data_center: "HERE-1".to_owned(),
        chunk_size: CHUNK,
        bytes_limit: 1 << 40,
        inodes_limit: 1 << 20,
        created: 1_700_000_000,
        profile: "native".to_owned(),
        allocation: cairn_types::Allocation::NATIVE,
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

pub fn time(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 5 }
}

pub struct Volume {
    pub rows: MemoryStore,
    pub store: VolumeStore,
    pub session: SessionId,
    pub now: i64,
    pub headroom_bytes: u64,
    pub headroom_inodes: u64,
    pub pending: RefCell<BTreeMap<BlobId, BlobPlace>>,
    pub open_elsewhere: Vec<(Ino, SessionId)>,
    pub last_commit: CommitOutcome,
}

impl Volume {
    pub fn new() -> Self {
        let rows = MemoryStore::default();
        let store = VolumeStore::create(Box::new(rows.clone()), config()).expect("a new volume");
        let mut batch = store.begin().expect("no other batch");
        let session = batch.create_session(Bytes::from_static(b"tester"));
        batch.commit(Durability::Durable).expect("memory");
        Volume {
            rows,
            store,
            session,
            now: 1_700_000_000,
            headroom_bytes: u64::MAX,
            headroom_inodes: u64::MAX,
            pending: RefCell::default(),
            open_elsewhere: Vec::new(),
            last_commit: CommitOutcome::default(),
        }
    }

    pub fn tick(&mut self) -> Timestamp {
        self.now += 1;
        time(self.now)
    }

    /// Applies one operation in a batch of its own.
    pub fn try_apply(&mut self, op: &MetaOp) -> Result<Applied, Errno> {
        let mut batch = self.store.begin().expect("no other batch");
        let before = self.rows();
        let context = ApplyContext {
            session: self.session,
            headroom_bytes: self.headroom_bytes,
            headroom_inodes: self.headroom_inodes,
            pending_blobs: &|blob| self.pending.borrow().get(&blob).copied(),
            open_elsewhere: &|ino| {
                self.open_elsewhere.iter().filter(|(open, _)| *open == ino).map(|(_, session)| *session).collect()
            },
        };
        let touched = batch.touched(op);
        let outcome = match batch.apply(&context, op) {
            Ok(applied) => Ok(applied),
            Err(ApplyError::Refused(errno)) => Err(errno),
            Err(ApplyError::Store(error)) => panic!("{error}"),
        };
        self.last_commit = batch.commit(Durability::Buffered).expect("memory");
        match &outcome {
            // The maker keeps its lease on what the reply names: a touched node that it leaves out counts as gone.
            Ok(Applied { reply, .. }) => {
                let snapshot = self.snapshot();
                for ino in touched.expect("readable") {
                    let named = reply.attrs.iter().any(|attr| attr.ino == ino);
                    assert_eq!(named, snapshot.attr(ino).is_ok(), "{op:?} touched {ino}, and its reply is {reply:?}");
                }
            }
            Err(_) => assert_eq!(self.rows(), before, "{op:?} failed and left a trace"),
        }
        outcome
    }

    pub fn apply(&mut self, op: &MetaOp) -> OpReply {
        self.try_apply(op).unwrap_or_else(|errno| panic!("{op:?}: {errno:?}")).reply
    }

    /// Applies an operation that must be refused.
    #[track_caller]
    pub fn refused(&mut self, op: &MetaOp, errno: Errno) {
        assert_eq!(self.try_apply(op).map(|applied| applied.reply), Err(errno), "{op:?}");
    }

    pub fn new_ino(&mut self) -> Ino {
        let mut batch = self.store.begin().expect("no other batch");
        let ino = batch.allocate_inos(1);
        batch.commit(Durability::Buffered).expect("memory");
        ino
    }

    pub fn create_op(&mut self, parent: Ino, text: &str, node: NewNode, mode: u32) -> MetaOp {
        let ino = self.new_ino();
        let time = self.tick();
        MetaOp::Create { parent, name: name(text), ino, node, mode, umask: 0o022, uid: 100, gid: 200, time }
    }

    pub fn create(&mut self, parent: Ino, text: &str, node: NewNode) -> Ino {
        let mode = if node == NewNode::Directory { 0o777 } else { 0o666 };
        let op = self.create_op(parent, text, node, mode);
        self.apply(&op).subject.expect("a new node")
    }

    pub fn file(&mut self, parent: Ino, text: &str) -> Ino {
        self.create(parent, text, NewNode::Regular)
    }

    pub fn dir(&mut self, parent: Ino, text: &str) -> Ino {
        self.create(parent, text, NewNode::Directory)
    }

    pub fn unlink_op(&mut self, parent: Ino, text: &str, keep: bool) -> MetaOp {
        MetaOp::Unlink { parent, name: name(text), keep, time: self.tick() }
    }

    pub fn rmdir_op(&mut self, parent: Ino, text: &str) -> MetaOp {
        MetaOp::Rmdir { parent, name: name(text), time: self.tick() }
    }

    pub fn link_op(&mut self, ino: Ino, parent: Ino, text: &str) -> MetaOp {
        MetaOp::Link { ino, parent, name: name(text), time: self.tick() }
    }

    pub fn rename_op(&mut self, parent: Ino, from: &str, new_parent: Ino, to: &str, mode: RenameMode) -> MetaOp {
        let time = self.tick();
        MetaOp::Rename { parent, name: name(from), new_parent, new_name: name(to), mode, keep: false, time }
    }

    pub fn set_attr_op(&mut self, ino: Ino, change: AttrChange) -> MetaOp {
        MetaOp::SetAttr { ino, change, time: self.tick() }
    }

    pub fn truncate_op(&mut self, ino: Ino, size: u64) -> MetaOp {
        self.set_attr_op(ino, AttrChange { size: Some(size), ..AttrChange::default() })
    }

    pub fn set_xattr_op(&mut self, ino: Ino, name: &str, value: &[u8], mode: XattrMode) -> MetaOp {
        let (name, value) = (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value));
        MetaOp::SetXattr { ino, name, value, mode, clear_set_gid: false, time: self.tick() }
    }

    /// A blob that waits to be referenced.
    pub fn blob(&mut self, length: u32) -> BlobId {
        let mut batch = self.store.begin().expect("no other batch");
        let blob = batch.allocate_blobs(1);
        batch.commit(Durability::Buffered).expect("memory");
        let place =
            BlobPlace { pack: PackId(1), offset: blob.0 * 1_000_000, payload_len: length, stored_len: length + 50 };
        self.pending.borrow_mut().insert(blob, place);
        blob
    }

    /// A write of a new blob at `offset` (bytes).
    pub fn write_op(&mut self, ino: Ino, offset: u64, length: u32) -> MetaOp {
        let blob = self.blob(length);
        self.write_blob_op(ino, offset, blob, length)
    }

    /// A write of `length` bytes from the start of `blob`, cut at chunk ends.
    pub fn write_blob_op(&mut self, ino: Ino, offset: u64, blob: BlobId, length: u32) -> MetaOp {
        let mut extents = Vec::new();
        let mut done = 0;
        while done < length {
            let position = offset + u64::from(done);
            let within = (position % u64::from(CHUNK)) as u32;
            let piece = (length - done).min(CHUNK - within);
            let source = Source::Blob { blob, offset: done };
            extents.push(WrittenExtent {
                chunk: (position / u64::from(CHUNK)) as u32,
                extent: Extent { offset: within, length: piece, source },
            });
            done += piece;
        }
        let time = self.tick();
        MetaOp::Write { ino, extents, size: offset + u64::from(length), mtime: time, time }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        self.snapshot().attr(ino).expect("exists")
    }

    pub fn references(&self, blob: BlobId) -> u32 {
        self.snapshot().blob_record(blob).expect("readable").map_or(0, |record| record.references)
    }

    pub fn problems(&self) -> Vec<check::Finding> {
        check::check(&self.snapshot(), &mut |_| {}).expect("readable")
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        assert_eq!(self.problems(), []);
    }

    /// Every row.
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.rows.reader().expect("memory").scan(&[], &[0xff], visit).expect("memory");
        rows
    }
}
