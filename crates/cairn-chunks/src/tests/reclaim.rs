//! Space that comes back: holes, deleted packs, compaction, and readers who are in the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::{ProblemKind, ScanItem};

#[test]
fn freed_neighbours_are_punched_together() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..100).map(|id| blob(id, 3000)).collect();
    let places = store.append(&batch).unwrap();
    fixture.sync(&store);
    let before = store.total_stored_bytes().unwrap();
    // Every record is smaller than a page: no single one frees any.
    let (odd, even): (Vec<_>, Vec<_>) = places[..90].iter().partition(|place| place.offset / 8 % 2 == 1);
    let even_first = [even, odd].concat();
    let mut punched = 0;
    for half in even_first.chunks(45) {
        punched += store.free(half).unwrap().punched;
    }
    assert!(punched > 85 * 3000, "{punched}");
    fixture.sync(&store);
    assert_eq!(store.total_stored_bytes().unwrap(), before - punched);
    assert_eq!(store.free(&places[..90]).unwrap().punched, 0);
    for (id, place) in places.iter().enumerate() {
        if id < 90 {
            assert!(matches!(store.read(BlobId(id as u64), place, 0..1), Err(ChunkError::Gone { .. })));
        } else {
            assert_intact(&store, id as u64, place);
        }
    }
}

#[test]
fn a_dead_pack_is_deleted_once_it_is_sealed() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let places = [append_one(&store, 1, 5000), append_one(&store, 2, 5000)];
    assert_eq!(store.free(&places).unwrap().deleted, []);
    assert!(matches!(store.delete(places[0].pack), Err(ChunkError::NotSealed(_))));
    let third = append_one(&store, 3, 5000);
    assert_eq!(third.pack, places[0].pack);
    store.seal(third.pack).unwrap();
    let elsewhere = append_one(&store, 4, 5000);
    assert_ne!(elsewhere.pack, third.pack);
    assert_eq!(store.free(&[third]).unwrap().deleted, [third.pack]);
    assert!(!fixture.path(third.pack).exists());
    assert!(matches!(store.read(BlobId(3), &third, 0..1), Err(ChunkError::Gone { .. })));
    assert_eq!(store.free(&[third]).unwrap(), crate::Freed::default());

    store.seal(elsewhere.pack).unwrap();
    store.delete(elsewhere.pack).unwrap();
    assert_eq!(store.pack_ids(), []);
    assert!(matches!(store.seal(elsewhere.pack), Err(ChunkError::NoSuchPack(_))));
}

#[test]
fn a_pack_that_is_dead_when_it_is_sealed_is_deleted() {
    let fixture = Fixture::new(10_000);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 9000);
    store.free(&[place]).unwrap();
    assert_ne!(append_one(&store, 2, 9000).pack, place.pack);
    assert!(!fixture.path(place.pack).exists());
}

#[test]
fn a_hundred_thousand_frees_at_once_are_quick() {
    let fixture = Fixture::new(1 << 30);
    let (store, _) = fixture.open();
    let template = blob(0, 100);
    let batch: Vec<NewBlob> = (0..100_000).map(|id| NewBlob { id: BlobId(id), ..template.clone() }).collect();
    let mut places = store.append(&batch).unwrap();
    places.pop();
    // In an order that has nothing to do with that of the pack.
    places.sort_unstable_by_key(|place| place.offset.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let start = Instant::now();
    let freed = store.free(&places).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(freed.punched > 99_000 * 180, "{}", freed.punched);
}

#[test]
fn a_scan_finds_what_lives_between_holes() {
    let fixture = Fixture::new(1 << 30);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..60).map(|id| blob(id, if id % 7 == 0 { 700_000 } else { 6000 })).collect();
    let places = store.append(&batch).unwrap();
    let dead = |id: usize| !id.is_multiple_of(5);
    let freed: Vec<BlobPlace> =
        places.iter().enumerate().filter(|(id, _)| dead(*id)).map(|(_, place)| *place).collect();
    store.free(&freed).unwrap();
    let mut covered = crate::format::PACK_HEADER_LEN;
    let mut alive = Vec::new();
    for item in store.scan(places[0].pack).unwrap() {
        let (start, end) = match item.unwrap() {
            ScanItem::Gap { start, end } => (start, end),
            ScanItem::Record(record) => {
                let id = record.header.blob.0 as usize;
                assert_eq!((record.place, record.header.ino), (places[id], Ino(1000 + id as u64)));
                if !dead(id) {
                    alive.push(id);
                }
                (record.place.offset, record.place.end())
            }
        };
        assert_eq!(start, covered);
        covered = end;
    }
    assert_eq!(covered, places[59].end());
    assert_eq!(alive, (0..60).step_by(5).collect::<Vec<_>>());
}

