//! Space comes back.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_deleted_files_is_given_back() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let mut inos = Vec::new();
    for number in 0..200 {
        let ino = mount.create(Ino::ROOT, &format!("{number}"), NewNode::Regular).await.expect("made");
        mount.write(ino, &vec![number as u8; 20_000]).await.result.expect("written");
        inos.push(ino);
    }
    mount.sync().await;
    let before = fixture.volume.inner.blob_store.stored_bytes().expect("counted");
    assert!(before >= 200 * 20_000);
    for number in 0..190 {
        mount.unlink(&format!("{number}")).await.expect("removed");
    }
    let volume = Arc::clone(&fixture.volume);
    eventually("holes", || volume.inner.blob_store.stored_bytes().expect("counted") < before / 10).await;
    assert_eq!(mount.content(inos[195]).await, vec![195; 20_000]);
    fixture.must_be_sound().await;
}

/// `first` makes files that `second` removes while `first` has them open.
async fn removed_while_open(first: &mut Mount, second: &Arc<Mount>, names: &'static [&'static str]) -> Vec<Ino> {
    let mut inos = Vec::new();
    for name in names {
        let ino = first.create(Ino::ROOT, name, NewNode::Regular).await.expect("made");
        first.write(ino, &vec![7; 30_000]).await.result.expect("written");
        inos.push(ino);
    }
    let unlinking = tokio::spawn({
        let second = Arc::clone(second);
        async move {
            for name in names {
                second.unlink(name).await.expect("removed");
            }
        }
    });
    let mut left = [&[Ino::ROOT], &*inos].concat();
    while !left.is_empty() {
        let (recalled, _, stamp) = first.recalled().await;
        left.retain(|other| *other != recalled);
        first.give_back(recalled, stamp, LeaseMode::None, recalled != Ino::ROOT).await;
    }
    unlinking.await.expect("task");
    inos
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_removed_elsewhere_goes_when_it_is_closed() {
    let fixture = Fixture::new().await;
    let mut first = fixture.mount().await;
    let second = Arc::new(fixture.mount().await);
    let empty = fixture.volume.usage();
    let ino = removed_while_open(&mut first, &second, &["file"]).await[0];
    assert_eq!(first.attr(ino).await.map(|(attr, _)| attr.nlink), Ok(0), "kept for who has it open");
    assert!(fixture.volume.usage().bytes_used >= empty.bytes_used + 30_000);
    first.ask(Request::CloseFiles(vec![ino])).await.expect("closed");
    let volume = Arc::clone(&fixture.volume);
    let room = |usage: Usage| (usage.bytes_used, usage.inodes_used);
    eventually("room", || room(volume.usage()) == room(empty)).await;
    assert_eq!(first.attr(ino).await.map(|_| ()), Err(Errno::ENOENT));
    fixture.must_be_sound().await;
    first.ask(Request::CloseFiles(vec![ino])).await.expect("told again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_closed_while_the_server_was_away_goes() {
    let fixture = Fixture::new().await;
    let mut first = fixture.mount().await;
    let second = Arc::new(fixture.mount().await);
    let empty = fixture.volume.usage();
    let [closed, open] = *removed_while_open(&mut first, &second, &["closed", "open"]).await else { panic!() };
    second.ask(Request::Goodbye).await.expect("unmounted");
    first.sync().await;
    let disk = copy_of(fixture.path());
    let volume = open_at(disk.path(), &options()).await;
    let mount = Mount::new(Arc::clone(&volume), Some(first.resume())).await.expect("resumed");
    let held = Request::Reclaim { leases: vec![], open: vec![open], locks: vec![], replay: vec![], complete: true };
    mount.ask(held).await.expect("reclaimed");
    assert_eq!(mount.attr(closed).await.map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(mount.attr(open).await.map(|(attr, _)| attr.nlink), Ok(0), "kept for who has it open");
    mount.ask(Request::CloseFiles(vec![open])).await.expect("closed");
    let room = |usage: Usage| (usage.bytes_used, usage.inodes_used);
    eventually("room", || room(volume.usage()) == room(empty)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_of_which_little_is_alive_is_rewritten() {
    let small =
        VolumeOptions { packs: cairn_chunks::Options { pack_limit: 2 << 20, writers: 1, open_files: 16 }, ..options() };
    let fixture = Fixture::with(1 << 30, small.clone()).await;
    let mount = fixture.mount().await;
    // Blobs below the size of a hole, every third of which stays: nothing but rewriting helps.
    let mut kept = Vec::new();
    for number in 0..2500u32 {
        let ino = mount.create(Ino::ROOT, &format!("{number}"), NewNode::Regular).await.expect("made");
        mount.write(ino, &vec![number as u8; 1500]).await.result.expect("written");
        if number % 3 == 0 {
            kept.push((ino, number));
        }
    }
    for number in (0..2500u32).filter(|number| number % 3 != 0) {
        mount.unlink(&format!("{number}")).await.expect("removed");
    }
    mount.sync().await;
    let volume = Arc::clone(&fixture.volume);
    let before = volume.inner.blob_store.stored_bytes().expect("counted");
    for _ in 0..4 {
        let inner = Arc::clone(&volume.inner);
        tokio::task::spawn_blocking(move || compaction::compact_one(&inner)).await.expect("rewritten");
    }
    eventually("deleted", || volume.inner.blob_store.stored_bytes().expect("counted") < before * 2 / 3).await;
    assert!(counter(&volume, "packs_compacted") > 0 && counter(&volume, "bytes_compacted") > 0);
    for (ino, number) in &kept {
        assert_eq!(mount.content(*ino).await, vec![*number as u8; 1500]);
    }
    fixture.must_be_sound().await;
    mount.sync().await;
    let disk = copy_of(fixture.path());
    let again = open_at(disk.path(), &small).await;
    let found = again.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked");
    assert_eq!(found.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_cut_to_pieces_is_put_together() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    let mut expected = Vec::new();
    for piece in 0..100u32 {
        let bytes = vec![piece as u8 + 1; 300];
        let blob = mount.put(ino, &bytes).await;
        let extent = Extent { offset: piece * 300, length: 300, source: Source::Blob { blob, offset: 0 } };
        let extents = vec![WrittenExtent { chunk: 0, extent }];
        let op = MetaOp::Write { ino, extents, size: 0, mtime: Timestamp::now(), time: Timestamp::now() };
        mount.journal_as(u64::from(piece) + 1, vec![op]).await.remove(0).result.expect("written");
        expected.extend(bytes);
    }
    let volume = Arc::clone(&fixture.volume);
    eventually("put together", || counter(&volume, "chunks_defragmented") > 0).await;
    let reply = mount.query(Query::Extents { ino, first_chunk: 0, count: 1 }).await.expect("extents");
    let QueryAnswer::Extents(chunks) = reply.answer else { panic!("{reply:?}") };
    assert!(chunks[0].1.as_slice().len() < 64, "{}", chunks[0].1.as_slice().len());
    assert_eq!(mount.content(ino).await, expected);
    fixture.must_be_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_an_ended_session_are_dropped() {
    let fixture = Fixture::new().await;
    let mount = fixture.mount().await;
    mount.put(Ino(2), &vec![1; 100_000]).await;
    mount.ask(Request::Goodbye).await.expect("left");
    let volume = Arc::clone(&fixture.volume);
    eventually("freed", || counter(&volume, "blob_bytes_freed") >= 100_000).await;
}
