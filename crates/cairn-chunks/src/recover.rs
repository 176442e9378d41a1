//! What happens to packs when a store is opened: blobs that the metadata does not know yet are found again.
//!
//! The metadata knows how many bytes of each pack are durable. Whatever lies behind was written shortly before the
//! server stopped: whole records, if it was killed; after a power cut also records that the disk wrote in part, or
//! later ones without earlier ones. Every record there that is intact, payload included, is found. What follows the
//! last of them is cut off, what lies between them stays as a gap until the pack is compacted. What lies before is not
//! read at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cairn_types::{BlobId, PackId};

use crate::blob_store::StoredBlob;
use crate::error::{ChunkError, Problem, ProblemKind};
use crate::files::PackFiles;
use crate::format::{FormatError, PACK_HEADER_LEN, RecordHeader, parse_pack_header};
use crate::place::pack_of_file_name;
use crate::scan::{Scan, ScanItem};
use crate::sys;

/// What [`PackStore::open`](crate::PackStore::open) found behind the durable ends of the packs.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Intact blobs, by pack and offset. Durable metadata may refer to some of them already; a blob may be there
    /// twice, with the same bytes; some may have been freed.
    pub blobs: Vec<StoredBlob>,
    /// Tails that held no whole record and were cut off.
    pub cuts: Vec<Cut>,
    /// Damage that nothing was done about: to what was durable, or between intact records behind it.
    pub problems: Vec<Problem>,
}

/// A pack was shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub pack: PackId,
    /// Length of the file before and after, in bytes; `to` is 0 if it was removed.
    pub from: u64,
    pub to: u64,
}

/// Everything that opening a store needs to know.
pub(crate) struct FoundStore {
    pub(crate) packs: Vec<FoundPack>,
    pub(crate) next_pack: u32,
    /// Whether the directory needs a flush.
    pub(crate) directory_changed: bool,
    pub(crate) recovery: Recovery,
}

pub(crate) struct FoundPack {
    pub(crate) id: PackId,
    pub(crate) length: u64,
    /// Whether more records may be appended.
    pub(crate) usable: bool,
    /// The file, if what is in it may not be durable.
    pub(crate) unflushed: Option<Arc<File>>,
}

/// Looks at every pack in the directory and every one in `known` (with its durable length), and repairs tails.
pub(crate) fn recover(files: &PackFiles, known: BTreeMap<PackId, u64>) -> Result<FoundStore, ChunkError> {
    make_directory(files.directory())?;
    let lengths = list_packs(files.directory())?;
    let last = lengths.keys().chain(known.keys()).max();
    let mut found = FoundStore {
        packs: Vec::new(),
        next_pack: last.map_or(1, |last| last.0.saturating_add(1)),
        directory_changed: false,
        recovery: Recovery::default(),
    };
    for (&id, _) in known.iter().filter(|(id, _)| !lengths.contains_key(id)) {
        found.report(files, id, 0, None, ProblemKind::MissingFile);
        found.packs.push(FoundPack { id, length: 0, usable: false, unflushed: None });
    }
    for (&id, &length) in &lengths {
        found.recover_pack(files, id, length, known.get(&id).copied())?;
    }
    Ok(found)
}

impl FoundStore {
    fn report(&mut self, files: &PackFiles, pack: PackId, offset: u64, blob: Option<BlobId>, kind: ProblemKind) {
        let problem = Problem { file: files.path(pack), pack, offset, blob, kind };
        tracing::warn!(%problem, "damaged pack");
        self.recovery.problems.push(problem);
    }

    fn recover_pack(
        &mut self,
        files: &PackFiles,
        id: PackId,
        length: u64,
        durable: Option<u64>,
    ) -> Result<(), ChunkError> {
        if let Some(expected) = durable {
            if length < expected {
                self.report(files, id, length, None, ProblemKind::ShortFile { length, expected });
            }
            if length <= expected {
                self.packs.push(FoundPack { id, length, usable: length == expected, unflushed: None });
                return Ok(());
            }
        }
        let path = files.path(id);
        let file = files.get(id).map_err(ChunkError::io("cannot open", &path))?;
        let header = sys::read_at(&file, 0, PACK_HEADER_LEN as usize).map_err(ChunkError::io("cannot read", &path))?;
        let salt = match parse_pack_header(&header) {
            Ok(header) => Some(header.salt),
            Err(FormatError::NewerVersion(version)) => return Err(ChunkError::NewerVersion { file: path, version }),
            Err(_) => None,
        };
        let start = durable.unwrap_or(0).max(PACK_HEADER_LEN);
        let mut end = start.min(length);
        let mut gaps = Vec::new();
        let mut scan = Scan::new(id, Arc::clone(&file), salt, start, length);
        while let Some(item) = scan.next() {
            match item.map_err(ChunkError::io("cannot read", &path))? {
                ScanItem::Gap { start, .. } => gaps.push((start, None, ProblemKind::BadRecordHeader)),
                ScanItem::Record(record) => {
                    let RecordHeader { blob, .. } = record.header;
                    let payload = scan.verified_payload(&record).map_err(ChunkError::io("cannot read", &path))?;
                    match payload {
                        Ok(_) => {
                            end = record.place.end();
                            self.recovery.blobs.push(StoredBlob::from(&record));
                        }
                        Err(block) => gaps.push((record.place.offset, Some(blob), ProblemKind::BadBlock { block })),
                    }
                }
            }
        }
        let empty = durable.is_none() && end <= PACK_HEADER_LEN;
        if empty && was_never_begun(&header) {
            files.remove(id).map_err(ChunkError::io("cannot delete", &path))?;
            self.recovery.cuts.push(Cut { pack: id, from: length, to: 0 });
            self.directory_changed = true;
            return Ok(());
        }
        if salt.is_none() {
            self.report(files, id, 0, None, ProblemKind::BadFileHeader);
        }
        for (gap, blob, kind) in gaps.into_iter().filter(|&(gap, ..)| gap < end) {
            self.report(files, id, gap, blob, kind);
        }
        // A file without header and records is nothing that this store wrote: it is left alone.
        let foreign = empty && salt.is_none();
        if end < length && !foreign {
            tracing::warn!(file = %path.display(), from = length, to = end, "cutting off a tail without whole records");
            file.set_len(end).map_err(ChunkError::io("cannot truncate", &path))?;
            self.recovery.cuts.push(Cut { pack: id, from: length, to: end });
        }
        if durable.is_none() {
            self.directory_changed = true;
        }
        self.packs.push(FoundPack { id, length: end, usable: salt.is_some(), unflushed: Some(file) });
        Ok(())
    }
}

/// Whether a crash came between the making of a pack's file and the writing of its header.
fn was_never_begun(header: &[u8]) -> bool {
    header.len() < PACK_HEADER_LEN as usize || header.iter().all(|&byte| byte == 0)
}

fn make_directory(directory: &Path) -> Result<(), ChunkError> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(ChunkError::io("cannot make the directory", directory))?;
    let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    File::open(parent).and_then(|file| file.sync_all()).map_err(ChunkError::io("cannot flush", parent))
}

/// Every pack in the directory with the length of its file. Other files are none of this store's business.
fn list_packs(directory: &Path) -> Result<BTreeMap<PackId, u64>, ChunkError> {
    let list = || -> io::Result<BTreeMap<PackId, u64>> {
        let mut lengths = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if let Some(pack) = entry.file_name().to_str().and_then(pack_of_file_name) {
                lengths.insert(pack, entry.metadata()?.len());
            }
        }
        Ok(lengths)
    };
    list().map_err(ChunkError::io("cannot list", directory))
}
