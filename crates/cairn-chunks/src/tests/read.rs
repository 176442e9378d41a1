//! Reading: ranges, and every way in which a place can be wrong or its bytes damaged.

use cairn_types::checksum::verify_blocks;

use super::*;
use crate::ProblemKind;
use crate::format::{RECORD_HEADER_LEN, prefix_len};

const BLOCK: u32 = cairn_types::limits::CHECK_BLOCK;

fn problem(error: ChunkError) -> ProblemKind {
    match error {
        ChunkError::Damaged(problem) => problem.kind,
        other => panic!("not damage: {other}"),
    }
}

#[test]
fn a_range_is_widened_to_check_blocks() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let length = 5 * BLOCK + 100;
    append_one(&store, 1, 77);
    let place = append_one(&store, 2, length as usize);
    let whole = payload(2, length as usize);
    for (range, expected) in [
        (0..1, 0..BLOCK),
        (0..length, 0..length),
        (BLOCK - 1..BLOCK + 1, 0..2 * BLOCK),
        (BLOCK..2 * BLOCK, BLOCK..2 * BLOCK),
        (3 * BLOCK + 5..3 * BLOCK + 6, 3 * BLOCK..4 * BLOCK),
        (5 * BLOCK + 99..length, 5 * BLOCK..length),
        (4 * BLOCK..4 * BLOCK, 4 * BLOCK..4 * BLOCK),
        (length..length, 5 * BLOCK..5 * BLOCK),
    ] {
        let read = store.read(BlobId(2), &place, range.clone()).unwrap();
        assert_eq!(read.data_offset, expected.start, "{range:?}");
        assert_eq!(read.data, whole[expected.start as usize..expected.end as usize], "{range:?}");
        assert_eq!(verify_blocks(&read.data, &read.checksums), Ok(()));
        let exact = store.read_verified(BlobId(2), &place, range.clone()).unwrap();
        assert_eq!(exact, whole[range.start as usize..range.end as usize], "{range:?}");
    }
    assert!(matches!(store.read(BlobId(2), &place, 0..length + 1), Err(ChunkError::OutOfRange { .. })));
    let backwards = std::ops::Range { start: 5, end: 4 };
    assert!(matches!(store.read(BlobId(2), &place, backwards), Err(ChunkError::OutOfRange { .. })));
}

#[test]
fn what_is_in_memory_is_read_without_the_disk() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 2, 5 * BLOCK as usize);
    for range in [0..10, 3 * BLOCK..3 * BLOCK + 6, 4 * BLOCK..5 * BLOCK] {
        match store.read_from_memory(BlobId(2), &place, range.clone()) {
            Ok(read) => assert_eq!(read, store.read(BlobId(2), &place, range).unwrap()),
            // Some file systems never tell.
            Err(error) => assert!(matches!(error, ChunkError::NotInMemory { blob: BlobId(2) }), "{error}"),
        }
    }
}

#[test]
fn a_kept_header_is_of_one_record_only() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let first = append_one(&store, 1, 5 * BLOCK as usize);
    let second = append_one(&store, 2, 5 * BLOCK as usize);
    let part = 3 * BLOCK..3 * BLOCK + 1;
    for _ in 0..2 {
        assert_eq!(store.read(BlobId(1), &first, part.clone()).unwrap().data_offset, 3 * BLOCK);
        let error = store.read(BlobId(1), &second, part.clone()).unwrap_err();
        assert_eq!(problem(error), ProblemKind::OtherRecord { found: BlobId(2) });
    }
    store.free(&[first]).unwrap();
    assert!(matches!(store.read(BlobId(1), &first, part), Err(ChunkError::Gone { .. })));
}

#[test]
fn a_wrong_place_is_detected() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let first = append_one(&store, 1, 1000);
    let second = append_one(&store, 2, 1000);
    let error = store.read(BlobId(1), &second, 0..10).unwrap_err();
    assert_eq!(problem(error), ProblemKind::OtherRecord { found: BlobId(2) });
    let between = BlobPlace { offset: first.offset + 8, ..first };
    assert_eq!(problem(store.read(BlobId(1), &between, 0..10).unwrap_err()), ProblemKind::BadRecordHeader);
    let behind = BlobPlace { offset: second.end(), ..first };
    assert_eq!(problem(store.read(BlobId(1), &behind, 0..10).unwrap_err()), ProblemKind::CutRecord);
    for impossible in [
        BlobPlace { offset: first.offset + 1, ..first },
        BlobPlace { offset: 0, ..first },
        BlobPlace { offset: u64::MAX - 7, ..first },
        BlobPlace { payload_len: 0, ..first },
        BlobPlace { stored_len: 8, ..first },
        BlobPlace { payload_len: u32::MAX, stored_len: u32::MAX, ..first },
    ] {
        assert!(matches!(store.read(BlobId(1), &impossible, 0..0), Err(ChunkError::ImpossiblePlace(_))));
        assert!(matches!(store.free(&[impossible]), Err(ChunkError::ImpossiblePlace(_))));
    }
    let elsewhere = BlobPlace { pack: PackId(99), ..first };
    assert!(matches!(store.read(BlobId(1), &elsewhere, 0..10), Err(ChunkError::Gone { .. })));
}

