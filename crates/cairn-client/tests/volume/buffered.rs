//! Changes that are made here first: what they cost, what others see of them, and what becomes of them when a mount, the
//! server or the session is lost.

use std::time::Duration;

use crate::support::kernel::{Kernel, name};
use crate::support::{World, run};
use cairn_client::VolumeOptions;
use cairn_client::api::{Caller, FileSystem};
use cairn_types::{Attr, AttrChange, Errno, Ino, NewNode, RenameMode, Timestamp};

const CHUNK: u32 = 64 * 1024;

/// Options with which nothing is sent unless somebody waits for it.
fn patient(world: &World) -> VolumeOptions {
    VolumeOptions { flush_delay: Duration::from_secs(1000), ..world.options() }
}

async fn make(mount: &Kernel, parent: Ino, of: &str, node: NewNode) -> Attr {
    // As a kernel does: the name is looked up first.
    let _ = mount.volume.lookup(parent, name(of)).await.expect("looked up");
    mount.volume.make_node(Caller::default(), parent, name(of), node, 0o755).await.expect("made").attr
}

/// Makes the volume's root known to be held exclusively, and whole.
async fn own_directory(mount: &Kernel) -> Ino {
    let directory = make(mount, Ino::ROOT, "own", NewNode::Directory).await.ino;
    mount.volume.sync_all().await.expect("synced");
    directory
}

#[test]
fn a_new_tree_is_made_without_asking() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        let top = own_directory(&mount).await;
        let before = mount.volume.stats();
        for outer in 0..5 {
            let directory = make(&mount, top, &format!("d{outer}"), NewNode::Directory).await.ino;
            for inner in 0..20 {
                let file = make(&mount, directory, &format!("f{inner}"), NewNode::Regular).await.ino;
                let change = AttrChange {
                    mode: Some(0o600),
                    mtime: Some(Timestamp { secs: 7, nanos: 0 }),
                    ..AttrChange::default()
                };
                mount.volume.setattr(file, change, None).await.expect("changed");
            }
            mount
                .volume
                .rename(directory, name("f0"), directory, name("f1"), RenameMode::Replace)
                .await
                .expect("renamed");
            mount.volume.unlink(directory, name("f2")).await.expect("removed");
        }
        let after = mount.volume.stats();
        assert_eq!((after.calls, after.queries), (before.calls, before.queries), "somebody was asked");
        assert_eq!(after.changed_here - before.changed_here, 5 * (1 + 20 + 20 + 2));
        mount.volume.sync_all().await.expect("synced");
        assert_eq!(mount.volume.stats().journal_refused, 0);
        assert_eq!(mount.volume.stats().journal_waiting, 0);

        // What another mount sees is what this one predicted.
        let other = world.mount().await;
        let top_there = other.find("own").await.expect("found");
        assert_eq!(other.attr(top_there).await, mount.attr(top).await);
        for outer in 0..5 {
            let directory = other.find_in(top_there, &format!("d{outer}")).await.expect("found");
            assert_eq!(other.list(directory, 1 << 20, false).await.expect("listed").len(), 2 + 18);
            for of in ["f1", "f19"] {
                let there = other.find_in(directory, of).await.expect("found");
                assert_eq!(other.attr(there).await.expect("there").mode, 0o600);
            }
        }
    });
}

#[test]
fn what_is_predicted_is_what_the_server_makes_of_it() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        let top = own_directory(&mount).await;
        let change = AttrChange { mode: Some(0o2775), gid: Some(77), ..AttrChange::default() };
        mount.volume.setattr(top, change, None).await.expect("changed");
        let directory = make(&mount, top, "directory", NewNode::Directory).await.ino;
        let file = make(&mount, top, "file", NewNode::Regular).await.ino;
        let link = make(&mount, top, "link", NewNode::Symlink("target".into())).await.ino;
        let device = make(&mount, top, "device", NewNode::CharDevice(259)).await.ino;
        mount.volume.link(file, directory, name("second")).await.expect("linked");
        let owner = AttrChange { uid: Some(5), mode: Some(0o4755), ..AttrChange::default() };
        mount.volume.setattr(file, owner, None).await.expect("changed");
        let owner = AttrChange { gid: Some(6), ..AttrChange::default() };
        mount.volume.setattr(file, owner, None).await.expect("changed");
        mount.volume.rename(top, name("link"), directory, name("moved"), RenameMode::NoReplace).await.expect("renamed");
        let inos = [top, directory, file, link, device];
        let mut predicted = Vec::new();
        for ino in inos {
            predicted.push(mount.attr(ino).await.expect("known"));
        }
        mount.volume.sync_all().await.expect("synced");
        let other = world.mount().await;
        for (ino, mine) in inos.into_iter().zip(predicted) {
            let theirs = other.attr(ino).await.expect("there");
            assert_eq!(Attr { version: 0, ..theirs }, Attr { version: 0, ..mine });
        }
        assert_eq!(mount.volume.readlink(link).await.expect("read"), "target");
    });
}

#[test]
fn another_mount_sees_at_once_what_was_only_made_here() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        let other = world.mount().await;
        mount.make_directory("d").await.expect("made");
        for round in 0..10 {
            let of = format!("f{round}");
            mount.create(&of).await.expect("created");
            mount.write(&of, 0, of.as_bytes()).await.expect("written");
            mount.rename(&of, &format!("g{round}")).await.expect("renamed");
            assert_eq!(other.find(&of).await, Err(Errno::ENOENT.into()));
            assert_eq!(other.read(&format!("g{round}")).await.expect("read"), of.as_bytes());
            other.unlink(&format!("g{round}")).await.expect("removed");
            assert_eq!(mount.find(&format!("g{round}")).await, Err(Errno::ENOENT.into()));
        }
        assert_eq!(mount.volume.stats().journal_refused + other.volume.stats().journal_refused, 0);
    });
}

