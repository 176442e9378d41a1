//! Where each row lies: the keys of the volume's one keyspace.
//!
//! | first byte | rest of the key | value | why it lies there |
//! | --- | --- | --- | --- |
//! | `01` | – | [`crate::record::VolumeRecord`] | first row: the format version is read before anything else |
//! | `02` | session | [`crate::record::SessionRecord`] | few and hot, beside the volume row that each commit rewrites |
//! | `03` | – | epoch of the owner | every commit is conditional on it |
//! | `10` | inode | [`crate::record::InodeRecord`] | numbers are handed out in order: files made together share pages |
//! | `11` | parent, name | inode, kind | a directory is one range in the order of names: a listing is one scan, resumed by name |
//! | `12` | inode, chunk | extent list | a file is one range in the order of offsets: a sequential read is one scan |
//! | `13` | inode, name | value | beside one another, so that `listxattr` and deletion are one scan |
//! | `14` | inode, session | – | sessions that keep a nameless file alive; "any left?" is one scan |
//! | `15` | inode | – | deleted files whose extents are still to be dropped |
//! | `20` | blob | place, references | blobs are numbered as they are written: neighbours in the pack are neighbours here |
//! | `21` | pack | [`crate::record::PackRecord`] | few |
//!
//! Numbers in keys are written as their count of significant bytes followed by these, most significant first: the
//! bytewise order is that of the numbers, and small numbers (nearly all) take four bytes instead of eight.

use cairn_types::{BlobId, Ino, PackId, SessionId};

pub(crate) const VOLUME: &[u8] = &[0x01];
pub(crate) const SESSIONS: u8 = 0x02;
pub(crate) const OWNER: &[u8] = &[0x03];
pub(crate) const INODES: u8 = 0x10;
pub(crate) const ENTRIES: u8 = 0x11;
pub(crate) const EXTENTS: u8 = 0x12;
pub(crate) const XATTRS: u8 = 0x13;
pub(crate) const ORPHANS: u8 = 0x14;
pub(crate) const TRASH: u8 = 0x15;
pub(crate) const BLOBS: u8 = 0x20;
pub(crate) const PACKS: u8 = 0x21;

/// First and excluded last key of a range.
pub(crate) type Range = (Vec<u8>, Vec<u8>);

fn push_number(key: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let skip = number.leading_zeros() as usize / 8;
    key.push((bytes.len() - skip) as u8);
    key.extend(bytes.iter().skip(skip));
}

fn take_number(key: &[u8]) -> Option<(u64, &[u8])> {
    let (&length, rest) = key.split_first()?;
    let (digits, rest) = rest.split_at_checked(usize::from(length))?;
    if digits.len() > 8 || digits.first() == Some(&0) {
        return None;
    }
    Some((digits.iter().fold(0, |number, &digit| number << 8 | u64::from(digit)), rest))
}

fn key(space: u8, number: u64, capacity: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + capacity);
    key.push(space);
    push_number(&mut key, number);
    key
}

fn key_with_number(space: u8, first: u64, second: u64) -> Vec<u8> {
    let mut key = key(space, first, 9);
    push_number(&mut key, second);
    key
}

fn key_with_bytes(space: u8, number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut key = key(space, number, bytes.len());
    key.extend_from_slice(bytes);
    key
}

fn strip(space: u8, key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[space])
}

/// Every row of a keyspace.
pub(crate) fn space(space: u8) -> Range {
    (vec![space], vec![space + 1])
}

/// Every row whose key begins with `prefix` (which begins with a keyspace's byte).
fn under(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    (prefix, end)
}

/// The smallest key after `key`.
pub(crate) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

pub(crate) fn session(session: SessionId) -> Vec<u8> {
    key(SESSIONS, session.0, 0)
}

pub(crate) fn parse_session(key: &[u8]) -> Option<SessionId> {
    parse_single(SESSIONS, key).map(SessionId)
}

fn parse_single(space: u8, key: &[u8]) -> Option<u64> {
    match take_number(strip(space, key)?)? {
        (number, []) => Some(number),
        _ => None,
    }
}

pub(crate) fn inode(ino: Ino) -> Vec<u8> {
    key(INODES, ino.0, 0)
}

pub(crate) fn parse_inode(key: &[u8]) -> Option<Ino> {
    parse_single(INODES, key).map(Ino)
}

pub(crate) fn entry(parent: Ino, name: &[u8]) -> Vec<u8> {
    key_with_bytes(ENTRIES, parent.0, name)
}

