//! The few changes of rows that every operation is made of. They keep counters, references and usage in step; the
//! rules of POSIX are elsewhere.

use std::collections::BTreeMap;

use cairn_types::acl;
use cairn_types::limits::FILE_SIZE_MAX;
use cairn_types::{
    Attr, AttrFlags, BlobId, BlobPlace, Errno, Extent, ExtentList, Ino, Name, PackId, SessionId, Source, Timestamp,
};

use crate::batch::{Batch, FRAGMENTS_MAX};
use crate::error::{ApplyError, StoreError};
use crate::layout;
use crate::record::{BlobRecord, EntryRecord, InodeRecord, PackRecord, encode_extents};
use crate::view::Rows;

/// Where blobs lie that nothing references yet.
pub(crate) type PendingBlobs<'a> = &'a dyn Fn(BlobId) -> Option<BlobPlace>;

/// For changes that only take references away.
pub(crate) const NO_PENDING: PendingBlobs<'static> = &|_| None;

/// The name of `security.capability`, which a change of owner or content removes.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Largest file of a volume: chunks are numbered with 32 bits.
pub(crate) fn file_size_max(chunk_size: u32) -> u64 {
    FILE_SIZE_MAX.min(u64::from(chunk_size) << 32)
}

impl Batch {
    /// `ENOENT` if there is no such node.
    pub(crate) fn known(&self, ino: Ino) -> Result<InodeRecord, ApplyError> {
        Ok(self.inode(ino)?.ok_or(Errno::ENOENT)?)
    }

    /// `ENOENT`, or `ENOTDIR` if it is something else.
    pub(crate) fn directory(&self, ino: Ino) -> Result<InodeRecord, ApplyError> {
        let inode = self.known(ino)?;
        if inode.attr.is_dir() { Ok(inode) } else { Err(Errno::ENOTDIR.into()) }
    }

    /// The node that an entry leads to. An entry that leads nowhere is damage.
    pub(crate) fn target(&self, entry: EntryRecord) -> Result<InodeRecord, ApplyError> {
        Ok(self
            .inode(entry.ino)?
            .ok_or_else(|| StoreError::Damaged(format!("an entry leads to inode {}, which is missing", entry.ino)))?)
    }

    /// Writes a node that was there before, as a newer version of itself.
    pub(crate) fn save(&mut self, inode: &mut InodeRecord) {
        inode.attr.version += 1;
        self.set_row(layout::inode(inode.attr.ino), Some(inode.encode()));
    }

    /// Writes a new node and counts it.
    pub(crate) fn insert(&mut self, inode: &InodeRecord) {
        self.set_row(layout::inode(inode.attr.ino), Some(inode.encode()));
        self.charge_bytes(0, inode.attr.charged(self.volume.config.allocation));
        self.charge_inodes(1);
    }

    /// Notes that a node's charge went from `before` to `after` bytes.
    pub(crate) fn charge_bytes(&mut self, before: u64, after: u64) {
        self.volume.bytes_used = self.volume.bytes_used.saturating_add(after).saturating_sub(before);
        // Figures of a damaged row may be any.
        self.charge.bytes = self.charge.bytes.saturating_add((after as i64).saturating_sub(before as i64));
    }

    fn charge_inodes(&mut self, change: i64) {
        self.volume.inodes_used = self.volume.inodes_used.saturating_add_signed(change);
        self.charge.inodes += change;
    }

    /// Changes a directory's attributes along with its entries.
    pub(crate) fn change_directory(&mut self, ino: Ino, change: impl FnOnce(&mut Attr)) -> Result<(), ApplyError> {
        let mut directory = self.directory(ino)?;
        change(&mut directory.attr);
        self.save(&mut directory);
        Ok(())
    }

    /// Adds an entry to a directory that has none of that name.
    pub(crate) fn add_entry(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: EntryRecord,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        self.set_row(layout::entry(parent, name.as_bytes()), Some(entry.encode()));
        self.change_directory(parent, |attr| attr.add_entry(entry.kind, time))
    }

    /// Removes an entry that exists.
    pub(crate) fn remove_entry(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: EntryRecord,
        time: Timestamp,
    ) -> Result<(), ApplyError> {
        self.set_row(layout::entry(parent, name.as_bytes()), None);
        self.change_directory(parent, |attr| attr.remove_entry(entry.kind, time))
    }

