//! The rules of content: write, truncate, fallocate, copy_file_range, seek, references and freed space.

mod common;

use cairn_meta::{Durability, SeekTarget};
use cairn_types::{
    AllocateMode, AttrChange, BlobPlace, Errno, Extent, ExtentList, Ino, MetaOp, NewNode, PackId, Source, Timestamp,
    WrittenExtent,
};
use common::{CHUNK, Volume, time};

const ROOT: Ino = Ino::ROOT;
const CHUNK64: u64 = CHUNK as u64;
/// When [`allocate`] and [`copy`] happen.
const LATER: Timestamp = Timestamp { secs: 1_800_000_000, nanos: 0 };

fn allocate(ino: Ino, mode: AllocateMode, offset: u64, length: u64) -> MetaOp {
    MetaOp::Allocate { ino, mode, offset, length, kill_privileges: false, time: LATER }
}

fn copy(source: Ino, source_offset: u64, target: Ino, target_offset: u64, length: u64) -> MetaOp {
    let (kill_privileges, time) = (false, LATER);
    MetaOp::CopyRange { source, source_offset, target, target_offset, length, kill_privileges, time }
}

fn extents(volume: &Volume, ino: Ino) -> Vec<(u32, ExtentList)> {
    volume.snapshot().extents(ino, 0, u32::MAX).expect("exists")
}

#[test]
fn a_write_sets_size_times_and_usage() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let op = volume.write_op(file, 100, 1000);
    let applied = volume.try_apply(&op).expect("room");
    assert_eq!((applied.charged_bytes, applied.charged_inodes), (1024, 0));
    let (attr, now) = (volume.attr(file), time(volume.now));
    assert_eq!((attr.size, attr.allocated, attr.mtime, attr.ctime), (1100, 1000, now, now));
    assert_eq!(volume.snapshot().usage().expect("readable").bytes_used, 1024);
    let packs = volume.snapshot().pack_records().expect("readable");
    assert_eq!((packs[0].0, packs[0].1.live_bytes, packs[0].1.live_blobs), (PackId(1), 1050, 1));
    let op = MetaOp::Write { ino: file, extents: vec![], size: 10, mtime: time(9), time: time(1) };
    volume.apply(&op);
    let attr = volume.attr(file);
    assert_eq!(attr.size, 1100, "a write never shortens");
    assert_eq!((attr.mtime, attr.ctime), (time(9), now), "the change time never goes back, nor to an explicit mtime");
    let op = MetaOp::Write { ino: file, extents: vec![], size: 10, mtime: LATER, time: time(volume.now + 1) };
    volume.apply(&op);
    assert_eq!((volume.attr(file).mtime, volume.attr(file).ctime), (LATER, time(volume.now + 1)));
    volume.assert_sound();
}

#[test]
fn a_write_refuses_what_cannot_be() {
    let mut volume = Volume::new();
    let (file, dir) = (volume.file(ROOT, "file"), volume.dir(ROOT, "dir"));
    let fifo = volume.create(ROOT, "fifo", NewNode::Fifo);
    let blob = volume.blob(100);
    let written = |chunk, offset, length, blob_offset| WrittenExtent {
        chunk,
        extent: Extent { offset, length, source: Source::Blob { blob, offset: blob_offset } },
    };
    let write = |ino, extents: &[WrittenExtent], size| MetaOp::Write {
        ino,
        extents: extents.to_vec(),
        size,
        mtime: Timestamp::default(),
        time: Timestamp::default(),
    };
    volume.refused(&write(Ino(999), &[], 0), Errno::ENOENT);
    volume.refused(&write(dir, &[], 0), Errno::EISDIR);
    volume.refused(&write(fifo, &[], 0), Errno::EINVAL);
    volume.refused(&write(file, &[written(0, 0, 101, 0)], 0), Errno::EINVAL);
    volume.refused(&write(file, &[written(0, 0, 50, u32::MAX)], 0), Errno::EINVAL);
    volume.refused(&write(file, &[written(0, 0, 0, 0)], 0), Errno::EINVAL);
    volume.refused(&write(file, &[written(0, CHUNK - 1, 2, 0)], 0), Errno::EINVAL);
    volume.refused(&write(file, &[written(0, u32::MAX, 2, 0)], 0), Errno::EINVAL);
    volume.refused(&write(file, &[], u64::MAX), Errno::EFBIG);
    volume.pending.borrow_mut().clear();
    volume.refused(&write(file, &[written(0, 0, 100, 0)], 0), Errno::ENODATA);
}

