//! What a session's connections carry after the handshake.

use bytes::Bytes;
use cairn_types::{
    Attr, BlobId, ByteRange, Errno, ExtentList, FileKind, FileLock, Ino, LeaseMode, MetaOp, Name, OpReply,
};
use serde::{Deserialize, Serialize};

use crate::admin::{AdminReply, AdminRequest};

/// A lease that the server gives along with an answer.
///
/// `stamp` comes from one counter of the volume that also numbers recalls: a grant is void if the client has
/// already seen a recall of the same node with a larger stamp (answers and recalls may overtake one another).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub ino: Ino,
    pub mode: LeaseMode,
    pub stamp: u64,
}

/// A lease that the client gives back, as the answer to a recall or because it no longer needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReturn {
    pub ino: Ino,
    /// Stamp of the recall that this answers, or of the grant that is given back unasked.
    pub stamp: u64,
    /// What the client still holds.
    pub keep: LeaseMode,
    /// The file is open at this client: if its last name goes, its content must stay until
    /// [`MetaOp::ReleaseOrphan`] or [`Request::CloseFiles`].
    pub open: bool,
}

/// A question about the tree. The answer carries leases for what it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Who is called `name` in `parent`. Leases: the parent (so that absence may be cached) and the node.
    Lookup {
        parent: Ino,
        name: Name,
    },
    Attr {
        ino: Ino,
    },
    /// Attributes together with a lease of at least `mode`: recalls others as needed.
    Acquire {
        ino: Ino,
        mode: LeaseMode,
    },
    /// Up to `limit` entries after `after`, in the order of names. With `attributes`, the nodes' leases too.
    List {
        directory: Ino,
        after: Option<Name>,
        limit: u32,
        attributes: bool,
    },
    ReadLink {
        ino: Ino,
    },
    /// Extents of `count` chunks from `first_chunk` on; chunks without any are left out.
    Extents {
        ino: Ino,
        first_chunk: u32,
        count: u32,
    },
    /// `SEEK_DATA` (or `SEEK_HOLE`) from `offset`; answered by [`QueryAnswer::Offset`]. ENXIO beyond the end.
    Seek {
        ino: Ino,
        offset: u64,
        hole: bool,
    },
    GetXattr {
        ino: Ino,
        name: Bytes,
    },
    ListXattr {
        ino: Ino,
    },
    /// The directory that holds this directory.
    Parent {
        directory: Ino,
    },
    Usage,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    pub name: Name,
    pub ino: Ino,
    pub kind: FileKind,
    pub attr: Option<Attr>,
    pub content: SmallContent,
}

/// Comes along with the attributes of a regular file whose content is all in a few extents of its first chunk.
pub type SmallContent = Option<ExtentList>;

/// Sizes and fill of a volume, in bytes and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub bytes_used: u64,
    pub bytes_limit: u64,
    pub inodes_used: u64,
    pub inodes_limit: u64,
    /// Bytes that the volume's packs take on the server's disk.
    pub bytes_stored: u64,
    /// Bytes that the metadata take on the server's disk.
    pub bytes_metadata: u64,
    /// Bytes still free on the server's disk.
    pub disk_free: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryAnswer {
    /// To `Lookup`: `None` if no such name.
    Entry(Option<(Attr, SmallContent)>),
    Attr(Attr),
    /// `complete` if nothing comes after the last entry.
    List {
        entries: Vec<ListEntry>,
        complete: bool,
    },
    /// The target of a link or the value of an attribute.
    Bytes(Bytes),
    /// Chunk index and extents.
    Extents(Vec<(u32, ExtentList)>),
    Offset(u64),
    Names(Vec<Bytes>),
    Parent(Ino),
    Usage(Usage),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryReply {
    pub answer: QueryAnswer,
    /// May be empty: then the answer holds for this moment only.
    pub grants: Vec<Grant>,
}

/// One applied change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub result: Result<OpReply, Errno>,
    /// Place in the volume's one order of changes; 0 if it failed.
    pub order: u64,
}

