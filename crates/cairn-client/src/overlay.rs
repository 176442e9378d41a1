//! File content that is written here and not yet applied at the server.
//!
//! Two layers, per chunk: *dirty* (writes go here, in place) above *frozen* (being flushed, immutable), both above
//! what the server has ("below", not known here). A pure structure: no I/O, no lock, no time.
//!
//! Invariants: segments of a layer are sorted by offset, never empty, never overlapping, inside their chunk; a chunk
//! without segments is not listed; a chunk that is frozen, or that a flush has in hand, is not frozen again before it was
//! released. `grown` of a chunk counts the bytes of its segments that neither another layer nor the server had allocated
//! when they were written.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// Bytes of one chunk that are still written to.
#[derive(Debug)]
struct Segment {
    offset: u32,
    data: Vec<u8>,
}

impl Segment {
    fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }
}

/// Bytes of one chunk that are on their way to the server.
#[derive(Clone, Debug)]
pub(crate) struct FrozenSegment {
    /// In the chunk, in bytes.
    pub offset: u32,
    pub data: Bytes,
}

impl FrozenSegment {
    fn end(&self) -> u32 {
        self.offset + self.data.len() as u32
    }
}

#[derive(Debug)]
struct Layered<S> {
    segments: Vec<S>,
    grown: u64,
}

/// Part of an answer to [`Overlay::pieces`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Neither layer has these bytes of the chunk.
    Below {
        from: u32,
        to: u32,
    },
}

/// A frozen chunk that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct FrozenChunk {
    pub chunk: u32,
    pub segments: Vec<FrozenSegment>,
}

/// Which chunks [`Overlay::freeze`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freeze {
    All,
    /// Those that are dirty from end to end, as a stream leaves them behind.
    FullChunks,
}

/// The two layers of one file.
#[derive(Debug)]
pub(crate) struct Overlay {
    chunk_size: u32,
    dirty: BTreeMap<u32, Layered<Segment>>,
    frozen: BTreeMap<u32, Layered<FrozenSegment>>,
    /// Chunks that the flush has in hand.
    taken: BTreeSet<u32>,
    dirty_bytes: u64,
    frozen_bytes: u64,
    grown: u64,
}

impl Overlay {
    pub(crate) fn new(chunk_size: u32) -> Self {
        Overlay {
            chunk_size,
            dirty: BTreeMap::new(),
            frozen: BTreeMap::new(),
            taken: BTreeSet::new(),
            dirty_bytes: 0,
            frozen_bytes: 0,
            grown: 0,
        }
    }

