//! The bytes of a pack, format version 1: encoding and decoding, no I/O.
//!
//! All integers are little-endian. A pack is a file header, then records back to back, each beginning at a multiple
//! of 8 bytes. Nothing in a pack depends on the volume it belongs to or on the file's name.
//!
//! ```text
//! file header, 64 bytes                       record, a multiple of 8 bytes
//! offset size                                 offset size
//!      0    8  magic "CAIRNPAK"                    0    4  magic "BLOB"
//!      8    4  format version (1)                  4    1  record version (1)
//!     12    4  length of this header (64)          5    3  flags, zero
//!     16    8  salt                                8    8  salt of the pack
//!     24    4  pack number                        16    8  blob id
//!     28   32  zero                               24    8  inode number of the file it was written for
//!     60    4  crc32c of bytes 0..60              32    4  index of the chunk in that file
//!                                                 36    4  payload length, bytes (1 ..= 64 MiB)
//!                                                 40   32  blake3 of the payload
//!                                                 72    4  crc32c of bytes 0..72 and the table
//!                                                 76   4n  table: crc32c of each 16 KiB block of the payload,
//!                                                          n = payload length / 16 KiB, rounded up
//!                                              76+4n    …  payload
//!                                                  …  0-7  zero padding
//! ```
//!
//! The *salt* is a random number drawn when the pack is made. A scan that lost its place looks for a record at every
//! multiple of 8 bytes; the salt keeps it from taking a pack that somebody stored inside a blob for records of its own.
//! It stands in every record so that a damaged file header costs nothing but itself.
//!
//! Decoders take any bytes whatever and never panic.

use cairn_types::limits::{CHECK_BLOCK, CHUNK_SIZE_MAX};
use cairn_types::{BlobId, Ino, PackId};

/// Version of packs that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Length of the header of a pack, in bytes: the first record begins here.
pub const PACK_HEADER_LEN: u64 = 64;
/// Length of a record's header without its table of checksums, in bytes.
pub const RECORD_HEADER_LEN: usize = 76;
/// Records begin at multiples of this many bytes.
pub const RECORD_ALIGN: u64 = 8;
/// Longest payload, in bytes: a blob never spans chunks.
pub const PAYLOAD_MAX: u32 = CHUNK_SIZE_MAX;

const PACK_MAGIC: [u8; 8] = *b"CAIRNPAK";
/// First bytes of every record.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"BLOB";
const RECORD_VERSION: u8 = 1;
/// Offset of the crc in a record's header, and so the number of header bytes that it covers.
const RECORD_CRC_AT: usize = 72;
const PACK_CRC_AT: usize = 60;

/// Why bytes are not what they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// More bytes are needed to tell: `needed` in all.
    #[error("cut short: {needed} bytes are needed")]
    Truncated { needed: usize },
    #[error("no magic number")]
    BadMagic,
    /// The header is intact and was written by a newer program.
    #[error("format version {0} is newer than this program")]
    NewerVersion(u32),
    #[error("a field is out of range")]
    BadField,
    #[error("header checksum mismatch")]
    BadCrc,
}

/// The header of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    pub salt: u64,
    pub pack: PackId,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Salt of the pack that the record was written to.
    pub salt: u64,
    pub blob: BlobId,
    /// File that the blob was written for; a hint for whoever rebuilds metadata, never updated.
    pub ino: Ino,
    /// Index of the chunk in that file.
    pub chunk: u32,
    /// Bytes of payload, `1..=PAYLOAD_MAX`.
    pub payload_len: u32,
    /// blake3 of the payload.
    pub hash: [u8; 32],
}

/// Number of check blocks in a payload of `payload_len` bytes.
pub fn block_count(payload_len: u32) -> usize {
    payload_len.div_ceil(CHECK_BLOCK) as usize
}

/// Bytes from the start of a record to its payload.
pub fn prefix_len(payload_len: u32) -> usize {
    RECORD_HEADER_LEN + 4 * block_count(payload_len)
}

/// Length of a whole record on disk, in bytes: header, table, payload and padding. `payload_len` is at most
/// [`PAYLOAD_MAX`].
pub fn record_len(payload_len: u32) -> u32 {
    let unpadded = prefix_len(payload_len) as u64 + u64::from(payload_len);
    unpadded.next_multiple_of(RECORD_ALIGN) as u32
}

