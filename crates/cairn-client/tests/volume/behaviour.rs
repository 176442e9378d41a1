//! Promises of one mount, each by itself, against a real server.

use std::time::Duration;

use crate::support::kernel::name;
use crate::support::{World, run};
use bytes::Bytes;
use cairn_client::api::{Caller, CopyTarget, FileSystem, SeekTarget, WriteFlags};
use cairn_types::{AllocateMode, AttrChange, Errno, Ino, LockOwner, Timestamp};

const CHUNK: u32 = 64 * 1024;
const LONG: Duration = Duration::from_secs(20);

fn pattern(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|place| ((place * 31 + seed * 17) >> 3) as u8).collect()
}

#[test]
fn a_full_volume_fails_the_write_and_never_the_flush() {
    run(async {
        let world = World::new(1 << 20, CHUNK).await;
        let mount = world.mount().await;
        mount.create("a").await.expect("created");
        let ino = mount.find("a").await.expect("found");
        let mut written = 0u64;
        let errno = loop {
            match mount.write("a", written, &pattern(10_000, written)).await {
                Ok(()) => written += 10_000,
                Err(errno) => break errno,
            }
        };
        assert_eq!(errno, Errno::EDQUOT);
        assert!(written >= (1 << 20) - 20_000, "only {written} bytes fitted");
        let usage = mount.volume.stat_fs().await.expect("usage");
        assert_eq!(usage.bytes_total, 1 << 20);
        assert!(usage.bytes_free < 20_000, "{usage:?}");
        mount.volume.fsync(ino, false).await.expect("what was taken can be flushed");
        assert_eq!(
            mount.volume.stat_fs().await.expect("usage").bytes_free,
            usage.bytes_free,
            "df is right before the flush"
        );
        mount.write("a", 5_000, &pattern(100_000, 1)).await.expect("overwriting needs no room");
        mount.volume.fsync(ino, false).await.expect("flushed");
        mount.unlink("a").await.expect("removed");
        mount.create("b").await.expect("created");
        mount.write("b", 0, &pattern(900_000, 2)).await.expect("there is room again");
        mount.volume.sync_all().await.expect("synced");
        mount.volume.close(LONG).await.expect("closed");
    });
}

#[test]
fn what_was_synced_outlives_the_mount_and_the_server() {
    run(async {
        let mut world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        let big = pattern(1_000_000, 3);
        for index in 0..300u64 {
            let of = format!("small{index}");
            mount.create(&of).await.expect("created");
            mount.write(&of, 0, &pattern(1000 + index as usize, index)).await.expect("written");
        }
        mount.create("big").await.expect("created");
        mount.write("big", 0, &big).await.expect("written");
        mount.volume.sync_all().await.expect("synced");
        assert_eq!(mount.volume.stats().dirty_bytes, 0);
        mount.volume.close(LONG).await.expect("closed");
        world.restart().await;
        let mount = world.mount().await;
        assert_eq!(mount.read("big").await.expect("read"), big);
        for index in 0..300u64 {
            let content = mount.read(&format!("small{index}")).await.expect("read");
            assert_eq!(content, pattern(1000 + index as usize, index));
        }
        mount.volume.close(LONG).await.expect("closed");
    });
}

#[test]
fn a_mount_rides_out_a_restart_with_everything_it_had_buffered() {
    run(async {
        let mut world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        for index in 0..50u64 {
            let of = format!("f{index}");
            mount.create(&of).await.expect("created");
            mount.write(&of, 0, &pattern(5000, index)).await.expect("written");
        }
        world.restart().await;
        for index in 0..50u64 {
            let of = format!("f{index}");
            mount.write(&of, 5000, &pattern(10, index)).await.expect("written");
        }
        mount.volume.sync_all().await.expect("synced");
        let other = world.mount().await;
        for index in 0..50u64 {
            let content = other.read(&format!("f{index}")).await.expect("read");
            assert_eq!(content, [pattern(5000, index), pattern(10, index)].concat());
        }
        assert!(!world.recovery().exists(), "nothing was lost");
    });
}

#[test]
fn who_comes_second_opens_the_file_unless_it_must_be_new() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        other.create("a").await.expect("created");
        let create = |flags| mount.volume.create(Caller::default(), Ino::ROOT, name("a"), 0o644, libc::O_RDWR | flags);
        assert_eq!(create(libc::O_EXCL).await.map(|_| ()), Err(Errno::EEXIST.into()));
        // The kernel then looks again and opens what it finds.
        assert_eq!(create(0).await.map(|_| ()), Err(Errno::ESTALE.into()));
    });
}

