//! Cutting frozen content into blobs. Bytes and arithmetic alone.

use bytes::{Bytes, BytesMut};
use cairn_types::checksum::{blob_hash, block_checksums};
use cairn_types::{BlobId, Extent, Ino, Source, WrittenExtent};
use cairn_wire::BLOB_MAX;
use cairn_wire::message::BlobHeader;

use crate::overlay::FrozenChunk;

/// A blob to be, without a number.
#[derive(Debug)]
pub(crate) struct Draft {
    pub ino: Ino,
    pub chunk: u32,
    pub data: Bytes,
    /// Offset in the chunk, length, and offset in the blob, of each run.
    pub runs: Vec<(u32, u32, u32)>,
}

/// A blob that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub header: BlobHeader,
    pub data: Bytes,
}

/// Lays the segments of a chunk one after the other into blobs of at most [`BLOB_MAX`] bytes.
pub(crate) fn pack(ino: Ino, frozen: &FrozenChunk) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    let mut filled = 0u32;
    let mut finish = |pieces: &mut Vec<Bytes>, runs: &mut Vec<(u32, u32, u32)>| {
        if !pieces.is_empty() {
            let data = join(pieces);
            drafts.push(Draft { ino, chunk: frozen.chunk, data, runs: std::mem::take(runs) });
            pieces.clear();
        }
    };
    for segment in &frozen.segments {
        let mut rest = segment.data.clone();
        let mut offset = segment.offset;
        while !rest.is_empty() {
            if filled == BLOB_MAX {
                finish(&mut pieces, &mut runs);
                filled = 0;
            }
            let length = rest.len().min((BLOB_MAX - filled) as usize);
            let piece = rest.split_to(length);
            let length = length as u32;
            match runs.last_mut() {
                Some((start, so_far, _)) if *start + *so_far == offset => *so_far += length,
                _ => runs.push((offset, length, filled)),
            }
            pieces.push(piece);
            filled += length;
            offset += length;
        }
    }
    finish(&mut pieces, &mut runs);
    drafts
}

fn join(pieces: &[Bytes]) -> Bytes {
    if let [only] = pieces {
        return only.clone();
    }
    let mut data = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        data.extend_from_slice(piece);
    }
    data.freeze()
}

impl Draft {
    /// The extents that this blob makes, once it is called `blob`.
    pub(crate) fn extents(&self, blob: BlobId) -> impl Iterator<Item = WrittenExtent> + '_ {
        self.runs.iter().map(move |(offset, length, in_blob)| WrittenExtent {
            chunk: self.chunk,
            extent: Extent { offset: *offset, length: *length, source: Source::Blob { blob, offset: *in_blob } },
        })
    }

    /// Computes checksums. Takes about a millisecond for a blob of the largest size.
    pub(crate) fn seal(self, blob: BlobId) -> Sealed {
        let header = BlobHeader {
            blob,
            ino: self.ino,
            chunk: self.chunk,
            length: self.data.len() as u32,
            checksums: block_checksums(&self.data),
            hash: blob_hash(&self.data),
        };
        Sealed { header, data: self.data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::FrozenSegment;

    fn frozen(segments: &[(u32, usize)]) -> FrozenChunk {
        let segments = segments
            .iter()
            .map(|(offset, length)| FrozenSegment { offset: *offset, data: Bytes::from(vec![*offset as u8; *length]) })
            .collect();
        FrozenChunk { chunk: 2, segments }
    }

    #[test]
    fn scattered_segments_share_a_blob_and_neighbours_share_an_extent() {
        let drafts = pack(Ino(9), &frozen(&[(0, 10), (10, 5), (100, 7)]));
        assert_eq!(drafts.len(), 1);
        assert_eq!(drafts[0].data.len(), 22);
        assert_eq!(drafts[0].runs, [(0, 15, 0), (100, 7, 15)]);
        let extents: Vec<_> = drafts[0].extents(BlobId(4)).collect();
        assert_eq!(extents[1].extent.source, Source::Blob { blob: BlobId(4), offset: 15 });
        assert_eq!(extents[1].chunk, 2);
    }

    #[test]
    fn a_large_chunk_becomes_several_blobs() {
        let drafts = pack(Ino(9), &frozen(&[(0, 100), (200, 2 * BLOB_MAX as usize)]));
        assert_eq!(drafts.iter().map(|draft| draft.data.len()).sum::<usize>(), 100 + 2 * BLOB_MAX as usize);
        assert!(drafts.iter().all(|draft| draft.data.len() <= BLOB_MAX as usize));
        let mut cursor = 200;
        for (offset, length, _) in drafts.iter().flat_map(|draft| &draft.runs).filter(|run| run.0 >= 200) {
            assert_eq!(*offset, cursor);
            cursor += length;
        }
        assert_eq!(cursor, 200 + 2 * BLOB_MAX);
    }
}
