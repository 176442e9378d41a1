//! Closing, crashing, coming back.

use cairn_wire::message::{OpNumber, Replay};

use super::*;

fn reclaim(leases: Vec<(Ino, LeaseMode)>, replay: Vec<Replay>) -> Request {
    Request::Reclaim { leases, open: Vec::new(), locks: Vec::new(), replay, complete: true }
}

fn again(applied: &Applied, number: OpNumber, op: &MetaOp) -> Replay {
    Replay { order: applied.order, number, op: op.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_volume_opens_again_with_its_sessions() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    mount.write(ino, b"kept").await.result.expect("written");
    fixture.volume.close().await.expect("closed");
    assert_eq!(mount.ask(Request::Renew).await.map_err(|failure| failure.errno), Err(Errno::ESHUTDOWN));

    let volume = open_at(fixture.path(), &options()).await;
    assert!(volume.mounted());
    let back = Mount::new(Arc::clone(&volume), Some(mount.resume())).await.expect("resumed");
    assert!(!back.welcome.state_kept);
    assert_eq!(back.welcome.journal_applied, 1);
    let answer = back.ask(reclaim(vec![(ino, LeaseMode::Exclusive)], vec![])).await.expect("reclaimed");
    let Answer::Reclaimed { grants, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(grants.len(), 1);
    assert_eq!(back.content(ino).await, b"kept");
    back.ask(Request::Goodbye).await.expect("left");
    assert!(!volume.mounted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_a_kill_and_what_was_not_is_sent_again() {
    let slow = VolumeOptions { durable_interval: Duration::from_secs(60), ..options() };
    let fixture = Fixture::with(1 << 30, slow.clone()).await;
    let (first, second) = (fixture.mount().await, fixture.mount().await);
    let synced = first.create(Ino::ROOT, "synced", NewNode::Directory).await.expect("made");
    first.sync().await;

    // Interleaved changes of two sessions, none of them durable: only the common order makes sense of them.
    let (first, _) = first.obedient();
    let (second, _) = second.obedient();
    let a = first.new_ino();
    let make = create(synced, "a", a, NewNode::Regular);
    let (made, _) = first.call_as(100, make.clone()).await;
    let rename = MetaOp::Rename {
        parent: synced,
        name: named("a"),
        new_parent: Ino::ROOT,
        new_name: named("b"),
        mode: cairn_types::RenameMode::Replace,
        keep: false,
        time: Timestamp::now(),
    };
    let (renamed, _) = second.call_as(100, rename.clone()).await;
    assert!(made.order < renamed.order);
    first.query(Query::Acquire { ino: a, mode: LeaseMode::Exclusive }).await.expect("lease");
    let blob = first.put(a, b"not durable").await;
    let put = write(a, blob, 11);
    let written = first.journal_as(1, vec![put.clone()]).await.remove(0);
    assert!(written.result.is_ok(), "{written:?}");

    let disk = copy_of(fixture.path());
    let volume = open_at(disk.path(), &slow).await;
    let first_back = Mount::new(Arc::clone(&volume), Some(first.resume())).await.expect("resumed");
    let second_back = Mount::new(Arc::clone(&volume), Some(second.resume())).await.expect("resumed");
    assert_eq!(first_back.welcome.journal_applied, 0);
    let replays = vec![again(&made, OpNumber::Call(100), &make), again(&written, OpNumber::Journal(1), &put)];
    let (one, two) = tokio::join!(
        first_back.ask(reclaim(vec![(a, LeaseMode::Exclusive)], replays.clone())),
        second_back.ask(reclaim(vec![], vec![again(&renamed, OpNumber::Call(100), &rename)])),
    );
    let Ok(Answer::Reclaimed { replayed, .. }) = one else { panic!("{one:?}") };
    assert_eq!(replayed.iter().map(|one| one.order).collect::<Vec<_>>(), [made.order, written.order]);
    assert!(replayed.iter().all(|one| one.result.is_ok()), "{replayed:?}");
    let Ok(Answer::Reclaimed { replayed, .. }) = two else { panic!("{two:?}") };
    assert!(replayed[0].result.is_ok(), "{replayed:?}");
    assert_eq!(first_back.content(a).await, b"not durable");
    assert_eq!(counter(&volume, "changes_replayed"), 3);

    // Its answer was lost: the session tells everything again, which changes nothing.
    let once_more = first_back.ask(reclaim(vec![(a, LeaseMode::Exclusive)], replays)).await.expect("answered");
    let Answer::Reclaimed { replayed, grants } = once_more else { panic!("{once_more:?}") };
    assert!(replayed.iter().all(|one| one.result.is_ok()) && grants.len() == 1);
    assert_eq!(counter(&volume, "changes_replayed"), 3);
    let (repeated, _) = first_back.call_as(100, make).await;
    assert_eq!((repeated.order, repeated.result.is_ok()), (made.order, true));
    let problems = volume.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked").problems;
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grace_ends_without_those_who_do_not_come_back() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.new_ino();
    let op =
        MetaOp::CreateUnnamed { parent: Ino::ROOT, ino, mode: 0o600, umask: 0, uid: 0, gid: 0, time: Timestamp::now() };
    mount.call(op).await.0.result.expect("made");
    mount.sync().await;
    let disk = copy_of(fixture.path());
    let volume = open_at(disk.path(), &options()).await;
    let begin = std::time::Instant::now();
    let newcomer = Mount::new(Arc::clone(&volume), None).await.expect("attached");
    assert_eq!(newcomer.attr(ino).await.map(|_| ()), Err(Errno::ENOENT), "deleted with its session");
    assert!(begin.elapsed() >= Duration::from_millis(350), "{:?}", begin.elapsed());
    let refused = Mount::new(Arc::clone(&volume), Some(mount.resume())).await.map(|_| ());
    assert_eq!(refused.map_err(|refusal| refusal.kind), Err(cairn_wire::RefusalKind::SessionGone));
    assert_eq!(volume.usage().inodes_used, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_waits_for_its_metadata_survives_a_kill() {
    let slow = VolumeOptions { durable_interval: Duration::from_secs(60), ..options() };
    let fixture = Fixture::with(1 << 30, slow.clone()).await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let blob = mount.put(ino, b"pending").await;
    // The flush covers the blob, and the restart must look for it all the same.
    mount.sync().await;
    let disk = copy_of(fixture.path());
    let volume = open_at(disk.path(), &slow).await;
    let back = Mount::new(Arc::clone(&volume), Some(mount.resume())).await.expect("resumed");
    back.ask(reclaim(vec![(ino, LeaseMode::Exclusive)], vec![])).await.expect("reclaimed");
    let applied = back.journal_as(1, vec![write(ino, blob, 7)]).await;
    assert!(applied[0].result.is_ok(), "{applied:?}");
    assert_eq!(back.content(ino).await, b"pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_a_power_cut_by_the_log() {
    let slow = VolumeOptions { durable_interval: Duration::from_secs(60), ..options() };
    let fixture = Fixture::with(1 << 30, slow.clone()).await;
    let mount = fixture.mount().await;
    let packs = fixture.path().join("packs");
    let mut files = Vec::new();
    let mut flushed = Vec::new();
    for number in 0..20u8 {
        let ino = mount.create(Ino::ROOT, &format!("file{number}"), NewNode::Regular).await.expect("made");
        let blob = mount.put(ino, &[number; 3000]).await;
        mount.journal_as(u64::from(number) + 1, vec![write(ino, blob, 3000)]).await.remove(0).result.expect("written");
        mount.sync().await;
        files.push((ino, number));
        if number == 0 {
            // The pack is new, so it was flushed.
            flushed = lengths(&packs);
        }
    }
    assert_eq!(counter(&fixture.volume, "commits_logged"), 19);

    let disk = copy_of(fixture.path());
    for (name, length) in flushed {
        let file = std::fs::OpenOptions::new().write(true).open(disk.path().join("packs").join(name)).expect("a pack");
        file.set_len(length).expect("cut");
    }
    for _ in 0..2 {
        let volume = open_at(disk.path(), &slow).await;
        let back = Mount::new(Arc::clone(&volume), Some(mount.resume())).await.expect("resumed");
        assert_eq!(back.welcome.journal_applied, 20);
        back.ask(reclaim(vec![], vec![])).await.expect("reclaimed");
        for (ino, number) in &files {
            assert_eq!(back.content(*ino).await, [*number; 3000]);
        }
        let found = volume.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked");
        assert_eq!(found.problems, Vec::<String>::new());
        volume.close().await.expect("closed");
    }
}

/// Names and lengths of the files in a directory.
fn lengths(directory: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    entries.map(|entry| (entry.file_name(), entry.metadata().expect("a file").len())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_entry_of_a_journal_is_refused_again_after_a_kill() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let blob = mount.put(ino, b"kept").await;
    let ops = vec![write(ino, BlobId(u64::MAX / 2), 4), write(ino, blob, 4)];
    let first = mount.journal_as(1, ops.clone()).await;
    assert!(first[0].result.is_err() && first[1].result.is_ok(), "{first:?}");
    mount.sync().await;
    let disk = copy_of(fixture.path());
    let volume = open_at(disk.path(), &options()).await;
    let back = Mount::new(Arc::clone(&volume), Some(mount.resume())).await.expect("resumed");
    assert_eq!(back.welcome.journal_applied, 2);
    back.ask(reclaim(vec![(ino, LeaseMode::Exclusive)], vec![])).await.expect("reclaimed");
    // The answer to the first was lost with the server.
    let again = back.journal_as(1, ops).await;
    assert_eq!(again[0].result.as_ref().err(), first[0].result.as_ref().err());
    assert!(again[1].result.is_ok(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_reported_and_never_returned_as_data_unnoticed() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let blob = mount.put(ino, &[7; 5000]).await;
    mount.journal_as(1, vec![write(ino, blob, 5000)]).await.remove(0).result.expect("written");
    mount.sync().await;
    let pack = std::fs::read_dir(fixture.path().join("packs")).expect("packs").next().expect("a pack").expect("entry");
    let mut bytes = std::fs::read(pack.path()).expect("read");
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(pack.path(), bytes).expect("written");
    mount.ask(Request::ReportDamage { blob, offset: 0 }).await.expect("noted");
    assert_eq!(counter(&fixture.volume, "blobs_damaged"), 1);
    let found = fixture.volume.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked");
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    assert!(found.problems[0].contains(".pack"), "{:?}", found.problems);
}
