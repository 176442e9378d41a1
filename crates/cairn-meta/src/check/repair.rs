//! Mending what a check found.
//!
//! Every repair is an ordinary change that keeps all counters in step, and every counter that was wrong is moved by
//! the difference that was found. The repairs of one check therefore do not get in each other's way, in whatever
//! order; what one brings to light (a node that lost its wrong name), the next check finds.

use cairn_types::{Attr, AttrFlags, BlobId, BlobPlace, Errno, FileKind, Ino, Name, Timestamp};

use super::{Finding, Problem};
use crate::batch::Batch;
use crate::edit::xattr_flags;
use crate::error::{ApplyError, StoreError};
use crate::layout;
use crate::ops::release_pin;
use crate::record::{EntryRecord, InodeRecord};
use crate::view::{Rows, View};

/// Where nodes go that no name leads to.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What came of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairOutcome {
    pub repaired: usize,
    /// What metadata alone cannot mend: data that are gone.
    pub left: Vec<Finding>,
}

/// Mends `findings` of a check of the state that `batch` began with. `find_blob` searches the packs for a blob that the
/// metadata do not know. Commit durably, then check again until nothing is repaired any more: mending one thing may
/// bring another to light.
pub fn repair(
    batch: &mut Batch,
    findings: Vec<Finding>,
    time: Timestamp,
    find_blob: &dyn Fn(BlobId) -> Option<BlobPlace>,
) -> Result<RepairOutcome, StoreError> {
    let mut outcome = RepairOutcome::default();
    for finding in findings {
        match batch.attempt(|batch| mend(batch, &finding.problem, time, find_blob)) {
            Ok(true) => outcome.repaired += 1,
            Ok(false) => outcome.left.push(finding),
            Err(ApplyError::Refused(errno)) => {
                tracing::warn!(%finding, ?errno, "could not be repaired");
                outcome.left.push(finding);
            }
            Err(ApplyError::Store(error)) => return Err(error),
        }
    }
    Ok(outcome)
}