/// How a change was numbered by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpNumber {
    /// [`Request::Call`]'s token.
    Call(u64),
    /// Position in the session's journal.
    Journal(u64),
}

/// A change that was applied but not durable when the server went away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub order: u64,
    pub number: OpNumber,
    pub op: MetaOp,
}

/// A blob to store; its bytes are in the bulk, in the order of the headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobHeader {
    pub blob: BlobId,
    /// For recovery: the file and chunk it was written for.
    pub ino: Ino,
    pub chunk: u32,
    pub length: u32,
    /// crc32c of each [`cairn_types::limits::CHECK_BLOCK`] bytes.
    pub checksums: Vec<u32>,
    /// blake3 of the whole blob.
    pub hash: [u8; 32],
}

/// Bytes wanted of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRange {
    pub blob: BlobId,
    pub offset: u32,
    pub length: u32,
}

/// What came of one [`BlobRange`]: widened to whole check blocks, with their checksums, unverified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPart {
    /// Where the part begins in the blob; its bytes follow those of the part before it in the bulk.
    pub offset: u32,
    pub length: u32,
    pub checksums: Vec<u32>,
}

/// Where what a [`BlobRange`] asks for, widened to whole check blocks, lies at the server. What is read there must match the
/// checksums: the place may have been given to nobody or to somebody else meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPlacement {
    pub pack: u32,
    /// Of the part's first byte in the pack's file.
    pub position: u64,
    pub part: BlobPart,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Keeps the session alive. Answer: `Response::Renewed`.
    Renew,
    /// Asks for room: what is granted is set aside until it is used or given back. `EDQUOT` if not even
    /// `bytes_needed` or `inodes_needed` can be had after other sessions gave back what they do not use.
    Reserve {
        bytes_needed: u64,
        bytes_wanted: u64,
        inodes_needed: u64,
        inodes_wanted: u64,
    },
    /// Gives back reserved room.
    GiveBack {
        bytes: u64,
        inodes: u64,
    },
    /// Ranges of fresh numbers for nodes and blobs. Answer: `Response::Numbers`.
    Numbers {
        inos: u32,
        blobs: u32,
    },
    ReturnLeases(Vec<LeaseReturn>),
    /// Files that were declared open in a [`LeaseReturn`] and are no longer.
    CloseFiles(Vec<Ino>),
    /// After a server restart, before anything else: what this session held and what it had been told was
    /// applied. May come in several pieces, the last one with `complete`.
    Reclaim {
        leases: Vec<(Ino, LeaseMode)>,
        open: Vec<Ino>,
        locks: Vec<FileLock>,
        replay: Vec<Replay>,
        complete: bool,
    },
    Query(Query),
    /// A change that may have to wait for other sessions. Applied once however often it is sent with the same
    /// `token`. The client has seen the answers of all tokens below `acked_below`.
    Call {
        token: u64,
        acked_below: u64,
        op: MetaOp,
    },
    /// Changes to nodes that this session holds exclusively, numbered from `first` on without gaps; applied in
    /// order and once. Never waits for another session. `ESTALE` if a lease is gone.
    Journal {
        first: u64,
        ops: Vec<MetaOp>,
    },
    /// Makes all that was applied durable. Answer: `Response::Durable`.
    Sync,
    TestLock(FileLock),
    /// With `wait`, the answer comes when the lock is had, or after [`Request::CancelLock`].
    SetLock {
        lock: FileLock,
        wait: bool,
    },
    /// Gives up the waiting `SetLock` with this correlation number, which is then answered `EINTR`.
    CancelLock {
        correlation: u64,
    },
    /// Drops all locks of an owner on a file (`close`): `family` ranges over both if `None`.
    Unlock {
        ino: Ino,
        owner: cairn_types::LockOwner,
        family: Option<cairn_types::LockFamily>,
        range: ByteRange,
    },
    /// Stores blobs (bulk: their bytes). Not durable and not referenced yet.
    PutBlobs(Vec<BlobHeader>),
    /// Answer: `Response::Blobs` with bulk. `ENOENT` if a blob is gone: the extents have changed, ask for them again.
    ReadBlobs(Vec<BlobRange>),
    /// A part that was received does not match its checksums.
    ReportDamage {
        blob: BlobId,
        offset: u32,
    },
    Admin(AdminRequest),
    /// The session ends: nothing is buffered any more.
    Goodbye,
    /// Where these ranges lie in the server's files, for a client on the same host that has the files' descriptors.
    /// Answer: [`Answer::Places`]. Fails as `ReadBlobs` does.
    LocateBlobs(Vec<BlobRange>),
    /// A descriptor of a pack, for reading. Only on a connection for [`crate::Purpose::Packs`].
    OpenPack {
        pack: u32,
    },
}