    /// Nothing is dirty and nothing is frozen.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.frozen.is_empty()
    }

    pub(crate) fn has_frozen(&self) -> bool {
        !self.frozen.is_empty()
    }

    /// Bytes held in both layers.
    pub(crate) fn bytes(&self) -> u64 {
        self.dirty_bytes + self.frozen_bytes
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Bytes that will be allocated on top of what the server counts.
    pub(crate) fn grown(&self) -> u64 {
        self.grown
    }

    /// File offset just behind the last byte of either layer; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        let dirty = self
            .dirty
            .last_key_value()
            .and_then(|(chunk, layered)| Some(self.position(*chunk, layered.segments.last()?.end())));
        let frozen = self
            .frozen
            .last_key_value()
            .and_then(|(chunk, layered)| Some(self.position(*chunk, layered.segments.last()?.end())));
        dirty.unwrap_or(0).max(frozen.unwrap_or(0))
    }

    fn position(&self, chunk: u32, offset: u32) -> u64 {
        u64::from(chunk) * u64::from(self.chunk_size) + u64::from(offset)
    }

    /// Lays `data` over bytes `offset..` of `chunk`, which it must not leave. `grown` as computed by the caller from
    /// [`Overlay::below`] before this call.
    pub(crate) fn write(&mut self, chunk: u32, offset: u32, data: &[u8], grown: u64) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u32;
        debug_assert!(end <= self.chunk_size);
        let layered = self.dirty.entry(chunk).or_insert_with(|| Layered { segments: Vec::new(), grown: 0 });
        layered.grown += grown;
        self.grown += grown;
        let segments = &mut layered.segments;
        // Overwrites in place what is there, appends to a segment that ends where a gap begins, and never moves or
        // joins segments: the cost of a write depends on its own length alone.
        let mut cursor = offset;
        let mut index = segments.partition_point(|segment| segment.end() <= offset);
        while cursor < end {
            let next_start = segments.get(index).map_or(u32::MAX, |segment| segment.offset);
            let source = (cursor - offset) as usize;
            if next_start <= cursor {
                let segment = &mut segments[index];
                let stop = segment.end().min(end);
                let inside = (cursor - segment.offset) as usize;
                let length = (stop - cursor) as usize;
                segment.data[inside..inside + length].copy_from_slice(&data[source..source + length]);
                cursor = stop;
                index += 1;
                continue;
            }
            let stop = next_start.min(end);
            let fresh = &data[source..source + (stop - cursor) as usize];
            self.dirty_bytes += fresh.len() as u64;
            match index.checked_sub(1).and_then(|before| segments.get_mut(before)) {
                Some(before) if before.end() == cursor => before.data.extend_from_slice(fresh),
                _ => {
                    segments.insert(index, Segment { offset: cursor, data: fresh.to_vec() });
                    index += 1;
                }
            }
            cursor = stop;
        }
    }

    /// The content of `from..to` of `chunk`, in order and without gaps.
    pub(crate) fn pieces(&self, chunk: u32, from: u32, to: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut cursor = from;
        if let Some(layered) = self.dirty.get(&chunk) {
            let first = layered.segments.partition_point(|segment| segment.end() <= from);
            for segment in layered.segments[first..].iter().take_while(|segment| segment.offset < to) {
                let start = segment.offset.max(from);
                let stop = segment.end().min(to);
                self.frozen_pieces(chunk, cursor, start, &mut pieces);
                let inside = (start - segment.offset) as usize..(stop - segment.offset) as usize;
                pieces.push(Piece::Data(Bytes::copy_from_slice(&segment.data[inside])));
                cursor = stop;
            }
        }
        self.frozen_pieces(chunk, cursor, to, &mut pieces);
        pieces
    }

    fn frozen_pieces(&self, chunk: u32, from: u32, to: u32, pieces: &mut Vec<Piece>) {
        let mut cursor = from;
        if let Some(layered) = self.frozen.get(&chunk) {
            let first = layered.segments.partition_point(|segment| segment.end() <= from);
            for segment in layered.segments[first..].iter().take_while(|segment| segment.offset < to) {
                let start = segment.offset.max(from);
                let stop = segment.end().min(to);
                if cursor < start {
                    pieces.push(Piece::Below { from: cursor, to: start });
                }
                let inside = (start - segment.offset) as usize..(stop - segment.offset) as usize;
                pieces.push(Piece::Data(segment.data.slice(inside)));
                cursor = stop;
            }
        }
        if cursor < to {
            pieces.push(Piece::Below { from: cursor, to });
        }
    }

    /// The ranges of `from..to` of `chunk` that neither layer has.
    pub(crate) fn below(&self, chunk: u32, from: u32, to: u32) -> Vec<(u32, u32)> {
        if !self.dirty.contains_key(&chunk) && !self.frozen.contains_key(&chunk) {
            return vec![(from, to)];
        }
        let covered = |list: &mut Vec<(u32, u32)>, start: u32, end: u32| {
            if start < to && end > from {
                list.push((start.max(from), end.min(to)));
            }
        };
        let mut taken = Vec::new();
        if let Some(layered) = self.dirty.get(&chunk) {
            let first = layered.segments.partition_point(|segment| segment.end() <= from);
            for segment in layered.segments[first..].iter().take_while(|segment| segment.offset < to) {
                covered(&mut taken, segment.offset, segment.end());
            }
        }
        if let Some(layered) = self.frozen.get(&chunk) {
            let first = layered.segments.partition_point(|segment| segment.end() <= from);
            for segment in layered.segments[first..].iter().take_while(|segment| segment.offset < to) {
                covered(&mut taken, segment.offset, segment.end());
            }
        }
        taken.sort_unstable();
        let mut gaps = Vec::new();
        let mut cursor = from;
        for (start, end) in taken {
            if start > cursor {
                gaps.push((cursor, start));
            }
            cursor = cursor.max(end);
        }
        if cursor < to {
            gaps.push((cursor, to));
        }
        gaps
    }

    /// Cuts both layers at `size` (a file offset, in bytes). What a flush that is under way sends is the caller's
    /// concern: it waits for it, or forgets what it knows of the server's extents.
    pub(crate) fn truncate(&mut self, size: u64) {
        let chunk = (size / u64::from(self.chunk_size)) as u32;
        let offset = (size % u64::from(self.chunk_size)) as u32;
        let first_gone = if offset == 0 { chunk } else { chunk.saturating_add(1) };
        self.dirty.split_off(&first_gone);
        self.frozen.split_off(&first_gone);
        if offset > 0 {
            if let Some(layered) = self.dirty.get_mut(&chunk) {
                layered.segments.retain(|segment| segment.offset < offset);
                if let Some(last) = layered.segments.last_mut() {
                    let length = (offset - last.offset) as usize;
                    last.data.truncate(length);
                }
                let left: u64 = layered.segments.iter().map(|segment| segment.data.len() as u64).sum();
                layered.grown = layered.grown.min(left);
                if layered.segments.is_empty() {
                    self.dirty.remove(&chunk);
                }
            }
            if let Some(layered) = self.frozen.get_mut(&chunk) {
                layered.segments.retain(|segment| segment.offset < offset);
                if let Some(last) = layered.segments.last_mut() {
                    let length = (offset - last.offset) as usize;
                    last.data.truncate(length);
                }
                let left: u64 = layered.segments.iter().map(|segment| segment.data.len() as u64).sum();
                layered.grown = layered.grown.min(left);
                if layered.segments.is_empty() {
                    self.frozen.remove(&chunk);
                }
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        let dirty: u64 = self.dirty.values().map(|layered| layered.grown).sum();
        let frozen: u64 = self.frozen.values().map(|layered| layered.grown).sum();
        self.grown = dirty + frozen;
        self.dirty_bytes =
            self.dirty.values().flat_map(|layered| &layered.segments).map(|segment| segment.data.len() as u64).sum();
        self.frozen_bytes =
            self.frozen.values().flat_map(|layered| &layered.segments).map(|segment| segment.data.len() as u64).sum();
    }

    /// Moves dirty chunks to the frozen layer, those left out of which it holds something. Whether anything moved.
    pub(crate) fn freeze(&mut self, which: Freeze) -> bool {
        let chunk_size = u64::from(self.chunk_size);
        let chunks: Vec<u32> = self
            .dirty
            .iter()
            .filter(|(chunk, layered)| {
                let length = || layered.segments.iter().map(|segment| segment.data.len() as u64).sum::<u64>();
                let free = !self.frozen.contains_key(chunk) && !self.taken.contains(chunk);
                free && (which == Freeze::All || length() == chunk_size)
            })
            .map(|(chunk, _)| *chunk)
            .collect();
        for chunk in &chunks {
            let Some(layered) = self.dirty.remove(chunk) else { continue };
            let segments: Vec<FrozenSegment> = layered
                .segments
                .into_iter()
                .map(|segment| FrozenSegment { offset: segment.offset, data: Bytes::from(segment.data) })
                .collect();
            let length: u64 = segments.iter().map(|segment| segment.data.len() as u64).sum();
            self.dirty_bytes -= length;
            self.frozen_bytes += length;
            self.frozen.insert(*chunk, Layered { segments, grown: layered.grown });
        }
        !chunks.is_empty()
    }

    /// Takes the first frozen chunks in hand that are not, about `most` bytes of them but at least one.
    pub(crate) fn take_batch(&mut self, most: u64) -> Vec<FrozenChunk> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (chunk, layered) in &self.frozen {
            if bytes >= most {
                break;
            }
            if self.taken.insert(*chunk) {
                bytes += layered.segments.iter().map(|segment| segment.data.len() as u64).sum::<u64>();
                batch.push(FrozenChunk { chunk: *chunk, segments: layered.segments.clone() });
            }
        }
        batch
    }

    /// Nothing is in hand any more: what was and is still frozen can be taken again.
    pub(crate) fn put_back(&mut self) {
        self.taken.clear();
    }

    /// The server has applied these chunks, which were in hand (or they are given up): they are below now (or gone).
    pub(crate) fn release(&mut self, chunks: impl IntoIterator<Item = u32>) {
        for chunk in chunks {
            self.taken.remove(&chunk);
            if let Some(layered) = self.frozen.remove(&chunk) {
                self.grown -= layered.grown;
                self.frozen_bytes -= layered.segments.iter().map(|segment| segment.data.len() as u64).sum::<u64>();
            }
        }
    }

    /// Takes everything out, frozen below dirty: what a recovery copy is made of. File offsets, in the order to write.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Bytes)> {
        let mut pieces = Vec::new();
        for (chunk, layered) in std::mem::take(&mut self.frozen) {
            let base = self.position(chunk, 0);
            pieces.extend(layered.segments.into_iter().map(|s| (base + u64::from(s.offset), s.data)));
        }
        for (chunk, layered) in std::mem::take(&mut self.dirty) {
            let base = self.position(chunk, 0);
            pieces.extend(layered.segments.into_iter().map(|s| (base + u64::from(s.offset), Bytes::from(s.data))));
        }
        self.dirty_bytes = 0;
        self.frozen_bytes = 0;
        self.grown = 0;
        pieces
    }

    /// Segments in the dirty layer of `chunk`: many small ones are better flushed than kept.
    pub(crate) fn segments_in(&self, chunk: u32) -> usize {
        self.dirty.get(&chunk).map_or(0, |layered| layered.segments.len())
    }
}

#[cfg(test)]
mod tests;
