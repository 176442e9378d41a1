//! Where the bytes of a read come from: buffered writes over extents over blobs, as far as they are known under leases.
//!
//! Nothing is asked here and nothing fetched: a plan says what is missing.

use bytes::Bytes;
use cairn_types::{BlobId, Errno, LeaseMode, Source};

use crate::cache::fetch::Want;
use crate::cache::{BLOCK, BlockCache};
use crate::error::FsResult;
use crate::extents::{ExtentMap, Known, by_chunk};
use crate::node::NodeState;
use crate::node_cache::NodeCache;
use crate::overlay::Piece;

/// Where bytes of a read come from, in order.
#[derive(Debug)]
pub(crate) enum Origin {
    Data(Bytes),
    Zeros(u64),
    /// Bytes of a blob, inside one block.
    Blob(Want),
}

pub(crate) enum Plan {
    Ready {
        parts: Vec<Origin>,
        epoch: u64,
        size: u64,
    },
    /// The lease is missing.
    Lease,
    /// The file is recalled: nothing is answered until it has been given back.
    Recall,
    /// The extents of this chunk are missing.
    Extents(u32),
}

fn push_zeros(parts: &mut Vec<Origin>, length: u64) {
    if length == 0 {
        return;
    }
    if let Some(Origin::Zeros(before)) = parts.last_mut() {
        *before += length;
    } else {
        parts.push(Origin::Zeros(length));
    }
}

fn push_blob(parts: &mut Vec<Origin>, blob: BlobId, offset: u32, length: u32) {
    let mut cursor = offset;
    let end = offset.saturating_add(length);
    while cursor < end {
        let stop = end.min((cursor / BLOCK + 1).saturating_mul(BLOCK));
        parts.push(Origin::Blob(Want { blob, from: cursor, to: stop }));
        cursor = stop;
    }
}

/// The bytes of `from..to` of a chunk that no buffered write covers.
fn push_below(parts: &mut Vec<Origin>, extents: &ExtentMap, chunk: u32, from: u32, to: u32) -> Result<(), u32> {
    match extents.get(chunk) {
        Known::No => return Err(chunk),
        Known::Hole => push_zeros(parts, u64::from(to - from)),
        Known::Extents(list) => {
            let mut cursor = from;
            for extent in list.slice(from, to) {
                push_zeros(parts, u64::from(extent.offset - cursor));
                match extent.source {
                    Source::Zeros => push_zeros(parts, u64::from(extent.length)),
                    Source::Blob { blob, offset } => push_blob(parts, blob, offset, extent.length),
                }
                cursor = extent.end();
            }
            push_zeros(parts, u64::from(to - cursor));
        }
    }
    Ok(())
}

/// Where `length` bytes from `offset` of a file come from, clipped at its end.
///
/// # Errors
/// `EISDIR` and `EINVAL` for what is no file.
pub(crate) fn plan(nodes: &NodeCache, state: &NodeState, offset: u64, length: u64) -> FsResult<Plan> {
    if state.transfers().are_held() {
        return Ok(Plan::Recall);
    }
    if !nodes.usable(state, LeaseMode::Shared) {
        return Ok(Plan::Lease);
    }
    let Some(attr) = state.view() else { return Ok(Plan::Lease) };
    let Some(file) = state.file() else {
        return Err((if attr.is_dir() { Errno::EISDIR } else { Errno::EINVAL }).into());
    };
    let length = length.min(attr.size.saturating_sub(offset));
    let mut parts = Vec::with_capacity(4);
    for (chunk, from, to) in by_chunk(nodes.chunk_size(), offset, length) {
        let pieces =
            if file.is_clean() { vec![Piece::Below { from, to }] } else { file.overlay().pieces(chunk, from, to) };
        for piece in pieces {
            match piece {
                Piece::Data(data) => parts.push(Origin::Data(data)),
                Piece::Below { from, to } => {
                    if let Err(chunk) = push_below(&mut parts, file.extents(), chunk, from, to) {
                        return Ok(Plan::Extents(chunk));
                    }
                }
            }
        }
    }
    Ok(Plan::Ready { parts, epoch: state.lease().epoch(), size: attr.size })
}

/// Parts of blobs that a plan needs.
pub(crate) fn blobs_in(parts: &[Origin]) -> impl Iterator<Item = Want> {
    parts.iter().filter_map(|part| match part {
        Origin::Blob(want) => Some(*want),
        _ => None,
    })
}

/// Those of them that are not cached.
pub(crate) fn missing_in(parts: &[Origin], cache: &BlockCache) -> Vec<Want> {
    blobs_in(parts).filter(|want| cache.get(want.blob, want.from, want.to).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use cairn_types::{Extent, ExtentList};

    use super::*;

    #[test]
    fn what_lies_below_is_holes_and_blocks_in_order() {
        let list = ExtentList::from_extents(
            vec![
                Extent { offset: 10, length: 5, source: Source::Zeros },
                Extent { offset: 20, length: BLOCK, source: Source::Blob { blob: BlobId(3), offset: 100 } },
            ],
            4 << 20,
        )
        .expect("valid");
        let mut map = ExtentMap::default();
        map.fill(map.epoch(), 0, vec![(0, list)]);
        let mut parts = Vec::new();
        push_below(&mut parts, &map, 0, 0, 20 + BLOCK + 7).expect("known");
        let Some(((first, second), rest)) = parts
            .split_first()
            .and_then(|(first, rest)| rest.split_first().map(|(second, rest)| ((first, second), rest)))
        else {
            panic!("too few parts")
        };
        assert!(matches!(first, Origin::Zeros(20)));
        assert!(matches!(second, Origin::Blob(want) if (want.from, want.to) == (100, BLOCK)));
        assert!(matches!(rest[0], Origin::Blob(want) if (want.from, want.to) == (BLOCK, BLOCK + 100)));
        assert!(matches!(rest[1], Origin::Zeros(7)));
        assert_eq!(push_below(&mut parts, &map, 999, 0, 1), Err(999));
    }
}
