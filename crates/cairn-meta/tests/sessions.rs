//! Sessions, exactly-once bookkeeping, numbers, and what a crash leaves.

mod common;

use bytes::Bytes;
use cairn_meta::kv::{LocalOpener, Opener};
use cairn_meta::{ApplyContext, Durability, Reached, StoreError, VolumeStore};
use cairn_types::{Errno, Ino, MetaOp, NewNode, SessionId};
use common::{Volume, config, name, time};

const ROOT: Ino = Ino::ROOT;

#[test]
fn sessions_remember_what_was_done() {
    let mut volume = Volume::new();
    let mut batch = volume.store.begin().expect("no other");
    let session = batch.create_session(Bytes::from_static(b"one"));
    assert_eq!(batch.journal_sequence(session).expect("memory"), Some(0));
    assert!(batch.set_journal_sequence(session, 12).expect("memory"));
    assert_eq!(batch.call_result(session, 3).expect("memory"), None);
    assert!(batch.record_call(session, 3, 0, 0).expect("memory"));
    assert!(batch.record_call(session, 4, Errno::EEXIST.0, 0).expect("memory"));
    assert!(batch.refuse_entry(session, 11, Errno::EDQUOT).expect("memory"));
    batch.commit(Durability::Durable).expect("memory");
    let mut batch = volume.store.begin().expect("no other");
    assert_eq!(batch.call_result(session, 3).expect("memory"), Some(Ok(())));
    assert_eq!(batch.call_result(session, 4).expect("memory"), Some(Err(Errno::EEXIST)));
    assert_eq!(batch.entry_result(session, 11).expect("memory"), Err(Errno::EDQUOT));
    assert_eq!(batch.entry_result(session, 12).expect("memory"), Ok(()));
    assert!(batch.record_call(session, 5, 0, 4).expect("memory"));
    assert_eq!(batch.call_result(session, 3).expect("memory"), Some(Err(Errno::ESTALE)));
    assert!(batch.resume_session(session, Bytes::from_static(b"two")).expect("memory"));
    assert!(!batch.set_journal_sequence(SessionId(999), 1).expect("memory"));
    batch.commit(Durability::Durable).expect("memory");
    let sessions = volume.snapshot().sessions().expect("readable");
    assert_eq!(sessions.len(), 2);
    assert_eq!((sessions[1].0, &sessions[1].1.info[..], sessions[1].1.journal_sequence), (session, &b"two"[..], 12));
    let mut batch = volume.store.begin().expect("no other");
    batch.remove_session(session).expect("memory");
    assert_eq!(batch.session(session).expect("memory"), None);
    volume.last_commit = batch.commit(Durability::Durable).expect("memory");
    assert_eq!(volume.snapshot().sessions().expect("readable").len(), 1);
}

#[test]
fn one_batch_at_a_time() {
    let volume = Volume::new();
    let batch = volume.store.begin().expect("no other");
    assert!(matches!(volume.store.begin(), Err(StoreError::BatchOpen)));
    drop(batch);
    volume.store.begin().expect("the other is gone");
}

#[test]
fn a_crash_goes_back_to_the_last_durable_commit_and_repeats_no_number() {
    let mut volume = Volume::new();
    volume.file(ROOT, "durable");
    let mut batch = volume.store.begin().expect("no other");
    let order = batch.allocate_order(5);
    let outcome = batch.commit(Durability::Durable).expect("memory");
    assert_eq!((outcome.order, outcome.reached), (order + 4, Reached::Durable));
    let durable = volume.rows();
    volume.file(ROOT, "lost");
    let mut batch = volume.store.begin().expect("no other");
    let numbers = (batch.allocate_inos(100), batch.allocate_blobs(100), batch.create_session(Bytes::new()));
    let lost_order = batch.allocate_order(3);
    assert_eq!(batch.commit(Durability::Buffered).expect("memory").reached, Reached::Buffered);
    volume.rows.crash();
    assert_eq!(volume.rows(), durable);
    let store = VolumeStore::open(Box::new(volume.rows.clone())).expect("sound");
    assert_eq!(store.snapshot().last_order(), order + 4);
    let mut batch = store.begin().expect("no other");
    assert!(batch.allocate_inos(1) >= Ino(numbers.0.0 + 100));
    assert!(batch.allocate_blobs(1).0 >= numbers.1.0 + 100);
    assert!(batch.create_session(Bytes::new()) > numbers.2);
    batch.note_replayed(lost_order);
    assert_eq!(batch.volume().last_order, lost_order);
    assert!(batch.allocate_order(1) > lost_order + 2);
}

