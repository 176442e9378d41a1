//! The extent list of one chunk.
//!
//! Count, then for each extent: the hole before it, `length * 2 + 1` and blob and blob offset for bytes, `length * 2`
//! for allocated zeros.

use cairn_types::limits::CHUNK_SIZE_MAX;
use cairn_types::{BlobId, Extent, ExtentList, Source};

use super::codec::{Decode, Encode};

pub(crate) fn encode_extents(list: &ExtentList) -> Vec<u8> {
    let mut value = Vec::with_capacity(2 + 12 * list.as_slice().len());
    append_extents(&mut value, list);
    value
}

pub(super) fn append_extents(value: &mut Vec<u8>, list: &ExtentList) {
    value.varint(list.as_slice().len() as u64);
    let mut end = 0;
    for extent in list.as_slice() {
        value.varint(u64::from(extent.offset - end));
        end = extent.end();
        match extent.source {
            Source::Zeros => value.varint(u64::from(extent.length) << 1),
            Source::Blob { blob, offset } => {
                value.varint(u64::from(extent.length) << 1 | 1);
                value.varint(blob.0);
                value.varint(u64::from(offset));
            }
        }
    }
}

pub(crate) fn decode_extents(value: &[u8]) -> Option<ExtentList> {
    let mut decode = Decode(value);
    let list = take_extents(&mut decode)?;
    decode.finish(list)
}

pub(super) fn take_extents(decode: &mut Decode<'_>) -> Option<ExtentList> {
    let count = usize::try_from(decode.varint()?).ok()?;
    // An extent takes two bytes at least: a count that lies cannot make us allocate.
    if count > decode.0.len() / 2 {
        return None;
    }
    let mut extents = Vec::with_capacity(count);
    let mut end = 0u32;
    for _ in 0..count {
        let offset = end.checked_add(decode.varint32()?)?;
        let tagged = decode.varint()?;
        let length = u32::try_from(tagged >> 1).ok()?;
        let source = if tagged & 1 == 1 {
            Source::Blob { blob: BlobId(decode.varint()?), offset: decode.varint32()? }
        } else {
            Source::Zeros
        };
        end = offset.checked_add(length)?;
        extents.push(Extent { offset, length, source });
    }
    ExtentList::from_extents(extents, CHUNK_SIZE_MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn extent_list() -> impl Strategy<Value = ExtentList> {
        prop::collection::vec((0u32..1000, 1u32..5000, any::<Option<(u64, u16)>>()), 0..8).prop_map(|pieces| {
            let mut end = 0;
            let extents = pieces.into_iter().map(|(gap, length, source)| {
                let offset = end + gap;
                end = offset + length;
                let source = match source {
                    Some((blob, offset)) => Source::Blob { blob: BlobId(blob), offset: u32::from(offset) },
                    None => Source::Zeros,
                };
                Extent { offset, length, source }
            });
            ExtentList::from_extents(extents.collect(), CHUNK_SIZE_MAX).expect("sorted by construction")
        })
    }

    proptest! {
        #[test]
        fn lists_come_back(list in extent_list()) {
            prop_assert_eq!(decode_extents(&encode_extents(&list)), Some(list));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            if let Some(list) = decode_extents(&bytes) {
                prop_assert_eq!(decode_extents(&encode_extents(&list)), Some(list));
            }
        }
    }
}