    /// Takes one name from a non-directory. When it was the last, `pins` keep it alive; without any it is deleted.
    /// Answers whether it was the last.
    pub(crate) fn drop_name(
        &mut self,
        inode: &mut InodeRecord,
        pins: impl FnOnce() -> Vec<SessionId>,
        time: Timestamp,
    ) -> Result<bool, ApplyError> {
        inode.attr.nlink = inode.attr.nlink.saturating_sub(1);
        inode.attr.ctime = time;
        if inode.attr.nlink > 0 {
            self.save(inode);
            return Ok(false);
        }
        let pins = pins();
        if pins.is_empty() {
            self.delete(inode)?;
        } else {
            for session in pins {
                self.set_row(layout::orphan(inode.attr.ino, session), Some(Vec::new()));
            }
            self.save(inode);
        }
        Ok(true)
    }

    /// Deletes a node that no entry leads to and no session keeps. Large content is left to [`Batch::reap`].
    pub(crate) fn delete(&mut self, inode: &InodeRecord) -> Result<(), ApplyError> {
        let ino = inode.attr.ino;
        self.set_row(layout::inode(ino), None);
        self.charge_bytes(inode.attr.charged(self.volume.config.allocation), 0);
        self.charge_inodes(-1);
        if inode.attr.flags.contains(AttrFlags::HAS_XATTR) {
            for name in self.xattr_names(ino)? {
                self.set_row(layout::xattr(ino, &name), None);
            }
        }
        self.adjust_references(&inode.first_chunk, &ExtentList::default(), NO_PENDING)?;
        if inode.attr.allocated > inode.first_chunk.allocated() {
            match self.extent_rows(ino, 0, 2)?.as_slice() {
                [(chunk, list)] => self.drop_extent_row(ino, *chunk, list)?,
                _ => self.set_row(layout::trash(ino), Some(Vec::new())),
            }
        }
        Ok(())
    }

    /// Drops a row of the extents keyspace and its references.
    pub(crate) fn drop_extent_row(&mut self, ino: Ino, chunk: u32, list: &ExtentList) -> Result<(), ApplyError> {
        self.set_row(layout::extent(ino, chunk), None);
        self.adjust_references(list, &ExtentList::default(), NO_PENDING)
    }

    /// Drops extents of deleted files, at most `max_rows` chunks of them. Answers whether there is more to do.
    pub fn reap(&mut self, max_rows: usize) -> Result<bool, ApplyError> {
        self.attempt(|batch| {
            let mut budget = max_rows;
            while let Some(ino) = batch.trash(1)?.first().copied() {
                if budget == 0 {
                    return Ok(true);
                }
                let rows = batch.extent_rows(ino, 0, budget)?;
                for (chunk, list) in &rows {
                    batch.drop_extent_row(ino, *chunk, list)?;
                }
                if rows.len() < budget {
                    batch.set_row(layout::trash(ino), None);
                }
                budget -= rows.len();
            }
            Ok(false)
        })
    }

    /// Gives a chunk of a file other extents: references and allocation follow. The caller saves the node and charges
    /// the difference.
    pub(crate) fn set_chunk(
        &mut self,
        inode: &mut InodeRecord,
        chunk: u32,
        old: &ExtentList,
        new: ExtentList,
        pending: PendingBlobs<'_>,
    ) -> Result<(), ApplyError> {
        if *old == new {
            return Ok(());
        }
        let ino = inode.attr.ino;
        self.adjust_references(old, &new, pending)?;
        inode.attr.allocated = inode.attr.allocated.saturating_add(new.allocated()).saturating_sub(old.allocated());
        if new.as_slice().len() > FRAGMENTS_MAX {
            self.fragmented.insert((ino, chunk));
        }
        let was_inline = chunk == 0 && !inode.first_chunk.is_empty();
        let value = encode_extents(&new);
        let inline = chunk == 0 && value.len() <= InodeRecord::INLINE_EXTENTS_MAX;
        if !inline && !new.is_empty() {
            self.set_row(layout::extent(ino, chunk), Some(value));
        } else if !was_inline && !old.is_empty() {
            self.set_row(layout::extent(ino, chunk), None);
        }
        if chunk == 0 {
            inode.first_chunk = if inline { new } else { ExtentList::default() };
        }
        Ok(())
    }

