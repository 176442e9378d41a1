//! Packs that were damaged and cut anywhere: a store opens, finds only blobs that were written, and reads no wrong byte.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use cairn_chunks::{NewBlob, Options, PackStore, ScanItem, format};
use cairn_types::{BlobId, Ino, checksum};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    noise: Vec<u8>,
    /// Lengths of the blobs, and how many of them are known to be durable.
    blobs: Vec<u16>,
    durable: u8,
    /// Where the file is changed, and to what.
    edits: Vec<(u16, u8)>,
    cut: Option<u16>,
}

fn payload(number: usize, length: u16) -> Bytes {
    (0..=length).map(|at| (at as usize * 31 + number * 7) as u8).collect()
}

fuzz_target!(|input: Input| {
    let _ = format::parse_pack_header(&input.noise);
    if let Ok(header) = format::parse_record_header(&input.noise) {
        format::parse_checksums(&input.noise, header.payload_len);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options { writers: 1, ..Options::default() };
    let lengths = input.blobs.get(..input.blobs.len().min(8)).unwrap_or_default();
    let mut known = Vec::new();
    {
        let (store, _) = PackStore::open(directory.path().to_owned(), &options, []).expect("a new store");
        for (number, &length) in lengths.iter().enumerate() {
            let payload = payload(number, length);
            let checksums = checksum::block_checksums(&payload);
            let hash = checksum::blob_hash(&payload);
            let blob = NewBlob { id: BlobId(number as u64 + 1), ino: Ino(2), chunk: 0, payload, checksums, hash };
            let places = store.append(&[blob]).expect("appended");
            if number < usize::from(input.durable) {
                known = vec![(places[0].pack, places[0].end())];
            }
        }
        store.sync().expect("flushed");
    }
    for entry in std::fs::read_dir(directory.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("read");
        for (at, value) in &input.edits {
            if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                *byte = *value;
            }
        }
        bytes.truncate(input.cut.map_or(usize::MAX, usize::from));
        std::fs::write(&path, bytes).expect("written");
    }
    let Ok((store, recovery)) = PackStore::open(directory.path().to_owned(), &options, known) else { return };
    for found in &recovery.blobs {
        let number = found.blob.0 as usize - 1;
        assert_eq!(found.place.payload_len as usize, usize::from(lengths[number]) + 1);
    }
    for pack in store.pack_ids() {
        let Ok(mut scan) = store.scan(pack) else { continue };
        while let Some(Ok(item)) = scan.next() {
            let ScanItem::Record(record) = item else { continue };
            if let Ok(Ok(bytes)) = scan.verified_payload(&record) {
                let number = record.header.blob.0 as usize - 1;
                assert_eq!(bytes, payload(number, lengths[number]));
            }
        }
    }
});