/// Somebody keeps a pack in the volume: its records must not be taken for ours when a scan looks for the next one.
#[test]
fn a_pack_inside_a_blob_is_not_mistaken_for_records() {
    let mut fixture = Fixture::new(1 << 30);
    let inner = Fixture::new(1 << 30);
    let (inner_store, _) = inner.open();
    let inner_place = append_one(&inner_store, 666, 5000);
    let image = std::fs::read(inner.path(inner_place.pack)).unwrap();

    let (store, _) = fixture.open();
    let places = store.append(&[blob_of(1, image), blob(2, 100)]).unwrap();
    fixture.sync(&store);
    fixture.damage(places[0].pack, |bytes| bytes[places[0].offset as usize] ^= 1);
    let items: Vec<ScanItem> = store.scan(places[0].pack).unwrap().map(Result::unwrap).collect();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0], ScanItem::Gap { start: places[0].offset, end: places[1].offset });
    assert!(matches!(&items[1], ScanItem::Record(record) if record.header.blob == BlobId(2)));
}

#[test]
fn compaction_moves_what_lives_and_leaves_what_is_damaged() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..40).map(|id| blob(id, 20_000)).collect();
    let places = store.append(&batch).unwrap();
    let pack = places[0].pack;
    fixture.sync(&store);
    fixture.damage(pack, |bytes| bytes[places[10].offset as usize + 19_000] ^= 1);
    assert!(matches!(store.compact(pack, |_, _| true), Err(ChunkError::NotSealed(_))));
    store.seal(pack).unwrap();

    let compaction = store
        .compact(pack, |blob, place| {
            assert_eq!(places[blob.0 as usize], *place);
            blob.0.is_multiple_of(10)
        })
        .unwrap();
    assert!(compaction.stopped_by.is_none());
    assert_eq!(compaction.moved.iter().map(|moved| moved.blob.0).collect::<Vec<_>>(), [0, 20, 30]);
    assert_eq!(compaction.problems.len(), 1);
    assert_eq!(compaction.problems[0].blob, Some(BlobId(10)));
    assert_eq!(compaction.problems[0].kind, ProblemKind::BadBlock { block: 1 });
    for moved in &compaction.moved {
        assert_ne!(moved.to.pack, pack);
        assert_eq!(moved.from, places[moved.blob.0 as usize]);
        assert_intact(&store, moved.blob.0, &moved.to);
        store.verify_blob(moved.blob, &moved.to).unwrap();
    }
    assert_eq!(store.free(&places).unwrap().deleted, [pack]);
}

#[test]
fn compaction_on_a_full_disk_says_so_and_loses_nothing() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 20_000);
    store.seal(place.pack).unwrap();
    crate::sys::faults::set_space_left(Some(5000));
    let compaction = store.compact(place.pack, |_, _| true).unwrap();
    crate::sys::faults::set_space_left(None);
    assert!(matches!(compaction.stopped_by, Some(ChunkError::Full { .. })));
    assert_eq!(compaction.moved, []);
    assert_intact(&store, 1, &place);
}

/// Whoever reads while a blob is freed gets its bytes or is told that it is gone, never zeros.
#[test]
fn readers_never_see_a_hole() {
    let fixture = Fixture::new(1 << 30);
    let (store, _) = fixture.open();
    let batch: Vec<NewBlob> = (0..200).map(|id| blob(id, 50_000)).collect();
    let places = store.append(&batch).unwrap();
    let done = AtomicBool::new(false);
    let gone = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut gone = 0;
            while !done.load(Ordering::Relaxed) {
                for (id, place) in places.iter().enumerate() {
                    match store.read_verified(BlobId(id as u64), place, 30_000..40_000) {
                        Ok(data) => assert_eq!(data, batch[id].payload[30_000..40_000]),
                        Err(ChunkError::Gone { .. }) => gone += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            gone
        });
        for chunk in places.chunks(5) {
            store.free(chunk).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        store.seal(places[0].pack).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(gone > 0);
    assert!(!fixture.path(places[0].pack).exists());
}
