//! Tails: what is appended and not flushed, stored elsewhere and put back.

use super::*;
use crate::restore_tails;

const MOST: u64 = 100_000;

#[test]
fn tails_bring_back_what_a_crash_took() {
    let mut fixture = Fixture::new(1 << 20);
    let (store, _) = fixture.open();
    append_one(&store, 1, 3000);
    assert!(store.take_tails(MOST).is_none(), "the pack is new: its name needs a flush, too");
    fixture.sync(&store);
    assert_eq!(store.take_tails(MOST).unwrap(), Vec::<u8>::new());

    let second = append_one(&store, 2, 5000);
    let first_tails = store.take_tails(MOST).unwrap();
    assert!((5000..5300).contains(&first_tails.len()));
    let third = append_one(&store, 3, 100);
    let fourth = append_one(&store, 4, 20_000);
    let second_tails = store.take_tails(MOST).unwrap();
    assert!((20_100..20_500).contains(&second_tails.len()), "only what is new");
    append_one(&store, 5, MOST as usize);
    assert!(store.take_tails(MOST).is_none(), "too much");
    drop(store);

    // What a power cut leaves of a pack.
    let flushed = fixture.durable[&second.pack];
    fixture.damage(second.pack, |bytes| bytes.truncate(flushed as usize));
    let packs = fixture.directory.path().join("packs");
    for tails in [&first_tails, &second_tails, &second_tails] {
        restore_tails(&packs, tails).unwrap();
    }
    let (store, recovery) = fixture.open();
    assert_eq!(recovery.blobs.iter().map(|found| found.blob.0).collect::<Vec<_>>(), [2, 3, 4]);
    for (id, place) in [(2, second), (3, third), (4, fourth)] {
        assert_intact(&store, id, &place);
    }
    drop(store);

    std::fs::remove_file(fixture.path(second.pack)).unwrap();
    restore_tails(&packs, &first_tails).unwrap();
    assert!(!fixture.path(second.pack).exists(), "a pack that was deleted stays so");
    assert!(restore_tails(&packs, &first_tails[..first_tails.len() - 1]).is_err());
}