/// Whether it could be mended.
fn mend(
    batch: &mut Batch,
    problem: &Problem,
    time: Timestamp,
    find_blob: &dyn Fn(BlobId) -> Option<BlobPlace>,
) -> Result<bool, ApplyError> {
    match problem {
        Problem::Unreadable { key, .. } => batch.set_row(key.clone(), None),
        Problem::DanglingEntry { parent, name, .. } | Problem::ExtraDirectoryName { parent, name, .. } => {
            remove_entry(batch, *parent, name)?;
        }
        Problem::EntryWithoutDirectory { parent, name } => batch.set_row(layout::entry(*parent, name), None),
        Problem::EntryKind { parent, name, actual } => set_entry_kind(batch, *parent, name, *actual)?,
        Problem::LinkCount { ino, stored, actual } => change(batch, *ino, |inode| {
            inode.attr.nlink = shifted(u64::from(inode.attr.nlink), u64::from(*stored), u64::from(*actual)) as u32;
        })?,
        Problem::DirectorySize { ino, stored, actual } => change(batch, *ino, |inode| {
            inode.attr.size = shifted(inode.attr.size, *stored, *actual);
        })?,
        Problem::DirectoryParent { ino, actual, .. } => change(batch, *ino, |inode| inode.parent = Some(*actual))?,
        Problem::Unreachable { ino } => rescue(batch, *ino, time)?,
        Problem::Loop { ino } => {
            detach_directory(batch, *ino)?;
            rescue(batch, *ino, time)?;
        }
        Problem::OrphanWithoutHolder { ino } => {
            let inode = batch.known(*ino)?;
            batch.delete(&inode)?;
        }
        Problem::StrayHold { ino, session } => {
            if batch.inode(*ino)?.is_some_and(|inode| inode.attr.nlink == 0) {
                release_pin(batch, *ino, *session)?;
            } else {
                batch.set_row(layout::orphan(*ino, *session), None);
            }
        }
        Problem::Allocated { ino, stored, actual } => {
            let mut inode = batch.known(*ino)?;
            let before = inode.attr.charged(batch.volume.config.allocation);
            inode.attr.allocated = shifted(inode.attr.allocated, *stored, *actual);
            batch.charge_bytes(before, inode.attr.charged(batch.volume.config.allocation));
            batch.save(&mut inode);
        }
        Problem::ContentBeyondEnd { ino, .. } => {
            let mut inode = batch.known(*ino)?;
            let (before, size) = (inode.attr.charged(batch.volume.config.allocation), inode.attr.size);
            batch.cut_content(&mut inode, size)?;
            batch.charge_bytes(before, inode.attr.charged(batch.volume.config.allocation));
            batch.save(&mut inode);
        }
        Problem::MisplacedExtents { ino, chunk } => mend_chunk(batch, *ino, *chunk)?,
        Problem::StrayExtents { ino, chunk } => {
            for (found, list) in batch.extent_rows(*ino, *chunk, 1)? {
                if found == *chunk {
                    batch.drop_extent_row(*ino, *chunk, &list)?;
                }
            }
        }
        Problem::LiveTrash { ino } => batch.set_row(layout::trash(*ino), None),
        Problem::AttributeFlags { ino } => {
            let flags = xattr_flags(&batch.xattr_names(*ino)?);
            change(batch, *ino, |inode| inode.attr.flags = flags)?;
        }
        Problem::StrayAttribute { ino, name } => batch.set_row(layout::xattr(*ino, name), None),
        Problem::MissingBlob { blob, references, .. } => return adopt(batch, *blob, *references, find_blob),
        Problem::BlobTooShort { .. } => return Ok(false),
        Problem::BlobReferences { blob, stored, actual } => {
            let difference = i64::from(*actual) - i64::from(*stored);
            if difference > 0 {
                batch.add_references(*blob, difference, find_blob)?;
            } else {
                batch.drop_references(*blob, -difference)?;
            }
        }
        Problem::PackCounters { pack, stored, actual } => batch.change_pack(*pack, |record| {
            record.live_bytes = shifted(record.live_bytes, stored.live_bytes, actual.live_bytes);
            record.live_blobs = shifted(record.live_blobs, stored.live_blobs, actual.live_blobs);
        })?,
        Problem::BytesUsed { stored, actual } => {
            batch.volume.bytes_used = shifted(batch.volume.bytes_used, *stored, *actual);
        }
        Problem::InodesUsed { stored, actual } => {
            batch.volume.inodes_used = shifted(batch.volume.inodes_used, *stored, *actual);
        }
    }
    Ok(true)
}

/// `value`, moved by as much as `stored` was found off from `actual`.
fn shifted(value: u64, stored: u64, actual: u64) -> u64 {
    value.saturating_add(actual).saturating_sub(stored)
}

fn change(batch: &mut Batch, ino: Ino, change: impl FnOnce(&mut InodeRecord)) -> Result<(), ApplyError> {
    let mut inode = batch.known(ino)?;
    change(&mut inode);
    batch.save(&mut inode);
    Ok(())
}

fn entry(batch: &Batch, parent: Ino, name: &[u8]) -> Result<EntryRecord, ApplyError> {
    let row = batch.row(&layout::entry(parent, name))?.ok_or(Errno::ENOENT)?;
    Ok(EntryRecord::decode(&row).ok_or(Errno::EIO)?)
}

/// Removes a name without touching the times of its directory.
fn remove_entry(batch: &mut Batch, parent: Ino, name: &[u8]) -> Result<(), ApplyError> {
    let is_directory = entry(batch, parent, name)?.kind == FileKind::Directory;
    batch.set_row(layout::entry(parent, name), None);
    change(batch, parent, |inode| {
        inode.attr.size = inode.attr.size.saturating_sub(1);
        inode.attr.nlink = inode.attr.nlink.saturating_sub(u32::from(is_directory));
    })
}

