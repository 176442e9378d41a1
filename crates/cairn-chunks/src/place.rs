//! Where a blob lies: the vocabulary shared with the metadata layer, which keeps a place for every blob.

use std::fmt;

use crate::format::{PACK_HEADER_LEN, PAYLOAD_MAX, RECORD_ALIGN, record_len};

/// Number of a pack. Its file is called by the number in eight hexadecimal digits: `0000002a.pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub u32);

impl PackId {
    /// Name of the pack's file.
    pub fn file_name(self) -> String {
        format!("{:08x}.pack", self.0)
    }

    /// Reads what [`PackId::file_name`] makes, and nothing else.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let number = PackId(u32::from_str_radix(name.strip_suffix(".pack")?, 16).ok()?);
        (number.file_name() == name).then_some(number)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// Where a blob's record lies. Never reused for another blob while the pack exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobPlace {
    pub pack: PackId,
    /// Offset of the record in the pack's file, in bytes; a multiple of 8.
    pub offset: u64,
    /// Length of the blob, in bytes.
    pub payload_len: u32,
    /// Length of the whole record with header, checksums and padding, in bytes: what the blob takes of the pack.
    pub stored_len: u32,
}

impl BlobPlace {
    /// The place of a record whose payload is `payload_len` (at most [`PAYLOAD_MAX`]) bytes long.
    pub fn new(pack: PackId, offset: u64, payload_len: u32) -> Self {
        BlobPlace { pack, offset, payload_len, stored_len: record_len(payload_len) }
    }

    /// End of the record in the pack's file, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored_len))
    }

    /// Whether a record can lie here at all; a place that was stored elsewhere may have been damaged there.
    pub(crate) fn is_possible(&self) -> bool {
        self.offset >= PACK_HEADER_LEN
            && self.offset.is_multiple_of(RECORD_ALIGN)
            && self.offset.checked_add(u64::from(u32::MAX)).is_some()
            && (1..=PAYLOAD_MAX).contains(&self.payload_len)
            && self.stored_len == record_len(self.payload_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_both_ways() {
        assert_eq!(PackId(0x2a).file_name(), "0000002a.pack");
        assert_eq!(PackId::from_file_name("0000002a.pack"), Some(PackId(0x2a)));
        for other in ["2a.pack", "0000002A.pack", "0000002a.pack.bak", "+000002a.pack", "1ffffffff.pack", ".pack"] {
            assert_eq!(PackId::from_file_name(other), None, "{other}");
        }
    }
}
