//! The volume itself: its settings and counters.

use cairn_types::VolumeId;
use cairn_types::limits::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN};

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
}

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
    /// Newest format that this program reads, and the one it writes.
    pub(crate) const FORMAT_VERSION: u64 = 1;

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
        value
    }

    /// [`StoreError::NewerFormat`] for a format that is not known, [`StoreError::Damaged`] for nonsense.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut decode = Decode(value);
        match decode.varint() {
            Some(Self::FORMAT_VERSION) => {
                Self::decode_body(decode).ok_or_else(|| StoreError::row("volume", layout::VOLUME))
            }
            Some(found) if found > Self::FORMAT_VERSION => {
                Err(StoreError::NewerFormat { found, known: Self::FORMAT_VERSION })
            }
            _ => Err(StoreError::row("volume", layout::VOLUME)),
        }
    }

    fn decode_body(mut decode: Decode<'_>) -> Option<Self> {
        let config = VolumeConfig {
            id: decode.text()?.parse().ok()?,
            name: decode.text()?,
            data_center: decode.text()?,
            chunk_size: decode.varint32()?,
            bytes_limit: decode.varint()?,
            inodes_limit: decode.varint()?,
            created: decode.signed()?,
        };
        if !config.is_valid() {
            return None;
        }
        let record = VolumeRecord {
            config,
            bytes_used: decode.varint()?,
            inodes_used: decode.varint()?,
            ino_ceiling: decode.varint()?,
            blob_ceiling: decode.varint()?,
            session_ceiling: decode.varint()?,
            order_ceiling: decode.varint()?,
            last_order: decode.varint()?,
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
        fn any_bytes_are_decoded_or_refused(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let _ = VolumeRecord::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let error = VolumeRecord::decode(&[2, 1, 2, 3]).expect_err("version 2");
        assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1 }));
    }
}
