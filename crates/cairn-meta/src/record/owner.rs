//! Who owns the volume.

use super::codec::{Decode, Encode};

pub(crate) fn encode_epoch(epoch: u64) -> Vec<u8> {
    let mut value = Vec::new();
    value.varint(epoch);
    value
}

pub(crate) fn decode_epoch(value: &[u8]) -> Option<u64> {
    let mut decode = Decode(value);
    let epoch = decode.varint()?;
    decode.finish(epoch)
}
