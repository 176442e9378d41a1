//! The rules of attributes: modes, owners, times, extended attributes, access control lists.

mod common;

use cairn_types::limits::XATTR_VALUE_MAX;
use cairn_types::{AttrChange, AttrFlags, Errno, Ino, MetaOp, NewNode, XattrMode};
use common::{Volume, time};

const ROOT: Ino = Ino::ROOT;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Tag, permissions, id as in the kernel's form.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn plain(user: u16, group: u16, other: u16) -> Vec<u8> {
    acl(&[(1, user, u32::MAX), (4, group, u32::MAX), (0x20, other, u32::MAX)])
}

fn named(user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(1, user, none), (2, 7, 1000), (4, group, none), (0x10, mask, none), (0x20, other, none)])
}

fn set_mode(volume: &mut Volume, ino: Ino, mode: u32) {
    let op = volume.set_attr_op(ino, AttrChange { mode: Some(mode), ..AttrChange::default() });
    volume.apply(&op);
}

#[test]
fn times_are_set_as_told() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let change = AttrChange { atime: Some(time(5)), mtime: Some(time(-6)), ..AttrChange::default() };
    let op = volume.set_attr_op(file, change);
    volume.apply(&op);
    let attr = volume.attr(file);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (time(5), time(-6), time(volume.now)));
    let change = AttrChange { size: Some(9), mtime: Some(time(7)), ..AttrChange::default() };
    let op = volume.set_attr_op(file, change);
    volume.apply(&op);
    assert_eq!((volume.attr(file).mtime, volume.attr(file).size), (time(7), 9));
    let op = volume.set_attr_op(Ino(999), change);
    volume.refused(&op, Errno::ENOENT);
}

#[test]
fn a_read_moves_the_access_time_alone() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let before = volume.attr(file);
    let op = volume.set_attr_op(file, AttrChange { read_at: Some(time(77)), ..AttrChange::default() });
    volume.apply(&op);
    let attr = volume.attr(file);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (time(77), before.mtime, before.ctime));
    let op = volume.set_attr_op(file, AttrChange { atime: Some(time(78)), ..AttrChange::default() });
    volume.apply(&op);
    let attr = volume.attr(file);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (time(78), before.mtime, time(volume.now)));
}

#[test]
fn setting_what_is_so_already_is_no_change() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    set_mode(&mut volume, file, 0o755);
    let lists = [(ACCESS, plain(7, 5, 5), false), (ACCESS, named(7, 5, 7, 5), true), (ACCESS, plain(7, 5, 5), true)];
    let values = [("user.a", b"1".to_vec(), true), ("user.a", b"2".to_vec(), true)];
    for (name, value, changes) in lists.into_iter().chain(values) {
        for expected in [changes, false] {
            let before = volume.attr(file).ctime;
            let op = volume.set_xattr_op(file, name, &value, XattrMode::CreateOrReplace);
            volume.apply(&op);
            assert_eq!(volume.attr(file).ctime != before, expected, "{name} {value:?}");
        }
    }
}

#[test]
fn a_new_owner_loses_privileges() {
    let mut volume = Volume::new();
    let (file, dir) = (volume.file(ROOT, "file"), volume.dir(ROOT, "dir"));
    let chown = AttrChange { uid: Some(7), ..AttrChange::default() };
    for (mode, after) in [(0o6755, 0o0755), (0o6745, 0o2745), (0o2755, 0o0755)] {
        set_mode(&mut volume, file, mode);
        let op = volume.set_xattr_op(file, "security.capability", b"all", XattrMode::CreateOrReplace);
        volume.apply(&op);
        assert!(volume.attr(file).flags.contains(AttrFlags::HAS_CAPABILITY));
        let op = volume.set_attr_op(file, chown);
        volume.apply(&op);
        assert_eq!((volume.attr(file).mode, volume.attr(file).uid), (after, 7));
        assert_eq!(volume.attr(file).flags, AttrFlags::default());
        assert_eq!(volume.snapshot().get_xattr(file, b"security.capability"), Err(Errno::ENODATA));
    }
    set_mode(&mut volume, dir, 0o6755);
    let op = volume.set_attr_op(dir, AttrChange { kill_privileges: true, ..chown });
    volume.apply(&op);
    assert_eq!(volume.attr(dir).mode, 0o6755, "on a directory the bits mean something else");
    set_mode(&mut volume, file, 0o6755);
    let op = volume.set_attr_op(file, AttrChange { kill_privileges: true, ..AttrChange::default() });
    volume.apply(&op);
    assert_eq!(volume.attr(file).mode, 0o755);
    volume.assert_sound();
}

