//! Entries of one directory as they are known under its lease: names that are there, names that are not, and
//! whether all are known.
//!
//! Only links are kept here, never attributes of children (those have leases of their own). Every change of the
//! directory, and every loss of its lease, moves [`DirectoryCache::epoch`]: an answer that was asked for under another
//! epoch must not be kept.

use std::collections::{BTreeMap, HashMap};

use cairn_types::{FileKind, Ino, Name};

use crate::prefetch::policy::contents::ContentWalk;
use crate::prefetch::policy::names::NameWalk;

/// Most names that are kept of one directory; beyond it the cache starts again from nothing.
const NAMES_MAX: usize = 50_000;

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub ino: Ino,
    /// Unknown for links that were learnt from a change that did not say.
    pub kind: FileKind,
}

/// What the cache says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    Present(Link),
    Absent,
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct DirectoryCache {
    names: BTreeMap<Name, Option<Link>>,
    complete: bool,
    epoch: u64,
    /// Version of the directory after the newest change of this session.
    version: u64,
    /// Names that were changed here and of which the server does not know yet, with the number of changes.
    pending: HashMap<Name, u32>,
    /// All names were asked for since they were forgotten.
    learning: bool,
    walk: NameWalk,
    /// Files in it that are read one after the other.
    pub(crate) contents: ContentWalk,
}