#[test]
fn the_limit_is_exact() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    volume.headroom_bytes = 1023;
    let op = volume.write_op(file, 0, 1000);
    volume.refused(&op, Errno::EDQUOT);
    volume.headroom_bytes = 1024;
    volume.apply(&op);
    volume.headroom_bytes = 0;
    let op = volume.write_op(file, 0, 1000);
    volume.apply(&op);
    volume.refused(&allocate(file, AllocateMode::Reserve { keep_size: false }, 0, 1 << 40), Errno::EDQUOT);
    volume.apply(&allocate(file, AllocateMode::Reserve { keep_size: false }, 1000, 24));
}

#[test]
fn overwritten_blobs_are_freed() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let old = volume.blob(1000);
    let op = volume.write_blob_op(file, 0, old, 1000);
    volume.apply(&op);
    let op = volume.write_op(file, 200, 100);
    volume.apply(&op);
    assert_eq!(volume.references(old), 2, "one for each side of the hole cut into it");
    assert_eq!(volume.last_commit.freed, []);
    volume.assert_sound();
    let op = volume.write_op(file, 0, 1000);
    volume.apply(&op);
    assert_eq!(volume.references(old), 0);
    assert_eq!(volume.last_commit.freed.len(), 2);
    assert_eq!(volume.last_commit.freed[0].0, old);
    volume.assert_sound();
}

#[test]
fn truncation_cuts_and_growth_leaves_a_hole() {
    let mut volume = Volume::new();
    let (file, dir) = (volume.file(ROOT, "file"), volume.dir(ROOT, "dir"));
    let op = volume.write_op(file, 0, 5 * CHUNK);
    volume.apply(&op);
    let op = volume.truncate_op(file, CHUNK64 + 10);
    volume.apply(&op);
    let (attr, now) = (volume.attr(file), time(volume.now));
    assert_eq!((attr.size, attr.allocated, attr.mtime, attr.ctime), (CHUNK64 + 10, CHUNK64 + 10, now, now));
    volume.assert_sound();
    let op = volume.truncate_op(file, CHUNK64 * 9);
    volume.apply(&op);
    assert_eq!(volume.attr(file).allocated, CHUNK64 + 10);
    let op = volume.truncate_op(file, 0);
    volume.apply(&op);
    assert_eq!(extents(&volume, file), []);
    assert_eq!(volume.last_commit.freed.len(), 1);
    let op = volume.truncate_op(dir, 0);
    volume.refused(&op, Errno::EISDIR);
    let op = volume.truncate_op(file, CHUNK64 << 32 | 1);
    volume.refused(&op, Errno::EFBIG);
    let op = volume.truncate_op(file, CHUNK64 << 32);
    volume.apply(&op);
    let op = volume.write_op(file, (CHUNK64 << 32) - 7, 7);
    volume.apply(&op);
    assert_eq!(volume.snapshot().seek(file, 0, SeekTarget::Data), Ok((CHUNK64 << 32) - 7));
    assert_eq!(volume.snapshot().seek(file, (CHUNK64 << 32) - 7, SeekTarget::Hole), Ok(CHUNK64 << 32));
    volume.assert_sound();
}