#[test]
fn a_removed_file_lives_on_while_it_is_open() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        for of in ["mine", "theirs"] {
            mount.create(of).await.expect("created");
            mount.write(of, 0, &pattern(100_000, 4)).await.expect("written");
        }
        let mut open = Vec::new();
        for of in ["mine", "theirs"] {
            let ino = mount.find(of).await.expect("found");
            open.push((ino, mount.open(ino, libc::O_RDWR).await.expect("opened")));
        }
        mount.unlink("mine").await.expect("removed");
        other.unlink("theirs").await.expect("removed");
        for (ino, handle) in open {
            assert_eq!(mount.read_at(ino, handle, 0, 200_000).await.expect("read"), pattern(100_000, 4));
            mount.write_at(ino, handle, 100_000, b"more", false).await.expect("written");
            mount.volume.fsync(ino, false).await.expect("synced");
            assert_eq!(mount.read_at(ino, handle, 100_000, 10).await.expect("read"), b"more");
            mount.close(ino, handle).await.expect("closed");
            mount.volume.forget(ino, u64::MAX);
            let mut gone = mount.volume.open(ino, libc::O_RDONLY).await;
            for _ in 0..100 {
                if gone.is_err() {
                    break;
                }
                let opened = gone.expect("opened");
                mount.volume.release(ino, opened.handle, None).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
                gone = mount.volume.open(ino, libc::O_RDONLY).await;
            }
            assert!(
                matches!(gone.as_ref().map_err(cairn_client::Error::errno), Err(Errno::ESTALE | Errno::ENOENT)),
                "{gone:?}"
            );
        }
    });
}

#[test]
fn a_file_that_was_looked_up_can_be_opened_whoever_replaces_it_in_between() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        for (of, seed) in [("config", 1), ("config.new", 2)] {
            other.create(of).await.expect("created");
            other.write(of, 0, &pattern(10_000, seed)).await.expect("written");
        }
        let ino = mount.find("config").await.expect("found");
        other.rename("config.new", "config").await.expect("replaced");
        let handle = mount.open(ino, libc::O_RDONLY).await.expect("opened");
        assert_eq!(mount.read_at(ino, handle, 0, 20_000).await.expect("read"), pattern(10_000, 1));
        mount.close(ino, handle).await.expect("closed");
        assert_eq!(mount.read("config").await.expect("read"), pattern(10_000, 2));
    });
}

#[test]
fn an_unnamed_file_gets_its_content_with_its_name() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        let made = mount.volume.make_unnamed(Caller::default(), Ino::ROOT, 0o600, libc::O_RDWR).await;
        let (entry, opened) = made.expect("made");
        let ino = entry.attr.ino;
        mount.write_at(ino, opened.handle, 0, b"content", false).await.expect("written");
        mount.volume.link(ino, Ino::ROOT, name("named")).await.expect("linked");
        assert_eq!(other.read("named").await.expect("read"), b"content");
        mount.close(ino, opened.handle).await.expect("closed");
        assert_eq!(other.read("named").await.expect("read"), b"content");
        assert_eq!(mount.stat("named").await.expect("stat").nlink, 1);
    });
}

#[test]
fn a_directory_keeps_its_changes_after_a_file_without_a_name() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        let directory = mount.make_directory("d").await.expect("made");
        let made = mount.volume.make_unnamed(Caller::default(), directory, 0o600, libc::O_RDWR).await;
        let (entry, opened) = made.expect("made");
        mount.close(entry.attr.ino, opened.handle).await.expect("closed");
        let created = mount.volume.create(Caller::default(), directory, name("after"), 0o600, libc::O_RDWR).await;
        let (entry, opened) = created.expect("created");
        mount.write_at(entry.attr.ino, opened.handle, 0, b"kept", false).await.expect("written");
        mount.close(entry.attr.ino, opened.handle).await.expect("closed");
        mount.volume.sync_all().await.expect("synced");
        for kernel in [&mount, &other] {
            let seen = kernel.find_in(kernel.find("d").await.expect("found"), "after").await.expect("found");
            assert_eq!(kernel.attr(seen).await.expect("attributes").size, 4);
        }
    });
}

