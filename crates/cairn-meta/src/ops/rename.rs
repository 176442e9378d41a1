//! `rename`, with `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.

use cairn_types::{Errno, FileKind, Ino, Name, OpReply, RenameMode, Timestamp};

use super::remove::holders;
use super::reply;
use crate::batch::{ApplyContext, Batch};
use crate::error::ApplyError;
use crate::layout;
use crate::record::EntryRecord;
use crate::view::Rows;

/// A name in a directory.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: Ino,
    pub(super) name: &'a Name,
}

pub(super) fn rename(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    from: Place<'_>,
    to: Place<'_>,
    mode: RenameMode,
    keep: bool,
    time: Timestamp,
) -> Result<OpReply, ApplyError> {
    batch.directory(from.parent)?;
    batch.directory(to.parent)?;
    let moved = batch.entry(from.parent, from.name)?.ok_or(Errno::ENOENT)?;
    let there = batch.entry(to.parent, to.name)?;
    match mode {
        RenameMode::NoReplace if there.is_some() => return Err(Errno::EEXIST.into()),
        RenameMode::Exchange if there.is_none() => return Err(Errno::ENOENT.into()),
        _ => {}
    }
    // In the order of the kernel: loops first, then "the same file", then kinds.
    if moved.kind == FileKind::Directory && is_within(batch, to.parent, moved.ino)? {
        return Err(Errno::EINVAL.into());
    }
    if let Some(there) = there {
        if there.kind == FileKind::Directory && is_within(batch, from.parent, there.ino)? {
            let errno = if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY };
            return Err(errno.into());
        }
        if there.ino == moved.ino {
            return Ok(OpReply { subject: Some(moved.ino), ..reply(batch, &[moved.ino, from.parent, to.parent])? });
        }
    }
    let removed = match there {
        Some(there) if mode == RenameMode::Exchange => {
            exchange(batch, from, to, moved, there, time)?;
            None
        }
        there => replace(batch, context, from, to, moved, there, keep, time)?,
    };
    let mut inos = vec![moved.ino, from.parent, to.parent];
    inos.extend(there.map(|entry| entry.ino));
    Ok(OpReply { subject: Some(moved.ino), removed, ..reply(batch, &inos)? })
}

/// Moves an entry over whatever is at the new place. Answers the node that lost its last name, if any.
#[allow(clippy::too_many_arguments)]
fn replace(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    from: Place<'_>,
    to: Place<'_>,
    moved: EntryRecord,
    there: Option<EntryRecord>,
    keep: bool,
    time: Timestamp,
) -> Result<Option<Ino>, ApplyError> {
    let mut removed = None;
    if let Some(there) = there {
        match (moved.kind, there.kind) {
            (FileKind::Directory, FileKind::Directory) => {
                let replaced = batch.target(there)?;
                if replaced.attr.size > 0 {
                    return Err(Errno::ENOTEMPTY.into());
                }
                batch.remove_entry(to.parent, to.name, there, time)?;
                batch.delete(&replaced)?;
                removed = Some(there.ino);
            }
            (FileKind::Directory, _) => return Err(Errno::ENOTDIR.into()),
            (_, FileKind::Directory) => return Err(Errno::EISDIR.into()),
            _ => {
                let mut replaced = batch.target(there)?;
                batch.remove_entry(to.parent, to.name, there, time)?;
                let last = batch.drop_name(&mut replaced, || holders(context, there.ino, keep), time)?;
                removed = last.then_some(there.ino);
            }
        }
    }
    batch.remove_entry(from.parent, from.name, moved, time)?;
    batch.add_entry(to.parent, to.name, moved, time)?;
    note_move(batch, moved, to.parent, time)?;
    Ok(removed)
}

fn exchange(
    batch: &mut Batch,
    from: Place<'_>,
    to: Place<'_>,
    moved: EntryRecord,
    there: EntryRecord,
    time: Timestamp,
) -> Result<(), ApplyError> {
    batch.set_row(layout::entry(from.parent, from.name.as_bytes()), Some(there.encode()));
    batch.set_row(layout::entry(to.parent, to.name.as_bytes()), Some(moved.encode()));
    let is_directory = |entry: EntryRecord| u32::from(entry.kind == FileKind::Directory);
    let (leaving, arriving) = (is_directory(moved), is_directory(there));
    batch.change_directory(from.parent, |attr| {
        attr.entries_changed(time);
        attr.nlink = (attr.nlink + arriving).saturating_sub(leaving);
    })?;
    batch.change_directory(to.parent, |attr| {
        attr.entries_changed(time);
        attr.nlink = (attr.nlink + leaving).saturating_sub(arriving);
    })?;
    note_move(batch, moved, to.parent, time)?;
    note_move(batch, there, from.parent, time)
}

/// Notes on a moved node when and, for a directory, where it went.
fn note_move(batch: &mut Batch, entry: EntryRecord, parent: Ino, time: Timestamp) -> Result<(), ApplyError> {
    let mut inode = batch.target(entry)?;
    inode.attr.ctime = time;
    if inode.attr.is_dir() {
        inode.parent = Some(parent);
    }
    batch.save(&mut inode);
    Ok(())
}

/// Whether `directory` is `ancestor` or lies below it.
fn is_within(batch: &Batch, directory: Ino, ancestor: Ino) -> Result<bool, ApplyError> {
    let mut current = directory;
    // A loop of parents would be damage; deeper than there are nodes is a loop.
    for _ in 0..=batch.volume.inodes_used {
        if current == ancestor {
            return Ok(true);
        }
        if current == Ino::ROOT {
            return Ok(false);
        }
        current = batch.directory(current)?.parent.unwrap_or(Ino::ROOT);
    }
    Err(Errno::EIO.into())
}
