//! The rules of names: create, link, unlink, rmdir, rename.

mod common;

use cairn_meta::Durability;
use cairn_types::limits::LINK_MAX;
use cairn_types::{AttrChange, Errno, FileKind, Ino, MetaOp, NewNode, RenameMode, SessionId};
use common::{Volume, name, time};

const ROOT: Ino = Ino::ROOT;

#[test]
fn create_refuses_what_cannot_be() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    for (parent, text, errno) in
        [(ROOT, "file", Errno::EEXIST), (file, "x", Errno::ENOTDIR), (Ino(999_999), "x", Errno::ENOENT)]
    {
        let op = volume.create_op(parent, text, NewNode::Regular, 0o666);
        volume.refused(&op, errno);
    }
    for (target, errno) in
        [(vec![], Errno::ENOENT), (vec![b'a'; 4096], Errno::ENAMETOOLONG), (b"a\0b".to_vec(), Errno::EINVAL)]
    {
        let op = volume.create_op(ROOT, "link", NewNode::Symlink(target.into()), 0o777);
        volume.refused(&op, errno);
    }
    for ino in [Ino(0), ROOT, file, Ino(1 << 40)] {
        let mut op = volume.create_op(ROOT, "new", NewNode::Regular, 0o666);
        if let MetaOp::Create { ino: number, .. } = &mut op {
            *number = ino;
        }
        volume.refused(&op, Errno::EINVAL);
    }
    volume.assert_sound();
}

#[test]
fn create_counts_and_dates() {
    let mut volume = Volume::new();
    let before = volume.attr(ROOT);
    let op = volume.create_op(ROOT, "dir", NewNode::Directory, 0o777);
    let applied = volume.try_apply(&op).expect("free name");
    assert_eq!((applied.charged_bytes, applied.charged_inodes), (0, 1));
    let now = time(volume.now);
    let dir = volume.attr(applied.reply.subject.expect("new"));
    assert_eq!((dir.kind, dir.mode, dir.nlink, dir.size), (FileKind::Directory, 0o755, 2, 0));
    assert_eq!([dir.atime, dir.mtime, dir.ctime, dir.btime], [now; 4]);
    let root = volume.attr(ROOT);
    assert_eq!((root.nlink, root.size, root.mtime, root.ctime), (3, 1, now, now));
    assert!(root.version > before.version);
    assert_eq!(applied.reply.attrs, [dir, root]);
    assert_eq!(volume.snapshot().parent(dir.ino), Ok(ROOT));
    volume.create(ROOT, "device", NewNode::CharDevice(0x0105));
    assert_eq!(volume.snapshot().lookup(ROOT, &name("device")).expect("readable").expect("there").rdev, 0x0105);
    let link = volume.create(ROOT, "link", NewNode::Symlink("over/there".into()));
    assert_eq!(volume.snapshot().readlink(link).as_deref(), Ok(&b"over/there"[..]));
    assert_eq!((volume.attr(link).size, volume.attr(link).mode, volume.attr(link).allocated), (10, 0o777, 0));
    assert_eq!(volume.snapshot().usage().expect("readable").inodes_used, 4);
    volume.assert_sound();
}

#[test]
fn a_set_group_id_directory_hands_its_group_down() {
    let mut volume = Volume::new();
    let parent = volume.dir(ROOT, "parent");
    let change = AttrChange { mode: Some(0o2775), gid: Some(77), ..AttrChange::default() };
    let op = volume.set_attr_op(parent, change);
    volume.apply(&op);
    let (dir, file) = (volume.dir(parent, "dir"), volume.file(parent, "file"));
    assert_eq!((volume.attr(dir).gid, volume.attr(dir).mode), (77, 0o2755));
    assert_eq!((volume.attr(file).gid, volume.attr(file).mode), (77, 0o644));
}

#[test]
fn inodes_over_the_limit_are_refused() {
    let mut volume = Volume::new();
    volume.headroom_inodes = 0;
    let op = volume.create_op(ROOT, "file", NewNode::Regular, 0o666);
    volume.refused(&op, Errno::EDQUOT);
    volume.headroom_inodes = 1;
    volume.apply(&op);
}