#[test]
fn fallocate_modes() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    volume.refused(&allocate(file, AllocateMode::Punch, 0, 0), Errno::EINVAL);
    volume.refused(&allocate(ROOT, AllocateMode::Punch, 0, 1), Errno::EISDIR);
    volume.refused(&allocate(file, AllocateMode::Punch, u64::MAX, 2), Errno::EFBIG);
    volume.refused(&allocate(file, AllocateMode::Reserve { keep_size: true }, CHUNK64 << 32, 1), Errno::EFBIG);
    volume.apply(&allocate(file, AllocateMode::Reserve { keep_size: true }, 0, 2 * CHUNK64));
    let attr = volume.attr(file);
    assert_eq!((attr.size, attr.allocated, attr.mtime), (0, 2 * CHUNK64, LATER));
    assert_eq!(attr.ctime, LATER);
    let op = volume.write_op(file, CHUNK64 - 5, 10);
    volume.apply(&op);
    assert_eq!((volume.attr(file).size, volume.attr(file).allocated), (CHUNK64 + 5, 2 * CHUNK64));
    volume.apply(&allocate(file, AllocateMode::Reserve { keep_size: false }, 0, 3 * CHUNK64));
    assert_eq!((volume.attr(file).size, volume.attr(file).allocated), (3 * CHUNK64, 3 * CHUNK64));
    volume.apply(&allocate(file, AllocateMode::Punch, 100, 3 * CHUNK64));
    assert_eq!((volume.attr(file).size, volume.attr(file).allocated), (3 * CHUNK64, 100));
    volume.apply(&allocate(file, AllocateMode::Zero { keep_size: false }, 50, 4 * CHUNK64));
    assert_eq!(volume.attr(file).size, 4 * CHUNK64 + 50);
    assert_eq!(volume.attr(file).allocated, 4 * CHUNK64 + 50);
    volume.assert_sound();
    let op = volume.truncate_op(file, 60);
    volume.apply(&op);
    assert_eq!(volume.attr(file).allocated, 60, "what was set aside beyond the end goes too");
    volume.assert_sound();
}

#[test]
fn a_change_of_content_takes_privileges() {
    let mut volume = Volume::new();
    let (file, source) = (volume.file(ROOT, "file"), volume.file(ROOT, "source"));
    let op = volume.write_op(source, 0, 10);
    volume.apply(&op);
    let ops = |kill_privileges| {
        let (ino, offset, length, time) = (file, 0, 10, LATER);
        let mut ops: Vec<MetaOp> =
            [AllocateMode::Reserve { keep_size: true }, AllocateMode::Punch, AllocateMode::Zero { keep_size: true }]
                .map(|mode| MetaOp::Allocate { ino, mode, offset, length, kill_privileges, time })
                .into();
        let (target, source_offset, target_offset) = (file, 0, 0);
        ops.push(MetaOp::CopyRange { source, source_offset, target, target_offset, length, kill_privileges, time });
        ops
    };
    for (kill, mode) in [(false, 0o6755), (true, 0o755)] {
        for op in ops(kill) {
            let chmod = volume.set_attr_op(file, AttrChange { mode: Some(0o6755), ..AttrChange::default() });
            volume.apply(&chmod);
            volume.apply(&op);
            assert_eq!(volume.attr(file).mode, mode, "{op:?}");
        }
    }
    volume.assert_sound();
}

#[test]
fn data_and_holes_are_found() {
    use SeekTarget::{Data, Hole};
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    for (offset, length) in [(100, 50), (CHUNK64 - 10, 20), (5 * CHUNK64, CHUNK)] {
        let op = volume.write_op(file, offset, length);
        volume.apply(&op);
    }
    volume.apply(&allocate(file, AllocateMode::Reserve { keep_size: false }, 6 * CHUNK64, 10));
    let seek = |offset, target| volume.snapshot().seek(file, offset, target);
    assert_eq!(seek(0, Data), Ok(100));
    assert_eq!(seek(120, Data), Ok(120));
    assert_eq!(seek(150, Data), Ok(CHUNK64 - 10));
    assert_eq!(seek(CHUNK64 + 10, Data), Ok(5 * CHUNK64));
    assert_eq!(seek(6 * CHUNK64, Data), Err(Errno::ENXIO));
    assert_eq!(seek(6 * CHUNK64 + 10, Data), Err(Errno::ENXIO));
    assert_eq!(seek(0, Hole), Ok(0));
    assert_eq!(seek(100, Hole), Ok(150));
    assert_eq!(seek(CHUNK64 - 5, Hole), Ok(CHUNK64 + 10), "data goes on in the next chunk");
    assert_eq!(seek(5 * CHUNK64, Hole), Ok(6 * CHUNK64));
    assert_eq!(seek(6 * CHUNK64 + 10, Hole), Err(Errno::ENXIO));
}