    /// Refuses extents that no chunk can have: `ENODATA` for a blob that is not known, `EINVAL` for bytes beyond the
    /// end of a blob or of the chunk.
    pub(crate) fn check_sources(&self, extents: &[Extent], pending: PendingBlobs<'_>) -> Result<(), ApplyError> {
        let chunk_size = self.volume.config.chunk_size;
        for extent in extents {
            if extent.length == 0 || extent.offset.checked_add(extent.length).is_none_or(|end| end > chunk_size) {
                return Err(Errno::EINVAL.into());
            }
            if let Source::Blob { blob, offset } = extent.source {
                let place = self.place(blob, pending)?;
                if offset.checked_add(extent.length).is_none_or(|end| end > place.payload_len) {
                    return Err(Errno::EINVAL.into());
                }
            }
        }
        Ok(())
    }

    /// Where a blob lies, referenced or not yet (or no longer). `ENODATA` if it is not known.
    fn place(&self, blob: BlobId, pending: PendingBlobs<'_>) -> Result<BlobPlace, ApplyError> {
        if let Some(record) = self.blob(blob)? {
            return Ok(record.place);
        }
        Ok(self.unreferenced.get(&blob).copied().or_else(|| pending(blob)).ok_or(Errno::ENODATA)?)
    }

    /// Counts the references that `new` has more or fewer than `old`. A blob that was not referenced before comes
    /// from `pending`; `ENODATA` if it is not there.
    pub(crate) fn adjust_references(
        &mut self,
        old: &ExtentList,
        new: &ExtentList,
        pending: PendingBlobs<'_>,
    ) -> Result<(), ApplyError> {
        let mut changes: BTreeMap<BlobId, i64> = BTreeMap::new();
        for blob in old.blobs() {
            *changes.entry(blob).or_default() -= 1;
        }
        for blob in new.blobs() {
            *changes.entry(blob).or_default() += 1;
        }
        for (blob, change) in changes {
            if change > 0 {
                self.add_references(blob, change, pending)?;
            } else if change < 0 {
                self.drop_references(blob, -change)?;
            }
        }
        Ok(())
    }

    pub(crate) fn add_references(
        &mut self,
        blob: BlobId,
        count: i64,
        pending: PendingBlobs<'_>,
    ) -> Result<(), ApplyError> {
        let mut record = if let Some(record) = self.blob(blob)? {
            record
        } else {
            let place = self.place(blob, pending)?;
            self.change_pack(place.pack, |pack| {
                pack.live_bytes += u64::from(place.stored_len);
                pack.live_blobs += 1;
            })?;
            BlobRecord { place, references: 0 }
        };
        record.references =
            u32::try_from(i64::from(record.references) + count).map_err(|_| ApplyError::Refused(Errno::EMLINK))?;
        self.set_row(layout::blob(blob), Some(record.encode()));
        Ok(())
    }

    /// References that were not counted (damage, which `fsck` finds) are not taken away twice.
    pub(crate) fn drop_references(&mut self, blob: BlobId, count: i64) -> Result<(), ApplyError> {
        let Some(mut record) = self.blob(blob)? else {
            tracing::error!(%blob, "an extent pointed at a blob that is not known");
            return Ok(());
        };
        record.references = u32::try_from(i64::from(record.references) - count).unwrap_or(0);
        if record.references > 0 {
            self.set_row(layout::blob(blob), Some(record.encode()));
            return Ok(());
        }
        self.set_row(layout::blob(blob), None);
        self.set_unreferenced(blob, record.place);
        self.change_pack(record.place.pack, |pack| {
            pack.live_bytes = pack.live_bytes.saturating_sub(u64::from(record.place.stored_len));
            pack.live_blobs = pack.live_blobs.saturating_sub(1);
        })
    }

    pub(crate) fn change_pack(&mut self, pack: PackId, change: impl FnOnce(&mut PackRecord)) -> Result<(), ApplyError> {
        let mut record = self.pack(pack)?.unwrap_or_default();
        change(&mut record);
        self.set_row(layout::pack(pack), Some(record.encode()));
        Ok(())
    }