#[test]
fn handing_out_very_many_numbers_makes_a_commit_durable() {
    let volume = Volume::new();
    let mut batch = volume.store.begin().expect("no other");
    batch.allocate_inos(1 << 30);
    assert_eq!(batch.commit(Durability::Buffered).expect("memory").reached, Reached::Durable);
}

#[test]
fn the_settings_can_be_changed() {
    let volume = Volume::new();
    let mut batch = volume.store.begin().expect("no other");
    batch.rename_volume("new name".to_owned());
    batch.resize_volume(Some(7), None);
    batch.commit(Durability::Durable).expect("memory");
    let snapshot = volume.snapshot();
    assert_eq!((snapshot.config().name.as_str(), snapshot.config().bytes_limit), ("new name", 7));
    assert_eq!(snapshot.config().inodes_limit, config().inodes_limit);
}

#[test]
fn a_lost_reply_is_built_again() {
    let mut volume = Volume::new();
    let op = volume.create_op(ROOT, "file", NewNode::Regular, 0o600);
    let mut reply = volume.apply(&op);
    let mut rebuilt = volume.snapshot().rebuild_reply(&op).expect("readable");
    reply.attrs.sort_by_key(|attr| attr.ino);
    rebuilt.attrs.sort_by_key(|attr| attr.ino);
    assert_eq!(rebuilt, reply);
}

fn make_file(store: &VolumeStore, text: &str, durability: Durability<'_>) {
    let mut batch = store.begin().expect("no other");
    let ino = batch.allocate_inos(1);
    let context = ApplyContext {
        session: SessionId(1),
        headroom_bytes: 0,
        headroom_inodes: 1,
        pending_blobs: &|_| None,
        open_elsewhere: &|_| Vec::new(),
    };
    let op = MetaOp::Create {
        parent: ROOT,
        name: name(text),
        ino,
        node: NewNode::Regular,
        mode: 0o600,
        umask: 0,
        uid: 0,
        gid: 0,
        time: time(0),
    };
    batch.apply(&context, &op).expect("free name");
    batch.commit(durability).expect("room on disk");
}

#[test]
fn who_was_superseded_changes_nothing_any_more() {
    let volume = Volume::new();
    let open = || VolumeStore::open(Box::new(volume.rows.clone())).expect("sound");
    let (first, second) = (open(), open());
    assert_eq!((first.ownership().epoch(), second.ownership().epoch()), (1, 2));
    assert!(!first.is_owned().expect("memory") && second.is_owned().expect("memory"));
    make_file(&second, "mine", Durability::Buffered);
    let before = volume.rows();
    for durability in [Durability::Buffered, Durability::Durable, Durability::DurableWith(b"tail")] {
        let mut batch = first.begin().expect("no other");
        batch.create_session(Bytes::from_static(b"late"));
        assert!(matches!(batch.commit(durability), Err(StoreError::Superseded)));
        assert_eq!(volume.rows(), before);
    }
    // The one who made the volume is superseded, too.
    let batch = volume.store.begin().expect("no other");
    assert!(matches!(batch.commit(Durability::Durable), Err(StoreError::Superseded)));
    make_file(&second, "mine, too", Durability::Durable);
}

#[test]
fn a_local_store_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = LocalOpener::new(folder.path());
    let open = |place: &LocalOpener| VolumeStore::open(place.open(&mut |_| Ok(()))?);
    let store = VolumeStore::create(place.create().expect("a new file"), config()).expect("made");
    make_file(&store, "durable", Durability::Durable);
    make_file(&store, "lost", Durability::Buffered);
    assert_eq!(store.snapshot().entries(ROOT, None, 9).expect("root").len(), 2);
    assert!(matches!(open(&place), Err(StoreError::Locked { .. })));
    assert!(matches!(place.create(), Err(StoreError::Exists { .. })));
    // What a killed process leaves is what is in the file at that moment.
    let copy = tempfile::tempdir().expect("a folder");
    std::fs::copy(folder.path().join("meta.redb"), copy.path().join("meta.redb")).expect("room on disk");
    let killed = open(&LocalOpener::new(copy.path())).expect("repairable");
    let entries = killed.snapshot().entries(ROOT, None, 9).expect("root");
    assert_eq!(entries.iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>(), ["durable"]);
    drop(store);
    let reopened = open(&place).expect("closed in order");
    assert_eq!(cairn_meta::check::check(&reopened.snapshot(), &mut |_| {}).expect("readable"), []);
}

#[test]
fn files_that_are_no_volume_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = LocalOpener::new(folder.path());
    assert!(matches!(place.open(&mut |_| Ok(())), Err(StoreError::Missing { .. })));
    std::fs::write(folder.path().join("meta.redb"), vec![7; 10_000]).expect("room on disk");
    assert!(matches!(place.open(&mut |_| Ok(())), Err(StoreError::Damaged(_))));
}