#[test]
fn seeking_goes_over_many_chunks() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let op = volume.write_op(file, 0, 600 * CHUNK);
    volume.apply(&op);
    let op = volume.truncate_op(file, 700 * CHUNK64);
    volume.apply(&op);
    assert_eq!(volume.snapshot().seek(file, 3, SeekTarget::Hole), Ok(600 * CHUNK64));
    assert_eq!(volume.snapshot().seek(file, 600 * CHUNK64, SeekTarget::Data), Err(Errno::ENXIO));
}

#[test]
fn copies_share_blobs() {
    let mut volume = Volume::new();
    let (source, target) = (volume.file(ROOT, "source"), volume.file(ROOT, "target"));
    let blob = volume.blob(2 * CHUNK);
    let op = volume.write_blob_op(source, 1000, blob, 2 * CHUNK);
    volume.apply(&op);
    assert_eq!(volume.references(blob), 3);
    let size = 1000 + 2 * CHUNK64;
    // Off by 7: the pieces fall on other chunk ends, the hole in front comes along.
    let reply = volume.apply(&copy(source, 0, target, 7, u64::MAX / 2));
    assert_eq!(reply.value, size);
    assert_eq!((volume.attr(target).size, volume.attr(target).allocated), (size + 7, 2 * CHUNK64));
    assert_eq!(volume.snapshot().seek(target, 0, SeekTarget::Data), Ok(1007));
    let first = extents(&volume, target)[0].1.as_slice()[0];
    assert_eq!((first.offset, first.source), (1007, Source::Blob { blob, offset: 0 }));
    volume.assert_sound();
    for (from, to, length) in [(0, 10, 11), (10, 0, 11)] {
        volume.refused(&copy(source, from, source, to, length), Errno::EINVAL);
    }
    volume.apply(&copy(source, 1000, source, 0, 1000));
    assert_eq!(volume.attr(source).allocated, size);
    assert_eq!(volume.apply(&copy(source, size, target, 0, 10)).value, 0);
    volume.refused(&copy(ROOT, 0, target, 0, 10), Errno::EISDIR);
    volume.refused(&copy(source, 0, ROOT, 0, 10), Errno::EISDIR);
    volume.refused(&copy(source, 0, target, u64::MAX - 5, 10), Errno::EFBIG);
    volume.assert_sound();
    for text in ["source", "target"] {
        let op = volume.unlink_op(ROOT, text, false);
        volume.apply(&op);
    }
    while reap(&mut volume) {}
    assert_eq!(volume.references(blob), 0);
    volume.assert_sound();
}

fn reap(volume: &mut Volume) -> bool {
    let mut batch = volume.store.begin().expect("no other");
    let more = batch.reap(3).expect("memory");
    volume.last_commit = batch.commit(Durability::Buffered).expect("memory");
    more
}

#[test]
fn large_files_go_step_by_step() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let blob = volume.blob(10 * CHUNK);
    let op = volume.write_blob_op(file, 0, blob, 10 * CHUNK);
    volume.apply(&op);
    let op = volume.unlink_op(ROOT, "file", false);
    volume.apply(&op);
    assert_eq!(volume.snapshot().usage().expect("readable").bytes_used, 0, "usage drops at once");
    assert_eq!(volume.references(blob), 9);
    volume.assert_sound();
    let (mut steps, mut freed) = (1, 0);
    while reap(&mut volume) {
        volume.assert_sound();
        steps += 1;
        freed += volume.last_commit.freed.len();
    }
    assert!(steps > 2, "{steps}");
    assert_eq!(freed, 1);
    volume.assert_sound();
}