/// The header of a new pack.
pub fn encode_pack_header(header: &PackHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACK_HEADER_LEN as usize);
    bytes.extend_from_slice(&PACK_MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&(PACK_HEADER_LEN as u32).to_le_bytes());
    bytes.extend_from_slice(&header.salt.to_le_bytes());
    bytes.extend_from_slice(&header.pack.0.to_le_bytes());
    bytes.resize(PACK_CRC_AT, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the header at the start of `bytes`.
pub fn parse_pack_header(bytes: &[u8]) -> Result<PackHeader, FormatError> {
    let needed = PACK_HEADER_LEN as usize;
    let header = bytes.get(..needed).ok_or(FormatError::Truncated { needed })?;
    if field::<8>(header, 0)? != PACK_MAGIC {
        return Err(FormatError::BadMagic);
    }
    if crc32c::crc32c(prefix(header, PACK_CRC_AT)?) != u32_at(header, PACK_CRC_AT)? {
        return Err(FormatError::BadCrc);
    }
    let version = u32_at(header, 8)?;
    if version > FORMAT_VERSION {
        return Err(FormatError::NewerVersion(version));
    }
    if version == 0 || u64::from(u32_at(header, 12)?) != PACK_HEADER_LEN {
        return Err(FormatError::BadField);
    }
    Ok(PackHeader { salt: u64_at(header, 16)?, pack: PackId(u32_at(header, 24)?) })
}

/// Appends a record's header and table of checksums to `out`; payload and padding follow it on disk.
/// `checksums` has one entry for each block of the payload.
pub fn encode_record_prefix(out: &mut Vec<u8>, header: &RecordHeader, checksums: &[u32]) {
    let start = out.len();
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&[RECORD_VERSION, 0, 0, 0]);
    out.extend_from_slice(&header.salt.to_le_bytes());
    out.extend_from_slice(&header.blob.0.to_le_bytes());
    out.extend_from_slice(&header.ino.0.to_le_bytes());
    out.extend_from_slice(&header.chunk.to_le_bytes());
    out.extend_from_slice(&header.payload_len.to_le_bytes());
    out.extend_from_slice(&header.hash);
    let mut crc = crc32c::crc32c(&out[start..]);
    for checksum in checksums {
        crc = crc32c::crc32c_append(crc, &checksum.to_le_bytes());
    }
    out.extend_from_slice(&crc.to_le_bytes());
    for checksum in checksums {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
}

/// Reads the record header at the start of `bytes` and checks it and the table that follows it against its crc.
///
/// # Errors
/// [`FormatError::Truncated`] says how many bytes (at most [`prefix_len`]`(PAYLOAD_MAX)`) it takes to tell; the other
/// errors mean that no record of this version begins here.
pub fn parse_record_header(bytes: &[u8]) -> Result<RecordHeader, FormatError> {
    let header = prefix(bytes, RECORD_HEADER_LEN)?;
    if field::<4>(header, 0)? != RECORD_MAGIC {
        return Err(FormatError::BadMagic);
    }
    let payload_len = u32_at(header, 36)?;
    if field::<4>(header, 4)? != [RECORD_VERSION, 0, 0, 0] || !(1..=PAYLOAD_MAX).contains(&payload_len) {
        return Err(FormatError::BadField);
    }
    let table = prefix(bytes, prefix_len(payload_len))?.get(RECORD_HEADER_LEN..).unwrap_or_default();
    let crc = crc32c::crc32c_append(crc32c::crc32c(prefix(header, RECORD_CRC_AT)?), table);
    if crc != u32_at(header, RECORD_CRC_AT)? {
        return Err(FormatError::BadCrc);
    }
    Ok(RecordHeader {
        salt: u64_at(header, 8)?,
        blob: BlobId(u64_at(header, 16)?),
        ino: Ino(u64_at(header, 24)?),
        chunk: u32_at(header, 32)?,
        payload_len,
        hash: field(header, 40)?,
    })
}

/// The table of checksums of the record at the start of `bytes`, as far as `bytes` holds it.
/// The header has been parsed and says `payload_len`.
pub fn parse_checksums(bytes: &[u8], payload_len: u32) -> Vec<u32> {
    let table = bytes.get(RECORD_HEADER_LEN..).unwrap_or_default();
    let (entries, _) = table.as_chunks::<4>();
    entries.iter().take(block_count(payload_len)).map(|entry| u32::from_le_bytes(*entry)).collect()
}

fn prefix(bytes: &[u8], needed: usize) -> Result<&[u8], FormatError> {
    bytes.get(..needed).ok_or(FormatError::Truncated { needed })
}

fn field<const LENGTH: usize>(bytes: &[u8], at: usize) -> Result<[u8; LENGTH], FormatError> {
    let needed = at + LENGTH;
    bytes.get(at..needed).and_then(|slice| slice.try_into().ok()).ok_or(FormatError::Truncated { needed })
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, FormatError> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, FormatError> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> (RecordHeader, Vec<u32>) {
        let header = RecordHeader {
            salt: 0x0123_4567_89ab_cdef,
            blob: BlobId(7),
            ino: Ino(9),
            chunk: 3,
            payload_len: 2 * CHECK_BLOCK + 1,
            hash: [0xee; 32],
        };
        (header, vec![1, 2, 3])
    }

    /// The bytes of version 1 are fixed for ever: a change here needs a new version.
    #[test]
    fn the_layout_is_the_documented_one() {
        let (header, checksums) = sample();
        let mut bytes = Vec::new();
        encode_record_prefix(&mut bytes, &header, &checksums);
        assert_eq!(bytes.len(), prefix_len(header.payload_len));
        assert_eq!(&bytes[..8], b"BLOB\x01\0\0\0");
        assert_eq!(bytes[8..16], 0x0123_4567_89ab_cdefu64.to_le_bytes());
        assert_eq!(bytes[16..24], 7u64.to_le_bytes());
        assert_eq!(bytes[24..32], 9u64.to_le_bytes());
        assert_eq!(bytes[32..36], 3u32.to_le_bytes());
        assert_eq!(bytes[36..40], 32_769u32.to_le_bytes());
        assert_eq!(bytes[40..72], [0xee; 32]);
        let covered: Vec<u8> = [&bytes[..72], &bytes[76..]].concat();
        assert_eq!(bytes[72..76], crc32c::crc32c(&covered).to_le_bytes());
        assert_eq!(bytes[76..], [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);

        let bytes = encode_pack_header(&PackHeader { salt: 5, pack: PackId(6) });
        assert_eq!(bytes.len() as u64, PACK_HEADER_LEN);
        assert_eq!(&bytes[..16], b"CAIRNPAK\x01\0\0\0\x40\0\0\0");
        assert_eq!(bytes[16..28], [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(bytes[60..], crc32c::crc32c(&bytes[..60]).to_le_bytes());
    }

    #[test]
    fn a_small_blob_costs_at_most_90_bytes_more_than_its_own() {
        assert!(record_len(1024) - 1024 <= 90, "{}", record_len(1024));
    }

    #[test]
    fn a_pack_of_a_newer_program_is_told_from_a_damaged_one() {
        let mut bytes = encode_pack_header(&PackHeader { salt: 5, pack: PackId(6) });
        assert_eq!(parse_pack_header(&bytes), Ok(PackHeader { salt: 5, pack: PackId(6) }));
        bytes[8] = 2;
        assert_eq!(parse_pack_header(&bytes), Err(FormatError::BadCrc));
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(parse_pack_header(&bytes), Err(FormatError::NewerVersion(2)));
    }

    #[test]
    fn too_few_bytes_say_how_many_are_needed() {
        let (header, checksums) = sample();
        let mut bytes = Vec::new();
        encode_record_prefix(&mut bytes, &header, &checksums);
        assert_eq!(parse_record_header(&bytes[..10]), Err(FormatError::Truncated { needed: RECORD_HEADER_LEN }));
        assert_eq!(parse_record_header(&bytes[..80]), Err(FormatError::Truncated { needed: 88 }));
        assert_eq!(parse_record_header(&bytes), Ok(header));
        assert_eq!(parse_checksums(&bytes, header.payload_len), checksums);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_header_or_table_is_found(at in 0..88usize, bit in 0..8u8) {
            let (header, checksums) = sample();
            let mut bytes = Vec::new();
            encode_record_prefix(&mut bytes, &header, &checksums);
            bytes[at] ^= 1 << bit;
            prop_assert!(parse_record_header(&bytes).is_err());
        }

        /// Mostly with a good start, so that the checks behind the magic number are reached.
        #[test]
        fn parsers_survive_any_bytes(start in 0..3usize, noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let starts: [&[u8]; 3] = [b"", b"BLOB\x01\0\0\0", b"CAIRNPAK"];
            let bytes = [starts[start], &noise].concat();
            if let Err(FormatError::Truncated { needed }) = parse_record_header(&bytes) {
                prop_assert!(needed > bytes.len() && needed <= prefix_len(PAYLOAD_MAX));
            }
            prop_assert!(parse_pack_header(&bytes).is_err());
            parse_checksums(&bytes, u32::MAX);
        }
    }
}