#[test]
fn link_rules() {
    let mut volume = Volume::new();
    let (file, dir) = (volume.file(ROOT, "file"), volume.dir(ROOT, "dir"));
    let mut refused = |ino, parent, text, errno| {
        let op = volume.link_op(ino, parent, text);
        volume.refused(&op, errno);
    };
    refused(Ino(999), ROOT, "x", Errno::ENOENT);
    refused(file, Ino(999), "x", Errno::ENOENT);
    refused(file, file, "x", Errno::ENOTDIR);
    refused(file, ROOT, "dir", Errno::EEXIST);
    refused(dir, ROOT, "x", Errno::EPERM);
    let op = volume.link_op(file, dir, "second");
    volume.apply(&op);
    let now = time(volume.now);
    assert_eq!((volume.attr(file).nlink, volume.attr(file).ctime, volume.attr(dir).mtime), (2, now, now));
    volume.assert_sound();
}

#[test]
fn links_have_a_limit() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let mut batch = volume.store.begin().expect("no other");
    let context = cairn_meta::ApplyContext {
        session: volume.session,
        headroom_bytes: 0,
        headroom_inodes: 0,
        pending_blobs: &|_| None,
        open_elsewhere: &|_| Vec::new(),
    };
    for count in 1..LINK_MAX {
        let op = MetaOp::Link { ino: file, parent: ROOT, name: name(&format!("link{count}")), time: time(0) };
        batch.apply(&context, &op).expect("below the limit");
    }
    batch.commit(Durability::Buffered).expect("memory");
    let op = volume.link_op(file, ROOT, "one too many");
    volume.refused(&op, Errno::EMLINK);
    assert_eq!(volume.attr(file).nlink, LINK_MAX);
}

#[test]
fn unlink_and_rmdir_rules() {
    let mut volume = Volume::new();
    let (file, dir) = (volume.file(ROOT, "file"), volume.dir(ROOT, "dir"));
    volume.file(dir, "inside");
    let op = volume.unlink_op(ROOT, "dir", false);
    volume.refused(&op, Errno::EISDIR);
    let op = volume.unlink_op(ROOT, "none", false);
    volume.refused(&op, Errno::ENOENT);
    let op = volume.unlink_op(file, "none", false);
    volume.refused(&op, Errno::ENOTDIR);
    let op = volume.rmdir_op(ROOT, "file");
    volume.refused(&op, Errno::ENOTDIR);
    let op = volume.rmdir_op(ROOT, "none");
    volume.refused(&op, Errno::ENOENT);
    let op = volume.rmdir_op(ROOT, "dir");
    volume.refused(&op, Errno::ENOTEMPTY);
    let op = volume.unlink_op(dir, "inside", false);
    volume.apply(&op);
    let op = volume.rmdir_op(ROOT, "dir");
    let reply = volume.apply(&op);
    assert_eq!(reply.removed, Some(dir));
    assert_eq!((volume.attr(ROOT).nlink, volume.attr(ROOT).size), (2, 1));
    let op = volume.create_op(dir, "x", NewNode::Regular, 0o666);
    volume.refused(&op, Errno::ENOENT);
    let op = volume.link_op(file, ROOT, "second");
    volume.apply(&op);
    let op = volume.unlink_op(ROOT, "file", false);
    let reply = volume.apply(&op);
    assert_eq!((reply.subject, reply.removed), (Some(file), None));
    assert_eq!((volume.attr(file).nlink, volume.attr(file).ctime), (1, time(volume.now)));
    let op = volume.unlink_op(ROOT, "second", false);
    assert_eq!(volume.apply(&op).removed, Some(file));
    assert_eq!(volume.snapshot().attr(file), Err(Errno::ENOENT));
    volume.assert_sound();
}