/// Why a request failed: an errno for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub errno: Errno,
    pub message: String,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure { errno, message: errno.to_string() }
    }
}

/// The answer to a [`Request`], in a frame with its correlation number.
pub type Response = Result<Answer, Failure>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Renewed {
        durable_order: u64,
    },
    /// Room that was set aside, at least what was needed.
    Reserved {
        bytes: u64,
        inodes: u64,
    },
    /// First of each range.
    Numbers {
        first_ino: Ino,
        first_blob: BlobId,
    },
    Query(QueryReply),
    /// To `Call` (one) and `Journal` (as many as were sent); grants for what the changes touched.
    Applied {
        applied: Vec<Applied>,
        grants: Vec<Grant>,
    },
    /// Everything up to this order is on stable storage.
    Durable {
        order: u64,
    },
    /// The lock in the way, if any.
    Lock(Option<FileLock>),
    Blobs(Vec<BlobPart>),
    /// To the last `Reclaim`: results of the replayed changes in the order they were sent.
    Reclaimed {
        replayed: Vec<Applied>,
        grants: Vec<Grant>,
    },
    Admin(AdminReply),
    /// One for each range.
    Places(Vec<BlobPlacement>),
}

/// What the server says unasked, on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    /// Flush and drop what is cached of `ino` beyond `leave`, then answer with [`Request::ReturnLeases`].
    Recall { ino: Ino, leave: LeaseMode, stamp: u64 },
    /// Give back reserved room that is not needed: another session has run short.
    GiveBackRoom,
    /// Everything up to this order is on stable storage.
    Durable { order: u64 },
    /// The server is going down in an orderly way; reconnect and go on.
    ShuttingDown,
    /// This session was fenced: its leases are void and nothing more of it is accepted.
    Fenced,
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde::de::value::Error;
    use serde::de::{Deserializer, Error as _, Visitor};
    use serde::forward_to_deserialize_any;

    use super::*;

    /// Takes down what an enumeration's variants are called, in the order of their numbers, and decodes nothing.
    struct Variants<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Variants<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("no enumeration"))
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _name: &'static str,
            variants: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Error> {
            *self.0 = variants;
            Err(Error::custom("nothing is decoded"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    fn variants<'de, T: Deserialize<'de> + fmt::Debug>() -> &'static [&'static str] {
        let mut variants: &'static [&'static str] = &[];
        T::deserialize(Variants(&mut variants)).expect_err("nothing is decoded");
        variants
    }

    /// An operation is sent by its number. A new one goes to the end, here and there, and raises
    /// [`crate::PROTOCOL_VERSION`]: who speaks an older version cannot read it and must never be sent it.
    #[test]
    fn operations_keep_their_numbers() {
        let names = [
            "Create",
            "CreateUnnamed",
            "Link",
            "Unlink",
            "Rmdir",
            "Rename",
            "SetAttr",
            "SetXattr",
            "RemoveXattr",
            "Write",
            "Allocate",
            "CopyRange",
            "ReleaseOrphan",
        ];
        assert_eq!(variants::<MetaOp>(), names);
        let sent = crate::encode(&MetaOp::ReleaseOrphan { ino: Ino(1) }).expect("encoded");
        assert_eq!(sent.first().map(|number| names[usize::from(*number)]), Some("ReleaseOrphan"));
    }
}
