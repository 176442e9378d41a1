//! `fsck`: proves every invariant of a volume's metadata from its rows alone, and repairs what does not hold.
//!
//! Reads each keyspace once, in order; memory grows by 24 bytes for each name and each reference to a blob. Damage is
//! looked up again in detail only when there is some. It sees metadata only: whether the bytes in the packs are
//! intact is the chunk server's to say.

mod content;
pub(crate) mod cursor;
mod path;
mod repair;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use cairn_types::{BlobId, FileKind, Ino, PackId, SessionId};

pub use self::repair::{RepairOutcome, repair};
use crate::error::StoreError;
use crate::record::PackRecord;
use crate::snapshot::Snapshot;

/// Something that does not hold. What a volume says of itself is `stored`, what follows from its other rows `actual`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A row that makes no sense.
    Unreadable {
        what: &'static str,
        key: Vec<u8>,
    },
    /// A name that leads to a node that does not exist.
    DanglingEntry {
        parent: Ino,
        name: Vec<u8>,
        ino: Ino,
    },
    /// A name that says another kind of node than it leads to.
    EntryKind {
        parent: Ino,
        name: Vec<u8>,
        actual: FileKind,
    },
    /// A name in a directory that does not exist, or in something that is none.
    EntryWithoutDirectory {
        parent: Ino,
        name: Vec<u8>,
    },
    /// One more name of a directory, which can have only one.
    ExtraDirectoryName {
        parent: Ino,
        name: Vec<u8>,
        ino: Ino,
    },
    LinkCount {
        ino: Ino,
        stored: u32,
        actual: u32,
    },
    /// Number of entries.
    DirectorySize {
        ino: Ino,
        stored: u64,
        actual: u64,
    },
    /// The directory that a directory believes to be in.
    DirectoryParent {
        ino: Ino,
        stored: Option<Ino>,
        actual: Ino,
    },
    /// A node that no name leads to and nobody keeps open.
    Unreachable {
        ino: Ino,
    },
    /// A directory that is, over some steps, inside itself.
    Loop {
        ino: Ino,
    },
    /// A nameless file that nobody keeps open.
    OrphanWithoutHolder {
        ino: Ino,
    },
    /// A hold on a node that has a name, does not exist, or of a session that does not exist.
    StrayHold {
        ino: Ino,
        session: SessionId,
    },
    /// Bytes that are not holes.
    Allocated {
        ino: Ino,
        stored: u64,
        actual: u64,
    },
    /// Content beyond the end of the file.
    ContentBeyondEnd {
        ino: Ino,
        chunk: u32,
    },
    /// Extents that reach beyond their chunk, or extents of the first chunk kept twice.
    MisplacedExtents {
        ino: Ino,
        chunk: u32,
    },
    /// Extents of a node that does not exist or has no content.
    StrayExtents {
        ino: Ino,
        chunk: u32,
    },
    /// A node that exists although its content is to be dropped.
    LiveTrash {
        ino: Ino,
    },
    /// Flags that do not agree with the extended attributes.
    AttributeFlags {
        ino: Ino,
    },
    /// An extended attribute of a node that does not exist.
    StrayAttribute {
        ino: Ino,
        name: Vec<u8>,
    },
    /// Extents point at a blob that is not known: reading them fails.
    MissingBlob {
        blob: BlobId,
        references: u32,
        ino: Ino,
        chunk: u32,
    },
    /// An extent reaches beyond the end of its blob: reading it fails.
    BlobTooShort {
        blob: BlobId,
        length: u32,
        needed: u32,
    },
    BlobReferences {
        blob: BlobId,
        stored: u32,
        actual: u32,
    },
    /// Live bytes and blobs of a pack.
    PackCounters {
        pack: PackId,
        stored: PackRecord,
        actual: PackRecord,
    },
    /// The volume's usage in bytes.
    BytesUsed {
        stored: u64,
        actual: u64,
    },
    /// The volume's usage in nodes.
    InodesUsed {
        stored: u64,
        actual: u64,
    },
}

