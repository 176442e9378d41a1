//! POSIX access control lists in the kernel's form (`system.posix_acl_*`): version 2, little-endian.
//!
//! What the file system owes the kernel: that a list is well-formed, that it and the mode agree, and that children
//! inherit. Whether somebody may do something is decided by the kernel, and by it alone where there is one; for front ends
//! without, [`Acl::permits_other_than_owner`] decides in the same way.

use crate::errno::{Errno, FsResult};

/// What the names of both lists begin with.
pub const PREFIX: &[u8] = b"system.posix_acl_";
/// Who may do what with a node.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// What is made in a directory inherits this.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    /// Three bits.
    permissions: u16,
    id: u32,
}

/// A well-formed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Reads what the kernel sends. `None` for the empty list, which stands for removal. `EINVAL` for anything
    /// malformed, `EOPNOTSUPP` for another version.
    pub fn parse(value: &[u8]) -> FsResult<Option<Self>> {
        let (header, body) = value.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
        if u32::from_le_bytes(*header) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (entries, rest) = body.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entries = entries
            .iter()
            .map(|&[tag_low, tag_high, low, high, a, b, c, d]| Entry {
                tag: u16::from_le_bytes([tag_low, tag_high]),
                permissions: u16::from_le_bytes([low, high]),
                id: u32::from_le_bytes([a, b, c, d]),
            })
            .collect();
        let acl = Acl(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    /// The kernel's form.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            // Where no id is meant the kernel writes this one.
            let id = if matches!(entry.tag, USER | GROUP) { entry.id } else { UNDEFINED_ID };
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// Owner, named users, group, named groups, mask (needed if anybody is named), others, in this order.
    fn is_valid(&self) -> bool {
        let mut expected = USER_OBJ;
        let mut needs_mask = false;
        for entry in &self.0 {
            if entry.permissions > 7 {
                return false;
            }
            expected = match (entry.tag, expected) {
                (USER_OBJ, USER_OBJ) => USER,
                (USER, USER) if entry.id != UNDEFINED_ID => {
                    needs_mask = true;
                    USER
                }
                (GROUP_OBJ, USER) => GROUP,
                (GROUP, GROUP) if entry.id != UNDEFINED_ID => {
                    needs_mask = true;
                    GROUP
                }
                (MASK, GROUP) => OTHER,
                (OTHER, OTHER) => 0,
                (OTHER, GROUP) if !needs_mask => 0,
                _ => return false,
            };
        }
        expected == 0
    }

    /// The permission bits that this list shows as a mode, and whether it says nothing more than they do.
    pub fn mode(&self) -> (u32, bool) {
        let mut mode = 0;
        let mut mask = None;
        let mut equivalent = true;
        for entry in &self.0 {
            let permissions = u32::from(entry.permissions);
            match entry.tag {
                USER_OBJ => mode |= permissions << 6,
                GROUP_OBJ => mode |= permissions << 3,
                OTHER => mode |= permissions,
                MASK => {
                    mask = Some(permissions);
                    equivalent = false;
                }
                _ => equivalent = false,
            }
        }
        if let Some(mask) = mask {
            mode = mode & !0o070 | mask << 3;
        }
        (mode, equivalent)
    }

    /// Whether somebody who is not the owner has all the permissions in `wanted` (bits as in a mode's last digit).
    ///
    /// A list for which the mode's group class is empty is not asked: then owner, group and others count by the mode.
    pub fn permits_other_than_owner(
        &self,
        user: u32,
        owning_group: u32,
        is_in: impl Fn(u32) -> bool,
        wanted: u32,
    ) -> bool {
        let mask = self.0.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| u32::from(entry.permissions));
        let grants = |entry: &Entry| u32::from(entry.permissions) & wanted == wanted;
        let mut is_in_a_group = false;
        for entry in &self.0 {
            let concerns = match entry.tag {
                USER if entry.id == user => return grants(entry) && mask & wanted == wanted,
                GROUP_OBJ => is_in(owning_group),
                GROUP => is_in(entry.id),
                OTHER => return !is_in_a_group && grants(entry),
                _ => false,
            };
            if concerns {
                is_in_a_group = true;
                // Any of somebody's groups may grant it.
                if grants(entry) {
                    return mask & wanted == wanted;
                }
            }
        }
        false
    }

    /// Makes a default list the access list of a new node that was asked for with `mode`: each limits the other.
    /// Answers the mode's permission bits.
    pub fn restrict(&mut self, mode: u32) -> u32 {
        self.each_class(|permissions, shift| *permissions &= (mode >> shift & 7) as u16);
        self.mode().0
    }

    /// `chmod`: the classes that a mode shows take its bits.
    pub fn set_mode(&mut self, mode: u32) {
        self.each_class(|permissions, shift| *permissions = (mode >> shift & 7) as u16);
    }

    /// Visits the permissions of owner, group class (the mask, or without one the group) and others, each with its
    /// place in a mode.
    fn each_class(&mut self, mut visit: impl FnMut(&mut u16, u32)) {
        let group_class = if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ };
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => visit(&mut entry.permissions, 6),
                OTHER => visit(&mut entry.permissions, 0),
                tag if tag == group_class => visit(&mut entry.permissions, 3),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id });
        Acl(entries.collect()).encode()
    }

    const PLAIN: [(u16, u16, u32); 3] = [(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)];
    const NAMED: [(u16, u16, u32); 5] =
        [(USER_OBJ, 7, 0), (USER, 6, 1000), (GROUP_OBJ, 5, 0), (MASK, 6, 0), (OTHER, 4, 0)];

    #[test]
    fn a_list_without_names_is_a_mode() {
        let parsed = Acl::parse(&acl(&PLAIN)).expect("valid").expect("not empty");
        assert_eq!(parsed.mode(), (0o754, true));
        let named = Acl::parse(&acl(&NAMED)).expect("valid").expect("not empty");
        assert_eq!(named.mode(), (0o764, false), "the mask stands for the group");
    }

    #[test]
    fn junk_is_refused() {
        assert_eq!(Acl::parse(&[]), Err(Errno::EINVAL));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
        assert_eq!(Acl::parse(&acl(&NAMED)[..20]), Err(Errno::EINVAL), "cut in an entry");
        let refused = |entries: &[(u16, u16, u32)]| assert_eq!(Acl::parse(&acl(entries)), Err(Errno::EINVAL));
        refused(&PLAIN[..2]);
        refused(&[PLAIN[1], PLAIN[0], PLAIN[2]]);
        refused(&[(USER_OBJ, 8, 0), PLAIN[1], PLAIN[2]]);
        refused(&[PLAIN[0], (USER, 7, UNDEFINED_ID), PLAIN[1], (MASK, 7, 0), PLAIN[2]]);
        refused(&[PLAIN[0], (USER, 7, 5), PLAIN[1], PLAIN[2]]);
    }

    #[test]
    fn list_and_mode_limit_each_other() {
        let mut named = Acl::parse(&acl(&NAMED)).expect("valid").expect("not empty");
        assert_eq!(named.restrict(0o640), 0o640);
        assert_eq!(named.mode(), (0o640, false));
        named.set_mode(0o777);
        assert_eq!(
            named.encode(),
            acl(&[(USER_OBJ, 7, 0), (USER, 6, 1000), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 7, 0)])
        );
    }

    #[test]
    fn one_entry_decides_and_the_mask_limits_it() {
        let list = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 6, 1000),
            (USER, 0, 1001),
            (GROUP_OBJ, 1, 0),
            (GROUP, 4, 50),
            (GROUP, 7, 51),
            (MASK, 5, 0),
            (OTHER, 2, 0),
        ]);
        let list = Acl::parse(&list).expect("valid").expect("not empty");
        let may =
            |user, groups: &[u32], wanted| list.permits_other_than_owner(user, 9, |id| groups.contains(&id), wanted);
        assert!(may(1000, &[], 4));
        assert!(!may(1000, &[], 2), "the mask");
        assert!(!may(1001, &[50], 4), "named, so groups do not count");
        assert!(may(2000, &[9], 1) && !may(2000, &[9], 4) && !may(2000, &[9], 2), "the owning group, not others");
        assert!(may(2000, &[9, 50], 4) && !may(2000, &[9, 50], 5), "one entry must grant all of it");
        assert!(may(2000, &[51], 5) && !may(2000, &[51], 2));
        assert!(may(2000, &[], 2) && !may(2000, &[], 4), "others are not masked");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() {
                *first = 2;
            }
            if let Ok(Some(acl)) = Acl::parse(&bytes) {
                let _ = acl.mode();
                prop_assert_eq!(Acl::parse(&acl.encode()), Ok(Some(acl)));
            }
        }
    }
}
