//! Checksums of blobs: what the maker computes, the chunk server stores and the reader verifies.
//!
//! crc32c for every block of [`CHECK_BLOCK`] bytes guards ranged reads; blake3 of the whole guards the record as a
//! whole (`cairn fsck --data`). Neither is a secret or a defence against somebody who can write to the packs.

use crate::limits::CHECK_BLOCK;

/// The crc32c of each block of `data`, in order. All blocks but the last are [`CHECK_BLOCK`] bytes long; no data has no
/// block.
pub fn block_checksums(data: &[u8]) -> Vec<u32> {
    data.chunks(CHECK_BLOCK as usize).map(crc32c::crc32c).collect()
}

/// Compares `data`, which begins at a block boundary of its blob, with the checksums of its blocks.
///
/// # Errors
/// The index of the first block that is damaged, or that has no checksum, or whose checksum has no data.
pub fn verify_blocks(data: &[u8], checksums: &[u32]) -> Result<(), usize> {
    let mut blocks = data.chunks(CHECK_BLOCK as usize);
    for (index, &expected) in checksums.iter().enumerate() {
        match blocks.next() {
            Some(block) if crc32c::crc32c(block) == expected => {}
            _ => return Err(index),
        }
    }
    if blocks.next().is_some() { Err(checksums.len()) } else { Ok(()) }
}

/// The blake3 hash of a whole blob.
pub fn blob_hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = CHECK_BLOCK as usize;

    #[test]
    fn the_algorithms_are_the_standard_ones() {
        assert_eq!(block_checksums(b"123456789"), [0xE306_9283]);
        assert_eq!(blob_hash(b"")[..4], [0xaf, 0x13, 0x49, 0xb9]);
    }

    #[test]
    fn a_missing_or_superfluous_checksum_is_found() {
        let data = vec![7; BLOCK + 1];
        let checksums = block_checksums(&data);
        assert_eq!(checksums.len(), 2);
        assert_eq!(verify_blocks(&data, &checksums), Ok(()));
        assert_eq!(verify_blocks(&data, &checksums[..1]), Err(1));
        assert_eq!(verify_blocks(&data[..BLOCK], &checksums), Err(1));
        assert_eq!(verify_blocks(&[], &[]), Ok(()));
        assert_eq!(verify_blocks(b"x", &[]), Err(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_flipped_bit_is_found_in_its_block(length in 1..3 * BLOCK, position: prop::sample::Index, bit in 0..8u8) {
            let mut data = vec![0x5a; length];
            let checksums = block_checksums(&data);
            let at = position.index(length);
            data[at] ^= 1 << bit;
            prop_assert_eq!(verify_blocks(&data, &checksums), Err(at / BLOCK));
        }
    }
}