#[test]
fn fragmented_chunks_are_reported_and_can_be_replaced() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let op = volume.write_op(file, 0, CHUNK);
    volume.apply(&op);
    for index in 0..40 {
        let op = volume.write_op(file, index * 1000 + 100, 100);
        volume.apply(&op);
    }
    assert_eq!(volume.last_commit.fragmented, [(file, 0)]);
    let expected = extents(&volume, file)[0].1.clone();
    let blob = volume.blob(CHUNK);
    let whole = Extent { offset: 0, length: CHUNK, source: Source::Blob { blob, offset: 0 } };
    let new = ExtentList::from_extents(vec![whole], CHUNK).expect("one extent");
    let pending = volume.pending.borrow().clone();
    for (expected, replaced) in [(new.clone(), false), (expected, true)] {
        let mut batch = volume.store.begin().expect("no other");
        let outcome = batch.replace_extents(file, 0, &expected, &new, &|blob| pending.get(&blob).copied());
        assert_eq!(outcome.expect("memory"), replaced);
        volume.last_commit = batch.commit(Durability::Buffered).expect("memory");
    }
    assert_eq!(volume.last_commit.freed.len(), 41);
    assert_eq!(extents(&volume, file), [(0, new)]);
    volume.assert_sound();
}

#[test]
fn blobs_move_between_packs() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let blob = volume.blob(1000);
    let op = volume.write_blob_op(file, 0, blob, 1000);
    volume.apply(&op);
    let from = volume.snapshot().blob_record(blob).expect("readable").expect("referenced").place;
    let to = BlobPlace { pack: PackId(2), offset: 0, ..from };
    let mut batch = volume.store.begin().expect("no other");
    batch.set_pack_durable_length(PackId(1), 4096).expect("memory");
    assert!(!batch.drop_pack(PackId(1)).expect("memory"), "in use");
    assert!(!batch.relocate_blob(blob, to, from).expect("memory"), "it is not there");
    assert!(batch.relocate_blob(blob, from, to).expect("memory"));
    assert!(batch.drop_pack(PackId(1)).expect("memory"));
    batch.commit(Durability::Durable).expect("memory");
    assert_eq!(volume.snapshot().blob_record(blob).expect("readable").expect("referenced").place, to);
    let packs = volume.snapshot().pack_records().expect("readable");
    assert_eq!(packs.iter().map(|(pack, record)| (*pack, record.live_blobs)).collect::<Vec<_>>(), [(PackId(2), 1)]);
    volume.assert_sound();
}

#[test]
fn one_batch_may_free_and_use_a_blob_again() {
    let mut volume = Volume::new();
    let (file, other) = (volume.file(ROOT, "file"), volume.file(ROOT, "other"));
    let blob = volume.blob(100);
    let first = volume.write_blob_op(file, 0, blob, 100);
    volume.apply(&first);
    volume.pending.borrow_mut().clear();
    let cut = volume.truncate_op(file, 0);
    let again = volume.write_blob_op(other, 0, blob, 100);
    let mut batch = volume.store.begin().expect("no other");
    let context = cairn_meta::ApplyContext {
        session: volume.session,
        headroom_bytes: u64::MAX,
        headroom_inodes: 0,
        pending_blobs: &|_| None,
        open_elsewhere: &|_| Vec::new(),
    };
    batch.apply(&context, &cut).expect("exists");
    batch.apply(&context, &again).expect("its place is still known");
    assert_eq!(batch.commit(Durability::Buffered).expect("memory").freed, []);
    assert_eq!(volume.references(blob), 1);
    volume.assert_sound();
}