#[test]
fn a_restart_of_the_server_loses_nothing_that_was_only_made_here() {
    run(async {
        let mut world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        let top = own_directory(&mount).await;
        for round in 0..3 {
            let directory = make(&mount, top, &format!("d{round}"), NewNode::Directory).await.ino;
            for number in 0..300 {
                make(&mount, directory, &format!("f{number}"), NewNode::Regular).await;
            }
            world.restart().await;
            make(&mount, directory, "after", NewNode::Regular).await;
        }
        mount.volume.sync_all().await.expect("synced");
        assert_eq!(mount.volume.stats().journal_refused, 0);
        let other = world.mount().await;
        for round in 0..3 {
            let directory = other.find_in(top, &format!("d{round}")).await.expect("found");
            assert_eq!(other.list(directory, 1 << 20, false).await.expect("listed").len(), 2 + 301);
        }
    });
}

#[test]
fn a_restart_in_the_middle_of_a_recall_loses_nothing() {
    run(async {
        let mut world = World::new(1 << 30, CHUNK).await;
        let (mount, gate) = world.mount_through_gate(patient(&world)).await;
        let other = world.mount().await;
        let top = own_directory(&mount).await;
        for number in 0..20 {
            make(&mount, top, &format!("f{number}"), NewNode::Regular).await;
        }
        // The server asks for the directory, and dies before it hears what was changed there.
        gate.set_open(false);
        let recalls = mount.volume.stats().recalls;
        let lister = tokio::spawn({
            let other = other.clone();
            async move { other.list(top, 1 << 20, false).await }
        });
        while mount.volume.stats().recalls == recalls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.restart().await;
        gate.set_open(true);
        assert_eq!(lister.await.expect("no panic").expect("listed").len(), 2 + 20);
        mount.volume.sync_all().await.expect("synced");
        assert_eq!((mount.volume.stats().journal_refused, mount.volume.session().status().fencings), (0, 0));
        assert!(!world.recovery().exists(), "nothing was lost");
    });
}

#[test]
fn a_renamed_file_brings_its_content_along() {
    run(async {
        let mut world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        mount.create("kept").await.expect("created");
        mount.write("kept", 0, b"old").await.expect("written");
        mount.volume.sync_all().await.expect("synced");
        mount.create("new").await.expect("created");
        mount.write("new", 0, b"new content").await.expect("written");
        mount.rename("new", "kept").await.expect("renamed");
        let before = mount.volume.stats();
        assert_eq!(before.bytes_flushed, 3, "nobody had to wait for it");
        // Somebody else waits for the journal alone.
        mount.volume.stat_fs().await.expect("asked");
        assert_eq!(mount.volume.stats().bytes_flushed, 3 + 11);
        world.restart().await;
        let other = world.mount().await;
        assert_eq!(other.read("kept").await.expect("read"), b"new content");
        assert_eq!(mount.read("kept").await.expect("read"), b"new content");
        assert_eq!(
            mount.volume.session().status().fencings,
            0,
            "the recall that came with the session's return was answered"
        );
    });
}

#[test]
fn a_volume_without_room_for_nodes_refuses_the_create_itself() {
    run(async {
        let world = World::with_nodes(1 << 20, CHUNK, Some(300)).await;
        let mount = world.mount_with(patient(&world)).await;
        let limit = mount.volume.stat_fs().await.expect("usage").inodes_free;
        let top = own_directory(&mount).await;
        let mut made = 1;
        let errno = loop {
            let of = name(&format!("f{made}"));
            let _ = mount.volume.lookup(top, of.clone()).await.expect("looked up");
            match mount.volume.make_node(Caller::default(), top, of, NewNode::Regular, 0o644).await {
                Ok(_) => made += 1,
                Err(errno) => break errno,
            }
        };
        assert_eq!(errno, Errno::EDQUOT);
        assert_eq!(made, limit, "there was room for all of them");
        mount.volume.unlink(top, name("f1")).await.expect("removed");
        make(&mount, top, "again", NewNode::Regular).await;
        mount.volume.sync_all().await.expect("synced");
        assert_eq!(mount.volume.stats().journal_refused, 0);
        assert_eq!(mount.volume.stat_fs().await.expect("usage").inodes_free, 0);
    });
}

#[test]
fn an_open_file_outlives_its_last_name() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        let mount = world.mount_with(patient(&world)).await;
        mount.create("a").await.expect("created");
        let ino = mount.find("a").await.expect("found");
        let handle = mount.open(ino, libc::O_RDWR).await.expect("opened");
        mount.write_at(ino, handle, 0, b"before", false).await.expect("written");
        mount.unlink("a").await.expect("removed");
        mount.write_at(ino, handle, 6, b" and after", false).await.expect("written");
        mount.volume.fsync(ino, false).await.expect("synced");
        assert_eq!(mount.read_at(ino, handle, 0, 100).await.expect("read"), b"before and after");
        assert_eq!(mount.attr(ino).await.expect("known").nlink, 0);
        mount.close(ino, handle).await.expect("closed");
        mount.volume.sync_all().await.expect("synced");
        let other = world.mount().await;
        assert_eq!(other.find("a").await, Err(Errno::ENOENT.into()));
    });
}
