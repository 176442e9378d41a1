//! What every store promises, asked of each.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Where a store lies that can be killed.
trait Place: Sized {
    fn new() -> Self;
    fn opener(&self) -> &dyn Opener;
    /// What a killed process leaves.
    fn killed(self) -> Self;
}

struct Local(tempfile::TempDir, LocalOpener);

impl Local {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Place for Local {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opener = LocalOpener::new(folder.path()).with_cache(1 << 20);
        Local(folder, opener)
    }

    fn opener(&self) -> &dyn Opener {
        &self.1
    }

    fn killed(self) -> Self {
        let copy = Local::new();
        for file in std::fs::read_dir(self.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }
}

impl Place for MemoryStore {
    fn new() -> Self {
        MemoryStore::default()
    }

    fn opener(&self) -> &dyn Opener {
        self
    }

    fn killed(self) -> Self {
        self.crash();
        self
    }
}

/// Holds always.
const FREE: Condition<'static> = Condition { key: b"no such row", value: None };

#[derive(Clone, Copy, Debug)]
enum Way {
    Buffered,
    Durable,
    Attached,
}

type Steps = Vec<(Way, Changes, Vec<u8>)>;

fn steps() -> impl Strategy<Value = Steps> {
    let way = prop_oneof![Just(Way::Buffered), Just(Way::Attached), Just(Way::Attached), Just(Way::Durable)];
    let value = proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..50));
    let changes = proptest::collection::btree_map(proptest::collection::vec(0u8..3, 1..3), value, 0..4);
    proptest::collection::vec((way, changes, proptest::collection::vec(any::<u8>(), 0..9)), 0..8)
}

fn rows(store: &dyn KeyValueStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    store.reader().unwrap().scan(&[], &[0xff], &mut visit).unwrap();
    rows
}

fn open(place: &impl Place) -> (Box<dyn KeyValueStore>, Vec<Vec<u8>>) {
    let mut restored = Vec::new();
    let mut restore = |attachment: &[u8]| {
        restored.extend((!attachment.is_empty()).then(|| attachment.to_vec()));
        Ok(())
    };
    let store = place.opener().open(&mut restore).unwrap();
    (store, restored)
}

fn a_kill_loses_only_what_was_buffered<P: Place>(lives: Vec<Steps>) -> Result<(), TestCaseError> {
    let mut place = P::new();
    let mut store = place.opener().create().unwrap();
    let (mut applied, mut safe) = (BTreeMap::new(), BTreeMap::new());
    for steps in lives {
        let mut attachments = Vec::new();
        for (way, changes, attachment) in steps {
            let (durability, least) = match way {
                Way::Buffered => (Durability::Buffered, Reached::Buffered),
                Way::Durable => (Durability::Durable, Reached::Durable),
                Way::Attached => (Durability::DurableWith(&attachment), Reached::Attached),
            };
            prop_assert!(store.commit(FREE, &changes, durability).unwrap() >= least);
            for (key, value) in changes {
                match value {
                    Some(value) => applied.insert(key, value),
                    None => applied.remove(&key),
                };
            }
            match way {
                Way::Buffered => {}
                Way::Durable => attachments.clear(),
                Way::Attached => attachments.extend((!attachment.is_empty()).then_some(attachment)),
            }
            if !matches!(way, Way::Buffered) {
                safe.clone_from(&applied);
            }
            prop_assert_eq!(&rows(&*store), &applied);
        }
        place = place.killed();
        let (next, restored) = open(&place);
        prop_assert_eq!(&rows(&*next), &safe);
        prop_assert_eq!(restored, attachments);
        applied.clone_from(&safe);
        store = next;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_kill_loses_only_what_was_buffered_on_disk(lives in proptest::collection::vec(steps(), 1..5)) {
        a_kill_loses_only_what_was_buffered::<Local>(lives)?;
    }

    #[test]
    fn a_kill_loses_only_what_was_buffered_in_memory(lives in proptest::collection::vec(steps(), 1..5)) {
        a_kill_loses_only_what_was_buffered::<MemoryStore>(lives)?;
    }
}

fn what_the_condition_forbids_leaves_no_trace<P: Place>() {
    let place = P::new();
    let store = place.opener().create().unwrap();
    let change = |key: u8, value: u8| Changes::from([(vec![key], Some(vec![value]))]);
    store.commit(Condition { key: &[1], value: None }, &change(1, 1), Durability::Durable).unwrap();
    let before = rows(&*store);
    for durability in [Durability::Buffered, Durability::Durable, Durability::DurableWith(b"attached")] {
        for wrong in [None, Some(&[2][..])] {
            for changes in [change(2, 2), Changes::new()] {
                let condition = Condition { key: &[1], value: wrong };
                let refused = store.commit(condition, &changes, durability);
                assert!(matches!(refused, Err(StoreError::Superseded)), "{durability:?} {wrong:?}");
                assert_eq!(rows(&*store), before);
            }
        }
    }
    store.commit(Condition { key: &[1], value: Some(&[1]) }, &change(1, 2), Durability::Durable).unwrap();
    let (expected, place) = (rows(&*store), place.killed());
    let (store, restored) = open(&place);
    assert_eq!((rows(&*store), restored), (expected, vec![]));
}

#[test]
fn what_the_condition_forbids_leaves_no_trace_on_disk() {
    what_the_condition_forbids_leaves_no_trace::<Local>();
}

#[test]
fn what_the_condition_forbids_leaves_no_trace_in_memory() {
    what_the_condition_forbids_leaves_no_trace::<MemoryStore>();
}

fn attach(store: &dyn KeyValueStore, changes: &Changes, attachment: &[u8]) -> Reached {
    store.commit(FREE, changes, Durability::DurableWith(attachment)).unwrap()
}

#[test]
fn without_a_log_only_durable_commits_are_safe() {
    let place = Local::new();
    std::fs::create_dir(place.path().join("meta.log")).unwrap();
    let store = place.opener().create().unwrap();
    let changes = Changes::from([(vec![1], Some(vec![2]))]);
    assert_eq!(attach(&*store, &changes, b"tail"), Reached::Buffered);
    assert_eq!(rows(&*store).len(), 1, "applied all the same");
    store.commit(FREE, &Changes::new(), Durability::Durable).unwrap();
    assert_eq!(attach(&*store, &Changes::new(), b"tail"), Reached::Buffered);
}

#[test]
fn more_than_a_log_can_hold_takes_a_durable_commit() {
    let place = Local::new();
    let store = place.opener().create().unwrap();
    let large = |key: u8| Changes::from([(vec![key], Some(vec![key; 3 << 20]))]);
    assert_eq!(attach(&*store, &large(1), &[]), Reached::Attached);
    assert_eq!(attach(&*store, &large(2), &[]), Reached::Buffered, "the log is full");
    store.commit(FREE, &Changes::new(), Durability::Durable).unwrap();
    assert_eq!(attach(&*store, &large(3), &[]), Reached::Attached);
    store.commit(FREE, &large(4), Durability::Buffered).unwrap();
    store.commit(FREE, &large(5), Durability::Buffered).unwrap();
    assert_eq!(attach(&*store, &Changes::new(), &[]), Reached::Buffered, "too many changes are not logged");
}
