//! A small volume with a bit of everything, for the targets that need one.

pub mod http;

use std::sync::LazyLock;

use bytes::Bytes;
use cairn_meta::{ApplyContext, ApplyError, Durability, VolumeConfig, VolumeStore};
use cairn_types::{
    BlobId, BlobPlace, Extent, Ino, MetaOp, Name, NewNode, PackId, SessionId, Source, Timestamp, VolumeId,
    WrittenExtent, XattrMode,
};

pub static VOLUME_CONFIG: LazyLock<VolumeConfig> = LazyLock::new(|| VolumeConfig {
    id: VolumeId::from_entropy(1),
    name: "fuzzed".to_owned(),
    data_center: "HERE-1".to_owned(),
    chunk_size: 64 * 1024,
    bytes_limit: 1 << 40,
    inodes_limit: 1 << 20,
    created: 1_700_000_000,
});

/// Blobs with these numbers wait to be referenced.
pub const PENDING: std::ops::Range<u64> = 1..100;
const BLOB_LENGTH: u32 = 1000;

/// Where a pending blob lies.
pub fn pending(blob: BlobId) -> Option<BlobPlace> {
    let stored_len = BLOB_LENGTH + 80;
    let place = BlobPlace { pack: PackId(1), offset: blob.0 << 12, payload_len: BLOB_LENGTH, stored_len };
    PENDING.contains(&blob.0).then_some(place)
}

/// Changes that make a directory, files with content, a link, a symbolic link, an attribute and a nameless file.
pub fn changes() -> Vec<MetaOp> {
    let time = Timestamp { secs: 1_700_000_000, nanos: 5 };
    let name = |text: &str| Name::new(text.as_bytes()).expect("a good name");
    let create = |ino, parent, text, node| MetaOp::Create {
        parent: Ino(parent),
        name: name(text),
        ino: Ino(ino),
        node,
        mode: 0o755,
        umask: 0o22,
        uid: 1,
        gid: 2,
        time,
    };
    let write = |ino, chunk, offset, blob| {
        let source = Source::Blob { blob: BlobId(blob), offset: 0 };
        let extent = Extent { offset, length: BLOB_LENGTH, source };
        let size = u64::from(chunk) * 65_536 + u64::from(offset + BLOB_LENGTH);
        MetaOp::Write { ino: Ino(ino), extents: vec![WrittenExtent { chunk, extent }], size, mtime: time, time }
    };
    vec![
        create(2, 1, "directory", NewNode::Directory),
        create(3, 2, "file", NewNode::Regular),
        write(3, 0, 0, 1),
        create(4, 1, "large", NewNode::Regular),
        write(4, 0, 100, 2),
        write(4, 3, 9000, 3),
        MetaOp::Link { ino: Ino(3), parent: Ino::ROOT, name: name("link"), time },
        create(5, 2, "symbolic", NewNode::Symlink(Bytes::from_static(b"file"))),
        MetaOp::SetXattr {
            ino: Ino(4),
            name: Bytes::from_static(b"user.color"),
            value: Bytes::from_static(b"red"),
            mode: XattrMode::Create,
            clear_set_gid: false,
            time,
        },
        MetaOp::CreateUnnamed { parent: Ino(2), ino: Ino(6), mode: 0o600, umask: 0, uid: 1, gid: 2, time },
        MetaOp::Unlink { parent: Ino(2), name: name("file"), keep: false, time },
    ]
}

/// Applies what is applicable of `ops` in one batch, as a session that it makes.
pub fn apply(store: &VolumeStore, ops: &[MetaOp]) -> SessionId {
    let mut batch = store.begin().expect("no other");
    let session = batch.create_session(Bytes::from_static(b"fuzzer"));
    batch.allocate_inos(30);
    batch.allocate_blobs(100);
    for op in ops {
        let context = ApplyContext {
            session,
            headroom_bytes: 1 << 40,
            headroom_inodes: 1 << 20,
            pending_blobs: &pending,
            open_elsewhere: &|_| Vec::new(),
        };
        if let Err(ApplyError::Store(error)) = batch.apply(&context, op) {
            panic!("{op:?}: {error}");
        }
    }
    batch.commit(Durability::Durable).expect("memory");
    session
}