#[test]
fn xattr_rules() {
    use XattrMode::{Create, CreateOrReplace, Replace};
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    let link = volume.create(ROOT, "link", NewNode::Symlink("x".into()));
    let fifo = volume.create(ROOT, "fifo", NewNode::Fifo);
    let too_much = vec![0; XATTR_VALUE_MAX + 1];
    let long = format!("user.{}", "x".repeat(251));
    let cases: [(Ino, &str, &[u8], XattrMode, Errno); 11] = [
        (Ino(999), "user.x", b"", Create, Errno::ENOENT),
        (file, "user.x", b"", Replace, Errno::ENODATA),
        (file, "user.", b"", Create, Errno::EINVAL),
        (file, "other.x", b"", Create, Errno::EOPNOTSUPP),
        (file, "system.x", b"", Create, Errno::EOPNOTSUPP),
        (file, &long, b"", Create, Errno::ERANGE),
        (file, "user.x", &too_much, Create, Errno::E2BIG),
        (link, "user.x", b"", Create, Errno::EPERM),
        (fifo, "user.x", b"", Create, Errno::EPERM),
        (link, ACCESS, b"", Create, Errno::EOPNOTSUPP),
        (file, DEFAULT, &plain(7, 7, 7), Create, Errno::EACCES),
    ];
    for (ino, name, value, mode, errno) in cases {
        let op = volume.set_xattr_op(ino, name, value, mode);
        volume.refused(&op, errno);
    }
    for (ino, name) in [(file, "user.x"), (file, "security.selinux"), (link, "trusted.x"), (fifo, "security.x")] {
        let op = volume.set_xattr_op(ino, name, b"value", CreateOrReplace);
        volume.apply(&op);
        assert_eq!(volume.snapshot().get_xattr(ino, name.as_bytes()).as_deref(), Ok(&b"value"[..]));
        assert_eq!(volume.attr(ino).flags, AttrFlags::HAS_XATTR);
        assert_eq!(volume.attr(ino).ctime, time(volume.now));
    }
    let op = volume.set_xattr_op(file, "user.x", b"", Create);
    volume.refused(&op, Errno::EEXIST);
    let op = volume.set_xattr_op(file, "user.x", &too_much[1..], Replace);
    volume.apply(&op);
    assert_eq!(volume.snapshot().list_xattr(file).expect("exists"), ["security.selinux", "user.x"]);
    let time = volume.tick();
    let remove = |name: &'static str| MetaOp::RemoveXattr { ino: file, name: name.into(), time };
    volume.refused(&remove("user.y"), Errno::ENODATA);
    volume.refused(&remove("foo.y"), Errno::EOPNOTSUPP);
    volume.apply(&remove(ACCESS));
    volume.apply(&remove("user.x"));
    volume.apply(&remove("security.selinux"));
    assert_eq!(volume.attr(file).flags, AttrFlags::default());
    volume.assert_sound();
    let op = volume.unlink_op(ROOT, "fifo", false);
    volume.apply(&op);
    volume.assert_sound();
}

#[test]
fn names_that_nobody_could_list_are_refused() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    for index in 0..256 {
        let op = volume.set_xattr_op(file, &format!("user.{index:0250}"), b"", XattrMode::Create);
        volume.apply(&op);
    }
    let op = volume.set_xattr_op(file, "user.x", b"", XattrMode::Create);
    volume.refused(&op, Errno::ENOSPC);
}