#[test]
fn an_explicit_time_is_not_undone_by_a_later_flush() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        mount.create("a").await.expect("created");
        mount.write("a", 0, b"data").await.expect("written");
        let mtime = Timestamp { secs: 1_000_000_000, nanos: 5 };
        let change = AttrChange { mtime: Some(mtime), mode: Some(0o640), ..AttrChange::default() };
        mount.change("a", change).await.expect("changed");
        let before = mount.stat("a").await.expect("stat");
        assert_eq!((before.mtime, before.size), (mtime, 4));
        mount.volume.sync_all().await.expect("synced");
        let other = world.mount().await;
        for seen in [mount.stat("a").await.expect("stat"), other.stat("a").await.expect("stat")] {
            assert_eq!((seen.mtime, seen.size, seen.mode), (mtime, 4, 0o640));
            assert!(seen.ctime.secs > 1_600_000_000, "change time {:?}", seen.ctime);
        }
        mount.write("a", 4, b"x").await.expect("written");
        assert!(other.stat("a").await.expect("stat").mtime > mtime, "a write after it counts again");
    });
}

#[test]
fn buffered_content_leaves_by_itself_after_a_while() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        mount.create("a").await.expect("created");
        mount.write("a", 0, b"data").await.expect("written");
        assert_eq!(mount.volume.stats().dirty_bytes, 4);
        for _ in 0..100 {
            if mount.volume.stats().dirty_bytes == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("still buffered after five seconds");
    });
}

#[test]
fn a_stream_larger_than_the_memory_for_it_arrives_whole() {
    run(async {
        let world = World::new(1 << 30, 1 << 20).await;
        let mut options = world.options();
        options.dirty_bytes = 3 << 20;
        options.cache_bytes = 2 << 20;
        let mount = world.mount_with(options.clone()).await;
        mount.create("stream").await.expect("created");
        let ino = mount.find("stream").await.expect("found");
        let handle = mount.open(ino, libc::O_WRONLY).await.expect("opened");
        let piece = 128 * 1024;
        for index in 0..200u64 {
            let data = pattern(piece, index);
            mount.write_at(ino, handle, index * piece as u64, &data, false).await.expect("written");
            assert!(mount.volume.stats().dirty_bytes <= 4 << 20);
        }
        mount.close(ino, handle).await.expect("closed");
        let other = world.mount_with(options).await;
        let ino = other.find("stream").await.expect("found");
        let handle = other.open(ino, libc::O_RDONLY).await.expect("opened");
        for index in 0..200u64 {
            let read = other.volume.read(ino, handle, index * piece as u64, piece as u32).await.expect("read");
            assert!(read.concat() == pattern(piece, index), "piece {index}");
        }
        let stats = other.volume.stats();
        assert!(stats.bytes_read_ahead > 0, "{stats:?}");
        assert!(stats.cached_bytes <= 2 << 20);
    });
}

#[test]
fn scattered_small_writes_arrive_whole() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        mount.create("a").await.expect("created");
        let ino = mount.find("a").await.expect("found");
        let handle = mount.open(ino, libc::O_RDWR).await.expect("opened");
        let mut model = vec![0u8; 400_000];
        let mut place = 1u64;
        for round in 0..2000u64 {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (place >> 33) as usize % (model.len() - 700);
            let data = vec![round as u8 | 1; 1 + (place >> 20) as usize % 699];
            model[offset..offset + data.len()].copy_from_slice(&data);
            mount.write_at(ino, handle, offset as u64, &data, false).await.expect("written");
            if round % 500 == 250 {
                mount.volume.fsync(ino, true).await.expect("synced");
            }
        }
        let end = model.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        model.truncate(end);
        mount.volume.sync_all().await.expect("synced");
        assert!(mount.read("a").await.expect("read") == model);
        let other = world.mount().await;
        assert!(other.read("a").await.expect("read") == model);
        let (here, there) = (mount.stat("a").await.expect("stat"), other.stat("a").await.expect("stat"));
        assert_eq!(here.allocated, there.allocated);
        mount.close(ino, handle).await.expect("closed");
    });
}

#[test]
fn space_is_allocated_punched_copied_and_sought() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        for of in ["a", "b"] {
            mount.create(of).await.expect("created");
        }
        let (a, b) = (mount.find("a").await.expect("found"), mount.find("b").await.expect("found"));
        let data = pattern(200_000, 8);
        mount.write("a", 0, &data).await.expect("written");
        mount.volume.allocate(a, None, AllocateMode::Punch, 70_000, 60_000, false).await.expect("punched");
        assert_eq!(mount.volume.seek(a, 0, SeekTarget::Hole).await, Ok(70_000));
        assert_eq!(mount.volume.seek(a, 70_000, SeekTarget::Data).await, Ok(130_000));
        let target = CopyTarget { ino: b, handle: None, offset: 100 };
        let copied = mount.volume.copy_range(a, 10, target, 150_000, false).await.expect("copied");
        assert_eq!(copied, 150_000);
        let mut model = data.clone();
        model[70_000..130_000].fill(0);
        let mut target = vec![0; 100];
        target.extend_from_slice(&model[10..150_010]);
        // The kernel drops its own pages for these; this one's are asked for fresh.
        let other = world.mount().await;
        assert!(other.read("a").await.expect("read") == model);
        assert!(other.read("b").await.expect("read") == target);
        mount
            .volume
            .allocate(b, None, AllocateMode::Reserve { keep_size: false }, 0, 300_000, false)
            .await
            .expect("allocated");
        assert_eq!(other.stat("b").await.expect("stat").size, 300_000);
    });
}