#[test]
fn an_open_file_outlives_its_last_name() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let op = volume.write_op(file, 0, 1000);
    volume.apply(&op);
    let mut batch = volume.store.begin().expect("no other");
    let other: SessionId = batch.create_session("other".into());
    batch.commit(Durability::Durable).expect("memory");
    volume.open_elsewhere = vec![(file, other)];
    let op = volume.unlink_op(ROOT, "file", true);
    let reply = volume.apply(&op);
    assert_eq!(reply.removed, Some(file));
    assert!(reply.attrs.iter().any(|attr| attr.ino == file && attr.nlink == 0));
    volume.assert_sound();
    let op = volume.link_op(file, ROOT, "again");
    volume.refused(&op, Errno::ENOENT);
    volume.apply(&MetaOp::ReleaseOrphan { ino: file });
    assert_eq!(volume.attr(file).nlink, 0, "the other session still has it open");
    let mut batch = volume.store.begin().expect("no other");
    batch.release_session(other).expect("memory");
    let outcome = batch.commit(Durability::Buffered).expect("memory");
    assert_eq!(outcome.freed.len(), 1);
    assert_eq!(volume.snapshot().attr(file), Err(Errno::ENOENT));
    assert_eq!(volume.snapshot().usage().expect("readable").bytes_used, 0);
    volume.apply(&MetaOp::ReleaseOrphan { ino: file });
    volume.assert_sound();
}

#[test]
fn a_file_made_without_a_name_can_be_given_one() {
    let mut volume = Volume::new();
    let ino = volume.new_ino();
    let time = volume.tick();
    volume.apply(&MetaOp::CreateUnnamed { parent: ROOT, ino, mode: 0o600, umask: 0, uid: 1, gid: 2, time });
    assert_eq!(volume.attr(ino).nlink, 0);
    volume.assert_sound();
    let op = volume.link_op(ino, ROOT, "named");
    volume.apply(&op);
    volume.apply(&MetaOp::ReleaseOrphan { ino });
    assert_eq!(volume.attr(ino).nlink, 1);
    volume.assert_sound();
    let op = volume.unlink_op(ROOT, "named", true);
    volume.apply(&op);
    let op = volume.link_op(ino, ROOT, "again");
    volume.refused(&op, Errno::ENOENT);
}

#[test]
fn rename_rules() {
    use RenameMode::{Exchange, NoReplace, Replace};
    let mut volume = Volume::new();
    let outer = volume.dir(ROOT, "outer");
    let inner = volume.dir(outer, "inner");
    volume.file(inner, "leaf");
    let file = volume.file(ROOT, "file");
    volume.dir(ROOT, "empty");
    let cases = [
        (ROOT, "none", ROOT, "x", Replace, Errno::ENOENT),
        (Ino(999), "a", ROOT, "x", Replace, Errno::ENOENT),
        (ROOT, "file", file, "x", Replace, Errno::ENOTDIR),
        (ROOT, "file", ROOT, "empty", Replace, Errno::EISDIR),
        (ROOT, "empty", ROOT, "file", Replace, Errno::ENOTDIR),
        (ROOT, "empty", ROOT, "outer", Replace, Errno::ENOTEMPTY),
        (ROOT, "file", ROOT, "file", NoReplace, Errno::EEXIST),
        (ROOT, "file", ROOT, "empty", NoReplace, Errno::EEXIST),
        (ROOT, "outer", inner, "x", Replace, Errno::EINVAL),
        (ROOT, "outer", outer, "x", Replace, Errno::EINVAL),
        (ROOT, "outer", inner, "leaf", Exchange, Errno::EINVAL),
        (inner, "leaf", ROOT, "outer", Exchange, Errno::EINVAL),
        (inner, "leaf", ROOT, "outer", Replace, Errno::ENOTEMPTY),
        (ROOT, "file", ROOT, "none", Exchange, Errno::ENOENT),
    ];
    for (parent, from, new_parent, to, mode, errno) in cases {
        let op = volume.rename_op(parent, from, new_parent, to, mode);
        volume.refused(&op, errno);
    }
    volume.assert_sound();
}