impl DirectoryCache {
    /// Changes whenever entries may have changed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn get(&self, name: &Name) -> Cached {
        match self.names.get(name) {
            Some(Some(link)) => Cached::Present(*link),
            Some(None) => Cached::Absent,
            None if self.complete => Cached::Absent,
            None => Cached::Unknown,
        }
    }

    /// Whether to fetch all `entries` of a directory in which names were asked for that are not known: said once between
    /// two losses of what was known.
    pub(crate) fn is_worth_learning(&mut self, entries: u64) -> bool {
        let worth = !self.complete && !self.learning && self.walk.asks_for_all(entries);
        self.learning |= worth;
        worth
    }

    /// The server does not know yet what was changed of this name here.
    pub(crate) fn is_pending(&self, name: &Name) -> bool {
        self.pending.contains_key(name)
    }

    /// The server has answered for a change of this name.
    pub(crate) fn change_answered(&mut self, name: &Name) {
        if let Some(count) = self.pending.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(name);
            }
        }
    }

    /// A name was found here.
    pub(crate) fn note_hit(&mut self) {
        self.walk.found();
    }

    /// A name was not found here: how many names from it on to ask for; 0 for itself alone.
    pub(crate) fn note_miss(&mut self) -> u32 {
        self.walk.missed()
    }

    /// Forgets everything: the lease is gone, or what happened at the server is not known.
    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.complete = false;
        self.learning = false;
        self.epoch += 1;
    }

    /// A directory that was just made: all its (no) entries are known.
    pub(crate) fn set_empty(&mut self) {
        self.clear();
        self.complete = true;
    }

    /// Keeps the answer to a question, if nothing has changed since `epoch`, when it was asked.
    pub(crate) fn learn(&mut self, epoch: u64, name: Name, link: Option<Link>) {
        if epoch != self.epoch || (self.complete && link.is_none()) || self.is_pending(&name) {
            return;
        }
        self.make_room();
        self.names.insert(name, link);
    }

    /// Keeps a whole listing, if nothing has changed since `epoch`, when its first page was asked for.
    pub(crate) fn learn_all(&mut self, epoch: u64, entries: impl IntoIterator<Item = (Name, Link)>) {
        if epoch != self.epoch {
            return;
        }
        self.names = entries.into_iter().take(NAMES_MAX + 1).map(|(name, link)| (name, Some(link))).collect();
        self.complete = self.names.len() <= NAMES_MAX;
        self.make_room();
    }

    /// A change of this session, after which the directory has `version`: `name` leads to `link` (or nowhere).
    pub(crate) fn change(&mut self, version: u64, name: Name, link: Option<Link>) {
        if version < self.version {
            // Answers have overtaken one another: which of the changes of this name was the last is not known here.
            self.forget_name(&name);
            return;
        }
        self.version = version;
        self.epoch += 1;
        if self.complete && link.is_none() {
            self.names.remove(&name);
            return;
        }
        self.make_room();
        self.names.insert(name, link);
    }

    /// A change that is made here first: `name` leads to `link` (or nowhere).
    pub(crate) fn change_here(&mut self, name: Name, link: Option<Link>) {
        *self.pending.entry(name.clone()).or_default() += 1;
        self.change(self.version, name, link);
    }

    /// A change of this session whose outcome for `name` is not known.
    pub(crate) fn forget_name(&mut self, name: &Name) {
        self.epoch += 1;
        self.complete = false;
        self.names.remove(name);
    }

    fn make_room(&mut self) {
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
            self.complete = false;
        }
    }

    /// Known entries in the order of names after `name`, whether or not others lie between.
    pub(crate) fn known_after(&self, name: &Name) -> impl Iterator<Item = (&Name, Link)> {
        let range = self.names.range::<Name, _>((std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded));
        range.filter_map(|(name, link)| link.map(|link| (name, link)))
    }

    /// All entries in the order of names after `after`, if all are known.
    pub(crate) fn listing(&self, after: Option<&Name>) -> Option<impl Iterator<Item = (&Name, Link)>> {
        if !self.complete {
            return None;
        }
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.names.range::<Name, _>((start, std::ops::Bound::Unbounded));
        Some(range.filter_map(|(name, link)| link.map(|link| (name, link))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("valid")
    }

    fn link(number: u64) -> Link {
        Link { ino: Ino(number), kind: FileKind::Regular }
    }

    #[test]
    fn an_answer_asked_for_before_a_change_is_not_kept() {
        let mut cache = DirectoryCache::default();
        let asked = cache.epoch();
        cache.change(1, name("a"), Some(link(5)));
        cache.learn(asked, name("a"), None);
        assert_eq!(cache.get(&name("a")), Cached::Present(link(5)));
        cache.learn(asked, name("b"), Some(link(6)));
        assert_eq!(cache.get(&name("b")), Cached::Unknown);
        cache.learn(cache.epoch(), name("b"), None);
        assert_eq!(cache.get(&name("b")), Cached::Absent);
    }

    #[test]
    fn a_complete_listing_answers_for_absent_names_and_follows_changes() {
        let mut cache = DirectoryCache::default();
        assert!(cache.listing(None).is_none());
        cache.learn_all(cache.epoch(), [(name("a"), link(1)), (name("c"), link(3))]);
        assert_eq!(cache.get(&name("b")), Cached::Absent);
        cache.change(1, name("b"), Some(link(2)));
        cache.change(2, name("c"), None);
        let names: Vec<_> =
            cache.listing(Some(&name("a"))).expect("complete").map(|(name, link)| (name.clone(), link.ino.0)).collect();
        assert_eq!(names, [(name("b"), 2)]);
        cache.forget_name(&name("a"));
        assert_eq!(cache.get(&name("a")), Cached::Unknown);
        assert!(cache.listing(None).is_none());
    }

    #[test]
    fn an_answer_of_the_server_does_not_undo_what_it_does_not_know_yet() {
        let mut cache = DirectoryCache::default();
        cache.change_here(name("a"), None);
        cache.change_here(name("a"), Some(link(7)));
        cache.learn(cache.epoch(), name("a"), None);
        assert_eq!(cache.get(&name("a")), Cached::Present(link(7)));
        cache.forget_name(&name("a"));
        cache.change_answered(&name("a"));
        assert!(cache.is_pending(&name("a")));
        cache.learn(cache.epoch(), name("a"), None);
        assert_eq!(cache.get(&name("a")), Cached::Unknown);
        cache.change_answered(&name("a"));
        cache.learn(cache.epoch(), name("a"), None);
        assert_eq!(cache.get(&name("a")), Cached::Absent);
    }

    #[test]
    fn changes_whose_answers_overtook_one_another_leave_the_name_unknown() {
        let mut cache = DirectoryCache::default();
        cache.set_empty();
        cache.change(5, name("a"), None);
        cache.change(4, name("a"), Some(link(1)));
        assert_eq!(cache.get(&name("a")), Cached::Unknown);
    }

    #[test]
    fn a_directory_that_is_too_large_is_not_kept_as_complete() {
        let mut cache = DirectoryCache::default();
        let many = (0..NAMES_MAX + 10).map(|number| (name(&format!("{number:08}")), link(number as u64)));
        cache.learn_all(cache.epoch(), many);
        assert!(cache.listing(None).is_none());
        assert_eq!(cache.get(&name("zzz")), Cached::Unknown);
    }
}
