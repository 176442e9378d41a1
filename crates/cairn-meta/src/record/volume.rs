//! The volume itself: its settings and counters.

use cairn_types::limits::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};
use cairn_types::{Allocation, VolumeId};

use super::codec::{Decode, Encode};
use crate::error::StoreError;
use crate::layout;

/// How a volume was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    pub id: VolumeId,
    pub name: String,
    /// A label.
    pub data_center: String,
    /// Bytes, a power of two.
    pub chunk_size: u32,
    /// Most logical bytes.
    pub bytes_limit: u64,
    /// Most nodes.
    pub inodes_limit: u64,
    /// Seconds since 1970.
    pub created: i64,
    /// The emulation profile, as its text; this crate knows no more of it.
    pub profile: String,
    /// How content counts against `bytes_limit`.
    pub allocation: Allocation,
}

/// The profile of a volume that emulates nothing.
const NATIVE: &str = "native";

impl VolumeConfig {
    pub(crate) fn is_valid(&self) -> bool {
        self.chunk_size.is_power_of_two() && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&self.chunk_size)
    }
}

/// Settings and counters. Numbers below a ceiling may have been handed out; after a restart numbering goes on at the
/// ceiling, so that none is ever given twice although handing out is not durable by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    pub config: VolumeConfig,
    /// Sum of [`cairn_types::Attr::charged`] over all nodes.
    pub bytes_used: u64,
    /// Number of nodes, the root included.
    pub inodes_used: u64,
    pub(crate) ino_ceiling: u64,
    pub(crate) blob_ceiling: u64,
    pub(crate) session_ceiling: u64,
    pub(crate) order_ceiling: u64,
    /// Order number of the last change that is contained.
    pub last_order: u64,
}

impl VolumeRecord {
    /// The format that this program writes: changes may be in the log that are not in the file. It reads all older ones.
    pub(crate) const FORMAT_VERSION: u64 = 3;
    /// Oldest format, of a volume without a profile.
    const FORMAT_VERSION_NATIVE: u64 = 1;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(128);
        value.varint(Self::FORMAT_VERSION);
        value.bytes(self.config.id.as_str().as_bytes());
        value.bytes(self.config.name.as_bytes());
        value.bytes(self.config.data_center.as_bytes());
        value.varint(u64::from(self.config.chunk_size));
        value.varint(self.config.bytes_limit);
        value.varint(self.config.inodes_limit);
        value.signed(self.config.created);
        for counter in [
            self.bytes_used,
            self.inodes_used,
            self.ino_ceiling,
            self.blob_ceiling,
            self.session_ceiling,
            self.order_ceiling,
            self.last_order,
        ] {
            value.varint(counter);
        }
        let (block, header, span) = self.config.allocation.parts();
        value.bytes(self.config.profile.as_bytes());
        value.varint(u64::from(block));
        value.varint(u64::from(header));
        value.varint(span);
        value
    }

    /// [`StoreError::NewerFormat`] for a format that is not known, [`StoreError::Damaged`] for nonsense.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut decode = Decode(value);
        match decode.varint() {
            Some(version @ Self::FORMAT_VERSION_NATIVE..=Self::FORMAT_VERSION) => {
                Self::decode_body(decode, version).ok_or_else(|| StoreError::row("volume", layout::VOLUME))
            }
            Some(found) if found > Self::FORMAT_VERSION => {
                Err(StoreError::NewerFormat { found, known: Self::FORMAT_VERSION })
            }
            _ => Err(StoreError::row("volume", layout::VOLUME)),
        }
    }

    fn decode_body(mut decode: Decode<'_>, version: u64) -> Option<Self> {
        let mut config = VolumeConfig {
            id: decode.text()?.parse().ok()?,
            name: decode.text()?,
            data_center: decode.text()?,
            chunk_size: decode.varint32()?,
            bytes_limit: decode.varint()?,
            inodes_limit: decode.varint()?,
            created: decode.signed()?,
            profile: NATIVE.to_owned(),
            allocation: Allocation::NATIVE,
        };
        if !config.is_valid() {
            return None;
        }
        let counters = [(); 7].map(|()| decode.varint());
        if version != Self::FORMAT_VERSION_NATIVE {
            config.profile = decode.text()?;
            config.allocation = Allocation::new(decode.varint32()?, decode.varint32()?, decode.varint()?)?;
        }
        let [bytes_used, inodes_used, ino_ceiling, blob_ceiling, session_ceiling, order_ceiling, last_order] = counters;
        let record = VolumeRecord {
            config,
            bytes_used: bytes_used?,
            inodes_used: inodes_used?,
            ino_ceiling: ino_ceiling?,
            blob_ceiling: blob_ceiling?,
            session_ceiling: session_ceiling?,
            order_ceiling: order_ceiling?,
            last_order: last_order?,
        };
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
            entropy: u64, name: String, data_center: String, limits: (u64, u64), created: i64, counters: [u64; 7],
            profile: String, parts: (u32, u32, u64),
        ) {
            let record = VolumeRecord {
                config: VolumeConfig {
                    id: VolumeId::from_entropy(entropy),
                    name,
                    data_center,
                    chunk_size: CHUNK_SIZE_MIN,
                    bytes_limit: limits.0,
                    inodes_limit: limits.1,
                    created,
                    profile,
                    allocation: Allocation::new(parts.0 | 1, parts.1, parts.2 | 1).unwrap_or_default(),
                },
                bytes_used: counters[0],
                inodes_used: counters[1],
                ino_ceiling: counters[2],
                blob_ceiling: counters[3],
                session_ceiling: counters[4],
                order_ceiling: counters[5],
                last_order: counters[6],
            };
            prop_assert_eq!(VolumeRecord::decode(&record.encode()).ok(), Some(record));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(mut bytes: Vec<u8>, version in 1..=3u8) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let _ = VolumeRecord::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = VolumeRecord::decode(&[4, 1, 2, 3]).expect_err("version 4");
        assert!(matches!(error, StoreError::NewerFormat { found: 4, known: 3 }));
    }
}
