//! Flushing: what a caller is told, and what follows a failure.

#![allow(clippy::disallowed_types, reason = "what a test notes is nested in nothing")]

use super::*;
use crate::sys::faults;

#[test]
fn the_durable_lengths_cover_what_was_appended() {
    let fixture = Fixture::new(10_000);
    let (store, _) = fixture.open();
    assert_eq!(store.sync().unwrap(), []);
    let first = append_one(&store, 1, 9000);
    let second = append_one(&store, 2, 9000);
    assert_eq!(store.sync().unwrap(), [(first.pack, first.end()), (second.pack, second.end())]);
    assert_eq!(store.sync().unwrap(), []);
    let third = append_one(&store, 3, 100);
    assert_eq!(store.sync().unwrap(), [(second.pack, third.end())]);
}

#[test]
fn a_deleted_pack_is_not_reported() {
    let fixture = Fixture::new(10_000);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 9000);
    store.seal(place.pack).unwrap();
    assert_eq!(store.free(&[place]).unwrap().deleted, [place.pack]);
    assert_eq!(store.sync().unwrap(), []);
}

#[test]
fn a_failed_flush_stops_writing_for_good_and_reading_not_at_all() {
    let fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    let place = append_one(&store, 1, 1000);
    faults::set_sync_fails(true);
    let error = store.sync().unwrap_err();
    faults::set_sync_fails(false);
    assert!(matches!(&error, ChunkError::Poisoned(poison) if poison.file == fixture.path(place.pack)), "{error}");
    assert!(error.to_string().contains("cannot flush to stable storage"), "{error}");
    assert!(matches!(store.sync(), Err(ChunkError::Poisoned(_))));
    assert!(matches!(store.append(&[blob(2, 10)]), Err(ChunkError::Poisoned(_))));
    assert_intact(&store, 1, &place);
}

/// Each thread finds its own append covered by the lengths that it is given or that somebody was given before.
#[test]
fn callers_at_the_same_time_are_all_covered() {
    let mut fixture = Fixture::new(1 << 20);
    fixture.options.writers = 2;
    let (store, _) = fixture.open();
    let durable = parking_lot::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (store, durable) = (&store, &durable);
            scope.spawn(move || {
                for index in 0..20 {
                    let place = append_one(store, thread * 100 + index, 200);
                    let lengths = store.sync().unwrap();
                    let mut known = durable.lock();
                    for (pack, length) in lengths {
                        let known: &mut u64 = known.entry(pack).or_default();
                        *known = length.max(*known);
                    }
                    drop(known);
                    // A round that covered it may be known to its other callers only for another moment.
                    let covered = || durable_length(durable, place.pack) >= place.end();
                    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
                    while !covered() {
                        assert!(std::time::Instant::now() < deadline, "{place:?} is not covered");
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
}

fn durable_length(durable: &parking_lot::Mutex<BTreeMap<PackId, u64>>, pack: PackId) -> u64 {
    durable.lock().get(&pack).copied().unwrap_or_default()
}