pub(crate) fn entries(parent: Ino) -> Range {
    under(key(ENTRIES, parent.0, 0))
}

pub(crate) fn parse_entry(key: &[u8]) -> Option<(Ino, &[u8])> {
    take_number(strip(ENTRIES, key)?).map(|(parent, name)| (Ino(parent), name))
}

pub(crate) fn extent(ino: Ino, chunk: u32) -> Vec<u8> {
    key_with_number(EXTENTS, ino.0, u64::from(chunk))
}

pub(crate) fn extents(ino: Ino) -> Range {
    under(key(EXTENTS, ino.0, 0))
}

pub(crate) fn parse_extent(key: &[u8]) -> Option<(Ino, u32)> {
    let (ino, rest) = take_number(strip(EXTENTS, key)?)?;
    match take_number(rest)? {
        (chunk, []) => Some((Ino(ino), u32::try_from(chunk).ok()?)),
        _ => None,
    }
}

pub(crate) fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    key_with_bytes(XATTRS, ino.0, name)
}

pub(crate) fn xattrs(ino: Ino) -> Range {
    under(key(XATTRS, ino.0, 0))
}

pub(crate) fn parse_xattr(key: &[u8]) -> Option<(Ino, &[u8])> {
    take_number(strip(XATTRS, key)?).map(|(ino, name)| (Ino(ino), name))
}

pub(crate) fn orphan(ino: Ino, session: SessionId) -> Vec<u8> {
    key_with_number(ORPHANS, ino.0, session.0)
}

pub(crate) fn orphans(ino: Ino) -> Range {
    under(key(ORPHANS, ino.0, 0))
}

pub(crate) fn parse_orphan(key: &[u8]) -> Option<(Ino, SessionId)> {
    let (ino, rest) = take_number(strip(ORPHANS, key)?)?;
    match take_number(rest)? {
        (session, []) => Some((Ino(ino), SessionId(session))),
        _ => None,
    }
}

pub(crate) fn trash(ino: Ino) -> Vec<u8> {
    key(TRASH, ino.0, 0)
}

pub(crate) fn parse_trash(key: &[u8]) -> Option<Ino> {
    parse_single(TRASH, key).map(Ino)
}

pub(crate) fn blob(blob: BlobId) -> Vec<u8> {
    key(BLOBS, blob.0, 0)
}

pub(crate) fn parse_blob(key: &[u8]) -> Option<BlobId> {
    parse_single(BLOBS, key).map(BlobId)
}

pub(crate) fn pack(pack: PackId) -> Vec<u8> {
    key(PACKS, u64::from(pack.0), 0)
}

pub(crate) fn parse_pack(key: &[u8]) -> Option<PackId> {
    parse_single(PACKS, key).and_then(|pack| Some(PackId(u32::try_from(pack).ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_of_keys_is_order_of_numbers(
            a in any::<u64>(), b in any::<u64>(), shift_a in 0u32..64, shift_b in 0u32..64, chunk in any::<u32>(),
        ) {
            let (a, b) = (a >> shift_a, b >> shift_b);
            prop_assert_eq!(inode(Ino(a)).cmp(&inode(Ino(b))), a.cmp(&b));
            prop_assert_eq!(parse_inode(&inode(Ino(a))), Some(Ino(a)));
            prop_assert_eq!(parse_extent(&extent(Ino(a), chunk)), Some((Ino(a), chunk)));
            prop_assert_eq!(parse_orphan(&orphan(Ino(a), SessionId(b))), Some((Ino(a), SessionId(b))));
            let (from, until) = extents(Ino(a));
            let inside = extent(Ino(b), chunk);
            prop_assert_eq!(from <= inside && inside < until, a == b);
        }

        #[test]
        fn names_keep_their_order(ino in any::<u64>(), a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(entry(Ino(ino), &a).cmp(&entry(Ino(ino), &b)), a.cmp(&b));
            let key = entry(Ino(ino), &a);
            prop_assert_eq!(parse_entry(&key), Some((Ino(ino), a.as_slice())));
        }

        #[test]
        fn any_key_is_parsed_or_refused(key: Vec<u8>) {
            let _ = (parse_inode(&key), parse_entry(&key), parse_extent(&key), parse_xattr(&key), parse_orphan(&key));
            let _ = (parse_session(&key), parse_trash(&key), parse_blob(&key), parse_pack(&key));
        }
    }
}
