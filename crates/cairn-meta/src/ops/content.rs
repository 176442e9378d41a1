//! What files hold: flushed writes, `fallocate`, `copy_file_range`.

use std::collections::BTreeMap;

use cairn_types::{AllocateMode, Errno, Extent, Ino, OpReply, Source, Timestamp, WrittenExtent};

use super::attributes::kill_privileges;
use super::{must_be_regular, reply};
use crate::batch::{ApplyContext, Batch};
use crate::edit::{NO_PENDING, file_size_max};
use crate::error::ApplyError;
use crate::record::InodeRecord;
use crate::view::Rows;

/// Most chunks that one `copy_file_range` goes over; programs ask again for the rest.
const COPY_CHUNKS_MAX: u64 = 1024;

/// A place in a file, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) ino: Ino,
    pub(super) offset: u64,
}

/// The times of a flushed write.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) mtime: Timestamp,
    /// Of the last write that is part of it.
    pub(super) time: Timestamp,
}

/// What comes with every change of content that is made at once.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) kill_privileges: bool,
    pub(super) time: Timestamp,
}

pub(super) fn write(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    ino: Ino,
    extents: &[WrittenExtent],
    size: u64,
    times: Times,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    must_be_regular(inode.attr.kind)?;
    let chunk_size = batch.volume.config.chunk_size;
    let mut chunks: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
    for written in extents {
        chunks.entry(written.chunk).or_default().push(written.extent);
    }
    let mut end = inode.attr.size.max(size);
    let charged_before = inode.attr.charged(batch.volume.config.allocation);
    for (chunk, written) in chunks {
        batch.check_sources(&written, context.pending_blobs)?;
        let old = batch.chunk(&inode, chunk)?;
        let mut new = old.clone();
        for extent in written {
            end = end.max(u64::from(chunk) * u64::from(chunk_size) + u64::from(extent.end()));
            new.write(extent);
        }
        batch.set_chunk(&mut inode, chunk, &old, new, context.pending_blobs)?;
    }
    // A flush may come later than a change of attributes that was made after the write.
    let ctime = inode.attr.ctime.max(times.time);
    finish(batch, &mut inode, charged_before, end, times.mtime, ctime)
}

pub(super) fn allocate(
    batch: &mut Batch,
    context: &ApplyContext<'_>,
    ino: Ino,
    mode: AllocateMode,
    offset: u64,
    length: u64,
    change: Change,
) -> Result<OpReply, ApplyError> {
    let mut inode = batch.known(ino)?;
    must_be_regular(inode.attr.kind)?;
    if length == 0 {
        return Err(Errno::EINVAL.into());
    }
    let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
    let chunk_size = batch.volume.config.chunk_size;
    if end > file_size_max(chunk_size) {
        return Err(Errno::EFBIG.into());
    }
    let charged_before = inode.attr.charged(batch.volume.config.allocation);
    if change.kill_privileges {
        kill_privileges(batch, &mut inode)?;
    }
    if mode == AllocateMode::Punch {
        // Only what is there: a hole is punched into a huge sparse file at the cost of its data.
        let first = chunk_of(offset, chunk_size);
        let count = (chunk_of(end - 1, chunk_size) - first) as usize + 1;
        for (chunk, old) in batch.chunks_from(&inode, first, count)? {
            let start = u64::from(chunk) * u64::from(chunk_size);
            if start >= end {
                break;
            }
            let mut new = old.clone();
            new.punch(within(offset, start, chunk_size), within(end, start, chunk_size));
            batch.set_chunk(&mut inode, chunk, &old, new, NO_PENDING)?;
        }
        let size = inode.attr.size;
        return finish(batch, &mut inode, charged_before, size, change.time, change.time);
    }
    for chunk in chunk_of(offset, chunk_size)..=chunk_of(end - 1, chunk_size) {
        let start = u64::from(chunk) * u64::from(chunk_size);
        let (from, to) = (within(offset, start, chunk_size), within(end, start, chunk_size));
        let old = batch.chunk(&inode, chunk)?;
        let mut new = old.clone();
        if matches!(mode, AllocateMode::Zero { .. }) {
            new.write(Extent { offset: from, length: to - from, source: Source::Zeros });
        } else {
            new.reserve(from, to);
        }
        batch.set_chunk(&mut inode, chunk, &old, new, NO_PENDING)?;
        // Neither mode gives anything back, so what is too much now stays too much.
        if inode.attr.charged(batch.volume.config.allocation).saturating_sub(charged_before) > context.headroom_bytes {
            return Err(Errno::EDQUOT.into());
        }
    }
    let keep_size = matches!(mode, AllocateMode::Reserve { keep_size: true } | AllocateMode::Zero { keep_size: true });
    let size = if keep_size { inode.attr.size } else { inode.attr.size.max(end) };
    finish(batch, &mut inode, charged_before, size, change.time, change.time)
}