fn set_entry_kind(batch: &mut Batch, parent: Ino, name: &[u8], kind: FileKind) -> Result<(), ApplyError> {
    let mut entry = entry(batch, parent, name)?;
    let before = u32::from(entry.kind == FileKind::Directory);
    entry.kind = kind;
    let after = u32::from(kind == FileKind::Directory);
    batch.set_row(layout::entry(parent, name), Some(entry.encode()));
    change(batch, parent, |inode| inode.attr.nlink = inode.attr.nlink.saturating_add(after).saturating_sub(before))
}

/// Takes a directory out of the one that it believes to be in.
fn detach_directory(batch: &mut Batch, ino: Ino) -> Result<(), ApplyError> {
    let parent = batch.directory(ino)?.parent.unwrap_or(Ino::ROOT);
    for (name, child, _) in batch.directory_entries(parent, None, usize::MAX)? {
        if child == ino {
            remove_entry(batch, parent, name.as_bytes())?;
        }
    }
    Ok(())
}

/// Gives a nameless node a name in `lost+found`.
fn rescue(batch: &mut Batch, ino: Ino, time: Timestamp) -> Result<(), ApplyError> {
    let mut inode = batch.known(ino)?;
    let folder = lost_and_found(batch, time)?;
    let name = Name::new(format!("#{ino}").as_bytes())?;
    if batch.entry(folder, &name)?.is_some() {
        return Err(Errno::EEXIST.into());
    }
    batch.add_entry(folder, &name, EntryRecord { ino, kind: inode.attr.kind }, time)?;
    if inode.attr.is_dir() {
        inode.parent = Some(folder);
    } else {
        inode.attr.nlink = 1;
    }
    batch.save(&mut inode);
    Ok(())
}

fn lost_and_found(batch: &mut Batch, time: Timestamp) -> Result<Ino, ApplyError> {
    let name = Name::new(LOST_AND_FOUND)?;
    if let Some(entry) = batch.entry(Ino::ROOT, &name)? {
        return if entry.kind == FileKind::Directory { Ok(entry.ino) } else { Err(Errno::ENOTDIR.into()) };
    }
    let ino = batch.allocate_inos(1);
    let mut folder = InodeRecord::new(Attr {
        ino,
        kind: FileKind::Directory,
        mode: 0o700,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        version: 1,
        flags: AttrFlags::default(),
    });
    folder.parent = Some(Ino::ROOT);
    batch.insert(&folder);
    batch.add_entry(Ino::ROOT, &name, EntryRecord { ino, kind: FileKind::Directory }, time)?;
    Ok(ino)
}

/// Makes one well-formed list of what is kept of a chunk: what lies in the node's row wins, what reaches beyond the
/// chunk is cut.
fn mend_chunk(batch: &mut Batch, ino: Ino, chunk: u32) -> Result<(), ApplyError> {
    let mut inode = batch.known(ino)?;
    let before = inode.attr.charged(batch.volume.config.allocation);
    let row = batch.extent_rows(ino, chunk, 1)?.into_iter().find(|(found, _)| *found == chunk);
    if let Some((_, list)) = row
        && (list.is_empty() || chunk == 0 && !inode.first_chunk.is_empty())
    {
        batch.drop_extent_row(ino, chunk, &list)?;
        inode.attr.allocated = inode.attr.allocated.saturating_sub(list.allocated());
    }
    let old = batch.chunk(&inode, chunk)?;
    let mut new = old.clone();
    new.punch(batch.volume.config.chunk_size, u32::MAX);
    batch.set_chunk(&mut inode, chunk, &old, new, &|_| None)?;
    batch.charge_bytes(before, inode.attr.charged(batch.volume.config.allocation));
    batch.save(&mut inode);
    Ok(())
}

/// Takes a blob back whose row is gone but whose bytes were found. `references` is 0 for all but one of the problems
/// that name it, which counts for all.
fn adopt(
    batch: &mut Batch,
    blob: BlobId,
    references: u32,
    find_blob: &dyn Fn(BlobId) -> Option<BlobPlace>,
) -> Result<bool, ApplyError> {
    if references == 0 {
        return Ok(batch.blob(blob)?.is_some());
    }
    if find_blob(blob).is_none() {
        return Ok(false);
    }
    batch.add_references(blob, i64::from(references), find_blob)?;
    Ok(true)
}