#[test]
fn rename_moves_and_replaces() {
    let mut volume = Volume::new();
    let (a, b) = (volume.dir(ROOT, "a"), volume.dir(ROOT, "b"));
    let dir = volume.dir(a, "dir");
    let victim = volume.dir(b, "victim");
    let op = volume.rename_op(a, "dir", b, "victim", RenameMode::Replace);
    let reply = volume.apply(&op);
    let now = time(volume.now);
    assert_eq!((reply.subject, reply.removed), (Some(dir), Some(victim)));
    assert_eq!((volume.attr(a).nlink, volume.attr(a).size, volume.attr(a).mtime), (2, 0, now));
    assert_eq!((volume.attr(b).nlink, volume.attr(b).size, volume.attr(b).ctime), (3, 1, now));
    assert_eq!(volume.attr(dir).ctime, now);
    assert_eq!(volume.snapshot().parent(dir), Ok(b));
    assert_eq!(volume.snapshot().attr(victim), Err(Errno::ENOENT));

    let (one, two) = (volume.file(ROOT, "one"), volume.file(ROOT, "two"));
    let op = volume.link_op(two, a, "kept");
    volume.apply(&op);
    let op = volume.rename_op(ROOT, "one", ROOT, "two", RenameMode::Replace);
    let reply = volume.apply(&op);
    assert_eq!((reply.subject, reply.removed), (Some(one), None));
    assert_eq!((volume.attr(two).nlink, volume.attr(two).ctime), (1, time(volume.now)));
    volume.assert_sound();
}

#[test]
fn rename_of_two_names_of_one_file_does_nothing() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "one");
    let op = volume.link_op(file, ROOT, "two");
    volume.apply(&op);
    let before = volume.rows();
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        let op = volume.rename_op(ROOT, "one", ROOT, "two", mode);
        volume.apply(&op);
        let op = volume.rename_op(ROOT, "one", ROOT, "one", mode);
        volume.apply(&op);
    }
    assert_eq!(volume.rows(), before);
}

#[test]
fn exchange_of_a_file_and_a_directory() {
    let mut volume = Volume::new();
    let (a, b) = (volume.dir(ROOT, "a"), volume.dir(ROOT, "b"));
    let (dir, file) = (volume.dir(a, "x"), volume.file(b, "y"));
    volume.file(dir, "inside");
    let op = volume.rename_op(a, "x", b, "y", RenameMode::Exchange);
    volume.apply(&op);
    let snapshot = volume.snapshot();
    assert_eq!(snapshot.lookup(a, &name("x")).expect("readable").map(|attr| attr.ino), Some(file));
    assert_eq!(snapshot.lookup(b, &name("y")).expect("readable").map(|attr| attr.ino), Some(dir));
    assert_eq!((volume.attr(a).nlink, volume.attr(b).nlink), (2, 3));
    assert_eq!(snapshot.parent(dir), Ok(b));
    volume.assert_sound();
}

#[test]
fn listings_resume_after_a_name() {
    let mut volume = Volume::new();
    for text in ["b", "a", "d", "c"] {
        volume.file(ROOT, text);
    }
    let listed = |after: Option<&str>, limit| {
        let entries = volume.snapshot().entries(ROOT, after.map(name).as_ref(), limit).expect("a directory");
        entries.into_iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 10), ["a", "b", "c", "d"]);
    assert_eq!(listed(Some("b"), 1), ["c"]);
    assert_eq!(listed(Some("bb"), 9), ["c", "d"]);
    assert_eq!(listed(Some("d"), 9), [""; 0]);
}

#[test]
fn touched_nodes_are_those_that_exist() {
    let mut volume = Volume::new();
    let (dir, file) = (volume.dir(ROOT, "dir"), volume.file(ROOT, "file"));
    let touched = |op: &MetaOp| volume.snapshot().touched(op).expect("readable");
    let rename = |to: &str| MetaOp::Rename {
        parent: ROOT,
        name: name("file"),
        new_parent: ROOT,
        new_name: name(to),
        mode: RenameMode::Replace,
        keep: false,
        time: time(0),
    };
    assert_eq!(touched(&rename("dir")), [ROOT, dir, file]);
    assert_eq!(touched(&rename("none")), [ROOT, file]);
    assert_eq!(touched(&MetaOp::Rmdir { parent: Ino(77), name: name("x"), time: time(0) }), []);
}
