//! Opening a store after a crash: what is found, what is cut off, what is left alone.

use super::*;
use crate::format::{PACK_HEADER_LEN, PackHeader, encode_pack_header};
use crate::{Cut, ProblemKind};

fn found(recovery: &Recovery) -> Vec<u64> {
    recovery.blobs.iter().map(|blob| blob.blob.0).collect()
}

#[test]
fn only_what_lies_behind_the_durable_end_is_found() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, recovery) = fixture.open();
    assert!(recovery.blobs.is_empty() && recovery.problems.is_empty());
    append_one(&store, 1, 1000);
    fixture.sync(&store);
    let places = store.append(&[blob(2, 70_000), blob(3, 10)]).unwrap();
    drop(store);

    let (store, recovery) = fixture.open();
    assert_eq!(found(&recovery), [2, 3]);
    assert_eq!(recovery.blobs[0].place, places[0]);
    assert_eq!(recovery.blobs[0].ino, Ino(1002));
    assert_eq!(recovery.blobs[0].chunk, 3);
    assert_intact(&store, 2, &places[0]);
    // It may be in the page cache alone: the next flush covers it.
    assert_eq!(store.sync().unwrap(), [(places[0].pack, places[1].end())]);
    let next = append_one(&store, 4, 10);
    assert_eq!((next.pack, next.offset), (places[1].pack, places[1].end()));
}

#[test]
fn a_pack_that_nobody_knows_is_scanned_whole() {
    let fixture = Fixture::new(5000);
    let (store, _) = fixture.open();
    for id in 0..4 {
        append_one(&store, id, 2000);
    }
    drop(store);
    let (store, recovery) = fixture.open();
    assert_eq!(found(&recovery), [0, 1, 2, 3]);
    assert_eq!(store.pack_ids(), [PackId(1), PackId(2)]);
}

#[test]
fn a_half_written_tail_is_cut_off() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    append_one(&store, 1, 1000);
    fixture.sync(&store);
    let second = append_one(&store, 2, 5000);
    let third = append_one(&store, 3, 40_000);
    drop(store);
    let whole = std::fs::read(fixture.path(third.pack)).unwrap();
    for cut in [third.offset + 1, third.offset + 40, third.offset + 80, third.offset + 20_000, third.end() - 1] {
        std::fs::write(fixture.path(third.pack), &whole[..cut as usize]).unwrap();
        let (_, recovery) = fixture.open();
        assert_eq!(found(&recovery), [2], "{cut}");
        assert_eq!(recovery.cuts, [Cut { pack: third.pack, from: cut, to: third.offset }]);
        assert!(recovery.problems.is_empty());
        assert_eq!(fixture.length(third.pack), second.end());
    }
}

/// After a power cut the disk may hold later records without earlier ones.
#[test]
fn records_behind_a_range_that_was_never_written_are_found() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    append_one(&store, 1, 1000);
    fixture.sync(&store);
    let places: Vec<BlobPlace> = (2..7).map(|id| append_one(&store, id, 9000)).collect();
    drop(store);
    fixture.damage(places[0].pack, |bytes| {
        bytes[places[1].offset as usize..places[3].offset as usize].fill(0);
        bytes[places[4].offset as usize + 100..].fill(0);
    });
    let (store, recovery) = fixture.open();
    assert_eq!(found(&recovery), [2, 5]);
    assert_eq!(recovery.cuts.len(), 1);
    assert_eq!(recovery.cuts[0].to, places[3].end());
    assert_eq!(recovery.problems.len(), 1);
    assert_eq!(
        (recovery.problems[0].offset, recovery.problems[0].kind),
        (places[1].offset, ProblemKind::BadRecordHeader)
    );
    assert_intact(&store, 5, &places[3]);
}

#[test]
fn a_damaged_payload_in_the_tail_is_not_passed_off_as_a_blob() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let places: Vec<BlobPlace> = (1..4).map(|id| append_one(&store, id, 20_000)).collect();
    drop(store);
    fixture.damage(places[0].pack, |bytes| {
        bytes[places[1].offset as usize + 10_000] ^= 1;
    });
    let (_, recovery) = fixture.open();
    assert_eq!(found(&recovery), [1, 3]);
    assert_eq!(recovery.problems[0].blob, Some(BlobId(2)));
    assert_eq!(recovery.problems[0].kind, ProblemKind::BadBlock { block: 0 });
}

