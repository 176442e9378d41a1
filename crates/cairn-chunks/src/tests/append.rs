//! Appending: what is stored, where, and what a failure leaves behind.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::format::PACK_HEADER_LEN;
use crate::sys::faults;

#[test]
fn blobs_of_all_sizes_come_back() {
    let fixture = Fixture::new(1 << 30);
    let (store, _) = fixture.open();
    let lengths = [1, 7, 1024, 16_383, 16_384, 16_385, 100_000, 5 << 20];
    let batch: Vec<NewBlob> = lengths.iter().enumerate().map(|(id, &length)| blob(id as u64, length)).collect();
    let places = store.append(&batch).unwrap();
    for (id, (place, length)) in places.iter().zip(lengths).enumerate() {
        assert_eq!(place.payload_len as usize, length);
        assert_eq!(place.offset % 8, 0);
        assert_intact(&store, id as u64, place);
        store.verify_blob(BlobId(id as u64), place).unwrap();
    }
    assert_eq!(fixture.length(places[0].pack), places.last().unwrap().end());
    assert_eq!(store.append(&[]).unwrap(), []);
}

#[test]
fn small_files_take_at_most_a_tenth_more_than_their_bytes() {
    let mut fixture = Fixture::new(1 << 30);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..4000).map(|id| blob(id, 1024)).collect();
    let places = store.append(&batch).unwrap();
    fixture.sync(&store);
    let on_disk = std::fs::metadata(fixture.path(places[0].pack)).unwrap().blocks() * 512;
    assert!(on_disk * 10 <= 4000 * 1024 * 11, "{on_disk}");
    assert_eq!(store.total_stored_bytes().unwrap(), on_disk);
}

#[test]
fn what_was_damaged_on_its_way_is_refused() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let mut bad = blob(2, 40_000);
    let mut bytes = bad.payload.to_vec();
    bytes[20_000] ^= 1;
    bad.payload = bytes.into();
    let error = store.append(&[blob(1, 10), bad]).unwrap_err();
    assert!(matches!(error, ChunkError::DamagedOnArrival { blob: BlobId(2), block: 1 }), "{error}");
    let mut short = blob(3, 40_000);
    short.checksums.pop();
    assert!(matches!(store.append(&[short]), Err(ChunkError::DamagedOnArrival { block: 2, .. })));
    assert!(matches!(store.append(&[blob(4, 0)]), Err(ChunkError::BadLength { .. })));
    assert_eq!(store.pack_ids(), []);
}

#[test]
fn a_full_pack_is_followed_by_another() {
    let fixture = Fixture::new(10_000);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..10).map(|id| blob(id, 3000)).collect();
    let places = store.append(&batch).unwrap();
    assert_eq!(places.iter().map(|place| place.pack.0).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
    let large = append_one(&store, 10, 50_000);
    assert_eq!((large.pack, large.offset), (PackId(5), PACK_HEADER_LEN));
    for (id, place) in places.iter().chain([&large]).enumerate() {
        assert_intact(&store, id as u64, place);
    }
    let sealed: Vec<bool> = store.pack_stats().unwrap().iter().map(|stats| stats.sealed).collect();
    assert_eq!(sealed, [true, true, true, true, false]);
}

#[test]
fn a_full_disk_leaves_the_pack_as_it_was() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let first = append_one(&store, 1, 5000);
    faults::set_space_left(Some(7000));
    let error = store.append(&[blob(2, 5000), blob(3, 50_000)]).unwrap_err();
    faults::set_space_left(None);
    assert!(matches!(error, ChunkError::Full { .. }), "{error}");
    assert_eq!(error.errno(), cairn_types::Errno::ENOSPC);
    assert_eq!(fixture.length(first.pack), first.end());

    let next = append_one(&store, 4, 50_000);
    assert_eq!((next.pack, next.offset), (first.pack, first.end()));
    assert_intact(&store, 1, &first);
    assert_intact(&store, 4, &next);
}

#[test]
fn a_disk_without_room_for_a_new_pack_leaves_no_file() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    faults::set_space_left(Some(10));
    assert!(matches!(store.append(&[blob(1, 5000)]), Err(ChunkError::Full { .. })));
    faults::set_space_left(None);
    assert_eq!(std::fs::read_dir(fixture.directory.path().join("packs")).unwrap().count(), 0);
    append_one(&store, 1, 5000);
}

#[test]
fn a_batch_that_fails_in_its_second_pack_leaves_nothing_in_its_first() {
    let fixture = Fixture::new(20_000);
    let (store, _) = fixture.open();
    let kept = append_one(&store, 1, 1000);
    // The first record fits what is left of the pack; the disk fills up with the second, in the next pack.
    faults::set_space_left(Some(17_000));
    let error = store.append(&[blob(2, 15_000), blob(3, 30_000)]).unwrap_err();
    faults::set_space_left(None);
    assert!(matches!(error, ChunkError::Full { .. }), "{error}");
    let stats = store.pack_stats().unwrap();
    assert_eq!(stats[0].dead, u64::from(crate::format::record_len(15_000)));
    assert_eq!(stats[1].length, PACK_HEADER_LEN);
    assert_intact(&store, 1, &kept);
}

#[test]
fn threads_append_side_by_side() {
    let mut fixture = Fixture::new(300_000);
    fixture.options.writers = 3;
    let (store, _) = fixture.open();
    let places: Vec<(u64, BlobPlace)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let batches = (0..20).map(|batch| {
                        let ids = (0..8).map(|index| thread * 1000 + batch * 8 + index);
                        let batch: Vec<NewBlob> = ids.map(|id| blob(id, 500 + 37 * id as usize % 20_000)).collect();
                        let places = store.append(&batch).unwrap();
                        batch.iter().map(|blob| blob.id.0).zip(places).collect::<Vec<_>>()
                    });
                    batches.flatten().collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(places.len(), 960);
    for (id, place) in &places {
        assert_intact(&store, *id, place);
    }
    drop(store);
    let (_, recovery) = fixture.open();
    assert_eq!(recovery.blobs.len(), 960);
    assert!(recovery.problems.is_empty() && recovery.cuts.is_empty());
}
