//! Sessions, exactly-once bookkeeping, numbers, and what a crash leaves.

mod common;

use bytes::Bytes;
use cairn_meta::engine::RedbEngine;
use cairn_meta::{ApplyContext, StoreError, VolumeStore};
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
    batch.commit(true).expect("memory");
    let mut batch = volume.store.begin().expect("no other");
    assert_eq!(batch.call_result(session, 3).expect("memory"), Some(Ok(())));
    assert_eq!(batch.call_result(session, 4).expect("memory"), Some(Err(Errno::EEXIST)));
    assert_eq!(batch.entry_result(session, 11).expect("memory"), Err(Errno::EDQUOT));
    assert_eq!(batch.entry_result(session, 12).expect("memory"), Ok(()));
    assert!(batch.record_call(session, 5, 0, 4).expect("memory"));
    assert_eq!(batch.call_result(session, 3).expect("memory"), Some(Err(Errno::ESTALE)));
    assert!(batch.resume_session(session, Bytes::from_static(b"two")).expect("memory"));
    assert!(!batch.set_journal_sequence(SessionId(999), 1).expect("memory"));
    batch.commit(true).expect("memory");
    let sessions = volume.snapshot().sessions().expect("readable");
    assert_eq!(sessions.len(), 2);
    assert_eq!((sessions[1].0, &sessions[1].1.info[..], sessions[1].1.journal_sequence), (session, &b"two"[..], 12));
    let mut batch = volume.store.begin().expect("no other");
    batch.remove_session(session).expect("memory");
    assert_eq!(batch.session(session).expect("memory"), None);
    volume.last_commit = batch.commit(true).expect("memory");
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
    let outcome = batch.commit(true).expect("memory");
    assert_eq!((outcome.order, outcome.durable), (order + 4, true));
    let durable = volume.rows();
    volume.file(ROOT, "lost");
    let mut batch = volume.store.begin().expect("no other");
    let numbers = (batch.allocate_inos(100), batch.allocate_blobs(100), batch.create_session(Bytes::new()));
    let lost_order = batch.allocate_order(3);
    assert!(!batch.commit(false).expect("memory").durable);
    volume.engine.crash();
    assert_eq!(volume.rows(), durable);
    let store = VolumeStore::open_in(Box::new(volume.engine.clone())).expect("sound");
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
    assert!(batch.commit(false).expect("memory").durable);
}

#[test]
fn the_settings_can_be_changed() {
    let volume = Volume::new();
    let mut batch = volume.store.begin().expect("no other");
    batch.rename_volume("new name".to_owned());
    batch.resize_volume(Some(7), None);
    batch.commit(true).expect("memory");
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

fn make_file(store: &VolumeStore, text: &str, durable: bool) {
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
    batch.commit(durable).expect("room on disk");
}

#[test]
fn a_redb_file_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.redb");
    let store = VolumeStore::create(&path, config()).expect("a new file");
    make_file(&store, "durable", true);
    make_file(&store, "lost", false);
    assert_eq!(store.snapshot().entries(ROOT, None, 9).expect("root").len(), 2);
    assert!(matches!(VolumeStore::open(&path, 1 << 20, &mut |_| Ok(())), Err(StoreError::Locked { .. })));
    assert!(matches!(VolumeStore::create(&path, config()), Err(StoreError::Exists { .. })));
    // What a killed process leaves is what is in the file at that moment.
    let copy = folder.path().join("copy.redb");
    std::fs::copy(&path, &copy).expect("room on disk");
    let killed = VolumeStore::open(&copy, 1 << 20, &mut |_| Ok(())).expect("repairable");
    let entries = killed.snapshot().entries(ROOT, None, 9).expect("root");
    assert_eq!(entries.iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>(), ["durable"]);
    drop(store);
    let reopened = VolumeStore::open(&path, RedbEngine::CACHE_BYTES_DEFAULT, &mut |_| Ok(())).expect("closed in order");
    assert_eq!(cairn_meta::check::check(&reopened.snapshot(), &mut |_| {}).expect("readable"), []);
}

#[test]
fn files_that_are_no_volume_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta.redb");
    assert!(matches!(VolumeStore::open(&path, 1 << 20, &mut |_| Ok(())), Err(StoreError::Missing { .. })));
    std::fs::write(&path, vec![7; 10_000]).expect("room on disk");
    assert!(matches!(VolumeStore::open(&path, 1 << 20, &mut |_| Ok(())), Err(StoreError::Damaged(_))));
}