    /// Notes up to which length (bytes) a pack is on stable storage.
    pub fn set_pack_durable_length(&mut self, pack: PackId, length: u64) -> Result<(), ApplyError> {
        self.attempt(|batch| batch.change_pack(pack, |record| record.durable_length = length))
    }

    /// Forgets a pack. `false` (and nothing done) while blobs in it are in use.
    pub fn drop_pack(&mut self, pack: PackId) -> Result<bool, ApplyError> {
        self.attempt(|batch| match batch.pack(pack)? {
            Some(record) if record.live_blobs > 0 => Ok(false),
            _ => {
                batch.set_row(layout::pack(pack), None);
                Ok(true)
            }
        })
    }

    /// Notes that a blob's bytes now lie at `to`. `false` (and nothing done) if it is not at `from` any more.
    pub fn relocate_blob(&mut self, blob: BlobId, from: BlobPlace, to: BlobPlace) -> Result<bool, ApplyError> {
        self.attempt(|batch| {
            let Some(mut record) = batch.blob(blob)?.filter(|record| record.place == from) else {
                return Ok(false);
            };
            record.place = to;
            batch.set_row(layout::blob(blob), Some(record.encode()));
            batch.change_pack(from.pack, |pack| {
                pack.live_bytes = pack.live_bytes.saturating_sub(u64::from(from.stored_len));
                pack.live_blobs = pack.live_blobs.saturating_sub(1);
            })?;
            batch.change_pack(to.pack, |pack| {
                pack.live_bytes += u64::from(to.stored_len);
                pack.live_blobs += 1;
            })?;
            Ok(true)
        })
    }

    /// Exchanges a chunk's extents for others with the same bytes. `false` (and nothing done) if the chunk is not as
    /// `expected` any more. Times do not change. `EINVAL` if the new extents allocate another number of bytes.
    pub fn replace_extents(
        &mut self,
        ino: Ino,
        chunk: u32,
        expected: &ExtentList,
        new: &ExtentList,
        pending: PendingBlobs<'_>,
    ) -> Result<bool, ApplyError> {
        self.attempt(|batch| {
            let Some(mut inode) = batch.inode(ino)? else { return Ok(false) };
            if batch.chunk(&inode, chunk)? != *expected {
                return Ok(false);
            }
            if new.allocated() != expected.allocated() {
                return Err(Errno::EINVAL.into());
            }
            batch.check_sources(new.as_slice(), pending)?;
            batch.set_chunk(&mut inode, chunk, expected, new.clone(), pending)?;
            batch.save(&mut inode);
            Ok(true)
        })
    }

    /// Drops everything from `size` on.
    pub(crate) fn cut_content(&mut self, inode: &mut InodeRecord, size: u64) -> Result<(), ApplyError> {
        let chunk_size = self.volume.config.chunk_size;
        let Ok(first) = u32::try_from(size / u64::from(chunk_size)) else { return Ok(()) };
        let within = (size % u64::from(chunk_size)) as u32;
        for (chunk, old) in self.chunks_from(inode, first, usize::MAX)? {
            let mut new = old.clone();
            new.punch(if chunk == first { within } else { 0 }, chunk_size);
            self.set_chunk(inode, chunk, &old, new, NO_PENDING)?;
        }
        Ok(())
    }

    /// Sets, or with `None` removes, an extended attribute and keeps the node's flags in step. The caller saves it.
    pub(crate) fn set_xattr_row(
        &mut self,
        inode: &mut InodeRecord,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ApplyError> {
        let ino = inode.attr.ino;
        self.set_row(layout::xattr(ino, name), value.map(<[u8]>::to_vec));
        let names = self.xattr_names(ino)?;
        inode.attr.flags = xattr_flags(&names);
        Ok(())
    }
}

/// What a node's flags say about attributes of these names.
pub(crate) fn xattr_flags(names: &[Vec<u8>]) -> AttrFlags {
    let mut flags = AttrFlags::default();
    flags.set(AttrFlags::HAS_XATTR, !names.is_empty());
    flags.set(AttrFlags::HAS_CAPABILITY, names.iter().any(|name| name == CAPABILITY));
    flags.set(AttrFlags::HAS_ACL, names.iter().any(|name| name.starts_with(acl::PREFIX)));
    flags
}