pub(super) fn copy_range(
    batch: &mut Batch,
    from: Position,
    to: Position,
    length: u64,
    change: Change,
) -> Result<OpReply, ApplyError> {
    let source = batch.known(from.ino)?;
    let mut target = batch.known(to.ino)?;
    must_be_regular(source.attr.kind)?;
    must_be_regular(target.attr.kind)?;
    let chunk_size = batch.volume.config.chunk_size;
    let length = length.min(source.attr.size.saturating_sub(from.offset)).min(COPY_CHUNKS_MAX * u64::from(chunk_size));
    let end = to.offset.checked_add(length).ok_or(Errno::EFBIG)?;
    if end > file_size_max(chunk_size) {
        return Err(Errno::EFBIG.into());
    }
    if from.ino == to.ino && from.offset.abs_diff(to.offset) < length {
        return Err(Errno::EINVAL.into());
    }
    if length == 0 {
        return Ok(OpReply { subject: Some(to.ino), ..reply(batch, &[to.ino, from.ino])? });
    }
    let pieces = pieces_by_chunk(batch, &source, from.offset, to.offset, length)?;
    let charged_before = target.attr.charged(batch.volume.config.allocation);
    if change.kill_privileges {
        kill_privileges(batch, &mut target)?;
    }
    for chunk in chunk_of(to.offset, chunk_size)..=chunk_of(end - 1, chunk_size) {
        let start = u64::from(chunk) * u64::from(chunk_size);
        let old = batch.chunk(&target, chunk)?;
        let mut new = old.clone();
        new.punch(within(to.offset, start, chunk_size), within(end, start, chunk_size));
        for piece in pieces.get(&chunk).into_iter().flatten() {
            new.write(*piece);
        }
        batch.set_chunk(&mut target, chunk, &old, new, NO_PENDING)?;
    }
    let size = target.attr.size.max(end);
    finish(batch, &mut target, charged_before, size, change.time, change.time)?;
    Ok(OpReply { subject: Some(to.ino), value: length, ..reply(batch, &[to.ino, from.ino])? })
}

/// The extents of a range of `source`, laid out for the target: by chunk, cut at chunk ends. Holes are left out.
fn pieces_by_chunk(
    batch: &Batch,
    source: &InodeRecord,
    source_offset: u64,
    target_offset: u64,
    length: u64,
) -> Result<BTreeMap<u32, Vec<Extent>>, ApplyError> {
    let chunk_size = batch.volume.config.chunk_size;
    let end = source_offset + length;
    let first = chunk_of(source_offset, chunk_size);
    let count = (chunk_of(end - 1, chunk_size) - first) as usize + 1;
    let mut pieces: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
    for (chunk, list) in batch.chunks_from(source, first, count)? {
        let start = u64::from(chunk) * u64::from(chunk_size);
        if start >= end {
            break;
        }
        for extent in list.slice(within(source_offset, start, chunk_size), within(end, start, chunk_size)) {
            let mut place = target_offset + (start + u64::from(extent.offset) - source_offset);
            let mut rest = ExtentPart { length: extent.length, source: extent.source };
            while rest.length > 0 {
                let offset = (place % u64::from(chunk_size)) as u32;
                let length = rest.length.min(chunk_size - offset);
                let piece = Extent { offset, length, source: rest.source };
                pieces.entry(chunk_of(place, chunk_size)).or_default().push(piece);
                rest.skip(length);
                place += u64::from(length);
            }
        }
    }
    Ok(pieces)
}

/// What is left of an extent that is being cut into pieces.
struct ExtentPart {
    length: u32,
    source: Source,
}

impl ExtentPart {
    fn skip(&mut self, length: u32) {
        self.length -= length;
        if let Source::Blob { offset, .. } = &mut self.source {
            *offset += length;
        }
    }
}

/// Index of the chunk that holds the byte at `offset`, which is below the largest file size.
fn chunk_of(offset: u64, chunk_size: u32) -> u32 {
    (offset / u64::from(chunk_size)) as u32
}

/// `offset` relative to the chunk that begins at `start`, moved into it if it lies outside.
fn within(offset: u64, start: u64, chunk_size: u32) -> u32 {
    offset.saturating_sub(start).min(u64::from(chunk_size)) as u32
}

/// Saves a file whose content was changed.
fn finish(
    batch: &mut Batch,
    inode: &mut InodeRecord,
    charged_before: u64,
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
) -> Result<OpReply, ApplyError> {
    if size > file_size_max(batch.volume.config.chunk_size) {
        return Err(Errno::EFBIG.into());
    }
    inode.attr.size = size;
    inode.attr.mtime = mtime;
    inode.attr.ctime = ctime;
    batch.charge_bytes(charged_before, inode.attr.charged(batch.volume.config.allocation));
    batch.save(inode);
    Ok(OpReply { subject: Some(inode.attr.ino), ..reply(batch, &[inode.attr.ino])? })
}
