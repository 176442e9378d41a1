//! Extents against files, blobs and packs.

use std::collections::HashMap;

use cairn_types::{BlobId, ExtentList, FileKind, Ino, Source};

use super::cursor::Cursor;
use super::{Check, PackSums, Problem};
use crate::error::StoreError;
use crate::layout;
use crate::record::{BlobRecord, InodeRecord, PackRecord, decode_extents};
use crate::view::View;

impl Check<'_> {
    pub(super) fn content(&mut self) -> Result<(), StoreError> {
        self.compare_files()?;
        self.references.sort_unstable();
        let (sums, missing) = self.compare_blobs()?;
        if !missing.is_empty() {
            self.name_missing(missing)?;
        }
        self.compare_packs(sums)
    }

    /// Goes over all nodes with their extents, and notes every reference.
    fn compare_files(&mut self) -> Result<(), StoreError> {
        let snapshot = self.snapshot;
        let chunk_size = snapshot.config().chunk_size;
        let mut inodes = Cursor::new(snapshot, layout::space(layout::INODES), |key, value| {
            InodeRecord::decode(layout::parse_inode(key)?, value)
        });
        let mut extents = Cursor::new(snapshot, layout::space(layout::EXTENTS), |key, value| {
            let (ino, chunk) = layout::parse_extent(key)?;
            Some((ino, chunk, decode_extents(value)?))
        });
        let mut done = 0;
        loop {
            // Nodes that do not decode were told with the names.
            let inode = inodes.take_if(|_| true, |_| {})?;
            let ino = inode.as_ref().map_or(Ino(u64::MAX), |inode| inode.attr.ino);
            while let Some((owner, chunk, list)) = extents
                .take_if(|(owner, ..)| *owner < ino, |key| self.found(Problem::Unreadable { what: "extents", key }))?
            {
                self.note_references(&list);
                // Content of deleted files waits for its end.
                if snapshot.row(&layout::trash(owner))?.is_some() {
                    continue;
                }
                self.found(Problem::StrayExtents { ino: owner, chunk });
            }
            let Some(inode) = inode else { return Ok(()) };
            done += 1;
            self.step("content", done, snapshot.volume.inodes_used);
            let mut allocated = 0;
            if !inode.first_chunk.is_empty() {
                allocated += inode.first_chunk.allocated();
                self.check_chunk(&inode, 0, &inode.first_chunk, chunk_size);
            }
            while let Some((_, chunk, list)) = extents
                .take_if(|(owner, ..)| *owner == ino, |key| self.found(Problem::Unreadable { what: "extents", key }))?
            {
                allocated += list.allocated();
                if inode.attr.kind != FileKind::Regular {
                    self.note_references(&list);
                    self.found(Problem::StrayExtents { ino, chunk });
                    continue;
                }
                if list.is_empty() || chunk == 0 && !inode.first_chunk.is_empty() {
                    self.found(Problem::MisplacedExtents { ino, chunk });
                }
                self.check_chunk(&inode, chunk, &list, chunk_size);
            }
            if inode.attr.allocated != allocated {
                self.found(Problem::Allocated { ino, stored: inode.attr.allocated, actual: allocated });
            }
        }
    }

    fn check_chunk(&mut self, inode: &InodeRecord, chunk: u32, list: &ExtentList, chunk_size: u32) {
        self.note_references(list);
        let ino = inode.attr.ino;
        if list.as_slice().last().is_some_and(|last| last.end() > chunk_size) {
            self.found(Problem::MisplacedExtents { ino, chunk });
            return;
        }
        // Zeros may be set aside beyond the end (`FALLOC_FL_KEEP_SIZE`); bytes may not be there.
        let start = u64::from(chunk) * u64::from(chunk_size);
        let beyond = list.as_slice().iter().any(|extent| {
            extent.source != Source::Zeros && start.saturating_add(u64::from(extent.end())) > inode.attr.size
        });
        if beyond {
            self.found(Problem::ContentBeyondEnd { ino, chunk });
        }
    }

    fn note_references(&mut self, list: &ExtentList) {
        self.references.extend(list.as_slice().iter().filter_map(|extent| match extent.source {
            Source::Blob { blob, offset } => Some((blob, offset.saturating_add(extent.length))),
            Source::Zeros => None,
        }));
    }

    /// Goes over all blobs with the references to them. Answers the sums by pack, and how often each blob is
    /// referenced that does not exist.
    fn compare_blobs(&mut self) -> Result<(PackSums, HashMap<BlobId, u32>), StoreError> {
        let mut sums = PackSums::new();
        let mut missing = HashMap::new();
        let references = std::mem::take(&mut self.references);
        let total = references.len() as u64;
        let mut groups = references.chunk_by(|(a, _), (b, _)| a == b).peekable();
        let mut blobs = Cursor::new(self.snapshot, layout::space(layout::BLOBS), |key, value| {
            Some((layout::parse_blob(key)?, BlobRecord::decode(value)?))
        });
        let first = |group: &[(BlobId, u32)]| group.first().map_or(BlobId(u64::MAX), |(blob, _)| *blob);
        let mut done = 0;
        loop {
            let row = blobs.take_if(|_| true, |key| self.found(Problem::Unreadable { what: "blob", key }))?;
            while let Some(group) = groups.next_if(|group| row.as_ref().is_none_or(|(blob, _)| first(group) < *blob)) {
                missing.insert(first(group), group.len() as u32);
            }
            let Some((blob, record)) = row else { return Ok((sums, missing)) };
            done += 1;
            self.step("blobs", done, total);
            let group = groups.next_if(|group| first(group) == blob).unwrap_or_default();
            let actual = u32::try_from(group.len()).unwrap_or(u32::MAX);
            if record.references != actual {
                self.found(Problem::BlobReferences { blob, stored: record.references, actual });
            }
            let needed = group.iter().map(|(_, end)| *end).max().unwrap_or(0);
            if needed > record.place.payload_len {
                self.found(Problem::BlobTooShort { blob, length: record.place.payload_len, needed });
            }
            let sum = sums.entry(record.place.pack).or_default();
            sum.live_bytes += u64::from(record.place.stored_len);
            sum.live_blobs += 1;
        }
    }

    /// One more pass over the extents, for those that point at nothing.
    fn name_missing(&mut self, mut missing: HashMap<BlobId, u32>) -> Result<(), StoreError> {
        let inline = Cursor::new(self.snapshot, layout::space(layout::INODES), |key, value| {
            let inode = InodeRecord::decode(layout::parse_inode(key)?, value)?;
            Some((inode.attr.ino, 0, inode.first_chunk))
        });
        self.name_missing_in(inline, &mut missing)?;
        let rows = Cursor::new(self.snapshot, layout::space(layout::EXTENTS), |key, value| {
            let (ino, chunk) = layout::parse_extent(key)?;
            Some((ino, chunk, decode_extents(value)?))
        });
        self.name_missing_in(rows, &mut missing)
    }

    fn name_missing_in<D: Fn(&[u8], &[u8]) -> Option<(Ino, u32, ExtentList)>>(
        &mut self,
        mut chunks: Cursor<'_, (Ino, u32, ExtentList), D>,
        missing: &mut HashMap<BlobId, u32>,
    ) -> Result<(), StoreError> {
        while let Some(row) = chunks.take()? {
            let Ok((ino, chunk, list)) = row else { continue };
            for blob in list.blobs() {
                // All references are counted at the first that is met; the others are reported without a count.
                if let Some(references) = missing.get_mut(&blob) {
                    let references = std::mem::take(references);
                    self.found(Problem::MissingBlob { blob, references, ino, chunk });
                }
            }
        }
        Ok(())
    }

    fn compare_packs(&mut self, mut sums: PackSums) -> Result<(), StoreError> {
        let mut packs = Cursor::new(self.snapshot, layout::space(layout::PACKS), |key, value| {
            Some((layout::parse_pack(key)?, PackRecord::decode(value)?))
        });
        while let Some(row) = packs.take()? {
            match row {
                Ok((pack, stored)) => {
                    let sum = sums.remove(&pack).unwrap_or_default();
                    let actual = PackRecord { durable_length: stored.durable_length, ..sum };
                    if stored != actual {
                        self.found(Problem::PackCounters { pack, stored, actual });
                    }
                }
                Err(key) => self.found(Problem::Unreadable { what: "pack", key }),
            }
        }
        for (pack, actual) in sums {
            self.found(Problem::PackCounters { pack, stored: PackRecord::default(), actual });
        }
        Ok(())
    }
}
