//! What a file's content costs of the quota. Native volumes count as `du` does; an emulated one may count blocks and
//! headers that `du` does not show.

use serde::{Deserialize, Serialize};

use crate::limits::STAT_BLOCK;

/// How allocated bytes are rounded up to what the quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Bytes of one block, of which the last is counted whole. Not 0.
    block: u32,
    /// Bytes that are counted for each `span` begun, besides the blocks.
    header: u32,
    /// Bytes. Not 0.
    span: u64,
}

impl Default for Allocation {
    fn default() -> Self {
        Allocation::NATIVE
    }
}

impl Allocation {
    /// As `st_blocks` counts.
    pub const NATIVE: Allocation = Allocation { block: STAT_BLOCK as u32, header: 0, span: 1 << 26 };

    /// MooseFS cuts a file into chunks of 64 MiB; each lies in a file of its own, made of an 8 KiB header and blocks of
    /// 64 KiB. Files without content have no chunk.
    pub const MOOSEFS: Allocation = Allocation { block: 64 * 1024, header: 8 * 1024, span: 64 * 1024 * 1024 };

    /// `None` for what cannot be counted with.
    pub fn new(block: u32, header: u32, span: u64) -> Option<Self> {
        (block > 0 && span > 0).then_some(Allocation { block, header, span })
    }

    /// Block, header and span in bytes.
    pub fn parts(self) -> (u32, u32, u64) {
        (self.block, self.header, self.span)
    }

    /// What `allocated` bytes of one file cost. Grows with them. Any number will do, also one out of a damaged row.
    pub fn charged(self, allocated: u64) -> u64 {
        let block = u64::from(self.block);
        let blocks = allocated.div_ceil(block).saturating_mul(block);
        let headers = allocated.div_ceil(self.span).saturating_mul(u64::from(self.header));
        blocks.saturating_add(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_counts_as_du_does() {
        let charged = |bytes| Allocation::NATIVE.charged(bytes);
        assert_eq!(
            [charged(0), charged(1), charged(512), charged(513), charged(1 << 40)],
            [0, 512, 512, 1024, 1 << 40]
        );
    }

    #[test]
    fn moosefs_counts_blocks_and_headers() {
        const KIB: u64 = 1024;
        let charged = |bytes| Allocation::MOOSEFS.charged(bytes);
        assert_eq!([charged(0), charged(1), charged(64 * KIB)], [0, 72 * KIB, 72 * KIB]);
        assert_eq!(charged(64 * KIB + 1), 136 * KIB);
        assert_eq!(charged(64 * KIB * KIB), (64 * KIB + 8) * KIB);
        assert_eq!(charged(64 * KIB * KIB + 1), (64 * KIB + 64 + 16) * KIB);
        assert_eq!(charged(u64::MAX), u64::MAX);
    }
}
