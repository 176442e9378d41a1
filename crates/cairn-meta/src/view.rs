//! Typed reading of rows, the same over a [`crate::Snapshot`] and over a [`crate::Batch`] with its own changes.
//!
//! Knows what a row says, not what an operation means by it.

use std::ops::ControlFlow;

use cairn_types::{BlobId, ExtentList, FileKind, Ino, Name, PackId, SessionId};

use crate::error::StoreError;
use crate::kv::Visitor;
use crate::layout::{self, Range};
use crate::record::{BlobRecord, EntryRecord, InodeRecord, PackRecord, SessionRecord, decode_extents};

/// Something whose rows can be read.
pub(crate) trait View {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits rows with `from <= key < until` in order.
    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// Reads a row and decodes it.
fn decoded<T>(
    view: &(impl View + ?Sized),
    key: &[u8],
    what: &str,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, StoreError> {
    match view.row(key)? {
        None => Ok(None),
        Some(value) => decode(&value).map(Some).ok_or_else(|| StoreError::row(what, key)),
    }
}

/// Up to `limit` rows of `range`, decoded.
fn collected<T>(
    view: &(impl View + ?Sized),
    (from, until): &Range,
    limit: usize,
    what: &str,
    mut decode: impl FnMut(&[u8], &[u8]) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = Vec::new();
    if limit == 0 {
        return Ok(rows);
    }
    let mut damage = None;
    view.scan(from, until, &mut |key, value| {
        let Some(row) = decode(key, value) else {
            damage = Some(StoreError::row(what, key));
            return ControlFlow::Break(());
        };
        rows.push(row);
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    match damage {
        Some(error) => Err(error),
        None => Ok(rows),
    }
}

pub(crate) trait Rows: View {
    fn inode(&self, ino: Ino) -> Result<Option<InodeRecord>, StoreError> {
        decoded(self, &layout::inode(ino), "inode", |value| InodeRecord::decode(ino, value))
    }

    fn entry(&self, parent: Ino, name: &Name) -> Result<Option<EntryRecord>, StoreError> {
        decoded(self, &layout::entry(parent, name.as_bytes()), "entry", EntryRecord::decode)
    }

    fn directory_entries(
        &self,
        directory: Ino,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, Ino, FileKind)>, StoreError> {
        let (mut from, until) = layout::entries(directory);
        if let Some(name) = after {
            from = layout::after(layout::entry(directory, name.as_bytes()));
        }
        collected(self, &(from, until), limit, "entry", |key, value| {
            let (_, name) = layout::parse_entry(key)?;
            let entry = EntryRecord::decode(value)?;
            Some((Name::new(name).ok()?, entry.ino, entry.kind))
        })
    }

    /// Extents of one chunk; empty if it has none.
    fn chunk(&self, inode: &InodeRecord, chunk: u32) -> Result<ExtentList, StoreError> {
        if chunk == 0 && !inode.first_chunk.is_empty() {
            return Ok(inode.first_chunk.clone());
        }
        if inode.attr.allocated == inode.first_chunk.allocated() {
            return Ok(ExtentList::default());
        }
        let key = layout::extent(inode.attr.ino, chunk);
        Ok(decoded(self, &key, "extents", decode_extents)?.unwrap_or_default())
    }

    /// Chunks with extents from `first` on, at most `limit` of them.
    fn chunks_from(&self, inode: &InodeRecord, first: u32, limit: usize) -> Result<Vec<(u32, ExtentList)>, StoreError> {
        let mut chunks = Vec::new();
        if first == 0 && !inode.first_chunk.is_empty() && limit > 0 {
            chunks.push((0, inode.first_chunk.clone()));
        }
        if inode.attr.allocated > inode.first_chunk.allocated() {
            chunks.extend(self.extent_rows(inode.attr.ino, first, limit - chunks.len())?);
        }
        Ok(chunks)
    }

    /// Rows of the extents keyspace alone, without what lies in the inode row.
    fn extent_rows(&self, ino: Ino, first: u32, limit: usize) -> Result<Vec<(u32, ExtentList)>, StoreError> {
        let (_, until) = layout::extents(ino);
        collected(self, &(layout::extent(ino, first), until), limit, "extents", |key, value| {
            Some((layout::parse_extent(key)?.1, decode_extents(value)?))
        })
    }

    fn blob(&self, blob: BlobId) -> Result<Option<BlobRecord>, StoreError> {
        decoded(self, &layout::blob(blob), "blob", BlobRecord::decode)
    }

    fn pack(&self, pack: PackId) -> Result<Option<PackRecord>, StoreError> {
        decoded(self, &layout::pack(pack), "pack", PackRecord::decode)
    }

    fn packs(&self) -> Result<Vec<(PackId, PackRecord)>, StoreError> {
        collected(self, &layout::space(layout::PACKS), usize::MAX, "pack", |key, value| {
            Some((layout::parse_pack(key)?, PackRecord::decode(value)?))
        })
    }

    fn session_record(&self, session: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        decoded(self, &layout::session(session), "session", SessionRecord::decode)
    }

    fn session_records(&self) -> Result<Vec<(SessionId, SessionRecord)>, StoreError> {
        collected(self, &layout::space(layout::SESSIONS), usize::MAX, "session", |key, value| {
            Some((layout::parse_session(key)?, SessionRecord::decode(value)?))
        })
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.row(&layout::xattr(ino, name))
    }

    fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>, StoreError> {
        collected(self, &layout::xattrs(ino), usize::MAX, "attribute", |key, _| {
            layout::parse_xattr(key).map(|(_, name)| name.to_vec())
        })
    }

    /// Sessions that keep a nameless file alive, at most `limit` of them.
    fn pins(&self, ino: Ino, limit: usize) -> Result<Vec<SessionId>, StoreError> {
        collected(self, &layout::orphans(ino), limit, "orphan", |key, _| {
            layout::parse_orphan(key).map(|(_, session)| session)
        })
    }

    /// Every nameless file with each session that keeps it.
    fn all_pins(&self) -> Result<Vec<(Ino, SessionId)>, StoreError> {
        collected(self, &layout::space(layout::ORPHANS), usize::MAX, "orphan", |key, _| layout::parse_orphan(key))
    }

    fn trash(&self, limit: usize) -> Result<Vec<Ino>, StoreError> {
        collected(self, &layout::space(layout::TRASH), limit, "trash", |key, _| layout::parse_trash(key))
    }
}

impl<V: View + ?Sized> Rows for V {}