#[test]
fn a_directory_is_listed_whole_however_small_the_pieces() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        let directory = mount.make_directory("d").await.expect("made");
        let caller = Caller::default();
        let mut expected = vec![".".to_owned(), "..".to_owned()];
        for index in 0..5000 {
            let of = format!("n{index:05}");
            let made = mount.volume.create(caller, directory, name(&of), 0o644, libc::O_RDWR).await.expect("created");
            mount.volume.release(made.0.attr.ino, made.1.handle, None).await;
            expected.push(of);
        }
        let other = world.mount().await;
        for (mount, bytes, attributes) in [
            (&mount, 4096, false),
            (&mount, 70_000, true),
            (&other, 2000, false),
            (&other, 4096, true),
            (&other, 4096, true),
        ] {
            assert_eq!(mount.list(directory, bytes, attributes).await.expect("listed"), expected);
        }
        // Emptied while it is read, as `rm -r` does.
        let handle = other.volume.open_dir(directory).await.expect("opened");
        let (mut cursor, mut removed) = (0, 0);
        loop {
            let entries = other.volume.read_dir(directory, handle, cursor, 3000, true).await.expect("read");
            let Some(last) = entries.last() else { break };
            cursor = last.cursor;
            for entry in entries.iter().filter(|entry| entry.name.len() > 2) {
                let of = cairn_types::Name::new(&entry.name).expect("name");
                other.volume.unlink(directory, of).await.expect("removed");
                removed += 1;
            }
        }
        assert_eq!(removed, 5000);
        other.volume.rmdir(Ino::ROOT, name("d")).await.expect("empty");
        assert_eq!(mount.find("d").await, Err(Errno::ENOENT.into()));
    });
}

#[test]
fn names_that_were_asked_for_once_are_answered_here() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount().await;
        let directory = mount.make_directory("d").await.expect("made");
        let before = mount.volume.stats().queries;
        for index in 0..100 {
            // A new directory has no names that are not known.
            assert_eq!(mount.find_in(directory, &format!("x{index}")).await, Err(Errno::ENOENT.into()));
        }
        assert_eq!(mount.volume.stats().queries, before);
    });
}

#[test]
fn appends_of_two_mounts_do_not_overwrite_each_other() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let (mount, other) = (world.mount().await, world.mount().await);
        mount.create("log").await.expect("created");
        let ino = mount.find("log").await.expect("found");
        let append = async |kernel: &crate::support::kernel::Kernel, letter: u8| {
            let handle = kernel.open(ino, libc::O_WRONLY | libc::O_APPEND).await.expect("opened");
            for _ in 0..60 {
                let flags = WriteFlags { append: true, ..WriteFlags::default() };
                let line = Bytes::from(vec![letter; 100]);
                kernel.volume.write(ino, Some(handle), 0, line, flags).await.expect("appended");
            }
            kernel.volume.flush(ino, handle, LockOwner(1)).await.expect("flushed");
            kernel.volume.release(ino, handle, None).await;
        };
        tokio::join!(append(&mount, b'm'), append(&other, b'o'));
        let content = mount.read("log").await.expect("read");
        assert_eq!(content.len(), 120 * 100);
        assert!(content.chunks(100).all(|line| line.iter().all(|byte| *byte == line[0])));
        assert_eq!(content.chunks(100).filter(|line| line[0] == b'm').count(), 60);
    });
}

#[test]
fn a_read_only_mount_changes_nothing() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let writer = world.mount().await;
        writer.create("a").await.expect("created");
        let mut options = world.options();
        options.read_only = true;
        let reader = world.mount_with(options).await;
        assert_eq!(reader.create("b").await, Err(Errno::EROFS.into()));
        assert_eq!(reader.unlink("a").await, Err(Errno::EROFS.into()));
        let ino = reader.find("a").await.expect("found");
        assert_eq!(reader.open(ino, libc::O_RDWR).await, Err(Errno::EROFS.into()));
        assert_eq!(reader.read("a").await, Ok(Vec::new()));
    });
}