impl Problem {
    /// The node that is concerned, if it is one.
    pub fn ino(&self) -> Option<Ino> {
        match self {
            Problem::DanglingEntry { parent, .. }
            | Problem::EntryKind { parent, .. }
            | Problem::EntryWithoutDirectory { parent, .. }
            | Problem::ExtraDirectoryName { parent, .. } => Some(*parent),
            Problem::LinkCount { ino, .. }
            | Problem::DirectorySize { ino, .. }
            | Problem::DirectoryParent { ino, .. }
            | Problem::Unreachable { ino }
            | Problem::Loop { ino }
            | Problem::OrphanWithoutHolder { ino }
            | Problem::StrayHold { ino, .. }
            | Problem::Allocated { ino, .. }
            | Problem::ContentBeyondEnd { ino, .. }
            | Problem::MisplacedExtents { ino, .. }
            | Problem::StrayExtents { ino, .. }
            | Problem::LiveTrash { ino }
            | Problem::AttributeFlags { ino }
            | Problem::StrayAttribute { ino, .. }
            | Problem::MissingBlob { ino, .. } => Some(*ino),
            Problem::Unreadable { .. }
            | Problem::BlobTooShort { .. }
            | Problem::BlobReferences { .. }
            | Problem::PackCounters { .. }
            | Problem::BytesUsed { .. }
            | Problem::InodesUsed { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable { what, key } => write!(out, "{what} row {} does not decode", key.escape_ascii()),
            Problem::DanglingEntry { parent, name, ino } => {
                write!(out, "{} in directory {parent} leads to inode {ino}, which does not exist", name.escape_ascii())
            }
            Problem::EntryKind { parent, name, actual } => {
                write!(out, "{} in directory {parent} is listed as another kind than {actual:?}", name.escape_ascii())
            }
            Problem::EntryWithoutDirectory { parent, name } => {
                write!(out, "{} is listed in inode {parent}, which is no directory", name.escape_ascii())
            }
            Problem::ExtraDirectoryName { parent, name, ino } => {
                write!(out, "{} in directory {parent} is one more name of directory {ino}", name.escape_ascii())
            }
            Problem::LinkCount { ino, stored, actual } => {
                write!(out, "inode {ino} counts {stored} links and has {actual}")
            }
            Problem::DirectorySize { ino, stored, actual } => {
                write!(out, "directory {ino} counts {stored} entries and has {actual}")
            }
            Problem::DirectoryParent { ino, actual, .. } => {
                write!(out, "directory {ino} does not know that it is in {actual}")
            }
            Problem::Unreachable { ino } => write!(out, "no name leads to inode {ino}"),
            Problem::Loop { ino } => write!(out, "directory {ino} is inside itself"),
            Problem::OrphanWithoutHolder { ino } => write!(out, "nameless inode {ino} is kept for nobody"),
            Problem::StrayHold { ino, session } => write!(out, "session {session} has no business to keep inode {ino}"),
            Problem::Allocated { ino, stored, actual } => {
                write!(out, "inode {ino} counts {stored} allocated bytes and has {actual}")
            }
            Problem::ContentBeyondEnd { ino, chunk } => {
                write!(out, "chunk {chunk} of inode {ino} has content beyond the end of the file")
            }
            Problem::MisplacedExtents { ino, chunk } => {
                write!(out, "chunk {chunk} of inode {ino} has extents that cannot be there")
            }
            Problem::StrayExtents { ino, chunk } => {
                write!(out, "extents of chunk {chunk} belong to inode {ino}, which has no content")
            }
            Problem::LiveTrash { ino } => write!(out, "inode {ino} exists and is marked as deleted"),
            Problem::AttributeFlags { ino } => {
                write!(out, "flags of inode {ino} do not agree with its extended attributes")
            }
            Problem::StrayAttribute { ino, name } => {
                write!(out, "attribute {} belongs to inode {ino}, which does not exist", name.escape_ascii())
            }
            Problem::MissingBlob { blob, ino, chunk, .. } => {
                write!(out, "chunk {chunk} of inode {ino} points at blob {blob}, which is not known")
            }
            Problem::BlobTooShort { blob, length, needed } => {
                write!(out, "blob {blob} has {length} bytes, extents point at {needed}")
            }
            Problem::BlobReferences { blob, stored, actual } => {
                write!(out, "blob {blob} counts {stored} references and has {actual}")
            }
            Problem::PackCounters { pack, stored, actual } => write!(
                out,
                "pack {pack} counts {} live bytes in {} blobs and has {} in {}",
                stored.live_bytes, stored.live_blobs, actual.live_bytes, actual.live_blobs
            ),
            Problem::BytesUsed { stored, actual } => write!(out, "the volume counts {stored} bytes and has {actual}"),
            Problem::InodesUsed { stored, actual } => write!(out, "the volume counts {stored} nodes and has {actual}"),
        }
    }
}

/// A problem and, where it has one, the path of the node concerned (from the volume's root).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub problem: Problem,
    pub path: Option<PathBuf>,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(out, "{} ({})", self.problem, path.display()),
            None => self.problem.fmt(out),
        }
    }
}

/// Where a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: &'static str,
    /// Rows read in this stage, of about `total`.
    pub done: u64,
    pub total: u64,
}

/// Most problems that one check lists; after these are repaired, the next check shows the rest.
pub const PROBLEMS_MAX: usize = 100_000;

/// Checks everything. `progress` is called every few thousand rows. An empty answer means that all invariants hold.
pub fn check(snapshot: &Snapshot, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Finding>, StoreError> {
    let mut check = Check { snapshot, progress, problems: Vec::new(), references: Vec::new() };
    check.tree()?;
    check.content()?;
    let Check { problems, .. } = check;
    path::with_paths(snapshot, problems)
}

/// A check under way.
struct Check<'a> {
    snapshot: &'a Snapshot,
    progress: &'a mut dyn FnMut(Progress),
    problems: Vec<Problem>,
    /// For every reference: the blob, and the end of what is needed of it.
    references: Vec<(BlobId, u32)>,
}

impl Check<'_> {
    fn found(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn step(&mut self, stage: &'static str, done: u64, total: u64) {
        /// Rows between two reports: some milliseconds.
        const EVERY: u64 = 4096;
        if done.is_multiple_of(EVERY) {
            (self.progress)(Progress { stage, done, total: total.max(done) });
        }
    }
}

/// Live bytes and blobs by pack.
type PackSums = BTreeMap<PackId, PackRecord>;
