//! Where the bytes of a blob lie: what the metadata keep for every blob, and what a blob store hands out and takes.

use std::fmt;

/// Number of a pack: the unit in which a store keeps blobs and gives their space back. It may be a file that grows or an
/// object that never changes once it is written; only the store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub u32);

impl fmt::Display for PackId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// Where a blob lies. Never reused for another blob while the pack exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobPlace {
    pub pack: PackId,
    /// Of what is stored for the blob, in the pack, in bytes.
    pub offset: u64,
    /// Length of the blob, in bytes.
    pub payload_len: u32,
    /// What the blob takes of the pack, in bytes: it may be stored with a header, checksums and padding.
    pub stored_len: u32,
}

impl BlobPlace {
    /// End of what is stored for the blob, in the pack, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored_len))
    }
}