#[test]
fn an_access_list_and_the_mode_agree() {
    let mut volume = Volume::new();
    let file = volume.file(ROOT, "file");
    set_mode(&mut volume, file, 0o2640);
    let op = volume.set_xattr_op(file, ACCESS, &named(7, 5, 6, 1), XattrMode::CreateOrReplace);
    volume.apply(&op);
    assert_eq!(volume.attr(file).mode, 0o2761);
    assert_eq!(volume.attr(file).flags.0, AttrFlags::HAS_XATTR.0 | AttrFlags::HAS_ACL.0);
    set_mode(&mut volume, file, 0o750);
    assert_eq!(volume.snapshot().get_xattr(file, ACCESS.as_bytes()).as_deref(), Ok(&named(7, 5, 5, 0)[..]));
    let op = volume.set_xattr_op(file, ACCESS, &plain(6, 4, 2), XattrMode::CreateOrReplace);
    volume.apply(&op);
    assert_eq!((volume.attr(file).mode, volume.attr(file).flags), (0o642, AttrFlags::default()));
    let op = volume.set_xattr_op(file, ACCESS, b"junk", XattrMode::CreateOrReplace);
    volume.refused(&op, Errno::EOPNOTSUPP);
    let op = volume.set_xattr_op(file, ACCESS, &named(7, 5, 9, 1), XattrMode::CreateOrReplace);
    volume.refused(&op, Errno::EINVAL);
    set_mode(&mut volume, file, 0o2640);
    let mut op = volume.set_xattr_op(file, ACCESS, &plain(6, 4, 2), XattrMode::CreateOrReplace);
    if let MetaOp::SetXattr { clear_set_gid, .. } = &mut op {
        *clear_set_gid = true;
    }
    volume.apply(&op);
    assert_eq!(volume.attr(file).mode, 0o642);
    volume.assert_sound();
}

#[test]
fn a_default_list_is_inherited() {
    let mut volume = Volume::new();
    let dir = volume.dir(ROOT, "dir");
    let default = named(7, 7, 6, 5);
    let op = volume.set_xattr_op(dir, DEFAULT, &default, XattrMode::CreateOrReplace);
    volume.apply(&op);
    assert_eq!(volume.attr(dir).mode, 0o755, "a default list does not show in the mode");
    let op = volume.create_op(dir, "file", NewNode::Regular, 0o644);
    let file = volume.apply(&op).subject.expect("new");
    assert_eq!(volume.attr(file).mode, 0o644);
    assert_eq!(volume.snapshot().get_xattr(file, ACCESS.as_bytes()).as_deref(), Ok(&named(6, 7, 4, 4)[..]));
    assert_eq!(volume.snapshot().list_xattr(file).expect("exists"), [ACCESS]);
    let op = volume.create_op(dir, "open", NewNode::Regular, 0o666);
    let open = volume.apply(&op).subject.expect("new");
    assert_eq!(volume.attr(open).mode, 0o664, "the umask has no say");
    let sub = volume.dir(dir, "sub");
    assert_eq!(volume.attr(sub).mode, 0o765);
    assert_eq!(volume.snapshot().get_xattr(sub, DEFAULT.as_bytes()).as_deref(), Ok(&default[..]));
    let link = volume.create(dir, "link", NewNode::Symlink("x".into()));
    assert_eq!((volume.attr(link).mode, volume.attr(link).flags), (0o777, AttrFlags::default()));
    let op = volume.set_xattr_op(dir, DEFAULT, &plain(7, 5, 0), XattrMode::CreateOrReplace);
    volume.apply(&op);
    let small = volume.file(dir, "small");
    assert_eq!((volume.attr(small).mode, volume.attr(small).flags), (0o640, AttrFlags::default()));
    let op = volume.set_xattr_op(dir, DEFAULT, &acl(&[]), XattrMode::CreateOrReplace);
    volume.apply(&op);
    assert_eq!(volume.attr(dir).flags, AttrFlags::default());
    volume.assert_sound();
}