#[test]
fn damage_before_the_durable_end_is_never_cut_off() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 5000);
    fixture.sync(&store);
    drop(store);
    fixture.damage(place.pack, |bytes| bytes[place.offset as usize..].fill(0xff));
    let (store, recovery) = fixture.open();
    assert!(recovery.cuts.is_empty() && recovery.blobs.is_empty());
    assert_eq!(fixture.length(place.pack), place.end());
    assert!(store.verify_blob(BlobId(1), &place).is_err());
    drop(store);

    fixture.damage(place.pack, |bytes| bytes.truncate(1000));
    let (store, recovery) = fixture.open();
    assert_eq!(recovery.problems[0].kind, ProblemKind::ShortFile { length: 1000, expected: place.end() });
    assert_eq!(fixture.length(place.pack), 1000);
    assert_ne!(append_one(&store, 2, 10).pack, place.pack);
}

#[test]
fn a_pack_that_was_never_begun_is_removed() {
    let fixture = Fixture::new(1 << 20);
    drop(fixture.open());
    for begin in [vec![], b"CAIRNPAK".to_vec(), vec![0; 64], vec![0; 9000]] {
        std::fs::write(fixture.path(PackId(7)), &begin).unwrap();
        let (store, recovery) = fixture.open();
        assert_eq!(recovery.cuts, [Cut { pack: PackId(7), from: begin.len() as u64, to: 0 }]);
        assert_eq!(store.pack_ids(), []);
        assert!(!fixture.path(PackId(7)).exists());
    }
}

#[test]
fn a_foreign_file_is_left_alone() {
    let fixture = Fixture::new(1 << 20);
    drop(fixture.open());
    std::fs::write(fixture.path(PackId(7)), [0xaa; 9000]).unwrap();
    std::fs::write(fixture.directory.path().join("packs/notes.txt"), "mine").unwrap();
    let (store, recovery) = fixture.open();
    assert_eq!(recovery.problems[0].kind, ProblemKind::BadFileHeader);
    assert_eq!(fixture.length(PackId(7)), 9000);
    assert_eq!(append_one(&store, 1, 10).pack, PackId(8));
    assert!(fixture.directory.path().join("packs/notes.txt").exists());
}

/// A power cut took the page with the file's header, not the records in other pages.
#[test]
fn records_survive_the_loss_of_the_files_header() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let places: Vec<BlobPlace> = (1..4).map(|id| append_one(&store, id, 5000)).collect();
    drop(store);
    fixture.damage(places[0].pack, |bytes| bytes[..4096].fill(0));
    let (store, recovery) = fixture.open();
    assert_eq!(found(&recovery), [2, 3]);
    assert_eq!(recovery.problems[0].kind, ProblemKind::BadFileHeader);
    assert_intact(&store, 3, &places[2]);
    assert_ne!(append_one(&store, 4, 10).pack, places[0].pack);
}

#[test]
fn a_newer_pack_is_refused_untouched() {
    let fixture = Fixture::new(1 << 20);
    drop(fixture.open());
    let mut bytes = encode_pack_header(&PackHeader { salt: 1, pack: PackId(1) });
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(b"records of a kind that this program does not know");
    std::fs::write(fixture.path(PackId(1)), &bytes).unwrap();
    let error = fixture.try_open().unwrap_err();
    assert!(matches!(error, ChunkError::NewerVersion { version: 2, .. }), "{error}");
    assert_eq!(std::fs::read(fixture.path(PackId(1))).unwrap(), bytes);
}

#[test]
fn pack_numbers_that_the_metadata_knows_are_not_used_again() {
    let mut fixture = Fixture::new(1 << 20);
    fixture.durable.insert(PackId(41), PACK_HEADER_LEN);
    let (store, _) = fixture.open();
    assert_eq!(append_one(&store, 1, 10).pack, PackId(42));
}
