//! Blobs (where they lie and how often they are used) and packs (how much of them is in use).

use cairn_types::{BlobPlace, PackId};

use super::codec::{Decode, Encode, header, open_header};

/// A blob that extents point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    pub place: BlobPlace,
    /// Number of extents that point at it; never 0.
    pub references: u32,
}

impl BlobRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(20);
        value.push(header(0));
        value.varint(u64::from(self.place.pack.0));
        value.varint(self.place.offset);
        value.varint(u64::from(self.place.payload_len));
        // A record is a little longer than what it carries: the difference takes a byte or two.
        value.signed(i64::from(self.place.stored_len) - i64::from(self.place.payload_len));
        value.varint(u64::from(self.references));
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        open_header(decode.byte()?)?;
        let pack = decode.varint32()?;
        let offset = decode.varint()?;
        let payload_len = decode.varint32()?;
        let stored_len = u32::try_from(i64::from(payload_len).checked_add(decode.signed()?)?).ok()?;
        let references = decode.varint32()?;
        decode
            .finish(BlobRecord { place: BlobPlace { pack: PackId(pack), offset, payload_len, stored_len }, references })
    }
}

/// How much of a pack is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackRecord {
    /// Stored bytes of the blobs in it that are referenced.
    pub live_bytes: u64,
    /// Number of blobs in it that are referenced.
    pub live_blobs: u64,
    /// Bytes of it that are known to be on stable storage.
    pub durable_length: u64,
}

impl PackRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16);
        value.push(header(0));
        value.varint(self.live_bytes);
        value.varint(self.live_blobs);
        value.varint(self.durable_length);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        open_header(decode.byte()?)?;
        let record =
            PackRecord { live_bytes: decode.varint()?, live_blobs: decode.varint()?, durable_length: decode.varint()? };
        decode.finish(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back(
            pack: u32, offset: u64, payload_len: u32, stored_len: u32, references: u32,
            live_bytes: u64, live_blobs: u64, durable_length: u64,
        ) {
            let blob = BlobRecord { place: BlobPlace { pack: PackId(pack), offset, payload_len, stored_len }, references };
            prop_assert_eq!(BlobRecord::decode(&blob.encode()), Some(blob));
            let pack = PackRecord { live_bytes, live_blobs, durable_length };
            prop_assert_eq!(PackRecord::decode(&pack.encode()), Some(pack));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let _ = (BlobRecord::decode(&bytes), PackRecord::decode(&bytes));
        }
    }
}
