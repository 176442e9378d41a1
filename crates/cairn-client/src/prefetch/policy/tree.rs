//! A walk through a tree of directories: how many to list ahead of it, and whether it reads the files that it comes by.

use std::collections::{HashSet, VecDeque};

use cairn_types::Ino;

/// Directories that were listed last, by which it is seen that another one continues a walk.
const LISTED: usize = 64;
/// Listings in a row that make a walk.
const TREE_STREAK: u32 = 2;
/// Fewest and most directories that are listed ahead of a walk.
const AHEAD_MIN: u32 = 4;
const AHEAD_MAX: u32 = 32;
/// Listings that may have been made for nothing before that counts against making more.
const AHEAD_ALLOWANCE: u64 = 256;
/// Files of listed directories from which on their number says something, and beyond which older ones count half.
const SEEN_MIN: u32 = 4;
const SEEN_MAX: u32 = 256;

/// Recognises a walk through a tree: directories are listed that lie in those listed before. The next ones are then listed ahead of
/// the walk, more each time, and the contents of small files fetched along if those of the directories before were read.
#[derive(Debug, Default)]
pub(crate) struct TreeWalk {
    listed: VecDeque<Ino>,
    streak: u32,
    window: u32,
    /// Listed ahead, and not by the walk yet.
    ahead: HashSet<Ino>,
    fetched: u64,
    used: u64,
    /// Files in directories that were listed, and how many of them were read.
    seen: u32,
    reads: u32,
}

impl TreeWalk {
    /// A directory is being listed, from its start. How many to list ahead.
    pub(crate) fn listed(&mut self, directory: Ino, parent: Option<Ino>) -> u32 {
        self.used += u64::from(self.ahead.remove(&directory));
        let continues = parent.is_some_and(|parent| parent != directory && self.listed.contains(&parent));
        self.streak = if continues { self.streak.saturating_add(1) } else { 0 };
        if !self.listed.contains(&directory) {
            if self.listed.len() == LISTED {
                self.listed.pop_front();
            }
            self.listed.push_back(directory);
        }
        if self.streak < TREE_STREAK {
            self.window = 0;
            self.ahead.clear();
            return 0;
        }
        let wasted = self.fetched.saturating_sub(self.used);
        let useful = wasted <= AHEAD_ALLOWANCE || self.used >= self.fetched / 2;
        self.window = if useful { (self.window * 2).clamp(AHEAD_MIN, AHEAD_MAX) } else { 0 };
        self.window
    }

    /// The directory that was listed last has so many files.
    pub(crate) fn saw_files(&mut self, files: u32) {
        self.seen = self.seen.saturating_add(files);
        while self.seen > SEEN_MAX {
            self.seen /= 2;
            self.reads /= 2;
        }
    }

    /// A small file in this directory is being read from its start.
    pub(crate) fn read(&mut self, directory: Option<Ino>) {
        let of_the_walk = directory.is_some_and(|directory| self.listed.contains(&directory));
        self.reads = (self.reads + u32::from(of_the_walk)).min(SEEN_MAX);
    }

    /// Whether the walk reads the files that it comes by: a good part of them, because some it will come back to.
    pub(crate) fn reads_contents(&self) -> bool {
        self.seen >= SEEN_MIN && self.reads >= self.seen / 3
    }

    /// Notes that a directory will be listed ahead; `false` if that was done already, or enough are.
    pub(crate) fn list_ahead(&mut self, directory: Ino) -> bool {
        if self.ahead.len() >= self.window as usize || self.listed.contains(&directory) {
            return false;
        }
        let new = self.ahead.insert(directory);
        self.fetched += u64::from(new);
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_walk_through_a_tree_is_listed_ahead_and_a_look_here_and_there_is_not() {
        let mut walk = TreeWalk::default();
        assert_eq!(walk.listed(Ino(1), None), 0);
        assert_eq!(walk.listed(Ino(2), Some(Ino(1))), 0);
        assert_eq!(walk.listed(Ino(3), Some(Ino(1))), AHEAD_MIN);
        let noted: Vec<bool> = (4..10).map(|ino| walk.list_ahead(Ino(ino))).collect();
        assert_eq!(noted, [true, true, true, true, false, false]);
        assert_eq!(walk.listed(Ino(4), Some(Ino(1))), 2 * AHEAD_MIN);
        assert!(!walk.list_ahead(Ino(4)), "it was listed");
        assert!(walk.list_ahead(Ino(8)));
        assert_eq!(walk.listed(Ino(100), Some(Ino(99))), 0, "somewhere else");
        assert!(!walk.list_ahead(Ino(101)));
        // A program that looks at directories of one parent, and at none of those below, soon makes no more work.
        let mut waste = TreeWalk::default();
        waste.listed(Ino(1), None);
        let mut ahead = 0;
        for directory in 0..5000u64 {
            let window = waste.listed(Ino(10 + directory), Some(Ino(1)));
            ahead +=
                (0..u64::from(window)).filter(|child| waste.list_ahead(Ino(100_000 + directory * 100 + child))).count();
            waste.ahead.clear();
        }
        assert!(ahead as u64 <= AHEAD_ALLOWANCE + u64::from(AHEAD_MAX), "{ahead} listings for nothing");
    }

    #[test]
    fn contents_are_fetched_along_for_a_walk_that_reads_them() {
        let mut walk = TreeWalk::default();
        for directory in 1..20 {
            walk.listed(Ino(directory), Some(Ino(1)));
            walk.saw_files(10);
            assert_eq!(walk.reads_contents(), directory > 1, "{directory}");
            (0..9).for_each(|_| walk.read(Some(Ino(directory))));
        }
        // A program that lists and reads elsewhere: the compiled files beside the modules that it looks for.
        for directory in 100..140 {
            walk.listed(Ino(directory), Some(Ino(1)));
            walk.saw_files(10);
            (0..9).for_each(|_| walk.read(Some(Ino(1000 + directory))));
        }
        assert!(!walk.reads_contents());
    }

    proptest! {
        /// Whichever directories are listed: never more are under way ahead than the window has, and none that was listed.
        #[test]
        fn no_more_is_listed_ahead_than_the_window_has(listings in prop::collection::vec((2u64..40, 1u64..40), 1..300)) {
            let mut walk = TreeWalk::default();
            for (directory, parent) in listings {
                let window = walk.listed(Ino(directory), Some(Ino(parent)));
                prop_assert!(window <= AHEAD_MAX);
                let ahead: Vec<u64> = (2..80).filter(|ino| walk.list_ahead(Ino(*ino))).collect();
                prop_assert!(ahead.len() <= window as usize);
                prop_assert!(!ahead.contains(&directory));
            }
        }
    }
}
