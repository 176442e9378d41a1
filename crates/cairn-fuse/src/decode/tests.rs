//! Requests as the kernel lays them out, cut ones, and any bytes at all.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::abi::OPCODES;

const EXTENDED: Dialect = Dialect { extended_setxattr: true };

/// A whole request; its header tells the true length.
fn message(opcode: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = (size_of::<abi::InHeader>() + body.len()) as u32;
    let header = abi::InHeader { len, opcode, unique: 2, nodeid: 5, ..Default::default() };
    [header.as_bytes(), &body].concat()
}

fn decode_all(bytes: &[u8], dialect: Dialect) -> FsResult<Operation> {
    decode(&decode_header(bytes).expect("a header"), bytes, dialect)
}

#[test]
fn names_are_checked() {
    let lookup = |name: &[u8]| decode_all(&message(opcode::LOOKUP, &[name]), EXTENDED);
    assert!(matches!(lookup(b"file\0"), Ok(Operation::Lookup { name }) if name.as_bytes() == b"file"));
    assert!(matches!(lookup(&[&[b'n'; 256][..], b"\0"].concat()), Err(Errno::ENAMETOOLONG)));
    assert!(matches!(lookup(b"..\0"), Err(Errno::EINVAL)));
    assert!(matches!(lookup(b"no end"), Err(Errno::EIO)));
}

#[test]
fn a_write_points_at_its_bytes_and_keeps_only_flags_that_count() {
    let append = (libc::O_APPEND | libc::O_SYNC) as u32;
    let arguments = abi::WriteIn { fh: 3, offset: 4, size: 2, flags: append, ..Default::default() };
    let bytes = message(opcode::WRITE, &[arguments.as_bytes(), b"xy"]);
    let Ok(Operation::Write { handle, offset, data, flags }) = decode_all(&bytes, EXTENDED) else { panic!() };
    assert_eq!((handle, offset, &bytes[data.start..data.start + data.length]), (Some(Handle(3)), 4, &b"xy"[..]));
    assert!(flags.append && flags.sync && !flags.from_cache && !flags.kill_privileges);

    let from_cache = abi::WriteIn { write_flags: abi::WRITE_CACHE, ..arguments };
    let bytes = message(opcode::WRITE, &[from_cache.as_bytes(), b"xy"]);
    let Ok(Operation::Write { handle, flags, .. }) = decode_all(&bytes, EXTENDED) else { panic!() };
    assert!(handle.is_none() && flags.from_cache && !flags.append && !flags.sync);

    let lie = abi::WriteIn { size: 3, ..arguments };
    assert!(matches!(decode_all(&message(opcode::WRITE, &[lie.as_bytes(), b"xy"]), EXTENDED), Err(Errno::EIO)));
}

#[test]
fn setattr_tells_now_from_a_given_time() {
    let valid = fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW | fattr::UID | fattr::KILL_SUIDGID;
    let arguments = abi::SetattrIn { valid, atime: -1, atimensec: 7, uid: 9, mode: 0o777, ..Default::default() };
    let before = Timestamp::now();
    let bytes = message(opcode::SETATTR, &[arguments.as_bytes()]);
    let Ok(Operation::Setattr { change, handle }) = decode_all(&bytes, EXTENDED) else { panic!() };
    assert_eq!(change.atime, Some(Timestamp { secs: -1, nanos: 7 }));
    assert!(change.mtime.is_some_and(|time| time >= before));
    assert_eq!((change.uid, change.mode, change.size, handle), (Some(9), None, None, None));
    assert!(change.kill_privileges);
}

#[test]
fn both_forms_of_setxattr_are_understood() {
    let long = abi::SetxattrIn { size: 2, flags: 1, setxattr_flags: 1, padding: 0 };
    let content = [&b"user.a\0"[..], b"xy"].concat();
    for (dialect, head, kill) in [(EXTENDED, long.as_bytes(), true), (Dialect::default(), &long.as_bytes()[..8], false)]
    {
        let bytes = message(opcode::SETXATTR, &[head, &content]);
        let Ok(Operation::Setxattr { name, value, mode, clear_set_gid }) = decode_all(&bytes, dialect) else {
            panic!()
        };
        assert_eq!((&name[..], &value[..], mode, clear_set_gid), (&b"user.a"[..], &b"xy"[..], XattrMode::Create, kill));
    }
}

#[test]
fn locks_tell_their_family() {
    let lk = abi::FileLock { start: 1, end: 2, kind: libc::F_WRLCK as u32, pid: 3 };
    for (lk_flags, family) in [(0, LockFamily::Posix), (abi::LK_FLOCK, LockFamily::Flock)] {
        let arguments = abi::LkIn { fh: 7, owner: 4, lk, lk_flags, padding: 0 };
        let bytes = message(opcode::SETLKW, &[arguments.as_bytes()]);
        let Ok(Operation::Setlk { handle: Handle(7), lock, wait: true }) = decode_all(&bytes, EXTENDED) else {
            panic!()
        };
        let range = ByteRange { start: 1, end: 2 };
        let owner = LockOwner(4);
        assert_eq!(lock, FileLock { ino: Ino(5), family, kind: LockKind::Exclusive, range, owner, pid: 3 });
    }
}

#[test]
fn a_number_of_nodes_that_is_a_lie_is_refused() {
    let arguments = abi::BatchForgetIn { count: u32::MAX, dummy: 0 };
    let one = abi::ForgetOne { nodeid: 1, nlookup: 1 };
    let bytes = message(opcode::BATCH_FORGET, &[arguments.as_bytes(), one.as_bytes()]);
    assert!(matches!(decode_all(&bytes, EXTENDED), Err(Errno::EIO)));
}

#[test]
fn what_is_not_served_is_refused_with_the_errno_that_silences_the_kernel() {
    for (opcode, errno) in [
        (opcode::ACCESS, libc::ENOSYS),
        (opcode::POLL, libc::ENOSYS),
        (opcode::IOCTL, libc::ENOTTY),
        (4711, libc::ENOSYS),
    ] {
        assert_eq!(decode_all(&message(opcode, &[&[0; 64]]), EXTENDED).unwrap_err().0, errno);
    }
}

#[test]
fn a_cut_header_is_none() {
    let bytes = message(opcode::GETATTR, &[&[0; 16]]);
    assert!(decode_header(&bytes).is_some());
    assert!(decode_header(&bytes[..39]).is_none() && decode_header(&bytes[..55]).is_none());
    let too_short = abi::InHeader { len: 39, ..Default::default() };
    assert!(decode_header(too_short.as_bytes()).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), extended: bool) {
        if let Some(header) = decode_header(&bytes) {
            let _ = decode(&header, &bytes, Dialect { extended_setxattr: extended });
        }
    }

    /// Nearer to real ones: a good header before any body, names being likely.
    #[test]
    fn any_arguments_are_decoded_or_refused(
        opcode in 0..OPCODES as u32 + 2,
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), any::<u8>()], 0..200),
        total_extlen in prop_oneof![4 => Just(0u16), 1 => any::<u16>()],
        extended: bool,
    ) {
        let bytes = message(opcode, &[&body]);
        let header = abi::InHeader { total_extlen, ..decode_header(&bytes).unwrap() };
        match decode(&header, &bytes, Dialect { extended_setxattr: extended }) {
            Ok(Operation::Write { data, .. }) => prop_assert!(data.start + data.length <= bytes.len()),
            Ok(Operation::Lookup { name }) => prop_assert!(Name::new(name.as_bytes()).is_ok()),
            _ => {}
        }
    }
}
