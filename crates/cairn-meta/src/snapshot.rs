//! Reading a volume as one commit left it.

use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{
    Attr, BlobId, Errno, ExtentList, FileKind, FsResult, Ino, MetaOp, Name, OpReply, PackId, SessionId, Source,
};

use crate::error::{ApplyError, StoreError, for_program};
use crate::kv::{Reader, Visitor};
use crate::ops;
use crate::record::{BlobRecord, InodeRecord, PackRecord, SessionRecord, VolumeConfig, VolumeRecord};
use crate::view::{Rows, View};

/// Most extents that [`Snapshot::node`] tells: with them, a listing of thousands still fits a message.
const NODE_EXTENTS_MAX: usize = 4;

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    Data,
    Hole,
}

/// Fill and limits of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Logical bytes, as `du` counts them.
    pub bytes_used: u64,
    pub bytes_limit: u64,
    /// Nodes, the root included.
    pub inodes_used: u64,
    pub inodes_limit: u64,
    /// Bytes in packs that blobs in use take.
    pub live_stored_bytes: u64,
}

/// The state of one commit. Cheap to clone; short-lived, because the store cannot reuse space while one is held.
///
/// The methods that answer programs return an errno; trouble with the store itself is logged and becomes `EIO`.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) volume: Arc<VolumeRecord>,
}

impl View for Snapshot {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reader.get(key)
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.reader.scan(from, until, visit)
    }
}

impl Snapshot {
    pub fn config(&self) -> &VolumeConfig {
        &self.volume.config
    }

    /// Order number of the last change that this state contains.
    pub fn last_order(&self) -> u64 {
        self.volume.last_order
    }

    pub fn usage(&self) -> Result<VolumeUsage, StoreError> {
        Ok(VolumeUsage {
            bytes_used: self.volume.bytes_used,
            bytes_limit: self.volume.config.bytes_limit,
            inodes_used: self.volume.inodes_used,
            inodes_limit: self.volume.config.inodes_limit,
            live_stored_bytes: self.packs()?.iter().map(|(_, pack)| pack.live_bytes).sum(),
        })
    }

    /// `ENOENT` if there is no such node.
    pub fn attr(&self, ino: Ino) -> FsResult<Attr> {
        for_program(self.known(ino).map(|inode| inode.attr))
    }

    /// Attributes and, of a regular file whose content is all in few extents of its first chunk, those extents: what a
    /// reader of a small file needs, from one row. `ENOENT` if there is no such node.
    pub fn node(&self, ino: Ino) -> FsResult<(Attr, Option<ExtentList>)> {
        for_program(self.known(ino).map(|inode| {
            let whole = inode.attr.kind == FileKind::Regular
                && inode.first_chunk.as_slice().len() <= NODE_EXTENTS_MAX
                && inode.first_chunk.allocated() == inode.attr.allocated;
            (inode.attr, whole.then_some(inode.first_chunk))
        }))
    }

    /// Who is called `name` in `parent`. `ENOENT` or `ENOTDIR` concern the parent.
    pub fn lookup(&self, parent: Ino, name: &Name) -> FsResult<Option<Attr>> {
        for_program(self.find(parent, name))
    }

    /// Up to `limit` entries after `after`, in bytewise order of names. `ENOENT`, `ENOTDIR`.
    pub fn entries(&self, directory: Ino, after: Option<&Name>, limit: usize) -> FsResult<Vec<(Name, Ino, FileKind)>> {
        for_program(self.directory(directory).and_then(|_| Ok(self.directory_entries(directory, after, limit)?)))
    }

    /// The directory that holds this directory; the root's is itself. `ENOENT`, `ENOTDIR`.
    pub fn parent(&self, directory: Ino) -> FsResult<Ino> {
        for_program(self.directory(directory).and_then(|inode| inode.parent.ok_or(Errno::ENOTDIR.into())))
    }

