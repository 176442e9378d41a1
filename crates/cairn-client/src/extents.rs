//! What is known of the server's extents of one file, under the file's lease.
//!
//! Extents are asked for in windows of [`WINDOW`] chunks; a window is known whole or not at all. Nothing here knows
//! of data that is not applied yet (see `overlay`). Every change moves [`ExtentMap::epoch`]: an answer that was asked for
//! under another epoch may be older than the change and must not be kept.

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::{Extent, ExtentList};

/// Chunks that are asked for together.
pub(crate) const WINDOW: u32 = 32;

#[derive(Debug, Default)]
pub(crate) struct ExtentMap {
    /// Every chunk is known: those that are not listed have no extents.
    complete: bool,
    windows: BTreeSet<u32>,
    chunks: BTreeMap<u32, ExtentList>,
    epoch: u64,
}

/// What is known of one chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<'map> {
    No,
    Hole,
    Extents(&'map ExtentList),
}

impl ExtentMap {
    pub(crate) fn get(&self, chunk: u32) -> Known<'_> {
        if !self.complete && !self.windows.contains(&(chunk / WINDOW)) {
            return Known::No;
        }
        self.chunks.get(&chunk).map_or(Known::Hole, Known::Extents)
    }

    /// First chunk and number of chunks to ask for in order to know `chunk`.
    pub(crate) fn window_of(chunk: u32) -> (u32, u32) {
        let first = chunk / WINDOW * WINDOW;
        (first, WINDOW.min(u32::MAX - first))
    }

    /// Changes whenever the extents change or are forgotten.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes over the answer for the window that begins at `first`, if nothing has changed since `epoch`, when it was
    /// asked for.
    pub(crate) fn fill(&mut self, epoch: u64, first: u32, extents: Vec<(u32, ExtentList)>) {
        if epoch != self.epoch || self.complete || !self.windows.insert(first / WINDOW) {
            return;
        }
        self.chunks
            .extend(extents.into_iter().filter(|(chunk, list)| chunk / WINDOW == first / WINDOW && !list.is_empty()));
    }

    /// The file has no extents at all beyond what is listed from now on.
    pub(crate) fn set_empty(&mut self) {
        self.clear();
        self.complete = true;
    }

    /// All extents of the file, if none are known yet. They are those of the version that is known here.
    pub(crate) fn fill_whole(&mut self, list: ExtentList) {
        if !self.complete && self.windows.is_empty() {
            self.complete = true;
            self.chunks = if list.is_empty() { BTreeMap::new() } else { BTreeMap::from([(0, list)]) };
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = ExtentMap { epoch: self.epoch + 1, ..ExtentMap::default() };
    }

    /// The server has laid `extent` over a chunk.
    pub(crate) fn write(&mut self, chunk: u32, extent: Extent) {
        self.epoch += 1;
        if self.complete || self.windows.contains(&(chunk / WINDOW)) {
            self.chunks.entry(chunk).or_default().write(extent);
        }
    }

    /// The server has cut the file at `size` bytes.
    pub(crate) fn truncate(&mut self, size: u64, chunk_size: u32) {
        self.epoch += 1;
        let chunk = (size / u64::from(chunk_size)) as u32;
        let offset = (size % u64::from(chunk_size)) as u32;
        if offset == 0 {
            self.chunks.split_off(&chunk);
            return;
        }
        self.chunks.split_off(&chunk.saturating_add(1));
        if let Some(list) = self.chunks.get_mut(&chunk) {
            list.punch(offset, chunk_size);
            if list.is_empty() {
                self.chunks.remove(&chunk);
            }
        }
    }

    /// Bytes of `from..to` of `chunk` that are holes. `None` if the chunk is not known.
    pub(crate) fn holes(&self, chunk: u32, from: u32, to: u32) -> Option<u64> {
        match self.get(chunk) {
            Known::No => None,
            Known::Hole => Some(u64::from(to - from)),
            Known::Extents(list) => {
                let covered: u64 = list.slice(from, to).map(|extent| u64::from(extent.length)).sum();
                Some(u64::from(to - from) - covered)
            }
        }
    }
}

/// The parts of `offset..offset + length` by chunk: chunk, and offsets in it.
pub(crate) fn by_chunk(chunk_size: u32, offset: u64, length: u64) -> impl Iterator<Item = (u32, u32, u32)> {
    let size = u64::from(chunk_size);
    let end = offset + length;
    let mut cursor = offset;
    std::iter::from_fn(move || {
        if cursor >= end {
            return None;
        }
        let chunk = cursor / size;
        let stop = end.min((chunk + 1) * size);
        let part = (chunk as u32, (cursor - chunk * size) as u32, (stop - chunk * size) as u32);
        cursor = stop;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use cairn_types::{BlobId, Source};

    use super::*;

    fn blob(offset: u32, length: u32) -> Extent {
        Extent { offset, length, source: Source::Blob { blob: BlobId(7), offset: 0 } }
    }

    #[test]
    fn a_window_is_known_whole_or_not_at_all() {
        let mut map = ExtentMap::default();
        assert_eq!(map.get(3), Known::No);
        assert_eq!(map.holes(3, 0, 10), None);
        let list = ExtentList::from_extents(vec![blob(4, 4)], 64).expect("valid");
        map.fill(map.epoch(), 0, vec![(3, list.clone()), (WINDOW, list.clone())]);
        assert_eq!(map.get(3), Known::Extents(&list));
        assert_eq!(map.get(4), Known::Hole);
        assert_eq!(map.get(WINDOW), Known::No);
        assert_eq!(map.holes(3, 0, 10), Some(6));
        assert_eq!(map.holes(4, 0, 10), Some(10));
    }

    #[test]
    fn a_late_answer_does_not_undo_what_was_written() {
        let mut map = ExtentMap::default();
        let asked = map.epoch();
        map.fill(asked, 0, Vec::new());
        map.write(1, blob(0, 8));
        map.write(WINDOW, blob(0, 8));
        map.fill(asked, WINDOW, Vec::new());
        assert_eq!(map.holes(1, 0, 8), Some(0));
        assert_eq!(map.get(WINDOW), Known::No);
    }

    #[test]
    fn truncation_cuts_lists_and_drops_later_chunks() {
        let mut map = ExtentMap::default();
        map.set_empty();
        for chunk in 0..4 {
            map.write(chunk, blob(0, 64));
        }
        map.truncate(64 + 10, 64);
        assert_eq!(map.holes(0, 0, 64), Some(0));
        assert_eq!(map.holes(1, 0, 64), Some(54));
        assert_eq!(map.get(2), Known::Hole);
        map.truncate(64, 64);
        assert_eq!(map.get(1), Known::Hole);
    }

    #[test]
    fn a_range_is_cut_at_chunk_ends() {
        let parts: Vec<_> = by_chunk(64, 60, 80).collect();
        assert_eq!(parts, [(0, 60, 64), (1, 0, 64), (2, 0, 12)]);
        assert_eq!(by_chunk(64, 64, 64).collect::<Vec<_>>(), [(1, 0, 64)]);
        assert_eq!(by_chunk(64, 10, 0).count(), 0);
    }
}
