//! A pack as it lies on disks already, in hexadecimal. It was written down from `docs/on-disk.md`, not printed by the
//! encoder. A test that fails here means that existing packs would be misread: a change needs a new format version, and
//! these bytes must still be read.

use super::*;
use crate::format::{PackHeader, RecordHeader, encode_pack_header, parse_pack_header, parse_record_header};

const SALT: u64 = 0x0123_4567_89ab_cdef;
const PAYLOAD: &[u8] = b"hello world";
const PACK_HEADER: &str = "434149524e50414b0100000040000000efcdab896745230107000000\
                           00000000000000000000000000000000000000000000000000000000000000005687bf51";
const RECORD: &str = "424c4f4201000000efcdab896745230101020000000000000201000000000000020000000b000000\
                      d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24\
                      d5cf4414aa6594c968656c6c6f20776f726c640000000000";

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn new_blob() -> NewBlob {
    NewBlob { id: BlobId(513), ino: Ino(258), chunk: 2, ..blob_of(513, PAYLOAD.to_vec()) }
}

#[test]
fn golden_pack_header() {
    let header = PackHeader { salt: SALT, pack: PackId(7) };
    assert_eq!(hex(&encode_pack_header(&header)), PACK_HEADER);
    assert_eq!(parse_pack_header(&bytes(PACK_HEADER)), Ok(header));
}

#[test]
fn golden_record_header() {
    let hash = blob_hash(PAYLOAD);
    let header = RecordHeader {
        salt: SALT,
        blob: BlobId(513),
        ino: Ino(258),
        chunk: 2,
        payload_len: PAYLOAD.len() as u32,
        hash,
    };
    assert_eq!(parse_record_header(&bytes(RECORD)), Ok(header));
}

#[test]
fn golden_pack_is_found_read_and_gone_on_with() {
    let fixture = Fixture::new(1 << 20);
    let (pack, record) = (PackId(7), bytes(RECORD));
    let path = fixture.directory.path().join("packs/00000007.pack");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, [bytes(PACK_HEADER), record.clone()].concat()).unwrap();

    let (store, recovery) = fixture.open();
    let place = BlobPlace { pack, offset: 64, payload_len: 11, stored_len: record.len() as u32 };
    assert_eq!(recovery.blobs.iter().map(|found| found.place).collect::<Vec<_>>(), [place]);
    assert!(recovery.problems.is_empty() && recovery.cuts.is_empty(), "{recovery:?}");
    store.verify_blob(BlobId(513), &place).unwrap();
    assert_eq!(store.read_verified(BlobId(513), &place, 0..11).unwrap(), PAYLOAD);

    // Appended to a pack of this salt, the same blob takes the same bytes.
    let again = store.append(&[new_blob()]).unwrap();
    assert_eq!(again, [BlobPlace { offset: place.end(), ..place }]);
    assert_eq!(hex(&std::fs::read(path).unwrap()), [PACK_HEADER, RECORD, RECORD].concat());
}