    /// Target of a symbolic link. `ENOENT`; `EINVAL` if it is something else.
    pub fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        for_program(self.known(ino).and_then(|inode| match inode.attr.kind {
            FileKind::Symlink => Ok(inode.target),
            _ => Err(Errno::EINVAL.into()),
        }))
    }

    /// Extents of chunks `first_chunk .. first_chunk + count`; chunks without any are left out. `ENOENT`.
    pub fn extents(&self, ino: Ino, first_chunk: u32, count: u32) -> FsResult<Vec<(u32, ExtentList)>> {
        for_program(self.known(ino).and_then(|inode| {
            let mut chunks = self.chunks_from(&inode, first_chunk, count as usize)?;
            chunks.retain(|(chunk, _)| chunk - first_chunk < count);
            Ok(chunks)
        }))
    }

    /// Next data or hole at or after `offset` (bytes); allocated zeros count as a hole, and there is one at the end.
    /// `ENOENT`; `ENXIO` at or beyond the end and when no data follows.
    pub fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        for_program(self.known(ino).and_then(|inode| self.seek_in(&inode, offset, target)))
    }

    /// Value of an extended attribute. `ENOENT`; `ENODATA` if it has none of that name.
    pub fn get_xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
        for_program(self.known(ino).and_then(|_| Ok(self.xattr(ino, name)?.ok_or(Errno::ENODATA)?.into())))
    }

    /// Names of the extended attributes, in bytewise order. `ENOENT`.
    pub fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        for_program(self.known(ino).and_then(|_| Ok(self.xattr_names(ino)?.into_iter().map(Bytes::from).collect())))
    }

    /// Where a blob lies, if any extent points at it.
    pub fn blob_record(&self, blob: BlobId) -> Result<Option<BlobRecord>, StoreError> {
        self.blob(blob)
    }

    pub fn sessions(&self) -> Result<Vec<(SessionId, SessionRecord)>, StoreError> {
        self.session_records()
    }

    pub fn pack_records(&self) -> Result<Vec<(PackId, PackRecord)>, StoreError> {
        self.packs()
    }

    /// As [`crate::Batch::touched`].
    pub fn touched(&self, op: &MetaOp) -> FsResult<Vec<Ino>> {
        for_program(ops::touched(self, op))
    }

    /// As [`crate::Batch::rebuild_reply`].
    pub fn rebuild_reply(&self, op: &MetaOp) -> FsResult<OpReply> {
        for_program(ops::rebuild_reply(self, op))
    }

    fn known(&self, ino: Ino) -> Result<InodeRecord, ApplyError> {
        Ok(self.inode(ino)?.ok_or(Errno::ENOENT)?)
    }

    fn directory(&self, ino: Ino) -> Result<InodeRecord, ApplyError> {
        let inode = self.known(ino)?;
        if inode.attr.is_dir() { Ok(inode) } else { Err(Errno::ENOTDIR.into()) }
    }

    fn find(&self, parent: Ino, name: &Name) -> Result<Option<Attr>, ApplyError> {
        let Some(entry) = self.entry(parent, name)? else {
            self.directory(parent)?;
            return Ok(None);
        };
        let inode = self
            .inode(entry.ino)?
            .ok_or_else(|| StoreError::Damaged(format!("entry {name} of inode {parent} leads nowhere")))?;
        Ok(Some(inode.attr))
    }

    fn seek_in(&self, inode: &InodeRecord, offset: u64, target: SeekTarget) -> Result<u64, ApplyError> {
        /// Chunks read at a time.
        const STEP: usize = 256;
        let size = inode.attr.size;
        if offset >= size {
            return Err(Errno::ENXIO.into());
        }
        let chunk_size = u64::from(self.config().chunk_size);
        let mut cursor = offset;
        loop {
            if cursor >= size {
                return if target == SeekTarget::Hole { Ok(size) } else { Err(Errno::ENXIO.into()) };
            }
            let first = u32::try_from(cursor / chunk_size).map_err(|_| Errno::ENXIO)?;
            let chunks = self.chunks_from(inode, first, STEP)?;
            for (chunk, list) in &chunks {
                for extent in list.as_slice() {
                    let start = u64::from(*chunk) * chunk_size + u64::from(extent.offset);
                    let end = start + u64::from(extent.length);
                    if end <= cursor || extent.source == Source::Zeros {
                        continue;
                    }
                    match target {
                        SeekTarget::Data if start.max(cursor) < size => return Ok(start.max(cursor)),
                        SeekTarget::Data => return Err(Errno::ENXIO.into()),
                        SeekTarget::Hole if start > cursor => return Ok(cursor.min(size)),
                        SeekTarget::Hole => cursor = end,
                    }
                }
            }
            match chunks.last() {
                Some((last, _)) if chunks.len() == STEP && *last < u32::MAX => {
                    let next = (u64::from(*last) + 1) * chunk_size;
                    match target {
                        SeekTarget::Data => cursor = next,
                        SeekTarget::Hole if cursor < next => return Ok(cursor.min(size)),
                        SeekTarget::Hole => {}
                    }
                }
                _ if target == SeekTarget::Hole => return Ok(cursor.min(size)),
                _ => return Err(Errno::ENXIO.into()),
            }
        }
    }
}
