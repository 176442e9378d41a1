//! Several sessions on one volume.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_mount_makes_writes_and_reads_a_file() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.new_ino();
    let (applied, grants) = mount.call(create(Ino::ROOT, "file", ino, NewNode::Regular)).await;
    assert!(applied.result.is_ok() && applied.order > 0);
    let modes: Vec<(Ino, LeaseMode)> = grants.iter().map(|grant| (grant.ino, grant.mode)).collect();
    assert!(modes.contains(&(ino, LeaseMode::Exclusive)) && modes.contains(&(Ino::ROOT, LeaseMode::Exclusive)));
    assert!(mount.write(ino, b"content").await.result.is_ok());
    assert_eq!(mount.content(ino).await, b"content");
    assert_eq!(mount.lookup("file").await.expect("found").map(|attr| attr.size), Some(7));
    assert_eq!(mount.lookup("other").await, Ok(None));
    assert_eq!(mount.attr(Ino(999_999)).await.map(|_| ()), Err(Errno::ENOENT));
    let list = Query::List { directory: Ino::ROOT, after: None, limit: 10, attributes: true };
    let reply = mount.query(list).await.expect("listed");
    match reply.answer {
        QueryAnswer::List { entries, complete } => {
            assert!(complete);
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].attr.map(|attr| attr.ino), Some(ino));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.volume.usage().inodes_used, 2);
    fixture.must_be_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_the_holder_and_is_seen_by_it() {
    let fixture = Fixture::new().await;
    let mut first = fixture.mount().await;
    let ino = first.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let second = Arc::new(fixture.mount().await);
    let unlinking = tokio::spawn({
        let second = Arc::clone(&second);
        async move { second.unlink("file").await }
    });
    let mut left = vec![Ino::ROOT, ino];
    while !left.is_empty() {
        assert!(!unlinking.is_finished());
        let (recalled, leave, stamp) = first.recalled().await;
        assert_eq!(leave, LeaseMode::None);
        left.retain(|other| *other != recalled);
        // The file is open here: it must live on.
        first.give_back(recalled, stamp, LeaseMode::None, recalled == ino).await;
    }
    assert_eq!(unlinking.await.expect("task"), Ok(()));
    let second = Arc::try_unwrap(second).ok().expect("alone").obedient();
    assert_eq!(first.attr(ino).await.map(|(attr, _)| attr.nlink), Ok(0), "kept for who has it open");
    assert_eq!(first.lookup("file").await, Ok(None));
    assert!(first.call(MetaOp::ReleaseOrphan { ino }).await.0.result.is_ok());
    assert_eq!(first.attr(ino).await.map(|_| ()), Err(Errno::ENOENT));
    drop(second);
    fixture.must_be_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_does_not_answer_is_fenced_and_writes_nothing_more() {
    let fixture = Fixture::new().await;
    let mut silent = fixture.mount().await;
    let ino = silent.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let other = fixture.mount().await;
    let begin = std::time::Instant::now();
    assert_eq!(other.lookup("file").await.expect("found").map(|attr| attr.ino), Some(ino));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let mut fenced = false;
    while let Some(push) = silent.pushes.recv().await {
        fenced |= push == Push::Fenced;
    }
    assert!(fenced);
    assert_eq!(silent.ask(Request::Renew).await.map_err(|failure| failure.errno), Err(Errno::ESTALE));
    let refused = Mount::new(Arc::clone(&fixture.volume), Some(silent.resume())).await.map(|_| ());
    assert_eq!(refused.map_err(|refusal| refusal.kind), Err(cairn_wire::RefusalKind::SessionGone));
    assert_eq!(counter(&fixture.volume, "sessions_fenced"), 1);
    assert_eq!(fixture.volume.sessions().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_was_away_for_long_comes_back_to_what_it_had() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    fixture.volume.detach(mount.id(), mount.attachment);
    assert!(!fixture.volume.sessions()[0].connected);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let back = Mount::new(Arc::clone(&fixture.volume), Some(mount.resume())).await.expect("resumed");
    assert!(back.welcome.state_kept);
    let blob = mount.put(ino, b"late").await;
    let applied = back.journal_as(1, vec![write(ino, blob, 4)]).await;
    assert!(applied[0].result.is_ok(), "the lease still stands: {applied:?}");
    let mut stranger = mount.resume();
    stranger.secret.0[0] ^= 1;
    assert!(fixture.volume.check_data_connection(stranger.session, stranger.secret).is_err());
    assert!(fixture.volume.check_data_connection(back.id(), back.welcome.secret).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recalls_are_sent_again_over_a_new_connection() {
    let fixture = Fixture::new().await;
    let mut first = fixture.mount().await;
    let ino = first.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let second = fixture.mount().await;
    let reading = tokio::spawn(async move { second.attr(ino).await.map(|(attr, _)| attr.ino) });
    let (_, _, stamp) = first.recalled().await;
    let mut back = Mount::new(Arc::clone(&fixture.volume), Some(first.resume())).await.expect("resumed");
    assert_eq!(back.recalled().await, (ino, LeaseMode::Shared, stamp));
    back.give_back(ino, stamp, LeaseMode::Shared, false).await;
    assert_eq!(reading.await.expect("task"), Ok(ino));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_twice_is_applied_once() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.new_ino();
    let op = create(Ino::ROOT, "file", ino, NewNode::Regular);
    let (first, _) = mount.call_as(5, op.clone()).await;
    let (second, grants) = mount.call_as(5, op).await;
    assert_eq!((second.order, second.result.is_ok()), (first.order, true));
    assert!(!grants.is_empty());
    let blob = mount.put(ino, b"once").await;
    let ops = vec![
        write(ino, blob, 4),
        MetaOp::Write { ino: Ino(9), extents: vec![], size: 0, mtime: Timestamp::now(), time: Timestamp::now() },
    ];
    let applied = mount.journal_as(1, ops.clone()).await;
    assert!(applied[0].result.is_ok());
    assert_eq!(applied[1].result, Err(Errno::ESTALE), "no lease");
    let again = mount.journal_as(1, ops).await;
    assert_eq!((again[0].order, again[0].result.is_ok()), (applied[0].order, true));
    assert_eq!(again[1].result, Err(Errno::ESTALE));
    assert_eq!(counter(&fixture.volume, "changes_repeated"), 3);
    let (other, _) = mount.call_as(6, create(Ino::ROOT, "file", mount.new_ino(), NewNode::Regular)).await;
    assert_eq!(other.result, Err(Errno::EEXIST));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_exact_and_is_asked_back_from_who_does_not_need_it() {
    let fixture = Fixture::with(1 << 20, options()).await;
    let mut saver = fixture.mount().await;
    let ino = saver.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let reserve = |bytes_needed| Request::Reserve { bytes_needed, bytes_wanted: 0, inodes_needed: 0, inodes_wanted: 0 };
    let Ok(Answer::Reserved { bytes, .. }) = saver.ask(reserve(1 << 20)).await else { panic!("all of it") };
    assert_eq!(bytes, 1 << 20);
    let needy = Arc::new(fixture.mount().await);
    let failed = needy.ask(reserve(4096)).await.map_err(|failure| failure.errno);
    assert_eq!(failed, Err(Errno::EDQUOT), "nobody gave anything back in time");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    saver.ask(Request::Renew).await.expect("alive");
    let asking = tokio::spawn({
        let needy = Arc::clone(&needy);
        async move { needy.ask(reserve(4096)).await }
    });
    while saver.pushes.recv().await.expect("a push") != Push::GiveBackRoom {}
    saver.ask(Request::GiveBack { bytes: 8192, inodes: 0 }).await.expect("given back");
    assert!(asking.await.expect("task").is_ok());
    // What was set aside can be used to the last byte, by journal.
    let reserved = (1 << 20) - 8192;
    let mut written = 0;
    for chunk in 0..reserved / CHUNK {
        let blob = saver.put(ino, &vec![1; CHUNK as usize]).await;
        let extent = Extent { offset: 0, length: CHUNK, source: Source::Blob { blob, offset: 0 } };
        let extents = vec![WrittenExtent { chunk, extent }];
        let op = MetaOp::Write { ino, extents, size: 0, mtime: Timestamp::now(), time: Timestamp::now() };
        written +=
            saver.journal_as(u64::from(chunk) + 1, vec![op]).await.iter().filter(|one| one.result.is_ok()).count();
    }
    assert_eq!(written as u32, reserved / CHUNK);
    let usage = fixture.volume.usage();
    assert!(usage.bytes_used <= usage.bytes_limit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_wait_are_cancelled_and_end_with_their_session() {
    use cairn_types::{ByteRange, FileLock, LockFamily, LockKind, LockOwner};
    let fixture = Fixture::new().await;
    let (first, second) = (fixture.mount().await, Arc::new(fixture.mount().await));
    let lock = |kind| FileLock {
        ino: Ino(1),
        family: LockFamily::Posix,
        kind,
        range: ByteRange { start: 0, end: 9 },
        owner: LockOwner(1),
        pid: 1,
    };
    let set = |wait| Request::SetLock { lock: lock(LockKind::Exclusive), wait };
    first.ask(set(false)).await.expect("free");
    assert_eq!(second.ask(set(false)).await.map_err(|failure| failure.errno), Err(Errno::EAGAIN));
    let wait = |correlation| {
        let (second, request) = (Arc::clone(&second), set(true));
        tokio::spawn(async move { second.volume.handle(second.id(), correlation, request, Bytes::new()).await.0 })
    };
    let cancelled = wait(50);
    tokio::time::sleep(Duration::from_millis(30)).await;
    second.ask(Request::CancelLock { correlation: 50 }).await.expect("cancelled");
    assert_eq!(cancelled.await.expect("task").map_err(|failure| failure.errno), Err(Errno::EINTR));
    let waiting = wait(51);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!waiting.is_finished());
    first.ask(Request::Goodbye).await.expect("left");
    assert_eq!(waiting.await.expect("task"), Ok(Answer::Done));
    assert_eq!(fixture.volume.sessions().iter().map(|session| session.locks).sum::<u64>(), 1);
    // Its holder falls silent: whoever wants the lock gets it when the time is over.
    let third = fixture.mount().await;
    tokio::time::sleep(Duration::from_millis(450)).await;
    third.ask(set(false)).await.expect("the holder's time is over");
}

/// Many sessions change one directory at once: every change happens once, and all see the same in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_one_directory_loses_nothing() {
    let long = VolumeOptions { lease_ttl: Duration::from_secs(10), ..options() };
    let fixture = Fixture::with(1 << 30, long).await;
    let mut tasks = Vec::new();
    for number in 0..6 {
        let (mount, _) = fixture.mount().await.obedient();
        tasks.push(tokio::spawn(async move {
            for step in 0..40 {
                let name = format!("{number}-{step}");
                mount.create(Ino::ROOT, &name, NewNode::Regular).await.expect("made");
                assert!(mount.lookup(&name).await.expect("asked").is_some());
                if step % 2 == 0 {
                    mount.unlink(&name).await.expect("removed");
                    assert_eq!(mount.lookup(&name).await, Ok(None));
                }
            }
            mount
        }));
    }
    let mut mounts = Vec::new();
    for task in tasks {
        mounts.push(task.await.expect("task"));
    }
    for mount in &mounts {
        let (attr, _) = mount.attr(Ino::ROOT).await.expect("attributes");
        assert_eq!(attr.size, 6 * 20);
    }
    assert_eq!(counter(&fixture.volume, "sessions_fenced"), 0);
    fixture.must_be_sound().await;
}