/// Every single bit of a record but its padding is guarded.
#[test]
fn any_flipped_bit_is_found() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 2 * BLOCK as usize + 3);
    fixture.sync(&store);
    let prefix = prefix_len(place.payload_len) as u64;
    let used = prefix + u64::from(place.payload_len);
    for at in (0..prefix).chain((prefix..used).step_by(997)) {
        fixture.damage(place.pack, |bytes| bytes[(place.offset + at) as usize] ^= 0x10);
        let found = problem(store.verify_blob(BlobId(1), &place).unwrap_err());
        let expected = match at.checked_sub(prefix) {
            Some(in_payload) => ProblemKind::BadBlock { block: (in_payload / u64::from(BLOCK)) as usize },
            None => ProblemKind::BadRecordHeader,
        };
        assert_eq!(found, expected, "byte {at}");
        let problems = store.verify_pack(place.pack, [(BlobId(1), place)]).unwrap();
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].blob, problems[0].offset), (Some(BlobId(1)), place.offset));
        assert_eq!(problems[0].file, fixture.path(place.pack));
        fixture.damage(place.pack, |bytes| bytes[(place.offset + at) as usize] ^= 0x10);
    }
    assert_eq!(store.verify_pack(place.pack, [(BlobId(1), place)]).unwrap(), []);
}

#[test]
fn a_hash_that_the_checksums_do_not_notice_is_found() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let mut wrong = blob(1, 100);
    wrong.hash[0] ^= 1;
    let place = store.append(&[wrong]).unwrap()[0];
    assert_eq!(problem(store.verify_blob(BlobId(1), &place).unwrap_err()), ProblemKind::BadHash);
}

#[test]
fn damage_to_one_record_or_the_file_header_spares_the_others() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let places: Vec<BlobPlace> = (0..3).map(|id| append_one(&store, id, 3000)).collect();
    fixture.sync(&store);
    fixture.damage(places[0].pack, |bytes| {
        bytes[17] ^= 1;
        bytes[places[1].offset as usize + RECORD_HEADER_LEN] ^= 1;
    });
    assert_intact(&store, 0, &places[0]);
    assert_intact(&store, 2, &places[2]);
    let live = (0..).map(BlobId).zip(places.clone());
    let kinds: Vec<ProblemKind> =
        store.verify_pack(places[0].pack, live).unwrap().iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::BadFileHeader, ProblemKind::BadRecordHeader]);
    let found: Vec<u64> = scanned(&store, places[0].pack);
    assert_eq!(found, [0, 2]);
}

#[test]
fn a_missing_or_shortened_file_is_damage() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 100_000);
    fixture.sync(&store);
    fixture.damage(place.pack, |bytes| bytes.truncate(50_000));
    assert_intact_range(&store, 1, &place, 0..1000);
    let late = store.read(BlobId(1), &place, 90_000..90_001).unwrap_err();
    assert_eq!(problem(late), ProblemKind::CutRecord);
    drop(store);

    std::fs::remove_file(fixture.path(place.pack)).unwrap();
    let (store, recovery) = fixture.open();
    assert_eq!(recovery.problems[0].kind, ProblemKind::MissingFile);
    assert_eq!(problem(store.read(BlobId(1), &place, 0..10).unwrap_err()), ProblemKind::MissingFile);
    assert_eq!(store.verify_pack(place.pack, [(BlobId(1), place)]).unwrap().len(), 2);
    assert_ne!(append_one(&store, 2, 10).pack, place.pack);
}

fn assert_intact_range(store: &PackStore, id: u64, place: &BlobPlace, range: std::ops::Range<u32>) {
    let data = store.read_verified(BlobId(id), place, range.clone()).unwrap();
    assert_eq!(data, payload(id, place.payload_len as usize)[range.start as usize..range.end as usize]);
}

fn scanned(store: &PackStore, pack: PackId) -> Vec<u64> {
    store
        .scan(pack)
        .unwrap()
        .filter_map(|item| match item.unwrap() {
            crate::ScanItem::Record(record) => Some(record.header.blob.0),
            crate::ScanItem::Gap { .. } => None,
        })
        .collect()
}
